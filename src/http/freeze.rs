//! `/docs/{doc}/freeze` and `/docs/{doc}/thaw`: no changes from here on, and changes again.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use warp::Filter;
use warp::http::Method;

use crate::auth::access::Admin;
use crate::auth::grant::Grant;
use crate::event::Timestamp;
use crate::ids::{Epoch, Sequence};
use crate::registry::Registry;

use super::Limits;
use super::encoding::encode_base64;
use super::error::ApiError;
use super::route::{Request, Response, Route, json, request, respond};
use super::text::ROOT;
use super::updates::JSON_ENVELOPE_BYTES;

pub fn freeze(registry: Registry, limits: Limits) -> Route {
    warp::path!("docs" / String / "freeze")
        .and(request())
        .then(move |id: String, request| handle(id, request, registry.clone(), limits, true))
        .map(respond)
        .boxed()
}

pub fn thaw(registry: Registry, limits: Limits) -> Route {
    warp::path!("docs" / String / "thaw")
        .and(request())
        .then(move |id: String, request| handle(id, request, registry.clone(), limits, false))
        .map(respond)
        .boxed()
}

#[derive(Default, Deserialize)]
struct Asked {
    /// The text to answer.
    root: Option<String>,
}

#[derive(Serialize)]
struct Answer {
    epoch: Option<Epoch>,
    seq: Sequence,
    frozen_at: Option<Timestamp>,
    text: String,
    update: String,
    state_vector: String,
}

async fn handle(
    id: String,
    request: Result<Request, ApiError>,
    registry: Registry,
    limits: Limits,
    freeze: bool,
) -> Result<Response, ApiError> {
    let mut request = request?;
    if request.method != Method::POST {
        return Err(ApiError::MethodNotAllowed { allow: "POST" });
    }
    let grant: Grant<Admin> = request.grant(&id)?;
    let asked: Asked = request.json_or_nothing(limits.body(JSON_ENVELOPE_BYTES)).await?;
    let since = freeze.then(|| Timestamp::from(SystemTime::now()));
    let document = registry.find(&grant).await?;
    let frozen = document.set_frozen(since, asked.root.as_deref().unwrap_or(ROOT)).await?;
    Ok(json(&Answer {
        epoch: frozen.state.epoch,
        seq: frozen.state.sequence,
        frozen_at: frozen.since,
        text: frozen.text,
        update: encode_base64(&frozen.state.update),
        state_vector: encode_base64(&frozen.state.state_vector),
    }))
}
