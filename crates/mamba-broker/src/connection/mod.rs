//! One client connection: session events in, broker work done, frames out. No sockets: the server feeds
//! octets and takes octets.
//!
//! ```text
//!   receive(octets) -> session -> event -> publish | settle | method      (this task's input)
//!   pump()          <- outbox: deliveries, cancels, close                  (other tasks' input)
//!                   <- log: durable position -> confirms, commits
//! ```
//!
//! Publishes and settlements of one turn are gathered and handed to each queue under one lock. [`Core`] is the
//! part behind the session; its methods are spread over this folder by subject.

mod channel;
mod consume;
mod delay;
mod direct;
mod login;
mod publish;
mod settle;
mod timeout;
mod told;
mod topology;
mod trace;
mod transaction;

pub use direct::{Direct, Got, Published, Verdict};

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    task::Waker,
    time::Instant,
};

use mamba_codec::{
    AMQPClass, FRAME_HEADER_LEN, Output, class_method, protocol, write_ack, write_get_ok,
    write_method, write_nack,
};
use mamba_session::{
    Capabilities, Confirm, DropReason, Event, Session, SessionConfig, SessionState, TimerOutcome,
};
use mamba_store::log::BACKLOG_BYTES_MAX;
use mamba_types::{ChannelId, DeliveryTag, HardError, LogPosition, Message, Violation};

use self::{
    channel::{Channel, Mode},
    consume::{Consumers, InternedQueues},
    login::Proving,
    publish::Publisher,
    settle::Settlements,
    timeout::Deadlines,
};
use crate::{
    access::{Account, Identity, UserSeat},
    broker::Broker,
    commit::{Commit, CommitState},
    metrics::Counts,
    outbox::{Notice, Outbox},
    pacing::Pacing,
    queue_cell::QueueCell,
    registry::{ConnectionDetail, Introduced, Presence},
    transport::TlsFacts,
    vhost::{Vhost, VhostSeat},
};

/// The time, as an argument.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For time-outs.
    pub instant: Instant,
    /// Milliseconds since 1970, for what outlives the process.
    pub unix_ms: u64,
}

/// Octets of output above which deliveries wait in the outbox.
const OUTPUT_HIGH: usize = 262_144;

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    session: Session,
    out: Output,
    core: Core,
    ended: bool,
    /// The client has been told that it is blocked, or would have been had it asked.
    blocked: bool,
    /// See [`Self::expect_more`].
    more: bool,
}

/// Who logged in, and where.
#[derive(Debug)]
pub(crate) struct LoggedIn {
    pub(crate) user: Arc<Identity>,
    pub(crate) vhost: Arc<Vhost>,
    user_seat: UserSeat,
    _vhost_seat: Option<VhostSeat>,
}

/// Everything behind the session.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) id: u64,
    pub(crate) broker: Arc<Broker>,
    pub(crate) outbox: Arc<Outbox>,
    /// Who logged in, until a virtual host is open.
    account: Option<Account>,
    /// What waits for keys of tokens.
    proving: Option<Proving>,
    /// When the token it came with ends.
    expires: Option<Instant>,
    pub(crate) login: Option<LoggedIn>,
    /// Its virtual host is traced, as of the turn's beginning.
    traced: bool,
    /// Boxed: the map's smallest node has room for eleven, and most connections have one.
    pub(crate) channels: BTreeMap<ChannelId, Box<Channel>>,
    pub(crate) consumers: Consumers,
    /// Exclusive queues this connection declared.
    pub(crate) exclusive: Vec<Arc<QueueCell>>,
    pub(crate) queues: InternedQueues,
    pub(crate) publisher: Publisher,
    pub(crate) settlements: Settlements,
    /// Channels with confirms outstanding.
    pub(crate) confirming: Vec<ChannelId>,
    /// A log position somebody will ring for.
    expecting: Option<LogPosition>,
    pub(crate) pacing: Pacing,
    /// The log position that makes everything this connection published durable.
    stored_up_to: LogPosition,
    /// It has published stored messages in this turn.
    published_stored: bool,
    /// Reading waits until the log is durable up to here: it is far behind.
    log_pause: Option<LogPosition>,
    /// Definitions on their way of queues that were published to.
    definitions: Vec<Arc<Commit>>,
    /// A wish to close that came while something else was sent.
    close_wish: Option<Violation>,
    able: Capabilities,
    /// Of deliveries that are out.
    pub(crate) deadlines: Deadlines,
    /// What the connection waits for before it reads on.
    waiting: Option<Waiting>,
    backlog: VecDeque<Notice>,
    /// Cancels that must not overtake a delete-ok that waits for the disk.
    held_back: Vec<Notice>,
    pub(crate) counts: Counts,
    pub(crate) frame_max: u32,
    presence: Arc<Presence>,
    client: Introduced,
}

