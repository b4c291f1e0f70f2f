//! The command line, the configuration and the metrics endpoint, as an operator meets them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{fs, process::Output};
use support::*;

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (Output, String) {
    let output = broker::bare_command()
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output, text)
}

/// The program fails with this exit code, and says each of these words.
#[track_caller]
fn fails(code: i32, arguments: &[&str], environment: &[(&str, &str)], words: &[&str]) {
    let (output, text) = run(arguments, environment);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in:\n{text}");
    }
}

mod help {
    use super::*;

    #[test]
    fn names_commands_flags_and_exit_codes() {
        let (output, text) = run(&["--help"], &[]);
        assert!(output.status.success());
        let words = [
            "serve",
            "check-config",
            "--config",
            "--data-dir",
            "--listen",
            "--management-listen",
            "--metrics-listen",
            "--log-level",
            "--stop-with-stdin",
            "Exit codes",
            "MAMBAMQ_",
        ];
        for word in words {
            assert!(text.contains(word), "{word:?} is missing in:\n{text}");
        }
        assert!(run(&["serve", "--help"], &[]).0.status.success());
        assert!(run(&["check-config", "--help"], &[]).0.status.success());
    }

    #[test]
    fn version() {
        let (output, text) = run(&["--version"], &[]);
        assert!(output.status.success());
        assert!(text.starts_with("mambamq "), "{text}");
    }

    #[test]
    fn wrong_flags() {
        fails(2, &["--no-such-flag"], &[], &["--no-such-flag"]);
        fails(2, &["no-such-command"], &[], &["no-such-command"]);
        fails(
            2,
            &["serve", "--listen", "5672"],
            &[],
            &["--listen", "5672"],
        );
        fails(
            2,
            &["serve", "--listen", "127.0.0.1:99999"],
            &[],
            &["--listen", "99999"],
        );
        fails(
            2,
            &["serve", "--worker-threads", "many"],
            &[],
            &["--worker-threads", "many"],
        );
        fails(2, &["serve", "--config"], &[], &["--config"]);
    }
}

mod check_config {
    use super::*;

    /// The file with this content is refused, and the message says each of these words.
    #[track_caller]
    fn refused(content: &str, words: &[&str]) {
        let path = broker::fresh_folder().join("mambamq.toml");
        fs::write(&path, content).unwrap();
        fails(1, &["check-config", path.to_str().unwrap()], &[], words);
        // The broker itself does not start with it either.
        fails(
            2,
            &["serve", "--config", path.to_str().unwrap()],
            &[],
            words,
        );
    }

    #[track_caller]
    fn accepted(content: &str, words: &[&str]) {
        let path = broker::fresh_folder().join("mambamq.toml");
        fs::write(&path, content).unwrap();
        let (output, text) = run(&["check-config", path.to_str().unwrap()], &[]);
        assert!(output.status.success(), "{text}");
        for word in words {
            assert!(text.contains(word), "{word:?} is missing in:\n{text}");
        }
    }

    #[test]
    fn good_files() {
        accepted("", &["frame_max = 131072"]);
        accepted(
            "[limits]\nframe_max = 65536\n",
            &["frame_max = 65536", "channel_max = 2047"],
        );
        accepted(
            "[listeners]\namqp = [\"127.0.0.1:5673\", \"[::1]:5673\"]\n",
            &["127.0.0.1:5673", "[::1]:5673"],
        );
        accepted("[limits]\nmessage_size_max = \"32MiB\"\n", &["32MiB"]);
        accepted("[metrics]\nlisten = \"off\"\n", &["off"]);
    }

    #[test]
    fn without_a_file_prints_the_defaults() {
        let (output, text) = run(&["check-config"], &[]);
        assert!(output.status.success(), "{text}");
        assert!(
            text.contains("channel_max = 2047") && text.contains("heartbeat_secs = 60"),
            "{text}"
        );
        assert!(
            !text.contains("default_password = \"guest\""),
            "passwords are not shown"
        );
    }

