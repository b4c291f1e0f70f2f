<?php
// The interop scenarios with php-amqplib.

require_once 'PhpAmqpLib/autoload.php';
require_once __DIR__ . '/harness.php';

use PhpAmqpLib\Channel\AMQPChannel;
use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Exception\AMQPBasicCancelException;
use PhpAmqpLib\Exception\AMQPConnectionClosedException;
use PhpAmqpLib\Exception\AMQPExceptionInterface;
use PhpAmqpLib\Exception\AMQPProtocolChannelException;
use PhpAmqpLib\Exception\AMQPTimeoutException;
use PhpAmqpLib\Message\AMQPMessage;
use PhpAmqpLib\Wire\AMQPArray;
use PhpAmqpLib\Wire\AMQPDecimal;
use PhpAmqpLib\Wire\AMQPTable;

run([
    'hello_world', 'work_queue_fair_dispatch', 'publish_subscribe', 'routing', 'topics', 'headers', 'rpc_reply_queue',
    'rpc_direct_reply_to', 'confirms_single', 'confirms_batch', 'confirms_async_50000', 'mandatory_return', 'basic_get',
    'nack_requeue_redelivered', 'prefetch_1_and_100', 'consumer_cancel_and_queue_deletion', 'exclusive_and_auto_delete',
    'transactions', 'properties_and_header_types_round_trip', 'body_sizes', 'thousand_queues_200_channels',
    'ipv4_and_ipv6', 'heartbeat_idle', 'dead_peer_detection', 'error_404', 'error_406', 'error_403', 'error_405',
    'error_530', 'error_540', 'quorum_queue', 'recovery_after_kill',
]);

// ---- tutorials

function hello_world(): void
{
    $channel = connect()->channel();
    $queue = temporary_queue($channel, 'hello');
    publish($channel, '', $queue, 'Hello World!');
    $inbox = new Inbox($channel, $queue, true);
    $message = $inbox->take();
    same('body', 'Hello World!', $message->getBody());
    same('exchange', '', $message->getExchange());
    same('routing key', $queue, $message->getRoutingKey());
    same('redelivered', false, $message->isRedelivered());
    $channel->basic_cancel($inbox->tag);
    same('messages left', 0, ready($channel, $queue));
}

function work_queue_fair_dispatch(): void
{
    $connection = connect();
    $setup = $connection->channel();
    $queue = durable_queue($setup, 'work');
    $slowChannel = $connection->channel();
    $slowChannel->basic_qos(0, 1, false);
    $slow = new Inbox($slowChannel, $queue, false);
    $quickChannel = $connection->channel();
    $quickChannel->basic_qos(0, 1, false);
    $quick = new Inbox($quickChannel, $queue, false);
    for ($i = 0; $i < 10; $i++) {
        publish($setup, '', $queue, "task $i", ['delivery_mode' => 2]);
    }
    $held = $slow->take();
    for ($i = 0; $i < 9; $i++) {
        $quick->take()->ack();
    }
    // A synchronous call on the slow channel comes after whatever the broker sent there before.
    same('ready', 0, ready($slowChannel, $queue));
    $slow->expectNothing('the slow worker');
    $held->ack();
    $setup->queue_delete($queue);
}

function publish_subscribe(): void
{
    $channel = connect()->channel();
    $exchange = exchange($channel, 'logs', 'fanout');
    $inboxes = [bound($channel, $exchange, ['']), bound($channel, $exchange, [''])];
    for ($i = 0; $i < 5; $i++) {
        publish($channel, $exchange, 'ignored', "log $i");
    }
    foreach ($inboxes as $inbox) {
        check(strpos($inbox->queue, 'amq.gen-') === 0, "the server-named queue is {$inbox->queue}");
        for ($i = 0; $i < 5; $i++) {
            $message = $inbox->take();
            same('body', "log $i", $message->getBody());
            same('exchange', $exchange, $message->getExchange());
        }
    }
    $channel->exchange_delete($exchange);
}

function routing(): void
{
    $channel = connect()->channel();
    $exchange = exchange($channel, 'direct', 'direct');
    $errors = bound($channel, $exchange, ['error']);
    $everything = bound($channel, $exchange, ['info', 'warning', 'error']);
    foreach (['info', 'error', 'debug', 'warning', 'error'] as $severity) {
        publish($channel, $exchange, $severity, $severity);
    }
    same('errors', ['error', 'error'], $errors->bodies(2));
    same('everything', ['info', 'error', 'warning', 'error'], $everything->bodies(4));
    round_trip($channel);
    $errors->expectNothing('errors');
    $everything->expectNothing('everything');
    $channel->queue_unbind($errors->queue, $exchange, 'error');
    publish($channel, $exchange, 'error', 'after unbind');
    same('everything', ['after unbind'], $everything->bodies(1));
    round_trip($channel);
    $errors->expectNothing('errors after unbind');
    $channel->exchange_delete($exchange);
}

