//! A disk in memory with everything a disk may do wrong.
//!
//! Every file has what was written (the page cache) and what is certain to survive a power cut. Between the two
//! stands the list of writes since the last `fdatasync`. A power cut decides by chance, for each sector of 512 octets, how
//! many of the writes to it arrived: none, some or all. Creations, renames and removals are certain after
//! `sync_dir`; before, a journalled file system has carried out the first few of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mamba_store::{Disk, DiskFile};
use parking_lot::Mutex;

use crate::rng::Rng;

/// What the hardware writes at once.
const SECTOR: usize = 512;
/// Of so many things that were not synced, the one that is missing after a power cut that lost nothing else.
const MISSING_AMONG: u64 = 48;

/// What the disk does wrong, beside power cuts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Octets all files together may have; `None` is without end.
    pub capacity: Option<u64>,
    /// One in so many writes fails; 0 is never.
    pub write_fails: u64,
    /// One in so many `fdatasync` fails, and part of what was to be synced never arrives; 0 is never.
    pub sync_fails: u64,
    /// One in so many reads fails; 0 is never.
    pub read_fails: u64,
    /// A write may take only a part of what it is given.
    pub short_writes: bool,
    /// `sync_dir` does nothing. No disk does this: a test of the tests.
    pub ignores_sync_dir: bool,
    /// `fdatasync` does nothing. No honest disk does this: a test of the tests.
    pub ignores_sync: bool,
}

/// Writes since the last sync.
#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, octets: Vec<u8> },
    SetLen(usize),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    written: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

impl Inode {
    fn apply(to: &mut Vec<u8>, change: &Change) {
        match change {
            Change::Write { offset, octets } => {
                let end = offset + octets.len();
                if to.len() < end {
                    to.resize(end, 0);
                }
                to[*offset..end].copy_from_slice(octets);
            }
            Change::SetLen(len) => to.resize(*len, 0),
        }
    }

    fn change(&mut self, change: Change) {
        Self::apply(&mut self.written, &change);
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            Self::apply(&mut self.durable, &change);
        }
    }

    /// Lets each sector be as after the first so many changes to it; `arrived` says how many of how many.
    fn lose(&mut self, arrived: &mut dyn FnMut(u64) -> u64) {
        let changes = std::mem::take(&mut self.unsynced);
        if changes.is_empty() {
            return;
        }
        // The length is that after the first so many changes.
        let mut lens = vec![self.durable.len()];
        for change in &changes {
            let before = lens.last().copied().unwrap_or(0);
            lens.push(match change {
                Change::Write { offset, octets } => before.max(offset + octets.len()),
                Change::SetLen(len) => *len,
            });
        }
        let len = lens[index(arrived(changes.len() as u64)).min(changes.len())];
        let longest = lens.iter().copied().max().unwrap_or(0);
        let mut touched: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut before = self.durable.len();
        for (number, change) in changes.iter().enumerate() {
            let (from, to) = match change {
                Change::Write { offset, octets } => (*offset, offset + octets.len()),
                Change::SetLen(len) => (*len, before.max(*len)),
            };
            before = lens[number + 1];
            if from < to {
                for sector in from / SECTOR..=(to - 1) / SECTOR {
                    touched.entry(sector).or_default().push(number);
                }
            }
        }
        let mut result = self.durable.clone();
        result.resize(longest.max(result.len()), 0);
        for (sector, numbers) in touched {
            let came = index(arrived(numbers.len() as u64)).min(numbers.len());
            let (low, high) = (sector * SECTOR, (sector + 1) * SECTOR);
            for number in &numbers[..came] {
                match &changes[*number] {
                    Change::Write { offset, octets } => {
                        let from = low.max(*offset);
                        let to = high.min(offset + octets.len());
                        result[from..to].copy_from_slice(&octets[from - offset..to - offset]);
                    }
                    Change::SetLen(len) => {
                        let from = low.max(*len);
                        let to = high.min(result.len());
                        if from < to {
                            result[from..to].fill(0);
                        }
                    }
                }
            }
        }
        result.resize(len, 0);
        self.durable = result;
    }
}

