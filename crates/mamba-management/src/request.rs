//! A request as handlers see it.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use mamba_auth::User;
use mamba_broker::{Account, Broker, Now, connection::Direct, vhost::Vhost};
use mamba_types::Violation;
use serde_json::{Map, Value, json};

use crate::{
    answer::Refusal,
    query::Query,
    rates::Rates,
    server::{Management, Node},
};

/// What a handler works with.
pub(crate) struct Request<'a> {
    pub(crate) management: &'a Arc<Management>,
    /// Who asks.
    pub(crate) account: Account,
    /// Names in the path, decoded.
    pub(crate) names: Vec<(&'static str, String)>,
    pub(crate) query: &'a Query,
    pub(crate) body: Bytes,
    /// `X-Reason`.
    pub(crate) reason: Option<String>,
    /// Where it comes from.
    pub(crate) peer: SocketAddr,
    pub(crate) now: Now,
}

impl Request<'_> {
    pub(crate) fn broker(&self) -> &Arc<Broker> {
        &self.management.broker
    }

    pub(crate) fn user(&self) -> &User {
        &self.account.user
    }

    pub(crate) fn node(&self) -> &Node {
        &self.management.node
    }

    pub(crate) fn rates(&self) -> &Rates {
        &self.management.rates
    }

    /// A name of the path; the route has it.
    pub(crate) fn name(&self, key: &str) -> &str {
        let found = self.names.iter().find(|(name, _)| *name == key);
        found.map_or("", |(_, value)| value)
    }

    /// The exchange of the path: the default one is called `amq.default` there.
    pub(crate) fn exchange(&self, key: &str) -> &str {
        match self.name(key) {
            "amq.default" => "",
            name => name,
        }
    }

    /// The virtual host of the path.
    ///
    /// # Errors
    /// 404.
    pub(crate) fn vhost(&self) -> Result<Arc<Vhost>, Refusal> {
        let vhost = self.broker().vhost(self.name("vhost"));
        vhost.ok_or_else(Refusal::missing)
    }

    /// Whether the user sees everybody's.
    pub(crate) fn is_monitor(&self) -> bool {
        is_monitor(self.user())
    }

    /// Whether the user sees what is in this virtual host.
    pub(crate) fn sees(&self, vhost: &str) -> bool {
        self.is_monitor() || self.broker().may_open(&self.account, vhost)
    }

    /// The virtual hosts the user sees, by name; only that of the path if it names one.
    ///
    /// # Errors
    /// 404 when the path's is not there.
    pub(crate) fn visible_vhosts(&self) -> Result<Vec<Arc<Vhost>>, Refusal> {
        if self.names.iter().any(|(name, _)| *name == "vhost") {
            return Ok(vec![self.vhost()?]);
        }
        let mut all = self.broker().vhosts();
        all.retain(|vhost| self.sees(&vhost.name));
        Ok(all)
    }

    /// Works in the path's virtual host in the user's name.
    ///
    /// # Errors
    /// 401 when it may not, 404 when there is no such virtual host.
    pub(crate) fn direct(&self) -> Result<Direct, Refusal> {
        let vhost = self.name("vhost");
        if self.broker().vhost(vhost).is_none() {
            return Err(Refusal::no_vhost());
        }
        self.broker()
            .direct(&self.account, vhost, self.peer, self.now)
            .map_err(|violation: Violation| {
                tracing::info!(user = %self.user().name, vhost, reason = %violation, "management request refused");
                Refusal::denied("Access refused.")
            })
    }

    /// The body's object; nothing, `null` and `undefined` are an empty one.
    ///
    /// # Errors
    /// 400 `not_json`.
    pub(crate) fn fields(&self) -> Result<Fields, Refusal> {
        let text = self.body.trim_ascii();
        if matches!(text, b"" | b"null" | b"undefined") {
            return Ok(Fields(Map::new()));
        }
        match serde_json::from_slice(text) {
            Ok(Value::Object(fields)) => Ok(Fields(fields)),
            _ => Err(Refusal::bad("not_json")),
        }
    }
}

/// Whether a user sees everybody's connections and virtual hosts.
pub(crate) fn is_monitor(user: &User) -> bool {
    user.tags.administrator() || user.tags.contains("monitoring")
}

/// A body's fields.
#[derive(Debug)]
pub(crate) struct Fields(pub(crate) Map<String, Value>);

