//! What queues and other connections leave for one connection to send.
//!
//! A queue appends under its own lock; the connection takes everything in one go when it runs. Room is
//! counted in octets, so that a client that never reads costs one outbox and no more.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicIsize, AtomicU32, Ordering},
    },
    task::Waker,
};

use mamba_queue::{ConsumerId, Delivery, Port};
use mamba_types::{ChannelId, FieldTable, Message, Violation};
use parking_lot::Mutex;

use crate::queue_cell::QueueCell;

/// Octets a notice is taken to cost beside the record it carries.
const NOTICE_OVERHEAD: usize = 64;

/// Where a connection keeps a consumer; never mistaken for a later one in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConsumerSlot {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// Something for the connection to send or do.
#[derive(Debug)]
pub(crate) enum Notice {
    /// A message for one of its consumers.
    Deliver {
        slot: ConsumerSlot,
        delivery: Delivery,
    },
    /// A reply for the channel's direct reply-to consumer.
    Reply {
        channel: ChannelId,
        token: Arc<str>,
        message: Message,
    },
    /// The consumer's queue is gone.
    QueueGone { slot: ConsumerSlot },
    /// Close the connection: an operator or the node's shutdown asks.
    Close(Violation),
}

/// A consumer that would get more if its connection had room.
#[derive(Debug)]
pub(crate) struct Starving {
    pub(crate) queue: Arc<QueueCell>,
    pub(crate) consumer: ConsumerId,
}

#[derive(Debug, Default)]
struct Contents {
    notices: VecDeque<Notice>,
    starving: Vec<Starving>,
}

