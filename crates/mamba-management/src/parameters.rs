//! Runtime parameters of virtual hosts, and global ones.

use mamba_broker::{parameters::Parameter, tenants::TenantError};
use serde_json::{Value, json};

use crate::{
    answer::{Answer, List, Outcome, Refusal},
    request::Request,
};

fn view(name: &str, value: &Value) -> Value {
    json!({"name": name, "value": value})
}

pub(crate) fn globals(request: &Request<'_>) -> Outcome {
    let all = request.broker().global_parameters();
    Ok(Answer::List(List::new(all, |(name, value)| {
        view(name, value)
    })))
}

pub(crate) fn global(request: &Request<'_>) -> Outcome {
    let name = request.name("name");
    let value = request.broker().global_parameter(name);
    let value = value.ok_or_else(Refusal::missing)?;
    Ok(Answer::Json(view(name, &value)))
}

pub(crate) fn put_global(request: &Request<'_>) -> Outcome {
    let fields = request.fields()?;
    fields.require(&["value"])?;
    let value = fields.0.get("value").cloned().unwrap_or(Value::Null);
    let new = request
        .broker()
        .set_global_parameter(request.name("name"), value)?;
    Ok(Answer::put(new))
}

pub(crate) fn delete_global(request: &Request<'_>) -> Outcome {
    request
        .broker()
        .clear_global_parameter(request.name("name"))?;
    Ok(Answer::Done)
}

fn of_vhost(vhost: &str, parameter: &Parameter) -> Value {
    json!({
        "vhost": vhost, "component": parameter.component, "name": parameter.name,
        "value": parameter.value,
    })
}

/// Those of the path's component and virtual host, or of all the user sees.
pub(crate) fn list(request: &Request<'_>) -> Outcome {
    let component = request.name("component");
    let mut all = Vec::new();
    for vhost in request.visible_vhosts()? {
        let parameters = request.broker().parameters(&vhost.name)?;
        let own = parameters
            .iter()
            .filter(|one| component.is_empty() || one.component == component);
        all.extend(own.map(|one| of_vhost(&vhost.name, one)));
    }
    Ok(Answer::List(List::of(all)))
}

pub(crate) fn one(request: &Request<'_>) -> Outcome {
    let (component, name) = (request.name("component"), request.name("name"));
    let vhost = request.vhost()?;
    let parameters = request.broker().parameters(&vhost.name)?;
    let found = parameters
        .iter()
        .find(|one| one.component == component && one.name == name);
    found
        .map(|one| Answer::Json(of_vhost(&vhost.name, one)))
        .ok_or_else(Refusal::missing)
}

pub(crate) fn put(request: &Request<'_>) -> Outcome {
    let fields = request.fields()?;
    fields.require(&["value"])?;
    let value = fields.0.get("value").cloned().unwrap_or(Value::Null);
    let (vhost, component) = (request.name("vhost"), request.name("component"));
    let new = request
        .broker()
        .set_parameter(vhost, component, request.name("name"), value)
        .map_err(|error| match error {
            TenantError::NoSuchVhost(_) => Refusal::no_vhost(),
            other => other.into(),
        })?;
    Ok(Answer::put(new))
}

pub(crate) fn delete(request: &Request<'_>) -> Outcome {
    let (vhost, component) = (request.name("vhost"), request.name("component"));
    request
        .broker()
        .clear_parameter(vhost, component, request.name("name"))?;
    Ok(Answer::Done)
}
