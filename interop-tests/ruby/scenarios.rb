# The interop scenarios with bunny.

require "bunny"
require "logger"
require_relative "harness"

# ---- tutorials

def hello_world
  channel = connect.create_channel
  queue = temporary_queue(channel, "hello")
  publish(channel, "", queue, "Hello World!")
  inbox = Inbox.new(channel, queue, true)
  info, _properties, body = inbox.take
  same "body", "Hello World!", body
  same "exchange", "", info.exchange
  same "routing key", queue, info.routing_key
  same "redelivered", false, info.redelivered?
  channel.basic_cancel(inbox.tag)
  same "messages left", 0, ready(channel, queue)
end

def work_queue_fair_dispatch
  connection = connect
  setup = connection.create_channel
  queue = durable_queue(setup, "work")
  slow_channel = connection.create_channel
  slow_channel.prefetch(1)
  slow = Inbox.new(slow_channel, queue, false)
  quick_channel = connection.create_channel
  quick_channel.prefetch(1)
  quick = Inbox.new(quick_channel, queue, false)
  10.times { |i| publish(setup, "", queue, "task #{i}") }
  held = slow.take
  9.times { quick_channel.ack(quick.take[0].delivery_tag) }
  # A synchronous call on the slow channel comes after whatever the broker sent there before.
  same "ready", 0, ready(slow_channel, queue)
  slow.expect_nothing "the slow worker"
  slow_channel.ack(held[0].delivery_tag)
  setup.queue_delete(queue)
end

def publish_subscribe
  channel = connect.create_channel
  exchange = exchange(channel, "logs", "fanout")
  inboxes = [bound(channel, exchange, [""]), bound(channel, exchange, [""])]
  5.times { |i| publish(channel, exchange, "ignored", "log #{i}") }
  inboxes.each do |inbox|
    check inbox.queue.start_with?("amq.gen-"), "the server-named queue is #{inbox.queue}"
    5.times do |i|
      info, _properties, body = inbox.take
      same "body", "log #{i}", body
      same "exchange", exchange, info.exchange
    end
  end
  channel.exchange_delete(exchange)
end

def routing
  channel = connect.create_channel
  exchange = exchange(channel, "direct", "direct")
  errors = bound(channel, exchange, ["error"])
  everything = bound(channel, exchange, %w[info warning error])
  %w[info error debug warning error].each { |severity| publish(channel, exchange, severity, severity) }
  same "errors", %w[error error], errors.bodies(2)
  same "everything", %w[info error warning error], everything.bodies(4)
  round_trip(channel)
  errors.expect_nothing "errors"
  everything.expect_nothing "everything"
  channel.queue_unbind(errors.queue, exchange, routing_key: "error")
  publish(channel, exchange, "error", "after unbind")
  same "everything", ["after unbind"], everything.bodies(1)
  round_trip(channel)
  errors.expect_nothing "errors after unbind"
  channel.exchange_delete(exchange)
end

def topics
  channel = connect.create_channel
  exchange = exchange(channel, "topic", "topic")
  orange = bound(channel, exchange, ["*.orange.*"])
  rabbits_and_lazy = bound(channel, exchange, ["*.*.rabbit", "lazy.#"])
  all = bound(channel, exchange, ["#"])
  keys = ["quick.orange.rabbit", "lazy.orange.elephant", "quick.orange.fox", "lazy.brown.fox", "lazy.pink.rabbit",
          "quick.brown.fox", "orange", "quick.orange.new.rabbit", "lazy.orange.new.rabbit", "lazy", ""]
  keys.each { |key| publish(channel, exchange, key, key) }
  same "orange", %w[quick.orange.rabbit lazy.orange.elephant quick.orange.fox], orange.bodies(3)
  same "rabbits and lazy",
       %w[quick.orange.rabbit lazy.orange.elephant lazy.brown.fox lazy.pink.rabbit lazy.orange.new.rabbit lazy],
       rabbits_and_lazy.bodies(6)
  same "all", keys, all.bodies(keys.size)
  round_trip(channel)
  [orange, rabbits_and_lazy, all].each { |inbox| inbox.expect_nothing "topics" }
  channel.exchange_delete(exchange)
