//! `/docs/{doc}/history`: who wrote how much, and when.

use serde::Serialize;
use warp::Filter;
use warp::http::Method;

use crate::auth::access::Read;
use crate::auth::grant::Grant;
use crate::document::history::Contribution;
use crate::event::Timestamp;
use crate::ids::{ClientId, Epoch, Sequence};
use crate::registry::Registry;

use super::error::ApiError;
use super::route::{JSON, Request, Response, Route, json, request, respond};

pub fn route(registry: Registry) -> Route {
    warp::path!("docs" / String / "history")
        .and(request())
        .then(move |id: String, request| handle(id, request, registry.clone()))
        .map(respond)
        .boxed()
}

#[derive(Serialize)]
struct Answer {
    epoch: Epoch,
    since: Sequence,
    seq: Sequence,
    contributions: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    origin: Option<ClientId>,
    user: Option<String>,
    updates: u64,
    bytes: u64,
    inserted: u64,
    deleted: u64,
    first_at: Timestamp,
    last_at: Timestamp,
}

impl From<Contribution> for Entry {
    fn from(contribution: Contribution) -> Self {
        Self {
            origin: contribution.origin.client().cloned(),
            user: contribution.user,
            updates: contribution.updates,
            bytes: contribution.bytes,
            inserted: contribution.inserted,
            deleted: contribution.deleted,
            first_at: contribution.first_at,
            last_at: contribution.last_at,
        }
    }
}

async fn handle(
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
    let since = request.query.number("since", 0..=u64::MAX >> 11)?.map(Sequence::new);
    let history = registry.find(&grant).await?.history(since).await?;
    Ok(json(&Answer {
        epoch: history.epoch,
        since: history.since,
        seq: history.head,
        contributions: history.contributions.into_iter().map(Entry::from).collect(),
    }))
}
