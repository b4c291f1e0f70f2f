//! What a command needs, read out of a request; what it comes to, as an answer.

use mamba_auth::{HashAlgorithm, PasswordHash, Tags};
use mamba_broker::tenants::{NewPassword, TenantError};
use serde_json::{Map, Value, json};

use super::{Outcome, Refusal};

/// What came beside the command.
pub(super) struct Arguments<'a>(&'a Map<String, Value>);

impl<'a> Arguments<'a> {
    pub(super) const fn of(arguments: &'a Map<String, Value>) -> Self {
        Self(arguments)
    }

    /// Any JSON; null when it is absent.
    pub(super) fn value(&self, name: &str) -> &'a Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }

    pub(super) fn text(&self, name: &str) -> Result<&'a str, Refusal> {
        self.optional(name)?.ok_or_else(|| {
            Refusal::new(
                "bad_request",
                format!("the command needs a string {name:?}"),
            )
        })
    }

    pub(super) fn optional(&self, name: &str) -> Result<Option<&'a str>, Refusal> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Refusal::new(
                "bad_request",
                format!("{name:?} has to be a string"),
            )),
        }
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.0.get(name).and_then(Value::as_bool)
    }

    pub(super) fn list(&self, name: &str) -> Result<Option<Vec<&'a str>>, Refusal> {
        let refusal = || {
            Refusal::new(
                "bad_request",
                format!("{name:?} has to be a list of strings"),
            )
        };
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| item.as_str().ok_or_else(refusal))
                .collect::<Result<_, _>>()
                .map(Some),
            Some(_) => Err(refusal()),
        }
    }

    pub(super) fn object(&self, name: &str) -> Result<&'a Map<String, Value>, Refusal> {
        let value = self.0.get(name).and_then(Value::as_object);
        value.ok_or_else(|| {
            Refusal::new(
                "bad_request",
                format!("the command needs an object {name:?}"),
            )
        })
    }

    pub(super) fn tags(&self) -> Result<Tags, Refusal> {
        Tags::new(self.list("tags")?.unwrap_or_default()).map_err(|error| refused(error.into()))
    }

    pub(super) fn password(&self) -> Result<NewPassword<'a>, Refusal> {
        if let Some(hash) = self.optional("password_hash")? {
            let algorithm = match self.optional("hashing_algorithm")? {
                None => HashAlgorithm::default(),
                Some(name) => HashAlgorithm::by_name(name).ok_or_else(|| {
                    Refusal::new("bad_request", format!("unknown hashing algorithm {name:?}"))
                })?,
            };
            return PasswordHash::from_text(algorithm, hash)
                .map(NewPassword::Hashed)
                .map_err(|error| refused(error.into()));
        }
        self.text("password").map(NewPassword::Plain)
    }
}

/// Why the broker did not do it.
pub(super) fn refused(error: TenantError) -> Refusal {
    let code = match &error {
        TenantError::UserExists(_) => "exists",
        TenantError::NoSuchUser(_) => "no_such_user",
        TenantError::NoSuchVhost(_) => "no_such_vhost",
        TenantError::NoSuchParameter => "no_such_parameter",
        TenantError::Policy(_) => "invalid_policy",
        TenantError::Pattern(_) => "invalid_pattern",
        TenantError::Limits(_) => "invalid_limits",
        TenantError::NoSuchComponent(_) | TenantError::PolicyAsParameter => "invalid_parameter",
        TenantError::TooManyVhosts { .. } => "limit",
        TenantError::QueueType(_) => "invalid_queue_type",
        TenantError::Protected(_) => "protected",
        TenantError::Name(_) | TenantError::Tags(_) | TenantError::Hash(_) => "bad_request",
        TenantError::Storage(_) | TenantError::Random(_) => "failed",
    };
    Refusal::new(code, error.to_string())
}

/// Done, with nothing to tell.
pub(super) fn done(outcome: Result<(), TenantError>) -> Outcome {
    outcome.map(|()| json!({})).map_err(refused)
}
