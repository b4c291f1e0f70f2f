//! What waits for a connection's socket.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

/// Octets of a body frame from which on it is shared instead of copied.
pub const SHARE_FROM: usize = 8192;

/// Slices handed to one write.
const SLICES_MAX: usize = 64;

/// Capacity that stays between bursts, in octets.
const KEPT: usize = 65_536;

/// Small bursts in a row after which a large buffer is given back.
const SMALL_BURSTS: u8 = 32;

/// A connection's output: octets written here, with counted slices of message bodies in between.
#[derive(Debug, Default)]
pub struct Output {
    buffer: Vec<u8>,
    /// Octets at the front of `buffer` that the socket has taken.
    taken: usize,
    shared: VecDeque<Shared>,
    shared_len: usize,
    small_bursts: u8,
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
        if octets.is_empty() {
            return;
        }
        self.shared_len += octets.len();
        self.shared.push_back(Shared {
            at: self.buffer.len(),
            octets,
        });
    }

    /// Octets to write.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.buffer.len() - self.taken + self.shared_len
    }

    /// Nothing to write.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends the first slices to write, in order, at most 64 of them.
    pub fn slices<'a>(&'a self, into: &mut Vec<IoSlice<'a>>) {
        let end = into.len() + SLICES_MAX;
        let mut at = self.taken;
        for shared in &self.shared {
            if into.len() + 2 > end {
                return;
            }
            self.buffered(at, shared.at, into);
            at = shared.at;
            into.push(IoSlice::new(&shared.octets));
        }
        if into.len() < end {
            self.buffered(at, self.buffer.len(), into);
        }
    }

    fn buffered<'a>(&'a self, from: usize, to: usize, into: &mut Vec<IoSlice<'a>>) {
        if let Some(octets) = self.buffer.get(from..to)
            && !octets.is_empty()
        {
            into.push(IoSlice::new(octets));
        }
    }

    /// Forgets the first `count` octets: the socket has taken them.
    pub fn advance(&mut self, count: usize) {
        let mut count = count.min(self.len());
        while let Some(front) = self.shared.front_mut() {
            let before = count.min(front.at - self.taken);
            self.taken += before;
            count -= before;
            let here = count.min(front.octets.len());
            front.octets.advance(here);
            self.shared_len -= here;
            count -= here;
            if !front.octets.is_empty() {
                break;
            }
            self.shared.pop_front();
        }
        self.taken += count;
        if self.is_empty() {
            self.emptied();
        } else if self.taken >= KEPT && self.taken >= self.buffer.len() / 2 {
            self.compact();
        }
    }

    /// Gives memory back; call it when the connection has been idle for a while. Does nothing while octets wait.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Gives back an empty buffer that is small: an idle connection keeps nothing, and getting it anew costs less than a
    /// system call. A large one stays: bursts come again.
    pub fn release_small(&mut self) {
        if self.is_empty() && self.buffer.capacity() <= KEPT {
            self.buffer = Vec::new();
        }
    }

    fn emptied(&mut self) {
        let burst = self.buffer.len();
        self.buffer.clear();
        self.taken = 0;
        if self.buffer.capacity() <= KEPT || burst > self.buffer.capacity() / 4 {
            self.small_bursts = 0;
            return;
        }
        self.small_bursts += 1;
        if self.small_bursts >= SMALL_BURSTS {
            self.small_bursts = 0;
            self.buffer.shrink_to(KEPT.max(burst * 2));
            self.shared.shrink_to(SLICES_MAX);
        }
    }

    /// Moves what is left to the front, so that a peer that reads slowly does not make the buffer grow.
    fn compact(&mut self) {
        self.buffer.drain(..self.taken);
        for shared in &mut self.shared {
            shared.at -= self.taken;
        }
        self.taken = 0;
    }
}
