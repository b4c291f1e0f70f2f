//! A copy of the database as it stands at one moment, while it goes on being used.

use std::{
    path::Path,
    sync::{Arc, mpsc},
};

use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, TableHandle};

use super::{
    BindingDefinition, Definitions, ExchangeDefinition, META, QueueDefinition, Stored, Submission,
    open_database, open_error, store_error,
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

/// Opens a database nobody uses, which repairs it if its last user crashed, and tells whose it is and what is in it.
pub(crate) fn settle(path: &Path, disk: &dyn Disk) -> Result<([u8; 16], Exported), OpenError> {
    let database =
        open_database(path, disk, &Arc::default()).map_err(|error| open_error(path, error))?;
    let read = database
        .begin_read()
        .map_err(|error| open_error(path, error.into()))?;
    look(&read).map_err(|error| open_error(path, error))
}

fn look(read: &redb::ReadTransaction) -> Result<([u8; 16], Exported), redb::Error> {
    let mut node_id = [0; 16];
    if let Some(value) = read.open_table(META)?.get("node_id")?
        && let Ok(octets) = <[u8; 16]>::try_from(value.value())
    {
        node_id = octets;
    }
    let count = |name: &str| match read.open_table(Octets::new(name)) {
        Ok(table) => table.len(),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(0),
        Err(redb::TableError::Storage(error)) => Err(error),
        // Of another type: then it holds no definitions.
        Err(_) => Ok(0),
    };
    let exported = Exported {
        queues: count(QueueDefinition::TABLE)?,
        exchanges: count(ExchangeDefinition::TABLE)?,
        bindings: count(BindingDefinition::TABLE)?,
    };
    Ok((node_id, exported))
}
