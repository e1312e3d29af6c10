//! What every route needs of a request: its parts, its query, its body, what it accepts.
//!
//! Filters extract; plain functions decide. A rejection means "not my route", so what is wrong with
//! a request is an `ApiError`, turned into an answer in one place.

use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use warp::filters::BoxedFilter;
use warp::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use warp::{Filter, Rejection};

use crate::auth::access::Level;
use crate::auth::grant::{Caller, Grant, GrantOfAll};
use crate::ids::{ClientId, DocumentId, Epoch, Sequence, VersionName};

use super::encoding::{decode_base64, decode_base64_in_query};
use super::error::ApiError;
use super::sender::Sender;
use super::waiting::Write;

pub type Response = warp::reply::Response;
/// One resource of the URL table, boxed: flat types, fast builds.
pub type Route = BoxedFilter<(Response,)>;

/// Longest address, path and query together, in bytes.
const URI_BYTES_MAX: usize = 32 << 10;
pub const JSON: &str = "application/json";
pub const OCTETS: &str = "application/octet-stream";
/// What curl says of any body unless it is told otherwise.
const FORM: &str = "application/x-www-form-urlencoded";
const IDEMPOTENCY_KEY: &str = "idempotency-key";
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, String>> + Send>>;

/// A request, taken apart. Behind a pointer, since it goes through many futures: each would have room for
/// it, and what is larger than a kilobyte is slow to allocate.
pub struct Request(Box<Parts>);

pub struct Parts {
    pub method: Method,
    sender: Sender,
    /// From the first byte of the body on.
    waiting: Option<Write>,
    body_bytes: usize,
    pub headers: HeaderMap,
    pub query: Query,
    /// A request is shared between threads as a whole; its body is read by one.
    body: Mutex<BodyStream>,
}

/// Limits on what a request may bring.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimit {
    pub bytes_max: usize,
    pub time_max: Duration,
}

/// Extracts the whole request; stands after the path in every route.
pub fn request() -> impl Filter<Extract = (Result<Request, ApiError>,), Error = Rejection> + Clone {
    warp::method()
        .and(warp::header::headers_cloned())
        .and(warp::path::full())
        .and(warp::query::raw().or(warp::any().map(String::new)).unify())
        .and(warp::ext::optional::<Sender>())
        .and(warp::body::stream())
        .map(|method, headers, path: warp::path::FullPath, query: String, sender: Option<Sender>, body| {
            if path.as_str().len() + query.len() > URI_BYTES_MAX {
                return Err(ApiError::UriTooLong { limit: URI_BYTES_MAX });
            }
            let (query, body) = (Query::parse(&query), Mutex::new(own_body(body)));
            let sender = sender.unwrap_or_default();
            Ok(Request(Box::new(Parts {
                method,
                headers,
                query,
                sender,
                waiting: None,
                body_bytes: 0,
                body,
            })))
        })
}

impl Deref for Request {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl DerefMut for Request {
    fn deref_mut(&mut self) -> &mut Parts {
        &mut self.0
    }
}

fn own_body<B: Buf, E: std::fmt::Display>(
    body: impl Stream<Item = Result<B, E>> + Send + 'static,
) -> BodyStream {
    Box::pin(body.map(|chunk| match chunk {
        Ok(mut chunk) => Ok(chunk.copy_to_bytes(chunk.remaining())),
        Err(error) => Err(error.to_string()),
    }))
}

/// Turns what a handler decided into an answer.
pub fn respond(result: Result<Response, ApiError>) -> Response {
    result.unwrap_or_else(ApiError::into_response)
}

impl Request {
    /// Who asks.
    ///
    /// # Errors
    /// `Unauthorized`.
    pub fn caller(&self) -> Result<&Caller, ApiError> {
        self.sender.caller.as_ref().map_err(|error| ApiError::Unauthorized(error.clone()))
    }

    /// What stands for its address where senders are counted.
    pub fn address(&self) -> Option<IpAddr> {
        self.sender.counted_address()
    }

    /// # Errors
    /// `TooManyRequests`.
    pub fn take_client_update(&self, client_id: &ClientId) -> Result<(), ApiError> {
        self.sender.take_client_update(client_id, self.body_bytes)
    }

    /// How long whoever asks has to wait before a document can be created; `None`: not at all.
    pub fn creation_wait(&self, now: Instant) -> Option<Duration> {
        self.sender.creation_wait(now)
    }

    /// Whoever asks has created a document.
    pub fn take_creation(&self, now: Instant) {
        self.sender.take_creation(now);
    }

