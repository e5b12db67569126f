//! Storage that lies.

mod device;
mod tier;

pub use device::{BadDevice, Device};
pub use tier::{BadTier, Tiers};
