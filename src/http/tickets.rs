//! `/tickets`: a stand-in for a token in an `EventSource`'s address.

use std::sync::Arc;

use serde::Serialize;
use warp::Filter;
use warp::http::Method;

use crate::auth::{Authenticator, tickets};

use super::error::ApiError;
use super::route::{Request, Response, Route, json, request, respond};

pub fn route(authenticator: Arc<Authenticator>) -> Route {
    warp::path!("tickets")
        .and(request())
        .then(move |request| handle(request, authenticator.clone()))
        .map(respond)
        .boxed()
}

#[derive(Serialize)]
struct Answer {
    ticket: String,
    /// In seconds.
    expires_in: u64,
}

async fn handle(
    request: Result<Request, ApiError>,
    authenticator: Arc<Authenticator>,
) -> Result<Response, ApiError> {
    let request = request?;
    if request.method != Method::POST {
        return Err(ApiError::MethodNotAllowed { allow: "POST" });
    }
    let ticket = authenticator
        .issue_ticket(request.caller()?)
        .map_err(|error| ApiError::Unavailable { reason: error.to_string() })?;
    Ok(json(&Answer { ticket, expires_in: tickets::LIFE.as_secs() }))
}
