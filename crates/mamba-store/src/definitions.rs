//! Exchanges, queues and bindings that survive a stop.

pub(crate) mod export;
mod here;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::{self, IoSlice},
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use mamba_types::QueueId;
use parking_lot::{Condvar, Mutex};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    disk::{Disk, DiskFile},
    error::{OpenError, StoreError},
    log::Listener,
};

pub use self::{export::Exported, here::DefineHere};

/// A durable exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeDefinition {
    /// Virtual host.
    pub vhost: String,
    /// Name inside the virtual host.
    pub name: String,
    /// `direct`, `fanout`, `topic`, `headers` or an extension's.
    pub kind: String,
    /// Deleted with its last binding.
    pub auto_delete: bool,
    /// Only for exchange-to-exchange bindings.
    pub internal: bool,
    /// What the log knows it by, if it remembers ids; from [`Definitions::next_queue_id`].
    #[serde(default, with = "optional_queue_id")]
    pub id: Option<QueueId>,
    /// The arguments as an encoded field table; opaque here.
    #[serde(with = "octets")]
    pub arguments: Vec<u8>,
}

/// A durable queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueDefinition {
    /// Virtual host.
    pub vhost: String,
    /// Name inside the virtual host.
    pub name: String,
    /// The identity its messages carry in the log; from [`Definitions::next_queue_id`].
    #[serde(with = "queue_id")]
    pub id: QueueId,
    /// Deleted with its last consumer.
    pub auto_delete: bool,
    /// The arguments as an encoded field table; opaque here.
    #[serde(with = "octets")]
    pub arguments: Vec<u8>,
}

/// What a binding leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DestinationKind {
    /// A queue.
    Queue,
    /// Another exchange.
    Exchange,
}

/// A durable binding: durable exchange to durable queue or exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingDefinition {
    /// Virtual host.
    pub vhost: String,
    /// The exchange messages come from.
    pub source: String,
    /// What `destination` names.
    pub destination_kind: DestinationKind,
    /// Queue or exchange messages go to.
    pub destination: String,
    /// Binding key.
    pub binding_key: String,
    /// The arguments as an encoded field table; opaque here. Part of the binding's identity.
    #[serde(with = "octets")]
    pub arguments: Vec<u8>,
}

/// A virtual host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VhostDefinition {
    /// Name.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// For people.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Type of queues that are declared without one; `None`: classic.
    #[serde(default)]
    pub default_queue_type: Option<String>,
    /// Refuses to be deleted.
    #[serde(default)]
    pub protected_from_deletion: bool,
    /// Copies messages to the trace exchange.
    #[serde(default)]
    pub tracing: bool,
    /// Open connections it may have; negative or `None`: any number.
    #[serde(default)]
    pub max_connections: Option<i64>,
    /// Queues it may have; negative or `None`: any number.
    #[serde(default)]
    pub max_queues: Option<i64>,
}

/// A user. The password is kept as a salted hash only.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserDefinition {
    /// Login name.
    pub name: String,
    /// Salt and digest in base64; empty: nobody logs in with a password.
    #[serde(default)]
    pub password_hash: String,
    /// Name of the hash algorithm.
    #[serde(default)]
    pub hashing_algorithm: String,
    /// Tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Open connections it may have; negative or `None`: any number.
    #[serde(default)]
    pub max_connections: Option<i64>,
    /// Open channels it may have; negative or `None`: any number.
    #[serde(default)]
    pub max_channels: Option<i64>,
}

impl fmt::Debug for UserDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserDefinition")
            .field("name", &self.name)
            .field("tags", &self.tags)
            .finish_non_exhaustive()
    }
}

/// What a user may do in a virtual host: three regular expressions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermissionDefinition {
    /// Virtual host.
    pub vhost: String,
    /// User.
    pub user: String,
    /// What it may create and delete.
    #[serde(default)]
    pub configure: String,
    /// Where it may publish and bind to.
    #[serde(default)]
    pub write: String,
    /// What it may consume and bind from.
    #[serde(default)]
    pub read: String,
}

/// Which topics of an exchange a user may use: two regular expressions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicPermissionDefinition {
    /// Virtual host.
    pub vhost: String,
    /// User.
    pub user: String,
    /// Topic exchange.
    pub exchange: String,
    /// Routing keys to publish with.
    #[serde(default)]
    pub write: String,
    /// Binding keys to bind with.
    #[serde(default)]
    pub read: String,
}

