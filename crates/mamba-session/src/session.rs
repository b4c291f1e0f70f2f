//! One connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mamba_codec::protocol::{access, channel, connection};
use mamba_codec::{AMQPClass, ContentHeader, Frame, FrameKind, Method, Output, PublishArgs};
use mamba_types::limits::{BODY_SIZE_CAP, FRAME_MIN_SIZE};
use mamba_types::table::{LongString, ShortString};
use mamba_types::{ChannelId, FieldTable, HardError, Limits, SoftError, Violation};

use crate::channels::{Channels, Pending, Stage, Stand};
use crate::content::{Assembled, Content, Publish};
use crate::event::{
    Capabilities, DropReason, Event, Login, Received, Scope, Secret, Settlement, SettlementKind,
    TimerOutcome,
};
use crate::heartbeat::{Heartbeat, Pulse};
use crate::sasl;

/// How long a refused peer may look at a silent or broken connection.
const REFUSAL_GRACE: Duration = Duration::from_secs(3);

/// The longest time to finish the closing of a connection.
const CLOSING_GRACE_MAX: Duration = Duration::from_secs(30);

/// Largest payload accepted when no frame size was agreed, in octets.
const UNLIMITED_PAYLOAD_MAX: u32 = 16_777_216;

/// What an unfinished message may hold beyond its body, in octets.
const CONTENT_OVERHEAD: u64 = 1_048_576;

const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";

/// Class and method of `basic.publish`.
const PUBLISH: (u16, u16) = (60, 40);

/// What a session is told about its server.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Limits for this connection.
    pub limits: Limits,
    /// Sent in `connection.start`.
    pub server_properties: FieldTable,
    /// SASL mechanisms offered, separated by spaces: of PLAIN, AMQPLAIN, EXTERNAL, ANONYMOUS.
    pub mechanisms: String,
}

/// Where a connection stands.
///
/// ```text
/// AwaitingHeader -> Starting -> Authenticating -> Tuning -> Opening -> Deciding -> Running
/// Running -> ClientClosing -> Closed -> Finished        the client closes
/// Opening .. Running -> Closing -> Finished             the server closes
/// any before Running -> Refused -> Finished             in silence, or after octets that are no frames
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// No protocol header yet.
    AwaitingHeader,
    /// `start` sent.
    Starting,
    /// The driver decides on a login.
    Authenticating,
    /// `tune` sent.
    Tuning,
    /// `tune-ok` received.
    Opening,
    /// The driver decides on a virtual host.
    Deciding,
    /// Open.
    Running,
    /// The client closes; the driver cleans up.
    ClientClosing,
    /// `close` sent; waits for `close-ok`.
    Closing,
    /// `close-ok` sent; waits for the client to close the socket.
    Closed,
    /// Refused without a word, or after a framing error; input is ignored until a grace time is over.
    Refused,
    /// The driver closes the socket once the output is written.
    Finished,
}

#[derive(Debug)]
enum State {
    AwaitingHeader,
    Starting,
    Authenticating { mechanism: ShortString },
    Tuning,
    Opening,
    Deciding,
    Running,
    ClientClosing,
    Closing { until: Instant, reason: DropReason },
    Closed { until: Instant },
    Refused { until: Instant },
    Finished,
}

/// The state machine of one connection and its channels.
#[derive(Debug)]
pub struct Session {
    config: Arc<SessionConfig>,
    state: State,
    handshake_until: Instant,
    frame_max: u32,
    channel_max: u16,
    heartbeat: Heartbeat,
    capabilities: Capabilities,
    channels: Channels,
    /// Octets of input that were looked at and not consumed: seeing them again is no sign of life.
    unconsumed: usize,
}

/// What one look at the input came to.
enum Step<'a> {
    /// More octets are needed, or an answer of the driver.
    Wait,
    /// This many octets are done with.
    Done(usize),
    /// This many octets are done with, and this happened.
    Happened(usize, Event<'a>),
}

/// Whether the input can still be cut into frames after a violation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    Intact,
    Lost,
}

impl Session {
    /// A connection that was accepted `now`.
    #[must_use]
    pub fn new(config: impl Into<Arc<SessionConfig>>, now: Instant) -> Self {
        let config = config.into();
        Self {
            state: State::AwaitingHeader,
            handshake_until: now + config.limits.handshake_timeout,
            frame_max: config.limits.frame_max,
            channel_max: config.limits.channel_max,
            heartbeat: Heartbeat::none(),
            capabilities: Capabilities::default(),
            channels: Channels::default(),
            unconsumed: 0,
            config,
        }
    }

