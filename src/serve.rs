//! The life of a broker process.
//!
//! ```text
//! lock data folder -> recover -> load definitions -> bind -> announce -> serve -> (signal, closed stdin) -> close connections -> flush -> exit 0
//! ```

use std::{
    io::{self, Read},
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    thread,
    time::Duration,
};

use mamba_broker::Broker;
use mamba_broker::oauth::Tokens;
use mamba_management::{Listener, Listening};
use mamba_server::{
    control::{Commands, Control},
    oauth::{KeyFileError, keep_keys},
    tls::{Tls, TlsError},
};
use mamba_store::OpenError;
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{
    EXIT_FAILURE, alarms,
    alarms::Thresholds,
    audit::AuditFile,
    complain,
    config::{
        Config, LogFormat, Oauth2,
        value::{ListenAddress, OptionalListen},
    },
    logging::{self, Logger},
    metrics::{self, Identity, http::Endpoint},
    node, process, supervisor,
};

/// Protocols of listeners, as the management API names them.
const AMQP: &str = "amqp";
const AMQPS: &str = "amqp/ssl";
const HTTP: &str = "http";
const HTTPS: &str = "https";
const PROMETHEUS: &str = "http/prometheus";

/// What the server may take beyond the grace period before it is given up.
const GRACE_MARGIN: Duration = Duration::from_secs(5);

/// Runs the broker until it is asked to stop.
pub(crate) fn serve(config: &Config, stop_with_stdin: bool) -> ExitCode {
    let logger = match logging::start(&config.logging) {
        Ok(logger) => logger,
        Err(error) => {
            let path = config.logging.audit_file.display();
            complain(&format!(
                "cannot open the audit log {path}: {error}; the broker's user needs write permission there, see logging.audit_file"
            ));
            return ExitCode::from(EXIT_FAILURE);
        }
    };
    let fds = process::raise_fd_limit();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = config.node.name,
        data_dir = %config.store.data_dir.display(),
        log_level = config.logging.level,
        file_descriptors = fds,
        pid = std::process::id(),
        "MambaMQ starts"
    );
    let mut builder = runtime::Builder::new_multi_thread();
    if config.node.worker_threads > 0 {
        builder.worker_threads(config.node.worker_threads);
    }
    let result = builder
        .enable_all()
        .thread_name("mamba-worker")
        .build()
        .map_err(StartError::System)
        .and_then(|runtime| {
            let result = runtime.block_on(run(config, stop_with_stdin, logger));
            // What still runs had its time; nothing it could do would reach a client or the disk.
            runtime.shutdown_timeout(Duration::from_secs(1));
            result
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match config.logging.format {
                LogFormat::Text => complain(&error.to_string()),
                LogFormat::Json => tracing::error!("{error}"),
            }
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

/// Why the broker could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(
        "cannot write the lock file in the data folder: {0}; the broker's user needs write permission there"
    )]
    Announce(io::Error),
    #[error("node.load_definitions: {0}")]
    Definitions(String),
    #[error("{0}")]
    Address(String),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    #[error(
        "the operating system refused threads or signals: {0}; raise the limits of the broker's user"
    )]
    System(io::Error),
    #[error("the server ended by itself, which is a defect of the broker; the log has more")]
    ServerEnded,
    #[error(
        "not everything could be written to disk at the end, the log says why; what was confirmed is safe"
    )]
    NotFlushed,
}

/// Tells tools that read the lock file where clients can connect.
fn announce(broker: &Broker, listeners: &[Listener]) -> io::Result<()> {
    // AMQP last: who sees an amqp line may rely on all of them.
    let (amqp, pages): (Vec<_>, Vec<_>) = listeners
        .iter()
        .partition(|listener| listener.protocol == AMQP);
    let lines = pages.into_iter().chain(amqp).map(|listener| {
        let name = match listener.protocol {
            AMQPS => "amqps",
            HTTP => "management",
            HTTPS => "management_tls",
            PROMETHEUS => "metrics",
            other => other,
        };
        (name, listener.address.to_string())
    });
    let lines: Vec<_> = lines.collect();
    let lines: Vec<_> = lines
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    broker.store().lock().publish(&lines)
}

