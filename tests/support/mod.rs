//! What every black-box test needs: a running broker, a plain synchronous client, method builders.
//!
//! The client is deliberately dumb. It encodes and parses frames with `amq-protocol`, so that a mistake of our own codec is not
//! answered by the same mistake here, and it never hides what came over the wire. A receive timeout bounds a failing test; no test
//! decides anything by the time that passed.
//!
//! Each test binary starts one broker at its first test; it ends with the binary. To see what another broker does with the same tests:
//! `MAMBAMQ_TEST_URL=amqp://guest:guest@127.0.0.1:5672/ cargo test --test errors`. Tests of what MambaMQ does differently on purpose
//! call [`elsewhere`] and pass there without looking.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(
    unused_imports,
    unused_macros,
    reason = "each test binary uses its own part"
)]
#![allow(clippy::print_stdout, reason = "a skipped test says so")]
#![allow(clippy::unwrap_used, reason = "the helpers run in tests only")]
#![allow(
    clippy::disallowed_methods,
    reason = "a failing test is bounded by the clock"
)]

pub(crate) mod broker;
pub(crate) mod client;
pub(crate) mod ctl;
pub(crate) mod expect;
pub(crate) mod http;
pub(crate) mod method;
pub(crate) mod oauth;
pub(crate) mod tls;

pub(crate) use broker::{Broker, url};
pub(crate) use client::{
    Channel, Client, Content, Event, Frame, Options, Silence, amqplain, content, frame,
    method_frame,
};
pub(crate) use expect::{Finally, channel_errors, connection_errors, eventually, expand};
pub(crate) use method::*;

use std::sync::atomic::{AtomicU32, Ordering};

/// A name no other test uses, also not one of an earlier run against the same broker.
pub(crate) fn name() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("mq.{}.{count}", std::process::id())
}

/// Whether the tests run against another broker (`MAMBAMQ_TEST_URL`) that cannot pass a test of what MambaMQ does differently.
///
/// Says so, so that a skipped test is seen in the output.
pub(crate) fn elsewhere(difference: &str) -> bool {
    let elsewhere = url().is_some();
    if elsewhere {
        println!("skipped: {difference}");
    }
    elsewhere
}

/// A small repeatable generator (xorshift), for input that must look random and come back the same.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_be_bytes()[3]).collect()
    }
}
