"""Celery: real worker processes, results through rpc://."""
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import interop
from interop import MESSAGES, check, equal, eventually, scenario
from tasks import classic, quorum

FOLDER = Path(tempfile.mkdtemp(prefix="mambamq-interop-celery-"))
WORKER_START_SECS = 30


@contextlib.contextmanager
def worker(app):
    """A worker process of its own, ready to take tasks; killed with its children at the end."""
    host = f"worker@{interop.name('host')}"
    command = [sys.executable, "-m", "celery", "-A", f"tasks:{app.main}", "worker", "--concurrency", "2", "-n", host, "--loglevel", "INFO"]
    log = FOLDER / f"{host}.log"
    with log.open("wb") as output:
        # A process group of its own, to be killed as a whole, in the session that the runner ends.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=os.setpgrp)
    process.host = host
    try:
        eventually(lambda: process.poll() is not None or " ready." in log.read_text(), "the worker to be ready", WORKER_START_SECS)
        check(process.poll() is None, f"the worker ended with code {process.returncode}")
        yield process
    except BaseException:
        sys.stderr.write(log.read_text()[-5000:])
        raise
    finally:
        kill(process)


def kill(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def send(app, name, *arguments, **options):
    return app.send_task(name, arguments, **options)


def result(pending, seconds=interop.WAIT_SECS):
    return pending.get(timeout=seconds, interval=0.02)


def delete(app, queues=(), exchanges=()):
    """Deletes the application's queue and exchange and what else it left."""
    with app.connection_for_write() as connection:
        channel = connection.channel()
        for queue in (app.conf.task_default_queue, *queues):
            channel.queue_delete(queue)
        for exchange in (app.conf.task_default_exchange, *exchanges):
            channel.exchange_delete(exchange)


@scenario
def tasks_and_results():
    with worker(classic) as process:
        equal(result(send(classic, "add", 2, 3)), 5, "2 + 3")
        pending = [send(classic, "add", i, i) for i in range(500)]
        equal([result(p) for p in pending], [2 * i for i in range(500)], "500 results")
        # Remote control: a broadcast through a fanout exchange, answers through a reply exchange.
        answers = classic.control.ping([process.host], timeout=interop.WAIT_SECS, limit=1)
        equal(answers, [{process.host: {"ok": "pong"}}], "ping")
        queues = classic.control.inspect([process.host], timeout=interop.WAIT_SECS, limit=1).active_queues()
        equal([queue["name"] for queue in queues[process.host]], [classic.conf.task_default_queue], "queues of the worker")


@scenario
def retry():
    with worker(classic):
        equal(result(send(classic, "fail_twice")), 2, "retries")


@scenario
def countdown_and_eta():
    with worker(classic):
        due = time.time() + 1.5
        later = send(classic, "now", countdown=1.5)
        at_once = send(classic, "now")
        check(result(at_once) < due, "a task without countdown waited for one with countdown")
        check(result(later) >= due, "the task ran before its time")


@scenario
def late_acks_redelivered():
    marker = FOLDER / "started"
    with worker(classic) as process:
        pending = send(classic, "outlive_the_worker", str(marker))
        eventually(marker.exists, "the task to start")
        kill(process)
    with worker(classic):
        equal(result(pending), True, "redelivered at the second worker")


@scenario
def quorum_default_queue():
    """Celery delays tasks in the broker now: 28 levels of queues with TTL and dead-lettering between topic exchanges."""
    levels = [f"celery_delayed_{level}" for level in range(28)]
    try:
        with worker(quorum):
            equal(result(send(quorum, "add", 2, 3)), 5, "2 + 3")
            equal([result(p) for p in [send(quorum, "add", i, 1) for i in range(100)]], [i + 1 for i in range(100)], "100 results")
            due = time.time() + 3
            pending = send(quorum, "now", countdown=3)
            # The broker delays by whole seconds.
            check(result(pending, 30) >= due - 1, "the task ran before its time")
    finally:
        delete(quorum, levels, [*levels, "celery_delayed_delivery"])


@scenario
def recovery_after_kill():
    interop.need_broker_control()
    count = max(1, min(1000, MESSAGES // 50))
    done = FOLDER / "done"
    done.touch()
    queue = interop.name("later")
    with worker(classic) as process:
        send(classic, "note", str(done), -1)
        eventually(lambda: done.read_text() == "-1\n", "the first task")
        done.write_text("")
        # Nobody consumes this queue until the broker is back.
        for number in range(count):
            send(classic, "note", str(done), number, queue=queue, ignore_result=True)
        interop.kill_and_restart_broker()
        # The worker reconnects by itself; then it is told to consume the other queue, too.
        def consumer_added():
            # A connection of our own: those in the pool died with the broker.
            with classic.connection_for_write() as connection:
                return classic.control.add_consumer(queue, destination=[process.host], reply=True, timeout=2, limit=1, connection=connection)

        eventually(consumer_added, "the worker to come back", 40)
        eventually(lambda: done.read_text().count("\n") >= count, f"{count} tasks", 30)
        equal(sorted(map(int, done.read_text().split())), list(range(count)), "tasks that ran")
    delete(classic, [queue], [queue])


if __name__ == "__main__":
    interop.main(lambda: (delete(classic), shutil.rmtree(FOLDER)))
