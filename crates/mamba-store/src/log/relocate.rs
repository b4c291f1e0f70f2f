//! Emptying a file of which little is alive: its live messages are appended again, queue by queue, and the
//! file is given back.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use mamba_types::{LogPosition, Message, QueueId, Sequence};

use super::{
    Appended, EnqueuedRun, Log, SLACK_FILES,
    files::Hold,
    index::{ExtentKey, Index},
    item_of,
    load::{Loaded, Source},
    staging::Urgency,
    writer::Shared,
};
use crate::format::Kind;

/// Records from this size on are looked up before they are copied: they may be shared by many queues.
const SHARED_FROM: usize = 4096;
/// Octets of records per batch.
const BATCH_OCTETS: u64 = 1 << 20;
/// Runs per batch.
const BATCH_RUNS: usize = 1024;

/// A file being emptied. Dropping it without [`Log::relocated`] leaves everything where it is.
#[derive(Debug)]
pub struct Relocation {
    base: u64,
    end: u64,
    index: Index,
    _hold: Arc<Hold>,
    /// Large records already copied, by their old place.
    copies: HashMap<u64, Appended>,
    shared: Arc<Shared>,
}

impl Drop for Relocation {
    fn drop(&mut self) {
        self.shared.staging.lock().relocating = false;
    }
}

/// Where reading a queue's part of the file stands; begin with the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct RelocationCursor {
    key: Option<ExtentKey>,
    next: u64,
}

/// Some of a queue's messages in the file, dead ones among them.
#[derive(Debug)]
pub struct RelocationBatch {
    /// The level they wait in.
    pub level: u8,
    /// They are gone after a restart.
    pub volatile: bool,
    /// The messages, in order; what cannot be read is in `damaged`.
    pub loaded: Loaded,
}

/// A live message of the file.
#[derive(Clone, Debug)]
pub struct Relocated {
    /// Its place in the queue.
    pub sequence: Sequence,
    /// The message, as read or as the queue holds it.
    pub message: Message,
    /// Where its record lies in the file.
    pub at: LogPosition,
    /// How often it came back.
    pub delivery_count: u32,
    /// It may have been delivered.
    pub may_be_delivered: bool,
}

impl Relocation {
    /// The queues that have, or had, messages in the file.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueId> {
        let extents = self.index.extents();
        let mut queues: Vec<_> = extents.iter().map(|(key, _)| key.queue).collect();
        queues.dedup();
        queues
    }

    /// Whether a position lies in the file.
    #[must_use]
    pub const fn contains(&self, at: LogPosition) -> bool {
        self.base <= at.0 && at.0 < self.end
    }
}

impl Log {
    /// A file to empty, if the log takes more than twice what lives in it and eight files: the one of which least is alive.
    ///
    /// For each of its queues: read with [`Log::relocation_batch`], then under the queue's lock pick what lives and give it to
    /// [`Log::relocate`]; after the last queue call [`Log::relocated`].
    #[must_use]
    pub fn relocation_candidate(&self) -> Option<Relocation> {
        if self.failed() {
            return None;
        }
        let slack = SLACK_FILES * self.shared.config.file_size;
        let mut staging = self.shared.staging.lock();
        if staging.relocating || staging.holds > 0 {
            return None;
        }
        let checkpoint = staging.checkpoint;
        let file_size = staging.file_size;
        let file = staging.files.to_empty(checkpoint, slack, file_size)?;
        let relocation = Relocation {
            base: file.base,
            end: file.end,
            index: file.index.clone(),
            _hold: Arc::clone(&file.hold),
            copies: HashMap::new(),
            shared: Arc::clone(&self.shared),
        };
        staging.relocating = true;
        Some(relocation)
    }

    /// Reads the next part of what the file holds of `queue`. `None` at the end. Blocks on the disk: not under the queue's lock.
    #[must_use]
    pub fn relocation_batch(
        &self,
        relocation: &Relocation,
        queue: QueueId,
        cursor: &mut RelocationCursor,
    ) -> Option<RelocationBatch> {
        loop {
            let extents = relocation.index.extents();
            let (key, summary) = extents.into_iter().find(|(key, summary)| {
                key.queue == queue
                    && cursor.key.is_none_or(|known| {
                        *key > known || (*key == known && cursor.next < summary.to)
                    })
            })?;
            let from = if cursor.key == Some(key) {
                cursor.next
            } else {
                summary.first
            };
            let disk = &*self.shared.disk;
            let runs = match relocation.index.runs_of(disk, key, from, BATCH_RUNS) {
                Ok(runs) => runs,
                Err(fault) => {
                    let error = std::io::Error::from(fault);
                    tracing::error!(%error, "the index of a log file cannot be read: the file is not emptied");
                    return None;
                }
            };
            let mut octets = 0;
            let fitting = runs.iter().take_while(|run| {
                let fits = octets == 0 || octets + u64::from(run.octets) <= BATCH_OCTETS;
                octets += u64::from(run.octets);
                fits
            });
            let runs: Vec<_> = fitting.copied().collect();
            let next = runs.last().map_or(summary.to, |run| run.to());
            (cursor.key, cursor.next) = (Some(key), next);
            if runs.is_empty() {
                continue;
            }
            let mut source = Source::new(relocation.base, relocation.index.clone());
            return Some(RelocationBatch {
                level: key.level,
                volatile: key.volatile,
                loaded: self.read_runs(&runs, &mut source),
            });
        }
    }

