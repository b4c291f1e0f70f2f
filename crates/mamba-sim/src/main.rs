//! Runs many seeds on all cores, or one seed with everything it does.

use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Instant,
};

use clap::Parser;
use mamba_sim::{Failure, Outcome, Plan, run};
use parking_lot::Mutex;

/// The broker on a simulated disk and clock.
#[derive(Debug, Parser)]
struct Args {
    /// Run seeds 0 up to this number.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this seed only, and tell what happens.
    #[arg(long)]
    seed: Option<u64>,
    /// Things that happen in each run.
    #[arg(long, default_value_t = 300)]
    steps: u64,
    /// Run one seed's work once for each call of the disk, and let the power go at that call.
    #[arg(long)]
    every_call: bool,
    /// With --seed: let the power go at this call.
    #[arg(long)]
    crash_at: Option<u64>,
    /// Threads; 0 is one per core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Go on after failures, and tell this many.
    #[arg(long, default_value_t = 1)]
    failures: u64,
}

impl Args {
    fn plan(&self, seed: u64, crash_at: Option<u64>) -> Plan {
        Plan {
            steps: self.steps,
            crash_at,
            calm: self.every_call || self.crash_at.is_some(),
            ..Plan::new(seed)
        }
    }
}

#[expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a tool for people"
)]
fn main() -> ExitCode {
    let args = Args::parse();
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .init();
    }
    if let (Some(seed), false) = (args.seed, args.every_call) {
        let plan = Plan {
            trace: true,
            ..args.plan(seed, args.crash_at)
        };
        return match run(&plan) {
            Ok(outcome) => {
                println!("seed {seed} is well: {outcome:?}");
                ExitCode::SUCCESS
            }
            Err(Failure { what, trace }) => {
                println!("{trace}");
                println!("seed {seed} fails: {what}");
                ExitCode::FAILURE
            }
        };
    }
    let began = Instant::now();
    let jobs: Vec<Plan> = if args.every_call {
        let seed = args.seed.unwrap_or(args.from);
        let calls = run(&args.plan(seed, None)).map_or(0, |outcome| outcome.calls);
        (1..=calls).map(|at| args.plan(seed, Some(at))).collect()
    } else {
        (args.from..args.from + args.seeds)
            .map(|seed| args.plan(seed, None))
            .collect()
    };
    let next = AtomicU64::new(0);
    let failed = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Outcome::default());
    let threads = if args.threads > 0 {
        args.threads
    } else {
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    };
    // What panics is told with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(plan) = usize::try_from(number).ok().and_then(|at| jobs.get(at))
                    else {
                        return;
                    };
                    match run(plan) {
                        Ok(outcome) => add(&mut total.lock(), &outcome),
                        Err(failure) => {
                            let crash = plan
                                .crash_at
                                .map_or(String::new(), |at| format!(" --crash-at {at}"));
                            println!("seed {} fails: {}", plan.seed, failure.what);
                            println!(
                                "  cargo run -p mamba-sim --release -- --seed {}{crash} --steps {}",
                                plan.seed, plan.steps
                            );
                            if failed.fetch_add(1, Ordering::Relaxed) + 1 >= args.failures {
                                stop.store(true, Ordering::Relaxed);
                            }
                        }
                    }
                }
            });
        }
    });
    let runs = next.load(Ordering::Relaxed).min(jobs.len() as u64);
    let seconds = began.elapsed().as_secs_f64();
    let total = total.into_inner();
    let failed = failed.into_inner();
    println!(
        "{runs} runs in {seconds:.1} s ({:.0}/s), {failed} failed; {} published, {} confirmed, {} delivered, {} power cuts, {} kills, {} clean stops, {} faults",
        runs as f64 / seconds,
        total.published,
        total.confirmed,
        total.delivered,
        total.power_cuts,
        total.kills,
        total.clean_stops,
        total.faults
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn add(total: &mut Outcome, one: &Outcome) {
    total.published += one.published;
    total.confirmed += one.confirmed;
    total.delivered += one.delivered;
    total.power_cuts += one.power_cuts;
    total.kills += one.kills;
    total.clean_stops += one.clean_stops;
    total.faults += one.faults;
}
