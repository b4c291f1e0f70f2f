//! Users, virtual hosts, permissions and limits.

use serde_json::{Map, Value, json};

use super::{
    Done, EX_DATAERR, EX_NOUSER, EX_UNAVAILABLE, EX_USAGE, Failure, Invocation, Node, output,
};

/// The commands of this file and how they are called.
pub(super) const COMMANDS: [(&str, &str); 31] = [
    (
        "add_user",
        "add_user <username> [<password>] [--pre-hashed-password]",
    ),
    ("delete_user", "delete_user <username>"),
    ("change_password", "change_password <username> [<password>]"),
    ("clear_password", "clear_password <username>"),
    (
        "authenticate_user",
        "authenticate_user <username> [<password>]",
    ),
    ("hash_password", "hash_password <password>"),
    ("set_user_tags", "set_user_tags <username> <tag> [...]"),
    ("list_users", "list_users [--formatter <formatter>]"),
    ("set_user_limits", "set_user_limits <username> <definition>"),
    (
        "clear_user_limits",
        "clear_user_limits <username> <limit_type> | all",
    ),
    (
        "list_user_limits",
        "list_user_limits [--user <username>] [--global]",
    ),
    (
        "add_vhost",
        "add_vhost <vhost> [--description <description>] [--tags \"<tag1>,<tag2>\"] [--default-queue-type <quorum|classic|stream>]",
    ),
    (
        "update_vhost_metadata",
        "update_vhost_metadata <vhost> [--description <description>] [--tags \"<tag1>,<tag2>\"] [--default-queue-type <type>] [--protected-from-deletion <true|false>]",
    ),
    (
        "enable_vhost_deletion_protection",
        "enable_vhost_deletion_protection <vhost>",
    ),
    (
        "disable_vhost_deletion_protection",
        "disable_vhost_deletion_protection <vhost>",
    ),
    ("delete_vhost", "delete_vhost <vhost>"),
    ("list_vhosts", "list_vhosts [<column> ...]"),
    ("trace_on", "trace_on [--vhost <vhost>]"),
    ("trace_off", "trace_off [--vhost <vhost>]"),
    (
        "set_vhost_limits",
        "set_vhost_limits [--vhost <vhost>] <definition>",
    ),
    ("clear_vhost_limits", "clear_vhost_limits [--vhost <vhost>]"),
    (
        "list_vhost_limits",
        "list_vhost_limits [--vhost <vhost>] [--global]",
    ),
    (
        "set_permissions",
        "set_permissions [--vhost <vhost>] <username> <conf> <write> <read>",
    ),
    (
        "set_permissions_globally",
        "set_permissions_globally <username> <conf> <write> <read>",
    ),
    (
        "clear_permissions",
        "clear_permissions [--vhost <vhost>] <username>",
    ),
    ("list_permissions", "list_permissions [--vhost <vhost>]"),
    ("list_user_permissions", "list_user_permissions <username>"),
    (
        "set_topic_permissions",
        "set_topic_permissions [--vhost <vhost>] <username> <exchange> <write> <read>",
    ),
    (
        "clear_topic_permissions",
        "clear_topic_permissions [--vhost <vhost>] <username> [<exchange>]",
    ),
    (
        "list_topic_permissions",
        "list_topic_permissions [--vhost <vhost>]",
    ),
    (
        "list_user_topic_permissions",
        "list_user_topic_permissions <username>",
    ),
];

/// Columns `list_vhosts` knows.
const VHOST_COLUMNS: [&str; 7] = [
    "name",
    "tracing",
    "description",
    "tags",
    "default_queue_type",
    "protected_from_deletion",
    "cluster_state",
];

/// Commands that need no broker.
pub(super) fn without_node(invocation: &Invocation) -> Option<Done> {
    (invocation.command == "hash_password").then(|| {
        let password = invocation.secret(invocation.words.first().map(String::as_str))?;
        let hash = mamba_broker::tenants::hash_with_fresh_salt(&password)
            .map_err(|error| Failure::error(EX_UNAVAILABLE, error))?;
        invocation.banner(&format!("Will hash password {password}"));
        output::message(invocation, &hash);
        Ok(())
    })
}

