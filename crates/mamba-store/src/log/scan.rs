//! Reading the log back: the indexes of what is old, the entries of what is new, no bodies. Nothing is written and no log file
//! is touched, so that a crash in the middle costs nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use mamba_types::{LogPosition, QueueId, Sequence};

use super::{
    LogConfig, SeenId,
    files::FileInfo,
    index::{Covered, ExtentKey, Index, IndexFault, OpenIndex, Run, SealedIndex, Summary, Totals},
    live::{Flags, Live, LiveRange},
    writer::{SPARE, SPARES_MAX},
};
use crate::{
    disk::{Disk, DiskFile},
    error::OpenError,
    format::{
        BadHeader, EnqueuedItem, FILE_ENTRY_LEN, FileStart, HEADER_LEN, Header, Kind, MAGIC, Seen,
        SeenItem, SequenceItem, StateItem, VERSION, check_record, enqueued_runs, file_base,
        file_name, index_base, read_checkpoint, read_moved, record_len, u32_at,
    },
    recovery::{Recovered, RecoveredQueue, RecoveredRun, RecoveryReport},
};

/// Octets read at once.
const WINDOW: usize = 256 << 10;
/// Octets compared at once while looking for something that is not zero.
const ZERO_BLOCK: usize = 4096;
/// Runs of an index looked at together.
const RUNS_MAX: usize = 4096;
/// Where positions go on after a newest file of which not even the length can be had.
const UNKNOWN_LEN: u64 = 8 << 30;

/// What the log needs to go on.
#[derive(Default)]
pub(crate) struct Scanned {
    pub(crate) recovered: Recovered,
    pub(crate) files: Vec<FileInfo>,
    pub(crate) watermarks: BTreeMap<QueueId, (Sequence, u64)>,
    /// Where the fresh file begins.
    pub(crate) end: u64,
    /// From here to `end` nothing was known to be durable.
    pub(crate) undurable_from: u64,
    pub(crate) spares: Vec<PathBuf>,
    /// Where the newest complete checkpoint began; 0: there was none.
    pub(crate) checkpoint: u64,
}

pub(crate) fn scan(
    dir: &Path,
    config: &LogConfig,
    disk: &dyn Disk,
    known: &dyn Fn(QueueId) -> bool,
) -> Result<Scanned, OpenError> {
    let mut listing = Listing::read(dir, disk)?;
    listing.drop_spares(disk)?;
    let heads = Head::read_all(dir, disk, config.log_id(), &listing.bases)?;
    let mut checkpoint = 0;
    let mut scan = loop {
        let mut scan = Scan::new(dir, disk, config.log_id(), &listing.bases, &heads);
        scan.look_ahead();
        scan.checkpoint = scan.checkpoint.max(checkpoint);
        scan.use_indexes();
        for index in 0..scan.files.len() {
            scan.file(index)?;
        }
        // A younger checkpoint than the one taken allowed to give back files that this pass would have needed.
        checkpoint = scan.newest_checkpoint;
        if !scan.gaps.iter().any(|gap| *gap <= checkpoint) {
            break scan;
        }
    };
    scan.keep_from_the_cache()?;
    let end = scan.files.last().map_or(0, |file| file.end);
    scan.doubtful_items();
    scan.copies();
    let queues = scan.count(config, known);
    let seen = scan.known_ids(known);
    scan.classify_holes();
    scan.watermarks.retain(|queue, _| known(*queue));
    let mut files = scan.files;
    // An empty newest file is begun anew under the same name.
    if files.last().is_some_and(|file| file.end == file.base) {
        files.pop();
    }
    listing.report_lost_files(disk, config.log_id(), &mut scan.report);
    listing.drop_stale_indexes(disk, &files);
    scan.report.files = files.len() as u64;
    scan.report.clean = scan.clean || listing.bases.is_empty();
    Ok(Scanned {
        recovered: Recovered {
            queues,
            seen,
            report: scan.report,
            ..Recovered::default()
        },
        files,
        watermarks: scan.watermarks,
        end,
        undurable_from: scan.synced.min(end),
        spares: listing.spares,
        checkpoint: scan.checkpoint.max(scan.newest_checkpoint),
    })
}

/// Makes the index of one log file from the log. What is not of account any more may be in it.
pub(crate) fn index_of(
    dir: &Path,
    config: &LogConfig,
    disk: &dyn Disk,
    base: u64,
) -> io::Result<OpenIndex> {
    let names = disk.list(dir)?;
    let names = names.iter().filter_map(|name| name.to_str());
    let mut bases: Vec<_> = names.filter_map(file_base).collect();
    bases.sort_unstable();
    let mut index = OpenIndex::default();
    let first = bases.partition_point(|other| *other < base);
    let next = |number: usize| bases.get(number + 1).copied();
    let range = base..next(first).unwrap_or(u64::MAX);
    for (number, other) in bases.iter().enumerate().skip(first) {
        let mut reader = Reader::open(dir, disk, *other, next(number))?;
        let before = index.run_count();
        gather_items(&mut reader, config.log_id(), |item| {
            if range.contains(&item.at) {
                index.push(ExtentKey::of(item), Run::of(item));
            }
        })?;
        // A chunk at the end of a file is mostly enqueued at the start of the next one.
        if number > first && index.run_count() == before {
            break;
        }
    }
    Ok(index)
}

/// Calls `take` for each run of the file's sound ENQUEUED and SEEN entries.
fn gather_items(
    reader: &mut Reader,
    log_id: u32,
    mut take: impl FnMut(&EnqueuedItem),
) -> io::Result<()> {
    let mut at = 0;
    while at < reader.len {
        let Some(header) = reader.entry(log_id, at)? else {
            match reader.next_entry(log_id, at + 1)? {
                Some(next) => at = next,
                None => break,
            }
            continue;
        };
        if matches!(header.kind, Kind::Enqueued | Kind::Seen) {
            let payload = reader.payload(at, &header)?;
            enqueued_runs(header.kind, payload, |item| take(&item));
        }
        at += HEADER_LEN as u64 + u64::from(header.payload_len);
    }
    Ok(())
}

