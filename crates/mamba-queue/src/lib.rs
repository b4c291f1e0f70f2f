//! The queue state machine.
