//! Committing on the thread of the only one who waits, as [`crate::log`] does.
//!
//! Somebody who declares one queue after the other would spend as much time on changes of thread, to the database's and back, as
//! on the disk.

use std::{cell::Cell, marker::PhantomData, sync::Arc, time::Duration};

use super::{Definitions, RefuseOnPanic, Submission};
use crate::log::Listener;

/// Changes up to which somebody may commit on a thread that has other things to do.
const CHANGES_MAX: usize = 16;
/// A disk on which commits take longer must not hold such a thread up.
const QUICK_COMMIT: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    No,
    /// What this thread submits does not wake the database's thread.
    Back,
    /// Something was, and has not woken it.
    Owing,
}

thread_local! {
    static HELD: Cell<Held> = const { Cell::new(Held::No) };
}

/// Whether a [`DefineHere`] of this thread will see to it that what is submitted is committed.
pub(super) fn hold_back() -> bool {
    if HELD.get() == Held::No {
        return false;
    }
    HELD.set(Held::Owing);
    true
}

/// While it lives, what this thread submits does not wake the database's thread; dropping it does.
#[derive(Debug)]
#[must_use]
pub struct DefineHere {
    definitions: Definitions,
    _of_this_thread: PhantomData<*const ()>,
}

impl DefineHere {
    /// Commits what was submitted, if it is little and the disk answers quickly, and if nobody else is committing. Not under any
    /// lock: `done`s run on this thread then.
    pub fn commit(&self) {
        let shared = &self.definitions.shared;
        if HELD.get() != Held::Owing {
            return;
        }
        let Some(mut worker) = self.definitions.worker.try_lock() else {
            return;
        };
        let changes: usize = {
            let backlog = shared.backlog.lock();
            let submissions: &[Submission] = &backlog.submissions;
            submissions.iter().map(|one| one.changes.len()).sum()
        };
        if worker.usual_commit <= QUICK_COMMIT && changes <= CHANGES_MAX {
            let _guard = RefuseOnPanic(Arc::clone(shared));
            if let Some(listener) = shared.on_commit_here.lock().as_ref() {
                listener();
            }
            worker.turn();
        }
    }
}

impl Drop for DefineHere {
    fn drop(&mut self) {
        if HELD.replace(Held::No) != Held::Owing {
            return;
        }
        let shared = &self.definitions.shared;
        if !shared.backlog.lock().submissions.is_empty() {
            shared.wake.notify_one();
        }
    }
}

impl Definitions {
    /// Has `listener` called on a thread that is about to wait for the disk in [`DefineHere::commit`], as
    /// [`crate::Log::on_commit_here`] has.
    pub fn on_commit_here(&self, listener: Listener) {
        *self.shared.on_commit_here.lock() = Some(listener);
    }

    /// For somebody who is the only one to wait for the disk ([`crate::Log::commit_here`] says so), before he submits: he may commit
    /// on his own. `None` if he does already.
    pub fn commit_here(&self) -> Option<DefineHere> {
        if self.manual || HELD.get() != Held::No {
            return None;
        }
        HELD.set(Held::Back);
        Some(DefineHere {
            definitions: self.clone(),
            _of_this_thread: PhantomData,
        })
    }
}
