//! `/docs` and `/docs/{doc}`: documents as a list, one of them, and its end.

use serde::Serialize;
use warp::Filter;
use warp::http::{Method, StatusCode};

use crate::document::handle::DocumentError;
use crate::event::Timestamp;
use crate::ids::{DocumentId, Epoch, Sequence};
use crate::registry::Registry;
use crate::store::Summary;

use super::error::ApiError;
use super::route::{JSON, Request, Response, Route, empty, json, parse_document_id, request, respond};

const LIST_DEFAULT: u64 = 100;
const LIST_MAX: u64 = 1000;

pub fn documents(registry: Registry) -> Route {
    warp::path!("docs")
        .and(request())
        .then(move |request| list(request, registry.clone()))
        .map(respond)
        .boxed()
}

pub fn document(registry: Registry) -> Route {
    warp::path!("docs" / String)
        .and(request())
        .then(move |id: String, request| one(id, request, registry.clone()))
        .map(respond)
        .boxed()
}

#[derive(Serialize)]
struct Entry {
    id: DocumentId,
    epoch: Epoch,
    seq: Sequence,
    bytes: u64,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl From<Summary> for Entry {
    fn from(summary: Summary) -> Self {
        Self {
            id: summary.document,
            epoch: summary.epoch,
            seq: summary.head,
            bytes: summary.bytes,
            created_at: summary.created_at,
            updated_at: summary.updated_at,
        }
    }
}

#[derive(Serialize)]
struct List {
    documents: Vec<Entry>,
    /// `after` of the next page.
    next: Option<DocumentId>,
}

async fn list(request: Result<Request, ApiError>, registry: Registry) -> Result<Response, ApiError> {
    let request = request?;
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(ApiError::MethodNotAllowed { allow: "GET, HEAD" });
    }
    request.accepts(&[JSON], JSON)?;
    let limit = request.query.number("limit", 1..=LIST_MAX)?.unwrap_or(LIST_DEFAULT);
    let limit = usize::try_from(limit).expect("the range ends at a thousand");
    let prefix = request.query.get("prefix").unwrap_or("");
    // One more than asked for tells whether there is a next page.
    let mut found = registry.list(prefix, request.query.get("after"), limit + 1).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|summary| summary.document.clone());
    Ok(json(&List { documents: found.into_iter().map(Entry::from).collect(), next }))
}

#[derive(Serialize)]
struct Inspected {
    #[serde(flatten)]
    entry: Entry,
    streams: usize,
}

async fn one(
    id: String,
    request: Result<Request, ApiError>,
    registry: Registry,
) -> Result<Response, ApiError> {
    let request = request?;
    let id = parse_document_id(&id)?;
    match request.method {
        Method::GET | Method::HEAD => {
            request.accepts(&[JSON], JSON)?;
            let entry = Entry::from(registry.summary(&id).await?);
            let streams = registry.find_open(&id).map_or(0, |document| document.streams());
            Ok(json(&Inspected { entry, streams }))
        }
        Method::DELETE => {
            if registry.open(&id).delete().await? {
                Ok(empty(StatusCode::NO_CONTENT))
            } else {
                Err(DocumentError::NotFound.into())
            }
        }
        _ => Err(ApiError::MethodNotAllowed { allow: "DELETE, GET, HEAD" }),
    }
}
