//! `mambamq store verify|stats|dump`: what is shown of a stopped node, and what damage is found.

#![allow(clippy::unwrap_used, reason = "the helpers run in tests only")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    sync::OnceLock,
};

use support::{broker::bare_command, *};

fn store(words: &[&str], folder: &Path) -> Output {
    bare_command()
        .arg("store")
        .args(words)
        .arg("--data-dir")
        .arg(folder)
        .output()
        .expect("the binary runs")
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

#[track_caller]
fn done(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}: {}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stdout)))
}

/// The output's lines, each an object.
#[track_caller]
fn lines(output: &Output) -> Vec<serde_json::Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap();
    done(output).lines().map(parse).collect()
}

/// Log files with this ending, oldest first.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join("log")).unwrap().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| path.to_string_lossy().ends_with(end));
    paths.sort();
    paths
}

/// A path that does not exist yet, beside the test's folders.
fn place(end: &str) -> PathBuf {
    let folder = broker::fresh_folder();
    fs::remove_dir(&folder).unwrap();
    let mut name = folder.into_os_string();
    name.push(end);
    name.into()
}

/// Changes one octet of a file.
fn flip(path: &Path, offset: usize) {
    let mut octets = fs::read(path).unwrap();
    octets[offset] ^= 1;
    fs::write(path, octets).unwrap();
}

/// Where the one file that holds `needle` does.
fn place_of(folder: &Path, needle: &[u8]) -> (PathBuf, usize) {
    let found: Vec<_> = files(folder, ".log")
        .into_iter()
        .filter_map(|path| {
            let octets = fs::read(&path).unwrap();
            let at = octets
                .windows(needle.len())
                .position(|window| window == needle)?;
            Some((path, at))
        })
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

/// Starts a broker with log files of 1 MiB: these tests read them whole.
fn start() -> Broker {
    static CONFIG: OnceLock<PathBuf> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let path = place(".toml");
        fs::write(&path, "[store]\nlog_file_size = \"1MiB\"\n").unwrap();
        path
    });
    Broker::start(&["--config", config.to_str().unwrap()])
}

/// A stopped node with queues `a` (20 messages, 5 of them acknowledged), `prio` (3 with priorities) and `empty`.
fn stopped() -> Broker {
    let mut broker = start();
    let client = Client::to(&broker);
    let channel = client.channel(1);
    channel.queue("a", "durable", table([]));
    channel.queue("empty", "durable", table([]));
    channel.queue("prio", "durable", table([("x-max-priority", int(5))]));
    for number in 0..20 {
        client.put_persistent("a", format!("body number {number:04}"));
    }
    for priority in [1, 4, 2] {
        client.put_with(
            "",
            "prio",
            &persistent().with_priority(priority),
            format!("priority {priority}"),
        );
    }
    for _ in 0..5 {
        channel.get("a", "no_ack").unwrap();
    }
    client.close();
    broker.terminate();
    assert!(broker.wait_for_exit().success());
    broker
}

fn skip() -> bool {
    elsewhere("the broker there has no such command")
}

#[test]
fn a_running_broker_is_left_alone() {
    if skip() {
        return;
    }
    let broker = start();
    for words in [&["verify"][..], &["stats"], &["dump", "--queue", "q"]] {
        let output = store(words, broker.folder());
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(
            message.contains("runs on") && message.contains("mambamq backup"),
            "{message}"
        );
    }
    Client::to(&broker)
        .channel(1)
        .queue("q", "durable", table([]));
}

#[test]
fn a_folder_of_somebody_else() {
    if skip() {
        return;
    }
    let folder = broker::fresh_folder();
    let output = store(&["verify"], &folder);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("not a data folder"), "{message}");
    assert_eq!(
        fs::read_dir(&folder).unwrap().count(),
        0,
        "nothing was made in it"
    );
    fs::remove_dir(folder).unwrap();
}

