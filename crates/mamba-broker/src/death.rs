//! A death in a message's headers: `x-death` and its companions (`spec: semantics §9`).
//!
//! Works on table octets: the fields of an entry have an order on the wire, and what is not about deaths is copied as it is.

use mamba_codec::{RawValue, put_entry, put_value, table_entries, table_get, with_entries};

const HISTORY: &[u8] = b"x-death";
/// The headers this file writes, in the order of their names, which is the order headers have on the wire.
const OWN: [&[u8]; 7] = [
    HISTORY,
    b"x-first-death-exchange",
    b"x-first-death-queue",
    b"x-first-death-reason",
    b"x-last-death-exchange",
    b"x-last-death-queue",
    b"x-last-death-reason",
];

/// One death, on its way into the headers.
pub(crate) struct Death<'a> {
    pub(crate) queue: &'a [u8],
    pub(crate) reason: &'static str,
    /// What the message had been published to, and with which keys.
    pub(crate) exchange: &'a [u8],
    pub(crate) keys: &'a [&'a [u8]],
    /// The property, which the message loses, in its shortest form.
    pub(crate) expiration: Option<&'a [u8]>,
    pub(crate) unix_secs: u64,
}

const fn text(octets: &[u8]) -> RawValue<'_> {
    RawValue { tag: b'S', octets }
}

impl Death<'_> {
    /// The headers with this death in front of the history; a repeated death in the same queue for the same reason counts up instead.
    /// History that a publisher made up (`is_ours` is false) is replaced.
    pub(crate) fn recorded_in(&self, headers: &[u8], is_ours: bool) -> Vec<u8> {
        let before = |name: &[u8]| table_get(headers, name).filter(|_| is_ours);
        let history = self.history(before(HISTORY));
        let now = [self.exchange, self.queue, self.reason.as_bytes()].map(text);
        let own = std::array::from_fn::<_, { OWN.len() }, _>(|at| {
            let value = match at {
                0 => RawValue {
                    tag: b'A',
                    octets: &history,
                },
                1..=3 => before(OWN[at]).unwrap_or(now[at - 1]),
                _ => now[at - 4],
            };
            (OWN[at], value)
        });
        with_entries(headers, &own)
    }

    fn history(&self, before: Option<RawValue<'_>>) -> Vec<u8> {
        let mut same = None;
        let mut others = Vec::new();
        for entry in entries(before) {
            if is(entry, b"queue", self.queue) && is(entry, b"reason", self.reason.as_bytes()) {
                same = Some(entry);
            } else {
                put_value(&mut others, table_of(entry));
            }
        }
        let mut history = Vec::new();
        put_value(&mut history, table_of(&self.entry(same)));
        history.append(&mut others);
        history
    }

    fn entry(&self, same: Option<&[u8]>) -> Vec<u8> {
        let mut entry = Vec::new();
        if let Some(same) = same {
            for (name, value) in table_entries(same) {
                let count = value.integer().filter(|_| name == b"count");
                match count.map(|count| count.saturating_add(1).to_be_bytes()) {
                    Some(count) => put_entry(
                        &mut entry,
                        name,
                        RawValue {
                            tag: b'l',
                            octets: &count,
                        },
                    ),
                    None => put_entry(&mut entry, name, value),
                }
            }
            return entry;
        }
        let mut keys = Vec::new();
        for key in self.keys {
            put_value(&mut keys, text(key));
        }
        if let Some(expiration) = self.expiration {
            put_entry(&mut entry, b"original-expiration", text(expiration));
        }
        put_entry(
            &mut entry,
            b"count",
            RawValue {
                tag: b'l',
                octets: &1u64.to_be_bytes(),
            },
        );
        put_entry(&mut entry, b"reason", text(self.reason.as_bytes()));
        put_entry(&mut entry, b"queue", text(self.queue));
        put_entry(
            &mut entry,
            b"time",
            RawValue {
                tag: b'T',
                octets: &self.unix_secs.to_be_bytes(),
            },
        );
        put_entry(&mut entry, b"exchange", text(self.exchange));
        put_entry(
            &mut entry,
            b"routing-keys",
            RawValue {
                tag: b'A',
                octets: &keys,
            },
        );
        entry
    }
}

/// Whether a message with these headers has been in `queue` before and died there without having been rejected since.
pub(crate) fn is_cycle(headers: &[u8], queue: &[u8]) -> bool {
    for entry in entries(table_get(headers, HISTORY)) {
        if is(entry, b"reason", b"rejected") {
            return false;
        }
        if is(entry, b"queue", queue) {
            return true;
        }
    }
    false
}

