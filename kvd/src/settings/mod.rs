//! Every setting of the daemon: one typed section per component, each with a default, so that no file is needed.
//!
//! The documentation of a field is the documentation of the setting: `kvd config --reference` prints it. What depends on
//! the machine is left out of a [`Settings`] (`None`) until [`crate::machine`] fills it in.

mod byte_size;
mod file;
mod policy;
mod reference;
mod section;

pub use byte_size::{ByteSize, about};
pub use file::{SettingsError, load, parse};
pub use policy::{AdmissionChoice, EvictionChoice};
pub use reference::reference;
use section::{Section, section};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// How the NVMe file is read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IoChoice {
    /// io_uring where the kernel allows it, else threads with ordinary calls.
    #[default]
    Auto,
    /// io_uring, or do not start.
    Uring,
    /// Threads with `pread` and `pwrite`.
    Posix,
}

/// What holds the blocks of the storage tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediumChoice {
    /// A slot file on a filesystem, or a whole block device.
    #[default]
    File,
    /// Memory of the daemon, for measuring.
    Memory,
    /// Nothing but headers, for measuring.
    Null,
}

section! {
    /// Host memory shared with the engines. Every block an engine stores or loads passes through it.
    ArenaSettings in "arena" {
        /// Size. The system supplies the memory as it is used; with io_uring storage all of it within the first seconds, because
        /// it is registered with the kernel. A block larger than an extent cannot be stored.
        bytes: Option<ByteSize> = None, "a quarter of the memory (of the control group, where there is one), 64 MiB to 256 GiB";
        /// Take 2 MiB pages when the system has enough of them reserved, else ordinary pages.
        huge_pages: bool = true, "true";
        /// Take the memory from the system at start, in the background, so that the first store of each slot does not pay for it,
        /// also without storage.
        prefault: bool = false, "false";
        /// Size of the pieces the arena is cut into; each piece holds blocks of one size at a time.
        extent_bytes: Option<ByteSize> = None, "64 MiB, less in an arena under 1 GiB (a sixteenth of it, at least 1 MiB)";
        /// Which block goes when there is no free slot: `density`, `lineage`, `cost`, `sieve` or `lru`. `policies.md` compares them.
        eviction: EvictionChoice = EvictionChoice::Density, "\"density\"";
    }
}

section! {
    /// Blocks on local storage. They survive restarts.
    NvmeSettings in "nvme" {
        /// Without it blocks live in the arena only, and nothing survives a restart.
        enabled: bool = true, "true";
        /// Directory for blocks, their catalog and `kvd.addresses.json`. One daemon uses a directory at a time.
        path: Option<PathBuf> = None, "`/var/lib/kvd` for root, else `$XDG_DATA_HOME/kvd` or `~/.local/share/kvd`";
        /// A whole block device for the blocks, such as `/dev/nvme1n1`, instead of a file in `path`; the catalog stays in `path`. A
        /// device that is mounted, or that holds anything but kvd's blocks, is refused.
        device: Option<PathBuf> = None, "none: a file in `path`";
        /// Size of the file of blocks, or of the part of the device that is used.
        bytes: Option<ByteSize> = None, "its size when there is one, else a quarter of the free space, 256 MiB to 1 TiB; all of a device";
        /// Size of the pieces the file is cut into. Fixed when the file is made.
        extent_bytes: Option<ByteSize> = None, "64 MiB, less in a file under 1 GiB (a sixteenth of it, at least 1 MiB)";
        /// How the file is read and written: `auto`, `uring` or `posix`.
        io: IoChoice = IoChoice::Auto, "\"auto\"";
        /// Which block goes when the file is full: as in `[arena]`.
        eviction: EvictionChoice = EvictionChoice::Density, "\"density\"";
        /// Which blocks are written: `always`, `second-touch` (stored before, or found by a later request) or `tiny-lfu` (asked for
        /// more often than the block it would replace).
        admission: AdmissionChoice = AdmissionChoice::Always, "\"always\"";
        /// How many times a day the size of the file may be written, for drives that are sold for so many: a block that would
        /// exceed it stays in the arena only. In any day or longer never more; within an hour at most an hour's worth ahead.
        writes_per_day: Option<f64> = None, "no limit";
        /// `file`; or, for measuring only: `memory`, where nothing survives a restart, and `null`, which also drops every payload and
        /// answers loads with wrong bytes that engines then refuse.
        medium: MediumChoice = MediumChoice::File, "\"file\"";
        /// Blocks being written at once.
        max_writes: usize = 32, "32";
        /// Blocks being read at once.
        max_reads: usize = 64, "64";
    }
}

