//! PromptGrimoire Sync: shared documents kept in step over plain HTTP.
//!
//! An update's life: `server` takes bytes off a connection, `http::front` finds out who sends them (`auth`), a handler
//! asks for a grant, for which `registry` hands out the document, and the document's own task (`document::actor`) does the
//! rest in this order: it reads them strictly and refuses gaps (`document::admission`), applies them to its replica in a
//! transaction that carries their origin, appends them to the log (`store`), and when the log has them answers, and
//! broadcasts them to everybody else, whose streams (`http::events`) pass them on with their sequence as the event's id.
//!
//! Invariants:
//! - what is acknowledged is durable, and nobody is told anything that is not;
//! - a document's sequences are dense, and each stream carries every one of them in order;
//! - every prefix of a log is a valid Yjs document: nothing is ever parked;
//! - a refused change leaves no trace in memory, in the log, or on a stream;
//! - without a grant nothing is read or written: what was not permitted does not compile;
//! - imports point down: `server` → `http` → `registry` → `document` → `store`, `sandbox` → `auth` → `event`, `ids`,
//!   `metrics`.
//!
//! Beside that way: what may hang or crash in the CRDT library, such as writing snapshots and rebuilding the past, is
//! done by helper processes (`sandbox`), and a document that does them in is quarantined. `archive` is the text form of
//! whole documents, which `http` serves and takes, and `transfer` writes and reads as a command.

pub mod archive;
pub mod auth;
pub mod document;
pub mod event;
pub mod http;
pub mod ids;
pub mod metrics;
pub mod registry;
pub mod sandbox;
pub mod server;
pub mod settings;
pub mod store;
pub mod telemetry;
pub mod transfer;
