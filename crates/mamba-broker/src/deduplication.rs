//! Taking each message once: the ids in message headers, and what an exchange remembers of them.
//!
//! A queue does the same under its own lock (`queue_cell/once.rs`). An exchange's ids have a lock above those of queues: a batch
//! holds it from the look at its ids until its messages are where they go, so that of two publishers with the same id
//! the second one finds what has become of the first one's message.

use std::{collections::HashMap, sync::Arc};

use mamba_codec::{RawValue, content_header, scan_properties, table_get};
use mamba_queue::{Lasting, SeenCache};
use mamba_routing::ExchangeSpec;
use mamba_store::{Log, Seen, SeenId};
use mamba_types::{FieldTable, Limits, LogPosition, Message, QueueId, table};
use parking_lot::{Mutex, MutexGuard};
use sha2::{Digest, Sha256};

use crate::arguments::{self, TIME_MAX_MS};

/// The header with the id, unless the arguments name another one.
const HEADER: &str = "x-deduplication-header";
/// Ids remembered when the arguments do not say how many.
const SIZE: usize = 10_000;

/// How a queue or an exchange tells messages apart.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    header: Box<str>,
    /// How many ids are remembered.
    size: usize,
    /// For how long, in milliseconds; `None`: until there is no room.
    ttl_ms: Option<u64>,
}

/// What a message is known by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Id {
    pub(crate) hash: [u8; 16],
    /// How long it wants to be remembered.
    ttl_ms: Option<u64>,
}

impl Id {
    pub(crate) fn expires_at(&self, now_ms: u64) -> Option<u64> {
        self.ttl_ms.map(|ttl| now_ms.saturating_add(ttl))
    }
}

impl Rules {
    fn of(arguments: &FieldTable) -> Self {
        let number = |key| arguments::get(arguments, key).and_then(table::number);
        Self {
            header: arguments::get(arguments, HEADER)
                .and_then(table::text)
                .unwrap_or(HEADER)
                .into(),
            size: number("x-cache-size")
                .and_then(|size| usize::try_from(size).ok())
                .unwrap_or(SIZE),
            ttl_ms: number("x-cache-ttl").and_then(|ttl| u64::try_from(ttl).ok()),
        }
    }

    /// A queue's; `None`: it takes every message.
    pub(crate) fn of_queue(arguments: &FieldTable) -> Option<Self> {
        let wanted = arguments::get(arguments, "x-message-deduplication");
        matches!(wanted, Some(table::FieldValue::Boolean(true))).then(|| Self::of(arguments))
    }

    /// The id of a message by its content header. One without is never a duplicate.
    pub(crate) fn id_in(&self, header: &[u8]) -> Option<Id> {
        let properties = content_header(header).ok()?.properties;
        let headers = scan_properties(properties, &Limits::default())
            .ok()?
            .headers?;
        let hash = hash_of(&table_get(headers, self.header.as_bytes())?)?;
        let own = table_get(headers, b"x-cache-ttl").and_then(|ttl| ttl.integer());
        let own = own.filter(|ttl| (1..=TIME_MAX_MS).contains(ttl));
        let ttl_ms = own.and_then(|ttl| u64::try_from(ttl).ok()).or(self.ttl_ms);
        Some(Id { hash, ttl_ms })
    }

    /// The id of a message. What the broker itself moves on as a dead letter was taken once already and is let through.
    pub(crate) fn id_of(&self, message: &Message) -> Option<Id> {
        if message.dead_lettered() {
            return None;
        }
        self.id_in(message.header())
    }
}

/// Stands for an id in memory and on the disk: the same for ever. A text is its octets, an integer its number whatever its width,
/// everything else its type and octets; nothing at all is no id.
fn hash_of(value: &RawValue<'_>) -> Option<[u8; 16]> {
    let mut digest = Sha256::new();
    match (value.tag, value.integer()) {
        (b'V', _) => return None,
        (_, Some(number)) => {
            digest.update(b"i");
            digest.update(number.to_be_bytes());
        }
        (b'S' | b'x', None) => {
            digest.update(b"s");
            digest.update(value.octets);
        }
        (tag, None) => {
            digest.update([b'o', tag]);
            digest.update(value.octets);
        }
    }
    let whole: [u8; 32] = digest.finalize().into();
    whole.first_chunk().copied()
}

