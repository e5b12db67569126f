//! How tools find a running daemon's administration.

use crate::daemon::{ADDRESSES_FILE, Addresses};
use crate::machine::default_data_dir;
use kvd_proto::admin::DEFAULT_ADDRESS;
use kvd_proto::admin::admin_client::AdminClient;
use std::path::Path;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// What may be on its way to us: some parts of a snapshot, 300 KB each, where HTTP/2's usual 64 KB stop the daemon in every one.
const WINDOW_BYTES: u32 = 1 << 20;

/// A connected client.
pub type Client = AdminClient<Channel>;

/// Nobody answers.
#[derive(Debug, thiserror::Error)]
#[error("kvd does not answer at {address} ({why}): start it with `kvd serve`, or name another one with `--address` or `--data-dir`")]
pub struct Unreachable {
    address: String,
    why: String,
}

/// The address named, else the one the daemon of `data_dir` (or of the default directory) wrote down, else the default.
pub fn find(address: Option<&str>, data_dir: Option<&Path>) -> String {
    if let Some(address) = address {
        return address.to_owned();
    }
    let dir = data_dir.map_or_else(default_data_dir, Path::to_path_buf);
    read_addresses(&dir).map_or_else(|| DEFAULT_ADDRESS.to_owned(), |addresses| addresses.admin)
}

/// What the daemon of `dir` wrote down.
pub fn read_addresses(dir: &Path) -> Option<Addresses> {
    serde_json::from_slice(&std::fs::read(dir.join(ADDRESSES_FILE)).ok()?).ok()
}

/// Connects to the administration at `address`.
pub async fn connect(address: &str) -> Result<Client, Unreachable> {
    let unreachable = |why: String| Unreachable { address: address.to_owned(), why };
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| unreachable(error.to_string()))?;
    let endpoint = endpoint.connect_timeout(Duration::from_secs(3)).initial_stream_window_size(WINDOW_BYTES);
    let channel = endpoint.initial_connection_window_size(WINDOW_BYTES).connect().await.map_err(|error| unreachable(innermost(&error)))?;
    Ok(AdminClient::new(channel).max_decoding_message_size(64 << 20))
}

/// The cause at the bottom: "Connection refused" tells more than "transport error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
