//! Clients that behave badly: garbage, silence, floods. The broker holds its memory, and nobody else notices.

mod support;

use std::{sync::Arc, thread};
use support::*;

/// A client that works all the time; it must never be disturbed.
struct Bystander {
    client: Client,
    channel: Channel,
    queue: String,
}

impl Bystander {
    fn new() -> Self {
        let client = Client::connect();
        let (channel, queue) = (client.channel(1), name());
        channel.own_queue(&queue);
        Self {
            client,
            channel,
            queue,
        }
    }

    /// One message there and back.
    #[track_caller]
    fn works(&self) {
        self.client.put(&self.queue, "still here");
        assert_eq!(self.channel.drain(&self.queue), ["still here"]);
    }
}

/// An open connection's first octets, with channel 1.
fn opening() -> Vec<u8> {
    let options = Options::default();
    [
        b"AMQP\x00\x00\x09\x01".to_vec(),
        method_frame(
            0,
            &start_ok(
                options.client_properties(),
                "PLAIN",
                &options.plain_response(),
            ),
        ),
        method_frame(0, &tune_ok(2047, 131_072, 0)),
        method_frame(0, &connection_open("/")),
        method_frame(1, &channel_open()),
    ]
    .concat()
}

mod garbage {
    use super::*;

    /// RabbitMQ keeps a connection for 3 s after an error, whatever the peer does; against it, a few rounds have to do.
    fn rounds(count: u64) -> u64 {
        if url().is_some() { count / 25 } else { count }
    }

    #[test]
    fn instead_of_a_header() {
        let bystander = Bystander::new();
        for seed in 0..rounds(200) {
            let mut random = Random::new(seed);
            let length = 8 + random.below(500);
            let client = Client::bare(None);
            client.raw(&random.bytes(length));
            let _ = client.octets_until_closed();
        }
        bystander.works();
    }

    #[test]
    fn after_the_handshake() {
        let bystander = Bystander::new();
        for seed in 0..rounds(200) {
            let mut random = Random::new(seed);
            let client = Client::bare(None);
            client.raw(&opening());
            let length = 1 + random.below(2000);
            client.raw(&random.bytes(length));
            client.shut_down_writing();
            let _ = client.octets_until_closed();
            if seed % 20 == 0 {
                bystander.works();
            }
        }
        bystander.works();
    }

    #[test]
    fn in_well_formed_frames() {
        let bystander = Bystander::new();
        for seed in 0..rounds(300) {
            let mut random = Random::new(seed);
            let client = Client::bare(None);
            client.raw(&opening());
            for _ in 0..5 {
                // Mostly a known class and method with arguments that make no sense.
                let class = [10, 20, 30, 40, 50, 60, 85, 90, 99][random.below(9)];
                let method = [
                    10, 11, 20, 21, 30, 31, 40, 50, 60, 70, 80, 90, 110, 120, 200,
                ][random.below(15)];
                let length = random.below(60);
                let payload = [vec![0, class, 0, method], random.bytes(length)].concat();
                let kind = [1, 1, 1, 1, 2, 3, 8, 4][random.below(8)];
                let channel = [0, 1, 1, 1, 1, 2, 65_535][random.below(7)];
                client.raw(&frame(kind, channel, &payload));
            }
            client.shut_down_writing();
            let _ = client.octets_until_closed();
        }
        bystander.works();
    }

    /// One octet of a correct conversation is different.
    #[test]
    fn one_wrong_octet() {
        let bystander = Bystander::new();
        let queue = name();
        let correct = [
            opening(),
            method_frame(
                1,
                &queue_declare(&queue, "exclusive", table([("x-max-length", int(5))])),
            ),
            method_frame(1, &queue_bind(&queue, "amq.topic", "a.#", table([]))),
            method_frame(1, &publish("amq.topic", "a.b", "mandatory")),
            client::content_frames(1, &headers([("key", text("value"))]), b"body", 131_072),
            method_frame(1, &get(&queue, "")),
            method_frame(1, &ack(1, "")),
            method_frame(1, &channel_close()),
        ]
        .concat();
        let step = if url().is_some() { 40 } else { 1 };
        for position in (0..correct.len()).step_by(step) {
            let mut octets = correct.clone();
            octets[position] ^= 1 << (position % 8);
            let client = Client::bare(None);
            client.raw(&octets);
            client.shut_down_writing();
            let _ = client.octets_until_closed();
        }
        bystander.works();
    }

