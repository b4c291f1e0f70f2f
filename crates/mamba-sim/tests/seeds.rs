//! A quick set of seeds, and every point at which the power can go in a short run.

#![expect(clippy::panic, reason = "helpers of tests")]

use std::sync::atomic::{AtomicUsize, Ordering};

use mamba_sim::{Outcome, Plan, run};

/// Runs all plans on all cores; a failure names the seed.
#[track_caller]
fn run_all(plans: &[Plan]) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(failure) = run(plan) {
                        let crash = plan
                            .crash_at
                            .map_or(String::new(), |at| format!(" --crash-at {at}"));
                        panic!(
                            "{}\n  cargo run -p mamba-sim --release -- --seed {}{crash} --steps {}",
                            failure.what, plan.seed, plan.steps
                        );
                    }
                }
            });
        }
    });
}

#[test]
fn a_few_seeds_are_well() {
    let plans: Vec<Plan> = (0..150).map(Plan::new).collect();
    run_all(&plans);
}

#[test]
fn the_power_goes_at_every_call() {
    for seed in [1, 2] {
        let plan = |crash_at| Plan {
            steps: 60,
            calm: true,
            crash_at,
            ..Plan::new(seed)
        };
        let Outcome { calls, .. } = run(&plan(None)).unwrap();
        assert!(calls > 50, "{calls}");
        let plans: Vec<Plan> = (1..=calls).map(|call| plan(Some(call))).collect();
        run_all(&plans);
    }
}

#[test]
fn one_seed_is_one_run() {
    for seed in 0..5 {
        let plan = Plan::new(seed);
        assert_eq!(run(&plan).unwrap(), run(&plan).unwrap(), "seed {seed}");
    }
}
