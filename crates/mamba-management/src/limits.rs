//! Limits of virtual hosts and users.

use std::sync::Arc;

use mamba_auth::{Limit, User, UserLimits};
use mamba_broker::{
    tenants::{
        TenantError, read_user_limits, read_vhost_limits, user_limits_json, vhost_limits_json,
    },
    vhost::Vhost,
};
use serde_json::{Map, Value, json};

use crate::{
    answer::{Answer, List, Outcome, Refusal},
    request::Request,
};

fn of_vhosts(vhosts: &[Arc<Vhost>]) -> Outcome {
    let limited = vhosts.iter().filter_map(|vhost| {
        let limits = vhost_limits_json(&vhost.settings().limits);
        (!limits.is_empty()).then(|| json!({"vhost": *vhost.name, "value": limits}))
    });
    Ok(Answer::List(List::of(limited.collect())))
}

pub(crate) fn vhosts(request: &Request<'_>) -> Outcome {
    of_vhosts(&request.visible_vhosts()?)
}

pub(crate) fn vhost(request: &Request<'_>) -> Outcome {
    of_vhosts(&[request.vhost()?])
}

/// The limit a body sets, with the path's name.
fn given(request: &Request<'_>) -> Result<Map<String, Value>, Refusal> {
    let fields = request.fields()?;
    fields.require(&["value"])?;
    let value = fields.0.get("value").cloned().unwrap_or(Value::Null);
    Ok([(request.name("name").to_owned(), value)]
        .into_iter()
        .collect())
}

fn no_vhost(error: TenantError) -> Refusal {
    match error {
        TenantError::NoSuchVhost(_) => Refusal::no_vhost(),
        other => other.into(),
    }
}

pub(crate) fn put_vhost(request: &Request<'_>) -> Outcome {
    let name = request.name("vhost");
    if request.broker().vhost(name).is_none() {
        return Err(Refusal::no_vhost());
    }
    let given = given(request)?;
    read_vhost_limits(&given)?;
    request
        .broker()
        .change_vhost(name, |settings| {
            let mut all = vhost_limits_json(&settings.limits);
            all.extend(given);
            // Each part was read before.
            settings.limits = read_vhost_limits(&all).unwrap_or(settings.limits);
        })
        .map_err(no_vhost)?;
    Ok(Answer::Done)
}

pub(crate) fn delete_vhost(request: &Request<'_>) -> Outcome {
    let change = |settings: &mut mamba_broker::vhost::VhostSettings| match request.name("name") {
        "max-connections" => settings.limits.connections_max = Limit::NONE,
        "max-queues" => settings.limits.queues_max = Limit::NONE,
        _ => {}
    };
    request
        .broker()
        .change_vhost(request.name("vhost"), change)
        .map_err(no_vhost)?;
    Ok(Answer::Done)
}

fn of_users(users: &[Arc<User>]) -> Outcome {
    let limited = users.iter().filter_map(|user| {
        let limits = user_limits_json(&user.limits);
        (!limits.is_empty()).then(|| json!({"user": *user.name, "value": limits}))
    });
    Ok(Answer::List(List::of(limited.collect())))
}

pub(crate) fn users(request: &Request<'_>) -> Outcome {
    of_users(&request.broker().users())
}

pub(crate) fn user(request: &Request<'_>) -> Outcome {
    let name = request.name("user");
    if *request.user().name != *name && !request.user().tags.administrator() {
        return Err(Refusal::denied("Not administrator user"));
    }
    let user = request.broker().user(name).ok_or_else(Refusal::missing)?;
    of_users(&[user])
}

fn no_user(error: TenantError) -> Refusal {
    match error {
        TenantError::NoSuchUser(name) => Refusal::bad(json!(["no_such_user", name])),
        other => other.into(),
    }
}

pub(crate) fn put_user(request: &Request<'_>) -> Outcome {
    let given = given(request)?;
    read_user_limits(&given, &mut UserLimits::default())?;
    request
        .broker()
        .change_user_limits(request.name("user"), |limits| {
            // Read once already.
            let _ = read_user_limits(&given, limits);
        })
        .map_err(no_user)?;
    Ok(Answer::Done)
}

pub(crate) fn delete_user(request: &Request<'_>) -> Outcome {
    request
        .broker()
        .change_user_limits(request.name("user"), |limits| match request.name("name") {
            "max-connections" => limits.connections_max = Limit::NONE,
            "max-channels" => limits.channels_max = Limit::NONE,
            _ => {}
        })
        .map_err(|error| match error {
            TenantError::NoSuchUser(_) => Refusal::missing(),
            other => other.into(),
        })?;
    Ok(Answer::Done)
}
