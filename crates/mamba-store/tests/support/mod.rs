//! A disk in memory that can be cut, filled up and broken.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its part of the support"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use mamba_store::{
    Damage, Disk, DiskFile, DurableWaker, EnqueuedRun, LoadRequest, Log, Recovered, Settled,
};
use mamba_types::{LogPosition, Message, QueueId, RecordMeta, Sequence};
use parking_lot::{Condvar, Mutex};

/// Octets of a file, as written and as last synced.
#[derive(Clone, Debug, Default)]
struct Content {
    written: Vec<u8>,
    synced: Vec<u8>,
    /// Up to where it was ever written.
    touched: usize,
}

/// One lock for all of it, so that an image is what a crash leaves at one moment.
#[derive(Debug, Default)]
struct State {
    names: BTreeMap<PathBuf, usize>,
    contents: Vec<Content>,
    faults: Faults,
    /// Contents that answer no read.
    unreadable: BTreeSet<usize>,
    first_writes: u64,
    clock: u64,
}

/// What the disk does wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Octets that still fit.
    pub room: Option<u64>,
    pub sync_fails: bool,
    pub write_fails: bool,
    /// A write takes at most so many octets.
    pub short_writes: Option<usize>,
}

#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
    /// Signals that a fault was met.
    met: Arc<(Mutex<u64>, Condvar)>,
}

pub type Image = BTreeMap<PathBuf, Vec<u8>>;

impl MemoryDisk {
    pub fn from_image(image: &Image) -> Self {
        let disk = Self::default();
        for (path, octets) in image {
            let mut state = disk.state.lock();
            let number = state.contents.len();
            state.contents.push(Content {
                written: octets.clone(),
                synced: octets.clone(),
                touched: octets.len(),
            });
            state.names.insert(path.clone(), number);
        }
        disk
    }

    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// Reads of this file fail from now on, or work again.
    pub fn set_readable(&self, path: &Path, readable: bool) {
        let mut state = self.state.lock();
        let number = state.names[path];
        if readable {
            state.unreadable.remove(&number);
        } else {
            state.unreadable.insert(number);
        }
    }

    /// Writes that went where no file was written before: the ones after which a sync takes longer.
    pub fn first_writes(&self) -> u64 {
        self.state.lock().first_writes
    }

    /// Waits until faults were met `count` times.
    pub fn wait_for_faults(&self, count: u64) {
        let mut met = self.met.0.lock();
        while *met < count {
            self.met.1.wait(&mut met);
        }
    }

    fn fault(&self) {
        *self.met.0.lock() += 1;
        self.met.1.notify_all();
    }

    /// What a process crash leaves.
    pub fn written(&self) -> Image {
        self.image(|content| content.written.clone())
    }

    /// What a power cut leaves at the least.
    pub fn synced(&self) -> Image {
        self.image(|content| content.synced.clone())
    }

    /// What a power cut may leave: of every sector, the synced or the written octets.
    pub fn torn(&self, mut keep: impl FnMut() -> bool) -> Image {
        const SECTOR: usize = 512;
        self.image(|content| {
            let mut octets = content.written.clone();
            for (index, sector) in octets.chunks_mut(SECTOR).enumerate() {
                let from = index * SECTOR;
                let old = content.synced.get(from..).unwrap_or_default();
                let old = &old[..old.len().min(sector.len())];
                let same = sector.starts_with(old) && sector[old.len()..].iter().all(|o| *o == 0);
                if !same && !keep() {
                    sector.fill(0);
                    sector[..old.len()].copy_from_slice(old);
                }
            }
            octets
        })
    }

    fn image(&self, mut octets: impl FnMut(&Content) -> Vec<u8>) -> Image {
        let state = self.state.lock();
        state
            .names
            .iter()
            .map(|(path, number)| (path.clone(), octets(&state.contents[*number])))
            .collect()
    }

    fn handle(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state.lock();
        let number = match state.names.get(path) {
            Some(number) => *number,
            None if create => {
                state.contents.push(Content::default());
                let number = state.contents.len() - 1;
                state.names.insert(path.to_owned(), number);
                number
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Box::new(MemoryFile {
            disk: self.clone(),
            number,
        }))
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.handle(path, true)
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.handle(path, false)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.handle(path, true)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let content = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = self.state.lock().names.remove(path);
        removed
            .map(drop)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let state = self.state.lock();
        Ok(state
            .names
            .keys()
            .filter(|file| file.parent() == Some(path))
            .filter_map(|file| Some(file.file_name()?.to_owned()))
            .collect())
    }

    fn free_space(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.state.lock().faults.room.unwrap_or(u64::MAX))
    }

