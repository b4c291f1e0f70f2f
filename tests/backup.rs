//! `mambamq backup` and `mambamq restore`: what a copy of a node holds, and what is refused.

#![allow(clippy::unwrap_used, reason = "the helpers run in tests only")]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use support::{
    broker::{bare_command, fresh_folder},
    *,
};

fn run(words: &[&str], paths: &[(&str, &Path)]) -> Output {
    let mut command = bare_command();
    command.args(words);
    for (flag, path) in paths {
        command.arg(flag).arg(path);
    }
    command.output().expect("the binary runs")
}

fn backup(folder: &Path, to: &Path) -> Output {
    run(&["backup"], &[("--data-dir", folder), ("--to", to)])
}

fn restore(from: &Path, folder: &Path) -> Output {
    run(&["restore"], &[("--from", from), ("--data-dir", folder)])
}

#[track_caller]
fn done(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The command failed with exit code 1 and said all of `words`.
#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
}

/// A path that does not exist yet, beside the test's folders.
fn place(end: &str) -> PathBuf {
    let folder = fresh_folder();
    fs::remove_dir(&folder).unwrap();
    let mut name = folder.into_os_string();
    name.push(end);
    name.into()
}

fn remove(path: &Path) {
    let _ = fs::remove_dir_all(path);
    let _ = fs::remove_file(path);
}

/// A broker with some definitions and `count` messages, numbered from 0.
fn filled(count: u32) -> Broker {
    let broker = Broker::start(&[]);
    let client = Client::to(&broker);
    let channel = client.channel(1);
    channel.queue("q", "durable", table([("x-max-priority", int(3))]));
    channel.call(&exchange_declare("x", "topic", "durable", table([])));
    channel.bind("q", "x", "a.#");
    for number in 0..count {
        client.put_with("x", "a.b", &persistent(), number.to_string());
    }
    client.close();
    broker
}

/// The restored folder has what [`filled`] made.
#[track_caller]
fn check_filled(folder: PathBuf, count: u32) {
    let broker = Broker::start_on(folder, &[]);
    let client = Client::to(&broker);
    let channel = client.channel(1);
    // Declaring it again with the same arguments must fit.
    channel.queue("q", "durable", table([("x-max-priority", int(3))]));
    let expected: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    assert_eq!(channel.drain("q"), expected);
    client.put_with("x", "a.c", &persistent(), "new");
    assert_eq!(channel.drain("q"), ["new"]);
}

mod running {
    use super::*;

    #[test]
    fn confirms_go_on_and_everything_confirmed_before_is_in_it() {
        if elsewhere("the broker there has no such command") {
            return;
        }
        let broker = Broker::start(&[]);
        let address = broker.amqp;
        let (confirmed, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let publisher = {
            let (confirmed, stop) = (Arc::clone(&confirmed), Arc::clone(&stop));
            thread::spawn(move || {
                let client = Client::with(&Options {
                    address: Some(address),
                    ..Options::default()
                });
                client.channel(1).queue("q", "durable", table([]));
                let mut number = 0u64;
                while !stop.load(Ordering::Acquire) && number < 1_000_000 {
                    client.put_persistent("q", number.to_string());
                    number += 1;
                    confirmed.store(number, Ordering::Release);
                }
            })
        };
        let reached = |count: u64| {
            eventually("more is confirmed", || {
                confirmed.load(Ordering::Acquire) >= count
            });
        };
        reached(100);
        let before = confirmed.load(Ordering::Acquire);
        let to = place(".backup");
        let text = done(&backup(broker.folder(), &to));
        assert!(
            text.contains("running") && text.contains("1 durable queues"),
            "{text}"
        );
        reached(confirmed.load(Ordering::Acquire) + 100);
        stop.store(true, Ordering::Release);
        publisher.join().unwrap();
        // Nothing of the backup stays behind.
        let left: Vec<_> = fs::read_dir(broker.folder())
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("backup-"))
            .collect();
        assert!(left.is_empty(), "{left:?}");

        let folder = fresh_folder();
        done(&restore(&to, &folder));
        let restored = Broker::start_on(folder, &[]);
        let client = Client::to(&restored);
        let bodies = client.channel(1).drain("q");
        let expected: Vec<String> = (0..bodies.len()).map(|number| number.to_string()).collect();
        assert_eq!(bodies, expected);
        assert!(
            bodies.len() as u64 >= before,
            "{} of {before}",
            bodies.len()
        );
        remove(&to);
    }

