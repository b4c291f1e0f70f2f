// amqplib: the promise API, and its own recovery.
import { readFileSync } from 'node:fs'
import {
  FRAME_MAX, HEADER_MESSAGES, MESSAGES, TOPIC_KEYS, TOPIC_MATCHES, URL, URL_V6, bodyOf, bodySizes, check, contains, equal, errorOf, eventually,
  fibonacci, killAndRestartBroker, library, main, name, needBrokerControl, pause, scenario, skip, skipped, within,
} from '../lib/node/interop.mjs'

const amqp = library('amqplib')
// Below the API, for what it keeps from sending.
const defs = library(`${process.env.INTEROP_WORK}/node_modules/amqplib/lib/defs.js`)

/** Runs `use` with a connection whose errors are collected in `errors`. */
async function connected(use, { url = URL, query = '', options } = {}) {
  const connection = await within(amqp.connect(url + query, options), 'the connection')
  connection.errors = []
  connection.closed = false
  connection.on('error', (error) => connection.errors.push(error))
  connection.on('close', () => { connection.closed = true })
  try {
    return await use(connection)
  } finally {
    if (!connection.closed) await within(connection.close(), 'the connection to close').catch(() => {})
  }
}

async function channelOf(connection, kind = 'createChannel') {
  const channel = await connection[kind]()
  channel.errors = []
  channel.on('error', (error) => channel.errors.push(error))
  channel.on('close', () => { channel.closed = true })
  return channel
}

/** Registers a scenario that needs one channel of one connection. */
const onChannel = (scenarioName, run, kind) =>
  scenario(scenarioName, () => connected(async (connection) => run(await channelOf(connection, kind), connection)))

const exclusiveQueue = async (channel, options = {}) => (await channel.assertQueue('', { exclusive: true, ...options })).queue

function publish(channel, queue, ...bodies) {
  for (const body of bodies) channel.sendToQueue(queue, Buffer.from(body))
}

/** Starts a consumer; the array fills with its messages. */
async function collect(channel, queue, options = {}) {
  const received = []
  received.tag = (await channel.consume(queue, (message) => received.push(message), options)).consumerTag
  return received
}

async function take(channel, queue, count) {
  const received = await collect(channel, queue, { noAck: true })
  await eventually(() => received.length >= count, `${count} messages`)
  await channel.cancel(received.tag)
  equal(received.length, count, 'messages')
  return received
}

const bodies = (messages) => messages.map((message) => message.content.toString())
const numbers = (count) => Array.from({ length: count }, (_, i) => String(i))

onChannel('hello_world', async (channel) => {
  const queue = await exclusiveQueue(channel)
  publish(channel, queue, 'Hello World!')
  const [message] = await take(channel, queue, 1)
  equal(message.content, Buffer.from('Hello World!'), 'body')
  const { exchange, routingKey, redelivered } = message.fields
  equal({ exchange, routingKey, redelivered }, { exchange: '', routingKey: queue, redelivered: false }, 'deliver')
})

onChannel('work_queue_fair_dispatch', async (channel, connection) => {
  const queue = await exclusiveQueue(channel)
  const other = await channelOf(connection)
  await channel.prefetch(1)
  await other.prefetch(1)
  const slow = await collect(channel, queue)
  const quick = []
  await other.consume(queue, (message) => {
    quick.push(message)
    other.ack(message)
  })
  const tasks = numbers(20)
  publish(channel, queue, ...tasks)
  await eventually(() => quick.length >= 19, '19 messages at the quick worker')
  await channel.checkQueue(queue)
  equal(slow.length, 1, 'messages at the worker that holds its first')
  equal(bodies([...slow, ...quick]).sort(), [...tasks].sort(), 'tasks')
  channel.ack(slow[0])
})

onChannel('publish_subscribe', async (channel) => {
  const { exchange } = await channel.assertExchange(name('logs'), 'fanout', { durable: false, autoDelete: true })
  const queues = [await exclusiveQueue(channel), await exclusiveQueue(channel)]
  for (const queue of queues) {
    check(queue.startsWith('amq.gen-'), `server-named queue is called ${queue}`)
    await channel.bindQueue(queue, exchange, '')
  }
  for (const i of numbers(100)) channel.publish(exchange, `ignored ${i}`, Buffer.from(i))
  for (const queue of queues) {
    const messages = await take(channel, queue, 100)
    equal(bodies(messages), numbers(100), 'bodies')
    equal(messages[7].fields.exchange, exchange, 'exchange')
  }
})

onChannel('routing', async (channel) => {
  const { exchange } = await channel.assertExchange(name('direct'), 'direct', { durable: false, autoDelete: true })
  const [errors, everything] = [await exclusiveQueue(channel), await exclusiveQueue(channel)]
  await channel.bindQueue(errors, exchange, 'error')
  for (const key of ['info', 'warning', 'error']) await channel.bindQueue(everything, exchange, key)
  for (const key of ['info', 'warning', 'error', 'debug', 'errors', 'Error']) channel.publish(exchange, key, Buffer.from(key))
  equal(bodies(await take(channel, errors, 1)), ['error'], 'queue bound with error')
  equal(bodies(await take(channel, everything, 3)), ['info', 'warning', 'error'], 'queue bound with three keys')
  await channel.unbindQueue(everything, exchange, 'info')
  channel.publish(exchange, 'info', Buffer.from('late'))
  channel.publish(exchange, 'error', Buffer.from('last'))
  equal(bodies(await take(channel, everything, 1)), ['last'], 'after unbind')
})

