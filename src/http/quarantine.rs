//! `/admin/quarantine`: documents that are out of service, and how one comes back.

use serde::Serialize;
use warp::Filter;
use warp::http::{Method, StatusCode};

use crate::document::quarantine::OutOfService;
use crate::event::Timestamp;
use crate::ids::DocumentId;
use crate::registry::Registry;

use super::error::ApiError;
use super::route::{JSON, Request, Response, Route, empty, json, parse_document_id, request, respond};

pub fn all(registry: Registry) -> Route {
    warp::path!("admin" / "quarantine")
        .and(request())
        .then(move |request| list(request, registry.clone()))
        .map(respond)
        .boxed()
}

pub fn one(registry: Registry) -> Route {
    warp::path!("admin" / "quarantine" / String)
        .and(request())
        .then(move |id: String, request| release(id, request, registry.clone()))
        .map(respond)
        .boxed()
}

#[derive(Serialize)]
struct Entry {
    id: DocumentId,
    /// `None`: its rows are damaged, and a release does not help.
    since: Option<Timestamp>,
    reason: String,
    strikes: u32,
}

impl From<OutOfService> for Entry {
    fn from(document: OutOfService) -> Self {
        match document {
            OutOfService::Quarantined(strikes) => Self {
                id: strikes.document,
                since: strikes.quarantined_at,
                reason: strikes.reason,
                strikes: strikes.count,
            },
            OutOfService::Damaged { document, detail } => {
                Self { id: document, since: None, reason: format!("damaged on disk: {detail}"), strikes: 0 }
            }
        }
    }
}

#[derive(Serialize)]
struct List {
    documents: Vec<Entry>,
}

async fn list(request: Result<Request, ApiError>, registry: Registry) -> Result<Response, ApiError> {
    let request = request?;
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(ApiError::MethodNotAllowed { allow: "GET, HEAD" });
    }
    let grant = request.grant_of_all("")?;
    request.accepts(&[JSON], JSON)?;
    let documents = registry.out_of_service(&grant).await?;
    Ok(json(&List { documents: documents.into_iter().map(Entry::from).collect() }))
}

async fn release(
    id: String,
    request: Result<Request, ApiError>,
    registry: Registry,
) -> Result<Response, ApiError> {
    let request = request?;
    if request.method != Method::DELETE {
        return Err(ApiError::MethodNotAllowed { allow: "DELETE" });
    }
    let grant = request.grant_of_all("")?.of(parse_document_id(&id)?)?;
    registry.release(&grant).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}
