//! What a batch of persistent messages costs in the log, beside the disk.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mamba_store::{EnqueuedRun, Log, LogConfig, RealDisk, Settled, SyncMode};
use mamba_types::{LogPosition, QueueId, Sequence};

use crate::{Body, message};

/// Messages of a batch.
const BATCH: u32 = 100;
const QUEUE: QueueId = QueueId(1);

pub(crate) const BODIES: &[Body] = &[Body {
    name: "log/append-and-settle-16",
    items: BATCH,
    prepare: append_and_settle,
}];

/// A batch is appended, written and settled. There are no threads, and nothing is synced.
fn append_and_settle() -> Box<dyn FnMut()> {
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    let config = LogConfig {
        sync: SyncMode::Os,
        ..LogConfig::new([1; 16])
    };
    let disk = Arc::new(RealDisk::new());
    let (log, threads, _) = Log::open_manual(folder.path(), config, disk, &|_| true)
        .expect("an empty folder can be opened");
    let chunk = chunk();
    let octets = u32::try_from(chunk.len()).expect("a small chunk");
    let each = octets / BATCH;
    let mut next = 1;
    let mut settled = Vec::new();
    Box::new(move || {
        let appended = log.append_messages(chunk.clone());
        let run = EnqueuedRun {
            first: Sequence(next),
            count: BATCH,
            at: appended.at(),
            octets,
            body_octets: BATCH * 16,
            ..EnqueuedRun::default()
        };
        log.append_enqueued(QUEUE, &[run]);
        settled.clear();
        settled.extend((0..BATCH).map(|number| Settled {
            sequence: Sequence(next + u64::from(number)),
            at: LogPosition(appended.at().0 + u64::from(number * each)),
            octets: each,
        }));
        log.append_settled(QUEUE, &settled);
        while log.turn() {}
        next += u64::from(BATCH);
        // Both live as long as the body does.
        let _ = (&folder, &threads);
    })
}

fn chunk() -> Bytes {
    let message = message(16);
    let mut chunk = BytesMut::new();
    for _ in 0..BATCH {
        chunk.extend_from_slice(message.record());
    }
    chunk.freeze()
}
