//! Reading the log back. Nothing here changes the folder, so that a crash in the middle costs nothing.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use mamba_types::{LogPosition, Message, QueueId, Sequence};

use super::{
    LogConfig,
    files::FileInfo,
    writer::{SPARE, SPARES_MAX},
};
use crate::{
    disk::Disk,
    error::OpenError,
    format::{
        BadHeader, EnqueuedItem, FileStart, HEADER_LEN, Header, Kind, MAGIC, SequenceItem, VERSION,
        chunk_digest, file_base, record_len,
    },
    recovery::{Recovered, RecoveredMessage, RecoveredQueue, RecoveryReport},
};

/// Live records are copied together into buffers of about this size: one live message keeps no more alive.
const COPY_BUFFER: usize = 64 << 10;
/// Octets compared at once while looking for something that is not zero.
const ZERO_BLOCK: usize = 4096;
/// Sequences per block of slots.
const BLOCK: u64 = BLOCK_SLOTS as u64;
const BLOCK_SLOTS: usize = 256;

/// What the log needs to go on.
pub(crate) struct Scanned {
    pub(crate) recovered: Recovered,
    pub(crate) files: Vec<FileInfo>,
    pub(crate) watermarks: BTreeMap<QueueId, (Sequence, u64)>,
    /// Where the fresh file begins.
    pub(crate) end: u64,
    /// From here to `end` nothing was known to be durable.
    pub(crate) undurable_from: u64,
    pub(crate) spares: Vec<PathBuf>,
}

pub(crate) fn scan(
    dir: &Path,
    config: &LogConfig,
    disk: &dyn Disk,
    known: &dyn Fn(QueueId) -> bool,
) -> Result<Scanned, OpenError> {
    let mut bases = Vec::new();
    let mut spares = Vec::new();
    let names = disk
        .list(dir)
        .map_err(|error| OpenError::io("list", dir, error))?;
    for name in names {
        let Some(name) = name.to_str() else { continue };
        if let Some(base) = file_base(name) {
            bases.push(base);
        } else if name.starts_with(SPARE) {
            spares.push(dir.join(name));
        }
    }
    while spares.len() > SPARES_MAX
        && let Some(spare) = spares.pop()
    {
        disk.remove(&spare)
            .map_err(|error| OpenError::io("remove", spare, error))?;
    }
    bases.sort_unstable();
    let fresh = bases.is_empty();

    let mut scan = Scan {
        dir,
        disk,
        log_id: config.log_id(),
        files: bases.into_iter().map(FileInfo::new).collect(),
        loaded: Vec::new(),
        queues: BTreeMap::new(),
        watermarks: BTreeMap::new(),
        holes: Vec::new(),
        undurable: Vec::new(),
        synced: 0,
        clean: false,
        report: RecoveryReport::default(),
    };
    for index in 0..scan.files.len() {
        scan.file(index)?;
    }
    // What only the system's cache holds must not be taken for durable from now on.
    for file in scan.files.iter().filter(|file| file.end > scan.synced) {
        let path = dir.join(crate::format::file_name(file.base));
        disk.open(&path)
            .and_then(|open| open.sync_data())
            .map_err(|error| OpenError::io("sync", path, error))?;
    }
    let end = scan.files.last().map_or(0, |file| file.end);
    let queues = scan.collect(known)?;
    scan.classify_holes();
    let mut files = scan.files;
    // An empty newest file is begun anew under the same name.
    if files.last().is_some_and(|file| file.end == file.base) {
        files.pop();
    }
    scan.report.files = files.len() as u64;
    scan.report.clean = scan.clean || fresh;
    scan.report.live = queues
        .values()
        .map(|queue| queue.messages.len() as u64)
        .sum();
    scan.watermarks.retain(|queue, _| known(*queue));
    Ok(Scanned {
        recovered: Recovered {
            queues,
            report: scan.report,
            ..Recovered::default()
        },
        files,
        watermarks: scan.watermarks,
        end,
        undurable_from: scan.synced.min(end),
        spares,
    })
}

