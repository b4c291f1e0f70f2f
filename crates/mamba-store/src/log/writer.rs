//! The two threads behind the log: one writes and syncs, one gives room back and keeps a spare file.

use std::{
    collections::BinaryHeap,
    fmt,
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use mamba_types::LogPosition;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{
    DurableWaker, Listener, LogConfig, LogStatus, SYNC_BOUNDS_MICROS, SyncMode,
    files::FileInfo,
    here,
    index::{Index, SealedIndex},
    staging::{Group, Piece, Sleep, Staging, Urgency},
};
use crate::{
    disk::{Disk, DiskFile},
    error::OpenError,
    format::{
        FILE_ENTRY_LEN, FileStart, HEADER_LEN, Kind, SequenceItem, chunk_digest, file_name,
        index_name, seal,
    },
};

/// Longest wait of an entry nobody waits for.
const SOON: Duration = Duration::from_millis(10);
/// The same of an entry that an older one makes up for until then.
const LAZY: Duration = Duration::from_millis(50);
/// Slices per `write`; the system takes at most 1024.
const SLICES_MAX: usize = 512;
/// Files kept for reuse.
pub(crate) const SPARES_MAX: usize = 2;
/// Begins the names of files kept for reuse.
pub(crate) const SPARE: &str = "spare-";
/// Begins the names of spares that never held an entry.
const SPARE_FRESH: &str = "spare-new-";
/// Written ahead of small groups.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
/// Closed files that may wait for a sync in the modes that do not sync on their own.
const UNSYNCED_FILES_MAX: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) syncs: AtomicU64,
    pub(crate) sync_nanos: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    pub(crate) entries: AtomicU64,
    pub(crate) groups: AtomicU64,
    pub(crate) group_entries: [AtomicU64; 16],
    pub(crate) sync_times: [AtomicU64; SYNC_BOUNDS_MICROS.len() + 1],
    pub(crate) checkpoints: AtomicU64,
    pub(crate) relocations: AtomicU64,
}

struct Waiting {
    position: u64,
    waker: Arc<dyn DurableWaker>,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.position == other.position
    }
}
impl Eq for Waiting {}
impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Waiting {
    /// The earliest position is the greatest, so that the heap yields it first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.position.cmp(&self.position)
    }
}

/// What handles and threads share.
pub(crate) struct Shared {
    pub(crate) staging: Mutex<Staging>,
    pub(crate) wake_writer: Condvar,
    wake_keeper: Condvar,
    keeper: Mutex<Keeper>,
    /// Position after everything staged.
    pub(crate) staged: AtomicU64,
    /// Position after everything handed to the system.
    pub(crate) written: AtomicU64,
    /// Position after everything `fdatasync` answered for.
    pub(crate) synced: AtomicU64,
    /// What [`super::Log::durable`] says.
    pub(crate) durable: AtomicU64,
    /// Who waited last, and how often in a row: [`here`].
    pub(crate) alone: AtomicU64,
    pub(crate) failed: AtomicBool,
    pub(crate) full: AtomicBool,
    status: Mutex<LogStatus>,
    pub(crate) on_new_file: Mutex<Option<Listener>>,
    pub(crate) on_commit_here: Mutex<Option<Listener>>,
    waiting: Mutex<BinaryHeap<Waiting>>,
    pub(crate) counters: Counters,
    pub(crate) config: LogConfig,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Default)]
struct Keeper {
    wanted: bool,
    spare_wanted: bool,
    stop: bool,
    spares: Vec<PathBuf>,
    named: u64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("dir", &self.dir)
            .field("staged", &self.staged)
            .field("durable", &self.durable)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(
        config: LogConfig,
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        staging: Staging,
        spares: Vec<PathBuf>,
    ) -> Self {
        let start = AtomicU64::new(staging.next);
        let at = || AtomicU64::new(start.load(Ordering::Relaxed));
        Self {
            staged: at(),
            written: at(),
            synced: at(),
            durable: at(),
            staging: Mutex::new(staging),
            wake_writer: Condvar::new(),
            wake_keeper: Condvar::new(),
            keeper: Mutex::new(Keeper {
                spares,
                ..Keeper::default()
            }),
            alone: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            full: AtomicBool::new(false),
            status: Mutex::new(LogStatus::Ok),
            on_new_file: Mutex::default(),
            on_commit_here: Mutex::default(),
            waiting: Mutex::default(),
            counters: Counters::default(),
            config,
            disk,
            dir,
        }
    }

