//! The node: its virtual hosts, users, connections, store and alarms.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
};

use mamba_routing::ExchangeKind;
use mamba_session::SessionConfig;
use mamba_store::{
    Checkpoint, DefinitionChange, OpenError, RealDisk, Recovered, RecoveryReport, Store,
    StoreConfig, StoreError, SyncMode,
};
use mamba_types::{
    FieldTable, FieldValue, HardError, Limits, Message, QueueId, Sequence, Violation,
    table::ShortString,
};
use parking_lot::{Mutex, RwLock};

use crate::{
    access::Access,
    commit::Commit,
    connection::{Connection, Now, Origin},
    deaths::Deaths,
    events::{EVENT_EXCHANGE, Events},
    metrics::{Counts, Deduplicator, Metrics, Snapshot},
    oauth::Tokens,
    outbox::{ConsumerPort, Notice, Outbox},
    paging::Paging,
    queue_cell::{Ended, QueueCell},
    registry::{Presence, Traffic},
    tenants,
    timers::{Doorbell, Timers},
    transport::TlsFacts,
    vhost::{Vhost, VhostSettings},
};

/// Connections that may be in the handshake beyond the limit of open ones: they are told why they are refused.
const HANDSHAKES_MAX: usize = 1024;

/// The virtual host of a new node.
pub const DEFAULT_VHOST: &str = "/";

/// Characters of a drawn name behind its prefix.
pub(crate) const DRAWN_LEN: usize = 22;
/// Queues looked at under one lock of the timers.
const TICK_QUEUES_MAX: usize = 256;

/// How a node is set up.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Where everything durable lies.
    pub data_dir: PathBuf,
    /// When a message counts as durable.
    pub sync: SyncMode,
    /// Octets per log file.
    pub log_file_size: u64,
    /// Octets of records that waiting messages may take in memory, over all queues.
    pub message_memory: usize,
    /// Limits for every connection.
    pub limits: Limits,
    /// Shown to clients and operators.
    pub node_name: String,
    /// Shown to clients.
    pub cluster_name: String,
    /// `product` in the server properties; client libraries switch on it.
    pub product: String,
    /// `version` in the server properties, `x.y.z`.
    pub version: String,
    /// Name and password of a new node's user; no user if the name is empty.
    pub user: (String, String),
    /// That user's tags.
    pub user_tags: Vec<String>,
    /// The virtual host of a new node.
    pub default_vhost: String,
    /// Whether a new node gets that user and virtual host. Not where definitions are loaded that say who there is.
    pub seed_new_node: bool,
    /// Who a client is that logs in by ANONYMOUS; `None`: the mechanism is not offered.
    pub anonymous_user: Option<String>,
    /// Users that may only log in from this machine.
    pub loopback_users: Vec<String>,
    /// The virtual host that events are published in; `None`: there are none.
    pub event_vhost: Option<String>,
    /// What tokens are held against; `None`: there are only passwords.
    pub tokens: Option<Arc<Tokens>>,
}

impl BrokerConfig {
    /// The defaults, for a data folder.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            sync: SyncMode::Fsync,
            log_file_size: 64 << 20,
            message_memory: 16 << 20,
            limits: Limits::default(),
            node_name: "mambamq@localhost".to_owned(),
            cluster_name: "mambamq@localhost".to_owned(),
            product: "RabbitMQ".to_owned(),
            version: "4.0.5".to_owned(),
            user: ("guest".to_owned(), "guest".to_owned()),
            user_tags: vec!["administrator".to_owned()],
            default_vhost: DEFAULT_VHOST.to_owned(),
            seed_new_node: true,
            anonymous_user: None,
            loopback_users: vec!["guest".to_owned()],
            event_vhost: None,
            tokens: None,
        }
    }
}

/// Which resources are short (`spec: semantics §20`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    /// Memory is above its watermark.
    pub memory: bool,
    /// Free disk space is below its limit.
    pub disk: bool,
}

impl Alarms {
    const MEMORY: u8 = 1;
    const DISK: u8 = 2;

    fn bits(self) -> u8 {
        u8::from(self.memory) * Self::MEMORY + u8::from(self.disk) * Self::DISK
    }

    const fn from_bits(bits: u8) -> Self {
        Self {
            memory: bits & Self::MEMORY != 0,
            disk: bits & Self::DISK != 0,
        }
    }

    /// The reason `connection.blocked` gives; `None` when all is well.
    pub(crate) const fn reason(self) -> Option<&'static str> {
        match (self.memory, self.disk) {
            (false, false) => None,
            (true, false) => Some("low on memory"),
            (false, true) => Some("low on disk"),
            (true, true) => Some("low on memory & disk"),
        }
    }
}

