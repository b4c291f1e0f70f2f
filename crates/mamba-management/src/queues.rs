//! Queues (`spec: http-api §5.5`).

use std::sync::Arc;

use mamba_broker::queue_cell::QueueCell;
use mamba_codec::{AMQPClass, protocol::queue};
use mamba_queue::QueueKind;
use serde_json::{Map, Value, json};

use crate::{
    answer::{Answer, List, Outcome, Refusal},
    connections,
    rates::{IDLE_MS, Object, Windows},
    request::Request,
    time::time_text,
};

pub(crate) fn list(request: &Request<'_>) -> Outcome {
    let vhosts = request.visible_vhosts()?;
    let queues: Vec<Arc<QueueCell>> = vhosts.iter().flat_map(|vhost| vhost.queues()).collect();
    let show = Show {
        management: Arc::clone(request.management),
        now_ms: request.now.unix_ms,
        stats: !request.query.is_true("disable_stats"),
        totals: request.query.is_true("enable_queue_totals"),
        windows: Windows::default(),
    };
    Ok(Answer::List(List::named(
        queues,
        |queue| queue.name.to_string(),
        move |queue| Value::Object(show.view(queue)),
    )))
}

/// What a list shows of its queues.
struct Show {
    management: Arc<crate::server::Management>,
    now_ms: u64,
    stats: bool,
    totals: bool,
    windows: Windows,
}

impl Show {
    fn view(&self, queue: &QueueCell) -> Map<String, Value> {
        let declaration = &queue.declaration;
        let kind = match declaration.settings.kind {
            QueueKind::Classic => "classic",
            QueueKind::Quorum => "quorum",
        };
        let node = &self.management.node.name;
        let mut fields = Map::new();
        let mut add = |key: &str, value: Value| {
            fields.insert(key.to_owned(), value);
        };
        add("name", (*queue.name).into());
        add("vhost", (*queue.vhost).into());
        add("type", kind.into());
        add("durable", declaration.durable.into());
        add("auto_delete", declaration.auto_delete.into());
        add("exclusive", declaration.exclusive_owner.is_some().into());
        let arguments = mamba_policy::table_to_json(&declaration.arguments);
        add("arguments", arguments.into());
        add("node", node.as_str().into());
        add("state", "running".into());
        if kind == "quorum" {
            add("leader", node.as_str().into());
            add("members", json!([node]));
            add("online", json!([node]));
        }
        if let Some(owner) = declaration.exclusive_owner
            && let Some(owner) = connections::owner(&self.management.broker, owner)
        {
            add("owner_pid_details", owner);
        }
        if self.stats {
            self.add_stats(queue, &mut fields);
        } else if self.totals {
            let counts = queue.counts();
            let mut add = |key: &str, count: u64| {
                fields.insert(key.to_owned(), count.into());
            };
            add("messages", counts.ready + counts.unacked);
            add("messages_ready", counts.ready);
            add("messages_unacknowledged", counts.unacked);
        }
        fields
    }

    fn add_stats(&self, queue: &QueueCell, fields: &mut Map<String, Value>) {
        let view = queue.view();
        let counts = view.counts;
        let gauges = [
            ("messages", counts.ready + counts.unacked),
            ("messages_ready", counts.ready),
            ("messages_unacknowledged", counts.unacked),
        ];
        let rates = &self.management.rates;
        let object = Object::Queue(queue.id.0);
        rates.add_stats(
            fields,
            object,
            self.now_ms,
            &gauges,
            &view.stats,
            &self.windows,
        );
        let mut add = |key: &str, value: Value| {
            fields.insert(key.to_owned(), value);
        };
        let in_memory = counts.ready.saturating_sub(view.paged);
        add("consumers", counts.consumers.into());
        add("messages_ram", (in_memory + counts.unacked).into());
        add("messages_ready_ram", in_memory.into());
        add("messages_unacknowledged_ram", counts.unacked.into());
        add("messages_paged_out", view.paged.into());
        add("messages_delayed", counts.delayed.into());
        let bytes = counts.ready_bytes + counts.unacked_bytes;
        add("message_bytes", bytes.into());
        add("message_bytes_ready", counts.ready_bytes.into());
        add("message_bytes_unacknowledged", counts.unacked_bytes.into());
        add("message_bytes_ram", view.resident_bytes.into());
        add("memory", view.resident_bytes.into());
        // Of a queue with messages of both kinds it is not counted how many outlive a restart.
        if let (Some(messages), Some(bytes)) = (view.persistent, view.persistent_bytes) {
            add("messages_persistent", messages.into());
            add("message_bytes_persistent", bytes.into());
        }
        add("consumer_capacity", view.consumer_capacity.into());
        add("consumer_utilisation", view.consumer_capacity.into());
        add("head_message_timestamp", view.head_timestamp.into());
        if self.now_ms.saturating_sub(view.active_ms) >= IDLE_MS {
            add("idle_since", time_text(view.active_ms).into());
        }
        add("storage_version", 2.into());
        let home = self.management.broker.vhost(&queue.vhost);
        let followed = home
            .map(|home| home.policies_of_queue(queue))
            .unwrap_or_default();
        add("policy", followed.policy.into());
        add("operator_policy", followed.operator_policy.into());
        add("effective_policy_definition", json!(followed.definition));
        let tag = |tag: Option<Arc<str>>| tag.map_or(Value::Null, |tag| (*tag).into());
        add("exclusive_consumer_tag", tag(view.exclusive_consumer));
        add("single_active_consumer_tag", tag(view.active_consumer));
    }
}

