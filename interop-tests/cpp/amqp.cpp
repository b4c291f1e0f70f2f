#include "amqp.hpp"

#include <sys/time.h>

#include <sstream>

namespace {

amqp_bytes_t view(const std::string& text) {
    return amqp_bytes_t{text.size(), const_cast<char*>(text.data())};
}

std::string copy(amqp_bytes_t bytes) {
    return std::string(static_cast<const char*>(bytes.bytes), bytes.len);
}

Table copy(const amqp_table_t& table) {
    Table copied;
    for (int i = 0; i < table.num_entries; i++) {
        copied.emplace_back(copy(table.entries[i].key), Value(table.entries[i].value));
    }
    return copied;
}

std::string error_text(int status) {
    return amqp_error_string2(status);
}

}  // namespace

// ---- values

Value::Value(const amqp_field_value_t& from) : kind(static_cast<char>(from.kind)) {
    switch (from.kind) {
        case AMQP_FIELD_KIND_BOOLEAN: number = from.value.boolean; break;
        case AMQP_FIELD_KIND_I8: number = from.value.i8; break;
        case AMQP_FIELD_KIND_U8: number = from.value.u8; break;
        case AMQP_FIELD_KIND_I16: number = from.value.i16; break;
        case AMQP_FIELD_KIND_U16: number = from.value.u16; break;
        case AMQP_FIELD_KIND_I32: number = from.value.i32; break;
        case AMQP_FIELD_KIND_U32: number = from.value.u32; break;
        case AMQP_FIELD_KIND_I64: number = from.value.i64; break;
        case AMQP_FIELD_KIND_U64:
        case AMQP_FIELD_KIND_TIMESTAMP: number = static_cast<std::int64_t>(from.value.u64); break;
        case AMQP_FIELD_KIND_F32: real = from.value.f32; break;
        case AMQP_FIELD_KIND_F64: real = from.value.f64; break;
        case AMQP_FIELD_KIND_DECIMAL:
            decimals = from.value.decimal.decimals;
            number = from.value.decimal.value;
            break;
        case AMQP_FIELD_KIND_UTF8:
        case AMQP_FIELD_KIND_BYTES: bytes = copy(from.value.bytes); break;
        case AMQP_FIELD_KIND_TABLE: items = copy(from.value.table); break;
        case AMQP_FIELD_KIND_ARRAY:
            for (int i = 0; i < from.value.array.num_entries; i++) {
                items.emplace_back("", Value(from.value.array.entries[i]));
            }
            break;
        default: break;
    }
}

std::string Value::show() const {
    std::ostringstream text;
    text << kind << ':';
    if (kind == 'F' || kind == 'A') {
        for (const auto& [name, value] : items) {
            text << '[' << name << ' ' << value.show() << ']';
        }
    } else if (kind == 'S' || kind == 'x') {
        text << bytes;
    } else if (kind == 'f' || kind == 'd') {
        text.precision(17);
        text << real;
    } else {
        text << number << '/' << int(decimals);
    }
    return text.str();
}

amqp_table_t Lent::lend(const Table& table) {
    std::vector<amqp_table_entry_t> entries;
    for (const auto& [name, value] : table) {
        entries.push_back(amqp_table_entry_t{view(name), lend(value)});
    }
    entries_.push_back(std::move(entries));
    return amqp_table_t{static_cast<int>(table.size()), entries_.back().data()};
}