/// What is in the folder.
struct Listing {
    dir: PathBuf,
    /// Starts of the log files, ascending.
    bases: Vec<u64>,
    /// Indexes, and what was left of one by a crash.
    indexes: Vec<(Option<u64>, PathBuf)>,
    spares: Vec<PathBuf>,
}

impl Listing {
    fn read(dir: &Path, disk: &dyn Disk) -> Result<Self, OpenError> {
        let mut listing = Self {
            dir: dir.to_owned(),
            bases: Vec::new(),
            indexes: Vec::new(),
            spares: Vec::new(),
        };
        let names = disk
            .list(dir)
            .map_err(|error| OpenError::io("list", dir, error))?;
        for name in names.iter().filter_map(|name| name.to_str()) {
            if let Some(base) = file_base(name) {
                listing.bases.push(base);
            } else if let Some(base) = index_base(name) {
                listing.indexes.push((Some(base), dir.join(name)));
            } else if name.ends_with(".idx.new") {
                listing.indexes.push((None, dir.join(name)));
            } else if name.starts_with(SPARE) {
                listing.spares.push(dir.join(name));
            }
        }
        listing.bases.sort_unstable();
        Ok(listing)
    }

    fn drop_spares(&mut self, disk: &dyn Disk) -> Result<(), OpenError> {
        while self.spares.len() > SPARES_MAX
            && let Some(spare) = self.spares.pop()
        {
            disk.remove(&spare)
                .map_err(|error| OpenError::io("remove", spare, error))?;
        }
        Ok(())
    }

    /// A log file that was given back took its index with it before: an index alone says that its file is lost.
    fn report_lost_files(&self, disk: &dyn Disk, log_id: u32, report: &mut RecoveryReport) {
        for (base, path) in &self.indexes {
            let Some(base) = base.filter(|base| self.bases.binary_search(base).is_err()) else {
                continue;
            };
            let at = LogPosition(base);
            if report.quarantined.iter().any(|range| range.contains(&at)) {
                continue;
            }
            let end =
                SealedIndex::open(disk, &self.dir, base, log_id).map_or(base, |index| index.end);
            tracing::error!(
                file = %path.with_extension("log").display(),
                "a log file is missing: it is damage, and the messages in it are lost; put the file back from a backup of the whole folder, or go on without them"
            );
            report.quarantined.push(LogPosition(base)..LogPosition(end));
        }
    }

    /// Indexes without their log file; one that cannot be removed does no harm.
    fn drop_stale_indexes(&self, disk: &dyn Disk, files: &[FileInfo]) {
        let bases: BTreeSet<_> = files.iter().map(|file| file.base).collect();
        for (base, path) in &self.indexes {
            if base.is_none_or(|base| !bases.contains(&base))
                && let Err(error) = disk.remove(path)
            {
                let file = path.strip_prefix(&self.dir).unwrap_or(path).display();
                tracing::warn!(%file, %error, "an index without a log file could not be removed");
            }
        }
    }
}

/// What the first entry of a log file says.
pub(crate) struct Head {
    pub(crate) start: FileStart,
    pub(crate) synced: u64,
}

impl Head {
    /// A file of another format or another folder is refused rather than cut; what cannot be read says nothing.
    pub(crate) fn read_all(
        dir: &Path,
        disk: &dyn Disk,
        log_id: u32,
        bases: &[u64],
    ) -> Result<Vec<Option<Self>>, OpenError> {
        let mut heads = Vec::with_capacity(bases.len());
        for base in bases {
            heads.push(Self::read(dir, disk, log_id, *base)?);
        }
        Ok(heads)
    }

    fn read(
        dir: &Path,
        disk: &dyn Disk,
        log_id: u32,
        base: u64,
    ) -> Result<Option<Self>, OpenError> {
        let path = dir.join(file_name(base));
        let mut octets = vec![0; usize::try_from(FILE_ENTRY_LEN).unwrap_or(0)];
        let read = disk
            .open_read(&path)
            .and_then(|file| file.read_at(&mut octets, 0));
        match read {
            Ok(read) => octets.truncate(read),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(OpenError::io("read", path, error));
            }
            // The one who needs the rest of it will tell.
            Err(_) => return Ok(None),
        }
        let header = match Header::read(&octets) {
            Err(BadHeader::Version(found)) => {
                return Err(OpenError::Version {
                    path,
                    found: found.to_string(),
                    known: VERSION.into(),
                });
            }
            Ok(header) if header.kind == Kind::File => header,
            _ => return Ok(None),
        };
        if header.log_id != log_id {
            return Err(OpenError::ForeignLog { path });
        }
        let payload = octets.get(HEADER_LEN..).unwrap_or_default();
        let sound = header.position == base && header.payload_crc == crc32c::crc32c(payload);
        let start = FileStart::read(payload).filter(|_| sound);
        Ok(start.map(|start| Self {
            start,
            synced: header.synced,
        }))
    }
}

/// A log file read through a window.
pub(crate) struct Reader {
    file: Box<dyn DiskFile>,
    pub(crate) base: u64,
    /// Octets that may be entries.
    pub(crate) len: u64,
    window: Vec<u8>,
    /// Where in the file the window begins.
    start: u64,
}

impl Reader {
    pub(crate) fn open(
        dir: &Path,
        disk: &dyn Disk,
        base: u64,
        next: Option<u64>,
    ) -> io::Result<Self> {
        let file = disk.open_read(&dir.join(file_name(base)))?;
        let len = file.len()?.min(next.map_or(u64::MAX, |next| next - base));
        Ok(Self {
            file,
            base,
            len,
            window: Vec::new(),
            start: 0,
        })
    }

    /// The octets from offset `at` on: `wanted` or more, fewer only at the end.
    pub(crate) fn octets(&mut self, at: u64, wanted: usize) -> io::Result<&[u8]> {
        let left = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
        let wanted = wanted.min(left);
        let inside = |start: u64, window: &[u8]| {
            let from = usize::try_from(at.checked_sub(start)?).ok()?;
            (from + wanted <= window.len()).then_some(from)
        };
        let from = match inside(self.start, &self.window) {
            Some(from) => from,
            None => {
                self.window.resize(wanted.max(WINDOW).min(left), 0);
                let read = self.file.read_at(&mut self.window, at);
                // What was there before must not pass for what is here.
                self.start = at;
                self.window.truncate(*read.as_ref().unwrap_or(&0));
                read?;
                0
            }
        };
        Ok(&self.window[from..])
    }

