//! All exchanges, queues and bindings of one virtual host.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicU64},
};

use mamba_types::{FieldTable, FieldValue, QueueId, SoftError, Violation, table};

use crate::{
    binding::{Binding, Destination},
    exchange::{Exchange, ExchangeKind, ExchangeSpec},
    hashing::ConsistentHash,
    route::{RouteInput, Routes, Stamp},
};

/// Queues up to which repetitions are found by looking through the list.
const LINEAR_MAX: usize = 16;
/// Most `#` words in one topic pattern: each one adds nodes that every key may reach.
const TOPIC_HASH_WORDS_MAX: usize = 16;
const PREDECLARED: [(&str, &str, bool); 7] = [
    ("", "direct", false),
    ("amq.direct", "direct", false),
    ("amq.fanout", "fanout", false),
    ("amq.topic", "topic", false),
    ("amq.headers", "headers", false),
    ("amq.match", "headers", false),
    ("amq.rabbitmq.trace", "topic", true),
];

/// The caller's handle to a queue: a counted pointer, cheap to clone.
pub trait QueueHandle: Clone {
    /// Identity.
    fn id(&self) -> QueueId;
    /// Name.
    fn name(&self) -> &str;
    /// Whether it is a classic queue; a local random exchange takes no others.
    fn is_classic(&self) -> bool;
    /// Changes when the queue is deleted: routes through the default exchange rest on it.
    fn generation(&self) -> &Arc<AtomicU64>;
}

/// What became of a declaration.
#[derive(Debug)]
pub enum Declared<'a> {
    /// It was made.
    New(&'a Exchange),
    /// It was there, and equivalent.
    Existing,
}

/// What became of a bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// It was made.
    New,
    /// It was there.
    Existing,
}

/// A binding that went away.
#[derive(Clone, Debug)]
pub struct RemovedBinding {
    /// The binding.
    pub binding: Binding,
    /// The source was durable: the binding may have been stored.
    pub durable: bool,
}

/// An exchange that went away.
#[derive(Clone, Debug)]
pub struct RemovedExchange {
    /// What it was declared as.
    pub spec: ExchangeSpec,
}

/// Everything that went away with one removal: auto-delete exchanges cascade.
#[derive(Clone, Debug, Default)]
pub struct Removed {
    /// Bindings.
    pub bindings: Vec<RemovedBinding>,
    /// Exchanges.
    pub exchanges: Vec<RemovedExchange>,
}

/// The routing table of one virtual host. `Q` is the caller's handle to a queue.
#[derive(Debug)]
pub struct RoutingTable<Q> {
    vhost: Arc<str>,
    seed: u64,
    exchanges: BTreeMap<Arc<str>, Exchange>,
    queues: BTreeMap<Arc<str>, Q>,
    by_destination: BTreeMap<Destination, BTreeSet<Binding>>,
}

fn precondition(text: String) -> Violation {
    Violation::channel(SoftError::PreconditionFailed, text)
}

impl<Q: QueueHandle> RoutingTable<Q> {
    /// A virtual host with the predeclared exchanges. `seed` feeds the exchanges that draw by chance.
    #[must_use]
    pub fn new(vhost: &str, seed: u64) -> Self {
        let mut table = Self {
            vhost: vhost.into(),
            seed,
            exchanges: BTreeMap::new(),
            queues: BTreeMap::new(),
            by_destination: BTreeMap::new(),
        };
        for (name, kind, internal) in PREDECLARED {
            let spec = ExchangeSpec {
                name: name.into(),
                kind: kind.into(),
                durable: true,
                auto_delete: false,
                internal,
                arguments: FieldTable::default(),
            };
            if let Some(kind) = ExchangeKind::parse(kind) {
                table
                    .exchanges
                    .insert(name.into(), Exchange::new(spec, kind, seed));
            }
        }
        table
    }

    fn printed(&self, exchange: &str) -> String {
        format!("exchange '{exchange}' in vhost '{}'", self.vhost)
    }

    fn no_exchange(&self, name: &str) -> Violation {
        Violation::channel(SoftError::NotFound, format!("no {}", self.printed(name)))
    }

    fn no_queue(&self, name: &str) -> Violation {
        Violation::channel(
            SoftError::NotFound,
            format!("no queue '{name}' in vhost '{}'", self.vhost),
        )
    }

