// A thin C++ layer over librabbitmq: connections that throw what the broker answers and sort what it sends.
#pragma once

#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>

#include <cstdint>
#include <deque>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

constexpr int wait_secs = 20;

/// The broker closed a channel or the connection.
struct Closed : std::runtime_error {
    Closed(bool connection, int code, const std::string& text)
        : std::runtime_error(std::to_string(code) + " " + text), connection(connection), code(code), text(text) {}
    bool connection;
    int code;
    std::string text;
};

/// The library gave up: no connection, no answer.
struct Broken : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// One field value, which owns what it points to.
struct Value {
    char kind = 'V';
    std::int64_t number = 0;
    std::uint8_t decimals = 0;
    double real = 0;
    std::string bytes;
    std::vector<std::pair<std::string, Value>> items;  // of a table; of an array with empty names

    static Value integer(char kind, std::int64_t number) { Value v; v.kind = kind; v.number = number; return v; }
    static Value floating(char kind, double real) { Value v; v.kind = kind; v.real = real; return v; }
    static Value string(const std::string& bytes, char kind = 'S') { Value v; v.kind = kind; v.bytes = bytes; return v; }
    static Value table(std::vector<std::pair<std::string, Value>> items) { Value v; v.kind = 'F'; v.items = std::move(items); return v; }
    static Value array(std::vector<std::pair<std::string, Value>> items) { Value v; v.kind = 'A'; v.items = std::move(items); return v; }
    static Value decimal(std::uint8_t decimals, std::int64_t number) { Value v = integer('D', number); v.decimals = decimals; return v; }

    explicit Value(const amqp_field_value_t& from);
    Value() = default;
    /// Type and content, for comparing and for messages.
    std::string show() const;
};

using Table = std::vector<std::pair<std::string, Value>>;

/// Lends a Table to the library: valid as long as this and the table live.
class Lent {
public:
    explicit Lent(const Table& table) { table_ = lend(table); }
    Lent(const Lent&) = delete;
    Lent& operator=(const Lent&) = delete;
    operator amqp_table_t() const { return table_; }

private:
    amqp_table_t lend(const Table& table);
    amqp_field_value_t lend(const Value& value);
    std::deque<std::vector<amqp_table_entry_t>> entries_;
    std::deque<std::vector<amqp_field_value_t>> values_;
    amqp_table_t table_{};
};

/// Basic properties; an empty string or zero is an absent one.
struct Properties {
    std::string content_type, content_encoding, correlation_id, reply_to, expiration, message_id, type, user_id, app_id, cluster_id;
    int delivery_mode = 0, priority = 0;
    std::uint64_t timestamp = 0;
    Table headers;
    amqp_flags_t flags = 0;  // as received
};

struct Delivery {
    std::uint64_t tag = 0;
    bool redelivered = false;
    std::string exchange, key, body;
    std::uint32_t messages_left = 0;  // of a get
    Properties properties;
    const Value* header(const std::string& name) const;
};

struct Consumer {
    int channel;
    std::string tag, queue;
};

/// Flags of a declaration.
struct Declare {
    bool passive = false, durable = false, exclusive = false, auto_delete = false;
};

/// A connection and what arrived on it.
class Connection {
public:
    struct Options {
        std::string url, vhost = "/", password;
        int heartbeat = 0;
    };
    explicit Connection(const Options& options);
    ~Connection();
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    int open_channel();
    void close_channel(int channel);
    int frame_max() const { return amqp_get_frame_max(state_); }
    int heartbeat() const { return amqp_get_heartbeat(state_); }

    /// Name and number of ready messages.
    std::pair<std::string, std::uint32_t> declare_queue(int channel, const std::string& queue, Declare flags, const Table& arguments = {});
    void declare_exchange(int channel, const std::string& exchange, const std::string& type, Declare flags = {});
    void delete_queue(int channel, const std::string& queue);
    void delete_exchange(int channel, const std::string& exchange);
    void bind(int channel, const std::string& queue, const std::string& exchange, const std::string& key, const Table& arguments = {});
    void unbind(int channel, const std::string& queue, const std::string& exchange, const std::string& key);
    void prefetch(int channel, int count, std::uint32_t size = 0);
    Consumer consume(int channel, const std::string& queue, bool no_ack, const std::string& tag = "", bool exclusive = false);
    void cancel(const Consumer& consumer);
    void publish(int channel, const std::string& exchange, const std::string& key, const std::string& body,
                 const Properties& properties = {}, bool mandatory = false, bool immediate = false);
    /// False when the queue is empty.
    bool get(int channel, const std::string& queue, bool no_ack, Delivery& into);
    void ack(int channel, std::uint64_t tag, bool multiple = false);
    void nack(int channel, std::uint64_t tag, bool multiple, bool requeue);
    void reject(int channel, std::uint64_t tag, bool requeue);
    void confirm_select(int channel);
    void tx_select(int channel);
    void tx_commit(int channel);
    void tx_rollback(int channel);

    /// Next delivery for the consumer; throws Broken when none comes.
    Delivery take(const Consumer& consumer);
    /// Waits until this many messages are confirmed on the channel since `confirm_select`.
    void wait_for_confirms(int channel, std::uint64_t count);
    /// Waits for one event of any kind; false when none comes in time.
    bool pump(int secs = wait_secs);
    /// Reads what already arrived.
    void drain() { while (pump(0)) {} }
    /// Deliveries waiting for the consumer.
    std::size_t waiting(const Consumer& consumer) { return deliveries_[{consumer.channel, consumer.tag}].size(); }

    std::vector<std::string> returns;      // as text
    std::vector<std::string> cancelled;    // consumer tags
    std::vector<std::string> events;       // "return …", "ack N", in order of arrival
    std::map<int, std::uint64_t> confirmed;  // channel -> highest confirmed with all before it
    std::uint64_t nacked = 0;

private:
    void check(const amqp_rpc_reply_t& reply, int channel);
    void check(int status);
    void check_last(int channel) { check(amqp_get_rpc_reply(state_), channel); }
    [[noreturn]] void closed(int channel, const amqp_method_t& method);
    void settle(int channel, std::uint64_t tag, bool multiple);
    Delivery read_message(int channel);

    amqp_connection_state_t state_;
    int channels_ = 0;
    bool open_ = false;
    std::map<std::pair<int, std::string>, std::deque<Delivery>> deliveries_;
    std::map<int, std::map<std::uint64_t, bool>> ahead_;  // confirms that overtook earlier ones
};
