//! A whole connection: operations of a client, a driver, a clock and a network that cuts octets anywhere.

#![no_main]

use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mamba_codec::protocol::connection;
use mamba_codec::{AMQPClass, Output, write_method};
use mamba_session::{Content, Event, Session, SessionConfig, SessionState, TimerOutcome};
use mamba_types::{
    ChannelId, FieldTable, HardError, Limits, Message, RecordMeta, SoftError, Violation,
};

#[derive(Arbitrary, Debug)]
struct Input {
    /// How many steps of a proper handshake come first.
    handshake: u8,
    /// What the driver says to logins and virtual hosts.
    refuse: bool,
    operations: Vec<Operation>,
}

#[derive(Arbitrary, Debug)]
enum Operation {
    Octets(Vec<u8>),
    Frame {
        kind: u8,
        channel: u8,
        payload: Vec<u8>,
    },
    Method {
        channel: u8,
        class: Class,
        method: u8,
        arguments: Vec<u8>,
    },
    OpenChannel(u8),
    CloseChannel(u8),
    CloseChannelOk(u8),
    Publish {
        channel: u8,
        exchange: Vec<u8>,
        bodies: Vec<u8>,
        announced: Option<u16>,
    },
    Ack {
        channel: u8,
        tag: u8,
        multiple: bool,
    },
    Heartbeat,
    Close,
    CloseOk,
    ChannelError(u8),
    ServerClose,
    Wait(u8),
    Pause,
    Resume,
    Flush,
    Blocked,
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Class {
    Connection = 10,
    Channel = 20,
    Access = 30,
    Exchange = 40,
    Queue = 50,
    Basic = 60,
    Confirm = 85,
    Tx = 90,
}

fuzz_target!(|input: Input| {
    let mut run = Run::new(input.refuse);
    for step in handshake().iter().take(usize::from(input.handshake % 6)) {
        run.hear(step);
    }
    for operation in input.operations.iter().take(64) {
        run.perform(operation);
        run.check();
    }
});

struct Run {
    session: Session,
    out: Output,
    input: Vec<u8>,
    now: Instant,
    refuse: bool,
    closings: usize,
}

fn limits() -> Limits {
    Limits {
        message_size_max: 4096,
        unfinished_bytes_max: 16_384,
        channel_max: 8,
        ..Limits::default()
    }
}

impl Run {
    fn new(refuse: bool) -> Self {
        let now = Instant::now();
        let config = SessionConfig {
            limits: limits(),
            server_properties: FieldTable::default(),
            mechanisms: "PLAIN AMQPLAIN EXTERNAL ANONYMOUS".to_owned(),
        };
        Self {
            session: Session::new(config, now),
            out: Output::new(),
            input: Vec::new(),
            now,
            refuse,
            closings: 0,
        }
    }

    fn perform(&mut self, operation: &Operation) {
        match operation {
            Operation::Octets(octets) => self.hear(octets),
            Operation::Frame {
                kind,
                channel,
                payload,
            } => {
                self.hear(&frame(*kind, channel % 10, payload));
            }
            Operation::Method {
                channel,
                class,
                method,
                arguments,
            } => {
                let payload = [&[0, *class as u8, 0, *method][..], arguments].concat();
                self.hear(&frame(1, channel % 10, &payload));
            }
            Operation::OpenChannel(channel) => {
                self.hear(&frame(1, channel % 10, &[0, 20, 0, 10, 0]));
            }
            Operation::CloseChannel(channel) => {
                self.hear(&frame(
                    1,
                    channel % 10,
                    &[0, 20, 0, 40, 0, 200, 0, 0, 0, 0, 0],
                ));
            }
            Operation::CloseChannelOk(channel) => {
                self.hear(&frame(1, channel % 10, &[0, 20, 0, 41]));
            }
            Operation::Publish {
                channel,
                exchange,
                bodies,
                announced,
            } => {
                self.publish(channel % 10, exchange, bodies, *announced);
            }
            Operation::Ack {
                channel,
                tag,
                multiple,
            } => {
                let payload = [0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, *tag, u8::from(*multiple)];
                self.hear(&frame(1, channel % 10, &payload));
            }
            Operation::Heartbeat => self.hear(&frame(8, 0, &[])),
            Operation::Close => self.hear(&frame(1, 0, &[0, 10, 0, 50, 0, 200, 0, 0, 0, 0, 0])),
            Operation::CloseOk => self.hear(&frame(1, 0, &[0, 10, 0, 51])),
            Operation::ChannelError(channel) => {
                let violation = Violation::channel(SoftError::NotFound, "x".repeat(300));
                let channel = ChannelId(u16::from(channel % 10));
                self.session
                    .fail(channel, &violation, 50, 10, self.now, &mut self.out);
            }
            Operation::ServerClose => {
                let violation = Violation::connection(HardError::ConnectionForced, "bye");
                self.session
                    .close(&violation, 0, 0, self.now, &mut self.out);
            }
            Operation::Wait(tenths) => {
                self.now += Duration::from_millis(u64::from(*tenths) * 400);
                let outcome = self.session.timer(self.now, &mut self.out);
                if outcome != TimerOutcome::Nothing {
                    assert!(self.session.is_finished());
                }
                if let Some(due) = self.session.deadline() {
                    assert!(due > self.now, "a deadline that passed was not acted upon");
                }
            }
            Operation::Pause => self.session.pause_monitor(),
            Operation::Resume => self.session.resume_monitor(self.now),
            Operation::Flush => {
                self.out.advance(self.out.len());
                self.session.wrote(self.now);
            }
            Operation::Blocked => {
                self.session.blocked("no room", &mut self.out);
                self.session.unblocked(&mut self.out);
            }
        }
    }

