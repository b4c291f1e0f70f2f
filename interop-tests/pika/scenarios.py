"""pika: blocking connections, and SelectConnection where confirms are asynchronous."""
import base64
import contextlib
import datetime
import decimal
import functools
import hashlib
import hmac
import json
import os
import ssl
import time
import uuid

import pika
from pika.exceptions import (AMQPConnectionError, AMQPError, ChannelClosedByBroker, ConnectionClosedByBroker, NackError,
                             UnroutableError)

import interop
from interop import HEADERS, MESSAGES, Skip, check, contains, equal, eventually, name, scenario

PERSISTENT = pika.BasicProperties(delivery_mode=2)


def parameters(url=interop.URL, **options):
    result = pika.URLParameters(url)
    result.blocked_connection_timeout = interop.WAIT_SECS
    for option, value in options.items():
        setattr(result, option, value)
    return result


@contextlib.contextmanager
def connect(url=interop.URL, **options):
    connection = pika.BlockingConnection(parameters(url, **options))
    try:
        yield connection
    finally:
        if connection.is_open:
            connection.close()


def on_channel(function):
    """Registers a scenario that needs one channel of one connection."""

    @functools.wraps(function)
    def with_channel():
        with connect() as connection:
            function(connection.channel())

    return scenario(with_channel)


def exclusive_queue(channel, arguments=None):
    return channel.queue_declare("", exclusive=True, arguments=arguments).method.queue


def publish(channel, queue, *bodies, properties=None):
    for body in bodies:
        channel.basic_publish("", queue, body, properties)


def collect(channel, queue, **options):
    """Starts a consumer; the list fills with (method, properties, body) while the connection is served."""
    received = []
    tag = channel.basic_consume(queue, lambda _, *message: received.append(message), **options)
    return received, tag


def serve(channel, probe, what):
    """Serves the connection until `probe` is true."""
    deadline = time.monotonic() + interop.WAIT_SECS
    while not probe():
        check(time.monotonic() < deadline, f"waited {interop.WAIT_SECS} s for {what}")
        channel.connection.process_data_events(0.05)


def barrier(channel):
    """A round trip: what the broker sent before is here after it, and dispatched."""
    channel.basic_qos(prefetch_count=0)
    channel.connection.process_data_events(0)


def take(channel, queue, count):
    """The next messages of a queue, acknowledged automatically."""
    received, tag = collect(channel, queue, auto_ack=True)
    serve(channel, lambda: len(received) >= count, f"{count} messages")
    channel.basic_cancel(tag)
    equal(len(received), count, "messages")
    return received


def bodies(messages):
    return [body.decode() for _, _, body in messages]


@on_channel
def hello_world(channel):
    queue = exclusive_queue(channel)
    publish(channel, queue, b"Hello World!")
    method, _, body = take(channel, queue, 1)[0]
    equal(body, b"Hello World!", "body")
    equal((method.exchange, method.routing_key, method.redelivered), ("", queue, False), "deliver")


@on_channel
def work_queue_fair_dispatch(channel):
    queue = exclusive_queue(channel)
    other = channel.connection.channel()
    channel.basic_qos(prefetch_count=1)
    other.basic_qos(prefetch_count=1)
    slow, _ = collect(channel, queue)
    quick = []

    def work(_, method, properties, body):
        quick.append((method, properties, body))
        other.basic_ack(method.delivery_tag)

    other.basic_consume(queue, work)
    publish(channel, queue, *(f"task {i}".encode() for i in range(20)))
    serve(channel, lambda: len(quick) >= 19, "19 messages at the quick worker")
    barrier(channel)
    equal(len(slow), 1, "messages at the worker that holds its first")
    equal(sorted(bodies(slow + quick)), sorted(f"task {i}" for i in range(20)), "tasks")
    channel.basic_ack(slow[0][0].delivery_tag)


@on_channel
def publish_subscribe(channel):
    exchange = name("logs")
    channel.exchange_declare(exchange, "fanout", auto_delete=True)
    queues = [exclusive_queue(channel) for _ in range(2)]
    for queue in queues:
        check(queue.startswith("amq.gen-"), f"server-named queue is called {queue}")
        channel.queue_bind(queue, exchange)
    for i in range(100):
        channel.basic_publish(exchange, f"ignored {i}", str(i).encode())
    for queue in queues:
        messages = take(channel, queue, 100)
        equal(bodies(messages), [str(i) for i in range(100)], "bodies")
        equal(messages[7][0].exchange, exchange, "exchange")


@on_channel
def routing(channel):
    exchange = name("direct")
    channel.exchange_declare(exchange, "direct", auto_delete=True)
    errors, everything = exclusive_queue(channel), exclusive_queue(channel)
    channel.queue_bind(errors, exchange, "error")
    for key in ("info", "warning", "error"):
        channel.queue_bind(everything, exchange, key)
    for key in ("info", "warning", "error", "debug", "errors", "Error"):
        channel.basic_publish(exchange, key, key.encode())
    equal(bodies(take(channel, errors, 1)), ["error"], "queue bound with error")
    equal(bodies(take(channel, everything, 3)), ["info", "warning", "error"], "queue bound with three keys")
    channel.queue_unbind(everything, exchange, "info")
    channel.basic_publish(exchange, "info", b"late")
    channel.basic_publish(exchange, "error", b"last")
    equal(bodies(take(channel, everything, 1)), ["last"], "after unbind")


