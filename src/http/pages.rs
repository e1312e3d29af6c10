//! The pages and the JavaScript modules in `public/`, carried inside a release binary.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rust_embed::RustEmbed;
use sha2::{Digest, Sha256};
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
    let policy = path.ends_with(".html").then(|| policy(&file.data));
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
    if let Some(policy) = policy {
        set_header(&mut response, "content-security-policy", &policy);
    }
    set_header(&mut response, "etag", &tag);
    // The names of shared chunks are made of their content; all other names stay when content changes.
    let immutable = path.starts_with("vendor/chunk-");
    let cache = if immutable { "public, max-age=31536000, immutable" } else { "no-cache" };
    set_header(&mut response, "cache-control", cache);
    Ok(response)
}

/// What a page may load and do: this server's files and addresses, and of what stands in the page itself its import map,
/// which can be nowhere else. A form that no script takes care of goes nowhere: it may hold a token.
fn policy(page: &[u8]) -> String {
    let scripts: String = import_maps(&String::from_utf8_lossy(page))
        .map(|map| format!(" 'sha256-{}'", STANDARD.encode(Sha256::digest(map))))
        .collect();
    format!(
        "default-src 'self'; script-src 'self'{scripts}; object-src 'none'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    )
}

fn import_maps(page: &str) -> impl Iterator<Item = &str> {
    page.split("<script type=\"importmap\">").skip(1).filter_map(|rest| Some(rest.split_once("</script>")?.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_names_the_import_map_and_no_other_script() {
        let page = b"<script type=\"importmap\">{}</script><script>alert(1)</script>";
        // printf '{}' | openssl dgst -sha256 -binary | base64
        let map = "'sha256-RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o='";
        let policy = policy(page);
        assert!(policy.contains(&format!("script-src 'self' {map};")), "{policy}");
        assert_eq!(policy.matches("sha256-").count(), 1);
        assert!(!policy.contains("unsafe"));
    }
}
