//! The interop scenarios with lapin.

use futures_lite::{StreamExt, future::poll_once};
use interop_rust_clients::*;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, Error,
    ErrorKind, Event, ExchangeKind,
    message::{BasicGetMessage, Delivery},
    options::*,
    types::{AMQPValue, DecimalValue, FieldArray, FieldTable},
    uri::AMQPUri,
};
use std::time::Duration;

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
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let queue = temporary_queue(&channel, "hello").await?;
    publish(&channel, "", &queue, b"Hello World!").await?;
    let mut consumer = consume(&channel, &queue, AUTO_ACK).await?;
    let delivery = next(&mut consumer).await?;
    same("body", "Hello World!", text(&delivery))?;
    same("exchange", "", delivery.exchange.as_str())?;
    same("routing key", queue.as_str(), delivery.routing_key.as_str())?;
    same("redelivered", false, delivery.redelivered)?;
    channel
        .basic_cancel(consumer.tag(), BasicCancelOptions::default())
        .await?;
    same("messages left", 0, ready(&channel, &queue).await?)
}

async fn work_queue_fair_dispatch() -> Outcome {
    let connection = connect().await?;
    let setup = connection.create_channel().await?;
    let queue = durable_queue(&setup, "work", FieldTable::default()).await?;
    let slow_channel = connection.create_channel().await?;
    slow_channel
        .basic_qos(1, BasicQosOptions::default())
        .await?;
    let mut slow = consume(&slow_channel, &queue, MANUAL_ACK).await?;
    let quick_channel = connection.create_channel().await?;
    quick_channel
        .basic_qos(1, BasicQosOptions::default())
        .await?;
    let mut quick = consume(&quick_channel, &queue, MANUAL_ACK).await?;
    for i in 0..10 {
        publish(&setup, "", &queue, format!("task {i}").as_bytes()).await?;
    }
    let held = next(&mut slow).await?;
    for _ in 0..9 {
        next(&mut quick)
            .await?
            .ack(BasicAckOptions::default())
            .await?;
    }
    same("ready", 0, ready(&slow_channel, &queue).await?)?;
    nothing_more("the slow worker", &mut slow).await?;
    held.ack(BasicAckOptions::default()).await?;
    delete(&setup, &queue).await
}

async fn publish_subscribe() -> Outcome {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let exchange = exchange(&channel, "logs", ExchangeKind::Fanout).await?;
    let mut consumers = [
        bound(&channel, &exchange, &[""]).await?,
        bound(&channel, &exchange, &[""]).await?,
    ];
    for i in 0..5 {
        publish(
            &channel,
            &exchange,
            "ignored",
            format!("log {i}").as_bytes(),
        )
        .await?;
    }
    for consumer in &mut consumers {
        check(consumer.queue().as_str().starts_with("amq.gen-"), || {
            format!("server-named: {}", consumer.queue())
        })?;
        for i in 0..5 {
            let delivery = next(consumer).await?;
            same("body", format!("log {i}"), text(&delivery))?;
            same("exchange", exchange.as_str(), delivery.exchange.as_str())?;
        }
    }
    delete_exchange(&channel, &exchange).await
}

async fn routing() -> Outcome {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let exchange = exchange(&channel, "direct", ExchangeKind::Direct).await?;
    let mut errors = bound(&channel, &exchange, &["error"]).await?;
    let mut everything = bound(&channel, &exchange, &["info", "warning", "error"]).await?;
    for severity in ["info", "error", "debug", "warning", "error"] {
        publish(&channel, &exchange, severity, severity.as_bytes()).await?;
    }
    same(
        "errors",
        ["error", "error"].as_slice(),
        texts(&mut errors, 2).await?,
    )?;
    same(
        "everything",
        ["info", "error", "warning", "error"].as_slice(),
        texts(&mut everything, 4).await?,
    )?;
    round_trip(&channel).await?;
    nothing_more("errors", &mut errors).await?;
    nothing_more("everything", &mut everything).await?;
    channel
        .queue_unbind(
            errors.queue(),
            exchange.as_str().into(),
            "error".into(),
            FieldTable::default(),
        )
        .await?;
    publish(&channel, &exchange, "error", b"after unbind").await?;
    same(
        "everything",
        ["after unbind"].as_slice(),
        texts(&mut everything, 1).await?,
    )?;
    round_trip(&channel).await?;
    nothing_more("errors after unbind", &mut errors).await?;
    delete_exchange(&channel, &exchange).await
}

async fn topics() -> Outcome {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let exchange = exchange(&channel, "topic", ExchangeKind::Topic).await?;
    let mut orange = bound(&channel, &exchange, &["*.orange.*"]).await?;
    let mut rabbits_and_lazy = bound(&channel, &exchange, &["*.*.rabbit", "lazy.#"]).await?;
    let mut all = bound(&channel, &exchange, &["#"]).await?;
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
        publish(&channel, &exchange, key, key.as_bytes()).await?;
    }
    let expected = [
        "quick.orange.rabbit",
        "lazy.orange.elephant",
        "quick.orange.fox",
    ];
    same("orange", expected.as_slice(), texts(&mut orange, 3).await?)?;
    let expected = [
        "quick.orange.rabbit",
        "lazy.orange.elephant",
        "lazy.brown.fox",
        "lazy.pink.rabbit",
        "lazy.orange.new.rabbit",
        "lazy",
    ];
    same(
        "rabbits and lazy",
        expected.as_slice(),
        texts(&mut rabbits_and_lazy, 6).await?,
    )?;
    same("all", keys.as_slice(), texts(&mut all, keys.len()).await?)?;
    round_trip(&channel).await?;
    for consumer in [&mut orange, &mut rabbits_and_lazy, &mut all] {
        nothing_more("topics", consumer).await?;
    }
    delete_exchange(&channel, &exchange).await
}

