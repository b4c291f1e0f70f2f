//! The rules of a queue, one by one (`spec: semantics §13–16, §26`).

use std::{
    cell::Cell,
    fmt::Write,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use mamba_queue::{
    ConsumerId, DeathReason, Effects, Fetch, Incoming, LiveRun, Outcome, Overflow, PageIn,
    PagedRun, Port, Queue, QueueKind, Scan, Selector, Settings, Settled, Stored, Subscription,
    UnackedKey, Window,
};
use mamba_types::{LogPosition, Message, RecordMeta, Sequence};

const PLENTY: usize = 1_000_000;

#[derive(Clone, Debug)]
struct TestPort {
    name: char,
    room: Rc<Cell<usize>>,
    admits: Rc<Cell<bool>>,
}

impl Port for TestPort {
    fn room(&self) -> usize {
        self.room.get()
    }

    fn channel_admits(&self) -> bool {
        self.admits.get()
    }

    fn count_delivery(&self) {}
}

/// A queue whose consumers have one-letter names. What it delivers is noted as `a1 b2 a3!`: to whom, which one, and
/// `!` for redelivered.
struct Scene {
    queue: Queue<TestPort>,
    consumers: Vec<(ConsumerId, TestPort)>,
    out: Vec<(u64, UnackedKey)>,
    /// What filters want read.
    scans: Vec<Scan>,
}

impl Scene {
    fn new(settings: Settings) -> Self {
        Self {
            queue: Queue::new(settings, Sequence(1)),
            consumers: Vec::new(),
            out: Vec::new(),
            scans: Vec::new(),
        }
    }

    fn classic() -> Self {
        Self::new(Settings::default())
    }

    fn single_active(kind: QueueKind) -> Self {
        Self::new(Settings {
            kind,
            single_active_consumer: true,
            ..Settings::default()
        })
    }

    fn try_subscribe(&mut self, name: char, subscription: Subscription) -> Result<(), String> {
        let port = TestPort {
            name,
            room: Rc::new(Cell::new(PLENTY)),
            admits: Rc::new(Cell::new(true)),
        };
        let id = self.queue.subscribe(port.clone(), subscription);
        let id = id.map_err(|error| error.to_string())?;
        self.consumers.push((id, port));
        Ok(())
    }

    /// A consumer with this priority and prefetch (0: no limit).
    #[track_caller]
    fn subscribe(&mut self, name: char, priority: i64, prefetch: u32) -> String {
        let subscription = Subscription {
            priority,
            prefetch,
            ..Subscription::default()
        };
        self.try_subscribe(name, subscription).expect("refused");
        self.dispatch()
    }

    /// A consumer with this prefetch that gets nothing yet.
    fn subscribe_with(&mut self, name: char, prefetch: u32) {
        let subscription = Subscription {
            prefetch,
            ..Subscription::default()
        };
        self.try_subscribe(name, subscription).expect("refused");
    }

    fn subscribe_quietly(&mut self, name: char) {
        self.subscribe_with(name, 0);
    }

    fn id(&self, name: char) -> ConsumerId {
        let found = self.consumers.iter().find(|(_, port)| port.name == name);
        found.expect("no such consumer").0
    }

    fn port(&self, name: char) -> &TestPort {
        self.queue.port(self.id(name)).expect("no such consumer")
    }

    fn unsubscribe(&mut self, name: char) -> String {
        self.queue.unsubscribe(self.id(name));
        self.consumers.retain(|(_, port)| port.name != name);
        self.dispatch()
    }

    fn resume(&mut self, name: char) -> String {
        self.queue.resume(self.id(name));
        self.dispatch()
    }

    fn enqueue(&mut self, count: usize) -> String {
        let message = Message::build(RecordMeta::default(), b"", b"q", &[0; 14], b"body");
        let incoming = Incoming {
            message,
            at: LogPosition::NONE,
            returns: 0,
            redelivered: false,
        };
        self.queue.enqueue(std::iter::repeat_n(incoming, count));
        self.dispatch()
    }

    /// Settles the deliveries with these numbers, in this order.
    fn settle(&mut self, numbers: &[u64], outcome: Outcome) -> String {
        let mut keys = Vec::new();
        for number in numbers {
            let at = self.out.iter().position(|(known, _)| known == number);
            let (_, key) = self.out.remove(at.expect("not out"));
            keys.push((key, Sequence(*number)));
        }
        self.queue.settle(keys, outcome, &mut Effects::default());
        self.dispatch()
    }

    fn dispatch(&mut self) -> String {
        let mut effects = Effects::default();
        self.queue.dispatch(&mut effects);
        self.note(effects)
    }

    fn note(&mut self, mut effects: Effects) -> String {
        self.queue.check_invariants();
        self.scans.append(&mut effects.scans);
        let mut noted = String::new();
        for delivery in effects.deliveries {
            let port = self.queue.port(delivery.consumer).expect("it is there");
            let (number, mark) = (delivery.stored.sequence.0, delivery.stored.redelivered);
            let space = if noted.is_empty() { "" } else { " " };
            let mark = if mark { "!" } else { "" };
            write!(noted, "{space}{}{number}{mark}", port.name).expect("strings take all");
            self.out.extend(delivery.key.map(|key| (number, key)));
        }
        noted
    }
}

mod round_robin {
    use super::*;

    #[test]
    fn every_delivery_ends_a_turn() {
        let mut scene = Scene::classic();
        for name in ['a', 'b', 'c'] {
            scene.subscribe(name, 0, 0);
        }
        assert_eq!(scene.enqueue(4), "a1 b2 c3 a4");
        assert_eq!(scene.enqueue(2), "b5 c6");
    }

    #[test]
    fn a_full_consumer_is_passed_over_and_comes_back_last() {
        let mut scene = Scene::classic();
        scene.subscribe('a', 0, 1);
        scene.subscribe('b', 0, 0);
        scene.subscribe('c', 0, 0);
        assert_eq!(scene.enqueue(5), "a1 b2 c3 b4 c5");
        scene.settle(&[1], Outcome::Ack);
        assert_eq!(scene.enqueue(3), "b6 c7 a8");
    }

    #[test]
    fn a_newcomer_goes_last() {
        let mut scene = Scene::classic();
        scene.subscribe('a', 0, 0);
        scene.subscribe('b', 0, 0);
        assert_eq!(scene.enqueue(1), "a1");
        scene.subscribe('c', 0, 0);
        assert_eq!(scene.enqueue(3), "b2 a3 c4");
    }

    #[test]
    fn one_that_left_is_left_out() {
        let mut scene = Scene::classic();
        for name in ['a', 'b', 'c'] {
            scene.subscribe(name, 0, 0);
        }
        scene.unsubscribe('b');
        assert_eq!(scene.enqueue(3), "a1 c2 a3");
    }
}

mod consumer_priority {
    use super::*;

    #[test]
    fn lower_ones_get_what_higher_ones_cannot_take() {
        let mut scene = Scene::classic();
        scene.subscribe('a', 0, 0);
        scene.subscribe('b', 5, 1);
        scene.subscribe('c', 5, 1);
        scene.subscribe('d', -1, 0);
        assert_eq!(scene.enqueue(4), "b1 c2 a3 a4");
        scene.settle(&[2], Outcome::Ack);
        assert_eq!(scene.enqueue(2), "c5 a6");
    }

    #[test]
    fn negative_ones_come_after_those_without() {
        let mut scene = Scene::classic();
        scene.subscribe('a', i64::MIN, 0);
        scene.subscribe('b', 0, 2);
        assert_eq!(scene.enqueue(3), "b1 b2 a3");
    }
}

mod single_active_consumer {
    use super::*;

    #[test]
    fn the_first_one_gets_everything() {
        for kind in [QueueKind::Classic, QueueKind::Quorum] {
            let mut scene = Scene::single_active(kind);
            scene.subscribe('a', 0, 1);
            scene.subscribe('b', 0, 0);
            assert_eq!(scene.enqueue(2), "a1");
            assert_eq!(scene.settle(&[1], Outcome::Ack), "a2");
        }
    }

    #[test]
    fn the_next_is_the_one_of_highest_priority_then_the_oldest() {
        for kind in [QueueKind::Classic, QueueKind::Quorum] {
            let mut scene = Scene::single_active(kind);
            for (name, priority) in [('a', 9), ('b', 0), ('c', 1), ('d', 1)] {
                scene.subscribe(name, priority, 0);
            }
            assert_eq!(scene.enqueue(1), "a1");
            scene.unsubscribe('a');
            assert_eq!(scene.enqueue(1), "c2");
            scene.unsubscribe('c');
            assert_eq!(scene.enqueue(1), "d3");
            scene.unsubscribe('d');
            assert_eq!(scene.enqueue(1), "b4");
        }
    }

    #[test]
    fn what_waited_goes_to_the_next() {
        let mut scene = Scene::single_active(QueueKind::Classic);
        scene.subscribe('a', 0, 1);
        scene.subscribe('b', 0, 0);
        assert_eq!(scene.enqueue(3), "a1");
        assert_eq!(scene.unsubscribe('a'), "b2 b3");
        assert_eq!(scene.settle(&[1], Outcome::Requeue), "b1!");
    }

    #[test]
    fn classic_ignores_a_better_newcomer() {
        let mut scene = Scene::single_active(QueueKind::Classic);
        scene.subscribe('a', 0, 0);
        scene.subscribe('b', 5, 0);
        assert_eq!(scene.enqueue(2), "a1 a2");
    }

    #[test]
    fn quorum_better_newcomer_takes_over_at_once_from_one_that_holds_nothing() {
        let mut scene = Scene::single_active(QueueKind::Quorum);
        scene.subscribe('a', 0, 0);
        scene.subscribe('b', 0, 0);
        scene.subscribe('c', 1, 0);
        assert_eq!(scene.enqueue(1), "c1");
    }

    #[test]
    fn quorum_better_newcomer_waits_for_what_is_out() {
        let mut scene = Scene::single_active(QueueKind::Quorum);
        scene.subscribe('a', 0, 0);
        assert_eq!(scene.enqueue(2), "a1 a2");
        scene.subscribe('b', 1, 0);
        assert_eq!(scene.enqueue(1), "");
        assert_eq!(scene.settle(&[1], Outcome::Ack), "");
        assert_eq!(scene.settle(&[2], Outcome::Requeue), "b3 b4!");
    }

    /// A newcomer of higher priority made the active consumer wait, and left before it took over: the active one
    /// got nothing any more, because only its own removal would have woken the queue.
    #[test]
    fn quorum_active_one_goes_on_when_the_better_newcomer_leaves() {
        let mut scene = Scene::single_active(QueueKind::Quorum);
        scene.subscribe('a', 0, 0);
        assert_eq!(scene.enqueue(1), "a1");
        scene.subscribe('b', 1, 0);
        assert_eq!(scene.enqueue(1), "");
        assert_eq!(scene.unsubscribe('b'), "a2");
    }

    /// The same newcomer waited longer than it had to: the connection of the active one found room again, and the
    /// queue took that as a reason to hand over more.
    #[test]
    fn quorum_room_gives_nothing_to_one_that_is_to_give_way() {
        let mut scene = Scene::single_active(QueueKind::Quorum);
        scene.subscribe('a', 0, 0);
        assert_eq!(scene.enqueue(1), "a1");
        scene.subscribe('b', 1, 0);
        scene.enqueue(1);
        assert_eq!(scene.resume('a'), "");
        assert_eq!(scene.settle(&[1], Outcome::Ack), "b2");
    }

    #[test]
    fn all_of_them_count() {
        let mut scene = Scene::single_active(QueueKind::Classic);
        scene.subscribe('a', 0, 0);
        scene.subscribe('b', 0, 0);
        assert_eq!(scene.queue.consumer_count(), 2);
    }
}

mod exclusive {
    use super::*;

    const SHARED: Subscription = Subscription {
        no_ack: false,
        exclusive: false,
        priority: 0,
        prefetch: 0,
        filter: None,
    };
    const EXCLUSIVE: Subscription = Subscription {
        no_ack: false,
        exclusive: true,
        priority: 0,
        prefetch: 0,
        filter: None,
    };

    #[track_caller]
    fn check(settings: Settings, first: Option<Subscription>, second: Subscription, refused: bool) {
        let mut scene = Scene::new(settings);
        if let Some(first) = first {
            scene.try_subscribe('a', first).expect("refused");
        }
        let expected = match refused {
            true => Err("in exclusive use".to_owned()),
            false => Ok(()),
        };
        assert_eq!(scene.try_subscribe('b', second), expected);
    }

    #[test]
    fn refusals() {
        let classic = Settings::default();
        let single_active = Settings {
            single_active_consumer: true,
            ..classic
        };
        let quorum = Settings {
            kind: QueueKind::Quorum,
            ..classic
        };
        check(classic, None, EXCLUSIVE, false);
        check(classic, Some(SHARED), SHARED, false);
        check(classic, Some(SHARED), EXCLUSIVE, true);
        check(classic, Some(EXCLUSIVE), SHARED, true);
        check(classic, Some(EXCLUSIVE), EXCLUSIVE, true);
        check(single_active, None, EXCLUSIVE, true);
        check(single_active, Some(SHARED), EXCLUSIVE, true);
        check(single_active, Some(SHARED), SHARED, false);
        // Quorum queues ignore the flag.
        check(quorum, Some(EXCLUSIVE), SHARED, false);
        check(quorum, Some(SHARED), EXCLUSIVE, false);
        check(quorum, Some(EXCLUSIVE), EXCLUSIVE, false);
    }

    #[test]
    fn its_leaving_lets_others_in() {
        let mut scene = Scene::classic();
        scene.try_subscribe('a', EXCLUSIVE).expect("refused");
        scene.unsubscribe('a');
        scene.try_subscribe('b', SHARED).expect("refused");
    }

    #[test]
    fn it_does_not_block_fetching() {
        let mut scene = Scene::classic();
        scene.try_subscribe('a', EXCLUSIVE).expect("refused");
        scene.port('a').room.set(0);
        scene.enqueue(1);
        let fetched = scene.queue.fetch(true, &mut Effects::default());
        assert!(matches!(fetched, Fetch::Message(_)));
    }
}

mod blocked_consumers {
    use super::*;

    #[test]
    fn no_room_is_reported_once_and_resume_ends_it() {
        let mut scene = Scene::classic();
        scene.subscribe('a', 0, 0);
        scene.port('a').room.set(0);
        let mut effects = Effects::default();
        assert_eq!(scene.enqueue(0), "");
        let message = Message::build(RecordMeta::default(), b"", b"q", &[0; 14], b"body");
        let at = LogPosition::NONE;
        scene.queue.enqueue([Incoming {
            message,
            at,
            returns: 0,
            redelivered: false,
        }]);
        scene.queue.dispatch(&mut effects);
        assert_eq!(effects.starved, [scene.id('a')]);
        effects.clear();
        scene.queue.dispatch(&mut effects);
        assert!(effects.is_empty());
        scene.port('a').room.set(PLENTY);
        assert_eq!(scene.dispatch(), "", "nobody told the queue");
        assert_eq!(scene.resume('a'), "a1");
    }

    #[test]
    fn room_ends_within_a_call() {
        let mut scene = Scene::classic();
        scene.subscribe('a', 0, 0);
        scene.port('a').room.set(1);
        assert_eq!(scene.enqueue(3), "a1");
        assert_eq!(scene.resume('a'), "a2");
    }

    #[test]
    fn a_channel_limit_holds_back_and_resume_ends_it() {
        let mut scene = Scene::classic();
        scene.subscribe('a', 0, 0);
        scene.subscribe('b', 0, 0);
        scene.port('a').admits.set(false);
        assert_eq!(scene.enqueue(2), "b1 b2");
        scene.port('a').admits.set(true);
        assert_eq!(scene.enqueue(1), "b3");
        scene.resume('a');
        assert_eq!(scene.enqueue(2), "b4 a5");
    }

    #[test]
    fn settling_gives_credit_back_whatever_the_outcome() {
        let mut scene = Scene::classic();
        scene.subscribe('a', 0, 1);
        assert_eq!(scene.enqueue(4), "a1");
        assert_eq!(scene.settle(&[1], Outcome::Ack), "a2");
        assert_eq!(scene.settle(&[2], Outcome::Discard), "a3");
        assert_eq!(scene.settle(&[3], Outcome::Requeue), "a3!");
        assert_eq!(scene.settle(&[3], Outcome::Unsent), "a3!");
        assert_eq!(scene.settle(&[3], Outcome::Ack), "a4");
    }

    #[test]
    fn prefetch_does_not_hold_for_consumers_without_acknowledgement() {
        let mut scene = Scene::classic();
        let subscription = Subscription {
            no_ack: true,
            prefetch: 1,
            ..Subscription::default()
        };
        scene.try_subscribe('a', subscription).expect("refused");
        assert_eq!(scene.enqueue(3), "a1 a2 a3");
        assert_eq!(scene.queue.unacked_count(), 0);
    }

    #[test]
    fn cancelling_requeues_nothing() {
        let mut scene = Scene::classic();
        scene.subscribe('a', 0, 0);
        scene.enqueue(1);
        scene.unsubscribe('a');
        assert_eq!(scene.subscribe('b', 0, 0), "");
        assert_eq!(scene.queue.unacked_count(), 1);
        assert_eq!(scene.settle(&[1], Outcome::Requeue), "b1!");
    }
}

mod requeue {
    use super::*;

    /// Delivers four messages, returns them as told, and looks at the order of everything after.
    #[track_caller]
    fn check(kind: QueueKind, limit: Option<u32>, returned: &[&[u64]], expected: &str) {
        let mut scene = Scene::new(Settings {
            kind,
            delivery_limit: limit,
            ..Settings::default()
        });
        scene.subscribe('a', 0, 4);
        assert_eq!(scene.enqueue(6), "a1 a2 a3 a4");
        scene.unsubscribe('a');
        for numbers in returned {
            scene.settle(numbers, Outcome::Requeue);
        }
        assert_eq!(scene.subscribe('b', 0, 0), expected);
    }

    #[test]
    fn classic_to_the_original_place() {
        let kind = QueueKind::Classic;
        check(kind, None, &[&[4], &[2], &[1]], "b1! b2! b4! b5 b6");
        check(kind, None, &[&[4, 3, 2, 1]], "b1! b2! b3! b4! b5 b6");
    }

    #[test]
    fn quorum_to_the_front_in_order_of_return() {
        let kind = QueueKind::Quorum;
        check(kind, Some(20), &[&[4], &[2], &[1]], "b4! b2! b1! b5 b6");
        check(kind, Some(20), &[&[1, 2, 3, 4]], "b1! b2! b3! b4! b5 b6");
    }

    #[test]
    fn quorum_to_the_tail_without_a_delivery_limit() {
        // With new numbers: 2 is 7 now, and 1 is 8.
        check(QueueKind::Quorum, None, &[&[2], &[1]], "b5 b6 b7! b8!");
    }

    #[test]
    fn quorum_dies_when_the_count_exceeds_the_limit() {
        for (limit, lives) in [(0, 0), (1, 1), (3, 3)] {
            let mut scene = Scene::new(Settings {
                kind: QueueKind::Quorum,
                delivery_limit: Some(limit),
                ..Settings::default()
            });
            scene.subscribe('a', 0, 0);
            scene.enqueue(1);
            for _ in 0..lives {
                assert_eq!(scene.settle(&[1], Outcome::Requeue), "a1!");
            }
            assert_eq!(scene.settle(&[1], Outcome::Requeue), "");
            assert_eq!(scene.queue.ready_count(), 0);
        }
    }
}

mod time_to_live {
    use super::*;

    fn queue(ttl_ms: Option<u64>) -> Queue<TestPort> {
        let settings = Settings {
            message_ttl_ms: ttl_ms,
            dead_letters: true,
            ..Settings::default()
        };
        Queue::new(settings, Sequence(1))
    }

    /// A message accepted at moment 0 with that time of its own.
    fn enqueue(queue: &mut Queue<TestPort>, expiration_ms: Option<u64>) {
        let meta = RecordMeta {
            expiration_ms,
            ..RecordMeta::default()
        };
        let message = Message::build(meta, b"", b"q", &[0; 14], b"");
        let at = LogPosition::NONE;
        queue.enqueue([Incoming {
            message,
            at,
            returns: 0,
            redelivered: false,
        }]);
    }

    /// Messages with these times of their own; what is over at `now_ms` dies.
    #[track_caller]
    fn check(ttl_ms: Option<u64>, own_ms: &[Option<u64>], now_ms: u64, expected: &[u64]) {
        let mut queue = queue(ttl_ms);
        for expiration_ms in own_ms.iter().copied() {
            enqueue(&mut queue, expiration_ms);
        }
        let mut effects = Effects::default();
        queue.expire(now_ms, &mut effects);
        let dead = effects.dead.iter();
        let dead: Vec<_> = dead
            .map(|(stored, reason)| (stored.sequence.0, *reason))
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|n| (*n, DeathReason::Expired))
            .collect();
        assert_eq!(dead, expected);
    }

    #[test]
    fn the_smaller_time_counts() {
        check(None, &[None], u64::MAX, &[]);
        check(None, &[Some(10)], 9, &[]);
        check(None, &[Some(10)], 10, &[1]);
        check(Some(10), &[None, None], 10, &[1, 2]);
        check(Some(10), &[Some(20)], 10, &[1]);
        check(Some(20), &[Some(10)], 10, &[1]);
        check(Some(0), &[None], 0, &[1]);
        check(None, &[Some(0)], 0, &[1]);
    }

    #[test]
    fn only_at_the_head() {
        check(None, &[Some(50), Some(10)], 10, &[]);
        check(None, &[Some(50), Some(10)], 50, &[1, 2]);
        check(None, &[Some(10), None, Some(10)], 10, &[1]);
    }

    /// Messages with these times of their own; those that a consumer gets which comes at `now_ms`.
    #[track_caller]
    fn check_delivered(own_ms: &[Option<u64>], now_ms: u64, expected: &[u64]) {
        let mut scene = Scene::new(Settings::default());
        for expiration_ms in own_ms.iter().copied() {
            enqueue(&mut scene.queue, expiration_ms);
            scene.queue.expire(0, &mut Effects::default());
        }
        scene.subscribe_quietly('a');
        let mut effects = Effects::default();
        scene.queue.expire_waited(now_ms, &mut effects);
        scene.queue.dispatch(&mut effects);
        let delivered = effects.deliveries.iter();
        let delivered: Vec<_> = delivered.map(|one| one.stored.sequence.0).collect();
        assert_eq!(delivered, expected);
    }

    /// Whatever stood behind a message without a time used to go out with it, however long its own time was over.
    #[test]
    fn what_comes_to_the_head_too_late_is_not_delivered() {
        check_delivered(&[None, Some(10), None], 9, &[1, 2, 3]);
        check_delivered(&[None, Some(10), None], 10, &[1, 3]);
        check_delivered(&[None, Some(10), Some(10)], 10, &[1]);
    }

    #[test]
    fn without_a_time_to_wait_only_to_who_is_there_when_it_comes() {
        check_delivered(&[None, Some(0), None], 0, &[1, 3]);
        check_delivered(&[None, Some(0)], 1, &[1]);
        let mut queue = queue(Some(0));
        let port = TestPort {
            name: 'a',
            room: Rc::new(Cell::new(PLENTY)),
            admits: Rc::new(Cell::new(true)),
        };
        let once = Subscription {
            prefetch: 1,
            ..Subscription::default()
        };
        queue.subscribe(port, once).expect("refused");
        let mut effects = Effects::default();
        for _ in 0..2 {
            enqueue(&mut queue, None);
            queue.expire_waited(0, &mut effects);
            queue.dispatch(&mut effects);
            queue.expire(0, &mut effects);
        }
        assert_eq!((effects.deliveries.len(), effects.dead.len()), (1, 1));
        // What comes back has waited.
        let held = effects.deliveries[0].key.expect("it is to be acknowledged");
        let mut effects = Effects::default();
        queue.settle([(held, Sequence(1))], Outcome::Requeue, &mut effects);
        queue.expire_waited(0, &mut effects);
        assert_eq!((queue.ready_count(), effects.dead.len()), (0, 1));
    }

    #[test]
    fn what_is_out_does_not_expire_and_keeps_its_deadline() {
        let mut scene = Scene::new(Settings {
            message_ttl_ms: Some(10),
            ..Settings::default()
        });
        scene.subscribe('a', 0, 1);
        assert_eq!(scene.enqueue(1), "a1");
        assert_eq!(scene.queue.next_deadline(), None);
        scene.queue.expire(100, &mut Effects::default());
        assert_eq!(scene.queue.unacked_count(), 1);
        scene.unsubscribe('a');
        scene.settle(&[1], Outcome::Requeue);
        assert_eq!(scene.queue.next_deadline(), Some(10));
        scene.queue.expire(100, &mut Effects::default());
        assert_eq!(scene.queue.ready_count(), 0);
    }
}

