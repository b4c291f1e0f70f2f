//! The language by tables: what parses to what, what is refused with which words, and what matches.

use std::collections::BTreeMap;

use mamba_filter::{DEPTH_MAX, Filter, Properties, Property, TERMS_MAX, TEXT_BYTES_MAX, Value};
use proptest::prelude::*;

/// A message of plain values, which can be told to refuse headers.
#[derive(Default)]
struct Message {
    properties: BTreeMap<Property, Value<'static>>,
    headers: BTreeMap<&'static str, Value<'static>>,
    headers_forbidden: bool,
}

impl Properties for Message {
    fn property(&self, property: Property) -> Option<Value<'_>> {
        self.properties.get(&property).copied()
    }

    fn header(&self, name: &str) -> Option<Value<'_>> {
        assert!(!self.headers_forbidden, "header {name} was asked for");
        self.headers.get(name).copied()
    }
}

fn message() -> Message {
    let text = |text: &'static str| Value::Text(text.as_bytes());
    Message {
        properties: BTreeMap::from([
            (Property::Priority, Value::Integer(7)),
            (Property::DeliveryMode, Value::Integer(2)),
            (Property::ContentType, text("application/json")),
            (Property::RoutingKey, text("orders.eu.new")),
            (Property::Exchange, text("orders")),
        ]),
        headers: BTreeMap::from([
            ("region", text("eu")),
            ("weight", Value::Decimal(2.5)),
            ("count", Value::Integer(10)),
            ("zero", Value::Integer(0)),
            ("least", Value::Integer(i64::MIN)),
            ("urgent", Value::Boolean(true)),
            ("late", Value::Boolean(false)),
            ("list", Value::Opaque),
            ("octets", Value::Text(b"\xff\xfe")),
            ("not a number", Value::Decimal(f64::NAN)),
            ("x-kind", text("a'b")),
            ("in", Value::Integer(1)),
            ("", Value::Integer(2)),
        ]),
        headers_forbidden: false,
    }
}

