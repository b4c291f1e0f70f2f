//! A consumer: one thread, one connection, one channel, one or more queues.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::clock::{MILLISECOND, now_ns};
use crate::error::Error;
use crate::plan::{Plan, share};
use crate::stats::{Counters, Recorder};
use crate::transport::{CHANNEL, READ_TIMEOUT_NS, Transport, Wishes, refuse_close};
use crate::verify::{STAMP_SIZE, STREAMS_MAX, Seen, parts};
use crate::wire::{
    Cursor, FRAME_BODY, FRAME_HEADER, FRAME_METHOD, Frame, ShortStr, ack, id, method,
};
use crate::worker::{Control, Event, Reporter, Stage};

/// Octets that a consumer reads at once.
const READ_BUFFER_SIZE: usize = 256 * 1024;
/// Octets of acks that may wait for the socket before we stop reading deliveries.
const PENDING_ACKS_MAX: usize = 1024 * 1024;
/// The longest sleep of a consumer that has to slow down, and the most it may make good at once, in nanoseconds.
const PACE_NS: u64 = 50 * MILLISECOND;

/// What a consumer saw: the plan's queue, and by stream what came from it.
pub(crate) type SeenByQueue = Vec<(usize, Vec<Seen>)>;

/// Puts `basic.consume` into the transport's buffer.
pub(crate) fn ask_to_consume(
    transport: &mut Transport,
    queue: &ShortStr,
    tag: &ShortStr,
    plan: &Plan,
) {
    method(
        &mut transport.outbound,
        CHANNEL,
        id::BASIC_CONSUME,
        |fields| {
            fields
                .short(0)
                .shortstr(queue)
                .shortstr(tag)
                .octet(u8::from(plan.args.auto_ack) << 1)
                .table(&plan.consumer_arguments);
        },
    );
}

/// Runs consumer number `index` until the run ends; reports failures itself.
pub(crate) fn run(
    control: &Control,
    index: usize,
    counters: Arc<Counters>,
    latency: Option<Recorder>,
    reporter: Reporter,
) -> SeenByQueue {
    let plan = &control.plan;
    let queues = share(index, plan.consumers, plan.queues.len());
    let mut consumer = Consumer {
        plan,
        seen: queues
            .into_iter()
            .map(|queue| (queue, Vec::new()))
            .collect(),
        subscribed: 0,
        stamped: plan.stamped(),
        content: Content::Idle,
        delivery: Delivery::default(),
        acks: Acks {
            every: if plan.args.auto_ack {
                0
            } else {
                plan.args.ack_every
            },
            ..Acks::default()
        },
        tally: Tally::default(),
        pace: plan.args.consume_rate.map(Pace::new),
        counters,
        reporter: reporter.clone(),
    };
    if let Err(error) = consumer.run(control, latency) {
        reporter.failed(error);
    }
    consumer.seen
}

struct Consumer<'a> {
    plan: &'a Plan,
    seen: SeenByQueue,
    subscribed: usize,
    stamped: bool,
    content: Content,
    delivery: Delivery,
    acks: Acks,
    tally: Tally,
    /// Absent when messages are taken as they come.
    pace: Option<Pace>,
    counters: Arc<Counters>,
    reporter: Reporter,
}

/// What the channel expects next (4.2.6).
enum Content {
    Idle,
    Header,
    Body { rest: u64 },
}

/// The delivery that is coming in.
#[derive(Default)]
struct Delivery {
    tag: u64,
    subscription: usize,
    redelivered: bool,
    size: u64,
    stamp: [u8; STAMP_SIZE],
    stamp_length: usize,
}

/// Acknowledgements that are due.
#[derive(Default)]
struct Acks {
    /// Messages per ack; 0 when the broker wants none.
    every: u64,
    pending: u64,
    last_tag: u64,
}

/// Counts since the counters were last published.
#[derive(Default)]
struct Tally {
    consumed: u64,
    bytes: u64,
    acked: u64,
    redelivered: u64,
}

