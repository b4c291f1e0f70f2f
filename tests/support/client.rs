//! A plain synchronous AMQP client: one socket, frames in, frames out, nothing hidden.

use super::{broker, method::*};
use amq_protocol::{
    frame::{AMQPFrame, WriteContext, gen_frame, parse_frame},
    protocol::{AMQPClass, basic, channel, connection, queue},
    types::FieldTable,
};
use std::{
    cell::{RefCell, RefMut},
    collections::{BTreeMap, HashMap, VecDeque},
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    rc::Rc,
    time::{Duration, Instant},
};

/// How long to wait for something that must come before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The channel that [`Client::put`] publishes on.
const PUT_CHANNEL: u16 = 2000;

/// One frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) channel: u16,
    pub(crate) payload: Vec<u8>,
}

/// What a channel received.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "few of them exist at a time")]
pub(crate) enum Event {
    Method(AMQPClass),
    /// basic.deliver, basic.get-ok or basic.return with its content.
    Content(AMQPClass, BasicProperties, Vec<u8>),
}

/// A delivered or fetched message.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    /// Empty for basic.get.
    pub(crate) consumer: String,
    pub(crate) tag: u64,
    pub(crate) redelivered: bool,
    pub(crate) exchange: String,
    pub(crate) key: String,
    /// Ready messages left (basic.get only).
    pub(crate) left: u32,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Vec<u8>,
}

impl Content {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, key: &str) -> Option<Value> {
        self.properties
            .headers()
            .as_ref()?
            .inner()
            .get(key)
            .cloned()
    }
}

/// How to connect.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) address: Option<SocketAddr>,
    pub(crate) user: &'static str,
    pub(crate) password: &'static str,
    pub(crate) virtual_host: &'static str,
    pub(crate) channel_max: u16,
    pub(crate) frame_max: u32,
    pub(crate) heartbeat: u16,
    /// Client capabilities announced as true.
    pub(crate) capabilities: &'static [&'static str],
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: None,
            user: "guest",
            password: "guest",
            virtual_host: "/",
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 0,
            capabilities: &[
                "authentication_failure_close",
                "basic.nack",
                "connection.blocked",
                "consumer_cancel_notify",
                "publisher_confirms",
            ],
        }
    }
}

impl Options {
    pub(crate) fn client_properties(&self) -> FieldTable {
        let mut capabilities = FieldTable::default();
        for capability in self.capabilities {
            capabilities.insert((*capability).into(), boolean(true));
        }
        table([
            ("product", text("conformance")),
            ("capabilities", Value::FieldTable(capabilities)),
        ])
    }

    pub(crate) fn plain_response(&self) -> Vec<u8> {
        format!("\0{}\0{}", self.user, self.password).into_bytes()
    }
}

/// The response of AMQPLAIN: keys, the tags of their values' types, values.
pub(crate) fn amqplain(entries: &[(&str, u8, &str)]) -> Vec<u8> {
    let mut response = Vec::new();
    for (key, tag, value) in entries {
        response.push(u8::try_from(key.len()).unwrap());
        response.extend(key.bytes());
        response.push(*tag);
        response.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        response.extend(value.bytes());
    }
    response
}

/// A frame's bytes.
pub(crate) fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(channel.to_be_bytes());
    bytes.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend(payload);
    bytes.push(0xCE);
    bytes
}

/// A method frame's bytes.
pub(crate) fn method_frame(channel: u16, method: &AMQPClass) -> Vec<u8> {
    encode(&AMQPFrame::Method(channel, method.clone()))
}

/// A content's header frame and body frames, none of them larger than `frame_max`.
pub(crate) fn content_frames(
    channel: u16,
    properties: &BasicProperties,
    body: &[u8],
    frame_max: u32,
) -> Vec<u8> {
    let header = amq_protocol::frame::AMQPContentHeader {
        class_id: 60,
        body_size: u64::try_from(body.len()).unwrap(),
        properties: properties.clone(),
    };
    let mut bytes = encode(&AMQPFrame::Header(channel, header));
    for chunk in body.chunks(usize::try_from(frame_max).unwrap() - 8) {
        bytes.extend(frame(3, channel, chunk));
    }
    bytes
}

fn encode(frame: &AMQPFrame) -> Vec<u8> {
    gen_frame(frame)(WriteContext::from(Vec::new()))
        .expect("a frame that can be encoded")
        .into_inner()
        .0
}

