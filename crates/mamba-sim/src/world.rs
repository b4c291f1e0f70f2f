//! One run: a broker, its disk, its clients, and what happens to them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    path::PathBuf,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use mamba_broker::{Broker, BrokerConfig, Now, queue_cell::QueueCounts};
use mamba_codec::{AMQPClass, protocol};
use mamba_store::{LogStatus, OpenError, Store, SyncMode};
use mamba_types::{FieldTable, FieldValue};
use protocol::{basic, confirm, exchange, queue, tx};

use crate::{
    client::{Client, Delivered, Heard, Publish, table},
    disk::{Crash, Faults, SimDisk},
    model::{BindingState, DEAD_LETTERS, Id, Leave, Model, Publishing, QueueSpec},
    rng::Rng,
};

/// How the tag of a consumer begins that wants persistent messages only.
const PERSISTENT_ONLY: char = 'p';
/// When every run begins.
const START_MS: u64 = 1_700_000_000_000;
/// Names of the queues that come and go.
const QUEUES: u64 = 7;
/// Clients at one time.
const CLIENTS_MAX: usize = 4;
/// Turns of the store until it must be idle…
const TURNS_MAX: usize = 10_000;
/// … and those for which the clock stands still.
const TURNS_STILL: usize = 32;

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything by chance comes from it.
    pub seed: u64,
    /// Things that happen.
    pub steps: u64,
    /// The power goes at this call of the disk, counted from the first; besides what chance does.
    pub crash_at: Option<u64>,
    /// Nothing but the work: no crashes, faults or restarts by chance.
    pub calm: bool,
    /// What is always wrong with the disk: for tests of the tests.
    pub broken: Faults,
    /// Tell what happens.
    pub trace: bool,
    /// A mistake the store or the broker makes, for tests of the tests.
    #[cfg(feature = "mutants")]
    pub mutant: Option<mamba_store::mutants::Mutant>,
}

impl Plan {
    /// A run with everything in it.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            steps: 300,
            crash_at: None,
            calm: false,
            broken: Faults::default(),
            trace: false,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Messages published.
    pub published: u64,
    /// Messages confirmed.
    pub confirmed: u64,
    /// Messages that reached a client.
    pub delivered: u64,
    /// Ends of the broker: power cuts, kills and clean stops.
    pub power_cuts: u64,
    /// See above.
    pub kills: u64,
    /// See above.
    pub clean_stops: u64,
    /// Faults the disk showed, power cuts not counted.
    pub faults: u64,
    /// Calls of the disk that changed something.
    pub calls: u64,
    /// What was done, in a number: equal for equal runs.
    pub digest: u64,
}

/// Publishing mode of a client's channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Plain,
    Confirm,
    Transaction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Ack,
    Requeue,
    Discard,
}

/// A delivery a client holds.
#[derive(Clone, Debug)]
struct Held {
    queue: String,
    incarnation: u64,
    id: Id,
}

/// What a client says, for the books.
#[derive(Clone, Debug)]
enum Said {
    Nothing,
    Declare(QueueSpec),
    Delete(String),
    Bind(String, String, String, bool),
    Purge(String),
    Publish {
        exchange: String,
        key: String,
        message: Publishing,
    },
    Consume {
        queue: String,
        tag: String,
        no_ack: bool,
    },
    Cancel(String),
    Get {
        queue: String,
        no_ack: bool,
    },
    Settle(Vec<(u64, Held)>, How),
    Commit,
    Rollback,
}

type Places = Vec<(String, u64, Id)>;

struct Session {
    number: u64,
    client: Client<Said>,
    mode: Mode,
    /// Taken by the broker and not yet answered, with what a transaction published and what it settled.
    awaited: VecDeque<(Said, Places, Places)>,
    consumers: BTreeMap<String, (String, u64, bool)>,
    unacked: BTreeMap<u64, Held>,
    /// Delivery tags that came with that flag.
    redelivered: BTreeSet<u64>,
    /// In a transaction: what was settled and may come back.
    published: u64,
    confirms: BTreeMap<u64, Places>,
    /// With the queues a message goes to, as they were when it was published.
    uncommitted: Vec<(Vec<(String, u64)>, Publishing)>,
    settlements: Vec<(u64, Held, How)>,
    tags: u64,
}

/// Why a run ended before its time.
pub(crate) type Failed = String;

struct World {
    plan: Plan,
    rng: Rng,
    disk: SimDisk,
    broker: Option<Arc<Broker>>,
    started: Instant,
    passed: Duration,
    sessions: Vec<Session>,
    next_session: u64,
    next_id: Id,
    model: Model,
    sync: SyncMode,
    file_size: u64,
    message_memory: usize,
    outcome: Outcome,
    /// Octets that are missing on the disk.
    full: bool,
    log: String,
}

/// Runs a plan. Returns what happened, or what was wrong and the trace.
pub(crate) fn run(plan: &Plan) -> (Result<Outcome, Failed>, String) {
    #[cfg(feature = "mutants")]
    mamba_store::mutants::set(plan.mutant);
    let mut world = World::new(plan);
    let result = world.live();
    // Clients first: their last words go to the broker.
    world.sessions.clear();
    let result = result.and_then(|()| world.forget_broker());
    (result.map(|()| world.outcome), world.log)
}

fn body_of(id: Id, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(id, 77);
    let mut body = Vec::with_capacity(len + 8);
    body.extend(id.to_le_bytes());
    body.extend(u32::try_from(len).unwrap_or(0).to_le_bytes());
    while body.len() < len {
        body.extend(rng.next().to_le_bytes());
    }
    body.truncate(len.max(12));
    body
}

/// The message a body belongs to, if every octet of it is as it was.
fn id_of(body: &[u8]) -> Option<Id> {
    let id = u64::from_le_bytes(body.get(..8)?.try_into().ok()?);
    (body_of(id, body.len()) == body).then_some(id)
}