end

def headers
  channel = connect.create_channel
  exchange = exchange(channel, "headers", "headers")
  all, any = %w[all any].map do |matching|
    queue = server_named(channel)
    channel.queue_bind(queue, exchange, arguments: { "x-match" => matching, "format" => "pdf", "pages" => 3 })
    Inbox.new(channel, queue, true)
  end
  publish(channel, exchange, "", "both", headers: { "format" => "pdf", "pages" => 3, "x" => "y" })
  publish(channel, exchange, "", "format", headers: { "format" => "pdf", "pages" => 4 })
  publish(channel, exchange, "", "pages", headers: { "pages" => 3 })
  publish(channel, exchange, "", "neither", headers: { "format" => "zip" })
  publish(channel, exchange, "", "none")
  same "all", ["both"], all.bodies(1)
  same "any", %w[both format pages], any.bodies(3)
  round_trip(channel)
  [all, any].each { |inbox| inbox.expect_nothing "headers" }
  channel.exchange_delete(exchange)
end

def rpc_reply_queue
  connection = connect
  client = connection.create_channel
  reply_queue = server_named(client)
  rpc(connection.create_channel, client, reply_queue, reply_queue)
end

def rpc_direct_reply_to
  connection = connect
  rpc(connection.create_channel, connection.create_channel, "amq.rabbitmq.reply-to", "amq.rabbitmq.reply-to.")
end

# Ten calls of a doubling server; seen_prefix starts the reply-to that the server sees.
def rpc(server, client, reply_to, seen_prefix)
  requests = temporary_queue(server, "rpc")
  calls = Inbox.new(server, requests, false)
  replies = Inbox.new(client, reply_to, true)
  10.times do |i|
    publish(client, "", requests, i.to_s, reply_to: reply_to, correlation_id: "call-#{i}")
    info, properties, body = calls.take
    check properties.reply_to.start_with?(seen_prefix), "the server sees reply-to #{properties.reply_to}"
    publish(server, "", properties.reply_to, (2 * body.to_i).to_s, correlation_id: properties.correlation_id)
    server.ack(info.delivery_tag)
    _info, properties, body = replies.take
    same "reply", (2 * i).to_s, body
    same "correlation id", "call-#{i}", properties.correlation_id
  end
end

# ---- publishing

def confirms_single
  channel = connect.create_channel
  queue = temporary_queue(channel, "confirm-single")
  channel.confirm_select
  20.times do |i|
    publish(channel, "", queue, "m#{i}")
    check channel.wait_for_confirms, "message #{i} was nacked"
  end
  same "ready", 20, ready(channel, queue)
end

def confirms_batch
  channel = connect.create_channel
  queue = temporary_queue(channel, "confirm-batch")
  channel.confirm_select
  10.times do
    100.times { |i| publish(channel, "", queue, "m#{i}") }
    check channel.wait_for_confirms, "a message was nacked"
  end
  same "ready", 1000, ready(channel, queue)
end

def confirms_async_50000
  channel = connect.create_channel
  queue = durable_queue(channel, "confirm-async")
  confirmed = Hash.new(0)
  nacked = 0
  channel.confirm_select(lambda do |tag, _multiple, nack|
    confirmed[tag] += 1
    nacked += 1 if nack
  end)
  MESSAGES.times { |i| publish(channel, "", queue, "message #{i}") }
  check channel.wait_for_confirms, "a message was nacked"
  same "nacks", 0, nacked
  same "confirmed messages", MESSAGES, confirmed.size
  same "highest tag", MESSAGES, confirmed.keys.max
  same "most confirms of one message", 1, confirmed.values.max
  same "ready", MESSAGES, ready(channel, queue)
  channel.queue_delete(queue)
end

