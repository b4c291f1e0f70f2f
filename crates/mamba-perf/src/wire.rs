//! The frames of AMQP 0-9-1 that a load generator needs, written and read by hand.
//!
//! ```text
//! octet type | short channel | long size | size octets of payload | 0xCE
//! ```
//!
//! Reading is incremental: [`Inbound`] holds what the socket gave and hands out whole frames as slices of its buffer.

use crate::error::Error;

/// The eight octets a client opens with (4.2.2).
pub(crate) const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";
/// A heartbeat frame (4.2.7).
pub(crate) const HEARTBEAT_FRAME: [u8; 8] = [FRAME_HEARTBEAT, 0, 0, 0, 0, 0, 0, FRAME_END];
/// Octets of a frame beside its payload.
pub(crate) const FRAME_OVERHEAD: usize = 8;

pub(crate) const FRAME_METHOD: u8 = 1;
pub(crate) const FRAME_HEADER: u8 = 2;
pub(crate) const FRAME_BODY: u8 = 3;
pub(crate) const FRAME_HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xCE;

/// Class and method numbers, as the first four octets of a method frame's payload.
pub(crate) mod id {
    const fn method(class: u32, method: u32) -> u32 {
        class << 16 | method
    }

    pub(crate) const CONNECTION_START: u32 = method(10, 10);
    pub(crate) const CONNECTION_START_OK: u32 = method(10, 11);
    pub(crate) const CONNECTION_SECURE: u32 = method(10, 20);
    pub(crate) const CONNECTION_TUNE: u32 = method(10, 30);
    pub(crate) const CONNECTION_TUNE_OK: u32 = method(10, 31);
    pub(crate) const CONNECTION_OPEN: u32 = method(10, 40);
    pub(crate) const CONNECTION_OPEN_OK: u32 = method(10, 41);
    pub(crate) const CONNECTION_CLOSE: u32 = method(10, 50);
    pub(crate) const CONNECTION_CLOSE_OK: u32 = method(10, 51);
    pub(crate) const CONNECTION_BLOCKED: u32 = method(10, 60);
    pub(crate) const CONNECTION_UNBLOCKED: u32 = method(10, 61);
    pub(crate) const CHANNEL_OPEN: u32 = method(20, 10);
    pub(crate) const CHANNEL_OPEN_OK: u32 = method(20, 11);
    pub(crate) const CHANNEL_FLOW: u32 = method(20, 20);
    pub(crate) const CHANNEL_FLOW_OK: u32 = method(20, 21);
    pub(crate) const CHANNEL_CLOSE: u32 = method(20, 40);
    pub(crate) const CHANNEL_CLOSE_OK: u32 = method(20, 41);
    pub(crate) const EXCHANGE_DECLARE: u32 = method(40, 10);
    pub(crate) const EXCHANGE_DECLARE_OK: u32 = method(40, 11);
    pub(crate) const EXCHANGE_DELETE: u32 = method(40, 20);
    pub(crate) const EXCHANGE_DELETE_OK: u32 = method(40, 21);
    pub(crate) const QUEUE_DECLARE: u32 = method(50, 10);
    pub(crate) const QUEUE_DECLARE_OK: u32 = method(50, 11);
    pub(crate) const QUEUE_BIND: u32 = method(50, 20);
    pub(crate) const QUEUE_BIND_OK: u32 = method(50, 21);
    pub(crate) const QUEUE_PURGE: u32 = method(50, 30);
    pub(crate) const QUEUE_PURGE_OK: u32 = method(50, 31);
    pub(crate) const QUEUE_DELETE: u32 = method(50, 40);
    pub(crate) const QUEUE_DELETE_OK: u32 = method(50, 41);
    pub(crate) const QUEUE_UNBIND: u32 = method(50, 50);
    pub(crate) const QUEUE_UNBIND_OK: u32 = method(50, 51);
    pub(crate) const BASIC_QOS: u32 = method(60, 10);
    pub(crate) const BASIC_QOS_OK: u32 = method(60, 11);
    pub(crate) const BASIC_CONSUME: u32 = method(60, 20);
    pub(crate) const BASIC_CONSUME_OK: u32 = method(60, 21);
    pub(crate) const BASIC_CANCEL: u32 = method(60, 30);
    pub(crate) const BASIC_CANCEL_OK: u32 = method(60, 31);
    pub(crate) const BASIC_PUBLISH: u32 = method(60, 40);
    pub(crate) const BASIC_RETURN: u32 = method(60, 50);
    pub(crate) const BASIC_DELIVER: u32 = method(60, 60);
    pub(crate) const BASIC_ACK: u32 = method(60, 80);
    pub(crate) const BASIC_NACK: u32 = method(60, 120);
    pub(crate) const CONFIRM_SELECT: u32 = method(85, 10);
    pub(crate) const CONFIRM_SELECT_OK: u32 = method(85, 11);
    pub(crate) const TX_SELECT: u32 = method(90, 10);
    pub(crate) const TX_SELECT_OK: u32 = method(90, 11);
    pub(crate) const TX_COMMIT: u32 = method(90, 20);
    pub(crate) const TX_COMMIT_OK: u32 = method(90, 21);
}