#[track_caller]
fn filter(text: &str) -> Filter {
    Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Whether the expression holds (`Some(true)`), its denial does (`Some(false)`), or neither.
#[track_caller]
fn check(text: &str, expected: impl Into<Option<bool>>) {
    let message = message();
    let holds = filter(text).matches(&message);
    let denied = filter(&format!("NOT ({text})")).matches(&message);
    let outcome = match (holds, denied) {
        (true, false) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
        (true, true) => panic!("{text} and its denial hold"),
    };
    assert_eq!(outcome, expected.into(), "{text}");
}

#[track_caller]
fn canonical(text: &str, expected: &str) {
    let parsed = filter(text);
    assert_eq!(parsed.canonical(), expected);
    assert_eq!(filter(expected), parsed);
}

#[track_caller]
fn refused(text: &str, expected: &str) {
    let error = Filter::parse(text).expect_err(text);
    assert_eq!(error.message, format!("x-filter: expected {expected}"));
    assert_eq!(error.to_string(), error.message);
    assert!(
        error
            .message
            .contains(&format!("at position {},", error.position))
    );
}

#[test]
fn comparisons() {
    check("priority > 5 AND headers.region = 'eu'", true);
    check("priority = 7", true);
    check("priority <> 7", false);
    check("priority != 7", false);
    check("priority < 7", false);
    check("priority <= 7", true);
    check("priority >= 8", false);
    check("7 = priority", true);
    check("priority = 7.0", true);
    check("headers.weight > 2", true);
    check("headers.weight < 25e-1", false);
    check("headers.region = 'EU'", false);
    check("headers.region < 'f'", true);
    check("headers['x-kind'] = 'a''b'", true);
    check("headers.octets = 'a'", false);
    check("exchange = 'orders'", true);
    check("headers.in = 1", true);
    check("headers[''] = 2", true);
    check("headers.urgent", true);
    check("headers.late", false);
    check("headers.urgent = TRUE", true);
    check("headers.urgent <> headers.late", true);
    check("(priority = 7) = headers.urgent", true);
    check("TRUE", true);
    check("FALSE", false);
}

#[test]
fn what_cannot_be_compared_is_unknown() {
    check("headers.absent = 1", None);
    check("headers.absent <> 1", None);
    check("headers.region = 1", None);
    check("headers.region <> 1", None);
    check("headers.count", None);
    check("headers.list = headers.list", None);
    check("headers['not a number'] = headers['not a number']", None);
    check("headers.count = NULL", None);
    check("NULL", None);
    check("NULL = NULL", None);
    check("message_id = 'a'", None);
}

#[test]
fn three_values() {
    check("NULL AND TRUE", None);
    check("NULL AND FALSE", false);
    check("FALSE AND NULL", false);
    check("NULL OR TRUE", true);
    check("NULL OR FALSE", None);
    check("NOT NULL", None);
    check("NOT NOT TRUE", true);
    check("FALSE AND FALSE OR TRUE", true);
    check("FALSE AND (FALSE OR TRUE)", false);
    check("NOT FALSE AND FALSE", false);
}

#[test]
fn arithmetic() {
    check("1 + 2 * 3 = 7", true);
    check("(1 + 2) * 3 = 9", true);
    check("10 - 3 - 2 = 5", true);
    check("7 / 2 = 3", true);
    check("7 / 2.0 = 3.5", true);
    check("-7 / 2 = -3", true);
    check("-priority = -7", true);
    check("- -priority = +7", true);
    check("2 - -2 = 4", true);
    check("headers.count * headers.weight = 25", true);
    check("headers.count / headers.zero = 1", None);
    check("headers.count / 0.0 = 1", None);
    check("-headers.least > 0", None);
    check("headers.least - 1 < 0", None);
    check("headers.least = -9223372036854775808", true);
    check("-(-9223372036854775808) > 0", None);
    check("1e308 * 10 > 0", None);
    check("headers.region + 1 = 1", None);
    check("-headers.region = 1", None);
}

#[test]
fn null_in_between_and_like() {
    check("headers.absent IS NULL", true);
    check("headers.absent IS NOT NULL", false);
    check("headers.list IS NOT NULL", true);
    check("priority IS NULL", false);
    check("(headers.absent = 1) IS NULL", true);

    check("headers.region IN ('uk', 'eu')", true);
    check("headers.region NOT IN ('uk', 'eu')", false);
    check("headers.region IN ('uk')", false);
    check("headers.region IN (1, 2)", None);
    check("headers.region NOT IN (1)", None);
    check("headers.absent NOT IN (1)", None);
    check("priority IN (1, -2, 7.0)", true);
    check("headers.urgent IN (TRUE)", true);

    check("priority BETWEEN 5 AND 7", true);
    check("priority NOT BETWEEN 5 AND 7", false);
    check("priority BETWEEN 8 AND 9", false);
    check("priority BETWEEN 8 AND NULL", false);
    check("priority BETWEEN 5 AND NULL", None);
    check(
        "priority BETWEEN headers.zero AND headers.count AND TRUE",
        true,
    );
    check("headers.region BETWEEN 'ea' AND 'ez'", true);

    check("routing_key LIKE 'orders.%.new'", true);
    check("routing_key NOT LIKE 'orders.%.new'", false);
    check("routing_key LIKE 'orders.__.new'", true);
    check("routing_key LIKE 'orders._.new'", false);
    check("routing_key LIKE '%.eu'", false);
    check("headers['x-kind'] LIKE '_''_'", true);
    check("headers.region LIKE 'e!%' ESCAPE '!'", false);
    check("headers.count LIKE '1%'", None);
    check("headers.octets LIKE '%'", None);
}

#[test]
fn headers_are_asked_for_only_when_named_and_needed() {
    let message = Message {
        headers_forbidden: true,
        ..message()
    };
    assert!(filter("priority > 5 AND exchange LIKE 'o%'").matches(&message));
    assert!(!filter("priority > 7 AND headers.a = 1").matches(&message));
    assert!(filter("priority > 5 OR headers.a = 1").matches(&message));
    assert_eq!(filter("priority > 5").headers(), Vec::<&str>::new());
    assert_eq!(
        filter("headers.b BETWEEN 1 AND headers['c d'] OR NOT -headers.a IN (1)").headers(),
        ["b", "c d", "a"]
    );
}

#[test]
fn canonical_texts() {
    canonical(
        "priority>5 and headers.region='eu'",
        "priority > 5 AND headers.region = 'eu'",
    );
    canonical("((priority) != (5))", "priority <> 5");
    canonical("TRUE AND (FALSE AND NULL)", "TRUE AND FALSE AND NULL");
    canonical("TRUE and (false or null)", "TRUE AND (FALSE OR NULL)");
    canonical("(TRUE AND FALSE) OR NULL", "TRUE AND FALSE OR NULL");
    canonical("not (headers.a = 1)", "NOT headers.a = 1");
    canonical("not (TRUE AND TRUE)", "NOT (TRUE AND TRUE)");
    canonical("headers['a'] = 'it''s'", "headers.a = 'it''s'");
    canonical("headers['a b'] IS not null", "headers['a b'] IS NOT NULL");
    canonical("headers['x''y'] = 01.50", "headers['x''y'] = 1.5");
    canonical("1-(2-3)=1-2-3", "1 - (2 - 3) = 1 - 2 - 3");
    canonical("(1*2)+3 = 1*(2+3)", "1 * 2 + 3 = 1 * (2 + 3)");
    canonical("-(headers.a + 1) = - - -5", "-(headers.a + 1) = -5");
    canonical("priority IN (3,1,2,1,1.0)", "priority IN (1, 2, 3)");
    canonical("priority not in(1)", "priority NOT IN (1)");
    canonical("type like 'a' escape '!'", "type LIKE 'a' ESCAPE '!'");
    canonical(
        "priority not between 1 and 2",
        "priority NOT BETWEEN 1 AND 2",
    );
    canonical("(priority = 1) = TRUE", "(priority = 1) = TRUE");
    canonical("- -9223372036854775808 = 1", "--9223372036854775808 = 1");
    canonical("priority = 1e300", "priority = 1e300");
    canonical("timestamp = 0.000001", "timestamp = 1e-6");
}

#[test]
fn complaints() {
    refused(
        "priority > 5 AND",
        "a value at position 17, found end of text",
    );
    refused("", "a value at position 1, found end of text");
    refused("   ", "a value at position 4, found end of text");
    refused("priority >", "a value at position 11, found end of text");
    refused("priority = = 5", "a value at position 12, found '='");
    refused("priority == 5", "a value at position 11, found '='");
    refused("AND", "a value at position 1, found 'AND'");
    refused(
        "prority > 5",
        "a value, a property such as priority, or headers['NAME'] at position 1, found 'prority'",
    );
    refused(
        "headers.x-match = 'a'",
        "a value, a property such as priority, or headers['NAME'] at position 11, found 'match'",
    );
    refused(
        "priority > 5 priority",
        "an operator or the end of the expression at position 14, found 'priority'",
    );
    refused("(priority > 5", "')' at position 14, found end of text");
    refused("priority", "a condition at position 1, found a number");
    refused("TRUE AND 'a'", "a condition at position 10, found a string");
    refused("5 OR TRUE", "a condition at position 1, found a number");
    refused("NOT priority", "a condition at position 5, found a number");
    refused(
        "priority = 'high'",
        "a number at position 12, found a string",
    );
    refused("'é' = 5", "a string at position 7, found a number");
    refused("1 + 'a' = 2", "a number at position 5, found a string");
    refused(
        "content_type * 2 = 2",
        "a number at position 1, found a string",
    );
    refused("-'a' = 1", "a number at position 2, found a string");
    refused(
        "(1 = 1) + 1 = 2",
        "a number at position 1, found a condition",
    );
    refused(
        "priority LIKE 'a'",
        "a string at position 1, found a number",
    );
    refused(
        "type LIKE 5",
        "a pattern in quotes at position 11, found '5'",
    );
    refused(
        "type LIKE 'a' ESCAPE ''",
        "one character in quotes at position 22, found ''",
    );
    refused(
        "type LIKE 'a' ESCAPE 'ab'",
        "one character in quotes at position 22, found 'ab'",
    );
    refused(
        "type LIKE 'a!b' ESCAPE '!'",
        "a pattern whose escape character precedes '%', '_' or itself at position 11, found 'a!b'",
    );
    refused(
        &format!("type LIKE '{}'", "a".repeat(257)),
        "a pattern of at most 256 characters at position 11, found a longer one",
    );
    refused(
        "priority NOT 5",
        "LIKE, IN or BETWEEN at position 14, found '5'",
    );
    refused("priority IS 5", "NULL at position 13, found '5'");
    refused("priority IN 5", "'(' at position 13, found '5'");
    refused("priority IN ()", "a value at position 14, found ')'");
    refused("priority IN (1 2)", "')' at position 16, found '2'");
    refused(
        "priority IN (1, 'a')",
        "a number at position 17, found a string",
    );
    refused(
        "headers.a IN (1, 'a')",
        "a number at position 18, found a string",
    );
    refused(
        "headers.a IN (headers.b)",
        "a number, a string, TRUE or FALSE at position 15, found something to compute",
    );
    refused(
        "headers.a IN (NULL)",
        "a value that can be equal to something (use IS NULL) at position 15, found NULL",
    );
    refused(
        "priority BETWEEN 1",
        "AND at position 19, found end of text",
    );
    refused(
        "priority BETWEEN 1 AND 'a'",
        "a number at position 24, found a string",
    );
    refused(
        "headers.a BETWEEN 'a' AND 1",
        "a string at position 27, found a number",
    );
    refused(
        "headers = 1",
        "'.' or '[' and a header's name at position 9, found '='",
    );
    refused(
        "headers.'a' = 1",
        "a header's name (others than words: headers['NAME']) at position 9, found 'a'",
    );
    refused(
        "headers[a] = 1",
        "a header's name in quotes at position 9, found 'a'",
    );
    refused("headers['a' = 1", "']' at position 13, found '='");
    refused(
        "a = 'open",
        "a closing quote for the string at position 5, found end of text",
    );
    refused(
        "priority = 1.",
        "a digit after the decimal point at position 14, found end of text",
    );
    refused(
        "priority = 1e+",
        "a digit in the exponent at position 15, found end of text",
    );
    refused(
        "priority = 5 ; 6",
        "a value or an operator at position 14, found ';'",
    );
    refused(
        "priority = é",
        "a value or an operator at position 12, found 'é'",
    );
    refused(
        "priority = 9223372036854775808",
        "a whole number up to 9223372036854775807 at position 12, found a larger one",
    );
    refused(
        "priority = 99999999999999999999",
        "a whole number up to 9223372036854775807 at position 12, found a larger one",
    );
    refused(
        "priority = 1e309",
        "a number up to 1.7976931348623157e308 at position 12, found a larger one",
    );
    refused(
        "a_name_that_is_much_too_long_to_be_shown = 1",
        "a value, a property such as priority, or headers['NAME'] at position 1, \
         found 'a_name_that_is_much_too_...'",
    );
}

#[test]
fn limits() {
    let deep = |depth| format!("{}TRUE{}", "(".repeat(depth), ")".repeat(depth));
    filter(&deep(DEPTH_MAX));
    refused(
        &deep(DEPTH_MAX + 1),
        "no more than 32 levels of nesting, ending at position 34, found another",
    );
    Filter::parse(&"(".repeat(TEXT_BYTES_MAX)).unwrap_err();
    Filter::parse(&"NOT ".repeat(TEXT_BYTES_MAX / 4)).unwrap_err();
    Filter::parse(&"- ".repeat(TEXT_BYTES_MAX / 2)).unwrap_err();

    let many = |terms| format!("priority IN ({})", vec!["1"; terms - 1].join(","));
    filter(&many(TERMS_MAX));
    refused(
        &many(TERMS_MAX + 1),
        "no more than 256 values, ending at position 524, found another",
    );
    let sum = |terms| format!("1 = {}", vec!["1"; terms - 1].join("+"));
    let longest = filter(&sum(TERMS_MAX));
    assert_eq!(filter(longest.canonical()), longest);
    Filter::parse(&sum(TERMS_MAX + 1)).unwrap_err();

    let padded = |len: usize| format!("TRUE{}", " ".repeat(len - 4));
    filter(&padded(TEXT_BYTES_MAX));
    refused(
        &padded(TEXT_BYTES_MAX + 1),
        "an expression of at most 4096 bytes, ending at position 4097, found more",
    );
}

/// Numbers as an expression writes them.
fn numeric(depth: u32) -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        (0..1000_u32).prop_map(|number| number.to_string()),
        any::<f64>()
            .prop_filter("finite", |number| number.is_finite())
            .prop_map(|number| format!("{number:?}")),
        Just("priority".to_owned()),
        Just("headers.n".to_owned()),
        Just("headers['n n']".to_owned()),
    ];
    leaf.prop_recursive(depth, 16, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| format!("-({inner})")),
            inner.clone().prop_map(|inner| format!("- {inner}")),
            (inner.clone(), "[-+*/]", inner.clone())
                .prop_map(|(left, operator, right)| format!("({left}){operator}({right})")),
            (inner.clone(), "[-+*/]", inner)
                .prop_map(|(left, operator, right)| format!("{left} {operator} {right}")),
        ]
    })
    .boxed()
}

