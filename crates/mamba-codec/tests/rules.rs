//! The rules of the wire, one by one (`spec: wire §2, §8, §9, §11`).

use mamba_codec::{
    Method, RawValue, check_table, content_header, encode_table, frame, method, put_entry,
    scan_properties, table, table_entries, table_get, with_entries,
};
use mamba_types::{FieldTable, FieldValue, Limits};

mod frames {
    use super::*;

    #[track_caller]
    fn check(input: &[u8], expected: &str) {
        let error = frame(input, 4096).expect_err("not refused");
        assert_eq!(error.violation().code(), 501);
        assert_eq!(
            error.violation().reply_text(),
            format!("FRAME_ERROR - {expected}")
        );
    }

    #[test]
    fn too_large_is_refused_before_its_payload_arrived() {
        check(
            &[3, 0, 1, 0, 0, 0x10, 1],
            "type 3, all octets = <<>>: {frame_too_large,4097,4088}",
        );
        check(
            &[3, 0, 1, 255, 255, 255, 255],
            "type 3, all octets = <<>>: {frame_too_large,4294967295,4088}",
        );
    }

    #[test]
    fn the_agreed_frame_size_is_tolerated_as_payload_size() {
        let mut input = vec![3, 0, 1, 0, 0, 0x10, 0];
        input.extend_from_slice(&[7; 4096]);
        assert_eq!(frame(&input, 4096), Ok(None));
        input.push(0xCE);
        let (found, octets) = frame(&input, 4096).unwrap().unwrap();
        assert_eq!((found.payload.len(), octets), (4096, 4104));
    }

    #[test]
    fn frame_end_is_demanded() {
        check(
            &[1, 0, 0, 0, 0, 0, 2, 5, 6, 0xCD],
            "type 1, all octets = <<5,6>>: {invalid_frame_end_marker,205}",
        );
        check(
            &[
                [1, 0, 0, 0, 0, 0, 17].as_slice(),
                b"abcdefghijklmnopq",
                &[0],
            ]
            .concat(),
            "type 1, first 16 octets = <<\"abcdefghijklmnop\">>: {invalid_frame_end_marker,0}",
        );
    }

    #[test]
    fn unknown_types_are_refused() {
        for kind in [0, 4, 5, 6, 7, 9, 65, 255] {
            check(
                &[kind, 0, 0, 0, 0, 0, 0, 0xCE],
                &format!("type {kind}, all octets = <<>>: unknown_frame"),
            );
        }
        check(
            &[8, 0, 0, 0, 0, 0, 1, 9, 0xCE],
            "type 8, all octets = <<\"\\t\">>: unknown_frame",
        );
    }
}

mod methods {
    use super::*;

    #[track_caller]
    fn check(payload: &[u8], code: u16, text: &str, ids: (u16, u16)) {
        let error = method(payload, &Limits::default()).expect_err("not refused");
        let violation = error.violation();
        assert_eq!(
            (
                violation.code(),
                violation.reply_text().as_str(),
                error.class_method()
            ),
            (code, text, ids)
        );
    }

