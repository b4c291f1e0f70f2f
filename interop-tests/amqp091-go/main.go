// Command scenarios runs the interop scenarios with github.com/rabbitmq/amqp091-go.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"sort"
	"strings"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func main() {
	runAll([]namedScenario{
		{"hello_world", helloWorld},
		{"work_queue_fair_dispatch", workQueueFairDispatch},
		{"publish_subscribe", publishSubscribe},
		{"routing", routing},
		{"topics", topics},
		{"headers", headers},
		{"rpc_reply_queue", rpcReplyQueue},
		{"rpc_direct_reply_to", rpcDirectReplyTo},
		{"confirms_single", func() { confirmScenario(100, 1) }},
		{"confirms_batch", func() { confirmScenario(1000, 100) }},
		{"confirms_async_50000", func() { confirmScenario(messages, messages) }},
		{"mandatory_return", mandatoryReturn},
		{"basic_get", basicGet},
		{"nack_requeue_redelivered", nackRequeueRedelivered},
		{"prefetch_1_and_100", prefetch1And100},
		{"consumer_cancel_and_queue_deletion", consumerCancelAndQueueDeletion},
		{"exclusive_and_auto_delete", exclusiveAndAutoDelete},
		{"transactions", transactions},
		{"properties_and_header_types_round_trip", propertiesAndHeaderTypesRoundTrip},
		{"body_sizes", bodySizes},
		{"thousand_queues_200_channels", thousandQueues200Channels},
		{"ipv4_and_ipv6", ipv4AndIPv6},
		{"heartbeat_idle", heartbeatIdle},
		{"dead_peer_detection", deadPeerDetection},
		{"error_404", error404},
		{"error_406", error406},
		{"error_403", error403},
		{"error_405", error405},
		{"error_530", error530},
		{"error_540", error540},
		{"quorum_queue", quorumQueue},
		{"ttl", ttl},
		{"queue_expiry", queueExpiry},
		{"length_limits", lengthLimits},
		{"dead_lettering", deadLettering},
		{"priorities", priorities},
		{"single_active_consumer", singleActiveConsumer},
		{"consumer_priorities", consumerPriorities},
		{"delivery_limit", deliveryLimit},
		{"message_groups", messageGroups},
		{"delayed_messages", delayedMessages},
		{"retries", retries},
		{"consumer_filter", consumerFilter},
		{"acknowledgement_timeout", acknowledgementTimeout},
		{"tls", withTLS},
		{"tls_external", withCertificate},
		{"deduplication", deduplication},
		{"recovery_after_kill", recoveryAfterKill},
	})
}

func connect() *amqp.Connection { return get(amqp.Dial(url)) }

// onChannel runs a scenario that needs one channel of one connection.
func onChannel(run func(*amqp.Connection, *amqp.Channel)) {
	connection := connect()
	defer connection.Close()
	run(connection, channelOf(connection))
}

func channelOf(connection *amqp.Connection) *amqp.Channel { return get(connection.Channel()) }

func confirmChannel(connection *amqp.Connection) *amqp.Channel {
	channel := channelOf(connection)
	must(channel.Confirm(false))
	return channel
}

func exclusiveQueue(channel *amqp.Channel, arguments amqp.Table) string {
	return get(channel.QueueDeclare("", false, false, true, false, arguments)).Name
}

func exchangeOf(channel *amqp.Channel, kind string) string {
	exchange := name(kind)
	must(channel.ExchangeDeclare(exchange, kind, false, true, false, false, nil))
	return exchange
}

func send(channel *amqp.Channel, exchange, key string, message amqp.Publishing) {
	must(channel.PublishWithContext(context.Background(), exchange, key, false, false, message))
}

func publish(channel *amqp.Channel, queue string, bodies ...string) {
	for _, body := range bodies {
		send(channel, "", queue, amqp.Publishing{Body: []byte(body)})
	}
}

// confirmed publishes and waits for the confirm: what a passive declare counts is certain then.
func confirmed(channel *amqp.Channel, queue string, bodies ...string) {
	for _, body := range bodies {
		confirm := get(channel.PublishWithDeferredConfirm("", queue, false, false, amqp.Publishing{Body: []byte(body)}))
		awaitConfirm(confirm)
	}
}

func awaitConfirm(confirm *amqp.DeferredConfirmation) {
	limit, cancel := context.WithTimeout(context.Background(), 6*wait)
	defer cancel()
	check(get(confirm.WaitContext(limit)), "message %d was nacked", confirm.DeliveryTag)
}

func consume(channel *amqp.Channel, queue, tag string, noAck bool) <-chan amqp.Delivery {
	return get(channel.Consume(queue, tag, noAck, false, false, false, nil))
}

func next(deliveries <-chan amqp.Delivery, count int) []amqp.Delivery {
	result := make([]amqp.Delivery, 0, count)
	for len(result) < count {
		result = append(result, receive(deliveries, fmt.Sprintf("message %d of %d", len(result)+1, count)))
	}
	return result
}

// take returns the next messages of a queue, acknowledged automatically, and checks that there are no more.
func take(channel *amqp.Channel, queue string, count int) []amqp.Delivery {
	tag := name("tag")
	deliveries := consume(channel, queue, tag, true)
	result := next(deliveries, count)
	must(channel.Cancel(tag, false))
	for extra := range deliveries {
		fail("one more message than the expected %d: %q", count, extra.Body)
	}
	return result
}

func bodies(deliveries []amqp.Delivery) []string {
	result := make([]string, 0, len(deliveries))
	for _, delivery := range deliveries {
		result = append(result, string(delivery.Body))
	}
	return result
}

