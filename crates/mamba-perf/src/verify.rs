//! Proof that every message arrived once and in order.
//!
//! Each publisher numbers its messages per target: a *stream*. The body carries
//!
//! ```text
//! longlong time of sending, ns | 24 bits stream | 40 bits sequence number
//! ```
//!
//! A consumer checks that the numbers of a stream rise. Loss and duplication are found even when several consumers share a
//! queue, by comparing fingerprints of the sets of numbers that were sent and received.

/// Octets of time and sequence number at the start of a body.
pub(crate) const STAMP_SIZE: usize = 16;
const SEQUENCE_BITS: u32 = 40;
/// Number of streams that the body has room for.
pub(crate) const STREAMS_MAX: usize = 1 << 24;

/// The second half of a stamp.
pub(crate) fn numbered(stream: u64, sequence: u64) -> u64 {
    stream << SEQUENCE_BITS | (sequence & ((1 << SEQUENCE_BITS) - 1))
}

/// Stream and sequence number out of the second half of a stamp.
pub(crate) fn parts(word: u64) -> (usize, u64) {
    (
        usize::try_from(word >> SEQUENCE_BITS).unwrap_or(usize::MAX),
        word & ((1 << SEQUENCE_BITS) - 1),
    )
}

/// Stands for a set of sequence numbers: two sets with equal fingerprints are equal, but for a chance of 2^-64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    pub(crate) count: u64,
    mix: u64,
}

impl Fingerprint {
    #[inline]
    pub(crate) fn insert(&mut self, sequence: u64) {
        self.count += 1;
        self.mix = self.mix.wrapping_add(scramble(sequence));
    }

    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.mix = self.mix.wrapping_add(other.mix);
    }
}

/// What consumers of one queue saw of one stream.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) received: Fingerprint,
    /// Numbers that were skipped, by this consumer's view.
    skipped: u64,
    /// Messages that came after one with the same or a higher number.
    out_of_order: u64,
    next: u64,
    consumers: u32,
}

impl Seen {
    #[inline]
    pub(crate) fn observe(&mut self, sequence: u64) {
        self.received.insert(sequence);
        self.consumers = 1;
        if sequence >= self.next {
            self.skipped += sequence - self.next;
            self.next = sequence + 1;
        } else {
            self.out_of_order += 1;
        }
    }

    /// Takes in what another consumer of the same queue saw.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.received.merge(other.received);
        self.skipped += other.skipped;
        self.out_of_order += other.out_of_order;
        self.next = self.next.max(other.next);
        self.consumers += other.consumers;
    }

    /// Judges the stream on one queue. `sent` is absent when another process published it.
    pub(crate) fn judge(&self, sent: Option<Fingerprint>) -> Verdict {
        let mut verdict = Verdict {
            out_of_order: self.out_of_order,
            ..Verdict::default()
        };
        match sent {
            Some(sent) if sent == self.received => {}
            Some(sent) => {
                verdict.lost = sent.count.saturating_sub(self.received.count);
                verdict.surplus = self.received.count.saturating_sub(sent.count);
                verdict.differs = verdict.lost == 0 && verdict.surplus == 0;
            }
            // The numbers of other consumers are gaps to each, so that only a single consumer can tell.
            None if self.consumers <= 1 => {
                verdict.lost = self.skipped.saturating_sub(self.out_of_order);
            }
            None => {
                verdict.lost = self.next.saturating_sub(self.received.count);
                verdict.surplus = self.received.count.saturating_sub(self.next);
            }
        }
        verdict
    }
}

/// What is wrong with a stream on a queue, or with all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) lost: u64,
    pub(crate) surplus: u64,
    pub(crate) out_of_order: u64,
    /// As many came as were sent, but not the same ones.
    pub(crate) differs: bool,
}

impl Verdict {
    pub(crate) fn is_fine(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.lost += other.lost;
        self.surplus += other.surplus;
        self.out_of_order += other.out_of_order;
        self.differs |= other.differs;
    }
}

/// A bijection on 64 bits with well mixed output (the finalizer of splitmix64).
#[inline]
fn scramble(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(count: u64) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        (0..count).for_each(|sequence| fingerprint.insert(sequence));
        fingerprint
    }

    fn seen(sequences: &[u64]) -> Seen {
        let mut seen = Seen::default();
        sequences
            .iter()
            .for_each(|sequence| seen.observe(*sequence));
        seen
    }

    #[track_caller]
    fn check(consumers: &[&[u64]], count: u64, expected: Verdict) {
        let mut all = Seen::default();
        for sequences in consumers {
            all.merge(&seen(sequences));
        }
        assert_eq!(all.judge(Some(sent(count))), expected);
    }

    #[test]
    fn against_what_was_sent() {
        let fine = Verdict::default();
        check(&[&[0, 1, 2]], 3, fine);
        check(&[&[0, 2], &[1, 3]], 4, fine);
        check(&[], 0, fine);
        check(&[&[0, 2]], 3, Verdict { lost: 1, ..fine });
        check(&[&[0, 1]], 3, Verdict { lost: 1, ..fine });
        check(
            &[&[0, 1, 1]],
            2,
            Verdict {
                surplus: 1,
                out_of_order: 1,
                ..fine
            },
        );
        check(
            &[&[0, 2, 1]],
            3,
            Verdict {
                out_of_order: 1,
                ..fine
            },
        );
        check(
            &[&[0, 1], &[1]],
            3,
            Verdict {
                differs: true,
                ..fine
            },
        );
    }

    #[test]
    fn without_knowing_what_was_sent() {
        assert!(seen(&[0, 1, 2]).judge(None).is_fine());
        assert_eq!(seen(&[0, 2, 3]).judge(None).lost, 1);
        assert_eq!(seen(&[0, 2, 1]).judge(None).lost, 0);
        assert_eq!(seen(&[0, 2, 1]).judge(None).out_of_order, 1);
        let mut two = seen(&[0, 3]);
        two.merge(&seen(&[1]));
        assert_eq!(two.judge(None).lost, 1);
    }

    #[test]
    fn words_come_back() {
        let word = numbered(0xff_ffff, (1 << 40) - 1);
        assert_eq!(parts(word), (0xff_ffff, (1 << 40) - 1));
        assert_eq!(parts(numbered(3, 4)), (3, 4));
    }
}
