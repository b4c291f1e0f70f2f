// @cloudamqp/amqp-client: channels for most, AMQPSession where it recovers by itself.
import {
  FRAME_MAX, HEADER_MESSAGES, MESSAGES, TOPIC_KEYS, TOPIC_MATCHES, URL, URL_V6, bodyOf, bodySizes, check, contains, equal, errorOf, eventually,
  fibonacci, killAndRestartBroker, library, main, name, needBrokerControl, pause, scenario, skip, within,
} from '../lib/node/interop.mjs'

const { AMQPClient, AMQPSession } = library('@cloudamqp/amqp-client')

async function connected(use, { url = URL, query = '' } = {}) {
  const client = new AMQPClient(url + query)
  // The library looks up the brackets of an IPv6 address as part of a host name.
  client.host = client.host.replaceAll(/[[\]]/g, '')
  client.errors = []
  client.onerror = (error) => client.errors.push(error)
  client.gone = false
  client.ondisconnect = () => { client.gone = true }
  await within(client.connect(), 'the connection')
  try {
    return await use(client)
  } finally {
    if (!client.closed) await within(client.close(), 'the connection to close').catch(() => {})
  }
}

async function channelOf(client, { confirms = false } = {}) {
  const channel = await client.channel()
  channel.errors = []
  channel.onerror = (error) => channel.errors.push(error)
  if (confirms) await channel.confirmSelect()
  return channel
}

const onChannel = (scenarioName, run, options) =>
  scenario(scenarioName, () => connected(async (client) => run(await channelOf(client, options), client)))

const exclusiveQueue = async (channel, args = {}) => (await channel.queueDeclare('', { exclusive: true, durable: false, autoDelete: false }, args)).name

async function publish(channel, queue, ...bodies) {
  for (const body of bodies) await channel.basicPublish('', queue, body)
}

async function collect(channel, queue, params = {}) {
  const received = []
  received.consumer = await channel.basicConsume(queue, { noAck: false, ...params }, (message) => { received.push(message) })
  received.tag = received.consumer.tag
  return received
}

async function take(channel, queue, count) {
  const received = await collect(channel, queue, { noAck: true })
  await eventually(() => received.length >= count, `${count} messages`)
  await channel.basicCancel(received.tag)
  equal(received.length, count, 'messages')
  return received
}

async function declareExchange(channel, kind) {
  const exchange = name(kind)
  await channel.exchangeDeclare(exchange, kind, { durable: false, autoDelete: true })
  return exchange
}

const state = (channel, queue) => channel.queueDeclare(queue, { passive: true })
const bodies = (messages) => messages.map((message) => message.bodyString())
const numbers = (count) => Array.from({ length: count }, (_, i) => String(i))

onChannel('hello_world', async (channel) => {
  const queue = await exclusiveQueue(channel)
  await publish(channel, queue, 'Hello World!')
  const [{ exchange, routingKey, redelivered, body }] = await take(channel, queue, 1)
  equal(Buffer.from(body), Buffer.from('Hello World!'), 'body')
  equal({ exchange, routingKey, redelivered }, { exchange: '', routingKey: queue, redelivered: false }, 'deliver')
})

onChannel('work_queue_fair_dispatch', async (channel, client) => {
  const queue = await exclusiveQueue(channel)
  const other = await channelOf(client)
  await channel.prefetch(1)
  await other.prefetch(1)
  const slow = await collect(channel, queue)
  const quick = []
  await other.basicConsume(queue, { noAck: false }, (message) => {
    quick.push(message)
    return message.ack()
  })
  const tasks = numbers(20)
  await publish(channel, queue, ...tasks)
  await eventually(() => quick.length >= 19, '19 messages at the quick worker')
  await state(channel, queue)
  equal(slow.length, 1, 'messages at the worker that holds its first')
  equal(bodies([...slow, ...quick]).sort(), [...tasks].sort(), 'tasks')
  await slow[0].ack()
})

