//! The HTTP management API: JSON over HTTP/1.1 under `/api`, as operators' tools know it (`spec: http-api`).
//!
//! Owns sockets of its own, the table of endpoints, authentication by the broker's users, and the shape of what is shown. It must
//! not know frames or rules of queues: what it changes it changes through [`mamba_broker::Broker`], in the name of the user who
//! asks. Start reading at `routes.rs`, the table from which requests are answered and the OpenAPI document is made; then
//! `server.rs`, a request's way.

#![expect(
    clippy::disallowed_methods,
    reason = "requests come with their own time, and limits need a clock"
)]

mod access;
mod answer;
mod bindings;
mod connections;
mod control;
mod definitions;
mod exchanges;
mod health;
mod history;
mod limits;
mod messages;
mod openapi;
mod overview;
mod parameters;
mod permissions;
mod policies;
mod query;
mod queues;
mod rates;
mod request;
mod routes;
mod schemas;
mod server;
mod stall;
mod time;
mod users;
mod vhosts;

pub use control::{CommandRefused, Perform};
pub use server::{CertificateFile, Handshakes, Listener, Listening, Node, Readings};