    #[test]
    fn the_example_file_is_the_default() {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config/mambamq.toml");
        let (output, text) = run(&["check-config", example], &[]);
        assert!(output.status.success(), "{text}");
        assert_eq!(text, run(&["check-config"], &[]).1);
    }

    #[test]
    fn unknown_keys() {
        refused("[node]\nnme = \"x\"\n", &["nme"]);
        refused("[nodes]\nname = \"x\"\n", &["nodes"]);
        refused("name = \"x\"\n", &["name"]);
    }

    #[test]
    fn values_of_another_type() {
        refused("[limits]\nframe_max = \"large\"\n", &["frame_max", "large"]);
        refused("[limits]\nframe_max = true\n", &["frame_max"]);
        refused("[node]\nname = 5\n", &["name"]);
        refused("[listeners]\namqp = 5672\n", &["amqp"]);
    }

    #[test]
    fn values_out_of_range() {
        refused(
            "[limits]\nframe_max = 4095\n",
            &["frame_max", "4095", "4096"],
        );
        refused("[limits]\nchannel_max = 0\n", &["channel_max", "0"]);
        refused(
            "[limits]\nmessage_size_max = \"1TiB\"\n",
            &["message_size_max"],
        );
        refused(
            "[store]\nsync = \"sometimes\"\n",
            &["sync", "sometimes", "fsync"],
        );
        refused("[listeners]\namqp = [\"nowhere\"]\n", &["amqp", "nowhere"]);
        refused(
            "[alarms]\nmemory_high_watermark = 1.5\n",
            &["memory_high_watermark", "1.5"],
        );
        refused("[logging]\nformat = \"xml\"\n", &["format", "xml", "json"]);
    }

    #[test]
    fn what_is_no_toml() {
        refused("[limits\n", &["1"]);
        refused("limits = = 5\n", &["1"]);
    }

    #[test]
    fn a_missing_file() {
        fails(
            1,
            &["check-config", "/no/such/file.toml"],
            &[],
            &["/no/such/file.toml"],
        );
    }

    #[test]
    fn from_the_environment() {
        let (output, text) = run(&["check-config"], &[("MAMBAMQ_LIMITS__FRAME_MAX", "65536")]);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("frame_max = 65536"), "{text}");
        fails(
            1,
            &["check-config"],
            &[("MAMBAMQ_LIMITS__FRAME_MAX", "small")],
            &["MAMBAMQ_LIMITS__FRAME_MAX", "small"],
        );
        fails(
            1,
            &["check-config"],
            &[("MAMBAMQ_LIMITS__NO_SUCH_KEY", "1")],
            &["MAMBAMQ_LIMITS__NO_SUCH_KEY"],
        );
    }
}

mod configured {
    use super::*;

    /// A broker with this file, and the tune values a client is offered: channel_max, frame_max, heartbeat.
    fn offers(content: &str, flags: &[&str]) -> (Broker, (u16, u32, u16)) {
        let path = broker::fresh_folder().join("mambamq.toml");
        fs::write(&path, content).unwrap();
        let broker = Broker::start(&[&["--config", path.to_str().unwrap()], flags].concat());
        let client = Client::bare(Some(broker.amqp));
        client.begin();
        client.send(0, &start_ok(table([]), "PLAIN", b"\0guest\0guest"));
        let answer = client.method(0);
        let amq_protocol::protocol::AMQPClass::Connection(
            amq_protocol::protocol::connection::AMQPMethod::Tune(tune),
        ) = answer
        else {
            panic!("{answer:?}")
        };
        (broker, (tune.channel_max, tune.frame_max, tune.heartbeat))
    }

    #[test]
    fn limits_of_the_file() {
        if elsewhere("our own configuration") {
            return;
        }
        let (_broker, offered) = offers(
            "[limits]\nframe_max = 65536\nchannel_max = 100\nheartbeat_secs = 30\n",
            &[],
        );
        assert_eq!(offered, (100, 65_536, 30));
    }