onChannel('topics', async (channel) => {
  const { exchange } = await channel.assertExchange(name('topic'), 'topic', { durable: false, autoDelete: true })
  const queues = []
  for (const [keys] of TOPIC_MATCHES) {
    const queue = await exclusiveQueue(channel)
    queues.push(queue)
    for (const key of keys) await channel.bindQueue(queue, exchange, key)
  }
  for (const key of TOPIC_KEYS) channel.publish(exchange, key, Buffer.from(key))
  for (const [i, [keys, expected]] of TOPIC_MATCHES.entries()) {
    equal(bodies(await take(channel, queues[i], expected.length)), expected, `queue bound with ${keys}`)
  }
})

onChannel('headers', async (channel) => {
  const { exchange } = await channel.assertExchange(name('headers'), 'headers', { durable: false, autoDelete: true })
  const [all, any] = [await exclusiveQueue(channel), await exclusiveQueue(channel)]
  await channel.bindQueue(all, exchange, '', { 'x-match': 'all', format: 'pdf', pages: 3 })
  await channel.bindQueue(any, exchange, '', { 'x-match': 'any', format: 'pdf', pages: 3 })
  for (const [body, headers] of HEADER_MESSAGES) channel.publish(exchange, '', Buffer.from(body), { headers })
  equal(bodies(await take(channel, all, 1)), ['both'], 'x-match all')
  equal(bodies(await take(channel, any, 2)), ['both', 'one'], 'x-match any')
})

/** A fib(n) server on its own channel; asks it and compares. */
async function rpc(channel, connection, replies, replyTo) {
  const server = await channelOf(connection)
  const queue = await exclusiveQueue(server)
  await server.consume(queue, (message) => {
    const { replyTo: to, correlationId } = message.properties
    server.sendToQueue(to, Buffer.from(String(fibonacci(Number(message.content)))), { correlationId })
    server.ack(message)
  })
  const received = await collect(channel, replies, { noAck: true })
  const asked = [0, 1, 10, 30, 90]
  for (const n of asked) channel.sendToQueue(queue, Buffer.from(String(n)), { replyTo, correlationId: `c-${n}` })
  await eventually(() => received.length >= asked.length, 'replies')
  equal(Object.fromEntries(received.map((m) => [m.properties.correlationId, m.content.toString()])),
    Object.fromEntries(asked.map((n) => [`c-${n}`, String(fibonacci(n))])), 'replies')
  return received
}

onChannel('rpc_reply_queue', async (channel, connection) => {
  const replies = await exclusiveQueue(channel)
  await rpc(channel, connection, replies, replies)
})

onChannel('rpc_direct_reply_to', async (channel, connection) => {
  const [{ fields }] = await rpc(channel, connection, 'amq.rabbitmq.reply-to', 'amq.rabbitmq.reply-to')
  equal(fields.exchange, '', 'exchange')
  check(fields.routingKey.startsWith('amq.rabbitmq.reply-to.'), `routing key of the reply is ${fields.routingKey}`)
})

async function confirmRun(channel, count, batch) {
  const { queue } = await channel.assertQueue(name(), { durable: true })
  let confirmed = 0
  for (let start = 0; start < count; start += batch) {
    for (let i = start; i < Math.min(start + batch, count); i++) {
      channel.sendToQueue(queue, Buffer.from(String(i)), { persistent: true }, (error) => { if (!error) confirmed++ })
      // Lets the socket be written to, as an application under load would.
      if (i % 1000 === 999) await new Promise(setImmediate)
    }
    await within(channel.waitForConfirms(), 'confirms', 60_000)
    equal(confirmed, Math.min(start + batch, count), 'confirmed')
  }
  equal((await channel.checkQueue(queue)).messageCount, count, 'message count')
  return queue
}

for (const [scenarioName, count, batch] of [['confirms_single', 100, 1], ['confirms_batch', 1000, 100], ['confirms_async_50000', MESSAGES, MESSAGES]]) {
  onChannel(scenarioName, async (channel) => channel.deleteQueue(await confirmRun(channel, count, batch)), 'createConfirmChannel')
}

onChannel('mandatory_return', async (channel) => {
  const [queue, nowhere, seen] = [await exclusiveQueue(channel), name('nowhere'), []]
  channel.on('return', (message) => seen.push(message))
  const send = (key, body, options) => new Promise((resolve, reject) => {
    channel.sendToQueue(key, Buffer.from(body), options, (error) => (error ? reject(error) : resolve(seen.push(`confirm of ${body}`))))
  })
  await within(send(queue, 'arrives', { mandatory: true }), 'confirm')
  await within(send(nowhere, 'comes back', { mandatory: true, messageId: 'm1' }), 'confirm')
  await within(send(nowhere, 'dropped', {}), 'confirm')
  const [returned] = seen.splice(1, 1)
  equal(seen, ['confirm of arrives', 'confirm of comes back', 'confirm of dropped'], 'order of return and confirms')
  const { replyCode, replyText, exchange, routingKey } = returned.fields
  equal({ replyCode, replyText, exchange, routingKey }, { replyCode: 312, replyText: 'NO_ROUTE', exchange: '', routingKey: nowhere }, 'return')
  equal([returned.content.toString(), returned.properties.messageId], ['comes back', 'm1'], 'content')
  equal(bodies(await take(channel, queue, 1)), ['arrives'], 'queue')
}, 'createConfirmChannel')