amqp_field_value_t Lent::lend(const Value& value) {
    amqp_field_value_t lent{};
    lent.kind = static_cast<std::uint8_t>(value.kind);
    switch (value.kind) {
        case AMQP_FIELD_KIND_BOOLEAN: lent.value.boolean = value.number != 0; break;
        case AMQP_FIELD_KIND_I8: lent.value.i8 = static_cast<std::int8_t>(value.number); break;
        case AMQP_FIELD_KIND_U8: lent.value.u8 = static_cast<std::uint8_t>(value.number); break;
        case AMQP_FIELD_KIND_I16: lent.value.i16 = static_cast<std::int16_t>(value.number); break;
        case AMQP_FIELD_KIND_U16: lent.value.u16 = static_cast<std::uint16_t>(value.number); break;
        case AMQP_FIELD_KIND_I32: lent.value.i32 = static_cast<std::int32_t>(value.number); break;
        case AMQP_FIELD_KIND_U32: lent.value.u32 = static_cast<std::uint32_t>(value.number); break;
        case AMQP_FIELD_KIND_I64: lent.value.i64 = value.number; break;
        case AMQP_FIELD_KIND_TIMESTAMP: lent.value.u64 = static_cast<std::uint64_t>(value.number); break;
        case AMQP_FIELD_KIND_F32: lent.value.f32 = static_cast<float>(value.real); break;
        case AMQP_FIELD_KIND_F64: lent.value.f64 = value.real; break;
        case AMQP_FIELD_KIND_DECIMAL:
            lent.value.decimal = amqp_decimal_t{value.decimals, static_cast<std::uint32_t>(value.number)};
            break;
        case AMQP_FIELD_KIND_UTF8:
        case AMQP_FIELD_KIND_BYTES: lent.value.bytes = view(value.bytes); break;
        case AMQP_FIELD_KIND_TABLE: lent.value.table = lend(value.items); break;
        case AMQP_FIELD_KIND_ARRAY: {
            std::vector<amqp_field_value_t> values;
            for (const auto& item : value.items) {
                values.push_back(lend(item.second));
            }
            values_.push_back(std::move(values));
            lent.value.array = amqp_array_t{static_cast<int>(value.items.size()), values_.back().data()};
            break;
        }
        default: break;
    }
    return lent;
}

const Value* Delivery::header(const std::string& name) const {
    for (const auto& [key, value] : properties.headers) {
        if (key == name) {
            return &value;
        }
    }
    return nullptr;
}

// ---- connection

Connection::Connection(const Options& options) : state_(amqp_new_connection()) {
    std::string url = options.url;
    amqp_connection_info info;
    if (amqp_parse_url(url.data(), &info) != AMQP_STATUS_OK) {
        amqp_destroy_connection(state_);
        throw Broken("cannot parse " + options.url);
    }
    try {
        amqp_socket_t* socket = amqp_tcp_socket_new(state_);
        timeval limit{wait_secs, 0};
        check(amqp_set_rpc_timeout(state_, &limit));
        check(amqp_socket_open_noblock(socket, info.host, info.port, &limit));
        const std::string password = options.password.empty() ? info.password : options.password;
        // By itself the library asks for 403 on a refused login, but not for basic.cancel.
        const Table capabilities = {{"authentication_failure_close", Value::integer('t', 1)}, {"consumer_cancel_notify", Value::integer('t', 1)}};
        const Table properties = {{"capabilities", Value::table(capabilities)}};
        const Lent lent_properties(properties);
        const amqp_table_t lent = lent_properties;
        check(amqp_login_with_properties(state_, options.vhost.c_str(), AMQP_DEFAULT_MAX_CHANNELS, AMQP_DEFAULT_FRAME_SIZE, options.heartbeat,
                                         &lent, AMQP_SASL_METHOD_PLAIN, info.user, password.c_str()), 0);
    } catch (...) {
        amqp_destroy_connection(state_);
        throw;
    }
    open_ = true;
}

Connection::~Connection() {
    if (open_) {
        amqp_connection_close(state_, AMQP_REPLY_SUCCESS);
    }
    amqp_destroy_connection(state_);
}

void Connection::check(int status) {
    if (status < 0) {
        open_ = false;
        throw Broken(error_text(status));
    }
}

void Connection::check(const amqp_rpc_reply_t& reply, int channel) {
    switch (reply.reply_type) {
        case AMQP_RESPONSE_NORMAL: return;
        case AMQP_RESPONSE_SERVER_EXCEPTION: closed(channel, reply.reply);
        case AMQP_RESPONSE_LIBRARY_EXCEPTION: open_ = false; throw Broken(error_text(reply.library_error));
        default: open_ = false; throw Broken("the connection ended");
    }
}

void Connection::closed(int channel, const amqp_method_t& method) {
    if (method.id == AMQP_CHANNEL_CLOSE_METHOD) {
        auto* close = static_cast<amqp_channel_close_t*>(method.decoded);
        const Closed error(false, close->reply_code, copy(close->reply_text));
        amqp_channel_close_ok_t ok{};
        amqp_send_method(state_, static_cast<amqp_channel_t>(channel), AMQP_CHANNEL_CLOSE_OK_METHOD, &ok);
        throw error;
    }
    if (method.id == AMQP_CONNECTION_CLOSE_METHOD) {
        auto* close = static_cast<amqp_connection_close_t*>(method.decoded);
        const Closed error(true, close->reply_code, copy(close->reply_text));
        amqp_connection_close_ok_t ok{};
        amqp_send_method(state_, 0, AMQP_CONNECTION_CLOSE_OK_METHOD, &ok);
        open_ = false;
        throw error;
    }
    throw Broken("unexpected method " + std::string(amqp_method_name(method.id)));
}