mod configuration {
    use super::*;

    fn with_ttl(message_ttl_ms: Option<u64>) -> Settings {
        Settings {
            message_ttl_ms,
            ..Settings::default()
        }
    }

    /// Expires at `now_ms` and says how many are left.
    fn left(scene: &mut Scene, now_ms: u64) -> usize {
        scene.queue.expire(now_ms, &mut Effects::default());
        scene.queue.ready_count()
    }

    #[test]
    fn messages_keep_the_time_to_live_they_came_with() {
        let mut scene = Scene::new(with_ttl(Some(10)));
        scene.enqueue(2);
        scene.queue.configure(with_ttl(None));
        scene.enqueue(1);
        scene.queue.configure(with_ttl(Some(30)));
        scene.enqueue(1);
        assert_eq!(scene.queue.next_deadline(), Some(10));
        assert_eq!(left(&mut scene, 9), 4);
        assert_eq!(left(&mut scene, 10), 2);
        // The third one has none, and stands before the fourth.
        assert_eq!(scene.queue.next_deadline(), None);
        assert_eq!(left(&mut scene, 1_000), 2);
        scene.subscribe('a', 0, 1);
        assert_eq!(left(&mut scene, 29), 1);
        assert_eq!(left(&mut scene, 30), 0);
    }

