//! Tests of the whole, and of parts that need a process of their own.

mod store_faults;
mod support;
