"""RabbitMQ's management tool of the second generation: its commands, and what they leave in the broker. It reads answers strictly."""
import json
import os
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import pika

import interop
from interop import Skip, check, contains, equal, eventually, name, scenario

WORK = Path(os.environ["INTEROP_WORK"])
API = urlsplit(os.environ.get("MANAGEMENT_URL", ""))


def run(*words, vhost=None, user="guest", password="guest"):
    if not API.hostname:
        raise Skip("no MANAGEMENT_URL")
    missing = WORK / "missing"
    if missing.exists():
        raise Skip(missing.read_text().strip())
    command = [str(WORK / "bin/rabbitmqadmin"), "--host", API.hostname, "--port", str(API.port), "--username", user, "--password", password, "--non-interactive"]
    if vhost:
        command += ["--vhost", vhost]
    return subprocess.run([*command, *words], capture_output=True, text=True, timeout=30)


def admin(*words, **options):
    """What a command that succeeds prints."""
    result = run(*words, **options)
    equal(result.returncode, 0, f"rabbitmqadmin {' '.join(words)}: {result.stdout}{result.stderr}")
    return result.stdout


def rows(*words, **options):
    """The cells of a listing, by their first."""
    lines = [line.split() for line in admin(*words, **options).splitlines() if line.strip()]
    return {cells[0]: cells[1:] for cells in lines}


def refused(*words, **options):
    """What a command that fails says."""
    result = run(*words, **options)
    check(result.returncode != 0, f"rabbitmqadmin {' '.join(words)} did not fail: {result.stdout}")
    return result.stdout + result.stderr


@scenario
def tenants():
    vhost, user = name("vhost"), name("user")
    admin("vhosts", "declare", "--name", vhost, "--default-queue-type", "quorum", "--description", "tenant")
    equal(rows("vhosts", "list")[vhost][:2], ["tenant", "quorum"])
    admin("users", "declare", "--name", user, "--password", "p", "--tags", "management")
    check(user in rows("users", "list"), "the user is not listed")
    contains(refused("users", "list", user=user, password="wrong"), "Not_Authorized")
    admin("permissions", "declare", "--user", user, "--configure", "^a", "--write", "^b", "--read", ".*", vhost=vhost)
    equal(rows("permissions", "list")[user], [vhost, "^a", ".*", "^b"])
    contains(refused("users", "list", user=user, password="p"), "Not administrator user")
    admin("queues", "declare", "--name", "a", "--type", "classic", vhost=vhost, user=user, password="p")
    refused("queues", "declare", "--name", "b", "--type", "classic", vhost=vhost, user=user, password="p")
    admin("vhost_limits", "declare", "--name", "max-queues", "--value", "1", vhost=vhost)
    contains(admin("vhost_limits", "list", vhost=vhost), "max-queues")
    contains(refused("queues", "declare", "--name", "c", "--type", "classic", vhost=vhost), "queue limit in vhost")
    admin("vhost_limits", "delete", "--name", "max-queues", vhost=vhost)
    admin("user_limits", "declare", "--user", user, "--name", "max-connections", "--value", "3")
    contains(admin("user_limits", "list"), "max-connections")
    admin("user_limits", "delete", "--user", user, "--name", "max-connections")
    admin("permissions", "delete", "--user", user, vhost=vhost)
    admin("users", "delete", "--name", user)
    admin("vhosts", "delete", "--name", vhost)
    contains(refused("vhosts", "delete", "--name", vhost), "404")
    admin("vhosts", "delete", "--name", vhost, "--idempotently")


@scenario
def queues_and_exchanges():
    queue, quorum, exchange = name(), name("quorum"), name("x")
    admin("queues", "declare", "--name", queue, "--type", "classic", "--durable", "true", "--arguments", '{"x-max-length": 5}')
    contains(admin("queues", "show", "--name", queue), queue)
    contains(refused("queues", "declare", "--name", queue, "--type", "classic", "--durable", "true"), "inequivalent arg")
    admin("queues", "declare", "--name", quorum, "--type", "quorum")
    contains(" ".join(rows("queues", "list")[quorum]), "quorum")
    admin("exchanges", "declare", "--name", exchange, "--type", "topic", "--durable", "true")
    contains(" ".join(rows("exchanges", "list")[exchange]), "topic")
    binding = ("--source", exchange, "--destination-type", "queue", "--destination", queue, "--routing-key", "a.*")
    admin("bindings", "declare", *binding)
    contains(admin("bindings", "list"), "a.*")
    admin("bindings", "delete", *binding)
    check(exchange not in admin("bindings", "list"), "the binding is still there")
    for words in (("queues", queue), ("queues", quorum), ("exchanges", exchange)):
        admin(words[0], "delete", "--name", words[1])
    contains(refused("queues", "delete", "--name", queue), "404")
    admin("queues", "delete", "--name", queue, "--idempotently")


@scenario
def messages():
    queue = name()
    admin("queues", "declare", "--name", queue, "--type", "classic")
    for body in ("one", "two"):
        admin("publish", "message", "--routing-key", queue, "--payload", body)
    got = admin("get", "messages", "--queue", queue, "--count", "5", "--ack-mode", "ack_requeue_false")
    contains(got, "one")
    contains(got, "two")
    admin("publish", "message", "--routing-key", queue, "--payload", "three")
    admin("queues", "purge", "--name", queue)
    check("three" not in admin("get", "messages", "--queue", queue), "the queue was not purged")
    admin("queues", "delete", "--name", queue)


