//! Filters over the broker's own messages: every property and every type of header.

use mamba_filter::{Filter, MessageView, Properties, Property};
use mamba_types::{Message, RecordMeta};

fn short(into: &mut Vec<u8>, text: &str) {
    into.push(u8::try_from(text.len()).expect("it is short"));
    into.extend_from_slice(text.as_bytes());
}

/// Class 60, weight 0, an empty body, the flags.
fn header(flags: u16) -> Vec<u8> {
    let mut header = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header.extend_from_slice(&flags.to_be_bytes());
    header
}

fn table() -> Vec<u8> {
    let mut table = Vec::new();
    let mut field = |name: &str, tag: u8, octets: &[u8]| {
        short(&mut table, name);
        table.push(tag);
        table.extend_from_slice(octets);
    };
    field("text", b'S', b"\0\0\0\x02eu");
    field("binary", b'x', b"\0\0\0\x02eu");
    field("yes", b't', &[1]);
    field("i8", b'b', &(-5_i8).to_be_bytes());
    field("u8", b'B', &[200]);
    field("i32", b'I', &(-70_000_i32).to_be_bytes());
    field("i64", b'l', &i64::MAX.to_be_bytes());
    field("float", b'f', &1.5_f32.to_be_bytes());
    field("double", b'd', &2.5_f64.to_be_bytes());
    field("decimal", b'D', &[2, 0, 0, 0, 125]);
    field("time", b'T', &1_700_000_000_u64.to_be_bytes());
    field("far", b'T', &u64::MAX.to_be_bytes());
    field("void", b'V', &[]);
    field("array", b'A', &[0, 0, 0, 0]);
    field("table", b'F', &[0, 0, 0, 0]);
    field("x y", b'I', &1_i32.to_be_bytes());
    table
}

fn full() -> Message {
    let mut header = header(0xFFF8);
    short(&mut header, "text/plain");
    short(&mut header, "gzip");
    let table = table();
    header.extend_from_slice(
        &u32::try_from(table.len())
            .expect("it is short")
            .to_be_bytes(),
    );
    header.extend_from_slice(&table);
    header.push(2);
    header.push(9);
    short(&mut header, "correlation");
    short(&mut header, "reply");
    short(&mut header, "60000");
    short(&mut header, "message");
    header.extend_from_slice(&1_700_000_001_u64.to_be_bytes());
    short(&mut header, "kind");
    short(&mut header, "user");
    short(&mut header, "app");
    let meta = RecordMeta {
        persistent: true,
        priority: Some(9),
        expiration_ms: Some(60_000),
        ..RecordMeta::default()
    };
    Message::build(meta, b"orders", b"orders.new", &header, b"")
}

#[track_caller]
fn check(message: &Message, text: &str) {
    let filter = Filter::parse(text).expect(text);
    assert!(filter.matches(&MessageView::new(message)), "{text}");
}

#[test]
fn every_property() {
    let message = full();
    check(
        &message,
        "content_type = 'text/plain' AND content_encoding = 'gzip'",
    );
    check(
        &message,
        "delivery_mode = 2 AND priority = 9 AND expiration = 60000",
    );
    check(
        &message,
        "correlation_id = 'correlation' AND reply_to = 'reply'",
    );
    check(
        &message,
        "message_id = 'message' AND timestamp = 1700000001",
    );
    check(
        &message,
        "type = 'kind' AND user_id = 'user' AND app_id = 'app'",
    );
    check(
        &message,
        "exchange = 'orders' AND routing_key = 'orders.new'",
    );
}

#[test]
fn every_type_of_header() {
    let message = full();
    check(
        &message,
        "headers.text = 'eu' AND headers.binary = 'eu' AND headers.yes",
    );
    check(
        &message,
        "headers.i8 = -5 AND headers.u8 = 200 AND headers.i32 = -70000",
    );
    check(
        &message,
        "headers.i64 = 9223372036854775807 AND headers.float = 1.5",
    );
    check(&message, "headers.double = 2.5 AND headers.decimal = 1.25");
    check(
        &message,
        "headers.time = 1700000000 AND headers.far > 9223372036854775807",
    );
    check(&message, "headers.void IS NULL AND headers.absent IS NULL");
    check(
        &message,
        "headers.array IS NOT NULL AND headers.table IS NOT NULL",
    );
    check(&message, "headers['x y'] = 1");
}

#[test]
fn absent_properties_are_null() {
    let message = Message::build(RecordMeta::default(), b"", b"", &header(0), b"");
    let view = MessageView::new(&message);
    for property in Property::ALL {
        let there = matches!(property, Property::Exchange | Property::RoutingKey);
        assert_eq!(view.property(property).is_some(), there, "{property:?}");
    }
    assert_eq!(view.header("a"), None);
    check(&message, "exchange = '' AND routing_key = ''");
}

#[test]
fn a_header_that_was_cut_anywhere_panics_nowhere() {
    let whole = full();
    for len in 0..whole.header().len() {
        let cut = Message::build(RecordMeta::default(), b"", b"", &whole.header()[..len], b"");
        let view = MessageView::new(&cut);
        for property in Property::ALL {
            view.property(property);
        }
        view.header("x y");
    }
}
