//! What the scenario programs of the Rust clients share: settings, reporting, checks, a proxy that falls silent.
//!
//! A scenario is an async function that returns [`Outcome`]; [`run`] prints one line for each.

use std::{
    fmt::{Debug, Display},
    future::Future,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    pin::Pin,
    process::{Command, Stdio},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// How long a scenario waits for one thing to happen.
pub const WAIT: Duration = Duration::from_secs(20);
const SCENARIO_LIMIT: Duration = Duration::from_secs(90);

/// The contract's environment, with defaults for running a program by hand.
pub struct Settings {
    /// Broker address with the virtual host spelled `/%2f`.
    pub url: String,
    /// The same over IPv6; empty when there is none.
    pub url_v6: String,
    /// Program that kills and restarts the broker; empty when there is none.
    pub control: String,
    /// Starts every queue and exchange name.
    pub prefix: String,
    /// Messages in the long confirm run.
    pub messages: usize,
}

/// Read once, at first use.
pub static SETTINGS: LazyLock<Settings> = LazyLock::new(|| Settings {
    url: virtual_host_spelled(&variable("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")),
    url_v6: virtual_host_spelled(&variable("AMQP_URL_V6", "")),
    control: variable("BROKER_CONTROL", ""),
    prefix: variable("INTEROP_PREFIX", "interop-rust-"),
    messages: variable("INTEROP_MESSAGES", "50000")
        .parse()
        .expect("INTEROP_MESSAGES is a number"),
});

fn variable(name: &str, otherwise: &str) -> String {
    std::env::var(name)
        .ok()
        .filter(|value| !value.is_empty())
        .unwrap_or_else(|| otherwise.to_owned())
}

/// The contract's path `/` means the virtual host `/`; in an AMQP URI it would be the empty name.
fn virtual_host_spelled(url: &str) -> String {
    if url.ends_with('/') {
        format!("{url}%2f")
    } else {
        url.to_owned()
    }
}

/// Why a scenario did not pass.
pub enum Failure {
    /// Something was not as expected.
    Failed(String),
    /// The scenario does not apply here.
    Skipped(String),
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

/// What a scenario returns.
pub type Outcome<T = ()> = Result<T, Failure>;

/// A scenario under way.
pub type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A name and the function behind it.
pub type Scenario = (&'static str, fn() -> Running);

/// Lists async functions as scenarios under their own names.
#[macro_export]
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        vec![$((stringify!($name), (|| -> $crate::Running { Box::pin($name()) }) as fn() -> $crate::Running)),*]
    };
}

/// Runs the scenarios the environment asks for, in order, and reports.
pub async fn run(scenarios: Vec<Scenario>) {
    let only = variable("INTEROP_ONLY", "");
    for (name, body) in scenarios {
        if !only.is_empty() && only.split(',').all(|wanted| wanted != name) {
            continue;
        }
        let line = match tokio::time::timeout(SCENARIO_LIMIT, tokio::spawn(body())).await {
            Ok(Ok(Ok(()))) => format!("PASS {name}"),
            Ok(Ok(Err(Failure::Skipped(reason)))) => format!("SKIP {name}: {reason}"),
            Ok(Ok(Err(Failure::Failed(reason)))) => format!("FAIL {name}: {reason}"),
            Ok(Err(panic)) => format!("FAIL {name}: {panic}"),
            Err(_) => format!("FAIL {name}: not done after {} s", SCENARIO_LIMIT.as_secs()),
        };
        println!("{}", line.replace('\n', " "));
    }
    println!("DONE");
    // A scenario that ran out of time may have left a blocked thread.
    std::process::exit(0);
}

/// Fails unless the two are equal.
pub fn same<T: PartialEq<U> + Debug, U: Debug>(what: &str, expected: T, actual: U) -> Outcome {
    check(expected == actual, || {
        format!("{what}: expected {expected:?}, got {actual:?}")
    })
}

/// Fails with the message unless the condition holds.
pub fn check<M: Display>(condition: bool, otherwise: impl FnOnce() -> M) -> Outcome {
    if condition {
        Ok(())
    } else {
        failed(otherwise())
    }
}

/// A failure with this message.
pub fn failed<T>(message: impl Display) -> Outcome<T> {
    Err(Failure::Failed(message.to_string()))
}

/// A skip with this reason.
pub fn skipped<T>(reason: impl Display) -> Outcome<T> {
    Err(Failure::Skipped(reason.to_string()))
}

/// Waits for the future, at most [`WAIT`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> Outcome<T> {
    match tokio::time::timeout(WAIT, future).await {
        Ok(value) => Ok(value),
        Err(_) => failed(format!("no {what} within {} s", WAIT.as_secs())),
    }
}

/// A queue or exchange name of this run.
pub fn name(rest: &str) -> String {
    format!("{}{rest}", SETTINGS.prefix)
}

/// A body whose content shows a lost, doubled or moved stretch.
pub fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// Kills the broker and starts it again; skips when nobody can.
pub async fn kill_and_restart() -> Outcome {
    let status = tokio::task::spawn_blocking(|| {
        Command::new(&SETTINGS.control)
            .arg("kill-restart")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
    })
    .await??;
    check(status.success(), || {
        format!("kill-restart ended with {status}")
    })
}

/// Forwards bytes between clients and the broker until it is frozen: then nothing passes and nobody is told.
pub struct FreezableProxy {
    address: SocketAddr,
    frozen: Arc<AtomicBool>,
}

impl FreezableProxy {
    /// Starts forwarding to `host:port`.
    pub fn start(upstream: &str) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let proxy = Self {
            address: listener.local_addr()?,
            frozen: Arc::new(AtomicBool::new(false)),
        };
        let (upstream, frozen) = (upstream.to_owned(), Arc::clone(&proxy.frozen));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(broker) = TcpStream::connect(&upstream) else {
                    return;
                };
                for (mut from, mut to) in pairs(client, broker).into_iter().flatten() {
                    let frozen = Arc::clone(&frozen);
                    thread::spawn(move || pump(&mut from, &mut to, &frozen));
                }
            }
        });
        Ok(proxy)
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing passes.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::SeqCst);
    }
}

fn pairs(client: TcpStream, broker: TcpStream) -> io::Result<[(TcpStream, TcpStream); 2]> {
    Ok([(client.try_clone()?, broker.try_clone()?), (broker, client)])
}

fn pump(from: &mut TcpStream, to: &mut TcpStream, frozen: &AtomicBool) {
    let mut buffer = [0; 65536];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        // Frozen bytes are swallowed, so that no full send buffer gives the silence away.
        if !frozen.load(Ordering::SeqCst) && to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    if !frozen.load(Ordering::SeqCst) {
        let _ = to.shutdown(Shutdown::Both);
    }
}

/// `host:port` of [`Settings::url`].
pub fn broker_address() -> String {
    let authority = SETTINGS
        .url
        .split("//")
        .nth(1)
        .unwrap_or_default()
        .split('/')
        .next()
        .unwrap_or_default();
    authority.rsplit('@').next().unwrap_or_default().to_owned()
}
