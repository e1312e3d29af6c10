//! How long a reader may read: until its token ends or is taken back.
//!
//! Readers have no clock of their own for it: all of them are looked over, now and then and at every revocation.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use tokio::sync::Notify;

use crate::auth::access::Read;
use crate::auth::grant::{Bearer, Grant};
use crate::auth::revocations::Revocations;
use crate::document::subscription::Closing;
use crate::ids::DocumentId;

/// One reader's.
#[derive(Debug)]
pub struct Tenure {
    bearer: Arc<Bearer>,
    document: DocumentId,
    over: OnceLock<Closing>,
    told: Notify,
}

impl Tenure {
    /// Whether it is over, and why.
    pub fn is_over(&self) -> Option<Closing> {
        self.over.get().copied()
    }

    /// Waits for its end.
    pub async fn end(&self) -> Closing {
        let told = self.told.notified();
        tokio::pin!(told);
        // Enabled before the look: an end that comes between the two is told.
        told.as_mut().enable();
        match self.is_over() {
            Some(closing) => closing,
            None => {
                told.await;
                self.is_over().expect("it is told after it is set")
            }
        }
    }

    fn look(&self, now: i64, revocations: &Revocations) {
        let is_revoked =
            || revocations.refuse(&self.bearer) || revocations.withhold(&self.bearer, &self.document);
        let closing = if now >= self.bearer.expires_at() {
            Closing::TokenExpired
        } else if is_revoked() {
            Closing::Revoked
        } else {
            return;
        };
        if self.over.set(closing).is_ok() {
            self.told.notify_waiters();
        }
    }
}

/// Those of all readers whose token is known.
#[derive(Debug)]
pub struct Tenures {
    revocations: Arc<Revocations>,
    running: Mutex<Vec<Weak<Tenure>>>,
}

impl Tenures {
    pub fn new(revocations: Arc<Revocations>) -> Self {
        Self { revocations, running: Mutex::default() }
    }

    /// `now`: in seconds since 1970. `None`: nobody was asked for a token, so none can end.
    pub fn begin(&self, grant: &Grant<Read>, now: i64) -> Option<Arc<Tenure>> {
        let (bearer, document) = (grant.bearer()?.clone(), grant.document().clone());
        let tenure = Arc::new(Tenure { bearer, document, over: OnceLock::new(), told: Notify::new() });
        self.running.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&tenure));
        // What was revoked since it was granted has looked over the others already.
        tenure.look(now, &self.revocations);
        Some(tenure)
    }

    /// Ends those whose time has come.
    pub fn look_over(&self, now: i64) {
        let running: Vec<Arc<Tenure>> = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.retain(|tenure| tenure.strong_count() > 0);
            running.iter().filter_map(Weak::upgrade).collect()
        };
        for tenure in running {
            tenure.look(now, &self.revocations);
        }
    }
}
