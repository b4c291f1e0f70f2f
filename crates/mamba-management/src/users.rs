//! Users (`spec: http-api §5.7`).

use mamba_auth::{HashAlgorithm, InvalidHash, PasswordHash, Tags, User, UserLimits};
use mamba_broker::tenants::{NewPassword, TenantError, read_user_limits, user_limits_json};
use serde_json::{Value, json};

use crate::{
    answer::{Answer, List, Outcome, Refusal},
    request::{Fields, Request},
    vhosts::words,
};

pub(crate) fn whoami(request: &Request<'_>) -> Outcome {
    Ok(Answer::Json(json!({
        "name": *request.user().name, "tags": tags(request.user()), "is_internal_user": request.account.token().is_none(),
    })))
}

fn tags(user: &User) -> Vec<&str> {
    user.tags.iter().collect()
}

fn view(user: &User) -> Value {
    json!({
        "name": *user.name, "password_hash": user.password.to_text(),
        "hashing_algorithm": user.password.algorithm().name(), "tags": tags(user),
        "limits": user_limits_json(&user.limits),
    })
}

pub(crate) fn list(request: &Request<'_>) -> Outcome {
    let users = request.broker().users();
    Ok(Answer::List(List::new(users, |user| view(user))))
}

pub(crate) fn without_permissions(request: &Request<'_>) -> Outcome {
    let permissions = request.broker().permissions();
    let mut users = request.broker().users();
    users.retain(|user| permissions.iter().all(|one| one.user != user.name));
    Ok(Answer::List(List::new(users, |user| view(user))))
}

pub(crate) fn one(request: &Request<'_>) -> Outcome {
    let user = request.broker().user(request.name("user"));
    let user = user.ok_or_else(Refusal::missing)?;
    Ok(Answer::Json(view(&user)))
}

pub(crate) fn put(request: &Request<'_>) -> Outcome {
    let (name, fields) = (request.name("user"), request.fields()?);
    let given = fields
        .0
        .get("tags")
        .or_else(|| fields.0.get("administrator"));
    let tags = match given {
        Some(Value::Bool(true)) => vec!["administrator".to_owned()],
        Some(Value::Bool(false)) => Vec::new(),
        Some(given) => words(given)?,
        None => return Err(Refusal::bad("tags_not_present")),
    };
    let tags = Tags::new(tags).map_err(TenantError::from)?;
    let limits = fields.object("limits")?;
    read_user_limits(&limits, &mut UserLimits::default())?;
    let new = request.broker().put_user(name, password(&fields)?, tags)?;
    if !limits.is_empty() {
        request.broker().change_user_limits(name, |known| {
            // Read once already.
            let _ = read_user_limits(&limits, known);
        })?;
    }
    Ok(Answer::put(new))
}

fn password(fields: &Fields) -> Result<NewPassword<'_>, Refusal> {
    match (fields.text("password")?, fields.text("password_hash")?) {
        (Some(_), Some(_)) => Err(Refusal::bad("both_password_and_password_hash_are_provided")),
        (Some(password), None) => Ok(NewPassword::Plain(password)),
        (None, None | Some("")) => Ok(NewPassword::Disabled),
        (None, Some(hash)) => {
            let algorithm = match fields.text("hashing_algorithm")? {
                None => HashAlgorithm::default(),
                Some(name) => HashAlgorithm::by_name(name)
                    .ok_or_else(|| Refusal::bad(json!(["unknown_hashing_algorithm", name])))?,
            };
            let parsed = PasswordHash::from_text(algorithm, hash);
            parsed
                .map(NewPassword::Hashed)
                .map_err(|_: InvalidHash| Refusal::bad(json!(["not_base64", hash])))
        }
    }
}

pub(crate) fn delete(request: &Request<'_>) -> Outcome {
    request.broker().delete_user(request.name("user"))?;
    Ok(Answer::Done)
}

/// Those that are not there count as deleted.
pub(crate) fn bulk_delete(request: &Request<'_>) -> Outcome {
    let fields = request.fields()?;
    fields.require(&["users"])?;
    let users = fields.0.get("users").and_then(Value::as_array);
    let users = users.ok_or_else(|| Refusal::bad(json!(["not_list", "users"])))?;
    let names: Option<Vec<&str>> = users.iter().map(Value::as_str).collect();
    let names = names.ok_or_else(|| Refusal::bad(json!(["not_string", "users"])))?;
    for name in names {
        match request.broker().delete_user(name) {
            Ok(()) | Err(TenantError::NoSuchUser(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Answer::Done)
}

pub(crate) fn hash_password(request: &Request<'_>) -> Outcome {
    let password = NewPassword::Plain(request.name("password"));
    let hash = request.broker().hashed(password)?;
    Ok(Answer::Json(json!({"ok": hash.to_text()})))
}
