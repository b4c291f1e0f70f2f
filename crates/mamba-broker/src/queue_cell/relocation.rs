//! Moving a queue's messages out of a log file that is to be given back.

use std::sync::atomic::Ordering;

use mamba_queue::{PagedRun, Stored};
use mamba_store::{Relocated, Relocation, RelocationBatch, RelocationCursor};

use super::QueueCell;

impl QueueCell {
    /// Copies what lives of the queue in the file out of it. False if that has to wait.
    pub(crate) fn relocate(&self, relocation: &mut Relocation) -> bool {
        let mut cursor = RelocationCursor::default();
        while let Some(batch) = self.log.relocation_batch(relocation, self.id, &mut cursor) {
            self.report_damage(self.id, &batch.loaded.damaged);
            if !self.relocate_batch(relocation, batch) {
                return false;
            }
        }
        true
    }

    pub(super) fn relocate_batch(
        &self,
        relocation: &mut Relocation,
        batch: RelocationBatch,
    ) -> bool {
        let mut state = self.state.lock();
        if state.deleted {
            return true;
        }
        if !state.burying.is_empty() {
            return false;
        }
        let RelocationBatch {
            level,
            volatile,
            loaded,
        } = batch;
        let mut in_memory: Vec<&mut Stored> = Vec::new();
        let mut paged: Vec<PagedRun> = Vec::new();
        let first = loaded.messages.first().map(|message| message.sequence);
        let last = loaded.messages.last().map(|message| message.sequence);
        let (Some(first), Some(last)) = (first, last) else {
            return true;
        };
        if self.in_flight.lock().overlaps(first.0, last.0) {
            return false;
        }
        paged.extend(
            state
                .queue
                .paged_runs()
                .filter(|run| run.level == level && run.from <= last && first < run.to),
        );
        in_memory.extend(
            state
                .queue
                .in_memory_mut()
                .filter(|stored| relocation.contains(stored.at)),
        );
        in_memory.sort_unstable_by_key(|stored| stored.sequence);
        let mut live: Vec<Relocated> = Vec::new();
        for message in loaded.messages {
            let held = in_memory.binary_search_by_key(&message.sequence, |stored| stored.sequence);
            let (delivery_count, may_be_delivered) = if let Ok(index) = held {
                if in_memory[index].at != message.at {
                    continue;
                }
                (in_memory[index].returns, true)
            } else if let Some(run) = paged
                .iter()
                .find(|run| run.from <= message.sequence && message.sequence < run.to)
            {
                (run.returns, run.redelivered)
            } else {
                continue;
            };
            live.push(Relocated {
                sequence: message.sequence,
                message: message.message,
                at: message.at,
                delivery_count,
                may_be_delivered,
            });
        }
        if live.is_empty() {
            return true;
        }
        self.relocations.fetch_add(1, Ordering::AcqRel);
        let places = self
            .log
            .relocate(relocation, self.id, level, volatile, &live);
        for (one, at) in live.iter().zip(places) {
            if let Ok(index) =
                in_memory.binary_search_by_key(&one.sequence, |stored| stored.sequence)
            {
                in_memory[index].at = at;
            }
        }
        true
    }
}