    fn publish(&mut self, channel: u8, exchange: &[u8], bodies: &[u8], announced: Option<u16>) {
        let exchange = &exchange[..exchange.len().min(255)];
        let length = u8::try_from(exchange.len()).expect("cut above");
        let method = [&[0, 60, 0, 40, 0, 0, length][..], exchange, &[0, 0]].concat();
        self.hear(&frame(1, channel, &method));
        let sizes = bodies.iter().take(8).map(|size| usize::from(*size) * 16);
        let total: usize = sizes.clone().sum();
        let announced = announced.map_or(total as u64, u64::from);
        let header = [&[0, 60, 0, 0][..], &announced.to_be_bytes(), &[0x10, 0, 2]].concat();
        self.hear(&frame(2, channel, &header));
        for size in sizes {
            self.hear(&frame(3, channel, &vec![7; size]));
        }
    }

    /// Octets arrive and are worked off, in two pieces to vary what is complete.
    fn hear(&mut self, octets: &[u8]) {
        let (first, second) = octets.split_at(octets.len() / 3);
        for piece in [first, second] {
            self.input.extend_from_slice(piece);
            self.work();
        }
    }

    fn work(&mut self) {
        loop {
            let before = self.session.state();
            let received = self.session.receive(&self.input, self.now, &mut self.out);
            let consumed = received.consumed;
            assert!(consumed <= self.input.len());
            let more = received.event.is_some();
            if let Some(event) = received.event {
                assert_ne!(before, SessionState::Finished, "an event after the end");
                self.closings += usize::from(matches!(event, Event::Closing(_)));
                answer(
                    &mut self.session,
                    event,
                    self.refuse,
                    self.now,
                    &mut self.out,
                );
            }
            self.input.drain(..consumed);
            if !more {
                return;
            }
        }
    }

    fn check(&self) {
        assert!(self.closings <= 1);
        assert!(self.session.channels_open() <= 8);
        // The limit, and one body frame that was taken before the sum was looked at.
        assert!(self.session.unfinished_bytes() <= 2 * (1_048_576 + 16_384));
        let waits = matches!(
            self.session.state(),
            SessionState::Authenticating | SessionState::Deciding
        );
        assert!(waits || self.input.len() <= 131_072 + 8);
    }
}

fn answer(session: &mut Session, event: Event<'_>, refuse: bool, now: Instant, out: &mut Output) {
    let refusal = Violation::connection(HardError::NotAllowed, "no");
    match event {
        Event::Authenticate(_) if refuse => session.login_refused(now, out),
        Event::Authenticate(_) => session.login_accepted(out),
        Event::Open { .. } if refuse => session.close(&refusal, 10, 40, now, out),
        Event::Open { .. } => session.open_accepted(out),
        Event::UpdateSecret { .. } => session.secret_updated(out),
        Event::OpenChannel(channel) => session.channel_accepted(channel, out),
        Event::CloseChannel(channel) => session.channel_closed(channel, out),
        Event::CloseConnection => session.connection_closed(now, out),
        Event::Publish(_, publish) => {
            let size = publish.content.body_size();
            let exchange = publish.content.exchange().to_vec();
            match publish.content {
                Content::Whole { body, .. } => assert!(size <= 4096 && body.len() as u64 == size),
                Content::Assembled(assembled) => {
                    assert!(size <= 4096 && assembled.body().len() as u64 == size);
                    let meta = RecordMeta {
                        persistent: true,
                        ..RecordMeta::default()
                    };
                    let message = assembled.into_message(meta);
                    assert_eq!(Message::check(message.record()), Ok(message.record_len()));
                    assert_eq!(message.exchange(), exchange);
                }
                Content::TooLarge { size, .. } => assert!(size > 4096),
            }
        }
        Event::WrongProtocol { .. } => assert!(session.is_finished()),
        Event::Settle(..) | Event::Method(..) | Event::Closing(_) => {}
    }
}

/// Protocol header, start-ok, tune-ok, open, and a channel.
fn handshake() -> [Vec<u8>; 5] {
    let start_ok = connection::StartOk {
        client_properties: FieldTable::default(),
        mechanism: "PLAIN".into(),
        response: "\0guest\0guest".into(),
        locale: "en_US".into(),
    };
    let tune_ok = connection::TuneOk {
        channel_max: 8,
        frame_max: 131_072,
        heartbeat: 10,
    };
    let open = connection::Open {
        virtual_host: "/".into(),
    };
    let encode = |method| {
        let mut octets = Vec::new();
        write_method(&mut octets, ChannelId(0), &AMQPClass::Connection(method));
        octets
    };
    [
        b"AMQP\x00\x00\x09\x01".to_vec(),
        encode(connection::AMQPMethod::StartOk(start_ok)),
        encode(connection::AMQPMethod::TuneOk(tune_ok)),
        encode(connection::AMQPMethod::Open(open)),
        frame(1, 1, &[0, 20, 0, 10, 0]),
    ]
}

fn frame(kind: u8, channel: u8, payload: &[u8]) -> Vec<u8> {
    let mut octets = vec![kind, 0, channel];
    octets.extend_from_slice(&u32::try_from(payload.len()).expect("small").to_be_bytes());
    octets.extend_from_slice(payload);
    octets.push(0xCE);
    octets
}
