//! Mistakes made on purpose, so that the simulation can show that it would notice them. Only with the feature `mutants`.

use std::cell::Cell;

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Message records are taken as they are, whatever their checksums say.
    ChecksumIgnored,
    /// A log file counts as dead although messages in it live.
    FreedTooEarly,
    /// A dead letter is settled in its queue before it is in the next one.
    SettledFirst,
}

thread_local! {
    static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Makes a mistake on this thread from now on, or none.
pub fn set(mutant: Option<Mutant>) {
    ACTIVE.set(mutant);
}

/// Whether the mistake is to be made on this thread.
#[must_use]
pub fn on(mutant: Mutant) -> bool {
    ACTIVE.get() == Some(mutant)
}