async fn headers() -> Outcome {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let exchange = exchange(&channel, "headers", ExchangeKind::Headers).await?;
    let mut consumers = Vec::new();
    for matching in ["all", "any"] {
        let queue = server_named(&channel).await?;
        let arguments = table([
            ("x-match", string(matching)),
            ("format", string("pdf")),
            ("pages", AMQPValue::LongInt(3)),
        ]);
        let options = QueueBindOptions::default();
        channel
            .queue_bind(
                queue.as_str().into(),
                exchange.as_str().into(),
                "".into(),
                options,
                arguments,
            )
            .await?;
        consumers.push(consume(&channel, &queue, AUTO_ACK).await?);
    }
    for (body, headers) in [
        (
            "both",
            vec![
                ("format", string("pdf")),
                ("pages", AMQPValue::LongInt(3)),
                ("x", string("y")),
            ],
        ),
        (
            "format",
            vec![("format", string("pdf")), ("pages", AMQPValue::LongInt(4))],
        ),
        ("pages", vec![("pages", AMQPValue::LongInt(3))]),
        ("neither", vec![("format", string("zip"))]),
        ("none", vec![]),
    ] {
        let properties = BasicProperties::default().with_headers(table(headers));
        publish_with(&channel, &exchange, "", body.as_bytes(), properties).await?;
    }
    same(
        "all",
        ["both"].as_slice(),
        texts(&mut consumers[0], 1).await?,
    )?;
    same(
        "any",
        ["both", "format", "pages"].as_slice(),
        texts(&mut consumers[1], 3).await?,
    )?;
    round_trip(&channel).await?;
    nothing_more("all", &mut consumers[0]).await?;
    nothing_more("any", &mut consumers[1]).await?;
    delete_exchange(&channel, &exchange).await
}

async fn rpc_reply_queue() -> Outcome {
    let connection = connect().await?;
    let server = connection.create_channel().await?;
    let requests = temporary_queue(&server, "rpc").await?;
    let mut calls = consume(&server, &requests, MANUAL_ACK).await?;
    let client = connection.create_channel().await?;
    let reply_queue = server_named(&client).await?;
    let mut replies = consume(&client, &reply_queue, AUTO_ACK).await?;
    rpc(
        &server,
        &mut calls,
        &client,
        &requests,
        &mut replies,
        &reply_queue,
        &reply_queue,
    )
    .await
}

async fn rpc_direct_reply_to() -> Outcome {
    let connection = connect().await?;
    let server = connection.create_channel().await?;
    let requests = temporary_queue(&server, "rpc-direct").await?;
    let mut calls = consume(&server, &requests, MANUAL_ACK).await?;
    let client = connection.create_channel().await?;
    let pseudo = "amq.rabbitmq.reply-to";
    let mut replies = consume(&client, pseudo, AUTO_ACK).await?;
    rpc(
        &server,
        &mut calls,
        &client,
        &requests,
        &mut replies,
        pseudo,
        "amq.rabbitmq.reply-to.",
    )
    .await
}

/// Ten calls of a doubling server; `seen_prefix` starts the reply-to that the server sees.
async fn rpc(
    server: &Channel,
    calls: &mut Consumer,
    client: &Channel,
    requests: &str,
    replies: &mut Consumer,
    reply_to: &str,
    seen_prefix: &str,
) -> Outcome {
    for i in 0..10 {
        let properties = BasicProperties::default()
            .with_reply_to(reply_to.into())
            .with_correlation_id(format!("call-{i}").into());
        publish_with(client, "", requests, i.to_string().as_bytes(), properties).await?;
        let call = next(calls).await?;
        let Some(answer_to) = call.properties.reply_to().clone() else {
            return failed("no reply-to");
        };
        check(answer_to.as_str().starts_with(seen_prefix), || {
            format!("the server sees reply-to {answer_to}")
        })?;
        let correlation = call.properties.correlation_id().clone().unwrap_or_default();
        let answer = (text(&call).parse::<u32>()? * 2).to_string();
        let properties = BasicProperties::default().with_correlation_id(correlation);
        publish_with(
            server,
            "",
            answer_to.as_str(),
            answer.as_bytes(),
            properties,
        )
        .await?;
        call.ack(BasicAckOptions::default()).await?;
        let reply = next(replies).await?;
        same("reply", (2 * i).to_string(), text(&reply))?;
        same(
            "correlation id",
            Some(format!("call-{i}").into()),
            reply.properties.correlation_id().clone(),
        )?;
    }
    Ok(())
}

// ---- publishing

async fn confirms_single() -> Outcome {
    let connection = connect().await?;
    let channel = confirming(&connection).await?;
    let queue = temporary_queue(&channel, "confirm-single").await?;
    for i in 0..20 {
        confirmed(&channel, "", &queue, format!("m{i}").as_bytes()).await?;
    }
    same("ready", 20, ready(&channel, &queue).await?)
}

async fn confirms_batch() -> Outcome {
    let connection = connect().await?;
    let channel = confirming(&connection).await?;
    let queue = temporary_queue(&channel, "confirm-batch").await?;
    for batch in 0..10 {
        for i in 0..100 {
            publish(
                &channel,
                "",
                &queue,
                format!("m{}", batch * 100 + i).as_bytes(),
            )
            .await?;
        }
        let returned = within("confirms", channel.wait_for_confirms()).await??;
        same("returned", 0, returned.len())?;
    }
    same("ready", 1000, ready(&channel, &queue).await?)
}

async fn confirms_async_50000() -> Outcome {
    let connection = connect().await?;
    let channel = confirming(&connection).await?;
    let queue = durable_queue(&channel, "confirm-async", FieldTable::default()).await?;
    let mut confirms = Vec::with_capacity(SETTINGS.messages);
    for i in 0..SETTINGS.messages {
        let body = format!("message {i}");
        let options = BasicPublishOptions::default();
        confirms.push(
            channel
                .basic_publish(
                    "".into(),
                    queue.as_str().into(),
                    options,
                    body.as_bytes(),
                    persistent(),
                )
                .await?,
        );
    }
    for (i, confirm) in confirms.into_iter().enumerate() {
        let confirmation = within("confirm", confirm).await??;
        check(confirmation == Confirmation::Ack(None), || {
            format!("message {i}: {confirmation:?}")
        })?;
    }
    same(
        "ready",
        SETTINGS.messages,
        ready(&channel, &queue).await? as usize,
    )?;
    delete(&channel, &queue).await
}

