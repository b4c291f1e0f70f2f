//! The HTTP management API: status codes and bodies for good and bad input, and that what is shown is so.
//!
//! Expected bodies are those of the reference broker, unless a line says otherwise.

mod support;

use std::{io::Write, thread};

use serde_json::{Value, json};
use support::{
    Broker, Client, broker, elsewhere, eventually,
    http::{self, Answer, Api},
    name,
};

/// The shared broker's API as its administrator; `None` where another broker is tested.
fn api() -> Option<Api> {
    (!elsewhere("the management API of our own process"))
        .then(|| Api::new(broker::shared().management, "guest", "guest"))
}

/// A virtual host of its own, and the API.
fn in_vhost() -> Option<(Api, String)> {
    let (api, vhost) = (api()?, name());
    assert_eq!(api.put(&format!("/vhosts/{vhost}"), "").status, 201);
    Some((api, vhost))
}

#[track_caller]
fn check(answer: &Answer, status: u16, body: Value) {
    assert_eq!(answer.status, status, "{answer:?}");
    match body {
        Value::Null => assert_eq!(answer.body, "", "{answer:?}"),
        body => assert_eq!(answer.json(), body),
    }
}

fn bad(reason: impl Into<Value>) -> Value {
    json!({"error": "bad_request", "reason": reason.into()})
}

fn missing() -> Value {
    json!({"error": "Object Not Found", "reason": "Not Found"})
}

fn denied(reason: &str) -> Value {
    json!({"error": "not_authorised", "reason": reason})
}

/// That all these fields are there with these values.
#[track_caller]
fn has(value: &Value, fields: Value) {
    for (key, expected) in fields.as_object().expect("fields") {
        assert_eq!(&value[key], expected, "{key} of {value}");
    }
}

mod access {
    use super::*;

    #[test]
    fn who_may() {
        let Some(api) = api() else { return };
        let address = broker::shared().management;
        let none = Api::anonymous(address).get("/overview");
        check(&none, 401, Value::Null);
        let realm = "Basic realm=\"RabbitMQ Management\"";
        assert_eq!(none.header("www-authenticate"), Some(realm));
        let wrong = json!({"error": "not_authorized", "reason": "Not_Authorized"});
        let stranger = Api::new(address, &name(), "x");
        check(&stranger.get("/overview"), 401, wrong.clone());
        let garbage = [("authorization", "Basic !!!")];
        let answer = Api::anonymous(address).request("GET", "/overview", &garbage, b"");
        check(&answer, 401, wrong);

        for (tags, whoami, users, nodes, globals) in [
            ("", 401, 401, 401, 401),
            ("impersonator", 401, 401, 401, 401),
            ("management", 200, 401, 401, 401),
            ("policymaker", 200, 401, 401, 200),
            ("monitoring", 200, 401, 200, 401),
            ("administrator", 200, 200, 200, 200),
        ] {
            let user = name();
            let body = json!({"password": "p", "tags": tags}).to_string();
            assert_eq!(api.put(&format!("/users/{user}"), &body).status, 201);
            let own = Api::new(address, &user, "p");
            assert_eq!(own.get("/whoami").status, whoami, "{tags}");
            assert_eq!(own.get("/users").status, users, "{tags}");
            assert_eq!(own.get("/nodes").status, nodes, "{tags}");
            assert_eq!(own.get("/global-parameters").status, globals, "{tags}");
            assert_eq!(
                own.put("/vhosts/other", "").status,
                401 - 200 * u16::from(tags == "administrator")
            );
            if tags == "management" {
                check(&own.get("/users"), 401, denied("Not administrator user"));
                check(&own.get("/nodes"), 401, denied("Not monitor user"));
                let elsewhere = denied("User not authorised to access virtual host");
                check(&own.get("/queues/%2F"), 401, elsewhere.clone());
                check(&own.put("/queues/%2F/q", "{}"), 401, elsewhere);
                check(&own.get("/vhosts"), 200, json!([]));
                check(&own.get("/queues"), 200, json!([]));
            }
            if tags.is_empty() {
                check(&own.get("/whoami"), 401, denied("Not management user"));
            }
        }
        assert_eq!(api.delete("/vhosts/other").status, 204);
    }

    #[test]
    fn guessing_is_slowed_down_and_no_password_is_logged() {
        if elsewhere("our own log") {
            return;
        }
        let broker = Broker::start(&[]);
        for _ in 0..8 {
            let wrong = Api::new(broker.management, "nobody", "secretguess");
            assert_eq!(wrong.get("/whoami").status, 401);
        }
        let log = broker.log();
        assert!(log.contains("management login refused"), "{log}");
        assert!(log.contains("too many failed logins"), "{log}");
        assert!(!log.contains("secretguess"), "{log}");
    }
}

mod requests {
    use super::*;

    #[test]
    fn paths_methods_and_headers() {
        let Some(api) = api() else { return };
        check(&api.get("/bogus"), 404, missing());
        check(&api.get("/queues/%FF/x"), 404, missing());
        check(&api.get("/..%2F..%2Fetc%2Fpasswd"), 404, missing());
        check(&api.get("/../../etc/passwd"), 404, missing());
        check(&api.get("/queues/%2F/..%2F.."), 404, missing());
        let patch = api.request("PATCH", "/users", &[], b"");
        check(&patch, 405, Value::Null);
        assert_eq!(patch.header("allow"), Some("HEAD, GET, OPTIONS"));
        let options =
            Api::anonymous(broker::shared().management).request("OPTIONS", "/users", &[], b"");
        check(&options, 200, Value::Null);
        assert_eq!(options.header("access-control-allow-origin"), None);
        let head = api.request("HEAD", "/whoami", &[], b"");
        check(&head, 200, Value::Null);
        let get = api.get("/whoami");
        assert_eq!(head.header("content-length"), get.header("content-length"));
        assert_eq!(get.header("content-type"), Some("application/json"));
        assert_eq!(get.header("cache-control"), Some("no-cache"));
        let who = json!({"name": "guest", "tags": ["administrator"], "is_internal_user": true});
        check(&get, 200, who);
    }

    #[test]
    fn bodies_that_are_none() {
        let Some(api) = api() else { return };
        let path = format!("/users/{}", name());
        for body in ["{bad", "[]", "5", "\"x\"", "{\"a\":}", "\u{0}"] {
            check(&api.put(&path, body), 400, bad("not_json"));
        }
        let deep = "{\"a\":".repeat(100_000);
        check(&api.put(&path, &deep), 400, bad("not_json"));
        check(&api.put(&path, "null"), 400, bad("tags_not_present"));
        check(&api.get(&path), 404, missing());
    }

