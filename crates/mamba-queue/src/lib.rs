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
//! Start reading at [`queue`]; `ready` keeps the order, `unacked` the deliveries, `consumers` the turn.

mod consumers;
pub mod queue;
mod ready;
mod unacked;

pub use consumers::{ConsumerId, Port, Subscription};
pub use queue::{
    DeathReason, Delivery, Effects, Fetched, Incoming, Outcome, Overflow, Queue, QueueKind,
    Removed, Settings, Settled, Stored, SubscribeError, UnackedKey,
};