    /// Declares an exchange, or compares with the one that is there.
    ///
    /// # Errors
    /// 403 for a reserved name, 406 for an unknown type, a malformed argument or a different declaration.
    pub fn declare(&mut self, spec: ExchangeSpec) -> Result<Declared<'_>, Violation> {
        crate::check::kind(&spec.kind)?;
        if let Some(existing) = self.exchanges.get(&spec.name) {
            self.check_equivalent(existing.spec(), &spec)?;
            return Ok(Declared::Existing);
        }
        if spec.name.starts_with("amq.") {
            let text = format!(
                "exchange name '{}' contains reserved prefix 'amq.*'",
                spec.name
            );
            return Err(Violation::channel(SoftError::AccessRefused, text));
        }
        let printed = self.printed(&spec.name);
        if let Some(value) = spec.arguments.inner().get("alternate-exchange")
            && table::text(value).is_none()
        {
            return Err(precondition(format!(
                "invalid type '{}' for arg 'alternate-exchange' in {printed}",
                table::type_word(value)
            )));
        }
        let Some(kind) = ExchangeKind::parse(&spec.kind) else {
            return Err(precondition(format!(
                "unknown exchange type '{}'",
                spec.kind
            )));
        };
        if kind == ExchangeKind::ConsistentHash {
            check_hash_arguments(&spec.arguments, &printed)?;
        }
        let name = Arc::clone(&spec.name);
        let seed = self.seed;
        // Routes that found it missing as an alternate exchange were not cached: nothing else to tell.
        let made = self
            .exchanges
            .entry(name)
            .or_insert_with(|| Exchange::new(spec, kind, seed));
        Ok(Declared::New(made))
    }

    fn check_equivalent(
        &self,
        current: &ExchangeSpec,
        received: &ExchangeSpec,
    ) -> Result<(), Violation> {
        let printed = self.printed(&current.name);
        let differs = |key: &str,
                       received: &dyn std::fmt::Display,
                       current: &dyn std::fmt::Display| {
            precondition(format!(
                "inequivalent arg '{key}' for {printed}: received {received} but current is {current}"
            ))
        };
        let quoted = |value: &dyn std::fmt::Display| format!("'{value}'");
        if received.kind != current.kind {
            return Err(differs(
                "type",
                &quoted(&received.kind),
                &quoted(&current.kind),
            ));
        }
        for (key, received, current) in [
            ("durable", received.durable, current.durable),
            ("auto_delete", received.auto_delete, current.auto_delete),
            ("internal", received.internal, current.internal),
        ] {
            if received != current {
                return Err(differs(key, &quoted(&received), &quoted(&current)));
            }
        }
        let key = "alternate-exchange";
        match (
            received.arguments.inner().get(key),
            current.arguments.inner().get(key),
        ) {
            (None, None) => Ok(()),
            (Some(received), Some(current)) if table::same_value(received, current) => Ok(()),
            (Some(received), Some(current)) => Err(differs(
                key,
                &quoted(&table::bare(received)),
                &quoted(&table::bare(current)),
            )),
            (received, current) => Err(differs(
                key,
                &table::described(received),
                &table::described(current),
            )),
        }
    }

    /// An exchange by name.
    #[must_use]
    pub fn exchange(&self, name: &str) -> Option<&Exchange> {
        self.exchanges.get(name)
    }

    /// All exchanges, by name.
    pub fn exchanges(&self) -> impl Iterator<Item = &Exchange> {
        self.exchanges.values()
    }

    /// A queue by name.
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<&Q> {
        self.queues.get(name)
    }

    /// All queues, by name.
    pub fn queues(&self) -> impl Iterator<Item = &Q> {
        self.queues.values()
    }

    /// The bindings that lead to a destination, in order.
    pub fn bindings_to(&self, destination: &Destination) -> impl Iterator<Item = &Binding> {
        self.by_destination.get(destination).into_iter().flatten()
    }

    /// The exchange exists.
    ///
    /// # Errors
    /// 404.
    pub fn check_exists(&self, name: &str) -> Result<(), Violation> {
        self.exchanges
            .get(name)
            .map(drop)
            .ok_or_else(|| self.no_exchange(name))
    }

    /// The exchange exists and clients may publish to it.
    ///
    /// # Errors
    /// 404, 403 for an internal exchange.
    pub fn check_publish(&self, name: &str) -> Result<(), Violation> {
        let exchange = self
            .exchanges
            .get(name)
            .ok_or_else(|| self.no_exchange(name))?;
        if exchange.spec().internal {
            let text = format!("cannot publish to internal {}", self.printed(name));
            return Err(Violation::channel(SoftError::AccessRefused, text));
        }
        Ok(())
    }

    /// The exchange is not one of the system's own.
    ///
    /// # Errors
    /// 403.
    pub fn check_deletable(&self, name: &str) -> Result<(), Violation> {
        if name.starts_with("amq.") {
            let text = format!("deletion of system {} not allowed", self.printed(name));
            return Err(Violation::channel(SoftError::AccessRefused, text));
        }
        Ok(())
    }

    /// Both ends exist, and the source's type takes the binding.
    ///
    /// # Errors
    /// 404 with the source first, 406 for what the type refuses.
    pub fn check_bind(&self, binding: &Binding) -> Result<(), Violation> {
        let source = self
            .exchanges
            .get(&binding.source)
            .ok_or_else(|| self.no_exchange(&binding.source))?;
        let queue = match &binding.destination {
            Destination::Exchange(name) => {
                self.check_exists(name)?;
                None
            }
            Destination::Queue(name) => {
                Some(self.queues.get(name).ok_or_else(|| self.no_queue(name))?)
            }
        };
        match source.kind() {
            ExchangeKind::Headers => check_header_match(&binding.arguments),
            ExchangeKind::ConsistentHash => check_weight(&binding.routing_key),
            ExchangeKind::LocalRandom => {
                if !binding.routing_key.is_empty() {
                    return Err(precondition(format!(
                        "Non empty binding '{}' key not permitted",
                        binding.routing_key
                    )));
                }
                match queue {
                    Some(queue) if queue.is_classic() => Ok(()),
                    Some(_) => Err(precondition(
                        "Queue type rabbit_quorum_queue not valid for this exchange type"
                            .to_owned(),
                    )),
                    None => Err(precondition("Destination not found".to_owned())),
                }
            }
            ExchangeKind::Topic => {
                let hashes = binding
                    .routing_key
                    .split('.')
                    .filter(|word| *word == "#")
                    .count();
                if hashes > TOPIC_HASH_WORDS_MAX {
                    let key = &binding.routing_key;
                    let text = format!(
                        "Topic binding key '{key}' uses {hashes} '#' wildcards, at most {TOPIC_HASH_WORDS_MAX} are allowed"
                    );
                    return Err(precondition(text));
                }
                Ok(())
            }
            ExchangeKind::Direct
            | ExchangeKind::Fanout
            | ExchangeKind::ModulusHash
            | ExchangeKind::Random => Ok(()),
        }
    }

    /// Whether a binding is to be stored: both its ends are durable. `queue_durable` speaks for a queue's end.
    #[must_use]
    pub fn is_durable(&self, binding: &Binding, queue_durable: bool) -> bool {
        let durable = |name: &Arc<str>| {
            self.exchanges
                .get(name)
                .is_some_and(|exchange| exchange.spec().durable)
        };
        durable(&binding.source)
            && match &binding.destination {
                Destination::Queue(_) => queue_durable,
                Destination::Exchange(name) => durable(name),
            }
    }

    /// Binds.
    ///
    /// # Errors
    /// As [`Self::check_bind`].
    pub fn bind(&mut self, binding: Binding) -> Result<Bound, Violation> {
        self.check_bind(&binding)?;
        let Some(source) = self.exchanges.get_mut(&binding.source) else {
            return Err(self.no_exchange(&binding.source));
        };
        if !source.add(&binding) {
            return Ok(Bound::Existing);
        }
        self.by_destination
            .entry(binding.destination.clone())
            .or_default()
            .insert(binding);
        Ok(Bound::New)
    }

    /// Unbinds; a binding that is not there is no error.
    pub fn unbind(&mut self, binding: &Binding) -> Removed {
        let mut removed = Removed::default();
        if self
            .exchanges
            .get(&binding.source)
            .is_some_and(|source| source.contains(binding))
        {
            self.remove_binding(binding, &mut removed);
        }
        removed
    }

    /// Adds a queue; the default exchange leads to it from now on.
    pub fn add_queue(&mut self, queue: Q) {
        self.queues.insert(queue.name().into(), queue);
    }

    /// Removes a queue with all its bindings.
    pub fn remove_queue(&mut self, name: &str) -> Removed {
        let mut removed = Removed::default();
        if self.queues.remove(name).is_some() {
            self.remove_bindings_to(&Destination::Queue(name.into()), &mut removed);
        }
        removed
    }

    /// Deletes an exchange with all its bindings; one that is not there is no error.
    ///
    /// # Errors
    /// 406 with `if_unused` while it is the source of a binding.
    pub fn delete_exchange(&mut self, name: &str, if_unused: bool) -> Result<Removed, Violation> {
        let mut removed = Removed::default();
        let Some(exchange) = self.exchanges.get(name) else {
            return Ok(removed);
        };
        if if_unused && !exchange.is_unused() {
            return Err(precondition(format!("{} in use", self.printed(name))));
        }
        self.remove_exchange(name, &mut removed);
        Ok(removed)
    }

    fn remove_exchange(&mut self, name: &str, removed: &mut Removed) {
        let Some(exchange) = self.exchanges.remove(name) else {
            return;
        };
        exchange.changed();
        for binding in exchange.bindings() {
            self.forget_destination(binding);
            removed.bindings.push(RemovedBinding {
                binding: binding.clone(),
                durable: exchange.spec().durable,
            });
        }
        removed.exchanges.push(RemovedExchange {
            spec: exchange.spec().clone(),
        });
        self.remove_bindings_to(&Destination::Exchange(name.into()), removed);
    }

    fn remove_bindings_to(&mut self, destination: &Destination, removed: &mut Removed) {
        for binding in self.by_destination.remove(destination).unwrap_or_default() {
            self.remove_binding(&binding, removed);
        }
    }

    fn remove_binding(&mut self, binding: &Binding, removed: &mut Removed) {
        let Some(source) = self.exchanges.get_mut(&binding.source) else {
            return;
        };
        if !source.remove(binding) {
            return;
        }
        let (durable, abandoned) = (
            source.spec().durable,
            source.spec().auto_delete && source.is_unused(),
        );
        removed.bindings.push(RemovedBinding {
            binding: binding.clone(),
            durable,
        });
        self.forget_destination(binding);
        if abandoned {
            self.remove_exchange(&binding.source, removed);
        }
    }

    fn forget_destination(&mut self, binding: &Binding) {
        if let Some(bindings) = self.by_destination.get_mut(&binding.destination) {
            bindings.remove(binding);
            if bindings.is_empty() {
                self.by_destination.remove(&binding.destination);
            }
        }
    }

    /// Finds the queues a message goes to; `out` must be clear.
    ///
    /// # Errors
    /// 404 when the exchange does not exist.
    pub fn route(
        &self,
        exchange: &str,
        input: &RouteInput<'_>,
        out: &mut Routes<Q>,
    ) -> Result<(), Violation> {
        let Some((name, _)) = self.exchanges.get_key_value(exchange) else {
            return Err(self.no_exchange(exchange));
        };
        out.scratch.visited.push(Arc::clone(name));
        let mut at = 0;
        while let Some(name) = out.scratch.visited.get(at).cloned() {
            at += 1;
            let Some(exchange) = self.exchanges.get(&name) else {
                // An alternate exchange that does not exist (yet).
                out.cacheable = false;
                continue;
            };
            if name.is_empty() {
                self.route_by_name(input, out);
                continue;
            }
            out.stamps.push(Stamp::of(exchange.generation()));
            out.scratch.selected.clear();
            out.cacheable &= exchange.select(input, &mut out.scratch.selected);
            if out.scratch.selected.is_empty() {
                if let Some(alternate) = exchange.alternate() {
                    visit(&mut out.scratch.visited, alternate);
                }
                continue;
            }
            for destination in std::mem::take(&mut out.scratch.selected) {
                match destination {
                    Destination::Exchange(name) => visit(&mut out.scratch.visited, &name),
                    Destination::Queue(name) => {
                        if let Some(queue) = self.queues.get(&name) {
                            add_queue(queue, out);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The default exchange: the routing key names the queue.
    fn route_by_name(&self, input: &RouteInput<'_>, out: &mut Routes<Q>) {
        for key in input.keys {
            match std::str::from_utf8(key)
                .ok()
                .and_then(|name| self.queues.get(name))
            {
                Some(queue) => {
                    out.stamps.push(Stamp::of(queue.generation()));
                    add_queue(queue, out);
                }
                None => out.cacheable = false,
            }
        }
    }

    /// Panics when the table contradicts itself; for tests.
    ///
    /// # Panics
    /// If the two views of the bindings differ, or a binding's end is missing.
    pub fn check_invariants(&self) {
        let by_source: BTreeSet<&Binding> = self
            .exchanges
            .values()
            .flat_map(Exchange::bindings)
            .collect();
        let by_destination: BTreeSet<&Binding> = self.by_destination.values().flatten().collect();
        assert!(
            by_source == by_destination,
            "the two views of the bindings differ"
        );
        for binding in by_source {
            assert!(self.exchanges.contains_key(&binding.source));
            match &binding.destination {
                Destination::Queue(name) => assert!(self.queues.contains_key(name)),
                Destination::Exchange(name) => assert!(self.exchanges.contains_key(name)),
            }
        }
    }
}

fn visit(visited: &mut Vec<Arc<str>>, name: &Arc<str>) {
    if !visited.contains(name) {
        visited.push(Arc::clone(name));
    }
}

fn add_queue<Q: QueueHandle>(queue: &Q, out: &mut Routes<Q>) {
    let id = queue.id();
    let is_new = if out.queues.len() < LINEAR_MAX {
        !out.queues.iter().any(|known| known.id() == id)
    } else {
        if out.scratch.queues.is_empty() {
            out.scratch
                .queues
                .extend(out.queues.iter().map(QueueHandle::id));
        }
        out.scratch.queues.insert(id)
    };
    if is_new {
        out.queues.push(queue.clone());
    }
}

fn check_header_match(arguments: &FieldTable) -> Result<(), Violation> {
    let Some(value) = arguments.inner().get("x-match") else {
        return Ok(());
    };
    match (value, table::text(value)) {
        (FieldValue::LongString(_), Some("all" | "any" | "all-with-x" | "any-with-x")) => Ok(()),
        (FieldValue::LongString(word), _) => {
            let word = String::from_utf8_lossy(word.as_bytes()).into_owned();
            let text = format!(
                "Invalid x-match field value <<\"{word}\">>; expected all, any, all-with-x, or any-with-x"
            );
            Err(precondition(text))
        }
        (other, _) => {
            let (word, value) = (table::type_word(other), table::bare(other));
            Err(precondition(format!(
                "Invalid x-match field type {word} (value {value}); expected longstr"
            )))
        }
    }
}

fn check_weight(routing_key: &str) -> Result<(), Violation> {
    if ConsistentHash::weight(routing_key).is_some() {
        return Ok(());
    }
    if routing_key.parse::<i64>().is_ok() {
        return Err(precondition(
            "The binding key must be greater than 0".to_owned(),
        ));
    }
    Err(precondition(format!(
        "The binding key must be an integer: <<\"{routing_key}\">>"
    )))
}

fn check_hash_arguments(arguments: &FieldTable, printed: &str) -> Result<(), Violation> {
    let (header, property) = (
        arguments.inner().get("hash-header"),
        arguments.inner().get("hash-property"),
    );
    if header.is_some() && property.is_some() {
        let text =
            format!("hash-header and hash-property are mutually exclusive: {printed} names both");
        return Err(precondition(text));
    }
    for (key, value) in [("hash-header", header), ("hash-property", property)] {
        if let Some(value) = value
            && table::text(value).is_none()
        {
            return Err(precondition(format!(
                "invalid type '{}' for arg '{key}' in {printed}",
                table::type_word(value)
            )));
        }
    }
    match property.and_then(table::text) {
        None | Some("message_id" | "correlation_id" | "timestamp") => Ok(()),
        Some(other) => {
            let text = format!(
                "unsupported hash-property '{other}' in {printed}; expected message_id, correlation_id or timestamp"
            );
            Err(precondition(text))
        }
    }
}
