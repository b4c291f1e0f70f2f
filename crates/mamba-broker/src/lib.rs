//! Joins sessions, routing, queues and the store.
