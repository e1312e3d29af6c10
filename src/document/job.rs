//! What is done with a document where it can be stopped: in the sandbox.
//!
//! What goes there, and what does not:
//! - **compaction**: it encodes all of a document, collects what was deleted, and loads the outcome again;
//! - **the past** (`?at=`, versions of it, restoring, edits on a base): anybody may ask for it at any time, so that a
//!   document which takes long or kills is rebuilt as often as somebody likes;
//! - **archives**: their updates were admitted elsewhere, if at all;
//! - not **merging, loading, and looks at a document as it is**. An update is read strictly, admitted, and merged in
//!   portions with patience; loading is merging. State, text and JSON of an open document are walks over what was
//!   merged so: they ask for no type (`replica::shape`), recurse no deeper than `admission::NESTING_MAX`, and take time
//!   in proportion to the document. They come with every stream and keystroke, and a copy of the document to another
//!   process for each would cost more than all the rest.
//!
//! Restoring and edits on a base need a replica here. It is **rehearsed**: the helper rebuilds it, opens it again from
//! the outcome and reads it, and only then the same is done here, with the same bytes and as much stack.
//!
//! A job is a byte that says which, and its parts, in lib0's encoding; so is an answer.

use bytes::Bytes;
use serde_json::{Map, Number, Value};

use crate::ids::Sequence;
use crate::sandbox::{Failure, Sandbox};
use crate::store::{Archive, Snapshot};

use super::json::{Kind, Shown};
use super::lib0::{Malformed, Reader, write_var_buffer, write_var_string, write_varuint};
use super::replica::Replica;
use super::replica::compacting::Compacted;

const COMPACT: u8 = 1;
const STATE: u8 = 2;
const TEXT: u8 = 3;
const JSON: u8 = 4;
const REHEARSE: u8 = 5;
const CHECK: u8 = 6;

