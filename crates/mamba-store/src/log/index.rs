//! What lies where in one log file: per queue and level the runs of its records, in sequence order.
//!
//! While a file is young its index is in memory, fed by every ENQUEUED. Later it is *sealed*: written beside
//! the file, and only one line per extent stays in memory. A sealed index is redundant: whatever is wrong with
//! it, the log file tells the same.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use mamba_types::QueueId;

use crate::{
    disk::{Disk, DiskFile},
    format::{EnqueuedItem, index_name, u32_at, u64_at},
};

const MAGIC: [u8; 4] = *b"\xabMQ\x1f";
const VERSION: u8 = 1;
const HEADER_LEN: usize = 48;
const EXTENT_LEN: usize = 72;
const RUN_LEN: usize = 32;
/// Runs that share a checksum.
const BLOCK_RUNS: usize = 127;
const BLOCK_LEN: usize = BLOCK_RUNS * RUN_LEN + 32;
/// Octets written at once while sealing.
const WRITE_BUFFER: usize = 256 << 10;

/// Whose records an extent holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ExtentKey {
    pub(crate) queue: QueueId,
    pub(crate) level: u8,
    /// Of no account after a restart.
    pub(crate) volatile: bool,
    /// The file they were copied from, while that may still count instead.
    pub(crate) copied_from: Option<u64>,
}

impl ExtentKey {
    pub(crate) const fn of(item: &EnqueuedItem) -> Self {
        Self {
            queue: item.queue,
            level: item.level,
            volatile: item.volatile,
            copied_from: item.copied_from,
        }
    }

    const fn least(queue: QueueId, level: u8) -> Self {
        Self {
            queue,
            level,
            volatile: false,
            copied_from: None,
        }
    }
}

/// Records of consecutive sequences that lie back to back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u64,
    /// Position of the first record.
    pub(crate) at: u64,
    pub(crate) count: u32,
    /// Octets of the records.
    pub(crate) octets: u32,
    /// Octets of the bodies in them.
    pub(crate) body_octets: u32,
}

impl Run {
    pub(crate) const fn of(item: &EnqueuedItem) -> Self {
        Self {
            first: item.first.0,
            at: item.at,
            count: item.count,
            octets: item.octets,
            body_octets: item.body_octets,
        }
    }

    /// The first sequence after it.
    pub(crate) const fn to(&self) -> u64 {
        self.first + self.count as u64
    }

    fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.first.to_le_bytes());
        to.extend_from_slice(&self.at.to_le_bytes());
        for number in [self.count, self.octets, self.body_octets, 0] {
            to.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn read(octets: &[u8]) -> Self {
        Self {
            first: u64_at(octets, 0),
            at: u64_at(octets, 8),
            count: u32_at(octets, 16),
            octets: u32_at(octets, 20),
            body_octets: u32_at(octets, 24),
        }
    }
}

/// What an extent, or a part of one, adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Messages.
    pub(crate) count: u64,
    /// Octets of their records.
    pub(crate) octets: u64,
    /// Octets of their bodies.
    pub(crate) body_octets: u64,
    /// The octets are those of larger runs, shared out.
    pub(crate) estimated: bool,
}

impl Totals {
    pub(crate) const fn add(&mut self, other: Self) {
        self.count += other.count;
        self.octets += other.octets;
        self.body_octets += other.body_octets;
        self.estimated |= other.estimated;
    }

    /// The part of `run` inside `[from, to)`; octets by share.
    pub(crate) fn of_part(run: &Run, from: u64, to: u64) -> Self {
        let count = to.min(run.to()).saturating_sub(from.max(run.first));
        let share = |octets: u32| u64::from(octets) * count / u64::from(run.count.max(1));
        Self {
            count,
            octets: share(run.octets),
            body_octets: share(run.body_octets),
            estimated: count > 0 && count < run.count.into(),
        }
    }
}

/// Bounds and sums of one extent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) first: u64,
    /// The first sequence after it.
    pub(crate) to: u64,
    pub(crate) totals: Totals,
}

impl Summary {
    pub(crate) const fn overlaps(&self, from: u64, to: u64) -> bool {
        self.totals.count > 0 && self.first < to && from < self.to
    }

    fn push(&mut self, run: &Run) {
        if self.totals.count == 0 {
            self.first = run.first;
            self.to = run.to();
        }
        self.first = self.first.min(run.first);
        self.to = self.to.max(run.to());
        self.totals.add(Totals {
            count: run.count.into(),
            octets: run.octets.into(),
            body_octets: run.body_octets.into(),
            estimated: false,
        });
    }
}

