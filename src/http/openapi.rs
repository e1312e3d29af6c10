//! `/openapi.json`: every address, method, parameter, body, answer and error code, for programs.
//!
//! `openapi.json` is written by hand, in OpenAPI 3.1 with one addition that keeps it readable: the list `x-problems` of
//! an operation names the codes that it may be refused with, and the table `x-problems` at the end says what each
//! stands for. What is served is plain OpenAPI: each code has become an answer. Added to that are
//! - the problems that every address has (`problems_of_all`), and
//! - a `head` beside each `get`.
//!
//! Format: <https://spec.openapis.org/oas/v3.1.1.html>

use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use warp::Filter;
use warp::http::{Method, StatusCode};

use super::error::ApiError;
use super::route::{JSON, Request, Response, Route, bytes_response, empty, request, respond, set_header};

const SOURCE: &str = include_str!("openapi.json");
const PROBLEMS: &str = "x-problems";
const METHODS: [&str; 6] = ["get", "head", "post", "put", "patch", "delete"];

/// The document and its entity tag, made when it is first asked for.
static SERVED: LazyLock<(Bytes, String)> = LazyLock::new(|| {
    let text = serde_json::to_vec_pretty(&document()).expect("JSON that was read can be written");
    let tag = format!("\"{}-{:08x}\"", env!("CARGO_PKG_VERSION"), crc32fast::hash(&text));
    (text.into(), tag)
});

pub fn route() -> Route {
    warp::path!("openapi.json").and(request()).then(handle).map(respond).boxed()
}

async fn handle(request: Result<Request, ApiError>) -> Result<Response, ApiError> {
    let request = request?;
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(ApiError::MethodNotAllowed { allow: "GET, HEAD" });
    }
    request.accepts(&[JSON], JSON)?;
    let (text, tag) = &*SERVED;
    let mut response = if request.has_tag(tag) {
        empty(StatusCode::NOT_MODIFIED)
    } else {
        bytes_response(JSON, text.clone())
    };
    set_header(&mut response, "etag", tag);
    set_header(&mut response, "cache-control", "no-cache");
    Ok(response)
}

/// The document as it is served.
fn document() -> Value {
    let mut document: Value = serde_json::from_str(SOURCE).expect("it is JSON: a test reads it");
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    let problems = document.as_object_mut().and_then(|fields| fields.shift_remove(PROBLEMS));
    let Some(Value::Object(problems)) = problems else { return document };
    for (code, problem) in &problems {
        document["components"]["schemas"][schema_name(code)] = schema(code, problem);
    }
    if let Some(Value::Object(paths)) = document.get_mut("paths") {
        for (path, item) in paths {
            for method in METHODS {
                if let Some(operation) = item.get_mut(method) {
                    expand(path, operation, &problems);
                }
            }
            if let Some(get) = item.get("get") {
                item["head"] = head_of(get.clone());
            }
        }
    }
    document
}

fn schema_name(code: &str) -> String {
    format!("Problem.{code}")
}

/// The body of a problem document with this code.
fn schema(code: &str, problem: &Value) -> Value {
    let mut required = vec![json!("status"), json!("code")];
    let mut properties = Map::new();
    properties.insert("status".into(), json!({ "const": problem["status"] }));
    properties.insert("code".into(), json!({ "const": code }));
    for (name, schema) in problem["fields"].as_object().into_iter().flatten() {
        required.push(json!(name));
        properties.insert(name.clone(), schema.clone());
    }
    for (name, schema) in problem["may_have"].as_object().into_iter().flatten() {
        properties.insert(name.clone(), schema.clone());
    }
    json!({
        "description": problem["means"],
        "allOf": [
            { "$ref": "#/components/schemas/Problem" },
            { "type": "object", "required": required, "properties": properties },
        ],
    })
}

