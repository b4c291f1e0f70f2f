//! The load generator as a program of its own: `cargo run --example perf -- --help`.

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "perf", about = "Load generator for any AMQP 0-9-1 broker.")]
struct Cli {
    #[command(flatten)]
    args: mamba_perf::Args,
}

fn main() -> ExitCode {
    mamba_perf::run(Cli::parse().args)
}
