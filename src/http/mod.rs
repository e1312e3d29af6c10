//! The URL table: one route for each resource, tried in this order.
//!
//! Handlers see documents, never the store or the CRDT library. What is wrong with a request is an
//! `ApiError`; the one `recover` is left with addresses that no route knows.

mod admin;
mod archives;
mod clone;
mod detached;
mod encoding;
mod error;
mod event_body;
pub mod events;
mod freeze;
mod health;
mod history;
mod json;
mod pages;
mod presence;
mod reader;
mod restore;
mod route;
mod sse;
mod state;
mod text;
mod updates;
mod versions;
mod voice;

use std::convert::Infallible;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use warp::filters::BoxedFilter;
use warp::http::{HeaderValue, Method, header};
use warp::hyper::body::Body;
use warp::{Filter, Rejection};

use crate::registry::Registry;

pub use self::detached::detached;

use self::error::ApiError;
use self::events::Streams;
use self::route::{BodyLimit, Response, Route};

/// Limits on what a request may bring, in bytes unless named otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub update_bytes_max: usize,
    pub document_bytes_max: usize,
    pub awareness_bytes_max: usize,
    /// How long a body may take to arrive.
    pub body_time_max: Duration,
}

impl Limits {
    fn body(self, bytes_max: usize) -> BodyLimit {
        BodyLimit { bytes_max, time_max: self.body_time_max }
    }
}

/// Every address that the server answers.
pub fn routes(
    registry: Registry,
    streams: Streams,
    limits: Limits,
    stopping: CancellationToken,
) -> BoxedFilter<(Response,)> {
    let table: Vec<Route> = vec![
        updates::route(registry.clone(), limits),
        streams.route(),
        streams.route_of_many(),
        presence::awareness(registry.clone(), limits),
        state::route(registry.clone(), limits),
        text::route(registry.clone(), limits, stopping.clone()),
        json::route(registry.clone(), limits),
        presence::clients(registry.clone()),
        presence::awareness_of_client(registry.clone(), limits),
        freeze::freeze(registry.clone(), limits),
        freeze::thaw(registry.clone(), limits),
        versions::all(registry.clone(), limits),
        versions::one(registry.clone()),
        history::route(registry.clone()),
        restore::route(registry.clone(), limits),
        clone::route(registry.clone(), limits),
        archives::export_one(registry.clone()),
        archives::export(registry.clone()),
        archives::import(registry.clone(), limits),
        admin::document(registry.clone(), limits),
        admin::documents(registry.clone()),
        health::healthz(),
        health::readyz(registry, stopping),
        pages::index(),
        pages::demo(),
        pages::conversation(),
        pages::files(),
    ];
    // Folded from the end: a route then stands behind those before it only, and the busiest come first.
    let all = table.into_iter().rev().reduce(|rest, route| route.or(rest).unify().boxed());
    let all = all.expect("the table is not empty");
    let all = all.recover(not_found).unify();
    warp::method().and(all).map(without_body_for_head).map(with_common_headers).boxed()
}

async fn not_found(_rejection: Rejection) -> Result<Response, Infallible> {
    Ok(ApiError::PathNotFound.into_response())
}

/// HTTP/1.1 leaves a body out where `HEAD` was asked; over HTTP/2 it would break the stream.
fn without_body_for_head(method: Method, mut response: Response) -> Response {
    if method == Method::HEAD {
        let body = std::mem::take(response.body_mut());
        if let Some(length) = body.size_hint().exact().filter(|length| *length > 0) {
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
    }
    response
}

fn with_common_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
