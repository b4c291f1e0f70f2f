//! `mambamq publish` and `mambamq consume`: messages from and to files, pipes and lines of JSON, with any AMQP 0-9-1 broker.
//!
//! One connection, one channel, one task. Nothing is read from the input while the broker does not take it, and nothing is
//! acknowledged before it is written. Start reading at [`publish`] and [`consume`]; [`client`] is the protocol, [`line`](mod@line) a message as
//! JSON.

#![allow(
    rustdoc::private_intra_doc_links,
    reason = "a map for readers of the code"
)]
mod client;
mod consume;
mod error;
mod input;
mod line;
mod publish;
mod target;

use std::{
    io::{self, Write},
    process::ExitCode,
};

pub use consume::ConsumeArgs;
pub use publish::PublishArgs;

use error::Error;

/// The broker refused something: a message, a method, the login.
const REFUSED: u8 = 1;
/// The command line or the input is not valid; the former is clap's own code.
const USAGE: u8 = 2;
/// No connection, or it was lost.
const CONNECTION: u8 = 3;
/// A signal ended it before it was done.
const INTERRUPTED: u8 = 130;

/// What is said below the help of both commands.
const AFTER_HELP: &str = "\
Exit codes:
  0    done: published messages are with the broker, consumed ones are written and acknowledged
  1    the broker refused something, or returned a mandatory message; --count was not reached
  2    the command line or the input is not valid
  3    no connection, or it was lost
  130  interrupted before it was done";

/// How a command ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    /// Not all of it; the operator has been told.
    Incomplete,
    Interrupted,
}

/// Publishes what `args` say.
#[must_use]
pub fn publish(args: &PublishArgs) -> ExitCode {
    run(publish::run(args))
}

/// Consumes as `args` say.
#[must_use]
pub fn consume(args: &ConsumeArgs) -> ExitCode {
    run(consume::run(args))
}

fn run(work: impl Future<Output = Result<End, Error>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(work);
            // A thread that waits for input would hold up the end.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(Error::System(error)),
    };
    ExitCode::from(match outcome {
        Ok(End::Done) => 0,
        Ok(End::Incomplete) => REFUSED,
        Ok(End::Interrupted) => INTERRUPTED,
        Err(error) => {
            complain(&error.to_string());
            error.code()
        }
    })
}

/// Tells the operator; nothing more can be done when standard error is closed.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "mambamq: {text}");
}
