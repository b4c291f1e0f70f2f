//! A virtual host's queues with all their features against a model of plain lists, under generated commands.
//!
//! The broker is the real one, on a simulated disk and clock; after each command everything comes to rest, and what clients
//! got, every reply and every counter has to be what the model says. See [`model`] for the rules, [`world`] for the commands and
//! [`cases`] for what once went wrong.
//!
//! In a crash the broker dies while clients publish and settle, and the disk loses what it may lose. What is there afterwards has to be
//! what some moment in between would have left, and nothing confirmed may be missing; the model takes it over as it was found.
//!
//! `MAMBAMQ_FEATURE_CASES` runs more than a quick set of cases.

mod cases;
mod model;
mod world;

use std::{cell::RefCell, collections::BTreeMap};

use proptest::{collection::vec, prelude::*, sample::Index, test_runner::TestRunner};

use mamba_sim::disk::Crash;
use model::{
    DEAD, DeadLetters, How, LATER, MAIN, MISSING, ONCE, Once, Overflow, Policy, REST, Retry, Spec,
};
use world::{BODY_MIN, Command, IDS, Plan, To, World};

const QUEUES: usize = 3;
const CLIENTS: usize = 2 * QUEUES;
/// Cases of a quick run.
const CASES: u32 = 60;
/// How often a run is repeated for what has not happened yet.
const ROUNDS_MAX: u32 = 5;
/// What has to happen in any run of so many.
const REACHED: &[&str] = &[
    "Acked",
    "crashes",
    "DeliveryLimit",
    "Expired",
    "Handed",
    "MaxLength",
    "Purged",
    "Rejected",
    "Transient",
    "nacked",
    "timed out",
    "queues expired",
    "read back",
];

fn rarely<T: Strategy>(value: T) -> impl Strategy<Value = Option<T::Value>>
where
    T::Value: Clone + std::fmt::Debug,
{
    prop::option::weighted(0.25, value)
}

fn dead_letters() -> impl Strategy<Value = Option<DeadLetters>> {
    let exchange = prop_oneof![6 => Just(""), 3 => Just(DEAD), 2 => Just(MAIN), 1 => Just(MISSING)];
    let key = prop_oneof![
        2 => Just(None),
        6 => (0..QUEUES).prop_map(|queue| Some(format!("q{queue}"))),
        1 => (0..3usize).prop_map(|key| Some(format!("k{key}"))),
    ];
    let to = (exchange, key).prop_map(|(exchange, key)| DeadLetters {
        exchange: exchange.to_owned(),
        key,
    });
    prop::option::weighted(0.7, to)
}

fn spec(number: usize) -> impl Strategy<Value = Spec> {
    let overflow = prop_oneof![
        3 => Just(Overflow::DropHead),
        1 => Just(Overflow::RejectPublish),
        1 => Just(Overflow::RejectPublishDeadLetter),
    ];
    let kind = (
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.2),
        prop_oneof![2 => Just(0u8), 1 => Just(3)],
        prop::option::weighted(0.6, -1i64..3),
        rarely((any::<bool>(), any::<bool>(), 1..100u64, rarely(100..150u64))),
        rarely((2..5usize, prop::option::of(50..200u64))),
        rarely(1..400u64),
    );
    let bounds = (
        rarely(prop_oneof![1 => Just(0u64), 5 => 1..200u64]),
        rarely(100..400u64),
        rarely(0..6u64),
        rarely(0..12_000u64),
        overflow,
    );
    let bindings = (
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        rarely((0..3usize).prop_map(|key| format!("k{key}"))),
    );
    (kind, bounds, dead_letters(), bindings).prop_map(
        move |(kind, bounds, dead_letters, bindings)| {
            let (quorum, durable, auto_delete, single_active, max_priority, ..) = kind;
            let (.., delivery_limit, retry, once, consumer_timeout) = kind;
            let (ttl, expires, max_length, max_bytes, overflow) = bounds;
            let (in_rest, in_dead, in_later, in_once, key) = bindings;
            let mut bindings = Vec::new();
            if in_rest {
                bindings.push((REST.to_owned(), String::new()));
            }
            if in_dead {
                bindings.push((DEAD.to_owned(), String::new()));
            }
            if in_later {
                bindings.push((LATER.to_owned(), String::new()));
            }
            if in_once {
                bindings.push((ONCE.to_owned(), String::new()));
            }
            bindings.extend(key.map(|key| (MAIN.to_owned(), key)));
            Spec {
                name: format!("q{number}"),
                quorum,
                durable: durable || quorum,
                auto_delete: auto_delete && !quorum,
                single_active,
                max_priority: if quorum { 0 } else { max_priority },
                ttl,
                expires,
                max_length,
                max_bytes,
                overflow: match overflow {
                    // Of quorum queues it behaves like the default.
                    Overflow::RejectPublishDeadLetter if quorum => Overflow::DropHead,
                    other => other,
                },
                dead_letters,
                delivery_limit,
                retry: retry.map(|(failed, returned, min, max)| Retry {
                    failed,
                    returned,
                    min,
                    max,
                }),
                once: once.map(|(size, ttl)| Once { size, ttl }),
                consumer_timeout,
                bindings,
            }
        },
    )
}

