//! `/docs/{doc}/versions`: points of a document's history that have names.

use serde::{Deserialize, Serialize};
use warp::Filter;
use warp::http::{Method, StatusCode};

use crate::auth::access::{Admin, Read, Write};
use crate::auth::grant::Grant;
use crate::event::Timestamp;
use crate::ids::{Sequence, VersionName};
use crate::registry::Registry;
use crate::store::{Naming, Version};

use super::Limits;
use super::error::ApiError;
use super::route::{
    JSON, Request, Response, Route, decode_segment, empty, json, json_with, parse_json, parse_version_name,
    request, required, respond,
};
use super::updates::JSON_ENVELOPE_BYTES;

/// How many versions one document may have: each keeps a whole state.
const VERSIONS_MAX: usize = 100;

pub fn all(registry: Registry, limits: Limits) -> Route {
    warp::path!("docs" / String / "versions")
        .and(request())
        .then(move |id: String, request| handle(id, request, registry.clone(), limits))
        .map(respond)
        .boxed()
}

pub fn one(registry: Registry) -> Route {
    warp::path!("docs" / String / "versions" / String)
        .and(request())
        .then(move |id: String, name: String, request| handle_one(id, name, request, registry.clone()))
        .map(respond)
        .boxed()
}

#[derive(Deserialize)]
struct Posted {
    name: Option<String>,
    seq: Option<u64>,
}

#[derive(Serialize)]
struct Entry {
    name: VersionName,
    seq: Sequence,
    created_at: Timestamp,
}

impl From<Version> for Entry {
    fn from(version: Version) -> Self {
        Self { name: version.name, seq: version.sequence, created_at: version.created_at }
    }
}

#[derive(Serialize)]
struct List {
    versions: Vec<Entry>,
}

async fn handle(
    id: String,
    request: Result<Request, ApiError>,
    registry: Registry,
    limits: Limits,
) -> Result<Response, ApiError> {
    let mut request = request?;
    match request.method {
        Method::GET | Method::HEAD => {
            let grant: Grant<Read> = request.grant(&id)?;
            request.accepts(&[JSON], JSON)?;
            let versions = registry.find(&grant).await?.versions().await?;
            Ok(json(&List { versions: versions.into_iter().map(Entry::from).collect() }))
        }
        Method::POST => {
            let grant: Grant<Write> = request.grant(&id)?;
            request.expect_json_body()?;
            let body = request.body("the body", limits.body(JSON_ENVELOPE_BYTES)).await?;
            let posted: Posted = parse_json(&body)?;
            let name = parse_version_name(&required("name", posted.name)?)?;
            let at = posted.seq.map(Sequence::new);
            let (version, naming) = registry.find(&grant).await?.add_version(name, at, VERSIONS_MAX).await?;
            match naming {
                Naming::Added => Ok(json_with(StatusCode::CREATED, &Entry::from(version))),
                // A repeat of what was done before.
                Naming::Taken(known) if at.is_some() && known.sequence == version.sequence => {
                    Ok(json(&Entry::from(known)))
                }
                Naming::Taken(known) => Err(ApiError::VersionExists {
                    name: known.name.as_str().to_owned(),
                    sequence: known.sequence,
                }),
                Naming::Full => Err(ApiError::TooManyVersions { limit: VERSIONS_MAX }),
            }
        }
        _ => Err(ApiError::MethodNotAllowed { allow: "GET, HEAD, POST" }),
    }
}

async fn handle_one(
    id: String,
    name: String,
    request: Result<Request, ApiError>,
    registry: Registry,
) -> Result<Response, ApiError> {
    let request = request?;
    let name = parse_version_name(&decode_segment(&name))?;
    match request.method {
        Method::GET | Method::HEAD => {
            let grant: Grant<Read> = request.grant(&id)?;
            request.accepts(&[JSON], JSON)?;
            let versions = registry.find(&grant).await?.versions().await?;
            let version = versions.into_iter().find(|version| version.name == name);
            version.map(|version| json(&Entry::from(version))).ok_or(ApiError::VersionNotFound)
        }
        Method::DELETE => {
            let grant: Grant<Admin> = request.grant(&id)?;
            if registry.find(&grant).await?.remove_version(&name).await? {
                Ok(empty(StatusCode::NO_CONTENT))
            } else {
                Err(ApiError::VersionNotFound)
            }
        }
        _ => Err(ApiError::MethodNotAllowed { allow: "DELETE, GET, HEAD" }),
    }
}