    #[test]
    fn every_form() {
        if elsewhere("the broker there has no such command") {
            return;
        }
        let broker = filled(50);
        for end in [".folder", ".tar", ".tar.gz"] {
            let (to, folder) = (place(end), fresh_folder());
            done(&backup(broker.folder(), &to));
            assert_eq!(to.is_dir(), end == ".folder");
            done(&restore(&to, &folder));
            check_filled(folder, 50);
            remove(&to);
        }
    }

    #[test]
    fn an_empty_node() {
        if elsewhere("the broker there has no such command") {
            return;
        }
        let broker = Broker::start(&[]);
        let (to, folder) = (place(".tar"), place(""));
        done(&backup(broker.folder(), &to));
        done(&restore(&to, &folder));
        let restored = Broker::start_on(folder, &[]);
        Client::to(&restored)
            .channel(1)
            .queue("q", "durable", table([]));
        remove(&to);
    }
}

mod stopped {
    use super::*;

    #[test]
    fn cleanly_and_by_a_crash() {
        if elsewhere("the broker there is not ours to kill") {
            return;
        }
        for crash in [false, true] {
            let mut broker = filled(30);
            if crash {
                let pid = rustix::process::Pid::from_raw(broker.pid().try_into().unwrap()).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            } else {
                broker.terminate();
            }
            broker.wait_for_exit();
            let (to, folder) = (place(".tar.gz"), place(""));
            let text = done(&backup(broker.folder(), &to));
            assert!(text.contains("stopped"), "{text}");
            done(&restore(&to, &folder));
            check_filled(folder, 30);
            remove(&to);
        }
    }
}

mod refusals {
    use super::*;

    #[test]
    fn targets() {
        if elsewhere("the broker there has no such command") {
            return;
        }
        let broker = filled(1);
        let full = fresh_folder();
        fs::write(full.join("mine"), "").unwrap();
        refused(&backup(broker.folder(), &full), &["not empty"]);
        let file = place(".tar");
        fs::write(&file, "mine").unwrap();
        refused(&backup(broker.folder(), &file), &["exists already"]);
        assert_eq!(fs::read(&file).unwrap(), b"mine");
        refused(&backup(broker.folder(), &place(".zip")), &[".tar"]);
        let inside = broker.folder().join("copies/today");
        refused(&backup(broker.folder(), &inside), &["in the data folder"]);
        refused(&backup(&full, &place(".tar")), &["not a data folder"]);
        let to = place(".tar");
        done(&backup(broker.folder(), &to));
        refused(&restore(&to, &full), &["not empty"]);
        refused(&restore(&to, broker.folder()), &["not empty"]);
        refused(&restore(&file, &place("")), &["cannot be read"]);
        refused(&restore(&full, &place("")), &["not a complete backup"]);
        [full, file, to].iter().for_each(|path| remove(path));
    }

    #[test]
    fn damaged_backups() {
        if elsewhere("the broker there has no such command") {
            return;
        }
        let broker = filled(20);
        let to = place(".backup");
        done(&backup(broker.folder(), &to));
        let target = place("");

        let log = fs::read_dir(to.join("log"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let good = fs::read(&log).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        fs::write(&log, &bad).unwrap();
        refused(&restore(&to, &target), &["damaged", "checksum"]);
        fs::write(&log, &good[..middle]).unwrap();
        refused(&restore(&to, &target), &["damaged"]);
        fs::remove_file(&log).unwrap();
        refused(&restore(&to, &target), &["missing"]);
        fs::write(&log, &good).unwrap();

        let manifest = to.join("backup.json");
        let text = fs::read_to_string(&manifest).unwrap();
        fs::write(
            &manifest,
            text.replace("\"backup_version\": 1", "\"backup_version\": 99"),
        )
        .unwrap();
        refused(&restore(&to, &target), &["99"]);
        fs::write(
            &manifest,
            text.replace("folder, format ", "folder, format 9"),
        )
        .unwrap();
        refused(&restore(&to, &target), &["stored format"]);
        fs::write(&manifest, text.replace("log/", "../log/")).unwrap();
        refused(&restore(&to, &target), &["no data folder has"]);
        fs::remove_file(&manifest).unwrap();
        refused(&restore(&to, &target), &["not a complete backup"]);
        assert!(!target.exists(), "a refused restore writes nothing");

        let archive = place(".tar");
        done(&backup(broker.folder(), &archive));
        let octets = fs::read(&archive).unwrap();
        fs::write(&archive, &octets[..octets.len() / 2]).unwrap();
        let output = restore(&archive, &target);
        assert_eq!(output.status.code(), Some(1));
        assert!(!target.exists(), "a refused restore writes nothing");
        [to, archive].iter().for_each(|path| remove(path));
    }

    #[test]
    fn a_restore_cut_short() {
        if elsewhere("the broker there has no such command") {
            return;
        }
        let broker = filled(5);
        let (to, folder) = (place(".tar"), fresh_folder());
        done(&backup(broker.folder(), &to));
        done(&restore(&to, &folder));
        // As a crash in the middle leaves it.
        fs::write(folder.join("restore-unfinished"), "").unwrap();
        let mut serve = bare_command();
        serve.args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--metrics-listen",
            "off",
            "--data-dir",
        ]);
        refused(
            &serve.arg(&folder).output().unwrap(),
            &["restore", "cut short"],
        );
        refused(&restore(&to, &folder), &["cut short"]);
        [to, folder].iter().for_each(|path| remove(path));
    }
}

