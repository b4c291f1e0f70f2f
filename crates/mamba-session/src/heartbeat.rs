//! Signs of life in both directions (AMQP 0-9-1, 4.2.7).

use std::time::{Duration, Instant};

/// Looks in a row without an octet after which the peer is dead.
const SILENT_LOOKS_MAX: u8 = 2;

/// One connection's heartbeats.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    interval_secs: u16,
    /// When to look whether something was written, every half interval.
    send_look: Option<Instant>,
    wrote: bool,
    /// The first heartbeat goes out whatever else was written.
    sent: bool,
    /// A heartbeat is on its way to the socket: its own octets are no sign that anything else was written.
    own_pending: bool,
    /// When to look whether something was heard, every interval. `None` while the driver does not read.
    receive_look: Option<Instant>,
    heard: bool,
    silent_looks: u8,
}

/// What a timer found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pulse {
    /// Nothing to do.
    Quiet,
    /// Send a heartbeat.
    Send,
    /// The peer is gone.
    Dead,
}

impl Heartbeat {
    /// No heartbeats.
    pub(crate) const fn none() -> Self {
        Self {
            interval_secs: 0,
            send_look: None,
            wrote: false,
            sent: false,
            own_pending: false,
            receive_look: None,
            heard: false,
            silent_looks: 0,
        }
    }

    /// Heartbeats every `interval_secs`, 0 for none.
    pub(crate) fn start(interval_secs: u16, now: Instant) -> Self {
        let mut heartbeat = Self {
            interval_secs,
            ..Self::none()
        };
        if interval_secs > 0 {
            heartbeat.send_look = Some(now + heartbeat.interval() / 2);
            heartbeat.receive_look = Some(now + heartbeat.interval());
        }
        heartbeat
    }

    pub(crate) const fn interval_secs(&self) -> u16 {
        self.interval_secs
    }

    pub(crate) const fn heard(&mut self) {
        self.heard = true;
    }

    pub(crate) const fn wrote(&mut self) {
        if self.own_pending {
            self.own_pending = false;
        } else {
            self.wrote = true;
        }
    }

    pub(crate) const fn pause(&mut self) {
        self.receive_look = None;
    }

    pub(crate) fn resume(&mut self, now: Instant) {
        if self.interval_secs > 0 {
            self.receive_look = Some(now + self.interval());
            self.heard = false;
            self.silent_looks = 0;
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match (self.send_look, self.receive_look) {
            (Some(send), Some(receive)) => Some(send.min(receive)),
            (send, receive) => send.or(receive),
        }
    }

    /// Looks that are overdue count once: a node that stood still must not take its peers for dead.
    pub(crate) fn timer(&mut self, now: Instant) -> Pulse {
        if let Some(due) = self.receive_look
            && now >= due
        {
            self.receive_look = Some(now + self.interval());
            if std::mem::take(&mut self.heard) {
                self.silent_looks = 0;
            } else {
                self.silent_looks += 1;
                if self.silent_looks >= SILENT_LOOKS_MAX {
                    return Pulse::Dead;
                }
            }
        }
        if let Some(due) = self.send_look
            && now >= due
        {
            self.send_look = Some(now + self.interval() / 2);
            let wrote = std::mem::take(&mut self.wrote);
            if !wrote || !self.sent {
                self.sent = true;
                self.own_pending = true;
                return Pulse::Send;
            }
        }
        Pulse::Quiet
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(u64::from(self.interval_secs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A heartbeat's own octets used to count as traffic, so that an idle connection heard from us only once per
    /// interval; a client that gives up after one silent interval then lost its connections.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn idle_connection_gets_a_heartbeat_every_half_interval() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::start(2, start);
        for second in 1..=6 {
            heartbeat.heard();
            let pulse = heartbeat.timer(start + Duration::from_secs(second));
            assert_eq!(pulse, Pulse::Send, "after {second} s");
            heartbeat.wrote();
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn traffic_takes_the_place_of_a_heartbeat() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::start(2, start);
        assert_eq!(heartbeat.timer(start + Duration::from_secs(1)), Pulse::Send);
        heartbeat.wrote();
        heartbeat.wrote();
        heartbeat.heard();
        assert_eq!(
            heartbeat.timer(start + Duration::from_secs(2)),
            Pulse::Quiet
        );
    }
}
