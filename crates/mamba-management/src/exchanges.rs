//! Exchanges (`spec: http-api §5.9`).

use std::sync::Arc;

use mamba_broker::vhost::Vhost;
use mamba_codec::{AMQPClass, protocol::exchange};
use mamba_routing::ExchangeSpec;
use serde_json::{Value, json};

use crate::{
    answer::{Answer, List, Outcome, Refusal},
    rates::{Object, Windows},
    request::Request,
    server::Management,
};

pub(crate) fn list(request: &Request<'_>) -> Outcome {
    let vhosts = request.visible_vhosts()?;
    let all: Vec<_> = vhosts
        .iter()
        .flat_map(|vhost| {
            let exchanges = vhost.exchanges().into_iter();
            exchanges.map(|spec| (Arc::clone(vhost), spec))
        })
        .collect();
    let (management, now_ms) = (Arc::clone(request.management), request.now.unix_ms);
    Ok(Answer::List(List::named(
        all,
        |(_, spec)| spec.name.to_string(),
        move |(vhost, spec)| view(&management, now_ms, vhost, spec, &Windows::default()),
    )))
}

fn view(
    management: &Management,
    now_ms: u64,
    vhost: &Vhost,
    spec: &ExchangeSpec,
    windows: &Windows,
) -> Value {
    let mut view = json!({
        "name": *spec.name, "vhost": *vhost.name, "type": *spec.kind, "durable": spec.durable,
        "auto_delete": spec.auto_delete, "internal": spec.internal,
        "arguments": mamba_policy::table_to_json(&spec.arguments),
    });
    if let Some(policy) = vhost.policies_of_exchange(&spec.name).policy {
        view["policy"] = policy.into();
    }
    // Left out as long as nothing was published to it, as clients know it.
    if let Some(counts) = vhost.exchange_counts(&spec.name) {
        let counters = [
            ("publish_in", counts.publish_in),
            ("publish_out", counts.publish_out),
        ];
        let object = Object::exchange(&vhost.name, &spec.name);
        let rates = &management.rates;
        view["message_stats"] = rates
            .counters(object, now_ms, &counters, windows.messages)
            .into();
    }
    view
}

fn known(request: &Request<'_>) -> Result<ExchangeSpec, Refusal> {
    let exchange = request.vhost()?.exchange(request.exchange("exchange"));
    exchange.ok_or_else(Refusal::missing)
}

pub(crate) fn one(request: &Request<'_>) -> Outcome {
    let (spec, windows) = (known(request)?, request.query.windows()?);
    let now_ms = request.now.unix_ms;
    let mut view = view(
        request.management,
        now_ms,
        &*request.vhost()?,
        &spec,
        &windows,
    );
    view["incoming"] = json!([]);
    view["outgoing"] = json!([]);
    Ok(Answer::Json(view))
}

pub(crate) fn put(request: &Request<'_>) -> Outcome {
    let mut direct = request.direct()?;
    let fields = request.fields()?;
    let name = request.exchange("exchange");
    if name.len() > 255 {
        return Err(Refusal::too_long("exchange", name));
    }
    let kind = fields.text("type")?.unwrap_or("direct");
    if kind.len() > 255 {
        return Err(Refusal::too_long("type", kind));
    }
    let declare = exchange::Declare {
        exchange: name.into(),
        kind: kind.into(),
        passive: false,
        durable: fields.flag("durable")?.unwrap_or(false),
        auto_delete: fields.flag("auto_delete")?.unwrap_or(false),
        internal: fields.flag("internal")?.unwrap_or(false),
        nowait: false,
        arguments: fields.arguments("arguments")?,
    };
    let known = request.vhost()?.exchange(name).is_some();
    direct
        .perform(AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare)))
        .map_err(|violation| Refusal::of_method(&violation))?;
    Ok(Answer::put(!known))
}

pub(crate) fn delete(request: &Request<'_>) -> Outcome {
    let spec = known(request)?;
    let delete = exchange::Delete {
        exchange: (&*spec.name).into(),
        if_unused: request.query.is_true("if-unused"),
        nowait: false,
    };
    request
        .direct()?
        .perform(AMQPClass::Exchange(exchange::AMQPMethod::Delete(delete)))
        .map_err(|violation| Refusal::of_method(&violation))?;
    Ok(Answer::Done)
}
