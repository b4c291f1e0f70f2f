//! Exchanges and bindings: routing by type, alternate exchanges, exchange-to-exchange bindings, life cycle, identity of bindings.

mod support;

use support::*;

/// Three queues, one channel, and what a publish reaches.
struct Stage {
    client: Client,
    channel: Channel,
    /// Prefix of all names of this stage.
    name: String,
}

impl Stage {
    fn new() -> Self {
        let client = Client::connect();
        let channel = client.channel(1);
        Self {
            client,
            channel,
            name: name(),
        }
    }

    /// `%` stands for the stage's name: `%.q` is a queue that nobody else has.
    fn full(&self, short: &str) -> String {
        short.replace('%', &self.name)
    }

    /// Declares `%.NAME` for each word as an exclusive queue.
    #[track_caller]
    fn queues(&self, words: &str) {
        for word in words.split_whitespace() {
            self.channel.own_queue(&format!("{}.{word}", self.name));
        }
    }

    /// Declares `%.NAME` as an exchange that goes with its last binding.
    #[track_caller]
    fn exchange(&self, word: &str, kind: &str) {
        self.channel
            .exchange(&format!("{}.{word}", self.name), kind);
    }

    #[track_caller]
    fn bind(&self, queue: &str, exchange: &str, key: &str) {
        self.channel
            .bind(&self.full(queue), &self.full(exchange), key);
    }

    #[track_caller]
    fn exchange_bind(&self, destination: &str, source: &str, key: &str) {
        self.channel.call(&exchange_bind(
            &self.full(destination),
            &self.full(source),
            key,
            table([]),
        ));
    }

    /// Publishes, and empties the queues: how many copies each of them got.
    #[track_caller]
    fn publish(
        &self,
        exchange: &str,
        key: &str,
        properties: &BasicProperties,
        queues: &str,
    ) -> Vec<usize> {
        self.client
            .put_with(&self.full(exchange), key, properties, "x");
        queues
            .split_whitespace()
            .map(|word| self.channel.drain(&format!("{}.{word}", self.name)).len())
            .collect()
    }

    fn exists(&self, exchange: &str) -> bool {
        // Another connection, because the error closes a channel.
        let client = Client::connect();
        client.channel(1).send(&exchange_declare(
            &self.full(exchange),
            "direct",
            "passive",
            table([]),
        ));
        format!("{:?}", client.event(1)).contains("DeclareOk")
    }
}

mod predeclared {
    use super::*;

    #[track_caller]
    fn check(name: &str, kind: &str, flags: &str) {
        Client::connect()
            .channel(1)
            .call(&exchange_declare(name, kind, flags, table([])));
    }

    #[test]
    fn can_be_declared_again() {
        check("amq.direct", "direct", "durable");
        check("amq.fanout", "fanout", "durable");
        check("amq.topic", "topic", "durable");
        check("amq.headers", "headers", "durable");
        check("amq.match", "headers", "durable");
        check("amq.rabbitmq.trace", "topic", "durable internal");
    }

    #[test]
    fn passive_declare_compares_nothing() {
        check("amq.direct", "fanout", "passive");
        check("amq.direct", "", "passive auto_delete internal");
    }

    #[test]
    fn route() {
        let stage = Stage::new();
        stage.queues("q");
        let key = stage.name.clone();
        for exchange in ["amq.direct", "amq.topic"] {
            stage.bind("%.q", exchange, &key);
            assert_eq!(
                stage.publish(exchange, &key, &plain(), "q"),
                [1],
                "{exchange}"
            );
            assert_eq!(
                stage.publish(exchange, "other", &plain(), "q"),
                [0],
                "{exchange}"
            );
        }
        for exchange in ["amq.headers", "amq.match"] {
            stage.channel.call(&queue_bind(
                &stage.full("%.q"),
                exchange,
                "",
                table([("stage", text(&key))]),
            ));
            assert_eq!(
                stage.publish(exchange, "", &headers([("stage", text(&key))]), "q"),
                [1],
                "{exchange}"
            );
        }
        assert_eq!(stage.publish("", &stage.full("%.q"), &plain(), "q"), [1]);
    }
}

mod direct {
    use super::*;

    #[test]
    fn key_by_octets() {
        let stage = Stage::new();
        stage.queues("a b");
        stage.exchange("x", "direct");
        stage.bind("%.a", "%.x", "Key");
        stage.bind("%.b", "%.x", "key");
        stage.bind("%.b", "%.x", "");
        stage.bind("%.a", "%.x", "*");
        for (key, copies) in [
            ("Key", [1, 0]),
            ("key", [0, 1]),
            ("", [0, 1]),
            ("*", [1, 0]),
            ("#", [0, 0]),
            ("key ", [0, 0]),
        ] {
            assert_eq!(
                stage.publish("%.x", key, &plain(), "a b"),
                copies,
                "{key:?}"
            );
        }
    }

