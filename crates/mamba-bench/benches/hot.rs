//! The time of each hot path: `cargo bench -p mamba-bench`.

use divan::Bencher;
use divan::counter::ItemsCount;
use mamba_bench::{Body, bodies};

fn main() {
    divan::main();
}

#[divan::bench(args = bodies())]
fn hot(bencher: Bencher<'_, '_>, body: &Body) {
    let call = (body.prepare)();
    bencher
        .counter(ItemsCount::new(body.items))
        .bench_local(call);
}
