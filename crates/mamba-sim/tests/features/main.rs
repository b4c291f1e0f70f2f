//! A virtual host's queues with all their features against a model of plain lists, under generated commands.
//!
//! The broker is the real one, on a simulated disk and clock; after each command everything comes to rest, and what clients
//! got, every reply and every counter has to be what the model says. See [`model`] for the rules and [`world`] for the commands.
//!
//! `MAMBAMQ_FEATURE_CASES` runs more than a quick set of cases.

mod model;
mod world;

use proptest::{collection::vec, prelude::*, sample::Index};

use model::{DEAD, DeadLetters, How, MAIN, MISSING, Overflow, REST, Spec};
use world::{BODY_MIN, Command, Plan, To, World};

const QUEUES: usize = 3;
const CLIENTS: usize = 5;

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
        rarely(-1i64..4),
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
        rarely((0..3usize).prop_map(|key| format!("k{key}"))),
    );
    (kind, bounds, dead_letters(), bindings).prop_map(
        move |(kind, bounds, dead_letters, bindings)| {
            let (quorum, durable, auto_delete, single_active, max_priority, delivery_limit) = kind;
            let (ttl, expires, max_length, max_bytes, overflow) = bounds;
            let (in_rest, in_dead, key) = bindings;
            let mut bindings = Vec::new();
            if in_rest {
                bindings.push((REST.to_owned(), String::new()));
            }
            if in_dead {
                bindings.push((DEAD.to_owned(), String::new()));
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
                delivery_limit: delivery_limit.filter(|_| quorum),
                bindings,
            }
        },
    )
}

fn plan() -> impl Strategy<Value = Plan> {
    let memory = prop_oneof![1 => Just(0usize), 1 => Just(16usize << 20)];
    let log_file_size = prop_oneof![Just(4096u64), Just(16_384), Just(65_536)];
    ((spec(0), spec(1), spec(2)), memory, log_file_size).prop_map(
        |((first, second, third), memory, log_file_size)| Plan {
            specs: vec![first, second, third],
            memory,
            log_file_size,
        },
    )
}

fn command() -> impl Strategy<Value = Command> {
    let client = || 0..CLIENTS;
    let queue = || 0..QUEUES;
    let to = prop_oneof![
        6 => queue().prop_map(To::Queue),
        2 => (0..3usize).prop_map(To::Main),
        1 => Just(To::Rest),
    ];
    let properties = (
        prop::bool::weighted(0.8),
        prop::option::weighted(0.4, 0..5u8),
        prop::option::weighted(0.2, prop_oneof![1 => Just(0u64), 4 => 1..150u64]),
        prop_oneof![8 => BODY_MIN..100usize, 3 => 3000..9000usize],
        prop::option::weighted(0.1, queue()),
        prop::bool::weighted(0.1),
    );
    let publish = (client(), to, 1..6usize, properties).prop_map(
        |(client, to, count, (persistent, priority, expiration, size, cc, headers))| {
            Command::Publish {
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
        },
    );
    let consume = (
        client(),
        queue(),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.05),
        0..4u16,
        -1..2i64,
    )
        .prop_map(
            |(client, queue, no_ack, exclusive, prefetch, priority)| Command::Consume {
                client,
                queue,
                no_ack,
                exclusive,
                prefetch,
                priority,
            },
        );
    let how = prop_oneof![2 => Just(How::Ack), 3 => Just(How::Requeue), 2 => Just(How::Discard)];
    prop_oneof![
        30 => publish,
        10 => consume,
        5 => any::<Index>().prop_map(Command::Cancel),
        8 => (client(), queue(), prop::bool::weighted(0.3))
            .prop_map(|(client, queue, no_ack)| Command::Get { client, queue, no_ack }),
        25 => (client(), any::<Index>(), prop::bool::weighted(0.3), how)
            .prop_map(|(client, pick, multiple, how)| Command::Settle { client, pick, multiple, how }),
        2 => client().prop_map(Command::Recover),
        3 => client().prop_map(Command::Leave),
        1 => queue().prop_map(Command::Purge),
        1 => queue().prop_map(Command::Delete),
        4 => queue().prop_map(Command::Declare),
        10 => prop_oneof![2 => 1..20u64, 2 => 20..300u64].prop_map(Command::Pass),
        2 => prop_oneof![Just(0), 1..200u64].prop_map(Command::Restart),
        2 => Just(Command::Maintain),
    ]
}

fn cases() -> u32 {
    std::env::var("MAMBAMQ_FEATURE_CASES").map_or(60, |cases| cases.parse().expect("a number"))
}

fn play(plan: &Plan, commands: &[Command]) -> Result<(), String> {
    let run = || {
        let mut world = World::new(plan.clone())?;
        commands.iter().try_for_each(|command| world.run(command))?;
        world.drain()
    };
    // On one line: what proptest prints besides is hundreds of lines long.
    run().map_err(|wrong| format!("{wrong}\n{plan:?}\n{commands:?}\n"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn queues_do_what_lists_would(plan in plan(), commands in vec(command(), 1..60)) {
        play(&plan, &commands).map_err(TestCaseError::fail)?;
    }
}
