//! Bindings (`spec: http-api §5.10`).

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mamba_broker::vhost::Vhost;
use mamba_codec::{
    AMQPClass,
    protocol::{exchange, queue},
};
use mamba_routing::{Binding, Destination};
use mamba_types::FieldTable;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::{
    answer::{Answer, List, Outcome, Refusal},
    request::Request,
};

/// What stands for "neither key nor arguments".
const NOTHING: &str = "~";
/// What a properties key is escaped from once more in an address.
const ADDRESS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Names a binding among those between the same two ends. The hash of the arguments is our own: it is only ever given back.
fn properties_key(binding: &Binding) -> String {
    let key: String = form_urlencoded::byte_serialize(binding.routing_key.as_bytes())
        .collect::<String>()
        .replace('*', "%2A")
        .replace('~', "%7E");
    if binding.arguments.inner().is_empty() {
        return if key.is_empty() {
            NOTHING.to_owned()
        } else {
            key
        };
    }
    format!("{key}~{}", hash(&binding.arguments))
}

fn hash(arguments: &FieldTable) -> String {
    // FNV-1a: it must come out the same in every run.
    let octets = mamba_codec::encode_table(arguments);
    let hash = octets
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
            (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3)
        });
    URL_SAFE_NO_PAD.encode(hash.to_be_bytes())
}

fn view(vhost: &str, binding: &Binding) -> Value {
    let (kind, destination) = match &binding.destination {
        Destination::Queue(name) => ("queue", name),
        Destination::Exchange(name) => ("exchange", name),
    };
    json!({
        "source": *binding.source, "vhost": vhost, "destination": **destination, "destination_type": kind,
        "routing_key": *binding.routing_key,
        "arguments": mamba_policy::table_to_json(&binding.arguments),
        "properties_key": properties_key(binding),
    })
}

fn shown(vhost: Arc<str>, bindings: Vec<Binding>) -> List {
    List::new(bindings, move |binding| view(&vhost, binding))
}

/// The default exchange's binding to a queue, which lies in no table.
fn implicit(queue: &Arc<str>) -> Binding {
    Binding::to_queue(Arc::from(""), Arc::clone(queue), Arc::clone(queue))
}

pub(crate) fn list(request: &Request<'_>) -> Outcome {
    let mut all: Vec<(Arc<str>, Binding)> = Vec::new();
    for vhost in request.visible_vhosts()? {
        let mut add = |binding| all.push((Arc::clone(&vhost.name), binding));
        for queue in vhost.queues() {
            add(implicit(&queue.name));
        }
        for exchange in vhost.exchanges() {
            vhost
                .bindings_from(&exchange.name)
                .into_iter()
                .for_each(&mut add);
        }
    }
    Ok(Answer::List(List::new(all, |(vhost, binding)| {
        view(vhost, binding)
    })))
}

pub(crate) fn to_queue(request: &Request<'_>) -> Outcome {
    let vhost = request.vhost()?;
    let queue = vhost.queue(request.name("queue"));
    let name = Arc::clone(&queue.ok_or_else(Refusal::missing)?.name);
    let mut bindings = vec![implicit(&name)];
    bindings.extend(vhost.bindings_to(&Destination::Queue(name)));
    Ok(Answer::List(shown(Arc::clone(&vhost.name), bindings)))
}

fn exchange(request: &Request<'_>, vhost: &Vhost) -> Result<Arc<str>, Refusal> {
    let exchange = vhost.exchange(request.exchange("exchange"));
    Ok(exchange.ok_or_else(Refusal::missing)?.name)
}

pub(crate) fn from_exchange(request: &Request<'_>) -> Outcome {
    let vhost = request.vhost()?;
    let name = exchange(request, &vhost)?;
    let bindings = if name.is_empty() {
        let queues = vhost.queues();
        queues.iter().map(|queue| implicit(&queue.name)).collect()
    } else {
        vhost.bindings_from(&name)
    };
    Ok(Answer::List(shown(Arc::clone(&vhost.name), bindings)))
}

pub(crate) fn to_exchange(request: &Request<'_>) -> Outcome {
    let vhost = request.vhost()?;
    let name = exchange(request, &vhost)?;
    let bindings = vhost.bindings_to(&Destination::Exchange(name));
    Ok(Answer::List(shown(Arc::clone(&vhost.name), bindings)))
}

/// The destination in the path: a queue or an exchange.
fn destination(request: &Request<'_>) -> Destination {
    if request.names.iter().any(|(name, _)| *name == "queue") {
        Destination::Queue(request.name("queue").into())
    } else {
        Destination::Exchange(request.exchange("destination").into())
    }
}

