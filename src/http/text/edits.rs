//! `PUT` and `PATCH /docs/{doc}/text`: what is asked for, read strictly.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Number, Value};
use sha2::{Digest, Sha256};

use crate::auth::access::Write;
use crate::auth::grant::Grant;
use crate::document::handle::{Base, Once, Terms, Written};
use crate::document::text::{Attributes, DeltaOp, Edit, Op, Place, TextChange, Unit};
use crate::event::Origin;
use crate::registry::Registry;

use super::super::Limits;
use super::super::error::ApiError;
use super::super::route::{Request, Response, json, parse_client_id, parse_json};
use super::super::updates::{Answer, JSON_ENVELOPE_BYTES, expected_epoch};
use super::super::writing::{self, Writing};
use super::{ROOT, ROOT_BYTES_MAX, parse_base};

/// How deep a format's or an embed's value may nest; documents take no more.
const NESTING_MAX: usize = 32;
/// How long a body of JSON may be, in texts of the longest.
const JSON_FACTOR: usize = 2;

pub async fn put(
    id: &str,
    mut request: Request,
    registry: &Registry,
    limits: Limits,
) -> Result<Response, ApiError> {
    let grant: Grant<Write> = request.grant(id)?;
    request.expect_text_body()?;
    let query = &request.query;
    let terms = Fields {
        root: query.get("root"),
        unit: query.get("unit"),
        client_id: query.get("client_id"),
        epoch: query.get("epoch"),
        base: query.get("base").map(|base| Value::from(base.to_owned())),
    };
    let (root, unit, mut terms) = terms.read(|parameter, expected| ApiError::InvalidParameter {
        parameter,
        expected: expected.to_owned(),
    })?;
    let key = request.idempotency_key()?;
    let body = request.body("a text", limits.body(limits.update_bytes_max)).await?;
    terms.once = once(key, "PUT", &request, &body);
    let text = std::str::from_utf8(&body)
        .map_err(|error| ApiError::NotUtf8 { valid_up_to: error.valid_up_to() })?
        .to_owned();
    let change = TextChange { root, unit, edit: Edit::Replace(text) };
    let written = make(change, terms, &request, &grant, registry).await?;
    Ok(json(&Answer::from(written)))
}

pub async fn patch(
    id: &str,
    mut request: Request,
    registry: &Registry,
    limits: Limits,
) -> Result<Response, ApiError> {
    let grant: Grant<Write> = request.grant(id)?;
    request.expect_json_body()?;
    let key = request.idempotency_key()?;
    let bytes_max = JSON_FACTOR * limits.update_bytes_max + JSON_ENVELOPE_BYTES;
    let body = request.body("an edit", limits.body(bytes_max)).await?;
    let patched: Patched = parse_json(&body)?;
    let query = &request.query;
    let terms = Fields {
        root: patched.root.as_deref().or(query.get("root")),
        unit: patched.unit.as_deref().or(query.get("unit")),
        client_id: patched.client_id.as_deref().or(query.get("client_id")),
        epoch: patched.epoch.as_deref().or(query.get("epoch")),
        base: patched.base.or_else(|| query.get("base").map(|base| Value::from(base.to_owned()))),
    };
    let (root, unit, mut terms) =
        terms.read(|field, expected| invalid(format!("`{field}` is {expected}")))?;
    terms.once = once(key, "PATCH", &request, &body);
    let edit = match (patched.ops, patched.delta) {
        (Some(ops), None) => Edit::Ops(ops.into_iter().map(op).collect::<Result<_, _>>()?),
        (None, Some(delta)) => Edit::Delta(delta.into_iter().map(delta_op).collect::<Result<_, _>>()?),
        (Some(_), Some(_)) => {
            return Err(invalid("`ops` and `delta` are two ways to say the same; give one"));
        }
        (None, None) => return Err(invalid("`ops` or `delta` is missing")),
    };
    if inserted_bytes(&edit) > limits.update_bytes_max {
        let (what, limit) = ("what an edit inserts", limits.update_bytes_max);
        return Err(ApiError::TooLarge { what, limit, body_pending: false });
    }
    let change = TextChange { root, unit, edit };
    let written = make(change, terms, &request, &grant, registry).await?;
    Ok(json(&Answer::from(written)))
}

