//! The pages' lines, names and labels.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Where the quote stands that ends a label's text.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, character)| {
        let ends = character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        ends.then_some(at)
    })
}

fn aggregated_page(facts: &Facts) -> String {
    let mut page = Page::default();
    aggregated(&mut page, facts);
    page.into_text()
}

/// Parses every line of a page; answers the value of each series, by its name with labels.
#[track_caller]
pub(crate) fn parse(page: &str) -> BTreeMap<String, f64> {
    let mut series = BTreeMap::new();
    let mut types = BTreeMap::new();
    let mut helped = BTreeSet::new();
    assert!(page.ends_with('\n'));
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.is_empty() && helped.insert(name), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(
                helped.contains(name)
                    && ["counter", "gauge", "histogram", "summary"].contains(&kind),
                "{line}"
            );
            assert!(types.insert(name, kind).is_none(), "{line}");
        } else {
            let (key, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = key.split_once('{').unwrap_or((key, "}"));
            assert!(
                name.chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'),
                "{line}"
            );
            let mut rest = labels.strip_suffix('}').expect(line);
            while !rest.is_empty() {
                let (label, text) = rest.split_once("=\"").expect(line);
                assert!(
                    label.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
                    "{line}"
                );
                let end = closing_quote(text).expect(line);
                let after = &text[end + 1..];
                rest = after.strip_prefix(',').unwrap_or(after);
            }
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .filter(|family| types.contains_key(family));
            let name = family.unwrap_or(name);
            let kind = types
                .get(name)
                .unwrap_or_else(|| panic!("no TYPE for {line}"));
            assert_eq!(*kind == "counter", name.ends_with("_total"), "{line}");
            assert!(
                series
                    .insert(key.to_owned(), value.parse().unwrap())
                    .is_none(),
                "twice: {line}"
            );
        }
    }
    series
}

#[test]
fn every_line_parses_and_numbers_arrive() {
    let snapshot = Snapshot {
        messages_received: u64::MAX,
        messages_over_100: 1,
        messages_ready: 3,
        messages_unacked: 4,
        classic_delivered_auto_ack: 5,
        classic_got_manual_ack: 2,
        log_sync_seconds: 0.5,
        log_syncs: 6,
        log_sync_times: [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3],
        ..Snapshot::default()
    };
    let identity = Identity {
        node: "rabbit@host".to_owned(),
        cluster: "c".to_owned(),
        ..Identity::default()
    };
    let page = aggregated_page(&Facts {
        identity,
        snapshot,
        uptime: Duration::from_millis(12_500),
        ..Facts::default()
    });
    assert!(page.contains(
        "rabbitmq_global_messages_received_total{protocol=\"amqp091\"} 18446744073709551615\n"
    ));
    let series = parse(&page);
    let value = |key: &str| *series.get(key).unwrap_or_else(|| panic!("no {key}"));
    assert_eq!(value("rabbitmq_erlang_uptime_seconds"), 12.5);
    assert_eq!(value("rabbitmq_queue_messages"), 7.0);
    assert_eq!(
        value(
            "rabbitmq_global_messages_delivered_total{protocol=\"amqp091\",queue_type=\"rabbit_classic_queue\"}"
        ),
        7.0
    );
    assert_eq!(
        value("rabbitmq_message_size_bytes_bucket{protocol=\"amqp091\",le=\"+Inf\"}"),
        18446744073709551615.0
    );
    assert_eq!(value("rabbitmq_io_sync_time_seconds_total"), 0.5);
    assert_eq!(
        value("mambamq_log_sync_seconds_bucket{le=\"0.00025\"}"),
        3.0
    );
    assert_eq!(value("mambamq_log_sync_seconds_bucket{le=\"1\"}"), 3.0);
    assert_eq!(value("mambamq_log_sync_seconds_count"), 6.0);
    assert_eq!(page.matches("\nrabbitmq_identity_info{").count(), 1);
}

/// Every name the Overview dashboard asks for.
#[test]
fn the_overview_dashboard_finds_its_names() {
    let page = aggregated_page(&Facts::default());
    let global = [
        "received",
        "received_confirm",
        "confirmed",
        "routed",
        "unroutable_dropped",
        "unroutable_returned",
        "delivered",
    ];
    let delivered = [
        "consume_auto_ack",
        "consume_manual_ack",
        "get_auto_ack",
        "get_manual_ack",
    ];
    let names = global
        .iter()
        .map(|name| format!("global_messages_{name}_total"))
        .chain(delivered.iter().map(|name| format!("global_messages_delivered_{name}_total")))
        .chain(["get_empty", "redelivered", "acknowledged"].iter().map(|name| format!("global_messages_{name}_total")))
        .chain(
            "identity_info build_info erlang_uptime_seconds connections channels queues global_publishers global_consumers \
             queue_messages_ready queue_messages_unacked process_resident_memory_bytes resident_memory_limit_bytes \
             disk_space_available_bytes disk_space_available_limit_bytes process_open_fds process_max_fds \
             message_size_bytes connections_opened_total connections_closed_total channels_opened_total \
             channels_closed_total queues_declared_total queues_created_total queues_deleted_total"
                .split_whitespace()
                .map(str::to_owned),
        );
    for name in names {
        assert!(
            page.contains(&format!("\n# TYPE rabbitmq_{name} ")),
            "{name}"
        );
    }
}
