//! What waits to be written: the bodies of requests, from their first byte until they are answered.
//!
//! There may be so much of it and no more. From half of that on, whoever has the most there waits outside, so that small
//! writers get through.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::ApiError;
use super::rates::Key;

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub writes: usize,
    pub bytes: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Load {
    writes: usize,
    bytes: usize,
}

/// Everything that waits. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Waiting(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: Limits,
    load: Mutex<Loads>,
}

#[derive(Debug, Default)]
struct Loads {
    all: Load,
    by_writer: HashMap<Key, Load>,
}

impl Waiting {
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Inner { limits, load: Mutex::default() }))
    }

    /// A write of somebody's, of no bytes so far. It waits until it is dropped.
    ///
    /// # Errors
    /// `Unavailable`: too many wait, or too many of this writer's while it is crowded.
    pub fn enter(&self, writer: Key) -> Result<Write, ApiError> {
        let mut write = Write { waiting: self.clone(), writer, load: Load::default() };
        write.add(Load { writes: 1, bytes: 0 })?;
        Ok(write)
    }
}

/// One write that waits.
#[derive(Debug)]
pub struct Write {
    waiting: Waiting,
    writer: Key,
    load: Load,
}

impl Write {
    /// More of its body has come.
    ///
    /// # Errors
    /// As `Waiting::enter`.
    pub fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        self.add(Load { writes: 0, bytes })
    }

    fn add(&mut self, more: Load) -> Result<(), ApiError> {
        let limits = self.waiting.0.limits;
        let mut loads = self.waiting.0.load.lock().unwrap_or_else(PoisonError::into_inner);
        let all = Load { writes: loads.all.writes + more.writes, bytes: loads.all.bytes + more.bytes };
        let writers = loads.by_writer.len() + usize::from(!loads.by_writer.contains_key(&self.writer));
        let own = loads.by_writer.get(&self.writer).copied().unwrap_or_default();
        let own = Load { writes: own.writes + more.writes, bytes: own.bytes + more.bytes };
        let is_full = all.writes > limits.writes || all.bytes > limits.bytes;
        let is_crowded = all.writes > limits.writes / 2 || all.bytes > limits.bytes / 2;
        let is_heavy = own.writes > (limits.writes / writers).max(1) || own.bytes > limits.bytes / writers;
        if is_full || is_crowded && is_heavy {
            let reason =
                if is_full { "more waits to be written than may" } else { "others' writes come first now" };
            return Err(ApiError::Unavailable { reason: reason.into() });
        }
        loads.all = all;
        loads.by_writer.insert(self.writer, own);
        self.load = Load { writes: self.load.writes + more.writes, bytes: self.load.bytes + more.bytes };
        Ok(())
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        let mut loads = self.waiting.0.load.lock().unwrap_or_else(PoisonError::into_inner);
        loads.all.writes -= self.load.writes;
        loads.all.bytes -= self.load.bytes;
        if let Entry::Occupied(mut own) = loads.by_writer.entry(self.writer) {
            own.get_mut().writes -= self.load.writes;
            own.get_mut().bytes -= self.load.bytes;
            if own.get().writes == 0 {
                own.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { writes: 8, bytes: 800 };

    #[test]
    fn there_is_an_end_to_what_waits_and_what_is_answered_makes_room() {
        let waiting = Waiting::new(LIMITS);
        let mut writes: Vec<Write> =
            (0..8).map(|writer| waiting.enter(writer).expect("there is room")).collect();
        assert!(waiting.enter(8).is_err());
        writes.pop();
        waiting.enter(8).expect("one was answered");
        writes.clear();
        let mut large = waiting.enter(1).expect("there is room");
        large.grow(400).expect("there is room");
        assert!(large.grow(401).is_err());
        drop(large);
        assert!(waiting.0.load.lock().expect("not poisoned").by_writer.is_empty());
    }

    #[test]
    fn where_it_is_crowded_small_writers_come_first() {
        let waiting = Waiting::new(LIMITS);
        let mut heavy: Vec<Write> = (0..4).map(|_| waiting.enter(1).expect("half of it is free")).collect();
        let mut small = waiting.enter(2).expect("it has nothing there yet");
        assert!(waiting.enter(1).is_err(), "it has its half");
        small.grow(100).expect("there is room");
        heavy[0].grow(300).expect("there is room");
        assert!(heavy[0].grow(101).is_err(), "over its half while it is crowded");
        small.grow(200).expect("it is within its half");
    }

    #[test]
    fn a_lone_writer_has_all_the_room() {
        let waiting = Waiting::new(LIMITS);
        let writes: Vec<Write> = (0..8).map(|_| waiting.enter(1).expect("nobody else is there")).collect();
        assert!(waiting.enter(1).is_err());
        drop(writes);
    }
}
