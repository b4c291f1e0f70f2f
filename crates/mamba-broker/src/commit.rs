//! A change of definitions on its way to the disk, and who waits for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use parking_lot::Mutex;

use crate::outbox::Outbox;

/// Where a change stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommitState {
    /// On its way.
    Pending,
    /// Durable.
    Done,
    /// It will never be.
    Failed,
}

const PENDING: u8 = 0;
const DONE: u8 = 1;
const FAILED: u8 = 2;

/// A wake-up that a waiting thread misses costs this much.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Wakes a thread that waits.
pub(crate) struct Unpark(pub(crate) Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// One change.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    state: AtomicU8,
    waiting: Mutex<Vec<Arc<Outbox>>>,
}

impl Commit {
    pub(crate) fn state(&self) -> CommitState {
        match self.state.load(Ordering::Acquire) {
            PENDING => CommitState::Pending,
            DONE => CommitState::Done,
            _ => CommitState::Failed,
        }
    }

    /// Rings `outbox` once it is decided; at once if it is so already.
    pub(crate) fn ring_when_decided(&self, outbox: &Arc<Outbox>) {
        let mut waiting = self.waiting.lock();
        if self.state() == CommitState::Pending {
            waiting.push(Arc::clone(outbox));
        } else {
            outbox.ring();
        }
    }

    /// Blocks the thread until it is decided; `outbox` is the thread's own.
    pub(crate) fn wait(&self, outbox: &Arc<Outbox>) -> CommitState {
        self.ring_when_decided(outbox);
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        loop {
            outbox.listen(&waker);
            match self.state() {
                CommitState::Pending => thread::park_timeout(LOOK_AGAIN),
                decided => return decided,
            }
        }
    }

    /// The disk has answered.
    pub(crate) fn decide(&self, stored: bool) {
        let mut waiting = self.waiting.lock();
        self.state
            .store(if stored { DONE } else { FAILED }, Ordering::Release);
        for outbox in waiting.drain(..) {
            outbox.ring();
        }
    }
}