#[test]
fn looking_changes_nothing() {
    if skip() {
        return;
    }
    let broker = stopped();
    let content = |folder: &Path| -> Vec<(PathBuf, Vec<u8>)> {
        let mut all = vec![folder.join("definitions.redb"), folder.join("format")];
        all.extend(files(folder, ""));
        let read = |path: PathBuf| {
            let octets = fs::read(&path).unwrap();
            (path, octets)
        };
        all.into_iter().map(read).collect()
    };
    let before = content(broker.folder());
    for words in [&["verify"][..], &["stats"], &["dump", "--queue", "a"]] {
        done(&store(words, broker.folder()));
    }
    assert!(content(broker.folder()) == before);
}

mod stats {
    use super::*;

    #[test]
    fn queues_and_files() {
        if skip() {
            return;
        }
        let broker = stopped();
        let shown = done(&store(&["stats"], broker.folder()));
        assert!(
            shown.contains("3 durable queues") && shown.contains("18 messages"),
            "{shown}"
        );
        let value = json(&store(&["stats", "--json"], broker.folder()));
        let queues: Vec<_> = value["queues"]
            .as_array()
            .unwrap()
            .iter()
            .map(|queue| {
                (
                    queue["name"].as_str().unwrap(),
                    queue["messages"].as_u64().unwrap(),
                )
            })
            .collect();
        assert_eq!(queues, [("a", 15), ("empty", 0), ("prio", 3)]);
        assert_eq!(value["clean_stop"], true);
        let files = value["log_files"].as_array().unwrap();
        let live: u64 = files
            .iter()
            .map(|file| file["live_messages"].as_u64().unwrap())
            .sum();
        assert_eq!(live, 18);
    }

    #[test]
    fn after_a_crash() {
        if elsewhere("the broker there is not ours to kill") {
            return;
        }
        let mut broker = start();
        let client = Client::to(&broker);
        client.channel(1).queue("q", "durable", table([]));
        for _ in 0..10 {
            client.put_persistent("q", "x");
        }
        let pid = rustix::process::Pid::from_raw(broker.pid().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        broker.wait_for_exit();
        let value = json(&store(&["stats", "--json"], broker.folder()));
        assert_eq!(value["queues"][0]["messages"], 10);
        assert_eq!(value["clean_stop"], false);
        done(&store(&["verify"], broker.folder()));
    }
}

mod dump {
    use super::*;

    #[test]
    fn what_a_queue_holds() {
        if skip() {
            return;
        }
        let broker = stopped();
        let messages = lines(&store(&["dump", "--queue", "a", "--json"], broker.folder()));
        let bodies: Vec<_> = messages
            .iter()
            .map(|one| one["body"].as_str().unwrap().to_owned())
            .collect();
        let expected: Vec<_> = (5..20)
            .map(|number| format!("body number {number:04}"))
            .collect();
        assert_eq!(bodies, expected);
        assert_eq!(messages[0]["routing_key"], "a");
        assert_eq!(messages[0]["properties"]["delivery_mode"], 2);
        let few = lines(&store(
            &["dump", "--queue", "a", "--json", "--limit", "2"],
            broker.folder(),
        ));
        assert_eq!(few.len(), 2);
        let shown = done(&store(
            &["dump", "--queue", "a", "--limit", "2"],
            broker.folder(),
        ));
        assert!(
            shown.contains("body number 0006") && shown.contains("more follow"),
            "{shown}"
        );
        let order: Vec<_> = lines(&store(
            &["dump", "--queue", "prio", "--json"],
            broker.folder(),
        ))
        .iter()
        .map(|one| one["priority"].as_u64().unwrap())
        .collect();
        assert_eq!(order, [4, 2, 1]);
        assert!(done(&store(&["dump", "--queue", "empty"], broker.folder())).contains("empty"));
    }

