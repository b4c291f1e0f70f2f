"""kombu with its AMQP transport, py-amqp."""
import contextlib
import decimal
import functools
import socket
import time
import uuid

import kombu
from amqp import exceptions as errors
from kombu import Consumer, Exchange, Producer, Queue

import interop
from interop import HEADERS, MESSAGES, Skip, check, contains, equal, eventually, name, scenario


@contextlib.contextmanager
def connect(url=interop.URL, **options):
    connection = kombu.Connection(url, connect_timeout=interop.WAIT_SECS, **options)
    try:
        connection.connect()
        yield connection
    finally:
        with contextlib.suppress(Exception):
            connection.release()


def on_channel(function):
    """Registers a scenario that needs one channel of one connection."""

    @functools.wraps(function)
    def with_channel():
        with connect() as connection:
            function(connection.channel())

    return scenario(with_channel)


def kombu_connection(channel):
    """The kombu connection of a channel; what the channel itself names is py-amqp's."""
    return channel.connection.client


def new_channel(channel):
    return kombu_connection(channel).channel()


def declare(channel, queue_name="", **options):
    """A declared queue; without a name exclusive and named by the server."""
    queue = Queue(queue_name, **{"exclusive": not queue_name, **options})(channel)
    # The library makes every exclusive queue an auto-delete one.
    queue.auto_delete = options.get("auto_delete", False)
    queue.declare()
    return queue


def publish(channel, queue, *bodies, **properties):
    producer = Producer(channel)
    for body in bodies:
        producer.publish(body, routing_key=getattr(queue, "name", queue), **{"delivery_mode": "transient", **properties})


def collect(channel, queue, **options):
    received = []
    consumer = Consumer(channel, [Queue(getattr(queue, "name", queue), no_declare=True)], on_message=received.append, **options)
    consumer.consume()
    return received, consumer


def serve(channel, probe, what, seconds=interop.WAIT_SECS):
    deadline = time.monotonic() + seconds
    while not probe():
        check(time.monotonic() < deadline, f"waited {seconds} s for {what}")
        with contextlib.suppress(socket.timeout):
            kombu_connection(channel).drain_events(timeout=0.1)


def take(channel, queue, count):
    received, consumer = collect(channel, queue, no_ack=True)
    serve(channel, lambda: len(received) >= count, f"{count} messages")
    consumer.cancel()
    equal(len(received), count, "messages")
    return received


def state(channel, queue):
    """Ready messages and consumers; a round trip on the channel."""
    result = channel.queue_declare(getattr(queue, "name", queue), passive=True)
    return result.message_count, result.consumer_count


def raw(message):
    return message.body.encode() if isinstance(message.body, str) else bytes(message.body)


def bodies(messages):
    return [raw(message).decode() for message in messages]


def exchange_of(channel, kind):
    exchange = Exchange(name(kind), kind, durable=False, auto_delete=True)(channel)
    exchange.declare()
    return exchange


@on_channel
def hello_world(channel):
    queue = declare(channel)
    publish(channel, queue, b"Hello World!")
    message, = take(channel, queue, 1)
    equal(raw(message), b"Hello World!", "body")
    info = message.delivery_info
    equal((info["exchange"], info["routing_key"], info["redelivered"]), ("", queue.name, False), "deliver")


@on_channel
def work_queue_fair_dispatch(channel):
    queue = declare(channel)
    other = new_channel(channel)
    channel.basic_qos(0, 1, False)
    other.basic_qos(0, 1, False)
    slow, _ = collect(channel, queue)
    quick = []

    def work(message):
        quick.append(message)
        message.ack()

    Consumer(other, [Queue(queue.name, no_declare=True)], on_message=work).consume()
    publish(channel, queue, *(f"task {i}".encode() for i in range(20)))
    serve(channel, lambda: len(quick) >= 19, "19 messages at the quick worker")
    state(channel, queue)
    equal(len(slow), 1, "messages at the worker that holds its first")
    equal(sorted(bodies(slow + quick)), sorted(f"task {i}" for i in range(20)), "tasks")
    slow[0].ack()


@on_channel
def publish_subscribe(channel):
    exchange = exchange_of(channel, "fanout")
    queues = [declare(channel) for _ in range(2)]
    for queue in queues:
        check(queue.name.startswith("amq.gen-"), f"server-named queue is called {queue.name}")
        queue.bind_to(exchange)
    producer = Producer(channel, exchange)
    for i in range(100):
        producer.publish(str(i).encode(), routing_key=f"ignored {i}")
    for queue in queues:
        messages = take(channel, queue, 100)
        equal(bodies(messages), [str(i) for i in range(100)], "bodies")
        equal(messages[7].delivery_info["exchange"], exchange.name, "exchange")


