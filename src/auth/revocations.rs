//! What was taken back before its time: tokens, all tokens of a user, or everybody's access to a document.
//!
//! A revocation concerns the tokens that were issued up to its second; one without `iat` may have been, so it is
//! concerned too. Whoever is given a new token afterwards is welcome.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

use tokio::sync::watch;

use crate::event::Timestamp;
use crate::ids::DocumentId;

use super::grant::Bearer;

/// Whose access is taken back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Revoked {
    /// All tokens of this `sub`.
    User(String),
    /// The tokens with this `jti`.
    Token(String),
    /// Everybody's access to a document.
    Document(DocumentId),
}

/// Something taken back, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    pub revoked: Revoked,
    pub at: Timestamp,
}

/// All that was taken back and may still matter.
#[derive(Debug)]
pub struct Revocations {
    /// When, in seconds since 1970, counted up: the second belongs to it.
    kept: RwLock<HashMap<Revoked, i64>>,
    /// Spares most servers the lock: they have none.
    count: AtomicUsize,
    changed: watch::Sender<()>,
}

impl Default for Revocations {
    fn default() -> Self {
        Self { kept: RwLock::default(), count: AtomicUsize::new(0), changed: watch::Sender::new(()) }
    }
}

impl Revocations {
    /// Adds what was kept before or was just decided. A later one for the same stands.
    pub fn add(&self, revocation: Revocation) {
        let at = revocation.at.milliseconds().div_euclid(1000);
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let known = kept.entry(revocation.revoked).or_insert(at);
        *known = at.max(*known);
        self.count.store(kept.len(), Ordering::Release);
        drop(kept);
        self.changed.send_replace(());
    }

    /// Tells of additions, from now on.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether a token is no longer good for anything.
    pub fn refuse(&self, bearer: &Bearer) -> bool {
        self.any(bearer, || {
            let user = Revoked::User(bearer.user.clone());
            [Some(user), bearer.token.clone().map(Revoked::Token)].into_iter().flatten().collect()
        })
    }

    /// Whether a token is no longer good for one document.
    pub fn withhold(&self, bearer: &Bearer, document: &DocumentId) -> bool {
        self.any(bearer, || vec![Revoked::Document(document.clone())])
    }

    fn any(&self, bearer: &Bearer, concerning: impl FnOnce() -> Vec<Revoked>) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let was_issued_by = |at: &i64| bearer.issued_at.is_none_or(|issued| issued <= *at);
        concerning().iter().filter_map(|revoked| kept.get(revoked)).any(was_issued_by)
    }
}

#[cfg(test)]
mod tests {
    use super::super::access::Rights;
    use super::*;

    fn bearer(user: &str, token: &str, issued_at: Option<i64>) -> Bearer {
        let (user, token) = (user.to_owned(), Some(token.to_owned()));
        Bearer { user, token, issued_at, expires_at: 5000, rights: Rights::default() }
    }

    fn revoke(revocations: &Revocations, revoked: Revoked, second: i64) {
        revocations.add(Revocation { revoked, at: Timestamp::from_milliseconds(second * 1000 + 400) });
    }

    #[test]
    fn a_revocation_concerns_what_was_issued_up_to_its_second() {
        let revocations = Revocations::default();
        revoke(&revocations, Revoked::User("ada".into()), 1000);
        assert!(revocations.refuse(&bearer("ada", "t1", Some(1000))));
        assert!(!revocations.refuse(&bearer("ada", "t1", Some(1001))));
        assert!(revocations.refuse(&bearer("ada", "t1", None)), "it may have been issued before");
        assert!(!revocations.refuse(&bearer("bob", "t1", Some(1))));
        revoke(&revocations, Revoked::User("ada".into()), 900);
        assert!(revocations.refuse(&bearer("ada", "t1", Some(1000))), "the later one stands");
    }

    #[test]
    fn a_name_is_revoked_as_what_it_is() {
        let revocations = Revocations::default();
        revoke(&revocations, Revoked::Token("ada".into()), 1000);
        assert!(!revocations.refuse(&bearer("ada", "t1", Some(1))));
        assert!(revocations.refuse(&bearer("bob", "ada", Some(1))));
        let document: DocumentId = "ada".parse().expect("an id");
        assert!(!revocations.withhold(&bearer("bob", "ada", Some(1)), &document));
        revoke(&revocations, Revoked::Document(document.clone()), 1000);
        assert!(revocations.withhold(&bearer("eve", "t9", Some(1)), &document));
        assert!(!revocations.refuse(&bearer("eve", "t9", Some(1))), "it is good for other documents");
    }
}