impl Consumer<'_> {
    fn run(&mut self, control: &Control, latency: Option<Recorder>) -> Result<(), Error> {
        let wishes = Wishes {
            name: "mambamq perf consumer",
            heartbeat_secs: self.plan.args.heartbeat,
            read_buffer_size: Some(READ_BUFFER_SIZE),
        };
        let mut transport = Transport::open(&self.plan.uri, &wishes)?;
        transport.open_channel()?;
        if self.plan.args.prefetch > 0 {
            method(&mut transport.outbound, CHANNEL, id::BASIC_QOS, |fields| {
                fields.long(0).short(self.plan.args.prefetch).octet(0);
            });
            transport.call("basic.qos", id::BASIC_QOS_OK)?;
        }
        self.reporter
            .tell(Event::Connected(transport.server.clone()));
        if !control.wait_for(Stage::Subscribe) {
            return Ok(());
        }
        self.subscribe(&mut transport)?;
        // Whether the rate left frames in the buffer.
        let mut more = false;
        while !control.stopped() {
            self.slow_down(control, &mut transport)?;
            let received = if more {
                0
            } else if transport.outbound.len() > PENDING_ACKS_MAX {
                // The broker takes no acks: let it, before there are more.
                transport.wait(true, READ_TIMEOUT_NS)?;
                0
            } else {
                transport.receive_within(READ_TIMEOUT_NS)?
            };
            let now = now_ns();
            if received > 0 || more {
                more = false;
                let mut histogram = latency.as_ref().map(Recorder::batch);
                while let Some(frame) = transport.inbound.next_frame()? {
                    self.frame(
                        &frame,
                        &mut transport.outbound,
                        now,
                        histogram.as_deref_mut(),
                    )?;
                    if self.must_wait() {
                        more = true;
                        break;
                    }
                }
            } else {
                self.acks.settle(&mut transport.outbound, &mut self.tally);
            }
            transport.flush()?;
            self.tally.publish(&self.counters, now);
            transport.keep_alive(now, true)?;
        }
        // What is settled is gone from the queue; what is not goes back to it.
        self.acks.settle(&mut transport.outbound, &mut self.tally);
        self.tally.publish(&self.counters, now_ns());
        transport.close();
        Ok(())
    }

    #[inline]
    fn must_wait(&mut self) -> bool {
        self.pace
            .as_mut()
            .is_some_and(|pace| pace.wait_ns(now_ns()) > 0)
    }

    /// Waits until the rate allows another message. The broker notices as with any slow consumer: the socket fills up.
    fn slow_down(&mut self, control: &Control, transport: &mut Transport) -> Result<(), Error> {
        let Some(pace) = &mut self.pace else {
            return Ok(());
        };
        loop {
            let wait_ns = pace.wait_ns(now_ns());
            if wait_ns == 0 || control.stopped() {
                return Ok(());
            }
            thread::sleep(Duration::from_nanos(wait_ns.min(PACE_NS)));
            // Nobody looks at what comes in, so that silence says nothing.
            transport.look_away();
            transport.keep_alive(now_ns(), true)?;
        }
    }

    fn subscribe(&self, transport: &mut Transport) -> Result<(), Error> {
        for (number, (queue, _)) in self.seen.iter().enumerate() {
            let tag = ShortStr::new("the consumer tag", &number.to_string())?;
            let queue = &self.plan.queues[*queue].wire_name;
            ask_to_consume(transport, queue, &tag, self.plan);
        }
        transport.flush().map(drop)
    }

    #[inline]
    fn frame(
        &mut self,
        frame: &Frame<'_>,
        out: &mut Vec<u8>,
        now: u64,
        histogram: Option<&mut Histogram<u64>>,
    ) -> Result<(), Error> {
        match (frame.kind, &mut self.content) {
            (FRAME_METHOD, Content::Idle) => match frame.as_method() {
                Some((id::BASIC_DELIVER, arguments)) => {
                    self.delivery.begin(arguments)?;
                    self.content = Content::Header;
                }
                _ => self.seldom(frame, out)?,
            },
            (FRAME_HEADER, Content::Header) => {
                let mut header = Cursor(frame.payload);
                header.long()?;
                let size = header.longlong()?;
                self.delivery.size = size;
                if size == 0 {
                    self.complete(out, now, histogram)?;
                } else {
                    self.content = Content::Body { rest: size };
                }
            }
            (FRAME_BODY, Content::Body { rest }) => {
                let length = u64::try_from(frame.payload.len()).unwrap_or(u64::MAX);
                *rest = rest.checked_sub(length).ok_or_else(|| {
                    Error::Protocol("a body is longer than its header says".to_owned())
                })?;
                let complete = *rest == 0;
                if self.stamped {
                    self.delivery.take_stamp(frame.payload);
                }
                if complete {
                    self.complete(out, now, histogram)?;
                }
            }
            (FRAME_BODY | FRAME_HEADER, _) => {
                return Err(Error::Protocol(format!(
                    "a frame of type {} came in the wrong place",
                    frame.kind
                )));
            }
            // Methods of channel 0 and heartbeats may come between the frames of a message.
            _ => self.seldom(frame, out)?,
        }
        Ok(())
    }

    #[inline]
    fn complete(
        &mut self,
        out: &mut Vec<u8>,
        now: u64,
        histogram: Option<&mut Histogram<u64>>,
    ) -> Result<(), Error> {
        self.content = Content::Idle;
        let delivery = &self.delivery;
        self.tally.consumed += 1;
        if let Some(pace) = &mut self.pace {
            pace.spend();
        }
        self.tally.bytes += delivery.size;
        self.tally.redelivered += u64::from(delivery.redelivered);
        if self.stamped {
            let (time, word) = delivery.stamp();
            if let (Some(time), Some(histogram)) = (time, histogram)
                && time <= now
            {
                histogram.saturating_record((now - time).max(1));
            }
            if self.plan.args.verify {
                observe(&mut self.seen, delivery.subscription, word)?;
            }
        }
        if self.acks.every > 0 {
            self.acks.last_tag = delivery.tag;
            self.acks.pending += 1;
            if self.acks.pending >= self.acks.every {
                self.acks.settle(out, &mut self.tally);
            }
        }
        Ok(())
    }

    #[cold]
    fn seldom(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
        let Some((method_id, arguments)) = frame.as_method() else {
            return Ok(());
        };
        match method_id {
            id::BASIC_CONSUME_OK => {
                self.subscribed += 1;
                if self.subscribed == self.seen.len() {
                    self.reporter.tell(Event::Subscribed);
                }
            }
            id::BASIC_CANCEL => {
                let subscription = subscription(Cursor(arguments).shortstr()?);
                let queue = self.seen.get(subscription);
                return Err(Error::Cancelled {
                    queue: queue.map_or_else(String::new, |(queue, _)| {
                        self.plan.queues[*queue].name.clone()
                    }),
                });
            }
            id::CHANNEL_FLOW => {
                let active = Cursor(arguments).octet()?;
                method(out, CHANNEL, id::CHANNEL_FLOW_OK, |fields| {
                    fields.octet(active);
                });
            }
            _ => refuse_close(frame)?,
        }
        Ok(())
    }
}