    pub(crate) fn status(&self) -> LogStatus {
        self.status.lock().clone()
    }

    fn set_status(&self, status: LogStatus) {
        {
            let mut now = self.status.lock();
            if *now == status {
                return;
            }
            *now = status.clone();
        }
        let full = matches!(status, LogStatus::DiskFull { .. });
        self.full.store(full, Ordering::Release);
        match &status {
            LogStatus::Ok => tracing::info!("the message log writes again"),
            LogStatus::DiskFull { reason } => {
                tracing::error!(%reason, "the message log cannot write: disk full; trying again");
            }
            LogStatus::Failed { reason } => {
                tracing::error!(%reason, "the message log failed: nothing is confirmed any more");
            }
        }
        if let Some(on_status) = &self.config.on_status {
            on_status(&status);
        }
    }

    /// Nothing becomes durable any more: says so to everybody who waits and to all who come.
    fn fail(&self, reason: &str) {
        {
            let mut staging = self.staging.lock();
            staging.discard = true;
            staging.group.clear();
        }
        self.failed.store(true, Ordering::Release);
        self.set_status(LogStatus::Failed {
            reason: reason.into(),
        });
        self.wake_waiting(u64::MAX);
    }

    pub(crate) fn wake_at(&self, position: LogPosition, waker: Arc<dyn DurableWaker>) {
        let settled = |shared: &Self| {
            shared.durable.load(Ordering::Acquire) >= position.0
                || shared.failed.load(Ordering::Acquire)
        };
        if settled(self) {
            return waker.durable();
        }
        {
            let mut waiting = self.waiting.lock();
            // The writer publishes before it takes this lock, so that nobody is missed.
            if settled(self) {
                drop(waiting);
                return waker.durable();
            }
            waiting.push(Waiting {
                position: position.0,
                waker,
            });
        }
        // What is waited for may be something that nobody was expected to wait for.
        if self.written.load(Ordering::Acquire) < position.0 {
            let mut staging = self.staging.lock();
            if !staging.urgent && !staging.group.is_empty() && staging.note(Urgency::Now) {
                self.wake_writer.notify_one();
            }
        }
    }

    fn wake_waiting(&self, durable: u64) {
        // One at a time: should one panic, the others are still there to be told of the failure.
        while let Some(ready) = {
            let mut waiting = self.waiting.lock();
            let due = waiting
                .peek()
                .is_some_and(|first| first.position <= durable);
            due.then(|| waiting.pop()).flatten()
        } {
            ready.waker.durable();
        }
    }

    pub(crate) fn wake_keeper(&self) {
        self.keeper.lock().wanted = true;
        self.wake_keeper.notify_one();
    }

    fn path(&self, base: u64) -> PathBuf {
        self.dir.join(file_name(base))
    }
}

/// A bug in the writer, or in what it calls, must not leave the world waiting for it.
struct FailOnPanic(Arc<Shared>);

impl Drop for FailOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the log writer panicked");
        }
    }
}

/// Why a step of the writer did not work.
enum Fault {
    /// May work later.
    Full(String),
    /// Will not.
    Lasting(String),
}

impl Fault {
    fn new(action: &str, path: &Path, error: &io::Error) -> Self {
        let text = format!("cannot {action} {}: {error}", path.display());
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(text),
            _ => Self::Lasting(text),
        }
    }
}

/// What a turn of the writer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// A group is committed.
    Done,
    /// There is nothing to do, before this time of the disk's clock if there is one.
    Idle(Option<Duration>),
    /// The disk is full: to be tried again after [`LogConfig::retry`].
    Full,
    /// The log failed or is closed; there is nothing to do any more.
    Ended,
}

/// What there is for the writer to do.
enum Next {
    Group,
    /// Nothing before this time.
    Nothing(Option<Duration>),
    Stop,
}

