//! What operators see of connections and their channels.
//!
//! A connection keeps its numbers to itself and writes them down when somebody asks: [`Broker::connection_views`] leaves a mark
//! and rings, each connection answers in its next turn. While nobody asks, that costs one relaxed read per turn.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mamba_codec::{encode_table, table};
use mamba_types::{FieldTable, HardError, Limits, Violation};
use parking_lot::{Condvar, Mutex};

use crate::{
    broker::{Broker, ConnectionEntry},
    connection::Origin,
    exchange_stats::Count,
    outbox::{Notice, Outbox},
    transport::TlsFacts,
};

/// How long an asker waits for connections whose tasks are busy.
const ANSWER_TIME: Duration = Duration::from_millis(500);

/// Messages counted by what became of them, since the channel or queue was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageStats {
    /// Published.
    pub publish: u64,
    /// Confirmed to their publisher.
    pub confirm: u64,
    /// Returned: mandatory and unroutable.
    pub return_unroutable: u64,
    /// Dropped: unroutable and not mandatory.
    pub drop_unroutable: u64,
    /// Delivered to consumers that acknowledge.
    pub deliver: u64,
    /// Delivered to consumers that do not.
    pub deliver_no_ack: u64,
    /// Got, to be acknowledged.
    pub get: u64,
    /// Got without acknowledgement.
    pub get_no_ack: u64,
    /// Gets that found the queue empty.
    pub get_empty: u64,
    /// Deliveries marked redelivered.
    pub redeliver: u64,
    /// Acknowledged.
    pub ack: u64,
}

impl MessageStats {
    /// Delivered or got, in whatever way.
    #[must_use]
    pub const fn deliver_get(&self) -> u64 {
        self.deliver + self.deliver_no_ack + self.get + self.get_no_ack
    }

    /// Adds another's counts.
    pub const fn add(&mut self, other: &Self) {
        self.publish += other.publish;
        self.confirm += other.confirm;
        self.return_unroutable += other.return_unroutable;
        self.drop_unroutable += other.drop_unroutable;
        self.deliver += other.deliver;
        self.deliver_no_ack += other.deliver_no_ack;
        self.get += other.get;
        self.get_no_ack += other.get_no_ack;
        self.get_empty += other.get_empty;
        self.redeliver += other.redeliver;
        self.ack += other.ack;
    }

    /// Each count with its name in the HTTP API.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, u64); 12] {
        [
            ("publish", self.publish),
            ("confirm", self.confirm),
            ("return_unroutable", self.return_unroutable),
            ("drop_unroutable", self.drop_unroutable),
            ("deliver", self.deliver),
            ("deliver_no_ack", self.deliver_no_ack),
            ("get", self.get),
            ("get_no_ack", self.get_no_ack),
            ("deliver_get", self.deliver_get()),
            ("get_empty", self.get_empty),
            ("redeliver", self.redeliver),
            ("ack", self.ack),
        ]
    }
}

/// A connection as its client described it at login.
#[derive(Debug, Default)]
pub struct Client {
    /// SASL mechanism.
    pub mechanism: String,
    /// Its whole properties table.
    pub properties: FieldTable,
}

/// A [`Client`] as its connection keeps it: as a table of values it would take several times as many octets, for as long as the
/// connection is there.
#[derive(Debug, Default)]
pub(crate) struct Introduced {
    mechanism: Box<str>,
    /// An encoded table.
    properties: Box<[u8]>,
}

impl Introduced {
    pub(crate) fn new(mechanism: &str, properties: &FieldTable) -> Self {
        Self {
            mechanism: mechanism.into(),
            properties: encode_table(properties).into(),
        }
    }

    pub(crate) fn mechanism(&self) -> &str {
        &self.mechanism
    }

    /// `limits` are those it was read with.
    pub(crate) fn unfolded(&self, limits: &Limits) -> Client {
        Client {
            mechanism: self.mechanism.to_string(),
            properties: table(&self.properties, limits).unwrap_or_default(),
        }
    }
}

/// A connection at one moment.
#[derive(Clone, Debug)]
pub struct ConnectionView {
    /// Number on this node, never reused while it runs.
    pub id: u64,
    /// The client's end.
    pub peer: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    /// What the handshake of TLS agreed on, if there was one.
    pub tls: Option<Arc<TlsFacts>>,
    /// Milliseconds since 1970.
    pub connected_at_ms: u64,
    /// User and virtual host, from `connection.open` on.
    pub login: Option<(Arc<str>, Arc<str>)>,
    /// What went over the socket.
    pub traffic: Traffic,
    /// What its task knows; `None` if it was too busy to say.
    pub detail: Option<ConnectionDetail>,
}

