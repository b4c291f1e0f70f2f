//! Users, virtual hosts, permissions and limits over the control socket.
//!
//! Arguments and fields of answers are called as in the HTTP API: `name`, `password`, `tags`, `vhost`, `user`, `configure`,
//! `write`, `read`, `exchange`, `limits`. Lists are arrays of objects.

use std::net::{IpAddr, Ipv4Addr};

use mamba_broker::{
    Attempt, Broker,
    tenants::{
        NewPassword, TenantError, read_user_limits, read_vhost_limits, user_limits_json,
        vhost_limits_json,
    },
    vhost::{Vhost, VhostSettings},
};
use serde_json::{Map, Value, json};

use super::{
    Outcome, Refusal,
    arguments::{Arguments, done, refused},
};
use crate::unix_ms;

/// The commands of this file. They wait for the disk.
pub(super) const COMMANDS: [&str; 23] = [
    "add_user",
    "delete_user",
    "change_password",
    "clear_password",
    "authenticate_user",
    "set_user_tags",
    "list_users",
    "set_user_limits",
    "clear_user_limits",
    "add_vhost",
    "update_vhost_metadata",
    "delete_vhost",
    "list_vhosts",
    "set_vhost_limits",
    "clear_vhost_limits",
    "set_permissions",
    "clear_permissions",
    "list_permissions",
    "list_user_permissions",
    "set_topic_permissions",
    "clear_topic_permissions",
    "list_topic_permissions",
    "list_user_topic_permissions",
];

/// Does one command; blocks until it is durable.
pub(super) fn perform(broker: &Broker, command: &str, arguments: &Map<String, Value>) -> Outcome {
    let arguments = Arguments::of(arguments);
    let outcome = users(broker, command, &arguments)
        .or_else(|| vhosts(broker, command, &arguments))
        .or_else(|| permissions(broker, command, &arguments));
    outcome.unwrap_or_else(|| Err(Refusal::new("unknown_command", command)))
}

fn users(broker: &Broker, command: &str, arguments: &Arguments<'_>) -> Option<Outcome> {
    Some(match command {
        "add_user" => (|| {
            let (name, password) = (arguments.text("name")?, arguments.password()?);
            done(broker.add_user(name, password, arguments.tags()?))
        })(),
        "delete_user" => arguments
            .text("name")
            .and_then(|name| done(broker.delete_user(name))),
        "change_password" => (|| {
            let (name, password) = (arguments.text("name")?, arguments.password()?);
            done(broker.change_password(name, password))
        })(),
        "clear_password" => arguments
            .text("name")
            .and_then(|name| done(broker.change_password(name, NewPassword::Disabled))),
        "authenticate_user" => (|| {
            let (name, password) = (arguments.text("name")?, arguments.text("password")?);
            let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
            match broker.authenticate(name, password, here, unix_ms(), None) {
                Attempt::In(account) => {
                    Ok(json!({"tags": account.user.tags.iter().collect::<Vec<_>>()}))
                }
                Attempt::Refused(reason) => Err(Refusal::new("refused", reason.to_string())),
                Attempt::Later => Err(Refusal::new("refused", "its key is not known yet")),
            }
        })(),
        "set_user_tags" => {
            (|| done(broker.set_user_tags(arguments.text("name")?, arguments.tags()?)))()
        }
        "set_user_limits" => (|| {
            let (name, limits) = (arguments.text("name")?, arguments.object("limits")?);
            let mut read = Ok(());
            broker
                .change_user_limits(name, |known| read = read_user_limits(limits, known))
                .and(read)
                .map_err(refused)?;
            Ok(json!({}))
        })(),
        "clear_user_limits" => (|| {
            let (name, which) = (arguments.text("name")?, arguments.text("limit")?);
            done(broker.change_user_limits(name, |known| {
                let mut kept = user_limits_json(known);
                kept.retain(|limit, _| which != "all" && limit != which);
                *known = Default::default();
                // What was set is valid.
                let _ = read_user_limits(&kept, known);
            }))
        })(),
        "list_users" => Ok(broker
            .users()
            .iter()
            .map(|user| {
                json!({
                    "user": *user.name,
                    "tags": user.tags.iter().collect::<Vec<_>>(),
                    "limits": user_limits_json(&user.limits),
                })
            })
            .collect()),
        _ => return None,
    })
}

