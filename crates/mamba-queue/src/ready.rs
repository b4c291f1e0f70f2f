//! Messages waiting for a consumer, in the order they will be delivered.
//!
//! ```text
//!   level:   returned -> head -> paged -> tail <- enqueue
//!            memory      memory  disk     memory
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mamba_types::{LogPosition, Sequence};

use crate::{
    paging::{LiveRun, PageIn, PageToken, PagedRun, Window, is_readable},
    queue::{QueueKind, Stored},
};

/// Messages of one priority. `returned` goes first: whatever was delivered once lies before everything
/// fresh, because fresh messages leave strictly from the front.
///
/// Sequences ascend through head, paged and tail. While nothing is paged, the tail is empty.
#[derive(Debug, Default)]
struct Level {
    returned: BTreeMap<u64, Stored>,
    head: VecDeque<Stored>,
    paged: VecDeque<PagedRun>,
    tail: VecDeque<Stored>,
    /// The reading of the first paged run that is under way.
    loading: Option<PageToken>,
    /// Octets of records in memory; what is neither returned nor tail is head.
    resident: usize,
    returned_bytes: usize,
    tail_bytes: usize,
    paged_count: u64,
    /// Sequences that no run may reach across, because something of this level that is stored and not ready may lie
    /// before them: settled before a restart, or out. Neighbours without such a break between them are neighbours in
    /// the log too.
    breaks: BTreeSet<u64>,
}

impl Level {
    fn is_empty(&self) -> bool {
        self.head.is_empty() && self.returned.is_empty() && self.paged.is_empty()
    }

    /// The next message is on the disk.
    fn is_blocked(&self) -> bool {
        self.head.is_empty() && self.returned.is_empty() && !self.paged.is_empty()
    }

    fn first(&self) -> Option<&Stored> {
        self.returned.values().next().or_else(|| self.head.front())
    }

    /// Octets before the first paged message.
    const fn front_bytes(&self) -> usize {
        self.resident - self.tail_bytes
    }

    const fn head_bytes(&self) -> usize {
        self.front_bytes() - self.returned_bytes
    }

    /// Whether nothing of this level lies between what ends before `end` and what begins at `start`.
    fn is_joined(&self, end: Sequence, start: Sequence) -> bool {
        end == start || self.breaks.range(end.0..=start.0).next().is_none()
    }

    fn push_returned(&mut self, rank: u64, stored: Stored) {
        let octets = stored.memory();
        self.resident += octets;
        self.returned_bytes += octets;
        self.returned.insert(rank, stored);
    }

    /// Puts a message back among those at the head, where it was before.
    fn insert_in_head(&mut self, stored: Stored) {
        self.resident += stored.memory();
        self.breaks
            .extend([stored.sequence.0, stored.sequence.next().0]);
        let index = self
            .head
            .partition_point(|other| other.sequence < stored.sequence);
        self.head.insert(index, stored);
    }

