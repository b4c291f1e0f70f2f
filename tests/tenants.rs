//! Users, virtual hosts, permissions, topic permissions and limits, as clients feel them.
//!
//! Everything is set up through the command line. Against another broker (`MAMBAMQ_TEST_URL`) name its tool:
//! `MAMBAMQ_TEST_CTL="rabbitmqctl -q"`.

mod support;

use support::{
    ctl::{ctl, ctl_on, leaked, run},
    *,
};

/// A user and a virtual host of one test, gone after it.
struct Tenant {
    user: &'static str,
    vhost: &'static str,
}

impl Tenant {
    fn new() -> Self {
        let this = Self {
            user: leaked(name()),
            vhost: leaked(name()),
        };
        ctl(&["add_user", this.user, "secret"]);
        ctl(&["add_vhost", this.vhost]);
        this
    }

    /// With permissions to everything.
    fn with_all() -> Self {
        let this = Self::new();
        this.permit(".*", ".*", ".*");
        this
    }

    fn permit(&self, configure: &str, write: &str, read: &str) {
        ctl(&[
            "set_permissions",
            "-p",
            self.vhost,
            self.user,
            configure,
            write,
            read,
        ]);
    }

    fn options(&self) -> Options {
        Options {
            user: self.user,
            password: "secret",
            virtual_host: self.vhost,
            ..Options::default()
        }
    }

    fn connect(&self) -> Client {
        Client::with(&self.options())
    }

    /// A connection that has not asked for its virtual host.
    fn negotiate(&self) -> Client {
        let client = Client::bare(None);
        client.negotiate(&self.options());
        client
    }

    fn text(&self, text: &str) -> String {
        text.replace("%u", self.user).replace("%v", self.vhost)
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            run(None, &["delete_vhost", self.vhost]);
            run(None, &["delete_user", self.user]);
        }
    }
}

mod permissions {
    use super::*;

    #[test]
    fn publishing_needs_write_on_the_exchange_at_any_moment() {
        let tenant = Tenant::with_all();
        let client = tenant.connect();
        let (channel, watch) = (client.channel(1), client.channel(2));
        let queue = channel.queue("", "", table([])).queue.to_string();
        for body in ["1", "2", "3"] {
            channel.publish("", &queue, body);
        }
        eventually("published", || watch.ready(&queue) == 3);
        tenant.permit(".*", "^amq\\.default$", ".*");
        channel.publish("", &queue, "4");
        eventually("published", || watch.ready(&queue) == 4);
        // The route is known by now, the right is gone.
        tenant.permit(".*", "^amq\\.topic$", ".*");
        channel.publish("", &queue, "5");
        let expected = tenant.text(
            "ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '%v' refused for user '%u'",
        );
        channel.expect_close(403, &expected, (60, 40));
        assert_eq!(watch.ready(&queue), 4);
    }

    #[test]
    fn server_named_queues_are_asked_for_by_their_name() {
        let tenant = Tenant::new();
        tenant.permit("^amq\\.gen", "", "");
        let client = tenant.connect();
        let channel = client.channel(1);
        assert!(
            channel
                .queue("", "", table([]))
                .queue
                .as_str()
                .starts_with("amq.gen-")
        );
    }

    #[test]
    fn an_entry_is_needed_to_open_and_three_empty_patterns_will_do() {
        let tenant = Tenant::new();
        let client = tenant.negotiate();
        client.send(0, &connection_open(tenant.vhost));
        let expected = tenant.text("NOT_ALLOWED - access to vhost '%v' refused for user '%u'");
        client.expect_error(530, &expected, (10, 40));
        tenant.permit("", "", "");
        tenant.connect().close();
    }

    #[test]
    fn clearing_takes_effect_on_open_connections() {
        let tenant = Tenant::with_all();
        let client = tenant.connect();
        let channel = client.channel(1);
        channel.queue("q", "", table([]));
        ctl(&["clear_permissions", "-p", tenant.vhost, tenant.user]);
        channel.send(&queue_declare("q2", "", table([])));
        let expected = tenant.text(
            "ACCESS_REFUSED - configure access to queue 'q2' in vhost '%v' refused for user '%u'",
        );
        channel.expect_close(403, &expected, (50, 10));
    }

