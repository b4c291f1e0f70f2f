//! An exchange: what it was declared as and how its type finds destinations.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mamba_types::{FieldTable, table};

use crate::binding::Binding;
use crate::deduplication;
use crate::hashing::{self, Draw, HashIndex, ModulusIndex};
use crate::headers::HeaderIndex;
use crate::route::{RouteInput, Scratch, Target};
use crate::topic::{Targets, Trie};

/// What a client declares.
#[derive(Clone, Debug, PartialEq)]
pub struct ExchangeSpec {
    /// Its name.
    pub name: Arc<str>,
    /// The type word, e.g. `topic`; [`ExchangeKind`] lists them.
    pub kind: Arc<str>,
    /// Survives a restart.
    pub durable: bool,
    /// Deleted with the last binding that has it as source.
    pub auto_delete: bool,
    /// Clients cannot publish to it.
    pub internal: bool,
    /// `alternate-exchange` and arguments of the type.
    pub arguments: FieldTable,
}

impl ExchangeSpec {
    /// A durable exchange without arguments.
    pub fn durable(name: impl Into<Arc<str>>, kind: ExchangeKind) -> Self {
        Self {
            name: name.into(),
            kind: kind.word().into(),
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: FieldTable::default(),
        }
    }
}

/// The type word of an exchange that routes like its `x-delayed-type` and lets messages with an `x-delay` wait.
pub const DELAYED: &str = "x-delayed-message";

/// How an exchange routes (`spec: semantics §3`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExchangeKind {
    /// Binding key equals routing key.
    Direct,
    /// Every binding.
    Fanout,
    /// Words with `*` and `#`.
    Topic,
    /// By the message's headers.
    Headers,
    /// One destination by hash and weight.
    ConsistentHash,
    /// One destination by hash, all alike.
    ModulusHash,
    /// One binding by chance.
    Random,
    /// One binding to a classic queue by chance.
    LocalRandom,
    /// Every binding; each message once.
    MessageDeduplication,
}

impl ExchangeKind {
    /// Every type.
    pub const ALL: [Self; 9] = [
        Self::Direct,
        Self::Fanout,
        Self::Headers,
        Self::Topic,
        Self::ConsistentHash,
        Self::LocalRandom,
        Self::ModulusHash,
        Self::Random,
        Self::MessageDeduplication,
    ];

    /// The type of this word, if there is one.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// The word on the wire.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
            Self::ConsistentHash => "x-consistent-hash",
            Self::ModulusHash => "x-modulus-hash",
            Self::Random => "x-random",
            Self::LocalRandom => "x-local-random",
            Self::MessageDeduplication => "x-message-deduplication",
        }
    }
}

/// An exchange of a table.
#[derive(Debug)]
pub struct Exchange {
    pub(crate) spec: ExchangeSpec,
    kind: ExchangeKind,
    deduplicates: bool,
    pub(crate) delays: bool,
    generation: Arc<AtomicU64>,
    /// The declared alternate exchange, or the policy's.
    declared_alternate: Option<Arc<str>>,
    pub(crate) policy_alternate: Option<Arc<str>>,
    /// Bindings with this exchange as source, and their destinations at the same positions.
    pub(crate) outgoing: Vec<u32>,
    pub(crate) targets: Vec<Target>,
    /// Bindings with this exchange as destination.
    pub(crate) incoming: Vec<u32>,
    pub(crate) index: Index,
}

impl Exchange {
    pub(crate) fn new(spec: ExchangeSpec, kind: ExchangeKind, seed: u64) -> Self {
        let draw = || Draw::new(hashing::hash_octets(seed, spec.name.as_bytes()));
        let index = match kind {
            _ if spec.name.is_empty() => Index::Queues,
            ExchangeKind::Direct => Index::Direct(HashMap::default()),
            ExchangeKind::Fanout | ExchangeKind::MessageDeduplication => Index::Fanout,
            ExchangeKind::Topic => Index::Topic(Trie::new()),
            ExchangeKind::Headers => Index::Headers(HeaderIndex::default()),
            ExchangeKind::ConsistentHash => {
                Index::Hash(HashIndex::new(hashing::hash_on(&spec.arguments)))
            }
            ExchangeKind::ModulusHash => Index::Modulus(ModulusIndex::default()),
            ExchangeKind::Random | ExchangeKind::LocalRandom => Index::Draw(draw()),
        };
        let declared_alternate = spec
            .arguments
            .inner()
            .get("alternate-exchange")
            .and_then(table::octets)
            .map(|name| String::from_utf8_lossy(name).into());
        Self {
            deduplicates: &*spec.kind != DELAYED && deduplication::wanted(kind, &spec.arguments),
            delays: &*spec.kind == DELAYED,
            spec,
            kind,
            generation: Arc::default(),
            declared_alternate,
            policy_alternate: None,
            outgoing: Vec::new(),
            targets: Vec::new(),
            incoming: Vec::new(),
            index,
        }
    }