/// A value of the whole node that operators and extensions keep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GlobalParameterDefinition {
    /// Name.
    pub name: String,
    /// Any JSON.
    pub value: serde_json::Value,
}

/// Whose policy it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyScope {
    /// A user's.
    #[default]
    Policy,
    /// The operator's.
    OperatorPolicy,
}

/// A policy or operator policy of a virtual host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyDefinition {
    /// Virtual host.
    pub vhost: String,
    /// Whose it is.
    pub scope: PolicyScope,
    /// Name among the policies of its scope.
    pub name: String,
    /// `pattern`, `definition`, `apply-to` and `priority`, as the HTTP API has them; opaque here.
    pub body: serde_json::Value,
}

/// A runtime parameter of a virtual host that an extension keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterDefinition {
    /// Virtual host.
    pub vhost: String,
    /// Who it is for.
    pub component: String,
    /// Name inside the component.
    pub name: String,
    /// Any JSON.
    pub value: serde_json::Value,
}

/// Everything the database held at open, each list in key order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredDefinitions {
    /// Durable exchanges.
    pub exchanges: Vec<ExchangeDefinition>,
    /// Durable queues.
    pub queues: Vec<QueueDefinition>,
    /// Durable bindings.
    pub bindings: Vec<BindingDefinition>,
    /// Virtual hosts.
    pub vhosts: Vec<VhostDefinition>,
    /// Users.
    pub users: Vec<UserDefinition>,
    /// Permissions.
    pub permissions: Vec<PermissionDefinition>,
    /// Topic permissions.
    pub topic_permissions: Vec<TopicPermissionDefinition>,
    /// Global parameters.
    pub global_parameters: Vec<GlobalParameterDefinition>,
    /// Policies and operator policies.
    pub policies: Vec<PolicyDefinition>,
    /// Runtime parameters.
    pub parameters: Vec<ParameterDefinition>,
}

impl StoredDefinitions {
    /// What the log may speak of: queues, and exchanges that remember ids.
    pub(crate) fn log_ids(&self) -> impl Iterator<Item = QueueId> {
        let exchanges = self.exchanges.iter().filter_map(|exchange| exchange.id);
        self.queues.iter().map(|queue| queue.id).chain(exchanges)
    }
}

impl Stored for VhostDefinition {
    const TABLE: &'static str = "vhosts";

    fn key(&self) -> Vec<&[u8]> {
        vec![self.name.as_bytes()]
    }
}

impl Stored for UserDefinition {
    const TABLE: &'static str = "users";

    fn key(&self) -> Vec<&[u8]> {
        vec![self.name.as_bytes()]
    }
}

impl Stored for PermissionDefinition {
    const TABLE: &'static str = "permissions";

    fn key(&self) -> Vec<&[u8]> {
        vec![self.vhost.as_bytes(), self.user.as_bytes()]
    }
}

impl Stored for TopicPermissionDefinition {
    const TABLE: &'static str = "topic_permissions";

    fn key(&self) -> Vec<&[u8]> {
        vec![
            self.vhost.as_bytes(),
            self.user.as_bytes(),
            self.exchange.as_bytes(),
        ]
    }
}

impl Stored for GlobalParameterDefinition {
    const TABLE: &'static str = "global_parameters";

    fn key(&self) -> Vec<&[u8]> {
        vec![self.name.as_bytes()]
    }
}

impl Stored for PolicyDefinition {
    const TABLE: &'static str = "policies";

    fn key(&self) -> Vec<&[u8]> {
        let scope: &[u8] = match self.scope {
            PolicyScope::Policy => b"p",
            PolicyScope::OperatorPolicy => b"o",
        };
        vec![self.vhost.as_bytes(), scope, self.name.as_bytes()]
    }
}

impl Stored for ParameterDefinition {
    const TABLE: &'static str = "parameters";

    fn key(&self) -> Vec<&[u8]> {
        vec![
            self.vhost.as_bytes(),
            self.component.as_bytes(),
            self.name.as_bytes(),
        ]
    }
}

impl Stored for ExchangeDefinition {
    const TABLE: &'static str = "exchanges";

