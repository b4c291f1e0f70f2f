//! Messages of a queue that are not ready before a time: delayed ones, and returned ones that wait to be tried again.
//!
//! A [`WaitingRoom`] knows of each message when it is ready, its place in the log and how often it came back; the
//! messages themselves lie in the log alone. Like the queue it reads no clock and touches no disk: its owner takes out
//! what is due, reads it back, enqueues it and says that it has gone.
//!
//! ```text
//!   admit -> waiting --take_due--> taken --left--> gone (ready in the queue, or a dead letter elsewhere)
//!               ^                    |
//!               +- put_back, again --+
//! ```
//!
//! After a restart it knows ranges of sequences; the owner reads them through ([`WaitingRoom::unread`]) and tells each
//! message's time ([`WaitingRoom::read`]).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
};

use mamba_types::Sequence;

use crate::paging::{LiveRun, PagedRun};

/// A time in milliseconds is a bucket's number and these low bits: a bucket spans 65 seconds.
const DUE_BITS: u32 = 16;
/// A sequence is a block's number and these low bits; an entry has both kinds of low bits in 64.
const SEQUENCE_BITS: u32 = 48;
/// Sequences nobody waits at that are rather read through than skipped.
const GAP_MAX: u64 = 32;

/// A message that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// When it is ready, in milliseconds since 1970.
    pub due_ms: u64,
    /// Its place in the log, among the waiting room's own sequences.
    pub sequence: Sequence,
    /// How often it came back; of a dead letter, how often it was refused.
    pub returns: u32,
}

/// Messages of which a crash has made unknown whether they were released, and delivered: those admitted before it that were
/// ready by the next start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doubt {
    before: Sequence,
    until_ms: u64,
}

impl Doubt {
    /// Whether the message at this place, ready at this time (milliseconds since 1970), may have been delivered.
    #[must_use]
    pub fn covers(self, sequence: Sequence, due_ms: u64) -> bool {
        sequence < self.before && due_ms <= self.until_ms
    }
}

/// Messages that share everything but the low bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Bucket {
    due: u64,
    block: u64,
    returns: u32,
}

/// Who is ready when: 8 octets a message, and room for growth.
#[derive(Debug, Default)]
struct Index {
    /// The low bits of time and sequence, the earliest on top.
    buckets: BTreeMap<Bucket, BinaryHeap<Reverse<u64>>>,
    len: u64,
}

impl Index {
    fn insert(&mut self, waiting: Waiting) {
        let Waiting {
            due_ms,
            sequence: Sequence(sequence),
            returns,
        } = waiting;
        let bucket = Bucket {
            due: due_ms >> DUE_BITS,
            block: sequence >> SEQUENCE_BITS,
            returns,
        };
        let low_due = due_ms & ((1 << DUE_BITS) - 1);
        let low_sequence = sequence & ((1 << SEQUENCE_BITS) - 1);
        let entry = (low_due << SEQUENCE_BITS) | low_sequence;
        self.buckets.entry(bucket).or_default().push(Reverse(entry));
        self.len += 1;
    }

    const fn unpack(bucket: Bucket, entry: u64) -> Waiting {
        Waiting {
            due_ms: (bucket.due << DUE_BITS) | (entry >> SEQUENCE_BITS),
            sequence: Sequence(
                (bucket.block << SEQUENCE_BITS) | (entry & ((1 << SEQUENCE_BITS) - 1)),
            ),
            returns: bucket.returns,
        }
    }

    /// The one that is ready first; of several the oldest.
    fn first(&self) -> Option<(Bucket, Waiting)> {
        let due = self.buckets.first_key_value()?.0.due;
        // Messages of other blocks, and with other counts, may share the time.
        let same_time = self.buckets.range(
            ..Bucket {
                due: due + 1,
                block: 0,
                returns: 0,
            },
        );
        same_time
            .filter_map(|(bucket, entries)| {
                let Reverse(entry) = *entries.peek()?;
                Some((*bucket, Self::unpack(*bucket, entry)))
            })
            .min_by_key(|(_, waiting)| (waiting.due_ms, waiting.sequence))
    }

    /// The first `max` ones that are ready at `until_ms`, in order: down each heap no further than that.
    fn soon(&self, until_ms: u64, max: usize) -> Vec<Waiting> {
        let last = Bucket {
            due: until_ms >> DUE_BITS,
            block: u64::MAX,
            returns: u32::MAX,
        };
        let heaps: Vec<(Bucket, &[Reverse<u64>])> = self
            .buckets
            .range(..=last)
            .map(|(bucket, entries)| (*bucket, entries.as_slice()))
            .collect();
        let at = |heap: usize, place: usize| {
            let (bucket, entries) = heaps[heap];
            let Waiting {
                due_ms,
                sequence,
                returns,
            } = Self::unpack(bucket, entries.get(place)?.0);
            (due_ms <= until_ms).then_some(Reverse((due_ms, sequence, returns, heap, place)))
        };
        let mut next: BinaryHeap<_> = (0..heaps.len()).filter_map(|heap| at(heap, 0)).collect();
        let mut soon = Vec::new();
        while soon.len() < max
            && let Some(Reverse((due_ms, sequence, returns, heap, place))) = next.pop()
        {
            soon.push(Waiting {
                due_ms,
                sequence,
                returns,
            });
            next.extend(
                [2 * place + 1, 2 * place + 2]
                    .map(|child| at(heap, child))
                    .into_iter()
                    .flatten(),
            );
        }
        soon
    }

