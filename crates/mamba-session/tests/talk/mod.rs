//! A driver for tests: octets in, events as short texts and frames out.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test file uses its own part of this module"
)]

use std::time::{Duration, Instant};

use amq_protocol::frame::{AMQPFrame, parse_frame};
use mamba_codec::protocol::{basic, channel, connection};
use mamba_codec::{AMQPClass, Output, write_method};
use mamba_session::{
    Content, Credentials, Event, Publish, Session, SessionConfig, SettlementKind, TimerOutcome,
};
use mamba_types::{ChannelId, FieldTable, FieldValue, Limits};

pub const HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

/// One connection and its driver, which says yes to everything unless told otherwise.
pub struct Talk {
    pub session: Session,
    pub input: Vec<u8>,
    pub out: Output,
    pub events: Vec<String>,
    pub now: Instant,
    pub answers: Answers,
    /// The most octets unfinished messages held.
    pub held_max: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    Yes,
    None,
}

pub fn limits() -> Limits {
    Limits::default()
}

impl Talk {
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    pub fn new(limits: Limits) -> Self {
        let now = Instant::now();
        let mut server_properties = FieldTable::default();
        server_properties.insert("product".into(), FieldValue::LongString("RabbitMQ".into()));
        let config = SessionConfig {
            limits,
            server_properties,
            mechanisms: "PLAIN AMQPLAIN EXTERNAL ANONYMOUS".to_owned(),
        };
        Self {
            session: Session::new(config, now),
            input: Vec::new(),
            out: Output::new(),
            events: Vec::new(),
            now,
            answers: Answers::Yes,
            held_max: 0,
        }
    }

    /// Past the handshake, with nothing left of it.
    pub fn running(limits: Limits) -> Self {
        let mut talk = Self::new(limits);
        let (frame_max, channel_max) = (talk.session.frame_max(), talk.session.channel_max());
        talk.say(&handshake(frame_max, channel_max, 60));
        talk.events.clear();
        talk.flush();
        talk
    }

    /// Running, with channel 1 open.
    pub fn with_channel() -> Self {
        let mut talk = Self::running(limits());
        talk.say(&open_channel(1));
        talk.events.clear();
        talk.flush();
        talk
    }

    pub fn say(&mut self, octets: &[u8]) -> &mut Self {
        self.input.extend_from_slice(octets);
        loop {
            let received = self.session.receive(&self.input, self.now, &mut self.out);
            let (consumed, event) = (received.consumed, received.event);
            let more = event.is_some();
            if let Some(event) = event {
                self.events.push(text(&event));
                if self.answers == Answers::Yes {
                    answer(&mut self.session, &event, self.now, &mut self.out);
                }
            }
            self.input.drain(..consumed);
            self.held_max = self.held_max.max(self.session.unfinished_bytes());
            if !more {
                return self;
            }
        }
    }

    pub fn method(&mut self, number: u16, method: AMQPClass) -> &mut Self {
        self.say(&frame_of(number, method))
    }

    /// Takes the output.
    pub fn flush(&mut self) -> Vec<u8> {
        let mut slices = Vec::new();
        self.out.slices(&mut slices);
        let octets: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        self.out.advance(octets.len());
        if !octets.is_empty() {
            self.session.wrote(self.now);
        }
        octets
    }