const DONE: u8 = 1;
const REFUSED: u8 = 0;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum JobError {
    /// It was done, and this came of it: the document, or the archive, is not what it should be.
    #[error("{detail}")]
    Refused { detail: String },
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl From<Malformed> for JobError {
    fn from(malformed: Malformed) -> Self {
        Self::Failed(Failure::Died { detail: format!("its answer is none: {malformed}") })
    }
}

/// How a document came to be.
#[derive(Debug, Clone, Default)]
pub(super) struct Past {
    pub(super) snapshot: Option<Bytes>,
    /// What followed it.
    pub(super) updates: Vec<Bytes>,
}

impl Past {
    fn job(&self, kind: u8) -> Vec<u8> {
        let bytes = self.snapshot.iter().chain(&self.updates).map(|update| update.len() + 9).sum::<usize>();
        let mut job = Vec::with_capacity(bytes + 64);
        job.push(kind);
        write_optional(&mut job, self.snapshot.as_deref());
        write_varuint(&mut job, self.updates.len() as u64);
        self.updates.iter().for_each(|update| write_var_buffer(&mut job, update));
        job
    }
}

/// Makes a snapshot, as `Replica::compacted` does.
pub(super) async fn compact(
    sandbox: &Sandbox,
    past: &Past,
    state_vector: &[u8],
    collects_deleted: bool,
) -> Result<Compacted, JobError> {
    let mut job = past.job(COMPACT);
    write_var_buffer(&mut job, state_vector);
    job.push(u8::from(collects_deleted));
    let answer = ask(sandbox, job).await?;
    let mut reader = Reader::new(&answer);
    let kept_because = read_optional(&mut reader)?.map(|reason| String::from_utf8_lossy(reason).into_owned());
    let update = answer.slice_ref(reader.var_buffer()?);
    Ok(Compacted { update, kept_because })
}

/// The whole document, or what the holder of `difference_to` lacks; and what it has.
pub(super) async fn state(
    sandbox: &Sandbox,
    past: &Past,
    difference_to: Option<&[u8]>,
) -> Result<(Bytes, Bytes), JobError> {
    let mut job = past.job(STATE);
    write_optional(&mut job, difference_to);
    let answer = ask(sandbox, job).await?;
    let mut reader = Reader::new(&answer);
    let update = answer.slice_ref(reader.var_buffer()?);
    Ok((update, answer.slice_ref(reader.var_buffer()?)))
}

/// The text of a root.
pub(super) async fn text(sandbox: &Sandbox, past: &Past, root: &str) -> Result<String, JobError> {
    let mut job = past.job(TEXT);
    write_var_string(&mut job, root);
    let answer = ask(sandbox, job).await?;
    Ok(Reader::new(&answer).var_string()?.to_owned())
}

/// What the roots hold, or the one root.
pub(super) async fn json(sandbox: &Sandbox, past: &Past, root: Option<&str>) -> Result<Vec<Shown>, JobError> {
    let mut job = past.job(JSON);
    write_optional(&mut job, root.map(str::as_bytes));
    let answer = ask(sandbox, job).await?;
    Ok(read_roots(&mut Reader::new(&answer))?)
}

/// The whole document, after everything has been done with it that is done with a replica of the past.
pub(super) async fn rehearse(sandbox: &Sandbox, past: &Past) -> Result<Bytes, JobError> {
    let answer = ask(sandbox, past.job(REHEARSE)).await?;
    let update = Reader::new(&answer).var_buffer()?;
    Ok(answer.slice_ref(update))
}

/// Whether an archived document is one: its snapshots and its log are read, and they lead to the same state.
pub(super) async fn check_archive(sandbox: &Sandbox, archive: &Archive) -> Result<(), JobError> {
    let mut job = vec![CHECK];
    write_varuint(&mut job, archive.summary.oldest.get());
    write_varuint(&mut job, archive.snapshots.len() as u64);
    for Snapshot { sequence, update } in &archive.snapshots {
        write_varuint(&mut job, sequence.get());
        write_var_buffer(&mut job, update);
    }
    // Its sequences are dense: `Archive::check`.
    write_varuint(&mut job, archive.log.len() as u64);
    archive.log.iter().for_each(|event| write_var_buffer(&mut job, &event.update));
    ask(sandbox, job).await.map(drop)
}

async fn ask(sandbox: &Sandbox, job: Vec<u8>) -> Result<Bytes, JobError> {
    let mut answer = sandbox.run(job.into()).await?;
    if answer.is_empty() {
        return Err(Failure::Died { detail: "its answer is empty".into() }.into());
    }
    let head = answer.split_to(1);
    if head[0] == DONE {
        Ok(answer)
    } else {
        Err(JobError::Refused { detail: String::from_utf8_lossy(&answer).into_owned() })
    }
}

/// Does one job. What may go wrong with it goes wrong in here.
pub fn work(job: &[u8]) -> Vec<u8> {
    let mut answer = vec![DONE];
    match carry_out(job, &mut answer) {
        Ok(()) => answer,
        Err(detail) => {
            let mut answer = vec![REFUSED];
            answer.extend_from_slice(detail.as_bytes());
            answer
        }
    }
}

fn carry_out(job: &[u8], answer: &mut Vec<u8>) -> Result<(), String> {
    let unreadable = |malformed: Malformed| format!("the job cannot be read: {malformed}");
    let mut reader = Reader::new(job);
    let kind = reader.byte().map_err(unreadable)?;
    if kind == CHECK {
        let archive = read_archive(&mut reader).map_err(unreadable)?;
        return Replica::check_archive(&archive);
    }
    let (snapshot, updates) = read_past(&mut reader).map_err(unreadable)?;
    let replica = Replica::open(0, snapshot, updates.into_iter())?;
    match kind {
        COMPACT => {
            let state_vector = reader.var_buffer().map_err(unreadable)?;
            let collects_deleted = reader.byte().map_err(unreadable)? == 1;
            let compacted = replica.compacted(state_vector, collects_deleted)?;
            write_optional(answer, compacted.kept_because.as_deref().map(str::as_bytes));
            write_var_buffer(answer, &compacted.update);
        }
        STATE => {
            let update = match read_optional(&mut reader).map_err(unreadable)? {
                Some(state_vector) => replica.difference(state_vector).map_err(|error| error.to_string())?,
                None => replica.whole(),
            };
            write_var_buffer(answer, &update);
            write_var_buffer(answer, &replica.state_vector());
        }
        TEXT => {
            let root = reader.var_string().map_err(unreadable)?;
            write_var_string(answer, &replica.text(root));
        }
        JSON => {
            let root = read_optional(&mut reader).map_err(unreadable)?;
            let root = root.map(|root| String::from_utf8_lossy(root));
            write_roots(answer, &replica.roots(root.as_deref()));
        }
        REHEARSE => {
            let whole = replica.whole();
            drop(replica);
            let again = Replica::open(0, Some(&whole), std::iter::empty())?;
            // Whether it can be brought back is for whoever wants that to say.
            let _ = again.content(&|| true);
            write_var_buffer(answer, &whole);
        }
        _ => return Err("there is no such job".into()),
    }
    Ok(())
}

type Parts<'a> = (Option<&'a [u8]>, Vec<&'a [u8]>);

fn read_past<'a>(reader: &mut Reader<'a>) -> Result<Parts<'a>, Malformed> {
    let snapshot = read_optional(reader)?;
    let count = reader.count(1)?;
    let updates = (0..count).map(|_| reader.var_buffer()).collect::<Result<_, _>>()?;
    Ok((snapshot, updates))
}