/// A change of definitions, and what may be forgotten once it is durable.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) definitions: Vec<DefinitionChange>,
    /// Deleted queues with the places of their stored messages.
    pub(crate) forget: Vec<(QueueId, Ended)>,
}

impl From<Vec<DefinitionChange>> for Changes {
    fn from(definitions: Vec<DefinitionChange>) -> Self {
        Self {
            definitions,
            forget: Vec::new(),
        }
    }
}

/// A queue that was deleted.
#[derive(Debug, Default)]
pub(crate) struct RemovedQueue {
    /// Ready messages dropped with it.
    pub(crate) ready: u64,
    /// The change of definitions, if there is one.
    pub(crate) commit: Option<Arc<Commit>>,
}

/// Where replies to a direct reply-to consumer go.
#[derive(Clone, Debug)]
pub(crate) struct ReplyTarget {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) channel: mamba_types::ChannelId,
}

/// One node.
#[derive(Debug)]
pub struct Broker {
    pub(crate) config: BrokerConfig,
    pub(crate) store: StoreHandle,
    pub(crate) metrics: Metrics,
    session_config: Arc<SessionConfig>,
    /// The same where TLS proves who the client is.
    external_session_config: Arc<SessionConfig>,
    pub(crate) access: Arc<Access>,
    pub(crate) vhosts: RwLock<HashMap<Arc<str>, Arc<Vhost>>>,
    /// Held while a tenant changes: validated, applied and handed to the disk in one order.
    pub(crate) changing: Mutex<()>,
    /// Held while something is made whose number on the node is limited.
    pub(crate) making: Mutex<()>,
    /// Queues whose deletion could not be stored yet: the log keeps what they held until it is.
    forget_owed: Arc<Mutex<Vec<(QueueId, Ended)>>>,
    /// Held while definitions are imported.
    pub(crate) importing: Mutex<()>,
    pub(crate) global_parameters: RwLock<BTreeMap<String, serde_json::Value>>,
    pub(crate) events: Option<Events>,
    connections: Mutex<HashMap<u64, Registered>>,
    replies: RwLock<HashMap<Arc<str>, ReplyTarget>>,
    next_connection: AtomicU64,
    /// Connections past `connection.open`.
    opened: AtomicUsize,
    pub(crate) timers: Arc<Timers>,
    paging: Arc<Paging>,
    deaths: Arc<Deaths>,
    alarms: AtomicU8,
    stopping: AtomicBool,
    pub(crate) seed: u64,
    draws: AtomicU64,
    report: RecoveryReport,
}

/// Makes the exchange for events where they are published.
fn declare_events(vhost: &Vhost, config: &BrokerConfig) {
    if config.event_vhost.as_deref() == Some(&*vhost.name) {
        let mut table = vhost.table.write();
        table.predeclare_internal(EVENT_EXCHANGE, ExchangeKind::Topic);
    }
}

/// A connection the node knows of.
#[derive(Debug)]
struct Registered {
    outbox: Arc<Outbox>,
    presence: Arc<Presence>,
    /// Who it is and where, from `connection.open` on.
    login: Option<(Arc<str>, Arc<str>)>,
    home: Option<Arc<Vhost>>,
}

/// A connection's number, outbox and presence, and its user and virtual host.
pub(crate) type ConnectionEntry<'a> = (
    u64,
    &'a Arc<Outbox>,
    &'a Arc<Presence>,
    Option<&'a (Arc<str>, Arc<str>)>,
);

/// The store with a name for `Debug`.
pub(crate) struct StoreHandle(pub(crate) Store);

impl std::fmt::Debug for StoreHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Broker {
    /// Opens the data folder and brings back what it holds. `seed` feeds everything that is drawn by chance; `unix_ms` is the
    /// time, in milliseconds since 1970.
    ///
    /// # Errors
    /// [`OpenError`] says what to do.
    pub fn open(config: BrokerConfig, seed: u64, unix_ms: u64) -> Result<Arc<Self>, OpenError> {
        let open = |store_config| Store::open(store_config, Arc::new(RealDisk::new()));
        Self::open_on(config, open, seed, unix_ms)
    }