    fn now(&self) -> Duration {
        let mut state = self.state.lock();
        state.clock += 1;
        Duration::from_millis(state.clock)
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    number: usize,
}

impl MemoryFile {
    fn with<T>(&self, use_it: impl FnOnce(&mut Content) -> T) -> T {
        use_it(&mut self.disk.state.lock().contents[self.number])
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl DiskFile for MemoryFile {
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut octets: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        let mut state = self.disk.state.lock();
        let faults = &mut state.faults;
        if faults.write_fails {
            drop(state);
            self.disk.fault();
            return Err(io::Error::other("injected"));
        }
        if let Some(most) = faults.short_writes {
            octets.truncate(most);
        }
        if let Some(room) = &mut faults.room {
            octets.truncate(index(*room));
            *room -= octets.len() as u64;
            if octets.is_empty() {
                drop(state);
                self.disk.fault();
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        let content = &mut state.contents[self.number];
        let end = index(offset) + octets.len();
        if content.written.len() < end {
            content.written.resize(end, 0);
        }
        content.written[index(offset)..end].copy_from_slice(&octets);
        let is_first = end > content.touched;
        content.touched = content.touched.max(end);
        state.first_writes += u64::from(is_first);
        Ok(octets.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.disk.state.lock().unreadable.contains(&self.number) {
            return Err(io::Error::other("injected"));
        }
        self.with(|content| {
            let rest = content.written.get(index(offset)..).unwrap_or_default();
            let len = rest.len().min(buffer.len());
            buffer[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.disk.state.lock().faults.sync_fails {
            self.disk.fault();
            return Err(io::Error::other("injected"));
        }
        self.with(|content| content.synced = content.written.clone());
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.with(|content| {
            if content.written.len() < index(len) {
                content.written.resize(index(len), 0);
            }
        });
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|content| content.written.resize(index(len), 0));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|content| content.written.len() as u64))
    }
}

/// A record with the given body.
pub fn record(body: &[u8]) -> Bytes {
    let meta = RecordMeta {
        persistent: true,
        priority: None,
        dead_lettered: false,
        expiration_ms: None,
        accepted_at_ms: 1,
        not_before: false,
        died: None,
    };
    Message::build(meta, b"", b"q", b"\0\x3c\0\0\0\0\0\0\0\0\0\x03\0\0", body)
        .record()
        .clone()
}

/// Counts its calls.
#[derive(Debug, Default)]
pub struct Calls(AtomicU64);

impl Calls {
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

impl DurableWaker for Calls {
    fn durable(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// A run of messages that lie back to back from `at` on.
pub fn run_of(first: u64, at: LogPosition, messages: &[Message]) -> EnqueuedRun {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    EnqueuedRun {
        first: Sequence(first),
        count: number(messages.len()),
        at,
        octets: number(messages.iter().map(Message::record_len).sum()),
        body_octets: number(messages.iter().map(Message::body_len).sum()),
        ..EnqueuedRun::default()
    }
}

/// A message with the given body.
pub fn message(body: &[u8]) -> Message {
    Message::from_record(record(body))
}

/// A recovered message, read back.
#[derive(Clone, Debug)]
pub struct Back {
    pub sequence: u64,
    pub level: u8,
    pub message: Message,
    pub redelivered: bool,
    pub delivery_count: u32,
    pub settled: Settled,
}

/// All that recovery found of a queue, read back in small portions, and what could not be read.
pub fn read_back(log: &Log, recovered: &Recovered, queue: QueueId) -> (Vec<Back>, Vec<Damage>) {
    let (mut back, mut damaged, mut sums) = (Vec::new(), Vec::new(), Vec::new());
    let Some(recovered) = recovered.queues.get(&queue) else {
        return (back, damaged);
    };
    assert!(recovered.runs.is_sorted_by_key(|run| (run.level, run.from)));
    for run in &recovered.runs {
        let (mut from, mut count, mut lost, mut body_bytes) = (run.from, 0u64, 0u64, 0u64);
        while from < run.to {
            let loaded = log.load(&LoadRequest {
                queue,
                level: run.level,
                from,
                to: run.to,
                octets_max: 2000,
                messages_max: 5,
            });
            assert!(loaded.next > from, "no progress at {from:?}");
            from = loaded.next;
            count += loaded.messages.len() as u64;
            lost += loaded
                .damaged
                .iter()
                .map(|one| u64::from(one.count))
                .sum::<u64>();
            damaged.extend(loaded.damaged);
            for one in loaded.messages {
                body_bytes += one.message.body_len() as u64;
                back.push(Back {
                    sequence: one.sequence.0,
                    level: run.level,
                    settled: Settled {
                        sequence: one.sequence,
                        at: one.at,
                        octets: u32::try_from(one.message.record_len()).unwrap_or(u32::MAX),
                    },
                    message: one.message,
                    redelivered: run.redelivered,
                    delivery_count: run.delivery_count,
                });
            }
        }
        assert_eq!(run.count, count + lost, "the count of {run:?}");
        let is_exact = run.body_bytes == body_bytes;
        assert!(lost > 0 || run.estimated || is_exact, "{run:?}");
        sums.push((run, lost, body_bytes));
    }
    for level in sums.chunk_by(|(one, ..), (next, ..)| one.level == next.level) {
        let ranges: Vec<_> = level.iter().map(|(run, ..)| (run.from, run.to)).collect();
        let counted = log.body_octets(queue, level[0].0.level, &ranges);
        let counted = counted.expect("all of it is written");
        for ((run, lost, body_bytes), counted) in level.iter().zip(counted) {
            assert!(*lost > 0 || counted == *body_bytes, "{run:?}: {counted}");
        }
    }
    (back, damaged)
}