/// The way a connection came.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The client.
    pub(crate) peer: SocketAddr,
    /// What it connected to.
    pub(crate) local: SocketAddr,
    pub(crate) tls: Option<Arc<TlsFacts>>,
}

/// A reply that leaves when its change is durable. Input waits meanwhile, so that order is kept.
#[derive(Debug)]
struct Waiting {
    until: Until,
    channel: ChannelId,
    reply: Reply,
}

#[derive(Debug)]
enum Until {
    Committed(Arc<Commit>),
    Durable(LogPosition),
    /// Durable, unless there is no disk to wait for.
    Noted(LogPosition),
}

/// What leaves after the wait.
#[derive(Debug)]
enum Reply {
    Nothing,
    Method(AMQPClass),
    Got(Box<GotReply>),
}

/// A message for `basic.get`.
#[derive(Debug)]
pub(crate) struct GotReply {
    pub(crate) tag: DeliveryTag,
    pub(crate) redelivered: bool,
    pub(crate) message: Message,
    pub(crate) remaining: u32,
}

impl GotReply {
    fn write(&self, channel: ChannelId, frame_max: u32, out: &mut Output) {
        write_get_ok(
            out,
            channel,
            self.tag,
            self.redelivered,
            &self.message,
            self.remaining,
            frame_max,
        );
    }
}

/// A violation with the method that caused it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) violation: Violation,
    pub(crate) class: u16,
    pub(crate) method: u16,
}

impl Connection {
    pub(crate) fn new(
        broker: Arc<Broker>,
        outbox: Arc<Outbox>,
        config: Arc<SessionConfig>,
        presence: Arc<Presence>,
        now: Now,
    ) -> Self {
        let mut counts = Counts {
            connections_opened: 1,
            ..Counts::default()
        };
        broker.metrics.add(&mut counts);
        tracing::debug!(connection = outbox.connection, peer = %presence.origin.peer, tls = presence.origin.tls.is_some(), "connection accepted");
        Self {
            session: Session::new(config, now.instant),
            out: Output::new(),
            core: Core {
                counts,
                ..Core::new(broker, outbox, presence, now)
            },
            ended: false,
            blocked: false,
            more: true,
        }
    }

    /// From now on `waker` is woken when there is something to [`Self::pump`].
    pub fn listen(&self, waker: &Waker) {
        self.core.outbox.listen(waker);
    }

    /// What is to be written.
    pub const fn output(&mut self) -> &mut Output {
        &mut self.out
    }