    #[test]
    fn an_empty_queue_remembers_no_earlier_time() {
        let mut scene = Scene::new(with_ttl(Some(10)));
        scene.queue.configure(with_ttl(None));
        assert!(!scene.queue.may_expire());
        scene.enqueue(1);
        assert_eq!(left(&mut scene, u64::MAX), 1);
    }

    /// Changes are remembered up to a limit; beyond it the oldest messages follow the time after theirs.
    #[test]
    fn many_changes() {
        let mut scene = Scene::new(with_ttl(Some(1)));
        for ttl in 2..=40 {
            scene.enqueue(1);
            scene.queue.configure(with_ttl(Some(ttl)));
        }
        for now_ms in 0..40 {
            let over = usize::try_from(now_ms).unwrap();
            // The sixteen youngest changes are exact.
            let expected = if now_ms < 24 { 39 } else { 39 - over };
            assert_eq!(left(&mut scene, now_ms), expected, "at {now_ms}");
        }
    }

    #[test]
    fn lengths_hold_from_the_change_on() {
        let mut scene = Scene::classic();
        scene.enqueue(4);
        scene.queue.configure(Settings {
            max_length: Some(1),
            dead_letters: true,
            ..Settings::default()
        });
        let mut effects = Effects::default();
        scene.queue.trim(&mut effects);
        let dead: Vec<u64> = effects
            .dead
            .iter()
            .map(|(stored, _)| stored.sequence.0)
            .collect();
        assert_eq!(dead, [1, 2, 3]);
    }

