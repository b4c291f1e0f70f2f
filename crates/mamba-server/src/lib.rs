//! Sockets, tasks, timers and shutdown.