fn plan() -> impl Strategy<Value = Plan> {
    let memory = prop_oneof![1 => Just(0usize), 1 => Just(16usize << 20)];
    let log_file_size = prop_oneof![Just(4096u64), Just(16_384), Just(65_536)];
    let size = prop_oneof![
        2 => Just(None),
        2 => (BODY_MIN..100usize).prop_map(Some),
        1 => (3000..9000usize).prop_map(Some),
    ];
    let kind = (
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.4),
        any::<bool>(),
    );
    (
        (spec(0), spec(1), spec(2)),
        memory,
        log_file_size,
        size,
        kind,
    )
        .prop_map(
            |((first, second, third), memory, log_file_size, size, kind)| Plan {
                filters: kind.0,
                transactions: kind.1,
                few_ids: kind.2,
                specs: vec![first, second, third],
                memory,
                log_file_size,
                size,
            },
        )
}

fn policy() -> impl Strategy<Value = Policy> {
    let overflow = prop_oneof![
        Just(Overflow::DropHead),
        Just(Overflow::RejectPublish),
        Just(Overflow::RejectPublishDeadLetter),
    ];
    let queues = prop::collection::btree_set(
        (0..QUEUES).prop_map(|queue| format!("q{queue}")),
        1..=QUEUES,
    );
    let name = (
        any::<bool>(),
        (0..2usize).prop_map(|name| format!("p{name}")),
        0..3i64,
    );
    let bounds = (
        rarely(0..200u64),
        rarely(100..400u64),
        rarely(0..6u64),
        rarely(0..12_000u64),
        rarely(overflow),
        rarely(-1i64..4),
    );
    (name, queues, bounds, dead_letters()).prop_map(|(name, queues, bounds, dead_letters)| {
        let (operator, name, priority) = name;
        let (ttl, expires, max_length, max_bytes, overflow, delivery_limit) = bounds;
        // Operator policies have no say in these.
        let dead_letters = dead_letters.filter(|_| !operator);
        let is_empty = (ttl, expires, max_length, max_bytes, delivery_limit)
            == (None, None, None, None, None)
            && overflow.is_none()
            && dead_letters.is_none();
        Policy {
            operator,
            name,
            queues,
            priority,
            ttl,
            expires,
            // A policy says something.
            max_length: if is_empty { Some(3) } else { max_length },
            max_bytes,
            overflow,
            dead_letter_exchange: dead_letters.as_ref().map(|to| to.exchange.clone()),
            dead_letter_key: dead_letters.and_then(|to| to.key),
            delivery_limit,
        }
    })
}

fn command() -> impl Strategy<Value = Command> {
    let crash = (
        prop::option::weighted(
            0.6,
            (0..QUEUES, prop_oneof![Just(How::Ack), Just(How::Discard)]),
        ),
        vec(publish(false), 0..4),
        1..12u64,
        prop_oneof![1 => Just(Crash::Process), 3 => Just(Crash::Power)],
    )
        .prop_map(|(settle, publishes, calls, how)| Command::Crash {
            settle,
            publishes,
            calls,
            how,
        });
    prop_oneof![2 => crash, 140 => calm_command()]
}

fn publish(may_wait: bool) -> impl Strategy<Value = Command> {
    let client = || 0..CLIENTS;
    let queue = || 0..QUEUES;
    let to = prop_oneof![
        6 => queue().prop_map(To::Queue),
        2 => (0..3usize).prop_map(To::Main),
        1 => Just(To::Rest),
        2 => Just(To::Once),
        2 * u32::from(may_wait) => prop::option::weighted(0.9, 0..150u64).prop_map(To::Later),
    ];
    let properties = (
        prop::bool::weighted(0.8),
        prop::option::weighted(0.4, 0..5u8),
        prop::option::weighted(0.15, prop_oneof![1 => Just(0u64), 4 => 1..150u64]),
        prop_oneof![8 => BODY_MIN..100usize, 3 => 3000..9000usize],
        prop::option::weighted(0.1, queue()),
        prop::bool::weighted(0.1),
        0..3i64,
        prop::option::weighted(0.4, 0..IDS),
    );
    (client(), to, 1..6usize, properties).prop_map(|(client, to, count, properties)| {
        let (persistent, priority, expiration, size, cc, headers, kind, once) = properties;
        Command::Publish {
            kind,
            once,
            client,
            to,
            count,
            persistent,
            priority,
            expiration,
            size,
            cc,
            headers,
        }
    })
}

