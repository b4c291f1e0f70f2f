//! A copy of the database as it stands at one moment, while it goes on being used.

use std::{
    io,
    path::Path,
    sync::{Arc, mpsc},
};

use redb::{
    ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, TableHandle,
    backends::InMemoryBackend,
};

use super::{
    BindingDefinition, Definitions, ExchangeDefinition, META, QueueDefinition, Stored,
    StoredDefinitions, Submission, open_database, open_error, read_all, store_error,
};
use crate::{
    disk::Disk,
    error::{OpenError, StoreError},
};

type Octets<'name> = TableDefinition<'name, &'static [u8], &'static [u8]>;

/// Where the database's thread puts a view of what is committed.
pub(super) type Viewer = mpsc::Sender<Result<View, StoreError>>;

/// What was committed at one moment.
pub(super) struct View {
    pub(super) read: redb::ReadTransaction,
    pub(super) disk: Arc<dyn Disk>,
}

/// How many definitions an export holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Durable queues.
    pub queues: u64,
    /// Durable exchanges.
    pub exchanges: u64,
    /// Durable bindings.
    pub bindings: u64,
}

impl Definitions {
    /// Writes everything submitted before and committed into a new database file at `path`, durably; later
    /// changes are not in it, and are not held up by it. Blocks the thread.
    ///
    /// # Errors
    /// [`StoreError`]; what stands at `path` is worth nothing then.
    pub fn export(&self, path: &Path) -> Result<Exported, StoreError> {
        let (viewer, view) = mpsc::channel();
        {
            let mut backlog = self.shared.backlog.lock();
            if backlog.stop {
                return Err(StoreError::Closed);
            }
            backlog.submissions.push(Submission {
                changes: Vec::new(),
                done: Box::new(|_| ()),
                viewer: Some(viewer),
            });
        }
        self.shared.wake.notify_one();
        while self.turn() {}
        let View { read, disk } = view.recv().unwrap_or(Err(StoreError::Closed))?;
        let result = copy(&read, path, &*disk);
        result.map_err(store_error)
    }
}

/// All tables but `meta` have octets as keys and values ([`super::Stored`]), so that the copy needs to know none of them.
fn copy(
    read: &redb::ReadTransaction,
    path: &Path,
    disk: &dyn Disk,
) -> Result<Exported, redb::Error> {
    let database = open_database(path, disk, &Arc::default())?;
    let write = database.begin_write()?;
    let mut exported = Exported::default();
    for handle in read.list_tables()? {
        let name = handle.name();
        if name == TableHandle::name(&META) {
            let (from, mut to) = (read.open_table(META)?, write.open_table(META)?);
            for entry in from.iter()? {
                let (key, value) = entry?;
                to.insert(key.value(), value.value())?;
            }
            continue;
        }
        let table = Octets::new(name);
        let (from, mut to) = (read.open_table(table)?, write.open_table(table)?);
        let mut count = 0;
        for entry in from.iter()? {
            let (key, value) = entry?;
            to.insert(key.value(), value.value())?;
            count += 1;
        }
        match name {
            QueueDefinition::TABLE => exported.queues = count,
            ExchangeDefinition::TABLE => exported.exchanges = count,
            BindingDefinition::TABLE => exported.bindings = count,
            _ => {}
        }
    }
    write.commit()?;
    Ok(exported)
}

/// A database at rest.
pub(crate) struct Held {
    pub(crate) node_id: [u8; 16],
    pub(crate) stored: StoredDefinitions,
    /// Every page has the checksum it was written with.
    pub(crate) sound: bool,
}

/// Reads a database that nobody uses without changing it: opening one may repair it, which is done to a copy in memory.
pub(crate) fn read(path: &Path, disk: &dyn Disk) -> Result<Held, OpenError> {
    let fault = |error: redb::Error| open_error(path, error);
    let memory = load(path, disk).map_err(|error| OpenError::io("read", path, error))?;
    let mut database = redb::Builder::new()
        .create_with_backend(memory)
        .map_err(|error| fault(error.into()))?;
    let sound = database
        .check_integrity()
        .map_err(|error| fault(error.into()))?;
    let mut node_id = [0; 16];
    let view = database.begin_read().map_err(|error| fault(error.into()))?;
    if let Some(value) = view
        .open_table(META)
        .map_err(|error| fault(error.into()))?
        .get("node_id")
        .map_err(|error| fault(error.into()))?
        && let Ok(octets) = <[u8; 16]>::try_from(value.value())
    {
        node_id = octets;
    }
    Ok(Held {
        node_id,
        stored: read_all(path, &database)?,
        sound,
    })
}

fn load(path: &Path, disk: &dyn Disk) -> io::Result<InMemoryBackend> {
    let (file, memory) = (disk.open_read(path)?, InMemoryBackend::new());
    let len = file.len()?;
    memory.set_len(len)?;
    let (mut at, mut buffer) = (0, vec![0; 1 << 20]);
    while at < len {
        let read = file.read_at(&mut buffer, at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        memory.write(at, &buffer[..read])?;
        at += read as u64;
    }
    Ok(memory)
}