impl Delivery {
    #[inline]
    fn begin(&mut self, arguments: &[u8]) -> Result<(), Error> {
        let mut arguments = Cursor(arguments);
        self.subscription = subscription(arguments.shortstr()?);
        self.tag = arguments.longlong()?;
        self.redelivered = arguments.octet()? & 1 == 1;
        self.stamp_length = 0;
        Ok(())
    }

    #[inline]
    fn take_stamp(&mut self, body: &[u8]) {
        if let (0, Some(stamp)) = (self.stamp_length, body.first_chunk()) {
            self.stamp = *stamp;
            self.stamp_length = STAMP_SIZE;
            return;
        }
        let part = body.len().min(STAMP_SIZE - self.stamp_length);
        self.stamp[self.stamp_length..self.stamp_length + part].copy_from_slice(&body[..part]);
        self.stamp_length += part;
    }

    /// Time of sending and number, as far as the body was long enough for them.
    #[inline]
    fn stamp(&self) -> (Option<u64>, Option<u64>) {
        let word = u128::from_be_bytes(self.stamp);
        let time = u64::try_from(word >> 64).ok();
        let number = u64::try_from(word & u128::from(u64::MAX)).ok();
        (
            time.filter(|_| self.stamp_length >= 8),
            number.filter(|_| self.stamp_length == STAMP_SIZE),
        )
    }
}

