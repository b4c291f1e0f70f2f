//! Messages waiting for a consumer, in the order they will be delivered: by priority, then as [`Level`] keeps them.

use mamba_types::{LogPosition, Sequence};

use crate::{
    filters::Selector,
    level::{Found, Level, PIECES_MAX, Place, SHRINK_ABOVE},
    paging::{LiveRun, PageIn, PageToken, PagedRun, Scanned, Target, Window},
    queue::{QueueKind, Stored},
};

/// What a filter finds.
#[derive(Debug)]
pub(crate) enum Next {
    /// Its next message, taken out.
    Match(Box<Stored>),
    /// It goes on in this level once that was read.
    OnDisk(u8, Target),
    /// It has looked at as much as it may for now.
    Unfinished,
    /// It wants nothing of what is there.
    Nothing,
}

/// The ready messages: one level, or one per priority in use, highest first.
#[derive(Debug)]
pub(crate) struct Ready {
    /// Sorted by priority, highest first; a level exists while it holds messages, except the first one made.
    levels: Vec<(u8, Level)>,
    count: usize,
    body_bytes: u64,
    /// Some octets may be an estimate.
    estimated: bool,
    /// Numbers readings.
    tokens: u64,
}

/// Slots an emptied level keeps after a burst, so that the memory goes back.
const IDLE_CAPACITY: usize = 64;

impl Ready {
    pub(crate) const fn new() -> Self {
        Self {
            levels: Vec::new(),
            count: 0,
            body_bytes: 0,
            estimated: false,
            tokens: 0,
        }
    }

    /// The levels, highest first.
    pub(crate) fn levels(&self) -> impl Iterator<Item = &Level> {
        self.levels.iter().map(|(_, level)| level)
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
            .any(|(_, level)| level.is_paged(sequence))
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
        self.level(priority)
            .push_aside(Place::Return(rank), message);
    }

    /// Puts a message back where it was, by its sequence.
    pub(crate) fn put_back_in_place(&mut self, priority: u8, message: Stored) {
        self.count += 1;
        self.body_bytes += message.message.body_len() as u64;
        self.level(priority).put_back_in_place(priority, message);
    }

