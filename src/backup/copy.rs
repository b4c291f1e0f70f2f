//! Copying with a checksum.

use std::io::{self, ErrorKind, Read, Write};

/// Octets read at a time.
const BUFFER: usize = 1 << 20;

/// Counts and sums up what is read through it.
pub(super) struct Digest<R> {
    from: R,
    pub(super) octets: u64,
    pub(super) crc: u32,
}

impl<R: Read> Digest<R> {
    pub(super) const fn new(from: R) -> Self {
        Self {
            from,
            octets: 0,
            crc: 0,
        }
    }
}

impl<R: Read> Read for Digest<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.octets += read as u64;
        self.crc = crc32c::crc32c_append(self.crc, &buffer[..read]);
        Ok(read)
    }
}

/// Copies to the end.
pub(super) fn copy(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => to.write_all(&buffer[..read])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
