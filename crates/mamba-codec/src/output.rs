//! What waits for a connection's socket.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

/// Octets of a body frame from which on it is shared instead of copied.
pub const SHARE_FROM: usize = 8192;

/// A connection's output: octets written here, with counted slices of message bodies in between.
#[derive(Debug, Default)]
pub struct Output {
    buffer: Vec<u8>,
    /// Octets at the front of `buffer` that the socket has taken.
    taken: usize,
    shared: VecDeque<Shared>,
    shared_len: usize,
}

#[derive(Debug)]
struct Shared {
    /// Goes out after this many octets of `buffer`.
    at: usize,
    octets: Bytes,
}

impl Output {
    /// Nothing to write, nothing allocated.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The end of the output. Only append to it.
    pub const fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Appends a counted slice without copying it.
    pub fn push_shared(&mut self, octets: Bytes) {
        let _ = octets;
        todo!()
    }

    /// Octets to write.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buffer.len() - self.taken + self.shared_len
    }

    /// Nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends the first slices to write, in order, at most 64 of them.
    pub fn slices<'a>(&'a self, into: &mut Vec<IoSlice<'a>>) {
        let _ = into;
        todo!()
    }

    /// Forgets the first `count` octets: the socket has taken them.
    pub fn advance(&mut self, count: usize) {
        let _ = count;
        todo!()
    }

    /// Gives memory back; call it when the connection has been idle for a while. Does nothing while octets wait.
    pub fn shrink(&mut self) {
        todo!()
    }
}
