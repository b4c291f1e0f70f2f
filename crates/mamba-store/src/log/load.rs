//! Reading messages of a queue back from wherever they lie in the log.

use std::{io, sync::Arc};

use bytes::Bytes;
use mamba_types::{LogPosition, Message, QueueId, Sequence};

use super::{
    Log,
    files::Hold,
    index::{Covered, Index, IndexFault, Run},
};
use crate::{
    disk::DiskFile,
    format::{check_record, file_name, record_len},
};

/// Runs looked at per file and call.
const RUNS_MAX: usize = 4096;
/// Most octets read at once.
const READ_MAX: u64 = 1 << 20;
/// Pieces kept in the quarantine folder.
const QUARANTINE_MAX: usize = 1024;
/// Octets between wanted records that are rather read and thrown away than skipped with a call of their own.
const GAP_MAX: u64 = 16 << 10;

/// What to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadRequest {
    /// The queue.
    pub queue: QueueId,
    /// The level of it.
    pub level: u8,
    /// First sequence wanted.
    pub from: Sequence,
    /// First sequence not wanted any more.
    pub to: Sequence,
    /// Octets of records after which to stop; the first message comes whatever its size.
    pub octets_max: usize,
    /// Messages after which to stop; at least 1.
    pub messages_max: usize,
}

/// A message read back.
#[derive(Clone, Debug)]
pub struct LoadedMessage {
    /// Its place in the queue.
    pub sequence: Sequence,
    /// The message; neighbours share one buffer.
    pub message: Message,
    /// Where its record lies.
    pub at: LogPosition,
}

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// In sequence order.
    pub messages: Vec<LoadedMessage>,
    /// Everything asked for before this sequence is answered: what did not come is not there, or is damaged.
    pub next: Sequence,
    /// What could not be read.
    pub damaged: Vec<Damage>,
}

/// Messages that are in the log and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// First sequence.
    pub first: Sequence,
    /// Sequences from there on.
    pub count: u32,
    /// Where the first one's record lies.
    pub at: LogPosition,
    /// Octets of log they take.
    pub octets: u32,
    /// What is wrong, and in which file.
    pub reason: Arc<str>,
    /// The disk refused to read: another try may work. Otherwise the octets are not what was written.
    pub unreadable: bool,
}

/// Records of one run that are wanted.
struct Wanted {
    run: Run,
    /// Messages of the run to skip.
    skip: u32,
    /// Messages wanted after those.
    count: u32,
    source: usize,
}

/// A file to read from. Somebody keeps it from being reused meanwhile.
pub(crate) struct Source {
    base: u64,
    index: Index,
    _hold: Option<Arc<Hold>>,
    file: Option<Box<dyn DiskFile>>,
}

impl Source {
    pub(crate) const fn new(base: u64, index: Index) -> Self {
        Self {
            base,
            index,
            _hold: None,
            file: None,
        }
    }
}

impl Log {
    /// Reads messages of a paged range back. Blocks on the disk: never call it under a queue's lock.
    ///
    /// Only what [`Log::written`] has passed can be found.
    #[must_use]
    pub fn load(&self, request: &LoadRequest) -> Loaded {
        let mut sources = self.sources(request);
        let mut loaded = Loaded {
            next: request.to,
            ..Loaded::default()
        };
        let wanted = self.wanted(request, &mut sources, &mut loaded);
        self.read_wanted(wanted, &mut sources, &mut loaded);
        loaded
    }

    /// Octets of the bodies that the log holds of a level of a queue in each of these ranges, `[from, to)`, which ascend and do not
    /// overlap. Reads records only where a range ends among what was enqueued together; those that cannot be read count nothing.
    /// `None` while some of it has not been written. Blocks on the disk: never call it under a queue's lock.
    #[must_use]
    pub fn body_octets(
        &self,
        queue: QueueId,
        level: u8,
        ranges: &[(Sequence, Sequence)],
    ) -> Option<Vec<u64>> {
        let mut sums = vec![0; ranges.len()];
        let mut from = ranges.first().map_or(Sequence(0), |(from, _)| *from);
        let to = ranges.last().map_or(from, |(_, to)| *to);
        while from < to {
            let request = LoadRequest {
                queue,
                level,
                from,
                to,
                octets_max: usize::MAX,
                messages_max: usize::MAX,
            };
            let mut sources = self.sources(&request);
            let mut answered = Loaded {
                next: to,
                ..Loaded::default()
            };
            for part in self.wanted(&request, &mut sources, &mut answered) {
                self.add_body_octets(part, &mut sources, ranges, &mut sums);
            }
            if answered.next <= from {
                return None;
            }
            from = answered.next;
        }
        Some(sums)
    }

