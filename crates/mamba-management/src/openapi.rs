//! The OpenAPI document, made of the table that requests are answered from.

use hyper::Method;
use serde_json::{Map, Value, json};

use crate::{
    access::Access,
    answer::{Answer, Outcome},
    control,
    query::PAGE_SIZE_MAX,
    request::Request,
    routes::{ENDPOINTS, Endpoint},
    schemas::{self, ANSWERS, BODIES, RESULTS, Shape},
};

pub(crate) fn document(_: &Request<'_>) -> Outcome {
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in ENDPOINTS {
        let path = paths
            .entry(endpoint.path)
            .or_insert_with(|| Value::Object(Map::new()));
        path[endpoint.method.as_str().to_ascii_lowercase()] = operation(endpoint);
    }
    Ok(Answer::Json(json!({
        "openapi": "3.1.0",
        "info": {"title": "MambaMQ management API", "version": env!("CARGO_PKG_VERSION")},
        "servers": [{"url": "/api"}],
        "security": [{"basic": []}, {"bearer": []}],
        "components": {
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
            "schemas": schemas::components(),
        },
        "paths": paths,
    })))
}

fn operation(endpoint: &Endpoint) -> Value {
    let mut operation = json!({
        "operationId": operation_id(endpoint), "summary": endpoint.summary,
        "parameters": parameters(endpoint), "responses": responses(endpoint),
    });
    match tag(endpoint.access) {
        None => operation["security"] = json!([]),
        Some(tag) => operation["description"] = format!("Needs the tag {tag}.").into(),
    }
    if matches!(endpoint.method, Method::PUT | Method::POST) {
        let body = BODIES.iter().find(|(path, ..)| *path == endpoint.path);
        let (schema, required) = body.map_or_else(
            || (json!({"type": "object"}), false),
            |(_, keys, required)| (schemas::object(keys, required), !required.is_empty()),
        );
        operation["requestBody"] =
            json!({"required": required, "content": {"application/json": {"schema": schema}}});
    }
    operation
}

/// `get-queues-vhost-queue`.
fn operation_id(endpoint: &Endpoint) -> String {
    let path = endpoint.path.replace(['{', '}'], "").replace('/', "-");
    format!("{}{path}", endpoint.method.as_str().to_ascii_lowercase())
}

const fn tag(access: Access) -> Option<&'static str> {
    match access {
        Access::Anybody => None,
        Access::Management => Some("management"),
        Access::Vhost => Some("management, and permissions in the virtual host"),
        Access::Policymaker => Some("policymaker"),
        Access::PolicymakerInVhost => Some("policymaker, and permissions in the virtual host"),
        Access::Monitoring => Some("monitoring"),
        Access::Administrator => Some("administrator"),
    }
}

fn shape(table: &[(&str, Shape)], endpoint: &Endpoint) -> Option<Shape> {
    let found = table.iter().find(|(path, _)| *path == endpoint.path);
    found.map(|(_, shape)| *shape)
}

fn parameters(endpoint: &Endpoint) -> Vec<Value> {
    let mut parameters = Vec::new();
    let mut add = |place: &str, name: &str, text: &str, schema: Value| {
        parameters.push(json!({
            "name": name, "in": place, "required": place == "path", "description": text, "schema": schema,
        }));
    };
    for part in endpoint.path.split('/') {
        let name = part
            .strip_prefix('{')
            .and_then(|part| part.strip_suffix('}'));
        if let Some(name) = name {
            let schema = json!({"type": "string", "minLength": 1});
            add("path", name, "Percent-encoded", schema);
        }
    }
    let (text, flag) = (json!({"type": "string"}), json!({"type": "boolean"}));
    match (endpoint.method.as_str(), endpoint.path) {
        ("GET", path) => {
            let columns = "Fields to keep, between commas";
            add("query", "columns", columns, text.clone());
            let list = matches!(shape(ANSWERS, endpoint), Some(Shape::List(_)));
            if list {
                let page = json!({"type": "integer", "minimum": 1});
                let size = json!({"type": "integer", "minimum": 1, "maximum": PAGE_SIZE_MAX});
                for (name, explained, schema) in [
                    ("sort", "Field to sort by", &text),
                    ("sort_reverse", "The other way round", &flag),
                    ("page", "Page, from 1 on", &page),
                    ("page_size", "Items of a page", &size),
                    ("name", "With page: part of the names to keep", &text),
                    ("use_regex", "The name is a pattern", &flag),
                ] {
                    add("query", name, explained, schema.clone());
                }
            }
            if path.starts_with("/queues") && list {
                let cheap = "Without what is counted";
                add("query", "disable_stats", cheap, flag.clone());
                let totals = "But with the messages";
                add("query", "enable_queue_totals", totals, flag);
            }
        }
        ("DELETE", "/queues/{vhost}/{queue}") => {
            add("query", "if-unused", "Only without consumers", flag.clone());
            add("query", "if-empty", "Only without messages", flag);
        }
        ("DELETE", "/exchanges/{vhost}/{exchange}") => {
            add("query", "if-unused", "Only without bindings", flag);
        }
        ("DELETE", path) if path.starts_with("/connections") => {
            add("header", "X-Reason", "What the client is told", text);
        }
        _ => {}
    }
    parameters
}

fn responses(endpoint: &Endpoint) -> Value {
    let document = |text: &str, schema: Value| json!({"description": text, "content": {"application/json": {"schema": schema}}});
    let refusal = |text: &str| document(text, schemas::shaped(Some(Shape::One("Refusal"))));
    let mut responses = json!({
        "400": refusal("The request makes no sense, or the broker refuses it"),
        "404": refusal("There is no such thing"),
    });
    let checks = endpoint.path.starts_with("/health/checks/");
    match endpoint.method {
        Method::GET if checks => {
            let health = || schemas::shaped(Some(Shape::One("Health")));
            responses["200"] = document("All is well", health());
            responses["503"] = document("It is not", health());
        }
        Method::GET => {
            let schema = schemas::shaped(shape(ANSWERS, endpoint));
            responses["200"] = document("What was asked for", schema);
        }
        Method::PUT => {
            responses["201"] = json!({"description": "Made"});
            responses["204"] = json!({"description": "Changed"});
        }
        Method::DELETE => {
            responses["204"] = json!({"description": "Gone"});
            if endpoint.path == "/vhosts/{vhost}" {
                responses["412"] = refusal("It is protected from deletion");
            }
        }
        _ => match shape(RESULTS, endpoint) {
            Some(shape) => responses["200"] = document("The result", schemas::shaped(Some(shape))),
            None if endpoint.path.starts_with("/bindings/") => {
                responses["201"] = json!({
                    "description": "Bound",
                    "headers": {"Location": {"description": "Relative; its last segment is the properties key", "schema": {"type": "string"}}},
                });
            }
            None if endpoint.path == control::PATH => {
                responses["200"] = document("What the command answers", json!({}));
            }
            None => responses["204"] = json!({"description": "Done"}),
        },
    }
    if matches!(endpoint.method, Method::PUT | Method::POST) {
        responses["408"] = refusal("The body took too long");
    }
    if endpoint.access != Access::Anybody {
        let text = "Wrong credentials, or the user may not: a Refusal; without credentials there is no body";
        responses["401"] = json!({"description": text});
    }
    responses
}