    /// Permission to do with a document what `L` says. `id`: a path segment, still percent-encoded.
    ///
    /// # Errors
    /// `Unauthorized`, `InvalidDocumentId`, `Forbidden`, in this order.
    pub fn grant<L: Level>(&self, id: &str) -> Result<Grant<L>, ApiError> {
        let caller = self.caller()?;
        Ok(caller.grant(parse_document_id(id)?)?)
    }

    /// Permission to do everything with all documents whose ids begin with `prefix`.
    ///
    /// # Errors
    /// `Unauthorized`, `Forbidden`.
    pub fn grant_of_all(&self, prefix: &str) -> Result<GrantOfAll, ApiError> {
        Ok(self.caller()?.grant_of_all(prefix)?)
    }

    /// The body, counted while it arrives.
    ///
    /// # Errors
    /// `TooLarge` as soon as it is known, `BodyTooSlow`, `BodyBroken`.
    pub async fn body(&mut self, what: &'static str, limit: BodyLimit) -> Result<Bytes, ApiError> {
        let too_large = || ApiError::TooLarge { what, limit: limit.bytes_max, body_pending: true };
        let declared = self.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        if declared
            .and_then(|length| length.parse::<u64>().ok())
            .is_some_and(|length| length > limit.bytes_max as u64)
        {
            return Err(too_large());
        }
        let Parts { body, sender, waiting, body_bytes, .. } = &mut *self.0;
        let body = body.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut write = sender.enter()?;
        let mut admit = |chunk: &Bytes, before: usize| {
            if before + chunk.len() > limit.bytes_max {
                return Err(too_large());
            }
            *body_bytes = before + chunk.len();
            write.as_mut().map_or(Ok(()), |write| write.grow(chunk.len()))
        };
        let read = async {
            let Some(first) = body.next().await else { return Ok(Bytes::new()) };
            let first = first.map_err(ApiError::BodyBroken)?;
            admit(&first, 0)?;
            let Some(second) = body.next().await else { return Ok(first) };
            let mut whole = BytesMut::from(first);
            let mut chunk = second.map_err(ApiError::BodyBroken)?;
            loop {
                admit(&chunk, whole.len())?;
                whole.extend_from_slice(&chunk);
                chunk = match body.next().await {
                    Some(next) => next.map_err(ApiError::BodyBroken)?,
                    None => return Ok(whole.freeze()),
                };
            }
        };
        let seconds = limit.time_max.as_secs();
        let read: Result<Result<Bytes, ApiError>, _> = tokio::time::timeout(limit.time_max, read).await;
        let body = read.map_err(|_| ApiError::BodyTooSlow { seconds })??;
        sender.take_update(body.len())?;
        *waiting = write;
        Ok(body)
    }

    /// The next piece of a body of any length; `None` at its end.
    ///
    /// # Errors
    /// `BodyTooSlow` if it takes longer than `time_max`, `BodyBroken`.
    pub async fn next_piece(&mut self, time_max: Duration) -> Result<Option<Bytes>, ApiError> {
        let body = self.body.get_mut().unwrap_or_else(PoisonError::into_inner);
        let seconds = time_max.as_secs();
        let piece = tokio::time::timeout(time_max, body.next());
        let piece = piece.await.map_err(|_| ApiError::BodyTooSlow { seconds })?;
        piece.transpose().map_err(ApiError::BodyBroken)
    }

    /// A JSON object, or nothing at all, which stands for an empty one.
    ///
    /// # Errors
    /// `UnsupportedMediaType`, `InvalidJson`, those of `body`.
    pub async fn json_or_nothing<T: DeserializeOwned + Default>(
        &mut self,
        limit: BodyLimit,
    ) -> Result<T, ApiError> {
        self.expect_json_body()?;
        let body = self.body("the body", limit).await?;
        if body.iter().all(u8::is_ascii_whitespace) { Ok(T::default()) } else { parse_json(&body) }
    }

    /// Which of the two body types that carry an update this request has; JSON if it does not say.
    ///
    /// # Errors
    /// `UnsupportedMediaType`.
    pub fn body_is_octets(&self) -> Result<bool, ApiError> {
        match self.content_type() {
            None => Ok(false),
            Some(given) if given.eq_ignore_ascii_case(JSON) => Ok(false),
            Some(given) if given.eq_ignore_ascii_case(OCTETS) => Ok(true),
            Some(_) => Err(ApiError::UnsupportedMediaType {
                expected: "application/json or application/octet-stream",
            }),
        }
    }