/// Does one command.
pub(super) fn perform(node: &mut Node, invocation: &Invocation) -> Done {
    match invocation.command.as_str() {
        "add_user" | "delete_user" | "change_password" | "clear_password" | "authenticate_user"
        | "set_user_tags" | "list_users" => users(node, invocation),
        "set_user_limits" | "clear_user_limits" | "list_user_limits" => {
            user_limits(node, invocation)
        }
        "set_vhost_limits" | "clear_vhost_limits" | "list_vhost_limits" => {
            vhost_limits(node, invocation)
        }
        "trace_on" | "trace_off" => trace(node, invocation),
        command if command.contains("vhost") => vhosts(node, invocation),
        command if command.contains("topic") => topics(node, invocation),
        _ => permissions(node, invocation),
    }
}

fn users(node: &mut Node, invocation: &Invocation) -> Done {
    let banner = |text: String| invocation.banner(&text);
    let (name, rest) = match invocation.words.split_first() {
        Some((name, rest)) => (name.as_str(), rest),
        None => ("", &[][..]),
    };
    let command = invocation.command.as_str();
    if name.is_empty() && command != "list_users" {
        return Err(invocation.wrong_count(true));
    }
    match command {
        "add_user" => {
            if rest.len() > 1 {
                return Err(invocation.wrong_count(false));
            }
            banner(format!("Adding user \"{name}\" ..."));
            let secret = invocation.secret(rest.first().map(String::as_str))?;
            let mut arguments = json!({"name": name});
            let hashed = invocation.has("pre-hashed-password");
            let field = if hashed { "password_hash" } else { "password" };
            arguments[field] = secret.into();
            node.ask("add_user", arguments)?;
            banner("Done. Don't forget to grant the user permissions to some virtual hosts! See 'mambamq ctl help' to learn more.".to_owned());
        }
        "delete_user" => {
            invocation.exactly::<1>()?;
            banner(format!("Deleting user \"{name}\" ..."));
            if let Err(refused) = node.try_ask("delete_user", json!({"name": name}))?
                // Who is gone is gone.
                && refused.code != "no_such_user"
            {
                return Err(Failure::error(EX_UNAVAILABLE, refused.message));
            }
        }
        "change_password" => {
            if rest.len() > 1 {
                return Err(invocation.wrong_count(false));
            }
            banner(format!("Changing password for user \"{name}\" ..."));
            let secret = invocation.secret(rest.first().map(String::as_str))?;
            node.ask(command, json!({"name": name, "password": secret}))?;
        }
        "clear_password" => {
            invocation.exactly::<1>()?;
            banner(format!("Clearing password for user \"{name}\" ..."));
            node.ask(command, json!({"name": name}))?;
        }
        "authenticate_user" => {
            if rest.len() > 1 {
                return Err(invocation.wrong_count(false));
            }
            banner(format!("Authenticating user \"{name}\" ..."));
            let secret = invocation.secret(rest.first().map(String::as_str))?;
            match node.try_ask(command, json!({"name": name, "password": secret}))? {
                Ok(_) => output::message(invocation, "Success"),
                Err(refused) => {
                    let reason = match refused.message.as_str() {
                        "wrong name or password" => "invalid credentials",
                        other => other,
                    };
                    return Err(Failure::error(
                        EX_DATAERR,
                        format!(
                            "Error: failed to authenticate user \"{name}\"\nuser '{name}' - {reason}"
                        ),
                    ));
                }
            }
        }
        "set_user_tags" => {
            let tags = rest.join(", ");
            banner(format!("Setting tags for user \"{name}\" to [{tags}] ..."));
            node.ask(command, json!({"name": name, "tags": rest}))?;
        }
        _ => {
            invocation.exactly::<0>()?;
            banner("Listing users ...".to_owned());
            let users = node.ask("list_users", Value::Null)?;
            output::list(
                invocation,
                &[("user", "user"), ("tags", "tags")],
                output::rows(&users),
            );
        }
    }
    Ok(())
}