/// The problems that an operation has without saying so.
fn problems_of_all(path: &str, operation: &Value) -> Vec<&'static str> {
    let mut problems = vec!["method_not_allowed", "uri_too_long", "misdirected_request"];
    if !is_open_to_all(path, operation) {
        problems.extend(["unauthorized", "forbidden", "too_many_requests"]);
    }
    if path.contains("{doc}") {
        problems.push("invalid_document_id");
    }
    // Rows can be exported, and deleted, whatever is in them.
    let is_of_rows = path.ends_with("/export") || operation["operationId"] == "deleteDocument";
    if path.starts_with("/docs/{doc}") && !is_of_rows {
        problems.push("quarantined");
    }
    if operation.get("requestBody").is_some() {
        problems.extend(["invalid_body", "request_timeout", "too_large"]);
    }
    problems
}

/// Pages, and what says how the server is, need no token.
fn is_open_to_all(path: &str, operation: &Value) -> bool {
    ["/healthz", "/readyz", "/openapi.json"].contains(&path) || operation["tags"] == json!(["pages"])
}

/// Turns the codes of an operation into answers, one for each status.
fn expand(path: &str, operation: &mut Value, problems: &Map<String, Value>) {
    let own = operation.as_object_mut().and_then(|fields| fields.shift_remove(PROBLEMS));
    let own: Vec<String> = own.and_then(|codes| serde_json::from_value(codes).ok()).unwrap_or_default();
    let mut codes: Vec<&str> = own.iter().map(String::as_str).collect();
    codes.extend(problems_of_all(path, operation));
    for (code, problem) in problems.iter().filter(|(code, _)| codes.contains(&code.as_str())) {
        let answer = &mut operation["responses"][problem["status"].to_string()];
        let means = problem["means"].as_str().unwrap_or_default();
        let described = match answer["description"].as_str() {
            Some(before) => format!("{before}\n\n`{code}`: {means}"),
            None => format!("`{code}`: {means}"),
        };
        answer["description"] = json!(described);
        if let Some(headers) = problem.get("headers") {
            answer["headers"] = headers.clone();
        }
        let body = &mut answer["content"]["application/problem+json"]["schema"];
        let reference = json!({ "$ref": format!("#/components/schemas/{}", schema_name(code)) });
        match body.get_mut("oneOf") {
            Some(Value::Array(codes)) => codes.push(reference),
            _ => *body = json!({ "oneOf": [reference] }),
        }
    }
}

