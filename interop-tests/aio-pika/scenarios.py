"""aio-pika: asyncio, confirms by default, and its own recovery (connect_robust)."""
import asyncio
import contextlib
import datetime
import functools
import uuid

import aio_pika
import aiormq
from aio_pika import DeliveryMode, ExchangeType, Message
from aiormq.exceptions import ChannelClosed, ConnectionClosed, DeliveryError

import interop
from interop import HEADERS, MESSAGES, Skip, check, contains, equal, eventually_async, name, scenario


def connect(url=interop.URL, **query):
    """A connection without recovery; `query` are options in the address, such as heartbeat."""
    options = "&".join(f"{key}={value}" for key, value in query.items())
    return aio_pika.connect(f"{url}?{options}")


async def connected(url=interop.URL, **query):
    return await asyncio.wait_for(connect(url, **query), interop.WAIT_SECS)


def on_channel(function):
    """Registers a scenario that needs one channel of one connection."""

    @functools.wraps(function)
    async def with_channel():
        async with await connected() as connection:
            await function(await connection.channel())

    return scenario(with_channel)


def new_channel(channel, **options):
    return connection_of(channel).channel(**options)


def connection_of(channel):
    return channel._connection


def exclusive_queue(channel, **options):
    return channel.declare_queue(exclusive=True, **options)


async def publish(channel, queue, *bodies, **properties):
    for body in bodies:
        await channel.default_exchange.publish(Message(body, **properties), str(queue))


async def collect(queue, **options):
    received = []

    async def add(message):
        received.append(message)

    return received, await queue.consume(add, **options)


async def wait_for(received, count):
    await eventually_async(lambda: len(received) >= count, f"{count} messages")


async def take(queue, count):
    """The next messages of a queue, acknowledged automatically."""
    received, tag = await collect(queue, no_ack=True)
    await wait_for(received, count)
    await queue.cancel(tag)
    equal(len(received), count, "messages")
    return received


async def depth(channel, queue):
    return (await channel.declare_queue(str(queue), passive=True)).declaration_result.message_count


def bodies(messages):
    return [message.body.decode() for message in messages]


@on_channel
async def hello_world(channel):
    queue = await exclusive_queue(channel)
    await publish(channel, queue, b"Hello World!")
    message, = await take(queue, 1)
    equal(message.body, b"Hello World!", "body")
    equal((message.exchange, message.routing_key, message.redelivered), ("", queue.name, False), "deliver")


@on_channel
async def work_queue_fair_dispatch(channel):
    queue = await exclusive_queue(channel)
    other = await new_channel(channel)
    await channel.set_qos(prefetch_count=1)
    await other.set_qos(prefetch_count=1)
    slow, _ = await collect(queue)
    quick = []

    async def work(message):
        quick.append(message)
        await message.ack()

    await (await other.get_queue(queue.name)).consume(work)
    await publish(channel, queue, *(f"task {i}".encode() for i in range(20)))
    await wait_for(quick, 19)
    await depth(channel, queue)
    equal(len(slow), 1, "messages at the worker that holds its first")
    equal(sorted(bodies(slow + quick)), sorted(f"task {i}" for i in range(20)), "tasks")
    await slow[0].ack()


@on_channel
async def publish_subscribe(channel):
    exchange = await channel.declare_exchange(name("logs"), ExchangeType.FANOUT, auto_delete=True)
    queues = [await exclusive_queue(channel) for _ in range(2)]
    for queue in queues:
        check(queue.name.startswith("amq"), f"server-named queue is called {queue.name}")
        await queue.bind(exchange)
    for i in range(100):
        await exchange.publish(Message(str(i).encode()), f"ignored {i}")
    for queue in queues:
        messages = await take(queue, 100)
        equal(bodies(messages), [str(i) for i in range(100)], "bodies")
        equal(messages[7].exchange, exchange.name, "exchange")


@on_channel
async def routing(channel):
    exchange = await channel.declare_exchange(name("direct"), ExchangeType.DIRECT, auto_delete=True)
    errors, everything = await exclusive_queue(channel), await exclusive_queue(channel)
    await errors.bind(exchange, "error")
    for key in ("info", "warning", "error"):
        await everything.bind(exchange, key)
    for key in ("info", "warning", "error", "debug", "errors", "Error"):
        await exchange.publish(Message(key.encode()), key, mandatory=False)
    equal(bodies(await take(errors, 1)), ["error"], "queue bound with error")
    equal(bodies(await take(everything, 3)), ["info", "warning", "error"], "queue bound with three keys")
    await everything.unbind(exchange, "info")
    await exchange.publish(Message(b"late"), "info", mandatory=False)
    await exchange.publish(Message(b"last"), "error")
    equal(bodies(await take(everything, 1)), ["last"], "after unbind")


