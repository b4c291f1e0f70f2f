//! Every entry, every record, every index and the definitions: is it what was written?

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    sync::Arc,
};

use mamba_types::{Message, QueueId, Sequence, message::RECORD_HEADER_LEN};

use super::Folder;
use crate::{
    definitions::export,
    disk::Disk,
    error::OpenError,
    format::{HEADER_LEN, Header, Kind, file_name, index_name},
    log::{
        LogConfig,
        files::FileInfo,
        index::{ExtentKey, Index, IndexFault, Run, SealedIndex, Totals},
        scan::{Head, Reader, Scanned, index_of},
    },
    store::{DEFINITIONS_FILE, LOG_DIR},
};

/// What was looked at, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Log files.
    pub files: u64,
    /// Index files.
    pub indexes: u64,
    /// Entries in the log files.
    pub entries: u64,
    /// Message records, settled ones too.
    pub records: u64,
    /// Octets of the entries.
    pub octets: u64,
    /// Durable queues.
    pub queues: u64,
    /// Live messages.
    pub messages: u64,
    /// Octets of an unfinished write, which the next start cuts off: no damage.
    pub torn_octets: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// A part of a file that is not what was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// The file's name in the data folder.
    pub file: String,
    /// Where in the file.
    pub offset: u64,
    /// Octets; 0 if they cannot be told.
    pub octets: u64,
    /// What is wrong.
    pub what: String,
    /// The file repeats what others say: the broker makes it anew.
    pub redundant: bool,
    /// Live messages that cannot be read for it, as far as is known.
    pub affected: Vec<Affected>,
}

/// Messages of one queue with consecutive sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affected {
    /// The queue's identity.
    pub queue: QueueId,
    /// Its virtual host and name, if it still has a definition.
    pub name: Option<(String, String)>,
    /// The priority they wait in.
    pub level: u8,
    /// The first one.
    pub first: Sequence,
    /// How many.
    pub count: u64,
}

impl Folder {
    /// Checks everything.
    ///
    /// # Errors
    /// When the folder cannot be read at all; damage is no error but part of the answer.
    pub fn verify(&self) -> Result<Verification, OpenError> {
        let mut result = Verification::default();
        let mut names = BTreeMap::new();
        let node_id = match export::read(&self.dir.join(DEFINITIONS_FILE), &self.disk) {
            Ok(held) => {
                if !held.sound {
                    result.findings.push(Finding {
                        file: DEFINITIONS_FILE.to_owned(),
                        what:
                            "pages of the database do not have the checksums they were written with"
                                .to_owned(),
                        ..Finding::default()
                    });
                }
                names.extend(
                    held.stored
                        .queues
                        .into_iter()
                        .map(|queue| (queue.id, (queue.vhost, queue.name))),
                );
                Some(held.node_id)
            }
            Err(error) => {
                result.findings.push(Finding {
                    file: DEFINITIONS_FILE.to_owned(),
                    what: error.to_string(),
                    ..Finding::default()
                });
                self.node_id_of_the_log()
            }
        };
        result.queues = names.len() as u64;
        let Some(node_id) = node_id else {
            return Ok(result);
        };
        let nameless = names.is_empty() && !result.findings.is_empty();
        let known = |queue: QueueId| nameless || names.contains_key(&queue.owner());
        let scanned = self.scan(node_id, &known)?;
        result.messages = scanned.recovered.report.live;
        result.torn_octets = scanned.recovered.report.torn_octets;
        Check::new(self, node_id, &scanned, &names)?.run(&mut result);
        Ok(result)
    }
}

struct Check<'a> {
    folder: &'a Folder,
    config: LogConfig,
    log_id: u32,
    scanned: &'a Scanned,
    names: &'a BTreeMap<QueueId, (String, String)>,
    /// Ranges that recoveries found not to have been durable.
    undurable: Vec<Range<u64>>,
    /// The greatest position any entry knew to be synced.
    synced: u64,
    suspicions: Vec<Suspicion>,
}

/// Positions that look wrong; unfinished writes do as well.
struct Suspicion {
    /// The number of the file.
    file: usize,
    range: Range<u64>,
    what: String,
    /// All records in it are of the past, sound as they may be.
    stale: bool,
    /// Whether it is one for sure.
    certain: bool,
}

