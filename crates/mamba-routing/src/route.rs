//! What routing reads of a message, and where it writes the result.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mamba_types::FieldTable;

/// The properties an exchange may ask for. Called only by exchanges that need them, so that an
/// implementation can parse lazily (and should remember what it parsed: several exchanges may ask).
pub trait MessageProperties {
    /// The `headers` property; `None` when the message has none.
    fn headers(&self) -> Option<&FieldTable>;

    /// The `message-id` property, for a consistent-hash exchange with `hash-property`.
    fn message_id(&self) -> Option<&[u8]> {
        None
    }

    /// The `correlation-id` property, likewise.
    fn correlation_id(&self) -> Option<&[u8]> {
        None
    }

    /// The `timestamp` property, likewise, in seconds since 1970.
    fn timestamp(&self) -> Option<u64> {
        None
    }
}

/// A message without properties.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProperties;

impl MessageProperties for NoProperties {
    fn headers(&self) -> Option<&FieldTable> {
        None
    }
}

/// A message as routing sees it.
#[derive(Clone, Copy)]
pub struct RouteInput<'a> {
    /// The publish's routing key, then those of the `CC` and `BCC` headers. Octets: they need not be UTF-8.
    pub keys: &'a [&'a [u8]],
    /// Headers and other properties.
    pub properties: &'a dyn MessageProperties,
}

/// The generation of an exchange (or, through the default exchange, of a queue) when a route was computed.
///
/// A route stays true as long as all its stamps are current.
#[derive(Clone, Debug)]
pub struct Stamp {
    cell: Arc<AtomicU64>,
    seen: u64,
}

impl Stamp {
    /// Remembers the generation `cell` has now.
    #[must_use]
    pub fn of(cell: &Arc<AtomicU64>) -> Self {
        Self {
            seen: cell.load(Ordering::Acquire),
            cell: Arc::clone(cell),
        }
    }

    /// Whether nothing changed since.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.cell.load(Ordering::Acquire) == self.seen
    }
}

/// The result of a route, and the scratch memory of computing it: keep one and reuse it.
#[derive(Debug)]
pub struct Routes<Q> {
    /// The queues, each once, in an order that depends on the table's history alone.
    pub queues: Vec<Q>,
    /// How many of them, at the end of the list, are reached through a delayed exchange only: a message with an
    /// `x-delay` waits before it is in them.
    pub waiting: usize,
    /// Whether the same (exchange, keys) goes to the same queues for as long as all [`Self::stamps`] are
    /// current. False when headers, properties, chance, a queue or an alternate exchange that does not
    /// exist took part.
    pub cacheable: bool,
    /// The exchange published to takes each message once ([`crate::Exchange::deduplicates`]).
    pub deduplicates: bool,
    /// The generations the result rests on.
    pub stamps: Vec<Stamp>,
    pub(crate) scratch: Scratch,
}

impl<Q> Routes<Q> {
    /// An empty result.
    #[must_use]
    pub fn new() -> Self {
        Self {
            queues: Vec::new(),
            waiting: 0,
            cacheable: true,
            deduplicates: false,
            stamps: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    /// Lets go of the handles and stamps and keeps the memory.
    pub fn clear(&mut self) {
        self.queues.clear();
        self.waiting = 0;
        self.stamps.clear();
        self.cacheable = true;
        self.deduplicates = false;
        self.scratch.clear();
    }
}

impl<Q> Default for Routes<Q> {
    fn default() -> Self {
        Self::new()
    }
}

/// What one destination of an index is: a slot in the table's queues or exchanges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Target {
    Queue(u32),
    Exchange(u32),
}

/// Working memory of one route.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Exchanges reached so far, in order; doubles as the list of work.
    pub(crate) visited: SmallSet,
    /// Queue slots selected so far, with repetitions.
    pub(crate) queues: Vec<u32>,
    /// Delayed exchanges reached.
    pub(crate) delayed: Vec<u32>,
    /// Destinations selected so far, counted before de-duplication.
    pub(crate) selected: usize,
    pub(crate) topic: TopicScratch,
}

/// Working memory of one topic match.
#[derive(Debug, Default)]
pub(crate) struct TopicScratch {
    pub(crate) current: Vec<u32>,
    pub(crate) next: Vec<u32>,
    /// `#` nodes reached: once reached, they match whatever follows.
    pub(crate) hashes: SmallSet,
}

impl Scratch {
    fn clear(&mut self) {
        self.visited.clear();
        self.queues.clear();
        self.delayed.clear();
        self.selected = 0;
    }

    /// Leaves each queue once, those of the first `at_once` before the others; returns how many the others are.
    pub(crate) fn late(&mut self, at_once: usize) -> usize {
        let mut late = self.queues.split_off(at_once);
        for queues in [&mut self.queues, &mut late] {
            queues.sort_unstable();
            queues.dedup();
        }
        late.retain(|slot| self.queues.binary_search(slot).is_err());
        self.queues.extend_from_slice(&late);
        late.len()
    }

    /// Takes a destination an index selected.
    pub(crate) fn select(&mut self, target: Target) {
        self.selected += 1;
        match target {
            Target::Queue(slot) => self.queues.push(slot),
            Target::Exchange(slot) => {
                self.visited.insert(slot);
            }
        }
    }
}

/// Elements above which looking through the list costs more than a hash set.
const LINEAR_MAX: usize = 16;

/// A set that keeps insertion order and needs no hashing while it is small.
#[derive(Debug, Default)]
pub(crate) struct SmallSet {
    list: Vec<u32>,
    set: HashSet<u32, foldhash::fast::FixedState>,
}

impl SmallSet {
    /// Whether `value` was new.
    pub(crate) fn insert(&mut self, value: u32) -> bool {
        if self.list.len() < LINEAR_MAX {
            if self.list.contains(&value) {
                return false;
            }
        } else {
            if self.set.is_empty() {
                self.set.extend(self.list.iter().copied());
            }
            if !self.set.insert(value) {
                return false;
            }
        }
        self.list.push(value);
        true
    }

    pub(crate) fn at(&self, index: usize) -> Option<u32> {
        self.list.get(index).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn clear(&mut self) {
        self.set.clear();
        self.list.clear();
    }
}