    #[test]
    fn a_user_id_is_ones_own_unless_one_may_impersonate() {
        let tenant = Tenant::with_all();
        let id = |name: &str| plain().with_user_id(name.into());
        let client = tenant.connect();
        let channel = client.channel(1);
        let queue = channel.queue("", "", table([])).queue.to_string();
        channel.publish_with("", &queue, "", &id(tenant.user), "own");
        channel.publish_with("", &queue, "", &id("somebody"), "foreign");
        let expected = tenant.text("PRECONDITION_FAILED - user_id property set to 'somebody' but authenticated user was '%u'");
        channel.expect_close(406, &expected, (60, 40));
        ctl(&["set_user_tags", tenant.user, "impersonator"]);
        let client = tenant.connect();
        let channel = client.channel(1);
        channel.publish_with("", &queue, "", &id("somebody"), "foreign");
        eventually("published", || channel.ready(&queue) == 2);
    }
}

mod topics {
    use super::*;

    fn check(tenant: &Tenant, words: [&str; 3]) {
        ctl(&[
            "set_topic_permissions",
            "-p",
            tenant.vhost,
            tenant.user,
            words[0],
            words[1],
            words[2],
        ]);
    }

    #[test]
    fn routing_and_binding_keys_are_asked_for() {
        let tenant = Tenant::with_all();
        check(&tenant, ["amq.topic", "^{username}\\.", "^pub\\."]);
        let client = tenant.connect();
        let channel = client.channel(1);
        channel.queue("q", "", table([]));
        channel.bind("q", "amq.topic", "pub.#");
        let own = format!("{}.a", tenant.user);
        channel.publish("amq.topic", &own, "1");
        channel.publish("amq.direct", "elsewhere", "not a topic");
        channel.publish("amq.topic", "other.a", "2");
        let refused = |right: &str, key: &str| {
            tenant.text(&format!(
                "ACCESS_REFUSED - {right} access to topic '{key}' in exchange 'amq.topic' in vhost '%v' refused for user '%u'"
            ))
        };
        channel.expect_close(403, &refused("write", "other.a"), (60, 40));
        let channel = client.channel(2);
        channel.send(&queue_bind("q", "amq.topic", "sub.#", table([])));
        channel.expect_close(403, &refused("read", "sub.#"), (50, 20));
        let channel = client.channel(3);
        let cc = headers([("CC", array(vec![text("other.b")]))]);
        channel.publish_with("amq.topic", &own, "", &cc, "3");
        channel.expect_close(403, &refused("write", "other.b"), (60, 40));
        ctl(&["clear_topic_permissions", "-p", tenant.vhost, tenant.user]);
        let channel = client.channel(4);
        channel.publish("amq.topic", "other.a", "4");
        channel.flow();
    }
}

mod virtual_hosts {
    use super::*;

    #[test]
    fn names_are_their_own_in_each() {
        let (one, other) = (Tenant::with_all(), Tenant::with_all());
        let (client, stranger) = (one.connect(), other.connect());
        let (channel, elsewhere) = (client.channel(1), stranger.channel(1));
        channel.queue("q", "", table([]));
        elsewhere.send(&queue_declare("q", "passive", table([])));
        let expected = other.text("NOT_FOUND - no queue 'q' in vhost '%v'");
        elsewhere.expect_close(404, &expected, (50, 10));
        for kind in ["direct", "fanout", "headers", "match", "topic"] {
            let name = format!("amq.{kind}");
            channel.call(&exchange_declare(&name, "", "passive", table([])));
        }
    }