    /// What it was declared as.
    #[must_use]
    pub const fn spec(&self) -> &ExchangeSpec {
        &self.spec
    }

    /// Whether messages with an `x-delay` wait before they go where it routes them.
    #[must_use]
    pub fn delays(&self) -> bool {
        self.delays
    }

    /// How it routes.
    #[must_use]
    pub const fn kind(&self) -> ExchangeKind {
        self.kind
    }

    /// Whether it takes each message once.
    #[must_use]
    pub const fn deduplicates(&self) -> bool {
        self.deduplicates
    }

    /// Changes whenever its bindings, its alternate exchange or its existence change.
    #[must_use]
    pub const fn generation(&self) -> &Arc<AtomicU64> {
        &self.generation
    }

    /// The alternate exchange in force: the declared one, or else the policy's.
    #[must_use]
    pub fn alternate(&self) -> Option<&Arc<str>> {
        self.declared_alternate
            .as_ref()
            .or(self.policy_alternate.as_ref())
    }

    /// Whether it is the source of no binding.
    #[must_use]
    pub const fn is_unused(&self) -> bool {
        self.outgoing.is_empty()
    }

    pub(crate) fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }
}

/// A binding key that can be looked up by octets.
#[derive(Debug)]
pub(crate) struct Key(pub(crate) Arc<str>);

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_bytes().hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Key {}

/// What finds an exchange's destinations without looking at every binding.
#[derive(Debug)]
pub(crate) enum Index {
    /// The default exchange: the table's own queue names.
    Queues,
    Direct(HashMap<Key, Targets, foldhash::fast::FixedState>),
    /// All of [`Exchange::targets`].
    Fanout,
    Topic(Trie),
    Headers(HeaderIndex),
    Hash(HashIndex),
    Modulus(ModulusIndex),
    /// One of [`Exchange::targets`].
    Draw(Draw),
}

impl Index {
    pub(crate) fn insert(&mut self, id: u32, binding: &Arc<Binding>, target: Target) {
        match self {
            Self::Queues | Self::Fanout | Self::Draw(_) => {}
            Self::Direct(keys) => keys
                .entry(Key(Arc::clone(&binding.routing_key)))
                .or_default()
                .insert(target),
            Self::Topic(trie) => trie.insert(&binding.routing_key, target),
            Self::Headers(headers) => headers.insert(id, binding, target),
            Self::Hash(hash) => {
                let weight = hashing::weight(&binding.routing_key).unwrap_or(1.0);
                hash.insert(id, &binding.destination, target, weight);
            }
            Self::Modulus(modulus) => modulus.insert(&binding.destination, target),
        }
    }

    pub(crate) fn remove(&mut self, id: u32, binding: &Binding, target: Target) {
        match self {
            Self::Queues | Self::Fanout | Self::Draw(_) => {}
            Self::Direct(keys) => {
                let key = binding.routing_key.as_bytes();
                if let Some(targets) = keys.get_mut(key) {
                    targets.remove(target);
                    if targets.as_slice().is_empty() {
                        keys.remove(key);
                    }
                }
                if keys.capacity() > 64 && keys.len() < keys.capacity() / 8 {
                    keys.shrink_to_fit();
                }
            }
            Self::Topic(trie) => trie.remove(&binding.routing_key, target),
            Self::Headers(headers) => headers.remove(id),
            Self::Hash(hash) => hash.remove(id, target),
            Self::Modulus(modulus) => modulus.remove(&binding.destination),
        }
    }

    /// Selects destinations among `targets`, all the exchange has. Returns whether the result holds for
    /// every message with these routing keys.
    pub(crate) fn select(
        &self,
        targets: &[Target],
        input: &RouteInput<'_>,
        scratch: &mut Scratch,
    ) -> bool {
        if targets.is_empty() {
            return true;
        }
        let one = |target: Option<Target>, scratch: &mut Scratch| {
            if let Some(target) = target {
                scratch.select(target);
            }
        };
        match self {
            Self::Queues => true,
            Self::Direct(keys) => {
                for key in input.keys {
                    for target in keys.get(*key).map(Targets::as_slice).unwrap_or_default() {
                        scratch.select(*target);
                    }
                }
                true
            }
            Self::Fanout => {
                for target in targets {
                    scratch.select(*target);
                }
                true
            }
            Self::Topic(trie) => {
                for key in input.keys {
                    trie.select(key, scratch);
                }
                true
            }
            Self::Headers(headers) => {
                headers.select(|| input.properties.headers(), scratch);
                false
            }
            Self::Hash(hash) => {
                one(hash.select(input), scratch);
                !hash.on.needs_properties()
            }
            Self::Modulus(modulus) => {
                one(modulus.select(input), scratch);
                true
            }
            Self::Draw(draw) => {
                one(draw.select(targets), scratch);
                false
            }
        }
    }
}
