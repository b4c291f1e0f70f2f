//! How fast counters grow: two samples per object that somebody looks at, more for those that somebody draws, nothing for the
//! others. The node and its virtual hosts are sampled all the time.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use mamba_broker::{Snapshot, registry::MessageStats};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::history::{History, Sample, Window};

/// Between two samples, in milliseconds.
pub(crate) const INTERVAL_MS: u64 = 5_000;
/// An object nobody asked for that long is forgotten, in milliseconds.
const FORGET_MS: u64 = 60_000;
/// Objects that are remembered; the rates of others are 0.
const OBJECTS_MAX: usize = 20_000;
/// Objects besides the node and its virtual hosts of which there is a history.
const HISTORIES_MAX: usize = 500;
/// An object counts as idle when nothing was counted for so long, in milliseconds.
pub(crate) const IDLE_MS: u64 = 5_000;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Object {
    Node,
    NodeCounters,
    NodeProcess,
    Vhost(u64),
    VhostTraffic(u64),
    Queue(u64),
    Connection(u64),
    Channel(u64, u16),
    Exchange(u64),
    /// What a user sees of the node.
    User(u64),
}

impl Object {
    /// A virtual host, by its name.
    pub(crate) fn vhost(name: &str) -> Self {
        Self::Vhost(hashed(name))
    }

    /// What went over the sockets of a virtual host, by its name.
    pub(crate) fn vhost_traffic(name: &str) -> Self {
        Self::VhostTraffic(hashed(name))
    }

    /// An exchange, by its virtual host and name.
    pub(crate) fn exchange(vhost: &str, name: &str) -> Self {
        Self::Exchange(hashed((vhost, name)))
    }

    /// What a user sees, by its name.
    pub(crate) fn user(name: &str) -> Self {
        Self::User(hashed(name))
    }

    /// What is kept of it in any case.
    fn history(self) -> Option<History> {
        match self {
            Self::Node | Self::NodeCounters | Self::NodeProcess => Some(History::long()),
            Self::Vhost(_) | Self::VhostTraffic(_) => Some(History::medium()),
            Self::Queue(_)
            | Self::Connection(_)
            | Self::Channel(..)
            | Self::Exchange(_)
            | Self::User(_) => None,
        }
    }
}

fn hashed(name: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// The windows a request names: of lengths, messages, octets, and the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Windows {
    pub(crate) lengths: Option<Window>,
    pub(crate) messages: Option<Window>,
    pub(crate) data: Option<Window>,
    pub(crate) node: Option<Window>,
}

/// The samples of everything that was asked for.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<HashMap<Object, Series>>);

#[derive(Debug)]
struct Series {
    /// The counters as last seen.
    last: Box<[u64]>,
    /// The older sample, which rates are taken against.
    base: Taken,
    latest: Taken,
    asked_ms: u64,
    /// When it was first seen as it is.
    same_since_ms: u64,
    history: Option<Box<History>>,
}

#[derive(Clone, Debug)]
struct Taken {
    at_ms: u64,
    counters: Vec<u64>,
}

impl Rates {
    /// Growth per second of each counter since about [`INTERVAL_MS`] ago; 0 at the first time. The counters of one object come in
    /// the same order every time; gauges may fall.
    #[cfg(test)]
    fn of(&self, object: Object, now_ms: u64, counters: &[u64]) -> Vec<f64> {
        self.look(object, now_ms, counters, false, |_| ()).0
    }

