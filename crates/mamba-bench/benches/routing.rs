//! The time of a route by the number of bindings: `cargo bench -p mamba-bench --bench routing`.

use divan::Bencher;
use mamba_bench::routing;

const BINDINGS: [u64; 4] = [1, 100, 10_000, 100_000];

fn main() {
    divan::main();
}

#[divan::bench(args = BINDINGS)]
fn default(bencher: Bencher<'_, '_>, count: u64) {
    bencher.bench_local(routing::default(count));
}

#[divan::bench(args = BINDINGS)]
fn direct(bencher: Bencher<'_, '_>, count: u64) {
    bencher.bench_local(routing::direct(count));
}

#[divan::bench(args = [1, 100, 10_000])]
fn fanout(bencher: Bencher<'_, '_>, count: u64) {
    bencher.bench_local(routing::fanout(count));
}

#[divan::bench(args = BINDINGS)]
fn topic(bencher: Bencher<'_, '_>, count: u64) {
    bencher.bench_local(routing::topic(count));
}

#[divan::bench(args = BINDINGS)]
fn headers(bencher: Bencher<'_, '_>, count: u64) {
    bencher.bench_local(routing::headers(count));
}

#[divan::bench(args = BINDINGS)]
fn bind_and_remove(bencher: Bencher<'_, '_>, count: u64) {
    bencher.bench_local(routing::bind(count));
}
