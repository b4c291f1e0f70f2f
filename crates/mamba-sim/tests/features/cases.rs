//! Cases that once went wrong, each with its story.

use mamba_codec::AMQPClass;
use mamba_codec::protocol::basic;

use crate::{
    model::{Spec, Wrong},
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
    }
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