#[derive(Clone, Debug, Default)]
struct OpenExtent {
    summary: Summary,
    runs: Vec<Run>,
}

/// The index of a file that may still grow.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpenIndex {
    extents: BTreeMap<ExtentKey, OpenExtent>,
    runs: usize,
}

impl OpenIndex {
    pub(crate) fn push(&mut self, key: ExtentKey, run: Run) {
        let extent = self.extents.entry(key).or_default();
        extent.summary.push(&run);
        match extent.runs.last_mut() {
            Some(last)
                if last.to() == run.first
                    && last.at + u64::from(last.octets) == run.at
                    && last.octets < MERGED_OCTETS_MAX =>
            {
                last.count += run.count;
                last.octets += run.octets;
                last.body_octets += run.body_octets;
                return;
            }
            Some(last) if run.first < last.first => {
                let place = extent.runs.partition_point(|other| other.first < run.first);
                extent.runs.insert(place, run);
            }
            _ => extent.runs.push(run),
        }
        self.runs += 1;
    }

    /// Drops the extents that `keep` refuses.
    pub(crate) fn retain(&mut self, keep: impl Fn(&ExtentKey) -> bool) {
        self.extents.retain(|key, _| keep(key));
        self.count();
    }

    /// Puts other runs in the place of an extent's, in order of sequence.
    pub(crate) fn replace(&mut self, key: ExtentKey, runs: Vec<Run>) {
        if runs.is_empty() {
            self.extents.remove(&key);
        } else {
            let mut summary = Summary::default();
            runs.iter().for_each(|run| summary.push(run));
            self.extents.insert(key, OpenExtent { summary, runs });
        }
        self.count();
    }

    fn count(&mut self) {
        self.runs = self.extents.values().map(|extent| extent.runs.len()).sum();
    }

    /// Runs in it; each takes [`RUN_LEN`] octets of memory or a little more.
    pub(crate) const fn run_count(&self) -> usize {
        self.runs
    }
}

/// Octets beyond which runs are not merged: a reader skips to its place record by record.
const MERGED_OCTETS_MAX: u32 = 256 << 10;

#[derive(Clone, Debug)]
struct SealedExtent {
    key: ExtentKey,
    summary: Summary,
    /// Its place among the file's runs.
    start: u32,
    runs: u32,
}

/// An index beside its file.
#[derive(Clone, Debug)]
pub(crate) struct SealedIndex {
    path: PathBuf,
    /// In order of their keys.
    extents: Vec<SealedExtent>,
    runs: u32,
    /// Where the runs begin in its file.
    runs_at: u64,
    /// Position after the log file's last entry.
    pub(crate) end: u64,
}

/// Why an index cannot be used.
#[derive(Debug)]
pub(crate) enum IndexFault {
    /// The disk said so.
    Io(io::Error),
    /// Its checksums do not match, or it belongs to something else.
    Damaged,
}

impl From<io::Error> for IndexFault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<IndexFault> for io::Error {
    fn from(fault: IndexFault) -> Self {
        match fault {
            IndexFault::Io(error) => error,
            IndexFault::Damaged => Self::new(io::ErrorKind::InvalidData, "the index is damaged"),
        }
    }
}

impl SealedIndex {
    /// Writes the index of the log file that begins at `base` beside it and makes it durable.
    pub(crate) fn write(
        index: &OpenIndex,
        disk: &dyn Disk,
        dir: &Path,
        base: u64,
        end: u64,
        log_id: u32,
    ) -> io::Result<Self> {
        let path = dir.join(index_name(base));
        let mut extents = Vec::with_capacity(index.extents.len());
        let mut runs = 0;
        for (key, extent) in &index.extents {
            let count = u32::try_from(extent.runs.len()).unwrap_or(u32::MAX);
            extents.push(SealedExtent {
                key: *key,
                summary: extent.summary,
                start: runs,
                runs: count,
            });
            runs += count;
        }
        let sealed = Self {
            path,
            runs_at: (HEADER_LEN + extents.len() * EXTENT_LEN) as u64,
            extents,
            runs,
            end,
        };
        let file = disk.open(&sealed.path)?;
        file.set_len(0)?;
        let mut to = Output {
            file: &*file,
            buffer: sealed.head(base, log_id),
            at: 0,
        };
        let mut block = Vec::with_capacity(BLOCK_LEN);
        for run in index.extents.values().flat_map(|extent| &extent.runs) {
            run.write(&mut block);
            if block.len() == BLOCK_RUNS * RUN_LEN {
                to.block(&mut block)?;
            }
        }
        if !block.is_empty() {
            to.block(&mut block)?;
        }
        to.flush()?;
        file.sync_data()?;
        disk.sync_dir(dir)?;
        Ok(sealed)
    }