/// What is looked at of an archive: the bytes, and where they belong.
pub(super) struct Bundle<'a> {
    pub(super) oldest: Sequence,
    pub(super) snapshots: Vec<(Sequence, &'a [u8])>,
    /// From `oldest` on.
    pub(super) log: Vec<&'a [u8]>,
}

fn read_archive<'a>(reader: &mut Reader<'a>) -> Result<Bundle<'a>, Malformed> {
    let oldest = Sequence::new(reader.varuint()?);
    let count = reader.count(2)?;
    let snapshots = (0..count)
        .map(|_| Ok((Sequence::new(reader.varuint()?), reader.var_buffer()?)))
        .collect::<Result<_, _>>()?;
    let count = reader.count(1)?;
    let log = (0..count).map(|_| reader.var_buffer()).collect::<Result<_, _>>()?;
    Ok(Bundle { oldest, snapshots, log })
}

fn write_optional(bytes: &mut Vec<u8>, part: Option<&[u8]>) {
    bytes.push(u8::from(part.is_some()));
    if let Some(part) = part {
        write_var_buffer(bytes, part);
    }
}

fn read_optional<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, Malformed> {
    if reader.byte()? == 0 { Ok(None) } else { reader.var_buffer().map(Some) }
}

const KINDS: [Kind; 5] = [Kind::Text, Kind::Map, Kind::Array, Kind::Xml, Kind::Undetermined];

fn write_roots(bytes: &mut Vec<u8>, roots: &[Shown]) {
    write_varuint(bytes, roots.len() as u64);
    for Shown { name, kind, value, rest } in roots {
        write_var_string(bytes, name);
        let kind = KINDS.iter().position(|known| known == kind).expect("all of them are listed");
        write_varuint(bytes, kind as u64);
        write_value(bytes, value);
        bytes.push(u8::from(rest.is_some()));
        if let Some(rest) = rest {
            write_value(bytes, rest);
        }
    }
}

fn read_roots(reader: &mut Reader<'_>) -> Result<Vec<Shown>, Malformed> {
    let count = reader.count(4)?;
    let mut roots = Vec::new();
    for _ in 0..count {
        let name = reader.var_string()?.to_owned();
        let offset = reader.offset();
        let kind = usize::try_from(reader.varuint()?).ok().and_then(|index| KINDS.get(index).copied());
        let kind = kind.ok_or_else(|| Reader::malformed(offset, "no kind of a root"))?;
        let value = read_value(reader, VALUE_NESTING_MAX)?;
        let rest = if reader.byte()? == 0 { None } else { Some(read_value(reader, VALUE_NESTING_MAX)?) };
        roots.push(Shown { name, kind, value, rest });
    }
    Ok(roots)
}

/// Types nest 200 deep, and a value in the innermost 127.
const VALUE_NESTING_MAX: usize = 512;