function topics(): void
{
    $channel = connect()->channel();
    $exchange = exchange($channel, 'topic', 'topic');
    $orange = bound($channel, $exchange, ['*.orange.*']);
    $rabbitsAndLazy = bound($channel, $exchange, ['*.*.rabbit', 'lazy.#']);
    $all = bound($channel, $exchange, ['#']);
    $keys = [
        'quick.orange.rabbit', 'lazy.orange.elephant', 'quick.orange.fox', 'lazy.brown.fox', 'lazy.pink.rabbit',
        'quick.brown.fox', 'orange', 'quick.orange.new.rabbit', 'lazy.orange.new.rabbit', 'lazy', '',
    ];
    foreach ($keys as $key) {
        publish($channel, $exchange, $key, $key);
    }
    same('orange', ['quick.orange.rabbit', 'lazy.orange.elephant', 'quick.orange.fox'], $orange->bodies(3));
    same('rabbits and lazy', ['quick.orange.rabbit', 'lazy.orange.elephant', 'lazy.brown.fox', 'lazy.pink.rabbit',
        'lazy.orange.new.rabbit', 'lazy'], $rabbitsAndLazy->bodies(6));
    same('all', $keys, $all->bodies(count($keys)));
    round_trip($channel);
    foreach ([$orange, $rabbitsAndLazy, $all] as $inbox) {
        $inbox->expectNothing('topics');
    }
    $channel->exchange_delete($exchange);
}

function headers(): void
{
    $channel = connect()->channel();
    $exchange = exchange($channel, 'headers', 'headers');
    $inboxes = [];
    foreach (['all', 'any'] as $matching) {
        $queue = server_named($channel);
        $arguments = new AMQPTable(['x-match' => $matching, 'format' => 'pdf', 'pages' => 3]);
        $channel->queue_bind($queue, $exchange, '', false, $arguments);
        $inboxes[$matching] = new Inbox($channel, $queue, true);
    }
    $messages = [
        'both' => ['format' => 'pdf', 'pages' => 3, 'x' => 'y'],
        'format' => ['format' => 'pdf', 'pages' => 4],
        'pages' => ['pages' => 3],
        'neither' => ['format' => 'zip'],
    ];
    foreach ($messages as $body => $headers) {
        publish($channel, $exchange, '', $body, ['application_headers' => new AMQPTable($headers)]);
    }
    publish($channel, $exchange, '', 'none');
    same('all', ['both'], $inboxes['all']->bodies(1));
    same('any', ['both', 'format', 'pages'], $inboxes['any']->bodies(3));
    round_trip($channel);
    $inboxes['all']->expectNothing('all');
    $inboxes['any']->expectNothing('any');
    $channel->exchange_delete($exchange);
}

function rpc_reply_queue(): void
{
    $connection = connect();
    $client = $connection->channel();
    $replyQueue = server_named($client);
    rpc($connection->channel(), $client, $replyQueue, $replyQueue);
}

function rpc_direct_reply_to(): void
{
    $connection = connect();
    rpc($connection->channel(), $connection->channel(), 'amq.rabbitmq.reply-to', 'amq.rabbitmq.reply-to.');
}

/** Ten calls of a doubling server; $seenPrefix starts the reply-to that the server sees. */
function rpc(AMQPChannel $server, AMQPChannel $client, string $replyTo, string $seenPrefix): void
{
    $requests = temporary_queue($server, 'rpc');
    $calls = new Inbox($server, $requests, false);
    $replies = new Inbox($client, $replyTo, true);
    for ($i = 0; $i < 10; $i++) {
        publish($client, '', $requests, "$i", ['reply_to' => $replyTo, 'correlation_id' => "call-$i"]);
        $call = $calls->take();
        $answerTo = $call->get('reply_to');
        check(strpos($answerTo, $seenPrefix) === 0, "the server sees reply-to $answerTo");
        publish($server, '', $answerTo, (string) (2 * (int) $call->getBody()),
            ['correlation_id' => $call->get('correlation_id')]);
        $call->ack();
        $reply = $replies->take();
        same('reply', (string) (2 * $i), $reply->getBody());
        same('correlation id', "call-$i", $reply->get('correlation_id'));
    }
}

// ---- publishing

function confirms_single(): void
{
    $channel = connect()->channel();
    $queue = temporary_queue($channel, 'confirm-single');
    $confirms = new Confirms($channel);
    for ($i = 1; $i <= 20; $i++) {
        publish($channel, '', $queue, "m$i");
        $channel->wait_for_pending_acks(WAIT_SECS);
        same('acks', $i, $confirms->acks);
    }
    same('nacks', 0, $confirms->nacks);
    same('ready', 20, ready($channel, $queue));
}

