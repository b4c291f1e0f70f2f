//! A tool's side of the management API of a broker anywhere: the commands that are otherwise given over the control socket.

use std::{
    fs,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use mamba_server::http_client::{
    ClientFiles, HttpError, HttpRequest, HttpUrl, Method, StatusCode, exchange,
};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde_json::{Map, Value};
use tokio::{runtime, time::timeout};

use crate::control::ControlError;

/// Longest answer, in octets. Lists of queues and definitions are the longest.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// How a broker is reached, as the command line and the environment say it.
#[derive(Default, PartialEq, Eq)]
pub(crate) struct RemoteOptions {
    /// Where its management API is, with the path below which `/api` lies.
    pub(crate) url: Option<String>,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) files: ClientFiles,
}

impl std::fmt::Debug for RemoteOptions {
    /// There is a password in it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteOptions")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// What is missing or makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadOptions(String);

/// A broker's management API, and who asks.
pub(crate) struct Remote {
    url: String,
    host: String,
    secured: bool,
    username: String,
    password: String,
    files: ClientFiles,
    runtime: runtime::Runtime,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Remote {
    /// Reads the password from where it is, or asks the terminal for it. Connects to nothing yet.
    pub(crate) fn new(url: String, options: RemoteOptions) -> Result<Self, BadOptions> {
        let address: HttpUrl = url.parse().map_err(|expected| {
            BadOptions(format!(
                "--url has to be {expected}, without a query; name and password are given apart"
            ))
        })?;
        if url.contains(['?', '#']) {
            return Err(BadOptions("--url has to be without a query".to_owned()));
        }
        let username = options
            .username
            .ok_or_else(|| BadOptions("a broker elsewhere needs --username, or MAMBAMQ_CTL_USERNAME: a user with the tag administrator".to_owned()))?;
        let password = match (options.password, options.password_file) {
            (Some(password), _) => password,
            (None, Some(path)) => {
                let text = fs::read_to_string(&path).map_err(|error| {
                    BadOptions(format!("cannot read {}: {error}", path.display()))
                })?;
                text.trim_end_matches(['\r', '\n']).to_owned()
            }
            (None, None) => ask_terminal(&format!("Password of {username} at {}: ", address.host()))
                .map_err(|error| {
                    BadOptions(format!(
                        "no password: set MAMBAMQ_CTL_PASSWORD, or give --password-file; there is no terminal to ask for it ({error})"
                    ))
                })?,
        };
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| BadOptions(format!("the system refused to work: {error}")))?;
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            host: address.host().to_owned(),
            secured: address.is_secured(),
            username,
            password,
            files: options.files,
            runtime,
        })
    }

    /// Where it is.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Whether somebody on the way could read the password.
    pub(crate) fn is_readable_by_others(&self) -> bool {
        let local = match self.host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => self.host == "localhost",
        };
        !self.secured && !local
    }

    /// Asks and waits for the answer, at most for `time`.
    pub(crate) fn ask(
        &self,
        command: &str,
        arguments: Map<String, Value>,
        time: Duration,
    ) -> Result<Value, ControlError> {
        let lost = |reason: String| ControlError::Remote {
            url: self.url.clone(),
            reason,
        };
        // Commands are plain words.
        let url: HttpUrl = format!("{}/api/control/{command}", self.url)
            .parse()
            .map_err(lost)?;
        let request = HttpRequest {
            method: Method::POST,
            credentials: Some((self.username.clone(), self.password.clone())),
            body: Value::Object(arguments).to_string().into(),
            answer_bytes_max: ANSWER_BYTES_MAX,
        };
        let exchange = exchange(&url, &self.files, request);
        let (status, body) = self
            .runtime
            .block_on(async { timeout(time, exchange).await })
            .map_err(|_| ControlError::Slow(time))?
            .map_err(|error| lost(advised(&url, &error)))?;
        let document: Option<Value> = serde_json::from_slice(&body).ok();
        if status == StatusCode::OK {
            let nonsense = || lost("it answered something that is no JSON".to_owned());
            return document.ok_or_else(nonsense);
        }
        let field = |key: &str| {
            let text = document.as_ref()?.get(key)?.as_str()?;
            Some(text.to_owned())
        };
        let message = field("reason");
        Err(match (status, field("error"), message) {
            (StatusCode::UNAUTHORIZED, Some(code), Some(message)) if code == "not_authorised" => {
                lost(format!(
                    "it refused user '{}': {message}; commands need a user with the tag administrator",
                    self.username
                ))
            }
            (StatusCode::UNAUTHORIZED, ..) => lost(format!(
                "it refused the name or the password of user '{}'",
                self.username
            )),
            (StatusCode::NOT_FOUND, code, _)
                if code.as_deref().is_none_or(|code| code == "Object Not Found") =>
            {
                lost("it takes no commands: it is no MambaMQ of this version, or --url lacks a part of its path".to_owned())
            }
            (_, Some(code), Some(message)) => ControlError::Refused { code, message },
            (status, ..) => lost(format!("it answered with status {status}")),
        })
    }
}

/// What an operator can do about it.
fn advised(url: &HttpUrl, error: &HttpError) -> String {
    match error {
        HttpError::System(error) => format!(
            "cannot connect to {} port {}: {error}; the management API listens on 15671 for https and 15672 for http, unless its configuration says otherwise",
            url.host(),
            url.port()
        ),
        HttpError::Handshake(error) => format!(
            "the TLS handshake failed: {error}; --tls-ca-cert-file names the authority that signed the broker's certificate, which has to be for the name {}",
            url.host()
        ),
        HttpError::Http(error) if !url.is_secured() => {
            format!("{error}; if it expects TLS, the address begins with https")
        }
        other => other.to_string(),
    }
}

/// Asks the terminal, whatever standard input is, without showing what is typed.
fn ask_terminal(prompt: &str) -> io::Result<String> {
    let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
    let shown = tcgetattr(&terminal)?;
    let mut hidden = shown.clone();
    hidden.local_modes &= !LocalModes::ECHO;
    terminal.write_all(prompt.as_bytes())?;
    tcsetattr(&terminal, OptionalActions::Flush, &hidden)?;
    let mut line = String::new();
    let read = BufReader::new(&terminal).read_line(&mut line);
    tcsetattr(&terminal, OptionalActions::Flush, &shown)?;
    terminal.write_all(b"\n")?;
    read?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
