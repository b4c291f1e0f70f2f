//! Sequences handed to consumers without acknowledgement, until they have been sent.

use std::collections::BTreeMap;

use mamba_store::{LiveRun, Settled};
use mamba_types::Sequence;

/// Sequences of one queue with their levels, as runs of consecutive ones.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    /// By first sequence: the one after the last, and the level.
    runs: BTreeMap<u64, (u64, u8)>,
}

impl InFlight {
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(super) fn add(&mut self, sequence: Sequence, level: u8) {
        let sequence = sequence.0;
        if let Some((_, (to, known))) = self.runs.range_mut(..=sequence).next_back()
            && *to == sequence
            && *known == level
        {
            *to += 1;
            return;
        }
        self.runs.insert(sequence, (sequence + 1, level));
    }

    pub(super) fn remove(&mut self, settled: &[Settled]) {
        let mut rest = settled.iter().map(|settled| settled.sequence.0).peekable();
        while let Some(first) = rest.next() {
            let mut to = first + 1;
            while rest.next_if_eq(&to).is_some() {
                to += 1;
            }
            self.remove_range(first, to);
        }
    }

    pub(super) fn remove_range(&mut self, from: u64, to: u64) {
        while let Some((&first, &(end, level))) = self
            .runs
            .range(..to)
            .next_back()
            .filter(|(_, (end, _))| *end > from)
        {
            self.runs.remove(&first);
            if first < from {
                self.runs.insert(first, (from, level));
            }
            if end > to {
                self.runs.insert(to, (end, level));
            }
        }
    }

    pub(super) fn overlaps(&self, first: u64, last: u64) -> bool {
        let before_end = self.runs.range(..=last).next_back();
        before_end.is_some_and(|(_, (to, _))| *to > first)
    }

    pub(super) fn runs(&self) -> impl Iterator<Item = LiveRun> {
        self.runs.iter().map(|(from, (to, level))| LiveRun {
            level: *level,
            from: Sequence(*from),
            to: Sequence(*to),
            delivered: true,
            delivery_count: 0,
        })
    }
}