/// The writer's own state.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    file: Box<dyn DiskFile>,
    path: PathBuf,
    base: u64,
    /// Closed files with octets not yet synced, oldest first.
    unsynced: Vec<(PathBuf, Box<dyn DiskFile>)>,
    /// Position of the next octet to write.
    at: u64,
    /// The file has been written up to this position, be it with zeros.
    touched: u64,
    /// What is being written, if `busy`.
    group: Group,
    busy: bool,
    /// When what nobody waits for is to be written.
    soon: Option<Duration>,
    /// How far into the group the writer is.
    piece: usize,
    offset: usize,
    messages_unsynced: u64,
    oldest_unsynced: Option<Duration>,
    /// The disk was full at the last try.
    full: bool,
    /// What a sync takes of late.
    usual_sync: Duration,
}

impl Writer {
    /// Begins the first file of this start.
    pub(crate) fn open(
        shared: Arc<Shared>,
        base: u64,
        undurable_from: u64,
    ) -> Result<Self, OpenError> {
        let path = shared.path(base);
        let begun = begin_file(&shared, base, undurable_from)
            .map_err(|(action, path, error)| OpenError::io(action, path, error))?;
        write_all(&*begun.file, &begun.entry, 0)
            .and_then(|()| begun.file.sync_data())
            .map_err(|error| OpenError::io("write", &path, error))?;
        Ok(Self {
            file: begun.file,
            path,
            base,
            unsynced: Vec::new(),
            at: base + FILE_ENTRY_LEN,
            touched: base + begun.touched,
            group: Group::default(),
            busy: false,
            soon: None,
            piece: 0,
            offset: 0,
            messages_unsynced: 0,
            oldest_unsynced: None,
            full: false,
            usual_sync: Duration::ZERO,
            shared,
        })
    }

    /// One round without waiting.
    pub(crate) fn turn(&mut self) -> Turn {
        if self.shared.failed.load(Ordering::Acquire) {
            return Turn::Ended;
        }
        if !self.busy {
            let shared = Arc::clone(&self.shared);
            let mut staging = shared.staging.lock();
            match self.next(&staging) {
                Next::Group => self.take(&mut staging),
                Next::Nothing(until) => return Turn::Idle(until),
                Next::Stop => {
                    drop(staging);
                    self.close();
                    return Turn::Ended;
                }
            }
        }
        self.write_group()
    }

    /// Commits the group taken, or goes on with it after the disk was full.
    fn write_group(&mut self) -> Turn {
        let group = std::mem::take(&mut self.group);
        let last_try = self.shared.staging.lock().stop;
        let outcome = self.commit(&group);
        self.group = group;
        match outcome {
            Ok(()) => {
                self.count(&self.group);
                self.group.clear();
                self.busy = false;
                self.after_commit();
                Turn::Done
            }
            Err(Fault::Lasting(reason)) => {
                self.shared.fail(&reason);
                Turn::Ended
            }
            Err(Fault::Full(reason)) => {
                self.full = true;
                self.shared.set_status(LogStatus::DiskFull {
                    reason: reason.as_str().into(),
                });
                self.shared.wake_keeper();
                if last_try {
                    self.shared.fail(&format!("stopped while full: {reason}"));
                    return Turn::Ended;
                }
                Turn::Full
            }
        }
    }

    /// The last sync of an orderly stop.
    fn close(&mut self) {
        if let Err(Fault::Full(reason) | Fault::Lasting(reason)) = self.sync() {
            return self.shared.fail(&reason);
        }
        let mut staging = self.shared.staging.lock();
        staging.discard = true;
        let is_clean = staging.clean_stopped;
        drop(staging);
        if is_clean {
            // The next start would cut the reserved room off, but only after reading all of it. It still does if this fails.
            let _ = self.file.set_len(self.at - self.base);
        }
        self.shared.failed.store(true, Ordering::Release);
        *self.shared.status.lock() = LogStatus::Failed {
            reason: "the store is closed".into(),
        };
        self.shared.wake_waiting(u64::MAX);
    }