impl World {
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant will do as the beginning; only differences are looked at"
    )]
    fn new(plan: &Plan) -> Self {
        let mut rng = Rng::new(plan.seed, 0);
        let disk = SimDisk::new(plan.seed);
        disk.crash_at(plan.crash_at);
        disk.set_faults(plan.broken);
        if plan.trace {
            disk.trace();
        }
        let sync = match rng.below(10) {
            0 => SyncMode::Os,
            1 => SyncMode::Interval {
                interval: Duration::from_millis(50),
                batch: 20,
            },
            _ => SyncMode::Fsync,
        };
        // Power cuts need what promises to survive them.
        let sync = if plan.broken != Faults::default() || plan.calm {
            SyncMode::Fsync
        } else {
            sync
        };
        let file_size = [4096, 8192, 16_384, 65_536][rng.index(4)];
        let message_memory = [0, 1000, 10_000, 100_000, 10_000_000][rng.index(5)];
        Self {
            plan: plan.clone(),
            rng,
            disk,
            broker: None,
            started: Instant::now(),
            passed: Duration::ZERO,
            sessions: Vec::new(),
            next_session: 0,
            next_id: 0,
            model: Model::default(),
            sync,
            file_size,
            message_memory,
            outcome: Outcome::default(),
            full: false,
            log: String::new(),
        }
    }

    fn now(&self) -> Now {
        Now {
            instant: self.started + self.passed,
            unix_ms: self.unix_ms(),
        }
    }

    fn unix_ms(&self) -> u64 {
        START_MS + u64::try_from(self.passed.as_millis()).unwrap_or(0)
    }

    fn tell(&mut self, what: impl FnOnce() -> String) {
        if self.plan.trace {
            for call in self.disk.take_trace() {
                let _ = writeln!(self.log, "{:>30} {call}", "");
            }
            let text = what();
            let _ = writeln!(
                self.log,
                "{:>8.3} #{:<5} {text}",
                self.passed.as_secs_f64(),
                self.disk.calls()
            );
        }
    }

    fn live(&mut self) -> Result<(), Failed> {
        self.start()?;
        for _ in 0..self.plan.steps {
            self.step()?;
            self.look()?;
        }
        self.finish()?;
        self.outcome.faults = self.disk.faults_met();
        self.outcome.calls = self.disk.calls();
        for (path, _) in self.disk.files() {
            for octet in self.disk.contents(&path).unwrap_or_default() {
                self.outcome.digest =
                    (self.outcome.digest ^ u64::from(octet)).wrapping_mul(0x0100_0000_01B3);
            }
        }
        self.outcome.digest ^= self.rng.next();
        Ok(())
    }

    /// The power may have gone, or the log may have failed: then the broker is started anew.
    fn look(&mut self) -> Result<(), Failed> {
        if self.disk.is_off() {
            self.end(Crash::Power)?;
            return self.start();
        }
        let failed = self.broker.as_ref().is_some_and(|broker| {
            matches!(broker.store().log().status(), LogStatus::Failed { .. })
        });
        if failed {
            self.tell(|| "the log has failed: restarting".to_owned());
            self.disk.set_faults(self.plan.broken);
            self.full = false;
            let how = if self.rng.percent(50) && self.sync == SyncMode::Fsync {
                Crash::Power
            } else {
                Crash::Process
            };
            self.end(how)?;
            return self.start();
        }
        let mut gone = Vec::new();
        for (index, session) in self.sessions.iter().enumerate() {
            if session.client.closed().is_some() {
                gone.push(index);
            }
        }
        for index in gone.into_iter().rev() {
            let why = self.sessions[index]
                .client
                .closed()
                .unwrap_or_default()
                .to_owned();
            self.tell(|| format!("a client was closed: {why}"));
            self.leave(index);
        }
        Ok(())
    }

    /// Starts the broker; the power may go during that, several times.
    fn start(&mut self) -> Result<(), Failed> {
        for attempt in 0..20 {
            if attempt < 3
                && !self.plan.calm
                && self.sync == SyncMode::Fsync
                && self.rng.once_in(12)
            {
                let at = self.disk.calls() + 1 + self.rng.below(20);
                self.disk.crash_at(Some(at));
            }
            let mut config = BrokerConfig::new(PathBuf::from("/data"));
            config.sync = self.sync;
            config.log_file_size = self.file_size;
            config.message_memory = self.message_memory;
            let disk = Arc::new(self.disk.clone());
            let opened = Broker::open_on(
                config,
                |config| Store::open_manual(config, disk),
                self.plan.seed,
                self.unix_ms(),
            );
            match opened {
                Ok(broker) => {
                    let report = broker.recovery_report().clone();
                    self.tell(|| format!("started: {report:?}"));
                    self.broker = Some(broker);
                    if !report.quarantined.is_empty() {
                        return Err(format!(
                            "recovery reports damage that nobody did: {report:?}"
                        ));
                    }
                    return self.found();
                }
                Err(error) if self.disk.is_off() => {
                    self.tell(|| format!("the power went during the start: {error}"));
                    self.disk.crash(Crash::Power);
                    self.outcome.power_cuts += 1;
                }
                Err(OpenError::Full { .. }) if self.disk.faults().capacity.is_some() => {
                    self.tell(|| "no room to start".to_owned());
                    self.disk.set_faults(self.plan.broken);
                    self.full = false;
                }
                Err(error) => {
                    let faults = self.disk.faults();
                    if faults != self.plan.broken {
                        self.tell(|| format!("cannot start because of faults: {error}"));
                        self.disk.set_faults(self.plan.broken);
                        self.full = false;
                        continue;
                    }
                    return Err(format!("the broker does not start: {error}"));
                }
            }
        }
        Err("the broker did not start".to_owned())
    }

    /// Compares what is there after a start.
    fn found(&mut self) -> Result<(), Failed> {
        let Some(broker) = self.broker.clone() else {
            return Ok(());
        };
        let Some(vhost) = broker.vhost("/") else {
            return Err("the virtual host is not there".to_owned());
        };
        self.model.found(&|name| vhost.queue(name).is_some())?;
        for queue in vhost.queues() {
            if !self.model.queues.contains_key(&*queue.name) {
                return Err(format!("queue {} was deleted and is back", queue.name));
            }
        }
        broker.tick(self.unix_ms());
        self.model.pass(self.unix_ms());
        self.check_counts()?;
        self.prepare()
    }

    /// The things that every run needs; declaring them again does no harm.
    fn prepare(&mut self) -> Result<(), Failed> {
        let Some(index) = self.connect(Mode::Plain) else {
            return self.look();
        };
        let session = &mut self.sessions[index];
        for (name, kind) in [
            ("fan", "fanout"),
            ("dir", "direct"),
            ("late", "x-delayed-message"),
        ] {
            let declare = exchange::Declare {
                exchange: name.into(),
                kind: kind.into(),
                durable: true,
                arguments: table(&[("x-delayed-type", FieldValue::LongString("direct".into()))]),
                ..exchange::Declare::default()
            };
            let method = AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare));
            session.client.say(&method, Said::Nothing);
        }
        let spec = QueueSpec {
            name: DEAD_LETTERS.to_owned(),
            durable: true,
            ..QueueSpec::default()
        };
        say_declare(session, spec);
        // What a crash left in the dark is made certain.
        let unsure: Vec<_> = self
            .model
            .bindings
            .iter()
            .filter(|(_, state)| !state.sure)
            .map(|(key, state)| (key.clone(), state.present))
            .collect();
        if !unsure.is_empty() {
            self.disk.set_faults(self.plan.broken);
            self.full = false;
        }
        for ((from, key, queue), present) in unsure {
            say_bind(&mut self.sessions[index], &from, &key, &queue, present);
        }
        let number = self.sessions[index].number;
        for _ in 0..200 {
            let Some(index) = self.index_of(number) else {
                return Ok(());
            };
            self.feed(index, usize::MAX)?;
            self.turn();
            self.hear(index)?;
            if self.disk.is_off() {
                return Ok(());
            }
            let session = &self.sessions[index];
            if session.client.is_quiet() && session.awaited.is_empty() {
                self.leave(index);
                return Ok(());
            }
            if session.client.closed().is_some() || self.full {
                self.leave(index);
                return Ok(());
            }
        }
        Err("the first declarations are not answered".to_owned())
    }

    fn index_of(&self, number: u64) -> Option<usize> {
        self.sessions
            .iter()
            .position(|session| session.number == number)
    }

    /// Ends the broker without a word.
    fn end(&mut self, how: Crash) -> Result<(), Failed> {
        self.tell(|| format!("{how:?} crash"));
        match how {
            Crash::Power => self.outcome.power_cuts += 1,
            Crash::Process => self.outcome.kills += 1,
        }
        // Nothing that the dying process still does reaches the disk.
        self.disk.cut();
        for session in &self.sessions {
            if session.client.is_served() {
                lose_gets(&mut self.model, session);
            } else {
                // The broker has closed it, and took back what it held.
                client_gone(&mut self.model, session);
            }
        }
        self.sessions.clear();
        self.forget_broker()?;
        self.disk.crash(how);
        self.model.restart(false);
        Ok(())
    }

    fn stop(&mut self) -> Result<(), Failed> {
        while !self.sessions.is_empty() {
            let last = self.sessions.len() - 1;
            self.leave(last);
        }
        let Some(broker) = &self.broker else {
            return Ok(());
        };
        let stopped = broker.stop();
        self.tell(|| format!("clean stop: {stopped}"));
        self.forget_broker()?;
        if self.disk.is_off() || !stopped {
            let how = if self.disk.is_off() {
                self.outcome.power_cuts += 1;
                Crash::Power
            } else {
                Crash::Process
            };
            self.disk.crash(how);
            self.model.restart(false);
        } else {
            self.outcome.clean_stops += 1;
            if self.rng.percent(50) && self.sync == SyncMode::Fsync {
                // What a clean stop said is on the disk has to be there.
                self.disk.crash(Crash::Power);
            }
            self.model.restart(true);
        }
        self.start()
    }

    /// The broker has ended and has no clients any more: nothing of it may be left.
    fn forget_broker(&mut self) -> Result<(), Failed> {
        let Some(broker) = self.broker.take() else {
            return Ok(());
        };
        let queues: Vec<_> = broker
            .vhosts()
            .iter()
            .flat_map(|vhost| vhost.queues())
            .map(|queue| Arc::downgrade(&queue))
            .collect();
        let ended = Arc::downgrade(&broker);
        drop(broker);
        if ended.strong_count() > 0 {
            return Err("the broker has ended and is still in memory".to_owned());
        }
        match queues.iter().find_map(Weak::upgrade) {
            Some(queue) => Err(format!(
                "the broker has ended and its queue {} is still in memory",
                queue.name
            )),
            None => Ok(()),
        }
    }

    fn connect(&mut self, mode: Mode) -> Option<usize> {
        let broker = self.broker.clone()?;
        let client = Client::connect(&broker, self.now())?;
        self.next_session += 1;
        let mut session = Session {
            number: self.next_session,
            client,
            mode,
            awaited: VecDeque::new(),
            consumers: BTreeMap::new(),
            unacked: BTreeMap::new(),
            redelivered: BTreeSet::new(),
            published: 0,
            confirms: BTreeMap::new(),
            uncommitted: Vec::new(),
            settlements: Vec::new(),
            tags: 0,
        };
        match mode {
            Mode::Plain => {}
            Mode::Confirm => {
                let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
                session
                    .client
                    .say(&AMQPClass::Confirm(select), Said::Nothing);
            }
            Mode::Transaction => {
                let select = tx::AMQPMethod::Select(tx::Select {});
                session.client.say(&AMQPClass::Tx(select), Said::Nothing);
            }
        }
        let prefetch = self.rng.below(12);
        let qos = basic::Qos {
            prefetch_count: u16::try_from(prefetch).unwrap_or(0),
            global: false,
        };
        let method = AMQPClass::Basic(basic::AMQPMethod::Qos(qos));
        session.client.say(&method, Said::Nothing);
        let number = session.number;
        self.tell(|| format!("client {number} connects: {mode:?}, prefetch {prefetch}"));
        self.sessions.push(session);
        Some(self.sessions.len() - 1)
    }

    /// A client goes without a word.
    fn leave(&mut self, index: usize) {
        let session = self.sessions.remove(index);
        let number = session.number;
        self.tell(|| format!("client {number} leaves"));
        client_gone(&mut self.model, &session);
    }

    /// One round of the store's duties.
    fn turn(&mut self) -> bool {
        self.broker
            .as_ref()
            .is_some_and(|broker| broker.store().turn() | broker.page_in_once())
    }

    fn pass(&mut self, time: Duration) {
        self.passed += time;
        self.disk.pass(time);
        let now = self.unix_ms();
        if let Some(broker) = &self.broker {
            broker.tick(now);
        }
        self.model.pass(now);
    }

    /// Lets the store finish what it has to do.
    fn quiesce(&mut self) -> Result<bool, Failed> {
        for _ in 0..2 {
            self.pass(Duration::from_millis(60));
            for turn in 0.. {
                if !self.turn() {
                    break;
                }
                if turn > TURNS_MAX {
                    return Err("the store never comes to rest".to_owned());
                }
                if turn % TURNS_STILL == TURNS_STILL - 1 {
                    // A pager may wait for what the log writes a moment later only.
                    self.pass(Duration::from_millis(10));
                }
            }
        }
        // While the disk was full something may have gathered that nobody waits for.
        let all_written = |broker: &Arc<Broker>| {
            let log = broker.store().log();
            log.status() == LogStatus::Ok && log.backlog_bytes() == 0
        };
        let well = !self.disk.is_off() && self.broker.as_ref().is_some_and(all_written);
        if well {
            self.tell(|| "everything is on the disk".to_owned());
            self.model.on_disk();
            self.check_counts()?;
        }
        Ok(well)
    }

    fn check_counts(&self) -> Result<(), Failed> {
        let Some(vhost) = self.broker.as_ref().and_then(|broker| broker.vhost("/")) else {
            return Ok(());
        };
        for (name, queue) in &self.model.queues {
            if name == DEAD_LETTERS {
                continue;
            }
            let Some(cell) = vhost.queue(name) else {
                return Err(format!("queue {name} is not there"));
            };
            let counts = cell.counts();
            let there = counts.ready + counts.unacked + counts.delayed;
            let (mut least, most) = queue.bounds();
            // What is on its way to a consumer that does not acknowledge is counted nowhere.
            let lossy = |session: &Session| {
                session
                    .consumers
                    .values()
                    .any(|(queue, _, no_ack)| *no_ack && queue == name)
            };
            if self.sessions.iter().any(lossy) {
                least = 0;
            }
            // What was asked for without acknowledgement may wait for the log before it leaves.
            let asked = |session: &Session| {
                let gets = session.awaited.iter().filter(
                    |(said, ..)| matches!(said, Said::Get { queue, no_ack: true } if queue == name),
                );
                gets.count()
            };
            least = least.saturating_sub(self.sessions.iter().map(asked).sum());
            if there < least as u64 || there > most as u64 {
                let must: Vec<_> = queue
                    .entries
                    .iter()
                    .filter(|(_, entry)| entry.obliged && entry.leave.is_none() && !entry.settled)
                    .map(|(id, _)| *id)
                    .collect();
                return Err(format!(
                    "queue {name} has {there} messages ({} ready, {} delayed), not {least} to {most}: {must:?}",
                    counts.ready, counts.delayed
                ));
            }
        }
        Ok(())
    }

    /// Lets the broker take what a client said, and keeps the books.
    fn feed(&mut self, index: usize, most: usize) -> Result<(), Failed> {
        let now = self.now();
        // One at a time: what the broker takes has happened before anything else does.
        for _ in 0..most {
            if !self.sessions[index].client.is_served() {
                // The broker is closing it and takes no notice of what it says.
                break;
            }
            let taken = self.sessions[index].client.feed(1, now);
            let Some(said) = taken.into_iter().next() else {
                break;
            };
            self.said(index, said);
            self.hear(index)?;
        }
        Ok(())
    }

    fn said(&mut self, index: usize, said: Said) {
        let number = self.sessions[index].number;
        self.tell(|| match &said {
            Said::Publish {
                exchange,
                key,
                message,
            } => format!(
                "client {number}: publish {}{} to {exchange:?}/{key}{}{}{}",
                message.id,
                message
                    .once
                    .map_or(String::new(), |once| format!(" (id {once})")),
                if message.persistent {
                    ""
                } else {
                    ", transient"
                },
                message
                    .expiration_ms
                    .map_or(String::new(), |ms| format!(", for {ms} ms")),
                if message.priority > 0 {
                    format!(", priority {}", message.priority)
                } else {
                    String::new()
                },
            ),
            other => format!("client {number}: {other:?}"),
        });
        let session = &mut self.sessions[index];
        let mut places = Places::new();
        let mut settled = Places::new();
        let mut awaits = true;
        match &said {
            Said::Nothing | Said::Get { .. } => {}
            Said::Declare(spec) => self.model.declare(spec.clone(), false),
            Said::Delete(name) => self.model.delete(name),
            Said::Bind(from, key, queue, present) => {
                let durable = self
                    .model
                    .queues
                    .get(queue)
                    .is_some_and(|queue| queue.spec.durable);
                let state = BindingState {
                    present: *present,
                    sure: !durable,
                };
                let key = (from.clone(), key.clone(), queue.clone());
                if self.model.queues.contains_key(queue) {
                    self.model.bindings.insert(key, state);
                }
            }
            Said::Purge(queue) => self.model.purge(queue),
            Said::Publish {
                exchange,
                key,
                message,
            } => {
                awaits = false;
                let queues = self.model.route(exchange, key);
                self.outcome.published += 1;
                if session.mode == Mode::Transaction {
                    let incarnation = |name: String| {
                        let incarnation = self.model.queues.get(&name)?.incarnation;
                        Some((name, incarnation))
                    };
                    let queues = queues.into_iter().filter_map(incarnation).collect();
                    session.uncommitted.push((queues, *message));
                } else {
                    places = enqueue(&mut self.model, &queues, *message);
                    session.published += 1;
                    if session.mode == Mode::Confirm {
                        let published = session.published;
                        session
                            .confirms
                            .insert(published, std::mem::take(&mut places));
                    }
                }
            }
            Said::Consume { queue, tag, no_ack } => {
                let incarnation = self
                    .model
                    .queues
                    .get(queue)
                    .map_or(0, |queue| queue.incarnation);
                session
                    .consumers
                    .insert(tag.clone(), (queue.clone(), incarnation, *no_ack));
            }
            Said::Cancel(_) => {}
            Said::Settle(held, how) => {
                awaits = false;
                for (tag, one) in held {
                    if session.mode == Mode::Transaction {
                        session.settlements.push((*tag, one.clone(), *how));
                    } else {
                        settle(&mut self.model, one, *how);
                    }
                }
            }
            Said::Commit => {
                for (queues, message) in std::mem::take(&mut session.uncommitted) {
                    let there = |(name, incarnation): (String, u64)| {
                        let queue = self.model.queues.get(&name)?;
                        (queue.incarnation == incarnation).then_some(name)
                    };
                    let queues: Vec<String> = queues.into_iter().filter_map(there).collect();
                    places.extend(enqueue(&mut self.model, &queues, message));
                }
                for (_, held, how) in std::mem::take(&mut session.settlements) {
                    settled.push((held.queue.clone(), held.incarnation, held.id));
                    settle(&mut self.model, &held, how);
                }
            }
            Said::Rollback => {
                session.uncommitted.clear();
                // The client holds them again.
                for (tag, held, _) in std::mem::take(&mut session.settlements) {
                    session.unacked.insert(tag, held);
                }
            }
        }
        if awaits {
            self.sessions[index]
                .awaited
                .push_back((said, places, settled));
        }
    }

    /// Reads what the broker has for a client.
    fn hear(&mut self, index: usize) -> Result<(), Failed> {
        let now = self.now();
        for heard in self.sessions[index].client.hear(now) {
            match heard {
                Heard::Deliver {
                    consumer_tag,
                    message,
                } => {
                    let known = self.sessions[index].consumers.get(&consumer_tag).cloned();
                    let Some((queue, incarnation, no_ack)) = known else {
                        return Err(format!("a delivery for no consumer: {consumer_tag}"));
                    };
                    if consumer_tag.starts_with(PERSISTENT_ONLY) && !message.is_persistent() {
                        return Err(format!("{consumer_tag} got what its filter does not match"));
                    }
                    let number = consumer_tag.trim_start_matches(['c', PERSISTENT_ONLY]);
                    let via = number.parse().unwrap_or(0);
                    self.delivered(index, &queue, incarnation, no_ack, via, &message)?;
                }
                Heard::GetOk { message, .. } => {
                    let Some((Said::Get { queue, no_ack }, ..)) =
                        self.sessions[index].awaited.pop_front()
                    else {
                        return Err("a get-ok that nobody asked for".to_owned());
                    };
                    let incarnation = self
                        .model
                        .queues
                        .get(&queue)
                        .map_or(0, |queue| queue.incarnation);
                    self.delivered(index, &queue, incarnation, no_ack, 0, &message)?;
                }
                Heard::Confirm {
                    tag,
                    multiple,
                    nack,
                } => {
                    let session = &mut self.sessions[index];
                    let tags: Vec<u64> = if multiple {
                        session
                            .confirms
                            .range(..=tag)
                            .map(|(tag, _)| *tag)
                            .collect()
                    } else {
                        vec![tag]
                    };
                    for tag in tags {
                        let Some(places) = self.sessions[index].confirms.remove(&tag) else {
                            return Err(format!(
                                "publish {tag} was confirmed twice, or never done"
                            ));
                        };
                        if nack {
                            continue;
                        }
                        self.outcome.confirmed += 1;
                        let number = self.sessions[index].number;
                        self.tell(|| format!("client {number}: confirmed {places:?}"));
                        for (queue, incarnation, id) in places {
                            self.model.confirm(&queue, incarnation, id);
                        }
                    }
                }
                Heard::Method(method) => self.replied(index, &method)?,
            }
        }
        Ok(())
    }

    fn delivered(
        &mut self,
        index: usize,
        queue: &str,
        incarnation: u64,
        no_ack: bool,
        via: u64,
        message: &Delivered,
    ) -> Result<(), Failed> {
        self.outcome.delivered += 1;
        let number = self.sessions[index].number;
        let Some(id) = id_of(&message.body) else {
            return Err(format!(
                "a message of queue {queue} came corrupted: {} octets",
                message.body.len()
            ));
        };
        self.tell(|| {
            format!(
                "client {number} gets {id} from {queue}{}",
                if message.redelivered {
                    ", redelivered"
                } else {
                    ""
                }
            )
        });
        let holder = self
            .model
            .entry(queue, incarnation, id)
            .and_then(|entry| entry.held_by);
        let served =
            |session: &Session| Some(session.number) == holder && session.client.is_served();
        if holder.is_some() && !self.sessions.iter().any(served) {
            // The broker has closed the holder, who has not heard of it yet.
            self.model.came_back(queue, incarnation, id);
        }
        self.model
            .delivered(queue, incarnation, id, message.redelivered, (number, via))?;
        let held = Held {
            queue: queue.to_owned(),
            incarnation,
            id,
        };
        if no_ack {
            settle(&mut self.model, &held, How::Ack);
        } else {
            let session = &mut self.sessions[index];
            if message.redelivered {
                session.redelivered.insert(message.tag);
            }
            session.unacked.insert(message.tag, held);
        }
        Ok(())
    }

    fn replied(&mut self, index: usize, method: &AMQPClass) -> Result<(), Failed> {
        if let AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)) = method {
            // The consumer's queue is gone.
            self.sessions[index]
                .consumers
                .remove(cancel.consumer_tag.as_str());
            return Ok(());
        }
        let Some((said, places, settled)) = self.sessions[index].awaited.pop_front() else {
            return Err(format!("a reply that nobody asked for: {method:?}"));
        };
        let number = self.sessions[index].number;
        self.tell(|| format!("client {number} is told: {said:?} is done"));
        match said {
            Said::Declare(spec) => {
                if let Some(queue) = self.model.queues.get_mut(&spec.name) {
                    queue.declared = true;
                }
            }
            Said::Delete(name) => {
                self.model.ghosts.remove(&name);
            }
            Said::Bind(from, key, queue, present) => {
                let key = (from, key, queue);
                if let Some(state) = self.model.bindings.get_mut(&key) {
                    // Another client may have said the opposite meanwhile.
                    state.sure |= state.present == present;
                }
            }
            Said::Commit => {
                for (queue, incarnation, id) in places {
                    let entry = self.model.entry(&queue, incarnation, id);
                    if entry.is_some_and(|entry| !entry.settled) {
                        self.model.confirm(&queue, incarnation, id);
                    }
                }
                for (queue, incarnation, id) in settled {
                    if let Some(entry) = self.model.entry(&queue, incarnation, id) {
                        entry.settled_on_disk |= entry.settled;
                    }
                }
            }
            Said::Cancel(tag) => {
                self.sessions[index].consumers.remove(&tag);
            }
            Said::Nothing
            | Said::Purge(_)
            | Said::Publish { .. }
            | Said::Consume { .. }
            | Said::Get { .. }
            | Said::Settle(..)
            | Said::Rollback => {}
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), Failed> {
        if self.sessions.is_empty() || (self.sessions.len() < CLIENTS_MAX && self.rng.once_in(20)) {
            let mode = match self.rng.below(8) {
                0 => Mode::Plain,
                1 => Mode::Transaction,
                _ => Mode::Confirm,
            };
            if self.connect(mode).is_none() {
                return Ok(());
            }
        }
        let index = self.rng.index(self.sessions.len());
        match self.rng.below(100) {
            0..=21 => self.publish(index)?,
            22..=27 => self.declare(index)?,
            28..=31 => self.bind(index)?,
            32 => self.delete(index)?,
            33 => self.purge(index)?,
            34..=39 => self.consume(index)?,
            40..=41 => self.cancel(index)?,
            42..=45 => self.get(index)?,
            46..=57 => self.settle(index)?,
            58..=61 => self.commit(index)?,
            62..=63 => {
                self.leave(index);
            }
            64..=71 => {
                self.turn();
            }
            72..=77 => self.hear(index)?,
            78..=81 => {
                let most = if self.rng.once_in(10) { 3000 } else { 30 };
                let time = Duration::from_millis(1 + self.rng.below(most));
                self.pass(time);
            }
            82..=87 => {
                self.quiesce()?;
                for index in 0..self.sessions.len() {
                    self.feed(index, usize::MAX)?;
                    self.hear(index)?;
                }
            }
            88..=89 => {
                if let Some(broker) = &self.broker {
                    broker.maintain();
                }
            }
            _ => self.mishap()?,
        }
        if let Some(index) =
            (!self.sessions.is_empty()).then(|| self.rng.index(self.sessions.len()))
        {
            let most = 1 + self.rng.index(20);
            self.feed(index, most)?;
        }
        Ok(())
    }

    fn mishap(&mut self) -> Result<(), Failed> {
        if self.plan.calm {
            return Ok(());
        }
        let fsync = self.sync == SyncMode::Fsync;
        match self.rng.below(40) {
            0..=1 if fsync => {
                self.end(Crash::Power)?;
                self.start()
            }
            2..=3 => {
                self.end(Crash::Process)?;
                self.start()
            }
            4..=5 => self.stop(),
            6..=13 if fsync => {
                let within = [3, 30, 200][self.rng.index(3)];
                let at = self.disk.calls() + 1 + self.rng.below(within);
                self.tell(|| format!("the power will go at call {at}"));
                self.disk.crash_at(Some(at));
                Ok(())
            }
            14..=15 => {
                let faults = Faults {
                    capacity: Some(self.disk.used() + self.rng.below(20_000)),
                    ..self.plan.broken
                };
                self.tell(|| format!("the disk gets full: {faults:?}"));
                self.disk.set_faults(faults);
                self.full = true;
                Ok(())
            }
            16..=19 => {
                self.tell(|| "the disk is well again".to_owned());
                self.disk.set_faults(self.plan.broken);
                self.full = false;
                Ok(())
            }
            20..=21 => {
                let faults = Faults {
                    short_writes: true,
                    ..self.plan.broken
                };
                self.tell(|| "writes get short".to_owned());
                self.disk.set_faults(faults);
                Ok(())
            }
            22 => {
                let faults = Faults {
                    write_fails: 8,
                    ..self.plan.broken
                };
                self.tell(|| "writes fail".to_owned());
                self.disk.set_faults(faults);
                Ok(())
            }
            23 if fsync => {
                let faults = Faults {
                    sync_fails: 8,
                    ..self.plan.broken
                };
                self.tell(|| "syncs fail".to_owned());
                self.disk.set_faults(faults);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn queue_name(&mut self) -> String {
        format!("q{}", self.rng.below(QUEUES))
    }

    /// A queue that is there.
    fn known_queue(&mut self) -> Option<String> {
        let names: Vec<String> = self.model.queues.keys().cloned().collect();
        self.rng.pick(&names).cloned()
    }

    fn declare(&mut self, index: usize) -> Result<(), Failed> {
        let name = self.queue_name();
        // While a deletion is under way nobody could tell afterwards which of two queues is there.
        let busy = self.model.ghosts.contains_key(&name)
            || self
                .sessions
                .iter()
                .any(|session| !session.client.is_quiet());
        if busy {
            return Ok(());
        }
        let spec = match self.model.queues.get(&name) {
            Some(known) => known.spec.clone(),
            None => self.draw_spec(name),
        };
        say_declare(&mut self.sessions[index], spec);
        self.feed(index, usize::MAX)
    }

    fn draw_spec(&mut self, name: String) -> QueueSpec {
        let rng = &mut self.rng;
        let mut spec = QueueSpec {
            name,
            durable: !rng.once_in(6),
            ..QueueSpec::default()
        };
        match rng.below(12) {
            0..=1 => {
                spec.quorum = true;
                spec.durable = true;
            }
            2 => spec.max_priority = Some(4),
            3 => spec.max_length = Some(rng.index(20)),
            4 => {
                spec.max_length = Some(rng.index(20));
                spec.reject_publish = true;
            }
            5 => spec.ttl_ms = Some(rng.below(500)),
            6..=7 => {
                spec.quorum = rng.once_in(3);
                spec.durable |= spec.quorum;
                let min = rng.below(300);
                spec.retry_ms = Some((min, min + rng.below(500)));
                spec.delivery_limit = rng
                    .percent(50)
                    .then(|| 1 + u32::try_from(rng.below(4)).unwrap_or(0));
            }
            8..=9 => spec.once = true,
            _ => {}
        }
        spec.dead_letters = rng.once_in(3);
        spec
    }

    fn bind(&mut self, index: usize) -> Result<(), Failed> {
        let Some(queue) = self.known_queue().filter(|queue| queue != DEAD_LETTERS) else {
            return Ok(());
        };
        let from = match self.rng.below(10) {
            0..=4 => "fan",
            5..=6 => "dir",
            _ => "late",
        };
        let key = format!("k{}", self.rng.below(3));
        let present = self.rng.percent(75);
        if self
            .sessions
            .iter()
            .any(|session| !session.client.is_quiet())
        {
            return Ok(());
        }
        say_bind(&mut self.sessions[index], from, &key, &queue, present);
        self.feed(index, usize::MAX)
    }

    fn delete(&mut self, index: usize) -> Result<(), Failed> {
        let Some(name) = self.known_queue().filter(|name| name != DEAD_LETTERS) else {
            return Ok(());
        };
        let pending = self
            .model
            .queues
            .get(&name)
            .is_some_and(|queue| !queue.declared);
        if pending
            || self
                .sessions
                .iter()
                .any(|session| !session.client.is_quiet())
        {
            return Ok(());
        }
        let delete = queue::Delete {
            queue: name.as_str().into(),
            if_unused: false,
            if_empty: false,
            nowait: false,
        };
        let method = AMQPClass::Queue(queue::AMQPMethod::Delete(delete));
        self.sessions[index].client.say(&method, Said::Delete(name));
        self.feed(index, usize::MAX)
    }

    fn purge(&mut self, index: usize) -> Result<(), Failed> {
        let Some(name) = self.known_queue().filter(|name| name != DEAD_LETTERS) else {
            return Ok(());
        };
        if self
            .sessions
            .iter()
            .any(|session| !session.client.is_quiet())
        {
            return Ok(());
        }
        let purge = queue::Purge {
            queue: name.as_str().into(),
            nowait: false,
        };
        let method = AMQPClass::Queue(queue::AMQPMethod::Purge(purge));
        self.sessions[index].client.say(&method, Said::Purge(name));
        self.feed(index, usize::MAX)
    }

    fn publish(&mut self, index: usize) -> Result<(), Failed> {
        let count = match self.rng.below(10) {
            0 => 1 + self.rng.below(60),
            1..=4 => 1 + self.rng.below(8),
            _ => 1,
        };
        let (exchange, key) = match self.rng.below(10) {
            0..=1 => ("fan".to_owned(), String::new()),
            2 => ("dir".to_owned(), format!("k{}", self.rng.below(3))),
            3 => ("late".to_owned(), format!("k{}", self.rng.below(3))),
            _ => (String::new(), self.queue_name()),
        };
        for _ in 0..count {
            self.next_id += 1;
            let id = self.next_id;
            let len = match self.rng.below(40) {
                0 => 12 + self.rng.index(40_000),
                1..=4 => 12 + self.rng.index(3000),
                _ => 12 + self.rng.index(100),
            };
            let persistent = self.rng.percent(80);
            let priority = self
                .rng
                .once_in(3)
                .then(|| self.rng.next().to_le_bytes()[0] % 6);
            let expiration_ms = self.rng.once_in(15).then(|| self.rng.below(300));
            let delay_ms =
                (exchange == "late" && self.rng.percent(85)).then(|| 1 + self.rng.below(2000));
            let once = self.draw_once(id);
            let message = Publishing {
                id,
                once,
                persistent,
                priority: priority.unwrap_or(0),
                expiration_ms,
                delay_ms,
                now_ms: self.unix_ms(),
            };
            let mut headers = FieldTable::default();
            if let Some(delay) = delay_ms {
                let delay = i64::try_from(delay).unwrap_or(i64::MAX);
                headers.insert("x-delay".into(), FieldValue::LongLongInt(delay));
            }
            if let Some(once) = once {
                let once = i64::try_from(once).unwrap_or(i64::MAX);
                headers.insert(
                    "x-deduplication-header".into(),
                    FieldValue::LongLongInt(once),
                );
            }
            let publish = Publish {
                exchange: exchange.clone(),
                routing_key: key.clone(),
                persistent,
                priority,
                expiration_ms,
                headers,
                body: body_of(id, len),
            };
            let said = Said::Publish {
                exchange: exchange.clone(),
                key: key.clone(),
                message,
            };
            self.sessions[index].client.publish(&publish, said);
        }
        self.feed(index, usize::MAX)
    }

    /// The id of a message: its own, or that of an earlier one that is published again.
    fn draw_once(&mut self, id: Id) -> Option<Id> {
        if self.rng.percent(70) {
            return self.rng.percent(80).then_some(id);
        }
        let again = id.saturating_sub(1 + self.rng.below(20)).max(1);
        self.model.can_repeat(again).then_some(again)
    }

    fn consume(&mut self, index: usize) -> Result<(), Failed> {
        let Some(name) = self.known_queue() else {
            return Ok(());
        };
        if self
            .sessions
            .iter()
            .any(|session| !session.client.is_quiet())
        {
            return Ok(());
        }
        let no_ack = name != DEAD_LETTERS && self.rng.once_in(5);
        let session = &mut self.sessions[index];
        session.tags += 1;
        // Some want persistent messages only, and their tags say so.
        let filtered = self.rng.once_in(3);
        let kind = if filtered { PERSISTENT_ONLY } else { 'c' };
        let tag = format!("{kind}{}", session.tags);
        let filter = FieldValue::LongString("delivery_mode = 2".into());
        let arguments = filtered.then(|| table(&[("x-filter", filter)]));
        let consume = basic::Consume {
            queue: name.as_str().into(),
            consumer_tag: tag.as_str().into(),
            no_ack,
            arguments: arguments.unwrap_or_default(),
            ..basic::Consume::default()
        };
        let said = Said::Consume {
            queue: name,
            tag,
            no_ack,
        };
        let method = AMQPClass::Basic(basic::AMQPMethod::Consume(consume));
        session.client.say(&method, said);
        self.feed(index, usize::MAX)
    }

    fn cancel(&mut self, index: usize) -> Result<(), Failed> {
        let session = &mut self.sessions[index];
        let Some(tag) = session.consumers.keys().next().cloned() else {
            return Ok(());
        };
        let cancelling = session
            .awaited
            .iter()
            .any(|(said, ..)| matches!(said, Said::Cancel(_)));
        if cancelling || !session.client.is_quiet() {
            return Ok(());
        }
        let cancel = basic::Cancel {
            consumer_tag: tag.as_str().into(),
            nowait: false,
        };
        let method = AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel));
        session.client.say(&method, Said::Cancel(tag));
        self.feed(index, usize::MAX)
    }

    fn get(&mut self, index: usize) -> Result<(), Failed> {
        let Some(name) = self.known_queue() else {
            return Ok(());
        };
        if self
            .sessions
            .iter()
            .any(|session| !session.client.is_quiet())
        {
            return Ok(());
        }
        let no_ack = name != DEAD_LETTERS && self.rng.once_in(4);
        let get = basic::Get {
            queue: name.as_str().into(),
            no_ack,
        };
        let method = AMQPClass::Basic(basic::AMQPMethod::Get(get));
        let said = Said::Get {
            queue: name,
            no_ack,
        };
        self.sessions[index].client.say(&method, said);
        self.feed(index, usize::MAX)
    }

    fn settle(&mut self, index: usize) -> Result<(), Failed> {
        let session = &mut self.sessions[index];
        if session.mode == Mode::Transaction && !session.client.is_quiet() {
            return Ok(());
        }
        let tags: Vec<u64> = session.unacked.keys().copied().collect();
        let Some(&tag) = self.rng.pick(&tags) else {
            return Ok(());
        };
        let how = match self.rng.below(10) {
            0..=1 => How::Requeue,
            2 => How::Discard,
            _ => How::Ack,
        };
        let multiple = self.rng.percent(40);
        let tags: Vec<u64> = if multiple {
            tags.into_iter().filter(|other| *other <= tag).collect()
        } else {
            vec![tag]
        };
        let held = tags
            .iter()
            .filter_map(|tag| Some((*tag, session.unacked.remove(tag)?)))
            .collect();
        let method = match how {
            How::Ack => basic::AMQPMethod::Ack(basic::Ack {
                delivery_tag: tag,
                multiple,
            }),
            How::Requeue | How::Discard if multiple || self.rng.percent(50) => {
                basic::AMQPMethod::Nack(basic::Nack {
                    delivery_tag: tag,
                    multiple,
                    requeue: how == How::Requeue,
                })
            }
            How::Requeue | How::Discard => basic::AMQPMethod::Reject(basic::Reject {
                delivery_tag: tag,
                requeue: how == How::Requeue,
            }),
        };
        session
            .client
            .say(&AMQPClass::Basic(method), Said::Settle(held, how));
        self.feed(index, usize::MAX)
    }

    fn commit(&mut self, index: usize) -> Result<(), Failed> {
        let session = &mut self.sessions[index];
        if session.mode != Mode::Transaction {
            return Ok(());
        }
        let (method, said) = if self.rng.percent(80) {
            (tx::AMQPMethod::Commit(tx::Commit {}), Said::Commit)
        } else {
            (tx::AMQPMethod::Rollback(tx::Rollback {}), Said::Rollback)
        };
        session.client.say(&AMQPClass::Tx(method), said);
        self.feed(index, usize::MAX)
    }

    /// The end: one more restart, then everything that is left is read and compared.
    fn finish(&mut self) -> Result<(), Failed> {
        self.disk.set_faults(self.plan.broken);
        self.full = false;
        self.disk.crash_at(None);
        self.tell(|| "the end is near".to_owned());
        match self.rng.below(4) {
            0 => self.stop()?,
            1 => {
                self.end(Crash::Process)?;
                self.start()?;
            }
            2 if self.sync == SyncMode::Fsync => {
                self.end(Crash::Power)?;
                self.start()?;
            }
            _ => {
                self.quiesce()?;
                for index in 0..self.sessions.len() {
                    self.feed(index, usize::MAX)?;
                    self.hear(index)?;
                }
                self.look()?;
            }
        }
        for _ in 0..10 {
            if !self.disk.is_off() {
                break;
            }
            self.end(Crash::Power)?;
            self.start()?;
        }
        self.disk.crash_at(None);
        while !self.sessions.is_empty() {
            let last = self.sessions.len() - 1;
            self.leave(last);
        }
        self.quiesce()?;
        // What waits comes to an end too.
        self.pass(Duration::from_secs(5));
        self.quiesce()?;
        self.drain()
    }

    fn counts(&self, queue: &str) -> QueueCounts {
        self.broker
            .as_ref()
            .and_then(|broker| broker.vhost("/"))
            .and_then(|vhost| vhost.queue(queue))
            .map_or_else(QueueCounts::default, |queue| queue.counts())
    }

    fn ready(&self, queue: &str) -> u64 {
        self.counts(queue).ready
    }

    fn delayed(&self, queue: &str) -> u64 {
        self.counts(queue).delayed
    }

    fn drain(&mut self) -> Result<(), Failed> {
        let mut names: Vec<String> = self.model.queues.keys().cloned().collect();
        // Dead letters first: they excuse what is missing elsewhere.
        names.sort_by_key(|name| (name != DEAD_LETTERS, name.clone()));
        self.model.pass(self.unix_ms());
        let mut drained = Vec::new();
        for name in names {
            let Some(index) = self.connect(Mode::Plain) else {
                return Err("nobody can connect to a broker at rest".to_owned());
            };
            let session = &mut self.sessions[index];
            let qos = basic::Qos {
                prefetch_count: 0,
                global: false,
            };
            let method = AMQPClass::Basic(basic::AMQPMethod::Qos(qos));
            session.client.say(&method, Said::Nothing);
            let consume = basic::Consume {
                queue: name.as_str().into(),
                consumer_tag: "drain".into(),
                ..basic::Consume::default()
            };
            let said = Said::Consume {
                queue: name.clone(),
                tag: "drain".to_owned(),
                no_ack: false,
            };
            let method = AMQPClass::Basic(basic::AMQPMethod::Consume(consume));
            session.client.say(&method, said);
            let mut quiet = 0;
            let mut before = 0;
            // With little memory, a few messages at a time come from the disk.
            for _ in 0..1000 {
                let ready = self.ready(&name);
                if quiet > if ready == 0 { 2 } else { 30 } {
                    break;
                }
                self.feed(index, usize::MAX)?;
                // A delivery may wait for the log.
                self.quiesce()?;
                self.hear(index)?;
                let now = self.sessions[index].unacked.len();
                quiet = if now == before { quiet + 1 } else { 0 };
                before = now;
            }
            let session = &self.sessions[index];
            if let Some(why) = session.client.closed() {
                return Err(format!("queue {name} cannot be drained: {why}"));
            }
            let came = session.unacked.len();
            let ready = self.ready(&name);
            let delayed = self.delayed(&name);
            if ready + delayed > 0 {
                return Err(format!(
                    "queue {name} keeps {ready} messages to itself and lets {delayed} wait; {came} came"
                ));
            }
            drained.push((name, session.number));
        }
        // What died meanwhile comes last.
        for _ in 0..10 {
            self.quiesce()?;
            for index in 0..self.sessions.len() {
                self.hear(index)?;
            }
        }
        for (name, number) in drained {
            let session = self
                .index_of(number)
                .and_then(|index| self.sessions.get(index));
            let found: Vec<(Id, bool)> = session.map_or_else(Vec::new, |session| {
                session
                    .unacked
                    .iter()
                    .map(|(tag, held)| (held.id, session.redelivered.contains(tag)))
                    .collect()
            });
            self.model.drained(&name, &found)?;
        }
        Ok(())
    }
}