    /// Takes the output as frames.
    pub fn heard(&mut self) -> Vec<AMQPFrame> {
        let octets = self.flush();
        let mut rest = &octets[..];
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let (after, frame) = parse_frame(rest).expect("the session writes frames");
            frames.push(frame);
            rest = after;
        }
        frames
    }

    /// The one `close` in the output as `CHANNEL: CODE TEXT CLASS/METHOD`.
    #[track_caller]
    pub fn closed(&mut self) -> String {
        let frames = self.heard();
        match &frames[..] {
            [
                AMQPFrame::Method(on, AMQPClass::Connection(connection::AMQPMethod::Close(close))),
            ] => {
                format!(
                    "{on}: {} {} {}/{}",
                    close.reply_code, close.reply_text, close.class_id, close.method_id
                )
            }
            [AMQPFrame::Method(on, AMQPClass::Channel(channel::AMQPMethod::Close(close)))] => {
                format!(
                    "{on}: {} {} {}/{}",
                    close.reply_code, close.reply_text, close.class_id, close.method_id
                )
            }
            other => panic!("not just one close: {other:?}"),
        }
    }

    pub fn wait(&mut self, time: Duration) -> TimerOutcome {
        let until = self.now + time;
        while let Some(due) = self.session.deadline()
            && due <= until
        {
            self.now = self.now.max(due);
            let outcome = self.session.timer(self.now, &mut self.out);
            if outcome != TimerOutcome::Nothing {
                return outcome;
            }
        }
        self.now = until;
        self.session.timer(self.now, &mut self.out)
    }

    #[track_caller]
    pub fn happened(&mut self, expected: &[&str]) -> &mut Self {
        assert_eq!(self.events, expected);
        self.events.clear();
        self
    }
}

fn answer(session: &mut Session, event: &Event<'_>, now: Instant, out: &mut Output) {
    match event {
        Event::Authenticate(_) => session.login_accepted(out),
        Event::Open { .. } => session.open_accepted(out),
        Event::OpenChannel(channel) => session.channel_accepted(*channel, out),
        Event::CloseChannel(channel) => session.channel_closed(*channel, out),
        Event::CloseConnection => session.connection_closed(now, out),
        Event::UpdateSecret { .. } => session.secret_updated(out),
        Event::WrongProtocol { .. }
        | Event::Publish(..)
        | Event::Settle(..)
        | Event::Method(..)
        | Event::Closing(_) => {}
    }
}

fn text(event: &Event<'_>) -> String {
    let name = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    match event {
        Event::WrongProtocol { .. } => "wrong protocol".to_owned(),
        Event::Authenticate(login) => match &login.credentials {
            Credentials::Password { user, password } => {
                format!("login {} {user}:{}", login.mechanism, name(&password.0))
            }
            Credentials::External => "login external".to_owned(),
            Credentials::Anonymous => "login anonymous".to_owned(),
        },
        Event::Open { vhost } => format!("open {vhost}"),
        Event::OpenChannel(channel) => format!("channel {channel}"),
        Event::Publish(channel, publish) => {
            let Publish {
                mandatory,
                immediate,
                content,
            } = publish;
            let flags = [*mandatory, *immediate].map(u8::from);
            let too_large = if matches!(content, Content::TooLarge { .. }) {
                " too large"
            } else {
                ""
            };
            format!(
                "publish {channel} {}>{} {}{} header {} body {}{too_large} {:x}",
                name(content.exchange()),
                name(content.routing_key()),
                flags[0],
                flags[1],
                content.header().len(),
                content.body_size(),
                content.body().iter().fold(0u32, |sum, octet| sum
                    .wrapping_mul(31)
                    .wrapping_add(u32::from(*octet))),
            )
        }
        Event::Settle(channel, settlement) => {
            let kind = match settlement.kind {
                SettlementKind::Ack => "ack",
                SettlementKind::Requeue => "requeue",
                SettlementKind::Failed => "failed",
                SettlementKind::Discard => "discard",
            };
            let multiple = if settlement.multiple { " multiple" } else { "" };
            format!(
                "{kind} {channel} {}{multiple} {}",
                settlement.tag, settlement.method
            )
        }
        Event::Method(channel, method) => format!(
            "method {channel} {}/{}",
            method.get_amqp_class_id(),
            method.get_amqp_method_id()
        ),
        Event::CloseChannel(channel) => format!("close channel {channel}"),
        Event::CloseConnection => "close connection".to_owned(),
        Event::UpdateSecret { secret } => format!("secret {}", name(&secret.0)),
        Event::Closing(violation) => {
            format!("closing {} {}", violation.code(), violation.reply_text())
        }
    }
}

pub fn frame_of(number: u16, method: AMQPClass) -> Vec<u8> {
    let mut octets = Vec::new();
    write_method(&mut octets, ChannelId(number), &method);
    octets
}