@on_channel
async def topics(channel):
    exchange = await channel.declare_exchange(name("topic"), ExchangeType.TOPIC, auto_delete=True)
    queues = {}
    for keys in interop.TOPIC_MATCHES:
        queues[keys] = await exclusive_queue(channel)
        for key in keys:
            await queues[keys].bind(exchange, key)
    for key in interop.TOPIC_KEYS:
        await exchange.publish(Message(key.encode()), key)
    for keys, expected in interop.TOPIC_MATCHES.items():
        equal(bodies(await take(queues[keys], len(expected))), expected, f"queue bound with {keys}")


@on_channel
async def headers(channel):
    exchange = await channel.declare_exchange(name("headers"), ExchangeType.HEADERS, auto_delete=True)
    match_all, match_any = await exclusive_queue(channel), await exclusive_queue(channel)
    await match_all.bind(exchange, arguments={"x-match": "all", "format": "pdf", "pages": 3})
    await match_any.bind(exchange, arguments={"x-match": "any", "format": "pdf", "pages": 3})
    for body, table in ((b"both", {"format": "pdf", "pages": 3, "more": 1}), (b"one", {"format": "pdf", "pages": 4}),
                        (b"none", {"format": "zip"}), (b"string", {"pages": "3"}), (b"empty", None)):
        await exchange.publish(Message(body, headers=table), "", mandatory=False)
    equal(bodies(await take(match_all, 1)), ["both"], "x-match all")
    equal(bodies(await take(match_any, 2)), ["both", "one"], "x-match any")


async def rpc(channel, replies, reply_to):
    """A fib(n) server on its own channel; asks it and compares."""
    server = await new_channel(channel)
    queue = await exclusive_queue(server)

    async def answer(message):
        await publish(server, message.reply_to, str(interop.fibonacci(int(message.body))).encode(), correlation_id=message.correlation_id)
        await message.ack()

    await queue.consume(answer)
    received, _ = await collect(replies, no_ack=True)
    asked = {}
    for n in (0, 1, 10, 30, 90):
        correlation_id = str(uuid.uuid4())
        asked[correlation_id] = n
        await publish(channel, queue, str(n).encode(), reply_to=reply_to, correlation_id=correlation_id)
    await wait_for(received, len(asked))
    equal({m.correlation_id: int(m.body) for m in received}, {key: interop.fibonacci(n) for key, n in asked.items()}, "replies")
    return received


@on_channel
async def rpc_reply_queue(channel):
    replies = await exclusive_queue(channel)
    await rpc(channel, replies, replies.name)


@on_channel
async def rpc_direct_reply_to(channel):
    replies = await channel.get_queue("amq.rabbitmq.reply-to", ensure=False)
    message = (await rpc(channel, replies, "amq.rabbitmq.reply-to"))[0]
    equal(message.exchange, "", "exchange")
    check(message.routing_key.startswith("amq.rabbitmq.reply-to."), f"routing key of the reply is {message.routing_key}")


async def confirm_run(count, batch):
    async with await connected() as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(name(), durable=True)
        for start in range(0, count, batch):
            published = [channel.default_exchange.publish(Message(str(i).encode(), delivery_mode=DeliveryMode.PERSISTENT), queue.name)
                         for i in range(start, min(start + batch, count))]
            confirms = await asyncio.gather(*published)
            check(all(isinstance(confirm, aiormq.spec.Basic.Ack) for confirm in confirms), "something else than basic.ack came back")
        equal(await depth(channel, queue), count, "message count")
        await queue.delete(if_unused=False, if_empty=False)


@scenario
async def confirms_single():
    await confirm_run(100, 1)


@scenario
async def confirms_batch():
    await confirm_run(1000, 100)


@scenario
async def confirms_async_50000():
    await confirm_run(MESSAGES, MESSAGES)