    /// Announced or sent, a body above the limit is refused without being kept.
    #[test]
    fn bodies_that_are_too_large() {
        let Some(api) = api() else { return };
        let refusal = bad("Exceeded HTTP request body size limit");
        let announced = [("content-length", "20000001")];
        check(
            &api.request("PUT", "/users/x", &announced, b""),
            400,
            refusal.clone(),
        );
        let mut stream = http::connect(broker::shared().management);
        let head = "PUT /api/users/x HTTP/1.1\r\nhost: x\r\nauthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let megabyte = vec![b'x'; 1_000_000];
        for _ in 0..25 {
            let chunk = [b"f4240\r\n", megabyte.as_slice(), b"\r\n"].concat();
            if stream.write_all(&chunk).is_err() {
                break;
            }
        }
        let _ = stream.shutdown(std::net::Shutdown::Write);
        // The answer may be lost with the connection, which is closed over what was still to come.
        let mut octets = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut octets);
        assert!(octets.is_empty() || octets.starts_with(b"HTTP/1.1 400 "));
        assert_eq!(api.get("/whoami").status, 200);
    }

    #[test]
    fn many_at_once() {
        let Some(api) = api() else { return };
        let before = broker::shared().resident_bytes();
        let clients: Vec<_> = (0..64)
            .map(|_| {
                let api = api.clone();
                thread::spawn(move || {
                    for _ in 0..20 {
                        assert_eq!(api.get("/overview").status, 200);
                    }
                })
            })
            .collect();
        for client in clients {
            client.join().unwrap();
        }
        let grown = broker::shared().resident_bytes().saturating_sub(before);
        assert!(grown < 128 << 20, "{grown} bytes more than before");
    }

    /// Whoever sends half a header holds up nobody else.
    #[test]
    fn half_a_header() {
        let Some(api) = api() else { return };
        let slow: Vec<_> = (0..200)
            .map(|_| {
                let mut stream = http::connect(broker::shared().management);
                stream.write_all(b"GET /api/whoami HTTP/1.1\r\nx:").unwrap();
                stream
            })
            .collect();
        assert_eq!(api.get("/whoami").status, 200);
        drop(slow);
    }

    #[test]
    fn the_document_names_every_endpoint() {
        if elsewhere("our own document") {
            return;
        }
        let api = Api::anonymous(broker::shared().management);
        let document = api.get("/openapi.json").json();
        assert_eq!(document["openapi"], "3.1.0");
        let paths = document["paths"].as_object().unwrap();
        assert!(paths.len() > 80, "{}", paths.len());
        assert!(paths["/queues/{vhost}/{queue}"]["delete"]["summary"].is_string());
    }
}

mod lists {
    use super::*;

    #[test]
    fn pages_columns_and_order() {
        let Some((api, vhost)) = in_vhost() else {
            return;
        };
        for (queue, count) in [("b", 2), ("a", 0), ("C", 1)] {
            let path = format!("/queues/{vhost}/{queue}");
            assert_eq!(api.put(&path, "{}").status, 201);
            for _ in 0..count {
                publish(&api, &vhost, "amq.default", queue, "x");
            }
        }
        let list = |query: &str| api.get(&format!("/queues/{vhost}?columns=name&{query}"));
        let names =
            |names: &[&str]| -> Value { names.iter().map(|name| json!({"name": name})).collect() };
        check(&list(""), 200, names(&["C", "a", "b"]));
        check(
            &list("sort=name&sort_reverse=true"),
            200,
            names(&["b", "a", "C"]),
        );
        check(&list("sort=messages"), 200, names(&["a", "C", "b"]));
        check(&list("sort=nothing.there"), 200, names(&["C", "a", "b"]));
        let page = |page: u32, count: u32, items: Value| {
            json!({
                "total_count": 3, "filtered_count": 3, "item_count": count, "page": page,
                "page_size": 2, "page_count": 2, "items": items,
            })
        };
        check(
            &list("page=1&page_size=2"),
            200,
            page(1, 2, names(&["C", "a"])),
        );
        check(&list("page=2&page_size=2"), 200, page(2, 1, names(&["b"])));
        let out = "Page out of range, page: 9 page size: 2, len: 3";
        check(
            &list("page=9&page_size=2"),
            400,
            json!({"error": "page_out_of_range", "reason": out}),
        );
        let filtered = list("page=1&name=c").json();
        has(
            &filtered,
            json!({"total_count": 3, "filtered_count": 1, "items": names(&["C"])}),
        );
        let filtered = list("page=1&name=%5E%5Bab%5D$&use_regex=true").json();
        has(
            &filtered,
            json!({"filtered_count": 2, "items": names(&["a", "b"])}),
        );
        check(
            &list("page=x"),
            400,
            bad("Pagination parameters are invalid"),
        );
    }

    /// 5,000 queues are listed as one stream, page by page, and while messages pass.
    #[test]
    fn many_queues() {
        if elsewhere("a broker of its own") {
            return;
        }
        let broker = Broker::start(&[]);
        let api = Api::new(broker.management, "guest", "guest");
        let client = Client::to(&broker);
        let channel = client.channel(1);
        for number in 0..5_000 {
            channel.queue(&format!("q{number:05}"), "", support::table([]));
        }
        let all = api.get("/queues").json();
        let all = all.as_array().unwrap();
        assert_eq!(all.len(), 5_000);
        assert_eq!(all[4_999]["name"], "q04999");
        let page = api.get("/queues?page=50&page_size=100").json();
        has(
            &page,
            json!({"total_count": 5_000, "item_count": 100, "page_count": 50}),
        );
        assert_eq!(page["items"][0]["name"], "q04900");
        let cheap = api
            .get("/queues?disable_stats=true&enable_queue_totals=true&page=1&page_size=1")
            .json();
        let node = &all[0]["node"];
        assert_eq!(
            cheap["items"][0],
            json!({
                "name": "q00000", "vhost": "/", "type": "classic", "durable": false, "auto_delete": false, "exclusive": false,
                "arguments": {"x-queue-type": "classic"}, "node": node, "state": "running",
                "messages": 0, "messages_ready": 0, "messages_unacknowledged": 0,
            })
        );
    }
}

mod tenants {
    use super::*;