    #[test]
    fn a_smaller_message_size() {
        if elsewhere("our own configuration") {
            return;
        }
        let (broker, _) = offers("[limits]\nmessage_size_max = 1000\n", &[]);
        let client = Client::to(&broker);
        let channel = client.channel(1);
        channel.publish("amq.fanout", "", vec![0; 1001]);
        let text =
            "PRECONDITION_FAILED - message size 1001 is larger than configured max size 1000";
        channel.expect_error(406, text, (60, 40));
    }

    #[test]
    fn another_user() {
        if elsewhere("our own configuration") {
            return;
        }
        let path = broker::fresh_folder().join("mambamq.toml");
        fs::write(
            &path,
            "[auth]\ndefault_user = \"ana\"\ndefault_password = \"conda\"\n",
        )
        .unwrap();
        let broker = Broker::start(&["--config", path.to_str().unwrap()]);
        let options = Options {
            address: Some(broker.amqp),
            user: "ana",
            password: "conda",
            ..Options::default()
        };
        Client::with(&options).channel(1).flow();
        let guest = Client::bare(Some(broker.amqp));
        guest.begin();
        guest.send(
            0,
            &start_ok(
                Options::default().client_properties(),
                "PLAIN",
                b"\0guest\0guest",
            ),
        );
        let shown = format!("{:?}", guest.event(0));
        assert!(shown.contains("reply_code: 403"), "{shown}");
    }
}

mod limits {
    use super::*;

    fn configured(content: &str) -> Broker {
        let path = broker::fresh_folder().join("mambamq.toml");
        fs::write(&path, content).unwrap();
        Broker::start(&["--config", path.to_str().unwrap()])
    }

    #[test]
    fn consumers_per_channel() {
        if elsewhere("our own configuration") {
            return;
        }
        let broker = configured("[limits]\nconsumers_per_channel_max = 2\n");
        let client = Client::to(&broker);
        let channel = client.channel(1);
        channel.own_queue("q");
        channel.consume("q", "1", "");
        channel.consume("q", "2", "");
        channel.call(&cancel("1", ""));
        channel.consume("q", "3", "");
        client.channel(2).consume("q", "other channel", "");
        channel.send(&consume("q", "4", "", table([])));
        client.expect_error(
            530,
            "NOT_ALLOWED - reached maximum (2) of consumers per channel",
            (60, 20),
        );
    }

    #[test]
    fn connections() {
        if elsewhere("our own configuration") {
            return;
        }
        let broker = configured("[limits]\nconnections_max = 2\n");
        let (first, _second) = (Client::to(&broker), Client::to(&broker));
        let third = Client::bare(Some(broker.amqp));
        third.negotiate(&Options::default());
        third.send(0, &connection_open("/"));
        third.expect_error(
            530,
            "NOT_ALLOWED - connection refused: node connection limit (2) is reached",
            (10, 40),
        );
        first.close();
        eventually("there is room again", || {
            let client = Client::bare(Some(broker.amqp));
            client.negotiate(&Options::default());
            client.send(0, &connection_open("/"));
            format!("{:?}", client.event(0)).contains("OpenOk")
        });
    }

    #[test]
    fn time_for_the_handshake() {
        if elsewhere("our own configuration") {
            return;
        }
        let broker = configured("[limits]\nhandshake_timeout_ms = 200\n");
        let established = Client::to(&broker);
        Client::bare(Some(broker.amqp)).expect_closed();
        let client = Client::bare(Some(broker.amqp));
        client.begin();
        client.expect_closed();
        established.channel(1).flow();
    }

    #[test]
    fn loopback_users_come_from_here() {
        if elsewhere("our own configuration") {
            return;
        }
        let broker = configured("[auth]\nloopback_users = []\n");
        Client::to(&broker).channel(1).flow();
    }

