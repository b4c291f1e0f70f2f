//! What a user does without an AMQP connection: declaring, binding, publishing, getting over the management API.
//!
//! It goes through the same methods as a client's, so that rights, checks, texts and durability are the same.

use std::{net::SocketAddr, sync::Arc, task::Waker, thread};

use mamba_codec::{AMQPClass, Output};
use mamba_queue::{Outcome, UnackedKey};
use mamba_session::{ConfirmTracker, Content, Publish};
use mamba_types::{ChannelId, HardError, LogPosition, Message, Sequence, Violation};

use super::{
    Core, LoggedIn, Now, Origin, Reply, Until, Waiting,
    channel::{Channel, Mode},
    consume::outgoing,
};
use crate::{
    access::{Account, UserSeat},
    broker::Broker,
    commit::{CommitState, LOOK_AGAIN, Unpark},
    outbox::Outbox,
    queue_cell::QueueCell,
    registry::Presence,
};

/// The only channel.
const CHANNEL: ChannelId = ChannelId(1);

/// A user at work in a virtual host without a socket. It counts against no limit of connections. Its methods block until
/// what they did is durable: not for a thread that drives connections.
#[derive(Debug)]
pub struct Direct {
    core: Core,
    now: Now,
    /// Got and not settled.
    held: Vec<(Arc<QueueCell>, UnackedKey, Sequence)>,
}

/// A message taken out of a queue.
#[derive(Clone, Debug)]
pub struct Got {
    /// The message.
    pub message: Message,
    /// Somebody may have seen it before.
    pub redelivered: bool,
    /// Ready messages left.
    pub remaining: usize,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// In every queue it was routed to.
    Routed,
    /// No queue wanted it.
    Unroutable,
    /// A queue refused it: it is full.
    Refused,
}

/// What becomes of the messages that were got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Back to where they were.
    Requeue,
    /// Dropped or dead-lettered.
    Discard,
}

impl Broker {
    /// Lets somebody work in a virtual host; `from` is where it is asked from.
    ///
    /// # Errors
    /// 530 when there is no such virtual host or the user may not open it.
    pub fn direct(
        self: &Arc<Self>,
        account: &Account,
        vhost: &str,
        from: SocketAddr,
        now: Now,
    ) -> Result<Direct, Violation> {
        let refused = |text: String| Violation::connection(HardError::NotAllowed, text);
        let found = self
            .vhost(vhost)
            .ok_or_else(|| refused(format!("vhost {vhost} not found")))?;
        let identity = self.access.identity(account, vhost);
        let identity = identity
            .filter(|identity| identity.may_open())
            .ok_or_else(|| {
                let user = &account.user.name;
                refused(format!(
                    "access to vhost '{vhost}' refused for user '{user}'"
                ))
            })?;
        found.set_time(now.unix_ms);
        let outbox = Outbox::new(self.next_connection(), self.config.limits.outbox_bytes_max);
        let origin = Origin {
            peer: from,
            local: from,
            tls: None,
        };
        let presence = Arc::new(Presence::new(origin, now.unix_ms));
        let mut core = Core::new(Arc::clone(self), outbox, presence, now);
        core.traced = found.is_traced();
        core.login = Some(LoggedIn {
            user: Arc::new(identity),
            vhost: found,
            user_seat: UserSeat::uncounted(),
            _vhost_seat: None,
        });
        let mut channel = Box::<Channel>::default();
        channel.mode = Mode::Confirm(ConfirmTracker::new());
        core.channels.insert(CHANNEL, channel);
        Ok(Direct {
            core,
            now,
            held: Vec::new(),
        })
    }
}

impl Direct {
    /// Carries out a method of class exchange or queue and waits until it is durable.
    ///
    /// # Errors
    /// What a client would be told.
    pub fn perform(&mut self, method: AMQPClass) -> Result<(), Violation> {
        // What a client would read goes nowhere.
        let mut out = Output::new();
        self.core.method(CHANNEL, method, &mut out)?;
        self.wait()
    }

