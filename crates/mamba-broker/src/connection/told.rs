//! What a connection tells as events: logins, its own life, its channels' and consumers'.

use std::sync::Arc;

use mamba_codec::protocol::basic;
use mamba_session::Session;
use mamba_types::{ChannelId, table};

use super::{Core, consume::Consumer};
use crate::{
    access::LoginRefused,
    events::{Acting, Headers},
    outbox::ConsumerAbout,
    queue_cell::QueueCell,
    registry::connection_name,
};

impl Core {
    /// From now on this thread acts in the user's name, if somebody is told of it.
    pub(super) fn acting(&self) -> Option<Acting> {
        if !self.broker.tells() {
            return None;
        }
        let login = self.login.as_ref();
        login.map(|login| Acting::as_user(&login.user.name))
    }

    fn name(&self) -> String {
        let origin = &self.presence.origin;
        connection_name(origin.peer, origin.local)
    }

    fn channel_name(&self, id: ChannelId) -> String {
        format!("{} ({})", self.name(), id.0)
    }

    fn channel_pid(&self, id: ChannelId) -> String {
        format!("<{}.{}.{}>", self.broker.config.node_name, self.id, id.0)
    }

    /// What the client calls its connection.
    fn put_client(&self, event: &mut Headers) {
        let client = self.client.unfolded(&self.broker.config.limits);
        let properties = &client.properties;
        event.arguments("client_properties", properties);
        let own_name = properties.inner().get("connection_name");
        if let Some(own_name) = own_name.and_then(table::text) {
            event.text("user_provided_name", own_name);
        }
    }

    pub(super) fn tell_login(&self, user: &str, mechanism: &str, refused: Option<&LoginRefused>) {
        let name = match refused {
            None => "user.authentication.success",
            Some(_) => "user.authentication.failure",
        };
        self.broker.tell(name, |event| {
            let origin = &self.presence.origin;
            event
                .text("name", user)
                .text("auth_mechanism", mechanism)
                .text("connection_name", &self.name())
                .text("connection_type", "network")
                .address("host", origin.local)
                .address("peer_host", origin.peer)
                .number("peer_port", origin.peer.port())
                .text("protocol", "{0,9,1}")
                .flag("ssl", origin.tls.is_some());
            if let Some(refused) = refused {
                let reason = match refused {
                    LoginRefused::Wrong => "invalid credentials".to_owned(),
                    other => other.to_string(),
                };
                event.text("error", &format!("user '{user}' - {reason}"));
            }
        });
    }

    pub(super) fn tell_opened(&self, session: &Session) {
        let Some(login) = &self.login else { return };
        self.broker.tell("connection.created", |event| {
            let origin = &self.presence.origin;
            let tls = origin.tls.as_deref();
            let peer = tls.and_then(|tls| tls.peer.as_ref());
            let (name, node) = (self.name(), &self.broker.config.node_name);
            self.put_client(event);
            event
                .text("name", &name)
                .text("pid", &self.broker.pid(self.id))
                .text("node", node)
                .text("type", "network")
                .text("user", &login.user.name)
                .text("vhost", &login.vhost.name)
                .text("auth_mechanism", self.client.mechanism())
                .text("protocol", "{0,9,1}")
                .address("host", origin.local)
                .number("port", origin.local.port())
                .address("peer_host", origin.peer)
                .number("peer_port", origin.peer.port())
                .number("connected_at", self.presence.connected_at_ms)
                .number("channel_max", session.channel_max())
                .number("frame_max", session.frame_max())
                .number("timeout", session.heartbeat_secs())
                .flag("ssl", tls.is_some())
                .text("ssl_protocol", tls.map_or("", |tls| tls.protocol))
                .text("ssl_key_exchange", tls.map_or("", |tls| &tls.key_exchange))
                .text("ssl_cipher", tls.map_or("", |tls| &tls.cipher))
                .text("ssl_hash", tls.map_or("", |tls| &tls.hash))
                .text("peer_cert_subject", peer.map_or("", |peer| &peer.subject))
                .text("peer_cert_issuer", peer.map_or("", |peer| &peer.issuer))
                .text("peer_cert_validity", peer.map_or("", |peer| &peer.validity))
                .text("user_who_performed_action", &login.user.name);
        });
    }

    pub(super) fn tell_closed(&self) {
        self.broker.tell("connection.closed", |event| {
            self.put_client(event);
            event
                .text("name", &self.name())
                .text("pid", &self.broker.pid(self.id))
                .text("node", &self.broker.config.node_name);
        });
    }

    pub(super) fn tell_channel_opened(&self, id: ChannelId) {
        let Some(login) = &self.login else { return };
        self.broker.tell("channel.created", |event| {
            event
                .text("name", &self.channel_name(id))
                .text("pid", &self.channel_pid(id))
                .text("connection", &self.broker.pid(self.id))
                .number("number", id.0)
                .text("user", &login.user.name)
                .text("vhost", &login.vhost.name)
                .text("user_who_performed_action", &login.user.name);
        });
    }

    pub(super) fn tell_channel_closed(&self, id: ChannelId, consumers: usize) {
        let Some(login) = &self.login else { return };
        self.broker.tell("channel.closed", |event| {
            event
                .text("pid", &self.channel_pid(id))
                .number("consumer_count", consumers)
                .text("user_who_performed_action", &login.user.name);
        });
    }

    pub(super) fn tell_consumer_added(
        &self,
        queue: &QueueCell,
        about: &Arc<ConsumerAbout>,
        consume: &basic::Consume,
    ) {
        let Some(login) = &self.login else { return };
        self.broker.tell("consumer.created", |event| {
            event
                .text("consumer_tag", &about.tag)
                .text("channel", &self.channel_pid(about.channel))
                .text("queue", &queue.name)
                .text("vhost", &queue.vhost)
                .flag("ack_required", !consume.no_ack)
                .flag("exclusive", consume.exclusive)
                .number("prefetch_count", about.prefetch)
                .arguments("arguments", &about.arguments)
                .text("user_who_performed_action", &login.user.name);
        });
    }

    pub(super) fn tell_consumer_gone(&self, consumer: &Consumer) {
        let (Some(login), Some(queue)) = (&self.login, self.queues.get(consumer.queue)) else {
            return;
        };
        self.broker.tell("consumer.deleted", |event| {
            event
                .text("consumer_tag", &consumer.tag)
                .text("channel", &self.channel_pid(consumer.channel))
                .text("queue", &queue.name)
                .text("vhost", &queue.vhost)
                .text("user_who_performed_action", &login.user.name);
        });
    }
}
