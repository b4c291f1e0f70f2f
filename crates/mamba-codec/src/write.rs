//! Writing frames.
//!
//! `frame_max` is always the agreed frame size in octets with overhead; 0 means no limit.

use amq_protocol::protocol::{AMQPClass, gen_class};
use bytes::Bytes;
use mamba_types::limits::{FRAME_MIN_SIZE, FRAME_OVERHEAD};
use mamba_types::{ChannelId, DeliveryTag, Message};

use crate::frame::{FRAME_END, FRAME_HEADER_LEN, FrameKind};
use crate::octets::short;
use crate::output::{Output, SHARE_FROM};

const BASIC: u16 = 60;
const RETURN: u16 = 50;
const DELIVER: u16 = 60;
const GET_OK: u16 = 71;
const ACK: u16 = 80;
const NACK: u16 = 120;
/// Octets of class and method id.
const IDS: usize = 4;

/// Appends `basic.deliver` with its content.
///
/// A content header never splits, so it goes out whole even if it is larger than `frame_max`.
pub fn write_deliver(
    out: &mut Output,
    channel: ChannelId,
    consumer_tag: &[u8],
    delivery_tag: DeliveryTag,
    redelivered: bool,
    message: &Message,
    frame_max: u32,
) {
    let address = message.address();
    let arguments = 1 + consumer_tag.len().min(255) + 8 + 1 + address.len();
    let buffer = start(out, arguments, message.header(), message.body_len());
    method_head(buffer, channel, BASIC, DELIVER, arguments);
    short(buffer, consumer_tag);
    buffer.extend_from_slice(&tag_and_bits(delivery_tag, u8::from(redelivered)));
    buffer.extend_from_slice(address);
    buffer.push(FRAME_END);
    write_content(
        out,
        channel,
        message.header(),
        Body::Stored(message),
        frame_max,
    );
}

/// Appends `basic.get-ok` with its content. `message_count`: messages left in the queue.
pub fn write_get_ok(
    out: &mut Output,
    channel: ChannelId,
    delivery_tag: DeliveryTag,
    redelivered: bool,
    message: &Message,
    message_count: u32,
    frame_max: u32,
) {
    let address = message.address();
    let arguments = 8 + 1 + address.len() + 4;
    let buffer = start(out, arguments, message.header(), message.body_len());
    method_head(buffer, channel, BASIC, GET_OK, arguments);
    buffer.extend_from_slice(&tag_and_bits(delivery_tag, u8::from(redelivered)));
    buffer.extend_from_slice(address);
    buffer.extend_from_slice(&message_count.to_be_bytes());
    buffer.push(FRAME_END);
    write_content(
        out,
        channel,
        message.header(),
        Body::Stored(message),
        frame_max,
    );
}

/// The parts of a message that goes back to its publisher.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// Exchange it was published to.
    pub exchange: &'a [u8],
    /// Routing key it was published with.
    pub routing_key: &'a [u8],
    /// Content header payload.
    pub header: &'a [u8],
    /// Body.
    pub body: &'a [u8],
}

/// What `basic.return` carries back.
#[derive(Clone, Copy, Debug)]
pub enum Returned<'a> {
    /// A stored message; a large body is shared.
    Message(&'a Message),
    /// A message still in the input; its body is copied.
    Parts(Parts<'a>),
}

/// Appends `basic.return` with its content. `text` is cut off at 255 octets.
pub fn write_return(
    out: &mut Output,
    channel: ChannelId,
    code: u16,
    text: &str,
    returned: Returned<'_>,
    frame_max: u32,
) {
    let (exchange, routing_key, header, body) = match returned {
        Returned::Message(message) => (
            message.exchange(),
            message.routing_key(),
            message.header(),
            Body::Stored(message),
        ),
        Returned::Parts(parts) => (
            parts.exchange,
            parts.routing_key,
            parts.header,
            Body::Borrowed(parts.body),
        ),
    };
    let text = text.as_bytes();
    let text = text.get(..255).unwrap_or(text);
    let arguments =
        2 + 1 + text.len() + 1 + exchange.len().min(255) + 1 + routing_key.len().min(255);
    let buffer = start(out, arguments, header, body.octets().len());
    method_head(buffer, channel, BASIC, RETURN, arguments);
    buffer.extend_from_slice(&code.to_be_bytes());
    short(buffer, text);
    short(buffer, exchange);
    short(buffer, routing_key);
    buffer.push(FRAME_END);
    write_content(out, channel, header, body, frame_max);
}

/// Appends `basic.ack`.
pub fn write_ack(buffer: &mut Vec<u8>, channel: ChannelId, tag: DeliveryTag, multiple: bool) {
    write_verdict(buffer, channel, ACK, tag, u8::from(multiple));
}

/// Appends `basic.nack` to a publisher; the requeue bit is 1, as the reference broker sends it.
pub fn write_nack(buffer: &mut Vec<u8>, channel: ChannelId, tag: DeliveryTag, multiple: bool) {
    write_verdict(buffer, channel, NACK, tag, u8::from(multiple) | 2);
}

fn write_verdict(
    buffer: &mut Vec<u8>,
    channel: ChannelId,
    method: u16,
    tag: DeliveryTag,
    bits: u8,
) {
    method_head(buffer, channel, BASIC, method, 9);
    buffer.extend_from_slice(&tag_and_bits(tag, bits));
    buffer.push(FRAME_END);
}

/// Appends any method without content.
pub fn write_method(buffer: &mut Vec<u8>, channel: ChannelId, method: &AMQPClass) {
    // Encoding into memory cannot fail; if it ever did, an empty method would end the connection, not the broker.
    let encoded = gen_class(method)(Vec::with_capacity(64).into())
        .map(|context| context.into_inner().0)
        .unwrap_or_default();
    frame_head(buffer, FrameKind::Method, channel, encoded.len());
    buffer.extend_from_slice(&encoded);
    buffer.push(FRAME_END);
}

/// Appends a heartbeat.
pub fn write_heartbeat(buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(&[8, 0, 0, 0, 0, 0, 0, FRAME_END]);
}

/// Where a body's octets are.
#[derive(Clone, Copy)]
enum Body<'a> {
    Stored(&'a Message),
    Borrowed(&'a [u8]),
}

impl<'a> Body<'a> {
    fn octets(self) -> &'a [u8] {
        match self {
            Self::Stored(message) => message.body(),
            Self::Borrowed(octets) => octets,
        }
    }
}

/// The output's end, with room for the method, the content header and a body small enough to be copied.
#[inline]
fn start<'a>(
    out: &'a mut Output,
    arguments: usize,
    header: &[u8],
    body_len: usize,
) -> &'a mut Vec<u8> {
    let copied = if body_len < SHARE_FROM { body_len } else { 0 };
    let overhead = 3 * (FRAME_HEADER_LEN + 1) + IDS;
    let buffer = out.buffer();
    buffer.reserve(overhead + arguments + header.len() + copied);
    buffer
}

