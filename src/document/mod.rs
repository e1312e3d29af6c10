//! A shared document while it is open: its replica, its log's head, and who is here.
//!
//! A task owns each open document (`actor`) and others hold a handle to it (`handle`).
//! What the CRDT does stays in `replica`, which is the only file that speaks yrs.

pub mod admission;
pub mod format;
pub mod lib0;

#[cfg(test)]
mod trials;