/// Why nothing more was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// The broker closed the TCP connection.
    Closed,
    /// Nothing came in time.
    Timeout,
}

/// A content that is still arriving: its method, its header with the body's size, the body so far.
type Partial = (AMQPClass, Option<(BasicProperties, u64)>, Vec<u8>);

struct Wire {
    stream: TcpStream,
    input: Vec<u8>,
    /// Whole frames that were read, by channel, not yet asked for.
    events: VecDeque<(u16, Event)>,
    /// Contents that are still arriving.
    partial: HashMap<u16, Partial>,
    frame_max: u32,
    heartbeats: u32,
    tune: Option<connection::Tune>,
    start: Option<connection::Start>,
    put_open: bool,
    next_put: u64,
}

impl Wire {
    fn frame(&mut self, deadline: Instant) -> Result<Frame, Silence> {
        loop {
            if self.input.len() >= 7 {
                let size =
                    usize::try_from(u32::from_be_bytes(self.input[3..7].try_into().unwrap()))
                        .unwrap();
                if self.input.len() >= size + 8 {
                    let rest = self.input.split_off(size + 8);
                    let bytes = std::mem::replace(&mut self.input, rest);
                    assert_eq!(bytes[size + 7], 0xCE, "frame end octet");
                    return Ok(Frame {
                        kind: bytes[0],
                        channel: u16::from_be_bytes([bytes[1], bytes[2]]),
                        payload: bytes[7..size + 7].to_vec(),
                    });
                }
            }
            self.fill(deadline)?;
        }
    }

    fn fill(&mut self, deadline: Instant) -> Result<(), Silence> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Silence::Timeout);
        }
        self.stream.set_read_timeout(Some(left)).unwrap();
        let mut buffer = vec![0; 65536];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(Silence::Closed),
            Ok(length) => {
                self.input.extend(&buffer[..length]);
                Ok(())
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Err(Silence::Timeout),
                ErrorKind::Interrupted => Ok(()),
                _ => Err(Silence::Closed),
            },
        }
    }

    /// Reads one frame and files what it completes.
    fn pump(&mut self, deadline: Instant) -> Result<(), Silence> {
        let raw = self.frame(deadline)?;
        let bytes = frame(raw.kind, raw.channel, &raw.payload);
        let (rest, parsed) = parse_frame(&bytes[..])
            .unwrap_or_else(|error| panic!("a frame that cannot be parsed: {raw:?}: {error:?}"));
        assert!(rest.is_empty());
        match parsed {
            AMQPFrame::Method(channel, method) => {
                assert!(
                    !self.partial.contains_key(&channel),
                    "a method inside a content on channel {channel}: {method:?}"
                );
                let with_content = matches!(
                    method,
                    AMQPClass::Basic(
                        basic::AMQPMethod::Deliver(_)
                            | basic::AMQPMethod::GetOk(_)
                            | basic::AMQPMethod::Return(_)
                    )
                );
                if with_content {
                    self.partial.insert(channel, (method, None, Vec::new()));
                } else {
                    self.events.push_back((channel, Event::Method(method)));
                }
            }
            AMQPFrame::Header(channel, header) => {
                let partial = self
                    .partial
                    .get_mut(&channel)
                    .expect("a content header after its method");
                assert!(partial.1.is_none(), "one content header per content");
                assert_eq!(header.class_id, 60);
                partial.1 = Some((header.properties, header.body_size));
                self.complete(channel);
            }
            AMQPFrame::Body(channel, chunk) => {
                let limit = usize::try_from(self.frame_max).unwrap();
                assert!(
                    limit == 0 || chunk.len() + 8 <= limit,
                    "a frame within frame_max"
                );
                assert!(!chunk.is_empty(), "the broker sends no empty body frames");
                let partial = self
                    .partial
                    .get_mut(&channel)
                    .expect("a content body after its header");
                assert!(partial.1.is_some(), "a content body after its header");
                partial.2.extend(chunk);
                self.complete(channel);
            }
            AMQPFrame::Heartbeat => self.heartbeats += 1,
            other => panic!("unexpected frame {other:?}"),
        }
        Ok(())
    }

    fn complete(&mut self, channel: u16) {
        let (_, header, body) = &self.partial[&channel];
        let size = header.as_ref().expect("header first").1;
        let have = u64::try_from(body.len()).unwrap();
        assert!(have <= size, "more body than announced");
        if have == size {
            let (method, header, body) = self.partial.remove(&channel).unwrap();
            self.events
                .push_back((channel, Event::Content(method, header.unwrap().0, body)));
        }
    }
}

