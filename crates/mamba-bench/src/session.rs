//! What a connection does with what a client sends, and its two lists.

use std::hint::black_box;
use std::time::Instant;

use mamba_codec::{Output, write_ack};
use mamba_session::{ConfirmTracker, Event, Session, SessionConfig, Unacked};
use mamba_types::{ChannelId, DeliveryTag, FieldTable, Limits, LogPosition};

use crate::client::Client;
use crate::{Body, publish};

/// Frames of one read.
const BATCH: u32 = 100;

pub(crate) const BODIES: &[Body] = &[
    Body {
        name: "session/receive-publish-16",
        items: BATCH,
        prepare: || receive(publish(16, 2).repeat(batch())),
    },
    Body {
        name: "session/receive-ack",
        items: BATCH,
        prepare: || {
            let mut octets = Vec::new();
            for tag in 0..u64::from(BATCH) {
                write_ack(&mut octets, ChannelId(1), DeliveryTag(tag), false);
            }
            receive(octets)
        },
    },
    Body {
        name: "session/confirms",
        items: BATCH,
        prepare: confirms,
    },
    Body {
        name: "session/unacked",
        items: BATCH,
        prepare: unacked,
    },
];

fn batch() -> usize {
    usize::try_from(BATCH).unwrap_or(0)
}

/// Takes in the same octets in every call.
fn receive(octets: Vec<u8>) -> Box<dyn FnMut()> {
    let (mut session, now) = running();
    let mut out = Output::new();
    Box::new(move || {
        let mut rest = black_box(&octets[..]);
        let mut events = 0;
        while !rest.is_empty() {
            let received = session.receive(rest, now, &mut out);
            if let Some(event) = received.event {
                assert!(matches!(event, Event::Publish(..) | Event::Settle(..)));
                events += 1;
            }
            rest = &rest[received.consumed..];
        }
        assert_eq!(events, BATCH);
    })
}

/// A session with channel 1 open.
#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn running() -> (Session, Instant) {
    let limits = Limits::default();
    let now = Instant::now();
    let config = SessionConfig {
        limits,
        server_properties: FieldTable::default(),
        mechanisms: "PLAIN".to_owned(),
    };
    let mut session = Session::new(config, now);
    let input = Client::new().0;
    let mut out = Output::new();
    let mut rest = &input[..];
    loop {
        let received = session.receive(rest, now, &mut out);
        match received.event {
            None => break,
            Some(Event::Authenticate(_)) => session.login_accepted(&mut out),
            Some(Event::Open { .. }) => session.open_accepted(&mut out),
            Some(Event::OpenChannel(channel)) => session.channel_accepted(channel, &mut out),
            Some(event) => unreachable!("{event:?}"),
        }
        rest = &rest[received.consumed..];
    }
    (session, now)
}

/// A batch is published; the log says that it is durable.
fn confirms() -> Box<dyn FnMut()> {
    let mut tracker = ConfirmTracker::new();
    let mut position = 0;
    Box::new(move || {
        for _ in 0..BATCH {
            position += 64;
            tracker.published(LogPosition(position));
        }
        tracker.durable(LogPosition(position), |confirm| {
            black_box(confirm);
        });
    })
}

/// A batch is delivered and acknowledged with one ack.
fn unacked() -> Box<dyn FnMut()> {
    let mut unacked = Unacked::new();
    let mut tag = 0;
    Box::new(move || {
        for _ in 0..BATCH {
            tag += 1;
            unacked.push(DeliveryTag(tag), tag);
        }
        let settled = unacked.settle(DeliveryTag(tag), true, |delivery| {
            black_box(delivery);
        });
        assert!(settled.is_ok());
    })
}
