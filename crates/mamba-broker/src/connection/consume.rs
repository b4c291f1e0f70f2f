//! Consumers, `basic.get`, prefetch, and deliveries on their way out.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use mamba_auth::{Resource, Right};
use mamba_codec::{
    AMQPClass, Change, HeaderChange, Output, RawValue, protocol, rewrite_header, with_entries,
    write_deliver, write_method,
};
use mamba_queue::{
    ConsumerId, Delivery, Outcome, QueueKind, Removed, Stored, SubscribeError, Subscription,
};
use mamba_session::SettlementKind;
use mamba_store::Settled;
use mamba_types::{
    ChannelId, HardError, Message, QueueId, SoftError, Violation, table::ShortString,
};
use protocol::basic;

use super::{
    Core, GotReply,
    channel::{Channel, Held, ReplyConsumer},
    publish::REPLY_TO,
    timeout::{Due, timeout_ms},
};
use crate::{
    arguments,
    broker::ReplyTarget,
    outbox::{ConsumerAbout, ConsumerPort, ConsumerSlot, Notice, Outbox},
    queue_cell::{QueueCell, settled_of},
};

/// A connection's consumers, found by the slot their deliveries carry.
#[derive(Debug, Default)]
pub(crate) struct Consumers {
    slots: Vec<(u32, Option<Consumer>)>,
    free: Vec<u32>,
}

#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) tag: Arc<str>,
    pub(crate) channel: ChannelId,
    /// The connection's number for the queue.
    pub(crate) queue: u32,
    /// `None` while it is being added.
    pub(crate) id: Option<ConsumerId>,
    no_ack: bool,
    quorum: bool,
    /// How long a delivery may stay unsettled, in milliseconds.
    pub(crate) timeout_ms: Option<u64>,
}

impl Consumers {
    fn add(&mut self, consumer: Consumer) -> ConsumerSlot {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            u32::try_from(self.slots.len() - 1)
                .expect("a connection has far fewer consumers than 2^32")
        });
        let (generation, slot) = &mut self.slots[index as usize];
        *generation = generation.wrapping_add(1);
        *slot = Some(consumer);
        ConsumerSlot {
            index,
            generation: *generation,
        }
    }

    pub(crate) fn get(&self, slot: ConsumerSlot) -> Option<&Consumer> {
        let (generation, consumer) = self.slots.get(slot.index as usize)?;
        consumer.as_ref().filter(|_| *generation == slot.generation)
    }

    fn get_mut(&mut self, slot: ConsumerSlot) -> Option<&mut Consumer> {
        let (generation, consumer) = self.slots.get_mut(slot.index as usize)?;
        consumer.as_mut().filter(|_| *generation == slot.generation)
    }

    fn remove(&mut self, slot: ConsumerSlot) -> Option<Consumer> {
        let (generation, consumer) = self.slots.get_mut(slot.index as usize)?;
        if *generation != slot.generation {
            return None;
        }
        let consumer = consumer.take()?;
        self.free.push(slot.index);
        Some(consumer)
    }
}

/// Queues this connection has consumers or deliveries of, by a small number: a delivery costs no shared counter.
#[derive(Debug, Default)]
pub(crate) struct InternedQueues {
    slots: Vec<Option<(Arc<QueueCell>, usize)>>,
    free: Vec<u32>,
    by_id: BTreeMap<QueueId, u32>,
}

impl InternedQueues {
    /// The queue's number, with one more reference to it.
    fn retain(&mut self, queue: &Arc<QueueCell>) -> u32 {
        if let Some(index) = self.by_id.get(&queue.id).copied() {
            self.add(index, 1);
            return index;
        }
        let entry = Some((Arc::clone(queue), 1));
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = entry;
                index
            }
            None => {
                self.slots.push(entry);
                u32::try_from(self.slots.len() - 1)
                    .expect("a connection uses far fewer queues than 2^32")
            }
        };
        self.by_id.insert(queue.id, index);
        index
    }

    fn add(&mut self, index: u32, references: usize) {
        if let Some(Some((_, count))) = self.slots.get_mut(index as usize) {
            *count += references;
        }
    }

    pub(crate) fn get(&self, index: u32) -> Option<&Arc<QueueCell>> {
        self.slots
            .get(index as usize)?
            .as_ref()
            .map(|(queue, _)| queue)
    }

    pub(crate) fn release(&mut self, index: u32, references: usize) {
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        if let Some((queue, count)) = slot {
            *count = count.saturating_sub(references);
            if *count == 0 {
                self.by_id.remove(&queue.id);
                *slot = None;
                self.free.push(index);
            }
        }
    }
}

