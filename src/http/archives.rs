//! `/docs/{doc}/export`, `/export` and `/import`: whole documents, with their history, as JSON lines.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use sync_wrapper::SyncStream;
use warp::Filter;
use warp::http::{HeaderValue, Method, header};
use warp::reply::Reply;

use crate::archive::{self, Reader, Taken};
use crate::auth::access::Read;
use crate::auth::grant::{Grant, GrantOfAll};
use crate::document::handle::DocumentError;
use crate::ids::DocumentId;
use crate::registry::Registry;

use super::Limits;
use super::error::ApiError;
use super::route::{JSON, Request, Response, Route, bytes_response, json, request, respond};

const JSON_LINES: &str = "application/x-ndjson";
/// Why a document is not among the others for an administrator of all.
const WITHHELD: &str = "access to it was revoked after this token was issued; a newer one covers it";
/// So many of those that were skipped are named.
const SKIPPED_MAX: usize = 1000;

pub fn export_one(registry: Registry) -> Route {
    warp::path!("docs" / String / "export")
        .and(request())
        .then(move |id: String, request| export_document(id, request, registry.clone()))
        .map(respond)
        .boxed()
}

pub fn export(registry: Registry) -> Route {
    warp::path!("export")
        .and(request())
        .then(move |request| export_all(request, registry.clone()))
        .map(respond)
        .boxed()
}

pub fn import(registry: Registry, limits: Limits) -> Route {
    warp::path!("import")
        .and(request())
        .then(move |request| import_all(request, registry.clone(), limits))
        .map(respond)
        .boxed()
}

async fn export_document(
    id: String,
    request: Result<Request, ApiError>,
    registry: Registry,
) -> Result<Response, ApiError> {
    let request = request?;
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(ApiError::MethodNotAllowed { allow: "GET, HEAD" });
    }
    let grant: Grant<Read> = request.grant(&id)?;
    request.accepts(&[JSON_LINES, JSON], JSON_LINES)?;
    let archive = registry.archive(&grant).await?;
    let text: String = archive::lines(archive).collect();
    Ok(bytes_response(JSON_LINES, text.into()))
}

/// Where an export of many documents stands.
struct Export {
    registry: Registry,
    grant: GrantOfAll,
    after: Option<String>,
    waiting: VecDeque<DocumentId>,
    is_last_page: bool,
}

impl Export {
    /// The next document as text; `None` when there is none.
    async fn next(&mut self) -> Result<Option<String>, DocumentError> {
        loop {
            let Some(id) = self.waiting.pop_front() else {
                if self.is_last_page {
                    return Ok(None);
                }
                let page =
                    self.registry.list(&self.grant, self.after.as_deref(), archive::PAGE_DOCUMENTS).await?;
                self.is_last_page = page.len() < archive::PAGE_DOCUMENTS;
                self.waiting.extend(page.into_iter().map(|summary| summary.document));
                continue;
            };
            self.after = Some(id.to_string());
            let Ok(grant) = self.grant.of(id.clone()) else {
                // A copy that is short of a document must say so.
                return Ok(Some(archive::left_out(&id, WITHHELD)));
            };
            match self.registry.archive(&grant).await {
                Ok(archive) => return Ok(Some(archive::lines(archive).collect())),
                // Deleted since it was listed.
                Err(DocumentError::NotFound) => {}
                Err(DocumentError::Damaged { detail }) => return Ok(Some(archive::left_out(&id, &detail))),
                Err(error) => return Err(error),
            }
        }
    }
}

async fn export_all(request: Result<Request, ApiError>, registry: Registry) -> Result<Response, ApiError> {
    let request = request?;
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(ApiError::MethodNotAllowed { allow: "GET, HEAD" });
    }
    let grant = request.grant_of_all(request.query.get("prefix").unwrap_or(""))?;
    request.accepts(&[JSON_LINES, JSON], JSON_LINES)?;
    let mut export = Export { registry, grant, after: None, waiting: VecDeque::new(), is_last_page: false };
    // What can be known to fail is answered with a status; later an error can only cut the answer off.
    let first = export.next().await?;
    let first = stream::iter(first.map(Ok));
    let rest = stream::try_unfold(export, |mut export| async move {
        let next = export.next().await.map_err(|error| std::io::Error::other(error.to_string()))?;
        Ok(next.map(|text| (text, export)))
    });
    let body = first.chain(rest).map(|text: Result<String, std::io::Error>| text.map(Bytes::from));
    let mut response = warp::reply::stream(SyncStream::new(Box::pin(body))).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON_LINES));
    Ok(response)
}

#[derive(Default, Serialize)]
struct Imported {
    imported: u64,
    skipped: Vec<Skipped>,
}

impl Imported {
    fn skip(&mut self, document: String, reason: impl Into<String>) {
        if self.skipped.len() < SKIPPED_MAX {
            self.skipped.push(Skipped { document, reason: reason.into() });
        }
    }
}

#[derive(Serialize)]
struct Skipped {
    document: String,
    reason: String,
}

async fn import_all(
    request: Result<Request, ApiError>,
    registry: Registry,
    limits: Limits,
) -> Result<Response, ApiError> {
    let mut request = request?;
    if request.method != Method::POST {
        return Err(ApiError::MethodNotAllowed { allow: "POST" });
    }
    let grant = request.grant_of_all("")?;
    let bytes_max = archive::text_bytes_max(limits.document_bytes_max);
    let mut reader = Reader::new(bytes_max);
    let mut answer = Imported::default();
    let mut rest: Vec<u8> = Vec::new();
    while let Some(piece) = request.next_piece(limits.body_time_max).await? {
        let mut piece = &piece[..];
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            rest.extend_from_slice(&piece[..end]);
            piece = &piece[end + 1..];
            take(&rest, &mut reader, &mut answer, &registry, &grant).await?;
            rest.clear();
        }
        rest.extend_from_slice(piece);
        if rest.len() > bytes_max {
            return Err(ApiError::TooLarge {
                what: "an archive's line",
                limit: bytes_max,
                body_pending: true,
            });
        }
    }
    take(&rest, &mut reader, &mut answer, &registry, &grant).await?;
    let imported = answer.imported;
    reader.finish().map_err(|error| ApiError::InvalidArchive { reason: error.to_string(), imported })?;
    Ok(json(&answer))
}

/// Takes one line, and writes the document that it ends.
async fn take(
    line: &[u8],
    reader: &mut Reader,
    answer: &mut Imported,
    registry: &Registry,
    grant: &GrantOfAll,
) -> Result<(), ApiError> {
    let imported = answer.imported;
    let invalid = |reason: String| ApiError::InvalidArchive { reason, imported };
    let line = std::str::from_utf8(line).map_err(|error| invalid(format!("it is not UTF-8: {error}")))?;
    let skipped = match reader.take(line).map_err(|error| invalid(error.to_string()))? {
        None => return Ok(()),
        Some(Taken::LeftOut { document, reason }) => Skipped { document, reason },
        Some(Taken::Document(archive)) => {
            let document = archive.summary.document.to_string();
            let Ok(grant) = grant.of(archive.summary.document.clone()) else {
                answer.skip(document, WITHHELD);
                return Ok(());
            };
            match registry.unarchive(&grant, *archive).await {
                Ok(true) => {
                    answer.imported += 1;
                    return Ok(());
                }
                Ok(false) => Skipped { document, reason: "it exists already".into() },
                Err(DocumentError::Invalid { reason }) => Skipped { document, reason },
                Err(error) => return Err(error.into()),
            }
        }
    };
    answer.skip(skipped.document, skipped.reason);
    Ok(())
}
