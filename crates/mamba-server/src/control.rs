//! Operators' commands, and the control socket: how tools on the same machine ask a running node for something.
//!
//! A Unix socket in the data folder, for the broker's own user (and root) alone. Requests and answers are JSON
//! objects, one per line:
//!
//! ```text
//! -> {"version":1,"command":"ping"}
//! <- {"version":1,"ok":true,"result":{"server_version":"0.1.0","node":"rabbit@host","pid":4711}}
//! -> {"version":1,"command":"sing"}
//! <- {"version":1,"ok":false,"error":{"code":"unknown_command","message":"..."}}
//! ```
//!
//! What a command needs stands beside `command` in the same object. Most commands can be asked for over the management API as well
//! ([`Commands`]), by an administrator; what needs files of this machine is an arm in `Session::perform`.

mod arguments;
mod backup;
mod connections;
mod definitions;
mod parameters;
mod policies;
mod queues;
mod status;
mod tenants;
mod topology;

use std::{
    fmt,
    fs::{self, File},
    io::{self, ErrorKind},
    net::SocketAddr,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use mamba_broker::Broker;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tracing::field::display;

pub use self::backup::{BackupFile, BackupPlan};
use self::{arguments::Arguments, backup::Backup};

/// Version of requests and answers.
pub const VERSION: u32 = 1;
/// The socket's name in the data folder.
pub const SOCKET_NAME: &str = "control.sock";
/// Longest request, in octets, its line end included. Definitions are the longest.
const REQUEST_BYTES_MAX: u64 = 128 << 20;
/// What a line keeps of its memory for the next request.
const LINE_BYTES_KEPT: usize = 64 << 10;
/// Clients served at a time.
const CLIENTS_MAX: usize = 16;
/// A client that asks nothing for so long is gone, or stuck: what it held is given back.
const IDLE_MAX: Duration = Duration::from_secs(120);
/// How long a client may take to read an answer.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// What commands that only look begin with.
const READING: [&str; 4] = ["list_", "peek_", "export_", "status"];
/// Arguments that say what a command is about; others may hold secrets.
const NAMED: [&str; 13] = [
    "level",
    "threshold",
    "vhost",
    "user",
    "name",
    "component",
    "exchange",
    "configure",
    "write",
    "read",
    "tags",
    "limit",
    "limits",
];
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest path a socket address can hold (`sun_path` and its end).
const PATH_BYTES_MAX: usize = 107;

/// A request as it stands on the line.
#[derive(Clone, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`]; that of the reader if absent.
    #[serde(default = "version")]
    pub version: u32,
    /// What to do.
    pub command: String,
    /// What the command needs.
    #[serde(flatten)]
    pub arguments: Map<String, Value>,
}

impl fmt::Debug for Request {
    /// Arguments may be passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}

/// An answer as it stands on the line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// [`VERSION`].
    pub version: u32,
    /// Whether it was done.
    pub ok: bool,
    /// What the command answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Refusal>,
}

/// Why something was not done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs: `unknown_command`, `bad_request`, `unsupported_version`, `busy`, `failed`, and what a command adds.
    pub code: String,
    /// For people.
    pub message: String,
}

impl Refusal {
    fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
        }
    }
}

const fn version() -> u32 {
    VERSION
}

/// A socket in a data folder by a path that fits into a socket address. Good as long as it lives.
#[derive(Debug)]
pub struct Address {
    /// What to bind or connect.
    pub path: PathBuf,
    /// Keeps the detour open.
    _folder: Option<File>,
}

impl Address {
    /// The control socket of this data folder. A path of more than 107 octets takes a detour through `/proc`.
    ///
    /// # Errors
    /// When the folder cannot be opened, or there is no detour.
    pub fn of(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join(SOCKET_NAME);
        if path.as_os_str().len() <= PATH_BYTES_MAX {
            return Ok(Self {
                path,
                _folder: None,
            });
        }
        let folder = File::open(data_dir)?;
        let detour = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        if !detour.exists() {
            return Err(io::Error::new(
                ErrorKind::InvalidFilename,
                format!(
                    "the path {} has {} octets, a socket's path at most {PATH_BYTES_MAX}: use a data folder with a shorter path",
                    path.display(),
                    path.as_os_str().len()
                ),
            ));
        }
        Ok(Self {
            path: detour.join(SOCKET_NAME),
            _folder: Some(folder),
        })
    }
}

