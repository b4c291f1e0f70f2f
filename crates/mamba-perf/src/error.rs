//! What can go wrong, in words for the person at the terminal.

use std::io;

use crate::uri::UriError;

/// Why a run, or one of its connections, failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The options contradict each other, or a value is out of range.
    #[error("{0}")]
    Options(String),

    /// The address in `--uri` is not one we can use.
    #[error(transparent)]
    Uri(#[from] UriError),

    /// No TCP connection.
    #[error("cannot connect to {address}: {source}; is a broker listening there? (see --uri)")]
    Connect { address: String, source: io::Error },

    /// The broker ended the connection while we logged in, without saying why.
    #[error(
        "{address} closed the connection during the login of user {user:?}: wrong user or password, \
         or a user that may log in from the loopback interface only (see --uri)"
    )]
    LoginDropped { address: String, user: String },

    /// The peer speaks something else.
    #[error("{address} does not speak AMQP 0-9-1: it answered with {answer}")]
    OtherProtocol { address: String, answer: String },

    /// The broker sent `connection.close` or `channel.close`.
    #[error("the broker closed the {what}: {code} {text}{hint}")]
    Closed {
        what: &'static str,
        code: u16,
        text: String,
        hint: &'static str,
    },

    /// The broker sent `basic.cancel`.
    #[error("the broker cancelled the consumer of queue {queue:?}; the queue was probably deleted")]
    Cancelled { queue: String },

    /// The TCP connection ended without `connection.close`.
    #[error("the broker dropped the connection without saying why")]
    Dropped,

    /// The socket failed.
    #[error("connection failed: {0}")]
    Socket(#[from] io::Error),

    /// No answer in time.
    #[error("the broker did not answer {what} within {secs} s")]
    Timeout { what: &'static str, secs: u64 },

    /// Not even a heartbeat.
    #[error("nothing came from the broker for {secs} s, not even a heartbeat")]
    Silent { secs: u64 },

    /// Bytes that break the protocol.
    #[error("the broker broke the protocol: {0}")]
    Protocol(String),
}

impl Error {
    /// A refusal by the broker, with advice for the frequent ones.
    pub(crate) fn closed(what: &'static str, code: u16, text: String) -> Self {
        let hint = match code {
            403 if text.contains("Login was refused") => {
                " - check user and password in --uri (guest may log in from the loopback interface only)"
            }
            404 => " - declare it first, or leave out --predeclared",
            405 => " - another connection uses it exclusively",
            406 if text.contains("inequivalent") => {
                " - it exists with other settings: delete it, choose another --queue, or use the same options"
            }
            530 if what == "connection" => {
                " - check the virtual host in --uri and the user's permissions"
            }
            _ => "",
        };
        Self::Closed {
            what,
            code,
            text,
            hint,
        }
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Self {
        match errno {
            rustix::io::Errno::CONNRESET | rustix::io::Errno::PIPE => Self::Dropped,
            other => Self::Socket(other.into()),
        }
    }
}
