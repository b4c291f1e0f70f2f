//! Patterns made to cost much: they are refused, or cheap.

use mamba_policy::Pattern;

#[test]
fn patterns_that_would_grow_without_bound() {
    let name = "a".repeat(255);
    for pattern in [
        "a{1000}{1000}{1000}",
        "(?=a){1000}{1000}{1000}",
        "(?:(?=a)a){1000}{1000}",
        "(?:(?:(?:(?=a)a){50}){50}){50}",
        "(a*)*\\1b",
        "(?:a?){100}{100}(?=b)",
        "(?=(a+)+b)",
        &"(".repeat(4096),
        &format!("{}{}", "(".repeat(2048), ")".repeat(2048)),
        &format!("{}{}", "(?=".repeat(1000), ")".repeat(1000)),
        &"(?=a)|".repeat(600),
        &"\\p{L}".repeat(800),
    ] {
        let start = std::hint::black_box(pattern);
        if let Ok(pattern) = Pattern::new(start) {
            let _ = pattern.matches(&name);
        }
    }
}