    #[test]
    fn what_was_declared_for_ever_stays() {
        let declared = Settings {
            kind: QueueKind::Quorum,
            single_active_consumer: true,
            max_priority: 3,
            ..Settings::default()
        };
        let mut queue = Queue::<TestPort>::new(declared, Sequence(1));
        queue.configure(with_ttl(Some(5)));
        assert_eq!(
            *queue.settings(),
            Settings {
                message_ttl_ms: Some(5),
                ..declared
            }
        );
    }
}

mod length_limits {
    use super::*;

    /// Four octets each. `expected` is what is left, as the next consumer gets it.
    #[track_caller]
    fn check(max_length: Option<u64>, max_length_bytes: Option<u64>, expected: &str) {
        let mut scene = Scene::new(Settings {
            max_length,
            max_length_bytes,
            ..Settings::default()
        });
        scene.enqueue(4);
        scene.queue.trim(&mut Effects::default());
        assert_eq!(scene.subscribe('a', 0, 0), expected);
    }

    #[test]
    fn the_head_gives_way() {
        check(None, None, "a1 a2 a3 a4");
        check(Some(4), None, "a1 a2 a3 a4");
        check(Some(2), None, "a3 a4");
        check(Some(0), None, "");
        check(None, Some(16), "a1 a2 a3 a4");
        check(None, Some(15), "a2 a3 a4");
        check(None, Some(3), "");
        check(Some(3), Some(8), "a3 a4");
        check(Some(1), Some(8), "a4");
    }

