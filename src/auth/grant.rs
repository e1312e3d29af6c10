//! Permission as a value: whoever has one was found to be allowed, and nothing else makes one.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::ids::DocumentId;

use super::access::{Access, Admin, Level, Rights};
use super::revocations::Revocations;

/// Somebody whose token was found good.
#[derive(Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The token's `sub`.
    pub(super) user: String,
    /// Its `jti`.
    pub(super) token: Option<String>,
    /// Its `iat`, in seconds since 1970.
    pub(super) issued_at: Option<i64>,
    /// Its `exp`, in seconds since 1970.
    pub(super) expires_at: i64,
    pub(super) rights: Rights,
}

impl Bearer {
    pub fn user(&self) -> &str {
        &self.user
    }

    /// When the token ends, in seconds since 1970.
    pub fn expires_at(&self) -> i64 {
        self.expires_at
    }
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller(Option<Known>);

#[derive(Debug, Clone)]
struct Known {
    bearer: Arc<Bearer>,
    revocations: Arc<Revocations>,
}

/// Not for this document, or not for this deed. Says nothing of whether the document exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token gives no {needed} access to this")]
pub struct Forbidden {
    pub needed: Access,
}

impl Caller {
    /// Anyone at all, where nobody is asked who they are.
    pub(super) fn anyone() -> Self {
        Self(None)
    }

    pub(super) fn known(bearer: Arc<Bearer>, revocations: Arc<Revocations>) -> Self {
        Self(Some(Known { bearer, revocations }))
    }

    /// Proof that the caller may do with the document what the level says.
    ///
    /// # Errors
    /// `Forbidden`.
    pub fn grant<L: Level>(&self, document: DocumentId) -> Result<Grant<L>, Forbidden> {
        let forbidden = Err(Forbidden { needed: L::ACCESS });
        let Some(Known { bearer, revocations }) = &self.0 else {
            return Ok(Grant { document, bearer: None, level: PhantomData });
        };
        let access = bearer.rights.on(&document);
        if access < Some(L::ACCESS) || revocations.withhold(bearer, &document) {
            return forbidden;
        }
        Ok(Grant { document, bearer: Some(bearer.clone()), level: PhantomData })
    }

    /// Proof that the caller administers every document whose id begins with `prefix`.
    ///
    /// # Errors
    /// `Forbidden`.
    pub fn grant_of_all(&self, prefix: &str) -> Result<GrantOfAll, Forbidden> {
        let access = self.0.as_ref().map_or(Some(Access::Admin), |known| known.bearer.rights.on_all(prefix));
        if access < Some(Access::Admin) {
            return Err(Forbidden { needed: Access::Admin });
        }
        Ok(GrantOfAll { prefix: prefix.to_owned(), caller: self.clone() })
    }

    /// `None`: nobody was asked who they are.
    pub fn user(&self) -> Option<&str> {
        Some(self.bearer()?.user())
    }

    pub fn bearer(&self) -> Option<&Arc<Bearer>> {
        self.0.as_ref().map(|known| &known.bearer)
    }
}

/// Proof that somebody may do with one document what `L` says. Only this module makes one.
#[derive(Debug)]
pub struct Grant<L> {
    document: DocumentId,
    bearer: Option<Arc<Bearer>>,
    level: PhantomData<fn() -> L>,
}

impl<L> Clone for Grant<L> {
    fn clone(&self) -> Self {
        Self { document: self.document.clone(), bearer: self.bearer.clone(), level: PhantomData }
    }
}

impl<L> Grant<L> {
    pub fn document(&self) -> &DocumentId {
        &self.document
    }

    /// Who it was granted to; `None`: nobody was asked who they are.
    pub fn user(&self) -> Option<&str> {
        self.bearer.as_deref().map(Bearer::user)
    }

    pub fn bearer(&self) -> Option<&Arc<Bearer>> {
        self.bearer.as_ref()
    }
}

/// Proof that somebody administers every document whose id begins with a prefix, which may be empty.
#[derive(Debug, Clone)]
pub struct GrantOfAll {
    prefix: String,
    caller: Caller,
}

impl GrantOfAll {
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The part of it that concerns one document.
    ///
    /// # Errors
    /// `Forbidden` if its id begins otherwise, or if it was withdrawn for this document.
    pub fn of(&self, document: DocumentId) -> Result<Grant<Admin>, Forbidden> {
        if !document.as_str().starts_with(&self.prefix) {
            return Err(Forbidden { needed: Access::Admin });
        }
        self.caller.grant(document)
    }
}
