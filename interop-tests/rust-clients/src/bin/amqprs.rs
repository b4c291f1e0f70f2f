//! The interop scenarios with amqprs.

use amqprs::{
    Ack, BasicProperties, ByteArray, Cancel, Close, CloseChannel, DecimalValue, FieldArray,
    FieldTable, FieldValue, GetOk, Nack, Return,
    callbacks::{ChannelCallback, ConnectionCallback},
    channel::*,
    connection::{Connection, OpenConnectionArguments},
    error::Error,
};
use async_trait::async_trait;
use interop_rust_clients::*;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

#[tokio::main]
async fn main() {
    run(scenarios![
        hello_world,
        work_queue_fair_dispatch,
        publish_subscribe,
        routing,
        topics,
        headers,
        rpc_reply_queue,
        rpc_direct_reply_to,
        confirms_single,
        confirms_batch,
        confirms_async_50000,
        mandatory_return,
        basic_get,
        nack_requeue_redelivered,
        prefetch_1_and_100,
        consumer_cancel_and_queue_deletion,
        exclusive_and_auto_delete,
        transactions,
        properties_and_header_types_round_trip,
        body_sizes,
        thousand_queues_200_channels,
        ipv4_and_ipv6,
        heartbeat_idle,
        dead_peer_detection,
        error_404,
        error_406,
        error_403,
        error_405,
        error_530,
        error_540,
        quorum_queue,
        recovery_after_kill,
    ])
    .await;
}

// ---- tutorials

async fn hello_world() -> Outcome {
    let link = connect().await?;
    let channel = link.channel().await?;
    let queue = channel.temporary_queue("hello").await?;
    channel.publish("", &queue, "Hello World!").await?;
    let mut consumer = channel.consume(&queue, true).await?;
    let delivery = consumer.take().await?;
    same("body", "Hello World!", delivery.text())?;
    same("exchange", "", delivery.exchange.as_str())?;
    same("routing key", queue.as_str(), delivery.key.as_str())?;
    same("redelivered", false, delivery.redelivered)?;
    channel.cancel(&consumer).await?;
    same("messages left", 0, channel.ready(&queue).await?)
}

async fn work_queue_fair_dispatch() -> Outcome {
    let link = connect().await?;
    let setup = link.channel().await?;
    let queue = setup.durable_queue("work", FieldTable::new()).await?;
    let slow_channel = link.channel().await?;
    slow_channel.prefetch(1).await?;
    let mut slow = slow_channel.consume(&queue, false).await?;
    let quick_channel = link.channel().await?;
    quick_channel.prefetch(1).await?;
    let mut quick = quick_channel.consume(&queue, false).await?;
    for i in 0..10 {
        setup.publish("", &queue, format!("task {i}")).await?;
    }
    let held = slow.take().await?;
    for _ in 0..9 {
        let tag = quick.take().await?.tag;
        quick_channel.ack(tag, false).await?;
    }
    same("ready", 0, slow_channel.ready(&queue).await?)?;
    slow.expect_nothing("the slow worker")?;
    slow_channel.ack(held.tag, false).await?;
    setup.delete(&queue).await
}

async fn publish_subscribe() -> Outcome {
    let link = connect().await?;
    let channel = link.channel().await?;
    let exchange = channel.exchange("logs", "fanout").await?;
    let mut consumers = [
        channel.bound(&exchange, &[""]).await?,
        channel.bound(&exchange, &[""]).await?,
    ];
    for i in 0..5 {
        channel
            .publish(&exchange, "ignored", format!("log {i}"))
            .await?;
    }
    for consumer in &mut consumers {
        check(consumer.queue.starts_with("amq.gen-"), || {
            format!("server-named: {}", consumer.queue)
        })?;
        for i in 0..5 {
            let delivery = consumer.take().await?;
            same("body", format!("log {i}"), delivery.text())?;
            same("exchange", exchange.as_str(), delivery.exchange.as_str())?;
        }
    }
    channel.delete_exchange(&exchange).await
}

async fn routing() -> Outcome {
    let link = connect().await?;
    let channel = link.channel().await?;
    let exchange = channel.exchange("direct", "direct").await?;
    let mut errors = channel.bound(&exchange, &["error"]).await?;
    let mut everything = channel
        .bound(&exchange, &["info", "warning", "error"])
        .await?;
    for severity in ["info", "error", "debug", "warning", "error"] {
        channel.publish(&exchange, severity, severity).await?;
    }
    same(
        "errors",
        ["error", "error"].as_slice(),
        errors.texts(2).await?,
    )?;
    same(
        "everything",
        ["info", "error", "warning", "error"].as_slice(),
        everything.texts(4).await?,
    )?;
    channel.round_trip().await?;
    errors.expect_nothing("errors")?;
    everything.expect_nothing("everything")?;
    let arguments = QueueUnbindArguments::new(&errors.queue, &exchange, "error");
    channel.raw.queue_unbind(arguments).await?;
    channel.publish(&exchange, "error", "after unbind").await?;
    same(
        "everything",
        ["after unbind"].as_slice(),
        everything.texts(1).await?,
    )?;
    channel.round_trip().await?;
    errors.expect_nothing("errors after unbind")?;
    channel.delete_exchange(&exchange).await
}

async fn topics() -> Outcome {
    let link = connect().await?;
    let channel = link.channel().await?;
    let exchange = channel.exchange("topic", "topic").await?;
    let mut orange = channel.bound(&exchange, &["*.orange.*"]).await?;
    let mut rabbits_and_lazy = channel.bound(&exchange, &["*.*.rabbit", "lazy.#"]).await?;
    let mut all = channel.bound(&exchange, &["#"]).await?;
    let keys = [
        "quick.orange.rabbit",
        "lazy.orange.elephant",
        "quick.orange.fox",
        "lazy.brown.fox",
        "lazy.pink.rabbit",
        "quick.brown.fox",
        "orange",
        "quick.orange.new.rabbit",
        "lazy.orange.new.rabbit",
        "lazy",
        "",
    ];
    for key in keys {
        channel.publish(&exchange, key, format!("<{key}>")).await?;
    }
    let expected = [
        "<quick.orange.rabbit>",
        "<lazy.orange.elephant>",
        "<quick.orange.fox>",
    ];
    same("orange", expected.as_slice(), orange.texts(3).await?)?;
    let expected = [
        "<quick.orange.rabbit>",
        "<lazy.orange.elephant>",
        "<lazy.brown.fox>",
        "<lazy.pink.rabbit>",
        "<lazy.orange.new.rabbit>",
        "<lazy>",
    ];
    same(
        "rabbits and lazy",
        expected.as_slice(),
        rabbits_and_lazy.texts(6).await?,
    )?;
    same(
        "all",
        keys.map(|key| format!("<{key}>")).as_slice(),
        all.texts(keys.len()).await?,
    )?;
    channel.round_trip().await?;
    for consumer in [&mut orange, &mut rabbits_and_lazy, &mut all] {
        consumer.expect_nothing("topics")?;
    }
    channel.delete_exchange(&exchange).await
}