    /// Whether [`Self::receive`] would take input now. When not, reading waits: the client is blocked, or the
    /// disk or the client's own socket is behind.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        !self.ended
            && !self.blocked
            && self.core.waiting.is_none()
            && self.core.proving.is_none()
            && !self.core.pacing.is_paused()
            && self.out.len() < self.core.broker.config.limits.output_bytes_max
            && self.core.log_pause.is_none()
    }

    /// What follows happens at this time, for its queues too: they may have heard of none for long.
    fn tell_time(&mut self, now: Now) {
        self.core.deadlines.now = now.instant;
        if let Some(login) = &self.core.login {
            login.vhost.set_time(now.unix_ms);
        }
    }

    /// Takes octets from the client; returns how many are done with.
    pub fn receive(&mut self, input: &[u8], now: Now) -> usize {
        let mut done = 0;
        let here = if self.more {
            None
        } else {
            self.core.broker.store.0.log().commit_here(self.core.id)
        };
        // Whoever is alone with the log is so with the definitions.
        let defining = here
            .as_ref()
            .and_then(|_| self.core.broker.store.0.definitions().commit_here());
        self.tell_time(now);
        self.core.look_for_tracing();
        let _acting = self.core.acting();
        while self.wants_input() {
            let rest = input.get(done..).unwrap_or_default();
            let received = self.session.receive(rest, now.instant, &mut self.out);
            done += received.consumed;
            let Some(event) = received.event else { break };
            if !self.handle(event, now) {
                break;
            }
        }
        self.core.counts.bytes_received += done as u64;
        self.core.presence.received(done);
        self.core.flush();
        if !self.core.confirming.is_empty() {
            self.core.broker.store.0.log().waits(self.core.id);
            if let Some(here) = &here {
                here.commit();
            }
        }
        if self.core.waits_for_definitions() {
            self.core.broker.store.0.log().waits(self.core.id);
            if let Some(defining) = &defining {
                defining.commit();
            }
        }
        drop((defining, here));
        self.confirm(now);
        self.core.add_up();
        self.core.wait_for_log();
        if self.core.log_pause.is_some() {
            self.session.pause_monitor();
        }
        self.core.pacing.end_turn(&self.core.outbox, now.instant);
        done
    }

    fn handle(&mut self, event: Event<'_>, now: Now) -> bool {
        let Self {
            session, out, core, ..
        } = self;
        match event {
            Event::Publish(channel, publish) => {
                if let Err(violation) = core.publish(channel, publish, now, out) {
                    self.fail(
                        channel,
                        &Failure {
                            violation,
                            class: 60,
                            method: 40,
                        },
                        now,
                    );
                } else if core.broker.alarms().reason().is_some() {
                    self.block();
                }
            }
            Event::Settle(channel, settlement) => {
                if let Err(violation) = core.settle(channel, settlement) {
                    self.fail(
                        channel,
                        &Failure {
                            violation,
                            class: 60,
                            method: settlement.method,
                        },
                        now,
                    );
                }
            }
            Event::Method(channel, method) => {
                core.flush();
                let (class, id) = identity(&method);
                if let Err(violation) = core.method(channel, *method, out) {
                    self.fail(
                        channel,
                        &Failure {
                            violation,
                            class,
                            method: id,
                        },
                        now,
                    );
                }
            }
            Event::OpenChannel(channel) => match core.open_channel(channel) {
                Ok(()) => session.channel_accepted(channel, out),
                Err(violation) => {
                    tracing::warn!(connection = core.id, peer = %core.presence.origin.peer, reason = %violation, "connection closed");
                    core.flush();
                    core.clean_up();
                    session.close(&violation, 0, 0, now.instant, out);
                }
            },
            Event::CloseChannel(channel) => {
                core.flush();
                core.close_channel(channel);
                session.channel_closed(channel, out);
            }
            Event::CloseConnection => {
                core.flush();
                core.clean_up();
                session.connection_closed(now.instant, out);
            }
            Event::Authenticate(login) => self.log_in(login, now),
            Event::Open { vhost } => match core.open(&vhost, now) {
                Ok(()) => {
                    session.open_accepted(out);
                    core.frame_max = session.frame_max();
                    core.able = session.capabilities();
                    core.tell_opened(session);
                }
                Err(violation) => session.close(&violation, 10, 40, now.instant, out),
            },
            Event::UpdateSecret { secret } => self.renew_secret(secret, now),
            Event::WrongProtocol { octets } => {
                core.log_wrong_protocol(octets);
                return false;
            }
            Event::Closing(violation) => {
                tracing::warn!(connection = core.id, peer = %core.presence.origin.peer, reason = %violation, "connection closed: protocol violation");
                core.flush();
                core.clean_up();
            }
        }
        true
    }

    /// Closes the channel or the connection, as the violation's scope demands.
    fn fail(&mut self, channel: ChannelId, failure: &Failure, now: Now) {
        let Failure {
            violation,
            class,
            method,
        } = failure;
        let Self {
            session, out, core, ..
        } = self;
        core.flush();
        match violation {
            Violation::Channel { .. } => {
                tracing::info!(connection = core.id, peer = %core.presence.origin.peer, channel = channel.0, reason = %violation, "channel closed");
                core.close_channel(channel);
            }
            Violation::Connection { .. } | Violation::ConnectionSoft { .. } => {
                tracing::warn!(connection = core.id, peer = %core.presence.origin.peer, channel = channel.0, reason = %violation, "connection closed");
                core.clean_up();
            }
        }
        session.fail(channel, violation, *class, *method, now.instant, out);
    }

    /// Reads on once the log has caught up; the client could not show life meanwhile.
    fn end_log_pause(&mut self, now: Now) {
        let Some(position) = self.core.log_pause else {
            return;
        };
        let log = self.core.broker.store.0.log();
        if log.is_durable(position) || log.failed() {
            self.core.log_pause = None;
            self.session.resume_monitor(now.instant);
        }
    }

    fn block(&mut self) {
        if self.blocked {
            return;
        }
        if let Some(reason) = self.core.broker.alarms().reason() {
            self.blocked = true;
            self.session.blocked(reason, &mut self.out);
            self.session.pause_monitor();
            tracing::info!(
                connection = self.core.id,
                peer = %self.core.presence.origin.peer,
                reason,
                "publishing connection blocked"
            );
        }
    }

    /// Does what other tasks have left: deliveries, confirms, replies that waited for the disk, closing.
    pub fn pump(&mut self, now: Now) {
        self.tell_time(now);
        self.core.look_for_tracing();
        if self.blocked && self.core.broker.alarms().reason().is_none() {
            self.blocked = false;
            self.session.unblocked(&mut self.out);
            self.session.resume_monitor(now.instant);
        }
        self.core.pacing.check(now.instant);
        self.end_log_pause(now);
        self.finish_proving(now);
        self.finish_waiting(now);
        self.confirm(now);
        loop {
            // It may have come with what a cancel sent ahead of its reply, and not from here.
            if let Some(violation) = self.core.close_wish.take() {
                self.core.clean_up();
                self.session
                    .close(&violation, 0, 0, now.instant, &mut self.out);
            }
            self.core.outbox.take(&mut self.core.backlog);
            let stays = self.core.backlog.is_empty() || self.core.holds_back_deliveries();
            if stays || self.out.len() >= OUTPUT_HIGH {
                break;
            }
            self.core.deliver(OUTPUT_HIGH, &mut self.out);
        }
        if self.core.presence.is_asked() {
            self.core.presence.answer(&self.detail());
        }
        self.core.add_up();
    }

    /// What an operator is shown.
    fn detail(&self) -> ConnectionDetail {
        let state = match self.session.state() {
            SessionState::Running if self.blocked => "blocked",
            SessionState::Running if self.core.broker.alarms().reason().is_some() => "blocking",
            SessionState::Running if self.core.log_pause.is_some() => "flow",
            SessionState::Running => "running",
            SessionState::AwaitingHeader
            | SessionState::Starting
            | SessionState::Authenticating => "starting",
            SessionState::Tuning => "tuning",
            SessionState::Opening | SessionState::Deciding => "opening",
            SessionState::ClientClosing | SessionState::Closing => "closing",
            SessionState::Closed | SessionState::Refused | SessionState::Finished => "closed",
        };
        let channels = self.core.channels.iter();
        ConnectionDetail {
            state,
            client: Arc::new(self.core.client.unfolded(&self.core.broker.config.limits)),
            channel_max: self.session.channel_max(),
            frame_max: self.session.frame_max(),
            heartbeat_secs: self.session.heartbeat_secs(),
            output_bytes: self.out.len(),
            channels: channels.map(|(id, channel)| channel.view(*id)).collect(),
        }
    }

    /// Writes the confirms whose messages have become safe.
    fn confirm(&mut self, now: Now) {
        if self.core.confirming.is_empty() {
            return;
        }
        let log = self.core.broker.store.0.log().clone();
        if log.failed() {
            self.storage_failed("the message log has failed: nothing can be stored; the broker's operator has to look at the disk", now);
            return;
        }
        // A message is safe only with the queue it lies in.
        match self.core.definitions_pending() {
            CommitState::Done => {}
            CommitState::Pending => return,
            CommitState::Failed => {
                self.storage_failed(
                    "a queue's definition could not be stored; see the broker's log",
                    now,
                );
                return;
            }
        }
        let durable = log.durable();
        let Self { core, out, .. } = self;
        let mut latest = LogPosition::NONE;
        let channels = &mut core.channels;
        let mut confirmed = 0;
        core.confirming.retain(|id| {
            let Some(Channel {
                mode: Mode::Confirm(confirms),
                stats,
                unconfirmed,
                ..
            }) = channels.get_mut(id).map(Box::as_mut)
            else {
                return false;
            };
            let before = confirms.pending();
            confirms.durable(
                durable,
                |Confirm {
                     tag,
                     multiple,
                     nack,
                 }| {
                    if nack {
                        write_nack(out.buffer(), *id, tag, multiple);
                    } else {
                        write_ack(out.buffer(), *id, tag, multiple);
                    }
                },
            );
            let settled = before - confirms.pending();
            stats.confirm += settled;
            unconfirmed.confirmed(settled);
            confirmed += settled;
            if let Some(position) = confirms.waiting_for() {
                latest = latest.max(position);
            }
            confirms.pending() > 0
        });
        core.counts.messages_confirmed += confirmed;
        core.expect(latest, durable);
    }

    /// Sends the reply that waited, once its change is durable.
    fn finish_waiting(&mut self, now: Now) {
        if self.core.waiting.is_none() {
            return;
        }
        match self.core.decision() {
            CommitState::Pending => {}
            CommitState::Done => {
                if let Some(Waiting { channel, reply, .. }) = self.core.waiting.take() {
                    match reply {
                        Reply::Nothing => {}
                        Reply::Method(reply) => write_method(self.out.buffer(), channel, &reply),
                        Reply::Got(got) => got.write(channel, self.core.frame_max, &mut self.out),
                    }
                }
                let held_back = self.core.held_back.drain(..);
                self.core.backlog.extend(held_back);
            }
            CommitState::Failed => {
                self.storage_failed("a change could not be stored; see the broker's log", now)
            }
        }
    }

    /// What was to be durable never will be: the client has to know.
    fn storage_failed(&mut self, text: &str, now: Now) {
        let Self {
            core, session, out, ..
        } = self;
        let violation = Violation::connection(HardError::InternalError, text);
        core.confirming.clear();
        core.clean_up();
        session.close(&violation, 0, 0, now.instant, out);
    }

    /// Whether more may have arrived than the next [`Self::receive`] is given. If not, the connection may commit what it waits for
    /// on this thread ([`Log::commit_here`]), which takes as long as the disk does.
    ///
    /// [`Log::commit_here`]: mamba_store::Log::commit_here
    pub const fn expect_more(&mut self, more: bool) {
        self.more = more;
    }

    /// Whether deliveries wait for room in the output.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        !self.core.backlog.is_empty() && !self.core.holds_back_deliveries()
    }

    /// The socket took octets.
    pub fn wrote(&mut self, octets: usize, now: Now) {
        self.core.counts.bytes_sent += octets as u64;
        self.core.presence.sent(octets);
        self.session.wrote(now.instant);
    }

    /// When to call [`Self::timer`] next; changes with every other call.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let pause = self.core.pacing.deadline();
        let late = self.core.deadlines.deadline();
        self.session
            .deadline()
            .into_iter()
            .chain(pause)
            .chain(late)
            .chain(self.core.expires)
            .min()
    }

    /// Does what is due by `now`.
    pub fn timer(&mut self, now: Now) {
        self.tell_time(now);
        self.core.pacing.check(now.instant);
        self.end_late(now);
        self.end_expired(now);
        if let TimerOutcome::Dropped(reason) = self.session.timer(now.instant, &mut self.out) {
            let core = &self.core;
            match reason {
                DropReason::HandshakeTimeout => {
                    tracing::warn!(connection = core.id, peer = %core.presence.origin.peer, "connection closed: the handshake took too long");
                }
                DropReason::MissedHeartbeats { interval_secs } => {
                    tracing::warn!(connection = core.id, peer = %core.presence.origin.peer, "missed heartbeats from client, timeout: {interval_secs}s");
                }
                DropReason::Refused | DropReason::ClosingTimeout => {
                    tracing::debug!(connection = core.id, peer = %core.presence.origin.peer, ?reason, "connection closed");
                }
            }
            self.core.flush();
            self.core.clean_up();
        }
    }

    /// Close the socket once the output is written.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.session.is_finished()
    }

    /// Whether the connection is open and neither side is closing it.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.session.state() == SessionState::Running
    }

    /// The socket is gone: gives back everything the client held. Done on drop as well.
    pub fn end(&mut self, now: Now) {
        self.tell_time(now);
        self.finish();
    }

    fn finish(&mut self) {
        if self.ended {
            return;
        }
        self.ended = true;
        let core = &mut self.core;
        core.flush();
        core.clean_up();
        core.broker.forget_connection(core.id);
        core.presence.fall_silent();
        core.counts.connections_closed += 1;
        core.add_up();
        tracing::debug!(connection = core.id, peer = %core.presence.origin.peer, "connection ended");
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Core {
    fn new(broker: Arc<Broker>, outbox: Arc<Outbox>, presence: Arc<Presence>, now: Now) -> Self {
        Self {
            id: outbox.connection,
            broker,
            outbox,
            account: None,
            proving: None,
            expires: None,
            login: None,
            traced: false,
            channels: BTreeMap::new(),
            consumers: Consumers::default(),
            exclusive: Vec::new(),
            queues: InternedQueues::default(),
            publisher: Publisher::default(),
            settlements: Settlements::default(),
            confirming: Vec::new(),
            expecting: None,
            pacing: Pacing::default(),
            stored_up_to: LogPosition::NONE,
            published_stored: false,
            log_pause: None,
            definitions: Vec::new(),
            close_wish: None,
            able: Capabilities::default(),
            deadlines: Deadlines::new(now.instant),
            waiting: None,
            backlog: VecDeque::new(),
            held_back: Vec::new(),
            counts: Counts::default(),
            frame_max: 0,
            presence,
            client: Introduced::default(),
        }
    }

    fn open(&mut self, vhost: &str, now: Now) -> Result<(), Violation> {
        let not_allowed = |text: String| Violation::connection(HardError::NotAllowed, text);
        if !self.broker.admit() {
            let limit = self.broker.config.limits.connections_max;
            return Err(not_allowed(format!(
                "connection refused: node connection limit ({limit}) is reached"
            )));
        }
        let opened = self.enter(vhost, now);
        if opened.is_err() {
            self.broker.discharge();
        }
        opened
    }

    fn enter(&mut self, vhost: &str, now: Now) -> Result<(), Violation> {
        let not_allowed = |text: String| Violation::connection(HardError::NotAllowed, text);
        let not_found = || not_allowed(format!("vhost {vhost} not found"));
        let found = self.broker.vhost(vhost).ok_or_else(not_found)?;
        let account = self
            .account
            .take()
            .ok_or_else(|| not_allowed("not logged in".to_owned()))?;
        let name = &account.user.name;
        let no_access = format!("access to vhost '{vhost}' refused for user '{name}'");
        let vhost_seat = found.seat().map_err(|limit| {
            not_allowed(format!(
                "{no_access}: connection limit ({limit}) is reached"
            ))
        })?;
        let user = self.broker.access.identity(&account, vhost);
        let user = Arc::new(user.ok_or_else(|| not_allowed(no_access.clone()))?);
        let user_seat = user.seat().map_err(|limit| {
            not_allowed(format!(
                "connection refused for user '{name}': user connection limit ({limit}) is reached"
            ))
        })?;
        if !user.may_open() {
            return Err(not_allowed(no_access));
        }
        // Whoever deletes the user or the virtual host from here on finds this connection; whoever did before is seen.
        self.broker.register_login(self.id, &user.name, &found);
        if found.is_deleted() {
            return Err(not_found());
        }
        if !user.may_open() {
            return Err(not_allowed(no_access));
        }
        self.expires = account.token().and_then(|token| login::expiry(token, now));
        self.login = Some(LoggedIn {
            user,
            vhost: found,
            user_seat,
            _vhost_seat: Some(vhost_seat),
        });
        Ok(())
    }

    fn open_channel(&mut self, id: ChannelId) -> Result<(), Violation> {
        if let Some(LoggedIn {
            user, user_seat, ..
        }) = &mut self.login
        {
            user.take_channel(user_seat).map_err(|limit| {
                let text = format!(
                    "number of channels opened for user '{}' has reached the maximum allowed user limit of {limit}",
                    user.name
                );
                Violation::connection(HardError::NotAllowed, text)
            })?;
        }
        self.counts.channels_opened += 1;
        self.channels.insert(id, Box::default());
        self.tell_channel_opened(id);
        Ok(())
    }

    /// Gives up everything a channel holds: consumers first, so that nothing new comes; then what is on its way
    /// and what is unsettled goes back.
    pub(crate) fn close_channel(&mut self, id: ChannelId) {
        let Some(mut channel) = self.channels.remove(&id) else {
            return;
        };
        self.counts.channels_closed += 1;
        self.tell_channel_closed(id, channel.consumers.len());
        if let Some(login) = &mut self.login {
            login.user_seat.give_channel_back();
        }
        self.counts.publishers_ended += u64::from(channel.has_published);
        self.confirming.retain(|confirming| *confirming != id);
        if let Some(reply) = channel.reply.take() {
            self.broker.forget_reply(&reply.token);
        }
        self.give_up(channel);
    }

    /// Gives up all channels and exclusive queues.
    fn clean_up(&mut self) {
        let _acting = self.acting();
        self.waiting = None;
        self.proving = None;
        self.expires = None;
        while let Some((id, _)) = self.channels.first_key_value() {
            let id = *id;
            self.close_channel(id);
        }
        self.delete_exclusive_queues();
        if self.login.is_some() {
            self.tell_closed();
        }
        if self.login.take().is_some() {
            self.broker.discharge();
        }
    }

    /// Hands gathered publishes, then gathered settlements, to their queues.
    pub(crate) fn flush(&mut self) {
        self.flush_publishes();
        self.flush_settlements();
    }

    pub(crate) fn add_up(&mut self) {
        self.broker.metrics.add(&mut self.counts);
    }

    /// Has the log ring when `position` is durable, unless it will ring anyway.
    fn expect(&mut self, position: LogPosition, durable: LogPosition) {
        if self.expecting.is_some_and(|expected| expected <= durable) {
            self.expecting = None;
        }
        if position > durable && self.expecting.is_none() {
            self.expecting = Some(position);
            let waker: Arc<dyn mamba_store::DurableWaker> = Arc::clone(&self.outbox) as _;
            self.broker.store.0.log().wake_at(position, waker);
        }
    }

    /// Pauses reading while the log is far behind, if this connection has added to it.
    fn wait_for_log(&mut self) {
        let log = self.broker.store.0.log();
        if self.published_stored && log.backlog_bytes() >= BACKLOG_BYTES_MAX {
            let waker: Arc<dyn mamba_store::DurableWaker> = Arc::clone(&self.outbox) as _;
            log.wake_at(self.stored_up_to, waker);
            self.log_pause = Some(self.stored_up_to);
        }
        self.published_stored = false;
    }

    fn waits_for_definitions(&self) -> bool {
        let until = self.waiting.as_ref().map(|waiting| &waiting.until);
        matches!(until, Some(Until::Committed(_)))
    }

    /// Where stands what the connection waits for; done if it waits for nothing.
    fn decision(&mut self) -> CommitState {
        let definitions = self.definitions_pending();
        let Some(waiting) = &self.waiting else {
            return CommitState::Done;
        };
        let log = self.broker.store.0.log();
        match &waiting.until {
            Until::Committed(commit) => commit.state(),
            // Messages are safe only with the queues they lie in.
            Until::Durable(position) if log.is_durable(*position) => definitions,
            Until::Durable(_) if log.failed() => CommitState::Failed,
            Until::Durable(_) => CommitState::Pending,
            Until::Noted(position) => {
                if log.is_durable(*position) || log.failed() || log.is_full() {
                    CommitState::Done
                } else {
                    CommitState::Pending
                }
            }
        }
    }

    /// Where the definitions of the queues stand that this connection published to.
    fn definitions_pending(&mut self) -> CommitState {
        self.definitions
            .retain(|commit| commit.state() != CommitState::Done);
        self.definitions
            .iter()
            .map(|commit| commit.state())
            .find(|state| *state == CommitState::Failed)
            .unwrap_or(if self.definitions.is_empty() {
                CommitState::Done
            } else {
                CommitState::Pending
            })
    }

    /// Replies at once, or when the change is durable. `reply` is `None` for a method with nowait; what follows it
    /// waits all the same.
    pub(crate) fn reply_when_durable(
        &mut self,
        channel: ChannelId,
        reply: Option<AMQPClass>,
        commit: Option<Arc<Commit>>,
        out: &mut Output,
    ) {
        if let Some(commit) = commit {
            commit.ring_when_decided(&self.outbox);
            self.waiting = Some(Waiting {
                until: Until::Committed(commit),
                channel,
                reply: reply.map_or(Reply::Nothing, Reply::Method),
            });
        } else if let Some(reply) = reply {
            write_method(out.buffer(), channel, &reply);
        }
    }

    /// Replies when the log is durable up to `position`.
    pub(crate) fn reply_when_logged(
        &mut self,
        channel: ChannelId,
        reply: AMQPClass,
        position: LogPosition,
        out: &mut Output,
    ) {
        let defined = self.definitions_pending() == CommitState::Done;
        let log = self.broker.store.0.log();
        if defined && log.is_durable(position) {
            write_method(out.buffer(), channel, &reply);
            return;
        }
        let waker: Arc<dyn mamba_store::DurableWaker> = Arc::clone(&self.outbox) as _;
        log.wake_at(position, waker);
        self.waiting = Some(Waiting {
            until: Until::Durable(position),
            channel,
            reply: Reply::Method(reply),
        });
    }

    /// Whether a message for `basic.get` waits, which has its delivery tag already: nothing may overtake it.
    fn holds_back_deliveries(&self) -> bool {
        let reply = self.waiting.as_ref().map(|waiting| &waiting.reply);
        matches!(reply, Some(Reply::Got(_)))
    }

    /// Sends a message for `basic.get` once the log knows, at `position`, that it may have been delivered.
    pub(crate) fn send_when_noted(
        &mut self,
        channel: ChannelId,
        got: GotReply,
        position: LogPosition,
        out: &mut Output,
    ) {
        let log = self.broker.store.0.log();
        if log.is_durable(position) || log.failed() || log.is_full() {
            got.write(channel, self.frame_max, out);
            return;
        }
        let waker: Arc<dyn mamba_store::DurableWaker> = Arc::clone(&self.outbox) as _;
        log.wake_at(position, waker);
        self.waiting = Some(Waiting {
            until: Until::Noted(position),
            channel,
            reply: Reply::Got(Box::new(got)),
        });
    }

    fn method(
        &mut self,
        channel: ChannelId,
        method: AMQPClass,
        out: &mut Output,
    ) -> Result<(), Violation> {
        match method {
            AMQPClass::Exchange(method) => self.exchange_method(channel, method, out),
            AMQPClass::Queue(method) => self.queue_method(channel, method, out),
            AMQPClass::Basic(method) => self.basic_method(channel, method, out),
            AMQPClass::Tx(method) => self.tx_method(channel, &method, out),
            AMQPClass::Confirm(protocol::confirm::AMQPMethod::Select(select)) => {
                self.select_confirms(channel, select.nowait, out)
            }
            AMQPClass::Confirm(protocol::confirm::AMQPMethod::SelectOk(_))
            | AMQPClass::Access(_)
            | AMQPClass::Channel(_)
            | AMQPClass::Connection(_) => Err(Violation::connection(
                HardError::CommandInvalid,
                "unimplemented method",
            )),
        }
    }

    fn log_wrong_protocol(&self, octets: [u8; 8]) {
        let hint = match octets {
            [b'G' | b'P' | b'H' | b'D' | b'O', b'A'..=b'Z', ..] => {
                "this looks like HTTP: the management and metrics ports are others"
            }
            [0x16, 3, ..] => "this looks like TLS on a plain port",
            [b'A', b'M', b'Q', b'P', 3 | 0, 1, 0, 0] => "AMQP 1.0 is not spoken here, only 0-9-1",
            _ => "only AMQP 0-9-1 is spoken here",
        };
        tracing::warn!(connection = self.id, peer = %self.presence.origin.peer, ?octets, hint, "wrong protocol header");
    }
}

/// The method's class and number, as its own encoding says them.
fn identity(method: &AMQPClass) -> (u16, u16) {
    let mut frame = Vec::new();
    write_method(&mut frame, ChannelId(0), method);
    frame
        .get(FRAME_HEADER_LEN..)
        .and_then(class_method)
        .unwrap_or_default()
}
