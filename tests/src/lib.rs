//! kvd-tests