    /// The sound entry at offset `at`, if there is one. The records of a MESSAGES entry are not looked at.
    pub(crate) fn entry(&mut self, log_id: u32, at: u64) -> io::Result<Option<Header>> {
        let position = self.base + at;
        let Ok(header) = Header::read(self.octets(at, HEADER_LEN)?) else {
            return Ok(None);
        };
        let payload_at = at + HEADER_LEN as u64;
        if header.log_id != log_id
            || header.position != position
            || self.len - payload_at < header.payload_len.into()
        {
            return Ok(None);
        }
        let sound = header.kind == Kind::Messages
            || header.payload_crc == crc32c::crc32c(self.payload(at, &header)?);
        Ok(sound.then_some(header))
    }

    /// If an entry begins at offset `at` and the file ends before it does: the position it should reach.
    fn cut_entry(&mut self, log_id: u32, at: u64) -> io::Result<Option<u64>> {
        let position = self.base + at;
        let after_header = position + HEADER_LEN as u64;
        let octets = self.octets(at, HEADER_LEN)?;
        if octets.len() < HEADER_LEN {
            return Ok(octets.starts_with(&MAGIC).then_some(after_header));
        }
        let header = Header::read(octets).ok();
        let header = header.filter(|one| one.log_id == log_id && one.position == position);
        let end = header.map(|header| after_header + u64::from(header.payload_len));
        // One that is whole but not sound was torn by an earlier crash, and a file that is gone by now has taken its place.
        Ok(end.filter(|end| *end > self.base + self.len))
    }

    /// The payload of the entry at offset `at`.
    pub(crate) fn payload(&mut self, at: u64, header: &Header) -> io::Result<&[u8]> {
        let len = header.payload_len as usize;
        let octets = self.octets(at + HEADER_LEN as u64, len)?;
        Ok(&octets[..len.min(octets.len())])
    }

    /// Where the next sound entry begins, from offset `from` on.
    pub(crate) fn next_entry(&mut self, log_id: u32, mut from: u64) -> io::Result<Option<u64>> {
        const ZEROS: [u8; ZERO_BLOCK] = [0; ZERO_BLOCK];
        while from < self.len {
            let block = self.octets(from, ZERO_BLOCK)?;
            let block = &block[..block.len().min(ZERO_BLOCK)];
            let len = block.len() as u64;
            if len == 0 {
                break;
            }
            if block != &ZEROS[..block.len()] {
                let begins = |(_, octet): &(u64, &u8)| **octet == MAGIC[0];
                let candidates: Vec<_> = (from..).zip(block).filter(begins).collect();
                let candidates: Vec<_> = candidates.into_iter().map(|(at, _)| at).collect();
                for at in candidates {
                    if self.octets(at, MAGIC.len())?.starts_with(&MAGIC)
                        && self.entry(log_id, at)?.is_some()
                    {
                        return Ok(Some(at));
                    }
                }
            }
            from += len;
        }
        Ok(None)
    }

    /// The digest of the records in `[at, to)`, as [`crate::format::chunk_digest`] makes it.
    fn digest(&mut self, mut at: u64, to: u64) -> io::Result<Option<u32>> {
        let mut digest = 0;
        while at < to {
            let head = self.octets(at, 8)?;
            let Some(head) = head.get(..8).map(<[u8]>::to_vec) else {
                return Ok(None);
            };
            let len = u64::from(u32_at(&head, 0));
            if len < mamba_types::message::RECORD_HEADER_LEN as u64 || len > to - at {
                return Ok(None);
            }
            digest = crc32c::crc32c_append(digest, &head[4..]);
            at += len;
        }
        Ok(Some(digest))
    }

    /// The first record in `[at, to)` whose octets are not what was written, as a range of offsets.
    fn torn_record(&mut self, mut at: u64, to: u64) -> io::Result<Option<Range<u64>>> {
        while at < to {
            let Some(record) = self.record(at)? else {
                return Ok(Some(at..to));
            };
            let len = record.len() as u64;
            if check_record(record).is_err() {
                return Ok(Some(at..at + len));
            }
            at += len;
        }
        Ok(None)
    }

    /// The record at offset `at`, if it can be one.
    pub(crate) fn record(&mut self, at: u64) -> io::Result<Option<&[u8]>> {
        let head = self.octets(at, 4)?;
        if head.len() < 4 {
            return Ok(None);
        }
        let len = u32_at(head, 0) as usize;
        if len as u64 > self.len - at {
            return Ok(None);
        }
        let octets = self.octets(at, len.max(mamba_types::message::RECORD_HEADER_LEN))?;
        Ok(record_len(octets).map(|len| &octets[..len]))
    }
}

struct Scan<'a> {
    dir: &'a Path,
    disk: &'a dyn Disk,
    log_id: u32,
    heads: &'a [Option<Head>],
    files: Vec<FileInfo>,
    queues: BTreeMap<QueueId, Live>,
    watermarks: BTreeMap<QueueId, (Sequence, u64)>,
    /// The checkpoint to begin from; what is older only says what lies where.
    checkpoint: u64,
    /// The newest one met that is complete.
    newest_checkpoint: u64,
    /// Files whose contents no longer count, for sure.
    moved: BTreeSet<u64>,
    /// What could not be read, in order; bodies included.
    holes: Vec<Range<u64>>,
    /// Where what is missing between two files ends.
    gaps: Vec<u64>,
    /// Everything since here has been read without a hole.
    solid_from: u64,
    /// Ranges that earlier recoveries found not to have been durable.
    undurable: Vec<Range<u64>>,
    /// The greatest position any entry knew to be synced.
    synced: u64,
    /// Runs whose records may not have reached the disk.
    doubtful: Vec<EnqueuedItem>,
    /// Ids that each queue and exchange has seen, in order; with the record that has to be whole for one to count.
    seen: BTreeMap<QueueId, Vec<(SeenId, Option<u64>)>>,
    clean: bool,
    report: RecoveryReport,
}