    fn key(&self) -> Vec<&[u8]> {
        vec![self.vhost.as_bytes(), self.name.as_bytes()]
    }
}

impl Stored for QueueDefinition {
    const TABLE: &'static str = "queues";

    fn key(&self) -> Vec<&[u8]> {
        vec![self.vhost.as_bytes(), self.name.as_bytes()]
    }
}

impl Stored for BindingDefinition {
    const TABLE: &'static str = "bindings";

    fn key(&self) -> Vec<&[u8]> {
        let kind: &[u8] = match self.destination_kind {
            DestinationKind::Queue => b"q",
            DestinationKind::Exchange => b"x",
        };
        vec![
            self.vhost.as_bytes(),
            self.source.as_bytes(),
            kind,
            self.destination.as_bytes(),
            self.binding_key.as_bytes(),
            &self.arguments,
        ]
    }
}

/// What can stand in the database: its table and its key. Another kind of definition is one more `impl` and
/// one more list in [`StoredDefinitions`].
///
/// Values are stored as JSON objects: a new field needs `#[serde(default)]`, and an old broker ignores it.
pub trait Stored: Serialize + DeserializeOwned {
    /// The table's name; part of the stored format.
    const TABLE: &'static str;

    /// The parts of the key, in order; part of the stored format.
    fn key(&self) -> Vec<&[u8]>;
}

/// One change; a submission's changes become durable together or not at all.
#[derive(Clone, Debug)]
pub struct DefinitionChange {
    table: &'static str,
    key: Vec<u8>,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Put(Result<Vec<u8>, StoreError>),
    Delete,
    /// Everything whose key begins like this one.
    DeleteAll,
}

impl DefinitionChange {
    fn fault(&self) -> Option<&StoreError> {
        match &self.kind {
            Kind::Put(Err(error)) => Some(error),
            Kind::Put(Ok(_)) | Kind::Delete | Kind::DeleteAll => None,
        }
    }
}

impl DefinitionChange {
    /// Stores or replaces a definition.
    #[must_use]
    pub fn put<T: Stored>(definition: &T) -> Self {
        let value = serde_json::to_vec(definition)
            .map_err(|error| StoreError::Encoding(error.to_string().into()));
        Self {
            table: T::TABLE,
            key: encode_key(&definition.key()),
            kind: Kind::Put(value),
        }
    }

    /// Removes the definition with this one's key; removing what is not there is no error.
    #[must_use]
    pub fn delete<T: Stored>(definition: &T) -> Self {
        Self {
            table: T::TABLE,
            key: encode_key(&definition.key()),
            kind: Kind::Delete,
        }
    }

    /// Removes all definitions of a kind whose key begins with these parts, such as everything in a virtual host.
    #[must_use]
    pub fn delete_all<T: Stored>(parts: &[&[u8]]) -> Self {
        Self {
            table: T::TABLE,
            key: encode_key(parts),
            kind: Kind::DeleteAll,
        }
    }
}

/// Each part behind its length, so that no two lists of parts share a key and a prefix of parts is a prefix
/// of octets.
fn encode_key(parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
    for part in parts {
        let len = u32::try_from(part.len()).unwrap_or(u32::MAX);
        key.extend_from_slice(&len.to_be_bytes());
        key.extend_from_slice(part);
    }
    key
}

type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

struct Submission {
    changes: Vec<DefinitionChange>,
    done: Done,
    /// Asks for a view of what is committed then.
    viewer: Option<export::Viewer>,
}

#[derive(Default)]
struct Backlog {
    submissions: Vec<Submission>,
    /// The thread has not been woken for what is there: see [`DefineHere`].
    held_back: bool,
    stop: bool,
}

impl Backlog {
    fn take(&mut self) -> Vec<Submission> {
        self.held_back = false;
        std::mem::take(&mut self.submissions)
    }
}

struct Shared {
    backlog: Mutex<Backlog>,
    wake: Condvar,
    next_queue_id: AtomicU64,
    commits: AtomicU64,
    /// Submissions with changes that are not decided yet.
    undecided: AtomicU64,
    /// Some change failed and has not been stored since.
    owing: AtomicBool,
    on_commit_here: Mutex<Option<Listener>>,
}

/// Handle to the definitions database; clones share it.
#[derive(Clone)]
pub struct Definitions {
    shared: Arc<Shared>,
    worker: Arc<Mutex<Worker>>,
    /// No thread commits: [`Self::turn`] does.
    manual: bool,
}

