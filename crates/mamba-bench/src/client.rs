//! What a client says before anything is measured.

use mamba_codec::protocol::{basic, channel, confirm, connection, queue};
use mamba_codec::{AMQPClass, write_method};
use mamba_types::{ChannelId, FieldTable};

/// Frames that wait to be said.
pub(crate) struct Client(pub(crate) Vec<u8>);

impl Client {
    /// Logs in as guest and opens channel 1.
    pub(crate) fn new() -> Self {
        let mut client = Self(b"AMQP\x00\x00\x09\x01".to_vec());
        for method in [
            connection::AMQPMethod::StartOk(connection::StartOk {
                client_properties: FieldTable::default(),
                mechanism: "PLAIN".into(),
                response: b"\0guest\0guest".to_vec().into(),
                locale: "en_US".into(),
            }),
            connection::AMQPMethod::TuneOk(connection::TuneOk {
                channel_max: 10,
                frame_max: 131_072,
                heartbeat: 60,
            }),
            connection::AMQPMethod::Open(connection::Open {
                virtual_host: "/".into(),
            }),
        ] {
            client.say(0, AMQPClass::Connection(method));
        }
        client.say(
            1,
            AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})),
        );
        client
    }

    pub(crate) fn declares(mut self, name: &str) -> Self {
        let declare = queue::Declare {
            queue: name.into(),
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            nowait: false,
            arguments: FieldTable::default(),
        };
        self.say(1, AMQPClass::Queue(queue::AMQPMethod::Declare(declare)));
        self
    }

    pub(crate) fn consumes(mut self, queue: &str, no_ack: bool) -> Self {
        let consume = basic::Consume {
            queue: queue.into(),
            consumer_tag: "ctag1".into(),
            no_local: false,
            no_ack,
            exclusive: false,
            nowait: false,
            arguments: FieldTable::default(),
        };
        self.say(1, AMQPClass::Basic(basic::AMQPMethod::Consume(consume)));
        self
    }

    pub(crate) fn wants_confirms(mut self) -> Self {
        let select = confirm::Select { nowait: false };
        self.say(1, AMQPClass::Confirm(confirm::AMQPMethod::Select(select)));
        self
    }

    fn say(&mut self, channel: u16, method: AMQPClass) {
        write_method(&mut self.0, ChannelId(channel), &method);
    }
}
