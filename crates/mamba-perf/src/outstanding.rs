//! Messages that a publisher sent and the broker has not yet confirmed.

use crate::error::Error;

/// A settled place of the ring; no message is sent at time 0 of the clock.
const SETTLED: u64 = 0;

/// Which delivery tags are unconfirmed, and when each was sent.
pub(crate) struct Outstanding {
    /// Time of sending by delivery tag, modulo the ring's size.
    ring: Vec<u64>,
    mask: u64,
    window: u64,
    /// The lowest tag that may be unsettled.
    low: u64,
    /// The tag of the next message.
    next: u64,
    count: u64,
}

impl Outstanding {
    /// Room for `window` messages, 0 for none.
    pub(crate) fn new(window: u64) -> Self {
        // A broker may settle out of order; the ring spans more tags than may be open.
        let size = match window {
            0 => 1,
            _ => (window * 4).next_power_of_two().max(1024),
        };
        Self {
            ring: vec![SETTLED; usize::try_from(size).unwrap_or(usize::MAX)],
            mask: size - 1,
            window,
            low: 1,
            next: 1,
            count: 0,
        }
    }

    /// Number of messages that are unconfirmed.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Number of messages that may be sent now.
    pub(crate) fn room(&self) -> u64 {
        let span = self.mask + 1 - (self.next - self.low);
        (self.window - self.count).min(span)
    }

    /// Notes the next message; there must be room.
    #[inline]
    pub(crate) fn push(&mut self, sent_ns: u64) {
        let place = self.place(self.next);
        self.ring[place] = sent_ns.max(1);
        self.next += 1;
        self.count += 1;
    }

    /// Settles a tag, or with `multiple` all up to it (0: all there are); gives their number and shows each one's time.
    pub(crate) fn settle(
        &mut self,
        tag: u64,
        multiple: bool,
        mut each: impl FnMut(u64),
    ) -> Result<u64, Error> {
        let last = if multiple && tag == 0 {
            self.next - 1
        } else {
            tag
        };
        if last >= self.next || (tag == 0 && !multiple) {
            return Err(Error::Protocol(format!(
                "it confirmed delivery tag {tag}, but only {} messages were sent",
                self.next - 1
            )));
        }
        let first = if multiple { self.low } else { last };
        if last < self.low {
            return Err(twice(tag));
        }
        let before = self.count;
        for tag in first..=last {
            let place = self.place(tag);
            let sent_ns = std::mem::replace(&mut self.ring[place], SETTLED);
            if sent_ns != SETTLED {
                self.count -= 1;
                each(sent_ns);
            }
        }
        if before == self.count {
            return Err(twice(tag));
        }
        if multiple {
            self.low = last + 1;
        }
        while self.low < self.next && self.ring[self.place(self.low)] == SETTLED {
            self.low += 1;
        }
        Ok(before - self.count)
    }

    #[inline]
    fn place(&self, tag: u64) -> usize {
        usize::try_from(tag & self.mask).unwrap_or(0)
    }
}

#[cold]
fn twice(tag: u64) -> Error {
    Error::Protocol(format!("it confirmed delivery tag {tag} twice"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(window: u64, count: u64) -> Outstanding {
        let mut outstanding = Outstanding::new(window);
        (1..=count).for_each(|tag| outstanding.push(tag * 100));
        outstanding
    }

    fn settle(outstanding: &mut Outstanding, tag: u64, multiple: bool) -> Vec<u64> {
        let mut times = Vec::new();
        let count = outstanding
            .settle(tag, multiple, |time| times.push(time))
            .unwrap();
        assert_eq!(usize::try_from(count).unwrap(), times.len());
        times
    }

    #[test]
    fn singles_and_multiples_mix() {
        let mut outstanding = sent(10, 6);
        assert_eq!(outstanding.room(), 4);
        assert_eq!(settle(&mut outstanding, 3, false), [300]);
        assert_eq!(settle(&mut outstanding, 4, true), [100, 200, 400]);
        assert_eq!(settle(&mut outstanding, 6, false), [600]);
        assert_eq!(settle(&mut outstanding, 0, true), [500]);
        assert_eq!((outstanding.count(), outstanding.room()), (0, 10));
    }

    #[test]
    fn the_ring_limits_the_span() {
        let mut outstanding = sent(1024, 1024);
        for _ in 0..3 {
            for tag in outstanding.next - 1023..outstanding.next {
                settle(&mut outstanding, tag, false);
            }
            for _ in 0..outstanding.room().min(1023) {
                outstanding.push(5);
            }
        }
        assert_eq!(outstanding.room(), 0, "tag 1 is still open");
        let next = outstanding.next;
        assert_eq!(settle(&mut outstanding, 1, false), [100]);
        assert_eq!(outstanding.low, next - 1023);
    }

    #[test]
    fn what_was_not_sent_or_is_settled() {
        let mut outstanding = sent(10, 2);
        assert!(outstanding.settle(3, false, |_| {}).is_err());
        assert!(outstanding.settle(0, false, |_| {}).is_err());
        assert_eq!(settle(&mut outstanding, 1, false), [100]);
        assert!(outstanding.settle(1, false, |_| {}).is_err());
        assert!(outstanding.settle(1, true, |_| {}).is_err());
    }
}
