//! Exchanges and bindings to sets of queues, for one virtual host.
//!
//! Owns the exchanges of a virtual host, their bindings and the indexes that find a message's queues without
//! looking at every binding. Never sees frames or message bodies; knows of a queue only what [`QueueHandle`]
//! says. Permissions, exclusive owners and durable definitions are the caller's: the checks that have to run
//! between the caller's own (`spec: errors §8`) are separate functions, here and in [`check`].
//!
//! Start reading at [`RoutingTable::route`]: it walks from exchange to exchange and asks each one's index
//! (direct, topic, headers, …) for destinations.

mod binding;
pub mod check;
mod deduplication;
mod exchange;
mod hashing;
mod headers;
mod route;
mod slots;
mod table;
mod topic;

pub use binding::{Binding, Destination};
pub use exchange::{DELAYED, Exchange, ExchangeKind, ExchangeSpec};
pub use route::{MessageProperties, NoProperties, RouteInput, Routes, Stamp};
pub use table::{
    Bound, Declared, QueueHandle, Removed, RemovedBinding, RemovedExchange, RoutingTable,
    TRACE_EXCHANGE,
};
pub use topic::TOPIC_HASH_WORDS_MAX;