fn vhosts(broker: &Broker, command: &str, arguments: &Arguments<'_>) -> Option<Outcome> {
    Some(match command {
        "add_vhost" => (|| {
            let mut settings = VhostSettings::default();
            describe(arguments, &mut settings)?;
            let new = broker.add_vhost(arguments.text("name")?, settings);
            Ok(json!({"new": new.map_err(refused)?}))
        })(),
        "update_vhost_metadata" => (|| {
            // Once without effect, so that a bad argument changes nothing.
            describe(arguments, &mut VhostSettings::default())?;
            let change = |settings: &mut VhostSettings| drop(describe(arguments, settings));
            done(broker.change_vhost(arguments.text("name")?, change))
        })(),
        "delete_vhost" => arguments
            .text("name")
            .and_then(|name| done(broker.delete_vhost(name))),
        "list_vhosts" => {
            let mut vhosts = broker.vhosts();
            vhosts.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            Ok(vhosts.iter().map(|vhost| vhost_json(vhost)).collect())
        }
        "set_vhost_limits" => (|| {
            let (name, limits) = (arguments.text("name")?, arguments.object("limits")?);
            let limits = read_vhost_limits(limits).map_err(refused)?;
            done(broker.change_vhost(name, |settings| settings.limits = limits))
        })(),
        "clear_vhost_limits" => arguments.text("name").and_then(|name| {
            done(broker.change_vhost(name, |settings| settings.limits = Default::default()))
        }),
        _ => return None,
    })
}

fn vhost_json(vhost: &Vhost) -> Value {
    let settings = vhost.settings();
    json!({
        "name": *vhost.name,
        "description": settings.description,
        "tags": settings.tags,
        "default_queue_type": settings.default_queue_type.as_deref().unwrap_or("classic"),
        "tracing": settings.tracing,
        "protected_from_deletion": settings.protected_from_deletion,
        "limits": vhost_limits_json(&settings.limits),
        "connections": vhost.connection_count(),
    })
}

fn describe(arguments: &Arguments<'_>, settings: &mut VhostSettings) -> Result<(), Refusal> {
    if let Some(description) = arguments.optional("description")? {
        settings.description = description.to_owned();
    }
    if let Some(tags) = arguments.list("tags")? {
        settings.tags = tags.into_iter().map(str::to_owned).collect();
    }
    if let Some(kind) = arguments.optional("default_queue_type")? {
        settings.default_queue_type = Some(kind.to_owned());
    }
    if let Some(protected) = arguments.flag("protected_from_deletion") {
        settings.protected_from_deletion = protected;
    }
    if let Some(tracing) = arguments.flag("tracing") {
        settings.tracing = tracing;
    }
    Ok(())
}

fn permissions(broker: &Broker, command: &str, arguments: &Arguments<'_>) -> Option<Outcome> {
    Some(match command {
        "set_permissions" => (|| {
            done(broker.set_permissions(
                arguments.text("vhost")?,
                arguments.text("user")?,
                arguments.text("configure")?,
                arguments.text("write")?,
                arguments.text("read")?,
            ))
        })(),
        "clear_permissions" => (|| {
            let (vhost, user) = (arguments.text("vhost")?, arguments.text("user")?);
            done(broker.clear_permissions(vhost, user).map(drop))
        })(),
        "list_permissions" | "list_user_permissions" => (|| {
            let wanted = tenant(broker, arguments)?;
            Ok(broker
                .permissions()
                .iter()
                .filter(|one| wanted(&one.vhost, &one.user))
                .map(|one| {
                    json!({
                        "vhost": *one.vhost, "user": *one.user,
                        "configure": one.configure, "write": one.write, "read": one.read,
                    })
                })
                .collect())
        })(),
        "set_topic_permissions" => (|| {
            done(broker.set_topic_permissions(
                arguments.text("vhost")?,
                arguments.text("user")?,
                arguments.text("exchange")?,
                arguments.text("write")?,
                arguments.text("read")?,
            ))
        })(),
        "clear_topic_permissions" => (|| {
            let (vhost, user) = (arguments.text("vhost")?, arguments.text("user")?);
            let exchange = arguments.optional("exchange")?;
            done(
                broker
                    .clear_topic_permissions(vhost, user, exchange)
                    .map(drop),
            )
        })(),
        "list_topic_permissions" | "list_user_topic_permissions" => (|| {
            let wanted = tenant(broker, arguments)?;
            Ok(broker
                .topic_permissions()
                .iter()
                .filter(|one| wanted(&one.vhost, &one.user))
                .map(|one| {
                    json!({
                        "vhost": *one.vhost, "user": *one.user, "exchange": *one.exchange,
                        "write": one.write, "read": one.read,
                    })
                })
                .collect())
        })(),
        _ => return None,
    })
}

/// Whose permissions are asked for: of a virtual host, of a user, or of all.
fn tenant<'a>(
    broker: &Broker,
    arguments: &Arguments<'a>,
) -> Result<impl Fn(&str, &str) -> bool + 'a, Refusal> {
    let (vhost, user) = (arguments.optional("vhost")?, arguments.optional("user")?);
    if let Some(name) = vhost
        && broker.vhost(name).is_none()
    {
        return Err(refused(TenantError::NoSuchVhost(name.to_owned())));
    }
    if let Some(name) = user
        && broker.user(name).is_none()
    {
        return Err(refused(TenantError::NoSuchUser(name.to_owned())));
    }
    Ok(move |of_vhost: &str, of_user: &str| {
        vhost.is_none_or(|vhost| vhost == of_vhost) && user.is_none_or(|user| user == of_user)
    })
}
