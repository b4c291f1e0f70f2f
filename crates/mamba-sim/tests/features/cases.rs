//! Cases that once went wrong, each with its story.

use proptest::{
    arbitrary::any,
    sample::Index,
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};

use mamba_codec::AMQPClass;
use mamba_codec::protocol::basic;

use crate::{
    model::{How, LATER, Spec, Wrong},
    world::{BODY_MIN, Command, Plan, To, World},
};

/// A classic queue that nothing is said about.
fn plain(name: &str) -> Spec {
    Spec {
        name: name.to_owned(),
        durable: true,
        ..Spec::default()
    }
}

fn quorum(name: &str) -> Spec {
    Spec {
        quorum: true,
        ..plain(name)
    }
}

fn publish(to: To, count: usize) -> Command {
    Command::Publish {
        client: 0,
        to,
        count,
        persistent: true,
        priority: None,
        expiration: None,
        size: BODY_MIN,
        cc: None,
        headers: false,
        kind: 0,
        once: None,
    }
}

fn consume(client: usize, queue: usize, prefetch: u16) -> Command {
    Command::Consume {
        client,
        queue,
        no_ack: false,
        exclusive: false,
        prefetch,
        priority: 0,
        filter: None,
    }
}

/// Picks the only one there is.
fn only_one() -> Result<Index, Wrong> {
    let tree = any::<Index>().new_tree(&mut TestRunner::deterministic());
    Ok(tree.map_err(|error| error.to_string())?.current())
}

#[track_caller]
fn check(plan: Plan, commands: &[Command]) {
    let run = || {
        let mut world = World::new(plan)?;
        commands.iter().try_for_each(|command| world.run(command))?;
        world.drain()
    };
    if let Err(wrong) = run() {
        panic!("{wrong}");
    }
}

fn plan(specs: [Spec; 3]) -> Plan {
    Plan {
        specs: specs.into(),
        memory: 16 << 20,
        log_file_size: 65_536,
        size: Some(BODY_MIN),
        filters: false,
        transactions: false,
        few_ids: false,
    }
}

/// Before a delivery leaves, the log has to know of it. After a checkpoint it has forgotten, and deliveries wait for a moment: the queue
/// took what waited for them as too much for its length limit, though a consumer was ready for it.
#[test]
fn what_comes_back_goes_to_a_ready_consumer_before_the_limit_counts() {
    let short = Spec {
        max_bytes: Some(0),
        ..quorum("q1")
    };
    let plan = Plan {
        memory: 0,
        log_file_size: 4096,
        size: Some(3000),
        ..plan([plain("q0"), short, quorum("q2")])
    };
    check(
        plan,
        &[
            consume(3, 1, 3),
            publish(To::Queue(2), 1),
            consume(0, 1, 0),
            publish(To::Queue(1), 2),
            publish(To::Queue(2), 3),
            Command::Maintain,
            Command::Get {
                client: 0,
                queue: 0,
                no_ack: false,
            },
        ],
    );
}

/// `basic.get` tells the log of deliveries some messages ahead. A consumer that came before the log had it, when nothing was left that the
/// log did not know, was forgotten: it got nothing before something else happened to the queue.
#[test]
fn a_consumer_beside_a_get_is_not_forgotten() -> Result<(), Wrong> {
    let mut world = World::new(plan([plain("q0"), plain("q1"), plain("q2")]))?;
    world.run(&publish(To::Queue(0), 12))?;
    let get = |no_ack| {
        AMQPClass::Basic(basic::AMQPMethod::Get(basic::Get {
            queue: "q0".into(),
            no_ack,
        }))
    };
    for _ in 0..10 {
        world.run(&Command::Get {
            client: 0,
            queue: 0,
            no_ack: true,
        })?;
    }
    let consume = basic::Consume {
        queue: "q0".into(),
        consumer_tag: "c1".into(),
        ..basic::Consume::default()
    };
    let consume = AMQPClass::Basic(basic::AMQPMethod::Consume(consume));
    let observed = world.say_at_once(&[(0, get(true)), (3, consume)])?;
    let came = observed.get(&(3, 1)).map_or(0, |got| got.len());
    assert_eq!(came, 1, "the last message stays behind");
    Ok(())
}