    #[test]
    fn virtual_hosts() {
        let Some((api, vhost)) = in_vhost() else {
            return;
        };
        let path = format!("/vhosts/{vhost}");
        let node = api.get("/nodes").json()[0]["name"]
            .as_str()
            .unwrap()
            .to_owned();
        let view = api.get(&path).json();
        has(
            &view,
            json!({
                "name": vhost, "description": "", "tags": [], "default_queue_type": "classic", "tracing": false,
                "metadata": {"description": "", "tags": [], "default_queue_type": "classic"}, "cluster_state": {node: "running"},
            }),
        );
        let permissions = api.get(&format!("{path}/permissions")).json();
        has(&permissions[0], json!({"user": "guest", "configure": ".*"}));
        check(
            &api.put(&path, r#"{"description":"x","tags":"a,b"}"#),
            204,
            Value::Null,
        );
        has(
            &api.get(&path).json(),
            json!({"description": "x", "tags": ["a", "b"]}),
        );
        check(
            &api.put(&path, r#"{"tracing":"yes"}"#),
            400,
            bad(json!(["not_boolean", "yes"])),
        );
        assert_eq!(
            api.post(&format!("{path}/deletion/protection"), "").status,
            204
        );
        let protected = format!(
            "Refusing to delete virtual host '{vhost}' because it is protected from deletion"
        );
        check(
            &api.delete(&path),
            412,
            json!({"error": "precondition_failed", "reason": protected}),
        );
        assert_eq!(
            api.delete(&format!("{path}/deletion/protection")).status,
            204
        );
        check(&api.delete(&path), 204, Value::Null);
        check(&api.delete(&path), 404, missing());
        check(&api.get(&path), 404, missing());
    }

    #[test]
    fn users_and_permissions() {
        let Some((api, vhost)) = in_vhost() else {
            return;
        };
        let user = name();
        let path = format!("/users/{user}");
        check(
            &api.put(&path, r#"{"password":"x"}"#),
            400,
            bad("tags_not_present"),
        );
        let both = r#"{"password":"x","password_hash":"","tags":""}"#;
        check(
            &api.put(&path, both),
            400,
            bad("both_password_and_password_hash_are_provided"),
        );
        let hash = r#"{"password_hash":"notbase64!","tags":""}"#;
        check(
            &api.put(&path, hash),
            400,
            bad(json!(["not_base64", "notbase64!"])),
        );
        check(
            &api.put(&path, r#"{"password":"x","tags":"management"}"#),
            201,
            Value::Null,
        );
        check(
            &api.put(&path, r#"{"password":"x","tags":["management","a"]}"#),
            204,
            Value::Null,
        );
        has(
            &api.get(&path).json(),
            json!({
                "name": user, "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": ["management", "a"], "limits": {},
            }),
        );
        check(&api.get(&format!("{path}/permissions")), 200, json!([]));
        let without = api.get("/users/without-permissions").json();
        assert!(
            without
                .as_array()
                .unwrap()
                .iter()
                .any(|other| other["name"] == user)
        );

        let permission = format!("/permissions/{vhost}/{user}");
        check(&api.get(&permission), 404, missing());
        let incomplete = "[{key_missing,write},{key_missing,read}]";
        check(
            &api.put(&permission, r#"{"configure":""}"#),
            400,
            bad(incomplete),
        );
        let all = r#"{"configure":".*","write":"^x","read":".*"}"#;
        let unknown = bad("vhost_or_user_not_found");
        check(
            &api.put(&format!("/permissions/{vhost}/nope"), all),
            400,
            unknown.clone(),
        );
        check(
            &api.put(&format!("/permissions/nope/{user}"), all),
            400,
            unknown,
        );
        let answer = api.put(&permission, r#"{"configure":".*","write":"(","read":".*"}"#);
        assert_eq!(
            (answer.status, &answer.json()["reason"][0]),
            (400, &json!("invalid_regexp"))
        );
        check(&api.put(&permission, all), 201, Value::Null);
        check(&api.put(&permission, all), 204, Value::Null);
        let view =
            json!({"user": user, "vhost": vhost, "configure": ".*", "write": "^x", "read": ".*"});
        check(&api.get(&permission), 200, view.clone());
        check(&api.get(&format!("{path}/permissions")), 200, json!([view]));

        let topic = format!("/topic-permissions/{vhost}/{user}");
        let body = r#"{"exchange":"amq.topic","write":"^a","read":".*"}"#;
        check(&api.put(&topic, body), 201, Value::Null);
        let view = json!({"user": user, "vhost": vhost, "exchange": "amq.topic", "write": "^a", "read": ".*"});
        for path in [
            &topic,
            &format!("{topic}/amq.topic"),
            &format!("{path}/topic-permissions"),
        ] {
            check(&api.get(path), 200, json!([view]));
        }
        check(&api.get(&format!("{topic}/other")), 404, missing());
        check(&api.delete(&topic), 204, Value::Null);
        check(&api.delete(&topic), 404, missing());
        check(&api.delete(&permission), 204, Value::Null);
        check(&api.delete(&permission), 404, missing());

        let limit = format!("/user-limits/{user}/max-channels");
        check(&api.put(&limit, r#"{"value":10}"#), 204, Value::Null);
        check(
            &api.get(&format!("/user-limits/{user}")),
            200,
            json!([{"user": user, "value": {"max-channels": 10}}]),
        );
        let unknown = "Unrecognised terms [{<<\"max-foo\">>,10}] in user-limits";
        check(
            &api.put(&format!("/user-limits/{user}/max-foo"), r#"{"value":10}"#),
            400,
            bad(unknown),
        );
        let number = "max-channels should be a number, actually was <<\"x\">>";
        check(&api.put(&limit, r#"{"value":"x"}"#), 400, bad(number));
        check(
            &api.put("/user-limits/nope/max-channels", r#"{"value":1}"#),
            400,
            bad(json!(["no_such_user", "nope"])),
        );
        check(&api.delete(&limit), 204, Value::Null);
        check(&api.get(&format!("/user-limits/{user}")), 200, json!([]));

        check(
            &api.post("/users/bulk-delete", "{}"),
            400,
            bad("[{key_missing,users}]"),
        );
        let both = json!({"users": [user, "nope"]}).to_string();
        check(&api.post("/users/bulk-delete", &both), 204, Value::Null);
        check(&api.delete(&path), 404, missing());
    }

    #[test]
    fn limits_of_virtual_hosts() {
        let Some((api, vhost)) = in_vhost() else {
            return;
        };
        let path = format!("/vhost-limits/{vhost}/max-queues");
        check(&api.put(&path, "{}"), 400, bad("[{key_missing,value}]"));
        check(&api.put(&path, r#"{"value":1}"#), 204, Value::Null);
        let other = format!("/vhost-limits/{vhost}/max-connections");
        check(&api.put(&other, r#"{"value":5}"#), 204, Value::Null);
        let both = json!([{"vhost": vhost, "value": {"max-queues": 1, "max-connections": 5}}]);
        check(&api.get(&format!("/vhost-limits/{vhost}")), 200, both);
        assert_eq!(api.put(&format!("/queues/{vhost}/a"), "{}").status, 201);
        let full =
            format!("cannot declare queue 'b': queue limit in vhost '{vhost}' (1) is reached");
        check(
            &api.put(&format!("/queues/{vhost}/b"), "{}"),
            400,
            bad(full),
        );
        check(&api.delete(&path), 204, Value::Null);
        assert_eq!(api.put(&format!("/queues/{vhost}/b"), "{}").status, 201);
        let no_vhost = json!({"error": "not_found", "reason": "vhost_not_found"});
        check(
            &api.put("/vhost-limits/nope/max-queues", r#"{"value":1}"#),
            404,
            no_vhost,
        );
        let unknown = "Validation failed\n\nUnrecognised terms [{<<\"max-foo\">>,10}] in limits\n";
        check(
            &api.put(&format!("/vhost-limits/{vhost}/max-foo"), r#"{"value":10}"#),
            400,
            bad(unknown),
        );
    }

    #[test]
    fn global_parameters_and_the_name_of_the_cluster() {
        if elsewhere("a broker of its own") {
            return;
        }
        let broker = Broker::start(&[]);
        let api = Api::new(broker.management, "guest", "guest");
        check(
            &api.put("/global-parameters/a", "{}"),
            400,
            bad("[{key_missing,value}]"),
        );
        check(
            &api.put("/global-parameters/a", r#"{"value":{"x":1}}"#),
            201,
            Value::Null,
        );
        check(
            &api.get("/global-parameters/a"),
            200,
            json!({"name": "a", "value": {"x": 1}}),
        );
        check(&api.delete("/global-parameters/a"), 204, Value::Null);
        check(&api.get("/global-parameters/a"), 404, missing());
        check(
            &api.put("/cluster-name", "{}"),
            400,
            bad("[{key_missing,name}]"),
        );
        check(
            &api.put("/cluster-name", r#"{"name":"ours"}"#),
            204,
            Value::Null,
        );
        let broker = broker.restart();
        let api = Api::new(broker.management, "guest", "guest");
        check(&api.get("/cluster-name"), 200, json!({"name": "ours"}));
    }
}

#[track_caller]
fn publish(api: &Api, vhost: &str, exchange: &str, key: &str, payload: &str) -> Value {
    let body = json!({"properties": {}, "routing_key": key, "payload": payload, "payload_encoding": "string"});
    let answer = api.post(
        &format!("/exchanges/{vhost}/{exchange}/publish"),
        &body.to_string(),
    );
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

mod topology {
    use super::*;

    #[test]
    fn queues() {
        let Some((api, vhost)) = in_vhost() else {
            return;
        };
        let path = |queue: &str| format!("/queues/{vhost}/{queue}");
        let short = r#"{"durable":true,"arguments":{"x-max-length":5}}"#;
        check(&api.put(&path("q"), short), 201, Value::Null);
        check(&api.put(&path("q"), short), 204, Value::Null);
        let other = format!(
            "inequivalent arg 'x-max-length' for queue 'q' in vhost '{vhost}': received none but current is the value '5' of type 'long'"
        );
        check(&api.put(&path("q"), r#"{"durable":true}"#), 400, bad(other));
        let no_vhost = json!({"error": "not_found", "reason": "vhost_not_found"});
        check(&api.put("/queues/nope/q", "{}"), 404, no_vhost);
        check(
            &api.put(&path("amq.q"), "{}"),
            401,
            denied("Access refused."),
        );
        check(
            &api.put(&path("r"), r#"{"durable":"yes"}"#),
            400,
            bad(json!(["not_boolean", "yes"])),
        );
        check(
            &api.put(&path("r"), r#"{"arguments":{"x":null}}"#),
            400,
            bad("null_not_allowed"),
        );
        let wrong = format!(
            "invalid arg 'x-max-length' for queue 'r' in vhost '{vhost}': \"expected integer, got longstr\""
        );
        check(
            &api.put(&path("r"), r#"{"arguments":{"x-max-length":"a"}}"#),
            400,
            bad(wrong),
        );
        assert_eq!(api.put(&path(&"x".repeat(256)), "{}").status, 400);
        check(&api.get(&path("r")), 404, missing());
        check(
            &api.put(&path("r"), r#"{"durable":"true","arguments":[]}"#),
            201,
            Value::Null,
        );

        has(
            &api.get(&path("q")).json(),
            json!({
                "name": "q", "vhost": vhost, "type": "classic", "durable": true, "auto_delete": false, "exclusive": false,
                "arguments": {"x-max-length": 5, "x-queue-type": "classic"}, "state": "running", "consumers": 0,
                "messages": 0, "messages_ready": 0, "messages_unacknowledged": 0, "messages_details": {"rate": 0.0},
                "consumer_details": [], "policy": null, "exclusive_consumer_tag": null, "single_active_consumer_tag": null,
            }),
        );
        publish(&api, &vhost, "amq.default", "q", "x");
        has(
            &api.get(&path("q")).json(),
            json!({"messages": 1, "messages_ready": 1, "message_bytes": 1}),
        );
        assert_eq!(api.get(&path("q")).json()["message_stats"]["publish"], 1);
        let full = format!("queue 'q' in vhost '{vhost}' not empty");
        check(
            &api.delete(&format!("{}?if-empty=true", path("q"))),
            400,
            bad(full),
        );
        check(
            &api.delete(&format!("{}/contents", path("q"))),
            204,
            Value::Null,
        );
        check(
            &api.delete(&format!("{}/contents", path("nope"))),
            404,
            missing(),
        );
        let act = api.post(&format!("{}/actions", path("q")), r#"{"action":"sync"}"#);
        check(&act, 400, bad(json!(["unknown", "sync"])));
        check(
            &api.delete(&format!("{}?if-empty=true", path("q"))),
            204,
            Value::Null,
        );
        check(&api.delete(&path("q")), 404, missing());
    }

    #[test]
    fn exchanges() {
        let Some((api, vhost)) = in_vhost() else {
            return;
        };
        let path = |exchange: &str| format!("/exchanges/{vhost}/{exchange}");
        check(
            &api.put(&path("x"), r#"{"type":"fanout","durable":true}"#),
            201,
            Value::Null,
        );
        check(
            &api.put(&path("x"), r#"{"type":"fanout","durable":true}"#),
            204,
            Value::Null,
        );
        let other = format!(
            "inequivalent arg 'type' for exchange 'x' in vhost '{vhost}': received 'direct' but current is 'fanout'"
        );
        check(&api.put(&path("x"), r#"{"durable":true}"#), 400, bad(other));
        check(
            &api.put(&path("y"), r#"{"type":"nonesuch"}"#),
            400,
            bad("unknown exchange type 'nonesuch'"),
        );
        check(
            &api.put(&path("amq.default"), "{}"),
            401,
            denied("Access refused."),
        );
        has(
            &api.get(&path("x")).json(),
            json!({
                "name": "x", "vhost": vhost, "type": "fanout", "durable": true, "auto_delete": false,
                "internal": false, "arguments": {}, "incoming": [], "outgoing": [],
            }),
        );
        has(
            &api.get(&path("amq.default")).json(),
            json!({"name": "", "type": "direct", "durable": true}),
        );
        check(&api.get(&path("nope")), 404, missing());
        let names: Vec<String> = api
            .get(&format!("/exchanges/{vhost}"))
            .json()
            .as_array()
            .unwrap()
            .iter()
            .map(|exchange| exchange["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            names,
            [
                "",
                "amq.direct",
                "amq.fanout",
                "amq.headers",
                "amq.match",
                "amq.rabbitmq.trace",
                "amq.topic",
                "x"
            ]
        );
        check(
            &api.delete(&path("amq.topic")),
            401,
            denied("Access refused."),
        );
        check(&api.delete(&path("x")), 204, Value::Null);
        check(&api.delete(&path("x")), 404, missing());
    }

    #[test]
    fn bindings() {
        let Some((api, vhost)) = in_vhost() else {
            return;
        };
        api.put(&format!("/queues/{vhost}/q"), "{}");
        api.put(&format!("/exchanges/{vhost}/x"), "{}");
        api.put(&format!("/exchanges/{vhost}/y"), "{}");
        let between = format!("/bindings/{vhost}/e/x/q/q");
        let bind = |body: &str| api.post(&between, body);
        let answer = bind("{}");
        check(&answer, 201, Value::Null);
        assert_eq!(answer.header("location"), Some("q/~"));
        let answer = bind(r#"{"routing_key":"a/b~c d"}"#);
        assert_eq!(answer.header("location"), Some("q/a%252Fb%257Ec%2Bd"));
        let answer = bind(r#"{"routing_key":"k","arguments":{"x":1}}"#);
        let with_arguments = answer.header("location").unwrap().to_owned();
        let answer = api.post(
            &format!("/bindings/{vhost}/e/x/e/y"),
            r#"{"routing_key":"k"}"#,
        );
        assert_eq!(answer.header("location"), Some("y/k"));
        let none = json!({"error": "not_found", "reason": format!("no exchange 'nope' in vhost '{vhost}'")});
        check(
            &api.post(&format!("/bindings/{vhost}/e/nope/q/q"), "{}"),
            404,
            none,
        );
        let none =
            json!({"error": "not_found", "reason": format!("no queue 'nope' in vhost '{vhost}'")});
        check(
            &api.post(&format!("/bindings/{vhost}/e/x/q/nope"), "{}"),
            404,
            none,
        );

        let view = |key: &str, props: &str| {
            json!({
                "source": "x", "vhost": vhost, "destination": "q", "destination_type": "queue",
                "routing_key": key, "arguments": {}, "properties_key": props,
            })
        };
        check(&api.get(&format!("{between}/~")), 200, view("", "~"));
        check(
            &api.get(&format!("{between}/a%252Fb%257Ec%2Bd")),
            200,
            view("a/b~c d", "a%2Fb%7Ec+d"),
        );
        let found = api
            .get(&format!("/bindings/{vhost}/e/x/q/{with_arguments}"))
            .json();
        has(&found, json!({"routing_key": "k", "arguments": {"x": 1}}));
        check(&api.get(&format!("{between}/zzz")), 404, missing());
        let count = |path: String| api.get(&path).json().as_array().unwrap().len();
        assert_eq!(count(between.clone()), 3);
        assert_eq!(count(format!("/queues/{vhost}/q/bindings")), 4);
        assert_eq!(count(format!("/exchanges/{vhost}/x/bindings/source")), 4);
        assert_eq!(
            count(format!("/exchanges/{vhost}/y/bindings/destination")),
            1
        );
        assert_eq!(
            count(format!("/exchanges/{vhost}/amq.default/bindings/source")),
            1
        );
        assert_eq!(count(format!("/bindings/{vhost}")), 5);
        check(
            &api.delete(&format!("/bindings/{vhost}/e/x/e/y/k")),
            204,
            Value::Null,
        );
        check(
            &api.delete(&format!("/bindings/{vhost}/e/x/e/y/k")),
            404,
            missing(),
        );
        check(
            &api.delete(&format!("/bindings/{vhost}/e/x/q/{with_arguments}")),
            204,
            Value::Null,
        );
        let used = format!("exchange 'x' in vhost '{vhost}' in use");
        check(
            &api.delete(&format!("/exchanges/{vhost}/x?if-unused=true")),
            400,
            bad(used),
        );
    }
}

mod messages {
    use super::*;

    #[test]
    fn published_and_got() {
        let Some((api, vhost)) = in_vhost() else {
            return;
        };
        api.put(&format!("/queues/{vhost}/q"), r#"{"durable":true}"#);
        let properties = json!({
            "delivery_mode": 2, "headers": {"a": 1, "b": [1, "x"], "c": 1.5, "d": true}, "timestamp": 5,
            "priority": 3, "content_type": "t", "expiration": "60000",
        });
        let path = format!("/exchanges/{vhost}/amq.default/publish");
        let send = |properties: &Value, payload: &str, encoding: &str| {
            api.post(&path, &json!({
                "properties": properties, "routing_key": "q", "payload": payload, "payload_encoding": encoding,
            }).to_string())
        };
        check(
            &send(&properties, "hey", "string"),
            200,
            json!({"routed": true}),
        );
        check(
            &send(&json!({}), "/w==", "base64"),
            200,
            json!({"routed": true}),
        );
        assert_eq!(
            publish(&api, &vhost, "amq.default", "nowhere", "x"),
            json!({"routed": false})
        );
        let get = |body: &str| api.post(&format!("/queues/{vhost}/q/get"), body);
        let first = |redelivered: bool| {
            json!({
                "payload_bytes": 3, "redelivered": redelivered, "exchange": "", "routing_key": "q", "message_count": 1,
                "properties": properties, "payload": "hey", "payload_encoding": "string",
            })
        };
        let second = |redelivered: bool| {
            json!({
                "payload_bytes": 1, "redelivered": redelivered, "exchange": "", "routing_key": "q", "message_count": 0,
                "properties": {}, "payload": "/w==", "payload_encoding": "base64",
            })
        };
        let keep = r#"{"count":5,"ackmode":"ack_requeue_true","encoding":"auto"}"#;
        check(&get(keep), 200, json!([first(false), second(false)]));
        let cut = r#"{"count":1,"ackmode":"reject_requeue_true","encoding":"base64","truncate":2}"#;
        has(
            &get(cut).json()[0],
            json!({"payload": "aGU=", "payload_encoding": "base64", "payload_bytes": 3}),
        );
        let take = r#"{"count":1,"ackmode":"ack_requeue_false","encoding":"auto"}"#;
        check(&get(take), 200, json!([first(true)]));
        let reject = r#"{"count":"9","ackmode":"reject_requeue_false","encoding":"auto"}"#;
        check(&get(reject), 200, json!([second(true)]));
        check(&get(take), 200, json!([]));
        let stats = api.get(&format!("/queues/{vhost}/q")).json();
        has(
            &stats["message_stats"],
            json!({"publish": 2, "get_no_ack": 1, "get_empty": 3, "deliver_get": 5}),
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let Some((api, vhost)) = in_vhost() else {
            return;
        };
        api.put(&format!("/queues/{vhost}/q"), "{}");
        let publish = |exchange: &str, body: Value| {
            let mut whole = json!({"properties": {}, "routing_key": "q", "payload": "x", "payload_encoding": "string"});
            for (key, value) in body.as_object().unwrap() {
                whole[key] = value.clone();
            }
            api.post(
                &format!("/exchanges/{vhost}/{exchange}/publish"),
                &whole.to_string(),
            )
        };
        let none = json!({"error": "not_found", "reason": "exchange_not_found"});
        check(&publish("nope", json!({})), 404, none);
        let own = |body: Value| publish("amq.default", body);
        check(&own(json!({"payload": 5})), 400, bad("payload_not_string"));
        check(
            &own(json!({"payload_encoding": "foo"})),
            400,
            bad(json!(["unsupported_encoding", "foo"])),
        );
        check(
            &own(json!({"payload_encoding": "base64", "payload": "5"})),
            400,
            bad(json!(["not_base64", "5"])),
        );
        check(
            &own(json!({"properties": {"delivery_mode": "x"}})),
            400,
            bad(json!(["not_int", "delivery_mode"])),
        );
        let expiration = "406 PRECONDITION_FAILED - invalid expiration 'x': no_integer";
        check(
            &own(json!({"properties": {"expiration": "x"}})),
            400,
            bad(expiration),
        );
        check(
            &api.post(
                &format!("/exchanges/{vhost}/amq.default/publish"),
                r#"{"properties":{}}"#,
            ),
            400,
            bad("[{key_missing,routing_key},{key_missing,payload},{key_missing,payload_encoding}]"),
        );
        let get = |queue: &str, body: &str| api.post(&format!("/queues/{vhost}/{queue}/get"), body);
        let whole = r#"{"count":1,"ackmode":"ack_requeue_true","encoding":"auto"}"#;
        check(
            &get("nope", whole),
            404,
            json!({"error": "not_found", "reason": "queue_not_found"}),
        );
        check(
            &get("q", r#"{"ackmode":"ack_requeue_true","encoding":"auto"}"#),
            400,
            bad("[{key_missing,count}]"),
        );
        check(
            &get(
                "q",
                r#"{"count":"x","ackmode":"ack_requeue_true","encoding":"auto"}"#,
            ),
            400,
            bad(json!(["not_integer", "x"])),
        );
        check(
            &get(
                "q",
                r#"{"count":1,"ackmode":"ack_requeue_true","encoding":"foo"}"#,
            ),
            400,
            bad("Unsupported encoding. Please use auto or base64."),
        );
        // The reference broker answers 500 without a body.
        assert_eq!(
            get("q", r#"{"count":1,"ackmode":"foo","encoding":"auto"}"#).status,
            400
        );
    }

    /// The API acts in its user's name: what AMQP refuses, it refuses.
    #[test]
    fn permissions_count() {
        let Some((api, vhost)) = in_vhost() else {
            return;
        };
        let user = name();
        api.put(
            &format!("/users/{user}"),
            r#"{"password":"p","tags":"management"}"#,
        );
        api.put(
            &format!("/permissions/{vhost}/{user}"),
            r#"{"configure":"^own","write":"^own","read":"^own"}"#,
        );
        let own = Api::new(broker::shared().management, &user, "p");
        check(
            &own.put(&format!("/queues/{vhost}/own"), "{}"),
            201,
            Value::Null,
        );
        check(
            &own.put(&format!("/queues/{vhost}/other"), "{}"),
            401,
            denied("Access refused."),
        );
        api.put(&format!("/queues/{vhost}/other"), "{}");
        check(
            &own.delete(&format!("/queues/{vhost}/other")),
            401,
            denied("Access refused."),
        );
        check(
            &own.delete(&format!("/queues/{vhost}/other/contents")),
            401,
            denied("Access refused."),
        );
        let get = r#"{"count":1,"ackmode":"ack_requeue_true","encoding":"auto"}"#;
        check(
            &own.post(&format!("/queues/{vhost}/other/get"), get),
            401,
            denied(&format!(
                "ACCESS_REFUSED - read access to queue 'other' in vhost '{vhost}' refused for user '{user}'"
            )),
        );
        assert_eq!(api.get(&format!("/queues/{vhost}/other")).status, 200);
    }

    /// What the API published with a confirm is there after a crash.
    #[test]
    fn survives_a_crash() {
        if elsewhere("a broker of its own") {
            return;
        }
        let broker = Broker::start(&[]);
        let api = Api::new(broker.management, "guest", "guest");
        assert_eq!(api.put("/queues/%2F/q", r#"{"durable":true}"#).status, 201);
        let body = json!({
            "properties": {"delivery_mode": 2}, "routing_key": "q", "payload": "kept", "payload_encoding": "string",
        });
        api.post("/exchanges/%2F/amq.default/publish", &body.to_string());
        let broker = broker.crash_and_restart();
        let api = Api::new(broker.management, "guest", "guest");
        let got = api.post(
            "/queues/%2F/q/get",
            r#"{"count":1,"ackmode":"ack_requeue_false","encoding":"auto"}"#,
        );
        assert_eq!(got.json()[0]["payload"], "kept");
    }
}

mod connections {
    use super::*;

    #[test]
    fn shown_at_once_and_closed_with_a_reason() {
        if elsewhere("a broker of its own") {
            return;
        }
        let broker = Broker::start(&[]);
        let api = Api::new(broker.management, "guest", "guest");
        check(&api.get("/connections"), 200, json!([]));
        let client = Client::to(&broker);
        let channel = client.channel(1);
        channel.queue("q", "", support::table([]));
        channel.call(&support::qos(7, ""));
        channel.consume("q", "tag", "");
        client.put("q", "hello");
        let delivery = channel.delivery();
        assert_eq!(delivery.text(), "hello");

        let all = api.get("/connections").json();
        assert_eq!(all.as_array().unwrap().len(), 1);
        let connection = &all[0];
        let own = connection["name"].as_str().unwrap().to_owned();
        let escaped = own.replace(' ', "%20").replace('>', "%3E");
        has(
            connection,
            json!({
                "user": "guest", "vhost": "/", "protocol": "AMQP 0-9-1", "type": "network", "state": "running", "ssl": false,
                "channels": 2, "auth_mechanism": "PLAIN", "peer_host": "127.0.0.1",
            }),
        );
        assert!(connection["recv_oct"].as_u64().unwrap() > 100);
        check(
            &api.get(&format!("/connections/{escaped}?columns=name")),
            200,
            json!({"name": own}),
        );

        let channels = api.get(&format!("/connections/{escaped}/channels")).json();
        let shown = &channels[0];
        has(
            shown,
            json!({
                "number": 1, "name": format!("{own} (1)"), "prefetch_count": 7, "consumer_count": 1, "confirm": false,
                "messages_unacknowledged": 1, "user": "guest", "vhost": "/",
            }),
        );
        assert_eq!(shown["connection_details"]["name"], own);
        assert_eq!(shown["message_stats"]["deliver"], 1);
        let single = api.get(&format!("/channels/{escaped}%20(1)")).json();
        assert_eq!(single["consumer_details"][0]["consumer_tag"], "tag");

        let consumer = &api.get("/consumers").json()[0];
        has(
            consumer,
            json!({
                "consumer_tag": "tag", "queue": {"name": "q", "vhost": "/"}, "ack_required": true, "exclusive": false,
                "active": true, "activity_status": "up", "prefetch_count": 7, "arguments": {},
            }),
        );
        has(
            &consumer["channel_details"],
            json!({"number": 1, "connection_name": own, "user": "guest"}),
        );
        let queue = api.get("/queues/%2F/q").json();
        has(
            &queue,
            json!({"consumers": 1, "messages": 1, "messages_unacknowledged": 1}),
        );
        assert_eq!(queue["consumer_details"][0]["consumer_tag"], "tag");
        has(
            &api.get("/overview").json()["object_totals"],
            json!({"connections": 1, "channels": 2, "queues": 1, "consumers": 1}),
        );

        check(&api.get("/connections/nope"), 404, missing());
        let reason = [("x-reason", "go away")];
        let answer = api.request("DELETE", &format!("/connections/{escaped}"), &reason, b"");
        check(&answer, 204, Value::Null);
        client.expect_close(320, "CONNECTION_FORCED - go away", (0, 0));
        client.vanish();
        eventually("the connection is gone", || {
            api.get("/connections").json() == json!([])
        });
    }

    #[test]
    fn of_others_are_not_shown() {
        let Some((api, vhost)) = in_vhost() else {
            return;
        };
        let user = name();
        api.put(
            &format!("/users/{user}"),
            r#"{"password":"p","tags":"management"}"#,
        );
        api.put(
            &format!("/permissions/{vhost}/{user}"),
            r#"{"configure":".*","write":".*","read":".*"}"#,
        );
        let client = Client::to(broker::shared());
        let own = Api::new(broker::shared().management, &user, "p");
        check(&own.get("/connections"), 200, json!([]));
        check(&own.get("/channels"), 200, json!([]));
        let name = api.get("/connections/username/guest").json()[0]["name"]
            .as_str()
            .unwrap()
            .to_owned();
        let path = format!(
            "/connections/{}",
            name.replace(' ', "%20").replace('>', "%3E")
        );
        let other = denied("User not authorised to access object");
        check(&own.get(&path), 401, other.clone());
        check(&own.delete(&path), 401, other);
        check(
            &own.delete("/connections/username/guest"),
            401,
            denied("Not administrator user"),
        );
        client.channel(1);
    }
}

mod node {
    use super::*;

    /// What strict clients insist on is there and of its type.
    #[test]
    fn overview_and_node() {
        let Some(api) = api() else { return };
        let overview = api.get("/overview").json();
        for key in [
            "cluster_name",
            "node",
            "rabbitmq_version",
            "product_name",
            "product_version",
            "erlang_version",
            "erlang_full_version",
        ] {
            assert!(overview[key].is_string(), "{key}");
        }
        for key in [
            "connection_created",
            "connection_closed",
            "channel_created",
            "channel_closed",
            "queue_declared",
            "queue_created",
            "queue_deleted",
        ] {
            assert!(overview["churn_rates"][key].is_u64(), "{key}");
            assert!(
                overview["churn_rates"][format!("{key}_details")]["rate"].is_number(),
                "{key}"
            );
        }
        for key in [
            "channels",
            "connections",
            "consumers",
            "exchanges",
            "queues",
        ] {
            assert!(overview["object_totals"][key].is_u64(), "{key}");
        }
        assert!(overview["queue_totals"]["messages_details"]["rate"].is_number());
        assert!(overview["message_stats"].is_object());
        assert!(
            overview["listeners"]
                .as_array()
                .unwrap()
                .iter()
                .any(|listener| listener["protocol"] == "http")
        );
        let node = &api.get("/nodes").json()[0];
        for key in [
            "uptime",
            "run_queue",
            "processors",
            "fd_total",
            "proc_total",
            "mem_limit",
            "mem_used",
            "disk_free",
            "disk_free_limit",
        ] {
            assert!(node[key].is_u64(), "{key}");
        }
        has(
            node,
            json!({"running": true, "mem_alarm": false, "disk_free_alarm": false, "being_drained": false, "partitions": []}),
        );
        let name = node["name"].as_str().unwrap();
        assert!(
            api.get(&format!("/nodes/{name}?memory=true")).json()["memory"]["total"]["rss"]
                .is_u64()
        );
        check(&api.get("/nodes/nope"), 404, missing());
        let flag = &api.get("/feature-flags").json()[0];
        let enable = |name: &str| api.put(&format!("/feature-flags/{name}/enable"), "{}");
        check(&enable(flag["name"].as_str().unwrap()), 204, Value::Null);
        check(&enable("nonsense"), 400, bad("unsupported"));
        for key in [
            "name",
            "state",
            "desc",
            "doc_url",
            "stability",
            "provided_by",
        ] {
            assert!(flag[key].is_string(), "{key}");
        }
    }

    #[test]
    fn health() {
        let Some(api) = api() else { return };
        let ok = json!({"status": "ok"});
        for check_name in [
            "alarms",
            "local-alarms",
            "virtual-hosts",
            "is-in-service",
            "ready-to-serve-clients",
            "below-node-connection-limit",
            "metadata-store/initialized",
            "certificate-expiration/1/weeks",
        ] {
            check(
                &api.get(&format!("/health/checks/{check_name}")),
                200,
                ok.clone(),
            );
        }
        check(&api.get("/aliveness-test/%2F"), 200, ok);
        check(&api.get("/aliveness-test/nope"), 404, missing());
        let port = broker::shared().amqp.port();
        check(
            &api.get(&format!("/health/checks/port-listener/{port}")),
            200,
            json!({"status": "ok", "port": port}),
        );
        let answer = api.get("/health/checks/port-listener/1");
        assert_eq!(answer.status, 503);
        has(
            &answer.json(),
            json!({"status": "failed", "reason": "No active listener", "missing": 1}),
        );
        check(
            &api.get("/health/checks/port-listener/x"),
            400,
            bad("Invalid port"),
        );
        check(
            &api.get("/health/checks/protocol-listener/amqp"),
            200,
            json!({"status": "ok", "protocol": "amqp"}),
        );
        assert_eq!(api.get("/health/checks/protocol-listener/mqtt").status, 503);
        let units = "Time unit not recognised. Supported units: days, weeks, months, years.";
        check(
            &api.get("/health/checks/certificate-expiration/1/x"),
            400,
            bad(units),
        );
    }

    /// An alarm is a failed check.
    #[test]
    fn an_alarm() {
        if elsewhere("a broker of its own") {
            return;
        }
        let folder = broker::fresh_folder();
        let file = folder.with_extension("toml");
        std::fs::write(&file, "[alarms]\nmemory_high_watermark = \"1MiB\"\n").unwrap();
        let broker = Broker::start_on(folder, &["--config", file.to_str().unwrap()]);
        let api = Api::new(broker.management, "guest", "guest");
        eventually("the alarm is on", || {
            api.get("/health/checks/alarms").status == 503
        });
        let answer = api.get("/health/checks/alarms").json();
        has(
            &answer,
            json!({"status": "failed", "reason": "There are alarms in effect in the cluster"}),
        );
        assert_eq!(answer["alarms"][0]["resource"], "memory");
        assert_eq!(api.get("/nodes").json()[0]["mem_alarm"], true);
    }
}

mod policies {
    use super::*;

    #[test]
    fn policies_and_operator_policies() {
        let Some((api, vhost)) = in_vhost() else {
            return;
        };
        api.put(&format!("/queues/{vhost}/q1"), "{}");
        for kind in ["policies", "operator-policies"] {
            let path = format!("/{kind}/{vhost}/p");
            let body = r#"{"pattern":"^q","definition":{"max-length":5}}"#;
            let incomplete = bad("[{key_missing,pattern},{key_missing,definition}]");
            check(&api.put(&path, "{}"), 400, incomplete);
            let wrong = api.put(&path, r#"{"pattern":"^q","definition":{"max-length":-5}}"#);
            assert_eq!(wrong.status, 400, "{wrong:?}");
            let reason = wrong.json()["reason"].as_str().unwrap().to_owned();
            assert!(reason.starts_with("Validation failed\n\n"), "{reason}");
            let no_vhost = json!({"error": "not_found", "reason": "vhost_not_found"});
            check(&api.put(&format!("/{kind}/nope/p"), body), 404, no_vhost);
            check(&api.put(&path, body), 201, Value::Null);
            check(&api.put(&path, body), 204, Value::Null);
            let view = json!({
                "vhost": vhost, "name": "p", "pattern": "^q", "apply-to": "all",
                "definition": {"max-length": 5}, "priority": 0,
            });
            check(&api.get(&path), 200, view.clone());
            check(&api.get(&format!("/{kind}/{vhost}")), 200, json!([view]));
        }
        has(
            &api.get(&format!("/queues/{vhost}/q1")).json(),
            json!({"policy": "p", "operator_policy": "p", "effective_policy_definition": {"max-length": 5}}),
        );
        let operators = api
            .get(&format!("/parameters/operator_policy/{vhost}"))
            .json();
        has(
            &operators[0],
            json!({"component": "operator_policy", "name": "p"}),
        );
        for kind in ["policies", "operator-policies"] {
            let path = format!("/{kind}/{vhost}/p");
            check(&api.delete(&path), 204, Value::Null);
            check(&api.delete(&path), 404, missing());
        }
    }

    #[test]
    fn runtime_parameters() {
        let Some((api, vhost)) = in_vhost() else {
            return;
        };
        let path = format!("/parameters/shovel/{vhost}/s");
        check(&api.put(&path, "{}"), 400, bad("[{key_missing,value}]"));
        check(&api.put(&path, r#"{"value":{"a":1}}"#), 201, Value::Null);
        check(&api.put(&path, r#"{"value":{"a":2}}"#), 204, Value::Null);
        let view = json!({"vhost": vhost, "component": "shovel", "name": "s", "value": {"a": 2}});
        check(&api.get(&path), 200, view.clone());
        check(
            &api.get(&format!("/parameters/shovel/{vhost}")),
            200,
            json!([view]),
        );
        let unknown = bad("Validation failed\n\ncomponent nope not found\n");
        let other = format!("/parameters/nope/{vhost}/s");
        check(&api.put(&other, r#"{"value":1}"#), 400, unknown);
        check(&api.delete(&path), 204, Value::Null);
        check(&api.delete(&path), 404, missing());
    }

    /// What one node exports another imports, all of it or nothing.
    #[test]
    fn definitions() {
        if elsewhere("two brokers of its own") {
            return;
        }
        let first = Broker::start(&[]);
        let api = Api::new(first.management, "guest", "guest");
        api.put("/vhosts/v", r#"{"description":"d"}"#);
        api.put("/users/u", r#"{"password":"p","tags":"monitoring"}"#);
        api.put(
            "/queues/v/q",
            r#"{"durable":true,"arguments":{"x-max-length":5}}"#,
        );
        api.put("/exchanges/v/x", r#"{"type":"topic","durable":true}"#);
        api.post("/bindings/v/e/x/q/q", r#"{"routing_key":"a.#"}"#);
        api.put(
            "/policies/v/p",
            r#"{"pattern":"^q","definition":{"max-length":9}}"#,
        );
        let whole = api.get("/definitions?download=node.json");
        assert_eq!(
            whole.header("content-disposition"),
            Some("attachment; filename=\"node.json\"")
        );

        let second = Broker::start(&[]);
        let other = Api::new(second.management, "guest", "guest");
        assert_eq!(other.post("/definitions", "{bad").status, 400);
        let half = r#"{"vhosts":[{"name":"w"}],"queues":[{"name":"q","vhost":"nope","durable":true,"auto_delete":false,"arguments":{}}]}"#;
        assert_eq!(other.post("/definitions", half).status, 400);
        check(&other.get("/vhosts/w"), 404, missing());
        check(&other.post("/definitions", &whole.body), 204, Value::Null);
        for path in [
            "/vhosts/v?columns=name,description",
            "/users/u",
            "/queues/v/q?columns=name,arguments,policy",
            "/exchanges/v/x",
            "/bindings/v",
            "/policies/v",
        ] {
            assert_eq!(api.get(path).json(), other.get(path).json(), "{path}");
        }
        let of_vhost = api.get("/definitions/v");
        other.put("/vhosts/w", "");
        check(
            &other.post("/definitions/w", &of_vhost.body),
            204,
            Value::Null,
        );
        assert_eq!(other.get("/queues/w/q").status, 200);
        let no_vhost = json!({"error": "not_found", "reason": "vhost_not_found"});
        check(
            &other.post("/definitions/nope", &of_vhost.body),
            404,
            no_vhost,
        );
        check(&other.get("/definitions/nope"), 404, missing());
    }
}
