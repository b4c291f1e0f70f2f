//! Selectors: no panic on any text or message, and a canonical text that means the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mamba_filter::{Filter, MessageView, TEXT_BYTES_MAX};
use mamba_types::{Message, RecordMeta};

fuzz_target!(|input: (&str, &[u8], &[u8])| {
    let (text, address, header) = input;
    let filter = match Filter::parse(text) {
        Ok(filter) => filter,
        Err(error) => {
            assert!(error.message.len() < 200);
            assert!((1..=text.chars().count() + 1).contains(&error.position));
            return;
        }
    };
    let short = &address[..address.len().min(255)];
    let message = Message::build(RecordMeta::default(), short, short, header, b"");
    let matched = filter.matches(&MessageView::new(&message));
    if filter.canonical().len() <= TEXT_BYTES_MAX {
        let again = Filter::parse(filter.canonical()).expect("a canonical text is a text");
        assert_eq!(again, filter);
        assert_eq!(again.matches(&MessageView::new(&message)), matched);
    }
});