    /// What there is to do now.
    fn next(&mut self, staging: &Staging) -> Next {
        let shared = &self.shared;
        let sync_wanted = staging.sync_to > shared.synced.load(Ordering::Relaxed);
        if staging.urgent || sync_wanted || (staging.stop && !staging.group.is_empty()) {
            return Next::Group;
        }
        if staging.stop {
            return Next::Stop;
        }
        let mut until = self.sync_due();
        if !staging.group.is_empty() {
            let wait = if staging.soon { SOON } else { LAZY };
            let latest = shared.disk.now() + wait;
            let soon = self.soon.map_or(latest, |soon| soon.min(latest));
            self.soon = Some(soon);
            until = Some(until.map_or(soon, |due| due.min(soon)));
        }
        if until.is_some_and(|until| until <= shared.disk.now()) {
            return Next::Group;
        }
        Next::Nothing(until)
    }

    /// Takes what was gathered and finishes its headers.
    fn take(&mut self, staging: &mut MutexGuard<'_, Staging>) {
        staging.take(&mut self.group);
        self.soon = None;
        (self.piece, self.offset) = (0, 0);
        self.busy = true;
        // Checksums take time: others may append meanwhile.
        let group = &mut self.group;
        MutexGuard::unlocked(staging, || seal_group(group));
    }

    /// When the interval mode has to sync.
    fn sync_due(&self) -> Option<Duration> {
        match self.shared.config.sync {
            SyncMode::Interval { interval, .. } => self.oldest_unsynced.map(|time| time + interval),
            SyncMode::Fsync | SyncMode::Os => None,
        }
    }

    /// Writes what is left of the group, syncs as the mode says and tells the world.
    fn commit(&mut self, group: &Group) -> Result<(), Fault> {
        while self.piece < group.pieces.len() {
            if let Piece::NextFile(base) = group.pieces[self.piece] {
                self.next_file(base)?;
                self.piece += 1;
            } else {
                self.write_some(&group.pieces[self.piece..], &group.inline)?;
            }
        }
        let shared = Arc::clone(&self.shared);
        if self.at > shared.written.load(Ordering::Relaxed) {
            shared.written.store(self.at, Ordering::Release);
            self.messages_unsynced += group.messages;
            if self.oldest_unsynced.is_none() {
                self.oldest_unsynced = Some(shared.disk.now());
            }
        }
        let mode = shared.config.sync;
        if mode != SyncMode::Fsync {
            self.publish(self.at);
        }
        let asked = shared.staging.lock().sync_to > shared.synced.load(Ordering::Relaxed);
        let due = match mode {
            SyncMode::Fsync => true,
            SyncMode::Os => false,
            SyncMode::Interval { batch, .. } => {
                self.messages_unsynced >= batch
                    || self.sync_due().is_some_and(|due| shared.disk.now() >= due)
            }
        };
        if due || asked {
            self.sync()?;
        }
        if mode == SyncMode::Fsync {
            self.publish(self.at);
        }
        Ok(())
    }

    /// One `write` of as many pieces of the current file as it takes.
    fn write_some(&mut self, pieces: &[Piece], inline: &[u8]) -> Result<(), Fault> {
        let mut slices: Vec<IoSlice<'_>> = pieces
            .iter()
            .map_while(|piece| match piece {
                Piece::Inline(range) => Some(&inline[range.clone()]),
                Piece::Chunk(chunk) => Some(&chunk[..]),
                Piece::NextFile(_) => None,
            })
            .take(SLICES_MAX)
            .enumerate()
            .map(|(index, octets)| {
                IoSlice::new(&octets[if index == 0 { self.offset } else { 0 }..])
            })
            .collect();
        let octets = slices.iter().map(|slice| slice.len()).sum();
        let pieces = slices.len();
        let ahead = self.zeros_ahead(octets);
        slices.extend((ahead > 0).then(|| IoSlice::new(&ZEROS[..ahead])));
        let wrote = self
            .file
            .write_at(&slices, self.at - self.base)
            .map_err(|error| Fault::new("write", &self.path, &error))?;
        let counters = &self.shared.counters;
        counters
            .bytes_written
            .fetch_add(wrote as u64, Ordering::Relaxed);
        self.touched = self.touched.max(self.at + wrote as u64);
        let mut wrote = wrote.min(octets);
        self.at += wrote as u64;
        for slice in &slices[..pieces] {
            if wrote < slice.len() {
                self.offset += wrote;
                break;
            }
            wrote -= slice.len();
            self.piece += 1;
            self.offset = 0;
        }
        Ok(())
    }

