//! The table of endpoints (`spec: http-api §4`): paths, methods, who may, what answers. Requests are answered from it and the
//! OpenAPI document is made of it.

use std::sync::Arc;

use hyper::Method;
use mamba_auth::{HashAlgorithm, PasswordHash, Tags, User, UserLimits};
use percent_encoding::percent_decode_str;

use crate::{
    access::Access::{
        self, Administrator, Anybody, Management, Monitoring, Policymaker, PolicymakerInVhost,
        Vhost,
    },
    answer::Outcome,
    bindings, connections, control, definitions, exchanges, health, limits, messages, openapi,
    overview, parameters, permissions, policies, queues,
    request::Request,
    users, vhosts,
};

/// What answers a request. It may block.
pub(crate) type Handler = fn(&Request<'_>) -> Outcome;

/// One method of one path.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// `GET` answers `HEAD`, too.
    pub(crate) method: Method,
    /// Behind `/api`; names are in braces.
    pub(crate) path: &'static str,
    pub(crate) access: Access,
    pub(crate) handler: Handler,
    /// For people.
    pub(crate) summary: &'static str,
}

/// What a path and a method lead to.
pub(crate) enum Found {
    /// This, with the names in the path.
    Endpoint(&'static Endpoint, Vec<(&'static str, String)>),
    /// The methods of the path are asked for.
    Options(String),
    /// The path is there, with these methods.
    OtherMethod(String),
    /// It is elsewhere.
    Moved(&'static str),
    /// There is no such path.
    Nothing,
}

const fn get(
    path: &'static str,
    access: Access,
    handler: Handler,
    summary: &'static str,
) -> Endpoint {
    endpoint(Method::GET, path, access, handler, summary)
}

const fn put(
    path: &'static str,
    access: Access,
    handler: Handler,
    summary: &'static str,
) -> Endpoint {
    endpoint(Method::PUT, path, access, handler, summary)
}

const fn post(
    path: &'static str,
    access: Access,
    handler: Handler,
    summary: &'static str,
) -> Endpoint {
    endpoint(Method::POST, path, access, handler, summary)
}

const fn delete(
    path: &'static str,
    access: Access,
    handler: Handler,
    summary: &'static str,
) -> Endpoint {
    endpoint(Method::DELETE, path, access, handler, summary)
}

const fn endpoint(
    method: Method,
    path: &'static str,
    access: Access,
    handler: Handler,
    summary: &'static str,
) -> Endpoint {
    Endpoint {
        method,
        path,
        access,
        handler,
        summary,
    }
}

