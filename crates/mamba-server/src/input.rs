//! Octets that have arrived and are not understood yet.
//!
//! An idle connection holds no buffer: reads go into a buffer that the worker thread keeps, and only what is
//! left over stays with the connection.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, ReadBuf};

/// Octets read at once, at least: a read of fewer has emptied the socket.
pub(crate) const READ_SIZE: usize = 131_072;
/// A rest up to here is copied out, so that the thread gets its buffer back; a larger one keeps the buffer.
const COPY_MAX: usize = 8192;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A connection's unread octets.
#[derive(Debug, Default)]
pub(crate) struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    /// What has arrived.
    pub(crate) fn octets(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Drops octets from the front.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Reads once. `Ready(Ok(0))` is the end of the stream.
    pub(crate) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.make_room();
        let mut into = ReadBuf::new(&mut self.buffer[self.end..]);
        let read = Pin::new(stream).poll_read(cx, &mut into);
        let count = into.filled().len();
        self.end += count;
        if count == 0 {
            // Nothing came, and after the end or an error nothing will: the thread gets its buffer back.
            self.settle();
        }
        read.map_ok(|()| count)
    }

    /// At least [`READ_SIZE`] octets free behind the unread ones, in the thread's buffer if it is free.
    fn make_room(&mut self) {
        let unread = self.end - self.start;
        if self.buffer.len() - self.end >= READ_SIZE {
            return;
        }
        if self.start > 0 && self.buffer.len() - unread >= READ_SIZE {
            self.buffer.copy_within(self.start..self.end, 0);
        } else {
            let mut larger = SPARE.take();
            larger.resize((unread + READ_SIZE).max(2 * READ_SIZE).max(larger.len()), 0);
            larger[..unread].copy_from_slice(&self.buffer[self.start..self.end]);
            self.buffer = larger;
        }
        (self.start, self.end) = (0, unread);
    }

    /// Nothing more to read for now: gives the thread its buffer back if little or nothing is left over.
    pub(crate) fn settle(&mut self) {
        let unread = self.end - self.start;
        if unread > COPY_MAX || self.buffer.len() <= COPY_MAX {
            return;
        }
        let rest = self.octets().to_vec();
        SPARE.set(std::mem::replace(&mut self.buffer, rest));
        (self.start, self.end) = (0, unread);
    }
}
