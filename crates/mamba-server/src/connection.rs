//! One socket driven through one broker connection.
//!
//! ```text
//!   turn = read once -> receive -> pump -> write
//! ```
//!
//! Everything a turn produced leaves in one write, and a busy connection gives way after every turn, so that
//! a publisher cannot starve the consumers on its worker.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use mamba_broker::Connection;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Sleep, sleep_until},
};

use crate::{
    clock::Clock,
    input::{Input, READ_SIZE},
};

/// Writes per turn before a connection gives way.
const WRITES_PER_TURN: usize = 16;

/// How a turn left the socket's input.
enum Reading {
    /// There may be more to do at once.
    Again,
    /// Nothing there; the socket wakes the task.
    Armed,
    /// Not asked for: the connection did not want input, so the socket wakes nobody.
    Held,
}

/// The task of one connection; finishes when the socket is to be closed.
#[derive(Debug)]
pub(crate) struct Driver<S> {
    stream: S,
    connection: Connection,
    input: Input,
    clock: Clock,
    timer: Option<Pin<Box<Sleep>>>,
    /// The client has ended its side; what it sent before is still worth handling.
    at_end: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(crate) fn new(stream: S, connection: Connection, clock: Clock) -> Self {
        Self {
            stream,
            connection,
            input: Input::default(),
            clock,
            timer: None,
            at_end: false,
        }
    }

    /// Reads once and hands it on.
    fn read(&mut self, cx: &mut Context<'_>) -> io::Result<Reading> {
        if !self.connection.wants_input() {
            return Ok(Reading::Held);
        }
        let mut progress = false;
        // Left over from when the connection did not want input.
        if !self.input.octets().is_empty() {
            progress = self.hand_over();
            if !self.connection.wants_input() {
                return Ok(if progress {
                    Reading::Again
                } else {
                    Reading::Held
                });
            }
        }
        // After a short read the second one finds nothing, at no cost, and has the socket wake the task: another turn for it would
        // cost a change of thread.
        for _ in 0..2 {
            if self.at_end {
                break;
            }
            match self.input.poll_read(&mut self.stream, cx) {
                Poll::Ready(Ok(0)) => self.at_end = true,
                Poll::Ready(Ok(count)) => {
                    let more = count >= READ_SIZE;
                    self.connection.expect_more(more);
                    self.hand_over();
                    if more || !self.connection.wants_input() {
                        return Ok(Reading::Again);
                    }
                    progress = true;
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    // A rest may be a part of a frame, or what the connection did not want yet.
                    progress &= !self.input.octets().is_empty();
                    break;
                }
            }
        }
        Ok(if progress {
            Reading::Again
        } else {
            Reading::Armed
        })
    }

    fn hand_over(&mut self) -> bool {
        let consumed = self
            .connection
            .receive(self.input.octets(), self.clock.now());
        self.input.consume(consumed);
        // Between turns a connection keeps only what is left over: a thousand busy ones must not hold a thousand buffers.
        self.input.settle();
        consumed > 0
    }

    /// Writes until the socket is full, the output empty or the turn over. True if the output is empty and on its way.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        for _ in 0..WRITES_PER_TURN {
            let output = self.connection.output();
            if output.is_empty() {
                // TLS may still hold what it has encrypted.
                return match Pin::new(&mut self.stream).poll_flush(cx) {
                    Poll::Ready(flushed) => flushed.map(|()| true),
                    Poll::Pending => Ok(false),
                };
            }
            let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(8);
            output.slices(&mut slices);
            let written = match Pin::new(&mut self.stream).poll_write_vectored(cx, &slices) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(false),
            };
            output.advance(written);
            self.connection.wrote(written, self.clock.now());
        }
        cx.waker().wake_by_ref();
        Ok(false)
    }

    /// Does what is due, and arms the timer for what comes next.
    fn tick(&mut self, cx: &mut Context<'_>) {
        loop {
            let Some(deadline) = self.connection.deadline() else {
                return;
            };
            let now = self.clock.now();
            if deadline <= now.instant {
                self.connection.timer(now);
                if self
                    .connection
                    .deadline()
                    .is_some_and(|next| next <= now.instant)
                {
                    return;
                }
                continue;
            }
            if !self.poll_timer(deadline, cx) {
                return;
            }
        }
    }

    /// Whether the timer has fired. A timer that is armed for earlier than needed stays: traffic moves the deadline
    /// all the time, and one early wake-up costs less than arming it anew each time.
    fn poll_timer(&mut self, deadline: Instant, cx: &mut Context<'_>) -> bool {
        let deadline = deadline.into();
        match &mut self.timer {
            Some(timer) => {
                if timer.deadline() > deadline || timer.is_elapsed() {
                    timer.as_mut().reset(deadline);
                }
            }
            None => self.timer = Some(Box::pin(sleep_until(deadline))),
        }
        self.timer
            .as_mut()
            .is_some_and(|timer| timer.as_mut().poll(cx).is_ready())
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        self.connection.listen(cx.waker());
        let reading = self.read(cx)?;
        self.connection.pump(self.clock.now());
        let flushed = self.write(cx)?;
        self.tick(cx);
        // What held input up may be over since: the socket has to be asked again, or nothing would wake us.
        let more = match reading {
            Reading::Again => true,
            Reading::Armed => false,
            Reading::Held => self.connection.wants_input(),
        };
        let out_of_output = self.connection.output().is_empty();
        if !more {
            self.connection.output().release_small();
        }
        if flushed && out_of_output && (self.connection.is_finished() || (self.at_end && !more)) {
            return Ok(Poll::Ready(()));
        }
        // Delivering may have stopped at a full output: go on now that it is written.
        if more || (flushed && (!out_of_output || self.connection.has_backlog())) {
            cx.waker().wake_by_ref();
        }
        Ok(Poll::Pending)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let ended = match self.turn(cx) {
            Ok(turn) => turn,
            Err(error) => {
                tracing::debug!(%error, "socket failed");
                Poll::Ready(())
            }
        };
        ready!(ended);
        // Says goodbye if there is room; a peer that does not listen need not hear it.
        let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
        let now = self.clock.now();
        self.connection.end(now);
        Poll::Ready(())
    }
}
