//! Tiers around tiers.

mod faulty;

pub use faulty::{FaultPlan, Faulty};