@on_channel
def routing(channel):
    exchange = exchange_of(channel, "direct")
    errors_only, everything = declare(channel), declare(channel)
    errors_only.bind_to(exchange, "error")
    for key in ("info", "warning", "error"):
        everything.bind_to(exchange, key)
    producer = Producer(channel, exchange)
    for key in ("info", "warning", "error", "debug", "errors", "Error"):
        producer.publish(key.encode(), routing_key=key)
    equal(bodies(take(channel, errors_only, 1)), ["error"], "queue bound with error")
    equal(bodies(take(channel, everything, 3)), ["info", "warning", "error"], "queue bound with three keys")
    everything.unbind_from(exchange, "info")
    producer.publish(b"late", routing_key="info")
    producer.publish(b"last", routing_key="error")
    equal(bodies(take(channel, everything, 1)), ["last"], "after unbind")


@on_channel
def topics(channel):
    exchange = exchange_of(channel, "topic")
    queues = {}
    for keys in interop.TOPIC_MATCHES:
        queues[keys] = declare(channel)
        for key in keys:
            queues[keys].bind_to(exchange, key)
    for key in interop.TOPIC_KEYS:
        # Below the producer, which replaces an empty routing key with its own.
        channel.basic_publish(channel.prepare_message(key.encode()), exchange.name, key)
    for keys, expected in interop.TOPIC_MATCHES.items():
        equal(bodies(take(channel, queues[keys], len(expected))), expected, f"queue bound with {keys}")


@on_channel
def headers(channel):
    exchange = exchange_of(channel, "headers")
    match_all, match_any = declare(channel), declare(channel)
    match_all.bind_to(exchange, arguments={"x-match": "all", "format": "pdf", "pages": 3})
    match_any.bind_to(exchange, arguments={"x-match": "any", "format": "pdf", "pages": 3})
    producer = Producer(channel, exchange)
    for body, table in ((b"both", {"format": "pdf", "pages": 3, "more": 1}), (b"one", {"format": "pdf", "pages": 4}),
                        (b"none", {"format": "zip"}), (b"string", {"pages": "3"}), (b"empty", None)):
        producer.publish(body, headers=table)
    equal(bodies(take(channel, match_all, 1)), ["both"], "x-match all")
    equal(bodies(take(channel, match_any, 2)), ["both", "one"], "x-match any")


def rpc(channel, replies, reply_to):
    """A fib(n) server on its own channel; asks it and compares."""
    server = new_channel(channel)
    queue = declare(server)

    def answer(message):
        publish(server, message.properties["reply_to"], str(interop.fibonacci(int(raw(message)))).encode(),
                correlation_id=message.properties["correlation_id"])
        message.ack()

    Consumer(server, [Queue(queue.name, no_declare=True)], on_message=answer).consume()
    received, _ = collect(channel, replies, no_ack=True)
    asked = {}
    for n in (0, 1, 10, 30, 90):
        correlation_id = str(uuid.uuid4())
        asked[correlation_id] = n
        publish(channel, queue, str(n).encode(), reply_to=reply_to, correlation_id=correlation_id)
    serve(channel, lambda: len(received) >= len(asked), "replies")
    equal({m.properties["correlation_id"]: int(raw(m)) for m in received}, {key: interop.fibonacci(n) for key, n in asked.items()}, "replies")
    return received


@on_channel
def rpc_reply_queue(channel):
    replies = declare(channel)
    rpc(channel, replies, replies.name)


@on_channel
def rpc_direct_reply_to(channel):
    info = rpc(channel, "amq.rabbitmq.reply-to", "amq.rabbitmq.reply-to")[0].delivery_info
    equal(info["exchange"], "", "exchange")
    check(info["routing_key"].startswith("amq.rabbitmq.reply-to."), f"routing key of the reply is {info['routing_key']}")


@scenario
def confirms_single():
    with connect(transport_options={"confirm_publish": True}) as connection:
        channel = connection.channel()
        queue = declare(channel, name(), durable=True)
        publish(channel, queue, *(str(i).encode() for i in range(100)), delivery_mode="persistent", confirm_timeout=interop.WAIT_SECS)
        equal(state(channel, queue)[0], 100, "message count")
        queue.delete()


