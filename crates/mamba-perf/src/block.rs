//! The frames of many messages in a row, encoded once and sent again and again.
//!
//! Messages run through targets and body sizes in turn. Only stamps are changed between one sending and the next, so that a
//! message costs the load generator little more than the kernel's copy.

use std::ops::Range;

use crate::error::Error;
use crate::plan::{Plan, Properties};
use crate::transport::CHANNEL;
use crate::wire::{FRAME_BODY, FRAME_HEADER, frame, id, method};

/// What is written at once, in octets, as long as messages are smaller.
const WRITE_SIZE: usize = 128 * 1024;
/// Octets that the images of one publisher may take.
const BLOCK_SIZE_MAX: usize = 1024 * 1024 * 1024;

/// Encoded messages.
pub(crate) struct Block {
    pub(crate) octets: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
    /// Octets to write at once.
    write_size: usize,
}

/// Where a message stands in its block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    start: usize,
    end: usize,
    /// Where its body starts.
    pub(crate) body: usize,
    pub(crate) body_size: usize,
    /// Index into the publisher's own list of targets.
    pub(crate) target: usize,
}

impl Block {
    /// Encodes messages for the plan's targets with the indices `targets`.
    pub(crate) fn new(plan: &Plan, targets: &[usize], payload_max: usize) -> Result<Self, Error> {
        let sizes = &plan.sizes;
        // Every target gets every size.
        let period = targets.len() * sizes.len();
        let mut block = Self {
            octets: Vec::new(),
            entries: Vec::new(),
            write_size: WRITE_SIZE,
        };
        loop {
            for number in 0..period {
                let target = number % targets.len();
                let size = sizes[number / targets.len()];
                block.push(plan, targets[target], target, size, payload_max);
                if block.octets.len() > BLOCK_SIZE_MAX {
                    return Err(Error::Options(
                        "the messages for all queues of a publisher take more than 1 GiB: use smaller bodies, \
                         fewer queues or more publishers"
                            .to_owned(),
                    ));
                }
            }
            // Another round has to fit into one write.
            let round = block.octets.len() / (block.entries.len() / period);
            if block.octets.len() + round > WRITE_SIZE {
                break;
            }
        }
        // Equal parts: a short rest would cost a write of its own.
        let writes = block.octets.len().div_ceil(WRITE_SIZE);
        block.write_size =
            block.octets.len().div_ceil(writes) + block.octets.len() / block.entries.len();
        Ok(block)
    }

    /// The entries from number `first` on that one write takes, at most `limit`.
    pub(crate) fn batch(&self, first: usize, limit: u64) -> Range<usize> {
        let start = self.entries[first].start;
        let fit =
            self.entries[first..].partition_point(|entry| entry.end - start <= self.write_size);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        first..first + fit.max(1).min(limit)
    }

    /// The octets of a batch, which is not empty.
    pub(crate) fn span(&self, batch: &Range<usize>) -> Range<usize> {
        self.entries[batch.start].start..self.entries[batch.end - 1].end
    }

    fn push(
        &mut self,
        plan: &Plan,
        target: usize,
        own_target: usize,
        size: usize,
        payload_max: usize,
    ) {
        let out = &mut self.octets;
        let start = out.len();
        method(out, CHANNEL, id::BASIC_PUBLISH, |fields| {
            fields
                .short(0)
                .shortstr(&plan.exchange)
                .shortstr(&plan.targets[target].routing_key)
                .octet(u8::from(plan.args.mandatory));
        });
        content_header(out, &plan.properties, size);
        let body = out.len() + 7;
        let mut rest = size;
        while rest > 0 {
            let part = rest.min(payload_max);
            frame(out, FRAME_BODY, CHANNEL, |fields| {
                fields.zeros(part);
            });
            rest -= part;
        }
        self.entries.push(Entry {
            start,
            end: out.len(),
            body,
            body_size: size,
            target: own_target,
        });
    }
}

/// Appends a content header (4.2.6.1).
fn content_header(out: &mut Vec<u8>, properties: &Properties, body_size: usize) {
    let flags = [
        (0x8000, properties.content_type.is_some()),
        (0x4000, properties.content_encoding.is_some()),
        (0x2000, properties.headers.is_some()),
        (0x1000, properties.delivery_mode.is_some()),
        (0x0800, properties.priority.is_some()),
        (0x0400, properties.correlation_id.is_some()),
        (0x0200, properties.reply_to.is_some()),
        (0x0100, properties.expiration.is_some()),
        (0x0080, properties.message_id.is_some()),
        (0x0040, properties.timestamp.is_some()),
        (0x0020, properties.kind.is_some()),
        (0x0010, properties.user_id.is_some()),
        (0x0008, properties.app_id.is_some()),
    ]
    .into_iter()
    .filter(|(_, present)| *present)
    .fold(0, |flags, (bit, _)| flags | bit);
    frame(out, FRAME_HEADER, CHANNEL, |fields| {
        fields
            .short(60)
            .short(0)
            .longlong(u64::try_from(body_size).unwrap_or(u64::MAX))
            .short(flags);
        for text in [&properties.content_type, &properties.content_encoding] {
            text.iter().for_each(|text| {
                fields.shortstr(text);
            });
        }
        properties.headers.iter().for_each(|headers| {
            fields.table(headers);
        });
        for octet in [properties.delivery_mode, properties.priority] {
            octet.iter().for_each(|octet| {
                fields.octet(*octet);
            });
        }
        for text in [
            &properties.correlation_id,
            &properties.reply_to,
            &properties.expiration,
            &properties.message_id,
        ] {
            text.iter().for_each(|text| {
                fields.shortstr(text);
            });
        }
        properties.timestamp.iter().for_each(|timestamp| {
            fields.longlong(*timestamp);
        });
        for text in [&properties.kind, &properties.user_id, &properties.app_id] {
            text.iter().for_each(|text| {
                fields.shortstr(text);
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    #[test]
    fn every_target_gets_every_size() {
        let plan = plan("--queues 2 --size 16,1000").unwrap();
        let block = Block::new(&plan, &[0, 1], 131_064).unwrap();
        let found: Vec<(usize, usize)> = block
            .entries
            .iter()
            .map(|entry| (entry.target, entry.body_size))
            .collect();
        assert_eq!(found[..4], [(0, 16), (1, 16), (0, 1000), (1, 1000)]);
        assert!(found.chunks(4).all(|round| round == &found[..4]));
    }

    #[test]
    fn batches_stay_within_limit_and_write() {
        let plan = plan("--size 50000").unwrap();
        let block = Block::new(&plan, &[0], 4088).unwrap();
        assert_eq!(block.batch(0, 1), 0..1);
        let batch = block.batch(0, u64::MAX);
        assert!(block.span(&batch).len() <= 2 * WRITE_SIZE, "{batch:?}");
        // A body in several frames: 13 of them, each with 8 octets around it.
        let entry = block.entries[0];
        assert_eq!(entry.end - entry.body, 50_000 + 12 * 8 + 1);
    }
}
