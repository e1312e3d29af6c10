//! `/admin/revoke`: takes back tokens, or everybody's access to a document, before their time.

use std::time::SystemTime;

use serde::Deserialize;
use warp::Filter;
use warp::http::{Method, StatusCode};

use crate::auth::revocations::{Revocation, Revoked};
use crate::event::Timestamp;
use crate::registry::Registry;

use super::Limits;
use super::error::ApiError;
use super::route::{
    Request, Response, Route, empty, parse_document_id_in_query, parse_json, request, respond,
};
use super::updates::JSON_ENVELOPE_BYTES;

pub fn route(registry: Registry, limits: Limits) -> Route {
    warp::path!("admin" / "revoke")
        .and(request())
        .then(move |request| handle(request, registry.clone(), limits))
        .map(respond)
        .boxed()
}

/// Whose access: one of them.
#[derive(Deserialize)]
struct Posted {
    sub: Option<String>,
    jti: Option<String>,
    doc: Option<String>,
}

async fn handle(
    request: Result<Request, ApiError>,
    registry: Registry,
    limits: Limits,
) -> Result<Response, ApiError> {
    let mut request = request?;
    if request.method != Method::POST {
        return Err(ApiError::MethodNotAllowed { allow: "POST" });
    }
    let grant = request.grant_of_all("")?;
    request.expect_json_body()?;
    let body = request.body("the body", limits.body(JSON_ENVELOPE_BYTES)).await?;
    let revoked = match parse_json(&body)? {
        Posted { sub: Some(user), jti: None, doc: None } => Revoked::User(user),
        Posted { sub: None, jti: Some(token), doc: None } => Revoked::Token(token),
        Posted { sub: None, jti: None, doc: Some(id) } => Revoked::Document(parse_document_id_in_query(&id)?),
        _ => {
            let reason = "one of `sub`, `jti` and `doc` says whose access is taken back".into();
            return Err(ApiError::InvalidJson { reason });
        }
    };
    registry.revoke(&grant, Revocation { revoked, at: Timestamp::from(SystemTime::now()) }).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}
