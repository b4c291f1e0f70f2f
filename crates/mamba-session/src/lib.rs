//! Connection and channel state machines without I/O.
//!
//! Owns everything that AMQP 0-9-1 says about the order of frames and methods: the handshake, tuning, heartbeats,
//! opening and closing of channels and of the connection, and the assembly of contents. Also owns the two lists
//! every channel needs, publisher confirms ([`ConfirmTracker`]) and outstanding deliveries ([`Unacked`]). Knows
//! nothing of queues, disks or sockets and reads no clock: octets and `now` come in, events and octets go out.
//! Start reading at [`Session::receive`].

#![warn(clippy::wildcard_enum_match_arm)]

mod channels;
mod confirm;
mod content;
mod event;
mod heartbeat;
mod sasl;
mod session;
mod unacked;

pub use confirm::{Confirm, ConfirmTracker};
pub use content::{Assembled, Content, Publish};
pub use event::{
    Capabilities, Credentials, DropReason, Event, Login, Received, Scope, Secret, Settlement,
    SettlementKind, TimerOutcome,
};
pub use session::{Session, SessionConfig, SessionState};
pub use unacked::{Unacked, UnknownTag};