    /// Takes octets from the client and says what they mean, at most one event a call. Call it again with the rest
    /// of the input until it returns no event.
    ///
    /// `input` must be able to grow to `frame_max` + 8 octets: a frame is looked at when all of it is there.
    pub fn receive<'a>(&mut self, input: &'a [u8], now: Instant, out: &mut Output) -> Received<'a> {
        if input.len() > self.unconsumed {
            self.heartbeat.heard();
        }
        let mut consumed = 0;
        let event = loop {
            match self.step(&input[consumed..], now, out) {
                Step::Wait => break None,
                Step::Done(octets) => consumed += octets,
                Step::Happened(octets, event) => {
                    consumed += octets;
                    break Some(event);
                }
            }
        };
        self.unconsumed = input.len() - consumed;
        Received { consumed, event }
    }

    /// Answers `Event::Authenticate`: writes `tune`.
    pub fn login_accepted(&mut self, out: &mut Output) {
        if !matches!(self.state, State::Authenticating { .. }) {
            return;
        }
        self.state = State::Tuning;
        let limits = &self.config.limits;
        let tune = connection::Tune {
            channel_max: limits.channel_max,
            frame_max: limits.frame_max,
            heartbeat: limits.heartbeat_secs,
        };
        on_connection(out, connection::AMQPMethod::Tune(tune));
    }

    /// Answers `Event::Authenticate`: closes with 403 if the client can take it, else silently; the socket closes
    /// within 3 s (`DropReason::Refused`).
    pub fn login_refused(&mut self, now: Instant, out: &mut Output) {
        let State::Authenticating { mechanism } = &self.state else {
            return;
        };
        let until = now + REFUSAL_GRACE;
        if !self.capabilities.authentication_failure_close {
            self.state = State::Refused { until };
            return;
        }
        let violation = Violation::ConnectionSoft {
            code: SoftError::AccessRefused,
            text: format!(
                "Login was refused using authentication mechanism {mechanism}. For details see the broker logfile."
            ),
        };
        write_close(out, &violation, 0, 0);
        self.state = State::Closing {
            until,
            reason: DropReason::Refused,
        };
    }

    /// Answers `Event::Open`: writes `open-ok`.
    pub fn open_accepted(&mut self, out: &mut Output) {
        if matches!(self.state, State::Deciding) {
            self.state = State::Running;
            on_connection(out, connection::AMQPMethod::OpenOk(connection::OpenOk {}));
        }
    }

    /// Answers `Event::UpdateSecret`.
    pub fn secret_updated(&mut self, out: &mut Output) {
        if matches!(self.state, State::Running) {
            let answer = connection::UpdateSecretOk {};
            on_connection(out, connection::AMQPMethod::UpdateSecretOk(answer));
        }
    }

    /// Answers `Event::OpenChannel`: writes `open-ok`.
    pub fn channel_accepted(&mut self, channel: ChannelId, out: &mut Output) {
        if matches!(self.state, State::Running) {
            let answer = channel::AMQPMethod::OpenOk(channel::OpenOk {});
            on_channel(out, channel, answer);
        }
    }

    /// Answers `Event::CloseChannel`: writes `close-ok`; the number is free again.
    pub fn channel_closed(&mut self, channel: ChannelId, out: &mut Output) {
        if let Some(at) = self.channels.find(channel)
            && matches!(self.channels.stand(at), Stand::ClientClosing)
        {
            self.channels.remove(at);
            let answer = channel::CloseOk {};
            on_channel(out, channel, channel::AMQPMethod::CloseOk(answer));
        }
    }

    /// Answers `Event::CloseConnection`: writes `close-ok`.
    pub fn connection_closed(&mut self, now: Instant, out: &mut Output) {
        if matches!(self.state, State::ClientClosing) {
            on_connection(out, connection::AMQPMethod::CloseOk(connection::CloseOk {}));
            self.state = State::Closed {
                until: now + self.closing_grace(),
            };
        }
    }

    /// Closes a channel because of an error: writes `channel.close`. The driver has cleaned it up before. Does nothing
    /// if the channel is not open.
    pub fn channel_error(
        &mut self,
        channel: ChannelId,
        violation: &Violation,
        class: u16,
        method: u16,
        out: &mut Output,
    ) {
        if !matches!(self.state, State::Running) {
            return;
        }
        if let Some(at) = self.channels.find(channel)
            && matches!(self.channels.stand(at), Stand::Open | Stand::Publishing(_))
        {
            self.channels.place(at, Stand::Closing);
            let close = channel::Close {
                reply_code: violation.code(),
                reply_text: short(&violation.reply_text()),
                class_id: class,
                method_id: method,
            };
            on_channel(out, channel, channel::AMQPMethod::Close(close));
        }
    }

    /// Closes the connection: an error that reaches it, or an operator's wish. No `Event::Closing` follows. Before
    /// `tune-ok` the client is told nothing. Does nothing if it is closing already.
    pub fn close(
        &mut self,
        violation: &Violation,
        class: u16,
        method: u16,
        now: Instant,
        out: &mut Output,
    ) {
        self.shut(violation, (class, method), Framing::Intact, now, out);
    }

    /// [`channel_error`](Self::channel_error) or [`close`](Self::close), as the violation's scope demands.
    pub fn fail(
        &mut self,
        channel: ChannelId,
        violation: &Violation,
        class: u16,
        method: u16,
        now: Instant,
        out: &mut Output,
    ) -> Scope {
        match violation {
            Violation::Channel { .. } => {
                self.channel_error(channel, violation, class, method, out);
                Scope::Channel
            }
            Violation::Connection { .. } | Violation::ConnectionSoft { .. } => {
                self.close(violation, class, method, now, out);
                Scope::Connection
            }
        }
    }

    /// Tells a client with the capability that its publishing is held back.
    pub fn blocked(&mut self, reason: &str, out: &mut Output) {
        if matches!(self.state, State::Running) && self.capabilities.connection_blocked {
            let blocked = connection::Blocked {
                reason: short(reason),
            };
            on_connection(out, connection::AMQPMethod::Blocked(blocked));
        }
    }

    /// Ends [`blocked`](Self::blocked).
    pub fn unblocked(&mut self, out: &mut Output) {
        if matches!(self.state, State::Running) && self.capabilities.connection_blocked {
            let unblocked = connection::Unblocked {};
            on_connection(out, connection::AMQPMethod::Unblocked(unblocked));
        }
    }

    /// When to call [`timer`](Self::timer) next. Changes with every other call.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::AwaitingHeader
            | State::Starting
            | State::Authenticating { .. }
            | State::Tuning
            | State::Opening
            | State::Deciding => Some(
                self.heartbeat
                    .deadline()
                    .map_or(self.handshake_until, |due| due.min(self.handshake_until)),
            ),
            State::Running | State::ClientClosing => self.heartbeat.deadline(),
            State::Closing { until, .. } | State::Closed { until } | State::Refused { until } => {
                Some(*until)
            }
            State::Finished => None,
        }
    }

    /// Does what is due by `now`: heartbeats, time-outs. Early calls do no harm.
    pub fn timer(&mut self, now: Instant, out: &mut Output) -> TimerOutcome {
        let reason = match &self.state {
            State::AwaitingHeader
            | State::Starting
            | State::Authenticating { .. }
            | State::Tuning
            | State::Opening
            | State::Deciding => {
                if now >= self.handshake_until {
                    Some(DropReason::HandshakeTimeout)
                } else {
                    self.beat(now, out)
                }
            }
            State::Running | State::ClientClosing => self.beat(now, out),
            State::Closing { until, reason } => (now >= *until).then_some(*reason),
            State::Closed { until } => (now >= *until).then_some(DropReason::ClosingTimeout),
            State::Refused { until } => (now >= *until).then_some(DropReason::Refused),
            State::Finished => None,
        };
        reason.map_or(TimerOutcome::Nothing, |reason| {
            self.finish();
            TimerOutcome::Dropped(reason)
        })
    }

    /// The socket took octets.
    pub const fn wrote(&mut self, _now: Instant) {
        self.heartbeat.wrote();
    }

    /// The driver stops reading: silence is not the client's fault.
    pub const fn pause_monitor(&mut self) {
        self.heartbeat.pause();
    }

    /// The driver reads again: the client's time starts anew.
    pub fn resume_monitor(&mut self, now: Instant) {
        self.heartbeat.resume(now);
    }

    /// Where the connection stands.
    #[must_use]
    pub const fn state(&self) -> SessionState {
        match self.state {
            State::AwaitingHeader => SessionState::AwaitingHeader,
            State::Starting => SessionState::Starting,
            State::Authenticating { .. } => SessionState::Authenticating,
            State::Tuning => SessionState::Tuning,
            State::Opening => SessionState::Opening,
            State::Deciding => SessionState::Deciding,
            State::Running => SessionState::Running,
            State::ClientClosing => SessionState::ClientClosing,
            State::Closing { .. } => SessionState::Closing,
            State::Closed { .. } => SessionState::Closed,
            State::Refused { .. } => SessionState::Refused,
            State::Finished => SessionState::Finished,
        }
    }

    /// Close the socket once the output is written.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        matches!(self.state, State::Finished)
    }

    /// Agreed frame size in octets with overhead; 0 means no limit.
    #[must_use]
    pub const fn frame_max(&self) -> u32 {
        self.frame_max
    }

    /// Largest number of channels open at once; 0 means no limit.
    #[must_use]
    pub const fn channel_max(&self) -> u16 {
        self.channel_max
    }

    /// Agreed heartbeat interval in seconds; 0 means none.
    #[must_use]
    pub const fn heartbeat_secs(&self) -> u16 {
        self.heartbeat.interval_secs()
    }

    /// Channels open now, closing ones included.
    #[must_use]
    pub const fn channels_open(&self) -> usize {
        self.channels.len()
    }

    /// Octets of memory held by messages that are still arriving.
    #[must_use]
    pub const fn unfinished_bytes(&self) -> u64 {
        self.channels.unfinished()
    }

    /// What the client said it can do.
    #[must_use]
    pub const fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn step<'a>(&mut self, rest: &'a [u8], now: Instant, out: &mut Output) -> Step<'a> {
        match &self.state {
            State::AwaitingHeader => self.protocol_header(rest, out),
            // What comes next is looked at when the driver has answered.
            State::Authenticating { .. } | State::Deciding => Step::Wait,
            State::ClientClosing
            | State::Closed { .. }
            | State::Refused { .. }
            | State::Finished => {
                if rest.is_empty() {
                    Step::Wait
                } else {
                    Step::Done(rest.len())
                }
            }
            State::Starting
            | State::Tuning
            | State::Opening
            | State::Running
            | State::Closing { .. } => match mamba_codec::frame(rest, self.payload_max()) {
                Ok(Some((frame, octets))) => self.frame(frame, octets, rest, now, out),
                Ok(None) => Step::Wait,
                Err(error) => {
                    let violation = error.violation();
                    self.broken(rest.len(), violation, (0, 0), Framing::Lost, now, out)
                }
            },
        }
    }

    fn payload_max(&self) -> u32 {
        match &self.state {
            State::Opening | State::Deciding | State::Running | State::Closing { .. }
                if self.frame_max == 0 =>
            {
                UNLIMITED_PAYLOAD_MAX
            }
            State::Opening
            | State::Deciding
            | State::Running
            | State::ClientClosing
            | State::Closing { .. } => self.frame_max,
            State::AwaitingHeader
            | State::Starting
            | State::Authenticating { .. }
            | State::Tuning
            | State::Closed { .. }
            | State::Refused { .. }
            | State::Finished => self.config.limits.initial_frame_max,
        }
    }

    fn protocol_header<'a>(&mut self, rest: &'a [u8], out: &mut Output) -> Step<'a> {
        let Some((octets, _)) = rest.split_first_chunk::<8>() else {
            return Step::Wait;
        };
        // AMQP 0-9 is taken for 0-9-1, as the reference broker does.
        if *octets != PROTOCOL_HEADER && octets != b"AMQP\x01\x01\x00\x09" {
            out.buffer().extend_from_slice(&PROTOCOL_HEADER);
            self.finish();
            return Step::Happened(rest.len(), Event::WrongProtocol { octets: *octets });
        }
        self.state = State::Starting;
        let start = connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: self.config.server_properties.clone(),
            mechanisms: LongString::from(self.config.mechanisms.as_str()),
            locales: LongString::from("en_US"),
        };
        on_connection(out, connection::AMQPMethod::Start(start));
        Step::Done(octets.len())
    }

    #[inline]
    fn frame<'a>(
        &mut self,
        frame: Frame<'a>,
        octets: usize,
        rest: &'a [u8],
        now: Instant,
        out: &mut Output,
    ) -> Step<'a> {
        let closing = matches!(self.state, State::Closing { .. });
        match frame.kind {
            FrameKind::Heartbeat if frame.channel.0 == 0 || closing => Step::Done(octets),
            FrameKind::Method | FrameKind::Header | FrameKind::Body
                if frame.channel.0 != 0 && matches!(self.state, State::Running) =>
            {
                self.channel_frame(frame, octets, rest, now, out)
            }
            FrameKind::Method if frame.channel.0 == 0 && !closing => {
                self.connection_method(frame.payload, octets, now, out)
            }
            FrameKind::Method if frame.channel.0 == 0 => self.while_closing(&frame, octets, out),
            _ if closing => Step::Done(octets),
            FrameKind::Heartbeat | FrameKind::Method | FrameKind::Header | FrameKind::Body => {
                let violation = unexpected_frame(frame.describe());
                self.broken(octets, violation, (0, 0), Framing::Intact, now, out)
            }
        }
    }

    /// Only the end of the closing is of interest.
    fn while_closing<'a>(
        &mut self,
        frame: &Frame<'a>,
        octets: usize,
        out: &mut Output,
    ) -> Step<'a> {
        match mamba_codec::class_method(frame.payload) {
            Some((10, 50)) => {
                on_connection(out, connection::AMQPMethod::CloseOk(connection::CloseOk {}));
            }
            Some((10, 51)) => self.finish(),
            _ => {}
        }
        Step::Done(octets)
    }

    fn connection_method<'a>(
        &mut self,
        payload: &'a [u8],
        octets: usize,
        now: Instant,
        out: &mut Output,
    ) -> Step<'a> {
        let ids = mamba_codec::class_method(payload).unwrap_or_default();
        let method = match mamba_codec::method(payload, &self.config.limits) {
            Ok(Method::Other(method)) => *method,
            Ok(
                Method::Publish(_)
                | Method::Ack { .. }
                | Method::Nack { .. }
                | Method::Reject { .. },
            ) => return self.out_of_place(octets, ids, now, out),
            Err(error) => {
                let (violation, ids) = (error.violation(), error.class_method());
                return self.broken(octets, violation, ids, Framing::Intact, now, out);
            }
        };
        let AMQPClass::Connection(method) = method else {
            return self.out_of_place(octets, ids, now, out);
        };
        use connection::AMQPMethod as M;
        match (&self.state, method) {
            (State::Starting, M::StartOk(start_ok)) => self.start_ok(start_ok, octets, now),
            (State::Tuning, M::TuneOk(tune_ok)) => self.tune_ok(&tune_ok, octets, now, out),
            (State::Opening, M::Open(open)) => {
                self.state = State::Deciding;
                let vhost = open.virtual_host.into();
                Step::Happened(octets, Event::Open { vhost })
            }
            (State::Running, M::Close(_)) => {
                self.state = State::ClientClosing;
                self.channels.clear();
                Step::Happened(octets, Event::CloseConnection)
            }
            (State::Running, M::UpdateSecret(update)) => {
                let secret = Secret(update.new_secret.as_bytes().to_vec());
                Step::Happened(octets, Event::UpdateSecret { secret })
            }
            (
                _,
                M::Start(_)
                | M::StartOk(_)
                | M::Secure(_)
                | M::SecureOk(_)
                | M::Tune(_)
                | M::TuneOk(_)
                | M::Open(_)
                | M::OpenOk(_)
                | M::Close(_)
                | M::CloseOk(_)
                | M::Blocked(_)
                | M::Unblocked(_)
                | M::UpdateSecret(_)
                | M::UpdateSecretOk(_),
            ) => self.out_of_place(octets, ids, now, out),
        }
    }

    fn out_of_place<'a>(
        &mut self,
        octets: usize,
        ids: (u16, u16),
        now: Instant,
        out: &mut Output,
    ) -> Step<'a> {
        let state = match self.state {
            State::AwaitingHeader | State::Starting => "starting",
            State::Authenticating { .. } => "securing",
            State::Tuning => "tuning",
            State::Opening | State::Deciding => "opening",
            State::Running => "running",
            State::ClientClosing
            | State::Closing { .. }
            | State::Closed { .. }
            | State::Refused { .. }
            | State::Finished => "closing",
        };
        let violation = Violation::connection(
            HardError::ChannelError,
            format!("unexpected method in connection state {state}"),
        );
        self.broken(octets, violation, ids, Framing::Intact, now, out)
    }

    fn start_ok<'a>(
        &mut self,
        start_ok: connection::StartOk,
        octets: usize,
        now: Instant,
    ) -> Step<'a> {
        let mechanism = start_ok.mechanism;
        let offered = self
            .config
            .mechanisms
            .split_whitespace()
            .any(|offered| offered == mechanism.as_str());
        let read = if offered {
            sasl::credentials(
                mechanism.as_str(),
                start_ok.response.as_bytes(),
                &self.config.limits,
            )
        } else {
            Err(Violation::connection(
                HardError::CommandInvalid,
                format!(
                    "authentication mechanism '{}' is not offered",
                    mechanism.as_str().escape_debug()
                ),
            ))
        };
        match read {
            Ok(credentials) => {
                self.capabilities = sasl::capabilities(&start_ok.client_properties);
                let login = Login {
                    mechanism: mechanism.as_str().to_owned(),
                    credentials,
                    client_properties: start_ok.client_properties,
                    capabilities: self.capabilities,
                };
                self.state = State::Authenticating { mechanism };
                Step::Happened(octets, Event::Authenticate(Box::new(login)))
            }
            Err(violation) => {
                self.state = State::Refused {
                    until: now + REFUSAL_GRACE,
                };
                Step::Happened(octets, Event::Closing(violation))
            }
        }
    }

    fn tune_ok<'a>(
        &mut self,
        tune_ok: &connection::TuneOk,
        octets: usize,
        now: Instant,
        out: &mut Output,
    ) -> Step<'a> {
        self.state = State::Opening;
        let limits = &self.config.limits;
        let (frame_max, channel_max) = (tune_ok.frame_max, tune_ok.channel_max);
        let refusal = if frame_max != 0 && frame_max < FRAME_MIN_SIZE {
            Some(format!(
                "negotiated frame_max = {frame_max} is lower than the minimum allowed value ({FRAME_MIN_SIZE})"
            ))
        } else if limits.frame_max != 0 && (frame_max == 0 || frame_max > limits.frame_max) {
            Some(format!(
                "negotiated frame_max = {frame_max} is higher than the maximum allowed value ({})",
                limits.frame_max
            ))
        } else if limits.channel_max != 0 && (channel_max == 0 || channel_max > limits.channel_max)
        {
            let unlimited = if channel_max == 0 { " (no limit)" } else { "" };
            Some(format!(
                "negotiated channel_max = {channel_max}{unlimited} is higher than the maximum allowed value ({})",
                limits.channel_max
            ))
        } else {
            None
        };
        if let Some(text) = refusal {
            let violation = Violation::connection(HardError::NotAllowed, text);
            return self.broken(octets, violation, (10, 30), Framing::Intact, now, out);
        }
        self.frame_max = frame_max;
        self.channel_max = channel_max;
        self.heartbeat = Heartbeat::start(tune_ok.heartbeat, now);
        Step::Done(octets)
    }

    #[inline]
    fn channel_frame<'a>(
        &mut self,
        frame: Frame<'a>,
        octets: usize,
        rest: &'a [u8],
        now: Instant,
        out: &mut Output,
    ) -> Step<'a> {
        let Some(at) = self.channels.find(frame.channel) else {
            return self.unopened_channel(&frame, octets, now, out);
        };
        match self.channels.stand(at) {
            Stand::Open => {
                if frame.kind != FrameKind::Method {
                    return self.no_method(octets, now, out);
                }
                match mamba_codec::method(frame.payload, &self.config.limits) {
                    Ok(Method::Publish(args)) => {
                        self.publish(at, frame.channel, args, octets, rest, now, out)
                    }
                    Ok(Method::Ack { tag, multiple }) => {
                        let settlement = Settlement {
                            tag,
                            multiple,
                            kind: SettlementKind::Ack,
                            method: 80,
                        };
                        Step::Happened(octets, Event::Settle(frame.channel, settlement))
                    }
                    Ok(Method::Nack {
                        tag,
                        multiple,
                        requeue,
                    }) => {
                        let settlement = Settlement {
                            tag,
                            multiple,
                            kind: not_acked(requeue),
                            method: 120,
                        };
                        Step::Happened(octets, Event::Settle(frame.channel, settlement))
                    }
                    Ok(Method::Reject { tag, requeue }) => {
                        let settlement = Settlement {
                            tag,
                            multiple: false,
                            kind: rejected(requeue),
                            method: 90,
                        };
                        Step::Happened(octets, Event::Settle(frame.channel, settlement))
                    }
                    Ok(Method::Other(method)) => {
                        self.channel_method(at, frame.channel, method, octets, now, out)
                    }
                    Err(error) => {
                        let (violation, ids) = (error.violation(), error.class_method());
                        self.broken(octets, violation, ids, Framing::Intact, now, out)
                    }
                }
            }
            Stand::Publishing(_) => self.content(at, &frame, octets, now, out),
            Stand::Closing => {
                if frame.kind == FrameKind::Method {
                    match mamba_codec::class_method(frame.payload) {
                        Some((20, 40)) => {
                            let answer = channel::CloseOk {};
                            on_channel(out, frame.channel, channel::AMQPMethod::CloseOk(answer));
                        }
                        Some((20, 41)) => self.channels.remove(at),
                        _ => {}
                    }
                }
                Step::Done(octets)
            }
            Stand::ClientClosing => Step::Done(octets),
        }
    }

    fn unopened_channel<'a>(
        &mut self,
        frame: &Frame<'a>,
        octets: usize,
        now: Instant,
        out: &mut Output,
    ) -> Step<'a> {
        let open = self.channels.len();
        if self.channel_max != 0 && open >= usize::from(self.channel_max) {
            let violation = Violation::connection(
                HardError::NotAllowed,
                format!(
                    "number of channels opened ({open}) has reached the negotiated channel_max ({})",
                    self.channel_max
                ),
            );
            return self.broken(octets, violation, (0, 0), Framing::Intact, now, out);
        }
        if frame.kind != FrameKind::Method {
            return self.no_method(octets, now, out);
        }
        let ids = mamba_codec::class_method(frame.payload).unwrap_or_default();
        let (violation, ids) = match mamba_codec::method(frame.payload, &self.config.limits) {
            Ok(Method::Other(method))
                if matches!(*method, AMQPClass::Channel(channel::AMQPMethod::Open(_))) =>
            {
                self.channels.open(frame.channel);
                return Step::Happened(octets, Event::OpenChannel(frame.channel));
            }
            Ok(_) => {
                let text = "expected 'channel.open'";
                (Violation::connection(HardError::ChannelError, text), ids)
            }
            Err(error) => (error.violation(), error.class_method()),
        };
        self.broken(octets, violation, ids, Framing::Intact, now, out)
    }

    fn no_method<'a>(&mut self, octets: usize, now: Instant, out: &mut Output) -> Step<'a> {
        let violation = unexpected_frame("expected method frame, got non method frame instead");
        self.broken(octets, violation, (0, 0), Framing::Intact, now, out)
    }

    /// Every method but those with a path of their own, on an open channel that expects a method.
    fn channel_method<'a>(
        &mut self,
        at: usize,
        channel: ChannelId,
        method: Box<AMQPClass>,
        octets: usize,
        now: Instant,
        out: &mut Output,
    ) -> Step<'a> {
        let ids = (method.get_amqp_class_id(), method.get_amqp_method_id());
        let violation = match ids {
            (40 | 50, 10 | 20 | 30 | 40)
            | (50, 50)
            | (60, 10 | 20 | 30 | 70 | 100 | 110)
            | (85, 10)
            | (90, 10 | 20 | 30) => {
                return Step::Happened(octets, Event::Method(channel, method));
            }
            // The answer to a cancel of the server's. Nobody waits for it.
            (60, 31) => return Step::Done(octets),
            (20, 40) => {
                self.channels.place(at, Stand::ClientClosing);
                return Step::Happened(octets, Event::CloseChannel(channel));
            }
            (30, 10) => {
                let answer = access::AMQPMethod::RequestOk(access::RequestOk {});
                mamba_codec::write_method(out.buffer(), channel, &AMQPClass::Access(answer));
                return Step::Done(octets);
            }
            (20, 20) => {
                if let AMQPClass::Channel(channel::AMQPMethod::Flow(flow)) = *method
                    && flow.active
                {
                    let answer = channel::FlowOk { active: true };
                    on_channel(out, channel, channel::AMQPMethod::FlowOk(answer));
                    return Step::Done(octets);
                }
                Violation::connection(HardError::NotImplemented, "active=false")
            }
            (20, 10) => {
                Violation::connection(HardError::ChannelError, "second 'channel.open' seen")
            }
            _ => Violation::connection(HardError::CommandInvalid, "unimplemented method"),
        };
        self.broken(octets, violation, ids, Framing::Intact, now, out)
    }

    /// `basic.publish`: done at once if the whole content lies in the input.
    #[inline]
    #[expect(
        clippy::too_many_arguments,
        reason = "the hot path hands on what it has looked up"
    )]
    fn publish<'a>(
        &mut self,
        at: usize,
        channel: ChannelId,
        args: PublishArgs<'a>,
        octets: usize,
        rest: &'a [u8],
        now: Instant,
        out: &mut Output,
    ) -> Step<'a> {
        if let Some((header, body, more)) = self.whole_content(channel, &rest[octets..]) {
            let publish = Publish {
                mandatory: args.mandatory,
                immediate: args.immediate,
                content: Content::Whole {
                    exchange: args.exchange,
                    routing_key: args.routing_key,
                    header,
                    body,
                },
            };
            return Step::Happened(octets + more, Event::Publish(channel, publish));
        }
        let pending = Pending {
            exchange: args.exchange.to_vec(),
            routing_key: args.routing_key.to_vec(),
            mandatory: args.mandatory,
            immediate: args.immediate,
            stage: Stage::AwaitingHeader,
        };
        self.channels
            .place(at, Stand::Publishing(Box::new(pending)));
        self.within_bounds(octets, now, out)
    }

    /// The content header, the body and their octets in `rest` if `rest` begins with exactly the frames of one
    /// content whose body takes one frame or none. Anything else, errors included, is left to [`Self::content`].
    #[inline]
    fn whole_content<'a>(
        &self,
        channel: ChannelId,
        rest: &'a [u8],
    ) -> Option<(&'a [u8], &'a [u8], usize)> {
        let payload_max = self.payload_max();
        let (frame, header_octets) = mamba_codec::frame(rest, payload_max).ok()??;
        if frame.kind != FrameKind::Header || frame.channel != channel {
            return None;
        }
        let header = mamba_codec::content_header(frame.payload).ok()?;
        if header.class != PUBLISH.0
            || header.weight != 0
            || header.body_size > self.config.limits.message_size_max
        {
            return None;
        }
        if header.body_size == 0 {
            return Some((frame.payload, &[], header_octets));
        }
        let (body, body_octets) =
            mamba_codec::frame(&rest[header_octets..], payload_max).ok()??;
        if body.kind != FrameKind::Body
            || body.channel != channel
            || body.payload.len() as u64 != header.body_size
        {
            return None;
        }
        Some((frame.payload, body.payload, header_octets + body_octets))
    }

    /// A frame on a channel in the middle of a content.
    fn content<'a>(
        &mut self,
        at: usize,
        frame: &Frame<'a>,
        octets: usize,
        now: Instant,
        out: &mut Output,
    ) -> Step<'a> {
        let Stand::Publishing(mut pending) = self.channels.place(at, Stand::Open) else {
            return Step::Done(octets);
        };
        let advanced = match pending.stage {
            Stage::AwaitingHeader if frame.kind == FrameKind::Header => {
                match mamba_codec::content_header(frame.payload) {
                    Ok(header) => self.content_header(&mut pending, &header, frame.payload),
                    Err(error) => {
                        let violation = error.violation();
                        return self.broken(octets, violation, (0, 0), Framing::Intact, now, out);
                    }
                }
            }
            Stage::AwaitingHeader => Err(no_content_header()),
            Stage::AwaitingBody { .. } | Stage::Counting { .. } => body_frame(&mut pending, frame),
        };
        if let Err(violation) = advanced {
            return self.broken(octets, violation, PUBLISH, Framing::Intact, now, out);
        }
        let Pending {
            mandatory,
            immediate,
            ..
        } = *pending;
        let content = match pending.stage {
            Stage::AwaitingBody {
                record,
                remaining: 0,
            } => Content::Assembled(record),
            Stage::Counting { size, remaining: 0 } => Content::TooLarge {
                exchange: pending.exchange,
                routing_key: pending.routing_key,
                size,
            },
            Stage::AwaitingHeader | Stage::AwaitingBody { .. } | Stage::Counting { .. } => {
                self.channels.place(at, Stand::Publishing(pending));
                return self.within_bounds(octets, now, out);
            }
        };
        let publish = Publish {
            mandatory,
            immediate,
            content,
        };
        Step::Happened(octets, Event::Publish(frame.channel, publish))
    }

    fn content_header(
        &self,
        pending: &mut Pending,
        header: &ContentHeader<'_>,
        payload: &[u8],
    ) -> Result<(), Violation> {
        if header.weight != 0 {
            return Err(no_content_header());
        }
        if header.class != PUBLISH.0 {
            return Err(unexpected_frame(format!(
                "expected content header for class 60, got one for class {} instead",
                header.class
            )));
        }
        let size = header.body_size;
        if size > BODY_SIZE_CAP {
            return Err(Violation::connection(
                HardError::FrameError,
                format!("content body size {size} exceeds maximum allowed size {BODY_SIZE_CAP}"),
            ));
        }
        pending.stage = match u32::try_from(size) {
            Ok(body_len) if size <= self.config.limits.message_size_max => {
                let (exchange, routing_key) = (&pending.exchange, &pending.routing_key);
                Stage::AwaitingBody {
                    record: Assembled::begin(exchange, routing_key, payload, body_len),
                    remaining: size,
                }
            }
            _ => Stage::Counting {
                size,
                remaining: size,
            },
        };
        Ok(())
    }

    /// Closes the connection if its unfinished messages together hold too much.
    fn within_bounds<'a>(&mut self, octets: usize, now: Instant, out: &mut Output) -> Step<'a> {
        let limits = &self.config.limits;
        // One message of the largest size must always be possible.
        let most = limits
            .unfinished_bytes_max
            .max(limits.message_size_max.saturating_add(CONTENT_OVERHEAD));
        let held = self.channels.unfinished();
        if held <= most {
            return Step::Done(octets);
        }
        let violation = Violation::connection(
            HardError::ResourceError,
            format!(
                "unfinished messages on this connection hold {held} octets, at most {most} are allowed: \
                 send fewer large messages at once or use more connections"
            ),
        );
        self.broken(octets, violation, PUBLISH, Framing::Intact, now, out)
    }

    /// The client broke a rule of the connection.
    #[cold]
    fn broken<'a>(
        &mut self,
        octets: usize,
        violation: Violation,
        ids: (u16, u16),
        framing: Framing,
        now: Instant,
        out: &mut Output,
    ) -> Step<'a> {
        if self.shut(&violation, ids, framing, now, out) {
            return Step::Happened(octets, Event::Closing(violation));
        }
        // Closing already: octets that are no frames end the wait for close-ok.
        if framing == Framing::Lost && !self.is_finished() {
            self.state = State::Refused {
                until: now + REFUSAL_GRACE,
            };
        }
        Step::Done(octets)
    }

    /// Stops the connection, with a word if the client can hear it. Returns whether it was still going.
    fn shut(
        &mut self,
        violation: &Violation,
        (class, method): (u16, u16),
        framing: Framing,
        now: Instant,
        out: &mut Output,
    ) -> bool {
        let refused = State::Refused {
            until: now + REFUSAL_GRACE,
        };
        match &self.state {
            State::AwaitingHeader
            | State::Starting
            | State::Authenticating { .. }
            | State::Tuning => self.state = refused,
            State::Opening | State::Deciding | State::Running => {
                write_close(out, violation, class, method);
                self.state = match framing {
                    Framing::Intact => State::Closing {
                        until: now + self.closing_grace(),
                        reason: DropReason::ClosingTimeout,
                    },
                    Framing::Lost => refused,
                };
            }
            State::ClientClosing
            | State::Closing { .. }
            | State::Closed { .. }
            | State::Refused { .. }
            | State::Finished => return false,
        }
        self.channels.clear();
        true
    }

    fn finish(&mut self) {
        self.state = State::Finished;
        self.channels.clear();
    }

    fn beat(&mut self, now: Instant, out: &mut Output) -> Option<DropReason> {
        match self.heartbeat.timer(now) {
            Pulse::Quiet => None,
            Pulse::Send => {
                mamba_codec::write_heartbeat(out.buffer());
                None
            }
            Pulse::Dead => Some(DropReason::MissedHeartbeats {
                interval_secs: self.heartbeat.interval_secs(),
            }),
        }
    }

    /// The heartbeat interval, at most 30 s; 30 s without heartbeats.
    fn closing_grace(&self) -> Duration {
        match self.heartbeat.interval_secs() {
            0 => CLOSING_GRACE_MAX,
            secs => Duration::from_secs(u64::from(secs)).min(CLOSING_GRACE_MAX),
        }
    }
}

