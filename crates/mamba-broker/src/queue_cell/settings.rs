//! What holds for a queue: its arguments and its policies joined, changed while it works (`spec: semantics §23`).

use std::sync::{Arc, atomic::Ordering};

use mamba_policy::{DeadLetterStrategy, PolicySet};
use mamba_queue::{Overflow, QueueKind, Settings};

use super::{Declaration, QueueCell};
use crate::arguments;

/// Where a queue's dead letters go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeadLetterTarget {
    /// The exchange; it need not exist.
    pub(crate) exchange: String,
    /// The routing key they get; `None`: those they came with.
    pub(crate) routing_key: Option<String>,
    /// A letter that finds no queue, or is refused, waits and tries again: `x-dead-letter-strategy: at-least-once`
    /// in a queue that refuses messages itself when it is full.
    pub(crate) at_least_once: bool,
}

/// Everything about a queue that policies have a say in.
pub(super) struct Effective {
    /// What its state machine knows.
    pub(super) settings: Settings,
    pub(super) dead_letter_target: Option<Arc<DeadLetterTarget>>,
    /// 0: for ever.
    pub(super) expires_ms: u64,
}

impl Effective {
    pub(super) fn of(declaration: &Declaration, name: &str, policies: &PolicySet) -> Self {
        let declared = declaration.settings;
        let queue_type = arguments::queue_type(declared.kind);
        let joined = policies.queue_settings(name, queue_type, &declaration.arguments);
        let settings = arguments::effective(declared, &joined);
        let routing_key = joined.dead_letter_routing_key.map(|key| key.value);
        let strategy = joined.dead_letter_strategy.map(|strategy| strategy.value);
        // A queue that drops its oldest messages instead has no room for letters that nobody takes.
        let at_least_once = strategy == Some(DeadLetterStrategy::AtLeastOnce)
            && declared.kind == QueueKind::Quorum
            && settings.overflow == Overflow::RejectPublish;
        Self {
            settings,
            dead_letter_target: joined.dead_letter_exchange.map(|exchange| {
                Arc::new(DeadLetterTarget {
                    exchange: exchange.value,
                    routing_key,
                    at_least_once,
                })
            }),
            expires_ms: joined.expires_ms.map_or(0, |expires| expires.value),
        }
    }
}

impl QueueCell {
    /// Lets these policies hold from now on: what is too old or too much by them goes at once.
    pub(crate) fn apply_policies(self: &Arc<Self>, policies: &PolicySet) {
        let Effective {
            settings,
            dead_letter_target,
            expires_ms,
        } = Effective::of(&self.declaration, &self.name, policies);
        // Only one at a time applies policies, so that nothing of this changes in between.
        if *self.dead_letter_target.read() != dead_letter_target {
            *self.dead_letter_target.write() = dead_letter_target;
        }
        if *self.state.lock().queue.settings() != settings {
            let counts_returns = settings.counts_returns();
            self.counts_returns.store(counts_returns, Ordering::Release);
            self.change(|queue, _| queue.configure(settings));
        }
        if self.expires_ms.swap(expires_ms, Ordering::AcqRel) != expires_ms {
            self.renew_lease();
        }
    }

    /// What its state machine keeps to now.
    #[must_use]
    pub fn settings(&self) -> Settings {
        *self.state.lock().queue.settings()
    }

    /// Whether its messages say how often they came back.
    pub(crate) fn counts_returns(&self) -> bool {
        self.counts_returns.load(Ordering::Acquire)
    }

    /// Where its dead letters go now.
    pub(crate) fn dead_letter_target(&self) -> Option<Arc<DeadLetterTarget>> {
        self.dead_letter_target.read().clone()
    }

    /// How long it may be unused, in milliseconds.
    #[must_use]
    pub fn expires_ms(&self) -> Option<u64> {
        match self.expires_ms.load(Ordering::Acquire) {
            0 => None,
            expires_ms => Some(expires_ms),
        }
    }
}