    /// Publishes one mandatory message and waits for its confirm. `header` is a content header's payload.
    ///
    /// # Errors
    /// What a client would be told.
    pub fn publish(
        &mut self,
        exchange: &str,
        routing_key: &str,
        header: &[u8],
        body: &[u8],
    ) -> Result<Published, Violation> {
        let size_max = self.core.broker.config.limits.message_size_max;
        let content = if body.len() as u64 > size_max {
            Content::TooLarge {
                exchange: exchange.into(),
                routing_key: routing_key.into(),
                size: body.len() as u64,
            }
        } else {
            Content::Whole {
                exchange: exchange.as_bytes(),
                routing_key: routing_key.as_bytes(),
                header,
                body,
            }
        };
        let publish = Publish {
            mandatory: true,
            immediate: false,
            content,
        };
        let mut out = Output::new();
        let returned = |core: &Core| {
            let channel = core.channels.get(&CHANNEL);
            channel.map_or(0, |channel| channel.stats.return_unroutable)
        };
        let before = returned(&self.core);
        self.core.publish(CHANNEL, publish, self.now, &mut out)?;
        self.core.flush();
        if returned(&self.core) > before {
            return Ok(Published::Unroutable);
        }
        let position = self.core.stored_up_to;
        self.wait_until(Until::Durable(position), position)?;
        let mut refused = false;
        if let Some(Channel {
            mode: Mode::Confirm(confirms),
            ..
        }) = self.core.channels.get_mut(&CHANNEL).map(Box::as_mut)
        {
            confirms.durable(position, |confirm| refused |= confirm.nack);
        }
        Ok(if refused {
            Published::Refused
        } else {
            Published::Routed
        })
    }

    /// Takes one message out of a queue. With `no_ack` it is gone; otherwise it comes back unless [`Self::settle`] decides.
    ///
    /// # Errors
    /// What a client would be told.
    pub fn get(&mut self, queue: &str, no_ack: bool) -> Result<Option<Got>, Violation> {
        let queue = self.core.gettable_queue(queue)?;
        let Some((fetched, position)) = queue.fetch(no_ack) else {
            return Ok(None);
        };
        if let Some(key) = fetched.key {
            let sequence = fetched.stored.sequence;
            self.held.push((Arc::clone(&queue), key, sequence));
        }
        self.wait_until(Until::Noted(position), position)?;
        if self.core.traced {
            self.core.trace_delivery(CHANNEL, &queue, &fetched.stored);
        }
        let limits = &self.core.broker.config.limits;
        Ok(Some(Got {
            message: outgoing(&fetched.stored, queue.counts_returns(), limits),
            redelivered: fetched.stored.redelivered,
            remaining: fetched.remaining,
        }))
    }

    /// Decides about everything that was got.
    pub fn settle(&mut self, verdict: Verdict) {
        let outcome = match verdict {
            Verdict::Requeue => Outcome::Requeue,
            Verdict::Discard => Outcome::Discard,
        };
        for (queue, key, sequence) in self.held.drain(..) {
            queue.settle(std::iter::once((key, sequence)), outcome);
        }
    }

    fn wait_until(&mut self, until: Until, position: LogPosition) -> Result<(), Violation> {
        self.core.waiting = Some(Waiting {
            until,
            channel: CHANNEL,
            reply: Reply::Nothing,
        });
        let waker: Arc<dyn mamba_store::DurableWaker> = Arc::clone(&self.core.outbox) as _;
        self.core.broker.store.0.log().wake_at(position, waker);
        self.wait()
    }

    fn wait(&mut self) -> Result<(), Violation> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        loop {
            self.core.outbox.listen(&waker);
            match self.core.decision() {
                CommitState::Pending => thread::park_timeout(LOOK_AGAIN),
                CommitState::Done => {
                    self.core.waiting = None;
                    return Ok(());
                }
                CommitState::Failed => {
                    self.core.waiting = None;
                    return Err(Violation::connection(
                        HardError::InternalError,
                        "a change could not be stored; see the broker's log",
                    ));
                }
            }
        }
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        self.settle(Verdict::Requeue);
        self.core.flush();
        if let Some(channel) = self.core.channels.remove(&CHANNEL) {
            self.core.counts.publishers_ended += u64::from(channel.has_published);
            self.core.give_up(channel);
        }
        self.core.add_up();
    }
}
