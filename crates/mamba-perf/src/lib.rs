//! Load generator for any AMQP 0-9-1 broker: [`run`] takes [`Args`] to an exit code.
//!
//! It is made to cost less processor time than the broker it measures: each connection is one thread with a blocking socket,
//! messages are encoded once and only stamped afterwards ([`block`]), and what comes back is parsed in place
//! ([`wire`]). It knows nothing of the broker's own crates, so that a mistake there is not repeated here. Start reading at
//! [`load`], which directs a run; [`publisher`] and [`consumer`] are the hot loops.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for the terminal"
)]
#![allow(
    rustdoc::private_intra_doc_links,
    reason = "a map for readers of the code"
)]

mod args;
mod backlog;
mod block;
mod churn;
mod clock;
mod consumer;
mod error;
mod idle;
mod load;
mod outstanding;
mod plan;
mod publisher;
mod report;
mod stats;
mod topology;
mod transport;
pub mod uri;
mod verify;
mod wire;
mod worker;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};

pub use args::Args;

use args::Mode;
use churn::Operation;
use plan::Plan;

/// Runs the load that `args` describe, and prints lines and a summary on standard output, problems on standard error.
///
/// The code is 0 when everything went well, 1 when the broker refused something, a connection broke or `--verify` found
/// messages missing. An interrupt ends the run early and still prints the summary; a second one ends the process.
pub fn run(args: Args) -> ExitCode {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The order matters: the first signal sets the flag that lets the second one through.
        let registered =
            signal_hook::flag::register_conditional_shutdown(signal, 130, interrupted.clone())
                .and_then(|_| signal_hook::flag::register(signal, interrupted.clone()));
        if let Err(error) = registered {
            eprintln!(
                "note: cannot catch interrupts ({error}); one will end the run without a summary"
            );
        }
    }
    match Plan::new(args).and_then(|plan| carry_out(plan, &interrupted)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what the plan asks for; true when all went well.
fn carry_out(plan: Plan, interrupted: &Arc<AtomicBool>) -> Result<bool, error::Error> {
    let idle = match plan.args.connections_idle {
        0 => None,
        wanted => Some(idle::Idle::open(&plan, wanted, 1, interrupted)?),
    };
    let churn = |operation| churn::run(&plan, operation, interrupted);
    let fine = match plan.args.mode {
        Mode::Throughput | Mode::Latency => load::run(plan.clone(), interrupted)?,
        Mode::Backlog => backlog::run(&plan, interrupted)?,
        Mode::ConnectionCount => idle::count(&plan, interrupted)?,
        Mode::QueueCount => churn::count_queues(&plan, interrupted),
        Mode::ConnectionChurn => churn(Operation::Connection),
        Mode::ChannelChurn => churn(Operation::Channel),
        Mode::QueueChurn => churn(Operation::Queue),
        Mode::BindChurn => churn(Operation::Bind),
        Mode::ConsumerChurn => churn(Operation::Consumer),
    };
    Ok(idle.is_none_or(|idle| idle.end() == 0) && fine)
}