def mandatory_return
  channel = connect.create_channel
  queue = temporary_queue(channel, "mandatory")
  events = Queue.new
  channel.default_exchange.on_return do |info, properties, body|
    events << "return #{info.reply_code} #{info.reply_text} '#{info.exchange}' #{info.routing_key} " \
              "#{properties.message_id} #{body}"
  end
  channel.confirm_select(->(tag, _multiple, nack) { events << "#{nack ? 'nack' : 'ack'} #{tag}" })
  publish(channel, "", "#{queue}-missing", "lost", mandatory: true, message_id: "id-1")
  same "first event", "return 312 NO_ROUTE '' #{queue}-missing id-1 lost", within("return", events)
  same "second event", "ack 1", within("confirm", events)
  publish(channel, "", queue, "found", mandatory: true)
  same "third event", "ack 2", within("confirm", events)
  same "ready", 1, ready(channel, queue)
end

# ---- consuming

def basic_get
  channel = connect.create_channel
  queue = temporary_queue(channel, "get")
  check channel.basic_get(queue, manual_ack: false)[0].nil?, "an empty queue gave a message"
  3.times { |i| publish(channel, "", queue, "m#{i}") }
  3.times do |i|
    info, _properties, body = get(channel, queue, manual_ack: i < 2)
    same "body", "m#{i}", body
    same "messages left", 2 - i, info.message_count
    channel.ack(info.delivery_tag) if i < 2
  end
  check channel.basic_get(queue, manual_ack: false)[0].nil?, "the drained queue gave a message"
end

def nack_requeue_redelivered
  channel = connect.create_channel
  dead = temporary_queue(channel, "nack-dead")
  queue = name("nack")
  channel.queue_declare(queue, exclusive: true,
                               arguments: { "x-dead-letter-exchange" => "", "x-dead-letter-routing-key" => dead })
  3.times { |i| publish(channel, "", queue, "m#{i}") }
  firsts = Array.new(3) { get(channel, queue, manual_ack: true)[0] }
  same "first deliveries redelivered", [false] * 3, firsts.map(&:redelivered)
  channel.nack(firsts.last.delivery_tag, true, true)
  again = Array.new(3) do |i|
    info, _properties, body = get(channel, queue, manual_ack: true)
    same "order after requeue", "m#{i}", body
    same "redelivered", true, info.redelivered
    info
  end
  channel.reject(again[1].delivery_tag, true)
  channel.reject(again[0].delivery_tag, false)
  channel.nack(again[2].delivery_tag, false, false)
  same "requeued one", "m1", get(channel, queue)[2]
  check channel.basic_get(queue, manual_ack: false)[0].nil?, "a discarded message came back"
  letters = Inbox.new(channel, dead, true)
  %w[m0 m2].each do |expected|
    _info, properties, body = letters.take
    same "dead letter", expected, body
    death = properties.headers["x-death"][0]
    same "x-death", [queue, "rejected", 1], death.values_at("queue", "reason", "count")
  end
end

def prefetch_1_and_100
  connection = connect
  [1, 100].each do |window|
    channel = connection.create_channel
    queue = temporary_queue(channel, "prefetch-#{window}")
    channel.confirm_select
    250.times { |i| publish(channel, "", queue, "m#{i}") }
    channel.wait_for_confirms
    channel.prefetch(window)
    inbox = Inbox.new(channel, queue, false)
    tag = nil
    window.times do |i|
      info, _properties, body = inbox.take
      same "order", "m#{i}", body
      tag = info.delivery_tag
    end
    same "ready at a full window", 250 - window, ready(channel, queue)
    inbox.expect_nothing "beyond the window"
    channel.ack(tag, true)
    window.times { |i| same "order", "m#{window + i}", inbox.take[2] }
    same "ready after one ack", 250 - 2 * window, ready(channel, queue)
    inbox.expect_nothing "beyond the second window"
  end
end

