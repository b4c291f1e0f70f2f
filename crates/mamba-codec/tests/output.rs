//! The output buffer against a plain list of octets.

use bytes::Bytes;
use mamba_codec::Output;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<u8>),
    Share(Vec<u8>),
    Advance(usize),
    Shrink,
}

fn step() -> impl Strategy<Value = Step> {
    use proptest::collection::vec;
    prop_oneof![
        vec(any::<u8>(), 0..300).prop_map(Step::Append),
        vec(any::<u8>(), 0..300).prop_map(Step::Share),
        (0usize..700).prop_map(Step::Advance),
        Just(Step::Shrink),
    ]
}

proptest! {
    #[test]
    fn octets_leave_in_the_order_they_came(steps in proptest::collection::vec(step(), 0..200)) {
        let (mut out, mut model) = (Output::new(), Vec::new());
        for step in steps {
            match step {
                Step::Append(octets) => {
                    out.buffer().extend_from_slice(&octets);
                    model.extend_from_slice(&octets);
                }
                Step::Share(octets) => {
                    model.extend_from_slice(&octets);
                    out.push_shared(Bytes::from(octets));
                }
                Step::Advance(count) => {
                    let count = count.min(model.len());
                    out.advance(count);
                    model.drain(..count);
                }
                Step::Shrink => out.shrink(),
            }
            prop_assert_eq!((out.len(), out.is_empty()), (model.len(), model.is_empty()));
            let mut slices = Vec::new();
            out.slices(&mut slices);
            prop_assert!(slices.len() <= 64);
            prop_assert!(slices.iter().all(|slice| !slice.is_empty()));
            prop_assert_eq!(slices.is_empty(), model.is_empty());
            let flat: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            prop_assert!(model.starts_with(&flat));
            if slices.len() < 63 {
                prop_assert_eq!(flat.len(), model.len());
            }
        }
    }
}

#[test]
fn a_slow_reader_does_not_make_the_buffer_grow() {
    let mut out = Output::new();
    out.buffer().extend_from_slice(&[0; 100_000]);
    for _ in 0..1000 {
        out.buffer().extend_from_slice(&[0; 10_000]);
        out.advance(10_000);
    }
    assert_eq!(out.len(), 100_000);
    assert!(out.buffer().capacity() < 1_000_000);
}

#[test]
fn memory_of_a_burst_is_given_back() {
    let mut out = Output::new();
    out.buffer().extend_from_slice(&vec![0; 10_000_000]);
    out.advance(10_000_000);
    assert!(out.buffer().capacity() >= 10_000_000, "kept at first");
    for _ in 0..40 {
        out.buffer().extend_from_slice(&[0; 100]);
        out.advance(100);
    }
    assert!(out.buffer().capacity() < 200_000);
    out.shrink();
    assert_eq!(out.buffer().capacity(), 0);
}