    /// The same, with what `of_history` says of the object's history, if it has one; it gets one if it is `drawn`.
    fn look<R>(
        &self,
        object: Object,
        now_ms: u64,
        counters: &[u64],
        drawn: bool,
        of_history: impl FnOnce(&History) -> R,
    ) -> (Vec<f64>, Option<R>) {
        let mut all = self.0.lock();
        let known = all.len();
        let histories = || {
            all.values()
                .filter(|series| series.history.is_some())
                .count()
        };
        let new_history = drawn
            && all
                .get(&object)
                .is_none_or(|series| series.history.is_none())
            && histories() < HISTORIES_MAX;
        let fresh = || Taken {
            at_ms: now_ms,
            counters: counters.to_vec(),
        };
        let series = match all.get_mut(&object) {
            Some(series) => series,
            None if known >= OBJECTS_MAX => return (vec![0.0; counters.len()], None),
            None => all.entry(object).or_insert_with(|| Series {
                last: counters.into(),
                base: fresh(),
                latest: fresh(),
                asked_ms: now_ms,
                same_since_ms: now_ms,
                history: object.history().map(Box::new),
            }),
        };
        series.asked_ms = now_ms;
        if new_history && series.history.is_none() {
            series.history = Some(Box::new(History::short()));
        }
        if let Some(history) = &mut series.history {
            history.push(now_ms, counters);
        }
        let drawing = series.history.as_deref().map(of_history);
        if *series.last != *counters {
            series.last = counters.into();
            series.same_since_ms = now_ms;
        }
        if now_ms.saturating_sub(series.latest.at_ms) >= INTERVAL_MS {
            series.base = std::mem::replace(&mut series.latest, fresh());
        }
        let elapsed_ms = now_ms.saturating_sub(series.base.at_ms);
        // A first look after a moment would show a wild number.
        if elapsed_ms < 1_000 {
            return (vec![0.0; counters.len()], drawing);
        }
        let before = series.base.counters.iter().chain(std::iter::repeat(&0));
        let rates = counters.iter().zip(before).map(|(now, before)| {
            let grown = i128::from(*now) - i128::from(*before);
            per_second(grown, elapsed_ms)
        });
        (rates.collect(), drawing)
    }

    /// When an object was first seen as it is now, in milliseconds since 1970, if that is a while ago.
    pub(crate) fn idle_since(&self, object: Object, now_ms: u64) -> Option<u64> {
        let all = self.0.lock();
        let since_ms = all.get(&object)?.same_since_ms;
        (now_ms.saturating_sub(since_ms) >= IDLE_MS).then_some(since_ms)
    }

    /// Octets that all of it takes.
    pub(crate) fn bytes(&self) -> usize {
        let all = self.0.lock();
        let series = |series: &Series| {
            let history = series.history.as_ref().map_or(0, |history| history.bytes());
            200 + 24 * series.last.len() + history
        };
        all.values().map(series).sum()
    }

    /// Forgets what nobody asks for.
    pub(crate) fn tidy(&self, now_ms: u64) {
        self.0
            .lock()
            .retain(|_, series| now_ms.saturating_sub(series.asked_ms) < FORGET_MS);
    }

    /// Forgets everything.
    pub(crate) fn reset(&self) {
        self.0.lock().clear();
    }

