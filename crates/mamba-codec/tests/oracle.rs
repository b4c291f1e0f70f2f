//! What is written by hand, checked against `amq-protocol`: whatever one side writes, the other must read alike.

use amq_protocol::frame::{AMQPFrame, parse_frame};
use amq_protocol::protocol::{AMQPClass, basic, connection, gen_class, queue};
use amq_protocol::types::generation::gen_field_table;
use amq_protocol::types::parsing::parse_field_table;
use amq_protocol::types::{DecimalValue, LongString, ShortString};
use mamba_codec::{
    Change, FrameKind, HeaderChange, Method, Output, Parts, Returned, check_table, content_header,
    encode_table, frame, method, rewrite_header, scan_properties, table, table_get, write_ack,
    write_deliver, write_get_ok, write_heartbeat, write_method, write_nack, write_return,
};
use mamba_types::{ChannelId, DeliveryTag, FieldTable, FieldValue, Limits, Message, RecordMeta};
use proptest::collection::vec;
use proptest::prelude::*;

fn short_text() -> impl Strategy<Value = String> {
    vec(proptest::char::any(), 0..60).prop_map(|chars| chars.into_iter().collect())
}

fn value() -> impl Strategy<Value = FieldValue> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(FieldValue::Boolean),
        any::<i8>().prop_map(FieldValue::ShortShortInt),
        any::<u8>().prop_map(FieldValue::ShortShortUInt),
        any::<i16>().prop_map(FieldValue::ShortInt),
        any::<u16>().prop_map(FieldValue::ShortUInt),
        any::<i32>().prop_map(FieldValue::LongInt),
        any::<u32>().prop_map(FieldValue::LongUInt),
        any::<i64>().prop_map(FieldValue::LongLongInt),
        (-1e30f32..1e30).prop_map(FieldValue::Float),
        (-1e300f64..1e300).prop_map(FieldValue::Double),
        (any::<u8>(), any::<u32>())
            .prop_map(|(scale, value)| FieldValue::DecimalValue(DecimalValue { scale, value })),
        vec(any::<u8>(), 0..40).prop_map(|octets| FieldValue::LongString(octets.into())),
        vec(any::<u8>(), 0..40).prop_map(|octets| FieldValue::ByteArray(octets.into())),
        any::<u64>().prop_map(FieldValue::Timestamp),
        Just(FieldValue::Void),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(|items| FieldValue::FieldArray(items.into())),
            vec((short_text(), inner), 0..6)
                .prop_map(|entries| FieldValue::FieldTable(to_table(entries))),
        ]
    })
}

fn to_table(entries: Vec<(String, FieldValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(ShortString::from(name), value);
    }
    table
}

fn any_table() -> impl Strategy<Value = FieldTable> {
    vec((short_text(), value()), 0..8).prop_map(to_table)
}

fn encoded(class: &AMQPClass) -> Vec<u8> {
    gen_class(class)(Vec::new().into())
        .expect("encoding into memory")
        .into_inner()
        .0
}

prop_compose! {
    fn properties()(
        texts in vec(proptest::option::of(short_text()), 10),
        headers in proptest::option::of(any_table()),
        delivery_mode in any::<Option<u8>>(),
        priority in any::<Option<u8>>(),
        timestamp in any::<Option<u64>>(),
    ) -> basic::AMQPProperties {
        let mut properties = basic::AMQPProperties::default();
        type Set = fn(basic::AMQPProperties, ShortString) -> basic::AMQPProperties;
        let sets: [Set; 10] = [
            basic::AMQPProperties::with_content_type,
            basic::AMQPProperties::with_content_encoding,
            basic::AMQPProperties::with_correlation_id,
            basic::AMQPProperties::with_reply_to,
            basic::AMQPProperties::with_expiration,
            basic::AMQPProperties::with_message_id,
            basic::AMQPProperties::with_type,
            basic::AMQPProperties::with_user_id,
            basic::AMQPProperties::with_app_id,
            basic::AMQPProperties::with_cluster_id,
        ];
        for (set, text) in sets.into_iter().zip(texts) {
            if let Some(text) = text {
                properties = set(properties, text.into());
            }
        }
        if let Some(headers) = headers { properties = properties.with_headers(headers); }
        if let Some(mode) = delivery_mode { properties = properties.with_delivery_mode(mode); }
        if let Some(priority) = priority { properties = properties.with_priority(priority); }
        if let Some(seconds) = timestamp { properties = properties.with_timestamp(seconds); }
        properties
    }
}