/// RabbitMQ's tool starts tracing of a virtual host that is not there without a word; here it is an error.
fn trace(node: &mut Node, invocation: &Invocation) -> Done {
    let vhost = invocation.vhost();
    invocation.exactly::<0>()?;
    let on = invocation.command == "trace_on";
    let (doing, done) = match on {
        true => ("Starting", "enabled"),
        false => ("Stopping", "disabled"),
    };
    invocation.banner(&format!("{doing} tracing for vhost \"{vhost}\" ..."));
    node.ask(
        "update_vhost_metadata",
        json!({"name": vhost, "tracing": on}),
    )?;
    output::message(invocation, &format!("Trace {done} for vhost {vhost}"));
    Ok(())
}

fn user_limits(node: &mut Node, invocation: &Invocation) -> Done {
    let banner = |text: String| invocation.banner(&text);
    match invocation.command.as_str() {
        "set_user_limits" => {
            let [user, limits] = invocation.exactly()?;
            banner(format!(
                "Setting user limits to \"{limits}\" for user \"{user}\" ..."
            ));
            let limits = output::json_object(limits)?;
            node.ask("set_user_limits", json!({"name": user, "limits": limits}))?;
        }
        "clear_user_limits" => {
            let [user, limit] = invocation.exactly()?;
            banner(if limit == "all" {
                format!("Clearing all limits for user \"{user}\" ...")
            } else {
                format!("Clearing \"{limit}\" limit for user \"{user}\" ...")
            });
            node.ask("clear_user_limits", json!({"name": user, "limit": limit}))?;
        }
        _ => {
            invocation.exactly::<0>()?;
            let answer = |node: &mut Node| node.ask("list_users", Value::Null);
            if invocation.has("global") {
                banner("Listing limits for all users ...".to_owned());
                list_limits(invocation, &answer(node)?, "user", "user");
            } else {
                let user = invocation.option("user").unwrap_or("guest");
                banner(format!("Listing limits for user \"{user}\" ..."));
                let missing = format!("User \"{user}\" does not exist");
                show_limits(invocation, &answer(node)?, "user", user)
                    .ok_or_else(|| Failure::error(EX_NOUSER, missing))?;
            }
        }
    }
    Ok(())
}

fn vhost_limits(node: &mut Node, invocation: &Invocation) -> Done {
    let banner = |text: String| invocation.banner(&text);
    let vhost = invocation.vhost();
    match invocation.command.as_str() {
        "set_vhost_limits" => {
            let [limits] = invocation.exactly()?;
            banner(format!(
                "Setting vhost limits to \"{limits}\" for vhost \"{vhost}\" ..."
            ));
            let limits = output::json_object(limits)?;
            node.ask("set_vhost_limits", json!({"name": vhost, "limits": limits}))?;
        }
        "clear_vhost_limits" => {
            invocation.exactly::<0>()?;
            banner(format!("Clearing vhost \"{vhost}\" limits ..."));
            node.ask("clear_vhost_limits", json!({"name": vhost}))?;
        }
        _ => {
            invocation.exactly::<0>()?;
            let answer = |node: &mut Node| node.ask("list_vhosts", Value::Null);
            if invocation.has("global") {
                banner("Listing limits for all vhosts ...".to_owned());
                list_limits(invocation, &answer(node)?, "vhost", "name");
            } else {
                banner(format!("Listing limits for vhost \"{vhost}\" ..."));
                let missing = format!("Virtual host '{vhost}' does not exist");
                show_limits(invocation, &answer(node)?, "name", vhost)
                    .ok_or_else(|| Failure::new(EX_DATAERR, missing))?;
            }
        }
    }
    Ok(())
}

/// Those who have limits, the limits as a text of JSON.
fn list_limits(invocation: &Invocation, answer: &Value, heading: &str, key: &str) {
    let with_limits: Vec<Value> = output::rows(answer)
        .iter()
        .filter(|row| row["limits"] != json!({}))
        .map(|row| json!({key: row[key], "limits": row["limits"].to_string()}))
        .collect();
    output::list(
        invocation,
        &[(heading, key), ("limits", "limits")],
        &with_limits,
    );
}

fn show_limits(invocation: &Invocation, answer: &Value, key: &str, name: &str) -> Option<()> {
    let row = output::rows(answer).iter().find(|row| row[key] == name)?;
    output::message(invocation, &row["limits"].to_string());
    Some(())
}

