package main

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func readyOf(channel *amqp.Channel, queue string) int {
	return get(channel.QueueDeclarePassive(queue, false, false, false, false, nil)).Messages
}

func untilReady(channel *amqp.Channel, queue string, count int) {
	eventually(fmt.Sprintf("%d messages in %s", count, queue), func() bool { return readyOf(channel, queue) == count })
}

// withLetters declares an exclusive queue with a dead-letter queue.
func withLetters(channel *amqp.Channel, arguments amqp.Table) (queue, dead string) {
	dead = exclusiveQueue(channel, nil)
	arguments["x-dead-letter-exchange"] = ""
	arguments["x-dead-letter-routing-key"] = dead
	return exclusiveQueue(channel, arguments), dead
}

func fetch(channel *amqp.Channel, queue string) amqp.Delivery {
	untilReady(channel, queue, 1)
	delivery, ok, err := channel.Get(queue, true)
	must(err)
	check(ok, "%s is empty", queue)
	return delivery
}

// death is the one letter of a queue: its body and what the newest entry of x-death says.
func death(channel *amqp.Channel, dead string) []any {
	letter := fetch(channel, dead)
	newest := letter.Headers["x-death"].([]any)[0].(amqp.Table)
	return []any{string(letter.Body), newest["reason"], newest["count"]}
}

func ttl() {
	onChannel(func(_ *amqp.Connection, channel *amqp.Channel) {
		queue, dead := withLetters(channel, amqp.Table{"x-message-ttl": int32(60000)})
		send(channel, "", queue, amqp.Publishing{Body: []byte("short"), Expiration: "20"})
		equal(death(channel, dead), []any{"short", "expired", int64(1)}, "the smaller time")
		send(channel, "", queue, amqp.Publishing{Body: []byte("at once"), Expiration: "0"})
		equal(death(channel, dead), []any{"at once", "expired", int64(1)}, "no time")
		publish(channel, queue, "long")
		untilReady(channel, queue, 1)
	})
}

func queueExpiry() {
	onChannel(func(_ *amqp.Connection, channel *amqp.Channel) {
		queue := get(channel.QueueDeclare(name("expires"), true, false, false, false, amqp.Table{"x-expires": int32(200)})).Name
		time.Sleep(time.Second)
		_, err := channel.QueueDeclarePassive(queue, false, false, false, false, nil)
		check(err != nil, "the queue is still there")
		contains(err.Error(), "no queue", "error")
	})
}

func lengthLimits() {
	onChannel(func(connection *amqp.Connection, _ *amqp.Channel) {
		channel := confirmChannel(connection)
		queue, dead := withLetters(channel, amqp.Table{"x-max-length": int32(2)})
		publish(channel, queue, "1", "2", "3")
		equal(death(channel, dead), []any{"1", "maxlen", int64(1)}, "the oldest gives way")
		untilReady(channel, queue, 2)
		octets := exclusiveQueue(channel, amqp.Table{"x-max-length-bytes": int32(4)})
		publish(channel, octets, "abc", "de")
		untilReady(channel, octets, 1)
		full := exclusiveQueue(channel, amqp.Table{"x-max-length": int32(1), "x-overflow": "reject-publish"})
		for _, expected := range []bool{true, false} {
			confirm := get(channel.PublishWithDeferredConfirm("", full, false, false, amqp.Publishing{}))
			select {
			case <-confirm.Done():
				equal(confirm.Acked(), expected, "confirm")
			case <-time.After(wait):
				fail("no confirm")
			}
		}
		equal(readyOf(channel, full), 1, "messages of the full queue")
	})
}

func deadLettering() {
	onChannel(func(_ *amqp.Connection, channel *amqp.Channel) {
		exchange, dead := exchangeOf(channel, "topic"), exclusiveQueue(channel, nil)
		must(channel.QueueBind(dead, "letters.#", exchange, false, nil))
		queue := exclusiveQueue(channel, amqp.Table{"x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": "letters.one"})
		send(channel, "", queue, amqp.Publishing{Body: []byte("x"), MessageId: "m", Headers: amqp.Table{"own": int32(1)}})
		untilReady(channel, queue, 1)
		delivery, _, err := channel.Get(queue, false)
		must(err)
		must(delivery.Reject(false))
		letter := fetch(channel, dead)
		equal([]string{letter.Exchange, letter.RoutingKey, string(letter.Body), letter.MessageId}, []string{exchange, "letters.one", "x", "m"}, "letter")
		headers := letter.Headers
		equal([]any{headers["own"], headers["x-first-death-queue"], headers["x-last-death-reason"]}, []any{int32(1), queue, "rejected"}, "headers")
		entry := headers["x-death"].([]any)[0].(amqp.Table)
		equal([]any{entry["count"], entry["reason"], entry["queue"], entry["exchange"], entry["routing-keys"]},
			[]any{int64(1), "rejected", queue, "", []any{queue}}, "x-death")
	})
}

func priorities() {
	onChannel(func(_ *amqp.Connection, channel *amqp.Channel) {
		queue := exclusiveQueue(channel, amqp.Table{"x-max-priority": int32(10)})
		for _, priority := range []uint8{1, 9, 5, 9, 200} {
			send(channel, "", queue, amqp.Publishing{Body: []byte(strconv.Itoa(int(priority))), Priority: priority})
		}
		publish(channel, queue, "none")
		untilReady(channel, queue, 6)
		deliveries := consume(channel, queue, "", true)
		for _, expected := range []string{"200", "9", "9", "5", "1", "none"} {
			equal(string(receive(deliveries, expected).Body), expected, "order")
		}
	})
}