fn header_payload(body_size: u64, properties: &basic::AMQPProperties) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 0];
    payload.extend_from_slice(&body_size.to_be_bytes());
    let context = basic::gen_properties(properties)(payload.into()).expect("encoding into memory");
    context.into_inner().0
}

fn octets(text: &Option<ShortString>) -> Option<&[u8]> {
    text.as_ref().map(|text| text.as_str().as_bytes())
}

/// Everything that waits, taken in as many writes as it needs.
fn flat(out: &mut Output) -> Vec<u8> {
    let mut octets = Vec::new();
    while !out.is_empty() {
        let mut slices = Vec::new();
        out.slices(&mut slices);
        let before = octets.len();
        slices
            .iter()
            .for_each(|slice| octets.extend_from_slice(slice));
        let written = octets.len() - before;
        out.advance(written);
    }
    octets
}

/// Every frame of `octets`, decoded by `amq-protocol`.
fn oracle_frames(mut octets: &[u8]) -> Vec<AMQPFrame> {
    let mut frames = Vec::new();
    while !octets.is_empty() {
        let (rest, frame) = parse_frame(octets).expect("whole frames");
        octets = rest;
        frames.push(frame);
    }
    frames
}

#[track_caller]
fn check_content(
    frames: &[AMQPFrame],
    channel: ChannelId,
    properties: &basic::AMQPProperties,
    body: &[u8],
    frame_max: u32,
) {
    let AMQPFrame::Header(on, header) = &frames[1] else {
        panic!("no header: {frames:?}");
    };
    assert_eq!(
        (*on, header.body_size, &header.properties),
        (channel.0, body.len() as u64, properties)
    );
    let mut assembled = Vec::new();
    for frame in &frames[2..] {
        let AMQPFrame::Body(on, octets) = frame else {
            panic!("no body: {frame:?}");
        };
        assert_eq!(*on, channel.0);
        assert!(!octets.is_empty() && octets.len() <= frame_max as usize - 8);
        assembled.extend_from_slice(octets);
    }
    assert_eq!(assembled, body);
    assert_eq!(
        frames.len() - 2,
        body.len().div_ceil(frame_max as usize - 8)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn tables_read_and_write_alike(written in any_table()) {
        let ours = encode_table(&written);
        let theirs = gen_field_table(&written)(Vec::new().into()).unwrap().into_inner().0;
        prop_assert_eq!(&ours[..], &theirs[4..]);
        let (_, read) = parse_field_table(&theirs[..]).unwrap();
        let limits = Limits::default();
        prop_assert_eq!(check_table(&ours, &limits), Ok(()));
        prop_assert_eq!(table(&ours, &limits), Ok(read));
        for (name, value) in &written {
            let raw = table_get(&ours, name.as_str().as_bytes()).unwrap();
            prop_assert_eq!(raw.type_word(), mamba_types::table::type_word(value));
            prop_assert_eq!(raw.integer(), mamba_types::table::integer(value));
            let decoded = raw.value(&limits);
            prop_assert_eq!(decoded.as_ref(), Ok(value));
        }
    }

    #[test]
    fn publish(exchange in short_text(), key in short_text(), mandatory: bool, immediate: bool) {
        let written = AMQPClass::Basic(basic::AMQPMethod::Publish(basic::Publish {
            exchange: exchange.as_str().into(),
            routing_key: key.as_str().into(),
            mandatory,
            immediate,
        }));
        let payload = encoded(&written);
        let Ok(Method::Publish(read)) = method(&payload, &Limits::default()) else {
            panic!("not read as a publish");
        };
        prop_assert_eq!(read.exchange, exchange.as_bytes());
        prop_assert_eq!(read.routing_key, key.as_bytes());
        prop_assert_eq!((read.mandatory, read.immediate), (mandatory, immediate));
    }

    #[test]
    fn settlements(tag: u64, multiple: bool, requeue: bool) {
        let limits = Limits::default();
        let ack = basic::Ack { delivery_tag: tag, multiple };
        let nack = basic::Nack { delivery_tag: tag, multiple, requeue };
        let reject = basic::Reject { delivery_tag: tag, requeue };
        let tag = DeliveryTag(tag);
        for (written, read) in [
            (basic::AMQPMethod::Ack(ack), Method::Ack { tag, multiple }),
            (basic::AMQPMethod::Nack(nack), Method::Nack { tag, multiple, requeue }),
            (basic::AMQPMethod::Reject(reject), Method::Reject { tag, requeue }),
        ] {
            let payload = encoded(&AMQPClass::Basic(written));
            prop_assert_eq!(method(&payload, &limits), Ok(read));
        }
    }

    #[test]
    fn confirms(channel: u16, tag: u64, multiple: bool) {
        let mut buffer = Vec::new();
        write_ack(&mut buffer, ChannelId(channel), DeliveryTag(tag), multiple);
        write_nack(&mut buffer, ChannelId(channel), DeliveryTag(tag), multiple);
        write_heartbeat(&mut buffer);
        let ack = basic::Ack { delivery_tag: tag, multiple };
        let nack = basic::Nack { delivery_tag: tag, multiple, requeue: true };
        prop_assert_eq!(oracle_frames(&buffer), vec![
            AMQPFrame::Method(channel, AMQPClass::Basic(basic::AMQPMethod::Ack(ack))),
            AMQPFrame::Method(channel, AMQPClass::Basic(basic::AMQPMethod::Nack(nack))),
            AMQPFrame::Heartbeat,
        ]);
    }

    #[test]
    fn cold_methods(name in short_text(), arguments in any_table(), bits in any::<[bool; 5]>()) {
        let declare = AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
            queue: name.as_str().into(),
            passive: bits[0],
            durable: bits[1],
            exclusive: bits[2],
            auto_delete: bits[3],
            nowait: bits[4],
            arguments: arguments.clone(),
        }));
        let start_ok = AMQPClass::Connection(connection::AMQPMethod::StartOk(connection::StartOk {
            client_properties: arguments,
            mechanism: name.as_str().into(),
            response: LongString::from("\0guest\0guest"),
            locale: "en_US".into(),
        }));
        for class in [declare, start_ok] {
            let payload = encoded(&class);
            let mut buffer = Vec::new();
            write_method(&mut buffer, ChannelId(9), &class);
            prop_assert_eq!(oracle_frames(&buffer), vec![AMQPFrame::Method(9, class.clone())]);
            prop_assert_eq!(method(&payload, &Limits::default()), Ok(Method::Other(Box::new(class))));
            // One octet more or less is never the same method.
            let mut longer = payload.clone();
            longer.push(0);
            prop_assert!(method(&longer, &Limits::default()).is_err());
            prop_assert!(method(&payload[..payload.len() - 1], &Limits::default()).is_err());
        }
    }

    #[test]
    fn properties_are_seen_in_place(written in properties(), size: u64) {
        let payload = header_payload(size, &written);
        let header = content_header(&payload).unwrap();
        prop_assert_eq!((header.class, header.weight, header.body_size), (60, 0, size));
        let limits = Limits::default();
        let read = scan_properties(header.properties, &limits).unwrap();
        prop_assert_eq!(read.content_type, octets(written.content_type()));
        prop_assert_eq!(read.content_encoding, octets(written.content_encoding()));
        prop_assert_eq!(read.correlation_id, octets(written.correlation_id()));
        prop_assert_eq!(read.reply_to, octets(written.reply_to()));
        prop_assert_eq!(read.expiration, octets(written.expiration()));
        prop_assert_eq!(read.message_id, octets(written.message_id()));
        prop_assert_eq!(read.kind, octets(written.kind()));
        prop_assert_eq!(read.user_id, octets(written.user_id()));
        prop_assert_eq!(read.app_id, octets(written.app_id()));
        prop_assert_eq!(read.cluster_id, octets(written.cluster_id()));
        prop_assert_eq!(read.delivery_mode, *written.delivery_mode());
        prop_assert_eq!(read.priority, *written.priority());
        prop_assert_eq!(read.timestamp, *written.timestamp());
        let headers = read.headers.map(|octets| table(octets, &limits).unwrap());
        prop_assert_eq!(&headers, written.headers());
        prop_assert!(!read.reserved_flags);

        // One octet less, and something is truncated; one more, and something is left over.
        let octets = header.properties;
        prop_assert!(scan_properties(&octets[..octets.len() - 1], &limits).is_err());
        prop_assert!(scan_properties(&[octets, &[0]].concat(), &limits).is_err());
    }

    #[test]
    fn rewriting_changes_only_what_it_should(
        written in properties(),
        headers in any_table(),
        text in short_text(),
        reserved in 0u8..4,
    ) {
        let mut payload = header_payload(3, &written);
        prop_assert_eq!(&rewrite_header(&payload, &HeaderChange::default()), &payload);
        payload[13] |= reserved;
        let table_octets = encode_table(&headers);
        let set = HeaderChange {
            headers: Change::Set(&table_octets),
            reply_to: Change::Set(text.as_bytes()),
            expiration: Change::Remove,
        };
        let mut expected = written.with_headers(headers).with_reply_to(text.as_str().into());
        let rewritten = rewrite_header(&payload, &set);
        // There is no way to take a property out of the oracle's value but not to put it in.
        let expected_payload = {
            let mut without = basic::AMQPProperties::default();
            std::mem::swap(&mut without, &mut expected);
            let full = header_payload(3, &without);
            rewrite_header(&full, &HeaderChange { expiration: Change::Remove, ..HeaderChange::default() })
        };
        prop_assert_eq!(&rewritten, &expected_payload);
        let read = content_header(&rewritten).unwrap();
        let read = scan_properties(read.properties, &Limits::default()).unwrap();
        prop_assert_eq!(read.expiration, None);
        prop_assert_eq!(read.headers, Some(&table_octets[..]));
        prop_assert_eq!(read.reply_to, Some(text.as_bytes()));
    }

    #[test]
    fn deliveries(
        written in properties(),
        names in (short_text(), short_text(), short_text()),
        size in prop_oneof![0usize..40, 4000usize..4200, 8100usize..8300, 0usize..300_000],
        frame_max in prop_oneof![Just(4096u32), Just(8200), Just(131_072), 4096u32..200_000],
        tag: u64,
        redelivered: bool,
    ) {
        let body: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let header = header_payload(body.len() as u64, &written);
        let (exchange, key, consumer) = names;
        let message = Message::build(
            RecordMeta::default(), exchange.as_bytes(), key.as_bytes(), &header, &body,
        );
        let channel = ChannelId(7);

        let mut out = Output::new();
        write_deliver(&mut out, channel, consumer.as_bytes(), DeliveryTag(tag), redelivered, &message, frame_max);
        let waiting = out.len();
        let octets = flat(&mut out);
        prop_assert_eq!(waiting, octets.len());
        let frames = oracle_frames(&octets);
        let deliver = basic::Deliver {
            consumer_tag: consumer.into(),
            delivery_tag: tag,
            redelivered,
            exchange: exchange.as_str().into(),
            routing_key: key.as_str().into(),
        };
        prop_assert_eq!(
            &frames[0],
            &AMQPFrame::Method(7, AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver)))
        );
        check_content(&frames, channel, &written, &body, frame_max);

        let mut out = Output::new();
        write_get_ok(&mut out, channel, DeliveryTag(tag), redelivered, &message, 5, frame_max);
        let frames = oracle_frames(&flat(&mut out));
        let get_ok = basic::GetOk {
            delivery_tag: tag,
            redelivered,
            exchange: exchange.as_str().into(),
            routing_key: key.as_str().into(),
            message_count: 5,
        };
        prop_assert_eq!(
            &frames[0],
            &AMQPFrame::Method(7, AMQPClass::Basic(basic::AMQPMethod::GetOk(get_ok)))
        );
        check_content(&frames, channel, &written, &body, frame_max);

        let parts = Parts {
            exchange: exchange.as_bytes(),
            routing_key: key.as_bytes(),
            header: &header,
            body: &body,
        };
        for returned in [Returned::Message(&message), Returned::Parts(parts)] {
            let mut out = Output::new();
            write_return(&mut out, channel, 312, "NO_ROUTE", returned, frame_max);
            let frames = oracle_frames(&flat(&mut out));
            let back = basic::Return {
                reply_code: 312,
                reply_text: "NO_ROUTE".into(),
                exchange: exchange.as_str().into(),
                routing_key: key.as_str().into(),
            };
            prop_assert_eq!(
                &frames[0],
                &AMQPFrame::Method(7, AMQPClass::Basic(basic::AMQPMethod::Return(back)))
            );
            check_content(&frames, channel, &written, &body, frame_max);
        }
    }

    #[test]
    fn any_split_of_the_input_gives_the_same_frames(
        payloads in vec((0usize..3, any::<u16>(), vec(any::<u8>(), 0..50)), 1..8),
        pieces in vec(1usize..20, 1..40),
    ) {
        let mut input = Vec::new();
        for (kind, channel, payload) in &payloads {
            input.push([1, 2, 3][*kind]);
            input.extend_from_slice(&channel.to_be_bytes());
            input.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
            input.extend_from_slice(payload);
            input.push(0xCE);
        }
        let kinds = [FrameKind::Method, FrameKind::Header, FrameKind::Body];
        let mut buffered: Vec<u8> = Vec::new();
        let mut found = Vec::new();
        let mut pieces = pieces.into_iter().cycle();
        let mut rest = &input[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(pieces.next().unwrap().min(rest.len()));
            rest = after;
            buffered.extend_from_slice(piece);
            while let Some((frame, octets)) = frame(&buffered, 4096).unwrap() {
                found.push((frame.kind, frame.channel.0, frame.payload.to_vec()));
                buffered.drain(..octets);
            }
        }
        prop_assert!(buffered.is_empty());
        let expected: Vec<_> = payloads
            .into_iter()
            .map(|(kind, channel, payload)| (kinds[kind], channel, payload))
            .collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn no_input_panics(octets in vec(any::<u8>(), 0..200), class in 0u16..100, id in 0u16..125) {
        let limits = Limits::default();
        let _ = frame(&octets, 4096);
        let _ = method(&octets, &limits).map_err(|error| (error.violation(), error.class_method()));
        let addressed = [&class.to_be_bytes()[..], &id.to_be_bytes(), &octets].concat();
        let _ = method(&addressed, &limits).map_err(|error| error.violation().reply_text());
        let _ = check_table(&octets, &limits);
        let _ = table(&octets, &limits);
        let _ = table_get(&octets, b"x");
        let _ = rewrite_header(&octets, &HeaderChange { reply_to: Change::Set(b"r"), ..HeaderChange::default() });
        if let Ok(header) = content_header(&octets) {
            let _ = scan_properties(header.properties, &limits).map_err(|error| error.violation());
        }
    }
}
