//! What can go wrong, in words for the person at the terminal.

use std::{io, path::PathBuf};

use mamba_perf::uri::UriError;

use crate::{CONNECTION, REFUSED, USAGE};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Uri(#[from] UriError),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("standard input: {0}")]
    Input(io::Error),
    #[error("line {number} of the input: {problem}")]
    Line { number: u64, problem: String },
    #[error("a message of more than {max} octets")]
    TooLarge { max: u64 },
    #[error("cannot write: {0}")]
    Output(io::Error),
    #[error("cannot connect to {address}: {source}")]
    Connect { address: String, source: io::Error },
    #[error("TLS: {0}")]
    Tls(String),
    #[error("the connection was lost: {0}")]
    Lost(#[from] io::Error),
    #[error("the broker does not answer: {0}")]
    Silent(&'static str),
    #[error("the peer does not speak AMQP 0-9-1: {0}")]
    Protocol(String),
    #[error("the broker closed the {what}: {code} {text}")]
    Closed {
        what: &'static str,
        code: u16,
        text: String,
    },
    #[error("the broker cancelled the consumer: the queue was probably deleted")]
    Cancelled,
    #[error("the system refused a thread or signal: {0}")]
    System(io::Error),
}

impl Error {
    /// What the shell is told.
    pub(crate) const fn code(&self) -> u8 {
        match self {
            Self::Usage(_)
            | Self::Uri(_)
            | Self::File { .. }
            | Self::Input(_)
            | Self::Line { .. }
            | Self::TooLarge { .. } => USAGE,
            Self::Output(_) | Self::Closed { .. } | Self::Cancelled => REFUSED,
            Self::Connect { .. }
            | Self::Tls(_)
            | Self::Lost(_)
            | Self::Silent(_)
            | Self::Protocol(_)
            | Self::System(_) => CONNECTION,
        }
    }
}
