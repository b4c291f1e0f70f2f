//! Virtual hosts (`spec: http-api §5.8`).

use std::{collections::HashMap, sync::Arc};

use mamba_broker::{
    registry::{MessageStats, Traffic},
    vhost::{Vhost, VhostSettings},
};
use serde_json::{Map, Value, json};

use crate::{
    answer::{Answer, List, Outcome, Refusal},
    rates::{Object, Rates, Windows},
    request::{Fields, Request},
    server::Management,
};

/// Virtual hosts that are sampled all the time, if there are no more.
const SAMPLED_MAX: usize = 100;

pub(crate) fn list(request: &Request<'_>) -> Outcome {
    let views = request.visible_vhosts()?;
    let traffic = request.broker().traffic_by_vhost();
    let windows = Windows::default();
    let views = views
        .iter()
        .map(|vhost| view(request, vhost, &traffic, &windows));
    Ok(Answer::List(List::of(views.collect())))
}

pub(crate) fn one(request: &Request<'_>) -> Outcome {
    let vhost = request.vhost()?;
    let traffic = request.broker().traffic_by_vhost();
    let windows = request.query.windows()?;
    Ok(Answer::Json(view(request, &vhost, &traffic, &windows)))
}

/// What is in a virtual host, added up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) queues: usize,
    pub(crate) consumers: u64,
    ready: u64,
    unacked: u64,
    pub(crate) stats: MessageStats,
}

impl Totals {
    pub(crate) fn of(vhost: &Vhost) -> Self {
        let mut sum = Self::default();
        for queue in vhost.queues_unsorted() {
            let counts = queue.counts();
            // What came is counted where it was published: a message may go to many queues.
            let stats = MessageStats {
                publish: 0,
                ..queue.stats()
            };
            sum.add(&Self {
                queues: 1,
                consumers: counts.consumers,
                ready: counts.ready,
                unacked: counts.unacked,
                stats,
            });
        }
        for (_, counts) in vhost.all_exchange_counts() {
            sum.stats.publish += counts.publish_in;
            sum.stats.confirm += counts.confirm;
            sum.stats.return_unroutable += counts.return_unroutable;
            sum.stats.drop_unroutable += counts.drop_unroutable;
        }
        sum
    }

    pub(crate) const fn add(&mut self, other: &Self) {
        self.queues += other.queues;
        self.consumers += other.consumers;
        self.ready += other.ready;
        self.unacked += other.unacked;
        self.stats.add(&other.stats);
    }