impl<'a> Check<'a> {
    fn new(
        folder: &'a Folder,
        node_id: [u8; 16],
        scanned: &'a Scanned,
        names: &'a BTreeMap<QueueId, (String, String)>,
    ) -> Result<Self, OpenError> {
        let config = LogConfig::new(node_id);
        let bases: Vec<_> = scanned.files.iter().map(|file| file.base).collect();
        let log_id = config.log_id();
        let heads = Head::read_all(&folder.log_dir(), &folder.disk, log_id, &bases)?;
        let mut check = Self {
            folder,
            config,
            log_id,
            scanned,
            names,
            undurable: Vec::new(),
            synced: 0,
            suspicions: Vec::new(),
        };
        for (base, head) in bases.iter().zip(&heads) {
            let Some(head) = head else { continue };
            check.synced = check.synced.max(head.synced);
            check
                .undurable
                .push(head.start.undurable_from..(*base).max(head.start.undurable_from));
        }
        Ok(check)
    }

    fn run(mut self, result: &mut Verification) {
        for (number, file) in self.scanned.files.iter().enumerate() {
            result.files += 1;
            if let Err(error) = self.file(number, file, result) {
                self.suspicions.push(Suspicion {
                    file: number,
                    range: file.base..file.end,
                    what: format!("the disk refuses to read it: {error}"),
                    stale: true,
                    certain: true,
                });
            }
        }
        for quarantined in &self.scanned.recovered.report.quarantined {
            let range = quarantined.start.0..quarantined.end.0;
            let seen = |one: &Suspicion| one.range.start < range.end && range.start < one.range.end;
            if self.suspicions.iter().any(seen) {
                continue;
            }
            let file = self
                .scanned
                .files
                .partition_point(|file| file.base <= range.start);
            self.suspicions.push(Suspicion {
                file: file.saturating_sub(1),
                range,
                what: "a part of the log that was known to be on the disk is missing".to_owned(),
                stale: true,
                certain: true,
            });
        }
        let suspicions = std::mem::take(&mut self.suspicions);
        for one in &suspicions {
            let durable = one.certain
                || one.range.start < self.synced
                    && !self
                        .undurable
                        .iter()
                        .any(|range| range.contains(&one.range.start));
            if !durable {
                continue;
            }
            let file = &self.scanned.files[one.file];
            result.findings.push(Finding {
                file: format!("{LOG_DIR}/{}", file_name(file.base)),
                offset: one.range.start - file.base,
                octets: one.range.end - one.range.start,
                what: one.what.clone(),
                redundant: false,
                affected: self.affected(file, one),
            });
        }
        for file in &self.scanned.files {
            self.index(file, result);
        }
    }

    /// Looks at every entry of a file.
    fn file(
        &mut self,
        number: usize,
        file: &FileInfo,
        result: &mut Verification,
    ) -> io::Result<()> {
        let newest = number + 1 == self.scanned.files.len();
        let next = self.scanned.files.get(number + 1).map(|next| next.base);
        let mut reader = Reader::open(&self.folder.log_dir(), &self.folder.disk, file.base, next)?;
        let mut at = 0;
        // Behind the end of the last file stands what an unfinished write or the file's former life left.
        let end = file.end - file.base;
        while at < end {
            let Some(header) = reader.entry(self.log_id, at)? else {
                let found = reader.next_entry(self.log_id, at + 1)?;
                if found.is_none() && newest {
                    break;
                }
                let to = found.map_or(end, |found| found.min(end)).max(at + 1);
                self.suspect(number, file.base + at..file.base + to, "no sound entry");
                at = to;
                continue;
            };
            result.entries += 1;
            self.synced = self.synced.max(header.synced);
            if header.kind == Kind::Messages {
                self.records(number, at, &header, &mut reader, result)?;
            }
            at += HEADER_LEN as u64 + u64::from(header.payload_len);
            result.octets += HEADER_LEN as u64 + u64::from(header.payload_len);
        }
        // Files between this one and the next may have been given back; an entry that is cut off tells that it was not so.
        if !newest
            && let Ok(header) = Header::read(reader.octets(at, HEADER_LEN)?)
            && header.log_id == self.log_id
            && header.position == file.base + at
        {
            let to = at + HEADER_LEN as u64 + u64::from(header.payload_len);
            self.suspect(
                number,
                file.base + at..file.base + to,
                "the file ends inside an entry",
            );
        }
        Ok(())
    }

