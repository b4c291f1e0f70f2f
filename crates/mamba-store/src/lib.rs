//! What survives a stop: the message log, the definitions database, and reading both back.
//!
//! Owns every file below the data folder. Must not know sockets, tokio, or the rules of queues and
//! exchanges: it keeps (queue, sequence) pairs and opaque definitions. The stored formats and their
//! invariants stand in `docs/storage.md`. Start reading at [`Store::open`], then [`log::Log`].
//!
//! ```text
//!   broker --append--> staging area --(one writer thread)--> write + fdatasync --> durable position
//!   broker <-----------------------------wakers-----------------------------------'
//! ```

pub mod definitions;
pub mod disk;
pub mod error;
mod format;
pub mod inspect;
pub mod log;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod recovery;
mod snapshot;
mod store;

pub use definitions::{
    BindingDefinition, DefinitionChange, Definitions, DestinationKind, ExchangeDefinition,
    Exported, GlobalParameterDefinition, ParameterDefinition, PendingChange, PermissionDefinition,
    PolicyDefinition, PolicyScope, QueueDefinition, Stored, StoredDefinitions,
    TopicPermissionDefinition, UserDefinition, VhostDefinition,
};
pub use disk::{Disk, DiskFile, RealDisk};
pub use error::{OpenError, StoreError};
pub use log::{
    Appended, Checkpoint, CommitHere, Damage, DurableWaker, EnqueuedRun, Listener, LiveRun,
    LoadRequest, Loaded, LoadedMessage, Log, LogConfig, LogFile, LogHold, LogStats, LogStatus,
    LogThreads, Relocated, Relocation, RelocationBatch, RelocationCursor, Seen, SeenId, Settled,
    StatusListener, SyncMode,
};
pub use recovery::{Recovered, RecoveredQueue, RecoveredRun, RecoveryReport};
pub use snapshot::{Snapshot, SnapshotError, SnapshotFile};
pub use store::{RESTORE_MARKER, Store, StoreConfig, StoreLock, format_line};