    #[test]
    fn several_queues_by_one_key() {
        let stage = Stage::new();
        stage.queues("a b c");
        stage.exchange("x", "direct");
        stage.bind("%.a", "%.x", "k");
        stage.bind("%.b", "%.x", "k");
        assert_eq!(stage.publish("%.x", "k", &plain(), "a b c"), [1, 1, 0]);
    }

    #[test]
    fn one_copy_for_several_bindings() {
        let stage = Stage::new();
        stage.queues("a");
        stage.exchange("x", "fanout");
        stage.bind("%.a", "%.x", "one");
        stage.bind("%.a", "%.x", "two");
        assert_eq!(stage.publish("%.x", "one", &plain(), "a"), [1]);
    }
}

mod fanout {
    use super::*;

    #[test]
    fn ignores_the_key() {
        let stage = Stage::new();
        stage.queues("a b");
        stage.exchange("x", "fanout");
        stage.bind("%.a", "%.x", "k");
        stage.bind("%.b", "%.x", "");
        for key in ["k", "", "other"] {
            assert_eq!(
                stage.publish("%.x", key, &plain(), "a b"),
                [1, 1],
                "{key:?}"
            );
        }
    }

    #[test]
    fn after_unbind() {
        let stage = Stage::new();
        stage.queues("a b");
        stage.exchange("x", "fanout");
        stage.bind("%.a", "%.x", "k");
        stage.bind("%.b", "%.x", "k");
        stage.channel.call(&queue_unbind(
            &stage.full("%.a"),
            &stage.full("%.x"),
            "k",
            table([]),
        ));
        assert_eq!(stage.publish("%.x", "k", &plain(), "a b"), [0, 1]);
    }
}

mod topic {
    use super::*;

    /// The binding key matches exactly the routing keys of the first list.
    #[track_caller]
    fn check(binding_key: &str, matching: &[&str], other: &[&str]) {
        let stage = Stage::new();
        stage.queues("q");
        stage.exchange("x", "topic");
        stage.bind("%.q", "%.x", binding_key);
        for key in matching {
            assert_eq!(
                stage.publish("%.x", key, &plain(), "q"),
                [1],
                "{binding_key:?} matches {key:?}"
            );
        }
        for key in other {
            assert_eq!(
                stage.publish("%.x", key, &plain(), "q"),
                [0],
                "{binding_key:?} does not match {key:?}"
            );
        }
    }

    #[test]
    fn hash_matches_everything() {
        check("#", &["", "a", "a.b", ".", "a..b", "#", "*"], &[]);
        check("#.#", &["", "a", "a.b.c"], &[]);
    }

    #[test]
    fn empty_matches_only_the_empty_key() {
        check("", &[""], &["a", ".", " "]);
    }

    #[test]
    fn star_matches_exactly_one_word() {
        check("*", &["a", "#", "*", "long-word"], &["", "a.b", "."]);
        check("*.*", &["a.b", ".", "a.", ".a"], &["a", "", "a.b.c", ".."]);
        check("a.*.c", &["a.b.c", "a..c"], &["a.c", "a.b.b.c"]);
        check("stock.*", &["stock.nyse"], &["stock", "stock.nyse.ibm"]);
        check("*.nyse", &["stock.nyse", ".nyse"], &["nyse", "a.b.nyse"]);
    }

    #[test]
    fn hash_matches_any_number_of_words() {
        check("a.#", &["a", "a.b", "a.b.c", "a."], &["ab", "", "b.a"]);
        check("#.a", &["a", "x.a", "x.y.a"], &["a.x", "", "ba"]);
        check(
            "a.#.c",
            &["a.c", "a.x.c", "a.x.y.c", "a.c.c"],
            &["a.c.d", "a", "c", "ac"],
        );
        check("*.#", &["a", "a.b", "a.b.c", "."], &[""]);
        check("#.*", &["a", "a.b"], &[""]);
        check("*.#.*", &["a.b", "a.b.c", "."], &["a", ""]);
        check(
            "#.b.#",
            &["b", "a.b", "b.c", "a.b.c", "b.b"],
            &["a", "ab", ""],
        );
    }

    #[test]
    fn wildcards_are_whole_words() {
        check("a*", &["a*"], &["a", "ab"]);
        check("a#", &["a#"], &["a", "ab", "a.b"]);
        check("*a.b", &["*a.b"], &["xa.b"]);
    }

    #[test]
    fn words_by_octets() {
        check("A.b", &["A.b"], &["a.b", "A.B", "A.b.", ".A.b"]);
        check("a..b", &["a..b"], &["a.b", "a.x.b"]);
        check("\u{e9}.*", &["\u{e9}.x"], &["e.x"]);
    }

    #[test]
    fn many_words() {
        let long = vec!["w"; 120].join(".");
        check(&long, &[&long], &["w.w"]);
        check("w.#.w", &[&long, "w.w"], &["w"]);
        check("#.w.#.x", &[&format!("{long}.x"), "w.x"], &[&long, "x"]);
    }

