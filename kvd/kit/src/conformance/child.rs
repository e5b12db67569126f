//! A writer in another process, to be killed in the middle of its work.
//!
//! The program starts itself again with a hidden subcommand, so that nothing needs to be installed beside it.

use kvd_shm::{Arena, HugePages};
use kvd_tiers::conformance::writer::{self, Event};
use kvd_tiers::conformance::{Killed, WriterPlan};
use kvd_tiers::{IoEngine, NvmeConfig, NvmeTier};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

/// Subcommand under which a program calls [`write_until_killed`] with the argument after it.
pub const HIDDEN_COMMAND: &str = "conformance-writer";
const ARENA_BYTES: u64 = 4 << 20;

/// What the writer must know, as it travels on its command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub path: PathBuf,
    pub capacity_bytes: u64,
    pub extent_bytes: u64,
    pub first_seed: u64,
    pub places: u32,
}

/// Writes blocks to the medium that `orders` names until somebody kills this process. The main function of the writer.
///
/// # Errors
/// When the orders are no orders, or the medium cannot be opened or written.
pub fn write_until_killed(orders: &str) -> Result<(), String> {
    let orders: Orders = serde_json::from_str(orders).map_err(|error| format!("this command is for kvd itself: {error}"))?;
    let arena = Arc::new(Arena::create(ARENA_BYTES, HugePages::Never).map_err(|error| error.to_string())?);
    let tier = NvmeTier::open(config(&orders.path, orders.capacity_bytes, orders.extent_bytes, arena.clone()))
        .map_err(|error| error.to_string())?;
    let plan = WriterPlan { first_seed: orders.first_seed, places: orders.places, kill_after: 0 };
    writer::run(&tier, &arena, &plan, io::stdout().lock()).map_err(|error| error.to_string())
}

/// How every tier of a run is opened.
pub(crate) fn config(path: &Path, capacity_bytes: u64, extent_bytes: u64, arena: Arc<Arena>) -> NvmeConfig {
    NvmeConfig { path: path.into(), capacity_bytes, extent_bytes, max_inflight_blocks: 32, queue_depth: 64, arena, io: IoEngine::Auto }
}

/// The writer that runs now, so that it can be ended when nobody waits for it any more.
#[derive(Debug, Default)]
pub(crate) struct Running(Mutex<Option<Child>>);

impl Running {
    /// Starts `program` with `arguments` and the orders, kills it once it has acknowledged enough, and gives what it told.
    pub fn kill_in_the_middle(&self, program: &Path, orders: &Orders, kill_after: u32) -> Result<Killed, String> {
        let text = serde_json::to_string(orders).map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.args([HIDDEN_COMMAND, &text]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("the writer cannot be started: {error}"))?;
        let told = BufReader::new(child.stdout.take().ok_or("the writer has no output")?);
        let mut complaints = child.stderr.take().ok_or("the writer has no errors")?;
        *self.lock() = Some(child);
        let (mut killed, mut acknowledged) = (Killed::default(), 0);
        for line in told.lines() {
            let Some(event) = line.ok().as_deref().and_then(Event::parse) else { break };
            acknowledged += u32::from(matches!(event, Event::Acknowledged { .. }));
            killed.events.push(event);
            // What it told before it died is in the pipe still: all of it counts.
            if acknowledged == kill_after {
                self.kill();
            }
        }
        self.kill();
        match acknowledged >= kill_after {
            true => Ok(killed),
            false => {
                let mut why = String::new();
                let _ = io::Read::read_to_string(&mut complaints, &mut why);
                Err(format!("the writer ended by itself after {acknowledged} blocks: {}", why.trim()))
            }
        }
    }

    /// Ends the writer, if one runs, and waits until it is gone.
    pub fn kill(&self) {
        if let Some(mut child) = self.lock().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
