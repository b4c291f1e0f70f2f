"""RabbitMQ's six tutorials, every sender with every receiver of Python, Node and Go."""
import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pika

import interop
from interop import check, equal, eventually, name, scenario

WORK = Path(os.environ["INTEROP_WORK"])
LANGUAGES = {
    "python": [sys.executable, "tutorial.py"],
    "node": ["node", "tutorial.mjs"],
    "go": [str(WORK / "tutorial")],
}


def run(language, role, *arguments):
    """A sender or RPC client: runs to its end. Returns its lines."""
    done = subprocess.run([*LANGUAGES[language], role, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    check(done.returncode == 0, f"{language} {role} ended with code {done.returncode}: {done.stderr[-300:]}")
    return done.stdout.splitlines()


class Receiver:
    """A receiver of one language: `lines` fills with `routing key TAB body`."""

    def __init__(self, language, role, *arguments):
        self.name = f"{language} {role}"
        self.lines = []
        self.ready = threading.Event()
        self.process = subprocess.Popen([*LANGUAGES[language], role, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            if line == "ready\n":
                self.ready.set()
            else:
                self.lines.append(line.rstrip("\n"))

    def expect(self, lines):
        eventually(lambda: len(self.lines) >= len(lines), f"{len(lines)} messages at {self.name} (got {self.lines})")
        equal(sorted(self.lines), sorted(lines), self.name)


@contextlib.contextmanager
def receivers(role, *arguments):
    """One receiver of each language, all with the same arguments (a function gets the language)."""
    started = {}
    try:
        for language in LANGUAGES:
            started[language] = Receiver(language, role, *(a(language) if callable(a) else a for a in arguments))
        for receiver in started.values():
            check(receiver.ready.wait(30), f"{receiver.name} was not ready after 30 s")
        yield started
    finally:
        for receiver in started.values():
            receiver.process.kill()
            receiver.process.wait()


@contextlib.contextmanager
def deleting(queues=(), exchanges=()):
    try:
        yield
    finally:
        with pika.BlockingConnection(pika.URLParameters(interop.URL)) as connection:
            channel = connection.channel()
            for queue in queues:
                channel.queue_delete(queue)
            for exchange in exchanges:
                channel.exchange_delete(exchange)


@scenario
def tutorial_1_hello_world():
    queues = {language: name(f"hello-{language}") for language in LANGUAGES}
    with deleting(queues.values()), receivers("receive", queues.get) as started:
        for sender in LANGUAGES:
            for queue in queues.values():
                run(sender, "send", queue, f"Hello from {sender}!", "ünïcödé")
        for language, receiver in started.items():
            receiver.expect([f"{queues[language]}\t{body}" for sender in LANGUAGES for body in (f"Hello from {sender}!", "ünïcödé")])


@scenario
def tutorial_2_work_queues():
    for sender in LANGUAGES:
        queue = name("tasks")
        with deleting([queue]), receivers("worker", queue) as started:
            tasks = [f"{sender} task {i}" for i in range(12)]
            run(sender, "new-task", queue, *tasks)
            eventually(lambda: sum(len(r.lines) for r in started.values()) >= len(tasks), f"{len(tasks)} tasks of {sender}")
            equal(sorted(line for r in started.values() for line in r.lines), sorted(f"{queue}\t{task}" for task in tasks), "tasks")
            for receiver in started.values():
                check(receiver.lines, f"{receiver.name} got no task although it was waiting for one")


def exchange_tutorial(kind, keys, messages, expected):
    exchange = name(kind)
    with deleting(exchanges=[exchange]), receivers("subscribe", exchange, kind, *keys) as started:
        for sender in LANGUAGES:
            run(sender, "emit", exchange, kind, *(part for key in messages for part in (key, f"from {sender}")))
        for receiver in started.values():
            receiver.expect([f"{key}\tfrom {sender}" for sender in LANGUAGES for key in expected])


@scenario
def tutorial_3_publish_subscribe():
    exchange_tutorial("fanout", [""], ["", "ignored"], ["", "ignored"])


@scenario
def tutorial_4_routing():
    exchange_tutorial("direct", ["warning", "error"], ["info", "warning", "error", "error.more"], ["warning", "error"])


@scenario
def tutorial_5_topics():
    exchange_tutorial("topic", ["kern.*", "*.critical", "audit.#"], ["kern.info", "kern.critical", "cron.critical", "cron.info", "audit", "audit.a.b", "kern.a.b"],
                      ["kern.info", "kern.critical", "cron.critical", "audit", "audit.a.b"])


@scenario
def tutorial_6_rpc():
    queues = {language: name(f"rpc-{language}") for language in LANGUAGES}
    with deleting(queues.values()), receivers("rpc-server", queues.get):
        for client in LANGUAGES:
            for server, queue in queues.items():
                equal(run(client, "rpc-client", queue, "4", "30", "90"), ["4\t3", "30\t832040", "90\t2880067194370816120"], f"{client} asks {server}")


if __name__ == "__main__":
    interop.main()