impl fmt::Debug for Definitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Definitions")
            .field("commits", &self.shared.commits)
            .finish_non_exhaustive()
    }
}

impl Definitions {
    /// Hands over changes and returns at once. `done` runs on the thread that commits, usually the database's, in the order of
    /// submission, after the changes are durable or have failed; it must not block. With no changes, `done`
    /// runs after everything submitted before, and says whether all of it is durable.
    ///
    /// Changes that failed are tried again with the next submission, ahead of it.
    pub fn submit(&self, changes: Vec<DefinitionChange>, done: Done) {
        let mut backlog = self.shared.backlog.lock();
        if backlog.stop {
            drop(backlog);
            return done(Err(StoreError::Closed));
        }
        let first = backlog.submissions.is_empty();
        if !changes.is_empty() {
            self.shared.undecided.fetch_add(1, Ordering::AcqRel);
        }
        backlog.submissions.push(Submission {
            changes,
            done,
            viewer: None,
        });
        let here = here::hold_back();
        let wake = (first || backlog.held_back) && !here;
        backlog.held_back = here && (first || backlog.held_back);
        drop(backlog);
        if wake {
            self.shared.wake.notify_one();
        }
    }

    /// Hands over changes for somebody who will wait for them.
    pub fn begin(&self, changes: Vec<DefinitionChange>) -> PendingChange {
        let (tell, outcome) = std::sync::mpsc::channel();
        self.submit(
            changes,
            Box::new(move |result| {
                let _ = tell.send(result);
            }),
        );
        // Whoever blocks cannot commit on his own.
        self.shared.wake.notify_one();
        PendingChange {
            definitions: self.clone(),
            outcome,
        }
    }

    /// Waits until everything submitted before is durable or has failed; blocks the thread.
    pub fn flush(&self) {
        if self.manual {
            while self.turn() {}
            return;
        }
        let (tell, told) = std::sync::mpsc::channel();
        self.submit(
            Vec::new(),
            Box::new(move |_| {
                let _ = tell.send(());
            }),
        );
        self.shared.wake.notify_one();
        let _ = told.recv();
    }

    /// Whether everything submitted is durable.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.shared.undecided.load(Ordering::Acquire) == 0
            && !self.shared.owing.load(Ordering::Acquire)
    }

    /// Commits what was submitted, for a database without a thread. Returns whether there was anything.
    pub fn turn(&self) -> bool {
        self.manual && self.worker.lock().turn()
    }

    /// A queue identity that was never given out before, on this start or an earlier one. Nothing needs to be
    /// stored for it: the start's epoch is part of it.
    #[must_use]
    pub fn next_queue_id(&self) -> QueueId {
        QueueId(self.shared.next_queue_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Commits since the start, for metrics.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }
}

/// Changes that were handed over and may not be durable yet.
#[derive(Debug)]
#[must_use]
pub struct PendingChange {
    definitions: Definitions,
    outcome: std::sync::mpsc::Receiver<Result<(), StoreError>>,
}

impl PendingChange {
    /// Waits until they are durable; blocks the thread.
    ///
    /// # Errors
    /// [`StoreError`]: none of them is.
    pub fn wait(self) -> Result<(), StoreError> {
        while self.definitions.turn() {}
        self.outcome.recv().unwrap_or(Err(StoreError::Closed))
    }
}

/// Version of the database's format.
const FORMAT: u32 = 1;
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
type OpenTable<'txn> = redb::Table<'txn, &'static [u8], &'static [u8]>;
type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// The database's thread; dropping it commits what was submitted and ends it.
pub(crate) struct DefinitionsThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    worker: Arc<Mutex<Worker>>,
}

impl Drop for DefinitionsThread {
    fn drop(&mut self) {
        self.shared.backlog.lock().stop = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the definitions thread panicked");
        }
        let mut worker = self.worker.lock();
        while worker.turn() {}
        // A handle may outlive us, and the database holds its file.
        worker.database = None;
    }
}

/// What an opened database says about the folder.
pub(crate) struct Opened {
    pub(crate) definitions: Definitions,
    pub(crate) thread: DefinitionsThread,
    pub(crate) stored: StoredDefinitions,
    pub(crate) node_id: [u8; 16],
    pub(crate) epoch: u64,
}

