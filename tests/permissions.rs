//! What every method needs, as a table to be read beside `semantics §21`: configure, write and read of queues and exchanges, per
//! virtual host, and the topics of topic exchanges.
//!
//! Each line is asked twice over: with exactly what it names and nothing else the method is done; with everything in the virtual host
//! but one of those names it is refused, by the text that names what was missing.

#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers may unwrap like the test"
)]

mod support;

use amq_protocol::protocol::AMQPClass;
use support::{
    ctl::{ctl, leaked, run},
    *,
};

/// A right to a resource: what is asked for, and what the refusal says.
#[derive(Clone, Copy, PartialEq)]
enum Needs {
    Configure(&'static str),
    Write(&'static str),
    Read(&'static str),
}
use Needs::{Configure, Read, Write};

impl Needs {
    /// Which of the three patterns, the refusal's word for it, and the resource as `queue NAME` or `exchange NAME`.
    const fn parts(self) -> (usize, &'static str, &'static str) {
        match self {
            Configure(resource) => (0, "configure", resource),
            Write(resource) => (1, "write", resource),
            Read(resource) => (2, "read", resource),
        }
    }

    fn name(self) -> &'static str {
        self.parts().2.split_once(' ').unwrap().1
    }

    fn refusal(self, vhost: &str, user: &str) -> String {
        let (_, word, resource) = self.parts();
        let (kind, name) = resource.split_once(' ').unwrap();
        format!(
            "ACCESS_REFUSED - {word} access to {kind} '{name}' in vhost '{vhost}' refused for user '{user}'"
        )
    }
}

/// A method, its class and number, and what it needs in the order it is asked for.
type Line = (AMQPClass, (u16, u16), &'static [Needs]);

/// `q`, `x`, `y` and the exclusive `own` are there; `dlx` and `ae` need not be.
fn lines() -> Vec<Line> {
    let none = || table([]);
    let with = |key, value: &str| table([(key, text(value))]);
    let dead = with("x-dead-letter-exchange", "dlx");
    let alternate = with("alternate-exchange", "ae");
    vec![
        // exchange
        (
            exchange_declare("new", "topic", "", none()),
            (40, 10),
            &[Configure("exchange new")],
        ),
        (
            exchange_declare("x", "direct", "", none()),
            (40, 10),
            &[Configure("exchange x")],
        ),
        (
            exchange_declare("new2", "direct", "", alternate),
            (40, 10),
            &[
                Configure("exchange new2"),
                Read("exchange new2"),
                Write("exchange ae"),
            ],
        ),
        (
            exchange_bind("y", "x", "k", none()),
            (40, 30),
            &[Write("exchange y"), Read("exchange x")],
        ),
        (
            exchange_unbind("y", "x", "k", none()),
            (40, 40),
            &[Write("exchange y"), Read("exchange x")],
        ),
        (
            exchange_delete("new", ""),
            (40, 20),
            &[Configure("exchange new")],
        ),
        // queue
        (
            queue_declare("qn", "", none()),
            (50, 10),
            &[Configure("queue qn")],
        ),
        (
            queue_declare("q", "", none()),
            (50, 10),
            &[Configure("queue q")],
        ),
        (
            queue_declare("qx", "exclusive", none()),
            (50, 10),
            &[Configure("queue qx")],
        ),
        (
            queue_declare("qd", "", dead),
            (50, 10),
            &[
                Configure("queue qd"),
                Read("queue qd"),
                Write("exchange dlx"),
            ],
        ),
        (
            queue_bind("q", "x", "k", none()),
            (50, 20),
            &[Write("queue q"), Read("exchange x")],
        ),
        (
            queue_bind("own", "x", "k", none()),
            (50, 20),
            &[Write("queue own"), Read("exchange x")],
        ),
        (
            queue_bind("q", "amq.topic", "k", none()),
            (50, 20),
            &[Write("queue q"), Read("exchange amq.topic")],
        ),
        (
            queue_unbind("q", "x", "k", none()),
            (50, 50),
            &[Write("queue q"), Read("exchange x")],
        ),
        (queue_purge("q"), (50, 30), &[Read("queue q")]),
        (queue_delete("qn", ""), (50, 40), &[Configure("queue qn")]),
        // basic
        (
            consume("q", "", "no_ack", none()),
            (60, 20),
            &[Read("queue q")],
        ),
        (
            consume("own", "", "exclusive", none()),
            (60, 20),
            &[Read("queue own")],
        ),
        (get("q", "no_ack"), (60, 70), &[Read("queue q")]),
        // what needs nothing
        (qos(1, ""), (60, 10), &[]),
        (cancel("nobody", ""), (60, 30), &[]),
        (recover("requeue"), (60, 110), &[]),
        (channel_flow(true), (20, 20), &[]),
    ]
}

/// A user in a virtual host of its own, with a neighbour it has every right in.
struct Tenant {
    user: &'static str,
    vhost: &'static str,
    neighbour: &'static str,
}

impl Tenant {
    fn new() -> Self {
        let this = Self {
            user: leaked(name()),
            vhost: leaked(name()),
            neighbour: leaked(name()),
        };
        ctl(&["add_user", this.user, "secret"]);
        ctl(&["add_vhost", this.vhost]);
        ctl(&["add_vhost", this.neighbour]);
        ctl(&[
            "set_permissions",
            "-p",
            this.neighbour,
            this.user,
            ".*",
            ".*",
            ".*",
        ]);
        this
    }

    fn permit(&self, patterns: &[String; 3]) {
        let [configure, write, read] = patterns;
        ctl(&[
            "set_permissions",
            "-p",
            self.vhost,
            self.user,
            configure,
            write,
            read,
        ]);
    }

    /// Exactly these rights.
    fn permit_only(&self, needs: &[Needs]) {
        let patterns = [0, 1, 2].map(|which| {
            let of_it = needs.iter().filter(|need| need.parts().0 == which);
            let names: Vec<&str> = of_it.map(|need| need.name()).collect();
            if names.is_empty() {
                String::new()
            } else {
                format!("^({})$", names.join("|")).replace("amq.", "amq\\.")
            }
        });
        self.permit(&patterns);
    }

    /// Everything but one right.
    fn permit_all_but(&self, missing: Needs) {
        let patterns = [0, 1, 2].map(|which| {
            if which == missing.parts().0 {
                format!("^(?!{}$)", missing.name())
            } else {
                ".*".to_owned()
            }
        });
        self.permit(&patterns);
    }

    fn connect(&self) -> Client {
        Client::with(&Options {
            user: self.user,
            password: "secret",
            virtual_host: self.vhost,
            ..Options::default()
        })
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            for vhost in [self.vhost, self.neighbour] {
                run(None, &["delete_vhost", vhost]);
            }
            run(None, &["delete_user", self.user]);
        }
    }
}

/// A channel with what the table's methods work on.
fn prepared(tenant: &Tenant) -> (Client, Channel) {
    tenant.permit(&[".*", ".*", ".*"].map(str::to_owned));
    let client = tenant.connect();
    let channel = client.channel(1);
    for exchange in ["x", "y"] {
        channel.call(&exchange_declare(exchange, "direct", "", table([])));
    }
    channel.queue("q", "", table([]));
    channel.queue("own", "exclusive", table([]));
    (client, channel)
}

fn reopen(channel: &Channel) {
    channel.send(&channel_close_ok());
    channel.call(&channel_open());
}

#[test]
fn every_method_needs_what_the_table_says_and_nothing_else() {
    let tenant = Tenant::new();
    let (_client, channel) = prepared(&tenant);
    for (method, ids, needs) in lines() {
        for missing in needs {
            tenant.permit_all_but(*missing);
            channel.send(&method);
            channel.expect_close(403, &missing.refusal(tenant.vhost, tenant.user), ids);
            reopen(&channel);
        }
        tenant.permit_only(needs);
        channel.call(&method);
    }
}

#[test]
fn what_is_missing_first_is_named_first() {
    let tenant = Tenant::new();
    let (_client, channel) = prepared(&tenant);
    tenant.permit_only(&[]);
    for (method, ids, needs) in lines() {
        if let Some(first) = needs.first() {
            channel.send(&method);
            channel.expect_close(403, &first.refusal(tenant.vhost, tenant.user), ids);
            reopen(&channel);
        }
    }
}

#[test]
fn a_passive_declaration_needs_any_right_to_the_name() {
    let tenant = Tenant::new();
    let (_client, channel) = prepared(&tenant);
    let passive = || {
        [
            (
                queue_declare("q", "passive", table([])),
                (50, 10),
                "queue q",
            ),
            (
                exchange_declare("x", "direct", "passive", table([])),
                (40, 10),
                "exchange x",
            ),
        ]
    };
    for (method, ids, resource) in passive() {
        let needs = [Configure(resource), Write(resource), Read(resource)];
        for any in needs {
            tenant.permit_only(&[any]);
            channel.call(&method);
        }
        let other = [
            Configure("queue other"),
            Write("queue other"),
            Read("queue other"),
        ];
        tenant.permit_only(&other);
        if !elsewhere("passive declarations have needed a right since RabbitMQ 4.3") {
            channel.send(&method);
            channel.expect_close(
                403,
                &Configure(resource).refusal(tenant.vhost, tenant.user),
                ids,
            );
            reopen(&channel);
        }
    }
}

/// Publishes are not answered: a confirm says that one was taken, also inside of a transaction.
#[test]
fn publishing_needs_write_on_the_exchange() {
    let tenant = Tenant::new();
    let (client, channel) = prepared(&tenant);
    for (exchange, need) in [
        ("x", Write("exchange x")),
        ("", Write("exchange amq.default")),
        ("amq.fanout", Write("exchange amq.fanout")),
    ] {
        tenant.permit_all_but(need);
        channel.publish(exchange, "q", "refused");
        channel.expect_close(403, &need.refusal(tenant.vhost, tenant.user), (60, 40));
        reopen(&channel);
        tenant.permit_only(&[need]);
        channel.call(&confirm_select());
        channel.publish(exchange, "q", "taken");
        channel.confirms(1, 1);
        channel.close();
        let transactional = client.channel(1);
        transactional.call(&tx_select());
        transactional.publish(exchange, "q", "taken");
        transactional.call(&tx_commit());
        tenant.permit_all_but(need);
        transactional.publish(exchange, "q", "refused");
        transactional.expect_close(403, &need.refusal(tenant.vhost, tenant.user), (60, 40));
        reopen(&transactional);
    }
    tenant.permit(&[".*", ".*", ".*"].map(str::to_owned));
    assert_eq!(channel.ready("q"), 2, "one confirmed and one committed");
}

/// Settling what was delivered needs no right, and goes on when the right to read is gone.
#[test]
fn settling_needs_nothing() {
    let tenant = Tenant::new();
    let (client, channel) = prepared(&tenant);
    for body in ["1", "2", "3"] {
        client.put("q", body);
    }
    let deliveries: Vec<Content> = (0..3).map(|_| channel.get("q", "").unwrap()).collect();
    tenant.permit_only(&[]);
    channel.send(&ack(deliveries[0].tag, ""));
    channel.send(&reject(deliveries[1].tag, ""));
    channel.send(&nack(deliveries[2].tag, ""));
    channel.flow();
}

/// Topic permissions hold for the routing keys of publishes and the binding keys of binds, of topic exchanges alone.
#[test]
fn topics_are_asked_for_by_their_keys() {
    let tenant = Tenant::new();
    let (client, channel) = prepared(&tenant);
    channel.call(&exchange_declare("t", "topic", "", table([])));
    let set = |exchange: &str, write: &str, read: &str| {
        ctl(&[
            "set_topic_permissions",
            "-p",
            tenant.vhost,
            tenant.user,
            exchange,
            write,
            read,
        ]);
    };
    set("t", "^{username}\\.w", "^r\\.");
    set("x", "^nothing$", "^nothing$");
    let refusal = |word: &str, key: &str| {
        format!(
            "ACCESS_REFUSED - {word} access to topic '{key}' in exchange 't' in vhost '{}' refused for user '{}'",
            tenant.vhost, tenant.user
        )
    };
    let own = format!("{}.w", tenant.user);
    // Binds: the destination may be a queue or an exchange.
    let binds = |key: &str| {
        [
            (queue_bind("q", "t", key, table([])), (50, 20)),
            (queue_unbind("q", "t", key, table([])), (50, 50)),
            (exchange_bind("y", "t", key, table([])), (40, 30)),
            (exchange_unbind("y", "t", key, table([])), (40, 40)),
        ]
    };
    for (method, ids) in binds("w.1") {
        channel.send(&method);
        channel.expect_close(403, &refusal("read", "w.1"), ids);
        reopen(&channel);
    }
    for (method, _) in binds("r.#") {
        channel.call(&method);
    }
    channel.bind("q", "x", "anything");
    channel.call(&confirm_select());
    channel.publish("x", "anything", "not a topic");
    channel.publish("t", &own, "its own");
    channel.confirms(1, 2);
    let copied = headers([("CC", array(vec![text("other")]))]);
    for (key, properties, named) in [("other", plain(), "other"), (own.as_str(), copied, "other")] {
        channel.publish_with("t", key, "", &properties, "refused");
        channel.expect_close(403, &refusal("write", named), (60, 40));
        reopen(&channel);
    }
    drop(client);
}