/// A client has gone, or is about to: what was said and not taken whole is unsaid, what it settled in vain comes back.
fn client_gone(model: &mut Model, session: &Session) {
    for (queue, _, _) in session.consumers.values() {
        model.consumer_gone(queue);
    }
    for (said, ..) in &session.awaited {
        if let Said::Get {
            queue,
            no_ack: false,
        } = said
        {
            model.consumer_gone(queue);
        }
    }
    lose_gets(model, session);
    model.client_gone(session.number);
}

/// A message that was asked for without acknowledgement has left its queue before it arrives; nobody knows which.
fn lose_gets(model: &mut Model, session: &Session) {
    for (said, ..) in &session.awaited {
        if let Said::Get {
            queue,
            no_ack: true,
        } = said
        {
            model.purge(queue);
        }
    }
}

fn enqueue(model: &mut Model, queues: &[String], message: Publishing) -> Places {
    let mut places = Places::new();
    for name in queues {
        let there = model.enqueue(name, message);
        if let Some(queue) = model.queues.get(name) {
            places.push((name.clone(), queue.incarnation, there));
        }
    }
    places
}

fn settle(model: &mut Model, held: &Held, how: How) {
    let Held {
        queue,
        incarnation,
        id,
    } = held;
    match how {
        How::Ack => model.settle(queue, *incarnation, *id, Leave::Settled),
        How::Discard => model.settle(queue, *incarnation, *id, Leave::Died),
        How::Requeue => model.give_back(queue, *incarnation, *id),
    }
}