impl<'a> Scan<'a> {
    fn new(
        dir: &'a Path,
        disk: &'a dyn Disk,
        log_id: u32,
        bases: &[u64],
        heads: &'a [Option<Head>],
    ) -> Self {
        let mut scan = Self {
            dir,
            disk,
            log_id,
            heads,
            files: bases.iter().copied().map(FileInfo::new).collect(),
            queues: BTreeMap::new(),
            watermarks: BTreeMap::new(),
            checkpoint: 0,
            newest_checkpoint: 0,
            moved: BTreeSet::new(),
            holes: Vec::new(),
            gaps: Vec::new(),
            solid_from: 0,
            undurable: Vec::new(),
            synced: 0,
            doubtful: Vec::new(),
            seen: BTreeMap::new(),
            clean: false,
            report: RecoveryReport::default(),
        };
        for (base, head) in bases.iter().zip(heads) {
            let Some(head) = head else { continue };
            scan.synced = scan.synced.max(head.synced);
            scan.checkpoint = scan.checkpoint.max(head.start.checkpoint);
            if head.start.undurable_from < *base {
                if let Ok(index) = scan.files.binary_search_by_key(base, |file| file.base) {
                    scan.files[index].undurable_from = head.start.undurable_from;
                }
                scan.undurable.push(head.start.undurable_from..*base);
            }
        }
        scan
    }

    fn next_base(&self, index: usize) -> Option<u64> {
        self.files.get(index + 1).map(|next| next.base)
    }

    fn reader(&self, index: usize) -> io::Result<Reader> {
        let base = self.files[index].base;
        Reader::open(self.dir, self.disk, base, self.next_base(index))
    }

    fn was_durable(&self, position: u64) -> bool {
        position < self.synced && !self.undurable.iter().any(|range| range.contains(&position))
    }

    /// Whether all of `[from, to)` was known to be on the disk.
    fn were_durable(&self, from: u64, to: u64) -> bool {
        to <= self.synced
            && !self
                .undurable
                .iter()
                .any(|range| range.start < to && from < range.end)
    }

    /// Whether something before `position` is missing that was never durable, and so was nothing behind it: the power went
    /// while it was written, in any order.
    fn is_behind_a_torn_write(&self, position: u64) -> bool {
        self.holes.iter().any(|hole| {
            let found_then = self
                .undurable
                .iter()
                .find(|undurable| undurable.contains(&hole.start));
            !self.was_durable(hole.start)
                && position < found_then.map_or(u64::MAX, |undurable| undurable.end)
        })
    }

    /// Learns from the newest file how far the log was synced and where its newest checkpoint began, before the
    /// files are read in order.
    fn look_ahead(&mut self) {
        let newest = self.heads.iter().rposition(Option::is_some);
        let Some(index) = newest else { return };
        // What cannot be read is reported when its turn comes.
        let Ok(mut reader) = self.reader(index) else {
            return;
        };
        let base = reader.base;
        let mut checkpoints = Vec::new();
        let (mut at, mut solid_from) = (0, base);
        while at < reader.len {
            let Ok(Some(header)) = reader.entry(self.log_id, at) else {
                match reader.next_entry(self.log_id, at + 1) {
                    Ok(Some(next)) => at = next,
                    _ => break,
                }
                solid_from = base + at;
                continue;
            };
            self.synced = self.synced.max(header.synced);
            if header.kind == Kind::Checkpoint
                && let Ok(payload) = reader.payload(at, &header)
                && let Some(from) = read_checkpoint(payload)
                && from <= header.position
                && from <= header.synced
            {
                checkpoints.push((from, solid_from));
            }
            at += HEADER_LEN as u64 + u64::from(header.payload_len);
        }
        for (from, solid_from) in checkpoints {
            // Nothing of it may be missing, be it synced or not.
            let before = from.min(base)..base;
            if from >= solid_from
                || (solid_from == base && self.were_durable(before.start, before.end))
            {
                self.checkpoint = self.checkpoint.max(from);
            }
        }
    }

    /// Takes the indexes of all files that are wholly older than the checkpoint.
    fn use_indexes(&mut self) {
        for index in 0..self.files.len() {
            let base = self.files[index].base;
            let Some(next) = self
                .next_base(index)
                .filter(|next| *next <= self.checkpoint)
            else {
                continue;
            };
            let len = self
                .disk
                .open_read(&self.dir.join(file_name(base)))
                .and_then(|file| file.len());
            let Ok(sealed) = SealedIndex::open(self.disk, self.dir, base, self.log_id) else {
                continue;
            };
            // A file that does not tell its length may still be read some day.
            let most = len.map_or(next, |len| next.min(base + len));
            if base < sealed.end && sealed.end <= most {
                self.files[index].end = sealed.end;
                self.files[index].index = Index::Sealed(Arc::new(sealed));
            }
        }
    }

    /// Reads one file, unless its index says enough.
    fn file(&mut self, index: usize) -> Result<(), OpenError> {
        if self.files[index].index.is_sealed() {
            return Ok(());
        }
        self.report.files_scanned += 1;
        let base = self.files[index].base;
        let mut reader = match self.reader(index) {
            Ok(reader) => reader,
            Err(error) => {
                let len = self
                    .next_base(index)
                    .map_or(UNKNOWN_LEN, |next| next - base);
                return self.unreadable(index, len, &error);
            }
        };
        if let Err(error) = self.entries(index, &mut reader) {
            return self.unreadable(index, reader.len, &error);
        }
        self.items_in_sealed_neighbours(index)
    }

    /// The rest of a file cannot be read: whoever repairs the disk shall find it untouched.
    fn unreadable(&mut self, index: usize, len: u64, error: &io::Error) -> Result<(), OpenError> {
        let file = &mut self.files[index];
        let name = file_name(file.base);
        if error.kind() == io::ErrorKind::PermissionDenied {
            let error = io::Error::from(error.kind());
            return Err(OpenError::io("read", self.dir.join(name), error));
        }
        tracing::error!(file = name, from = file.end, %error, "a log file cannot be read: what follows in it is out of reach; the file is kept. Stop the broker, copy the file from the disk or a backup, and start again");
        let from = file.end;
        let range = from..file.base + len;
        file.unreadable = true;
        file.end = range.end;
        self.clean = false;
        self.solid_from = range.end;
        self.report
            .quarantined
            .push(LogPosition(from)..LogPosition(range.end));
        Ok(())
    }