onChannel('publish_subscribe', async (channel) => {
  const exchange = await declareExchange(channel, 'fanout')
  const queues = [await exclusiveQueue(channel), await exclusiveQueue(channel)]
  for (const queue of queues) {
    check(queue.startsWith('amq.gen-'), `server-named queue is called ${queue}`)
    await channel.queueBind(queue, exchange, '')
  }
  for (const i of numbers(100)) await channel.basicPublish(exchange, `ignored ${i}`, i)
  for (const queue of queues) {
    const messages = await take(channel, queue, 100)
    equal(bodies(messages), numbers(100), 'bodies')
    equal(messages[7].exchange, exchange, 'exchange')
  }
})

onChannel('routing', async (channel) => {
  const exchange = await declareExchange(channel, 'direct')
  const [errors, everything] = [await exclusiveQueue(channel), await exclusiveQueue(channel)]
  await channel.queueBind(errors, exchange, 'error')
  for (const key of ['info', 'warning', 'error']) await channel.queueBind(everything, exchange, key)
  for (const key of ['info', 'warning', 'error', 'debug', 'errors', 'Error']) await channel.basicPublish(exchange, key, key)
  equal(bodies(await take(channel, errors, 1)), ['error'], 'queue bound with error')
  equal(bodies(await take(channel, everything, 3)), ['info', 'warning', 'error'], 'queue bound with three keys')
  await channel.queueUnbind(everything, exchange, 'info')
  await channel.basicPublish(exchange, 'info', 'late')
  await channel.basicPublish(exchange, 'error', 'last')
  equal(bodies(await take(channel, everything, 1)), ['last'], 'after unbind')
})

onChannel('topics', async (channel) => {
  const exchange = await declareExchange(channel, 'topic')
  const queues = []
  for (const [keys] of TOPIC_MATCHES) {
    const queue = await exclusiveQueue(channel)
    queues.push(queue)
    for (const key of keys) await channel.queueBind(queue, exchange, key)
  }
  for (const key of TOPIC_KEYS) await channel.basicPublish(exchange, key, key)
  for (const [i, [keys, expected]] of TOPIC_MATCHES.entries()) {
    equal((await take(channel, queues[i], expected.length)).map((m) => m.bodyString() ?? ''), expected, `queue bound with ${keys}`)
  }
})

onChannel('headers', async (channel) => {
  const exchange = await declareExchange(channel, 'headers')
  const [all, any] = [await exclusiveQueue(channel), await exclusiveQueue(channel)]
  await channel.queueBind(all, exchange, '', { 'x-match': 'all', format: 'pdf', pages: 3 })
  await channel.queueBind(any, exchange, '', { 'x-match': 'any', format: 'pdf', pages: 3 })
  for (const [body, headers] of HEADER_MESSAGES) await channel.basicPublish(exchange, '', body, { headers })
  equal(bodies(await take(channel, all, 1)), ['both'], 'x-match all')
  equal(bodies(await take(channel, any, 2)), ['both', 'one'], 'x-match any')
})

/** A fib(n) server on its own channel; asks it and compares. */
async function rpc(channel, client, replies, replyTo) {
  const server = await channelOf(client)
  const queue = await exclusiveQueue(server)
  await server.basicConsume(queue, { noAck: false }, async (message) => {
    const { replyTo: to, correlationId } = message.properties
    await server.basicPublish('', to, String(fibonacci(Number(message.bodyString()))), { correlationId })
    await message.ack()
  })
  const received = await collect(channel, replies, { noAck: true })
  const asked = [0, 1, 10, 30, 90]
  for (const n of asked) await channel.basicPublish('', queue, String(n), { replyTo, correlationId: `c-${n}` })
  await eventually(() => received.length >= asked.length, 'replies')
  equal(Object.fromEntries(received.map((m) => [m.properties.correlationId, m.bodyString()])),
    Object.fromEntries(asked.map((n) => [`c-${n}`, String(fibonacci(n))])), 'replies')
  return received
}

onChannel('rpc_reply_queue', async (channel, client) => {
  const replies = await exclusiveQueue(channel)
  await rpc(channel, client, replies, replies)
})

