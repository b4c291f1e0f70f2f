import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Address;
import com.rabbitmq.client.AlreadyClosedException;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.DefaultConsumer;
import com.rabbitmq.client.DefaultSaslConfig;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.client.Envelope;
import com.rabbitmq.client.GetResponse;
import com.rabbitmq.client.LongString;
import com.rabbitmq.client.MessageProperties;
import com.rabbitmq.client.Recoverable;
import com.rabbitmq.client.RecoveryListener;
import com.rabbitmq.client.RpcClient;
import com.rabbitmq.client.RpcClientParams;
import com.rabbitmq.client.ShutdownSignalException;
import com.rabbitmq.client.impl.LongStringHelper;
import java.io.IOException;
import java.io.InputStream;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.BitSet;
import java.util.Date;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicBoolean;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/** The interop scenarios with the RabbitMQ Java client; prints one line per scenario. */
public final class Scenarios {
    private static final int WAIT_SECS = 20;
    private static final int SCENARIO_LIMIT_SECS = 90;
    private static final String URL = uri(env("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/"));
    private static final String URL_V6 = uri(env("AMQP_URL_V6", ""));
    private static final String CONTROL = env("BROKER_CONTROL", "");
    private static final String PREFIX = env("INTEROP_PREFIX", "interop-java-");
    private static final int MESSAGES = Integer.parseInt(env("INTEROP_MESSAGES", "50000"));

    interface Scenario {
        void run() throws Exception;
    }

    /** The scenario does not apply here; the message is the reason. */
    static final class Skip extends Exception {
        Skip(String reason) {
            super(reason);
        }
    }

    public static void main(String[] args) throws Exception {
        Map<String, Scenario> all = new LinkedHashMap<>();
        all.put("hello_world", Scenarios::helloWorld);
        all.put("work_queue_fair_dispatch", Scenarios::workQueueFairDispatch);
        all.put("publish_subscribe", Scenarios::publishSubscribe);
        all.put("routing", Scenarios::routing);
        all.put("topics", Scenarios::topics);
        all.put("headers", Scenarios::headers);
        all.put("rpc_reply_queue", Scenarios::rpcReplyQueue);
        all.put("rpc_direct_reply_to", Scenarios::rpcDirectReplyTo);
        all.put("confirms_single", Scenarios::confirmsSingle);
        all.put("confirms_batch", Scenarios::confirmsBatch);
        all.put("confirms_async_50000", Scenarios::confirmsAsync);
        all.put("mandatory_return", Scenarios::mandatoryReturn);
        all.put("basic_get", Scenarios::basicGet);
        all.put("nack_requeue_redelivered", Scenarios::nackRequeueRedelivered);
        all.put("prefetch_1_and_100", Scenarios::prefetch);
        all.put("consumer_cancel_and_queue_deletion", Scenarios::consumerCancelAndQueueDeletion);
        all.put("exclusive_and_auto_delete", Scenarios::exclusiveAndAutoDelete);
        all.put("transactions", Scenarios::transactions);
        all.put("properties_and_header_types_round_trip", Scenarios::propertiesRoundTrip);
        all.put("body_sizes", Scenarios::bodySizes);
        all.put("thousand_queues_200_channels", Scenarios::thousandQueues);
        all.put("ipv4_and_ipv6", Scenarios::ipv4AndIpv6);
        all.put("heartbeat_idle", Scenarios::heartbeatIdle);
        all.put("dead_peer_detection", Scenarios::deadPeerDetection);
        all.put("error_404", Scenarios::error404);
        all.put("error_406", Scenarios::error406);
        all.put("error_403", Scenarios::error403);
        all.put("error_405", Scenarios::error405);
        all.put("error_530", Scenarios::error530);
        all.put("error_540", Scenarios::error540);
        all.put("quorum_queue", Scenarios::quorumQueue);
        all.put("tls", Scenarios::tls);
        all.put("tls_external", Scenarios::tlsExternal);
        all.put("recovery_after_kill", Scenarios::recoveryAfterKill);

        String only = env("INTEROP_ONLY", "");
        Set<String> wanted = only.isEmpty() ? all.keySet() : Set.of(only.split(","));
        for (Map.Entry<String, Scenario> entry : all.entrySet()) {
            if (wanted.contains(entry.getKey())) {
                report(entry.getKey(), entry.getValue());
            }
        }
        System.out.println("DONE");
        // Not every library thread is a daemon, least of all after a scenario that ran out of time.
        System.exit(0);
    }

    private static void report(String name, Scenario scenario) throws InterruptedException {
        ExecutorService runner = Executors.newSingleThreadExecutor(body -> {
            Thread thread = new Thread(body, name);
            thread.setDaemon(true);
            return thread;
        });
        Future<?> outcome = runner.submit(() -> {
            scenario.run();
            return null;
        });
        String line;
        try {
            outcome.get(SCENARIO_LIMIT_SECS, TimeUnit.SECONDS);
            line = "PASS " + name;
        } catch (TimeoutException late) {
            line = "FAIL " + name + ": not done after " + SCENARIO_LIMIT_SECS + " s";
        } catch (ExecutionException thrown) {
            Throwable cause = thrown.getCause();
            if (cause instanceof Skip) {
                line = "SKIP " + name + ": " + cause.getMessage();
            } else {
                if (System.getenv("INTEROP_TRACE") != null) {
                    cause.printStackTrace();
                }
                line = "FAIL " + name + ": " + describe(cause);
                }
        }
        runner.shutdownNow();
        System.out.println(line.replaceAll("\\s+", " "));
        System.out.flush();
    }

    // ---- tutorials -------------------------------------------------------------------------------------------------

    private static void helloWorld() throws Exception {
        try (Connection connection = connect(); Channel channel = connection.createChannel()) {
            String queue = transientQueue(channel, "hello");
            channel.basicPublish("", queue, null, bytes("Hello World!"));
            Inbox inbox = new Inbox();
            String tag = channel.basicConsume(queue, true, inbox.on(channel));
            Delivery delivery = inbox.take();
            same("body", "Hello World!", text(delivery));
            same("exchange", "", delivery.getEnvelope().getExchange());
            same("routing key", queue, delivery.getEnvelope().getRoutingKey());
            same("redelivered", false, delivery.getEnvelope().isRedeliver());
            channel.basicCancel(tag);
            same("messages left", 0, ready(channel, queue));
        }
    }

    private static void workQueueFairDispatch() throws Exception {
        try (Connection connection = connect()) {
            Channel setup = connection.createChannel();
            String queue = PREFIX + "work";
            setup.queueDelete(queue);
            setup.queueDeclare(queue, true, false, false, null);
            try {
                Inbox slow = new Inbox();
                Channel slowChannel = connection.createChannel();
                slowChannel.basicQos(1);
                slowChannel.basicConsume(queue, false, slow.on(slowChannel));
                Inbox quick = new Inbox();
                Channel quickChannel = connection.createChannel();
                quickChannel.basicQos(1);
                quickChannel.basicConsume(queue, false, quick.on(quickChannel));
                for (int i = 0; i < 10; i++) {
                    setup.basicPublish("", queue, MessageProperties.PERSISTENT_TEXT_PLAIN, bytes("task " + i));
                }
                Delivery held = slow.take();
                for (int i = 0; i < 9; i++) {
                    Delivery task = quick.take();
                    quickChannel.basicAck(task.getEnvelope().getDeliveryTag(), false);
                }
                // A synchronous call on the slow channel comes after whatever the broker sent there before.
                same("ready", 0, ready(slowChannel, queue));
                same("tasks at the slow worker", 0, slow.size());
                slowChannel.basicAck(held.getEnvelope().getDeliveryTag(), false);
                same("ready at the end", 0, ready(slowChannel, queue));
            } finally {
                setup.queueDelete(queue);
            }
        }
    }

