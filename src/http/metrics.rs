//! `/metrics`: what an operator's monitoring asks for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Mutex;
use warp::Filter;
use warp::http::{Method, StatusCode};

use crate::metrics::{self, Format, Metrics, Now, Size};
use crate::registry::Registry;

use super::error::ApiError;
use super::events::Streams;
use super::health::check_writable;
use super::route::{Request, Response, Route, bytes_response, request, respond, set_header};

const PROMETHEUS: &str = "text/plain";
/// How long a count of what is stored is good.
const COUNTED_EVERY: Duration = Duration::from_secs(10);
const OPEN_METRICS: &str = "application/openmetrics-text";

pub fn route(registry: Registry, streams: Streams, metrics: Arc<Metrics>) -> Route {
    let stored = Arc::new(Mutex::new(None));
    warp::path!("metrics")
        .and(request())
        .then(move |request| {
            handle(request, registry.clone(), streams.clone(), metrics.clone(), stored.clone())
        })
        .map(respond)
        .boxed()
}

async fn handle(
    request: Result<Request, ApiError>,
    registry: Registry,
    streams: Streams,
    metrics: Arc<Metrics>,
    stored: Arc<Mutex<Option<(Instant, Size)>>>,
) -> Result<Response, ApiError> {
    let request = request?;
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(ApiError::MethodNotAllowed { allow: "GET, HEAD" });
    }
    request.grant_of_all("")?;
    let described = "text/plain or application/openmetrics-text";
    let open_metrics = request.accepts(&[PROMETHEUS, OPEN_METRICS], described)? == OPEN_METRICS;
    let now = Now {
        open_documents: registry.open_count(),
        resident_bytes: registry.resident_bytes(),
        open_streams: streams.open_count(),
        store_is_writable: check_writable(&registry).await.is_ok(),
        stored: counted(&registry, &stored).await,
    };
    let (format, content_type) = if open_metrics {
        (Format::OpenMetrics, "application/openmetrics-text; version=1.0.0; charset=utf-8")
    } else {
        (Format::Prometheus, "text/plain; version=0.0.4; charset=utf-8")
    };
    let mut response = bytes_response(content_type, Bytes::from(metrics.encode(format, now)));
    set_header(&mut response, "cache-control", "no-store");
    set_header(&mut response, "vary", "accept");
    Ok(response)
}

/// What the store holds. Counting takes time where it is much, so one count is good for a while.
async fn counted(registry: &Registry, known: &Mutex<Option<(Instant, Size)>>) -> Option<Size> {
    let mut known = known.lock().await;
    if known.is_none_or(|(since, _)| since.elapsed() >= COUNTED_EVERY) {
        let stored = registry.size().await.ok()?;
        *known = Some((Instant::now(), stored));
    }
    known.map(|(_, stored)| stored)
}

/// The code of a problem, for whoever counts answers.
#[derive(Debug, Clone, Copy)]
pub struct Code(pub &'static str);

/// Counts one answer.
pub fn count(route: &metrics::Route, method: &Method, response: &Response, time: std::time::Duration) {
    let method = match *method {
        Method::GET => metrics::Method::Get,
        Method::HEAD => metrics::Method::Head,
        Method::POST => metrics::Method::Post,
        Method::PUT => metrics::Method::Put,
        Method::PATCH => metrics::Method::Patch,
        Method::DELETE => metrics::Method::Delete,
        _ => metrics::Method::Other,
    };
    let status = response.status();
    let code = (status >= StatusCode::BAD_REQUEST).then(|| response.extensions().get::<Code>()).flatten();
    route.answered(method, status.as_u16(), code.map(|code| code.0), time);
}