scenario('rpc_direct_reply_to', async () => {
  await connected(async (client) => {
    const [message] = await rpc(await channelOf(client), client, 'amq.rabbitmq.reply-to', 'amq.rabbitmq.reply-to')
    equal(message.exchange, '', 'exchange')
    check(message.routingKey.startsWith('amq.rabbitmq.reply-to.'), `routing key of the reply is ${message.routingKey}`)
  })
  // The library's own RPC client and server.
  const session = await within(AMQPSession.connect(URL), 'the session')
  try {
    const queue = name('rpc')
    const server = await session.rpcServer(queue, (message) => String(fibonacci(Number(message.bodyString()))))
    const reply = await within(session.rpcCall(queue, '30', { timeout: 5000 }), 'the reply')
    equal(reply.bodyString(), '832040', 'reply to the library\'s own client')
    await server.close()
    await (await session.queue(queue)).delete()
  } finally {
    await session.stop()
  }
})

async function confirmRun(channel, count, batch) {
  const queue = name()
  await channel.queueDeclare(queue, { durable: true })
  for (let start = 0; start < count; start += batch) {
    const expected = []
    const confirms = []
    for (let i = start; i < Math.min(start + batch, count); i++) {
      expected.push(i + 1)
      confirms.push(channel.basicPublish('', queue, String(i), { deliveryMode: 2 }))
    }
    equal(await within(Promise.all(confirms), 'confirms', 60_000), expected, 'confirmed')
  }
  equal((await state(channel, queue)).messageCount, count, 'message count')
  return queue
}

for (const [scenarioName, count, batch] of [['confirms_single', 100, 1], ['confirms_batch', 1000, 100], ['confirms_async_50000', MESSAGES, MESSAGES]]) {
  onChannel(scenarioName, async (channel) => channel.queueDelete(await confirmRun(channel, count, batch)), { confirms: true })
}

onChannel('mandatory_return', async (channel) => {
  const [queue, nowhere, seen] = [await exclusiveQueue(channel), name('nowhere'), []]
  channel.onReturn = (message) => seen.push(message)
  const send = async (key, body, properties, mandatory) => seen.push(await within(channel.basicPublish('', key, body, properties, mandatory), 'confirm'))
  await send(queue, 'arrives', {}, true)
  await send(nowhere, 'comes back', { messageId: 'm1' }, true)
  await send(nowhere, 'dropped', {}, false)
  const [returned] = seen.splice(1, 1)
  equal(seen, [1, 2, 3], 'order of return and confirms')
  const { replyCode, replyText, exchange, routingKey } = returned
  equal({ replyCode, replyText, exchange, routingKey }, { replyCode: 312, replyText: 'NO_ROUTE', exchange: '', routingKey: nowhere }, 'return')
  equal([returned.bodyString(), returned.properties.messageId], ['comes back', 'm1'], 'content')
  equal(bodies(await take(channel, queue, 1)), ['arrives'], 'queue')
}, { confirms: true })

const getThree = async (channel, queue) => [
  await channel.basicGet(queue, { noAck: false }), await channel.basicGet(queue, { noAck: false }), await channel.basicGet(queue, { noAck: false }),
]

onChannel('basic_get', async (channel) => {
  const queue = await exclusiveQueue(channel)
  equal(await channel.basicGet(queue), null, 'get of an empty queue')
  await publish(channel, queue, '0', '1', '2')
  const messages = await getThree(channel, queue)
  equal(messages.map((m) => [m.bodyString(), m.messageCount, m.deliveryTag, m.redelivered]),
    [['0', 2, 1, false], ['1', 1, 2, false], ['2', 0, 3, false]], 'get-ok')
  await messages[2].ack(true)
  equal(await channel.basicGet(queue), null, 'get after all acks')
}, { confirms: true })