fn vhosts(node: &mut Node, invocation: &Invocation) -> Done {
    let banner = |text: String| invocation.banner(&text);
    let command = invocation.command.as_str();
    if command == "list_vhosts" {
        return list_vhosts(node, invocation);
    }
    let [vhost] = invocation.exactly()?;
    let mut arguments = Map::from_iter([("name".to_owned(), Value::from(vhost))]);
    if let Some(description) = invocation.option("description") {
        arguments.insert("description".to_owned(), description.into());
    }
    if let Some(tags) = invocation.option("tags") {
        let tags = tags.split(',').map(str::trim).filter(|tag| !tag.is_empty());
        arguments.insert("tags".to_owned(), tags.collect());
    }
    if let Some(kind) = invocation.option("default-queue-type") {
        arguments.insert("default_queue_type".to_owned(), kind.into());
    }
    let mut protect = |on: bool| arguments.insert("protected_from_deletion".to_owned(), on.into());
    let asked = match command {
        "add_vhost" => {
            banner(format!("Adding vhost \"{vhost}\" ..."));
            command
        }
        "delete_vhost" => {
            banner(format!("Deleting vhost \"{vhost}\" ..."));
            command
        }
        "enable_vhost_deletion_protection" => {
            banner(format!(
                "Protecting virtual host \"{vhost}\" from removal ..."
            ));
            protect(true);
            "update_vhost_metadata"
        }
        "disable_vhost_deletion_protection" => {
            banner(format!(
                "Removing deletion protection of virtual host \"{vhost}\" ..."
            ));
            protect(false);
            "update_vhost_metadata"
        }
        _ => {
            match invocation.option("protected-from-deletion") {
                None => {}
                Some("true") => drop(protect(true)),
                Some("false") => drop(protect(false)),
                Some(other) => {
                    let text = format!(
                        "Error (argument validation): --protected-from-deletion is true or false, not '{other}'"
                    );
                    return Err(Failure::new(EX_USAGE, text));
                }
            }
            banner(format!("Updating metadata of vhost \"{vhost}\" ..."));
            command
        }
    };
    node.ask(asked, Value::Object(arguments)).map(drop)
}

fn list_vhosts(node: &mut Node, invocation: &Invocation) -> Done {
    let asked: Vec<&str> = invocation.words.iter().map(String::as_str).collect();
    let columns = if asked.is_empty() {
        vec!["name"]
    } else {
        asked
    };
    let unknown: Vec<&str> = columns
        .iter()
        .copied()
        .filter(|column| !VHOST_COLUMNS.contains(column))
        .collect();
    if !unknown.is_empty() {
        return Err(Failure::new(
            EX_USAGE,
            format!(
                "Error (argument validation): Info key(s) {} are not supported",
                unknown.join(",")
            ),
        ));
    }
    invocation.banner("Listing vhosts ...");
    let mut vhosts = node.ask("list_vhosts", Value::Null)?;
    for vhost in vhosts.as_array_mut().into_iter().flatten() {
        vhost["cluster_state"] = "running".into();
    }
    let columns: Vec<(&str, &str)> = columns.iter().map(|name| (*name, *name)).collect();
    output::list(invocation, &columns, output::rows(&vhosts));
    Ok(())
}

const PERMISSION_COLUMNS: [(&str, &str); 4] = [
    ("user", "user"),
    ("configure", "configure"),
    ("write", "write"),
    ("read", "read"),
];

