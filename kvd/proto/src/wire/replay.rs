//! The replay socket of vLLM's KV events: a subscriber that missed messages asks for them by number.
//!
//! ```text
//! asks      [empty, first number as u64 big-endian]                 (a REQ socket adds the empty frame by itself)
//! answers   [empty, topic, number, payload] …  then  [empty, empty, −1 as i64 big-endian, empty]
//! ```

/// Number that ends a replay.
pub const END: [u8; 8] = (-1i64).to_be_bytes();

/// The first number asked for; `None` when the frame is no such question.
pub fn first_asked(frame: &[u8]) -> Option<u64> {
    frame.try_into().ok().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_eight_bytes_are_a_question() {
        assert_eq!(first_asked(&7u64.to_be_bytes()), Some(7));
        assert_eq!(first_asked(b"7"), None);
    }
}
