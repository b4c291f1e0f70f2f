//! What a queue says about messages that lie on the disk alone.

use std::{collections::VecDeque, sync::Arc};

use mamba_types::{LogPosition, Sequence};

use crate::{filters::Selector, queue::Stored};

/// Messages of one level that are on the disk only. Everything of that level that is stored with a sequence in
/// `[from, to)` belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagedRun {
    /// The priority the messages wait at; 0 in a queue without priorities.
    pub level: u8,
    /// The first sequence.
    pub from: Sequence,
    /// The sequence after the last.
    pub to: Sequence,
    /// Messages; after a restart too high if the disk has lost some.
    pub count: u64,
    /// Octets of bodies.
    pub body_bytes: u64,
    /// The octets are an estimate: before the restart only a part of what was enqueued together was left. See
    /// [`crate::Queue::measured`].
    pub estimated: bool,
    /// Whether a consumer may have seen them.
    pub redelivered: bool,
    /// How often each of them came back.
    pub returns: u32,
}

impl PagedRun {
    pub(crate) fn of(level: u8, stored: &Stored) -> Self {
        Self {
            level,
            from: stored.sequence,
            to: stored.sequence.next(),
            count: 1,
            body_bytes: stored.message.body_len() as u64,
            estimated: false,
            redelivered: stored.redelivered,
            returns: stored.returns,
        }
    }

    /// Whether the two can be one: a run that is to be measured keeps its bounds until it is, or gets smaller.
    pub(crate) const fn has_flags_of(&self, other: &Self) -> bool {
        self.redelivered == other.redelivered
            && self.returns == other.returns
            && self.estimated == other.estimated
    }

    /// Takes in a run that lies next to it and has the same flags.
    pub(crate) fn absorb(&mut self, other: &Self) {
        self.from = self.from.min(other.from);
        self.to = self.to.max(other.to);
        self.count += other.count;
        self.body_bytes += other.body_bytes;
    }
}

/// Names one reading of a run; never given twice by the same queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageToken(pub(crate) u64);

/// Messages the queue wants in memory. The owner reads them without the queue's lock and answers with
/// [`crate::Queue::paged_in`] or [`crate::Queue::load_failed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageIn {
    /// The level they wait at.
    pub level: u8,
    /// The first sequence.
    pub from: Sequence,
    /// The sequence after the last.
    pub to: Sequence,
    /// Octets of records the head has room for. One message is read however large it is.
    pub octets: usize,
    /// To be given back with the answer.
    pub token: PageToken,
}

/// Messages a filter wants looked at. The owner reads them without the queue's lock, has [`Self::look_at`] look at
/// them, and answers with [`crate::Queue::scanned`] or [`crate::Queue::load_failed`].
#[derive(Clone, Debug)]
pub struct Scan {
    /// The level they wait at.
    pub level: u8,
    /// The first sequence.
    pub from: Sequence,
    /// The sequence after the last.
    pub to: Sequence,
    /// Octets of records to read at most. One message is read however large it is.
    pub octets: usize,
    /// To be given back with the answer.
    pub token: PageToken,
    pub(crate) target: Target,
    /// Slot and serial of the group.
    pub(crate) group: (usize, u64),
    pub(crate) selector: Arc<dyn Selector>,
    /// Matches its consumers can take, and octets of them.
    pub(crate) matches_max: usize,
    pub(crate) match_octets: usize,
}

/// Where a filter goes on in the paged part of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// From here on.
    From(Sequence),
    /// At this one, which came back.
    Only(Sequence),
}

impl Target {
    pub(crate) const fn sequence(self) -> Sequence {
        match self {
            Self::From(sequence) | Self::Only(sequence) => sequence,
        }
    }
}

/// What a [`Scan`] found.
#[derive(Debug)]
pub struct Scanned {
    /// Everything that was read, with the octets of its body.
    pub(crate) read: Vec<(Sequence, u64)>,
    pub(crate) matches: VecDeque<Stored>,
    /// Everything before was read and looked at.
    pub(crate) next: Sequence,
}

impl Scanned {
    /// The last match: whoever gets it will have been passed everything before.
    #[must_use]
    pub fn last_match(&self) -> Option<Sequence> {
        self.matches.back().map(|stored| stored.sequence)
    }
}

/// Matches that can be handed out in a call, all of one level.
#[derive(Debug)]
pub(crate) struct Candidates {
    pub(crate) level: u8,
    pub(crate) waiting: VecDeque<Stored>,
    pub(crate) taken: Vec<Sequence>,
}

impl Scan {
    /// Looks at what was read: the messages of the range that come before `next`, in order. It takes as long as the filter does
    /// for each of them.
    #[must_use]
    pub fn look_at(&self, messages: impl IntoIterator<Item = Stored>, next: Sequence) -> Scanned {
        let mut scanned = Scanned {
            read: Vec::new(),
            matches: VecDeque::new(),
            next,
        };
        let mut octets = 0;
        for stored in messages {
            let sequence = stored.sequence;
            if scanned.matches.len() >= self.matches_max || octets > self.match_octets {
                scanned.next = sequence;
                break;
            }
            let is_asked = match self.target {
                Target::From(first) => sequence >= first,
                Target::Only(one) => sequence == one,
            };
            let body = stored.message.body_len() as u64;
            scanned.read.push((sequence, body));
            if is_asked && self.selector.matches(&stored.message) {
                octets += stored.message.record_len();
                scanned.matches.push_back(stored);
            }
        }
        scanned
    }
}

/// How much of each end of a queue stays in memory, in octets of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// What a read fills the head up to.
    pub head_bytes: usize,
    /// A head that holds less asks for more.
    pub low_bytes: usize,
    /// The most that [`crate::Queue::page_out`] leaves at the tail.
    pub tail_bytes: usize,
}

impl Window {
    /// 1 MiB at either end, and a read when half of the head is gone.
    pub const DEFAULT: Self = Self {
        head_bytes: 1 << 20,
        low_bytes: 1 << 19,
        tail_bytes: 1 << 20,
    };
}

impl Default for Window {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Messages of the queue that the log holds: everything of that level that is stored with a sequence in `[from, to)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveRun {
    /// The priority they wait at.
    pub level: u8,
    /// The first sequence.
    pub from: Sequence,
    /// The sequence after the last.
    pub to: Sequence,
    /// Whether a consumer has or may have seen them.
    pub delivered: bool,
    /// How often each of them came back.
    pub returns: u32,
}

impl LiveRun {
    pub(crate) fn of(level: u8, stored: &Stored, delivered: bool) -> Self {
        Self {
            level,
            from: stored.sequence,
            to: stored.sequence.next(),
            delivered: delivered || stored.redelivered || stored.returns > 0,
            returns: stored.returns,
        }
    }

    pub(crate) const fn has_flags_of(&self, other: &Self) -> bool {
        self.delivered == other.delivered && self.returns == other.returns
    }
}

/// Whether a message's record can be read back: it is in the log, and all of it lies before `readable`.
pub(crate) fn is_readable(stored: &Stored, readable: LogPosition) -> bool {
    stored.at != LogPosition::NONE
        && stored
            .at
            .0
            .saturating_add(stored.message.record_len() as u64)
            <= readable.0
}
