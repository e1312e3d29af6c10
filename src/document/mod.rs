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
pub mod job;
pub mod json;
pub mod json_patch;
pub mod lib0;
pub mod presence;
pub mod quarantine;
pub mod subscription;
pub mod text;

mod actor;
mod replica;

use crate::sandbox::Sandbox;
use crate::store::Archive;

use self::handle::DocumentError;
use self::job::JobError;

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
/// `Invalid` says what does not fit; `Unavailable` if nobody could look.
pub async fn check_archive(sandbox: &Sandbox, archive: &Archive) -> Result<(), DocumentError> {
    job::check_archive(sandbox, archive).await.map_err(|error| match error {
        JobError::Failed(failure) if !failure.is_the_jobs() => {
            DocumentError::Unavailable { reason: failure.to_string() }
        }
        JobError::Failed(failure) => {
            DocumentError::Invalid { reason: format!("its updates cannot be merged: {failure}") }
        }
        JobError::Refused { detail } => DocumentError::Invalid { reason: detail },
    })
}

#[cfg(test)]
mod trials;
