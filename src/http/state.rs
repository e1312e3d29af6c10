//! `/docs/{doc}/state`: the document, or what the holder of a state vector lacks.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use warp::Filter;
use warp::http::{Method, StatusCode, header};

use crate::auth::access::Read;
use crate::auth::grant::Grant;
use crate::document::handle::DocumentError;
use crate::document::subscription::State;
use crate::ids::{Epoch, Sequence};
use crate::registry::Registry;

use super::Limits;
use super::encoding::encode_base64;
use super::error::ApiError;
use super::route::{
    OCTETS, Request, Response, Route, bytes_response, check_state_vector, empty, json, parse_base64,
    parse_json, request, respond, set_header, tag,
};
use super::updates::{JSON_ENVELOPE_BYTES, base64_bytes};

/// The longest state vector that is answered as a header, in bytes of base64.
const STATE_VECTOR_HEADER_BYTES_MAX: usize = 4 << 10;

pub fn route(registry: Registry, limits: Limits) -> Route {
    warp::path!("docs" / String / "state")
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
    let mut request = request?;
    let grant: Grant<Read> = request.grant(&id)?;
    let state_vector = match request.method {
        Method::GET | Method::HEAD => request.query.state_vector()?,
        Method::POST => posted_state_vector(&mut request, limits).await?,
        _ => return Err(ApiError::MethodNotAllowed { allow: "GET, HEAD, POST" }),
    };
    answer(&grant, &request, state_vector, &registry).await
}

#[derive(Deserialize)]
struct Posted {
    sv: Option<String>,
}

async fn posted_state_vector(request: &mut Request, limits: Limits) -> Result<Option<Bytes>, ApiError> {
    let bytes_max = limits.update_bytes_max;
    if request.body_is_octets()? {
        let body = request.body("a state vector", limits.body(bytes_max)).await?;
        return check_state_vector(body.to_vec()).map(Some);
    }
    let limit = limits.body(base64_bytes(bytes_max) + JSON_ENVELOPE_BYTES);
    let body = request.body("a state vector", limit).await?;
    let posted: Posted = parse_json(&body)?;
    match posted.sv {
        Some(text) => check_state_vector(parse_base64("sv", &text)?.to_vec()).map(Some),
        None => Ok(None),
    }
}

#[derive(Serialize)]
struct Answer {
    epoch: Epoch,
    seq: Sequence,
    update: String,
    state_vector: String,
}

async fn answer(
    grant: &Grant<Read>,
    request: &Request,
    state_vector: Option<Bytes>,
    registry: &Registry,
) -> Result<Response, ApiError> {
    let at = request.query.number("at", 0..=u64::MAX >> 11)?.map(Sequence::new);
    let as_octets = super::updates::accepts_octets(request)?;
    let document = registry.find(grant).await?;
    // A copy that is still right is known by the head alone; nothing is encoded for it.
    if at.is_none() && state_vector.is_none() && request.headers.contains_key(header::IF_NONE_MATCH) {
        let (epoch, head) = document.head().await?;
        let tag = tag(epoch, head);
        if request.has_tag(&tag) {
            let mut response = empty(StatusCode::NOT_MODIFIED);
            set_header(&mut response, "etag", &tag);
            return Ok(response);
        }
    }
    let state = match at {
        Some(at) => document.state_at(at, state_vector).await?,
        None => document.state(state_vector).await?,
    };
    let State { epoch, sequence, update, state_vector } = state;
    let epoch = epoch.ok_or(DocumentError::NotFound)?;
    let tag = tag(epoch, sequence);
    let mut response = if request.has_tag(&tag) {
        empty(StatusCode::NOT_MODIFIED)
    } else if as_octets {
        let mut response = bytes_response(OCTETS, update);
        set_header(&mut response, "document-epoch", epoch.as_str());
        set_header(&mut response, "document-seq", &sequence.to_string());
        let state_vector = encode_base64(&state_vector);
        if state_vector.len() <= STATE_VECTOR_HEADER_BYTES_MAX {
            set_header(&mut response, "state-vector", &state_vector);
        }
        response
    } else {
        json(&Answer {
            epoch,
            seq: sequence,
            update: encode_base64(&update),
            state_vector: encode_base64(&state_vector),
        })
    };
    set_header(&mut response, "etag", &tag);
    set_header(&mut response, "cache-control", "no-cache");
    set_header(&mut response, "vary", "accept");
    Ok(response)
}