/// Not as JSON: a number there does not always come back as it was, and no reader takes what nests so deep.
fn write_value(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => bytes.push(0),
        Value::Bool(false) => bytes.push(1),
        Value::Bool(true) => bytes.push(2),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => {
                bytes.push(3);
                bytes.extend_from_slice(&whole.to_le_bytes());
            }
            (None, Some(whole)) => {
                bytes.push(4);
                bytes.extend_from_slice(&whole.to_le_bytes());
            }
            _ => {
                bytes.push(5);
                bytes.extend_from_slice(&number.as_f64().unwrap_or_default().to_le_bytes());
            }
        },
        Value::String(text) => {
            bytes.push(6);
            write_var_string(bytes, text);
        }
        Value::Array(values) => {
            bytes.push(7);
            write_varuint(bytes, values.len() as u64);
            values.iter().for_each(|value| write_value(bytes, value));
        }
        Value::Object(object) => {
            bytes.push(8);
            write_varuint(bytes, object.len() as u64);
            for (key, value) in object {
                write_var_string(bytes, key);
                write_value(bytes, value);
            }
        }
    }
}

fn read_value(reader: &mut Reader<'_>, nesting_left: usize) -> Result<Value, Malformed> {
    let offset = reader.offset();
    let malformed = |reason| Reader::malformed(offset, reason);
    let deeper = nesting_left.checked_sub(1).ok_or_else(|| malformed("it nests too deep"))?;
    Ok(match reader.byte()? {
        0 => Value::Null,
        1 => Value::Bool(false),
        2 => Value::Bool(true),
        3 => Value::from(i64::from_le_bytes(eight(reader)?)),
        4 => Value::from(u64::from_le_bytes(eight(reader)?)),
        5 => Number::from_f64(f64::from_le_bytes(eight(reader)?)).map_or(Value::Null, Value::Number),
        6 => Value::String(reader.var_string()?.to_owned()),
        7 => {
            let count = reader.count(1)?;
            Value::Array((0..count).map(|_| read_value(reader, deeper)).collect::<Result<_, _>>()?)
        }
        8 => {
            let count = reader.count(2)?;
            let mut object = Map::new();
            for _ in 0..count {
                let key = reader.var_string()?.to_owned();
                object.insert(key, read_value(reader, deeper)?);
            }
            Value::Object(object)
        }
        _ => return Err(malformed("no value")),
    })
}

fn eight(reader: &mut Reader<'_>) -> Result<[u8; 8], Malformed> {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(reader.exactly(8)?);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::sandbox::Settings;

    #[test]
    fn what_roots_hold_comes_back_as_it_was() {
        let mut deep = json!(1.1);
        for _ in 0..327 {
            deep = json!([deep]);
        }
        let shown = |name: &str, kind, value, rest| Shown { name: name.into(), kind, value, rest };
        let roots = vec![
            shown("a", Kind::Text, json!("text 😀"), None),
            shown("b", Kind::Map, json!({"z": [null, true, false, -1, u64::MAX, 0.1, 1e300], "a": {}}), None),
            shown("c", Kind::Undetermined, deep, Some(json!({"": ""}))),
        ];
        let mut bytes = Vec::new();
        write_roots(&mut bytes, &roots);
        assert_eq!(read_roots(&mut Reader::new(&bytes)), Ok(roots));
        for end in 0..bytes.len() {
            assert!(read_roots(&mut Reader::new(&bytes[..end])).is_err(), "cut off at {end}");
        }
    }

    #[tokio::test]
    async fn what_is_no_document_is_refused_and_is_no_failure() {
        let settings =
            Settings { program: None, memory_bytes_max: u64::MAX, time_max: Duration::from_secs(60) };
        let sandbox = Sandbox::new(settings, work, Arc::default());
        let past = Past { snapshot: None, updates: vec![Bytes::from_static(&[1, 1, 1])] };
        let refused = state(&sandbox, &past, None).await.expect_err("that is no update");
        assert!(matches!(&refused, JobError::Refused { detail } if detail.contains("update 0")), "{refused}");
        assert_eq!(work(&[])[0], REFUSED);
        assert_eq!(work(&[99, 0, 0])[0], REFUSED);
    }
}
