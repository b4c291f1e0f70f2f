//! Errors that clients see: reply code, exact text, class and method, scope, and what works afterwards.
//!
//! A row costs one line. In texts `%n` is the name the test was given, `%q` and `%x` how errors call the queue or exchange of that name.

mod support;

mod inequivalent_queue {
    use super::support::*;

    /// Declares with the first set of properties, then with the second.
    fn redeclare<const N: usize, const M: usize>(
        channel: &Channel,
        name: &str,
        first: (&str, [(&str, Value); N]),
        second: (&str, [(&str, Value); M]),
    ) {
        channel.queue(name, &format!("{} auto_delete", first.0), table(first.1));
        let owner = if second.0.contains("keep") {
            ""
        } else {
            " auto_delete"
        };
        channel.send(&queue_declare(
            name,
            &format!("{}{owner}", second.0.replace("keep", "")),
            table(second.1),
        ));
    }

    channel_errors! {
        durable: |c, n| { redeclare(c, n, ("durable", []), ("", [])); }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'durable' for %q: received 'false' but current is 'true'" (50, 10);
        not_durable: |c, n| { redeclare(c, n, ("", []), ("durable", [])); }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'durable' for %q: received 'true' but current is 'false'" (50, 10);
        auto_delete: |c, n| { redeclare(c, n, ("", []), ("keep", [])); }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'auto_delete' for %q: received 'false' but current is 'true'" (50, 10);
        durable_before_auto_delete: |c, n| { redeclare(c, n, ("", []), ("durable keep", [])); }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'durable' for %q: received 'true' but current is 'false'" (50, 10);
        properties_before_arguments: |c, n| { redeclare(c, n, ("", []), ("keep", [("x-max-length", int(1))])); }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'auto_delete' for %q: received 'false' but current is 'true'" (50, 10);
        argument_differs: |c, n| { redeclare(c, n, ("", [("x-message-ttl", int(1000))]), ("", [("x-message-ttl", int(2000))])); }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for %q: received '2000' but current is '1000'" (50, 10);
        argument_missing: |c, n| { redeclare(c, n, ("", [("x-message-ttl", int(60000))]), ("", [])); }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for %q: received none but current is the value '60000' of type 'signedint'" (50, 10);
        argument_new: |c, n| { redeclare(c, n, ("", []), ("", [("x-message-ttl", int(60000))])); }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for %q: received the value '60000' of type 'signedint' but current is none" (50, 10);
        string_argument_new: |c, n| { redeclare(c, n, ("", []), ("", [("x-dead-letter-exchange", text("dlx"))])); }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for %q: received the value 'dlx' of type 'longstr' but current is none" (50, 10);
        long_argument_missing: |c, n| { redeclare(c, n, ("", [("x-expires", long(600000))]), ("", [])); }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'x-expires' for %q: received none but current is the value '600000' of type 'long'" (50, 10);
        boolean_argument_missing: |c, n| { redeclare(c, n, ("", [("x-single-active-consumer", boolean(true))]), ("", [])); }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'x-single-active-consumer' for %q: received none but current is the value 'true' of type 'bool'" (50, 10);
        max_priority: |c, n| { redeclare(c, n, ("", [("x-max-priority", int(5))]), ("", [("x-max-priority", int(10))])); }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'x-max-priority' for %q: received '10' but current is '5'" (50, 10);
        overflow: |c, n| { redeclare(c, n, ("", [("x-overflow", text("drop-head"))]), ("", [("x-overflow", text("reject-publish"))])); }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'x-overflow' for %q: received 'reject-publish' but current is 'drop-head'" (50, 10);
        nowait_reports_too: |c, n| { redeclare(c, n, ("", []), ("durable nowait", [])); }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'durable' for %q: received 'true' but current is 'false'" (50, 10);
    }

    channel_errors! {
        type_of_classic: |c, n| {
            c.queue(n, "durable", table([]));
            let other = c.client.channel(2);
            other.send(&queue_declare(n, "durable", table([("x-queue-type", text("quorum"))])));
            other.expect_error(406, &expand("PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for %q: received 'quorum' but current is 'classic'", n), (50, 10));
            c.call(&queue_delete(n, ""));
            c.queue(n, "durable", table([("x-queue-type", text("quorum"))]));
            let other = c.client.channel(3);
            other.send(&queue_declare(n, "durable", table([("x-queue-type", text("classic"))])));
            other.expect_error(406, &expand("PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for %q: received 'classic' but current is 'quorum'", n), (50, 10));
            // The default type is filled in before the comparison.
            let other = c.client.channel(4);
            other.send(&queue_declare(n, "durable", table([])));
            other.expect_error(406, &expand("PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for %q: received 'classic' but current is 'quorum'", n), (50, 10));
            c.call(&queue_delete(n, ""));
            c.send(&queue_declare(n, "passive", table([])));
        } => 404 "NOT_FOUND - no %q" (50, 10);
    }
}

mod equivalent_queue {
    use super::support::*;

    /// Both declares succeed.
    #[track_caller]
    fn same<const N: usize, const M: usize>(
        first: (&str, [(&str, Value); N]),
        second: (&str, [(&str, Value); M]),
    ) {
        let client = Client::connect();
        let (channel, name) = (client.channel(1), name());
        channel.queue(&name, first.0, table(first.1));
        channel.queue(&name, second.0, table(second.1));
        channel.call(&queue_delete(&name, ""));
    }

    #[test]
    fn integers_of_all_widths() {
        same(
            ("", [("x-message-ttl", int(60000))]),
            ("", [("x-message-ttl", long(60000))]),
        );
        same(
            ("", [("x-max-length", Value::ShortShortInt(7))]),
            ("", [("x-max-length", Value::ShortUInt(7))]),
        );
        same(
            ("", [("x-max-length", Value::LongUInt(7))]),
            ("", [("x-max-length", Value::ShortInt(7))]),
        );
        same(
            ("", [("x-max-length", Value::ShortShortUInt(7))]),
            ("", [("x-max-length", int(7))]),
        );
    }

    #[test]
    fn unknown_arguments_are_not_compared() {
        same(
            ("", [("x-something", int(1))]),
            ("", [("x-something", int(2))]),
        );
        same(("", [("x-something", int(1))]), ("", []));
        same(("", []), ("", [("x-something", text("new"))]));
    }

    #[test]
    fn absent_type_is_classic() {
        same(("", []), ("", [("x-queue-type", text("classic"))]));
        same(("", [("x-queue-type", text("classic"))]), ("", []));
    }

    #[test]
    fn exclusive_queues_forget_durable() {
        same(("exclusive durable", []), ("exclusive", []));
        same(("exclusive", []), ("exclusive durable", []));
    }

    #[test]
    fn quorum_with_the_same_arguments() {
        let arguments = || {
            [
                ("x-queue-type", text("quorum")),
                ("x-delivery-limit", int(5)),
            ]
        };
        same(("durable", arguments()), ("durable", arguments()));
    }
}

mod inequivalent_exchange {
    use super::support::*;

    fn redeclare<const N: usize, const M: usize>(
        channel: &Channel,
        name: &str,
        first: (&str, &str, [(&str, Value); N]),
        second: (&str, &str, [(&str, Value); M]),
    ) -> Finally {
        channel.call(&exchange_declare(name, first.0, first.1, table(first.2)));
        channel.send(&exchange_declare(name, second.0, second.1, table(second.2)));
        Finally(exchange_delete(name, ""))
    }

