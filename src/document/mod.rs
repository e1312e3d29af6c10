//! A shared document while it is open: its replica, its log's head, and who is here.
//!
//! A task owns each open document (`actor`) and others hold a handle to it (`handle`). Updates are read strictly
//! (`format`) and let in only if nothing is missing (`admission`); edits of a text are counted out (`text`). What the
//! CRDT makes of them stays in `replica`, the only module that speaks yrs.

pub mod admission;
pub mod authors;
pub mod format;
pub mod handle;
pub mod history;
pub mod json;
pub mod json_patch;
pub mod lib0;
pub mod presence;
pub mod subscription;
pub mod text;

mod actor;
mod replica;

use crate::store::Archive;

/// Whether the bytes are a state vector that a Yjs client can have written.
///
/// # Errors
/// Where they are not, and why.
pub fn check_state_vector(bytes: &[u8]) -> Result<(), format::FormatError> {
    format::read_state_vector(bytes).map(drop)
}

/// Whether an archived document is one: its snapshots and its log are read, and they lead to the same state.
///
/// # Errors
/// Says what does not fit.
pub fn check_archive(archive: &Archive) -> Result<(), String> {
    let open = || replica::Replica::check_archive(archive);
    std::panic::catch_unwind(open).unwrap_or_else(|_panic| Err("its updates cannot be merged".into()))
}

#[cfg(test)]
mod trials;
