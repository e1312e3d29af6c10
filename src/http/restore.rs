//! `/docs/{doc}/restore`: an earlier content brought back as a new edit.

use serde::Deserialize;
use warp::Filter;
use warp::http::Method;

use crate::auth::access::Write;
use crate::auth::grant::Grant;
use crate::document::handle::Terms;
use crate::ids::Sequence;
use crate::registry::Registry;

use super::Limits;
use super::error::ApiError;
use super::route::{
    Request, Response, Route, json, parse_client_id, parse_json, parse_version_name, request, respond,
};
use super::updates::{Answer, JSON_ENVELOPE_BYTES, expected_epoch};
use super::writing::{self, Writing};

pub fn route(registry: Registry, limits: Limits) -> Route {
    warp::path!("docs" / String / "restore")
        .and(request())
        .then(move |id: String, request| handle(id, request, registry.clone(), limits))
        .map(respond)
        .boxed()
}

/// Which content to bring back: one of `seq` and `version`.
#[derive(Deserialize)]
struct Posted {
    seq: Option<u64>,
    version: Option<String>,
    client_id: Option<String>,
    epoch: Option<String>,
}

async fn handle(
    id: String,
    request: Result<Request, ApiError>,
    registry: Registry,
    limits: Limits,
) -> Result<Response, ApiError> {
    let mut request = request?;
    if request.method != Method::POST {
        return Err(ApiError::MethodNotAllowed { allow: "POST" });
    }
    let grant: Grant<Write> = request.grant(&id)?;
    request.expect_json_body()?;
    let body = request.body("the body", limits.body(JSON_ENVELOPE_BYTES)).await?;
    let posted: Posted = parse_json(&body)?;
    let client_id = posted.client_id.as_deref().map(parse_client_id).transpose()?;
    let document = registry.find(&grant).await?;
    let at = match (posted.seq, posted.version) {
        (Some(seq), None) => Sequence::new(seq),
        (None, Some(name)) => {
            let name = parse_version_name(&name)?;
            let versions = document.versions().await?;
            let version = versions.into_iter().find(|version| version.name == name);
            version.ok_or(ApiError::VersionNotFound)?.sequence
        }
        _ => {
            let reason = "either `seq` or `version` says which content to bring back".into();
            return Err(ApiError::InvalidJson { reason });
        }
    };
    let expected = expected_epoch(posted.epoch.as_deref());
    let Writing { origin, user, .. } = writing::begin(&request, &registry, &grant, client_id).await?;
    let terms = Terms { expected, user, ..Terms::plain(origin) };
    Ok(json(&Answer::from(document.restore(at, terms).await?)))
}
