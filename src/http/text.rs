//! `/docs/{doc}/text`: the text of a document, for those without a CRDT library.

use bytes::Bytes;
use warp::Filter;
use warp::http::{Method, StatusCode};

use crate::ids::Sequence;
use crate::registry::Registry;

use super::error::ApiError;
use super::route::{
    Request, Response, Route, bytes_response, empty, parse_document_id, request, respond, set_header, tag,
};

/// The root that is meant where none is named.
pub const ROOT: &str = "text";
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

pub fn route(registry: Registry) -> Route {
    warp::path!("docs" / String / "text")
        .and(request())
        .then(move |id: String, request| handle(id, request, registry.clone()))
        .map(respond)
        .boxed()
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
    let id = parse_document_id(&id)?;
    request.accepts(&["text/plain"], PLAIN_TEXT)?;
    let root = request.query.get("root").unwrap_or(ROOT);
    let at = request.query.number("at", 0..=u64::MAX >> 11)?.map(Sequence::new);
    let document = registry.find(&id).await?;
    let (epoch, sequence, text) = match at {
        Some(at) => document.text_at(at, root).await?,
        None => document.text(root).await?,
    };
    let tag = tag(epoch, sequence);
    let mut response = if request.has_tag(&tag) {
        empty(StatusCode::NOT_MODIFIED)
    } else {
        bytes_response(PLAIN_TEXT, Bytes::from(text))
    };
    set_header(&mut response, "etag", &tag);
    set_header(&mut response, "cache-control", "no-cache");
    Ok(response)
}