    fn head(&self, base: u64, log_id: u32) -> Vec<u8> {
        let mut head = vec![0; HEADER_LEN];
        head[..4].copy_from_slice(&MAGIC);
        head[8] = VERSION;
        head[12..16].copy_from_slice(&log_id.to_le_bytes());
        head[16..24].copy_from_slice(&base.to_le_bytes());
        head[24..32].copy_from_slice(&self.end.to_le_bytes());
        let extents = u32::try_from(self.extents.len()).unwrap_or(u32::MAX);
        head[32..36].copy_from_slice(&extents.to_le_bytes());
        head[36..40].copy_from_slice(&self.runs.to_le_bytes());
        for extent in &self.extents {
            let (key, summary) = (&extent.key, &extent.summary);
            for number in [
                key.queue.0,
                summary.first,
                summary.to,
                summary.totals.count,
                summary.totals.octets,
                summary.totals.body_octets,
                key.copied_from.unwrap_or(0),
            ] {
                head.extend_from_slice(&number.to_le_bytes());
            }
            head.extend_from_slice(&extent.start.to_le_bytes());
            head.extend_from_slice(&extent.runs.to_le_bytes());
            let flags = u8::from(key.volatile) + 2 * u8::from(key.copied_from.is_some());
            head.extend_from_slice(&[key.level, flags, 0, 0, 0, 0, 0, 0]);
        }
        let crc = crc32c::crc32c(&head[8..]);
        head[4..8].copy_from_slice(&crc.to_le_bytes());
        head
    }

    /// Reads the summary of the index of the log file at `base`.
    pub(crate) fn open(
        disk: &dyn Disk,
        dir: &Path,
        base: u64,
        log_id: u32,
    ) -> Result<Self, IndexFault> {
        let path = dir.join(index_name(base));
        let file = disk.open_read(&path)?;
        let mut head = vec![0; HEADER_LEN];
        if file.read_at(&mut head, 0)? < HEADER_LEN
            || head[..4] != MAGIC
            || head[8] != VERSION
            || u32_at(&head, 12) != log_id
            || u64_at(&head, 16) != base
        {
            return Err(IndexFault::Damaged);
        }
        let (end, count) = (u64_at(&head, 24), u32_at(&head, 32) as usize);
        let runs = u32_at(&head, 36);
        let len = HEADER_LEN + count * EXTENT_LEN;
        let whole = len as u64 + u64::from(runs).div_ceil(BLOCK_RUNS as u64) * BLOCK_LEN as u64;
        if file.len()? != whole {
            return Err(IndexFault::Damaged);
        }
        head.resize(len, 0);
        if file.read_at(&mut head[HEADER_LEN..], HEADER_LEN as u64)? < count * EXTENT_LEN
            || u32_at(&head, 4) != crc32c::crc32c(&head[8..])
        {
            return Err(IndexFault::Damaged);
        }
        let extents = head[HEADER_LEN..].as_chunks::<EXTENT_LEN>().0;
        let extents = extents.iter().map(|line| SealedExtent {
            key: ExtentKey {
                queue: QueueId(u64_at(line, 0)),
                level: line[64],
                volatile: line[65] & 1 != 0,
                copied_from: (line[65] & 2 != 0).then(|| u64_at(line, 48)),
            },
            summary: Summary {
                first: u64_at(line, 8),
                to: u64_at(line, 16),
                totals: Totals {
                    count: u64_at(line, 24),
                    octets: u64_at(line, 32),
                    body_octets: u64_at(line, 40),
                    estimated: false,
                },
            },
            start: u32_at(line, 56),
            runs: u32_at(line, 60),
        });
        Ok(Self {
            extents: extents.collect(),
            path,
            runs,
            runs_at: len as u64,
            end,
        })
    }