int Connection::open_channel() {
    amqp_channel_open(state_, static_cast<amqp_channel_t>(++channels_));
    check_last(channels_);
    return channels_;
}

void Connection::close_channel(int channel) {
    check(amqp_channel_close(state_, static_cast<amqp_channel_t>(channel), AMQP_REPLY_SUCCESS), channel);
}

std::pair<std::string, std::uint32_t> Connection::declare_queue(int channel, const std::string& queue, Declare flags,
                                                                const Table& arguments) {
    auto* ok = amqp_queue_declare(state_, static_cast<amqp_channel_t>(channel), view(queue), flags.passive, flags.durable, flags.exclusive,
                                  flags.auto_delete, Lent(arguments));
    check_last(channel);
    return {copy(ok->queue), ok->message_count};
}

void Connection::declare_exchange(int channel, const std::string& exchange, const std::string& type, Declare flags) {
    amqp_exchange_declare(state_, static_cast<amqp_channel_t>(channel), view(exchange), view(type), flags.passive, flags.durable,
                          flags.auto_delete, false, amqp_empty_table);
    check_last(channel);
}

void Connection::delete_queue(int channel, const std::string& queue) {
    amqp_queue_delete(state_, static_cast<amqp_channel_t>(channel), view(queue), false, false);
    check_last(channel);
}

void Connection::delete_exchange(int channel, const std::string& exchange) {
    amqp_exchange_delete(state_, static_cast<amqp_channel_t>(channel), view(exchange), false);
    check_last(channel);
}

void Connection::bind(int channel, const std::string& queue, const std::string& exchange, const std::string& key, const Table& arguments) {
    amqp_queue_bind(state_, static_cast<amqp_channel_t>(channel), view(queue), view(exchange), view(key), Lent(arguments));
    check_last(channel);
}

void Connection::unbind(int channel, const std::string& queue, const std::string& exchange, const std::string& key) {
    amqp_queue_unbind(state_, static_cast<amqp_channel_t>(channel), view(queue), view(exchange), view(key), amqp_empty_table);
    check_last(channel);
}

void Connection::prefetch(int channel, int count, std::uint32_t size) {
    amqp_basic_qos(state_, static_cast<amqp_channel_t>(channel), size, static_cast<std::uint16_t>(count), false);
    check_last(channel);
}

Consumer Connection::consume(int channel, const std::string& queue, bool no_ack, const std::string& tag, bool exclusive) {
    auto* ok = amqp_basic_consume(state_, static_cast<amqp_channel_t>(channel), view(queue), view(tag), false, no_ack, exclusive, amqp_empty_table);
    check_last(channel);
    return Consumer{channel, copy(ok->consumer_tag), queue};
}

void Connection::cancel(const Consumer& consumer) {
    amqp_basic_cancel(state_, static_cast<amqp_channel_t>(consumer.channel), view(consumer.tag));
    check_last(consumer.channel);
}

void Connection::publish(int channel, const std::string& exchange, const std::string& key, const std::string& body,
                         const Properties& properties, bool mandatory, bool immediate) {
    amqp_basic_properties_t sent{};
    const auto text = [&](const std::string& from, amqp_bytes_t& to, amqp_flags_t flag) {
        if (!from.empty()) {
            to = view(from);
            sent._flags |= flag;
        }
    };
    text(properties.content_type, sent.content_type, AMQP_BASIC_CONTENT_TYPE_FLAG);
    text(properties.content_encoding, sent.content_encoding, AMQP_BASIC_CONTENT_ENCODING_FLAG);
    text(properties.correlation_id, sent.correlation_id, AMQP_BASIC_CORRELATION_ID_FLAG);
    text(properties.reply_to, sent.reply_to, AMQP_BASIC_REPLY_TO_FLAG);
    text(properties.expiration, sent.expiration, AMQP_BASIC_EXPIRATION_FLAG);
    text(properties.message_id, sent.message_id, AMQP_BASIC_MESSAGE_ID_FLAG);
    text(properties.type, sent.type, AMQP_BASIC_TYPE_FLAG);
    text(properties.user_id, sent.user_id, AMQP_BASIC_USER_ID_FLAG);
    text(properties.app_id, sent.app_id, AMQP_BASIC_APP_ID_FLAG);
    text(properties.cluster_id, sent.cluster_id, AMQP_BASIC_CLUSTER_ID_FLAG);
    if (properties.delivery_mode) {
        sent.delivery_mode = static_cast<std::uint8_t>(properties.delivery_mode);
        sent._flags |= AMQP_BASIC_DELIVERY_MODE_FLAG;
    }
    if (properties.priority) {
        sent.priority = static_cast<std::uint8_t>(properties.priority);
        sent._flags |= AMQP_BASIC_PRIORITY_FLAG;
    }
    if (properties.timestamp) {
        sent.timestamp = properties.timestamp;
        sent._flags |= AMQP_BASIC_TIMESTAMP_FLAG;
    }
    const Lent headers(properties.headers);
    if (!properties.headers.empty()) {
        sent.headers = headers;
        sent._flags |= AMQP_BASIC_HEADERS_FLAG;
    }
    check(amqp_basic_publish(state_, static_cast<amqp_channel_t>(channel), view(exchange), view(key), mandatory, immediate, &sent, view(body)));
}

