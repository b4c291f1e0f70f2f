//! The waiting room against a list that is obviously right: admitted, due, put back, purged, read again after restarts.

use std::collections::BTreeMap;

use mamba_queue::{LiveRun, PagedRun, WaitingRoom};
use mamba_types::Sequence;
use proptest::prelude::*;

/// Due time, returns, octets of body, by sequence.
type Model = BTreeMap<u64, (u64, u32, usize)>;

#[derive(Clone, Debug)]
enum Step {
    Admit {
        due_ms: u64,
        returns: u32,
        body: usize,
    },
    /// So much time passes, and this many are taken.
    Take {
        pass_ms: u64,
        max: usize,
        left: usize,
    },
    Purge,
    /// The next start, and how many messages each reading brings.
    Restart {
        chunk: u64,
    },
}

fn due() -> impl Strategy<Value = u64> {
    // Near, across buckets, and years ahead.
    prop_oneof![0..300u64, 0..200_000u64, 0..(1u64 << 40)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (due(), prop_oneof![4 => Just(0), 1 => 1..4u32], 0..50usize)
            .prop_map(|(due_ms, returns, body)| Step::Admit { due_ms, returns, body }),
        4 => (prop_oneof![0..400u64, 0..300_000u64], 0..6usize, 0..6usize)
            .prop_map(|(pass_ms, max, left)| Step::Take { pass_ms, max, left }),
        1 => Just(Step::Purge),
        1 => (1..5u64).prop_map(|chunk| Step::Restart { chunk }),
    ]
}

fn runs_of(model: &Model) -> Vec<LiveRun> {
    let mut runs: Vec<LiveRun> = Vec::new();
    for (sequence, (_, returns, _)) in model {
        match runs.last_mut() {
            Some(run) if run.to.0 == *sequence && run.returns == *returns => run.to.0 += 1,
            _ => runs.push(LiveRun {
                level: 0,
                from: Sequence(*sequence),
                to: Sequence(sequence + 1),
                delivered: *returns > 0,
                returns: *returns,
            }),
        }
    }
    runs
}

/// A start: the ranges the log would give back, read in pieces of `chunk` messages.
fn restarted(model: &Model, first: Sequence, chunk: u64) -> WaitingRoom {
    let mut room = WaitingRoom::new(first);
    for run in runs_of(model) {
        let inside = model.range(run.from.0..run.to.0);
        room.restore(PagedRun {
            level: 0,
            from: run.from,
            to: run.to,
            count: inside.clone().count() as u64,
            // An estimate, as after a crash.
            body_bytes: inside.map(|(_, (.., body))| *body as u64 / 2).sum(),
            estimated: false,
            redelivered: run.delivered,
            returns: run.returns,
        });
    }
    assert_eq!(room.count(), model.len() as u64);
    while let Some((from, to)) = room.unread(chunk) {
        assert_eq!(joined(room.live_runs()), runs_of(model));
        let found: Vec<_> = model
            .range(from.0..to.0)
            .take(usize::try_from(chunk).unwrap_or(usize::MAX))
            .map(|(sequence, (due_ms, _, body))| (Sequence(*sequence), *due_ms, *body))
            .collect();
        let complete = (found.len() as u64) < chunk;
        let next = match found.last() {
            Some((last, ..)) if !complete => last.next(),
            _ => to,
        };
        assert_eq!(room.read(found, next), 0, "nothing is lost");
    }
    room
}

/// Neighbours of one kind as one run: half of a run may be read and the other half not.
fn joined(runs: Vec<LiveRun>) -> Vec<LiveRun> {
    let mut all: Vec<LiveRun> = Vec::new();
    for run in runs {
        match all.last_mut() {
            Some(last) if last.to == run.from && last.returns == run.returns => last.to = run.to,
            _ => all.push(run),
        }
    }
    all
}

