//! Messages that cannot be applied yet, by number. Bounded: when there are too many, all are given up, which is a gap like any
//! other.

use super::Message;
use std::collections::BTreeMap;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Held {
    messages: BTreeMap<u64, Message>,
    bytes: usize,
}

impl Held {
    pub(super) fn clear(&mut self) {
        self.messages.clear();
        self.bytes = 0;
    }

    /// Keeps `message`, or the one of its number that was published later. False when it was too much: nothing is kept then.
    pub(super) fn insert(&mut self, message: Message, most_messages: usize, most_bytes: usize) -> bool {
        if self.messages.get(&message.number).is_some_and(|known| known.published() > message.published()) {
            return true;
        }
        self.bytes += message.payload.len();
        if let Some(old) = self.messages.insert(message.number, message) {
            self.bytes -= old.payload.len();
        }
        let fits = self.messages.len() <= most_messages && self.bytes <= most_bytes;
        if !fits {
            self.clear();
        }
        fits
    }

    /// The lowest number.
    pub(super) fn first(&self) -> Option<u64> {
        self.messages.keys().next().copied()
    }

    /// Takes the message of the lowest number.
    pub(super) fn take_first(&mut self) -> Option<Message> {
        let (_, message) = self.messages.pop_first()?;
        self.bytes -= message.payload.len();
        Some(message)
    }
}
