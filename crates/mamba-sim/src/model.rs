//! What must be, may be and must not be in each queue: the client's side of the broker's promises.

use std::collections::{BTreeMap, BTreeSet};

/// A message, by the number in its body.
pub type Id = u64;

/// The queue that takes dead letters; nobody deletes or purges it.
pub const DEAD_LETTERS: &str = "dead";

/// How a queue is declared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueSpec {
    /// Name.
    pub name: String,
    /// Survives a restart.
    pub durable: bool,
    /// Of the quorum kind.
    pub quorum: bool,
    /// `x-max-priority`.
    pub max_priority: Option<u8>,
    /// `x-max-length`.
    pub max_length: Option<usize>,
    /// `x-overflow` is `reject-publish`.
    pub reject_publish: bool,
    /// `x-message-ttl`.
    pub ttl_ms: Option<u64>,
    /// Dead letters go to [`DEAD_LETTERS`].
    pub dead_letters: bool,
    /// `x-message-deduplication`, with room for all ids there are.
    pub once: bool,
    /// What comes back waits: `x-delayed-retry-min` and `-max`, in milliseconds.
    pub retry_ms: Option<(u64, u64)>,
    /// `x-delivery-limit`.
    pub delivery_limit: Option<u32>,
}

impl QueueSpec {
    /// Whether such a message survives a restart.
    #[must_use]
    pub const fn stores(&self, persistent: bool) -> bool {
        self.durable && (persistent || self.quorum)
    }

    /// How many returns a message survives.
    const fn returns_max(&self) -> Option<u32> {
        match self.delivery_limit {
            // The default.
            None if self.quorum => Some(20),
            limit => limit,
        }
    }
}

/// By which stated rule a message may be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// A client settled it, or it was purged.
    Settled,
    /// It died: expired, rejected, over a limit. Where dead letters go somewhere, it must be there.
    Died,
}

/// A message in a queue.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place in the queue.
    pub order: u64,
    /// It survives restarts.
    pub stored: bool,
    /// Its delivery mode is 2.
    pub persistent: bool,
    /// Its priority in this queue.
    pub priority: u8,
    /// The broker confirmed it.
    pub confirmed: bool,
    /// It must be there unless `leave` allows otherwise.
    pub obliged: bool,
    /// It may be gone.
    pub leave: Option<Leave>,
    /// It must not be seen again: settled.
    pub settled: bool,
    /// So says the disk.
    pub settled_on_disk: bool,
    /// A client had it.
    pub seen: bool,
    /// So says the disk.
    pub seen_on_disk: bool,
    /// The client that holds it unsettled.
    pub held_by: Option<u64>,
    /// When it expires, in milliseconds since 1970.
    pub expires_at: Option<u64>,
    /// How often it may have been returned.
    pub returns: u32,
    /// It was delayed, or waited to be tried again: its place among the others is not that of its publishing.
    pub displaced: bool,
    /// Not to be seen before, in milliseconds since 1970.
    pub due_ms: u64,
    /// The same after a return, which a crash may undo.
    pub retry_ms: u64,
    /// It went from one place to another when the broker crashed: it may be in both.
    pub doubled: bool,
}

/// What a queue that takes each message once did with an id.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// The message that came with it.
    taken: Id,
    /// A later one with the same id, if a crash left in the dark whether `taken` was there: one of the two was taken.
    or: Option<Id>,
    /// Nobody can say whether it was taken.
    unsure: bool,
    /// So much is unsure that another one with the id must not come.
    tangled: bool,
    /// The disk has it.
    on_disk: bool,
}

/// A queue from its declaration to its deletion.
#[derive(Clone, Debug)]
pub struct QueueModel {
    /// As declared.
    pub spec: QueueSpec,
    /// Tells it from others of the same name.
    pub incarnation: u64,
    /// declare-ok came.
    pub declared: bool,
    /// Its messages.
    pub entries: BTreeMap<Id, Entry>,
    next_order: u64,
    /// Of a queue that takes each message once: what became of the ids.
    known: BTreeMap<Id, Known>,
    /// Messages that were kept out, as is known by now, each with the one that is there.
    ruled_out: BTreeMap<Id, Id>,
    /// The last place each client's consumer got a message from that had never been handed out, by priority.
    fresh: BTreeMap<(u64, u64, u8), u64>,
}