fn say_declare(session: &mut Session, spec: QueueSpec) {
    let number = |number: u64| FieldValue::LongLongInt(i64::try_from(number).unwrap_or(0));
    let text = |text: &str| FieldValue::LongString(text.into());
    let mut arguments = Vec::new();
    if spec.quorum {
        arguments.push(("x-queue-type", text("quorum")));
    }
    if let Some(max) = spec.max_priority {
        arguments.push(("x-max-priority", number(u64::from(max))));
    }
    if let Some(max) = spec.max_length {
        arguments.push(("x-max-length", number(max as u64)));
    }
    if spec.once {
        arguments.push(("x-message-deduplication", FieldValue::Boolean(true)));
    }
    if spec.reject_publish {
        arguments.push(("x-overflow", text("reject-publish")));
    }
    if let Some(ttl) = spec.ttl_ms {
        arguments.push(("x-message-ttl", number(ttl)));
    }
    if let Some((min, max)) = spec.retry_ms {
        arguments.push(("x-delayed-retry-type", text("all")));
        arguments.push(("x-delayed-retry-min", number(min)));
        arguments.push(("x-delayed-retry-max", number(max)));
    }
    if let Some(limit) = spec.delivery_limit {
        arguments.push(("x-delivery-limit", number(u64::from(limit))));
    }
    if spec.dead_letters {
        arguments.push(("x-dead-letter-exchange", text("")));
        arguments.push(("x-dead-letter-routing-key", text(DEAD_LETTERS)));
    }
    let declare = queue::Declare {
        queue: spec.name.as_str().into(),
        durable: spec.durable,
        arguments: table(&arguments),
        ..queue::Declare::default()
    };
    let method = AMQPClass::Queue(queue::AMQPMethod::Declare(declare));
    session.client.say(&method, Said::Declare(spec));
}

fn say_bind(session: &mut Session, from: &str, key: &str, to: &str, present: bool) {
    let method = if present {
        queue::AMQPMethod::Bind(queue::Bind {
            queue: to.into(),
            exchange: from.into(),
            routing_key: key.into(),
            ..queue::Bind::default()
        })
    } else {
        queue::AMQPMethod::Unbind(queue::Unbind {
            queue: to.into(),
            exchange: from.into(),
            routing_key: key.into(),
            ..queue::Unbind::default()
        })
    };
    let said = Said::Bind(from.to_owned(), key.to_owned(), to.to_owned(), present);
    session.client.say(&AMQPClass::Queue(method), said);
}