onChannel('basic_get', async (channel) => {
  const queue = await exclusiveQueue(channel)
  equal(await channel.get(queue), false, 'get of an empty queue')
  publish(channel, queue, '0', '1', '2')
  await channel.waitForConfirms()
  const messages = [await channel.get(queue), await channel.get(queue), await channel.get(queue)]
  equal(messages.map(({ content, fields: f }) => [String(content), f.messageCount, f.deliveryTag, f.redelivered]),
    [['0', 2, 1, false], ['1', 1, 2, false], ['2', 0, 3, false]], 'get-ok')
  channel.ackAll()
  equal(await channel.get(queue), false, 'get after all acks')
}, 'createConfirmChannel')

onChannel('nack_requeue_redelivered', async (channel) => {
  const { exchange } = await channel.assertExchange(name('dlx'), 'fanout', { durable: false, autoDelete: true })
  const dead = await exclusiveQueue(channel)
  await channel.bindQueue(dead, exchange, '')
  const queue = await exclusiveQueue(channel, { deadLetterExchange: exchange })
  publish(channel, queue, '0', '1', '2')
  await channel.waitForConfirms()
  channel.nack(await channel.get(queue), false, true)
  const seen = [await channel.get(queue), await channel.get(queue), await channel.get(queue)]
  equal(seen.map(({ content, fields }) => [String(content), fields.redelivered]), [['0', true], ['1', false], ['2', false]], 'after the requeue')
  channel.nack(seen[0], false, false)
  channel.reject(seen[1], false)
  channel.ack(seen[2])
  const messages = await take(channel, dead, 2)
  equal(bodies(messages), ['0', '1'], 'dead-lettered')
  const { fields, properties } = messages[0]
  equal([fields.exchange, fields.routingKey, fields.redelivered], [exchange, queue, false], 'dead-lettered deliver')
  const [{ time, ...death }] = properties.headers['x-death']
  equal(death, { count: 1, reason: 'rejected', queue, exchange: '', 'routing-keys': [queue] }, 'x-death')
  equal(time['!'], 'timestamp', 'type of the time of death')
}, 'createConfirmChannel')

onChannel('prefetch_1_and_100', async (channel, connection) => {
  for (const prefetch of [1, 100]) {
    const queue = await exclusiveQueue(channel)
    publish(channel, queue, ...numbers(250))
    const consuming = await channelOf(connection)
    await consuming.prefetch(prefetch)
    const received = await collect(consuming, queue)
    for (let settled = 0; settled < 250;) {
      const window = Math.min(prefetch, 250 - settled)
      await eventually(() => received.length >= settled + window, `${window} more messages`)
      // Had the broker sent more than the window, they would be here after a round trip.
      await consuming.checkQueue(queue)
      equal(received.length - settled, window, `messages in a window of ${prefetch}`)
      settled += window
      consuming.ack(received.at(-1), true)
    }
    equal(bodies(received), numbers(250), 'order')
    await consuming.close()
    equal((await channel.checkQueue(queue)).messageCount, 0, 'messages left')
  }
})

onChannel('consumer_cancel_and_queue_deletion', async (channel, connection) => {
  const { queue } = await channel.assertQueue(name(), { durable: false })
  const first = await collect(channel, queue, { noAck: true })
  publish(channel, queue, 'before')
  await eventually(() => first.length, 'the first message')
  await channel.cancel(first.tag)
  publish(channel, queue, 'after')
  await eventually(async () => {
    const { messageCount, consumerCount } = await channel.checkQueue(queue)
    return messageCount === 1 && consumerCount === 0
  }, '1 message and no consumer after cancel')
  equal(bodies(first), ['before'], 'received')
  const second = await collect(channel, queue, { noAck: true })
  await eventually(() => second.length, 'the second message')
  await (await channelOf(connection)).deleteQueue(queue)
  await eventually(() => second.length === 2, 'basic.cancel from the broker')
  equal(second[1], null, 'what the library reports for basic.cancel')
  await exclusiveQueue(channel)
})

onChannel('exclusive_and_auto_delete', async (channel) => {
  const exclusive = name('exclusive')
  await connected(async (owner) => {
    await (await channelOf(owner)).assertQueue(exclusive, { exclusive: true })
    await expectChannelError(405, 'cannot obtain exclusive access to locked queue', (c) => c.checkQueue(exclusive))
  })
  await expectChannelError(404, `no queue '${exclusive}' in vhost '/'`, (c) => c.checkQueue(exclusive))
  const { queue } = await channel.assertQueue(name('auto-delete'), { autoDelete: true, durable: false })
  const consumers = [await collect(channel, queue), await collect(channel, queue)]
  await channel.cancel(consumers[0].tag)
  equal((await channel.checkQueue(queue)).consumerCount, 1, 'consumers')
  await channel.cancel(consumers[1].tag)
  await expectChannelError(404, 'no queue', (c) => c.checkQueue(queue))
})