    private static void publishSubscribe() throws Exception {
        try (Connection connection = connect()) {
            Channel channel = connection.createChannel();
            String exchange = exchange(channel, "logs", "fanout");
            List<Inbox> inboxes = new ArrayList<>();
            for (int i = 0; i < 2; i++) {
                AMQP.Queue.DeclareOk declared = channel.queueDeclare();
                check(declared.getQueue().startsWith("amq.gen-"), "server-named queue is " + declared.getQueue());
                channel.queueBind(declared.getQueue(), exchange, "");
                Inbox inbox = new Inbox();
                channel.basicConsume(declared.getQueue(), true, inbox.on(channel));
                inboxes.add(inbox);
            }
            for (int i = 0; i < 5; i++) {
                channel.basicPublish(exchange, "ignored", null, bytes("log " + i));
            }
            for (Inbox inbox : inboxes) {
                for (int i = 0; i < 5; i++) {
                    Delivery delivery = inbox.take();
                    same("body", "log " + i, text(delivery));
                    same("exchange", exchange, delivery.getEnvelope().getExchange());
                }
            }
            channel.exchangeDelete(exchange);
        }
    }

    private static void routing() throws Exception {
        try (Connection connection = connect()) {
            Channel channel = connection.createChannel();
            String exchange = exchange(channel, "direct", "direct");
            Inbox errors = boundInbox(channel, exchange, "error");
            Inbox everything = boundInbox(channel, exchange, "info", "warning", "error");
            for (String severity : List.of("info", "error", "debug", "warning", "error")) {
                channel.basicPublish(exchange, severity, null, bytes(severity));
            }
            same("errors", List.of("error", "error"), errors.texts(2));
            same("everything", List.of("info", "error", "warning", "error"), everything.texts(4));
            roundTrip(channel);
            same("surplus", 0, errors.size() + everything.size());
            channel.queueUnbind(errors.queue, exchange, "error");
            channel.basicPublish(exchange, "error", null, bytes("after unbind"));
            same("everything after unbind", List.of("after unbind"), everything.texts(1));
            roundTrip(channel);
            same("errors after unbind", 0, errors.size());
            channel.exchangeDelete(exchange);
        }
    }

    private static void topics() throws Exception {
        try (Connection connection = connect()) {
            Channel channel = connection.createChannel();
            String exchange = exchange(channel, "topic", "topic");
            Inbox orange = boundInbox(channel, exchange, "*.orange.*");
            Inbox rabbitsAndLazy = boundInbox(channel, exchange, "*.*.rabbit", "lazy.#");
            Inbox all = boundInbox(channel, exchange, "#");
            List<String> keys = List.of("quick.orange.rabbit", "lazy.orange.elephant", "quick.orange.fox",
                "lazy.brown.fox", "lazy.pink.rabbit", "quick.brown.fox", "orange", "quick.orange.new.rabbit",
                "lazy.orange.new.rabbit", "lazy", "");
            for (String key : keys) {
                channel.basicPublish(exchange, key, null, bytes(key));
            }
            same("orange", List.of("quick.orange.rabbit", "lazy.orange.elephant", "quick.orange.fox"), orange.texts(3));
            same("rabbits and lazy", List.of("quick.orange.rabbit", "lazy.orange.elephant", "lazy.brown.fox",
                "lazy.pink.rabbit", "lazy.orange.new.rabbit", "lazy"), rabbitsAndLazy.texts(6));
            same("all", keys, all.texts(keys.size()));
            roundTrip(channel);
            same("surplus", 0, orange.size() + rabbitsAndLazy.size() + all.size());
            channel.exchangeDelete(exchange);
        }
    }

    private static void headers() throws Exception {
        try (Connection connection = connect()) {
            Channel channel = connection.createChannel();
            String exchange = exchange(channel, "headers", "headers");
            Inbox all = new Inbox();
            Inbox any = new Inbox();
            String allQueue = channel.queueDeclare().getQueue();
            String anyQueue = channel.queueDeclare().getQueue();
            channel.queueBind(allQueue, exchange, "", Map.of("x-match", "all", "format", "pdf", "pages", 3));
            channel.queueBind(anyQueue, exchange, "", Map.of("x-match", "any", "format", "pdf", "pages", 3));
            channel.basicConsume(allQueue, true, all.on(channel));
            channel.basicConsume(anyQueue, true, any.on(channel));
            publishWithHeaders(channel, exchange, "both", Map.of("format", "pdf", "pages", 3, "x", "y"));
            publishWithHeaders(channel, exchange, "format", Map.of("format", "pdf", "pages", 4));
            publishWithHeaders(channel, exchange, "pages", Map.of("pages", 3));
            publishWithHeaders(channel, exchange, "neither", Map.of("format", "zip"));
            channel.basicPublish(exchange, "", null, bytes("no headers"));
            same("all", List.of("both"), all.texts(1));
            same("any", List.of("both", "format", "pages"), any.texts(3));
            roundTrip(channel);
            same("surplus", 0, all.size() + any.size());
            channel.exchangeDelete(exchange);
        }
    }

    private static void rpcReplyQueue() throws Exception {
        try (Connection connection = connect()) {
            Channel server = connection.createChannel();
            String requests = transientQueue(server, "rpc");
            startDoubler(server, requests, "");
            Channel client = connection.createChannel();
            String replies = client.queueDeclare().getQueue();
            Inbox inbox = new Inbox();
            client.basicConsume(replies, true, inbox.on(client));
            for (int i = 0; i < 10; i++) {
                AMQP.BasicProperties request = new AMQP.BasicProperties.Builder()
                    .replyTo(replies).correlationId("call-" + i).build();
                client.basicPublish("", requests, request, bytes(Integer.toString(i)));
            }
            for (int i = 0; i < 10; i++) {
                Delivery reply = inbox.take();
                same("correlation id", "call-" + i, reply.getProperties().getCorrelationId());
                same("reply", Integer.toString(2 * i), text(reply));
            }
        }
    }

    private static void rpcDirectReplyTo() throws Exception {
        try (Connection connection = connect()) {
            Channel server = connection.createChannel();
            String requests = transientQueue(server, "rpc-direct");
            startDoubler(server, requests, "amq.rabbitmq.reply-to.");
            Channel client = connection.createChannel();
            // RpcClient uses amq.rabbitmq.reply-to unless it is told otherwise.
            RpcClient rpc = new RpcClient(new RpcClientParams()
                .channel(client).exchange("").routingKey(requests).timeout(WAIT_SECS * 1000));
            for (int i = 0; i < 10; i++) {
                same("reply", Integer.toString(2 * i), rpc.stringCall(Integer.toString(i)));
            }
            rpc.close();
        }
    }