/// What only a connection's own task knows.
#[derive(Clone, Debug)]
pub struct ConnectionDetail {
    /// `running`, `blocked`, `starting`, …
    pub state: &'static str,
    /// What the client said about itself.
    pub client: Arc<Client>,
    /// Agreed number of channels.
    pub channel_max: u16,
    /// Agreed frame size, in octets.
    pub frame_max: u32,
    /// Agreed heartbeat interval, in seconds.
    pub heartbeat_secs: u16,
    /// Octets that wait for the socket.
    pub output_bytes: usize,
    /// Open channels, by number.
    pub channels: Vec<ChannelView>,
}

/// What went over a connection's socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Octets from the client.
    pub received_bytes: u64,
    /// Times octets came.
    pub received_packets: u64,
    /// Octets to the client.
    pub sent_bytes: u64,
    /// Times octets left.
    pub sent_packets: u64,
}

impl Traffic {
    /// Adds another's.
    pub const fn add(&mut self, other: &Self) {
        self.received_bytes += other.received_bytes;
        self.received_packets += other.received_packets;
        self.sent_bytes += other.sent_bytes;
        self.sent_packets += other.sent_packets;
    }
}

/// A channel at one moment.
#[derive(Clone, Copy, Debug)]
pub struct ChannelView {
    /// Number inside its connection.
    pub number: u16,
    /// In confirm mode.
    pub confirm: bool,
    /// In tx mode.
    pub transactional: bool,
    /// Consumers.
    pub consumers: usize,
    /// Prefetch count of consumers to come; 0 means none.
    pub prefetch: u16,
    /// Channel-wide prefetch count; 0 means none.
    pub global_prefetch: u32,
    /// Deliveries out and unsettled.
    pub unacked: usize,
    /// Publishes not confirmed yet.
    pub unconfirmed: u64,
    /// Publishes not committed yet.
    pub uncommitted: usize,
    /// Acknowledgements not committed yet.
    pub acks_uncommitted: usize,
    /// What its messages became.
    pub stats: MessageStats,
}

/// `PEER -> LOCAL`, as connections are called.
#[must_use]
pub fn connection_name(peer: SocketAddr, local: SocketAddr) -> String {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    format!("{} -> {}", plain(peer), plain(local))
}

impl ConnectionView {
    /// `PEER -> LOCAL`.
    #[must_use]
    pub fn name(&self) -> String {
        connection_name(self.peer, self.local)
    }
}

/// Counts what goes over sockets; one writer at a time.
#[derive(Debug, Default)]
pub(crate) struct TrafficCounts {
    received_bytes: Count,
    received_packets: Count,
    sent_bytes: Count,
    sent_packets: Count,
}

impl TrafficCounts {
    pub(crate) fn add(&self, traffic: &Traffic) {
        self.received_bytes.add(traffic.received_bytes);
        self.received_packets.add(traffic.received_packets);
        self.sent_bytes.add(traffic.sent_bytes);
        self.sent_packets.add(traffic.sent_packets);
    }

    pub(crate) fn read(&self) -> Traffic {
        Traffic {
            received_bytes: self.received_bytes.get(),
            received_packets: self.received_packets.get(),
            sent_bytes: self.sent_bytes.get(),
            sent_packets: self.sent_packets.get(),
        }
    }
}

/// A connection's place in the node's list, from accept to end.
#[derive(Debug)]
pub(crate) struct Presence {
    pub(crate) origin: Origin,
    pub(crate) connected_at_ms: u64,
    traffic: TrafficCounts,
    /// There are questions.
    asked: AtomicBool,
    questions: Mutex<Vec<Question>>,
}

impl Presence {
    pub(crate) fn new(origin: Origin, connected_at_ms: u64) -> Self {
        Self {
            origin,
            connected_at_ms,
            traffic: TrafficCounts::default(),
            asked: AtomicBool::new(false),
            questions: Mutex::default(),
        }
    }

    /// Octets came. For the connection's own task.
    pub(crate) fn received(&self, octets: usize) {
        self.traffic.received_bytes.add(octets as u64);
        self.traffic.received_packets.add(1);
    }

    /// The socket took octets. For the connection's own task.
    pub(crate) fn sent(&self, octets: usize) {
        self.traffic.sent_bytes.add(octets as u64);
        self.traffic.sent_packets.add(1);
    }

    /// What went over the socket so far.
    pub(crate) fn traffic(&self) -> Traffic {
        self.traffic.read()
    }

    /// Whether somebody wants to know.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Tells everybody who asked.
    pub(crate) fn answer(&self, detail: &ConnectionDetail) {
        let questions = self.take();
        for question in questions {
            question.answer(Some(detail.clone()));
        }
    }

    /// Nobody will be told any more.
    pub(crate) fn fall_silent(&self) {
        for question in self.take() {
            question.answer(None);
        }
    }

    fn take(&self) -> Vec<Question> {
        let mut questions = self.questions.lock();
        self.asked.store(false, Ordering::Relaxed);
        std::mem::take(&mut questions)
    }

    fn ask(&self, question: Question) {
        let mut questions = self.questions.lock();
        questions.push(question);
        self.asked.store(true, Ordering::Relaxed);
    }
}

