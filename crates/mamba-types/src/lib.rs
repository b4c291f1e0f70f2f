//! Names, tags, field tables, reply codes and the message record.