    /// Reads one file's entries.
    fn entries(&mut self, index: usize, reader: &mut Reader) -> io::Result<()> {
        let base = reader.base;
        let (mut at, mut end) = (0, 0);
        while at < reader.len {
            let Some(header) = reader.entry(self.log_id, at)? else {
                match reader.next_entry(self.log_id, at + 1)? {
                    Some(next) => {
                        self.hole(base + at..base + next);
                        at = next;
                        continue;
                    }
                    None => break,
                }
            };
            self.synced = self.synced.max(header.synced);
            self.report.entries += 1;
            self.clean = header.kind == Kind::CleanStop;
            let len = HEADER_LEN as u64 + u64::from(header.payload_len);
            end = at + len;
            self.report.octets += len;
            self.files[index].end = base + end;
            self.apply(&header, at, reader)?;
            at = end;
        }
        match self.next_base(index) {
            Some(next) if base + end < next && next <= self.checkpoint => {
                // Files between may have been given back. Not what stands half in this one.
                if let Some(cut) = reader.cut_entry(self.log_id, end)? {
                    self.hole(base + end..cut.min(next));
                }
            }
            Some(next) if base + end < next => self.missing(index, next, reader.len),
            Some(_) => {}
            None => self.torn_tail(index, end, reader)?,
        }
        Ok(())
    }

    /// Between the last entry of a file and the next file something is not there.
    fn missing(&mut self, index: usize, next: u64, len: u64) {
        let file = &mut self.files[index];
        let range = file.end..next;
        file.end = file.base + len;
        self.gaps.push(next);
        self.hole(range);
    }

    fn hole(&mut self, range: Range<u64>) {
        self.clean = false;
        self.solid_from = self.solid_from.max(range.end);
        self.holes.push(range);
    }

    /// Counts what stands behind the last sound entry of the newest file.
    fn torn_tail(&mut self, index: usize, end: u64, reader: &mut Reader) -> io::Result<()> {
        let recycled = self.heads[index]
            .as_ref()
            .is_none_or(|head| head.start.recycled);
        let torn = if recycled {
            // Behind the end stand entries of the file's former life; only a header tells ours apart.
            let position = reader.base + end;
            let left = reader.len - end;
            Header::read(reader.octets(end, HEADER_LEN)?)
                .ok()
                .filter(|header| header.log_id == self.log_id && header.position == position)
                .map_or(0, |header| {
                    left.min(HEADER_LEN as u64 + u64::from(header.payload_len))
                })
        } else {
            let (mut at, mut last) = (end, end);
            while at < reader.len {
                let block = reader.octets(at, ZERO_BLOCK)?;
                if block.is_empty() {
                    break;
                }
                if let Some(offset) = block.iter().rposition(|octet| *octet != 0) {
                    last = at + offset as u64 + 1;
                }
                at += block.len() as u64;
            }
            last - end
        };
        if torn > 0 {
            self.clean = false;
        }
        self.report.torn_octets += torn;
        Ok(())
    }

    fn apply(&mut self, header: &Header, at: u64, reader: &mut Reader) -> io::Result<()> {
        let position = header.position;
        // What is older than the checkpoint is in its states.
        let counts = position >= self.checkpoint;
        // What is missing may be why a message left its queue: its copy in another one.
        let settles = counts && !self.is_behind_a_torn_write(position);
        match header.kind {
            Kind::File | Kind::CleanStop => {}
            Kind::Messages => {
                let start = position + HEADER_LEN as u64;
                let end = start + u64::from(header.payload_len);
                // What was synced is checked record by record when it is read.
                if !self.were_durable(start, end) {
                    let (base, crc) = (reader.base, Some(header.payload_crc));
                    if reader.digest(start - base, end - base)? != crc {
                        self.hole(start..end);
                    } else if let Some(torn) = reader.torn_record(start - base, end - base)? {
                        // The checksums have arrived, what they speak of has not.
                        self.hole(base + torn.start..base + torn.end);
                    }
                }
            }
            Kind::Enqueued | Kind::Seen => {
                let base = reader.base;
                let payload = reader.payload(at, header)?;
                enqueued_runs(header.kind, payload, |item| {
                    self.enqueued(&item, counts, base);
                });
                if header.kind == Kind::Seen && counts {
                    self.tells_ids(base);
                    for item in Seen::read(payload).into_iter().flat_map(Seen::ids) {
                        self.seen(&item, settles);
                    }
                }
            }
            Kind::SeenState if counts => {
                self.tells_ids(reader.base);
                if let Some((owner, ids)) = SeenId::read_state(reader.payload(at, header)?) {
                    let ids = ids.map(|id| (id, None));
                    self.seen.insert(owner, ids.collect());
                }
            }
            Kind::Settled if settles => {
                for item in SequenceItem::read_all(reader.payload(at, header)?) {
                    if let Some(live) = self.queues.get_mut(&item.queue) {
                        let from = item.sequence.0;
                        live.settle(from, from.saturating_add(item.number.into()));
                    }
                }
            }
            Kind::Delivered => {
                for item in SequenceItem::read_all(reader.payload(at, header)?) {
                    let live = self.queues.entry(item.queue).or_default();
                    live.delivered(item.sequence.0);
                    let mark = self.watermarks.entry(item.queue).or_default();
                    *mark = (mark.0.max(item.sequence), position);
                }
            }
            Kind::DeliveryCount if counts => {
                for item in SequenceItem::read_all(reader.payload(at, header)?) {
                    if let Some(live) = self.queues.get_mut(&item.queue) {
                        live.delivery_count(item.sequence.0, item.number);
                    }
                }
            }
            // What it says has left may have gone to where something is missing, as with SETTLED.
            Kind::State if counts && !settles => {}
            Kind::State => {
                if let Some((queue, items)) = StateItem::read_all(reader.payload(at, header)?) {
                    self.watermarks.remove(&queue);
                    let live = self.queues.entry(queue).or_default();
                    if counts {
                        live.reset(items);
                    } else {
                        live.reset(std::iter::empty());
                    }
                }
            }
            Kind::Checkpoint => {
                let from = read_checkpoint(reader.payload(at, header)?);
                let end = position + HEADER_LEN as u64 + 8;
                // Nothing of it may be missing, be it synced or not.
                let whole = |from: &u64| {
                    self.were_durable(*from, end)
                        || self.solid_from.max(self.checkpoint) <= *from && *from <= position
                };
                // Nor of what its states speak of.
                let stands = |from: &u64| *from <= header.synced;
                if let Some(from) = from.filter(whole).filter(stands) {
                    self.newest_checkpoint = self.newest_checkpoint.max(from);
                }
            }
            Kind::Moved => {
                // The file is there until this is durable: before that it still counts, and after the next
                // checkpoint nobody needs to know.
                if counts
                    && self.was_durable(position)
                    && let Some(base) = read_moved(reader.payload(at, header)?)
                {
                    self.moved.insert(base);
                }
            }
            Kind::Settled | Kind::DeliveryCount | Kind::SeenState => {}
        }
        Ok(())
    }