fn permissions(node: &mut Node, invocation: &Invocation) -> Done {
    let banner = |text: String| invocation.banner(&text);
    let vhost = invocation.vhost();
    match invocation.command.as_str() {
        "set_permissions" => {
            let [user, configure, write, read] = invocation.exactly()?;
            banner(format!(
                "Setting permissions for user \"{user}\" in vhost \"{vhost}\" ..."
            ));
            set(
                node,
                "set_permissions",
                json!({"vhost": vhost, "user": user, "configure": configure, "write": write, "read": read}),
            )?;
        }
        "set_permissions_globally" => {
            let [user, configure, write, read] = invocation.exactly()?;
            banner(format!(
                "Setting permissions for user \"{user}\" in all virtual hosts ..."
            ));
            let vhosts = node.ask("list_vhosts", Value::Null)?;
            for vhost in output::rows(&vhosts) {
                set(
                    node,
                    "set_permissions",
                    json!({"vhost": vhost["name"], "user": user, "configure": configure, "write": write, "read": read}),
                )?;
            }
        }
        "clear_permissions" => {
            let [user] = invocation.exactly()?;
            banner(format!(
                "Clearing permissions for user \"{user}\" in vhost \"{vhost}\" ..."
            ));
            node.ask("clear_permissions", json!({"vhost": vhost, "user": user}))?;
        }
        "list_permissions" => {
            invocation.exactly::<0>()?;
            banner(format!("Listing permissions for vhost \"{vhost}\" ..."));
            let found = node.ask("list_permissions", json!({"vhost": vhost}))?;
            output::list(invocation, &PERMISSION_COLUMNS, output::rows(&found));
        }
        _ => {
            let [user] = invocation.exactly()?;
            banner(format!("Listing permissions for user \"{user}\" ..."));
            let found = node.ask("list_user_permissions", json!({"user": user}))?;
            let mut columns = PERMISSION_COLUMNS;
            columns[0] = ("vhost", "vhost");
            output::list(invocation, &columns, output::rows(&found));
        }
    }
    Ok(())
}

/// These two name user and virtual host without quotes, and a missing virtual host is another code.
fn set(node: &mut Node, command: &str, arguments: Value) -> Done {
    let text = |key: &str| arguments[key].as_str().unwrap_or_default().to_owned();
    let (user, vhost) = (text("user"), text("vhost"));
    match node.try_ask(command, arguments)? {
        Ok(_) => Ok(()),
        Err(refused) => Err(match refused.code.as_str() {
            "no_such_user" => Failure::error(EX_NOUSER, format!("User {user} does not exist")),
            "no_such_vhost" => Failure::error(
                EX_UNAVAILABLE,
                format!("Virtual host {vhost} does not exist"),
            ),
            _ => Failure::error(EX_UNAVAILABLE, refused.message),
        }),
    }
}

fn topics(node: &mut Node, invocation: &Invocation) -> Done {
    let banner = |text: String| invocation.banner(&text);
    let vhost = invocation.vhost();
    let columns = [
        ("user", "user"),
        ("exchange", "exchange"),
        ("write", "write"),
        ("read", "read"),
    ];
    match invocation.command.as_str() {
        "set_topic_permissions" => {
            let [user, exchange, write, read] = invocation.exactly()?;
            banner(format!(
                "Setting topic permissions on \"{exchange}\" for user \"{user}\" in vhost \"{vhost}\" ..."
            ));
            set(
                node,
                "set_topic_permissions",
                json!({"vhost": vhost, "user": user, "exchange": exchange, "write": write, "read": read}),
            )?;
        }
        "clear_topic_permissions" => {
            let (user, exchange) = match invocation.words.as_slice() {
                [user] => (user, None),
                [user, exchange] => (user, Some(exchange)),
                words => return Err(invocation.wrong_count(words.is_empty())),
            };
            let on = exchange.map_or_else(String::new, |exchange| format!(" on \"{exchange}\""));
            banner(format!(
                "Clearing topic permissions{on} for user \"{user}\" in vhost \"{vhost}\" ..."
            ));
            node.ask(
                "clear_topic_permissions",
                json!({"vhost": vhost, "user": user, "exchange": exchange}),
            )?;
        }
        "list_topic_permissions" => {
            invocation.exactly::<0>()?;
            banner(format!(
                "Listing topic permissions for vhost \"{vhost}\" ..."
            ));
            let found = node.ask("list_topic_permissions", json!({"vhost": vhost}))?;
            output::list(invocation, &columns, output::rows(&found));
        }
        _ => {
            let [user] = invocation.exactly()?;
            banner(format!("Listing topic permissions for user \"{user}\" ..."));
            let found = node.ask("list_user_topic_permissions", json!({"user": user}))?;
            let mut columns = columns;
            columns[0] = ("vhost", "vhost");
            output::list(invocation, &columns, output::rows(&found));
        }
    }
    Ok(())
}
