//! Servers to ask, clients that ask, and what they understand of the answers.

pub mod awareness;
pub mod certificate;
pub mod client;
pub mod faulty_disk;
pub mod journal;
pub mod peer;
pub mod process;
pub mod secrets;
pub mod server;
pub mod stream;
pub mod tokens;

use std::future::Future;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

pub use self::certificate::Certificate;
pub use self::client::{Ack, Answer, Client, Raw};
pub use self::peer::Peer;
pub use self::process::Process;
pub use self::server::Server;
pub use self::stream::{Event, Frame, Stream};

/// How long anything may take that must happen: far more than it takes, so that only a defect gets there.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// How often a fact that announces itself to nobody is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The outcome of something that must happen.
///
/// # Panics
/// If it has not happened by the deadline; `what` says what it was.
pub async fn within_deadline<T>(what: &str, happening: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, happening).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("within {DEADLINE:?} there was no {what}"),
    }
}

/// Asks until there is an answer: for facts that nothing announces.
///
/// # Panics
/// If there is none by the deadline.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    within_deadline(what, async {
        loop {
            if let Some(fact) = ask().await {
                return fact;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    })
    .await
}

/// Base64 as the server writes it.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of a base64 that the server wrote.
pub fn from_base64(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap_or_else(|error| panic!("{text:?} is no canonical base64: {error}"))
}

/// The bytes of a field that holds base64.
pub fn bytes_of(value: &serde_json::Value) -> Vec<u8> {
    from_base64(value.as_str().unwrap_or_else(|| panic!("{value} is no text")))
}
