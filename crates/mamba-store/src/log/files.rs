//! What lives in which log file: decides when a file's room can be had back.

use std::{collections::VecDeque, sync::Arc};

use super::index::{ExtentKey, Index, Run};
use crate::format::EnqueuedItem;

/// Keeps a file while a chunk in it may still be enqueued, or somebody reads it.
#[derive(Debug, Default)]
pub(crate) struct Hold;

/// One log file's positions and what of it is alive.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileInfo {
    /// Position of its first octet.
    pub(crate) base: u64,
    /// Position after its last entry; grows while it is the newest.
    pub(crate) end: u64,
    /// (queue, message) pairs whose record lies here and is not settled.
    pub(crate) live: u64,
    /// Octets of their records; a record counts once per queue.
    pub(crate) live_octets: u64,
    /// Octets of all such pairs ever.
    pub(crate) pair_octets: u64,
    /// The synced position that must be reached before the file goes: what made its messages die stands before it.
    pub(crate) gate: u64,
    /// Its live messages have been copied elsewhere: nothing in it counts any more.
    pub(crate) moved: bool,
    /// The disk refused to read it at the start, or to give it back: it stays for whoever can.
    pub(crate) unreadable: bool,
    /// Starts of older files with records that this file's entries enqueue: nobody else can tell of them before those files are
    /// sealed.
    pub(crate) enqueues_in: Vec<u64>,
    /// Its first entry says that what lies between here and its start was never durable: without it, holes there would be taken for
    /// damage. Its start, if there is no such thing.
    pub(crate) undurable_from: u64,
    /// It tells of ids that a queue or exchange has seen: only a checkpoint makes it dispensable.
    pub(crate) tells_ids: bool,
    pub(crate) hold: Arc<Hold>,
    pub(crate) index: Index,
}

impl FileInfo {
    pub(crate) fn new(base: u64) -> Self {
        Self {
            base,
            end: base,
            undurable_from: base,
            ..Self::default()
        }
    }

    /// Nothing in it is needed.
    pub(crate) fn dead(&self) -> bool {
        #[cfg(feature = "mutants")]
        if crate::mutants::on(crate::mutants::Mutant::FreedTooEarly) {
            return true;
        }
        (self.live == 0 || self.moved) && !self.unreadable && Arc::strong_count(&self.hold) == 1
    }

    /// Notes that its entries enqueue records of the file at `base`.
    pub(crate) fn enqueues(&mut self, base: u64) {
        if base != self.base && !self.enqueues_in.contains(&base) {
            self.enqueues_in.push(base);
        }
    }

    pub(crate) const fn len(&self) -> u64 {
        self.end - self.base
    }

    /// Octets of the file that are alive, by the share of its pairs: a record shared by many queues lies here once.
    pub(crate) fn live_share(&self) -> u64 {
        if self.moved {
            return 0;
        }
        let share = u128::from(self.len()) * u128::from(self.live_octets);
        let share = share / u128::from(self.pair_octets.max(1));
        u64::try_from(share).unwrap_or(u64::MAX).min(self.len())
    }
}

/// All log files, oldest first; the last one is being written.
#[derive(Debug, Default)]
pub(crate) struct Files {
    files: VecDeque<FileInfo>,
    hint: usize,
    /// Something happened that may make a file free or one to seal: looking costs a pass over all of them.
    changed: bool,
}

impl Files {
    pub(crate) fn push(&mut self, file: FileInfo) {
        debug_assert!(self.files.back().is_none_or(|last| last.end <= file.base));
        self.files.push_back(file);
        self.changed = true;
    }

    /// Takes a file back into the books that could not be given back; it stays.
    pub(crate) fn put_back(&mut self, mut file: FileInfo) {
        file.unreadable = true;
        let index = self.files.partition_point(|other| other.base < file.base);
        self.files.insert(index, file);
        self.hint = 0;
    }

    /// Has the keeper look again after the next commit.
    pub(crate) const fn look_again(&mut self) {
        self.changed = true;
    }

    /// Whether there is a reason to look for files to free or to seal; asks only once.
    pub(crate) const fn take_changed(&mut self) -> bool {
        std::mem::replace(&mut self.changed, false)
    }