/// A connection. Clones share the socket.
#[derive(Clone)]
pub(crate) struct Client(Rc<RefCell<Wire>>);

impl Client {
    /// Connected and opened as guest on `/`, without heartbeats.
    #[track_caller]
    pub(crate) fn connect() -> Self {
        Self::with(&Options::default())
    }

    /// The same, to this broker.
    #[track_caller]
    pub(crate) fn to(broker: &broker::Broker) -> Self {
        Self::with(&Options {
            address: Some(broker.amqp),
            ..Options::default()
        })
    }

    #[track_caller]
    pub(crate) fn with(options: &Options) -> Self {
        let client = Self::bare(options.address);
        client.negotiate(options);
        client.send(0, &connection_open(options.virtual_host));
        let answer = client.method(0);
        assert!(
            matches!(
                answer,
                AMQPClass::Connection(connection::AMQPMethod::OpenOk(_))
            ),
            "connection.open was answered with {answer:?}"
        );
        client
    }

    /// Connected by TCP, nothing sent.
    pub(crate) fn bare(address: Option<SocketAddr>) -> Self {
        let address = address.unwrap_or_else(broker::address);
        let stream = connect(address);
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(Rc::new(RefCell::new(Wire {
            stream,
            input: Vec::new(),
            events: VecDeque::new(),
            partial: HashMap::new(),
            frame_max: 131_072,
            heartbeats: 0,
            tune: None,
            start: None,
            put_open: false,
            next_put: 1,
        })))
    }

    /// Header, start-ok and tune-ok: everything before connection.open.
    #[track_caller]
    pub(crate) fn negotiate(&self, options: &Options) {
        self.begin();
        self.send(
            0,
            &start_ok(
                options.client_properties(),
                "PLAIN",
                &options.plain_response(),
            ),
        );
        let answer = self.method(0);
        let AMQPClass::Connection(connection::AMQPMethod::Tune(tune)) = answer else {
            panic!("start-ok was answered with {answer:?}")
        };
        self.wire().tune = Some(tune);
        self.wire().frame_max = options.frame_max;
        self.send(
            0,
            &tune_ok(options.channel_max, options.frame_max, options.heartbeat),
        );
    }

    /// Sends the protocol header and receives connection.start.
    #[track_caller]
    pub(crate) fn begin(&self) -> connection::Start {
        self.raw(b"AMQP\x00\x00\x09\x01");
        let answer = self.method(0);
        let AMQPClass::Connection(connection::AMQPMethod::Start(start)) = answer else {
            panic!("the protocol header was answered with {answer:?}")
        };
        self.wire().start = Some(start.clone());
        start
    }

    pub(crate) fn tune(&self) -> connection::Tune {
        self.wire().tune.clone().expect("negotiated")
    }

    /// Opens a channel.
    #[track_caller]
    pub(crate) fn channel(&self, id: u16) -> Channel {
        let channel = self.unopened(id);
        let answer = channel.call(&channel_open());
        assert!(
            matches!(answer, AMQPClass::Channel(channel::AMQPMethod::OpenOk(_))),
            "channel.open was answered with {answer:?}"
        );
        channel
    }

    /// A channel number nothing was sent on.
    pub(crate) fn unopened(&self, id: u16) -> Channel {
        Channel {
            client: self.clone(),
            id,
        }
    }

    pub(crate) fn send(&self, channel: u16, method: &AMQPClass) {
        self.raw(&method_frame(channel, method));
    }

    /// Writes these octets. That the broker has closed the connection already shows at the next receive.
    pub(crate) fn raw(&self, bytes: &[u8]) {
        let _ = self.wire().stream.write_all(bytes);
    }

    /// Writes these octets so many times, or until the broker takes no more for a while. Reads nothing.
    pub(crate) fn flood(&self, bytes: &[u8], times: u32) {
        let mut wire = self.wire();
        wire.stream
            .set_write_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        for _ in 0..times {
            if wire.stream.write_all(bytes).is_err() {
                return;
            }
        }
    }

