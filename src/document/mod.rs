//! Documents: what updates look like, which of them a document may take, and the document itself.

pub mod admission;
pub mod format;
pub mod lib0;

#[cfg(test)]
mod trials;