fn not_implemented(text: impl Into<String>) -> Violation {
    Violation::connection(HardError::NotImplemented, text)
}

fn precondition(text: impl Into<String>) -> Violation {
    Violation::channel(SoftError::PreconditionFailed, text)
}

impl Core {
    pub(crate) fn basic_method(
        &mut self,
        id: ChannelId,
        method: basic::AMQPMethod,
        out: &mut Output,
    ) -> Result<(), Violation> {
        match method {
            basic::AMQPMethod::Consume(consume) => self.consume(id, consume, out),
            basic::AMQPMethod::Cancel(cancel) => {
                self.cancel(id, cancel.consumer_tag.as_str(), cancel.nowait, out);
                Ok(())
            }
            basic::AMQPMethod::CancelOk(_) => Ok(()),
            basic::AMQPMethod::Get(get) => self.get(id, &get, out),
            basic::AMQPMethod::Qos(qos) => self.qos(id, &qos, out),
            basic::AMQPMethod::Recover(recover) => {
                self.recover(id, recover.requeue)?;
                write_method(
                    out.buffer(),
                    id,
                    &AMQPClass::Basic(basic::AMQPMethod::RecoverOk(basic::RecoverOk {})),
                );
                Ok(())
            }
            basic::AMQPMethod::RecoverAsync(recover) => self.recover(id, recover.requeue),
            basic::AMQPMethod::QosOk(_)
            | basic::AMQPMethod::ConsumeOk(_)
            | basic::AMQPMethod::Publish(_)
            | basic::AMQPMethod::Return(_)
            | basic::AMQPMethod::Deliver(_)
            | basic::AMQPMethod::GetOk(_)
            | basic::AMQPMethod::GetEmpty(_)
            | basic::AMQPMethod::Ack(_)
            | basic::AMQPMethod::Reject(_)
            | basic::AMQPMethod::RecoverOk(_)
            | basic::AMQPMethod::Nack(_) => Err(Violation::connection(
                HardError::CommandInvalid,
                "unimplemented method",
            )),
        }
    }

    fn qos(&mut self, id: ChannelId, qos: &basic::Qos, out: &mut Output) -> Result<(), Violation> {
        let Some(channel) = self.channels.get_mut(&id) else {
            return Ok(());
        };
        let had_limit = channel.limit.is_set();
        if qos.global {
            let out = u32::try_from(channel.unacked.len()).unwrap_or(u32::MAX);
            channel.limit.set(u32::from(qos.prefetch_count), out);
        } else {
            channel.prefetch = qos.prefetch_count;
            channel.limit.set(0, 0);
        }
        if had_limit {
            self.resume_consumers(id);
        }
        write_method(
            out.buffer(),
            id,
            &AMQPClass::Basic(basic::AMQPMethod::QosOk(basic::QosOk {})),
        );
        Ok(())
    }

