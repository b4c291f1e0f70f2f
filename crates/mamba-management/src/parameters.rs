//! Global parameters.

use serde_json::{Value, json};

use crate::{
    answer::{Answer, List, Outcome, Refusal},
    request::Request,
};

fn view(name: &str, value: &Value) -> Value {
    json!({"name": name, "value": value})
}

pub(crate) fn globals(request: &Request<'_>) -> Outcome {
    let all = request.broker().global_parameters();
    Ok(Answer::List(List::new(all, |(name, value)| {
        view(name, value)
    })))
}

pub(crate) fn global(request: &Request<'_>) -> Outcome {
    let name = request.name("name");
    let value = request.broker().global_parameter(name);
    let value = value.ok_or_else(Refusal::missing)?;
    Ok(Answer::Json(view(name, &value)))
}

pub(crate) fn put_global(request: &Request<'_>) -> Outcome {
    let fields = request.fields()?;
    fields.require(&["value"])?;
    let value = fields.0.get("value").cloned().unwrap_or(Value::Null);
    let new = request
        .broker()
        .set_global_parameter(request.name("name"), value)?;
    Ok(Answer::put(new))
}

pub(crate) fn delete_global(request: &Request<'_>) -> Outcome {
    request
        .broker()
        .clear_global_parameter(request.name("name"))?;
    Ok(Answer::Done)
}