pub fn raw_frame(kind: u8, number: u16, payload: &[u8]) -> Vec<u8> {
    let mut octets = vec![kind];
    octets.extend_from_slice(&number.to_be_bytes());
    octets.extend_from_slice(&u32::try_from(payload.len()).expect("small").to_be_bytes());
    octets.extend_from_slice(payload);
    octets.push(0xCE);
    octets
}

pub fn start_ok(mechanism: &str, response: &[u8], capabilities: &[&str]) -> Vec<u8> {
    let mut table = FieldTable::default();
    for name in capabilities {
        table.insert((*name).into(), FieldValue::Boolean(true));
    }
    let mut client_properties = FieldTable::default();
    client_properties.insert("capabilities".into(), FieldValue::FieldTable(table));
    on_connection(connection::AMQPMethod::StartOk(connection::StartOk {
        client_properties,
        mechanism: mechanism.into(),
        response: response.to_vec().into(),
        locale: "en_US".into(),
    }))
}

pub fn login() -> Vec<u8> {
    start_ok(
        "PLAIN",
        b"\0guest\0guest",
        &["authentication_failure_close", "connection.blocked"],
    )
}

pub fn tune_ok(frame_max: u32, channel_max: u16, heartbeat: u16) -> Vec<u8> {
    on_connection(connection::AMQPMethod::TuneOk(connection::TuneOk {
        channel_max,
        frame_max,
        heartbeat,
    }))
}

pub fn open() -> Vec<u8> {
    on_connection(connection::AMQPMethod::Open(connection::Open {
        virtual_host: "/".into(),
    }))
}

pub fn handshake(frame_max: u32, channel_max: u16, heartbeat: u16) -> Vec<u8> {
    [
        HEADER,
        &login(),
        &tune_ok(frame_max, channel_max, heartbeat),
        &open(),
    ]
    .concat()
}

pub fn on_connection(method: connection::AMQPMethod) -> Vec<u8> {
    frame_of(0, AMQPClass::Connection(method))
}

pub fn on_channel(number: u16, method: channel::AMQPMethod) -> Vec<u8> {
    frame_of(number, AMQPClass::Channel(method))
}

pub fn open_channel(number: u16) -> Vec<u8> {
    on_channel(number, channel::AMQPMethod::Open(channel::Open {}))
}

pub fn close_channel(number: u16) -> Vec<u8> {
    on_channel(
        number,
        channel::AMQPMethod::Close(channel::Close {
            reply_code: 200,
            reply_text: "bye".into(),
            class_id: 0,
            method_id: 0,
        }),
    )
}

pub fn channel_close_ok(number: u16) -> Vec<u8> {
    on_channel(number, channel::AMQPMethod::CloseOk(channel::CloseOk {}))
}

pub fn close() -> Vec<u8> {
    on_connection(connection::AMQPMethod::Close(connection::Close {
        reply_code: 200,
        reply_text: "bye".into(),
        class_id: 0,
        method_id: 0,
    }))
}

pub fn close_ok() -> Vec<u8> {
    on_connection(connection::AMQPMethod::CloseOk(connection::CloseOk {}))
}

pub fn publish_method(number: u16) -> Vec<u8> {
    frame_of(
        number,
        AMQPClass::Basic(basic::AMQPMethod::Publish(basic::Publish {
            exchange: "ex".into(),
            routing_key: "key".into(),
            mandatory: true,
            immediate: false,
        })),
    )
}

pub fn header_frame(number: u16, body_size: u64) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 0];
    payload.extend_from_slice(&body_size.to_be_bytes());
    payload.extend_from_slice(&[0x10, 0, 2]);
    raw_frame(2, number, &payload)
}

pub fn body_frame(number: u16, len: usize) -> Vec<u8> {
    raw_frame(3, number, &vec![b'b'; len])
}

/// A publish whose body takes frames of these sizes.
pub fn publish(number: u16, bodies: &[usize]) -> Vec<u8> {
    let size: usize = bodies.iter().sum();
    let mut octets = publish_method(number);
    octets.extend(header_frame(number, size as u64));
    for len in bodies {
        octets.extend(body_frame(number, *len));
    }
    octets
}