section! {
    /// The socket engines connect to.
    EngineSettings in "engine" {
        /// Path of the Unix socket. Connectors look in the same default place.
        socket: Option<PathBuf> = None, "`$KVD_SOCKET`, else `/run/kvd/kvd.sock` for root, else `$XDG_RUNTIME_DIR/kvd/kvd.sock`, else `/tmp/kvd-<uid>/kvd.sock`";
        /// Users besides the daemon's own and root whose engines may connect, by number.
        allowed_uids: Vec<u32> = Vec::new(), "[]";
        /// Groups whose engines may connect, by number. The first of them owns the socket.
        allowed_gids: Vec<u32> = Vec::new(), "[]";
    }
}

section! {
    /// Administration over gRPC (`kvctl`). Whoever reaches it may drop every block, so keep it on a loopback address.
    AdminSettings in "admin" {
        /// Address and port; port 0 takes a free one.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7411)), "\"127.0.0.1:7411\"";
    }
}

section! {
    /// Metrics for Prometheus at `/metrics`, and `/healthz`.
    MetricsSettings in "metrics" {
        /// Address and port; port 0 takes a free one.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7412)), "\"127.0.0.1:7412\"";
    }
}

section! {
    /// KV events over ZeroMQ, in the form engines publish them.
    EventSettings in "events" {
        /// Without it nothing is published.
        enabled: bool = true, "true";
        /// Where subscribers connect (PUB): `tcp://address:port`; port 0 takes a free one.
        endpoint: String = "tcp://127.0.0.1:7413".into(), "\"tcp://127.0.0.1:7413\"";
        /// Where missed messages are asked for (ROUTER).
        replay_endpoint: String = "tcp://127.0.0.1:7414".into(), "\"tcp://127.0.0.1:7414\"";
        /// First frame of every message.
        topic: String = "kvd".into(), "\"kvd\"";
        /// Messages kept for replay, 64 MiB of them at most.
        buffer: usize = 10_000, "10000";
    }
}

section! {
    /// Reading what is at rest and checking it, so that rot is found before a reader finds it.
    ScrubSettings in "scrub" {
        /// Without it rot is found by readers and by `kvctl verify` only.
        enabled: bool = true, "true";
        /// How many days a pass over every block is spread over. 0 is pass after pass, as fast as allowed.
        pass_days: u32 = 1, "1";
        /// Most that is read and checked in a second.
        bytes_per_second: ByteSize = ByteSize(32 << 20), "\"32MiB\"";
    }
}

section! {
    /// Times and limits of leases. The defaults are meant to stay.
    LimitSettings in "limits" {
        /// How long a load waits for storage when the engine does not say, in milliseconds.
        load_deadline_ms: u64 = 5_000, "5000";
        /// A load lease ends by itself after this, in milliseconds.
        load_lease_ms: u64 = 60_000, "60000";
        /// Blocks of a store lease are given up after this, in milliseconds.
        store_lease_ms: u64 = 60_000, "60000";
        /// No writes to storage for this long after it was full or failed, in milliseconds.
        write_pause_ms: u64 = 1_000, "1000";
        /// Leases one engine may hold at once.
        max_leases_per_session: usize = 4_096, "4096";
        /// Blocks in one request.
        max_blocks_per_request: usize = 65_536, "65536";
        /// Blocks pinned by request at once.
        max_pinned: usize = 1_048_576, "1048576";
        /// Connections of engines at once: one per engine and one per worker.
        max_connections: usize = 1_024, "1024";
    }
}

/// Everything that can be set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `[arena]`
    pub arena: ArenaSettings,
    /// `[nvme]`
    pub nvme: NvmeSettings,
    /// `[engine]`
    pub engine: EngineSettings,
    /// `[admin]`
    pub admin: AdminSettings,
    /// `[metrics]`
    pub metrics: MetricsSettings,
    /// `[events]`
    pub events: EventSettings,
    /// `[scrub]`
    pub scrub: ScrubSettings,
    /// `[limits]`
    pub limits: LimitSettings,
}

impl Settings {
    pub(crate) const SECTIONS: [&'static Section; 8] = [
        &ArenaSettings::SECTION,
        &NvmeSettings::SECTION,
        &EngineSettings::SECTION,
        &AdminSettings::SECTION,
        &MetricsSettings::SECTION,
        &EventSettings::SECTION,
        &ScrubSettings::SECTION,
        &LimitSettings::SECTION,
    ];

    /// As a configuration file.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("settings are plain values")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_reads_back() {
        let mut settings = Settings::default();
        settings.arena.bytes = Some(ByteSize(3 << 30));
        settings.nvme.io = IoChoice::Posix;
        settings.engine.allowed_uids = vec![7];
        assert_eq!(parse(&settings.to_toml(), "test").unwrap(), settings);
    }
}
