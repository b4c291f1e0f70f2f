//! Listening sockets and the loop that accepts.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use mamba_broker::Broker;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};

use crate::{Lifeline, clock::Clock, connection::Driver};

/// Connections the system may hold for us before we accept them.
const BACKLOG: i32 = 1024;
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    broker: Arc<Broker>,
    clock: Clock,
    lifeline: Lifeline,
) {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                failing = false;
                serve(stream, peer, &broker, clock, lifeline.clone());
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

fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    broker: &Arc<Broker>,
    clock: Clock,
    lifeline: Lifeline,
) {
    let local = stream
        .local_addr()
        .and_then(|local| stream.set_nodelay(true).map(|()| local));
    // Fails only when the peer is gone already.
    let Ok(local) = local else { return };
    let Some(connection) = broker.connect(peer, local, clock.now()) else {
        return;
    };
    tokio::spawn(async move {
        let Lifeline {
            alive,
            mut dropping,
        } = lifeline;
        tokio::select! {
            () = Driver::new(stream, connection, clock) => {}
            // An error means that the server is gone: end as well.
            _ = dropping.wait_for(|dropping| *dropping) => {}
        }
        drop(alive);
    });
}