def publish_confirmed(channel, queue, count, batch):
    """Persistent messages, at most `batch` of them unconfirmed."""
    confirmed, lowest, problems = set(), 1, []

    def on_ack(delivery_tag, multiple):
        nonlocal lowest
        confirmed.update(range(lowest, delivery_tag + 1) if multiple else [delivery_tag])
        while lowest in confirmed:
            lowest += 1

    channel.confirm_select()
    channel.events["basic_ack"].add(on_ack)
    channel.events["basic_nack"].add(lambda tag, multiple: problems.append(f"nack of {tag}"))
    for start in range(0, count, batch):
        end = min(start + batch, count)
        publish(channel, queue, *(str(i).encode() for i in range(start, end)), delivery_mode="persistent")
        serve(channel, lambda: problems or len(confirmed) >= end, f"{end} confirms", 60)
    equal(problems, [], "problems")
    equal(confirmed, set(range(1, count + 1)), "confirmed")


def confirm_run(count, batch):
    with connect() as connection:
        channel = connection.channel()
        queue = declare(channel, name(), durable=True)
        publish_confirmed(channel, queue, count, batch)
        equal(state(channel, queue)[0], count, "message count")
        queue.delete()


@scenario
def confirms_batch():
    confirm_run(1000, 100)


@scenario
def confirms_async_50000():
    confirm_run(MESSAGES, MESSAGES)


@on_channel
def mandatory_return(channel):
    queue, nowhere, seen = declare(channel), name("nowhere"), []
    channel.confirm_select()
    channel.events["basic_ack"].add(lambda tag, multiple: seen.append(tag))
    producer = Producer(channel, on_return=lambda *returned: seen.append(returned))
    producer.publish(b"arrives", routing_key=queue.name, mandatory=True)
    serve(channel, lambda: seen, "the first confirm")
    producer.publish(b"comes back", routing_key=nowhere, mandatory=True, message_id="m1")
    serve(channel, lambda: len(seen) >= 3, "the return and its confirm")
    producer.publish(b"dropped", routing_key=nowhere)
    serve(channel, lambda: len(seen) >= 4, "the last confirm")
    equal([seen[0], *seen[2:]], [1, 2, 3], "confirms")
    reason, exchange, key, message = seen[1]
    equal((reason.reply_code, reason.reply_text, exchange, key), (312, "NO_ROUTE", "", nowhere), "return")
    equal((bytes(message.body), message.properties["message_id"]), (b"comes back", "m1"), "content")
    equal(bodies(take(channel, queue, 1)), ["arrives"], "queue")


@on_channel
def basic_get(channel):
    queue = declare(channel)
    equal(queue.get(), None, "get of an empty queue")
    publish(channel, queue, b"0", b"1", b"2")
    messages = [queue.get() for _ in range(3)]
    equal([(raw(m), m.delivery_info["message_count"], m.delivery_tag, m.delivery_info["redelivered"]) for m in messages],
          [(b"0", 2, 1, False), (b"1", 1, 2, False), (b"2", 0, 3, False)], "get-ok")
    messages[2].ack(multiple=True)
    equal(queue.get(), None, "get after all acks")


@on_channel
def nack_requeue_redelivered(channel):
    exchange = exchange_of(channel, "fanout")
    dead = declare(channel)
    dead.bind_to(exchange)
    queue = declare(channel, queue_arguments={"x-dead-letter-exchange": exchange.name})
    publish(channel, queue, b"0", b"1", b"2")
    channel.basic_reject(queue.get().delivery_tag, requeue=True)
    seen = [queue.get() for _ in range(3)]
    equal([(raw(m), m.delivery_info["redelivered"]) for m in seen], [(b"0", True), (b"1", False), (b"2", False)], "after the requeue")
    seen[0].reject()
    seen[1].reject()
    seen[2].ack()
    messages = take(channel, dead, 2)
    equal(bodies(messages), ["0", "1"], "dead-lettered")
    info = messages[0].delivery_info
    equal((info["exchange"], info["routing_key"], info["redelivered"]), (exchange.name, queue.name, False), "dead-lettered deliver")
    death, = messages[0].headers["x-death"]
    equal({key: death[key] for key in ("count", "reason", "queue", "exchange", "routing-keys")},
          {"count": 1, "reason": "rejected", "queue": queue.name, "exchange": "", "routing-keys": [queue.name]}, "x-death")


