//! A virtual host: its exchanges, queues and bindings, in memory and in the definitions database.
//!
//! Lock order: the routing table, then a queue, then an outbox, then the log's staging area.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use mamba_auth::VhostLimits;
use mamba_codec::{encode_table, table as parse_table};
use mamba_policy::PolicySet;
pub use mamba_routing::{Binding, Destination, ExchangeSpec};
use mamba_routing::{Declared, Removed, RoutingTable};
use mamba_store::{
    BindingDefinition, DefinitionChange, DestinationKind, ExchangeDefinition, QueueDefinition,
    Recovered, Store, StoredDefinitions, VhostDefinition,
};
use mamba_types::{FieldTable, HardError, Limits, QueueId, Violation};
use parking_lot::{Mutex, RwLock};

use crate::{
    access,
    arguments::{self, Flags},
    broker::Broker,
    deaths::Deaths,
    deduplication::ExchangeIds,
    exchange_stats::{ExchangeCounts, ExchangeStats},
    paging::Paging,
    policies,
    queue_cell::{Declaration, QueueCell, QueueRef},
    registry::TrafficCounts,
    timers::Timers,
};

/// What an operator sets about a virtual host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VhostSettings {
    /// For people.
    pub description: String,
    /// For people.
    pub tags: Vec<String>,
    /// Type of queues that are declared without one, if they can be of that type; `None`: classic.
    pub default_queue_type: Option<String>,
    /// Refuses to be deleted.
    pub protected_from_deletion: bool,
    /// Copies of messages go to the trace exchange.
    pub tracing: bool,
    /// Connections and queues it may have.
    pub limits: VhostLimits,
}

/// A virtual host.
#[derive(Debug)]
pub struct Vhost {
    /// Its name.
    pub name: Arc<str>,
    pub(crate) table: RwLock<RoutingTable<QueueRef>>,
    /// What the exchanges that take each message once have seen. Changed under the table's lock.
    ids: RwLock<HashMap<Arc<str>, Arc<ExchangeIds>>>,
    /// What was published to exchanges, once something was. Changed under the table's lock.
    exchange_stats: RwLock<HashMap<Arc<str>, Arc<ExchangeStats>>>,
    settings: RwLock<Arc<VhostSettings>>,
    /// [`VhostSettings::tracing`], for whoever asks often.
    traced: AtomicBool,
    policies: RwLock<Arc<PolicySet>>,
    /// Held while policies are applied to what is there: the last one to hold it applies the latest.
    pub(crate) applying: Mutex<()>,
    /// Runtime parameters of extensions, by component and name.
    pub(crate) parameters: RwLock<BTreeMap<(String, String), serde_json::Value>>,
    /// Those of the queue declared last.
    arguments: Mutex<Arc<FieldTable>>,
    /// Open connections.
    connections: AtomicUsize,
    /// What went over the sockets of ended ones. Written under the lock of the node's list of connections.
    pub(crate) ended_traffic: TrafficCounts,
    /// It is being deleted or gone: nothing new may be made in it. Written under the table's lock.
    deleted: AtomicBool,
    /// The latest time a connection was told, in milliseconds since 1970; its queues read it, too.
    unix_ms: Arc<AtomicU64>,
    /// The node's deadlines.
    pub(crate) timers: Arc<Timers>,
    /// The node's budget for messages in memory.
    pub(crate) paging: Arc<Paging>,
    /// How messages died on the node.
    pub(crate) deaths: Arc<Deaths>,
}

impl Vhost {
    pub(crate) fn new(
        name: &str,
        settings: VhostSettings,
        seed: u64,
        timers: Arc<Timers>,
        paging: Arc<Paging>,
        deaths: Arc<Deaths>,
        unix_ms: u64,
    ) -> Self {
        Self {
            name: name.into(),
            table: RwLock::new(RoutingTable::new(name, seed)),
            ids: RwLock::default(),
            exchange_stats: RwLock::default(),
            traced: AtomicBool::new(settings.tracing),
            settings: RwLock::new(Arc::new(settings)),
            policies: RwLock::default(),
            applying: Mutex::default(),
            parameters: RwLock::default(),
            arguments: Mutex::default(),
            connections: AtomicUsize::new(0),
            ended_traffic: TrafficCounts::default(),
            deleted: AtomicBool::new(false),
            unix_ms: Arc::new(AtomicU64::new(unix_ms)),
            timers,
            paging,
            deaths,
        }
    }