impl QueueModel {
    /// Fewest and most messages it can hold now.
    #[must_use]
    pub fn bounds(&self) -> (usize, usize) {
        let least = self
            .entries
            .values()
            .filter(|entry| entry.obliged && entry.leave.is_none() && !entry.settled)
            .count();
        let there = |entry: &&Entry| !entry.settled || entry.doubled;
        let most = self.entries.values().filter(there).count()
            + self.entries.values().filter(|entry| entry.doubled).count();
        (least, most)
    }
}

/// A binding, as the client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindingState {
    /// It is there.
    pub present: bool,
    /// So says a reply.
    pub sure: bool,
}

/// Exchange, routing key, queue.
pub type BindingKey = (String, String, String);

/// A queue that is being deleted: a crash may bring it back.
#[derive(Clone, Debug)]
pub struct Ghost {
    queue: QueueModel,
    bindings: BTreeMap<BindingKey, BindingState>,
}

/// A message on its way to a queue.
#[derive(Clone, Copy, Debug)]
pub struct Publishing {
    /// Which.
    pub id: Id,
    /// delivery-mode 2.
    pub persistent: bool,
    /// Priority property.
    pub priority: u8,
    /// Expiration.
    pub expiration_ms: Option<u64>,
    /// The id it is known by.
    pub once: Option<Id>,
    /// `x-delay`.
    pub delay_ms: Option<u64>,
    /// It cannot be refused any more: a transaction that was partly refused fails.
    pub now_ms: u64,
}

/// Everything the clients know.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Queues by name.
    pub queues: BTreeMap<String, QueueModel>,
    /// Queues whose deletion is not yet certain.
    pub ghosts: BTreeMap<String, Ghost>,
    /// Bindings of durable exchanges.
    pub bindings: BTreeMap<BindingKey, BindingState>,
    /// Milliseconds since 1970.
    pub now_ms: u64,
    /// Messages seen as dead letters.
    pub buried: BTreeSet<Id>,
    /// Messages that were ever in a queue with dead letters.
    pub mortal: BTreeSet<Id>,
    incarnations: u64,
}

impl Model {
    /// A queue was declared.
    pub fn declare(&mut self, spec: QueueSpec, declared: bool) {
        if self.queues.contains_key(&spec.name) {
            return;
        }
        self.incarnations += 1;
        let queue = QueueModel {
            incarnation: self.incarnations,
            declared,
            entries: BTreeMap::new(),
            next_order: 0,
            known: BTreeMap::new(),
            ruled_out: BTreeMap::new(),
            fresh: BTreeMap::new(),
            spec,
        };
        self.queues.insert(queue.spec.name.clone(), queue);
    }

    /// A queue is being deleted.
    pub fn delete(&mut self, name: &str) {
        let Some(queue) = self.queues.remove(name) else {
            return;
        };
        let (gone, kept) = std::mem::take(&mut self.bindings)
            .into_iter()
            .partition(|((_, _, queue), _)| queue == name);
        self.bindings = kept;
        if queue.spec.durable {
            self.ghosts.insert(
                name.to_owned(),
                Ghost {
                    queue,
                    bindings: gone,
                },
            );
        }
    }