async fn headers() -> Outcome {
    let link = connect().await?;
    let channel = link.channel().await?;
    let exchange = channel.exchange("headers", "headers").await?;
    let mut consumers = Vec::new();
    for matching in ["all", "any"] {
        let queue = channel.server_named().await?;
        let arguments = table([
            ("x-match", matching.into()),
            ("format", "pdf".into()),
            ("pages", FieldValue::I(3)),
        ]);
        channel
            .raw
            .queue_bind(
                QueueBindArguments::new(&queue, &exchange, "")
                    .arguments(arguments)
                    .finish(),
            )
            .await?;
        consumers.push(channel.consume(&queue, true).await?);
    }
    for (body, headers) in [
        (
            "both",
            vec![
                ("format", "pdf".into()),
                ("pages", FieldValue::I(3)),
                ("x", "y".into()),
            ],
        ),
        (
            "format",
            vec![("format", "pdf".into()), ("pages", FieldValue::I(4))],
        ),
        ("pages", vec![("pages", FieldValue::I(3))]),
        ("neither", vec![("format", "zip".into())]),
        ("none", vec![]),
    ] {
        let properties = BasicProperties::default()
            .with_headers(table(headers))
            .finish();
        channel
            .publish_with(&exchange, "", body, properties)
            .await?;
    }
    same("all", ["both"].as_slice(), consumers[0].texts(1).await?)?;
    same(
        "any",
        ["both", "format", "pages"].as_slice(),
        consumers[1].texts(3).await?,
    )?;
    channel.round_trip().await?;
    consumers[0].expect_nothing("all")?;
    consumers[1].expect_nothing("any")?;
    channel.delete_exchange(&exchange).await
}

async fn rpc_reply_queue() -> Outcome {
    let link = connect().await?;
    let client = link.channel().await?;
    let reply_queue = client.server_named().await?;
    rpc(&link.channel().await?, &client, &reply_queue, &reply_queue).await
}

async fn rpc_direct_reply_to() -> Outcome {
    let link = connect().await?;
    let client = link.channel().await?;
    rpc(
        &link.channel().await?,
        &client,
        "amq.rabbitmq.reply-to",
        "amq.rabbitmq.reply-to.",
    )
    .await
}

/// Ten calls of a doubling server; `seen_prefix` starts the reply-to that the server sees.
async fn rpc(
    server: &Channelled,
    client: &Channelled,
    reply_to: &str,
    seen_prefix: &str,
) -> Outcome {
    let requests = server.temporary_queue("rpc").await?;
    let mut calls = server.consume(&requests, false).await?;
    let mut replies = client.consume(reply_to, true).await?;
    for i in 0..10 {
        let correlation = format!("call-{i}");
        let properties = BasicProperties::default()
            .with_reply_to(reply_to)
            .with_correlation_id(&correlation)
            .finish();
        client
            .publish_with("", &requests, i.to_string(), properties)
            .await?;
        let call = calls.take().await?;
        let Some(answer_to) = call.properties.reply_to() else {
            return failed("no reply-to");
        };
        check(answer_to.starts_with(seen_prefix), || {
            format!("the server sees reply-to {answer_to}")
        })?;
        let seen = call
            .properties
            .correlation_id()
            .cloned()
            .unwrap_or_default();
        let answer = (call.text().parse::<u32>()? * 2).to_string();
        let properties = BasicProperties::default()
            .with_correlation_id(&seen)
            .finish();
        server
            .publish_with("", answer_to, answer, properties)
            .await?;
        server.ack(call.tag, false).await?;
        let reply = replies.take().await?;
        same("reply", (2 * i).to_string(), reply.text())?;
        same(
            "correlation id",
            Some(&correlation),
            reply.properties.correlation_id(),
        )?;
    }
    Ok(())
}

// ---- publishing

async fn confirms_single() -> Outcome {
    let link = connect().await?;
    let mut channel = link.confirming().await?;
    let queue = channel.temporary_queue("confirm-single").await?;
    for i in 1..=20 {
        channel.publish("", &queue, format!("m{i}")).await?;
        channel.wait_for_confirms(i).await?;
    }
    same("ready", 20, channel.ready(&queue).await?)
}

async fn confirms_batch() -> Outcome {
    let link = connect().await?;
    let mut channel = link.confirming().await?;
    let queue = channel.temporary_queue("confirm-batch").await?;
    for batch in 1..=10 {
        for i in 0..100 {
            channel.publish("", &queue, format!("m{i}")).await?;
        }
        channel.wait_for_confirms(100 * batch).await?;
    }
    same("ready", 1000, channel.ready(&queue).await?)
}

async fn confirms_async_50000() -> Outcome {
    let link = connect().await?;
    let mut channel = link.confirming().await?;
    let queue = channel
        .durable_queue("confirm-async", FieldTable::new())
        .await?;
    for i in 0..SETTINGS.messages {
        channel
            .publish_with("", &queue, format!("message {i}"), persistent())
            .await?;
    }
    channel.wait_for_confirms(SETTINGS.messages as u64).await?;
    same(
        "ready",
        SETTINGS.messages,
        channel.ready(&queue).await? as usize,
    )?;
    channel.delete(&queue).await
}

