//! Virtual hosts (`spec: http-api §5.8`).

use mamba_broker::vhost::{Vhost, VhostSettings};
use serde_json::{Value, json};

use crate::{
    answer::{Answer, List, Outcome, Refusal},
    rates::Object,
    request::{Fields, Request},
};

pub(crate) fn list(request: &Request<'_>) -> Outcome {
    let views = request.visible_vhosts()?;
    let views = views.iter().map(|vhost| view(request, vhost));
    Ok(Answer::List(List::of(views.collect())))
}

pub(crate) fn one(request: &Request<'_>) -> Outcome {
    let vhost = request.vhost()?;
    Ok(Answer::Json(view(request, &vhost)))
}

fn view(request: &Request<'_>, vhost: &Vhost) -> Value {
    let settings = vhost.settings();
    let kind = settings.default_queue_type.as_deref().unwrap_or("classic");
    let mut view = json!({
        "name": *vhost.name, "description": settings.description, "tags": settings.tags,
        "default_queue_type": kind, "protected_from_deletion": settings.protected_from_deletion,
        "metadata": {"description": settings.description, "tags": settings.tags, "default_queue_type": kind},
        "tracing": settings.tracing, "cluster_state": {request.node().name.as_str(): "running"},
    });
    let (mut ready, mut unacked) = (0, 0);
    let mut stats = mamba_broker::registry::MessageStats::default();
    for queue in vhost.queues() {
        let (counts, of_queue) = (queue.counts(), queue.stats());
        ready += counts.ready;
        unacked += counts.unacked;
        stats.add(&of_queue);
    }
    if let Some(fields) = view.as_object_mut() {
        let gauges = [
            ("messages", ready + unacked),
            ("messages_ready", ready),
            ("messages_unacknowledged", unacked),
        ];
        let object = Object::vhost(&vhost.name);
        request
            .rates()
            .add_stats(fields, object, request.now.unix_ms, &gauges, &stats);
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
