//! Connections, and one request's way from octets to a handler and back.
//!
//! Everything is bounded: connections, requests at work, octets of bodies held at a time, and the time a client may take to send a
//! header or a body, or to read an answer. Handlers block and run on threads of their own, a few at a time, so that the API never
//! takes a thread from message traffic.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{
    HeaderMap, Method, Response,
    body::{Body, Incoming},
    header::{AUTHORIZATION, CONTENT_LENGTH, HeaderName},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use mamba_broker::{Account, Broker, Now, audit, events::Acting};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    access,
    answer::{AnswerBody, Refusal, allowing, respond},
    control,
    query::Query,
    rates::{INTERVAL_MS, Rates},
    request::Request,
    routes::{self, Endpoint, Found},
    stall::StallLimit,
};

/// Connections served at a time; more wait in the system's queue.
const CONNECTIONS_MAX: usize = 1_024;
/// Requests at work at a time.
const REQUESTS_MAX: usize = 16;
/// Largest body, in octets, as the reference broker has it.
const BODY_BYTES_MAX: usize = 20_000_000;
/// KiB of bodies held at a time, over all requests.
const BODIES_KIB_MAX: usize = 65_536;
/// How long a client may take to send a header; an idle connection is closed after it, too.
const HEADER_TIME: Duration = Duration::from_secs(30);
/// How long a client may take to send a body.
const BODY_TIME: Duration = Duration::from_secs(60);
/// How long a client may leave an answer unread.
const STALL_TIME: Duration = Duration::from_secs(60);
/// How long a client may take for its TLS handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// Octets of a connection's buffer, and so of the longest header.
const BUFFER_BYTES: usize = 65_536;
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long answers may take when the node stops.
const STOP_TIME: Duration = Duration::from_secs(1);

/// What the API says about the node and cannot know itself.
pub struct Node {
    /// The node's name.
    pub name: String,
    /// Version told to clients.
    pub version: String,
    /// Product told to clients.
    pub product: String,
    /// The name of the cluster unless an operator has given another.
    pub cluster_name: String,
    /// Where everything durable lies.
    pub data_dir: PathBuf,
    /// Everything this node listens on.
    pub listeners: Vec<Listener>,
    /// Cores it may use.
    pub processors: usize,
    /// When the node was started.
    pub started: Instant,
    /// Reads what the operating system says.
    pub readings: Box<dyn Fn() -> Readings + Send + Sync>,
    /// The certificates in use, file by file; every TLS listener has them all.
    pub certificates: Box<dyn Fn() -> Vec<CertificateFile> + Send + Sync>,
    /// Does operators' commands.
    pub control: control::Perform,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What the operating system says about the process; 0 where it does not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Readings {
    /// Open file descriptors.
    pub open_fds: u64,
    /// Largest number of file descriptors.
    pub max_fds: u64,
    /// Resident memory, in octets.
    pub resident_bytes: u64,
    /// Of the resident memory, what stands for files: the program itself.
    pub resident_file_bytes: u64,
    /// Free disk space for the data folder, in octets.
    pub disk_free_bytes: u64,
    /// Memory alarm threshold, in octets.
    pub memory_limit_bytes: u64,
    /// Disk alarm threshold, in octets.
    pub disk_free_limit_bytes: u64,
}

/// A file with certificates.
#[derive(Clone, Debug)]
pub struct CertificateFile {
    /// Where it is.
    pub path: PathBuf,
    /// Whether they are of authorities that sign clients' certificates, and not the server's.
    pub of_authorities: bool,
    /// When each of them ends, in seconds since 1970.
    pub not_after: Vec<i64>,
}

/// Something the node listens on.
#[derive(Clone, Debug)]
pub struct Listener {
    /// `amqp`, `amqp/ssl`, `http`, `https`, `http/prometheus`.
    pub protocol: &'static str,
    /// Where.
    pub address: SocketAddr,
}

/// What all requests share.
pub(crate) struct Management {
    pub(crate) broker: Arc<Broker>,
    pub(crate) node: Node,
    pub(crate) rates: Rates,
    pub(crate) logins: Logins,
}

/// Logins over HTTP.
#[derive(Debug, Default)]
pub(crate) struct Logins {
    pub(crate) succeeded: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// Does handshakes with the certificates of the moment.
pub type Handshakes = Box<dyn Fn() -> TlsAcceptor + Send + Sync>;

/// The bound sockets.
#[derive(Default)]
pub struct Listening {
    plain: Option<TcpListener>,
    secured: Option<(TcpListener, Handshakes)>,
}

impl std::fmt::Debug for Listening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listening")
            .field("plain", &self.plain)
            .finish_non_exhaustive()
    }
}

/// What bounds the work.
struct Bounds {
    connections: Arc<Semaphore>,
    requests: Semaphore,
    bodies_kib: Arc<Semaphore>,
}