onChannel('nack_requeue_redelivered', async (channel) => {
  const exchange = await declareExchange(channel, 'fanout')
  const dead = await exclusiveQueue(channel)
  await channel.queueBind(dead, exchange, '')
  const queue = await exclusiveQueue(channel, { 'x-dead-letter-exchange': exchange })
  await publish(channel, queue, '0', '1', '2')
  await (await channel.basicGet(queue, { noAck: false })).nack(true)
  const seen = await getThree(channel, queue)
  equal(seen.map((m) => [m.bodyString(), m.redelivered]), [['0', true], ['1', false], ['2', false]], 'after the requeue')
  await seen[0].nack(false)
  await seen[1].reject(false)
  await seen[2].ack()
  const messages = await take(channel, dead, 2)
  equal(bodies(messages), ['0', '1'], 'dead-lettered')
  const { routingKey, redelivered, properties } = messages[0]
  equal([messages[0].exchange, routingKey, redelivered], [exchange, queue, false], 'dead-lettered deliver')
  const [{ time, ...death }] = properties.headers['x-death']
  equal({ ...death, count: Number(death.count) }, { count: 1, reason: 'rejected', queue, exchange: '', 'routing-keys': [queue] }, 'x-death')
  check(time instanceof Date, 'the time of death is not a timestamp')
}, { confirms: true })

onChannel('prefetch_1_and_100', async (channel, client) => {
  for (const prefetch of [1, 100]) {
    const queue = await exclusiveQueue(channel)
    await publish(channel, queue, ...numbers(250))
    const consuming = await channelOf(client)
    await consuming.prefetch(prefetch)
    const received = await collect(consuming, queue)
    for (let settled = 0; settled < 250;) {
      const window = Math.min(prefetch, 250 - settled)
      await eventually(() => received.length >= settled + window, `${window} more messages`)
      // Had the broker sent more than the window, they would be here after a round trip.
      await state(consuming, queue)
      equal(received.length - settled, window, `messages in a window of ${prefetch}`)
      settled += window
      await received.at(-1).ack(true)
    }
    equal(bodies(received), numbers(250), 'order')
    await consuming.close()
    equal((await state(channel, queue)).messageCount, 0, 'messages left')
  }
})

onChannel('consumer_cancel_and_queue_deletion', async (channel, client) => {
  const queue = name()
  await channel.queueDeclare(queue, { durable: false })
  const first = await collect(channel, queue, { noAck: true })
  await publish(channel, queue, 'before')
  await eventually(() => first.length, 'the first message')
  await channel.basicCancel(first.tag)
  await publish(channel, queue, 'after')
  const { messageCount, consumerCount } = await state(channel, queue)
  equal({ messageCount, consumerCount }, { messageCount: 1, consumerCount: 0 }, 'after cancel')
  equal(bodies(first), ['before'], 'received')
  const second = await collect(channel, queue, { noAck: true })
  await eventually(() => second.length, 'the second message')
  await (await channelOf(client)).queueDelete(queue)
  const cancelled = await errorOf(() => second.consumer.wait())
  contains(cancelled.message, 'Consumer cancelled by the server', 'what the consumer is told')
  await exclusiveQueue(channel)
}, { confirms: true })

onChannel('exclusive_and_auto_delete', async (channel) => {
  const exclusive = name('exclusive')
  await connected(async (owner) => {
    await (await channelOf(owner)).queueDeclare(exclusive, { exclusive: true })
    await expectChannelError(405, 'cannot obtain exclusive access to locked queue', (c) => c.basicGet(exclusive))
  })
  await expectChannelError(404, `no queue '${exclusive}' in vhost '/'`, (c) => state(c, exclusive))
  const queue = name('auto-delete')
  await channel.queueDeclare(queue, { autoDelete: true, durable: false })
  const consumers = [await collect(channel, queue), await collect(channel, queue)]
  await channel.basicCancel(consumers[0].tag)
  equal((await state(channel, queue)).consumerCount, 1, 'consumers')
  await channel.basicCancel(consumers[1].tag)
  await expectChannelError(404, 'no queue', (c) => state(c, queue))
})