async fn mandatory_return() -> Outcome {
    let link = connect().await?;
    let mut channel = link.confirming().await?;
    let queue = channel.temporary_queue("mandatory").await?;
    let missing = name("mandatory-missing");
    let properties = BasicProperties::default().with_message_id("id-1").finish();
    let arguments = BasicPublishArguments::new("", &missing)
        .mandatory(true)
        .finish();
    channel
        .raw
        .basic_publish(properties.clone(), b"lost".to_vec(), arguments)
        .await?;
    let returned = format!("312 NO_ROUTE '' {missing} id-1 lost");
    same(
        "first event",
        Event::Returned(returned),
        channel.event().await?,
    )?;
    same(
        "second event",
        Event::Acked {
            tag: 1,
            multiple: false,
        },
        channel.event().await?,
    )?;
    let arguments = BasicPublishArguments::new("", &queue)
        .mandatory(true)
        .finish();
    channel
        .raw
        .basic_publish(properties, b"found".to_vec(), arguments)
        .await?;
    same(
        "third event",
        Event::Acked {
            tag: 2,
            multiple: false,
        },
        channel.event().await?,
    )?;
    same("ready", 1, channel.ready(&queue).await?)
}

// ---- consuming

async fn basic_get() -> Outcome {
    let link = connect().await?;
    let channel = link.channel().await?;
    let queue = channel.temporary_queue("get").await?;
    check(
        channel.maybe_get(&queue, true).await?.is_none(),
        || "an empty queue gave a message",
    )?;
    for i in 0..3 {
        channel.publish("", &queue, format!("m{i}")).await?;
    }
    for i in 0..3 {
        let (ok, _, body) = channel.get(&queue, i == 2).await?;
        same("body", format!("m{i}"), text(&body))?;
        same("messages left", 2 - i, ok.message_count())?;
        if i < 2 {
            channel.ack(ok.delivery_tag(), false).await?;
        }
    }
    check(
        channel.maybe_get(&queue, true).await?.is_none(),
        || "the drained queue gave a message",
    )
}

async fn nack_requeue_redelivered() -> Outcome {
    let link = connect().await?;
    let channel = link.channel().await?;
    let dead = channel.temporary_queue("nack-dead").await?;
    let queue = name("nack");
    let arguments = table([
        ("x-dead-letter-exchange", "".into()),
        ("x-dead-letter-routing-key", dead.as_str().into()),
    ]);
    let declare = QueueDeclareArguments::new(&queue)
        .exclusive(true)
        .arguments(arguments)
        .finish();
    channel.raw.queue_declare(declare).await?;
    for i in 0..3 {
        channel.publish("", &queue, format!("m{i}")).await?;
    }
    let mut last = 0;
    for _ in 0..3 {
        let (ok, ..) = channel.get(&queue, false).await?;
        same("first delivery redelivered", false, ok.redelivered())?;
        last = ok.delivery_tag();
    }
    channel
        .raw
        .basic_nack(BasicNackArguments::new(last, true, true))
        .await?;
    let mut again = Vec::new();
    for i in 0..3 {
        let (ok, _, body) = channel.get(&queue, false).await?;
        same("order after requeue", format!("m{i}"), text(&body))?;
        same("redelivered", true, ok.redelivered())?;
        again.push(ok.delivery_tag());
    }
    channel
        .raw
        .basic_reject(BasicRejectArguments::new(again[1], true))
        .await?;
    channel
        .raw
        .basic_reject(BasicRejectArguments::new(again[0], false))
        .await?;
    channel
        .raw
        .basic_nack(BasicNackArguments::new(again[2], false, false))
        .await?;
    same(
        "requeued one",
        "m1",
        text(&channel.get(&queue, true).await?.2),
    )?;
    check(
        channel.maybe_get(&queue, true).await?.is_none(),
        || "a discarded message came back",
    )?;
    let mut letters = channel.consume(&dead, true).await?;
    for body in ["m0", "m2"] {
        let letter = letters.take().await?;
        same("dead letter", body, letter.text())?;
        let Some(FieldValue::A(deaths)) = letter.header("x-death") else {
            return failed("no x-death array");
        };
        let deaths = Vec::from(deaths);
        let Some(FieldValue::F(death)) = deaths.first() else {
            return failed("x-death is empty");
        };
        same(
            "x-death queue",
            Some(&queue.as_str().into()),
            field(death, "queue"),
        )?;
        same(
            "x-death reason",
            Some(&"rejected".into()),
            field(death, "reason"),
        )?;
        same(
            "x-death count",
            Some(&FieldValue::l(1)),
            field(death, "count"),
        )?;
    }
    Ok(())
}

async fn prefetch_1_and_100() -> Outcome {
    let link = connect().await?;
    for window in [1, 100] {
        let mut channel = link.confirming().await?;
        let queue = channel
            .temporary_queue(&format!("prefetch-{window}"))
            .await?;
        for i in 0..250 {
            channel.publish("", &queue, format!("m{i}")).await?;
        }
        channel.wait_for_confirms(250).await?;
        channel.prefetch(window).await?;
        let mut consumer = channel.consume(&queue, false).await?;
        let mut last = 0;
        for i in 0..window {
            let delivery = consumer.take().await?;
            same("order", format!("m{i}"), delivery.text())?;
            last = delivery.tag;
        }
        same(
            "ready at a full window",
            250 - u32::from(window),
            channel.ready(&queue).await?,
        )?;
        consumer.expect_nothing("beyond the window")?;
        channel.ack(last, true).await?;
        for i in window..2 * window {
            same("order", format!("m{i}"), consumer.take().await?.text())?;
        }
        same(
            "ready after one ack",
            250 - 2 * u32::from(window),
            channel.ready(&queue).await?,
        )?;
        consumer.expect_nothing("beyond the second window")?;
    }
    Ok(())
}

async fn consumer_cancel_and_queue_deletion() -> Outcome {
    let link = connect().await?;
    let mut channel = link.confirming().await?;
    let queue = channel.temporary_queue("cancel").await?;
    let mut first = channel.consume(&queue, true).await?;
    channel.publish("", &queue, "before").await?;
    channel.wait_for_confirms(1).await?;
    same("body", "before", first.take().await?.text())?;
    channel.cancel(&first).await?;
    channel.publish("", &queue, "after").await?;
    channel.wait_for_confirms(2).await?;
    same("ready", 1, channel.ready(&queue).await?)?;
    first.expect_nothing("after cancel")?;
    let mut second = channel.consume(&queue, true).await?;
    same("body", "after", second.take().await?.text())?;
    link.channel().await?.delete(&queue).await?;
    same(
        "event",
        Event::Cancelled(second.tag.clone()),
        channel.event().await?,
    )?;
    channel.round_trip().await?;
    check(
        channel.raw.is_open(),
        || "the channel closed with the queue",
    )
}