async fn mandatory_return() -> Outcome {
    let connection = connect().await?;
    let channel = confirming(&connection).await?;
    let queue = temporary_queue(&channel, "mandatory").await?;
    let options = BasicPublishOptions {
        mandatory: true,
        ..Default::default()
    };
    let properties = BasicProperties::default().with_message_id("id-1".into());
    let missing = name("mandatory-missing");
    let confirm = channel
        .basic_publish(
            "".into(),
            missing.as_str().into(),
            options,
            b"lost",
            properties.clone(),
        )
        .await?;
    let Confirmation::Ack(Some(returned)) = within("confirm", confirm).await?? else {
        return failed("an unroutable mandatory message was not returned before its confirm");
    };
    same("reply code", 312, returned.reply_code)?;
    same("reply text", "NO_ROUTE", returned.reply_text.as_str())?;
    same("exchange", "", returned.delivery.exchange.as_str())?;
    same(
        "routing key",
        missing.as_str(),
        returned.delivery.routing_key.as_str(),
    )?;
    same("body", "lost", text(&returned.delivery))?;
    same(
        "message id",
        Some("id-1".into()),
        returned.delivery.properties.message_id().clone(),
    )?;
    let confirm = channel
        .basic_publish(
            "".into(),
            queue.as_str().into(),
            options,
            b"found",
            properties,
        )
        .await?;
    let confirmation = within("confirm", confirm).await??;
    check(confirmation == Confirmation::Ack(None), || {
        format!("routable: {confirmation:?}")
    })?;
    same("ready", 1, ready(&channel, &queue).await?)
}

// ---- consuming

async fn basic_get() -> Outcome {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let queue = temporary_queue(&channel, "get").await?;
    check(
        maybe_get(&channel, &queue, true).await?.is_none(),
        || "an empty queue gave a message",
    )?;
    for i in 0..3 {
        publish(&channel, "", &queue, format!("m{i}").as_bytes()).await?;
    }
    for i in 0..3 {
        let got = get(&channel, &queue, i == 2).await?;
        same("body", format!("m{i}"), text(&got.delivery))?;
        same("messages left", 2 - i, got.message_count)?;
        if i < 2 {
            got.delivery.ack(BasicAckOptions::default()).await?;
        }
    }
    check(
        maybe_get(&channel, &queue, true).await?.is_none(),
        || "the drained queue gave a message",
    )
}

async fn nack_requeue_redelivered() -> Outcome {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let dead = temporary_queue(&channel, "nack-dead").await?;
    let queue = name("nack");
    let arguments = table([
        ("x-dead-letter-exchange", string("")),
        ("x-dead-letter-routing-key", string(&dead)),
    ]);
    channel
        .queue_declare(
            queue.as_str().into(),
            QueueDeclareOptions::exclusive(),
            arguments,
        )
        .await?;
    for i in 0..3 {
        publish(&channel, "", &queue, format!("m{i}").as_bytes()).await?;
    }
    let mut last = None;
    for _ in 0..3 {
        let got = get(&channel, &queue, false).await?.delivery;
        same("first delivery redelivered", false, got.redelivered)?;
        last = Some(got);
    }
    let Some(last) = last else {
        return failed("no delivery");
    };
    last.nack(BasicNackOptions {
        multiple: true,
        requeue: true,
    })
    .await?;
    let mut again = Vec::new();
    for i in 0..3 {
        let got = get(&channel, &queue, false).await?.delivery;
        same("order after requeue", format!("m{i}"), text(&got))?;
        same("redelivered", true, got.redelivered)?;
        again.push(got);
    }
    again[1]
        .reject(BasicRejectOptions { requeue: true })
        .await?;
    again[0]
        .reject(BasicRejectOptions { requeue: false })
        .await?;
    again[2]
        .nack(BasicNackOptions {
            multiple: false,
            requeue: false,
        })
        .await?;
    same(
        "requeued one",
        "m1",
        text(&get(&channel, &queue, true).await?.delivery),
    )?;
    check(
        maybe_get(&channel, &queue, true).await?.is_none(),
        || "a discarded message came back",
    )?;
    let mut letters = consume(&channel, &dead, AUTO_ACK).await?;
    for body in ["m0", "m2"] {
        let letter = next(&mut letters).await?;
        same("dead letter", body, text(&letter))?;
        let Some(AMQPValue::FieldArray(deaths)) = header(&letter, "x-death") else {
            return failed("no x-death array");
        };
        let Some(AMQPValue::FieldTable(death)) = deaths.as_slice().first() else {
            return failed("x-death is empty");
        };
        same(
            "x-death queue",
            Some(&string(&queue)),
            death.inner().get("queue"),
        )?;
        same(
            "x-death reason",
            Some(&string("rejected")),
            death.inner().get("reason"),
        )?;
        same(
            "x-death count",
            Some(&AMQPValue::LongLongInt(1)),
            death.inner().get("count"),
        )?;
    }
    Ok(())
}

async fn prefetch_1_and_100() -> Outcome {
    let connection = connect().await?;
    for window in [1, 100] {
        let channel = confirming(&connection).await?;
        let queue = temporary_queue(&channel, &format!("prefetch-{window}")).await?;
        for i in 0..250 {
            publish(&channel, "", &queue, format!("m{i}").as_bytes()).await?;
        }
        within("confirms", channel.wait_for_confirms()).await??;
        channel
            .basic_qos(window, BasicQosOptions::default())
            .await?;
        let mut consumer = consume(&channel, &queue, MANUAL_ACK).await?;
        let mut last = None;
        for i in 0..window {
            let delivery = next(&mut consumer).await?;
            same("order", format!("m{i}"), text(&delivery))?;
            last = Some(delivery);
        }
        same(
            "ready at a full window",
            250 - u32::from(window),
            ready(&channel, &queue).await?,
        )?;
        nothing_more("beyond the window", &mut consumer).await?;
        if let Some(last) = last {
            last.ack(BasicAckOptions { multiple: true }).await?;
        }
        for i in window..2 * window {
            same("order", format!("m{i}"), text(&next(&mut consumer).await?))?;
        }
        same(
            "ready after one ack",
            250 - 2 * u32::from(window),
            ready(&channel, &queue).await?,
        )?;
        nothing_more("beyond the second window", &mut consumer).await?;
    }
    Ok(())
}

