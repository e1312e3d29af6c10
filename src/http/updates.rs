//! `/docs/{doc}/updates`: merging an update, reading the log.

use serde::{Deserialize, Serialize};
use warp::Filter;
use warp::http::Method;

use crate::auth::access::{Read, Write};
use crate::auth::grant::Grant;
use crate::document::handle::{Expected, Written};
use crate::event::{Event, Timestamp};
use crate::ids::{ClientId, Epoch, Sequence};
use crate::registry::Registry;
use crate::store::PageLimit;

use super::Limits;
use super::encoding::encode_base64;
use super::error::ApiError;
use super::route::{
    JSON, OCTETS, Request, Response, Route, json, parse_base64, parse_client_id, parse_json, request,
    required, respond,
};
use super::writing::{self, Writing};

/// What a JSON body holds beside the update: names, punctuation, fields that are ignored.
pub const JSON_ENVELOPE_BYTES: usize = 4 << 10;
/// One page of the log, in bytes of updates.
const PAGE_BYTES_MAX: usize = 8 << 20;
const PAGE_UPDATES_MAX: u64 = 1000;

pub fn route(registry: Registry, limits: Limits) -> Route {
    warp::path!("docs" / String / "updates")
        .and(request())
        .then(move |id: String, request| handle(id, request, registry.clone(), limits))
        .map(respond)
        .boxed()
}

async fn handle(
    id: String,
    request: Result<Request, ApiError>,
    registry: Registry,
    limits: Limits,
) -> Result<Response, ApiError> {
    let request = request?;
    match request.method {
        Method::POST => post(&id, request, &registry, limits).await,
        Method::GET | Method::HEAD => get(&id, &request, &registry).await,
        _ => Err(ApiError::MethodNotAllowed { allow: "GET, HEAD, POST" }),
    }
}

#[derive(Deserialize)]
struct Posted {
    update: Option<String>,
    client_id: Option<String>,
    epoch: Option<String>,
}

/// What became of a write, as every write answers.
#[derive(Serialize)]
pub struct Answer {
    epoch: Option<Epoch>,
    seq: Sequence,
    changed: bool,
    /// Of the text that was edited, if one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
}

impl From<Written> for Answer {
    fn from(written: Written) -> Self {
        let Written { epoch, sequence, changed, length } = written;
        Self { epoch, seq: sequence, changed, length }
    }
}

async fn post(
    id: &str,
    mut request: Request,
    registry: &Registry,
    limits: Limits,
) -> Result<Response, ApiError> {
    let grant: Grant<Write> = request.grant(id)?;
    let octets = request.body_is_octets()?;
    let (update, client_id, expected) = if octets {
        let update = request.body("an update", limits.body(limits.update_bytes_max)).await?;
        let expected = expected_epoch(request.query.get("epoch"));
        (update, request.query.client_id()?, expected)
    } else {
        let body = limits.body(base64_bytes(limits.update_bytes_max) + JSON_ENVELOPE_BYTES);
        // The limit that counts, and that is told, is the decoded update's.
        let body = request.body("an update", body).await.map_err(|error| match error {
            ApiError::TooLarge { what, body_pending, .. } => {
                ApiError::TooLarge { what, limit: limits.update_bytes_max, body_pending }
            }
            other => other,
        })?;
        let posted: Posted = parse_json(&body)?;
        let client_id = posted.client_id.as_deref().map(parse_client_id).transpose()?;
        let update = parse_base64("update", &required("update", posted.update)?)?;
        (update, client_id, expected_epoch(posted.epoch.as_deref()))
    };
    if update.len() > limits.update_bytes_max {
        return Err(ApiError::TooLarge {
            what: "an update",
            limit: limits.update_bytes_max,
            body_pending: false,
        });
    }
    let writing = writing::begin(&request, registry, &grant, client_id).await?;
    let Writing { document, origin, user, .. } = &writing;
    let written = document.apply_update(update, origin.clone(), user.clone(), expected).await?;
    writing.done(&written);
    Ok(json(&Answer::from(written)))
}

/// How long `bytes` bytes are in base64, padding included.
pub fn base64_bytes(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

/// What no document's epoch can be is the epoch of none.
pub fn expected_epoch(raw: Option<&str>) -> Expected {
    match raw.map(str::parse) {
        None => Expected::Any,
        Some(Ok(epoch)) => Expected::This(epoch),
        Some(Err(_)) => Expected::Unknown,
    }
}

#[derive(Serialize)]
struct Page {
    epoch: Epoch,
    updates: Vec<Logged>,
    next: Option<Sequence>,
}

#[derive(Serialize)]
struct Logged {
    seq: Sequence,
    origin: Option<ClientId>,
    user: Option<String>,
    time: Timestamp,
    bytes: usize,
    update: String,
}

impl From<Event> for Logged {
    fn from(event: Event) -> Self {
        Self {
            seq: event.sequence,
            origin: event.origin.client().cloned(),
            user: event.user,
            time: event.time,
            bytes: event.update.len(),
            update: encode_base64(&event.update),
        }
    }
}

async fn get(id: &str, request: &Request, registry: &Registry) -> Result<Response, ApiError> {
    let grant: Grant<Read> = request.grant(id)?;
    request.accepts(&[JSON], JSON)?;
    let since = Sequence::new(request.query.number("since", 0..=u64::MAX >> 11)?.unwrap_or(0));
    let limit = request.query.number("limit", 1..=PAGE_UPDATES_MAX)?.unwrap_or(PAGE_UPDATES_MAX);
    let limit = PageLimit {
        events_max: usize::try_from(limit).expect("the range ends at a thousand"),
        bytes_max: PAGE_BYTES_MAX,
    };
    let log = registry.find(&grant).await?.log(since, limit).await?;
    let updates = log.events.into_iter().map(Logged::from).collect();
    Ok(json(&Page { epoch: log.epoch, updates, next: log.next }))
}

/// Accepts either of the two forms that an update can be answered in.
///
/// # Errors
/// `NotAcceptable`.
pub fn accepts_octets(request: &Request) -> Result<bool, ApiError> {
    let accepted = request.accepts(&[JSON, OCTETS], "application/json or application/octet-stream")?;
    Ok(accepted == OCTETS)
}
