//! What the server promises, asked of a running server over HTTP.
//!
//! Each test has a server of its own on a free port of the loopback address, waits for facts and
//! never for time, and leaves nothing behind.

mod admin_listener;
mod connections;
mod convergence;
mod cross_origin;
mod curl_examples;
mod documents;
mod durability;
mod examples;
mod faults;
mod floods;
mod hostile;
mod json;
mod json_patch;
mod kill;
mod log;
mod many_streams;
mod metrics;
mod names;
mod openapi;
mod operations;
mod permissions;
mod presence;
mod proxy;
mod rates;
mod readme;
mod real_input;
mod resources;
mod restoring;
mod sandbox;
mod secrets;
mod settings;
mod sizes;
mod soak;
mod state;
mod store_faults;
mod stream;
mod stream_start;
mod support;
mod tenure;
mod text_edits;
mod text_properties;
mod tls;
mod updates;