    #[test]
    fn one_copy_for_several_matching_bindings() {
        let stage = Stage::new();
        stage.queues("a b");
        stage.exchange("x", "topic");
        for key in ["#", "a.*", "a.b", "*.b"] {
            stage.bind("%.a", "%.x", key);
        }
        stage.bind("%.b", "%.x", "a.*");
        assert_eq!(stage.publish("%.x", "a.b", &plain(), "a b"), [1, 1]);
        assert_eq!(stage.publish("%.x", "c.c", &plain(), "a b"), [1, 0]);
    }

    #[test]
    fn after_unbind() {
        let stage = Stage::new();
        stage.queues("a");
        stage.exchange("x", "topic");
        for key in ["keep", "a.*", "a.b", "a.#"] {
            stage.bind("%.a", "%.x", key);
        }
        for (key, copies) in [("a.*", 1), ("a.#", 1), ("a.b", 0)] {
            stage.channel.call(&queue_unbind(
                &stage.full("%.a"),
                &stage.full("%.x"),
                key,
                table([]),
            ));
            assert_eq!(
                stage.publish("%.x", "a.b", &plain(), "a"),
                [copies],
                "without {key}"
            );
        }
    }

    #[test]
    fn a_thousand_bindings() {
        let stage = Stage::new();
        stage.queues("a b");
        stage.exchange("x", "topic");
        for number in 0..1000 {
            stage.bind(
                if number % 2 == 0 { "%.a" } else { "%.b" },
                "%.x",
                &format!("n{number}.*.#"),
            );
        }
        assert_eq!(stage.publish("%.x", "n500.x", &plain(), "a b"), [1, 0]);
        assert_eq!(stage.publish("%.x", "n501.x.y", &plain(), "a b"), [0, 1]);
        assert_eq!(stage.publish("%.x", "n501", &plain(), "a b"), [0, 0]);
    }
}

mod headers_exchange {
    use super::*;

    /// Whether a binding with these arguments takes a message with these headers.
    #[track_caller]
    fn check<const N: usize, const M: usize>(
        binding: [(&str, Value); N],
        message: [(&str, Value); M],
        takes: bool,
    ) {
        let stage = Stage::new();
        stage.queues("q");
        stage.exchange("x", "headers");
        let shown = format!("{binding:?} and {message:?}");
        stage.channel.call(&queue_bind(
            &stage.full("%.q"),
            &stage.full("%.x"),
            "",
            table(binding),
        ));
        assert_eq!(
            stage.publish("%.x", "any", &headers(message), "q"),
            [usize::from(takes)],
            "{shown}"
        );
    }

    #[test]
    fn all_is_the_default() {
        check(
            [("a", int(1)), ("b", text("x"))],
            [("a", int(1)), ("b", text("x")), ("c", int(9))],
            true,
        );
        check([("a", int(1)), ("b", text("x"))], [("a", int(1))], false);
        check(
            [("x-match", text("all")), ("a", int(1))],
            [("a", int(1))],
            true,
        );
        check(
            [("x-match", text("all")), ("a", int(1))],
            [("a", int(2))],
            false,
        );
    }

    #[test]
    fn any() {
        check(
            [("x-match", text("any")), ("a", int(1)), ("b", int(2))],
            [("b", int(2))],
            true,
        );
        check(
            [("x-match", text("any")), ("a", int(1)), ("b", int(2))],
            [("b", int(3)), ("c", int(1))],
            false,
        );
    }

    #[test]
    fn x_arguments_are_skipped() {
        check(
            [("x-match", text("all")), ("a", int(1)), ("x-b", int(2))],
            [("a", int(1))],
            true,
        );
        check(
            [("x-match", text("any")), ("x-b", int(2))],
            [("x-b", int(2))],
            false,
        );
    }

    #[test]
    fn x_arguments_count_with_x() {
        check(
            [
                ("x-match", text("all-with-x")),
                ("a", int(1)),
                ("x-b", int(2)),
            ],
            [("a", int(1))],
            false,
        );
        check(
            [
                ("x-match", text("all-with-x")),
                ("a", int(1)),
                ("x-b", int(2)),
            ],
            [("a", int(1)), ("x-b", int(2))],
            true,
        );
        check(
            [("x-match", text("any-with-x")), ("x-b", int(2))],
            [("x-b", int(2))],
            true,
        );
        check(
            [("x-match", text("any-with-x")), ("x-b", int(2))],
            [("b", int(2))],
            false,
        );
    }

    #[test]
    fn void_matches_presence() {
        check([("a", Value::Void)], [("a", text("anything"))], true);
        check([("a", Value::Void)], [("b", int(1))], false);
    }

