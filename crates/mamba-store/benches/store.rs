//! What a batch, a window of confirms and a declare cost on this disk: `cargo bench -p mamba-store`.
//!
//! Every run takes about a second; the folder is the target folder's, or the one in `BENCH_DIR`.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a tool that measures and prints"
)]

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use mamba_store::{
    DefinitionChange, DurableWaker, EnqueuedRun, LiveRun, Log, LogConfig, LogThreads,
    QueueDefinition, RealDisk, Settled, Store, StoreConfig, SyncMode, log::BACKLOG_BYTES_MAX,
};
use mamba_types::{LogPosition, Message, QueueId, RecordMeta, Sequence};
use parking_lot::Mutex;

const RUN: Duration = Duration::from_secs(1);
const QUEUE: QueueId = QueueId(1);

fn main() {
    let base = std::env::var_os("BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = tempfile::tempdir_in(base).unwrap();
    let sub = |name: &str| dir.path().join(name);
    for body in [16, 1024] {
        for (name, sync) in [("fsync", SyncMode::Fsync), ("os", SyncMode::Os)] {
            batches(open(sub(&format!("batch-{body}-{name}")), sync), name, body);
        }
    }
    for window in [1, 100, 1000] {
        confirms(
            open(sub(&format!("window-{window}")), SyncMode::Fsync),
            window,
        );
    }
    appends(open(sub("appends"), SyncMode::Fsync));
    for (name, clean) in [("a clean stop", true), ("a kill", false)] {
        recovery(sub(&format!("recovery-{clean}")), name, clean);
    }
    for in_flight in [1, 50] {
        declares(sub(&format!("declares-{in_flight}")), in_flight);
    }
}

fn open(dir: PathBuf, sync: SyncMode) -> (Log, LogThreads) {
    let config = LogConfig {
        sync,
        ..LogConfig::new([1; 16])
    };
    let (log, threads, _) = Log::open(&dir, config, Arc::new(RealDisk::new()), &|_| true).unwrap();
    (log, threads)
}

fn chunk(count: usize, body: usize) -> Bytes {
    let meta = RecordMeta {
        persistent: true,
        priority: None,
        dead_lettered: false,
        expiration_ms: None,
        accepted_at_ms: 1,
        not_before: false,
        died: None,
    };
    let header = b"\0\x3c\0\0\0\0\0\0\0\0\0\x03\x10\0\x02";
    let message = Message::build(meta, b"", b"queue", header, &vec![7; body]);
    let mut chunk = BytesMut::new();
    for _ in 0..count {
        chunk.extend_from_slice(message.record());
    }
    chunk.freeze()
}

struct Tell(Mutex<Sender<()>>);

impl DurableWaker for Tell {
    fn durable(&self) {
        let _ = self.0.lock().send(());
    }
}

fn teller() -> (Arc<Tell>, Receiver<()>) {
    let (tell, told) = channel();
    (Arc::new(Tell(Mutex::new(tell))), told)
}

fn publish(log: &Log, sequence: u64, chunk: &Bytes, count: u32) -> (LogPosition, LogPosition) {
    publish_to(QUEUE, log, sequence, chunk, count)
}

fn publish_to(
    queue: QueueId,
    log: &Log,
    sequence: u64,
    chunk: &Bytes,
    count: u32,
) -> (LogPosition, LogPosition) {
    let appended = log.append_messages(chunk.clone());
    let octets = u32::try_from(chunk.len()).unwrap();
    let run = EnqueuedRun {
        first: Sequence(sequence),
        count,
        at: appended.at(),
        octets,
        body_octets: octets / 2,
        ..EnqueuedRun::default()
    };
    (appended.at(), log.append_enqueued(queue, &[run]))
}

fn report(what: &str, messages: u64, took: Duration, log: &Log) {
    let stats = log.stats();
    println!(
        "{what:<44} {:>10.0} msg/s  {:>6} syncs of {:>7.1?}  {:>5} MiB  {} files",
        messages as f64 / took.as_secs_f64(),
        stats.syncs,
        stats
            .sync_time
            .checked_div(u32::try_from(stats.syncs).unwrap())
            .unwrap_or_default(),
        stats.bytes_written >> 20,
        stats.files,
    );
}

/// Batches of 1,000, settled at once; the next one is staged while the last one is synced.
fn batches((log, threads): (Log, LogThreads), mode: &str, body: usize) {
    let chunk = chunk(1000, body);
    let (tell, told) = teller();
    let began = Instant::now();
    let (mut messages, mut waiting) = (0, 0);
    while began.elapsed() < RUN {
        let (at, end) = publish(&log, messages + 1, &chunk, 1000);
        let octets = chunk.len() as u64 / 1000;
        let settled: Vec<_> = (0..1000)
            .map(|number| Settled {
                sequence: Sequence(messages + 1 + number),
                at: LogPosition(at.0 + number * octets),
                octets: u32::try_from(octets).unwrap(),
            })
            .collect();
        log.append_settled(QUEUE, &settled);
        log.wake_at(end, Arc::<Tell>::clone(&tell));
        messages += 1000;
        waiting += 1;
        if waiting == 2 {
            told.recv().unwrap();
            waiting = 1;
        }
    }
    assert!(log.flush());
    report(
        &format!("1000 x {body} B per batch, {mode}"),
        messages,
        began.elapsed(),
        &log,
    );
    drop(threads);
}

/// One publisher that keeps `window` messages of 500 B unconfirmed.
fn confirms((log, threads): (Log, LogThreads), window: usize) {
    let chunk = chunk(1, 500);
    let (tell, told) = teller();
    let began = Instant::now();
    let mut unconfirmed = VecDeque::new();
    let mut messages = 0;
    while began.elapsed() < RUN {
        while unconfirmed.len() < window {
            messages += 1;
            unconfirmed.push_back(publish(&log, messages, &chunk, 1).1);
        }
        // Like a channel: one waker for the oldest unconfirmed message, then everything durable at once.
        log.wake_at(unconfirmed[0], Arc::<Tell>::clone(&tell));
        told.recv().unwrap();
        let durable = log.durable();
        while unconfirmed.front().is_some_and(|end| *end <= durable) {
            unconfirmed.pop_front();
        }
    }
    report(
        &format!("confirms, 500 B, window {window}"),
        messages,
        began.elapsed(),
        &log,
    );
    drop(threads);
}

/// Single messages of 500 B, enqueued and settled one call each: what the staging area takes.
fn appends((log, threads): (Log, LogThreads)) {
    let chunk = chunk(1, 500);
    let began = Instant::now();
    let mut messages = 0;
    while began.elapsed() < RUN {
        for _ in 0..100 {
            messages += 1;
            let (at, _) = publish(&log, messages, &chunk, 1);
            let settled = Settled {
                sequence: Sequence(messages),
                at,
                octets: u32::try_from(chunk.len()).unwrap(),
            };
            log.append_settled(QUEUE, &[settled]);
        }
        if log.backlog_bytes() > BACKLOG_BYTES_MAX {
            assert!(log.flush());
        }
    }
    assert!(log.flush());
    report(
        "single appends, 500 B, fsync",
        messages,
        began.elapsed(),
        &log,
    );
    drop(threads);
}

/// 10 M live messages of 16 B in 100 queues, and checkpoints as a broker writes them.
fn recovery(dir: PathBuf, after: &str, clean: bool) {
    const QUEUES: u64 = 100;
    const BATCHES: u64 = 100;
    let (log, threads) = open(dir.clone(), SyncMode::Os);
    let chunk = chunk(1000, 16);
    let states = |to: u64| {
        for queue in 1..=QUEUES {
            let all = LiveRun {
                level: 0,
                from: Sequence(1),
                to: Sequence(to),
                delivered: false,
                delivery_count: 0,
            };
            log.append_state(QueueId(queue), &[all]);
        }
    };
    for batch in 0..BATCHES {
        for queue in 1..=QUEUES {
            publish_to(QueueId(queue), &log, batch * 1000 + 1, &chunk, 1000);
        }
        assert!(log.flush());
        if let Some(checkpoint) = log.checkpoint_due() {
            states((batch + 1) * 1000 + 1);
            log.checkpoint_done(checkpoint);
        }
    }
    if clean {
        let checkpoint = log.begin_checkpoint();
        states(BATCHES * 1000 + 1);
        log.checkpoint_done(checkpoint);
        assert!(log.clean_stop());
    }
    drop((log, threads));
    let began = Instant::now();
    let config = LogConfig::new([1; 16]);
    let (_log, threads, back) =
        Log::open(&dir, config, Arc::new(RealDisk::new()), &|_| true).unwrap();
    let took = began.elapsed();
    let report = back.report;
    println!(
        "{:<44} {:>10} ms     {} live in {} files, {} of them read",
        format!("recovery after {after}, {QUEUES} queues"),
        took.as_millis(),
        report.live,
        report.files,
        report.files_scanned
    );
    drop(threads);
}

fn declares(dir: PathBuf, in_flight: usize) {
    let (store, _) = Store::open(StoreConfig::new(dir), Arc::new(RealDisk::new())).unwrap();
    let definitions = store.definitions();
    let (tell, told) = channel();
    let (mut sent, mut done) = (0u64, 0u64);
    let began = Instant::now();
    while began.elapsed() < RUN || done < sent {
        while began.elapsed() < RUN && sent - done < in_flight as u64 {
            let tell = tell.clone();
            let queue = QueueDefinition {
                vhost: "/".to_owned(),
                name: format!("queue-{sent}"),
                id: definitions.next_queue_id(),
                auto_delete: false,
                arguments: vec![0; 4],
            };
            definitions.submit(
                vec![DefinitionChange::put(&queue)],
                Box::new(move |result| tell.send(result.is_ok()).unwrap()),
            );
            sent += 1;
        }
        if done < sent {
            assert!(told.recv().unwrap());
            done += 1;
        }
    }
    println!(
        "{:<44} {:>10.0} /s     {} commits",
        format!("declares, {in_flight} in flight"),
        done as f64 / began.elapsed().as_secs_f64(),
        definitions.commits()
    );
}
