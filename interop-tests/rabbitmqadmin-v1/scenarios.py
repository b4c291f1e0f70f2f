"""RabbitMQ's own management script: every subcommand, and what it leaves in the broker."""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import pika

import interop
from interop import Skip, check, contains, equal, eventually, name, scenario

WORK = Path(os.environ["INTEROP_WORK"])
API = urlsplit(os.environ.get("MANAGEMENT_URL", ""))


def run(*words, vhost="/", user="guest", password="guest", stdin=None):
    if not API.hostname:
        raise Skip("no MANAGEMENT_URL")
    missing = WORK / "missing"
    if missing.exists():
        raise Skip(missing.read_text().strip())
    command = [sys.executable, str(WORK / "rabbitmqadmin"), "-H", API.hostname, "-P", str(API.port), "-u", user, "-p", password]
    if vhost:
        command += ["-V", vhost]
    return subprocess.run([*command, *words], capture_output=True, text=True, input=stdin, timeout=30)


def admin(*words, **options):
    """What a subcommand that succeeds prints."""
    result = run(*words, **options)
    equal((result.returncode, result.stderr), (0, ""), f"rabbitmqadmin {' '.join(words)}: {result.stdout}")
    return result.stdout


def listed(kind, *columns, **options):
    return json.loads(admin("-f", "raw_json", "list", kind, *columns, **options))


def refused(*words, **options):
    """What a subcommand that fails says."""
    result = run(*words, **options)
    check(result.returncode != 0, f"rabbitmqadmin {' '.join(words)} did not fail: {result.stdout}")
    return result.stdout + result.stderr


def by_name(items, key, value):
    found = [item for item in items if item[key] == value]
    equal(len(found), 1, f"entries with {key} {value}")
    return found[0]


@scenario
def tenants():
    vhost, user = name("vhost"), name("user")
    equal(admin("declare", "vhost", f"name={vhost}"), "vhost declared\n")
    by_name(listed("vhosts", "name"), "name", vhost)
    equal(admin("declare", "user", f"name={user}", "password=p", "tags=management,own"), "user declared\n")
    equal(by_name(listed("users"), "name", user)["tags"], ["management", "own"])
    contains(refused("list", "vhosts", user=user, password="wrong"), "Access refused")
    admin("declare", "permission", f"vhost={vhost}", f"user={user}", "configure=^a", "write=^b", "read=")
    permission = next(one for one in listed("permissions") if one["user"] == user)
    equal(permission, {"user": user, "vhost": vhost, "configure": "^a", "write": "^b", "read": ""})
    equal([one["name"] for one in listed("vhosts", "name", user=user, password="p", vhost=vhost)], [vhost])
    contains(refused("list", "users", user=user, password="p"), "Access refused: /api/users")
    contains(refused("declare", "queue", "name=b", user=user, password="p", vhost=vhost), "Access refused: ")
    admin("declare", "queue", "name=a", user=user, password="p", vhost=vhost)
    admin("declare", "vhost_limit", f"vhost={vhost}", "name=max-queues", "value=1")
    equal(by_name(listed("vhost_limits"), "vhost", vhost)["value"], {"max-queues": 1})
    contains(refused("declare", "queue", "name=b", vhost=vhost), "queue limit in vhost")
    admin("delete", "vhost_limit", f"vhost={vhost}", "name=max-queues")
    equal(admin("declare", "parameter", "component=vhost-limits", "name=limits", 'value={"max-connections": 7}', vhost=vhost), "parameter declared\n")
    equal(by_name(listed("parameters"), "vhost", vhost)["value"], {"max-connections": 7})
    equal(admin("delete", "parameter", "component=vhost-limits", "name=limits", vhost=vhost), "parameter deleted\n")
    contains(refused("delete", "parameter", "component=vhost-limits", "name=limits", vhost=vhost), "Not found: ")
    admin("declare", "queue", "name=b", vhost=vhost)
    equal(admin("delete", "permission", f"vhost={vhost}", f"user={user}"), "permission deleted\n")
    equal(admin("delete", "user", f"name={user}"), "user deleted\n")
    equal(admin("delete", "vhost", f"name={vhost}"), "vhost deleted\n")
    check(vhost not in [one["name"] for one in listed("vhosts")], "the virtual host is still there")
    contains(refused("delete", "vhost", f"name={vhost}"), "Not found: ")


