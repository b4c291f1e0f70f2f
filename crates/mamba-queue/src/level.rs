//! The ready messages of one priority.
//!
//! ```text
//!   returned -> head -> paged -> tail <- enqueue
//!   memory      memory  disk     memory
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mamba_types::{LogPosition, Sequence};

use crate::{
    paging::{LiveRun, PageToken, PagedRun, is_readable},
    queue::{QueueKind, Stored},
};

/// Messages of one priority. `returned` goes first: whatever was delivered once lies before everything
/// fresh, because fresh messages leave strictly from the front.
///
/// Sequences ascend through head, paged and tail. While nothing is paged, the tail is empty.
#[derive(Debug, Default)]
pub(crate) struct Level {
    pub(crate) returned: BTreeMap<u64, Stored>,
    pub(crate) head: VecDeque<Stored>,
    pub(crate) paged: VecDeque<PagedRun>,
    pub(crate) tail: VecDeque<Stored>,
    /// The reading of the first paged run that is under way.
    pub(crate) loading: Option<PageToken>,
    /// Octets of records in memory; what is neither returned nor tail is head.
    pub(crate) resident: usize,
    pub(crate) returned_bytes: usize,
    pub(crate) tail_bytes: usize,
    pub(crate) paged_count: u64,
    /// Sequences that no run may reach across, because something of this level that is stored and not ready may lie
    /// before them: settled before a restart, or out. Neighbours without such a break between them are neighbours in
    /// the log too.
    pub(crate) breaks: BTreeSet<u64>,
}

