//! Serves the metrics page over HTTP, gzipped for those who accept it.

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use tokio::{net::TcpListener, sync::watch};
use tower_http::compression::CompressionLayer;

/// Makes the page at each scrape.
pub(crate) type Source = Arc<dyn Fn() -> String + Send + Sync>;

const CONTENT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The endpoint's listening socket.
#[derive(Debug)]
pub(crate) struct Endpoint {
    listener: TcpListener,
}

impl Endpoint {
    /// Binds to the first of these addresses that can be bound.
    ///
    /// # Errors
    /// What the system said about the last one.
    pub(crate) async fn bind(addresses: &[SocketAddr]) -> std::io::Result<Self> {
        Ok(Self {
            listener: TcpListener::bind(addresses).await?,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system said.
    pub(crate) fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop` becomes true.
    pub(crate) async fn run(self, source: Source, mut stop: watch::Receiver<bool>) {
        let page = get(move || {
            let source = Arc::clone(&source);
            async move { ([(CONTENT_TYPE, CONTENT)], source()).into_response() }
        });
        let routes = Router::new()
            .route("/metrics", page)
            .layer(CompressionLayer::new());
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{metrics, process::Readings};

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

    #[tokio::test]
    async fn scrape() {
        let endpoint = Endpoint::bind(&["127.0.0.1:0".parse().unwrap()])
            .await
            .unwrap();
        let address = endpoint.local_address().unwrap();
        let source: Source = Arc::new(|| {
            metrics::render(
                &metrics::Identity::default(),
                &metrics::Snapshot::default(),
                &Readings::take(".".as_ref()),
                1.0,
            )
        });
        let (stop, stopped) = watch::channel(false);
        let running = tokio::spawn(endpoint.run(source, stopped));

        let (head, body) = request(address, "GET /metrics", "").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(
            head.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
            "{head}"
        );
        let series = metrics::tests::parse(&String::from_utf8(body).unwrap());
        assert!(series["rabbitmq_process_open_fds"] > 0.0);

        let (head, body) = request(address, "GET /metrics", "Accept-Encoding: gzip\r\n").await;
        assert!(head.contains("content-encoding: gzip\r\n"), "{head}");
        assert!(
            body.windows(2).any(|window| window == [0x1f, 0x8b]),
            "not gzip"
        );

        let (head, _) = request(address, "GET /unknown", "").await;
        assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
        let (head, _) = request(address, "POST /metrics", "").await;
        assert!(head.starts_with("HTTP/1.1 405 "), "{head}");

        stop.send(true).unwrap();
        running.await.unwrap();
    }
}