@on_channel
def topics(channel):
    exchange = name("topic")
    channel.exchange_declare(exchange, "topic", auto_delete=True)
    queues = {}
    for keys in interop.TOPIC_MATCHES:
        queues[keys] = exclusive_queue(channel)
        for key in keys:
            channel.queue_bind(queues[keys], exchange, key)
    for key in interop.TOPIC_KEYS:
        channel.basic_publish(exchange, key, key.encode())
    for keys, expected in interop.TOPIC_MATCHES.items():
        equal(bodies(take(channel, queues[keys], len(expected))), expected, f"queue bound with {keys}")


@on_channel
def headers(channel):
    exchange = name("headers")
    channel.exchange_declare(exchange, "headers", auto_delete=True)
    match_all, match_any = exclusive_queue(channel), exclusive_queue(channel)
    channel.queue_bind(match_all, exchange, arguments={"x-match": "all", "format": "pdf", "pages": 3})
    channel.queue_bind(match_any, exchange, arguments={"x-match": "any", "format": "pdf", "pages": 3})
    for body, table in ((b"both", {"format": "pdf", "pages": 3, "more": 1}), (b"one", {"format": "pdf", "pages": 4}),
                        (b"none", {"format": "zip"}), (b"string", {"pages": "3"}), (b"empty", None)):
        channel.basic_publish(exchange, "", body, pika.BasicProperties(headers=table))
    equal(bodies(take(channel, match_all, 1)), ["both"], "x-match all")
    equal(bodies(take(channel, match_any, 2)), ["both", "one"], "x-match any")


def rpc(channel, replies, reply_to, queue, options):
    """A fib(n) server on its own channel; asks it and compares."""
    server = channel.connection.channel()

    def answer(_, method, properties, body):
        server.basic_publish("", properties.reply_to, str(interop.fibonacci(int(body))).encode(),
                             pika.BasicProperties(correlation_id=properties.correlation_id))
        server.basic_ack(method.delivery_tag)

    server.basic_consume(queue, answer)
    asked = {}
    received, _ = collect(channel, replies, auto_ack=True, **options)
    for n in (0, 1, 10, 30, 90):
        asked[str(uuid.uuid4())] = n
        channel.basic_publish("", queue, str(n).encode(), pika.BasicProperties(reply_to=reply_to, correlation_id=list(asked)[-1]))
    serve(channel, lambda: len(received) >= len(asked), "replies")
    equal({p.correlation_id: int(body) for _, p, body in received}, {key: interop.fibonacci(n) for key, n in asked.items()}, "replies")
    return received


@on_channel
def rpc_reply_queue(channel):
    replies = exclusive_queue(channel)
    rpc(channel, replies, replies, exclusive_queue(channel), {})


@on_channel
def rpc_direct_reply_to(channel):
    received = rpc(channel, "amq.rabbitmq.reply-to", "amq.rabbitmq.reply-to", exclusive_queue(channel), {})
    method = received[0][0]
    equal(method.exchange, "", "exchange")
    check(method.routing_key.startswith("amq.rabbitmq.reply-to."), f"routing key of the reply is {method.routing_key}")


@on_channel
def confirms_single(channel):
    queue = name()
    channel.queue_declare(queue, durable=True)
    channel.confirm_delivery()
    for i in range(100):
        channel.basic_publish("", queue, str(i).encode(), PERSISTENT)
    equal(channel.queue_declare(queue, passive=True).method.message_count, 100, "message count")
    channel.queue_delete(queue)


def select_confirms(queue, count, batch):
    """Publishes from a SelectConnection, at most `batch` unconfirmed; returns the confirmed sequence numbers."""
    confirmed, nacked, problems = set(), set(), []
    state = {"published": 0, "lowest": 1}

    def on_open(connection):
        connection.channel(on_open_callback=on_channel_open)

    def on_channel_open(channel):
        state["channel"] = channel
        channel.add_on_close_callback(lambda _, reason: problems.append(reason))
        channel.confirm_delivery(on_confirm, callback=lambda _: pump())

    def pump():
        # A part of the messages per turn, so that the loop also reads.
        limit = min(count, len(confirmed) + len(nacked) + batch, state["published"] + 1000)
        while state["published"] < limit:
            state["channel"].basic_publish("", queue, str(state["published"]).encode(), PERSISTENT)
            state["published"] += 1
        if state["published"] < count and batch >= count:
            connection.ioloop.call_later(0, pump)

    def on_confirm(frame):
        method = frame.method
        numbers = range(state["lowest"], method.delivery_tag + 1) if method.multiple else [method.delivery_tag]
        settled = nacked if isinstance(method, pika.spec.Basic.Nack) else confirmed
        for number in numbers:
            if number in confirmed or number in nacked:
                if not method.multiple:
                    problems.append(f"sequence number {number} was confirmed twice")
            else:
                settled.add(number)
        while state["lowest"] in confirmed or state["lowest"] in nacked:
            state["lowest"] += 1
        if len(confirmed) + len(nacked) >= count:
            connection.close()
        elif state["published"] < count and len(confirmed) + len(nacked) == state["published"]:
            pump()

    def stop(*_):
        connection.ioloop.stop()

    connection = pika.SelectConnection(parameters(), on_open_callback=on_open, on_open_error_callback=stop, on_close_callback=stop)
    connection.ioloop.call_later(60, lambda: (problems.append("not all confirmed after 60 s"), connection.ioloop.stop()))
    connection.ioloop.start()
    problems = [p for p in problems if not (isinstance(p, Exception) and "Normal" in str(p))]
    check(not problems, f"problems: {problems[:3]}; {len(confirmed)} confirmed")
    equal(len(nacked), 0, "nacked")
    equal(confirmed, set(range(1, count + 1)), "confirmed")


