//! Benchmarks of routing; none yet.

fn main() {}