    /// Adds a message behind everything paged.
    fn page_back(&mut self, priority: u8, stored: &Stored) {
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
    fn page_front(&mut self, priority: u8, stored: &Stored) {
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
    fn page_in_place(&mut self, priority: u8, stored: &Stored) {
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
    fn head_beyond(&self, keep: usize) -> usize {
        let mut bytes = self.front_bytes();
        let mut index = self.head.len();
        while bytes > keep && index > 0 {
            index -= 1;
            bytes -= self.head[index].memory();
        }
        index
    }

    /// How many messages at the tail's front lie beyond the `keep` octets at its back.
    fn tail_beyond(&self, keep: usize) -> usize {
        let mut bytes = self.tail_bytes;
        let beyond = |stored: &&Stored| {
            let is_beyond = bytes > keep;
            bytes -= stored.memory();
            is_beyond
        };
        self.tail.iter().take_while(beyond).count()
    }

    fn page_out(
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
    fn page_out_middle(&mut self, priority: u8, readable: LogPosition, keep: usize) {
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
    fn join_tail(&mut self) {
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
    fn forget_breaks(&mut self) {
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
    fn add_live<'a>(
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

    fn check(&self, priority: u8) {
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

/// The ready messages: one level, or one per priority in use, highest first.
#[derive(Debug)]
pub(crate) struct Ready {
    /// Sorted by priority, highest first; a level exists while it holds messages, except the first one made.
    levels: Vec<(u8, Level)>,
    count: usize,
    body_bytes: u64,
    /// Numbers readings.
    tokens: u64,
}

/// Slots an emptied level keeps after a burst, so that the memory goes back.
const IDLE_CAPACITY: usize = 64;
/// Slots below which an emptied level keeps its memory: bursts come again.
const SHRINK_ABOVE: usize = 16_384;

/// Gives memory back after most of a long list went to the disk.
fn shrink(list: &mut VecDeque<Stored>) {
    if list.capacity() > SHRINK_ABOVE && list.len() < list.capacity() / 4 {
        list.shrink_to(list.len() * 2);
    }
}

impl Ready {
    pub(crate) const fn new() -> Self {
        Self {
            levels: Vec::new(),
            count: 0,
            body_bytes: 0,
            tokens: 0,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// Nothing is there, and nothing may turn up on the disk.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0 && self.levels.iter().all(|(_, level)| level.paged.is_empty())
    }

    pub(crate) const fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    pub(crate) fn resident_bytes(&self) -> usize {
        self.levels.iter().map(|(_, level)| level.resident).sum()
    }

    pub(crate) fn paged_count(&self) -> u64 {
        self.levels.iter().map(|(_, level)| level.paged_count).sum()
    }

    pub(crate) fn paged_levels(&self) -> impl Iterator<Item = u8> {
        let paged = |(_, level): &&(u8, Level)| !level.paged.is_empty();
        self.levels
            .iter()
            .filter(paged)
            .map(|(priority, _)| *priority)
    }

    pub(crate) fn paged_runs(&self) -> impl Iterator<Item = &PagedRun> {
        self.levels.iter().flat_map(|(_, level)| &level.paged)
    }

    pub(crate) fn is_paged(&self, priority: u8, sequence: Sequence) -> bool {
        self.levels
            .iter()
            .filter(|(level, _)| *level == priority)
            .any(|(_, level)| {
                let after = level.paged.partition_point(|run| run.from <= sequence);
                after > 0 && sequence < level.paged[after - 1].to
            })
    }

    pub(crate) fn push(&mut self, priority: u8, message: Stored) {
        self.count += 1;
        self.body_bytes += message.message.body_len() as u64;
        let octets = message.memory();
        let level = self.level(priority);
        level.resident += octets;
        if level.paged.is_empty() {
            level.head.push_back(message);
        } else {
            level.tail_bytes += octets;
            level.tail.push_back(message);
        }
    }

    /// Puts a message back before everything that was never out; `rank` orders the returned ones among themselves.
    pub(crate) fn put_back(&mut self, priority: u8, rank: u64, message: Stored) {
        self.count += 1;
        self.body_bytes += message.message.body_len() as u64;
        self.level(priority).push_returned(rank, message);
    }

    /// Puts a message back where it was, by its sequence.
    pub(crate) fn put_back_in_place(&mut self, priority: u8, message: Stored) {
        self.count += 1;
        self.body_bytes += message.message.body_len() as u64;
        let level = self.level(priority);
        let sequence = message.sequence;
        // Others that were out before it went to the disk, or came from there to the head.
        if level.paged.front().is_some_and(|run| run.from < sequence) {
            if message.at == LogPosition::NONE {
                level.push_returned(sequence.0, message);
            } else {
                level.page_in_place(priority, &message);
            }
        } else if level
            .head
            .front()
            .is_some_and(|first| first.sequence < sequence)
        {
            level.insert_in_head(message);
        } else {
            level.push_returned(sequence.0, message);
        }
    }

    /// Appends messages that are on the disk.
    pub(crate) fn push_paged(&mut self, run: PagedRun) {
        self.count += usize::try_from(run.count).unwrap_or(usize::MAX);
        self.body_bytes += run.body_bytes;
        let level = self.level(run.level);
        level.paged_count += run.count;
        level.breaks.insert(run.to.0);
        match level.paged.back_mut() {
            Some(last) if last.to == run.from && last.has_flags_of(&run) => {
                level.breaks.remove(&run.from.0);
                last.absorb(&run);
            }
            _ => level.paged.push_back(run),
        }
    }

    /// The next message; `None` too when it must be read in first.
    pub(crate) fn pop(&mut self) -> Option<Stored> {
        let index = self
            .levels
            .iter()
            .position(|(_, level)| !level.is_empty())?;
        self.pop_level(index)
    }

    fn pop_level(&mut self, index: usize) -> Option<Stored> {
        let level = &mut self.levels[index].1;
        let message = match level.returned.pop_first() {
            Some((_, message)) => {
                level.returned_bytes -= message.memory();
                message
            }
            None => level.head.pop_front()?,
        };
        level.resident -= message.memory();
        self.count -= 1;
        self.body_bytes -= message.message.body_len() as u64;
        if level.is_empty() {
            self.tidy(index);
        }
        Some(message)
    }

    /// Lets go of what an emptied level holds.
    fn tidy(&mut self, index: usize) {
        if self.levels.len() > 1 {
            self.levels.remove(index);
            return;
        }
        let level = &mut self.levels[index].1;
        level.breaks.clear();
        if level.head.capacity() > SHRINK_ABOVE {
            level.head.shrink_to(IDLE_CAPACITY);
        }
    }

    /// The next message of each priority, as far as it is in memory.
    pub(crate) fn heads(&self) -> impl Iterator<Item = &Stored> {
        self.levels.iter().filter_map(|(_, level)| level.first())
    }

    /// Takes the first head, of any priority, that `is_wanted` says so of.
    pub(crate) fn pop_if(&mut self, is_wanted: impl Fn(&Stored) -> bool) -> Option<Stored> {
        let wanted = |level: &Level| level.first().is_some_and(&is_wanted);
        let index = self.levels.iter().position(|(_, level)| wanted(level))?;
        self.pop_level(index)
    }

    /// What the level that is next should read, if its head is running low.
    pub(crate) fn want_next(&mut self, window: Window) -> Option<PageIn> {
        let index = self
            .levels
            .iter()
            .position(|(_, level)| !level.is_empty())?;
        let head = self.levels[index].1.head_bytes();
        if head < window.low_bytes || self.levels[index].1.head.is_empty() {
            self.want(index, window)
        } else {
            None
        }
    }

    /// What every level should read whose next message is on the disk.
    pub(crate) fn want_heads(&mut self, window: Window, wanted: &mut Vec<PageIn>) {
        for index in 0..self.levels.len() {
            if self.levels[index].1.is_blocked() {
                wanted.extend(self.want(index, window));
            }
        }
    }

    fn want(&mut self, index: usize, window: Window) -> Option<PageIn> {
        let (priority, level) = &mut self.levels[index];
        let run = level.paged.front()?;
        if level.loading.is_some() {
            return None;
        }
        self.tokens += 1;
        let token = PageToken(self.tokens);
        level.loading = Some(token);
        Some(PageIn {
            level: *priority,
            from: run.from,
            to: run.to,
            octets: window.head_bytes.saturating_sub(level.head_bytes()),
            token,
        })
    }

    /// The level whose reading this token names.
    fn loading(&self, priority: u8, token: PageToken) -> Option<usize> {
        self.levels
            .iter()
            .position(|(level, state)| *level == priority && state.loading == Some(token))
    }

    pub(crate) fn load_failed(&mut self, priority: u8, token: PageToken) {
        if let Some(index) = self.loading(priority, token) {
            self.levels[index].1.loading = None;
        }
    }

    /// Appends what was read to the head, and returns how many messages of the run turned out not to exist.
    pub(crate) fn paged_in(
        &mut self,
        priority: u8,
        token: PageToken,
        messages: Vec<Stored>,
        next: Sequence,
    ) -> u64 {
        let Some(index) = self.loading(priority, token) else {
            return 0;
        };
        let level = &mut self.levels[index].1;
        level.loading = None;
        let Some(run) = level.paged.pop_front() else {
            return 0;
        };
        let next = next.clamp(run.from, run.to);
        let (mut came, mut bytes) = (0, 0);
        for mut stored in messages {
            if stored.sequence < run.from || stored.sequence >= next {
                continue;
            }
            stored.redelivered |= run.redelivered;
            stored.returns = run.returns;
            came += 1;
            bytes += stored.message.body_len() as u64;
            level.resident += stored.memory();
            level.head.push_back(stored);
        }
        let mut rest = PagedRun {
            from: next,
            count: run.count.saturating_sub(came),
            body_bytes: run.body_bytes.saturating_sub(bytes),
            ..run
        };
        let mut missing = 0;
        if next == run.to {
            missing = rest.count;
            (rest.count, rest.body_bytes) = (0, 0);
            level.join_tail();
        } else {
            level.paged.push_front(rest);
        }
        level.paged_count = level.paged_count - run.count + rest.count;
        level.forget_breaks();
        let messages = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        self.count = self.count - messages(run.count) + messages(came + rest.count);
        self.body_bytes = self.body_bytes - run.body_bytes + bytes + rest.body_bytes;
        if self.levels[index].1.is_empty() {
            self.tidy(index);
        }
        missing
    }

    /// Drops messages beyond `keep` octets at the front and `keep_tail` at the back from memory.
    pub(crate) fn page_out(
        &mut self,
        readable: LogPosition,
        mut keep: usize,
        mut keep_tail: usize,
        kind: QueueKind,
    ) -> usize {
        let before = self.resident_bytes();
        for (priority, level) in &mut self.levels {
            level.page_out(*priority, readable, keep, keep_tail, kind);
            keep = keep.saturating_sub(level.front_bytes());
            keep_tail = keep_tail.saturating_sub(level.tail_bytes);
        }
        before - self.resident_bytes()
    }

    /// Messages that [`Self::page_out`] would drop if they were in the log.
    pub(crate) fn unstored_beyond(
        &mut self,
        mut keep: usize,
        mut keep_tail: usize,
        kind: QueueKind,
    ) -> impl Iterator<Item = (u8, &mut Stored)> {
        self.levels.iter_mut().flat_map(move |(priority, level)| {
            let head = match level.loading {
                None => level.head_beyond(keep),
                Some(_) => level.head.len(),
            };
            let tail = level.tail_beyond(keep_tail);
            let returned = if head == 0 && level.loading.is_none() && kind == QueueKind::Classic {
                level.returned_bytes.saturating_sub(keep)
            } else {
                0
            };
            keep = keep.saturating_sub(level.front_bytes());
            keep_tail = keep_tail.saturating_sub(level.tail_bytes);
            // Neither may lie behind a message that stays; where the paged part begins is not known before the
            // messages in front of it have their place.
            let mut left = returned;
            let from_returned = level.returned.values_mut().rev().take_while(move |stored| {
                let is_beyond = left > 0;
                left = left.saturating_sub(stored.memory());
                is_beyond
            });
            let priority = *priority;
            from_returned
                .chain(level.head.iter_mut().skip(head))
                .chain(level.tail.iter_mut().take(tail))
                .filter(|stored| stored.at == LogPosition::NONE)
                .map(move |stored| (priority, stored))
        })
    }

    /// The greatest sequence before everything paged.
    pub(crate) fn deliverable_to(&self) -> Option<Sequence> {
        self.levels
            .iter()
            .flat_map(|(_, level)| [level.returned.values().next_back(), level.head.back()])
            .flatten()
            .map(|stored| stored.sequence)
            .max()
    }

    /// What is ready and in the log.
    pub(crate) fn add_live(&self, head_delivered: bool, live: &mut Vec<LiveRun>) {
        for (priority, level) in &self.levels {
            for stored in level.returned.values() {
                level.add_live(*priority, std::iter::once(stored), true, live);
            }
            level.add_live(*priority, level.head.iter(), head_delivered, live);
            live.extend(level.paged.iter().map(|run| LiveRun {
                level: *priority,
                from: run.from,
                to: run.to,
                delivered: run.redelivered || run.returns > 0,
                returns: run.returns,
            }));
            level.add_live(*priority, level.tail.iter(), false, live);
        }
    }

    /// Notes where the record of a message that is not out, and never was since it got its sequence, lies now.
    pub(crate) fn set_place(&mut self, sequence: Sequence, at: LogPosition) -> bool {
        for (_, level) in &mut self.levels {
            for list in [&mut level.tail, &mut level.head] {
                if let Ok(index) = list.binary_search_by_key(&sequence, |s| s.sequence) {
                    list[index].at = at;
                    return true;
                }
            }
        }
        false
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Stored> {
        self.levels.iter().flat_map(|(_, level)| {
            level
                .returned
                .values()
                .chain(&level.head)
                .chain(&level.tail)
        })
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stored> {
        self.levels.iter_mut().flat_map(|(_, level)| {
            level
                .returned
                .values_mut()
                .chain(&mut level.head)
                .chain(&mut level.tail)
        })
    }

    /// Empties it and hands over what was there, in order.
    pub(crate) fn take_all(
        &mut self,
        dropped: &mut Vec<PagedRun>,
    ) -> impl Iterator<Item = Stored> + use<> {
        dropped.extend(self.paged_runs());
        let levels = std::mem::take(&mut self.levels);
        (self.count, self.body_bytes) = (0, 0);
        levels.into_iter().flat_map(|(_, level)| {
            level
                .returned
                .into_values()
                .chain(level.head)
                .chain(level.tail)
        })
    }

    /// Panics when it contradicts itself.
    pub(crate) fn check(&self) {
        for (priority, level) in &self.levels {
            level.check(*priority);
        }
        assert!(self.levels.windows(2).all(|pair| pair[0].0 > pair[1].0));
        let paged: u64 = self.paged_runs().map(|run| run.count).sum();
        assert_eq!(self.iter().count() as u64 + paged, self.count as u64);
        let bodies = self.iter().map(|s| s.message.body_len() as u64);
        let paged = self.paged_runs().map(|run| run.body_bytes);
        assert_eq!(bodies.chain(paged).sum::<u64>(), self.body_bytes);
    }

    fn level(&mut self, priority: u8) -> &mut Level {
        let index = match self.levels.first() {
            Some((first, _)) if *first == priority => 0,
            _ => self
                .levels
                .binary_search_by(|(p, _)| priority.cmp(p))
                .unwrap_or_else(|index| {
                    self.levels.insert(index, (priority, Level::default()));
                    index
                }),
        };
        &mut self.levels[index].1
    }
}
