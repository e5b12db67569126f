//! The last messages, for subscribers that missed some.

use std::collections::VecDeque;
use zeromq::ZmqMessage;

/// Most bytes kept.
const MOST_BYTES: usize = 64 << 20;

/// Encoded messages, newest last.
#[derive(Debug)]
pub struct Ring {
    messages: VecDeque<(u64, bytes::Bytes)>,
    most_messages: usize,
    bytes: usize,
}

impl Ring {
    /// Keeps at most `most_messages`.
    pub fn new(most_messages: usize) -> Ring {
        Ring { messages: VecDeque::new(), most_messages, bytes: 0 }
    }

    /// Keeps a message, forgetting the oldest when there are too many.
    pub fn push(&mut self, number: u64, payload: bytes::Bytes) {
        self.bytes += payload.len();
        self.messages.push_back((number, payload));
        while self.messages.len() > self.most_messages || self.bytes > MOST_BYTES {
            let Some((_, oldest)) = self.messages.pop_front() else { return };
            self.bytes -= oldest.len();
        }
    }

    /// Messages from number `first` on, oldest first.
    pub fn from(&self, first: u64) -> Vec<(u64, bytes::Bytes)> {
        self.messages.iter().filter(|(number, _)| *number >= first).cloned().collect()
    }
}

/// A message of `frames`.
pub fn message(frames: Vec<bytes::Bytes>) -> ZmqMessage {
    ZmqMessage::try_from(frames).expect("at least one frame")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_are_kept() {
        let mut ring = Ring::new(2);
        (0..4).for_each(|number| ring.push(number, bytes::Bytes::from(vec![number as u8])));
        let numbers: Vec<u64> = ring.from(0).into_iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, [2, 3]);
        assert_eq!(ring.from(3).len(), 1);
    }
}