    #[test]
    fn consumers_come_first_and_what_they_hold_does_not_count() {
        let mut scene = Scene::new(Settings {
            max_length: Some(0),
            ..Settings::default()
        });
        scene.subscribe('a', 0, 2);
        assert_eq!(scene.enqueue(3), "a1 a2");
        let mut effects = Effects::default();
        scene.queue.trim(&mut effects);
        assert_eq!(
            (scene.queue.ready_count(), scene.queue.unacked_count()),
            (0, 2)
        );
    }

    #[test]
    fn the_new_one_gives_way() {
        for overflow in [Overflow::RejectPublish, Overflow::RejectPublishDeadLetter] {
            let mut scene = Scene::new(Settings {
                max_length: Some(2),
                max_length_bytes: Some(10),
                overflow,
                ..Settings::default()
            });
            assert!(scene.queue.admits(1, 10) && !scene.queue.admits(1, 11));
            scene.enqueue(1);
            assert!(scene.queue.admits(1, 6) && !scene.queue.admits(1, 7));
            scene.enqueue(1);
            assert!(!scene.queue.admits(1, 0));
            scene.enqueue(1);
            scene.queue.trim(&mut Effects::default());
            assert_eq!(
                scene.queue.ready_count(),
                3,
                "nothing that is in is dropped"
            );
        }
    }

    #[test]
    fn the_dropped_die_of_the_length() {
        let mut scene = Scene::new(Settings {
            max_length: Some(1),
            dead_letters: true,
            ..Settings::default()
        });
        scene.enqueue(2);
        let mut effects = Effects::default();
        scene.queue.trim(&mut effects);
        let (stored, reason) = &effects.dead[0];
        assert_eq!((stored.sequence.0, reason.word()), (1, "maxlen"));
        assert!(
            effects.settled.is_empty(),
            "the owner settles it when it is safe elsewhere"
        );
    }
}

mod paging {
    use super::*;

    /// Octets of memory that each message here takes, and of its record.
    const RECORD: usize = RECORD_LEN + size_of::<Stored>();
    const RECORD_LEN: usize = 53;
    const EVERYTHING: LogPosition = LogPosition(u64::MAX);

    fn message(priority: Option<u8>) -> Message {
        let meta = RecordMeta {
            priority,
            ..RecordMeta::default()
        };
        Message::build(meta, b"", b"q", &[0; 14], b"body")
    }

    /// A queue of stored messages of these priorities, all but the first `keep` octets of them on the disk.
    fn paged(settings: Settings, priorities: &[u8], keep: usize) -> Scene {
        let mut scene = Scene::new(settings);
        scene.queue.set_window(Window {
            head_bytes: 4 * RECORD,
            low_bytes: 2 * RECORD,
            tail_bytes: 0,
        });
        for (priority, number) in priorities.iter().zip(1u64..) {
            scene.queue.enqueue([Incoming {
                message: message(Some(*priority)),
                at: LogPosition(100 * number),
                returns: 0,
                redelivered: false,
            }]);
        }
        scene.queue.page_out(EVERYTHING, keep);
        scene.queue.check_invariants();
        scene
    }

    fn five(keep: usize) -> Scene {
        paged(Settings::default(), &[0; 5], keep * RECORD)
    }

    fn ranges(queue: &Queue<TestPort>) -> Vec<(u64, u64, u64)> {
        let range = |run: &PagedRun| (run.from.0, run.to.0, run.count);
        queue.paged_runs().map(range).collect()
    }

    /// Answers with these messages.
    fn read(queue: &mut Queue<TestPort>, wanted: PageIn, numbers: &[u64], next: u64) -> u64 {
        let stored = |number: &u64| Stored {
            sequence: Sequence(*number),
            message: message(Some(wanted.level)),
            at: LogPosition(100 * number),
            returns: 0,
            redelivered: false,
        };
        let messages = numbers.iter().map(stored).collect();
        let missing = queue.paged_in(wanted.level, wanted.token, messages, Sequence(next));
        queue.check_invariants();
        missing
    }

    #[track_caller]
    fn wanted(queue: &mut Queue<TestPort>) -> PageIn {
        let mut effects = Effects::default();
        queue.dispatch(&mut effects);
        assert_eq!(effects.wanted.len(), 1, "{:?}", effects.wanted);
        effects.wanted[0]
    }

    #[test]
    fn what_is_on_the_disk_counts_and_takes_no_memory() {
        let scene = five(2);
        let queue = &scene.queue;
        assert_eq!(ranges(queue), [(3, 6, 3)]);
        assert_eq!((queue.ready_count(), queue.ready_bytes()), (5, 20));
        assert_eq!(
            (queue.paged_count(), queue.resident_bytes()),
            (3, 2 * RECORD)
        );
        assert!(queue.is_paged(0, Sequence(3)) && !queue.is_paged(0, Sequence(2)));
        assert_eq!(queue.deliverable_to(), Some(Sequence(2)));
    }

    #[test]
    fn only_what_can_be_read_back_leaves_memory_and_never_out_of_order() {
        let mut scene = five(5);
        // The fifth has been written in part.
        scene.queue.page_out(LogPosition(501), 2 * RECORD);
        assert_eq!(ranges(&scene.queue), [(3, 5, 2)]);
        scene.enqueue(1);
        scene.queue.page_out(EVERYTHING, 0);
        assert_eq!(ranges(&scene.queue), [(1, 6, 5)]);
        assert_eq!(
            scene.queue.resident_bytes(),
            RECORD,
            "the sixth is not in the log"
        );
        for (level, stored) in scene.queue.unstored_beyond(0) {
            assert_eq!((level, stored.sequence.0), (0, 6));
            stored.at = LogPosition(600);
        }
        scene.queue.page_out(EVERYTHING, 0);
        assert_eq!(ranges(&scene.queue), [(1, 7, 6)]);
    }

    #[test]
    fn consumers_get_it_after_it_was_read() {
        let mut scene = five(1);
        assert_eq!(scene.subscribe('a', 0, 0), "a1");
        // The reading is under way.
        assert_eq!(scene.dispatch(), "");
        let mut scene = five(1);
        let no_one = &mut Effects::default();
        scene.queue.dispatch(no_one);
        assert!(no_one.is_empty(), "nobody could take it");
        scene.subscribe_quietly('a');
        let first = wanted(&mut scene.queue);
        assert_eq!((first.from.0, first.to.0, first.octets), (2, 6, 4 * RECORD));
        assert_eq!(read(&mut scene.queue, first, &[2, 3], 4), 0);
        assert_eq!(ranges(&scene.queue), [(4, 6, 2)]);
        let rest = wanted(&mut scene.queue);
        scene.enqueue(1);
        assert_eq!(read(&mut scene.queue, rest, &[4, 5], 6), 0);
        assert_eq!(scene.dispatch(), "a4 a5 a6");
    }