/// Every endpoint. Of two paths that fit, the first counts.
#[rustfmt::skip]
pub(crate) static ENDPOINTS: &[Endpoint] = &[
    get("/openapi.json", Anybody, openapi::document, "This document"),
    get("/overview", Management, overview::overview, "The node at a glance"),
    get("/cluster-name", Management, overview::cluster_name, "Name of the cluster"),
    put("/cluster-name", Administrator, overview::set_cluster_name, "Rename the cluster"),
    get("/version", Management, overview::version, "Version told to clients"),
    get("/nodes", Monitoring, overview::nodes, "The nodes of the cluster"),
    get("/nodes/{node}", Monitoring, overview::node, "One node"),
    get("/nodes/{node}/memory", Monitoring, overview::memory, "What a node's memory is used for"),
    get("/nodes/{node}/memory/relative", Monitoring, overview::relative_memory, "The same in per cent"),
    get("/extensions", Management, overview::extensions, "Extensions of the management UI"),
    get("/whoami", Management, users::whoami, "The user who asks"),
    get("/auth", Anybody, overview::auth, "How to log in"),
    get("/auth/attempts/{node}", Monitoring, overview::auth_attempts, "Logins by protocol"),
    get("/auth/attempts/{node}/source", Monitoring, overview::auth_attempts_by_source, "Logins by source: address, user and protocol"),
    get("/auth/hash_password/{password}", Administrator, users::hash_password, "A password's hash with a fresh salt"),
    get("/feature-flags", Management, overview::feature_flags, "Feature flags"),
    put("/feature-flags/{name}/enable", Administrator, overview::enable_feature_flag, "Switch a feature flag on: all are"),
    get("/deprecated-features", Management, overview::deprecated_features, "Deprecated features"),
    get("/deprecated-features/used", Management, overview::deprecated_features_used, "Deprecated features in use"),
    delete("/reset", Administrator, overview::reset, "Forget the samples of rates"),
    delete("/reset/{node}", Administrator, overview::reset, "Forget the samples of rates of a node"),
    post("/rebalance/queues", Administrator, overview::rebalance, "Spread leaders of queues over the nodes: nothing to do on one"),

    get("/vhosts", Management, vhosts::list, "Virtual hosts the user may open"),
    get("/vhosts/{vhost}", Vhost, vhosts::one, "One virtual host"),
    put("/vhosts/{vhost}", Administrator, vhosts::put, "Make or change a virtual host"),
    delete("/vhosts/{vhost}", Administrator, vhosts::delete, "Delete a virtual host with everything in it"),
    get("/vhosts/{vhost}/permissions", Administrator, permissions::of_vhost, "Permissions in a virtual host"),
    get("/vhosts/{vhost}/topic-permissions", Administrator, permissions::topics_of_vhost, "Topic permissions in a virtual host"),
    post("/vhosts/{vhost}/deletion/protection", Administrator, vhosts::protect, "Protect a virtual host from deletion"),
    delete("/vhosts/{vhost}/deletion/protection", Administrator, vhosts::unprotect, "End that protection"),
    post("/vhosts/{vhost}/start/{node}", Administrator, vhosts::start, "Start a virtual host: it always is"),
    get("/vhosts/{vhost}/connections", Vhost, connections::list, "Connections in a virtual host"),
    get("/vhosts/{vhost}/channels", Vhost, connections::channels, "Channels in a virtual host"),

    get("/users", Administrator, users::list, "Users"),
    get("/users/without-permissions", Administrator, users::without_permissions, "Users without any permission"),
    post("/users/bulk-delete", Administrator, users::bulk_delete, "Delete several users"),
    get("/users/{user}", Administrator, users::one, "One user"),
    put("/users/{user}", Administrator, users::put, "Make or replace a user"),
    delete("/users/{user}", Administrator, users::delete, "Delete a user and close its connections"),
    get("/users/{user}/permissions", Administrator, permissions::of_user, "A user's permissions"),
    get("/users/{user}/topic-permissions", Administrator, permissions::topics_of_user, "A user's topic permissions"),

    get("/permissions", Administrator, permissions::list, "All permissions"),
    get("/permissions/{vhost}/{user}", Administrator, permissions::one, "A user's permissions in a virtual host"),
    put("/permissions/{vhost}/{user}", Administrator, permissions::put, "Set a user's permissions in a virtual host"),
    delete("/permissions/{vhost}/{user}", Administrator, permissions::delete, "Take a user's permissions in a virtual host away"),
    get("/topic-permissions", Administrator, permissions::topics, "All topic permissions"),
    get("/topic-permissions/{vhost}/{user}", Administrator, permissions::topics_of, "A user's topic permissions in a virtual host"),
    put("/topic-permissions/{vhost}/{user}", Administrator, permissions::put_topics, "Set a user's permissions for an exchange's topics"),
    delete("/topic-permissions/{vhost}/{user}", Administrator, permissions::delete_topics, "Take a user's topic permissions in a virtual host away"),
    get("/topic-permissions/{vhost}/{user}/{exchange}", Administrator, permissions::topics_of, "A user's permissions for an exchange's topics"),
    delete("/topic-permissions/{vhost}/{user}/{exchange}", Administrator, permissions::delete_topics, "Take them away"),

    get("/vhost-limits", Management, limits::vhosts, "Limits of virtual hosts that have any"),
    get("/vhost-limits/{vhost}", Vhost, limits::vhost, "Limits of one virtual host"),
    put("/vhost-limits/{vhost}/{name}", Administrator, limits::put_vhost, "Set a limit of a virtual host"),
    delete("/vhost-limits/{vhost}/{name}", Administrator, limits::delete_vhost, "Take a limit of a virtual host away"),
    get("/user-limits", Administrator, limits::users, "Limits of users that have any"),
    get("/user-limits/{user}", Management, limits::user, "Limits of one user"),
    put("/user-limits/{user}/{name}", Administrator, limits::put_user, "Set a limit of a user"),
    delete("/user-limits/{user}/{name}", Administrator, limits::delete_user, "Take a limit of a user away"),

    get("/global-parameters", Policymaker, parameters::globals, "Global parameters"),
    get("/global-parameters/{name}", Policymaker, parameters::global, "One global parameter"),
    put("/global-parameters/{name}", Policymaker, parameters::put_global, "Set a global parameter"),
    delete("/global-parameters/{name}", Policymaker, parameters::delete_global, "Delete a global parameter"),

    get("/parameters", Policymaker, parameters::list, "Runtime parameters of the virtual hosts the user may open"),
    get("/parameters/{component}", Policymaker, parameters::list, "Those of a component"),
    get("/parameters/{component}/{vhost}", PolicymakerInVhost, parameters::list, "Those of a component in a virtual host"),
    get("/parameters/{component}/{vhost}/{name}", PolicymakerInVhost, parameters::one, "One runtime parameter"),
    put("/parameters/{component}/{vhost}/{name}", PolicymakerInVhost, parameters::put, "Set a runtime parameter"),
    delete("/parameters/{component}/{vhost}/{name}", PolicymakerInVhost, parameters::delete, "Delete a runtime parameter"),

    get("/policies", Management, policies::users, "Policies of the virtual hosts the user may open"),
    get("/policies/{vhost}", Vhost, policies::users, "Policies of a virtual host"),
    get("/policies/{vhost}/{name}", Vhost, policies::users_one, "One policy"),
    put("/policies/{vhost}/{name}", PolicymakerInVhost, policies::put_users, "Set a policy"),
    delete("/policies/{vhost}/{name}", PolicymakerInVhost, policies::delete_users, "Delete a policy"),
    get("/operator-policies", Management, policies::operators, "Operator policies of the virtual hosts the user may open"),
    get("/operator-policies/{vhost}", Vhost, policies::operators, "Operator policies of a virtual host"),
    get("/operator-policies/{vhost}/{name}", Vhost, policies::operators_one, "One operator policy"),
    put("/operator-policies/{vhost}/{name}", Administrator, policies::put_operators, "Set an operator policy"),
    delete("/operator-policies/{vhost}/{name}", Administrator, policies::delete_operators, "Delete an operator policy"),

    get("/definitions", Administrator, definitions::export, "All definitions"),
    post("/definitions", Administrator, definitions::import, "Import definitions, all of the document or nothing"),
    get("/definitions/{vhost}", Administrator, definitions::export, "The definitions of a virtual host"),
    post("/definitions/{vhost}", Administrator, definitions::import, "Import definitions into a virtual host"),
    get("/all-configuration", Administrator, definitions::export, "All definitions, under an older name"),
    post("/all-configuration", Administrator, definitions::import, "Import definitions, under an older name"),

    post(control::PATH, Administrator, control::perform, "Do a command of mambamq ctl; the body are its arguments"),

    get("/queues", Management, queues::list, "Queues of the virtual hosts the user may open"),
    get("/queues/detailed", Management, queues::list, "The same"),
    get("/queues/{vhost}", Vhost, queues::list, "Queues of a virtual host"),
    get("/queues/{vhost}/{queue}", Vhost, queues::one, "One queue"),
    put("/queues/{vhost}/{queue}", Vhost, queues::put, "Declare a queue"),
    delete("/queues/{vhost}/{queue}", Vhost, queues::delete, "Delete a queue"),
    get("/queues/{vhost}/{queue}/bindings", Vhost, bindings::to_queue, "Bindings to a queue, the default exchange's included"),
    delete("/queues/{vhost}/{queue}/contents", Vhost, queues::purge, "Drop a queue's ready messages"),
    post("/queues/{vhost}/{queue}/actions", Administrator, queues::act, "Obsolete actions: refused"),
    post("/queues/{vhost}/{queue}/get", Vhost, messages::get, "Take or look at messages"),

    get("/exchanges", Management, exchanges::list, "Exchanges of the virtual hosts the user may open"),
    get("/exchanges/{vhost}", Vhost, exchanges::list, "Exchanges of a virtual host"),
    get("/exchanges/{vhost}/{exchange}", Vhost, exchanges::one, "One exchange"),
    put("/exchanges/{vhost}/{exchange}", Vhost, exchanges::put, "Declare an exchange"),
    delete("/exchanges/{vhost}/{exchange}", Vhost, exchanges::delete, "Delete an exchange"),
    get("/exchanges/{vhost}/{exchange}/bindings/source", Vhost, bindings::from_exchange, "Bindings from an exchange"),
    get("/exchanges/{vhost}/{exchange}/bindings/destination", Vhost, bindings::to_exchange, "Bindings to an exchange"),
    post("/exchanges/{vhost}/{exchange}/publish", Vhost, messages::publish, "Publish a message"),

    get("/bindings", Management, bindings::list, "Bindings of the virtual hosts the user may open"),
    get("/bindings/{vhost}", Vhost, bindings::list, "Bindings of a virtual host"),
    get("/bindings/{vhost}/e/{source}/q/{queue}", Vhost, bindings::between, "Bindings between an exchange and a queue"),
    post("/bindings/{vhost}/e/{source}/q/{queue}", Vhost, bindings::bind, "Bind a queue to an exchange"),
    get("/bindings/{vhost}/e/{source}/q/{queue}/{props}", Vhost, bindings::one, "One binding"),
    delete("/bindings/{vhost}/e/{source}/q/{queue}/{props}", Vhost, bindings::unbind, "Delete a binding"),
    get("/bindings/{vhost}/e/{source}/e/{destination}", Vhost, bindings::between, "Bindings between two exchanges"),
    post("/bindings/{vhost}/e/{source}/e/{destination}", Vhost, bindings::bind, "Bind an exchange to an exchange"),
    get("/bindings/{vhost}/e/{source}/e/{destination}/{props}", Vhost, bindings::one, "One binding"),
    delete("/bindings/{vhost}/e/{source}/e/{destination}/{props}", Vhost, bindings::unbind, "Delete a binding"),

    get("/connections", Management, connections::list, "Connections"),
    get("/connections/username/{user}", Management, connections::of_user, "A user's connections"),
    delete("/connections/username/{user}", Management, connections::close_of_user, "Close a user's connections"),
    get("/connections/{connection}", Management, connections::one, "One connection"),
    delete("/connections/{connection}", Management, connections::close, "Close a connection; X-Reason says why"),
    get("/connections/{connection}/channels", Management, connections::channels_of, "A connection's channels"),
    get("/channels", Management, connections::channels, "Channels"),
    get("/channels/{channel}", Management, connections::channel, "One channel"),
    get("/consumers", Management, connections::consumers, "Consumers"),
    get("/consumers/{vhost}", Vhost, connections::consumers, "Consumers in a virtual host"),

    get("/aliveness-test/{vhost}", Vhost, health::aliveness, "Deprecated: the node answers"),
    get("/healthchecks/node", Monitoring, health::node, "Deprecated: the node answers"),
    get("/healthchecks/node/{node}", Monitoring, health::node, "Deprecated: the node answers"),
    get("/health/checks/alarms", Management, health::alarms, "No alarm is on"),
    get("/health/checks/local-alarms", Management, health::alarms, "No alarm is on at this node"),
    get("/health/checks/virtual-hosts", Management, health::virtual_hosts, "All virtual hosts run"),
    get("/health/checks/node-is-quorum-critical", Management, health::quorum_critical, "Nothing would lose its majority with this node"),
    get("/health/checks/is-in-service", Management, health::in_service, "The node serves clients"),
    get("/health/checks/ready-to-serve-clients", Management, health::in_service, "The node serves clients and is not being drained"),
    get("/health/checks/below-node-connection-limit", Management, health::connection_limit, "The node takes more connections"),
    get("/health/checks/metadata-store/initialized", Management, health::metadata_store, "Definitions can be stored"),
    get("/health/checks/metadata-store/initialized/with-data", Management, health::metadata_store, "Definitions can be stored and are there"),
    get("/health/checks/reached-target-cluster-size", Management, health::cluster_size, "All expected nodes are there"),
    get("/health/checks/port-listener/{port}", Management, health::port_listener, "The node listens on a port"),
    get("/health/checks/protocol-listener/{protocols}", Management, health::protocol_listener, "The node listens for a protocol"),
    get("/health/checks/certificate-expiration/{within}/{unit}", Management, health::certificates, "No certificate expires within a time"),
];