    fn consume(
        &mut self,
        id: ChannelId,
        consume: basic::Consume,
        out: &mut Output,
    ) -> Result<(), Violation> {
        let Some(channel) = self.channels.get(&id) else {
            return Ok(());
        };
        let tag: Arc<str> = match consume.consumer_tag.as_str() {
            "" => self.broker.draw_name("amq.ctag-").into(),
            tag => tag.into(),
        };
        let is_reply = consume.queue.as_str() == REPLY_TO;
        let in_use = channel.consumers.contains_key(&tag)
            || channel.reply.as_ref().is_some_and(|reply| reply.tag == tag);
        if is_reply {
            if channel.reply.is_some() {
                return Err(precondition("reply consumer already set"));
            }
            if !consume.no_ack {
                return Err(precondition("reply consumer cannot acknowledge"));
            }
        }
        if in_use {
            return Err(Violation::connection(
                HardError::NotAllowed,
                format!("attempt to reuse consumer tag '{tag}'"),
            ));
        }
        if is_reply {
            self.consume_replies(id, Arc::clone(&tag));
        } else {
            self.consume_queue(id, &tag, &consume)?;
        }
        if !consume.nowait {
            let ok = basic::ConsumeOk {
                consumer_tag: ShortString::from(&*tag),
            };
            write_method(
                out.buffer(),
                id,
                &AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(ok)),
            );
        }
        Ok(())
    }

    fn consume_queue(
        &mut self,
        id: ChannelId,
        tag: &Arc<str>,
        consume: &basic::Consume,
    ) -> Result<(), Violation> {
        let Some(channel) = self.channels.get(&id) else {
            return Ok(());
        };
        let max = self.broker.config.limits.consumers_per_channel_max;
        if max != 0 && channel.consumers.len() >= max {
            return Err(Violation::connection(
                HardError::NotAllowed,
                format!("reached maximum ({max}) of consumers per channel"),
            ));
        }
        let name = self.queue_name(id, consume.queue.as_str())?;
        self.check_right(Right::Read, Resource::Queue(&name))?;
        let queue = self.usable_queue(&name)?;
        let printed = queue.printed();
        let kind = queue.declaration.settings.kind;
        let priority = arguments::consumer_priority(&consume.arguments, kind, &printed)?;
        let own_timeout = arguments::consumer_timeout_ms(&consume.arguments, &printed)?;
        let limits = &self.broker.config.limits;
        let timeout_ms = timeout_ms(own_timeout, &queue.settings(), limits);
        let filter = arguments::consumer_filter(&consume.arguments, &printed)?;
        let Some(channel) = self.channels.get(&id) else {
            return Ok(());
        };
        if kind == QueueKind::Quorum && channel.limit.is_set() {
            return Err(not_implemented(format!(
                "{printed} does not support global qos"
            )));
        }
        let subscription = Subscription {
            no_ack: consume.no_ack,
            exclusive: consume.exclusive,
            priority,
            // No prefetch still has an end: what is out is remembered.
            prefetch: match channel.prefetch {
                0 => u32::try_from(self.broker.config.limits.unacked_max).unwrap_or(u32::MAX),
                count => u32::from(count),
            },
            filter,
        };
        let limit = Arc::clone(&channel.limit);
        let about = Arc::new(ConsumerAbout {
            tag: Arc::clone(tag),
            channel: id,
            arguments: consume.arguments.clone(),
            prefetch: channel.prefetch,
            timeout_ms,
        });
        let index = self.queues.retain(&queue);
        let slot = self.consumers.add(Consumer {
            tag: Arc::clone(tag),
            channel: id,
            queue: index,
            id: None,
            no_ack: consume.no_ack,
            quorum: kind == QueueKind::Quorum,
            timeout_ms,
        });
        let told = Arc::clone(&about);
        let port = ConsumerPort {
            outbox: Arc::clone(&self.outbox),
            about,
            slot,
            limit,
        };
        let refused = match queue.change(|queue, _| queue.subscribe(port, subscription)) {
            Some(Ok(consumer)) => {
                if let Some(entry) = self.consumers.get_mut(slot) {
                    entry.id = Some(consumer);
                }
                if let Some(channel) = self.channels.get_mut(&id) {
                    channel.consumers.insert(Arc::clone(tag), slot);
                }
                self.tell_consumer_added(&queue, &told, consume);
                return Ok(());
            }
            Some(Err(error @ SubscribeError::Exclusive)) => {
                Violation::channel(SoftError::AccessRefused, format!("{printed} {error}"))
            }
            Some(Err(error @ SubscribeError::TooManyFilters)) => {
                precondition(format!("invalid arg 'x-filter' for {printed}: {error}"))
            }
            None => no_queue(&name, &queue.vhost),
        };
        self.consumers.remove(slot);
        self.queues.release(index, 1);
        Err(refused)
    }

    fn consume_replies(&mut self, id: ChannelId, tag: Arc<str>) {
        let token: Arc<str> = self.broker.draw_name(&format!("{REPLY_TO}.")).into();
        let target = ReplyTarget {
            outbox: Arc::clone(&self.outbox),
            channel: id,
        };
        self.broker.register_reply(Arc::clone(&token), target);
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.reply = Some(ReplyConsumer { tag, token });
        }
    }

    fn cancel(&mut self, id: ChannelId, tag: &str, nowait: bool, out: &mut Output) {
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        if channel
            .reply
            .as_ref()
            .is_some_and(|reply| &*reply.tag == tag)
        {
            if let Some(reply) = channel.reply.take() {
                self.broker.forget_reply(&reply.token);
            }
        } else if let Some(slot) = channel.consumers.remove(tag) {
            let abandoned = self.unsubscribe(slot);
            // What the queue has handed over goes out before cancel-ok, even past the output's high-water mark:
            // it is one outbox at most.
            self.outbox.take(&mut self.backlog);
            self.deliver(usize::MAX, out);
            self.remove_consumer(slot);
            if let Some(queue) = abandoned {
                self.delete_unused(&queue);
            }
        }
        if !nowait {
            let ok = basic::CancelOk {
                consumer_tag: ShortString::from(tag),
            };
            write_method(
                out.buffer(),
                id,
                &AMQPClass::Basic(basic::AMQPMethod::CancelOk(ok)),
            );
        }
    }

    /// Takes a consumer out of its queue. Returns the queue when it is to be deleted with its last consumer.
    fn unsubscribe(&mut self, slot: ConsumerSlot) -> Option<Arc<QueueCell>> {
        let consumer = self.consumers.get(slot)?;
        let queue = Arc::clone(self.queues.get(consumer.queue)?);
        let id = consumer.id?;
        let removed = queue.change(|queue, _| queue.unsubscribe(id));
        if removed == Some(Removed::WasLast) {
            queue.renew_lease();
        }
        (removed == Some(Removed::WasLast) && queue.declaration.auto_delete).then_some(queue)
    }

    fn remove_consumer(&mut self, slot: ConsumerSlot) -> Option<Consumer> {
        let consumer = self.consumers.remove(slot)?;
        self.tell_consumer_gone(&consumer);
        self.queues.release(consumer.queue, 1);
        Some(consumer)
    }

    /// Gives back what a closed channel held: its consumers get nothing any more, what was on its way and what was
    /// unsettled goes back, and only then others take the consumers' place.
    pub(crate) fn give_up(&mut self, mut channel: Box<Channel>) {
        let slots: Vec<ConsumerSlot> = channel.consumers.values().copied().collect();
        self.recall(&slots);
        if let super::channel::Mode::Transaction(transaction) = &mut channel.mode {
            for (_, taken) in std::mem::take(transaction).settlements.into_iter().rev() {
                channel.unacked.put_back(taken);
            }
        }
        let held: Vec<Held> = channel.unacked.drain().map(|(_, held)| held).collect();
        self.gather(ChannelId(0), held.into_iter(), SettlementKind::Failed);
        self.flush_settlements();
        self.dismiss(slots);
    }

    /// Ends consumers that were recalled, and tells the client if it understands that.
    pub(crate) fn end_consumers(&mut self, slots: Vec<ConsumerSlot>, out: &mut Output) {
        for slot in &slots {
            let Some(consumer) = self.consumers.get(*slot) else {
                continue;
            };
            let (id, tag) = (consumer.channel, consumer.tag.clone());
            if let Some(channel) = self.channels.get_mut(&id) {
                channel.consumers.remove(&tag);
            }
            if self.able.consumer_cancel_notify {
                let cancel = basic::Cancel {
                    consumer_tag: ShortString::from(&*tag),
                    nowait: true,
                };
                let method = AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel));
                write_method(out.buffer(), id, &method);
            }
        }
        self.dismiss(slots);
    }

    /// Takes consumers that are about to go out of their queues' turn, and gives back what was on its way to them.
    pub(crate) fn recall(&mut self, slots: &[ConsumerSlot]) {
        for slot in slots {
            self.with_consumer(*slot, |queue, id| queue.change(|queue, _| queue.retire(id)));
        }
        self.outbox.take(&mut self.backlog);
        let mut kept = VecDeque::new();
        let mut freed = 0;
        for notice in std::mem::take(&mut self.backlog) {
            let cost = Outbox::cost(&notice);
            match notice {
                Notice::Deliver { slot, delivery } if slots.contains(&slot) => {
                    freed += cost;
                    self.return_unsent(slot, delivery);
                }
                other => kept.push_back(other),
            }
        }
        self.backlog = kept;
        if freed > 0 {
            Outbox::resume(self.outbox.sent(freed));
        }
    }

    /// Ends consumers; others take their place.
    pub(crate) fn dismiss(&mut self, slots: Vec<ConsumerSlot>) {
        for slot in slots {
            let abandoned = self.unsubscribe(slot);
            self.remove_consumer(slot);
            if let Some(queue) = abandoned {
                self.delete_unused(&queue);
            }
        }
    }

    fn with_consumer<R>(
        &self,
        slot: ConsumerSlot,
        act: impl FnOnce(&Arc<QueueCell>, ConsumerId) -> R,
    ) -> Option<R> {
        let consumer = self.consumers.get(slot)?;
        Some(act(self.queues.get(consumer.queue)?, consumer.id?))
    }

    fn return_unsent(&self, slot: ConsumerSlot, delivery: Delivery) {
        let Some(queue) = self
            .consumers
            .get(slot)
            .and_then(|consumer| self.queues.get(consumer.queue))
        else {
            return;
        };
        match delivery.key {
            Some(key) => {
                queue.settle(
                    std::iter::once((key, delivery.stored.sequence)),
                    Outcome::Unsent,
                );
            }
            None => queue.take_back(delivery.stored),
        }
    }

    /// Lets a channel's consumers try again: its channel-wide limit has credit.
    pub(crate) fn resume_consumers(&self, id: ChannelId) {
        let Some(channel) = self.channels.get(&id) else {
            return;
        };
        for slot in channel.consumers.values() {
            self.with_consumer(*slot, |queue, id| queue.change(|queue, _| queue.resume(id)));
        }
    }

    fn recover(&mut self, id: ChannelId, requeue: bool) -> Result<(), Violation> {
        if !requeue {
            return Err(not_implemented("requeue=false"));
        }
        let Some(channel) = self.channels.get_mut(&id) else {
            return Ok(());
        };
        let held: Vec<Held> = channel.unacked.drain().map(|(_, held)| held).collect();
        self.gather(id, held.into_iter(), SettlementKind::Requeue);
        self.flush_settlements();
        Ok(())
    }

    /// The queue by that name, if messages may be got from it.
    pub(super) fn gettable_queue(&self, name: &str) -> Result<Arc<QueueCell>, Violation> {
        self.check_right(Right::Read, Resource::Queue(name))?;
        let queue = self.usable_queue(name)?;
        if queue.is_quorum() && queue.declaration.settings.single_active_consumer {
            let text = format!(
                "cannot obtain access to locked {}. basic.get operations are not supported by quorum queues with single active consumer",
                queue.printed()
            );
            return Err(Violation::channel(SoftError::ResourceLocked, text));
        }
        Ok(queue)
    }

    fn get(&mut self, id: ChannelId, get: &basic::Get, out: &mut Output) -> Result<(), Violation> {
        let name = self.queue_name(id, get.queue.as_str())?;
        let queue = self.gettable_queue(&name)?;
        let quorum = queue.is_quorum();
        let Some((fetched, position)) = queue.fetch(get.no_ack) else {
            *(if quorum {
                &mut self.counts.quorum_get_empty
            } else {
                &mut self.counts.classic_get_empty
            }) += 1;
            if let Some(channel) = self.channels.get_mut(&id) {
                channel.stats.get_empty += 1;
            }
            write_method(
                out.buffer(),
                id,
                &AMQPClass::Basic(basic::AMQPMethod::GetEmpty(basic::GetEmpty {})),
            );
            return Ok(());
        };
        let Some(channel) = self.channels.get_mut(&id) else {
            return Ok(());
        };
        let tag = channel.next_tag();
        if let Some(key) = fetched.key {
            let index = self.queues.retain(&queue);
            let timeout_ms = timeout_ms(None, &queue.settings(), &self.broker.config.limits);
            channel.unacked.push(
                tag,
                Held {
                    queue: index,
                    key,
                    sequence: fetched.stored.sequence,
                    due: self.deadlines.due(timeout_ms),
                },
            );
            channel.limit.count();
        }
        let counter = match (quorum, get.no_ack) {
            (false, true) => &mut self.counts.classic_got_auto_ack,
            (false, false) => &mut self.counts.classic_got_manual_ack,
            (true, true) => &mut self.counts.quorum_got_auto_ack,
            (true, false) => &mut self.counts.quorum_got_manual_ack,
        };
        *counter += 1;
        let stats = &mut channel.stats;
        *(if get.no_ack {
            &mut stats.get_no_ack
        } else {
            &mut stats.get
        }) += 1;
        stats.redeliver += u64::from(fetched.stored.redelivered);
        if self.traced {
            self.trace_delivery(id, &queue, &fetched.stored);
        }
        let message = outgoing(
            &fetched.stored,
            queue.counts_returns(),
            &self.broker.config.limits,
        );
        let remaining = u32::try_from(fetched.remaining).unwrap_or(u32::MAX);
        let got = GotReply {
            tag,
            redelivered: fetched.stored.redelivered,
            message,
            remaining,
        };
        self.send_when_noted(id, got, position, out);
        Ok(())
    }

    /// Sends what waits in the backlog until the output holds `high` octets.
    pub(crate) fn deliver(&mut self, high: usize, out: &mut Output) {
        let mut freed = 0;
        let mut sent: Vec<Settled> = Vec::new();
        let mut sent_from = None;
        while out.len() < high {
            let Some(notice) = self.backlog.pop_front() else {
                break;
            };
            freed += Outbox::cost(&notice);
            match notice {
                Notice::Deliver { slot, delivery } => {
                    let Some(consumer) = self.consumers.get(slot) else {
                        continue;
                    };
                    let Some(channel) = self.channels.get_mut(&consumer.channel) else {
                        continue;
                    };
                    let tag = channel.next_tag();
                    let Delivery { key, stored, .. } = delivery;
                    if let Some(key) = key {
                        self.queues.add(consumer.queue, 1);
                        channel.unacked.push(
                            tag,
                            Held {
                                queue: consumer.queue,
                                key,
                                sequence: stored.sequence,
                                due: match consumer.timeout_ms {
                                    None => Due::NEVER,
                                    timeout_ms => self.deadlines.due(timeout_ms),
                                },
                            },
                        );
                    } else if let Some(settled) = settled_of(&stored) {
                        if sent_from != Some(consumer.queue) {
                            note_sent(&self.queues, sent_from, &mut sent);
                            sent_from = Some(consumer.queue);
                        }
                        sent.push(settled);
                    }
                    let counts = &mut self.counts;
                    let (counter, redelivered) = match (consumer.quorum, consumer.no_ack) {
                        (false, true) => (
                            &mut counts.classic_delivered_auto_ack,
                            &mut counts.classic_redelivered,
                        ),
                        (false, false) => (
                            &mut counts.classic_delivered_manual_ack,
                            &mut counts.classic_redelivered,
                        ),
                        (true, true) => (
                            &mut counts.quorum_delivered_auto_ack,
                            &mut counts.quorum_redelivered,
                        ),
                        (true, false) => (
                            &mut counts.quorum_delivered_manual_ack,
                            &mut counts.quorum_redelivered,
                        ),
                    };
                    *counter += 1;
                    *redelivered += u64::from(stored.redelivered);
                    let stats = &mut channel.stats;
                    *(if consumer.no_ack {
                        &mut stats.deliver_no_ack
                    } else {
                        &mut stats.deliver
                    }) += 1;
                    stats.redeliver += u64::from(stored.redelivered);
                    counts.message_bytes_delivered += stored.message.body_len() as u64;
                    let (id, ctag) = (consumer.channel, consumer.tag.as_bytes());
                    let counts_returns = |queue: &Arc<QueueCell>| queue.counts_returns();
                    if stored.returns > 0
                        && self.queues.get(consumer.queue).is_some_and(counts_returns)
                    {
                        let message = outgoing(&stored, true, &self.broker.config.limits);
                        write_deliver(
                            out,
                            id,
                            ctag,
                            tag,
                            stored.redelivered,
                            &message,
                            self.frame_max,
                        );
                    } else {
                        write_deliver(
                            out,
                            id,
                            ctag,
                            tag,
                            stored.redelivered,
                            &stored.message,
                            self.frame_max,
                        );
                    }
                    if self.traced
                        && let Some(queue) = self.queues.get(consumer.queue)
                    {
                        self.trace_delivery(id, queue, &stored);
                    }
                }
                Notice::Reply {
                    channel: id,
                    token,
                    message,
                } => {
                    let Some(channel) = self.channels.get_mut(&id) else {
                        continue;
                    };
                    let Some(reply) = channel.reply.clone().filter(|reply| reply.token == token)
                    else {
                        continue;
                    };
                    let tag = channel.next_tag();
                    self.counts.replies_delivered += 1;
                    write_deliver(
                        out,
                        id,
                        reply.tag.as_bytes(),
                        tag,
                        false,
                        &message,
                        self.frame_max,
                    );
                }
                notice @ Notice::QueueGone { .. } if self.waiting.is_some() => {
                    self.held_back.push(notice)
                }
                Notice::QueueGone { slot } => {
                    let Some(consumer) = self.remove_consumer(slot) else {
                        continue;
                    };
                    if let Some(channel) = self.channels.get_mut(&consumer.channel) {
                        channel.consumers.remove(&consumer.tag);
                    }
                    if self.able.consumer_cancel_notify {
                        let cancel = basic::Cancel {
                            consumer_tag: ShortString::from(&*consumer.tag),
                            nowait: true,
                        };
                        write_method(
                            out.buffer(),
                            consumer.channel,
                            &AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)),
                        );
                    }
                }
                Notice::Close(violation) => self.close_wish = Some(violation),
            }
        }
        note_sent(&self.queues, sent_from, &mut sent);
        if freed > 0 {
            Outbox::resume(self.outbox.sent(freed));
        }
    }
}