    #[test]
    fn properties_and_bodies_of_every_kind() {
        if skip() {
            return;
        }
        let mut broker = start();
        let client = Client::to(&broker);
        client.channel(1).queue("q", "durable", table([]));
        let properties = persistent()
            .with_content_type("text/plain".into())
            .with_message_id("m-1".into())
            .with_headers(table([("n", int(7)), ("t", support::text("w"))]));
        client.put_with("", "q", &properties, "hello");
        client.put_with("", "q", &persistent(), [0xFF, 0xFE, 0x00]);
        client.put_with("", "q", &persistent(), "é".repeat(1000));
        client.close();
        broker.terminate();
        broker.wait_for_exit();
        let shown = lines(&store(
            &["dump", "--queue", "q", "--json", "--body-limit", "101"],
            broker.folder(),
        ));
        let found = &shown[0]["properties"];
        assert_eq!(found["content_type"], "text/plain");
        assert_eq!(found["message_id"], "m-1");
        assert_eq!(found["headers"]["n"], 7);
        assert_eq!(found["headers"]["t"], "w");
        assert_eq!(
            (&shown[1]["body"], &shown[1]["body_encoding"]),
            (&"//4A".into(), &"base64".into())
        );
        assert_eq!(shown[2]["body"], "é".repeat(50));
        assert_eq!(shown[2]["body_cut"], true);
        assert_eq!(shown[2]["body_bytes"], 2000);
    }

    #[test]
    fn entries_of_a_log_file() {
        if skip() {
            return;
        }
        let broker = stopped();
        let (path, _) = place_of(broker.folder(), b"body number 0010");
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let kinds: Vec<_> = lines(&store(
            &["dump", "--file", &name, "--json"],
            broker.folder(),
        ))
        .iter()
        .map(|entry| entry["kind"].as_str().unwrap().to_owned())
        .collect();
        assert_eq!(kinds[0], "FILE");
        assert!(kinds.iter().any(|kind| kind == "ENQUEUED"), "{kinds:?}");
        assert!(kinds.iter().all(|kind| kind != "hole"), "{kinds:?}");
    }

    #[test]
    fn what_is_not_there() {
        if skip() {
            return;
        }
        let broker = stopped();
        for (words, hint) in [
            (
                &["dump", "--queue", "nope"][..],
                "no durable queue \"nope\"",
            ),
            (
                &["dump", "--queue", "a", "--vhost", "v"],
                "virtual host \"v\"",
            ),
            (&["dump", "--file", "zz"], "no log file"),
            (&["dump", "--file", "00000000000000ff"], "no log file"),
        ] {
            let output = store(words, broker.folder());
            let message = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{message}");
            assert!(message.contains(hint), "{message}");
        }
    }
}

mod verify {
    use super::*;

    #[test]
    fn a_sound_folder() {
        if skip() {
            return;
        }
        let broker = stopped();
        let shown = done(&store(&["verify"], broker.folder()));
        assert!(
            shown.contains("no damage") && shown.contains("18 messages"),
            "{shown}"
        );
        let value = json(&store(&["verify", "--json"], broker.folder()));
        assert_eq!(value["sound"], true);
        assert_eq!(value["records"], 23);
    }