/// A message that was published in a transaction expired by the time of its publishing, though it came to its queue at the commit.
#[test]
fn the_time_to_live_begins_at_the_commit() {
    let plan = Plan {
        transactions: true,
        ..plan([plain("q0"), plain("q1"), plain("q2")])
    };
    let expiring = Command::Publish {
        client: 3,
        to: To::Queue(0),
        count: 1,
        persistent: true,
        priority: None,
        expiration: Some(10),
        size: BODY_MIN,
        cc: None,
        headers: false,
        kind: 0,
        once: None,
    };
    let commit = Command::Commit(3);
    check(
        plan,
        &[expiring, Command::Pass(20), commit, Command::Pass(5)],
    );
}

/// A queue's lease and its messages' times were told by the clock of what its clients had said last: a consumer that lost its channel, or
/// its connection, after a long silence took the queue with it.
#[test]
fn a_lease_begins_when_the_last_consumer_is_gone() {
    let leased = Spec {
        expires: Some(100),
        consumer_timeout: Some(1),
        ..plain("q0")
    };
    let commands = [
        consume(0, 0, 0),
        publish(To::Queue(0), 1),
        Command::Pass(150),
    ];
    check(plan([leased, plain("q1"), plain("q2")]), &commands);
}

/// Nobody looked at the time of deliveries that a rollback brought back.
#[test]
fn a_rollback_brings_timeouts_back() -> Result<(), Wrong> {
    let plan = Plan {
        transactions: true,
        ..plan([
            Spec {
                consumer_timeout: Some(1),
                ..plain("q0")
            },
            plain("q1"),
            plain("q2"),
        ])
    };
    let settle = Command::Settle {
        pick: only_one()?,
        multiple: false,
        how: How::Ack,
    };
    let commands = [
        publish(To::Queue(0), 1),
        consume(3, 0, 0),
        settle,
        Command::Pass(250),
        Command::Rollback(3),
        Command::Pass(1),
    ];
    check(plan, &commands);
    Ok(())
}

/// When the length limit had dropped what was before it, nobody read the message at the head to see that its time was over.
#[test]
fn what_a_length_limit_brings_to_the_head_expires() {
    let short = Spec {
        max_length: Some(5),
        ..plain("q1")
    };
    let plan = Plan {
        memory: 0,
        log_file_size: 4096,
        size: Some(8000),
        ..plan([plain("q0"), short, plain("q2")])
    };
    let expiring = Command::Publish {
        client: 0,
        to: To::Queue(1),
        count: 2,
        persistent: true,
        priority: None,
        expiration: Some(0),
        size: BODY_MIN,
        cc: None,
        headers: false,
        kind: 0,
        once: None,
    };
    let commands = [
        publish(To::Queue(1), 1),
        expiring,
        publish(To::Queue(1), 1),
        publish(To::Queue(1), 3),
    ];
    check(plan, &commands);
}

/// What is due is read by neighbours in the log, so many octets at a time. When others filled that before the one that was due first, none
/// was released, again and again.
#[test]
fn what_is_due_first_does_not_wait_for_large_neighbours() {
    let late = Spec {
        bindings: vec![(LATER.to_owned(), String::new())],
        ..plain("q0")
    };
    let plan = Plan {
        size: Some(400_000),
        ..plan([late, plain("q1"), plain("q2")])
    };
    let commands = [
        publish(To::Later(Some(50)), 3),
        publish(To::Later(Some(10)), 1),
        Command::Restart(60),
        Command::Pass(5),
    ];
    check(plan, &commands);
}