async fn exclusive_and_auto_delete() -> Outcome {
    let watcher = connect().await?;
    let owner = connect().await?;
    let owner_channel = owner.channel().await?;
    let exclusive = owner_channel.temporary_queue("exclusive").await?;
    let mut intruder = watcher.channel().await?;
    let refused = intruder.ready(&exclusive).await;
    intruder.expect_close(&watcher, 405, refused).await?;
    // Left to its drop, the channel's close would race with the connection's, inside the library.
    owner_channel.raw.close().await?;
    owner.raw.close().await?;
    let mut after = watcher.channel().await?;
    let refused = after.ready(&exclusive).await;
    after.expect_close(&watcher, 404, refused).await?;

    let mut channel = watcher.channel().await?;
    let queue = name("auto-delete");
    channel
        .raw
        .queue_declare(QueueDeclareArguments::transient_autodelete(&queue))
        .await?;
    let first = channel.consume(&queue, true).await?;
    let second = channel.consume(&queue, true).await?;
    channel.cancel(&first).await?;
    channel.ready(&queue).await?;
    channel.cancel(&second).await?;
    let refused = channel.ready(&queue).await;
    channel.expect_close(&watcher, 404, refused).await?;

    let mut channel = watcher.channel().await?;
    let exchange = name("auto-delete-exchange");
    let arguments = ExchangeDeclareArguments::new(&exchange, "direct")
        .auto_delete(true)
        .finish();
    channel.raw.exchange_declare(arguments).await?;
    let queue = channel.server_named().await?;
    channel
        .raw
        .queue_bind(QueueBindArguments::new(&queue, &exchange, "k"))
        .await?;
    channel
        .raw
        .queue_unbind(QueueUnbindArguments::new(&queue, &exchange, "k"))
        .await?;
    let arguments = ExchangeDeclareArguments::new(&exchange, "direct")
        .passive(true)
        .finish();
    let refused = channel.raw.exchange_declare(arguments).await;
    channel
        .expect_close(&watcher, 404, refused)
        .await
        .map(|_| ())
}

async fn transactions() -> Outcome {
    let link = connect().await?;
    let channel = link.channel().await?;
    let observer = link.channel().await?;
    let queue = channel.temporary_queue("tx").await?;
    channel.raw.tx_select().await?;
    channel.publish("", &queue, "one").await?;
    channel.publish("", &queue, "two").await?;
    channel.round_trip().await?;
    same("ready before commit", 0, observer.ready(&queue).await?)?;
    channel.raw.tx_commit().await?;
    same("ready after commit", 2, observer.ready(&queue).await?)?;
    channel.publish("", &queue, "never").await?;
    channel.raw.tx_rollback().await?;
    same("ready after rollback", 2, observer.ready(&queue).await?)?;
    let tag = channel.get(&queue, false).await?.0.delivery_tag();
    channel.ack(tag, false).await?;
    channel.raw.tx_rollback().await?;
    // The message is unacknowledged again, so that the same tag can be acknowledged a second time.
    channel.ack(tag, false).await?;
    channel.raw.tx_commit().await?;
    channel.raw.close().await?;
    same("rest", "two", text(&observer.get(&queue, true).await?.2))?;
    same("ready at the end", 0, observer.ready(&queue).await?)
}

// ---- content

async fn properties_and_header_types_round_trip() -> Outcome {
    let link = connect().await?;
    let channel = link.channel().await?;
    let queue = channel.temporary_queue("properties").await?;
    let nested = table([("deep", FieldValue::F(table([("deeper", "bottom".into())])))]);
    let array = FieldArray::try_from(vec![FieldValue::I(1), FieldValue::t(true), "x".into()]);
    let headers = table([
        ("bool-true", FieldValue::t(true)),
        ("bool-false", FieldValue::t(false)),
        ("byte", FieldValue::b(-128)),
        ("unsigned-byte", FieldValue::B(255)),
        ("short", FieldValue::s(-32768)),
        ("unsigned-short", FieldValue::u(65535)),
        ("int", FieldValue::I(i32::MIN)),
        ("unsigned-int", FieldValue::i(u32::MAX)),
        ("long", FieldValue::l(i64::MIN)),
        ("float", FieldValue::f(1.5)),
        ("double", FieldValue::d(-2.25e300)),
        ("decimal", FieldValue::D(DecimalValue::new(2, 12345))),
        ("string", "Grüße, 世界".into()),
        ("empty", "".into()),
        (
            "bytes",
            FieldValue::x(ByteArray::try_from(vec![0, 1, 255]).expect("three bytes fit")),
        ),
        ("timestamp", FieldValue::T(1_700_000_000)),
        ("void", FieldValue::V),
        ("array", FieldValue::A(array.expect("three values fit"))),
        ("table", FieldValue::F(nested)),
        ("long-string", "y".repeat(5000).into()),
    ]);
    let sent = BasicProperties::default()
        .with_content_type("text/plain")
        .with_content_encoding("utf-8")
        .with_headers(headers.clone())
        .with_delivery_mode(2)
        .with_priority(5)
        .with_correlation_id("correlation")
        .with_reply_to("reply")
        .with_expiration("60000")
        .with_message_id("message")
        .with_timestamp(1_700_000_000)
        .with_message_type("kind")
        .with_user_id("guest")
        .with_app_id("app")
        .with_cluster_id("cluster")
        .finish();
    channel
        .publish_with("", &queue, "body", sent.clone())
        .await?;
    let (_, back, _) = channel.get(&queue, true).await?;
    let Some(got) = back.headers() else {
        return failed("no headers");
    };
    for (key, value) in headers.as_ref() {
        same(&format!("header {key}"), Some(value), got.get(key))?;
    }
    same(
        "number of headers",
        headers.as_ref().len(),
        got.as_ref().len(),
    )?;
    let rest = |properties: &BasicProperties| {
        let mut properties = properties.clone();
        format!("{}", properties.with_headers(FieldTable::new()))
    };
    same("properties", rest(&sent), rest(&back))?;
    channel.publish("", &queue, "bare").await?;
    let (_, back, _) = channel.get(&queue, true).await?;
    check(
        back.headers().is_none() && back.delivery_mode().is_none(),
        || format!("bare properties: {back}"),
    )
}

