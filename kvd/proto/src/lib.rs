//! kvd-proto