@scenario
def policies():
    policy, operator, queue = name("policy"), name("operator"), name("limited")
    admin("queues", "declare", "--name", queue, "--type", "classic")
    admin("policies", "declare", "--name", policy, "--pattern", f"^{queue}$", "--definition", '{"max-length": 2}', "--priority", "3", "--apply-to", "queues")
    contains(admin("policies", "list"), policy)
    contains(admin("policies", "list_matching_object", "--name", queue, "--type", "queues"), policy)
    admin("policies", "patch", "--name", policy, "--definition", '{"expires": 100000}')
    admin("policies", "update_definition", "--name", policy, "--definition-key", "max-length", "--new-value", "9")
    contains(admin("policies", "list"), "max-length: 9")
    admin("policies", "delete_definition_keys", "--name", policy, "--definition-keys", "expires")
    check("expires" not in admin("policies", "list"), "the key is still there")
    admin("policies", "declare_override", "--name", policy, "--override-name", f"{policy}-2", "--definition", '{"max-length": 4}')
    contains(admin("policies", "list"), f"{policy}-2")
    admin("operator_policies", "declare", "--name", operator, "--pattern", f"^{queue}$", "--definition", '{"max-length": 1}', "--apply-to", "queues")
    contains(admin("operator_policies", "list"), operator)
    contains(refused("policies", "declare", "--name", policy, "--pattern", ".*", "--definition", '{"max-length": -1}', "--apply-to", "queues"), "Validation failed")
    admin("operator_policies", "delete", "--name", operator)
    for one in (policy, f"{policy}-2"):
        admin("policies", "delete", "--name", one)
    admin("queues", "delete", "--name", queue)


@scenario
def parameters():
    parameter = name("parameter")
    admin("global_parameters", "set", "--name", parameter, "--value", '{"a": 1}')
    contains(admin("global_parameters", "list"), parameter)
    admin("global_parameters", "clear", "--name", parameter)
    check(parameter not in admin("global_parameters", "list"), "the parameter is still there")
    admin("parameters", "list_all")


@scenario
def connections():
    queue, label = name(), name("connection")
    parameters = pika.URLParameters(interop.URL)
    parameters.client_properties = {"connection_name": label}
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.queue_declare(queue, durable=True)
    channel.basic_consume(queue, lambda *_: None, consumer_tag="own-tag")
    shown = eventually(lambda: [line for line in admin("connections", "list").splitlines() if "running" in line], "the connection to be listed")
    check(shown, "no connection")
    eventually(lambda: "own-tag" in admin("list", "consumers"), "the consumer to be listed")
    admin("channels", "list")
    admin("connections", "close_of_user", "--username", "guest")
    try:
        connection.process_data_events(interop.WAIT_SECS)
        raise interop.Mismatch("the connection is still open")
    except pika.exceptions.ConnectionClosedByBroker as closed:
        equal(closed.reply_code, 320)
    admin("queues", "delete", "--name", queue)


@scenario
def definitions():
    vhost = name("vhost")
    admin("vhosts", "declare", "--name", vhost)
    admin("queues", "declare", "--name", "q", "--type", "classic", vhost=vhost)
    admin("bindings", "declare", "--source", "amq.topic", "--destination-type", "queue", "--destination", "q", "--routing-key", "k", vhost=vhost)
    with tempfile.TemporaryDirectory() as folder:
        everything, one = f"{folder}/all.json", f"{folder}/one.json"
        admin("definitions", "export", "--file", everything)
        document = json.loads(Path(everything).read_text())
        check(any(entry["name"] == vhost for entry in document["vhosts"]), "the virtual host was not exported")
        admin("definitions", "export_from_vhost", "--file", one, vhost=vhost)
        admin("vhosts", "delete", "--name", vhost)
        admin("definitions", "import", "--file", everything)
        contains(admin("queues", "list", vhost=vhost), "q")
        admin("queues", "delete", "--name", "q", vhost=vhost)
        admin("definitions", "import_into_vhost", "--file", one, vhost=vhost)
    contains(admin("bindings", "list", vhost=vhost), "amq.topic")
    contains(admin("definitions", "export", "--stdout", "--transformations", "prepare_for_quorum_queue_migration"), '"virtual_hosts"')
    admin("vhosts", "delete", "--name", vhost)


@scenario
def node_and_health():
    node = next(iter(rows("nodes", "list")))
    contains(admin("show", "overview"), "Queues and streams (total)")
    admin("show", "churn")
    contains(admin("show", "memory_breakdown_in_bytes", "--node", node), "Total (RSS)")
    contains(admin("show", "memory_breakdown_in_percent", "--node", node), "%")
    for check_name in ("local_alarms", "cluster_wide_alarms", "node_is_quorum_critical"):
        contains(admin("health_check", check_name), "passed")
    admin("health_check", "port_listener", "--port", str(urlsplit(interop.URL).port))
    contains(refused("health_check", "port_listener", "--port", "1"), "No active listener")
    admin("health_check", "protocol_listener", "--protocol", "amqp")
    for words in (("feature_flags", "list"), ("feature_flags", "enable_all"), ("deprecated_features", "list"), ("deprecated_features", "list_used"),
                  ("plugins", "list_all"), ("rebalance", "queues"), ("auth_attempts", "stats", "--node", node)):
        admin(*words)
    contains(admin("passwords", "salt_and_hash", "secret"), "password hash")


interop.main()
