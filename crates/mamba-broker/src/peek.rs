//! Looking at a page of a queue without taking anything out of it.

use mamba_queue::{PagedRun, Peeked, Stored};
use mamba_store::LoadRequest;
use mamba_types::{Message, Sequence};

use crate::{broker::Broker, queue_cell::QueueCell};

/// Messages on a page at most.
pub const PEEK_MESSAGES_MAX: u64 = 1000;
/// Octets of records on a page, after which it ends; the first message comes whatever its size.
pub const PEEK_OCTETS_MAX: usize = 16 << 20;
/// Octets that may be read to find where a page begins.
const WALK_OCTETS_MAX: usize = 256 << 20;
/// Octets read at once.
const READ_OCTETS: usize = 1 << 20;
/// Messages read at once.
const READ_MESSAGES: usize = 4096;

/// A ready message, as it stands in its queue.
#[derive(Clone, Debug)]
pub struct PeekedMessage {
    /// How many are before it.
    pub position: u64,
    /// Its place in the queue for ever.
    pub sequence: Sequence,
    /// The message.
    pub message: Message,
    /// Whether a consumer may have seen it.
    pub redelivered: bool,
    /// How often it came back.
    pub returns: u32,
}

/// A page of a queue.
#[derive(Clone, Debug)]
pub struct PeekPage {
    /// Ready messages when the page was taken.
    pub ready: u64,
    /// The messages, in the order in which a consumer without filter would get them. Fewer than asked for at the queue's end, when
    /// they are large, or when some went away while the disk was read.
    pub messages: Vec<PeekedMessage>,
}

/// Why there is no page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeekError {
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
    /// The messages before the page have gaps on the disk, and are too many to be counted.
    #[error(
        "more than {WALK_OCTETS_MAX} octets would have to be read to find message {0}: ask for a smaller offset"
    )]
    TooDeep(u64),
}

impl Broker {
    /// Looks at up to `count` ready messages of a queue, after the first `offset`; order, counters and `redelivered` stay as
    /// they are. At most [`PEEK_MESSAGES_MAX`] messages and about [`PEEK_OCTETS_MAX`] octets.
    /// It reads from the disk and blocks meanwhile, but not the queue.
    ///
    /// # Errors
    /// [`PeekError`].
    pub fn peek(
        &self,
        vhost: &str,
        queue: &str,
        offset: u64,
        count: u64,
    ) -> Result<PeekPage, PeekError> {
        let home = self.vhost(vhost);
        let home = home.ok_or_else(|| PeekError::NoSuchVhost(vhost.to_owned()))?;
        let cell = home.queue(queue).ok_or_else(|| PeekError::NoSuchQueue {
            queue: queue.to_owned(),
            vhost: vhost.to_owned(),
        })?;
        let (ready, parts) = cell.peek_parts(offset, count.min(PEEK_MESSAGES_MAX));
        let mut page = PeekPage {
            ready,
            messages: Vec::new(),
        };
        let (mut position, mut octets) = (offset, 0);
        for part in parts {
            let taken = match part {
                Peeked::Message(stored) => {
                    octets += stored.message.record_len();
                    page.messages.push(peeked(position, stored));
                    1
                }
                Peeked::OnDisk { run, skip, take } => {
                    let read = cell.read_run(&run, skip, take, PEEK_OCTETS_MAX - octets);
                    let read = read.ok_or(PeekError::TooDeep(position))?;
                    for (stored, number) in read.into_iter().zip(position..) {
                        octets += stored.message.record_len();
                        page.messages.push(peeked(number, stored));
                    }
                    take
                }
            };
            position += taken;
            if octets >= PEEK_OCTETS_MAX {
                break;
            }
        }
        Ok(page)
    }
}

fn peeked(position: u64, stored: Stored) -> PeekedMessage {
    PeekedMessage {
        position,
        sequence: stored.sequence,
        message: stored.message,
        redelivered: stored.redelivered,
        returns: stored.returns,
    }
}

impl QueueCell {
    /// Reads `take` messages of a run after the first `skip`, up to so many octets. `None` if they are too far inside.
    fn read_run(&self, run: &PagedRun, skip: u64, take: u64, octets: usize) -> Option<Vec<Stored>> {
        let mut from = run.from;
        let mut skip = skip;
        if run.to.0 - run.from.0 == run.count {
            // Without gaps the place follows from the number.
            from = Sequence(from.0 + skip);
            skip = 0;
        }
        let (mut messages, mut walked, mut kept) = (Vec::new(), 0, 0);
        while from < run.to && (messages.len() as u64) < take && kept < octets.max(1) {
            let loaded = self.log().load(&LoadRequest {
                queue: self.id,
                level: run.level,
                from,
                to: run.to,
                octets_max: READ_OCTETS,
                messages_max: READ_MESSAGES,
            });
            if loaded.next <= from {
                break;
            }
            from = loaded.next;
            for loaded in loaded.messages {
                walked += loaded.message.record_len();
                if skip > 0 {
                    skip -= 1;
                } else if (messages.len() as u64) < take && kept < octets.max(1) {
                    kept += loaded.message.record_len();
                    messages.push(Stored {
                        sequence: loaded.sequence,
                        message: loaded.message,
                        at: loaded.at,
                        returns: run.returns,
                        redelivered: run.redelivered || run.returns > 0,
                    });
                }
            }
            if skip > 0 && walked > WALK_OCTETS_MAX {
                return None;
            }
        }
        Some(messages)
    }
}