    /// The conversation ends after each octet.
    #[test]
    fn truncated() {
        let bystander = Bystander::new();
        let correct = [
            opening(),
            method_frame(1, &publish("", &bystander.queue, "")),
            client::content_frames(
                1,
                &headers([("key", text("value"))]),
                b"never whole",
                131_072,
            ),
        ]
        .concat();
        for length in 0..correct.len() - 1 {
            let client = Client::bare(None);
            client.raw(&correct[..length]);
            client.shut_down_writing();
            let _ = client.octets_until_closed();
        }
        assert_eq!(
            bystander.channel.ready(&bystander.queue),
            0,
            "nothing of it was published"
        );
        bystander.works();
    }
}

mod silence {
    use super::*;

    /// A consumer with a large backlog that never reads costs at most its buffers.
    #[test]
    fn a_client_that_never_reads() {
        if elsewhere("the process there is not ours to measure") {
            return;
        }
        let broker = Broker::start(&[]);
        let (publisher, reader) = (Client::to(&broker), Client::to(&broker));
        let channel = publisher.channel(1);
        channel.queue("backlog", "durable", table([]));
        // 64 MiB on disk and in memory before anybody consumes.
        let body = vec![b'x'; 65_536];
        channel.call(&confirm_select());
        for _ in 0..1024 {
            channel.publish_with("", "backlog", "", &persistent(), &body);
        }
        channel.confirms(1, 1024);
        let before = broker.resident_bytes();
        let lazy = reader.channel(1);
        lazy.send(&consume("backlog", "lazy", "", table([])));
        // Others go on; each round trip gives the broker time to fill what it would fill.
        let busy = publisher.channel(2);
        busy.own_queue("busy");
        for number in 0..300 {
            publisher.put("busy", format!("{number}"));
            assert_eq!(
                busy.get("busy", "no_ack").expect("a message").text(),
                format!("{number}")
            );
        }
        let growth = broker.resident_bytes().saturating_sub(before);
        assert!(
            growth < 32 * 1024 * 1024,
            "{growth} octets more for a client that does not read"
        );
        // It gets everything when it does read.
        lazy.answer();
        for _ in 0..1024 {
            assert_eq!(lazy.delivery().body.len(), body.len());
        }
    }

    /// Requests whose answers nobody reads are not answered without bound.
    #[test]
    fn a_client_that_asks_and_never_reads() {
        if elsewhere("the process there is not ours to measure") {
            return;
        }
        let broker = Broker::start(&[]);
        let bystander = Client::to(&broker);
        let channel = bystander.channel(1);
        channel.own_queue("busy");
        let before = broker.resident_bytes();
        let address = broker.amqp;
        let flood = thread::spawn(move || {
            let client = Client::with(&Options {
                address: Some(address),
                ..Options::default()
            });
            client.channel(1);
            // Each of these is answered; the answers pile up at whoever does not read them.
            let burst = method_frame(1, &channel_flow(true)).repeat(10_000);
            client.flood(&burst, 200);
        });
        for number in 0..300 {
            bystander.put("busy", format!("{number}"));
            assert_eq!(
                channel.get("busy", "no_ack").expect("a message").text(),
                format!("{number}")
            );
        }
        let growth = broker.resident_bytes().saturating_sub(before);
        assert!(
            growth < 64 * 1024 * 1024,
            "{growth} octets more for a client that does not read"
        );
        flood.join().unwrap();
        channel.flow();
    }

    #[test]
    fn a_message_that_is_never_finished() {
        let bystander = Bystander::new();
        let client = Client::connect();
        for id in 1..=50 {
            client.channel(id);
            client.raw(&method_frame(id, &publish("", &bystander.queue, "")));
            client.raw(&frame(2, id, &[0, 60, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0]));
            client.raw(&frame(3, id, &[b'x'; 1000]));
        }
        bystander.works();
        // Other channels of the same connection work as well.
        client.channel(60).flow();
        client.vanish();
        bystander.works();
        assert_eq!(bystander.channel.ready(&bystander.queue), 0);
    }

    /// Announcing a large body costs nothing before it comes.
    #[test]
    fn many_announced_bodies() {
        if elsewhere("the process there is not ours to measure") {
            return;
        }
        let broker = Broker::start(&[]);
        let client = Client::to(&broker);
        client.channel(2000).flow();
        let before = broker.resident_bytes();
        for id in 1..=1000 {
            client.channel(id);
            client.raw(&method_frame(id, &publish("", "nowhere", "")));
            client.raw(&frame(2, id, &[0, 60, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]));
        }
        client.unopened(2000).flow();
        let growth = broker.resident_bytes().saturating_sub(before);
        assert!(
            growth < 64 * 1024 * 1024,
            "{growth} octets for 1000 announced bodies of 16 MiB"
        );
    }