    // ---- publishing ------------------------------------------------------------------------------------------------

    private static void confirmsSingle() throws Exception {
        try (Connection connection = connect(); Channel channel = connection.createChannel()) {
            String queue = transientQueue(channel, "confirm-single");
            channel.confirmSelect();
            for (int i = 1; i <= 20; i++) {
                same("sequence number", (long) i, channel.getNextPublishSeqNo());
                channel.basicPublish("", queue, null, bytes("m" + i));
                check(channel.waitForConfirms(WAIT_SECS * 1000), "message " + i + " was nacked");
            }
            same("ready", 20, ready(channel, queue));
        }
    }

    private static void confirmsBatch() throws Exception {
        try (Connection connection = connect(); Channel channel = connection.createChannel()) {
            String queue = transientQueue(channel, "confirm-batch");
            channel.confirmSelect();
            for (int i = 1; i <= 1000; i++) {
                channel.basicPublish("", queue, null, bytes("m" + i));
                if (i % 100 == 0) {
                    channel.waitForConfirmsOrDie(WAIT_SECS * 1000);
                }
            }
            same("ready", 1000, ready(channel, queue));
        }
    }

    private static void confirmsAsync() throws Exception {
        try (Connection connection = connect(); Channel channel = connection.createChannel()) {
            String queue = PREFIX + "confirm-async";
            channel.queueDelete(queue);
            channel.queueDeclare(queue, true, false, false, null);
            channel.confirmSelect();
            Acks acks = new Acks(MESSAGES);
            channel.addConfirmListener(acks::ack, (tag, multiple) -> acks.fail("nack of " + tag));
            for (int i = 0; i < MESSAGES; i++) {
                channel.basicPublish("", queue, MessageProperties.PERSISTENT_TEXT_PLAIN, bytes("message " + i));
            }
            acks.await();
            same("ready", MESSAGES, ready(channel, queue));
            channel.queueDelete(queue);
        }
    }

    private static void mandatoryReturn() throws Exception {
        try (Connection connection = connect(); Channel channel = connection.createChannel()) {
            String queue = transientQueue(channel, "mandatory");
            channel.confirmSelect();
            List<String> events = new ArrayList<>();
            BlockingQueue<String> done = new LinkedBlockingQueue<>();
            channel.addReturnListener(returned -> events.add("return " + returned.getReplyCode() + " "
                + returned.getReplyText() + " '" + returned.getExchange() + "' " + returned.getRoutingKey() + " "
                + returned.getProperties().getMessageId() + " " + new String(returned.getBody(), StandardCharsets.UTF_8)));
            channel.addConfirmListener((tag, multiple) -> {
                events.add("ack " + tag);
                done.add("ack");
            }, (tag, multiple) -> done.add("nack " + tag));
            AMQP.BasicProperties properties = new AMQP.BasicProperties.Builder().messageId("id-1").build();
            channel.basicPublish("", queue + "-missing", true, properties, bytes("lost"));
            same("confirm", "ack", done.poll(WAIT_SECS, TimeUnit.SECONDS));
            same("events", List.of("return 312 NO_ROUTE '' " + queue + "-missing id-1 lost", "ack 1"), events);
            events.clear();
            channel.basicPublish("", queue, true, properties, bytes("found"));
            same("confirm", "ack", done.poll(WAIT_SECS, TimeUnit.SECONDS));
            same("events", List.of("ack 2"), events);
            same("ready", 1, ready(channel, queue));
        }
    }

    // ---- consuming -------------------------------------------------------------------------------------------------

    private static void basicGet() throws Exception {
        try (Connection connection = connect(); Channel channel = connection.createChannel()) {
            String queue = transientQueue(channel, "get");
            check(channel.basicGet(queue, false) == null, "an empty queue gave a message");
            for (int i = 0; i < 3; i++) {
                channel.basicPublish("", queue, null, bytes("m" + i));
            }
            for (int i = 0; i < 3; i++) {
                GetResponse got = channel.basicGet(queue, i == 2);
                check(got != null, "no message " + i);
                same("body", "m" + i, new String(got.getBody(), StandardCharsets.UTF_8));
                same("messages left", 2 - i, got.getMessageCount());
                same("routing key", queue, got.getEnvelope().getRoutingKey());
                if (i < 2) {
                    channel.basicAck(got.getEnvelope().getDeliveryTag(), false);
                }
            }
            check(channel.basicGet(queue, true) == null, "the drained queue gave a message");
        }
    }

    private static void nackRequeueRedelivered() throws Exception {
        try (Connection connection = connect(); Channel channel = connection.createChannel()) {
            String dead = transientQueue(channel, "nack-dead");
            String queue = PREFIX + "nack";
            channel.queueDeclare(queue, false, true, false,
                Map.of("x-dead-letter-exchange", "", "x-dead-letter-routing-key", dead));
            for (int i = 0; i < 3; i++) {
                channel.basicPublish("", queue, null, bytes("m" + i));
            }
            long last = 0;
            for (int i = 0; i < 3; i++) {
                GetResponse got = channel.basicGet(queue, false);
                same("first delivery redelivered", false, got.getEnvelope().isRedeliver());
                last = got.getEnvelope().getDeliveryTag();
            }
            channel.basicNack(last, true, true);
            List<Long> tags = new ArrayList<>();
            for (int i = 0; i < 3; i++) {
                GetResponse got = channel.basicGet(queue, false);
                same("order after requeue", "m" + i, new String(got.getBody(), StandardCharsets.UTF_8));
                same("redelivered", true, got.getEnvelope().isRedeliver());
                tags.add(got.getEnvelope().getDeliveryTag());
            }
            channel.basicReject(tags.get(1), true);
            channel.basicReject(tags.get(0), false);
            channel.basicNack(tags.get(2), false, false);
            GetResponse remaining = channel.basicGet(queue, true);
            same("requeued one", "m1", new String(remaining.getBody(), StandardCharsets.UTF_8));
            check(channel.basicGet(queue, true) == null, "a discarded message came back");
            Inbox deadLetters = new Inbox();
            channel.basicConsume(dead, true, deadLetters.on(channel));
            for (String body : List.of("m0", "m2")) {
                Delivery letter = deadLetters.take();
                same("dead letter", body, text(letter));
                same("dead letter redelivered", false, letter.getEnvelope().isRedeliver());
                Map<?, ?> death = (Map<?, ?>) ((List<?>) letter.getProperties().getHeaders().get("x-death")).get(0);
                same("x-death queue", queue, String.valueOf(death.get("queue")));
                same("x-death reason", "rejected", String.valueOf(death.get("reason")));
                same("x-death count", 1L, death.get("count"));
            }
        }
    }

