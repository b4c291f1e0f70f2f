//! Listening sockets and the loop that accepts.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use mamba_broker::Broker;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_rustls::server::TlsStream;

use crate::{Lifeline, clock::Clock, connection::Driver, proxy, tls::Tls};

/// Connections the system may hold for us before we accept them.
const BACKLOG: i32 = 1024;
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time a client has for its TLS handshake, and a proxy for its header (`spec: wire §14`).
const PREFACE_TIME: Duration = Duration::from_secs(5);
/// TLS handshakes and PROXY headers under way at the same time, per listener; more wait to be accepted.
const PREFACES_MAX: usize = 1024;

/// What comes before AMQP on a listener's connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Preface {
    /// TLS; `None`: AMQP begins at once.
    pub(crate) tls: Option<Arc<Tls>>,
    /// From where connections begin with a PROXY header.
    pub(crate) proxies: Arc<[IpNet]>,
}

/// Binds one address. An IPv6 socket takes IPv6 only, so that both families can be bound side by side.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until the task is aborted.
pub(crate) async fn accept(
    listener: TcpListener,
    preface: Preface,
    broker: Arc<Broker>,
    clock: Clock,
    lifeline: Lifeline,
) {
    let prefaces = Arc::new(Semaphore::new(PREFACES_MAX));
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                failing = false;
                // Fails only when the peer is gone already.
                let Ok(local) = configure(&stream) else {
                    continue;
                };
                let begins_with_proxy = proxy::is_trusted(peer, &preface.proxies);
                if preface.tls.is_none() && !begins_with_proxy {
                    serve(stream, peer, local, &broker, clock, lifeline.clone());
                    continue;
                }
                let Ok(permit) = Arc::clone(&prefaces).acquire_owned().await else {
                    return;
                };
                let (broker, preface) = (Arc::clone(&broker), preface.clone());
                let lifeline = lifeline.clone();
                tokio::spawn(async move {
                    let begun = Begun {
                        stream,
                        peer,
                        local,
                        begins_with_proxy,
                    };
                    let served = timeout(PREFACE_TIME, begun.go_on(preface.tls)).await;
                    drop(permit);
                    match served {
                        Ok(Ok(ready)) => ready.serve(&broker, clock, lifeline).await,
                        Ok(Err(error)) => {
                            broker.count_refused_preface();
                            tracing::info!(%peer, %error, "connection refused before AMQP began");
                        }
                        Err(_) => {
                            broker.count_refused_preface();
                            tracing::info!(%peer, "connection refused: TLS handshake or PROXY header took too long");
                        }
                    }
                });
            }
            // The peer gave up before we got to it.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                if !failing {
                    tracing::error!(%error, "cannot accept connections: raise the limit of open files if it is reached; trying again");
                }
                failing = true;
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn configure(stream: &TcpStream) -> io::Result<SocketAddr> {
    stream.set_nodelay(true)?;
    stream.local_addr()
}

fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    broker: &Arc<Broker>,
    clock: Clock,
    lifeline: Lifeline,
) {
    let Some(connection) = broker.connect(peer, local, clock.now()) else {
        return;
    };
    tokio::spawn(drive(Driver::new(stream, connection, clock), lifeline));
}

/// Drives a connection to its end. Not an `async fn`: that would keep its arguments beside what it moves out of them, and each
/// connection twice.
fn drive<D: Future<Output = ()> + Unpin>(
    driver: D,
    lifeline: Lifeline,
) -> impl Future<Output = ()> {
    // Dropped in this order: who waits for the end may count on the connection being gone.
    let mut alive = Alive {
        driver,
        _alive: lifeline.alive,
    };
    let mut dropping = lifeline.dropping;
    async move {
        // All of it: of a struct, a block takes along only the fields that it names.
        let alive = &mut alive;
        tokio::select! {
            () = &mut alive.driver => {}
            // An error means that the server is gone: end as well.
            _ = dropping.wait_for(|dropping| *dropping) => {}
        }
    }
}

struct Alive<D> {
    driver: D,
    _alive: mpsc::Sender<()>,
}

/// A connection of which something else than AMQP is expected first.
struct Begun {
    stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    begins_with_proxy: bool,
}

/// A connection on which AMQP is to begin.
struct Ready {
    stream: Stream,
    peer: SocketAddr,
    local: SocketAddr,
}

enum Stream {
    Plain(TcpStream),
    Secured(Arc<Tls>, Box<TlsStream<TcpStream>>),
}

impl Begun {
    async fn go_on(mut self, tls: Option<Arc<Tls>>) -> io::Result<Ready> {
        if self.begins_with_proxy
            && let Some((client, reached)) = proxy::read_header(&mut self.stream).await?
        {
            (self.peer, self.local) = (client, reached);
        }
        let stream = match tls {
            None => Stream::Plain(self.stream),
            Some(tls) => {
                let secured = tls.acceptor().accept(self.stream).await?;
                Stream::Secured(tls, Box::new(secured))
            }
        };
        Ok(Ready {
            stream,
            peer: self.peer,
            local: self.local,
        })
    }
}

impl Ready {
    async fn serve(self, broker: &Arc<Broker>, clock: Clock, lifeline: Lifeline) {
        let now = clock.now();
        match self.stream {
            Stream::Plain(stream) => serve(stream, self.peer, self.local, broker, clock, lifeline),
            Stream::Secured(tls, stream) => {
                let facts = tls.facts(stream.get_ref().1);
                let connection = broker.connect_secured(self.peer, self.local, facts, now);
                if let Some(connection) = connection {
                    drive(Driver::new(stream, connection, clock), lifeline).await;
                }
            }
        }
    }
}
