//! Memory and disk, compared with their thresholds; operators may change those while the broker runs.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mamba_broker::{Alarms, Broker};
use mamba_store::LogStatus;
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval},
};

use crate::{
    config::{self, value::Threshold},
    process,
};

/// How often memory and disk are compared with their thresholds.
const INTERVAL: Duration = Duration::from_secs(1);

/// Where alarms begin, in octets.
#[derive(Debug, Default)]
pub(crate) struct Thresholds {
    memory: AtomicU64,
    disk_free: AtomicU64,
    /// Memory the process may use.
    memory_total: u64,
    changed: Notify,
}

impl Thresholds {
    pub(crate) fn new(config: &config::Alarms) -> Self {
        let memory_total = process::memory_total();
        Self {
            memory: config.memory_high_watermark.octets(memory_total).into(),
            disk_free: config.disk_free_limit.octets(memory_total).into(),
            memory_total,
            changed: Notify::new(),
        }
    }

    /// More resident memory than this is too much.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory.load(Ordering::Relaxed)
    }

    /// Less free disk space than this is too little.
    pub(crate) fn disk_free_bytes(&self) -> u64 {
        self.disk_free.load(Ordering::Relaxed)
    }

    /// Until the process ends; the configuration stays as it is.
    pub(crate) fn set_memory(&self, threshold: Threshold) {
        let octets = threshold.octets(self.memory_total);
        self.memory.store(octets, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Until the process ends; the configuration stays as it is.
    pub(crate) fn set_disk_free(&self, threshold: Threshold) {
        let octets = threshold.octets(self.memory_total);
        self.disk_free.store(octets, Ordering::Relaxed);
        self.changed.notify_one();
    }
}

/// Tells the broker when a threshold is crossed. A log that found no room to write counts as a full disk, whatever the threshold is.
pub(crate) async fn watch(broker: Arc<Broker>, thresholds: Arc<Thresholds>, data_dir: PathBuf) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut memory_was, mut disk_was) = (false, false);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = thresholds.changed.notified() => {}
        }
        let used = process::resident_bytes();
        let free = process::disk_free(&data_dir);
        let (memory_limit, disk_limit) = (thresholds.memory_bytes(), thresholds.disk_free_bytes());
        let memory = used.is_some_and(|used| used > memory_limit);
        let disk = free.is_some_and(|free| free < disk_limit)
            || matches!(broker.store().log().status(), LogStatus::DiskFull { .. });
        if (memory, disk) == (memory_was, disk_was) {
            continue;
        }
        broker.set_alarms(Alarms { memory, disk });
        if memory != memory_was {
            let (used_bytes, limit_bytes) = (used.unwrap_or(0), memory_limit);
            if memory {
                tracing::warn!(used_bytes, limit_bytes, "memory use is above its watermark");
            } else {
                tracing::info!(
                    used_bytes,
                    limit_bytes,
                    "memory use is below its watermark again"
                );
            }
        }
        if disk != disk_was {
            let (free_bytes, limit_bytes) = (free.unwrap_or(0), disk_limit);
            if disk {
                tracing::warn!(
                    free_bytes,
                    limit_bytes,
                    "free disk space is below its limit"
                );
            } else {
                tracing::info!(
                    free_bytes,
                    limit_bytes,
                    "free disk space is above its limit again"
                );
            }
        }
        (memory_was, disk_was) = (memory, disk);
    }
}
