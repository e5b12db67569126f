//! Fingerprints of the last messages applied: what tells a duplicate from the same number in another life of the publisher.

use std::collections::VecDeque;

/// Most messages remembered.
const KEPT: usize = 1024;

/// Fingerprints of consecutive messages.
#[derive(Debug, Default)]
pub(super) struct Trail {
    prints: VecDeque<u64>,
    /// Number after the last.
    end: u64,
}

impl Trail {
    pub(super) fn clear(&mut self) {
        self.prints.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.prints.is_empty()
    }

    /// Remembers message `number`, which follows the last one.
    pub(super) fn push(&mut self, number: u64, print: u64) {
        if number != self.end {
            self.prints.clear();
        }
        self.prints.push_back(print);
        self.end = number + 1;
        if self.prints.len() > KEPT {
            self.prints.pop_front();
        }
    }

    /// The fingerprint of message `number`, unless it is too long ago.
    pub(super) fn get(&self, number: u64) -> Option<u64> {
        let back = usize::try_from(self.end.checked_sub(number)?).ok()?;
        self.prints.len().checked_sub(back).and_then(|at| self.prints.get(at)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_recent_messages_are_remembered() {
        let mut trail = Trail::default();
        (0..2000).for_each(|number| trail.push(number, number * 10));
        assert_eq!((trail.get(1999), trail.get(2000), trail.get(976), trail.get(975)), (Some(19990), None, Some(9760), None));
        trail.push(5, 1);
        assert_eq!((trail.get(5), trail.get(4)), (Some(1), None));
    }
}
