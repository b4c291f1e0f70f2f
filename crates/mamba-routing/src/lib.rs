//! Exchanges and bindings to sets of queues.