    /// Adds the octets of bodies of a part of a run to the sums of the ranges it lies in.
    fn add_body_octets(
        &self,
        part: Wanted,
        sources: &mut [Source],
        ranges: &[(Sequence, Sequence)],
        sums: &mut [u64],
    ) {
        let first = Sequence(part.run.first + u64::from(part.skip));
        let end = Sequence(first.0 + u64::from(part.count));
        let mut at = ranges.partition_point(|(_, to)| *to <= first);
        let Some((from, to)) = ranges.get(at).filter(|(from, _)| *from < end) else {
            return;
        };
        if part.count == part.run.count && *from <= first && end <= *to {
            sums[at] += u64::from(part.run.body_octets);
            return;
        }
        let mut loaded = Loaded::default();
        self.read_wanted(vec![part], sources, &mut loaded);
        for LoadedMessage {
            sequence, message, ..
        } in loaded.messages
        {
            at += ranges[at..].partition_point(|(_, to)| *to <= sequence);
            if ranges.get(at).is_some_and(|(from, _)| *from <= sequence) {
                sums[at] += message.body_len() as u64;
            }
        }
    }

    /// The files that hold something of what is asked for. None of them is given back before the sources go.
    fn sources(&self, request: &LoadRequest) -> Vec<Source> {
        let (from, to) = (request.from.0, request.to.0);
        let staging = self.shared.staging.lock();
        let files = staging.files.iter().filter(|file| !file.moved);
        let files = files
            .filter(|file| file.index.overlaps(request.queue, request.level, from, to))
            .map(|file| Source {
                _hold: Some(Arc::clone(&file.hold)),
                ..Source::new(file.base, file.index.clone())
            });
        files.collect()
    }

    /// Saves damaged octets of the log in `quarantine/` beside it, for whoever may want to look at them: their file will be given back.
    /// At most 1,024 pieces are kept.
    pub fn quarantine(&self, damage: &Damage) {
        let shared = &self.shared;
        let Some(dir) = shared.dir.parent().map(|data| data.join("quarantine")) else {
            return;
        };
        let base = shared.staging.lock().files.base_of(damage.at.0);
        let save = || -> io::Result<()> {
            let disk = &*shared.disk;
            let base = base.ok_or(io::ErrorKind::NotFound)?;
            disk.create_dir(&dir)?;
            if disk.list(&dir)?.len() >= QUARANTINE_MAX {
                return Ok(());
            }
            let mut octets = vec![0; damage.octets as usize];
            let file = disk.open_read(&shared.dir.join(file_name(base)))?;
            let read = file.read_at(&mut octets, damage.at.0 - base)?;
            let copy = disk.open(&dir.join(format!("{:016x}.bin", damage.at.0)))?;
            copy.write_at(&[io::IoSlice::new(&octets[..read])], 0)?;
            copy.sync_data()
        };
        if let Err(error) = save() {
            tracing::warn!(%error, "damaged octets of the log could not be saved in the quarantine folder");
        }
    }