def confirm_run(count, batch):
    with connect() as connection:
        channel = connection.channel()
        queue = name()
        channel.queue_declare(queue, durable=True)
        select_confirms(queue, count, batch)
        equal(channel.queue_declare(queue, passive=True).method.message_count, count, "message count")
        channel.queue_delete(queue)


@scenario
def confirms_batch():
    confirm_run(1000, 100)


@scenario
def confirms_async_50000():
    confirm_run(MESSAGES, MESSAGES)


@on_channel
def mandatory_return(channel):
    channel.confirm_delivery()
    queue, nowhere = exclusive_queue(channel), name("nowhere")
    channel.basic_publish("", queue, b"arrives", mandatory=True)
    try:
        channel.basic_publish("", nowhere, b"comes back", pika.BasicProperties(message_id="m1"), mandatory=True)
        check(False, "an unroutable mandatory message was not returned")
    except UnroutableError as error:
        returned, = error.messages
    equal((returned.method.reply_code, returned.method.reply_text), (312, "NO_ROUTE"), "reply code and text")
    equal((returned.method.exchange, returned.method.routing_key), ("", nowhere), "exchange and key")
    equal((returned.body, returned.properties.message_id), (b"comes back", "m1"), "content")
    channel.basic_publish("", nowhere, b"dropped")
    equal(bodies(take(channel, queue, 1)), ["arrives"], "queue")


@on_channel
def basic_get(channel):
    queue = exclusive_queue(channel)
    equal(channel.basic_get(queue), (None, None, None), "get of an empty queue")
    publish(channel, queue, b"0", b"1", b"2")
    serve(channel, lambda: channel.queue_declare(queue, passive=True).method.message_count == 3, "3 messages")
    for i in range(3):
        method, _, body = channel.basic_get(queue)
        equal((body, method.message_count, method.delivery_tag, method.redelivered), (str(i).encode(), 2 - i, i + 2 - 1, False), "get-ok")
    channel.basic_ack(0, multiple=True)
    equal(channel.basic_get(queue)[0], None, "get after all acks")


@on_channel
def nack_requeue_redelivered(channel):
    exchange = name("dlx")
    channel.exchange_declare(exchange, "fanout", auto_delete=True)
    dead = exclusive_queue(channel)
    channel.queue_bind(dead, exchange)
    queue = exclusive_queue(channel, {"x-dead-letter-exchange": exchange})
    publish(channel, queue, b"0", b"1", b"2")
    first = channel.basic_get(queue)[0]
    channel.basic_nack(first.delivery_tag, requeue=True)
    seen = []
    for _ in range(3):
        method, _, body = channel.basic_get(queue)
        seen.append((body, method.redelivered, method.delivery_tag))
    equal([entry[:2] for entry in seen], [(b"0", True), (b"1", False), (b"2", False)], "after the requeue")
    channel.basic_nack(seen[0][2], requeue=False)
    channel.basic_reject(seen[1][2], requeue=False)
    channel.basic_ack(seen[2][2])
    messages = take(channel, dead, 2)
    equal(bodies(messages), ["0", "1"], "dead-lettered")
    method, properties, _ = messages[0]
    equal((method.exchange, method.routing_key, method.redelivered), (exchange, queue, False), "dead-lettered deliver")
    death, = properties.headers["x-death"]
    equal({key: death[key] for key in ("count", "reason", "queue", "exchange", "routing-keys")},
          {"count": 1, "reason": "rejected", "queue": queue, "exchange": "", "routing-keys": [queue]}, "x-death")
    equal(properties.headers["x-first-death-queue"], queue, "x-first-death-queue")


@on_channel
def prefetch_1_and_100(channel):
    for prefetch in (1, 100):
        queue = exclusive_queue(channel)
        publish(channel, queue, *(str(i).encode() for i in range(250)))
        consuming = channel.connection.channel()
        consuming.basic_qos(prefetch_count=prefetch)
        received, _ = collect(consuming, queue)
        settled = 0
        while settled < 250:
            window = min(prefetch, 250 - settled)
            serve(consuming, lambda: len(received) >= settled + window, f"{window} more messages")
            # Had the broker sent more than the window, they would be here after a round trip.
            channel.queue_declare(queue, passive=True)
            consuming.connection.process_data_events(0)
            equal(len(received) - settled, window, f"messages in a window of {prefetch}")
            settled += window
            consuming.basic_ack(received[-1][0].delivery_tag, multiple=True)
        equal(bodies(received), [str(i) for i in range(250)], "order")
        consuming.close()
        equal(channel.queue_declare(queue, passive=True).method.message_count, 0, "messages left")


@on_channel
def consumer_cancel_and_queue_deletion(channel):
    queue = name()
    channel.queue_declare(queue)
    received, tag = collect(channel, queue, auto_ack=True)
    publish(channel, queue, b"before")
    serve(channel, lambda: received, "the first message")
    channel.basic_cancel(tag)
    publish(channel, queue, b"after")
    barrier(channel)
    equal(bodies(received), ["before"], "received")
    equal(channel.queue_declare(queue, passive=True).method.consumer_count, 0, "consumers after cancel")
    cancelled = []
    channel.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
    received, tag = collect(channel, queue, auto_ack=True)
    serve(channel, lambda: received, "the second message")
    other = channel.connection.channel()
    other.queue_delete(queue)
    serve(channel, lambda: cancelled, "basic.cancel from the broker")
    equal(cancelled, [tag], "cancelled consumer")
    check(channel.is_open, "the channel was closed")


