//! Asks a kvd for its layouts and for all that is resident.

use super::follow::Answer;
use crate::ingest::stream::Input;
use kvd_block::digest::Digest;
use kvd_proto::admin::admin_client::AdminClient;
use kvd_proto::admin::{Layout, LayoutsRequest, SnapshotRequest};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

const TIMEOUT: Duration = Duration::from_secs(5);

async fn connect(address: &str) -> Result<AdminClient<Channel>, String> {
    let address = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(address).map_err(|error| error.to_string())?.connect_timeout(TIMEOUT);
    Ok(AdminClient::new(endpoint.connect().await.map_err(|error| error.to_string())?))
}

/// All layouts the daemon knows.
pub(super) async fn layouts(address: &str) -> Result<Vec<Layout>, String> {
    let asked = async {
        let reply = connect(address).await?.layouts(LayoutsRequest {}).await.map_err(|status| status.to_string())?;
        Ok(reply.into_inner().layouts)
    };
    timeout(TIMEOUT, asked).await.unwrap_or_else(|_| Err("no answer".into()))
}

/// Asks `address` for a snapshot and passes it on. Its parts are of different moments; the last one has the digest of the last
/// moment, so that a snapshot without one is not whole. The follower's own patience bounds the whole.
pub(super) async fn ask(address: String, ask: u32, answers: mpsc::Sender<Answer>) {
    if let Err(why) = parts(&address, ask, &answers).await {
        let _ = answers.send(Answer::Failed { ask, why: format!("no snapshot from {address}: {why}") }).await;
    }
}

async fn parts(address: &str, ask: u32, answers: &mpsc::Sender<Answer>) -> Result<(), String> {
    let gone = |_| "nobody listens".to_owned();
    answers.send(Answer::Layouts(layouts(address).await?)).await.map_err(gone)?;
    let mut client = connect(address).await?.max_decoding_message_size(64 << 20);
    let mut stream = client.snapshot(SnapshotRequest {}).await.map_err(|status| status.to_string())?.into_inner();
    let mut life = None;
    let (mut as_of, mut digest) = (0, None);
    while let Some(part) = stream.message().await.map_err(|status| status.to_string())? {
        if life.is_none() {
            answers.send(Answer::Input(Input::SnapshotBegin { ask, next: part.next_event })).await.map_err(gone)?;
        }
        if *life.get_or_insert(part.incarnation) != part.incarnation {
            return Err("the daemon began anew meanwhile".into());
        }
        as_of = part.next_event.max(as_of);
        digest = part.digest.map(|digest| Digest { sum: digest.sum, count: digest.count });
        answers.send(Answer::Input(Input::SnapshotPart { ask, part })).await.map_err(gone)?;
    }
    if life.is_none() {
        return Err("it is empty".into());
    }
    if digest.is_none() {
        return Err("it broke off".into());
    }
    answers.send(Answer::Input(Input::SnapshotEnd { ask, as_of, digest })).await.map_err(gone)
}
