//! The hot paths of codec, session, routing, queue, log and the broker as a whole, each as a [`Body`] that can be called again and again.
//!
//! Owns the list and nothing else: `cargo bench -p mamba-bench` measures the time of each, `benches/instructions` counts the
//! instructions of each under callgrind and compares them with what was accepted. So bodies do the same work in every call and in
//! every process: no clock, no random numbers, no threads, hash maps with fixed seeds. What depends on a disk is measured by
//! `cargo bench -p mamba-store`; routing is measured with other numbers of bindings, too.

mod broker;
mod client;
mod codec;
mod log;
mod queue;
pub mod routing;
mod session;

use std::fmt;

/// A hot path.
#[derive(Clone, Copy, Debug)]
pub struct Body {
    /// `crate/what`.
    pub name: &'static str,
    /// Things that one call handles: messages, acknowledgements, bindings.
    pub items: u32,
    /// Makes what the path works on, and gives the call.
    pub prepare: fn() -> Box<dyn FnMut()>,
}

impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// All hot paths.
#[must_use]
pub fn bodies() -> Vec<Body> {
    [
        codec::BODIES,
        session::BODIES,
        routing::BODIES,
        queue::BODIES,
        log::BODIES,
        broker::BODIES,
    ]
    .concat()
}

/// Calls `call` so many times. Callgrind counts what happens in here, and only that: the name is known to `benches/instructions`.
#[inline(never)]
pub fn measured(call: &mut dyn FnMut(), times: u32) {
    for _ in 0..times {
        call();
    }
}

/// The routing key of all messages, and the name of the queue.
const ROUTING_KEY: &str = "benchmarks";

/// A content header of class `basic` for a body of `size` octets.
fn header(size: usize, delivery_mode: u8) -> [u8; 15] {
    let mut header = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, delivery_mode];
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    header[4..12].copy_from_slice(&size.to_be_bytes());
    header
}

/// A frame on channel 1.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind, 0, 1];
    let size = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    frame.extend_from_slice(&size.to_be_bytes());
    frame.extend_from_slice(payload);
    frame.push(0xCE);
    frame
}

/// The frames of one `basic.publish` to the default exchange.
fn publish(size: usize, delivery_mode: u8) -> Vec<u8> {
    let method = [
        &[0, 60, 0, 40, 0, 0, 0, 10][..],
        ROUTING_KEY.as_bytes(),
        &[0],
    ]
    .concat();
    [
        frame(1, &method),
        frame(2, &header(size, delivery_mode)),
        frame(3, &vec![7; size]),
    ]
    .concat()
}

/// A persistent message with a body of `size` octets.
fn message(size: usize) -> mamba_types::Message {
    let meta = mamba_types::RecordMeta {
        persistent: true,
        ..mamba_types::RecordMeta::default()
    };
    mamba_types::Message::build(
        meta,
        b"",
        ROUTING_KEY.as_bytes(),
        &header(size, 2),
        &vec![7; size],
    )
}
