//! What the node does by the clock and not for any one connection: deadlines of queues, space in the log.

use std::{sync::Arc, time::Duration};

use mamba_broker::Broker;
use tokio::{
    sync::Notify,
    time::{interval, sleep},
};

use crate::clock::Clock;

/// Without any deadline, look again after this long; the doorbell rings when one comes up.
const LONG: Duration = Duration::from_secs(3600);
/// How often the log is asked whether messages pin old files.
const RECLAIM: Duration = Duration::from_secs(2);

/// Calls [`Broker::tick`] whenever something is due; runs until the task is aborted.
pub(crate) async fn keep_deadlines(broker: Arc<Broker>, clock: Clock) {
    let earlier = Arc::new(Notify::new());
    let doorbell = Arc::clone(&earlier);
    broker.on_earlier_deadline(Arc::new(move || doorbell.notify_one()));
    loop {
        let wait = broker.next_deadline().map_or(LONG, |deadline| {
            Duration::from_millis(deadline.saturating_sub(clock.now().unix_ms))
        });
        tokio::select! {
            () = earlier.notified() => {}
            () = sleep(wait.min(LONG)) => {}
        }
        broker.tick(clock.now().unix_ms);
    }
}

/// Moves the few live messages that pin old log files; runs until the task is aborted.
pub(crate) async fn reclaim_space(broker: Arc<Broker>) {
    let mut ticks = interval(RECLAIM);
    loop {
        ticks.tick().await;
        let broker = Arc::clone(&broker);
        // Walks queues and copies records: not for a worker that serves connections.
        let _ = tokio::task::spawn_blocking(move || broker.reclaim()).await;
    }
}