    /// Closes our half of the TCP connection.
    pub(crate) fn shut_down_writing(&self) {
        let _ = self.wire().stream.shutdown(std::net::Shutdown::Write);
    }

    /// The next frame as it comes; not to be mixed with the methods that assemble contents.
    #[track_caller]
    pub(crate) fn frame(&self) -> Frame {
        self.wire()
            .frame(soon())
            .unwrap_or_else(|silence| panic!("a frame was due: {silence:?}"))
    }

    /// All octets until the broker closes the connection.
    #[track_caller]
    pub(crate) fn octets_until_closed(&self) -> Vec<u8> {
        let deadline = soon();
        let mut wire = self.wire();
        loop {
            match wire.fill(deadline) {
                Ok(()) => {}
                Err(Silence::Closed) => return std::mem::take(&mut wire.input),
                Err(Silence::Timeout) => panic!(
                    "the broker did not close the connection; it sent {:?}",
                    wire.input
                ),
            }
        }
    }

    /// The broker closes the TCP connection; what it sends before that, if anything, are heartbeats.
    #[track_caller]
    pub(crate) fn expect_closed(&self) {
        let deadline = soon();
        let mut wire = self.wire();
        loop {
            match wire.pump(deadline) {
                Ok(()) => {}
                Err(Silence::Closed) => {
                    assert!(
                        wire.events.is_empty(),
                        "before closing, the broker sent {:?}",
                        wire.events
                    );
                    return;
                }
                Err(Silence::Timeout) => panic!("the broker did not close the TCP connection"),
            }
        }
    }

    /// Heartbeat frames received so far.
    pub(crate) fn heartbeats(&self) -> u32 {
        self.wire().heartbeats
    }

    /// Reads one frame and files it.
    #[track_caller]
    pub(crate) fn pump(&self) {
        self.wire()
            .pump(soon())
            .unwrap_or_else(|silence| panic!("a frame was due: {silence:?}"));
    }

    /// The next method on this channel that is no content.
    #[track_caller]
    pub(crate) fn method(&self, channel: u16) -> AMQPClass {
        match self.event(channel) {
            Event::Method(method) => method,
            other => panic!("a method was due on channel {channel}: {other:?}"),
        }
    }

    /// The next thing on this channel.
    #[track_caller]
    pub(crate) fn event(&self, channel: u16) -> Event {
        self.take(channel, |_| true)
    }

    /// The first thing on this channel that fits. A close of channel or connection that does not fit fails the test.
    #[track_caller]
    pub(crate) fn take(&self, channel: u16, fits: impl Fn(&Event) -> bool) -> Event {
        let deadline = soon();
        loop {
            {
                let mut wire = self.wire();
                if let Some(index) = wire
                    .events
                    .iter()
                    .position(|(id, event)| *id == channel && fits(event))
                {
                    return wire.events.remove(index).unwrap().1;
                }
                for (id, event) in &wire.events {
                    let Event::Method(method) = event else {
                        continue;
                    };
                    let closes_channel = (*id == channel || channel == 0)
                        && matches!(method, AMQPClass::Channel(channel::AMQPMethod::Close(_)));
                    let closes_connection = matches!(
                        method,
                        AMQPClass::Connection(connection::AMQPMethod::Close(_))
                    );
                    assert!(
                        !closes_channel && !closes_connection,
                        "something else was due on channel {channel}: {method:?}"
                    );
                }
            }
            let result = self.wire().pump(deadline);
            if let Err(silence) = result {
                let wire = self.wire();
                panic!(
                    "something was due on channel {channel}, {silence:?} came; not asked for: {:?}",
                    wire.events
                );
            }
        }
    }

    /// The first thing on this channel that fits, if it comes in time and before the connection ends. For clients that outlive their
    /// broker: nothing that happens to the connection fails the test.
    pub(crate) fn try_take(
        &self,
        channel: u16,
        patience: Duration,
        fits: impl Fn(&Event) -> bool,
    ) -> Result<Event, Silence> {
        let deadline = Instant::now() + patience;
        loop {
            let mut wire = self.wire();
            let found = wire
                .events
                .iter()
                .position(|(id, event)| *id == channel && fits(event));
            if let Some(index) = found {
                return Ok(wire.events.remove(index).unwrap().1);
            }
            wire.pump(deadline)?;
        }
    }