function confirms_batch(): void
{
    $channel = connect()->channel();
    $queue = temporary_queue($channel, 'confirm-batch');
    $confirms = new Confirms($channel);
    for ($batch = 1; $batch <= 10; $batch++) {
        for ($i = 0; $i < 100; $i++) {
            $channel->batch_basic_publish(new AMQPMessage("m$i"), '', $queue);
        }
        $channel->publish_batch();
        $channel->wait_for_pending_acks(WAIT_SECS);
        same('acks', 100 * $batch, $confirms->acks);
    }
    same('nacks', 0, $confirms->nacks);
    same('ready', 1000, ready($channel, $queue));
}

function confirms_async_50000(): void
{
    $messages = (int) setting('INTEROP_MESSAGES', '50000');
    $channel = connect()->channel();
    $queue = durable_queue($channel, 'confirm-async');
    $confirms = new Confirms($channel);
    for ($i = 0; $i < $messages; $i++) {
        publish($channel, '', $queue, "message $i", ['delivery_mode' => 2]);
    }
    $channel->wait_for_pending_acks(WAIT_SECS);
    same('acks', $messages, $confirms->acks);
    same('nacks', 0, $confirms->nacks);
    same('ready', $messages, ready($channel, $queue));
    $channel->queue_delete($queue);
}

function mandatory_return(): void
{
    $channel = connect()->channel();
    $queue = temporary_queue($channel, 'mandatory');
    $events = [];
    $channel->set_return_listener(function ($code, $text, $exchange, $key, AMQPMessage $message) use (&$events) {
        $events[] = "return $code $text '$exchange' $key " . $message->get('message_id') . ' ' . $message->getBody();
    });
    $channel->set_ack_handler(function (AMQPMessage $message) use (&$events) {
        $events[] = 'ack ' . $message->getBody();
    });
    $channel->confirm_select();
    $channel->basic_publish(new AMQPMessage('lost', ['message_id' => 'id-1']), '', "$queue-missing", true);
    $channel->wait_for_pending_acks_returns(WAIT_SECS);
    same('events', ["return 312 NO_ROUTE '' $queue-missing id-1 lost", 'ack lost'], $events);
    $events = [];
    $channel->basic_publish(new AMQPMessage('found'), '', $queue, true);
    $channel->wait_for_pending_acks_returns(WAIT_SECS);
    same('events', ['ack found'], $events);
    same('ready', 1, ready($channel, $queue));
}

// ---- consuming

function basic_get(): void
{
    $channel = connect()->channel();
    $queue = temporary_queue($channel, 'get');
    check($channel->basic_get($queue) === null, 'an empty queue gave a message');
    for ($i = 0; $i < 3; $i++) {
        publish($channel, '', $queue, "m$i");
    }
    for ($i = 0; $i < 3; $i++) {
        $message = get($channel, $queue, $i === 2);
        same('body', "m$i", $message->getBody());
        same('messages left', 2 - $i, $message->getMessageCount());
        if ($i < 2) {
            $message->ack();
        }
    }
    check($channel->basic_get($queue) === null, 'the drained queue gave a message');
}

function nack_requeue_redelivered(): void
{
    $channel = connect()->channel();
    $dead = temporary_queue($channel, 'nack-dead');
    $queue = name('nack');
    $arguments = new AMQPTable(['x-dead-letter-exchange' => '', 'x-dead-letter-routing-key' => $dead]);
    $channel->queue_declare($queue, false, false, true, false, false, $arguments);
    for ($i = 0; $i < 3; $i++) {
        publish($channel, '', $queue, "m$i");
    }
    for ($i = 0; $i < 3; $i++) {
        $last = get($channel, $queue, false);
        same('first delivery redelivered', false, $last->isRedelivered());
    }
    $last->nack(true, true);
    $again = [];
    for ($i = 0; $i < 3; $i++) {
        $message = get($channel, $queue, false);
        same('order after requeue', "m$i", $message->getBody());
        same('redelivered', true, $message->isRedelivered());
        $again[] = $message;
    }
    $again[1]->reject(true);
    $again[0]->reject(false);
    $again[2]->nack(false);
    same('requeued one', 'm1', get($channel, $queue, true)->getBody());
    check($channel->basic_get($queue) === null, 'a discarded message came back');
    $letters = new Inbox($channel, $dead, true);
    foreach (['m0', 'm2'] as $body) {
        $letter = $letters->take();
        same('dead letter', $body, $letter->getBody());
        $death = $letter->get('application_headers')->getNativeData()['x-death'][0];
        same('x-death queue', $queue, $death['queue']);
        same('x-death reason', 'rejected', $death['reason']);
        same('x-death count', 1, $death['count']);
    }
}

