//! What holds for every input.

mod talk;

use mamba_types::Limits;
use proptest::collection::vec;
use proptest::prelude::*;
use talk::*;

/// A piece of conversation after the handshake, sensible or not.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let number = 0u16..4;
    prop_oneof![
        6 => number.clone().prop_map(open_channel),
        8 => (number.clone(), vec(0usize..200, 0..4)).prop_map(|(number, bodies)| publish(number, &bodies)),
        1 => number.clone().prop_map(publish_method),
        1 => (number.clone(), 0u64..300).prop_map(|(number, size)| header_frame(number, size)),
        1 => (number.clone(), 0usize..300).prop_map(|(number, len)| body_frame(number, len)),
        2 => number.clone().prop_map(close_channel),
        1 => number.clone().prop_map(channel_close_ok),
        2 => Just(raw_frame(8, 0, &[])),
        1 => Just(close()),
        1 => Just(close_ok()),
        2 => (number.clone(), 0u16..125, vec(any::<u8>(), 0..30)).prop_map(|(number, id, arguments)| {
            raw_frame(1, number, &[&[0, 60][..], &id.to_be_bytes(), &arguments].concat())
        }),
        1 => (any::<u8>(), number, vec(any::<u8>(), 0..30))
            .prop_map(|(kind, number, payload)| raw_frame(kind, number, &payload)),
    ]
}

fn small() -> Limits {
    Limits {
        message_size_max: 500,
        unfinished_bytes_max: 2000,
        ..Limits::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_split_of_a_conversation_means_the_same(
        pieces in vec(piece(), 0..25),
        cuts in vec(1usize..300, 1..40),
    ) {
        let conversation = [handshake(131_072, 3, 60), pieces.concat()].concat();
        let mut whole = Talk::new(small());
        whole.say(&conversation);
        let mut split = Talk::new(small());
        let mut cuts = cuts.into_iter().cycle();
        let mut rest = &conversation[..];
        while !rest.is_empty() {
            let cut = cuts.next().unwrap_or(1).min(rest.len());
            split.say(&rest[..cut]);
            rest = &rest[cut..];
        }
        prop_assert_eq!(&whole.events, &split.events);
        prop_assert_eq!(whole.flush(), split.flush());
        prop_assert_eq!(whole.session.state(), split.session.state());
        prop_assert_eq!(whole.session.channels_open(), split.session.channels_open());
    }

    #[test]
    fn no_octets_panic_or_fill_the_memory(
        start in 0usize..5,
        octets in vec(any::<u8>(), 0..400),
        pieces in vec(piece(), 0..10),
    ) {
        let steps = [HEADER.to_vec(), login(), tune_ok(131_072, 3, 60), open(), open_channel(1)];
        let mut talk = Talk::new(small());
        for step in &steps[..start] {
            talk.say(step);
        }
        talk.say(&pieces.concat()).say(&octets);
        prop_assert!(talk.input.len() <= 131_072 + 8);
        // One body frame may arrive before the sum is looked at.
        prop_assert!(talk.held_max <= 2_000_000);
        let closings = talk.events.iter().filter(|event| event.starts_with("closing")).count();
        prop_assert!(closings <= 1);
    }

    #[test]
    fn a_bit_flipped_anywhere_does_no_harm(
        pieces in vec(piece(), 0..6),
        at in any::<proptest::sample::Index>(),
        bit in 0u8..8,
    ) {
        let mut conversation = [handshake(131_072, 3, 60), pieces.concat()].concat();
        let at = at.index(conversation.len());
        conversation[at] ^= 1 << bit;
        let mut talk = Talk::new(small());
        talk.say(&conversation);
        prop_assert!(talk.input.len() <= 131_072 + 8);
    }
}
