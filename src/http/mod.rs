//! The URL table: one route for each resource, tried in this order.
//!
//! Handlers see documents, never the store or the CRDT library. What is wrong with a request is an
//! `ApiError`; the one `recover` is left with addresses that no route knows.

mod admin;
mod archives;
mod client_address;
mod clone;
mod credentials;
pub mod cross_origin;
mod detached;
pub mod encoding;
mod error;
mod event_body;
pub mod events;
mod freeze;
pub mod front;
mod health;
mod history;
mod json;
mod metrics;
mod openapi;
mod pages;
pub mod places;
mod presence;
mod quarantine;
pub mod rates;
mod reader;
mod restore;
mod revoke;
mod route;
pub mod sender;
mod sse;
mod state;
mod tenure;
mod text;
mod tickets;
mod updates;
mod versions;
mod voice;
pub mod waiting;
mod writing;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use warp::filters::BoxedFilter;
use warp::http::{HeaderValue, Method, header};
use warp::hyper::body::Body;
use warp::{Filter, Rejection};

use crate::auth::Authenticator;
use crate::metrics::Metrics;
use crate::registry::Registry;

pub use self::client_address::ClientAddress;

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

/// Which part of the URL table a listener answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    All,
    /// What is left where those who look after the server have a listener of their own.
    Public,
    /// What is for them; whether the server is well may everybody know.
    Operations,
}

impl Part {
    fn has(self, template: &str) -> bool {
        let is_operations = template == "/metrics" || template.starts_with("/admin/");
        match self {
            Self::All => true,
            Self::Public => !is_operations,
            Self::Operations => is_operations || matches!(template, "/healthz" | "/readyz"),
        }
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

const ANY_FILE: &str = "/{file}";

/// The URL table. The busiest come first.
fn table(
    registry: Registry,
    streams: &Streams,
    limits: Limits,
    authenticator: Arc<Authenticator>,
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
        at("/tickets", "POST", tickets::route(authenticator)),
        at("/admin/revoke", "POST", revoke::route(registry.clone(), limits)),
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
        at(ANY_FILE, "GET, HEAD", pages::files()),
    ]
}

/// An answer, and the line of the table that it comes from.
struct Answered {
    line: usize,
    response: Response,
}

/// Every address that a listener answers.
pub fn routes(
    part: Part,
    registry: Registry,
    streams: Streams,
    limits: Limits,
    authenticator: Arc<Authenticator>,
    metrics: Arc<Metrics>,
    stopping: CancellationToken,
) -> BoxedFilter<(Response,)> {
    let mut table = table(registry, &streams, limits, authenticator, metrics.clone(), stopping);
    table.retain(|line| part.has(line.template));
    let known = table.iter().map(|line| (line.methods, metrics.requests.route(line.template)));
    // What no line takes counts among what the last one of the whole table has not found.
    let known = known.chain(std::iter::once(("", metrics.requests.route(ANY_FILE))));
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
            let response = without_body_for_head(&method, response);
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
