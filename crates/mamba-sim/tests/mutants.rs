//! Tests of the tests: each of these mistakes has to be noticed by some seed.

#![expect(clippy::panic, reason = "helpers of tests")]

use mamba_sim::{Plan, disk::Faults, run};
use mamba_store::mutants::Mutant;

/// Seeds a mistake may take to be noticed.
const SEEDS: u64 = 600;

#[track_caller]
fn is_noticed(plan: impl Fn(u64) -> Plan, by: &[&str]) {
    let mut others = Vec::new();
    for seed in 0..SEEDS {
        if let Err(failure) = run(&plan(seed)) {
            if by.iter().any(|text| failure.what.contains(text)) {
                return;
            }
            others.push(failure.what);
        }
    }
    panic!("nobody noticed, although there was {others:?}");
}

fn broken(faults: Faults) -> impl Fn(u64) -> Plan {
    move |seed| Plan {
        broken: faults,
        ..Plan::new(seed)
    }
}

fn mistaken(mutant: Mutant) -> impl Fn(u64) -> Plan {
    move |seed| Plan {
        mutant: Some(mutant),
        ..Plan::new(seed)
    }
}

const LOSS: &[&str] = &["is lost", "messages (", "is not there"];

#[test]
fn confirms_before_the_sync() {
    let faults = Faults {
        ignores_sync: true,
        ..Faults::default()
    };
    is_noticed(broken(faults), LOSS);
}

#[test]
fn folders_that_are_not_synced() {
    let faults = Faults {
        ignores_sync_dir: true,
        ..Faults::default()
    };
    is_noticed(broken(faults), LOSS);
}

#[test]
fn checksums_that_are_ignored() {
    is_noticed(
        mistaken(Mutant::ChecksumIgnored),
        &["corrupted", "invented"],
    );
}

#[test]
fn a_dead_letter_that_leaves_before_it_arrives() {
    is_noticed(mistaken(Mutant::SettledFirst), &["is lost"]);
}

#[test]
fn log_files_that_are_freed_too_early() {
    is_noticed(mistaken(Mutant::FreedTooEarly), LOSS);
}