func state(channel *amqp.Channel, queue string) amqp.Queue {
	return get(channel.QueueDeclarePassive(queue, false, false, false, false, nil))
}

func sorted(values []string) []string {
	sort.Strings(values)
	return values
}

func helloWorld() {
	onChannel(func(_ *amqp.Connection, channel *amqp.Channel) {
		queue := exclusiveQueue(channel, nil)
		publish(channel, queue, "Hello World!")
		delivery := take(channel, queue, 1)[0]
		equal(string(delivery.Body), "Hello World!", "body")
		equal([]any{delivery.Exchange, delivery.RoutingKey, delivery.Redelivered}, []any{"", queue, false}, "deliver")
	})
}

func workQueueFairDispatch() {
	onChannel(func(connection *amqp.Connection, channel *amqp.Channel) {
		queue := exclusiveQueue(channel, nil)
		other := channelOf(connection)
		must(channel.Qos(1, 0, false))
		must(other.Qos(1, 0, false))
		slow := consume(channel, queue, "", false)
		quick := consume(other, queue, "", false)
		tasks := numbers(20)
		publish(channel, queue, tasks...)
		held := receive(slow, "the message of the slow worker")
		all := []amqp.Delivery{held}
		for len(all) < len(tasks) {
			delivery := receive(quick, "a message of the quick worker")
			must(delivery.Ack(false))
			all = append(all, delivery)
		}
		state(channel, queue)
		equal(len(slow), 0, "further messages at the worker that holds its first")
		equal(sorted(bodies(all)), sorted(tasks), "tasks")
		must(held.Ack(false))
	})
}

func publishSubscribe() {
	onChannel(func(_ *amqp.Connection, channel *amqp.Channel) {
		exchange := exchangeOf(channel, "fanout")
		queues := []string{exclusiveQueue(channel, nil), exclusiveQueue(channel, nil)}
		for _, queue := range queues {
			check(strings.HasPrefix(queue, "amq.gen-"), "server-named queue is called %s", queue)
			must(channel.QueueBind(queue, "", exchange, false, nil))
		}
		for _, body := range numbers(100) {
			send(channel, exchange, "ignored "+body, amqp.Publishing{Body: []byte(body)})
		}
		for _, queue := range queues {
			deliveries := take(channel, queue, 100)
			equal(bodies(deliveries), numbers(100), "bodies")
			equal(deliveries[7].Exchange, exchange, "exchange")
		}
	})
}

func routing() {
	onChannel(func(_ *amqp.Connection, channel *amqp.Channel) {
		exchange := exchangeOf(channel, "direct")
		errorsOnly, everything := exclusiveQueue(channel, nil), exclusiveQueue(channel, nil)
		must(channel.QueueBind(errorsOnly, "error", exchange, false, nil))
		for _, key := range []string{"info", "warning", "error"} {
			must(channel.QueueBind(everything, key, exchange, false, nil))
		}
		for _, key := range []string{"info", "warning", "error", "debug", "errors", "Error"} {
			send(channel, exchange, key, amqp.Publishing{Body: []byte(key)})
		}
		equal(bodies(take(channel, errorsOnly, 1)), []string{"error"}, "queue bound with error")
		equal(bodies(take(channel, everything, 3)), []string{"info", "warning", "error"}, "queue bound with three keys")
		must(channel.QueueUnbind(everything, "info", exchange, nil))
		send(channel, exchange, "info", amqp.Publishing{Body: []byte("late")})
		send(channel, exchange, "error", amqp.Publishing{Body: []byte("last")})
		equal(bodies(take(channel, everything, 1)), []string{"last"}, "after unbind")
	})
}

func topics() {
	keys := []string{"quick.orange.rabbit", "lazy.orange.elephant", "quick.orange.fox", "lazy.brown.fox", "lazy", "quick.brown.fox", "orange", "", "quick.orange.new.rabbit"}
	matches := []struct{ binding, expected []string }{
		{[]string{"*.orange.*"}, keys[:3]},
		{[]string{"*.*.rabbit", "lazy.#"}, []string{keys[0], keys[1], keys[3], keys[4]}},
		{[]string{"#"}, keys},
		{[]string{"*"}, []string{"lazy", "orange"}},
	}
	onChannel(func(_ *amqp.Connection, channel *amqp.Channel) {
		exchange := exchangeOf(channel, "topic")
		queues := make([]string, len(matches))
		for i, match := range matches {
			queues[i] = exclusiveQueue(channel, nil)
			for _, key := range match.binding {
				must(channel.QueueBind(queues[i], key, exchange, false, nil))
			}
		}
		for _, key := range keys {
			send(channel, exchange, key, amqp.Publishing{Body: []byte(key)})
		}
		for i, match := range matches {
			equal(bodies(take(channel, queues[i], len(match.expected))), match.expected, fmt.Sprintf("queue bound with %v", match.binding))
		}
	})
}