/// One connection's outbox and doorbell.
#[derive(Debug)]
pub struct Outbox {
    /// The connection's number on this node.
    pub(crate) connection: u64,
    room_max: isize,
    room: AtomicIsize,
    contents: Mutex<Contents>,
    /// The doorbell rang and the connection has not run since.
    rung: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Outbox {
    pub(crate) fn new(connection: u64, bytes_max: usize) -> Arc<Self> {
        let room_max = isize::try_from(bytes_max).unwrap_or(isize::MAX);
        Arc::new(Self {
            connection,
            room_max,
            room: AtomicIsize::new(room_max),
            contents: Mutex::default(),
            rung: AtomicBool::new(false),
            waker: Mutex::new(None),
        })
    }

    /// Octets that still fit.
    pub(crate) fn room(&self) -> usize {
        usize::try_from(self.room.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Octets that are there.
    pub(crate) fn octets(&self) -> usize {
        let taken = self.room_max - self.room.load(Ordering::Relaxed);
        usize::try_from(taken).unwrap_or(0)
    }

    /// Appends deliveries while `next` yields them, and rings once.
    pub(crate) fn push_all(&self, notices: impl Iterator<Item = Notice>) {
        let mut cost = 0;
        let mut contents = self.contents.lock();
        for notice in notices {
            cost += Self::cost(&notice);
            contents.notices.push_back(notice);
        }
        self.room.fetch_sub(
            isize::try_from(cost).unwrap_or(isize::MAX),
            Ordering::Relaxed,
        );
        drop(contents);
        self.ring();
    }

    /// Appends one notice and rings.
    pub(crate) fn push(&self, notice: Notice) {
        self.push_all(std::iter::once(notice));
    }

    /// Notes that a consumer waits for room. False when there is room after all: the caller goes on.
    pub(crate) fn starve(&self, starving: Starving) -> bool {
        let mut contents = self.contents.lock();
        if self.room() > 0 {
            return false;
        }
        contents.starving.push(starving);
        true
    }

    /// Moves what has gathered to the end of `backlog`.
    pub(crate) fn take(&self, backlog: &mut VecDeque<Notice>) {
        let mut contents = self.contents.lock();
        if backlog.is_empty() {
            std::mem::swap(backlog, &mut contents.notices);
        } else {
            backlog.append(&mut contents.notices);
        }
    }

    /// Gives back the room of sent notices, and returns who waited for it once half of all room is free.
    pub(crate) fn sent(&self, octets: usize) -> Vec<Starving> {
        let returned = isize::try_from(octets).unwrap_or(isize::MAX);
        let before = self.room.fetch_add(returned, Ordering::Relaxed);
        if before + returned < self.room_max / 2 {
            return Vec::new();
        }
        let mut contents = self.contents.lock();
        std::mem::take(&mut contents.starving)
    }

    /// Octets of room a notice takes.
    pub(crate) fn cost(notice: &Notice) -> usize {
        match notice {
            Notice::Deliver { delivery, .. } => {
                delivery.stored.message.record_len() + NOTICE_OVERHEAD
            }
            Notice::Reply { message, .. } => message.record_len() + NOTICE_OVERHEAD,
            Notice::QueueGone { .. } | Notice::Close(_) => NOTICE_OVERHEAD,
        }
    }

    /// Wakes the connection unless it is about to run anyway.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel)
            && let Some(waker) = self.waker.lock().as_ref()
        {
            waker.wake_by_ref();
        }
    }

    /// Called by the connection before it looks at its outbox: from here on a ring wakes `waker` again.
    pub fn listen(&self, waker: &Waker) {
        {
            let mut current = self.waker.lock();
            if !current.as_ref().is_some_and(|known| known.will_wake(waker)) {
                *current = Some(waker.clone());
            }
        }
        // A swap, not a store: whoever rang before it is seen with all it left, whoever rings after it wakes us. A plain
        // store could pass the reads that follow, and a ring in between would be lost.
        self.rung.swap(false, Ordering::AcqRel);
    }
}

impl mamba_store::DurableWaker for Outbox {
    fn durable(&self) {
        self.ring();
    }
}

/// A channel's `basic.qos(global)` limit, shared by all its consumers; 0 means none.
#[derive(Debug, Default)]
pub(crate) struct ChannelLimit {
    limit: AtomicU32,
    unacked: AtomicU32,
}

impl ChannelLimit {
    /// The limit; 0 means none.
    pub(crate) fn get(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    pub(crate) fn is_set(&self) -> bool {
        self.limit.load(Ordering::Relaxed) != 0
    }

    /// Sets the limit; `unacked` deliveries are out already.
    pub(crate) fn set(&self, limit: u32, unacked: u32) {
        self.unacked.store(unacked, Ordering::Relaxed);
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Counts a delivery out of `basic.get`.
    pub(crate) fn count(&self) {
        if self.is_set() {
            self.unacked.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts settled deliveries; true when a limit is set, so that its consumers must be resumed.
    pub(crate) fn settled(&self, count: u32) -> bool {
        if !self.is_set() {
            return false;
        }
        let _ = self
            .unacked
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                Some(n.saturating_sub(count))
            });
        true
    }

    fn admits(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        limit == 0 || self.unacked.load(Ordering::Relaxed) < limit
    }
}

/// What a client said about its consumer.
#[derive(Debug)]
pub(crate) struct ConsumerAbout {
    pub(crate) tag: Arc<str>,
    pub(crate) channel: ChannelId,
    pub(crate) arguments: FieldTable,
    /// Of the channel when it began; 0 means none.
    pub(crate) prefetch: u16,
    /// Milliseconds it has to settle a delivery.
    pub(crate) timeout_ms: Option<u64>,
}

/// A consumer as its queue sees it.
#[derive(Debug)]
pub(crate) struct ConsumerPort {
    pub(crate) outbox: Arc<Outbox>,
    /// What its client called it and asked for, for operators.
    pub(crate) about: Arc<ConsumerAbout>,
    pub(crate) slot: ConsumerSlot,
    pub(crate) limit: Arc<ChannelLimit>,
}

impl Port for ConsumerPort {
    fn room(&self) -> usize {
        self.outbox.room()
    }

    fn channel_admits(&self) -> bool {
        self.limit.admits()
    }

    fn count_delivery(&self) {
        self.limit.count();
    }
}