    #[test]
    fn a_low_head_reads_ahead() {
        let mut scene = five(4);
        scene.subscribe_with('a', 2);
        let mut effects = Effects::default();
        scene.queue.dispatch(&mut effects);
        assert_eq!(effects.deliveries.len(), 2);
        assert!(effects.wanted.is_empty(), "two are left");
        let mut scene = five(3);
        scene.subscribe_with('a', 2);
        scene.queue.dispatch(&mut effects);
        assert_eq!(effects.wanted.len(), 1, "one is left");
    }

    #[test]
    fn a_higher_level_on_the_disk_blocks_lower_ones() {
        let settings = Settings {
            max_priority: 2,
            ..Settings::default()
        };
        let mut scene = paged(settings, &[2, 1, 2], 0);
        scene.queue.enqueue([Incoming {
            message: message(None),
            at: LogPosition::NONE,
            returns: 0,
            redelivered: false,
        }]);
        assert_eq!(ranges(&scene.queue), [(1, 4, 2), (2, 3, 1)]);
        scene.subscribe_quietly('a');
        let high = wanted(&mut scene.queue);
        assert_eq!(high.level, 2);
        read(&mut scene.queue, high, &[1, 3], 4);
        assert_eq!(scene.dispatch(), "a1 a3");
    }

    #[test]
    fn what_the_disk_has_lost_leaves_the_count() {
        let mut scene = five(0);
        scene.subscribe_quietly('a');
        let first = wanted(&mut scene.queue);
        assert_eq!(read(&mut scene.queue, first, &[1], 3), 0);
        assert_eq!(scene.queue.ready_count(), 5, "not known yet");
        let rest = wanted(&mut scene.queue);
        assert_eq!(read(&mut scene.queue, rest, &[4, 5], 6), 2);
        assert_eq!(
            (scene.queue.ready_count(), scene.queue.ready_bytes()),
            (2, 8)
        );
    }

    #[test]
    fn a_reading_may_fail_or_come_too_late() {
        let mut scene = five(0);
        scene.subscribe_quietly('a');
        let failed = wanted(&mut scene.queue);
        scene.queue.load_failed(failed.level, failed.token);
        let again = wanted(&mut scene.queue);
        assert_eq!(read(&mut scene.queue, failed, &[1], 6), 0);
        let mut effects = Effects::default();
        assert_eq!(scene.queue.purge(&mut effects), 5);
        assert_eq!(effects.dropped.len(), 1);
        assert_eq!(read(&mut scene.queue, again, &[1], 6), 0);
        assert_eq!(scene.queue.ready_count(), 0);
        assert_eq!(scene.queue.ready_bytes(), 0);
    }

    #[test]
    fn fetching_says_that_it_must_wait() {
        let mut scene = five(0);
        let mut effects = Effects::default();
        let fetched = scene.queue.fetch(true, &mut effects);
        assert!(matches!(fetched, Fetch::Wanted));
        let reading = effects.wanted.remove(0);
        let fetched = scene.queue.fetch(true, &mut effects);
        assert!(matches!(fetched, Fetch::Wanted) && effects.wanted.is_empty());
        read(&mut scene.queue, reading, &[1, 2, 3, 4, 5], 6);
        for _ in 0..5 {
            let fetched = scene.queue.fetch(true, &mut effects);
            assert!(matches!(fetched, Fetch::Message(_)));
        }
        let (sequence, at) = (Sequence(5), LogPosition(500));
        let octets = 53;
        assert_eq!(
            effects.settled.last(),
            Some(&Settled {
                sequence,
                at,
                octets
            })
        );
        let fetched = scene.queue.fetch(true, &mut effects);
        assert!(matches!(fetched, Fetch::Empty));
    }

    #[test]
    fn limits_wait_for_the_head() {
        let settings = Settings {
            max_length: Some(4),
            message_ttl_ms: Some(10),
            ..Settings::default()
        };
        let mut scene = paged(settings, &[0; 5], 0);
        let mut effects = Effects::default();
        scene.queue.trim(&mut effects);
        let reading = effects.wanted.remove(0);
        scene.queue.expire(10, &mut effects);
        assert!(effects.is_empty(), "it is read already");
        read(&mut scene.queue, reading, &[1, 2], 3);
        scene.queue.trim(&mut effects);
        assert_eq!(scene.queue.ready_count(), 4);
        scene.queue.expire(10, &mut effects);
        assert_eq!(scene.queue.ready_count(), 3);
        assert_eq!(effects.wanted.len(), 1);
    }

    #[test]
    fn after_a_restart_anything_may_expire_until_it_was_read() {
        let mut queue = Queue::<TestPort>::new(Settings::default(), Sequence(1));
        queue.restore_paged(PagedRun {
            level: 0,
            from: Sequence(1),
            to: Sequence(9),
            count: 1,
            body_bytes: 1,
            estimated: false,
            redelivered: true,
            returns: 3,
        });
        assert_eq!(queue.next_sequence(), Sequence(9));
        assert!(queue.may_expire());
        let mut effects = Effects::default();
        queue.expire(0, &mut effects);
        read(&mut queue, effects.wanted[0], &[5], 9);
        assert!(!queue.may_expire());
        assert_eq!((queue.ready_count(), queue.ready_bytes()), (1, 4));
        let stored = queue.messages().next().expect("it was read");
        assert!(stored.redelivered && stored.returns == 3);
    }

    #[test]
    fn the_log_is_told_what_lives() {
        let mut scene = five(3);
        scene.subscribe('a', 0, 2);
        scene.settle(&[1], Outcome::Requeue);
        scene.unsubscribe('a');
        let runs = |queue: &Queue<TestPort>, assume_delivered| -> Vec<_> {
            let runs = queue.live_runs(assume_delivered).into_iter();
            let values = |run: LiveRun| (run.from.0, run.to.0, run.delivered, run.returns);
            runs.map(values).collect()
        };
        // The first went out again after it had come back.
        assert_eq!(
            runs(&scene.queue, false),
            [(1, 2, true, 1), (2, 3, true, 0), (3, 6, false, 0)]
        );
        assert_eq!(
            runs(&scene.queue, true),
            [(1, 2, true, 1), (2, 4, true, 0), (4, 6, false, 0)]
        );
    }

    #[test]
    fn what_comes_back_among_paged_ones_keeps_its_place() {
        let mut scene = five(5);
        assert_eq!(scene.subscribe('a', 0, 4), "a1 a2 a3 a4");
        scene.unsubscribe('a');
        scene.settle(&[1, 3], Outcome::Unsent);
        scene.queue.page_out(EVERYTHING, 0);
        assert_eq!(ranges(&scene.queue), [(1, 2, 1), (3, 4, 1), (5, 6, 1)]);
        scene.settle(&[2], Outcome::Unsent);
        assert_eq!(ranges(&scene.queue), [(1, 4, 3), (5, 6, 1)]);
        scene.settle(&[4], Outcome::Requeue);
        assert_eq!(ranges(&scene.queue), [(1, 4, 3), (4, 5, 1), (5, 6, 1)]);
    }

