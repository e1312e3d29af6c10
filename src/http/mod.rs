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
mod metrics;
mod openapi;
mod pages;
mod presence;
mod quarantine;
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
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use warp::filters::BoxedFilter;
use warp::http::{HeaderValue, Method, header};
use warp::hyper::body::Body;
use warp::{Filter, Rejection};

use crate::metrics::Metrics;
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

/// One line of the URL table.
struct Resource {
    /// The address as `openapi.json` has it.
    template: &'static str,
    /// What it takes, as its handler says it in `Allow`.
    methods: &'static str,
    route: Route,
}

/// The URL table. The busiest come first.
fn table(
    registry: Registry,
    streams: &Streams,
    limits: Limits,
    metrics: Arc<Metrics>,
    stopping: CancellationToken,
) -> Vec<Resource> {
    let at = |template, methods, route| Resource { template, methods, route };
    vec![
        at("/docs/{doc}/updates", "GET, HEAD, POST", updates::route(registry.clone(), limits)),
        at("/docs/{doc}/events", "GET, HEAD", streams.route()),
        at("/events", "GET, HEAD", streams.route_of_many()),
        at("/docs/{doc}/awareness", "POST", presence::awareness(registry.clone(), limits)),
        at("/docs/{doc}/state", "GET, HEAD, POST", state::route(registry.clone(), limits)),
        at(
            "/docs/{doc}/text",
            "GET, HEAD, PATCH, PUT",
            text::route(registry.clone(), limits, stopping.clone()),
        ),
        at("/docs/{doc}/json", "GET, HEAD, PATCH", json::route(registry.clone(), limits)),
        at("/docs/{doc}/clients", "GET, HEAD", presence::clients(registry.clone())),
        at(
            "/docs/{doc}/awareness/{client_id}",
            "PUT",
            presence::awareness_of_client(registry.clone(), limits),
        ),
        at("/docs/{doc}/freeze", "POST", freeze::freeze(registry.clone(), limits)),
        at("/docs/{doc}/thaw", "POST", freeze::thaw(registry.clone(), limits)),
        at("/docs/{doc}/versions", "GET, HEAD, POST", versions::all(registry.clone(), limits)),
        at("/docs/{doc}/versions/{name}", "DELETE, GET, HEAD", versions::one(registry.clone())),
        at("/docs/{doc}/history", "GET, HEAD", history::route(registry.clone())),
        at("/docs/{doc}/restore", "POST", restore::route(registry.clone(), limits)),
        at("/docs/{doc}/clone", "POST", clone::route(registry.clone(), limits)),
        at("/docs/{doc}/export", "GET, HEAD", archives::export_one(registry.clone())),
        at("/export", "GET, HEAD", archives::export(registry.clone())),
        at("/import", "POST", archives::import(registry.clone(), limits)),
        at("/docs/{doc}", "DELETE, GET, HEAD, PUT", admin::document(registry.clone(), limits)),
        at("/docs", "GET, HEAD", admin::documents(registry.clone())),
        at("/admin/quarantine", "GET, HEAD", quarantine::all(registry.clone())),
        at("/admin/quarantine/{doc}", "DELETE", quarantine::one(registry.clone())),
        at("/healthz", "GET, HEAD", health::healthz()),
        at("/readyz", "GET, HEAD", health::readyz(registry.clone(), stopping)),
        at("/metrics", "GET, HEAD", metrics::route(registry, streams.clone(), metrics)),
        at("/openapi.json", "GET, HEAD", openapi::route()),
        at("/", "GET, HEAD", pages::index()),
        at("/demo/crdt-sync", "GET, HEAD", pages::demo()),
        at("/conversation/{doc}", "GET, HEAD", pages::conversation()),
        // Whatever no other route has taken, several segments too.
        at("/{file}", "GET, HEAD", pages::files()),
    ]
}

/// An answer, and the line of the table that it comes from.
struct Answered {
    line: usize,
    response: Response,
}

/// Every address that the server answers.
pub fn routes(
    registry: Registry,
    streams: Streams,
    limits: Limits,
    metrics: Arc<Metrics>,
    stopping: CancellationToken,
) -> BoxedFilter<(Response,)> {
    let table = table(registry, &streams, limits, metrics.clone(), stopping);
    let known = table.iter().map(|line| (line.methods, metrics.requests.route(line.template)));
    let known: Arc<[_]> = known.collect();
    // Folded from the end: a route then stands behind those before it only, and the busiest come first.
    let lines = table.into_iter().enumerate().rev();
    let routes = lines.map(|(line, resource)| (line, resource.route));
    let all = routes.fold(None, |rest: Option<BoxedFilter<(Answered,)>>, (line, route)| {
        let route = route.map(move |response| Answered { line, response });
        Some(match rest {
            Some(rest) => route.or(rest).unify().boxed(),
            None => route.boxed(),
        })
    });
    let all = all.expect("the table is not empty");
    let last = known.len() - 1;
    let all = all.recover(move |rejection| not_found(rejection, last)).unify();
    warp::method()
        .and(warp::any().map(Instant::now))
        .and(all)
        .map(move |method, started: Instant, Answered { line, response }| {
            let response = with_common_headers(without_body_for_head(&method, response));
            let (methods, counted) = &known[line];
            debug_assert!(
                response.headers().get(header::ALLOW).is_none_or(|allow| allow == methods),
                "the table and a handler disagree about what an address takes"
            );
            metrics::count(counted, &method, &response, started.elapsed());
            response
        })
        .boxed()
}

/// What no line of the table takes counts among what its last one has not found.
async fn not_found(_rejection: Rejection, line: usize) -> Result<Answered, Infallible> {
    Ok(Answered { line, response: ApiError::PathNotFound.into_response() })
}

/// HTTP/1.1 leaves a body out where `HEAD` was asked; over HTTP/2 it would break the stream.
fn without_body_for_head(method: &Method, mut response: Response) -> Response {
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
