//! Declaring, binding, deleting: the order of checks per method is `spec: errors §8`.

use std::sync::Arc;

use mamba_auth::{Resource, Right, TopicRight};
use mamba_codec::{AMQPClass, Output, protocol};
use mamba_queue::QueueKind;
use mamba_routing::{Binding, Destination, ExchangeSpec};
use mamba_types::{ChannelId, FieldTable, HardError, SoftError, Violation, table::ShortString};
use protocol::{exchange, queue};

use super::{
    Core, LoggedIn,
    consume::no_queue,
    publish::{REPLY_TO, reply_token},
};
use crate::{
    arguments::{self, Flags},
    broker::RemovedQueue,
    commit::Commit,
    outbox::ConsumerPort,
    queue_cell::{Declaration, QueueCell},
};

/// The type of exchange that topic permissions are about.
pub(crate) const TOPIC: &str = "topic";
/// Names only the broker gives out.
const RESERVED: &str = "amq.";

fn refused(text: impl Into<String>) -> Violation {
    Violation::channel(SoftError::AccessRefused, text)
}

fn precondition(text: impl Into<String>) -> Violation {
    Violation::channel(SoftError::PreconditionFailed, text)
}

fn not_for_clients() -> Violation {
    Violation::connection(HardError::CommandInvalid, "unimplemented method")
}

/// CR and LF are dropped from names (`spec: wire §8`).
fn cleaned(name: &ShortString) -> Arc<str> {
    let name = name.as_str();
    if name.contains(['\r', '\n']) {
        name.replace(['\r', '\n'], "").into()
    } else {
        name.into()
    }
}

/// The two ends of a bind or unbind.
struct Ends {
    binding: Binding,
    bind: bool,
}

impl Core {
    fn login(&self) -> Result<&LoggedIn, Violation> {
        self.login
            .as_ref()
            .ok_or_else(|| Violation::connection(HardError::NotAllowed, "no virtual host is open"))
    }

    pub(crate) fn check_right(
        &self,
        right: Right,
        resource: Resource<'_>,
    ) -> Result<(), Violation> {
        let login = self.login()?;
        login.user.check(right, resource)
    }

    /// An empty queue name means the queue most recently declared on the channel.
    pub(crate) fn queue_name(&self, id: ChannelId, name: &str) -> Result<Arc<str>, Violation> {
        if !name.is_empty() {
            return Ok(name.into());
        }
        let last = self
            .channels
            .get(&id)
            .and_then(|channel| channel.last_queue.clone());
        last.ok_or_else(|| Violation::channel(SoftError::NotFound, "no previously declared queue"))
    }

    /// The queue by that name, if it exists (404) and is not another connection's (405).
    pub(crate) fn usable_queue(&self, name: &str) -> Result<Arc<QueueCell>, Violation> {
        let vhost = &self.login()?.vhost;
        let queue = vhost
            .queue(name)
            .ok_or_else(|| no_queue(name, &vhost.name))?;
        self.check_owner(&queue)?;
        Ok(queue)
    }

    fn check_owner(&self, queue: &QueueCell) -> Result<(), Violation> {
        match queue.declaration.exclusive_owner {
            Some(owner) if owner != self.id => Err(locked(queue)),
            _ => Ok(()),
        }
    }

    pub(crate) fn exchange_method(
        &mut self,
        id: ChannelId,
        method: exchange::AMQPMethod,
        out: &mut Output,
    ) -> Result<(), Violation> {
        use exchange::AMQPMethod as M;
        match method {
            M::Declare(declare) => self.declare_exchange(id, declare, out),
            M::Delete(delete) => self.delete_exchange(id, &delete, out),
            M::Bind(bind) => {
                let binding = Binding {
                    source: cleaned(&bind.source),
                    destination: Destination::Exchange(cleaned(&bind.destination)),
                    routing_key: bind.routing_key.as_str().into(),
                    arguments: bind.arguments,
                };
                let ok = AMQPClass::Exchange(M::BindOk(exchange::BindOk {}));
                self.bind(
                    id,
                    Ends {
                        binding,
                        bind: true,
                    },
                    (!bind.nowait).then_some(ok),
                    out,
                )
            }
            M::Unbind(unbind) => {
                let binding = Binding {
                    source: cleaned(&unbind.source),
                    destination: Destination::Exchange(cleaned(&unbind.destination)),
                    routing_key: unbind.routing_key.as_str().into(),
                    arguments: unbind.arguments,
                };
                let ok = AMQPClass::Exchange(M::UnbindOk(exchange::UnbindOk {}));
                self.bind(
                    id,
                    Ends {
                        binding,
                        bind: false,
                    },
                    (!unbind.nowait).then_some(ok),
                    out,
                )
            }
            M::DeclareOk(_) | M::DeleteOk(_) | M::BindOk(_) | M::UnbindOk(_) => {
                Err(not_for_clients())
            }
        }
    }