    #[test]
    fn quorum_gives_a_new_number_to_what_goes_to_the_tail() {
        let settings = Settings {
            kind: QueueKind::Quorum,
            ..Settings::default()
        };
        let mut scene = paged(settings, &[0; 3], 2 * RECORD);
        scene.subscribe('a', 0, 1);
        scene.unsubscribe('a');
        let key = scene.out.remove(0).1;
        let mut effects = Effects::default();
        let keys = [(key, Sequence(1))];
        scene.queue.settle(keys, Outcome::Requeue, &mut effects);
        let moved = &effects.moved[0];
        assert_eq!((moved.from.sequence.0, moved.stored.sequence.0), (1, 4));
        assert!(effects.returned.is_empty() && moved.stored.returns == 1);
        assert!(scene.queue.set_place(Sequence(4), LogPosition(900)));
        assert!(!scene.queue.set_place(Sequence(1), LogPosition(900)));
        assert!(
            scene
                .queue
                .in_memory_mut()
                .any(|s| s.at == LogPosition(900))
        );
        scene.queue.page_out(EVERYTHING, 0);
        // What stands before a run that is being read stays.
        assert_eq!(ranges(&scene.queue), [(3, 4, 1), (4, 5, 1)]);
    }
}

mod filters {
    use super::*;

    /// Wants a routing key, and counts what it is asked.
    #[derive(Debug, Default)]
    struct Key {
        key: &'static str,
        asked: AtomicUsize,
    }

    impl Selector for Key {
        fn identity(&self) -> &str {
            self.key
        }

        fn matches(&self, message: &Message) -> bool {
            self.asked.fetch_add(1, Ordering::Relaxed);
            message.routing_key() == self.key.as_bytes()
        }
    }

    fn key(key: &'static str) -> Arc<Key> {
        let asked = AtomicUsize::new(0);
        Arc::new(Key { key, asked })
    }

    fn wants(filter: &Arc<Key>, prefetch: u32) -> Subscription {
        let filter: Arc<dyn Selector> = Arc::<Key>::clone(filter);
        Subscription {
            prefetch,
            filter: Some(filter),
            ..Subscription::default()
        }
    }

    /// Messages from 1 on as they lie in the log, one per letter, which is its routing key.
    fn stored(keys: &str) -> impl Iterator<Item = Stored> {
        keys.bytes().zip(1..).map(|(key, number)| Stored {
            sequence: Sequence(number),
            message: Message::build(RecordMeta::default(), b"", &[key], &[0; 14], b"body"),
            at: LogPosition(1000 * number),
            returns: 0,
            redelivered: false,
        })
    }

    impl Scene {
        /// One message per letter, which is its routing key.
        fn enqueue_keys(&mut self, keys: &str) -> String {
            let incoming = keys.chars().map(|key| {
                let key = [u8::try_from(key).expect("it is a letter")];
                let meta = RecordMeta::default();
                Incoming {
                    returns: 0,
                    redelivered: false,
                    message: Message::build(meta, b"", &key, &[0; 14], b"body"),
                    at: LogPosition::NONE,
                }
            });
            self.queue.enqueue(incoming);
            self.dispatch()
        }

        /// The same in the log: the first so many are fetched, and the others go to the disk.
        fn enqueue_stored_keys(&mut self, keys: &str, fetched: usize) {
            self.queue.enqueue(stored(keys).map(|stored| Incoming {
                returns: 0,
                redelivered: false,
                message: stored.message,
                at: stored.at,
            }));
            for _ in 0..fetched {
                let fetched = self.queue.fetch(false, &mut Effects::default());
                let Fetch::Message(fetched) = fetched else {
                    panic!("{fetched:?}");
                };
                let key = fetched.key.expect("it is to be settled");
                self.out.push((fetched.stored.sequence.0, key));
            }
            self.page_out();
        }

        fn page_out(&mut self) {
            self.queue.page_out(LogPosition(u64::MAX), 0);
            self.queue.check_invariants();
        }

        /// Answers the reading that is under way with what lies before `next`, of a log that has these keys.
        #[track_caller]
        fn scanned(&mut self, keys: &str, next: u64) -> String {
            assert_eq!(self.scans.len(), 1);
            let scan = self.scans.remove(0);
            let next = scan.to.min(Sequence(next));
            let range = scan.from..next;
            let read = stored(keys).filter(|stored| range.contains(&stored.sequence));
            let scanned = scan.look_at(read, next);
            let mut effects = Effects::default();
            assert_eq!(self.queue.scanned(&scan, scanned, &mut effects), 0);
            let noted = self.note(effects);
            noted + &self.dispatch()
        }

        #[track_caller]
        fn filtered(&mut self, name: char, filter: &Arc<Key>, prefetch: u32) -> String {
            let subscription = wants(filter, prefetch);
            self.try_subscribe(name, subscription).expect("refused");
            self.dispatch()
        }
    }

    #[test]
    fn a_message_is_looked_at_once_per_filter() {
        let mut scene = Scene::classic();
        let (x, y) = (key("x"), key("y"));
        scene.enqueue_keys("xyzxyz");
        assert_eq!(scene.filtered('a', &x, 1), "a1");
        assert_eq!(scene.filtered('b', &key("x"), 1), "b4");
        assert_eq!(scene.filtered('c', &y, 0), "c2 c5");
        assert_eq!(scene.settle(&[1, 4], Outcome::Ack), "");
        assert_eq!(scene.enqueue_keys("zx"), "a8");
        // All but 5, which was gone.
        assert_eq!(x.asked.load(Ordering::Relaxed), 7);
        // 2, 3, 5, 6, 7.
        assert_eq!(y.asked.load(Ordering::Relaxed), 5);
        scene.queue.check_invariants();
    }

    #[test]
    fn what_comes_back_is_looked_at_again_and_nothing_else() {
        let mut scene = Scene::classic();
        let x = key("x");
        scene.enqueue_keys("xzzxz");
        assert_eq!(scene.filtered('a', &x, 2), "a1 a4");
        assert_eq!(scene.settle(&[1], Outcome::Requeue), "a1!");
        // 1, 2, 3 and 4, then 1 again; nobody has come to 5.
        assert_eq!(x.asked.load(Ordering::Relaxed), 5);
        assert_eq!(scene.settle(&[4], Outcome::Ack), "");
        assert_eq!(x.asked.load(Ordering::Relaxed), 6);
    }

    /// Rejects and channels that ended once did not wake filters that had come to the end: what came back stayed until
    /// something new came.
    #[test]
    fn what_comes_back_after_a_failure_is_looked_at_again_too() {
        for outcome in [Outcome::Requeue, Outcome::Failed, Outcome::Unsent] {
            let mut scene = Scene::classic();
            scene.enqueue_keys("zx");
            assert_eq!(scene.filtered('a', &key("x"), 0), "a2");
            assert_eq!(scene.settle(&[2], outcome), "a2!", "{outcome:?}");
        }
    }

