//! What became of a queue's messages, counted per batch.

use std::sync::atomic::{AtomicU64, Ordering};

use mamba_queue::Delivery;

use crate::registry::MessageStats;

/// A queue's counters since it was made or recovered.
#[derive(Debug, Default)]
pub(crate) struct QueueStats {
    publish: AtomicU64,
    deliver: AtomicU64,
    deliver_no_ack: AtomicU64,
    get: AtomicU64,
    get_no_ack: AtomicU64,
    get_empty: AtomicU64,
    redeliver: AtomicU64,
    ack: AtomicU64,
}

fn add(counter: &AtomicU64, count: u64) {
    if count != 0 {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

impl QueueStats {
    /// So many messages came.
    pub(crate) fn published(&self, count: u64) {
        add(&self.publish, count);
    }

    /// These go to consumers.
    pub(crate) fn delivered(&self, deliveries: &[Delivery]) {
        let (mut no_ack, mut redelivered) = (0, 0);
        for delivery in deliveries {
            no_ack += u64::from(delivery.key.is_none());
            redelivered += u64::from(delivery.stored.redelivered);
        }
        add(&self.deliver, deliveries.len() as u64 - no_ack);
        add(&self.deliver_no_ack, no_ack);
        add(&self.redeliver, redelivered);
    }

    /// A `basic.get` took one.
    pub(crate) fn got(&self, no_ack: bool, redelivered: bool) {
        add(if no_ack { &self.get_no_ack } else { &self.get }, 1);
        add(&self.redeliver, u64::from(redelivered));
    }

    /// A `basic.get` found nothing.
    pub(crate) fn found_empty(&self) {
        add(&self.get_empty, 1);
    }

    /// So many were acknowledged.
    pub(crate) fn acknowledged(&self, count: u64) {
        add(&self.ack, count);
    }

    /// At this moment.
    pub(crate) fn read(&self) -> MessageStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MessageStats {
            publish: read(&self.publish),
            deliver: read(&self.deliver),
            deliver_no_ack: read(&self.deliver_no_ack),
            get: read(&self.get),
            get_no_ack: read(&self.get_no_ack),
            get_empty: read(&self.get_empty),
            redeliver: read(&self.redeliver),
            ack: read(&self.ack),
            ..MessageStats::default()
        }
    }
}
