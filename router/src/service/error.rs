//! Why a question has no answer, named by what the asker can do.

use super::prompt::MAX_PROMPT_TOKENS;

/// See the module.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AskError {
    /// Nobody serves it.
    #[error("no worker serves the model `{model}`: {}", served(known))]
    UnknownModel {
        /// What was asked for.
        model: String,
        /// What is served.
        known: Vec<String>,
    },
    /// Nobody has that name.
    #[error("there is no worker `{worker}` with rank {rank} for the model `{model}`: GET /workers lists them")]
    UnknownWorker {
        /// The name.
        worker: String,
        /// Its rank.
        rank: u32,
        /// The model.
        model: String,
    },
    /// The request was never here, has ended, or its decision is forgotten.
    #[error("request `{0}` is not known: it never came, has ended, or was forgotten for newer ones (`[route] history_bytes`)")]
    UnknownRequest(String),
    /// Somebody hashed with another block size.
    #[error("the hashes are of blocks of {theirs} tokens, but the workers of `{model}` have blocks of {here}: hash with {here}")]
    BlockTokens {
        /// The model.
        model: String,
        /// Its workers' block size.
        here: u32,
        /// The asker's.
        theirs: u32,
    },
    /// The prompt is not one.
    #[error("{0}")]
    Prompt(String),
    /// The request is here already.
    #[error("{0}")]
    Again(String),
    /// Every candidate is excluded, and waiting would not help.
    #[error("no worker can take the request: {0}")]
    Nobody(String),
    /// There is no room now.
    #[error("{0}: try again later")]
    Busy(String),
}

const _: () = assert!(MAX_PROMPT_TOKENS <= u32::MAX as usize, "prompts are counted in u32");

fn served(known: &[String]) -> String {
    if known.is_empty() {
        return "no worker is registered at all; POST /workers, or list them in the configuration".into();
    }
    format!("those served are {}", known.iter().map(|model| format!("`{model}`")).collect::<Vec<_>>().join(", "))
}
