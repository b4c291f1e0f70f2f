//! Checks that need no table, for callers that run them between their own (`spec: errors §8`).

use mamba_types::{SoftError, Violation};

use crate::exchange::ExchangeKind;

/// The default exchange can be published to, and nothing else.
///
/// # Errors
/// 403 for the empty name.
pub fn not_default(exchange: &str) -> Result<(), Violation> {
    if exchange.is_empty() {
        return Err(Violation::channel(
            SoftError::AccessRefused,
            "operation not permitted on the default exchange",
        ));
    }
    Ok(())
}

/// The exchange type exists.
///
/// # Errors
/// 406 for an unknown word.
pub fn kind(word: &str) -> Result<(), Violation> {
    match ExchangeKind::parse(word) {
        Some(_) => Ok(()),
        None => Err(Violation::channel(
            SoftError::PreconditionFailed,
            format!("unknown exchange type '{word}'"),
        )),
    }
}
