//! What a test demands: errors with code, text, class and method, and the state after them.

use super::{
    Channel, Client, Event, channel_close_ok, channel_open, connection_close_ok, queue_declare,
    table,
};
use amq_protocol::protocol::{AMQPClass, basic, channel, connection};
use std::time::{Duration, Instant};

/// Fills in a text: `%n` the name, `%q` and `%x` how errors call the queue or exchange of that name in `/`.
pub(crate) fn expand(text: &str, name: &str) -> String {
    text.replace("%q", "queue '%n' in vhost '/'")
        .replace("%x", "exchange '%n' in vhost '/'")
        .replace("%n", name)
}

/// Waits for a condition that comes true by itself, for a bounded time.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Channel {
    /// The broker closes this channel with exactly this error. Deliveries and confirms that come before are dropped.
    #[track_caller]
    pub(crate) fn expect_close(&self, code: u16, text: &str, method: (u16, u16)) {
        let event = self.client.take(self.id, |event| {
            !matches!(event, Event::Content(..))
                && !matches!(
                    event,
                    Event::Method(AMQPClass::Basic(
                        basic::AMQPMethod::Ack(_)
                            | basic::AMQPMethod::Nack(_)
                            | basic::AMQPMethod::Cancel(_)
                    ))
                )
        });
        let Event::Method(AMQPClass::Channel(channel::AMQPMethod::Close(close))) = event else {
            panic!("{code} {text:?} was due, {event:?} came")
        };
        assert_eq!(
            (
                close.reply_code,
                close.reply_text.as_str(),
                (close.class_id, close.method_id)
            ),
            (code, text, method)
        );
    }

    /// The same, and what must hold after any channel error: the closed channel ignores methods, other channels live, the number can be
    /// opened again after close-ok.
    #[track_caller]
    pub(crate) fn expect_error(&self, code: u16, text: &str, method: (u16, u16)) {
        self.expect_close(code, text, method);
        self.send(&queue_declare("no-such-queue", "passive", table([])));
        let bystander = self.client.channel(1999);
        bystander.flow();
        bystander.close();
        self.send(&channel_close_ok());
        let answer = self.call(&channel_open());
        assert!(
            matches!(answer, AMQPClass::Channel(channel::AMQPMethod::OpenOk(_))),
            "reopening the channel was answered with {answer:?}"
        );
        self.flow();
    }
}

impl Client {
    /// The broker closes the connection with exactly this error.
    #[track_caller]
    pub(crate) fn expect_close(&self, code: u16, text: &str, method: (u16, u16)) {
        let event = self.take(0, |_| true);
        let Event::Method(AMQPClass::Connection(connection::AMQPMethod::Close(close))) = event
        else {
            panic!("{code} {text:?} was due, {event:?} came")
        };
        assert_eq!(
            (
                close.reply_code,
                close.reply_text.as_str(),
                (close.class_id, close.method_id)
            ),
            (code, text, method)
        );
    }

    /// The same; after close-ok the broker closes TCP.
    #[track_caller]
    pub(crate) fn expect_error(&self, code: u16, text: &str, method: (u16, u16)) {
        self.expect_close(code, text, method);
        self.send(0, &connection_close_ok());
        let _ = self.octets_until_closed();
    }
}

/// Sends a method on a connection of its own when the test has passed, to remove what the test left behind.
#[derive(Debug)]
pub(crate) struct Finally(pub(crate) AMQPClass);

impl Drop for Finally {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            Client::connect().channel(1).call(&self.0);
        }
    }
}

/// One test per row: `rule: |channel, name| { what the client does } => code "text" (class, method);`
///
/// The text is expanded by [`expand`]. All sends happen on channel 1 of a fresh connection; the error must come on that channel. What the block returns is dropped at
/// the end of the test, such as a [`Finally`].
macro_rules! channel_errors {
    ($($(#[$meta:meta])* $rule:ident: |$channel:ident, $name:ident| $body:block => $code:literal $text:literal $method:tt;)*) => {$(
        #[test]
        $(#[$meta])*
        fn $rule() {
            let client = crate::support::Client::connect();
            let $channel = &client.channel(1);
            let fresh = crate::support::name();
            let $name = fresh.as_str();
            let _leftover = $body;
            $channel.expect_error($code, &crate::support::expand($text, $name), $method);
        }
    )*};
}

/// The same for errors that close the connection.
macro_rules! connection_errors {
    ($($(#[$meta:meta])* $rule:ident: |$channel:ident, $name:ident| $body:block => $code:literal $text:literal $method:tt;)*) => {$(
        #[test]
        $(#[$meta])*
        fn $rule() {
            let client = crate::support::Client::connect();
            let $channel = &client.channel(1);
            let fresh = crate::support::name();
            let $name = fresh.as_str();
            let _leftover = $body;
            client.expect_error($code, &crate::support::expand($text, $name), $method);
        }
    )*};
}

pub(crate) use {channel_errors, connection_errors};
