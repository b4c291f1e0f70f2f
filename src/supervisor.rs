//! Tells systemd how far the broker is (`Type=notify-reload`); says nothing where nobody asked.

use sd_notify::NotifyState;

/// Ready for clients.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Reads its certificates again; [`ready`] follows.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no monotonic clock to tell systemd of"),
    }
}

/// Closes connections and writes everything down.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd cannot be told");
    }
}