/// Opens or creates the database at `path` and counts its epoch up, durably. Without a thread, nothing is
/// committed unless [`Definitions::turn`] is called.
pub(crate) fn open(
    path: &Path,
    disk: Arc<dyn Disk>,
    with_thread: bool,
) -> Result<Opened, OpenError> {
    make_database(path, &*disk)?;
    let sync_failed = Arc::default();
    let database =
        open_database(path, &*disk, &sync_failed).map_err(|error| open_error(path, error))?;
    let (node_id, epoch) = begin_epoch(path, &*disk, &database)?;
    let stored = read_all(path, &database)?;
    let shared = Arc::new(Shared {
        backlog: Mutex::default(),
        wake: Condvar::new(),
        next_queue_id: AtomicU64::new((epoch << 32) + 1),
        commits: AtomicU64::new(0),
        undecided: AtomicU64::new(0),
        owing: AtomicBool::new(false),
        on_commit_here: Mutex::default(),
    });
    let worker = Worker {
        shared: Arc::clone(&shared),
        database: Some(database),
        path: path.to_owned(),
        disk,
        sync_failed,
        owed: Owed::default(),
        usual_commit: Duration::ZERO,
    };
    let worker = Arc::new(Mutex::new(worker));
    let thread = if with_thread {
        let (shared, worker) = (Arc::clone(&shared), Arc::clone(&worker));
        let thread = std::thread::Builder::new()
            .name("definitions".to_owned())
            .spawn(move || run(&shared, &worker))
            .map_err(|error| OpenError::io("start a thread for", path, error))?;
        Some(thread)
    } else {
        None
    };
    Ok(Opened {
        definitions: Definitions {
            shared: Arc::clone(&shared),
            worker: Arc::clone(&worker),
            manual: !with_thread,
        },
        thread: DefinitionsThread {
            shared,
            thread,
            worker,
        },
        stored,
        node_id,
        epoch,
    })
}

/// Makes a new database under another name first: one that a power cut left half made is of no use to anybody.
fn make_database(path: &Path, disk: &dyn Disk) -> Result<(), OpenError> {
    match disk.open_read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        there => {
            return there
                .map(drop)
                .map_err(|error| OpenError::io("open", path, error));
        }
    }
    let new = path.with_extension("new");
    match disk.remove(&new) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed.map_err(|error| OpenError::io("remove", &new, error))?,
    }
    let database =
        open_database(&new, disk, &Arc::default()).map_err(|error| open_error(&new, error))?;
    drop(database);
    disk.open(&new)
        .and_then(|file| file.sync_data())
        .and_then(|()| disk.rename(&new, path))
        .and_then(|()| disk.sync_dir(path.parent().unwrap_or(path)))
        .map_err(|error| OpenError::io("create", path, error))
}

/// The folder is ours alone by its lock file, so that the database needs no lock of its own.
fn open_database(
    path: &Path,
    disk: &dyn Disk,
    sync_failed: &Arc<AtomicBool>,
) -> Result<redb::Database, redb::Error> {
    let file = disk.open(path).map_err(redb::Error::Io)?;
    let mut builder = redb::Builder::new();
    // Everything is read once at a start; afterwards only what changes is touched.
    builder.set_cache_size(8 << 20);
    let sync_failed = Arc::clone(sync_failed);
    Ok(builder.create_with_backend(Backend { file, sync_failed })?)
}

/// Our disk under the database.
struct Backend {
    file: Box<dyn DiskFile>,
    sync_failed: Arc<AtomicBool>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backend")
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.file.read_at(out, offset)? < out.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file
            .sync_data()
            .inspect_err(|_| self.sync_failed.store(true, Ordering::Release))
    }

    fn write(&self, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let wrote = self.file.write_at(&[IoSlice::new(data)], offset)?;
            data = &data[wrote.min(data.len())..];
            offset += wrote as u64;
        }
        Ok(())
    }
}

