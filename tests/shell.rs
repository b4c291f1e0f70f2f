//! `mambamq publish` and `mambamq consume`. They speak with any broker: `MAMBAMQ_TEST_URL`.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test"
)]

mod support;

use std::{
    io::Write,
    process::{Child, Command, Output, Stdio},
};

use support::{
    Broker, Channel, Client, broker, eventually, headers, int, plain, queue_delete, table, text,
    tls::{Authority, Subject},
};

/// The binary on the shared broker.
fn tool(words: &[&str]) -> Command {
    let mut command = broker::bare_command();
    let address = broker::address();
    command
        .args(words)
        .env("MAMBAMQ_URI", format!("amqp://guest:guest@{address}/"));
    command
}

fn start(mut command: Command) -> Child {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn feed(command: Command, input: &[u8]) -> Output {
    let mut child = start(command);
    // Dropped, so that the input ends; a tool that does not read it has ended already.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// What the tool writes, when all is well.
#[track_caller]
fn done(words: &[&str], input: &[u8]) -> Vec<u8> {
    let output = feed(tool(words), input);
    assert!(output.status.success(), "{words:?}: {output:?}");
    output.stdout
}

/// What it complains of, with this exit code.
#[track_caller]
fn refused(code: i32, words: &[&str], input: &[u8]) -> String {
    let output = feed(tool(words), input);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A durable queue of this test.
fn queue(channel: &Channel) -> String {
    let name = support::name();
    channel.queue(&name, "durable", table([]));
    name
}

#[test]
fn arguments_become_messages_with_properties_and_headers() {
    let client = Client::connect();
    let channel = client.channel(2);
    let q = queue(&channel);
    done(
        &[
            "publish",
            "-k",
            &q,
            "one",
            "two",
            "-P",
            "content_type=text/plain",
            "-P",
            "priority=3",
            "-H",
            "name=value",
            "-H",
            "count:=5",
            "--persistent",
        ],
        b"",
    );
    for body in ["one", "two"] {
        let message = channel.get(&q, "no_ack").unwrap();
        assert_eq!(message.text(), body);
        let properties = &message.properties;
        assert_eq!(
            properties.content_type().as_ref().unwrap().as_str(),
            "text/plain"
        );
        assert_eq!(properties.priority(), &Some(3));
        assert_eq!(properties.delivery_mode(), &Some(2));
        assert_eq!(message.header("name"), Some(text("value")));
        assert_eq!(message.header("count"), Some(support::long(5)));
    }
    channel.send(&queue_delete(&q, ""));
}

#[test]
fn input_is_one_message_or_one_a_line() {
    let client = Client::connect();
    let channel = client.channel(2);
    let q = queue(&channel);
    let whole: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    done(&["publish", "-k", &q], &whole);
    done(&["publish", "-k", &q, "--lines"], b"a\n\nb\nc");
    done(&["publish", "-k", &q, "--count", "3", "again"], b"");
    assert_eq!(channel.get(&q, "no_ack").unwrap().body, whole);
    assert_eq!(
        channel.drain(&q),
        ["a", "", "b", "c", "again", "again", "again"]
    );
    channel.send(&queue_delete(&q, ""));
}

#[test]
fn lines_of_json_go_round_octet_by_octet() {
    let client = Client::connect();
    let channel = client.channel(2);
    let (q, other) = (queue(&channel), queue(&channel));
    let properties = headers([
        ("n", int(1)),
        (
            "table",
            support::Value::FieldTable(table([("deep", text("x"))])),
        ),
        ("at", support::Value::Timestamp(5)),
        ("bytes", support::bytes(&[0, 255])),
        ("nothing", support::Value::Void),
        ("half", support::Value::Double(0.5)),
    ])
    .with_delivery_mode(2)
    .with_message_id("m".into())
    .with_timestamp(5_000_000_000);
    channel.publish_with("", &q, "", &properties, "text");
    channel.publish_with("", &q, "", &plain(), [0, 159, 146, 150]);
    channel.publish_with("", &q, "", &plain(), "");
    let count = ["-n", "3", "--format", "json"];
    let first = done(&[&["consume", "-q", &q][..], &count].concat(), b"");
    done(&["publish", "--json", "-k", &other, "-e", ""], &first);
    let second = done(&[&["consume", "-q", &other][..], &count].concat(), b"");
    let (first, second) = (
        String::from_utf8(first).unwrap(),
        String::from_utf8(second).unwrap(),
    );
    assert_eq!(first.lines().count(), 3);
    assert_eq!(first.replace(&q, &other), second);
    // Without flags, lines say themselves where they go.
    done(&["publish", "--json"], second.as_bytes());
    let third = done(&[&["consume", "-q", &other][..], &count].concat(), b"");
    assert_eq!(second.as_bytes(), third);
    channel.send(&queue_delete(&q, ""));
    channel.send(&queue_delete(&other, ""));
}

#[test]
fn no_more_is_taken_than_was_asked_for() {
    let client = Client::connect();
    let channel = client.channel(2);
    let q = queue(&channel);
    for number in 0..500 {
        channel.publish("", &q, number.to_string());
    }
    let written = done(&["consume", "-q", &q, "-n", "350", "--prefetch", "30"], b"");
    let expected: String = (0..350).map(|number| format!("{number}\n")).collect();
    assert_eq!(String::from_utf8(written).unwrap(), expected);
    // Looking changes nothing but the mark.
    let looked = done(
        &[
            "consume",
            "-q",
            &q,
            "-n",
            "2",
            "--requeue",
            "--format",
            "raw",
        ],
        b"",
    );
    assert_eq!(looked, b"350351");
    let next = channel.get(&q, "no_ack").unwrap();
    assert_eq!(next.text(), "350");
    let after = channel.get(&q, "no_ack").unwrap();
    assert_eq!((after.text(), after.left), ("351".to_owned(), 148));
    let left = channel.get(&q, "no_ack").unwrap();
    assert!(!left.redelivered, "it had never been out: {left:?}");
    channel.send(&queue_delete(&q, ""));
}

#[test]
fn each_message_is_a_file() {
    let client = Client::connect();
    let channel = client.channel(2);
    let q = queue(&channel);
    let folder = broker::fresh_folder();
    std::fs::write(folder.join("1"), "kept").unwrap();
    std::fs::write(folder.join("in"), [0, 1, 2]).unwrap();
    let (dir, file) = (folder.to_str().unwrap(), folder.join("in"));
    let file = file.to_str().unwrap();
    done(&["publish", "-k", &q, "--file", file, "--file", file], b"");
    done(&["consume", "-q", &q, "-n", "2", "--dir", dir], b"");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    assert_eq!(read("1"), b"kept");
    assert_eq!((read("2"), read("3")), (vec![0, 1, 2], vec![0, 1, 2]));
    let error = refused(2, &["publish", "-k", &q, "--file", "/nowhere/at/all"], b"");
    assert!(error.contains("/nowhere/at/all"), "{error}");
    channel.send(&queue_delete(&q, ""));
}

#[test]
fn an_exchange_is_heard_through_a_queue_of_its_own() {
    let client = Client::connect();
    let channel = client.channel(1);
    let exchange = support::name();
    channel.exchange(&exchange, "topic");
    let words = [
        "consume", "-e", &exchange, "-k", "a.*", "-k", "b", "-n", "2", "-f", "json",
    ];
    let child = start(tool(&words));
    // What is published before its key is bound comes back.
    let hear = |key: &str, body: &str| {
        eventually("somebody listens", || {
            let words = ["publish", "-e", &exchange, "-k", key, "--mandatory", body];
            feed(tool(&words), b"").status.success()
        });
    };
    hear("a.b", "first");
    done(&["publish", "-e", &exchange, "-k", "c", "unheard"], b"");
    hear("b", "second");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let keys: Vec<_> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|line| format!("{} {}", line["routing_key"], line["body"]))
        .collect();
    assert_eq!(keys, [r#""a.b" "first""#, r#""b" "second""#]);
    channel.send(&support::exchange_delete(&exchange, ""));
}

#[test]
fn the_exit_code_says_whether_the_broker_has_it() {
    let client = Client::connect();
    let channel = client.channel(1);
    let full = support::name();
    let arguments = table([
        ("x-max-length", int(1)),
        ("x-overflow", text("reject-publish")),
    ]);
    channel.queue(&full, "", arguments);
    let error = refused(1, &["publish", "-k", &full, "fits", "refused"], b"");
    assert!(error.contains("of 2 messages 1 were refused"), "{error}");
    let error = refused(
        1,
        &["publish", "-k", "nowhere.at.all", "--mandatory", "x"],
        b"",
    );
    assert!(error.contains("312 NO_ROUTE"), "{error}");
    let error = refused(1, &["publish", "-e", "no.such.exchange", "x"], b"");
    assert!(error.contains("404"), "{error}");
    let error = refused(1, &["consume", "-q", "no.such.queue"], b"");
    assert!(error.contains("404"), "{error}");
    let error = refused(1, &["consume", "-q", &full, "-n", "5", "--idle", "1"], b"");
    assert!(error.contains("1 messages came instead of 5"), "{error}");
    // It was written, so that it is acknowledged.
    assert_eq!(channel.ready(&full), 0);
    for words in [
        &["publish", "-P", "colour=red", "x"][..],
        &["publish", "-H", "no-value", "x"],
        &["publish", "-H", "n:={", "x"],
        &["consume"],
        &["consume", "-q", "q", "--requeue"],
        &["consume", "-q", "q", "--no-ack", "-n", "1"],
        &["publish", "--uri", "http://host", "x"],
    ] {
        refused(2, words, b"");
    }
    let error = refused(
        2,
        &["publish", "--json"],
        b"{\"body\":\"fine\"}\n{\"bodi\":\"x\"}\n",
    );
    assert!(
        error.contains("line 2") && error.contains("bodi"),
        "{error}"
    );
    let nobody = "amqp://guest:secret@127.0.0.1:1/";
    let error = refused(3, &["publish", "--uri", nobody, "x"], b"");
    assert!(
        error.contains("127.0.0.1:1") && !error.contains("secret"),
        "{error}"
    );
    let address = broker::address();
    let wrong = format!("amqp://guest:secret@{address}/");
    let error = refused(1, &["publish", "--uri", &wrong, "x"], b"");
    assert!(
        error.contains("403") && !error.contains("secret"),
        "{error}"
    );
}

#[test]
fn an_interrupt_ends_it_in_order() {
    let client = Client::connect();
    let channel = client.channel(2);
    let q = queue(&channel);
    channel.publish("", &q, "one");
    let folder = broker::fresh_folder();
    let child = start(tool(&[
        "consume",
        "-q",
        &q,
        "--dir",
        folder.to_str().unwrap(),
    ]));
    eventually("it is written", || folder.join("1").exists());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!((channel.ready(&q), channel.consumers(&q)), (0, 0));

    // A publisher that waits for its input.
    let mut child = start(tool(&["publish", "-k", &q, "--lines"]));
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"safe\n").unwrap();
    eventually("it is there", || channel.ready(&q) == 1);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(input);
    assert_eq!(channel.drain(&q), ["safe"]);
    channel.send(&queue_delete(&q, ""));
}

#[test]
fn over_tls_with_an_authority_of_our_own() {
    let folder = broker::fresh_folder();
    let authority = Authority::new(&folder, "authority");
    let stranger = Authority::new(&folder, "stranger");
    let subject = Subject {
        hosts: &["localhost"],
        ..Subject::named("localhost")
    };
    let pair = authority.sign("server", &subject);
    let config = folder.join("broker.toml");
    let text = format!(
        "[listeners]\namqps = [\"127.0.0.1:0\"]\n[tls]\ncertificate = {:?}\nkey = {:?}\n",
        pair.certificate, pair.key
    );
    std::fs::write(&config, text).unwrap();
    let broker = Broker::start(&["--config", config.to_str().unwrap()]);
    let uri = format!("amqps://localhost:{}/", broker.amqps().port());
    let client = Client::to(&broker);
    client.channel(1).queue("q", "", table([]));
    let words = |ca: &Authority, words: &[&str]| {
        let mut command = broker::bare_command();
        command.args(words).args(["--uri", &uri]);
        command.arg("--ca").arg(ca.certificate());
        feed(command, b"")
    };
    let output = words(&authority, &["publish", "-k", "q", "hidden"]);
    assert!(output.status.success(), "{output:?}");
    let output = words(&authority, &["consume", "-q", "q", "-n", "1"]);
    assert_eq!(output.stdout, b"hidden\n", "{output:?}");
    let output = words(&stranger, &["publish", "-k", "q", "refused"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}