    #[test]
    fn no_arguments() {
        check([], [("a", int(1))], true);
        check([("x-match", text("all"))], [], true);
        check([("x-match", text("any"))], [("a", int(1))], false);
    }

    #[test]
    fn messages_without_headers() {
        let stage = Stage::new();
        stage.queues("all any");
        stage.exchange("x", "headers");
        stage.bind("%.all", "%.x", "");
        stage.channel.call(&queue_bind(
            &stage.full("%.any"),
            &stage.full("%.x"),
            "",
            table([("a", int(1))]),
        ));
        assert_eq!(stage.publish("%.x", "", &plain(), "all any"), [1, 0]);
    }

    #[test]
    fn integers_by_number() {
        check([("a", Value::ShortInt(5))], [("a", long(5))], true);
        check([("a", Value::ShortShortUInt(5))], [("a", int(5))], true);
        check([("a", int(5))], [("a", text("5"))], false);
        check([("a", int(5))], [("a", Value::Double(5.0))], false);
    }

    #[test]
    fn strings_by_octets() {
        check([("a", text("Word"))], [("a", text("word"))], false);
        check([("a", text("word"))], [("a", bytes(b"word"))], true);
        check([("a", boolean(true))], [("a", boolean(true))], true);
        check([("a", boolean(true))], [("a", boolean(false))], false);
        check(
            [("a", array(vec![int(1), text("x")]))],
            [("a", array(vec![int(1), text("x")]))],
            true,
        );
        check(
            [("a", array(vec![int(1)]))],
            [("a", array(vec![int(2)]))],
            false,
        );
    }

    #[test]
    fn timestamps() {
        // RabbitMQ compares seconds with milliseconds; [MambaMQ] compares normally.
        if elsewhere("timestamps never match there") {
            return;
        }
        check(
            [("a", Value::Timestamp(5))],
            [("a", Value::Timestamp(5))],
            true,
        );
        check(
            [("a", Value::Timestamp(5))],
            [("a", Value::Timestamp(6))],
            false,
        );
    }

    #[test]
    fn several_bindings_of_one_queue() {
        let stage = Stage::new();
        stage.queues("q");
        stage.exchange("x", "headers");
        for value in 1..=2 {
            stage.channel.call(&queue_bind(
                &stage.full("%.q"),
                &stage.full("%.x"),
                "",
                table([("a", int(value))]),
            ));
        }
        for (value, copies) in [(1, 1), (2, 1), (3, 0)] {
            assert_eq!(
                stage.publish("%.x", "", &headers([("a", int(value))]), "q"),
                [copies],
                "{value}"
            );
        }
        stage.channel.call(&queue_unbind(
            &stage.full("%.q"),
            &stage.full("%.x"),
            "",
            table([("a", int(1))]),
        ));
        assert_eq!(
            stage.publish("%.x", "", &headers([("a", int(1))]), "q"),
            [0]
        );
        assert_eq!(
            stage.publish("%.x", "", &headers([("a", int(2))]), "q"),
            [1]
        );
    }
}

mod alternate_exchange {
    use super::*;

    fn with_alternate(stage: &Stage, word: &str, alternate: &str) {
        let arguments = table([("alternate-exchange", text(&stage.full(alternate)))]);
        stage.channel.call(&exchange_declare(
            &stage.full(&format!("%.{word}")),
            "direct",
            "auto_delete",
            arguments,
        ));
    }

    #[test]
    fn gets_what_found_no_destination() {
        let stage = Stage::new();
        stage.queues("a b");
        stage.exchange("ae", "fanout");
        with_alternate(&stage, "x", "%.ae");
        stage.bind("%.a", "%.x", "k");
        stage.bind("%.b", "%.ae", "");
        assert_eq!(stage.publish("%.x", "k", &plain(), "a b"), [1, 0]);
        assert_eq!(stage.publish("%.x", "other", &plain(), "a b"), [0, 1]);
    }

    #[test]
    fn keeps_the_routing_key_and_names_the_first_exchange() {
        let stage = Stage::new();
        stage.queues("b");
        stage.exchange("ae", "direct");
        with_alternate(&stage, "x", "%.ae");
        stage.bind("%.b", "%.ae", "other");
        stage
            .client
            .put_with(&stage.full("%.x"), "other", &plain(), "x");
        let got = stage
            .channel
            .get(&stage.full("%.b"), "no_ack")
            .expect("routed by the alternate exchange");
        assert_eq!(
            (got.exchange, got.key),
            (stage.full("%.x"), "other".to_owned())
        );
    }

    #[test]
    fn chains_and_cycles_end() {
        let stage = Stage::new();
        stage.queues("q");
        with_alternate(&stage, "a", "%.b");
        with_alternate(&stage, "b", "%.c");
        with_alternate(&stage, "c", "%.a");
        assert_eq!(stage.publish("%.a", "k", &plain(), "q"), [0]);
        stage.bind("%.q", "%.c", "k");
        assert_eq!(stage.publish("%.a", "k", &plain(), "q"), [1]);
        for word in ["%.a", "%.b"] {
            stage.channel.call(&exchange_delete(&stage.full(word), ""));
        }
    }

