//! What pages of other origins may do: nothing, unless their origin is on a list.
//!
//! A browser lets any page send requests, with the cookies of whoever sits before it; it only keeps the answers from the
//! page. So a request of a page of another origin is refused here if it writes, or if a cookie says who sends it: reading
//! has effects too, such as an event stream, which others see in the list of clients and which counts as its user's. A token
//! in a header is proof enough that the browser was asked first (a preflight).
//!
//! Sources: the Fetch standard, <https://fetch.spec.whatwg.org/#http-cors-protocol>, and
//! <https://cheatsheetseries.owasp.org/cheatsheets/Cross-Site_Request_Forgery_Prevention_Cheat_Sheet.html>.

use warp::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};

use super::error::ApiError;
use super::route::{Response, empty};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";
const HEADERS: &str = "authorization, content-type, idempotency-key, if-none-match, last-event-id";
const EXPOSED: &str = "document-epoch, document-seq, state-vector, etag, retry-after";
/// How long a browser may remember what it was told in a preflight, in seconds.
const MAX_AGE: &str = "600";

/// Which origins may use this server from their pages.
#[derive(Debug, Clone, Default)]
pub struct CrossOrigin {
    /// As browsers send them: `https://app.example.org`.
    pub origins: Vec<String>,
    /// Every origin, and then without credentials.
    pub any: bool,
    /// Whether a browser may send cookies along.
    pub with_credentials: bool,
}

/// What is to be told to the browser about a request's origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Nothing,
    /// Answers differ by origin, and this one is not on the list.
    Varies,
    Allowed(HeaderValue),
}

impl CrossOrigin {
    /// What the answer to a request says of its origin.
    pub fn told(&self, headers: &HeaderMap) -> Told {
        if self.any {
            return Told::Allowed(HeaderValue::from_static("*"));
        }
        if self.origins.is_empty() {
            return Told::Nothing;
        }
        match headers.get(header::ORIGIN) {
            Some(origin) if self.lists(origin) => Told::Allowed(origin.clone()),
            _ => Told::Varies,
        }
    }

    fn lists(&self, origin: &HeaderValue) -> bool {
        origin.to_str().is_ok_and(|origin| self.origins.iter().any(|listed| listed == origin))
    }