func headers() {
	onChannel(func(_ *amqp.Connection, channel *amqp.Channel) {
		exchange := exchangeOf(channel, "headers")
		all, anyOf := exclusiveQueue(channel, nil), exclusiveQueue(channel, nil)
		must(channel.QueueBind(all, "", exchange, false, amqp.Table{"x-match": "all", "format": "pdf", "pages": int32(3)}))
		must(channel.QueueBind(anyOf, "", exchange, false, amqp.Table{"x-match": "any", "format": "pdf", "pages": int32(3)}))
		for _, message := range []struct {
			body  string
			table amqp.Table
		}{
			{"both", amqp.Table{"format": "pdf", "pages": int32(3), "more": int32(1)}},
			{"one", amqp.Table{"format": "pdf", "pages": int32(4)}},
			{"none", amqp.Table{"format": "zip"}},
			{"string", amqp.Table{"pages": "3"}},
			{"empty", nil},
		} {
			send(channel, exchange, "", amqp.Publishing{Body: []byte(message.body), Headers: message.table})
		}
		equal(bodies(take(channel, all, 1)), []string{"both"}, "x-match all")
		equal(bodies(take(channel, anyOf, 2)), []string{"both", "one"}, "x-match any")
	})
}

// rpc asks a fib(n) server on its own channel and compares.
func rpc(connection *amqp.Connection, channel *amqp.Channel, replies, replyTo string) []amqp.Delivery {
	server := channelOf(connection)
	queue := exclusiveQueue(server, nil)
	requests := consume(server, queue, "", false)
	go func() {
		for request := range requests {
			var n int
			fmt.Sscan(string(request.Body), &n)
			reply := amqp.Publishing{CorrelationId: request.CorrelationId, Body: []byte(fmt.Sprint(fibonacci(n)))}
			// An error shows as a missing reply.
			_ = server.PublishWithContext(context.Background(), "", request.ReplyTo, false, false, reply)
			_ = request.Ack(false)
		}
	}()
	answers := consume(channel, replies, "", true)
	expected := map[string]string{}
	for _, n := range []int{0, 1, 10, 30, 90} {
		correlation := fmt.Sprintf("c-%d", n)
		expected[correlation] = fmt.Sprint(fibonacci(n))
		send(channel, "", queue, amqp.Publishing{ReplyTo: replyTo, CorrelationId: correlation, Body: []byte(fmt.Sprint(n))})
	}
	deliveries := next(answers, len(expected))
	actual := map[string]string{}
	for _, delivery := range deliveries {
		actual[delivery.CorrelationId] = string(delivery.Body)
	}
	equal(actual, expected, "replies")
	return deliveries
}

func rpcReplyQueue() {
	onChannel(func(connection *amqp.Connection, channel *amqp.Channel) {
		replies := exclusiveQueue(channel, nil)
		rpc(connection, channel, replies, replies)
	})
}

func rpcDirectReplyTo() {
	onChannel(func(connection *amqp.Connection, channel *amqp.Channel) {
		delivery := rpc(connection, channel, "amq.rabbitmq.reply-to", "amq.rabbitmq.reply-to")[0]
		equal(delivery.Exchange, "", "exchange")
		check(strings.HasPrefix(delivery.RoutingKey, "amq.rabbitmq.reply-to."), "routing key of the reply is %s", delivery.RoutingKey)
	})
}

// confirmRun publishes persistent messages, at most batch of them unconfirmed, and returns their queue.
func confirmRun(channel *amqp.Channel, count, batch int) string {
	queue := get(channel.QueueDeclare(name("q"), true, false, false, false, nil)).Name
	for start := 0; start < count; start += batch {
		var confirms []*amqp.DeferredConfirmation
		for i := start; i < count && i < start+batch; i++ {
			message := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(fmt.Sprint(i))}
			confirm := get(channel.PublishWithDeferredConfirm("", queue, false, false, message))
			equal(confirm.DeliveryTag, uint64(i+1), "sequence number")
			confirms = append(confirms, confirm)
		}
		for _, confirm := range confirms {
			awaitConfirm(confirm)
		}
	}
	equal(state(channel, queue).Messages, count, "message count")
	return queue
}

func confirmScenario(count, batch int) {
	onChannel(func(connection *amqp.Connection, _ *amqp.Channel) {
		channel := confirmChannel(connection)
		get(channel.QueueDelete(confirmRun(channel, count, batch), false, false, false))
	})
}

func mandatoryReturn() {
	onChannel(func(connection *amqp.Connection, _ *amqp.Channel) {
		channel := confirmChannel(connection)
		queue, nowhere := exclusiveQueue(channel, nil), name("nowhere")
		returns := channel.NotifyReturn(make(chan amqp.Return, 10))
		publishMandatory := func(key string, mandatory bool, message amqp.Publishing) {
			awaitConfirm(get(channel.PublishWithDeferredConfirm("", key, mandatory, false, message)))
		}
		publishMandatory(queue, true, amqp.Publishing{Body: []byte("arrives")})
		equal(len(returns), 0, "returns of a routed message")
		publishMandatory(nowhere, true, amqp.Publishing{MessageId: "m1", Body: []byte("comes back")})
		// The confirm is here, so the return has to be.
		equal(len(returns), 1, "returns of an unroutable message")
		returned := <-returns
		equal([]any{returned.ReplyCode, returned.ReplyText, returned.Exchange, returned.RoutingKey}, []any{uint16(312), "NO_ROUTE", "", nowhere}, "return")
		equal([]string{string(returned.Body), returned.MessageId}, []string{"comes back", "m1"}, "content")
		publishMandatory(nowhere, false, amqp.Publishing{Body: []byte("dropped")})
		equal(len(returns), 0, "returns of a message that is not mandatory")
		equal(bodies(take(channel, queue, 1)), []string{"arrives"}, "queue")
	})
}

func getMessage(channel *amqp.Channel, queue string) amqp.Delivery {
	delivery, ok, err := channel.Get(queue, false)
	must(err)
	check(ok, "get: the queue is empty")
	return delivery
}