    /// Runs `[from, to)` of the file.
    fn read_runs(&self, file: &dyn DiskFile, from: u32, to: u32) -> Result<Vec<Run>, IndexFault> {
        let (first, last) = (
            from as usize / BLOCK_RUNS,
            (to as usize).div_ceil(BLOCK_RUNS),
        );
        let mut blocks = vec![0; (last - first) * BLOCK_LEN];
        let at = self.runs_at + (first * BLOCK_LEN) as u64;
        if file.read_at(&mut blocks, at)? < blocks.len() {
            return Err(IndexFault::Damaged);
        }
        let mut runs = Vec::with_capacity((to - from) as usize);
        for (number, block) in blocks.chunks_exact(BLOCK_LEN).enumerate() {
            let (content, crc) = block.split_at(BLOCK_RUNS * RUN_LEN);
            if u32_at(crc, 0) != crc32c::crc32c(content) {
                return Err(IndexFault::Damaged);
            }
            let base = (first + number) * BLOCK_RUNS;
            let within = |run: u32| (run as usize).saturating_sub(base).min(BLOCK_RUNS);
            let wanted = within(from)..within(to);
            runs.extend(
                content.as_chunks::<RUN_LEN>().0[wanted]
                    .iter()
                    .map(|run| Run::read(run)),
            );
        }
        Ok(runs)
    }

    /// The runs of one extent that end after `from`, at most `max`.
    fn runs_from(
        &self,
        disk: &dyn Disk,
        extent: &SealedExtent,
        from: u64,
        max: usize,
    ) -> Result<Vec<Run>, IndexFault> {
        let file = disk.open_read(&self.path)?;
        let (mut low, mut high) = (0, extent.runs);
        if from > extent.summary.first {
            while low < high {
                let middle = low + (high - low) / 2;
                let at = extent.start + middle;
                let run = self.read_runs(&*file, at, at + 1)?;
                if run.first().is_some_and(|run| run.to() <= from) {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
        }
        let end = extent
            .runs
            .min(low.saturating_add(u32::try_from(max).unwrap_or(u32::MAX)));
        self.read_runs(&*file, extent.start + low, extent.start + end)
    }
}

struct Output<'a> {
    file: &'a dyn DiskFile,
    buffer: Vec<u8>,
    at: u64,
}

impl Output<'_> {
    /// Appends a block of runs, filled up and with its checksum.
    fn block(&mut self, runs: &mut Vec<u8>) -> io::Result<()> {
        runs.resize(BLOCK_RUNS * RUN_LEN, 0);
        self.buffer.extend_from_slice(runs);
        self.buffer
            .extend_from_slice(&crc32c::crc32c(runs).to_le_bytes());
        self.buffer
            .resize(self.buffer.len() + BLOCK_LEN - runs.len() - 4, 0);
        runs.clear();
        if self.buffer.len() >= WRITE_BUFFER {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut rest = &self.buffer[..];
        while !rest.is_empty() {
            let wrote = self.file.write_at(&[IoSlice::new(rest)], self.at)?;
            self.at += wrote as u64;
            rest = &rest[wrote.min(rest.len())..];
        }
        self.buffer.clear();
        Ok(())
    }
}

/// The index of one log file.
#[derive(Clone, Debug)]
pub(crate) enum Index {
    /// In memory.
    Open(Arc<OpenIndex>),
    /// Beside the file.
    Sealed(Arc<SealedIndex>),
}

impl Default for Index {
    fn default() -> Self {
        Self::Open(Arc::default())
    }
}

impl Index {
    /// Adds a run; false if the index is sealed and cannot take it.
    pub(crate) fn push(&mut self, key: ExtentKey, run: Run) -> bool {
        match self {
            Self::Open(index) => {
                Arc::make_mut(index).push(key, run);
                true
            }
            Self::Sealed(_) => false,
        }
    }

    /// Whether anything of (queue, level) overlaps `[from, to)`.
    pub(crate) fn overlaps(&self, queue: QueueId, level: u8, from: u64, to: u64) -> bool {
        match self {
            Self::Open(index) => index
                .extents
                .range(ExtentKey::least(queue, level)..)
                .take_while(|(key, _)| key.queue == queue && key.level == level)
                .any(|(_, extent)| extent.summary.overlaps(from, to)),
            Self::Sealed(index) => index
                .of_level(queue, level)
                .any(|extent| extent.summary.overlaps(from, to)),
        }
    }

