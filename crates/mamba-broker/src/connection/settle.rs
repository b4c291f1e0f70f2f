//! Acknowledgements: from delivery tags to one call per queue.

use mamba_queue::{Outcome, UnackedKey};
use mamba_session::{Settlement, SettlementKind};
use mamba_types::{ChannelId, LogPosition, Sequence, SoftError, Violation};

use super::{
    Core,
    channel::{Channel, Held, Mode},
};

/// Settlements gathered from one turn, in order.
#[derive(Debug, Default)]
pub(crate) struct Settlements {
    held: Vec<(Held, Outcome)>,
    keys: Vec<(UnackedKey, Sequence)>,
    /// Channels with a channel-wide limit that got credit back.
    limited: Vec<ChannelId>,
}

const fn outcome(kind: SettlementKind) -> Outcome {
    match kind {
        SettlementKind::Ack => Outcome::Ack,
        SettlementKind::Requeue => Outcome::Requeue,
        SettlementKind::Failed => Outcome::Failed,
        SettlementKind::Discard => Outcome::Discard,
    }
}

impl Core {
    /// Takes one ack, nack or reject. The queues hear of it in [`Core::flush`].
    pub(crate) fn settle(
        &mut self,
        id: ChannelId,
        settlement: Settlement,
    ) -> Result<(), Violation> {
        let Settlement {
            tag,
            multiple,
            kind,
            ..
        } = settlement;
        let Some(channel) = self.channels.get_mut(&id) else {
            return Ok(());
        };
        let Channel {
            unacked,
            mode,
            limit,
            stats,
            ..
        } = &mut **channel;
        let unknown = |_| {
            Violation::channel(
                SoftError::PreconditionFailed,
                format!("unknown delivery tag {tag}"),
            )
        };
        if let Mode::Transaction(transaction) = mode {
            let taken = unacked.take(tag, multiple).map_err(unknown)?;
            transaction.settlements.push((kind, taken));
            return Ok(());
        }
        let gathered = &mut self.settlements.held;
        let before = gathered.len();
        unacked
            .settle(tag, multiple, |held| {
                if held.counts() {
                    gathered.push((held, outcome(kind)));
                }
            })
            .map_err(unknown)?;
        let count = u32::try_from(gathered.len() - before).unwrap_or(u32::MAX);
        if kind == SettlementKind::Ack {
            stats.ack += u64::from(count);
        }
        if limit.settled(count) && !self.settlements.limited.contains(&id) {
            self.settlements.limited.push(id);
        }
        Ok(())
    }

    /// Gathers settlements that were held back or follow from a channel's end.
    pub(crate) fn gather(
        &mut self,
        id: ChannelId,
        held: impl Iterator<Item = Held>,
        kind: SettlementKind,
    ) {
        let before = self.settlements.held.len();
        self.settlements
            .held
            .extend(held.filter(Held::counts).map(|held| (held, outcome(kind))));
        let count = u32::try_from(self.settlements.held.len() - before).unwrap_or(u32::MAX);
        if let Some(channel) = self.channels.get(&id)
            && channel.limit.settled(count)
            && !self.settlements.limited.contains(&id)
        {
            self.settlements.limited.push(id);
        }
    }

    /// Tells each queue what was settled, with one call per queue and outcome. Returns the log position that makes
    /// it durable.
    pub(crate) fn flush_settlements(&mut self) -> LogPosition {
        let mut position = LogPosition::NONE;
        if self.settlements.held.is_empty() {
            return position;
        }
        let mut held = std::mem::take(&mut self.settlements.held);
        let mut keys = std::mem::take(&mut self.settlements.keys);
        // Stable: inside one queue the order of settlement is kept.
        if held.iter().any(|(one, _)| one.queue != held[0].0.queue) {
            held.sort_by_key(|(held, _)| held.queue);
        }
        let mut rest = held.as_slice();
        while let Some(((first, outcome), _)) = rest.split_first() {
            let same = rest
                .iter()
                .take_while(|(held, o)| held.queue == first.queue && o == outcome)
                .count();
            let (now, later) = rest.split_at(same);
            rest = later;
            keys.extend(now.iter().map(|(held, _)| (held.key, held.sequence)));
            if let Some(queue) = self.queues.get(first.queue) {
                if *outcome == Outcome::Ack {
                    let count = same as u64;
                    let counter = if queue.is_quorum() {
                        &mut self.counts.quorum_acknowledged
                    } else {
                        &mut self.counts.classic_acknowledged
                    };
                    *counter += count;
                    queue.stats.acknowledged(count);
                }
                position = position.max(queue.settle(keys.drain(..), *outcome));
            }
            keys.clear();
            self.queues.release(first.queue, same);
        }
        held.clear();
        self.settlements.held = held;
        self.settlements.keys = keys;
        for id in std::mem::take(&mut self.settlements.limited) {
            self.resume_consumers(id);
        }
        position
    }
}