    /// Exactly one finding, at this file, and what it costs: (queue, messages).
    #[track_caller]
    fn one_finding(folder: &Path, file: &Path) -> Vec<(String, u64)> {
        let output = store(&["verify", "--json"], folder);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        let value = json(&output);
        let damage = value["damage"].as_array().unwrap();
        assert_eq!(damage.len(), 1, "{value:#}");
        let name = file.file_name().unwrap().to_string_lossy();
        assert!(
            damage[0]["file"].as_str().unwrap().ends_with(&*name),
            "{value:#}"
        );
        damage[0]["lost_messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|lost| {
                (
                    lost["queue"].as_str().unwrap().to_owned(),
                    lost["count"].as_u64().unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn a_body_that_decayed() {
        if skip() {
            return;
        }
        let broker = stopped();
        let (path, at) = place_of(broker.folder(), b"body number 0010");
        flip(&path, at);
        assert_eq!(one_finding(broker.folder(), &path), [("a".to_owned(), 1)]);
        let shown = text(&store(&["verify"], broker.folder()).stdout);
        assert!(
            shown.contains("checksum") && shown.contains("queue \"a\" in \"/\""),
            "{shown}"
        );
        // The others are still shown.
        let messages = lines(&store(&["dump", "--queue", "a", "--json"], broker.folder()));
        assert_eq!(messages.len(), 15);
        assert!(
            messages[5]["damaged"]
                .as_str()
                .unwrap()
                .contains("checksum")
        );
    }

    #[test]
    fn a_body_nobody_needs_any_more() {
        if skip() {
            return;
        }
        let broker = stopped();
        let (path, at) = place_of(broker.folder(), b"body number 0002");
        flip(&path, at);
        assert_eq!(one_finding(broker.folder(), &path), []);
    }

    #[test]
    fn the_length_of_a_record() {
        if skip() {
            return;
        }
        let broker = stopped();
        let (path, at) = place_of(broker.folder(), b"body number 0010");
        // The record begins before the body: header, address, content header.
        let octets = fs::read(&path).unwrap();
        let body = "body number 0010".len();
        let start = (0..at)
            .rev()
            .find(|start| {
                octets[*start..*start + 4]
                    == u32::try_from(at + body - start).unwrap().to_le_bytes()
            })
            .unwrap();
        flip(&path, start);
        assert_eq!(one_finding(broker.folder(), &path), [("a".to_owned(), 1)]);
    }

    #[test]
    fn the_header_of_an_entry() {
        if skip() {
            return;
        }
        let broker = stopped();
        let path = files(broker.folder(), ".log").remove(0);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let entries = lines(&store(
            &["dump", "--file", &name, "--json"],
            broker.folder(),
        ));
        // Later entries know it to be on the disk.
        let enqueued = entries
            .iter()
            .find(|entry| entry["kind"] == "ENQUEUED")
            .expect("messages were enqueued");
        flip(
            &path,
            usize::try_from(enqueued["offset"].as_u64().unwrap()).unwrap() + 20,
        );
        let _ = one_finding(broker.folder(), &path);
    }

    #[test]
    fn a_missing_piece_at_the_end_of_a_file() {
        if skip() {
            return;
        }
        // A second start makes a second file.
        let first = stopped();
        let mut again = Broker::start_on(first.folder().to_owned(), &[]);
        let client = Client::to(&again);
        client.put_persistent("a", "more");
        client.close();
        again.terminate();
        assert!(again.wait_for_exit().success());
        let (path, at) = place_of(again.folder(), b"body number 0010");
        let octets = fs::read(&path).unwrap();
        fs::write(&path, &octets[..at]).unwrap();
        let _ = one_finding(again.folder(), &path);
    }

    #[test]
    fn an_index() {
        if skip() {
            return;
        }
        let mut broker = start();
        let client = Client::to(&broker);
        client.channel(1).queue("a", "durable", table([]));
        for number in 0..20u8 {
            client.put_persistent("a", vec![b'a' + number; 300_000]);
        }
        eventually("an index is written", || {
            !files(broker.folder(), ".idx").is_empty()
        });
        client.close();
        broker.terminate();
        assert!(broker.wait_for_exit().success());
        let shown = done(&store(&["verify"], broker.folder()));
        assert!(!shown.contains(" 0 indexes"), "{shown}");
        let path = files(broker.folder(), ".idx").remove(0);
        let middle = fs::read(&path).unwrap().len() / 2;
        flip(&path, middle);
        assert_eq!(one_finding(broker.folder(), &path), []);
        let shown = text(&store(&["verify"], broker.folder()).stdout);
        assert!(shown.contains("makes anew"), "{shown}");
        let words = ["dump", "--queue", "a", "--json", "--body-limit", "1"];
        let bodies: Vec<_> = lines(&store(&words, broker.folder()))
            .iter()
            .map(|one| one["body"].as_str().unwrap().to_owned())
            .collect();
        let expected: Vec<_> = (b'a'..b'a' + 20)
            .map(|octet| char::from(octet).to_string())
            .collect();
        assert_eq!(bodies, expected);
    }

    #[test]
    fn the_definitions() {
        if skip() {
            return;
        }
        let broker = stopped();
        let path = broker.folder().join("definitions.redb");
        let len = fs::read(&path).unwrap().len();
        fs::write(&path, vec![7; len]).unwrap();
        let output = store(&["verify"], broker.folder());
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        let shown = text(&output.stdout);
        assert!(shown.contains("definitions.redb"), "{shown}");
    }
}