/// One asker's question to one connection.
#[derive(Debug)]
struct Question {
    round: Arc<Round>,
    /// The connection's place in the answers.
    place: usize,
}

impl Question {
    fn answer(self, detail: Option<ConnectionDetail>) {
        let mut answers = self.round.answers.lock();
        if let Some(slot) = answers.details.get_mut(self.place) {
            *slot = detail;
        }
        answers.outstanding = answers.outstanding.saturating_sub(1);
        if answers.outstanding == 0 {
            self.round.complete.notify_all();
        }
    }
}

/// One asker's questions to many connections.
#[derive(Debug)]
struct Round {
    answers: Mutex<Answers>,
    complete: Condvar,
}

#[derive(Debug)]
struct Answers {
    details: Vec<Option<ConnectionDetail>>,
    outstanding: usize,
}

/// Connections.
impl Broker {
    /// The connections that `wanted` says yes to, by number, with what their own tasks know. Blocks for at most half a second: do
    /// not call it on a thread that drives connections.
    #[must_use]
    pub fn connection_views(
        &self,
        wanted: impl Fn(&ConnectionView) -> bool,
    ) -> Vec<ConnectionView> {
        let mut asked: Vec<(ConnectionView, Arc<Outbox>, Arc<Presence>)> =
            self.with_connections(|connections| {
                let views = connections.map(|entry| {
                    let (outbox, presence) = (Arc::clone(entry.1), Arc::clone(entry.2));
                    (view_of(entry), outbox, presence)
                });
                views.filter(|(view, ..)| wanted(view)).collect()
            });
        asked.sort_unstable_by_key(|(view, ..)| view.id);
        let round = Arc::new(Round {
            answers: Mutex::new(Answers {
                details: vec![None; asked.len()],
                outstanding: asked.len(),
            }),
            complete: Condvar::new(),
        });
        for (place, (_, outbox, presence)) in asked.iter().enumerate() {
            let round = Arc::clone(&round);
            presence.ask(Question { round, place });
            outbox.ring();
        }
        let mut answers = round.answers.lock();
        if answers.outstanding > 0 {
            let unanswered = |answers: &mut Answers| answers.outstanding > 0;
            round
                .complete
                .wait_while_for(&mut answers, unanswered, ANSWER_TIME);
        }
        let details = std::mem::take(&mut answers.details);
        drop(answers);
        let views = asked.into_iter().zip(details);
        views
            .map(|((view, ..), detail)| ConnectionView { detail, ..view })
            .collect()
    }

    /// All connections, without asking them, in no particular order.
    #[must_use]
    pub fn connection_entries(&self) -> Vec<ConnectionView> {
        self.with_connections(|connections| connections.map(view_of).collect())
    }

    /// Who a connection is, without asking it: its peer and our end.
    #[must_use]
    pub fn connection_addresses(&self, id: u64) -> Option<(SocketAddr, SocketAddr)> {
        let (_, presence) = self.connection_entry(id)?;
        Some((presence.origin.peer, presence.origin.local))
    }

    /// Asks the connection with this number to close (320) with this text; false if there is none.
    pub fn close_connection(&self, id: u64, text: &str) -> bool {
        let Some((outbox, _)) = self.connection_entry(id) else {
            return false;
        };
        outbox.push(Notice::Close(Violation::connection(
            HardError::ConnectionForced,
            text,
        )));
        true
    }
}

fn view_of((id, _, presence, login): ConnectionEntry<'_>) -> ConnectionView {
    ConnectionView {
        id,
        peer: presence.origin.peer,
        local: presence.origin.local,
        tls: presence.origin.tls.clone(),
        connected_at_ms: presence.connected_at_ms,
        login: login.cloned(),
        traffic: presence.traffic(),
        detail: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_connections() {
        let name = |peer: &str, local: &str| {
            connection_name(peer.parse().unwrap(), local.parse().unwrap())
        };
        assert_eq!(
            name("127.0.0.1:5", "127.0.0.1:5672"),
            "127.0.0.1:5 -> 127.0.0.1:5672"
        );
        assert_eq!(
            name("[::ffff:10.0.0.1]:5", "[::1]:5672"),
            "10.0.0.1:5 -> [::1]:5672"
        );
    }

    #[test]
    fn a_question_outlives_its_asker_and_is_answered_once() {
        let address = "127.0.0.1:1".parse().unwrap();
        let origin = Origin {
            peer: address,
            local: address,
            tls: None,
        };
        let presence = Presence::new(origin, 1);
        let round = Arc::new(Round {
            answers: Mutex::new(Answers {
                details: vec![None, None],
                outstanding: 2,
            }),
            complete: Condvar::new(),
        });
        for place in 0..2 {
            let round = Arc::clone(&round);
            presence.ask(Question { round, place });
        }
        assert!(presence.is_asked());
        presence.fall_silent();
        assert!(!presence.is_asked());
        assert_eq!(round.answers.lock().outstanding, 0);
        presence.fall_silent();
    }
}
