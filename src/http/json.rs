//! `/docs/{doc}/json`: what the roots of a document hold, and JSON Patch on one of them.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Map, Value};
use warp::Filter;
use warp::http::{Method, StatusCode, header};

use crate::auth::access::{Read, Write};
use crate::auth::grant::Grant;
use crate::document::handle::{DocumentError, Terms};
use crate::document::json::{Kind, Shown};
use crate::document::json_patch::{Container, JsonPatch};
use crate::ids::Sequence;
use crate::registry::Registry;

use super::Limits;
use super::error::ApiError;
use super::route::{JSON, Request, Response, Route, empty, json, request, respond, set_header, tag};
use super::text::edits::once;
use super::text::{ROOT_BYTES_MAX, parse_base};
use super::updates::{Answer, expected_epoch};
use super::writing::{self, Writing};

const JSON_PATCH: &str = "application/json-patch+json";
/// Which roots are not what they seem; more than fit are counted, not named.
const UNDETERMINED_ROOTS: &str = "undetermined-roots";
const UNDETERMINED_ROOTS_BYTES_MAX: usize = 4 << 10;
/// Names stand in a header, with a comma and a space between them.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

pub fn route(registry: Registry, limits: Limits) -> Route {
    warp::path!("docs" / String / "json")
        .and(request())
        .then(move |id: String, request| handle(id, request, registry.clone(), limits))
        .map(respond)
        .boxed()
}

async fn handle(
    id: String,
    request: Result<Request, ApiError>,
    registry: Registry,
    limits: Limits,
) -> Result<Response, ApiError> {
    let request = request?;
    match request.method {
        Method::GET | Method::HEAD => get(&id, &request, &registry).await,
        Method::PATCH => patch(&id, request, &registry, limits).await,
        _ => Err(ApiError::MethodNotAllowed { allow: "GET, HEAD, PATCH" }),
    }
}

/// A root with what it is.
#[derive(Serialize)]
struct Typed {
    #[serde(rename = "type")]
    kind: Kind,
    value: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    rest: Option<Value>,
}

async fn get(id: &str, request: &Request, registry: &Registry) -> Result<Response, ApiError> {
    let grant: Grant<Read> = request.grant(id)?;
    request.accepts(&[JSON], JSON)?;
    let root = request.query.get("root");
    let with_types = request.query.flag("types")?;
    let at = request.query.number("at", 0..=u64::MAX >> 11)?.map(Sequence::new);
    let document = registry.find(&grant).await?;
    // A copy that is still right is known by the head alone, unless its root is gone.
    if at.is_none() && root.is_none() && request.headers.contains_key(header::IF_NONE_MATCH) {
        let (epoch, head) = document.head().await?;
        let tag = tag(epoch, head);
        if request.has_tag(&tag) {
            return Ok(with_tag(empty(StatusCode::NOT_MODIFIED), &tag));
        }
    }
    let (epoch, sequence, mut roots) = match at {
        Some(at) => document.json_at(at, root).await?,
        None => document.json(root).await?,
    };
    let undetermined = undetermined(&roots);
    let body = match root {
        Some(_) => {
            let shown = roots.pop().ok_or(DocumentError::NotFound)?;
            if with_types { json(&typed(shown)) } else { json(&shown.value) }
        }
        None if with_types => {
            let roots: Map<String, Value> = roots
                .into_iter()
                .map(|root| {
                    let name = root.name.clone();
                    (name, serde_json::to_value(typed(root)).expect("a name and values"))
                })
                .collect();
            json(&serde_json::json!({ "roots": roots }))
        }
        None => json(&roots.into_iter().map(|root| (root.name, root.value)).collect::<Map<String, Value>>()),
    };
    let tag = tag(epoch, sequence);
    let mut response =
        with_tag(if request.has_tag(&tag) { empty(StatusCode::NOT_MODIFIED) } else { body }, &tag);
    if let Some(names) = undetermined {
        set_header(&mut response, UNDETERMINED_ROOTS, &names);
    }
    Ok(response)
}

fn with_tag(mut response: Response, tag: &str) -> Response {
    set_header(&mut response, "etag", tag);
    set_header(&mut response, "cache-control", "no-cache");
    response
}

fn typed(shown: Shown) -> Typed {
    Typed { kind: shown.kind, value: shown.value, rest: shown.rest }
}

/// The names of roots whose type their content does not tell, percent-encoded, as far as a header has room.
fn undetermined(roots: &[Shown]) -> Option<String> {
    let mut names = String::new();
    for root in roots.iter().filter(|root| root.kind == Kind::Undetermined) {
        let separator = if names.is_empty() { "" } else { ", " };
        let name = utf8_percent_encode(&root.name, ESCAPED).to_string();
        if names.len() + separator.len() + name.len() > UNDETERMINED_ROOTS_BYTES_MAX {
            names.push_str(separator);
            names.push('*');
            break;
        }
        names.push_str(separator);
        names.push_str(&name);
    }
    // A root may have the empty name.
    let any = roots.iter().any(|root| root.kind == Kind::Undetermined);
    any.then_some(names)
}

async fn patch(
    id: &str,
    mut request: Request,
    registry: &Registry,
    limits: Limits,
) -> Result<Response, ApiError> {
    let grant: Grant<Write> = request.grant(id)?;
    request.expect_body_of(&[JSON_PATCH, JSON], "application/json-patch+json or application/json")?;
    let query = &request.query;
    let client_id = query.client_id()?;
    let expected = expected_epoch(query.get("epoch"));
    let container = match query.get("type") {
        None => None,
        Some("map") => Some(Container::Map),
        Some("array") => Some(Container::Array),
        Some(_) => return Err(invalid("type", "map or array")),
    };
    let is_name = |root: &&str| (1..=ROOT_BYTES_MAX).contains(&root.len());
    let root =
        query.get("root").filter(is_name).ok_or_else(|| invalid("root", "a name of 1 to 255 bytes"))?;
    let root = root.to_owned();
    let a_base = || invalid("base", "a sequence, or an epoch and a sequence with a dot between them");
    let base = query.get("base").map(|raw| parse_base(raw).ok_or_else(a_base)).transpose()?;
    let key = request.idempotency_key()?;
    let body = request.body("a patch", limits.body(limits.update_bytes_max)).await?;
    let operations: Vec<Value> = serde_json::from_slice(&body).map_err(|error| ApiError::InvalidJson {
        reason: format!("a list of operations is expected: {error}"),
    })?;
    let patch = JsonPatch::parse(root, container, operations)?;
    let once = once(key, "PATCH json", &request, &body);
    let writing = writing::begin(&request, registry, &grant, client_id).await?;
    let Writing { document, origin, user, .. } = &writing;
    let terms = Terms { user: user.clone(), expected, base, once, ..Terms::plain(origin.clone()) };
    let written = document.patch_json(patch, terms).await?;
    writing.done(&written);
    Ok(json(&Answer::from(written)))
}

fn invalid(parameter: &'static str, expected: &str) -> ApiError {
    ApiError::InvalidParameter { parameter, expected: expected.into() }
}
