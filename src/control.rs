//! A tool's side of the control socket.

use std::{
    io::{self, BufRead, BufReader, ErrorKind, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use mamba_server::control::{Address, Answer, Request, VERSION};
use serde_json::{Map, Value};

/// How long a broker may take for an answer: a flush to a slow disk is the longest.
pub(crate) const ANSWER_TIME: Duration = Duration::from_secs(300);

/// Why a running broker could not be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error(
        "the broker on {} cannot be reached through its control socket ({source}): run this as the broker's user; if the broker has just been started or is stopping, try again; its log says whether it has a control socket",
        path.display()
    )]
    Connect { path: PathBuf, source: io::Error },
    #[error(
        "the broker broke off the control connection ({0}): it may have been stopped, its log says more"
    )]
    Lost(io::Error),
    #[error(
        "the broker's answer on the control socket makes no sense ({0}): use the tool of the broker's version"
    )]
    Answer(String),
    #[error("the broker refused: {message}")]
    Refused { code: String, message: String },
    #[error("the broker at {url} cannot be asked: {reason}")]
    Remote { url: String, reason: String },
    #[error("no answer within {} s", .0.as_secs())]
    Slow(Duration),
}

/// A connection to a running broker.
#[derive(Debug)]
pub(crate) struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    /// Connects to the broker that runs on this folder.
    pub(crate) fn connect(data_dir: &Path) -> Result<Self, ControlError> {
        let connect = || {
            let address = Address::of(data_dir)?;
            let stream = UnixStream::connect(&address.path)?;
            stream.set_read_timeout(Some(ANSWER_TIME))?;
            stream.set_write_timeout(Some(ANSWER_TIME))?;
            Ok(stream)
        };
        let stream = connect().map_err(|source| ControlError::Connect {
            path: data_dir.to_owned(),
            source,
        })?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Bounds the time an answer may take.
    pub(crate) fn set_time(&self, time: Duration) -> Result<(), ControlError> {
        let stream = self.stream.get_ref();
        stream
            .set_read_timeout(Some(time))
            .and_then(|()| stream.set_write_timeout(Some(time)))
            .map_err(ControlError::Lost)
    }

    /// Asks and waits for the answer.
    pub(crate) fn ask(
        &mut self,
        command: &str,
        arguments: Map<String, Value>,
    ) -> Result<Value, ControlError> {
        let request = Request {
            version: VERSION,
            command: command.to_owned(),
            arguments,
        };
        let mut line = serde_json::to_vec(&request)
            .map_err(|error| ControlError::Answer(error.to_string()))?;
        line.push(b'\n');
        self.stream
            .get_mut()
            .write_all(&line)
            .map_err(ControlError::Lost)?;
        let mut text = String::new();
        let time = self.stream.get_ref().read_timeout().ok().flatten();
        self.stream
            .read_line(&mut text)
            .map_err(|error| match (error.kind(), time) {
                (ErrorKind::WouldBlock | ErrorKind::TimedOut, Some(time)) => {
                    ControlError::Slow(time)
                }
                _ => ControlError::Lost(error),
            })?;
        if text.is_empty() {
            return Err(ControlError::Lost(ErrorKind::UnexpectedEof.into()));
        }
        let answer: Answer =
            serde_json::from_str(&text).map_err(|error| ControlError::Answer(error.to_string()))?;
        match (answer.result, answer.error) {
            (_, Some(refusal)) => Err(ControlError::Refused {
                code: refusal.code,
                message: refusal.message,
            }),
            (Some(result), None) => Ok(result),
            (None, None) => Err(ControlError::Answer("neither result nor error".to_owned())),
        }
    }
}
