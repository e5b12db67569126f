//! `kvd bench`: how fast a medium is under recorded KV traffic.

use anyhow::{Context, anyhow, bail, ensure};
use clap::{Args, ValueEnum};
use kvd::settings::ByteSize;
use kvd_kit::Target;
use kvd_kit::bench::blocks::default_arena_bytes;
use kvd_kit::bench::{self, FindSessions, Pace, Plan, table};
use kvd_kit::preset::{self, Kv, Model};
use kvd_kit::trace::{self, Format};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a second Ctrl-C ends with, by custom.
const INTERRUPTED: i32 = 130;

/// What `kvd bench` takes.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct Arguments {
    /// What to measure: a directory on it (file:///mnt/disk, or the path), a block device (block:///dev/nvme1n1), mem://, or null://.
    #[arg(long, value_name = "URL")]
    tier: Option<String>,
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    trace: TraceArguments,
    #[command(flatten)]
    pace: PaceArguments,
    #[command(flatten)]
    size: SizeArguments,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
struct ModelArguments {
    /// Whose KV cache: a preset; `list` prints them.
    #[arg(long, value_name = "NAME", default_value = "llama-3.1-8b")]
    model: String,
    /// A model by its Hugging Face config.json instead.
    #[arg(long, value_name = "FILE", conflicts_with = "bytes_per_token")]
    model_config: Option<PathBuf>,
    /// So many bytes of KV a token instead.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    bytes_per_token: Option<u64>,
    /// Data type of the KV: bf16, fp16, fp32, fp8, int8. Unless told otherwise that of config.json, or bf16.
    #[arg(long, value_name = "TYPE")]
    kv_dtype: Option<String>,
    /// Ranks the model is split over; each owns a part of every block.
    #[arg(long, value_name = "N", default_value_t = 1)]
    tp: u16,
    /// Tokens in a block of kvd; must divide the trace's. Unless given: so many that a block has 1 to 3 MiB.
    #[arg(long, value_name = "N")]
    block_tokens: Option<u32>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Trace")]
struct TraceArguments {
    /// Recorded requests: Mooncake, Weka or text; plain, .gz, .xz or .tar of them.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Format of the trace instead of looking at it.
    #[arg(long, value_enum)]
    format: Option<FormatName>,
    /// Leave out lines that cannot be read, and count them.
    #[arg(long)]
    skip_broken: bool,
    /// Replay so many requests at most.
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    /// Cut inputs to so many tokens.
    #[arg(long, value_name = "N")]
    max_input_tokens: Option<u64>,
    /// Begin the trace again when it ends; needs --duration.
    #[arg(long, requires = "duration")]
    repeat: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
struct PaceArguments {
    /// Requests come when the trace says, answered or not. Otherwise a session's next request waits for its answer.
    #[arg(long)]
    open: bool,
    /// Factor on the trace's clock and pauses: 2 is twice as fast.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    speed: f64,
    /// Sessions at once; with --open, most requests under way.
    #[arg(long, value_name = "N", default_value_t = 8)]
    concurrency: usize,
    /// Pause between a session's answer and its next request, instead of the trace's own.
    #[arg(long, value_name = "MS")]
    think_ms: Option<u64>,
    /// Replay so long before measuring.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    warm_up: f64,
    /// Measure so long at most; otherwise to the end of the trace.
    #[arg(long, value_name = "SECONDS")]
    duration: Option<f64>,
    /// Simulate one GPU of this speed that computes what was not loaded. Unless given, computing takes no time.
    #[arg(long, value_name = "RATE")]
    prefill_tokens_per_second: Option<f64>,
    /// Find how many sessions have 95 % of their first tokens within --ttft-ms.
    #[arg(long)]
    find_sessions: bool,
    /// The objective of --find-sessions.
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    ttft_ms: u64,
    /// How long --find-sessions tries each number.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    step: f64,
    /// Most sessions that --find-sessions tries.
    #[arg(long, value_name = "N", default_value_t = 256)]
    most_sessions: usize,
    /// A block that storage does not bring within this is computed again.
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    deadline_ms: u64,
    /// Payloads that storage may compress to a half. Otherwise they cannot be compressed at all.
    #[arg(long)]
    compressible: bool,
    /// Leave out measuring the tool itself.
    #[arg(long)]
    no_ceiling: bool,
    /// Measure the tool itself so long at most.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    ceiling: f64,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Room")]
struct SizeArguments {
    /// Memory that blocks pass through; must hold the prefixes of all requests under way. Unless given: enough for 32k tokens each, a
    /// quarter of the machine's memory at most.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    arena_bytes: Option<u64>,
    /// Room for blocks on the medium. Unless given: half of what is free, 32 GiB at most; all of a device.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    storage_bytes: Option<u64>,
    /// Write over the block device, whatever it holds. One that is mounted or in use is refused even so.
    #[arg(long)]
    overwrite: bool,
    /// Leave the blocks on the medium.
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
struct OutputArguments {
    /// Write the report for machines.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report as a page with charts.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Show no progress.
    #[arg(long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormatName {
    Mooncake,
    Weka,
    Text,
}

fn size(text: &str) -> Result<u64, String> {
    let size = ByteSize::parse(text).filter(|size| size.0 > 0);
    size.map(|size| size.0).ok_or_else(|| "write a size such as 512MiB, or a number of bytes".into())
}

/// Measures and reports. The exit code is a failure when a wrong byte was delivered.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    if arguments.model.model == "list" {
        print!("{}", list());
        return Ok(ExitCode::SUCCESS);
    }
    let outputs = [&arguments.output.json, &arguments.output.html].into_iter().flatten();
    // Found out before an hour is measured, not after it.
    for path in outputs.clone() {
        std::fs::write(path, "").with_context(|| format!("{} cannot be written", path.display()))?;
    }
    let result = plan(&arguments).and_then(|plan| {
        let interrupted = listen()?;
        Ok(bench::run(&plan, &interrupted, !arguments.output.quiet)?)
    });
    let report = match result {
        Ok(report) => report,
        Err(error) => {
            outputs.for_each(|path| drop(std::fs::remove_file(path)));
            return Err(error);
        }
    };
    print!("{}", table::text(&report));
    if let Some(path) = &arguments.output.json {
        std::fs::write(path, report.to_json()).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    if let Some(path) = &arguments.output.html {
        std::fs::write(path, bench::html::page(&report).render()).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Set by the first Ctrl-C (or SIGTERM); the second ends the process, and the kernel the daemon with it.
fn listen() -> anyhow::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let seen = interrupted.clone();
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED);
        }
    })?;
    Ok(interrupted)
}