    /// The reading began behind it: it was skipped for good, and 4 went out instead.
    #[test]
    fn what_comes_back_to_the_disk_during_a_reading_goes_first() {
        let mut scene = Scene::classic();
        let keys = "zxzx";
        scene.enqueue_stored_keys(keys, 2);
        scene.settle(&[1], Outcome::Requeue);
        scene.page_out();
        assert_eq!(scene.filtered('a', &key("x"), 1), "");
        // It has come to 2, which is out.
        assert_eq!(scene.scanned(keys, 2), "");
        assert_eq!(scene.scans[0].from, Sequence(3));
        assert_eq!(scene.settle(&[2], Outcome::Requeue), "");
        assert_eq!(scene.scanned(keys, 5), "");
        assert_eq!(scene.scanned(keys, 5), "a2!");
        assert_eq!(scene.settle(&[2], Outcome::Ack), "");
        assert_eq!(scene.scanned(keys, 5), "a4");
    }

    /// Nobody had room for it when the reading ended: the cursor went past it.
    #[test]
    fn what_comes_back_to_memory_during_a_reading_waits_for_room() {
        let mut scene = Scene::classic();
        let keys = "xz";
        scene.enqueue_stored_keys(keys, 1);
        assert_eq!(scene.filtered('a', &key("x"), 0), "");
        scene.port('a').room.set(0);
        assert_eq!(scene.settle(&[1], Outcome::Requeue), "");
        assert_eq!(scene.scanned(keys, 3), "");
        scene.port('a').room.set(PLENTY);
        assert_eq!(scene.resume('a'), "a1!");
    }

    /// More comes back during a reading than is remembered one by one.
    #[test]
    fn a_reading_that_too_much_has_overtaken_is_done_again() {
        const OUT: u64 = 5000;
        let mut scene = Scene::classic();
        let keys = "x".repeat(5000) + "zx";
        scene.enqueue_stored_keys(&keys, 5000);
        assert_eq!(scene.filtered('a', &key("x"), 0), "");
        scene.port('a').room.set(0);
        let numbers: Vec<u64> = (1..=OUT).collect();
        assert_eq!(scene.settle(&numbers, Outcome::Requeue), "");
        assert_eq!(scene.scanned(&keys, 5003), "");
        scene.port('a').room.set(10 * PLENTY);
        let expected: Vec<String> = numbers.iter().map(|number| format!("a{number}!")).collect();
        assert!(scene.resume('a') == expected.join(" "));
        assert_eq!(scene.scanned(&keys, 5003), "a5002");
    }

    /// What is not in the log goes before everything paged when it comes back. What was too much to be remembered one by one was
    /// skipped for good.
    #[test]
    fn all_that_comes_back_before_what_is_paged_is_looked_at() {
        let mut scene = Scene::classic();
        scene.enqueue_stored_keys("z", 0);
        scene.enqueue_keys(&"x".repeat(5000));
        let all = |mark| {
            let one = |number| format!("a{number}{mark}");
            (2..=5001).map(one).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(scene.filtered('a', &key("x"), 0), "");
        assert!(scene.scanned("z", 2) == all(""));
        scene.port('a').room.set(0);
        let numbers: Vec<u64> = (2..=5001).collect();
        assert_eq!(scene.settle(&numbers, Outcome::Requeue), "");
        scene.port('a').room.set(10 * PLENTY);
        assert!(scene.resume('a') == all("!"));
    }

    /// A newcomer did not find it.
    #[test]
    fn what_came_back_before_what_is_paged_is_looked_at_later_too() {
        let mut scene = Scene::classic();
        scene.enqueue_stored_keys("z", 0);
        scene.enqueue_keys("x");
        assert_eq!(scene.filtered('a', &key("x"), 0), "");
        assert_eq!(scene.scanned("z", 2), "a2");
        scene.unsubscribe('a');
        assert_eq!(scene.settle(&[2], Outcome::Requeue), "");
        assert_eq!(scene.filtered('b', &key("x"), 0), "b2!");
    }

    #[test]
    fn consumers_of_one_filter_take_turns() {
        let mut scene = Scene::classic();
        let x = key("x");
        scene.filtered('a', &x, 0);
        scene.filtered('b', &x, 0);
        scene.filtered('c', &x, 0);
        assert_eq!(scene.enqueue_keys("zxzxxzxx"), "a2 b4 c5 a7 b8");
        assert_eq!(scene.enqueue_keys("zxzx"), "c10 a12");
    }

    #[test]
    fn the_rest_keeps_its_order() {
        let mut scene = Scene::classic();
        scene.enqueue_keys("zxyzxy");
        assert_eq!(scene.filtered('a', &key("x"), 0), "a2 a5");
        assert_eq!(scene.filtered('b', &key("y"), 0), "b3 b6");
        assert_eq!(scene.settle(&[3, 2], Outcome::Discard), "");
        assert_eq!(scene.subscribe('c', 0, 0), "c1 c4");
    }

    #[test]
    fn what_has_expired_behind_others_is_not_delivered() {
        let mut scene = Scene::classic();
        let with = |key: &[u8], expiration_ms| {
            let meta = RecordMeta {
                expiration_ms,
                accepted_at_ms: 1000,
                ..RecordMeta::default()
            };
            Incoming {
                returns: 0,
                redelivered: false,
                message: Message::build(meta, b"", key, &[0; 14], b"body"),
                at: LogPosition(77),
            }
        };
        let all = [
            (b"z", None),
            (b"x", Some(5)),
            (b"x", Some(500)),
            (b"x", Some(0)),
        ];
        scene.queue.enqueue(all.map(|(key, ms)| with(key, ms)));
        scene
            .try_subscribe('a', wants(&key("x"), 0))
            .expect("refused");
        let mut effects = Effects::default();
        scene.queue.expire_waited(1005, &mut effects);
        scene.queue.dispatch(&mut effects);
        let gone: Vec<u64> = effects.settled.iter().map(|gone| gone.sequence.0).collect();
        assert_eq!(gone, [2]);
        let got: Vec<u64> = effects
            .deliveries
            .iter()
            .map(|one| one.stored.sequence.0)
            .collect();
        assert_eq!(got, [3, 4]);
        scene.queue.check_invariants();
    }

    #[test]
    fn a_long_queue_is_looked_at_in_steps() {
        let mut scene = Scene::classic();
        let x = key("x");
        scene.enqueue_keys(&"z".repeat(40_000));
        scene.enqueue_keys("x");
        let subscription = wants(&x, 0);
        scene.try_subscribe('a', subscription).expect("refused");
        let mut asked = 0;
        for step in 0..3 {
            let mut effects = Effects::default();
            scene.queue.dispatch(&mut effects);
            assert_eq!(effects.unfinished, step < 2);
            assert_eq!(effects.deliveries.len(), usize::from(step == 2));
            let before = std::mem::replace(&mut asked, x.asked.load(Ordering::Relaxed));
            assert!(asked > before && asked - before <= 16_384);
        }
        assert_eq!(asked, 40_001);
        scene.queue.check_invariants();
    }

    #[test]
    fn there_is_an_end_to_different_ones() {
        let mut scene = Scene::classic();
        for number in 0..64 {
            let name: &'static str = Box::leak(number.to_string().into_boxed_str());
            scene.filtered('a', &key(name), 0);
        }
        scene.filtered('b', &key("7"), 0);
        let refused = scene.try_subscribe('c', wants(&key("x"), 0));
        let text = "consumers with 64 different filters are there already";
        assert_eq!(refused, Err(text.to_owned()));
        scene.unsubscribe('b');
        scene.unsubscribe('a');
    }
}
