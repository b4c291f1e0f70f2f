//! The ready messages of one priority.
//!
//! ```text
//!   aside -> head -> paged -> tail <- enqueue
//!   memory   memory  disk     memory
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mamba_types::{LogPosition, Sequence};

use crate::{
    filters::{Cursor, Selector},
    paging::{LiveRun, PageToken, PagedRun, Target, is_readable},
    queue::Stored,
};

/// Messages a filter's match lets step aside at a time, so that the next match has a shorter way.
const ASIDE_STEP: usize = 4096;
/// Runs of paged messages above which filters take nothing more from among them: each costs some memory.
pub(crate) const PIECES_MAX: usize = 65_536;
/// Sequences between two paged runs that are rather read and thrown away than skipped with a reading of their own.
const SCAN_GAP_MAX: u64 = 1024;
/// Runs one reading for a filter may cover.
const SCAN_RUNS_MAX: usize = 4096;

/// Where a message stands before the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Came back to a quorum queue: by the order of return.
    Return(u64),
    /// Came back to a classic queue, or stepped aside for one behind it that a filter wanted.
    Sequence(Sequence),
}

/// What a filter took from the disk.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gone {
    /// Messages that are not in the paged part any more…
    pub(crate) count: u64,
    /// … and how many of them nobody got, because the disk has lost them.
    pub(crate) lost: u64,
    /// Octets of bodies in the runs concerned, before and after.
    pub(crate) bytes_before: u64,
    pub(crate) bytes_after: u64,
}

/// What a filter finds in a level.
#[derive(Debug)]
pub(crate) enum Found {
    /// Its next message, taken out.
    Match(Box<Stored>),
    /// What comes next is to be read first.
    OnDisk(Target),
    /// It has looked at as much as it may for now.
    Unfinished,
    /// It wants nothing of what is there.
    Nothing,
}

/// Messages of one priority. `aside` goes first: whatever was delivered once lies before what is fresh, because without filters fresh
/// messages leave strictly from the front. When a filter takes one from behind others, they step aside.
///
/// Sequences ascend through head, paged and tail. While nothing is paged, the tail is empty.
#[derive(Debug, Default)]
pub(crate) struct Level {
    pub(crate) aside: BTreeMap<Place, Stored>,
    pub(crate) head: VecDeque<Stored>,
    pub(crate) paged: VecDeque<PagedRun>,
    pub(crate) tail: VecDeque<Stored>,
    /// The reading that is under way: of the first paged run, or for a filter.
    pub(crate) loading: Option<PageToken>,
    /// Somebody wants the front read, and another reading is under way.
    pub(crate) front_waits: bool,
    /// The last reading was for a filter.
    pub(crate) scanned_last: bool,
    /// Octets of records in memory; what is neither aside nor tail is head.
    pub(crate) resident: usize,
    pub(crate) aside_bytes: usize,
    pub(crate) tail_bytes: usize,
    pub(crate) paged_count: u64,
    /// Sequences that no run may reach across, because something of this level that is stored and not ready may lie
    /// before them: settled before a restart, out, or taken by a filter. Neighbours without such a break between them are
    /// neighbours in the log too.
    pub(crate) breaks: BTreeSet<u64>,
    /// How far filters have looked, by the slots of their groups; empty as long as none did.
    pub(crate) cursors: Vec<Cursor>,
}