    fn pop(&mut self, bucket: Bucket) {
        if let Some(entries) = self.buckets.get_mut(&bucket) {
            self.len -= u64::from(entries.pop().is_some());
            if entries.is_empty() {
                self.buckets.remove(&bucket);
            }
        }
    }

    /// All, in no order.
    fn iter(&self) -> impl Iterator<Item = Waiting> {
        self.buckets.iter().flat_map(|(bucket, entries)| {
            let unpack = |Reverse(entry): &Reverse<u64>| Self::unpack(*bucket, *entry);
            entries.iter().map(unpack)
        })
    }
}

/// The messages of one queue that wait.
#[derive(Debug)]
pub struct WaitingRoom {
    next: Sequence,
    index: Index,
    /// Taken out because they are due, not yet gone.
    taken: Vec<Waiting>,
    /// What a restart left, until it has been read: by sequence.
    unread: VecDeque<PagedRun>,
    unread_count: u64,
    doubt: Doubt,
    body_bytes: u64,
    /// Counts purges: what was taken before one is not to come back.
    purges: u64,
}

impl WaitingRoom {
    /// An empty one whose first message gets `first`.
    #[must_use]
    pub const fn new(first: Sequence) -> Self {
        Self {
            next: first,
            index: Index {
                buckets: BTreeMap::new(),
                len: 0,
            },
            taken: Vec::new(),
            unread: VecDeque::new(),
            unread_count: 0,
            doubt: Doubt {
                before: Sequence(0),
                until_ms: 0,
            },
            body_bytes: 0,
            purges: 0,
        }
    }