/// The bound socket; removed from the folder when dropped.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    socket: RemoveAtEnd,
    data_dir: PathBuf,
}

#[derive(Debug)]
struct RemoveAtEnd(PathBuf);

impl Drop for RemoveAtEnd {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Changes what is logged, until the process ends; the error says what is wrong with the level.
pub type SetLogLevel = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

impl Control {
    /// Binds the socket in the data folder, which the caller has locked: what stands there is of an earlier run and
    /// goes. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// The system's; the broker can go on without, but then no tool reaches it.
    pub fn bind(data_dir: &Path) -> io::Result<Self> {
        backup::remove_leftovers(data_dir);
        let address = Address::of(data_dir)?;
        match fs::remove_file(&address.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // Before it has a name, so that nobody else can connect at any moment.
        rustix::fs::fchmod(&socket, rustix::fs::Mode::from(0o600))?;
        socket.bind(&SockAddr::unix(&address.path)?)?;
        let path = data_dir.join(SOCKET_NAME);
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        socket.listen(16)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            listener: UnixListener::from_std(socket.into())?,
            socket: RemoveAtEnd(path),
            data_dir: data_dir.to_owned(),
        })
    }

    /// Serves until `stop` becomes true, then ends every client.
    pub async fn run(self, commands: Arc<Commands>, stop: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(CLIENTS_MAX));
        let node = Arc::new(Node {
            commands,
            data_dir: self.data_dir,
            backing_up: AtomicBool::new(false),
        });
        let (listener, _socket) = (self.listener, self.socket);
        let accepting = async {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let (node, place) = (Arc::clone(&node), Arc::clone(&places).try_acquire_owned());
                let mut stop = stop.clone();
                tokio::spawn(async move {
                    let serving = async {
                        let Ok(_place) = place else {
                            let refusal = Refusal::new(
                                "busy",
                                format!(
                                    "{CLIENTS_MAX} tools are connected already: try again later"
                                ),
                            );
                            return send(&mut BufReader::new(stream), Err(refusal)).await;
                        };
                        Session { node, backup: None }.serve(stream).await
                    };
                    // A client that went away has its answer.
                    tokio::select! {
                        _ = serving => {}
                        _ = stop.wait_for(|stop| *stop) => {}
                    }
                });
            }
        };
        let mut stopping = stop.clone();
        tokio::select! {
            () = accepting => {}
            // An error means that nobody can ask any more: stop as well.
            _ = stopping.wait_for(|stop| *stop) => {}
        }
        drop(stop);
    }
}

/// What all clients share.
struct Node {
    commands: Arc<Commands>,
    data_dir: PathBuf,
    backing_up: AtomicBool,
}

impl Node {
    fn broker(&self) -> &Broker {
        &self.commands.broker
    }
}

/// One connected tool, and what it holds: given back when it goes.
struct Session {
    node: Arc<Node>,
    backup: Option<Backup>,
}

type Outcome = Result<Value, Refusal>;