@on_channel
def prefetch_1_and_100(channel):
    for prefetch in (1, 100):
        queue = declare(channel)
        publish(channel, queue, *(str(i).encode() for i in range(250)))
        consuming = new_channel(channel)
        consuming.basic_qos(0, prefetch, False)
        received, _ = collect(consuming, queue)
        settled = 0
        while settled < 250:
            window = min(prefetch, 250 - settled)
            serve(consuming, lambda: len(received) >= settled + window, f"{window} more messages")
            # Had the broker sent more than the window, they would be here after a round trip.
            state(consuming, queue)
            equal(len(received) - settled, window, f"messages in a window of {prefetch}")
            settled += window
            received[-1].ack(multiple=True)
        equal(bodies(received), [str(i) for i in range(250)], "order")
        consuming.close()
        equal(state(channel, queue)[0], 0, "messages left")


@on_channel
def consumer_cancel_and_queue_deletion(channel):
    queue = declare(channel, name(), durable=False)
    received, consumer = collect(channel, queue, no_ack=True)
    publish(channel, queue, b"before")
    serve(channel, lambda: received, "the first message")
    consumer.cancel()
    publish(channel, queue, b"after")
    # RabbitMQ answers a passive declare ahead of publishes that the queue has not handled yet.
    eventually(lambda: state(channel, queue) == (1, 0), "1 message and no consumer after cancel")
    equal(bodies(received), ["before"], "received")
    received, consumer = collect(channel, queue, no_ack=True)
    serve(channel, lambda: received, "the second message")
    other = new_channel(channel)
    try:
        other.queue_delete(queue.name)
        serve(channel, lambda: False, "basic.cancel from the broker")
    except errors.ConsumerCancelled as cancelled:
        contains(cancelled, list(consumer._active_tags.values())[0], "cancelled consumer")
    publish_one(channel)


@on_channel
def exclusive_and_auto_delete(channel):
    with connect() as owner:
        queue = declare(owner.channel(), name("exclusive"), exclusive=True)
        expect_channel_error(errors.ResourceLocked, 405, "cannot obtain exclusive access to locked queue", lambda c: c.basic_get(queue.name))
    expect_channel_error(errors.NotFound, 404, f"no queue '{queue.name}' in vhost '/'", lambda c: state(c, queue))
    queue = declare(channel, name("auto-delete"), durable=False, auto_delete=True)
    consumers = [collect(channel, queue)[1] for _ in range(2)]
    consumers[0].cancel()
    equal(state(channel, queue)[1], 1, "consumers")
    consumers[1].cancel()
    expect_channel_error(errors.NotFound, 404, "no queue", lambda c: state(c, queue))


@on_channel
def transactions(look):
    queue = declare(look)
    channel = new_channel(look)
    channel.tx_select()
    publish(channel, queue, b"1", b"2")
    equal(state(look, queue)[0], 0, "messages before the commit")
    channel.tx_commit()
    equal(state(look, queue)[0], 2, "messages after the commit")
    publish(channel, queue, b"3")
    message = channel.basic_get(queue.name)
    channel.basic_ack(message.delivery_tag)
    channel.tx_rollback()
    equal(state(look, queue)[0], 1, "ready messages after the rollback")
    # The rollback took the ack back: the message is still outstanding and can be settled again.
    channel.basic_reject(message.delivery_tag, requeue=True)
    channel.tx_commit()
    messages = take(look, queue, 2)
    equal([(raw(m), m.delivery_info["redelivered"]) for m in messages], [(b"1", True), (b"2", False)], "messages")


@on_channel
def properties_and_header_types_round_trip(channel):
    queue = declare(channel)
    sent_headers = dict(HEADERS, double=3.5, decimal=decimal.Decimal("3.14"))
    sent = dict(priority=9, correlation_id="c-1", reply_to="some.queue", message_id="m-1", timestamp=1700000000, type="t", user_id="guest",
                app_id="interop", cluster_id="cluster")
    Producer(channel).publish(b"x", routing_key=queue.name, headers=sent_headers, content_type="application/x-thing", content_encoding="binary",
                              delivery_mode=2, expiration=60, **sent)
    got, = take(channel, queue, 1)
    expected = dict(sent, delivery_mode=2, expiration="60000", content_type="application/x-thing", content_encoding="binary")
    equal({key: got.properties.get(key, getattr(got, key, None)) for key in expected}, expected, "properties")
    equal(got.headers, dict(sent_headers, time=sent_headers["time"].replace(tzinfo=None)), "headers")
    equal({key: type(value) for key, value in got.headers.items() if isinstance(value, bool)}, {"true": bool, "false": bool}, "types")


