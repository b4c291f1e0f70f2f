// The interop scenarios with librabbitmq.

#include "amqp.hpp"

#include <cstdlib>
#include <functional>
#include <iostream>
#include <memory>
#include <set>
#include <sstream>

namespace {

struct Failed : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Skipped : std::runtime_error {
    using std::runtime_error::runtime_error;
};

using Strings = std::vector<std::string>;

std::string setting(const char* name, const std::string& otherwise) {
    const char* value = std::getenv(name);
    return value && *value ? value : otherwise;
}

std::string name(const std::string& rest) {
    return setting("INTEROP_PREFIX", "interop-cpp-") + rest;
}

std::string show(const std::string& text) {
    return "'" + text + "'";
}
std::string show(const char* text) {
    return show(std::string(text));
}
std::string show(bool value) {
    return value ? "true" : "false";
}
template <typename Number>
std::string show(Number number) {
    return std::to_string(number);
}
std::string show(const Strings& list) {
    std::string text = "[";
    for (const auto& item : list) {
        text += show(item) + " ";
    }
    return text + "]";
}

void check(bool condition, const std::string& otherwise) {
    if (!condition) {
        throw Failed(otherwise);
    }
}

template <typename Expected, typename Actual>
void same(const std::string& what, const Expected& expected, const Actual& actual) {
    check(expected == actual, what + ": expected " + show(expected) + ", got " + show(actual));
}

/// A body whose content shows a lost, doubled or moved stretch.
std::string pattern(std::size_t size) {
    std::string body(size, '\0');
    for (std::size_t i = 0; i < size; i++) {
        body[i] = static_cast<char>(i * 31 + i / 251);
    }
    return body;
}

using Link = std::unique_ptr<Connection>;

Link connect(Connection::Options options = {}) {
    if (options.url.empty()) {
        options.url = setting("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/");
    }
    return std::make_unique<Connection>(options);
}

constexpr Declare passive{true, false, false, false};
constexpr Declare durable{false, true, false, false};
constexpr Declare exclusive{false, false, true, false};
constexpr Declare auto_delete{false, false, false, true};

Properties persistent() {
    Properties properties;
    properties.delivery_mode = 2;
    return properties;
}

/// An empty queue that goes with its connection.
std::string temporary_queue(Connection& link, int channel, const std::string& rest) {
    return link.declare_queue(channel, name(rest), exclusive).first;
}

/// An empty durable queue, replacing one of an earlier run.
std::string durable_queue(Connection& link, int channel, const std::string& rest, const Table& arguments = {}) {
    link.delete_queue(channel, name(rest));
    return link.declare_queue(channel, name(rest), durable, arguments).first;
}

std::string exchange(Connection& link, int channel, const std::string& rest, const std::string& type) {
    link.delete_exchange(channel, name(rest));
    link.declare_exchange(channel, name(rest), type);
    return name(rest);
}

/// A consumer on a server-named queue with these bindings.
Consumer bound(Connection& link, int channel, const std::string& exchange, const Strings& keys) {
    const std::string queue = link.declare_queue(channel, "", exclusive).first;
    for (const auto& key : keys) {
        link.bind(channel, queue, exchange, key);
    }
    return link.consume(channel, queue, true);
}

std::uint32_t ready(Connection& link, int channel, const std::string& queue) {
    return link.declare_queue(channel, queue, passive).second;
}

void round_trip(Connection& link, int channel) {
    link.declare_exchange(channel, "amq.direct", "direct", passive);
}

Delivery get(Connection& link, int channel, const std::string& queue, bool no_ack) {
    Delivery delivery;
    check(link.get(channel, queue, no_ack, delivery), "queue " + queue + " is empty");
    return delivery;
}

void expect_empty(Connection& link, int channel, const std::string& queue, const std::string& otherwise) {
    Delivery delivery;
    check(!link.get(channel, queue, true, delivery), otherwise);
}

Strings bodies(Connection& link, const Consumer& consumer, std::size_t count) {
    Strings list;
    for (std::size_t i = 0; i < count; i++) {
        list.push_back(link.take(consumer).body);
    }
    return list;
}

/// After a round trip, whatever the broker sent before it is here.
void expect_nothing(Connection& link, const Consumer& consumer, const std::string& what) {
    link.drain();
    check(link.waiting(consumer) == 0, what + ": unexpected delivery");
}

std::string expect_close(bool connection, int code, const std::function<void()>& action) {
    try {
        action();
    } catch (const Closed& closed) {
        same("code", code, closed.code);
        same("closes the connection", connection, closed.connection);
        return closed.text;
    }
    throw Failed("expected a close with " + std::to_string(code));
}

void expect_wait(Connection& link) {
    check(link.pump(), "nothing came within " + std::to_string(wait_secs) + " s");
}

void still_usable(Connection& link) {
    const int channel = link.open_channel();
    const std::string queue = link.declare_queue(channel, "", exclusive).first;
    link.publish(channel, "", queue, "alive");
    same("body on a new channel", "alive", get(link, channel, queue, true).body);
}

// ---- tutorials

void hello_world() {
    const Link link = connect();
    const int channel = link->open_channel();
    const std::string queue = temporary_queue(*link, channel, "hello");
    link->publish(channel, "", queue, "Hello World!");
    const Consumer consumer = link->consume(channel, queue, true);
    const Delivery delivery = link->take(consumer);
    same("body", "Hello World!", delivery.body);
    same("exchange", "", delivery.exchange);
    same("routing key", queue, delivery.key);
    same("redelivered", false, delivery.redelivered);
    link->cancel(consumer);
    same("messages left", 0U, ready(*link, channel, queue));
}

void work_queue_fair_dispatch() {
    const Link link = connect();
    const int setup = link->open_channel();
    const std::string queue = durable_queue(*link, setup, "work");
    const int slow_channel = link->open_channel();
    link->prefetch(slow_channel, 1);
    const Consumer slow = link->consume(slow_channel, queue, false);
    const int quick_channel = link->open_channel();
    link->prefetch(quick_channel, 1);
    const Consumer quick = link->consume(quick_channel, queue, false);
    for (int i = 0; i < 10; i++) {
        link->publish(setup, "", queue, "task " + std::to_string(i), persistent());
    }
    const Delivery held = link->take(slow);
    for (int i = 0; i < 9; i++) {
        link->ack(quick_channel, link->take(quick).tag);
    }
    same("ready", 0U, ready(*link, slow_channel, queue));
    expect_nothing(*link, slow, "the slow worker");
    link->ack(slow_channel, held.tag);
    link->delete_queue(setup, queue);
}

void publish_subscribe() {
    const Link link = connect();
    const int channel = link->open_channel();
    const std::string exchange = ::exchange(*link, channel, "logs", "fanout");
    const std::vector<Consumer> consumers = {bound(*link, channel, exchange, {""}), bound(*link, channel, exchange, {""})};
    for (int i = 0; i < 5; i++) {
        link->publish(channel, exchange, "ignored", "log " + std::to_string(i));
    }
    for (const auto& consumer : consumers) {
        check(consumer.queue.rfind("amq.gen-", 0) == 0, "the server-named queue is " + consumer.queue);
        for (int i = 0; i < 5; i++) {
            const Delivery delivery = link->take(consumer);
            same("body", "log " + std::to_string(i), delivery.body);
            same("exchange", exchange, delivery.exchange);
        }
    }
    link->delete_exchange(channel, exchange);
}

void routing() {
    const Link link = connect();
    const int channel = link->open_channel();
    const std::string exchange = ::exchange(*link, channel, "direct", "direct");
    const Consumer errors = bound(*link, channel, exchange, {"error"});
    const Consumer everything = bound(*link, channel, exchange, {"info", "warning", "error"});
    for (const std::string severity : {"info", "error", "debug", "warning", "error"}) {
        link->publish(channel, exchange, severity, severity);
    }
    same("errors", Strings{"error", "error"}, bodies(*link, errors, 2));
    same("everything", Strings{"info", "error", "warning", "error"}, bodies(*link, everything, 4));
    round_trip(*link, channel);
    expect_nothing(*link, errors, "errors");
    expect_nothing(*link, everything, "everything");
    link->unbind(channel, errors.queue, exchange, "error");
    link->publish(channel, exchange, "error", "after unbind");
    same("everything", Strings{"after unbind"}, bodies(*link, everything, 1));
    round_trip(*link, channel);
    expect_nothing(*link, errors, "errors after unbind");
    link->delete_exchange(channel, exchange);
}

void topics() {
    const Link link = connect();
    const int channel = link->open_channel();
    const std::string exchange = ::exchange(*link, channel, "topic", "topic");
    const Consumer orange = bound(*link, channel, exchange, {"*.orange.*"});
    const Consumer rabbits_and_lazy = bound(*link, channel, exchange, {"*.*.rabbit", "lazy.#"});
    const Consumer all = bound(*link, channel, exchange, {"#"});
    const Strings keys = {"quick.orange.rabbit", "lazy.orange.elephant", "quick.orange.fox", "lazy.brown.fox", "lazy.pink.rabbit",
                          "quick.brown.fox", "orange", "quick.orange.new.rabbit", "lazy.orange.new.rabbit", "lazy", ""};
    for (const auto& key : keys) {
        link->publish(channel, exchange, key, key);
    }
    same("orange", Strings{"quick.orange.rabbit", "lazy.orange.elephant", "quick.orange.fox"}, bodies(*link, orange, 3));
    same("rabbits and lazy",
         Strings{"quick.orange.rabbit", "lazy.orange.elephant", "lazy.brown.fox", "lazy.pink.rabbit", "lazy.orange.new.rabbit", "lazy"},
         bodies(*link, rabbits_and_lazy, 6));
    same("all", keys, bodies(*link, all, keys.size()));
    round_trip(*link, channel);
    for (const auto& consumer : {orange, rabbits_and_lazy, all}) {
        expect_nothing(*link, consumer, "topics");
    }
    link->delete_exchange(channel, exchange);
}

void headers() {
    const Link link = connect();
    const int channel = link->open_channel();
    const std::string exchange = ::exchange(*link, channel, "headers", "headers");
    const auto pages = [](int count) { return Value::integer('I', count); };
    const Value pdf = Value::string("pdf");
    std::vector<Consumer> consumers;
    for (const std::string matching : {"all", "any"}) {
        const std::string queue = link->declare_queue(channel, "", exclusive).first;
        link->bind(channel, queue, exchange, "", {{"x-match", Value::string(matching)}, {"format", pdf}, {"pages", pages(3)}});
        consumers.push_back(link->consume(channel, queue, true));
    }
    const std::vector<std::pair<std::string, Table>> messages = {
        {"both", {{"format", pdf}, {"pages", pages(3)}, {"x", Value::string("y")}}},
        {"format", {{"format", pdf}, {"pages", pages(4)}}},
        {"pages", {{"pages", pages(3)}}},
        {"neither", {{"format", Value::string("zip")}}},
        {"none", {}},
    };
    for (const auto& [body, table] : messages) {
        Properties properties;
        properties.headers = table;
        link->publish(channel, exchange, "", body, properties);
    }
    same("all", Strings{"both"}, bodies(*link, consumers[0], 1));
    same("any", Strings{"both", "format", "pages"}, bodies(*link, consumers[1], 3));
    round_trip(*link, channel);
    expect_nothing(*link, consumers[0], "all");
    expect_nothing(*link, consumers[1], "any");
    link->delete_exchange(channel, exchange);
}

/// Ten calls of a doubling server; `seen_prefix` starts the reply-to that the server sees.
void rpc(Connection& link, int server, int client, const std::string& reply_to, const std::string& seen_prefix) {
    const std::string requests = temporary_queue(link, server, "rpc");
    const Consumer calls = link.consume(server, requests, false);
    const Consumer replies = link.consume(client, reply_to, true);
    for (int i = 0; i < 10; i++) {
        Properties properties;
        properties.reply_to = reply_to;
        properties.correlation_id = "call-" + std::to_string(i);
        link.publish(client, "", requests, std::to_string(i), properties);
        const Delivery call = link.take(calls);
        const std::string answer_to = call.properties.reply_to;
        check(answer_to.rfind(seen_prefix, 0) == 0, "the server sees reply-to " + answer_to);
        Properties answer;
        answer.correlation_id = call.properties.correlation_id;
        link.publish(server, "", answer_to, std::to_string(2 * std::stoi(call.body)), answer);
        link.ack(server, call.tag);
        const Delivery reply = link.take(replies);
        same("reply", std::to_string(2 * i), reply.body);
        same("correlation id", "call-" + std::to_string(i), reply.properties.correlation_id);
    }
}

void rpc_reply_queue() {
    const Link link = connect();
    const int client = link->open_channel();
    const std::string reply_queue = link->declare_queue(client, "", exclusive).first;
    rpc(*link, link->open_channel(), client, reply_queue, reply_queue);
}

void rpc_direct_reply_to() {
    const Link link = connect();
    const int client = link->open_channel();
    rpc(*link, link->open_channel(), client, "amq.rabbitmq.reply-to", "amq.rabbitmq.reply-to.");
}

// ---- publishing

void confirms_single() {
    const Link link = connect();
    const int channel = link->open_channel();
    const std::string queue = temporary_queue(*link, channel, "confirm-single");
    link->confirm_select(channel);
    for (std::uint64_t i = 1; i <= 20; i++) {
        link->publish(channel, "", queue, "m");
        link->wait_for_confirms(channel, i);
    }
    same("nacks", 0U, link->nacked);
    same("ready", 20U, ready(*link, channel, queue));
}

void confirms_batch() {
    const Link link = connect();
    const int channel = link->open_channel();
    const std::string queue = temporary_queue(*link, channel, "confirm-batch");
    link->confirm_select(channel);
    for (std::uint64_t batch = 1; batch <= 10; batch++) {
        for (int i = 0; i < 100; i++) {
            link->publish(channel, "", queue, "m");
        }
        link->wait_for_confirms(channel, 100 * batch);
    }
    same("nacks", 0U, link->nacked);
    same("ready", 1000U, ready(*link, channel, queue));
}

void confirms_async_50000() {
    const auto messages = static_cast<std::uint32_t>(std::stoul(setting("INTEROP_MESSAGES", "50000")));
    const Link link = connect();
    const int channel = link->open_channel();
    const std::string queue = durable_queue(*link, channel, "confirm-async");
    link->confirm_select(channel);
    for (std::uint32_t i = 0; i < messages; i++) {
        link->publish(channel, "", queue, "message " + std::to_string(i), persistent());
    }
    link->wait_for_confirms(channel, messages);
    same("nacks", 0U, link->nacked);
    same("ready", messages, ready(*link, channel, queue));
    link->delete_queue(channel, queue);
}

void mandatory_return() {
    const Link link = connect();
    const int channel = link->open_channel();
    const std::string queue = temporary_queue(*link, channel, "mandatory");
    link->confirm_select(channel);
    Properties properties;
    properties.message_id = "id-1";
    link->publish(channel, "", queue + "-missing", "lost", properties, true);
    link->wait_for_confirms(channel, 1);
    same("events", Strings{"return 312 NO_ROUTE '' " + queue + "-missing id-1 lost", "ack 1"}, link->events);
    link->publish(channel, "", queue, "found", properties, true);
    link->wait_for_confirms(channel, 2);
    same("number of events", std::size_t{3}, link->events.size());
    same("ready", 1U, ready(*link, channel, queue));
}

// ---- consuming

void basic_get() {
    const Link link = connect();
    const int channel = link->open_channel();
    const std::string queue = temporary_queue(*link, channel, "get");
    expect_empty(*link, channel, queue, "an empty queue gave a message");
    for (int i = 0; i < 3; i++) {
        link->publish(channel, "", queue, "m" + std::to_string(i));
    }
    for (std::uint32_t i = 0; i < 3; i++) {
        const Delivery got = get(*link, channel, queue, i == 2);
        same("body", "m" + std::to_string(i), got.body);
        same("messages left", 2 - i, got.messages_left);
        if (i < 2) {
            link->ack(channel, got.tag);
        }
    }
    expect_empty(*link, channel, queue, "the drained queue gave a message");
}

void nack_requeue_redelivered() {
    const Link link = connect();
    const int channel = link->open_channel();
    const std::string dead = temporary_queue(*link, channel, "nack-dead");
    const std::string queue = link->declare_queue(channel, name("nack"), exclusive,
        {{"x-dead-letter-exchange", Value::string("")}, {"x-dead-letter-routing-key", Value::string(dead)}}).first;
    std::uint64_t last = 0;
    for (int i = 0; i < 3; i++) {
        link->publish(channel, "", queue, "m" + std::to_string(i));
    }
    for (int i = 0; i < 3; i++) {
        const Delivery got = get(*link, channel, queue, false);
        same("first delivery redelivered", false, got.redelivered);
        last = got.tag;
    }
    link->nack(channel, last, true, true);
    std::vector<std::uint64_t> again;
    for (int i = 0; i < 3; i++) {
        const Delivery got = get(*link, channel, queue, false);
        same("order after requeue", "m" + std::to_string(i), got.body);
        same("redelivered", true, got.redelivered);
        again.push_back(got.tag);
    }
    link->reject(channel, again[1], true);
    link->reject(channel, again[0], false);
    link->nack(channel, again[2], false, false);
    same("requeued one", "m1", get(*link, channel, queue, true).body);
    expect_empty(*link, channel, queue, "a discarded message came back");
    const Consumer letters = link->consume(channel, dead, true);
    for (const std::string body : {"m0", "m2"}) {
        const Delivery letter = link->take(letters);
        same("dead letter", body, letter.body);
        const Value* deaths = letter.header("x-death");
        check(deaths && deaths->kind == 'A' && !deaths->items.empty(), "no x-death array");
        std::map<std::string, std::string> death;
        for (const auto& [key, value] : deaths->items[0].second.items) {
            death[key] = value.show();
        }
        same("x-death queue", "S:" + queue, death["queue"]);
        same("x-death reason", "S:rejected", death["reason"]);
        same("x-death count", "l:1/0", death["count"]);
    }
}

void prefetch_1_and_100() {
    const Link link = connect();
    for (const unsigned window : {1U, 100U}) {
        const int channel = link->open_channel();
        const std::string queue = temporary_queue(*link, channel, "prefetch-" + std::to_string(window));
        link->confirm_select(channel);
        for (int i = 0; i < 250; i++) {
            link->publish(channel, "", queue, "m" + std::to_string(i));
        }
        link->wait_for_confirms(channel, 250);
        link->prefetch(channel, static_cast<int>(window));
        const Consumer consumer = link->consume(channel, queue, false);
        std::uint64_t last = 0;
        for (unsigned i = 0; i < window; i++) {
            const Delivery delivery = link->take(consumer);
            same("order", "m" + std::to_string(i), delivery.body);
            last = delivery.tag;
        }
        same("ready at a full window", 250 - window, ready(*link, channel, queue));
        expect_nothing(*link, consumer, "beyond the window");
        link->ack(channel, last, true);
        for (unsigned i = window; i < 2 * window; i++) {
            same("order", "m" + std::to_string(i), link->take(consumer).body);
        }
        same("ready after one ack", 250 - 2 * window, ready(*link, channel, queue));
        expect_nothing(*link, consumer, "beyond the second window");
    }
}

void consumer_cancel_and_queue_deletion() {
    const Link link = connect();
    const int channel = link->open_channel();
    const std::string queue = temporary_queue(*link, channel, "cancel");
    link->confirm_select(channel);
    const Consumer first = link->consume(channel, queue, true);
    link->publish(channel, "", queue, "before");
    same("body", "before", link->take(first).body);
    link->cancel(first);
    link->publish(channel, "", queue, "after");
    link->wait_for_confirms(channel, 2);
    same("ready", 1U, ready(*link, channel, queue));
    expect_nothing(*link, first, "after cancel");
    const Consumer second = link->consume(channel, queue, true);
    same("body", "after", link->take(second).body);
    link->delete_queue(link->open_channel(), queue);
    while (link->cancelled.empty()) {
        expect_wait(*link);
    }
    same("cancelled consumers", Strings{second.tag}, link->cancelled);
    round_trip(*link, channel);
}

void exclusive_and_auto_delete() {
    const Link watcher = connect();
    Link owner = connect();
    const std::string queue = temporary_queue(*owner, owner->open_channel(), "exclusive");
    const int intruder = watcher->open_channel();
    expect_close(false, 405, [&] { ready(*watcher, intruder, queue); });
    owner.reset();
    const int after = watcher->open_channel();
    expect_close(false, 404, [&] { ready(*watcher, after, queue); });

    int channel = watcher->open_channel();
    const std::string vanishing = watcher->declare_queue(channel, name("auto-delete"), auto_delete).first;
    const Consumer first = watcher->consume(channel, vanishing, true);
    const Consumer second = watcher->consume(channel, vanishing, true);
    watcher->cancel(first);
    ready(*watcher, channel, vanishing);
    watcher->cancel(second);
    expect_close(false, 404, [&] { ready(*watcher, channel, vanishing); });

    channel = watcher->open_channel();
    const std::string exchange = name("auto-delete-exchange");
    watcher->declare_exchange(channel, exchange, "direct", auto_delete);
    const std::string target = watcher->declare_queue(channel, "", exclusive).first;
    watcher->bind(channel, target, exchange, "k");
    watcher->declare_exchange(channel, exchange, "direct", passive);
    watcher->unbind(channel, target, exchange, "k");
    expect_close(false, 404, [&] { watcher->declare_exchange(channel, exchange, "direct", passive); });
}

void transactions() {
    const Link link = connect();
    const int channel = link->open_channel();
    const int observer = link->open_channel();
    const std::string queue = temporary_queue(*link, channel, "tx");
    link->tx_select(channel);
    link->publish(channel, "", queue, "one");
    link->publish(channel, "", queue, "two");
    round_trip(*link, channel);
    same("ready before commit", 0U, ready(*link, observer, queue));
    link->tx_commit(channel);
    same("ready after commit", 2U, ready(*link, observer, queue));
    link->publish(channel, "", queue, "never");
    link->tx_rollback(channel);
    same("ready after rollback", 2U, ready(*link, observer, queue));
    const std::uint64_t tag = get(*link, channel, queue, false).tag;
    link->ack(channel, tag);
    link->tx_rollback(channel);
    // The message is unacknowledged again, so that the same tag can be acknowledged a second time.
    link->ack(channel, tag);
    link->tx_commit(channel);
    link->close_channel(channel);
    same("rest", "two", get(*link, observer, queue, true).body);
    same("ready at the end", 0U, ready(*link, observer, queue));
}

// ---- content

void properties_and_header_types_round_trip() {
    const Link link = connect();
    const int channel = link->open_channel();
    const std::string queue = temporary_queue(*link, channel, "properties");
    Properties sent;
    sent.content_type = "text/plain";
    sent.content_encoding = "utf-8";
    sent.delivery_mode = 2;
    sent.priority = 5;
    sent.correlation_id = "correlation";
    sent.reply_to = "reply";
    sent.expiration = "60000";
    sent.message_id = "message";
    sent.timestamp = 1700000000;
    sent.type = "kind";
    sent.user_id = "guest";
    sent.app_id = "app";
    sent.cluster_id = "cluster";
    sent.headers = {
        {"bool-true", Value::integer('t', 1)},
        {"bool-false", Value::integer('t', 0)},
        {"byte", Value::integer('b', -128)},
        {"unsigned-byte", Value::integer('B', 255)},
        {"short", Value::integer('s', -32768)},
        {"unsigned-short", Value::integer('u', 65535)},
        {"int", Value::integer('I', INT32_MIN)},
        {"unsigned-int", Value::integer('i', UINT32_MAX)},
        {"long", Value::integer('l', INT64_MIN)},
        {"float", Value::floating('f', 1.5)},
        {"double", Value::floating('d', -2.25e300)},
        {"decimal", Value::decimal(2, 12345)},
        {"string", Value::string("Grüße, 世界")},
        {"empty", Value::string("")},
        {"bytes", Value::string(std::string("\0\1\xff", 3), 'x')},
        {"timestamp", Value::integer('T', 1700000000)},
        {"void", Value()},
        {"array", Value::array({{"", Value::integer('I', 1)}, {"", Value::integer('t', 1)}, {"", Value::string("x")}})},
        {"table", Value::table({{"deep", Value::table({{"deeper", Value::string("bottom")}})}})},
        {"long-string", Value::string(std::string(5000, 'y'))},
    };
    link->publish(channel, "", queue, "body", sent);
    const Delivery delivery = get(*link, channel, queue, true);
    const Properties& back = delivery.properties;
    same("texts", Strings{sent.content_type, sent.content_encoding, sent.correlation_id, sent.reply_to, sent.expiration, sent.message_id,
                          sent.type, sent.user_id, sent.app_id, sent.cluster_id},
         Strings{back.content_type, back.content_encoding, back.correlation_id, back.reply_to, back.expiration, back.message_id,
                 back.type, back.user_id, back.app_id, back.cluster_id});
    same("delivery mode", 2, back.delivery_mode);
    same("priority", 5, back.priority);
    same("timestamp", sent.timestamp, back.timestamp);
    same("number of headers", sent.headers.size(), back.headers.size());
    for (const auto& [key, value] : sent.headers) {
        const Value* got = delivery.header(key);
        check(got != nullptr, "header " + key + " is missing");
        same("header " + key, value.show(), got->show());
    }
    link->publish(channel, "", queue, "bare");
    same("flags of bare properties", 0U, get(*link, channel, queue, true).properties.flags);
}

void body_sizes() {
    const Link link = connect();
    const int channel = link->open_channel();
    const std::string queue = temporary_queue(*link, channel, "sizes");
    const auto frame_body = static_cast<std::size_t>(link->frame_max() - 8);
    const std::vector<std::size_t> sizes = {0, 1, frame_body, frame_body + 1, 2 * frame_body, 8U << 20};
    for (const auto size : sizes) {
        link->publish(channel, "", queue, pattern(size));
        check(get(*link, channel, queue, true).body == pattern(size), "the body of " + show(size) + " bytes came back changed");
    }
    const Consumer consumer = link->consume(channel, queue, true);
    for (const auto size : sizes) {
        link->publish(channel, "", queue, pattern(size));
        check(link->take(consumer).body == pattern(size), "the delivery of " + show(size) + " bytes came changed");
    }
}

// ---- connections

void thousand_queues_200_channels() {
    const Link link = connect();
    std::vector<int> channels;
    for (int i = 0; i < 200; i++) {
        channels.push_back(link->open_channel());
    }
    const auto many = [](std::size_t i) { return "many-" + std::to_string(i); };
    for (std::size_t i = 0; i < 1000; i++) {
        link->publish(channels[i % 200], "", temporary_queue(*link, channels[i % 200], many(i)), "for " + std::to_string(i));
    }
    for (std::size_t i = 0; i < 1000; i++) {
        same("body", "for " + std::to_string(i), get(*link, channels[i % 200], name(many(i)), true).body);
    }
    for (std::size_t i = 0; i < 1000; i++) {
        link->delete_queue(channels[(i + 7) % 200], name(many(i)));
    }
    for (const int channel : channels) {
        link->close_channel(channel);
    }
    still_usable(*link);
}

void ipv4_and_ipv6() {
    const std::string url = setting("AMQP_URL_V6", "");
    if (url.empty()) {
        throw Skipped("AMQP_URL_V6 is not set");
    }
    const Link four = connect();
    Connection::Options options;
    options.url = url;
    const Link six = connect(options);
    const int sender = four->open_channel();
    const int receiver = six->open_channel();
    four->delete_queue(sender, name("families"));
    const std::string queue = four->declare_queue(sender, name("families"), {}).first;
    const Consumer consumer = six->consume(receiver, queue, true);
    four->publish(sender, "", queue, "across");
    same("body", "across", six->take(consumer).body);
    four->delete_queue(sender, queue);
}

void heartbeat_idle() {
    Connection::Options options;
    options.heartbeat = 1;
    const Link link = connect(options);
    same("negotiated heartbeat", 1, link->heartbeat());
    const int channel = link->open_channel();
    // Idle longer than either side tolerates silence; the library exchanges heartbeats while it waits.
    check(!link->pump(4), "something arrived on an idle connection");
    const std::string queue = temporary_queue(*link, channel, "idle");
    link->publish(channel, "", queue, "still here");
    same("body", "still here", get(*link, channel, queue, true).body);
}

void dead_peer_detection() {
    const Link watcher = connect();
    const int channel = watcher->open_channel();
    const std::string queue = durable_queue(*watcher, channel, "dead-peer");
    watcher->confirm_select(channel);
    watcher->publish(channel, "", queue, "held");
    watcher->wait_for_confirms(channel, 1);
    // The library sends heartbeats only while it is asked to do something; left alone, this connection falls silent.
    Connection::Options options;
    options.heartbeat = 1;
    const Link doomed = connect(options);
    const int doomed_channel = doomed->open_channel();
    same("held", "held", get(*doomed, doomed_channel, queue, false).body);
    const Consumer consumer = watcher->consume(channel, queue, true);
    const Delivery back = watcher->take(consumer);
    same("body after the broker noticed", "held", back.body);
    same("redelivered", true, back.redelivered);
    try {
        ready(*doomed, doomed_channel, queue);
        throw Failed("the dropped connection still answers");
    } catch (const Broken&) {
    }
    watcher->delete_queue(channel, queue);
}

// ---- errors

void error_404() {
    const Link link = connect();
    const std::string missing = name("missing");
    const int channel = link->open_channel();
    same("text", "NOT_FOUND - no queue '" + missing + "' in vhost '/'",
         expect_close(false, 404, [&] { ready(*link, channel, missing); }));
    const int publisher = link->open_channel();
    link->publish(publisher, missing, "k", "x");
    same("text", "NOT_FOUND - no exchange '" + missing + "' in vhost '/'", expect_close(false, 404, [&] { expect_wait(*link); }));
    const int consumer = link->open_channel();
    expect_close(false, 404, [&] { link->consume(consumer, missing, true); });
    still_usable(*link);
}

void error_406() {
    const Link link = connect();
    const int channel = link->open_channel();
    const std::string queue = temporary_queue(*link, channel, "inequivalent");
    same("text", "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue '" + queue + "' in vhost '/': "
         "received the value '7' of type 'signedint' but current is none",
         expect_close(false, 406, [&] { link->declare_queue(channel, queue, exclusive, {{"x-max-length", Value::integer('I', 7)}}); }));
    const int second = link->open_channel();
    link->ack(second, 42);
    same("text", "PRECONDITION_FAILED - unknown delivery tag 42", expect_close(false, 406, [&] { expect_wait(*link); }));
    still_usable(*link);
}

void error_403() {
    const Link link = connect();
    const int channel = link->open_channel();
    same("text", "ACCESS_REFUSED - queue name 'amq.interop' contains reserved prefix 'amq.*'",
         expect_close(false, 403, [&] { link->declare_queue(channel, "amq.interop", {}); }));
    const int owner = link->open_channel();
    const std::string queue = temporary_queue(*link, owner, "exclusive-consumer");
    link->consume(owner, queue, true, "", true);
    const int second = link->open_channel();
    same("text", "ACCESS_REFUSED - queue '" + queue + "' in vhost '/' in exclusive use",
         expect_close(false, 403, [&] { link->consume(second, queue, true); }));
    still_usable(*link);
    Connection::Options options;
    options.password = "wrong";
    const std::string text = expect_close(true, 403, [&] { connect(options); });
    check(text.rfind("ACCESS_REFUSED - Login was refused", 0) == 0, "text is " + text);
}

void error_405() {
    const Link owner = connect();
    const int owning = owner->open_channel();
    const std::string queue = temporary_queue(*owner, owning, "locked");
    const Link link = connect();
    const int channel = link->open_channel();
    const std::string text = expect_close(false, 405, [&] { link->declare_queue(channel, queue, exclusive); });
    check(text.rfind("RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '" + queue + "' in vhost '/'", 0) == 0, "text is " + text);
    still_usable(*link);
    same("ready for the owner", 0U, ready(*owner, owning, queue));
}

void error_530() {
    const Link link = connect();
    const int channel = link->open_channel();
    const std::string queue = temporary_queue(*link, channel, "tag");
    link->consume(channel, queue, true, "twice");
    same("text", "NOT_ALLOWED - attempt to reuse consumer tag 'twice'",
         expect_close(true, 530, [&] { link->consume(channel, queue, true, "twice"); }));
    Connection::Options options;
    options.vhost = "interop-missing";
    same("text", "NOT_ALLOWED - vhost interop-missing not found", expect_close(true, 530, [&] { connect(options); }));
}

void error_540() {
    const Link link = connect();
    const int channel = link->open_channel();
    link->publish(channel, "", name("nowhere"), "at once", {}, false, true);
    same("text", "NOT_IMPLEMENTED - immediate=true", expect_close(true, 540, [&] { expect_wait(*link); }));
    const Link second = connect();
    const int other = second->open_channel();
    same("text", "NOT_IMPLEMENTED - prefetch_size!=0 (10)", expect_close(true, 540, [&] { second->prefetch(other, 1, 10); }));
}

// ---- durability

void quorum_queue() {
    const Link link = connect();
    const int channel = link->open_channel();
    const std::string queue = durable_queue(*link, channel, "quorum", {{"x-queue-type", Value::string("quorum")}});
    link->confirm_select(channel);
    link->publish(channel, "", queue, "counted", persistent());
    link->wait_for_confirms(channel, 1);
    link->prefetch(channel, 10);
    const Consumer consumer = link->consume(channel, queue, false);
    Delivery delivery = link->take(consumer);
    check(!delivery.header("x-delivery-count"), "the first delivery is counted");
    for (std::int64_t count = 1; count <= 2; count++) {
        link->nack(channel, delivery.tag, false, true);
        delivery = link->take(consumer);
        same("body", "counted", delivery.body);
        same("redelivered", true, delivery.redelivered);
        const Value* seen = delivery.header("x-delivery-count");
        check(seen != nullptr, "no x-delivery-count");
        same("x-delivery-count", count, seen->number);
    }
    link->ack(channel, delivery.tag);
    link->delete_queue(channel, queue);
}

/// The library has no recovery: the application connects again.
void recovery_after_kill() {
    const std::string control = setting("BROKER_CONTROL", "");
    if (control.empty()) {
        throw Skipped("BROKER_CONTROL is not set");
    }
    constexpr std::uint32_t count = 500;
    Link link = connect();
    int channel = link->open_channel();
    const std::string queue = durable_queue(*link, channel, "recovery-durable");
    link->confirm_select(channel);
    for (std::uint32_t i = 0; i < count; i++) {
        link->publish(channel, "", queue, "kept " + std::to_string(i), persistent());
    }
    link->wait_for_confirms(channel, count);
    same("nacks", 0U, link->nacked);
    same("status of kill-restart", 0, std::system(("'" + control + "' kill-restart >/dev/null 2>&1 </dev/null").c_str()));
    try {
        ready(*link, channel, queue);
        throw Failed("the connection outlived its broker");
    } catch (const Broken&) {
        link = connect();
    }
    channel = link->open_channel();
    same("kept messages", count, ready(*link, channel, queue));
    const Consumer consumer = link->consume(channel, queue, true);
    for (std::uint32_t i = 0; i < count; i++) {
        same("kept message", "kept " + std::to_string(i), link->take(consumer).body);
    }
    round_trip(*link, channel);
    expect_nothing(*link, consumer, "kept messages");
    link->delete_queue(channel, queue);
}

}  // namespace