    #[test]
    fn missing_is_ignored() {
        let stage = Stage::new();
        with_alternate(&stage, "x", "%.missing");
        stage
            .client
            .put_with(&stage.full("%.x"), "k", &plain(), "x");
        stage.channel.call(&exchange_delete(&stage.full("%.x"), ""));
    }

    #[test]
    fn counts_as_routed() {
        let stage = Stage::new();
        stage.queues("q");
        stage.exchange("ae", "fanout");
        with_alternate(&stage, "x", "%.ae");
        stage.bind("%.q", "%.ae", "");
        let channel = stage.client.channel(2);
        channel.publish_with(&stage.full("%.x"), "k", "mandatory", &plain(), "x");
        channel.expect_nothing();
        stage.channel.call(&exchange_delete(&stage.full("%.x"), ""));
    }

    #[test]
    fn is_not_asked_when_an_exchange_was_found() {
        let stage = Stage::new();
        stage.queues("q");
        stage.exchange("ae", "fanout");
        stage.exchange("empty", "direct");
        with_alternate(&stage, "x", "%.ae");
        stage.bind("%.q", "%.ae", "");
        stage.exchange_bind("%.empty", "%.x", "k");
        assert_eq!(stage.publish("%.x", "k", &plain(), "q"), [0]);
        assert_eq!(stage.publish("%.x", "other", &plain(), "q"), [1]);
    }

    #[test]
    fn may_be_internal() {
        let stage = Stage::new();
        stage.queues("q");
        stage.channel.call(&exchange_declare(
            &stage.full("%.ae"),
            "fanout",
            "internal auto_delete",
            table([]),
        ));
        with_alternate(&stage, "x", "%.ae");
        stage.bind("%.q", "%.ae", "");
        assert_eq!(stage.publish("%.x", "k", &plain(), "q"), [1]);
        stage.channel.call(&exchange_delete(&stage.full("%.x"), ""));
    }
}

mod exchange_to_exchange {
    use super::*;

    #[test]
    fn keys_at_the_source() {
        let stage = Stage::new();
        stage.queues("q");
        stage.exchange("source", "topic");
        stage.exchange("destination", "fanout");
        stage.exchange_bind("%.destination", "%.source", "a.*");
        stage.bind("%.q", "%.destination", "");
        assert_eq!(stage.publish("%.source", "a.b", &plain(), "q"), [1]);
        assert_eq!(stage.publish("%.source", "b.a", &plain(), "q"), [0]);
        assert_eq!(stage.publish("%.destination", "b.a", &plain(), "q"), [1]);
    }

    #[test]
    fn the_routing_key_stays() {
        let stage = Stage::new();
        stage.queues("q");
        stage.exchange("source", "fanout");
        stage.exchange("destination", "direct");
        stage.exchange_bind("%.destination", "%.source", "ignored");
        stage.bind("%.q", "%.destination", "k");
        assert_eq!(stage.publish("%.source", "k", &plain(), "q"), [1]);
        assert_eq!(stage.publish("%.source", "ignored", &plain(), "q"), [0]);
    }

    #[test]
    fn cycles_end() {
        let stage = Stage::new();
        stage.queues("q");
        for word in ["a", "b", "c"] {
            stage.exchange(word, "fanout");
        }
        stage.exchange_bind("%.b", "%.a", "");
        stage.exchange_bind("%.c", "%.b", "");
        stage.exchange_bind("%.a", "%.c", "");
        stage.exchange_bind("%.a", "%.a", "");
        stage.bind("%.q", "%.c", "");
        for start in ["%.a", "%.b", "%.c"] {
            assert_eq!(stage.publish(start, "", &plain(), "q"), [1], "{start}");
        }
        for word in ["%.a", "%.b", "%.c"] {
            stage.channel.call(&exchange_delete(&stage.full(word), ""));
        }
    }

    #[test]
    fn one_copy_by_many_paths() {
        let stage = Stage::new();
        stage.queues("q");
        for word in ["top", "left", "right"] {
            stage.exchange(word, "fanout");
        }
        stage.exchange_bind("%.left", "%.top", "");
        stage.exchange_bind("%.right", "%.top", "");
        for word in ["%.top", "%.left", "%.right"] {
            stage.bind("%.q", word, "");
        }
        assert_eq!(stage.publish("%.top", "", &plain(), "q"), [1]);
    }

