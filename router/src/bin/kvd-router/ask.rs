//! Questions to a running router, over gRPC.

use crate::print;
use anyhow::{Context, anyhow, bail};
use clap::Args;
use kvd_proto::router::router_client::RouterClient;
use kvd_proto::router::{DEFAULT_ADDRESS, ExplainRequest, LoadsRequest, Prompt, QueryRequest, WorkersRequest};
use std::path::PathBuf;
use std::time::Duration;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Which router is asked.
#[derive(Debug, Args)]
pub struct At {
    /// gRPC address of the router.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = DEFAULT_ADDRESS)]
    address: String,
}

/// What `kvd-router query` takes.
#[derive(Debug, Args)]
pub struct Query {
    #[command(flatten)]
    at: At,
    /// The model, by the name its workers have.
    #[arg(long)]
    model: String,
    /// Tokens of the prompt, separated by commas.
    #[arg(long, value_delimiter = ',', conflicts_with = "file", required_unless_present = "file")]
    tokens: Vec<u32>,
    /// File with the tokens as a JSON array.
    #[arg(long)]
    file: Option<PathBuf>,
    /// LoRA adapter of the prompt.
    #[arg(long, default_value = "", hide_default_value = true)]
    lora: String,
    /// Cache salt of the prompt.
    #[arg(long, default_value = "", hide_default_value = true)]
    salt: String,
}

/// Asks, on a runtime of its own.
pub fn run(question: impl Future<Output = anyhow::Result<String>>) -> anyhow::Result<String> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(question)
}

impl At {
    async fn client(&self) -> anyhow::Result<RouterClient<Channel>> {
        let address = &self.address;
        let endpoint = Endpoint::from_shared(format!("http://{address}")).with_context(|| format!("`{address}` is no address"))?;
        let connected = endpoint.connect_timeout(Duration::from_secs(3)).connect().await;
        let channel = connected.map_err(|error| {
            let why = innermost(&error);
            anyhow!("no router answers at {address} ({why}): start one with `kvd-router serve`, or name another with `--address`")
        })?;
        Ok(RouterClient::new(channel).max_decoding_message_size(256 << 20))
    }
}

/// The cause at the bottom: "Connection refused" tells more than "transport error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

fn said(status: Status) -> anyhow::Error {
    anyhow!("{}", status.message())
}

/// `kvd-router explain`.
pub async fn explain(at: &At, request_id: String) -> anyhow::Result<String> {
    let explained = at.client().await?.explain(ExplainRequest { request_id }).await.map_err(said)?;
    Ok(explained.into_inner().text)
}

/// `kvd-router query`.
pub async fn query(query: &Query) -> anyhow::Result<String> {
    let tokens = match &query.file {
        None => query.tokens.clone(),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| anyhow!("cannot read {}: {error}", path.display()))?;
            serde_json::from_str(&text).map_err(|error| anyhow!("{} is no JSON array of tokens: {error}", path.display()))?
        }
    };
    if tokens.is_empty() {
        bail!("a prompt of no tokens: nobody has less");
    }
    let prompt = Prompt { model: query.model.clone(), tokens, lora: query.lora.clone(), salt: query.salt.clone(), ..Prompt::default() };
    let answer = query.at.client().await?.query(QueryRequest { prompt: Some(prompt) }).await.map_err(said)?;
    Ok(print::overlaps(&answer.into_inner()))
}

/// `kvd-router workers`.
pub async fn workers(at: &At, model: String) -> anyhow::Result<String> {
    let answer = at.client().await?.workers(WorkersRequest { model }).await.map_err(said)?;
    print::workers(&answer.into_inner())
}

/// `kvd-router loads`.
pub async fn loads(at: &At, model: String) -> anyhow::Result<String> {
    let answer = at.client().await?.loads(LoadsRequest { model }).await.map_err(said)?;
    Ok(print::loads(&answer.into_inner()))
}
