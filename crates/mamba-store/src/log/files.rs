//! What lives in which log file: decides when a file's room can be had back.

use std::{collections::VecDeque, sync::Arc};

/// Keeps a file while a chunk in it may still be enqueued.
#[derive(Debug, Default)]
pub(crate) struct Hold;

/// One log file's positions and what of it is alive.
#[derive(Clone, Debug)]
pub(crate) struct FileInfo {
    /// Position of its first octet.
    pub(crate) base: u64,
    /// Position after its last entry; grows while it is the newest.
    pub(crate) end: u64,
    /// (queue, message) pairs whose record lies here and is not settled.
    pub(crate) live: u64,
    /// All such pairs ever.
    pub(crate) pairs: u64,
    /// The synced position that must be reached before the file goes: its messages were moved there.
    pub(crate) gate: u64,
    pub(crate) hold: Arc<Hold>,
}

impl FileInfo {
    pub(crate) fn new(base: u64) -> Self {
        Self {
            base,
            end: base,
            live: 0,
            pairs: 0,
            gate: 0,
            hold: Arc::default(),
        }
    }

    fn dead(&self) -> bool {
        self.live == 0 && Arc::strong_count(&self.hold) == 1
    }

    fn live_octets(&self) -> u64 {
        // Records of one file are taken to be of one size; only the bound on space depends on it.
        let share = u128::from(self.end - self.base) * u128::from(self.live);
        u64::try_from(share / u128::from(self.pairs.max(1))).unwrap_or(u64::MAX)
    }
}

/// All log files, oldest first; the last one is being written.
#[derive(Debug, Default)]
pub(crate) struct Files {
    files: VecDeque<FileInfo>,
    hint: usize,
}

impl Files {
    pub(crate) fn push(&mut self, file: FileInfo) {
        debug_assert!(self.files.back().is_none_or(|last| last.end <= file.base));
        self.files.push_back(file);
    }

    /// The file being written.
    pub(crate) fn newest(&mut self) -> &mut FileInfo {
        self.files.back_mut().expect("a log has a newest file")
    }

    /// The oldest file, if it is closed, wholly written and nothing in it is needed.
    pub(crate) fn dead_oldest(&mut self, written: u64) -> Option<&mut FileInfo> {
        if self.files.len() < 2 {
            return None;
        }
        let oldest = self.files.front_mut()?;
        (oldest.dead() && oldest.end < written).then_some(oldest)
    }

    pub(crate) fn pop_oldest(&mut self) -> Option<FileInfo> {
        self.hint = self.hint.saturating_sub(1);
        self.files.pop_front()
    }

    /// The oldest file, if it is closed and pinned while the log is larger than twice what lives in it and `slack`.
    pub(crate) fn pinned_oldest(&self, written: u64, slack: u64) -> Option<&FileInfo> {
        let oldest = self.files.front()?;
        let (log, live) = self.octets();
        (self.files.len() > 1
            && oldest.live > 0
            && oldest.end < written
            && log > live.saturating_mul(2).saturating_add(slack))
        .then_some(oldest)
    }

    /// Octets in all files, and an estimate of those that are live.
    pub(crate) fn octets(&self) -> (u64, u64) {
        self.files.iter().fold((0, 0), |(log, live), file| {
            (log + (file.end - file.base), live + file.live_octets())
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// Counts `count` pairs whose record lies in the file of `at` as live.
    pub(crate) fn enqueued(&mut self, at: u64, count: u64) {
        if let Some(file) = self.find(at) {
            file.live += count;
            file.pairs += count;
        }
    }

    /// Counts one pair per position as dead; with a `gate`, its file also stays until that is synced.
    pub(crate) fn dead(&mut self, positions: impl Iterator<Item = u64>, gate: u64) {
        let mut positions = positions.peekable();
        while let Some(at) = positions.next() {
            let Some(file) = self.find(at) else { continue };
            let range = file.base..file.end;
            let mut count = 1;
            while positions.next_if(|next| range.contains(next)).is_some() {
                count += 1;
            }
            debug_assert!(file.live >= count, "more settled than enqueued");
            file.live = file.live.saturating_sub(count);
            file.gate = file.gate.max(gate);
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