    /// The file that holds a position.
    fn holder(&self, at: u64) -> Option<usize> {
        let index = self
            .files
            .partition_point(|file| file.base <= at)
            .checked_sub(1)?;
        (at < self.files[index].end).then_some(index)
    }

    fn enqueued(&mut self, item: &EnqueuedItem, counts: bool, told_by: u64) {
        if item.volatile || item.count == 0 {
            return;
        }
        let holder = self.holder(item.at);
        if counts {
            let live = self.queues.entry(item.queue).or_default();
            let (from, level) = (item.first.0, item.level);
            let to = from.saturating_add(item.count.into());
            let flags = Flags {
                delivered: item.may_be_delivered,
                delivery_count: item.delivery_count,
            };
            match (holder, item.copied_from) {
                (Some(_), None) => live.enqueue(level, from, to, flags),
                (Some(_), Some(_)) => live.copy(level, from, to, flags),
                // It was settled, or a copy says that it lives.
                (None, None) => live.gone(level, to),
                // Whatever it was a copy of knows better.
                (None, Some(_)) => {}
            }
        }
        let Some(index) = holder else {
            self.report.dangling += u64::from(item.count);
            return;
        };
        if self.files[index].index.is_sealed() {
            return;
        }
        let other = self.files[index].base;
        if let Ok(index) = self.files.binary_search_by_key(&told_by, |file| file.base) {
            self.files[index].enqueues(other);
        }
        if self.were_durable(item.at, item.at + u64::from(item.octets)) {
            self.files[index]
                .index
                .push(ExtentKey::of(item), Run::of(item));
        } else {
            self.doubtful.push(*item);
        }
    }

    fn tells_ids(&mut self, base: u64) {
        if let Ok(index) = self.files.binary_search_by_key(&base, |file| file.base) {
            self.files[index].tells_ids = true;
        }
    }

    /// An id was seen. Unless all before it is `whole`, it counts only if its message is there: published again, it would otherwise be
    /// taken for a duplicate of nothing.
    fn seen(&mut self, item: &SeenItem, whole: bool) {
        let if_there = match (whole, item.at) {
            (true, _) => None,
            (false, Some(at)) => Some(at),
            (false, None) => return,
        };
        let ids = self.seen.entry(item.owner).or_default();
        ids.push((item.id, if_there));
    }

    /// The ids that count, of owners that still exist.
    fn known_ids(&mut self, known: &dyn Fn(QueueId) -> bool) -> BTreeMap<QueueId, Vec<SeenId>> {
        let mut open: Option<(usize, Reader)> = None;
        let mut there = |scan: &Self, at: u64| {
            let Some(index) = scan.holder(at).filter(|_| !scan.torn(at)) else {
                return false;
            };
            if open.as_ref().is_none_or(|(number, _)| *number != index) {
                open = scan.reader(index).ok().map(|reader| (index, reader));
            }
            open.as_mut().is_some_and(|(_, reader)| {
                let record = reader.record(at - reader.base);
                record.is_ok_and(|record| record.is_some_and(|octets| check_record(octets).is_ok()))
            })
        };
        let mut seen = BTreeMap::new();
        for (owner, ids) in std::mem::take(&mut self.seen) {
            let ids = ids
                .into_iter()
                .filter(|(_, record)| record.is_none_or(|at| there(self, at)))
                .map(|(id, _)| id);
            if known(owner) {
                seen.insert(owner, ids.collect());
            }
        }
        seen
    }

    /// A file whose index had to be made anew lacks the runs that are told by the next files, if nobody reads those.
    fn items_in_sealed_neighbours(&mut self, index: usize) -> Result<(), OpenError> {
        let range = self.files[index].base..self.files[index].end;
        for neighbour in index + 1..self.files.len() {
            if !self.files[neighbour].index.is_sealed() {
                break;
            }
            let base = self.files[neighbour].base;
            let mut items = Vec::new();
            let gathered = self.reader(neighbour).and_then(|mut reader| {
                gather_items(&mut reader, self.log_id, |item| {
                    if range.contains(&item.at) {
                        items.push(*item);
                    }
                })
            });
            if let Err(error) = gathered {
                let len = self.files[neighbour].end - base;
                self.unreadable(neighbour, len, &error)?;
            }
            if items.is_empty() {
                break;
            }
            for item in items {
                self.enqueued(&item, false, base);
            }
        }
        Ok(())
    }

    /// What only the system's cache holds must not be taken for durable from now on.
    fn keep_from_the_cache(&self) -> Result<(), OpenError> {
        let unsure = self.files.iter().filter(|file| file.end > self.synced);
        for file in unsure.filter(|file| !file.unreadable) {
            let path = self.dir.join(file_name(file.base));
            self.disk
                .open(&path)
                .and_then(|open| open.sync_data())
                .map_err(|error| OpenError::io("sync", path, error))?;
        }
        Ok(())
    }

    /// Whether the position lies in an unfinished write. A file's former records may stand there.
    fn torn(&self, at: u64) -> bool {
        self.holes
            .iter()
            .any(|hole| hole.contains(&at) && !self.was_durable(hole.start))
    }