impl Level {
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_empty() && self.returned.is_empty() && self.paged.is_empty()
    }

    /// The next message is on the disk.
    pub(crate) fn is_blocked(&self) -> bool {
        self.head.is_empty() && self.returned.is_empty() && !self.paged.is_empty()
    }

    pub(crate) fn first(&self) -> Option<&Stored> {
        self.returned.values().next().or_else(|| self.head.front())
    }

    /// Octets before the first paged message.
    pub(crate) const fn front_bytes(&self) -> usize {
        self.resident - self.tail_bytes
    }

    pub(crate) const fn head_bytes(&self) -> usize {
        self.front_bytes() - self.returned_bytes
    }

    /// Whether nothing of this level lies between what ends before `end` and what begins at `start`.
    pub(crate) fn is_joined(&self, end: Sequence, start: Sequence) -> bool {
        end == start || self.breaks.range(end.0..=start.0).next().is_none()
    }

    pub(crate) fn push_returned(&mut self, rank: u64, stored: Stored) {
        let octets = stored.memory();
        self.resident += octets;
        self.returned_bytes += octets;
        self.returned.insert(rank, stored);
    }

    /// Puts a message back among those at the head, where it was before.
    pub(crate) fn insert_in_head(&mut self, stored: Stored) {
        self.resident += stored.memory();
        self.breaks
            .extend([stored.sequence.0, stored.sequence.next().0]);
        let index = self
            .head
            .partition_point(|other| other.sequence < stored.sequence);
        self.head.insert(index, stored);
    }

    /// Adds a message behind everything paged.
    pub(crate) fn page_back(&mut self, priority: u8, stored: &Stored) {
        let run = PagedRun::of(priority, stored);
        self.paged_count += 1;
        let joins = self
            .paged
            .back()
            .is_some_and(|last| last.has_flags_of(&run) && self.is_joined(last.to, run.from));
        match self.paged.back_mut() {
            Some(last) if joins => last.absorb(&run),
            _ => self.paged.push_back(run),
        }
    }

    /// Adds a message before everything paged.
    pub(crate) fn page_front(&mut self, priority: u8, stored: &Stored) {
        let run = PagedRun::of(priority, stored);
        self.paged_count += 1;
        let joins = self
            .paged
            .front()
            .is_some_and(|first| first.has_flags_of(&run) && self.is_joined(run.to, first.from));
        match self.paged.front_mut() {
            Some(first) if joins => first.absorb(&run),
            _ => self.paged.push_front(run),
        }
    }

    /// Adds a message that has been out to what is paged, in its place. What was around it may still be out, so that
    /// only consecutive ones make one run.
    pub(crate) fn page_in_place(&mut self, priority: u8, stored: &Stored) {
        let run = PagedRun::of(priority, stored);
        self.paged_count += 1;
        self.breaks.extend([run.from.0, run.to.0]);
        let index = self.paged.partition_point(|other| other.from < run.from);
        let follows = index > 0
            && self
                .paged
                .get(index - 1)
                .is_some_and(|before| before.to == run.from && before.has_flags_of(&run));
        let precedes = self
            .paged
            .get(index)
            .is_some_and(|after| after.from == run.to && after.has_flags_of(&run));
        if precedes {
            self.breaks.remove(&run.to.0);
            self.paged[index].absorb(&run);
        }
        if follows {
            self.breaks.remove(&run.from.0);
            let whole = if precedes {
                self.paged.remove(index)
            } else {
                Some(run)
            };
            if let Some(whole) = whole {
                self.paged[index - 1].absorb(&whole);
            }
        }
        if !precedes && !follows {
            self.paged.insert(index, run);
        }
    }

    /// The first message of the head that lies beyond `keep` octets.
    pub(crate) fn head_beyond(&self, keep: usize) -> usize {
        let mut bytes = self.front_bytes();
        let mut index = self.head.len();
        while bytes > keep && index > 0 {
            index -= 1;
            bytes -= self.head[index].memory();
        }
        index
    }

    /// How many messages at the tail's front lie beyond the `keep` octets at its back.
    pub(crate) fn tail_beyond(&self, keep: usize) -> usize {
        let mut bytes = self.tail_bytes;
        let beyond = |stored: &&Stored| {
            let is_beyond = bytes > keep;
            bytes -= stored.memory();
            is_beyond
        };
        self.tail.iter().take_while(beyond).count()
    }

    pub(crate) fn page_out(
        &mut self,
        priority: u8,
        readable: LogPosition,
        keep: usize,
        keep_tail: usize,
        kind: QueueKind,
    ) {
        // While the first run is read in, nothing may come before it.
        if self.loading.is_none() && self.front_bytes() > keep {
            if self.paged.is_empty() {
                self.page_out_middle(priority, readable, keep);
            } else {
                while self.front_bytes() > keep
                    && let Some(last) = self.head.back()
                    && is_readable(last, readable)
                    && let Some(stored) = self.head.pop_back()
                {
                    self.resident -= stored.memory();
                    self.page_front(priority, &stored);
                }
            }
            while kind == QueueKind::Classic
                && self.head.is_empty()
                && self.front_bytes() > keep
                && let Some(last) = self.returned.last_entry()
                && is_readable(last.get(), readable)
            {
                let stored = last.remove();
                let octets = stored.memory();
                self.resident -= octets;
                self.returned_bytes -= octets;
                self.page_in_place(priority, &stored);
            }
        }
        while !self.paged.is_empty()
            && self.tail_bytes > keep_tail
            && let Some(first) = self.tail.front()
            && is_readable(first, readable)
            && let Some(stored) = self.tail.pop_front()
        {
            let octets = stored.memory();
            self.resident -= octets;
            self.tail_bytes -= octets;
            self.page_back(priority, &stored);
        }
        shrink(&mut self.head);
        shrink(&mut self.tail);
        self.forget_breaks();
    }

    /// With nothing paged yet: the first stretch beyond `keep` that can be read back becomes paged, and what lies
    /// behind it the tail.
    pub(crate) fn page_out_middle(&mut self, priority: u8, readable: LogPosition, keep: usize) {
        let beyond = self.head_beyond(keep);
        let is_readable = |stored: &&Stored| is_readable(stored, readable);
        let skipped = self.head.range(beyond..).take_while(|s| !is_readable(s));
        let first = beyond + skipped.count();
        let end = first + self.head.range(first..).take_while(is_readable).count();
        if first == end {
            return;
        }
        self.tail = self.head.split_off(end);
        self.tail_bytes = self.tail.iter().map(|s| s.memory()).sum();
        for stored in self.head.split_off(first) {
            self.resident -= stored.memory();
            self.page_back(priority, &stored);
        }
    }

    /// When nothing is paged any more, the tail is the head.
    pub(crate) fn join_tail(&mut self) {
        if self.paged.is_empty() {
            self.tail_bytes = 0;
            if self.head.is_empty() {
                self.head = std::mem::take(&mut self.tail);
            } else {
                self.head.append(&mut self.tail);
                self.tail = VecDeque::new();
            }
        }
    }

    /// Forgets breaks that everything is behind.
    pub(crate) fn forget_breaks(&mut self) {
        if self.breaks.is_empty() {
            return;
        }
        let head = self.head.front().map(|stored| stored.sequence);
        match head.or_else(|| self.paged.front().map(|run| run.from)) {
            Some(first) => self.breaks = self.breaks.split_off(&first.next().0),
            None => self.breaks.clear(),
        }
    }

    /// What of these neighbours is in the log, as runs.
    pub(crate) fn add_live<'a>(
        &self,
        priority: u8,
        neighbours: impl Iterator<Item = &'a Stored>,
        delivered: bool,
        live: &mut Vec<LiveRun>,
    ) {
        let mut last: Option<LiveRun> = None;
        for stored in neighbours.filter(|stored| stored.at != LogPosition::NONE) {
            let run = LiveRun::of(priority, stored, delivered);
            match &mut last {
                Some(last) if last.has_flags_of(&run) && self.is_joined(last.to, run.from) => {
                    last.to = run.to;
                }
                _ => live.extend(last.replace(run)),
            }
        }
        live.extend(last);
    }

    pub(crate) fn check(&self, priority: u8) {
        let octets = |stored: &mut dyn Iterator<Item = &Stored>| -> usize {
            stored.map(|stored| stored.memory()).sum()
        };
        let (returned, tail) = (
            octets(&mut self.returned.values()),
            octets(&mut self.tail.iter()),
        );
        assert_eq!(self.returned_bytes, returned);
        assert_eq!(self.tail_bytes, tail);
        assert_eq!(
            self.resident,
            returned + tail + octets(&mut self.head.iter())
        );
        let paged: u64 = self.paged.iter().map(|run| run.count).sum();
        assert_eq!(self.paged_count, paged);
        assert!(
            self.tail.is_empty() || !self.paged.is_empty(),
            "a tail behind nothing"
        );
        assert!(
            self.loading.is_none() || !self.paged.is_empty(),
            "reading what is not paged"
        );
        assert!(
            self.paged
                .iter()
                .all(|run| run.level == priority && run.from < run.to)
        );
        let single = |stored: &Stored| (stored.sequence, stored.sequence.next());
        let ranges: Vec<_> = self
            .head
            .iter()
            .map(single)
            .chain(self.paged.iter().map(|run| (run.from, run.to)))
            .chain(self.tail.iter().map(single))
            .collect();
        for pair in ranges.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "{pair:?} are out of order");
        }
    }
}

/// Slots below which an emptied level keeps its memory: bursts come again.
pub(crate) const SHRINK_ABOVE: usize = 16_384;

/// Gives memory back after most of a long list went to the disk.
fn shrink(list: &mut VecDeque<Stored>) {
    if list.capacity() > SHRINK_ABOVE && list.len() < list.capacity() / 4 {
        list.shrink_to(list.len() * 2);
    }
}
