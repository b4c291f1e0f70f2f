//! What a request is answered with, and how it becomes octets.

use std::{
    borrow::Cow,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::{
    Response,
    header::{
        ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, WWW_AUTHENTICATE,
    },
};
use mamba_broker::tenants::TenantError;
use mamba_types::{SoftError, Violation};
use serde_json::{Value, json};

use crate::query::{Columns, Query, Sort};

/// Octets of a streamed list per frame: what one turn of a worker costs.
const FRAME_BYTES: usize = 65_536;

/// What a handler gives.
pub(crate) type Outcome = Result<Answer, Refusal>;

/// A good answer.
pub(crate) enum Answer {
    /// 200 with a document.
    Json(Value),
    /// 200 with a list: filtered, sorted and paged as the request asks.
    List(List),
    /// 200 with a JSON text, offered as a file of this name if there is one.
    Text(String, Option<String>),
    /// 201, with the relative address of what was made.
    Created(Option<String>),
    /// 204.
    Done,
    /// 503 with a document: a health check that failed.
    Unwell(Value),
}

impl Answer {
    /// 201 for what is new, 204 for what was there.
    pub(crate) const fn put(new: bool) -> Self {
        if new { Self::Created(None) } else { Self::Done }
    }
}

/// A bad answer (`spec: http-api §2`).
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    error: Cow<'static, str>,
    pub(crate) reason: Value,
}

impl Refusal {
    pub(crate) fn new(
        status: u16,
        error: impl Into<Cow<'static, str>>,
        reason: impl Into<Value>,
    ) -> Self {
        Self {
            status,
            error: error.into(),
            reason: reason.into(),
        }
    }

    /// 400.
    pub(crate) fn bad(reason: impl Into<Value>) -> Self {
        Self::new(400, "bad_request", reason)
    }

    /// 404.
    pub(crate) fn missing() -> Self {
        Self::new(404, "Object Not Found", "Not Found")
    }

    /// 404 for a virtual host in the path of a change.
    pub(crate) fn no_vhost() -> Self {
        Self::new(404, "not_found", "vhost_not_found")
    }

    /// 401 for somebody who is known and may not.
    pub(crate) fn denied(reason: &str) -> Self {
        Self::new(401, "not_authorised", reason)
    }

    /// 401 for wrong credentials.
    pub(crate) fn wrong_credentials() -> Self {
        Self::new(401, "not_authorized", "Not_Authorized")
    }

    /// 401 for none; it has no body.
    pub(crate) fn no_credentials() -> Self {
        Self::new(401, "", Value::Null)
    }

    /// 500.
    pub(crate) fn internal(reason: impl Into<Value>) -> Self {
        Self::new(500, "internal_error", reason)
    }

    /// What a client of AMQP would have been told, without its code's name.
    pub(crate) fn of_method(violation: &Violation) -> Self {
        match violation {
            Violation::Channel {
                code: SoftError::AccessRefused,
                ..
            } => Self::denied("Access refused."),
            Violation::Channel {
                code: SoftError::NotFound,
                text,
            } => Self::new(404, "not_found", text.as_str()),
            Violation::Channel { text, .. }
            | Violation::Connection { text, .. }
            | Violation::ConnectionSoft { text, .. } => Self::bad(text.as_str()),
        }
    }

    /// The same for what is published, which the reference broker does over a channel: `CODE NAME - text`.
    pub(crate) fn of_publish(violation: &Violation) -> Self {
        let code = match violation {
            Violation::Channel { code, .. } | Violation::ConnectionSoft { code, .. } => code.code(),
            Violation::Connection { code, .. } => code.code(),
        };
        Self::bad(format!("{code} {violation}"))
    }

    /// The same for what is got: who may not is told why.
    pub(crate) fn of_get(violation: &Violation) -> Self {
        match violation {
            Violation::Channel {
                code: SoftError::AccessRefused,
                ..
            } => Self::denied(&violation.to_string()),
            other => Self::of_method(other),
        }
    }

    /// 400 for a name that does not fit into a short string.
    pub(crate) fn too_long(what: &str, name: &str) -> Self {
        let octets = name.len();
        Self::bad(format!(
            "{what} should be less than 255 bytes, actually was {octets}\n"
        ))
    }
}

