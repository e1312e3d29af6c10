//! What no server may log, in any test of the suite: whatever the tests send that is secret is told here, and every
//! line that a server logs, at the level of traces, is looked through.
//!
//! Servers in this process share its one log, so what one of them logs may fail the test of another.

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::{Mutex, Once, PoisonError, RwLock};

use tracing_subscriber::fmt::MakeWriter;

/// Everything that our own code and what it is built on has to say, but for frames and handshakes: floods have many.
pub const LEVEL: &str = "trace,h2=info,rustls=info";

/// Threads of servers in this process have this name. What other threads say in a panic is the test's own.
pub const SERVER_THREAD: &str = "server-of-a-test";

/// By so many bytes at its begin, or at its end, a secret is recognised. What is shorter may be anything.
const MARK: usize = 16;
/// A mark with fewer bytes that differ, such as sixteen spaces, may be anything too.
const DIFFERENT_MIN: usize = 6;

static SECRETS: RwLock<Option<HashSet<[u8; MARK]>>> = RwLock::new(None);
static FOUND: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// From now on nobody may log this.
pub fn keep_secret(text: &str) {
    keep_begin_secret(text);
    text.as_bytes().last_chunk().into_iter().for_each(keep_mark_secret);
}

/// A token: each of its parts tells something by itself.
pub fn keep_token_secret(token: &str) {
    for part in token.split('.').skip(1) {
        keep_secret(part);
    }
}

/// The query of an address, as it was sent.
pub fn keep_query_secret(address: &str) {
    if let Some(at) = address.find('?') {
        keep_begin_secret(&address[at..]);
    }
}

/// What may end in a name that may be logged by itself.
pub fn keep_begin_secret(text: &str) {
    text.as_bytes().first_chunk().into_iter().for_each(keep_mark_secret);
}

fn keep_mark_secret(mark: &[u8; MARK]) {
    if mark.iter().collect::<HashSet<_>>().len() >= DIFFERENT_MIN {
        SECRETS.write().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().insert(*mark);
    }
}

/// The first thing in `text` that was to be kept secret.
pub fn secret_in(text: &str) -> Option<&str> {
    let secrets = SECRETS.read().unwrap_or_else(PoisonError::into_inner);
    let secrets = secrets.as_ref()?;
    let at = text.as_bytes().windows(MARK).position(|window| secrets.contains(window))?;
    let end = (at + MARK..text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
    let start = (0..=at).rev().find(|start| text.is_char_boundary(*start)).unwrap_or(0);
    Some(&text[start..end])
}

/// Looks through what a server has logged.
///
/// # Panics
/// If there is something that was to be kept secret.
pub fn check_nothing_is_told(log: &str) {
    for line in log.lines() {
        assert_eq!(secret_in(line), None, "a secret is in the log: {line}");
    }
}

/// Listens, from the first call on, to what servers in this process log and say in a panic.
pub fn listen() {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        tracing_subscriber::fmt()
            .with_env_filter(LEVEL)
            .with_ansi(false)
            .with_writer(Listener)
            .try_init()
            .expect("nobody else listens");
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name() == Some(SERVER_THREAD) {
                hear(&panic.to_string());
            }
            usual(panic);
        }));
    });
}

/// Ends the test of a server if secrets were told since the last one ended.
///
/// # Panics
/// Then, unless the test has failed already.
pub fn check_nothing_was_heard() {
    let found = std::mem::take(&mut *FOUND.lock().unwrap_or_else(PoisonError::into_inner));
    assert!(found.is_empty() || std::thread::panicking(), "secrets are in the log: {found:#?}");
}

fn hear(text: &str) {
    if secret_in(text).is_some() {
        FOUND.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
    }
}

/// Looks at each event as it is written.
struct Listener;

impl Write for Listener {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        hear(&String::from_utf8_lossy(event));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Listener {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

#[test]
fn a_secret_is_found_wherever_it_stands_and_whole_or_cut() {
    keep_token_secret("eyJhbGciOiJIUzI1NiJ9.eyJpZCI6Ik9mVGhpc1Rlc3RPbmx5In0.c2lnbmF0dXJlLW9mLXRoaXMtdGVzdA");
    keep_query_secret("/docs/a/state?marker-of-this-test=1");
    for told in [
        "é eyJpZCI6Ik9mVGhpc1Rlc3RPbmx5In0 é",
        "the end is dXJlLW9mLXRoaXMtdGVzdA",
        "GET /docs/a/state?marker-of-this-test=1",
    ] {
        assert!(secret_in(told).is_some(), "{told}");
    }
    assert_eq!(secret_in("GET /docs/a/state, by marker-of-this-test, eyJhbGciOiJIUzI1NiJ9"), None);
}
