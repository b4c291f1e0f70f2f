//! What one evaluation costs, and one parse.

use divan::{Bencher, black_box};
use mamba_filter::{Filter, MessageView};
use mamba_types::{Message, RecordMeta};

fn main() {
    divan::main();
}

/// Priority 7 and four headers.
fn message() -> Message {
    let mut table = Vec::new();
    for (name, value) in [
        ("trace", "00-4bf92f35"),
        ("tenant", "t42"),
        ("kind", "order"),
        ("region", "eu"),
    ] {
        table.push(u8::try_from(name.len()).expect("it is short"));
        table.extend_from_slice(name.as_bytes());
        table.push(b'S');
        table.extend_from_slice(
            &u32::try_from(value.len())
                .expect("it is short")
                .to_be_bytes(),
        );
        table.extend_from_slice(value.as_bytes());
    }
    let mut header = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x28, 0];
    header.extend_from_slice(
        &u32::try_from(table.len())
            .expect("it is short")
            .to_be_bytes(),
    );
    header.extend_from_slice(&table);
    header.push(7);
    let meta = RecordMeta {
        priority: Some(7),
        ..RecordMeta::default()
    };
    Message::build(meta, b"orders", b"orders.eu.new", &header, b"")
}

const EXPRESSIONS: [&str; 6] = [
    "TRUE",
    "priority > 5",
    "headers.region = 'eu'",
    "priority > 5 AND headers.region = 'eu'",
    "routing_key LIKE 'orders.%.new'",
    "headers.region IN ('us', 'uk', 'fr', 'eu', 'de') AND headers.kind <> 'test' AND priority BETWEEN 1 AND 9",
];

#[divan::bench(args = EXPRESSIONS)]
fn matches(bencher: Bencher<'_, '_>, text: &str) {
    let (filter, message) = (Filter::parse(text).expect(text), message());
    bencher.bench_local(|| black_box(&filter).matches(&MessageView::new(black_box(&message))));
}

#[divan::bench(args = EXPRESSIONS)]
fn parse(text: &str) -> Filter {
    Filter::parse(black_box(text)).expect("it is a filter")
}
