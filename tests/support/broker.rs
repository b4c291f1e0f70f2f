//! The broker under test: one shared instance per test binary, or one of its own where a test stops, kills or configures it.

use std::{
    fs,
    io::Read,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How long a broker may take to start or stop before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// The other broker named by `MAMBAMQ_TEST_URL` (`amqp://guest:guest@HOST:PORT/`), if any.
pub(crate) fn url() -> Option<SocketAddr> {
    static URL: OnceLock<Option<SocketAddr>> = OnceLock::new();
    *URL.get_or_init(|| {
        let url = std::env::var("MAMBAMQ_TEST_URL").ok()?;
        let rest = url
            .strip_prefix("amqp://guest:guest@")
            .expect("amqp://guest:guest@HOST:PORT/");
        Some(
            rest.trim_end_matches('/')
                .parse()
                .expect("HOST:PORT with a numeric address"),
        )
    })
}

/// Where the shared broker of this test binary listens; starts it at the first call.
///
/// It ends with this process: its standard input is a pipe that nobody else holds.
pub(crate) fn address() -> SocketAddr {
    url().unwrap_or_else(|| shared().amqp)
}

/// The shared broker of this test binary.
pub(crate) fn shared() -> &'static Broker {
    static SHARED: OnceLock<Broker> = OnceLock::new();
    SHARED.get_or_init(|| Broker::start(&[]))
}

/// A broker that ended before it was ready.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: ExitStatus,
    /// What it wrote to its outputs.
    pub(crate) text: String,
}

/// One running broker process and its data folder.
#[derive(Debug)]
pub(crate) struct Broker {
    child: Child,
    folder: PathBuf,
    /// First IPv4 listener.
    pub(crate) amqp: SocketAddr,
    /// All AMQP listeners.
    pub(crate) listeners: Vec<SocketAddr>,
    /// The metrics endpoint.
    pub(crate) metrics: SocketAddr,
    /// The management API.
    pub(crate) management: SocketAddr,
}

