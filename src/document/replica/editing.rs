//! Edits of a text, given to the CRDT library in one transaction.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use yrs::types::Attrs;
use yrs::types::text::YChange;
use yrs::{Any, GetString, Map, Out, ReadTxn, Text, TextRef, Transact, TransactionMut};

use super::super::format;
use super::super::handle::DocumentError;
use super::super::json::utf16_length;
use super::super::text::{Attributes, Content, Misfit, Step, TextChange, Unit};
use super::{Allowance, ChangeError, Changed, Replica, begin, deletions_of};
use crate::event::Origin;

impl Replica {
    /// Edits a text, whole or not at all. The edit is checked to its end before a transaction opens.
    pub(in super::super) fn edit(
        &mut self,
        change: &TextChange,
        origin: &Origin,
        allowance: &Allowance<'_>,
    ) -> Result<Changed, ChangeError> {
        let TextChange { root, unit, edit } = change;
        let mut content = self.take_content(root)?;
        let planned = content.plan(edit, *unit, allowance.is_patient, allowance.difference_until);
        let steps = planned.map_err(|misfit| match misfit {
            Misfit::InvalidPosition { position, length } => {
                ChangeError::Refused(DocumentError::InvalidPosition { position, length })
            }
            Misfit::TooCostly => ChangeError::TooCostly,
        })?;
        self.check_size(steps.iter().map(Step::added_bytes).sum(), allowance.bytes_max)?;
        if steps.is_empty() {
            self.content = Some((root.clone(), content));
            return Ok(Changed::Nothing);
        }
        let text: TextRef = self.doc.get_or_insert_text(root.as_str());
        let mut transaction = begin(&self.doc, origin)?;
        for step in steps {
            if !(allowance.is_patient)() {
                return Err(ChangeError::TooCostly);
            }
            take(&text, &mut transaction, step)?;
        }
        let update = Bytes::from(transaction.encode_update_v1());
        let derived = deletions_of(&transaction);
        drop(transaction);
        // From here on a failure means that the replica knows more than `known`.
        let broken = |reason: String| ChangeError::Broken { reason };
        let outline = format::read_update(&update).map_err(|error| broken(error.to_string()))?;
        let admission = self.known.admit(&outline).map_err(|refusal| broken(refusal.to_string()))?;
        self.formats.note(&outline);
        let changes_nothing = admission.changes_nothing();
        self.known.record(admission, &outline.deletions, &derived);
        self.content = Some((root.clone(), content));
        if changes_nothing {
            // Formats that were there already.
            return Ok(Changed::Nothing);
        }
        self.encoded_bytes += update.len();
        Ok(Changed::Update(update))
    }

    /// Merges an edit that was made on an earlier state, under a number that is new to the document.
    ///
    /// `text`: the root that must be a text still, if it was an edit of one.
    pub(super) fn merge_edit(
        &mut self,
        update: &Bytes,
        number: format::ClientNumber,
        text: Option<&str>,
        origin: &Origin,
        allowance: &Allowance<'_>,
    ) -> Result<Changed, ChangeError> {
        if self.has_written(number) {
            let reason = "the number drawn for the edit is another client's".into();
            return Err(DocumentError::Unavailable { reason }.into());
        }
        if let Some(root) = text {
            self.read_content(root)?;
        }
        let changed = self.merge(update, origin, allowance.bytes_max, allowance.is_patient)?;
        Ok(if changed { Changed::Update(update.clone()) } else { Changed::Nothing })
    }

    /// The length of a text, in `unit`.
    pub(in super::super) fn text_length(&mut self, root: &str, unit: Unit) -> Result<u64, DocumentError> {
        let content = self.take_content(root)?;
        let length = content.length(unit);
        self.content = Some((root.to_owned(), content));
        Ok(length)
    }

    /// A copy of a text: the one at hand, if nothing has changed since.
    fn take_content(&mut self, root: &str) -> Result<Content, DocumentError> {
        match self.content.take() {
            Some((name, content)) if name == root => Ok(content),
            _ => self.read_content(root),
        }
    }

    /// Copies a text, if the root is one.
    ///
    /// A root has no type before somebody asks for it as one, and asking for the wrong one does harm (it can hang).
    /// So nothing is asked for: what is in it must be what texts are made of.
    ///
    /// # Errors
    /// `WrongType`.
    fn read_content(&self, root: &str) -> Result<Content, DocumentError> {
        let transaction = self.doc.transact();
        let mut content = Content::default();
        let (Some(text), Some(map)) = (transaction.get_text(root), transaction.get_map(root)) else {
            return Ok(content);
        };
        let string = text.get_string(&transaction);
        let others = (text.len(&transaction) as usize).saturating_sub(utf16_length(&string) as usize);
        if others == 0 && !string.is_empty() {
            content.push_text(&string);
            return Ok(content);
        }
        // What follows copies all open formats for each piece of the text.
        if !self.formats.allow(others) {
            let reason = "the text has too many formats and embeds to be edited as text";
            return Err(DocumentError::Invalid { reason: reason.into() });
        }
        let mut has_types = false;
        let mut has_text = false;
        for part in text.diff(&transaction, YChange::identity) {
            match part.insert {
                Out::Any(Any::String(text)) => {
                    has_text = true;
                    content.push_text(&text);
                }
                Out::Any(_) => {
                    has_text = true;
                    content.push_embed();
                }
                _ => {
                    has_types = true;
                    content.push_embed();
                }
            }
        }
        // What has no place in a text is counted, and is not among its parts.
        let is_whole = content.length(Unit::Utf16) == u64::from(text.len(&transaction));
        let is_text = has_text || (!has_types && map.len(&transaction) == 0);
        if is_whole && is_text {
            Ok(content)
        } else {
            Err(DocumentError::WrongType { root: root.to_owned() })
        }
    }

    /// The text of a root, without formats and embeds; empty if there is no such root.
    pub(in super::super) fn text(&self, root: &str) -> String {
        let transaction = self.doc.transact();
        transaction.get_text(root).map_or_else(String::new, |text| text.get_string(&transaction))
    }
}

fn take(text: &TextRef, transaction: &mut TransactionMut<'_>, step: Step) -> Result<(), ChangeError> {
    match step {
        Step::Insert { at, text: inserted, attributes: None } => text.insert(transaction, at, &inserted),
        Step::Insert { at, text: inserted, attributes: Some(attributes) } => {
            text.insert_with_attributes(transaction, at, &inserted, formats(&attributes)?);
        }
        Step::Embed { at, value, attributes } => {
            text.insert_embed_with_attributes(transaction, at, any(&value)?, formats(&attributes)?);
        }
        Step::Delete { at, length } => text.remove_range(transaction, at, length),
        Step::Format { at, length, attributes } => {
            text.format(transaction, at, length, formats(&attributes)?);
        }
    }
    Ok(())
}

fn formats(attributes: &Attributes) -> Result<Attrs, ChangeError> {
    attributes.iter().map(|(name, value)| Ok((Arc::from(name.as_str()), any(value)?))).collect()
}

fn any(value: &Value) -> Result<Any, ChangeError> {
    Any::from_json(&value.to_string()).map_err(|error| ChangeError::Broken { reason: error.to_string() })
}
