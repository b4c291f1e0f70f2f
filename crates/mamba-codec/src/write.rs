//! Writing frames.

use amq_protocol::protocol::AMQPClass;
use mamba_types::{ChannelId, DeliveryTag, Message};

use crate::output::Output;

/// Appends `basic.deliver` with its content.
///
/// `frame_max` is the agreed frame size with overhead, 0 for no limit. A content header never splits, so it goes
/// out whole even if it is larger.
pub fn write_deliver(
    out: &mut Output,
    channel: ChannelId,
    consumer_tag: &[u8],
    delivery_tag: DeliveryTag,
    redelivered: bool,
    message: &Message,
    frame_max: u32,
) {
    let _ = (
        out,
        channel,
        consumer_tag,
        delivery_tag,
        redelivered,
        message,
        frame_max,
    );
    todo!()
}

/// Appends `basic.get-ok` with its content.
pub fn write_get_ok(
    out: &mut Output,
    channel: ChannelId,
    delivery_tag: DeliveryTag,
    redelivered: bool,
    message: &Message,
    message_count: u32,
    frame_max: u32,
) {
    let _ = (
        out,
        channel,
        delivery_tag,
        redelivered,
        message,
        message_count,
        frame_max,
    );
    todo!()
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
    /// A stored message.
    Message(&'a Message),
    /// A message still in the input.
    Parts(Parts<'a>),
}

/// Appends `basic.return` with its content.
pub fn write_return(
    out: &mut Output,
    channel: ChannelId,
    code: u16,
    text: &str,
    returned: Returned<'_>,
    frame_max: u32,
) {
    let _ = (out, channel, code, text, returned, frame_max);
    todo!()
}

/// Appends `basic.ack`.
pub fn write_ack(buffer: &mut Vec<u8>, channel: ChannelId, tag: DeliveryTag, multiple: bool) {
    let _ = (buffer, channel, tag, multiple);
    todo!()
}

/// Appends `basic.nack` to a publisher; the requeue bit is 1, as the reference broker sends it.
pub fn write_nack(buffer: &mut Vec<u8>, channel: ChannelId, tag: DeliveryTag, multiple: bool) {
    let _ = (buffer, channel, tag, multiple);
    todo!()
}

/// Appends any method without content.
pub fn write_method(buffer: &mut Vec<u8>, channel: ChannelId, method: &AMQPClass) {
    let _ = (buffer, channel, method);
    todo!()
}

/// Appends a heartbeat.
pub fn write_heartbeat(buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(&[8, 0, 0, 0, 0, 0, 0, 0xCE]);
}