fn calm_command() -> impl Strategy<Value = Command> {
    let client = || 0..CLIENTS;
    let queue = || 0..QUEUES;
    let consume = (
        client(),
        queue(),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.05),
        0..4u16,
        -1..2i64,
        prop::option::weighted(0.6, 0..3i64),
    )
        .prop_map(
            |(client, queue, no_ack, exclusive, prefetch, priority, filter)| Command::Consume {
                filter,
                client,
                queue,
                no_ack,
                exclusive,
                prefetch,
                priority,
            },
        );
    let how = prop_oneof![
        2 => Just(How::Ack),
        2 => Just(How::Return),
        2 => Just(How::Fail),
        2 => Just(How::Discard),
    ];
    prop_oneof![
        30 => publish(true),
        10 => consume,
        5 => any::<Index>().prop_map(Command::Cancel),
        12 => (client(), queue(), prop::bool::weighted(0.3))
            .prop_map(|(client, queue, no_ack)| Command::Get { client, queue, no_ack }),
        40 => (any::<Index>(), prop::bool::weighted(0.3), how)
            .prop_map(|(pick, multiple, how)| Command::Settle { pick, multiple, how }),
        2 => client().prop_map(Command::Recover),
        12 => client().prop_map(Command::Commit),
        2 => client().prop_map(Command::Rollback),
        3 => client().prop_map(Command::Leave),
        1 => queue().prop_map(Command::Purge),
        1 => queue().prop_map(Command::Delete),
        4 => queue().prop_map(Command::Declare),
        10 => prop_oneof![2 => 1..20u64, 2 => 20..300u64].prop_map(Command::Pass),
        2 => prop_oneof![Just(0), 1..200u64].prop_map(Command::Restart),
        2 => Just(Command::Maintain),
        3 => policy().prop_map(Command::SetPolicy),
        2 => (any::<bool>(), 0..2usize).prop_map(|(operator, name)| Command::ClearPolicy {
            operator,
            name: format!("p{name}"),
        }),
    ]
}

fn cases() -> u32 {
    std::env::var("MAMBAMQ_FEATURE_CASES").map_or(CASES, |cases| cases.parse().expect("a number"))
}

/// Runs it; adds what became of the messages to `reached`.
fn play(
    plan: &Plan,
    commands: &[Command],
    reached: &RefCell<BTreeMap<String, u64>>,
) -> Result<(), String> {
    let run = || {
        let mut world = World::new(plan.clone())?;
        commands.iter().try_for_each(|command| world.run(command))?;
        world.drain()?;
        for (what, count) in world.reached() {
            *reached.borrow_mut().entry(what).or_default() += count;
        }
        Ok(())
    };
    // On one line: what proptest prints besides is hundreds of lines long.
    run().map_err(|wrong: String| format!("{wrong}\n{plan:?}\n{commands:?}\n"))
}

#[test]
fn queues_do_what_lists_would() {
    let config = ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        // Shrinking goes on for so long, in milliseconds.
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    };
    let reached = RefCell::default();
    // The cases come to everything that a queue does, or they are not worth much; what is rare may take some more of them.
    for _ in 0..ROUNDS_MAX {
        let result = TestRunner::new(config.clone())
            .run(&(plan(), vec(command(), 1..80)), |(plan, commands)| {
                play(&plan, &commands, &reached).map_err(TestCaseError::fail)
            });
        if let Err(error) = result {
            panic!("{error}");
        }
        if cases() < CASES || missed(&reached.borrow()).is_none() {
            return;
        }
    }
    let reached = reached.into_inner();
    panic!("{:?}: never, but {reached:?}", missed(&reached));
}

/// Something that never happened.
fn missed(reached: &BTreeMap<String, u64>) -> Option<&'static str> {
    let never = |what: &&&str| reached.get(**what).is_none_or(|count| *count == 0);
    REACHED.iter().find(never).copied()
}
