"""RabbitMQ's tutorials with pika: `tutorial.py ROLE ARGUMENT…`. Receivers print `ready`, then a line `routing key TAB body` for each message."""
import os
import sys

import pika

connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
channel = connection.channel()


def show(method, body):
    print(f"{method.routing_key}\t{body.decode()}", flush=True)


def consume(queue):
    channel.basic_consume(queue, lambda _, method, properties, body: show(method, body), auto_ack=True)
    print("ready", flush=True)
    channel.start_consuming()


def send(queue, *bodies):
    channel.queue_declare(queue)
    for body in bodies:
        channel.basic_publish("", queue, body.encode())


def receive(queue):
    channel.queue_declare(queue)
    consume(queue)


def new_task(queue, *tasks):
    channel.queue_declare(queue, durable=True)
    for task in tasks:
        channel.basic_publish("", queue, task.encode(), pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent))


def worker(queue):
    channel.queue_declare(queue, durable=True)
    channel.basic_qos(prefetch_count=1)

    def work(_, method, properties, body):
        show(method, body)
        channel.basic_ack(method.delivery_tag)

    channel.basic_consume(queue, work)
    print("ready", flush=True)
    channel.start_consuming()


def emit(exchange, kind, *pairs):
    channel.exchange_declare(exchange, kind)
    for key, body in zip(pairs[::2], pairs[1::2]):
        channel.basic_publish(exchange, key, body.encode())


def subscribe(exchange, kind, *keys):
    channel.exchange_declare(exchange, kind)
    queue = channel.queue_declare("", exclusive=True).method.queue
    for key in keys:
        channel.queue_bind(queue, exchange, key)
    consume(queue)


def fibonacci(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def rpc_server(queue):
    channel.queue_declare(queue)
    channel.basic_qos(prefetch_count=1)

    def answer(_, method, properties, body):
        channel.basic_publish("", properties.reply_to, str(fibonacci(int(body))).encode(), pika.BasicProperties(correlation_id=properties.correlation_id))
        channel.basic_ack(method.delivery_tag)

    channel.basic_consume(queue, answer)
    print("ready", flush=True)
    channel.start_consuming()


def rpc_client(queue, *arguments):
    replies = channel.queue_declare("", exclusive=True).method.queue
    received = {}
    channel.basic_consume(replies, lambda _, method, properties, body: received.setdefault(properties.correlation_id, body.decode()), auto_ack=True)
    for number in arguments:
        channel.basic_publish("", queue, number.encode(), pika.BasicProperties(reply_to=replies, correlation_id=f"call-{number}"))
        while f"call-{number}" not in received:
            connection.process_data_events(10)
        print(f"{number}\t{received[f'call-{number}']}", flush=True)


ROLES = {
    "send": send, "receive": receive, "new-task": new_task, "worker": worker, "emit": emit, "subscribe": subscribe, "rpc-server": rpc_server,
    "rpc-client": rpc_client,
}
ROLES[sys.argv[1]](*sys.argv[2:])
connection.close()
