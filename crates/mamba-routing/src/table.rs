//! The routing table of one virtual host.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mamba_types::{QueueId, SoftError, Violation};

use crate::binding::{Binding, Destination};
use crate::check::{self, DestinationType};
use crate::exchange::{Exchange, ExchangeKind, ExchangeSpec, Index, Key};
use crate::route::{RouteInput, Routes, Stamp, Target};
use crate::slots::Slots;

/// Where the default exchange lies: a table's first, and never deleted.
const DEFAULT_EXCHANGE: u32 = 0;

/// Where copies of a traced virtual host's messages go; every virtual host has it.
pub const TRACE_EXCHANGE: &str = "amq.rabbitmq.trace";

/// A queue as routing knows it; cloning must be cheap, because a route returns clones.
pub trait QueueHandle: Clone {
    /// Its identity.
    fn id(&self) -> QueueId;

    /// Its name inside the virtual host. The table keeps it as it is, and no copy.
    fn name(&self) -> &Arc<str>;

    /// Whether it is a classic queue: a local random exchange takes no other.
    fn is_classic(&self) -> bool {
        true
    }

    /// Whether it survives a restart; [`RemovedBinding::durable`] depends on it. Implementations that do
    /// not say so get deletions reported for bindings that were never stored.
    fn is_durable(&self) -> bool {
        true
    }

    /// Bumped by [`RoutingTable::remove_queue`]: what was routed here through the default exchange is
    /// true until then.
    fn generation(&self) -> &Arc<AtomicU64>;
}

/// What [`RoutingTable::declare`] did.
#[derive(Debug)]
pub enum Declared<'a> {
    /// It is new.
    New(&'a Exchange),
    /// There was an equivalent one.
    Existing,
}

/// What [`RoutingTable::bind`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// It is new.
    New,
    /// There was the same one.
    Existing,
}

/// Everything an operation took away, in the order it went: auto-delete exchanges fall when they lose their
/// last binding, and take others with them.
#[derive(Clone, Debug, Default)]
pub struct Removed {
    /// Bindings.
    pub bindings: Vec<RemovedBinding>,
    /// Exchanges.
    pub exchanges: Vec<RemovedExchange>,
}

/// A binding that is gone.
#[derive(Clone, Debug)]
pub struct RemovedBinding {
    /// What it was.
    pub binding: Arc<Binding>,
    /// Whether both ends were durable.
    pub durable: bool,
}

/// An exchange that is gone.
#[derive(Clone, Debug)]
pub struct RemovedExchange {
    /// What it was.
    pub spec: ExchangeSpec,
}

#[derive(Debug)]
struct BindingRecord {
    binding: Arc<Binding>,
    source: u32,
    target: Target,
    /// Position among the source's outgoing and the destination's incoming bindings.
    outgoing_at: u32,
    incoming_at: u32,
    durable: bool,
}

#[derive(Debug)]
struct QueueRecord<Q> {
    handle: Q,
    name: Arc<str>,
    incoming: Vec<u32>,
}

type Map<K, V> = HashMap<K, V, foldhash::fast::FixedState>;

/// The exchanges, queues and bindings of one virtual host.
///
/// Routing needs a shared reference only; whoever changes the table holds it alone. Results do not depend
/// on hash maps' order: the same operations give the same answers.
#[derive(Debug)]
pub struct RoutingTable<Q> {
    vhost: Arc<str>,
    seed: u64,
    exchanges: Slots<Exchange>,
    exchange_names: Map<Arc<str>, u32>,
    queues: Slots<QueueRecord<Q>>,
    queue_names: Map<Key, u32>,
    bindings: Slots<BindingRecord>,
    identities: Map<Arc<Binding>, u32>,
}

impl<Q: QueueHandle> RoutingTable<Q> {
    /// A table with the predeclared exchanges (`spec: semantics §2`). Exchanges that leave it to chance
    /// draw from `seed`.
    #[must_use]
    pub fn new(vhost: &str, seed: u64) -> Self {
        let mut table = Self {
            vhost: vhost.into(),
            seed,
            exchanges: Slots::new(),
            exchange_names: Map::default(),
            queues: Slots::new(),
            queue_names: Map::default(),
            bindings: Slots::new(),
            identities: Map::default(),
        };
        for (name, kind) in [
            ("", ExchangeKind::Direct),
            ("amq.direct", ExchangeKind::Direct),
            ("amq.fanout", ExchangeKind::Fanout),
            ("amq.topic", ExchangeKind::Topic),
            ("amq.headers", ExchangeKind::Headers),
            ("amq.match", ExchangeKind::Headers),
            (TRACE_EXCHANGE, ExchangeKind::Topic),
        ] {
            let mut spec = ExchangeSpec::durable(name, kind);
            spec.internal = name == TRACE_EXCHANGE;
            table.insert_exchange(spec, kind);
        }
        table
    }