@on_channel
async def mandatory_return(channel):
    raising = await new_channel(channel, on_return_raises=True)
    queue, nowhere = await exclusive_queue(channel), name("nowhere")
    await raising.default_exchange.publish(Message(b"arrives"), queue.name, mandatory=True)
    try:
        await raising.default_exchange.publish(Message(b"comes back", message_id="m1"), nowhere, mandatory=True)
        check(False, "an unroutable mandatory message was not returned")
    except DeliveryError as error:
        returned = error.message
    equal((returned.delivery.reply_code, returned.delivery.reply_text), (312, "NO_ROUTE"), "reply code and text")
    equal((returned.delivery.exchange, returned.delivery.routing_key), ("", nowhere), "exchange and key")
    equal((returned.body, returned.header.properties.message_id), (b"comes back", "m1"), "content")
    await raising.default_exchange.publish(Message(b"dropped"), nowhere, mandatory=False)
    equal(bodies(await take(queue, 1)), ["arrives"], "queue")


@on_channel
async def basic_get(channel):
    queue = await exclusive_queue(channel)
    equal(await queue.get(fail=False), None, "get of an empty queue")
    await publish(channel, queue, b"0", b"1", b"2")
    messages = [await queue.get() for _ in range(3)]
    equal([(m.body, m.message_count, m.delivery_tag, m.redelivered) for m in messages],
          [(b"0", 2, 1, False), (b"1", 1, 2, False), (b"2", 0, 3, False)], "get-ok")
    await messages[2].ack(multiple=True)
    equal(await queue.get(fail=False), None, "get after all acks")


@on_channel
async def nack_requeue_redelivered(channel):
    exchange = await channel.declare_exchange(name("dlx"), ExchangeType.FANOUT, auto_delete=True)
    dead = await exclusive_queue(channel)
    await dead.bind(exchange)
    queue = await exclusive_queue(channel, arguments={"x-dead-letter-exchange": exchange.name})
    await publish(channel, queue, b"0", b"1", b"2")
    await (await queue.get()).nack(requeue=True)
    seen = [await queue.get() for _ in range(3)]
    equal([(m.body, m.redelivered) for m in seen], [(b"0", True), (b"1", False), (b"2", False)], "after the requeue")
    await seen[0].nack(requeue=False)
    await seen[1].reject(requeue=False)
    await seen[2].ack()
    messages = await take(dead, 2)
    equal(bodies(messages), ["0", "1"], "dead-lettered")
    equal((messages[0].exchange, messages[0].routing_key, messages[0].redelivered), (exchange.name, queue.name, False), "dead-lettered deliver")
    death, = messages[0].headers["x-death"]
    equal({key: death[key] for key in ("count", "reason", "queue", "exchange", "routing-keys")},
          {"count": 1, "reason": "rejected", "queue": queue.name, "exchange": "", "routing-keys": [queue.name]}, "x-death")


@on_channel
async def prefetch_1_and_100(channel):
    for prefetch in (1, 100):
        queue = await exclusive_queue(channel)
        await publish(channel, queue, *(str(i).encode() for i in range(250)))
        consuming = await new_channel(channel)
        await consuming.set_qos(prefetch_count=prefetch)
        received, _ = await collect(await consuming.get_queue(queue.name))
        settled = 0
        while settled < 250:
            window = min(prefetch, 250 - settled)
            await wait_for(received, settled + window)
            # Had the broker sent more than the window, they would be here after a round trip.
            await depth(consuming, queue)
            equal(len(received) - settled, window, f"messages in a window of {prefetch}")
            settled += window
            await received[-1].ack(multiple=True)
        equal(bodies(received), [str(i) for i in range(250)], "order")
        await consuming.close()
        equal(await depth(channel, queue), 0, "messages left")


@on_channel
async def consumer_cancel_and_queue_deletion(channel):
    queue = await channel.declare_queue(name())
    received, tag = await collect(queue, no_ack=True)
    await publish(channel, queue, b"before")
    await wait_for(received, 1)
    await queue.cancel(tag)
    await publish(channel, queue, b"after")
    state = await channel.declare_queue(queue.name, passive=True)
    equal(bodies(received), ["before"], "received")
    equal((state.declaration_result.message_count, state.declaration_result.consumer_count), (1, 0), "messages and consumers after cancel")
    received, tag = await collect(queue, no_ack=True)
    await wait_for(received, 1)
    underlay = await channel.get_underlay_channel()
    check(tag in underlay.consumers, "the consumer is not registered")
    other = await new_channel(channel)
    await other.queue_delete(queue.name)
    await eventually_async(lambda: tag not in underlay.consumers, "basic.cancel from the broker")
    check(not channel.is_closed, "the channel was closed")


