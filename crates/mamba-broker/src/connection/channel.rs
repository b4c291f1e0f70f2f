//! What the broker keeps per open channel.

use std::{collections::BTreeMap, sync::Arc};

use mamba_queue::UnackedKey;
use mamba_session::{ConfirmTracker, SettlementKind, Unacked};
use mamba_types::{ChannelId, DeliveryTag, Message, Sequence};

use super::{publish::Route, timeout::Due};
use crate::{
    exchange_stats::Unconfirmed,
    outbox::{ChannelLimit, ConsumerSlot},
    registry::{ChannelView, MessageStats},
};

/// One delivery a client holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    /// The connection's number for the queue.
    pub(crate) queue: u32,
    pub(crate) key: UnackedKey,
    pub(crate) sequence: Sequence,
    pub(crate) due: Due,
}

/// No queue's number.
const NO_QUEUE: u32 = u32::MAX;

impl Held {
    /// What remains of a delivery that was taken from its client: its settlement will mean nothing.
    pub(crate) const fn given_back(before: &Self) -> Self {
        Self {
            queue: NO_QUEUE,
            due: Due::NEVER,
            ..*before
        }
    }

    /// Whether it is still the client's to settle.
    pub(crate) const fn counts(&self) -> bool {
        self.queue != NO_QUEUE
    }
}

const _: () = assert!(
    size_of::<Option<Held>>() == 24,
    "a client may hold millions"
);

/// Confirm mode, tx mode or neither; they exclude each other (`spec: semantics §12, §19`).
#[derive(Debug)]
pub(crate) enum Mode {
    Plain,
    Confirm(ConfirmTracker),
    Transaction(Transaction),
}

/// What waits for a commit.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    pub(crate) publishes: Vec<Uncommitted>,
    /// Octets of the records above.
    pub(crate) bytes: usize,
    pub(crate) settlements: Vec<(SettlementKind, Vec<(DeliveryTag, Held)>)>,
}

/// A publish inside a transaction: routed when it came, enqueued at the commit.
#[derive(Debug)]
pub(crate) struct Uncommitted {
    pub(crate) route: Arc<Route>,
    pub(crate) message: Message,
    pub(crate) mandatory: bool,
}

/// A direct reply-to consumer (`spec: semantics §18`).
#[derive(Clone, Debug)]
pub(crate) struct ReplyConsumer {
    pub(crate) tag: Arc<str>,
    pub(crate) token: Arc<str>,
}

#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) last_tag: u64,
    pub(crate) unacked: Unacked<Held>,
    pub(crate) mode: Mode,
    pub(crate) consumers: BTreeMap<Arc<str>, ConsumerSlot>,
    /// Prefetch of consumers started from now on; 0 means no limit.
    pub(crate) prefetch: u16,
    pub(crate) limit: Arc<ChannelLimit>,
    /// The queue most recently declared here; an empty name in later methods means it.
    pub(crate) last_queue: Option<Arc<str>>,
    pub(crate) reply: Option<ReplyConsumer>,
    pub(crate) has_published: bool,
    pub(crate) stats: MessageStats,
    /// In confirm mode.
    pub(crate) unconfirmed: Unconfirmed,
}

impl Default for Channel {
    fn default() -> Self {
        Self {
            last_tag: 0,
            unacked: Unacked::new(),
            mode: Mode::Plain,
            consumers: BTreeMap::new(),
            prefetch: 0,
            limit: Arc::default(),
            last_queue: None,
            reply: None,
            has_published: false,
            stats: MessageStats::default(),
            unconfirmed: Unconfirmed::default(),
        }
    }
}

impl Channel {
    /// What an operator is shown.
    pub(crate) fn view(&self, id: ChannelId) -> ChannelView {
        let (mut unconfirmed, mut uncommitted, mut acks_uncommitted) = (0, 0, 0);
        match &self.mode {
            Mode::Plain => {}
            Mode::Confirm(confirms) => unconfirmed = confirms.pending(),
            Mode::Transaction(transaction) => {
                uncommitted = transaction.publishes.len();
                let taken = transaction.settlements.iter();
                acks_uncommitted = taken.map(|(_, taken)| taken.len()).sum();
            }
        }
        ChannelView {
            number: id.0,
            confirm: matches!(self.mode, Mode::Confirm(_)),
            transactional: matches!(self.mode, Mode::Transaction(_)),
            consumers: self.consumers.len() + usize::from(self.reply.is_some()),
            prefetch: self.prefetch,
            global_prefetch: self.limit.get(),
            unacked: self.unacked.len(),
            unconfirmed,
            uncommitted,
            acks_uncommitted,
            stats: self.stats,
        }
    }

    pub(crate) const fn next_tag(&mut self) -> DeliveryTag {
        self.last_tag += 1;
        DeliveryTag(self.last_tag)
    }
}