    /// Adds another predeclared exchange that is only for the broker to publish to.
    pub fn predeclare_internal(&mut self, name: &str, kind: ExchangeKind) {
        let mut spec = ExchangeSpec::durable(name, kind);
        spec.internal = true;
        self.insert_exchange(spec, kind);
    }

    /// The virtual host's name.
    #[must_use]
    pub const fn vhost(&self) -> &Arc<str> {
        &self.vhost
    }

    fn insert_exchange(&mut self, spec: ExchangeSpec, kind: ExchangeKind) -> u32 {
        let name = Arc::clone(&spec.name);
        let slot = self.exchanges.insert(Exchange::new(spec, kind, self.seed));
        self.exchange_names.insert(name, slot);
        slot
    }

    /// Declares an exchange, or confirms that an equivalent one exists.
    ///
    /// # Errors
    /// In this order: 406 unknown type; 403 the default exchange; for a new one 403 reserved name and 406
    /// bad arguments; for an existing one 406 with the first difference (`spec: errors §8`).
    pub fn declare(&mut self, spec: ExchangeSpec) -> Result<Declared<'_>, Violation> {
        let kind = check::routing_kind(&spec.kind, &spec.arguments)?;
        check::not_default(&spec.name)?;
        if let Some(existing) = self.exchange(&spec.name) {
            check::equivalent(&self.vhost, existing, &spec)?;
            return Ok(Declared::Existing);
        }
        check::not_reserved(&spec.name)?;
        check::new_arguments(&self.vhost, &spec)?;
        let slot = self.insert_exchange(spec, kind);
        Ok(Declared::New(&self.exchanges[slot]))
    }

    /// An exchange by name; `""` is the default exchange.
    #[must_use]
    pub fn exchange(&self, name: &str) -> Option<&Exchange> {
        self.exchanges.get(self.exchange_slot(name)?)
    }

    /// The default exchange is found without a look-up: an empty name may lie at no valid address, and comparing
    /// it with another one then costs three times as much as all the rest of a route.
    fn exchange_slot(&self, name: &str) -> Option<u32> {
        if name.is_empty() {
            return Some(DEFAULT_EXCHANGE);
        }
        self.exchange_names.get(name).copied()
    }

    /// That an exchange exists, as a passive declare asks.
    ///
    /// # Errors
    /// 404.
    pub fn check_exists(&self, name: &str) -> Result<&Exchange, Violation> {
        self.exchange(name)
            .ok_or_else(|| check::no_exchange(&self.vhost, name))
    }

    /// That clients can publish to an exchange.
    ///
    /// # Errors
    /// 404, or 403 when it is internal.
    pub fn check_publish(&self, name: &str) -> Result<(), Violation> {
        check::publishable(&self.vhost, self.check_exists(name)?)
    }

    /// That clients may delete an exchange of this name; it need not exist.
    ///
    /// # Errors
    /// 403 for the default exchange and `amq.*`.
    pub fn check_deletable(&self, name: &str) -> Result<(), Violation> {
        check::deletable(&self.vhost, name)
    }

    /// Deletes an exchange with its bindings in both directions. A missing one is no error.
    ///
    /// # Errors
    /// 403 for the default exchange and `amq.*`; with `if_unused`, 406 when bindings have it as source.
    pub fn delete_exchange(&mut self, name: &str, if_unused: bool) -> Result<Removed, Violation> {
        self.check_deletable(name)?;
        let mut removed = Removed::default();
        let Some(slot) = self.exchange_names.get(name).copied() else {
            return Ok(removed);
        };
        if if_unused && !self.exchanges[slot].outgoing.is_empty() {
            return Err(Violation::channel(
                SoftError::PreconditionFailed,
                format!("{} in use", check::printed(&self.vhost, name)),
            ));
        }
        let mut affected = Vec::new();
        self.drop_exchange(slot, &mut removed, &mut affected);
        self.sweep(&mut affected, &mut removed);
        Ok(removed)
    }

    /// Sets or clears the alternate exchange a policy gives; a declared one wins over it. Returns whether
    /// the exchange exists.
    pub fn set_policy_alternate(&mut self, name: &str, alternate: Option<Arc<str>>) -> bool {
        let Some(slot) = self.exchange_names.get(name) else {
            return false;
        };
        let exchange = &mut self.exchanges[*slot];
        if exchange.policy_alternate != alternate {
            exchange.policy_alternate = alternate;
            exchange.changed();
        }
        true
    }

    /// Adds a queue, which the default exchange reaches at once. Returns false, and changes nothing, when
    /// the name is taken.
    pub fn add_queue(&mut self, queue: Q) -> bool {
        if self.queue_names.contains_key(queue.name().as_bytes()) {
            return false;
        }
        let name = Arc::clone(queue.name());
        let slot = self.queues.insert(QueueRecord {
            handle: queue,
            name: Arc::clone(&name),
            incoming: Vec::new(),
        });
        self.queue_names.insert(Key(name), slot);
        true
    }

    /// Takes a queue away with its bindings. A missing one is no error.
    pub fn remove_queue(&mut self, name: &str) -> Removed {
        let mut removed = Removed::default();
        let Some(slot) = self.queue_names.remove(name.as_bytes()) else {
            return removed;
        };
        let mut affected = Vec::new();
        while let Some(id) = self.queues[slot].incoming.last().copied() {
            self.drop_binding(id, &mut removed, &mut affected);
        }
        if let Some(record) = self.queues.remove(slot) {
            record.handle.generation().fetch_add(1, Ordering::Release);
        }
        self.sweep(&mut affected, &mut removed);
        removed
    }

    /// A queue by name.
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<&Q> {
        let slot = self.queue_names.get(name.as_bytes())?;
        Some(&self.queues.get(*slot)?.handle)
    }

    /// That a binding may be made: both ends exist and the source's type takes it.
    ///
    /// # Errors
    /// In this order: 403 the default exchange; 404 the source; 404 the destination; 406 what the type
    /// says.
    pub fn check_bind(&self, binding: &Binding) -> Result<(), Violation> {
        check::not_default(&binding.source)?;
        if let Destination::Exchange(name) = &binding.destination {
            check::not_default(name)?;
        }
        let source = self.check_exists(&binding.source)?;
        let destination = match &binding.destination {
            Destination::Exchange(name) => {
                self.check_exists(name)?;
                DestinationType::Exchange
            }
            Destination::Queue(name) => {
                let queue = self
                    .queue(name)
                    .ok_or_else(|| check::no_queue(&self.vhost, name))?;
                if queue.is_classic() {
                    DestinationType::ClassicQueue
                } else {
                    DestinationType::OtherQueue("rabbit_quorum_queue")
                }
            }
        };
        check::binding(
            source.kind(),
            &binding.routing_key,
            &binding.arguments,
            destination,
        )
    }

    /// Makes a binding.
    ///
    /// # Errors
    /// Those of [`Self::check_bind`].
    pub fn bind(&mut self, mut binding: Binding) -> Result<Bound, Violation> {
        self.check_bind(&binding)?;
        if self.identities.contains_key(&binding) {
            return Ok(Bound::Existing);
        }
        let source = self.exchange_names[&binding.source];
        let durable_end;
        // The names inside the binding share the memory of the ends' own.
        let target = match &mut binding.destination {
            Destination::Exchange(name) => {
                let slot = self.exchange_names[name];
                let spec = &self.exchanges[slot].spec;
                name.clone_from(&spec.name);
                durable_end = spec.durable;
                Target::Exchange(slot)
            }
            Destination::Queue(name) => {
                let slot = self.queue_names[name.as_bytes()];
                let record = &self.queues[slot];
                name.clone_from(&record.name);
                durable_end = record.handle.is_durable();
                Target::Queue(slot)
            }
        };
        binding.source.clone_from(&self.exchanges[source].spec.name);
        let binding = Arc::new(binding);
        let incoming_at = position(self.incoming(target).len());
        let exchange = &mut self.exchanges[source];
        let id = self.bindings.insert(BindingRecord {
            binding: Arc::clone(&binding),
            source,
            target,
            outgoing_at: position(exchange.outgoing.len()),
            incoming_at,
            durable: exchange.spec.durable && durable_end,
        });
        exchange.outgoing.push(id);
        exchange.targets.push(target);
        exchange.index.insert(id, &binding, target);
        exchange.changed();
        self.incoming(target).push(id);
        self.identities.insert(binding, id);
        Ok(Bound::New)
    }

    /// Takes a binding away; a missing one is no error.
    pub fn unbind(&mut self, binding: &Binding) -> Removed {
        let mut removed = Removed::default();
        if let Some(id) = self.identities.get(binding).copied() {
            let mut affected = Vec::new();
            self.drop_binding(id, &mut removed, &mut affected);
            self.sweep(&mut affected, &mut removed);
        }
        removed
    }

    /// Whether a binding between the ends that exist now survives a restart: both are durable.
    #[must_use]
    pub fn is_durable(&self, binding: &Binding, queue_durable: bool) -> bool {
        let durable = |name: &str| {
            self.exchange(name)
                .is_some_and(|exchange| exchange.spec.durable)
        };
        durable(&binding.source)
            && match &binding.destination {
                Destination::Queue(_) => queue_durable,
                Destination::Exchange(name) => durable(name),
            }
    }

    fn incoming(&mut self, target: Target) -> &mut Vec<u32> {
        match target {
            Target::Queue(slot) => &mut self.queues[slot].incoming,
            Target::Exchange(slot) => &mut self.exchanges[slot].incoming,
        }
    }

    /// Takes a binding out of every list; its source is noted as possibly left without bindings.
    fn drop_binding(&mut self, id: u32, removed: &mut Removed, affected: &mut Vec<u32>) {
        let Some(record) = self.bindings.remove(id) else {
            return;
        };
        self.identities.remove(&record.binding);
        let source = &mut self.exchanges[record.source];
        source.index.remove(id, &record.binding, record.target);
        let at = record.outgoing_at as usize;
        source.outgoing.swap_remove(at);
        source.targets.swap_remove(at);
        shrink(&mut source.outgoing);
        shrink(&mut source.targets);
        source.changed();
        if let Some(moved) = source.outgoing.get(at) {
            self.bindings[*moved].outgoing_at = record.outgoing_at;
        }
        let at = record.incoming_at as usize;
        let incoming = self.incoming(record.target);
        incoming.swap_remove(at);
        shrink(incoming);
        if let Some(moved) = incoming.get(at).copied() {
            self.bindings[moved].incoming_at = record.incoming_at;
        }
        affected.push(record.source);
        removed.bindings.push(RemovedBinding {
            binding: record.binding,
            durable: record.durable,
        });
    }

    fn drop_exchange(&mut self, slot: u32, removed: &mut Removed, affected: &mut Vec<u32>) {
        while let Some(id) = self.exchanges[slot].outgoing.last().copied() {
            self.drop_binding(id, removed, affected);
        }
        while let Some(id) = self.exchanges[slot].incoming.last().copied() {
            self.drop_binding(id, removed, affected);
        }
        if let Some(exchange) = self.exchanges.remove(slot) {
            exchange.changed();
            self.exchange_names.remove(&exchange.spec.name);
            removed.exchanges.push(RemovedExchange {
                spec: exchange.spec,
            });
        }
    }

    /// Deletes the auto-delete exchanges among `affected` that are without outgoing bindings, and what
    /// follows from that.
    fn sweep(&mut self, affected: &mut Vec<u32>, removed: &mut Removed) {
        while let Some(slot) = affected.pop() {
            let falls = self
                .exchanges
                .get(slot)
                .is_some_and(|exchange| exchange.spec.auto_delete && exchange.outgoing.is_empty());
            if falls {
                self.drop_exchange(slot, removed, affected);
            }
        }
    }

    /// Finds the queues of a message published to `exchange` and writes them into `out`, each once.
    ///
    /// Exchange-to-exchange bindings are followed and an exchange that selects no destination at all passes
    /// the message to its alternate exchange; every exchange is visited at most once. Says nothing of
    /// whether clients may publish there: see [`Self::check_publish`].
    ///
    /// # Errors
    /// 404 when there is no such exchange.
    pub fn route(
        &self,
        exchange: &str,
        input: &RouteInput<'_>,
        out: &mut Routes<Q>,
    ) -> Result<(), Violation> {
        out.clear();
        let Some(start) = self.exchange_slot(exchange) else {
            return Err(check::no_exchange(&self.vhost, exchange));
        };
        let Routes {
            queues,
            waiting,
            cacheable,
            deduplicates,
            stamps,
            scratch,
        } = out;
        *deduplicates = self.exchanges[start].deduplicates();
        scratch.visited.insert(start);
        let mut at = 0;
        let mut delayed_at = 0;
        let mut at_once = None;
        loop {
            // Delayed exchanges come last: what is reached without them does not wait.
            let slot = if let Some(slot) = scratch.visited.at(at) {
                at += 1;
                if at_once.is_none() && self.exchanges[slot].delays {
                    scratch.delayed.push(slot);
                    continue;
                }
                slot
            } else if let Some(slot) = scratch.delayed.get(delayed_at).copied() {
                delayed_at += 1;
                at_once.get_or_insert(scratch.queues.len());
                slot
            } else {
                break;
            };
            let exchange = &self.exchanges[slot];
            let before = scratch.selected;
            if matches!(exchange.index, Index::Queues) {
                for key in input.keys {
                    match self.queue_names.get(*key) {
                        Some(slot) => {
                            scratch.select(Target::Queue(*slot));
                            stamps.push(Stamp::of(self.queues[*slot].handle.generation()));
                        }
                        // Nothing says when a queue of this name appears.
                        None => *cacheable = false,
                    }
                }
            } else {
                stamps.push(Stamp::of(exchange.generation()));
                *cacheable &= exchange.index.select(&exchange.targets, input, scratch);
            }
            if scratch.selected == before
                && let Some(alternate) = exchange.alternate()
            {
                match self.exchange_slot(alternate) {
                    Some(slot) => {
                        scratch.visited.insert(slot);
                    }
                    None => *cacheable = false,
                }
            }
        }
        if let Some(at_once) = at_once {
            *waiting = scratch.late(at_once);
        } else if scratch.queues.len() > 1 {
            scratch.queues.sort_unstable();
            scratch.queues.dedup();
        }
        queues.extend(
            scratch
                .queues
                .iter()
                .map(|slot| self.queues[*slot].handle.clone()),
        );
        Ok(())
    }

    /// All exchanges in name order, the default exchange first.
    pub fn exchanges(&self) -> impl Iterator<Item = &Exchange> {
        let mut exchanges: Vec<_> = self
            .exchanges
            .iter()
            .map(|(_, exchange)| exchange)
            .collect();
        exchanges.sort_unstable_by(|left, right| left.spec.name.cmp(&right.spec.name));
        exchanges.into_iter()
    }

    /// Exchanges, the predeclared ones included.
    #[must_use]
    pub fn exchange_count(&self) -> usize {
        self.exchanges.len()
    }

    /// All queues in name order.
    pub fn queues(&self) -> impl Iterator<Item = &Q> {
        let mut queues: Vec<_> = self.queues.iter().map(|(_, queue)| queue).collect();
        queues.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        queues.into_iter().map(|queue| &queue.handle)
    }

    /// All queues in no particular order, for whoever sorts them without holding the table.
    pub fn queue_handles(&self) -> impl Iterator<Item = &Q> {
        self.queues.iter().map(|(_, queue)| &queue.handle)
    }

    /// Queues.
    #[must_use]
    pub fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// All explicit bindings in the order of [`Binding`].
    pub fn bindings(&self) -> impl Iterator<Item = &Binding> {
        let all = self.bindings.iter().map(|(_, record)| &*record.binding);
        sorted(all.collect())
    }

    /// Explicit bindings.
    #[must_use]
    pub fn binding_count(&self) -> usize {
        self.bindings.len()
    }

    /// The explicit bindings with this exchange as source, in the order of [`Binding`]; none when it does
    /// not exist.
    pub fn bindings_from(&self, exchange: &str) -> impl Iterator<Item = &Binding> {
        let ids = self.exchange(exchange).map(|exchange| &exchange.outgoing);
        self.sorted_bindings(ids)
    }

    /// The explicit bindings to this queue or exchange, in the order of [`Binding`]; none when it does not
    /// exist.
    pub fn bindings_to(&self, destination: &Destination) -> impl Iterator<Item = &Binding> {
        self.sorted_bindings(self.ids_to(destination))
    }

    /// Handles of all explicit bindings, in no particular order: quick, for callers that hold a lock on the table.
    #[must_use]
    pub fn binding_handles(&self) -> Vec<Arc<Binding>> {
        let all = self.bindings.iter();
        all.map(|(_, record)| Arc::clone(&record.binding)).collect()
    }

    /// The same of [`Self::bindings_from`].
    #[must_use]
    pub fn binding_handles_from(&self, exchange: &str) -> Vec<Arc<Binding>> {
        let ids = self.exchange(exchange).map(|exchange| &exchange.outgoing);
        self.handles(ids)
    }

    /// The same of [`Self::bindings_to`].
    #[must_use]
    pub fn binding_handles_to(&self, destination: &Destination) -> Vec<Arc<Binding>> {
        self.handles(self.ids_to(destination))
    }

    /// How many explicit bindings have this exchange as source.
    #[must_use]
    pub fn binding_count_from(&self, exchange: &str) -> usize {
        let exchange = self.exchange(exchange);
        exchange.map_or(0, |exchange| exchange.outgoing.len())
    }

    fn handles(&self, ids: Option<&Vec<u32>>) -> Vec<Arc<Binding>> {
        let ids = ids.into_iter().flatten();
        ids.map(|id| Arc::clone(&self.bindings[*id].binding))
            .collect()
    }

    fn ids_to(&self, destination: &Destination) -> Option<&Vec<u32>> {
        match destination {
            Destination::Exchange(name) => self.exchange(name).map(|exchange| &exchange.incoming),
            Destination::Queue(name) => self
                .queue_names
                .get(name.as_bytes())
                .map(|slot| &self.queues[*slot].incoming),
        }
    }

    fn sorted_bindings(&self, ids: Option<&Vec<u32>>) -> std::vec::IntoIter<&Binding> {
        let bindings = ids
            .into_iter()
            .flatten()
            .map(|id| &*self.bindings[*id].binding);
        sorted(bindings.collect())
    }

    /// Checks that all parts of the table agree with each other.
    ///
    /// # Panics
    /// When they do not.
    pub fn check_invariants(&self) {
        assert_eq!(self.exchanges.len(), self.exchange_names.len());
        assert_eq!(self.exchange_names[""], DEFAULT_EXCHANGE);
        assert_eq!(self.queues.len(), self.queue_names.len());
        assert_eq!(self.bindings.len(), self.identities.len());
        let mut outgoing = 0;
        let mut incoming = 0;
        for (slot, exchange) in self.exchanges.iter() {
            assert_eq!(self.exchange_names.get(&exchange.spec.name), Some(&slot));
            assert_eq!(exchange.outgoing.len(), exchange.targets.len());
            outgoing += exchange.outgoing.len();
            incoming += exchange.incoming.len();
            match &exchange.index {
                Index::Topic(trie) => trie.check_invariants(exchange.outgoing.len()),
                Index::Headers(headers) => headers.check_invariants(),
                Index::Queues
                | Index::Direct(_)
                | Index::Fanout
                | Index::Hash(_)
                | Index::Modulus(_)
                | Index::Draw(_) => {}
            }
        }
        for (slot, queue) in self.queues.iter() {
            assert_eq!(self.queue_names.get(queue.name.as_bytes()), Some(&slot));
            incoming += queue.incoming.len();
        }
        assert_eq!(outgoing, self.bindings.len());
        assert_eq!(incoming, self.bindings.len());
        for (id, record) in self.bindings.iter() {
            assert_eq!(self.identities.get(&record.binding), Some(&id));
            let source = &self.exchanges[record.source];
            let at = record.outgoing_at as usize;
            assert_eq!(source.spec.name, record.binding.source);
            assert_eq!(
                (source.outgoing[at], source.targets[at]),
                (id, record.target)
            );
            let (name, incoming) = match record.target {
                Target::Queue(slot) => (&self.queues[slot].name, &self.queues[slot].incoming),
                Target::Exchange(slot) => (
                    &self.exchanges[slot].spec.name,
                    &self.exchanges[slot].incoming,
                ),
            };
            assert_eq!(name, record.binding.destination.name());
            assert_eq!(incoming[record.incoming_at as usize], id);
        }
    }
}

fn sorted(mut bindings: Vec<&Binding>) -> std::vec::IntoIter<&Binding> {
    bindings.sort_unstable();
    bindings.into_iter()
}

fn position(len: usize) -> u32 {
    u32::try_from(len).expect("a list of slots is no longer than slot numbers reach")
}

/// Gives memory back after mass removal.
fn shrink<T>(list: &mut Vec<T>) {
    if list.capacity() > 64 && list.len() < list.capacity() / 4 {
        list.shrink_to(list.len() * 2);
    }
}