def consumer_cancel_and_queue_deletion
  connection = connect
  channel = connection.create_channel
  queue = temporary_queue(channel, "cancel")
  channel.confirm_select
  inbox = Inbox.new(channel, queue, true)
  publish(channel, "", queue, "before")
  same "body", "before", inbox.take[2]
  channel.basic_cancel(inbox.tag)
  publish(channel, "", queue, "after")
  channel.wait_for_confirms
  same "ready", 1, ready(channel, queue)
  inbox.expect_nothing "after cancel"
  inbox = Inbox.new(channel, queue, true)
  same "body", "after", inbox.take[2]
  connection.create_channel.queue_delete(queue)
  same "cancelled consumer", inbox.tag, within("cancellation by the broker", inbox.cancelled).consumer_tag
  check channel.open?, "the channel closed with the queue"
  round_trip(channel)
end

def exclusive_and_auto_delete
  watcher = connect
  owner = connect
  exclusive = temporary_queue(owner.create_channel, "exclusive")
  intruder = watcher.create_channel
  expect_channel_close(intruder, 405) { ready(intruder, exclusive) }
  owner.close
  after = watcher.create_channel
  expect_channel_close(after, 404) { ready(after, exclusive) }

  channel = watcher.create_channel
  queue = name("auto-delete")
  channel.queue_declare(queue, auto_delete: true)
  first = Inbox.new(channel, queue, true)
  second = Inbox.new(channel, queue, true)
  channel.basic_cancel(first.tag)
  ready(channel, queue)
  channel.basic_cancel(second.tag)
  expect_channel_close(channel, 404) { ready(channel, queue) }

  channel = watcher.create_channel
  exchange = name("auto-delete-exchange")
  channel.exchange_declare(exchange, "direct", auto_delete: true)
  queue = server_named(channel)
  channel.queue_bind(queue, exchange, routing_key: "k")
  channel.exchange_declare(exchange, "direct", passive: true)
  channel.queue_unbind(queue, exchange, routing_key: "k")
  expect_channel_close(channel, 404) { channel.exchange_declare(exchange, "direct", passive: true) }
end

def transactions
  connection = connect
  channel = connection.create_channel
  observer = connection.create_channel
  queue = temporary_queue(channel, "tx")
  channel.tx_select
  publish(channel, "", queue, "one")
  publish(channel, "", queue, "two")
  round_trip(channel)
  same "ready before commit", 0, ready(observer, queue)
  channel.tx_commit
  same "ready after commit", 2, ready(observer, queue)
  publish(channel, "", queue, "never")
  channel.tx_rollback
  same "ready after rollback", 2, ready(observer, queue)
  tag = get(channel, queue, manual_ack: true)[0].delivery_tag
  channel.ack(tag)
  channel.tx_rollback
  # The message is unacknowledged again, so that the same tag can be acknowledged a second time.
  channel.ack(tag)
  channel.tx_commit
  channel.close
  same "rest", "two", get(observer, queue)[2]
  same "ready at the end", 0, ready(observer, queue)
end

# ---- content

def properties_and_header_types_round_trip
  channel = connect.create_channel
  queue = temporary_queue(channel, "properties")
  # The library writes every whole number as a 64-bit one, and no byte array; its decimals are wrong (amq-protocol 2.3).
  headers = {
    "bool-true" => true, "bool-false" => false, "long" => -2**63, "small" => 7, "double" => -2.25e300,
    "float" => AMQ::Protocol::Float32Bit.new(1.5), "string" => "Grüße, 世界", "empty" => "",
    "timestamp" => Time.at(1_700_000_000), "void" => nil, "array" => [1, true, "x", [2.5]],
    "table" => { "deep" => { "deeper" => "bottom" } }, "long-string" => "y" * 5000
  }
  sent = { content_type: "text/plain", content_encoding: "utf-8", delivery_mode: 2, priority: 5,
           correlation_id: "correlation", reply_to: "reply", expiration: "60000", message_id: "message",
           timestamp: 1_700_000_000, type: "kind", user_id: "guest", app_id: "app" }
  publish(channel, "", queue, "body", sent.merge(headers: headers))
  _info, back, _body = get(channel, queue)
  sent.merge(timestamp: Time.at(1_700_000_000)).each { |key, value| same key.to_s, value, back[key] }
  same "header names", headers.keys.sort, back[:headers].keys.sort
  expected = headers.merge("float" => 1.5)
  expected.each { |key, value| same "header #{key}", value, readable(back[:headers][key]) }