async fn body_sizes() -> Outcome {
    let link = connect().await?;
    let channel = link.channel().await?;
    let queue = channel.temporary_queue("sizes").await?;
    let frame_body = link.raw.frame_max() as usize - 8;
    let sizes = [0, 1, frame_body, frame_body + 1, 2 * frame_body, 8 << 20];
    for size in sizes {
        channel.publish("", &queue, pattern(size)).await?;
        let (_, _, body) = channel.get(&queue, true).await?;
        check(body == pattern(size), || {
            format!("the body of {size} bytes came back changed")
        })?;
    }
    let mut consumer = channel.consume(&queue, true).await?;
    for size in sizes {
        channel.publish("", &queue, pattern(size)).await?;
    }
    for size in sizes {
        let delivery = consumer.take().await?;
        check(delivery.body == pattern(size), || {
            format!("the delivery of {size} bytes came changed")
        })?;
    }
    Ok(())
}

// ---- connections

async fn thousand_queues_200_channels() -> Outcome {
    let link = connect().await?;
    let mut channels = Vec::new();
    for _ in 0..200 {
        channels.push(link.channel().await?);
    }
    for i in 0..1000 {
        let queue = channels[i % 200]
            .temporary_queue(&format!("many-{i}"))
            .await?;
        channels[i % 200]
            .publish("", &queue, format!("for {i}"))
            .await?;
    }
    for i in 0..1000 {
        let (_, _, body) = channels[i % 200]
            .get(&name(&format!("many-{i}")), true)
            .await?;
        same("body", format!("for {i}"), text(&body))?;
    }
    for i in 0..1000 {
        channels[(i + 7) % 200]
            .delete(&name(&format!("many-{i}")))
            .await?;
    }
    for channel in channels {
        channel.raw.close().await?;
    }
    check(link.raw.is_open(), || "the connection closed")
}

async fn ipv4_and_ipv6() -> Outcome {
    if SETTINGS.url_v6.is_empty() {
        return skipped("AMQP_URL_V6 is not set");
    }
    let four = connect().await?;
    let authority = SETTINGS
        .url_v6
        .rsplit('@')
        .next()
        .unwrap_or_default()
        .split('/')
        .next()
        .unwrap_or_default();
    let six = open(login(authority)).await?;
    let sender = four.channel().await?;
    let queue = name("families");
    sender.delete(&queue).await?;
    sender
        .raw
        .queue_declare(QueueDeclareArguments::new(&queue))
        .await?;
    let receiver = six.channel().await?;
    let mut consumer = receiver.consume(&queue, true).await?;
    sender.publish("", &queue, "across").await?;
    same("body", "across", consumer.take().await?.text())?;
    sender.delete(&queue).await
}

async fn heartbeat_idle() -> Outcome {
    let mut wanted = login(&broker_address());
    wanted.heartbeat(2);
    let link = open(wanted).await?;
    same("negotiated heartbeat", 2, link.raw.heartbeat())?;
    let channel = link.channel().await?;
    // Idle longer than either side tolerates silence: only heartbeats keep the connection.
    if tokio::time::timeout(Duration::from_secs(6), link.raw.listen_network_io_failure())
        .await
        .is_ok()
    {
        return failed("the idle connection was closed");
    }
    let queue = channel.temporary_queue("idle").await?;
    channel.publish("", &queue, "still here").await?;
    same(
        "body",
        "still here",
        text(&channel.get(&queue, true).await?.2),
    )
}

async fn dead_peer_detection() -> Outcome {
    let watcher = connect().await?;
    let channel = watcher.channel().await?;
    let queue = channel
        .durable_queue("dead-peer", FieldTable::new())
        .await?;
    channel.publish("", &queue, "held").await?;
    let proxy = FreezableProxy::start(&broker_address())?;
    let mut wanted = login(&proxy.address().to_string());
    wanted.heartbeat(2);
    let doomed = open(wanted).await?;
    let doomed_channel = doomed.channel().await?;
    same(
        "held",
        "held",
        text(&doomed_channel.get(&queue, false).await?.2),
    )?;
    let mut consumer = channel.consume(&queue, true).await?;
    proxy.freeze();
    let back = consumer.take().await?;
    same("body after the broker noticed", "held", back.text())?;
    same("redelivered", true, back.redelivered)?;
    channel.delete(&queue).await
}

// ---- errors

async fn error_404() -> Outcome {
    let link = connect().await?;
    let missing = name("missing");
    let mut channel = link.channel().await?;
    let refused = channel.ready(&missing).await;
    let text = channel.expect_close(&link, 404, refused).await?;
    same(
        "text",
        format!("NOT_FOUND - no queue '{missing}' in vhost '/'"),
        text,
    )?;
    let mut channel = link.channel().await?;
    channel.publish(&missing, "k", "x").await?;
    let text = channel.expect_close(&link, 404, Err::<(), _>(())).await?;
    same(
        "text",
        format!("NOT_FOUND - no exchange '{missing}' in vhost '/'"),
        text,
    )?;
    let mut channel = link.channel().await?;
    let refused = channel.consume(&missing, true).await;
    channel.expect_close(&link, 404, refused).await?;
    link.still_usable().await
}

async fn error_406() -> Outcome {
    let link = connect().await?;
    let mut channel = link.channel().await?;
    let queue = channel.temporary_queue("inequivalent").await?;
    let different = table([("x-max-length", FieldValue::I(7))]);
    let arguments = QueueDeclareArguments::new(&queue)
        .exclusive(true)
        .arguments(different)
        .finish();
    let refused = channel.raw.queue_declare(arguments).await;
    let text = channel.expect_close(&link, 406, refused).await?;
    let expected = format!(
        "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue '{queue}' in vhost '/': \
         received the value '7' of type 'signedint' but current is none"
    );
    same("text", expected, text)?;
    let mut channel = link.channel().await?;
    channel.ack(42, false).await?;
    let text = channel.expect_close(&link, 406, Err::<(), _>(())).await?;
    same(
        "text",
        "PRECONDITION_FAILED - unknown delivery tag 42",
        text,
    )?;
    link.still_usable().await
}

