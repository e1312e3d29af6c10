//! Archived documents as text: JSON lines, so that any number of them can be streamed, looked at and cut apart.
//!
//! A document is a line that begins it, `{"document":"…","epoch":"…","seq":…,…}`, a line for each of its snapshots,
//! updates and versions, and a line that ends it, `{"end":"…"}`. Bytes are base64; times RFC 3339.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::event::{Event, Origin, Timestamp};
use crate::ids::{DocumentId, Sequence};
use crate::store::{Archive, Snapshot, Summary, Version};

/// Documents that are looked up at a time where many are archived.
pub const PAGE_DOCUMENTS: usize = 100;

/// How much text one document may have here, in bytes: its history takes several times what the document does.
pub fn text_bytes_max(document_bytes_max: usize) -> usize {
    document_bytes_max.saturating_mul(8)
}

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Begin(Begin),
    Snapshot { snapshot: u64, update: String },
    Version { version: String, seq: u64, created_at: String },
    Update(Update),
    End { end: String },
    LeftOut { left_out: String, reason: String },
}

#[derive(Debug, Serialize, Deserialize)]
struct Begin {
    document: String,
    epoch: String,
    seq: u64,
    /// The first sequence that the log still holds.
    oldest: u64,
    created_at: String,
    updated_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frozen_at: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Update {
    seq: u64,
    origin: Option<String>,
    user: Option<String>,
    time: String,
    update: String,
}

/// The lines of one document, each with its line feed.
pub fn lines(archive: Archive) -> impl Iterator<Item = String> {
    let Archive { summary, snapshots, log, versions } = archive;
    let document = summary.document.to_string();
    let begin = Line::Begin(Begin {
        document: document.clone(),
        epoch: summary.epoch.to_string(),
        seq: summary.head.get(),
        oldest: summary.oldest.get(),
        created_at: summary.created_at.to_string(),
        updated_at: summary.updated_at.to_string(),
        frozen_at: summary.frozen_at.map(|time| time.to_string()),
    });
    let snapshots = snapshots.into_iter().map(|snapshot| Line::Snapshot {
        snapshot: snapshot.sequence.get(),
        update: STANDARD.encode(&snapshot.update),
    });
    let updates = log.into_iter().map(|event| {
        Line::Update(Update {
            seq: event.sequence.get(),
            origin: event.origin.client().map(ToString::to_string),
            user: event.user,
            time: event.time.to_string(),
            update: STANDARD.encode(&event.update),
        })
    });
    let versions = versions.into_iter().map(|version| Line::Version {
        version: version.name.as_str().to_owned(),
        seq: version.sequence.get(),
        created_at: version.created_at.to_string(),
    });
    let end = Line::End { end: document };
    std::iter::once(begin)
        .chain(snapshots)
        .chain(updates)
        .chain(versions)
        .chain([end])
        .map(|line| text(&line))
}

/// The line that stands for a document which could not be archived.
pub fn left_out(document: &DocumentId, reason: &str) -> String {
    let line = Line::LeftOut { left_out: document.to_string(), reason: reason.to_owned() };
    text(&line)
}

fn text(line: &Line) -> String {
    let mut text = serde_json::to_string(line).expect("lines are made of strings and numbers");
    text.push('\n');
    text
}

/// What lines have put together.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    Document(Box<Archive>),
    /// One that could not be archived.
    LeftOut {
        document: String,
        reason: String,
    },
}

/// Why lines are no archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct InvalidArchive {
    /// Counted from 1.
    pub line: u64,
    pub reason: String,
}

/// Puts documents together, line by line.
#[derive(Debug)]
pub struct Reader {
    lines: u64,
    open: Option<Archive>,
    bytes: usize,
    document_bytes_max: usize,
}

impl Reader {
    /// `document_bytes_max`: how much text one document may have, in bytes.
    pub fn new(document_bytes_max: usize) -> Self {
        Self { lines: 0, open: None, bytes: 0, document_bytes_max }
    }

    /// Takes the next line. Returns a document when its last line has come. An empty line is passed over.
    ///
    /// # Errors
    /// The line is none of an archive, or has no place here, or what it ends does not hang together.
    pub fn take(&mut self, line: &str) -> Result<Option<Taken>, InvalidArchive> {
        self.lines += 1;
        self.bytes += line.len();
        if line.trim().is_empty() {
            return Ok(None);
        }
        self.take_line(line).map_err(|reason| InvalidArchive { line: self.lines, reason })
    }

    /// To be called after the last line.
    ///
    /// # Errors
    /// A document has begun and not ended.
    pub fn finish(self) -> Result<(), InvalidArchive> {
        match self.open {
            None => Ok(()),
            Some(archive) => Err(InvalidArchive {
                line: self.lines,
                reason: format!("document `{}` is cut off", archive.summary.document),
            }),
        }
    }

