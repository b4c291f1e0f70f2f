//! Sockets, tasks, timers and shutdown around the broker.
//!
//! Reads and writes octets and reads the clock; what the octets mean is the broker's affair. One task per
//! connection, one per listener. Start reading at [`Server`], then the task of a connection in `connection.rs`.

#![expect(
    clippy::disallowed_methods,
    reason = "this crate is where the clock is read"
)]

mod certificate;
mod clock;
mod connection;
pub mod control;
mod housekeeping;
mod input;
mod listener;
pub mod message_json;
pub mod oauth;
mod proxy;
pub mod tls;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use mamba_broker::Broker;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::timeout,
};

pub use certificate::NameSource;
/// A network in CIDR form.
pub use ipnet::IpNet;

use self::{clock::Clock, listener::Preface, tls::Tls};

/// The time, in milliseconds since 1970, for whoever assembles the node.
#[must_use]
pub fn unix_ms() -> u64 {
    Clock::start().now().unix_ms
}

/// How the server listens and stops.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Addresses to listen on; port 0 takes a free one.
    pub listeners: Vec<SocketAddr>,
    /// Addresses to listen on for TLS; needs `tls`.
    pub tls_listeners: Vec<SocketAddr>,
    /// Certificates for them.
    pub tls: Option<Arc<Tls>>,
    /// Networks of proxies: connections from there begin with a PROXY header, which says who the client is.
    pub proxies: Vec<IpNet>,
    /// How long clients may take to answer `connection.close` at a shutdown.
    pub shutdown_grace: Duration,
}

/// How long connections that are dropped at a shutdown may take to give back what they held.
const DROP_TIME: Duration = Duration::from_secs(2);

/// What ties a connection's task to the server.
#[derive(Clone, Debug)]
pub(crate) struct Lifeline {
    /// Dropped when the task ends.
    alive: mpsc::Sender<()>,
    /// Becomes true when the task has to end at once.
    dropping: watch::Receiver<bool>,
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// Bound listeners in front of a broker.
#[derive(Debug)]
pub struct Server {
    broker: Arc<Broker>,
    listeners: Vec<TcpListener>,
    tls_listeners: Vec<TcpListener>,
    plain: Preface,
    secured: Preface,
    shutdown_grace: Duration,
}

impl Server {
    /// Binds every address. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// The first address that cannot be bound.
    pub fn bind(broker: Arc<Broker>, config: ServerConfig) -> Result<Self, BindError> {
        let bind = |addresses: Vec<SocketAddr>| -> Result<Vec<TcpListener>, BindError> {
            let bind =
                |address| listener::bind(address).map_err(|source| BindError { address, source });
            addresses.into_iter().map(bind).collect()
        };
        let plain = Preface {
            tls: None,
            proxies: config.proxies.into(),
        };
        let tls_listeners = match &config.tls {
            Some(_) => bind(config.tls_listeners)?,
            None => Vec::new(),
        };
        Ok(Self {
            broker,
            listeners: bind(config.listeners)?,
            tls_listeners,
            secured: Preface {
                tls: config.tls,
                ..plain.clone()
            },
            plain,
            shutdown_grace: config.shutdown_grace,
        })
    }

    /// Where clients can connect.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        addresses(&self.listeners)
    }

    /// Where clients can connect with TLS.
    #[must_use]
    pub fn tls_addresses(&self) -> Vec<SocketAddr> {
        addresses(&self.tls_listeners)
    }

    /// Serves until `stop` becomes true, then stops listening, closes every connection and returns when the last
    /// one has ended or the grace time is over.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let clock = Clock::start();
        // Every connection task holds a sender: the last one to end closes the mailbox.
        let (alive, mut ended) = mpsc::channel::<()>(1);
        let (drop_all, dropping) = watch::channel(false);
        let plain = self.listeners.into_iter().map(|l| (l, &self.plain));
        let secured = self.tls_listeners.into_iter().map(|l| (l, &self.secured));
        let accepting: Vec<_> = plain
            .chain(secured)
            .map(|(listener, preface)| {
                tokio::spawn(listener::accept(
                    listener,
                    preface.clone(),
                    Arc::clone(&self.broker),
                    clock,
                    Lifeline {
                        alive: alive.clone(),
                        dropping: dropping.clone(),
                    },
                ))
            })
            .collect();
        drop(alive);
        let deadlines = tokio::spawn(housekeeping::keep_deadlines(
            Arc::clone(&self.broker),
            clock,
        ));
        let maintenance = tokio::spawn(housekeeping::maintain(Arc::clone(&self.broker)));
        let way = tokio::spawn(housekeeping::make_way(Arc::clone(&self.broker)));
        let pagers = housekeeping::Pagers::start(&self.broker);
        housekeeping::publish_events(&self.broker, clock);
        // An error means that nobody can ask any more: stop as well.
        let _ = stop.wait_for(|stop| *stop).await;
        for task in accepting {
            task.abort();
        }
        maintenance.abort();
        self.broker.close_connections("shutdown");
        if timeout(self.shutdown_grace, ended.recv()).await.is_err() {
            tracing::warn!(
                connections = self.broker.connection_count(),
                "some clients did not answer connection.close in time and are dropped"
            );
            let _ = drop_all.send(true);
            // They only have to give back what they held.
            let _ = timeout(DROP_TIME, ended.recv()).await;
        }
        deadlines.abort();
        way.abort();
        drop(pagers);
    }
}

fn addresses(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok())
        .collect()
}
