//! The MambaMQ broker binary.

fn main() {}