    #[test]
    fn vanishing_in_the_middle() {
        let bystander = Bystander::new();
        for round in 0..50 {
            let client = Client::connect();
            let channel = client.channel(1);
            let queue = name();
            channel.own_queue(&queue);
            channel.consume(&queue, "t", "");
            channel.publish("", &queue, vec![b'x'; 100_000]);
            client.raw(&method_frame(1, &publish("", &bystander.queue, "")));
            client.raw(&frame(2, 1, &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0]));
            if round % 2 == 0 {
                client.raw(&[3, 0, 1, 0, 0]);
            }
            client.vanish();
        }
        bystander.works();
    }

    #[test]
    fn connections_that_say_nothing() {
        let bystander = Bystander::new();
        let silent: Vec<Client> = (0..200).map(|_| Client::bare(None)).collect();
        bystander.works();
        for client in &silent[..100] {
            client.raw(b"AMQP\x00\x00\x09\x01");
        }
        bystander.works();
        drop(silent);
        bystander.works();
    }
}

mod floods {
    use super::*;

    #[test]
    fn all_channels_of_a_connection() {
        let bystander = Bystander::new();
        let client = Client::connect();
        let mut burst = Vec::new();
        for id in 1..=2047 {
            burst.extend(method_frame(id, &channel_open()));
        }
        client.raw(&burst);
        for id in 1..=2047 {
            let shown = format!("{:?}", client.method(id));
            assert!(shown.contains("OpenOk"), "{shown}");
        }
        client.unopened(1).flow();
        client.unopened(2047).flow();
        bystander.works();
        client.send(2048, &channel_open());
        let text = "NOT_ALLOWED - number of channels opened (2047) has reached the negotiated channel_max (2047)";
        client.expect_error(530, text, (0, 0));
        bystander.works();
    }

    #[test]
    fn channels_opened_and_closed() {
        let client = Client::connect();
        for round in 0..20 {
            let mut burst = Vec::new();
            for id in 1..=100 {
                burst.extend(method_frame(id, &channel_open()));
                burst.extend(method_frame(id, &channel_close()));
            }
            client.raw(&burst);
            for id in 1..=100 {
                for expected in ["OpenOk", "CloseOk"] {
                    let shown = format!("{:?}", client.method(id));
                    assert!(shown.contains(expected), "round {round}: {shown}");
                }
            }
        }
    }

    #[test]
    fn thousands_of_connects() {
        let bystander = Bystander::new();
        let address = broker::address();
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                thread::spawn(move || {
                    for number in 0..500 {
                        let client = Client::with(&Options {
                            address: Some(address),
                            ..Options::default()
                        });
                        match (thread + number) % 3 {
                            0 => client.close(),
                            1 => client.vanish(),
                            _ => client.channel(1).flow(),
                        }
                    }
                })
            })
            .collect();
        for _ in 0..20 {
            bystander.works();
        }
        for thread in threads {
            thread.join().unwrap();
        }
        bystander.works();
    }

    #[test]
    fn half_open_connects() {
        let bystander = Bystander::new();
        for _ in 0..1000 {
            let client = Client::bare(None);
            client.raw(b"AMQP");
            client.vanish();
        }
        bystander.works();
    }

    #[test]
    fn memory_returns() {
        if elsewhere("the process there is not ours to measure") {
            return;
        }
        let broker = Arc::new(Broker::start(&[]));
        let churn = |count: u32| {
            for _ in 0..count {
                let client = Client::to(&broker);
                let channel = client.channel(1);
                channel.own_queue("q");
                client.put("q", vec![b'x'; 10_000]);
                client.close();
            }
        };
        churn(200);
        let before = broker.resident_bytes();
        churn(1000);
        let growth = broker.resident_bytes().saturating_sub(before);
        assert!(
            growth < 32 * 1024 * 1024,
            "{growth} octets more after 1000 connections that are gone"
        );
    }

    #[test]
    fn consumers_and_queues() {
        let bystander = Bystander::new();
        let client = Client::connect();
        let (channel, prefix) = (client.channel(1), name());
        let mut burst = Vec::new();
        for number in 0..1000 {
            let queue = format!("{prefix}.{number}");
            burst.extend(method_frame(
                1,
                &queue_declare(&queue, "exclusive", table([])),
            ));
            burst.extend(method_frame(
                1,
                &queue_bind(
                    &queue,
                    "amq.topic",
                    &format!("{prefix}.*.{number}"),
                    table([]),
                ),
            ));
            burst.extend(method_frame(
                1,
                &consume(&queue, &queue, "no_ack", table([])),
            ));
        }
        client.raw(&burst);
        for _ in 0..3000 {
            channel.answer();
        }
        for number in [0, 500, 999] {
            client.put_with("amq.topic", &format!("{prefix}.x.{number}"), &plain(), "x");
            assert_eq!(channel.delivery().consumer, format!("{prefix}.{number}"));
        }
        client.vanish();
        bystander.works();
    }
}
