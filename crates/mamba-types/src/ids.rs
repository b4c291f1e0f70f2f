//! Numbers that must not be mistaken for one another.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A channel's number inside its connection; 0 is the connection itself (AMQP 0-9-1, 4.2.3).
    ChannelId(u16)
}

number! {
    /// Server-assigned, per channel, from 1 up; 0 only means "all" in `basic.ack(multiple)`.
    DeliveryTag(u64)
}

number! {
    /// A queue's identity on this node: never reused, not even after deletion and redeclaration.
    QueueId(u64)
}

number! {
    /// A message's place in its queue, in enqueue order, from 1 up and without reuse.
    ///
    /// (queue, sequence) identifies a message for ever.
    Sequence(u64)
}

number! {
    /// An octet offset in the node's message log, counted from the log's beginning of time.
    ///
    /// A state is durable when the log's durable position is at or beyond the position it asked for.
    LogPosition(u64)
}

/// Marks the identity of a queue's waiting room.
const WAITING_ROOM: u64 = 1 << 63;

impl QueueId {
    /// The identity under which the log keeps this queue's messages that are not ready yet, with sequences of their own.
    #[must_use]
    pub const fn waiting_room(self) -> Self {
        Self(self.0 | WAITING_ROOM)
    }

    /// The queue itself, of its waiting room's identity or its own.
    #[must_use]
    pub const fn owner(self) -> Self {
        Self(self.0 & !WAITING_ROOM)
    }
}

impl LogPosition {
    /// What needs no disk at all: always durable.
    pub const NONE: Self = Self(0);
}

impl Sequence {
    /// The sequence that follows this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
