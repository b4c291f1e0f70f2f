"""Runs the tests that Python libraries publish for a live broker, unpatched; one scenario for each file of tests."""
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import urllib.parse
import xml.etree.ElementTree
from pathlib import Path

WORK = Path(os.environ["INTEROP_WORK"])
BROKER = urllib.parse.urlsplit(os.environ["AMQP_URL"])
TEST_LIMIT_SECS = 60
SUITE_LIMIT_SECS = 200

# Package: files, and a pytest expression for the tests that run. Left out: TLS; messages of 128 MiB, above the default limit of RabbitMQ 4; and
# the second round of aio-pika's tests with connect_robust, for time's sake.
SUITES = {
    "amqp": (["t/integration/test_rmq.py"], "not tls"),
    "kombu": (["t/integration/test_py_amqp.py"], ""),
    "aio_pika": (["tests/test_amqp.py", "tests/test_nowait.py", "tests/test_rpc.py", "tests/test_consumer_publish_errors.py",
                  "tests/test_queue_iterator_close.py"], "not big_message and not connect_robust"),
}


class ContainerApi(http.server.BaseHTTPRequestHandler):
    """The few answers that aio-pika's suite expects when it starts its broker in a container: the one that is running already."""

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urllib.parse.urlsplit(self.path).path
        result = {}
        if path == "/containers/create":
            result = {"Id": "broker"}
        elif path.endswith("/json"):
            result = {"NetworkSettings": {"Ports": {"5672/tcp": [{"HostPort": str(BROKER.port)}]}}}
        body = json.dumps(result).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = answer

    def log_message(self, *_):
        pass


def run(package, files, expression, environment):
    folder, = WORK.glob(f"src/{package}-*/")
    report = WORK / f"{package}.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", "--timeout", str(TEST_LIMIT_SECS),
               "--junitxml", str(report), "-k", expression, *files]
    try:
        subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=SUITE_LIMIT_SECS)
    except subprocess.TimeoutExpired:
        return [f"FAIL {package}: not done after {SUITE_LIMIT_SECS} s"]
    outcomes = {}
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        parts = case.get("classname").split(".")
        file = next(part for part in parts if part.startswith("test_") and f"/{part}.py" in " ".join(files))
        found = {child.tag: child.get("message") or "" for child in case}
        kind = "FAIL" if "failure" in found or "error" in found else "SKIP" if "skipped" in found else "PASS"
        outcomes.setdefault(file, []).append((kind, case.get("name"), found.get("failure") or found.get("error") or ""))
    lines = []
    for file in (Path(path).stem for path in files):
        name = f"{package}_{file}"
        cases = outcomes.get(file, [])
        failed = {f"{test} ({' '.join(message.split())[:120]})" for kind, test, message in cases if kind == "FAIL"}
        if failed:
            lines.append(f"FAIL {name}: {len(failed)} of {len(cases)}: {'; '.join(sorted(failed))[:1500]}")
        elif not cases:
            lines.append(f"FAIL {name}: no test ran")
        elif all(kind == "SKIP" for kind, _, _ in cases):
            lines.append(f"SKIP {name}: the suite skips all of it")
        else:
            lines.append(f"PASS {name}")
    return lines


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ContainerApi)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = dict(os.environ, DOCKER_HOST=f"tcp://127.0.0.1:{server.server_port}", RABBITMQ_HOST=BROKER.hostname,
                       RABBITMQ_5672_TCP=str(BROKER.port))
    only = [name for name in os.environ.get("INTEROP_ONLY", "").split(",") if name]
    for package, (files, expression) in SUITES.items():
        wanted = [file for file in files if not only or re.sub(r".*/|\.py$", "", f"{package}_{Path(file).stem}") in only]
        if wanted:
            for line in run(package, wanted, expression, environment):
                print(line, flush=True)
    print("DONE", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