    channel_errors! {
        kind: |c, n| { redeclare(c, n, ("direct", "", []), ("topic", "", [])) }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'type' for %x: received 'topic' but current is 'direct'" (40, 10);
        durable: |c, n| { redeclare(c, n, ("direct", "durable", []), ("direct", "", [])) }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'durable' for %x: received 'false' but current is 'true'" (40, 10);
        auto_delete: |c, n| { redeclare(c, n, ("direct", "", []), ("direct", "auto_delete", [])) }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'auto_delete' for %x: received 'true' but current is 'false'" (40, 10);
        internal: |c, n| { redeclare(c, n, ("direct", "", []), ("direct", "internal", [])) }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'internal' for %x: received 'true' but current is 'false'" (40, 10);
        kind_before_durable: |c, n| { redeclare(c, n, ("direct", "", []), ("fanout", "durable", [])) }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'type' for %x: received 'fanout' but current is 'direct'" (40, 10);
        durable_before_auto_delete: |c, n| { redeclare(c, n, ("direct", "", []), ("direct", "durable auto_delete", [])) }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'durable' for %x: received 'true' but current is 'false'" (40, 10);
        auto_delete_before_internal: |c, n| { redeclare(c, n, ("direct", "", []), ("direct", "internal auto_delete", [])) }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'auto_delete' for %x: received 'true' but current is 'false'" (40, 10);
        alternate_exchange_missing: |c, n| { redeclare(c, n, ("direct", "", [("alternate-exchange", text("ae"))]), ("direct", "", [])) }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for %x: received none but current is the value 'ae' of type 'longstr'" (40, 10);
        alternate_exchange_new: |c, n| { redeclare(c, n, ("direct", "", []), ("direct", "", [("alternate-exchange", text("ae"))])) }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for %x: received the value 'ae' of type 'longstr' but current is none" (40, 10);
        alternate_exchange_differs: |c, n| { redeclare(c, n, ("direct", "", [("alternate-exchange", text("a"))]), ("direct", "", [("alternate-exchange", text("b"))])) }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for %x: received 'b' but current is 'a'" (40, 10);
        predeclared: |c, _n| { c.send(&exchange_declare("amq.direct", "topic", "durable", table([]))); }
            => 406 "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'amq.direct' in vhost '/': received 'topic' but current is 'direct'" (40, 10);
    }

    #[test]
    fn other_arguments_are_not_compared() {
        let client = Client::connect();
        let (channel, name) = (client.channel(1), name());
        channel.call(&exchange_declare(
            &name,
            "direct",
            "",
            table([("x-a", int(1))]),
        ));
        channel.call(&exchange_declare(
            &name,
            "direct",
            "",
            table([("x-a", int(2))]),
        ));
        channel.call(&exchange_delete(&name, ""));
    }
}

/// One test per row: an argument of a new queue that is refused. 406, 50/10.
macro_rules! invalid_arguments {
    ($($rule:ident: $flags:literal [$($key:literal = $value:expr),*] => $text:literal;)*) => {$(
        #[test]
        fn $rule() {
            let client = Client::connect();
            let (channel, name) = (client.channel(1), name());
            channel.send(&queue_declare(&name, $flags, table([$(($key, $value)),*])));
            let text = concat!("PRECONDITION_FAILED - ", $text);
            channel.expect_error(406, &expand(text, &name), (50, 10));
            // Nothing was declared.
            channel.send(&queue_declare(&name, "passive", table([])));
            channel.expect_error(404, &expand("NOT_FOUND - no %q", &name), (50, 10));
        }
    )*};
}

mod invalid_classic_argument {
    use super::support::*;

    invalid_arguments! {
        message_ttl_string: "auto_delete" ["x-message-ttl" = text("abc")] => r#"invalid arg 'x-message-ttl' for %q: "expected integer, got longstr""#;
        message_ttl_negative: "auto_delete" ["x-message-ttl" = int(-1)] => "invalid arg 'x-message-ttl' for %q: {value_negative,-1}";
        message_ttl_too_large: "auto_delete" ["x-message-ttl" = long(315_360_000_001)] => "invalid arg 'x-message-ttl' for %q: {value_too_large,315360000001}";
        message_ttl_bool: "auto_delete" ["x-message-ttl" = boolean(true)] => r#"invalid arg 'x-message-ttl' for %q: "expected integer, got bool""#;
        message_ttl_double: "auto_delete" ["x-message-ttl" = Value::Double(1.5)] => r#"invalid arg 'x-message-ttl' for %q: "expected integer, got double""#;
        message_ttl_float: "auto_delete" ["x-message-ttl" = Value::Float(1.5)] => r#"invalid arg 'x-message-ttl' for %q: "expected integer, got float""#;
        message_ttl_timestamp: "auto_delete" ["x-message-ttl" = Value::Timestamp(1)] => r#"invalid arg 'x-message-ttl' for %q: "expected integer, got timestamp""#;
        message_ttl_void: "auto_delete" ["x-message-ttl" = Value::Void] => r#"invalid arg 'x-message-ttl' for %q: "expected integer, got void""#;
        message_ttl_table: "auto_delete" ["x-message-ttl" = Value::FieldTable(table([]))] => r#"invalid arg 'x-message-ttl' for %q: "expected integer, got table""#;
        message_ttl_array: "auto_delete" ["x-message-ttl" = array(vec![])] => r#"invalid arg 'x-message-ttl' for %q: "expected integer, got array""#;
        message_ttl_binary: "auto_delete" ["x-message-ttl" = bytes(b"1")] => r#"invalid arg 'x-message-ttl' for %q: "expected integer, got binary""#;
        expires_zero: "auto_delete" ["x-expires" = int(0)] => "invalid arg 'x-expires' for %q: {value_zero,0}";
        expires_negative: "auto_delete" ["x-expires" = int(-1)] => "invalid arg 'x-expires' for %q: {value_negative,-1}";
        expires_string: "auto_delete" ["x-expires" = text("1")] => r#"invalid arg 'x-expires' for %q: "expected integer, got longstr""#;
        expires_too_large: "auto_delete" ["x-expires" = long(315_360_000_001)] => "invalid arg 'x-expires' for %q: {value_too_large,315360000001}";
        max_length_negative: "auto_delete" ["x-max-length" = int(-1)] => "invalid arg 'x-max-length' for %q: {value_negative,-1}";
        max_length_string: "auto_delete" ["x-max-length" = text("1")] => r#"invalid arg 'x-max-length' for %q: "expected integer, got longstr""#;
        max_length_bytes_negative: "auto_delete" ["x-max-length-bytes" = int(-7)] => "invalid arg 'x-max-length-bytes' for %q: {value_negative,-7}";
        max_priority_negative: "auto_delete" ["x-max-priority" = int(-1)] => "invalid arg 'x-max-priority' for %q: {value_negative,-1}";
        max_priority_256: "auto_delete" ["x-max-priority" = int(256)] => "invalid arg 'x-max-priority' for %q: {max_value_exceeded,256}";
        max_priority_string: "auto_delete" ["x-max-priority" = text("5")] => r#"invalid arg 'x-max-priority' for %q: "expected integer, got longstr""#;
        overflow_unknown: "auto_delete" ["x-overflow" = text("foo")] => "invalid arg 'x-overflow' for %q: invalid_overflow";
        overflow_integer: "auto_delete" ["x-overflow" = int(1)] => "invalid arg 'x-overflow' for %q: {unacceptable_type,signedint}";
        single_active_consumer_string: "auto_delete" ["x-single-active-consumer" = text("true")] => "invalid arg 'x-single-active-consumer' for %q: {unacceptable_type,longstr}";
        dead_letter_exchange_integer: "auto_delete" ["x-dead-letter-exchange" = int(1)] => "invalid type 'signedint' for arg 'x-dead-letter-exchange' in %q";
        dead_letter_routing_key_alone: "auto_delete" ["x-dead-letter-routing-key" = text("rk")] => "invalid arg 'x-dead-letter-routing-key' for %q: routing_key_but_no_dlx_defined";
        dead_letter_routing_key_integer: "auto_delete" ["x-dead-letter-exchange" = text("x"), "x-dead-letter-routing-key" = int(1)] => "invalid arg 'x-dead-letter-routing-key' for %q: {unacceptable_type,signedint}";
        queue_type_unknown: "auto_delete" ["x-queue-type" = text("foo")] => r#"invalid arg 'x-queue-type' for %q: "unsupported queue type 'foo'""#;
        dead_letter_strategy: "auto_delete" ["x-dead-letter-strategy" = text("at-most-once")] => "invalid arg 'x-dead-letter-strategy' for %q of queue type rabbit_classic_queue";
        quorum_initial_group_size: "auto_delete" ["x-quorum-initial-group-size" = int(3)] => "invalid arg 'x-quorum-initial-group-size' for %q of queue type rabbit_classic_queue";
        max_age: "auto_delete" ["x-max-age" = text("1D")] => "invalid arg 'x-max-age' for %q of queue type rabbit_classic_queue";
        initial_cluster_size: "auto_delete" ["x-initial-cluster-size" = int(1)] => "invalid arg 'x-initial-cluster-size' for %q of queue type rabbit_classic_queue";
        stream_segment_size: "auto_delete" ["x-stream-max-segment-size-bytes" = int(1)] => "invalid arg 'x-stream-max-segment-size-bytes' for %q of queue type rabbit_classic_queue";
        leader_locator_unknown: "auto_delete" ["x-queue-leader-locator" = text("foo")] => "invalid arg 'x-queue-leader-locator' for %q: invalid_queue_locator_arg";
    }
}