/// Text of at most 255 octets, as names on the wire are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShortStr {
    octets: Vec<u8>,
    length: u8,
}

impl ShortStr {
    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Checks the length; `what` names the value in the error.
    pub(crate) fn new(what: &str, text: &str) -> Result<Self, Error> {
        let length = u8::try_from(text.len()).map_err(|_| {
            Error::Options(format!("{what} has {} octets; AMQP allows 255", text.len()))
        })?;
        Ok(Self {
            octets: text.as_bytes().to_vec(),
            length,
        })
    }
}

/// A value of a field table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Bool(bool),
    Long(i64),
    Text(String),
    Table(Vec<(ShortStr, Self)>),
}

impl Value {
    /// `true`/`false` and whole numbers become booleans and signed 64-bit integers; the rest is text.
    pub(crate) fn infer(text: &str) -> Self {
        match text {
            "true" => Self::Bool(true),
            "false" => Self::Bool(false),
            _ => text
                .parse()
                .map_or_else(|_| Self::Text(text.to_owned()), Self::Long),
        }
    }
}

/// Appends the fields of a method or a content header.
pub(crate) struct Fields<'a>(&'a mut Vec<u8>);

impl Fields<'_> {
    pub(crate) fn octet(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(crate) fn short(&mut self, value: u16) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn long(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn longlong(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn shortstr(&mut self, text: &ShortStr) -> &mut Self {
        self.0.push(text.length);
        self.0.extend_from_slice(&text.octets);
        self
    }

    /// Appends `count` octets of value 0.
    pub(crate) fn zeros(&mut self, count: usize) -> &mut Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    pub(crate) fn longstr(&mut self, octets: &[u8]) -> &mut Self {
        self.sized(|fields| fields.0.extend_from_slice(octets))
    }

    pub(crate) fn table(&mut self, entries: &[(ShortStr, Value)]) -> &mut Self {
        self.sized(|fields| {
            for (name, value) in entries {
                fields.shortstr(name);
                match value {
                    Value::Bool(value) => fields.octet(b't').octet(u8::from(*value)),
                    Value::Long(value) => fields.octet(b'l').longlong(value.cast_unsigned()),
                    Value::Text(text) => fields.octet(b'S').longstr(text.as_bytes()),
                    Value::Table(entries) => fields.octet(b'F').table(entries),
                };
            }
        })
    }

    /// Writes a four-octet length in front of what `content` appends.
    fn sized(&mut self, content: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.0.len();
        self.long(0);
        content(self);
        patch_length(self.0, start);
        self
    }
}

/// Appends a frame whose payload `content` writes.
pub(crate) fn frame(
    out: &mut Vec<u8>,
    kind: u8,
    channel: u16,
    content: impl FnOnce(&mut Fields<'_>),
) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    content(&mut Fields(out));
    patch_length(out, start);
    out.push(FRAME_END);
}

/// Appends a method frame.
pub(crate) fn method(
    out: &mut Vec<u8>,
    channel: u16,
    id: u32,
    arguments: impl FnOnce(&mut Fields<'_>),
) {
    frame(out, FRAME_METHOD, channel, |fields| {
        fields.long(id);
        arguments(fields);
    });
}

/// Appends `basic.ack` for `channel`. 21 octets.
#[inline]
pub(crate) fn ack(out: &mut Vec<u8>, channel: u16, delivery_tag: u64, multiple: bool) {
    let mut image = [
        FRAME_METHOD,
        0,
        0,
        0,
        0,
        0,
        13,
        0,
        60,
        0,
        80,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        u8::from(multiple),
        FRAME_END,
    ];
    image[1..3].copy_from_slice(&channel.to_be_bytes());
    image[11..19].copy_from_slice(&delivery_tag.to_be_bytes());
    out.extend_from_slice(&image);
}

fn patch_length(out: &mut [u8], start: usize) {
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// A whole frame, as a view into the read buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) channel: u16,
    pub(crate) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Class and method, and the arguments; `None` for other frames.
    #[inline]
    pub(crate) fn as_method(&self) -> Option<(u32, &'a [u8])> {
        if self.kind != FRAME_METHOD {
            return None;
        }
        let (id, arguments) = self.payload.split_first_chunk::<4>()?;
        Some((u32::from_be_bytes(*id), arguments))
    }
}

/// Reads fields off the front of a payload.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    #[inline]
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(short_payload)?;
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or_else(short_payload)?;
        self.0 = rest;
        Ok(*taken)
    }

    #[inline]
    pub(crate) fn octet(&mut self) -> Result<u8, Error> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    #[inline]
    pub(crate) fn short(&mut self) -> Result<u16, Error> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    #[inline]
    pub(crate) fn long(&mut self) -> Result<u32, Error> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    #[inline]
    pub(crate) fn longlong(&mut self) -> Result<u64, Error> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    #[inline]
    pub(crate) fn shortstr(&mut self) -> Result<&'a [u8], Error> {
        let length = self.octet()?;
        self.take(usize::from(length))
    }

    pub(crate) fn longstr(&mut self) -> Result<&'a [u8], Error> {
        let length = self.long()?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }
}

