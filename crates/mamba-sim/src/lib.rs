//! The whole broker on a simulated disk and clock: one seed, one run.
//!
//! Real store, queue and broker code; only the disk, the time and the clients are made up. Clients talk AMQP without sockets and
//! keep books of what the broker promised them. The disk loses, keeps or tears whatever was not synced, fills up and fails. After every
//! end of the broker the books are compared with what is there. Must not be needed by anything else. Start reading at [`run`],
//! then [`world`](self) for what happens and [`model`] for what is promised.

pub mod client;
pub mod disk;
pub mod model;
pub mod rng;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use world::{Outcome, Plan};

/// What was wrong with a run, and what happened until then if the plan asked for it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was wrong.
    pub what: String,
    /// What happened, a line each.
    pub trace: String,
}

/// Runs a plan. A panic of the broker is a failure like any other.
///
/// # Errors
/// [`Failure`] says which promise was broken.
pub fn run(plan: &Plan) -> Result<Outcome, Failure> {
    match catch_unwind(AssertUnwindSafe(|| world::run(plan))) {
        Ok((Ok(outcome), _)) => Ok(outcome),
        Ok((Err(what), trace)) => Err(Failure { what, trace }),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no text");
            Err(Failure {
                what: format!("the broker panicked: {text}"),
                trace: String::new(),
            })
        }
    }
}
