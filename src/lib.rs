//! PromptGrimoire Sync: shared documents kept in step over plain HTTP.
pub mod document;
pub mod event;
pub mod ids;
pub mod store;
