//! Connections that do nothing but exist, each with an open channel.
//!
//! Once open, a connection is reduced to its socket; one thread sends the heartbeats of all and notices the ones that end.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use crate::clock::{MILLISECOND, SECOND, now_ns};
use crate::error::Error;
use crate::plan::Plan;
use crate::report::{self, duration, per_second, percentiles_json, progress, seconds};
use crate::stats::histogram;
use crate::transport::{Transport, Wishes, close_frame};
use crate::wire::HEARTBEAT_FRAME;

/// Descriptors that the process needs for other things.
const SPARE_DESCRIPTORS: u64 = 128;
/// How often the sockets are looked at, in nanoseconds.
const LOOK_NS: u64 = 2 * SECOND;
const REPORT_NS: u64 = 10 * SECOND;

/// Opens `--count` connections and holds them for `--duration`, or until interrupted; true when none was lost.
pub(crate) fn count(plan: &Plan, interrupted: &AtomicBool) -> Result<bool, Error> {
    let wanted = plan.args.count.unwrap_or(0);
    let idle = Idle::open(plan, wanted, plan.args.channels, interrupted)?;
    Ok(idle.hold(plan, interrupted))
}

/// Open connections and the thread that keeps them alive.
pub(crate) struct Idle {
    stop: Arc<AtomicBool>,
    open: Arc<AtomicUsize>,
    keeper: JoinHandle<()>,
    opened: usize,
    summary: serde_json::Value,
}

impl Idle {
    /// Opens `wanted` connections with so many channels each; fails if one of them cannot be opened.
    pub(crate) fn open(
        plan: &Plan,
        wanted: usize,
        channels: u16,
        interrupted: &AtomicBool,
    ) -> Result<Self, Error> {
        allow_descriptors(wanted)?;
        let started_ns = now_ns();
        let (sockets, times, heartbeat_ns) = open_all(plan, wanted, channels, interrupted)?;
        let elapsed_ns = now_ns() - started_ns;
        let opened = sockets.len();
        let count = u64::try_from(opened).unwrap_or(u64::MAX);
        let line = format!(
            "{opened} idle connections open after {}: {:.0}/s, each p50 {} p99 {} max {}",
            duration(elapsed_ns),
            per_second(count, elapsed_ns),
            duration(times.value_at_percentile(50.0)),
            duration(times.value_at_percentile(99.0)),
            duration(times.max()),
        );
        progress(&plan.args, &line);
        let stop = Arc::new(AtomicBool::new(false));
        let open = Arc::new(AtomicUsize::new(opened));
        let keeper = {
            let (stop, open) = (stop.clone(), open.clone());
            thread::spawn(move || keep(sockets, heartbeat_ns, &stop, &open))
        };
        Ok(Self {
            stop,
            open,
            keeper,
            opened,
            summary: json!({
                "mode": plan.args.mode.name(),
                "opened": opened,
                "channels_each": channels,
                "rate": per_second(count, elapsed_ns),
                "open_secs": seconds(elapsed_ns),
                "open_latency_ns": percentiles_json(&times),
            }),
        })
    }

    fn hold(self, plan: &Plan, interrupted: &AtomicBool) -> bool {
        let started_ns = now_ns();
        let end_ns = plan.args.duration.map_or(u64::MAX, |secs| {
            started_ns + u64::try_from(Duration::from_secs_f64(secs).as_nanos()).unwrap_or(u64::MAX)
        });
        let mut report_ns = started_ns + REPORT_NS;
        let mut summary = self.summary.clone();
        while now_ns() < end_ns && !interrupted.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_nanos(50 * MILLISECOND));
            if now_ns() > report_ns {
                report_ns += REPORT_NS;
                let line = format!(
                    "{:8.1} s  {} connections open",
                    seconds(now_ns() - started_ns),
                    self.open.load(Ordering::Relaxed)
                );
                progress(&plan.args, &line);
            }
        }
        let opened = self.opened;
        let lost = self.end();
        summary["lost"] = lost.into();
        let text = format!("{opened} connections were open, {lost} of them lost\n");
        report::outcome(&plan.args, &summary, &text);
        lost == 0
    }

    /// Closes the connections; gives the number that had been lost before.
    pub(crate) fn end(self) -> usize {
        let lost = self.opened - self.open.load(Ordering::Relaxed);
        if lost > 0 {
            eprintln!(
                "error: the broker dropped {lost} of {} idle connections",
                self.opened
            );
        }
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.keeper.join();
        lost
    }
}

type Opened = (Vec<TcpStream>, hdrhistogram::Histogram<u64>, u64);