fn check(room: &WaitingRoom, model: &Model) {
    assert_eq!(room.count(), model.len() as u64);
    let bytes: usize = model.values().map(|(.., body)| body).sum();
    assert_eq!(room.body_bytes(), bytes as u64);
    assert_eq!(room.next_due(), model.values().map(|(due, ..)| *due).min());
    assert_eq!(joined(room.live_runs()), runs_of(model));
    let mut all: Vec<_> = model
        .iter()
        .map(|(sequence, (due_ms, returns, _))| (*due_ms, *sequence, *returns))
        .collect();
    all.sort_unstable();
    for max in [1, 7, all.len()] {
        let first = all.get(max / 2).map_or(0, |(due_ms, ..)| *due_ms);
        let expected = all.iter().filter(|(due_ms, ..)| *due_ms <= first);
        let soon = room.soon(first, max);
        let soon: Vec<_> = soon
            .iter()
            .map(|one| (one.due_ms, one.sequence.0, one.returns))
            .collect();
        assert!(expected.take(max).eq(&soon), "until {first}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn it_is_a_list_sorted_by_time(steps in prop::collection::vec(step(), 1..120)) {
        let mut epoch = 1u64;
        let mut room = WaitingRoom::new(Sequence((epoch << 40) + 1));
        let mut model = Model::new();
        let mut now_ms = 1_700_000_000_000;
        for step in steps {
            match step {
                Step::Admit { due_ms, returns, body } => {
                    let sequence = room.admit(now_ms + due_ms, returns, body);
                    prop_assert!(model.insert(sequence.0, (now_ms + due_ms, returns, body)).is_none());
                }
                Step::Take { pass_ms, max, left } => {
                    now_ms += pass_ms;
                    let mut expected: Vec<_> = model
                        .iter()
                        .filter(|(_, (due_ms, ..))| *due_ms <= now_ms)
                        .map(|(sequence, (due_ms, returns, _))| (*due_ms, *sequence, *returns))
                        .collect();
                    expected.sort_unstable();
                    expected.truncate(max);
                    let taken: Vec<_> = room
                        .take_due(now_ms, max)
                        .iter()
                        .map(|one| (one.due_ms, one.sequence.0, one.returns))
                        .collect();
                    prop_assert_eq!(&taken, &expected);
                    prop_assert_eq!(room.is_taking(), !taken.is_empty());
                    prop_assert_eq!(room.count(), model.len() as u64);
                    prop_assert_eq!(joined(room.live_runs()), runs_of(&model));
                    let rest = left.min(taken.len());
                    let gone = &taken[..taken.len() - rest];
                    let bytes = gone.iter().filter_map(|(_, sequence, _)| model.remove(sequence));
                    let bytes: usize = bytes.map(|(.., body)| body).sum();
                    room.left(rest, bytes as u64, []);
                }
                Step::Purge => {
                    prop_assert_eq!(joined(room.purge()), runs_of(&model));
                    model.clear();
                }
                Step::Restart { chunk } => {
                    // Far ahead now and then: sequences of many starts wait side by side.
                    epoch += if chunk == 1 { 300 } else { 1 };
                    room = restarted(&model, Sequence((epoch << 40) + 1), chunk);
                }
            }
            check(&room, &model);
        }
    }
}

#[test]
fn a_purge_forgets_what_is_being_taken() {
    let mut room = WaitingRoom::new(Sequence(1));
    room.admit(5, 0, 3);
    room.admit(6, 2, 4);
    let before = room.purges();
    assert_eq!(room.take_due(5, 10).len(), 1);
    assert_eq!(room.purge().len(), 2);
    assert_eq!((room.count(), room.body_bytes()), (0, 0));
    assert!(room.purges() > before);
    assert_eq!(room.admit(7, 0, 1), Sequence(3), "sequences go on");
}

#[test]
fn a_crash_leaves_in_doubt_what_is_due_by_the_next_start() {
    let before = PagedRun {
        level: 0,
        from: Sequence(1),
        to: Sequence(4),
        count: 3,
        body_bytes: 3,
        estimated: false,
        redelivered: false,
        returns: 0,
    };
    let mut room = WaitingRoom::new(Sequence(100));
    room.restore(before);
    room.doubt(50);
    let delivered = |room: &WaitingRoom| -> Vec<(u64, u64, bool)> {
        let runs = room.live_runs();
        let shown = runs.iter().map(|run| (run.from.0, run.to.0, run.delivered));
        shown.collect()
    };
    assert_eq!(delivered(&room), [(1, 4, true)], "their times are unknown");
    let found = [(1, 49), (2, 50), (3, 51)].map(|(at, due_ms)| (Sequence(at), due_ms, 1));
    room.read(found, Sequence(4));
    assert_eq!(room.admit(40, 0, 1), Sequence(100));
    let known = [(1, 3, true), (3, 4, false), (100, 101, false)];
    assert_eq!(delivered(&room), known);
    let doubt = room.doubted();
    assert!(doubt.covers(Sequence(3), 50) && !doubt.covers(Sequence(100), 50));
}

#[test]
fn what_the_disk_lost_is_counted_once() {
    let mut room = WaitingRoom::new(Sequence(100));
    room.restore(PagedRun {
        level: 0,
        from: Sequence(1),
        to: Sequence(11),
        count: 10,
        body_bytes: 100,
        estimated: false,
        redelivered: false,
        returns: 0,
    });
    let found = [2u64, 3, 5].map(|sequence| (Sequence(sequence), 50, 10));
    assert_eq!(room.read(found, Sequence(6)), 0, "the rest may still come");
    assert_eq!(room.count(), 10);
    assert_eq!(room.read([(Sequence(7), 40, 10)], Sequence(11)), 6);
    assert_eq!((room.count(), room.body_bytes()), (4, 40));
    assert_eq!(room.next_due(), Some(40));
    assert_eq!(room.unread(10), None);
}
