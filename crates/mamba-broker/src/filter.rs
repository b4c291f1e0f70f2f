//! A consumer's `x-filter`, as its queue asks it.

use std::sync::Arc;

use mamba_filter::{Filter, FilterError, MessageView};
use mamba_queue::Selector;
use mamba_types::Message;

/// A parsed expression. Filters with the same canonical text are one to a queue.
#[derive(Debug)]
struct Expression(Filter);

impl Selector for Expression {
    fn identity(&self) -> &str {
        self.0.canonical()
    }

    fn matches(&self, message: &Message) -> bool {
        self.0.matches(&MessageView::new(message))
    }
}

/// Reads an expression.
///
/// # Errors
/// The position and what was expected there; see [`Filter::parse`] for the limits.
pub(crate) fn parse(text: &str) -> Result<Arc<dyn Selector>, FilterError> {
    Ok(Arc::new(Expression(Filter::parse(text)?)))
}