    /// What is set about it.
    #[must_use]
    pub fn settings(&self) -> Arc<VhostSettings> {
        Arc::clone(&self.settings.read())
    }

    pub(crate) fn set_settings(&self, settings: VhostSettings) {
        self.traced.store(settings.tracing, Ordering::Relaxed);
        *self.settings.write() = Arc::new(settings);
    }

    /// Has a queue share the arguments of the one declared before it, if they are the same.
    pub(crate) fn share_arguments(&self, arguments: &mut Arc<FieldTable>) {
        let mut last = self.arguments.lock();
        if *last == *arguments {
            *arguments = Arc::clone(&last);
        } else {
            *last = Arc::clone(arguments);
        }
    }

    /// Whether copies of its messages go to the trace exchange.
    pub(crate) fn is_traced(&self) -> bool {
        self.traced.load(Ordering::Relaxed)
    }

    /// Its policies and operator policies.
    #[must_use]
    pub fn policies(&self) -> Arc<PolicySet> {
        Arc::clone(&self.policies.read())
    }

    /// From now on what is declared follows these; what is there has to be told.
    pub(crate) fn set_policies(&self, policies: PolicySet) {
        *self.policies.write() = Arc::new(policies);
    }

    /// Open connections.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// A connection's place in it; the limit if all are taken.
    pub(crate) fn seat(self: &Arc<Self>) -> Result<VhostSeat, u64> {
        let limit = self.settings().limits.connections_max;
        access::take(&self.connections, limit)?;
        Ok(VhostSeat(Arc::clone(self)))
    }

    /// From now on nothing new is made in it. Call it under the table's lock.
    pub(crate) fn mark_deleted(&self) {
        self.deleted.store(true, Ordering::Release);
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Refuses to make anything new in a virtual host that is gone. Call it under the table's lock.
    pub(crate) fn check_there(&self) -> Result<(), Violation> {
        if self.is_deleted() {
            return Err(Violation::connection(
                HardError::ConnectionForced,
                format!("vhost '{}' is deleted", self.name),
            ));
        }
        Ok(())
    }

    pub(crate) fn definition(&self, settings: &VhostSettings) -> VhostDefinition {
        VhostDefinition {
            name: self.name.to_string(),
            description: settings.description.clone(),
            tags: settings.tags.clone(),
            default_queue_type: settings.default_queue_type.clone(),
            protected_from_deletion: settings.protected_from_deletion,
            tracing: settings.tracing,
            max_connections: settings.limits.connections_max.get(),
            max_queues: settings.limits.queues_max.get(),
        }
    }

    /// Tells the time, for what happens outside any connection's own turn.
    pub(crate) fn set_time(&self, unix_ms: u64) {
        // Read first: most turns find the same millisecond, and a read shares the cache line.
        if self.unix_ms.load(Ordering::Relaxed) != unix_ms {
            self.unix_ms.store(unix_ms, Ordering::Relaxed);
        }
    }

    /// What tells the time, for a queue.
    pub(crate) fn clock(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.unix_ms)
    }

    /// Milliseconds since 1970.
    pub(crate) fn unix_ms(&self) -> u64 {
        self.unix_ms.load(Ordering::Relaxed)
    }

    /// A queue by name.
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<Arc<QueueCell>> {
        self.table
            .read()
            .queue(name)
            .map(|queue| Arc::clone(&queue.0))
    }

    /// All queues, in no particular order.
    #[must_use]
    pub fn queues_unsorted(&self) -> Vec<Arc<QueueCell>> {
        let table = self.table.read();
        let queues = table.queue_handles().map(|queue| Arc::clone(&queue.0));
        queues.collect()
    }

    /// All queues, by name.
    #[must_use]
    pub fn queues(&self) -> Vec<Arc<QueueCell>> {
        let mut all = self.queues_unsorted();
        // Not under the table's lock: there may be many.
        all.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        all
    }

    /// All exchanges as they were declared, by name, the default exchange first.
    #[must_use]
    pub fn exchanges(&self) -> Vec<ExchangeSpec> {
        let table = self.table.read();
        table
            .exchanges()
            .map(|exchange| exchange.spec().clone())
            .collect()
    }

    /// All explicit bindings, in their order.
    #[must_use]
    pub fn bindings(&self) -> Vec<Binding> {
        let handles = self.table.read().binding_handles();
        in_order(handles)
    }