function prefetch_1_and_100(): void
{
    $connection = connect();
    foreach ([1, 100] as $window) {
        $channel = $connection->channel();
        $queue = temporary_queue($channel, "prefetch-$window");
        $channel->confirm_select();
        for ($i = 0; $i < 250; $i++) {
            publish($channel, '', $queue, "m$i");
        }
        $channel->wait_for_pending_acks(WAIT_SECS);
        $channel->basic_qos(0, $window, false);
        $inbox = new Inbox($channel, $queue, false);
        for ($i = 0; $i < $window; $i++) {
            $last = $inbox->take();
            same('order', "m$i", $last->getBody());
        }
        same('ready at a full window', 250 - $window, ready($channel, $queue));
        $inbox->expectNothing('beyond the window');
        $last->ack(true);
        for ($i = $window; $i < 2 * $window; $i++) {
            same('order', "m$i", $inbox->take()->getBody());
        }
        same('ready after one ack', 250 - 2 * $window, ready($channel, $queue));
        $inbox->expectNothing('beyond the second window');
    }
}

function consumer_cancel_and_queue_deletion(): void
{
    $connection = connect();
    $channel = $connection->channel();
    $queue = temporary_queue($channel, 'cancel');
    $channel->confirm_select();
    $inbox = new Inbox($channel, $queue, true);
    publish($channel, '', $queue, 'before');
    same('body', 'before', $inbox->take()->getBody());
    $channel->basic_cancel($inbox->tag);
    publish($channel, '', $queue, 'after');
    $channel->wait_for_pending_acks(WAIT_SECS);
    same('ready', 1, ready($channel, $queue));
    $inbox->expectNothing('after cancel');
    $inbox = new Inbox($channel, $queue, true);
    same('body', 'after', $inbox->take()->getBody());
    $connection->channel()->queue_delete($queue);
    try {
        $inbox->take();
        throw new Failed('a delivery after the deletion');
    } catch (AMQPBasicCancelException $cancelled) {
        same('cancelled consumer', $inbox->tag, $cancelled->consumerTag);
    }
    check($channel->is_open(), 'the channel closed with the queue');
    round_trip($channel);
}

function exclusive_and_auto_delete(): void
{
    $watcher = connect();
    $owner = connect();
    $exclusive = temporary_queue($owner->channel(), 'exclusive');
    $intruder = $watcher->channel();
    expect_channel_close($intruder, 405, fn() => ready($intruder, $exclusive));
    $owner->close();
    $after = $watcher->channel();
    expect_channel_close($after, 404, fn() => ready($after, $exclusive));

    $channel = $watcher->channel();
    $queue = name('auto-delete');
    $channel->queue_declare($queue, false, false, false, true);
    $first = new Inbox($channel, $queue, true);
    $second = new Inbox($channel, $queue, true);
    $channel->basic_cancel($first->tag);
    ready($channel, $queue);
    $channel->basic_cancel($second->tag);
    expect_channel_close($channel, 404, fn() => ready($channel, $queue));

    $channel = $watcher->channel();
    $exchange = name('auto-delete-exchange');
    $channel->exchange_declare($exchange, 'direct', false, false, true);
    $queue = server_named($channel);
    $channel->queue_bind($queue, $exchange, 'k');
    $channel->exchange_declare($exchange, 'direct', true);
    $channel->queue_unbind($queue, $exchange, 'k');
    expect_channel_close($channel, 404, fn() => $channel->exchange_declare($exchange, 'direct', true));
}

function transactions(): void
{
    $connection = connect();
    $channel = $connection->channel();
    $observer = $connection->channel();
    $queue = temporary_queue($channel, 'tx');
    $channel->tx_select();
    publish($channel, '', $queue, 'one');
    publish($channel, '', $queue, 'two');
    round_trip($channel);
    same('ready before commit', 0, ready($observer, $queue));
    $channel->tx_commit();
    same('ready after commit', 2, ready($observer, $queue));
    publish($channel, '', $queue, 'never');
    $channel->tx_rollback();
    same('ready after rollback', 2, ready($observer, $queue));
    $tag = get($channel, $queue, false)->getDeliveryTag();
    $channel->basic_ack($tag);
    $channel->tx_rollback();
    // The message is unacknowledged again, so that the same tag can be acknowledged a second time.
    $channel->basic_ack($tag);
    $channel->tx_commit();
    $channel->close();
    same('rest', 'two', get($observer, $queue, true)->getBody());
    same('ready at the end', 0, ready($observer, $queue));
}

// ---- content

