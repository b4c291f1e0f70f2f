//! Policies and operator policies: set, stored, and applied to what is there (`spec: semantics §23`).
//!
//! What is declared from the change on follows it at once; what was there is told afterwards, one queue after the other,
//! without a lock over all of them. Once a method returns, all of them know and the change is durable.

use std::sync::Arc;

use mamba_policy::{Definition, ObjectKind, Policy, PolicySet, Scope};
use mamba_routing::RoutingTable;
use mamba_store::{DefinitionChange, PolicyDefinition, PolicyScope};
use mamba_types::FieldTable;
use serde_json::json;

use crate::{
    arguments,
    broker::Broker,
    queue_cell::{QueueCell, QueueRef},
    tenants::TenantError,
    vhost::Vhost,
};

/// Octets of a policy's name.
const NAME_MAX: usize = 255;
/// Exchanges told of new policies under one lock of the routing table.
const EXCHANGES_AT_ONCE: usize = 256;

/// Which policies an object follows, and what they say together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FollowedPolicies {
    /// Name of the policy.
    pub policy: Option<String>,
    /// Name of the operator policy.
    pub operator_policy: Option<String>,
    /// `effective_policy_definition` of the HTTP API.
    pub definition: Definition,
}

impl Vhost {
    /// The policies a queue follows.
    #[must_use]
    pub fn policies_of_queue(&self, queue: &QueueCell) -> FollowedPolicies {
        let queue_type = arguments::queue_type(queue.declaration.settings.kind);
        self.policies_of(&queue.name, ObjectKind::Queue(queue_type))
    }

    /// The policies an exchange of this name follows; an operator policy says nothing to exchanges.
    #[must_use]
    pub fn policies_of_exchange(&self, name: &str) -> FollowedPolicies {
        self.policies_of(name, ObjectKind::Exchange)
    }

    fn policies_of(&self, name: &str, kind: ObjectKind) -> FollowedPolicies {
        let policies = self.policies();
        let applied = policies.matching(name, kind);
        let name_of = |policy: Option<&Policy>| policy.map(|policy| policy.name().to_owned());
        FollowedPolicies {
            policy: name_of(applied.policy),
            operator_policy: name_of(applied.operator),
            definition: applied.definition(),
        }
    }

    /// Tells everything that is there of the policies that hold now.
    pub(crate) fn apply_policies(&self) {
        let _applying = self.applying.lock();
        let policies = self.policies();
        let exchanges: Vec<Arc<str>> = self
            .table
            .read()
            .exchanges()
            .map(|exchange| Arc::clone(&exchange.spec().name))
            .collect();
        for some in exchanges.chunks(EXCHANGES_AT_ONCE) {
            let mut table = self.table.write();
            for name in some {
                apply_to_exchange(&policies, &mut table, name);
            }
        }
        for queue in self.queues() {
            queue.apply_policies(&policies);
        }
    }
}

/// Gives an exchange the alternate exchange its policy says. Its own argument wins over it, and the default exchange
/// has none.
pub(crate) fn apply_to_exchange(
    policies: &PolicySet,
    table: &mut RoutingTable<QueueRef>,
    name: &str,
) {
    if name.is_empty() {
        return;
    }
    let alternate = policies.alternate_exchange(name, &FieldTable::default());
    table.set_policy_alternate(name, alternate.map(|alternate| alternate.value.into()));
}

/// Policies.
impl Broker {
    /// Sets a policy or operator policy, a new one or in place of the one of its scope and name; returns whether it is
    /// new. It applies to what it matches before this returns. `unix_ms` is the time, in milliseconds since 1970: queues
    /// that it gives a time to live begin it now. Blocks until the change is durable.
    ///
    /// # Errors
    /// [`TenantError::NoSuchVhost`], [`TenantError::Name`], [`TenantError::Storage`].
    pub fn set_policy(
        &self,
        vhost: &str,
        policy: Policy,
        unix_ms: u64,
    ) -> Result<bool, TenantError> {
        if policy.name().is_empty() || policy.name().len() > NAME_MAX {
            return Err(TenantError::Name("a policy's name has 1 to 255 octets"));
        }
        let (name, scope) = (policy.name().to_owned(), policy.scope());
        let put = DefinitionChange::put(&policy_definition(vhost, &policy));
        let new = self.change_policies(vhost, unix_ms, vec![put], |policies| {
            self.tell_policy_set(vhost, &policy);
            Ok(policies.set(policy).is_none())
        })?;
        tracing::info!(vhost, policy = name, ?scope, new, "policy set");
        Ok(new)
    }