    /// Brings back what survived a restart. Definitions that contradict each other are logged and left out.
    pub(crate) fn recover(
        self: &Arc<Self>,
        store: &Store,
        definitions: StoredDefinitions,
        recovered: &mut Recovered,
    ) {
        self.set_policies(policies::stored(&definitions.policies));
        *self.parameters.write() = definitions
            .parameters
            .into_iter()
            .map(|stored| ((stored.component, stored.name), stored.value))
            .collect();
        let policies = self.policies();
        let mut table = self.table.write();
        let left_out = |what: &str, name: &str, why: &Violation| {
            tracing::error!(vhost = %self.name, name, reason = %why, "a stored {what} cannot be restored and is left out");
        };
        for exchange in definitions.exchanges.iter() {
            let spec = ExchangeSpec {
                name: exchange.name.as_str().into(),
                kind: exchange.kind.as_str().into(),
                durable: true,
                auto_delete: exchange.auto_delete,
                internal: exchange.internal,
                arguments: decode(&exchange.arguments),
            };
            match table.declare(spec) {
                Ok(Declared::New(declared)) if declared.deduplicates() => {
                    // One that was stored by a broker without it has seen nothing yet.
                    let id = exchange
                        .id
                        .unwrap_or_else(|| store.definitions().next_queue_id());
                    let ids = self.remember_for(declared.spec(), id);
                    let seen = recovered.seen.remove(&id).unwrap_or_default();
                    ids.restore(&seen, self.unix_ms());
                }
                Ok(_) => {}
                Err(why) => left_out("exchange", &exchange.name, &why),
            }
        }
        let names: Vec<Arc<str>> = table
            .exchanges()
            .map(|exchange| Arc::clone(&exchange.spec().name))
            .collect();
        for name in names {
            policies::apply_to_exchange(&policies, &mut table, &name);
        }
        for queue in definitions.queues.iter() {
            let arguments = decode(&queue.arguments);
            let flags = Flags {
                durable: true,
                exclusive: false,
                auto_delete: queue.auto_delete,
            };
            let printed = format!("queue '{}' in vhost '{}'", queue.name, self.name);
            let settings = match arguments::settings(&arguments, &flags, &printed, true) {
                Ok(settings) => settings,
                Err(why) => {
                    left_out("queue", &queue.name, &why);
                    continue;
                }
            };
            let declaration = Declaration {
                durable: true,
                exclusive_owner: None,
                auto_delete: queue.auto_delete,
                arguments: Arc::new(arguments),
                settings,
            };
            let name = queue.name.as_str().into();
            let cell = QueueCell::new(
                queue.id,
                self,
                name,
                declaration,
                Broker::first_sequence(store),
                store.log().clone(),
            );
            if let Some(held) = recovered.queues.remove(&queue.id) {
                cell.restore(&held.runs);
            }
            if let Some(ids) = recovered.seen.remove(&queue.id) {
                cell.restore_ids(&ids, self.unix_ms());
            }
            if let Some(held) = recovered.queues.remove(&queue.id.waiting_room()) {
                cell.restore_room(&held.runs, recovered.report.clean, self.unix_ms());
            }
            table.add_queue(QueueRef(cell));
        }
        for binding in definitions.bindings.iter() {
            let destination: Arc<str> = binding.destination.as_str().into();
            let bound = table.bind(Binding {
                source: binding.source.as_str().into(),
                destination: match binding.destination_kind {
                    DestinationKind::Queue => Destination::Queue(destination),
                    DestinationKind::Exchange => Destination::Exchange(destination),
                },
                routing_key: binding.binding_key.as_str().into(),
                arguments: decode(&binding.arguments),
            });
            if let Err(why) = bound {
                left_out("binding", &binding.source, &why);
            }
        }
    }

    /// What an exchange has seen that takes each message once.
    pub(crate) fn ids_of(&self, exchange: &str) -> Option<Arc<ExchangeIds>> {
        self.ids.read().get(exchange).cloned()
    }

    /// All exchanges' ids, by the identity the log knows them by.
    pub(crate) fn exchange_ids(&self) -> Vec<Arc<ExchangeIds>> {
        let mut all: Vec<_> = self.ids.read().values().cloned().collect();
        all.sort_unstable_by_key(|ids| ids.id);
        all
    }

    /// Begins to remember ids for a new exchange. Call it under the table's lock.
    pub(crate) fn remember_for(&self, spec: &ExchangeSpec, id: QueueId) -> Arc<ExchangeIds> {
        let ids = ExchangeIds::new(id, spec);
        let name = Arc::clone(&spec.name);
        self.ids.write().insert(name, Arc::clone(&ids));
        ids
    }