fn known(request: &Request<'_>) -> Result<Arc<QueueCell>, Refusal> {
    let queue = request.vhost()?.queue(request.name("queue"));
    queue.ok_or_else(Refusal::missing)
}

pub(crate) fn one(request: &Request<'_>) -> Outcome {
    let queue = known(request)?;
    let stats = !request.query.is_true("disable_stats");
    let show = Show {
        management: Arc::clone(request.management),
        now_ms: request.now.unix_ms,
        stats,
        totals: request.query.is_true("enable_queue_totals"),
        windows: request.query.windows()?,
    };
    let mut fields = show.view(&queue);
    if stats {
        let consumers = connections::consumers_of(request, &queue);
        fields.insert("consumer_details".to_owned(), consumers.into());
        for key in ["incoming", "deliveries"] {
            fields.insert(key.to_owned(), json!([]));
        }
    }
    Ok(Answer::Json(fields.into()))
}

pub(crate) fn put(request: &Request<'_>) -> Outcome {
    let mut direct = request.direct()?;
    let fields = request.fields()?;
    let name = request.name("queue");
    if name.len() > 255 {
        return Err(Refusal::too_long("queue", name));
    }
    let declare = queue::Declare {
        queue: name.into(),
        passive: false,
        durable: fields.flag("durable")?.unwrap_or(false),
        exclusive: false,
        auto_delete: fields.flag("auto_delete")?.unwrap_or(false),
        nowait: false,
        arguments: fields.arguments("arguments")?,
    };
    let known = request.vhost()?.queue(name).is_some();
    direct
        .perform(AMQPClass::Queue(queue::AMQPMethod::Declare(declare)))
        .map_err(|violation| Refusal::of_method(&violation))?;
    Ok(Answer::put(!known))
}

pub(crate) fn delete(request: &Request<'_>) -> Outcome {
    let queue = known(request)?;
    let delete = queue::Delete {
        queue: (&*queue.name).into(),
        if_unused: request.query.is_true("if-unused"),
        if_empty: request.query.is_true("if-empty"),
        nowait: false,
    };
    request
        .direct()?
        .perform(AMQPClass::Queue(queue::AMQPMethod::Delete(delete)))
        .map_err(|violation| Refusal::of_method(&violation))?;
    Ok(Answer::Done)
}

pub(crate) fn purge(request: &Request<'_>) -> Outcome {
    let queue = known(request)?;
    let purge = queue::Purge {
        queue: (&*queue.name).into(),
        nowait: false,
    };
    request
        .direct()?
        .perform(AMQPClass::Queue(queue::AMQPMethod::Purge(purge)))
        .map_err(|violation| Refusal::of_method(&violation))?;
    Ok(Answer::Done)
}

/// Mirrors are no more, and so is what could be done with them.
pub(crate) fn act(request: &Request<'_>) -> Outcome {
    known(request)?;
    let fields = request.fields()?;
    fields.require(&["action"])?;
    let action = fields.0.get("action").cloned().unwrap_or(Value::Null);
    Err(Refusal::bad(json!(["unknown", action])))
}