onChannel('transactions', async (look, client) => {
  const queue = await exclusiveQueue(look)
  const channel = await channelOf(client)
  const count = async () => (await state(look, queue)).messageCount
  await channel.txSelect()
  await publish(channel, queue, '1', '2')
  equal(await count(), 0, 'messages before the commit')
  await channel.txCommit()
  equal(await count(), 2, 'messages after the commit')
  await publish(channel, queue, '3')
  const message = await channel.basicGet(queue, { noAck: false })
  await channel.basicAck(message.deliveryTag)
  await channel.txRollback()
  equal(await count(), 1, 'ready messages after the rollback')
  // The rollback took the ack back: the message is still outstanding and can be settled again.
  await channel.basicNack(message.deliveryTag, true)
  await channel.txCommit()
  equal((await take(look, queue, 2)).map((m) => [m.bodyString(), m.redelivered]), [['1', true], ['2', false]], 'messages')
})

onChannel('properties_and_header_types_round_trip', async (channel) => {
  const queue = await exclusiveQueue(channel)
  const headers = {
    string: 'grüße', empty: '', int: -5, int32: 2 ** 31 - 1, long: -(2 ** 40), float: 3.25, double: 2 ** 40 + 0.5, true: true, false: false,
    time: new Date(1700000000000), bytes: new Uint8Array([0, 255]), table: { inner: { deep: 'x', n: 1 }, list: [1, 'two', { three: 3 }] },
    array: ['a', 1, true, ['nested'], { k: 'v' }], void: null,
  }
  const sent = {
    contentType: 'application/json', contentEncoding: 'gzip', headers, deliveryMode: 2, priority: 9, correlationId: 'c-1', replyTo: 'some.queue',
    expiration: '60000', messageId: 'm-1', timestamp: new Date(1700000000000), type: 't', userId: 'guest', appId: 'interop',
  }
  await channel.basicPublish('', queue, 'x', sent)
  await channel.basicPublish('', queue, 'y')
  const [full, bare] = await take(channel, queue, 2)
  full.properties.headers.bytes = new Uint8Array(full.properties.headers.bytes)
  for (const key of Object.keys(sent)) equal(full.properties[key], sent[key], key)
  equal(bare.properties, {}, 'properties of a message without any')
})

scenario('body_sizes', () => connected(async (client) => {
  const channel = await channelOf(client)
  const queue = await exclusiveQueue(channel)
  equal(client.frameMax, FRAME_MAX, 'frame_max')
  for (const size of bodySizes) {
    const sent = bodyOf(size)
    await channel.basicPublish('', queue, sent)
    const [{ body }] = await take(channel, queue, 1)
    check(sent.equals(Buffer.from(body ?? [])), `a body of ${size} bytes came back different (${body?.length} bytes)`)
  }
}, { query: `?frameMax=${FRAME_MAX}` }))

scenario('thousand_queues_200_channels', () => connected(async (client) => {
  const channels = await Promise.all(Array.from({ length: 200 }, () => channelOf(client, { confirms: true })))
  const queues = await Promise.all(numbers(1000).map((i) => exclusiveQueue(channels[i % 200])))
  await Promise.all(queues.map((queue, i) => publish(channels[i % 200], queue, queue)))
  const messages = await Promise.all(queues.map((queue, i) => channels[i % 200].basicGet(queue, { noAck: true })))
  equal(bodies(messages), queues, 'messages')
}))

scenario('ipv4_and_ipv6', () => URL_V6 ? connected((v4) => connected(async (v6) => {
  const receiving = await channelOf(v6)
  const queue = name()
  await receiving.queueDeclare(queue, { autoDelete: true, durable: false })
  await publish(await channelOf(v4), queue, 'over v4')
  equal(bodies(await take(receiving, queue, 1)), ['over v4'], 'received over IPv6')
}, { url: URL_V6 })) : skip('no IPv6 address'))

// This library sends a heartbeat when one arrives and never on its own, and gives up after one interval without anything: it depends on the
// broker's heartbeats coming twice an interval.
scenario('heartbeat_idle', () => connected(async (client) => {
  const channel = await channelOf(client)
  const queue = await exclusiveQueue(channel)
  equal(client.heartbeat, 2, 'heartbeat')
  await pause(9000)
  await publish(channel, queue, 'still here')
  equal(bodies(await take(channel, queue, 1)), ['still here'], 'after several idle intervals')
}, { query: '?heartbeat=2' }))

