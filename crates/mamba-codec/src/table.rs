//! Field tables (AMQP 0-9-1, 4.2.5.5, with the reference broker's tags).
//!
//! *Table octets* are always the entries alone, without the four length octets before them.

use mamba_types::{FieldTable, FieldValue, Limits};

/// Nesting beyond which no configuration may go: decoding recurses, and stacks are finite.
pub const TABLE_DEPTH_CAP: usize = 128;

/// Why octets are not a field table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// A value or name goes beyond the end.
    #[error("field table ends inside an entry")]
    Truncated,
    /// A value tag the protocol does not have.
    #[error("field table has a value of unknown type {0} (its ASCII code)")]
    Tag(u8),
    /// More nesting than allowed.
    #[error("field table is nested deeper than {0} levels")]
    Depth(usize),
    /// An entry's name is not UTF-8.
    #[error("field table has a name that is not UTF-8")]
    Name,
}

/// One value inside a table, not decoded yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawValue<'a> {
    /// The type tag, e.g. `S`.
    pub tag: u8,
    /// The value's octets, without the length word of strings, arrays and tables.
    pub octets: &'a [u8],
}

impl<'a> RawValue<'a> {
    /// The word error texts use for the type, e.g. `longstr`.
    #[must_use]
    pub fn type_word(&self) -> &'static str {
        todo!()
    }

    /// The number, for any of the integer tags.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        todo!()
    }

    /// The octets of a long string (`S`).
    #[must_use]
    pub fn string(&self) -> Option<&'a [u8]> {
        todo!()
    }

    /// A boolean (`t`).
    #[must_use]
    pub fn boolean(&self) -> Option<bool> {
        todo!()
    }

    /// The items of an array (`A`).
    pub fn array(&self) -> Option<impl Iterator<Item = RawValue<'a>> + 'a> {
        Some(Vec::new().into_iter())
    }

    /// The table octets of a nested table (`F`).
    #[must_use]
    pub fn table(&self) -> Option<&'a [u8]> {
        todo!()
    }

    /// The decoded value.
    ///
    /// # Errors
    /// [`TableError`] as for [`table`].
    pub fn value(&self, limits: &Limits) -> Result<FieldValue, TableError> {
        let _ = limits;
        todo!()
    }
}

/// The entries of a table, in the order sent; see [`table_entries`].
#[derive(Clone, Debug)]
pub struct TableEntries<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for TableEntries<'a> {
    type Item = (&'a [u8], RawValue<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let _ = self.rest;
        todo!()
    }
}

/// The entries of table octets that [`check_table`] has accepted; ends early where they are malformed.
#[must_use]
pub const fn table_entries(octets: &[u8]) -> TableEntries<'_> {
    TableEntries { rest: octets }
}

/// Checks structure, tags and nesting without decoding or allocating.
///
/// # Errors
/// [`TableError`] says what is wrong.
pub fn check_table(octets: &[u8], limits: &Limits) -> Result<(), TableError> {
    let _ = (octets, limits);
    todo!()
}

/// Decodes table octets. Of entries with the same name the last one stays.
///
/// # Errors
/// [`TableError`] says what is wrong.
pub fn table(octets: &[u8], limits: &Limits) -> Result<FieldTable, TableError> {
    let _ = (octets, limits);
    todo!()
}

/// The first entry with this name, found without decoding the others.
#[must_use]
pub fn table_get<'a>(octets: &'a [u8], name: &[u8]) -> Option<RawValue<'a>> {
    table_entries(octets)
        .find(|(entry, _)| *entry == name)
        .map(|(_, value)| value)
}

/// Table octets of a table, entries in the order of their names.
#[must_use]
pub fn encode_table(table: &FieldTable) -> Vec<u8> {
    let _ = table;
    todo!()
}
