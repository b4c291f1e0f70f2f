//! What the workers and the thread that directs them share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::clock::{SECOND, now_ns};
use crate::error::Error;
use crate::plan::Plan;

/// Nanoseconds that the last steps of a worker (confirms that are still out, closing) may take.
pub(crate) const FAREWELL_NS: u64 = 10 * SECOND;

/// How far a run has come; each stage includes the ones before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Workers connect.
    Connect,
    /// Consumers subscribe.
    Subscribe,
    /// Publishers publish.
    Publish,
}

/// What a worker tells the directing thread.
#[derive(Debug)]
pub(crate) enum Event {
    /// The connection stands; the broker's name.
    Connected(String),
    /// The broker accepted all of a consumer's subscriptions.
    Subscribed,
    /// A publisher has sent, and got confirmed, all it should.
    Published,
    /// Something the user should know.
    Notice(String),
    /// A worker gave up.
    Failed { who: String, error: Error },
}

/// Shared between all threads of a run.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) plan: Plan,
    stage: Mutex<Stage>,
    stage_changed: Condvar,
    stop_publishing: AtomicBool,
    stop_all: AtomicBool,
}

impl Control {
    pub(crate) fn new(plan: Plan) -> Arc<Self> {
        Arc::new(Self {
            plan,
            stage: Mutex::new(Stage::Connect),
            stage_changed: Condvar::new(),
            stop_publishing: AtomicBool::new(false),
            stop_all: AtomicBool::new(false),
        })
    }

    /// Lets the workers go on to `stage`.
    pub(crate) fn enter(&self, stage: Stage) {
        *self.stage.lock() = stage;
        self.stage_changed.notify_all();
    }

    /// Waits for `stage`; false when the run ended before.
    pub(crate) fn wait_for(&self, stage: Stage) -> bool {
        let mut current = self.stage.lock();
        while *current < stage {
            if self.stopped() {
                return false;
            }
            self.stage_changed
                .wait_for(&mut current, Duration::from_millis(100));
        }
        !self.stopped()
    }

    /// No new messages.
    pub(crate) fn stop_publishing(&self) {
        self.stop_publishing.store(true, Ordering::Relaxed);
    }

    /// Everybody goes home.
    pub(crate) fn stop(&self) {
        self.stop_publishing();
        self.stop_all.store(true, Ordering::Relaxed);
        self.stage_changed.notify_all();
    }

    pub(crate) fn publishing_stopped(&self) -> bool {
        self.stop_publishing.load(Ordering::Relaxed)
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop_all.load(Ordering::Relaxed)
    }
}

/// Sends to the directing thread; when that is gone there is nobody left to tell.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    pub(crate) who: String,
    pub(crate) events: Sender<Event>,
}

impl Reporter {
    pub(crate) fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }

    pub(crate) fn notice(&self, text: &str) {
        self.tell(Event::Notice(format!("{}: {text}", self.who)));
    }

    pub(crate) fn failed(&self, error: Error) {
        self.tell(Event::Failed {
            who: self.who.clone(),
            error,
        });
    }
}

/// Makes sleeps exact to a few microseconds, which a rate of many thousand per second needs. Without the permission to do so
/// they are exact to about 50 microseconds.
pub(crate) fn precise_sleep() {
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

/// A time limit that begins when it is first asked for.
#[derive(Debug, Default)]
pub(crate) struct Farewell(Option<u64>);

impl Farewell {
    /// Whether [`FAREWELL_NS`] have passed since the first call.
    pub(crate) fn is_over(&mut self) -> bool {
        let now = now_ns();
        now > *self.0.get_or_insert(now + FAREWELL_NS)
    }
}
