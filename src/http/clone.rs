//! `/docs/{doc}/clone`: another document that begins as this one is.

use serde::{Deserialize, Serialize};
use warp::Filter;
use warp::http::{Method, StatusCode};

use crate::auth::access::{Read, Write};
use crate::auth::grant::Grant;
use crate::document::handle::{Content, DocumentError};
use crate::event::Origin;
use crate::ids::{ClientId, DocumentId, Epoch, Sequence};
use crate::registry::Registry;
use crate::store::PageLimit;

use super::Limits;
use super::error::ApiError;
use super::route::{Request, Response, Route, json, json_with, parse_json, request, required, respond};
use super::updates::JSON_ENVELOPE_BYTES;
use super::writing;

pub fn route(registry: Registry, limits: Limits) -> Route {
    warp::path!("docs" / String / "clone")
        .and(request())
        .then(move |id: String, request| handle(id, request, registry.clone(), limits))
        .map(respond)
        .boxed()
}

#[derive(Deserialize)]
struct Posted {
    to: Option<String>,
    /// The source as it was then; as it is now if left out.
    seq: Option<u64>,
}

#[derive(Serialize)]
struct Answer {
    id: DocumentId,
    epoch: Option<Epoch>,
    seq: Sequence,
    created: bool,
}

async fn handle(
    id: String,
    request: Result<Request, ApiError>,
    registry: Registry,
    limits: Limits,
) -> Result<Response, ApiError> {
    let mut request = request?;
    if request.method != Method::POST {
        return Err(ApiError::MethodNotAllowed { allow: "POST" });
    }
    let source: Grant<Read> = request.grant(&id)?;
    request.expect_json_body()?;
    let body = request.body("the body", limits.body(JSON_ENVELOPE_BYTES)).await?;
    let posted: Posted = parse_json(&body)?;
    let target: DocumentId = required("to", posted.to)?.parse().map_err(|error: crate::ids::InvalidId| {
        ApiError::InvalidJson { reason: format!("`to` is no document id: {error}") }
    })?;
    let target: Grant<Write> = request.caller()?.grant(target)?;
    let document = registry.find(&source).await?;
    let state = match posted.seq {
        Some(at) => document.state_at(Sequence::new(at), None).await?,
        None => document.state(None).await?,
    };
    let origin = origin_of_clone(source.document());
    let writing = writing::begin(&request, &registry, &target, None).await?;
    let copy = Content::Update(state.update);
    let created = writing.document.create(copy, Origin::Client(origin.clone()), writing.user.clone()).await;
    created.iter().for_each(|written| writing.done(written));
    let id = target.document().clone();
    match created {
        Ok(written) if !written.changed => {
            let reason =
                "a document begins with its first update, and there was none yet at that `seq`".into();
            Err(DocumentError::Invalid { reason }.into())
        }
        Ok(written) => {
            let answer = Answer { id, epoch: written.epoch, seq: written.sequence, created: true };
            Ok(json_with(StatusCode::CREATED, &answer))
        }
        Err(DocumentError::Exists { epoch, sequence }) => {
            // What the target's first update came from is in its log, for as long as that reaches back.
            let first = PageLimit { events_max: 1, bytes_max: usize::MAX };
            let log = registry.open(&target).log(Sequence::ZERO, first).await;
            let is_its_clone = log.is_ok_and(|log| {
                log.events.first().is_some_and(|event| event.origin.client() == Some(&origin))
            });
            if !is_its_clone {
                return Err(DocumentError::Exists { epoch, sequence }.into());
            }
            Ok(json(&Answer { id, epoch, seq: sequence, created: false }))
        }
        Err(error) => Err(error.into()),
    }
}

/// Tells clones of one source from everything else: a repeated request finds that its work is done.
fn origin_of_clone(source: &DocumentId) -> ClientId {
    // A client id is shorter than a document id may be. The checksum tells apart what is cut off.
    let shortened = &source.as_str()[..source.as_str().len().min(48)];
    let checksum = crc32fast::hash(source.as_str().as_bytes());
    format!("clone:{checksum:08x}:{shortened}").parse().expect("it is 63 characters of an id at the most")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_has_an_origin_of_its_clones() {
        let long = |end: char| format!("{}{end}", "a".repeat(127)).parse().expect("the longest id");
        assert_ne!(origin_of_clone(&long('b')), origin_of_clone(&long('c')));
        assert!(origin_of_clone(&"x".parse().expect("an id")).as_str().ends_with(":x"));
    }
}
