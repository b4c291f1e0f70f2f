//! What the workers count, and how it is added up.

use std::mem;
use std::ops::Sub;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// The counters of one worker, on cache lines of their own. Only that worker writes them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    pub(crate) published: Counter,
    pub(crate) published_bytes: Counter,
    pub(crate) confirmed: Counter,
    pub(crate) nacked: Counter,
    pub(crate) returned: Counter,
    pub(crate) committed: Counter,
    pub(crate) consumed: Counter,
    pub(crate) consumed_bytes: Counter,
    pub(crate) acked: Counter,
    pub(crate) redelivered: Counter,
    /// When this worker last got something done; monotonic clock, nanoseconds.
    pub(crate) last_progress_ns: Counter,
}

/// A number with a single writer and readers in other threads.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds without a locked instruction: there is one writer.
    pub(crate) fn add(&self, more: u64) {
        self.set(self.value() + more);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The sum of all workers' counters at one time, or the difference of two such sums.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) published: u64,
    pub(crate) published_bytes: u64,
    pub(crate) confirmed: u64,
    pub(crate) nacked: u64,
    pub(crate) returned: u64,
    pub(crate) committed: u64,
    pub(crate) consumed: u64,
    pub(crate) consumed_bytes: u64,
    pub(crate) acked: u64,
    pub(crate) redelivered: u64,
}

impl Totals {
    pub(crate) fn sum<'a>(workers: impl Iterator<Item = &'a Counters>) -> Self {
        workers.fold(Self::default(), |sum, worker| Self {
            published: sum.published + worker.published.value(),
            published_bytes: sum.published_bytes + worker.published_bytes.value(),
            confirmed: sum.confirmed + worker.confirmed.value(),
            nacked: sum.nacked + worker.nacked.value(),
            returned: sum.returned + worker.returned.value(),
            committed: sum.committed + worker.committed.value(),
            consumed: sum.consumed + worker.consumed.value(),
            consumed_bytes: sum.consumed_bytes + worker.consumed_bytes.value(),
            acked: sum.acked + worker.acked.value(),
            redelivered: sum.redelivered + worker.redelivered.value(),
        })
    }
}

impl Sub for Totals {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            published: self.published.saturating_sub(earlier.published),
            published_bytes: self.published_bytes.saturating_sub(earlier.published_bytes),
            confirmed: self.confirmed.saturating_sub(earlier.confirmed),
            nacked: self.nacked.saturating_sub(earlier.nacked),
            returned: self.returned.saturating_sub(earlier.returned),
            committed: self.committed.saturating_sub(earlier.committed),
            consumed: self.consumed.saturating_sub(earlier.consumed),
            consumed_bytes: self.consumed_bytes.saturating_sub(earlier.consumed_bytes),
            acked: self.acked.saturating_sub(earlier.acked),
            redelivered: self.redelivered.saturating_sub(earlier.redelivered),
        }
    }
}

/// Latencies of one worker, in nanoseconds, since they were last collected.
#[derive(Clone, Debug)]
pub(crate) struct Recorder(Arc<Mutex<Histogram<u64>>>);

impl Recorder {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(histogram())))
    }

    /// Access for a batch of records; lock once per batch, not per message.
    pub(crate) fn batch(&self) -> parking_lot::MutexGuard<'_, Histogram<u64>> {
        self.0.lock()
    }
}

/// Adds up recorders without holding any of them for longer than a swap.
#[derive(Debug)]
pub(crate) struct Collector {
    recorders: Vec<Recorder>,
    spare: Histogram<u64>,
    /// What came in since the collection before the last one.
    pub(crate) interval: Histogram<u64>,
    /// What came in since [`Self::restart`].
    pub(crate) total: Histogram<u64>,
}

impl Collector {
    pub(crate) fn new(recorders: Vec<Recorder>) -> Self {
        Self {
            recorders,
            spare: histogram(),
            interval: histogram(),
            total: histogram(),
        }
    }

    /// Whether anybody measures.
    pub(crate) fn is_active(&self) -> bool {
        !self.recorders.is_empty()
    }

    /// Takes over what the workers recorded since the last time.
    pub(crate) fn collect(&mut self) {
        self.interval.reset();
        for recorder in &self.recorders {
            mem::swap(&mut *recorder.batch(), &mut self.spare);
            add(&mut self.interval, &self.spare);
            self.spare.reset();
        }
        add(&mut self.total, &self.interval);
    }

    /// Forgets everything collected so far: the warm-up is over.
    pub(crate) fn restart(&mut self) {
        self.total.reset();
    }
}

/// A histogram from 1 ns to an hour with three significant digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3)
        .expect("the bounds and the precision are constants that the library allows")
}

/// Adds `from`, which has the same bounds, to `into`.
pub(crate) fn add(into: &mut Histogram<u64>, from: &Histogram<u64>) {
    into.add(from)
        .expect("all histograms are made with the same bounds");
}

/// The percentiles that are reported, with their names.
pub(crate) const PERCENTILES: [(&str, f64); 5] = [
    ("p50", 50.0),
    ("p90", 90.0),
    ("p99", 99.0),
    ("p99.9", 99.9),
    ("p99.99", 99.99),
];
