//! kvd-ledger