async fn error_403() -> Outcome {
    let link = connect().await?;
    let mut channel = link.channel().await?;
    let refused = channel
        .raw
        .queue_declare(QueueDeclareArguments::new("amq.interop"))
        .await;
    let text = channel.expect_close(&link, 403, refused).await?;
    same(
        "text",
        "ACCESS_REFUSED - queue name 'amq.interop' contains reserved prefix 'amq.*'",
        text,
    )?;
    let owner = link.channel().await?;
    let queue = owner.temporary_queue("exclusive-consumer").await?;
    let arguments = BasicConsumeArguments::new(&queue, "")
        .exclusive(true)
        .finish();
    let _consumer = owner.raw.basic_consume_rx(arguments).await?;
    let mut second = link.channel().await?;
    let refused = second.consume(&queue, true).await;
    let text = second.expect_close(&link, 403, refused).await?;
    same(
        "text",
        format!("ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"),
        text,
    )?;
    link.still_usable().await?;
    let (host, port) = split(&broker_address());
    // The library does not announce `authentication_failure_close`: the broker just drops the connection.
    let refused =
        Connection::open(&OpenConnectionArguments::new(&host, port, "guest", "wrong")).await;
    check(refused.is_err(), || "a wrong password was accepted")
}

async fn error_405() -> Outcome {
    let owner = connect().await?;
    let owning = owner.channel().await?;
    let queue = owning.temporary_queue("locked").await?;
    let link = connect().await?;
    let mut channel = link.channel().await?;
    let refused = channel
        .raw
        .queue_declare(QueueDeclareArguments::new(&queue).exclusive(true).finish())
        .await;
    let text = channel.expect_close(&link, 405, refused).await?;
    let expected = format!(
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'"
    );
    check(text.starts_with(&expected), || format!("text is {text}"))?;
    link.still_usable().await?;
    same("ready for the owner", 0, owning.ready(&queue).await?)
}

async fn error_530() -> Outcome {
    let mut link = connect().await?;
    let channel = link.channel().await?;
    let queue = channel.temporary_queue("tag").await?;
    let arguments = BasicConsumeArguments::new(&queue, "twice");
    let _first = channel.raw.basic_consume_rx(arguments.clone()).await?;
    let refused = channel.raw.basic_consume_rx(arguments).await;
    check(refused.is_err(), || "the second consumer was accepted")?;
    link.expect_close(530, "NOT_ALLOWED - attempt to reuse consumer tag 'twice'")
        .await?;
    let mut wrong = login(&broker_address());
    wrong.virtual_host("interop-missing");
    let Err(refused) = Connection::open(&wrong).await else {
        return failed("a missing virtual host was accepted");
    };
    check(
        refused
            .to_string()
            .contains("NOT_ALLOWED - vhost interop-missing not found"),
        || refused.to_string(),
    )
}

async fn error_540() -> Outcome {
    let mut link = connect().await?;
    let channel = link.channel().await?;
    let arguments = BasicPublishArguments::new("", &name("nowhere"))
        .immediate(true)
        .finish();
    channel
        .raw
        .basic_publish(BasicProperties::default(), b"at once".to_vec(), arguments)
        .await?;
    link.expect_close(540, "NOT_IMPLEMENTED - immediate=true")
        .await?;
    let mut link = connect().await?;
    let channel = link.channel().await?;
    let refused = channel
        .raw
        .basic_qos(BasicQosArguments::new(10, 1, false))
        .await;
    check(refused.is_err(), || "a prefetch size was accepted")?;
    link.expect_close(540, "NOT_IMPLEMENTED - prefetch_size!=0 (10)")
        .await
}

// ---- durability

async fn quorum_queue() -> Outcome {
    let link = connect().await?;
    let mut channel = link.confirming().await?;
    let queue = channel
        .durable_queue("quorum", table([("x-queue-type", "quorum".into())]))
        .await?;
    channel
        .publish_with("", &queue, "counted", persistent())
        .await?;
    channel.wait_for_confirms(1).await?;
    channel.prefetch(10).await?;
    let mut consumer = channel.consume(&queue, false).await?;
    let mut delivery = consumer.take().await?;
    check(
        delivery.header("x-delivery-count").is_none(),
        || "the first delivery is counted",
    )?;
    for count in 1..=2 {
        channel
            .raw
            .basic_nack(BasicNackArguments::new(delivery.tag, false, true))
            .await?;
        delivery = consumer.take().await?;
        same("body", "counted", delivery.text())?;
        same("redelivered", true, delivery.redelivered)?;
        same(
            "x-delivery-count",
            Some(FieldValue::l(count)),
            delivery.header("x-delivery-count"),
        )?;
    }
    channel.ack(delivery.tag, false).await?;
    channel.delete(&queue).await
}

/// The library has no recovery: it reports the failure, and the application connects again.
async fn recovery_after_kill() -> Outcome {
    if SETTINGS.control.is_empty() {
        return skipped("BROKER_CONTROL is not set");
    }
    let count = 500;
    let link = connect().await?;
    let mut channel = link.confirming().await?;
    let queue = channel
        .durable_queue("recovery-durable", FieldTable::new())
        .await?;
    for i in 0..count {
        channel
            .publish_with("", &queue, format!("kept {i}"), persistent())
            .await?;
    }
    channel.wait_for_confirms(u64::from(count)).await?;
    let notified = link.raw.clone();
    let notice = tokio::spawn(async move { notified.listen_network_io_failure().await });
    kill_and_restart().await?;
    check(
        within("notice of the failure", notice).await??,
        || "the loss looks like an orderly close",
    )?;
    let link = connect().await?;
    let channel = link.channel().await?;
    same("kept messages", count, channel.ready(&queue).await?)?;
    let mut consumer = channel.consume(&queue, true).await?;
    for i in 0..count {
        same(
            "kept message",
            format!("kept {i}"),
            consumer.take().await?.text(),
        )?;
    }
    channel.round_trip().await?;
    consumer.expect_nothing("kept messages")?;
    channel.delete(&queue).await
}

// ---- tools

/// What the library reports through callbacks.
#[derive(Debug, PartialEq)]
enum Event {
    Closed { code: u16, text: String },
    Cancelled(String),
    Acked { tag: u64, multiple: bool },
    Nacked(u64),
    Returned(String),
}

struct Reporter(UnboundedSender<Event>);

#[async_trait]
impl ConnectionCallback for Reporter {
    async fn close(&mut self, _: &Connection, close: Close) -> Result<(), Error> {
        let _ = self.0.send(Event::Closed {
            code: close.reply_code(),
            text: close.reply_text().clone(),
        });
        Ok(())
    }
    async fn blocked(&mut self, _: &Connection, _: String) {}
    async fn unblocked(&mut self, _: &Connection) {}
    async fn secret_updated(&mut self, _: &Connection) {}
}