/// The bindings between the two ends in the path.
fn those_between(request: &Request<'_>, vhost: &Vhost) -> Vec<Binding> {
    let (source, destination) = (request.exchange("source"), destination(request));
    if source.is_empty() {
        return match &destination {
            Destination::Queue(name) if vhost.queue(name).is_some() => vec![implicit(name)],
            _ => Vec::new(),
        };
    }
    let mut bindings = vhost.bindings_to(&destination);
    bindings.retain(|binding| *binding.source == *source);
    bindings
}

pub(crate) fn between(request: &Request<'_>) -> Outcome {
    let vhost = request.vhost()?;
    let bindings = those_between(request, &vhost);
    Ok(Answer::List(shown(Arc::clone(&vhost.name), bindings)))
}

fn known(request: &Request<'_>) -> Result<Binding, Refusal> {
    let vhost = request.vhost()?;
    let mut bindings = those_between(request, &vhost).into_iter();
    let found = bindings.find(|binding| properties_key(binding) == request.name("props"));
    found.ok_or_else(Refusal::missing)
}

pub(crate) fn one(request: &Request<'_>) -> Outcome {
    let binding = known(request)?;
    Ok(Answer::Json(view(request.name("vhost"), &binding)))
}

pub(crate) fn bind(request: &Request<'_>) -> Outcome {
    let mut direct = request.direct()?;
    let fields = request.fields()?;
    let binding = Binding {
        source: request.exchange("source").into(),
        destination: destination(request),
        routing_key: fields.text("routing_key")?.unwrap_or_default().into(),
        arguments: fields.arguments("arguments")?,
    };
    for name in [
        &binding.source,
        binding.destination.name(),
        &binding.routing_key,
    ] {
        if name.len() > 255 {
            return Err(Refusal::bad("a name has more than 255 octets"));
        }
    }
    direct
        .perform(method(&binding, true))
        .map_err(|violation| Refusal::of_method(&violation))?;
    let key = properties_key(&binding);
    let last = |text: &str| utf8_percent_encode(text, ADDRESS).to_string();
    let destination = last(binding.destination.name());
    Ok(Answer::Created(Some(format!(
        "{destination}/{}",
        last(&key)
    ))))
}

pub(crate) fn unbind(request: &Request<'_>) -> Outcome {
    let binding = known(request)?;
    request
        .direct()?
        .perform(method(&binding, false))
        .map_err(|violation| Refusal::of_method(&violation))?;
    Ok(Answer::Done)
}

fn method(binding: &Binding, bind: bool) -> AMQPClass {
    let (source, routing_key) = ((&*binding.source).into(), (&*binding.routing_key).into());
    let arguments = binding.arguments.clone();
    match (&binding.destination, bind) {
        (Destination::Queue(name), true) => {
            AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
                queue: (&**name).into(),
                exchange: source,
                routing_key,
                nowait: false,
                arguments,
            }))
        }
        (Destination::Queue(name), false) => {
            AMQPClass::Queue(queue::AMQPMethod::Unbind(queue::Unbind {
                queue: (&**name).into(),
                exchange: source,
                routing_key,
                arguments,
            }))
        }
        (Destination::Exchange(name), true) => {
            AMQPClass::Exchange(exchange::AMQPMethod::Bind(exchange::Bind {
                destination: (&**name).into(),
                source,
                routing_key,
                nowait: false,
                arguments,
            }))
        }
        (Destination::Exchange(name), false) => {
            AMQPClass::Exchange(exchange::AMQPMethod::Unbind(exchange::Unbind {
                destination: (&**name).into(),
                source,
                routing_key,
                nowait: false,
                arguments,
            }))
        }
    }
}

#[cfg(test)]
mod tests {
    use mamba_types::FieldValue;

    use super::*;

    #[track_caller]
    fn check(routing_key: &str, expected: &str) {
        let binding = Binding::to_queue("x", "q", routing_key);
        assert_eq!(properties_key(&binding), expected);
    }

    #[test]
    fn properties_keys() {
        check("", "~");
        check("key", "key");
        check("a/b~c d", "a%2Fb%7Ec+d");
        check("a.b.#", "a.b.%23");
        check("*", "%2A");
        let mut arguments = FieldTable::default();
        arguments.insert("x".into(), FieldValue::LongInt(1));
        let with = |arguments: &FieldTable| {
            properties_key(&Binding::to_queue("x", "q", "a b").with_arguments(arguments.clone()))
        };
        let one = with(&arguments);
        assert!(one.starts_with("a+b~"), "{one}");
        assert_eq!(one, with(&arguments));
        arguments.insert("x".into(), FieldValue::LongInt(2));
        assert_ne!(one, with(&arguments));
    }
}