fn open_error(path: &Path, error: redb::Error) -> OpenError {
    match error {
        redb::Error::Io(error) if error.kind() != io::ErrorKind::InvalidData => {
            OpenError::io("open", path, error)
        }
        redb::Error::DatabaseAlreadyOpen => OpenError::Locked {
            path: path.to_owned(),
            pid: None,
        },
        redb::Error::UpgradeRequired(found) => OpenError::Version {
            path: path.to_owned(),
            found: format!("redb {found}"),
            known: FORMAT,
        },
        error => OpenError::Definitions {
            path: path.to_owned(),
            reason: error.to_string(),
        },
    }
}

fn begin_epoch(
    path: &Path,
    disk: &dyn Disk,
    database: &redb::Database,
) -> Result<([u8; 16], u64), OpenError> {
    let fault = |error: redb::Error| open_error(path, error);
    let write = database
        .begin_write()
        .map_err(|error| fault(error.into()))?;
    let (node_id, epoch) = {
        let mut meta = write
            .open_table(META)
            .map_err(|error| fault(error.into()))?;
        let read = |name: &str| -> Result<Option<Vec<u8>>, OpenError> {
            let value = meta.get(name).map_err(|error| fault(error.into()))?;
            Ok(value.map(|value| value.value().to_vec()))
        };
        let number = |value: Option<Vec<u8>>| {
            value.and_then(|octets| <[u8; 8]>::try_from(octets).ok().map(u64::from_le_bytes))
        };
        let format = number(read("format")?);
        if let Some(format) = format
            && format != u64::from(FORMAT)
        {
            return Err(OpenError::Version {
                path: path.to_owned(),
                found: format.to_string(),
                known: FORMAT,
            });
        }
        let epoch = number(read("epoch")?).unwrap_or(0) + 1;
        let node_id = match read("node_id")?.map(<[u8; 16]>::try_from) {
            Some(Ok(node_id)) => node_id,
            _ => {
                let mut octets = [0; 16];
                disk.random(&mut octets)
                    .map_err(|error| OpenError::io("draw a random identity for", path, error))?;
                octets
            }
        };
        let values: [(&str, &[u8]); 3] = [
            ("format", &u64::from(FORMAT).to_le_bytes()),
            ("epoch", &epoch.to_le_bytes()),
            ("node_id", &node_id),
        ];
        for (name, value) in values {
            meta.insert(name, value)
                .map_err(|error| fault(error.into()))?;
        }
        (node_id, epoch)
    };
    write.commit().map_err(|error| fault(error.into()))?;
    Ok((node_id, epoch))
}

fn read_all(path: &Path, database: &redb::Database) -> Result<StoredDefinitions, OpenError> {
    let read = database
        .begin_read()
        .map_err(|error| open_error(path, error.into()))?;
    Ok(StoredDefinitions {
        exchanges: read_table(path, &read)?,
        queues: read_table(path, &read)?,
        bindings: read_table(path, &read)?,
        vhosts: read_table(path, &read)?,
        users: read_table(path, &read)?,
        permissions: read_table(path, &read)?,
        topic_permissions: read_table(path, &read)?,
        global_parameters: read_table(path, &read)?,
        policies: read_table(path, &read)?,
        parameters: read_table(path, &read)?,
    })
}

fn read_table<T: Stored>(path: &Path, read: &redb::ReadTransaction) -> Result<Vec<T>, OpenError> {
    let fault = |error: redb::Error| open_error(path, error);
    let table = match read.open_table(Table::new(T::TABLE)) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(fault(error.into())),
    };
    let mut list = Vec::new();
    for entry in table.iter().map_err(|error| fault(error.into()))? {
        let (_, value) = entry.map_err(|error| fault(error.into()))?;
        let value =
            serde_json::from_slice(value.value()).map_err(|error| OpenError::Definitions {
                path: path.to_owned(),
                reason: format!("a value in table {}: {error}", T::TABLE),
            })?;
        list.push(value);
    }
    Ok(list)
}

/// A bug in somebody's `done` must not leave the others waiting.
struct RefuseOnPanic(Arc<Shared>);

impl Drop for RefuseOnPanic {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let left = {
            let mut backlog = self.0.backlog.lock();
            backlog.stop = true;
            std::mem::take(&mut backlog.submissions)
        };
        for submission in left {
            (submission.done)(Err(StoreError::Closed));
        }
    }
}

