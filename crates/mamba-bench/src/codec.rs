//! The two ends of the message path: frames in, frames out.

use std::hint::black_box;

use mamba_codec::{
    FrameKind, Output, content_header, frame, method, scan_properties, write_ack, write_deliver,
};
use mamba_types::{ChannelId, DeliveryTag, Limits};

use crate::{Body, message, publish};

const FRAME_MAX: u32 = 131_072;
/// Octets after which an output is emptied, as a connection does.
const OUTPUT_MAX: usize = 1 << 20;

pub(crate) const BODIES: &[Body] = &[
    Body {
        name: "codec/parse-publish-16",
        items: 1,
        prepare: || parse(16),
    },
    Body {
        name: "codec/write-deliver-16",
        items: 1,
        prepare: || deliver(16),
    },
    Body {
        name: "codec/write-deliver-1k",
        items: 1,
        prepare: || deliver(1024),
    },
    Body {
        name: "codec/write-deliver-64k",
        items: 1,
        prepare: || deliver(65_536),
    },
    Body {
        name: "codec/write-ack",
        items: 1,
        prepare: acknowledge,
    },
];

fn parse(size: usize) -> Box<dyn FnMut()> {
    let octets = publish(size, 2);
    let limits = Limits::default();
    Box::new(move || {
        let mut rest = black_box(&octets[..]);
        while let Ok(Some((found, octets))) = frame(rest, FRAME_MAX) {
            match found.kind {
                FrameKind::Method => {
                    let _ = black_box(method(found.payload, &limits));
                }
                FrameKind::Header => {
                    if let Ok(header) = content_header(found.payload) {
                        let _ = black_box(scan_properties(header.properties, &limits));
                    }
                }
                FrameKind::Body | FrameKind::Heartbeat => {}
            }
            rest = rest.get(octets..).unwrap_or_default();
        }
    })
}

fn deliver(size: usize) -> Box<dyn FnMut()> {
    let message = message(size);
    let mut out = Output::new();
    let mut tag = 0;
    Box::new(move || {
        tag += 1;
        let tag = DeliveryTag(tag);
        write_deliver(
            &mut out,
            ChannelId(1),
            b"ctag1",
            tag,
            false,
            black_box(&message),
            FRAME_MAX,
        );
        if out.len() > OUTPUT_MAX {
            out.advance(out.len());
        }
    })
}

fn acknowledge() -> Box<dyn FnMut()> {
    let mut buffer = Vec::new();
    Box::new(move || {
        write_ack(&mut buffer, ChannelId(1), black_box(DeliveryTag(9)), true);
        if buffer.len() > OUTPUT_MAX {
            buffer.clear();
        }
    })
}