    /// The runs of (queue, level) that overlap `[from, to)`, in sequence order, `max` of each extent at most. With the second
    /// value `Some(limit)` only what lies before `limit` is complete.
    pub(crate) fn runs(
        &self,
        disk: &dyn Disk,
        queue: QueueId,
        level: u8,
        range: (u64, u64),
        max: usize,
    ) -> Result<(Vec<Run>, Option<u64>), IndexFault> {
        let (from, to) = range;
        // Each run has a sequence at least: no more are read than can be in the range.
        let max = max.min(
            usize::try_from(to.saturating_sub(from))
                .unwrap_or(usize::MAX)
                .saturating_add(1),
        );
        let mut all = Vec::new();
        let mut limit: Option<u64> = None;
        let mut take = |runs: Vec<Run>| {
            if runs.len() >= max
                && let Some(last) = runs.last()
            {
                limit = Some(limit.unwrap_or(u64::MAX).min(last.to()));
            }
            all.extend(
                runs.into_iter()
                    .filter(|run| run.first < to && from < run.to()),
            );
        };
        match self {
            Self::Open(index) => {
                let extents = index
                    .extents
                    .range(ExtentKey::least(queue, level)..)
                    .take_while(|(key, _)| key.queue == queue && key.level == level)
                    .filter(|(_, extent)| extent.summary.overlaps(from, to));
                for (_, extent) in extents {
                    let start = extent.runs.partition_point(|run| run.to() <= from);
                    let end = extent.runs.len().min(start.saturating_add(max));
                    take(extent.runs[start..end].to_vec());
                }
            }
            Self::Sealed(index) => {
                let extents = index.of_level(queue, level);
                for extent in extents.filter(|extent| extent.summary.overlaps(from, to)) {
                    take(index.runs_from(disk, extent, from, max)?);
                }
            }
        }
        all.sort_unstable_by_key(|run| run.first);
        Ok((all, limit))
    }

    /// The runs of one extent that end after `from`, `max` at most.
    pub(crate) fn runs_of(
        &self,
        disk: &dyn Disk,
        key: ExtentKey,
        from: u64,
        max: usize,
    ) -> Result<Vec<Run>, IndexFault> {
        match self {
            Self::Open(index) => {
                let runs = index
                    .extents
                    .get(&key)
                    .map_or(&[][..], |extent| &extent.runs);
                let start = runs.partition_point(|run| run.to() <= from);
                let end = runs.len().min(start.saturating_add(max));
                Ok(runs[start..end].to_vec())
            }
            Self::Sealed(index) => {
                let mut extents = index.of_level(key.queue, key.level);
                extents
                    .find(|extent| extent.key == key)
                    .map_or(Ok(Vec::new()), |extent| {
                        index.runs_from(disk, extent, from, max)
                    })
            }
        }
    }

    /// What (queue, level) has in `[from, to)`, over the extents `wanted` accepts.
    pub(crate) fn totals(
        &self,
        disk: &dyn Disk,
        queue: QueueId,
        level: u8,
        range: (u64, u64),
        wanted: impl Fn(&ExtentKey) -> bool,
    ) -> Result<Totals, IndexFault> {
        let (from, to) = range;
        let mut totals = Totals::default();
        let inside = |summary: &Summary| from <= summary.first && summary.to <= to;
        match self {
            Self::Open(index) => {
                let extents = index
                    .extents
                    .range(ExtentKey::least(queue, level)..)
                    .take_while(|(key, _)| key.queue == queue && key.level == level)
                    .filter(|(key, extent)| extent.summary.overlaps(from, to) && wanted(key));
                for (_, extent) in extents {
                    if inside(&extent.summary) {
                        totals.add(extent.summary.totals);
                        continue;
                    }
                    let start = extent.runs.partition_point(|run| run.to() <= from);
                    let runs = extent.runs[start..].iter().take_while(|run| run.first < to);
                    runs.for_each(|run| totals.add(Totals::of_part(run, from, to)));
                }
            }
            Self::Sealed(index) => {
                let extents = index
                    .of_level(queue, level)
                    .filter(|extent| extent.summary.overlaps(from, to) && wanted(&extent.key));
                for extent in extents {
                    if inside(&extent.summary) {
                        totals.add(extent.summary.totals);
                        continue;
                    }
                    let runs = index.runs_from(disk, extent, from, usize::MAX)?;
                    let runs = runs.iter().take_while(|run| run.first < to);
                    runs.for_each(|run| totals.add(Totals::of_part(run, from, to)));
                }
            }
        }
        Ok(totals)
    }