@scenario
def queues_and_exchanges():
    queue, exchange = name(), name("x")
    equal(admin("declare", "queue", f"name={queue}", 'arguments={"x-max-length": 5}'), "queue declared\n")
    shown = by_name(listed("queues", "name", "durable", "auto_delete", "arguments"), "name", queue)
    equal((shown["durable"], shown["auto_delete"], shown["arguments"]["x-max-length"]), (True, False, 5), "queue")
    contains(refused("declare", "queue", f"name={queue}", "durable=false"), "inequivalent arg")
    quorum = name("quorum")
    admin("declare", "queue", f"name={quorum}", 'arguments={"x-queue-type": "quorum"}')
    equal(by_name(listed("queues", "name", "type"), "name", quorum)["type"], "quorum")
    equal(admin("declare", "exchange", f"name={exchange}", "type=topic"), "exchange declared\n")
    equal(by_name(listed("exchanges"), "name", exchange)["type"], "topic")
    equal(admin("declare", "binding", f"source={exchange}", f"destination={queue}", "routing_key=a.*"), "binding declared\n")
    admin("declare", "binding", f"source={exchange}", f"destination={queue}", 'arguments={"n": 1}')
    bindings = [one for one in listed("bindings") if one["source"] == exchange]
    equal(sorted(one["routing_key"] for one in bindings), ["", "a.*"])
    key = next(one["properties_key"] for one in bindings if one["routing_key"] == "a.*")
    equal(admin("delete", "binding", f"source={exchange}", "destination_type=queue", f"destination={queue}", f"properties_key={key}"), "binding deleted\n")
    equal([one["arguments"] for one in listed("bindings") if one["source"] == exchange], [{"n": 1}])
    for kind, one in (("queue", queue), ("queue", quorum), ("exchange", exchange)):
        equal(admin("delete", kind, f"name={one}"), f"{kind} deleted\n")
    check(not [one for one in listed("bindings") if one["source"] == exchange], "a binding outlived its exchange")
    contains(refused("delete", "queue", f"name={queue}"), "Not found: ")
    contains(refused("declare", "exchange", f"name={exchange}", "type=no-such-type"), "exchange type")
    contains(refused("declare", "binding", "source=amq.direct", f"destination={queue}"), "Not found: ")


@scenario
def messages():
    queue = name()
    admin("declare", "queue", f"name={queue}")
    contains(admin("publish", f"routing_key={queue}", "payload=hello"), "Message published")
    contains(admin("publish", f"routing_key={queue}", 'properties={"delivery_mode": 2, "headers": {"n": 1}}', stdin="from standard input"), "Message published")
    contains(admin("publish", f"routing_key={name()}", "payload=lost"), "NOT routed")
    got = json.loads(admin("-f", "raw_json", "get", f"queue={queue}", "count=5"))
    equal([one["payload"] for one in got], ["hello", "from standard input"])
    equal((got[1]["properties"]["headers"], got[1]["properties"]["delivery_mode"]), ({"n": 1}, 2), "properties")
    again = json.loads(admin("-f", "raw_json", "get", f"queue={queue}", "ackmode=ack_requeue_false"))
    equal([(one["payload"], one["redelivered"], one["message_count"]) for one in again], [("hello", True, 1)])
    with tempfile.TemporaryDirectory() as folder:
        admin("get", f"queue={queue}", f"payload_file={folder}/body")
        equal(Path(folder, "body").read_text(), "from standard input")
    equal(admin("purge", "queue", f"name={queue}"), "queue purged\n")
    eventually(lambda: by_name(listed("queues", "name", "messages"), "name", queue)["messages"] == 0, "the queue to be empty")
    admin("delete", "queue", f"name={queue}")
    contains(refused("get", f"queue={queue}"), "Not found: ")
    contains(refused("publish", f"exchange={queue}", "routing_key=k", "payload=x"), "Not found: ")


@scenario
def policies():
    policy, operator, queue = name("policy"), name("operator"), name("limited")
    admin("declare", "queue", f"name={queue}")
    equal(admin("declare", "policy", f"name={policy}", f"pattern=^{queue}$", 'definition={"max-length": 2}', "priority=3", "apply-to=queues"), "policy declared\n")
    shown = by_name(listed("policies"), "name", policy)
    equal((shown["definition"], shown["priority"], shown["apply-to"]), ({"max-length": 2}, 3, "queues"), "policy")
    for body in "abc":
        admin("publish", f"routing_key={queue}", f"payload={body}")
    eventually(lambda: by_name(listed("queues", "name", "messages"), "name", queue)["messages"] == 2, "the policy to count")
    equal(by_name(listed("queues", "name", "policy"), "name", queue)["policy"], policy)
    admin("declare", "operator_policy", f"name={operator}", f"pattern=^{queue}$", 'definition={"max-length": 1}', "apply-to=queues")
    equal(by_name(listed("operator_policies"), "name", operator)["definition"], {"max-length": 1})
    contains(refused("declare", "policy", f"name={policy}", "pattern=.*", 'definition={"max-length": -1}'), "Validation failed")
    equal(admin("delete", "operator_policy", f"name={operator}"), "operator_policy deleted\n")
    equal(admin("delete", "policy", f"name={policy}"), "policy deleted\n")
    contains(refused("delete", "policy", f"name={policy}"), "Not found: ")
    admin("delete", "queue", f"name={queue}")