func getEmpty(channel *amqp.Channel, queue string) bool {
	_, ok, err := channel.Get(queue, false)
	must(err)
	return !ok
}

func basicGet() {
	onChannel(func(connection *amqp.Connection, _ *amqp.Channel) {
		channel := confirmChannel(connection)
		queue := exclusiveQueue(channel, nil)
		check(getEmpty(channel, queue), "get of an empty queue returned a message")
		confirmed(channel, queue, "0", "1", "2")
		for i := 0; i < 3; i++ {
			delivery := getMessage(channel, queue)
			equal([]any{string(delivery.Body), delivery.MessageCount, delivery.DeliveryTag, delivery.Redelivered},
				[]any{fmt.Sprint(i), uint32(2 - i), uint64(i + 1), false}, "get-ok")
		}
		must(channel.Ack(3, true))
		check(getEmpty(channel, queue), "a message is left after all acks")
	})
}

func nackRequeueRedelivered() {
	onChannel(func(connection *amqp.Connection, _ *amqp.Channel) {
		channel := confirmChannel(connection)
		exchange := exchangeOf(channel, "fanout")
		dead := exclusiveQueue(channel, nil)
		must(channel.QueueBind(dead, "", exchange, false, nil))
		queue := exclusiveQueue(channel, amqp.Table{"x-dead-letter-exchange": exchange})
		confirmed(channel, queue, "0", "1", "2")
		must(getMessage(channel, queue).Nack(false, true))
		var seen []amqp.Delivery
		for i := 0; i < 3; i++ {
			seen = append(seen, getMessage(channel, queue))
			equal([]any{string(seen[i].Body), seen[i].Redelivered}, []any{fmt.Sprint(i), i == 0}, "after the requeue")
		}
		must(seen[0].Nack(false, false))
		must(seen[1].Reject(false))
		must(seen[2].Ack(false))
		deliveries := take(channel, dead, 2)
		equal(bodies(deliveries), []string{"0", "1"}, "dead-lettered")
		delivery := deliveries[0]
		equal([]any{delivery.Exchange, delivery.RoutingKey, delivery.Redelivered}, []any{exchange, queue, false}, "dead-lettered deliver")
		deaths := delivery.Headers["x-death"].([]any)
		equal(len(deaths), 1, "entries of x-death")
		death := deaths[0].(amqp.Table)
		_, isTime := death["time"].(time.Time)
		check(isTime, "the time of death is %v", death["time"])
		delete(death, "time")
		equal(death, amqp.Table{"count": int64(1), "reason": "rejected", "queue": queue, "exchange": "", "routing-keys": []any{queue}}, "x-death")
	})
}

func delayedMessages() {
	needBrokerControl() // RabbitMQ needs a plugin for this.
	onChannel(func(_ *amqp.Connection, channel *amqp.Channel) {
		exchange := name("delayed")
		must(channel.ExchangeDeclare(exchange, "x-delayed-message", false, true, false, false, amqp.Table{"x-delayed-type": "direct"}))
		queue := exclusiveQueue(channel, nil)
		must(channel.QueueBind(queue, "k", exchange, false, nil))
		for _, delay := range []int32{300, 100, 200, 0} {
			publishing := amqp.Publishing{Headers: amqp.Table{"x-delay": delay}, Body: []byte(fmt.Sprint(delay))}
			must(channel.PublishWithContext(context.Background(), exchange, "k", false, false, publishing))
		}
		deliveries := take(channel, queue, 4)
		equal(bodies(deliveries), []string{"0", "100", "200", "300"}, "messages by their time")
		equal(deliveries[3].Headers["x-delay"], any(int32(-300)), "x-delay")
	})
}

func retries() {
	needBrokerControl() // RabbitMQ has these arguments on quorum queues only.
	onChannel(func(_ *amqp.Connection, channel *amqp.Channel) {
		dead := exclusiveQueue(channel, nil)
		queue := exclusiveQueue(channel, amqp.Table{
			"x-delayed-retry-type": "all", "x-delayed-retry-min": 50, "x-delayed-retry-max": 80, "x-delivery-limit": 2,
			"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead,
		})
		publish(channel, queue, "work")
		deliveries := consume(channel, queue, "", false)
		for count := int64(0); count < 3; count++ {
			delivery := next(deliveries, 1)[0]
			shown, _ := delivery.Headers["x-delivery-count"].(int64)
			equal(shown, count, "x-delivery-count")
			must(delivery.Reject(true))
		}
		letter := take(channel, dead, 1)[0]
		equal([]any{string(letter.Body), letter.Headers["x-first-death-reason"]}, []any{"work", "delivery_limit"}, "dead letter")
	})
}

func prefetch1And100() {
	onChannel(func(connection *amqp.Connection, channel *amqp.Channel) {
		for _, prefetch := range []int{1, 100} {
			queue := exclusiveQueue(channel, nil)
			publish(channel, queue, numbers(250)...)
			consuming := channelOf(connection)
			must(consuming.Qos(prefetch, 0, false))
			deliveries := consume(consuming, queue, "", false)
			var received []string
			for len(received) < 250 {
				window := min(prefetch, 250-len(received))
				batch := next(deliveries, window)
				// Had the broker sent more than the window, they would be here after a round trip.
				state(consuming, queue)
				equal(len(deliveries), 0, fmt.Sprintf("messages beyond a window of %d", prefetch))
				received = append(received, bodies(batch)...)
				must(batch[window-1].Ack(true))
			}
			equal(received, numbers(250), "order")
			must(consuming.Close())
			equal(state(channel, queue).Messages, 0, "messages left")
		}
	})
}

