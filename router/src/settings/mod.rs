//! Every setting of the router: one typed section per component, each with a default.
//!
//! The documentation of a field is the documentation of the setting: `kvd-router config --reference` prints it.

mod byte_size;
mod file;
mod reference;
pub(crate) mod section;

use crate::fleet::{NodeSpec, WorkerSpec};
use crate::index::IndexLimits;
use crate::route::RouteSettings;
pub use byte_size::ByteSize;
pub(crate) use file::read;
pub use file::{Format, SettingsError, load, parse};
pub use reference::reference;
use section::{Section, section};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

section! {
    /// Questions and registrations in JSON, metrics, health. Whoever reaches it may register workers: keep it inside the cluster.
    HttpSettings in "http" {
        /// Address and port; port 0 takes a free one.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7421)), "\"127.0.0.1:7421\"";
        /// Largest body of a request. A million tokens take 8 MiB.
        max_body_bytes: ByteSize = ByteSize(16 << 20), "\"16MiB\"";
    }
}

section! {
    /// The same over gRPC (`kvd.router.v1`), for frontends, other routers and `kvd-router`'s own commands.
    GrpcSettings in "grpc" {
        /// Address and port; port 0 takes a free one.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7422)), "\"127.0.0.1:7422\"";
        /// Largest message of a request.
        max_message_bytes: ByteSize = ByteSize(16 << 20), "\"16MiB\"";
    }
}

section! {
    /// How workers and nodes are found, besides those listed in this file.
    DiscoverySettings in "discovery" {
        /// Directory of files (`*.toml`, `*.json`) with `[[workers]]` and `[[nodes]]`. A file that goes takes its workers along; one
        /// that cannot be read keeps what it said before.
        directory: Option<PathBuf> = None, "none";
        /// How often the directory is looked at, in milliseconds.
        poll_ms: u64 = 1_000, "1000";
        /// Whether workers may register themselves over HTTP and gRPC.
        registration: bool = true, "true";
        /// Longest lease of a registration, in milliseconds. A worker that is not heard of for as long as its lease is removed.
        max_lease_ms: u64 = 300_000, "300000";
        /// Workers and nodes at once, each.
        max_members: usize = 4_096, "4096";
    }
}

section! {
    /// The index of each model: which worker has which block.
    IndexSettings in "index" {
        /// Most memory of one model's index; beyond it the blocks that were of use longest ago are forgotten, and counted.
        max_bytes: ByteSize = ByteSize(8 << 30), "\"8GiB\"";
        /// Blocks that may wait for a parent nobody has told of.
        max_orphans: usize = 1 << 20, "1048576";
    }
}

impl IndexSettings {
    /// In the words of [`crate::index`].
    pub(crate) fn limits(&self) -> IndexLimits {
        IndexLimits { most_bytes: usize::try_from(self.max_bytes.0).unwrap_or(usize::MAX), most_orphans: self.max_orphans }
    }
}

section! {
    /// What the router knows, kept for its next life. Nothing of it is believed until its publisher proves it: `docs/router.md`.
    StateSettings in "state" {
        /// File for it. Without one a router that restarts knows what its publishers can still tell.
        path: Option<PathBuf> = None, "none";
        /// How often it is written, in milliseconds, besides when the router stops. Events wait meanwhile; decisions do not.
        every_ms: u64 = 60_000, "60000";
        /// What no worker or node has claimed so long after the start is forgotten, in milliseconds.
        claim_ms: u64 = 60_000, "60000";
    }
}

/// Everything that can be set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `[http]`
    pub http: HttpSettings,
    /// `[grpc]`
    pub grpc: GrpcSettings,
    /// `[discovery]`
    pub discovery: DiscoverySettings,
    /// `[index]`
    pub index: IndexSettings,
    /// `[route]`
    pub route: RouteSettings,
    /// `[state]`
    pub state: StateSettings,
    /// `[[workers]]`
    pub workers: Vec<WorkerSpec>,
    /// `[[nodes]]`
    pub nodes: Vec<NodeSpec>,
}

impl Settings {
    pub(crate) const SECTIONS: [&'static Section; 8] = [
        &HttpSettings::SECTION,
        &GrpcSettings::SECTION,
        &DiscoverySettings::SECTION,
        &IndexSettings::SECTION,
        &RouteSettings::SECTION,
        &StateSettings::SECTION,
        &WorkerSpec::SECTION,
        &NodeSpec::SECTION,
    ];

    /// As a configuration file.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("settings are plain values")
    }

    /// What cannot be right although every value by itself is, in one sentence.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.route.check().map_err(|error| error.to_string())?;
        self.workers.iter().try_for_each(|worker| worker.check().map_err(|error| error.to_string()))?;
        self.nodes.iter().try_for_each(|node| node.check().map_err(|error| error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_reads_back() {
        let mut settings = Settings::default();
        settings.discovery.directory = Some("/etc/kvd-router/workers".into());
        settings.workers.push(WorkerSpec { name: "a".into(), model: "m".into(), block_tokens: 16, ..WorkerSpec::default() });
        assert_eq!(parse(&settings.to_toml(), "test").unwrap(), settings);
    }
}
