//! `/healthz` and `/readyz`: whether the process runs, and whether it can do its work.

use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use warp::Filter;
use warp::http::Method;

use crate::registry::Registry;

use super::error::ApiError;
use super::route::{Request, Response, Route, json, request, respond};

/// A store that takes longer than this to write one small row is not ready.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether an address is one of those that only tell how the server is.
pub fn is_health(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

pub fn healthz() -> Route {
    warp::path!("healthz")
        .and(request())
        .then(|request: Result<Request, ApiError>| async {
            get_only(request?).map(|()| json(&json!({ "status": "ok" })))
        })
        .map(respond)
        .boxed()
}

pub fn readyz(registry: Registry, stopping: CancellationToken) -> Route {
    warp::path!("readyz")
        .and(request())
        .then(move |request| check_ready(request, registry.clone(), stopping.clone()))
        .map(respond)
        .boxed()
}

fn get_only(request: Request) -> Result<(), ApiError> {
    match request.method {
        Method::GET | Method::HEAD => Ok(()),
        _ => Err(ApiError::MethodNotAllowed { allow: "GET, HEAD" }),
    }
}

async fn check_ready(
    request: Result<Request, ApiError>,
    registry: Registry,
    stopping: CancellationToken,
) -> Result<Response, ApiError> {
    get_only(request?)?;
    let not_ready = |reason: String| Err(ApiError::Unavailable { reason });
    if stopping.is_cancelled() {
        return not_ready("the server is stopping".into());
    }
    match check_writable(&registry).await {
        Ok(()) => Ok(json(&json!({ "status": "ready" }))),
        Err(reason) => not_ready(reason),
    }
}

/// Whether the store takes writes now.
///
/// # Errors
/// Why it does not.
pub async fn check_writable(registry: &Registry) -> Result<(), String> {
    match tokio::time::timeout(PATIENCE, registry.check_writable()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("the store is not writable: {error}")),
        Err(_) => Err(format!("the store did not write within {} s", PATIENCE.as_secs())),
    }
}