async fn run(config: &Config, stop_with_stdin: bool, logger: Logger) -> Result<(), StartError> {
    let started = Instant::now();
    let tls = config
        .tls
        .to_config()
        .map(Tls::load)
        .transpose()?
        .map(Arc::new);
    let tokens = config.oauth2.tokens()?.map(Arc::new);
    let reloaded = Reloaded {
        tls: tls.clone(),
        tokens: tokens.clone().map(|tokens| (tokens, config.oauth2.clone())),
        audit: logger.audit,
    };
    let mut requests = StopRequests::new(stop_with_stdin, reloaded).map_err(StartError::System)?;
    let broker = node::open(config, tokens.clone())?;
    node::load_definitions(&broker, config).map_err(StartError::Definitions)?;

    let addresses = resolve_all(&config.listeners.amqp)?;
    let tls_addresses = resolve_all(&config.listeners.amqps)?;
    let server = node::bind(&broker, config, addresses, tls_addresses, tls.clone())
        .map_err(StartError::Address)?;
    let management = bind_management(config, tls.as_ref()).await?;
    let endpoint = bind_metrics(config).await?;
    let (http_address, https_address) = (management.local_address(), management.secured_address());
    let metrics_address = endpoint.as_ref().and_then(|it| it.local_address().ok());
    let (amqp, amqps) = (server.local_addresses(), server.tls_addresses());
    let pages = [
        (HTTP, http_address),
        (HTTPS, https_address),
        (PROMETHEUS, metrics_address),
    ];
    let listeners: Vec<Listener> = amqp
        .iter()
        .map(|address| (AMQP, Some(*address)))
        .chain(amqps.iter().map(|address| (AMQPS, Some(*address))))
        .chain(pages)
        .filter_map(|(protocol, address)| {
            Some(Listener {
                protocol,
                address: address?,
            })
        })
        .collect();

    let thresholds = Arc::new(Thresholds::new(&config.alarms));
    let identity = Identity {
        node: config.node.name.clone(),
        cluster: config.server_properties.cluster_name.clone(),
        product: config.server_properties.product.clone(),
        version: config.server_properties.version.clone(),
    };
    let (stop, stopping) = watch::channel(false);
    let alarms = tokio::spawn(alarms::watch(
        Arc::clone(&broker),
        Arc::clone(&thresholds),
        config.store.data_dir.clone(),
    ));
    let process = node::Process {
        listeners: listeners.clone(),
        set_log_level: logger.set_level,
        thresholds: Arc::clone(&thresholds),
    };
    let commands = Arc::new(Commands::new(Arc::clone(&broker), Box::new(process)));
    let managed = http_address.or(https_address).is_some();
    let management_task = managed.then(|| {
        let node = node::managed(
            config,
            &identity,
            listeners.clone(),
            tls,
            Arc::clone(&thresholds),
            Arc::clone(&commands),
            started.into_std(),
        );
        tokio::spawn(management.run(Arc::clone(&broker), node, stopping.clone()))
    });
    if let (Some(tokens), Some(source)) = (tokens, config.oauth2.source()) {
        tokio::spawn(keep_keys(tokens, source, stopping.clone()));
    }
    let metrics_task = endpoint.map(|endpoint| {
        let folder = config.store.data_dir.clone();
        let source =
            metrics::Source::new(Arc::clone(&broker), identity, thresholds, folder, started);
        let write = move |wanted: &_, page: &mut _| source.write(wanted, page);
        tokio::spawn(endpoint.run(Arc::new(write), stopping.clone()))
    });
    let control_task =
        bind_control(config).map(|control| tokio::spawn(control.run(commands, stopping.clone())));
    let mut serving = tokio::spawn(server.run(stopping));

    for address in &amqp {
        tracing::info!(%address, "AMQP listener ready");
    }
    for address in &amqps {
        tracing::info!(%address, "AMQP listener with TLS ready");
    }
    if let Some(address) = http_address {
        tracing::info!(%address, "management API ready below /api");
    }
    if let Some(address) = https_address {
        tracing::info!(%address, "management API with TLS ready below /api");
    }
    if let Some(address) = metrics_address {
        tracing::info!(%address, "metrics ready at /metrics");
    }
    announce(&broker, &listeners).map_err(StartError::Announce)?;
    tracing::info!(after_ms = millis(started.elapsed()), "ready for clients");
    supervisor::ready();

    let reason = tokio::select! {
        reason = requests.next() => reason,
        _ = &mut serving => return Err(StartError::ServerEnded),
    };
    let connections = broker.snapshot().connections;
    tracing::info!(
        reason,
        connections,
        "stopping: closing listeners and connections; a second signal stops at once"
    );
    supervisor::stopping();
    tokio::spawn(stop_at_once(requests));
    // Both tasks are still there to be told: they end only afterwards.
    let _ = stop.send(true);
    let drain_started = Instant::now();
    drain(
        &mut serving,
        [management_task, metrics_task],
        Duration::from_secs(config.shutdown.grace_secs),
    )
    .await;
    alarms.abort();
    if let Some(task) = control_task {
        // A tool that is being answered must not hold up the stop.
        let _ = timeout(Duration::from_secs(1), task).await;
    }
    tracing::info!(
        connections,
        after_ms = millis(drain_started.elapsed()),
        "connections closed"
    );
    let flush_started = Instant::now();
    let folder = Arc::clone(&broker);
    let flushed = tokio::task::spawn_blocking(move || broker.stop())
        .await
        .unwrap_or(false);
    folder
        .store()
        .lock()
        .publish(&[])
        .map_err(StartError::Announce)?;
    if !flushed {
        return Err(StartError::NotFlushed);
    }
    tracing::info!(
        after_ms = millis(flush_started.elapsed()),
        "data flushed, MambaMQ stopped"
    );
    Ok(())
}