end

def body_sizes
  connection = connect
  channel = connection.create_channel
  queue = temporary_queue(channel, "sizes")
  frame_body = connection.frame_max - 8
  sizes = [0, 1, frame_body, frame_body + 1, 2 * frame_body, 8 << 20]
  sizes.each do |size|
    publish(channel, "", queue, pattern(size))
    check get(channel, queue)[2].b == pattern(size), "the body of #{size} bytes came back changed"
  end
  inbox = Inbox.new(channel, queue, true)
  sizes.each { |size| publish(channel, "", queue, pattern(size)) }
  sizes.each { |size| check inbox.take[2].b == pattern(size), "the delivery of #{size} bytes came changed" }
end

# ---- connections

def thousand_queues_200_channels
  connection = connect
  channels = Array.new(200) { connection.create_channel }
  1000.times do |i|
    queue = temporary_queue(channels[i % 200], "many-#{i}")
    publish(channels[i % 200], "", queue, "for #{i}")
  end
  1000.times { |i| same "body", "for #{i}", get(channels[i % 200], name("many-#{i}"))[2] }
  1000.times { |i| channels[(i + 7) % 200].queue_delete(name("many-#{i}")) }
  channels.each(&:close)
  check connection.open?, "the connection closed"
end

def ipv4_and_ipv6
  raise Skipped, "AMQP_URL_V6 is not set" if setting("AMQP_URL_V6", "").empty?

  sender = connect.create_channel
  receiver = begin
    connect(url: ENV["AMQP_URL_V6"]).create_channel
  rescue Bunny::TCPConnectionFailed
    uri = URI.parse(ENV["AMQP_URL_V6"])
    TCPSocket.new(uri.hostname, uri.port).close
    raise Skipped, "bunny #{Bunny::VERSION} takes the brackets of an IPv6 address for a part of it"
  end
  queue = name("families")
  sender.queue_delete(queue)
  sender.queue_declare(queue)
  inbox = Inbox.new(receiver, queue, true)
  publish(sender, "", queue, "across")
  same "body", "across", inbox.take[2]
  sender.queue_delete(queue)
end

def heartbeat_idle
  errors = ErrorSink.new
  connection = connect(heartbeat: 1, session_error_handler: errors)
  same "negotiated heartbeat", 1, connection.heartbeat
  channel = connection.create_channel
  # Idle longer than either side tolerates silence: only heartbeats keep the connection.
  sleep 4
  check errors.empty? && connection.open?, "the idle connection was closed"
  queue = temporary_queue(channel, "idle")
  publish(channel, "", queue, "still here")
  same "body", "still here", get(channel, queue)[2]
end

def dead_peer_detection
  watcher = connect
  channel = watcher.create_channel
  queue = durable_queue(channel, "dead-peer")
  # Another connection looks for it: it has to be there first.
  channel.confirm_select
  publish(channel, "", queue, "held")
  channel.wait_for_confirms
  proxy = FreezableProxy.new(watcher.host, watcher.port)
  errors = ErrorSink.new
  doomed = connect(host: "127.0.0.1", port: proxy.port, heartbeat: 1, session_error_handler: errors)
  same "held", "held", get(doomed.create_channel, queue, manual_ack: true)[2]
  inbox = Inbox.new(channel, queue, true)
  proxy.freeze!
  info, _properties, body = inbox.take
  same "body after the broker noticed", "held", body
  same "redelivered", true, info.redelivered?
  within("notice by the client", errors.queue)
  channel.queue_delete(queue)