    /// Takes of the doubtful runs what is whole.
    fn doubtful_items(&mut self) {
        let mut open: Option<(usize, Reader)> = None;
        for item in std::mem::take(&mut self.doubtful) {
            let Some(index) = self.holder(item.at) else {
                self.report.dangling += u64::from(item.count);
                continue;
            };
            let key = ExtentKey::of(&item);
            if self.were_durable(item.at, item.at + u64::from(item.octets)) {
                self.files[index].index.push(key, Run::of(&item));
                continue;
            }
            if open.as_ref().is_none_or(|(number, _)| *number != index) {
                open = self.reader(index).ok().map(|reader| (index, reader));
            }
            let mut whole = Parts::default();
            if let Some((_, reader)) = &mut open {
                whole.take(reader, &Run::of(&item), |_, at, record| {
                    !self.torn(at) && check_record(record).is_ok()
                });
            }
            self.report.dangling += u64::from(item.count) - whole.count();
            for run in whole.runs {
                self.files[index].index.push(key, run);
            }
        }
    }

    /// Of a message in several places one counts: the original until its file is moved or gone, then its last copy.
    fn copies(&mut self) {
        let mut settled = BTreeSet::new();
        for file in &mut self.files {
            file.moved = self.moved.contains(&file.base);
            if file.moved {
                file.index = Index::default();
            } else if !file.unreadable {
                settled.insert(file.base);
            }
        }
        let mut copied = BTreeSet::new();
        for file in &mut self.files {
            file.index.retain(|key| {
                !key.volatile
                    && key
                        .copied_from
                        .is_none_or(|origin| !settled.contains(&origin))
            });
            let extents = file.index.extents().into_iter();
            let copies = extents.filter(|(key, _)| key.copied_from.is_some());
            copied.extend(copies.map(|(key, _)| (key.queue, key.level)));
        }
        if copied.is_empty() {
            return;
        }
        let mut places: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (index, file) in self.files.iter().enumerate().rev() {
            for (key, summary) in file.index.extents() {
                let of = (key.queue, key.level);
                if copied.contains(&of) {
                    places.entry(of).or_default().push((index, key, summary));
                }
            }
        }
        for mut places in places.into_values() {
            // Originals first, then copies from the last one on.
            places.sort_by_key(|(_, key, _)| key.copied_from.is_some());
            if let Err(fault) = self.one_place_each(&places) {
                let error = io::Error::from(fault);
                tracing::warn!(%error, "copies of messages cannot be compared: they may count twice until they are gone");
            }
        }
    }

    /// Of messages of one level that are in several places leaves the first one. A crash may have cut a first try to empty a file
    /// short; and the file between an original and a copy of its copy may be gone before both.
    fn one_place_each(&mut self, places: &[(usize, ExtentKey, Summary)]) -> Result<(), IndexFault> {
        let mut covered = Covered::default();
        for (number, (index, key, summary)) in places.iter().enumerate() {
            let is_doubtful = covered.overlaps(summary.first, summary.to);
            let (first, to) = (summary.first, summary.to);
            let matters = |(_, later, other): &(usize, ExtentKey, Summary)| {
                later.copied_from.is_some() && other.overlaps(first, to)
            };
            if !is_doubtful && !places[number + 1..].iter().any(matters) {
                continue;
            }
            let runs = self.files[*index]
                .index
                .runs_of(self.disk, *key, 0, usize::MAX)?;
            if is_doubtful && key.copied_from.is_some() {
                let mut reader = self.reader(*index)?;
                let mut rest = Parts::default();
                for run in &runs {
                    if covered.overlaps(run.first, run.to()) {
                        rest.take(&mut reader, run, |sequence, _, _| {
                            !covered.overlaps(sequence, sequence + 1)
                        });
                    } else {
                        rest.runs.push(*run);
                    }
                }
                self.files[*index]
                    .index
                    .replace(self.disk, *key, rest.runs)?;
            }
            for run in runs {
                covered.add(run.first, run.to());
            }
        }
        Ok(())
    }

    /// Finds out how much of what lives lies where.
    fn count(
        &mut self,
        config: &LogConfig,
        known: &dyn Fn(QueueId) -> bool,
    ) -> BTreeMap<QueueId, RecoveredQueue> {
        let mut alive: Alive = BTreeMap::new();
        for (queue, live) in std::mem::take(&mut self.queues) {
            for (level, ranges) in live.finish() {
                let ranges = ranges.into_iter().map(|range| (range, Totals::default()));
                alive.insert((queue, level), ranges.collect());
            }
        }
        let mut dead_before = BTreeSet::new();
        for index in 0..self.files.len() {
            let found = match live_in(&self.files[index], self.disk, &alive) {
                Ok(found) => found,
                Err(fault) => {
                    self.index_anew(index, config, fault);
                    live_in(&self.files[index], self.disk, &alive).unwrap_or_default()
                }
            };
            let file = &mut self.files[index];
            let extents = file.index.extents();
            file.pair_octets = extents
                .iter()
                .map(|(_, summary)| summary.totals.octets)
                .sum();
            dead_before.extend(found.dead_before);
            for (queue, level, number, totals) in found.ranges {
                if known(queue) {
                    file.live += totals.count;
                    file.live_octets += totals.octets;
                }
                if let Some(ranges) = alive.get_mut(&(queue, level)) {
                    ranges[number].1.add(totals);
                }
            }
        }
        // What an unreadable file holds between two ranges nobody knows.
        let sure = !self.files.iter().any(|file| file.unreadable);
        let mut queues: BTreeMap<QueueId, RecoveredQueue> = BTreeMap::new();
        for ((queue, level), ranges) in alive {
            let counts: u64 = ranges.iter().map(|(_, totals)| totals.count).sum();
            if !known(queue) {
                self.report.unknown_queue += counts;
                continue;
            }
            self.report.live += counts;
            let mut last: Option<(LiveRange, Totals)> = None;
            let mut joins = false;
            let mut runs = Vec::new();
            for (number, (range, totals)) in ranges.into_iter().enumerate() {
                joins &= !dead_before.contains(&(queue, level, number));
                if totals.count == 0 {
                    continue;
                }
                match &mut last {
                    // What went elsewhere was settled between them: for this level they are one.
                    Some((before, sum)) if joins && before.flags == range.flags => {
                        before.to = range.to;
                        sum.add(totals);
                    }
                    _ => runs.extend(last.replace((range, totals))),
                }
                joins = sure;
            }
            runs.extend(last);
            let recovered = runs.into_iter().map(|(range, totals)| RecoveredRun {
                level,
                from: Sequence(range.from),
                to: Sequence(range.to),
                count: totals.count,
                body_bytes: totals.body_octets,
                estimated: totals.estimated,
                redelivered: range.flags.delivered,
                delivery_count: range.flags.delivery_count,
            });
            let mut recovered = recovered.peekable();
            if recovered.peek().is_some() {
                queues.entry(queue).or_default().runs.extend(recovered);
            }
        }
        queues
    }