skipped('transactions', 'the library has no tx methods')

onChannel('properties_and_header_types_round_trip', async (channel) => {
  const queue = await exclusiveQueue(channel)
  const headers = {
    string: 'grüße', empty: '', byte: -5, short: 3000, int: 2 ** 31 - 1, long: -(2 ** 40), double: 3.25, true: true, false: false,
    uint8: { '!': 'uint8', value: 200 }, uint16: { '!': 'uint16', value: 60000 }, uint32: { '!': 'uint32', value: 4e9 }, float: { '!': 'float', value: 1.5 },
    decimal: { '!': 'decimal', value: { places: 2, digits: 314 } }, time: { '!': 'timestamp', value: 1700000000 }, bytes: Buffer.from([0, 255]),
    table: { inner: { deep: 'x', n: 1 }, list: [1, 'two', { three: 3 }] }, array: ['a', 1, true, ['nested'], { k: 'v' }], void: null,
  }
  const sent = {
    contentType: 'application/json', contentEncoding: 'gzip', headers, deliveryMode: 2, priority: 9, correlationId: 'c-1', replyTo: 'some.queue',
    expiration: '60000', messageId: 'm-1', timestamp: 1700000000, type: 't', userId: 'guest', appId: 'interop',
  }
  channel.sendToQueue(queue, Buffer.from('x'), sent)
  channel.sendToQueue(queue, Buffer.from('y'))
  const [full, bare] = await take(channel, queue, 2)
  // The library gives these back as plain numbers.
  const expected = { ...headers, uint8: 200, uint16: 60000, uint32: 4e9, float: 1.5 }
  for (const key of Object.keys(sent)) equal(full.properties[key], key === 'headers' ? expected : sent[key], key)
  equal(bare.properties.headers, {}, 'headers of a message without any')
  for (const [key, value] of Object.entries(bare.properties)) check(key === 'headers' || key === 'deliveryMode' || value === undefined, `${key} is ${value}`)
})

onChannel('body_sizes', async (channel) => {
  const queue = await exclusiveQueue(channel)
  equal(channel.connection.frameMax, FRAME_MAX, 'frame_max')
  for (const size of bodySizes) {
    const body = bodyOf(size)
    channel.sendToQueue(queue, body)
    const [{ content }] = await take(channel, queue, 1)
    check(body.equals(content), `a body of ${size} bytes came back different (${content.length} bytes)`)
  }
})

scenario('thousand_queues_200_channels', () => connected(async (connection) => {
  const channels = await Promise.all(Array.from({ length: 200 }, () => channelOf(connection, 'createConfirmChannel')))
  const queues = await Promise.all(numbers(1000).map((i) => exclusiveQueue(channels[i % 200])))
  queues.forEach((queue, i) => publish(channels[i % 200], queue, queue))
  await Promise.all(channels.map((channel) => channel.waitForConfirms()))
  const messages = await Promise.all(queues.map((queue, i) => channels[i % 200].get(queue, { noAck: true })))
  equal(bodies(messages), queues, 'messages')
}))

scenario('ipv4_and_ipv6', () => URL_V6 ? connected((v4) => connected(async (v6) => {
  const receiving = await channelOf(v6)
  const { queue } = await receiving.assertQueue(name(), { autoDelete: true, durable: false })
  publish(await channelOf(v4), queue, 'over v4')
  equal(bodies(await take(receiving, queue, 1)), ['over v4'], 'received over IPv6')
}, { url: URL_V6 })) : skip('no IPv6 address'))

scenario('heartbeat_idle', () => connected(async (connection) => {
  const channel = await channelOf(connection)
  const queue = await exclusiveQueue(channel)
  await pause(5000)
  publish(channel, queue, 'still here')
  equal(bodies(await take(channel, queue, 1)), ['still here'], 'after 5 idle intervals')
}, { query: '?heartbeat=1' }))

onChannel('dead_peer_detection', async (channel) => {
  const { queue } = await channel.assertQueue(name(), { durable: false })
  await connected(async (silent) => {
    publish(channel, queue, 'unacked')
    const taking = await channelOf(silent)
    await eventually(() => taking.get(queue), 'the message at the silent peer')
    // Without its timers the library neither sends heartbeats nor looks for the broker's.
    silent.connection.heartbeater.clear()
    const message = await eventually(() => channel.get(queue, { noAck: true }), 'the message of a silent peer to come back')
    equal([message.content.toString(), message.fields.redelivered], ['unacked', true], 'message')
    await eventually(() => silent.closed, 'the connection of the silent peer to be closed')
  }, { query: '?heartbeat=1' })
  await channel.deleteQueue(queue)
})

