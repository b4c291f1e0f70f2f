//! What lives of a queue, while the log is read back: ranges of sequences, settled message by message.
//!
//! A range may cover sequences that were never in its level, because they went to another one or not into the log at all: what
//! counts of a range is what the indexes hold in it. So messages of one level that come one after another are one range, whatever
//! went elsewhere between them. The price is care: a range never covers a sequence of its own level that has died.

use std::collections::BTreeMap;

use crate::format::StateItem;

/// What is known of all messages of a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    /// They may have been delivered.
    pub(crate) delivered: bool,
    /// How often each came back.
    pub(crate) delivery_count: u32,
}

/// Sequences of one level with a common history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LiveRange {
    pub(crate) from: u64,
    /// The first sequence after it.
    pub(crate) to: u64,
    pub(crate) flags: Flags,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    to: u64,
    flags: Flags,
}

#[derive(Debug, Default)]
struct Level {
    /// By first sequence; they do not overlap.
    ranges: BTreeMap<u64, Rest>,
    /// The first sequence after everything seen; 0: not known, something unseen may lie beyond the last range.
    top: u64,
}

impl Level {
    /// Appends `[from, to)`. What lies between the last range and `from` was never in this level if nothing seen was: then the
    /// range may go on over it.
    fn append(&mut self, from: u64, to: u64, flags: Flags) {
        let top = self.top;
        self.top = top.max(to);
        let Some(mut last) = self.ranges.last_entry() else {
            self.ranges.insert(from, Rest { to, flags });
            return;
        };
        let end = last.get().to;
        if from < end {
            return self.union(from, to, flags);
        }
        if last.get().flags == flags && (from == end || top == end) {
            last.get_mut().to = to;
        } else {
            self.ranges.insert(from, Rest { to, flags });
        }
    }

    /// Makes sure that `[from, to)` is in, with at least these flags.
    fn union(&mut self, from: u64, to: u64, flags: Flags) {
        self.cut(from);
        self.cut(to);
        let mut next = from;
        let mut missing = Vec::new();
        for (start, rest) in self.ranges.range_mut(from..to) {
            if next < *start {
                missing.push((next, *start));
            }
            rest.flags.delivered |= flags.delivered;
            rest.flags.delivery_count = rest.flags.delivery_count.max(flags.delivery_count);
            next = rest.to;
        }
        if next < to {
            missing.push((next, to));
        }
        for (start, to) in missing {
            self.ranges.insert(start, Rest { to, flags });
        }
        self.join(from, to);
    }

    /// Takes `[from, to)` out.
    fn remove(&mut self, from: u64, to: u64) {
        // The range that begins before: nothing of it, its end, or a piece of its inside goes.
        let before = self.ranges.range_mut(..from).next_back();
        if let Some((_, rest)) = before
            && rest.to > from
        {
            let Rest { to: end, flags } = std::mem::replace(rest, Rest { to: from, ..*rest });
            if end > to {
                self.ranges.insert(to, Rest { to: end, flags });
                return;
            }
        }
        while let Some((start, rest)) = self.ranges.range(from..to).next() {
            let (start, rest) = (*start, *rest);
            self.ranges.remove(&start);
            if rest.to > to {
                self.ranges.insert(to, rest);
            }
        }
    }

    /// Makes a range end before `sequence`, and another begin there, if one covers both sides.
    fn cut(&mut self, sequence: u64) {
        let before = self.ranges.range_mut(..sequence).next_back();
        if let Some((_, rest)) = before
            && rest.to > sequence
        {
            let right = *rest;
            rest.to = sequence;
            self.ranges.insert(sequence, right);
        }
    }

    /// Joins neighbours that touch in `[from, to]`.
    fn join(&mut self, from: u64, to: u64) {
        let mut left = self
            .ranges
            .range(..from)
            .next_back()
            .map(|(start, _)| *start);
        let starts: Vec<_> = self
            .ranges
            .range(from..=to)
            .map(|(start, _)| *start)
            .collect();
        for start in starts {
            let rest = self.ranges.get(&start).copied();
            let joined = left.and_then(|left| self.ranges.get_mut(&left)).zip(rest);
            match joined {
                Some((before, rest)) if before.to == start && before.flags == rest.flags => {
                    before.to = rest.to;
                    self.ranges.remove(&start);
                }
                _ => left = Some(start),
            }
        }
    }

    fn delivery_count(&mut self, sequence: u64, count: u32) {
        let covers = |(_, rest): (&u64, &Rest)| rest.to > sequence;
        if self
            .ranges
            .range(..=sequence)
            .next_back()
            .is_some_and(covers)
        {
            self.cut(sequence);
            self.cut(sequence.saturating_add(1));
            if let Some(rest) = self.ranges.get_mut(&sequence) {
                rest.flags.delivery_count = count;
            }
        }
    }
}