impl From<TenantError> for Refusal {
    fn from(error: TenantError) -> Self {
        match &error {
            TenantError::NoSuchUser(_)
            | TenantError::NoSuchVhost(_)
            | TenantError::NoSuchParameter => Self::missing(),
            TenantError::Protected(name) => Self::new(
                412,
                "precondition_failed",
                format!(
                    "Refusing to delete virtual host '{name}' because it is protected from deletion"
                ),
            ),
            TenantError::Storage(_) | TenantError::Random(_) => Self::internal(error.to_string()),
            _ => Self::bad(error.to_string()),
        }
    }
}

/// A list whose items are rendered one after the other while they are sent, so that a long one costs little memory.
pub(crate) struct List {
    len: usize,
    item: Box<dyn Fn(usize) -> Value + Send>,
    name: Option<Box<dyn Fn(usize) -> String + Send>>,
}

impl List {
    /// Items in their default order.
    pub(crate) fn new<T: Send + 'static>(
        items: Vec<T>,
        render: impl Fn(&T) -> Value + Send + 'static,
    ) -> Self {
        Self {
            len: items.len(),
            item: Box::new(move |index| items.get(index).map_or(Value::Null, &render)),
            name: None,
        }
    }

    /// Items whose names are known without rendering them.
    pub(crate) fn named<T: Clone + Send + 'static>(
        items: Vec<T>,
        name: impl Fn(&T) -> String + Send + 'static,
        render: impl Fn(&T) -> Value + Send + 'static,
    ) -> Self {
        let names = items.clone();
        Self {
            name: Some(Box::new(move |index| {
                names.get(index).map_or_else(String::new, &name)
            })),
            ..Self::new(items, render)
        }
    }

    /// Documents that are there already.
    pub(crate) fn of(items: Vec<Value>) -> Self {
        Self::new(items, Value::clone)
    }

    fn name(&self, index: usize) -> String {
        match &self.name {
            Some(name) => name(index),
            None => {
                let item = (self.item)(index);
                let name = item.get("name").and_then(Value::as_str);
                name.unwrap_or_default().to_owned()
            }
        }
    }

    /// Filters, sorts and cuts the list, and begins to write it.
    fn arrange(self, query: &Query) -> Result<ListBody, Refusal> {
        let page = query.page()?;
        let mut order: Vec<usize> = match &page {
            Some(page) if page.is_filtered() => (0..self.len)
                .filter(|index| page.wants(&self.name(*index)))
                .collect(),
            _ => (0..self.len).collect(),
        };
        if let Some(sort) = query.sort() {
            let mut keyed: Vec<(Value, usize)> = order
                .into_iter()
                .map(|index| (sort.key(&(self.item)(index)), index))
                .collect();
            keyed.sort_by(|(left, _), (right, _)| Sort::compare(left, right));
            if sort.reverse {
                keyed.reverse();
            }
            order = keyed.into_iter().map(|(_, index)| index).collect();
        }
        let (mut head, mut tail) = (String::from("["), String::from("]"));
        if let Some(page) = page {
            let filtered = order.len();
            let range = page.range(filtered)?;
            order = order.drain(range).collect();
            head = format!(
                "{{\"filtered_count\":{filtered},\"item_count\":{},\"items\":[",
                order.len()
            );
            tail = format!(
                "],\"page\":{},\"page_count\":{},\"page_size\":{},\"total_count\":{}}}",
                page.page,
                filtered.div_ceil(page.size),
                page.size,
                self.len
            );
        }
        Ok(ListBody {
            item: self.item,
            order: order.into_iter(),
            columns: query.columns(),
            head: Some(head),
            tail: Some(tail),
            first: true,
            turn_over: false,
        })
    }
}

/// The body of an answer.
pub(crate) enum AnswerBody {
    Whole(Option<Bytes>),
    List(ListBody),
}

/// A list on its way.
pub(crate) struct ListBody {
    item: Box<dyn Fn(usize) -> Value + Send>,
    order: std::vec::IntoIter<usize>,
    columns: Option<Columns>,
    head: Option<String>,
    tail: Option<String>,
    first: bool,
    /// A part was written in this turn.
    turn_over: bool,
}