    private static void prefetch() throws Exception {
        try (Connection connection = connect()) {
            for (int window : new int[] {1, 100}) {
                Channel channel = connection.createChannel();
                String queue = transientQueue(channel, "prefetch-" + window);
                channel.confirmSelect();
                for (int i = 0; i < 250; i++) {
                    channel.basicPublish("", queue, null, bytes("m" + i));
                }
                channel.waitForConfirmsOrDie(WAIT_SECS * 1000);
                same("ready before", 250, ready(channel, queue));
                Inbox inbox = new Inbox();
                channel.basicQos(window);
                channel.basicConsume(queue, false, inbox.on(channel));
                long tag = 0;
                for (int i = 0; i < window; i++) {
                    Delivery delivery = inbox.take();
                    same("order", "m" + i, text(delivery));
                    tag = delivery.getEnvelope().getDeliveryTag();
                }
                same("ready at a full window of " + window, 250 - window, ready(channel, queue));
                same("beyond the window of " + window, 0, inbox.size());
                channel.basicAck(tag, true);
                for (int i = 0; i < window; i++) {
                    same("order", "m" + (window + i), text(inbox.take()));
                }
                same("ready after one acknowledgement", 250 - 2 * window, ready(channel, queue));
                channel.close();
            }
        }
    }

    private static void consumerCancelAndQueueDeletion() throws Exception {
        try (Connection connection = connect(); Channel channel = connection.createChannel()) {
            String queue = transientQueue(channel, "cancel");
            channel.confirmSelect();
            Inbox inbox = new Inbox();
            String tag = channel.basicConsume(queue, true, inbox.on(channel));
            channel.basicPublish("", queue, null, bytes("before"));
            same("body", "before", text(inbox.take()));
            channel.basicCancel(tag);
            same("consumers", 0, (int) channel.consumerCount(queue));
            channel.basicPublish("", queue, null, bytes("after"));
            channel.waitForConfirmsOrDie(WAIT_SECS * 1000);
            same("ready", 1, ready(channel, queue));
            same("deliveries after cancel", 0, inbox.size());

            channel.basicConsume(queue, true, "named-tag", inbox.on(channel));
            same("body", "after", text(inbox.take()));
            try (Channel other = connection.createChannel()) {
                other.queueDelete(queue);
            }
            same("cancelled consumer", "named-tag", inbox.cancelled.poll(WAIT_SECS, TimeUnit.SECONDS));
            check(channel.isOpen(), "the channel closed with the queue");
        }
    }

    private static void exclusiveAndAutoDelete() throws Exception {
        String exclusive = PREFIX + "exclusive";
        try (Connection watcher = connect()) {
            try (Connection owner = connect(); Channel channel = owner.createChannel()) {
                channel.queueDeclare(exclusive, false, true, false, null);
                Channel intruder = watcher.createChannel();
                expectChannelClose(intruder, 405, () -> intruder.queueDeclarePassive(exclusive));
            }
            Channel after = watcher.createChannel();
            expectChannelClose(after, 404, () -> after.queueDeclarePassive(exclusive));

            Channel channel = watcher.createChannel();
            String autoDelete = PREFIX + "auto-delete";
            channel.queueDeclare(autoDelete, false, false, true, null);
            String first = channel.basicConsume(autoDelete, true, new Inbox().on(channel));
            String second = channel.basicConsume(autoDelete, true, new Inbox().on(channel));
            channel.basicCancel(first);
            channel.queueDeclarePassive(autoDelete);
            channel.basicCancel(second);
            expectChannelClose(channel, 404, () -> channel.queueDeclarePassive(autoDelete));

            Channel other = watcher.createChannel();
            String exchange = PREFIX + "auto-delete-exchange";
            other.exchangeDeclare(exchange, "direct", false, true, null);
            String queue = other.queueDeclare().getQueue();
            other.queueBind(queue, exchange, "k");
            other.exchangeDeclarePassive(exchange);
            other.queueUnbind(queue, exchange, "k");
            expectChannelClose(other, 404, () -> other.exchangeDeclarePassive(exchange));
        }
    }

    private static void transactions() throws Exception {
        try (Connection connection = connect()) {
            Channel channel = connection.createChannel();
            Channel observer = connection.createChannel();
            String queue = transientQueue(channel, "tx");
            channel.txSelect();
            channel.basicPublish("", queue, null, bytes("one"));
            channel.basicPublish("", queue, null, bytes("two"));
            roundTrip(channel);
            same("ready before commit", 0, ready(observer, queue));
            channel.txCommit();
            same("ready after commit", 2, ready(observer, queue));
            channel.basicPublish("", queue, null, bytes("never"));
            channel.txRollback();
            same("ready after rollback", 2, ready(observer, queue));

            GetResponse got = channel.basicGet(queue, false);
            channel.basicAck(got.getEnvelope().getDeliveryTag(), false);
            channel.txRollback();
            // The rolled back acknowledgement can be given again: the message is still unacknowledged.
            same("ready with one unacknowledged", 1, ready(observer, queue));
            channel.basicAck(got.getEnvelope().getDeliveryTag(), false);
            channel.txCommit();
            channel.close();
            GetResponse rest = observer.basicGet(queue, true);
            same("rest", "two", new String(rest.getBody(), StandardCharsets.UTF_8));
            same("ready at the end", 0, ready(observer, queue));
        }
    }

    // ---- content ---------------------------------------------------------------------------------------------------

    private static void propertiesRoundTrip() throws Exception {
        try (Connection connection = connect(); Channel channel = connection.createChannel()) {
            String queue = transientQueue(channel, "properties");
            Date moment = new Date(1_700_000_000_000L);
            Map<String, Object> nested = new HashMap<>();
            nested.put("deep", Map.of("deeper", "bottom"));
            Map<String, Object> sent = new HashMap<>();
            sent.put("bool-true", true);
            sent.put("bool-false", false);
            sent.put("byte", (byte) -128);
            sent.put("short", (short) -32768);
            sent.put("int", Integer.MIN_VALUE);
            sent.put("long", Long.MIN_VALUE);
            sent.put("float", 1.5f);
            sent.put("double", -2.25e300);
            sent.put("decimal", new BigDecimal("123.45"));
            sent.put("string", LongStringHelper.asLongString("Grüße, 世界"));
            sent.put("empty", LongStringHelper.asLongString(""));
            sent.put("bytes", new byte[] {0, 1, (byte) 0xff});
            sent.put("timestamp", moment);
            sent.put("void", null);
            sent.put("array", List.of(1, 2L, true, LongStringHelper.asLongString("x")));
            sent.put("table", nested);
            sent.put("long-string", LongStringHelper.asLongString("y".repeat(5000)));
            AMQP.BasicProperties properties = new AMQP.BasicProperties.Builder()
                .contentType("text/plain").contentEncoding("utf-8").headers(sent).deliveryMode(2).priority(5)
                .correlationId("correlation").replyTo("reply").expiration("60000").messageId("message")
                .timestamp(moment).type("kind").userId("guest").appId("app").clusterId("cluster").build();
            channel.basicPublish("", queue, properties, bytes("body"));
            GetResponse got = channel.basicGet(queue, true);
            AMQP.BasicProperties back = got.getProps();
            same("content type", "text/plain", back.getContentType());
            same("content encoding", "utf-8", back.getContentEncoding());
            same("delivery mode", 2, back.getDeliveryMode());
            same("priority", 5, back.getPriority());
            same("correlation id", "correlation", back.getCorrelationId());
            same("reply to", "reply", back.getReplyTo());
            same("expiration", "60000", back.getExpiration());
            same("message id", "message", back.getMessageId());
            same("timestamp", moment, back.getTimestamp());
            same("type", "kind", back.getType());
            same("user id", "guest", back.getUserId());
            same("app id", "app", back.getAppId());
            same("cluster id", "cluster", back.getClusterId());
            same("header names", new TreeSet<>(sent.keySet()), new TreeSet<>(back.getHeaders().keySet()));
            for (Map.Entry<String, Object> entry : sent.entrySet()) {
                Object value = back.getHeaders().get(entry.getKey());
                if (entry.getValue() instanceof byte[]) {
                    check(value instanceof byte[] && Arrays.equals((byte[]) entry.getValue(), (byte[]) value),
                        "header bytes came back as " + value);
                } else {
                    same("header " + entry.getKey(), plain(entry.getValue()), plain(value));
                }
            }
            channel.basicPublish("", queue, null, bytes("bare"));
            back = channel.basicGet(queue, true).getProps();
            check(back.getHeaders() == null && back.getContentType() == null && back.getDeliveryMode() == null,
                "absent properties came back as " + back);
        }
    }