/** `action` on a new channel closes it with `code`; the connection and its other channels go on. */
const expectChannelError = (code, text, action) => connected(async (connection) => {
  const channel = await channelOf(connection)
  // The library rejects the pending call and raises `error`; a publish or an ack has no call to reject.
  Promise.resolve(action(channel)).catch(() => {})
  const error = await eventually(() => channel.errors[0], `a channel error ${code}`)
  equal(error.code, code, 'reply code')
  contains(error.message, text, 'reply text')
  await eventually(() => channel.closed, 'the channel to be closed')
  equal(connection.errors, [], 'connection errors')
  const other = await channelOf(connection)
  const queue = await exclusiveQueue(other)
  publish(other, queue, 'ok')
  equal(bodies(await take(other, queue, 1)), ['ok'], 'on another channel')
})

const expectConnectionError = (code, text, action) => connected(async (connection) => {
  Promise.resolve(action(await channelOf(connection))).catch(() => {})
  const error = await eventually(() => connection.errors[0], `a connection error ${code}`)
  equal(error.code, code, 'reply code')
  contains(error.message, text, 'reply text')
  await eventually(() => connection.closed, 'the connection to be closed')
})

scenario('error_404', async () => {
  const missing = name('missing')
  await expectChannelError(404, `NOT_FOUND - no queue '${missing}' in vhost '/'`, (c) => c.checkQueue(missing))
  await expectChannelError(404, `NOT_FOUND - no queue '${missing}' in vhost '/'`, (c) => c.consume(missing, () => {}))
  await expectChannelError(404, `NOT_FOUND - no exchange '${missing}' in vhost '/'`, (c) => c.publish(missing, 'k', Buffer.alloc(0)))
  await expectChannelError(404, `NOT_FOUND - no exchange '${missing}' in vhost '/'`, async (c) => c.bindQueue(await exclusiveQueue(c), missing, 'k'))
})

scenario('error_406', async () => {
  const queue = name()
  await expectChannelError(406,
    `PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue '${queue}' in vhost '/': received '20' but current is '10'`, async (c) => {
      await c.assertQueue(queue, { exclusive: true, maxLength: 10 })
      await c.assertQueue(queue, { exclusive: true, maxLength: 20 })
    })
  await expectChannelError(406, 'PRECONDITION_FAILED - unknown delivery tag 82', (c) => c.ack({ fields: { deliveryTag: 82 } }))
  await expectChannelError(406, "PRECONDITION_FAILED - invalid expiration 'abc': no_integer", (c) => c.sendToQueue('q', Buffer.from('x'), { expiration: 'abc' }))
})

scenario('error_403', async () => {
  await expectChannelError(403, "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'", (c) => c.assertQueue('amq.mine'))
  await expectChannelError(403, 'ACCESS_REFUSED - operation not permitted on the default exchange', async (c) => c.bindQueue(await exclusiveQueue(c), '', 'k'))
  await expectChannelError(403, 'in exclusive use', async (c) => {
    const queue = await exclusiveQueue(c)
    await c.consume(queue, () => {}, { exclusive: true })
    await c.consume(queue, () => {})
  })
  const refused = await errorOf(() => amqp.connect(URL.replace('guest:guest', 'guest:wrong')))
  contains(refused.message, 'ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN', 'refused login')
})

scenario('error_405', () => connected(async (owner) => {
  const { queue } = await (await channelOf(owner)).assertQueue(name(), { exclusive: true })
  const text = `RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '${queue}' in vhost '/'`
  await expectChannelError(405, text, (c) => c.assertQueue(queue, { exclusive: true }))
  await expectChannelError(405, text, (c) => c.consume(queue, () => {}))
  await expectChannelError(405, text, (c) => c.purgeQueue(queue))
}))

scenario('error_530', async () => {
  await expectConnectionError(530, "NOT_ALLOWED - attempt to reuse consumer tag 'tag'", async (c) => {
    const queue = await exclusiveQueue(c)
    await c.consume(queue, () => {}, { consumerTag: 'tag' })
    await c.consume(queue, () => {}, { consumerTag: 'tag' })
  })
  const refused = await errorOf(() => amqp.connect(`${URL}no-such-vhost`))
  // The library expects nothing but open-ok there and does not read the text of the close.
  contains(refused.message, 'ConnectionClose', 'refused virtual host')
})

scenario('error_540', () => connected(async (connection) => {
  // The API offers neither a prefetch size nor immediate; this is the call below it.
  const prefetchSize = (c) => c.rpc(defs.BasicQos, { prefetchSize: 10, prefetchCount: 0, global: false }, defs.BasicQosOk)
  await expectConnectionError(540, 'NOT_IMPLEMENTED - prefetch_size!=0 (10)', prefetchSize)
  check(!connection.closed, 'another connection was closed')
}))

onChannel('quorum_queue', async (channel) => {
  const { queue } = await channel.assertQueue(name('quorum'), { durable: true, arguments: { 'x-queue-type': 'quorum' } })
  channel.sendToQueue(queue, Buffer.from('counted'), { persistent: true })
  await within(channel.waitForConfirms(), 'the confirm')
  await channel.prefetch(10)
  const received = await collect(channel, queue)
  await eventually(() => received.length >= 1, 'the first delivery')
  equal(received[0].properties.headers['x-delivery-count'], undefined, 'x-delivery-count of the first delivery')
  channel.nack(received[0], false, true)
  await eventually(() => received.length >= 2, 'the second delivery')
  const { content, fields, properties } = received[1]
  equal([content.toString(), fields.redelivered, properties.headers['x-delivery-count']], ['counted', true, 1], 'second delivery')
  channel.ack(received[1])
  await channel.deleteQueue(queue)
}, 'createConfirmChannel')