mod invalid_quorum_argument {
    use super::support::*;

    invalid_arguments! {
        not_durable: "" ["x-queue-type" = text("quorum")] => "invalid property 'non-durable' for %q";
        auto_delete: "durable auto_delete" ["x-queue-type" = text("quorum")] => "invalid property 'auto-delete' for %q";
        exclusive: "durable exclusive" ["x-queue-type" = text("quorum")] => "invalid property 'exclusive-owner' for %q";
        auto_delete_before_exclusive: "exclusive auto_delete" ["x-queue-type" = text("quorum")] => "invalid property 'auto-delete' for %q";
        exclusive_before_durable: "exclusive" ["x-queue-type" = text("quorum")] => "invalid property 'exclusive-owner' for %q";
        max_priority: "durable" ["x-queue-type" = text("quorum"), "x-max-priority" = int(5)] => "invalid arg 'x-max-priority' for %q of queue type rabbit_quorum_queue";
        queue_mode: "durable" ["x-queue-type" = text("quorum"), "x-queue-mode" = text("lazy")] => "invalid arg 'x-queue-mode' for %q of queue type rabbit_quorum_queue";
        max_age: "durable" ["x-queue-type" = text("quorum"), "x-max-age" = text("1D")] => "invalid arg 'x-max-age' for %q of queue type rabbit_quorum_queue";
        group_size_zero: "durable" ["x-queue-type" = text("quorum"), "x-quorum-initial-group-size" = int(0)] => "invalid arg 'x-quorum-initial-group-size' for %q: {value_zero,0}";
        dead_letter_strategy_unknown: "durable" ["x-queue-type" = text("quorum"), "x-dead-letter-strategy" = text("foo")] => "invalid arg 'x-dead-letter-strategy' for %q: invalid_dlx_strategy";
        max_length_negative: "durable" ["x-queue-type" = text("quorum"), "x-max-length" = int(-1)] => "invalid arg 'x-max-length' for %q: {value_negative,-1}";
    }

    #[test]
    fn delivery_limit_string() {
        if elsewhere("4.0.5 takes any value") {
            return;
        }
        let (client, name) = (Client::connect(), name());
        let channel = client.channel(1);
        let arguments = table([
            ("x-queue-type", text("quorum")),
            ("x-delivery-limit", text("1")),
        ]);
        channel.send(&queue_declare(&name, "durable", arguments));
        let text = r#"PRECONDITION_FAILED - invalid arg 'x-delivery-limit' for %q: "expected integer, got longstr""#;
        channel.expect_error(406, &expand(text, &name), (50, 10));
    }

    #[test]
    fn server_named() {
        let client = Client::connect();
        let channel = client.channel(1);
        channel.send(&queue_declare(
            "",
            "durable",
            table([("x-queue-type", text("quorum"))]),
        ));
        let text = "PRECONDITION_FAILED - Cannot declare a server-named queue for type rabbit_quorum_queue";
        channel.expect_error(406, text, (50, 10));
    }
}

mod not_found {
    use super::support::*;

    channel_errors! {
        publish: |c, n| { c.publish(n, "k", "x"); } => 404 "NOT_FOUND - no %x" (60, 40);
        exchange_passive_declare: |c, n| { c.send(&exchange_declare(n, "direct", "passive", table([]))); } => 404 "NOT_FOUND - no %x" (40, 10);
        queue_passive_declare: |c, n| { c.send(&queue_declare(n, "passive", table([]))); } => 404 "NOT_FOUND - no %q" (50, 10);
        queue_passive_declare_nowait: |c, n| { c.send(&queue_declare(n, "passive nowait", table([]))); } => 404 "NOT_FOUND - no %q" (50, 10);
        consume_unknown: |c, n| { c.send(&consume(n, "t", "", table([]))); } => 404 "NOT_FOUND - no %q" (60, 20);
        consume_unknown_nowait: |c, n| { c.send(&consume(n, "t", "nowait", table([]))); } => 404 "NOT_FOUND - no %q" (60, 20);
        get_unknown: |c, n| { c.send(&get(n, "")); } => 404 "NOT_FOUND - no %q" (60, 70);
        purge_unknown: |c, n| { c.send(&queue_purge(n)); } => 404 "NOT_FOUND - no %q" (50, 30);
        bind_unknown_queue: |c, n| { c.send(&queue_bind(n, "amq.direct", "k", table([]))); } => 404 "NOT_FOUND - no %q" (50, 20);
        bind_unknown_exchange: |c, n| { c.own_queue(n); c.send(&queue_bind(n, n, "k", table([]))); } => 404 "NOT_FOUND - no %x" (50, 20);
        bind_both_unknown_names_the_source: |c, n| { c.send(&queue_bind(n, n, "k", table([]))); } => 404 "NOT_FOUND - no %x" (50, 20);
        exchange_bind_unknown_source: |c, n| { c.send(&exchange_bind("amq.direct", n, "k", table([]))); } => 404 "NOT_FOUND - no %x" (40, 30);
        exchange_bind_unknown_destination: |c, n| { c.send(&exchange_bind(n, "amq.direct", "k", table([]))); } => 404 "NOT_FOUND - no %x" (40, 30);
        exchange_bind_both_unknown_names_the_source: |c, n| { c.send(&exchange_bind("nowhere", n, "k", table([]))); } => 404 "NOT_FOUND - no %x" (40, 30);
        consume_without_current_queue: |c, _n| { c.send(&consume("", "t", "", table([]))); } => 404 "NOT_FOUND - no previously declared queue" (60, 20);
        get_without_current_queue: |c, _n| { c.send(&get("", "")); } => 404 "NOT_FOUND - no previously declared queue" (60, 70);
        purge_without_current_queue: |c, _n| { c.send(&queue_purge("")); } => 404 "NOT_FOUND - no previously declared queue" (50, 30);
        delete_without_current_queue: |c, _n| { c.send(&queue_delete("", "")); } => 404 "NOT_FOUND - no previously declared queue" (50, 40);
        bind_without_current_queue: |c, _n| { c.send(&queue_bind("", "amq.direct", "k", table([]))); } => 404 "NOT_FOUND - no previously declared queue" (50, 20);
        bind_without_current_queue_and_key: |c, _n| { c.send(&queue_bind("", "amq.direct", "", table([]))); } => 404 "NOT_FOUND - no previously declared queue" (50, 20);
        unbind_without_current_queue: |c, _n| { c.send(&queue_unbind("", "amq.direct", "k", table([]))); } => 404 "NOT_FOUND - no previously declared queue" (50, 50);
        reply_to_token: |c, _n| { c.send(&queue_declare("amq.rabbitmq.reply-to.bogus", "passive", table([]))); }
            => 404 "NOT_FOUND - no queue 'amq.rabbitmq.reply-to.bogus' in vhost '/'" (50, 10);
    }
}

mod access_refused {
    use super::support::*;