    /// The disk is never this empty: the alarm is on from the start.
    #[test]
    fn disk_alarm_blocks_publishers_only() {
        if elsewhere("our own configuration") {
            return;
        }
        let broker = configured("[alarms]\ndisk_free_limit = \"1000TiB\"\n");
        let (publisher, consumer) = (Client::to(&broker), Client::to(&broker));
        let silent = Client::with(&Options {
            address: Some(broker.amqp),
            capabilities: &[],
            ..Options::default()
        });
        let channel = consumer.channel(1);
        channel.own_queue("q");
        // The alarm is looked at once a second: publish until it holds.
        let out = publisher.channel(1);
        let blocked = |event: &Event| {
            let shown = format!("{event:?}");
            assert!(!shown.contains("Unblocked"), "{shown}");
            shown.contains("Blocked")
        };
        out.publish("", "q", "first");
        let event = format!("{:?}", publisher.take(0, blocked));
        assert!(event.contains("low on disk"), "{event}");
        // The publish that met the alarm was still processed; who never publishes goes on.
        eventually("it arrived", || channel.get("q", "no_ack").is_some());
        channel.own_queue("another");
        assert!(channel.get("another", "").is_none());
        // Without the capability nothing is said.
        silent.channel(1).publish("", "q", "first");
        eventually("it arrived", || channel.get("q", "no_ack").is_some());
        channel.expect_nothing();
    }
}

mod starting_and_stopping {
    use super::*;

    #[test]
    fn ends_with_its_standard_input() {
        if elsewhere("our own process") {
            return;
        }
        let mut broker = Broker::start(&[]);
        let client = Client::to(&broker);
        broker.close_stdin();
        client.expect_error(
            320,
            "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'",
            (0, 0),
        );
        assert_eq!(broker.wait_for_exit().code(), Some(0), "{}", broker.log());
        let lock = fs::read_to_string(broker.folder().join("node.lock")).unwrap_or_default();
        assert_eq!(lock, "", "nobody is announced any more");
    }

    #[test]
    fn a_port_in_use() {
        if elsewhere("our own process") {
            return;
        }
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let folder = broker::fresh_folder();
        let arguments = [
            "serve",
            "--data-dir",
            folder.to_str().unwrap(),
            "--listen",
            &address,
            "--metrics-listen",
            "off",
        ];
        fails(1, &arguments, &[], &[&address, "--listen"]);
    }

    #[test]
    fn a_data_folder_that_cannot_be() {
        if elsewhere("our own process") {
            return;
        }
        let file = broker::fresh_folder().join("file");
        fs::write(&file, "").unwrap();
        let path = file.to_str().unwrap();
        fails(
            1,
            &[
                "serve",
                "--data-dir",
                path,
                "--listen",
                "127.0.0.1:0",
                "--metrics-listen",
                "off",
            ],
            &[],
            &[path],
        );
    }
}

mod metrics_endpoint {
    use super::*;

    #[test]
    fn answers() {
        if elsewhere("our own endpoint") {
            return;
        }
        let broker = broker::shared();
        let (status, body) = broker.http("/metrics");
        assert!(status.contains("200"), "{status}");
        assert_eq!(
            body.matches("\nrabbitmq_identity_info{").count(),
            1,
            "exactly one identity"
        );
        let names = [
            "rabbitmq_build_info",
            "rabbitmq_erlang_uptime_seconds",
            "rabbitmq_connections",
            "rabbitmq_channels",
            "rabbitmq_queues",
            "rabbitmq_global_publishers",
            "rabbitmq_global_consumers",
            "rabbitmq_queue_messages_ready",
            "rabbitmq_queue_messages_unacked",
            "rabbitmq_process_resident_memory_bytes",
            "rabbitmq_resident_memory_limit_bytes",
            "rabbitmq_disk_space_available_bytes",
            "rabbitmq_disk_space_available_limit_bytes",
            "rabbitmq_process_open_fds",
            "rabbitmq_process_max_fds",
            "rabbitmq_global_messages_received_total",
            "rabbitmq_global_messages_received_confirm_total",
            "rabbitmq_global_messages_confirmed_total",
            "rabbitmq_global_messages_routed_total",
            "rabbitmq_global_messages_unroutable_dropped_total",
            "rabbitmq_global_messages_unroutable_returned_total",
            "rabbitmq_global_messages_delivered_total",
            "rabbitmq_global_messages_delivered_consume_auto_ack_total",
            "rabbitmq_global_messages_delivered_consume_manual_ack_total",
            "rabbitmq_global_messages_delivered_get_auto_ack_total",
            "rabbitmq_global_messages_delivered_get_manual_ack_total",
            "rabbitmq_global_messages_get_empty_total",
            "rabbitmq_global_messages_redelivered_total",
            "rabbitmq_global_messages_acknowledged_total",
            "rabbitmq_message_size_bytes_bucket",
            "rabbitmq_message_size_bytes_sum",
            "rabbitmq_message_size_bytes_count",
            "rabbitmq_connections_opened_total",
            "rabbitmq_connections_closed_total",
            "rabbitmq_channels_opened_total",
            "rabbitmq_channels_closed_total",
            "rabbitmq_queues_declared_total",
            "rabbitmq_queues_created_total",
            "rabbitmq_queues_deleted_total",
        ];
        let missing: Vec<&str> = names
            .into_iter()
            .filter(|name| broker.metric(name).is_none())
            .collect();
        assert!(missing.is_empty(), "missing: {missing:?}");
        assert!(broker.http("/nothing-here").0.contains("404"));
    }

