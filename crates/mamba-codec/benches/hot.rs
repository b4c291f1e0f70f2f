//! The two ends of the hot path with a body of 16 octets: `cargo bench -p mamba-codec`.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock and prints"
)]

use std::hint::black_box;
use std::time::Instant;

use mamba_codec::{
    Output, content_header, frame, method, scan_properties, write_ack, write_deliver,
};
use mamba_types::{ChannelId, DeliveryTag, Limits, Message, RecordMeta};

const ROUNDS: u32 = 50;
const BATCH: u32 = 20_000;

fn main() {
    let header = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0x10, 0, 2];
    let body = [7; 16];
    let limits = Limits::default();
    let mut publish = Vec::new();
    let payload = [&[0, 60, 0, 40, 0, 0, 0, 10][..], b"benchmarks", &[0]].concat();
    for (kind, payload) in [(1, &payload[..]), (2, &header), (3, &body)] {
        publish.extend_from_slice(&[
            kind,
            0,
            1,
            0,
            0,
            0,
            u8::try_from(payload.len()).unwrap_or(0),
        ]);
        publish.extend_from_slice(payload);
        publish.push(0xCE);
    }
    measure("parse publish, 16 octets", || {
        let mut rest = black_box(&publish[..]);
        while let Ok(Some((found, octets))) = frame(rest, 131_072) {
            match found.kind {
                mamba_codec::FrameKind::Method => {
                    let _ = black_box(method(found.payload, &limits));
                }
                mamba_codec::FrameKind::Header => {
                    if let Ok(header) = content_header(found.payload) {
                        let _ = black_box(scan_properties(header.properties, &limits));
                    }
                }
                mamba_codec::FrameKind::Body | mamba_codec::FrameKind::Heartbeat => {}
            }
            rest = rest.get(octets..).unwrap_or_default();
        }
    });

    let message = Message::build(RecordMeta::default(), b"", b"benchmarks", &header, &body);
    let mut out = Output::new();
    let mut tag = 0;
    measure("write deliver, 16 octets", || {
        tag += 1;
        let tag = DeliveryTag(tag);
        write_deliver(
            &mut out,
            ChannelId(1),
            b"ctag1",
            tag,
            false,
            black_box(&message),
            131_072,
        );
        if out.len() > 65_536 {
            out.advance(out.len());
        }
    });

    let mut buffer = Vec::new();
    measure("write ack", || {
        write_ack(&mut buffer, ChannelId(1), black_box(DeliveryTag(9)), true);
        if buffer.len() > 65_536 {
            buffer.clear();
        }
    });

    for size in [1024, 4096, 8192, 16_384, 65_536] {
        let body = vec![7; size];
        let message = Message::build(RecordMeta::default(), b"", b"benchmarks", &header, &body);
        let mut out = Output::new();
        measure(&format!("write deliver, {size} octets"), || {
            write_deliver(
                &mut out,
                ChannelId(1),
                b"c",
                DeliveryTag(1),
                false,
                black_box(&message),
                131_072,
            );
            if out.len() > 1_000_000 {
                out.advance(out.len());
            }
        });
    }
}

/// Prints the best and the median time of one call.
fn measure(name: &str, mut call: impl FnMut()) {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..BATCH {
                call();
            }
            start.elapsed().as_secs_f64() * 1e9 / f64::from(BATCH)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let best = times.first().copied().unwrap_or_default();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    println!("{name:32} best {best:9.1} ns, median {median:9.1} ns");
}