func singleActiveConsumer() {
	onChannel(func(_ *amqp.Connection, channel *amqp.Channel) {
		queue := exclusiveQueue(channel, amqp.Table{"x-single-active-consumer": true})
		first, second := consume(channel, queue, "first", true), consume(channel, queue, "second", true)
		publish(channel, queue, "1", "2")
		equal(string(receive(first, "the first").Body), "1", "body")
		equal(string(receive(first, "the second").Body), "2", "body")
		must(channel.Cancel("first", false))
		publish(channel, queue, "3")
		equal(string(receive(second, "the next at the other one").Body), "3", "body")
	})
}

func consumerPriorities() {
	onChannel(func(_ *amqp.Connection, channel *amqp.Channel) {
		queue := exclusiveQueue(channel, nil)
		must(channel.Qos(1, 0, false))
		low := get(channel.Consume(queue, "low", false, false, false, false, amqp.Table{"x-priority": int32(-1)}))
		high := get(channel.Consume(queue, "high", false, false, false, false, amqp.Table{"x-priority": int32(10)}))
		publish(channel, queue, "1")
		equal(string(receive(high, "the first at the better one").Body), "1", "body")
		publish(channel, queue, "2")
		equal(string(receive(low, "the second at the other one, as the better one is busy").Body), "2", "body")
	})
}

func deliveryLimit() {
	onChannel(func(_ *amqp.Connection, channel *amqp.Channel) {
		dead := exclusiveQueue(channel, nil)
		queue := get(channel.QueueDeclare(name("limited"), true, false, false, false, amqp.Table{
			"x-queue-type": "quorum", "x-delivery-limit": int32(2), "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead,
		})).Name
		publish(channel, queue, "x")
		deliveries := consume(channel, queue, "", false)
		for i := 0; i < 3; i++ {
			delivery := receive(deliveries, "a delivery")
			must(delivery.Nack(false, true))
		}
		equal(death(channel, dead), []any{"x", "delivery_limit", int64(1)}, "letter")
		get(channel.QueueDelete(queue, false, false, false))
	})
}

func acknowledgementTimeout() {
	onChannel(func(connection *amqp.Connection, channel *amqp.Channel) {
		if platform, _ := connection.Properties["platform"].(string); !strings.HasPrefix(platform, "MambaMQ") {
			skip("other brokers look once a minute")
		}
		other := channelOf(connection)
		queue := exclusiveQueue(channel, amqp.Table{"x-consumer-timeout": int32(300)})
		closed := channel.NotifyClose(make(chan *amqp.Error, 1))
		deliveries := get(channel.Consume(queue, "", false, false, false, false, nil))
		publish(other, queue, "late")
		receive(deliveries, "the message nobody acknowledges")
		select {
		case reason := <-closed:
			equal(reason.Code, 406, "reply code")
			contains(reason.Reason, "delivery acknowledgement on channel", "reply text")
		case <-time.After(wait):
			check(false, "the channel was not closed")
		}
		again := receive(consume(other, queue, "", true), "the message that came back")
		equal([]any{string(again.Body), again.Redelivered}, []any{"late", true}, "the message that came back")
	})
}

func messageGroups() {
	onChannel(func(_ *amqp.Connection, channel *amqp.Channel) {
		exchange := exchangeOf(channel, "x-consistent-hash")
		var lock sync.Mutex
		received := map[string][]int{}
		seen := map[int]bool{}
		// A connection each: an acknowledgement that follows the close of its channel would end the connection.
		workers := []*amqp.Connection{connect(), connect(), connect()}
		var channels []*amqp.Channel
		for _, worker := range workers {
			defer worker.Close()
			channels = append(channels, channelOf(worker))
		}
		for i := 0; i < 3; i++ {
			queue := get(channel.QueueDeclare(name("partition"), true, false, false, false, amqp.Table{"x-single-active-consumer": true})).Name
			defer channel.QueueDelete(queue, false, false, false)
			must(channel.QueueBind(queue, "10", exchange, false, nil))
			for _, worker := range channels {
				must(worker.Qos(5, 0, false))
				deliveries := get(worker.Consume(queue, "", false, false, false, false, nil))
				go func() {
					for delivery := range deliveries {
						lock.Lock()
						count, _ := strconv.Atoi(string(delivery.Body))
						if !seen[count] {
							// What comes twice, because its acknowledgement was on its way, comes in order, too.
							seen[count] = true
							received[delivery.RoutingKey] = append(received[delivery.RoutingKey], count)
						}
						lock.Unlock()
						_ = delivery.Ack(false)
					}
				}()
			}
		}
		have := func(count int) func() bool {
			return func() bool {
				lock.Lock()
				defer lock.Unlock()
				return len(seen) >= count
			}
		}
		for count := 0; count < 300; count++ {
			send(channel, exchange, fmt.Sprintf("key %d", count%10), amqp.Publishing{Body: []byte(strconv.Itoa(count))})
			if count == 150 {
				eventually("half of the messages", have(50))
				// Its queues go on with the others; what it had not acknowledged comes back first.
				must(workers[0].Close())
			}
		}
		eventually("all messages", have(300))
		lock.Lock()
		defer lock.Unlock()
		for key, counts := range received {
			check(sort.IntsAreSorted(counts), "order of %s: %v", key, counts)
		}
	})
}