/// Deliveries without acknowledgement are settled once they are in the output.
fn note_sent(queues: &InternedQueues, from: Option<u32>, sent: &mut Vec<Settled>) {
    if let Some(queue) = from.and_then(|index| queues.get(index)) {
        queue.sent(sent);
    }
    sent.clear();
}

/// The message as it goes out: a queue that counts says how often it came back.
pub(super) fn outgoing(
    stored: &Stored,
    counts_returns: bool,
    limits: &mamba_types::Limits,
) -> Message {
    if !counts_returns || stored.returns == 0 {
        return stored.message.clone();
    }
    let message = &stored.message;
    let known = mamba_codec::content_header(message.header())
        .ok()
        .and_then(|header| mamba_codec::scan_properties(header.properties, limits).ok())
        .and_then(|properties| properties.headers);
    let count = i64::from(stored.returns).to_be_bytes();
    let count = RawValue {
        tag: b'l',
        octets: &count,
    };
    let encoded = with_entries(known.unwrap_or_default(), &[(b"x-delivery-count", count)]);
    let change = HeaderChange {
        headers: Change::Set(&encoded),
        ..HeaderChange::default()
    };
    let header = rewrite_header(message.header(), &change);
    let meta = message.meta();
    Message::build(
        meta,
        message.exchange(),
        message.routing_key(),
        &header,
        message.body(),
    )
}

/// 404 for a queue.
pub(crate) fn no_queue(name: &str, vhost: &str) -> Violation {
    Violation::channel(
        SoftError::NotFound,
        format!("no queue '{name}' in vhost '{vhost}'"),
    )
}