    fn take_line(&mut self, line: &str) -> Result<Option<Taken>, String> {
        if self.bytes > self.document_bytes_max {
            return Err(format!("a document may have {} bytes of text here", self.document_bytes_max));
        }
        let line: Line = serde_json::from_str(line).map_err(|_| {
            String::from("it must begin or end a document, or be a snapshot, an update or a version of one")
        })?;
        if let Line::Begin(begin) = line {
            if let Some(open) = &self.open {
                return Err(format!("document `{}` has not ended yet", open.summary.document));
            }
            self.open = Some(Archive {
                summary: parse_begin(begin)?,
                snapshots: Vec::new(),
                log: Vec::new(),
                versions: Vec::new(),
            });
            return Ok(None);
        }
        if let (Line::LeftOut { left_out, reason }, None) = (&line, &self.open) {
            self.bytes = 0;
            return Ok(Some(Taken::LeftOut { document: left_out.clone(), reason: reason.clone() }));
        }
        let open = self.open.as_mut().ok_or("it belongs to no document")?;
        match line {
            Line::Begin(_) => unreachable!("it was taken above"),
            Line::Snapshot { snapshot, update } => {
                let sequence = Sequence::new(snapshot);
                open.snapshots.push(Snapshot { sequence, update: parse_bytes(&update)? });
            }
            Line::Version { version, seq, created_at } => open.versions.push(Version {
                name: version.parse().map_err(|error| format!("`version`: {error}"))?,
                sequence: Sequence::new(seq),
                created_at: parse_time(&created_at)?,
            }),
            Line::Update(update) => open.log.push(parse_update(update)?),
            Line::End { end } if end == open.summary.document.as_str() => {
                let mut archive = self.open.take().expect("it is open");
                archive.check()?;
                archive.summary.bytes =
                    archive.snapshots.iter().map(|snapshot| snapshot.update.len() as u64).sum();
                archive.summary.bytes +=
                    archive.log.iter().map(|event| event.update.len() as u64).sum::<u64>();
                self.bytes = 0;
                return Ok(Some(Taken::Document(Box::new(archive))));
            }
            Line::End { .. } | Line::LeftOut { .. } => {
                return Err(format!("document `{}` has not ended yet", open.summary.document));
            }
        }
        Ok(None)
    }
}

fn parse_begin(begin: Begin) -> Result<Summary, String> {
    let document: DocumentId = begin.document.parse().map_err(|error| format!("`document`: {error}"))?;
    Ok(Summary {
        document,
        epoch: begin.epoch.parse().map_err(|_| "`epoch` is none")?,
        head: Sequence::new(begin.seq),
        oldest: Sequence::new(begin.oldest),
        bytes: 0,
        created_at: parse_time(&begin.created_at)?,
        updated_at: parse_time(&begin.updated_at)?,
        frozen_at: begin.frozen_at.as_deref().map(parse_time).transpose()?,
    })
}

fn parse_update(update: Update) -> Result<Event, String> {
    let origin = match update.origin {
        None => Origin::Anonymous,
        Some(client) => Origin::Client(client.parse().map_err(|error| format!("`origin`: {error}"))?),
    };
    Ok(Event {
        sequence: Sequence::new(update.seq),
        origin,
        user: update.user,
        time: parse_time(&update.time)?,
        update: parse_bytes(&update.update)?,
    })
}

fn parse_bytes(text: &str) -> Result<Bytes, String> {
    STANDARD.decode(text).map(Bytes::from).map_err(|error| format!("`update` is not base64: {error}"))
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|()| format!("{text:?} is not a time as RFC 3339 has it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;

    fn archive() -> Archive {
        let event = |number: u64| Event {
            sequence: Sequence::new(number),
            origin: if number == 4 {
                Origin::Anonymous
            } else {
                Origin::Client("tab-1".parse().expect("a name"))
            },
            user: (number == 5).then(|| "Ada \u{1F600}".into()),
            time: Timestamp::from_milliseconds(1_700_000_000_123),
            update: Bytes::from(vec![0, number as u8, 255]),
        };
        let snapshot =
            |number| Snapshot { sequence: Sequence::new(number), update: Bytes::from_static(b"whole") };
        Archive {
            summary: Summary {
                document: "lecture-7".parse().expect("a name"),
                epoch: Epoch::from_entropy(7),
                head: Sequence::new(5),
                oldest: Sequence::new(4),
                bytes: 16,
                created_at: Timestamp::from_milliseconds(1_700_000_000_000),
                updated_at: Timestamp::from_milliseconds(1_700_000_000_123),
                frozen_at: Some(Timestamp::from_milliseconds(1_700_000_000_124)),
            },
            snapshots: vec![snapshot(2), snapshot(3)],
            log: vec![event(4), event(5)],
            versions: vec![Version {
                name: "before the break".parse().expect("a name"),
                sequence: Sequence::new(2),
                created_at: Timestamp::from_milliseconds(1_700_000_000_005),
            }],
        }
    }

    #[test]
    fn a_document_reads_back_as_it_was() {
        let mut reader = Reader::new(1 << 20);
        let mut found = Vec::new();
        for line in lines(archive()).chain(["\n".into()]).chain(lines(archive())) {
            found.extend(reader.take(&line).expect("it was written so"));
        }
        assert_eq!(reader.finish(), Ok(()));
        let expected = || Taken::Document(Box::new(archive()));
        assert_eq!(found, [expected(), expected()]);
    }

    #[test]
    fn a_line_that_is_missing_is_noticed() {
        let lines: Vec<_> = lines(archive()).collect();
        for missing in 0..lines.len() {
            let mut reader = Reader::new(1 << 20);
            let rest = lines.iter().enumerate().filter(|(index, _)| *index != missing);
            let mut whole = 0;
            let failed = rest.into_iter().try_for_each(|(_, line)| {
                reader.take(line).map(|found| whole += usize::from(found.is_some()))
            });
            let failed = failed.and_then(|()| reader.finish());
            // Without its name a version is none, and the document is whole.
            let is_version = lines[missing].contains("before the break");
            assert_eq!((failed.is_ok(), whole == 1), (is_version, is_version), "without {}", lines[missing]);
        }
    }

    #[test]
    fn an_error_names_the_line() {
        let mut reader = Reader::new(1 << 20);
        reader.take("").expect("an empty line is none");
        let error = reader.take(r#"{"end":"a"}"#).expect_err("nothing has begun");
        assert_eq!(error.to_string(), "line 2: it belongs to no document");
    }
}