    channel_errors! {
        reserved_queue_name: |c, _n| { c.send(&queue_declare("amq.foo", "", table([]))); } => 403 "ACCESS_REFUSED - queue name 'amq.foo' contains reserved prefix 'amq.*'" (50, 10);
        reserved_queue_name_of_an_existing_queue: |c, _n| {
            let name = c.queue("", "exclusive", table([])).queue.to_string();
            c.queue(&name, "passive exclusive", table([]));
            let other = c.client.channel(2);
            other.send(&queue_declare(&name, "exclusive", table([])));
            other.expect_error(403, &format!("ACCESS_REFUSED - queue name '{name}' contains reserved prefix 'amq.*'"), (50, 10));
            c.send(&queue_declare("amq.", "exclusive", table([])));
        } => 403 "ACCESS_REFUSED - queue name 'amq.' contains reserved prefix 'amq.*'" (50, 10);
        reserved_exchange_name: |c, _n| { c.send(&exchange_declare("amq.foo", "direct", "", table([]))); } => 403 "ACCESS_REFUSED - exchange name 'amq.foo' contains reserved prefix 'amq.*'" (40, 10);
        declare_default_exchange: |c, _n| { c.send(&exchange_declare("", "direct", "durable", table([]))); } => 403 "ACCESS_REFUSED - operation not permitted on the default exchange" (40, 10);
        declare_default_exchange_passive: |c, _n| { c.send(&exchange_declare("", "direct", "passive", table([]))); } => 403 "ACCESS_REFUSED - operation not permitted on the default exchange" (40, 10);
        delete_default_exchange: |c, _n| { c.send(&exchange_delete("", "")); } => 403 "ACCESS_REFUSED - operation not permitted on the default exchange" (40, 20);
        bind_to_default_exchange: |c, n| { c.own_queue(n); c.send(&queue_bind(n, "", "k", table([]))); } => 403 "ACCESS_REFUSED - operation not permitted on the default exchange" (50, 20);
        unbind_from_default_exchange: |c, n| { c.own_queue(n); c.send(&queue_unbind(n, "", n, table([]))); } => 403 "ACCESS_REFUSED - operation not permitted on the default exchange" (50, 50);
        exchange_bind_source_default: |c, _n| { c.send(&exchange_bind("amq.direct", "", "k", table([]))); } => 403 "ACCESS_REFUSED - operation not permitted on the default exchange" (40, 30);
        exchange_bind_destination_default: |c, _n| { c.send(&exchange_bind("", "amq.direct", "k", table([]))); } => 403 "ACCESS_REFUSED - operation not permitted on the default exchange" (40, 30);
        exchange_unbind_default: |c, _n| { c.send(&exchange_unbind("", "amq.direct", "k", table([]))); } => 403 "ACCESS_REFUSED - operation not permitted on the default exchange" (40, 40);
        delete_system_exchange: |c, _n| { c.send(&exchange_delete("amq.direct", "")); } => 403 "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed" (40, 20);
        delete_missing_system_exchange: |c, _n| { c.send(&exchange_delete("amq.nothing", "")); } => 403 "ACCESS_REFUSED - deletion of system exchange 'amq.nothing' in vhost '/' not allowed" (40, 20);
        publish_to_internal: |c, n| {
            c.call(&exchange_declare(n, "fanout", "internal", table([])));
            c.publish(n, "k", "x");
            c.expect_error(403, &expand("ACCESS_REFUSED - cannot publish to internal %x", n), (60, 40));
            c.call(&exchange_delete(n, ""));
            c.publish("amq.rabbitmq.trace", "k", "x");
        } => 403 "ACCESS_REFUSED - cannot publish to internal exchange 'amq.rabbitmq.trace' in vhost '/'" (60, 40);
        consume_beside_exclusive_consumer: |c, n| {
            c.own_queue(n);
            c.client.channel(2).consume(n, "one", "exclusive");
            c.send(&consume(n, "two", "", table([])));
        } => 403 "ACCESS_REFUSED - %q in exclusive use" (60, 20);
        exclusive_consume_beside_consumer: |c, n| {
            c.own_queue(n);
            c.client.channel(2).consume(n, "one", "");
            c.send(&consume(n, "two", "exclusive", table([])));
        } => 403 "ACCESS_REFUSED - %q in exclusive use" (60, 20);
        exclusive_consume_of_single_active: |c, n| {
            c.queue(n, "exclusive", table([("x-single-active-consumer", boolean(true))]));
            c.send(&consume(n, "one", "exclusive", table([])));
        } => 403 "ACCESS_REFUSED - %q in exclusive use" (60, 20);
    }
}

mod resource_locked {
    use super::support::*;

    /// Another connection than the owner's does this to an exclusive queue.
    #[track_caller]
    fn refused(
        class_method: (u16, u16),
        method: impl Fn(&str) -> amq_protocol::protocol::AMQPClass,
    ) {
        let (owner, other, name) = (Client::connect(), Client::connect(), name());
        owner.channel(1).own_queue(&name);
        owner.unopened(1).bind(&name, "amq.direct", &name);
        let channel = other.channel(1);
        channel.send(&method(&name));
        let text = "RESOURCE_LOCKED - cannot obtain exclusive access to locked %q. It could be originally declared on another \
                    connection or the exclusive property value does not match that of the original declaration.";
        channel.expect_error(405, &expand(text, &name), class_method);
        owner.channel(2).flow();
    }

    #[test]
    fn declare() {
        refused((50, 10), |name| queue_declare(name, "exclusive", table([])));
    }

    #[test]
    fn declare_not_exclusive() {
        refused((50, 10), |name| queue_declare(name, "", table([])));
    }

    #[test]
    fn passive_declare() {
        refused((50, 10), |name| queue_declare(name, "passive", table([])));
    }

    #[test]
    fn basic_consume() {
        refused((60, 20), |name| consume(name, "", "", table([])));
    }

    #[test]
    fn basic_get() {
        refused((60, 70), |name| get(name, ""));
    }

    #[test]
    fn purge() {
        refused((50, 30), queue_purge);
    }

    #[test]
    fn delete() {
        refused((50, 40), |name| queue_delete(name, ""));
    }

    #[test]
    fn bind() {
        refused((50, 20), |name| {
            queue_bind(name, "amq.direct", "k", table([]))
        });
    }

    #[test]
    fn unbind() {
        // The binding exists: unbinding a missing one is never an error.
        refused((50, 50), |name| {
            queue_unbind(name, "amq.direct", name, table([]))
        });
    }

    #[test]
    fn the_owner_redeclares_without_the_flag() {
        let (owner, name) = (Client::connect(), name());
        let channel = owner.channel(1);
        channel.own_queue(&name);
        channel.send(&queue_declare(&name, "", table([])));
        let text = "RESOURCE_LOCKED - cannot obtain exclusive access to locked %q. It could be originally declared on another \
                    connection or the exclusive property value does not match that of the original declaration.";
        channel.expect_error(405, &expand(text, &name), (50, 10));
    }

    #[test]
    fn a_shared_queue_is_redeclared_exclusive() {
        let (client, name) = (Client::connect(), name());
        let channel = client.channel(1);
        channel.queue(&name, "auto_delete", table([]));
        channel.send(&queue_declare(&name, "exclusive auto_delete", table([])));
        let text = "RESOURCE_LOCKED - cannot obtain exclusive access to locked %q. It could be originally declared on another \
                    connection or the exclusive property value does not match that of the original declaration.";
        channel.expect_error(405, &expand(text, &name), (50, 10));
        channel.call(&queue_delete(&name, ""));
    }

    #[test]
    fn get_from_quorum_single_active() {
        // 4.2 and later print the type as a term; the plain word is of 4.0 and 4.1.
        let (client, name) = (Client::connect(), name());
        let channel = client.channel(1);
        channel.queue(
            &name,
            "durable",
            table([
                ("x-queue-type", text("quorum")),
                ("x-single-active-consumer", boolean(true)),
            ]),
        );
        channel.send(&get(&name, ""));
        let expected = "RESOURCE_LOCKED - cannot obtain access to locked %q. basic.get operations are not supported by quorum queues \
                        with single active consumer";
        channel.expect_error(405, &expand(expected, &name), (60, 70));
        channel.call(&queue_delete(&name, ""));
    }

    #[test]
    fn publishing_is_open_to_all() {
        let (owner, other, name) = (Client::connect(), Client::connect(), name());
        owner.channel(1).own_queue(&name);
        other.put(&name, "hello");
        assert_eq!(owner.channel(2).drain(&name), ["hello"]);
    }
}

mod precondition_failed {
    use super::support::*;

    fn with(properties: BasicProperties) -> impl Fn(&Channel) {
        move |channel| channel.publish_with("amq.direct", "nowhere", "", &properties, "x")
    }

    fn expiring(expiration: &str) -> impl Fn(&Channel) {
        with(plain().with_expiration(expiration.into()))
    }