func consumerCancelAndQueueDeletion() {
	onChannel(func(connection *amqp.Connection, _ *amqp.Channel) {
		channel := confirmChannel(connection)
		queue := get(channel.QueueDeclare(name("q"), false, false, false, false, nil)).Name
		deliveries := consume(channel, queue, "first", true)
		confirmed(channel, queue, "before")
		equal(bodies(next(deliveries, 1)), []string{"before"}, "received")
		must(channel.Cancel("first", false))
		confirmed(channel, queue, "after")
		_, more := <-deliveries
		check(!more, "a delivery after cancel")
		found := state(channel, queue)
		equal([]int{found.Messages, found.Consumers}, []int{1, 0}, "messages and consumers after cancel")
		cancelled := channel.NotifyCancel(make(chan string, 1))
		deliveries = consume(channel, queue, "second", true)
		next(deliveries, 1)
		get(channelOf(connection).QueueDelete(queue, false, false, false))
		equal(receive(cancelled, "basic.cancel from the broker"), "second", "cancelled consumer")
		check(!channel.IsClosed(), "the channel was closed")
	})
}

func exclusiveAndAutoDelete() {
	onChannel(func(connection *amqp.Connection, channel *amqp.Channel) {
		owner := connect()
		queue := get(channelOf(owner).QueueDeclare(name("exclusive"), false, false, true, false, nil)).Name
		expectChannelError(405, "cannot obtain exclusive access to locked queue", func(c *amqp.Channel) error {
			_, _, err := c.Get(queue, true)
			return err
		})
		must(owner.Close())
		missing := func(c *amqp.Channel) error {
			_, err := c.QueueDeclarePassive(queue, false, false, false, false, nil)
			return err
		}
		expectChannelError(404, fmt.Sprintf("no queue '%s' in vhost '/'", queue), missing)
		queue = get(channel.QueueDeclare(name("auto-delete"), false, true, false, false, nil)).Name
		consume(channel, queue, "one", false)
		consume(channel, queue, "two", false)
		must(channel.Cancel("one", false))
		equal(state(channel, queue).Consumers, 1, "consumers")
		must(channel.Cancel("two", false))
		expectChannelError(404, "no queue", missing)
	})
}

func transactions() {
	onChannel(func(connection *amqp.Connection, look *amqp.Channel) {
		queue := exclusiveQueue(look, nil)
		channel := channelOf(connection)
		must(channel.Tx())
		publish(channel, queue, "1", "2")
		equal(state(look, queue).Messages, 0, "messages before the commit")
		must(channel.TxCommit())
		equal(state(look, queue).Messages, 2, "messages after the commit")
		publish(channel, queue, "3")
		message := getMessage(channel, queue)
		must(message.Ack(false))
		must(channel.TxRollback())
		equal(state(look, queue).Messages, 1, "ready messages after the rollback")
		// The rollback took the ack back: the message is still outstanding and can be settled again.
		must(channel.Nack(message.DeliveryTag, false, true))
		must(channel.TxCommit())
		deliveries := take(look, queue, 2)
		equal(bodies(deliveries), []string{"1", "2"}, "messages")
		equal([]bool{deliveries[0].Redelivered, deliveries[1].Redelivered}, []bool{true, false}, "redelivered")
	})
}

func propertiesAndHeaderTypesRoundTrip() {
	onChannel(func(_ *amqp.Connection, channel *amqp.Channel) {
		queue := exclusiveQueue(channel, nil)
		moment := time.Unix(1700000000, 0)
		table := amqp.Table{
			"string": "grüße", "empty": "", "int8": int8(-5), "uint8": uint8(200), "int16": int16(-3000), "uint16": uint16(60000),
			"int32": int32(math.MinInt32), "uint32": uint32(math.MaxUint32), "int64": int64(math.MinInt64), "float": float32(1.5), "double": 3.25,
			"true": true, "false": false, "decimal": amqp.Decimal{Scale: 2, Value: 314}, "time": moment, "bytes": []byte{0, 255}, "void": nil,
			"table": amqp.Table{"inner": amqp.Table{"deep": "x", "n": int32(1)}, "list": []any{int32(1), "two", amqp.Table{"three": int32(3)}}},
			"array": []any{"a", int32(1), true, []any{"nested"}, amqp.Table{"k": "v"}},
		}
		sent := amqp.Publishing{
			Headers: table, ContentType: "application/json", ContentEncoding: "gzip", DeliveryMode: 2, Priority: 9, CorrelationId: "c-1",
			ReplyTo: "some.queue", Expiration: "60000", MessageId: "m-1", Timestamp: moment, Type: "t", UserId: "guest", AppId: "interop", Body: []byte("x"),
		}
		send(channel, "", queue, sent)
		send(channel, "", queue, amqp.Publishing{Body: []byte("y")})
		deliveries := take(channel, queue, 2)
		got := func(d amqp.Delivery) amqp.Publishing {
			return amqp.Publishing{
				Headers: d.Headers, ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, DeliveryMode: d.DeliveryMode, Priority: d.Priority,
				CorrelationId: d.CorrelationId, ReplyTo: d.ReplyTo, Expiration: d.Expiration, MessageId: d.MessageId, Timestamp: d.Timestamp, Type: d.Type,
				UserId: d.UserId, AppId: d.AppId, Body: d.Body,
			}
		}
		full := got(deliveries[0])
		for key, value := range table {
			equal(full.Headers[key], value, "header "+key)
		}
		equal(len(full.Headers), len(table), "number of headers")
		full.Headers, sent.Headers = nil, nil
		equal(full, sent, "properties")
		bare := got(deliveries[1])
		equal(len(bare.Headers), 0, "headers of a message without any")
		bare.Headers = nil
		equal(bare, amqp.Publishing{Body: []byte("y")}, "properties of a message without any")
	})
}

