//! Asks a publisher for messages it still has. A new DEALER for each question: this one never reconnects.

use super::follow::Answer;
use super::live::message;
use crate::ingest::stream::Input;
use bytes::Bytes;
use kvd_proto::wire::replay;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use zeromq::{DealerSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks `address` for the messages from `from` on and passes the answer on. The follower's own patience bounds the whole.
pub(super) async fn ask(address: String, ask: u32, from: u64, answers: mpsc::Sender<Answer>) {
    let outcome = messages(&address, ask, from, &answers).await;
    let last = match outcome {
        Ok(()) => Answer::Input(Input::ReplayEnd { ask }),
        Err(why) => Answer::Failed { ask, why: format!("no replay from {address}: {why}") },
    };
    let _ = answers.send(last).await;
}

async fn messages(address: &str, ask: u32, from: u64, answers: &mpsc::Sender<Answer>) -> Result<(), String> {
    let mut socket = DealerSocket::new();
    match timeout(CONNECT_TIMEOUT, socket.connect(address)).await {
        Ok(connected) => connected.map_err(|error| error.to_string())?,
        Err(_) => return Err("no answer".into()),
    }
    let question = vec![Bytes::new(), Bytes::copy_from_slice(&from.to_be_bytes())];
    let question = ZmqMessage::try_from(question).map_err(|error| error.to_string())?;
    socket.send(question).await.map_err(|error| error.to_string())?;
    loop {
        let frames = socket.recv().await.map_err(|error| error.to_string())?;
        let answer = message(&frames).ok_or("an answer without number")?;
        if answer.number.to_be_bytes() == replay::END || answer.payload.is_empty() {
            return Ok(());
        }
        if answers.send(Answer::Input(Input::Replayed { ask, message: answer })).await.is_err() {
            return Ok(());
        }
    }
}
