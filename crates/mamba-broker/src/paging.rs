//! Messages between memory and disk: how much the queues may hold, and who reads back what they dropped.
//!
//! All queues share one budget. A queue may hold as much as is left of it: one long queue gets half, many long
//! queues get little each, and no queue needs to know of the others. Reading back happens on threads that the
//! server lends ([`Paging::work`]), never under a queue's lock.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mamba_queue::{PageIn, Scan};
use mamba_store::{DurableWaker, Log};
use mamba_types::QueueId;
use parking_lot::{Condvar, Mutex};

use crate::queue_cell::QueueCell;

/// Octets of records that a queue may always hold.
const SHARE_MIN: usize = 32 << 10;
/// Octets of records read back at once, at most.
const READ_MAX: usize = 1 << 20;
/// Jobs of any queue that are waited for before somebody looks whether what it wanted is there: more than there are threads.
const FINISH_WAITS: u64 = 16;
/// Longest sleep of a thread without work, so that it notices the end.
const SLEEP: Duration = Duration::from_secs(1);

/// Something to do for a queue without its lock.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    /// Read a part of it back.
    PageIn(PageIn),
    /// Read a part of it and look for what a filter matches.
    Scan(Scan),
    /// The log knows what it waited for.
    Resume,
    /// Count octets that are an estimate since a restart.
    Measure,
    /// Messages of its waiting room are due.
    Release,
    /// What is due soon in its waiting room is to be read.
    ReadAhead,
    /// What its waiting room held before a restart is to be read.
    Recall,
}

impl Job {
    /// Whether somebody may wait for it in [`Paging::finish`].
    const fn is_for_reader(&self) -> bool {
        matches!(self, Self::PageIn(_) | Self::Scan(_) | Self::Resume)
    }
}

/// A job and its queue, which holds the list of jobs: the list must not hold the queue.
#[derive(Clone, Debug)]
struct Request {
    id: QueueId,
    queue: Weak<QueueCell>,
    job: Job,
}

impl DurableWaker for Request {
    fn durable(&self) {
        // On the log's thread: work is for the pagers.
        if let Some(queue) = self.queue.upgrade() {
            queue.paging().add(self.clone());
        }
    }
}

/// How far a job came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// To the end.
    Done,
    /// There is more to do at once.
    More,
    /// The log has not been written that far, and has not failed: the same again when it is.
    TooEarly,
}

#[derive(Debug, Default)]
struct Jobs {
    waiting: VecDeque<Request>,
    running: Vec<QueueId>,
    /// Jobs that have been done.
    finished: u64,
}

/// The node's budget and its readers.
#[derive(Debug)]
pub(crate) struct Paging {
    budget: usize,
    /// Octets of records that ready messages in memory take.
    resident: AtomicUsize,
    jobs: Mutex<Jobs>,
    wake: Condvar,
    done: Condvar,
    stopping: AtomicBool,
    /// Messages read back.
    pub(crate) read: AtomicU64,
    /// Messages read for filters.
    pub(crate) scanned: AtomicU64,
    /// Octets of records dropped from memory.
    pub(crate) dropped_bytes: AtomicU64,
    /// Messages that were in the log and could not be read.
    pub(crate) quarantined: AtomicU64,
}

impl Paging {
    pub(crate) fn new(budget: usize) -> Arc<Self> {
        Arc::new(Self {
            budget,
            resident: AtomicUsize::new(0),
            jobs: Mutex::default(),
            wake: Condvar::new(),
            done: Condvar::new(),
            stopping: AtomicBool::new(false),
            read: AtomicU64::new(0),
            scanned: AtomicU64::new(0),
            dropped_bytes: AtomicU64::new(0),
            quarantined: AtomicU64::new(0),
        })
    }

    /// Octets of records one queue may hold now.
    pub(crate) fn share(&self) -> usize {
        let taken = self.resident.load(Ordering::Relaxed);
        self.budget.saturating_sub(taken).max(SHARE_MIN)
    }

    /// Octets to read back at once.
    pub(crate) fn read_bytes(&self) -> usize {
        (self.share() / 4).clamp(SHARE_MIN / 2, READ_MAX)
    }

