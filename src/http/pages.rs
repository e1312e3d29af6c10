//! The pages and the JavaScript modules in `public/`, carried inside a release binary.

use bytes::Bytes;
use rust_embed::RustEmbed;
use warp::Filter;
use warp::http::{Method, StatusCode, header::HeaderValue};

use super::error::ApiError;
use super::route::{
    Request, Response, Route, bytes_response, decode_segment, empty, request, respond, set_header,
};

#[derive(RustEmbed)]
#[folder = "$CARGO_MANIFEST_DIR/public/"]
#[exclude = "node_modules/*"]
#[exclude = "package*.json"]
#[exclude = "tsconfig*.json"]
#[exclude = "*.md"]
#[exclude = "vendor.mjs"]
struct Public;

const INDEX: &str = "index.html";
const DEMO: &str = "demo/crdt-sync.html";
const MISSING_PACKAGES: &str = "The npm packages of the pages are missing. Run: npm --prefix public ci\n";

pub fn index() -> Route {
    warp::path::end().and(request()).then(|request| page(INDEX.into(), request)).map(respond).boxed()
}

pub fn demo() -> Route {
    warp::path!("demo" / "crdt-sync")
        .and(request())
        .then(|request| page(DEMO.into(), request))
        .map(respond)
        .boxed()
}

/// The demo page, on a document that the path names; the page reads the name from its address.
pub fn conversation() -> Route {
    warp::path!("conversation" / String)
        .and(request())
        .then(|id: String, request| async move {
            super::route::parse_document_id(&id)?;
            page(DEMO.into(), request).await
        })
        .map(respond)
        .boxed()
}

/// Any other file of `public/`.
pub fn files() -> Route {
    warp::path::tail()
        .and(request())
        .then(|tail: warp::path::Tail, request| page(decode_segment(tail.as_str()), request))
        .map(respond)
        .boxed()
}

async fn page(path: String, request: Result<Request, ApiError>) -> Result<Response, ApiError> {
    let request = request?;
    let Some(file) = Public::get(&path) else {
        if path.starts_with("vendor/") {
            let mut response =
                bytes_response("text/plain; charset=utf-8", Bytes::from_static(MISSING_PACKAGES.as_bytes()));
            *response.status_mut() = StatusCode::NOT_FOUND;
            return Ok(response);
        }
        return Err(ApiError::PathNotFound);
    };
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(ApiError::MethodNotAllowed { allow: "GET, HEAD" });
    }
    let hash = file.metadata.sha256_hash();
    let tag = format!("\"{:016x}\"", u64::from_be_bytes(hash[..8].try_into().expect("a hash has 32 bytes")));
    let mut response = if request.has_tag(&tag) {
        empty(StatusCode::NOT_MODIFIED)
    } else {
        let body = match file.data {
            std::borrow::Cow::Borrowed(embedded) => Bytes::from_static(embedded),
            std::borrow::Cow::Owned(read) => Bytes::from(read),
        };
        let mut response = Response::new(body.into());
        let media = mime_guess::from_path(&path).first_or_octet_stream();
        let text = media.type_() == "text" || media.subtype() == "javascript";
        let content_type =
            if text { format!("{}; charset=utf-8", media.essence_str()) } else { media.to_string() };
        if let Ok(value) = HeaderValue::from_str(&content_type) {
            response.headers_mut().insert("content-type", value);
        }
        response
    };
    set_header(&mut response, "etag", &tag);
    // The names of shared chunks are made of their content; all other names stay when content changes.
    let immutable = path.starts_with("vendor/chunk-");
    let cache = if immutable { "public, max-age=31536000, immutable" } else { "no-cache" };
    set_header(&mut response, "cache-control", cache);
    Ok(response)
}
