//! Confirms and outstanding deliveries against the simplest model.

use mamba_session::{Confirm, ConfirmTracker, Unacked, UnknownTag};
use mamba_types::{DeliveryTag, LogPosition};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Confirming {
    Published(u64),
    Rejected,
    Durable(u64),
}

fn confirming() -> impl Strategy<Value = Confirming> {
    prop_oneof![
        4 => (0u64..30).prop_map(Confirming::Published),
        1 => Just(Confirming::Rejected),
        2 => (0u64..30).prop_map(Confirming::Durable),
    ]
}

#[derive(Clone, Debug)]
enum Delivering {
    Push { gap: u64 },
    Settle { tag: u64, multiple: bool },
    TakeAndPutBack { tag: u64, multiple: bool },
    Drain,
}

fn delivering() -> impl Strategy<Value = Delivering> {
    prop_oneof![
        10 => (1u64..3).prop_map(|gap| Delivering::Push { gap }),
        6 => (0u64..150).prop_map(|tag| Delivering::Settle { tag, multiple: false }),
        1 => (0u64..150).prop_map(|tag| Delivering::Settle { tag, multiple: true }),
        1 => (0u64..150, any::<bool>()).prop_map(|(tag, multiple)| Delivering::TakeAndPutBack { tag, multiple }),
        1 => Just(Delivering::Drain),
    ]
}

/// The tags a settlement covers.
fn covered(model: &[u64], tag: u64, multiple: bool) -> Result<Vec<u64>, UnknownTag> {
    if multiple && tag == 0 {
        return Ok(model.to_vec());
    }
    if !model.contains(&tag) {
        return Err(UnknownTag(DeliveryTag(tag)));
    }
    Ok(model
        .iter()
        .copied()
        .filter(|other| *other == tag || multiple && *other < tag)
        .collect())
}

proptest! {
    #[test]
    fn confirms_cover_every_publish_once_and_in_order(steps in vec(confirming(), 0..200)) {
        let mut tracker = ConfirmTracker::new();
        // (position, nack) of every publish ever; how many are confirmed.
        let (mut model, mut confirmed): (Vec<(u64, bool)>, usize) = (Vec::new(), 0);
        for step in steps {
            match step {
                Confirming::Published(position) => {
                    model.push((position, false));
                    prop_assert_eq!(tracker.published(LogPosition(position)), model.len() as u64);
                }
                Confirming::Rejected => {
                    model.push((0, true));
                    prop_assert_eq!(tracker.rejected(), model.len() as u64);
                }
                Confirming::Durable(position) => {
                    let mut confirms: Vec<Confirm> = Vec::new();
                    tracker.durable(LogPosition(position), |confirm| confirms.push(confirm));
                    prop_assert!(confirms.windows(2).all(|pair| pair[0].nack != pair[1].nack));
                    for confirm in confirms {
                        let up_to = usize::try_from(confirm.tag.0).unwrap();
                        prop_assert!(up_to > confirmed);
                        prop_assert_eq!(confirm.multiple, up_to - confirmed > 1);
                        for (waits_for, nack) in &model[confirmed..up_to] {
                            prop_assert!(*waits_for <= position);
                            prop_assert_eq!(*nack, confirm.nack);
                        }
                        confirmed = up_to;
                    }
                    // Whatever is left begins with a publish that is not safe.
                    prop_assert!(model.get(confirmed).is_none_or(|(waits_for, _)| *waits_for > position));
                }
            }
            prop_assert_eq!(tracker.pending(), (model.len() - confirmed) as u64);
            let oldest = model.get(confirmed).map(|(waits_for, _)| *waits_for);
            prop_assert!(tracker.waiting_for().map(|position| position.0) >= oldest);
        }
    }

    #[test]
    fn deliveries_are_settled_like_a_list(steps in vec(delivering(), 0..250)) {
        let mut unacked = Unacked::new();
        let (mut model, mut newest): (Vec<u64>, u64) = (Vec::new(), 0);
        for step in steps {
            match step {
                Delivering::Push { gap } => {
                    newest += gap;
                    unacked.push(DeliveryTag(newest), newest * 10);
                    model.push(newest);
                }
                Delivering::Settle { tag, multiple } => {
                    let mut settled = Vec::new();
                    let result = unacked.settle(DeliveryTag(tag), multiple, |delivery| settled.push(delivery / 10));
                    match covered(&model, tag, multiple) {
                        Ok(tags) => {
                            prop_assert_eq!(result, Ok(()));
                            model.retain(|tag| !tags.contains(tag));
                            prop_assert_eq!(settled, tags);
                        }
                        Err(unknown) => {
                            prop_assert_eq!(result, Err(unknown));
                            prop_assert!(settled.is_empty());
                        }
                    }
                }
                Delivering::TakeAndPutBack { tag, multiple } => {
                    if let Ok(mut taken) = unacked.take(DeliveryTag(tag), multiple) {
                        taken.reverse();
                        unacked.put_back(taken);
                    }
                }
                Delivering::Drain => {
                    let drained: Vec<u64> = unacked.drain().map(|(tag, _)| tag.0).collect();
                    prop_assert_eq!(drained, std::mem::take(&mut model));
                }
            }
            prop_assert_eq!((unacked.len(), unacked.is_empty()), (model.len(), model.is_empty()));
            let tags: Vec<u64> = unacked.iter().map(|(tag, _)| tag.0).collect();
            prop_assert_eq!(&tags, &model);
        }
    }
}
