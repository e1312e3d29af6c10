//! `/docs/{doc}/clients` and `/docs/{doc}/awareness`: who is here.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use warp::Filter;
use warp::http::{Method, StatusCode};

use crate::auth::access::Read;
use crate::auth::grant::Grant;
use crate::document::presence::{Connected, Owner};
use crate::ids::ClientId;
use crate::registry::Registry;

use super::Limits;
use super::error::ApiError;
use super::route::{
    JSON, Request, Response, Route, decode_segment, empty, json, parse_base64, parse_client_id, parse_json,
    request, required, respond,
};
use super::updates::{JSON_ENVELOPE_BYTES, base64_bytes};

pub fn clients(registry: Registry) -> Route {
    warp::path!("docs" / String / "clients")
        .and(request())
        .then(move |id: String, request| list_clients(id, request, registry.clone()))
        .map(respond)
        .boxed()
}

pub fn awareness(registry: Registry, limits: Limits) -> Route {
    warp::path!("docs" / String / "awareness")
        .and(request())
        .then(move |id: String, request| post_awareness(id, request, registry.clone(), limits))
        .map(respond)
        .boxed()
}

pub fn awareness_of_client(registry: Registry, limits: Limits) -> Route {
    warp::path!("docs" / String / "awareness" / String)
        .and(request())
        .then(move |id: String, client, request| put_awareness(id, client, request, registry.clone(), limits))
        .map(respond)
        .boxed()
}

#[derive(Serialize)]
struct Clients {
    clients: Vec<Connected>,
}

async fn list_clients(
    id: String,
    request: Result<Request, ApiError>,
    registry: Registry,
) -> Result<Response, ApiError> {
    let request = request?;
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(ApiError::MethodNotAllowed { allow: "GET, HEAD" });
    }
    let grant: Grant<Read> = request.grant(&id)?;
    request.accepts(&[JSON], JSON)?;
    registry.check_in_service(grant.document())?;
    let clients = registry.find_open(&grant).map_or_else(Vec::new, |document| document.clients());
    Ok(json(&Clients { clients }))
}

#[derive(Deserialize)]
struct Posted {
    client_id: Option<String>,
    update: Option<String>,
}

async fn post_awareness(
    id: String,
    request: Result<Request, ApiError>,
    registry: Registry,
    limits: Limits,
) -> Result<Response, ApiError> {
    let mut request = request?;
    if request.method != Method::POST {
        return Err(ApiError::MethodNotAllowed { allow: "POST" });
    }
    let grant: Grant<Read> = request.grant(&id)?;
    let bytes_max = limits.awareness_bytes_max;
    let (client_id, update) = if request.body_is_octets()? {
        let client_id = request.query.client_id()?.ok_or(ApiError::InvalidParameter {
            parameter: "client_id",
            expected: "given: an awareness state belongs to a client".into(),
        })?;
        (client_id, request.body("an awareness update", limits.body(bytes_max)).await?)
    } else {
        let limit = limits.body(base64_bytes(bytes_max) + JSON_ENVELOPE_BYTES);
        let body = request.body("an awareness update", limit).await?;
        let posted: Posted = parse_json(&body)?;
        let client_id = parse_client_id(&required("client_id", posted.client_id)?)?;
        (client_id, parse_base64("update", &required("update", posted.update)?)?)
    };
    check_size(update.len(), bytes_max)?;
    registry.check_in_service(grant.document())?;
    registry.open(&grant).apply_awareness(&owner(client_id, &grant), &update)?;
    Ok(empty(StatusCode::NO_CONTENT))
}

async fn put_awareness(
    id: String,
    client_id: String,
    request: Result<Request, ApiError>,
    registry: Registry,
    limits: Limits,
) -> Result<Response, ApiError> {
    let mut request = request?;
    if request.method != Method::PUT {
        return Err(ApiError::MethodNotAllowed { allow: "PUT" });
    }
    let grant: Grant<Read> = request.grant(&id)?;
    let client_id = parse_client_id(&decode_segment(&client_id))?;
    request.expect_json_body()?;
    let bytes_max = limits.awareness_bytes_max;
    let body = request.body("an awareness state", limits.body(bytes_max)).await?;
    check_size(body.len(), bytes_max)?;
    let state: &RawValue =
        serde_json::from_slice(&body).map_err(|error| ApiError::InvalidJson { reason: error.to_string() })?;
    let state = state.get();
    if state != "null" && !state.starts_with('{') {
        return Err(ApiError::InvalidJson { reason: "an object is expected, or null to leave".into() });
    }
    registry.check_in_service(grant.document())?;
    let owner = owner(client_id, &grant);
    registry.open(&grant).put_awareness(&owner, (state != "null").then_some(state))?;
    Ok(empty(StatusCode::NO_CONTENT))
}

fn owner(client_id: ClientId, grant: &Grant<Read>) -> Owner {
    Owner { client_id, user: grant.user().map(str::to_owned) }
}

fn check_size(bytes: usize, limit: usize) -> Result<(), ApiError> {
    if bytes > limit {
        return Err(ApiError::TooLarge { what: "an awareness update", limit, body_pending: false });
    }
    Ok(())
}