impl Listening {
    /// Listens for HTTP on the first of these addresses that can be bound. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// What the system said about the last one.
    pub async fn bind(&mut self, addresses: &[SocketAddr]) -> io::Result<()> {
        self.plain = Some(TcpListener::bind(addresses).await?);
        Ok(())
    }

    /// The same for HTTPS.
    ///
    /// # Errors
    /// What the system said about the last address.
    pub async fn bind_secured(
        &mut self,
        addresses: &[SocketAddr],
        handshakes: Handshakes,
    ) -> io::Result<()> {
        self.secured = Some((TcpListener::bind(addresses).await?, handshakes));
        Ok(())
    }

    /// Where it listens for HTTP.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.plain.as_ref()?.local_addr().ok()
    }

    /// Where it listens for HTTPS.
    #[must_use]
    pub fn secured_address(&self) -> Option<SocketAddr> {
        self.secured.as_ref()?.0.local_addr().ok()
    }

    /// The next connection, with what does its handshake.
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr, Option<TlsAcceptor>)> {
        let plain = async {
            match &self.plain {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        let secured = async {
            match &self.secured {
                Some((listener, _)) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = plain => accepted.map(|(stream, peer)| (stream, peer, None)),
            accepted = secured => accepted.map(|(stream, peer)| {
                let acceptor = self.secured.as_ref().map(|(_, handshakes)| handshakes());
                (stream, peer, acceptor)
            }),
        }
    }

    /// Answers until `stop` becomes true.
    pub async fn run(self, broker: Arc<Broker>, node: Node, mut stop: watch::Receiver<bool>) {
        let management = Arc::new(Management {
            broker,
            node,
            rates: Rates::default(),
            logins: Logins::default(),
        });
        let bounds = Arc::new(Bounds {
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            requests: Semaphore::new(REQUESTS_MAX),
            bodies_kib: Arc::new(Semaphore::new(BODIES_KIB_MAX)),
        });
        let sampling = tokio::spawn(sample(Arc::clone(&management)));
        let mut serving = JoinSet::new();
        let stopping = stop.clone();
        let accepting = async {
            loop {
                // Before the accept: whoever is too many waits in the system's queue, not in our memory.
                let Ok(place) = Arc::clone(&bounds.connections).acquire_owned().await else {
                    return;
                };
                match self.accept().await {
                    Ok((stream, peer, acceptor)) => {
                        let (management, bounds) = (Arc::clone(&management), Arc::clone(&bounds));
                        let stopping = stopping.clone();
                        serving.spawn(async move {
                            let _place = place;
                            serve(stream, peer, acceptor, management, bounds, stopping).await;
                        });
                    }
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                }
                while serving.try_join_next().is_some() {}
            }
        };
        tokio::select! {
            () = accepting => {}
            // An error means that nobody can ask any more: stop as well.
            _ = stop.wait_for(|stop| *stop) => {}
        }
        sampling.abort();
        let ended = async { while serving.join_next().await.is_some() {} };
        let _ = timeout(STOP_TIME, ended).await;
    }
}

/// Keeps samples of the node and its virtual hosts ready for whoever asks first.
async fn sample(management: Arc<Management>) {
    let mut ticks = interval(Duration::from_millis(INTERVAL_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let management = Arc::clone(&management);
        let sampling = move || {
            let now_ms = now().unix_ms;
            crate::overview::sample(&management, now_ms);
            crate::vhosts::sample(&management, now_ms);
            management.rates.tidy(now_ms);
        };
        // It walks all queues.
        let _ = tokio::task::spawn_blocking(sampling).await;
    }
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    management: Arc<Management>,
    bounds: Arc<Bounds>,
    stop: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = acceptor else {
        return converse(stream, peer, management, bounds, stop).await;
    };
    match timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => converse(stream, peer, management, bounds, stop).await,
        Ok(Err(error)) => {
            tracing::info!(%peer, %error, "management connection refused in its TLS handshake");
        }
        Err(_) => {
            tracing::info!(%peer, "management connection refused: its TLS handshake took too long");
        }
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: SocketAddr,
    management: Arc<Management>,
    bounds: Arc<Bounds>,
    mut stop: watch::Receiver<bool>,
) {
    let service = service_fn(move |request| {
        let (management, bounds) = (Arc::clone(&management), Arc::clone(&bounds));
        async move { Ok::<_, Infallible>(answer(request, peer, &management, &bounds).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        // Who has said all it wants to say may still wait for the answer.
        .half_close(true)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(StallLimit::new(stream, STALL_TIME)), service);
    let mut connection = std::pin::pin!(connection);
    let stopped = async { drop(stop.wait_for(|stop| *stop).await) };
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        () = stopped => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "management connection ended");
    }
}

/// The time.
pub(crate) fn now() -> Now {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Now {
        instant: Instant::now(),
        unix_ms: since.map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        }),
    }
}

async fn answer(
    request: hyper::Request<Incoming>,
    peer: SocketAddr,
    management: &Arc<Management>,
    bounds: &Bounds,
) -> Response<AnswerBody> {
    let (head, body) = request.into_parts();
    let query = Query::parse(head.uri.query().unwrap_or_default());
    let (endpoint, names) = match routes::find(head.uri.path(), &head.method) {
        Found::Endpoint(endpoint, names) => (endpoint, names),
        Found::Options(methods) => return allowing(200, &methods),
        Found::OtherMethod(methods) => return allowing(405, &methods),
        Found::Moved(location) => return crate::answer::moved(location),
        Found::Nothing => return respond(Err(Refusal::missing()), &query),
    };
    let changes = !matches!(head.method, Method::GET | Method::HEAD);
    let account = match identify(&head, peer, management, endpoint).await {
        Ok(account) => account,
        Err(refusal) => return respond(Err(refusal), &query),
    };
    let user = Arc::clone(&account.user);
    // Its handler says more in the audit log than could be said here.
    let mut noted = endpoint.path == control::PATH;
    let response = match prepare(&head, body, management, bounds, endpoint, &account, &names).await
    {
        Ok((body, held)) => {
            let reason = head.headers.get(HeaderName::from_static("x-reason"));
            let reason = reason.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            // Closed only with the process.
            let place = bounds.requests.acquire().await;
            let management = Arc::clone(management);
            let work = move || {
                let _acting = Acting::as_user(&account.user.name);
                let request = Request {
                    management: &management,
                    account,
                    names,
                    query: &query,
                    body,
                    reason,
                    peer,
                    now: now(),
                };
                let outcome = (endpoint.handler)(&request);
                drop(held);
                respond(outcome, &query)
            };
            let response = tokio::task::spawn_blocking(work).await;
            drop(place);
            response.unwrap_or_else(|_| {
                let text = "the request failed by a defect of the broker; its log has more";
                respond(Err(Refusal::internal(text)), &Query::default())
            })
        }
        Err(refusal) => {
            noted = false;
            respond(Err(refusal), &query)
        }
    };
    if changes && !noted {
        let (method, path) = (&head.method, head.uri.path());
        let status = response.status().as_u16();
        let result = if status < 400 { "ok" } else { "refused" };
        tracing::info!(target: audit::TARGET, user = %user.name, %peer, %method, path, status, result, "management request");
    }
    response
}

/// Who asks.
async fn identify(
    head: &hyper::http::request::Parts,
    peer: SocketAddr,
    management: &Management,
    endpoint: &Endpoint,
) -> Result<Account, Refusal> {
    if endpoint.access == access::Access::Anybody {
        return Ok(Account::internal(routes::nobody()));
    }
    let header = head.headers.get(AUTHORIZATION);
    let outcome = access::authenticate(&management.broker, header, peer.ip(), now().unix_ms).await;
    if header.is_some() {
        management.logins.count(outcome.is_ok());
    }
    outcome
}

/// Everything else before the handler: whether it may, and the body.
async fn prepare(
    head: &hyper::http::request::Parts,
    body: Incoming,
    management: &Management,
    bounds: &Bounds,
    endpoint: &Endpoint,
    account: &Account,
    names: &[(&'static str, String)],
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Refusal> {
    if endpoint.access != access::Access::Anybody {
        let vhost = names.iter().find(|(name, _)| *name == "vhost");
        let vhost = vhost.map(|(_, value)| value.as_str());
        access::check(&management.broker, account, endpoint.access, vhost)?;
    }
    if matches!(head.method, Method::GET | Method::HEAD) {
        return Ok((Bytes::new(), None));
    }
    read_body(&head.headers, body, bounds).await
}

impl Logins {
    fn count(&self, succeeded: bool) {
        let counter = if succeeded {
            &self.succeeded
        } else {
            &self.failed
        };
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Reads a body once there is room for all it may become.
async fn read_body(
    headers: &HeaderMap,
    mut body: Incoming,
    bounds: &Bounds,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Refusal> {
    if body.is_end_stream() {
        return Ok((Bytes::new(), None));
    }
    let too_large = || Refusal::bad("Exceeded HTTP request body size limit");
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let most = announced.unwrap_or(BODY_BYTES_MAX);
    if most > BODY_BYTES_MAX {
        return Err(too_large());
    }
    let reading = async {
        let kib = u32::try_from(most.div_ceil(1024).max(1)).unwrap_or(u32::MAX);
        let held = Arc::clone(&bounds.bodies_kib).acquire_many_owned(kib).await;
        let mut octets = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Refusal::bad("the body ended early"))?;
            if let Ok(data) = frame.into_data() {
                if octets.len() + data.len() > most {
                    return Err(too_large());
                }
                octets.extend_from_slice(&data);
            }
        }
        Ok((octets.freeze(), held.ok()))
    };
    timeout(BODY_TIME, reading)
        .await
        .unwrap_or_else(|_| Err(Refusal::new(408, "timeout", "the body took too long")))
}