impl Level {
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_empty() && self.aside.is_empty() && self.paged.is_empty()
    }

    /// The next message is on the disk.
    pub(crate) fn is_blocked(&self) -> bool {
        self.head.is_empty() && self.aside.is_empty() && !self.paged.is_empty()
    }

    pub(crate) fn first(&self) -> Option<&Stored> {
        self.aside.values().next().or_else(|| self.head.front())
    }

    /// Octets before the first paged message.
    pub(crate) const fn front_bytes(&self) -> usize {
        self.resident - self.tail_bytes
    }

    pub(crate) const fn head_bytes(&self) -> usize {
        self.front_bytes() - self.aside_bytes
    }

    /// Whether nothing of this level lies between what ends before `end` and what begins at `start`.
    pub(crate) fn is_joined(&self, end: Sequence, start: Sequence) -> bool {
        end == start || self.breaks.range(end.0..=start.0).next().is_none()
    }

    /// Whether a filter stands between the two: what it has looked at is kept apart from the rest.
    pub(crate) fn is_marked(&self, end: Sequence, start: Sequence) -> bool {
        self.cursors.iter().any(|c| end <= c.to && c.to <= start)
    }

    pub(crate) fn push_aside(&mut self, place: Place, stored: Stored) {
        let octets = stored.memory();
        self.resident += octets;
        self.aside_bytes += octets;
        self.aside.insert(place, stored);
    }

    /// Puts a message back where it was, by its sequence.
    pub(crate) fn put_back_in_place(&mut self, priority: u8, stored: Stored) {
        let sequence = stored.sequence;
        let is_behind = |first: Option<Sequence>| first.is_some_and(|first| first < sequence);
        let mut jumped = false;
        // Others that were out before it went to the disk, or came from there to the head.
        if is_behind(self.tail.front().map(|first| first.sequence)) {
            self.insert_in_tail(stored);
        } else if is_behind(self.paged.front().map(|run| run.from)) {
            if stored.at == LogPosition::NONE {
                jumped = true;
                self.push_aside(Place::Sequence(sequence), stored);
            } else if self.cursors.is_empty() {
                self.page_in_place(priority, &stored);
            } else {
                self.page_alone(priority, &stored);
            }
        } else if is_behind(self.head.front().map(|first| first.sequence)) {
            self.insert_in_head(stored);
        } else {
            self.push_aside(Place::Sequence(sequence), stored);
        }
        for cursor in &mut self.cursors {
            cursor.came_back(sequence, jumped);
        }
    }

    /// Puts a message back among those at the tail, where it was before a filter took it.
    fn insert_in_tail(&mut self, stored: Stored) {
        let octets = stored.memory();
        self.resident += octets;
        self.tail_bytes += octets;
        self.breaks
            .extend([stored.sequence.0, stored.sequence.next().0]);
        insert_in_order(&mut self.tail, stored);
    }

    /// Puts a message back among those at the head, where it was before.
    pub(crate) fn insert_in_head(&mut self, stored: Stored) {
        self.resident += stored.memory();
        self.breaks
            .extend([stored.sequence.0, stored.sequence.next().0]);
        insert_in_order(&mut self.head, stored);
    }

    /// Adds a message behind everything paged.
    pub(crate) fn page_back(&mut self, priority: u8, stored: &Stored) {
        let run = PagedRun::of(priority, stored);
        self.paged_count += 1;
        let joins = self.paged.back().is_some_and(|last| {
            last.has_flags_of(&run)
                && self.is_joined(last.to, run.from)
                && !self.is_marked(last.to, run.from)
        });
        match self.paged.back_mut() {
            Some(last) if joins => last.absorb(&run),
            _ => self.paged.push_back(run),
        }
    }

    /// Adds a message before everything paged.
    pub(crate) fn page_front(&mut self, priority: u8, stored: &Stored) {
        let run = PagedRun::of(priority, stored);
        self.paged_count += 1;
        let joins = self.paged.front().is_some_and(|first| {
            first.has_flags_of(&run)
                && self.is_joined(run.to, first.from)
                && !self.is_marked(run.to, first.from)
        });
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
            && !self.is_marked(run.from, run.from)
            && self
                .paged
                .get(index - 1)
                .is_some_and(|before| before.to == run.from && before.has_flags_of(&run));
        let precedes = !self.is_marked(run.to, run.to)
            && self
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

    /// The same, as a run of its own: a filter is to look at this one again, and not at its neighbours.
    fn page_alone(&mut self, priority: u8, stored: &Stored) {
        let run = PagedRun::of(priority, stored);
        self.paged_count += 1;
        self.breaks.extend([run.from.0, run.to.0]);
        let index = self.paged.partition_point(|other| other.from < run.from);
        self.paged.insert(index, run);
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
            while self.head.is_empty()
                && self.front_bytes() > keep
                && let Some(last) = self.aside.last_entry()
                && matches!(last.key(), Place::Sequence(_))
                && is_readable(last.get(), readable)
            {
                let stored = last.remove();
                let octets = stored.memory();
                self.resident -= octets;
                self.aside_bytes -= octets;
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

    /// Neighbours before the head that are in the log, as runs. What was around them may be out, so that only
    /// consecutive ones make one run.
    pub(crate) fn add_live_aside(&self, priority: u8, delivered: bool, live: &mut Vec<LiveRun>) {
        let mut last: Option<LiveRun> = None;
        let stored = |stored: &&Stored| stored.at != LogPosition::NONE;
        for stored in self.aside.values().filter(stored) {
            let run = LiveRun::of(priority, stored, delivered);
            match &mut last {
                Some(last) if last.has_flags_of(&run) && last.to == run.from => last.to = run.to,
                _ => live.extend(last.replace(run)),
            }
        }
        live.extend(last);
    }

    pub(crate) fn check(&self, priority: u8) {
        let octets = |stored: &mut dyn Iterator<Item = &Stored>| -> usize {
            stored.map(|stored| stored.memory()).sum()
        };
        let (aside, tail) = (
            octets(&mut self.aside.values()),
            octets(&mut self.tail.iter()),
        );
        assert_eq!(self.aside_bytes, aside);
        assert_eq!(self.tail_bytes, tail);
        assert_eq!(self.resident, aside + tail + octets(&mut self.head.iter()));
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

/// What filters do.
impl Level {
    /// The cursor of the group in this slot.
    fn cursor(&mut self, slot: usize) -> &mut Cursor {
        if self.cursors.len() <= slot {
            self.cursors.resize_with(slot + 1, Cursor::default);
        }
        &mut self.cursors[slot]
    }

    /// Another group will have the slot.
    pub(crate) fn forget_cursor(&mut self, slot: usize) {
        if let Some(cursor) = self.cursors.get_mut(slot) {
            *cursor = Cursor::default();
        }
    }

    /// Takes out the next message a group wants, from where it stands. Looks at `looks` messages at most, and
    /// counts them down.
    pub(crate) fn take_match(
        &mut self,
        slot: usize,
        selector: &dyn Selector,
        looks: &mut usize,
    ) -> Found {
        let mut is_wanted = |stored: &Stored| {
            (*looks > 0).then(|| {
                *looks -= 1;
                selector.matches(&stored.message)
            })
        };
        // What came back to a quorum queue.
        let mut rank = self.cursor(slot).rank;
        while let Some((place, stored)) = self.aside.range(Place::Return(rank)..).next()
            && let place @ Place::Return(next) = *place
        {
            let Some(matches) = is_wanted(stored) else {
                return Found::Unfinished;
            };
            rank = next + 1;
            self.cursor(slot).rank = rank;
            if matches {
                return self.take_aside(place);
            }
        }
        // What came back to a classic queue.
        while let Some(sequence) = self.cursor(slot).again.first().copied() {
            let cursor = self.cursor(slot);
            if sequence >= cursor.to && cursor.reading.is_none() && !self.has_jumped(sequence) {
                // It came back during a reading that has ended before it: the group comes to it yet.
                self.cursor(slot).again.pop_first();
                continue;
            }
            if self.is_paged(sequence) {
                return Found::OnDisk(Target::Only(sequence));
            }
            let Some(stored) = self.find(sequence) else {
                self.cursor(slot).again.pop_first();
                continue;
            };
            let Some(matches) = is_wanted(stored) else {
                return Found::Unfinished;
            };
            self.cursor(slot).again.pop_first();
            if matches {
                return self.take(sequence);
            }
        }
        self.take_fresh_match(slot, is_wanted)
    }

    /// The same for what the group has not come to yet.
    fn take_fresh_match(
        &mut self,
        slot: usize,
        mut is_wanted: impl FnMut(&Stored) -> Option<bool>,
    ) -> Found {
        let cursor = self.cursor(slot);
        let (mut to, mut jumped) = (cursor.to, cursor.jumped);
        let head = self.head.front().map(|stored| stored.sequence);
        let first = head.or_else(|| self.paged.front().map(|run| run.from));
        let end = first.unwrap_or(Sequence(u64::MAX));
        let aside = |from, to| self.aside.range(Place::Sequence(from)..Place::Sequence(to));
        let beside = aside(to, end.max(to)).map(|(_, stored)| stored);
        let mut found = look(beside, &mut to, &mut is_wanted);
        if found.is_none() {
            jumped = jumped.max(end);
            let ahead = aside(jumped, Sequence(u64::MAX)).map(|(_, stored)| stored);
            found = look(ahead, &mut jumped, &mut is_wanted);
        }
        if found.is_none() {
            jumped = Sequence(u64::MAX);
            let from = match self.head.front() {
                Some(first) if first.sequence < to => {
                    self.head.partition_point(|stored| stored.sequence < to)
                }
                _ => 0,
            };
            found = look(self.head.range(from..), &mut to, &mut is_wanted);
        }
        let is_on_disk = found.is_none() && self.paged.back().is_some_and(|last| last.to > to);
        if found.is_none() && !is_on_disk {
            let from = self.tail.partition_point(|stored| stored.sequence < to);
            found = look(self.tail.range(from..), &mut to, &mut is_wanted);
        }
        let cursor = self.cursor(slot);
        (cursor.to, cursor.jumped) = (to, jumped);
        match found {
            Some(Look::Match(sequence)) => self.take(sequence),
            Some(Look::Unfinished) => Found::Unfinished,
            None if is_on_disk => Found::OnDisk(Target::From(to)),
            None => Found::Nothing,
        }
    }

    /// Whether a message stands aside, before others that come earlier by their sequence.
    fn has_jumped(&self, sequence: Sequence) -> bool {
        let head = self.head.front().map(|stored| stored.sequence);
        let first = head.or_else(|| self.paged.front().map(|run| run.from));
        first.is_some_and(|first| first < sequence)
            && self.aside.contains_key(&Place::Sequence(sequence))
    }

    pub(crate) fn is_paged(&self, sequence: Sequence) -> bool {
        let after = self.paged.partition_point(|run| run.from <= sequence);
        after > 0 && sequence < self.paged[after - 1].to
    }

    /// A message in memory that stands by its sequence.
    fn find(&self, sequence: Sequence) -> Option<&Stored> {
        let index_in =
            |list: &VecDeque<Stored>| list.binary_search_by_key(&sequence, |s| s.sequence);
        if let Some(stored) = self.aside.get(&Place::Sequence(sequence)) {
            return Some(stored);
        }
        if let Ok(index) = index_in(&self.head) {
            return self.head.get(index);
        }
        self.tail.get(index_in(&self.tail).ok()?)
    }

    /// Takes out a message that [`Self::find`] finds.
    fn take(&mut self, sequence: Sequence) -> Found {
        let of = |stored: &Stored| stored.sequence;
        if self
            .head
            .front()
            .is_some_and(|first| first.sequence <= sequence)
            && let Ok(index) = self.head.binary_search_by_key(&sequence, of)
        {
            return self.take_from_head(index);
        }
        if let Ok(index) = self.tail.binary_search_by_key(&sequence, of) {
            let end = match index
                .checked_sub(1)
                .and_then(|before| self.tail.get(before))
            {
                Some(before) => Some(before.sequence.next()),
                None => self.paged.back().map(|run| run.to),
            };
            let next = self.tail.get(index + 1).map(of);
            self.add_break(end, sequence, next);
            return match self.tail.remove(index) {
                Some(stored) => {
                    self.resident -= stored.memory();
                    self.tail_bytes -= stored.memory();
                    Found::Match(Box::new(stored))
                }
                None => Found::Nothing,
            };
        }
        self.take_aside(Place::Sequence(sequence))
    }

    fn take_aside(&mut self, place: Place) -> Found {
        match self.aside.remove(&place) {
            Some(stored) => {
                self.resident -= stored.memory();
                self.aside_bytes -= stored.memory();
                Found::Match(Box::new(stored))
            }
            None => Found::Nothing,
        }
    }

    /// Takes a message out of the head; those before it step aside. If they are many, some stay, so that the step is short.
    fn take_from_head(&mut self, index: usize) -> Found {
        let aside = index.min(ASIDE_STEP);
        for stored in self.head.drain(..aside) {
            self.aside_bytes += stored.memory();
            self.aside.insert(Place::Sequence(stored.sequence), stored);
        }
        let index = index - aside;
        if let Some(before) = index
            .checked_sub(1)
            .and_then(|before| self.head.get(before))
            && let Some(taken) = self.head.get(index)
        {
            let (end, sequence) = (before.sequence.next(), taken.sequence);
            let next = self.head.get(index + 1).map(|stored| stored.sequence);
            self.add_break(Some(end), sequence, next);
        }
        match self.head.remove(index) {
            Some(stored) => {
                self.resident -= stored.memory();
                Found::Match(Box::new(stored))
            }
            None => Found::Nothing,
        }
    }

    /// Keeps what ends before `end` and what begins at `next` apart, for what lay between them is out. One break does for a gap.
    fn add_break(&mut self, end: Option<Sequence>, out: Sequence, next: Option<Sequence>) {
        let (from, to) = (end.unwrap_or(out).0, next.unwrap_or(out).0);
        let old: Vec<u64> = self.breaks.range(from..=to).copied().collect();
        for one in old {
            self.breaks.remove(&one);
        }
        self.breaks.insert(out.0);
    }

    /// What to read for a filter that goes on at `target`: the sequences from and to. `None` when nothing there can be read.
    pub(crate) fn scan_range(&self, target: Target) -> Option<(Sequence, Sequence)> {
        let sequence = target.sequence();
        let first = self.paged.partition_point(|run| run.to <= sequence);
        let mut runs = self.paged.range(first..).take(SCAN_RUNS_MAX);
        let run = runs.next()?;
        let from = run.from;
        let mut to = run.to;
        match target {
            Target::Only(_) if from > sequence => return None,
            // The whole way to it has to be counted.
            Target::Only(_) => to = sequence.next(),
            Target::From(_) => {
                for run in runs {
                    if run.from.0 - to.0 > SCAN_GAP_MAX {
                        break;
                    }
                    to = run.to;
                }
            }
        }
        Some((from, to))
    }

    /// A reading from `from` on has shown what lies before `next`: these sequences with the octets of their bodies. Takes those in
    /// `taken` out; what is left becomes runs that end where the reading did.
    pub(crate) fn take_scanned(
        &mut self,
        from: Sequence,
        next: Sequence,
        read: &[(Sequence, u64)],
        taken: &[Sequence],
    ) -> Gone {
        let start = self.paged.partition_point(|run| run.to <= from);
        let end = self.paged.partition_point(|run| run.from < next);
        let mut gone = Gone::default();
        if start >= end {
            return gone;
        }
        let after = self.paged.split_off(end);
        // The run before may grow.
        let anchor = start.saturating_sub(1);
        for run in self.paged.range(anchor..) {
            gone.count += run.count;
            gone.bytes_before += run.body_bytes;
        }
        let runs = self.paged.split_off(start);
        self.paged_count -= runs.iter().map(|run| run.count).sum::<u64>();
        let mut read = read.iter().copied().peekable();
        for run in runs {
            let first_piece = self.paged.len();
            let empty = |from| PagedRun {
                from,
                count: 0,
                body_bytes: 0,
                estimated: false,
                ..run
            };
            let mut rest = run;
            let mut piece = empty(run.from);
            while let Some((sequence, body)) = read.next_if(|(s, _)| *s < run.to.min(next)) {
                if sequence < run.from {
                    continue;
                }
                rest.count = rest.count.saturating_sub(1);
                rest.body_bytes = rest.body_bytes.saturating_sub(body);
                if taken.binary_search(&sequence).is_ok() {
                    piece.to = sequence;
                    self.append_piece(piece);
                    self.breaks.insert(sequence.0);
                    piece = empty(sequence.next());
                } else {
                    piece.count += 1;
                    piece.body_bytes += body;
                }
            }
            if rest.count == 0 {
                // From an estimate to the truth.
                (rest.body_bytes, rest.estimated) = (0, false);
            }
            piece.to = run.to.min(next);
            if run.to > next {
                self.append_piece(piece);
                rest.from = rest.from.max(next);
                if rest.count > 0 {
                    self.thin_breaks_before(rest.from);
                    self.paged_count += rest.count;
                    self.paged.push_back(rest);
                }
            } else if piece.from < piece.to {
                // What the disk has lost of the run is noticed when the last of it is read at the front.
                piece.count += rest.count;
                piece.body_bytes += rest.body_bytes;
                piece.estimated = rest.estimated;
                self.append_piece(piece);
            } else if self.paged.len() > first_piece
                && let Some(last) = self.paged.back_mut()
            {
                last.count += rest.count;
                last.body_bytes += rest.body_bytes;
                last.estimated |= rest.estimated;
                self.paged_count += rest.count;
            } else {
                gone.lost += rest.count;
            }
        }
        for piece in self.paged.range(anchor..) {
            gone.count -= piece.count;
            gone.bytes_after += piece.body_bytes;
        }
        let following = after.front().map(|run| run.from);
        let following = following.or_else(|| self.tail.front().map(|stored| stored.sequence));
        self.thin_breaks_before(following.unwrap_or(Sequence(u64::MAX)));
        self.paged.extend(after);
        gone
    }

    /// Adds a piece behind all others, to the one before it if nothing keeps them apart. One without messages is none.
    fn append_piece(&mut self, piece: PagedRun) {
        if piece.count == 0 {
            return;
        }
        self.paged_count += piece.count;
        let joins = |last: &PagedRun| last.to == piece.from && last.has_flags_of(&piece);
        if self.paged.back().is_some_and(joins) && !self.is_marked(piece.from, piece.from) {
            if let Some(last) = self.paged.back_mut() {
                last.absorb(&piece);
            }
            return;
        }
        self.thin_breaks_before(piece.from);
        self.paged.push_back(piece);
    }

    /// Leaves one break of those between what is last in the paged part, or before it, and what begins at `start`.
    fn thin_breaks_before(&mut self, start: Sequence) {
        let paged = self.paged.back().map(|run| run.to);
        let before = paged.or_else(|| self.head.back().map(|stored| stored.sequence.next()));
        let end = before.unwrap_or_default();
        if end < start
            && let Some(first) = self.breaks.range(end.0..=start.0).next().copied()
        {
            self.add_break(Some(end), Sequence(first), Some(start));
        }
    }

    /// A reading for a group begins.
    pub(crate) fn begin_scan(&mut self, slot: usize, to: Sequence) {
        self.scanned_last = true;
        self.cursor(slot).reading = Some(to);
    }

    /// Whether what is read for a group is still what comes next for it: not when more came back meanwhile than is remembered.
    pub(crate) fn is_scanning(&self, slot: usize) -> bool {
        self.cursors.get(slot).is_some_and(|c| c.reading.is_some())
    }

    /// A reading has ended without result.
    pub(crate) fn load_failed(&mut self) {
        self.loading = None;
        for cursor in &mut self.cursors {
            cursor.reading = None;
        }
    }

    /// A group has looked at what a reading showed: everything it was to look at before `next`.
    pub(crate) fn pass(&mut self, slot: usize, target: Target, next: Sequence) {
        let cursor = self.cursor(slot);
        cursor.reading = None;
        match target {
            Target::From(_) => cursor.to = cursor.to.max(next),
            Target::Only(one) if one < next => {
                cursor.again.remove(&one);
            }
            Target::Only(_) => {}
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

/// How looking at messages ended before the last of them.
enum Look {
    Match(Sequence),
    Unfinished,
}

/// Looks at messages one by one, and notes in `to` what comes after the last one.
fn look<'a>(
    messages: impl Iterator<Item = &'a Stored>,
    to: &mut Sequence,
    is_wanted: &mut impl FnMut(&Stored) -> Option<bool>,
) -> Option<Look> {
    for stored in messages {
        let Some(matches) = is_wanted(stored) else {
            return Some(Look::Unfinished);
        };
        *to = stored.sequence.next();
        if matches {
            return Some(Look::Match(stored.sequence));
        }
    }
    None
}

/// Puts a message among others whose sequences ascend.
fn insert_in_order(list: &mut VecDeque<Stored>, stored: Stored) {
    let index = list.partition_point(|other| other.sequence < stored.sequence);
    list.insert(index, stored);
}
