//! What `connection.start-ok` says about the client (`spec: wire §6, §7`).

use mamba_codec::{check_table, table_get};
use mamba_types::{FieldTable, FieldValue, HardError, Limits, Violation};

use crate::event::{Capabilities, Credentials, Secret};

/// Reads a SASL response. `mechanism` is one of those offered.
pub(crate) fn credentials(
    mechanism: &str,
    response: &[u8],
    limits: &Limits,
) -> Result<Credentials, Violation> {
    let read = match mechanism {
        "PLAIN" => plain(response),
        "AMQPLAIN" => amqplain(response, limits),
        "EXTERNAL" => Some(Credentials::External),
        "ANONYMOUS" => Some(Credentials::Anonymous),
        _ => None,
    };
    // The response itself holds a password and must not be repeated.
    read.ok_or_else(|| {
        Violation::connection(
            HardError::SyntaxError,
            format!("the response for authentication mechanism {mechanism} is malformed"),
        )
    })
}

/// NUL user NUL password.
fn plain(response: &[u8]) -> Option<Credentials> {
    let (&0, rest) = response.split_first()? else {
        return None;
    };
    let mut parts = rest.split(|octet| *octet == 0);
    let (user, password) = (parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    password_login(user, password)
}

/// A field table without its length word.
fn amqplain(response: &[u8], limits: &Limits) -> Option<Credentials> {
    check_table(response, limits).ok()?;
    let text = |name: &[u8]| {
        let value = table_get(response, name)?;
        matches!(value.tag, b'S' | b'x').then_some(value.octets)
    };
    password_login(text(b"LOGIN")?, text(b"PASSWORD")?)
}

fn password_login(user: &[u8], password: &[u8]) -> Option<Credentials> {
    Some(Credentials::Password {
        user: std::str::from_utf8(user).ok()?.to_owned(),
        password: Secret(password.to_vec()),
    })
}

/// The capabilities in a client's properties table.
pub(crate) fn capabilities(client_properties: &FieldTable) -> Capabilities {
    let Some(FieldValue::FieldTable(table)) = client_properties.inner().get("capabilities") else {
        return Capabilities::default();
    };
    let has = |name: &str| matches!(table.inner().get(name), Some(FieldValue::Boolean(true)));
    Capabilities {
        authentication_failure_close: has("authentication_failure_close"),
        consumer_cancel_notify: has("consumer_cancel_notify"),
        connection_blocked: has("connection.blocked"),
    }
}