/// When a consumer with a rate may take its next message.
struct Pace {
    interval_ns: u64,
    due_ns: u64,
}

impl Pace {
    fn new(per_second: f64) -> Self {
        let interval = Duration::from_secs_f64(1.0 / per_second);
        Self {
            interval_ns: u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX),
            due_ns: 0,
        }
    }

    /// Takes a message's time.
    fn spend(&mut self) {
        self.due_ns = self.due_ns.saturating_add(self.interval_ns);
    }

    /// Nanoseconds until the next message; time in which none came is not made good, but for [`PACE_NS`].
    fn wait_ns(&mut self, now: u64) -> u64 {
        self.due_ns = self.due_ns.max(now.saturating_sub(PACE_NS));
        self.due_ns.saturating_sub(now)
    }
}

impl Acks {
    /// Acknowledges what is pending, with one ack.
    fn settle(&mut self, out: &mut Vec<u8>, tally: &mut Tally) {
        if self.pending > 0 {
            ack(out, CHANNEL, self.last_tag, self.pending > 1);
            tally.acked += self.pending;
            self.pending = 0;
        }
    }
}

impl Tally {
    fn publish(&mut self, counters: &Counters, now: u64) {
        let tally = std::mem::take(self);
        if tally.consumed > 0 {
            counters.consumed.add(tally.consumed);
            counters.consumed_bytes.add(tally.bytes);
            counters.redelivered.add(tally.redelivered);
            counters.last_progress_ns.set(now);
        }
        counters.acked.add(tally.acked);
    }
}

/// Our consumer tags are the numbers of the subscriptions.
#[inline]
fn subscription(tag: &[u8]) -> usize {
    tag.iter().fold(0, |number: usize, digit| {
        number
            .wrapping_mul(10)
            .wrapping_add(usize::from(digit.wrapping_sub(b'0')))
    })
}

#[inline]
fn observe(seen: &mut SeenByQueue, subscription: usize, word: Option<u64>) -> Result<(), Error> {
    let foreign = || {
        Error::Options(
            "a message has no sequence number: it was not published with --verify; start with empty queues (--purge)"
                .to_owned(),
        )
    };
    let (stream, sequence) = parts(word.ok_or_else(foreign)?);
    let (_, streams) = seen.get_mut(subscription).ok_or_else(|| {
        Error::Protocol("a delivery has a consumer tag that was never used".to_owned())
    })?;
    if stream >= streams.len() {
        if stream >= STREAMS_MAX {
            return Err(foreign());
        }
        streams.resize(stream + 1, Seen::default());
    }
    streams[stream].observe(sequence);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_spreads_messages_and_forgives_a_little() {
        let now = 1_000 * MILLISECOND;
        let mut pace = Pace::new(100.0);
        assert_eq!(pace.wait_ns(now), 0);
        // Five are due from the time that may be made good, the sixth takes its own.
        (0..5).for_each(|_| pace.spend());
        assert_eq!(pace.wait_ns(now), 0);
        pace.spend();
        assert_eq!(pace.wait_ns(now), 10 * MILLISECOND);
        assert_eq!(pace.wait_ns(now + 4 * MILLISECOND), 6 * MILLISECOND);
        // A long time without messages does not add up.
        let later = now + 10_000 * MILLISECOND;
        assert_eq!(pace.wait_ns(later), 0);
        (0..6).for_each(|_| pace.spend());
        assert_eq!(pace.wait_ns(later), 10 * MILLISECOND);
    }
}