func bodySizes() {
	onChannel(func(connection *amqp.Connection, channel *amqp.Channel) {
		equal(connection.Config.FrameSize, frameMax, "frame_max")
		queue := exclusiveQueue(channel, nil)
		for _, size := range []int{0, 1, frameMax - 8, frameMax - 7, 8 << 20} {
			body := bodyOf(size)
			send(channel, "", queue, amqp.Publishing{Body: body})
			received := take(channel, queue, 1)[0].Body
			check(bytes.Equal(received, body), "a body of %d bytes came back different (%d bytes)", size, len(received))
		}
	})
}

func thousandQueues200Channels() {
	onChannel(func(connection *amqp.Connection, _ *amqp.Channel) {
		channels := make([]*amqp.Channel, 200)
		for i := range channels {
			channels[i] = confirmChannel(connection)
		}
		queues := make([]string, 1000)
		for i := range queues {
			queues[i] = exclusiveQueue(channels[i%200], nil)
		}
		var confirms []*amqp.DeferredConfirmation
		for i, queue := range queues {
			confirms = append(confirms, get(channels[i%200].PublishWithDeferredConfirm("", queue, false, false, amqp.Publishing{Body: []byte(queue)})))
		}
		for _, confirm := range confirms {
			awaitConfirm(confirm)
		}
		for i, queue := range queues {
			delivery := getMessage(channels[i%200], queue)
			equal([]any{string(delivery.Body), delivery.MessageCount}, []any{queue, uint32(0)}, "message")
		}
	})
}

func ipv4AndIPv6() {
	if urlV6 == "" {
		skip("no IPv6 address")
	}
	onChannel(func(_ *amqp.Connection, v4 *amqp.Channel) {
		connection := get(amqp.Dial(urlV6))
		defer connection.Close()
		v6 := channelOf(connection)
		queue := get(v6.QueueDeclare(name("q"), false, true, false, false, nil)).Name
		publish(v4, queue, "over v4")
		equal(bodies(take(v6, queue, 1)), []string{"over v4"}, "received over IPv6")
	})
}

func heartbeatIdle() {
	connection := get(amqp.DialConfig(url, amqp.Config{Heartbeat: time.Second}))
	defer connection.Close()
	channel := channelOf(connection)
	queue := exclusiveQueue(channel, nil)
	time.Sleep(5 * time.Second)
	publish(channel, queue, "still here")
	equal(bodies(take(channel, queue, 1)), []string{"still here"}, "after 5 idle intervals")
}

// muted is a connection whose writes go nowhere once silent is set.
type muted struct {
	net.Conn
	silent atomic.Bool
}

func (m *muted) Write(data []byte) (int, error) {
	if m.silent.Load() {
		return len(data), nil
	}
	return m.Conn.Write(data)
}

func deadPeerDetection() {
	onChannel(func(connection *amqp.Connection, _ *amqp.Channel) {
		channel := confirmChannel(connection)
		queue := get(channel.QueueDeclare(name("q"), false, false, false, false, nil)).Name
		socket := &muted{}
		silent := get(amqp.DialConfig(url, amqp.Config{Heartbeat: time.Second, Dial: func(network, address string) (net.Conn, error) {
			inner, err := amqp.DefaultDial(wait)(network, address)
			socket.Conn = inner
			return socket, err
		}}))
		closed := silent.NotifyClose(make(chan *amqp.Error, 1))
		confirmed(channel, queue, "unacked")
		getMessage(channelOf(silent), queue)
		socket.silent.Store(true)
		receive(closed, "the broker to drop a silent peer")
		eventually("the message of the silent peer to come back", func() bool { return state(channel, queue).Messages == 1 })
		delivery := getMessage(channel, queue)
		equal([]any{string(delivery.Body), delivery.Redelivered}, []any{"unacked", true}, "message")
		get(channel.QueueDelete(queue, false, false, false))
	})
}

// expectChannelError runs action on a new channel, which has to close it with code; the connection and its other channels go on.
func expectChannelError(code int, text string, action func(*amqp.Channel) error) {
	onChannel(func(connection *amqp.Connection, channel *amqp.Channel) {
		closed := channel.NotifyClose(make(chan *amqp.Error, 1))
		if err := action(channel); err != nil {
			expectError(err, code, text)
		}
		expectError(receive(closed, fmt.Sprintf("a channel error %d", code)), code, text)
		check(channel.IsClosed() && !connection.IsClosed(), "the channel has to be closed and the connection open")
		other := channelOf(connection)
		queue := exclusiveQueue(other, nil)
		publish(other, queue, "ok")
		equal(bodies(take(other, queue, 1)), []string{"ok"}, "on another channel")
	})
}

func expectConnectionError(code int, text string, action func(*amqp.Channel) error) {
	onChannel(func(connection *amqp.Connection, channel *amqp.Channel) {
		closed := connection.NotifyClose(make(chan *amqp.Error, 1))
		// The error of the call may come from the channel's end instead.
		_ = action(channel)
		expectError(receive(closed, fmt.Sprintf("a connection error %d", code)), code, text)
		eventually("the connection to be closed", connection.IsClosed)
	})
}