@on_channel
async def exclusive_and_auto_delete(channel):
    async with await connected() as owner:
        queue = await (await owner.channel()).declare_queue(name("exclusive"), exclusive=True)
        await expect_channel_error(405, "cannot obtain exclusive access to locked queue", lambda c: c.declare_queue(queue.name, passive=True))
    await expect_channel_error(404, f"no queue '{queue.name}' in vhost '/'", lambda c: c.declare_queue(queue.name, passive=True))
    queue = await channel.declare_queue(name("auto-delete"), auto_delete=True)
    tags = [(await collect(queue))[1] for _ in range(2)]
    await queue.cancel(tags[0])
    equal((await channel.declare_queue(queue.name, passive=True)).declaration_result.consumer_count, 1, "consumers")
    await queue.cancel(tags[1])
    await expect_channel_error(404, "no queue", lambda c: c.declare_queue(queue.name, passive=True))


@on_channel
async def transactions(look):
    queue = await exclusive_queue(look)
    channel = await new_channel(look, publisher_confirms=False)
    own = await channel.get_queue(queue.name)
    transaction = channel.transaction()
    await transaction.select()
    await publish(channel, queue, b"1", b"2")
    equal(await depth(look, queue), 0, "messages before the commit")
    await transaction.commit()
    equal(await depth(look, queue), 2, "messages after the commit")
    await publish(channel, queue, b"3")
    message = await own.get()
    await message.ack()
    await transaction.rollback()
    equal(await depth(look, queue), 1, "ready messages after the rollback")
    # The rollback took the ack back; closing the channel requeues what is still outstanding.
    await channel.close()
    messages = await take(queue, 2)
    equal([(m.body, m.redelivered) for m in messages], [(b"1", True), (b"2", False)], "messages")


@on_channel
async def properties_and_header_types_round_trip(channel):
    queue = await exclusive_queue(channel)
    sent_headers = dict(HEADERS, bytes=bytearray(b"\x00\xff"), double=3.5)
    moment = datetime.datetime(2023, 11, 14, 22, 13, 20, tzinfo=datetime.timezone.utc)
    sent = dict(content_type="application/json", content_encoding="gzip", headers=sent_headers, delivery_mode=DeliveryMode.PERSISTENT, priority=9,
                correlation_id="c-1", reply_to="some.queue", expiration=60, message_id="m-1", timestamp=moment, type="t", user_id="guest",
                app_id="interop")
    await publish(channel, queue, b"x", **sent)
    got, = await take(queue, 1)
    for key, value in sent.items():
        if key == "headers":
            equal({k: bytes(v) if isinstance(v, bytearray) else v for k, v in got.headers.items()},
                  {k: bytes(v) if isinstance(v, bytearray) else v for k, v in value.items()}, "headers")
        else:
            equal(getattr(got, key), value, key)


@on_channel
async def body_sizes(channel):
    queue = await exclusive_queue(channel)
    for size in interop.body_sizes():
        body = interop.body_of(size)
        await publish(channel, queue, body)
        received = (await take(queue, 1))[0].body
        check(received == body, f"a body of {size} bytes came back different ({len(received)} bytes)")


@scenario
async def thousand_queues_200_channels():
    async with await connected() as connection:
        channels = await asyncio.gather(*(connection.channel() for _ in range(200)))
        queues = await asyncio.gather(*(exclusive_queue(channels[i % 200]) for i in range(1000)))
        await asyncio.gather(*(publish(channels[i % 200], queue, queue.name.encode()) for i, queue in enumerate(queues)))
        messages = await asyncio.gather(*(queue.get(no_ack=True) for queue in queues))
        equal(bodies(messages), [queue.name for queue in queues], "messages")


@scenario
async def ipv4_and_ipv6():
    if not interop.URL_V6:
        raise Skip("no IPv6 address")
    async with await connected() as v4, await connected(interop.URL_V6) as v6:
        queue = await (await v6.channel()).declare_queue(name(), auto_delete=True)
        await publish(await v4.channel(), queue, b"over v4")
        equal(bodies(await take(queue, 1)), ["over v4"], "received over IPv6")