#[derive(Clone, Copy, Default)]
struct Slot {
    /// Where the record lies; 0: no such message seen.
    at: u64,
    len: u32,
    delivery_count: u32,
    settled: bool,
    may_be_delivered: bool,
}

#[derive(Default)]
struct QueueSlots {
    blocks: BTreeMap<u64, Box<[Slot; BLOCK_SLOTS]>>,
    watermark: u64,
}

impl QueueSlots {
    fn slot(&mut self, sequence: u64) -> &mut Slot {
        let block = self
            .blocks
            .entry(sequence / BLOCK)
            .or_insert_with(|| Box::new([Slot::default(); BLOCK_SLOTS]));
        let index = usize::try_from(sequence % BLOCK).unwrap_or(0);
        &mut block[index]
    }

    fn settle(&mut self, first: u64, count: u64) {
        // Blocks that hold nothing need no marks: a settlement follows its message, and a message whose
        // entry is lost cannot come back.
        let end = first.saturating_add(count);
        for (block, slots) in self.blocks.range_mut(first / BLOCK..=end / BLOCK) {
            let within = |sequence: u64| sequence.saturating_sub(block * BLOCK).min(BLOCK);
            let (from, to) = (within(first), within(end));
            for slot in slots
                .iter_mut()
                .take(usize::try_from(to).unwrap_or(0))
                .skip(usize::try_from(from).unwrap_or(0))
            {
                slot.settled = true;
            }
        }
    }
}

struct Loaded {
    index: usize,
    base: u64,
    octets: Vec<u8>,
}

struct Scan<'a> {
    dir: &'a Path,
    disk: &'a dyn Disk,
    log_id: u32,
    files: Vec<FileInfo>,
    /// The two files read last: records lie in the file of their entry or shortly before.
    loaded: Vec<Loaded>,
    queues: BTreeMap<QueueId, QueueSlots>,
    watermarks: BTreeMap<QueueId, (Sequence, u64)>,
    /// What could not be read, in order; bodies included.
    holes: Vec<Range<u64>>,
    /// Ranges that earlier recoveries found not to have been durable.
    undurable: Vec<Range<u64>>,
    /// The greatest position any entry knew to be synced.
    synced: u64,
    clean: bool,
    report: RecoveryReport,
}

