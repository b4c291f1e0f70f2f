//! What goes to the audit log: who did what from where, and how it ended. Never a secret.

/// Target of its events.
pub const TARGET: &str = "mambamq::audit";
