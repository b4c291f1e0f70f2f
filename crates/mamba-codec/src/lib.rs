//! Bytes to AMQP 0-9-1 frames and back.
//!
//! Owns the wire format: frames, the hot methods, content headers, field tables and the connection's output
//! buffer. Knows no channels and keeps no state between calls. Everything a peer sends is checked here before
//! anything is allocated for it: lengths, nesting, tags and text. Cold methods are decoded and encoded by
//! `amq-protocol`, after those checks. Start reading at [`frame()`] and [`method()`] for what comes in, at
//! [`Output`] and [`write_deliver`] for what goes out.
//!
//! ```text
//! frame           octet type · short channel · long size · payload · octet 0xCE
//! method          short class · short method · arguments
//! content header  short class · short weight · longlong body size · short flags · values in flag order
//! body            octets
//! ```

#![warn(clippy::indexing_slicing, clippy::little_endian_bytes)]

mod content;
mod erlang;
mod frame;
mod method;
mod octets;
mod output;
mod table;
mod write;

pub use amq_protocol::protocol;
pub use amq_protocol::protocol::AMQPClass;
pub use content::{
    Change, ContentHeader, HeaderChange, HeaderError, Properties, PropertyError, content_header,
    encode_header, rewrite_header, scan_properties,
};
pub use erlang::Snip;
pub use frame::{FRAME_END, FRAME_HEADER_LEN, Frame, FrameError, FrameKind, frame};
pub use method::{Method, MethodError, PublishArgs, class_method, method};
pub use output::{Output, SHARE_FROM};
pub use table::{
    ArrayItems, RawValue, TABLE_DEPTH_CAP, TableEntries, TableError, check_table, encode_table,
    put_entry, put_value, table, table_entries, table_get, with_entries,
};
pub use write::{
    Parts, Returned, write_ack, write_deliver, write_get_ok, write_heartbeat, write_method,
    write_nack, write_return,
};
