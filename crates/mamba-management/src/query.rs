//! What a request says beside its path: columns, order, pages (`spec: http-api §3`).

use std::cmp::Ordering;

use mamba_auth::Pattern;
use serde_json::{Map, Value};

use crate::{
    answer::Refusal,
    history::{SAMPLES_MAX, Window},
    rates::Windows,
};

/// Largest page.
pub(crate) const PAGE_SIZE_MAX: usize = 500;
/// Items of a page when the request does not say.
const PAGE_SIZE: usize = 100;

/// A request's parameters, decoded, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = form_urlencoded::parse(text.as_bytes());
        Self(pairs.into_owned().collect())
    }

    /// The first value of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether it says `true`.
    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    /// `columns=a,b.c`; `None`: all.
    pub(crate) fn columns(&self) -> Option<Columns> {
        let text = self.get("columns")?;
        let path = |column: &str| column.split('.').map(str::to_owned).collect();
        Some(Columns(text.split(',').map(path).collect()))
    }

    /// `sort=a.b`.
    pub(crate) fn sort(&self) -> Option<Sort> {
        let text = self.get("sort").filter(|text| !text.is_empty())?;
        Some(Sort {
            path: text.split('.').map(str::to_owned).collect(),
            reverse: self.is_true("sort_reverse"),
        })
    }

    /// `lengths_age=SECONDS&lengths_incr=SECONDS` and the like: what of the past is wanted.
    ///
    /// # Errors
    /// 400 for what is no number, and for more than [`SAMPLES_MAX`] samples.
    pub(crate) fn windows(&self) -> Result<Windows, Refusal> {
        Ok(Windows {
            lengths: self.window("lengths")?,
            messages: self.window("msg_rates")?,
            data: self.window("data_rates")?,
            node: self.window("node_stats")?,
        })
    }

    fn window(&self, of: &str) -> Result<Option<Window>, Refusal> {
        let seconds = |what: &str| {
            let name = format!("{of}_{what}");
            let value = self.get(&name).map(str::parse::<u64>).transpose();
            value.map_err(|_| Refusal::bad(format!("{name} must be a number of seconds")))
        };
        let (Some(age_secs), Some(increment_secs)) = (seconds("age")?, seconds("incr")?) else {
            return Ok(None);
        };
        if increment_secs == 0 || age_secs / increment_secs > SAMPLES_MAX {
            let text = format!("{of}_age may be at most {SAMPLES_MAX} times {of}_incr");
            return Err(Refusal::bad(text));
        }
        Ok(Some(Window {
            age_secs,
            increment_secs,
        }))
    }

    /// `page=N`; `None`: everything.
    pub(crate) fn page(&self) -> Result<Option<Page>, Refusal> {
        let Some(page) = self.get("page") else {
            return Ok(None);
        };
        let invalid = || Refusal::bad("Pagination parameters are invalid");
        let number = |text: &str| text.trim().parse::<i64>().map_err(|_| invalid());
        let page = number(page)?;
        let size = self
            .get("page_size")
            .map_or_else(|| Ok(i64::try_from(PAGE_SIZE).unwrap_or(i64::MAX)), number)?;
        let fits = usize::try_from(page).ok().zip(usize::try_from(size).ok());
        let Some((page, size)) =
            fits.filter(|(page, size)| *page >= 1 && (1..=PAGE_SIZE_MAX).contains(size))
        else {
            return Err(Refusal::new(
                400,
                "invalid_pagination_parameters",
                format!("Invalid pagination parameters: page number {page}, page size {size}"),
            ));
        };
        let name = match self.get("name").filter(|name| !name.is_empty()) {
            None => Name::Any,
            Some(text) if self.is_true("use_regex") => {
                Name::Pattern(Pattern::new(&format!("(?i){text}")).map_err(|_| invalid())?)
            }
            Some(text) => Name::Contains(text.to_lowercase()),
        };
        Ok(Some(Page { page, size, name }))
    }
}

/// Fields to keep.
#[derive(Clone, Debug)]
pub(crate) struct Columns(Vec<Vec<String>>);

impl Columns {
    /// The value with these fields only; a list's items are treated alike.
    pub(crate) fn select(&self, value: Value) -> Value {
        let paths: Vec<&[String]> = self.0.iter().map(Vec::as_slice).collect();
        select(value, &paths)
    }
}

fn select(value: Value, paths: &[&[String]]) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(|item| select(item, paths)).collect(),
        Value::Object(fields) => {
            let mut kept = Map::new();
            for (key, value) in fields {
                let below: Vec<&[String]> = paths
                    .iter()
                    .filter_map(|path| path.split_first())
                    .filter(|(first, _)| **first == key)
                    .map(|(_, rest)| rest)
                    .collect();
                if below.iter().any(|rest| rest.is_empty()) {
                    kept.insert(key, value);
                } else if !below.is_empty() && (value.is_object() || value.is_array()) {
                    kept.insert(key, select(value, &below));
                }
            }
            Value::Object(kept)
        }
        other => other,
    }
}

/// The order of a list.
#[derive(Clone, Debug)]
pub(crate) struct Sort {
    path: Vec<String>,
    pub(crate) reverse: bool,
}

impl Sort {
    /// What an item is sorted by; what is missing counts as 0.
    pub(crate) fn key(&self, item: &Value) -> Value {
        let found = self.path.iter().try_fold(item, |value, key| value.get(key));
        found.cloned().unwrap_or_else(|| Value::from(0))
    }

