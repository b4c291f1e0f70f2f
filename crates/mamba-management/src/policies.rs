//! Policies and operator policies (`spec: http-api §5.11`).

use mamba_policy::{Policy, Scope};
use serde_json::{Value, json};

use crate::{
    answer::{Answer, List, Outcome, Refusal},
    request::Request,
};

fn view(vhost: &str, policy: &Policy) -> Value {
    json!({
        "vhost": vhost, "name": policy.name(), "pattern": policy.pattern().text(),
        "apply-to": policy.apply_to().name(), "definition": policy.definition(),
        "priority": policy.priority_json(),
    })
}

fn list(request: &Request<'_>, scope: Scope) -> Outcome {
    let mut all = Vec::new();
    for vhost in request.visible_vhosts()? {
        let policies = vhost.policies();
        let own = policies.iter().filter(|policy| policy.scope() == scope);
        all.extend(own.map(|policy| view(&vhost.name, policy)));
    }
    Ok(Answer::List(List::of(all)))
}

fn one(request: &Request<'_>, scope: Scope) -> Outcome {
    let vhost = request.vhost()?;
    let policies = vhost.policies();
    let policy = policies.find(scope, request.name("name"));
    policy
        .map(|policy| Answer::Json(view(&vhost.name, policy)))
        .ok_or_else(Refusal::missing)
}

fn put(request: &Request<'_>, scope: Scope) -> Outcome {
    let vhost = request.name("vhost");
    if request.broker().vhost(vhost).is_none() {
        return Err(Refusal::no_vhost());
    }
    let fields = request.fields()?;
    fields.require(&["pattern", "definition"])?;
    let policy = Policy::from_json(scope, request.name("name"), &Value::Object(fields.0))
        .map_err(|invalid| Refusal::bad(invalid.to_string()))?;
    let new = request
        .broker()
        .set_policy(vhost, policy, request.now.unix_ms)?;
    Ok(Answer::put(new))
}

fn delete(request: &Request<'_>, scope: Scope) -> Outcome {
    let (vhost, name) = (request.name("vhost"), request.name("name"));
    request
        .broker()
        .clear_policy(vhost, scope, name, request.now.unix_ms)?;
    Ok(Answer::Done)
}

pub(crate) fn users(request: &Request<'_>) -> Outcome {
    list(request, Scope::Policy)
}

pub(crate) fn users_one(request: &Request<'_>) -> Outcome {
    one(request, Scope::Policy)
}

pub(crate) fn put_users(request: &Request<'_>) -> Outcome {
    put(request, Scope::Policy)
}

pub(crate) fn delete_users(request: &Request<'_>) -> Outcome {
    delete(request, Scope::Policy)
}

pub(crate) fn operators(request: &Request<'_>) -> Outcome {
    list(request, Scope::OperatorPolicy)
}

pub(crate) fn operators_one(request: &Request<'_>) -> Outcome {
    one(request, Scope::OperatorPolicy)
}

pub(crate) fn put_operators(request: &Request<'_>) -> Outcome {
    put(request, Scope::OperatorPolicy)
}

pub(crate) fn delete_operators(request: &Request<'_>) -> Outcome {
    delete(request, Scope::OperatorPolicy)
}
