//! The ucp program.
fn main() {}