/// What a queue or an exchange that takes each message once has done about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeduplicationCounts {
    /// Duplicates kept out since the start.
    pub duplicates: u64,
    /// Ids in memory; some may have expired.
    pub ids: u64,
}

/// What a queue or an exchange remembers.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) cache: SeenCache,
    /// The log position that makes all stored ids durable: whoever is told of a duplicate waits for it.
    pub(crate) noted_at: LogPosition,
    /// Duplicates met since the start.
    pub(crate) duplicates: u64,
}

impl Memory {
    pub(crate) fn new(rules: &Rules) -> Self {
        Self {
            cache: SeenCache::new(rules.size),
            noted_at: LogPosition::NONE,
            duplicates: 0,
        }
    }

    pub(crate) fn counts(&self) -> DeduplicationCounts {
        DeduplicationCounts {
            duplicates: self.duplicates,
            ids: self.cache.len() as u64,
        }
    }

    /// Remembers an id that came now.
    pub(crate) fn insert(&mut self, id: &Id, lasting: Lasting, now_ms: u64) {
        self.cache
            .insert(&id.hash, id.expires_at(now_ms), lasting, now_ms);
    }

    /// Puts back what survived a restart.
    pub(crate) fn restore(&mut self, ids: &[SeenId], now_ms: u64) {
        for id in ids {
            self.cache
                .insert(&id.hash, id.expires_at_ms, Lasting::Stored, now_ms);
        }
    }

    /// Writes its part of a checkpoint.
    pub(crate) fn write_state(&self, owner: QueueId, log: &Log, now_ms: u64) {
        let ids: Vec<_> = self
            .cache
            .stored(now_ms)
            .map(|(hash, expires_at_ms)| SeenId {
                hash,
                expires_at_ms,
            })
            .collect();
        if !ids.is_empty() {
            log.append_seen_state(owner, ids.into_iter());
        }
    }
}

/// An exchange that takes each message once.
#[derive(Debug)]
pub(crate) struct ExchangeIds {
    /// What the log knows it by.
    pub(crate) id: QueueId,
    /// The exchange's name.
    pub(crate) name: Arc<str>,
    durable: bool,
    rules: Rules,
    memory: Mutex<Memory>,
}

/// Where a message that passes an exchange is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// In memory only.
    InMemory,
    /// In the log, by one queue, which writes down the id along with it.
    Once(LogPosition),
    /// In the log, by several queues.
    Shared,
}

impl ExchangeIds {
    pub(crate) fn new(id: QueueId, spec: &ExchangeSpec) -> Arc<Self> {
        let rules = Rules::of(&spec.arguments);
        Arc::new(Self {
            id,
            name: Arc::clone(&spec.name),
            durable: spec.durable,
            memory: Mutex::new(Memory::new(&rules)),
            rules,
        })
    }

    /// Lets a batch pass; others wait until it has.
    pub(crate) fn enter(&self, now_ms: u64) -> Passage<'_> {
        Passage {
            ids: self,
            memory: self.memory.lock(),
            now_ms,
            fresh: Vec::new(),
            known: HashMap::default(),
            duplicates: Vec::new(),
            along: Vec::new(),
        }
    }

    /// For a message that reaches no queue: if it is a duplicate, the log position its confirm waits for.
    pub(crate) fn duplicate(&self, header: &[u8], now_ms: u64) -> Option<LogPosition> {
        let id = self.rules.id_in(header)?;
        let mut memory = self.memory.lock();
        if !memory.cache.contains(&id.hash, now_ms) {
            return None;
        }
        memory.duplicates += 1;
        Some(memory.noted_at)
    }

    pub(crate) fn restore(&self, ids: &[SeenId], now_ms: u64) {
        self.memory.lock().restore(ids, now_ms);
    }

    pub(crate) fn checkpoint(&self, log: &Log, now_ms: u64) {
        self.memory.lock().write_state(self.id, log, now_ms);
    }

    pub(crate) fn counts(&self) -> DeduplicationCounts {
        self.memory.lock().counts()
    }
}