    /// The broker has sent nothing on this channel that was not asked for yet.
    ///
    /// A synchronous method on another channel is answered first, so that what was on its way has arrived.
    #[track_caller]
    pub(crate) fn expect_nothing(&self, channel: u16) {
        self.put_channel().flow();
        let wire = self.wire();
        let surplus: Vec<&Event> = wire
            .events
            .iter()
            .filter(|(id, _)| *id == channel)
            .map(|(_, event)| event)
            .collect();
        assert!(
            surplus.is_empty(),
            "nothing was due on channel {channel}: {surplus:?}"
        );
    }

    /// Publishes to a queue by its name, on a channel of its own, and waits until it is confirmed.
    #[track_caller]
    pub(crate) fn put(&self, queue: &str, body: impl AsRef<[u8]>) {
        self.put_with("", queue, &plain(), body);
    }

    /// Publishes a persistent message to a queue, waits until it is confirmed.
    #[track_caller]
    pub(crate) fn put_persistent(&self, queue: &str, body: impl AsRef<[u8]>) {
        self.put_with("", queue, &persistent(), body);
    }

    /// Publishes on a channel of its own and waits until it is confirmed.
    #[track_caller]
    pub(crate) fn put_with(
        &self,
        exchange: &str,
        key: &str,
        properties: &BasicProperties,
        body: impl AsRef<[u8]>,
    ) {
        let channel = self.put_channel();
        channel.publish_with(exchange, key, "", properties, body);
        let sequence = {
            let mut wire = self.wire();
            wire.next_put += 1;
            wire.next_put - 1
        };
        let answer = channel.method();
        let AMQPClass::Basic(basic::AMQPMethod::Ack(confirm)) = answer else {
            panic!("a confirm was due: {answer:?}")
        };
        assert_eq!(confirm.delivery_tag, sequence);
    }

    fn put_channel(&self) -> Channel {
        let opened = std::mem::replace(&mut self.wire().put_open, true);
        if opened {
            return self.unopened(PUT_CHANNEL);
        }
        let channel = self.channel(PUT_CHANNEL);
        channel.call(&confirm_select());
        channel
    }

    /// connection.close, close-ok, and the end of the TCP connection.
    #[track_caller]
    pub(crate) fn close(self) {
        self.send(0, &connection_close());
        let _ = self.take(0, |event| {
            matches!(
                event,
                Event::Method(AMQPClass::Connection(connection::AMQPMethod::CloseOk(_)))
            )
        });
        self.vanish();
    }

    /// Resets or closes the TCP connection without a word.
    pub(crate) fn vanish(self) {
        let _ = self.wire().stream.shutdown(std::net::Shutdown::Both);
    }

    fn wire(&self) -> RefMut<'_, Wire> {
        self.0.borrow_mut()
    }
}

/// A channel of a connection.
#[derive(Clone)]
pub(crate) struct Channel {
    pub(crate) client: Client,
    pub(crate) id: u16,
}

impl Channel {
    pub(crate) fn send(&self, method: &AMQPClass) {
        self.client.send(self.id, method);
    }

    /// Sends a method and returns its answer; contents that arrive meanwhile stay for later.
    #[track_caller]
    pub(crate) fn call(&self, method: &AMQPClass) -> AMQPClass {
        self.send(method);
        self.answer()
    }

    /// The next method that is neither a content nor a confirm nor a server's basic.cancel.
    #[track_caller]
    pub(crate) fn answer(&self) -> AMQPClass {
        let event = self.client.take(self.id, |event| {
            matches!(event, Event::Method(method) if !matches!(
                method,
                AMQPClass::Basic(basic::AMQPMethod::Ack(_) | basic::AMQPMethod::Nack(_) | basic::AMQPMethod::Cancel(_))
            ))
        });
        match event {
            Event::Method(AMQPClass::Channel(channel::AMQPMethod::Close(close))) => {
                panic!(
                    "the channel was closed: {} {}",
                    close.reply_code, close.reply_text
                )
            }
            Event::Method(method) => method,
            Event::Content(..) => unreachable!(),
        }
    }

