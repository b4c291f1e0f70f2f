//! A queue's way from a publisher's batch to acknowledged deliveries.

use mamba_queue::{Effects, Incoming, Outcome, Port, Queue, Settings, Subscription, UnackedKey};
use mamba_types::{LogPosition, Message, Sequence};

use crate::{Body, message};

/// Messages of a batch.
const BATCH: u32 = 100;
/// Messages that are ready before the first call.
const READY: u32 = 1000;

pub(crate) const BODIES: &[Body] = &[
    Body {
        name: "queue/deliver-auto-ack",
        items: BATCH,
        prepare: || deliver(Settings::default(), NO_ACK, 1),
    },
    Body {
        name: "queue/deliver-ack",
        items: BATCH,
        prepare: || deliver(Settings::default(), ACK, 1),
    },
    Body {
        name: "queue/deliver-ack-10-consumers",
        items: BATCH,
        prepare: || deliver(Settings::default(), ACK, 10),
    },
    Body {
        name: "queue/deliver-ack-priorities",
        items: BATCH,
        prepare: || {
            let settings = Settings {
                max_priority: 10,
                ..Settings::default()
            };
            deliver(settings, ACK, 1)
        },
    },
    Body {
        name: "queue/enqueue-and-get",
        items: BATCH,
        prepare: enqueue_and_get,
    },
];

const ACK: bool = false;
const NO_ACK: bool = true;

/// A connection that always takes more.
#[derive(Debug)]
struct Open;

impl Port for Open {
    fn room(&self) -> usize {
        1 << 20
    }

    fn channel_admits(&self) -> bool {
        true
    }

    fn count_delivery(&self) {}
}

fn incoming(message: &Message) -> impl Iterator<Item = Incoming> {
    (0..BATCH).map(|_| Incoming {
        message: message.clone(),
        at: LogPosition(1),
        returns: 0,
        redelivered: false,
    })
}

/// A batch comes in, goes out to consumers and is settled.
fn deliver(settings: Settings, no_ack: bool, consumers: u32) -> Box<dyn FnMut()> {
    let mut queue = Queue::new(settings, Sequence(1));
    for _ in 0..consumers {
        let subscription = Subscription {
            no_ack,
            prefetch: 2 * BATCH,
            ..Subscription::default()
        };
        queue
            .subscribe(Open, subscription)
            .expect("nobody is exclusive");
    }
    let message = message(16);
    let mut effects = Effects::default();
    let mut keys: Vec<(UnackedKey, Sequence)> = Vec::new();
    Box::new(move || {
        queue.enqueue(incoming(&message));
        queue.dispatch(&mut effects);
        assert_eq!(effects.deliveries.len(), 100);
        keys.extend(effects.deliveries.iter().filter_map(|delivery| {
            let key = delivery.key?;
            Some((key, delivery.stored.sequence))
        }));
        queue.settle(keys.drain(..), Outcome::Ack, &mut effects);
        effects.clear();
    })
}

/// A batch joins a queue that holds messages, and as many are fetched.
fn enqueue_and_get() -> Box<dyn FnMut()> {
    let mut queue: Queue<Open> = Queue::new(Settings::default(), Sequence(1));
    let message = message(16);
    for _ in 0..READY / BATCH {
        queue.enqueue(incoming(&message));
    }
    let mut effects = Effects::default();
    Box::new(move || {
        queue.enqueue(incoming(&message));
        for _ in 0..BATCH {
            let fetched = queue.fetch(true, &mut effects);
            assert!(matches!(fetched, mamba_queue::Fetch::Message(_)));
        }
        effects.clear();
    })
}
