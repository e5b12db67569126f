//! Formats that processes we did not write read, too.

pub mod kv_event;
pub mod replay;