    #[test]
    fn deleting_one_closes_its_connections_and_takes_everything_along() {
        let tenant = Tenant::with_all();
        let client = tenant.connect();
        let channel = client.channel(1);
        channel.queue("q", "durable", table([]));
        channel.exchange("x", "topic");
        channel.consume("q", "", "");
        let bystander = Client::connect();
        ctl(&["delete_vhost", tenant.vhost]);
        let expected = tenant.text("CONNECTION_FORCED - vhost '%v' is deleted");
        client.expect_error(320, &expected, (0, 0));
        bystander.channel(1).flow();
        let late = tenant.negotiate();
        late.send(0, &connection_open(tenant.vhost));
        let expected = tenant.text("NOT_ALLOWED - vhost %v not found");
        late.expect_error(530, &expected, (10, 40));
        // A new one of that name has nothing of the old one.
        ctl(&["add_vhost", tenant.vhost]);
        tenant.permit(".*", ".*", ".*");
        let client = tenant.connect();
        let channel = client.channel(1);
        channel.send(&queue_declare("q", "passive", table([])));
        let expected = tenant.text("NOT_FOUND - no queue 'q' in vhost '%v'");
        channel.expect_close(404, &expected, (50, 10));
    }

    #[test]
    fn the_default_queue_type_is_used_where_it_fits() {
        let tenant = Tenant::new();
        ctl(&[
            "update_vhost_metadata",
            tenant.vhost,
            "--default-queue-type",
            "quorum",
        ]);
        tenant.permit(".*", ".*", ".*");
        let client = tenant.connect();
        let channel = client.channel(1);
        channel.queue("durable", "durable", table([]));
        channel.queue("exclusive", "exclusive", table([]));
        channel.queue("own", "durable", table([("x-queue-type", text("classic"))]));
        let kind = |queue: &str, kind: &str, flags: &str| {
            channel.queue(queue, flags, table([("x-queue-type", text(kind))]));
        };
        kind("durable", "quorum", "durable");
        kind("exclusive", "classic", "exclusive");
        kind("own", "classic", "durable");
    }

    #[test]
    fn limits_are_held() {
        let tenant = Tenant::with_all();
        let limits = r#"{"max-connections":1,"max-queues":1}"#;
        ctl(&["set_vhost_limits", "-p", tenant.vhost, limits]);
        let client = tenant.connect();
        let channel = client.channel(1);
        channel.queue("one", "", table([]));
        channel.queue("one", "", table([]));
        channel.send(&queue_declare("two", "", table([])));
        let expected = tenant.text("PRECONDITION_FAILED - cannot declare queue 'two': queue limit in vhost '%v' (1) is reached");
        channel.expect_close(406, &expected, (50, 10));
        let second = tenant.negotiate();
        second.send(0, &connection_open(tenant.vhost));
        let expected = tenant.text("NOT_ALLOWED - access to vhost '%v' refused for user '%u': connection limit (1) is reached");
        second.expect_error(530, &expected, (10, 40));
        client.close();
        eventually("room again", || {
            let client = tenant.negotiate();
            client.send(0, &connection_open(tenant.vhost));
            let answer = client.method(0);
            format!("{answer:?}").contains("OpenOk")
        });
    }
}

mod users {
    use super::*;

    #[test]
    fn deleting_one_closes_its_connections() {
        let tenant = Tenant::with_all();
        let client = tenant.connect();
        client.channel(1).queue("q", "exclusive", table([]));
        ctl(&["delete_user", tenant.user]);
        let expected = tenant.text("CONNECTION_FORCED - user '%u' is deleted");
        client.expect_error(320, &expected, (0, 0));
        let late = Client::bare(None);
        late.begin();
        let options = tenant.options();
        late.send(
            0,
            &start_ok(
                options.client_properties(),
                "PLAIN",
                &options.plain_response(),
            ),
        );
        late.expect_close(
            403,
            "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile.",
            (0, 0),
        );
    }

    #[test]
    fn a_new_password_counts_for_the_next_login_only() {
        let tenant = Tenant::with_all();
        let client = tenant.connect();
        ctl(&["change_password", tenant.user, "changed"]);
        client.channel(1).flow();
        let changed = Options {
            password: "changed",
            ..tenant.options()
        };
        Client::with(&changed).close();
        let late = Client::bare(None);
        late.begin();
        let options = tenant.options();
        late.send(
            0,
            &start_ok(
                options.client_properties(),
                "PLAIN",
                &options.plain_response(),
            ),
        );
        late.expect_close(
            403,
            "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile.",
            (0, 0),
        );
    }

