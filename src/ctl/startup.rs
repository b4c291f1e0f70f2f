//! Commands that wait for the node: until it has started, or until it has stopped.

use std::{fs, path::Path, thread::sleep, time::Duration};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::json;
use tokio::time::Instant;

use super::{
    Done, EX_DATAERR, EX_TEMPFAIL, EX_UNAVAILABLE, EX_USAGE, Failure, Invocation, Place, unanswered,
};

/// The commands of this file and how they are called.
pub(super) const COMMANDS: [(&str, &str); 4] = [
    ("await_startup", "await_startup [--timeout <seconds>]"),
    (
        "wait",
        "wait [<pidfile>] [--pid <pid>] [--timeout <seconds>]",
    ),
    ("stop", "stop [<pidfile>]"),
    ("shutdown", "shutdown"),
];

/// How long a start may take unless `--timeout` says so.
const STARTUP_TIME: Duration = Duration::from_secs(300);
/// The same for `wait`.
const WAIT_TIME: Duration = Duration::from_secs(10);
/// How long one question may take while it is waited.
const ASK_TIME: Duration = Duration::from_secs(10);
/// The pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Whether a command is one of these.
pub(super) fn waits(command: &str) -> bool {
    COMMANDS.iter().any(|(name, _)| *name == command)
}

/// Does one command.
pub(super) fn perform(place: &Place, invocation: &Invocation) -> Done {
    match invocation.command.as_str() {
        "await_startup" => {
            let [] = invocation.exactly()?;
            let time = invocation.time.unwrap_or(STARTUP_TIME);
            started(place, time, &|| Ok(()))
        }
        "wait" => wait(place, invocation),
        _ => stop(place, invocation),
    }
}

/// Returns when the node answers. `still` says whether it is any use to wait.
fn started(place: &Place, time: Duration, still: &dyn Fn() -> Done) -> Done {
    let deadline = Instant::now() + time;
    loop {
        let answered = place
            .open(Some(ASK_TIME))
            .map_err(|error| unanswered(&error))
            .and_then(|mut node| node.ask("ping", json!({})));
        let Err(failure) = answered else {
            return Ok(());
        };
        still()?;
        if Instant::now() >= deadline {
            let text = format!(
                "Error: the node did not start within {} s\n{}",
                time.as_secs(),
                failure.text
            );
            return Err(Failure::new(EX_TEMPFAIL, text));
        }
        sleep(LOOK_AGAIN);
    }
}

/// Waits for the node while its process runs, which a file or `--pid` names.
fn wait(place: &Place, invocation: &Invocation) -> Done {
    let time = invocation.time.unwrap_or(WAIT_TIME);
    let deadline = Instant::now() + time;
    let pid = match (invocation.words.as_slice(), invocation.option("pid")) {
        ([], Some(text)) => parse(text)?,
        ([file], None) => {
            invocation.banner(&format!("Waiting for pid file '{file}' to appear"));
            let pid = loop {
                match fs::read_to_string(file) {
                    Ok(text) if !text.trim().is_empty() => break parse(text.trim())?,
                    _ if Instant::now() >= deadline => {
                        let text = format!(
                            "Error: the pid file '{file}' did not appear within {} s",
                            time.as_secs()
                        );
                        return Err(Failure::new(EX_TEMPFAIL, text));
                    }
                    _ => sleep(LOOK_AGAIN),
                }
            };
            invocation.banner(&format!("pid is {}", pid.as_raw_nonzero()));
            pid
        }
        ([], None) => return Err(invocation.wrong_count(true)),
        ([_], Some(_)) => {
            let text = "Error: a pid file or --pid, not both";
            return Err(Failure::new(EX_USAGE, text));
        }
        _ => return Err(invocation.wrong_count(false)),
    };
    let number = pid.as_raw_nonzero();
    invocation.banner(&format!(
        "Waiting for the node to start while OS process '{number}' is running"
    ));
    let rest = deadline.saturating_duration_since(Instant::now());
    started(place, rest, &|| {
        if is_running(pid) {
            return Ok(());
        }
        let text = format!("Error: process '{number}' is not running");
        Err(Failure::new(EX_UNAVAILABLE, text))
    })
}

fn parse(text: &str) -> Result<Pid, Failure> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.and_then(Pid::from_raw).ok_or_else(|| {
        let text = format!("Error: '{text}' is no number of a process");
        Failure::new(EX_DATAERR, text)
    })
}

/// A process of somebody else is running as well; one that has ended and that its parent has not looked at is not.
fn is_running(pid: Pid) -> bool {
    if matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH)) {
        return false;
    }
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    // The state comes behind the name in parentheses. Without this file there is only the signal to go by.
    let state = stat.ok().and_then(|stat| {
        let (_, rest) = stat.rsplit_once(')')?;
        rest.trim_start().chars().next()
    });
    !matches!(state, Some('Z' | 'X'))
}

/// Asks the process to end as SIGTERM does; `shutdown`, and `stop` with a pid file, wait until it has.
fn stop(place: &Place, invocation: &Invocation) -> Done {
    let shutdown = invocation.command == "shutdown";
    let waits = match invocation.words.as_slice() {
        [] => shutdown,
        [file] if !shutdown => {
            if !Path::new(file).exists() {
                let text = format!("Error: there is no pid file '{file}'");
                return Err(Failure::new(EX_DATAERR, text));
            }
            true
        }
        _ => return Err(invocation.wrong_count(false)),
    };
    if matches!(place, Place::Elsewhere(_)) {
        let text = "Error: a broker is stopped on its own machine, without --url";
        return Err(Failure::new(EX_USAGE, text));
    }
    let mut node = place
        .open(invocation.time)
        .map_err(|error| unanswered(&error))?;
    let status = node.ask("status", json!({}))?;
    let name = status["node"].as_str().unwrap_or_default();
    let pid = status["pid"].as_i64().and_then(|pid| pid.try_into().ok());
    let pid = pid.and_then(Pid::from_raw).ok_or_else(|| {
        Failure::new(
            EX_UNAVAILABLE,
            "Error: the node does not say which process it is",
        )
    })?;
    invocation.banner(&format!("Stopping and halting node {name} ..."));
    kill_process(pid, Signal::TERM).map_err(|error| {
        let number = pid.as_raw_nonzero();
        let text = format!("Error: process {number} cannot be asked to stop: {error}");
        Failure::new(EX_UNAVAILABLE, text)
    })?;
    if !waits {
        return Ok(());
    }
    let deadline = invocation.time.map(|time| Instant::now() + time);
    while is_running(pid) {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let text = "Error: the node has not stopped yet";
            return Err(Failure::new(EX_TEMPFAIL, text));
        }
        sleep(LOOK_AGAIN);
    }
    Ok(())
}