end

# ---- errors

def error_404
  connection = connect
  missing = name("missing")
  channel = connection.create_channel
  text = expect_channel_close(channel, 404) { ready(channel, missing) }
  same "text", "NOT_FOUND - no queue '#{missing}' in vhost '/'", text
  channel = connection.create_channel
  publish(channel, missing, "k", "x")
  # The library keeps the close of an asynchronous method for the next synchronous one.
  text = expect_channel_close(channel, 404) { channel.tx_select }
  same "text", "NOT_FOUND - no exchange '#{missing}' in vhost '/'", text
  channel = connection.create_channel
  expect_channel_close(channel, 404) { Inbox.new(channel, missing, true) }
  still_usable(connection)
end

def error_406
  connection = connect
  channel = connection.create_channel
  queue = temporary_queue(channel, "inequivalent")
  text = expect_channel_close(channel, 406) do
    channel.queue_declare(queue, exclusive: true, arguments: { "x-max-length" => 7 })
  end
  same "text", "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue '#{queue}' in vhost '/': " \
               "received the value '7' of type 'long' but current is none", text
  channel = connection.create_channel
  closes = Queue.new
  channel.on_error { |_channel, close| closes << close }
  connection.send_frame(AMQ::Protocol::Basic::Ack.encode(channel.id, 42, false))
  close = within("channel close", closes)
  same "code", 406, close.reply_code
  same "text", "PRECONDITION_FAILED - unknown delivery tag 42", close.reply_text
  check channel.closed?, "the channel is still open"
  still_usable(connection)
end

def error_403
  connection = connect
  channel = connection.create_channel
  text = expect_channel_close(channel, 403) { channel.queue_declare("amq.interop") }
  same "text", "ACCESS_REFUSED - queue name 'amq.interop' contains reserved prefix 'amq.*'", text
  owner = connection.create_channel
  queue = temporary_queue(owner, "exclusive-consumer")
  Inbox.new(owner, queue, true, exclusive: true)
  second = connection.create_channel
  text = expect_channel_close(second, 403) { Inbox.new(second, queue, true) }
  same "text", "ACCESS_REFUSED - queue '#{queue}' in vhost '/' in exclusive use", text
  still_usable(connection)
  begin
    connect(pass: "wrong")
    raise Failed, "a wrong password was accepted"
  rescue Bunny::AuthenticationFailureError
    # The library reports nothing but the fact.
  end
end

def error_405
  owner = connect.create_channel
  queue = temporary_queue(owner, "locked")
  connection = connect
  channel = connection.create_channel
  text = expect_channel_close(channel, 405) { channel.queue_declare(queue, exclusive: true) }
  check text.start_with?("RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '#{queue}' in vhost '/'"), text
  still_usable(connection)
  same "ready for the owner", 0, ready(owner, queue)
end

def error_530
  errors = ErrorSink.new
  connection = connect(session_error_handler: errors)
  channel = connection.create_channel
  queue = temporary_queue(channel, "tag")
  Inbox.new(channel, queue, true, tag: "twice")
  connection.send_frame(AMQ::Protocol::Basic::Consume.encode(channel.id, queue, "twice", false, true, false, false, {}))
  error = within("connection close", errors.queue)
  check error.is_a?(Bunny::NotAllowedError), "expected NotAllowedError, got #{error.inspect}"
  same "code", 530, error.connection_close.reply_code
  same "text", "NOT_ALLOWED - attempt to reuse consumer tag 'twice'", error.connection_close.reply_text
  check !connection.open?, "the connection is still open"
  begin
    connect(vhost: "interop-missing")
    raise Failed, "a missing virtual host was accepted"
  rescue Bunny::NotAllowedError => e
    check e.message.include?("NOT_ALLOWED - vhost interop-missing not found"), e.message
  end
end