    /// Like [`Self::open`], with the store opened by `open`: on another disk, or without threads.
    ///
    /// # Errors
    /// [`OpenError`] says what to do.
    pub fn open_on(
        config: BrokerConfig,
        open: impl FnOnce(StoreConfig) -> Result<(Store, Recovered), OpenError>,
        seed: u64,
        unix_ms: u64,
    ) -> Result<Arc<Self>, OpenError> {
        let mut store_config = StoreConfig::new(&config.data_dir);
        store_config.sync = config.sync;
        store_config.file_size = config.log_file_size;
        let (store, mut recovered) = open(store_config)?;
        let timers: Arc<Timers> = Arc::default();
        let paging = Paging::new(config.message_memory);
        let deaths: Arc<Deaths> = Arc::default();
        let mut definitions = std::mem::take(&mut recovered.definitions);
        if config.seed_new_node {
            tenants::seed_new_node(&store, &config, &mut definitions)?;
        }
        let directory = tenants::directory(&definitions);
        let global_parameters = std::mem::take(&mut definitions.global_parameters);
        let mut vhosts = HashMap::new();
        for (vhost, own) in tenants::by_vhost(definitions) {
            let settings = tenants::settings(&vhost);
            let vhost = Arc::new(Vhost::new(
                &vhost.name,
                settings,
                seed,
                Arc::clone(&timers),
                Arc::clone(&paging),
                Arc::clone(&deaths),
                unix_ms,
            ));
            declare_events(&vhost, &config);
            vhost.recover(&store, own, &mut recovered);
            vhosts.insert(Arc::clone(&vhost.name), vhost);
        }
        for queue in vhosts.values().flat_map(|vhost| vhost.queues()) {
            queue.start();
        }
        let access = Access::new(
            directory,
            config.loopback_users.clone(),
            config.tokens.clone(),
            seed,
        );
        Ok(Arc::new(Self {
            access: Arc::new(access),
            changing: Mutex::default(),
            making: Mutex::default(),
            forget_owed: Arc::default(),
            importing: Mutex::default(),
            global_parameters: RwLock::new(
                global_parameters
                    .into_iter()
                    .map(|parameter| (parameter.name, parameter.value))
                    .collect(),
            ),
            events: config.event_vhost.clone().map(Events::new),
            metrics: Metrics::default(),
            session_config: Self::session_config(&config, &[]),
            external_session_config: Self::session_config(&config, &["EXTERNAL"]),
            vhosts: RwLock::new(vhosts),
            connections: Mutex::default(),
            replies: RwLock::default(),
            next_connection: AtomicU64::new(1),
            opened: AtomicUsize::new(0),
            timers,
            paging,
            deaths,
            alarms: AtomicU8::new(0),
            stopping: AtomicBool::new(false),
            seed,
            draws: AtomicU64::new(0),
            report: recovered.report,
            store: StoreHandle(store),
            config,
        }))
    }

    pub(crate) fn new_vhost(&self, name: &str, settings: VhostSettings, unix_ms: u64) -> Vhost {
        let vhost = Vhost::new(
            name,
            settings,
            self.seed,
            Arc::clone(&self.timers),
            Arc::clone(&self.paging),
            Arc::clone(&self.deaths),
            unix_ms,
        );
        declare_events(&vhost, &self.config);
        vhost
    }

    /// What recovery met at the start.
    pub const fn recovery_report(&self) -> &RecoveryReport {
        &self.report
    }

    /// The store, for its lock file and its free space.
    pub const fn store(&self) -> &Store {
        &self.store.0
    }

    /// The configuration.
    pub const fn config(&self) -> &BrokerConfig {
        &self.config
    }

    /// A virtual host by name.
    #[must_use]
    pub fn vhost(&self, name: &str) -> Option<Arc<Vhost>> {
        self.vhosts.read().get(name).cloned()
    }

    /// All virtual hosts, by name.
    #[must_use]
    pub fn vhosts(&self) -> Vec<Arc<Vhost>> {
        let mut all: Vec<_> = self.vhosts.read().values().cloned().collect();
        all.sort_by(|left, right| left.name.cmp(&right.name));
        all
    }

    /// Starts the protocol on a socket that was accepted `now`. `None` when the node is full or stopping: close
    /// the socket.
    pub fn connect(
        self: &Arc<Self>,
        peer: SocketAddr,
        local: SocketAddr,
        now: Now,
    ) -> Option<Connection> {
        self.connect_by(peer, local, None, now)
    }

    /// The same on a socket with TLS, after its handshake.
    pub fn connect_secured(
        self: &Arc<Self>,
        peer: SocketAddr,
        local: SocketAddr,
        facts: TlsFacts,
        now: Now,
    ) -> Option<Connection> {
        self.connect_by(peer, local, Some(Arc::new(facts)), now)
    }

