//! The OpenAPI document, made of the table that requests are answered from.

use hyper::Method;
use serde_json::{Map, Value, json};

use crate::{
    access::Access,
    answer::{Answer, Outcome},
    request::Request,
    routes::{ENDPOINTS, Endpoint},
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
            "schemas": {
                "Refusal": {
                    "type": "object", "required": ["error", "reason"],
                    "properties": {"error": {"type": "string"}, "reason": {"type": ["string", "array"]}},
                },
            },
        },
        "paths": paths,
    })))
}

fn operation(endpoint: &Endpoint) -> Value {
    let names = endpoint.path.split('/').filter_map(|part| {
        let name = part.strip_prefix('{')?.strip_suffix('}')?;
        Some(json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
    });
    let mut parameters: Vec<Value> = names.collect();
    let looks = endpoint.method == Method::GET;
    if looks {
        for (name, text) in [
            ("columns", "Fields to keep, between commas"),
            ("sort", "Field to sort a list by"),
            ("sort_reverse", "true: the other way round"),
            ("page", "Page of a list, from 1 on"),
            ("page_size", "Items of a page, at most 500"),
            ("name", "With page: part of the names to keep"),
            ("use_regex", "true: name is a pattern"),
        ] {
            parameters.push(
                json!({"name": name, "in": "query", "description": text, "schema": {"type": "string"}}),
            );
        }
    }
    let refusal = |text: &str| {
        json!({
            "description": text,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}},
        })
    };
    let document =
        json!({"description": "What was asked for", "content": {"application/json": {}}});
    let mut responses = json!({"400": refusal("The request makes no sense"), "404": refusal("There is no such thing")});
    match endpoint.method {
        Method::GET => responses["200"] = document,
        Method::PUT => {
            responses["201"] = json!({"description": "Made"});
            responses["204"] = json!({"description": "Changed"});
        }
        Method::DELETE => responses["204"] = json!({"description": "Gone"}),
        _ => {
            responses["200"] = document;
            responses["201"] = json!({"description": "Made"});
            responses["204"] = json!({"description": "Done"});
        }
    }
    let tag = match endpoint.access {
        Access::Anybody => None,
        Access::Management => Some("management"),
        Access::Vhost => Some("management, and permissions in the virtual host"),
        Access::Policymaker => Some("policymaker"),
        Access::PolicymakerInVhost => Some("policymaker, and permissions in the virtual host"),
        Access::Monitoring => Some("monitoring"),
        Access::Administrator => Some("administrator"),
    };
    let mut operation = json!({
        "summary": endpoint.summary, "parameters": parameters, "responses": responses,
    });
    match tag {
        None => operation["security"] = json!([]),
        Some(tag) => {
            operation["description"] = format!("Needs the tag {tag}.").into();
            operation["responses"]["401"] = refusal("Wrong credentials, or the user may not");
        }
    }
    if matches!(endpoint.method, Method::PUT | Method::POST) {
        operation["requestBody"] =
            json!({"content": {"application/json": {"schema": {"type": "object"}}}});
    }
    operation
}