int main() {
    const std::vector<std::pair<std::string, void (*)()>> scenarios = {
#define SCENARIO(function) {#function, function}
        SCENARIO(hello_world), SCENARIO(work_queue_fair_dispatch), SCENARIO(publish_subscribe), SCENARIO(routing), SCENARIO(topics),
        SCENARIO(headers), SCENARIO(rpc_reply_queue), SCENARIO(rpc_direct_reply_to), SCENARIO(confirms_single), SCENARIO(confirms_batch),
        SCENARIO(confirms_async_50000), SCENARIO(mandatory_return), SCENARIO(basic_get), SCENARIO(nack_requeue_redelivered),
        SCENARIO(prefetch_1_and_100), SCENARIO(consumer_cancel_and_queue_deletion), SCENARIO(exclusive_and_auto_delete),
        SCENARIO(transactions), SCENARIO(properties_and_header_types_round_trip), SCENARIO(body_sizes),
        SCENARIO(thousand_queues_200_channels), SCENARIO(ipv4_and_ipv6), SCENARIO(heartbeat_idle), SCENARIO(dead_peer_detection),
        SCENARIO(error_404), SCENARIO(error_406), SCENARIO(error_403), SCENARIO(error_405), SCENARIO(error_530), SCENARIO(error_540),
        SCENARIO(quorum_queue), SCENARIO(recovery_after_kill),
#undef SCENARIO
    };
    std::set<std::string> only;
    std::istringstream listed(setting("INTEROP_ONLY", ""));
    for (std::string wanted; std::getline(listed, wanted, ',');) {
        only.insert(wanted);
    }
    for (const auto& [name, body] : scenarios) {
        if (!only.empty() && !only.count(name)) {
            continue;
        }
        std::string line = "PASS " + name;
        try {
            body();
        } catch (const Skipped& skip) {
            line = "SKIP " + name + ": " + skip.what();
        } catch (const Closed& closed) {
            line = "FAIL " + name + ": closed by the broker: " + closed.what();
        } catch (const std::exception& error) {
            line = "FAIL " + name + ": " + error.what();
        }
        for (char& c : line) {
            c = c == '\n' ? ' ' : c;
        }
        std::cout << line.substr(0, 500) << std::endl;
    }
    std::cout << "DONE" << std::endl;
}