    /// The runs to read, in sequence order and without doubles; sets how far the answer goes.
    fn wanted(
        &self,
        request: &LoadRequest,
        sources: &mut [Source],
        loaded: &mut Loaded,
    ) -> Vec<Wanted> {
        let (from, to) = (request.from.0, request.to.0);
        let mut runs: Vec<(Run, usize)> = Vec::new();
        let mut limit = to;
        for (number, source) in sources.iter_mut().enumerate() {
            let found = self.runs_of(source, request, (from, to));
            match found {
                Ok((found, complete)) => {
                    limit = limit.min(complete.unwrap_or(u64::MAX));
                    runs.extend(found.into_iter().map(|run| (run, number)));
                }
                Err(error) => {
                    tracing::error!(file = file_name(source.base), %error, "the index of a log file cannot be read or made anew: messages in it are out of reach until a restart");
                }
            }
        }
        // Of two copies the younger file's counts.
        let copies = sources.iter().any(|source| {
            source
                .index
                .has_copies(request.queue, request.level, from, to)
        });
        let mut parts = Vec::with_capacity(runs.len());
        let mut covered = Covered::default();
        for (run, source) in runs.into_iter().rev() {
            if copies {
                let missing = covered.missing(run.first, run.to());
                parts.extend(missing.into_iter().map(|part| (part, run, source)));
                covered.add(run.first, run.to());
            } else {
                parts.push(((run.first, run.to()), run, source));
            }
        }
        parts.sort_unstable_by_key(|(part, _, _)| *part);
        let mut wanted = Vec::new();
        let (mut next, mut octets, mut messages) = (from, 0u64, 0u64);
        let written = self.written().0;
        for ((first, last), run, source) in parts {
            if run.at + u64::from(run.octets) > written && last > next {
                limit = limit.min(first.max(next));
                break;
            }
            let start = first.max(next);
            let end = last.min(limit);
            if start >= end {
                continue;
            }
            if messages >= request.messages_max as u64 || octets >= request.octets_max as u64 {
                break;
            }
            let each = u64::from(run.octets / run.count.max(1)).max(1);
            let room = (request.octets_max as u64).saturating_sub(octets) / each;
            let room = room.max(1).min(request.messages_max as u64 - messages);
            let count = (end - start).min(room);
            let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
            wanted.push(Wanted {
                run,
                skip: narrow(start - run.first),
                count: narrow(count),
                source,
            });
            octets += each * count;
            messages += count;
            next = start + count;
            if count < end - start {
                limit = next;
                break;
            }
        }
        let all = wanted.is_empty()
            || (messages < request.messages_max as u64 && octets < request.octets_max as u64);
        loaded.next = Sequence(if all { limit.max(next) } else { next });
        wanted
    }

    fn runs_of(
        &self,
        source: &mut Source,
        request: &LoadRequest,
        range: (u64, u64),
    ) -> io::Result<(Vec<Run>, Option<u64>)> {
        let disk = &*self.shared.disk;
        let (queue, level) = (request.queue, request.level);
        match source.index.runs(disk, queue, level, range, RUNS_MAX) {
            Ok(found) => Ok(found),
            Err(fault) => {
                self.rebuild_index(source, fault)?;
                let found = source.index.runs(disk, queue, level, range, RUNS_MAX)?;
                Ok(found)
            }
        }
    }

    /// A sealed index turned out to be damaged: the log file itself tells the same.
    fn rebuild_index(&self, source: &mut Source, fault: IndexFault) -> io::Result<()> {
        let error = io::Error::from(fault);
        tracing::warn!(file = file_name(source.base), %error, "the index of a log file is damaged and made anew from the file");
        let shared = &self.shared;
        let known: Vec<_> = source
            .index
            .extents()
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        let mut index =
            super::scan::index_of(&shared.dir, &shared.config, &*shared.disk, source.base)?;
        // What a start found to be of no account is still in the file.
        index.retain(|key| known.binary_search(key).is_ok());
        source.index = Index::Open(Arc::new(index));
        if let Some(file) = shared.staging.lock().files.at_base(source.base) {
            file.index = source.index.clone();
        }
        Ok(())
    }

    /// Reads all messages of these runs of one file.
    pub(crate) fn read_runs(&self, runs: &[Run], source: &mut Source) -> Loaded {
        let wanted = runs.iter().map(|run| Wanted {
            run: *run,
            skip: 0,
            count: run.count,
            source: 0,
        });
        let mut loaded = Loaded {
            next: Sequence(runs.last().map_or(0, Run::to)),
            ..Loaded::default()
        };
        let wanted = wanted.collect();
        self.read_wanted(wanted, std::slice::from_mut(source), &mut loaded);
        loaded
    }