    /// `{NAME: N, NAME_details: {"rate": R}}` for each counter, with its samples if the request has a window.
    pub(crate) fn counters(
        &self,
        object: Object,
        now_ms: u64,
        counters: &[(&'static str, u64)],
        window: Option<Window>,
    ) -> Map<String, Value> {
        self.drawn(object, now_ms, counters, |_| window)
    }

    /// The same, with the window of each counter by its place.
    fn drawn(
        &self,
        object: Object,
        now_ms: u64,
        counters: &[(&'static str, u64)],
        window: impl Fn(usize) -> Option<Window>,
    ) -> Map<String, Value> {
        let values: Vec<u64> = counters.iter().map(|(_, value)| *value).collect();
        let is_drawn = (0..counters.len()).any(|place| window(place).is_some());
        let (rates, drawings) = self.look(object, now_ms, &values, is_drawn, |history| {
            let drawing =
                |place| window(place).map(|window| history.samples(window, now_ms, place));
            (0..counters.len()).map(drawing).collect::<Vec<_>>()
        });
        let drawings = drawings
            .into_iter()
            .flatten()
            .chain(std::iter::repeat(None));
        let mut fields = Map::new();
        for (((name, value), rate), drawing) in counters.iter().zip(rates).zip(drawings) {
            fields.insert((*name).to_owned(), (*value).into());
            let mut details = json!({"rate": rate});
            if let Some(samples) = drawing {
                add_samples(&mut details, &samples);
            }
            fields.insert(format!("{name}_details"), details);
        }
        fields
    }

    /// Puts `fields` together with the object's gauges and its `message_stats`, which are left out while nothing has been counted.
    pub(crate) fn add_stats(
        &self,
        fields: &mut Map<String, Value>,
        object: Object,
        now_ms: u64,
        gauges: &[(&'static str, u64)],
        stats: &MessageStats,
        windows: &Windows,
    ) {
        let named = stats.named();
        let all: Vec<_> = gauges.iter().chain(&named).copied().collect();
        let window = |place: usize| {
            if place < gauges.len() {
                windows.lengths
            } else {
                windows.messages
            }
        };
        let mut counted = self.drawn(object, now_ms, &all, window);
        for (name, _) in gauges {
            for key in [(*name).to_owned(), format!("{name}_details")] {
                if let Some(value) = counted.remove(&key) {
                    fields.insert(key, value);
                }
            }
        }
        // What never happened is left out in groups, as clients know it.
        let consumed = stats.deliver_get() + stats.get_empty + stats.ack > 0;
        let told = stats.confirm + stats.return_unroutable + stats.drop_unroutable > 0;
        for (name, _) in named {
            let shown = match name {
                "publish" => true,
                "confirm" | "return_unroutable" | "drop_unroutable" => told,
                _ => consumed,
            };
            if !shown {
                counted.remove(name);
                counted.remove(&format!("{name}_details"));
            }
        }
        if *stats != MessageStats::default() {
            fields.insert("message_stats".to_owned(), counted.into());
        }
    }
}

/// The samples, latest first, with their mean and their mean growth.
fn add_samples(details: &mut Value, samples: &[Sample]) {
    let (Some((last_ms, last)), Some((first_ms, first))) = (samples.first(), samples.last()) else {
        return;
    };
    let shown = samples
        .iter()
        .map(|(at_ms, value)| json!({"sample": value, "timestamp": at_ms}));
    details["samples"] = shown.collect();
    let sum: f64 = samples.iter().map(|(_, value)| *value as f64).sum();
    details["avg"] = (sum / samples.len() as f64).into();
    let span_secs = last_ms.saturating_sub(*first_ms) as f64 / 1000.0;
    let grown = *last as f64 - *first as f64;
    details["avg_rate"] = if span_secs > 0.0 {
        grown / span_secs
    } else {
        0.0
    }
    .into();
}

/// Shown with one digit behind the point.
fn per_second(grown: i128, elapsed_ms: u64) -> f64 {
    let rate = grown as f64 * 1000.0 / elapsed_ms as f64;
    (rate * 10.0).round() / 10.0
}

/// The node's messages, from its counters.
pub(crate) const fn node_stats(s: &Snapshot) -> MessageStats {
    MessageStats {
        publish: s.messages_received,
        confirm: s.messages_confirmed,
        return_unroutable: s.messages_unroutable_returned,
        drop_unroutable: s.messages_unroutable_dropped,
        deliver: s.classic_delivered_manual_ack + s.quorum_delivered_manual_ack,
        deliver_no_ack: s.classic_delivered_auto_ack + s.quorum_delivered_auto_ack,
        get: s.classic_got_manual_ack + s.quorum_got_manual_ack,
        get_no_ack: s.classic_got_auto_ack + s.quorum_got_auto_ack,
        get_empty: s.classic_get_empty + s.quorum_get_empty,
        redeliver: s.classic_redelivered + s.quorum_redelivered,
        ack: s.classic_acknowledged + s.quorum_acknowledged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_taken_over_the_last_interval() {
        let rates = Rates::default();
        let of = |now_ms, count| rates.of(Object::Queue(1), now_ms, &[count]);
        assert_eq!(of(10_000, 50), [0.0]);
        assert_eq!(of(10_010, 60), [0.0]);
        assert_eq!(of(12_000, 70), [10.0]);
        assert_eq!(of(15_000, 150), [20.0]);
        // From here on against the sample of 10,000 ms still, then that of 15,000 ms.
        assert_eq!(of(17_000, 150), [14.3]);
        assert_eq!(of(20_000, 100), [-10.0]);
    }

    #[test]
    fn what_nobody_asks_for_is_forgotten() {
        let rates = Rates::default();
        rates.of(Object::Queue(1), 0, &[0]);
        rates.of(Object::Queue(2), 50_000, &[0]);
        rates.tidy(70_000);
        let known = rates.0.lock();
        assert!(!known.contains_key(&Object::Queue(1)) && known.contains_key(&Object::Queue(2)));
    }

    #[test]
    fn the_number_of_objects_is_bounded() {
        let rates = Rates::default();
        for id in 0..OBJECTS_MAX as u64 + 10 {
            rates.of(Object::Queue(id), 0, &[0]);
        }
        assert_eq!(rates.0.lock().len(), OBJECTS_MAX);
    }

    #[test]
    fn stats_appear_once_something_was_counted() {
        let rates = Rates::default();
        let mut fields = Map::new();
        let none = MessageStats::default();
        let windows = Windows::default();
        rates.add_stats(
            &mut fields,
            Object::Queue(1),
            0,
            &[("messages", 3)],
            &none,
            &windows,
        );
        assert_eq!(
            Value::Object(fields.clone()),
            json!({"messages": 3, "messages_details": {"rate": 0.0}})
        );
        let some = MessageStats { ack: 2, ..none };
        rates.add_stats(
            &mut fields,
            Object::Queue(1),
            0,
            &[("messages", 3)],
            &some,
            &windows,
        );
        assert_eq!(fields["message_stats"]["ack"], 2);
        assert_eq!(fields["message_stats"]["ack_details"], json!({"rate": 0.0}));
    }

    #[test]
    fn what_is_drawn_has_samples() {
        let rates = Rates::default();
        let window = Some(Window {
            age_secs: 10,
            increment_secs: 5,
        });
        let of = |now_ms, count, window| {
            rates.counters(Object::Queue(1), now_ms, &[("publish", count)], window)
        };
        for step in 1..=4 {
            of(step * 5_000, step * 10, window);
        }
        assert_eq!(
            of(21_000, 40, window)["publish_details"],
            json!({
                "rate": 1.7, "avg": 30.0, "avg_rate": 2.0,
                "samples": [
                    {"sample": 40, "timestamp": 20_000}, {"sample": 30, "timestamp": 15_000},
                    {"sample": 20, "timestamp": 10_000},
                ],
            })
        );
        assert_eq!(
            of(21_000, 40, None)["publish_details"],
            json!({"rate": 1.7})
        );
        assert!(rates.bytes() > 0);
    }

    #[test]
    fn the_number_of_histories_is_bounded() {
        let rates = Rates::default();
        for id in 0..HISTORIES_MAX as u64 + 10 {
            let window = Window {
                age_secs: 60,
                increment_secs: 5,
            };
            rates.counters(Object::Queue(id), 0, &[("publish", 1)], Some(window));
        }
        let all = rates.0.lock();
        let drawn = all.values().filter(|series| series.history.is_some());
        assert_eq!(drawn.count(), HISTORIES_MAX);
    }

    #[test]
    fn an_object_is_idle_since_it_was_first_seen_as_it_is() {
        let rates = Rates::default();
        let object = Object::Channel(1, 1);
        rates.of(object, 10_000, &[1]);
        assert_eq!(rates.idle_since(object, 12_000), None);
        rates.of(object, 16_000, &[1]);
        assert_eq!(rates.idle_since(object, 16_000), Some(10_000));
        rates.of(object, 17_000, &[2]);
        assert_eq!(rates.idle_since(object, 17_000), None);
    }
}