async fn consumer_cancel_and_queue_deletion() -> Outcome {
    let connection = connect().await?;
    let channel = confirming(&connection).await?;
    let queue = temporary_queue(&channel, "cancel").await?;
    let mut first = consume(&channel, &queue, AUTO_ACK).await?;
    confirmed(&channel, "", &queue, b"before").await?;
    same("body", "before", text(&next(&mut first).await?))?;
    channel
        .basic_cancel(first.tag(), BasicCancelOptions::default())
        .await?;
    confirmed(&channel, "", &queue, b"after").await?;
    same("ready", 1, ready(&channel, &queue).await?)?;
    check(
        within("end of the cancelled stream", first.next())
            .await?
            .is_none(),
        || "a delivery after cancel",
    )?;
    let mut second = consume(&channel, &queue, AUTO_ACK).await?;
    same("body", "after", text(&next(&mut second).await?))?;
    let other = connection.create_channel().await?;
    delete(&other, &queue).await?;
    check(
        within("cancellation by the broker", second.next())
            .await?
            .is_none(),
        || "a delivery after deletion",
    )?;
    check(
        channel.status().connected(),
        || "the channel closed with the queue",
    )
}

async fn exclusive_and_auto_delete() -> Outcome {
    let watcher = connect().await?;
    let owner = connect().await?;
    let exclusive = temporary_queue(&owner.create_channel().await?, "exclusive").await?;
    let intruder = watcher.create_channel().await?;
    channel_error(
        &watcher,
        &intruder,
        405,
        ready(&intruder, &exclusive).await.err(),
    )?;
    owner.close(200, "done".into()).await?;
    let after = watcher.create_channel().await?;
    channel_error(&watcher, &after, 404, ready(&after, &exclusive).await.err())?;

    let channel = watcher.create_channel().await?;
    let queue = name("auto-delete");
    let options = QueueDeclareOptions {
        auto_delete: true,
        ..Default::default()
    };
    channel
        .queue_declare(queue.as_str().into(), options, FieldTable::default())
        .await?;
    let first = consume(&channel, &queue, AUTO_ACK).await?;
    let second = consume(&channel, &queue, AUTO_ACK).await?;
    channel
        .basic_cancel(first.tag(), BasicCancelOptions::default())
        .await?;
    ready(&channel, &queue).await?;
    channel
        .basic_cancel(second.tag(), BasicCancelOptions::default())
        .await?;
    channel_error(&watcher, &channel, 404, ready(&channel, &queue).await.err())?;

    let channel = watcher.create_channel().await?;
    let exchange = name("auto-delete-exchange");
    let options = ExchangeDeclareOptions {
        auto_delete: true,
        ..Default::default()
    };
    channel
        .exchange_declare(
            exchange.as_str().into(),
            ExchangeKind::Direct,
            options,
            FieldTable::default(),
        )
        .await?;
    let queue = server_named(&channel).await?;
    bind(&channel, &queue, &exchange, "k").await?;
    channel
        .queue_unbind(
            queue.as_str().into(),
            exchange.as_str().into(),
            "k".into(),
            FieldTable::default(),
        )
        .await?;
    let passive = ExchangeDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let gone = channel
        .exchange_declare(
            exchange.as_str().into(),
            ExchangeKind::Direct,
            passive,
            FieldTable::default(),
        )
        .await;
    channel_error(&watcher, &channel, 404, gone.err()).map(|_| ())
}

async fn transactions() -> Outcome {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let observer = connection.create_channel().await?;
    let queue = temporary_queue(&channel, "tx").await?;
    channel.tx_select().await?;
    publish(&channel, "", &queue, b"one").await?;
    publish(&channel, "", &queue, b"two").await?;
    round_trip(&channel).await?;
    same("ready before commit", 0, ready(&observer, &queue).await?)?;
    channel.tx_commit().await?;
    same("ready after commit", 2, ready(&observer, &queue).await?)?;
    publish(&channel, "", &queue, b"never").await?;
    channel.tx_rollback().await?;
    same("ready after rollback", 2, ready(&observer, &queue).await?)?;
    let got = get(&channel, &queue, false).await?.delivery;
    channel
        .basic_ack(got.delivery_tag, BasicAckOptions::default())
        .await?;
    channel.tx_rollback().await?;
    // The message is unacknowledged again, so that the same tag can be acknowledged a second time.
    channel
        .basic_ack(got.delivery_tag, BasicAckOptions::default())
        .await?;
    channel.tx_commit().await?;
    channel.close(200, "done".into()).await?;
    same(
        "rest",
        "two",
        text(&get(&observer, &queue, true).await?.delivery),
    )?;
    same("ready at the end", 0, ready(&observer, &queue).await?)
}

// ---- content