fn open_all(
    plan: &Plan,
    wanted: usize,
    channels: u16,
    interrupted: &AtomicBool,
) -> Result<Opened, Error> {
    let wishes = Wishes {
        name: "mambamq perf idle",
        heartbeat_secs: plan.args.heartbeat,
        read_buffer_size: None,
    };
    let result = Mutex::new((Vec::with_capacity(wanted), histogram(), 0));
    let failure = Mutex::new(None);
    let next = AtomicUsize::new(0);
    let (sender, ended): (Sender<()>, Receiver<()>) = channel();
    thread::scope(|scope| {
        for _ in 0..plan.workers.min(wanted) {
            let sender = sender.clone();
            let (result, failure, next, wishes) = (&result, &failure, &next, &wishes);
            scope.spawn(move || {
                while next.fetch_add(1, Ordering::Relaxed) < wanted
                    && !interrupted.load(Ordering::Relaxed)
                    && failure.lock().is_none()
                {
                    let began_ns = now_ns();
                    let opened = Transport::open(&plan.uri, wishes).and_then(|mut transport| {
                        transport.open_channels(channels)?;
                        Ok(transport.into_idle())
                    });
                    match opened {
                        Ok((socket, heartbeat_ns)) => {
                            let mut result = result.lock();
                            result.0.push(socket);
                            result.1.saturating_record((now_ns() - began_ns).max(1));
                            result.2 = heartbeat_ns;
                        }
                        Err(error) => {
                            failure.lock().get_or_insert(error);
                        }
                    }
                }
                drop(sender);
            });
        }
        drop(sender);
        // Nobody sends: the end of all senders is what is waited for.
        let (started_ns, mut last) = (now_ns(), (now_ns(), 0));
        while let Err(RecvTimeoutError::Timeout) =
            ended.recv_timeout(Duration::from_nanos(20 * MILLISECOND))
        {
            let now = now_ns();
            if now < last.0 + SECOND {
                continue;
            }
            let open = result.lock().1.len();
            let line = format!(
                "{:8.1} s  connections opened {:>9.0}/s  {open} so far",
                seconds(now - started_ns),
                per_second(open - last.1, now - last.0)
            );
            progress(&plan.args, &line);
            last = (now, open);
        }
    });
    let (sockets, times, heartbeat_ns) = result.into_inner();
    match failure.into_inner() {
        Some(error) => {
            eprintln!(
                "error: {} of {wanted} idle connections were opened",
                sockets.len()
            );
            close(&sockets);
            Err(error)
        }
        None => Ok((sockets, times, heartbeat_ns)),
    }
}

/// Sends heartbeats and drops sockets that ended, until told to stop; then closes the rest.
fn keep(mut sockets: Vec<TcpStream>, heartbeat_ns: u64, stop: &AtomicBool, open: &AtomicUsize) {
    let mut scratch = [0; 4096];
    // The first ones were opened a while ago: their heartbeats are due.
    let mut look_ns = now_ns();
    let mut beat_ns = look_ns;
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_nanos(50 * MILLISECOND));
        let now = now_ns();
        if now < look_ns {
            continue;
        }
        look_ns = now + LOOK_NS.min((heartbeat_ns / 4).max(SECOND / 4));
        let beat = heartbeat_ns > 0 && now >= beat_ns;
        if beat {
            beat_ns = now + heartbeat_ns / 2;
        }
        sockets.retain(|socket| {
            let alive = match recv(socket, &mut scratch[..], RecvFlags::DONTWAIT) {
                Ok((count, _)) => count > 0,
                Err(errno) => matches!(errno, Errno::AGAIN | Errno::INTR),
            };
            if alive && beat {
                // A full socket means the broker does not read; it will end the connection itself.
                let _ = send(
                    socket,
                    &HEARTBEAT_FRAME,
                    SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
                );
            }
            alive
        });
        open.store(sockets.len(), Ordering::Relaxed);
    }
    close(&sockets);
}

/// Closes in order, all at once, within a bounded time.
fn close(sockets: &[TcpStream]) {
    let frame = close_frame();
    for socket in sockets {
        let _ = send(socket, &frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
    let deadline = now_ns() + 5 * SECOND;
    let mut scratch = [0; 4096];
    for socket in sockets {
        if now_ns() > deadline {
            return;
        }
        // The read timeout of the login still holds.
        let _ = recv(socket, &mut scratch[..], RecvFlags::empty());
    }
}

fn allow_descriptors(wanted: usize) -> Result<(), Error> {
    let needed = u64::try_from(wanted).unwrap_or(u64::MAX) + SPARE_DESCRIPTORS;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(needed),
        maximum: limit.maximum.map(|maximum| maximum.max(needed)),
    };
    setrlimit(Resource::Nofile, raised)
        .or_else(|_| {
            setrlimit(
                Resource::Nofile,
                Rlimit {
                    current: Some(needed),
                    maximum: limit.maximum,
                },
            )
        })
        .map_err(|_| {
            Error::Options(format!(
                "{wanted} connections need {needed} file descriptors, but only {} are allowed; raise the limit (ulimit -n)",
                limit.maximum.unwrap_or(0)
            ))
        })
}
