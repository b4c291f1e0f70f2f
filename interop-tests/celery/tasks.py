"""Two Celery applications, with a classic and with a quorum queue; the scenarios and the worker processes import them."""
import os
import time

from celery import Celery

PREFIX = os.environ["INTEROP_PREFIX"]


def application(queue_type):
    app = Celery(queue_type, broker=os.environ["AMQP_URL"].rstrip("/") + "//", backend="rpc://", set_as_current=False)
    app.conf.update(
        task_default_queue=PREFIX + queue_type,
        task_default_queue_type=queue_type,
        # Only a topic exchange can delay tasks in the broker, which is what Celery does with quorum queues.
        task_default_exchange=PREFIX + queue_type,
        task_default_exchange_type="topic",
        task_default_routing_key=PREFIX + queue_type,
        broker_transport_options={"confirm_publish": True},
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
        result_expires=600,
    )
    for function in (add, now, note):
        app.task(name=function.__name__)(function)
    app.task(name="fail_twice", bind=True, max_retries=5)(fail_twice)
    app.task(name="outlive_the_worker", bind=True, acks_late=True, reject_on_worker_lost=True)(outlive_the_worker)
    return app


def add(x, y):
    return x + y


def now():
    return time.time()


def note(path, number):
    with open(path, "a") as file:
        file.write(f"{number}\n")


def fail_twice(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return self.request.retries


def outlive_the_worker(self, marker):
    """Waits to be killed the first time; says that it was redelivered the second time."""
    if not self.request.delivery_info["redelivered"]:
        with open(marker, "w"):
            pass
        time.sleep(60)
    return self.request.delivery_info["redelivered"]


classic = application("classic")
quorum = application("quorum")