    channel_errors! {
        exchange_type_unknown: |c, n| { c.send(&exchange_declare(n, "no-such-type", "", table([]))); } => 406 "PRECONDITION_FAILED - unknown exchange type 'no-such-type'" (40, 10);
        alternate_exchange_integer: |c, n| { c.send(&exchange_declare(n, "direct", "", table([("alternate-exchange", int(1))]))); } => 406 "PRECONDITION_FAILED - invalid type 'signedint' for arg 'alternate-exchange' in %x" (40, 10);
        exchange_delete_in_use: |c, n| {
            c.own_queue(n);
            c.exchange(n, "direct");
            c.bind(n, n, "k");
            c.send(&exchange_delete(n, "if_unused"));
        } => 406 "PRECONDITION_FAILED - %x in use" (40, 20);
        queue_delete_in_use: |c, n| {
            c.own_queue(n);
            c.client.channel(2).consume(n, "t", "");
            c.send(&queue_delete(n, "if_unused"));
        } => 406 "PRECONDITION_FAILED - %q in use" (50, 40);
        queue_delete_not_empty: |c, n| {
            c.own_queue(n);
            c.client.put(n, "x");
            c.send(&queue_delete(n, "if_empty"));
        } => 406 "PRECONDITION_FAILED - %q not empty" (50, 40);
        queue_delete_not_empty_nowait: |c, n| {
            c.own_queue(n);
            c.client.put(n, "x");
            c.send(&queue_delete(n, "if_empty nowait"));
        } => 406 "PRECONDITION_FAILED - %q not empty" (50, 40);
        ack_unknown: |c, _n| { c.send(&ack(82, "")); } => 406 "PRECONDITION_FAILED - unknown delivery tag 82" (60, 80);
        ack_zero: |c, _n| { c.send(&ack(0, "")); } => 406 "PRECONDITION_FAILED - unknown delivery tag 0" (60, 80);
        ack_multiple_unknown: |c, _n| { c.send(&ack(82, "multiple")); } => 406 "PRECONDITION_FAILED - unknown delivery tag 82" (60, 80);
        ack_largest: |c, _n| { c.send(&ack(u64::MAX, "")); } => 406 "PRECONDITION_FAILED - unknown delivery tag 18446744073709551615" (60, 80);
        ack_twice: |c, n| {
            c.own_queue(n);
            c.client.put(n, "x");
            assert_eq!(c.get(n, "").unwrap().tag, 1);
            c.send(&ack(1, ""));
            c.send(&ack(1, ""));
        } => 406 "PRECONDITION_FAILED - unknown delivery tag 1" (60, 80);
        ack_of_no_ack_delivery: |c, n| {
            c.own_queue(n);
            c.client.put(n, "x");
            assert_eq!(c.get(n, "no_ack").unwrap().tag, 1);
            c.send(&ack(1, ""));
        } => 406 "PRECONDITION_FAILED - unknown delivery tag 1" (60, 80);
        ack_of_another_channel: |c, n| {
            c.own_queue(n);
            c.client.put(n, "x");
            assert_eq!(c.client.channel(2).get(n, "").unwrap().tag, 1);
            c.send(&ack(1, ""));
        } => 406 "PRECONDITION_FAILED - unknown delivery tag 1" (60, 80);
        nack_unknown: |c, _n| { c.send(&nack(7, "")); } => 406 "PRECONDITION_FAILED - unknown delivery tag 7" (60, 120);
        nack_multiple_unknown: |c, _n| { c.send(&nack(7, "multiple requeue")); } => 406 "PRECONDITION_FAILED - unknown delivery tag 7" (60, 120);
        reject_unknown: |c, _n| { c.send(&reject(9, "requeue")); } => 406 "PRECONDITION_FAILED - unknown delivery tag 9" (60, 90);
        expiration_word: |c, _n| { expiring("abc")(c); } => 406 "PRECONDITION_FAILED - invalid expiration 'abc': no_integer" (60, 40);
        expiration_rest: |c, _n| { expiring("10x")(c); } => 406 r#"PRECONDITION_FAILED - invalid expiration '10x': {leftover_string,"x"}"# (60, 40);
        expiration_fraction: |c, _n| { expiring("1.5")(c); } => 406 r#"PRECONDITION_FAILED - invalid expiration '1.5': {leftover_string,".5"}"# (60, 40);
        expiration_negative: |c, _n| { expiring("-1")(c); } => 406 "PRECONDITION_FAILED - invalid expiration '-1': {value_negative,-1}" (60, 40);
        expiration_too_large: |c, _n| { expiring("999999999999")(c); } => 406 "PRECONDITION_FAILED - invalid expiration '999999999999': {value_too_large,999999999999}" (60, 40);
        expiration_empty: |c, _n| { expiring("")(c); } => 406 "PRECONDITION_FAILED - invalid expiration '': no_integer" (60, 40);
        expiration_space: |c, _n| { expiring(" 1")(c); } => 406 "PRECONDITION_FAILED - invalid expiration ' 1': no_integer" (60, 40);
        user_id_of_somebody_else: |c, _n| { with(plain().with_user_id("bob".into()))(c); } => 406 "PRECONDITION_FAILED - user_id property set to 'bob' but authenticated user was 'guest'" (60, 40);
        user_id_empty: |c, _n| { with(plain().with_user_id("".into()))(c); } => 406 "PRECONDITION_FAILED - user_id property set to '' but authenticated user was 'guest'" (60, 40);
        cc_string: |c, _n| { with(headers([("CC", text("q"))]))(c); } => 406 r#"PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,"CC",longstr}"# (60, 40);
        bcc_integer: |c, _n| { with(headers([("BCC", int(1))]))(c); } => 406 r#"PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,"BCC",signedint}"# (60, 40);
        confirm_after_tx: |c, _n| { c.call(&tx_select()); c.send(&confirm_select()); } => 406 "PRECONDITION_FAILED - cannot switch from tx to confirm mode" (85, 10);
        tx_after_confirm: |c, _n| { c.call(&confirm_select()); c.send(&tx_select()); } => 406 "PRECONDITION_FAILED - cannot switch from confirm to tx mode" (90, 10);
        commit_without_select: |c, _n| { c.send(&tx_commit()); } => 406 "PRECONDITION_FAILED - channel is not transactional" (90, 20);
        rollback_without_select: |c, _n| { c.send(&tx_rollback()); } => 406 "PRECONDITION_FAILED - channel is not transactional" (90, 30);
        partial_tx_completion: |c, n| {
            c.queue(n, "exclusive", table([("x-max-length", int(1)), ("x-overflow", text("reject-publish"))]));
            c.client.put(n, "full");
            c.call(&tx_select());
            c.publish("", n, "too much");
            c.send(&tx_commit());
        } => 406 "PRECONDITION_FAILED - partial tx completion" (90, 20);
        reply_consumer_with_ack: |c, _n| { c.send(&consume("amq.rabbitmq.reply-to", "", "", table([]))); } => 406 "PRECONDITION_FAILED - reply consumer cannot acknowledge" (60, 20);
        reply_consumer_twice: |c, _n| {
            c.consume("amq.rabbitmq.reply-to", "", "no_ack");
            c.send(&consume("amq.rabbitmq.reply-to", "", "no_ack", table([])));
        } => 406 "PRECONDITION_FAILED - reply consumer already set" (60, 20);
        reply_to_without_consumer: |c, _n| { with(plain().with_reply_to("amq.rabbitmq.reply-to".into()))(c); } => 406 "PRECONDITION_FAILED - fast reply consumer does not exist" (60, 40);
        x_match_unknown: |c, n| { c.own_queue(n); c.send(&queue_bind(n, "amq.headers", "", table([("x-match", text("foo"))]))); }
            => 406 r#"PRECONDITION_FAILED - Invalid x-match field value <<"foo">>; expected all, any, all-with-x, or any-with-x"# (50, 20);
        x_match_integer: |c, n| { c.own_queue(n); c.send(&queue_bind(n, "amq.headers", "", table([("x-match", int(1))]))); }
            => 406 "PRECONDITION_FAILED - Invalid x-match field type signedint (value 1); expected longstr" (50, 20);
        consumer_priority_string: |c, n| { c.own_queue(n); c.send(&consume(n, "t", "", table([("x-priority", text("1"))]))); }
            => 406 r#"PRECONDITION_FAILED - invalid arg 'x-priority' for %q: "expected integer, got longstr""# (60, 20);
        stream_offset_on_classic: |c, n| { c.own_queue(n); c.send(&consume(n, "t", "", table([("x-stream-offset", text("first"))]))); }
            => 406 "PRECONDITION_FAILED - invalid arg 'x-stream-offset' for %q of queue type rabbit_classic_queue" (60, 20);
        stream_filter_on_classic: |c, n| { c.own_queue(n); c.send(&consume(n, "t", "", table([("x-stream-filter", text("f"))]))); }
            => 406 "PRECONDITION_FAILED - invalid arg 'x-stream-filter' for %q of queue type rabbit_classic_queue" (60, 20);
        local_random_binding_key: |c, n| {
            c.own_queue(n);
            c.exchange(n, "x-local-random");
            c.send(&queue_bind(n, n, "rk", table([])));
        } => 406 "PRECONDITION_FAILED - Non empty binding 'rk' key not permitted" (50, 20);
    }

