//! The broker: virtual hosts, queues, consumers and permissions, joined to sessions, routing and the store.
//!
//! Knows no sockets: a [`connection::Connection`] takes octets and gives octets, and whoever owns the socket
//! drives it. Start reading at [`connection`] for a client's way through the broker, at [`queue_cell`] for what
//! happens under a queue's lock, at [`broker`] for the node.

mod access;
mod arguments;
pub mod audit;
pub mod broker;
mod commit;
pub mod connection;
mod dead_letters;
mod death;
pub mod deaths;
pub mod deduplication;
pub mod definitions;
pub mod events;
pub mod exchange_stats;
mod filter;
mod lazy_properties;
pub mod metrics;
pub mod oauth;
pub mod operator;
pub mod outbox;
mod own;
mod pacing;
mod paging;
pub mod parameters;
pub mod peek;
pub mod policies;
pub mod queue_cell;
pub mod registry;
pub mod tenants;
mod timers;
mod topology;
mod transport;
pub mod vhost;
mod views;

pub use access::{Account, Attempt, LoginRefused};
pub use broker::{Alarms, Broker, BrokerConfig};
pub use connection::{Connection, Direct, Now};
pub use metrics::Snapshot;
pub use timers::Doorbell;
pub use transport::{PeerCertificate, TlsFacts};
