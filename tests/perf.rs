//! The load generator against a running broker: what each mode moves, counts and says.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{fs, process::Output};

use serde_json::Value;
use support::*;

/// Runs `mambamq perf` against the shared broker; options are separated by spaces.
fn perf(options: &str) -> Output {
    perf_with(broker::shared(), options, &[])
}

fn perf_with(broker: &Broker, options: &str, more: &[&str]) -> Output {
    let uri = format!("amqp://guest:guest@{}/", broker.amqp);
    broker::bare_command()
        .args(["perf", "--uri", &uri, "--json", "--quiet"])
        .args(options.split_whitespace())
        .args(more)
        .output()
        .unwrap()
}

/// The JSON object of a run that has to succeed.
#[track_caller]
fn report(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let problems = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{problems}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The number at a path such as `/rates/published`.
#[track_caller]
fn number(report: &Value, path: &str) -> f64 {
    let found = report.pointer(path).and_then(Value::as_f64);
    found.unwrap_or_else(|| panic!("no number at {path} in {report}"))
}

fn queues() -> String {
    ctl::ctl_on(Some(broker::shared()), &["list_queues", "name"])
}

mod throughput {
    use super::*;

    #[track_caller]
    fn check(options: &str, published: f64, consumed: f64) -> Value {
        let found = report(&perf(options));
        assert_eq!(number(&found, "/overall/published"), published, "{found}");
        assert_eq!(number(&found, "/overall/consumed"), consumed, "{found}");
        assert_eq!(found["verify"]["ok"], true, "{found}");
        found
    }

    #[test]
    fn everything_published_is_consumed() {
        check("-C 1000 --verify -u plain", 1000.0, 1000.0);
        check(
            "-C 1000 --verify -u confirmed -c 10 --persistent -q 20 -A 5",
            1000.0,
            1000.0,
        );
        check("-C 100 --verify -u tx -m 7 -x 2", 100.0, 100.0);
    }

    #[test]
    fn sizes_are_mixed() {
        let found = check("-C 400 --verify -u sizes -s 16x3,1000 -y 2", 400.0, 400.0);
        assert_eq!(
            number(&found, "/overall/consumed_bytes"),
            f64::from(300 * 16 + 100 * 1000)
        );
    }

    #[test]
    fn a_fan_out_reaches_every_queue() {
        check(
            "-C 50 --verify -u wide --fan-out --queues 3 -y 3",
            50.0,
            150.0,
        );
    }

    #[test]
    fn a_pattern_names_the_queues() {
        let options = "--queue-pattern pat-%03d --queue-pattern-from 9 --queue-pattern-to 11";
        report(&perf(&format!("-C 30 --publish-only --keep {options}")));
        for name in ["pat-009", "pat-010", "pat-011"] {
            assert!(queues().contains(name), "{name} in {}", queues());
        }
        let drained = report(&perf(&format!("-C 30 --consume-only {options}")));
        assert_eq!(number(&drained, "/overall/consumed"), 30.0);
        assert!(!queues().contains("pat-0"), "{}", queues());
    }

    #[test]
    fn a_slow_consumer_leaves_messages_behind() {
        let found = report(&perf("-u slow -z 1 -r 2000 -R 100 --auto-ack"));
        // What it may make good at once is a twentieth of a second.
        let most = 100.0 * (number(&found, "/elapsed_secs") + 0.05) + 1.0;
        let consumed = number(&found, "/totals/consumed");
        assert!(0.0 < consumed && consumed <= most, "{found}");
    }

    #[test]
    fn progress_goes_to_standard_error() {
        let uri = format!("amqp://guest:guest@{}/", broker::shared().amqp);
        let output = broker::bare_command()
            .args(["perf", "--uri", &uri, "--json", "-u", "progress"])
            .args(["-z", "1.5", "-r", "100"])
            .output()
            .unwrap();
        let found = report(&output);
        assert_eq!(found["seconds"].as_array().unwrap().len(), 1);
        let lines = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(lines.contains("published"), "{lines}");
    }
}

#[test]
fn latency_has_its_percentiles() {
    let found = report(&perf("latency -u late -r 500 -z 1 -c 100"));
    assert_eq!(found["mode"], "latency");
    for histogram in ["latency_ns", "confirm_latency_ns"] {
        let values = ["min", "p50", "p90", "p99", "p99.9", "p99.99", "max"]
            .map(|name| number(&found, &format!("/{histogram}/{name}")));
        assert!(values[0] > 0.0 && values.is_sorted(), "{found}");
    }
    // The late ones are waited for.
    assert_eq!(
        number(&found, "/latency_ns/count"),
        number(&found, "/overall/published")
    );
}

/// A broker that holds messages back makes the latencies long, not the messages few.
#[test]
fn latency_counts_from_when_a_message_was_due() {
    let found = report(&perf("latency -u due -r 100 -R 50 -C 100 --auto-ack"));
    assert_eq!(number(&found, "/latency_ns/count"), 100.0);
    // 100 messages leave at 50/s in 2 s and come in 1 s: the last one is about a second late, whatever the machine.
    assert!(number(&found, "/latency_ns/max") > 0.8e9, "{found}");
}

#[test]
fn churn_counts_its_operations() {
    for mode in [
        "connection-churn",
        "channel-churn",
        "queue-churn",
        "bind-churn",
        "consumer-churn",
    ] {
        let found = report(&perf(&format!("{mode} -C 20 --workers 2 -u churn")));
        assert_eq!(found["mode"], mode);
        assert_eq!(number(&found, "/operations"), 20.0, "{found}");
        assert_eq!(number(&found, "/latency_ns/count"), 20.0, "{found}");
    }
    assert!(!queues().contains("churn"), "{}", queues());
}

#[test]
fn queues_are_counted_held_and_deleted() {
    let declared = report(&perf("queue-count --count 25 --keep --durable -u many"));
    assert_eq!(number(&declared, "/operations"), 25.0);
    assert_eq!(queues().matches("many-").count(), 25);
    let again = report(&perf(
        "queue-count --count 25 --durable -u many --workers 3 -z 0.1",
    ));
    assert_eq!(number(&again, "/deleted/operations"), 25.0);
    assert!(!queues().contains("many-"));
}

#[test]
fn connections_are_counted_with_their_channels() {
    let broker = Broker::start(&[]);
    let found = report(&perf_with(
        &broker,
        "connection-count --count 12 --channels 3 -z 0.1",
        &[],
    ));
    assert_eq!(number(&found, "/opened"), 12.0);
    assert_eq!(number(&found, "/lost"), 0.0);
    let metric = |name| broker.metric(name).unwrap_or_default();
    assert_eq!(metric("rabbitmq_connections_opened_total"), 12.0);
    assert_eq!(metric("rabbitmq_channels_opened_total"), 36.0);
}

mod backlog {
    use super::*;

    /// A shell command that kills the broker and starts one in its place, on this data folder. Again if the first one has not
    /// let go of folder and port yet: then it ends with 1. Nothing of it holds
    /// the outputs of the load generator, for whose end the test waits.
    fn replacement(broker: &Broker, folder: &std::path::Path) -> String {
        let binary = broker::bare_command().get_program().to_owned();
        format!(
            "exec >/dev/null 2>&1; kill -9 {}; for try in $(seq 100); do timeout 60 {} serve --data-dir {} --listen {} --metrics-listen 127.0.0.1:0 --management-listen off; [ $? = 1 ] || exit; sleep 0.1; done; exit 1",
            broker.pid(),
            binary.to_string_lossy(),
            folder.display(),
            broker.amqp,
        )
    }

    /// Ends the broker that the command left running.
    fn end(folder: &std::path::Path) {
        let lock = fs::read_to_string(folder.join("node.lock")).unwrap();
        let pid = lock.lines().find_map(|line| line.strip_prefix("pid "));
        let pid = pid
            .unwrap()
            .parse()
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let _ = rustix::process::kill_process(pid.unwrap(), rustix::process::Signal::KILL);
    }

    #[test]
    fn survives_a_restart() {
        let broker = Broker::start(&[]);
        let command = replacement(&broker, broker.folder());
        let options = "backlog -C 2000 -c 100 --queues 3 -y 2 --auto-ack --verify --restart";
        let output = perf_with(&broker, options, &[&command]);
        end(broker.folder());
        let found = report(&output);
        assert_eq!(number(&found, "/fill/overall/confirmed"), 2000.0);
        assert_eq!(number(&found, "/restart/messages_found"), 2000.0);
        assert_eq!(number(&found, "/drain/overall/consumed"), 2000.0);
        assert_eq!(number(&found, "/lost"), 0.0);
        assert_eq!(found["drain"]["verify"]["ok"], true);
    }

    #[test]
    fn a_broker_that_forgets_is_found_out() {
        let broker = Broker::start(&[]);
        let empty = broker::fresh_folder();
        let command = replacement(&broker, &empty);
        let options = "backlog -C 100 --auto-ack --drain-timeout 0.5 --restart";
        let output = perf_with(&broker, options, &[&command]);
        end(&empty);
        let _ = fs::remove_dir_all(&empty);
        assert_eq!(output.status.code(), Some(1));
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(number(&found, "/lost"), 100.0);
    }

    #[test]
    fn a_command_that_fails_is_reported() {
        let output = perf("backlog -C 10 -u failing --restart false");
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("the command ended with"), "{text}");
        report(&perf("-u failing --durable --consume-only -C 10"));
    }
}

#[test]
fn options_that_contradict_each_other() {
    for options in [
        "queue-churn --publishers 1",
        "--count 3",
        "--restart true",
        "backlog --consume-only",
        "--queue-pattern nonsense",
    ] {
        let output = perf(options);
        assert_eq!(output.status.code(), Some(1), "{options}");
        assert!(!output.stderr.is_empty(), "{options}");
    }
    assert_eq!(perf("no-such-mode").status.code(), Some(2));
}