    #[test]
    fn body_above_the_maximum_size() {
        // The limit is the default of 16 MiB; the message must arrive whole before it is refused.
        let client = Client::connect();
        let channel = client.channel(1);
        channel.publish("amq.fanout", "", vec![0; 16_777_217]);
        let text = "PRECONDITION_FAILED - message size 16777217 is larger than configured max size 16777216";
        channel.expect_error(406, text, (60, 40));
    }

    #[test]
    fn body_of_the_maximum_size() {
        let (client, name) = (Client::connect(), name());
        client.channel(1).own_queue(&name);
        client.put(&name, vec![7; 16_777_216]);
        assert_eq!(
            client.channel(2).get(&name, "no_ack").unwrap().body.len(),
            16_777_216
        );
    }
}

mod stream_queues {
    use super::support::*;

    #[test]
    fn are_refused_with_a_clear_text() {
        // [MambaMQ] has no streams yet; RabbitMQ has.
        if elsewhere("streams exist there") {
            return;
        }
        let (client, name) = (Client::connect(), name());
        let channel = client.channel(1);
        channel.send(&queue_declare(
            &name,
            "durable",
            table([("x-queue-type", text("stream"))]),
        ));
        let event = client.event(1);
        let shown = format!("{event:?}");
        assert!(
            shown.contains("stream"),
            "the text names what is refused: {shown}"
        );
        assert!(shown.contains("Close"), "a close: {shown}");
    }
}

mod connection_errors {
    use super::support::*;

    connection_errors! {
        consumer_tag_reused: |c, n| { c.own_queue(n); c.consume(n, "ctag", ""); c.send(&consume(n, "ctag", "", table([]))); }
            => 530 "NOT_ALLOWED - attempt to reuse consumer tag 'ctag'" (60, 20);
        consumer_tag_reused_on_a_missing_queue: |c, n| { c.own_queue(n); c.consume(n, "ctag", ""); c.send(&consume("no-such-queue", "ctag", "", table([]))); }
            => 530 "NOT_ALLOWED - attempt to reuse consumer tag 'ctag'" (60, 20);
        immediate: |c, n| { c.publish_with("", n, "immediate", &plain(), "x"); } => 540 "NOT_IMPLEMENTED - immediate=true" (60, 40);
        immediate_before_not_found: |c, n| { c.publish_with(n, n, "immediate", &plain(), "x"); } => 540 "NOT_IMPLEMENTED - immediate=true" (60, 40);
        prefetch_size: |c, _n| { c.client.raw(&frame(1, 1, &[0, 60, 0, 10, 0, 0, 0, 5, 0, 1, 0])); } => 540 "NOT_IMPLEMENTED - prefetch_size!=0 (5)" (60, 10);
        recover_without_requeue: |c, _n| { c.send(&recover("")); } => 540 "NOT_IMPLEMENTED - requeue=false" (60, 110);
        recover_async_without_requeue: |c, _n| { c.send(&recover_async("")); } => 540 "NOT_IMPLEMENTED - requeue=false" (60, 100);
        flow_inactive: |c, _n| { c.send(&channel_flow(false)); } => 540 "NOT_IMPLEMENTED - active=false" (20, 20);
        quorum_global_qos: |c, n| {
            c.queue(n, "durable", table([("x-queue-type", text("quorum"))]));
            c.call(&qos(5, "global"));
            c.send(&consume(n, "t", "", table([])));
            Finally(queue_delete(n, ""))
        } => 540 "NOT_IMPLEMENTED - %q does not support global qos" (60, 20);
        quorum_delete_if_unused: |c, n| {
            c.queue(n, "durable", table([("x-queue-type", text("quorum"))]));
            c.send(&queue_delete(n, "if_unused"));
            Finally(queue_delete(n, ""))
        } => 540 "NOT_IMPLEMENTED - cannot delete %q. queue.delete operations with if-unused flag set are not supported by quorum queues" (50, 40);
        quorum_delete_if_empty: |c, n| {
            c.queue(n, "durable", table([("x-queue-type", text("quorum"))]));
            c.send(&queue_delete(n, "if_empty"));
            Finally(queue_delete(n, ""))
        } => 540 "NOT_IMPLEMENTED - cannot delete %q. queue.delete operations with if-empty flag set are not supported by quorum queues" (50, 40);
        channel_not_opened: |c, n| { c.client.send(2, &queue_declare(n, "", table([]))); } => 504 "CHANNEL_ERROR - expected 'channel.open'" (50, 10);
        channel_opened_twice: |c, _n| { c.send(&channel_open()); } => 504 "CHANNEL_ERROR - second 'channel.open' seen" (20, 10);
        method_of_servers_declare_ok: |c, _n| { c.client.raw(&frame(1, 1, &[0, 50, 0, 11, 1, b'q', 0, 0, 0, 0, 0, 0, 0, 0])); } => 503 "COMMAND_INVALID - unimplemented method" (50, 11);
        method_of_servers_flow_ok: |c, _n| { c.client.raw(&frame(1, 1, &[0, 20, 0, 21, 1])); } => 503 "COMMAND_INVALID - unimplemented method" (20, 21);
        method_of_servers_get_empty: |c, _n| { c.client.raw(&frame(1, 1, &[0, 60, 0, 72, 0])); } => 503 "COMMAND_INVALID - unimplemented method" (60, 72);
        close_ok_on_a_running_channel: |c, _n| { c.send(&channel_close_ok()); } => 503 "COMMAND_INVALID - unimplemented method" (20, 41);
        open_in_running: |c, _n| { c.client.send(0, &connection_open("/")); } => 504 "CHANNEL_ERROR - unexpected method in connection state running" (10, 40);
        tune_ok_in_running: |c, _n| { c.client.send(0, &tune_ok(0, 4096, 0)); } => 504 "CHANNEL_ERROR - unexpected method in connection state running" (10, 31);
        close_ok_in_running: |c, _n| { c.client.send(0, &connection_close_ok()); } => 504 "CHANNEL_ERROR - unexpected method in connection state running" (10, 51);
    }

    #[test]
    fn a_consumer_tag_belongs_to_its_channel() {
        let (client, name) = (Client::connect(), name());
        client.channel(1).own_queue(&name);
        client.unopened(1).consume(&name, "same", "");
        client.channel(2).consume(&name, "same", "");
    }

    #[test]
    fn other_connections_are_not_disturbed() {
        let (bystander, sinner) = (Client::connect(), Client::connect());
        let channel = bystander.channel(1);
        sinner.channel(1).send(&channel_open());
        sinner.expect_error(504, "CHANNEL_ERROR - second 'channel.open' seen", (20, 10));
        channel.flow();
    }
}

mod no_error {
    use super::support::*;
    use amq_protocol::protocol::{AMQPClass, basic, channel, queue};

    fn setup() -> (Client, Channel, String) {
        let client = Client::connect();
        let channel = client.channel(1);
        (client, channel, name())
    }

    #[track_caller]
    fn delete_ok(answer: &AMQPClass, expected: u32) {
        let AMQPClass::Queue(queue::AMQPMethod::DeleteOk(ok)) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(ok.message_count, expected);
    }

    #[test]
    fn delete_of_a_missing_queue() {
        let (_client, channel, name) = setup();
        for flags in ["", "if_unused", "if_empty", "if_unused if_empty"] {
            delete_ok(&channel.call(&queue_delete(&name, flags)), 0);
        }
    }

