//! Calls hot paths, for a counter of instructions.
//!
//! ```text
//! mamba-bench                 the names, one per line: NAME TIMES ITEMS
//! mamba-bench NAME            the path, TIMES times
//! ```

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for the terminal"
)]

use std::process::ExitCode;

use mamba_bench::{bodies, measured};

/// Items that a run handles, about: enough to make the first call's extras vanish, few enough for callgrind.
const ITEMS: u32 = 10_000;

fn main() -> ExitCode {
    let Some(name) = std::env::args().nth(1) else {
        for body in bodies() {
            println!("{} {} {}", body.name, times(body.items), body.items);
        }
        return ExitCode::SUCCESS;
    };
    let Some(body) = bodies().into_iter().find(|body| body.name == name) else {
        eprintln!("no body {name:?}");
        return ExitCode::FAILURE;
    };
    let mut call = (body.prepare)();
    // Lists have grown to their size, files are open.
    for _ in 0..times(body.items) / 10 {
        call();
    }
    measured(&mut call, times(body.items));
    ExitCode::SUCCESS
}

fn times(items: u32) -> u32 {
    ITEMS / items
}