    fn connect_by(
        self: &Arc<Self>,
        peer: SocketAddr,
        local: SocketAddr,
        tls: Option<Arc<TlsFacts>>,
        now: Now,
    ) -> Option<Connection> {
        if self.stopping.load(Ordering::Acquire) {
            return None;
        }
        let mut connections = self.connections.lock();
        let limit = self.config.limits.connections_max;
        if connections.len() >= limit.saturating_add(HANDSHAKES_MAX) {
            tracing::warn!(%peer, limit, "connection refused: limits.connections_max is reached");
            return None;
        }
        let id = self.next_connection();
        let outbox = Outbox::new(id, self.config.limits.outbox_bytes_max);
        let external = tls.as_ref().is_some_and(|tls| tls.offers_external);
        let origin = Origin { peer, local, tls };
        let presence = Arc::new(Presence::new(origin, now.unix_ms));
        let registered = Registered {
            outbox: Arc::clone(&outbox),
            presence: Arc::clone(&presence),
            login: None,
            home: None,
        };
        connections.insert(id, registered);
        drop(connections);
        Some(Connection::new(
            Arc::clone(self),
            outbox,
            if external {
                Arc::clone(&self.external_session_config)
            } else {
                Arc::clone(&self.session_config)
            },
            presence,
            now,
        ))
    }