    /// Looks at every record of a MESSAGES entry.
    fn records(
        &mut self,
        number: usize,
        at: u64,
        header: &Header,
        reader: &mut Reader,
        result: &mut Verification,
    ) -> io::Result<()> {
        let base = reader.base;
        let (mut at, end) = (
            at + HEADER_LEN as u64,
            at + HEADER_LEN as u64 + u64::from(header.payload_len),
        );
        let start = at;
        let (mut digest, mut sound) = (0, true);
        while at < end {
            let Some(record) = reader
                .record(at)?
                .filter(|record| record.len() as u64 <= end - at)
            else {
                self.suspect(number, base + at..base + end, "no message record");
                return Ok(());
            };
            result.records += 1;
            digest = crc32c::crc32c_append(digest, &record[4..8]);
            let len = record.len().max(RECORD_HEADER_LEN) as u64;
            if let Err(error) = Message::check(record) {
                sound = false;
                self.suspect(
                    number,
                    base + at..base + at + len,
                    &format!("message record: {error}"),
                );
            }
            at += len;
        }
        if sound && digest != header.payload_crc {
            self.suspicions.push(Suspicion {
                file: number,
                range: base + start..base + end,
                what: "sound message records, but not those that were written here".to_owned(),
                stale: true,
                certain: false,
            });
        }
        Ok(())
    }

    fn suspect(&mut self, file: usize, range: Range<u64>, what: &str) {
        self.suspicions.push(Suspicion {
            file,
            range,
            what: what.to_owned(),
            stale: false,
            certain: false,
        });
    }

    /// Parts of the queue's level that live.
    fn live(&self, queue: QueueId, level: u8) -> Vec<(u64, u64)> {
        let queue = self.scanned.recovered.queues.get(&queue);
        let runs = queue.map_or(&[][..], |queue| &queue.runs);
        let of_level = runs.iter().filter(|run| run.level == level);
        of_level.map(|run| (run.from.0, run.to.0)).collect()
    }

    /// Live messages whose records a damage has made unreadable.
    fn affected(&self, file: &FileInfo, damage: &Suspicion) -> Vec<Affected> {
        let mut found: BTreeMap<(QueueId, u8), BTreeSet<u64>> = BTreeMap::new();
        if file.moved {
            return Vec::new();
        }
        let reader = Reader::open(&self.folder.log_dir(), &self.folder.disk, file.base, None);
        let mut reader = reader.ok();
        for (key, _) in file.index.extents() {
            let live = self.live(key.queue, key.level);
            if key.volatile || live.is_empty() {
                continue;
            }
            // Of a damaged index is told elsewhere.
            let runs = self.runs(file, key).unwrap_or_default();
            let end = |run: &Run| run.at + u64::from(run.octets);
            let hit = |run: &&Run| run.at < damage.range.end && damage.range.start < end(run);
            for run in runs.iter().filter(hit) {
                let mut at = run.at;
                for sequence in run.first..run.to() {
                    let record = reader
                        .as_mut()
                        .and_then(|reader| reader.record(at - file.base).ok().flatten());
                    let len = record.map(|record| record.len() as u64);
                    let stale = damage.stale && damage.range.contains(&at);
                    let bad = stale || record.is_none_or(|record| Message::check(record).is_err());
                    if bad
                        && live
                            .iter()
                            .any(|(from, to)| (*from..*to).contains(&sequence))
                        && at < damage.range.end
                        && len.is_none_or(|len| damage.range.start < at + len)
                    {
                        let set = found.entry((key.queue, key.level)).or_default();
                        match len {
                            Some(_) => drop(set.insert(sequence)),
                            // Without its length nobody can tell where the next one begins.
                            None => set.extend(sequence..run.to()),
                        }
                    }
                    match len {
                        Some(len) => at += len,
                        None => break,
                    }
                }
            }
        }
        let mut list: Vec<Affected> = Vec::new();
        for ((queue, level), sequences) in found {
            for sequence in sequences {
                match list.last_mut() {
                    Some(last)
                        if (last.queue, last.level) == (queue, level)
                            && last.first.0 + last.count == sequence =>
                    {
                        last.count += 1;
                    }
                    _ => list.push(Affected {
                        queue,
                        name: self.names.get(&queue.owner()).cloned(),
                        level,
                        first: Sequence(sequence),
                        count: 1,
                    }),
                }
            }
        }
        list
    }

