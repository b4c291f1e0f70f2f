//! A change of definitions on its way to the disk, and who waits for it.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
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
