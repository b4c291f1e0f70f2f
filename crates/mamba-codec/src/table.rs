//! Field tables (AMQP 0-9-1, 4.2.5.5, with the reference broker's tags).
//!
//! *Table octets* are always the entries alone, without the four length octets before them.

use amq_protocol::types::DecimalValue;
use mamba_types::table::{FieldArray, ShortString};
use mamba_types::{FieldTable, FieldValue, Limits};

use crate::octets::{Reader, short};

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
    pub const fn type_word(&self) -> &'static str {
        match self.tag {
            b't' => "bool",
            b'b' => "byte",
            b'B' => "unsignedbyte",
            b's' => "short",
            b'u' => "unsignedshort",
            b'I' => "signedint",
            b'i' => "unsignedint",
            b'l' | b'L' => "long",
            b'f' => "float",
            b'd' => "double",
            b'D' => "decimal",
            b'S' => "longstr",
            b'x' => "binary",
            b'A' => "array",
            b'T' => "timestamp",
            b'F' => "table",
            _ => "void",
        }
    }

    /// The number, for any of the integer tags.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        let mut reader = Reader::new(self.octets);
        Some(match self.tag {
            b'b' => i64::from(reader.array().map(i8::from_be_bytes)?),
            b'B' => i64::from(reader.u8()?),
            b's' => i64::from(reader.array().map(i16::from_be_bytes)?),
            b'u' => i64::from(reader.u16()?),
            b'I' => i64::from(reader.array().map(i32::from_be_bytes)?),
            b'i' => i64::from(reader.u32()?),
            b'l' | b'L' => reader.array().map(i64::from_be_bytes)?,
            _ => return None,
        })
    }

    /// The octets of a long string (`S`).
    #[must_use]
    pub fn string(&self) -> Option<&'a [u8]> {
        (self.tag == b'S').then_some(self.octets)
    }

    /// A boolean (`t`).
    #[must_use]
    pub fn boolean(&self) -> Option<bool> {
        (self.tag == b't').then(|| self.octets.first().is_some_and(|octet| *octet != 0))
    }

    /// The items of an array (`A`).
    #[must_use]
    pub fn array(&self) -> Option<ArrayItems<'a>> {
        (self.tag == b'A').then(|| ArrayItems {
            rest: Reader::new(self.octets),
        })
    }

    /// The table octets of a nested table (`F`).
    #[must_use]
    pub fn table(&self) -> Option<&'a [u8]> {
        (self.tag == b'F').then_some(self.octets)
    }

    /// The decoded value.
    ///
    /// # Errors
    /// [`TableError`] as for [`table`].
    pub fn value(&self, limits: &Limits) -> Result<FieldValue, TableError> {
        check_value(*self, Depth::of(limits), true)?;
        decode_value(self)
    }
}

/// The entries of a table, in the order sent; see [`table_entries`].
#[derive(Clone, Debug)]
pub struct TableEntries<'a> {
    rest: Reader<'a>,
}

impl<'a> Iterator for TableEntries<'a> {
    type Item = (&'a [u8], RawValue<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let name = self.rest.short()?;
        let value = raw_value(&mut self.rest).ok()?;
        Some((name, value))
    }
}

/// The items of an array, in the order sent; see [`RawValue::array`].
#[derive(Clone, Debug)]
pub struct ArrayItems<'a> {
    rest: Reader<'a>,
}

impl<'a> Iterator for ArrayItems<'a> {
    type Item = RawValue<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        raw_value(&mut self.rest).ok()
    }
}

/// The entries of table octets that [`check_table`] has accepted; ends early where they are malformed.
#[must_use]
pub const fn table_entries(octets: &[u8]) -> TableEntries<'_> {
    TableEntries {
        rest: Reader::new(octets),
    }
}

/// Checks structure, tags and nesting without decoding or allocating. Names need not be UTF-8.
///
/// # Errors
/// [`TableError`] says what is wrong.
pub fn check_table(octets: &[u8], limits: &Limits) -> Result<(), TableError> {
    check(octets, Depth::of(limits), false)
}

/// Like [`check_table`], and demands UTF-8 names at every level, as decoding does.
pub(crate) fn check_names(octets: &[u8], limits: &Limits) -> Result<(), TableError> {
    check(octets, Depth::of(limits), true)
}

/// Decodes table octets. Of entries with the same name the last one stays.
///
/// # Errors
/// [`TableError`] says what is wrong.
pub fn table(octets: &[u8], limits: &Limits) -> Result<FieldTable, TableError> {
    check_names(octets, limits)?;
    decode(octets)
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
    let mut octets = Vec::new();
    encode_entries(&mut octets, table);
    octets
}

