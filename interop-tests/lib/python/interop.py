"""What the scenarios of every Python client share: registering, running and reporting, waiting with an end, and test data."""
import asyncio
import datetime
import inspect
import itertools
import os
import signal
import subprocess
import sys
import time
import traceback

URL = os.environ["AMQP_URL"]
URL_V6 = os.environ.get("AMQP_URL_V6", "")
MESSAGES = int(os.environ.get("INTEROP_MESSAGES") or "50000")
FRAME_MAX = 131072
WAIT_SECS = 10
SCENARIO_LIMIT_SECS = 90

_prefix = os.environ["INTEROP_PREFIX"]
_numbers = itertools.count(1)
_scenarios = {}


class Skip(Exception):
    """This client cannot do the scenario; the text says why."""


class Mismatch(Exception):
    """Something else arrived than was expected."""


def scenario(function):
    """Registers a function or coroutine function as the scenario of its name."""
    _scenarios[function.__name__] = function
    return function


def skip(name, reason):
    def skipped():
        raise Skip(reason)

    _scenarios[name] = skipped


def name(suffix="q"):
    """A name for a queue or exchange that nobody else uses."""
    return f"{_prefix}{suffix}-{next(_numbers)}"


def equal(actual, expected, what="value"):
    if actual != expected:
        raise Mismatch(f"{what}: expected {_short(expected)}, got {_short(actual)}")


def contains(text, part, what="text"):
    if part not in str(text):
        raise Mismatch(f"{what}: expected {part!r} in {text!r}")


def check(condition, text):
    if not condition:
        raise Mismatch(text)


def eventually(probe, what, seconds=WAIT_SECS):
    """Calls `probe` until it returns something true, and returns that."""
    deadline = time.monotonic() + seconds
    while True:
        result = probe()
        if result:
            return result
        if time.monotonic() > deadline:
            raise Mismatch(f"waited {seconds} s for {what}")
        time.sleep(0.05)


async def eventually_async(probe, what, seconds=WAIT_SECS):
    deadline = time.monotonic() + seconds
    while True:
        result = probe()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return result
        if time.monotonic() > deadline:
            raise Mismatch(f"waited {seconds} s for {what}")
        await asyncio.sleep(0.005)


def need_broker_control():
    if not os.environ.get("BROKER_CONTROL"):
        raise Skip("no broker control: this broker is not ours to kill")


def kill_and_restart_broker():
    subprocess.run([os.environ["BROKER_CONTROL"], "kill-restart"], check=True, timeout=100)


def fibonacci(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def body_of(size):
    """Bytes that no shift or swap of blocks leaves the same."""
    block = b"".join(i.to_bytes(4, "big") for i in range(1, 4097))
    return (block * (size // len(block) + 1))[:size]


def body_sizes():
    return [0, 1, FRAME_MAX - 8, FRAME_MAX - 7, 8 * 1024 * 1024]


# Header values that every Python library writes; the field type is in the name.
HEADERS = {
    "string": "grüße",
    "empty": "",
    "int": -5,
    "int32": 2**31 - 1,
    "long": -(2**40),
    "true": True,
    "false": False,
    "time": datetime.datetime(2024, 2, 29, 12, 34, 56, tzinfo=datetime.timezone.utc),
    "table": {"inner": {"deep": "x", "n": 1}, "list": [1, "two", {"three": 3}]},
    "array": ["a", 1, True, ["nested"], {"k": "v"}],
    "void": None,
}

# Binding key -> routing keys, out of TOPIC_KEYS, that it matches.
TOPIC_KEYS = ["quick.orange.rabbit", "lazy.orange.elephant", "quick.orange.fox", "lazy.brown.fox", "lazy", "quick.brown.fox", "orange", "", "quick.orange.new.rabbit"]
TOPIC_MATCHES = {
    ("*.orange.*",): ["quick.orange.rabbit", "lazy.orange.elephant", "quick.orange.fox"],
    ("*.*.rabbit", "lazy.#"): ["quick.orange.rabbit", "lazy.orange.elephant", "lazy.brown.fox", "lazy"],
    ("#",): TOPIC_KEYS,
    ("*",): ["lazy", "orange"],
}


def _short(value):
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"


class _OutOfTime(BaseException):
    """BaseException: a library that swallows Exception must not swallow the end of the scenario."""


def _strike(*_):
    raise _OutOfTime()


def _run(function):
    signal.alarm(SCENARIO_LIMIT_SECS)
    try:
        if inspect.iscoroutinefunction(function):
            asyncio.run(function())
        else:
            function()
        return "PASS", None
    except Skip as why:
        return "SKIP", str(why)
    except Mismatch as why:
        return "FAIL", str(why)
    except _OutOfTime:
        traceback.print_exc()
        return "FAIL", f"not finished after {SCENARIO_LIMIT_SECS} s"
    except Exception as error:
        traceback.print_exc()
        return "FAIL", f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)


def main(clean_up=lambda: None):
    """Runs the registered scenarios, `recovery_after_kill` last, then `clean_up`, and prints what the runner reads."""
    signal.signal(signal.SIGALRM, _strike)
    only = [part for part in os.environ.get("INTEROP_ONLY", "").split(",") if part]
    names = sorted(_scenarios, key=lambda n: n == "recovery_after_kill")
    for scenario_name in names:
        if only and scenario_name not in only:
            continue
        started = time.monotonic()
        result, reason = _run(_scenarios[scenario_name])
        line = f"{result} {scenario_name}"
        if reason is not None:
            line += ": " + " ".join(reason.split())
        print(line, flush=True)
        print(f"{scenario_name}: {time.monotonic() - started:.2f} s", file=sys.stderr, flush=True)
    try:
        clean_up()
    except Exception:
        traceback.print_exc()
    print("DONE", flush=True)
    # Threads and sockets of scenarios that failed must not keep the process alive.
    os._exit(0)
