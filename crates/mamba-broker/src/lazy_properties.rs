//! A message's properties as routing may ask for them.

use std::cell::OnceCell;

use mamba_codec::{Properties, table as parse_table};
use mamba_routing::MessageProperties;
use mamba_types::{FieldTable, Limits};

/// Headers are decoded when an exchange asks for them, and once.
pub(crate) struct LazyProperties<'a> {
    properties: &'a Properties<'a>,
    limits: &'a Limits,
    headers: OnceCell<Option<FieldTable>>,
}

impl<'a> LazyProperties<'a> {
    pub(crate) const fn new(properties: &'a Properties<'a>, limits: &'a Limits) -> Self {
        Self {
            properties,
            limits,
            headers: OnceCell::new(),
        }
    }
}

impl MessageProperties for LazyProperties<'_> {
    fn headers(&self) -> Option<&FieldTable> {
        let parse = || parse_table(self.properties.headers?, self.limits).ok();
        self.headers.get_or_init(parse).as_ref()
    }

    fn message_id(&self) -> Option<&[u8]> {
        self.properties.message_id
    }

    fn correlation_id(&self) -> Option<&[u8]> {
        self.properties.correlation_id
    }

    fn timestamp(&self) -> Option<u64> {
        self.properties.timestamp
    }
}