def error_540
  connection = connect
  channel = connection.create_channel
  connection.send_frame(AMQ::Protocol::Basic::Qos.encode(channel.id, 10, 1, false))
  # The library has no exception for this code: its reader thread ends and quotes it.
  begin
    Timeout.timeout(WAIT_SECS) { connection.reader_loop.join }
    raise Failed, "the reader thread ended without an error"
  rescue RuntimeError => e
    same "error", "Unknown reply code: 540, text: NOT_IMPLEMENTED - prefetch_size!=0 (10)", e.message
  end
end

# ---- durability

def quorum_queue
  channel = connect.create_channel
  queue = durable_queue(channel, "quorum", "x-queue-type" => "quorum")
  channel.confirm_select
  publish(channel, "", queue, "counted")
  channel.wait_for_confirms
  channel.prefetch(10)
  inbox = Inbox.new(channel, queue, false)
  info, properties, = inbox.take
  check !(properties.headers || {}).key?("x-delivery-count"), "the first delivery is counted"
  (1..2).each do |count|
    channel.nack(info.delivery_tag, false, true)
    info, properties, body = inbox.take
    same "body", "counted", body
    same "redelivered", true, info.redelivered?
    same "x-delivery-count", count, properties.headers["x-delivery-count"]
  end
  channel.ack(info.delivery_tag)
  channel.queue_delete(queue)
end

# The library's own recovery restores the connection, channels, exchanges, queues, bindings and consumers.
def recovery_after_kill
  raise Skipped, "BROKER_CONTROL is not set" if setting("BROKER_CONTROL", "").empty?

  count = 500
  recovered = Queue.new
  connection = connect(automatically_recover: true, network_recovery_interval: 0.2,
                       recovery_completed: -> { recovered << true }, session_error_handler: ErrorSink.new)
  channel = connection.create_channel
  durable = durable_queue(channel, "recovery-durable")
  channel.confirm_select
  count.times { |i| publish(channel, "", durable, "kept #{i}") }
  check channel.wait_for_confirms, "a message was nacked"

  # Everything below is gone with the broker; the client has to declare it again.
  other = connection.create_channel
  exchange = other.topic(name("recovery-exchange"), auto_delete: true)
  temporary = other.queue("", exclusive: true, auto_delete: true)
  temporary.bind(exchange, routing_key: "recovered.#")
  bodies = Queue.new
  temporary.subscribe { |_info, _properties, body| bodies << body }
  exchange.publish("before", routing_key: "recovered.before")
  same "before", "before", within("delivery", bodies)

  kill_and_restart
  Timeout.timeout(60) { recovered.pop }
  check connection.open? && channel.open? && other.open?, "a recovered channel is closed"
  same "kept messages", count, ready(channel, durable)
  count.times { |i| same "kept message", "kept #{i}", get(channel, durable)[2] }
  check channel.basic_get(durable, manual_ack: false)[0].nil?, "a kept message came twice"
  exchange.publish("after", routing_key: "recovered.after")
  same "through the recovered binding", "after", within("delivery", bodies)
  channel.queue_delete(durable)
end

# ---- tools

# A consumer that collects what arrives.
class Inbox
  attr_reader :queue, :tag, :cancelled

  def initialize(channel, queue, no_ack, exclusive: false, tag: channel.generate_consumer_tag)
    @channel = channel
    @queue = queue
    @tag = tag
    @deliveries = Queue.new
    @cancelled = Queue.new
    consumer = Bunny::Consumer.new(channel, queue, tag, no_ack, exclusive)
    consumer.on_delivery { |*delivery| @deliveries << delivery }
    consumer.on_cancellation { |cancel| @cancelled << cancel }
    channel.basic_consume_with(consumer)
  end

  # Delivery info, properties, body.
  def take
    within("delivery", @deliveries)
  end

  def bodies(count)
    Array.new(count) { take[2] }
  end

  # After a round trip on the channel, whatever the broker sent before it waits in the work pool or is here.
  def expect_nothing(what)
    if @channel.work_pool.running?
      done = Queue.new
      @channel.work_pool.submit { done << true }
      within("answer of the work pool", done)
    end
    check @deliveries.empty?, "#{what}: unexpected delivery"
  end