    private static void bodySizes() throws Exception {
        try (Connection connection = connect(); Channel channel = connection.createChannel()) {
            String queue = transientQueue(channel, "sizes");
            channel.confirmSelect();
            int frameBody = connection.getFrameMax() - 8;
            int[] sizes = {0, 1, frameBody, frameBody + 1, 2 * frameBody, 8 << 20};
            for (int size : sizes) {
                channel.basicPublish("", queue, null, pattern(size));
                channel.waitForConfirmsOrDie(WAIT_SECS * 1000);
                GetResponse got = channel.basicGet(queue, true);
                check(got != null, "no message of " + size + " bytes");
                check(Arrays.equals(pattern(size), got.getBody()), "body of " + size + " bytes came back changed");
            }
            Inbox inbox = new Inbox();
            channel.basicConsume(queue, true, inbox.on(channel));
            for (int size : sizes) {
                channel.basicPublish("", queue, null, pattern(size));
            }
            for (int size : sizes) {
                check(Arrays.equals(pattern(size), inbox.take().getBody()), "delivery of " + size + " bytes changed");
            }
        }
    }

    // ---- connections -----------------------------------------------------------------------------------------------

    private static void thousandQueues() throws Exception {
        try (Connection connection = connect()) {
            List<Channel> channels = new ArrayList<>();
            for (int i = 0; i < 200; i++) {
                channels.add(connection.createChannel());
            }
            for (int i = 0; i < 1000; i++) {
                Channel channel = channels.get(i % 200);
                channel.queueDeclare(PREFIX + "many-" + i, false, true, false, null);
                channel.basicPublish("", PREFIX + "many-" + i, null, bytes("for " + i));
            }
            for (int i = 0; i < 1000; i++) {
                // A publish and a get on the same channel keep their order.
                GetResponse got = channels.get(i % 200).basicGet(PREFIX + "many-" + i, true);
                check(got != null, "queue " + i + " is empty");
                same("body", "for " + i, new String(got.getBody(), StandardCharsets.UTF_8));
            }
            for (int i = 0; i < 1000; i++) {
                channels.get((i + 7) % 200).queueDelete(PREFIX + "many-" + i);
            }
            for (Channel channel : channels) {
                channel.close();
            }
            check(connection.isOpen(), "the connection closed");
        }
    }

    private static void ipv4AndIpv6() throws Exception {
        if (URL_V6.isEmpty()) {
            throw new Skip("AMQP_URL_V6 is not set");
        }
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(URL_V6);
        String queue = PREFIX + "families";
        try (Connection four = connect(); Connection six = factory.newConnection()) {
            check(four.getAddress() instanceof java.net.Inet4Address, "connected to " + four.getAddress());
            check(six.getAddress() instanceof java.net.Inet6Address, "connected to " + six.getAddress());
            Channel sender = four.createChannel();
            sender.queueDelete(queue);
            sender.queueDeclare(queue, false, false, false, null);
            Channel receiver = six.createChannel();
            Inbox inbox = new Inbox();
            receiver.basicConsume(queue, true, inbox.on(receiver));
            sender.basicPublish("", queue, null, bytes("across"));
            same("body", "across", text(inbox.take()));
            receiver.queueDelete(queue);
        }
    }

    private static void heartbeatIdle() throws Exception {
        ConnectionFactory factory = factory();
        factory.setRequestedHeartbeat(1);
        factory.setAutomaticRecoveryEnabled(false);
        try (Connection connection = factory.newConnection(); Channel channel = connection.createChannel()) {
            same("negotiated heartbeat", 1, connection.getHeartbeat());
            CountDownLatch closed = new CountDownLatch(1);
            connection.addShutdownListener(cause -> closed.countDown());
            // Idle longer than either side tolerates silence: only heartbeats keep the connection.
            check(!closed.await(4, TimeUnit.SECONDS), "the idle connection was closed: " + connection.getCloseReason());
            String queue = transientQueue(channel, "idle");
            channel.basicPublish("", queue, null, bytes("still here"));
            same("body", "still here", new String(channel.basicGet(queue, true).getBody(), StandardCharsets.UTF_8));
        }
    }

    private static void deadPeerDetection() throws Exception {
        ConnectionFactory plain = factory();
        String queue = PREFIX + "dead-peer";
        try (Connection watcher = connect(); FreezableProxy proxy = new FreezableProxy(plain.getHost(), plain.getPort())) {
            Channel channel = watcher.createChannel();
            channel.queueDelete(queue);
            channel.queueDeclare(queue, false, false, false, null);
            channel.basicPublish("", queue, null, bytes("held"));
            ConnectionFactory factory = factory();
            factory.setHost(proxy.host());
            factory.setPort(proxy.port());
            factory.setRequestedHeartbeat(1);
            factory.setAutomaticRecoveryEnabled(false);
            Connection doomed = factory.newConnection();
            CountDownLatch closed = new CountDownLatch(1);
            doomed.addShutdownListener(cause -> closed.countDown());
            Channel doomedChannel = doomed.createChannel();
            GetResponse held = doomedChannel.basicGet(queue, false);
            same("held", "held", new String(held.getBody(), StandardCharsets.UTF_8));
            Inbox inbox = new Inbox();
            channel.basicConsume(queue, true, inbox.on(channel));
            proxy.freeze();
            Delivery back = inbox.take();
            same("body after the broker noticed", "held", text(back));
            same("redelivered", true, back.getEnvelope().isRedeliver());
            check(closed.await(WAIT_SECS, TimeUnit.SECONDS), "the client did not notice the silent broker");
            channel.queueDelete(queue);
        }
    }

    // ---- errors ----------------------------------------------------------------------------------------------------

    private static void error404() throws Exception {
        try (Connection connection = connect()) {
            String missing = PREFIX + "missing";
            Channel queue = connection.createChannel();
            String text = expectChannelClose(queue, 404, () -> queue.queueDeclarePassive(missing));
            same("text", "NOT_FOUND - no queue '" + missing + "' in vhost '/'", text);
            Channel exchange = connection.createChannel();
            text = expectAsyncChannelClose(exchange, 404,
                () -> exchange.basicPublish(missing, "k", null, bytes("x")));
            same("text", "NOT_FOUND - no exchange '" + missing + "' in vhost '/'", text);
            Channel consume = connection.createChannel();
            expectChannelClose(consume, 404, () -> consume.basicConsume(missing, new Inbox().on(consume)));
            stillUsable(connection);
        }
    }