    /// # Errors
    /// `UnsupportedMediaType` if the body says to be anything but JSON.
    pub fn expect_json_body(&self) -> Result<(), ApiError> {
        match self.content_type() {
            Some(given) if !given.eq_ignore_ascii_case(JSON) => {
                Err(ApiError::UnsupportedMediaType { expected: JSON })
            }
            _ => Ok(()),
        }
    }

    /// # Errors
    /// `UnsupportedMediaType` if the body says to be none of `allowed`; `described` lists them.
    pub fn expect_body_of(&self, allowed: &[&str], described: &'static str) -> Result<(), ApiError> {
        match self.content_type() {
            Some(given) if !allowed.iter().any(|allowed| given.eq_ignore_ascii_case(allowed)) => {
                Err(ApiError::UnsupportedMediaType { expected: described })
            }
            _ => Ok(()),
        }
    }

    fn content_type(&self) -> Option<&str> {
        let value = self.headers.get(header::CONTENT_TYPE)?;
        // What is no text is no type that is known here either.
        let text = value.to_str().unwrap_or("?");
        Some(text.split(';').next().unwrap_or(text).trim())
    }

    /// The first of `offered` that the request accepts best.
    ///
    /// # Errors
    /// `NotAcceptable` if it accepts none; `described` lists them.
    pub fn accepts(
        &self,
        offered: &[&'static str],
        described: &'static str,
    ) -> Result<&'static str, ApiError> {
        let accept: Vec<&str> =
            self.headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
        best_accepted(&accept.join(","), offered).ok_or(ApiError::NotAcceptable { offered: described })
    }

    /// What a reader of a stream has seen already, in its own words; nonsense counts as absent, since an `EventSource`
    /// would give up for good on a 400.
    pub fn since(&self) -> Option<&str> {
        let last_event_id = self.headers.get("last-event-id").map(|value| value.to_str().unwrap_or(""));
        last_event_id.or_else(|| self.query.get("since"))
    }

    /// Whether the caller's copy, by its `If-None-Match`, is the one with this tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(
            |value| {
                value
                    .split(',')
                    .map(str::trim)
                    .any(|given| given == "*" || given.trim_start_matches("W/") == tag)
            },
        )
    }
}

/// RFC 9110, section 12.5.1: the most specific range that fits decides the weight.
fn best_accepted(accept: &str, offered: &[&'static str]) -> Option<&'static str> {
    if accept.trim().is_empty() {
        return offered.first().copied();
    }
    let weight = |media: &str| {
        let (kind, _) = media.split_once('/')?;
        let ranges = accept.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next()?.to_ascii_lowercase();
            let specificity = match name.as_str() {
                "*/*" | "*" => 1,
                name if name == media => 3,
                name if name.strip_suffix("/*") == Some(kind) => 2,
                _ => return None,
            };
            let quality =
                parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse::<f32>().ok());
            Some((specificity, quality.unwrap_or(0.0)))
        });
        ranges.max_by_key(|(specificity, _)| *specificity).map(|(_, quality)| quality)
    };
    let mut best: Option<(&'static str, f32)> = None;
    for media in offered {
        let quality = weight(media).unwrap_or(0.0);
        if quality > best.map_or(0.0, |(_, quality)| quality) {
            best = Some((media, quality));
        }
    }
    best.map(|(media, _)| media)
}

impl Request {
    /// # Errors
    /// `UnsupportedMediaType` if the body says to be anything but text in UTF-8, bytes, or what curl calls every body.
    pub fn expect_text_body(&self) -> Result<(), ApiError> {
        let expected = "text/plain in UTF-8, or application/octet-stream";
        let unsupported = Err(ApiError::UnsupportedMediaType { expected });
        let Some(given) = self.content_type() else { return Ok(()) };
        let given = given.to_ascii_lowercase();
        if given != OCTETS && given != FORM && !given.starts_with("text/") {
            return unsupported;
        }
        let charset = self.content_type_parameter("charset");
        let is_utf8 = |charset: &str| ["utf-8", "utf8", "us-ascii"].contains(&charset);
        if charset.is_none_or(|charset| is_utf8(&charset)) { Ok(()) } else { unsupported }
    }

    /// In lower case, without quotes.
    fn content_type_parameter(&self, name: &str) -> Option<String> {
        let value = self.headers.get(header::CONTENT_TYPE)?.to_str().ok()?.to_ascii_lowercase();
        let parameters = value.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
        let mut values = parameters.filter(|(given, _)| given.trim() == name).map(|(_, value)| value);
        Some(values.next()?.trim().trim_matches('"').to_owned())
    }