/// A change of folders since the last `sync_dir`.
#[derive(Clone, Debug)]
enum Renaming {
    Folder(PathBuf),
    Create(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl Renaming {
    fn concerns(&self, dir: &Path) -> bool {
        match self {
            Self::Folder(path) | Self::Create(path, _) | Self::Remove(path) => {
                path.parent() == Some(dir)
            }
            Self::Rename(from, to) => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }

    fn apply(&self, tree: &mut Tree) {
        match self {
            Self::Folder(path) => {
                tree.folders.insert(path.clone());
            }
            Self::Create(path, inode) => {
                tree.files.insert(path.clone(), *inode);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = tree.files.remove(from) {
                    tree.files.insert(to.clone(), inode);
                }
            }
            Self::Remove(path) => {
                tree.files.remove(path);
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Tree {
    folders: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, usize>,
}

#[derive(Debug)]
struct State {
    inodes: Vec<Inode>,
    tree: Tree,
    durable_tree: Tree,
    renamings: Vec<Renaming>,
    faults: Faults,
    rng: Rng,
    /// Calls that change something, since the beginning.
    calls: u64,
    /// The call at which the power goes.
    crash_at: Option<u64>,
    off: bool,
    now: Duration,
    faults_met: u64,
    /// The calls since the last look, if anybody looks.
    trace: Option<Vec<String>>,
}

/// How a process or a machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process is killed; what it wrote stays.
    Process,
    /// The power goes; what was not synced is lost, kept or torn.
    Power,
}

/// The disk; clones share it.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<State>>);

fn off() -> io::Error {
    io::Error::other("the machine is off")
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl State {
    /// Counts a call that changes something. False if the power goes during it.
    fn call(&mut self) -> io::Result<bool> {
        if self.off {
            return Err(off());
        }
        self.calls += 1;
        if self.crash_at.is_some_and(|at| self.calls >= at) {
            self.off = true;
            return Ok(false);
        }
        Ok(true)
    }

    fn tell(&mut self, what: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let text = what(self);
            self.trace
                .iter_mut()
                .for_each(|trace| trace.push(text.clone()));
        }
    }

    fn name(&self, inode: usize) -> String {
        let known = self.tree.files.iter().find(|(_, other)| **other == inode);
        known.map_or_else(
            || format!("(file {inode} without a name)"),
            |(path, _)| path.display().to_string(),
        )
    }

    fn fails(&mut self, one_in: u64, what: &str) -> io::Result<()> {
        if one_in > 0 && self.rng.once_in(one_in) {
            self.faults_met += 1;
            return Err(io::Error::other(format!("simulated {what} error")));
        }
        Ok(())
    }

    fn used(&self) -> u64 {
        let inodes: BTreeSet<usize> = self.tree.files.values().copied().collect();
        inodes
            .iter()
            .map(|inode| self.inodes[*inode].written.len() as u64)
            .sum()
    }

    fn room_for(&mut self, inode: usize, len: usize) -> io::Result<()> {
        let more = len.saturating_sub(self.inodes[inode].written.len()) as u64;
        if let Some(capacity) = self.faults.capacity
            && more > 0
            && self.used() + more > capacity
        {
            self.faults_met += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn create(&mut self, path: &Path) -> io::Result<usize> {
        if let Some(inode) = self.tree.files.get(path) {
            return Ok(*inode);
        }
        if path
            .parent()
            .is_none_or(|parent| !self.tree.folders.contains(parent))
        {
            return Err(io::ErrorKind::NotFound.into());
        }
        let alive = self.call()?;
        self.inodes.push(Inode::default());
        let inode = self.inodes.len() - 1;
        self.rename(Renaming::Create(path.to_owned(), inode));
        if alive { Ok(inode) } else { Err(off()) }
    }

    fn rename(&mut self, renaming: Renaming) {
        self.tell(|_| format!("{renaming:?}"));
        renaming.apply(&mut self.tree);
        self.renamings.push(renaming);
    }
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut tree = Tree::default();
        tree.folders.insert(PathBuf::from("/"));
        Self(Arc::new(Mutex::new(State {
            inodes: Vec::new(),
            durable_tree: tree.clone(),
            tree,
            renamings: Vec::new(),
            faults: Faults::default(),
            rng: Rng::new(seed, 1),
            calls: 0,
            crash_at: None,
            off: false,
            now: Duration::ZERO,
            faults_met: 0,
            trace: None,
        })))
    }

    /// From now on, notes its calls for [`Self::take_trace`].
    pub fn trace(&self) {
        self.0.lock().trace = Some(Vec::new());
    }

    /// The calls since the last time, a line each.
    #[must_use]
    pub fn take_trace(&self) -> Vec<String> {
        self.0
            .lock()
            .trace
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// What it does wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.0.lock().faults = faults;
    }

    /// What it does wrong.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.0.lock().faults
    }

    /// Faults met so far, power cuts not counted.
    #[must_use]
    pub fn faults_met(&self) -> u64 {
        self.0.lock().faults_met
    }

    /// Octets in all files.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.lock().used()
    }

    /// Calls so far that changed something.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.0.lock().calls
    }

    /// Lets the power go at the call of this number.
    pub fn crash_at(&self, call: Option<u64>) {
        self.0.lock().crash_at = call;
    }

    /// Takes the power away now.
    pub fn cut(&self) {
        self.0.lock().off = true;
    }

    /// Whether the power is gone.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.0.lock().off
    }

    /// Moves the clock.
    pub fn pass(&self, time: Duration) {
        self.0.lock().now += time;
    }

    /// Ends everything that runs; the disk is as the next start finds it.
    pub fn crash(&self, how: Crash) {
        let mut state = self.0.lock();
        let state = &mut *state;
        state.off = false;
        state.crash_at = None;
        if how == Crash::Process {
            return;
        }
        let rng = &mut state.rng;
        // Everything, nothing, each thing by chance, or everything but one thing.
        let manner = rng.below(8);
        let mut before_missing = rng.below(MISSING_AMONG);
        let mut arrived = |of: u64| match manner {
            0 => 0,
            1 => of,
            2 => of * u64::from(!rng.once_in(8)),
            3 => of * u64::from(rng.once_in(8)),
            4 | 5 => {
                let missing = before_missing == 0;
                before_missing = before_missing.wrapping_sub(1);
                of * u64::from(!missing)
            }
            _ => rng.below(of + 1),
        };
        let done = index(arrived(state.renamings.len() as u64));
        for renaming in state.renamings.drain(..).take(done) {
            renaming.apply(&mut state.durable_tree);
        }
        // What lies in a folder that never came to be is gone with it.
        let folders = state.durable_tree.folders.clone();
        let reachable = |path: &Path| {
            path.ancestors()
                .skip(1)
                .all(|folder| folders.contains(folder))
        };
        state.durable_tree.folders.retain(|path| reachable(path));
        state.durable_tree.files.retain(|path, _| reachable(path));
        state.tree = state.durable_tree.clone();
        for inode in &mut state.inodes {
            inode.lose(&mut arrived);
            inode.written = inode.durable.clone();
        }
    }

    /// Everything is as if it had been synced: what a disk looks like long after.
    pub fn settle(&self) {
        let mut state = self.0.lock();
        let state = &mut *state;
        for inode in &mut state.inodes {
            inode.sync();
        }
        for renaming in state.renamings.drain(..) {
            renaming.apply(&mut state.durable_tree);
        }
    }

    /// Flips one bit of a file at rest; returns its place, or `None` if there is nothing at that offset.
    pub fn flip(&self, path: &Path, offset: u64, bit: u8) -> Option<()> {
        let mut state = self.0.lock();
        let inode = *state.tree.files.get(path)?;
        let inode = &mut state.inodes[inode];
        *inode.written.get_mut(index(offset))? ^= 1 << (bit & 7);
        *inode.durable.get_mut(index(offset))? ^= 1 << (bit & 7);
        Some(())
    }

    /// All files with their lengths.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.0.lock();
        state
            .tree
            .files
            .iter()
            .map(|(path, inode)| (path.clone(), state.inodes[*inode].written.len() as u64))
            .collect()
    }

    /// What a file holds.
    #[must_use]
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.0.lock();
        let inode = *state.tree.files.get(path)?;
        Some(state.inodes[inode].written.clone())
    }

    fn handle(&self, inode: usize) -> Box<dyn DiskFile> {
        Box::new(SimFile {
            disk: self.clone(),
            inode,
        })
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.0.lock();
        if state.off {
            return Err(off());
        }
        let inode = state.create(path)?;
        Ok(self.handle(inode))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let state = self.0.lock();
        if state.off {
            return Err(off());
        }
        let inode = state
            .tree
            .files
            .get(path)
            .copied()
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(inode))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let alive = state.call()?;
        if !state.tree.files.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.rename(Renaming::Rename(from.to_owned(), to.to_owned()));
        if alive { Ok(()) } else { Err(off()) }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let alive = state.call()?;
        if !state.tree.files.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.rename(Renaming::Remove(path.to_owned()));
        if alive { Ok(()) } else { Err(off()) }
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let missing: Vec<PathBuf> = path
            .ancestors()
            .filter(|folder| !state.tree.folders.contains(*folder))
            .map(Path::to_owned)
            .collect();
        for folder in missing.into_iter().rev() {
            let alive = state.call()?;
            state.rename(Renaming::Folder(folder));
            if !alive {
                return Err(off());
            }
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        if !state.call()? {
            return Err(off());
        }
        state.tell(|_| format!("sync folder {}", path.display()));
        let one_in = state.faults.sync_fails;
        state.fails(one_in, "sync")?;
        if state.faults.ignores_sync_dir {
            return Ok(());
        }
        // A journal holds what came before as well.
        let Some(last) = state
            .renamings
            .iter()
            .rposition(|renaming| renaming.concerns(path))
        else {
            return Ok(());
        };
        let state = &mut *state;
        for renaming in state.renamings.drain(..=last) {
            renaming.apply(&mut state.durable_tree);
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let state = self.0.lock();
        if state.off {
            return Err(off());
        }
        if !state.tree.folders.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut names: Vec<OsString> = state
            .tree
            .files
            .keys()
            .chain(&state.tree.folders)
            .filter(|file| file.parent() == Some(path))
            .filter_map(|file| Some(file.file_name()?.to_owned()))
            .collect();
        names.sort();
        Ok(names)
    }

    fn free_space(&self, _path: &Path) -> io::Result<u64> {
        let state = self.0.lock();
        Ok(state
            .faults
            .capacity
            .map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used())))
    }

