//! Frames and the methods in them: cut the input into frames, decode every method, and write what was decoded again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mamba_codec::{FrameKind, Method, class_method, frame, method, write_method};
use mamba_types::{ChannelId, Limits};

fuzz_target!(|input: &[u8]| {
    let limits = Limits::default();
    let mut rest = input;
    loop {
        match frame(rest, 131_072) {
            Ok(Some((found, octets))) => {
                assert!(octets <= rest.len() && octets == found.payload.len() + 8);
                if found.kind == FrameKind::Method {
                    check_method(found.payload, &limits);
                }
                let _ = found.describe();
                rest = &rest[octets..];
            }
            Ok(None) => break,
            Err(error) => {
                assert!(error.violation().reply_text().len() <= 255);
                break;
            }
        }
    }
    // Methods deserve more attention than the frames around them.
    check_method(input, &limits);
});

fn check_method(payload: &[u8], limits: &Limits) {
    match method(payload, limits) {
        Ok(Method::Other(decoded)) => {
            let mut again = Vec::new();
            write_method(&mut again, ChannelId(1), &decoded);
            let (found, _) = frame(&again, u32::MAX)
                .expect("what was written is a frame")
                .expect("what was written is complete");
            assert_eq!(class_method(found.payload), class_method(payload));
            let Ok(Method::Other(reread)) = method(found.payload, limits) else {
                panic!("what was written cannot be read");
            };
            // Floats that are not numbers differ from themselves: compare what is printed.
            assert_eq!(format!("{reread:?}"), format!("{decoded:?}"));
        }
        Ok(_) => assert_eq!(payload[..2], [0, 60]),
        Err(error) => assert!(error.violation().reply_text().len() <= 255),
    }
}
