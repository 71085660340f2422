//! Whole clusters of Conclave in one thread under virtual time: one seed, one run.