@scenario
async def heartbeat_idle():
    async with await connected(heartbeat=1) as connection:
        channel = await connection.channel()
        queue = await exclusive_queue(channel)
        await asyncio.sleep(5)
        await publish(channel, queue, b"still here")
        equal(bodies(await take(queue, 1)), ["still here"], "after 5 idle intervals")


@on_channel
async def dead_peer_detection(channel):
    queue = await channel.declare_queue(name())
    silent = await connected(heartbeat=1)
    await publish(channel, queue, b"unacked")
    await (await (await silent.channel()).get_queue(queue.name)).get()
    # Without its writer task the connection sends no heartbeats any more.
    for task in asyncio.all_tasks():
        if "heartbeat" in repr(task.get_coro()) and "Connection" in repr(task.get_coro()):
            task.cancel()
    message = await eventually_async(lambda: queue.get(fail=False, no_ack=True), "the message of a silent peer to come back")
    equal((message.body, message.redelivered), (b"unacked", True), "message")
    await queue.delete()
    with contextlib.suppress(Exception):
        await asyncio.wait_for(silent.close(), interop.WAIT_SECS)


def code_and_text(error):
    """A closed channel or connection carries the reply code and text, or the text alone, depending on the code."""
    text = str(error.args)
    number = next((arg for arg in error.args if isinstance(arg, int)), getattr(error, "errno", None))
    return number, text


# The library has an exception for each code.
CHANNEL_ERRORS = {403: "ChannelAccessRefused", 404: "ChannelNotFoundEntity", 405: "ChannelLockedResource", 406: "ChannelPreconditionFailed"}


async def expect_channel_error(code, text, action):
    """`action` on a new channel closes it with `code`; the connection and its other channels go on."""
    async with await connected() as connection:
        channel = await connection.channel()
        try:
            await action(channel)
            check(False, f"expected a channel error {code}, got none")
        except ChannelClosed as error:
            equal(type(error).__name__, CHANNEL_ERRORS[code], "error")
            contains(code_and_text(error)[1], text, "reply text")
        await eventually_async(lambda: channel.is_closed, "the channel to be closed")
        check(not connection.is_closed, "the connection has to stay open")
        other = await connection.channel()
        queue = await exclusive_queue(other)
        await publish(other, queue, b"ok")
        equal(bodies(await take(queue, 1)), ["ok"], "on another channel")


async def expect_connection_error(kind, text, action):
    connection = await connected()
    try:
        await action(await connection.channel())
        check(False, f"expected {kind.__name__}, got no error")
    except ConnectionClosed as error:
        equal(type(error), kind, "error")
        contains(code_and_text(error)[1], text, "reply text")
    await eventually_async(lambda: connection.transport.connection.is_closed, "the connection to be closed")
    await connection.close()


@scenario
async def error_404():
    missing = name("missing")
    text = f"NOT_FOUND - no queue '{missing}' in vhost '/'"
    await expect_channel_error(404, text, lambda c: c.declare_queue(missing, passive=True))

    async def consume_from_missing(channel):
        await (await channel.get_queue(missing, ensure=False)).consume(print)

    await expect_channel_error(404, text, consume_from_missing)

    async def publish_to_missing(channel):
        await (await channel.get_exchange(missing, ensure=False)).publish(Message(b""), "k")

    await expect_channel_error(404, f"NOT_FOUND - no exchange '{missing}' in vhost '/'", publish_to_missing)


@scenario
async def error_406():
    exchange = name("x")

    async def redeclare(channel):
        await channel.declare_exchange(exchange, ExchangeType.DIRECT, auto_delete=True)
        await (await exclusive_queue(channel)).bind(exchange, "k")
        await channel.declare_exchange(exchange, ExchangeType.TOPIC, auto_delete=True)

    await expect_channel_error(
        406, f"PRECONDITION_FAILED - inequivalent arg 'type' for exchange '{exchange}' in vhost '/': received 'topic' but current is 'direct'", redeclare)

    async def bad_ack(channel):
        underlay = await channel.get_underlay_channel()
        await underlay.basic_ack(82)
        await channel.declare_queue("", exclusive=True)

    await expect_channel_error(406, "PRECONDITION_FAILED - unknown delivery tag 82", bad_ack)