    /// Sends a method and returns its answer, which may be channel.close, unless the connection ends first.
    pub(crate) fn try_call(&self, method: &AMQPClass) -> Result<AMQPClass, Silence> {
        self.send(method);
        let answer = self.client.try_take(self.id, PATIENCE, |event| {
            matches!(event, Event::Method(method) if !matches!(
                method,
                AMQPClass::Basic(basic::AMQPMethod::Ack(_) | basic::AMQPMethod::Nack(_) | basic::AMQPMethod::Cancel(_))
            ))
        })?;
        match answer {
            Event::Method(method) => Ok(method),
            Event::Content(..) => unreachable!(),
        }
    }

    #[track_caller]
    pub(crate) fn method(&self) -> AMQPClass {
        self.client.method(self.id)
    }

    /// Declares a queue; the answer's fields.
    #[track_caller]
    pub(crate) fn queue(&self, name: &str, flags: &str, arguments: FieldTable) -> queue::DeclareOk {
        match self.call(&queue_declare(name, flags, arguments)) {
            AMQPClass::Queue(queue::AMQPMethod::DeclareOk(answer)) => answer,
            other => panic!("queue.declare was answered with {other:?}"),
        }
    }

    /// Declares an exclusive queue with this name.
    #[track_caller]
    pub(crate) fn own_queue(&self, name: &str) {
        self.queue(name, "exclusive", table([]));
    }

    /// Declares an auto-delete exchange with this name.
    #[track_caller]
    pub(crate) fn exchange(&self, name: &str, kind: &str) {
        self.call(&exchange_declare(name, kind, "auto_delete", table([])));
    }

    #[track_caller]
    pub(crate) fn bind(&self, queue: &str, exchange: &str, key: &str) {
        self.call(&queue_bind(queue, exchange, key, table([])));
    }

    /// Ready messages, by a passive declare.
    #[track_caller]
    pub(crate) fn ready(&self, queue: &str) -> u32 {
        self.queue(queue, "passive", table([])).message_count
    }

    /// Consumers, by a passive declare.
    #[track_caller]
    pub(crate) fn consumers(&self, queue: &str) -> u32 {
        self.queue(queue, "passive", table([])).consumer_count
    }

    /// Starts a consumer and returns its tag.
    #[track_caller]
    pub(crate) fn consume(&self, queue: &str, tag: &str, flags: &str) -> String {
        self.consume_with(queue, tag, flags, table([]))
    }

