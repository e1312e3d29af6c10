//! What can be wrong with a request, and the answer that says so.
//!
//! The only home of error statuses. Answers are RFC 9457 problem documents.

use serde_json::{Map, Value, json};
use warp::http::{HeaderValue, Response as HttpResponse, StatusCode, header};
use warp::hyper::body::Bytes;

use crate::auth::Unauthorized;
use crate::auth::grant::Forbidden;
use crate::document::handle::DocumentError;
use crate::document::json_patch::{self, Fault};
use crate::document::presence::Refused;
use crate::ids::{Epoch, Sequence};

use super::metrics::Code;
use super::route::Response;

/// How long a client should wait before it tries again, in seconds.
const RETRY_AFTER_SECONDS: u64 = 1;

/// A request that could not be answered as asked. After any of them nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("`{given}` is no document id: {reason}")]
    InvalidDocumentId { given: String, reason: String },
    #[error("`{given}` is no client id: {reason}")]
    InvalidClientId { given: String, reason: String },
    #[error("`{given}` is no name of a version: {reason}")]
    InvalidVersionName { given: String, reason: String },
    #[error("the document has no version of that name")]
    VersionNotFound,
    #[error("the name `{name}` is given already, to sequence {sequence}; remove it first")]
    VersionExists { name: String, sequence: Sequence },
    #[error("a document may have {limit} versions at the most; remove one first")]
    TooManyVersions { limit: usize },
    #[error("{reason}")]
    InvalidArchive { reason: String, imported: u64 },
    #[error("`{field}` is not base64 of the standard alphabet: {reason}")]
    InvalidBase64 { field: &'static str, reason: String },
    #[error("`{field}` is no Yjs state vector (encoding v1): {reason}")]
    InvalidStateVector { field: &'static str, reason: String },
    #[error("the body is not the JSON that is expected here: {reason}")]
    InvalidJson { reason: String },
    #[error("the parameter `{parameter}` must be {expected}")]
    InvalidParameter { parameter: &'static str, expected: String },
    #[error("there is nothing at this address")]
    PathNotFound,
    #[error("this address takes {allow} only")]
    MethodNotAllowed { allow: &'static str },
    #[error("the answer can be {offered} only")]
    NotAcceptable { offered: &'static str },
    #[error("the body must be {expected}")]
    UnsupportedMediaType { expected: &'static str },
    #[error("the address is longer than {limit} bytes; POST /docs/{{doc}}/state takes long state vectors")]
    UriTooLong { limit: usize },
    #[error("{what} may have {limit} bytes at the most")]
    TooLarge { what: &'static str, limit: usize, body_pending: bool },
    #[error("the body did not arrive within {seconds} s")]
    BodyTooSlow { seconds: u64 },
    #[error("the body broke off: {0}")]
    BodyBroken(String),
    #[error("the body is no UTF-8 from byte {valid_up_to} on")]
    NotUtf8 { valid_up_to: usize },
    #[error("the document has not got so far in time; it is at {seq}")]
    NotReached { epoch: Option<Epoch>, seq: Sequence },
    #[error(transparent)]
    InvalidPatch(#[from] json_patch::Malformed),
    #[error(transparent)]
    Unauthorized(#[from] Unauthorized),
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    #[error("a page of this origin may not do this; `cors.origins` lists those that may")]
    OriginNotAllowed,
    #[error("this server is not called by that name; `server.hosts` lists its names")]
    UnknownHost,
    #[error("{what}; try again in {retry_after_seconds} s")]
    TooManyRequests { what: String, retry_after_seconds: u64 },
    #[error("{reason}")]
    Unavailable { reason: String },
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error(transparent)]
    Awareness(#[from] Refused),
}

/// Status, code, and the fields beside them.
struct Described {
    status: StatusCode,
    code: &'static str,
    detail: String,
    fields: Vec<(&'static str, Value)>,
}

impl ApiError {
    /// The answer. An answer of 500 and above is logged here, once, and says nothing internal.
    pub fn into_response(self) -> Response {
        let allow = match &self {
            Self::MethodNotAllowed { allow } => Some(*allow),
            _ => None,
        };
        let body_pending = matches!(
            &self,
            Self::TooLarge { body_pending: true, .. } | Self::BodyTooSlow { .. } | Self::BodyBroken(_)
        );
        let challenge = match &self {
            Self::Unauthorized(error) => Some(challenge(error)),
            _ => None,
        };
        let retry_after = match &self {
            Self::TooManyRequests { retry_after_seconds, .. } => *retry_after_seconds,
            _ => RETRY_AFTER_SECONDS,
        };
        let is_quarantined = matches!(&self, Self::Document(DocumentError::Quarantined));
        let described = self.describe();
        let mut response = problem(&described);
        let headers = response.headers_mut();
        if let Some(challenge) = challenge {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(allow) = allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if body_pending {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        // Waiting helps, but for what it takes the operator to end.
        let is_busy =
            matches!(described.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
        if is_busy && !is_quarantined {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after));
        }
        response
    }

    fn describe(self) -> Described {
        let detail = self.to_string();
        let described = |status, code, fields| Described { status, code, detail: detail.clone(), fields };
        match self {
            Self::InvalidDocumentId { .. } => {
                described(StatusCode::BAD_REQUEST, "invalid_document_id", vec![])
            }
            Self::InvalidClientId { .. } => described(StatusCode::BAD_REQUEST, "invalid_client_id", vec![]),
            Self::InvalidVersionName { .. } => {
                described(StatusCode::BAD_REQUEST, "invalid_version_name", vec![])
            }
            Self::VersionNotFound => described(StatusCode::NOT_FOUND, "not_found", vec![]),
            Self::VersionExists { sequence, .. } => {
                described(StatusCode::CONFLICT, "already_exists", vec![("seq", json!(sequence))])
            }
            Self::TooManyVersions { limit } => described(
                StatusCode::UNPROCESSABLE_ENTITY,
                "too_many_versions",
                vec![("limit", json!(limit))],
            ),
            Self::InvalidArchive { imported, .. } => described(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid_archive",
                vec![("imported", json!(imported))],
            ),
            Self::InvalidBase64 { .. } => described(StatusCode::BAD_REQUEST, "invalid_base64", vec![]),
            Self::InvalidStateVector { .. } => {
                described(StatusCode::BAD_REQUEST, "invalid_state_vector", vec![])
            }
            Self::InvalidJson { .. } => described(StatusCode::BAD_REQUEST, "invalid_json", vec![]),
            Self::InvalidParameter { parameter, .. } => {
                described(StatusCode::BAD_REQUEST, "invalid_parameter", vec![("parameter", json!(parameter))])
            }
            Self::PathNotFound => described(StatusCode::NOT_FOUND, "not_found", vec![]),
            Self::MethodNotAllowed { .. } => {
                described(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", vec![])
            }
            Self::NotAcceptable { .. } => described(StatusCode::NOT_ACCEPTABLE, "not_acceptable", vec![]),
            Self::UnsupportedMediaType { .. } => {
                described(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", vec![])
            }
            Self::UriTooLong { .. } => described(StatusCode::URI_TOO_LONG, "uri_too_long", vec![]),
            Self::TooLarge { limit, .. } => {
                described(StatusCode::PAYLOAD_TOO_LARGE, "too_large", vec![("limit", json!(limit))])
            }
            Self::BodyTooSlow { .. } => described(StatusCode::REQUEST_TIMEOUT, "request_timeout", vec![]),
            Self::NotUtf8 { .. } => described(StatusCode::BAD_REQUEST, "invalid_body", vec![]),
            Self::NotReached { epoch, seq } => described(
                StatusCode::PRECONDITION_FAILED,
                "not_reached",
                vec![("epoch", json!(epoch)), ("seq", json!(seq))],
            ),
            Self::BodyBroken(_) => described(StatusCode::BAD_REQUEST, "invalid_body", vec![]),
            Self::InvalidPatch(json_patch::Malformed { index, .. }) => {
                described(StatusCode::UNPROCESSABLE_ENTITY, "invalid_patch", vec![("index", json!(index))])
            }
            Self::Unauthorized(_) => described(StatusCode::UNAUTHORIZED, "unauthorized", vec![]),
            Self::Forbidden(_)
            | Self::OriginNotAllowed
            | Self::Awareness(Refused::Taken(_) | Refused::Impersonates { .. }) => {
                described(StatusCode::FORBIDDEN, "forbidden", vec![])
            }
            Self::UnknownHost => described(StatusCode::MISDIRECTED_REQUEST, "misdirected_request", vec![]),
            Self::TooManyRequests { .. } => {
                described(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", vec![])
            }
            Self::Unavailable { .. } => described(StatusCode::SERVICE_UNAVAILABLE, "unavailable", vec![]),
            Self::Awareness(_) => described(StatusCode::UNPROCESSABLE_ENTITY, "invalid_update", vec![]),
            Self::Document(error) => describe_document(error, detail),
        }
    }
}

/// RFC 6750, 3: what is needed, and what was wrong with the token if there was one.
fn challenge(error: &Unauthorized) -> HeaderValue {
    let text = match error {
        Unauthorized::Missing => r#"Bearer realm="promptgrimoire""#.to_owned(),
        // No quotation marks and nothing but ASCII may stand in it.
        error => {
            let description: String = error
                .to_string()
                .chars()
                .map(
                    |character| {
                        if character.is_ascii_graphic() || character == ' ' { character } else { '?' }
                    },
                )
                .filter(|character| !matches!(character, '"' | '\\'))
                .collect();
            format!(
                r#"Bearer realm="promptgrimoire", error="invalid_token", error_description="{description}""#
            )
        }
    };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("Bearer"))
}

fn describe_document(error: DocumentError, detail: String) -> Described {
    let described = |status, code, fields| Described { status, code, detail: detail.clone(), fields };
    match error {
        DocumentError::NotFound => described(StatusCode::NOT_FOUND, "not_found", vec![]),
        DocumentError::Gap { state_vector } => Described {
            detail: "the update builds on updates that the server has not got; \
                     send the difference against `state_vector` instead"
                .into(),
            ..described(
                StatusCode::CONFLICT,
                "missing_updates",
                vec![("state_vector", json!(super::encoding::encode_base64(&state_vector)))],
            )
        },
        DocumentError::EpochChanged { epoch } => Described {
            detail: "the epoch names another life of this document: \
                     start from its state as it is now, nothing was merged"
                .into(),
            ..described(StatusCode::CONFLICT, "epoch_changed", vec![("epoch", json!(epoch))])
        },
        DocumentError::Invalid { .. } => {
            described(StatusCode::UNPROCESSABLE_ENTITY, "invalid_update", vec![])
        }
        DocumentError::Unsupported { .. } => {
            described(StatusCode::UNPROCESSABLE_ENTITY, "unsupported_content", vec![])
        }
        DocumentError::TooLarge { limit, .. } => {
            described(StatusCode::PAYLOAD_TOO_LARGE, "too_large", vec![("limit", json!(limit))])
        }
        DocumentError::InvalidPosition { length, .. } => {
            described(StatusCode::UNPROCESSABLE_ENTITY, "invalid_position", vec![("length", json!(length))])
        }
        DocumentError::WrongRoot { .. } => described(StatusCode::UNPROCESSABLE_ENTITY, "wrong_type", vec![]),
        DocumentError::Patch { index, fault } => {
            let (status, code) = match fault {
                Fault::InvalidPointer(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_pointer"),
                Fault::TestFailed => (StatusCode::CONFLICT, "test_failed"),
                Fault::WrongType(_) => (StatusCode::UNPROCESSABLE_ENTITY, "wrong_type"),
                Fault::TooDeep => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_patch"),
                Fault::TooLarge => {
                    let fields = vec![("limit", json!(json_patch::ADDED_BYTES_MAX)), ("index", json!(index))];
                    return described(StatusCode::PAYLOAD_TOO_LARGE, "too_large", fields);
                }
            };
            described(status, code, vec![("index", json!(index))])
        }
        DocumentError::Exists { epoch, sequence } => described(
            StatusCode::CONFLICT,
            "already_exists",
            vec![("epoch", json!(epoch)), ("seq", json!(sequence))],
        ),
        DocumentError::Frozen { since } => {
            described(StatusCode::LOCKED, "frozen", vec![("frozen_at", json!(since))])
        }
        DocumentError::WrongType { .. } => described(StatusCode::UNPROCESSABLE_ENTITY, "wrong_type", vec![]),
        DocumentError::InvalidBase { .. } => {
            described(StatusCode::UNPROCESSABLE_ENTITY, "invalid_base", vec![])
        }
        DocumentError::KeyReused => {
            described(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", vec![])
        }
        DocumentError::Gone { oldest } => {
            described(StatusCode::GONE, "gone", vec![("oldest", json!(oldest))])
        }
        DocumentError::Unavailable { reason } => {
            tracing::warn!(reason, "answered 503: {reason}");
            Described {
                detail: "the store cannot take it now; try again, a repeat does no harm".into(),
                ..described(StatusCode::SERVICE_UNAVAILABLE, "unavailable", vec![])
            }
        }
        DocumentError::Quarantined => Described {
            detail: "this document has killed the process that works on it, or run out its time, more than once, and \
                     is out of service; its operator can export it, delete it, or release it with \
                     DELETE /admin/quarantine/{doc}; other documents are not affected"
                .into(),
            ..described(StatusCode::SERVICE_UNAVAILABLE, "quarantined", vec![])
        },
        DocumentError::Damaged { detail } => {
            tracing::error!(detail, "answered 503: {detail}");
            Described {
                detail: "this document is damaged on disk and out of service; \
                         the server's log says more, other documents are not affected"
                    .into(),
                ..described(StatusCode::SERVICE_UNAVAILABLE, "unavailable", vec![])
            }
        }
    }
}

fn problem(described: &Described) -> Response {
    let mut body = Map::new();
    body.insert("type".into(), json!("about:blank"));
    body.insert("title".into(), json!(described.status.canonical_reason()));
    body.insert("status".into(), json!(described.status.as_u16()));
    body.insert("detail".into(), json!(described.detail));
    body.insert("code".into(), json!(described.code));
    for (name, value) in &described.fields {
        body.insert((*name).into(), value.clone());
    }
    let mut response: Response = HttpResponse::new(Bytes::from(Value::Object(body).to_string()).into());
    *response.status_mut() = described.status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response.extensions_mut().insert(Code(described.code));
    response
}
