//! A publisher: one thread, one connection, one channel.
//!
//! The thread never blocks in a write, so that it can take in confirms while the broker does not take more messages; a
//! second thread for reading would cost a context switch per batch.

use std::ops::Range;
use std::sync::Arc;

use crate::block::Block;
use crate::clock::{SECOND, now_ns};
use crate::error::Error;
use crate::outstanding::Outstanding;
use crate::plan::{Plan, share};
use crate::stats::{Counters, Recorder};
use crate::transport::{CHANNEL, READ_TIMEOUT_NS, Transport, Wishes, refuse_close};
use crate::verify::{Fingerprint, STAMP_SIZE, numbered};
use crate::wire::{Cursor, Frame, Inbound, id, method};
use crate::worker::{Control, Event, Farewell, Reporter, Stage, precise_sleep};

/// Octets that a publisher reads at once: acks, returns, and little else.
const READ_BUFFER_SIZE: usize = 128 * 1024;

/// What a publisher sent per target of the plan, for verification.
pub(crate) type Sent = Vec<(usize, Fingerprint)>;

/// Runs publisher number `index` until it has sent all it should; reports failures itself.
pub(crate) fn run(
    control: &Control,
    index: usize,
    counters: Arc<Counters>,
    latency: Option<Recorder>,
    reporter: Reporter,
) -> Sent {
    let mut sent = Sent::new();
    if let Err(error) = publish(control, index, counters, latency, &reporter, &mut sent) {
        reporter.failed(error);
    }
    sent
}

fn publish(
    control: &Control,
    index: usize,
    counters: Arc<Counters>,
    latency: Option<Recorder>,
    reporter: &Reporter,
    sent: &mut Sent,
) -> Result<(), Error> {
    let plan = &control.plan;
    let wishes = Wishes {
        name: "mambamq perf publisher",
        heartbeat_secs: plan.args.heartbeat,
        read_buffer_size: Some(READ_BUFFER_SIZE),
    };
    let mut transport = Transport::open(&plan.uri, &wishes)?;
    prepare(&mut transport, plan)?;
    let targets = share(index, plan.publishers, plan.targets.len());
    let block = Block::new(plan, &targets, transport.payload_max)?;
    *sent = targets
        .iter()
        .map(|target| (*target, Fingerprint::default()))
        .collect();
    let first_stream = u64::try_from(index * plan.targets.len()).unwrap_or(u64::MAX);
    let mut publisher = Publisher {
        plan,
        transport,
        block,
        first_stream,
        sent,
        next: 0,
        replies: Replies {
            outstanding: Outstanding::new(plan.window),
            counters,
            latency,
            reporter,
            blocked: false,
            commit_sent_ns: None,
        },
        published: 0,
        uncommitted: 0,
        quota: quota(plan, index),
        interval_ns: plan.args.rate.map_or(0.0, |rate| 1e9 / rate),
        started_ns: 0,
    };
    reporter.tell(Event::Connected(publisher.transport.server.clone()));
    if control.wait_for(Stage::Publish) {
        publisher.run(control)?;
    }
    reporter.tell(Event::Published);
    publisher.transport.close();
    Ok(())
}

fn prepare(transport: &mut Transport, plan: &Plan) -> Result<(), Error> {
    transport.open_channel()?;
    if plan.window > 0 {
        method(
            &mut transport.outbound,
            CHANNEL,
            id::CONFIRM_SELECT,
            |fields| {
                fields.octet(0);
            },
        );
        transport.call("confirm.select", id::CONFIRM_SELECT_OK)?;
    }
    if plan.args.tx > 0 {
        method(&mut transport.outbound, CHANNEL, id::TX_SELECT, |_| {});
        transport.call("tx.select", id::TX_SELECT_OK)?;
    }
    Ok(())
}

/// The number of messages that publisher `index` sends.
fn quota(plan: &Plan, index: usize) -> u64 {
    let Some(messages) = plan.args.messages else {
        return u64::MAX;
    };
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let publishers = number(plan.publishers);
    messages / publishers + u64::from(number(index) < messages % publishers)
}

struct Publisher<'a> {
    plan: &'a Plan,
    transport: Transport,
    block: Block,
    /// Stream number of this publisher's messages to the plan's first target.
    first_stream: u64,
    sent: &'a mut Sent,
    /// The entry of the block that comes next.
    next: usize,
    replies: Replies<'a>,
    published: u64,
    /// Messages since the last `tx.commit`.
    uncommitted: u64,
    quota: u64,
    /// Time between two messages; 0 without a rate.
    interval_ns: f64,
    started_ns: u64,
}

