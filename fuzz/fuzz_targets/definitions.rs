//! Definitions documents: no panic on any octets, and what is read can be written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mamba_policy::{About, Definitions, ObjectKind, PolicySet, QueueType};

fuzz_target!(|octets: &[u8]| {
    let _ = Definitions::parse_for_vhost(octets, "v");
    let Ok(read) = Definitions::parse(octets) else {
        return;
    };
    let about = About {
        product_name: "product",
        rabbitmq_version: "4.0.5",
        product_version: "1",
        cluster_name: "cluster",
    };
    let written = read.to_json(&about);
    let again = Definitions::parse(written.as_bytes()).expect("what was written can be read");
    assert_eq!(again.to_json(&about), written);
    let mut set = PolicySet::default();
    for known in &read.policies {
        set.set(known.policy.clone());
    }
    for queue in &read.queues {
        let _ = set.queue_settings(&queue.name, QueueType::Classic, &queue.arguments);
        let _ = set
            .matching(&queue.name, ObjectKind::Queue(QueueType::Quorum))
            .definition();
    }
});
