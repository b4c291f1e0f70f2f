//! One queue's rules: what is ready, who gets it, what is out unsettled, and what a return means.
//!
//! A [`Queue`] is a plain struct behind its owner's mutex. It reads no clock, touches no disk and writes no
//! frame: every call takes what happened and appends what follows from it to [`Effects`]. The same calls in
//! the same order give the same effects, as long as its consumers' [`Port`]s answer alike.
//!
//! ```text
//!   enqueue -> ready --dispatch--> unacked --settle(ack, discard)--> gone
//!                ^                    |
//!                +------ requeue -----+
//! ```
//!
//! A long queue keeps its two ends in memory and the messages between them on the disk alone, as ranges of sequence
//! numbers: [`Queue::page_out`] drops messages whose records the log holds, [`Effects::wanted`] says what is to be
//! read back, and [`Queue::paged_in`] takes it. The queue itself reads and writes nothing.
//!
//! [`SeenCache`] remembers the ids of messages for queues and exchanges that take each one once.
//! Messages that are not ready before a time stand in a [`WaitingRoom`] beside the queue.
//!
//! A consumer with a filter gets what its [`Selector`] matches and nothing else, in order. Messages on the disk are looked at where
//! they are: [`Effects::scans`] says what to read, [`Queue::scanned`] takes the matches.
//!
//! Start reading at [`queue`]; `ready` and `level` keep the order, `paging` has the words for what is on the disk, `unacked` keeps
//! the deliveries, `consumers` the turn, `filters` how far each filter has looked.

mod consumers;
mod delayed;
mod filters;
mod level;
mod paging;
mod peek;
pub mod queue;
mod ready;
mod seen;
mod unacked;

pub use consumers::{ConsumerId, Port, Subscription};
pub use delayed::{Doubt, Waiting, WaitingRoom};
pub use filters::{FILTERS_MAX, Selector};
pub use mamba_types::DeathReason;
pub use paging::{LiveRun, PageIn, PageToken, PagedRun, Scan, Scanned, Window};
pub use peek::Peeked;
pub use queue::{
    Delivery, Effects, Fetch, Fetched, Incoming, Moved, Outcome, Overflow, Queue, QueueKind,
    Removed, Retry, RetryOn, Settings, Settled, Stored, SubscribeError, UnackedKey,
};
pub use seen::{Lasting, SeenCache};