@on_channel
def body_sizes(channel):
    queue = declare(channel)
    for size in interop.body_sizes():
        body = interop.body_of(size)
        publish(channel, queue, body)
        received = raw(take(channel, queue, 1)[0])
        check(received == body, f"a body of {size} bytes came back different ({len(received)} bytes)")


@scenario
def thousand_queues_200_channels():
    with connect() as connection:
        channels = [connection.channel() for _ in range(200)]
        queues = [declare(channels[i % 200]) for i in range(1000)]
        for i, queue in enumerate(queues):
            publish(channels[i % 200], queue, queue.name.encode())
        for queue in queues:
            equal(raw(eventually(queue.get, f"the message of {queue.name}")).decode(), queue.name, "message")


@scenario
def ipv4_and_ipv6():
    if not interop.URL_V6:
        raise Skip("no IPv6 address")
    # kombu's address parser drops the brackets of an IPv6 host and keeps the rest.
    with connect() as v4, connect(interop.URL_V6) as v6:
        receiving = v6.channel()
        queue = declare(receiving, name(), durable=False, auto_delete=True)
        publish(v4.channel(), queue, b"over v4")
        equal(bodies(take(receiving, queue, 1)), ["over v4"], "received over IPv6")


@scenario
def heartbeat_idle():
    with connect(heartbeat=1) as connection:
        channel = connection.channel()
        queue = declare(channel)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            connection.heartbeat_check()
            with contextlib.suppress(socket.timeout):
                connection.drain_events(timeout=0.2)
        publish(channel, queue, b"still here")
        equal(bodies(take(channel, queue, 1)), ["still here"], "after 5 idle intervals")


@on_channel
def dead_peer_detection(channel):
    queue = declare(channel, name(), durable=False)
    with connect(heartbeat=1) as silent:
        publish(channel, queue, b"unacked")
        # Nothing calls heartbeat_check on this connection, so it falls silent.
        taking = silent.channel()
        eventually(lambda: taking.basic_get(queue.name), "the message at the silent peer")
        message = eventually(queue.get, "the message of a silent peer to come back")
        equal((raw(message), message.delivery_info["redelivered"]), (b"unacked", True), "message")
    queue.delete()


def publish_one(channel):
    queue = declare(channel)
    publish(channel, queue, b"ok")
    return queue


def expect_channel_error(kind, code, text, action):
    """`action` on a new channel closes it with `code`; the connection and its other channels go on."""
    with connect() as connection:
        channel = connection.channel()
        try:
            action(channel)
            check(False, f"expected a channel error {code}, got none")
        except kind as error:
            equal(error.reply_code, code, "reply code")
            contains(error.reply_text, text, "reply text")
        # The library opens the channel again by itself.
        check(connection.connected, "the connection has to stay open")
        equal(bodies(take(channel, publish_one(channel), 1)), ["ok"], "on the reopened channel")
        other = connection.channel()
        equal(bodies(take(other, publish_one(other), 1)), ["ok"], "on another channel")


def expect_connection_error(kind, code, text, action):
    with connect() as connection:
        channel = connection.channel()
        try:
            action(channel)
            check(False, f"expected a connection error {code}, got none")
        except kind as error:
            equal(error.reply_code, code, "reply code")
            contains(error.reply_text, text, "reply text")
        check(not connection.connected, "the connection has to be closed")


@scenario
def error_404():
    missing = name("missing")
    text = f"NOT_FOUND - no queue '{missing}' in vhost '/'"
    expect_channel_error(errors.NotFound, 404, text, lambda c: state(c, missing))
    expect_channel_error(errors.NotFound, 404, text, lambda c: collect(c, missing))

    def publish_to_missing(channel):
        channel.basic_publish(channel.prepare_message(b""), missing, "k")
        declare(channel)

    expect_channel_error(errors.NotFound, 404, f"NOT_FOUND - no exchange '{missing}' in vhost '/'", publish_to_missing)