    /// Whether the budget is used to such a part that queues nobody uses should give back theirs.
    pub(crate) fn is_tight(&self) -> bool {
        self.resident() > self.budget / 2
    }

    /// Octets of records in memory.
    pub(crate) fn resident(&self) -> usize {
        self.resident.load(Ordering::Relaxed)
    }

    /// Messages were read back, and others should have been there.
    pub(crate) fn count_read(&self, read: usize, lost: u64) {
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        self.quarantined.fetch_add(lost, Ordering::Relaxed);
    }

    /// A queue that held `before` octets holds `after`.
    pub(crate) fn account(&self, before: usize, after: usize) {
        if after >= before {
            self.resident.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.resident.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// Has something done for a queue by the next free thread.
    pub(crate) fn request(&self, queue: &Arc<QueueCell>, job: Job) {
        self.add(Request {
            id: queue.id,
            queue: Arc::downgrade(queue),
            job,
        });
    }

    fn add(&self, request: Request) {
        self.jobs.lock().waiting.push_back(request);
        self.wake.notify_one();
    }

    /// Does one thing, if there is one to do. Returns whether there was.
    pub(crate) fn work_once(&self) -> bool {
        let request = {
            let mut jobs = self.jobs.lock();
            let request = jobs.waiting.pop_front();
            if let Some(Request { id, job, .. }) = &request
                && job.is_for_reader()
            {
                jobs.running.push(*id);
            }
            request
        };
        let Some(request) = request else { return false };
        self.run(request);
        true
    }

    fn run(&self, request: Request) {
        let id = request.id;
        let is_for_reader = request.job.is_for_reader();
        if let Some(queue) = request.queue.upgrade() {
            let progress = match &request.job {
                Job::PageIn(page_in) => queue.page_in(page_in),
                Job::Scan(scan) => queue.scan(scan),
                Job::Resume => queue.resume(),
                Job::Measure => queue.measure(),
                Job::Release => queue.release(),
                Job::ReadAhead => queue.read_ahead(),
                Job::Recall => queue.recall(),
            };
            match progress {
                Progress::Done => {}
                // Long work goes on behind what others have asked for meanwhile.
                Progress::More => self.add(request),
                Progress::TooEarly => self.add_when_written(request, queue.log()),
            }
        }
        if !is_for_reader {
            return;
        }
        let mut jobs = self.jobs.lock();
        if let Some(index) = jobs.running.iter().position(|running| *running == id) {
            jobs.running.swap_remove(index);
        }
        jobs.finished += 1;
        self.done.notify_all();
    }

    /// Adds it when everything that is in the log now can be read: usually in a moment, or when the disk has room again.
    fn add_when_written(&self, request: Request, log: &Log) {
        let position = log.staged();
        if log.wait_durable(position) {
            self.add(request);
        } else {
            log.wake_at(position, Arc::new(request));
        }
    }

    /// Reads parts back until [`Self::stop`].
    pub(crate) fn work(&self) {
        while !self.stopping.load(Ordering::Acquire) {
            if self.work_once() {
                continue;
            }
            let mut jobs = self.jobs.lock();
            if jobs.waiting.is_empty() && !self.stopping.load(Ordering::Acquire) {
                self.wake.wait_for(&mut jobs, SLEEP);
            }
        }
    }

    /// Ends [`Self::work`].
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake.notify_all();
    }

    /// Sees to it, on the caller's thread, that what was requested for `queue` has been read when it returns. What a filter asks for
    /// after that is left to the others.
    pub(crate) fn finish(&self, queue: QueueId) {
        let mut jobs = self.jobs.lock();
        let is_its = |request: &&Request| request.job.is_for_reader() && request.id == queue;
        let requested = jobs.waiting.iter().filter(is_its).count();
        for _ in 0..requested {
            let index = jobs.waiting.iter().position(|request| is_its(&request));
            let Some(request) = index.and_then(|index| jobs.waiting.remove(index)) else {
                break;
            };
            jobs.running.push(queue);
            drop(jobs);
            self.run(request);
            jobs = self.jobs.lock();
        }
        let running = jobs.finished;
        while jobs.running.contains(&queue) && jobs.finished < running + FINISH_WAITS {
            self.done.wait_for(&mut jobs, SLEEP);
        }
    }
}
