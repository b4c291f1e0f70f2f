//! What `rabbitmq-diagnostics` is asked for: is the node well, and what does it listen on. A check that fails has exit code 69.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    Done, EX_UNAVAILABLE, EX_USAGE, Failure, Invocation, Node,
    output::{self, Format},
    say,
};

/// The commands of this file and how they are called.
pub(super) const COMMANDS: [(&str, &str); 12] = [
    ("check_running", "check_running"),
    ("is_running", "is_running"),
    ("is_booting", "is_booting"),
    ("check_local_alarms", "check_local_alarms"),
    ("check_alarms", "check_alarms"),
    ("alarms", "alarms"),
    ("check_virtual_hosts", "check_virtual_hosts"),
    ("check_port_listener", "check_port_listener <port>"),
    (
        "check_protocol_listener",
        "check_protocol_listener <protocol>",
    ),
    (
        "check_port_connectivity",
        "check_port_connectivity [--address <address>]",
    ),
    ("listeners", "listeners"),
    ("server_version", "server_version"),
];

/// How long a listener may take to accept.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Does one command.
pub(super) fn perform(node: &mut Node, invocation: &Invocation) -> Done {
    let status = node.ask("status", json!({}))?;
    let name = status["node"].as_str().unwrap_or_default();
    let banner = |text: String| invocation.banner(&text);
    let command = invocation.command.as_str();
    let well = |text: &str| {
        output::message(invocation, text);
        Ok(())
    };
    match command {
        "check_port_listener" | "check_protocol_listener" => {
            let [wanted] = invocation.exactly()?;
            return listener(node, invocation, name, wanted);
        }
        _ => {
            let [] = invocation.exactly()?;
        }
    }
    match command {
        "check_running" | "is_running" => {
            banner(if command == "is_running" {
                format!("Asking node {name} for its status ...")
            } else {
                format!("Checking if MambaMQ is running on node {name} ...")
            });
            well(&format!(
                "MambaMQ on node {name} is fully booted and running"
            ))
        }
        "is_booting" => {
            banner(format!("Asking node {name} for its boot status ..."));
            well(&format!(
                "MambaMQ on node {name} is fully booted (check with is_running), stopped or has not started booting yet"
            ))
        }
        "check_local_alarms" | "check_alarms" | "alarms" => {
            let kind = if command == "alarms" {
                "known"
            } else {
                "local"
            };
            banner(format!(
                "Asking node {name} to report any {kind} resource alarms ..."
            ));
            let alarms = status["alarms"].as_array().into_iter().flatten();
            let lines: Vec<String> = alarms
                .filter_map(Value::as_str)
                .map(|resource| match resource {
                    "memory" => format!("Memory alarm on node {name}"),
                    "disk" => format!("Free disk space alarm on node {name}"),
                    other => format!("{other} alarm on node {name}"),
                })
                .collect();
            match (lines.is_empty(), command) {
                (true, "check_local_alarms") => {
                    well(&format!("Node {name} reported no local alarms"))
                }
                (true, _) => well(&format!(
                    "Node {name} reported no alarms, local or clusterwide"
                )),
                (false, "alarms") => well(&lines.join("\n")),
                (false, _) => Err(Failure::error(EX_UNAVAILABLE, lines.join("\n"))),
            }
        }
        "check_virtual_hosts" => {
            banner(format!(
                "Checking if all vhosts are running on node {name} ..."
            ));
            // A virtual host that could not be recovered would have kept the node from starting.
            well(&format!("Node {name} reported all vhosts as running"))
        }
        "check_port_connectivity" => connectivity(node, invocation, name),
        "listeners" => {
            banner(format!(
                "Asking node {name} to report its protocol listeners ..."
            ));
            let found = node.ask("list_listeners", json!({}))?;
            let mut listeners = output::rows(&found).to_vec();
            for listener in &mut listeners {
                let protocol = listener["protocol"].as_str().unwrap_or_default();
                listener["purpose"] = purpose(protocol).into();
                listener["node"] = name.into();
            }
            if matches!(invocation.format, Format::Json | Format::JsonStream) {
                say(&json!({"result": "ok", "node": name, "listeners": listeners}).to_string());
                return Ok(());
            }
            for listener in &listeners {
                say(&format!(
                    "Interface: {}, port: {}, protocol: {}, purpose: {}",
                    interface(listener),
                    listener["port"],
                    listener["protocol"].as_str().unwrap_or_default(),
                    listener["purpose"].as_str().unwrap_or_default(),
                ));
            }
            Ok(())
        }
        _ => {
            banner(format!("Asking node {name} for its version..."));
            well(status["product_version"].as_str().unwrap_or_default())
        }
    }
}

