//! Why a message cannot be read.

use std::fmt;

/// How a publisher writes its hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashForm {
    /// As an integer of 64 bits, signed or not.
    Integer,
    /// As so many bytes.
    Bytes(usize),
}

impl fmt::Display for HashForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HashForm::Integer => f.write_str("integers"),
            HashForm::Bytes(width) => write!(f, "{width} bytes"),
        }
    }
}

/// A payload that is not what an engine sends. Nothing of its message may be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It ends too early, or a length in it claims more than there is.
    #[error("the payload ends inside a value")]
    Truncated,
    /// A value is of another type than its place asks for.
    #[error("{what} cannot begin with byte {found:#04x}")]
    Unexpected {
        /// What was to be read.
        what: &'static str,
        /// MessagePack's marker found instead.
        found: u8,
    },
    /// A number does not fit.
    #[error("{what} is out of range")]
    OutOfRange {
        /// Name of the value.
        what: &'static str,
    },
    /// An event lacks a value that it cannot do without.
    #[error("{event} without {what}")]
    Missing {
        /// Name of the event.
        event: &'static str,
        /// Name of the value.
        what: &'static str,
    },
    /// Longer than anything an engine sends.
    #[error("{bytes} bytes are too many for one message, at most {most} are read")]
    TooLarge {
        /// Length of the payload.
        bytes: usize,
        /// Largest that is read.
        most: usize,
    },
    /// Too few bytes to name a block, or not as many as kvd uses.
    #[error("a hash of {bytes} bytes names no block")]
    HashWidth {
        /// Its length.
        bytes: usize,
    },
    /// Hashes changed their form within one stream.
    #[error("hashes were {was} and are {now} now")]
    HashForm {
        /// What they were.
        was: HashForm,
        /// What came.
        now: HashForm,
    },
    /// Tokens do not fill blocks.
    #[error("{tokens} tokens do not fill blocks of {block_tokens}")]
    UnevenTokens {
        /// Tokens of the event.
        tokens: usize,
        /// Its block size.
        block_tokens: u32,
    },
    /// There are more hashes than blocks.
    #[error("{hashes} hashes for {blocks} blocks")]
    TooManyHashes {
        /// Hashes of the event.
        hashes: usize,
        /// Blocks that its tokens, or its local hashes, make.
        blocks: usize,
    },
}

impl WireError {
    /// Every name that [`WireError::kind`] gives, by index.
    pub const KINDS: [&'static str; 9] =
        ["truncated", "type", "range", "missing", "too_large", "hash_width", "hash_form", "uneven_tokens", "too_many_hashes"];

    /// Index into [`WireError::KINDS`], for counters.
    pub fn kind(&self) -> usize {
        match self {
            WireError::Truncated => 0,
            WireError::Unexpected { .. } => 1,
            WireError::OutOfRange { .. } => 2,
            WireError::Missing { .. } => 3,
            WireError::TooLarge { .. } => 4,
            WireError::HashWidth { .. } => 5,
            WireError::HashForm { .. } => 6,
            WireError::UnevenTokens { .. } => 7,
            WireError::TooManyHashes { .. } => 8,
        }
    }
}