@scenario
async def error_403():
    await expect_channel_error(403, "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'", lambda c: c.declare_queue("amq.mine"))
    await expect_channel_error(403, "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'", lambda c: c.declare_exchange("amq.mine"))

    async def consume_exclusively_twice(channel):
        queue = await exclusive_queue(channel)
        await queue.consume(print, exclusive=True)
        await queue.consume(print)

    await expect_channel_error(403, "in exclusive use", consume_exclusively_twice)
    try:
        await connected(interop.URL.replace("guest:guest", "guest:wrong"))
        check(False, "a wrong password was accepted")
    except aiormq.exceptions.ProbableAuthenticationError as error:
        contains(error, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN", "refused login")


@scenario
async def error_405():
    async with await connected() as owner:
        queue = (await (await owner.channel()).declare_queue(name(), exclusive=True)).name
        text = f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'"
        await expect_channel_error(405, text, lambda c: c.declare_queue(queue, exclusive=True))
        await expect_channel_error(405, text, lambda c: c.queue_delete(queue))


@scenario
async def error_530():

    async def reuse_tag(channel):
        queue = await exclusive_queue(channel)
        tag = await queue.consume(print)
        # The library refuses a tag that it knows, so it has to forget it first.
        (await channel.get_underlay_channel()).consumers.pop(tag)
        await queue.consume(print, consumer_tag=tag)

    await expect_connection_error(aiormq.exceptions.ConnectionNotAllowed, "NOT_ALLOWED - attempt to reuse consumer tag", reuse_tag)
    try:
        await connected(interop.URL + "no-such-vhost")
        check(False, "a missing virtual host was opened")
    except aiormq.exceptions.AMQPError as error:
        # The library expects nothing but open-ok there and does not read the text of the close.
        contains(str(error.args), "Connection.Close", "refused virtual host")


@scenario
async def error_540():
    await expect_connection_error(aiormq.exceptions.ConnectionNotImplemented, "NOT_IMPLEMENTED - prefetch_size!=0 (10)",
                                  lambda c: c.set_qos(prefetch_count=1, prefetch_size=10))
    await expect_connection_error(aiormq.exceptions.ConnectionNotImplemented, "NOT_IMPLEMENTED - immediate=true",
                                  lambda c: c.default_exchange.publish(Message(b""), "k", mandatory=False, immediate=True))


@on_channel
async def quorum_queue(channel):
    queue = await channel.declare_queue(name("quorum"), durable=True, arguments={"x-queue-type": "quorum"})
    await publish(channel, queue, b"counted", delivery_mode=DeliveryMode.PERSISTENT)
    await channel.set_qos(prefetch_count=10)
    received, _ = await collect(queue)
    await wait_for(received, 1)
    check("x-delivery-count" not in received[0].headers, "the first delivery has an x-delivery-count")
    await received[0].nack(requeue=True)
    await wait_for(received, 2)
    message = received[1]
    equal((message.body, message.redelivered, message.headers["x-delivery-count"]), (b"counted", True, 1), "second delivery")
    await message.ack()
    await queue.delete(if_unused=False, if_empty=False)


@scenario
async def recovery_after_kill():
    interop.need_broker_control()
    count = max(1, MESSAGES // 10)
    connection = await aio_pika.connect_robust(interop.URL, reconnect_interval=0.2, fail_fast=True)
    async with connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange(name("recovery-x"), ExchangeType.DIRECT, durable=True)
        queue = await channel.declare_queue(name("recovery"), durable=True)
        await queue.bind(exchange, "k")
        scratch = await channel.declare_queue(name("scratch"), exclusive=True, auto_delete=True)
        in_scratch, _ = await collect(scratch, no_ack=True)
        await asyncio.gather(*(exchange.publish(Message(str(i).encode(), delivery_mode=DeliveryMode.PERSISTENT), "k") for i in range(count)))
        recovered = asyncio.Event()
        connection.reconnect_callbacks.add(lambda *_: recovered.set())
        await asyncio.to_thread(interop.kill_and_restart_broker)
        await asyncio.wait_for(recovered.wait(), 30)
        # The library declares queues and consumers of the lost connection again.
        await publish(channel, scratch, b"recovered consumer")
        await wait_for(in_scratch, 1)
        received, tag = await collect(queue, no_ack=True)
        await wait_for(received, count)
        await queue.cancel(tag)
        equal(bodies(received), [str(i) for i in range(count)], "messages after the restart")
        await exchange.publish(Message(b"new"), "k")
        equal(bodies(await take(queue, 1)), ["new"], "through the recovered binding")
        await queue.delete(if_unused=False, if_empty=False)
        await exchange.delete()


if __name__ == "__main__":
    interop.main()
