//! What the clock does to a queue: expiring messages, and its own time to live.

use std::{sync::Arc, sync::atomic::Ordering};

use super::{QueueCell, State};

impl QueueCell {
    /// Begins the queue's time after a restart: deadlines are armed, its lease runs anew.
    pub(crate) fn start(self: &Arc<Self>) {
        self.change(|_, _| ());
        self.renew_lease();
        self.open_room();
    }

    /// Has the node's timers look at the queue when its next message expires. While deliveries are held back, what goes on after
    /// that does.
    pub(super) fn arm(self: &Arc<Self>, state: &mut State) {
        if self.is_held(state) {
            return;
        }
        if let Some(deadline) = state.queue.next_deadline()
            && state.timer_at.is_none_or(|armed| deadline < armed)
            && let Some(home) = self.home.upgrade()
        {
            state.timer_at = Some(deadline);
            home.timers.add(deadline, self);
        }
    }

    /// Something is due: messages have expired, or the queue itself. True when the queue is to be deleted.
    pub(crate) fn tick(self: &Arc<Self>, now_ms: u64) -> bool {
        self.state.lock().timer_at = None;
        self.change(|_, _| ());
        self.wake_room(now_ms);
        self.lease_is_over(now_ms)
    }

    /// The queue is in use: its time to live begins anew.
    pub(crate) fn renew_lease(self: &Arc<Self>) {
        if let Some(expires_ms) = self.expires_ms()
            && let Some(home) = self.home.upgrade()
        {
            let until = home.unix_ms().saturating_add(expires_ms);
            self.lease_until.store(until, Ordering::Release);
            home.timers.add(until, self);
        }
    }

    pub(super) fn lease_is_over(self: &Arc<Self>, now_ms: u64) -> bool {
        if self.expires_ms().is_none() {
            return false;
        }
        if self.counts().consumers > 0 {
            self.renew_lease();
        }
        let until = self.lease_until.load(Ordering::Acquire);
        if until <= now_ms {
            return true;
        }
        if let Some(home) = self.home.upgrade() {
            home.timers.add(until, self);
        }
        false
    }
}