    #[test]
    fn limits_are_held() {
        let tenant = Tenant::with_all();
        let limits = r#"{"max-connections":1,"max-channels":2}"#;
        ctl(&["set_user_limits", tenant.user, limits]);
        let client = tenant.connect();
        client.channel(1);
        client.channel(2).close();
        client.channel(2);
        let second = tenant.negotiate();
        second.send(0, &connection_open(tenant.vhost));
        let expected = tenant.text(
            "NOT_ALLOWED - connection refused for user '%u': user connection limit (1) is reached",
        );
        second.expect_error(530, &expected, (10, 40));
        client.unopened(3).send(&channel_open());
        let expected = tenant.text("NOT_ALLOWED - number of channels opened for user '%u' has reached the maximum allowed user limit of 2");
        client.expect_error(530, &expected, (0, 0));
    }

    #[test]
    fn a_new_secret_is_welcome_while_the_user_may_be_here() {
        let tenant = Tenant::with_all();
        let client = tenant.connect();
        client.send(0, &update_secret("anything"));
        assert!(format!("{:?}", client.method(0)).contains("UpdateSecretOk"));
    }

    #[test]
    fn whoever_may_no_longer_be_here_gets_no_new_secret() {
        if elsewhere("MambaMQ asks again for the virtual host when a secret is renewed") {
            return;
        }
        let tenant = Tenant::with_all();
        let client = tenant.connect();
        ctl(&["clear_permissions", "-p", tenant.vhost, tenant.user]);
        client.send(0, &update_secret("anything"));
        let text = "NOT_ALLOWED - New secret was refused by one of the backends";
        client.expect_error(530, text, (10, 70));
    }

    #[test]
    fn amqplain_asks_the_same_users() {
        let tenant = Tenant::with_all();
        let client = Client::bare(None);
        client.begin();
        let response = amqplain(&[("LOGIN", b'S', tenant.user), ("PASSWORD", b'S', "secret")]);
        client.send(
            0,
            &start_ok(tenant.options().client_properties(), "AMQPLAIN", &response),
        );
        assert!(format!("{:?}", client.method(0)).contains("Tune"));
    }
}

mod this_broker {
    use super::*;