impl Scan<'_> {
    /// Makes sure that the file's octets are in memory; returns where in `loaded`.
    fn load(&mut self, index: usize) -> Result<usize, OpenError> {
        if let Some(found) = self.loaded.iter().position(|file| file.index == index) {
            return Ok(found);
        }
        let base = self.files[index].base;
        let path = self.dir.join(crate::format::file_name(base));
        let fault = |error| OpenError::io("read", path.clone(), error);
        let file = self.disk.open_read(&path).map_err(fault)?;
        let mut len = file.len().map_err(fault)?;
        if let Some(next) = self.files.get(index + 1) {
            len = len.min(next.base - base);
        }
        let mut octets = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let read = file.read_at(&mut octets, 0).map_err(fault)?;
        octets.truncate(read);
        if self.loaded.len() >= 2 {
            self.loaded.remove(0);
        }
        self.loaded.push(Loaded {
            index,
            base,
            octets,
        });
        Ok(self.loaded.len() - 1)
    }

    /// Reads one file's entries.
    fn file(&mut self, index: usize) -> Result<(), OpenError> {
        let loaded = self.load(index)?;
        // Taken out while its entries are handled, because they may need other files.
        let file = self.loaded.remove(loaded);
        self.check_owner(&file)?;
        let octets = &file.octets[..];
        let mut at = 0;
        let mut end = 0;
        let mut recycled = true;
        while at < octets.len() {
            let Some((header, payload)) = self.entry(octets, file.base, at) else {
                match self.next_entry(octets, file.base, at + 1) {
                    Some(next) => {
                        self.hole(file.base + at as u64..file.base + next as u64);
                        at = next;
                        continue;
                    }
                    None => break,
                }
            };
            if header.kind == Kind::File
                && let Some(start) = FileStart::read(payload)
            {
                recycled = start.recycled;
                if start.undurable_from < file.base {
                    self.undurable.push(start.undurable_from..file.base);
                }
            }
            self.synced = self.synced.max(header.synced);
            self.report.entries += 1;
            self.clean = header.kind == Kind::CleanStop;
            let payload_at = at + HEADER_LEN;
            at = payload_at + payload.len();
            end = at;
            self.files[index].end = file.base + end as u64;
            self.apply(&header, payload, &file)?;
        }
        self.report.octets += end as u64;
        let end = file.base + end as u64;
        self.files[index].end = end;
        match self.files.get(index + 1).map(|next| next.base) {
            Some(next) => {
                if end < next {
                    self.hole(end..next);
                    self.files[index].end = next;
                }
            }
            None => self.torn_tail(octets, file.base, end, recycled),
        }
        self.loaded.push(file);
        Ok(())
    }
    /// A file of another format or another folder is refused rather than cut.
    fn check_owner(&self, file: &Loaded) -> Result<(), OpenError> {
        let path = || self.dir.join(crate::format::file_name(file.base));
        match Header::read(&file.octets) {
            Err(BadHeader::Version(found)) => Err(OpenError::Version {
                path: path(),
                found: found.to_string(),
                known: VERSION.into(),
            }),
            Ok(header) if header.kind == Kind::File && header.log_id != self.log_id => {
                Err(OpenError::ForeignLog { path: path() })
            }
            _ => Ok(()),
        }
    }

    /// The sound entry at offset `at`, if there is one.
    fn entry<'o>(&self, octets: &'o [u8], base: u64, at: usize) -> Option<(Header, &'o [u8])> {
        let header = Header::read(&octets[at..]).ok()?;
        if header.log_id != self.log_id || header.position != base + at as u64 {
            return None;
        }
        let payload = &octets[at + HEADER_LEN..];
        let payload = payload.get(..header.payload_len as usize)?;
        let sound = header.kind == Kind::Messages || header.payload_crc == crc32c::crc32c(payload);
        sound.then_some((header, payload))
    }

    /// Where the next sound entry begins, from offset `from` on.
    fn next_entry(&self, octets: &[u8], base: u64, mut from: usize) -> Option<usize> {
        const ZEROS: [u8; ZERO_BLOCK] = [0; ZERO_BLOCK];
        while from < octets.len() {
            let block = &octets[from..octets.len().min(from + ZERO_BLOCK)];
            if block != &ZEROS[..block.len()] {
                for (index, first) in block.iter().enumerate() {
                    let at = from + index;
                    if *first == MAGIC[0]
                        && octets[at..].starts_with(&MAGIC)
                        && self.entry(octets, base, at).is_some()
                    {
                        return Some(at);
                    }
                }
            }
            from += block.len();
        }
        None
    }

    fn hole(&mut self, range: Range<u64>) {
        self.clean = false;
        self.holes.push(range);
    }

    /// Counts what stands behind the last sound entry of the newest file.
    fn torn_tail(&mut self, octets: &[u8], base: u64, end: u64, recycled: bool) {
        let from = usize::try_from(end - base).unwrap_or(octets.len());
        let rest = &octets[from..];
        let torn = if recycled {
            // Behind the end stand entries of the file's former life; only a header tells ours apart.
            Header::read(rest)
                .ok()
                .filter(|header| header.log_id == self.log_id && header.position == end)
                .map_or(0, |header| {
                    rest.len().min(HEADER_LEN + header.payload_len as usize)
                })
        } else {
            rest.iter()
                .rposition(|octet| *octet != 0)
                .map_or(0, |last| last + 1)
        };
        if torn > 0 {
            self.clean = false;
        }
        self.report.torn_octets += torn as u64;
    }

    fn apply(&mut self, header: &Header, payload: &[u8], file: &Loaded) -> Result<(), OpenError> {
        match header.kind {
            Kind::File => {}
            Kind::Messages => {
                if chunk_digest(payload).unwrap_or(0) != header.payload_crc {
                    let start = header.position + HEADER_LEN as u64;
                    self.hole(start..start + payload.len() as u64);
                }
            }
            Kind::Enqueued => {
                for item in EnqueuedItem::read_all(payload) {
                    self.enqueued(&item, file)?;
                }
            }
            Kind::Settled => {
                for item in SequenceItem::read_all(payload) {
                    if let Some(queue) = self.queues.get_mut(&item.queue) {
                        queue.settle(item.sequence.0, item.number.into());
                    }
                }
            }
            Kind::Delivered => {
                for item in SequenceItem::read_all(payload) {
                    let queue = self.queues.entry(item.queue).or_default();
                    queue.watermark = queue.watermark.max(item.sequence.0);
                    let mark = (Sequence(queue.watermark), header.position);
                    self.watermarks.insert(item.queue, mark);
                }
            }
            Kind::DeliveryCount => {
                for item in SequenceItem::read_all(payload) {
                    if let Some(queue) = self.queues.get_mut(&item.queue) {
                        queue.slot(item.sequence.0).delivery_count = item.number;
                    }
                }
            }
            Kind::CleanStop => self.clean_stop(payload),
        }
        Ok(())
    }

    /// From a clean stop on, exactly these have been delivered, whatever the watermarks said.
    fn clean_stop(&mut self, payload: &[u8]) {
        self.watermarks.clear();
        for queue in self.queues.values_mut() {
            queue.watermark = 0;
            for slot in queue.blocks.values_mut().flat_map(|block| block.iter_mut()) {
                slot.may_be_delivered = false;
            }
        }
        for item in SequenceItem::read_all(payload) {
            if let Some(queue) = self.queues.get_mut(&item.queue) {
                for sequence in (item.sequence.0..).take(item.number as usize) {
                    queue.slot(sequence).may_be_delivered = true;
                }
            }
        }
    }

    fn enqueued(&mut self, item: &EnqueuedItem, current: &Loaded) -> Result<(), OpenError> {
        let missing = u64::from(item.count);
        let Some(index) = self
            .files
            .partition_point(|file| file.base <= item.at)
            .checked_sub(1)
        else {
            self.report.dangling += missing;
            return Ok(());
        };
        let loaded;
        let file = if index == current.index {
            current
        } else {
            loaded = self.load(index)?;
            &self.loaded[loaded]
        };
        let mut at = usize::try_from(item.at - file.base).unwrap_or(usize::MAX);
        let queue = self.queues.entry(item.queue).or_default();
        for number in 0..u64::from(item.count) {
            let record = file.octets.get(at..).unwrap_or_default();
            let Some(len) = record_len(record) else {
                self.report.dangling += missing - number;
                break;
            };
            let position = file.base + at as u64;
            let slot = queue.slot(item.first.0.saturating_add(number));
            // A copy made to free a file counts only if it is whole: the original may be all there is.
            let sound = slot.at == 0
                || Message::check(record).is_ok()
                    && !self.holes.iter().any(|hole| hole.contains(&position));
            if sound {
                slot.at = position;
                slot.len = u32::try_from(len).unwrap_or(u32::MAX);
            }
            slot.may_be_delivered |= item.may_be_delivered;
            slot.delivery_count = slot.delivery_count.max(item.delivery_count);
            self.files[index].pairs += 1;
            at += len;
        }
        Ok(())
    }

    /// Reads the bodies of what is live.
    fn collect(
        &mut self,
        known: &dyn Fn(QueueId) -> bool,
    ) -> Result<BTreeMap<QueueId, RecoveredQueue>, OpenError> {
        let mut live = Vec::new();
        let queues = std::mem::take(&mut self.queues);
        for (id, queue) in &queues {
            let before = live.len();
            live.extend(queue.live().map(|(_, slot)| (slot.at, slot.len)));
            if !known(*id) {
                self.report.unknown_queue += (live.len() - before) as u64;
                live.truncate(before);
            }
        }
        live.sort_unstable();
        live.dedup();
        let messages = self.read_records(&live)?;
        let mut recovered = BTreeMap::new();
        for (id, queue) in queues.iter().filter(|(id, _)| known(**id)) {
            let mut list = Vec::new();
            let mut next = 0;
            for (sequence, slot) in queue.live() {
                // Neighbours in the queue are mostly neighbours in the log.
                if live.get(next).is_none_or(|(at, _)| *at != slot.at) {
                    next = live.partition_point(|(at, _)| *at < slot.at);
                }
                let Some(message) = messages.get(next).cloned().flatten() else {
                    self.report.dangling += 1;
                    continue;
                };
                next += 1;
                if let Some(file) = self
                    .files
                    .partition_point(|file| file.base <= slot.at)
                    .checked_sub(1)
                {
                    self.files[file].live += 1;
                }
                list.push(RecoveredMessage {
                    sequence: Sequence(sequence),
                    message,
                    at: LogPosition(slot.at),
                    redelivered: slot.may_be_delivered || sequence <= queue.watermark,
                    delivery_count: slot.delivery_count,
                });
            }
            if !list.is_empty() {
                recovered.insert(*id, RecoveredQueue { messages: list });
            }
        }
        Ok(recovered)
    }

    /// Copies the records at these places, in order of position, out of the files.
    fn read_records(&mut self, wanted: &[(u64, u32)]) -> Result<Vec<Option<Message>>, OpenError> {
        let mut messages = Vec::with_capacity(wanted.len());
        let mut copies: Vec<u8> = Vec::new();
        let mut pending: Vec<Option<Range<usize>>> = Vec::new();
        let seal = |copies: &mut Vec<u8>, pending: &mut Vec<Option<Range<usize>>>| {
            let whole = Bytes::from(std::mem::take(copies).into_boxed_slice());
            pending
                .drain(..)
                .map(|range| range.map(|range| Message::from_record(whole.slice(range))))
                .collect::<Vec<_>>()
        };
        for (at, len) in wanted {
            let index = self
                .files
                .partition_point(|file| file.base <= *at)
                .saturating_sub(1);
            let loaded = self.load(index)?;
            let file = &self.loaded[loaded];
            let offset = usize::try_from(at - file.base).unwrap_or(usize::MAX);
            let record = file.octets.get(offset..).unwrap_or_default();
            let sound = !self.torn(*at)
                && Message::check(record).is_ok_and(|checked| checked == *len as usize);
            if sound {
                let start = copies.len();
                copies.extend_from_slice(&record[..*len as usize]);
                pending.push(Some(start..copies.len()));
            } else {
                pending.push(None);
                if !self.holes.iter().any(|hole| hole.contains(at)) {
                    self.holes.push(*at..at + u64::from(*len));
                }
            }
            if copies.len() >= COPY_BUFFER {
                messages.extend(seal(&mut copies, &mut pending));
            }
        }
        messages.extend(seal(&mut copies, &mut pending));
        self.loaded.clear();
        Ok(messages)
    }

    /// Whether the position lies in an unfinished write. A file's former records may stand there.
    fn torn(&self, at: u64) -> bool {
        self.holes
            .iter()
            .any(|hole| hole.contains(&at) && !self.was_durable(hole.start))
    }

    fn was_durable(&self, position: u64) -> bool {
        position < self.synced && !self.undurable.iter().any(|range| range.contains(&position))
    }

    fn classify_holes(&mut self) {
        for hole in std::mem::take(&mut self.holes) {
            if self.was_durable(hole.start) {
                let range = LogPosition(hole.start)..LogPosition(hole.end);
                tracing::error!(
                    from = hole.start,
                    to = hole.end,
                    "the message log is damaged"
                );
                self.report.quarantined.push(range);
            } else {
                self.report.torn_octets += hole.end - hole.start;
            }
        }
    }
}

impl QueueSlots {
    fn live(&self) -> impl Iterator<Item = (u64, &Slot)> {
        self.blocks.iter().flat_map(|(block, slots)| {
            slots
                .iter()
                .enumerate()
                .map(move |(index, slot)| (block * BLOCK + index as u64, slot))
                .filter(|(_, slot)| slot.at != 0 && !slot.settled)
        })
    }
}