@scenario
def error_406():
    queue = name()

    def redeclare(channel):
        Queue(queue, exclusive=True, queue_arguments={"x-message-ttl": 60000})(channel).declare()
        Queue(queue, exclusive=True)(channel).declare()

    expect_channel_error(
        errors.PreconditionFailed, 406,
        f"PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue '{queue}' in vhost '/': "
        "received none but current is the value '60000' of type 'signedint'", redeclare)

    def bad_ack(channel):
        channel.basic_ack(82)
        declare(channel)

    expect_channel_error(errors.PreconditionFailed, 406, "PRECONDITION_FAILED - unknown delivery tag 82", bad_ack)


@scenario
def error_403():
    text = "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'"
    expect_channel_error(errors.AccessRefused, 403, text, lambda c: declare(c, "amq.mine"))
    text = "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed"
    expect_channel_error(errors.AccessRefused, 403, text, lambda c: c.exchange_delete("amq.direct"))

    def consume_exclusively_twice(channel):
        queue = declare(channel)
        channel.basic_consume(queue.name, "first", exclusive=True)
        channel.basic_consume(queue.name, "second")

    expect_channel_error(errors.AccessRefused, 403, "in exclusive use", consume_exclusively_twice)
    try:
        with connect(interop.URL.replace("guest:guest", "guest:wrong")):
            check(False, "a wrong password was accepted")
    except errors.AccessRefused as error:
        contains(error, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN", "refused login")


@scenario
def error_405():
    with connect() as owner:
        queue = declare(owner.channel(), name(), exclusive=True).name
        text = f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'"
        expect_channel_error(errors.ResourceLocked, 405, text, lambda c: declare(c, queue, exclusive=True))
        expect_channel_error(errors.ResourceLocked, 405, text, lambda c: collect(c, queue))


@scenario
def error_530():

    def reuse_tag(channel):
        queue = declare(channel)
        channel.basic_consume(queue.name, "tag")
        channel.basic_consume(queue.name, "tag")

    expect_connection_error(errors.NotAllowed, 530, "NOT_ALLOWED - attempt to reuse consumer tag 'tag'", reuse_tag)
    try:
        with connect(interop.URL + "no-such-vhost"):
            check(False, "a missing virtual host was opened")
    except errors.NotAllowed as error:
        equal(error.reply_code, 530, "reply code")
        contains(error.reply_text, "NOT_ALLOWED - vhost no-such-vhost not found", "refused virtual host")


@scenario
def error_540():
    text = "NOT_IMPLEMENTED - prefetch_size!=0 (10)"
    expect_connection_error(errors.AMQPNotImplementedError, 540, text, lambda c: c.basic_qos(10, 0, False))

    def publish_immediate(channel):
        channel.basic_publish(channel.prepare_message(b""), "", "k", immediate=True)
        declare(channel)

    expect_connection_error(errors.AMQPNotImplementedError, 540, "NOT_IMPLEMENTED - immediate=true", publish_immediate)


@on_channel
def quorum_queue(channel):
    queue = declare(channel, name("quorum"), durable=True, queue_arguments={"x-queue-type": "quorum"})
    publish_confirmed(channel, queue, 1, 1)
    channel.basic_qos(0, 10, False)
    received, _ = collect(channel, queue)
    serve(channel, lambda: received, "the first delivery")
    check("x-delivery-count" not in received[0].headers, "the first delivery has an x-delivery-count")
    channel.basic_reject(received[0].delivery_tag, requeue=True)
    serve(channel, lambda: len(received) >= 2, "the second delivery")
    message = received[1]
    equal((raw(message), message.delivery_info["redelivered"], message.headers["x-delivery-count"]), (b"0", True, 1), "second delivery")
    message.ack()
    queue.delete()


@scenario
def recovery_after_kill():
    interop.need_broker_control()
    count = max(1, MESSAGES // 10)
    with connect() as connection:
        channel = connection.channel()
        exchange = Exchange(name("recovery-x"), "direct", durable=True)
        queue = Queue(name("recovery"), exchange, "k", durable=True)
        queue(channel).declare()
        publish_confirmed(channel, queue, count, count)
        interop.kill_and_restart_broker()
        # The producer reconnects on its own and publishes again.
        producer = Producer(connection)
        producer.publish(b"new", exchange=exchange, routing_key="k", retry=True, retry_policy={"max_retries": 20, "interval_start": 0.1})
        channel = connection.default_channel
        messages = take(channel, queue, count + 1)
        equal(bodies(messages), [str(i) for i in range(count)] + ["new"], "messages after the restart")
        queue(channel).delete()
        exchange(channel).delete()


if __name__ == "__main__":
    interop.main()
