//! `tx` and `confirm`: the two modes of a publishing channel (`spec: semantics §12, §19`).

use mamba_codec::{AMQPClass, Output, Returned, protocol, write_method, write_return};
use mamba_session::ConfirmTracker;
use mamba_types::{ChannelId, HardError, LogPosition, SoftError, Violation};
use protocol::tx;

use super::{
    Core,
    channel::{Mode, Transaction, Uncommitted},
};

fn precondition(text: &str) -> Violation {
    Violation::channel(SoftError::PreconditionFailed, text)
}

impl Core {
    pub(crate) fn select_confirms(
        &mut self,
        id: ChannelId,
        nowait: bool,
        out: &mut Output,
    ) -> Result<(), Violation> {
        let Some(channel) = self.channels.get_mut(&id) else {
            return Ok(());
        };
        match channel.mode {
            Mode::Plain => channel.mode = Mode::Confirm(ConfirmTracker::new()),
            Mode::Confirm(_) => {}
            Mode::Transaction(_) => {
                return Err(precondition("cannot switch from tx to confirm mode"));
            }
        }
        if !nowait {
            let ok = protocol::confirm::AMQPMethod::SelectOk(protocol::confirm::SelectOk {});
            write_method(out.buffer(), id, &AMQPClass::Confirm(ok));
        }
        Ok(())
    }

    pub(crate) fn tx_method(
        &mut self,
        id: ChannelId,
        method: &tx::AMQPMethod,
        out: &mut Output,
    ) -> Result<(), Violation> {
        let Some(channel) = self.channels.get_mut(&id) else {
            return Ok(());
        };
        match method {
            tx::AMQPMethod::Select(_) => {
                match channel.mode {
                    Mode::Plain => channel.mode = Mode::Transaction(Transaction::default()),
                    Mode::Transaction(_) => {}
                    Mode::Confirm(_) => {
                        return Err(precondition("cannot switch from confirm to tx mode"));
                    }
                }
                write_method(
                    out.buffer(),
                    id,
                    &AMQPClass::Tx(tx::AMQPMethod::SelectOk(tx::SelectOk {})),
                );
                Ok(())
            }
            tx::AMQPMethod::Commit(_) => self.commit(id, out),
            tx::AMQPMethod::Rollback(_) => {
                let Mode::Transaction(transaction) = &mut channel.mode else {
                    return Err(precondition("channel is not transactional"));
                };
                for (_, taken) in std::mem::take(transaction).settlements.into_iter().rev() {
                    for (_, held) in &taken {
                        self.deadlines.expect(held.due);
                    }
                    channel.unacked.put_back(taken);
                }
                write_method(
                    out.buffer(),
                    id,
                    &AMQPClass::Tx(tx::AMQPMethod::RollbackOk(tx::RollbackOk {})),
                );
                Ok(())
            }
            tx::AMQPMethod::SelectOk(_)
            | tx::AMQPMethod::CommitOk(_)
            | tx::AMQPMethod::RollbackOk(_) => Err(Violation::connection(
                HardError::CommandInvalid,
                "unimplemented method",
            )),
        }
    }

    /// Enqueues and settles what was gathered; `commit-ok` leaves when all of it is durable.
    fn commit(&mut self, id: ChannelId, out: &mut Output) -> Result<(), Violation> {
        let Some(channel) = self.channels.get_mut(&id) else {
            return Ok(());
        };
        let Mode::Transaction(transaction) = &mut channel.mode else {
            return Err(precondition("channel is not transactional"));
        };
        let Transaction {
            publishes,
            settlements,
            ..
        } = std::mem::take(transaction);
        let mut position = LogPosition::NONE;
        let mut partial = false;
        for uncommitted in &publishes {
            let Uncommitted {
                route,
                message,
                mandatory,
            } = uncommitted;
            let now_ms = self.login.as_ref().map_or(0, |login| login.vhost.unix_ms());
            if let Some(waits) = route.repeats(message.header(), now_ms) {
                self.counts.messages_deduplicated += 1;
                position = position.max(waits);
            } else if route.queues.is_empty() && !route.is_reply() {
                if *mandatory {
                    self.counts.messages_unroutable_returned += 1;
                    route.count_returned();
                    write_return(
                        out,
                        id,
                        SoftError::NoRoute.code(),
                        "NO_ROUTE",
                        Returned::Message(message),
                        self.frame_max,
                    );
                } else {
                    self.counts.messages_unroutable_dropped += 1;
                    route.count_dropped();
                }
            }
            match self.enqueue_committed(uncommitted) {
                Some(needed) => position = position.max(needed),
                None => partial = true,
            }
        }
        for (kind, taken) in settlements {
            self.gather(id, taken.into_iter().map(|(_, held)| held), kind);
        }
        position = position.max(self.flush_settlements());
        if partial {
            return Err(precondition("partial tx completion"));
        }
        let ok = AMQPClass::Tx(tx::AMQPMethod::CommitOk(tx::CommitOk {}));
        self.reply_when_logged(id, ok, position, out);
        Ok(())
    }
}