/// Appends an entry to table octets. For tables whose order says something, or that are mostly copied.
pub fn put_entry(to: &mut Vec<u8>, name: &[u8], value: RawValue<'_>) {
    short(to, name);
    put_value(to, value);
}

/// Table octets with these entries set; they and the table are in the order of their names, and so is the result. Other entries are copied
/// as they are.
#[must_use]
pub fn with_entries(octets: &[u8], entries: &[(&[u8], RawValue<'_>)]) -> Vec<u8> {
    let added: usize = entries
        .iter()
        .map(|(name, value)| name.len() + value.octets.len() + 6)
        .sum();
    let mut merged = Vec::with_capacity(octets.len() + added);
    let mut rest = entries.iter().peekable();
    for (name, value) in table_entries(octets) {
        while let Some((own, value)) = rest.next_if(|(own, _)| *own <= name) {
            put_entry(&mut merged, own, *value);
        }
        if !entries.iter().any(|(own, _)| *own == name) {
            put_entry(&mut merged, name, value);
        }
    }
    for (own, value) in rest {
        put_entry(&mut merged, own, *value);
    }
    merged
}

/// Appends an item to the octets of an array.
pub fn put_value(to: &mut Vec<u8>, value: RawValue<'_>) {
    to.push(value.tag);
    if matches!(value.tag, b'S' | b'x' | b'A' | b'F') {
        let len = u32::try_from(value.octets.len()).unwrap_or(u32::MAX);
        to.extend_from_slice(&len.to_be_bytes());
    }
    to.extend_from_slice(value.octets);
}

/// How many more levels may open, and how many there may be in all.
#[derive(Clone, Copy)]
struct Depth {
    left: usize,
    max: usize,
}

impl Depth {
    fn of(limits: &Limits) -> Self {
        let max = limits.table_depth_max.min(TABLE_DEPTH_CAP);
        Self { left: max, max }
    }

    fn enter(self) -> Result<Self, TableError> {
        let left = self
            .left
            .checked_sub(1)
            .ok_or(TableError::Depth(self.max))?;
        Ok(Self { left, ..self })
    }
}

#[inline]
fn raw_value<'a>(reader: &mut Reader<'a>) -> Result<RawValue<'a>, TableError> {
    let tag = reader.u8().ok_or(TableError::Truncated)?;
    let octets = match tag {
        b't' | b'b' | b'B' => reader.take(1),
        b's' | b'u' => reader.take(2),
        b'I' | b'i' | b'f' => reader.take(4),
        b'D' => reader.take(5),
        b'l' | b'L' | b'd' | b'T' => reader.take(8),
        b'S' | b'x' | b'A' | b'F' => reader.long(),
        b'V' => Some(&[][..]),
        _ => return Err(TableError::Tag(tag)),
    };
    Ok(RawValue {
        tag,
        octets: octets.ok_or(TableError::Truncated)?,
    })
}

fn check(octets: &[u8], depth: Depth, names: bool) -> Result<(), TableError> {
    let mut reader = Reader::new(octets);
    while !reader.is_empty() {
        let name = reader.short().ok_or(TableError::Truncated)?;
        if names && std::str::from_utf8(name).is_err() {
            return Err(TableError::Name);
        }
        check_value(raw_value(&mut reader)?, depth, names)?;
    }
    Ok(())
}

