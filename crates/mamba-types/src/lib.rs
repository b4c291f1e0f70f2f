//! The vocabulary every other crate shares: identifiers, reply codes, field tables, limits and the
//! message record.
//!
//! Owns the in-memory and on-disk shape of a message ([`message`]), so that one buffer serves the queue,
//! the log and the outgoing frames. Knows nothing of frames, routing, queues or files. Start reading at
//! [`message::Message`].

pub mod ids;
pub mod limits;
pub mod message;
pub mod reply;
pub mod table;

pub use ids::{ChannelId, DeliveryTag, LogPosition, QueueId, Sequence};
pub use limits::Limits;
pub use message::{DeathReason, Message, RecordMeta};
pub use reply::{HardError, SoftError, Violation};
pub use table::{FieldTable, FieldValue};