fn purpose(protocol: &str) -> &'static str {
    match protocol {
        "amqp" => "AMQP 0-9-1",
        "amqp/ssl" => "AMQP 0-9-1 over TLS",
        "http" => "HTTP API",
        "https" => "HTTP API over TLS (HTTPS)",
        "http/prometheus" => "Prometheus exporter API over HTTP",
        _ => "",
    }
}

/// An address that means all of them is written in brackets if it is one of IPv6, like any other.
fn interface(listener: &Value) -> String {
    let text = listener["interface"].as_str().unwrap_or_default();
    if text.contains(':') {
        format!("[{text}]")
    } else {
        text.to_owned()
    }
}

fn listener(node: &mut Node, invocation: &Invocation, name: &str, wanted: &str) -> Done {
    let found = node.ask("list_listeners", json!({}))?;
    let by_port = invocation.command == "check_port_listener";
    let what = if by_port { "port" } else { "protocol" };
    let words: BTreeSet<String> = output::rows(&found)
        .iter()
        .map(|listener| match &listener[what] {
            Value::String(protocol) => protocol.clone(),
            port => port.to_string(),
        })
        .collect();
    let asked = if by_port {
        let port: u16 = wanted.parse().map_err(|_| {
            let text = format!("Error: a port is a number up to 65535, not '{wanted}'");
            Failure::new(EX_USAGE, text)
        })?;
        invocation.banner(&format!(
            "Asking node {name} if there's an active listener on port {port} ..."
        ));
        port.to_string()
    } else {
        invocation.banner(&format!(
            "Asking node {name} if there's an active listener for protocol {wanted} ..."
        ));
        // Other names that people use.
        match wanted.to_lowercase().as_str() {
            "amqps" | "amqp+ssl" | "amqp091+ssl" => "amqp/ssl".to_owned(),
            "amqp091" | "amqp0.9.1" | "amqp0-9-1" => "amqp".to_owned(),
            "prometheus" => "http/prometheus".to_owned(),
            other => other.to_owned(),
        }
    };
    if words.contains(&asked) {
        let text = format!("A listener for {what} {wanted} is running on node {name}.");
        output::message(invocation, &text);
        return Ok(());
    }
    let (others, use_them) = (
        Vec::from_iter(words).join(", "),
        if by_port {
            "that use the following ports"
        } else {
            "for the following protocols"
        },
    );
    let text = format!(
        "No listener for {what} {wanted} is active on node {name}. Found listeners {use_them}: {others}"
    );
    Err(Failure::error(EX_UNAVAILABLE, text))
}

/// Connects from here to every listener: by its own address, or the one that was given.
fn connectivity(node: &mut Node, invocation: &Invocation, name: &str) -> Done {
    let given = match (invocation.option("address"), &*node) {
        (Some(text), _) => Some(text.to_owned()),
        (None, Node::Elsewhere(remote, _)) => Some(remote.host().to_owned()),
        (None, Node::Here(_)) => None,
    };
    invocation.banner(&format!(
        "Testing TCP connections to all active listeners on node {name} ..."
    ));
    let found = node.ask("list_listeners", json!({}))?;
    let mut reached = Vec::new();
    let mut failed = Vec::new();
    for listener in output::rows(&found) {
        let port = listener["port"]
            .as_u64()
            .and_then(|port| port.try_into().ok());
        let own = listener["interface"]
            .as_str()
            .and_then(|text| text.parse().ok());
        let (Some(port), Some(own)): (Option<u16>, Option<IpAddr>) = (port, own) else {
            continue;
        };
        let host = match &given {
            Some(host) => host.clone(),
            None => reachable(own).to_string(),
        };
        invocation.banner(&format!("Will connect to {host}:{port}"));
        match connect(&host, port) {
            Ok(()) => reached.push(port.to_string()),
            Err(error) => failed.push(format!("{host}:{port} ({error})")),
        }
    }
    if failed.is_empty() {
        let ports = reached.join(", ");
        let text = format!("Successfully connected to ports {ports} on node {name}");
        output::message(invocation, &text);
        return Ok(());
    }
    let text = format!(
        "Connection attempts failed to some ports on node {name}: {}",
        failed.join(", ")
    );
    Err(Failure::error(EX_UNAVAILABLE, text))
}

/// Where one connects to reach an interface.
fn reachable(interface: IpAddr) -> IpAddr {
    match interface {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

fn connect(host: &str, port: u16) -> std::io::Result<()> {
    let addresses: Vec<SocketAddr> =
        std::net::ToSocketAddrs::to_socket_addrs(&(host, port))?.collect();
    let mut last = std::io::Error::other("the name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIME) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}