    /// Where publishes to an exchange that is there are counted. Call it under the table's lock.
    pub(crate) fn exchange_stats(&self, exchange: &str) -> Arc<ExchangeStats> {
        if let Some(stats) = self.exchange_stats.read().get(exchange) {
            return Arc::clone(stats);
        }
        let mut all = self.exchange_stats.write();
        Arc::clone(all.entry(exchange.into()).or_default())
    }

    /// What was published to an exchange; `None` as long as nothing was.
    #[must_use]
    pub fn exchange_counts(&self, exchange: &str) -> Option<ExchangeCounts> {
        let stats = self.exchange_stats.read().get(exchange).cloned();
        stats.map(|stats| stats.read())
    }

    /// What was published to each exchange, by name; those left out to which nothing was.
    #[must_use]
    pub fn all_exchange_counts(&self) -> Vec<(Arc<str>, ExchangeCounts)> {
        let mut all: Vec<_> = self
            .exchange_stats
            .read()
            .iter()
            .map(|(name, stats)| (Arc::clone(name), Arc::clone(stats)))
            .collect();
        all.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        let read = |(name, stats): (Arc<str>, Arc<ExchangeStats>)| (name, stats.read());
        all.into_iter().map(read).collect()
    }

    pub(crate) fn exchange_definition(&self, spec: &ExchangeSpec) -> ExchangeDefinition {
        ExchangeDefinition {
            vhost: self.name.to_string(),
            name: spec.name.to_string(),
            kind: spec.kind.to_string(),
            auto_delete: spec.auto_delete,
            internal: spec.internal,
            id: self.ids_of(&spec.name).map(|ids| ids.id),
            arguments: encode_table(&spec.arguments),
        }
    }

    pub(crate) fn queue_definition(&self, cell: &QueueCell) -> QueueDefinition {
        QueueDefinition {
            vhost: self.name.to_string(),
            name: cell.name.to_string(),
            id: cell.id,
            auto_delete: cell.declaration.auto_delete,
            arguments: encode_table(&cell.declaration.arguments),
        }
    }

    pub(crate) fn binding_definition(&self, binding: &Binding) -> BindingDefinition {
        let (destination_kind, destination) = match &binding.destination {
            Destination::Queue(name) => (DestinationKind::Queue, name),
            Destination::Exchange(name) => (DestinationKind::Exchange, name),
        };
        BindingDefinition {
            vhost: self.name.to_string(),
            source: binding.source.to_string(),
            destination_kind,
            destination: destination.to_string(),
            binding_key: binding.routing_key.to_string(),
            arguments: encode_table(&binding.arguments),
        }
    }

    /// Lets go of what removed exchanges have seen, and returns the changes to the definitions database that the removal means.
    /// Call it under the table's lock.
    pub(crate) fn changes_of(&self, removed: &Removed) -> Vec<DefinitionChange> {
        if !removed.exchanges.is_empty() {
            let mut ids = self.ids.write();
            for exchange in &removed.exchanges {
                ids.remove(&exchange.spec.name);
            }
            drop(ids);
            let mut all = self.exchange_stats.write();
            for exchange in &removed.exchanges {
                if let Some(stats) = all.remove(&exchange.spec.name) {
                    stats.mark_deleted();
                }
            }
        }
        let bindings = removed.bindings.iter().filter(|removed| removed.durable);
        let exchanges = removed
            .exchanges
            .iter()
            .filter(|removed| removed.spec.durable);
        bindings
            .map(|removed| DefinitionChange::delete(&self.binding_definition(&removed.binding)))
            .chain(
                exchanges.map(|removed| {
                    DefinitionChange::delete(&self.exchange_definition(&removed.spec))
                }),
            )
            .collect()
    }
}

/// A connection's place in a virtual host; given back on drop.
#[derive(Debug)]
pub(crate) struct VhostSeat(Arc<Vhost>);

impl Drop for VhostSeat {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

fn decode(arguments: &[u8]) -> FieldTable {
    parse_table(arguments, &Limits::default()).unwrap_or_default()
}

/// Bindings whose handles were taken under a routing table's lock: many take long to sort and copy.
pub(crate) fn in_order(mut handles: Vec<Arc<Binding>>) -> Vec<Binding> {
    handles.sort_unstable();
    let bindings = handles.into_iter().map(Arc::unwrap_or_clone);
    bindings.collect()
}