    fn declare_exchange(
        &mut self,
        id: ChannelId,
        declare: exchange::Declare,
        out: &mut Output,
    ) -> Result<(), Violation> {
        let login = self.login()?;
        let (user, vhost) = (Arc::clone(&login.user), Arc::clone(&login.vhost));
        let name = cleaned(&declare.exchange);
        let ok = (!declare.nowait).then_some(AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(
            exchange::DeclareOk {},
        )));
        if declare.passive {
            mamba_routing::check::not_default(&name)?;
            user.check_any(Resource::Exchange(&name))?;
            vhost.table.read().check_exists(&name)?;
            self.reply_when_durable(id, ok, None, out);
            return Ok(());
        }
        let spec = ExchangeSpec {
            name: Arc::clone(&name),
            kind: declare.kind.as_str().into(),
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            arguments: declare.arguments,
        };
        mamba_routing::check::routing_kind(&spec.kind, &spec.arguments)?;
        mamba_routing::check::not_default(&name)?;
        user.check(Right::Configure, Resource::Exchange(&name))?;
        let broker = Arc::clone(&self.broker);
        let room = broker.room_for_exchanges(&vhost);
        let mut table = vhost.table.write();
        vhost.check_there()?;
        if table.exchange(&name).is_none() {
            mamba_routing::check::not_reserved(&name)?;
            let alternate =
                mamba_routing::check::alternate_exchange(&vhost.name, &name, &spec.arguments)?;
            if let Some(alternate) = alternate {
                user.check(Right::Read, Resource::Exchange(&name))?;
                let alternate = String::from_utf8_lossy(alternate);
                user.check(Right::Write, Resource::Exchange(&alternate))?;
            }
            if let Some(max) = room
                .as_ref()
                .and_then(|room| room.reached_by(table.exchange_count()))
            {
                let printed = mamba_routing::check::printed(&vhost.name, &name);
                return Err(precondition(format!(
                    "cannot declare {printed}: exchange limit of {max} is reached"
                )));
            }
        }
        let commit = broker.make_exchange(&vhost, &mut table, spec)?;
        drop((table, room));
        self.reply_when_durable(id, ok, commit, out);
        Ok(())
    }

    fn delete_exchange(
        &mut self,
        id: ChannelId,
        delete: &exchange::Delete,
        out: &mut Output,
    ) -> Result<(), Violation> {
        let vhost = Arc::clone(&self.login()?.vhost);
        let name = cleaned(&delete.exchange);
        mamba_routing::check::not_default(&name)?;
        vhost.table.read().check_deletable(&name)?;
        self.check_right(Right::Configure, Resource::Exchange(&name))?;
        let mut table = vhost.table.write();
        let removed = table.delete_exchange(&name, delete.if_unused)?;
        self.broker.tell_removed(&vhost, &removed);
        let commit = self.broker.commit(vhost.changes_of(&removed));
        drop(table);
        let ok = AMQPClass::Exchange(exchange::AMQPMethod::DeleteOk(exchange::DeleteOk {}));
        self.reply_when_durable(id, (!delete.nowait).then_some(ok), commit, out);
        Ok(())
    }

    fn bind(
        &mut self,
        id: ChannelId,
        ends: Ends,
        ok: Option<AMQPClass>,
        out: &mut Output,
    ) -> Result<(), Violation> {
        let Ends { binding, bind } = ends;
        let login = self.login()?;
        let (user, vhost) = (Arc::clone(&login.user), Arc::clone(&login.vhost));
        let destination = match &binding.destination {
            Destination::Queue(name) => Resource::Queue(name),
            Destination::Exchange(name) => Resource::Exchange(name),
        };
        if let Destination::Queue(name) = &binding.destination
            && name.starts_with(REPLY_TO)
        {
            return Err(refused(
                "cannot bind or unbind to a volatile (direct reply-to) queue",
            ));
        }
        user.check(Right::Write, destination)?;
        mamba_routing::check::not_default(&binding.source)?;
        if let Destination::Exchange(name) = &binding.destination {
            mamba_routing::check::not_default(name)?;
        }
        user.check(Right::Read, Resource::Exchange(&binding.source))?;
        let mut table = vhost.table.write();
        vhost.check_there()?;
        if user.has_topics()
            && let Some(source) = table.exchange(&binding.source)
            && &*source.spec().kind == TOPIC
        {
            user.check_topic(TopicRight::Read, &binding.source, &binding.routing_key)?;
        }
        let queue = match &binding.destination {
            Destination::Queue(name) => table.queue(name).map(|queue| Arc::clone(&queue.0)),
            Destination::Exchange(_) => None,
        };
        let commit = if bind {
            table.check_bind(&binding)?;
            if let Some(queue) = &queue {
                self.check_owner(queue)?;
            }
            self.broker.make_binding(&vhost, &mut table, binding)?
        } else {
            if let Some(queue) = &queue {
                self.check_owner(queue)?;
            }
            let removed = table.unbind(&binding);
            self.broker.tell_removed(&vhost, &removed);
            self.broker
                .commit(vhost.changes_of(&removed))
                .or_else(|| self.broker.definitions_on_their_way())
        };
        drop(table);
        self.reply_when_durable(id, ok, commit, out);
        Ok(())
    }

    pub(crate) fn queue_method(
        &mut self,
        id: ChannelId,
        method: queue::AMQPMethod,
        out: &mut Output,
    ) -> Result<(), Violation> {
        use queue::AMQPMethod as M;
        match method {
            M::Declare(declare) => self.declare_queue(id, declare, out),
            M::Bind(bind) => {
                let ends = self.queue_ends(
                    id,
                    &bind.queue,
                    &bind.exchange,
                    &bind.routing_key,
                    bind.arguments,
                    true,
                )?;
                let ok = AMQPClass::Queue(M::BindOk(queue::BindOk {}));
                self.bind(id, ends, (!bind.nowait).then_some(ok), out)
            }
            M::Unbind(unbind) => {
                let ends = self.queue_ends(
                    id,
                    &unbind.queue,
                    &unbind.exchange,
                    &unbind.routing_key,
                    unbind.arguments,
                    false,
                )?;
                self.bind(
                    id,
                    ends,
                    Some(AMQPClass::Queue(M::UnbindOk(queue::UnbindOk {}))),
                    out,
                )
            }
            M::Purge(purge) => {
                let name = self.queue_name(id, purge.queue.as_str())?;
                self.check_right(Right::Read, Resource::Queue(&name))?;
                let queue = self.usable_queue(&name)?;
                let count = queue.purge();
                let ok = queue::PurgeOk {
                    message_count: u32::try_from(count).unwrap_or(u32::MAX),
                };
                self.reply_when_durable(
                    id,
                    (!purge.nowait).then_some(AMQPClass::Queue(M::PurgeOk(ok))),
                    None,
                    out,
                );
                Ok(())
            }
            M::Delete(delete) => self.delete_queue(id, &delete, out),
            M::DeclareOk(_) | M::BindOk(_) | M::PurgeOk(_) | M::DeleteOk(_) | M::UnbindOk(_) => {
                Err(not_for_clients())
            }
        }
    }

    fn queue_ends(
        &self,
        id: ChannelId,
        queue: &ShortString,
        exchange: &ShortString,
        key: &ShortString,
        arguments: FieldTable,
        bind: bool,
    ) -> Result<Ends, Violation> {
        let given = cleaned(queue);
        let name = self.queue_name(id, &given)?;
        let routing_key = if given.is_empty() && key.as_str().is_empty() {
            Arc::clone(&name)
        } else {
            key.as_str().into()
        };
        let binding = Binding {
            source: cleaned(exchange),
            destination: Destination::Queue(name),
            routing_key,
            arguments,
        };
        Ok(Ends { binding, bind })
    }

    fn declare_queue(
        &mut self,
        id: ChannelId,
        declare: queue::Declare,
        out: &mut Output,
    ) -> Result<(), Violation> {
        let given = cleaned(&declare.queue);
        if given.starts_with(REPLY_TO) {
            return self.declare_reply_queue(id, &given, declare.nowait, out);
        }
        if declare.passive {
            let login = self.login()?;
            let name = self.queue_name(id, &given)?;
            login.user.check_any(Resource::Queue(&name))?;
            let queue = self.usable_queue(&name)?;
            let commit = self.on_its_way(&queue);
            return self.declared(id, &queue, declare.nowait, commit, out);
        }
        if given.starts_with(RESERVED) {
            return Err(refused(format!(
                "queue name '{given}' contains reserved prefix 'amq.*'"
            )));
        }
        let flags = Flags {
            durable: declare.durable && !declare.exclusive,
            exclusive: declare.exclusive,
            auto_delete: declare.auto_delete,
        };
        let named_by_client = !given.is_empty();
        let name = if named_by_client {
            given
        } else {
            self.broker.draw_name("amq.gen-").into()
        };
        self.check_right(Right::Configure, Resource::Queue(&name))?;
        let login = self.login()?;
        let (user, vhost) = (Arc::clone(&login.user), Arc::clone(&login.vhost));
        let broker = Arc::clone(&self.broker);
        let room = broker.room_for_queues(&vhost);
        // One lock from the look to the making, so that two declarations cannot both make it.
        let mut table = vhost.table.write();
        vhost.check_there()?;
        let asked = Flags {
            durable: declare.durable,
            ..flags
        };
        let declared_arguments = |arguments: FieldTable| {
            let settings = vhost.settings();
            let default = settings.default_queue_type.as_deref();
            arguments::with_queue_type(arguments, arguments::default_type(default, &asked))
        };
        if let Some(existing) = table.queue(&name).map(|queue| Arc::clone(&queue.0)) {
            drop((table, room));
            self.check_redeclare(&existing, &flags, declared_arguments(declare.arguments))?;
            let commit = self.on_its_way(&existing);
            return self.declared(id, &existing, declare.nowait, commit, out);
        }
        let printed = format!("queue '{name}' in vhost '{}'", vhost.name);
        if let Some(exchange) = arguments::dead_letter_exchange(&declare.arguments, &printed)? {
            user.check(Right::Read, Resource::Queue(&name))?;
            user.check(Right::Write, Resource::Exchange(exchange))?;
        }
        let arguments = declared_arguments(declare.arguments);
        let settings = arguments::settings(&arguments, &asked, &printed, named_by_client)?;
        if let Some(max) = vhost
            .settings()
            .limits
            .queues_max
            .reached_by(table.queue_count())
        {
            return Err(precondition(format!(
                "cannot declare queue '{name}': queue limit in vhost '{}' ({max}) is reached",
                vhost.name
            )));
        }
        if let Some(max) = room
            .as_ref()
            .and_then(|room| room.reached_by(table.queue_count()))
        {
            return Err(precondition(format!(
                "cannot declare queue '{name}': queue limit in cluster ({max}) is reached"
            )));
        }
        let declaration = Declaration {
            durable: flags.durable,
            exclusive_owner: flags.exclusive.then_some(self.id),
            auto_delete: flags.auto_delete,
            arguments: Arc::new(arguments),
            settings,
        };
        let (cell, commit) = self
            .broker
            .make_queue(&vhost, &mut table, name, declaration);
        drop((table, room));
        if flags.exclusive {
            self.exclusive.push(Arc::clone(&cell));
        }
        self.counts.queues_created += 1;
        cell.renew_lease();
        self.declared(id, &cell, declare.nowait, commit, out)
    }

    /// What a reply about an existing queue waits for.
    fn on_its_way(&self, queue: &QueueCell) -> Option<Arc<Commit>> {
        let durable = queue.declaration.durable;
        durable
            .then(|| self.broker.definitions_on_their_way())
            .flatten()
    }

    fn declared(
        &mut self,
        id: ChannelId,
        queue: &Arc<QueueCell>,
        nowait: bool,
        commit: Option<Arc<Commit>>,
        out: &mut Output,
    ) -> Result<(), Violation> {
        self.counts.queues_declared += 1;
        // Of a quorum queue, only its first declaration counts as use.
        if queue.declaration.settings.kind == QueueKind::Classic {
            queue.renew_lease();
        }
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.last_queue = Some(Arc::clone(&queue.name));
        }
        let counts = queue.counts();
        let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let ok = queue::DeclareOk {
            queue: ShortString::from(&*queue.name),
            message_count: count(counts.ready),
            consumer_count: count(counts.consumers),
        };
        self.reply_when_durable(
            id,
            (!nowait).then_some(AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok))),
            commit,
            out,
        );
        Ok(())
    }

    /// Declaring a direct reply-to name asks whether its consumer is still there (`spec: semantics §18`).
    fn declare_reply_queue(
        &mut self,
        id: ChannelId,
        name: &str,
        nowait: bool,
        out: &mut Output,
    ) -> Result<(), Violation> {
        let alive = name == REPLY_TO
            || reply_token(name.as_bytes())
                .is_some_and(|token| self.broker.reply_target(token).is_some());
        if !alive {
            return Err(no_queue(name, &self.login()?.vhost.name));
        }
        let ok = queue::DeclareOk {
            queue: ShortString::from(name),
            message_count: 0,
            consumer_count: 1,
        };
        self.reply_when_durable(
            id,
            (!nowait).then_some(AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok))),
            None,
            out,
        );
        Ok(())
    }

    fn check_redeclare(
        &self,
        existing: &QueueCell,
        flags: &Flags,
        arguments: FieldTable,
    ) -> Result<(), Violation> {
        let Declaration {
            durable,
            exclusive_owner,
            auto_delete,
            ..
        } = existing.declaration;
        let exclusive = flags.exclusive.then_some(self.id);
        if exclusive_owner != exclusive {
            return Err(locked(existing));
        }
        let printed = existing.printed();
        let flag = |key: &str, received: bool, current: bool| {
            let quoted = |value: bool| format!("'{value}'");
            if received == current {
                Ok(())
            } else {
                Err(arguments::inequivalent(
                    key,
                    &printed,
                    &quoted(received),
                    &quoted(current),
                ))
            }
        };
        flag("durable", flags.durable, durable)?;
        flag("auto_delete", flags.auto_delete, auto_delete)?;
        let kind = existing.declaration.settings.kind;
        arguments::check_equivalent(&existing.declaration.arguments, &arguments, kind, &printed)
    }

    fn delete_queue(
        &mut self,
        id: ChannelId,
        delete: &queue::Delete,
        out: &mut Output,
    ) -> Result<(), Violation> {
        let given = cleaned(&delete.queue);
        let name = self.queue_name(id, &given)?;
        self.check_right(Right::Configure, Resource::Queue(&name))?;
        let vhost = Arc::clone(&self.login()?.vhost);
        let mut count = 0;
        let commit;
        if let Some(queue) = vhost.queue(&name) {
            self.check_owner(&queue)?;
            let printed = queue.printed();
            if queue.declaration.settings.kind == QueueKind::Quorum {
                for (set, flag) in [
                    (delete.if_unused, "if-unused"),
                    (delete.if_empty, "if-empty"),
                ] {
                    if set {
                        let text = format!(
                            "cannot delete {printed}. queue.delete operations with {flag} flag set are not supported by quorum queues"
                        );
                        return Err(Violation::connection(HardError::NotImplemented, text));
                    }
                }
            }
            let (if_unused, if_empty) = (delete.if_unused, delete.if_empty);
            let allowed = |queue: &mamba_queue::Queue<_>| {
                if if_unused && queue.consumer_count() > 0 {
                    Err(precondition(format!("{printed} in use")))
                } else if if_empty && queue.ready_count() > 0 {
                    Err(precondition(format!("{printed} not empty")))
                } else {
                    Ok(())
                }
            };
            let removed = self.remove_queue(&queue, allowed)?;
            (count, commit) = (removed.ready, removed.commit);
        } else {
            commit = self.broker.definitions_on_their_way();
        }
        let ok = queue::DeleteOk {
            message_count: u32::try_from(count).unwrap_or(u32::MAX),
        };
        self.reply_when_durable(
            id,
            (!delete.nowait).then_some(AMQPClass::Queue(queue::AMQPMethod::DeleteOk(ok))),
            commit,
            out,
        );
        Ok(())
    }

    /// Ends a queue; `None` when it was gone already.
    fn remove_queue(
        &mut self,
        queue: &Arc<QueueCell>,
        allowed: impl FnOnce(&mamba_queue::Queue<ConsumerPort>) -> Result<(), Violation>,
    ) -> Result<RemovedQueue, Violation> {
        let removed = self.broker.remove_queue(queue, allowed)?;
        self.exclusive
            .retain(|exclusive| !Arc::ptr_eq(exclusive, queue));
        Ok(removed.unwrap_or_default())
    }

    /// Deletes an auto-delete queue whose last consumer has gone, unless another came meanwhile.
    pub(crate) fn delete_unused(&mut self, queue: &Arc<QueueCell>) {
        let allowed = |queue: &mamba_queue::Queue<_>| {
            if queue.consumer_count() == 0 {
                Ok(())
            } else {
                Err(precondition("in use"))
            }
        };
        // Refused when another consumer came meanwhile.
        let _ = self.remove_queue(queue, allowed);
    }

    pub(crate) fn delete_exclusive_queues(&mut self) {
        while let Some(queue) = self.exclusive.pop() {
            let _ = self.remove_queue(&queue, |_| Ok(()));
        }
    }
}

fn locked(queue: &QueueCell) -> Violation {
    let text = format!(
        "cannot obtain exclusive access to locked {}. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration.",
        queue.printed()
    );
    Violation::channel(SoftError::ResourceLocked, text)
}
