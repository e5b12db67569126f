//! Gathers the outcomes of a batch's blocks, in whatever order they come, and answers once, in request order.
//!
//! If some block's [`Reply`] is dropped unanswered (the thread that held it died), the completion resolves to `None`: it
//! never hangs.

use crate::admission::Permit;
use crate::completion::{Completer, Completion};
use std::sync::{Arc, Mutex};

struct Gather<O>(Mutex<Waiting<O>>);

struct Waiting<O> {
    outcomes: Vec<Option<O>>,
    left: usize,
    completer: Option<Completer<Vec<O>>>,
}

/// Where one block's outcome goes.
pub(crate) struct Reply<O> {
    gather: Arc<Gather<O>>,
    at: usize,
    permit: Option<Permit>,
}

/// The completion of a batch of `blocks` blocks and each one's reply, in request order.
pub(crate) fn gather<O>(blocks: usize) -> (Completion<Vec<O>>, impl Iterator<Item = Reply<O>>) {
    let (completer, completion) = Completion::pending();
    let completer = match blocks {
        0 => {
            completer.complete(Vec::new());
            None
        }
        _ => Some(completer),
    };
    let outcomes = (0..blocks).map(|_| None).collect();
    let gather = Arc::new(Gather(Mutex::new(Waiting { outcomes, left: blocks, completer })));
    (completion, (0..blocks).map(move |at| Reply { gather: gather.clone(), at, permit: None }))
}

impl<O> Reply<O> {
    /// Ties the block's place in the tier to its reply: it is free again before anybody sees the outcome.
    pub fn holding(mut self, permit: Permit) -> Reply<O> {
        self.permit = Some(permit);
        self
    }

    /// Hands in the outcome.
    pub fn send(mut self, outcome: O) {
        drop(self.permit.take());
        let mut waiting = self.gather.0.lock().expect("no code panics while it holds this lock");
        waiting.outcomes[self.at] = Some(outcome);
        waiting.left -= 1;
        if waiting.left > 0 {
            return;
        }
        let outcomes = std::mem::take(&mut waiting.outcomes).into_iter().flatten().collect();
        let completer = waiting.completer.take();
        drop(waiting);
        if let Some(completer) = completer {
            completer.complete(outcomes);
        }
    }
}

impl<O> std::fmt::Debug for Reply<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reply({})", self.at)
    }
}
