//! One AMQP connection over a blocking socket: login, calls that wait for their answer, and the two primitives of the hot
//! loops, "send what the socket takes now" and "receive what is there".
//!
//! Writes never block (`MSG_DONTWAIT`), so that one thread can publish and take in confirms without the two sides waiting
//! for each other; reads block for at most [`READ_TIMEOUT_NS`], so that a thread sees in time that it should stop.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::clock::{MILLISECOND, SECOND, now_ns, timespec};
use crate::error::Error;
use crate::uri::Uri;
use crate::wire::{
    Cursor, FRAME_OVERHEAD, Frame, HEARTBEAT_FRAME, Inbound, PROTOCOL_HEADER, ShortStr, Value, id,
    method,
};

/// The channel that every connection uses.
pub(crate) const CHANNEL: u16 = 1;

/// The longest time a blocking read takes without data, in nanoseconds.
pub(crate) const READ_TIMEOUT_NS: u64 = 100 * MILLISECOND;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const HANDSHAKE_TIMEOUT_SECS: u64 = 15;
const CALL_TIMEOUT_SECS: u64 = 60;
const CLOSE_TIMEOUT_SECS: u64 = 5;
/// What we propose when the broker names no limit, in octets.
const FRAME_MAX_WISH: u32 = 131_072;
const FRAME_MIN_SIZE: u32 = 4096;
const HANDSHAKE_BUFFER_SIZE: usize = 16 * 1024;

/// What a connection asks for when it logs in.
#[derive(Clone, Debug)]
pub(crate) struct Wishes {
    /// Shown in the broker's list of connections.
    pub(crate) name: &'static str,
    /// Interval in seconds, 0 for none; the broker's own offer when absent.
    pub(crate) heartbeat_secs: Option<u16>,
    /// Octets to read at once after the login, raised to what the agreed frame size needs. Absent where nothing but
    /// answers to calls comes in, which are small.
    pub(crate) read_buffer_size: Option<usize>,
}

/// A connection that is logged in.
pub(crate) struct Transport {
    stream: TcpStream,
    /// Octets from the broker.
    pub(crate) inbound: Inbound,
    /// Control frames for the broker, which the socket did not take yet.
    pub(crate) outbound: Vec<u8>,
    /// Largest payload of a frame to send, in octets.
    pub(crate) payload_max: usize,
    /// Product, version and platform of the broker.
    pub(crate) server: String,
    heartbeat_ns: u64,
    /// Whether octets went out, or came in, since [`Self::keep_alive`] looked last.
    sent: bool,
    received: bool,
    last_sent_ns: u64,
    last_received_ns: u64,
}

impl Transport {
    /// Connects, logs in and opens the virtual host (2.2.4).
    pub(crate) fn open(uri: &Uri, wishes: &Wishes) -> Result<Self, Error> {
        let stream = connect(uri)?;
        let now = now_ns();
        let mut transport = Self {
            stream,
            inbound: Inbound::new(HANDSHAKE_BUFFER_SIZE),
            outbound: PROTOCOL_HEADER.to_vec(),
            payload_max: 0,
            server: String::new(),
            heartbeat_ns: 0,
            sent: false,
            received: false,
            last_sent_ns: now,
            last_received_ns: now,
        };
        transport.handshake(uri, wishes)?;
        Ok(transport)
    }

    /// Opens [`CHANNEL`].
    pub(crate) fn open_channel(&mut self) -> Result<(), Error> {
        self.open_channels(1)
    }

    /// Opens `count` channels, from [`CHANNEL`] on.
    pub(crate) fn open_channels(&mut self, count: u16) -> Result<(), Error> {
        let channels = CHANNEL..CHANNEL.saturating_add(count);
        for channel in channels.clone() {
            method(&mut self.outbound, channel, id::CHANNEL_OPEN, |fields| {
                fields.octet(0);
            });
        }
        for _ in channels {
            self.call("channel.open", id::CHANNEL_OPEN_OK)?;
        }
        Ok(())
    }

    /// Sends what [`Self::outbound`] holds and waits for the method `answer`, whose arguments it gives back.
    pub(crate) fn call(&mut self, what: &'static str, answer: u32) -> Result<Vec<u8>, Error> {
        self.call_any(what, &[answer], CALL_TIMEOUT_SECS)
            .map(|(_, arguments)| arguments)
    }

    /// Closes the connection in order, as far as that works.
    pub(crate) fn close(mut self) {
        let _ = self.close_and_wait();
    }

