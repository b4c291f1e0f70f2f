//! What an operator does to a queue: in nobody's name, so no permission is asked and an exclusive queue is one like any other.

use std::sync::Arc;

use mamba_queue::QueueKind;

use crate::{
    broker::Broker,
    commit::CommitState,
    outbox::{ConsumerPort, Outbox},
    queue_cell::QueueCell,
};

/// When a queue may be deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteConditions {
    /// Only without ready messages.
    pub if_empty: bool,
    /// Only without consumers.
    pub if_unused: bool,
}

/// Why a queue is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperatorError {
    /// There is no such virtual host.
    #[error("Virtual host '{0}' does not exist")]
    NoSuchVhost(String),
    /// There is no such queue in it.
    #[error("no queue '{queue}' in vhost '{vhost}'")]
    NoSuchQueue {
        /// The queue.
        queue: String,
        /// The virtual host.
        vhost: String,
    },
    /// It has ready messages.
    #[error("{0} not empty")]
    NotEmpty(String),
    /// It has consumers.
    #[error("{0} in use")]
    InUse(String),
    /// A quorum queue is deleted without conditions.
    #[error("{0} is a quorum queue, which cannot be deleted on a condition")]
    NoConditions(String),
    /// The disk did not take it.
    #[error("the deletion could not be stored; see the broker's log")]
    Storage,
}

impl Broker {
    /// Drops a queue's ready messages; returns how many.
    ///
    /// # Errors
    /// When there is no such queue.
    pub fn purge_queue(&self, vhost: &str, queue: &str) -> Result<u64, OperatorError> {
        let count = self.operators_queue(vhost, queue)?.purge();
        Ok(count as u64)
    }

    /// Deletes a queue and blocks until that is durable; returns how many ready messages went with it.
    ///
    /// # Errors
    /// When there is no such queue, the conditions do not hold, or the disk failed.
    pub fn delete_queue(
        &self,
        vhost: &str,
        queue: &str,
        conditions: DeleteConditions,
    ) -> Result<u64, OperatorError> {
        let cell = self.operators_queue(vhost, queue)?;
        let printed = cell.printed();
        let quorum = cell.declaration.settings.kind == QueueKind::Quorum;
        if quorum && conditions != DeleteConditions::default() {
            return Err(OperatorError::NoConditions(printed));
        }
        let allowed = |queue: &mamba_queue::Queue<ConsumerPort>| {
            if conditions.if_unused && queue.consumer_count() > 0 {
                Err(OperatorError::InUse(printed))
            } else if conditions.if_empty && queue.ready_count() > 0 {
                Err(OperatorError::NotEmpty(printed))
            } else {
                Ok(())
            }
        };
        let removed = self.remove_queue(&cell, allowed)?;
        // Gone meanwhile: by somebody whose deletion may not be durable yet.
        let (ready, commit) = match removed {
            Some(removed) => (removed.ready, removed.commit),
            None => (0, self.definitions_on_their_way()),
        };
        let outbox = Outbox::new(self.next_connection(), 0);
        match commit.map(|commit| commit.wait(&outbox)) {
            None | Some(CommitState::Done) => Ok(ready),
            Some(CommitState::Pending | CommitState::Failed) => Err(OperatorError::Storage),
        }
    }

    fn operators_queue(&self, vhost: &str, queue: &str) -> Result<Arc<QueueCell>, OperatorError> {
        let home = self.vhost(vhost);
        let home = home.ok_or_else(|| OperatorError::NoSuchVhost(vhost.to_owned()))?;
        home.queue(queue).ok_or_else(|| OperatorError::NoSuchQueue {
            queue: queue.to_owned(),
            vhost: vhost.to_owned(),
        })
    }
}