mod socket {
    use super::*;

    fn connect(broker: &Broker) -> BufReader<UnixStream> {
        let stream = UnixStream::connect(broker.folder().join("control.sock")).unwrap();
        stream.set_read_timeout(Some(client::PATIENCE)).unwrap();
        BufReader::new(stream)
    }

    fn ask(stream: &mut BufReader<UnixStream>, line: &str) -> String {
        stream.get_mut().write_all(line.as_bytes()).unwrap();
        stream.get_mut().write_all(b"\n").unwrap();
        let mut answer = String::new();
        stream.read_line(&mut answer).unwrap();
        answer
    }

    #[test]
    fn answers_line_by_line() {
        if elsewhere("the broker there has no control socket") {
            return;
        }
        let broker = Broker::start(&[]);
        let mut stream = connect(&broker);
        let pong = ask(&mut stream, r#"{"command":"ping"}"#);
        assert!(
            pong.contains(r#""ok":true"#) && pong.contains(&broker.pid().to_string()),
            "{pong}"
        );
        for (request, code) in [
            (r#"{"command":"sing"}"#, "unknown_command"),
            (r#"{"version":2,"command":"ping"}"#, "unsupported_version"),
            (r#"{"version":1}"#, "bad_request"),
            ("hello", "bad_request"),
            (r#"{"command":"backup_end"}"#, "bad_request"),
        ] {
            let answer = ask(&mut stream, request);
            assert!(
                answer.contains(r#""ok":false"#) && answer.contains(code),
                "{request}: {answer}"
            );
        }
        assert!(ask(&mut stream, r#"{"version":1,"command":"ping"}"#).contains(r#""ok":true"#));
        let answer = ask(&mut stream, &"x".repeat(100_000));
        assert!(answer.contains("bad_request"), "{answer}");
    }

    #[test]
    fn one_backup_at_a_time_until_its_connection_ends() {
        if elsewhere("the broker there has no control socket") {
            return;
        }
        let broker = filled(1);
        let begin = r#"{"command":"backup_begin"}"#;
        let mut first = connect(&broker);
        assert!(ask(&mut first, begin).contains(r#""ok":true"#));
        let mut second = connect(&broker);
        assert!(ask(&mut second, begin).contains("busy"));
        drop(first);
        eventually("the first backup is given up", || {
            ask(&mut second, begin).contains(r#""ok":true"#)
        });
    }

    #[test]
    fn belongs_to_the_owner_and_goes_at_a_stop() {
        if elsewhere("the broker there has no control socket") {
            return;
        }
        let mut broker = Broker::start(&[]);
        let path = broker.folder().join("control.sock");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        broker.terminate();
        assert!(broker.wait_for_exit().success());
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_one_is_replaced() {
        if elsewhere("the broker there is not ours to kill") {
            return;
        }
        let broker = filled(1).crash_and_restart();
        assert!(ask(&mut connect(&broker), r#"{"command":"ping"}"#).contains(r#""ok":true"#));
    }

    #[test]
    fn a_folder_with_a_long_path() {
        if elsewhere("the broker there has no control socket") {
            return;
        }
        let folder = fresh_folder().join("long".repeat(40));
        fs::create_dir(&folder).unwrap();
        let broker = Broker::start_on(folder, &[]);
        let to = place(".tar");
        assert!(done(&backup(broker.folder(), &to)).contains("running"));
        remove(&to);
    }
}
