//! Policies and operator policies, as clients feel them: on what is there, and on what comes later.
//!
//! Everything is set up through the command line; each test has a virtual host of its own.

mod support;

use support::{
    ctl::{Vhost, ctl_on, refused_on},
    *,
};

/// A virtual host, a connection to it, a channel.
fn setup() -> (Vhost<'static>, Client, Channel) {
    let vhost = Vhost::new();
    let client = vhost.connect();
    let channel = client.channel(1);
    (vhost, client, channel)
}

fn confirming(client: &Client) -> Channel {
    let channel = client.channel(2);
    channel.call(&confirm_select());
    channel
}

mod live {
    use super::*;

    #[test]
    fn a_length_trims_what_is_there() {
        let (vhost, client, channel) = setup();
        channel.queue("q", "durable", table([]));
        channel.queue("other", "durable", table([]));
        for body in ["1", "2", "3", "4", "5"] {
            client.put_persistent("q", body);
            client.put("other", body);
        }
        vhost.ctl(&["set_policy", "p", "^q$", r#"{"max-length":2}"#]);
        assert_eq!(channel.ready("q"), 2);
        client.put("q", "6");
        assert_eq!(channel.drain("q"), ["5", "6"]);
        assert_eq!(channel.ready("other"), 5);
        vhost.ctl(&["clear_policy", "p"]);
        for body in ["7", "8", "9"] {
            client.put("q", body);
        }
        assert_eq!(channel.drain("q"), ["7", "8", "9"]);
    }

    #[test]
    fn what_a_length_trims_goes_to_the_dead_letter_exchange() {
        let (vhost, client, channel) = setup();
        channel.queue("q", "durable", table([]));
        channel.queue("dead", "durable", table([]));
        for body in ["1", "2", "3"] {
            client.put_persistent("q", body);
        }
        let definition =
            r#"{"max-length":1,"dead-letter-exchange":"","dead-letter-routing-key":"dead"}"#;
        vhost.ctl(&["set_policy", "p", "^q$", definition]);
        let first = channel.get("dead", "no_ack").unwrap();
        assert_eq!(first.text(), "1");
        assert_eq!(first.header("x-first-death-reason"), Some(text("maxlen")));
        assert_eq!(channel.drain("dead"), ["2"]);
        assert_eq!(channel.drain("q"), ["3"]);
    }

    #[test]
    fn a_dead_letter_exchange_comes_and_goes() {
        let (vhost, client, channel) = setup();
        channel.queue("q", "durable", table([]));
        channel.queue("dead", "durable", table([]));
        let definition = r#"{"dead-letter-exchange":"","dead-letter-routing-key":"dead"}"#;
        for (body, with, expected) in [
            ("1", false, None),
            ("2", true, Some("2")),
            ("3", false, None),
        ] {
            if with {
                vhost.ctl(&["set_policy", "p", "^q$", definition]);
            }
            client.put("q", body);
            let got = channel.get("q", "").unwrap();
            channel.send(&nack(got.tag, ""));
            channel.flow();
            let died = channel.get("dead", "no_ack").map(|content| content.text());
            assert_eq!(died.as_deref(), expected);
            assert_eq!(channel.ready("q"), 0);
            if with {
                vhost.ctl(&["clear_policy", "p"]);
            }
        }
    }

    #[test]
    fn the_queues_own_dead_letter_exchange_wins() {
        let (vhost, client, channel) = setup();
        channel.queue("own", "durable", table([]));
        channel.queue("policy", "durable", table([]));
        let definition = r#"{"dead-letter-exchange":"","dead-letter-routing-key":"policy"}"#;
        vhost.ctl(&["set_policy", "p", "^q$", definition]);
        let arguments = table([
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text("own")),
        ]);
        channel.queue("q", "durable", arguments);
        client.put("q", "1");
        let got = channel.get("q", "").unwrap();
        channel.send(&reject(got.tag, ""));
        channel.flow();
        assert_eq!(channel.drain("own"), ["1"]);
        assert_eq!(channel.drain("policy"), [""; 0]);
    }

    /// `spec: semantics §7`: the time of a message is settled when it enters the queue.
    #[test]
    fn a_time_to_live_is_for_later_messages() {
        let (vhost, client, channel) = setup();
        channel.queue("q", "durable", table([]));
        client.put_persistent("q", "old");
        vhost.ctl(&["set_policy", "p", "^q$", r#"{"message-ttl":1}"#]);
        client.put_persistent("q", "new");
        let old = channel.get("q", "").unwrap();
        assert_eq!(old.text(), "old");
        eventually("the new message expires", || channel.ready("q") == 0);
        channel.send(&nack(old.tag, "requeue"));
        channel.flow();
        assert_eq!(channel.drain("q"), ["old"]);
        vhost.ctl(&["clear_policy", "p"]);
        client.put("q", "lasting");
        assert_eq!(channel.drain("q"), ["lasting"]);
    }

    #[test]
    fn messages_keep_the_time_they_came_with() {
        let (vhost, client, channel) = setup();
        vhost.ctl(&["set_policy", "p", "^q$", r#"{"message-ttl":1000}"#]);
        channel.queue("q", "durable", table([]));
        client.put("q", "short");
        vhost.ctl(&["clear_policy", "p"]);
        client.put("q", "lasting");
        eventually("the first message expires", || channel.ready("q") == 1);
        assert_eq!(channel.drain("q"), ["lasting"]);
    }

    #[test]
    fn overflow() {
        let (vhost, client, channel) = setup();
        channel.queue("q", "durable", table([]));
        let publisher = confirming(&client);
        client.put("q", "1");
        vhost.ctl(&[
            "set_policy",
            "p",
            "^q$",
            r#"{"max-length":1,"overflow":"reject-publish"}"#,
        ]);
        publisher.publish("", "q", "2");
        assert!(!publisher.confirms(1, 1)[&1]);
        vhost.ctl(&["set_policy", "p", "^q$", r#"{"max-length":1}"#]);
        publisher.publish("", "q", "3");
        assert!(publisher.confirms(2, 2)[&2]);
        assert_eq!(channel.drain("q"), ["3"]);
    }

    /// A classic queue's own word on overflow wins, for a quorum queue the policy's does.
    #[test]
    fn overflow_of_argument_and_policy() {
        let (vhost, client, channel) = setup();
        let definition = r#"{"max-length":1,"overflow":"reject-publish"}"#;
        vhost.ctl(&["set_policy", "p", "^q", definition]);
        let publisher = confirming(&client);
        for (number, kind, accepted) in [(1, "classic", true), (3, "quorum", false)] {
            let queue = format!("q.{kind}");
            let arguments = table([
                ("x-queue-type", text(kind)),
                ("x-overflow", text("drop-head")),
            ]);
            channel.queue(&queue, "durable", arguments);
            publisher.publish("", &queue, "1");
            assert!(publisher.confirms(number, number)[&number]);
            publisher.publish("", &queue, "2");
            assert_eq!(
                publisher.confirms(number + 1, number + 1)[&(number + 1)],
                accepted,
                "{kind}"
            );
        }
    }

    #[test]
    fn an_unused_queue_expires() {
        let (vhost, _client, channel) = setup();
        channel.queue("q", "durable", table([]));
        channel.queue("used", "durable", table([]));
        channel.consume("used", "c", "");
        vhost.ctl(&["set_policy", "p", ".*", r#"{"expires":50}"#]);
        eventually("the unused queue is gone", || {
            vhost.ctl(&["list_queues", "-s", "name"]) == "used\n"
        });
        vhost.ctl(&["clear_policy", "p"]);
        channel.call(&cancel("c", ""));
        channel.queue("later", "durable", table([]));
        assert_eq!(channel.ready("used"), 0);
    }

    /// Whether messages say how often they came back used to be settled when their consumer came.
    #[test]
    fn a_delivery_limit_counts_for_consumers_that_are_there() {
        let (vhost, client, channel) = setup();
        channel.queue("q", "durable", table([]));
        channel.consume("q", "c", "");
        client.put("q", "a");
        let mut delivery = channel.delivery();
        let mut count_after_return = || {
            channel.send(&reject(delivery.tag, "requeue"));
            delivery = channel.delivery();
            delivery.header("x-delivery-count")
        };
        assert_eq!(count_after_return(), None);
        let limit = r#"{"delivery-limit":9}"#;
        vhost.ctl(&[
            "set_policy",
            "--apply-to",
            "classic_queues",
            "p",
            "^q$",
            limit,
        ]);
        assert_eq!(count_after_return(), Some(long(2)));
        vhost.ctl(&["clear_policy", "p"]);
        assert_eq!(count_after_return(), None);
    }

    #[test]
    fn delivery_limits() {
        let (vhost, client, channel) = setup();
        let quorum = || table([("x-queue-type", text("quorum"))]);
        channel.queue("q", "durable", quorum());
        client.put_persistent("q", "1");
        vhost.ctl(&["set_policy", "p", "^q$", r#"{"delivery-limit":1}"#]);
        for _ in 0..2 {
            let got = channel.get("q", "").unwrap();
            channel.send(&nack(got.tag, "requeue"));
            channel.flow();
        }
        assert_eq!(channel.ready("q"), 0);
        // Without a limit it comes back for ever.
        vhost.ctl(&["set_policy", "p", "^q$", r#"{"delivery-limit":-1}"#]);
        client.put_persistent("q", "2");
        for _ in 0..25 {
            let got = channel.get("q", "").unwrap();
            channel.send(&nack(got.tag, "requeue"));
            channel.flow();
        }
        assert_eq!(channel.drain("q"), ["2"]);
    }

    /// Routes that are remembered are forgotten when a policy changes where messages go.
    #[test]
    fn alternate_exchanges() {
        let (vhost, _client, channel) = setup();
        channel.call(&exchange_declare("x", "direct", "", table([])));
        channel.call(&exchange_declare("ae", "fanout", "", table([])));
        channel.own_queue("caught");
        channel.bind("caught", "ae", "");
        let publish = |expected: &[&str]| {
            for _ in 0..2 {
                channel.publish_with("x", "k", "mandatory", &plain(), "m");
                if expected.is_empty() {
                    assert_eq!(channel.returned().0.reply_code, 312);
                }
            }
            channel.flow();
            assert_eq!(channel.drain("caught"), expected);
        };
        publish(&[]);
        vhost.ctl(&["set_policy", "p", "^x", r#"{"alternate-exchange":"ae"}"#]);
        publish(&["m", "m"]);
        vhost.ctl(&["clear_policy", "p"]);
        publish(&[]);
    }

    #[test]
    fn alternate_exchanges_of_arguments_and_of_later_exchanges() {
        let (vhost, _client, channel) = setup();
        let definition = r#"{"alternate-exchange":"ae"}"#;
        vhost.ctl(&[
            "set_policy",
            "--apply-to",
            "exchanges",
            "p",
            ".*",
            definition,
        ]);
        let own = table([("alternate-exchange", text("other"))]);
        channel.call(&exchange_declare("own", "direct", "", own));
        channel.call(&exchange_declare("x", "direct", "", table([])));
        for (exchange, queue) in [("ae", "caught"), ("other", "its own")] {
            channel.call(&exchange_declare(exchange, "fanout", "", table([])));
            channel.own_queue(queue);
            channel.bind(queue, exchange, "");
        }
        channel.publish("x", "k", "policy");
        channel.publish("own", "k", "argument");
        // The default exchange has none, whatever a policy's pattern says.
        channel.publish_with("", "nowhere", "mandatory", &plain(), "lost");
        assert_eq!(channel.returned().0.reply_code, 312);
        assert_eq!(channel.drain("caught"), ["policy"]);
        assert_eq!(channel.drain("its own"), ["argument"]);
    }
}

mod merging {
    use super::*;

    /// What is left of five messages in a queue with this argument, policy and operator policy.
    #[track_caller]
    fn left(argument: Option<i32>, policy: Option<&str>, operator: Option<&str>, expected: u32) {
        let (vhost, client, channel) = setup();
        let arguments = match argument {
            Some(max) => table([("x-max-length", int(max))]),
            None => table([]),
        };
        channel.queue("q", "durable", arguments);
        if let Some(policy) = policy {
            vhost.ctl(&["set_policy", "p", "^q$", policy]);
        }
        if let Some(operator) = operator {
            vhost.ctl(&["set_operator_policy", "p", "^q$", operator]);
        }
        for body in ["1", "2", "3", "4", "5"] {
            client.put("q", body);
        }
        assert_eq!(channel.ready("q"), expected);
    }

    #[test]
    fn the_smallest_of_three_numbers() {
        let (two, three, four) = (
            r#"{"max-length":2}"#,
            r#"{"max-length":3}"#,
            r#"{"max-length":4}"#,
        );
        left(Some(2), Some(three), Some(four), 2);
        left(Some(4), Some(two), Some(three), 2);
        left(Some(4), Some(three), Some(two), 2);
        left(None, Some(three), Some(two), 2);
        left(None, None, Some(three), 3);
        left(Some(3), None, None, 3);
    }

    #[test]
    fn the_greatest_priority() {
        let (vhost, client, channel) = setup();
        channel.queue("q", "durable", table([]));
        for (name, priority, definition) in [
            ("a", "1", r#"{"max-length":4}"#),
            ("b", "7", r#"{"max-length":2}"#),
            ("c", "-5", r#"{"max-length":1}"#),
        ] {
            vhost.ctl(&["set_policy", "--priority", priority, name, "^q", definition]);
        }
        let fill = || {
            for body in ["1", "2", "3", "4", "5"] {
                client.put("q", body);
            }
            channel.ready("q")
        };
        assert_eq!(fill(), 2);
        vhost.ctl(&["clear_policy", "b"]);
        assert_eq!(fill(), 4);
        vhost.ctl(&["clear_policy", "a"]);
        assert_eq!(channel.ready("q"), 1);
        vhost.ctl(&["clear_policy", "c"]);
        assert_eq!(fill(), 6);
    }

    /// A policy that says anything its type does not know is none for a queue.
    #[test]
    fn a_policy_for_other_types() {
        let (vhost, client, channel) = setup();
        let definition = r#"{"max-length":1,"delivery-limit":3}"#;
        vhost.ctl(&["set_policy", "p", "^q", definition]);
        vhost.ctl(&[
            "set_policy",
            "--apply-to",
            "exchanges",
            "x",
            "^q",
            r#"{"max-length":1}"#,
        ]);
        channel.queue("q.classic", "durable", table([]));
        channel.queue(
            "q.quorum",
            "durable",
            table([("x-queue-type", text("quorum"))]),
        );
        for (queue, expected) in [("q.classic", 2), ("q.quorum", 1)] {
            client.put_persistent(queue, "1");
            client.put_persistent(queue, "2");
            assert_eq!(channel.ready(queue), expected, "{queue}");
        }
    }
}

mod lasting {
    use super::*;

    /// A classic queue has its limit from a policy alone, and its messages' returns count over a crash.
    #[test]
    fn returns_under_a_delivery_limit() {
        if elsewhere("the broker is stopped") {
            return;
        }
        let broker = Broker::start(&[]);
        let limit = [
            "set_policy",
            "-q",
            "--apply-to",
            "classic_queues",
            "p",
            "^q$",
            r#"{"delivery-limit":2}"#,
        ];
        ctl_on(Some(&broker), &limit);
        let returned = |broker: &Broker, count: Option<i64>| {
            let client = Client::to(broker);
            let channel = client.channel(1);
            channel.queue("q", "durable", table([]));
            if count.is_none() {
                client.put_persistent("q", "a");
            }
            let got = channel.get("q", "").unwrap();
            assert_eq!(got.header("x-delivery-count"), count.map(long));
            channel.send(&reject(got.tag, "requeue"));
            channel.ready("q")
        };
        assert_eq!(returned(&broker, None), 1);
        let broker = broker.restart();
        assert_eq!(returned(&broker, Some(1)), 1);
        // The log's writer may be up to 10 ms behind; a confirm says that it is not.
        Client::to(&broker).put_persistent("q", "later");
        let broker = broker.crash_and_restart();
        let channel = Client::to(&broker).channel(1);
        let got = channel.get("q", "").unwrap();
        assert_eq!(got.header("x-delivery-count"), Some(long(2)));
        channel.send(&reject(got.tag, "requeue"));
        assert_eq!(channel.drain("q"), ["later"]);
    }

    #[test]
    fn over_a_stop_and_a_crash() {
        if elsewhere("the broker is stopped") {
            return;
        }
        let mut broker = Broker::start(&[]);
        let on = |broker: &Broker, words: &[&str]| ctl_on(Some(broker), words);
        on(
            &broker,
            &["set_policy", "-q", "p", "^q", r#"{"max-length":2}"#],
        );
        let operator = [
            "set_operator_policy",
            "-q",
            "o",
            "^q",
            r#"{"max-length":1}"#,
        ];
        on(&broker, &operator);
        let alternate = r#"{"alternate-exchange":"ae"}"#;
        on(
            &broker,
            &["set_policy", "-q", "--priority", "2", "ae", "^x", alternate],
        );
        let client = Client::to(&broker);
        let channel = client.channel(1);
        channel.queue("q", "durable", table([]));
        channel.queue("caught", "durable", table([]));
        for exchange in ["x", "ae"] {
            channel.call(&exchange_declare(exchange, "fanout", "durable", table([])));
        }
        channel.bind("caught", "ae", "");
        client.close();
        for crash in [false, true] {
            broker = if crash {
                broker.crash_and_restart()
            } else {
                broker.restart()
            };
            let client = Client::to(&broker);
            let channel = client.channel(1);
            client.put("q", "1");
            client.put("q", "2");
            assert_eq!(channel.drain("q"), ["2"]);
            client.put_with("x", "", &plain(), "3");
            assert_eq!(channel.drain("caught"), ["3"]);
        }
        on(&broker, &["clear_operator_policy", "-q", "o"]);
        let broker = broker.crash_and_restart();
        let client = Client::to(&broker);
        client.put("q", "1");
        client.put("q", "2");
        assert_eq!(client.channel(1).drain("q"), ["1", "2"]);
        let listed = on(&broker, &["list_policies", "-q"]);
        assert_eq!(
            listed,
            "vhost\tname\tpattern\tapply-to\tdefinition\tpriority\n\
             /\tae\t^x\tall\t{\"alternate-exchange\":\"ae\"}\t2\n\
             /\tp\t^q\tall\t{\"max-length\":2}\t0\n"
        );
        assert_eq!(on(&broker, &["list_operator_policies", "-q", "-s"]), "");
    }

    #[test]
    fn not_over_the_end_of_the_virtual_host() {
        if elsewhere("the broker is stopped") {
            return;
        }
        let broker = Broker::start(&[]);
        let on = |broker: &Broker, words: &[&str]| ctl_on(Some(broker), words);
        on(&broker, &["add_vhost", "v"]);
        on(
            &broker,
            &["set_policy", "-p", "v", "p", "^q", r#"{"max-length":2}"#],
        );
        on(&broker, &["delete_vhost", "v"]);
        on(&broker, &["add_vhost", "v"]);
        assert_eq!(on(&broker, &["list_policies", "-s", "-p", "v"]), "");
        let broker = broker.crash_and_restart();
        assert_eq!(on(&broker, &["list_policies", "-s", "-p", "v"]), "");
        let gone = refused_on(Some(&broker), 69, &["clear_policy", "-p", "v", "p"]);
        assert!(gone.contains("Parameter does not exist"), "{gone}");
    }
}

mod racing {
    use super::*;

    /// Queues that are declared while policies change follow the last one, whichever side of the change they fell on.
    #[test]
    fn declarations() {
        const QUEUES: usize = 300;
        let (vhost, client, channel) = setup();
        let name = vhost.name;
        let changing = std::thread::spawn(move || {
            for max in [3, 2, 5, 4, 1] {
                let definition = format!("{{\"max-length\":{max}}}");
                let words = ["set_policy", "-q", "-p", name, "p", "^q", &definition];
                ctl_on(None, &words);
            }
        });
        for queue in 0..QUEUES {
            channel.queue(&format!("q{queue}"), "exclusive", table([]));
        }
        changing.join().unwrap();
        let publisher = confirming(&client);
        for queue in 0..QUEUES {
            publisher.publish("", &format!("q{queue}"), "1");
            publisher.publish("", &format!("q{queue}"), "2");
        }
        publisher.confirms(1, 2 * QUEUES as u64);
        for queue in 0..QUEUES {
            assert_eq!(channel.ready(&format!("q{queue}")), 1, "q{queue}");
        }
    }
}

mod tool {
    use super::*;

    #[test]
    fn refusals() {
        let vhost = Vhost::new();
        let set = |words: &[&str]| {
            let mut all = vec!["set_policy"];
            all.extend(words);
            vhost.refused(69, &all)
        };
        assert_eq!(
            set(&["p", "^q", r#"{"max-length":-1}"#]),
            "Error:\nValidation failed\n\n-1 is not a valid maximum length\n\n"
        );
        let text = set(&["p", "^q", r#"{"foo":"bar"}"#]);
        assert!(
            text.contains("[{<<\"foo\">>,<<\"bar\">>}] are not recognised policy settings"),
            "{text}"
        );
        let text = set(&["--apply-to", "foo", "p", "^q", r#"{"max-length":1}"#]);
        assert!(text.contains("apply-to 'foo' unrecognised; should be one of: 'queues', 'classic_queues',  'quorum_queues', 'streams', 'exchanges', or 'all'"), "{text}");
        let text = set(&["p", "^q", r#"{"foo":"#]);
        assert_eq!(
            text,
            "Error:\nCould not parse JSON document: {error,{failed_to_decode_json,<<\"{\\\"foo\\\":\">>}}\n"
        );
        let text = set(&["p", "(", r#"{"max-length":1}"#]);
        assert!(
            text.contains("pattern should be regular expression but is invalid"),
            "{text}"
        );
        let text = vhost.refused(69, &["clear_operator_policy", "nothing"]);
        assert_eq!(text, "Error:\nParameter does not exist\n");
        vhost.refused(64, &["set_policy", "p", "^q"]);
        vhost.refused(
            64,
            &[
                "set_policy",
                "--priority",
                "high",
                "p",
                "^q",
                r#"{"max-length":1}"#,
            ],
        );
        let words = [
            "set_policy",
            "-p",
            "nowhere",
            "p",
            "^q",
            r#"{"max-length":1}"#,
        ];
        let text = refused_on(None, 65, &words);
        assert!(
            text.contains("Virtual host 'nowhere' does not exist"),
            "{text}"
        );
        assert_eq!(vhost.ctl(&["list_policies", "-s"]), "");
    }

    #[test]
    fn banners() {
        if elsewhere("its tool is called quietly") {
            return;
        }
        let vhost = Vhost::new();
        let say = |command: &str, words: &[&str]| {
            let mut all = vec![command, "-p", vhost.name];
            all.extend(words);
            ctl_on(None, &all).replace(vhost.name, "V")
        };
        let definition = r#"{"max-length":1}"#;
        assert_eq!(
            say("set_policy", &["--priority", "3", "n", "^x", definition]),
            "Setting policy \"n\" for pattern \"^x\" to \"{\"max-length\":1}\" with priority \"3\" for vhost \"V\" ...\n"
        );
        assert_eq!(
            say("set_operator_policy", &["n", "^x", definition]),
            "Setting operator policy override \"n\" for pattern \"^x\" to \"{\"max-length\":1}\" with priority \"0\" for vhost \"V\" ...\n"
        );
        assert_eq!(
            say("list_operator_policies", &[]),
            "Listing operator policy overrides for vhost \"V\" ...\nvhost\tname\tpattern\tapply-to\tdefinition\tpriority\nV\tn\t^x\tall\t{\"max-length\":1}\t0\n"
        );
        assert_eq!(
            say("list_policies", &["--formatter", "json"]),
            "[\n{\"vhost\":\"V\",\"name\":\"n\",\"pattern\":\"^x\",\"apply-to\":\"all\",\"definition\":\"{\\\"max-length\\\":1}\",\"priority\":3}\n]\n"
        );
        assert_eq!(
            say("clear_policy", &["n"]),
            "Clearing policy \"n\" on vhost \"V\" ...\n"
        );
        assert_eq!(
            say("clear_operator_policy", &["n"]),
            "Clearing operator policy \"n\" on vhost \"V\" ...\n"
        );
    }

    #[test]
    fn listings() {
        let (vhost, client, channel) = setup();
        channel.queue("q", "durable", table([("x-max-length", int(7))]));
        let own = table([("alternate-exchange", text("ae")), ("n", int(1))]);
        channel.call(&exchange_declare("x", "topic", "", own));
        let arguments = table([("k", int(1)), ("s", text("x")), ("t", boolean(true))]);
        channel.call(&queue_bind("q", "x", "a.#", arguments));
        client.put("q", "1");
        vhost.ctl(&["set_policy", "p", "^[qx]", r#"{"message-ttl":60000}"#]);
        vhost.ctl(&[
            "set_operator_policy",
            "o",
            "^q",
            r#"{"overflow":"drop-head"}"#,
        ]);
        assert_eq!(vhost.ctl(&["list_queues"]), "name\tmessages\nq\t1\n");
        let columns = [
            "list_queues",
            "-s",
            "name",
            "arguments",
            "policy",
            "operator_policy",
        ];
        assert_eq!(
            vhost.ctl(&columns),
            "q\t[{\"x-max-length\",7},{\"x-queue-type\",\"classic\"}]\tp\to\n"
        );
        let columns = [
            "list_queues",
            "-s",
            "effective_policy_definition",
            "durable",
            "owner_pid",
            "type",
        ];
        assert_eq!(
            vhost.ctl(&columns),
            "[{<<\"message-ttl\">>, 60000}, {<<\"overflow\">>, <<\"drop-head\">>}]\ttrue\t\tclassic\n"
        );
        let exchanges = vhost.ctl(&[
            "list_exchanges",
            "-s",
            "name",
            "type",
            "policy",
            "durable",
            "arguments",
        ]);
        let line = "x\ttopic\tp\tfalse\t[{\"alternate-exchange\",\"ae\"},{\"n\",1}]";
        assert!(exchanges.lines().any(|found| found == line), "{exchanges}");
        assert_eq!(exchanges.lines().count(), 8, "{exchanges}");
        assert_eq!(
            vhost.ctl(&["list_bindings"]),
            "source_name\tsource_kind\tdestination_name\tdestination_kind\trouting_key\targuments\n\
             \texchange\tq\tqueue\tq\t[]\n\
             x\texchange\tq\tqueue\ta.#\t[{\"k\",1},{\"s\",\"x\"},{\"t\",true}]\n"
        );
        let text = vhost.refused(64, &["list_queues", "name", "foo"]);
        assert!(text.contains("Info key(s) foo are not supported"), "{text}");
    }
}
