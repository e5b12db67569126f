//! The daemon's own session with its ledger: what operators ask for goes the same way as what engines ask for.

use crate::driver::{Driver, Stopped, Turn};
use crate::session::{OPERATOR, Outbox};
use kvd_block::{LayoutHandle, RequestId, SequenceHash};
use kvd_ledger::Input;
use kvd_proto::local::{Reply, ToEngine};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};

/// Asks the ledger on behalf of an operator.
#[derive(Debug)]
pub struct Operator {
    driver: Driver,
    last: AtomicU64,
    waiting: Arc<Mutex<HashMap<RequestId, oneshot::Sender<Reply>>>>,
}

impl Operator {
    /// Opens the session.
    pub async fn open(driver: Driver) -> Result<Operator, Stopped> {
        let (outbox, answers) = Outbox::new();
        driver.inputs(vec![Input::OpenSession { session: OPERATOR }]).await?;
        driver.send(Turn::Attach(OPERATOR, outbox)).await?;
        let waiting = Arc::default();
        tokio::spawn(pass_on(answers.messages, Arc::clone(&waiting)));
        Ok(Operator { driver, last: AtomicU64::new(0), waiting })
    }

    /// Pins blocks, or unpins them when `ttl_ms` is zero.
    pub async fn pin(&self, layout: LayoutHandle, keys: Vec<SequenceHash>, ttl_ms: u64) -> Result<Reply, Stopped> {
        let request = RequestId(self.last.fetch_add(1, Ordering::Relaxed) + 1);
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().expect("no panic while held").insert(request, answer);
        let input = Input::Pin { session: OPERATOR, request, layout, keys, ttl_ms };
        self.driver.send(Turn::Request { input, received: Instant::now() }).await?;
        answered.await.map_err(|_| Stopped)
    }
}

async fn pass_on(mut answers: mpsc::Receiver<ToEngine>, waiting: Arc<Mutex<HashMap<RequestId, oneshot::Sender<Reply>>>>) {
    while let Some(answer) = answers.recv().await {
        if let Some(asker) = waiting.lock().expect("no panic while held").remove(&answer.id) {
            let _ = asker.send(answer.body);
        }
    }
    waiting.lock().expect("no panic while held").clear();
}
