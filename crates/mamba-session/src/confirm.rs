//! Publisher confirms of one channel.

use std::collections::VecDeque;

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
///
/// A publish waits for its own log position and for every publish before it, so its effective position is the
/// largest one so far. Neighbours with the same verdict and effective position share one entry.
#[derive(Debug, Default)]
pub struct ConfirmTracker {
    runs: VecDeque<Run>,
    /// Sequence number of the newest publish.
    newest: u64,
    /// Publishes in `runs`.
    pending: u64,
}

#[derive(Debug)]
struct Run {
    position: LogPosition,
    nack: bool,
    count: u64,
}

impl ConfirmTracker {
    /// Nothing published; the first sequence number is 1.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A publish that is safe once the log is durable up to `position`; returns its sequence number.
    pub fn published(&mut self, position: LogPosition) -> u64 {
        self.push(position, false)
    }

    /// A publish that a queue refused; returns its sequence number.
    pub fn rejected(&mut self) -> u64 {
        self.push(LogPosition::NONE, true)
    }

    /// The log is durable up to `position`: hands out the confirms that are due, in order of sequence numbers.
    pub fn durable(&mut self, position: LogPosition, mut confirm: impl FnMut(Confirm)) {
        while let Some(run) = self.runs.front()
            && run.position <= position
        {
            let nack = run.nack;
            let mut covered = 0;
            while let Some(run) = self.runs.front()
                && run.position <= position
                && run.nack == nack
            {
                covered += run.count;
                self.runs.pop_front();
            }
            self.pending -= covered;
            confirm(Confirm {
                tag: DeliveryTag(self.newest - self.pending),
                multiple: covered > 1,
                nack,
            });
        }
        if self.runs.is_empty() && self.runs.capacity() > KEPT {
            self.runs = VecDeque::new();
        }
    }

    /// The log position the oldest unconfirmed publish waits for.
    #[must_use]
    pub fn waiting_for(&self) -> Option<LogPosition> {
        self.runs.front().map(|run| run.position)
    }

    /// Publishes not confirmed yet.
    #[must_use]
    pub const fn pending(&self) -> u64 {
        self.pending
    }

    fn push(&mut self, position: LogPosition, nack: bool) -> u64 {
        self.newest += 1;
        self.pending += 1;
        let mut position = position;
        if let Some(last) = self.runs.back_mut() {
            position = position.max(last.position);
            if last.position == position && last.nack == nack {
                last.count += 1;
                return self.newest;
            }
        }
        self.runs.push_back(Run {
            position,
            nack,
            count: 1,
        });
        self.newest
    }
}

/// Entries whose memory stays between bursts.
const KEPT: usize = 1024;
