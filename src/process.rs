//! What the operating system says about this process and its machine.

use std::{fs, path::Path};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Readings for the metrics and the alarms; 0 where the system does not say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Readings {
    /// Open file descriptors.
    pub(crate) open_fds: u64,
    /// Largest number of file descriptors.
    pub(crate) max_fds: u64,
    /// Resident memory, in octets.
    pub(crate) resident_bytes: u64,
    /// Of it, what stands for files: the program itself.
    pub(crate) resident_file_bytes: u64,
    /// Processor time used, user and system, in seconds.
    pub(crate) cpu_seconds: f64,
    /// Threads of this process.
    pub(crate) threads: u64,
    /// Free disk space for the data folder, in octets.
    pub(crate) disk_free_bytes: u64,
}

impl Readings {
    /// Takes the readings now.
    pub(crate) fn take(data_dir: &Path) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let (open_fds, cpu_seconds) = (open_fds(), cpu_seconds());
        Self {
            open_fds,
            max_fds: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
            resident_bytes: resident_bytes().unwrap_or(0),
            resident_file_bytes: field(&status, "RssFile:").map_or(0, |kib| kib * 1024),
            cpu_seconds,
            threads: field(&status, "Threads:").unwrap_or(0),
            disk_free_bytes: disk_free(data_dir).unwrap_or(0),
        }
    }
}

/// Raises the soft limit of file descriptors to the hard one, and answers how many there may be now.
pub(crate) fn raise_fd_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && setrlimit(
            Resource::Nofile,
            Rlimit {
                current: maximum,
                maximum,
            },
        )
        .is_ok()
    {
        return maximum.unwrap_or(u64::MAX);
    }
    current.unwrap_or(u64::MAX)
}

/// Memory this process may use, in octets: the machine's, or the container's if that is less.
pub(crate) fn memory_total() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| field(&text, "MemTotal:"))
        .map(|kib| kib * 1024);
    let container = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ]
    .iter()
    .find_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    match (machine, container) {
        (Some(machine), Some(container)) => machine.min(container),
        // Without any answer an alarm must not go off by mistake.
        (machine, container) => machine.or(container).unwrap_or(u64::MAX),
    }
}

/// Resident memory of this process, in octets.
pub(crate) fn resident_bytes() -> Option<u64> {
    field(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:").map(|kib| kib * 1024)
}

/// Free space of the file system this folder is on, for a process without privileges, in octets.
pub(crate) fn disk_free(folder: &Path) -> Option<u64> {
    let status = rustix::fs::statvfs(folder).ok()?;
    Some(status.f_bavail.saturating_mul(status.f_frsize))
}

fn open_fds() -> u64 {
    // The folder's own descriptor is one of them.
    fs::read_dir("/proc/self/fd").map_or(0, |entries| (entries.count() as u64).saturating_sub(1))
}

fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command name may contain spaces; user and system time are the 12th and 13th words after it.
    let ticks = |word: Option<&str>| {
        word.and_then(|word| word.parse::<u32>().ok())
            .map_or(0.0, f64::from)
    };
    let mut words = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(11);
    // Linux shows times in hundredths of a second to programs, whatever its own clock.
    (ticks(words.next()) + ticks(words.next())) / 100.0
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_are_plausible() {
        let readings = Readings::take(Path::new("."));
        assert!(readings.open_fds >= 3, "{readings:?}");
        assert!(readings.max_fds >= readings.open_fds, "{readings:?}");
        assert!(readings.resident_bytes > 100_000, "{readings:?}");
        assert!(readings.threads >= 1, "{readings:?}");
        assert!(readings.disk_free_bytes > 0, "{readings:?}");
        assert!(memory_total() > readings.resident_bytes);
        assert!(raise_fd_limit() >= 256);
    }
}