    #[test]
    fn unbind() {
        let stage = Stage::new();
        stage.queues("q");
        stage.exchange("source", "fanout");
        stage.exchange("destination", "fanout");
        stage.bind("%.q", "%.destination", "");
        stage.bind("%.q", "%.source", "keep");
        stage.exchange_bind("%.destination", "%.source", "k");
        stage.channel.call(&queue_unbind(
            &stage.full("%.q"),
            &stage.full("%.source"),
            "keep",
            table([]),
        ));
        assert_eq!(stage.publish("%.source", "", &plain(), "q"), [1]);
        stage.channel.call(&exchange_bind(
            &stage.full("%.destination"),
            &stage.full("%.source"),
            "k",
            table([]),
        ));
        stage.bind("%.q", "%.source", "keep alive");
        stage.channel.call(&exchange_unbind(
            &stage.full("%.destination"),
            &stage.full("%.source"),
            "wrong",
            table([]),
        ));
        stage.channel.call(&exchange_unbind(
            &stage.full("%.destination"),
            &stage.full("%.source"),
            "k",
            table([]),
        ));
        stage.channel.call(&queue_unbind(
            &stage.full("%.q"),
            &stage.full("%.destination"),
            "",
            table([]),
        ));
        assert_eq!(stage.publish("%.source", "", &plain(), "q"), [1]);
    }

    #[test]
    fn unbind_ok_is_method_51() {
        let stage = Stage::new();
        stage.exchange("source", "fanout");
        stage.exchange("destination", "fanout");
        stage.exchange_bind("%.destination", "%.source", "k");
        stage.channel.send(&exchange_unbind(
            &stage.full("%.destination"),
            &stage.full("%.source"),
            "k",
            table([]),
        ));
        assert_eq!(stage.client.frame().payload, [0, 40, 0, 51]);
        stage
            .channel
            .call(&exchange_delete(&stage.full("%.destination"), ""));
    }

    #[test]
    fn an_internal_exchange_is_reached() {
        let stage = Stage::new();
        stage.queues("q");
        stage.exchange("source", "fanout");
        stage.channel.call(&exchange_declare(
            &stage.full("%.inner"),
            "fanout",
            "internal auto_delete",
            table([]),
        ));
        stage.bind("%.q", "%.inner", "");
        stage.exchange_bind("%.inner", "%.source", "");
        assert_eq!(stage.publish("%.source", "", &plain(), "q"), [1]);
    }
}

mod auto_delete {
    use super::*;

    #[test]
    fn with_the_last_binding() {
        let stage = Stage::new();
        stage.queues("a b");
        stage.exchange("x", "direct");
        stage.bind("%.a", "%.x", "k");
        stage.bind("%.b", "%.x", "k");
        stage.channel.call(&queue_unbind(
            &stage.full("%.a"),
            &stage.full("%.x"),
            "k",
            table([]),
        ));
        assert!(stage.exists("%.x"));
        stage.channel.call(&queue_unbind(
            &stage.full("%.b"),
            &stage.full("%.x"),
            "k",
            table([]),
        ));
        assert!(!stage.exists("%.x"));
    }

    #[test]
    fn with_the_last_queue() {
        let stage = Stage::new();
        stage.queues("a");
        stage.exchange("x", "direct");
        stage.bind("%.a", "%.x", "k");
        stage.channel.call(&queue_delete(&stage.full("%.a"), ""));
        assert!(!stage.exists("%.x"));
    }

    #[test]
    fn with_the_last_destination_exchange() {
        let stage = Stage::new();
        stage.exchange("source", "direct");
        stage.exchange("destination", "direct");
        stage.exchange_bind("%.destination", "%.source", "k");
        stage
            .channel
            .call(&exchange_delete(&stage.full("%.destination"), ""));
        assert!(!stage.exists("%.source"));
    }

    #[test]
    fn cascades() {
        let stage = Stage::new();
        stage.queues("q");
        for word in ["a", "b", "c"] {
            stage.exchange(word, "fanout");
        }
        stage.exchange_bind("%.b", "%.a", "");
        stage.exchange_bind("%.c", "%.b", "");
        stage.bind("%.q", "%.c", "");
        stage.channel.call(&queue_delete(&stage.full("%.q"), ""));
        for word in ["%.a", "%.b", "%.c"] {
            assert!(!stage.exists(word), "{word}");
        }
    }

    #[test]
    fn never_without_a_binding() {
        let stage = Stage::new();
        stage.exchange("x", "direct");
        stage
            .channel
            .call(&queue_unbind("none", &stage.full("%.x"), "k", table([])));
        assert!(stage.exists("%.x"));
        stage
            .channel
            .call(&exchange_delete(&stage.full("%.x"), "if_unused"));
        assert!(!stage.exists("%.x"));
    }

    #[test]
    fn not_as_a_destination() {
        let stage = Stage::new();
        stage.exchange("source", "direct");
        stage.exchange("destination", "direct");
        stage.exchange_bind("%.destination", "%.source", "k");
        stage.channel.call(&exchange_unbind(
            &stage.full("%.destination"),
            &stage.full("%.source"),
            "k",
            table([]),
        ));
        assert!(!stage.exists("%.source"));
        assert!(stage.exists("%.destination"));
        stage
            .channel
            .call(&exchange_delete(&stage.full("%.destination"), ""));
    }
}

