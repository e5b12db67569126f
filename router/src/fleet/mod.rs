//! Which workers and kvd nodes there are, and who says so: the configuration, files of a directory, registrations with leases.
//!
//! [`WorkerSpec`] and [`NodeSpec`] are what is said of one; [`Fleet`] is what all origins say together, pure, with time as an
//! argument; [`Directory`] reads the files.

mod directory;
mod endpoints;
mod registry;
mod spec;

pub use directory::{Change, Directory};
pub use endpoints::Endpoints;
pub use registry::{Conflict, Fleet, LeaseId, Member, Origin, Unregistered};
pub use spec::{InstanceName, NodeSpec, Role, SpecError, WorkerSpec};