onChannel('dead_peer_detection', async (channel) => {
  const queue = name()
  await channel.queueDeclare(queue, { durable: false })
  await connected(async (silent) => {
    await publish(channel, queue, 'unacked')
    const taking = await channelOf(silent)
    await eventually(() => taking.basicGet(queue, { noAck: false }), 'the message at the silent peer')
    silent.send = () => Promise.resolve()
    const message = await eventually(() => channel.basicGet(queue, { noAck: true }), 'the message of a silent peer to come back')
    equal([message.bodyString(), message.redelivered], ['unacked', true], 'message')
    await eventually(() => silent.gone, 'the connection of the silent peer to be closed')
  }, { query: '?heartbeat=1' })
  await channel.queueDelete(queue)
}, { confirms: true })

/** `action` on a new channel closes it with `code`; the connection and its other channels go on. */
const expectChannelError = (code, text, action) => connected(async (client) => {
  const channel = await channelOf(client)
  Promise.resolve(action(channel)).catch(() => {})
  const error = await eventually(() => channel.errors[0], `a channel error ${code}`)
  contains(error, text, 'reply text')
  check(error.endsWith(`(${code})`), `reply code: expected ${code} in ${error}`)
  check(channel.closed, 'the channel has to be closed')
  check(!client.closed && client.errors.length === 0, 'the connection has to stay open')
  const other = await channelOf(client)
  const queue = await exclusiveQueue(other)
  await publish(other, queue, 'ok')
  equal(bodies(await take(other, queue, 1)), ['ok'], 'on another channel')
})

const expectConnectionError = (code, text, action) => connected(async (client) => {
  Promise.resolve(action(await channelOf(client))).catch(() => {})
  const { message } = await eventually(() => client.errors[0], `a connection error ${code}`)
  contains(message, text, 'reply text')
  check(message.endsWith(`(${code})`), `reply code: expected ${code} in ${message}`)
  await eventually(() => client.closed, 'the connection to be closed')
})

scenario('error_404', async () => {
  const missing = name('missing')
  const noQueue = `NOT_FOUND - no queue '${missing}' in vhost '/'`
  const noExchange = `NOT_FOUND - no exchange '${missing}' in vhost '/'`
  await expectChannelError(404, noQueue, (c) => state(c, missing))
  await expectChannelError(404, noQueue, (c) => c.basicConsume(missing, {}, () => {}))
  await expectChannelError(404, noExchange, (c) => c.basicPublish(missing, 'k', ''))
  await expectChannelError(404, noExchange, async (c) => c.queueBind(await exclusiveQueue(c), missing, 'k'))
})

scenario('error_406', async () => {
  const queue = name()
  await expectChannelError(406,
    `PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue '${queue}' in vhost '/': received '2000' but current is '1000'`, async (c) => {
      await c.queueDeclare(queue, { exclusive: true }, { 'x-message-ttl': 1000 })
      await c.queueDeclare(queue, { exclusive: true }, { 'x-message-ttl': 2000 })
    })
  await expectChannelError(406, 'PRECONDITION_FAILED - unknown delivery tag 82', (c) => c.basicAck(82))
  await expectChannelError(406, 'PRECONDITION_FAILED - cannot switch from tx to confirm mode', async (c) => {
    await c.txSelect()
    await c.confirmSelect()
  })
  await expectChannelError(406, 'PRECONDITION_FAILED - channel is not transactional', (c) => c.txCommit())
})

scenario('error_403', async () => {
  await expectChannelError(403, "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'", (c) => c.queueDeclare('amq.mine'))
  await expectChannelError(403, 'ACCESS_REFUSED - operation not permitted on the default exchange', async (c) => c.queueBind(await exclusiveQueue(c), '', 'k'))
  await expectChannelError(403, 'ACCESS_REFUSED - queue', async (c) => {
    const queue = await exclusiveQueue(c)
    await c.basicConsume(queue, { exclusive: true }, () => {})
    await c.basicConsume(queue, {}, () => {})
  })
  const refused = await errorOf(() => connected(() => {}, { url: URL.replace('guest:guest', 'guest:wrong') }))
  contains(refused.message, 'ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN', 'refused login')
})