/// What may go out now.
enum Turn {
    Send(u64),
    /// Nothing before the broker answers.
    AwaitReply,
    /// Nothing before this much time has passed.
    AwaitTime(u64),
    Commit,
    Finished,
}

impl Publisher<'_> {
    fn run(&mut self, control: &Control) -> Result<(), Error> {
        if self.interval_ns > 0.0 {
            precise_sleep();
        }
        self.started_ns = now_ns();
        let mut farewell = Farewell::default();
        loop {
            let now = now_ns();
            let stopping = control.publishing_stopped();
            match self.turn(now, stopping) {
                Turn::Send(limit) => {
                    if !self.send(limit, now, control)? {
                        return Ok(());
                    }
                    self.transport.receive()?;
                }
                Turn::Commit => {
                    method(&mut self.transport.outbound, CHANNEL, id::TX_COMMIT, |_| {});
                    self.transport.flush()?;
                    self.replies.commit_sent_ns = Some(now);
                    self.uncommitted = 0;
                }
                Turn::AwaitReply => {
                    self.transport.receive_within(READ_TIMEOUT_NS)?;
                }
                Turn::AwaitTime(wait_ns) => {
                    self.transport.receive_within(wait_ns)?;
                }
                Turn::Finished => return Ok(()),
            }
            self.replies.take_in(&mut self.transport.inbound)?;
            self.transport.keep_alive(now, true)?;
            if stopping && (control.stopped() || farewell.is_over()) {
                self.replies.give_up();
                return Ok(());
            }
        }
    }

    fn turn(&self, now: u64, stopping: bool) -> Turn {
        let replies = &self.replies;
        if replies.commit_sent_ns.is_some() {
            return Turn::AwaitReply;
        }
        let tx = self.plan.args.tx;
        let mut limit = if stopping {
            0
        } else {
            self.quota - self.published
        };
        if limit == 0 {
            return if self.uncommitted > 0 {
                Turn::Commit
            } else if replies.outstanding.count() > 0 {
                Turn::AwaitReply
            } else {
                Turn::Finished
            };
        }
        if tx > 0 {
            limit = limit.min(tx - self.uncommitted);
            if limit == 0 {
                return Turn::Commit;
            }
        }
        if replies.blocked {
            return Turn::AwaitReply;
        }
        if self.plan.window > 0 {
            limit = limit.min(replies.outstanding.room());
            if limit == 0 {
                return Turn::AwaitReply;
            }
        }
        if self.interval_ns > 0.0 {
            let due_ns = self.intended_ns(self.published);
            if due_ns > now {
                return Turn::AwaitTime(due_ns - now);
            }
            limit = limit.min(count(ns(now - due_ns) / self.interval_ns) + 1);
        }
        Turn::Send(limit)
    }

    /// When message `number` is meant to go out.
    fn intended_ns(&self, number: u64) -> u64 {
        self.started_ns + count(ns(number) * self.interval_ns)
    }

    /// Sends one batch of at most `limit` messages; false when the run ended in the middle.
    fn send(&mut self, limit: u64, now: u64, control: &Control) -> Result<bool, Error> {
        let batch = self.block.batch(self.next, limit);
        self.stamp(&batch, now);
        let messages = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let mut span = self.block.span(&batch);
        while !span.is_empty() {
            let taken = self.transport.send(&self.block.octets[span.clone()])?;
            span.start += taken;
            if taken == 0 {
                let (readable, _) = self.transport.wait(true, READ_TIMEOUT_NS)?;
                if readable {
                    self.transport.receive()?;
                    self.replies.take_in(&mut self.transport.inbound)?;
                }
                self.transport.keep_alive(now_ns(), false)?;
                if control.stopped() {
                    return Ok(false);
                }
            }
        }
        self.next = if batch.end == self.block.entries.len() {
            0
        } else {
            batch.end
        };
        self.published += messages;
        if self.plan.args.tx > 0 {
            self.uncommitted += messages;
        }
        let octets: usize = match self.plan.sizes.as_slice() {
            [size] => size * batch.len(),
            _ => self.block.entries[batch]
                .iter()
                .map(|entry| entry.body_size)
                .sum(),
        };
        let counters = &self.replies.counters;
        counters.published.set(self.published);
        counters
            .published_bytes
            .add(u64::try_from(octets).unwrap_or(0));
        counters.last_progress_ns.set(now);
        Ok(true)
    }

    /// Writes times and numbers into the messages of a batch.
    fn stamp(&mut self, batch: &Range<usize>, now: u64) {
        let paced = self.interval_ns > 0.0;
        let (latency, verify) = (self.plan.args.latency, self.plan.args.verify);
        let confirms = self.plan.window > 0;
        if !latency && !verify && !confirms {
            return;
        }
        for (number, entry) in (self.published..).zip(&self.block.entries[batch.clone()]) {
            let time_ns = if paced && latency {
                self.started_ns + count(ns(number) * self.interval_ns)
            } else {
                now
            };
            if confirms {
                self.replies.outstanding.push(time_ns);
            }
            if verify {
                let (target, sent) = &mut self.sent[entry.target];
                let stream = self.first_stream + u64::try_from(*target).unwrap_or(0);
                let word = numbered(stream, sent.count);
                sent.insert(sent.count);
                self.block.octets[entry.body + 8..entry.body + STAMP_SIZE]
                    .copy_from_slice(&word.to_be_bytes());
            }
            if latency || verify {
                self.block.octets[entry.body..entry.body + 8]
                    .copy_from_slice(&time_ns.to_be_bytes());
            }
        }
    }
}

