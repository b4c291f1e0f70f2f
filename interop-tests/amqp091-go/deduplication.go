package main

import (
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"
)

// deduplication publishes everything twice, with a killed broker in between.
func deduplication() {
	needBrokerControl()
	queue, behind, exchange := name("once"), name("behind"), name("once-x")
	once := amqp.Table{"x-message-deduplication": true, "x-cache-size": int32(1000), "x-cache-ttl": int64(3600000)}
	onChannel(func(_ *amqp.Connection, channel *amqp.Channel) {
		get(channel.QueueDeclare(queue, true, false, false, false, once))
		get(channel.QueueDeclare(queue, true, false, false, false, once))
		must(channel.ExchangeDeclare(exchange, "direct", true, false, false, false, once))
		get(channel.QueueDeclare(behind, true, false, false, false, nil))
		must(channel.QueueBind(behind, "k", exchange, false, nil))
	})
	publishAll := func(body string) {
		connection := connect()
		defer connection.Close()
		channel := confirmChannel(connection)
		for _, id := range []any{"order 1", int32(2), "order 1", int64(2)} {
			message := amqp.Publishing{Body: []byte(body), DeliveryMode: amqp.Persistent, Headers: amqp.Table{"x-deduplication-header": id}}
			awaitConfirm(get(channel.PublishWithDeferredConfirm("", queue, true, false, message)))
			awaitConfirm(get(channel.PublishWithDeferredConfirm(exchange, "k", true, false, message)))
		}
	}
	publishAll("first try")
	killAndRestartBroker()
	publishAll("second try")
	onChannel(func(_ *amqp.Connection, channel *amqp.Channel) {
		for _, target := range []string{queue, behind} {
			equal(state(channel, target).Messages, 2, fmt.Sprintf("messages in %s", target))
			equal(bodies(take(channel, target, 2)), []string{"first try", "first try"}, fmt.Sprintf("messages of %s", target))
			get(channel.QueueDelete(target, false, false, false))
		}
		must(channel.ExchangeDelete(exchange, false, false))
	})
}