scenario('deduplication', async () => {
  needBrokerControl()
  const [queue, behind, exchange] = [name('once'), name('behind'), name('once-x')]
  const once = { durable: true, arguments: { 'x-message-deduplication': true, 'x-cache-size': 1000, 'x-cache-ttl': 3600000 } }
  const publishAll = (body) => connected(async (connection) => {
    const channel = await channelOf(connection, 'createConfirmChannel')
    for (const id of ['order 1', 2, 'order 1', 2]) {
      const options = { persistent: true, mandatory: true, headers: { 'x-deduplication-header': id } }
      channel.sendToQueue(queue, Buffer.from(body), options)
      channel.publish(exchange, 'any', Buffer.from(body), options)
    }
    await within(channel.waitForConfirms(), 'the confirms')
  })
  await connected(async (connection) => {
    const channel = await channelOf(connection)
    await channel.assertQueue(queue, once)
    await channel.assertQueue(queue, once)
    await channel.assertExchange(exchange, 'fanout', once)
    await channel.assertQueue(behind, { durable: true })
    await channel.bindQueue(behind, exchange, '')
  })
  await publishAll('first try')
  await killAndRestartBroker()
  await publishAll('second try')
  await connected(async (connection) => {
    const channel = await channelOf(connection)
    for (const target of [queue, behind]) {
      equal((await channel.checkQueue(target)).messageCount, 2, `messages in ${target}`)
      equal(bodies(await take(channel, target, 2)), ['first try', 'first try'], `messages of ${target}`)
      await channel.deleteQueue(target)
    }
    await channel.deleteExchange(exchange)
  })
})

onChannel('delayed_messages', async (channel) => {
  needBrokerControl() // RabbitMQ needs a plugin for this.
  const { exchange } = await channel.assertExchange(name('delayed'), 'x-delayed-message', {
    autoDelete: true, durable: false, arguments: { 'x-delayed-type': 'direct' },
  })
  const queue = await exclusiveQueue(channel)
  await channel.bindQueue(queue, exchange, 'k')
  for (const delay of [300, 100, 200, 0]) channel.publish(exchange, 'k', Buffer.from(String(delay)), { headers: { 'x-delay': delay } })
  const messages = await take(channel, queue, 4)
  equal(bodies(messages), ['0', '100', '200', '300'], 'messages by their time')
  equal(messages.map(({ properties }) => properties.headers['x-delay'] + 0), [0, -100, -200, -300], 'x-delay')
})

onChannel('retries', async (channel) => {
  needBrokerControl() // RabbitMQ has these arguments on quorum queues only.
  const dead = await exclusiveQueue(channel)
  const queue = await exclusiveQueue(channel, {
    arguments: {
      'x-delayed-retry-type': 'all', 'x-delayed-retry-min': 50, 'x-delayed-retry-max': 80, 'x-delivery-limit': 2,
      'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': dead,
    },
  })
  publish(channel, queue, 'work')
  const received = await collect(channel, queue)
  for (let count = 0; count < 3; count++) {
    await eventually(() => received.length > count, `attempt ${count + 1}`)
    equal(received[count].properties.headers['x-delivery-count'] ?? 0, count, 'x-delivery-count')
    channel.reject(received[count], true)
  }
  const [letter] = await take(channel, dead, 1)
  equal([letter.content.toString(), letter.properties.headers['x-first-death-reason']], ['work', 'delivery_limit'], 'dead letter')
})

const readyOf = async (channel, queue) => (await channel.checkQueue(queue)).messageCount
const untilReady = (channel, queue, count) =>
  eventually(async () => await readyOf(channel, queue) === count, `${count} messages in ${queue}`)