    /// Whether there are copies of (queue, level) in `[from, to)`: their originals may be in another index.
    pub(crate) fn has_copies(&self, queue: QueueId, level: u8, from: u64, to: u64) -> bool {
        match self {
            Self::Open(index) => index
                .extents
                .range(ExtentKey::least(queue, level)..)
                .take_while(|(key, _)| key.queue == queue && key.level == level)
                .any(|(key, extent)| {
                    key.copied_from.is_some() && extent.summary.overlaps(from, to)
                }),
            Self::Sealed(index) => index.of_level(queue, level).any(|extent| {
                extent.key.copied_from.is_some() && extent.summary.overlaps(from, to)
            }),
        }
    }

    /// Like [`Self::totals`], for what `covered` does not have; it has it afterwards.
    pub(crate) fn totals_beside(
        &self,
        disk: &dyn Disk,
        queue: QueueId,
        level: u8,
        range: (u64, u64),
        covered: &mut Covered,
    ) -> Result<Totals, IndexFault> {
        let (runs, _) = self.runs(disk, queue, level, range, usize::MAX)?;
        let mut totals = Totals::default();
        for run in &runs {
            let (from, to) = (run.first.max(range.0), run.to().min(range.1));
            for (from, to) in covered.missing(from, to) {
                totals.add(Totals::of_part(run, from, to));
            }
            covered.add(run.first, run.to());
        }
        Ok(totals)
    }

    /// Every extent with its bounds and sums, in order of keys.
    pub(crate) fn extents(&self) -> Vec<(ExtentKey, Summary)> {
        match self {
            Self::Open(index) => {
                let extents = index.extents.iter();
                extents
                    .map(|(key, extent)| (*key, extent.summary))
                    .collect()
            }
            Self::Sealed(index) => {
                let extents = index.extents.iter();
                extents.map(|extent| (extent.key, extent.summary)).collect()
            }
        }
    }

    /// Drops the extents that `keep` refuses; what stands on the disk stays.
    pub(crate) fn retain(&mut self, keep: impl Fn(&ExtentKey) -> bool) {
        match self {
            Self::Open(index) => Arc::make_mut(index).retain(keep),
            Self::Sealed(index) => {
                Arc::make_mut(index)
                    .extents
                    .retain(|extent| keep(&extent.key));
            }
        }
    }

    /// Puts other runs in the place of an extent's; the index is in memory afterwards.
    pub(crate) fn replace(
        &mut self,
        disk: &dyn Disk,
        key: ExtentKey,
        runs: Vec<Run>,
    ) -> Result<(), IndexFault> {
        if let Self::Sealed(sealed) = self {
            let mut open = OpenIndex::default();
            for extent in &sealed.extents {
                open.replace(extent.key, sealed.runs_from(disk, extent, 0, usize::MAX)?);
            }
            *self = Self::Open(Arc::new(open));
        }
        if let Self::Open(index) = self {
            Arc::make_mut(index).replace(key, runs);
        }
        Ok(())
    }

    pub(crate) const fn is_sealed(&self) -> bool {
        matches!(self, Self::Sealed(_))
    }
}

impl SealedIndex {
    fn of_level(&self, queue: QueueId, level: u8) -> impl Iterator<Item = &SealedExtent> {
        let least = ExtentKey::least(queue, level);
        let start = self.extents.partition_point(|extent| extent.key < least);
        self.extents[start..]
            .iter()
            .take_while(move |extent| extent.key.queue == queue && extent.key.level == level)
    }
}

/// A set of sequences.
#[derive(Default)]
pub(crate) struct Covered {
    /// Start and end of ranges that neither overlap nor touch.
    ranges: BTreeMap<u64, u64>,
}

impl Covered {
    pub(crate) fn overlaps(&self, from: u64, to: u64) -> bool {
        let before = self.ranges.range(..to).next_back();
        before.is_some_and(|(_, end)| *end > from)
    }

    /// The parts of `[from, to)` that are not in it.
    pub(crate) fn missing(&self, from: u64, to: u64) -> Vec<(u64, u64)> {
        let mut parts = Vec::new();
        let before = self.ranges.range(..=from).next_back();
        let mut next = before.map_or(from, |(_, end)| from.max(*end));
        for (start, end) in self.ranges.range(from..to) {
            if next < *start {
                parts.push((next, *start));
            }
            next = next.max(*end);
        }
        if next < to {
            parts.push((next, to));
        }
        parts
    }

    pub(crate) fn add(&mut self, mut from: u64, mut to: u64) {
        while let Some((start, end)) = self.ranges.range(..=to).next_back()
            && *end >= from
        {
            let (start, end) = (*start, *end);
            self.ranges.remove(&start);
            (from, to) = (from.min(start), to.max(end));
        }
        self.ranges.insert(from, to);
    }
}