end

# Takes the errors that the library would raise in the thread that opened the connection.
class ErrorSink
  attr_reader :queue

  def initialize
    @queue = Queue.new
  end

  def raise(error)
    @queue << error
  end

  def empty?
    @queue.empty?
  end
end

def connect(options = {})
  uri = URI.parse(options.delete(:url) || setting("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/"))
  settings = { host: uri.host, port: uri.port || 5672, user: uri.user, pass: uri.password, vhost: "/",
               logger: Logger.new(IO::NULL), automatically_recover: false, recover_from_connection_close: false,
               continuation_timeout: WAIT_SECS * 1000 }
  connection = Bunny.new(settings.merge(options))
  connection.start
  (@connections ||= []) << connection
  connection
end

def close_connections
  (@connections || []).each do |connection|
    Timeout.timeout(5) { connection.close if connection.open? }
  rescue StandardError
    # A scenario may have left it broken.
  end
  @connections = []
end

# An empty queue that goes with its connection.
def temporary_queue(channel, rest)
  channel.queue_declare(name(rest), exclusive: true)
  name(rest)
end

def server_named(channel)
  channel.queue_declare("", exclusive: true).queue
end

# An empty durable queue, replacing one of an earlier run.
def durable_queue(channel, rest, arguments = {})
  channel.queue_delete(name(rest))
  channel.queue_declare(name(rest), durable: true, arguments: arguments)
  name(rest)
end

def exchange(channel, rest, type)
  channel.exchange_delete(name(rest))
  channel.exchange_declare(name(rest), type)
  name(rest)
end

# An inbox on a server-named queue with these bindings.
def bound(channel, exchange, keys)
  queue = server_named(channel)
  keys.each { |key| channel.queue_bind(queue, exchange, routing_key: key) }
  Inbox.new(channel, queue, true)
end

def publish(channel, exchange, key, body, options = {})
  channel.basic_publish(body, exchange, key, options)
end

def ready(channel, queue)
  channel.queue_declare(queue, passive: true).message_count
end

def round_trip(channel)
  channel.exchange_declare("amq.direct", "direct", passive: true)
end

# Delivery info, properties, body; without acknowledgement unless asked for.
def get(channel, queue, manual_ack: false)
  got = channel.basic_get(queue, manual_ack: manual_ack)
  check !got[0].nil?, "queue #{queue} is empty"
  got
end

def expect_channel_close(channel, code)
  begin
    yield
  rescue Bunny::ChannelLevelException => e
    same "code", code, e.channel_close.reply_code
    check channel.closed?, "the channel is still open"
    check channel.connection.open?, "the connection closed with the channel"
    return e.channel_close.reply_text
  end
  raise Failed, "expected the channel to close with #{code}"
end

def still_usable(connection)
  channel = connection.create_channel
  queue = server_named(channel)
  publish(channel, "", queue, "alive")
  same "body on a new channel", "alive", get(channel, queue)[2]
end

# Strings arrive as bytes.
def readable(value)
  value.is_a?(String) ? value.dup.force_encoding("UTF-8") : value
end

# Some scenarios end the library's threads on purpose.
Thread.report_on_exception = false

run %i[
  hello_world work_queue_fair_dispatch publish_subscribe routing topics headers rpc_reply_queue rpc_direct_reply_to
  confirms_single confirms_batch confirms_async_50000 mandatory_return basic_get nack_requeue_redelivered
  prefetch_1_and_100 consumer_cancel_and_queue_deletion exclusive_and_auto_delete transactions
  properties_and_header_types_round_trip body_sizes thousand_queues_200_channels ipv4_and_ipv6 heartbeat_idle
  dead_peer_detection error_404 error_406 error_403 error_405 error_530 error_540 quorum_queue recovery_after_kill
]
