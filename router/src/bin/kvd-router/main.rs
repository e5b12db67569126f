//! The `kvd-router` program: one file per subcommand that does more than print.

#![forbid(unsafe_code)]

mod ask;
mod print;
mod serve;

use clap::{Args, Parser, Subcommand};
use kvd_router::settings::{self, Settings};
use kvd_router::{fleet, metrics};
use std::path::PathBuf;
use std::process::ExitCode;

/// Knows which worker has which KV blocks, and says where a request should go.
#[derive(Debug, Parser)]
#[command(name = "kvd-router", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the router. Without a configuration it knows only workers that register.
    Serve(serve::Arguments),
    /// Why a request went where it went: every candidate's terms in milliseconds.
    Explain {
        #[command(flatten)]
        at: ask::At,
        /// The request's id, as it was given or answered.
        request_id: String,
    },
    /// Who has how much of a prompt.
    Query(ask::Query),
    /// Who is there, and whether their blocks are known.
    Workers {
        #[command(flatten)]
        at: ask::At,
        /// Only workers of this model.
        #[arg(long, default_value = "", hide_default_value = true)]
        model: String,
    },
    /// What each worker has to do.
    Loads {
        #[command(flatten)]
        at: ask::At,
        /// Only workers of this model.
        #[arg(long, default_value = "", hide_default_value = true)]
        model: String,
    },
    /// Read a configuration and say what is wrong with it, without running.
    CheckConfig {
        /// Configuration file (TOML).
        #[arg(value_name = "FILE")]
        config: PathBuf,
    },
    /// Print the effective configuration as TOML.
    Config {
        #[command(flatten)]
        file: ConfigFile,
        /// Print every setting, its default and its meaning as Markdown instead.
        #[arg(long)]
        reference: bool,
    },
    /// Print what the router measures.
    Metrics {
        /// Print every metric as Markdown.
        #[arg(long, required = true)]
        reference: bool,
    },
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// Configuration file (TOML). Without one every setting has its default.
    #[arg(long, value_name = "FILE", env = "KVD_ROUTER_CONFIG")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    fn load(&self) -> anyhow::Result<Settings> {
        Ok(self.config.as_deref().map_or_else(|| Ok(Settings::default()), settings::load)?)
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Our errors say their causes themselves.
            eprintln!("kvd-router: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let text = match command {
        Command::Serve(arguments) => return serve::run(arguments),
        Command::Explain { at, request_id } => ask::run(async { ask::explain(&at, request_id).await })?,
        Command::Query(query) => ask::run(async { ask::query(&query).await })?,
        Command::Workers { at, model } => ask::run(async { ask::workers(&at, model).await })?,
        Command::Loads { at, model } => ask::run(async { ask::loads(&at, model).await })?,
        Command::CheckConfig { config } => check(&settings::load(&config)?)?,
        Command::Config { reference: true, .. } => settings::reference(),
        Command::Config { file, .. } => file.load()?.to_toml(),
        Command::Metrics { .. } => metrics::reference(),
    };
    print!("{text}");
    Ok(())
}

/// What `serve` would refuse, beyond what the file says of single values.
fn check(settings: &Settings) -> anyhow::Result<String> {
    let mut fleet = fleet::Fleet::new(settings.discovery.max_members, 0);
    let conflicts = fleet.replace(&fleet::Origin::Configuration, settings.workers.clone(), settings.nodes.clone());
    let nodes: Vec<&str> = settings.nodes.iter().map(|node| node.name.as_str()).collect();
    let lost = settings.workers.iter().find(|worker| !worker.node.is_empty() && !nodes.contains(&worker.node.as_str()));
    match (conflicts.first(), lost) {
        (Some(conflict), _) => anyhow::bail!("{conflict}"),
        // A file of the discovery directory may tell of it.
        (None, Some(worker)) if settings.discovery.directory.is_none() => {
            anyhow::bail!("worker `{}` is on node `{}`, which no [[nodes]] tells of", worker.name, worker.node)
        }
        _ => Ok(format!("{} workers and {} nodes: the configuration is sound\n", settings.workers.len(), settings.nodes.len())),
    }
}
