//! A backlog: queues are filled with confirmed messages, the broker is restarted, the queues are drained.

use std::io::stderr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::clock::{MILLISECOND, SECOND, cpu_ns, now_ns};
use crate::error::Error;
use crate::load;
use crate::plan::Plan;
use crate::report::{self, duration, progress, seconds};
use crate::topology;
use crate::transport::{READ_TIMEOUT_NS, Transport, refuse_close};

/// How long a broker may still answer after the restart command ended, in nanoseconds.
const GOING_DOWN_NS: u64 = 10 * SECOND;
/// How often a broker that is not back is tried, in nanoseconds.
const RETRY_NS: u64 = 10 * MILLISECOND;

/// Runs the three steps and prints what came of them; true when every confirmed message came back.
pub(crate) fn run(plan: &Plan, interrupted: &Arc<AtomicBool>) -> Result<bool, Error> {
    let cpu_from_ns = cpu_ns();
    let mut filling = plan.clone();
    filling.consumers = 0;
    filling.args.keep = true;
    progress(&plan.args, "filling");
    let filled = load::perform(filling, None, interrupted)?;
    let mut report = Report::default();
    report.add("fill", filled.report);
    let totals = filled.overall;
    let taken = if plan.window > 0 {
        totals.confirmed
    } else {
        totals.published
    };
    let copies = if plan.fan_out { plan.queues.len() } else { 1 };
    let expected =
        taken.saturating_sub(totals.returned) * u64::try_from(copies).unwrap_or(u64::MAX);
    let mut fine = filled.fine && !interrupted.load(Ordering::Relaxed);
    let mut draining = plan.clone();
    draining.publishers = 0;
    draining.args.messages = Some(expected);
    draining.args.purge = false;
    draining.args.warmup = 0.0;
    draining.duration_secs = None;
    if fine && let Some(command) = &plan.args.restart {
        progress(&plan.args, "restarting");
        match restart(&draining, command, interrupted) {
            Ok(restarted) => report.add("restart", Some(restarted.report())),
            Err(error) => {
                eprintln!("error: --restart {command}: {error}");
                fine = false;
            }
        }
    }
    if fine {
        progress(&plan.args, "draining");
        let drained = load::perform(draining, Some(filled.sent), interrupted)?;
        report.add("drain", drained.report);
        let lost = expected.saturating_sub(drained.overall.consumed);
        report.json["lost"] = lost.into();
        if lost > 0 {
            eprintln!("error: {lost} of {expected} messages did not come back");
        }
        fine = drained.fine && lost == 0;
    } else if !plan.args.predeclared && !plan.args.keep {
        eprintln!("note: the queues are left as they are");
    }
    report.json["mode"] = plan.args.mode.name().into();
    report.json["server"] = report.json["fill"]["server"].clone();
    report.json["cpu_secs"] = seconds(cpu_ns() - cpu_from_ns).into();
    report::outcome(&plan.args, &report.json, &report.text);
    Ok(fine)
}

/// The reports of the steps, put together.
#[derive(Default)]
struct Report {
    json: Json,
    text: String,
}

impl Report {
    fn add(&mut self, step: &str, report: Option<(Json, String)>) {
        if let Some((json, text)) = report {
            self.json[step] = json;
            self.text.push_str(&format!("\n{step}{text}"));
        }
    }
}

/// A restart that came to its end.
struct Restarted {
    /// From the start of the command until the queues were there again.
    took_ns: u64,
    /// From the end of the old broker until the queues were there again.
    down_ns: u64,
    /// Messages that the queues then held.
    found: u64,
}

impl Restarted {
    fn report(&self) -> (Json, String) {
        let json = json!({
            "took_secs": seconds(self.took_ns),
            "down_secs": seconds(self.down_ns),
            "messages_found": self.found,
        });
        let text = format!(
            "\n  the command and the broker took {}; without the broker for {}; {} messages found\n",
            duration(self.took_ns),
            duration(self.down_ns),
            self.found
        );
        (json, text)
    }
}

/// Runs the command, waits until the broker is gone, and until it answers again.
///
/// The command may go on running, as a broker in the foreground does; its output goes to standard error.
fn restart(plan: &Plan, command: &str, interrupted: &AtomicBool) -> Result<Restarted, Error> {
    let mut witness = topology::connect(plan)?;
    let started_ns = now_ns();
    let patience = Duration::from_secs_f64(plan.args.restart_timeout);
    let end_ns = started_ns + u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX - started_ns);
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(stderr())
        .spawn()?;
    let mut ended_ns = None;
    let over = || now_ns() > end_ns || interrupted.load(Ordering::Relaxed);
    while is_alive(&mut witness) {
        let now = now_ns();
        if ended_ns.is_none() && has_ended(&mut child)? {
            ended_ns = Some(now);
        }
        if over() || ended_ns.is_some_and(|ended_ns| now > ended_ns + GOING_DOWN_NS) {
            return Err(Error::Options("the broker did not go down".to_owned()));
        }
    }
    let down_ns = now_ns();
    let found = loop {
        if ended_ns.is_none() && has_ended(&mut child)? {
            ended_ns = Some(now_ns());
        }
        match topology::create(plan) {
            Ok(found) => break found,
            // It listens again, but does not take the queues as they are.
            Err(
                error @ Error::Closed {
                    what: "channel", ..
                },
            ) => return Err(error),
            Err(error) if over() => {
                return Err(Error::Options(format!("the broker is not back: {error}")));
            }
            Err(_) => thread::sleep(Duration::from_nanos(RETRY_NS)),
        }
    };
    let now = now_ns();
    Ok(Restarted {
        took_ns: now - started_ns,
        down_ns: now - down_ns,
        found,
    })
}

/// Whether the command is over; an error when it failed.
fn has_ended(child: &mut Child) -> Result<bool, Error> {
    match child.try_wait()? {
        None => Ok(false),
        Some(status) if status.success() => Ok(true),
        Some(status) => Err(Error::Options(format!("the command ended with {status}"))),
    }
}

/// Looks whether the broker still holds the connection; takes up to [`READ_TIMEOUT_NS`] when it does.
fn is_alive(witness: &mut Transport) -> bool {
    if witness.receive_within(READ_TIMEOUT_NS).is_err() {
        return false;
    }
    while let Ok(Some(frame)) = witness.inbound.next_frame() {
        if refuse_close(&frame).is_err() {
            return false;
        }
    }
    witness.keep_alive(now_ns(), true).is_ok()
}
