//! Permissions and topic permissions.

use mamba_broker::tenants::{Permission, TenantError, TopicPermission};
use serde_json::{Value, json};

use crate::{
    answer::{Answer, List, Outcome, Refusal},
    request::Request,
};

fn view(one: &Permission) -> Value {
    json!({
        "user": *one.user, "vhost": *one.vhost,
        "configure": one.configure, "write": one.write, "read": one.read,
    })
}

fn view_topic(one: &TopicPermission) -> Value {
    json!({
        "user": *one.user, "vhost": *one.vhost, "exchange": *one.exchange,
        "write": one.write, "read": one.read,
    })
}

fn those(request: &Request<'_>, wanted: impl Fn(&Permission) -> bool) -> Outcome {
    let mut all = request.broker().permissions();
    all.retain(wanted);
    Ok(Answer::List(List::new(all, view)))
}

fn those_topics(request: &Request<'_>, wanted: impl Fn(&TopicPermission) -> bool) -> Outcome {
    let mut all = request.broker().topic_permissions();
    all.retain(wanted);
    Ok(Answer::List(List::new(all, view_topic)))
}

fn check_user(request: &Request<'_>) -> Result<(), Refusal> {
    let user = request.broker().user(request.name("user"));
    user.map(drop).ok_or_else(Refusal::missing)
}

pub(crate) fn list(request: &Request<'_>) -> Outcome {
    those(request, |_| true)
}

pub(crate) fn of_vhost(request: &Request<'_>) -> Outcome {
    let vhost = request.vhost()?;
    those(request, |one| one.vhost == vhost.name)
}

pub(crate) fn of_user(request: &Request<'_>) -> Outcome {
    check_user(request)?;
    those(request, |one| *one.user == *request.name("user"))
}

pub(crate) fn one(request: &Request<'_>) -> Outcome {
    let (vhost, user) = (request.name("vhost"), request.name("user"));
    let all = request.broker().permissions();
    let found = all
        .iter()
        .find(|one| *one.vhost == *vhost && *one.user == *user);
    found
        .map(|one| Answer::Json(view(one)))
        .ok_or_else(Refusal::missing)
}

fn unknown(error: TenantError) -> Refusal {
    match error {
        TenantError::NoSuchUser(_) | TenantError::NoSuchVhost(_) => {
            Refusal::bad("vhost_or_user_not_found")
        }
        TenantError::Pattern(invalid) => {
            Refusal::bad(json!(["invalid_regexp", invalid.pattern, invalid.reason]))
        }
        other => other.into(),
    }
}

pub(crate) fn put(request: &Request<'_>) -> Outcome {
    let (vhost, user) = (request.name("vhost"), request.name("user"));
    let fields = request.fields()?;
    fields.require(&["configure", "write", "read"])?;
    let text = |key| fields.mandatory_text(key);
    let new = !request.broker().has_permissions(user, vhost);
    request
        .broker()
        .set_permissions(
            vhost,
            user,
            text("configure")?,
            text("write")?,
            text("read")?,
        )
        .map_err(unknown)?;
    Ok(Answer::put(new))
}

pub(crate) fn delete(request: &Request<'_>) -> Outcome {
    let (vhost, user) = (request.name("vhost"), request.name("user"));
    if request.broker().clear_permissions(vhost, user)? {
        Ok(Answer::Done)
    } else {
        Err(Refusal::missing())
    }
}

pub(crate) fn topics(request: &Request<'_>) -> Outcome {
    those_topics(request, |_| true)
}

pub(crate) fn topics_of_vhost(request: &Request<'_>) -> Outcome {
    let vhost = request.vhost()?;
    those_topics(request, |one| one.vhost == vhost.name)
}

pub(crate) fn topics_of_user(request: &Request<'_>) -> Outcome {
    check_user(request)?;
    those_topics(request, |one| *one.user == *request.name("user"))
}

/// The topic permissions that the path names.
fn in_path(request: &Request<'_>) -> impl Fn(&TopicPermission) -> bool + use<> {
    let (vhost, user) = (
        request.name("vhost").to_owned(),
        request.name("user").to_owned(),
    );
    let exchange = request.name("exchange").to_owned();
    move |one| {
        *one.vhost == *vhost
            && *one.user == *user
            && (exchange.is_empty() || *one.exchange == *exchange)
    }
}

pub(crate) fn topics_of(request: &Request<'_>) -> Outcome {
    let wanted = in_path(request);
    if !request.broker().topic_permissions().iter().any(&wanted) {
        return Err(Refusal::missing());
    }
    those_topics(request, wanted)
}

pub(crate) fn put_topics(request: &Request<'_>) -> Outcome {
    let (vhost, user) = (request.name("vhost"), request.name("user"));
    let fields = request.fields()?;
    fields.require(&["exchange", "write", "read"])?;
    let text = |key| fields.mandatory_text(key);
    let exchange = text("exchange")?;
    let before = request.broker().topic_permissions();
    let known = before
        .iter()
        .any(|one| *one.vhost == *vhost && *one.user == *user && *one.exchange == *exchange);
    request
        .broker()
        .set_topic_permissions(vhost, user, exchange, text("write")?, text("read")?)
        .map_err(unknown)?;
    Ok(Answer::put(!known))
}

pub(crate) fn delete_topics(request: &Request<'_>) -> Outcome {
    let exchange = Some(request.name("exchange")).filter(|name| !name.is_empty());
    let (vhost, user) = (request.name("vhost"), request.name("user"));
    if request
        .broker()
        .clear_topic_permissions(vhost, user, exchange)?
    {
        Ok(Answer::Done)
    } else {
        Err(Refusal::missing())
    }
}
