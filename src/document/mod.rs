//! A shared document while it is open: its replica, its log's head, and who is here.
//!
//! A task owns each open document (`actor`) and others hold a handle to it (`handle`). Updates are read strictly
//! (`format`) and let in only if nothing is missing (`admission`); what the CRDT makes of them stays in `replica`,
//! the only file that speaks yrs.

pub mod admission;
pub mod format;
pub mod handle;
pub mod json;
pub mod json_patch;
pub mod lib0;
pub mod presence;
pub mod subscription;

mod actor;
mod replica;

/// Whether the bytes are a state vector that a Yjs client can have written.
///
/// # Errors
/// Where they are not, and why.
pub fn check_state_vector(bytes: &[u8]) -> Result<(), format::FormatError> {
    format::read_state_vector(bytes).map(drop)
}

#[cfg(test)]
mod trials;