    /// How many zeros to write behind the next `octets`. A file system notes of each block whether it was ever written, and a sync
    /// after the first write takes twice as long: with small groups better once for many of them than for each.
    fn zeros_ahead(&self, octets: usize) -> usize {
        let end = self.at - self.base + octets as u64;
        let is_new = self.base + end > self.touched;
        let is_small = octets <= ZEROS.len() / 4;
        if !is_new || !is_small || self.shared.config.sync != SyncMode::Fsync {
            return 0;
        }
        let border = end.next_multiple_of(ZEROS.len() as u64);
        let ahead = border.min(self.shared.config.file_size).saturating_sub(end);
        usize::try_from(ahead).unwrap_or(0)
    }

    fn next_file(&mut self, base: u64) -> Result<(), Fault> {
        if self.shared.config.sync == SyncMode::Fsync {
            // Ordered files: only the newest can have a torn tail.
            self.sync()?;
        } else if self.unsynced.len() >= UNSYNCED_FILES_MAX {
            self.sync_oldest()?;
        }
        let begun = begin_file(&self.shared, base, base)
            .map_err(|(action, path, error)| Fault::new(action, &path, &error))?;
        let path = self.shared.path(base);
        write_all(&*begun.file, &begun.entry, 0)
            .map_err(|error| Fault::new("write", &path, &error))?;
        let old = std::mem::replace(&mut self.file, begun.file);
        let old_path = std::mem::replace(&mut self.path, path);
        if self.shared.config.sync != SyncMode::Fsync {
            self.unsynced.push((old_path, old));
        }
        self.base = base;
        self.at = base + FILE_ENTRY_LEN;
        self.touched = base + begun.touched;
        self.shared.staging.lock().files.look_again();
        if let Some(listener) = self.shared.on_new_file.lock().as_ref() {
            listener();
        }
        Ok(())
    }

    fn sync_oldest(&mut self) -> Result<(), Fault> {
        let (path, file) = self.unsynced.remove(0);
        // A full disk is no excuse here: what the system took and cannot keep is lost.
        file.sync_data().map_err(|error| {
            Fault::Lasting(format!("fdatasync of {} failed: {error}", path.display()))
        })
    }

    fn sync(&mut self) -> Result<(), Fault> {
        while !self.unsynced.is_empty() {
            self.sync_oldest()?;
        }
        let shared = &self.shared;
        let end = self.at;
        if end > shared.synced.load(Ordering::Relaxed) {
            let began = shared.disk.now();
            self.file.sync_data().map_err(|error| {
                let path = self.path.display();
                Fault::Lasting(format!("fdatasync of {path} failed: {error}"))
            })?;
            let took = shared.disk.now().saturating_sub(began);
            self.usual_sync = (7 * self.usual_sync + took) / 8;
            let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            shared.counters.syncs.fetch_add(1, Ordering::Relaxed);
            let class = SYNC_BOUNDS_MICROS.partition_point(|bound| bound * 1000 < took);
            shared.counters.sync_times[class].fetch_add(1, Ordering::Relaxed);
            shared
                .counters
                .sync_nanos
                .fetch_add(took, Ordering::Relaxed);
            shared.synced.store(end, Ordering::Release);
        }
        self.messages_unsynced = 0;
        self.oldest_unsynced = None;
        Ok(())
    }

    fn publish(&mut self, position: u64) {
        if std::mem::take(&mut self.full) {
            self.shared.set_status(LogStatus::Ok);
        }
        self.shared.durable.store(position, Ordering::Release);
        self.shared.wake_waiting(position);
    }

    fn count(&self, group: &Group) {
        let counters = &self.shared.counters;
        let entries = group.entries.len() as u64;
        if entries == 0 {
            return;
        }
        counters.entries.fetch_add(entries, Ordering::Relaxed);
        counters.groups.fetch_add(1, Ordering::Relaxed);
        let class = (entries.ilog2() as usize).min(counters.group_entries.len() - 1);
        counters.group_entries[class].fetch_add(1, Ordering::Relaxed);
    }

