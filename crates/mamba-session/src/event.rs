//! What a session tells its driver.

use std::fmt;

use mamba_codec::AMQPClass;
use mamba_types::{ChannelId, DeliveryTag, FieldTable, Violation};

use crate::content::Publish;

/// What one call of [`Session::receive`](crate::Session::receive) did.
#[derive(Debug)]
pub struct Received<'a> {
    /// Octets of the input that are done with. The rest must come again, in front of what arrives next.
    pub consumed: usize,
    /// What happened. `None`: nothing more can happen before more octets arrive, or before the driver has
    /// answered the previous event.
    pub event: Option<Event<'a>>,
}

/// Something the driver has to act upon.
#[derive(Debug)]
pub enum Event<'a> {
    /// Not AMQP 0-9-1. The protocol header that answers it is written and the session is finished.
    WrongProtocol {
        /// The first octets received.
        octets: [u8; 8],
    },
    /// Answer with [`Session::login_accepted`](crate::Session::login_accepted) or
    /// [`login_refused`](crate::Session::login_refused); until then no input is looked at.
    Authenticate(Box<Login>),
    /// Answer with [`Session::open_accepted`](crate::Session::open_accepted) or
    /// [`close`](crate::Session::close) (class 10, method 40); until then no input is looked at.
    Open {
        /// Virtual host.
        vhost: String,
    },
    /// The client opens a channel: answer with [`Session::channel_accepted`](crate::Session::channel_accepted) before more
    /// input, or [`close`](crate::Session::close) the connection.
    OpenChannel(ChannelId),
    /// A complete message.
    Publish(ChannelId, Publish<'a>),
    /// `basic.ack`, `nack` or `reject`.
    Settle(ChannelId, Settlement),
    /// Any other method that a client may send on an open channel.
    Method(ChannelId, Box<AMQPClass>),
    /// The client closes a channel: give up its consumers and deliveries, then call
    /// [`Session::channel_closed`](crate::Session::channel_closed).
    CloseChannel(ChannelId),
    /// The client closes the connection: clean up, then call
    /// [`Session::connection_closed`](crate::Session::connection_closed).
    CloseConnection,
    /// A new secret for the connection's user: answer with
    /// [`Session::secret_updated`](crate::Session::secret_updated) or
    /// [`close`](crate::Session::close) (class 10, method 70).
    UpdateSecret {
        /// The secret.
        secret: Secret,
    },
    /// The client broke a rule of the connection. What there is to write is written and input is ignored from now
    /// on: clean up all channels. Comes at most once. Before the connection is open there is nothing to clean up,
    /// and the client may be told nothing (see `SessionState`).
    Closing(Violation),
}

/// A client's way of saying who it is.
#[derive(Clone, Debug)]
pub struct Login {
    /// SASL mechanism, one of those offered.
    pub mechanism: String,
    /// What it said.
    pub credentials: Credentials,
    /// Its whole properties table, `connection_name` and `capabilities` included.
    pub client_properties: FieldTable,
    /// The capabilities the broker reacts to.
    pub capabilities: Capabilities,
}

/// Credentials by kind of mechanism.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// PLAIN, AMQPLAIN.
    Password {
        /// User name.
        user: String,
        /// Password; may be empty, which must be refused.
        password: Secret,
    },
    /// EXTERNAL: whatever the transport proves.
    External,
    /// ANONYMOUS.
    Anonymous,
}

/// Octets that must not show up in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Client capabilities that change what the broker sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Told about a refused login by `connection.close` instead of silence.
    pub authentication_failure_close: bool,
    /// Gets `basic.cancel` when a consumer's queue goes away.
    pub consumer_cancel_notify: bool,
    /// Gets `connection.blocked` and `unblocked`.
    pub connection_blocked: bool,
}

/// A client's verdict on deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The delivery; 0 with `multiple` means all.
    pub tag: DeliveryTag,
    /// All up to and including `tag`.
    pub multiple: bool,
    /// The verdict.
    pub kind: SettlementKind,
    /// Method id for errors, of class 60: 80 ack, 90 reject, 120 nack.
    pub method: u16,
}

/// What becomes of the deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettlementKind {
    /// Done with.
    Ack,
    /// Back to the queue.
    Requeue,
    /// Back to the queue after a failure: rejected, or its channel ended.
    Failed,
    /// Dropped or dead-lettered.
    Discard,
}

/// How far an error reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The channel is closing: clean it up.
    Channel,
    /// The connection is closing: clean everything up.
    Connection,
}

/// What a timer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerOutcome {
    /// Nothing for the driver to do but flush the output.
    Nothing,
    /// The session is finished: clean up and close the socket.
    Dropped(DropReason),
}

/// Why a session ended without the client's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// Not open in time.
    HandshakeTimeout,
    /// No octet for two to three intervals.
    MissedHeartbeats {
        /// The interval, in seconds.
        interval_secs: u16,
    },
    /// The time to read a refusal, or to suffer a silent one, is over.
    Refused,
    /// The client did not finish the closing of the connection in time.
    ClosingTimeout,
}