    private static void error406() throws Exception {
        try (Connection connection = connect()) {
            Channel declare = connection.createChannel();
            String queue = transientQueue(declare, "inequivalent");
            String text = expectChannelClose(declare, 406,
                () -> declare.queueDeclare(queue, false, true, false, Map.of("x-max-length", 7)));
            same("text", "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue '" + queue
                + "' in vhost '/': received the value '7' of type 'signedint' but current is none", text);
            Channel ack = connection.createChannel();
            text = expectAsyncChannelClose(ack, 406, () -> ack.basicAck(42, false));
            same("text", "PRECONDITION_FAILED - unknown delivery tag 42", text);
            stillUsable(connection);
        }
    }

    private static void error403() throws Exception {
        try (Connection connection = connect()) {
            Channel reserved = connection.createChannel();
            String text = expectChannelClose(reserved, 403,
                () -> reserved.queueDeclare("amq.interop", false, false, false, null));
            same("text", "ACCESS_REFUSED - queue name 'amq.interop' contains reserved prefix 'amq.*'", text);
            Channel owner = connection.createChannel();
            String queue = transientQueue(owner, "exclusive-consumer");
            owner.basicConsume(queue, true, "", false, true, null, new Inbox().on(owner));
            Channel second = connection.createChannel();
            text = expectChannelClose(second, 403, () -> second.basicConsume(queue, true, new Inbox().on(second)));
            same("text", "ACCESS_REFUSED - queue '" + queue + "' in vhost '/' in exclusive use", text);
            stillUsable(connection);
        }
        ConnectionFactory wrong = factory();
        wrong.setPassword("wrong");
        try {
            wrong.newConnection().close();
            throw new AssertionError("a wrong password was accepted");
        } catch (com.rabbitmq.client.AuthenticationFailureException refused) {
            check(refused.getMessage().contains("ACCESS_REFUSED"), "refusal says " + refused.getMessage());
        }
    }

    private static void error405() throws Exception {
        try (Connection owner = connect(); Connection intruder = connect()) {
            Channel channel = owner.createChannel();
            String queue = transientQueue(channel, "locked");
            Channel declare = intruder.createChannel();
            String text = expectChannelClose(declare, 405, () -> declare.queueDeclare(queue, false, true, false, null));
            check(text.startsWith("RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '" + queue
                + "' in vhost '/'"), "text is " + text);
            Channel consume = intruder.createChannel();
            expectChannelClose(consume, 405, () -> consume.basicConsume(queue, new Inbox().on(consume)));
            stillUsable(intruder);
            check(channel.isOpen(), "the owner's channel closed");
        }
    }

    private static void error530() throws Exception {
        Connection connection = connectWithoutRecovery();
        Channel channel = connection.createChannel();
        String queue = transientQueue(channel, "tag");
        channel.basicConsume(queue, true, "twice", new Inbox().on(channel));
        String text = expectConnectionClose(connection, 530,
            () -> channel.basicConsume(queue, true, "twice", new Inbox().on(channel)));
        same("text", "NOT_ALLOWED - attempt to reuse consumer tag 'twice'", text);
        check(!channel.isOpen(), "the channel outlived its connection");

        ConnectionFactory factory = factory();
        factory.setVirtualHost("interop-missing");
        try {
            factory.newConnection().close();
            throw new AssertionError("a missing virtual host was accepted");
        } catch (IOException refused) {
            ShutdownSignalException signal = signal(refused);
            AMQP.Connection.Close close = (AMQP.Connection.Close) signal.getReason();
            same("code", 530, close.getReplyCode());
            same("text", "NOT_ALLOWED - vhost interop-missing not found", close.getReplyText());
        }
    }

    private static void error540() throws Exception {
        Connection connection = connectWithoutRecovery();
        Channel channel = connection.createChannel();
        CountDownLatch closed = new CountDownLatch(1);
        connection.addShutdownListener(cause -> closed.countDown());
        channel.basicPublish("", PREFIX + "nowhere", false, true, null, bytes("at once"));
        check(closed.await(WAIT_SECS, TimeUnit.SECONDS), "the connection stayed open");
        AMQP.Connection.Close close = (AMQP.Connection.Close) connection.getCloseReason().getReason();
        same("code", 540, close.getReplyCode());
        same("text", "NOT_IMPLEMENTED - immediate=true", close.getReplyText());

        Connection second = connectWithoutRecovery();
        Channel qos = second.createChannel();
        String text = expectConnectionClose(second, 540, () -> qos.basicQos(10, 1, false));
        same("text", "NOT_IMPLEMENTED - prefetch_size!=0 (10)", text);
    }

    // ---- durability ------------------------------------------------------------------------------------------------

    private static void quorumQueue() throws Exception {
        String queue = PREFIX + "quorum";
        try (Connection connection = connect(); Channel channel = connection.createChannel()) {
            channel.queueDelete(queue);
            channel.queueDeclare(queue, true, false, false, Map.of("x-queue-type", "quorum"));
            channel.confirmSelect();
            channel.basicPublish("", queue, MessageProperties.PERSISTENT_TEXT_PLAIN, bytes("counted"));
            channel.waitForConfirmsOrDie(WAIT_SECS * 1000);
            Inbox inbox = new Inbox();
            channel.basicQos(10);
            channel.basicConsume(queue, false, inbox.on(channel));
            Delivery delivery = inbox.take();
            check(delivery.getProperties().getHeaders() == null
                || !delivery.getProperties().getHeaders().containsKey("x-delivery-count"), "the first delivery is counted");
            for (long count = 1; count <= 2; count++) {
                channel.basicNack(delivery.getEnvelope().getDeliveryTag(), false, true);
                delivery = inbox.take();
                same("body", "counted", text(delivery));
                same("redelivered", true, delivery.getEnvelope().isRedeliver());
                Object seen = delivery.getProperties().getHeaders().get("x-delivery-count");
                check(seen instanceof Number && ((Number) seen).longValue() == count,
                    "x-delivery-count is " + seen + ", expected " + count);
            }
            channel.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
            channel.queueDelete(queue);
        }
    }

    private static void tls() throws Exception {
        roundTripWithTls(false);
    }

    private static void tlsExternal() throws Exception {
        roundTripWithTls(true);
    }