mod delete {
    use super::*;

    #[test]
    fn removes_bindings_in_both_directions() {
        let stage = Stage::new();
        stage.queues("q");
        for word in ["a", "b", "c"] {
            stage.channel.call(&exchange_declare(
                &stage.full(&format!("%.{word}")),
                "fanout",
                "",
                table([]),
            ));
        }
        stage.exchange_bind("%.b", "%.a", "");
        stage.exchange_bind("%.c", "%.b", "");
        stage.bind("%.q", "%.c", "");
        assert_eq!(stage.publish("%.a", "", &plain(), "q"), [1]);
        stage.channel.call(&exchange_delete(&stage.full("%.b"), ""));
        assert_eq!(stage.publish("%.a", "", &plain(), "q"), [0]);
        stage.channel.call(&exchange_declare(
            &stage.full("%.b"),
            "fanout",
            "",
            table([]),
        ));
        assert_eq!(
            stage.publish("%.a", "", &plain(), "q"),
            [0],
            "a new exchange of that name has no bindings"
        );
        assert_eq!(stage.publish("%.b", "", &plain(), "q"), [0]);
        for word in ["%.a", "%.b", "%.c"] {
            stage.channel.call(&exchange_delete(&stage.full(word), ""));
        }
    }

    #[test]
    fn if_unused_looks_at_bindings_as_source() {
        let stage = Stage::new();
        for word in ["source", "destination"] {
            stage.channel.call(&exchange_declare(
                &stage.full(&format!("%.{word}")),
                "fanout",
                "",
                table([]),
            ));
        }
        stage.exchange_bind("%.destination", "%.source", "");
        stage
            .channel
            .call(&exchange_delete(&stage.full("%.destination"), "if_unused"));
        stage
            .channel
            .call(&exchange_delete(&stage.full("%.source"), "if_unused"));
        assert!(!stage.exists("%.source"));
    }

    #[test]
    fn publishes_after_it_find_nothing() {
        let stage = Stage::new();
        stage.channel.call(&exchange_declare(
            &stage.full("%.x"),
            "fanout",
            "",
            table([]),
        ));
        let channel = stage.client.channel(2);
        channel.publish(&stage.full("%.x"), "", "before");
        channel.flow();
        stage.channel.call(&exchange_delete(&stage.full("%.x"), ""));
        channel.publish(&stage.full("%.x"), "", "after");
        channel.expect_error(
            404,
            &format!(
                "NOT_FOUND - no exchange '{}' in vhost '/'",
                stage.full("%.x")
            ),
            (60, 40),
        );
    }
}

mod binding_identity {
    use super::*;

    #[test]
    fn keys_and_arguments_coexist() {
        let stage = Stage::new();
        stage.queues("q");
        stage.exchange("x", "fanout");
        let (queue, exchange) = (stage.full("%.q"), stage.full("%.x"));
        let bindings = [
            ("", table([])),
            ("k", table([])),
            ("k", table([("a", int(1))])),
            ("k", table([("a", long(1))])),
            ("k", table([("a", int(2))])),
        ];
        for (key, arguments) in &bindings {
            stage
                .channel
                .call(&queue_bind(&queue, &exchange, key, arguments.clone()));
        }
        // Each unbind takes one of them; the exchange goes with the last.
        for (key, arguments) in &bindings {
            assert_eq!(stage.publish("%.x", "", &plain(), "q"), [1]);
            stage
                .channel
                .call(&queue_unbind(&queue, &exchange, key, arguments.clone()));
        }
        assert!(!stage.exists("%.x"));
    }

    #[test]
    fn unbind_needs_the_exact_arguments() {
        let stage = Stage::new();
        stage.queues("q");
        stage.exchange("x", "fanout");
        let (queue, exchange) = (stage.full("%.q"), stage.full("%.x"));
        stage.channel.call(&queue_bind(
            &queue,
            &exchange,
            "k",
            table([("a", int(1)), ("b", text("x"))]),
        ));
        for wrong in [
            table([]),
            table([("a", int(1))]),
            table([("a", int(2)), ("b", text("x"))]),
        ] {
            stage
                .channel
                .call(&queue_unbind(&queue, &exchange, "k", wrong));
        }
        stage.channel.call(&queue_unbind(
            &queue,
            &exchange,
            "other",
            table([("a", int(1)), ("b", text("x"))]),
        ));
        assert_eq!(stage.publish("%.x", "", &plain(), "q"), [1]);
        stage.channel.call(&queue_unbind(
            &queue,
            &exchange,
            "k",
            table([("a", int(1)), ("b", text("x"))]),
        ));
        assert!(!stage.exists("%.x"));
    }