    /// Closes the connection and waits until the broker has taken in everything that was sent before.
    pub(crate) fn close_and_wait(&mut self) -> Result<(), Error> {
        self.outbound.extend_from_slice(&close_frame());
        self.call_any(
            "connection.close",
            &[id::CONNECTION_CLOSE_OK],
            CLOSE_TIMEOUT_SECS,
        )
        .map(drop)
    }

    /// Keeps nothing but the socket; also gives the heartbeat interval in nanoseconds, 0 for none.
    pub(crate) fn into_idle(self) -> (TcpStream, u64) {
        (self.stream, self.heartbeat_ns)
    }

    /// Hands octets to the socket; gives the number taken, 0 when its buffer is full.
    pub(crate) fn send(&mut self, octets: &[u8]) -> Result<usize, Error> {
        match send(
            &self.stream,
            octets,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        ) {
            Ok(count) => {
                self.sent = true;
                Ok(count)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(errno) => Err(self.reason_or(errno.into())),
        }
    }

    /// Sends what it can of the control frames; true when none is left.
    pub(crate) fn flush(&mut self) -> Result<bool, Error> {
        if self.outbound.is_empty() {
            return Ok(true);
        }
        let outbound = std::mem::take(&mut self.outbound);
        let sent = self.send(&outbound);
        self.outbound = outbound;
        let sent = sent?;
        if sent == self.outbound.len() {
            self.outbound.clear();
            Ok(true)
        } else {
            self.outbound.drain(..sent);
            Ok(false)
        }
    }

    /// Reads what is there, without waiting; gives the number of octets.
    pub(crate) fn receive(&mut self) -> Result<usize, Error> {
        self.receive_with(RecvFlags::DONTWAIT)
    }

    /// Waits for octets, at most `timeout_ns`, and reads them. Sends pending control frames meanwhile.
    pub(crate) fn receive_within(&mut self, timeout_ns: u64) -> Result<usize, Error> {
        let flushed = self.flush()?;
        if flushed && timeout_ns >= READ_TIMEOUT_NS {
            return self.receive_with(RecvFlags::empty());
        }
        let (readable, _) = self.wait(!flushed, timeout_ns.min(READ_TIMEOUT_NS))?;
        if readable { self.receive() } else { Ok(0) }
    }

    /// Waits until the socket has octets for us or, if `writable` is set, room for ours.
    pub(crate) fn wait(&self, writable: bool, timeout_ns: u64) -> Result<(bool, bool), Error> {
        let interest = if writable {
            PollFlags::IN | PollFlags::OUT
        } else {
            PollFlags::IN
        };
        let mut fds = [PollFd::new(&self.stream, interest)];
        match poll(&mut fds, Some(&timespec(timeout_ns))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = fds[0].revents();
        Ok((
            ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
            ready.contains(PollFlags::OUT),
        ))
    }

    /// Queues a heartbeat when the connection was idle, and reports a broker that fell silent (4.2.7).
    ///
    /// `between_frames` is false while a frame is sent in part, when nothing may come in between.
    pub(crate) fn keep_alive(&mut self, now: u64, between_frames: bool) -> Result<(), Error> {
        if self.heartbeat_ns == 0 {
            return Ok(());
        }
        if std::mem::take(&mut self.sent) {
            self.last_sent_ns = now;
        }
        if std::mem::take(&mut self.received) {
            self.last_received_ns = now;
        }
        if now.saturating_sub(self.last_received_ns) > 3 * self.heartbeat_ns {
            return Err(Error::Silent {
                secs: 3 * self.heartbeat_ns / SECOND,
            });
        }
        if between_frames
            && self.outbound.is_empty()
            && now.saturating_sub(self.last_sent_ns) > self.heartbeat_ns / 2
        {
            self.outbound.extend_from_slice(&HEARTBEAT_FRAME);
            self.flush()?;
        }
        Ok(())
    }

    /// Says that the caller reads nothing for a while on purpose: [`Self::keep_alive`] takes it as a sign of life.
    pub(crate) fn look_away(&mut self) {
        self.received = true;
    }

    fn handshake(&mut self, uri: &Uri, wishes: &Wishes) -> Result<(), Error> {
        let secs = HANDSHAKE_TIMEOUT_SECS;
        let start = match self.call_any("the protocol header", &[id::CONNECTION_START], secs) {
            Ok((_, start)) => start,
            Err(Error::Dropped | Error::Protocol(_)) => {
                return Err(Error::OtherProtocol {
                    address: uri.address(),
                    answer: "something else, or by closing the connection".to_owned(),
                });
            }
            Err(error) => return Err(error),
        };
        self.server = server_name(&start).unwrap_or_default();
        start_ok(&mut self.outbound, uri, wishes)?;
        let logged_in = self.call_any(
            "the login",
            &[id::CONNECTION_TUNE, id::CONNECTION_SECURE],
            secs,
        );
        let tune = match logged_in {
            Ok((id::CONNECTION_TUNE, tune)) => tune,
            Ok(_) => {
                return Err(Error::Protocol(
                    "it asked for a second login step, which PLAIN does not have".to_owned(),
                ));
            }
            Err(Error::Dropped) => {
                return Err(Error::LoginDropped {
                    address: uri.address(),
                    user: uri.user.clone(),
                });
            }
            Err(error) => return Err(error),
        };
        let mut tune = Cursor(&tune);
        let channel_max = tune.short()?;
        let frame_max = match tune.long()? {
            0 => FRAME_MAX_WISH,
            offered => offered.clamp(FRAME_MIN_SIZE, FRAME_MAX_WISH),
        };
        let offered_secs = tune.short()?;
        let heartbeat_secs = wishes.heartbeat_secs.unwrap_or(offered_secs);
        self.heartbeat_ns = u64::from(heartbeat_secs) * SECOND;
        let frame_max_size = usize::try_from(frame_max).unwrap_or(usize::MAX);
        self.payload_max = frame_max_size - FRAME_OVERHEAD;

        let vhost = ShortStr::new("the virtual host", &uri.vhost)?;
        let out = &mut self.outbound;
        method(out, 0, id::CONNECTION_TUNE_OK, |fields| {
            fields
                .short(channel_max)
                .long(frame_max)
                .short(heartbeat_secs);
        });
        method(out, 0, id::CONNECTION_OPEN, |fields| {
            fields.shortstr(&vhost).octet(0).octet(0);
        });
        self.call_any("connection.open", &[id::CONNECTION_OPEN_OK], secs)?;
        if let Some(size) = wishes.read_buffer_size {
            self.inbound
                .resize(size.max(frame_max_size + 2 * FRAME_OVERHEAD));
        }
        Ok(())
    }

    /// Sends what is pending and waits for one of `answers`.
    fn call_any(
        &mut self,
        what: &'static str,
        answers: &[u32],
        secs: u64,
    ) -> Result<(u32, Vec<u8>), Error> {
        let deadline = now_ns() + secs * SECOND;
        loop {
            if self.inbound.rest().starts_with(b"AMQP") {
                return Err(self.other_protocol());
            }
            while let Some(frame) = self.inbound.next_frame()? {
                match frame.as_method() {
                    Some((method, arguments)) if answers.contains(&method) => {
                        return Ok((method, arguments.to_vec()));
                    }
                    _ => refuse_close(&frame)?,
                }
            }
            if now_ns() > deadline {
                return Err(Error::Timeout { what, secs });
            }
            self.receive_within(READ_TIMEOUT_NS)?;
        }
    }

    fn receive_with(&mut self, flags: RecvFlags) -> Result<usize, Error> {
        let space = self.inbound.space();
        if space.is_empty() {
            return Err(Error::Protocol(
                "a frame does not fit into the read buffer".to_owned(),
            ));
        }
        match recv(&self.stream, space, flags) {
            Ok((0, _)) => Err(Error::Dropped),
            Ok((count, _)) => {
                self.inbound.filled(count);
                self.received = true;
                Ok(count)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(errno) => Err(errno.into()),
        }
    }

    /// After a failed write: the broker's own words, if they are already there.
    #[cold]
    fn reason_or(&mut self, error: Error) -> Error {
        for _ in 0..64 {
            loop {
                match self.inbound.next_frame() {
                    Ok(Some(frame)) => {
                        if let Err(reason) = refuse_close(&frame) {
                            return reason;
                        }
                    }
                    Ok(None) => break,
                    Err(_) => return error,
                }
            }
            if !matches!(self.receive(), Ok(count) if count > 0) {
                break;
            }
        }
        error
    }

    #[cold]
    fn other_protocol(&self) -> Error {
        let answer = match self.inbound.rest().get(..8) {
            Some(header) => format!(
                "the protocol header {:?}",
                header.escape_ascii().to_string()
            ),
            None => "a protocol header".to_owned(),
        };
        Error::OtherProtocol {
            address: self
                .stream
                .peer_addr()
                .map_or_else(|_| "the peer".to_owned(), |address| address.to_string()),
            answer,
        }
    }
}

/// Turns `connection.close` and `channel.close` into an error; lets everything else pass.
pub(crate) fn refuse_close(frame: &Frame<'_>) -> Result<(), Error> {
    let Some((method, arguments)) = frame.as_method() else {
        return Ok(());
    };
    let what = match method {
        id::CONNECTION_CLOSE => "connection",
        id::CHANNEL_CLOSE => "channel",
        _ => return Ok(()),
    };
    let mut arguments = Cursor(arguments);
    let code = arguments.short()?;
    let text = String::from_utf8_lossy(arguments.shortstr()?).into_owned();
    Err(Error::closed(what, code, text))
}

/// An orderly `connection.close`.
pub(crate) fn close_frame() -> Vec<u8> {
    let mut frame = Vec::new();
    method(&mut frame, 0, id::CONNECTION_CLOSE, |fields| {
        fields
            .short(200)
            .shortstr(&ShortStr::default())
            .short(0)
            .short(0);
    });
    frame
}

fn connect(uri: &Uri) -> Result<TcpStream, Error> {
    if uri.tls {
        let text = "TLS (amqps) is not supported by the load generator";
        return Err(Error::Options(text.to_owned()));
    }
    let failed = |source| Error::Connect {
        address: uri.address(),
        source,
    };
    let addresses = (uri.host.as_str(), uri.port)
        .to_socket_addrs()
        .map_err(failed)?;
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(failed)?;
                stream
                    .set_read_timeout(Some(Duration::from_nanos(READ_TIMEOUT_NS)))
                    .map_err(failed)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

fn start_ok(out: &mut Vec<u8>, uri: &Uri, wishes: &Wishes) -> Result<(), Error> {
    let name = |text| ShortStr::new("a client property", text);
    let text = |value: &str| Value::Text(value.to_owned());
    let capabilities = [
        "authentication_failure_close",
        "basic.nack",
        "connection.blocked",
        "consumer_cancel_notify",
        "publisher_confirms",
    ]
    .into_iter()
    .map(|key| Ok((name(key)?, Value::Bool(true))))
    .collect::<Result<Vec<_>, Error>>()?;
    let properties = [
        (name("product")?, text("mambamq perf")),
        (name("version")?, text(env!("CARGO_PKG_VERSION"))),
        (name("connection_name")?, text(wishes.name)),
        (name("capabilities")?, Value::Table(capabilities)),
    ];
    let mechanism = name("PLAIN")?;
    let locale = name("en_US")?;
    let response = format!("\0{}\0{}", uri.user, uri.password);
    method(out, 0, id::CONNECTION_START_OK, |fields| {
        fields
            .table(&properties)
            .shortstr(&mechanism)
            .longstr(response.as_bytes())
            .shortstr(&locale);
    });
    Ok(())
}

/// Product, version and platform out of the server properties of `connection.start`; strings only, which they are everywhere.
fn server_name(start: &[u8]) -> Result<String, Error> {
    let mut arguments = Cursor(start);
    arguments.short()?;
    let mut table = Cursor(arguments.longstr()?);
    let (mut product, mut version, mut platform) = (String::new(), String::new(), String::new());
    while !table.0.is_empty() {
        let name = table.shortstr()?;
        let value = match table.octet()? {
            b'S' | b'F' | b'x' | b'A' => table.longstr()?,
            b't' | b'b' | b'B' => table.take(1)?,
            b's' | b'u' => table.take(2)?,
            b'I' | b'i' | b'f' => table.take(4)?,
            b'D' => table.take(5)?,
            b'l' | b'L' | b'd' | b'T' => table.take(8)?,
            _ => &[],
        };
        match name {
            b"product" => product = String::from_utf8_lossy(value).into_owned(),
            b"version" => version = String::from_utf8_lossy(value).into_owned(),
            b"platform" => platform = format!("({})", String::from_utf8_lossy(value)),
            _ => {}
        }
    }
    let parts = [product, version, platform];
    let given: Vec<&str> = parts
        .iter()
        .map(String::as_str)
        .filter(|part| !part.is_empty())
        .collect();
    Ok(given.join(" "))
}