    private static void roundTripWithTls(boolean certified) throws Exception {
        String port = env("AMQPS_PORT", "");
        if (port.isEmpty()) {
            throw new Skip("no TLS here");
        }
        CertificateFactory reader = CertificateFactory.getInstance("X.509");
        KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null, null);
        try (InputStream authority = Files.newInputStream(Path.of(env("TLS_CA", "")))) {
            trusted.setCertificateEntry("authority", reader.generateCertificate(authority));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(trusted);
        KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        KeyStore own = KeyStore.getInstance(KeyStore.getDefaultType());
        own.load(null, null);
        if (certified) {
            String pem = Files.readString(Path.of(env("TLS_KEY", ""))).replaceAll("-----[^-]+-----|\\s", "");
            PrivateKey key = KeyFactory.getInstance("RSA").generatePrivate(new PKCS8EncodedKeySpec(Base64.getDecoder().decode(pem)));
            try (InputStream certificate = Files.newInputStream(Path.of(env("TLS_CERTIFICATE", "")))) {
                own.setKeyEntry("own", key, new char[0], new Certificate[] {reader.generateCertificate(certificate)});
            }
        }
        keys.init(own, new char[0]);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        ConnectionFactory factory = new ConnectionFactory();
        factory.setHost("localhost");
        factory.setPort(Integer.parseInt(port));
        factory.useSslProtocol(context);
        factory.enableHostnameVerification();
        if (certified) {
            factory.setSaslConfig(DefaultSaslConfig.EXTERNAL);
        }
        try (Connection connection = factory.newConnection(List.of(new Address("127.0.0.1", Integer.parseInt(port))))) {
            Channel channel = connection.createChannel();
            String queue = channel.queueDeclare().getQueue();
            String large = "x".repeat(300_000);
            for (String body : List.of("hidden", large)) {
                channel.basicPublish("", queue, null, body.getBytes(StandardCharsets.UTF_8));
            }
            for (String body : List.of("hidden", large)) {
                GetResponse response = channel.basicGet(queue, true);
                check(response != null, "a message of " + body.length() + " characters");
                check(body.equals(new String(response.getBody(), StandardCharsets.UTF_8)), "the body");
            }
        }
    }

    /** The client's own recovery restores connection, channels, exchange, queues, bindings and consumers. */
    private static void recoveryAfterKill() throws Exception {
        if (CONTROL.isEmpty()) {
            throw new Skip("BROKER_CONTROL is not set");
        }
        ConnectionFactory factory = factory();
        factory.setAutomaticRecoveryEnabled(true);
        factory.setTopologyRecoveryEnabled(true);
        factory.setNetworkRecoveryInterval(200);
        int count = 500;
        String durable = PREFIX + "recovery-durable";
        String exchange = PREFIX + "recovery-exchange";
        Connection connection = factory.newConnection();
        try {
            Channel channel = connection.createChannel();
            channel.queueDelete(durable);
            channel.queueDeclare(durable, true, false, false, null);
            channel.confirmSelect();
            for (int i = 0; i < count; i++) {
                channel.basicPublish("", durable, MessageProperties.PERSISTENT_TEXT_PLAIN, bytes("kept " + i));
            }
            channel.waitForConfirmsOrDie(WAIT_SECS * 1000);

            // Everything below is gone with the broker; the client has to declare it again.
            channel.exchangeDeclare(exchange, "topic", false, true, null);
            String temporary = channel.queueDeclare("", false, true, true, null).getQueue();
            channel.queueBind(temporary, exchange, "recovered.#");
            Inbox temporaryInbox = new Inbox();
            channel.basicConsume(temporary, true, temporaryInbox.on(channel));
            Channel consumer = connection.createChannel();
            consumer.basicQos(count);
            Inbox idle = new Inbox();
            String other = PREFIX + "recovery-idle";
            consumer.queueDelete(other);
            consumer.queueDeclare(other, true, false, false, null);
            consumer.basicConsume(other, false, "survivor", idle.on(consumer));
            channel.basicPublish(exchange, "recovered.before", null, bytes("before"));
            same("before", "before", text(temporaryInbox.take()));

            CountDownLatch recovered = new CountDownLatch(1);
            ((Recoverable) connection).addRecoveryListener(new RecoveryListener() {
                @Override
                public void handleRecovery(Recoverable recoverable) {
                    recovered.countDown();
                }

                @Override
                public void handleRecoveryStarted(Recoverable recoverable) {
                }
            });
            killAndRestart();
            check(recovered.await(60, TimeUnit.SECONDS), "the client did not recover within 60 s");
            check(connection.isOpen() && channel.isOpen() && consumer.isOpen(), "a recovered channel is closed");

            same("kept messages", count, ready(channel, durable));
            for (int i = 0; i < count; i++) {
                GetResponse got = channel.basicGet(durable, true);
                check(got != null, "message " + i + " is missing");
                same("kept message", "kept " + i, new String(got.getBody(), StandardCharsets.UTF_8));
            }
            channel.basicPublish(exchange, "recovered.after", null, bytes("after"));
            same("through the recovered binding", "after", text(temporaryInbox.take()));
            channel.basicPublish("", other, null, bytes("to the survivor"));
            Delivery delivery = idle.take();
            same("consumer tag", "survivor", idle.tag);
            consumer.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
            channel.basicPublish("", durable, MessageProperties.PERSISTENT_TEXT_PLAIN, bytes("confirmed again"));
            channel.waitForConfirmsOrDie(WAIT_SECS * 1000);
            channel.queueDelete(durable);
            channel.queueDelete(other);
        } finally {
            connection.abort();
        }
    }

    // ---- tools -----------------------------------------------------------------------------------------------------

    /** Collects deliveries and the broker's cancellations. */
    private static final class Inbox {
        private final BlockingQueue<Delivery> deliveries = new LinkedBlockingQueue<>();
        private final BlockingQueue<String> cancelled = new LinkedBlockingQueue<>();
        private volatile String tag;
        private String queue;

        DefaultConsumer on(Channel channel) {
            return new DefaultConsumer(channel) {
                @Override
                public void handleDelivery(String consumerTag, Envelope envelope, AMQP.BasicProperties properties,
                                           byte[] body) {
                    tag = consumerTag;
                    deliveries.add(new Delivery(envelope, properties, body));
                }

                @Override
                public void handleCancel(String consumerTag) {
                    cancelled.add(consumerTag);
                }
            };
        }

        Delivery take() throws InterruptedException {
            Delivery delivery = deliveries.poll(WAIT_SECS, TimeUnit.SECONDS);
            check(delivery != null, "no delivery within " + WAIT_SECS + " s");
            return delivery;
        }

        List<String> texts(int count) throws InterruptedException {
            List<String> texts = new ArrayList<>();
            for (int i = 0; i < count; i++) {
                texts.add(text(take()));
            }
            return texts;
        }

        int size() {
            return deliveries.size();
        }
    }

    /** Counts confirms; every sequence number must be confirmed exactly once. */
    private static final class Acks {
        private final BitSet seen = new BitSet();
        private final int expected;
        private final BlockingQueue<String> outcome = new LinkedBlockingQueue<>();
        private int lowest = 1;

        Acks(int expected) {
            this.expected = expected;
        }

        synchronized void ack(long tag, boolean multiple) {
            int number = (int) tag;
            if (seen.get(number)) {
                fail("second ack of " + tag);
            }
            int from = multiple ? lowest : number;
            seen.set(from, number + 1);
            lowest = seen.nextClearBit(1);
            if (lowest == expected + 1) {
                outcome.add("done");
            }
        }

        void fail(String reason) {
            outcome.add(reason);
        }

        void await() throws InterruptedException {
            String first = outcome.poll(60, TimeUnit.SECONDS);
            same("confirms", "done", first == null ? "only up to " + (lowest - 1) : first);
            same("highest confirm", expected, seen.length() - 1);
        }
    }