    /// Sets several policies of a virtual host at once.
    pub(crate) fn set_policies(
        &self,
        vhost: &str,
        new: Vec<Policy>,
        unix_ms: u64,
    ) -> Result<(), TenantError> {
        let definitions = new.iter().map(|policy| policy_definition(vhost, policy));
        let puts = definitions.map(|definition| DefinitionChange::put(&definition));
        self.change_policies(vhost, unix_ms, puts.collect(), |policies| {
            for policy in new {
                self.tell_policy_set(vhost, &policy);
                policies.set(policy);
            }
            Ok(())
        })
    }

    /// Takes a policy or operator policy away; what followed it follows the next one that matches, or none. Blocks until
    /// the change is durable.
    ///
    /// # Errors
    /// [`TenantError::NoSuchVhost`], [`TenantError::NoSuchParameter`], [`TenantError::Storage`].
    pub fn clear_policy(
        &self,
        vhost: &str,
        scope: Scope,
        name: &str,
        unix_ms: u64,
    ) -> Result<(), TenantError> {
        let delete = DefinitionChange::delete(&PolicyDefinition {
            vhost: vhost.to_owned(),
            scope: stored_scope(scope),
            name: name.to_owned(),
            ..PolicyDefinition::default()
        });
        self.change_policies(vhost, unix_ms, vec![delete], |policies| {
            policies
                .clear(scope, name)
                .map(drop)
                .ok_or(TenantError::NoSuchParameter)
        })?;
        tracing::info!(vhost, policy = name, ?scope, "policy cleared");
        let told = match scope {
            Scope::Policy => "policy.cleared",
            Scope::OperatorPolicy => "operator.policy.cleared",
        };
        self.tell(told, |event| {
            event.text("name", name).text("vhost", vhost).actor();
        });
        Ok(())
    }

    fn tell_policy_set(&self, vhost: &str, policy: &Policy) {
        self.tell("policy.set", |event| {
            event
                .text("name", policy.name())
                .text("vhost", vhost)
                .text("pattern", policy.pattern().text())
                .json("definition", &json!(policy.definition()))
                .json("priority", &json!(policy.priority_json()))
                .text("apply-to", policy.apply_to().name())
                .actor();
        });
    }

    fn change_policies<R>(
        &self,
        vhost: &str,
        unix_ms: u64,
        stored: Vec<DefinitionChange>,
        change: impl FnOnce(&mut PolicySet) -> Result<R, TenantError>,
    ) -> Result<R, TenantError> {
        let changing = self.changing.lock();
        let vhost = self.known_vhost(vhost)?;
        let mut policies = PolicySet::clone(&vhost.policies());
        let result = change(&mut policies)?;
        vhost.set_policies(policies);
        let pending = self.store.0.definitions().begin(stored);
        drop(changing);
        vhost.set_time(unix_ms);
        vhost.apply_policies();
        pending.wait()?;
        Ok(result)
    }
}

const fn stored_scope(scope: Scope) -> PolicyScope {
    match scope {
        Scope::Policy => PolicyScope::Policy,
        Scope::OperatorPolicy => PolicyScope::OperatorPolicy,
    }
}

/// As it is stored.
pub(crate) fn policy_definition(vhost: &str, policy: &Policy) -> PolicyDefinition {
    PolicyDefinition {
        vhost: vhost.to_owned(),
        scope: stored_scope(policy.scope()),
        name: policy.name().to_owned(),
        body: json!({
            "pattern": policy.pattern().text(),
            "definition": policy.definition(),
            "apply-to": policy.apply_to().name(),
            "priority": policy.priority_json(),
        }),
    }
}

/// The policies that were stored. What cannot be read is logged and left out.
pub(crate) fn stored(definitions: &[PolicyDefinition]) -> PolicySet {
    let mut policies = PolicySet::default();
    for stored in definitions {
        let scope = match stored.scope {
            PolicyScope::Policy => Scope::Policy,
            PolicyScope::OperatorPolicy => Scope::OperatorPolicy,
        };
        match Policy::from_json(scope, &stored.name, &stored.body) {
            Ok(policy) => drop(policies.set(policy)),
            Err(error) => {
                tracing::error!(vhost = %stored.vhost, policy = %stored.name, %error, "a stored policy cannot be read and is left out");
            }
        }
    }
    policies
}