impl ListBody {
    fn next_frame(&mut self) -> Option<Bytes> {
        let mut octets = self.head.take().unwrap_or_default().into_bytes();
        while octets.len() < FRAME_BYTES {
            let Some(index) = self.order.next() else {
                octets.extend_from_slice(self.tail.take().unwrap_or_default().as_bytes());
                break;
            };
            let mut item = (self.item)(index);
            if let Some(columns) = &self.columns {
                item = columns.select(item);
            }
            if !std::mem::replace(&mut self.first, false) {
                octets.push(b',');
            }
            octets.extend_from_slice(item.to_string().as_bytes());
        }
        (!octets.is_empty()).then(|| octets.into())
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let octets = match &mut *self {
            Self::Whole(octets) => octets.take(),
            Self::List(list) => {
                // Message traffic is served by the same threads: it gets a turn between two parts of a list.
                if std::mem::replace(&mut list.turn_over, false) {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                list.turn_over = true;
                list.next_frame()
            }
        };
        Poll::Ready(octets.map(|octets| Ok(Frame::data(octets))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(octets) => octets.is_none(),
            Self::List(list) => list.tail.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(octets) => {
                SizeHint::with_exact(octets.as_ref().map_or(0, Bytes::len) as u64)
            }
            Self::List(_) => SizeHint::default(),
        }
    }
}

/// The answer as HTTP. Blocks as long as it takes to sort a list.
pub(crate) fn respond(outcome: Outcome, query: &Query) -> Response<AnswerBody> {
    match outcome {
        Ok(answer) => good(answer, query).unwrap_or_else(|refusal| bad(&refusal)),
        Err(refusal) => bad(&refusal),
    }
}

fn good(answer: Answer, query: &Query) -> Result<Response<AnswerBody>, Refusal> {
    Ok(match answer {
        Answer::Json(value) => {
            let value = match query.columns() {
                Some(columns) => columns.select(value),
                None => value,
            };
            document(200, value.to_string())
        }
        Answer::List(list) => {
            let mut response = document(200, String::new());
            *response.body_mut() = AnswerBody::List(list.arrange(query)?);
            response
        }
        Answer::Text(text, file) => {
            let mut response = document(200, text);
            if let Some(value) = file.and_then(|name| attachment(&name)) {
                response
                    .headers_mut()
                    .insert(hyper::header::CONTENT_DISPOSITION, value);
            }
            response
        }
        Answer::Created(location) => {
            let mut response = empty(201);
            let value = location.and_then(|location| HeaderValue::from_str(&location).ok());
            if let Some(value) = value {
                response.headers_mut().insert(LOCATION, value);
            }
            response
        }
        Answer::Done => empty(204),
        Answer::Unwell(value) => document(503, value.to_string()),
    })
}

/// A file's name as the browser is told; what could leave the quotes is dropped.
fn attachment(name: &str) -> Option<HeaderValue> {
    let plain: String = name
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "._-@ ".contains(*c))
        .collect();
    HeaderValue::from_str(&format!("attachment; filename=\"{plain}\"")).ok()
}

fn bad(refusal: &Refusal) -> Response<AnswerBody> {
    if refusal.reason.is_null() {
        let mut response = empty(refusal.status);
        let realm = HeaderValue::from_static("Basic realm=\"RabbitMQ Management\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, realm);
        return response;
    }
    let body = json!({"error": refusal.error, "reason": refusal.reason});
    document(refusal.status, body.to_string())
}

/// 301.
pub(crate) fn moved(location: &'static str) -> Response<AnswerBody> {
    let mut response = empty(301);
    let value = HeaderValue::from_static(location);
    response.headers_mut().insert(LOCATION, value);
    response
}

/// 405, and 200 for OPTIONS, with the methods that are allowed.
pub(crate) fn allowing(status: u16, methods: &str) -> Response<AnswerBody> {
    let mut response = empty(status);
    if let Ok(value) = HeaderValue::from_str(methods) {
        response.headers_mut().insert(ALLOW, value);
    }
    response
}

fn document(status: u16, text: String) -> Response<AnswerBody> {
    let mut response = empty(status);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    *response.body_mut() = AnswerBody::Whole(Some(text.into()));
    response
}

fn empty(status: u16) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Whole(None));
    if let Ok(status) = status.try_into() {
        *response.status_mut() = status;
    }
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    response
}