fn condition() -> BoxedStrategy<String> {
    let numbers = || numeric(3);
    let negation = || prop_oneof![Just(""), Just(" NOT"), Just(" not")];
    let leaf = prop_oneof![
        (
            numbers(),
            prop_oneof![Just("="), Just("<>"), Just("<"), Just(">=")],
            numbers()
        )
            .prop_map(|(left, operator, right)| format!("{left}{operator}{right}")),
        (negation(), "[a-c%_']{0,6}")
            .prop_map(|(not, pattern)| format!("type{not} LIKE '{}'", pattern.replace('\'', "''"))),
        (
            numbers(),
            negation(),
            prop::collection::vec(any::<i16>(), 1..5)
        )
            .prop_map(|(value, not, list)| {
                let list: Vec<_> = list.iter().map(ToString::to_string).collect();
                format!("{value}{not} IN ({})", list.join(","))
            }),
        (numbers(), negation(), numbers(), numbers())
            .prop_map(|(value, not, low, high)| format!("{value}{not} BETWEEN {low} AND {high}")),
        (numbers(), negation()).prop_map(|(value, not)| format!("{value} IS{not} NULL")),
        Just("headers.flag".to_owned()),
        Just("TRUE".to_owned()),
        Just("NULL".to_owned()),
    ];
    leaf.prop_recursive(4, 16, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| format!("NOT ({inner})")),
            inner.clone().prop_map(|inner| format!("NOT {inner}")),
            (inner.clone(), inner.clone()).prop_map(|(l, r)| format!("{l} AND {r}")),
            (inner.clone(), inner.clone()).prop_map(|(l, r)| format!("({l}) AND ({r})")),
            (inner.clone(), inner.clone()).prop_map(|(l, r)| format!("{l} OR {r}")),
            (inner.clone(), inner.clone()).prop_map(|(l, r)| format!("({l}) or ({r})")),
            (inner.clone(), inner).prop_map(|(l, r)| format!("({l}) = ({r})")),
        ]
    })
    .boxed()
}