async fn make(
    change: TextChange,
    terms: Terms,
    request: &Request,
    grant: &Grant<Write>,
    registry: &Registry,
) -> Result<Written, ApiError> {
    let writing = writing::begin(request, registry, grant, terms.origin.client().cloned()).await?;
    let Writing { document, origin, user, .. } = &writing;
    let terms = Terms { origin: origin.clone(), user: user.clone(), ..terms };
    let written = document.edit_text(change, terms).await?;
    writing.done(&written);
    Ok(written)
}

fn invalid(reason: impl Into<String>) -> ApiError {
    ApiError::InvalidJson { reason: reason.into() }
}

/// What says which text is edited and on what terms, in a query or in a body.
struct Fields<'a> {
    root: Option<&'a str>,
    unit: Option<&'a str>,
    client_id: Option<&'a str>,
    epoch: Option<&'a str>,
    base: Option<Value>,
}

impl Fields<'_> {
    /// `wrong`: the answer to a field that is not what it must be.
    fn read(
        self,
        wrong: impl Fn(&'static str, &'static str) -> ApiError,
    ) -> Result<(String, Unit, Terms), ApiError> {
        let root = self.root.unwrap_or(ROOT);
        if root.is_empty() || root.len() > ROOT_BYTES_MAX {
            return Err(wrong("root", "a name of 1 to 255 bytes"));
        }
        let unit = match self.unit {
            None | Some("utf16") => Unit::Utf16,
            Some("char") => Unit::Char,
            Some("byte") => Unit::Byte,
            Some(_) => return Err(wrong("unit", "`utf16`, `char` or `byte`")),
        };
        let client_id = self.client_id.map(parse_client_id).transpose()?;
        let base = match self.base {
            None => None,
            Some(base) => {
                let expected = "a sequence, or an epoch and a sequence with a dot between them";
                Some(read_base(&base).ok_or_else(|| wrong("base", expected))?)
            }
        };
        let expected = expected_epoch(self.epoch);
        Ok((root.to_owned(), unit, Terms { expected, base, ..Terms::plain(Origin::from(client_id)) }))
    }
}

fn read_base(base: &Value) -> Option<Base> {
    match base {
        Value::String(base) => parse_base(base),
        Value::Number(base) => parse_base(&base.to_string()).filter(|_| base.is_u64()),
        _ => None,
    }
}

/// What a request asks for, by its digest, if it is to be carried out only once.
pub fn once(key: Option<String>, method: &str, request: &Request, body: &Bytes) -> Option<Once> {
    let key = key?;
    let mut digest = Sha256::new();
    // With its length before it, no part can run into the next.
    let mut add = |part: &[u8]| {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    };
    add(method.as_bytes());
    for (name, value) in request.query.pairs() {
        add(name.as_bytes());
        add(value.as_bytes());
    }
    add(body);
    Some(Once { key, digest: digest.finalize().into() })
}

#[derive(Deserialize)]
struct Patched {
    root: Option<String>,
    unit: Option<String>,
    client_id: Option<String>,
    epoch: Option<String>,
    base: Option<Value>,
    ops: Option<Vec<GivenOp>>,
    delta: Option<Vec<GivenDeltaOp>>,
}

#[derive(Deserialize)]
struct GivenOp {
    insert: Option<String>,
    delete: Option<Number>,
    at: Option<Value>,
}

#[derive(Deserialize)]
struct GivenDeltaOp {
    insert: Option<Value>,
    delete: Option<Number>,
    retain: Option<Number>,
    attributes: Option<Attributes>,
}