struct Worker {
    shared: Arc<Shared>,
    /// `None` after a failed commit, until it could be opened again.
    database: Option<redb::Database>,
    path: PathBuf,
    disk: Arc<dyn Disk>,
    /// What was written and could not be synced may be lost although it can still be read: nothing may be built on it.
    sync_failed: Arc<AtomicBool>,
    /// Changes that could not be stored. Whoever submitted them goes by them all the same, and later ones build on them: they
    /// go into the next commit.
    owed: Owed,
    /// What a commit takes of late.
    usual_commit: Duration,
}

/// The database's thread: commits until there is nothing left to commit after a stop.
fn run(shared: &Arc<Shared>, worker: &Mutex<Worker>) {
    let _guard = RefuseOnPanic(Arc::clone(shared));
    loop {
        {
            let mut backlog = shared.backlog.lock();
            while backlog.submissions.is_empty() && !backlog.stop {
                shared.wake.wait(&mut backlog);
            }
            if backlog.submissions.is_empty() {
                return;
            }
        }
        // Somebody may have committed on his own meanwhile.
        worker.lock().turn();
    }
}

impl Worker {
    /// One commit of what was gathered, without waiting; false if there was nothing.
    fn turn(&mut self) -> bool {
        let submissions = self.shared.backlog.lock().take();
        if submissions.is_empty() {
            return false;
        }
        self.decide(submissions);
        true
    }

    fn decide(&mut self, submissions: Vec<Submission>) {
        let outcome = self.commit(&submissions);
        for submission in submissions {
            // Its own fault does not belong to the others.
            let own = submission
                .changes
                .iter()
                .find_map(|change| change.fault().cloned());
            if !submission.changes.is_empty() {
                self.shared.undecided.fetch_sub(1, Ordering::AcqRel);
            }
            (submission.done)(own.map_or_else(|| outcome.clone(), Err));
            if let Some(viewer) = submission.viewer {
                // Whoever asked may have gone.
                let _ = viewer.send(self.view());
            }
        }
    }

    fn view(&mut self) -> Result<export::View, StoreError> {
        let read = self
            .database()?
            .begin_read()
            .map_err(|error| store_error(error.into()))?;
        Ok(export::View {
            read,
            disk: Arc::clone(&self.disk),
        })
    }