    /// Counts a connection that wants to be opened. False when the node has as many as it may.
    pub(crate) fn admit(&self) -> bool {
        let limit = self.config.limits.connections_max;
        self.opened
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |opened| {
                (opened < limit).then_some(opened + 1)
            })
            .is_ok()
    }

    /// Takes back an [`Self::admit`].
    pub(crate) fn discharge(&self) {
        self.opened.fetch_sub(1, Ordering::AcqRel);
    }

    /// Notes who a connection is and where, so that it can be closed with its user or virtual host.
    pub(crate) fn register_login(&self, id: u64, user: &Arc<str>, vhost: &Arc<Vhost>) {
        if let Some(registered) = self.connections.lock().get_mut(&id) {
            registered.login = Some((Arc::clone(user), Arc::clone(&vhost.name)));
            registered.home = Some(Arc::clone(vhost));
        }
    }

    /// Asks the connections to close (320) whose user and virtual host `concerned` says yes to.
    pub(crate) fn close_connections_of(
        &self,
        concerned: impl Fn(&str, &str) -> bool,
        text: &str,
    ) -> usize {
        let mut outboxes: Vec<Arc<Outbox>> = self
            .connections
            .lock()
            .values()
            .filter(|registered| {
                let login = registered.login.as_ref();
                login.is_some_and(|(user, vhost)| concerned(user, vhost))
            })
            .map(|registered| Arc::clone(&registered.outbox))
            .collect();
        outboxes.sort_unstable_by_key(|outbox| outbox.connection);
        for outbox in &outboxes {
            let violation = Violation::connection(HardError::ConnectionForced, text);
            outbox.push(Notice::Close(violation));
        }
        outboxes.len()
    }

    pub(crate) fn forget_connection(&self, id: u64) {
        let mut connections = self.connections.lock();
        let ended = connections.remove(&id);
        if let Some(Registered {
            presence,
            home: Some(home),
            ..
        }) = &ended
        {
            home.ended_traffic.add(&presence.traffic());
        }
        drop(connections);
        // The last one in a deleted virtual host takes it along, outside the lock.
        drop(ended);
    }

    /// What went over the sockets of each virtual host's connections, those that have ended included.
    #[must_use]
    pub fn traffic_by_vhost(&self) -> HashMap<Arc<str>, Traffic> {
        let vhosts = self.vhosts();
        let connections = self.connections.lock();
        let mut sums: HashMap<Arc<str>, Traffic> = vhosts
            .iter()
            .map(|vhost| (Arc::clone(&vhost.name), vhost.ended_traffic.read()))
            .collect();
        #[expect(clippy::iter_over_hash_type, reason = "sums have no order")]
        for registered in connections.values() {
            if let Some(home) = &registered.home
                && let Some(sum) = sums.get_mut(&home.name)
            {
                sum.add(&registered.presence.traffic());
            }
        }
        sums
    }

    /// Looks at every connection: number, outbox, presence, and who it is where, once it is open.
    pub(crate) fn with_connections<R>(
        &self,
        look: impl FnOnce(&mut dyn Iterator<Item = ConnectionEntry<'_>>) -> R,
    ) -> R {
        let connections = self.connections.lock();
        look(&mut connections.iter().map(|(id, registered)| {
            let Registered {
                outbox,
                presence,
                login,
                home: _,
            } = registered;
            (*id, outbox, presence, login.as_ref())
        }))
    }

    /// The outbox and presence of one connection.
    pub(crate) fn connection_entry(&self, id: u64) -> Option<(Arc<Outbox>, Arc<Presence>)> {
        let connections = self.connections.lock();
        let registered = connections.get(&id)?;
        Some((
            Arc::clone(&registered.outbox),
            Arc::clone(&registered.presence),
        ))
    }

    /// The number of the next connection.
    pub(crate) fn next_connection(&self) -> u64 {
        self.next_connection.fetch_add(1, Ordering::Relaxed)
    }

    /// Connections open now, those in the handshake included.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.connections.lock().len()
    }

    /// `more` are mechanisms that are offered besides those with passwords.
    fn session_config(config: &BrokerConfig, more: &[&str]) -> Arc<SessionConfig> {
        let mut mechanisms = vec!["PLAIN", "AMQPLAIN"];
        mechanisms.extend(more);
        mechanisms.extend(config.anonymous_user.is_some().then_some("ANONYMOUS"));
        Arc::new(SessionConfig {
            limits: config.limits.clone(),
            server_properties: Self::server_properties(config),
            mechanisms: mechanisms.join(" "),
        })
    }

    /// Counts a connection that was refused before AMQP began: no TLS, a certificate that is not trusted, no PROXY header where
    /// one is due.
    pub fn count_refused_preface(&self) {
        let mut counts = Counts {
            prefaces_refused: 1,
            ..Counts::default()
        };
        self.metrics.add(&mut counts);
    }

    fn server_properties(config: &BrokerConfig) -> FieldTable {
        let text = |text: &str| FieldValue::LongString(text.into());
        let capabilities = [
            "publisher_confirms",
            "exchange_exchange_bindings",
            "basic.nack",
            "consumer_cancel_notify",
            "connection.blocked",
            "consumer_priorities",
            "authentication_failure_close",
            "per_consumer_qos",
            "direct_reply_to",
        ];
        let mut able = FieldTable::default();
        for capability in capabilities {
            able.insert(ShortString::from(capability), FieldValue::Boolean(true));
        }
        let mut properties = FieldTable::default();
        properties.insert("capabilities".into(), FieldValue::FieldTable(able));
        properties.insert("cluster_name".into(), text(&config.cluster_name));
        properties.insert(
            "copyright".into(),
            text("Copyright (c) the MambaMQ authors"),
        );
        properties.insert("information".into(), text("MambaMQ, an AMQP 0-9-1 broker"));
        properties.insert(
            "platform".into(),
            text(concat!("MambaMQ/", env!("CARGO_PKG_VERSION"))),
        );
        properties.insert("product".into(), text(&config.product));
        properties.insert("version".into(), text(&config.version));
        properties
    }

    /// The alarms that are on.
    pub fn alarms(&self) -> Alarms {
        Alarms::from_bits(self.alarms.load(Ordering::Acquire))
    }

    /// Switches alarms; connections that publish are held back while any is on.
    pub fn set_alarms(&self, alarms: Alarms) {
        let before = self.alarms.swap(alarms.bits(), Ordering::AcqRel);
        if before == alarms.bits() {
            return;
        }
        match alarms.reason() {
            Some(reason) => tracing::warn!(reason, "alarm: publishing connections are blocked"),
            None => tracing::info!("alarm is over: publishing connections go on"),
        }
        let before = Alarms::from_bits(before);
        for (source, was, is) in [
            ("memory", before.memory, alarms.memory),
            ("disk", before.disk, alarms.disk),
        ] {
            if was != is {
                let name = if is { "alarm.set" } else { "alarm.cleared" };
                self.tell(name, |event| {
                    event
                        .text("source", source)
                        .text("node", &self.config.node_name);
                });
            }
        }
        self.for_each_outbox(Outbox::ring);
    }

    /// A 128-bit number nobody can guess from another one's, as 22 characters of base64url.
    pub(crate) fn draw_name(&self, prefix: &str) -> String {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let draw = self.draws.fetch_add(1, Ordering::Relaxed);
        let mix = |salt: u64| {
            use std::hash::BuildHasher;
            foldhash::quality::FixedState::with_seed(self.seed ^ salt).hash_one((
                draw,
                salt,
                self.store.0.node_id(),
                self.store.0.epoch(),
            ))
        };
        let mut number =
            (u128::from(mix(0x9E37_79B9_7F4A_7C15)) << 64) | u128::from(mix(0xC2B2_AE3D_27D4_EB4F));
        let mut name = prefix.to_owned();
        for _ in 0..DRAWN_LEN {
            name.push(char::from(DIGITS[(number & 63) as usize]));
            number >>= 6;
        }
        name
    }

    /// The first sequence number of a queue that is made or recovered in this run.
    pub(crate) fn first_sequence(store: &Store) -> Sequence {
        Sequence((store.epoch() << 40) + 1)
    }

    pub(crate) fn register_reply(&self, token: Arc<str>, target: ReplyTarget) {
        self.replies.write().insert(token, target);
    }

    pub(crate) fn forget_reply(&self, token: &str) {
        self.replies.write().remove(token);
    }

    pub(crate) fn reply_target(&self, token: &str) -> Option<ReplyTarget> {
        self.replies.read().get(token).cloned()
    }

    /// Hands a reply to its requester's connection; lost when the requester is gone or does not read.
    pub(crate) fn reply(&self, token: &str, message: Message) {
        let found = self
            .replies
            .read()
            .get_key_value(token)
            .map(|(token, target)| (Arc::clone(token), target.clone()));
        if let Some((token, target)) = found
            && target.outbox.room() > 0
        {
            target.outbox.push(Notice::Reply {
                channel: target.channel,
                token,
                message,
            });
        }
    }

    /// Asks every connection to close (320); they go as soon as their clients answer.
    pub fn close_connections(&self, reason: &str) {
        self.stopping.store(true, Ordering::Release);
        let text = format!("broker forced connection closure with reason '{reason}'");
        self.for_each_outbox(|outbox| {
            outbox.push(Notice::Close(Violation::connection(
                HardError::ConnectionForced,
                text.clone(),
            )));
        });
    }

    /// Whether the node is on its way out.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn for_each_outbox(&self, act: impl Fn(&Outbox)) {
        let outboxes: Vec<Arc<Outbox>> = {
            let connections = self.connections.lock();
            let mut ids: Vec<_> = connections.iter().collect();
            ids.sort_unstable_by_key(|(id, _)| **id);
            ids.into_iter()
                .map(|(_, registered)| Arc::clone(&registered.outbox))
                .collect()
        };
        for outbox in outboxes {
            act(&outbox);
        }
    }

    /// Has `doorbell` rung whenever [`Self::next_deadline`] comes closer.
    pub fn on_earlier_deadline(&self, doorbell: Doorbell) {
        self.timers.listen(doorbell);
    }

    /// When to call [`Self::tick`] next, in milliseconds since 1970.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.next()
    }

    /// Does what is due: messages expire, unused queues go.
    pub fn tick(&self, now_ms: u64) {
        for vhost in self.vhosts() {
            vhost.set_time(now_ms);
        }
        loop {
            let due = self.timers.due(now_ms, TICK_QUEUES_MAX);
            if due.is_empty() {
                return;
            }
            for queue in due {
                if queue.tick(now_ms) {
                    tracing::info!(vhost = %queue.vhost, queue = %queue.name, "queue expired: unused for its x-expires");
                    self.delete_expired(&queue);
                }
            }
        }
    }

    fn delete_expired(&self, queue: &Arc<QueueCell>) {
        let unused = |queue: &mamba_queue::Queue<_>| {
            if queue.consumer_count() == 0 {
                Ok(())
            } else {
                Err(())
            }
        };
        // Refused when somebody began to use it just now: its lease runs anew.
        let _ = self.remove_queue(queue, unused);
    }

    /// Ends a queue, takes it out of the routing table and hands the change to the definitions database. `None` when
    /// it was gone already.
    pub(crate) fn remove_queue<E>(
        &self,
        queue: &Arc<QueueCell>,
        allowed: impl FnOnce(&mamba_queue::Queue<ConsumerPort>) -> Result<(), E>,
    ) -> Result<Option<RemovedQueue>, E> {
        let Some(vhost) = self.vhost(&queue.vhost) else {
            return Ok(None);
        };
        let mut table = vhost.table.write();
        if queue.is_deleted() {
            return Ok(None);
        }
        let ended = queue.end(allowed)?;
        self.timers.remove(queue.id);
        let removed = table.remove_queue(&queue.name);
        self.tell_removed(&vhost, &removed);
        self.tell_queue_gone(queue);
        let mut definitions = vhost.changes_of(&removed);
        if queue.declaration.durable {
            definitions.push(DefinitionChange::delete(&vhost.queue_definition(queue)));
        }
        let ready = ended.ready;
        let (forget, at_once) = if queue.declaration.durable {
            (vec![(queue.id, ended)], None)
        } else {
            (Vec::new(), Some(ended))
        };
        let commit = self.commit(Changes {
            definitions,
            forget,
        });
        drop(table);
        if let Some(ended) = at_once {
            ended.forget(queue.id, self.store.0.log());
        }
        let mut counts = Counts {
            queues_deleted: 1,
            ..Counts::default()
        };
        self.metrics.add(&mut counts);
        Ok(Some(RemovedQueue { ready, commit }))
    }

    /// Hands a change to the definitions database; `None` when there is nothing to store. Call it under the lock of
    /// the routing table that the change was made in, so that the database sees changes in the table's order.
    pub(crate) fn commit(&self, changes: impl Into<Changes>) -> Option<Arc<Commit>> {
        let Changes {
            definitions,
            forget,
        } = changes.into();
        if definitions.is_empty() {
            return None;
        }
        Some(self.submit(definitions, forget))
    }

    /// What a reply that says "it is so already" waits for: what made it so may be on its way to the disk, or may have failed.
    pub(crate) fn definitions_on_their_way(&self) -> Option<Arc<Commit>> {
        if self.store.0.definitions().is_settled() {
            return None;
        }
        Some(self.submit(Vec::new(), Vec::new()))
    }

    fn submit(
        &self,
        definitions: Vec<DefinitionChange>,
        forget: Vec<(QueueId, Ended)>,
    ) -> Arc<Commit> {
        let log = self.store.0.log().clone();
        let commit = Arc::new(Commit::default());
        let decided = Arc::clone(&commit);
        let owed = Arc::clone(&self.forget_owed);
        let done = move |result: Result<(), StoreError>| {
            let mut forget = forget;
            if let Err(error) = &result {
                tracing::error!(%error, "a change of definitions could not be stored; it goes along with the next one");
                owed.lock().append(&mut forget);
            } else {
                // What failed before has been stored along with this.
                forget.append(&mut owed.lock());
                for (queue, ended) in forget {
                    ended.forget(queue, &log);
                }
            }
            decided.decide(result.is_ok());
        };
        self.store
            .0
            .definitions()
            .submit(definitions, Box::new(done));
        commit
    }

    /// Keeps the log small and its recovery short, and queues nobody uses within their share of memory. Call it now and then, and
    /// when the log begins a new file.
    pub fn maintain(&self) {
        if self.paging.is_tight() {
            for queue in self.all_queues() {
                queue.tidy();
            }
        }
        let log = self.store.0.log();
        if log.is_full() {
            // Deliveries that waited for the log go on without it.
            for queue in self.all_queues() {
                queue.resume();
            }
            self.for_each_outbox(Outbox::ring);
        }
        if let Some(checkpoint) = log.checkpoint_due() {
            self.write_checkpoint(checkpoint);
        }
        if let Some(mut relocation) = log.relocation_candidate() {
            let in_file = relocation.queues();
            let queues = self.all_queues();
            let is_in_file = |id: QueueId| in_file.binary_search(&id).is_ok();
            let emptied = queues.iter().all(|queue| {
                (!is_in_file(queue.id) || queue.relocate(&mut relocation))
                    && (!is_in_file(queue.id.waiting_room())
                        || queue.relocate_room(&mut relocation))
            });
            if emptied {
                log.relocated(relocation);
            }
        }
    }

    fn all_queues(&self) -> Vec<Arc<QueueCell>> {
        self.vhosts()
            .iter()
            .flat_map(|vhost| vhost.queues())
            .collect()
    }

    /// Has `doorbell` rung whenever the log begins a new file: a good moment for [`Self::maintain`].
    pub fn on_new_log_file(&self, doorbell: Doorbell) {
        self.store.0.log().on_new_file(doorbell);
    }

    /// Has `doorbell` rung on a connection's thread that is about to wait for the disk ([`Connection::expect_more`]): other work of
    /// that thread can still go elsewhere.
    ///
    /// [`Connection::expect_more`]: crate::Connection::expect_more
    pub fn on_waiting_for_disk(&self, doorbell: Doorbell) {
        self.store.0.log().on_commit_here(doorbell);
    }

    /// Reads back what queues need from the disk, until [`Self::stop_paging`]. For threads of its own: it blocks.
    pub fn page_in(&self) {
        self.paging.work();
    }

    /// Reads one thing back that a queue needs, if there is one; returns whether there was.
    pub fn page_in_once(&self) -> bool {
        self.paging.work_once()
    }

    /// Ends [`Self::page_in`].
    pub fn stop_paging(&self) {
        self.paging.stop();
    }

    /// Writes down the exact state and waits until it is durable. Call it after the connections are gone.
    /// Returns whether everything is on disk.
    #[must_use]
    pub fn stop(&self) -> bool {
        let log = self.store.0.log();
        self.write_checkpoint(log.begin_checkpoint());
        let definitions = self.store.0.definitions();
        definitions.flush();
        log.clean_stop() && definitions.is_settled()
    }

    /// Has every queue write down what lives in it, and who takes each message once what it has seen. The queues are listed after the checkpoint's beginning: one that is declared
    /// later holds nothing older.
    fn write_checkpoint(&self, checkpoint: Checkpoint) {
        for queue in self.all_queues() {
            queue.checkpoint();
        }
        let log = self.store.0.log();
        for vhost in self.vhosts() {
            for ids in vhost.exchange_ids() {
                ids.checkpoint(log, vhost.unix_ms());
            }
        }
        log.checkpoint_done(checkpoint);
    }

    /// The node's counters at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.metrics.snapshot();
        (snapshot.connections, snapshot.outbox_bytes) = self.with_connections(|connections| {
            connections.fold((0, 0), |(count, octets), (_, outbox, ..)| {
                (count + 1, octets + outbox.octets() as u64)
            })
        });
        for vhost in self.vhosts() {
            for queue in vhost.queues_unsorted() {
                let gauges = queue.gauges();
                let counts = gauges.counts;
                snapshot.messages_paged_out += gauges.paged;
                snapshot.messages_persistent += gauges.persistent.unwrap_or(0);
                snapshot.message_bytes_persistent += gauges.persistent_bytes.unwrap_or(0);
                *(if queue.is_quorum() {
                    &mut snapshot.quorum_queue_memory
                } else {
                    &mut snapshot.classic_queue_memory
                }) += gauges.resident_bytes;
                snapshot.queues += 1;
                snapshot.messages_ready += counts.ready;
                snapshot.messages_unacked += counts.unacked;
                snapshot.messages_delayed += counts.delayed;
                snapshot.message_bytes_delayed += counts.delayed_bytes;
                snapshot.message_bytes_ready += counts.ready_bytes;
                snapshot.message_bytes_unacked += counts.unacked_bytes;
                snapshot.consumers += counts.consumers;
                snapshot
                    .deduplication
                    .extend(counts.deduplication.map(|counts| Deduplicator {
                        vhost: Arc::clone(&vhost.name),
                        kind: "queue",
                        name: Arc::clone(&queue.name),
                        counts,
                    }));
            }
            let exchanges = vhost.exchange_ids();
            let exchanges = exchanges.iter().map(|ids| Deduplicator {
                vhost: Arc::clone(&vhost.name),
                kind: "exchange",
                name: Arc::clone(&ids.name),
                counts: ids.counts(),
            });
            snapshot.deduplication.extend(exchanges);
        }
        // The queues came in no order.
        snapshot.deduplication.sort_unstable_by(|left, right| {
            (&left.vhost, left.kind, &left.name).cmp(&(&right.vhost, right.kind, &right.name))
        });
        let log = self.store.0.log().stats();
        snapshot.log_sync_times = log.sync_times;
        snapshot.log_group_entries = log.group_entries;
        snapshot.log_syncs = log.syncs;
        snapshot.log_sync_seconds = log.sync_time.as_secs_f64();
        snapshot.log_bytes_written = log.bytes_written;
        snapshot.log_entries = log.entries;
        snapshot.log_groups = log.groups;
        snapshot.log_files = log.files;
        snapshot.log_bytes = log.log_bytes;
        snapshot.log_live_bytes = log.live_bytes;
        snapshot.log_sealed_files = log.sealed_files;
        snapshot.log_checkpoints = log.checkpoints;
        snapshot.log_relocations = log.relocations;
        snapshot.message_bytes_in_memory = self.paging.resident() as u64;
        snapshot.messages_read_back = self.paging.read.load(Ordering::Relaxed);
        snapshot.messages_scanned = self.paging.scanned.load(Ordering::Relaxed);
        snapshot.message_bytes_paged_out = self.paging.dropped_bytes.load(Ordering::Relaxed);
        snapshot.messages_quarantined = self.paging.quarantined.load(Ordering::Relaxed);
        snapshot.deaths = self.deaths.read();
        snapshot.dead_letters_confirmed = self.deaths.confirmed();
        let alarms = self.alarms();
        snapshot.alarm_memory = alarms.memory;
        snapshot.alarm_disk = alarms.disk;
        snapshot
    }
}