impl Fields {
    /// Refuses a body in which one of these is missing.
    ///
    /// # Errors
    /// 400 naming all that are.
    pub(crate) fn require(&self, keys: &[&str]) -> Result<(), Refusal> {
        let missing: Vec<String> = keys
            .iter()
            .filter(|key| !self.0.contains_key(**key))
            .map(|key| format!("{{key_missing,{key}}}"))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Refusal::bad(format!("[{}]", missing.join(","))))
    }

    /// A text.
    ///
    /// # Errors
    /// 400 when it is something else.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, Refusal> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Refusal::bad(json!(["not_string", key]))),
        }
    }

    /// A text that has to be there; call [`Self::require`] first.
    ///
    /// # Errors
    /// 400 when it is something else.
    pub(crate) fn mandatory_text(&self, key: &str) -> Result<&str, Refusal> {
        self.text(key)?
            .ok_or_else(|| Refusal::bad(json!(["not_string", key])))
    }

    /// `true`, `false`, or these words.
    ///
    /// # Errors
    /// 400 when it is something else.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, Refusal> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(Value::String(text)) if text == "true" => Ok(Some(true)),
            Some(Value::String(text)) if text == "false" => Ok(Some(false)),
            Some(other) => Err(Refusal::bad(json!(["not_boolean", other]))),
        }
    }

    /// A whole number, or its digits.
    ///
    /// # Errors
    /// 400 when it is something else.
    pub(crate) fn integer(&self, key: &str) -> Result<Option<i64>, Refusal> {
        let refused = |other: &Value| Refusal::bad(json!(["not_integer", other]));
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value @ Value::Number(number)) => {
                number.as_i64().map(Some).ok_or_else(|| refused(value))
            }
            Some(value @ Value::String(text)) => text.parse().map(Some).map_err(|_| refused(value)),
            Some(other) => Err(refused(other)),
        }
    }

    /// An object; an empty array counts as one, as clients in some languages write it.
    ///
    /// # Errors
    /// 400 when it is something else.
    pub(crate) fn object(&self, key: &str) -> Result<Map<String, Value>, Refusal> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(Value::Object(fields)) => Ok(fields.clone()),
            Some(Value::Array(items)) if items.is_empty() => Ok(Map::new()),
            Some(_) => Err(Refusal::bad(json!(["not_object", key]))),
        }
    }

    /// An argument table.
    ///
    /// # Errors
    /// 400 for what has no place in one, such as null.
    pub(crate) fn arguments(&self, key: &str) -> Result<mamba_types::FieldTable, Refusal> {
        let fields = self.object(key)?;
        if fields.values().any(contains_null) {
            return Err(Refusal::bad("null_not_allowed"));
        }
        mamba_policy::table_from_json(&fields).map_err(Refusal::bad)
    }
}

fn contains_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(contains_null),
        Value::Object(fields) => fields.values().any(contains_null),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(value: Value) -> Fields {
        match value {
            Value::Object(fields) => Fields(fields),
            other => panic!("{other} is no object"),
        }
    }

    #[track_caller]
    fn refused<T: std::fmt::Debug>(outcome: Result<T, Refusal>, reason: Value) {
        assert_eq!(outcome.unwrap_err().reason, reason);
    }

    #[test]
    fn what_is_missing_is_named() {
        let body = fields(json!({"write": "x"}));
        assert!(body.require(&["write"]).is_ok());
        refused(
            body.require(&["configure", "write", "read"]),
            json!("[{key_missing,configure},{key_missing,read}]"),
        );
    }

    #[test]
    fn words_and_digits_count_as_values() {
        let body =
            fields(json!({"a": "true", "b": false, "c": "yes", "n": "5", "m": 1.5, "x": "y"}));
        assert_eq!(body.flag("a").unwrap(), Some(true));
        assert_eq!(body.flag("b").unwrap(), Some(false));
        assert_eq!(body.flag("nothing").unwrap(), None);
        refused(body.flag("c"), json!(["not_boolean", "yes"]));
        assert_eq!(body.integer("n").unwrap(), Some(5));
        refused(body.integer("m"), json!(["not_integer", 1.5]));
        refused(body.integer("x"), json!(["not_integer", "y"]));
    }

    #[test]
    fn arguments_have_no_nulls() {
        let body = fields(json!({"none": [], "bad": {"x": [null]}, "good": {"x": 1}, "list": [1]}));
        assert!(body.arguments("none").unwrap().inner().is_empty());
        assert_eq!(body.arguments("good").unwrap().inner().len(), 1);
        refused(body.arguments("bad"), json!("null_not_allowed"));
        refused(body.arguments("list"), json!(["not_object", "list"]));
    }
}