func expectError(err error, code int, text string) {
	var closed *amqp.Error
	check(errors.As(err, &closed), "expected error %d of the broker, got %v", code, err)
	equal(closed.Code, code, "reply code")
	contains(closed.Reason, text, "reply text")
	check(closed.Server, "the error is the library's own: %v", err)
}

func error404() {
	missing := name("missing")
	noQueue := fmt.Sprintf("NOT_FOUND - no queue '%s' in vhost '/'", missing)
	noExchange := fmt.Sprintf("NOT_FOUND - no exchange '%s' in vhost '/'", missing)
	expectChannelError(404, noQueue, func(c *amqp.Channel) error {
		_, err := c.QueueDeclarePassive(missing, false, false, false, false, nil)
		return err
	})
	expectChannelError(404, noQueue, func(c *amqp.Channel) error {
		_, err := c.Consume(missing, "", false, false, false, false, nil)
		return err
	})
	expectChannelError(404, noExchange, func(c *amqp.Channel) error {
		return c.PublishWithContext(context.Background(), missing, "k", false, false, amqp.Publishing{})
	})
	expectChannelError(404, noExchange, func(c *amqp.Channel) error { return c.QueueBind(exclusiveQueue(c, nil), "k", missing, false, nil) })
}

func error406() {
	queue := name("q")
	text := fmt.Sprintf("PRECONDITION_FAILED - inequivalent arg 'x-max-priority' for queue '%s' in vhost '/': received '5' but current is '4'", queue)
	expectChannelError(406, text, func(c *amqp.Channel) error {
		get(c.QueueDeclare(queue, false, false, true, false, amqp.Table{"x-max-priority": int32(4)}))
		_, err := c.QueueDeclare(queue, false, false, true, false, amqp.Table{"x-max-priority": int32(5)})
		return err
	})
	expectChannelError(406, "PRECONDITION_FAILED - unknown delivery tag 82", func(c *amqp.Channel) error { return c.Ack(82, false) })
	expectChannelError(406, "PRECONDITION_FAILED - cannot switch from tx to confirm mode", func(c *amqp.Channel) error {
		must(c.Tx())
		return c.Confirm(false)
	})
	text = "PRECONDITION_FAILED - user_id property set to 'bob' but authenticated user was 'guest'"
	expectChannelError(406, text, func(c *amqp.Channel) error {
		return c.PublishWithContext(context.Background(), "", "k", false, false, amqp.Publishing{UserId: "bob"})
	})
}

func error403() {
	expectChannelError(403, "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'", func(c *amqp.Channel) error {
		_, err := c.QueueDeclare("amq.mine", false, false, false, false, nil)
		return err
	})
	expectChannelError(403, "ACCESS_REFUSED - operation not permitted on the default exchange", func(c *amqp.Channel) error {
		return c.ExchangeDelete("", false, false)
	})
	expectChannelError(403, "in exclusive use", func(c *amqp.Channel) error {
		queue := exclusiveQueue(c, nil)
		get(c.Consume(queue, "", false, true, false, false, nil))
		_, err := c.Consume(queue, "", false, false, false, false, nil)
		return err
	})
	_, err := amqp.Dial(strings.Replace(url, "guest:guest", "guest:wrong", 1))
	var refused *amqp.Error
	check(errors.As(err, &refused), "a wrong password: %v", err)
	equal(refused.Code, 403, "code for a wrong password")
}

func error405() {
	onChannel(func(_ *amqp.Connection, owner *amqp.Channel) {
		queue := get(owner.QueueDeclare(name("q"), false, false, true, false, nil)).Name
		text := fmt.Sprintf("RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '%s' in vhost '/'", queue)
		expectChannelError(405, text, func(c *amqp.Channel) error {
			_, err := c.QueueDeclare(queue, false, false, true, false, nil)
			return err
		})
		expectChannelError(405, text, func(c *amqp.Channel) error {
			_, err := c.Consume(queue, "", false, false, false, false, nil)
			return err
		})
		expectChannelError(405, text, func(c *amqp.Channel) error {
			_, err := c.QueuePurge(queue, false)
			return err
		})
	})
}

func error530() {
	expectConnectionError(530, "NOT_ALLOWED - attempt to reuse consumer tag 'tag'", func(c *amqp.Channel) error {
		queue := exclusiveQueue(c, nil)
		get(c.Consume(queue, "tag", false, false, false, false, nil))
		_, err := c.Consume(queue, "tag", false, false, false, false, nil)
		return err
	})
	// The library turns any close there into an error of its own.
	_, err := amqp.Dial(url + "no-such-vhost")
	check(err != nil, "a missing virtual host was opened")
	contains(err.Error(), "vhost", "refused virtual host")
}

func error540() {
	expectConnectionError(540, "NOT_IMPLEMENTED - immediate=true", func(c *amqp.Channel) error {
		return c.PublishWithContext(context.Background(), "", "k", false, true, amqp.Publishing{})
	})
	expectConnectionError(540, "NOT_IMPLEMENTED - prefetch_size!=0 (10)", func(c *amqp.Channel) error { return c.Qos(1, 10, false) })
	expectConnectionError(540, "NOT_IMPLEMENTED - requeue=false", func(c *amqp.Channel) error { return c.Recover(false) })
	expectConnectionError(540, "NOT_IMPLEMENTED - active=false", func(c *amqp.Channel) error { return c.Flow(false) })
}