Delivery Connection::read_message(int channel) {
    amqp_message_t message;
    check(amqp_read_message(state_, static_cast<amqp_channel_t>(channel), &message, 0), channel);
    const amqp_basic_properties_t& from = message.properties;
    Delivery delivery;
    delivery.body = copy(message.body);
    Properties& to = delivery.properties;
    to.flags = from._flags;
    const auto text = [&](std::string& into, amqp_bytes_t bytes, amqp_flags_t flag) {
        if (from._flags & flag) {
            into = copy(bytes);
        }
    };
    text(to.content_type, from.content_type, AMQP_BASIC_CONTENT_TYPE_FLAG);
    text(to.content_encoding, from.content_encoding, AMQP_BASIC_CONTENT_ENCODING_FLAG);
    text(to.correlation_id, from.correlation_id, AMQP_BASIC_CORRELATION_ID_FLAG);
    text(to.reply_to, from.reply_to, AMQP_BASIC_REPLY_TO_FLAG);
    text(to.expiration, from.expiration, AMQP_BASIC_EXPIRATION_FLAG);
    text(to.message_id, from.message_id, AMQP_BASIC_MESSAGE_ID_FLAG);
    text(to.type, from.type, AMQP_BASIC_TYPE_FLAG);
    text(to.user_id, from.user_id, AMQP_BASIC_USER_ID_FLAG);
    text(to.app_id, from.app_id, AMQP_BASIC_APP_ID_FLAG);
    text(to.cluster_id, from.cluster_id, AMQP_BASIC_CLUSTER_ID_FLAG);
    if (from._flags & AMQP_BASIC_DELIVERY_MODE_FLAG) {
        to.delivery_mode = from.delivery_mode;
    }
    if (from._flags & AMQP_BASIC_PRIORITY_FLAG) {
        to.priority = from.priority;
    }
    if (from._flags & AMQP_BASIC_TIMESTAMP_FLAG) {
        to.timestamp = from.timestamp;
    }
    if (from._flags & AMQP_BASIC_HEADERS_FLAG) {
        to.headers = copy(from.headers);
    }
    amqp_destroy_message(&message);
    return delivery;
}

bool Connection::get(int channel, const std::string& queue, bool no_ack, Delivery& into) {
    const amqp_rpc_reply_t reply = amqp_basic_get(state_, static_cast<amqp_channel_t>(channel), view(queue), no_ack);
    check(reply, channel);
    if (reply.reply.id == AMQP_BASIC_GET_EMPTY_METHOD) {
        return false;
    }
    const auto ok = *static_cast<amqp_basic_get_ok_t*>(reply.reply.decoded);
    const std::string exchange = copy(ok.exchange), key = copy(ok.routing_key);
    into = read_message(channel);
    into.tag = ok.delivery_tag;
    into.redelivered = ok.redelivered;
    into.exchange = exchange;
    into.key = key;
    into.messages_left = ok.message_count;
    return true;
}

void Connection::ack(int channel, std::uint64_t tag, bool multiple) {
    check(amqp_basic_ack(state_, static_cast<amqp_channel_t>(channel), tag, multiple));
}

void Connection::nack(int channel, std::uint64_t tag, bool multiple, bool requeue) {
    check(amqp_basic_nack(state_, static_cast<amqp_channel_t>(channel), tag, multiple, requeue));
}