    /// Wakes the keeper if a file died, can be sealed, or the next one will be needed soon.
    fn after_commit(&self) {
        let written = self.shared.written.load(Ordering::Relaxed);
        let synced = self.shared.synced.load(Ordering::Relaxed);
        let work = {
            let mut staging = self.shared.staging.lock();
            if let Some((from, gate)) = staging.pending_checkpoint
                && gate <= synced
            {
                staging.checkpoint = staging.checkpoint.max(from);
                staging.checkpoint_end = gate;
                staging.pending_checkpoint = None;
                staging.files.look_again();
                self.shared
                    .counters
                    .checkpoints
                    .fetch_add(1, Ordering::Relaxed);
            }
            let checkpoint = staging.checkpoint;
            staging.files.take_changed()
                && (staging.files.freeable(written, checkpoint).is_some()
                    || staging.to_seal(written).is_some())
        };
        let soon_full = self.at - self.base > self.shared.config.file_size / 2;
        if soon_full {
            let mut keeper = self.shared.keeper.lock();
            keeper.spare_wanted = keeper.spares.is_empty();
            if keeper.spare_wanted {
                keeper.wanted = true;
                drop(keeper);
                self.shared.wake_keeper.notify_one();
            }
        }
        if work {
            self.shared.wake_keeper();
        }
    }
}

/// The life of the writer's thread.
pub(crate) fn run(shared: &Arc<Shared>, pen: &Mutex<Writer>) {
    let _guard = FailOnPanic(Arc::clone(shared));
    loop {
        let mut writer = pen.lock();
        match writer.turn() {
            Turn::Done => {}
            Turn::Idle(_) => sleep(shared, writer),
            Turn::Full => {
                drop(writer);
                let mut staging = shared.staging.lock();
                staging.sleep = Sleep::Awake;
                if !staging.stop {
                    let pause = shared.config.retry;
                    shared.wake_writer.wait_for(&mut staging, pause);
                }
            }
            Turn::Ended => return,
        }
    }
}

/// Gives the pen back and sleeps until there may be something to do.
fn sleep(shared: &Shared, mut writer: MutexGuard<'_, Writer>) {
    let mut staging = shared.staging.lock();
    // Since the turn something may have come.
    let Next::Nothing(until) = writer.next(&staging) else {
        return;
    };
    staging.sleep = match writer.soon {
        Some(_) if staging.soon => Sleep::UntilTime,
        Some(_) => Sleep::UntilLater,
        None => Sleep::UntilWoken,
    };
    drop(writer);
    match until {
        None => shared.wake_writer.wait(&mut staging),
        Some(until) => {
            let pause = until.saturating_sub(shared.disk.now());
            shared.wake_writer.wait_for(&mut staging, pause);
        }
    }
    staging.sleep = Sleep::Awake;
}

/// One turn of the writer on a thread of somebody who waits for it: see [`super::CommitHere`].
pub(crate) fn commit_here(shared: &Arc<Shared>, pen: &Mutex<Writer>) {
    let Some(mut writer) = pen.try_lock() else {
        return;
    };
    if writer.full || writer.usual_sync > here::QUICK_SYNC {
        return;
    }
    {
        let staging = shared.staging.lock();
        let octets = staging.next - shared.written.load(Ordering::Relaxed);
        if !staging.urgent || octets > here::OCTETS_MAX {
            return;
        }
    }
    let _guard = FailOnPanic(Arc::clone(shared));
    if let Some(listener) = shared.on_commit_here.lock().as_ref() {
        listener();
    }
    let slept_until = writer.sync_due();
    let turn = writer.turn();
    // The thread has gone to sleep without knowing of this.
    let wake = turn != Turn::Done || writer.sync_due() != slept_until;
    drop(writer);
    if wake {
        shared.wake_writer.notify_one();
    }
}

/// Finishes every header of the group: outside the staging lock, because checksums take time.
fn seal_group(group: &mut Group) {
    for (at, payload) in &group.entries {
        let (header, rest) = group.inline[*at..].split_at_mut(HEADER_LEN);
        let len = crate::format::u32_at(header, 12) as usize;
        let payload = payload.as_deref().unwrap_or_else(|| &rest[..len]);
        let crc = if header[9] == Kind::Messages as u8 {
            let digest = chunk_digest(payload);
            debug_assert!(digest.is_some(), "a chunk is back-to-back records");
            digest.unwrap_or(0)
        } else {
            crc32c::crc32c(payload)
        };
        seal(header, crc);
    }
}

