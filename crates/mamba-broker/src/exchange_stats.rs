//! What became of messages, by the exchange they were published to.
//!
//! Each connection counts in a tally of its own that nobody else writes, so that no cache line goes from core to core; whoever wants
//! to know adds the tallies up.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

/// Messages published to an exchange, since it was made or recovered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExchangeCounts {
    /// Published to it.
    pub publish_in: u64,
    /// Target queues of all of them.
    pub publish_out: u64,
    /// Confirmed to their publishers.
    pub confirm: u64,
    /// Returned: mandatory and unroutable.
    pub return_unroutable: u64,
    /// Dropped: unroutable and not mandatory.
    pub drop_unroutable: u64,
}

impl ExchangeCounts {
    const fn add(&mut self, other: &Self) {
        self.publish_in += other.publish_in;
        self.publish_out += other.publish_out;
        self.confirm += other.confirm;
        self.return_unroutable += other.return_unroutable;
        self.drop_unroutable += other.drop_unroutable;
    }
}

/// A number with one writer and any readers.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Only for the one who writes: a load and a store, which cost what they cost on a plain number.
    pub(crate) fn add(&self, more: u64) {
        let sum = self.0.load(Ordering::Relaxed).wrapping_add(more);
        self.0.store(sum, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one connection published to one exchange.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Tally {
    publish_in: Count,
    publish_out: Count,
    confirm: Count,
    return_unroutable: Count,
    drop_unroutable: Count,
}

impl Tally {
    fn read(&self) -> ExchangeCounts {
        ExchangeCounts {
            publish_in: self.publish_in.get(),
            publish_out: self.publish_out.get(),
            confirm: self.confirm.get(),
            return_unroutable: self.return_unroutable.get(),
            drop_unroutable: self.drop_unroutable.get(),
        }
    }
}

#[derive(Debug, Default)]
struct Tallies {
    /// What those counted that are gone.
    ended: ExchangeCounts,
    open: HashMap<u64, Arc<Tally>>,
    next: u64,
}

/// An exchange's tallies.
#[derive(Debug, Default)]
pub(crate) struct ExchangeStats {
    tallies: Mutex<Tallies>,
    /// The exchange was deleted; one of the same name is another.
    deleted: AtomicBool,
}

impl ExchangeStats {
    /// The sum.
    pub(crate) fn read(&self) -> ExchangeCounts {
        let tallies = self.tallies.lock();
        let mut sum = tallies.ended;
        #[expect(clippy::iter_over_hash_type, reason = "a sum has no order")]
        for tally in tallies.open.values() {
            sum.add(&tally.read());
        }
        sum
    }

    /// A tally for one connection.
    pub(crate) fn open(self: &Arc<Self>) -> ExchangeTally {
        let tally: Arc<Tally> = Arc::default();
        let mut tallies = self.tallies.lock();
        let number = tallies.next;
        tallies.next += 1;
        tallies.open.insert(number, Arc::clone(&tally));
        drop(tallies);
        ExchangeTally {
            stats: Arc::clone(self),
            number,
            tally,
        }
    }

    pub(crate) fn mark_deleted(&self) {
        self.deleted.store(true, Ordering::Relaxed);
    }
}

/// The exchanges of a channel's publishes that are not confirmed yet, in order: so confirms come.
#[derive(Debug, Default)]
pub(crate) struct Unconfirmed(VecDeque<(Option<Arc<ExchangeTally>>, u64)>);

impl Unconfirmed {
    /// Another publish.
    pub(crate) fn published(&mut self, exchange: Option<&Arc<ExchangeTally>>) {
        let address = |tally: Option<&Arc<ExchangeTally>>| tally.map(Arc::as_ptr);
        match self.0.back_mut() {
            Some((last, count)) if address(last.as_ref()) == address(exchange) => *count += 1,
            _ => self.0.push_back((exchange.cloned(), 1)),
        }
    }

    /// The first `count` are confirmed.
    pub(crate) fn confirmed(&mut self, mut count: u64) {
        while count > 0
            && let Some((exchange, pending)) = self.0.front_mut()
        {
            let now = count.min(*pending);
            if let Some(exchange) = exchange {
                exchange.confirmed(now);
            }
            count -= now;
            *pending -= now;
            if *pending == 0 {
                self.0.pop_front();
            }
        }
    }
}

/// A connection's tally of an exchange. Only the connection's own task counts in it.
#[derive(Debug)]
pub(crate) struct ExchangeTally {
    stats: Arc<ExchangeStats>,
    number: u64,
    tally: Arc<Tally>,
}

impl ExchangeTally {
    /// Whether the exchange is still the one it was opened for.
    pub(crate) fn is_current(&self) -> bool {
        !self.stats.deleted.load(Ordering::Relaxed)
    }

    /// A message came and goes to so many queues.
    pub(crate) fn published(&self, queues: usize) {
        self.tally.publish_in.add(1);
        self.tally.publish_out.add(queues as u64);
    }

    /// So many were confirmed.
    pub(crate) fn confirmed(&self, count: u64) {
        self.tally.confirm.add(count);
    }

    /// One went back, because nothing is bound for it.
    pub(crate) fn returned(&self) {
        self.tally.return_unroutable.add(1);
    }

    /// One was dropped, because nothing is bound for it.
    pub(crate) fn dropped(&self) {
        self.tally.drop_unroutable.add(1);
    }
}

impl Drop for ExchangeTally {
    fn drop(&mut self) {
        let mut tallies = self.stats.tallies.lock();
        tallies.open.remove(&self.number);
        tallies.ended.add(&self.tally.read());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_connection_counted_stays_when_it_is_gone() {
        let stats: Arc<ExchangeStats> = Arc::default();
        let (one, other) = (stats.open(), stats.open());
        one.published(2);
        one.confirmed(1);
        other.published(0);
        other.dropped();
        let all = ExchangeCounts {
            publish_in: 2,
            publish_out: 2,
            confirm: 1,
            return_unroutable: 0,
            drop_unroutable: 1,
        };
        assert_eq!(stats.read(), all);
        drop(one);
        assert_eq!(stats.read(), all);
        other.returned();
        drop(other);
        assert_eq!(
            stats.read(),
            ExchangeCounts {
                return_unroutable: 1,
                ..all
            }
        );
        assert!(stats.tallies.lock().open.is_empty());
    }

    #[test]
    fn confirms_go_to_exchanges_in_the_order_of_publishes() {
        let (first, second): (Arc<ExchangeStats>, Arc<ExchangeStats>) = Default::default();
        let (to_first, to_second) = (Arc::new(first.open()), Arc::new(second.open()));
        let mut unconfirmed = Unconfirmed::default();
        for tally in [
            Some(&to_first),
            Some(&to_first),
            None,
            Some(&to_second),
            Some(&to_first),
        ] {
            unconfirmed.published(tally);
        }
        unconfirmed.confirmed(1);
        assert_eq!((first.read().confirm, second.read().confirm), (1, 0));
        unconfirmed.confirmed(3);
        assert_eq!((first.read().confirm, second.read().confirm), (2, 1));
        unconfirmed.confirmed(5);
        assert_eq!((first.read().confirm, second.read().confirm), (3, 1));
        assert!(unconfirmed.0.is_empty());
    }
}