function properties_and_header_types_round_trip(): void
{
    $channel = connect()->channel();
    $queue = temporary_queue($channel, 'properties');
    $table = new AMQPTable();
    $table->set('bool-true', true);
    $table->set('bool-false', false);
    $table->set('byte', -128, AMQPTable::T_INT_SHORTSHORT);
    $table->set('unsigned-byte', 255, AMQPTable::T_INT_SHORTSHORT_U);
    $table->set('short', -32768, AMQPTable::T_INT_SHORT);
    $table->set('unsigned-short', 65535, AMQPTable::T_INT_SHORT_U);
    $table->set('int', -2147483648, AMQPTable::T_INT_LONG);
    $table->set('unsigned-int', 4294967295, AMQPTable::T_INT_LONG_U);
    $table->set('long', PHP_INT_MIN, AMQPTable::T_INT_LONGLONG);
    // The library knows float and double but cannot write them.
    $table->set('decimal', new AMQPDecimal(12345, 2));
    $table->set('string', 'Grüße, 世界');
    $table->set('empty', '');
    $table->set('bytes', "\0\1\xff", AMQPTable::T_BYTES);
    $table->set('timestamp', new DateTime('@1700000000'));
    $table->set('void', null);
    $table->set('array', new AMQPArray([1, true, 'x']));
    $table->set('table', new AMQPTable(['deep' => ['deeper' => 'bottom']]));
    $table->set('long-string', str_repeat('y', 5000));
    $sent = [
        'content_type' => 'text/plain', 'content_encoding' => 'utf-8', 'delivery_mode' => 2, 'priority' => 5,
        'correlation_id' => 'correlation', 'reply_to' => 'reply', 'expiration' => '60000', 'message_id' => 'message',
        'timestamp' => 1700000000, 'type' => 'kind', 'user_id' => 'guest', 'app_id' => 'app', 'cluster_id' => 'cluster',
    ];
    publish($channel, '', $queue, 'body', $sent + ['application_headers' => $table]);
    $back = get($channel, $queue, true);
    foreach ($sent as $key => $value) {
        same($key, $value, $back->get($key));
    }
    $expected = $table->getNativeData();
    $got = $back->get('application_headers')->getNativeData();
    // A table has no order, and RabbitMQ sorts it.
    ksort($expected);
    ksort($got);
    same('header names', array_keys($expected), array_keys($got));
    foreach ($expected as $key => $value) {
        same("header $key", plain($value), plain($got[$key]));
    }
    publish($channel, '', $queue, 'bare');
    same('bare properties', [], get($channel, $queue, true)->get_properties());
}

function body_sizes(): void
{
    $connection = connect();
    $channel = $connection->channel();
    $queue = temporary_queue($channel, 'sizes');
    $frameMax = new ReflectionProperty(PhpAmqpLib\Connection\AbstractConnection::class, 'frame_max');
    $frameMax->setAccessible(true);
    $frameBody = $frameMax->getValue($connection) - 8;
    $sizes = [0, 1, $frameBody, $frameBody + 1, 2 * $frameBody, 8 << 20];
    foreach ($sizes as $size) {
        publish($channel, '', $queue, pattern($size));
        check(get($channel, $queue, true)->getBody() === pattern($size), "the body of $size bytes came back changed");
    }
    $inbox = new Inbox($channel, $queue, true);
    foreach ($sizes as $size) {
        publish($channel, '', $queue, pattern($size));
        check($inbox->take()->getBody() === pattern($size), "the delivery of $size bytes came changed");
    }
}

// ---- connections

function thousand_queues_200_channels(): void
{
    $connection = connect();
    $channels = [];
    for ($i = 0; $i < 200; $i++) {
        $channels[] = $connection->channel();
    }
    for ($i = 0; $i < 1000; $i++) {
        $queue = temporary_queue($channels[$i % 200], "many-$i");
        publish($channels[$i % 200], '', $queue, "for $i");
    }
    for ($i = 0; $i < 1000; $i++) {
        same('body', "for $i", get($channels[$i % 200], name("many-$i"), true)->getBody());
    }
    for ($i = 0; $i < 1000; $i++) {
        $channels[($i + 7) % 200]->queue_delete(name("many-$i"));
    }
    foreach ($channels as $channel) {
        $channel->close();
    }
    check($connection->isConnected(), 'the connection closed');
}

function ipv4_and_ipv6(): void
{
    if (setting('AMQP_URL_V6', '') === '') {
        throw new Skipped('AMQP_URL_V6 is not set');
    }
    $sender = connect()->channel();
    $receiver = connect(['url' => setting('AMQP_URL_V6', '')])->channel();
    $queue = name('families');
    $sender->queue_delete($queue);
    $sender->queue_declare($queue, false, false, false, false);
    $inbox = new Inbox($receiver, $queue, true);
    publish($sender, '', $queue, 'across');
    same('body', 'across', $inbox->take()->getBody());
    $sender->queue_delete($queue);
}

