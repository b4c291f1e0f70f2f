//! The message log and the definitions database.