type FileFault = (&'static str, PathBuf, io::Error);

/// A file that begins.
struct Begun {
    file: Box<dyn DiskFile>,
    /// Its first entry, not yet written.
    entry: Vec<u8>,
    /// Octets from its start that some log has written before.
    touched: u64,
}

/// A file for positions from `base` on: a spare if there is one. May be called again after an error.
fn begin_file(shared: &Shared, base: u64, undurable_from: u64) -> Result<Begun, FileFault> {
    let path = shared.path(base);
    let spare = shared.keeper.lock().spares.pop();
    if let Some(spare) = &spare
        && let Err(error) = shared.disk.rename(spare, &path)
    {
        return Err(("rename", spare.clone(), error));
    }
    let file = shared
        .disk
        .open(&path)
        .map_err(|error| ("create", path.clone(), error))?;
    let recycled = file.len().unwrap_or(1) > 0
        && !spare.is_some_and(|spare| spare.to_string_lossy().contains(SPARE_FRESH));
    file.allocate(shared.config.file_size)
        .map_err(|error| ("reserve space for", path.clone(), error))?;
    shared
        .disk
        .sync_dir(&shared.dir)
        .map_err(|error| ("sync", shared.dir.clone(), error))?;
    let start = FileStart {
        node_id: shared.config.node_id,
        undurable_from,
        recycled,
        checkpoint: shared.staging.lock().checkpoint,
    };
    let synced = shared.synced.load(Ordering::Relaxed);
    Ok(Begun {
        file,
        entry: start.entry(shared.config.log_id(), base, synced),
        touched: if recycled { shared.config.file_size } else { 0 },
    })
}

fn write_all(file: &dyn DiskFile, mut octets: &[u8], mut offset: u64) -> io::Result<()> {
    while !octets.is_empty() {
        let wrote = file.write_at(&[IoSlice::new(octets)], offset)?;
        octets = &octets[wrote.min(octets.len())..];
        offset += wrote as u64;
    }
    Ok(())
}

/// The keeper thread: frees dead files from the oldest on, and keeps a spare ready.
pub(crate) fn keep(shared: &Shared) {
    loop {
        {
            let mut keeper = shared.keeper.lock();
            while !keeper.wanted && !keeper.stop {
                shared.wake_keeper.wait(&mut keeper);
            }
            if keeper.stop {
                return;
            }
        }
        keep_turn(shared);
    }
}

/// One round of the keeper, without waiting; false when nothing was asked of it.
pub(crate) fn keep_turn(shared: &Shared) -> bool {
    if !std::mem::take(&mut shared.keeper.lock().wanted) {
        return false;
    }
    if shared.failed.load(Ordering::Acquire) {
        return true;
    }
    while let Some(file) = free_one(shared) {
        let base = file.base;
        if let Err(error) = give_back(shared, base) {
            // The room is not had back before the next start, which tries again. As long as the file is there, younger ones must
            // not go before a checkpoint: they would seem to be missing.
            tracing::warn!(file = file_name(base), %error, "a log file could not be freed; the next start tries again");
            shared.staging.lock().files.put_back(file);
            break;
        }
        // It may be waiting for just this room.
        shared.wake_writer.notify_one();
    }
    while let Some(base) = seal_one(shared) {
        tracing::debug!(file = file_name(base), "log file sealed");
    }
    if std::mem::take(&mut shared.keeper.lock().spare_wanted) {
        // A full disk is the writer's to report, when it needs the file.
        let _ = make_spare(shared);
    }
    true
}

pub(crate) fn stop_keeper(shared: &Shared) {
    shared.keeper.lock().stop = true;
    shared.wake_keeper.notify_one();
}

/// Writes the index of one file beside it, if there is one to seal; returns its start. What fails is tried again with the next
/// file: until then the index stays in memory.
fn seal_one(shared: &Shared) -> Option<u64> {
    let (base, end, index, hold) = {
        let written = shared.written.load(Ordering::Acquire);
        let staging = shared.staging.lock();
        let file = staging.to_seal(written)?;
        let Index::Open(index) = &file.index else {
            return None;
        };
        (
            file.base,
            file.end,
            Arc::clone(index),
            Arc::clone(&file.hold),
        )
    };
    let log_id = shared.config.log_id();
    let sealed = match SealedIndex::write(&index, &*shared.disk, &shared.dir, base, end, log_id) {
        Ok(sealed) => sealed,
        Err(error) => {
            tracing::warn!(file = file_name(base), %error, "the index of a log file could not be written; it stays in memory until the next try");
            let mut staging = shared.staging.lock();
            staging.seal_after = staging.files.newest().base;
            return None;
        }
    };
    let mut staging = shared.staging.lock();
    if let Some(file) = staging.files.at_base(base) {
        file.index = Index::Sealed(Arc::new(sealed));
    }
    drop(hold);
    Some(base)
}

/// Takes a file out of the books if nothing in it is needed.
fn free_one(shared: &Shared) -> Option<FileInfo> {
    let written = shared.written.load(Ordering::Acquire);
    let synced = shared.synced.load(Ordering::Acquire);
    let mut staging = shared.staging.lock();
    let staging = &mut *staging;
    if staging.clean_stopped || staging.holds > 0 {
        return None;
    }
    let checkpoint = staging.checkpoint;
    let file = staging.files.freeable(written, checkpoint)?;
    let (base, end, gate) = (file.base, file.end, file.gate);
    let moving: Vec<_> = staging
        .watermarks
        .iter()
        .filter(|(_, (_, at))| (base..end).contains(at))
        .map(|(queue, (up_to, _))| (*queue, *up_to))
        .collect();
    for (queue, up_to) in &moving {
        let item = SequenceItem {
            queue: *queue,
            sequence: *up_to,
            number: 0,
        };
        staging.push_item(Kind::Delivered, SequenceItem::LEN, synced, |to| {
            item.write(to);
        });
        let at = staging.next - 1;
        staging.watermarks.insert(*queue, (*up_to, at));
    }
    // A full disk needs the room more than an exact `redelivered` after a crash in this moment.
    let disk_full = matches!(*shared.status.lock(), LogStatus::DiskFull { .. });
    let gate = if moving.is_empty() || disk_full {
        gate
    } else {
        staging.next
    };
    shared.staged.store(staging.next, Ordering::Release);
    if gate > synced {
        if let Some(file) = staging.files.at_base(base) {
            file.gate = gate;
        }
        staging.sync_to = staging.sync_to.max(gate);
        staging.files.look_again();
        // The writer wakes this thread again after the commit that passes the gate.
        if staging.note(Urgency::Now) {
            shared.wake_writer.notify_one();
        }
        return None;
    }
    staging.files.remove(base)
}

fn give_back(shared: &Shared, base: u64) -> io::Result<()> {
    let path = shared.path(base);
    // The index goes first, for sure: one without its log file says that somebody else took the file away.
    match shared.disk.remove(&shared.dir.join(index_name(base))) {
        Ok(()) => shared.disk.sync_dir(&shared.dir)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let spare = {
        let mut keeper = shared.keeper.lock();
        keeper.named += 1;
        (keeper.spares.len() < SPARES_MAX).then(|| {
            shared
                .dir
                .join(format!("{SPARE}{base:016x}-{}", keeper.named))
        })
    };
    let oversized = |file: Box<dyn DiskFile>| {
        file.len()
            .is_ok_and(|len| len > 2 * shared.config.file_size)
    };
    match spare {
        Some(spare) if !shared.disk.open_read(&path).is_ok_and(oversized) => {
            shared.disk.rename(&path, &spare)?;
            shared.disk.sync_dir(&shared.dir)?;
            shared.keeper.lock().spares.push(spare);
        }
        _ => {
            shared.disk.remove(&path)?;
            shared.disk.sync_dir(&shared.dir)?;
        }
    }
    Ok(())
}

fn make_spare(shared: &Shared) -> io::Result<()> {
    let spare = {
        let mut keeper = shared.keeper.lock();
        if !keeper.spares.is_empty() {
            return Ok(());
        }
        keeper.named += 1;
        shared.dir.join(format!("{SPARE_FRESH}{}", keeper.named))
    };
    let file = shared.disk.open(&spare)?;
    if let Err(error) = file.allocate(shared.config.file_size) {
        drop(file);
        shared.disk.remove(&spare)?;
        return Err(error);
    }
    shared.keeper.lock().spares.push(spare);
    Ok(())
}
