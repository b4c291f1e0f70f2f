//! A virtual host: its exchanges, queues and bindings, in memory and in the definitions database.
//!
//! Lock order: the routing table, then a queue, then an outbox, then the log's staging area.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use mamba_codec::{encode_table, table as parse_table};
use mamba_routing::{Binding, Destination, ExchangeSpec, Removed, RoutingTable};
use mamba_store::{
    BindingDefinition, DefinitionChange, DestinationKind, ExchangeDefinition, QueueDefinition,
    Recovered, Store,
};
use mamba_types::{FieldTable, Limits, Violation};
use parking_lot::RwLock;

use crate::{
    arguments::{self, Flags},
    broker::Broker,
    paging::Paging,
    queue_cell::{Declaration, QueueCell, QueueRef},
    timers::Timers,
};

/// A virtual host.
#[derive(Debug)]
pub struct Vhost {
    /// Its name.
    pub name: Arc<str>,
    pub(crate) table: RwLock<RoutingTable<QueueRef>>,
    /// The latest time a connection was told, in milliseconds since 1970.
    unix_ms: AtomicU64,
    /// The node's deadlines.
    pub(crate) timers: Arc<Timers>,
    /// The node's budget for messages in memory.
    pub(crate) paging: Arc<Paging>,
}

impl Vhost {
    pub(crate) fn new(
        name: &str,
        seed: u64,
        timers: Arc<Timers>,
        paging: Arc<Paging>,
        unix_ms: u64,
    ) -> Self {
        Self {
            name: name.into(),
            table: RwLock::new(RoutingTable::new(name, seed)),
            unix_ms: AtomicU64::new(unix_ms),
            timers,
            paging,
        }
    }

    /// Tells the time, for what happens outside any connection's own turn.
    pub(crate) fn set_time(&self, unix_ms: u64) {
        // Read first: most turns find the same millisecond, and a read shares the cache line.
        if self.unix_ms.load(Ordering::Relaxed) != unix_ms {
            self.unix_ms.store(unix_ms, Ordering::Relaxed);
        }
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

    /// All queues, by name.
    #[must_use]
    pub fn queues(&self) -> Vec<Arc<QueueCell>> {
        self.table
            .read()
            .queues()
            .map(|queue| Arc::clone(&queue.0))
            .collect()
    }

    /// Brings back what survived a restart. Definitions that contradict each other are logged and left out.
    pub(crate) fn recover(self: &Arc<Self>, store: &Store, recovered: &mut Recovered) {
        let definitions = std::mem::take(&mut recovered.definitions);
        let mut table = self.table.write();
        let left_out = |what: &str, name: &str, why: &Violation| {
            tracing::error!(vhost = %self.name, name, reason = %why, "a stored {what} cannot be restored and is left out");
        };
        for exchange in definitions
            .exchanges
            .iter()
            .filter(|exchange| *exchange.vhost == *self.name)
        {
            let spec = ExchangeSpec {
                name: exchange.name.as_str().into(),
                kind: exchange.kind.as_str().into(),
                durable: true,
                auto_delete: exchange.auto_delete,
                internal: exchange.internal,
                arguments: decode(&exchange.arguments),
            };
            if let Err(why) = table.declare(spec) {
                left_out("exchange", &exchange.name, &why);
            }
        }
        for queue in definitions
            .queues
            .iter()
            .filter(|queue| *queue.vhost == *self.name)
        {
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
                arguments,
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
            table.add_queue(QueueRef(cell));
        }
        for binding in definitions
            .bindings
            .iter()
            .filter(|binding| *binding.vhost == *self.name)
        {
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

    pub(crate) fn exchange_definition(&self, spec: &ExchangeSpec) -> ExchangeDefinition {
        ExchangeDefinition {
            vhost: self.name.to_string(),
            name: spec.name.to_string(),
            kind: spec.kind.to_string(),
            auto_delete: spec.auto_delete,
            internal: spec.internal,
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

    /// The changes to the definitions database that a removal means.
    pub(crate) fn changes_of(&self, removed: &Removed) -> Vec<DefinitionChange> {
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

fn decode(arguments: &[u8]) -> FieldTable {
    parse_table(arguments, &Limits::default()).unwrap_or_default()
}