/// A batch on its way through an exchange that takes each message once.
pub(crate) struct Passage<'a> {
    ids: &'a ExchangeIds,
    memory: MutexGuard<'a, Memory>,
    now_ms: u64,
    /// What has come for the first time.
    fresh: Vec<Fresh>,
    /// Where in `fresh` an id stands.
    known: HashMap<[u8; 16], usize, foldhash::fast::FixedState>,
    /// Items that are duplicates: of what was there before, or of that item of the batch.
    duplicates: Vec<(u32, Option<u32>)>,
    along: Vec<(u32, Seen)>,
}

struct Fresh {
    item: u32,
    id: Id,
    kept: Kept,
}

/// What has become of a batch.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// Makes its ids durable, and those of its duplicates.
    pub(crate) position: LogPosition,
    /// Its duplicates of messages that were not refused.
    pub(crate) duplicates: Vec<u32>,
    /// Its duplicates of messages that were.
    pub(crate) rejected: Vec<u32>,
}

impl Passage<'_> {
    /// Whether an item of the batch goes on. Items come in order.
    pub(crate) fn pass(&mut self, item: u32, message: &Message, kept: Kept) -> bool {
        let Some(id) = self.ids.rules.id_of(message) else {
            return true;
        };
        if self.memory.cache.contains(&id.hash, self.now_ms) {
            self.duplicates.push((item, None));
            return false;
        }
        if let Some(known) = self.known.get(&id.hash) {
            self.duplicates.push((item, Some(self.fresh[*known].item)));
            return false;
        }
        self.known.insert(id.hash, self.fresh.len());
        let kept = if self.ids.durable {
            kept
        } else {
            Kept::InMemory
        };
        if let Kept::Once(at) = kept {
            self.along.push((item, self.seen(&id, at)));
        }
        self.fresh.push(Fresh { item, id, kept });
        true
    }

    fn seen(&self, id: &Id, at: LogPosition) -> Seen {
        Seen {
            owner: self.ids.id,
            id: SeenId {
                hash: id.hash,
                expires_at_ms: id.expires_at(self.now_ms),
            },
            at,
        }
    }

    /// Ids to be written down together with the items they came with.
    pub(crate) fn along(&self) -> &[(u32, Seen)] {
        &self.along
    }

    /// The batch is where it goes, durable at `position`, but for the items that queues `refused` or, in the log, left out as
    /// duplicates of their own. Both are in order.
    pub(crate) fn leave(
        mut self,
        mut position: LogPosition,
        refused: &[u32],
        left_out: &[u32],
        log: &Log,
    ) -> Passed {
        let mut apart = Vec::new();
        for Fresh { item, id, kept } in std::mem::take(&mut self.fresh) {
            // What was refused may come again.
            if refused.binary_search(&item).is_ok() {
                continue;
            }
            let lasting = match kept {
                Kept::InMemory => Lasting::Volatile,
                Kept::Once(_) | Kept::Shared => Lasting::Stored,
            };
            self.memory.insert(&id, lasting, self.now_ms);
            if kept == Kept::Shared
                || kept != Kept::InMemory && left_out.binary_search(&item).is_ok()
            {
                apart.push(self.seen(&id, LogPosition::NONE));
            }
        }
        if !apart.is_empty() {
            position = position.max(log.append_seen(self.ids.id, &[], &apart));
        }
        if position != LogPosition::NONE {
            self.memory.noted_at = position.max(self.memory.noted_at);
        }
        let mut passed = Passed::default();
        for (item, of) in std::mem::take(&mut self.duplicates) {
            if of.is_some_and(|of| refused.binary_search(&of).is_ok()) {
                passed.rejected.push(item);
            } else {
                passed.duplicates.push(item);
            }
        }
        self.memory.duplicates += passed.duplicates.len() as u64;
        passed.position = position;
        if !passed.duplicates.is_empty() {
            passed.position = position.max(self.memory.noted_at);
        }
        passed
    }
}
