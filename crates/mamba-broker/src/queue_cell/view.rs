//! A queue as operators see it.

use std::sync::Arc;

use mamba_types::FieldTable;

use super::{QueueCell, QueueCounts};
use crate::registry::MessageStats;

/// A queue at one moment.
#[derive(Clone, Debug)]
pub struct QueueView {
    /// Messages and consumers.
    pub counts: QueueCounts,
    /// Ready messages that are on the disk only.
    pub paged: u64,
    /// Octets of the records of ready messages in memory.
    pub resident_bytes: u64,
    /// The consumer that has the queue for itself.
    pub exclusive_consumer: Option<Arc<str>>,
    /// With single active consumer: the one that gets messages.
    pub active_consumer: Option<Arc<str>>,
    /// What its messages became.
    pub stats: MessageStats,
}

/// A consumer at one moment.
#[derive(Clone, Debug)]
pub struct ConsumerView {
    /// Its tag.
    pub tag: Arc<str>,
    /// Its connection's number on this node.
    pub connection: u64,
    /// Its channel's number.
    pub channel: u16,
    /// Deliveries have to be acknowledged.
    pub ack_required: bool,
    /// It has the queue for itself.
    pub exclusive: bool,
    /// It gets messages; with single active consumer, only one does.
    pub active: bool,
    /// The queue has single active consumer.
    pub single_active: bool,
    /// Prefetch count; 0 means none.
    pub prefetch: u16,
    /// Milliseconds it has to settle a delivery; `None`: any time.
    pub timeout_ms: Option<u64>,
    /// What `basic.consume` said.
    pub arguments: FieldTable,
}

impl ConsumerView {
    /// `up`, or whether it is the one that gets messages.
    #[must_use]
    pub const fn activity_status(&self) -> &'static str {
        match (self.single_active, self.active) {
            (false, _) => "up",
            (true, true) => "single_active",
            (true, false) => "waiting",
        }
    }
}

impl QueueCell {
    /// The queue at this moment.
    #[must_use]
    pub fn view(&self) -> QueueView {
        let state = self.state.lock();
        let queue = &state.queue;
        let tag = |port: &crate::outbox::ConsumerPort| Arc::clone(&port.about.tag);
        let exclusive = queue
            .subscriptions()
            .find(|(_, subscription, _)| subscription.exclusive);
        let active = queue
            .subscriptions()
            .find(|(_, _, active)| *active)
            .filter(|_| queue.settings().single_active_consumer);
        QueueView {
            counts: self.counts_of(&state),
            paged: queue.paged_count(),
            resident_bytes: queue.resident_bytes() as u64,
            exclusive_consumer: exclusive.map(|(port, ..)| tag(port)),
            active_consumer: active.map(|(port, ..)| tag(port)),
            stats: self.stats.read(),
        }
    }

    /// What its messages became, without the queue's lock.
    #[must_use]
    pub fn stats(&self) -> MessageStats {
        self.stats.read()
    }

    /// Its consumers, in no particular order.
    #[must_use]
    pub fn consumers(&self) -> Vec<ConsumerView> {
        let state = self.state.lock();
        let single_active = state.queue.settings().single_active_consumer;
        let views = state.queue.subscriptions();
        views
            .map(|(port, subscription, active)| ConsumerView {
                tag: Arc::clone(&port.about.tag),
                connection: port.outbox.connection,
                channel: port.about.channel.0,
                ack_required: !subscription.no_ack,
                exclusive: subscription.exclusive,
                active,
                single_active,
                prefetch: port.about.prefetch,
                timeout_ms: port.about.timeout_ms,
                arguments: port.about.arguments.clone(),
            })
            .collect()
    }
}
