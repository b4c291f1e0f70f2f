//! Publisher confirms of one channel.

use mamba_types::{DeliveryTag, LogPosition};

/// One `basic.ack` or `basic.nack` to the publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirm {
    /// Sequence number of the last publish it covers.
    pub tag: DeliveryTag,
    /// Covers everything up to `tag` that was not covered before.
    pub multiple: bool,
    /// Negative.
    pub nack: bool,
}

/// Publishes in confirm mode that are not confirmed yet, in order.
#[derive(Debug, Default)]
pub struct ConfirmTracker {}

impl ConfirmTracker {
    /// Nothing published; the first sequence number is 1.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A publish that is safe once the log is durable up to `position`; returns its sequence number.
    pub fn published(&mut self, position: LogPosition) -> u64 {
        let _ = position;
        todo!()
    }

    /// A publish that a queue refused; returns its sequence number.
    pub fn rejected(&mut self) -> u64 {
        todo!()
    }

    /// The log is durable up to `position`: hands out the confirms that are due, in order of sequence numbers.
    pub fn durable(&mut self, position: LogPosition, confirm: impl FnMut(Confirm)) {
        let _ = (position, confirm);
        todo!()
    }

    /// The log position the oldest unconfirmed publish waits for.
    #[must_use]
    pub fn waiting_for(&self) -> Option<LogPosition> {
        todo!()
    }

    /// Publishes not confirmed yet.
    #[must_use]
    pub fn pending(&self) -> u64 {
        todo!()
    }
}