fn plan(arguments: &Arguments) -> anyhow::Result<Plan> {
    let (pace, size, trace) = (&arguments.pace, &arguments.size, &arguments.trace);
    ensure!(pace.concurrency > 0, "--concurrency: at least 1");
    ensure!(pace.speed.is_finite() && pace.speed > 0.0, "--speed: must be more than 0");
    ensure!(pace.prefill_tokens_per_second.is_none_or(|speed| speed > 0.0), "--prefill-tokens-per-second: must be more than 0");
    let model = model(&arguments.model)?;
    let target = arguments.tier.as_deref().ok_or_else(|| anyhow!("--tier is missing: what is to be measured?"))?;
    let memory = rustix::system::sysinfo();
    let memory_bytes = memory.totalram as u64 * u64::from(memory.mem_unit);
    let by_default = || default_arena_bytes(model.bytes_per_token(), pace.concurrency, trace.max_input_tokens, memory_bytes);
    let arena_bytes = size.arena_bytes.unwrap_or_else(by_default);
    let find_sessions =
        FindSessions { ttft: Duration::from_millis(pace.ttft_ms), step: seconds("--step", pace.step)?, most: pace.most_sessions.max(1) };
    Ok(Plan {
        program: std::env::current_exe()?,
        target: Target::parse(target)?,
        kv_dtype: arguments.model.kv_dtype.clone().unwrap_or_else(|| format!("{} bytes", model.element_bytes)),
        model,
        tp: arguments.model.tp,
        trace: trace.trace.clone().ok_or_else(|| anyhow!("--trace is missing: a file of recorded requests"))?,
        trace_options: trace::Options { format: trace.format.map(FormatName::format), skip_broken: trace.skip_broken },
        block_tokens: arguments.model.block_tokens,
        arena_bytes,
        storage_bytes: size.storage_bytes,
        pace: if pace.open { Pace::Open } else { Pace::Closed },
        speed: pace.speed,
        concurrency: pace.concurrency,
        think_ms: pace.think_ms,
        warm_up: seconds("--warm-up", pace.warm_up)?,
        duration: pace.duration.map(|duration| seconds("--duration", duration)).transpose()?,
        most_requests: trace.requests,
        most_input_tokens: trace.max_input_tokens,
        repeat: trace.repeat,
        prefill_tokens_per_second: pace.prefill_tokens_per_second,
        find_sessions: pace.find_sessions.then_some(find_sessions),
        deadline: Duration::from_millis(pace.deadline_ms.max(1)),
        compressible: pace.compressible,
        keep: size.keep,
        overwrite: size.overwrite,
        ceiling: if pace.no_ceiling { None } else { Some(seconds("--ceiling", pace.ceiling)?) },
    })
}

fn model(arguments: &ModelArguments) -> anyhow::Result<Model> {
    let model = match (&arguments.model_config, arguments.bytes_per_token) {
        (Some(path), _) => Model::from_config(path)?,
        (None, Some(bytes)) => Model::of_bytes(bytes),
        (None, None) => Model::preset(&arguments.model)?,
    };
    Ok(match &arguments.kv_dtype {
        Some(_) if matches!(model.kv, Kv::Bytes(_)) => bail!("--kv-dtype says nothing beside --bytes-per-token"),
        Some(dtype) => model.with_dtype(dtype)?,
        None => model,
    })
}

fn seconds(option: &str, value: f64) -> anyhow::Result<Duration> {
    Duration::try_from_secs_f64(value).map_err(|_| anyhow!("{option} {value}: not a number of seconds"))
}

fn list() -> String {
    let mut out = format!("{:<18} {:>12} {:>7} {:>9} {:>9}  config.json of\n", "model", "bytes/token", "layers", "KV heads", "head dim");
    for model in preset::presets() {
        let (layers, heads, dim) = match model.kv {
            Kv::Heads { layers, kv_heads, head_dim, .. } => (layers, kv_heads.to_string(), head_dim),
            Kv::Latent { layers, dim } => (layers, "latent".into(), dim),
            Kv::Bytes(_) => (0, String::new(), 0),
        };
        let bytes = table::count(model.bytes_per_token());
        out += &format!("{:<18} {bytes:>12} {layers:>7} {heads:>9} {dim:>9}  {}\n", model.name, model.source);
    }
    out
}

impl FormatName {
    fn format(self) -> Format {
        match self {
            FormatName::Mooncake => Format::Mooncake,
            FormatName::Weka => Format::Weka,
            FormatName::Text => Format::Text,
        }
    }
}