    #[test]
    fn every_family_is_explained() {
        if elsewhere("our own endpoint") {
            return;
        }
        let (_, body) = broker::shared().http("/metrics");
        for line in body
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
        {
            let name = line.split(['{', ' ']).next().unwrap();
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .fold(name, |name, suffix| {
                    name.strip_suffix(suffix)
                        .filter(|family| body.contains(&format!("# TYPE {family} ")))
                        .unwrap_or(name)
                });
            assert!(
                body.contains(&format!("# TYPE {family} ")),
                "no TYPE of {name}"
            );
            assert!(
                body.contains(&format!("# HELP {family} ")),
                "no HELP of {name}"
            );
        }
    }

    #[test]
    fn moves_with_traffic() {
        if elsewhere("our own endpoint") {
            return;
        }
        // A broker of its own, so that nobody else moves the numbers.
        let broker = Broker::start(&[]);
        let value = |name: &str| broker.metric(name).unwrap_or_else(|| panic!("{name}"));
        let client = Client::to(&broker);
        let channel = client.channel(1);
        channel.own_queue("q");
        for _ in 0..5 {
            client.put("q", "hello");
        }
        client.put("nowhere", "dropped");
        let mut moved = vec![
            ("rabbitmq_connections", 1.0),
            ("rabbitmq_channels", 2.0),
            ("rabbitmq_queues", 1.0),
            ("rabbitmq_queue_messages_ready", 5.0),
            ("rabbitmq_global_messages_received_total", 6.0),
            ("rabbitmq_global_messages_received_confirm_total", 6.0),
            ("rabbitmq_global_messages_confirmed_total", 6.0),
            ("rabbitmq_global_messages_routed_total", 5.0),
            ("rabbitmq_global_messages_unroutable_dropped_total", 1.0),
            ("rabbitmq_global_publishers", 1.0),
            ("rabbitmq_connections_opened_total", 1.0),
            ("rabbitmq_queues_created_total", 1.0),
        ];
        let check = |expected: &[(&str, f64)]| {
            for (name, number) in expected {
                let mut last = 0.0;
                eventually(&format!("{name} is {number}"), || {
                    last = value(name);
                    (last - number).abs() < 0.5
                });
            }
        };
        check(&moved);
        channel.get("q", "no_ack").expect("a message");
        channel.get("q", "").expect("a message");
        channel.send(&ack(2, ""));
        channel.consume("q", "t", "");
        channel.bodies(3);
        channel.publish_with("", "nowhere", "mandatory", &plain(), "returned");
        channel.returned();
        moved = vec![
            ("rabbitmq_queue_messages_ready", 0.0),
            ("rabbitmq_queue_messages_unacked", 3.0),
            ("rabbitmq_global_consumers", 1.0),
            ("rabbitmq_global_messages_delivered_total", 5.0),
            ("rabbitmq_global_messages_delivered_get_auto_ack_total", 1.0),
            (
                "rabbitmq_global_messages_delivered_get_manual_ack_total",
                1.0,
            ),
            (
                "rabbitmq_global_messages_delivered_consume_manual_ack_total",
                3.0,
            ),
            ("rabbitmq_global_messages_acknowledged_total", 1.0),
            ("rabbitmq_global_messages_unroutable_returned_total", 1.0),
        ];
        check(&moved);
        client.close();
        check(&[
            ("rabbitmq_connections", 0.0),
            ("rabbitmq_queues", 0.0),
            ("rabbitmq_connections_closed_total", 1.0),
        ]);
    }
}

