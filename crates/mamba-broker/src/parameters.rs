//! Runtime parameters of a virtual host (`spec: semantics §24`).
//!
//! `vhost-limits` are its limits, `operator_policy` its operator policies, both as `list_parameters` shows them. What
//! belongs to extensions this broker does not have is kept and given back.

use mamba_store::{DefinitionChange, ParameterDefinition};
use serde_json::{Value, json};

use mamba_policy::Scope;

use crate::{
    broker::Broker,
    tenants::{TenantError, read_vhost_limits, vhost_limits_json},
};

/// Components of extensions.
const EXTENSIONS: [&str; 4] = [
    "federation",
    "federation-upstream",
    "federation-upstream-set",
    "shovel",
];
/// The component of limits, and the one name it has.
const LIMITS: (&str, &str) = ("vhost-limits", "limits");
/// Octets of a parameter's name.
const NAME_MAX: usize = 255;

/// A runtime parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Who it is for.
    pub component: String,
    /// Its name inside the component.
    pub name: String,
    /// What it is set to.
    pub value: Value,
}

impl Broker {
    /// The runtime parameters of a virtual host but policies: limits, operator policies, those of extensions.
    ///
    /// # Errors
    /// [`TenantError::NoSuchVhost`].
    pub fn parameters(&self, vhost: &str) -> Result<Vec<Parameter>, TenantError> {
        let vhost = self.known_vhost(vhost)?;
        let mut parameters = Vec::new();
        let limits = vhost_limits_json(&vhost.settings().limits);
        if !limits.is_empty() {
            parameters.push(Parameter {
                component: LIMITS.0.to_owned(),
                name: LIMITS.1.to_owned(),
                value: limits.into(),
            });
        }
        for policy in vhost.policies().iter() {
            if policy.scope() == Scope::OperatorPolicy {
                parameters.push(Parameter {
                    component: "operator_policy".to_owned(),
                    name: policy.name().to_owned(),
                    value: json!({
                        "pattern": policy.pattern().text(),
                        "definition": policy.definition(),
                        "priority": policy.priority_json(),
                        "apply-to": policy.apply_to().name(),
                    }),
                });
            }
        }
        let own = vhost.parameters.read();
        parameters.extend(own.iter().map(|((component, name), value)| Parameter {
            component: component.clone(),
            name: name.clone(),
            value: value.clone(),
        }));
        Ok(parameters)
    }

    /// Sets a runtime parameter; returns whether it is new. Blocks until it is durable.
    ///
    /// # Errors
    /// [`TenantError::NoSuchVhost`], [`TenantError::NoSuchComponent`], [`TenantError::PolicyAsParameter`],
    /// [`TenantError::Limits`], [`TenantError::Name`].
    pub fn set_parameter(
        &self,
        vhost: &str,
        component: &str,
        name: &str,
        value: Value,
    ) -> Result<bool, TenantError> {
        if component == LIMITS.0 {
            let Some(limits) = value.as_object() else {
                return Err(TenantError::Limits("an object was expected".to_owned()));
            };
            let limits = read_vhost_limits(limits)?;
            let mut new = false;
            self.change_vhost(vhost, |settings| {
                new = vhost_limits_json(&settings.limits).is_empty();
                settings.limits = limits;
            })?;
            return Ok(new);
        }
        check_component(component)?;
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(TenantError::Name("a parameter's name has 1 to 255 octets"));
        }
        let changing = self.changing.lock();
        let known = self.known_vhost(vhost)?;
        let put = DefinitionChange::put(&ParameterDefinition {
            vhost: vhost.to_owned(),
            component: component.to_owned(),
            name: name.to_owned(),
            value: value.clone(),
        });
        self.tell_parameter(Some(vhost), component, name, Some(&value));
        let key = (component.to_owned(), name.to_owned());
        let before = known.parameters.write().insert(key, value);
        self.keep(changing, vec![put])?;
        Ok(before.is_none())
    }

    /// Takes a runtime parameter away. Blocks until that is durable.
    ///
    /// # Errors
    /// [`TenantError::NoSuchVhost`], [`TenantError::PolicyAsParameter`], [`TenantError::NoSuchParameter`].
    pub fn clear_parameter(
        &self,
        vhost: &str,
        component: &str,
        name: &str,
    ) -> Result<(), TenantError> {
        if (component, name) == LIMITS {
            let mut known = false;
            self.change_vhost(vhost, |settings| {
                let limits = std::mem::take(&mut settings.limits);
                known = !vhost_limits_json(&limits).is_empty();
            })?;
            return known.then_some(()).ok_or(TenantError::NoSuchParameter);
        }
        match check_component(component) {
            Err(TenantError::NoSuchComponent(_)) => return Err(TenantError::NoSuchParameter),
            other => other?,
        }
        let changing = self.changing.lock();
        let known = self.known_vhost(vhost)?;
        let key = (component.to_owned(), name.to_owned());
        known
            .parameters
            .write()
            .remove(&key)
            .ok_or(TenantError::NoSuchParameter)?;
        self.tell_parameter(Some(vhost), component, name, None);
        let delete = DefinitionChange::delete(&ParameterDefinition {
            vhost: vhost.to_owned(),
            component: key.0,
            name: key.1,
            ..ParameterDefinition::default()
        });
        self.keep(changing, vec![delete])
    }
}

fn check_component(component: &str) -> Result<(), TenantError> {
    match component {
        "policy" | "operator_policy" => Err(TenantError::PolicyAsParameter),
        known if EXTENSIONS.contains(&known) => Ok(()),
        other => Err(TenantError::NoSuchComponent(other.to_owned())),
    }
}