#[cold]
fn short_payload() -> Error {
    Error::Protocol("a frame ends before its last field".to_owned())
}

/// What came from the socket and is not yet taken.
pub(crate) struct Inbound {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbound {
    /// A buffer of `capacity` octets, which must hold the largest frame with its overhead.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            buffer: vec![0; capacity],
            start: 0,
            end: 0,
        }
    }

    /// Changes the buffer's size, keeping what it holds.
    pub(crate) fn resize(&mut self, capacity: usize) {
        self.compact();
        self.buffer.resize(capacity.max(self.end), 0);
        self.buffer.shrink_to_fit();
    }

    /// Where the next octets of the socket belong; never empty while the peer keeps to the size of the buffer.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        self.compact();
        &mut self.buffer[self.end..]
    }

    /// Says that the first `count` octets of [`Self::space`] were written.
    pub(crate) fn filled(&mut self, count: usize) {
        self.end += count;
        debug_assert!(self.end <= self.buffer.len());
    }

    /// The octets not yet taken, whether or not they form a frame.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Takes the next whole frame; `None` when more octets are needed.
    #[inline]
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame<'_>>, Error> {
        let held = &self.buffer[self.start..self.end];
        let Some((head, rest)) = held.split_first_chunk::<7>() else {
            return Ok(None);
        };
        let [kind, channel_high, channel_low, size @ ..] = *head;
        let size = usize::try_from(u32::from_be_bytes(size)).unwrap_or(usize::MAX);
        if rest.len() <= size {
            if size > self.buffer.len() - FRAME_OVERHEAD {
                return Err(too_large(head, size, self.buffer.len()));
            }
            return Ok(None);
        }
        if rest[size] != FRAME_END {
            return Err(Error::Protocol(format!(
                "a frame of type {kind} with {size} octets ends with {} instead of 206",
                rest[size]
            )));
        }
        self.start += size + FRAME_OVERHEAD;
        Ok(Some(Frame {
            kind,
            channel: u16::from_be_bytes([channel_high, channel_low]),
            payload: &rest[..size],
        }))
    }

    fn compact(&mut self) {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }
}

