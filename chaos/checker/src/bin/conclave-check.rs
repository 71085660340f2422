//! The checker on its own, for histories of anything.

fn main() {}