function heartbeat_idle(): void
{
    $connection = connect(['heartbeat' => 1]);
    same('heartbeat', 1, $connection->getHeartbeat());
    $channel = $connection->channel();
    try {
        // Idle longer than either side tolerates silence; the library exchanges heartbeats while it waits.
        $channel->wait(null, false, 4);
        throw new Failed('something arrived on an idle channel');
    } catch (AMQPTimeoutException $expected) {
        check($connection->isConnected(), 'the idle connection was closed');
    }
    $queue = temporary_queue($channel, 'idle');
    publish($channel, '', $queue, 'still here');
    same('body', 'still here', get($channel, $queue, true)->getBody());
}

function dead_peer_detection(): void
{
    $channel = connect()->channel();
    $queue = durable_queue($channel, 'dead-peer');
    // Another connection looks for it: it has to be there first.
    $channel->confirm_select();
    publish($channel, '', $queue, 'held');
    $channel->wait_for_pending_acks(10);
    // The library sends heartbeats only while it is asked to do something; left alone, this connection falls silent.
    $doomed = connect(['heartbeat' => 1]);
    $doomedChannel = $doomed->channel();
    same('held', 'held', get($doomedChannel, $queue, false)->getBody());
    $inbox = new Inbox($channel, $queue, true);
    $back = $inbox->take();
    same('body after the broker noticed', 'held', $back->getBody());
    same('redelivered', true, $back->isRedelivered());
    try {
        $doomedChannel->queue_declare($queue, true);
        throw new Failed('the dropped connection still answers');
    } catch (AMQPExceptionInterface $expected) {
        check(!$doomed->isConnected(), 'the client takes the dropped connection for a good one');
    }
    $channel->queue_delete($queue);
}

// ---- errors

function error_404(): void
{
    $connection = connect();
    $missing = name('missing');
    $channel = $connection->channel();
    $text = expect_channel_close($channel, 404, fn() => ready($channel, $missing));
    same('text', "NOT_FOUND - no queue '$missing' in vhost '/'", $text);
    $channel = $connection->channel();
    publish($channel, $missing, 'k', 'x');
    $text = expect_channel_close($channel, 404, fn() => $channel->wait(null, false, WAIT_SECS));
    same('text', "NOT_FOUND - no exchange '$missing' in vhost '/'", $text);
    $channel = $connection->channel();
    expect_channel_close($channel, 404, fn() => new Inbox($channel, $missing, true));
    still_usable($connection);
}

function error_406(): void
{
    $connection = connect();
    $channel = $connection->channel();
    $queue = temporary_queue($channel, 'inequivalent');
    $arguments = new AMQPTable();
    $arguments->set('x-max-length', 7, AMQPTable::T_INT_LONG);
    $text = expect_channel_close($channel, 406,
        fn() => $channel->queue_declare($queue, false, false, true, false, false, $arguments));
    same('text', "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue '$queue' in vhost '/': "
        . "received the value '7' of type 'signedint' but current is none", $text);
    $channel = $connection->channel();
    $channel->basic_ack(42);
    $text = expect_channel_close($channel, 406, fn() => $channel->wait(null, false, WAIT_SECS));
    same('text', 'PRECONDITION_FAILED - unknown delivery tag 42', $text);
    still_usable($connection);
}

function error_403(): void
{
    $connection = connect();
    $channel = $connection->channel();
    $text = expect_channel_close($channel, 403,
        fn() => $channel->queue_declare('amq.interop', false, false, false, false));
    same('text', "ACCESS_REFUSED - queue name 'amq.interop' contains reserved prefix 'amq.*'", $text);
    $owner = $connection->channel();
    $queue = temporary_queue($owner, 'exclusive-consumer');
    $owner->basic_consume($queue, '', false, true, true);
    $second = $connection->channel();
    $text = expect_channel_close($second, 403, fn() => new Inbox($second, $queue, true));
    same('text', "ACCESS_REFUSED - queue '$queue' in vhost '/' in exclusive use", $text);
    still_usable($connection);
    try {
        connect(['password' => 'wrong']);
        throw new Failed('a wrong password was accepted');
    } catch (AMQPConnectionClosedException $refused) {
        same('code', 403, $refused->getCode());
        check(strpos($refused->getMessage(), 'ACCESS_REFUSED - Login was refused') === 0, $refused->getMessage());
    }
}

