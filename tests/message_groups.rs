//! Message groups ([docs](../docs/message-groups.md)): a consistent-hash exchange over queues with single active consumers keeps the order of
//! each key over several consumers, while consumers come and go.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use support::*;

const PARTITIONS: usize = 4;
const KEYS: u32 = 12;
const MESSAGES: u32 = 600;

/// A connection that consumes from all partitions.
fn worker(queues: &[String]) -> Channel {
    let channel = Client::connect().channel(1);
    channel.call(&qos(3, ""));
    for queue in queues {
        channel.consume(queue, queue, "");
    }
    channel
}

/// What arrived, by key, each message once, in the order of its first arrival.
#[derive(Default)]
struct Book {
    seen: BTreeSet<u32>,
    by_key: BTreeMap<String, Vec<u32>>,
}

impl Book {
    fn note(&mut self, delivery: &Content) {
        let number: u32 = delivery.text().parse().unwrap();
        if self.seen.insert(number) {
            self.by_key
                .entry(delivery.key.clone())
                .or_default()
                .push(number);
        }
    }
}

fn play(kind: &str) {
    let client = Client::connect();
    let channel = client.channel(1);
    let exchange = name();
    channel.exchange(&exchange, "x-consistent-hash");
    let queues: Vec<String> = (0..PARTITIONS).map(|_| name()).collect();
    let mut finally = Vec::new();
    for queue in &queues {
        let arguments = table([
            ("x-queue-type", text(kind)),
            ("x-single-active-consumer", boolean(true)),
        ]);
        channel.queue(queue, "durable", arguments);
        finally.push(Finally(queue_delete(queue, "")));
        channel.bind(queue, &exchange, "1");
    }
    let mut workers: Vec<Channel> = (0..3).map(|_| worker(&queues)).collect();
    let mut book = Book::default();
    let mut random = Random::new(7);
    let mut published = 0;
    let mut rounds = 0;
    while book.seen.len() < MESSAGES as usize {
        rounds += 1;
        assert!(rounds < 20_000, "{} of {MESSAGES} arrived", book.seen.len());
        for _ in 0..random.below(8) {
            if published < MESSAGES {
                let key = format!("key {}", published % KEYS);
                client.put_with(&exchange, &key, &persistent(), published.to_string());
                published += 1;
            }
        }
        let at = random.below(workers.len());
        // The answer comes behind what the broker had sent.
        workers[at].flow();
        let arrived = |event: &Event| matches!(event, Event::Content(..));
        while let Ok(event) =
            workers[at]
                .client
                .try_take(1, std::time::Duration::from_millis(1), arrived)
        {
            let delivery = content(event).unwrap();
            book.note(&delivery);
            workers[at].send(&ack(delivery.tag, ""));
        }
        match random.below(40) {
            // Some go without a word and with messages in their hands, some properly; new ones come.
            0 => workers.remove(at).client.vanish(),
            1 => workers.remove(at).close(),
            _ => {}
        }
        if workers.len() < 3 {
            workers.push(worker(&queues));
        }
    }
    for (key, numbers) in &book.by_key {
        assert!(numbers.is_sorted(), "{key}: {numbers:?}");
    }
    assert_eq!(book.by_key.len(), KEYS as usize);
    for one in workers {
        one.client.vanish();
    }
}

#[test]
fn over_classic_queues() {
    play("classic");
}

#[test]
fn over_quorum_queues() {
    play("quorum");
}