    /// A sealed index turned out to be damaged: the log file itself tells the same.
    fn index_anew(&mut self, index: usize, config: &LogConfig, fault: IndexFault) {
        let file = &mut self.files[index];
        let name = file_name(file.base);
        let error = io::Error::from(fault);
        tracing::warn!(file = name, %error, "the index of a log file is damaged and made anew from the file");
        let wanted: BTreeSet<_> = file
            .index
            .extents()
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        match index_of(self.dir, config, self.disk, file.base) {
            Ok(mut anew) => {
                anew.retain(|key| wanted.contains(key));
                file.index = Index::Open(Arc::new(anew));
                self.report.files_scanned += 1;
            }
            Err(error) => {
                tracing::error!(file = name, %error, "a log file cannot be read: its messages are out of reach; the file is kept. Stop the broker, copy the file from the disk or a backup, and start again");
                file.unreadable = true;
                let range = LogPosition(file.base)..LogPosition(file.end);
                self.report.quarantined.push(range);
            }
        }
    }

    fn classify_holes(&mut self) {
        for hole in std::mem::take(&mut self.holes) {
            if self.was_durable(hole.start) {
                let range = LogPosition(hole.start)..LogPosition(hole.end);
                let file = self.files.partition_point(|file| file.base <= hole.start);
                let file = file
                    .checked_sub(1)
                    .map(|index| file_name(self.files[index].base));
                tracing::error!(
                    file = file.unwrap_or_default(),
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

/// Ranges of each level of each queue, and what was found in them.
type Alive = BTreeMap<(QueueId, u8), Vec<(LiveRange, Totals)>>;

/// What of a file lives.
#[derive(Default)]
struct LiveIn {
    /// Queue, level, which of its ranges, how much.
    ranges: Vec<(QueueId, u8, usize, Totals)>,
    /// Queue, level, before which of its ranges something lies that is dead.
    dead_before: BTreeSet<(QueueId, u8, usize)>,
}

fn live_in(file: &FileInfo, disk: &dyn Disk, alive: &Alive) -> Result<LiveIn, IndexFault> {
    let mut found = LiveIn::default();
    for (key, summary) in file.index.extents() {
        let Some(ranges) = alive.get(&(key.queue, key.level)) else {
            continue;
        };
        let first = ranges.partition_point(|(range, _)| range.to <= summary.first);
        let end = ranges.partition_point(|(range, _)| range.from < summary.to);
        let inside = ranges.get(first..end).unwrap_or_default();
        if inside.is_empty() {
            found.dead_before.insert((key.queue, key.level, first));
            continue;
        }
        let mut take = |number: usize, totals: Totals| {
            if totals.count > 0 {
                let number = first + number;
                found.ranges.push((key.queue, key.level, number, totals));
            }
        };
        if let [(range, _)] = inside
            && range.from <= summary.first
            && summary.to <= range.to
        {
            take(0, summary.totals);
            continue;
        }
        let mut sums = vec![Totals::default(); inside.len()];
        let mut dead_before = vec![false; inside.len()];
        let (mut number, mut next) = (0, 0);
        loop {
            let runs = file.index.runs_of(disk, key, next, RUNS_MAX)?;
            for run in &runs {
                while number < inside.len() && inside[number].0.to <= run.first {
                    number += 1;
                }
                let mut from = run.first;
                for (offset, (range, _)) in inside[number..].iter().enumerate() {
                    if from < range.from {
                        dead_before[number + offset] = true;
                    }
                    if run.to() <= range.from {
                        break;
                    }
                    sums[number + offset].add(Totals::of_part(run, range.from, range.to));
                    from = range.to;
                    if run.to() <= from {
                        break;
                    }
                }
            }
            match runs.last() {
                Some(last)
                    if runs.len() == RUNS_MAX && number < inside.len() && last.to() > next =>
                {
                    next = last.to();
                }
                _ => break,
            }
        }
        if summary.to > inside[inside.len() - 1].0.to {
            found.dead_before.insert((key.queue, key.level, end));
        }
        for (number, sum) in sums.into_iter().enumerate() {
            take(number, sum);
        }
        let dead = dead_before
            .into_iter()
            .enumerate()
            .filter(|(_, dead)| *dead);
        for (number, _) in dead {
            found
                .dead_before
                .insert((key.queue, key.level, first + number));
        }
    }
    Ok(found)
}

/// Parts of runs.
#[derive(Default)]
struct Parts {
    runs: Vec<Run>,
}

impl Parts {
    fn count(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.count)).sum()
    }

    /// Takes the messages of `run` that `wanted` accepts: sequence, position, record.
    fn take(&mut self, reader: &mut Reader, run: &Run, wanted: impl Fn(u64, u64, &[u8]) -> bool) {
        let mut at = run.at;
        let mut joins = false;
        for sequence in run.first..run.to() {
            // Without its length nobody can tell where the next one begins.
            let Ok(Some(record)) = reader.record(at - reader.base) else {
                break;
            };
            let octets = u32::try_from(record.len()).unwrap_or(u32::MAX);
            let body_octets = u32_at(record, 20).min(octets);
            let is_wanted = wanted(sequence, at, record);
            if is_wanted {
                match self.runs.last_mut().filter(|_| joins) {
                    Some(last) => {
                        last.count += 1;
                        last.octets += octets;
                        last.body_octets += body_octets;
                    }
                    None => self.runs.push(Run {
                        first: sequence,
                        at,
                        count: 1,
                        octets,
                        body_octets,
                    }),
                }
            }
            joins = is_wanted;
            at += u64::from(octets);
        }
    }
}