#[async_trait]
impl ChannelCallback for Reporter {
    async fn close(&mut self, _: &Channel, close: CloseChannel) -> Result<(), Error> {
        let _ = self.0.send(Event::Closed {
            code: close.reply_code(),
            text: close.reply_text().clone(),
        });
        Ok(())
    }
    async fn cancel(&mut self, _: &Channel, cancel: Cancel) -> Result<(), Error> {
        let _ = self.0.send(Event::Cancelled(cancel.consumer_tag().clone()));
        Ok(())
    }
    async fn flow(&mut self, _: &Channel, _: bool) -> Result<bool, Error> {
        Ok(true)
    }
    async fn publish_ack(&mut self, _: &Channel, ack: Ack) {
        let _ = self.0.send(Event::Acked {
            tag: ack.delivery_tag(),
            multiple: ack.mutiple(),
        });
    }
    async fn publish_nack(&mut self, _: &Channel, nack: Nack) {
        let _ = self.0.send(Event::Nacked(nack.delivery_tag()));
    }
    async fn publish_return(
        &mut self,
        _: &Channel,
        back: Return,
        properties: BasicProperties,
        body: Vec<u8>,
    ) {
        let _ = self.0.send(Event::Returned(format!(
            "{} {} '{}' {} {} {}",
            back.reply_code(),
            back.reply_text(),
            back.exchange(),
            back.routing_key(),
            properties.message_id().cloned().unwrap_or_default(),
            text(&body)
        )));
    }
}

/// A connection and its events.
struct Link {
    raw: Connection,
    events: UnboundedReceiver<Event>,
}

impl Link {
    async fn channel(&self) -> Result<Channelled, Error> {
        let raw = self.raw.open_channel(None).await?;
        let (sender, events) = unbounded_channel();
        raw.register_callback(Reporter(sender)).await?;
        Ok(Channelled {
            raw,
            events,
            confirmed: 0,
            ahead: Vec::new(),
        })
    }

    async fn confirming(&self) -> Result<Channelled, Error> {
        let channel = self.channel().await?;
        channel
            .raw
            .confirm_select(ConfirmSelectArguments::default())
            .await?;
        Ok(channel)
    }

    async fn expect_close(&mut self, code: u16, text: &str) -> Outcome {
        let Some(event) = within("connection close", self.events.recv()).await? else {
            return failed("the connection's events ended");
        };
        same(
            "event",
            Event::Closed {
                code,
                text: text.to_owned(),
            },
            event,
        )?;
        let raw = self.raw.clone();
        eventually("end of the connection", || !raw.is_open()).await
    }

    async fn still_usable(&self) -> Outcome {
        let channel = self.channel().await?;
        let queue = channel.server_named().await?;
        channel.publish("", &queue, "alive").await?;
        same(
            "body on a new channel",
            "alive",
            text(&channel.get(&queue, true).await?.2),
        )
    }
}

/// A channel, its events and its confirms.
struct Channelled {
    raw: Channel,
    events: UnboundedReceiver<Event>,
    confirmed: u64,
    ahead: Vec<u64>,
}

impl Channelled {
    async fn event(&mut self) -> Outcome<Event> {
        match within("event on the channel", self.events.recv()).await? {
            Some(event) => Ok(event),
            None => failed("the channel's events ended"),
        }
    }

    /// Waits until exactly the first `count` messages are confirmed.
    async fn wait_for_confirms(&mut self, count: u64) -> Outcome {
        while self.confirmed < count {
            match self.event().await? {
                Event::Acked { tag, .. } if tag <= self.confirmed => {
                    return failed(format!("second ack of {tag}"));
                }
                Event::Acked {
                    tag,
                    multiple: true,
                } => {
                    self.confirmed = tag;
                    self.ahead.retain(|&other| other > tag);
                }
                Event::Acked {
                    tag,
                    multiple: false,
                } => self.ahead.push(tag),
                other => return failed(format!("expected an ack, got {other:?}")),
            }
            while let Some(at) = self.ahead.iter().position(|&tag| tag == self.confirmed + 1) {
                self.ahead.swap_remove(at);
                self.confirmed += 1;
            }
        }
        same("confirmed", count, self.confirmed)
    }

    async fn temporary_queue(&self, rest: &str) -> Result<String, Error> {
        let queue = name(rest);
        self.raw
            .queue_declare(QueueDeclareArguments::new(&queue).exclusive(true).finish())
            .await?;
        Ok(queue)
    }

    async fn server_named(&self) -> Outcome<String> {
        match self
            .raw
            .queue_declare(QueueDeclareArguments::exclusive_server_named())
            .await?
        {
            Some((queue, ..)) => Ok(queue),
            None => failed("no answer to a declaration"),
        }
    }

    /// An empty durable queue, replacing one of an earlier run.
    async fn durable_queue(&self, rest: &str, arguments: FieldTable) -> Outcome<String> {
        let queue = name(rest);
        self.delete(&queue).await?;
        self.raw
            .queue_declare(
                QueueDeclareArguments::durable_client_named(&queue)
                    .arguments(arguments)
                    .finish(),
            )
            .await?;
        Ok(queue)
    }

    async fn exchange(&self, rest: &str, kind: &str) -> Result<String, Error> {
        let exchange = name(rest);
        self.raw
            .exchange_delete(ExchangeDeleteArguments::new(&exchange))
            .await?;
        self.raw
            .exchange_declare(ExchangeDeclareArguments::new(&exchange, kind))
            .await?;
        Ok(exchange)
    }

    async fn delete(&self, queue: &str) -> Outcome {
        self.raw
            .queue_delete(QueueDeleteArguments::new(queue))
            .await?;
        Ok(())
    }

    async fn delete_exchange(&self, exchange: &str) -> Outcome {
        self.raw
            .exchange_delete(ExchangeDeleteArguments::new(exchange))
            .await?;
        Ok(())
    }

    async fn bound(&self, exchange: &str, keys: &[&str]) -> Outcome<Consumer> {
        let queue = self.server_named().await?;
        for key in keys {
            self.raw
                .queue_bind(QueueBindArguments::new(&queue, exchange, key))
                .await?;
        }
        self.consume(&queue, true).await
    }

