//! Mounts a seed, as `mount(8)` wants it.

fn main() {}