    /// The gauges that have rates.
    pub(crate) const fn gauges(&self) -> [(&'static str, u64); 3] {
        [
            ("messages", self.ready + self.unacked),
            ("messages_ready", self.ready),
            ("messages_unacknowledged", self.unacked),
        ]
    }
}

/// Takes samples of the virtual hosts, so that there are rates and graphs whoever asks first; only when somebody asks if there are
/// many.
pub(crate) fn sample(management: &Management, now_ms: u64) {
    let vhosts = management.broker.vhosts();
    if vhosts.len() > SAMPLED_MAX {
        return;
    }
    let traffic = management.broker.traffic_by_vhost();
    for vhost in vhosts {
        counted(
            &management.rates,
            &vhost,
            &traffic,
            now_ms,
            &Windows::default(),
        );
    }
}

/// A virtual host's statistics, as clients know them.
fn counted(
    rates: &Rates,
    vhost: &Vhost,
    traffic: &HashMap<Arc<str>, Traffic>,
    now_ms: u64,
    windows: &Windows,
) -> Map<String, Value> {
    let (sum, object) = (Totals::of(vhost), Object::vhost(&vhost.name));
    let mut fields = Map::new();
    rates.add_stats(
        &mut fields,
        object,
        now_ms,
        &sum.gauges(),
        &sum.stats,
        windows,
    );
    let traffic = traffic.get(&vhost.name).copied().unwrap_or_default();
    let octets = [
        ("recv_oct", traffic.received_bytes),
        ("send_oct", traffic.sent_bytes),
    ];
    let object = Object::vhost_traffic(&vhost.name);
    fields.extend(rates.counters(object, now_ms, &octets, windows.data));
    fields
}

fn view(
    request: &Request<'_>,
    vhost: &Vhost,
    traffic: &HashMap<Arc<str>, Traffic>,
    windows: &Windows,
) -> Value {
    let settings = vhost.settings();
    let kind = settings.default_queue_type.as_deref().unwrap_or("classic");
    let mut view = json!({
        "name": *vhost.name, "description": settings.description, "tags": settings.tags,
        "default_queue_type": kind, "protected_from_deletion": settings.protected_from_deletion,
        "metadata": {"description": settings.description, "tags": settings.tags, "default_queue_type": kind},
        "tracing": settings.tracing, "cluster_state": {request.node().name.as_str(): "running"},
    });
    if let Some(fields) = view.as_object_mut() {
        let now_ms = request.now.unix_ms;
        fields.extend(counted(request.rates(), vhost, traffic, now_ms, windows));
    }
    view
}

pub(crate) fn put(request: &Request<'_>) -> Outcome {
    let name = request.name("vhost");
    let broker = request.broker();
    let fields = request.fields()?;
    let mut wanted = broker
        .vhost(name)
        .map(|vhost| VhostSettings::clone(&vhost.settings()))
        .unwrap_or_default();
    read(&fields, &mut wanted)?;
    let new = broker.add_vhost(name, wanted.clone())?;
    if new {
        // Whoever makes a virtual host may work in it; a token says itself where.
        if request.account.token().is_none() {
            broker.set_permissions(name, &request.user().name, ".*", ".*", ".*")?;
        }
    } else {
        broker.change_vhost(name, |settings| {
            let limits = settings.limits;
            *settings = VhostSettings { limits, ..wanted };
        })?;
    }
    Ok(Answer::put(new))
}

fn read(fields: &Fields, settings: &mut VhostSettings) -> Result<(), Refusal> {
    if let Some(text) = fields.text("description")? {
        settings.description = text.to_owned();
    }
    if let Some(tags) = fields.0.get("tags") {
        settings.tags = words(tags)?;
    }
    let kind = fields.text("default_queue_type")?;
    if let Some(kind) = kind.or(fields.text("defaultqueuetype")?) {
        settings.default_queue_type = Some(kind.to_owned());
    }
    if let Some(flag) = fields.flag("protected_from_deletion")? {
        settings.protected_from_deletion = flag;
    }
    if let Some(flag) = fields.flag("tracing")? {
        settings.tracing = flag;
    }
    Ok(())
}

/// Words in an array, or in a text between commas.
pub(crate) fn words(value: &Value) -> Result<Vec<String>, Refusal> {
    let words: Option<Vec<String>> = match value {
        Value::Null => Some(Vec::new()),
        Value::String(text) => Some(text.split(',').map(str::to_owned).collect()),
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect(),
        _ => None,
    };
    let words = words.ok_or_else(|| Refusal::bad(json!(["not_string_or_list", value])))?;
    let trimmed = words.iter().map(|word| word.trim().to_owned());
    Ok(trimmed.filter(|word| !word.is_empty()).collect())
}

pub(crate) fn delete(request: &Request<'_>) -> Outcome {
    request.broker().delete_vhost(request.name("vhost"))?;
    Ok(Answer::Done)
}

pub(crate) fn protect(request: &Request<'_>) -> Outcome {
    set_protection(request, true)
}

pub(crate) fn unprotect(request: &Request<'_>) -> Outcome {
    set_protection(request, false)
}

fn set_protection(request: &Request<'_>, protected: bool) -> Outcome {
    request
        .broker()
        .change_vhost(request.name("vhost"), |settings| {
            settings.protected_from_deletion = protected;
        })?;
    Ok(Answer::Done)
}

pub(crate) fn start(request: &Request<'_>) -> Outcome {
    request.vhost()?;
    if request.name("node") != request.node().name {
        return Err(Refusal::missing());
    }
    Ok(Answer::Done)
}
