//! Serves the metrics pages over HTTP, gzipped for those who accept it.
//!
//! A page is written on a thread that may block and leaves in parts while it is written, so that one with many objects neither
//! gathers in memory nor takes a thread from message traffic.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::{Path, RawQuery, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use http_body::Frame;
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::spawn_blocking,
    time::{Instant, timeout},
};
use tower_http::{CompressionLevel, compression::CompressionLayer};

use super::{
    request::{Refused, Wanted},
    text::{Kind, Page},
};

/// Writes a page. May block.
pub(crate) type Writer = Arc<dyn Fn(&Wanted, &mut Page) + Send + Sync>;

const CONTENT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Pages written at a time.
const PAGES_MAX: usize = 4;
/// How long a scrape waits for its turn.
const TURN_TIME: Duration = Duration::from_secs(10);
/// How long a client may leave a part of a page unread.
const STALL_TIME: Duration = Duration::from_secs(60);
/// Parts of a page that wait for their client.
const PARTS_MAX: usize = 4;

/// The endpoint's listening socket.
#[derive(Debug)]
pub(crate) struct Endpoint {
    listener: TcpListener,
}

/// What all scrapes share.
#[derive(Clone)]
struct Shared {
    write: Writer,
    turns: Arc<Semaphore>,
    scrapes: Arc<Mutex<Scrapes>>,
}