fn op(given: GivenOp) -> Result<Op, ApiError> {
    let at = match given.at {
        Some(Value::Number(at)) => Place::At(whole("at", &at)?),
        Some(Value::String(end)) if end == "end" => Place::End,
        Some(_) => return Err(invalid("`at` is a number or \"end\"")),
        None => return Err(invalid("`at` is missing")),
    };
    match (given.insert, given.delete) {
        (Some(text), None) => Ok(Op::Insert { at, text }),
        (None, Some(length)) => Ok(Op::Delete { at, length: whole("delete", &length)? }),
        _ => Err(invalid("an op has `insert` or `delete`, and not both")),
    }
}

fn delta_op(given: GivenDeltaOp) -> Result<DeltaOp, ApiError> {
    let attributes = given.attributes.unwrap_or_default();
    if attributes.values().any(|value| !nests_at_most(value, NESTING_MAX)) {
        return Err(invalid(format!("a format's value nests at most {NESTING_MAX} deep")));
    }
    match (given.insert, given.delete, given.retain) {
        (Some(Value::String(text)), None, None) => Ok(DeltaOp::Insert { text, attributes }),
        (Some(value @ Value::Object(_)), None, None) if nests_at_most(&value, NESTING_MAX) => {
            Ok(DeltaOp::Embed { value, attributes })
        }
        (Some(_), None, None) => {
            Err(invalid(format!("`insert` is a string, or an object that nests at most {NESTING_MAX} deep")))
        }
        (None, Some(length), None) => Ok(DeltaOp::Delete { length: whole("delete", &length)? }),
        (None, None, Some(length)) => Ok(DeltaOp::Retain { length: whole("retain", &length)?, attributes }),
        _ => Err(invalid("a part of a delta has one of `insert`, `delete` and `retain`")),
    }
}

/// A whole number; one that is too large for a text is as good as any that is.
fn whole(field: &str, number: &Number) -> Result<i64, ApiError> {
    if let Some(number) = number.as_i64() {
        return Ok(number);
    }
    match number.as_f64() {
        // The conversion ends at the bounds of what it converts to.
        #[expect(clippy::cast_possible_truncation)]
        Some(number) if number.fract() == 0.0 => Ok(number as i64),
        _ => Err(invalid(format!("`{field}` is a whole number"))),
    }
}

fn nests_at_most(value: &Value, depth: usize) -> bool {
    let inner = |value: &Value| depth > 0 && nests_at_most(value, depth - 1);
    match value {
        Value::Array(values) => depth > 0 && values.iter().all(inner),
        Value::Object(values) => depth > 0 && values.values().all(inner),
        _ => true,
    }
}

fn inserted_bytes(edit: &Edit) -> usize {
    match edit {
        Edit::Replace(text) => text.len(),
        Edit::Ops(ops) => ops
            .iter()
            .map(|op| match op {
                Op::Insert { text, .. } => text.len(),
                Op::Delete { .. } => 0,
            })
            .sum(),
        Edit::Delta(delta) => delta
            .iter()
            .map(|op| match op {
                DeltaOp::Insert { text, .. } => text.len(),
                _ => 0,
            })
            .sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(json: &str) -> Option<i64> {
        whole("at", &serde_json::from_str(json).expect("a number")).ok()
    }

    #[test]
    fn a_number_is_whole_and_may_be_absurd() {
        assert_eq!(numbers("5"), Some(5));
        assert_eq!(numbers("-1"), Some(-1));
        assert_eq!(numbers("5.0"), Some(5));
        assert_eq!(numbers("5.5"), None);
        assert_eq!(numbers("1e300"), Some(i64::MAX));
        assert_eq!(numbers("18446744073709551615"), Some(i64::MAX));
    }

    #[test]
    fn values_nest_so_deep_and_no_deeper() {
        let nested =
            |depth: usize| -> Value { (0..depth).fold(Value::Null, |inner, _| Value::Array(vec![inner])) };
        assert!(nests_at_most(&nested(32), 32));
        assert!(!nests_at_most(&nested(33), 32));
    }
}