    /// The answer to a preflight; `None`: it is none.
    pub fn preflight<B>(&self, request: &Request<B>) -> Option<Result<Response, ApiError>> {
        let headers = request.headers();
        let is_preflight = request.method() == Method::OPTIONS
            && headers.contains_key(header::ORIGIN)
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        is_preflight.then(|| {
            if !matches!(self.told(headers), Told::Allowed(_)) {
                return Err(ApiError::OriginNotAllowed);
            }
            let mut response = empty(StatusCode::NO_CONTENT);
            let set = response.headers_mut();
            set.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
            set.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(HEADERS));
            set.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
            Ok(response)
        })
    }

    /// `by_cookie`: nothing else says who sends it, so the page that had it sent may be anybody's.
    ///
    /// # Errors
    /// `OriginNotAllowed`: a page of another origin has sent it, and it writes or comes with a cookie.
    pub fn check<B>(&self, request: &Request<B>, by_cookie: bool) -> Result<(), ApiError> {
        let headers = request.headers();
        let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        // A link on another page leads here with its reader's cookie, and shows nothing to that page.
        let is_visit = headers.get(SEC_FETCH_DEST).is_some_and(|dest| dest == "document");
        if is_safe && (!by_cookie || is_visit) || headers.contains_key(header::AUTHORIZATION) {
            return Ok(());
        }
        let origin = headers.get(header::ORIGIN);
        let may = |origin| {
            if by_cookie {
                self.with_credentials && self.lists(origin)
            } else {
                self.any || self.lists(origin)
            }
        };
        if origin.is_some_and(may) {
            return Ok(());
        }
        let site = headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes);
        let is_own = match (site, origin) {
            (Some(b"same-origin" | b"none"), _) => true,
            (Some(b"cross-site" | b"same-site"), _) => false,
            (_, Some(origin)) => is_of_host(origin, request),
            // No browser sent it: those tell of writes where they come from.
            (_, None) => true,
        };
        if is_own { Ok(()) } else { Err(ApiError::OriginNotAllowed) }
    }

    /// Adds what the browser is to be told.
    pub fn tell(&self, told: Told, response: &mut Response) {
        let headers = response.headers_mut();
        if told != Told::Nothing && !self.any {
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        if let Told::Allowed(origin) = told {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
            if self.with_credentials {
                headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
        }
    }
}

/// Whether an origin is that of the address that was asked.
fn is_of_host<B>(origin: &HeaderValue, request: &Request<B>) -> bool {
    let origin = origin.to_str().unwrap_or_default();
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    authority.is_some() && authority == host(request)
}

/// The host and port that a request was sent to, as it says.
pub fn host<B>(request: &Request<B>) -> Option<&str> {
    // Over HTTP/2 it stands in the address.
    let of_address = request.uri().authority().map(|authority| authority.as_str());
    of_address.or_else(|| request.headers().get(header::HOST)?.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::post("/docs/a/updates").header("host", "grimoire.example:8080");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request")
    }

    fn listing(origin: &str) -> CrossOrigin {
        CrossOrigin { origins: vec![origin.into()], ..CrossOrigin::default() }
    }

    #[test]
    fn a_write_from_a_page_elsewhere_is_refused() {
        let closed = CrossOrigin::default();
        for headers in [
            &[("origin", "https://evil.example")][..],
            &[("origin", "null")],
            &[("origin", "http://grimoire.example")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site"), ("origin", "http://grimoire.example:8080")],
        ] {
            assert!(closed.check(&post(headers), false).is_err(), "{headers:?}");
        }
        let listing = listing("https://app.example");
        assert!(listing.check(&post(&[("origin", "https://app.example.evil")]), false).is_err());
        assert!(listing.check(&post(&[("origin", "https://APP.example")]), false).is_err());
    }

    #[test]
    fn a_write_from_here_or_from_no_page_is_taken() {
        let closed = CrossOrigin::default();
        for headers in [
            &[][..],
            &[("origin", "http://grimoire.example:8080")],
            &[("origin", "https://behind.a.proxy"), ("sec-fetch-site", "same-origin")],
            &[("origin", "https://evil.example"), ("authorization", "Bearer abc")],
        ] {
            assert!(closed.check(&post(headers), false).is_ok(), "{headers:?}");
        }
        let listed = [("origin", "https://app.example"), ("sec-fetch-site", "cross-site")];
        assert!(listing("https://app.example").check(&post(&listed), false).is_ok());
    }

    #[test]
    fn a_cookie_says_who_asks_for_pages_of_this_server_and_of_listed_origins_only() {
        let read = |origins: &CrossOrigin, headers: &[(&str, &str)]| {
            let mut request = post(headers);
            *request.method_mut() = Method::GET;
            origins.check(&request, true)
        };
        let app = [("origin", "https://app.example"), ("sec-fetch-site", "cross-site")];
        let with_cookies = CrossOrigin { with_credentials: true, ..listing("https://app.example") };
        assert!(read(&with_cookies, &app).is_ok());
        assert!(with_cookies.check(&post(&app), true).is_ok());
        let everybody = CrossOrigin { any: true, ..CrossOrigin::default() };
        for origins in [CrossOrigin::default(), listing("https://app.example"), everybody] {
            assert!(read(&origins, &app).is_err(), "{origins:?}");
            assert!(origins.check(&post(&app), true).is_err(), "{origins:?}");
            // As an image, or by a browser that says nothing else.
            assert!(read(&origins, &[("sec-fetch-site", "same-site"), ("sec-fetch-dest", "image")]).is_err());
            assert!(read(&origins, &[("origin", "null")]).is_err());
            assert!(
                read(&origins, &[("sec-fetch-site", "cross-site"), ("sec-fetch-dest", "document")]).is_ok()
            );
            assert!(
                read(&origins, &[("sec-fetch-site", "same-origin"), ("sec-fetch-dest", "empty")]).is_ok()
            );
            assert!(read(&origins, &[]).is_ok(), "no browser sent it");
        }
    }

    #[test]
    fn an_origin_that_is_not_listed_is_told_nothing_but_that_answers_vary() {
        let mut headers = HeaderMap::new();
        headers.insert("origin", HeaderValue::from_static("https://evil.example"));
        assert_eq!(CrossOrigin::default().told(&headers), Told::Nothing);
        assert_eq!(listing("https://app.example").told(&headers), Told::Varies);
    }
}