    #[test]
    fn delete_of_a_missing_exchange() {
        let (_client, channel, name) = setup();
        channel.call(&exchange_delete(&name, ""));
        channel.call(&exchange_delete(&name, "if_unused"));
    }

    #[test]
    fn unbind_of_what_is_missing() {
        let (_client, channel, name) = setup();
        channel.call(&queue_unbind(&name, "amq.direct", "k", table([])));
        channel.call(&queue_unbind(&name, &name, "k", table([])));
        channel.own_queue(&name);
        channel.call(&queue_unbind(&name, "amq.direct", "k", table([])));
        channel.call(&queue_unbind(&name, "no-such-exchange", "k", table([])));
        channel.call(&exchange_unbind("amq.direct", &name, "k", table([])));
        channel.call(&exchange_unbind(&name, "amq.direct", "k", table([])));
        channel.call(&exchange_unbind(
            "amq.topic",
            "amq.direct",
            &name,
            table([]),
        ));
    }

    #[test]
    fn cancel_of_an_unknown_tag() {
        let (_client, channel, _) = setup();
        let answer = channel.call(&cancel("nobody", ""));
        let AMQPClass::Basic(basic::AMQPMethod::CancelOk(ok)) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(ok.consumer_tag.as_str(), "nobody");
    }

    #[test]
    fn the_same_binding_twice() {
        let (client, channel, name) = setup();
        channel.own_queue(&name);
        channel.bind(&name, "amq.direct", &name);
        channel.bind(&name, "amq.direct", &name);
        client.put_with("amq.direct", &name, &plain(), "once");
        assert_eq!(channel.drain(&name), ["once"]);
        channel.call(&queue_unbind(&name, "amq.direct", &name, table([])));
        client.put_with("amq.direct", &name, &plain(), "unbound");
        assert_eq!(channel.ready(&name), 0);
    }

    #[test]
    fn publish_without_matching_binding() {
        let (client, _channel, name) = setup();
        client.put_with("amq.direct", &name, &plain(), "dropped");
        client.put(&name, "dropped");
    }

    #[test]
    fn unknown_arguments() {
        let (_client, channel, name) = setup();
        channel.queue(
            &name,
            "exclusive",
            table([("x-unheard-of", int(1)), ("other", text("value"))]),
        );
        channel.consume_with(&name, "", "", table([("x-unheard-of", int(1))]));
        channel.call(&exchange_declare(
            &name,
            "direct",
            "auto_delete",
            table([("x-unheard-of", boolean(true))]),
        ));
        channel.call(&exchange_delete(&name, ""));
    }

    #[test]
    fn delivery_modes_other_than_1_and_2() {
        let (client, channel, name) = setup();
        channel.own_queue(&name);
        for mode in [0, 3, 255] {
            client.put_with("", &name, &plain().with_delivery_mode(mode), "x");
        }
        assert_eq!(channel.drain(&name).len(), 3);
    }

    #[test]
    fn priority_above_the_maximum() {
        let (client, channel, name) = setup();
        channel.queue(&name, "exclusive", table([("x-max-priority", int(2))]));
        client.put_with("", &name, &plain().with_priority(2), "two");
        client.put_with("", &name, &plain().with_priority(255), "capped");
        client.put_with("", &name, &plain().with_priority(1), "one");
        assert_eq!(channel.drain(&name), ["two", "capped", "one"]);
    }

    #[test]
    fn no_local() {
        let (client, channel, name) = setup();
        channel.own_queue(&name);
        channel.consume(&name, "", "no_local");
        client.put(&name, "from here");
        assert_eq!(channel.bodies(1), ["from here"]);
    }

    #[test]
    fn ack_of_everything_with_nothing_outstanding() {
        let (_client, channel, _) = setup();
        channel.send(&ack(0, "multiple"));
        channel.send(&nack(0, "multiple"));
        channel.flow();
    }

    #[test]
    fn select_twice() {
        let (client, channel, name) = setup();
        channel.call(&confirm_select());
        channel.publish("", &name, "x");
        assert!(channel.confirms(1, 1)[&1]);
        channel.call(&confirm_select());
        channel.publish("", &name, "x");
        assert!(channel.confirms(2, 2)[&2]);
        let transactional = client.channel(2);
        transactional.call(&tx_select());
        transactional.call(&tx_select());
        transactional.call(&tx_commit());
    }

    #[test]
    fn flow_active() {
        let (_client, channel, _) = setup();
        let answer = channel.call(&channel_flow(true));
        let AMQPClass::Channel(channel::AMQPMethod::FlowOk(ok)) = answer else {
            panic!("{answer:?}")
        };
        assert!(ok.active);
    }

    #[test]
    fn expirations() {
        let (client, channel, name) = setup();
        channel.own_queue(&name);
        for expiration in ["600000", "+600000", "0600000", "315360000000"] {
            client.put_with(
                "",
                &name,
                &plain().with_expiration(expiration.into()),
                expiration,
            );
            let got = channel.get(&name, "no_ack").expect("a message");
            // RabbitMQ 4.0 writes the number anew, without sign and leading zeros.
            let kept = got
                .properties
                .expiration()
                .as_ref()
                .map(|text| text.to_string())
                .expect("kept");
            assert_eq!(kept.parse::<u64>().ok(), expiration.parse::<u64>().ok());
        }
    }

    #[test]
    fn user_id_of_the_user() {
        let (client, channel, name) = setup();
        channel.own_queue(&name);
        client.put_with("", &name, &plain().with_user_id("guest".into()), "x");
        let got = channel.get(&name, "no_ack").expect("a message");
        assert_eq!(
            got.properties.user_id().as_ref().map(|text| text.as_str()),
            Some("guest")
        );
    }

    #[test]
    fn cancel_ok_from_the_client() {
        if elsewhere("4.0.5 answers 503") {
            return;
        }
        let (_client, channel, _) = setup();
        channel.send(&AMQPClass::Basic(basic::AMQPMethod::CancelOk(
            basic::CancelOk {
                consumer_tag: "t".into(),
            },
        )));
        channel.flow();
    }

    #[test]
    fn nowait_says_nothing() {
        let (client, channel, name) = setup();
        channel.send(&queue_declare(&name, "exclusive nowait", table([])));
        channel.send(&exchange_declare(&name, "direct", "nowait", table([])));
        channel.send(&consume(&name, "t", "nowait", table([])));
        channel.send(&cancel("t", "nowait"));
        channel.send(&exchange_delete(&name, "nowait"));
        channel.send(&queue_delete(&name, "nowait"));
        channel.expect_nothing();
        client.close();
    }
}

mod order_of_checks {
    use super::support::*;