func consumerFilter() {
	onChannel(func(connection *amqp.Connection, channel *amqp.Channel) {
		if platform, _ := connection.Properties["platform"].(string); !strings.HasPrefix(platform, "MambaMQ") {
			skip("x-filter is MambaMQ's own")
		}
		queue := exclusiveQueue(channel, nil)
		for number, region := range []string{"eu", "us", "eu", "uk", "eu"} {
			body := fmt.Sprintf("%s %d", region, number)
			send(channel, "", queue, amqp.Publishing{Headers: amqp.Table{"region": region}, Body: []byte(body)})
		}
		filter := amqp.Table{"x-filter": "headers.region = 'eu'"}
		deliveries := get(channel.Consume(queue, "wanted", false, false, false, false, filter))
		wanted := next(deliveries, 3)
		for i, expected := range []string{"eu 0", "eu 2", "eu 4"} {
			equal(string(wanted[i].Body), expected, "filtered message")
		}
		must(wanted[1].Nack(false, true))
		again := receive(deliveries, "the redelivery")
		equal([]any{string(again.Body), again.Redelivered}, []any{"eu 2", true}, "the redelivered message")
		must(again.Ack(true))
		rest := take(channel, queue, 2)
		equal([]any{string(rest[0].Body), string(rest[1].Body)}, []any{"us 1", "uk 3"}, "what is left")
	})
}

func quorumQueue() {
	onChannel(func(connection *amqp.Connection, _ *amqp.Channel) {
		channel := confirmChannel(connection)
		queue := get(channel.QueueDeclare(name("quorum"), true, false, false, false, amqp.Table{"x-queue-type": "quorum"})).Name
		confirmed(channel, queue, "counted")
		must(channel.Qos(10, 0, false))
		deliveries := consume(channel, queue, "", false)
		first := receive(deliveries, "the first delivery")
		_, counted := first.Headers["x-delivery-count"]
		check(!counted, "the first delivery has an x-delivery-count")
		must(first.Nack(false, true))
		second := receive(deliveries, "the second delivery")
		equal([]any{string(second.Body), second.Redelivered, second.Headers["x-delivery-count"]}, []any{"counted", true, int64(1)}, "second delivery")
		must(second.Ack(false))
		get(channel.QueueDelete(queue, false, false, false))
	})
}

func withTLS() {
	roundTripWithTLS(nil, []amqp.Authentication{&amqp.PlainAuth{Username: "guest", Password: "guest"}})
}

func withCertificate() {
	if os.Getenv("AMQPS_PORT") == "" {
		skip("no TLS here")
	}
	certificate := get(tls.LoadX509KeyPair(os.Getenv("TLS_CERTIFICATE"), os.Getenv("TLS_KEY")))
	roundTripWithTLS([]tls.Certificate{certificate}, []amqp.Authentication{&amqp.ExternalAuth{}})
}

func roundTripWithTLS(certificates []tls.Certificate, logins []amqp.Authentication) {
	port := os.Getenv("AMQPS_PORT")
	if port == "" {
		skip("no TLS here")
	}
	roots := x509.NewCertPool()
	check(roots.AppendCertsFromPEM(get(os.ReadFile(os.Getenv("TLS_CA")))), "the authority's certificate")
	connection := get(amqp.DialConfig("amqps://localhost:"+port+"/", amqp.Config{
		SASL:            logins,
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certificates, ServerName: "localhost"},
		Dial:            func(network, _ string) (net.Conn, error) { return net.DialTimeout(network, "127.0.0.1:"+port, wait) },
	}))
	defer connection.Close()
	channel := channelOf(connection)
	queue := exclusiveQueue(channel, nil)
	large := strings.Repeat("x", 300000)
	publish(channel, queue, "hidden", large)
	received := take(channel, queue, 2)
	equal([]string{string(received[0].Body), string(received[1].Body)}, []string{"hidden", large}, "messages")
}

func recoveryAfterKill() {
	needBrokerControl()
	count := max(1, messages/10)
	connection := get(amqp.DialConfig(url, amqp.Config{Recovery: &amqp.Recovery{
		ReconnectionConfig: &amqp.ReconnectionConfig{MaxRetryCount: 200, RetryInterval: 100 * time.Millisecond},
	}}))
	defer connection.Close()
	states := make(chan *amqp.StateChanged, 100)
	connection.NotifyStateChange(states)
	channel := confirmChannel(connection)
	queue := confirmRun(channel, count, count)
	exchange := name("recovery-x")
	must(channel.ExchangeDeclare(exchange, "direct", true, false, false, false, nil))
	must(channel.QueueBind(queue, "k", exchange, false, nil))
	watched := exclusiveQueue(channel, nil)
	seen := consume(channel, watched, "", true)
	must(channel.QueueBind(watched, "watched", exchange, false, nil))
	killAndRestartBroker()
	for receive(states, "the library to reconnect").To != amqp.StateOpen {
	}
	// The library declares the exclusive queue, its binding and its consumer again.
	eventually("the channel to be open again", func() bool { return !channel.IsClosed() })
	send(channel, exchange, "watched", amqp.Publishing{Body: []byte("recovered consumer")})
	equal(bodies(next(seen, 1)), []string{"recovered consumer"}, "at the recovered consumer")
	equal(bodies(take(channel, queue, count)), numbers(count), "messages after the restart")
	send(channel, exchange, "k", amqp.Publishing{Body: []byte("new")})
	equal(bodies(take(channel, queue, 1)), []string{"new"}, "through the recovered binding")
	get(channel.QueueDelete(queue, false, false, false))
	must(channel.ExchangeDelete(exchange, false, false))
}
