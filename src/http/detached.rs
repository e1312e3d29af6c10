//! Cuts a request loose from the buffer that it was read into.
//!
//! hyper parses in place: address and headers are slices of its read buffer of 8 KiB, and while one of
//! them lives, the next look at the socket takes a new buffer. That look comes while a handler waits
//! for its document, so each request cost a buffer, taken and given back, and each stream left a hole.

use warp::http::uri::PathAndQuery;
use warp::http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header};

/// The headers that handlers read. No other is copied: for a handler, a header that is not in this list is never there.
const READ_HEADERS: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::ACCEPT,
    header::IF_NONE_MATCH,
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("idempotency-key"),
];

/// The request as handlers see it, with copies of what they read in place of slices. The body stays.
pub fn detached<B>(request: Request<B>) -> Request<B> {
    let (parts, body) = request.into_parts();
    let mut detached = Request::new(body);
    *detached.uri_mut() = detached_address(&parts.uri);
    *detached.version_mut() = parts.version;
    *detached.headers_mut() = detached_headers(&parts.headers);
    *detached.method_mut() = parts.method;
    detached
}

/// Path and query. An address without a query gets an empty one, since warp's filter for it makes a
/// rejection, at some cost, where there is none.
fn detached_address(uri: &Uri) -> Uri {
    let Some(address) = uri.path_and_query() else { return uri.clone() };
    let mut copy = String::with_capacity(address.as_str().len() + 1);
    copy.push_str(address.as_str());
    if address.query().is_none() {
        copy.push('?');
    }
    // An address of the greatest length has no room for the question mark.
    PathAndQuery::try_from(copy).map_or_else(|_| uri.clone(), Uri::from)
}

fn detached_headers(headers: &HeaderMap) -> HeaderMap {
    let mut detached = HeaderMap::with_capacity(READ_HEADERS.len());
    for (name, value) in headers {
        if READ_HEADERS.contains(name)
            && let Ok(copy) = HeaderValue::from_bytes(value.as_bytes())
        {
            detached.append(name.clone(), copy);
        }
    }
    detached
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_see_the_address_and_every_value_of_the_headers_that_they_read() {
        let request = Request::post("http://host/docs/a%20b/state?sv=AA%3D%3D&at=1")
            .header("accept", "application/json")
            .header("accept", "*/*;q=0.1")
            .header("last-event-id", &b"caf\xe9"[..])
            .header("cookie", "not read")
            .body("body")
            .expect("a request");
        let detached = detached(request);
        assert_eq!(detached.method(), "POST");
        assert_eq!(detached.uri(), "/docs/a%20b/state?sv=AA%3D%3D&at=1");
        let accepted: Vec<_> = detached.headers().get_all("accept").iter().collect();
        assert_eq!(accepted, ["application/json", "*/*;q=0.1"]);
        assert_eq!(detached.headers()["last-event-id"].as_bytes(), b"caf\xe9");
        assert_eq!(detached.headers().len(), 3);
        assert_eq!(*detached.body(), "body");
    }

    #[test]
    fn an_address_without_a_query_keeps_its_path() {
        for address in ["/", "/docs/a/state", "*", "/a?"] {
            let before: Uri = address.parse().expect("an address");
            let after = detached_address(&before);
            assert_eq!(after.path(), before.path());
            assert_eq!(after.query().unwrap_or_default(), before.query().unwrap_or_default());
        }
        let longest: Uri = format!("/{}", "a".repeat(65_533)).parse().expect("an address");
        assert_eq!(detached_address(&longest), longest);
    }
}
