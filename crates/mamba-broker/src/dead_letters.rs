//! From a queue to its dead-letter exchange (`spec: semantics §9`).
//!
//! The targets have the message in the log before the source lets go of it: both entries lie in one log, in this
//! order, so that no crash can lose the message between the two queues.

use std::{collections::VecDeque, sync::Arc};

use mamba_codec::{
    Change, HeaderChange, Properties, content_header, encode_table, rewrite_header,
    scan_properties, table as parse_table,
};
use mamba_queue::{DeathReason, Stored};
use mamba_routing::{MessageProperties, RouteInput, Routes};
use mamba_store::Settled;
use mamba_types::{
    FieldTable, FieldValue, Limits, LogPosition, Message, RecordMeta,
    table::{self, FieldArray, ShortString},
};

use crate::{
    arguments,
    queue_cell::{Arrival, QueueCell, QueueRef},
    vhost::Vhost,
};

const DEATHS: &str = "x-death";

/// Publishes dead messages of `source` to its dead-letter exchange, then settles them. What dies of that in turn is
/// worked off here as well: a long chain of queues costs time, not stack.
/// Returns the log position that makes all of it durable.
pub(crate) fn bury(
    source: &Arc<QueueCell>,
    vhost: &Vhost,
    dead: Vec<(Stored, DeathReason)>,
) -> LogPosition {
    let mut position = LogPosition::NONE;
    let mut work = VecDeque::from([(Arc::clone(source), dead)]);
    while let Some((source, dead)) = work.pop_front() {
        let mut settled: Vec<Settled> = Vec::new();
        #[cfg(feature = "mutants")]
        if mamba_store::mutants::on(mamba_store::mutants::Mutant::SettledFirst) {
            settled.extend(dead.iter().map(|(stored, _)| settled_one(stored)));
            settled.sort_unstable_by_key(|settled| settled.sequence);
            source.buried(&std::mem::take(&mut settled));
        }
        for (stored, reason) in dead {
            let burial = Burial::of(&source, &stored.message, reason, vhost);
            for queue in burial.targets(vhost) {
                let message = burial.message.clone();
                let log = queue.log();
                let appended = queue
                    .stores(message.persistent())
                    .then(|| log.append_messages(message.record().clone()));
                let at = appended
                    .as_ref()
                    .map_or(LogPosition::NONE, mamba_store::Appended::at);
                let mut died = Vec::new();
                queue.enqueue_only(&mut vec![Arrival::alone(message, at)], &[], &mut died);
                if !died.is_empty() {
                    work.push_back((queue, died));
                }
            }
            settled.push(settled_one(&stored));
        }
        #[cfg(feature = "mutants")]
        if mamba_store::mutants::on(mamba_store::mutants::Mutant::SettledFirst) {
            continue;
        }
        settled.sort_unstable_by_key(|settled| settled.sequence);
        position = position.max(source.buried(&settled));
    }
    position
}

fn settled_one(stored: &Stored) -> Settled {
    Settled {
        sequence: stored.sequence,
        at: stored.at,
        octets: u32::try_from(stored.message.record_len()).unwrap_or(u32::MAX),
    }
}

/// A message as it leaves its queue for good.
struct Burial {
    message: Message,
    exchange: String,
    keys: Vec<Vec<u8>>,
    headers: FieldTable,
    reason: DeathReason,
}

impl Burial {
    fn of(source: &QueueCell, message: &Message, reason: DeathReason, vhost: &Vhost) -> Self {
        let arguments = &source.declaration.arguments;
        let text = |key| arguments::get(arguments, key).and_then(table::text);
        let exchange = text("x-dead-letter-exchange")
            .unwrap_or_default()
            .to_owned();
        let limits = Limits::default();
        let properties = content_header(message.header())
            .ok()
            .and_then(|header| scan_properties(header.properties, &limits).ok())
            .unwrap_or_default();
        let mut headers = parsed_headers(&properties, &limits);
        let original_keys = routing_keys(message, &headers);
        let entry = Death {
            queue: &source.name,
            reason: reason.word(),
            exchange: message.exchange(),
            keys: &original_keys,
            expiration: properties.expiration,
            unix_secs: vhost.unix_ms() / 1000,
        };
        entry.record(&mut headers, message.dead_lettered());
        let keys = text("x-dead-letter-routing-key")
            .map_or(original_keys, |key| vec![key.as_bytes().to_vec()]);
        let encoded = encode_table(&headers);
        let change = HeaderChange {
            headers: Change::Set(&encoded),
            expiration: Change::Remove,
            ..HeaderChange::default()
        };
        let header = rewrite_header(message.header(), &change);
        let meta = RecordMeta {
            dead_lettered: true,
            expiration_ms: None,
            accepted_at_ms: vhost.unix_ms(),
            ..message.meta()
        };
        let first_key = keys.first().map(Vec::as_slice).unwrap_or_default();
        let message = Message::build(
            meta,
            exchange.as_bytes(),
            first_key,
            &header,
            message.body(),
        );
        Self {
            message,
            exchange,
            keys,
            headers,
            reason,
        }
    }

