//! How messages died, over all queues of the node.

use std::sync::atomic::{AtomicU64, Ordering};

use mamba_queue::QueueKind;
use mamba_types::DeathReason;

/// What became of a message that died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// There is no dead-letter exchange: dropped.
    Disabled,
    /// Published to the dead-letter exchange.
    AtMostOnce,
    /// The same, and kept until a queue has it.
    AtLeastOnce,
}

impl Strategy {
    const ALL: [Self; 3] = [Self::Disabled, Self::AtMostOnce, Self::AtLeastOnce];

    /// As RabbitMQ's metrics name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::AtMostOnce => "at_most_once",
            Self::AtLeastOnce => "at_least_once",
        }
    }
}

/// So many messages died in this way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeathCount {
    /// Why.
    pub reason: DeathReason,
    /// In queues of this kind.
    pub kind: QueueKind,
    /// What became of them.
    pub strategy: Strategy,
    /// How many, since the start.
    pub count: u64,
}

/// Why messages die, in the order of the reasons' numbers.
pub(crate) const DEATH_REASONS: [DeathReason; 4] = [
    DeathReason::Rejected,
    DeathReason::DeliveryLimit,
    DeathReason::Expired,
    DeathReason::MaxLength,
];
const KINDS: [QueueKind; 2] = [QueueKind::Classic, QueueKind::Quorum];

/// Counters since the start: added to once per batch of deaths.
#[derive(Debug, Default)]
pub(crate) struct Deaths {
    counts: [AtomicU64; DEATH_REASONS.len() * KINDS.len() * Strategy::ALL.len()],
    confirmed: AtomicU64,
}

const fn place(reason: DeathReason, kind: QueueKind, strategy: Strategy) -> usize {
    (reason as usize * KINDS.len() + kind as usize) * Strategy::ALL.len() + strategy as usize
}

impl Deaths {
    /// `count` messages died.
    pub(crate) fn add(&self, reason: DeathReason, kind: QueueKind, strategy: Strategy, count: u64) {
        if count > 0 {
            self.counts[place(reason, kind, strategy)].fetch_add(count, Ordering::Relaxed);
        }
    }

    /// `count` letters that are kept until a queue has them have been taken.
    pub(crate) fn confirm(&self, count: u64) {
        if count > 0 {
            self.confirmed.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Letters that were kept until a queue had them.
    pub(crate) fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::Relaxed)
    }

    /// Every combination.
    pub(crate) fn read(&self) -> Vec<DeathCount> {
        let mut all = Vec::with_capacity(self.counts.len());
        for reason in DEATH_REASONS {
            for kind in KINDS {
                for strategy in Strategy::ALL {
                    all.push(DeathCount {
                        reason,
                        kind,
                        strategy,
                        count: self.counts[place(reason, kind, strategy)].load(Ordering::Relaxed),
                    });
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_die_has_a_counter_of_its_own() {
        let deaths = Deaths::default();
        for (number, way) in (1..).zip(deaths.read()) {
            deaths.add(way.reason, way.kind, way.strategy, number);
        }
        let counts: Vec<u64> = deaths.read().iter().map(|way| way.count).collect();
        assert_eq!(counts, (1..=24).collect::<Vec<u64>>());
    }
}