    /// The file being written.
    pub(crate) fn newest(&mut self) -> &mut FileInfo {
        self.files.back_mut().expect("a log has a newest file")
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &FileInfo> + ExactSizeIterator {
        self.files.iter()
    }

    /// A file whose room may be had back: dead, closed, wholly written, and either the oldest, if it tells of no ids, or wholly before the
    /// newest complete `checkpoint`.
    pub(crate) fn freeable(&mut self, written: u64, checkpoint: u64) -> Option<&mut FileInfo> {
        let closed = self.files.len().saturating_sub(1);
        let free = self
            .files
            .iter()
            .take(closed)
            .enumerate()
            .position(|(index, file)| {
                (index == 0 && !file.tells_ids || file.end <= checkpoint)
                    && file.end < written
                    && file.dead()
                    && !file
                        .enqueues_in
                        .iter()
                        .any(|base| self.needs_entries(*base))
                    && !self
                        .files
                        .iter()
                        .take(index)
                        .any(|older| older.end > file.undurable_from)
            });
        free.and_then(|index| self.files.get_mut(index))
    }

    /// Whether what lies in the file at `base` can only be told from entries.
    fn needs_entries(&self, base: u64) -> bool {
        let index = self.files.binary_search_by_key(&base, |file| file.base);
        let file = index.ok().and_then(|index| self.files.get(index));
        file.is_some_and(|file| file.live > 0 && !file.moved && !file.index.is_sealed())
    }

    pub(crate) fn remove(&mut self, base: u64) -> Option<FileInfo> {
        self.changed = true;
        self.hint = 0;
        let index = self.files.iter().position(|file| file.base == base)?;
        self.files.remove(index)
    }

    /// The start of the file that holds a position.
    pub(crate) fn base_of(&mut self, at: u64) -> Option<u64> {
        self.find(at).map(|file| file.base)
    }

    /// The file that begins at `base`.
    pub(crate) fn at_base(&mut self, base: u64) -> Option<&mut FileInfo> {
        self.changed = true;
        let index = self.files.binary_search_by_key(&base, |file| file.base);
        self.files.get_mut(index.ok()?)
    }

    /// A closed file that nobody writes to or reads, with something alive in it, and at least one younger closed file; or the
    /// oldest such one while more than `runs_max` runs are in memory.
    pub(crate) fn to_seal(&self, written: u64, runs_max: usize) -> Option<&FileInfo> {
        let closed = self.files.len().saturating_sub(1);
        let open_runs: usize = self
            .files
            .iter()
            .map(|file| match &file.index {
                Index::Open(index) => index.run_count(),
                Index::Sealed(_) => 0,
            })
            .sum();
        let young = usize::from(open_runs <= runs_max);
        self.files
            .iter()
            .take(closed.saturating_sub(young))
            .find(|file| {
                !file.index.is_sealed()
                    && file.live > 0
                    && !file.moved
                    && file.end < written
                    && Arc::strong_count(&file.hold) == 1
            })
    }

    /// The file before `checkpoint` that is cheapest to empty, if the files take more than twice what lives in them and `slack`,
    /// or are many more than what lives in them needs.
    pub(crate) fn to_empty(
        &self,
        checkpoint: u64,
        slack: u64,
        file_size: u64,
    ) -> Option<&FileInfo> {
        let (log, live) = self.octets();
        let too_large = log > live.saturating_mul(2).saturating_add(slack);
        let many = (slack + 2 * live) / file_size.max(1) + 16;
        let too_many = self.files.len() as u64 > many;
        if !too_large && !too_many {
            return None;
        }
        self.files
            .iter()
            .take(self.files.len().saturating_sub(1))
            .filter(|file| {
                file.end <= checkpoint
                    && file.live > 0
                    && !file.moved
                    && !file.unreadable
                    && Arc::strong_count(&file.hold) == 1
                    && (too_many || file.live_share() * 2 < file.len())
            })
            .min_by_key(|file| {
                if too_many {
                    file.live_share()
                } else {
                    share_of_thousand(file)
                }
            })
    }

    /// Octets in all files, and an estimate of those that are live.
    pub(crate) fn octets(&self) -> (u64, u64) {
        self.files.iter().fold((0, 0), |(log, live), file| {
            (log + file.len(), live + file.live_share())
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// Files that begin at `position` or later.
    pub(crate) fn count_since(&self, position: u64) -> usize {
        self.files.len() - self.files.partition_point(|file| file.base < position)
    }

    /// Counts the pairs of an ENQUEUED run as live and notes where they lie.
    pub(crate) fn enqueued(&mut self, item: &EnqueuedItem) {
        let newest = self.newest().base;
        let Some(file) = self.find(item.at) else {
            return;
        };
        file.live += u64::from(item.count);
        file.live_octets += u64::from(item.octets);
        file.pair_octets += u64::from(item.octets);
        let kept = file.index.push(ExtentKey::of(item), Run::of(item));
        debug_assert!(
            kept,
            "a file is sealed only when nothing in it can be enqueued any more"
        );
        let base = file.base;
        if base != newest {
            self.newest().enqueues(base);
        }
    }

    /// Counts one pair per (position, octets) as dead. A file that dies of it stays until `gate` is synced.
    pub(crate) fn dead(&mut self, pairs: impl Iterator<Item = (u64, u32)>, gate: u64) {
        let mut pairs = pairs.peekable();
        while let Some((at, octets)) = pairs.next() {
            let Some(file) = self.find(at) else { continue };
            let range = file.base..file.end;
            let mut count = 1;
            let mut octets = u64::from(octets);
            while let Some((_, more)) = pairs.next_if(|(next, _)| range.contains(next)) {
                count += 1;
                octets += u64::from(more);
            }
            file.died(count, octets, gate);
            let is_dead = file.live == 0;
            self.changed |= is_dead;
        }
    }

    fn find(&mut self, at: u64) -> Option<&mut FileInfo> {
        let here = |file: &FileInfo| (file.base..file.end).contains(&at);
        if !self.files.get(self.hint).is_some_and(here) {
            self.hint = self
                .files
                .partition_point(|file| file.base <= at)
                .checked_sub(1)?;
        }
        self.files.get_mut(self.hint).filter(|file| here(file))
    }
}

fn share_of_thousand(file: &FileInfo) -> u64 {
    file.live_share().saturating_mul(1000) / file.len().max(1)
}

impl FileInfo {
    /// Counts pairs as dead. When none is left, the file stays until `gate`, and that of those that died before, is synced.
    pub(crate) fn died(&mut self, count: u64, octets: u64, gate: u64) {
        debug_assert!(
            self.moved || self.live >= count,
            "more settled than enqueued"
        );
        self.live = self.live.saturating_sub(count);
        self.live_octets = self.live_octets.saturating_sub(octets);
        self.gate = self.gate.max(gate);
        if self.live == 0 {
            self.live_octets = 0;
        }
    }
}
