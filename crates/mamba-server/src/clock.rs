//! The one place where the time comes from.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mamba_broker::Now;

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

    pub(crate) fn now(&self) -> Now {
        let instant = Instant::now();
        let since = instant.saturating_duration_since(self.start);
        Now {
            instant,
            unix_ms: self.start_unix_ms + u64::try_from(since.as_millis()).unwrap_or(0),
        }
    }
}
