//! Content headers: scanning, and rewriting what was accepted.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mamba_codec::{Change, HeaderChange, content_header, rewrite_header, scan_properties};
use mamba_types::Limits;

fuzz_target!(|payload: &[u8]| {
    let limits = Limits::default();
    let change = HeaderChange {
        headers: Change::Set(b"\x01kt\x01"),
        reply_to: Change::Set(b"answers"),
        expiration: Change::Remove,
    };
    let changed = rewrite_header(payload, &change);
    let Ok(header) = content_header(payload) else {
        assert_eq!(changed, payload);
        return;
    };
    match scan_properties(header.properties, &limits) {
        Ok(before) => {
            let read = content_header(&changed).expect("a rewritten header is a header");
            assert_eq!(
                (read.class, read.body_size),
                (header.class, header.body_size)
            );
            let mut after = scan_properties(read.properties, &limits).expect("and well-formed");
            assert_eq!(after.headers, Some(&b"\x01kt\x01"[..]));
            assert_eq!(after.reply_to, Some(&b"answers"[..]));
            assert_eq!(after.expiration, None);
            assert!(!after.reserved_flags);
            after.headers = before.headers;
            after.reply_to = before.reply_to;
            after.expiration = before.expiration;
            after.reserved_flags = before.reserved_flags;
            assert_eq!(after, before);
            if !before.reserved_flags {
                assert_eq!(rewrite_header(payload, &HeaderChange::default()), payload);
            }
        }
        Err(error) => assert!(error.violation().reply_text().len() <= 255),
    }
});