fn body_frame(pending: &mut Pending, frame: &Frame<'_>) -> Result<(), Violation> {
    if frame.kind != FrameKind::Body {
        return Err(unexpected_frame(
            "expected content body, got non content body frame instead",
        ));
    }
    let (Stage::AwaitingBody { remaining, .. } | Stage::Counting { remaining, .. }) =
        &mut pending.stage
    else {
        return Ok(());
    };
    let before = *remaining;
    *remaining = before
        .checked_sub(frame.payload.len() as u64)
        .ok_or_else(|| {
            Violation::connection(
                HardError::FrameError,
                "content body frame exceeds remaining content size",
            )
        })?;
    if let Stage::AwaitingBody { record, .. } = &mut pending.stage {
        record.append(frame.payload, before);
    }
    Ok(())
}

fn rejected(requeue: bool) -> SettlementKind {
    if requeue {
        SettlementKind::Failed
    } else {
        SettlementKind::Discard
    }
}

fn not_acked(requeue: bool) -> SettlementKind {
    if requeue {
        SettlementKind::Requeue
    } else {
        SettlementKind::Discard
    }
}

fn unexpected_frame(text: impl Into<String>) -> Violation {
    Violation::connection(HardError::UnexpectedFrame, text)
}

fn no_content_header() -> Violation {
    unexpected_frame("expected content header for class 60, got non content header frame instead")
}

fn write_close(out: &mut Output, violation: &Violation, class: u16, method: u16) {
    let close = connection::Close {
        reply_code: violation.code(),
        reply_text: short(&violation.reply_text()),
        class_id: class,
        method_id: method,
    };
    on_connection(out, connection::AMQPMethod::Close(close));
}

fn on_connection(out: &mut Output, method: connection::AMQPMethod) {
    mamba_codec::write_method(out.buffer(), ChannelId(0), &AMQPClass::Connection(method));
}

fn on_channel(out: &mut Output, channel: ChannelId, method: channel::AMQPMethod) {
    mamba_codec::write_method(out.buffer(), channel, &AMQPClass::Channel(method));
}

/// The text, or as much of it as a short string holds.
fn short(text: &str) -> ShortString {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    ShortString::from(&text[..end])
}