impl Session {
    async fn serve(mut self, stream: UnixStream) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            line.shrink_to(LINE_BYTES_KEPT);
            let mut limited = (&mut stream).take(REQUEST_BYTES_MAX);
            let reading = limited.read_until(b'\n', &mut line);
            match timeout(IDLE_MAX, reading).await {
                Err(_) | Ok(Ok(0)) => return Ok(()),
                Ok(read) => drop(read?),
            }
            if line.last() != Some(&b'\n') {
                let refusal = Refusal::new(
                    "bad_request",
                    format!("a request is one line of at most {REQUEST_BYTES_MAX} octets"),
                );
                return send(&mut stream, Err(refusal)).await;
            }
            let outcome = match parse(&line) {
                Ok(request) => self.perform(&request).await,
                Err(refusal) => Err(refusal),
            };
            send(&mut stream, outcome).await?;
        }
    }

    async fn perform(&mut self, request: &Request) -> Outcome {
        match request.command.as_str() {
            "backup_begin" => {
                if self.backup.is_some() {
                    return Err(Refusal::new(
                        "bad_request",
                        "this connection has a backup under way: end it first",
                    ));
                }
                let node = Arc::clone(&self.node);
                let (backup, plan) = tokio::task::spawn_blocking(move || Backup::begin(&node))
                    .await
                    .map_err(|_| {
                        Refusal::new(
                            "failed",
                            "the backup failed by a defect of the broker; its log has more",
                        )
                    })??;
                self.backup = Some(backup);
                serde_json::to_value(plan)
                    .map_err(|error| Refusal::new("failed", error.to_string()))
            }
            "backup_end" => match self.backup.take() {
                Some(backup) => {
                    // It removes files.
                    let _ = tokio::task::spawn_blocking(move || drop(backup)).await;
                    Ok(json!({}))
                }
                None => Err(Refusal::new(
                    "bad_request",
                    "no backup is under way on this connection",
                )),
            },
            _ => {
                let (node, request) = (Arc::clone(&self.node), request.clone());
                let work = move || {
                    let (command, arguments) = (&request.command, &request.arguments);
                    let commands = &node.commands;
                    commands.perform(&Caller::Socket, command, arguments)
                };
                tokio::task::spawn_blocking(work).await.map_err(|_| {
                    let text = "the command failed by a defect of the broker; its log has more";
                    Refusal::new("failed", text)
                })?
            }
        }
    }
}

/// Whom a command is done for, after it was found out that they may.
#[derive(Clone, Copy, Debug)]
pub enum Caller<'a> {
    /// Somebody at the control socket: the owner of its file.
    Socket,
    /// A user of the management API.
    User {
        /// Who.
        name: &'a str,
        /// From where.
        peer: SocketAddr,
    },
}

/// The commands that do not need a tool on this machine, wherever they come from.
pub struct Commands {
    broker: Arc<Broker>,
    process: Box<dyn Process>,
}

/// What commands ask of the process around the broker.
pub trait Process: Send + Sync {
    /// Where it listens, by protocol: `amqp`, `amqp/ssl`, `http`, `https`, `http/prometheus`.
    fn listeners(&self) -> Vec<(&'static str, SocketAddr)>;

    /// Changes what is logged, until the process ends.
    ///
    /// # Errors
    /// What is wrong with the level.
    fn set_log_level(&self, level: &str) -> Result<(), String>;

    /// Changes where an alarm begins, until the process ends: a number with a decimal point is a part of the memory, another one octets,
    /// and so is a text with a unit.
    ///
    /// # Errors
    /// What is wrong with the value.
    fn set_threshold(&self, of: Threshold, value: &Value) -> Result<(), String>;
}

/// Which alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threshold {
    /// Too much memory is used.
    Memory,
    /// Too little disk space is free.
    DiskFree,
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commands").finish_non_exhaustive()
    }
}

impl Commands {
    /// Commands to this broker.
    #[must_use]
    pub const fn new(broker: Arc<Broker>, process: Box<dyn Process>) -> Self {
        Self { broker, process }
    }

    /// Does one command and notes it in the audit log if it may change something. Blocks until it is durable.
    ///
    /// # Errors
    /// Why it was not done.
    pub fn perform(
        &self,
        caller: &Caller<'_>,
        command: &str,
        arguments: &Map<String, Value>,
    ) -> Result<Value, Refusal> {
        let outcome = match command {
            "ping" => {
                return Ok(json!({
                    "server_version": env!("CARGO_PKG_VERSION"),
                    "node": self.broker.config().node_name,
                    "pid": std::process::id(),
                }));
            }
            "backup_begin" | "backup_end" => Err(Refusal::new(
                "local_only",
                "a backup copies files: make it on the broker's machine",
            )),
            "set_log_level" => Arguments::of(arguments).text("level").and_then(|level| {
                let set = self.process.set_log_level(level);
                set.map(|()| json!({}))
                    .map_err(|error| Refusal::new("unsupported", error))
            }),
            "set_vm_memory_high_watermark" => self.set_threshold(Threshold::Memory, arguments),
            "set_disk_free_limit" => self.set_threshold(Threshold::DiskFree, arguments),
            "list_listeners" => {
                let listeners = self.process.listeners().into_iter();
                let rows = listeners.map(|(protocol, address)| {
                    let (interface, port) = (address.ip().to_string(), address.port());
                    json!({"protocol": protocol, "interface": interface, "port": port})
                });
                Ok(rows.collect())
            }
            other => match management(other) {
                Some(perform) => perform(&self.broker, other, arguments),
                None => Err(unknown(other)),
            },
        };
        audit(caller, command, arguments, &outcome);
        outcome
    }