impl Broker {
    /// Starts a broker on an empty data folder, with extra flags.
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::start_on(fresh_folder(), flags)
    }

    /// Starts a broker on this data folder.
    pub(crate) fn start_on(folder: PathBuf, flags: &[&str]) -> Self {
        Self::try_start_on(folder, flags).unwrap_or_else(|refusal| {
            panic!(
                "the broker ended with {} before it was ready:\n{}",
                refusal.status, refusal.text
            )
        })
    }

    /// The same, for a broker that may refuse.
    pub(crate) fn try_start_on(folder: PathBuf, flags: &[&str]) -> Result<Self, Refusal> {
        let _ = fs::remove_file(folder.join("node.lock"));
        let said = log(&folder).len();
        let mut command = command(&folder);
        command.args([
            "--listen",
            "127.0.0.1:0",
            "--metrics-listen",
            "127.0.0.1:0",
            "--stop-with-stdin",
        ]);
        if TcpListener::bind("[::1]:0").is_ok() {
            command.args(["--listen", "[::1]:0"]);
        }
        let child = command
            .args(flags)
            .spawn()
            .expect("the broker binary starts");
        Self::wait(child, folder, said)
    }

    fn wait(mut child: Child, folder: PathBuf, said: usize) -> Result<Self, Refusal> {
        let started = Instant::now();
        loop {
            let lock = fs::read_to_string(folder.join("node.lock")).unwrap_or_default();
            let values = |key: &str| -> Vec<SocketAddr> {
                lock.lines()
                    .filter_map(|line| {
                        line.strip_prefix(key)?
                            .strip_prefix(' ')?
                            .trim()
                            .parse()
                            .ok()
                    })
                    .collect()
            };
            // What a killed broker left there is not this one's.
            let own = lock
                .lines()
                .any(|line| line == format!("pid {}", child.id()));
            let value = |key: &str| values(key).first().copied().filter(|_| own);
            let listeners = if own { values("amqp") } else { Vec::new() };
            if let (Some(amqp), Some(metrics), Some(management)) = (
                listeners.iter().find(|address| address.is_ipv4()),
                value("metrics"),
                value("management"),
            ) {
                return Ok(Self {
                    amqp: *amqp,
                    metrics,
                    management,
                    child,
                    folder,
                    listeners,
                });
            }
            if let Some(status) = child.try_wait().unwrap() {
                let text = log(&folder).split_off(said);
                return Err(Refusal { status, text });
            }
            if started.elapsed() > PATIENCE {
                let _ = child.kill();
                panic!(
                    "the broker was not ready after {PATIENCE:?}; node.lock: {lock:?}\n{}",
                    log(&folder)
                );
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The first listener with TLS.
    pub(crate) fn amqps(&self) -> SocketAddr {
        self.listener("amqps ")
    }

    /// The management API with TLS.
    pub(crate) fn management_tls(&self) -> SocketAddr {
        self.listener("management_tls ")
    }

    fn listener(&self, key: &str) -> SocketAddr {
        let lock = fs::read_to_string(self.folder.join("node.lock")).unwrap();
        let mut found = lock.lines().filter_map(|line| line.strip_prefix(key));
        found.next().expect("such a listener").parse().unwrap()
    }

    /// Sends SIGHUP and returns at once.
    pub(crate) fn hang_up(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    /// What the broker wrote to its outputs.
    pub(crate) fn log(&self) -> String {
        log(&self.folder)
    }

    /// SIGKILL, then a new broker on the same folder.
    pub(crate) fn crash_and_restart(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        Self::start_on(self.detach(), &[])
    }

    /// SIGKILL; the folder stays.
    pub(crate) fn kill(mut self) -> PathBuf {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.detach()
    }

    /// SIGTERM, then a new broker on the same folder.
    pub(crate) fn restart(mut self) -> Self {
        self.terminate();
        let status = self.wait_for_exit();
        assert!(
            status.success(),
            "SIGTERM ended the broker with {status}:\n{}",
            self.log()
        );
        Self::start_on(self.detach(), &[])
    }

    /// Sends SIGTERM and returns at once.
    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Closes the broker's standard input, which asks it to stop.
    pub(crate) fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for the broker to end by itself.
    pub(crate) fn wait_for_exit(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "the broker still runs after {PATIENCE:?}:\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Resident memory, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("VmRSS");
        line.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .unwrap()
            * 1024
    }

    /// The metrics page, or another path of that endpoint: (status, body).
    pub(crate) fn http(&self, path: &str) -> (String, String) {
        use std::io::Write;
        let mut stream = super::http::connect(self.metrics);
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let answer = super::http::read(stream);
        (answer.status.to_string(), answer.body)
    }

    /// The value of the series with exactly this name, summed over its labels.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let (_, body) = self.http("/metrics");
        let values: Vec<f64> = body
            .lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        if values.is_empty() {
            None
        } else {
            Some(values.iter().sum())
        }
    }

    /// The folder outlives this handle.
    fn detach(&mut self) -> PathBuf {
        std::mem::take(&mut self.folder)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !self.folder.as_os_str().is_empty() && !thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// The binary on this data folder, standard input piped, outputs into the folder's `output.log`.
pub(crate) fn command(folder: &Path) -> Command {
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.with_extension("log"))
        .unwrap();
    let mut command = bare_command();
    command.arg("serve").arg("--data-dir").arg(folder);
    command
        // The tests' clients do not answer `connection.close`.
        .env("MAMBAMQ_SHUTDOWN__GRACE_SECS", "1")
        .stdin(Stdio::piped())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    command
}

/// The binary without any flag, and without the environment of whoever runs the tests. Its management API takes a free port.
///
/// `MAMBAMQ_TEST_BINARY` names another one, such as a release build.
pub(crate) fn bare_command() -> Command {
    let binary = std::env::var_os("MAMBAMQ_TEST_BINARY")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_mambamq").into());
    let mut command = Command::new(binary);
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("MAMBAMQ_") {
            command.env_remove(key);
        }
    }
    command.env("MAMBAMQ_MANAGEMENT__LISTEN", "127.0.0.1:0");
    command
}

fn log(folder: &Path) -> String {
    fs::read_to_string(folder.with_extension("log")).unwrap_or_default()
}

/// An empty folder below the build's temporary folder; those of processes that are gone are removed on the way.
pub(crate) fn fresh_folder() -> PathBuf {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR")).join("brokers");
    fs::create_dir_all(&parent).unwrap();
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    if count == 0 {
        for entry in fs::read_dir(&parent).unwrap().flatten() {
            let file_name = entry.file_name().to_string_lossy().into_owned();
            let alive = file_name
                .split('-')
                .next()
                .is_some_and(|pid| Path::new("/proc").join(pid).exists());
            if !alive {
                let _ = fs::remove_dir_all(entry.path());
                let _ = fs::remove_file(entry.path());
            }
        }
    }
    let folder = parent.join(format!("{}-{count}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}