    /// The queues it goes to. A missing exchange, or a queue it has died in before without ever being rejected,
    /// takes nothing.
    fn targets(&self, vhost: &Vhost) -> Vec<Arc<QueueCell>> {
        let keys: Vec<&[u8]> = self.keys.iter().map(Vec::as_slice).collect();
        let mut routes: Routes<QueueRef> = Routes::new();
        let known = Known {
            headers: &self.headers,
        };
        let input = RouteInput {
            keys: &keys,
            properties: &known,
        };
        if vhost
            .table
            .read()
            .route(&self.exchange, &input, &mut routes)
            .is_err()
        {
            return Vec::new();
        }
        let allowed = |queue: &Arc<QueueCell>| {
            let cycle = self.reason != DeathReason::Rejected && self.is_cycle(&queue.name);
            if cycle {
                tracing::warn!(vhost = %queue.vhost, queue = %queue.name, "a message went round in a cycle of dead-letter exchanges and is dropped");
            }
            !cycle
        };
        routes
            .queues
            .drain(..)
            .map(|queue| queue.0)
            .filter(allowed)
            .collect()
    }

    fn is_cycle(&self, queue: &str) -> bool {
        for death in deaths(&self.headers) {
            if text_of(death, "reason") == Some("rejected") {
                return false;
            }
            if text_of(death, "queue") == Some(queue) {
                return true;
            }
        }
        false
    }
}

struct Known<'a> {
    headers: &'a FieldTable,
}

impl MessageProperties for Known<'_> {
    fn headers(&self) -> Option<&FieldTable> {
        Some(self.headers)
    }
}

fn parsed_headers(properties: &Properties<'_>, limits: &Limits) -> FieldTable {
    properties
        .headers
        .and_then(|octets| parse_table(octets, limits).ok())
        .unwrap_or_default()
}

/// The publish's key and those of CC; BCC was removed when it came.
fn routing_keys(message: &Message, headers: &FieldTable) -> Vec<Vec<u8>> {
    let mut keys = vec![message.routing_key().to_vec()];
    if let Some(FieldValue::FieldArray(more)) = headers.inner().get("CC") {
        keys.extend(
            more.as_slice()
                .iter()
                .filter_map(table::octets)
                .map(<[u8]>::to_vec),
        );
    }
    keys
}

fn deaths(headers: &FieldTable) -> impl Iterator<Item = &FieldTable> {
    let entries = match headers.inner().get(DEATHS) {
        Some(FieldValue::FieldArray(entries)) => entries.as_slice(),
        _ => &[],
    };
    entries.iter().filter_map(|entry| match entry {
        FieldValue::FieldTable(death) => Some(death),
        _ => None,
    })
}

fn text_of<'a>(death: &'a FieldTable, key: &str) -> Option<&'a str> {
    death.inner().get(key).and_then(table::text)
}

/// One death, on its way into the headers.
struct Death<'a> {
    queue: &'a str,
    reason: &'static str,
    exchange: &'a [u8],
    keys: &'a [Vec<u8>],
    expiration: Option<&'a [u8]>,
    unix_secs: u64,
}

impl Death<'_> {
    /// Adds it in front; a repeated death in the same queue for the same reason counts up instead. History that a
    /// publisher made up is replaced.
    fn record(&self, headers: &mut FieldTable, history_is_ours: bool) {
        let mut entries: Vec<FieldTable> = if history_is_ours {
            deaths(headers).cloned().collect()
        } else {
            Vec::new()
        };
        let same = |death: &FieldTable| {
            text_of(death, "queue") == Some(self.queue)
                && text_of(death, "reason") == Some(self.reason)
        };
        let entry = match entries.iter().position(same) {
            Some(at) => {
                let mut entry = entries.remove(at);
                let count = entry
                    .inner()
                    .get("count")
                    .and_then(table::integer)
                    .unwrap_or(0);
                entry.insert(
                    "count".into(),
                    FieldValue::LongLongInt(count.saturating_add(1)),
                );
                entry
            }
            None => self.entry(),
        };
        entries.insert(0, entry);
        let array: Vec<FieldValue> = entries.into_iter().map(FieldValue::FieldTable).collect();
        headers.insert(
            DEATHS.into(),
            FieldValue::FieldArray(FieldArray::from(array)),
        );
        let exchange = String::from_utf8_lossy(self.exchange);
        for (name, value) in [
            ("queue", self.queue),
            ("reason", self.reason),
            ("exchange", &*exchange),
        ] {
            let value = FieldValue::LongString(value.into());
            let first = ShortString::from(format!("x-first-death-{name}"));
            if !history_is_ours || !headers.contains_key(first.as_str()) {
                headers.insert(first, value.clone());
            }
            headers.insert(ShortString::from(format!("x-last-death-{name}")), value);
        }
    }

    fn entry(&self) -> FieldTable {
        let text = |octets: &[u8]| FieldValue::LongString(octets.to_vec().into());
        let keys: Vec<FieldValue> = self.keys.iter().map(|key| text(key)).collect();
        let mut entry = FieldTable::default();
        entry.insert("count".into(), FieldValue::LongLongInt(1));
        entry.insert("reason".into(), text(self.reason.as_bytes()));
        entry.insert("queue".into(), text(self.queue.as_bytes()));
        entry.insert("time".into(), FieldValue::Timestamp(self.unix_secs));
        entry.insert("exchange".into(), text(self.exchange));
        entry.insert(
            "routing-keys".into(),
            FieldValue::FieldArray(FieldArray::from(keys)),
        );
        if let Some(expiration) = self.expiration {
            entry.insert("original-expiration".into(), text(expiration));
        }
        entry
    }
}
