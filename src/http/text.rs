//! `/docs/{doc}/text`: the text of a document, for those without a CRDT library.
//!
//! Reading is here, writing in `edits`.

pub mod edits;

use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use warp::Filter;
use warp::http::{Method, StatusCode};

use crate::auth::access::Read;
use crate::auth::grant::Grant;
use crate::document::handle::{Base, Document, DocumentError, Expected};
use crate::ids::Sequence;
use crate::registry::Registry;

use super::Limits;
use super::error::ApiError;
use super::route::{Request, Response, Route, bytes_response, empty, request, respond, set_header, tag};
use super::updates::expected_epoch;

/// The root that is meant where none is named.
pub const ROOT: &str = "text";
/// Longest name of a root, in bytes.
pub const ROOT_BYTES_MAX: usize = 255;
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";
/// How long to wait for a sequence, in seconds.
const WAIT_SECONDS: u64 = 10;
const WAIT_SECONDS_MAX: u64 = 30;

pub fn route(registry: Registry, limits: Limits, stopping: CancellationToken) -> Route {
    warp::path!("docs" / String / "text")
        .and(request())
        .then(move |id: String, request| handle(id, request, registry.clone(), limits, stopping.clone()))
        .map(respond)
        .boxed()
}

async fn handle(
    id: String,
    request: Result<Request, ApiError>,
    registry: Registry,
    limits: Limits,
    stopping: CancellationToken,
) -> Result<Response, ApiError> {
    let request = request?;
    match request.method {
        Method::GET | Method::HEAD => get(&id, &request, &registry, &stopping).await,
        Method::PUT => edits::put(&id, request, &registry, limits).await,
        Method::PATCH => edits::patch(&id, request, &registry, limits).await,
        _ => Err(ApiError::MethodNotAllowed { allow: "GET, HEAD, PATCH, PUT" }),
    }
}

async fn get(
    id: &str,
    request: &Request,
    registry: &Registry,
    stopping: &CancellationToken,
) -> Result<Response, ApiError> {
    let grant: Grant<Read> = request.grant(id)?;
    request.accepts(&["text/plain"], PLAIN_TEXT)?;
    let root = request.query.get("root").unwrap_or(ROOT);
    let at = request.query.number("at", 0..=u64::MAX >> 11)?.map(Sequence::new);
    let wait = request.query.number("wait", 0..=WAIT_SECONDS_MAX)?.unwrap_or(WAIT_SECONDS);
    let document = match at_least(request)? {
        // One that is still to be written is waited for too.
        Some(reached) => {
            let document = registry.open(&grant);
            wait_until(&document, reached, Duration::from_secs(wait), stopping).await?;
            document
        }
        None => registry.find(&grant).await?,
    };
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

fn at_least(request: &Request) -> Result<Option<Base>, ApiError> {
    let Some(raw) = request.query.get("at_least") else { return Ok(None) };
    let expected = "a sequence, or an epoch and a sequence with a dot between them".into();
    parse_base(raw).map(Some).ok_or(ApiError::InvalidParameter { parameter: "at_least", expected })
}

/// Waits until the document has got so far, the time is over, or the server stops.
async fn wait_until(
    document: &Document<Read>,
    reached: Base,
    wait: Duration,
    stopping: &CancellationToken,
) -> Result<(), ApiError> {
    let reaching = tokio::time::timeout(wait, document.reach(reached));
    match stopping.run_until_cancelled(reaching).await {
        None => Err(ApiError::Unavailable { reason: "the server is stopping".into() }),
        Some(Ok(reached)) => reached.map(drop).map_err(ApiError::from),
        Some(Err(_elapsed)) => match document.head().await {
            Ok((epoch, seq)) => Err(ApiError::NotReached { epoch: Some(epoch), seq }),
            Err(DocumentError::NotFound) => Err(ApiError::NotReached { epoch: None, seq: Sequence::ZERO }),
            Err(error) => Err(error.into()),
        },
    }
}

/// `<seq>`, `<epoch>.<seq>`, or the latter in quotes, as an ETag has it.
pub fn parse_base(raw: &str) -> Option<Base> {
    let raw = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')).unwrap_or(raw);
    let (epoch, sequence) = match raw.rsplit_once('.') {
        Some((epoch, sequence)) => (expected_epoch(Some(epoch)), sequence),
        None => (Expected::Any, raw),
    };
    let is_number = !sequence.is_empty() && sequence.bytes().all(|byte| byte.is_ascii_digit());
    let sequence = Sequence::new(sequence.parse().ok().filter(|_| is_number)?);
    Some(Base { epoch, sequence })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;

    #[test]
    fn a_base_is_a_sequence_with_or_without_its_epoch() {
        let epoch = Epoch::from_entropy(7);
        let base = |epoch, sequence| Some(Base { epoch, sequence: Sequence::new(sequence) });
        assert_eq!(parse_base("18"), base(Expected::Any, 18));
        assert_eq!(parse_base(&format!("{epoch}.18")), base(Expected::This(epoch), 18));
        assert_eq!(parse_base(&format!("\"{epoch}.18\"")), base(Expected::This(epoch), 18));
        assert_eq!(parse_base("Nonsense.18"), base(Expected::Unknown, 18));
        for nonsense in ["", "x", "-1", "+1", "1.", "1.5x", "99999999999999999999"] {
            assert_eq!(parse_base(nonsense), None, "{nonsense:?}");
        }
    }
}
