//! What routing reads of a message, and where it writes the result.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mamba_types::{FieldTable, QueueId};

use crate::binding::Destination;

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
    /// Whether the same (exchange, keys) goes to the same queues for as long as all [`Self::stamps`] are
    /// current. False when headers, properties, chance, a queue or an alternate exchange that does not
    /// exist took part.
    pub cacheable: bool,
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
            cacheable: true,
            stamps: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    /// Lets go of the handles and stamps and keeps the memory.
    pub fn clear(&mut self) {
        self.queues.clear();
        self.stamps.clear();
        self.cacheable = true;
        self.scratch.clear();
    }
}

impl<Q> Default for Routes<Q> {
    fn default() -> Self {
        Self::new()
    }
}

/// Working memory of one route.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Exchanges reached so far, in order; doubles as the list of work.
    pub(crate) visited: Vec<Arc<str>>,
    /// What the current exchange's type selected.
    pub(crate) selected: Vec<Destination>,
    /// Queues selected so far, once there are many.
    pub(crate) queues: HashSet<QueueId, foldhash::fast::FixedState>,
}

impl Scratch {
    fn clear(&mut self) {
        self.visited.clear();
        self.selected.clear();
        self.queues.clear();
    }
}
