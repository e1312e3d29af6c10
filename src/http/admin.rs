//! `/docs` and `/docs/{doc}`: documents as a list, one of them, and its end.

use serde::{Deserialize, Serialize};
use warp::Filter;
use warp::http::{Method, StatusCode};

use crate::auth::access::{Admin, Read, Write};
use crate::auth::grant::Grant;
use crate::document::handle::{Content, DocumentError};
use crate::event::Timestamp;
use crate::ids::{DocumentId, Epoch, Sequence};
use crate::registry::Registry;
use crate::store::Summary;

use super::Limits;
use super::error::ApiError;
use super::route::{
    JSON, Request, Response, Route, empty, json, json_with, parse_base64, parse_client_id, parse_json,
    request, respond,
};
use super::text::ROOT;
use super::updates::{Answer, JSON_ENVELOPE_BYTES, base64_bytes};
use super::writing::{self, Writing};

const LIST_DEFAULT: u64 = 100;
const LIST_MAX: u64 = 1000;

pub fn documents(registry: Registry) -> Route {
    warp::path!("docs")
        .and(request())
        .then(move |request| list(request, registry.clone()))
        .map(respond)
        .boxed()
}

pub fn document(registry: Registry, limits: Limits) -> Route {
    warp::path!("docs" / String)
        .and(request())
        .then(move |id: String, request| one(id, request, registry.clone(), limits))
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
    #[serde(skip_serializing_if = "Option::is_none")]
    frozen_at: Option<Timestamp>,
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
            frozen_at: summary.frozen_at,
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
    let grant = request.grant_of_all(request.query.get("prefix").unwrap_or(""))?;
    request.accepts(&[JSON], JSON)?;
    let limit = request.query.number("limit", 1..=LIST_MAX)?.unwrap_or(LIST_DEFAULT);
    let limit = usize::try_from(limit).expect("the range ends at a thousand");
    // One more than asked for tells whether there is a next page.
    let mut found = registry.list(&grant, request.query.get("after"), limit + 1).await?;
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
    limits: Limits,
) -> Result<Response, ApiError> {
    let mut request = request?;
    match request.method {
        Method::PUT => create(&id, &mut request, &registry, limits).await,
        Method::GET | Method::HEAD => {
            let grant: Grant<Read> = request.grant(&id)?;
            request.accepts(&[JSON], JSON)?;
            let entry = Entry::from(registry.summary(&grant).await?);
            let streams = registry.find_open(&grant).map_or(0, |document| document.streams());
            Ok(json(&Inspected { entry, streams }))
        }
        Method::DELETE => {
            let grant: Grant<Admin> = request.grant(&id)?;
            if registry.open(&grant).delete().await? {
                Ok(empty(StatusCode::NO_CONTENT))
            } else {
                Err(DocumentError::NotFound.into())
            }
        }
        _ => Err(ApiError::MethodNotAllowed { allow: "DELETE, GET, HEAD, PUT" }),
    }
}

/// What a new document begins with: one of the two.
#[derive(Deserialize)]
struct Beginning {
    update: Option<String>,
    text: Option<String>,
    root: Option<String>,
    client_id: Option<String>,
}

/// Writes a document that does not exist yet.
async fn create(
    id: &str,
    request: &mut Request,
    registry: &Registry,
    limits: Limits,
) -> Result<Response, ApiError> {
    let grant: Grant<Write> = request.grant(id)?;
    let octets = request.body_is_octets()?;
    let bytes_max = if octets {
        limits.document_bytes_max
    } else {
        base64_bytes(limits.document_bytes_max) + JSON_ENVELOPE_BYTES
    };
    let body = request.body("a document", limits.body(bytes_max)).await?;
    let (content, client_id) = if octets {
        (Content::Update(body), request.query.client_id()?)
    } else {
        let beginning: Beginning = parse_json(&body)?;
        let client_id = beginning.client_id.as_deref().map(parse_client_id).transpose()?;
        let content = match (beginning.update, beginning.text) {
            (Some(update), None) => Content::Update(parse_base64("update", &update)?),
            (None, Some(text)) => {
                Content::Text { root: beginning.root.unwrap_or_else(|| ROOT.to_owned()), text }
            }
            _ => {
                let reason = "either `update` or `text` says what the document begins with".into();
                return Err(ApiError::InvalidJson { reason });
            }
        };
        (content, client_id)
    };
    let writing = writing::begin(request, registry, &grant, client_id).await?;
    let Writing { document, origin, user, .. } = &writing;
    let written = document.create(content, origin.clone(), user.clone()).await?;
    writing.done(&written);
    if !written.changed {
        let reason = "a document begins with its first update, and this content makes none".into();
        return Err(DocumentError::Invalid { reason }.into());
    }
    Ok(json_with(StatusCode::CREATED, &Answer::from(written)))
}