scenario('error_405', () => connected(async (owner) => {
  const queue = name()
  await (await channelOf(owner)).queueDeclare(queue, { exclusive: true })
  const text = `RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '${queue}' in vhost '/'`
  await expectChannelError(405, text, (c) => c.queueDeclare(queue, { exclusive: true }))
  await expectChannelError(405, text, (c) => c.basicConsume(queue, {}, () => {}))
  await expectChannelError(405, text, (c) => c.queuePurge(queue))
}))

scenario('error_530', async () => {
  await expectConnectionError(530, "NOT_ALLOWED - attempt to reuse consumer tag 'tag'", async (c) => {
    const queue = await exclusiveQueue(c)
    await c.basicConsume(queue, { tag: 'tag' }, () => {})
    await c.basicConsume(queue, { tag: 'tag' }, () => {})
  })
  const refused = await errorOf(() => connected(() => {}, { url: `${URL}no-such-vhost` }))
  contains(refused.message, 'NOT_ALLOWED - vhost no-such-vhost not found', 'refused virtual host')
})

scenario('error_540', async () => {
  await expectConnectionError(540, 'NOT_IMPLEMENTED - immediate=true', (c) => c.basicPublish('', 'k', '', {}, false, true))
  await expectConnectionError(540, 'NOT_IMPLEMENTED - prefetch_size!=0 (10)', (c) => c.basicQos(1, 10))
  await expectConnectionError(540, 'NOT_IMPLEMENTED - requeue=false', (c) => c.basicRecover(false))
  await expectConnectionError(540, 'NOT_IMPLEMENTED - active=false', (c) => c.basicFlow(false))
})

onChannel('quorum_queue', async (channel) => {
  const queue = name('quorum')
  await channel.queueDeclare(queue, { durable: true }, { 'x-queue-type': 'quorum' })
  await within(channel.basicPublish('', queue, 'counted', { deliveryMode: 2 }), 'the confirm')
  await channel.prefetch(10)
  const received = await collect(channel, queue)
  await eventually(() => received.length >= 1, 'the first delivery')
  equal(received[0].properties.headers?.['x-delivery-count'], undefined, 'x-delivery-count of the first delivery')
  await received[0].nack(true)
  await eventually(() => received.length >= 2, 'the second delivery')
  const message = received[1]
  equal([message.bodyString(), message.redelivered, Number(message.properties.headers['x-delivery-count'])], ['counted', true, 1], 'second delivery')
  await message.ack()
  await channel.queueDelete(queue)
}, { confirms: true })

scenario('recovery_after_kill', async () => {
  needBrokerControl()
  const count = Math.max(1, Math.floor(MESSAGES / 10))
  let connects = 0
  const session = await within(AMQPSession.connect(URL, { reconnectInterval: 50, maxReconnectInterval: 500, onconnect: () => connects++ }), 'the session')
  session.client.onerror = () => {}
  try {
    const queue = await session.queue(name('recovery'), { durable: true })
    const watched = await session.queue(name('watched'), { durable: true })
    const seen = []
    await watched.subscribe({ noAck: true }, (message) => { seen.push(message.bodyString()) })
    await within(Promise.all(numbers(count).map((i) => queue.publish(i, { deliveryMode: 2 }))), 'confirms', 60_000)
    await killAndRestartBroker()
    await eventually(() => connects === 2, 'the library to reconnect', 30_000)
    // The library subscribes again by itself.
    await within(watched.publish('recovered subscription', { deliveryMode: 2 }), 'the confirm')
    await eventually(() => seen.length, 'a message for the recovered subscription')
    const received = []
    await queue.subscribe({ noAck: true }, (message) => { received.push(message) })
    await eventually(() => received.length >= count, `${count} messages`)
    equal(bodies(received), numbers(count), 'messages after the restart')
    await queue.delete()
    await watched.delete()
  } finally {
    await session.stop()
  }
})

await main()
