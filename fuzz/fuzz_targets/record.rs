//! Message records as a disk may return them: what the check accepts can be used.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mamba_types::Message;

fuzz_target!(|octets: &[u8]| {
    check(octets);
    // A checksum is hard to guess: repair it and look again.
    if octets.len() >= 32 {
        let mut repaired = octets.to_vec();
        let length = u32::try_from(octets.len()).expect("inputs are small");
        repaired[..4].copy_from_slice(&length.to_le_bytes());
        mamba_types::message::finish(&mut repaired, 0);
        check(&repaired);
    }
});

fn check(octets: &[u8]) {
    if let Ok(length) = Message::check(octets) {
        let message = Message::from_record(octets[..length].to_vec().into());
        let parts = 32 + message.address().len() + message.header().len() + message.body().len();
        assert_eq!(parts, length);
        assert_eq!(
            message.exchange().len() + message.routing_key().len() + 2,
            message.address().len()
        );
        assert_eq!(message.body_len(), message.body().len());
        assert_eq!(message.body_shared(), message.body());
        let _ = (
            message.persistent(),
            message.priority(),
            message.accepted_at_ms(),
        );
    }
}