fn resolve_all(listen: &[ListenAddress]) -> Result<Vec<SocketAddr>, StartError> {
    let mut addresses = Vec::new();
    for listen in listen {
        addresses.extend(listen.resolve().map_err(StartError::Address)?);
    }
    Ok(addresses)
}

/// The broker serves clients without it as well.
fn bind_control(config: &Config) -> Option<Control> {
    let folder = &config.store.data_dir;
    Control::bind(folder)
        .inspect_err(|error| {
            tracing::warn!(
                %error,
                data_dir = %folder.display(),
                "no control socket in the data folder: tools such as mambamq backup cannot reach this node while it runs"
            );
        })
        .ok()
}

async fn bind_management(config: &Config, tls: Option<&Arc<Tls>>) -> Result<Listening, StartError> {
    let mut listening = Listening::default();
    if let Some(addresses) = page_addresses(&config.management.listen)? {
        let bound = listening.bind(&addresses).await;
        bound.map_err(|error| unbound(&addresses, &error))?;
    }
    let addresses = page_addresses(&config.management.tls_listen)?;
    if let (Some(addresses), Some(tls)) = (addresses, tls.cloned()) {
        let handshakes = Box::new(move || tls.acceptor());
        let bound = listening.bind_secured(&addresses, handshakes).await;
        bound.map_err(|error| unbound(&addresses, &error))?;
    }
    Ok(listening)
}

async fn bind_metrics(config: &Config) -> Result<Option<Endpoint>, StartError> {
    let Some(addresses) = page_addresses(&config.metrics.listen)? else {
        return Ok(None);
    };
    let bound = Endpoint::bind(&addresses).await;
    bound.map(Some).map_err(|error| unbound(&addresses, &error))
}

fn page_addresses(listen: &OptionalListen) -> Result<Option<Vec<SocketAddr>>, StartError> {
    let OptionalListen::On(listen) = listen else {
        return Ok(None);
    };
    listen.resolve().map(Some).map_err(StartError::Address)
}

