//! The one place where the time comes from.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mamba_broker::Now;

/// Far enough ahead for anybody who waits: a hundred years.
const FAR_MS: u64 = 100 * 365 * 86_400_000;

/// Wall-clock time that never goes back: read once at the start and advanced by the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
    start_unix_ms: u64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            start: Instant::now(),
            start_unix_ms: u64::try_from(since_1970.as_millis()).unwrap_or(0),
        }
    }

    /// When this millisecond begins.
    pub(crate) fn at(&self, unix_ms: u64) -> Instant {
        let since = unix_ms.saturating_sub(self.start_unix_ms);
        self.start + Duration::from_millis(since.min(FAR_MS))
    }

    pub(crate) fn now(&self) -> Now {
        let instant = Instant::now();
        let since = instant.saturating_duration_since(self.start);
        Now {
            instant,
            unix_ms: self.start_unix_ms + u64::try_from(since.as_millis()).unwrap_or(0),
        }
    }
}
