//! Making exchanges, queues and bindings: in the routing table, and on their way to the disk.
//!
//! Who may and what is allowed has been checked before. Everything here is called under the lock of the routing table, so
//! that the database sees changes in the table's order.

use std::sync::Arc;

use mamba_routing::{Binding, Bound, Declared, Destination, ExchangeSpec, RoutingTable};
use mamba_store::DefinitionChange;
use mamba_types::Violation;
use parking_lot::MutexGuard;

use crate::{
    broker::Broker,
    commit::Commit,
    policies,
    queue_cell::{Declaration, QueueCell, QueueRef},
    vhost::Vhost,
};

type Table = RoutingTable<QueueRef>;

/// How many of something the node may have, and how many its other virtual hosts do; nobody else makes one meanwhile.
pub(crate) struct NodeRoom<'b> {
    max: usize,
    elsewhere: usize,
    _making: MutexGuard<'b, ()>,
}

impl NodeRoom<'_> {
    /// The limit, if there is no room for one more beside those `here`.
    pub(crate) const fn reached_by(&self, here: usize) -> Option<usize> {
        if self.elsewhere + here >= self.max {
            Some(self.max)
        } else {
            None
        }
    }
}

impl Broker {
    /// Room for queues in this virtual host; `None` without a limit. Call it before its table is locked.
    pub(crate) fn room_for_queues(&self, vhost: &Vhost) -> Option<NodeRoom<'_>> {
        self.room(self.config.limits.queues_max, vhost, Table::queue_count)
    }

    /// Room for exchanges in this virtual host; `None` without a limit. Call it before its table is locked.
    pub(crate) fn room_for_exchanges(&self, vhost: &Vhost) -> Option<NodeRoom<'_>> {
        self.room(
            self.config.limits.exchanges_max,
            vhost,
            Table::exchange_count,
        )
    }

    fn room(&self, max: usize, vhost: &Vhost, count: fn(&Table) -> usize) -> Option<NodeRoom<'_>> {
        if max == 0 {
            return None;
        }
        let making = self.making.lock();
        let others = self.vhosts();
        let others = others.iter().filter(|other| other.name != vhost.name);
        Some(NodeRoom {
            max,
            elsewhere: others.map(|other| count(&other.table.read())).sum(),
            _making: making,
        })
    }

    /// Makes an exchange, or finds that it is there. Returns what has to be durable before this can be said.
    ///
    /// # Errors
    /// Those of [`RoutingTable::declare`].
    pub(crate) fn make_exchange(
        &self,
        vhost: &Vhost,
        table: &mut Table,
        spec: ExchangeSpec,
    ) -> Result<Option<Arc<Commit>>, Violation> {
        let (name, durable) = (Arc::clone(&spec.name), spec.durable);
        let definition = match table.declare(spec)? {
            Declared::Existing => {
                return Ok(durable.then(|| self.definitions_on_their_way()).flatten());
            }
            Declared::New(exchange) => {
                if exchange.deduplicates() {
                    let id = self.store.0.definitions().next_queue_id();
                    vhost.remember_for(exchange.spec(), id);
                }
                self.tell_exchange_made(vhost, exchange.spec());
                durable.then(|| vhost.exchange_definition(exchange.spec()))
            }
        };
        policies::apply_to_exchange(&vhost.policies(), table, &name);
        let changes: Vec<_> = definition.iter().map(DefinitionChange::put).collect();
        Ok(self.commit(changes))
    }

    /// Makes a queue whose name is free. Returns what has to be durable before this can be said, too.
    pub(crate) fn make_queue(
        &self,
        vhost: &Arc<Vhost>,
        table: &mut Table,
        name: Arc<str>,
        declaration: Declaration,
    ) -> (Arc<QueueCell>, Option<Arc<Commit>>) {
        let store = &self.store.0;
        let cell = QueueCell::new(
            store.definitions().next_queue_id(),
            vhost,
            name,
            declaration,
            Self::first_sequence(store),
            store.log().clone(),
        );
        table.add_queue(QueueRef(Arc::clone(&cell)));
        self.tell_queue_made(&cell);
        let changes = if cell.declaration.durable {
            vec![DefinitionChange::put(&vhost.queue_definition(&cell))]
        } else {
            Vec::new()
        };
        let commit = self.commit(changes);
        if let Some(commit) = &commit {
            cell.set_definition(Arc::clone(commit));
        }
        (cell, commit)
    }

    /// Makes a binding, or finds that it is there. Returns what has to be durable before this can be said.
    ///
    /// # Errors
    /// Those of [`RoutingTable::bind`].
    pub(crate) fn make_binding(
        &self,
        vhost: &Vhost,
        table: &mut Table,
        binding: Binding,
    ) -> Result<Option<Arc<Commit>>, Violation> {
        let queue_durable = match &binding.destination {
            Destination::Queue(name) => table
                .queue(name)
                .is_some_and(|queue| queue.0.declaration.durable),
            Destination::Exchange(_) => false,
        };
        let durable = table.is_durable(&binding, queue_durable);
        let bound = table.bind(binding.clone())?;
        if bound == Bound::New {
            self.tell_binding("binding.created", vhost, &binding);
        }
        Ok(match bound {
            Bound::New if durable => {
                let definition = vhost.binding_definition(&binding);
                self.commit(vec![DefinitionChange::put(&definition)])
            }
            Bound::Existing if durable => self.definitions_on_their_way(),
            Bound::New | Bound::Existing => None,
        })
    }
}