@on_channel
def exclusive_and_auto_delete(channel):
    with connect() as owner:
        mine = owner.channel()
        queue = name("exclusive")
        mine.queue_declare(queue, exclusive=True)
        expect_channel_error(405, "cannot obtain exclusive access to locked queue", lambda c: c.basic_get(queue), channel.connection)
    expect_channel_error(404, f"no queue '{queue}' in vhost '/'", lambda c: c.queue_declare(queue, passive=True), channel.connection)
    queue = name("auto-delete")
    channel.queue_declare(queue, auto_delete=True)
    tags = [collect(channel, queue)[1] for _ in range(2)]
    channel.basic_cancel(tags[0])
    equal(channel.queue_declare(queue, passive=True).method.consumer_count, 1, "consumers")
    channel.basic_cancel(tags[1])
    expect_channel_error(404, "no queue", lambda c: c.queue_declare(queue, passive=True), channel.connection)


@on_channel
def transactions(channel):
    queue = exclusive_queue(channel)
    look = channel.connection.channel()

    def count():
        return look.queue_declare(queue, passive=True).method.message_count

    channel.tx_select()
    publish(channel, queue, b"1", b"2")
    equal(count(), 0, "messages before the commit")
    channel.tx_commit()
    equal(count(), 2, "messages after the commit")
    publish(channel, queue, b"3")
    method, _, _ = channel.basic_get(queue)
    channel.basic_ack(method.delivery_tag)
    channel.tx_rollback()
    equal(count(), 1, "ready messages after the rollback")
    # The rollback took the ack back: the message is still outstanding and can be settled again.
    channel.basic_nack(method.delivery_tag, requeue=True)
    channel.tx_commit()
    messages = take(look, queue, 2)
    equal([(body, method.redelivered) for method, _, body in messages], [(b"1", True), (b"2", False)], "messages")


@on_channel
def properties_and_header_types_round_trip(channel):
    queue = exclusive_queue(channel)
    sent_headers = dict(HEADERS, bytes=b"\x00\xff", decimal=decimal.Decimal("3.14"))
    sent = pika.BasicProperties(content_type="application/json", content_encoding="gzip", headers=sent_headers, delivery_mode=2, priority=9,
                                correlation_id="c-1", reply_to="some.queue", expiration="60000", message_id="m-1", timestamp=1700000000,
                                type="t", user_id="guest", app_id="interop", cluster_id="cluster")
    publish(channel, queue, b"x", properties=sent)
    publish(channel, queue, b"y")
    messages = take(channel, queue, 2)
    got = messages[0][1]
    expected_headers = dict(sent_headers, time=sent_headers["time"].replace(tzinfo=None))
    if isinstance(got.headers["time"], datetime.datetime) and got.headers["time"].tzinfo:
        expected_headers["time"] = sent_headers["time"]
    for key, value in vars(sent).items():
        equal(getattr(got, key), expected_headers if key == "headers" else value, key)
    equal({key: type(value) for key, value in got.headers.items() if isinstance(value, (bool, bytes))},
          {"true": bool, "false": bool, "bytes": bytes}, "types")
    equal({key: value for key, value in vars(messages[1][1]).items() if value is not None}, {}, "properties of a message without any")


@on_channel
def body_sizes(channel):
    queue = exclusive_queue(channel)
    for size in interop.body_sizes():
        body = interop.body_of(size)
        publish(channel, queue, body)
        received = take(channel, queue, 1)[0][2]
        check(received == body, f"a body of {size} bytes came back different ({len(received)} bytes)")


@scenario
def thousand_queues_200_channels():
    with connect() as connection:
        channels = [connection.channel() for _ in range(200)]
        queues = []
        for i in range(1000):
            queues.append((channels[i % 200], exclusive_queue(channels[i % 200])))
        for channel, queue in queues:
            publish(channel, queue, queue.encode())
        for channel, queue in queues:
            method, _, body = eventually(lambda: next((m for m in [channel.basic_get(queue, auto_ack=True)] if m[0]), None), f"the message of {queue}")
            equal((body.decode(), method.message_count), (queue, 0), "message")


@scenario
def ipv4_and_ipv6():
    if not interop.URL_V6:
        raise Skip("no IPv6 address")
    with connect() as v4, connect(interop.URL_V6) as v6:
        queue = name()
        receiving = v6.channel()
        receiving.queue_declare(queue, auto_delete=True)
        publish(v4.channel(), queue, b"over v4")
        equal(bodies(take(receiving, queue, 1)), ["over v4"], "received over IPv6")


@scenario
def heartbeat_idle():
    with connect(heartbeat=1) as connection:
        channel = connection.channel()
        queue = exclusive_queue(channel)
        connection.process_data_events(5)
        publish(channel, queue, b"still here")
        equal(bodies(take(channel, queue, 1)), ["still here"], "after 5 idle intervals")


@on_channel
def dead_peer_detection(channel):
    queue = name()
    channel.queue_declare(queue)
    # Nothing serves this connection between calls, so it falls silent: no heartbeats, no reading.
    silent = pika.BlockingConnection(parameters(heartbeat=1))
    publish(channel, queue, b"unacked")
    taking = silent.channel()
    eventually(lambda: taking.basic_get(queue)[0], "the message at the silent peer")

    def came_back():
        method, _, body = channel.basic_get(queue)
        return (body, method.redelivered) if method else None

    equal(eventually(came_back, "the message of a silent peer to come back"), (b"unacked", True), "message")
    channel.queue_delete(queue)
    with contextlib.suppress(AMQPError):
        silent.close()


def expect_channel_error(code, text, action, connection=None):
    """`action` on a new channel closes it with `code`; the connection and its other channels go on."""
    with contextlib.ExitStack() as stack:
        connection = connection or stack.enter_context(connect())
        channel = connection.channel()
        try:
            action(channel)
            check(False, f"expected a channel error {code}, got none")
        except ChannelClosedByBroker as error:
            equal(error.reply_code, code, "reply code")
            contains(error.reply_text, text, "reply text")
        check(channel.is_closed and connection.is_open, "the channel has to be closed and the connection open")
        other = connection.channel()
        queue = exclusive_queue(other)
        publish(other, queue, b"ok")
        equal(bodies(take(other, queue, 1)), ["ok"], "on another channel")


