//! Publishers give way to consumers that could keep up.
//!
//! When a queue with consumers grows, the connection that published stops reading for a moment, until the queue
//! is short again or the moment is over. If the moment did not help, because the consumers themselves are slow,
//! the connection leaves out more and more moments, so that a slow consumer costs a fast publisher next to
//! nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{outbox::Outbox, queue_cell::QueueCell};

/// Ready messages above which a queue asks its publishers to wait…
pub(crate) const LONG_MESSAGES: usize = 4096;
/// … or octets of ready bodies.
pub(crate) const LONG_BYTES: u64 = 16 << 20;
/// Ready messages at which they go on…
const SHORT_MESSAGES: usize = 1024;
/// … if there are no more octets than this.
const SHORT_BYTES: u64 = 4 << 20;
/// Longest moment.
const MOMENT: Duration = Duration::from_millis(10);
/// Most turns left out between two moments that did not help.
const SKIP_MAX: u32 = 1024;

/// A publisher's place in a queue's list of those that wait.
#[derive(Debug)]
pub(crate) struct Waiter {
    outbox: Arc<Outbox>,
    released: AtomicBool,
}

impl Waiter {
    pub(crate) fn release(&self) {
        self.released.store(true, Ordering::Release);
        self.outbox.ring();
    }
}

/// Whether a queue is short enough for its publishers to go on.
pub(crate) const fn is_short(messages: usize, bytes: u64) -> bool {
    messages <= SHORT_MESSAGES && bytes <= SHORT_BYTES
}

#[derive(Debug)]
struct Pause {
    queue: Arc<QueueCell>,
    waiter: Arc<Waiter>,
    until: Instant,
    ready_before: u64,
    /// Messages published in the turn before the pause.
    published: u64,
}

/// One connection's pacing.
#[derive(Debug, Default)]
pub(crate) struct Pacing {
    /// The longest queue met in this turn, with the messages it got from us.
    long: Option<(Arc<QueueCell>, u64)>,
    pause: Option<Pause>,
    skip: u32,
    skipped: u32,
}

impl Pacing {
    /// A queue has grown long under this connection's publishes.
    pub(crate) fn note_long(&mut self, queue: &Arc<QueueCell>, published: usize) {
        let published = published as u64;
        match &mut self.long {
            Some((known, count)) if Arc::ptr_eq(known, queue) => *count += published,
            _ => self.long = Some((Arc::clone(queue), published)),
        }
    }

    /// The turn is over: pauses if a queue was long and a pause may help.
    pub(crate) fn end_turn(&mut self, outbox: &Arc<Outbox>, now: Instant) {
        let Some((queue, published)) = self.long.take() else {
            return;
        };
        if self.pause.is_some() {
            return;
        }
        if self.skipped < self.skip {
            self.skipped += 1;
            return;
        }
        self.skipped = 0;
        let waiter = Arc::new(Waiter {
            outbox: Arc::clone(outbox),
            released: AtomicBool::new(false),
        });
        if let Some(ready_before) = queue.wait_until_short(&waiter) {
            self.pause = Some(Pause {
                queue,
                waiter,
                until: now + MOMENT,
                ready_before,
                published,
            });
        }
    }

    /// Whether reading waits.
    pub(crate) const fn is_paused(&self) -> bool {
        self.pause.is_some()
    }

    /// When the moment is over.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.pause.as_ref().map(|pause| pause.until)
    }

    /// Ends the pause if the queue is short or the moment over.
    pub(crate) fn check(&mut self, now: Instant) {
        let Some(pause) = &self.pause else { return };
        if pause.waiter.released.load(Ordering::Acquire) {
            self.skip = 0;
        } else if pause.until <= now {
            let ready = pause.queue.stop_waiting(&pause.waiter);
            let drained = pause.ready_before.saturating_sub(ready);
            self.skip = if drained >= pause.published {
                0
            } else {
                (self.skip * 2).clamp(1, SKIP_MAX)
            };
        } else {
            return;
        }
        self.pause = None;
    }
}
