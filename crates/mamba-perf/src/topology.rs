//! Queues, exchange and bindings of a run: made before, removed after.

use crate::error::Error;
use crate::plan::Plan;
use crate::transport::{CHANNEL, Transport, Wishes};
use crate::wire::{Cursor, ShortStr, Value, id, method};

/// Opens a connection with a channel for declarations.
pub(crate) fn connect(plan: &Plan) -> Result<Transport, Error> {
    let wishes = Wishes {
        name: "mambamq perf control",
        heartbeat_secs: plan.args.heartbeat,
        read_buffer_size: None,
    };
    let mut transport = Transport::open(&plan.uri, &wishes)?;
    transport.open_channel()?;
    Ok(transport)
}

/// Declares what the plan names; gives the number of messages that were in the queues already.
pub(crate) fn create(plan: &Plan) -> Result<u64, Error> {
    let mut transport = connect(plan)?;
    let mut found = 0;
    if !plan.args.predeclared {
        if let Some(kind) = &plan.exchange_type {
            declare_exchange(&mut transport, &plan.exchange, kind, plan.durable)?;
        }
        for queue in &plan.queues {
            found += declare_queue(
                &mut transport,
                &queue.wire_name,
                plan.durable,
                &plan.queue_arguments,
            )?;
            if !plan.exchange.is_empty() {
                bind(
                    &mut transport,
                    &queue.wire_name,
                    &plan.exchange,
                    &queue.binding_key,
                )?;
            }
        }
    }
    if plan.args.purge {
        for queue in &plan.queues {
            method(
                &mut transport.outbound,
                CHANNEL,
                id::QUEUE_PURGE,
                |fields| {
                    fields.short(0).shortstr(&queue.wire_name).octet(0);
                },
            );
            transport.call("queue.purge", id::QUEUE_PURGE_OK)?;
        }
        found = 0;
    }
    transport.close();
    Ok(found)
}

/// Deletes what [`create`] declared.
pub(crate) fn remove(plan: &Plan) -> Result<(), Error> {
    if plan.args.predeclared || plan.args.keep {
        return Ok(());
    }
    let mut transport = connect(plan)?;
    for queue in &plan.queues {
        delete_queue(&mut transport, &queue.wire_name)?;
    }
    if plan.exchange_type.is_some() {
        method(
            &mut transport.outbound,
            CHANNEL,
            id::EXCHANGE_DELETE,
            |fields| {
                fields.short(0).shortstr(&plan.exchange).octet(0);
            },
        );
        transport.call("exchange.delete", id::EXCHANGE_DELETE_OK)?;
    }
    transport.close();
    Ok(())
}

pub(crate) fn declare_exchange(
    transport: &mut Transport,
    name: &ShortStr,
    kind: &ShortStr,
    durable: bool,
) -> Result<(), Error> {
    method(
        &mut transport.outbound,
        CHANNEL,
        id::EXCHANGE_DECLARE,
        |fields| {
            fields
                .short(0)
                .shortstr(name)
                .shortstr(kind)
                .octet(u8::from(durable) << 1)
                .table(&[]);
        },
    );
    transport
        .call("exchange.declare", id::EXCHANGE_DECLARE_OK)
        .map(drop)
}

/// Gives the number of ready messages in the queue.
pub(crate) fn declare_queue(
    transport: &mut Transport,
    name: &ShortStr,
    durable: bool,
    arguments: &[(ShortStr, Value)],
) -> Result<u64, Error> {
    method(
        &mut transport.outbound,
        CHANNEL,
        id::QUEUE_DECLARE,
        |fields| {
            fields
                .short(0)
                .shortstr(name)
                .octet(u8::from(durable) << 1)
                .table(arguments);
        },
    );
    let answer = transport.call("queue.declare", id::QUEUE_DECLARE_OK)?;
    let mut answer = Cursor(&answer);
    answer.shortstr()?;
    answer.long().map(u64::from)
}

pub(crate) fn delete_queue(transport: &mut Transport, name: &ShortStr) -> Result<(), Error> {
    method(
        &mut transport.outbound,
        CHANNEL,
        id::QUEUE_DELETE,
        |fields| {
            fields.short(0).shortstr(name).octet(0);
        },
    );
    transport
        .call("queue.delete", id::QUEUE_DELETE_OK)
        .map(drop)
}

pub(crate) fn bind(
    transport: &mut Transport,
    queue: &ShortStr,
    exchange: &ShortStr,
    key: &ShortStr,
) -> Result<(), Error> {
    method(&mut transport.outbound, CHANNEL, id::QUEUE_BIND, |fields| {
        fields
            .short(0)
            .shortstr(queue)
            .shortstr(exchange)
            .shortstr(key)
            .octet(0)
            .table(&[]);
    });
    transport.call("queue.bind", id::QUEUE_BIND_OK).map(drop)
}

pub(crate) fn unbind(
    transport: &mut Transport,
    queue: &ShortStr,
    exchange: &ShortStr,
    key: &ShortStr,
) -> Result<(), Error> {
    method(
        &mut transport.outbound,
        CHANNEL,
        id::QUEUE_UNBIND,
        |fields| {
            fields
                .short(0)
                .shortstr(queue)
                .shortstr(exchange)
                .shortstr(key)
                .table(&[]);
        },
    );
    transport
        .call("queue.unbind", id::QUEUE_UNBIND_OK)
        .map(drop)
}
