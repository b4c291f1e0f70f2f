//! A queue as operators see it.

use std::sync::{Arc, atomic::Ordering};

use mamba_codec::{content_header, scan_properties};
use mamba_queue::{Peeked, QueueKind};
use mamba_types::{FieldTable, Limits};

use super::{QueueCell, QueueCounts, State, usage::Lasting};
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
    /// When something was last done with it, in milliseconds since 1970.
    pub active_ms: u64,
    /// The part of the last seconds in which its consumers could take what there was, from 0 to 1; 0 without consumers.
    pub consumer_capacity: f64,
    /// Ready messages and deliveries out that outlive a restart; `None` if only some of them do.
    pub persistent: Option<u64>,
    /// Octets of their bodies.
    pub persistent_bytes: Option<u64>,
    /// The timestamp property of the next message, in seconds since 1970, if it is in memory and has one.
    pub head_timestamp: Option<u64>,
}

/// What of a queue can be added up over queues; as in [`QueueView`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gauges {
    pub(crate) counts: QueueCounts,
    pub(crate) paged: u64,
    pub(crate) resident_bytes: u64,
    pub(crate) persistent: Option<u64>,
    pub(crate) persistent_bytes: Option<u64>,
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
        let Gauges {
            counts,
            paged,
            resident_bytes,
            persistent,
            persistent_bytes,
        } = self.gauges_of(&state);
        let now_ms = self.clock.load(Ordering::Relaxed);
        let mut view = QueueView {
            active_ms: state.usage.active_ms,
            consumer_capacity: match counts.consumers {
                0 => 0.0,
                _ => state.usage.capacity(now_ms),
            },
            persistent,
            persistent_bytes,
            head_timestamp: None,
            counts,
            paged,
            resident_bytes,
            exclusive_consumer: exclusive.map(|(port, ..)| tag(port)),
            active_consumer: active.map(|(port, ..)| tag(port)),
            stats: self.stats.read(),
        };
        let head = queue.peek(0, 1).pop();
        drop(state);
        if let Some(Peeked::Message(stored)) = head {
            view.head_timestamp = timestamp_of(stored.message.header());
        }
        view
    }

    fn gauges_of(&self, state: &State) -> Gauges {
        let counts = self.counts_of(state);
        let lasts = match (self.declaration.settings.kind, state.usage.lasting) {
            (QueueKind::Quorum, _) => Some(true),
            (QueueKind::Classic, _) if !self.declaration.durable => Some(false),
            (QueueKind::Classic, Lasting::All | Lasting::Unknown) => Some(true),
            (QueueKind::Classic, Lasting::Nothing) => Some(false),
            (QueueKind::Classic, Lasting::Some) => None,
        };
        let lasting = |count: u64| lasts.map(|lasts| if lasts { count } else { 0 });
        Gauges {
            counts,
            paged: state.queue.paged_count(),
            resident_bytes: state.queue.resident_bytes() as u64,
            persistent: lasting(counts.ready + counts.unacked),
            persistent_bytes: lasting(counts.ready_bytes + counts.unacked_bytes),
        }
    }

    /// What can be added up over queues.
    pub(crate) fn gauges(&self) -> Gauges {
        let state = self.state.lock();
        self.gauges_of(&state)
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

/// The timestamp property of a message with this content header.
fn timestamp_of(header: &[u8]) -> Option<u64> {
    let properties = content_header(header).ok()?.properties;
    scan_properties(properties, &Limits::default())
        .ok()?
        .timestamp
}
