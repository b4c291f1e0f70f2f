// Command tutorial is RabbitMQ's tutorials with amqp091-go: `tutorial ROLE ARGUMENT…`.
// Receivers print `ready`, then a line `routing key TAB body` for each message.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"

	amqp "github.com/rabbitmq/amqp091-go"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func get[T any](value T, err error) T {
	must(err)
	return value
}

func main() {
	connection := get(amqp.Dial(os.Getenv("AMQP_URL")))
	channel := get(connection.Channel())
	role, arguments := os.Args[1], os.Args[2:]
	name, rest := arguments[0], arguments[1:]
	switch role {
	case "send":
		declare(channel, name, false)
		for _, body := range rest {
			publish(channel, "", name, amqp.Publishing{Body: []byte(body)})
		}
	case "receive":
		declare(channel, name, false)
		consume(channel, name, true, show)
	case "new-task":
		declare(channel, name, true)
		for _, task := range rest {
			publish(channel, "", name, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(task)})
		}
	case "worker":
		declare(channel, name, true)
		must(channel.Qos(1, 0, false))
		consume(channel, name, false, func(delivery amqp.Delivery) {
			show(delivery)
			must(delivery.Ack(false))
		})
	case "emit":
		must(channel.ExchangeDeclare(name, rest[0], false, false, false, false, nil))
		for pairs := rest[1:]; len(pairs) > 0; pairs = pairs[2:] {
			publish(channel, name, pairs[0], amqp.Publishing{Body: []byte(pairs[1])})
		}
	case "subscribe":
		must(channel.ExchangeDeclare(name, rest[0], false, false, false, false, nil))
		queue := get(channel.QueueDeclare("", false, false, true, false, nil)).Name
		for _, key := range rest[1:] {
			must(channel.QueueBind(queue, key, name, false, nil))
		}
		consume(channel, queue, true, show)
	case "rpc-server":
		declare(channel, name, false)
		must(channel.Qos(1, 0, false))
		consume(channel, name, false, func(request amqp.Delivery) {
			reply := strconv.FormatUint(fibonacci(get(strconv.Atoi(string(request.Body)))), 10)
			publish(channel, "", request.ReplyTo, amqp.Publishing{CorrelationId: request.CorrelationId, Body: []byte(reply)})
			must(request.Ack(false))
		})
	case "rpc-client":
		replies := get(channel.QueueDeclare("", false, false, true, false, nil)).Name
		deliveries := get(channel.Consume(replies, "", true, false, false, false, nil))
		for _, number := range rest {
			call := "call-" + number
			publish(channel, "", name, amqp.Publishing{ReplyTo: replies, CorrelationId: call, Body: []byte(number)})
			for delivery := range deliveries {
				if delivery.CorrelationId == call {
					fmt.Printf("%s\t%s\n", number, delivery.Body)
					break
				}
			}
		}
	default:
		log.Fatalf("unknown role %q", role)
	}
	must(channel.Close())
	must(connection.Close())
}

func declare(channel *amqp.Channel, queue string, durable bool) {
	get(channel.QueueDeclare(queue, durable, false, false, false, nil))
}

func publish(channel *amqp.Channel, exchange, key string, message amqp.Publishing) {
	must(channel.PublishWithContext(context.Background(), exchange, key, false, false, message))
}

func consume(channel *amqp.Channel, queue string, noAck bool, handle func(amqp.Delivery)) {
	deliveries := get(channel.Consume(queue, "", noAck, false, false, false, nil))
	fmt.Println("ready")
	for delivery := range deliveries {
		handle(delivery)
	}
}

func show(delivery amqp.Delivery) { fmt.Printf("%s\t%s\n", delivery.RoutingKey, delivery.Body) }

func fibonacci(n int) uint64 {
	var a, b uint64 = 0, 1
	for i := 0; i < n; i++ {
		a, b = b, a+b
	}
	return a
}
