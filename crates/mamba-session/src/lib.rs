//! Connection and channel state machines without I/O.
