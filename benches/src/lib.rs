//! kvd-benches
