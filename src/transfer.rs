//! The commands `export` and `import`: documents out of the store and into it, while no server uses it.
//!
//! A running server does the same at `/export` and `/import`.

use std::io::{BufRead, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::archive::{self, InvalidArchive, Reader, Taken};
use crate::document::check_archive;
use crate::document::handle::DocumentError;
use crate::ids::DocumentId;
use crate::metrics::Metrics;
use crate::sandbox::Sandbox;
use crate::server::{self, StartError, open_store};
use crate::settings::{Settings, StoreUrl};
use crate::store::{Store, StoreError};

/// Why a transfer ended early. What was imported before is there.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(
        "store.url is `memory`: there is nothing to export from, or to import into, but a running server"
    )]
    NoStore,
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("there is no document `{0}`")]
    NotFound(DocumentId),
    #[error("the archive cannot be read: {0}")]
    Archive(#[from] InvalidArchive),
    /// Nobody could look at it.
    #[error("a document cannot be checked: {0}")]
    Check(#[from] DocumentError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// What a transfer did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub documents: u64,
    /// Documents that were left out, and why.
    pub left_out: Vec<(String, String)>,
}

/// Which documents to export.
#[derive(Debug, Clone)]
pub enum Selection {
    One(DocumentId),
    Prefix(String),
}

/// Writes documents as JSON lines.
///
/// # Errors
/// `NotFound` for one that is not there. Of many, those that are damaged are left out.
pub async fn export(
    settings: &Settings,
    selection: Selection,
    output: &mut impl Write,
) -> Result<Outcome, TransferError> {
    let store = open(settings).await?;
    let progress = progress("exported");
    let result = export_from(&*store, selection, output, &progress).await;
    progress.finish_and_clear();
    store.close().await;
    result
}

async fn export_from(
    store: &dyn Store,
    selection: Selection,
    output: &mut impl Write,
    progress: &ProgressBar,
) -> Result<Outcome, TransferError> {
    let mut outcome = Outcome::default();
    let prefix = match selection {
        Selection::One(id) => {
            let archive = store.archive(&id).await?.ok_or(TransferError::NotFound(id))?;
            archive::lines(archive).try_for_each(|line| output.write_all(line.as_bytes()))?;
            output.flush()?;
            outcome.documents = 1;
            return Ok(outcome);
        }
        Selection::Prefix(prefix) => prefix,
    };
    let mut after: Option<DocumentId> = None;
    loop {
        let page =
            store.list(&prefix, after.as_ref().map(DocumentId::as_str), archive::PAGE_DOCUMENTS).await?;
        for summary in &page {
            let id = &summary.document;
            match store.archive(id).await {
                Ok(Some(archive)) => {
                    archive::lines(archive).try_for_each(|line| output.write_all(line.as_bytes()))?;
                    outcome.documents += 1;
                    progress.inc(1);
                }
                Ok(None) => {}
                Err(StoreError::Corrupt { detail, .. }) => {
                    output.write_all(archive::left_out(id, &detail).as_bytes())?;
                    outcome.left_out.push((id.to_string(), detail));
                }
                Err(error) => return Err(error.into()),
            }
        }
        match page.last() {
            Some(last) if page.len() == archive::PAGE_DOCUMENTS => after = Some(last.document.clone()),
            _ => break,
        }
    }
    output.flush()?;
    Ok(outcome)
}

/// Reads documents as JSON lines and writes each into the store, unless there is one of its name.
///
/// # Errors
/// Names the line that is none of an archive.
pub async fn import(settings: &Settings, input: &mut impl BufRead) -> Result<Outcome, TransferError> {
    let store = open(settings).await?;
    let progress = progress("imported");
    let document_bytes_max = archive::text_bytes_max(settings.limits.max_document_bytes);
    let sandbox = server::sandbox(settings, &Metrics::default());
    let result = import_into(&*store, &sandbox, input, Reader::new(document_bytes_max), &progress).await;
    progress.finish_and_clear();
    store.close().await;
    result
}

async fn import_into(
    store: &dyn Store,
    sandbox: &Sandbox,
    input: &mut impl BufRead,
    mut reader: Reader,
    progress: &ProgressBar,
) -> Result<Outcome, TransferError> {
    let mut outcome = Outcome::default();
    let mut line = String::new();
    while input.read_line(&mut line)? > 0 {
        let taken = reader.take(&line)?;
        line.clear();
        let (document, reason) = match taken {
            None => continue,
            Some(Taken::LeftOut { document, reason }) => (document, reason),
            Some(Taken::Document(archive)) => {
                let document = archive.summary.document.to_string();
                match check_archive(sandbox, &archive).await {
                    Ok(()) if store.unarchive(*archive).await? => {
                        outcome.documents += 1;
                        progress.inc(1);
                        continue;
                    }
                    Ok(()) => (document, "it exists already".into()),
                    Err(error @ DocumentError::Unavailable { .. }) => return Err(error.into()),
                    Err(error) => (document, error.to_string()),
                }
            }
        };
        outcome.left_out.push((document, reason));
    }
    reader.finish()?;
    Ok(outcome)
}

async fn open(settings: &Settings) -> Result<std::sync::Arc<dyn Store>, TransferError> {
    if settings.store.url == StoreUrl::Memory {
        return Err(TransferError::NoStore);
    }
    Ok(open_store(settings).await?)
}

/// Counts documents on a terminal; elsewhere it shows nothing.
fn progress(done: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} {human_pos} documents, {per_sec}, {elapsed}")
        .expect("the template is right");
    let progress = ProgressBar::new_spinner().with_style(style).with_message(done);
    progress.enable_steady_tick(Duration::from_millis(200));
    progress
}