async fn properties_and_header_types_round_trip() -> Outcome {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let queue = temporary_queue(&channel, "properties").await?;
    let nested = table([(
        "deep",
        AMQPValue::FieldTable(table([("deeper", string("bottom"))])),
    )]);
    let headers = table([
        ("bool-true", AMQPValue::Boolean(true)),
        ("bool-false", AMQPValue::Boolean(false)),
        ("byte", AMQPValue::ShortShortInt(-128)),
        ("unsigned-byte", AMQPValue::ShortShortUInt(255)),
        ("short", AMQPValue::ShortInt(-32768)),
        ("unsigned-short", AMQPValue::ShortUInt(65535)),
        ("int", AMQPValue::LongInt(i32::MIN)),
        ("unsigned-int", AMQPValue::LongUInt(u32::MAX)),
        ("long", AMQPValue::LongLongInt(i64::MIN)),
        ("float", AMQPValue::Float(1.5)),
        ("double", AMQPValue::Double(-2.25e300)),
        (
            "decimal",
            AMQPValue::DecimalValue(DecimalValue {
                scale: 2,
                value: 12345,
            }),
        ),
        ("string", string("Grüße, 世界")),
        ("empty", string("")),
        ("bytes", AMQPValue::ByteArray(vec![0, 1, 255].into())),
        ("timestamp", AMQPValue::Timestamp(1_700_000_000)),
        ("void", AMQPValue::Void),
        (
            "array",
            AMQPValue::FieldArray(FieldArray::from(vec![
                AMQPValue::LongInt(1),
                AMQPValue::Boolean(true),
                string("x"),
            ])),
        ),
        ("table", AMQPValue::FieldTable(nested)),
        ("long-string", string(&"y".repeat(5000))),
    ]);
    let sent = BasicProperties::default()
        .with_content_type("text/plain".into())
        .with_content_encoding("utf-8".into())
        .with_headers(headers.clone())
        .with_delivery_mode(2)
        .with_priority(5)
        .with_correlation_id("correlation".into())
        .with_reply_to("reply".into())
        .with_expiration("60000".into())
        .with_message_id("message".into())
        .with_timestamp(1_700_000_000)
        .with_type("kind".into())
        .with_user_id("guest".into())
        .with_app_id("app".into())
        .with_cluster_id("cluster".into());
    publish_with(&channel, "", &queue, b"body", sent.clone()).await?;
    let back = get(&channel, &queue, true).await?.delivery.properties;
    for (key, value) in headers.inner() {
        let got = back
            .headers()
            .as_ref()
            .and_then(|headers| headers.inner().get(key));
        same(&format!("header {key}"), Some(value), got)?;
    }
    same("properties", sent, back)?;
    publish(&channel, "", &queue, b"bare").await?;
    same(
        "bare properties",
        BasicProperties::default(),
        get(&channel, &queue, true).await?.delivery.properties,
    )
}

async fn body_sizes() -> Outcome {
    let connection = connect().await?;
    let channel = confirming(&connection).await?;
    let queue = temporary_queue(&channel, "sizes").await?;
    let frame_body = connection.configuration().frame_max() as usize - 8;
    let sizes = [0, 1, frame_body, frame_body + 1, 2 * frame_body, 8 << 20];
    for size in sizes {
        confirmed(&channel, "", &queue, &pattern(size)).await?;
        let got = get(&channel, &queue, true).await?;
        check(got.delivery.data == pattern(size), || {
            format!("the body of {size} bytes came back changed")
        })?;
    }
    let mut consumer = consume(&channel, &queue, AUTO_ACK).await?;
    for size in sizes {
        publish(&channel, "", &queue, &pattern(size)).await?;
    }
    for size in sizes {
        let delivery = next(&mut consumer).await?;
        check(delivery.data == pattern(size), || {
            format!("the delivery of {size} bytes came changed")
        })?;
    }
    Ok(())
}

// ---- connections

async fn thousand_queues_200_channels() -> Outcome {
    let connection = connect().await?;
    let mut channels = Vec::new();
    for _ in 0..200 {
        channels.push(connection.create_channel().await?);
    }
    for i in 0..1000 {
        let queue = temporary_queue(&channels[i % 200], &format!("many-{i}")).await?;
        publish(
            &channels[i % 200],
            "",
            &queue,
            format!("for {i}").as_bytes(),
        )
        .await?;
    }
    for i in 0..1000 {
        let got = get(&channels[i % 200], &name(&format!("many-{i}")), true).await?;
        same("body", format!("for {i}"), text(&got.delivery))?;
    }
    for i in 0..1000 {
        delete(&channels[(i + 7) % 200], &name(&format!("many-{i}"))).await?;
    }
    for channel in channels {
        channel.close(200, "done".into()).await?;
    }
    check(connection.status().connected(), || "the connection closed")
}