    fn read_wanted(&self, wanted: Vec<Wanted>, sources: &mut [Source], loaded: &mut Loaded) {
        let mut wanted = wanted.into_iter().peekable();
        while let Some(first) = wanted.next() {
            // Neighbours in the file are read together.
            let source = first.source;
            let start = first.run.at;
            let mut end = start + u64::from(first.run.octets);
            let mut group = vec![first];
            let mut gaps = 0;
            while let Some(next) = wanted.next_if(|next| {
                next.source == source
                    && next.run.at >= end
                    && next.run.at - end <= GAP_MAX
                    && next.run.at + u64::from(next.run.octets) - start <= READ_MAX
            }) {
                gaps += next.run.at - end;
                end = next.run.at + u64::from(next.run.octets);
                group.push(next);
            }
            let source = &mut sources[source];
            match self.read_range(source, start, end) {
                Ok(octets) => parse(&group, start, octets, gaps > 0, source.base, loaded),
                Err(error) => {
                    let file = file_name(source.base);
                    let reason: Arc<str> = format!("cannot read {file}: {error}").into();
                    loaded.damaged.extend(group.iter().map(|wanted| Damage {
                        first: Sequence(wanted.run.first + u64::from(wanted.skip)),
                        count: wanted.count,
                        at: LogPosition(wanted.run.at),
                        octets: wanted.run.octets,
                        reason: Arc::clone(&reason),
                        unreadable: true,
                    }));
                }
            }
        }
    }

    fn read_range(&self, source: &mut Source, start: u64, end: u64) -> io::Result<Bytes> {
        let path = self.shared.dir.join(file_name(source.base));
        let file = match &source.file {
            Some(file) => file,
            None => source.file.insert(self.shared.disk.open_read(&path)?),
        };
        let mut octets = vec![0; usize::try_from(end - start).unwrap_or(usize::MAX)];
        let read = file.read_at(&mut octets, start - source.base)?;
        octets.truncate(read);
        Ok(Bytes::from(octets))
    }
}

/// Cuts the records out of what was read.
fn parse(group: &[Wanted], start: u64, octets: Bytes, copy: bool, base: u64, loaded: &mut Loaded) {
    for wanted in group {
        let run = &wanted.run;
        let from = usize::try_from(run.at - start).unwrap_or(usize::MAX);
        let to = octets.len().min(from.saturating_add(run.octets as usize));
        let records = if copy {
            // Records of other queues lie between: they are not to be kept alive by these.
            Bytes::copy_from_slice(octets.get(from..to).unwrap_or_default())
        } else {
            octets.slice(from.min(to)..to)
        };
        let mut at = 0;
        for number in 0..run.count {
            if number >= wanted.skip + wanted.count {
                break;
            }
            let rest = &records[at..];
            let sequence = Sequence(run.first + u64::from(number));
            let position = LogPosition(run.at + at as u64);
            let Some(len) = record_len(rest) else {
                // Without its length nobody can tell where the next one begins.
                let left = wanted.skip + wanted.count - number;
                loaded.damaged.push(Damage {
                    first: sequence,
                    count: left,
                    at: position,
                    octets: u32::try_from(rest.len()).unwrap_or(u32::MAX),
                    reason: format!(
                        "no record at offset {} of {}",
                        position.0 - base,
                        file_name(base)
                    )
                    .into(),
                    unreadable: false,
                });
                break;
            };
            if number >= wanted.skip {
                match check_record(rest) {
                    Ok(_) => loaded.messages.push(LoadedMessage {
                        sequence,
                        message: Message::from_record(records.slice(at..at + len)),
                        at: position,
                    }),
                    Err(error) => loaded.damaged.push(Damage {
                        first: sequence,
                        count: 1,
                        at: position,
                        octets: u32::try_from(len).unwrap_or(u32::MAX),
                        reason: format!(
                            "{error} at offset {} of {}",
                            position.0 - base,
                            file_name(base)
                        )
                        .into(),
                        unreadable: false,
                    }),
                }
            }
            at += len;
        }
    }
}