    channel_errors! {
        exchange_type_before_default_exchange: |c, _n| { c.send(&exchange_declare("", "no-such-type", "", table([]))); } => 406 "PRECONDITION_FAILED - unknown exchange type 'no-such-type'" (40, 10);
        exchange_type_before_reserved_name: |c, _n| { c.send(&exchange_declare("amq.foo", "no-such-type", "", table([]))); } => 406 "PRECONDITION_FAILED - unknown exchange type 'no-such-type'" (40, 10);
        reserved_name_before_alternate_exchange: |c, _n| { c.send(&exchange_declare("amq.foo", "direct", "", table([("alternate-exchange", int(1))]))); } => 403 "ACCESS_REFUSED - exchange name 'amq.foo' contains reserved prefix 'amq.*'" (40, 10);
        default_exchange_before_missing_queue: |c, n| { c.send(&queue_bind(n, "", "k", table([]))); } => 403 "ACCESS_REFUSED - operation not permitted on the default exchange" (50, 20);
        no_current_queue_before_default_exchange: |c, _n| { c.send(&queue_bind("", "", "k", table([]))); } => 404 "NOT_FOUND - no previously declared queue" (50, 20);
        missing_queue_before_binding_arguments: |c, n| { c.send(&queue_bind(n, "amq.headers", "", table([("x-match", text("foo"))]))); } => 404 "NOT_FOUND - no %q" (50, 20);
        reserved_queue_name_before_arguments: |c, _n| { c.send(&queue_declare("amq.foo", "", table([("x-expires", int(0))]))); } => 403 "ACCESS_REFUSED - queue name 'amq.foo' contains reserved prefix 'amq.*'" (50, 10);
        dead_letter_type_before_queue_type: |c, n| { c.send(&queue_declare(n, "", table([("x-dead-letter-exchange", int(1)), ("x-queue-type", text("foo"))]))); } => 406 "PRECONDITION_FAILED - invalid type 'signedint' for arg 'x-dead-letter-exchange' in %q" (50, 10);
        argument_values_before_properties: |c, n| { c.send(&queue_declare(n, "", table([("x-queue-type", text("quorum")), ("x-max-length", int(-1))]))); } => 406 "PRECONDITION_FAILED - invalid arg 'x-max-length' for %q: {value_negative,-1}" (50, 10);
        exchange_before_expiration: |c, n| { c.publish_with(n, "", "", &plain().with_expiration("abc".into()), "x"); } => 404 "NOT_FOUND - no %x" (60, 40);
        internal_before_expiration: |c, _n| { c.publish_with("amq.rabbitmq.trace", "", "", &plain().with_expiration("abc".into()), "x"); } => 403 "ACCESS_REFUSED - cannot publish to internal exchange 'amq.rabbitmq.trace' in vhost '/'" (60, 40);
        reply_to_before_expiration: |c, _n| { c.publish_with("", "", "", &plain().with_expiration("abc".into()).with_reply_to("amq.rabbitmq.reply-to".into()), "x"); } => 406 "PRECONDITION_FAILED - fast reply consumer does not exist" (60, 40);
        expiration_before_cc: |c, _n| { c.publish_with("", "", "", &headers([("CC", int(1))]).with_expiration("abc".into()), "x"); } => 406 "PRECONDITION_FAILED - invalid expiration 'abc': no_integer" (60, 40);
        cc_before_user_id: |c, _n| { c.publish_with("", "", "", &headers([("CC", int(1))]).with_user_id("bob".into()), "x"); } => 406 r#"PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,"CC",signedint}"# (60, 40);
        expiration_before_user_id: |c, _n| { c.publish_with("", "", "", &plain().with_expiration("abc".into()).with_user_id("bob".into()), "x"); } => 406 "PRECONDITION_FAILED - invalid expiration 'abc': no_integer" (60, 40);
        consume_argument_before_exclusive_use: |c, n| {
            c.own_queue(n);
            c.client.channel(2).consume(n, "one", "exclusive");
            c.send(&consume(n, "two", "", table([("x-priority", text("1"))])));
        } => 406 r#"PRECONDITION_FAILED - invalid arg 'x-priority' for %q: "expected integer, got longstr""# (60, 20);
        size_before_missing_exchange: |c, n| { c.publish(n, "", vec![0; 16_777_217]); } => 406 "PRECONDITION_FAILED - message size 16777217 is larger than configured max size 16777216" (60, 40);
        the_tag_is_known_before_anything: |c, _n| { c.send(&reject(0, "")); } => 406 "PRECONDITION_FAILED - unknown delivery tag 0" (60, 90);
    }
}

mod after_an_error {
    use super::support::*;

    #[test]
    fn unacked_messages_return_and_consumers_go() {
        let (client, name) = (Client::connect(), name());
        let (channel, other) = (client.channel(1), client.channel(2));
        channel.own_queue(&name);
        channel.consume(&name, "t", "");
        client.put(&name, "one");
        assert_eq!(channel.delivery().text(), "one");
        channel.send(&ack(99, ""));
        channel.expect_error(
            406,
            "PRECONDITION_FAILED - unknown delivery tag 99",
            (60, 80),
        );
        assert_eq!(other.consumers(&name), 0);
        let again = other.get(&name, "no_ack").expect("the message is back");
        assert!(again.redelivered);
    }

    #[test]
    fn the_error_is_that_of_the_first_bad_method() {
        let client = Client::connect();
        let channel = client.channel(1);
        let mut burst = method_frame(1, &queue_declare("no-such-queue", "passive", table([])));
        burst.extend(method_frame(
            1,
            &queue_declare("another", "passive", table([])),
        ));
        client.raw(&burst);
        channel.expect_error(
            404,
            "NOT_FOUND - no queue 'no-such-queue' in vhost '/'",
            (50, 10),
        );
    }

    #[test]
    fn close_on_a_closed_channel_is_answered() {
        let client = Client::connect();
        let channel = client.channel(1);
        channel.send(&queue_declare("no-such-queue", "passive", table([])));
        channel.expect_close(
            404,
            "NOT_FOUND - no queue 'no-such-queue' in vhost '/'",
            (50, 10),
        );
        channel.close();
        channel.send(&channel_close_ok());
        client.channel(1).flow();
    }

    #[test]
    fn contents_on_a_closed_channel_are_dropped() {
        let (client, name) = (Client::connect(), name());
        let (channel, other) = (client.channel(1), client.channel(2));
        other.own_queue(&name);
        channel.send(&queue_declare("no-such-queue", "passive", table([])));
        for _ in 0..10 {
            channel.publish("", &name, vec![1; 300_000]);
        }
        channel.expect_error(
            404,
            "NOT_FOUND - no queue 'no-such-queue' in vhost '/'",
            (50, 10),
        );
        assert_eq!(other.ready(&name), 0);
    }

    #[test]
    fn exclusive_queues_survive_a_channel_error() {
        let (client, name) = (Client::connect(), name());
        let channel = client.channel(1);
        channel.own_queue(&name);
        channel.send(&ack(1, ""));
        channel.expect_error(
            406,
            "PRECONDITION_FAILED - unknown delivery tag 1",
            (60, 80),
        );
        channel.ready(&name);
    }

    #[test]
    fn exclusive_queues_are_gone_when_the_connection_is_closed() {
        let (client, other, name) = (Client::connect(), Client::connect(), name());
        client.channel(1).own_queue(&name);
        client.send(1, &channel_open());
        client.expect_close(504, "CHANNEL_ERROR - second 'channel.open' seen", (20, 10));
        other.channel(1).own_queue(&name);
    }

    #[test]
    fn a_closed_connection_ignores_everything_but_close_ok() {
        let client = Client::connect();
        client.channel(1).send(&channel_open());
        client.expect_close(504, "CHANNEL_ERROR - second 'channel.open' seen", (20, 10));
        client.send(1, &queue_declare("no-such-queue", "passive", table([])));
        client.send(7, &channel_open());
        client.send(0, &connection_close());
        client.send(0, &connection_close_ok());
        let rest = client.octets_until_closed();
        assert!(
            rest.is_empty() || rest == frame(1, 0, &[0, 10, 0, 51]),
            "at most close-ok: {rest:?}"
        );
    }
}

mod long_texts {
    use super::support::*;
    use amq_protocol::protocol::{AMQPClass, channel};

    #[test]
    fn are_cut_at_255_octets() {
        // 3.13 to 4.0 keep the first 252 octets, later versions shorten the names in the text first: only the frame of the rule is fixed.
        let client = Client::connect();
        let channel = client.channel(1);
        channel.send(&queue_declare(&"n".repeat(255), "passive", table([])));
        let event = client.event(1);
        let Event::Method(AMQPClass::Channel(channel::AMQPMethod::Close(close))) = event else {
            panic!("{event:?}")
        };
        let text = close.reply_text.as_str();
        assert_eq!(close.reply_code, 404);
        assert!(text.len() <= 255, "{} octets", text.len());
        assert!(text.starts_with("NOT_FOUND - no queue 'nnnn"), "{text}");
        assert!(text.contains("..."), "{text}");
    }

    #[test]
    fn are_cut_between_characters() {
        // RabbitMQ 4.0 cuts inside a character, which is no UTF-8; 4.1 and later do not.
        if elsewhere("4.0 cuts at octets") {
            return;
        }
        for shift in 0..4 {
            let client = Client::connect();
            let channel = client.channel(1);
            let name = format!("{}{}", "n".repeat(shift), "\u{1F40D}".repeat(62));
            channel.send(&queue_declare(&name, "passive", table([])));
            let event = client.event(1);
            let Event::Method(AMQPClass::Channel(channel::AMQPMethod::Close(close))) = event else {
                panic!("{event:?}")
            };
            assert_eq!(close.reply_code, 404);
        }
    }
}
