//! Messages that the broker publishes itself: copies of others for the firehose, events. They go to whichever queues are
//! bound, at most once, and nobody waits for them.

use mamba_codec::{Properties, encode_header};
use mamba_routing::{RouteInput, Routes};
use mamba_types::{LogPosition, Message, RecordMeta, Violation};

use crate::{
    broker::Broker,
    lazy_properties::LazyProperties,
    queue_cell::{Arrival, QueueRef},
    vhost::Vhost,
};

/// Octets of a routing key.
const KEY_MAX: usize = 255;

impl Broker {
    /// Publishes a message in a virtual host. A routing key that is too long for the wire is cut.
    ///
    /// # Errors
    /// 404 when there is no such exchange.
    pub(crate) fn publish_own(
        &self,
        vhost: &Vhost,
        exchange: &str,
        key: &[u8],
        properties: &Properties<'_>,
        body: &[u8],
    ) -> Result<(), Violation> {
        let key = key.get(..KEY_MAX).unwrap_or(key);
        let mut routes: Routes<QueueRef> = Routes::new();
        let input = RouteInput {
            keys: &[key],
            properties: &LazyProperties::new(properties, &self.config.limits),
        };
        vhost.table.read().route(exchange, &input, &mut routes)?;
        if routes.queues.is_empty() {
            return Ok(());
        }
        let meta = RecordMeta {
            persistent: properties.persistent(),
            priority: None,
            dead_lettered: false,
            expiration_ms: None,
            accepted_at_ms: vhost.unix_ms(),
            not_before: false,
            died: None,
        };
        let header = encode_header(properties, body.len() as u64);
        let message = Message::build(meta, exchange.as_bytes(), key, &header, body);
        let is_stored = |queue: &QueueRef| queue.0.stores(meta.persistent);
        // Held until all queues have it.
        let appended = routes.queues.iter().any(is_stored).then(|| {
            let log = self.store.0.log();
            log.append_messages(message.record().clone())
        });
        for queue in routes.queues.drain(..) {
            let stored = appended.as_ref().filter(|_| is_stored(&queue));
            let at = stored.map_or(LogPosition::NONE, mamba_store::Appended::at);
            queue
                .0
                .enqueue(&mut vec![Arrival::alone(message.clone(), at)]);
        }
        Ok(())
    }
}
