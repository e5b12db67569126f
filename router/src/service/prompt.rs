//! A prompt as it is asked about: tokens, or hashes that somebody else has computed.

use super::AskError;
use crate::hash::{MediaSpan, PromptIdentity, hash_prompt};
use kvd_block::LocalHash;

/// Longest prompt that is answered, in tokens.
pub const MAX_PROMPT_TOKENS: usize = 16 << 20;

/// What a request is about.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prompt {
    /// The model, by the name its workers registered with.
    pub model: String,
    /// The prompt itself.
    pub content: Content,
    /// Adapter and tenant.
    pub identity: PromptIdentity,
    /// What stands for images and other media among the tokens.
    pub media: Vec<MediaSpan>,
}

/// Tokens, or hashes of their blocks.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// All tokens of the prompt.
    Tokens(Vec<u32>),
    /// Local hashes of its whole blocks, adapter and salt in them already.
    Hashes {
        /// One per block.
        locals: Vec<LocalHash>,
        /// Tokens in a block; 0 when it is whatever the model's workers have.
        block_tokens: u32,
        /// Tokens of the whole prompt, the tail that fills no block included; 0 when there is no tail.
        prompt_tokens: u64,
    },
}

impl Default for Content {
    fn default() -> Content {
        Content::Tokens(Vec::new())
    }
}

impl Prompt {
    /// A prompt of the base model.
    pub fn of_tokens(model: &str, tokens: Vec<u32>) -> Prompt {
        Prompt { model: model.into(), content: Content::Tokens(tokens), ..Prompt::default() }
    }

    /// Writes the hash of each of its whole blocks of `block_tokens` to `locals`; returns how many tokens it has.
    pub(super) fn hash(&self, block_tokens: u32, locals: &mut Vec<LocalHash>) -> Result<u64, AskError> {
        locals.clear();
        match &self.content {
            Content::Tokens(tokens) => {
                fits(tokens.len())?;
                if let Some(span) = self.media.iter().find(|span| span.from_token >= span.to_token || span.to_token > tokens.len()) {
                    let (from, to, tokens) = (span.from_token, span.to_token, tokens.len());
                    return Err(AskError::Prompt(format!("a media span of tokens {from}..{to} is not within the {tokens} tokens")));
                }
                hash_prompt(tokens, block_tokens as usize, &self.identity, &self.media, locals);
                Ok(tokens.len() as u64)
            }
            Content::Hashes { locals: given, block_tokens: theirs, prompt_tokens } => {
                if *theirs != 0 && *theirs != block_tokens {
                    return Err(AskError::BlockTokens { model: self.model.clone(), here: block_tokens, theirs: *theirs });
                }
                let covered = (given.len() as u64) * u64::from(block_tokens);
                fits(covered.max(*prompt_tokens) as usize)?;
                locals.extend_from_slice(given);
                Ok(covered.max(*prompt_tokens))
            }
        }
    }
}

fn fits(tokens: usize) -> Result<(), AskError> {
    if tokens <= MAX_PROMPT_TOKENS {
        return Ok(());
    }
    Err(AskError::Prompt(format!("a prompt of {tokens} tokens: at most {MAX_PROMPT_TOKENS} are answered")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locals(prompt: &Prompt) -> Vec<u64> {
        let mut locals = Vec::new();
        prompt.hash(4, &mut locals).unwrap();
        locals.into_iter().map(|local| local.0).collect()
    }

    /// The vectors of NVIDIA Dynamo 1.6.1, whose clients compute them themselves.
    #[test]
    fn tokens_hash_as_dynamos_clients_do() {
        let prompt = Prompt::of_tokens("m", (1..=13).collect());
        assert_eq!(locals(&prompt), [14643705804678351452, 16777012769546811212, 483935686894639516]);
        let with = |lora: &str, salt: &str| {
            let identity = PromptIdentity { lora: lora.into(), salt: salt.into() };
            locals(&Prompt { identity, ..Prompt::of_tokens("m", vec![1, 2, 3, 4]) })[0]
        };
        assert_eq!(with("adapter-a", ""), 11381080598872079209);
        assert_eq!(with("", "tenant-a"), 5738685477468498325);
        assert_eq!(with("adapter-a", "tenant-a"), 9967753091837871098);
    }

    /// What they chain to, for clients that compare whole prefixes.
    #[test]
    fn the_locals_of_a_prompt_chain_to_dynamos_sequence_hashes() {
        let mut parent = None;
        let locals = locals(&Prompt::of_tokens("m", (1..=12).collect()));
        let chained: Vec<u64> = locals.into_iter().map(|local| *parent.insert(kvd_block::route::link(parent, local))).collect();
        assert_eq!(chained, [14643705804678351452, 4945711292740353085, 12583592247330656132]);
    }

    #[test]
    fn hashes_of_another_block_size_are_refused_naming_both() {
        let content = Content::Hashes { locals: vec![LocalHash(1)], block_tokens: 16, prompt_tokens: 0 };
        let prompt = Prompt { model: "m".into(), content, ..Prompt::default() };
        let error = prompt.hash(32, &mut Vec::new()).unwrap_err().to_string();
        assert_eq!(error, "the hashes are of blocks of 16 tokens, but the workers of `m` have blocks of 32: hash with 32");
    }

    #[test]
    fn a_media_span_outside_the_prompt_is_refused() {
        let media = vec![MediaSpan { hash: 1, from_token: 2, to_token: 9 }];
        let prompt = Prompt { media, ..Prompt::of_tokens("m", vec![1, 2, 3, 4]) };
        assert!(prompt.hash(4, &mut Vec::new()).unwrap_err().to_string().contains("2..9 is not within the 4 tokens"));
    }
}