/// Where a request goes. The path is as it came, percent-encoded.
pub(crate) fn find(path: &str, method: &Method) -> Found {
    let Some(below) = path.strip_prefix("/api/") else {
        return match path {
            "/" | "/api" => Found::Moved("/api/openapi.json"),
            _ => Found::Nothing,
        };
    };
    if below.is_empty() {
        return Found::Moved("/api/openapi.json");
    }
    let given: Vec<&str> = below.trim_end_matches('/').split('/').collect();
    let mut methods = Vec::new();
    for endpoint in ENDPOINTS {
        let Some(names) = fit(endpoint.path, &given) else {
            continue;
        };
        let asked = if *method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        if endpoint.method == *asked {
            return Found::Endpoint(endpoint, names);
        }
        if !methods.contains(&endpoint.method.as_str()) {
            methods.push(endpoint.method.as_str());
        }
    }
    if methods.is_empty() {
        return Found::Nothing;
    }
    let mut allowed: Vec<&str> = methods.clone();
    if methods.contains(&"GET") {
        allowed.insert(0, "HEAD");
    }
    allowed.push("OPTIONS");
    let allowed = allowed.join(", ");
    if *method == Method::OPTIONS {
        Found::Options(allowed)
    } else {
        Found::OtherMethod(allowed)
    }
}