    fn now(&self) -> Duration {
        self.0.lock().now
    }

    fn random(&self, octets: &mut [u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        octets.fill_with(|| state.rng.next().to_le_bytes()[0]);
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl DiskFile for SimFile {
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut octets: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        let mut state = self.disk.0.lock();
        let alive = state.call()?;
        let one_in = state.faults.write_fails;
        state.fails(one_in, "write")?;
        let offset = index(offset);
        if state.faults.short_writes && octets.len() > 1 && state.rng.once_in(4) {
            let len = 1 + state.rng.index(octets.len() - 1);
            octets.truncate(len);
        }
        if state.room_for(self.inode, offset + octets.len()).is_err() {
            // What fits is written, as file systems do.
            let fits = state.inodes[self.inode]
                .written
                .len()
                .saturating_sub(offset);
            if fits == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            octets.truncate(fits);
        }
        let len = octets.len();
        state.tell(|state| format!("write {} at {offset}, {len} octets", state.name(self.inode)));
        state.inodes[self.inode].change(Change::Write { offset, octets });
        if alive { Ok(len) } else { Err(off()) }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.0.lock();
        if state.off {
            return Err(off());
        }
        let one_in = state.faults.read_fails;
        state.fails(one_in, "read")?;
        let written = &state.inodes[self.inode].written;
        let rest = written.get(index(offset)..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        if !state.call()? {
            return Err(off());
        }
        state.tell(|state| format!("sync {}", state.name(self.inode)));
        let one_in = state.faults.sync_fails;
        if let Err(error) = state.fails(one_in, "sync") {
            // Some pages never arrive, and nobody is told again: what is read from now on is what the disk has.
            let state = &mut *state;
            let inode = &mut state.inodes[self.inode];
            let rng = &mut state.rng;
            inode.lose(&mut |of| rng.below(of + 1));
            inode.written = inode.durable.clone();
            return Err(error);
        }
        if !state.faults.ignores_sync {
            state.inodes[self.inode].sync();
        }
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let alive = state.call()?;
        let len = index(len);
        state.tell(|state| format!("allocate {} to {len}", state.name(self.inode)));
        state.room_for(self.inode, len)?;
        if state.inodes[self.inode].written.len() < len {
            state.inodes[self.inode].change(Change::SetLen(len));
        }
        if alive { Ok(()) } else { Err(off()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let alive = state.call()?;
        let len = index(len);
        state.tell(|state| format!("set length of {} to {len}", state.name(self.inode)));
        state.room_for(self.inode, len)?;
        state.inodes[self.inode].change(Change::SetLen(len));
        if alive { Ok(()) } else { Err(off()) }
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.disk.0.lock();
        if state.off {
            return Err(off());
        }
        Ok(state.inodes[self.inode].written.len() as u64)
    }
}