void Connection::reject(int channel, std::uint64_t tag, bool requeue) {
    check(amqp_basic_reject(state_, static_cast<amqp_channel_t>(channel), tag, requeue));
}

void Connection::confirm_select(int channel) {
    amqp_confirm_select(state_, static_cast<amqp_channel_t>(channel));
    check_last(channel);
}

void Connection::tx_select(int channel) {
    amqp_tx_select(state_, static_cast<amqp_channel_t>(channel));
    check_last(channel);
}

void Connection::tx_commit(int channel) {
    amqp_tx_commit(state_, static_cast<amqp_channel_t>(channel));
    check_last(channel);
}

void Connection::tx_rollback(int channel) {
    amqp_tx_rollback(state_, static_cast<amqp_channel_t>(channel));
    check_last(channel);
}

// ---- what the broker sends by itself

Delivery Connection::take(const Consumer& consumer) {
    auto& waiting = deliveries_[{consumer.channel, consumer.tag}];
    while (waiting.empty()) {
        if (!pump()) {
            throw Broken("no delivery within " + std::to_string(wait_secs) + " s");
        }
    }
    Delivery delivery = std::move(waiting.front());
    waiting.pop_front();
    return delivery;
}

void Connection::wait_for_confirms(int channel, std::uint64_t count) {
    while (confirmed[channel] < count) {
        if (!pump()) {
            throw Broken("only " + std::to_string(confirmed[channel]) + " of " + std::to_string(count) + " confirms came");
        }
    }
}

void Connection::settle(int channel, std::uint64_t tag, bool multiple) {
    std::uint64_t& upto = confirmed[channel];
    auto& ahead = ahead_[channel];
    if (tag <= upto || ahead.count(tag)) {
        throw Broken("message " + std::to_string(tag) + " was confirmed twice");
    }
    if (multiple) {
        upto = tag;
        ahead.erase(ahead.begin(), ahead.upper_bound(tag));
    } else {
        ahead[tag] = true;
    }
    while (!ahead.empty() && ahead.begin()->first == upto + 1) {
        upto++;
        ahead.erase(ahead.begin());
    }
}

bool Connection::pump(int secs) {
    amqp_maybe_release_buffers(state_);
    amqp_frame_t frame;
    timeval limit{secs, 0};
    const int status = amqp_simple_wait_frame_noblock(state_, &frame, &limit);
    if (status == AMQP_STATUS_TIMEOUT) {
        return false;
    }
    check(status);
    if (frame.frame_type != AMQP_FRAME_METHOD) {
        throw Broken("a content frame without its method");
    }
    const int channel = frame.channel;
    const amqp_method_t& method = frame.payload.method;
    switch (method.id) {
        case AMQP_BASIC_DELIVER_METHOD: {
            const auto deliver = *static_cast<amqp_basic_deliver_t*>(method.decoded);
            const std::string tag = copy(deliver.consumer_tag), exchange = copy(deliver.exchange), key = copy(deliver.routing_key);
            Delivery delivery = read_message(channel);
            delivery.tag = deliver.delivery_tag;
            delivery.redelivered = deliver.redelivered;
            delivery.exchange = exchange;
            delivery.key = key;
            deliveries_[{channel, tag}].push_back(std::move(delivery));
            return true;
        }
        case AMQP_BASIC_RETURN_METHOD: {
            const auto back = *static_cast<amqp_basic_return_t*>(method.decoded);
            std::ostringstream text;
            text << "return " << back.reply_code << ' ' << copy(back.reply_text) << " '" << copy(back.exchange) << "' " << copy(back.routing_key);
            const Delivery message = read_message(channel);
            text << ' ' << message.properties.message_id << ' ' << message.body;
            events.push_back(text.str());
            return true;
        }
        case AMQP_BASIC_ACK_METHOD: {
            const auto* ack = static_cast<amqp_basic_ack_t*>(method.decoded);
            events.push_back("ack " + std::to_string(ack->delivery_tag));
            settle(channel, ack->delivery_tag, ack->multiple);
            return true;
        }
        case AMQP_BASIC_NACK_METHOD: {
            const auto* nack = static_cast<amqp_basic_nack_t*>(method.decoded);
            nacked++;
            settle(channel, nack->delivery_tag, nack->multiple);
            return true;
        }
        case AMQP_BASIC_CANCEL_METHOD:
            cancelled.push_back(copy(static_cast<amqp_basic_cancel_t*>(method.decoded)->consumer_tag));
            return true;
        default: closed(channel, method);
    }
}