def expect_connection_error(code, text, action):
    with connect() as connection:
        try:
            action(connection.channel())
            check(False, f"expected a connection error {code}, got none")
        except ConnectionClosedByBroker as error:
            equal(error.reply_code, code, "reply code")
            contains(error.reply_text, text, "reply text")
        check(connection.is_closed, "the connection has to be closed")


@scenario
def error_404():
    missing = name("missing")
    expect_channel_error(404, f"NOT_FOUND - no queue '{missing}' in vhost '/'", lambda c: c.queue_declare(missing, passive=True))
    expect_channel_error(404, f"NOT_FOUND - no queue '{missing}' in vhost '/'", lambda c: c.basic_consume(missing, print))

    def publish_to_missing(channel):
        channel.confirm_delivery()
        channel.basic_publish(missing, "k", b"")

    expect_channel_error(404, f"NOT_FOUND - no exchange '{missing}' in vhost '/'", publish_to_missing)


@scenario
def error_406():
    queue = name()

    def redeclare(channel):
        # Not exclusive: RabbitMQ does not compare `durable` of exclusive queues.
        channel.queue_declare(queue, durable=False, auto_delete=True)
        channel.basic_consume(queue, print)
        channel.queue_declare(queue, durable=True, auto_delete=True)

    expect_channel_error(
        406, f"PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{queue}' in vhost '/': received 'true' but current is 'false'", redeclare)

    def bad_ack(channel):
        channel.basic_ack(82)
        barrier(channel)

    expect_channel_error(406, "PRECONDITION_FAILED - unknown delivery tag 82", bad_ack)


@scenario
def error_403():
    expect_channel_error(403, "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'", lambda c: c.queue_declare("amq.mine"))
    expect_channel_error(403, "ACCESS_REFUSED - operation not permitted on the default exchange", lambda c: c.queue_bind(exclusive_queue(c), "", "k"))

    def consume_exclusively_twice(channel):
        queue = exclusive_queue(channel)
        collect(channel, queue, exclusive=True)
        collect(channel, queue)

    expect_channel_error(403, "in exclusive use", consume_exclusively_twice)
    try:
        pika.BlockingConnection(parameters(credentials=pika.PlainCredentials("guest", "wrong")))
        check(False, "a wrong password was accepted")
    except pika.exceptions.ProbableAuthenticationError as error:
        contains(error, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN", "refused login")


@scenario
def error_405():
    with connect() as owner:
        queue = name()
        owner.channel().queue_declare(queue, exclusive=True)
        text = f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'"
        expect_channel_error(405, text, lambda c: c.queue_declare(queue, exclusive=True))
        expect_channel_error(405, text, lambda c: c.basic_consume(queue, print))
        expect_channel_error(405, text, lambda c: c.queue_delete(queue))


@scenario
def error_530():

    def reuse_tag(channel):
        queue = exclusive_queue(channel)
        tag = channel.basic_consume(queue, print)
        # The library refuses a tag that it knows, so the second consume goes out below it.
        channel._impl._send_method(pika.spec.Basic.Consume(queue=queue, consumer_tag=tag))
        barrier(channel)

    expect_connection_error(530, "NOT_ALLOWED - attempt to reuse consumer tag", reuse_tag)
    try:
        pika.BlockingConnection(parameters(virtual_host="no-such-vhost"))
        check(False, "a missing virtual host was opened")
    except AMQPConnectionError as error:
        contains(repr(error), "NOT_ALLOWED - vhost no-such-vhost not found", "refused virtual host")


@scenario
def error_540():
    expect_connection_error(540, "NOT_IMPLEMENTED - prefetch_size!=0 (10)", lambda c: c.basic_qos(prefetch_size=10))
    expect_connection_error(540, "NOT_IMPLEMENTED - requeue=false", lambda c: c.basic_recover(requeue=False))


@on_channel
def quorum_queue(channel):
    queue = name("quorum")
    channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    channel.confirm_delivery()
    publish(channel, queue, b"counted", properties=PERSISTENT)
    channel.basic_qos(prefetch_count=10)
    received, _ = collect(channel, queue)
    serve(channel, lambda: received, "the first delivery")
    check("x-delivery-count" not in (received[0][1].headers or {}), "the first delivery has an x-delivery-count")
    channel.basic_nack(received[0][0].delivery_tag, requeue=True)
    serve(channel, lambda: len(received) >= 2, "the second delivery")
    method, properties, body = received[1]
    equal((body, method.redelivered, properties.headers["x-delivery-count"]), (b"counted", True, 1), "second delivery")
    channel.basic_ack(method.delivery_tag)
    channel.queue_delete(queue)
    expect_channel_error(406, "invalid property 'non-durable' for queue",
                         lambda c: c.queue_declare(queue, durable=False, arguments={"x-queue-type": "quorum"}), channel.connection)


def known_by(deduplication_id, **more):
    return pika.BasicProperties(delivery_mode=2, headers={"x-deduplication-header": deduplication_id, **more})


@scenario
def deduplication():
    interop.need_broker_control()
    queue, behind, exchange = name("once"), name("behind"), name("once-x")
    once = {"x-message-deduplication": True, "x-cache-size": 1000, "x-cache-ttl": 3600000}

    def publish_all(body):
        with connect() as connection:
            channel = connection.channel()
            # Each publish returns when it is confirmed.
            channel.confirm_delivery()
            for deduplication_id in ("order 1", 2, "order 1", 2):
                channel.basic_publish("", queue, body, known_by(deduplication_id))
                channel.basic_publish(exchange, "any", body, known_by(deduplication_id), mandatory=True)

    with connect() as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True, arguments=once)
        channel.queue_declare(queue, durable=True, arguments=once)
        channel.exchange_declare(exchange, "x-message-deduplication", durable=True, arguments={"x-cache-size": "1000"})
        channel.queue_declare(behind, durable=True)
        channel.queue_bind(behind, exchange)
    publish_all(b"first try")
    interop.kill_and_restart_broker()
    publish_all(b"second try")
    with connect() as connection:
        channel = connection.channel()
        for target in (queue, behind):
            equal(channel.queue_declare(target, passive=True).method.message_count, 2, f"messages in {target}")
            equal(bodies(take(channel, target, 2)), ["first try"] * 2, f"messages of {target}")
            channel.queue_delete(target)
        channel.exchange_delete(exchange)
        expect_channel_error(406, "invalid arg 'x-cache-size' for queue",
                             lambda c: c.queue_declare(queue, arguments={**once, "x-cache-size": 0}), connection)