#[cold]
fn too_large(head: &[u8; 7], size: usize, capacity: usize) -> Error {
    if head.starts_with(b"AMQP") {
        return Error::Protocol("it sent a protocol header in place of a frame".to_owned());
    }
    Error::Protocol(format!(
        "a frame of type {} announces {size} octets; the agreed limits allow less than {capacity}",
        head[0]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Vec<u8> {
        let mut out = Vec::new();
        method(&mut out, 1, id::BASIC_DELIVER, |fields| {
            fields
                .shortstr(&ShortStr::new("tag", "0").unwrap())
                .longlong(7)
                .octet(0)
                .shortstr(&ShortStr::default())
                .shortstr(&ShortStr::new("key", "queue").unwrap());
        });
        frame(&mut out, FRAME_HEADER, 1, |fields| {
            fields.short(60).short(0).longlong(5).short(0);
        });
        frame(&mut out, FRAME_BODY, 1, |fields| {
            fields.0.extend_from_slice(b"hello");
        });
        out.extend_from_slice(&HEARTBEAT_FRAME);
        ack(&mut out, 0x0102, 0x0304_0506_0708_090a, true);
        out
    }

    fn read_all(inbound: &mut Inbound) -> Vec<(u8, u16, Vec<u8>)> {
        let mut frames = Vec::new();
        while let Some(frame) = inbound.next_frame().unwrap() {
            frames.push((frame.kind, frame.channel, frame.payload.to_vec()));
        }
        frames
    }

    fn feed(inbound: &mut Inbound, octets: &[u8]) {
        inbound.space()[..octets.len()].copy_from_slice(octets);
        inbound.filled(octets.len());
    }

    #[test]
    fn any_split_gives_the_same_frames() {
        let octets = sample();
        let mut whole = Inbound::new(4096);
        feed(&mut whole, &octets);
        let expected = read_all(&mut whole);
        assert_eq!(expected.len(), 5);
        assert_eq!(expected[2].2, b"hello");
        for first in 0..octets.len() {
            for second in first..octets.len() {
                let mut inbound = Inbound::new(4096);
                let mut frames = Vec::new();
                for part in [&octets[..first], &octets[first..second], &octets[second..]] {
                    feed(&mut inbound, part);
                    frames.extend(read_all(&mut inbound));
                }
                assert_eq!(frames, expected, "split at {first} and {second}");
            }
        }
    }

    #[test]
    fn a_small_buffer_moves_its_rest_to_the_front() {
        let octets = sample();
        let mut inbound = Inbound::new(64);
        let mut frames = 0;
        let mut fed = 0;
        while fed < octets.len() {
            let room = inbound.space().len().min(octets.len() - fed);
            feed(&mut inbound, &octets[fed..fed + room]);
            fed += room;
            frames += read_all(&mut inbound).len();
        }
        assert_eq!(frames, 5);
    }

    #[test]
    fn ack_is_the_method_frame() {
        let mut image = Vec::new();
        ack(&mut image, 258, 0x0102_0304_0506_0708, true);
        let mut expected = Vec::new();
        method(&mut expected, 258, id::BASIC_ACK, |fields| {
            fields.longlong(0x0102_0304_0506_0708).octet(1);
        });
        assert_eq!(image, expected);
    }

    #[test]
    fn fields_come_back() {
        let mut out = Vec::new();
        let name = ShortStr::new("name", "key").unwrap();
        method(&mut out, 3, id::QUEUE_DECLARE, |fields| {
            fields
                .octet(1)
                .short(2)
                .long(3)
                .longlong(4)
                .shortstr(&name)
                .longstr(b"long")
                .table(&[
                    (name.clone(), Value::Long(-1)),
                    (name.clone(), Value::Bool(true)),
                    (name.clone(), Value::Text("x".to_owned())),
                    (name.clone(), Value::Table(vec![])),
                ]);
        });
        let mut inbound = Inbound::new(4096);
        feed(&mut inbound, &out);
        let frame = inbound.next_frame().unwrap().unwrap();
        let (method, arguments) = frame.as_method().unwrap();
        assert_eq!((frame.channel, method), (3, id::QUEUE_DECLARE));
        let mut cursor = Cursor(arguments);
        assert_eq!(cursor.octet().unwrap(), 1);
        assert_eq!(cursor.short().unwrap(), 2);
        assert_eq!(cursor.long().unwrap(), 3);
        assert_eq!(cursor.longlong().unwrap(), 4);
        assert_eq!(cursor.shortstr().unwrap(), b"key");
        assert_eq!(cursor.longstr().unwrap(), b"long");
        let table = cursor.longstr().unwrap();
        assert_eq!(
            table,
            b"\x03keyl\xff\xff\xff\xff\xff\xff\xff\xff\x03keyt\x01\x03keyS\0\0\0\x01x\x03keyF\0\0\0\0"
        );
        assert!(cursor.octet().is_err());
    }

    #[test]
    fn refusals() {
        let mut inbound = Inbound::new(64);
        feed(&mut inbound, &[1, 0, 0, 0, 0, 0, 1, 9, 0]);
        assert!(inbound.next_frame().is_err(), "wrong frame end");
        let mut inbound = Inbound::new(64);
        feed(&mut inbound, &[1, 0, 0, 0, 0, 0, 60]);
        assert!(inbound.next_frame().is_err(), "larger than the buffer");
        let mut inbound = Inbound::new(64);
        feed(&mut inbound, b"AMQP\x00\x00\x09\x01");
        assert!(inbound.next_frame().is_err(), "protocol header");
        assert!(ShortStr::new("name", &"x".repeat(256)).is_err());
    }

    #[test]
    fn values() {
        assert_eq!(Value::infer("true"), Value::Bool(true));
        assert_eq!(Value::infer("-12"), Value::Long(-12));
        assert_eq!(Value::infer("1.5"), Value::Text("1.5".to_owned()));
    }

    proptest! {
        #[test]
        fn no_input_panics(octets in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut inbound = Inbound::new(64);
            feed(&mut inbound, &octets);
            while let Ok(Some(frame)) = inbound.next_frame() {
                let _ = frame.as_method();
            }
        }
    }
}