    /// Appends live messages of one level of `queue` again, in order, and counts them there. Returns their new places. Call it
    /// under the queue's lock, under which it was found that they live.
    pub fn relocate(
        &self,
        relocation: &mut Relocation,
        queue: QueueId,
        level: u8,
        volatile: bool,
        live: &[Relocated],
    ) -> Vec<LogPosition> {
        let mut small = Vec::new();
        for message in live
            .iter()
            .filter(|live| live.message.record_len() < SHARED_FROM)
        {
            small.extend_from_slice(message.message.record());
        }
        let small = (!small.is_empty()).then(|| self.append_messages(Bytes::from(small)));
        let mut next_small = small.as_ref().map_or(0, |appended| appended.at().0);
        let mut places = Vec::with_capacity(live.len());
        let mut runs: Vec<EnqueuedRun> = Vec::new();
        for one in live {
            let len = one.message.record_len();
            let octets = narrow(len);
            let at = if len < SHARED_FROM {
                let at = next_small;
                next_small += len as u64;
                LogPosition(at)
            } else {
                let copy = relocation.copies.entry(one.at.0);
                copy.or_insert_with(|| self.append_messages(one.message.record().clone()))
                    .at()
            };
            places.push(at);
            let body_octets = narrow(one.message.body_len());
            match runs.last_mut() {
                Some(run)
                    if run.first.0 + u64::from(run.count) == one.sequence.0
                        && run.at.0 + u64::from(run.octets) == at.0
                        && run.delivery_count == one.delivery_count
                        && run.may_be_delivered == one.may_be_delivered =>
                {
                    run.count += 1;
                    run.octets += octets;
                    run.body_octets += body_octets;
                }
                _ => runs.push(EnqueuedRun {
                    first: one.sequence,
                    count: 1,
                    at,
                    octets,
                    body_octets,
                    level,
                    may_be_delivered: one.may_be_delivered,
                    delivery_count: one.delivery_count,
                    volatile,
                }),
            }
        }
        let synced = self.synced();
        let mut staging = self.shared.staging.lock();
        for run in &runs {
            staging.push_enqueued(&item_of(queue, run, Some(relocation.base)), synced);
        }
        let gate = staging.next;
        let old = live
            .iter()
            .map(|one| (one.at.0, narrow(one.message.record_len())));
        staging.files.dead(old, gate);
        self.done(staging, Urgency::Soon);
        places
    }

    /// Appends a message of `queue` again that had left it and came back. Returns its new place.
    pub fn append_again(
        &self,
        queue: QueueId,
        level: u8,
        volatile: bool,
        message: &Relocated,
    ) -> LogPosition {
        let appended = self.append_messages(message.message.record().clone());
        let run = EnqueuedRun {
            first: message.sequence,
            count: 1,
            at: appended.at(),
            octets: narrow(message.message.record_len()),
            body_octets: narrow(message.message.body_len()),
            level,
            may_be_delivered: message.may_be_delivered,
            delivery_count: message.delivery_count,
            volatile,
        };
        let synced = self.synced();
        let mut staging = self.shared.staging.lock();
        // While the old file is there, recovery finds it in both places and has to take one.
        let origin = staging.files.base_of(message.at.0).unwrap_or(message.at.0);
        staging.push_enqueued(&item_of(queue, &run, Some(origin)), synced);
        let gate = staging.next;
        let old = std::iter::once((message.at.0, run.octets));
        staging.files.dead(old, gate);
        self.done(staging, Urgency::Soon);
        appended.at()
    }

    /// Everything that lived in the file has been appended again: the file goes once that is durable.
    pub fn relocated(&self, relocation: Relocation) {
        let synced = self.synced();
        let payload = Bytes::copy_from_slice(&relocation.base.to_le_bytes());
        let mut staging = self.shared.staging.lock();
        staging.push_payload(Kind::Moved, payload, synced);
        let gate = staging.next;
        if let Some(file) = staging.files.at_base(relocation.base) {
            file.moved = true;
            file.gate = file.gate.max(gate);
        }
        staging.sync_to = gate;
        self.done(staging, Urgency::Now);
        self.shared
            .counters
            .relocations
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        drop(relocation);
        self.shared.wake_keeper();
    }
}

fn narrow(octets: usize) -> u32 {
    u32::try_from(octets).unwrap_or(u32::MAX)
}