    fn set_threshold(&self, of: Threshold, arguments: &Map<String, Value>) -> Outcome {
        let value = Arguments::of(arguments).value("threshold");
        let set = self.process.set_threshold(of, value);
        set.map(|()| json!({}))
            .map_err(|error| Refusal::new("bad_request", error))
    }
}

/// Notes a command that changes something, with the names it came with: never what may be a secret.
fn audit(caller: &Caller<'_>, command: &str, arguments: &Map<String, Value>, outcome: &Outcome) {
    if READING.iter().any(|prefix| command.starts_with(prefix)) {
        return;
    }
    let named = |key: &&str| {
        let value = arguments.get(*key)?;
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        Some(format!("{key}={text}"))
    };
    let what: Vec<String> = NAMED.iter().filter_map(named).collect();
    let what = what.join(" ");
    let (via, user, peer) = match caller {
        Caller::Socket => ("control socket", None, None),
        Caller::User { name, peer } => ("management API", Some(name), Some(peer)),
    };
    let (user, peer) = (user.map(display), peer.map(display));
    match outcome {
        Ok(_) => {
            tracing::info!(target: mamba_broker::audit::TARGET, via, user, peer, command, what, result = "ok", "operator command");
        }
        Err(refusal) => {
            tracing::warn!(target: mamba_broker::audit::TARGET, via, user, peer, command, what, result = "refused", code = refusal.code, "operator command");
        }
    }
}

fn unknown(command: &str) -> Refusal {
    Refusal::new(
        "unknown_command",
        format!(
            "this broker does not know the command {command:?}: it may be older or newer than the tool, use the tool of the same version ({})",
            env!("CARGO_PKG_VERSION")
        ),
    )
}

/// Does one command of an operator; waits for the disk.
type Perform = fn(&Broker, &str, &Map<String, Value>) -> Outcome;

/// Who does a command of an operator.
fn management(command: &str) -> Option<Perform> {
    let parts: [(&[&str], Perform); 8] = [
        (&tenants::COMMANDS, tenants::perform),
        (&policies::COMMANDS, policies::perform),
        (&topology::COMMANDS, topology::perform),
        (&queues::COMMANDS, queues::perform),
        (&parameters::COMMANDS, parameters::perform),
        (&definitions::COMMANDS, definitions::perform),
        (&connections::COMMANDS, connections::perform),
        (&status::COMMANDS, status::perform),
    ];
    parts
        .into_iter()
        .find_map(|(commands, perform)| commands.contains(&command).then_some(perform))
}

fn parse(line: &[u8]) -> Result<Request, Refusal> {
    let request: Request = serde_json::from_slice(line).map_err(|error| {
        Refusal::new(
            "bad_request",
            format!("not a request, which is an object with a command on one line: {error}"),
        )
    })?;
    if request.version != VERSION {
        return Err(Refusal::new(
            "unsupported_version",
            format!(
                "the request has version {}, this broker knows {VERSION}: use the tool of the broker's version ({})",
                request.version,
                env!("CARGO_PKG_VERSION")
            ),
        ));
    }
    Ok(request)
}

async fn send(stream: &mut BufReader<UnixStream>, outcome: Outcome) -> io::Result<()> {
    let (result, error) = match outcome {
        Ok(result) => (Some(result), None),
        Err(refusal) => (None, Some(refusal)),
    };
    let answer = Answer {
        version: VERSION,
        ok: error.is_none(),
        result,
        error,
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    timeout(ANSWER_TIME, stream.write_all(&line))
        .await
        .map_err(|_| ErrorKind::TimedOut)?
}