function error_405(): void
{
    $ownerConnection = connect();
    $owner = $ownerConnection->channel();
    $queue = temporary_queue($owner, 'locked');
    $connection = connect();
    $channel = $connection->channel();
    $text = expect_channel_close($channel, 405,
        fn() => $channel->queue_declare($queue, false, false, true, false));
    check(strpos($text, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '$queue' in vhost '/'") === 0, $text);
    still_usable($connection);
    same('ready for the owner', 0, ready($owner, $queue));
}

function error_530(): void
{
    $connection = connect();
    $channel = $connection->channel();
    $queue = temporary_queue($channel, 'tag');
    $channel->basic_consume($queue, 'once', false, true);
    // The library refuses a tag it knows; hidden from it, the broker gets to answer.
    $channel->callbacks = [];
    $text = expect_connection_close($connection, 530, fn() => $channel->basic_consume($queue, 'once', false, true));
    same('text', "NOT_ALLOWED - attempt to reuse consumer tag 'once'", $text);
    try {
        connect(['vhost' => 'interop-missing']);
        throw new Failed('a missing virtual host was accepted');
    } catch (AMQPConnectionClosedException $refused) {
        same('code', 530, $refused->getCode());
        same('text', 'NOT_ALLOWED - vhost interop-missing not found', reason($refused));
    }
}

function error_540(): void
{
    $connection = connect();
    $channel = $connection->channel();
    $channel->basic_publish(new AMQPMessage('at once'), '', name('nowhere'), false, true);
    $text = expect_connection_close($connection, 540, fn() => $channel->wait(null, false, WAIT_SECS));
    same('text', 'NOT_IMPLEMENTED - immediate=true', $text);
    $connection = connect();
    $channel = $connection->channel();
    $text = expect_connection_close($connection, 540, fn() => $channel->basic_qos(10, 1, false));
    same('text', 'NOT_IMPLEMENTED - prefetch_size!=0 (10)', $text);
}

// ---- durability

function quorum_queue(): void
{
    $channel = connect()->channel();
    $queue = durable_queue($channel, 'quorum', ['x-queue-type' => 'quorum']);
    $channel->confirm_select();
    publish($channel, '', $queue, 'counted', ['delivery_mode' => 2]);
    $channel->wait_for_pending_acks(WAIT_SECS);
    $channel->basic_qos(0, 10, false);
    $inbox = new Inbox($channel, $queue, false);
    $message = $inbox->take();
    check(!$message->has('application_headers')
        || !isset($message->get('application_headers')->getNativeData()['x-delivery-count']), 'the first delivery is counted');
    for ($count = 1; $count <= 2; $count++) {
        $message->nack(true);
        $message = $inbox->take();
        same('body', 'counted', $message->getBody());
        same('redelivered', true, $message->isRedelivered());
        same('x-delivery-count', $count, $message->get('application_headers')->getNativeData()['x-delivery-count']);
    }
    $message->ack();
    $channel->queue_delete($queue);
}

/** The library recovers a connection when asked to; channels are the application's business. */
function recovery_after_kill(): void
{
    if (setting('BROKER_CONTROL', '') === '') {
        throw new Skipped('BROKER_CONTROL is not set');
    }
    $count = 500;
    $connection = connect();
    $channel = $connection->channel();
    $queue = durable_queue($channel, 'recovery-durable');
    $confirms = new Confirms($channel);
    for ($i = 0; $i < $count; $i++) {
        publish($channel, '', $queue, "kept $i", ['delivery_mode' => 2]);
    }
    $channel->wait_for_pending_acks(WAIT_SECS);
    same('acks', $count, $confirms->acks);
    kill_and_restart();
    try {
        ready($channel, $queue);
        throw new Failed('the connection outlived its broker');
    } catch (AMQPExceptionInterface $lost) {
        $connection->reconnect();
    }
    $channel = $connection->channel();
    same('kept messages', $count, ready($channel, $queue));
    $inbox = new Inbox($channel, $queue, true);
    for ($i = 0; $i < $count; $i++) {
        same('kept message', "kept $i", $inbox->take()->getBody());
    }
    round_trip($channel);
    $inbox->expectNothing('kept messages');
    $channel->queue_delete($queue);
}

// ---- tools

/** A consumer that collects what arrives. */
class Inbox
{
    /** @var string */
    public $queue;
    /** @var string */
    public $tag;
    /** @var AMQPChannel */
    private $channel;
    /** @var AMQPMessage[] */
    private $messages = [];

    public function __construct(AMQPChannel $channel, string $queue, bool $noAck)
    {
        $this->channel = $channel;
        $this->queue = $queue;
        $this->tag = $channel->basic_consume($queue, '', false, $noAck, false, false, function (AMQPMessage $message) {
            $this->messages[] = $message;
        });
    }

    public function take(): AMQPMessage
    {
        $deadline = microtime(true) + WAIT_SECS;
        while (!$this->messages) {
            check(microtime(true) < $deadline, 'no delivery within ' . WAIT_SECS . ' s');
            try {
                $this->channel->wait(null, false, WAIT_SECS);
            } catch (AMQPTimeoutException $late) {
                throw new Failed('no delivery within ' . WAIT_SECS . ' s');
            }
        }
        return array_shift($this->messages);
    }

    public function bodies(int $count): array
    {
        $bodies = [];
        for ($i = 0; $i < $count; $i++) {
            $bodies[] = $this->take()->getBody();
        }
        return $bodies;
    }

    /** After a round trip on the channel, whatever the broker sent before it has been read. */
    public function expectNothing(string $what): void
    {
        for ($i = 0; $i < 100; $i++) {
            $this->channel->wait(null, true);
        }
        if ($this->messages) {
            throw new Failed("$what: unexpected delivery of " . $this->messages[0]->getBody());
        }
    }
}

/** Puts a channel into confirm mode and counts. */
class Confirms
{
    public $acks = 0;
    public $nacks = 0;

    public function __construct(AMQPChannel $channel)
    {
        $channel->set_ack_handler(function () {
            $this->acks++;
        });
        $channel->set_nack_handler(function () {
            $this->nacks++;
        });
        $channel->confirm_select();
    }
}

function connect(array $changes = []): AMQPStreamConnection
{
    $url = parse_url($changes['url'] ?? setting('AMQP_URL', 'amqp://guest:guest@127.0.0.1:5672/'));
    return new AMQPStreamConnection(
        trim($url['host']), $url['port'] ?? 5672, $url['user'], $changes['password'] ?? $url['pass'],
        $changes['vhost'] ?? '/', false, 'AMQPLAIN', null, 'en_US', 10.0, (float) WAIT_SECS, null, false,
        $changes['heartbeat'] ?? 0, (float) WAIT_SECS
    );
}

/** An empty queue that goes with its connection. */
function temporary_queue(AMQPChannel $channel, string $rest): string
{
    $channel->queue_declare(name($rest), false, false, true, false);
    return name($rest);
}

function server_named(AMQPChannel $channel): string
{
    return $channel->queue_declare('', false, false, true, false)[0];
}

/** An empty durable queue, replacing one of an earlier run. */
function durable_queue(AMQPChannel $channel, string $rest, array $arguments = []): string
{
    $channel->queue_delete(name($rest));
    $channel->queue_declare(name($rest), false, true, false, false, false, new AMQPTable($arguments));
    return name($rest);
}

function exchange(AMQPChannel $channel, string $rest, string $type): string
{
    $channel->exchange_delete(name($rest));
    $channel->exchange_declare(name($rest), $type, false, false, false);
    return name($rest);
}

/** An inbox on a server-named queue with these bindings. */
function bound(AMQPChannel $channel, string $exchange, array $keys): Inbox
{
    $queue = server_named($channel);
    foreach ($keys as $key) {
        $channel->queue_bind($queue, $exchange, $key);
    }
    return new Inbox($channel, $queue, true);
}

function publish(AMQPChannel $channel, string $exchange, string $key, string $body, array $properties = []): void
{
    $channel->basic_publish(new AMQPMessage($body, $properties), $exchange, $key);
}

function ready(AMQPChannel $channel, string $queue): int
{
    return $channel->queue_declare($queue, true)[1];
}

function round_trip(AMQPChannel $channel): void
{
    $channel->exchange_declare('amq.direct', 'direct', true);
}

function get(AMQPChannel $channel, string $queue, bool $noAck): AMQPMessage
{
    $message = $channel->basic_get($queue, $noAck);
    check($message !== null, "queue $queue is empty");
    return $message;
}

function expect_channel_close(AMQPChannel $channel, int $code, callable $action): string
{
    $connection = $channel->getConnection();
    try {
        $action();
    } catch (AMQPProtocolChannelException $closed) {
        same('code', $code, $closed->amqp_reply_code);
        check(!$channel->is_open(), 'the channel is still open');
        check($connection->isConnected(), 'the connection closed with the channel');
        return $closed->amqp_reply_text;
    }
    throw new Failed("expected the channel to close with $code");
}

function expect_connection_close(AMQPStreamConnection $connection, int $code, callable $action): string
{
    try {
        $action();
    } catch (AMQPConnectionClosedException $closed) {
        same('code', $code, $closed->getCode());
        check(!$connection->isConnected(), 'the connection is still open');
        return reason($closed);
    }
    throw new Failed("expected the connection to close with $code");
}

/** The broker's text, without the method's numbers that the library appends. */
function reason(AMQPConnectionClosedException $closed): string
{
    return preg_replace('/\(\d+, \d+\)$/', '', $closed->getMessage());
}

function still_usable(AMQPStreamConnection $connection): void
{
    $channel = $connection->channel();
    $queue = server_named($channel);
    publish($channel, '', $queue, 'alive');
    same('body on a new channel', 'alive', get($channel, $queue, true)->getBody());
}

/** Objects compared by what they hold. */
function plain($value)
{
    if ($value instanceof AMQPDecimal) {
        return ['decimal', $value->getN(), $value->getE()];
    }
    if ($value instanceof DateTimeInterface) {
        return ['time', $value->getTimestamp()];
    }
    return is_string($value) ? ['string', bin2hex($value)] : $value;
}