    /// The database, opened again if a commit failed before.
    fn database(&mut self) -> Result<&redb::Database, StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None if self.sync_failed.load(Ordering::Acquire) => {
                let path = self.path.display();
                let text = format!(
                    "an earlier fdatasync of {path} failed; look at the disk, then restart"
                );
                return Err(StoreError::Failed(text.into()));
            }
            None => {
                open_database(&self.path, &*self.disk, &self.sync_failed).map_err(store_error)?
            }
        };
        Ok(self.database.insert(database))
    }

    fn commit(&mut self, submissions: &[Submission]) -> Result<(), StoreError> {
        if self.owed.is_empty() && submissions.iter().all(|one| one.changes.is_empty()) {
            return Ok(());
        }
        let outcome = self.try_commit(submissions);
        if let Err(error) = &outcome {
            tracing::error!(%error, "definitions could not be stored");
            // After an I/O error the database refuses everything until it is opened again.
            self.database = None;
            for change in sound(submissions) {
                self.owed.add(change);
            }
        } else {
            self.owed = Owed::default();
        }
        self.shared
            .owing
            .store(!self.owed.is_empty(), Ordering::Release);
        outcome
    }

    fn try_commit(&mut self, submissions: &[Submission]) -> Result<(), StoreError> {
        let write = self
            .database()?
            .begin_write()
            .map_err(|error| store_error(error.into()))?;
        apply(&write, &self.owed, submissions).map_err(store_error)?;
        let began = self.disk.now();
        write.commit().map_err(|error| store_error(error.into()))?;
        let took = self.disk.now().saturating_sub(began);
        self.usual_commit = (7 * self.usual_commit + took) / 8;
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// What an earlier commit failed to store: the ranges first, then what was put or deleted since.
#[derive(Default)]
struct Owed {
    ranges: BTreeSet<(&'static str, Vec<u8>)>,
    values: BTreeMap<(&'static str, Vec<u8>), Option<Vec<u8>>>,
}

impl Owed {
    fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.values.is_empty()
    }

    fn add(&mut self, change: &DefinitionChange) {
        let key = (change.table, change.key.clone());
        match &change.kind {
            Kind::Put(Ok(value)) => drop(self.values.insert(key, Some(value.clone()))),
            Kind::Put(Err(_)) => {}
            Kind::Delete => drop(self.values.insert(key, None)),
            Kind::DeleteAll => {
                let within = |table: &str, known: &[u8]| {
                    table == change.table && known.starts_with(&change.key)
                };
                self.values
                    .retain(|(table, known), _| !within(table, known));
                self.ranges.insert(key);
            }
        }
    }
}

/// What happens to a key.
enum Act<'a> {
    Put(&'a [u8]),
    Delete,
    DeleteAll,
}

impl<'a> Act<'a> {
    fn of(value: Option<&'a [u8]>) -> Self {
        value.map_or(Self::Delete, Self::Put)
    }
}

/// The changes of all submissions that could be encoded.
fn sound(submissions: &[Submission]) -> impl Iterator<Item = &DefinitionChange> {
    submissions
        .iter()
        .filter(|one| one.changes.iter().all(|change| change.fault().is_none()))
        .flat_map(|one| &one.changes)
}

fn apply(
    write: &redb::WriteTransaction,
    owed: &Owed,
    submissions: &[Submission],
) -> Result<(), redb::Error> {
    let mut open: Option<(&str, OpenTable<'_>)> = None;
    let ranges = owed
        .ranges
        .iter()
        .map(|(table, key)| (*table, key.as_slice(), Act::DeleteAll));
    let values = owed
        .values
        .iter()
        .map(|((table, key), value)| (*table, key.as_slice(), Act::of(value.as_deref())));
    let changes = sound(submissions).map(|change| {
        let act = match &change.kind {
            Kind::Put(value) => Act::of(value.as_deref().ok()),
            Kind::Delete => Act::of(None),
            Kind::DeleteAll => Act::DeleteAll,
        };
        (change.table, change.key.as_slice(), act)
    });
    for (name, key, act) in ranges.chain(values).chain(changes) {
        if open.as_ref().is_none_or(|(open, _)| *open != name) {
            drop(open.take());
            open = Some((name, write.open_table(Table::new(name))?));
        }
        let Some((_, table)) = &mut open else {
            continue;
        };
        match act {
            Act::Put(value) => drop(table.insert(key, value)?),
            Act::Delete => drop(table.remove(key)?),
            Act::DeleteAll => {
                let after = after_prefix(key);
                let range = (Bound::Included(key), Bound::Excluded(after.as_slice()));
                for removed in table.extract_from_if::<&[u8], _>(range, |_, _| true)? {
                    removed?;
                }
            }
        }
    }
    Ok(())
}

/// The first key behind all that begin with this one. No key consists of 0xFF alone: each part begins with its length.
fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut after = prefix.to_vec();
    while let Some(last) = after.pop() {
        if last < u8::MAX {
            after.push(last + 1);
            break;
        }
    }
    after
}

fn store_error(error: redb::Error) -> StoreError {
    match error {
        redb::Error::Io(error)
            if matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ) =>
        {
            StoreError::Full
        }
        error => StoreError::Failed(error.to_string().into()),
    }
}

mod octets {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    // Hexadecimal keeps the stored values readable and the format independent of a binary encoding's version.
    pub(super) fn serialize<S: Serializer>(octets: &[u8], to: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(octets.len() * 2);
        for octet in octets {
            text.push(char::from(DIGITS[usize::from(octet >> 4)]));
            text.push(char::from(DIGITS[usize::from(octet & 15)]));
        }
        to.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let digit = |octet: u8| {
            char::from(octet)
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
                .ok_or_else(|| D::Error::custom("not a hexadecimal digit"))
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if !rest.is_empty() {
            return Err(D::Error::custom("odd number of hexadecimal digits"));
        }
        pairs
            .iter()
            .map(|[high, low]| Ok(digit(*high)? << 4 | digit(*low)?))
            .collect()
    }
}

mod optional_queue_id {
    use mamba_types::QueueId;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde asks for it")]
    pub(super) fn serialize<S: Serializer>(id: &Option<QueueId>, to: S) -> Result<S::Ok, S::Error> {
        id.map(|id| id.0).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<QueueId>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.map(QueueId))
    }
}

mod queue_id {
    use mamba_types::QueueId;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(id: &QueueId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(id.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<QueueId, D::Error> {
        u64::deserialize(from).map(QueueId)
    }
}
