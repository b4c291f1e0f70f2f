//! The whole way of a message through a broker, but for sockets, threads and the disk's time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use mamba_broker::{Broker, BrokerConfig, Connection, Now};
use mamba_codec::write_ack;
use mamba_store::{RealDisk, Store, SyncMode};
use mamba_types::{ChannelId, DeliveryTag};
use tempfile::TempDir;

use crate::client::Client;
use crate::{Body, ROUTING_KEY, publish};

/// Messages that a publisher sends at once.
const BATCH: u32 = 100;

pub(crate) const BODIES: &[Body] = &[
    Body {
        name: "broker/relay-16",
        items: BATCH,
        prepare: || relay(16),
    },
    Body {
        name: "broker/relay-1k",
        items: BATCH,
        prepare: || relay(1024),
    },
    Body {
        name: "broker/persistent-confirm-ack-16",
        items: BATCH,
        prepare: persistent,
    },
];

/// A broker without threads, in a folder that goes when it does.
struct Node {
    broker: Arc<Broker>,
    now: Now,
    _folder: TempDir,
}

impl Node {
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let mut config = BrokerConfig::new(folder.path());
        config.sync = SyncMode::Os;
        let disk = Arc::new(RealDisk::new());
        let open = |config| Store::open_manual(config, disk);
        let broker = Broker::open_on(config, open, 1, 1).expect("an empty folder can be opened");
        let now = Now {
            instant: Instant::now(),
            unix_ms: 1,
        };
        Self {
            broker,
            now,
            _folder: folder,
        }
    }

    fn connect(&self, client: &Client) -> Connection {
        let address = SocketAddr::from(([127, 0, 0, 1], 5672));
        let mut connection = self
            .broker
            .connect(address, address, self.now)
            .expect("the node has room");
        let mut taken = 0;
        while taken < client.0.len() {
            taken += connection.receive(&client.0[taken..], self.now);
            self.write();
            self.read(&mut connection);
        }
        assert!(connection.is_running());
        connection
    }

    /// The log writes what it has.
    fn write(&self) {
        while self.broker.store().turn() {}
    }

    /// Has the broker send what it has, and gives the octets.
    fn read(&self, connection: &mut Connection) -> usize {
        connection.pump(self.now);
        let octets = connection.output().len();
        connection.output().advance(octets);
        connection.wrote(octets, self.now);
        octets
    }
}

/// Transient messages for a consumer without acknowledgements.
fn relay(size: usize) -> Box<dyn FnMut()> {
    let node = Node::new();
    let mut consumer = node.connect(
        &Client::new()
            .declares(ROUTING_KEY)
            .consumes(ROUTING_KEY, true),
    );
    let mut publisher = node.connect(&Client::new());
    let octets = publish(size, 1).repeat(batch());
    Box::new(move || {
        assert_eq!(publisher.receive(&octets, node.now), octets.len());
        assert!(node.read(&mut consumer) > batch() * size);
    })
}

/// Persistent messages on a durable queue, confirmed and acknowledged.
fn persistent() -> Box<dyn FnMut()> {
    let node = Node::new();
    let mut consumer = node.connect(
        &Client::new()
            .declares(ROUTING_KEY)
            .consumes(ROUTING_KEY, false),
    );
    let mut publisher = node.connect(&Client::new().wants_confirms());
    let octets = publish(16, 2).repeat(batch());
    let (mut tag, mut ack) = (0, Vec::new());
    Box::new(move || {
        assert_eq!(publisher.receive(&octets, node.now), octets.len());
        node.write();
        assert!(node.read(&mut publisher) > 0, "confirms");
        assert!(node.read(&mut consumer) > batch() * 16, "deliveries");
        tag += u64::from(BATCH);
        ack.clear();
        write_ack(&mut ack, ChannelId(1), DeliveryTag(tag), true);
        assert_eq!(consumer.receive(&ack, node.now), ack.len());
        node.write();
    })
}

fn batch() -> usize {
    usize::try_from(BATCH).unwrap_or(0)
}
