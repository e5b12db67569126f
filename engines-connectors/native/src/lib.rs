//! kvd-native