/** An exclusive queue with a dead-letter queue. */
async function withLetters(channel, args) {
  const dead = await exclusiveQueue(channel)
  const routed = { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': dead }
  return [await exclusiveQueue(channel, { arguments: { ...routed, ...args } }), dead]
}

/** The one letter of a queue: its body and what the newest entry of x-death says. */
async function death(channel, dead) {
  await untilReady(channel, dead, 1)
  const [message] = await take(channel, dead, 1)
  const { reason, count } = message.properties.headers['x-death'][0]
  return [message.content.toString(), reason, count]
}

onChannel('ttl', async (channel) => {
  const [queue, dead] = await withLetters(channel, { 'x-message-ttl': 60000 })
  channel.sendToQueue(queue, Buffer.from('short'), { expiration: '20' })
  equal(await death(channel, dead), ['short', 'expired', 1], 'the smaller time')
  channel.sendToQueue(queue, Buffer.from('at once'), { expiration: '0' })
  equal(await death(channel, dead), ['at once', 'expired', 1], 'no time')
  publish(channel, queue, 'long')
  await untilReady(channel, queue, 1)
})

onChannel('queue_expiry', async (channel, connection) => {
  const { queue } = await channel.assertQueue(name('expires'), { durable: true, expires: 200 })
  await pause(1000)
  const other = await channelOf(connection)
  contains(await errorOf(() => other.checkQueue(queue)), 'NOT_FOUND - no queue', 'error')
})

onChannel('length_limits', async (channel) => {
  const [queue, dead] = await withLetters(channel, { 'x-max-length': 2 })
  publish(channel, queue, '1', '2', '3')
  equal(await death(channel, dead), ['1', 'maxlen', 1], 'the oldest gives way')
  equal(bodies(await take(channel, queue, 2)), ['2', '3'], 'what stays')
  const octets = await exclusiveQueue(channel, { arguments: { 'x-max-length-bytes': 4 } })
  publish(channel, octets, 'abc', 'de')
  await untilReady(channel, octets, 1)
  const full = await exclusiveQueue(channel, { arguments: { 'x-max-length': 1, 'x-overflow': 'reject-publish' } })
  publish(channel, full, 'first')
  await within(channel.waitForConfirms(), 'the first confirm')
  publish(channel, full, 'refused')
  check(await errorOf(() => channel.waitForConfirms()), 'a nack')
  equal(await readyOf(channel, full), 1, 'messages of the full queue')
}, 'createConfirmChannel')

onChannel('dead_lettering', async (channel) => {
  const { exchange } = await channel.assertExchange(name('dlx'), 'topic', { durable: true, autoDelete: true })
  const dead = await exclusiveQueue(channel)
  await channel.bindQueue(dead, exchange, 'letters.#')
  const queue = await exclusiveQueue(channel, { deadLetterExchange: exchange, deadLetterRoutingKey: 'letters.one' })
  channel.sendToQueue(queue, Buffer.from('x'), { headers: { own: 1 }, messageId: 'm' })
  await untilReady(channel, queue, 1)
  channel.reject(await channel.get(queue), false)
  await untilReady(channel, dead, 1)
  const [{ content, fields, properties }] = await take(channel, dead, 1)
  equal([fields.exchange, fields.routingKey, content.toString(), properties.messageId], [exchange, 'letters.one', 'x', 'm'], 'letter')
  const { headers } = properties
  equal([headers.own, headers['x-first-death-queue'], headers['x-last-death-reason']], [1, queue, 'rejected'], 'headers')
  const [entry] = headers['x-death']
  equal([entry.count, entry.reason, entry.queue, entry.exchange, entry['routing-keys']], [1, 'rejected', queue, '', [queue]], 'x-death')
})

onChannel('priorities', async (channel) => {
  const queue = await exclusiveQueue(channel, { maxPriority: 10 })
  for (const priority of [1, 9, 5, 9, 200]) channel.sendToQueue(queue, Buffer.from(String(priority)), { priority })
  publish(channel, queue, 'none')
  await untilReady(channel, queue, 6)
  equal(bodies(await take(channel, queue, 6)), ['200', '9', '9', '5', '1', 'none'], 'order')
})

onChannel('single_active_consumer', async (channel) => {
  const queue = await exclusiveQueue(channel, { arguments: { 'x-single-active-consumer': true } })
  const first = await collect(channel, queue, { noAck: true })
  const second = await collect(channel, queue, { noAck: true })
  publish(channel, queue, '1', '2')
  await eventually(() => first.length === 2, 'both at the active one')
  await channel.cancel(first.tag)
  publish(channel, queue, '3')
  await eventually(() => second.length === 1, 'the next at the other one')
  equal([bodies(first), bodies(second)], [['1', '2'], ['3']], 'messages')
})

onChannel('consumer_priorities', async (channel) => {
  const queue = await exclusiveQueue(channel)
  await channel.prefetch(1)
  const low = await collect(channel, queue, { priority: -1 })
  const high = await collect(channel, queue, { priority: 10 })
  publish(channel, queue, '1')
  await eventually(() => high.length === 1, 'the first at the better one')
  publish(channel, queue, '2')
  await eventually(() => low.length === 1, 'the second at the other one, as the better one is busy')
  equal([bodies(high), bodies(low)], [['1'], ['2']], 'messages')
})

onChannel('delivery_limit', async (channel) => {
  const dead = await exclusiveQueue(channel)
  const { queue } = await channel.assertQueue(name('limited'), { durable: true, deadLetterExchange: '', deadLetterRoutingKey: dead,
    arguments: { 'x-queue-type': 'quorum', 'x-delivery-limit': 2 } })
  publish(channel, queue, 'x')
  const received = await collect(channel, queue)
  for (const count of [1, 2, 3]) {
    await eventually(() => received.length >= count, `delivery ${count}`)
    channel.nack(received[count - 1], false, true)
  }
  equal(await death(channel, dead), ['x', 'delivery_limit', 1], 'letter')
  await channel.deleteQueue(queue)
})

onChannel('message_groups', async (channel, connection) => {
  const { exchange } = await channel.assertExchange(name('groups'), 'x-consistent-hash', { durable: true, autoDelete: true })
  const received = []
  const workers = await Promise.all([1, 2, 3].map(() => channelOf(connection)))
  for (let partition = 0; partition < 3; partition++) {
    const queue = await exclusiveQueue(channel, { arguments: { 'x-single-active-consumer': true } })
    await channel.bindQueue(queue, exchange, '10')
    for (const worker of workers) {
      await worker.prefetch(5)
      await worker.consume(queue, (message) => {
        received.push([message.fields.routingKey, Number(message.content)])
        worker.ack(message)
      })
    }
  }
  for (let count = 0; count < 300; count++) {
    channel.publish(exchange, `key ${count % 10}`, Buffer.from(String(count)))
    if (count === 150) {
      await eventually(() => received.length > 50, 'half of the messages')
      // Its queues go on with the others; what it had not acknowledged comes back first.
      await workers[0].close()
    }
  }
  await eventually(() => new Set(received.map(([, count]) => count)).size === 300, 'all messages')
  for (const key of new Set(received.map(([key]) => key))) {
    // What came twice, because its acknowledgement was on its way, came in order, too.
    const firsts = [...new Set(received.filter(([of]) => of === key).map(([, count]) => count))]
    equal(firsts, [...firsts].sort((a, b) => a - b), `order of ${key}`)
  }
})

onChannel('acknowledgement_timeout', async (channel, connection) => {
  if (!connection.connection.serverProperties.platform.startsWith('MambaMQ')) skip('other brokers look once a minute')
  const queue = await exclusiveQueue(channel, { arguments: { 'x-consumer-timeout': 300 } })
  const other = await channelOf(connection)
  const received = await collect(channel, queue)
  publish(other, queue, 'late')
  await eventually(() => channel.closed, 'the channel to be closed')
  equal(bodies(received), ['late'], 'what nobody acknowledged')
  contains(channel.errors, 'delivery acknowledgement on channel', 'error')
  const [again] = await take(other, queue, 1)
  equal([again.content.toString(), again.fields.redelivered], ['late', true], 'the message that came back')
})

onChannel('consumer_filter', async (channel) => {
  if (!channel.connection.serverProperties.platform.startsWith('MambaMQ')) skip("x-filter is MambaMQ's own")
  const { queue } = await channel.assertQueue('', { exclusive: true })
  for (const [number, region] of ['eu', 'us', 'eu', 'uk', 'eu'].entries()) {
    channel.sendToQueue(queue, Buffer.from(`${region} ${number}`), { headers: { region } })
  }
  const wanted = await collect(channel, queue, { arguments: { 'x-filter': "headers.region = 'eu'" } })
  await eventually(() => wanted.length >= 3, 'what matches')
  equal(bodies(wanted), ['eu 0', 'eu 2', 'eu 4'], 'filtered messages')
  channel.nack(wanted[1], false, true)
  await eventually(() => wanted.length >= 4, 'the redelivery')
  equal([wanted[3].content.toString(), wanted[3].fields.redelivered], ['eu 2', true], 'the redelivered message')
  channel.ackAll()
  equal(bodies(await take(channel, queue, 2)), ['us 1', 'uk 3'], 'what is left')
})

async function roundTripWithTls(url, options) {
  const port = process.env.AMQPS_PORT ?? skip('no TLS here')
  const connection = await within(amqp.connect(url(port), { ca: [readFileSync(process.env.TLS_CA)], servername: 'localhost', ...options }), 'the connection')
  try {
    const channel = await channelOf(connection)
    const queue = await exclusiveQueue(channel)
    const large = 'x'.repeat(300_000)
    publish(channel, queue, 'hidden', large)
    equal(bodies(await take(channel, queue, 2)), ['hidden', large], 'messages')
  } finally {
    await connection.close()
  }
}

scenario('tls', () => roundTripWithTls((port) => `amqps://guest:guest@127.0.0.1:${port}/`, {}))

scenario('tls_external', () => {
  if (!process.env.AMQPS_PORT) skip('no TLS here')
  return roundTripWithTls((port) => `amqps://127.0.0.1:${port}/`, {
    cert: readFileSync(process.env.TLS_CERTIFICATE), key: readFileSync(process.env.TLS_KEY), credentials: amqp.credentials.external(),
  })
})

scenario('recovery_after_kill', async () => {
  needBrokerControl()
  const count = Math.max(1, Math.floor(MESSAGES / 10))
  const connection = await within(amqp.connect(URL, { recovery: { initialDelay: 50, maxDelay: 500 } }), 'the connection')
  connection.on('error', () => {})
  try {
    const before = await channelOf(connection, 'createConfirmChannel')
    const queue = await confirmRun(before, count, count)
    const { exchange } = await before.assertExchange(name('recovery-x'), 'direct', { durable: true })
    await before.bindQueue(queue, exchange, 'k')
    const again = new Promise((resolve) => { connection.on('connect', resolve) })
    await killAndRestartBroker()
    await within(again, 'the library to reconnect', 30_000)
    const channel = await within(channelOf(connection, 'createConfirmChannel'), 'a channel')
    equal(bodies(await take(channel, queue, count)), numbers(count), 'messages after the restart')
    channel.publish(exchange, 'k', Buffer.from('new'))
    equal(bodies(await take(channel, queue, 1)), ['new'], 'through the recovered binding')
    await channel.deleteQueue(queue)
    await channel.deleteExchange(exchange)
  } finally {
    await connection.close()
  }
})

await main()