async fn ipv4_and_ipv6() -> Outcome {
    if SETTINGS.url_v6.is_empty() {
        return skipped("AMQP_URL_V6 is not set");
    }
    let four = connect().await?;
    let mut uri: AMQPUri = match SETTINGS.url_v6.parse() {
        Ok(uri) => uri,
        Err(error) => return failed(error),
    };
    // The library's parser passes over an IPv6 address and leaves the default host.
    uri.authority.host = "::1".to_owned();
    let six = Connection::connect_uri(uri, ConnectionProperties::default()).await?;
    let sender = four.create_channel().await?;
    let queue = name("families");
    sender
        .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
        .await?;
    sender
        .queue_declare(
            queue.as_str().into(),
            QueueDeclareOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let receiver = six.create_channel().await?;
    let mut consumer = consume(&receiver, &queue, AUTO_ACK).await?;
    publish(&sender, "", &queue, b"across").await?;
    same("body", "across", text(&next(&mut consumer).await?))?;
    delete(&sender, &queue).await
}

async fn heartbeat_idle() -> Outcome {
    let url = format!("{}?heartbeat=1", SETTINGS.url);
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    same(
        "negotiated heartbeat",
        1,
        connection.configuration().heartbeat(),
    )?;
    let channel = connection.create_channel().await?;
    let mut events = connection.events_listener();
    // Idle longer than either side tolerates silence: only heartbeats keep the connection.
    if let Ok(event) = tokio::time::timeout(Duration::from_secs(4), events.next()).await {
        return failed(format!("the idle connection saw {event:?}"));
    }
    let queue = temporary_queue(&channel, "idle").await?;
    publish(&channel, "", &queue, b"still here").await?;
    same(
        "body",
        "still here",
        text(&get(&channel, &queue, true).await?.delivery),
    )
}

async fn dead_peer_detection() -> Outcome {
    let watcher = connect().await?;
    let channel = confirming(&watcher).await?;
    let queue = durable_queue(&channel, "dead-peer", FieldTable::default()).await?;
    confirmed(&channel, "", &queue, b"held").await?;
    let proxy = FreezableProxy::start(&broker_address())?;
    let url = format!(
        "{}?heartbeat=1",
        SETTINGS
            .url
            .replace(&broker_address(), &proxy.address().to_string())
    );
    let doomed = Connection::connect(&url, ConnectionProperties::default()).await?;
    let mut events = doomed.events_listener();
    let doomed_channel = doomed.create_channel().await?;
    let held = get(&doomed_channel, &queue, false).await?;
    same("held", "held", text(&held.delivery))?;
    let mut consumer = consume(&channel, &queue, AUTO_ACK).await?;
    proxy.freeze();
    let back = next(&mut consumer).await?;
    same("body after the broker noticed", "held", text(&back))?;
    same("redelivered", true, back.redelivered)?;
    within("notice by the client", async {
        while let Some(event) = events.next().await {
            if matches!(event, Event::Error(_)) {
                return Ok(());
            }
        }
        failed("the events ended without an error")
    })
    .await??;
    delete(&channel, &queue).await
}

// ---- errors

async fn error_404() -> Outcome {
    let connection = connect().await?;
    let missing = name("missing");
    let channel = connection.create_channel().await?;
    let text = channel_error(
        &connection,
        &channel,
        404,
        ready(&channel, &missing).await.err(),
    )?;
    same(
        "text",
        format!("NOT_FOUND - no queue '{missing}' in vhost '/'"),
        text,
    )?;
    let channel = connection.create_channel().await?;
    let mut observer = observer(&channel).await?;
    publish(&channel, &missing, "k", b"x").await?;
    let error = channel_ends(&mut observer).await?;
    let text = channel_error(&connection, &channel, 404, Some(error))?;
    same(
        "text",
        format!("NOT_FOUND - no exchange '{missing}' in vhost '/'"),
        text,
    )?;
    let channel = connection.create_channel().await?;
    let refused = channel
        .basic_consume(
            missing.as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await;
    channel_error(&connection, &channel, 404, refused.err())?;
    still_usable(&connection).await
}

async fn error_406() -> Outcome {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let queue = temporary_queue(&channel, "inequivalent").await?;
    let arguments = table([("x-max-length", AMQPValue::LongInt(7))]);
    let refused = channel
        .queue_declare(
            queue.as_str().into(),
            QueueDeclareOptions::exclusive(),
            arguments,
        )
        .await;
    let text = channel_error(&connection, &channel, 406, refused.err())?;
    let expected = format!(
        "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue '{queue}' in vhost '/': \
         received the value '7' of type 'signedint' but current is none"
    );
    same("text", expected, text)?;
    let channel = connection.create_channel().await?;
    let mut observer = observer(&channel).await?;
    channel.basic_ack(42, BasicAckOptions::default()).await?;
    let error = channel_ends(&mut observer).await?;
    let text = channel_error(&connection, &channel, 406, Some(error))?;
    same(
        "text",
        "PRECONDITION_FAILED - unknown delivery tag 42",
        text,
    )?;
    still_usable(&connection).await
}

async fn error_403() -> Outcome {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let refused = channel
        .queue_declare(
            "amq.interop".into(),
            QueueDeclareOptions::default(),
            FieldTable::default(),
        )
        .await;
    let text = channel_error(&connection, &channel, 403, refused.err())?;
    same(
        "text",
        "ACCESS_REFUSED - queue name 'amq.interop' contains reserved prefix 'amq.*'",
        text,
    )?;
    let owner = connection.create_channel().await?;
    let queue = temporary_queue(&owner, "exclusive-consumer").await?;
    let options = BasicConsumeOptions {
        exclusive: true,
        ..AUTO_ACK
    };
    let _consumer = consume(&owner, &queue, options).await?;
    let second = connection.create_channel().await?;
    let refused = second
        .basic_consume(
            queue.as_str().into(),
            "".into(),
            AUTO_ACK,
            FieldTable::default(),
        )
        .await;
    let text = channel_error(&connection, &second, 403, refused.err())?;
    same(
        "text",
        format!("ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"),
        text,
    )?;
    still_usable(&connection).await?;
    let wrong = SETTINGS.url.replace(":guest@", ":wrong@");
    let Err(refused) = Connection::connect(&wrong, ConnectionProperties::default()).await else {
        return failed("a wrong password was accepted");
    };
    let (code, text) = protocol_error(&refused)?;
    same("code", 403, code)?;
    check(
        text.starts_with("ACCESS_REFUSED - Login was refused"),
        || format!("text is {text}"),
    )
}

async fn error_405() -> Outcome {
    let owner = connect().await?;
    let intruder = connect().await?;
    let channel = owner.create_channel().await?;
    let queue = temporary_queue(&channel, "locked").await?;
    let declare = intruder.create_channel().await?;
    let refused = declare
        .queue_declare(
            queue.as_str().into(),
            QueueDeclareOptions::exclusive(),
            FieldTable::default(),
        )
        .await;
    let text = channel_error(&intruder, &declare, 405, refused.err())?;
    let expected = format!(
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'"
    );
    check(text.starts_with(&expected), || format!("text is {text}"))?;
    still_usable(&intruder).await?;
    check(
        channel.status().connected(),
        || "the owner's channel closed",
    )
}

async fn error_530() -> Outcome {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let queue = temporary_queue(&channel, "tag").await?;
    let _first = channel
        .basic_consume(
            queue.as_str().into(),
            "twice".into(),
            AUTO_ACK,
            FieldTable::default(),
        )
        .await?;
    let refused = channel
        .basic_consume(
            queue.as_str().into(),
            "twice".into(),
            AUTO_ACK,
            FieldTable::default(),
        )
        .await;
    let text = connection_error(&connection, 530, refused.err())?;
    same(
        "text",
        "NOT_ALLOWED - attempt to reuse consumer tag 'twice'",
        text,
    )?;
    let missing = format!("{}interop-missing", SETTINGS.url.trim_end_matches("%2f"));
    let Err(refused) = Connection::connect(&missing, ConnectionProperties::default()).await else {
        return failed("a missing virtual host was accepted");
    };
    let (code, text) = protocol_error(&refused)?;
    same("code", 530, code)?;
    same(
        "text",
        "NOT_ALLOWED - vhost interop-missing not found",
        text,
    )
}

async fn error_540() -> Outcome {
    let connection = connect().await?;
    let channel = connection.create_channel().await?;
    let mut events = connection.events_listener();
    let options = BasicPublishOptions {
        immediate: true,
        ..Default::default()
    };
    let nowhere = name("nowhere");
    let _confirm = channel
        .basic_publish(
            "".into(),
            nowhere.as_str().into(),
            options,
            b"at once",
            BasicProperties::default(),
        )
        .await?;
    let error = loop {
        match within("connection close", events.next()).await? {
            Some(Event::Error(error)) => break error,
            Some(_) => {}
            None => return failed("the events ended without an error"),
        }
    };
    let text = connection_error(&connection, 540, Some(error))?;
    same("text", "NOT_IMPLEMENTED - immediate=true", text)
}

// ---- durability

async fn quorum_queue() -> Outcome {
    let connection = connect().await?;
    let channel = confirming(&connection).await?;
    let queue = durable_queue(
        &channel,
        "quorum",
        table([("x-queue-type", string("quorum"))]),
    )
    .await?;
    confirmed(&channel, "", &queue, b"counted").await?;
    channel.basic_qos(10, BasicQosOptions::default()).await?;
    let mut consumer = consume(&channel, &queue, MANUAL_ACK).await?;
    let mut delivery = next(&mut consumer).await?;
    check(
        header(&delivery, "x-delivery-count").is_none(),
        || "the first delivery is counted",
    )?;
    for count in 1..=2 {
        delivery
            .nack(BasicNackOptions {
                multiple: false,
                requeue: true,
            })
            .await?;
        delivery = next(&mut consumer).await?;
        same("body", "counted", text(&delivery))?;
        same("redelivered", true, delivery.redelivered)?;
        same(
            "x-delivery-count",
            Some(AMQPValue::LongLongInt(count)),
            header(&delivery, "x-delivery-count"),
        )?;
    }
    delivery.ack(BasicAckOptions::default()).await?;
    delete(&channel, &queue).await
}

/// lapin's own recovery restores the connection, its channels, queues, bindings, consumers and confirm mode.
async fn recovery_after_kill() -> Outcome {
    if SETTINGS.control.is_empty() {
        return skipped("BROKER_CONTROL is not set");
    }
    let count = 500;
    let properties = ConnectionProperties::default()
        .enable_auto_recover()
        .configure_backoff(|backoff| {
            backoff
                .with_min_delay(Duration::from_millis(50))
                .with_max_delay(Duration::from_secs(1))
                .with_max_times(60)
        });
    let connection = Connection::connect(&SETTINGS.url, properties).await?;
    let channel = confirming(&connection).await?;
    let queue = durable_queue(&channel, "recovery-durable", FieldTable::default()).await?;
    for i in 0..count {
        let body = format!("kept {i}");
        let options = BasicPublishOptions::default();
        let confirm = channel
            .basic_publish(
                "".into(),
                queue.as_str().into(),
                options,
                body.as_bytes(),
                persistent(),
            )
            .await?;
        drop(confirm);
    }
    within("confirms", channel.wait_for_confirms()).await??;
    let idle_queue = durable_queue(&channel, "recovery-idle", FieldTable::default()).await?;
    let idle_channel = connection.create_channel().await?;
    let mut idle = consume(&idle_channel, &idle_queue, MANUAL_ACK).await?;

    kill_and_restart().await?;
    let mut left = None;
    for _ in 0..20 {
        match ready(&channel, &queue).await {
            Ok(messages) => {
                left = Some(messages);
                break;
            }
            Err(error) => within("recovery", channel.wait_for_recovery(error)).await??,
        }
    }
    same("kept messages", Some(count), left)?;
    for i in 0..count {
        same(
            "kept message",
            format!("kept {i}"),
            text(&get(&channel, &queue, true).await?.delivery),
        )?;
    }
    check(
        maybe_get(&channel, &queue, true).await?.is_none(),
        || "a kept message came twice",
    )?;
    confirmed(&channel, "", &idle_queue, b"to the survivor").await?;
    let survivor = loop {
        match within("delivery to the recovered consumer", idle.next()).await? {
            Some(Ok(delivery)) => break delivery,
            Some(Err(error)) => within("recovery", idle_channel.wait_for_recovery(error)).await??,
            None => return failed("the consumer ended instead of recovering"),
        }
    };
    same("body", "to the survivor", text(&survivor))?;
    survivor.ack(BasicAckOptions::default()).await?;
    delete(&channel, &queue).await?;
    delete(&channel, &idle_queue).await
}

// ---- tools

const MANUAL_ACK: BasicConsumeOptions = BasicConsumeOptions {
    no_local: false,
    no_ack: false,
    exclusive: false,
    nowait: false,
};
const AUTO_ACK: BasicConsumeOptions = BasicConsumeOptions {
    no_ack: true,
    ..MANUAL_ACK
};

async fn connect() -> Result<Connection, Error> {
    Connection::connect(&SETTINGS.url, ConnectionProperties::default()).await
}

async fn confirming(connection: &Connection) -> Result<Channel, Error> {
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok(channel)
}

/// An empty queue that goes with its connection.
async fn temporary_queue(channel: &Channel, rest: &str) -> Result<String, Error> {
    let queue = name(rest);
    channel
        .queue_declare(
            queue.as_str().into(),
            QueueDeclareOptions::exclusive(),
            FieldTable::default(),
        )
        .await?;
    Ok(queue)
}

async fn server_named(channel: &Channel) -> Result<String, Error> {
    let queue = channel
        .queue_declare(
            "".into(),
            QueueDeclareOptions::exclusive(),
            FieldTable::default(),
        )
        .await?;
    Ok(queue.name().to_string())
}

/// An empty durable queue, replacing one of an earlier run.
async fn durable_queue(
    channel: &Channel,
    rest: &str,
    arguments: FieldTable,
) -> Result<String, Error> {
    let queue = name(rest);
    channel
        .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
        .await?;
    channel
        .queue_declare(
            queue.as_str().into(),
            QueueDeclareOptions::durable(),
            arguments,
        )
        .await?;
    Ok(queue)
}

async fn exchange(channel: &Channel, rest: &str, kind: ExchangeKind) -> Result<String, Error> {
    let exchange = name(rest);
    channel
        .exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default())
        .await?;
    let options = ExchangeDeclareOptions::default();
    channel
        .exchange_declare(
            exchange.as_str().into(),
            kind,
            options,
            FieldTable::default(),
        )
        .await?;
    Ok(exchange)
}

async fn delete(channel: &Channel, queue: &str) -> Outcome {
    channel
        .queue_delete(queue.into(), QueueDeleteOptions::default())
        .await?;
    Ok(())
}

async fn delete_exchange(channel: &Channel, exchange: &str) -> Outcome {
    channel
        .exchange_delete(exchange.into(), ExchangeDeleteOptions::default())
        .await?;
    Ok(())
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> Result<(), Error> {
    channel
        .queue_bind(
            queue.into(),
            exchange.into(),
            key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
}

/// A consumer on a server-named queue with these bindings.
async fn bound(channel: &Channel, exchange: &str, keys: &[&str]) -> Result<Consumer, Error> {
    let queue = server_named(channel).await?;
    for key in keys {
        bind(channel, &queue, exchange, key).await?;
    }
    consume(channel, &queue, AUTO_ACK).await
}

async fn consume(
    channel: &Channel,
    queue: &str,
    options: BasicConsumeOptions,
) -> Result<Consumer, Error> {
    channel
        .basic_consume(queue.into(), "".into(), options, FieldTable::default())
        .await
}

async fn publish(channel: &Channel, exchange: &str, key: &str, body: &[u8]) -> Result<(), Error> {
    publish_with(channel, exchange, key, body, BasicProperties::default()).await
}

async fn publish_with(
    channel: &Channel,
    exchange: &str,
    key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> Result<(), Error> {
    // A dropped confirm is left to `wait_for_confirms`.
    let confirm = channel
        .basic_publish(
            exchange.into(),
            key.into(),
            BasicPublishOptions::default(),
            body,
            properties,
        )
        .await?;
    drop(confirm);
    Ok(())
}

async fn confirmed(channel: &Channel, exchange: &str, key: &str, body: &[u8]) -> Outcome {
    let options = BasicPublishOptions::default();
    let confirm = channel
        .basic_publish(exchange.into(), key.into(), options, body, persistent())
        .await?;
    let confirmation = within("confirm", confirm).await??;
    check(confirmation == Confirmation::Ack(None), || {
        format!("confirmation is {confirmation:?}")
    })
}

fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}

async fn ready(channel: &Channel, queue: &str) -> Result<u32, Error> {
    let options = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    Ok(channel
        .queue_declare(queue.into(), options, FieldTable::default())
        .await?
        .message_count())
}

/// After this everything the broker sent earlier on the channel has been dispatched.
async fn round_trip(channel: &Channel) -> Result<(), Error> {
    let options = ExchangeDeclareOptions {
        passive: true,
        ..Default::default()
    };
    channel
        .exchange_declare(
            "amq.direct".into(),
            ExchangeKind::Direct,
            options,
            FieldTable::default(),
        )
        .await
}

async fn maybe_get(
    channel: &Channel,
    queue: &str,
    no_ack: bool,
) -> Result<Option<BasicGetMessage>, Error> {
    channel
        .basic_get(queue.into(), BasicGetOptions { no_ack })
        .await
}

async fn get(channel: &Channel, queue: &str, no_ack: bool) -> Outcome<BasicGetMessage> {
    match maybe_get(channel, queue, no_ack).await? {
        Some(message) => Ok(message),
        None => failed(format!("queue {queue} is empty")),
    }
}

async fn next(consumer: &mut Consumer) -> Outcome<Delivery> {
    match within("delivery", consumer.next()).await? {
        Some(delivery) => Ok(delivery?),
        None => failed("the consumer ended"),
    }
}

async fn texts(consumer: &mut Consumer, count: usize) -> Outcome<Vec<String>> {
    let mut texts = Vec::new();
    for _ in 0..count {
        texts.push(text(&next(consumer).await?));
    }
    Ok(texts)
}

async fn nothing_more(what: &str, consumer: &mut Consumer) -> Outcome {
    match poll_once(consumer.next()).await {
        None => Ok(()),
        Some(event) => failed(format!("{what}: unexpected {event:?}")),
    }
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.data).into_owned()
}

fn header(delivery: &Delivery, key: &str) -> Option<AMQPValue> {
    delivery
        .properties
        .headers()
        .as_ref()
        .and_then(|headers| headers.inner().get(key))
        .cloned()
}

fn string(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn table<'a>(entries: impl IntoIterator<Item = (&'a str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in entries {
        table.insert(key.into(), value);
    }
    table
}

/// A consumer whose only use is to learn why its channel closed.
async fn observer(channel: &Channel) -> Result<Consumer, Error> {
    let queue = server_named(channel).await?;
    consume(channel, &queue, AUTO_ACK).await
}

async fn channel_ends(observer: &mut Consumer) -> Outcome<Error> {
    match within("channel close", observer.next()).await? {
        Some(Err(error)) => Ok(error),
        other => failed(format!("expected the channel to close, got {other:?}")),
    }
}

fn protocol_error(error: &Error) -> Outcome<(u16, String)> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Ok((error.get_id(), error.get_message().to_string())),
        _ => failed(format!("expected an error from the broker, got {error}")),
    }
}

fn channel_error(
    connection: &Connection,
    channel: &Channel,
    code: u16,
    error: Option<Error>,
) -> Outcome<String> {
    let Some(error) = error else {
        return failed(format!("expected the channel to close with {code}"));
    };
    let (actual, text) = protocol_error(&error)?;
    same("code", code, actual)?;
    check(
        !channel.status().connected(),
        || "the channel is still open",
    )?;
    check(
        connection.status().connected(),
        || "the connection closed with the channel",
    )?;
    Ok(text)
}

fn connection_error(connection: &Connection, code: u16, error: Option<Error>) -> Outcome<String> {
    let Some(error) = error else {
        return failed(format!("expected the connection to close with {code}"));
    };
    let (actual, text) = protocol_error(&error)?;
    same("code", code, actual)?;
    check(
        !connection.status().connected(),
        || "the connection is still open",
    )?;
    Ok(text)
}

async fn still_usable(connection: &Connection) -> Outcome {
    let channel = connection.create_channel().await?;
    let queue = server_named(&channel).await?;
    publish(&channel, "", &queue, b"alive").await?;
    same(
        "body on a new channel",
        "alive",
        text(&get(&channel, &queue, true).await?.delivery),
    )
}