    #[test]
    fn a_new_queue_of_the_same_name_has_no_bindings() {
        let stage = Stage::new();
        stage.queues("q keep");
        stage.exchange("x", "fanout");
        stage.bind("%.q", "%.x", "");
        stage.bind("%.keep", "%.x", "");
        stage.channel.call(&queue_delete(&stage.full("%.q"), ""));
        stage.queues("q");
        assert_eq!(stage.publish("%.x", "", &plain(), "q keep"), [0, 1]);
    }
}

mod hashing {
    use super::*;

    #[test]
    fn consistent_hash_spreads_and_stays() {
        let stage = Stage::new();
        stage.queues("a b");
        stage.exchange("x", "x-consistent-hash");
        stage.bind("%.a", "%.x", "10");
        stage.bind("%.b", "%.x", "10");
        let mut totals = [0, 0];
        for number in 0..100 {
            let key = format!("key{number}");
            let first = stage.publish("%.x", &key, &plain(), "a b");
            assert_eq!(first.iter().sum::<usize>(), 1, "one queue per message");
            assert_eq!(
                stage.publish("%.x", &key, &plain(), "a b"),
                first,
                "the same key, the same queue"
            );
            totals[0] += first[0];
            totals[1] += first[1];
        }
        assert!(totals.iter().all(|total| *total > 10), "{totals:?}");
    }

    #[test]
    fn consistent_hash_by_header() {
        let stage = Stage::new();
        stage.queues("a b");
        let arguments = table([("hash-header", text("id"))]);
        stage.channel.call(&exchange_declare(
            &stage.full("%.x"),
            "x-consistent-hash",
            "auto_delete",
            arguments,
        ));
        stage.bind("%.a", "%.x", "1");
        stage.bind("%.b", "%.x", "1");
        let publish =
            |key: &str, id: &str| stage.publish("%.x", key, &headers([("id", text(id))]), "a b");
        for number in 0..20 {
            let id = format!("id{number}");
            assert_eq!(publish("one", &id), publish("two", &id));
        }
    }

    #[test]
    fn random_chooses_one_binding() {
        if elsewhere("needs a plugin there") {
            return;
        }
        let stage = Stage::new();
        stage.queues("a b");
        stage.exchange("x", "x-random");
        stage.bind("%.a", "%.x", "");
        stage.bind("%.b", "%.x", "");
        let mut totals = [0, 0];
        for _ in 0..100 {
            let copies = stage.publish("%.x", "k", &plain(), "a b");
            assert_eq!(copies.iter().sum::<usize>(), 1);
            totals[0] += copies[0];
            totals[1] += copies[1];
        }
        assert!(totals.iter().all(|total| *total > 0), "{totals:?}");
    }

    #[test]
    fn modulus_hash_stays() {
        if elsewhere("needs a plugin there") {
            return;
        }
        let stage = Stage::new();
        stage.queues("a b c");
        stage.exchange("x", "x-modulus-hash");
        for word in ["%.a", "%.b", "%.c"] {
            stage.bind(word, "%.x", "");
        }
        let mut totals = [0, 0, 0];
        for number in 0..100 {
            let key = format!("key{number}");
            let copies = stage.publish("%.x", &key, &plain(), "a b c");
            assert_eq!(copies.iter().sum::<usize>(), 1);
            assert_eq!(stage.publish("%.x", &key, &plain(), "a b c"), copies);
            for (total, copy) in totals.iter_mut().zip(copies) {
                *total += copy;
            }
        }
        assert!(totals.iter().all(|total| *total > 0), "{totals:?}");
    }

    #[test]
    fn local_random_chooses_one_queue() {
        let stage = Stage::new();
        stage.queues("a b");
        stage.exchange("x", "x-local-random");
        stage.bind("%.a", "%.x", "");
        stage.bind("%.b", "%.x", "");
        for _ in 0..20 {
            assert_eq!(
                stage
                    .publish("%.x", "any", &plain(), "a b")
                    .iter()
                    .sum::<usize>(),
                1
            );
        }
    }
}

mod declare {
    use super::*;

    #[test]
    fn twice_is_the_same() {
        let stage = Stage::new();
        for kind in ["direct", "fanout", "topic", "headers"] {
            for flags in [
                "",
                "durable",
                "auto_delete",
                "internal",
                "durable auto_delete internal",
            ] {
                let name = stage.full(&format!("%.{kind}"));
                for _ in 0..2 {
                    stage
                        .channel
                        .call(&exchange_declare(&name, kind, flags, table([])));
                }
                stage.channel.call(&exchange_delete(&name, ""));
            }
        }
    }

    #[test]
    fn names_of_exchanges_and_queues_are_apart() {
        let stage = Stage::new();
        stage.queues("same");
        stage.exchange("same", "fanout");
        stage.bind("%.same", "%.same", "");
        assert_eq!(stage.publish("%.same", "", &plain(), "same"), [1]);
    }
}
