//! The broker and its server as the life cycle sees them.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    net::SocketAddr,
    num::NonZero,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use mamba_broker::{Broker, BrokerConfig, oauth::Tokens};
use mamba_management::{CertificateFile, CommandRefused, Listener};
use mamba_server::{
    Server, ServerConfig,
    control::{self, Caller, Commands, Refusal, SetLogLevel},
    tls::{Holder, Tls},
};
use mamba_store::{OpenError, RecoveryReport};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    alarms::Thresholds,
    config::{self, Config, Store, SyncMode},
    definitions,
    metrics::Identity,
    process::{self, Readings},
};

/// Opens the data folder and recovers what is in it.
///
/// # Errors
/// When the folder or its data cannot be used.
pub(crate) fn open(config: &Config, tokens: Option<Arc<Tokens>>) -> Result<Arc<Broker>, OpenError> {
    let broker = Broker::open(
        broker_config(config, tokens),
        RandomState::new().hash_one(std::process::id()),
        mamba_server::unix_ms(),
    )?;
    report(broker.recovery_report());
    Ok(broker)
}

/// Imports the file of definitions, if one is configured. Nobody is connected yet.
///
/// # Errors
/// What is wrong with the file, or with which object in it.
pub(crate) fn load_definitions(broker: &Broker, config: &Config) -> Result<(), String> {
    let path = &config.node.load_definitions;
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    let text = definitions::read_file(path).map_err(|error| error.to_string())?;
    let imported = broker.import_definitions(text.as_bytes(), None, mamba_server::unix_ms());
    imported
        .map(drop)
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// Listens on these addresses.
///
/// # Errors
/// When one of them cannot be bound.
pub(crate) fn bind(
    broker: &Arc<Broker>,
    config: &Config,
    addresses: Vec<SocketAddr>,
    tls_addresses: Vec<SocketAddr>,
    tls: Option<Arc<Tls>>,
) -> Result<Server, String> {
    let shutdown_grace = Duration::from_secs(config.shutdown.grace_secs);
    Server::bind(
        Arc::clone(broker),
        ServerConfig {
            listeners: addresses,
            tls_listeners: tls_addresses,
            tls,
            proxies: config.listeners.proxies.clone(),
            shutdown_grace,
        },
    )
    .map_err(|error| explain_listen(error.address, &error.source))
}

fn broker_config(config: &Config, tokens: Option<Arc<Tokens>>) -> BrokerConfig {
    let Store {
        data_dir,
        sync,
        sync_interval_ms,
        sync_batch_size,
        log_file_size,
    } = &config.store;
    BrokerConfig {
        data_dir: data_dir.clone(),
        sync: match sync {
            SyncMode::Fsync => mamba_store::SyncMode::Fsync,
            SyncMode::Interval => mamba_store::SyncMode::Interval {
                interval: Duration::from_millis(*sync_interval_ms),
                batch: *sync_batch_size,
            },
            SyncMode::Os => mamba_store::SyncMode::Os,
        },
        log_file_size: log_file_size.0,
        message_memory: usize::try_from(config.memory.messages.octets(process::memory_total()))
            .unwrap_or(usize::MAX),
        limits: config.limits.to_limits(),
        node_name: config.node.name.clone(),
        cluster_name: config.server_properties.cluster_name.clone(),
        product: config.server_properties.product.clone(),
        version: config.server_properties.version.clone(),
        user: (
            config.auth.default_user.clone(),
            config.auth.default_password.clone(),
        ),
        user_tags: config.auth.default_user_tags.clone(),
        default_vhost: config.auth.default_vhost.clone(),
        anonymous_user: Some(config.auth.anonymous_user.clone()).filter(|user| !user.is_empty()),
        loopback_users: config.auth.loopback_users.clone(),
        event_vhost: config.events.enabled.then(|| config.events.vhost.clone()),
        seed_new_node: config.node.load_definitions.as_os_str().is_empty(),
        tokens,
    }
}

/// What operators' commands ask of the process.
pub(crate) struct Process {
    pub(crate) listeners: Vec<Listener>,
    pub(crate) set_log_level: SetLogLevel,
    pub(crate) thresholds: Arc<Thresholds>,
}

impl control::Process for Process {
    fn listeners(&self) -> Vec<(&'static str, SocketAddr)> {
        let listeners = self.listeners.iter();
        listeners
            .map(|listener| (listener.protocol, listener.address))
            .collect()
    }

    fn set_log_level(&self, level: &str) -> Result<(), String> {
        (self.set_log_level)(level)
    }

    fn set_threshold(&self, of: control::Threshold, value: &Value) -> Result<(), String> {
        let threshold = config::value::Threshold::deserialize(value)
            .map_err(|error| format!("{value} is no threshold: {error}"))?;
        match of {
            control::Threshold::Memory => self.thresholds.set_memory(threshold),
            control::Threshold::DiskFree => self.thresholds.set_disk_free(threshold),
        }
        Ok(())
    }
}

/// What the management API says about this node.
pub(crate) fn managed(
    config: &Config,
    identity: &Identity,
    listeners: Vec<Listener>,
    tls: Option<Arc<Tls>>,
    thresholds: Arc<Thresholds>,
    commands: Arc<Commands>,
    started: Instant,
) -> mamba_management::Node {
    let data_dir = config.store.data_dir.clone();
    let folder = data_dir.clone();
    mamba_management::Node {
        name: identity.node.clone(),
        version: identity.version.clone(),
        product: identity.product.clone(),
        cluster_name: identity.cluster.clone(),
        data_dir,
        listeners,
        processors: thread::available_parallelism().map_or(1, NonZero::get),
        started,
        readings: Box::new(move || {
            let readings = Readings::take(&folder);
            mamba_management::Readings {
                open_fds: readings.open_fds,
                max_fds: readings.max_fds,
                resident_bytes: readings.resident_bytes,
                resident_file_bytes: readings.resident_file_bytes,
                disk_free_bytes: readings.disk_free_bytes,
                memory_limit_bytes: thresholds.memory_bytes(),
                disk_free_limit_bytes: thresholds.disk_free_bytes(),
            }
        }),
        control: Box::new(move |name, peer, command, arguments| {
            let caller = Caller::User { name, peer };
            let outcome = commands.perform(&caller, command, arguments);
            outcome.map_err(|Refusal { code, message }| CommandRefused { code, message })
        }),
        certificates: Box::new(move || {
            let expiries = tls.as_ref().map(|tls| tls.expiries());
            let files = expiries.iter().flat_map(|expiries| expiries.iter());
            let file = |expiry: &mamba_server::tls::Expiry| CertificateFile {
                path: expiry.path.clone(),
                of_authorities: expiry.of == Holder::Authorities,
                not_after: expiry.not_after.clone(),
            };
            files.map(file).collect()
        }),
    }
}

fn report(report: &RecoveryReport) {
    tracing::info!(
        clean_stop = report.clean,
        messages = report.live,
        log_files = report.files,
        log_entries = report.entries,
        log_bytes = report.octets,
        "data folder read"
    );
    if report.torn_octets > 0 {
        tracing::info!(
            bytes = report.torn_octets,
            "an unfinished write at the end of the log was cut off; nothing in it was confirmed"
        );
    }
    if report.unknown_queue > 0 {
        tracing::debug!(
            messages = report.unknown_queue,
            "the log still held messages of queues that were deleted"
        );
    }
    for range in &report.quarantined {
        tracing::error!(
            from = range.start.0,
            to = range.end.0,
            "a part of the message log is damaged: the messages in it are lost; check the disk"
        );
    }
}

/// What an operator can do about an address that cannot be listened on.
pub(crate) fn explain_listen(address: SocketAddr, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program listens there; stop it, or choose another address with --listen, --management-listen or --metrics-listen"
        }
        io::ErrorKind::PermissionDenied => {
            "choose a port above 1023, or give the broker the right to use this one"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address; choose one it has, or *:PORT for all of them"
        }
        _ => "choose another address with --listen, --management-listen or --metrics-listen",
    };
    format!("cannot listen on {address}: {error}; {advice}")
}