#[inline]
fn check_value(value: RawValue<'_>, depth: Depth, names: bool) -> Result<(), TableError> {
    match value.tag {
        b'F' => check(value.octets, depth.enter()?, names),
        b'A' => {
            let depth = depth.enter()?;
            let mut reader = Reader::new(value.octets);
            while !reader.is_empty() {
                check_value(raw_value(&mut reader)?, depth, names)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Decodes what [`check_names`] has accepted.
fn decode(octets: &[u8]) -> Result<FieldTable, TableError> {
    let mut table = FieldTable::default();
    for (name, value) in table_entries(octets) {
        let name = std::str::from_utf8(name).map_err(|_| TableError::Name)?;
        table.insert(ShortString::from(name), decode_value(&value)?);
    }
    Ok(table)
}

fn decode_value(value: &RawValue<'_>) -> Result<FieldValue, TableError> {
    scalar(value).map_or_else(
        || match value.tag {
            b'A' => {
                let mut items = FieldArray::default();
                for item in value.array().into_iter().flatten() {
                    items.push(decode_value(&item)?);
                }
                Ok(FieldValue::FieldArray(items))
            }
            b'F' => decode(value.octets).map(FieldValue::FieldTable),
            b'S' => Ok(FieldValue::LongString(value.octets.into())),
            b'x' => Ok(FieldValue::ByteArray(value.octets.into())),
            b'V' => Ok(FieldValue::Void),
            _ => Err(TableError::Truncated),
        },
        Ok,
    )
}

/// A value of fixed size.
fn scalar(value: &RawValue<'_>) -> Option<FieldValue> {
    let mut reader = Reader::new(value.octets);
    Some(match value.tag {
        b't' => FieldValue::Boolean(reader.u8()? != 0),
        b'b' => FieldValue::ShortShortInt(i8::from_be_bytes(reader.array()?)),
        b'B' => FieldValue::ShortShortUInt(reader.u8()?),
        b's' => FieldValue::ShortInt(i16::from_be_bytes(reader.array()?)),
        b'u' => FieldValue::ShortUInt(reader.u16()?),
        b'I' => FieldValue::LongInt(i32::from_be_bytes(reader.array()?)),
        b'i' => FieldValue::LongUInt(reader.u32()?),
        b'l' | b'L' => FieldValue::LongLongInt(i64::from_be_bytes(reader.array()?)),
        b'f' => FieldValue::Float(f32::from_be_bytes(reader.array()?)),
        b'd' => FieldValue::Double(f64::from_be_bytes(reader.array()?)),
        b'D' => FieldValue::DecimalValue(DecimalValue {
            scale: reader.u8()?,
            value: reader.u32()?,
        }),
        b'T' => FieldValue::Timestamp(reader.u64()?),
        _ => return None,
    })
}

fn encode_entries(to: &mut Vec<u8>, table: &FieldTable) {
    for (name, value) in table {
        short(to, name.as_str().as_bytes());
        encode_value(to, value);
    }
}

fn encode_value(to: &mut Vec<u8>, value: &FieldValue) {
    match value {
        FieldValue::Boolean(v) => fixed(to, b't', [u8::from(*v)]),
        FieldValue::ShortShortInt(v) => fixed(to, b'b', v.to_be_bytes()),
        FieldValue::ShortShortUInt(v) => fixed(to, b'B', [*v]),
        FieldValue::ShortInt(v) => fixed(to, b's', v.to_be_bytes()),
        FieldValue::ShortUInt(v) => fixed(to, b'u', v.to_be_bytes()),
        FieldValue::LongInt(v) => fixed(to, b'I', v.to_be_bytes()),
        FieldValue::LongUInt(v) => fixed(to, b'i', v.to_be_bytes()),
        FieldValue::LongLongInt(v) => fixed(to, b'l', v.to_be_bytes()),
        FieldValue::Float(v) => fixed(to, b'f', v.to_be_bytes()),
        FieldValue::Double(v) => fixed(to, b'd', v.to_be_bytes()),
        FieldValue::DecimalValue(v) => {
            fixed(to, b'D', [v.scale]);
            to.extend_from_slice(&v.value.to_be_bytes());
        }
        FieldValue::Timestamp(v) => fixed(to, b'T', v.to_be_bytes()),
        // There is no short string on the wire.
        FieldValue::ShortString(v) => counted(to, b'S', |to| {
            to.extend_from_slice(v.as_str().as_bytes());
        }),
        FieldValue::LongString(v) => counted(to, b'S', |to| to.extend_from_slice(v.as_bytes())),
        FieldValue::ByteArray(v) => counted(to, b'x', |to| to.extend_from_slice(v.as_slice())),
        FieldValue::FieldArray(v) => counted(to, b'A', |to| {
            for item in v.as_slice() {
                encode_value(to, item);
            }
        }),
        FieldValue::FieldTable(v) => counted(to, b'F', |to| encode_entries(to, v)),
        FieldValue::Void => to.push(b'V'),
    }
}

fn fixed<const N: usize>(to: &mut Vec<u8>, tag: u8, octets: [u8; N]) {
    to.push(tag);
    to.extend_from_slice(&octets);
}

fn counted(to: &mut Vec<u8>, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
    to.push(tag);
    let at = to.len();
    to.extend_from_slice(&[0; 4]);
    write(to);
    let len = u32::try_from(to.len() - at - 4).unwrap_or(u32::MAX);
    if let Some(word) = to.get_mut(at..at + 4) {
        word.copy_from_slice(&len.to_be_bytes());
    }
}
