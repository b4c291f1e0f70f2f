//! One connection.

use std::time::Instant;

use mamba_codec::Output;
use mamba_types::{ChannelId, FieldTable, Limits, Violation};

use crate::event::{Capabilities, Received, Scope, TimerOutcome};

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

/// The state machine of one connection and its channels.
#[derive(Debug)]
pub struct Session {}

impl Session {
    /// A connection that was accepted `now`.
    #[must_use]
    pub fn new(config: SessionConfig, now: Instant) -> Self {
        let _ = (config, now);
        todo!()
    }

    /// Takes octets from the client and says what they mean, at most one event a call. Call it again with the rest
    /// of the input until it returns no event.
    ///
    /// `input` must hold at least `frame_max` + 8 octets when that many have arrived.
    pub fn receive<'a>(&mut self, input: &'a [u8], now: Instant, out: &mut Output) -> Received<'a> {
        let _ = (input, now, out);
        todo!()
    }

    /// Answers `Event::Authenticate`: writes `tune`.
    pub fn login_accepted(&mut self, out: &mut Output) {
        let _ = out;
        todo!()
    }

    /// Answers `Event::Authenticate`: closes with 403 if the client can take it, else silently; the socket closes
    /// within 3 s (`DropReason::Refused`).
    pub fn login_refused(&mut self, now: Instant, out: &mut Output) {
        let _ = (now, out);
        todo!()
    }

    /// Answers `Event::Open`: writes `open-ok`.
    pub fn open_accepted(&mut self, out: &mut Output) {
        let _ = out;
        todo!()
    }

    /// Answers `Event::UpdateSecret`.
    pub fn secret_updated(&mut self, out: &mut Output) {
        let _ = out;
        todo!()
    }

    /// Answers `Event::CloseChannel`: writes `close-ok`; the number is free again.
    pub fn channel_closed(&mut self, channel: ChannelId, out: &mut Output) {
        let _ = (channel, out);
        todo!()
    }

    /// Answers `Event::CloseConnection`: writes `close-ok`.
    pub fn connection_closed(&mut self, now: Instant, out: &mut Output) {
        let _ = (now, out);
        todo!()
    }

    /// Closes a channel because of an error: writes `channel.close`. The driver has cleaned it up before.
    pub fn channel_error(
        &mut self,
        channel: ChannelId,
        violation: &Violation,
        class: u16,
        method: u16,
        out: &mut Output,
    ) {
        let _ = (channel, violation, class, method, out);
        todo!()
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
        let _ = (violation, class, method, now, out);
        todo!()
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
        let _ = (channel, violation, class, method, now, out);
        todo!()
    }

    /// Tells a client with the capability that its publishing is held back.
    pub fn blocked(&mut self, reason: &str, out: &mut Output) {
        let _ = (reason, out);
        todo!()
    }

    /// Ends [`blocked`](Self::blocked).
    pub fn unblocked(&mut self, out: &mut Output) {
        let _ = out;
        todo!()
    }

    /// When to call [`timer`](Self::timer) next. Changes with every other call.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        todo!()
    }

    /// Does what is due by `now`: heartbeats, time-outs. Early calls do no harm.
    pub fn timer(&mut self, now: Instant, out: &mut Output) -> TimerOutcome {
        let _ = (now, out);
        todo!()
    }

    /// The socket took octets.
    pub fn wrote(&mut self, now: Instant) {
        let _ = now;
        todo!()
    }

    /// The driver stops reading: silence is not the client's fault.
    pub fn pause_monitor(&mut self) {
        todo!()
    }

    /// The driver reads again: the client's time starts anew.
    pub fn resume_monitor(&mut self, now: Instant) {
        let _ = now;
        todo!()
    }

    /// Where the connection stands.
    #[must_use]
    pub fn state(&self) -> SessionState {
        todo!()
    }

    /// Close the socket once the output is written.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        todo!()
    }

    /// Agreed frame size in octets with overhead; 0 means no limit.
    #[must_use]
    pub fn frame_max(&self) -> u32 {
        todo!()
    }

    /// Largest number of channels open at once; 0 means no limit.
    #[must_use]
    pub fn channel_max(&self) -> u16 {
        todo!()
    }

    /// Agreed heartbeat interval in seconds; 0 means none.
    #[must_use]
    pub fn heartbeat_secs(&self) -> u16 {
        todo!()
    }

    /// Channels open now, closing ones included.
    #[must_use]
    pub fn channels_open(&self) -> usize {
        todo!()
    }

    /// What the client said it can do.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        todo!()
    }
}