    /// Messages that wait, those being taken out included.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.index.len + self.taken.len() as u64 + self.unread_count
    }

    /// Octets of their bodies; an estimate after a restart, until all have been read.
    #[must_use]
    pub const fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// Times it was purged.
    #[must_use]
    pub const fn purges(&self) -> u64 {
        self.purges
    }

    /// The sequence the next message will get.
    #[must_use]
    pub const fn next_sequence(&self) -> Sequence {
        self.next
    }

    /// Takes a message in that waits until `due_ms`, milliseconds since 1970, and came back `returns` times.
    /// Returns its sequence.
    pub fn admit(&mut self, due_ms: u64, returns: u32, body_len: usize) -> Sequence {
        let sequence = self.next;
        self.next = sequence.next();
        self.body_bytes += body_len as u64;
        self.index.insert(Waiting {
            due_ms,
            sequence,
            returns,
        });
        sequence
    }

    /// When the next message is ready, in milliseconds since 1970. Those that are taken, and those not read yet, do
    /// not count.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        self.index.first().map(|(_, waiting)| waiting.due_ms)
    }

    /// The first `max` messages that are ready at `until_ms`, by time and then by age, without taking them out.
    #[must_use]
    pub fn soon(&self, until_ms: u64, max: usize) -> Vec<Waiting> {
        self.index.soon(until_ms, max)
    }

    /// Whether messages are taken out and not gone.
    #[must_use]
    pub const fn is_taking(&self) -> bool {
        !self.taken.is_empty()
    }

    /// Takes out at most `max` messages that are ready at `now_ms`, by time and then by age. Until [`Self::put_back`]
    /// or [`Self::left`] it says the same again.
    pub fn take_due(&mut self, now_ms: u64, max: usize) -> &[Waiting] {
        if self.is_taking() {
            return &self.taken;
        }
        while self.taken.len() < max
            && let Some((bucket, waiting)) = self.index.first()
            && waiting.due_ms <= now_ms
        {
            self.index.pop(bucket);
            self.taken.push(waiting);
        }
        &self.taken
    }

    /// The taken messages have gone, `body_bytes` octets of bodies with them, except the last `rest` ones, which wait
    /// on, and those of `again`, which wait until another time.
    pub fn left(&mut self, rest: usize, body_bytes: u64, again: impl IntoIterator<Item = Waiting>) {
        let gone = self.taken.len().saturating_sub(rest);
        for waiting in self.taken.drain(..).skip(gone).chain(again) {
            self.index.insert(waiting);
        }
        self.body_bytes = self.body_bytes.saturating_sub(body_bytes);
        self.correct_bytes();
    }

    /// The taken messages wait on.
    pub fn put_back(&mut self) {
        self.left(self.taken.len(), 0, []);
    }

    /// Puts back what survived a restart, before anything else happens, by ascending sequence.
    pub fn restore(&mut self, run: PagedRun) {
        self.next = self.next.max(run.to);
        self.unread_count += run.count;
        self.body_bytes += run.body_bytes;
        self.unread.push_back(run);
    }

    /// What has been put back, as far as it is ready at `until_ms`, may have been delivered: the node crashed.
    pub const fn doubt(&mut self, until_ms: u64) {
        self.doubt = Doubt {
            before: self.next,
            until_ms,
        };
    }

    /// Which messages may have been delivered.
    #[must_use]
    pub const fn doubted(&self) -> Doubt {
        self.doubt
    }

    /// The next sequences to read after a restart, `[from, to)`, of about `max` messages; `None` when all are known.
    #[must_use]
    pub fn unread(&self, max: u64) -> Option<(Sequence, Sequence)> {
        let first = self.unread.front()?;
        let (mut to, mut count) = (first.to, first.count);
        for run in self.unread.iter().skip(1) {
            if count >= max || run.from.0 - to.0 > GAP_MAX {
                break;
            }
            to = run.to;
            count += run.count;
        }
        Some((first.from, to))
    }

    /// Takes what was read for [`Self::unread`]: for each message its sequence, when it is ready, and the octets of
    /// its body, ascending; all there is before `next`. Returns how many the disk has lost.
    pub fn read(
        &mut self,
        found: impl IntoIterator<Item = (Sequence, u64, usize)>,
        next: Sequence,
    ) -> u64 {
        let mut found = found.into_iter().peekable();
        let mut lost = 0;
        while let Some(run) = self.unread.front_mut()
            && run.from < next
        {
            let to = run.to.min(next);
            while let Some((sequence, due_ms, body_len)) = found.next_if(|(at, ..)| *at < to) {
                // What lies between two runs is dead.
                if sequence < run.from {
                    continue;
                }
                let body_len = body_len as u64;
                self.index.insert(Waiting {
                    due_ms,
                    sequence,
                    returns: run.returns,
                });
                // From an estimate to the truth: what is left of the estimate goes with the run.
                self.body_bytes += body_len.saturating_sub(run.body_bytes);
                run.body_bytes = run.body_bytes.saturating_sub(body_len);
                let counted = run.count.min(1);
                run.count -= counted;
                self.unread_count -= counted;
            }
            if to < run.to {
                run.from = to;
                break;
            }
            lost += run.count;
            self.unread_count -= run.count;
            self.body_bytes = self.body_bytes.saturating_sub(run.body_bytes);
            self.unread.pop_front();
        }
        self.correct_bytes();
        lost
    }

    /// Everything that waits with a sequence in `[from, to)`, ascending.
    #[must_use]
    pub fn live_in(&self, from: Sequence, to: Sequence) -> Vec<LiveRun> {
        let known = self.index.iter().chain(self.taken.iter().copied());
        let mut known: Vec<LiveRun> = known
            .filter(|waiting| from <= waiting.sequence && waiting.sequence < to)
            .map(|waiting| {
                let doubted = self.doubt.covers(waiting.sequence, waiting.due_ms);
                let end = waiting.sequence.next();
                live_run(waiting.sequence, end, waiting.returns, doubted)
            })
            .collect();
        known.sort_unstable_by_key(|one| one.from);
        let mut runs: Vec<LiveRun> = Vec::new();
        for one in known {
            match runs.last_mut() {
                Some(run)
                    if run.to == one.from
                        && run.returns == one.returns
                        && run.delivered == one.delivered =>
                {
                    run.to = one.to;
                }
                _ => runs.push(one),
            }
        }
        let unread = self
            .unread
            .iter()
            .filter(|run| run.from < to && from < run.to);
        let before = runs.len();
        runs.extend(unread.map(|run| {
            let doubted = run.from < self.doubt.before;
            live_run(run.from.max(from), run.to.min(to), run.returns, doubted)
        }));
        if runs.len() > before {
            runs.sort_unstable_by_key(|run| run.from);
        }
        runs
    }

    /// Everything that waits, ascending.
    #[must_use]
    pub fn live_runs(&self) -> Vec<LiveRun> {
        self.live_in(Sequence(0), Sequence(u64::MAX))
    }

    /// Drops everything, what is taken included, and returns what there was.
    pub fn purge(&mut self) -> Vec<LiveRun> {
        let runs = self.live_runs();
        *self = Self {
            purges: self.purges + 1,
            ..Self::new(self.next)
        };
        runs
    }

    /// Estimates must not outlive what they were of.
    const fn correct_bytes(&mut self) {
        if self.count() == 0 {
            self.body_bytes = 0;
        }
    }
}

const fn live_run(from: Sequence, to: Sequence, returns: u32, doubted: bool) -> LiveRun {
    LiveRun {
        level: 0,
        from,
        to,
        delivered: returns > 0 || doubted,
        returns,
    }
}
