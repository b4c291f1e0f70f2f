//! Where messages come from: arguments, files, standard input whole or line by line.
//!
//! A thread reads and waits whenever the broker is behind, so that no input is too long.

use std::{
    fs::File,
    io::{self, BufRead, Read},
    path::PathBuf,
    thread,
};

use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::{
    error::Error,
    line::{self, Line},
};

/// The largest message read, in octets.
const MESSAGE_BYTES_MAX: u64 = 512 << 20;
/// Messages that were read and wait.
const WAITING_MAX: usize = 16;

/// What is read, and how.
#[derive(Debug)]
pub(crate) enum Source {
    /// Each is a message.
    Words(Vec<String>),
    /// Each is a message.
    Files(Vec<PathBuf>),
    /// All of it is one message.
    Whole,
    /// Each line is a message.
    Lines,
    /// Each line is a message as [`line`](mod@line) has it.
    JsonLines,
}

/// Reads on a thread of its own; ends with the source, or after the first error.
pub(crate) fn read(source: Source, times: u64) -> Result<Receiver<Result<Line, Error>>, Error> {
    let (sender, receiver) = channel(WAITING_MAX);
    let reading = move || {
        // An error means that nobody wants more.
        if let Err(error) = feed(source, times, &sender) {
            let _ = sender.blocking_send(Err(error));
        }
    };
    let thread = thread::Builder::new().name("input".to_owned());
    thread.spawn(reading).map_err(Error::System)?;
    Ok(receiver)
}

fn feed(source: Source, times: u64, sender: &Sender<Result<Line, Error>>) -> Result<(), Error> {
    let send = |line: Line| sender.blocking_send(Ok(line)).is_ok();
    let of = |body: Vec<u8>| Line {
        body,
        ..Line::default()
    };
    let repeat = |line: &Line| (0..times).all(|_| send(line.clone()));
    match source {
        Source::Words(words) => {
            let lines: Vec<Line> = words
                .into_iter()
                .map(|word| of(word.into_bytes()))
                .collect();
            for _ in 0..times {
                if !lines.iter().all(|line| send(line.clone())) {
                    break;
                }
            }
        }
        Source::Files(files) => {
            for path in files {
                let failed = |source| Error::File {
                    path: path.clone(),
                    source,
                };
                let body = whole(File::open(&path).map_err(failed)?)
                    .map_err(failed)?
                    .ok_or(Error::TooLarge {
                        max: MESSAGE_BYTES_MAX,
                    })?;
                if !repeat(&of(body)) {
                    break;
                }
            }
        }
        Source::Whole => {
            let body = whole(io::stdin().lock()).map_err(Error::Input)?;
            let max = MESSAGE_BYTES_MAX;
            repeat(&of(body.ok_or(Error::TooLarge { max })?));
        }
        Source::Lines => each_line(|_, octets| Ok(repeat(&of(octets))))?,
        Source::JsonLines => each_line(|number, octets| {
            let problem = |problem| Error::Line { number, problem };
            let text = String::from_utf8(octets).map_err(|error| problem(error.to_string()))?;
            if text.trim().is_empty() {
                return Ok(true);
            }
            Ok(repeat(&line::read(&text).map_err(problem)?))
        })?,
    }
    Ok(())
}

/// `None` when there is more than a message may have.
fn whole(source: impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut octets = Vec::new();
    source
        .take(MESSAGE_BYTES_MAX + 1)
        .read_to_end(&mut octets)?;
    Ok((octets.len() as u64 <= MESSAGE_BYTES_MAX).then_some(octets))
}

/// Gives each line of standard input to `take`, without its end, until that has enough.
fn each_line(mut take: impl FnMut(u64, Vec<u8>) -> Result<bool, Error>) -> Result<(), Error> {
    let mut input = io::stdin().lock();
    let mut number = 0;
    loop {
        let mut octets = Vec::new();
        let mut limited = (&mut input).take(MESSAGE_BYTES_MAX + 1);
        if limited
            .read_until(b'\n', &mut octets)
            .map_err(Error::Input)?
            == 0
        {
            return Ok(());
        }
        if octets.last() == Some(&b'\n') {
            octets.pop();
        } else if octets.len() as u64 > MESSAGE_BYTES_MAX {
            return Err(Error::TooLarge {
                max: MESSAGE_BYTES_MAX,
            });
        }
        number += 1;
        if !take(number, octets)? {
            return Ok(());
        }
    }
}
