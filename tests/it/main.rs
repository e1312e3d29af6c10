//! What the server promises, asked of a running server over HTTP.
//!
//! Each test has a server of its own on a free port of the loopback address, waits for facts and
//! never for time, and leaves nothing behind.

mod convergence;
mod durability;
mod faults;
mod hostile;
mod kill;
mod proxy;
mod real_input;
mod store_faults;
#[allow(dead_code, unused_imports, reason = "the tests that use the rest follow")]
mod support;
