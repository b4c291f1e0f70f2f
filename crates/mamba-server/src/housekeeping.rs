//! What the node does by the clock and not for any one connection: deadlines of queues, space in the log.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use mamba_broker::Broker;
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use crate::clock::Clock;

/// Without any deadline, look again after this long; the doorbell rings when one comes up.
const LONG: Duration = Duration::from_secs(3600);
/// Deadlines that come one soon after another are looked at together, this late at most.
const PACE: Duration = Duration::from_millis(7);
/// How often log and memory are looked after, beside each new log file.
const MAINTENANCE: Duration = Duration::from_secs(2);
/// Threads that read messages back.
const PAGERS: usize = 2;

/// Calls [`Broker::tick`] whenever something is due; runs until the task is aborted.
pub(crate) async fn keep_deadlines(broker: Arc<Broker>, clock: Clock) {
    let earlier = Arc::new(Notify::new());
    let doorbell = Arc::clone(&earlier);
    broker.on_earlier_deadline(Arc::new(move || doorbell.notify_one()));
    let mut not_before = Instant::now();
    loop {
        let latest = Instant::now() + LONG;
        let deadline = broker.next_deadline();
        let next = deadline.map_or(latest, |deadline| clock.at(deadline).into());
        let next = next.min(latest).max(not_before);
        tokio::select! {
            () = earlier.notified() => {}
            () = sleep_until(next) => {
                broker.tick(clock.now().unix_ms);
                not_before = next + PACE;
            }
        }
    }
}

/// Keeps log and memory in order; runs until the task is aborted.
pub(crate) async fn maintain(broker: Arc<Broker>) {
    let mut ticks = interval(MAINTENANCE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let new_file = Arc::new(Notify::new());
    let doorbell = Arc::clone(&new_file);
    broker.on_new_log_file(Arc::new(move || doorbell.notify_one()));
    loop {
        tokio::select! {
            () = new_file.notified() => {}
            _ = ticks.tick() => {}
        }
        let broker = Arc::clone(&broker);
        // Walks queues, reads and copies records: not for a worker that serves connections.
        let _ = tokio::task::spawn_blocking(move || broker.maintain()).await;
    }
}

/// Frees the task that was woken last on a thread that is about to wait for the disk, say of the consumer of what was just
/// published: tokio keeps that one for its thread until another is woken there, and then has idle threads take it. So this is
/// another one. Runs until the task is aborted.
pub(crate) async fn make_way(broker: Arc<Broker>) {
    let other = Arc::new(Notify::new());
    let doorbell = Arc::clone(&other);
    broker.on_waiting_for_disk(Arc::new(move || doorbell.notify_one()));
    loop {
        other.notified().await;
    }
}

/// Starts the thread that publishes events, if there are any; it ends with the broker.
pub(crate) fn publish_events(broker: &Arc<Broker>, clock: Clock) {
    let Some(events) = broker.take_events() else {
        return;
    };
    let broker = Arc::downgrade(broker);
    let publish = move || {
        for event in events {
            let Some(broker) = broker.upgrade() else {
                return;
            };
            broker.publish_event(event, clock.now().unix_ms);
        }
    };
    let name = "mamba-events".to_owned();
    if let Err(error) = thread::Builder::new().name(name).spawn(publish) {
        tracing::error!(%error, "no thread to publish events: nobody will be told of them");
    }
}

/// Threads that read messages back from the disk; dropping it ends them.
#[derive(Debug)]
pub(crate) struct Pagers {
    broker: Arc<Broker>,
    threads: Vec<JoinHandle<()>>,
}

impl Pagers {
    /// Starts them. Should the system refuse a thread, the others do its work.
    pub(crate) fn start(broker: &Arc<Broker>) -> Self {
        let thread = |number| {
            let broker = Arc::clone(broker);
            thread::Builder::new()
                .name(format!("mamba-pager-{number}"))
                .spawn(move || broker.page_in())
        };
        Self {
            broker: Arc::clone(broker),
            threads: (0..PAGERS)
                .filter_map(|number| thread(number).ok())
                .collect(),
        }
    }
}

impl Drop for Pagers {
    fn drop(&mut self) {
        self.broker.stop_paging();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