mod daily_commands {
    use super::*;
    use support::ctl::{ctl_on, refused_on};

    /// Connections as `rabbitmqctl` lists them, and closed by what it calls them.
    #[test]
    fn connections_are_listed_and_closed() {
        if elsewhere("a control socket") {
            return;
        }
        let broker = Broker::start(&[]);
        let ctl = |words: &[&str]| ctl_on(Some(&broker), words);
        assert_eq!(ctl(&["list_connections", "-q"]), "");
        let client = Client::to(&broker);
        let channel = client.channel(1);
        channel.call(&qos(7, ""));
        channel.own_queue("q");
        channel.consume("q", "tag", "");
        assert_eq!(
            ctl(&[
                "list_connections",
                "-q",
                "user",
                "vhost",
                "protocol",
                "channels"
            ]),
            "user\tvhost\tprotocol\tchannels\nguest\t/\t{0,9,1}\t1\n"
        );
        assert_eq!(
            ctl(&["list_channels", "-s", "number", "user", "consumer_count"]),
            "1\tguest\t1\n"
        );
        assert_eq!(
            ctl(&[
                "list_consumers",
                "-s",
                "queue_name",
                "consumer_tag",
                "ack_required",
                "prefetch_count",
                "active",
                "arguments"
            ]),
            "q\ttag\ttrue\t7\ttrue\t[]\n"
        );
        let text = refused_on(Some(&broker), 64, &["list_connections", "bogus"]);
        assert!(
            text.contains("Info key(s) bogus are not supported"),
            "{text}"
        );
        refused_on(Some(&broker), 65, &["close_connection", "no pid", "why"]);
        refused_on(Some(&broker), 64, &["close_connection", "<x>"]);
        let pid = ctl(&["list_connections", "-s", "pid"]);
        ctl(&["close_connection", pid.trim(), "go away"]);
        client.expect_close(320, "CONNECTION_FORCED - go away", (0, 0));
        client.vanish();
        eventually("the connection is gone", || {
            ctl(&["list_connections", "-s", "pid"]).is_empty()
        });
        let other = Client::to(&broker);
        assert!(
            ctl(&["close_all_connections", "-p", "/", "over"]).contains("Closed 1 connections")
        );
        other.expect_close(320, "CONNECTION_FORCED - over", (0, 0));
    }

    #[test]
    fn the_node_at_a_glance() {
        if elsewhere("a control socket") {
            return;
        }
        let broker = Broker::start(&[]);
        let ctl = |words: &[&str]| ctl_on(Some(&broker), words);
        assert!(ctl(&["ping"]).ends_with("Ping succeeded\n"));
        assert_eq!(ctl(&["version"]), concat!(env!("CARGO_PKG_VERSION"), "\n"));
        let status: serde_json::Value =
            serde_json::from_str(&ctl(&["status", "--formatter", "json"])).unwrap();
        assert_eq!(status["pid"], broker.pid());
        assert_eq!(status["alarms"], serde_json::json!([]));
        assert_eq!(status["totals"]["virtual_host_count"], 1);
        let text = ctl(&["status"]);
        assert!(text.contains("Virtual host count: 1"), "{text}");
        let text = ctl(&["cluster_status"]);
        assert!(text.contains("Running Nodes"), "{text}");
        refused_on(Some(&broker), 64, &["status", "extra"]);
    }
}
