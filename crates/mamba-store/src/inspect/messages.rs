//! What one queue holds, message by message.

use std::{cmp::Reverse, collections::BTreeMap};

use bytes::Bytes;
use mamba_types::{Message, QueueId, Sequence};

use super::{Contents, Folder};
use crate::{
    error::OpenError,
    format::{file_name, record_len},
    log::{
        index::{Index, Run},
        scan::{Reader, index_of},
    },
    recovery::RecoveredRun,
};

/// Runs of one file looked at together.
const RUNS_MAX: usize = 1024;

/// One place in a queue.
#[derive(Clone, Debug)]
pub enum Dumped {
    /// A message.
    Message(DumpedMessage),
    /// Messages that cannot be read.
    Damaged {
        /// First sequence.
        first: Sequence,
        /// Sequences from there on.
        count: u64,
        /// What is wrong, and where.
        reason: String,
    },
}

/// A message where it lies.
#[derive(Clone, Debug)]
pub struct DumpedMessage {
    /// Its place in the queue.
    pub sequence: Sequence,
    /// The priority it waits in; 0 in a queue without priorities.
    pub level: u8,
    /// It may have been delivered before.
    pub redelivered: bool,
    /// How often it came back.
    pub delivery_count: u32,
    /// The message.
    pub message: Message,
    /// The log file its record lies in.
    pub file: String,
    /// Where in that file.
    pub offset: u64,
}

impl Folder {
    /// Shows what `queue` holds, in the order it would be delivered, until `visit` says false.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn messages(
        &self,
        queue: QueueId,
        visit: &mut dyn FnMut(Dumped) -> bool,
    ) -> Result<(), OpenError> {
        let contents = self.contents()?;
        let runs = contents.scanned.recovered.queues.get(&queue);
        let mut runs: Vec<_> = runs.map(|queue| queue.runs.clone()).unwrap_or_default();
        runs.sort_by_key(|run| (Reverse(run.level), run.from));
        let mut reading = Reading {
            folder: self,
            contents: &contents,
            readers: BTreeMap::new(),
            anew: BTreeMap::new(),
        };
        for run in runs {
            if !reading.range(queue, &run, visit)? {
                break;
            }
        }
        Ok(())
    }
}

struct Reading<'a> {
    folder: &'a Folder,
    contents: &'a Contents,
    /// By the number of the file.
    readers: BTreeMap<usize, Reader>,
    /// Indexes in the place of damaged ones.
    anew: BTreeMap<usize, Index>,
}

impl Reading<'_> {
    fn range(
        &mut self,
        queue: QueueId,
        range: &RecoveredRun,
        visit: &mut dyn FnMut(Dumped) -> bool,
    ) -> Result<bool, OpenError> {
        let to = range.to.0;
        let mut next = range.from.0;
        while next < to {
            let (mut runs, mut limit) = (Vec::new(), to);
            for (number, file) in self.contents.scanned.files.iter().enumerate() {
                if file.moved || !file.index.overlaps(queue, range.level, next, to) {
                    continue;
                }
                let (found, complete) = self.runs(number, queue, range.level, (next, to))?;
                limit = limit.min(complete.unwrap_or(u64::MAX));
                runs.extend(found.into_iter().map(|run| (run, number)));
            }
            // Of two copies the younger file's counts.
            runs.sort_by_key(|(run, number)| (run.first, Reverse(*number)));
            for (run, number) in runs {
                let (start, end) = (run.first.max(next), run.to().min(limit));
                if start >= end {
                    continue;
                }
                if !self.run(&run, number, (start, end), range, visit)? {
                    return Ok(false);
                }
                next = end;
            }
            next = next.max(limit);
        }
        Ok(true)
    }

    fn runs(
        &mut self,
        number: usize,
        queue: QueueId,
        level: u8,
        range: (u64, u64),
    ) -> Result<(Vec<Run>, Option<u64>), OpenError> {
        let file = &self.contents.scanned.files[number];
        let disk = &self.folder.disk;
        let index = self.anew.get(&number).unwrap_or(&file.index);
        if let Ok(found) = index.runs(disk, queue, level, range, RUNS_MAX) {
            return Ok(found);
        }
        // The log file itself tells the same.
        let dir = self.folder.log_dir();
        let fault = |error| OpenError::io("read", dir.join(file_name(file.base)), error);
        let anew = index_of(&dir, &self.contents.config, disk, file.base).map_err(fault)?;
        let anew = Index::Open(std::sync::Arc::new(anew));
        let found = anew
            .runs(disk, queue, level, range, RUNS_MAX)
            .map_err(|error| fault(error.into()))?;
        self.anew.insert(number, anew);
        Ok(found)
    }

    /// Shows the messages of `[wanted.0, wanted.1)` in a run.
    fn run(
        &mut self,
        run: &Run,
        number: usize,
        wanted: (u64, u64),
        range: &RecoveredRun,
        visit: &mut dyn FnMut(Dumped) -> bool,
    ) -> Result<bool, OpenError> {
        let base = self.contents.scanned.files[number].base;
        let name = file_name(base);
        let damaged = |first: u64, to: u64, reason: String| Dumped::Damaged {
            first: Sequence(first),
            count: to - first,
            reason,
        };
        let reader = match self.readers.entry(number) {
            std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                match Reader::open(&self.folder.log_dir(), &self.folder.disk, base, None) {
                    Ok(reader) => place.insert(reader),
                    Err(error) => {
                        let reason = format!("cannot read {name}: {error}");
                        return Ok(visit(damaged(wanted.0, wanted.1, reason)));
                    }
                }
            }
        };
        let mut at = run.at - base;
        for sequence in run.first..wanted.1 {
            let record = match reader.record(at) {
                Ok(Some(record)) => record,
                other => {
                    let reason = match other {
                        Err(error) => format!("cannot read {name} at offset {at}: {error}"),
                        Ok(_) => format!("no record at offset {at} of {name}"),
                    };
                    return Ok(visit(damaged(sequence.max(wanted.0), wanted.1, reason)));
                }
            };
            let offset = at;
            at += record_len(record).unwrap_or(record.len()) as u64;
            if sequence < wanted.0 {
                continue;
            }
            let shown = match Message::check(record) {
                Ok(_) => Dumped::Message(DumpedMessage {
                    sequence: Sequence(sequence),
                    level: range.level,
                    redelivered: range.redelivered,
                    delivery_count: range.delivery_count,
                    message: Message::from_record(Bytes::copy_from_slice(record)),
                    file: name.clone(),
                    offset,
                }),
                Err(error) => damaged(
                    sequence,
                    sequence + 1,
                    format!("{error} at offset {offset} of {name}"),
                ),
            };
            if !visit(shown) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