    fn runs(&self, file: &FileInfo, key: ExtentKey) -> Result<Vec<Run>, IndexFault> {
        file.index.runs_of(&self.folder.disk, key, 0, usize::MAX)
    }

    /// Compares an index beside the log with the log.
    fn index(&self, file: &FileInfo, result: &mut Verification) {
        let (dir, disk) = (self.folder.log_dir(), &self.folder.disk);
        let mut finding = |what: String| {
            result.findings.push(Finding {
                file: format!("{LOG_DIR}/{}", index_name(file.base)),
                what,
                redundant: true,
                ..Finding::default()
            });
        };
        if disk.open_read(&dir.join(index_name(file.base))).is_err() {
            return;
        }
        result.indexes += 1;
        let sealed = match SealedIndex::open(disk, &dir, file.base, self.log_id) {
            Ok(sealed) => Index::Sealed(Arc::new(sealed)),
            Err(fault) => return finding(describe(fault)),
        };
        let Ok(anew) = index_of(&dir, &self.config, disk, file.base) else {
            // Of a file that cannot be read is told elsewhere.
            return;
        };
        let anew = Index::Open(Arc::new(anew));
        for (key, _) in sealed.extents() {
            let (runs, other) = match (
                sealed.runs_of(disk, key, 0, usize::MAX),
                anew.runs_of(disk, key, 0, usize::MAX),
            ) {
                (Ok(runs), Ok(other)) => (runs, other),
                (Err(fault), _) | (_, Err(fault)) => return finding(describe(fault)),
            };
            if let Some(run) = runs.iter().find(|run| !agrees(run, &other)) {
                return finding(format!(
                    "says that sequence {:#x} of queue {:#x} lies at {}, the log does not",
                    run.first, key.queue.0, run.at
                ));
            }
        }
        for (key, _) in anew.extents() {
            if key.volatile || key.copied_from.is_some() || file.moved {
                continue;
            }
            let runs = |index: &Index| index.runs_of(disk, key, 0, usize::MAX).unwrap_or_default();
            let count = |runs: &[Run], range: (u64, u64)| -> u64 {
                let parts = runs
                    .iter()
                    .map(|run| Totals::of_part(run, range.0, range.1));
                parts.map(|part| part.count).sum()
            };
            let (there, mut wanted) = (runs(&sealed), runs(&anew));
            wanted.retain(|run| !self.undurable.iter().any(|range| range.contains(&run.at)));
            for range in self.live(key.queue, key.level) {
                let (there, wanted) = (count(&there, range), count(&wanted, range));
                if there < wanted {
                    return finding(format!(
                        "lacks {} messages of queue {:#x}",
                        wanted - there,
                        key.queue.0
                    ));
                }
            }
        }
    }
}

fn describe(fault: IndexFault) -> String {
    match fault {
        IndexFault::Io(error) => format!("the disk refuses to read it: {error}"),
        IndexFault::Damaged => "does not have the checksums it was written with".to_owned(),
    }
}

/// Whether the log puts the start of a run of its index to the same place.
fn agrees(run: &Run, log: &[Run]) -> bool {
    let after = log.partition_point(|other| other.first <= run.first);
    let before = after.checked_sub(1).and_then(|number| log.get(number));
    before.is_some_and(|other| {
        if other.first == run.first {
            other.at == run.at
        } else {
            run.first < other.to()
                && (other.at..other.at + u64::from(other.octets)).contains(&run.at)
        }
    })
}