    async fn consume(&self, queue: &str, no_ack: bool) -> Outcome<Consumer> {
        let arguments = BasicConsumeArguments::new(queue, "")
            .manual_ack(!no_ack)
            .finish();
        let (tag, messages) = self.raw.basic_consume_rx(arguments).await?;
        Ok(Consumer {
            queue: queue.to_owned(),
            tag,
            messages,
        })
    }

    async fn cancel(&self, consumer: &Consumer) -> Outcome {
        self.raw
            .basic_cancel(BasicCancelArguments::new(&consumer.tag))
            .await?;
        Ok(())
    }

    async fn prefetch(&self, count: u16) -> Result<(), Error> {
        self.raw
            .basic_qos(BasicQosArguments::new(0, count, false))
            .await
    }

    async fn publish(
        &self,
        exchange: &str,
        key: &str,
        body: impl Into<Vec<u8>>,
    ) -> Result<(), Error> {
        self.publish_with(exchange, key, body, BasicProperties::default())
            .await
    }

    async fn publish_with(
        &self,
        exchange: &str,
        key: &str,
        body: impl Into<Vec<u8>>,
        properties: BasicProperties,
    ) -> Result<(), Error> {
        self.raw
            .basic_publish(
                properties,
                body.into(),
                BasicPublishArguments::new(exchange, key),
            )
            .await
    }

    async fn ack(&self, tag: u64, multiple: bool) -> Result<(), Error> {
        self.raw
            .basic_ack(BasicAckArguments::new(tag, multiple))
            .await
    }

    async fn ready(&self, queue: &str) -> Outcome<u32> {
        match self
            .raw
            .queue_declare(QueueDeclareArguments::new(queue).passive(true).finish())
            .await?
        {
            Some((_, messages, _)) => Ok(messages),
            None => failed("no answer to a declaration"),
        }
    }

    /// After this everything the broker sent earlier on the channel has been dispatched.
    async fn round_trip(&self) -> Result<(), Error> {
        self.raw
            .exchange_declare(
                ExchangeDeclareArguments::new("amq.direct", "direct")
                    .passive(true)
                    .finish(),
            )
            .await
    }

    async fn maybe_get(&self, queue: &str, no_ack: bool) -> Outcome<Option<GetMessage>> {
        let arguments = BasicGetArguments::new(queue).no_ack(no_ack).finish();
        Ok(within("answer to a get", self.raw.basic_get(arguments)).await??)
    }

    async fn get(&self, queue: &str, no_ack: bool) -> Outcome<(GetOk, BasicProperties, Vec<u8>)> {
        match self.maybe_get(queue, no_ack).await? {
            Some(message) => Ok(message),
            None => failed(format!("queue {queue} is empty")),
        }
    }

    /// The error of a refused method says little; the callback has the code and the text.
    async fn expect_close<T, E>(
        &mut self,
        link: &Link,
        code: u16,
        refused: Result<T, E>,
    ) -> Outcome<String> {
        check(refused.is_err(), || {
            format!("expected the channel to close with {code}")
        })?;
        let Event::Closed { code: actual, text } = self.event().await? else {
            return failed("expected the channel to close");
        };
        same("code", code, actual)?;
        eventually("end of the channel", || !self.raw.is_open()).await?;
        check(
            link.raw.is_open(),
            || "the connection closed with the channel",
        )?;
        Ok(text)
    }
}

struct Delivery {
    tag: u64,
    redelivered: bool,
    exchange: String,
    key: String,
    properties: BasicProperties,
    body: Vec<u8>,
}

impl Delivery {
    fn text(&self) -> String {
        text(&self.body)
    }

    fn header(&self, key: &str) -> Option<FieldValue> {
        self.properties
            .headers()
            .and_then(|headers| field(headers, key))
            .cloned()
    }
}

struct Consumer {
    queue: String,
    tag: String,
    messages: UnboundedReceiver<ConsumerMessage>,
}

impl Consumer {
    async fn take(&mut self) -> Outcome<Delivery> {
        let Some(message) = within("delivery", self.messages.recv()).await? else {
            return failed("the consumer ended");
        };
        let (Some(deliver), Some(properties), Some(body)) =
            (message.deliver, message.basic_properties, message.content)
        else {
            return failed("a delivery without method, properties or body");
        };
        Ok(Delivery {
            tag: deliver.delivery_tag(),
            redelivered: deliver.redelivered(),
            exchange: deliver.exchange().clone(),
            key: deliver.routing_key().clone(),
            properties,
            body,
        })
    }

    async fn texts(&mut self, count: usize) -> Outcome<Vec<String>> {
        let mut texts = Vec::new();
        for _ in 0..count {
            texts.push(self.take().await?.text());
        }
        Ok(texts)
    }

    fn expect_nothing(&mut self, what: &str) -> Outcome {
        check(self.messages.try_recv().is_err(), || {
            format!("{what}: unexpected delivery")
        })
    }
}

async fn connect() -> Result<Link, Error> {
    open(login(&broker_address())).await
}

async fn open(arguments: OpenConnectionArguments) -> Result<Link, Error> {
    let raw = Connection::open(&arguments).await?;
    let (sender, events) = unbounded_channel();
    raw.register_callback(Reporter(sender)).await?;
    Ok(Link { raw, events })
}

fn login(address: &str) -> OpenConnectionArguments {
    let (host, port) = split(address);
    OpenConnectionArguments::new(&host, port, "guest", "guest")
}

/// Host (with its brackets, for IPv6) and port.
fn split(address: &str) -> (String, u16) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "5672"));
    (host.to_owned(), port.parse().unwrap_or(5672))
}

fn persistent() -> BasicProperties {
    BasicProperties::default().with_persistence(true).finish()
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}

fn table<'a>(entries: impl IntoIterator<Item = (&'a str, FieldValue)>) -> FieldTable {
    let mut table = FieldTable::new();
    for (key, value) in entries {
        table.insert(key.try_into().expect("header names are short"), value);
    }
    table
}

fn field<'a>(table: &'a FieldTable, key: &str) -> Option<&'a FieldValue> {
    table.get(&key.try_into().expect("header names are short"))
}

/// Waits for a flag that the library sets from a task of its own.
async fn eventually(what: &str, condition: impl Fn() -> bool) -> Outcome {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
}