    #[test]
    fn too_few_or_too_many_octets() {
        check(
            &[0, 60, 0, 80, 1, 2],
            501,
            "FRAME_ERROR - cannot decode <<1,2>>",
            (60, 80),
        );
        check(
            &[0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
            501,
            "FRAME_ERROR - cannot decode <<0,0,0,0,0,0,0,1,0,0>>",
            (60, 80),
        );
        check(
            &[0, 20, 0, 10],
            501,
            "FRAME_ERROR - cannot decode <<>>",
            (20, 10),
        );
        check(
            &[0, 10, 0, 51, 1],
            501,
            "FRAME_ERROR - cannot decode <<1>>",
            (10, 51),
        );
        check(&[0], 501, "FRAME_ERROR - cannot decode <<0>>", (0, 0));
    }

    #[test]
    fn long_arguments_are_cut_in_the_text() {
        let payload = [[0, 60, 0, 80].as_slice(), &[200; 5000]].concat();
        let text = method(&payload, &Limits::default())
            .unwrap_err()
            .violation()
            .reply_text();
        assert_eq!(text.len(), 255);
        assert!(text.ends_with("..."));
    }

    #[test]
    fn short_strings_must_be_utf8() {
        check(
            &[0, 10, 0, 40, 1, 0xFF, 0, 0],
            501,
            "FRAME_ERROR - Malformed UTF-8 in shortstr",
            (0, 0),
        );
    }

    #[test]
    fn publish_is_not_checked_for_utf8() {
        let payload = [0, 60, 0, 40, 0, 0, 1, 0xFF, 1, 0xFE, 0];
        assert!(matches!(
            method(&payload, &Limits::default()),
            Ok(Method::Publish(_))
        ));
    }

    #[test]
    fn unknown_ids() {
        check(
            &[0, 99, 0, 1],
            540,
            "NOT_IMPLEMENTED - unknown method: class 99, method 1",
            (99, 1),
        );
        check(
            &[0, 60, 0, 200],
            540,
            "NOT_IMPLEMENTED - unknown method: class 60, method 200",
            (60, 200),
        );
        check(
            &[0, 60, 0, 22],
            540,
            "NOT_IMPLEMENTED - unknown method: class 60, method 22",
            (60, 22),
        );
    }

    #[test]
    fn tables_that_cannot_be_parsed() {
        let declare = |table: &[u8]| {
            let mut payload = vec![0, 50, 0, 10, 0, 0, 1, b'q', 0];
            payload.extend_from_slice(&u32::try_from(table.len()).unwrap().to_be_bytes());
            payload.extend_from_slice(table);
            payload
        };
        check(
            &declare(&[1, b'a', b'?']),
            502,
            "SYNTAX_ERROR - field table has a value of unknown type 63 (its ASCII code)",
            (50, 10),
        );
        check(
            &declare(&[1, b'a', b'S', 0, 0, 0, 9]),
            502,
            "SYNTAX_ERROR - field table ends inside an entry",
            (50, 10),
        );
        check(
            &declare(&[1, 0xFF, b'V']),
            502,
            "SYNTAX_ERROR - field table has a name that is not UTF-8",
            (50, 10),
        );
        assert!(method(&declare(&[1, b'a', b'V']), &Limits::default()).is_ok());
    }
}

mod tables {
    use super::*;

    fn nested(levels: usize) -> FieldTable {
        let mut table = FieldTable::default();
        for level in 0..levels {
            let value = if level % 2 == 0 {
                FieldValue::FieldTable(table)
            } else {
                FieldValue::FieldArray(vec![FieldValue::FieldTable(table)].into())
            };
            table = FieldTable::default();
            table.insert("n".into(), value);
        }
        table
    }

    #[test]
    fn nesting_has_a_limit() {
        let limits = Limits {
            table_depth_max: 3,
            ..Limits::default()
        };
        assert!(check_table(&encode_table(&nested(2)), &limits).is_ok());
        let error = table(&encode_table(&nested(3)), &limits).unwrap_err();
        assert_eq!(
            error.to_string(),
            "field table is nested deeper than 3 levels"
        );
    }

    #[test]
    fn the_deepest_nesting_fits_a_small_stack() {
        let limits = Limits {
            table_depth_max: usize::MAX,
            ..Limits::default()
        };
        let octets = encode_table(&nested(85));
        let mut method_payload = vec![0, 50, 0, 10, 0, 0, 1, b'q', 0];
        method_payload.extend_from_slice(&u32::try_from(octets.len()).unwrap().to_be_bytes());
        method_payload.extend_from_slice(&octets);
        std::thread::Builder::new()
            .stack_size(2 * 1024 * 1024)
            .spawn(move || {
                assert!(table(&octets, &limits).is_ok());
                assert!(method(&method_payload, &limits).is_ok());
                let deeper = encode_table(&nested(86));
                assert!(table(&deeper, &limits).is_err());
            })
            .unwrap()
            .join()
            .unwrap();
    }

    #[test]
    fn every_tag() {
        let limits = Limits::default();
        for tag in 0..=255u8 {
            let octets = [[1, b'k', tag].as_slice(), &[0; 8]].concat();
            let sizes = (0..=8).filter(|size| check_table(&octets[..3 + size], &limits).is_ok());
            let size = sizes.min();
            let expected = match tag {
                b't' | b'b' | b'B' => Some(1),
                b's' | b'u' => Some(2),
                b'I' | b'i' | b'f' | b'S' | b'x' | b'A' | b'F' => Some(4),
                b'D' => Some(5),
                b'l' | b'L' | b'd' | b'T' => Some(8),
                b'V' => Some(0),
                _ => None,
            };
            assert_eq!(size, expected, "tag {tag}");
        }
    }

