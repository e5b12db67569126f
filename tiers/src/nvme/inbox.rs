//! A queue between threads that can be closed.
//!
//! It has no limit of its own: whatever is in it holds a permit of the tier's admission, which has one.

use rustix::fd::OwnedFd;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};

#[derive(Debug)]
pub(crate) struct Inbox<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    /// An eventfd to ring for a reader that sleeps in the kernel.
    bell: Option<OwnedFd>,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    closed: bool,
}

impl<T> Inbox<T> {
    pub fn new(bell: Option<OwnedFd>) -> Inbox<T> {
        Inbox { state: Mutex::new(State { items: VecDeque::new(), closed: false }), filled: Condvar::new(), bell }
    }

    /// Appends items and wakes a reader. Gives the items back when the inbox is closed.
    pub fn push(&self, items: impl IntoIterator<Item = T>) -> Result<(), Vec<T>> {
        let mut state = self.lock();
        if state.closed {
            return Err(items.into_iter().collect());
        }
        let was_empty = state.items.is_empty();
        let before = state.items.len();
        state.items.extend(items);
        let added = state.items.len() - before;
        drop(state);
        match added {
            0 => {}
            1 => self.filled.notify_one(),
            _ => self.filled.notify_all(),
        }
        if was_empty && added > 0 {
            self.ring_bell();
        }
        Ok(())
    }

    /// Waits for an item. `None` when the inbox is closed and empty.
    pub fn pop(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                return Some(item);
            }
            if state.closed {
                return None;
            }
            state = self.filled.wait(state).expect("no code panics while it holds this lock");
        }
    }

    /// Moves everything over without waiting; true when the inbox is closed.
    pub fn drain_into(&self, items: &mut VecDeque<T>) -> bool {
        let mut state = self.lock();
        items.append(&mut state.items);
        state.closed
    }

    /// Takes no more items. What is in it stays for the reader.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
        self.ring_bell();
    }

    fn ring_bell(&self) {
        if let Some(bell) = &self.bell {
            // It can only fail by its counter being full, and then the reader is woken anyway.
            let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
        }
    }

    pub fn bell(&self) -> Option<&OwnedFd> {
        self.bell.as_ref()
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}