    /// The name that the caller gave the request so that it is carried out only once.
    ///
    /// # Errors
    /// `InvalidParameter`.
    pub fn idempotency_key(&self) -> Result<Option<String>, ApiError> {
        let Some(given) = self.headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
        match given.to_str() {
            Ok(key) if (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()) => Ok(Some(key.to_owned())),
            _ => Err(ApiError::InvalidParameter {
                parameter: IDEMPOTENCY_KEY,
                expected: format!("1 to {IDEMPOTENCY_KEY_BYTES_MAX} characters of ASCII"),
            }),
        }
    }
}

/// The parameters of a query string.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// A `+` is a space as in every form, except in `sv`, where base64 has it.
    fn parse(raw: &str) -> Self {
        let mut parameters = Vec::new();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let kept;
            let pair = if pair.starts_with("sv=") && pair.contains('+') {
                kept = pair.replace('+', "%2B");
                &kept
            } else {
                pair
            };
            parameters.extend(form_urlencoded::parse(pair.as_bytes()).into_owned());
        }
        Self(parameters)
    }

    /// Names and values, in the order in which they were given.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// Every value of a parameter that may be given several times.
    pub fn get_all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// # Errors
    /// `InvalidClientId`.
    pub fn client_id(&self) -> Result<Option<ClientId>, ApiError> {
        self.get("client_id").map(parse_client_id).transpose()
    }

    /// A whole number of the range.
    ///
    /// # Errors
    /// `InvalidParameter`.
    pub fn number(
        &self,
        parameter: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>, ApiError> {
        let Some(raw) = self.get(parameter) else { return Ok(None) };
        let digits = !raw.is_empty() && raw.bytes().all(|byte| byte.is_ascii_digit());
        match raw.parse() {
            Ok(number) if digits && range.contains(&number) => Ok(Some(number)),
            _ => Err(ApiError::InvalidParameter {
                parameter,
                expected: format!("a whole number from {} to {}", range.start(), range.end()),
            }),
        }
    }

    /// `0` or `1`; `false` if it is left out.
    ///
    /// # Errors
    /// `InvalidParameter`.
    pub fn flag(&self, parameter: &'static str) -> Result<bool, ApiError> {
        Ok(self.number(parameter, 0..=1)? == Some(1))
    }

    /// The checked state vector in `sv`.
    ///
    /// # Errors
    /// `InvalidBase64`, `InvalidStateVector`.
    pub fn state_vector(&self) -> Result<Option<Bytes>, ApiError> {
        let Some(raw) = self.get("sv") else { return Ok(None) };
        let bytes = decode_base64_in_query(raw)
            .map_err(|error| ApiError::InvalidBase64 { field: "sv", reason: error.to_string() })?;
        check_state_vector(bytes).map(Some)
    }
}

/// # Errors
/// `InvalidBase64`.
pub fn parse_base64(field: &'static str, text: &str) -> Result<Bytes, ApiError> {
    decode_base64(text)
        .map(Bytes::from)
        .map_err(|error| ApiError::InvalidBase64 { field, reason: error.to_string() })
}

/// # Errors
/// `InvalidStateVector`.
pub fn check_state_vector(bytes: Vec<u8>) -> Result<Bytes, ApiError> {
    crate::document::check_state_vector(&bytes)
        .map_err(|error| ApiError::InvalidStateVector { field: "sv", reason: error.to_string() })?;
    Ok(bytes.into())
}

/// `raw`: a path segment, still percent-encoded.
///
/// # Errors
/// `InvalidDocumentId`.
pub fn parse_document_id(raw: &str) -> Result<DocumentId, ApiError> {
    parse_document_id_in_query(&decode_segment(raw))
}

/// `raw`: decoded.
///
/// # Errors
/// `InvalidDocumentId`.
pub fn parse_document_id_in_query(raw: &str) -> Result<DocumentId, ApiError> {
    raw.parse().map_err(|error: crate::ids::InvalidId| ApiError::InvalidDocumentId {
        given: shortened(raw),
        reason: error.to_string(),
    })
}

/// `raw`: as it stands in a body.
///
/// # Errors
/// `InvalidVersionName`.
pub fn parse_version_name(raw: &str) -> Result<VersionName, ApiError> {
    raw.parse().map_err(|error: crate::ids::InvalidVersionName| ApiError::InvalidVersionName {
        given: shortened(raw),
        reason: error.to_string(),
    })
}

