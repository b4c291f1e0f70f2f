//! Samples of an object's counters over time, for graphs (`spec: http-api §3`).

use std::collections::VecDeque;

/// Most samples one answer has of a counter.
pub(crate) const SAMPLES_MAX: u64 = 1_000;

/// `…_age` and `…_incr` of a request, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) age_secs: u64,
    pub(crate) increment_secs: u64,
}

/// A counter at one moment: milliseconds since 1970, and its value.
pub(crate) type Sample = (u64, u64);

/// Samples as close together as they are young.
#[derive(Debug)]
pub(crate) struct History {
    tiers: Vec<Tier>,
}

#[derive(Debug)]
struct Tier {
    /// Between two samples, in milliseconds.
    interval_ms: u64,
    samples_max: usize,
    samples: VecDeque<(u64, Box<[u64]>)>,
}

impl History {
    /// Of ten minutes every 5 s, of an hour every minute, of eight hours every ten minutes, of a day every half hour: as operators'
    /// graphs have them.
    pub(crate) fn long() -> Self {
        Self::of(&[(5, 121), (60, 61), (600, 49), (1_800, 49)])
    }

    /// Of ten minutes and an hour.
    pub(crate) fn medium() -> Self {
        Self::of(&[(5, 121), (60, 61)])
    }

    /// Of ten minutes.
    pub(crate) fn short() -> Self {
        Self::of(&[(5, 121)])
    }

    fn of(tiers: &[(u64, usize)]) -> Self {
        let tiers = tiers.iter().map(|(interval_secs, samples_max)| Tier {
            interval_ms: interval_secs * 1000,
            samples_max: *samples_max,
            samples: VecDeque::new(),
        });
        Self {
            tiers: tiers.collect(),
        }
    }

    /// Takes a sample, where it is time for one.
    pub(crate) fn push(&mut self, at_ms: u64, counters: &[u64]) {
        for tier in &mut self.tiers {
            let last = tier.samples.back().map(|(last_ms, _)| *last_ms);
            // Whoever samples is sometimes a little early.
            let due = |last_ms: u64| at_ms.saturating_sub(last_ms) + 500 >= tier.interval_ms;
            if last.is_none_or(due) {
                if tier.samples.len() >= tier.samples_max {
                    tier.samples.pop_front();
                }
                tier.samples.push_back((at_ms, counters.into()));
            }
        }
    }

    /// A counter, by its place among them, over the window up to now, latest first; nothing of the time before the first sample.
    pub(crate) fn samples(&self, window: Window, now_ms: u64, counter: usize) -> Vec<Sample> {
        let Window {
            age_secs,
            increment_secs,
        } = window;
        let reaches = |tier: &&Tier| {
            tier.interval_ms * (tier.samples_max as u64 - 1) >= age_secs.saturating_mul(1000)
        };
        let Some(tier) = self
            .tiers
            .iter()
            .find(reaches)
            .or_else(|| self.tiers.last())
        else {
            return Vec::new();
        };
        let step_ms = increment_secs.saturating_mul(1000).max(1);
        let end_ms = now_ms / step_ms * step_ms;
        let mut known = tier.samples.iter().rev().peekable();
        let mut found = Vec::new();
        for step in 0..=(age_secs / increment_secs.max(1)).min(SAMPLES_MAX) {
            let at_ms = end_ms.saturating_sub(step.saturating_mul(step_ms));
            // The latest that is not younger.
            while known.next_if(|(sample_ms, _)| *sample_ms > at_ms).is_some() {}
            let Some((_, counters)) = known.peek() else {
                break;
            };
            found.push((at_ms, counters.get(counter).copied().unwrap_or(0)));
        }
        found
    }

    /// Octets it takes.
    pub(crate) fn bytes(&self) -> usize {
        let samples = self.tiers.iter().flat_map(|tier| &tier.samples);
        samples.map(|(_, counters)| 40 + 8 * counters.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(age_secs: u64, increment_secs: u64) -> Window {
        Window {
            age_secs,
            increment_secs,
        }
    }

    #[test]
    fn samples_stand_at_multiples_of_the_increment() {
        let mut history = History::short();
        for second in (1_001..=1_031).step_by(5) {
            history.push(second * 1000, &[0, second]);
        }
        assert_eq!(
            history.samples(window(10, 5), 1_032_500, 1),
            [(1_030_000, 1_026), (1_025_000, 1_021), (1_020_000, 1_016)]
        );
        // Nothing is made up of the time before the first sample.
        let all = history.samples(window(600, 5), 1_032_500, 1);
        assert_eq!(all.last(), Some(&(1_005_000, 1_001)));
    }

    #[test]
    fn a_long_window_is_taken_from_samples_further_apart() {
        let mut history = History::long();
        for step in 0..=86_400 / 5 {
            history.push(step * 5_000, &[step * 5]);
        }
        let day = history.samples(window(86_400, 1_800), 86_400_000, 0);
        assert_eq!(day.len(), 49);
        assert_eq!((day[0], day[48]), ((86_400_000, 86_400), (0, 0)));
        let minute = history.samples(window(60, 5), 86_400_000, 0);
        assert_eq!(minute.len(), 13);
        assert_eq!(minute[12], (86_340_000, 86_340));
        // However long it runs.
        assert!(history.bytes() < 20_000);
    }

    #[test]
    fn the_number_of_samples_is_bounded() {
        let mut history = History::short();
        history.push(0, &[1]);
        let all = history.samples(window(u64::MAX, 1), u64::MAX, 0);
        assert_eq!(all.len() as u64, SAMPLES_MAX + 1);
    }
}
