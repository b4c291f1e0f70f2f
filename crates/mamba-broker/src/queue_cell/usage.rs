//! Whether a queue is in use, whether its consumers keep up, and what its messages are; looked at once per batch.

/// How long it takes until the consumers' capacity has mostly forgotten what was, in milliseconds.
const MEMORY_MS: f64 = 5_000.0;

/// What of a queue's messages outlives a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Lasting {
    /// There were no messages since it was empty.
    #[default]
    Unknown,
    /// All of them.
    All,
    /// None.
    Nothing,
    /// Some of them: how many would cost a look at each message that leaves.
    Some,
}

/// A queue's use, as of its last step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// When something was last done with it, in milliseconds since 1970.
    pub(super) active_ms: u64,
    pub(super) lasting: Lasting,
    /// Messages wait, and no consumer can take one.
    saturated: bool,
    /// Since when it is so, or is not.
    since_ms: u64,
    /// The part of the time before that in which it was not, from 0 to 1; the latest counts most.
    capacity: f64,
}

impl Usage {
    pub(super) const fn new(now_ms: u64) -> Self {
        Self {
            active_ms: now_ms,
            lasting: Lasting::Unknown,
            saturated: false,
            since_ms: now_ms,
            capacity: 1.0,
        }
    }

    /// A step was done.
    pub(super) fn step(&mut self, now_ms: u64, saturated: bool) {
        self.active_ms = now_ms;
        if self.saturated != saturated {
            self.capacity = self.capacity(now_ms);
            self.since_ms = now_ms;
            self.saturated = saturated;
        }
    }

    /// The part of the time in which consumers could take what there was, from 0 to 1.
    pub(super) fn capacity(&self, now_ms: u64) -> f64 {
        let past = (-(now_ms.saturating_sub(self.since_ms) as f64) / MEMORY_MS).exp();
        let now = if self.saturated { 0.0 } else { 1.0 };
        self.capacity * past + now * (1.0 - past)
    }

    /// So many messages came that outlive a restart, and so many that do not; it was empty before if `empty`.
    pub(super) fn came(&mut self, lasting: bool, volatile: bool, empty: bool) {
        let came = match (lasting, volatile) {
            (true, true) => Lasting::Some,
            (true, false) => Lasting::All,
            (false, true) => Lasting::Nothing,
            (false, false) => return,
        };
        if empty || self.lasting == Lasting::Unknown {
            self.lasting = came;
        } else if self.lasting != came {
            self.lasting = Lasting::Some;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_is_the_part_of_the_time_in_which_consumers_can() {
        let mut usage = Usage::new(0);
        assert_eq!(usage.capacity(1_000_000), 1.0);
        usage.step(1_000_000, true);
        assert_eq!(usage.capacity(1_000_000), 1.0);
        assert!(usage.capacity(1_100_000) < 0.001);
        // Half of the time, in turns of 100 ms.
        let mut now_ms = 1_100_000;
        for turn in 0..1000 {
            usage.step(now_ms, turn % 2 == 0);
            now_ms += 100;
        }
        assert!((usage.capacity(now_ms) - 0.5).abs() < 0.02);
        usage.step(now_ms, false);
        assert!(usage.capacity(now_ms + 60_000) > 0.999);
    }

    #[test]
    fn what_lasts_is_known_while_all_messages_are_of_one_kind() {
        let mut usage = Usage::new(0);
        usage.came(true, false, true);
        usage.came(true, false, false);
        assert_eq!(usage.lasting, Lasting::All);
        usage.came(false, true, false);
        assert_eq!(usage.lasting, Lasting::Some);
        usage.came(true, false, false);
        assert_eq!(usage.lasting, Lasting::Some);
        usage.came(false, true, true);
        assert_eq!(usage.lasting, Lasting::Nothing);
    }
}