@scenario
def connections():
    queue, label = name(), name("connection")
    parameters = pika.URLParameters(interop.URL)
    parameters.client_properties = {"connection_name": label}
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.queue_declare(queue, durable=True)
    channel.basic_consume(queue, lambda *_: None, consumer_tag="tag")

    def own():
        return [one for one in listed("connections") if one.get("user_provided_name") == label]

    shown = eventually(own, "the connection to be listed")[0]
    equal((shown["user"], shown["protocol"], shown["state"]), ("guest", "AMQP 0-9-1", "running"), "connection")
    of_channel = eventually(lambda: [one for one in listed("channels") if one["name"] == f"{shown['name']} (1)"], "the channel to be listed")
    equal(of_channel[0]["number"], 1)
    consumer = next(one for one in listed("consumers") if one["queue"]["name"] == queue)
    equal((consumer["consumer_tag"], consumer["channel_details"]["connection_name"]), ("tag", shown["name"]), "consumer")
    equal(admin("close", "connection", f"name={shown['name']}"), "connection closed\n")
    try:
        connection.process_data_events(interop.WAIT_SECS)
        raise interop.Mismatch("the connection is still open")
    except pika.exceptions.ConnectionClosedByBroker as closed:
        equal((closed.reply_code, closed.reply_text), (320, "CONNECTION_FORCED - Closed via management plugin"), "close")
    eventually(lambda: not own(), "the connection to be gone")
    contains(refused("close", "connection", "name=nothing"), "Not found: ")
    admin("delete", "queue", f"name={queue}")


@scenario
def definitions():
    vhost, queue = name("vhost"), name()
    admin("declare", "vhost", f"name={vhost}")
    admin("declare", "queue", f"name={queue}", vhost=vhost)
    admin("declare", "binding", "source=amq.topic", f"destination={queue}", "routing_key=k", vhost=vhost)
    with tempfile.TemporaryDirectory() as folder:
        everything, one = f"{folder}/all.json", f"{folder}/one.json"
        contains(admin("export", everything, vhost=None), "Exported definitions")
        document = json.loads(Path(everything).read_text())
        check(any(entry["name"] == vhost for entry in document["vhosts"]), "the virtual host was not exported")
        check(any(entry["name"] == queue and entry["vhost"] == vhost for entry in document["queues"]), "the queue was not exported")
        part = {key: [entry for entry in document[key] if entry.get("vhost") == vhost] for key in ("queues", "exchanges", "bindings", "permissions", "policies")}
        part["vhosts"] = [entry for entry in document["vhosts"] if entry["name"] == vhost]
        Path(one).write_text(json.dumps(part))
        admin("delete", "vhost", f"name={vhost}")
        contains(admin("import", one, vhost=None), "Uploaded definitions")
        Path(one).write_text("{")
        contains(refused("import", one, vhost=None), "json")
    equal([entry["name"] for entry in listed("queues", "name", vhost=vhost)], [queue])
    equal([entry["routing_key"] for entry in listed("bindings", vhost=vhost) if entry["source"] == "amq.topic"], ["k"])
    admin("delete", "vhost", f"name={vhost}")


@scenario
def node_and_formats():
    overview = json.loads(admin("-f", "raw_json", "show", "overview"))[0]
    node = by_name(listed("nodes"), "name", overview["node"])
    check(node["running"] is True and node["mem_used"] > 0, f"node {node}")
    queue = name()
    admin("declare", "queue", f"name={queue}")
    table = admin("list", "queues", "name", "durable")
    contains(table, "+---")
    contains(table, f"| {queue}")
    equal(admin("-f", "tsv", "-q", "list", "queues", "name", "durable").count(f"{queue}\tTrue"), 1)
    for form, part in (("long", queue), ("pretty_json", f'"name": "{queue}"'), ("kvp", f'name="{queue}"'), ("bash", queue)):
        contains(admin("-f", form, "list", "queues", "name"), part, form)
    contains(admin("--sort", "name", "--sort-reverse", "list", "queues", "name"), queue)
    admin("delete", "queue", f"name={queue}")


interop.main()