    #[track_caller]
    pub(crate) fn consume_with(
        &self,
        queue: &str,
        tag: &str,
        flags: &str,
        arguments: FieldTable,
    ) -> String {
        match self.call(&consume(queue, tag, flags, arguments)) {
            AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(answer)) => {
                answer.consumer_tag.to_string()
            }
            other => panic!("basic.consume was answered with {other:?}"),
        }
    }

    pub(crate) fn publish(&self, exchange: &str, key: &str, body: impl AsRef<[u8]>) {
        self.publish_with(exchange, key, "", &plain(), body);
    }

    pub(crate) fn publish_with(
        &self,
        exchange: &str,
        key: &str,
        flags: &str,
        properties: &BasicProperties,
        body: impl AsRef<[u8]>,
    ) {
        let mut bytes = method_frame(self.id, &publish(exchange, key, flags));
        let frame_max = self.client.wire().frame_max;
        bytes.extend(content_frames(
            self.id,
            properties,
            body.as_ref(),
            frame_max,
        ));
        self.client.raw(&bytes);
    }

    /// The next delivery to a consumer of this channel.
    #[track_caller]
    pub(crate) fn delivery(&self) -> Content {
        let event = self.client.take(self.id, |event| {
            matches!(
                event,
                Event::Content(AMQPClass::Basic(basic::AMQPMethod::Deliver(_)), ..)
            )
        });
        content(event).expect("a delivery")
    }

    /// The bodies of the next deliveries.
    #[track_caller]
    pub(crate) fn bodies(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.delivery().text()).collect()
    }

    /// basic.get
    #[track_caller]
    pub(crate) fn get(&self, queue: &str, flags: &str) -> Option<Content> {
        self.send(&get(queue, flags));
        let event = self.client.take(self.id, |event| {
            matches!(
                event,
                Event::Content(AMQPClass::Basic(basic::AMQPMethod::GetOk(_)), ..)
                    | Event::Method(AMQPClass::Basic(basic::AMQPMethod::GetEmpty(_)))
            )
        });
        content(event)
    }

    /// Everything ready in the queue, fetched with no-ack.
    #[track_caller]
    pub(crate) fn drain(&self, queue: &str) -> Vec<String> {
        std::iter::from_fn(|| self.get(queue, "no_ack").map(|content| content.text())).collect()
    }

    /// The next basic.return.
    #[track_caller]
    pub(crate) fn returned(&self) -> (basic::Return, BasicProperties, Vec<u8>) {
        match self.client.take(self.id, |event| {
            matches!(
                event,
                Event::Content(AMQPClass::Basic(basic::AMQPMethod::Return(_)), ..)
            )
        }) {
            Event::Content(
                AMQPClass::Basic(basic::AMQPMethod::Return(method)),
                properties,
                body,
            ) => (method, properties, body),
            _ => unreachable!(),
        }
    }

    /// Waits until the publishes `first..=last` are settled; true for ack.
    #[track_caller]
    pub(crate) fn confirms(&self, first: u64, last: u64) -> BTreeMap<u64, bool> {
        let mut settled = BTreeMap::new();
        while settled.len() < usize::try_from(last - first + 1).unwrap() {
            let event = self.client.take(self.id, |event| {
                matches!(
                    event,
                    Event::Method(AMQPClass::Basic(
                        basic::AMQPMethod::Ack(_) | basic::AMQPMethod::Nack(_)
                    ))
                )
            });
            let (tag, multiple, accepted) = match event {
                Event::Method(AMQPClass::Basic(basic::AMQPMethod::Ack(ack))) => {
                    (ack.delivery_tag, ack.multiple, true)
                }
                Event::Method(AMQPClass::Basic(basic::AMQPMethod::Nack(nack))) => {
                    (nack.delivery_tag, nack.multiple, false)
                }
                _ => unreachable!(),
            };
            assert!(
                (first..=last).contains(&tag),
                "a confirm of {tag}, outstanding were {first}..={last}"
            );
            let from = if multiple { first } else { tag };
            let mut news = 0;
            for sequence in from..=tag {
                if let std::collections::btree_map::Entry::Vacant(entry) = settled.entry(sequence) {
                    entry.insert(accepted);
                    news += 1;
                }
            }
            assert!(news > 0, "{tag} was confirmed before");
        }
        settled
    }

    /// channel.flow(active), a synchronous call without any effect.
    #[track_caller]
    pub(crate) fn flow(&self) {
        let answer = self.call(&channel_flow(true));
        assert!(
            matches!(answer, AMQPClass::Channel(channel::AMQPMethod::FlowOk(_))),
            "{answer:?}"
        );
    }

    /// Nothing more was sent on this channel.
    #[track_caller]
    pub(crate) fn expect_nothing(&self) {
        self.flow();
        self.client.expect_nothing(self.id);
    }

    /// channel.close, close-ok; what arrived before is dropped.
    #[track_caller]
    pub(crate) fn close(&self) {
        self.send(&channel_close());
        let _ = self.client.take(self.id, |event| {
            matches!(
                event,
                Event::Method(AMQPClass::Channel(channel::AMQPMethod::CloseOk(_)))
            )
        });
        self.client.wire().events.retain(|(id, _)| *id != self.id);
    }
}

/// The message of a basic.deliver or basic.get-ok.
pub(crate) fn content(event: Event) -> Option<Content> {
    let Event::Content(method, properties, body) = event else {
        return None;
    };
    Some(match method {
        AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver)) => Content {
            consumer: deliver.consumer_tag.to_string(),
            tag: deliver.delivery_tag,
            redelivered: deliver.redelivered,
            exchange: deliver.exchange.to_string(),
            key: deliver.routing_key.to_string(),
            left: 0,
            properties,
            body,
        },
        AMQPClass::Basic(basic::AMQPMethod::GetOk(got)) => Content {
            consumer: String::new(),
            tag: got.delivery_tag,
            redelivered: got.redelivered,
            exchange: got.exchange.to_string(),
            key: got.routing_key.to_string(),
            left: got.message_count,
            properties,
            body,
        },
        _ => return None,
    })
}

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// Connects, also when the broker's backlog is full for a moment.
fn connect(address: SocketAddr) -> TcpStream {
    let deadline = soon();
    loop {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return stream,
            Err(error) => {
                assert!(
                    Instant::now() < deadline,
                    "no connection to {address}: {error}"
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}
