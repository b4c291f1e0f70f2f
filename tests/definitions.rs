//! Definitions: out of one broker and into another one. The samples were exported by RabbitMQ 4.0.5 through its HTTP API;
//! in the one of a cluster, objects of others were taken out.

#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers may unwrap like the test"
)]

mod support;

use std::{fs, io::Write, path::PathBuf, process::Output, process::Stdio};

use serde_json::{Value, json};
use support::{
    ctl::{ctl_on, refused_on},
    http::Api,
    *,
};

const CLUSTER: &str = include_str!("definitions/rabbitmq-4.0.5-cluster.json");
const VHOST: &str = include_str!("definitions/rabbitmq-4.0.5-vhost.json");

/// Runs `mambamq definitions` on this broker, with this on its standard input.
fn definitions(broker: &Broker, words: &[&str], input: &str) -> Output {
    let mut child = broker::bare_command()
        .arg("definitions")
        .args(words)
        .arg("--data-dir")
        .arg(broker.folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    child.wait_with_output().unwrap()
}

#[track_caller]
fn export_of(broker: &Broker, words: &[&str]) -> Value {
    let words = [&["export"], words].concat();
    let output = definitions(broker, &words, "");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn import(broker: &Broker, words: &[&str], document: &str) -> String {
    let words = [&["import"], words].concat();
    let output = definitions(broker, &words, document);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What the refused import says.
#[track_caller]
fn refused(broker: &Broker, words: &[&str], document: &str) -> String {
    let words = [&["import"], words].concat();
    let output = definitions(broker, &words, document);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// The objects of a list of a document, each without what the two brokers write differently, in one order.
fn list(document: &Value, key: &str) -> Vec<String> {
    let mut objects: Vec<Value> = document[key].as_array().unwrap().clone();
    for object in &mut objects {
        let fields = object.as_object_mut().unwrap();
        if key == "queues" {
            fields.remove("type");
        }
        if key == "vhosts" {
            fields.remove("limits");
        }
    }
    let mut texts: Vec<String> = objects.iter().map(Value::to_string).collect();
    texts.sort_unstable();
    texts
}

fn guest_in_shop(broker: &Broker) -> Client {
    ctl_on(
        Some(broker),
        &["set_permissions", "-p", "shop", "guest", ".*", ".*", ".*"],
    );
    Client::with(&Options {
        address: Some(broker.amqp),
        virtual_host: "shop",
        ..Options::default()
    })
}

/// The topology of the samples does what it did where it came from.
#[track_caller]
fn works(client: &Client) {
    let channel = client.channel(1);
    channel.call(&confirm_select());
    let headed = headers([("kind", text("mail"))]);
    for (number, exchange, key, properties) in [
        (1, "orders", "eu.1", plain()),
        (2, "orders", "us.1", plain()),
        (3, "orders", "asia.1", plain()),
        (4, "by-header", "", headed.clone()),
        (5, "by-header", "", plain()),
        (6, "amq.topic", "mail.1", plain()),
        (7, "temp", "k", plain()),
        (8, "by-header", "", headed),
    ] {
        channel.publish_with(exchange, key, "", &properties, number.to_string());
    }
    assert!(channel.confirms(1, 8).values().all(|accepted| *accepted));
    for (queue, expected) in [
        ("orders.eu", &["1"][..]),
        ("orders.us", &["2"]),
        ("lost", &["5"]),
        // At most two, by a policy.
        ("mail", &["6", "8"]),
        ("scratch", &["7"]),
    ] {
        assert_eq!(channel.drain(queue), expected, "{queue}");
    }
    channel.publish("", "orders.eu", "bad");
    let got = channel.get("orders.eu", "").unwrap();
    channel.send(&reject(got.tag, ""));
    channel.flow();
    assert_eq!(channel.drain("orders.dead"), ["bad"]);
}

mod samples {
    use super::*;

    #[test]
    fn a_cluster() {
        let broker = Broker::start(&[]);
        let said = import(&broker, &[], CLUSTER);
        assert!(said.ends_with(" objects imported\n"), "{said}");
        let sample: Value = serde_json::from_str(CLUSTER).unwrap();
        let exported = export_of(&broker, &[]);
        for key in [
            "topic_permissions",
            "policies",
            "queues",
            "exchanges",
            "bindings",
            "parameters",
        ] {
            assert_eq!(list(&exported, key), list(&sample, key), "{key}");
        }
        for key in ["users", "vhosts", "permissions", "global_parameters"] {
            let all = list(&exported, key);
            for object in list(&sample, key) {
                assert!(all.contains(&object), "{key}: {object} is not in {all:#?}");
            }
        }
        works(&guest_in_shop(&broker));
        let app = Client::with(&Options {
            address: Some(broker.amqp),
            user: "shop-app",
            password: "secret",
            virtual_host: "shop",
            ..Options::default()
        });
        let channel = app.channel(1);
        channel.send(&queue_declare("x", "", table([])));
        channel.expect_close(
            403,
            "ACCESS_REFUSED - configure access to queue 'x' in vhost 'shop' refused for user 'shop-app'",
            (50, 10),
        );
        let limits = ctl_on(Some(&broker), &["list_vhost_limits", "-q", "-p", "shop"]);
        assert_eq!(limits, "{\"max-queues\":50}\n");
    }

    #[test]
    fn a_virtual_host_into_another_one() {
        let broker = Broker::start(&[]);
        let text = refused(&broker, &["--vhost", "shop"], VHOST);
        let advice = "Please create virtual host \"shop\" prior to importing definitions.";
        assert!(text.contains(advice), "{text}");
        ctl_on(Some(&broker), &["add_vhost", "shop"]);
        import(&broker, &["--vhost", "shop"], VHOST);
        let sample: Value = serde_json::from_str(VHOST).unwrap();
        let exported = export_of(&broker, &["--vhost", "shop"]);
        for key in ["policies", "queues", "exchanges", "bindings"] {
            assert_eq!(list(&exported, key), list(&sample, key), "{key}");
        }
        assert_eq!(
            exported["rabbitmq_definition_format"],
            "single_virtual_host"
        );
        assert_eq!(exported["limits"], sample["limits"]);
        works(&guest_in_shop(&broker));
        let text = refused(&broker, &[], VHOST);
        assert!(text.contains("invalid_definitions_file"), "{text}");
    }
}

mod round_trip {
    use super::*;

    /// What one broker gives, another one takes and gives again; a crash changes nothing.
    #[test]
    fn of_a_whole_node() {
        let first = Broker::start(&[]);
        import(&first, &[], CLUSTER);
        ctl_on(
            Some(&first),
            &[
                "set_parameter",
                "-p",
                "shop",
                "shovel",
                "s",
                r#"{"src-uri":"amqp://"}"#,
            ],
        );
        let client = guest_in_shop(&first);
        let channel = client.channel(1);
        channel.own_queue("of a connection");
        channel.bind("of a connection", "orders", "#");
        let given = export_of(&first, &[]);
        assert!(!given.to_string().contains("of a connection"));
        let second = Broker::start(&[]);
        import(&second, &[], &given.to_string());
        assert_eq!(export_of(&second, &[]), given);
        // What is there already stays as it is, what a crash took with it comes back.
        import(&second, &[], &given.to_string());
        assert_eq!(export_of(&second, &[]), given);
        let second = second.crash_and_restart();
        let durable = export_of(&second, &[]);
        assert_eq!(durable["queues"].as_array().unwrap().len(), 5);
        assert_eq!(durable["policies"], given["policies"]);
        assert_eq!(durable["users"], given["users"]);
        import(&second, &[], &given.to_string());
        assert_eq!(export_of(&second, &[]), given);
        works(&guest_in_shop(&second));
    }

    #[test]
    fn by_files_and_by_the_other_tool() {
        let broker = Broker::start(&[]);
        let file = broker.folder().join("exported.json");
        let path = file.to_str().unwrap();
        fs::write(&file, CLUSTER).unwrap();
        ctl_on(Some(&broker), &["import_definitions", "-q", path]);
        let given = export_of(&broker, &[]);
        ctl_on(Some(&broker), &["export_definitions", "-q", path]);
        let written: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(written, given);
        let output = definitions(&broker, &["export", path], "");
        assert!(output.status.success(), "{output:?}");
        import(&broker, &[path], "");
        let text = refused_on(Some(&broker), 65, &["import_definitions", "/no/such/file"]);
        assert!(text.contains("File /no/such/file does not exist"), "{text}");
        let text = refused_on(Some(&broker), 65, &["export_definitions", "/no/such/file"]);
        assert!(text.contains("Directory /no/such does not exist"), "{text}");
    }
}

mod refusal {
    use super::*;

    /// Each of these is wrong in one place: nothing of it is done, and the answer names the place.
    #[test]
    fn changes_nothing() {
        let broker = Broker::start(&[]);
        ctl_on(Some(&broker), &["set_vhost_limits", r#"{"max-queues":2}"#]);
        let before = export_of(&broker, &[]);
        let good = json!({
            "users": [{"name": "new", "password": "p", "tags": ""}],
            "vhosts": [{"name": "v"}],
            "permissions": [{"user": "new", "vhost": "v", "configure": "", "write": "", "read": ""}],
            "global_parameters": [{"name": "g", "value": 1}],
            "parameters": [],
            "policies": [{"vhost": "/", "name": "p", "pattern": "^q", "definition": {"max-length": 1}}],
            "exchanges": [{"name": "x", "vhost": "v", "type": "headers"}],
            "queues": [{"name": "q", "vhost": "v"}],
            "bindings": [],
        });
        let check = |list: &str, object: Value, expected: &str| {
            let mut document = good.clone();
            document[list].as_array_mut().unwrap().push(object);
            let text = refused(&broker, &[], &document.to_string());
            assert!(text.contains(expected), "{expected:?} is not in {text}");
            assert_eq!(export_of(&broker, &[]), before, "{text}");
        };
        let in_v = |name: &str, more: Value| {
            let mut object = json!({"name": name, "vhost": "v"});
            object
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            object
        };
        check(
            "queues",
            in_v("bad", json!({"arguments": {"x-expires": 0}})),
            "queues[1] 'bad' in vhost 'v': invalid arg 'x-expires' for queue 'bad' in vhost 'v': {value_zero,0}",
        );
        check(
            "queues",
            in_v("s", json!({"type": "stream"})),
            "queues[1] 's' in vhost 'v': invalid arg 'x-queue-type'",
        );
        check(
            "queues",
            in_v("n", json!({"arguments": {"a": null}})),
            "null_not_allowed",
        );
        check(
            "queues",
            in_v("t", json!({"type": "quorum", "durable": false})),
            "queues[1] 't' in vhost 'v': invalid property 'non-durable'",
        );
        check(
            "queues",
            json!({"name": "q2", "vhost": "w"}),
            "Please create virtual host \"w\" prior to importing definitions.",
        );
        check(
            "exchanges",
            in_v("y", json!({"type": "nonsense"})),
            "exchanges[1] 'y' in vhost 'v': unknown exchange type 'nonsense'",
        );
        let binding = |more: Value| {
            let mut object = json!({"source": "x", "vhost": "v", "destination": "q", "destination_type": "queue", "routing_key": ""});
            object
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            object
        };
        check(
            "bindings",
            binding(json!({"destination": "nowhere"})),
            "bindings[0] from 'x' to 'nowhere' in vhost 'v': no queue 'nowhere' in vhost 'v'",
        );
        check(
            "bindings",
            binding(json!({"source": "nothing"})),
            "no exchange 'nothing' in vhost 'v'",
        );
        check(
            "bindings",
            binding(json!({"arguments": {"x-match": "some"}})),
            "bindings[0] from 'x' to 'q' in vhost 'v': Invalid x-match field value",
        );
        check(
            "policies",
            in_v(
                "bad",
                json!({"pattern": "^q", "definition": {"max-length": -1}}),
            ),
            "policies[1] 'bad' in vhost 'v': -1 is not a valid maximum length",
        );
        check(
            "parameters",
            in_v("p", json!({"component": "foo", "value": 1})),
            "component foo not found",
        );
        check("users", json!({"name": "u"}), "tags_not_present");
        check(
            "users",
            json!({"name": "u", "tags": "", "password_hash": "AAAA"}),
            "users[1] 'u': the password hash holds 3 octets",
        );
        check(
            "permissions",
            json!({"user": "nobody", "vhost": "v", "configure": "", "write": "", "read": ""}),
            "there is no user 'nobody'",
        );
        let mut many = good.clone();
        many["queues"] = (0..3)
            .map(|n| json!({"name": format!("q{n}"), "vhost": "/"}))
            .collect();
        let text = refused(&broker, &[], &many.to_string());
        assert!(
            text.contains("queue limit in vhost '/' (2) is reached"),
            "{text}"
        );
        assert_eq!(export_of(&broker, &[]), before);
        for document in ["", "{", "[]", "\"x\""] {
            let text = refused(&broker, &[], document);
            assert!(text.contains("not_json"), "{text}");
        }
        import(&broker, &[], &good.to_string());
        assert_ne!(export_of(&broker, &[]), before);
    }

    #[test]
    fn by_the_limits_of_the_node() {
        let broker = Broker::start(&[
            "--config",
            &configuration("[limits]\nqueues_max = 3\nvhosts_max = 2\n"),
        ]);
        let text = refused(&broker, &[], CLUSTER);
        assert!(
            text.contains("queues: queue limit in cluster (3) is reached"),
            "{text}"
        );
        ctl_on(Some(&broker), &["add_vhost", "v"]);
        let text = refused(&broker, &[], CLUSTER);
        assert!(
            text.contains("vhosts: vhost limit of 2 is reached"),
            "{text}"
        );
    }
}

/// A configuration file with this in it.
fn configuration(text: &str) -> String {
    let path: PathBuf = std::env::temp_dir().join(format!("{}.toml", name()));
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

mod at_start {
    use super::*;

    #[test]
    fn a_file_is_loaded() {
        let file = std::env::temp_dir().join(format!("{}.json", name()));
        fs::write(&file, CLUSTER).unwrap();
        let configuration = configuration(&format!("[node]\nload_definitions = {file:?}\n"));
        let broker = Broker::start(&["--config", &configuration]);
        // Who defines the users of a node has no guest in it.
        let users = ctl_on(Some(&broker), &["list_users", "-s"]);
        assert_eq!(users, "shop-app\t[monitoring]\n");
        let given = export_of(&broker, &[]);
        let folder = broker.kill();
        let broker = Broker::start_on(folder, &["--config", &configuration]);
        assert_eq!(export_of(&broker, &[]), given);
        let folder = broker.kill();
        fs::write(&file, r#"{"queues": [{"name": "q", "vhost": "nowhere"}]}"#).unwrap();
        let refusal = Broker::try_start_on(folder, &["--config", &configuration]).unwrap_err();
        assert_eq!(refusal.status.code(), Some(1));
        assert!(
            refusal.text.contains("node.load_definitions")
                && refusal
                    .text
                    .contains("Please create virtual host \"nowhere\""),
            "{}",
            refusal.text
        );
        fs::remove_file(&file).unwrap();
        fs::remove_file(&configuration).unwrap();
    }

    #[test]
    fn a_file_that_is_not_there() {
        let configuration = configuration("[node]\nload_definitions = \"/no/such/file.json\"\n");
        let folder = std::env::temp_dir().join(name());
        fs::create_dir(&folder).unwrap();
        let refusal =
            Broker::try_start_on(folder.clone(), &["--config", &configuration]).unwrap_err();
        assert!(
            refusal.text.contains("/no/such/file.json"),
            "{}",
            refusal.text
        );
        fs::remove_dir_all(&folder).unwrap();
        fs::remove_file(&configuration).unwrap();
    }
}

mod parameters {
    use super::*;

    #[test]
    fn are_kept_and_given_back() {
        let broker = Broker::start(&[]);
        let on = |broker: &Broker, words: &[&str]| ctl_on(Some(broker), words);
        let refused = |words: &[&str]| refused_on(Some(&broker), 69, words);
        on(&broker, &["set_parameter", "shovel", "s", r#"{"a":1}"#]);
        on(
            &broker,
            &[
                "set_parameter",
                "vhost-limits",
                "limits",
                r#"{"max-queues":3}"#,
            ],
        );
        on(
            &broker,
            &["set_operator_policy", "o", "^q", r#"{"max-length":5}"#],
        );
        let text = refused(&["set_parameter", "foo", "s", "1"]);
        assert_eq!(
            text,
            "Error:\nValidation failed\n\ncomponent foo not found\n\n"
        );
        let text = refused(&["set_parameter", "policy", "s", r#"{"a":1}"#]);
        assert_eq!(text, "Error:\npolicies may not be set using this method\n");
        let text = refused(&["clear_parameter", "shovel", "nothing"]);
        assert_eq!(text, "Error:\nParameter does not exist\n");
        let expected = "component\tname\tvalue\n\
            vhost-limits\tlimits\t{\"max-queues\":3}\n\
            operator_policy\to\t{\"pattern\":\"^q\",\"definition\":{\"max-length\":5},\"priority\":0,\"apply-to\":\"all\"}\n\
            shovel\ts\t{\"a\":1}\n";
        let rows = |text: String| {
            let mut rows: Vec<Vec<Value>> = text
                .lines()
                .skip(1)
                .map(|line| {
                    line.split('\t')
                        .map(|cell| serde_json::from_str(cell).unwrap_or_else(|_| cell.into()))
                        .collect()
                })
                .collect();
            rows.sort_unstable_by_key(|row| row[0].to_string());
            rows
        };
        assert_eq!(
            rows(on(&broker, &["list_parameters", "-q"])),
            rows(expected.to_owned())
        );
        let broker = broker.crash_and_restart();
        assert_eq!(
            rows(on(&broker, &["list_parameters", "-q"])),
            rows(expected.to_owned())
        );
        on(&broker, &["clear_parameter", "shovel", "s"]);
        on(&broker, &["clear_parameter", "vhost-limits", "limits"]);
        on(&broker, &["clear_operator_policy", "o"]);
        let broker = broker.crash_and_restart();
        assert_eq!(on(&broker, &["list_parameters", "-s"]), "");
    }
}

mod limits_of_the_node {
    use super::*;

    #[test]
    fn queues_exchanges_and_virtual_hosts() {
        let configuration =
            configuration("[limits]\nqueues_max = 2\nexchanges_max = 15\nvhosts_max = 2\n");
        let broker = Broker::start(&["--config", &configuration]);
        ctl_on(Some(&broker), &["add_vhost", "shop"]);
        let text = refused_on(Some(&broker), 69, &["add_vhost", "w"]);
        assert!(
            text.contains("cannot create vhost 'w': vhost limit of 2 is reached"),
            "{text}"
        );
        let (here, there) = (Client::to(&broker), guest_in_shop(&broker));
        let one = there.channel(1);
        one.queue("q", "durable", table([]));
        one.call(&exchange_declare("x", "direct", "", table([])));
        let channel = here.channel(1);
        channel.own_queue("q1");
        // Those that are there can be declared again.
        channel.own_queue("q1");
        channel.send(&queue_declare("q2", "", table([])));
        let text = "PRECONDITION_FAILED - cannot declare queue 'q2': queue limit in cluster (2) is reached";
        channel.expect_close(406, text, (50, 10));
        let channel = here.channel(2);
        channel.send(&exchange_declare("x", "direct", "", table([])));
        let text = "PRECONDITION_FAILED - cannot declare exchange 'x' in vhost '/': exchange limit of 15 is reached";
        channel.expect_close(406, text, (40, 10));
        one.call(&queue_delete("q", ""));
        one.call(&exchange_delete("x", ""));
        let channel = here.channel(3);
        channel.own_queue("q2");
        channel.call(&exchange_declare("x", "direct", "", table([])));
        fs::remove_file(&configuration).unwrap();
    }
}

/// With another broker (`MAMBAMQ_TEST_HTTP=HOST:PORT`, its management API): what is exported here is imported there, comes back the
/// same, and is imported here again. Its virtual host and user named `definitions-*` are made and deleted.
#[test]
fn there_and_back() {
    const VHOST_NAME: &str = "definitions-there-and-back";
    const KEYS: [&str; 5] = ["queues", "exchanges", "bindings", "policies", "parameters"];
    let Ok(there) = std::env::var("MAMBAMQ_TEST_HTTP") else {
        return;
    };
    let there = Api::new(there.parse().unwrap(), "guest", "guest");
    let broker = Broker::start(&[]);
    let here = Api::new(broker.management, "guest", "guest");
    let (path, of_user) = (format!("/vhosts/{VHOST_NAME}"), "/users/definitions-user");
    there.delete(&path);
    there.delete(of_user);
    assert_eq!(
        here.put(&path, r#"{"description":"d","tags":"a,b"}"#)
            .status,
        201
    );
    let user = r#"{"password":"p","tags":"management"}"#;
    assert_eq!(here.put(of_user, user).status, 201);
    let rights = r#"{"configure":"^a","write":"^b","read":""}"#;
    let granted = here.put(
        &format!("/permissions/{VHOST_NAME}/definitions-user"),
        rights,
    );
    assert_eq!(granted.status, 201);
    let limit = here.put(
        &format!("/vhost-limits/{VHOST_NAME}/max-queues"),
        r#"{"value":100}"#,
    );
    assert_eq!(limit.status, 204);
    let of_vhost = format!("/definitions/{VHOST_NAME}");
    assert_eq!(here.post(&of_vhost, VHOST).status, 204);

    // Everything but what both have of their own.
    let mut document = here.get("/definitions").json();
    let own = |one: &Value| {
        let text = one.to_string();
        text.contains(VHOST_NAME) || text.contains("definitions-user")
    };
    for objects in document.as_object_mut().unwrap().values_mut() {
        if let Some(objects) = objects.as_array_mut() {
            objects.retain(own);
        }
    }
    let json = [("content-type", "application/json")];
    let imported = there.request(
        "POST",
        "/definitions",
        &json,
        document.to_string().as_bytes(),
    );
    assert_eq!(imported.status, 204, "{imported:?}");
    let (ours, theirs) = (here.get(&of_vhost).json(), there.get(&of_vhost).json());
    for key in KEYS {
        assert!(!list(&ours, key).is_empty(), "{key}");
        assert_eq!(list(&theirs, key), list(&ours, key), "{key}");
    }
    let as_user = there.get(&format!("/permissions/{VHOST_NAME}/definitions-user"));
    assert_eq!(as_user.json()["configure"], "^a");
    let metadata = &theirs["metadata"];
    assert_eq!(
        (&metadata["description"], &metadata["tags"]),
        (&json!("d"), &json!(["a", "b"]))
    );

    assert_eq!(here.delete(&path).status, 204);
    let whole = there
        .get(&format!("/definitions?vhost={VHOST_NAME}"))
        .json();
    let mut part: Value = whole.clone();
    for objects in part.as_object_mut().unwrap().values_mut() {
        if let Some(objects) = objects.as_array_mut() {
            objects.retain(own);
        }
    }
    let back = here.post("/definitions", &part.to_string());
    assert_eq!(back.status, 204, "{back:?}");
    let again = here.get(&of_vhost).json();
    for key in KEYS {
        assert_eq!(list(&again, key), list(&ours, key), "{key}");
    }
    assert_eq!(there.delete(&path).status, 204);
    assert_eq!(there.delete(of_user).status, 204);
}