    /// The queues a message goes to.
    #[must_use]
    pub fn route(&self, exchange: &str, key: &str) -> Vec<String> {
        if exchange.is_empty() {
            return self
                .queues
                .keys()
                .filter(|name| *name == key)
                .cloned()
                .collect();
        }
        let mut names: Vec<String> = self
            .bindings
            .iter()
            .filter(|((from, bound, _), state)| {
                state.present && from == exchange && (exchange == "fan" || bound == key)
            })
            .map(|((_, _, queue), _)| queue.clone())
            .filter(|queue| self.queues.contains_key(queue))
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Whether what becomes of another message with this id can be told.
    #[must_use]
    pub fn can_repeat(&self, id: Id) -> bool {
        self.queues.values().all(|queue| {
            let known = queue.known.get(&id);
            known.is_none_or(|known| !known.tangled)
        })
    }

    /// A message entered a queue. Returns the message that is there now: itself, or one with the same id.
    pub fn enqueue(&mut self, name: &str, message: Publishing) -> Id {
        let Some(queue) = self.queues.get_mut(name) else {
            return message.id;
        };
        let spec = &queue.spec;
        if spec.once
            && let Some(id) = message.once
        {
            let fresh = Known {
                taken: message.id,
                or: None,
                unsure: false,
                tangled: false,
                on_disk: false,
            };
            match queue.known.get_mut(&id) {
                Some(known) if !known.unsure => return known.or.unwrap_or(known.taken),
                Some(known) => {
                    known.or = Some(message.id);
                    known.unsure = false;
                    known.on_disk = false;
                }
                None => {
                    queue.known.insert(id, fresh);
                }
            }
        }
        let ttl = [spec.ttl_ms, message.expiration_ms]
            .into_iter()
            .flatten()
            .min();
        if spec.dead_letters {
            self.mortal.insert(message.id);
        }
        queue.next_order += 1;
        let due_ms = message.now_ms + message.delay_ms.unwrap_or(0);
        let entry = Entry {
            order: queue.next_order,
            stored: spec.stores(message.persistent),
            persistent: message.persistent,
            priority: spec.max_priority.map_or(0, |max| message.priority.min(max)),
            confirmed: false,
            obliged: !spec.reject_publish
                && !queue
                    .known
                    .values()
                    .any(|known| known.or == Some(message.id)),
            leave: None,
            settled: false,
            settled_on_disk: false,
            seen: false,
            seen_on_disk: false,
            held_by: None,
            expires_at: ttl.map(|ttl| due_ms + ttl),
            returns: 0,
            displaced: message.delay_ms.is_some(),
            due_ms,
            retry_ms: 0,
            doubled: false,
        };
        queue.entries.insert(message.id, entry);
        if let Some(max) = spec.max_length
            && !spec.reject_publish
        {
            // The newest ones cannot have been dropped, whoever holds the others. With priorities any can.
            let displaced = queue.entries.values().any(|entry| entry.displaced);
            let kept = if spec.max_priority.is_some() || displaced {
                0
            } else {
                max as u64
            };
            let limit = queue.next_order.saturating_sub(kept);
            for entry in queue.entries.values_mut() {
                if entry.order <= limit && entry.leave.is_none() {
                    entry.leave = Some(Leave::Died);
                }
            }
        }
        message.id
    }

    /// The broker confirmed a message.
    pub fn confirm(&mut self, name: &str, incarnation: u64, mut id: Id) {
        let queue = self.queues.get_mut(name);
        if let Some(queue) = queue.filter(|queue| queue.incarnation == incarnation) {
            // What was kept out is confirmed for the sake of the one that is there.
            id = queue.ruled_out.get(&id).copied().unwrap_or(id);
            for known in queue.known.values_mut() {
                known.on_disk |= known.or.unwrap_or(known.taken) == id;
                if known.or == Some(id) {
                    // Either of the two is there.
                    return;
                }
            }
        }
        if let Some(entry) = self.entry(name, incarnation, id) {
            entry.confirmed = true;
            entry.obliged = true;
        }
    }

    /// An entry of a queue that lives or is being deleted.
    pub fn entry(&mut self, name: &str, incarnation: u64, id: Id) -> Option<&mut Entry> {
        self.queues
            .get_mut(name)
            .filter(|queue| queue.incarnation == incarnation)
            .or_else(|| {
                self.ghosts
                    .get_mut(name)
                    .map(|ghost| &mut ghost.queue)
                    .filter(|queue| queue.incarnation == incarnation)
            })?
            .entries
            .get_mut(&id)
    }

    /// A client settled a delivery.
    pub fn settle(&mut self, name: &str, incarnation: u64, id: Id, leave: Leave) {
        if let Some(entry) = self.entry(name, incarnation, id) {
            entry.leave = Some(leave);
            entry.settled = true;
            entry.held_by = None;
        }
    }

    /// A client gave a delivery back.
    pub fn give_back(&mut self, name: &str, incarnation: u64, id: Id) {
        let retry = self
            .queues
            .get(name)
            .and_then(|queue| queue.spec.retry_ms)
            .map(|(min, max)| self.now_ms + min.min(max));
        if let Some(entry) = self.entry(name, incarnation, id) {
            entry.held_by = None;
            entry.returns += 1;
            if let Some(retry) = retry {
                entry.displaced = true;
                entry.retry_ms = retry;
            }
        }
    }

    /// A delivery came back at some time: the broker knew before the client that it had gone.
    pub fn came_back(&mut self, name: &str, incarnation: u64, id: Id) {
        self.give_back(name, incarnation, id);
        if let Some(entry) = self.entry(name, incarnation, id) {
            entry.retry_ms = 0;
        }
    }

    /// A client has gone: what it held comes back.
    pub fn client_gone(&mut self, client: u64) {
        let held = |queue: &QueueModel| -> Vec<(String, u64, Id)> {
            let held = queue.entries.iter();
            held.filter(|(_, entry)| entry.held_by == Some(client))
                .map(|(id, _)| (queue.spec.name.clone(), queue.incarnation, *id))
                .collect()
        };
        let held: Vec<_> = self.queues.values().flat_map(held).collect();
        for (name, incarnation, id) in held {
            self.give_back(&name, incarnation, id);
        }
    }

    /// A client has gone that consumed from a queue or asked for a message: what it was to get and did not counts as returned.
    pub fn consumer_gone(&mut self, name: &str) {
        if let Some(queue) = self.queues.get_mut(name)
            && (queue.spec.returns_max().is_some() || queue.spec.retry_ms.is_some())
        {
            let waits = queue.spec.retry_ms.is_some();
            for entry in queue.entries.values_mut() {
                entry.displaced |= waits;
                entry.returns += 1;
            }
        }
    }

    /// Everything ready left a queue.
    pub fn purge(&mut self, name: &str) {
        if let Some(queue) = self.queues.get_mut(name) {
            for entry in queue.entries.values_mut() {
                if entry.held_by.is_none() {
                    entry.leave = Some(Leave::Settled);
                }
            }
        }
    }

    /// What time and limits allow to be gone.
    pub fn pass(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        for queue in self.queues.values_mut() {
            let returns_max = queue.spec.returns_max();
            for entry in queue.entries.values_mut() {
                let expired = entry.expires_at.is_some_and(|at| at <= now_ms);
                // At the limit, not above it: the broker counts no more than this.
                let returned = returns_max.is_some_and(|max| entry.returns >= max);
                if (expired || returned) && entry.leave.is_none() {
                    entry.leave = Some(Leave::Died);
                }
            }
        }
    }

    /// Everything the broker did until now is on the disk.
    pub fn on_disk(&mut self) {
        for queue in self.queues.values_mut() {
            for entry in queue.entries.values_mut() {
                entry.settled_on_disk |= entry.settled;
                entry.seen_on_disk |= entry.seen;
            }
            for known in queue.known.values_mut() {
                known.on_disk = true;
            }
        }
    }

    /// A message came to a client, by one of its consumers or, as 0, because it asked. Says what is wrong with that.
    ///
    /// # Errors
    /// The promise that was broken.
    pub fn delivered(
        &mut self,
        name: &str,
        incarnation: u64,
        id: Id,
        redelivered: bool,
        (client, via): (u64, u64),
    ) -> Result<(), String> {
        if name == DEAD_LETTERS {
            self.buried.insert(id);
            return if self.mortal.contains(&id) {
                Ok(())
            } else {
                Err(format!(
                    "message {id} is a dead letter and never was where messages die"
                ))
            };
        }
        let Some(queue) = self
            .queues
            .get_mut(name)
            .filter(|queue| queue.incarnation == incarnation)
        else {
            // Deleted meanwhile; what was on its way may still come.
            return Ok(());
        };
        let Some(entry) = queue.entries.get_mut(&id) else {
            return Err(format!(
                "message {id} came from queue {name} and was never put there: invented"
            ));
        };
        for known in queue.known.values_mut() {
            if let Some(or) = known.or
                && (known.taken == id || or == id)
            {
                // Now it is known which one was taken; the other one never comes.
                let other = if or == id { known.taken } else { or };
                known.taken = id;
                known.or = None;
                entry.confirmed |= known.on_disk;
                entry.obliged |= known.on_disk;
                queue.ruled_out.insert(other, id);
            }
        }
        if queue.ruled_out.contains_key(&id) {
            return Err(format!(
                "message {id} came from queue {name}, which had taken another one with its id"
            ));
        }
        if entry.due_ms.max(entry.retry_ms) > self.now_ms && !entry.doubled {
            return Err(format!(
                "message {id} came from queue {name} before its time: {entry:?}"
            ));
        }
        if entry.doubled {
            entry.settled = false;
            entry.seen = true;
            entry.held_by = Some(client);
            return Ok(());
        }
        if entry.settled {
            return Err(format!(
                "message {id} came from queue {name} again after it was settled: {entry:?}"
            ));
        }
        if let Some(holder) = entry.held_by {
            return Err(format!(
                "message {id} of queue {name} came to client {client} while client {holder} holds it"
            ));
        }
        if entry.seen && !redelivered {
            return Err(format!(
                "message {id} of queue {name} came a second time without redelivered: {entry:?}"
            ));
        }
        if !redelivered && !entry.displaced {
            let last = queue
                .fresh
                .entry((client, via, entry.priority))
                .or_insert(entry.order);
            if *last > entry.order {
                return Err(format!(
                    "message {id} of queue {name} came out of order: place {} after place {last}",
                    entry.order
                ));
            }
            *last = entry.order;
        }
        entry.seen = true;
        entry.held_by = Some(client);
        Ok(())
    }

    /// The broker has ended: what must be there afterwards? `exact` after a clean stop.
    pub fn restart(&mut self, exact: bool) {
        for queue in self.queues.values_mut() {
            after_restart(queue, exact);
        }
        for ghost in self.ghosts.values_mut() {
            after_restart(&mut ghost.queue, exact);
            // Nobody notes the state of a queue that is gone for all it knows.
            for entry in ghost.queue.entries.values_mut() {
                entry.leave = Some(Leave::Settled);
                entry.seen = false;
                entry.seen_on_disk = false;
            }
            for known in ghost.queue.known.values_mut() {
                known.tangled = true;
            }
        }
        self.queues.retain(|_, queue| queue.spec.durable);
        let queues = &self.queues;
        self.bindings
            .retain(|(_, _, queue), _| queues.contains_key(queue));
    }

    /// Which queues are there after a restart. Says what is wrong with that.
    ///
    /// # Errors
    /// The promise that was broken.
    pub fn found(&mut self, exists: &dyn Fn(&str) -> bool) -> Result<(), String> {
        let mut gone = Vec::new();
        for (name, queue) in &mut self.queues {
            if exists(name) {
                queue.declared = true;
            } else if queue.declared {
                return Err(format!("queue {name} was declared and is not there"));
            } else if let Some((id, entry)) = queue
                .entries
                .iter()
                .find(|(_, entry)| entry.confirmed && entry.leave.is_none())
            {
                return Err(format!(
                    "queue {name} is not there, and message {id} in it was confirmed: {entry:?}"
                ));
            } else {
                gone.push(name.clone());
            }
        }
        for name in gone {
            self.queues.remove(&name);
            self.bindings.retain(|(_, _, queue), _| *queue != name);
        }
        for (name, ghost) in std::mem::take(&mut self.ghosts) {
            if exists(&name) && !self.queues.contains_key(&name) {
                self.bindings.extend(ghost.bindings);
                self.queues.insert(name, ghost.queue);
            }
        }
        Ok(())
    }

    /// All that is left in a queue, in order, has been read, with its redelivered flags. Says what is wrong with that.
    ///
    /// # Errors
    /// The promise that was broken.
    pub fn drained(&mut self, name: &str, found: &[(Id, bool)]) -> Result<(), String> {
        if name == DEAD_LETTERS {
            return Ok(());
        }
        let Some(queue) = self.queues.get(name) else {
            return Ok(());
        };
        let ids: BTreeSet<Id> = found.iter().map(|(id, _)| *id).collect();
        let doubled = queue.entries.values().filter(|entry| entry.doubled).count();
        if ids.len() + doubled < found.len() {
            return Err(format!("queue {name} holds a message twice: {found:?}"));
        }
        for (id, known) in &queue.known {
            let Some(or) = known.or.filter(|_| known.on_disk && !known.tangled) else {
                continue;
            };
            let came = [known.taken, or].map(|id| ids.contains(&id));
            if came == [true, true] {
                return Err(format!("queue {name} took id {id} twice: {known:?}"));
            }
            let excused = [known.taken, or].iter().any(|id| {
                let entry = queue.entries.get(id);
                entry.is_none_or(|entry| entry.leave.is_some())
            });
            if came == [false, false] && !excused {
                return Err(format!("queue {name} lost id {id}: {known:?}"));
            }
        }
        let mut last: BTreeMap<u8, u64> = BTreeMap::new();
        for (id, redelivered) in found {
            let Some(entry) = queue.entries.get(id) else {
                return Err(format!("message {id} in queue {name} was invented"));
            };
            if entry.displaced || (*redelivered && (queue.spec.quorum || !entry.stored)) {
                // What comes back to a quorum queue goes to the front, in the order of coming back; so does a transient message that
                // comes back while older ones are on the disk only.
                continue;
            }
            let last = last.entry(entry.priority).or_insert(0);
            if *last > entry.order {
                return Err(format!(
                    "queue {name} is out of order: message {id}, place {}, after place {last}",
                    entry.order
                ));
            }
            *last = entry.order;
        }
        for (id, entry) in &queue.entries {
            let missing = entry.obliged && !ids.contains(id);
            let excused = match entry.leave {
                None => false,
                Some(Leave::Settled) => true,
                Some(Leave::Died) => {
                    !queue.spec.dead_letters || !entry.persistent || self.buried.contains(id)
                }
            };
            if missing && !excused {
                return Err(format!("message {id} of queue {name} is lost: {entry:?}"));
            }
        }
        Ok(())
    }
}

fn after_restart(queue: &mut QueueModel, exact: bool) {
    queue.fresh.clear();
    let entries = &queue.entries;
    // What does not last is forgotten with its message.
    queue.known.retain(|_, known| {
        let either = [Some(known.taken), known.or];
        let stored = |id: &Id| entries.get(id).is_none_or(|entry| entry.stored);
        either.iter().flatten().any(stored)
    });
    for known in queue.known.values_mut() {
        let both = [Some(known.taken), known.or];
        let stored = |id: &Id| entries.get(id).is_none_or(|entry| entry.stored);
        let lasts = exact || known.on_disk;
        known.unsure |= !lasts || !both.iter().flatten().all(stored);
        known.tangled |= known.unsure && known.or.is_some();
        known.on_disk = lasts;
    }
    for entry in queue.entries.values_mut() {
        entry.held_by = None;
        entry.returns += 1;
        entry.retry_ms = 0;
        if !entry.stored {
            entry.settled = true;
            entry.settled_on_disk = true;
            entry.leave = Some(Leave::Settled);
        }
        if exact {
            continue;
        }
        entry.doubled |= entry.displaced;
        // A dead letter may not have been as safe as its first life.
        entry.obliged &= entry.confirmed;
        entry.seen = entry.seen_on_disk;
        if !entry.settled_on_disk {
            entry.settled = false;
        }
    }
    if exact {
        for entry in queue.entries.values_mut() {
            entry.settled_on_disk |= entry.settled;
            entry.seen_on_disk |= entry.seen;
        }
    }
}