/// `HEAD`: what `GET` answers, without the body.
fn head_of(mut get: Value) -> Value {
    get["operationId"] = json!(format!("{}.head", get["operationId"].as_str().unwrap_or_default()));
    get["summary"] = json!("As GET, without the body.");
    if let Some(fields) = get.as_object_mut() {
        fields.shift_remove("description");
    }
    for (_, answer) in get["responses"].as_object_mut().into_iter().flatten() {
        if let Some(fields) = answer.as_object_mut() {
            fields.shift_remove("content");
        }
    }
    get
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;

    use super::super::events::{self, Streams};
    use super::super::{Limits, places, table};
    use super::*;
    use crate::auth::Authenticator;
    use crate::auth::revocations::Revocations;
    use crate::document::handle;
    use crate::document::quarantine::Quarantine;
    use crate::metrics::Metrics;
    use crate::registry::{self, Registry};
    use crate::sandbox::{self, Sandbox};
    use crate::store::memory::MemoryStore;

    /// Address and methods of each line of the URL table. The parts behind it are there and idle.
    fn routes() -> BTreeMap<String, BTreeSet<String>> {
        let (metrics, stopping) = (Arc::new(Metrics::default()), CancellationToken::new());
        let document = handle::Settings {
            document_bytes_max: 1,
            broadcast_messages: 1,
            awareness_states_max: 1,
            keep_updates: 1,
            keep_days: 1,
            collect_deleted: false,
        };
        let settings = registry::Settings {
            evict_after: Duration::MAX,
            resident_bytes_max: 1,
            keep_revocations: None,
            document,
        };
        let store = Arc::new(MemoryStore::new());
        let revocations: Arc<Revocations> = Arc::default();
        let work = sandbox::Settings { program: None, memory_bytes_max: 1, time_max: Duration::MAX };
        let sandbox = Sandbox::new(work, <[u8]>::to_vec, metrics.sandbox.clone());
        let quarantine = Arc::new(Quarantine::empty(store.clone(), metrics.sandbox.clone()));
        let documents = metrics.documents.clone();
        let registry = Registry::start(
            settings,
            store,
            documents,
            revocations.clone(),
            sandbox,
            quarantine,
            stopping.clone(),
        );
        let settings = events::Settings {
            heartbeat: Duration::from_secs(1),
            stalled_after: Duration::from_secs(1),
            places: places::Limits { in_all: 1, of_user: 1, of_address: 1, of_document: 1 },
        };
        let frames = metrics.streams.clone();
        let streams =
            Streams::start(settings, registry.clone(), frames, revocations.clone(), stopping.clone());
        let authenticator = Arc::new(Authenticator::open(revocations));
        let limits = Limits {
            update_bytes_max: 1,
            document_bytes_max: 1,
            awareness_bytes_max: 1,
            body_time_max: Duration::from_secs(1),
        };
        let table = table(registry, &streams, limits, authenticator, metrics, stopping);
        let lines = table.iter().map(|line| {
            (line.template.to_owned(), line.methods.split(", ").map(str::to_lowercase).collect())
        });
        lines.collect()
    }

    #[tokio::test]
    async fn every_route_has_an_entry_and_every_entry_a_route() {
        let document = document();
        let described: BTreeMap<String, BTreeSet<String>> = document["paths"]
            .as_object()
            .expect("paths")
            .iter()
            .map(|(path, item)| {
                let methods = METHODS.into_iter().filter(|method| item.get(*method).is_some());
                (path.clone(), methods.map(ToOwned::to_owned).collect())
            })
            .collect();
        assert_eq!(described, routes());
    }

    /// Statuses and codes live in `error.rs` only, each code beside its status; so they can be read from there.
    #[test]
    fn every_code_that_an_error_can_have_is_described_under_its_status() {
        let source: String = include_str!("error.rs").split_whitespace().collect();
        let in_errors: BTreeSet<(u16, String)> = source
            .split("StatusCode::")
            .filter_map(|rest| {
                let (name, rest) = rest.split_once(",\"")?;
                let status = (400..600).find(|status| {
                    let status = StatusCode::from_u16(*status).expect("a status");
                    let reason = status.canonical_reason().unwrap_or_default();
                    reason.to_uppercase().replace([' ', '-'], "_") == name
                })?;
                Some((status, rest.split_once('"')?.0.to_owned()))
            })
            .collect();
        let source: Value = serde_json::from_str(SOURCE).expect("JSON");
        let described = source[PROBLEMS].as_object().expect("a table");
        let described: BTreeSet<(u16, String)> = described
            .iter()
            .map(|(code, problem)| (problem["status"].as_u64().expect("a status") as u16, code.clone()))
            .collect();
        assert_eq!(described, in_errors);
    }

    #[test]
    fn every_problem_that_an_operation_names_is_in_the_table_and_every_reference_leads_somewhere() {
        let source: Value = serde_json::from_str(SOURCE).expect("JSON");
        for (path, item) in source["paths"].as_object().expect("paths") {
            for operation in METHODS.into_iter().filter_map(|method| item.get(method)) {
                for code in operation[PROBLEMS].as_array().into_iter().flatten() {
                    let code = code.as_str().expect("a code");
                    assert!(source[PROBLEMS].get(code).is_some(), "{path} names {code}");
                }
            }
        }
        let document = document();
        let text = document.to_string();
        assert!(!text.contains(PROBLEMS));
        for reference in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(document.pointer(reference).is_some(), "{reference} leads nowhere");
        }
    }
}