    #[test]
    fn upper_case_l_comes_back_as_lower_case_l() {
        let octets = [1, b'k', b'L', 255, 255, 255, 255, 255, 255, 255, 255];
        let decoded = table(&octets, &Limits::default()).unwrap();
        assert_eq!(decoded.inner()["k"], FieldValue::LongLongInt(-1));
        assert_eq!(encode_table(&decoded)[2], b'l');
    }

    #[test]
    fn floats_that_are_no_numbers_pass() {
        let octets = [[1, b'k', b'd'].as_slice(), &f64::NAN.to_be_bytes()].concat();
        let decoded = table(&octets, &Limits::default()).unwrap();
        assert_eq!(encode_table(&decoded), octets);
    }

    #[test]
    fn entries_are_set_in_their_place_and_others_copied() {
        let number = |octets| RawValue { tag: b'B', octets };
        let nested = b"\x01zS\0\0\0\x01v\x01aV";
        let nested = RawValue {
            tag: b'F',
            octets: nested,
        };
        let mut before = Vec::new();
        for (name, value) in [("b", number(&[1])), ("d", nested), ("e", number(&[2]))] {
            put_entry(&mut before, name.as_bytes(), value);
        }
        let own: [(&[u8], RawValue<'_>); 4] = [
            (b"a", number(&[7])),
            (b"c", number(&[8])),
            (b"e", number(&[9])),
            (b"f", number(&[10])),
        ];
        let after = with_entries(&before, &own);
        let names: Vec<&[u8]> = table_entries(&after).map(|(name, _)| name).collect();
        assert_eq!(names, [b"a", b"b", b"c", b"d", b"e", b"f"]);
        assert_eq!(table_get(&after, b"d"), Some(nested));
        assert_eq!(table_get(&after, b"e"), Some(number(&[9])));
        assert!(check_table(&after, &Limits::default()).is_ok());
    }
}

mod contents {
    use super::*;

    #[track_caller]
    fn check(properties: &[u8], expected: &str) {
        let error = scan_properties(properties, &Limits::default()).expect_err("not refused");
        assert_eq!(
            error.violation().reply_text(),
            format!("SYNTAX_ERROR - {expected}")
        );
        assert_eq!(error.violation().code(), 502);
    }

    #[test]
    fn malformed_properties() {
        check(&[], "message properties end inside the flags");
        check(&[0x80], "message properties end inside the flags");
        check(&[0x80, 0], "message properties end inside content-type");
        check(&[0x10, 0], "message properties end inside delivery-mode");
        check(&[0, 0x40, 1], "message properties end inside timestamp");
        check(
            &[0x20, 0, 0, 0, 0, 9],
            "message properties end inside headers",
        );
        check(
            &[0x20, 0, 0, 0, 0, 3, 1, b'a', b'?'],
            "message property headers: field table has a value of unknown type 63 (its ASCII code)",
        );
        check(
            &[0, 0, 7],
            "message properties are followed by 1 octets that belong to none of them",
        );
    }

    #[test]
    fn absent_is_not_empty() {
        let properties = scan_properties(&[0x20, 0, 0, 0, 0, 0], &Limits::default()).unwrap();
        assert_eq!(properties.headers, Some(&[][..]));
        assert_eq!(properties.content_type, None);
    }

    #[test]
    fn reserved_flags_are_ignored() {
        let properties = scan_properties(&[0x10, 3, 2], &Limits::default()).unwrap();
        assert!(properties.persistent() && properties.reserved_flags);
    }

    #[test]
    fn header_too_short() {
        let error = content_header(&[0; 13]).unwrap_err();
        assert_eq!(
            error.violation().reply_text(),
            "FRAME_ERROR - type 2, all octets = <<0,0,0,0,0,0,0,0,0,0,0,0,0>>: unknown_frame"
        );
    }
}