fn entries(history: Option<RawValue<'_>>) -> impl Iterator<Item = &[u8]> {
    history
        .and_then(|history| history.array())
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.table())
}

fn is(entry: &[u8], name: &[u8], octets: &[u8]) -> bool {
    table_get(entry, name).and_then(|value| value.string()) == Some(octets)
}

const fn table_of(octets: &[u8]) -> RawValue<'_> {
    RawValue { tag: b'F', octets }
}

#[cfg(test)]
mod tests {
    use mamba_codec::{encode_table, table};
    use mamba_types::{FieldTable, FieldValue, Limits};

    use super::*;

    fn death<'a>(queue: &'a str, reason: &'static str) -> Death<'a> {
        Death {
            queue: queue.as_bytes(),
            reason,
            exchange: b"x",
            keys: &[b"k"],
            expiration: None,
            unix_secs: 7,
        }
    }

    fn names(headers: &[u8]) -> Vec<String> {
        table_entries(headers)
            .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
            .collect()
    }

    /// (queue, reason, count) of each death, the last one first.
    fn deaths(headers: &[u8]) -> Vec<(String, String, i64)> {
        let string = |entry, name: &[u8]| {
            let octets = table_get(entry, name).unwrap().string().unwrap();
            String::from_utf8(octets.to_vec()).unwrap()
        };
        entries(table_get(headers, HISTORY))
            .map(|entry| {
                let count = table_get(entry, b"count").unwrap().integer().unwrap();
                (string(entry, b"queue"), string(entry, b"reason"), count)
            })
            .collect()
    }

    #[test]
    fn headers_stay_sorted_and_keep_what_is_foreign() {
        let mut mine = FieldTable::default();
        for name in ["a", "x-e", "x-first-death-z", "z"] {
            mine.insert(name.into(), FieldValue::LongInt(1));
        }
        let headers = death("q", "expired").recorded_in(&encode_table(&mine), false);
        let names = names(&headers);
        assert!(names.is_sorted(), "{names:?}");
        assert_eq!(names.len(), 4 + OWN.len());
        assert!(table(&headers, &Limits::default()).is_ok());
    }

    #[test]
    fn fields_of_an_entry_are_in_the_order_of_the_specification() {
        let death = Death {
            expiration: Some(b"10"),
            ..death("q", "expired")
        };
        let headers = death.recorded_in(&[], false);
        let entry = entries(table_get(&headers, HISTORY)).next().unwrap();
        let expected = [
            "original-expiration",
            "count",
            "reason",
            "queue",
            "time",
            "exchange",
            "routing-keys",
        ];
        assert_eq!(names(entry), expected);
    }

    #[test]
    fn a_repeated_death_counts_up_and_comes_to_the_front() {
        let mut headers = death("q", "expired").recorded_in(&[], false);
        for (queue, reason) in [("r", "rejected"), ("q", "maxlen"), ("q", "expired")] {
            headers = death(queue, reason).recorded_in(&headers, true);
        }
        let expected = [
            ("q", "expired", 2),
            ("q", "maxlen", 1),
            ("r", "rejected", 1),
        ]
        .map(|(queue, reason, count)| (queue.to_owned(), reason.to_owned(), count));
        assert_eq!(deaths(&headers), expected);
        let first = table_get(&headers, b"x-first-death-queue").unwrap();
        let last = table_get(&headers, b"x-last-death-reason").unwrap();
        assert_eq!((first.octets, last.octets), (&b"q"[..], &b"expired"[..]));
    }

    #[test]
    fn a_history_a_publisher_made_up_is_replaced() {
        let made_up = death("q", "expired").recorded_in(&[], false);
        let headers = death("q", "expired").recorded_in(&made_up, false);
        assert_eq!(
            deaths(&headers),
            [("q".to_owned(), "expired".to_owned(), 1)]
        );
        assert_eq!(names(&headers).len(), OWN.len());
    }

    #[test]
    fn a_cycle_ends_at_the_last_rejection() {
        let expired = death("q", "expired").recorded_in(&[], false);
        assert!(is_cycle(&expired, b"q"));
        assert!(!is_cycle(&expired, b"other"));
        let rejected = death("r", "rejected").recorded_in(&expired, true);
        assert!(!is_cycle(&rejected, b"q"));
    }
}
