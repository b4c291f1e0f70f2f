// RabbitMQ's tutorials with amqplib: `tutorial.mjs ROLE ARGUMENT…`. Receivers print `ready`, then a line `routing key TAB body` for each message.
import { createRequire } from 'node:module'

const amqp = createRequire(`${process.env.INTEROP_WORK}/`)('amqplib')
const connection = await amqp.connect(process.env.AMQP_URL)
const channel = await connection.createChannel()

const show = ({ fields, content }) => console.log(`${fields.routingKey}\t${content}`)

/** Never ends: the process is killed when it is not needed any more. */
async function consume(queue, onMessage = show, options = { noAck: true }) {
  await channel.consume(queue, onMessage, options)
  console.log('ready')
  await new Promise(() => {})
}

function fibonacci(n) {
  let [a, b] = [0n, 1n]
  for (let i = 0; i < n; i++) [a, b] = [b, a + b]
  return a
}

const roles = {
  async send(queue, ...bodies) {
    await channel.assertQueue(queue, { durable: false })
    for (const body of bodies) channel.sendToQueue(queue, Buffer.from(body))
  },

  async receive(queue) {
    await channel.assertQueue(queue, { durable: false })
    await consume(queue)
  },

  async 'new-task'(queue, ...tasks) {
    await channel.assertQueue(queue, { durable: true })
    for (const task of tasks) channel.sendToQueue(queue, Buffer.from(task), { persistent: true })
  },

  async worker(queue) {
    await channel.assertQueue(queue, { durable: true })
    await channel.prefetch(1)
    await consume(queue, (message) => {
      show(message)
      channel.ack(message)
    }, {})
  },

  async emit(exchange, kind, ...pairs) {
    await channel.assertExchange(exchange, kind, { durable: false })
    for (let i = 0; i < pairs.length; i += 2) channel.publish(exchange, pairs[i], Buffer.from(pairs[i + 1]))
  },

  async subscribe(exchange, kind, ...keys) {
    await channel.assertExchange(exchange, kind, { durable: false })
    const { queue } = await channel.assertQueue('', { exclusive: true })
    for (const key of keys) await channel.bindQueue(queue, exchange, key)
    await consume(queue)
  },

  async 'rpc-server'(queue) {
    await channel.assertQueue(queue, { durable: false })
    await channel.prefetch(1)
    await consume(queue, (message) => {
      const { replyTo, correlationId } = message.properties
      channel.sendToQueue(replyTo, Buffer.from(String(fibonacci(Number(message.content)))), { correlationId })
      channel.ack(message)
    }, {})
  },

  async 'rpc-client'(queue, ...numbers) {
    const { queue: replyTo } = await channel.assertQueue('', { exclusive: true })
    const waiting = new Map()
    await channel.consume(replyTo, ({ properties, content }) => waiting.get(properties.correlationId)?.(String(content)), { noAck: true })
    for (const number of numbers) {
      const reply = new Promise((resolve) => waiting.set(`call-${number}`, resolve))
      channel.sendToQueue(queue, Buffer.from(number), { correlationId: `call-${number}`, replyTo })
      console.log(`${number}\t${await reply}`)
    }
  },
}

const [role, ...parameters] = process.argv.slice(2)
await roles[role](...parameters)
await channel.close()
await connection.close()