/// # Errors
/// `InvalidClientId`.
pub fn parse_client_id(raw: &str) -> Result<ClientId, ApiError> {
    raw.parse().map_err(|error: crate::ids::InvalidId| ApiError::InvalidClientId {
        given: shortened(raw),
        reason: error.to_string(),
    })
}

/// A path segment, decoded once. What is no UTF-8 turns into something that no id allows.
pub fn decode_segment(raw: &str) -> String {
    percent_encoding::percent_decode_str(raw).decode_utf8_lossy().into_owned()
}

/// What a caller gave, short enough to be shown to it.
fn shortened(text: &str) -> String {
    const CHARACTERS_MAX: usize = 80;
    match text.char_indices().nth(CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// `<epoch>.<seq>`, as in an event's id and in an ETag.
pub fn parse_position(raw: &str) -> Option<(Epoch, Sequence)> {
    let (epoch, sequence) = raw.split_once('.')?;
    Some((epoch.parse().ok()?, Sequence::new(sequence.parse().ok()?)))
}

/// The entity tag of a document at one sequence.
pub fn tag(epoch: Epoch, sequence: Sequence) -> String {
    format!("\"{epoch}.{sequence}\"")
}

/// Parses a JSON object; `null` is like left out where the fields are `Option`s.
///
/// # Errors
/// `InvalidJson`.
pub fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // Serde would take an array for a struct, field by field.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(ApiError::InvalidJson { reason: "an object is expected".into() });
    }
    serde_json::from_slice(body).map_err(|error| ApiError::InvalidJson { reason: error.to_string() })
}

/// # Errors
/// `InvalidJson` that names the field.
pub fn required<T>(field: &'static str, value: Option<T>) -> Result<T, ApiError> {
    value.ok_or_else(|| ApiError::InvalidJson { reason: format!("`{field}` is missing") })
}

/// 200 with a JSON body.
pub fn json(value: &impl Serialize) -> Response {
    let body =
        serde_json::to_vec(value).expect("answers are made of strings, numbers, lists and named fields");
    bytes_response(JSON, Bytes::from(body))
}

/// A JSON body under another status than 200.
pub fn json_with(status: StatusCode, value: &impl Serialize) -> Response {
    let mut response = json(value);
    *response.status_mut() = status;
    response
}

/// 200 with a body of the given type.
pub fn bytes_response(content_type: &'static str, body: Bytes) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Bytes::new().into());
    *response.status_mut() = status;
    response
}

/// A header whose value is made of characters that headers may have.
pub fn set_header(response: &mut Response, name: &'static str, value: &str) {
    let value = HeaderValue::from_str(value).expect("epochs, numbers and base64 are visible ASCII");
    response.headers_mut().insert(name, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plus_in_sv_is_a_plus_and_elsewhere_a_space() {
        let query = Query::parse("sv=A+B%2B%2F&label=a+b");
        assert_eq!(query.get("sv"), Some("A+B+/"));
        assert_eq!(query.get("label"), Some("a b"));
    }

    #[test]
    fn the_best_accepted_type_is_the_heaviest_then_the_first_offered() {
        let offered = [JSON, OCTETS];
        assert_eq!(best_accepted("", &offered), Some(JSON));
        assert_eq!(best_accepted("*/*", &offered), Some(JSON));
        assert_eq!(best_accepted("application/octet-stream", &offered), Some(OCTETS));
        assert_eq!(best_accepted("application/octet-stream, */*;q=0.1", &offered), Some(OCTETS));
        assert_eq!(best_accepted("application/json;q=0, */*", &offered), Some(OCTETS));
        assert_eq!(best_accepted("text/html", &offered), None);
        assert_eq!(best_accepted("application/*", &offered), Some(JSON));
    }

    #[test]
    fn a_path_segment_is_decoded_once() {
        assert_eq!(parse_document_id("%41b").expect("%41 is A").as_str(), "Ab");
        assert!(parse_document_id("a%252e").is_err());
        assert!(parse_document_id("a%2Fb").is_err());
        assert!(parse_document_id("a%ff").is_err());
    }

    #[test]
    fn an_array_is_no_object() {
        #[derive(Debug, serde::Deserialize)]
        struct Body {
            _update: Option<String>,
        }
        assert!(parse_json::<Body>(br#"["AAA="]"#).is_err());
        assert!(parse_json::<Body>(br#" {"other": 1}"#).is_ok());
    }
}