    /// Numbers, then everything that is neither number nor text, then texts.
    pub(crate) fn compare(left: &Value, right: &Value) -> Ordering {
        let rank = |value: &Value| match value {
            Value::Number(_) => 0,
            Value::Bool(_) | Value::Null => 1,
            Value::Object(_) => 2,
            Value::Array(_) => 3,
            Value::String(_) => 4,
        };
        match (left, right) {
            (Value::Number(l), Value::Number(r)) => l
                .as_f64()
                .partial_cmp(&r.as_f64())
                .unwrap_or(Ordering::Equal),
            (Value::String(l), Value::String(r)) => l.cmp(r),
            (Value::Bool(l), Value::Bool(r)) => l.cmp(r),
            _ => rank(left)
                .cmp(&rank(right))
                .then_with(|| left.to_string().cmp(&right.to_string())),
        }
    }
}

/// One page of a list.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) page: usize,
    pub(crate) size: usize,
    name: Name,
}

#[derive(Debug)]
enum Name {
    Any,
    Contains(String),
    Pattern(Pattern),
}

impl Page {
    /// Whether names matter at all.
    pub(crate) const fn is_filtered(&self) -> bool {
        !matches!(self.name, Name::Any)
    }

    /// Whether an item of this name is wanted.
    pub(crate) fn wants(&self, name: &str) -> bool {
        match &self.name {
            Name::Any => true,
            Name::Contains(part) => name.to_lowercase().contains(part),
            Name::Pattern(pattern) => pattern.matches(name),
        }
    }

    /// The items of this page among `filtered`.
    ///
    /// # Errors
    /// 400 for a page behind the end.
    pub(crate) fn range(&self, filtered: usize) -> Result<std::ops::Range<usize>, Refusal> {
        let from = (self.page - 1).saturating_mul(self.size);
        if from >= filtered && self.page > 1 {
            let reason = format!(
                "Page out of range, page: {} page size: {}, len: {filtered}",
                self.page, self.size
            );
            return Err(Refusal::new(400, "page_out_of_range", reason));
        }
        Ok(from..(from.saturating_add(self.size)).min(filtered))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn columns(query: &str, value: Value, expected: Value) {
        let columns = Query::parse(query).columns().unwrap();
        assert_eq!(columns.select(value), expected);
    }

    #[test]
    fn columns_are_dotted_paths() {
        let queue = json!({"name": "q", "messages": 1, "stats": {"ack": 1, "get": 2}});
        columns("columns=name", queue.clone(), json!({"name": "q"}));
        columns(
            "columns=name,stats.ack",
            queue.clone(),
            json!({"name": "q", "stats": {"ack": 1}}),
        );
        columns(
            "columns=stats",
            queue.clone(),
            json!({"stats": {"ack": 1, "get": 2}}),
        );
        columns("columns=name.x,nothing", queue.clone(), json!({}));
        columns(
            "columns=name",
            json!([queue, {"x": 1}]),
            json!([{"name": "q"}, {}]),
        );
    }

    #[test]
    fn missing_sorts_first_and_texts_after_numbers() {
        let sort = Query::parse("sort=a.b").sort().unwrap();
        let key = |value: Value| sort.key(&value);
        let missing = key(json!({}));
        let one = key(json!({"a": {"b": 1}}));
        let text = key(json!({"a": {"b": "x"}}));
        assert_eq!(missing, json!(0));
        assert_eq!(Sort::compare(&missing, &one), Ordering::Less);
        assert_eq!(Sort::compare(&one, &text), Ordering::Less);
        assert_eq!(Sort::compare(&json!(10), &json!(9.5)), Ordering::Greater);
    }

    #[track_caller]
    fn page(query: &str, len: usize, expected: Result<std::ops::Range<usize>, &str>) {
        let outcome = Query::parse(query)
            .page()
            .and_then(|page| page.unwrap().range(len));
        assert_eq!(
            outcome.map_err(|refusal| refusal.reason),
            expected.map_err(|reason| json!(reason))
        );
    }

    #[test]
    fn pages() {
        page("page=1", 0, Ok(0..0));
        page("page=1", 250, Ok(0..100));
        page("page=3", 250, Ok(200..250));
        page("page=2&page_size=7", 20, Ok(7..14));
        let out = "Page out of range, page: 9 page size: 100, len: 3";
        page("page=9", 3, Err(out));
        let invalid = "Invalid pagination parameters: page number 0, page size 100";
        page("page=0", 3, Err(invalid));
        let invalid = "Invalid pagination parameters: page number 1, page size 1000";
        page("page=1&page_size=1000", 3, Err(invalid));
        let invalid = "Pagination parameters are invalid";
        page("page=x", 3, Err(invalid));
        page("page=1&name=%5B&use_regex=true", 3, Err(invalid));
        page(
            "page=9223372036854775807&page_size=500",
            3,
            Err("Page out of range, page: 9223372036854775807 page size: 500, len: 3"),
        );
        assert!(Query::parse("name=x").page().unwrap().is_none());
    }

    #[test]
    fn names_of_a_page() {
        let wants = |query: &str, name: &str| {
            let page = Query::parse(query).page().unwrap().unwrap();
            page.wants(name)
        };
        assert!(wants("page=1", "x"));
        assert!(wants("page=1&name=Or", "ORDERS"));
        assert!(!wants("page=1&name=^or", "orders"));
        assert!(wants("page=1&name=%5Eor.*s$&use_regex=true", "Orders"));
    }
}