/// The live messages of one queue.
#[derive(Debug, Default)]
pub(crate) struct Live {
    levels: BTreeMap<u8, Level>,
    /// Sequences up to this one may have been delivered.
    watermark: u64,
}

impl Live {
    /// This is all that lives.
    pub(crate) fn reset(&mut self, state: impl Iterator<Item = StateItem>) {
        self.watermark = 0;
        self.levels.clear();
        for item in state.filter(|item| item.from < item.to) {
            let level = self.levels.entry(item.level).or_default();
            let flags = Flags {
                delivered: item.delivered,
                delivery_count: item.delivery_count,
            };
            level.union(item.from.0, item.to.0, flags);
        }
    }

    /// New messages, `[from, to)`.
    pub(crate) fn enqueue(&mut self, level: u8, from: u64, to: u64, flags: Flags) {
        self.levels
            .entry(level)
            .or_default()
            .append(from, to, flags);
    }

    /// Messages that were enqueued before and live.
    pub(crate) fn copy(&mut self, level: u8, from: u64, to: u64, flags: Flags) {
        self.levels.entry(level).or_default().union(from, to, flags);
    }

    /// New messages that are gone already: nothing goes on over them.
    pub(crate) fn gone(&mut self, level: u8, to: u64) {
        let level = self.levels.entry(level).or_default();
        level.top = level.top.max(to);
    }

    /// These left the queue, whatever their level.
    pub(crate) fn settle(&mut self, from: u64, to: u64) {
        for level in self.levels.values_mut() {
            level.remove(from, to);
        }
    }

    pub(crate) fn delivered(&mut self, up_to: u64) {
        self.watermark = self.watermark.max(up_to);
    }

    pub(crate) fn delivery_count(&mut self, sequence: u64, count: u32) {
        for level in self.levels.values_mut() {
            level.delivery_count(sequence, count);
        }
    }

    /// The ranges of each level, in order, each as long as its flags allow.
    pub(crate) fn finish(mut self) -> Vec<(u8, Vec<LiveRange>)> {
        let past = self.watermark.saturating_add(1);
        let mut levels = Vec::new();
        for (number, mut level) in std::mem::take(&mut self.levels) {
            level.cut(past);
            for (_, rest) in level.ranges.range_mut(..past) {
                rest.flags.delivered |= self.watermark > 0;
            }
            let mut ranges: Vec<LiveRange> = Vec::with_capacity(level.ranges.len());
            for (from, Rest { to, flags }) in level.ranges {
                match ranges.last_mut() {
                    Some(last) if last.to == from && last.flags == flags => last.to = to,
                    _ => ranges.push(LiveRange { from, to, flags }),
                }
            }
            if !ranges.is_empty() {
                levels.push((number, ranges));
            }
        }
        levels
    }
}

