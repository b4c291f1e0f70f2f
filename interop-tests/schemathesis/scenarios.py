"""The OpenAPI document against the API: requests made up from it, good and bad ones, and whether the answers are as described.

Everything is deleted and overwritten on the way, so that it runs on a broker of its own.
"""
import contextlib
import os
import subprocess
import tempfile

import urllib.request
from pathlib import Path

import interop
from interop import Mismatch, Skip, check, scenario

BINARY = os.environ.get("BROKER_BINARY", "")
SCHEMATHESIS = Path(os.environ["INTEROP_WORK"]) / "venv/bin/st"
LOG = Path(os.environ["INTEROP_WORK"]) / "schemathesis.log"
SECONDS = int(os.environ.get("SCHEMATHESIS_SECONDS", "40"))
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
]
interop.SCENARIO_LIMIT_SECS = 3 * SECONDS + 60


@contextlib.contextmanager
def broker():
    """A broker that nobody else uses; gives the address of its API."""
    if not BINARY:
        raise Skip("a broker of its own is needed")
    with tempfile.TemporaryDirectory() as folder:
        command = [BINARY, "serve", "--data-dir", folder, "--listen", "127.0.0.1:0", "--metrics-listen", "off",
                   "--management-listen", "127.0.0.1:0", "--stop-with-stdin"]
        with LOG.with_name("broker.log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        try:
            yield interop.eventually(lambda: management(Path(folder, "node.lock")), "the broker to be ready", 30)
            check(process.poll() is None, "the broker has died")
        finally:
            process.stdin.close()
            process.wait(30)


def management(lock):
    lines = lock.read_text().splitlines() if lock.exists() else []
    return next((line.split(" ")[1] for line in lines if line.startswith("management ")), None)


def call(api, method, path, body="{}"):
    request = urllib.request.Request(f"http://{api}/api{path}", body.encode(), {"Authorization": "Basic Z3Vlc3Q6Z3Vlc3Q="}, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()


def play(api, names, *options):
    """Runs schemathesis; with `names`, the parameters of the paths are these."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "schemathesis.toml")
        lines = ["[parameters]"] + [f'"path.{name}" = "{value}"' for name, value in names.items()]
        config.write_text("\n".join(lines) + "\n")
        command = [str(SCHEMATHESIS), "--config-file", str(config), "run", f"http://{api}/api/openapi.json", "--auth", "guest:guest", "--checks", ",".join(CHECKS),
                   "--max-time", str(SECONDS), "--generation-database", "none", "--no-color", "--request-timeout", "20", *options]
        result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    with LOG.open("a") as log:
        log.write(result.stdout + result.stderr)
    if result.returncode:
        lines = result.stdout.splitlines()
        wrong = [line for line in lines if line.startswith(("___", "- ST", "    curl"))]
        raise Mismatch(f"exit code {result.returncode}, see {LOG}: {' '.join(wrong[:12])}")


# A health check that fails is a 503, which would count as an error of the server.
FAILING = ["--exclude-path-regex", "^/health/checks/(port|protocol)-listener/"]


@scenario
def made_up_names():
    with broker() as api:
        play(api, {}, *FAILING)


@scenario
def names_that_are_there():
    names = {
        "vhost": "v", "queue": "q", "exchange": "x", "source": "x", "destination": "y", "user": "u", "props": "k", "name": "p",
        "component": "shovel", "node": "n", "port": "1", "protocols": "amqp", "within": "1", "unit": "weeks",
    }
    with broker() as api:
        call(api, "PUT", "/vhosts/v")
        for path in ("/exchanges/v/x", "/exchanges/v/y", "/queues/v/q"):
            call(api, "PUT", path)
        call(api, "POST", "/bindings/v/e/x/q/q", '{"routing_key":"k"}')
        call(api, "PUT", "/users/u", '{"password":"p","tags":"management"}')
        # The virtual host has to stay: everything is in it.
        play(api, names, *FAILING, "--exclude-operation-id", "delete-vhosts-vhost")


LOG.write_text("")
interop.main()