fn unbound(addresses: &[SocketAddr], error: &io::Error) -> StartError {
    let asked = addresses.first().map_or_else(
        || "no address to listen on".to_owned(),
        |address| node::explain_listen(*address, error),
    );
    StartError::Address(asked)
}

async fn drain(serving: &mut JoinHandle<()>, pages: [Option<JoinHandle<()>>; 2], grace: Duration) {
    match timeout(grace + GRACE_MARGIN, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => tracing::error!("the server failed while it closed connections"),
        Err(_) => tracing::warn!(
            grace_secs = grace.as_secs(),
            "some connections did not close in time and are dropped"
        ),
    }
    for task in pages.into_iter().flatten() {
        // A client that does not read its page must not hold up the stop.
        let _ = timeout(Duration::from_secs(1), task).await;
    }
}

/// Everything that may ask the broker to stop.
struct StopRequests {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    stdin_closed: Option<oneshot::Receiver<()>>,
    reloaded: Reloaded,
}

/// What is read or opened again at a SIGHUP.
struct Reloaded {
    tls: Option<Arc<Tls>>,
    tokens: Option<(Arc<Tokens>, Oauth2)>,
    audit: Option<Arc<AuditFile>>,
}

impl Reloaded {
    /// Does each; what cannot be had stays as it was.
    fn reload(&self) {
        supervisor::reloading();
        match self.tls.as_ref().map(|tls| tls.reload()) {
            None => tracing::warn!(
                "SIGHUP: no certificates to read again; other changes of the configuration need a restart"
            ),
            Some(Ok(())) => tracing::info!(
                "SIGHUP: certificates read again, for connections to come; other changes of the configuration need a restart"
            ),
            Some(Err(error)) => tracing::error!("SIGHUP: certificates stay as they were: {error}"),
        }
        if let Some((tokens, config)) = &self.tokens {
            match config.file_keys() {
                Ok(keys) => {
                    tracing::info!(keys = keys.len(), "SIGHUP: keys for tokens read again");
                    tokens.reload(keys);
                }
                Err(error) => {
                    tracing::error!("SIGHUP: keys for tokens stay as they were: {error}");
                }
            }
        }
        if let Some(Err(error)) = self.audit.as_ref().map(|audit| audit.reopen()) {
            tracing::error!(%error, "SIGHUP: the audit log cannot be opened again and stays as it was");
        }
        supervisor::ready();
    }
}

impl StopRequests {
    fn new(stop_with_stdin: bool, reloaded: Reloaded) -> io::Result<Self> {
        let stdin_closed = if stop_with_stdin {
            Some(stdin_end()?)
        } else {
            None
        };
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            stdin_closed,
            reloaded,
        })
    }

    /// Waits for the next request; says what it was.
    async fn next(&mut self) -> &'static str {
        loop {
            let stdin = async {
                match &mut self.stdin_closed {
                    Some(closed) => closed.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = stdin => {
                    self.stdin_closed = None;
                    return "standard input closed";
                }
                _ = self.hangup.recv() => self.reloaded.reload(),
            }
        }
    }
}

/// Ends the process at the second signal.
async fn stop_at_once(mut requests: StopRequests) {
    requests.stdin_closed = None;
    let reason = requests.next().await;
    tracing::warn!(
        reason,
        "stopped at once, as asked twice; the next start recovers from the log"
    );
    std::process::exit(i32::from(EXIT_FAILURE));
}

/// Resolves when standard input ends.
fn stdin_end() -> io::Result<oneshot::Receiver<()>> {
    let (closed, receiver) = oneshot::channel();
    // A thread of its own: a blocked read on the runtime's threads would hold up the end of the process.
    thread::Builder::new()
        .name("mamba-stdin".to_owned())
        .spawn(move || {
            let mut buffer = [0; 256];
            while matches!(io::stdin().read(&mut buffer), Ok(1..)) {}
            let _ = closed.send(());
        })?;
    Ok(receiver)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