#[cfg(test)]
mod tests {
    use mamba_types::Sequence;
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        /// New messages after a gap.
        Enqueue {
            level: u8,
            gap: u64,
            count: u64,
            flags: Flags,
        },
        /// Live messages again: of all, those from the first part on.
        Copy {
            from: u8,
            count: u8,
            flags: Flags,
        },
        Settle {
            from: u8,
            count: u8,
        },
        Gone {
            level: u8,
            count: u64,
        },
        Count {
            which: u8,
            count: u32,
        },
        Delivered {
            which: u8,
            ahead: u64,
        },
        /// What lives now is written down.
        State,
    }

    fn flags() -> impl Strategy<Value = Flags> {
        (any::<bool>(), 0..2u32).prop_map(|(delivered, delivery_count)| Flags {
            delivered,
            delivery_count,
        })
    }

    fn step() -> impl Strategy<Value = Step> {
        let range = || (any::<u8>(), 0..8u8);
        prop_oneof![
            6 => (0..3u8, 0..3u64, 1..6u64, flags()).prop_map(|(level, gap, count, flags)| {
                Step::Enqueue { level, gap, count, flags }
            }),
            2 => (range(), flags())
                .prop_map(|((from, count), flags)| Step::Copy { from, count, flags }),
            6 => range().prop_map(|(from, count)| Step::Settle { from, count }),
            1 => (0..3u8, 1..4u64).prop_map(|(level, count)| Step::Gone { level, count }),
            2 => (any::<u8>(), 0..3u32).prop_map(|(which, count)| Step::Count { which, count }),
            1 => (any::<u8>(), 0..3u64).prop_map(|(which, ahead)| Step::Delivered { which, ahead }),
            1 => Just(Step::State),
        ]
    }

    /// Every message ever, by sequence: its level, and its flags while it lives.
    #[derive(Default)]
    struct Model {
        messages: BTreeMap<u64, (u8, Option<Flags>)>,
        next: u64,
        watermark: u64,
    }

    impl Model {
        /// A sequence somewhere among all.
        fn place(&self, which: u8) -> u64 {
            1 + u64::from(which) * self.next / 256
        }

        /// The flags with the watermark applied.
        fn seen(&self, sequence: u64, flags: Flags) -> Flags {
            Flags {
                delivered: flags.delivered || sequence <= self.watermark,
                ..flags
            }
        }

        fn apply(&mut self, step: &Step, live: &mut Live) {
            match *step {
                Step::Enqueue {
                    level,
                    gap,
                    count,
                    flags,
                } => {
                    let from = self.next + 1 + gap;
                    self.next = from + count - 1;
                    live.enqueue(level, from, from + count, flags);
                    for sequence in from..from + count {
                        self.messages.insert(sequence, (level, Some(flags)));
                    }
                }
                Step::Gone { level, count } => {
                    let from = self.next + 1;
                    self.next += count;
                    live.gone(level, from + count);
                    for sequence in from..from + count {
                        self.messages.insert(sequence, (level, None));
                    }
                }
                Step::Copy { from, count, flags } => {
                    let from = self.place(from);
                    for (sequence, (level, alive)) in
                        self.messages.range_mut(from..from + u64::from(count))
                    {
                        if let Some(alive) = alive {
                            live.copy(*level, *sequence, sequence + 1, flags);
                            alive.delivered |= flags.delivered;
                            alive.delivery_count = alive.delivery_count.max(flags.delivery_count);
                        }
                    }
                }
                Step::Settle { from, count } => {
                    let from = self.place(from);
                    let to = from + u64::from(count);
                    live.settle(from, to);
                    self.messages
                        .range_mut(from..to)
                        .for_each(|(_, one)| one.1 = None);
                }
                Step::Count { which, count } => {
                    let sequence = self.place(which);
                    live.delivery_count(sequence, count);
                    if let Some((_, Some(flags))) = self.messages.get_mut(&sequence) {
                        flags.delivery_count = count;
                    }
                }
                Step::Delivered { which, ahead } => {
                    let up_to = self.place(which) + ahead;
                    live.delivered(up_to);
                    self.watermark = self.watermark.max(up_to);
                }
                Step::State => self.state(live),
            }
        }

        fn state(&mut self, live: &mut Live) {
            let mut state = Vec::new();
            let marked: Vec<_> = self
                .messages
                .iter()
                .filter_map(|(at, (level, flags))| Some((*at, *level, self.seen(*at, (*flags)?))))
                .collect();
            for (sequence, level, flags) in marked {
                self.messages.insert(sequence, (level, Some(flags)));
                state.push(StateItem {
                    from: Sequence(sequence),
                    to: Sequence(sequence + 1),
                    delivery_count: flags.delivery_count,
                    level,
                    delivered: flags.delivered,
                });
            }
            self.watermark = 0;
            live.reset(state.into_iter());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn ranges_say_what_a_plain_map_says(steps in prop::collection::vec(step(), 1..60)) {
            let mut model = Model::default();
            let mut live = Live::default();
            for step in &steps {
                model.apply(step, &mut live);
            }
            let levels: BTreeMap<_, _> = live.finish().into_iter().collect();
            for ranges in levels.values() {
                prop_assert!(ranges.iter().all(|range| range.from < range.to));
                prop_assert!(ranges.windows(2).all(|two| two[0].to <= two[1].from));
            }
            for (sequence, (level, flags)) in &model.messages {
                let ranges = levels.get(level).map_or(&[][..], Vec::as_slice);
                let found = ranges.iter().find(|one| (one.from..one.to).contains(sequence));
                let expected = flags.map(|flags| model.seen(*sequence, flags));
                prop_assert_eq!(found.map(|one| one.flags), expected, "sequence {}", sequence);
            }
        }
    }

    #[test]
    fn what_goes_elsewhere_does_not_break_a_range() {
        let mut live = Live::default();
        for sequence in 1..=1000 {
            live.enqueue(
                u8::from(sequence % 3 == 0),
                sequence,
                sequence + 1,
                Flags::default(),
            );
        }
        let levels = live.finish();
        assert!(
            levels.iter().all(|(_, ranges)| ranges.len() == 1),
            "{levels:?}"
        );
    }
}
