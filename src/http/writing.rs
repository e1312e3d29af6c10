//! What every write passes between its permission and its document: whose it is, and whether it is not too much.

use std::time::Instant;

use crate::auth::access::Write;
use crate::auth::grant::Grant;
use crate::document::handle::{Document, DocumentError, Written};
use crate::event::Origin;
use crate::ids::ClientId;
use crate::registry::Registry;

use super::error::ApiError;
use super::route::Request;

/// A write that may be made.
pub struct Writing<'r> {
    pub document: Document<Write>,
    pub origin: Origin,
    pub user: Option<String>,
    request: &'r Request,
}

/// Finds the document for whoever may write it, in the name of one of its clients, if it gives one.
///
/// # Errors
/// `Taken`: the client id is in use, and another user's, who would be told nothing of it. `TooManyRequests`: over the
/// client's rate, or over that of documents that the user creates.
pub async fn begin<'r>(
    request: &'r Request,
    registry: &Registry,
    grant: &Grant<Write>,
    client_id: Option<ClientId>,
) -> Result<Writing<'r>, ApiError> {
    let user = grant.user();
    if let (Some(client_id), Some(_)) = (&client_id, user) {
        request.take_client_update(client_id)?;
    }
    if let Some(retry_after) = request.creation_wait(Instant::now()) {
        match registry.find(grant).await {
            Ok(document) if document.head().await.is_ok() => {}
            Ok(_) | Err(DocumentError::NotFound) => {
                let what = "you have created as many documents in this hour as you may".into();
                return Err(ApiError::TooManyRequests {
                    what,
                    retry_after_seconds: retry_after.as_secs().max(1),
                });
            }
            Err(error) => return Err(error.into()),
        }
    }
    let document = registry.open(grant);
    if let (Some(client_id), Some(user)) = (&client_id, user) {
        document.check_client(client_id, Some(user))?;
    }
    Ok(Writing { document, origin: Origin::from(client_id), user: user.map(str::to_owned), request })
}

impl Writing<'_> {
    /// Counts what was done.
    pub fn done(&self, written: &Written) {
        if written.changed && written.sequence.get() == 1 {
            self.request.take_creation(Instant::now());
        }
    }
}
