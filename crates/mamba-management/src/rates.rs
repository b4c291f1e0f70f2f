//! How fast counters grow: two samples per object that somebody looks at, nothing for the others.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use mamba_broker::{Snapshot, registry::MessageStats};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

/// Between two samples, in milliseconds.
pub(crate) const INTERVAL_MS: u64 = 5_000;
/// An object nobody asked for that long is forgotten, in milliseconds.
const FORGET_MS: u64 = 60_000;
/// Objects that are remembered; the rates of others are 0.
const OBJECTS_MAX: usize = 20_000;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Object {
    Node,
    NodeCounters,
    NodeProcess,
    Vhost(u64),
    Queue(u64),
    Connection(u64),
    Channel(u64, u16),
}

impl Object {
    /// A virtual host, by its name.
    pub(crate) fn vhost(name: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Self::Vhost(hasher.finish())
    }
}

/// The samples of everything that was asked for.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<HashMap<Object, Series>>);

#[derive(Debug)]
struct Series {
    /// The older sample, which rates are taken against.
    base: Sample,
    latest: Sample,
    asked_ms: u64,
}

#[derive(Clone, Debug)]
struct Sample {
    at_ms: u64,
    counters: Vec<u64>,
}

impl Rates {
    /// Growth per second of each counter since about [`INTERVAL_MS`] ago; 0 at the first time. The counters of one object come in
    /// the same order every time; gauges may fall.
    pub(crate) fn of(&self, object: Object, now_ms: u64, counters: &[u64]) -> Vec<f64> {
        let mut all = self.0.lock();
        let known = all.len();
        let fresh = || Sample {
            at_ms: now_ms,
            counters: counters.to_vec(),
        };
        let series = match all.get_mut(&object) {
            Some(series) => series,
            None if known >= OBJECTS_MAX => return vec![0.0; counters.len()],
            None => all.entry(object).or_insert_with(|| Series {
                base: fresh(),
                latest: fresh(),
                asked_ms: now_ms,
            }),
        };
        series.asked_ms = now_ms;
        if now_ms.saturating_sub(series.latest.at_ms) >= INTERVAL_MS {
            series.base = std::mem::replace(&mut series.latest, fresh());
        }
        let elapsed_ms = now_ms.saturating_sub(series.base.at_ms);
        // A first look after a moment would show a wild number.
        if elapsed_ms < 1_000 {
            return vec![0.0; counters.len()];
        }
        let before = series.base.counters.iter().chain(std::iter::repeat(&0));
        let rates = counters.iter().zip(before).map(|(now, before)| {
            let grown = i128::from(*now) - i128::from(*before);
            per_second(grown, elapsed_ms)
        });
        rates.collect()
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

    /// `{NAME: N, NAME_details: {"rate": R}}` for each counter.
    pub(crate) fn counters(
        &self,
        object: Object,
        now_ms: u64,
        counters: &[(&'static str, u64)],
    ) -> Map<String, Value> {
        let values: Vec<u64> = counters.iter().map(|(_, value)| *value).collect();
        let rates = self.of(object, now_ms, &values);
        let mut fields = Map::new();
        for ((name, value), rate) in counters.iter().zip(rates) {
            fields.insert((*name).to_owned(), (*value).into());
            fields.insert(format!("{name}_details"), json!({"rate": rate}));
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
    ) {
        let named = stats.named();
        let all: Vec<_> = gauges.iter().chain(&named).copied().collect();
        let mut counted = self.counters(object, now_ms, &all);
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
        rates.add_stats(&mut fields, Object::Queue(1), 0, &[("messages", 3)], &none);
        assert_eq!(
            Value::Object(fields.clone()),
            json!({"messages": 3, "messages_details": {"rate": 0.0}})
        );
        let some = MessageStats { ack: 2, ..none };
        rates.add_stats(&mut fields, Object::Queue(1), 0, &[("messages", 3)], &some);
        assert_eq!(fields["message_stats"]["ack"], 2);
        assert_eq!(fields["message_stats"]["ack_details"], json!({"rate": 0.0}));
    }
}