/// What scrapes took so far, by page.
#[derive(Debug, Default)]
struct Scrapes(BTreeMap<&'static str, Scraped>);

#[derive(Clone, Copy, Debug, Default)]
struct Scraped {
    count: u64,
    time: Duration,
    bytes: u64,
}

impl Endpoint {
    /// Binds to the first of these addresses that can be bound.
    ///
    /// # Errors
    /// What the system said about the last one.
    pub(crate) async fn bind(addresses: &[SocketAddr]) -> io::Result<Self> {
        Ok(Self {
            listener: TcpListener::bind(addresses).await?,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system said.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop` becomes true.
    pub(crate) async fn run(self, write: Writer, mut stop: watch::Receiver<bool>) {
        let shared = Shared {
            write,
            turns: Arc::new(Semaphore::new(PAGES_MAX)),
            scrapes: Arc::default(),
        };
        let registry = |State(shared): State<Shared>,
                        Path(registry): Path<String>,
                        RawQuery(query)| async move {
            scrape(&shared, &registry, query).await
        };
        let aggregated =
            |State(shared): State<Shared>| async move { scrape(&shared, "", None).await };
        let routes = Router::new()
            .route("/metrics", get(aggregated))
            .route("/metrics/{registry}", get(registry))
            .with_state(shared)
            // A page with many objects repeats itself: the least effort already finds that.
            .layer(CompressionLayer::new().quality(CompressionLevel::Fastest));
        let stopped = async move {
            // A closed mailbox means that the process is on its way out.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        if let Err(error) = axum::serve(self.listener, routes)
            .with_graceful_shutdown(stopped)
            .await
        {
            tracing::error!(%error, "the metrics endpoint failed");
        }
    }
}

async fn scrape(shared: &Shared, registry: &str, query: Option<String>) -> Response {
    let wanted = match Wanted::parse(registry, query.as_deref().unwrap_or_default()) {
        Ok(wanted) => wanted,
        Err(Refused::UnknownRegistry) => {
            return (StatusCode::NOT_FOUND, "Unknown Registry").into_response();
        }
        Err(Refused::InvalidPattern) => {
            let text = "queue is no regular expression";
            return (StatusCode::BAD_REQUEST, text).into_response();
        }
    };
    let turn = timeout(TURN_TIME, Arc::clone(&shared.turns).acquire_owned()).await;
    let Ok(Ok(turn)) = turn else {
        let text = "too many scrapes at a time";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let (sender, receiver) = mpsc::channel(PARTS_MAX);
    let (shared, runtime) = (shared.clone(), Handle::current());
    spawn_blocking(move || shared.write(&wanted, &runtime, &sender, turn));
    let body = Body::new(Parts {
        receiver,
        ended: false,
    });
    ([(CONTENT_TYPE, CONTENT)], body).into_response()
}

impl Shared {
    /// Writes a page to `parts`, and `None` at its end.
    fn write(
        &self,
        wanted: &Wanted,
        runtime: &Handle,
        parts: &mpsc::Sender<Option<Bytes>>,
        _turn: OwnedSemaphorePermit,
    ) {
        let began = Instant::now();
        let (client, waiting) = (parts.clone(), runtime.clone());
        let mut page = Page::streamed(Box::new(move |part| {
            let sent = waiting.block_on(timeout(STALL_TIME, client.send(Some(part.into()))));
            matches!(sent, Ok(Ok(())))
        }));
        (self.write)(wanted, &mut page);
        self.scrapes.lock().write(&mut page);
        let bytes = page.bytes();
        page.flush();
        if page.is_closed() {
            return;
        }
        self.scrapes
            .lock()
            .add(wanted.endpoint(), began.elapsed(), bytes);
        // A client that leaves now has everything but the end.
        let _ = runtime.block_on(timeout(STALL_TIME, parts.send(None)));
    }
}

impl Scrapes {
    fn add(&mut self, page: &'static str, time: Duration, bytes: u64) {
        let scraped = self.0.entry(page).or_default();
        scraped.count += 1;
        scraped.time += time;
        scraped.bytes += bytes;
    }

    /// What the scrapes before this one took.
    fn write(&self, page: &mut Page) {
        let mut family = |name: &str, help: &str, sum: fn(&Scraped) -> f64| {
            page.family(name, Kind::Summary, help);
            for (registry, scraped) in &self.0 {
                // As RabbitMQ calls its first page.
                let registry = match *registry {
                    "aggregated" => "default",
                    other => other,
                };
                let labels = [
                    ("registry", registry),
                    ("content_type", "text/plain; version=0.0.4"),
                ];
                page.series(&format!("{name}_count"), &labels, scraped.count);
                page.series(&format!("{name}_sum"), &labels, sum(scraped));
            }
        };
        family(
            "telemetry_scrape_duration_seconds",
            "Scrape duration",
            |scraped| scraped.time.as_secs_f64(),
        );
        family(
            "telemetry_scrape_size_bytes",
            "Scrape size, not encoded",
            |scraped| scraped.bytes as f64,
        );
    }
}

/// A page on its way.
struct Parts {
    receiver: mpsc::Receiver<Option<Bytes>>,
    ended: bool,
}

impl HttpBody for Parts {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.receiver.poll_recv(context).map(|part| match part {
            Some(Some(part)) => Some(Ok(Frame::data(part))),
            Some(None) => {
                self.ended = true;
                None
            }
            // The writer gave up: what the client has must not look like a whole page.
            None => {
                self.ended = true;
                Some(Err(io::ErrorKind::UnexpectedEof.into()))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{
        metrics::{Facts, node, tests::parse},
        process::Readings,
    };

    async fn request(address: SocketAddr, request_line: &str, header: &str) -> (String, Vec<u8>) {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!(
            "{request_line} HTTP/1.1\r\nHost: localhost\r\n{header}Connection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let head_end = answer
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap();
        let body = answer.split_off(head_end + 4);
        (String::from_utf8(answer).unwrap(), body)
    }

    /// The body, taken out of the pieces it came in.
    fn unchunked(head: &str, body: Vec<u8>) -> String {
        let text = String::from_utf8(body).unwrap();
        if !head.contains("transfer-encoding: chunked") {
            return text;
        }
        let (mut rest, mut whole) = (text.as_str(), String::new());
        loop {
            let (len, more) = rest.split_once("\r\n").unwrap();
            let len = usize::from_str_radix(len, 16).unwrap();
            if len == 0 {
                return whole;
            }
            whole.push_str(&more[..len]);
            rest = more[len..].strip_prefix("\r\n").unwrap();
        }
    }

    #[tokio::test]
    async fn scrape() {
        let endpoint = Endpoint::bind(&["127.0.0.1:0".parse().unwrap()])
            .await
            .unwrap();
        let address = endpoint.local_address().unwrap();
        let write: Writer = Arc::new(|wanted, page| {
            let facts = Facts {
                readings: Readings::take(".".as_ref()),
                ..Facts::default()
            };
            node::identity(page, &facts, wanted.endpoint());
            node::families(page, &facts);
        });
        let (stop, stopped) = watch::channel(false);
        let running = tokio::spawn(endpoint.run(write, stopped));

        let (head, body) = request(address, "GET /metrics", "").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(
            head.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
            "{head}"
        );
        let series = parse(&unchunked(&head, body));
        assert!(series["rabbitmq_process_open_fds"] > 0.0);

        let (head, body) = request(address, "GET /metrics", "Accept-Encoding: gzip\r\n").await;
        assert!(head.contains("content-encoding: gzip\r\n"), "{head}");
        assert!(
            body.windows(2).any(|window| window == [0x1f, 0x8b]),
            "not gzip"
        );

        let (head, body) = request(address, "GET /metrics", "").await;
        let page = unchunked(&head, body);
        assert!(
            parse(&page)["telemetry_scrape_size_bytes_count{registry=\"default\",content_type=\"text/plain; version=0.0.4\"}"]
                >= 1.0,
            "{page}"
        );

        let (head, body) = request(address, "GET /metrics/unknown", "").await;
        assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
        assert_eq!(body, b"Unknown Registry");
        let (head, _) = request(address, "GET /metrics/detailed?queue=(", "").await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
        let (head, _) = request(address, "GET /unknown", "").await;
        assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
        let (head, _) = request(address, "POST /metrics", "").await;
        assert!(head.starts_with("HTTP/1.1 405 "), "{head}");

        stop.send(true).unwrap();
        running.await.unwrap();
    }
}
