//! What operators see of virtual hosts, exchanges and bindings.

use std::net::IpAddr;

use mamba_auth::{Count, Ending, Source};
use mamba_routing::{Binding, Destination, ExchangeSpec};

use crate::{
    access::Account,
    broker::Broker,
    vhost::{Vhost, in_order},
};

impl Broker {
    /// Whether an account has permissions in a virtual host.
    #[must_use]
    pub fn may_open(&self, account: &Account, vhost: &str) -> bool {
        self.access.may_open(account, vhost)
    }

    /// Counts an attempt to log in.
    pub fn note_attempt(&self, from: IpAddr, user: &str, protocol: &'static str, ending: Ending) {
        let mut attempts = self.access.attempts.lock();
        attempts.note(from, user, protocol, ending);
    }

    /// Attempts to log in by source; the longest silent ones are forgotten.
    #[must_use]
    pub fn attempts(&self) -> Vec<(Source, Count)> {
        self.access.attempts.lock().list()
    }

    /// Whether permissions are set for a user in a virtual host.
    #[must_use]
    pub fn has_permissions(&self, user: &str, vhost: &str) -> bool {
        self.access
            .read(|directory| directory.permissions(vhost, user).is_some())
    }
}

/// Topology. Each call looks under the routing table's lock once, and copies what it found.
impl Vhost {
    /// How many exchanges there are.
    #[must_use]
    pub fn exchange_count(&self) -> usize {
        self.table.read().exchange_count()
    }

    /// An exchange by name.
    #[must_use]
    pub fn exchange(&self, name: &str) -> Option<ExchangeSpec> {
        let table = self.table.read();
        table.exchange(name).map(|exchange| exchange.spec().clone())
    }

    /// Each exchange with the number of its bindings, as their source, by name. Looks once per exchange.
    #[must_use]
    pub fn exchanges_with_bindings(&self) -> Vec<(ExchangeSpec, usize)> {
        let counted = self.exchanges().into_iter().map(|spec| {
            let bindings = self.table.read().binding_count_from(&spec.name);
            (spec, bindings)
        });
        counted.collect()
    }

    /// The bindings of an exchange, as their source. The default exchange has none of its own.
    #[must_use]
    pub fn bindings_from(&self, exchange: &str) -> Vec<Binding> {
        let handles = self.table.read().binding_handles_from(exchange);
        in_order(handles)
    }

    /// The bindings to a queue or exchange.
    #[must_use]
    pub fn bindings_to(&self, destination: &Destination) -> Vec<Binding> {
        let handles = self.table.read().binding_handles_to(destination);
        in_order(handles)
    }
}
