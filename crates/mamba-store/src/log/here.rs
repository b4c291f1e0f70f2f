//! Committing on the thread of the only one who waits.
//!
//! Somebody who publishes one message after the other, each when the one before is confirmed, would spend more time on changes of
//! thread than on the disk: to the writer's thread and back. So whoever was the only one to wait for a while writes and syncs himself.

use std::{cell::Cell, marker::PhantomData, sync::atomic::Ordering, time::Duration};

use super::{Log, staging::Urgency, writer};

/// Waits in a row, all of the same, after which he counts as the only one.
const ALONE_AFTER: u64 = 8;
/// Bits of [`super::writer::Shared::alone`] that say how often.
const TIMES_BITS: u32 = 8;
/// Octets up to which somebody may commit on a thread that has other things to do.
pub(super) const OCTETS_MAX: u64 = 16 << 10;
/// A disk whose syncs take longer must not hold such a thread up.
pub(super) const QUICK_SYNC: Duration = Duration::from_micros(500);

thread_local! {
    static COMMITS_HERE: Cell<bool> = const { Cell::new(false) };
}

/// Whether a [`CommitHere`] of this thread will see to it that what is appended is written.
pub(super) fn commits_here() -> bool {
    COMMITS_HERE.get()
}

/// While it lives, what this thread appends does not wake the writer's thread; dropping it does.
#[derive(Debug)]
#[must_use]
pub struct CommitHere {
    log: Log,
    _of_this_thread: PhantomData<*const ()>,
}

impl CommitHere {
    /// Writes and syncs what was appended on this thread, if it is little and the disk answers quickly, and if nobody else is
    /// writing. Not under any lock: wakers run on this thread then.
    pub fn commit(&self) {
        writer::commit_here(&self.log.shared, &self.log.pen.0);
    }
}

impl Drop for CommitHere {
    fn drop(&mut self) {
        COMMITS_HERE.set(false);
        let mut staging = self.log.shared.staging.lock();
        if staging.group.is_empty() {
            return;
        }
        let urgency = match (staging.urgent, staging.soon) {
            (true, _) => Urgency::Now,
            (false, true) => Urgency::Soon,
            (false, false) => Urgency::Lazy,
        };
        let wake = staging.note(urgency);
        drop(staging);
        if wake {
            self.log.shared.wake_writer.notify_one();
        }
    }
}

impl Log {
    /// `who` (any number that nobody else uses; its upper octet is ignored) has appended something that he waits for.
    pub fn waits(&self, who: u64) {
        let times = self.waits_in_a_row(who).map_or(0, |times| times + 1);
        if times <= ALONE_AFTER {
            let alone = who << TIMES_BITS | times;
            self.shared.alone.store(alone, Ordering::Relaxed);
        }
    }

    /// If `who` is the only one who has waited of late: he may commit on his own. Ask before appending, and keep it until all is
    /// appended.
    pub fn commit_here(&self, who: u64) -> Option<CommitHere> {
        let alone = self.waits_in_a_row(who) >= Some(ALONE_AFTER);
        if !alone || self.driven || COMMITS_HERE.replace(true) {
            return None;
        }
        Some(CommitHere {
            log: self.clone(),
            _of_this_thread: PhantomData,
        })
    }

    /// How often `who` has waited since somebody else did, before his last wait; `None` if somebody else was the last.
    fn waits_in_a_row(&self, who: u64) -> Option<u64> {
        let alone = self.shared.alone.load(Ordering::Relaxed);
        let times = alone ^ who << TIMES_BITS;
        (times >> TIMES_BITS == 0).then_some(times)
    }
}