proptest! {
    #[test]
    fn a_canonical_text_parses_to_the_same_filter(text in condition()) {
        // What is generated may be nested too deeply; everything else about it is right.
        match Filter::parse(&text) {
            Ok(filter) => {
                if filter.canonical().len() <= TEXT_BYTES_MAX {
                    let again = Filter::parse(filter.canonical()).expect("a canonical text is a text");
                    prop_assert_eq!(again.canonical(), filter.canonical());
                    prop_assert_eq!(again.matches(&message()), filter.matches(&message()));
                }
            }
            Err(error) => prop_assert!(
                error.message.contains("levels of nesting") || error.message.contains("at most 4096 bytes"),
                "{}: {}", text, error
            ),
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,60}") {
        if let Err(error) = Filter::parse(&text) {
            prop_assert!(error.message.len() < 200);
        }
    }

    #[test]
    fn no_soup_of_words_panics(words in prop::collection::vec(prop::sample::select(vec![
        "priority", "headers", ".", "[", "]", "'a'", "'", "(", ")", "5", "1.5", "-", "+", "*", "/", "=", "<>",
        "AND", "OR", "NOT", "IN", "LIKE", "ESCAPE", "BETWEEN", "IS", "NULL", "TRUE", ",", "é", "type",
    ]), 0..24)) {
        let text = words.join(" ");
        match Filter::parse(&text) {
            Ok(filter) => { filter.matches(&message()); }
            Err(error) => {
                prop_assert!(error.message.len() < 200);
                prop_assert!((1..=text.chars().count() + 1).contains(&error.position));
            }
        }
    }
}