/// The names in a path that fits a pattern. Octets that are no UTF-8 fit nothing.
fn fit(pattern: &'static str, given: &[&str]) -> Option<Vec<(&'static str, String)>> {
    let mut names = Vec::new();
    let mut rest = given.iter();
    for part in pattern.trim_start_matches('/').split('/') {
        let segment = rest.next()?;
        match part
            .strip_prefix('{')
            .and_then(|part| part.strip_suffix('}'))
        {
            Some(name) => {
                let decoded = percent_decode_str(segment).decode_utf8().ok()?;
                names.push((name, decoded.into_owned()));
            }
            None if part == *segment => {}
            None => return None,
        }
    }
    rest.next().is_none().then_some(names)
}

/// Who asks where nobody is asked for a name.
pub(crate) fn nobody() -> Arc<User> {
    Arc::new(User {
        name: "".into(),
        password: PasswordHash::disabled(HashAlgorithm::default()),
        tags: Tags::default(),
        limits: UserLimits::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &str, path: &str, expected: &str) {
        let method = method.parse().unwrap();
        let found = match find(path, &method) {
            Found::Endpoint(endpoint, names) => {
                let names: Vec<String> = names
                    .into_iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                format!("{} {}", endpoint.path, names.join(" "))
            }
            Found::Options(methods) => format!("options {methods}"),
            Found::OtherMethod(methods) => format!("other {methods}"),
            Found::Moved(to) => format!("moved {to}"),
            Found::Nothing => "nothing".to_owned(),
        };
        assert_eq!(found.trim_end(), expected);
    }

    #[test]
    fn paths_and_methods() {
        check("GET", "/api/overview", "/overview");
        check("HEAD", "/api/overview", "/overview");
        check("GET", "/api/queues/%2F", "/queues/{vhost} vhost=/");
        check(
            "GET",
            "/api/queues/%2f/a%20b",
            "/queues/{vhost}/{queue} vhost=/ queue=a b",
        );
        check("GET", "/api/queues/detailed", "/queues/detailed");
        check(
            "GET",
            "/api/queues/a/..",
            "/queues/{vhost}/{queue} vhost=a queue=..",
        );
        check(
            "GET",
            "/api/bindings/%2F/e/x/q/q/a%252Fb",
            "/bindings/{vhost}/e/{source}/q/{queue}/{props} vhost=/ source=x queue=q props=a%2Fb",
        );
        check(
            "PATCH",
            "/api/cluster-name",
            "other HEAD, GET, PUT, OPTIONS",
        );
        check(
            "OPTIONS",
            "/api/users/bulk-delete",
            "options HEAD, POST, GET, PUT, DELETE, OPTIONS",
        );
        check("GET", "/api/bogus", "nothing");
        check("GET", "/api/queues/%FF", "nothing");
        check("GET", "/api/../etc/passwd", "nothing");
        check("GET", "/etc/passwd", "nothing");
        check("GET", "/api/", "moved /api/openapi.json");
    }

    #[test]
    fn every_endpoint_is_reached_by_its_own_path() {
        for endpoint in ENDPOINTS {
            let path = format!("/api{}", endpoint.path.replace(['{', '}'], ""));
            match find(&path, &endpoint.method) {
                Found::Endpoint(found, _) => assert_eq!(found.path, endpoint.path),
                _ => panic!("{path} leads nowhere"),
            }
        }
    }
}