    #[test]
    fn everything_is_there_after_a_kill() {
        if elsewhere("the test kills its broker") {
            return;
        }
        let broker = Broker::start(&[]);
        let on = |broker: &Broker, words: &[&str]| ctl_on(Some(broker), words);
        on(&broker, &["add_user", "u", "p"]);
        on(&broker, &["set_user_tags", "u", "monitoring", "mine"]);
        on(&broker, &["set_user_limits", "u", r#"{"max-channels":7}"#]);
        on(
            &broker,
            &[
                "add_vhost",
                "v",
                "--description",
                "d",
                "--tags",
                "a,b",
                "--default-queue-type",
                "quorum",
            ],
        );
        on(
            &broker,
            &["set_vhost_limits", "-p", "v", r#"{"max-queues":5}"#],
        );
        on(
            &broker,
            &["set_permissions", "-p", "v", "u", "^c", "^w", "^r"],
        );
        on(
            &broker,
            &[
                "set_topic_permissions",
                "-p",
                "v",
                "u",
                "amq.topic",
                "^a",
                "^b",
            ],
        );
        on(&broker, &["set_global_parameter", "g", r#"{"a":[1]}"#]);
        on(&broker, &["delete_user", "guest"]);
        let lists: [&[&str]; 8] = [
            &["list_users"],
            &["list_user_limits", "--global"],
            &[
                "list_vhosts",
                "name",
                "description",
                "tags",
                "default_queue_type",
            ],
            &["list_vhost_limits", "--global"],
            &["list_permissions", "-p", "v", "--formatter", "json"],
            &["list_permissions"],
            &["list_topic_permissions", "-p", "v"],
            &["list_global_parameters"],
        ];
        let before: Vec<String> = lists.iter().map(|list| on(&broker, list)).collect();
        assert_eq!(
            before[0],
            "Listing users ...\nuser\ttags\nu\t[monitoring, mine]\n"
        );
        assert_eq!(
            before[2],
            "Listing vhosts ...\nname\tdescription\ttags\tdefault_queue_type\n/\tDefault virtual host\t[]\tclassic\nv\td\t[a, b]\tquorum\n"
        );
        assert_eq!(
            before[4],
            "[\n{\"user\":\"u\",\"configure\":\"^c\",\"write\":\"^w\",\"read\":\"^r\"}\n]\n"
        );
        let broker = broker.crash_and_restart();
        // The default user does not come back either.
        let after: Vec<String> = lists.iter().map(|list| on(&broker, list)).collect();
        assert_eq!(after, before);
        on(&broker, &["authenticate_user", "u", "p"]);
        let definitions = std::fs::read(broker.folder().join("definitions.redb")).unwrap();
        let holds = |needle: &[u8]| definitions.windows(needle.len()).any(|part| part == needle);
        assert!(holds(b"rabbit_password_hashing_sha256"));
    }

    #[test]
    fn a_vhost_stays_deleted_with_its_messages() {
        if elsewhere("the test kills its broker") {
            return;
        }
        let broker = Broker::start(&[]);
        let on = |broker: &Broker, words: &[&str]| ctl_on(Some(broker), words);
        on(&broker, &["add_vhost", "v"]);
        on(
            &broker,
            &["set_permissions", "-p", "v", "guest", ".*", ".*", ".*"],
        );
        let client = Client::with(&Options {
            address: Some(broker.amqp),
            virtual_host: "v",
            ..Options::default()
        });
        let channel = client.channel(1);
        channel.queue("q", "durable", table([]));
        channel.exchange("x", "topic");
        channel.bind("q", "x", "k");
        client.put_persistent("q", "kept");
        on(&broker, &["delete_vhost", "v"]);
        let broker = broker.crash_and_restart();
        assert_eq!(on(&broker, &["list_vhosts", "-s"]), "/\n");
        assert!(!broker.log().contains("left out"), "{}", broker.log());
    }

    #[test]
    fn passwords_stay_out_of_log_and_disk() {
        if elsewhere("the test reads the broker's log") {
            return;
        }
        let broker = Broker::start(&["--log-level", "trace"]);
        let secrets = ["open-sesame-1", "open-sesame-2", "open-sesame-3"];
        ctl_on(Some(&broker), &["add_user", "u", secrets[0]]);
        ctl_on(Some(&broker), &["change_password", "u", secrets[1]]);
        ctl_on(Some(&broker), &["authenticate_user", "u", secrets[1]]);
        let client = Client::bare(Some(broker.amqp));
        client.begin();
        let response = format!("\0u\0{}", secrets[2]);
        client.send(
            0,
            &start_ok(
                Options::default().client_properties(),
                "PLAIN",
                response.as_bytes(),
            ),
        );
        client.expect_close(
            403,
            "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile.",
            (0, 0),
        );
        assert!(broker.log().contains("wrong name or password"));
        let definitions = std::fs::read(broker.folder().join("definitions.redb")).unwrap();
        for secret in secrets {
            assert!(!broker.log().contains(secret));
            assert!(
                !definitions
                    .windows(secret.len())
                    .any(|part| part == secret.as_bytes())
            );
        }
    }

    #[test]
    fn guessing_is_slowed_down() {
        if elsewhere("RabbitMQ looks at every attempt") {
            return;
        }
        let broker = Broker::start(&[]);
        for _ in 0..8 {
            run(Some(&broker), &["authenticate_user", "guest", "wrong"]);
        }
        let output = run(Some(&broker), &["authenticate_user", "guest", "wrong"]);
        assert!(!output.status.success());
        // Who is let in is let in again, once the delay is over.
        eventually("a right password is looked at", || {
            run(Some(&broker), &["authenticate_user", "guest", "guest"])
                .status
                .success()
        });
    }

    #[test]
    fn anonymous_is_offered_only_if_configured() {
        if elsewhere("it is offered there") {
            return;
        }
        let login = |broker: &Broker| {
            let client = Client::bare(Some(broker.amqp));
            let mechanisms = client.begin().mechanisms.to_string();
            client.send(
                0,
                &start_ok(Options::default().client_properties(), "ANONYMOUS", b""),
            );
            (mechanisms, client)
        };
        let broker = Broker::start(&[]);
        let (mechanisms, client) = login(&broker);
        assert_eq!(mechanisms, "PLAIN AMQPLAIN");
        client.expect_closed();
        drop(broker);
        let folder = broker::fresh_folder();
        std::fs::create_dir_all(&folder).unwrap();
        let config = folder.with_extension("toml");
        std::fs::write(&config, "[auth]\nanonymous_user = \"guest\"\n").unwrap();
        let broker = Broker::start_on(folder, &["--config", config.to_str().unwrap()]);
        let (mechanisms, client) = login(&broker);
        assert!(mechanisms.contains("ANONYMOUS"));
        assert!(format!("{:?}", client.method(0)).contains("Tune"));
        std::fs::remove_file(config).unwrap();
    }

    #[test]
    fn the_tool_answers_like_the_one_people_know() {
        if elsewhere("the texts are the tool's own") {
            return;
        }
        let broker = Broker::start(&[]);
        let check = |words: &[&str], code: i32, out: &str, err: &str| {
            let output = run(Some(&broker), words);
            assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), out, "{words:?}");
            assert!(
                String::from_utf8_lossy(&output.stderr).starts_with(err),
                "{words:?}: {output:?}"
            );
        };
        check(&["-q", "add_user", "u", "p"], 0, "", "");
        check(
            &["add_user", "u", "p"],
            70,
            "Adding user \"u\" ...\n",
            "Error:\nUser \"u\" already exists",
        );
        check(
            &["set_user_tags", "no", "a"],
            67,
            "Setting tags for user \"no\" to [a] ...\n",
            "Error:\nUser \"no\" does not exist",
        );
        check(
            &["set_permissions", "-q", "no", "", "", ""],
            67,
            "",
            "Error:\nUser no does not exist",
        );
        check(
            &["set_permissions", "-q", "-p", "no", "u", "", "", ""],
            69,
            "",
            "Error:\nVirtual host no does not exist",
        );
        check(
            &["set_permissions", "-q", "u", "(", "", ""],
            69,
            "",
            "Error:\n'(' is not a regular expression",
        );
        check(&["authenticate_user", "-q", "u", "p"], 0, "Success\n", "");
        check(
            &["authenticate_user", "-q", "u", "x"],
            65,
            "",
            "Error:\nError: failed to authenticate user \"u\"\nuser 'u' - invalid credentials",
        );
        check(
            &["list_users", "-q"],
            0,
            "user\ttags\nguest\t[administrator]\nu\t[]\n",
            "",
        );
        check(
            &["list_users", "-s"],
            0,
            "guest\t[administrator]\nu\t[]\n",
            "",
        );
        check(
            &["list_users", "--formatter", "json"],
            0,
            "[\n{\"user\":\"guest\",\"tags\":[\"administrator\"]}\n,{\"user\":\"u\",\"tags\":[]}\n]\n",
            "",
        );
        check(
            &["list_users", "--formatter", "csv"],
            0,
            "\"user\",\"tags\"\n\"guest\",\"[administrator]\"\n\"u\",\"[]\"\n",
            "",
        );
        check(
            &["delete_vhost", "-q", "no"],
            65,
            "",
            "Virtual host 'no' does not exist",
        );
        check(
            &["list_vhosts", "foo"],
            64,
            "",
            "Error (argument validation): Info key(s) foo are not supported",
        );
        check(
            &["set_vhost_limits", "-q", r#"{"max-foo":1}"#],
            69,
            "",
            "Error:\nValidation failed\n\nUnrecognised terms [{<<\"max-foo\">>,1}] in limits\n",
        );
        check(
            &["set_user_limits", "-q", "u", r#"{"max-connections":"a"}"#],
            69,
            "",
            "Error:\nmax-connections should be a number, actually was <<\"a\">>",
        );
        check(&["enable_vhost_deletion_protection", "-q", "/"], 0, "", "");
        check(
            &["delete_vhost", "-q", "/"],
            69,
            "",
            "Error:\nCannot delete virtual host '/'",
        );
        check(&["sing"], 64, "", "\nCommand 'sing' not found.");
        check(
            &["add_vhost"],
            64,
            "",
            "Error (argument validation): not enough arguments.",
        );
        check(&["delete_user", "-q", "u"], 0, "", "");
    }
}
