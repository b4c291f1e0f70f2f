//! Acknowledgement timeouts (`spec: semantics §17`): a delivery that nobody settles in time ends its consumer or its channel.
//!
//! Each delivery carries the time it is due; nothing else is kept. The connection wakes when the earliest may be over, looks
//! through what is out, and sleeps until the next. Without a timeout it never does.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use mamba_codec::Output;
use mamba_queue::{QueueKind, Settings};
use mamba_session::SettlementKind;
use mamba_types::{ChannelId, Limits, SoftError, Violation};

use super::{Connection, Core, Failure, Now, channel::Held};
use crate::outbox::ConsumerSlot;

/// What a quorum queue's deliveries have when nobody says anything else, in milliseconds.
const QUORUM_TIMEOUT_MS: u64 = 1_800_000;
/// Milliseconds in the unit of [`Due`].
const TICK_MS: u64 = 100;

/// When a delivery has to be settled, in tenths of a second since its connection began: 13 years fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Due(NonZeroU32);

impl Due {
    pub(crate) const NEVER: Self = Self(NonZeroU32::MAX);
}

/// A connection's view of the time.
#[derive(Debug)]
pub(crate) struct Deadlines {
    began: Instant,
    /// The time of this turn.
    pub(crate) now: Instant,
    /// Nothing is due before.
    next: Due,
}

impl Deadlines {
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            began: now,
            now,
            next: Due::NEVER,
        }
    }

    /// When a delivery that leaves now has to be settled, with the timeout in milliseconds.
    pub(crate) fn due(&mut self, timeout_ms: Option<u64>) -> Due {
        let Some(timeout_ms) = timeout_ms else {
            return Due::NEVER;
        };
        let due = self
            .ticks(self.now)
            .saturating_add(timeout_ms.div_ceil(TICK_MS));
        let due = u32::try_from(due).ok().and_then(NonZeroU32::new);
        let due = due.map_or(Due::NEVER, Due);
        self.next = self.next.min(due);
        due
    }

    /// Deliveries are back for which nobody looked.
    pub(crate) fn expect(&mut self, due: Due) {
        self.next = self.next.min(due);
    }

    /// When to look next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let ticks = u64::from(self.next.0.get());
        (self.next != Due::NEVER)
            .then(|| {
                self.began
                    .checked_add(Duration::from_millis(ticks * TICK_MS))
            })
            .flatten()
    }

    fn ticks(&self, at: Instant) -> u64 {
        let elapsed = at.saturating_duration_since(self.began).as_millis();
        u64::try_from(elapsed).unwrap_or(u64::MAX) / TICK_MS
    }
}

/// The timeout of a delivery in milliseconds: the consumer's, else the queue's, else the node's. 0 is none.
pub(crate) fn timeout_ms(
    of_consumer: Option<u64>,
    settings: &Settings,
    limits: &Limits,
) -> Option<u64> {
    let of_kind = (settings.kind == QueueKind::Quorum).then_some(QUORUM_TIMEOUT_MS);
    of_consumer
        .or(settings.consumer_timeout_ms)
        .or(limits.consumer_timeout_ms)
        .or(of_kind)
        .filter(|timeout_ms| *timeout_ms > 0)
}

impl Connection {
    /// Ends what held a delivery for too long: the consumer of a quorum queue if its client understands that, else
    /// the channel.
    pub(super) fn end_late(&mut self, now: Now) {
        if self
            .core
            .deadlines
            .deadline()
            .is_none_or(|at| at > now.instant)
        {
            return;
        }
        self.core.flush();
        for (id, queue) in self.core.late(now.instant) {
            if !self.core.channels.contains_key(&id) {
                continue;
            }
            let Some(cell) = self.core.queues.get(queue).cloned() else {
                continue;
            };
            let timeout_ms = self.core.timeout_of(id, queue).unwrap_or_default();
            tracing::warn!(
                connection = self.core.id, channel = id.0, vhost = %cell.vhost, queue = %cell.name, timeout_ms,
                "a delivery was not acknowledged in time"
            );
            if cell.is_quorum() && self.core.able.consumer_cancel_notify {
                self.core.cancel_late(id, queue, &mut self.out);
            } else {
                let text = format!(
                    "delivery acknowledgement on channel {} timed out. Timeout value used: {timeout_ms} ms. This timeout value can be configured, see consumers doc guide to learn more",
                    id.0
                );
                let failure = Failure {
                    violation: Violation::channel(SoftError::PreconditionFailed, text),
                    class: 0,
                    method: 0,
                };
                self.fail(id, &failure, now);
            }
        }
    }
}

impl Core {
    /// Channels and queues with deliveries whose time is over, and sets when to look again.
    fn late(&mut self, now: Instant) -> Vec<(ChannelId, u32)> {
        let ticks = self.deadlines.ticks(now);
        let mut next = Due::NEVER;
        let mut late: Vec<(ChannelId, u32)> = Vec::new();
        for (id, channel) in &self.channels {
            for (_, held) in channel.unacked.iter() {
                if u64::from(held.due.0.get()) > ticks {
                    next = next.min(held.due);
                } else if !late.contains(&(*id, held.queue)) {
                    late.push((*id, held.queue));
                }
            }
        }
        self.deadlines.next = next;
        late
    }

    fn consumers_of(&self, id: ChannelId, queue: u32) -> Vec<ConsumerSlot> {
        let Some(channel) = self.channels.get(&id) else {
            return Vec::new();
        };
        let of_queue = |slot: &ConsumerSlot| {
            self.consumers
                .get(*slot)
                .is_some_and(|consumer| consumer.queue == queue)
        };
        channel
            .consumers
            .values()
            .copied()
            .filter(of_queue)
            .collect()
    }

    fn timeout_of(&self, id: ChannelId, queue: u32) -> Option<u64> {
        let cell = self.queues.get(queue)?;
        let limits = &self.broker.config.limits;
        let own = self.consumers_of(id, queue).into_iter();
        own.filter_map(|slot| self.consumers.get(slot)?.timeout_ms)
            .min()
            .or_else(|| timeout_ms(None, &cell.settings(), limits))
    }

    /// Cancels the channel's consumers of a queue and gives back what it holds of it. Later acknowledgements of that mean
    /// nothing.
    fn cancel_late(&mut self, id: ChannelId, queue: u32, out: &mut Output) {
        let slots = self.consumers_of(id, queue);
        self.recall(&slots);
        let mut held: Vec<Held> = Vec::new();
        if let Some(channel) = self.channels.get_mut(&id) {
            for one in channel.unacked.iter_mut().filter(|one| one.queue == queue) {
                held.push(std::mem::replace(one, Held::given_back(one)));
            }
        }
        self.gather(id, held.into_iter(), SettlementKind::Failed);
        self.flush_settlements();
        self.end_consumers(slots, out);
    }
}