#[inline]
fn write_content(
    out: &mut Output,
    channel: ChannelId,
    header: &[u8],
    body: Body<'_>,
    frame_max: u32,
) {
    let buffer = out.buffer();
    frame_head(buffer, FrameKind::Header, channel, header.len());
    buffer.extend_from_slice(header);
    buffer.push(FRAME_END);
    let octets = body.octets();
    let chunk_max = chunk_max(frame_max);
    if octets.len() < SHARE_FROM && octets.len() <= chunk_max {
        if !octets.is_empty() {
            write_body_frame(buffer, channel, octets);
        }
        return;
    }
    let mut shared = match body {
        Body::Stored(message) => message.body_shared(),
        Body::Borrowed(_) => Bytes::new(),
    };
    for chunk in octets.chunks(chunk_max) {
        let mine = shared.split_to(chunk.len().min(shared.len()));
        if chunk.len() < SHARE_FROM || mine.is_empty() {
            write_body_frame(out.buffer(), channel, chunk);
        } else {
            frame_head(out.buffer(), FrameKind::Body, channel, chunk.len());
            out.push_shared(mine);
            out.buffer().push(FRAME_END);
        }
    }
}

fn chunk_max(frame_max: u32) -> usize {
    if frame_max == 0 {
        return usize::MAX;
    }
    (frame_max.max(FRAME_MIN_SIZE) - FRAME_OVERHEAD) as usize
}

#[inline]
fn write_body_frame(buffer: &mut Vec<u8>, channel: ChannelId, octets: &[u8]) {
    frame_head(buffer, FrameKind::Body, channel, octets.len());
    buffer.extend_from_slice(octets);
    buffer.push(FRAME_END);
}

#[inline]
fn frame_head(buffer: &mut Vec<u8>, kind: FrameKind, channel: ChannelId, size: usize) {
    let [c0, c1] = channel.0.to_be_bytes();
    let [s0, s1, s2, s3] = size_word(size);
    buffer.extend_from_slice(&[kind.octet(), c0, c1, s0, s1, s2, s3]);
}

#[inline]
fn method_head(
    buffer: &mut Vec<u8>,
    channel: ChannelId,
    class: u16,
    method: u16,
    arguments: usize,
) {
    let [c0, c1] = channel.0.to_be_bytes();
    let [s0, s1, s2, s3] = size_word(IDS + arguments);
    let [i0, i1] = class.to_be_bytes();
    let [m0, m1] = method.to_be_bytes();
    buffer.extend_from_slice(&[
        FrameKind::Method.octet(),
        c0,
        c1,
        s0,
        s1,
        s2,
        s3,
        i0,
        i1,
        m0,
        m1,
    ]);
}

fn size_word(size: usize) -> [u8; 4] {
    // Bodies end at 512 MiB, everything else far below.
    u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes()
}

#[inline]
fn tag_and_bits(tag: DeliveryTag, bits: u8) -> [u8; 9] {
    let [a, b, c, d, e, f, g, h] = tag.0.to_be_bytes();
    [a, b, c, d, e, f, g, h, bits]
}