    /// Appends messages that are on the disk.
    pub(crate) fn push_paged(&mut self, run: PagedRun) {
        self.count += usize::try_from(run.count).unwrap_or(usize::MAX);
        self.body_bytes += run.body_bytes;
        self.estimated |= run.estimated;
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

    /// Whether [`Self::body_bytes`] may be an estimate.
    pub(crate) const fn is_estimated(&self) -> bool {
        self.estimated
    }

    /// The first `max` runs whose octets are an estimate.
    pub(crate) fn estimated_runs(&mut self, max: usize) -> Vec<PagedRun> {
        let estimated = self.paged_runs().filter(|run| run.estimated);
        let runs: Vec<_> = estimated.take(max).copied().collect();
        self.estimated = !runs.is_empty();
        runs
    }

    /// The octets of a run of [`Self::estimated_runs`], if it is still there as it was.
    pub(crate) fn measured(&mut self, run: &PagedRun, body_bytes: u64) {
        let Some(index) = self.position(run.level) else {
            return;
        };
        let paged = &mut self.levels[index].1.paged;
        let at = paged.partition_point(|other| other.from < run.from);
        let here = paged.get_mut(at);
        let is_it = |here: &&mut PagedRun| (here.from, here.to) == (run.from, run.to);
        if let Some(here) = here.filter(is_it).filter(|here| here.estimated) {
            self.body_bytes = self.body_bytes - here.body_bytes + body_bytes;
            (here.body_bytes, here.estimated) = (body_bytes, false);
        }
    }

    /// The next message; `None` too when it must be read in first.
    pub(crate) fn pop(&mut self) -> Option<Stored> {
        let index = self.next_level()?;
        self.pop_level(index)
    }

    /// The next message if `is_wanted` says so of it.
    pub(crate) fn pop_next_if(
        &mut self,
        is_wanted: impl FnOnce(&Stored) -> bool,
    ) -> Option<Stored> {
        let index = self.next_level()?;
        self.levels[index]
            .1
            .first()
            .filter(|stored| is_wanted(stored))?;
        self.pop_level(index)
    }

    /// The level that is next.
    fn next_level(&self) -> Option<usize> {
        self.levels.iter().position(|(_, level)| !level.is_empty())
    }

    fn pop_level(&mut self, index: usize) -> Option<Stored> {
        let level = &mut self.levels[index].1;
        let message = match level.aside.pop_first() {
            Some((_, message)) => {
                level.aside_bytes -= message.memory();
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
        let index = self.next_level()?;
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
            level.front_waits = true;
            return None;
        }
        level.front_waits = false;
        level.scanned_last = false;
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

    /// Begins a reading for a filter: the range to read and its name. `None` while another reading of the level is under way or
    /// has the turn, or when there are too many pieces.
    pub(crate) fn scan(
        &mut self,
        slot: usize,
        priority: u8,
        target: Target,
    ) -> Option<(Sequence, Sequence, PageToken)> {
        let index = self.position(priority)?;
        let level = &mut self.levels[index].1;
        if level.loading.is_some() || level.paged.len() >= PIECES_MAX {
            return None;
        }
        let (from, to) = level.scan_range(target)?;
        level.begin_scan(slot, to);
        self.tokens += 1;
        let token = PageToken(self.tokens);
        level.loading = Some(token);
        Some((from, to, token))
    }

    /// The front readings that are due before the next one for a filter.
    pub(crate) fn want_overdue(&mut self, window: Window, wanted: &mut Vec<PageIn>) {
        for index in 0..self.levels.len() {
            let level = &self.levels[index].1;
            if level.front_waits && level.scanned_last && level.loading.is_none() {
                wanted.extend(self.want(index, window));
            }
        }
    }

    fn position(&self, priority: u8) -> Option<usize> {
        let mut levels = self.levels.iter();
        levels.position(|(level, _)| *level == priority)
    }

    /// Whether this reading is still waited for.
    pub(crate) fn is_loading(&self, priority: u8, token: PageToken) -> bool {
        self.loading(priority, token).is_some()
    }

    /// Whether the reading of this level is for the group, and its answer still good.
    pub(crate) fn is_scanning(&self, priority: u8, slot: usize) -> bool {
        self.position(priority)
            .is_some_and(|index| self.levels[index].1.is_scanning(slot))
    }

    /// Takes out the next message a group of consumers wants, but for one on the disk. `candidate` hands out what was
    /// read of a level, after what is in memory before it.
    pub(crate) fn take_match(
        &mut self,
        slot: usize,
        selector: &dyn Selector,
        looks: &mut usize,
        mut candidate: impl FnMut(u8, Target) -> Option<Stored>,
    ) -> Next {
        for index in 0..self.levels.len() {
            let (priority, level) = &mut self.levels[index];
            match level.take_match(slot, selector, looks) {
                Found::Match(stored) => {
                    self.count -= 1;
                    self.body_bytes -= stored.message.body_len() as u64;
                    if level.is_empty() {
                        self.tidy(index);
                    }
                    return Next::Match(stored);
                }
                Found::OnDisk(target) => {
                    return match candidate(*priority, target) {
                        Some(stored) => Next::Match(Box::new(stored)),
                        None => Next::OnDisk(*priority, target),
                    };
                }
                Found::Unfinished => return Next::Unfinished,
                Found::Nothing => {}
            }
        }
        Next::Nothing
    }

    /// Completes what was read for a filter: keeps the matches that are still in the paged part, as they stand there.
    pub(crate) fn keep_paged(&self, priority: u8, scanned: &mut Scanned) {
        let Some(index) = self.position(priority) else {
            scanned.matches.clear();
            return;
        };
        let paged = &self.levels[index].1.paged;
        scanned.matches.retain_mut(|stored| {
            let after = paged.partition_point(|run| run.from <= stored.sequence);
            let run = after.checked_sub(1).and_then(|at| paged.get(at));
            let Some(run) = run.filter(|run| stored.sequence < run.to) else {
                return false;
            };
            stored.redelivered |= run.redelivered;
            stored.returns = run.returns;
            true
        });
    }

    /// Ends a reading for a filter: what it took is gone. Returns how many messages the disk turned out to have lost.
    pub(crate) fn scanned(
        &mut self,
        slot: usize,
        (priority, from, target): (u8, Sequence, Target),
        scanned: &Scanned,
        taken: &[Sequence],
    ) -> u64 {
        let Some(index) = self.position(priority) else {
            return 0;
        };
        let level = &mut self.levels[index].1;
        level.loading = None;
        // First, so that it does not keep apart what it has looked at.
        level.pass(slot, target, scanned.next);
        let gone = level.take_scanned(from, scanned.next, &scanned.read, taken);
        level.join_tail();
        let messages = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        self.count -= messages(gone.count);
        self.body_bytes = self.body_bytes - gone.bytes_before + gone.bytes_after;
        if level.is_empty() {
            self.tidy(index);
        }
        gone.lost
    }

    /// Another group will have the slot.
    pub(crate) fn forget_cursors(&mut self, slot: usize) {
        for (_, level) in &mut self.levels {
            level.forget_cursor(slot);
        }
    }

    /// No filter is left.
    pub(crate) fn forget_all_cursors(&mut self) {
        for (_, level) in &mut self.levels {
            level.cursors = Vec::new();
        }
    }

    /// The level whose reading this token names.
    fn loading(&self, priority: u8, token: PageToken) -> Option<usize> {
        self.levels
            .iter()
            .position(|(level, state)| *level == priority && state.loading == Some(token))
    }

    pub(crate) fn load_failed(&mut self, priority: u8, token: PageToken) {
        if let Some(index) = self.loading(priority, token) {
            self.levels[index].1.load_failed();
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
    ) -> usize {
        let before = self.resident_bytes();
        for (priority, level) in &mut self.levels {
            level.page_out(*priority, readable, keep, keep_tail);
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
                level.aside_bytes.saturating_sub(keep)
            } else {
                0
            };
            keep = keep.saturating_sub(level.front_bytes());
            keep_tail = keep_tail.saturating_sub(level.tail_bytes);
            // Neither may lie behind a message that stays; where the paged part begins is not known before the
            // messages in front of it have their place.
            let mut left = returned;
            let from_returned = level.aside.values_mut().rev().take_while(move |stored| {
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
            .flat_map(|(_, level)| [level.aside.values().next_back(), level.head.back()])
            .flatten()
            .map(|stored| stored.sequence)
            .max()
    }

    /// The greatest sequence behind something paged.
    pub(crate) fn last_in_tail(&self) -> Option<Sequence> {
        let tails = self
            .levels
            .iter()
            .filter_map(|(_, level)| level.tail.back());
        tails.map(|stored| stored.sequence).max()
    }

    /// What is ready and in the log.
    pub(crate) fn add_live(&self, head_delivered: bool, live: &mut Vec<LiveRun>) {
        for (priority, level) in &self.levels {
            level.add_live_aside(*priority, head_delivered, live);
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
        self.levels
            .iter()
            .flat_map(|(_, level)| level.aside.values().chain(&level.head).chain(&level.tail))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stored> {
        self.levels.iter_mut().flat_map(|(_, level)| {
            level
                .aside
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
        (self.count, self.body_bytes, self.estimated) = (0, 0, false);
        levels.into_iter().flat_map(|(_, level)| {
            level
                .aside
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
        assert!(self.estimated || self.paged_runs().all(|run| !run.estimated));
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