    private static void startDoubler(Channel server, String requests, String replyPrefix) throws IOException {
        server.basicQos(1);
        server.basicConsume(requests, false, new DefaultConsumer(server) {
            @Override
            public void handleDelivery(String tag, Envelope envelope, AMQP.BasicProperties properties, byte[] body)
                throws IOException {
                String answer = properties.getReplyTo().startsWith(replyPrefix)
                    ? Integer.toString(2 * Integer.parseInt(new String(body, StandardCharsets.UTF_8)))
                    : "unexpected reply-to " + properties.getReplyTo();
                AMQP.BasicProperties reply = new AMQP.BasicProperties.Builder()
                    .correlationId(properties.getCorrelationId()).build();
                server.basicPublish("", properties.getReplyTo(), reply, bytes(answer));
                server.basicAck(envelope.getDeliveryTag(), false);
            }
        });
    }

    private static ConnectionFactory factory() throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(URL);
        return factory;
    }

    private static Connection connect() throws Exception {
        return factory().newConnection();
    }

    private static Connection connectWithoutRecovery() throws Exception {
        ConnectionFactory factory = factory();
        factory.setAutomaticRecoveryEnabled(false);
        return factory.newConnection();
    }

    /** Declares an empty queue that goes with its connection. */
    private static String transientQueue(Channel channel, String name) throws IOException {
        String queue = PREFIX + name;
        channel.queueDeclare(queue, false, true, false, null);
        return queue;
    }

    private static String exchange(Channel channel, String name, String type) throws IOException {
        String exchange = PREFIX + name;
        channel.exchangeDelete(exchange);
        channel.exchangeDeclare(exchange, type);
        return exchange;
    }

    private static Inbox boundInbox(Channel channel, String exchange, String... keys) throws IOException {
        String queue = channel.queueDeclare().getQueue();
        for (String key : keys) {
            channel.queueBind(queue, exchange, key);
        }
        Inbox inbox = new Inbox();
        inbox.queue = queue;
        channel.basicConsume(queue, true, inbox.on(channel));
        return inbox;
    }

    private static void publishWithHeaders(Channel channel, String exchange, String body, Map<String, Object> headers)
        throws IOException {
        channel.basicPublish(exchange, "", new AMQP.BasicProperties.Builder().headers(headers).build(), bytes(body));
    }

    private static int ready(Channel channel, String queue) throws IOException {
        return channel.queueDeclarePassive(queue).getMessageCount();
    }

    /** After this everything the broker sent earlier on the channel has been dispatched. */
    private static void roundTrip(Channel channel) throws Exception {
        channel.exchangeDeclarePassive("amq.direct");
    }

    private static void stillUsable(Connection connection) throws Exception {
        check(connection.isOpen(), "the connection closed with the channel");
        try (Channel channel = connection.createChannel()) {
            String queue = channel.queueDeclare().getQueue();
            channel.basicPublish("", queue, null, bytes("alive"));
            check(channel.basicGet(queue, true) != null, "a new channel does not carry messages");
        }
    }

    private static String expectChannelClose(Channel channel, int code, Scenario action) throws Exception {
        try {
            action.run();
        } catch (IOException | AlreadyClosedException thrown) {
            return channelClose(signal(thrown), code, channel);
        }
        throw new AssertionError("expected the channel to close with " + code);
    }

    private static String expectAsyncChannelClose(Channel channel, int code, Scenario action) throws Exception {
        BlockingQueue<ShutdownSignalException> causes = new LinkedBlockingQueue<>();
        channel.addShutdownListener(causes::add);
        action.run();
        ShutdownSignalException cause = causes.poll(WAIT_SECS, TimeUnit.SECONDS);
        check(cause != null, "expected the channel to close with " + code);
        return channelClose(cause, code, channel);
    }

    private static String channelClose(ShutdownSignalException signal, int code, Channel channel) {
        check(!signal.isHardError(), "the connection closed: " + signal.getMessage());
        AMQP.Channel.Close close = (AMQP.Channel.Close) signal.getReason();
        same("code", code, close.getReplyCode());
        check(!channel.isOpen(), "the channel is open");
        check(channel.getConnection().isOpen(), "the connection is closed");
        return close.getReplyText();
    }

    private static String expectConnectionClose(Connection connection, int code, Scenario action) throws Exception {
        try {
            action.run();
        } catch (IOException | AlreadyClosedException thrown) {
            ShutdownSignalException signal = signal(thrown);
            check(signal.isHardError(), "only the channel closed: " + signal.getMessage());
            AMQP.Connection.Close close = (AMQP.Connection.Close) signal.getReason();
            same("code", code, close.getReplyCode());
            check(!connection.isOpen(), "the connection is open");
            return close.getReplyText();
        }
        throw new AssertionError("expected the connection to close with " + code);
    }

    private static ShutdownSignalException signal(Throwable thrown) {
        for (Throwable cause = thrown; cause != null; cause = cause.getCause()) {
            if (cause instanceof ShutdownSignalException) {
                return (ShutdownSignalException) cause;
            }
        }
        throw new AssertionError("no close method behind " + describe(thrown));
    }

    private static void killAndRestart() throws Exception {
        Process process = new ProcessBuilder(CONTROL, "kill-restart")
            .redirectErrorStream(true).redirectOutput(ProcessBuilder.Redirect.DISCARD).start();
        check(process.waitFor(60, TimeUnit.SECONDS), "kill-restart took longer than 60 s");
        same("exit status of kill-restart", 0, process.exitValue());
    }

    /** LongString compares by bytes, but inside of lists and maps a plain string reads better in a failure. */
    private static Object plain(Object value) {
        if (value instanceof LongString) {
            return value.toString();
        }
        if (value instanceof List) {
            List<Object> items = new ArrayList<>();
            ((List<?>) value).forEach(item -> items.add(plain(item)));
            return items;
        }
        if (value instanceof Map) {
            Map<Object, Object> items = new HashMap<>();
            ((Map<?, ?>) value).forEach((key, item) -> items.put(key, plain(item)));
            return items;
        }
        return value;
    }

    private static byte[] pattern(int size) {
        byte[] body = new byte[size];
        for (int i = 0; i < size; i++) {
            body[i] = (byte) (i * 31 + i / 251);
        }
        return body;
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static String text(Delivery delivery) {
        return new String(delivery.getBody(), StandardCharsets.UTF_8);
    }

    private static void same(String what, Object expected, Object actual) {
        check(Objects.equals(expected, actual), what + ": expected " + expected + ", got " + actual);
    }

    private static void check(boolean condition, String otherwise) {
        if (!condition) {
            throw new AssertionError(otherwise);
        }
    }

    private static String describe(Throwable thrown) {
        if (thrown instanceof AssertionError) {
            return thrown.getMessage();
        }
        StringBuilder text = new StringBuilder();
        for (Throwable cause = thrown; cause != null; cause = cause.getCause()) {
            text.append(text.length() == 0 ? "" : " <- ").append(cause);
        }
        return text.toString();
    }

    /** The contract's path `/` means the virtual host `/`; in an AMQP URI it would be the empty name. */
    private static String uri(String url) {
        return url.endsWith("/") ? url + "%2f" : url;
    }

    private static String env(String name, String otherwise) {
        String value = System.getenv(name);
        return value == null || value.isEmpty() ? otherwise : value;
    }
}
