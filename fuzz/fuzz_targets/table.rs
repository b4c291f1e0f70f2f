//! Field tables: what the check accepts must decode, encode and decode alike.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mamba_codec::{check_table, encode_table, table, table_entries, table_get};
use mamba_types::Limits;

fuzz_target!(|octets: &[u8]| {
    let limits = Limits::default();
    let checked = check_table(octets, &limits);
    let decoded = table(octets, &limits);
    if decoded.is_ok() {
        assert!(checked.is_ok());
    }
    let entries = table_entries(octets).count();
    if checked.is_ok() {
        for (name, value) in table_entries(octets) {
            assert!(table_get(octets, name).is_some());
            let _ = (
                value.type_word(),
                value.integer(),
                value.boolean(),
                value.value(&limits),
            );
            if let Some(items) = value.array() {
                let _ = items.count();
            }
        }
    }
    if let Ok(decoded) = decoded {
        assert!(decoded.inner().len() <= entries);
        let encoded = encode_table(&decoded);
        let again = table(&encoded, &limits).expect("what was encoded can be decoded");
        assert_eq!(format!("{again:?}"), format!("{decoded:?}"));
    }
});
