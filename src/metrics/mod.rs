//! The Prometheus endpoint: names and labels are RabbitMQ's, so that its dashboards and alert rules work; what has no
//! counterpart there starts with `mambamq_`.

pub(crate) mod http;
mod node;
mod objects;
mod request;
mod text;

use std::{path::PathBuf, sync::Arc, time::Duration};

use mamba_broker::{Broker, Snapshot};

use self::{
    request::Wanted,
    text::{Naming, Page},
};
use crate::alarms::Thresholds;
use crate::process::Readings;

/// What does not change while the node runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    /// The node's name.
    pub(crate) node: String,
    /// The cluster's name.
    pub(crate) cluster: String,
    /// Product name told to clients.
    pub(crate) product: String,
    /// Version told to clients.
    pub(crate) version: String,
}

/// The node at one moment.
#[derive(Debug, Default)]
struct Facts {
    identity: Identity,
    thresholds: Arc<Thresholds>,
    snapshot: Snapshot,
    readings: Readings,
    uptime: Duration,
}

/// What pages are made from.
#[derive(Debug)]
pub(crate) struct Source {
    broker: Arc<Broker>,
    identity: Identity,
    thresholds: Arc<Thresholds>,
    data_dir: PathBuf,
    started: tokio::time::Instant,
}

impl Source {
    pub(crate) const fn new(
        broker: Arc<Broker>,
        identity: Identity,
        thresholds: Arc<Thresholds>,
        data_dir: PathBuf,
        started: tokio::time::Instant,
    ) -> Self {
        Self {
            broker,
            identity,
            thresholds,
            data_dir,
            started,
        }
    }

    /// Writes a page. Blocks: it walks the queues, and may ask connections.
    pub(crate) fn write(&self, wanted: &Wanted, page: &mut Page) {
        let facts = Facts {
            identity: self.identity.clone(),
            thresholds: Arc::clone(&self.thresholds),
            snapshot: self.broker.snapshot(),
            readings: Readings::take(&self.data_dir),
            uptime: self.started.elapsed(),
        };
        let endpoint = wanted.endpoint();
        match wanted {
            Wanted::Aggregated => aggregated(page, &facts),
            Wanted::PerObject => {
                node::identity(page, &facts, endpoint);
                node::families(page, &facts);
                objects::all(page, &self.broker);
            }
            Wanted::Detailed(filter) => {
                node::identity(page, &facts, endpoint);
                node::detailed(page, &facts, filter);
                objects::detailed(page, &self.broker, filter);
            }
            Wanted::MemoryBreakdown => {
                node::identity(page, &facts, endpoint);
                node::memory(page, &facts);
            }
        }
    }
}

/// The page of sums.
fn aggregated(page: &mut Page, facts: &Facts) {
    node::identity(page, facts, Wanted::Aggregated.endpoint());
    node::families(page, facts);
    page.plain(Naming::Plain, objects::TOTALS, facts);
}

#[cfg(test)]
pub(crate) mod tests;