/// What the broker says to a publisher.
struct Replies<'a> {
    outstanding: Outstanding,
    counters: Arc<Counters>,
    latency: Option<Recorder>,
    reporter: &'a Reporter,
    blocked: bool,
    /// When the commit that is not yet answered was sent.
    commit_sent_ns: Option<u64>,
}

impl Replies<'_> {
    fn take_in(&mut self, inbound: &mut Inbound) -> Result<(), Error> {
        if inbound.rest().is_empty() {
            return Ok(());
        }
        let now = now_ns();
        let latency = self.latency.clone();
        let mut batch = latency.as_ref().map(Recorder::batch);
        let (mut confirmed, mut nacked) = (0, 0);
        while let Some(frame) = inbound.next_frame()? {
            let Some((method, arguments)) = frame.as_method() else {
                continue;
            };
            let settled = match method {
                id::BASIC_ACK => &mut confirmed,
                id::BASIC_NACK => &mut nacked,
                id::TX_COMMIT_OK => {
                    self.counters.committed.add(1);
                    if let (Some(sent_ns), Some(histogram)) =
                        (self.commit_sent_ns.take(), batch.as_mut())
                    {
                        histogram.saturating_record(now.saturating_sub(sent_ns).max(1));
                    }
                    self.commit_sent_ns = None;
                    continue;
                }
                _ => {
                    self.seldom(&frame, method, arguments)?;
                    continue;
                }
            };
            let mut arguments = Cursor(arguments);
            let tag = arguments.longlong()?;
            let multiple = arguments.octet()? & 1 == 1;
            *settled += self.outstanding.settle(tag, multiple, |sent_ns| {
                if let Some(histogram) = batch.as_mut() {
                    histogram.saturating_record(now.saturating_sub(sent_ns).max(1));
                }
            })?;
        }
        if confirmed + nacked > 0 {
            self.counters.confirmed.add(confirmed);
            self.counters.nacked.add(nacked);
            self.counters.last_progress_ns.set(now);
        }
        Ok(())
    }

    #[cold]
    fn seldom(&mut self, frame: &Frame<'_>, method: u32, arguments: &[u8]) -> Result<(), Error> {
        match method {
            id::BASIC_RETURN => self.counters.returned.add(1),
            id::CONNECTION_BLOCKED => {
                let reason = String::from_utf8_lossy(Cursor(arguments).shortstr()?).into_owned();
                self.blocked = true;
                self.reporter
                    .notice(&format!("the broker blocked the connection: {reason}"));
            }
            id::CONNECTION_UNBLOCKED => {
                self.blocked = false;
                self.reporter.notice("the broker unblocked the connection");
            }
            _ => refuse_close(frame)?,
        }
        Ok(())
    }

    fn give_up(&self) {
        let count = self.outstanding.count();
        if count > 0 {
            self.reporter
                .notice(&format!("{count} messages were not confirmed at the end"));
        }
    }
}

/// Nanoseconds, or a number of messages, for the arithmetic of rates; exact up to 2^53.
#[expect(
    clippy::cast_precision_loss,
    reason = "2^53 ns are 104 days, longer than any run"
)]
fn ns(value: u64) -> f64 {
    value as f64
}

/// Back from the arithmetic of rates.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is not negative, and the cast saturates"
)]
fn count(value: f64) -> u64 {
    value as u64
}

const _: () = assert!(READ_TIMEOUT_NS < SECOND);
