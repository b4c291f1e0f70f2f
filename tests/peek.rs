//! `mambamq ctl peek_queue`: looking at a queue without changing it.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;

use serde_json::Value;
use support::*;

/// The messages of a page.
#[track_caller]
fn peek(node: &Broker, words: &[&str]) -> Vec<Value> {
    let mut command = broker::bare_command();
    command.args(["ctl", "--data-dir", node.folder().to_str().unwrap()]);
    command.args(["peek_queue", "--formatter", "json"]);
    let output = command.args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn bodies(page: &[Value]) -> Vec<&str> {
    page.iter()
        .map(|one| one["body"].as_str().unwrap().trim())
        .collect()
}

#[test]
fn shows_messages_with_their_properties_and_changes_nothing() {
    if elsewhere("the broker there is not ours to look into") {
        return;
    }
    let node = Broker::start(&[]);
    let client = Client::to(&node);
    let channel = client.channel(1);
    channel.queue("q", "durable", table([("x-max-priority", int(5))]));
    let properties = headers([("region", text("eu"))]).with_priority(3);
    client.put("q", "last");
    client.put_with("", "q", &properties, "first");
    client.put_with("", "q", &plain().with_priority(1), [0xff, 0]);
    for _ in 0..2 {
        let page = peek(&node, &["q"]);
        assert_eq!(bodies(&page), ["first", "/wA=", "last"]);
        assert_eq!(page[0]["properties"]["headers"]["region"], "eu");
        assert_eq!(page[0]["properties"]["priority"], 3);
        assert_eq!(page[1]["body_encoding"], "base64");
        assert_eq!(page[2]["position"], 2);
        assert!(page.iter().all(|one| one["redelivered"] == false));
    }
    assert_eq!(
        bodies(&peek(&node, &["q", "--offset", "1", "--count", "1"])),
        ["/wA="]
    );
    assert_eq!(peek(&node, &["q", "--offset", "3"]), Vec::<Value>::new());
    assert_eq!(channel.ready("q"), 3);
    let first = channel.get("q", "").unwrap();
    assert!(!first.redelivered);
    assert_eq!(peek(&node, &["q"]).len(), 2);
    channel.send(&nack(first.tag, "requeue"));
    channel.ready("q");
    let page = peek(&node, &["q"]);
    assert_eq!(
        (bodies(&page)[0], &page[0]["redelivered"]),
        ("first", &true.into())
    );
}

#[test]
fn says_what_is_not_there() {
    if elsewhere("the broker there is not ours to look into") {
        return;
    }
    let node = Broker::start(&[]);
    for (words, text) in [
        (&["nowhere"][..], "no queue 'nowhere' in vhost '/'"),
        (&["--vhost", "v", "q"], "Virtual host 'v' does not exist"),
        (
            &["q", "--count", "x"],
            "the option --count needs a number, not 'x'",
        ),
        (&[], "not enough arguments"),
    ] {
        let mut command = broker::bare_command();
        command.args([
            "ctl",
            "--data-dir",
            node.folder().to_str().unwrap(),
            "peek_queue",
        ]);
        let output = command.args(words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains(text),
            "{words:?}: {said}"
        );
    }
}

#[test]
fn reads_from_the_disk() {
    if elsewhere("the broker there is not ours to look into") {
        return;
    }
    let folder = broker::fresh_folder();
    let config = folder.with_extension("toml");
    let small = "[store]\nlog_file_size = \"1MiB\"\n[memory]\nmessages = \"1MiB\"\n";
    fs::write(&config, small).unwrap();
    let node = Broker::start_on(folder, &["--config", config.to_str().unwrap()]);
    let client = Client::to(&node);
    let channel = client.channel(1);
    // With gaps: some messages have another priority.
    for (queue, priorities) in [("plain", 0), ("levels", 2)] {
        channel.queue(
            queue,
            "durable",
            table([("x-max-priority", int(priorities))]),
        );
        let put = client.channel(2 + u16::try_from(priorities).unwrap());
        put.call(&confirm_select());
        for number in 1..=5000 {
            let priority = u8::from(number % 10 == 0);
            let properties = persistent().with_priority(priority);
            put.publish_with("", queue, "", &properties, format!("{number:<1000}"));
        }
        put.confirms(1, 5000);
        let numbers: Vec<u64> = match priorities {
            0 => (1..=5000).collect(),
            _ => {
                let (high, low): (Vec<_>, Vec<_>) = (1..=5000).partition(|n| n % 10 == 0);
                [high, low].concat()
            }
        };
        for (offset, count) in [(0, 3), (1500, 700), (4000, 1000), (4999, 5)] {
            let (at, many) = (offset.to_string(), count.to_string());
            let page = peek(&node, &[queue, "--offset", &at, "--count", &many]);
            let expected: Vec<String> = numbers[offset..]
                .iter()
                .take(count)
                .map(u64::to_string)
                .collect();
            assert_eq!(bodies(&page), expected, "{queue} from {offset}");
            assert_eq!(page[0]["position"], offset);
        }
        assert_eq!(channel.ready(queue), 5000);
    }
    drop(node);
    fs::remove_file(&config).unwrap();
}
