//! kvd-connector
