//! Time-to-build of a seed beside its peers, on a shaped link.

mod link;

fn main() {}