@on_channel
def delayed_messages(channel):
    interop.need_broker_control()  # RabbitMQ needs a plugin for this.
    exchange = name("delayed")
    channel.exchange_declare(exchange, "x-delayed-message", auto_delete=True, arguments={"x-delayed-type": "direct"})
    queue = exclusive_queue(channel)
    channel.queue_bind(queue, exchange, "k")
    for delay in (300, 100, 200, 0):
        channel.basic_publish(exchange, "k", str(delay).encode(), pika.BasicProperties(headers={"x-delay": delay}))
    messages = take(channel, queue, 4)
    equal(bodies(messages), ["0", "100", "200", "300"], "messages by their time")
    equal([properties.headers["x-delay"] for _, properties, _ in messages], [0, -100, -200, -300], "x-delay")


@on_channel
def retries(channel):
    interop.need_broker_control()  # RabbitMQ has these arguments on quorum queues only.
    dead = exclusive_queue(channel)
    queue = exclusive_queue(channel, {
        "x-delayed-retry-type": "all", "x-delayed-retry-min": 50, "x-delayed-retry-max": 80, "x-delivery-limit": 2,
        "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead})
    publish(channel, queue, b"work")
    received, _ = collect(channel, queue)
    for count in range(3):
        serve(channel, lambda: len(received) > count, f"attempt {count + 1}")
        method, properties, _ = received[count]
        equal((properties.headers or {}).get("x-delivery-count", 0), count, "x-delivery-count")
        channel.basic_reject(method.delivery_tag, requeue=True)
    _, properties, body = take(channel, dead, 1)[0]
    equal((body, properties.headers["x-first-death-reason"]), (b"work", "delivery_limit"), "dead letter")


@on_channel
def retries_with_ttl(channel):
    """The pattern for every broker: a second queue whose messages die back into the first one."""
    queue, pause = name("work"), name("pause")
    channel.queue_declare(queue, exclusive=True,
                          arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": pause})
    channel.queue_declare(pause, exclusive=True, arguments={
        "x-message-ttl": 50, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue})
    publish(channel, queue, b"work")
    received, _ = collect(channel, queue)
    for attempt in range(3):
        serve(channel, lambda: len(received) > attempt, f"attempt {attempt + 1}")
        method, properties, _ = received[attempt]
        deaths = (properties.headers or {}).get("x-death", [])
        rejected = sum(death["count"] for death in deaths if death["reason"] == "rejected")
        equal(rejected, attempt, "rejections so far")
        if attempt < 2:
            channel.basic_reject(method.delivery_tag, requeue=False)
        else:
            channel.basic_ack(method.delivery_tag)


def ready(channel, queue):
    return channel.queue_declare(queue, passive=True).method.message_count


def until_ready(channel, queue, count):
    eventually(lambda: ready(channel, queue) == count, f"{count} messages in {queue}")


def with_letters(channel, **arguments):
    """An exclusive queue with a dead-letter queue."""
    dead = exclusive_queue(channel)
    arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
    routed = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
    return exclusive_queue(channel, {**routed, **arguments}), dead


def death(channel, dead):
    """The one letter of a queue: its body and what the newest entry of x-death says."""
    until_ready(channel, dead, 1)
    [(_, properties, body)] = take(channel, dead, 1)
    newest = properties.headers["x-death"][0]
    return body.decode(), newest["reason"], newest["count"]


@on_channel
def ttl(channel):
    queue, dead = with_letters(channel, x_message_ttl=60000)
    publish(channel, queue, b"short", properties=pika.BasicProperties(expiration="20"))
    equal(death(channel, dead), ("short", "expired", 1), "the smaller time")
    publish(channel, queue, b"at once", properties=pika.BasicProperties(expiration="0"))
    equal(death(channel, dead), ("at once", "expired", 1), "no time")
    publish(channel, queue, b"long")
    until_ready(channel, queue, 1)


@on_channel
def queue_expiry(channel):
    queue = name("expires")
    channel.queue_declare(queue, arguments={"x-expires": 200})
    time.sleep(1)
    expect_channel_error(404, "no queue", lambda c: c.queue_declare(queue, passive=True), channel.connection)


@on_channel
def length_limits(channel):
    queue, dead = with_letters(channel, x_max_length=2)
    publish(channel, queue, b"1", b"2", b"3")
    equal(death(channel, dead), ("1", "maxlen", 1), "the oldest gives way")
    equal(bodies(take(channel, queue, 2)), ["2", "3"], "what stays")
    octets = exclusive_queue(channel, {"x-max-length-bytes": 4})
    publish(channel, octets, b"abc", b"de")
    until_ready(channel, octets, 1)
    full = exclusive_queue(channel, {"x-max-length": 1, "x-overflow": "reject-publish"})
    channel.confirm_delivery()
    publish(channel, full, b"first")
    try:
        publish(channel, full, b"refused")
    except NackError:
        equal(ready(channel, full), 1, "messages of the full queue")
    else:
        raise interop.Mismatch("expected a nack")


@on_channel
def dead_lettering(channel):
    exchange = name("dlx")
    channel.exchange_declare(exchange, "topic", auto_delete=True)
    dead = exclusive_queue(channel)
    channel.queue_bind(dead, exchange, "letters.#")
    queue = exclusive_queue(channel, {"x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": "letters.one"})
    publish(channel, queue, b"x", properties=pika.BasicProperties(headers={"own": 1}, message_id="m"))
    until_ready(channel, queue, 1)
    method, _, _ = channel.basic_get(queue)
    channel.basic_reject(method.delivery_tag, requeue=False)
    until_ready(channel, dead, 1)
    [(method, properties, body)] = take(channel, dead, 1)
    equal((method.exchange, method.routing_key, body, properties.message_id), (exchange, "letters.one", b"x", "m"), "letter")
    headers = properties.headers
    equal((headers["own"], headers["x-first-death-queue"], headers["x-last-death-reason"]), (1, queue, "rejected"), "headers")
    [entry] = headers["x-death"]
    equal((entry["count"], entry["reason"], entry["queue"], entry["exchange"], entry["routing-keys"]),
          (1, "rejected", queue, "", [queue]), "x-death")


@on_channel
def priorities(channel):
    queue = exclusive_queue(channel, {"x-max-priority": 10})
    for priority in [1, 9, 5, 9, 200]:
        publish(channel, queue, str(priority).encode(), properties=pika.BasicProperties(priority=priority))
    publish(channel, queue, b"none")
    until_ready(channel, queue, 6)
    equal(bodies(take(channel, queue, 6)), ["200", "9", "9", "5", "1", "none"], "order")


@on_channel
def single_active_consumer(channel):
    queue = exclusive_queue(channel, {"x-single-active-consumer": True})
    first, tag = collect(channel, queue, auto_ack=True)
    second, _ = collect(channel, queue, auto_ack=True)
    publish(channel, queue, b"1", b"2")
    serve(channel, lambda: len(first) == 2, "both at the active one")
    channel.basic_cancel(tag)
    publish(channel, queue, b"3")
    serve(channel, lambda: second, "the next at the other one")
    equal((bodies(first), bodies(second)), (["1", "2"], ["3"]), "messages")


@on_channel
def consumer_priorities(channel):
    queue = exclusive_queue(channel)
    channel.basic_qos(prefetch_count=1)
    low, _ = collect(channel, queue, arguments={"x-priority": -1})
    high, _ = collect(channel, queue, arguments={"x-priority": 10})
    publish(channel, queue, b"1")
    serve(channel, lambda: high, "the first at the better one")
    publish(channel, queue, b"2")
    serve(channel, lambda: low, "the second at the other one, as the better one is busy")
    equal((bodies(high), bodies(low)), (["1"], ["2"]), "messages")


@on_channel
def delivery_limit(channel):
    queue, dead = name("limited"), exclusive_queue(channel)
    channel.queue_declare(queue, durable=True, arguments={
        "x-queue-type": "quorum", "x-delivery-limit": 2, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead})
    publish(channel, queue, b"x")
    received, _ = collect(channel, queue)
    for count in [1, 2, 3]:
        serve(channel, lambda: len(received) >= count, f"delivery {count}")
        channel.basic_nack(received[-1][0].delivery_tag, requeue=True)
    equal(death(channel, dead), ("x", "delivery_limit", 1), "letter")
    channel.queue_delete(queue)


@on_channel
def message_groups(channel):
    exchange = name("groups")
    channel.exchange_declare(exchange, "x-consistent-hash", auto_delete=True)
    received = []
    others = [channel.connection.channel() for _ in range(3)]
    for _ in range(3):
        queue = exclusive_queue(channel, {"x-single-active-consumer": True})
        channel.queue_bind(queue, exchange, "10")
        for number, worker in enumerate(others):
            worker.basic_qos(prefetch_count=5)

            def work(of, method, _, body, number=number):
                received.append((method.routing_key, int(body)))
                of.basic_ack(method.delivery_tag)

            worker.basic_consume(queue, work)
    for count in range(300):
        channel.basic_publish(exchange, f"key {count % 10}", str(count).encode())
        if count == 150:
            # pika cancels its consumers before it closes a channel, and a cancel hands the queue over at once: a worker must hold nothing then.
            serve(channel, lambda: len(received) == 151, "the first half")
            others.pop(0).close()
    serve(channel, lambda: len({count for _, count in received}) == 300, "all messages")
    for key in {key for key, _ in received}:
        counts = [count for of, count in received if of == key]
        # What came twice, because its acknowledgement was on its way, came in order, too.
        firsts = list(dict.fromkeys(counts))
        equal(firsts, sorted(firsts), f"order of {key}")


@on_channel
def acknowledgement_timeout(channel):
    if not channel.connection._impl.server_properties["platform"].startswith("MambaMQ"):
        raise interop.Skip("other brokers look once a minute")
    queue = exclusive_queue(channel, {"x-consumer-timeout": 300})
    other = channel.connection.channel()
    received, _ = collect(channel, queue)
    publish(other, queue, b"late")
    try:
        serve(channel, lambda: channel.is_closed, "the channel to be closed")
    except ChannelClosedByBroker:
        pass
    check(received and channel.is_closed and other.is_open, "the channel that holds the message has to be closed, no other")
    [(method, _, body)] = take(other, queue, 1)
    equal((body, method.redelivered), (b"late", True), "the message that came back")


@on_channel
def consumer_filter(channel):
    # `server_properties` belongs to the connection below the blocking one.
    if not channel.connection._impl.server_properties["platform"].startswith("MambaMQ"):
        raise interop.Skip("x-filter is MambaMQ's own")
    queue = exclusive_queue(channel)
    for number, region in enumerate(["eu", "us", "eu", "uk", "eu"]):
        publish(channel, queue, f"{region} {number}".encode(), properties=pika.BasicProperties(headers={"region": region}))
    wanted, tag = collect(channel, queue, arguments={"x-filter": "headers.region = 'eu'"})
    serve(channel, lambda: len(wanted) >= 3, "what matches")
    equal(bodies(wanted), ["eu 0", "eu 2", "eu 4"], "filtered messages")
    channel.basic_nack(wanted[1][0].delivery_tag, requeue=True)
    serve(channel, lambda: len(wanted) >= 4, "the redelivery")
    equal((wanted[3][2], wanted[3][0].redelivered), (b"eu 2", True), "the redelivered message")
    channel.basic_ack(wanted[3][0].delivery_tag, multiple=True)
    channel.basic_cancel(tag)
    equal(bodies(take(channel, queue, 2)), ["us 1", "uk 3"], "what is left")
    expect_channel_error(406, "x-filter: expected a value at position 11, found end of text",
                         lambda c: c.basic_consume(exclusive_queue(c), print, arguments={"x-filter": "priority >"}), channel.connection)

def tls_parameters(credentials, certified):
    if "AMQPS_PORT" not in os.environ:
        raise Skip("no TLS here")
    context = ssl.create_default_context(cafile=os.environ["TLS_CA"])
    if certified:
        context.load_cert_chain(os.environ["TLS_CERTIFICATE"], os.environ["TLS_KEY"])
    return pika.ConnectionParameters("127.0.0.1", int(os.environ["AMQPS_PORT"]), credentials=credentials,
                                     ssl_options=pika.SSLOptions(context, "localhost"))


def round_trip_with_tls(credentials, certified):
    connection = pika.BlockingConnection(tls_parameters(credentials, certified))
    with contextlib.closing(connection):
        channel = connection.channel()
        queue = exclusive_queue(channel)
        publish(channel, queue, b"hidden", b"x" * 300_000)
        equal(bodies(take(channel, queue, 2)), ["hidden", "x" * 300_000], "messages")


@scenario
def tls():
    round_trip_with_tls(pika.PlainCredentials("guest", "guest"), False)


@scenario
def tls_external():
    round_trip_with_tls(pika.credentials.ExternalCredentials(), True)


def token(seconds, scope):
    if "TOKEN_SECRET" not in os.environ:
        raise Skip("no tokens here")

    def part(octets):
        return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()

    claims = {"sub": "bob", "aud": "interop", "exp": time.time() + seconds, "scope": scope}
    message = ".".join(part(json.dumps(value).encode()) for value in ({"alg": "HS256", "kid": "interop"}, claims))
    secret = base64.urlsafe_b64decode(os.environ["TOKEN_SECRET"])
    return f"{message}.{part(hmac.new(secret, message.encode(), hashlib.sha256).digest())}"


@scenario
def oauth_token():
    everything = "interop.configure:*/* interop.write:*/* interop.read:*/*"
    connection = pika.BlockingConnection(parameters(credentials=pika.PlainCredentials("", token(600, everything))))
    with contextlib.closing(connection):
        channel = connection.channel()
        queue = exclusive_queue(channel)
        publish(channel, queue, b"by token")
        equal(bodies(take(channel, queue, 1)), ["by token"], "messages")
        connection.update_secret(token(600, "interop.configure:*/amq.gen-* interop.write:*/* interop.read:*/*"), "the first one ends")
        channel.queue_declare(queue, passive=True)
        expect_channel_error(403, "configure access to queue 'q' in vhost '/' refused for user 'bob'", lambda c: c.queue_declare("q"), connection)
    over = pika.PlainCredentials("", token(-100, everything))
    try:
        pika.BlockingConnection(parameters(credentials=over))
    except AMQPConnectionError:
        return
    check(False, "a token that is over let somebody in")


@scenario
def recovery_after_kill():
    interop.need_broker_control()
    count = max(1, MESSAGES // 10)
    queue, exchange = name("recovery"), name("recovery-x")
    with connect() as connection:
        channel = connection.channel()
        channel.exchange_declare(exchange, "direct", durable=True)
        channel.queue_declare(queue, durable=True)
        channel.queue_bind(queue, exchange, "k")
        select_confirms(queue, count, count)
        interop.kill_and_restart_broker()
        try:
            connection.process_data_events(interop.WAIT_SECS)
            check(False, "the connection survived the kill")
        except AMQPError:
            pass
    # pika leaves reconnecting to the application.
    with connect() as connection:
        channel = connection.channel()
        messages = take(channel, queue, count)
        equal(bodies(messages), [str(i) for i in range(count)], "messages after the restart")
        channel.confirm_delivery()
        channel.basic_publish(exchange, "k", b"new", mandatory=True)
        equal(bodies(take(channel, queue, 1)), ["new"], "through the recovered binding")
        channel.queue_delete(queue)
        channel.exchange_delete(exchange)


if __name__ == "__main__":
    interop.main()
