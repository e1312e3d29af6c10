//! Tokens, and servers that ask for them.

use std::time::{Duration, SystemTime};

use promptgrimoire::auth::access::Access;
use promptgrimoire::auth::keys::Algorithm;
use promptgrimoire::auth::mint::{Order, mint};
use promptgrimoire::auth::seconds;
use promptgrimoire::settings::{AuthMode, Settings};

use super::secrets::{keep_secret, keep_token_secret};
use super::{Client, Server};

pub const SECRET: &str = "the secret of the tests, which has over thirty-two bytes";

/// Has a server ask for tokens that are signed with `SECRET`.
pub fn demand_tokens(settings: &mut Settings) {
    keep_secret(SECRET);
    settings.auth.mode = AuthMode::Jwt;
    settings.auth.algorithm = Some(Algorithm::Hs256);
    settings.auth.key = Some(SECRET.to_owned().into());
}

/// What the next token says; a minute is its life.
pub struct Token {
    order: Order,
    issued: SystemTime,
    id: String,
}

impl Token {
    /// `rights`: patterns and accesses.
    pub fn of(user: &str, rights: &[(&str, Access)]) -> Self {
        let rights = rights.iter().map(|(pattern, access)| ((*pattern).to_owned(), *access)).collect();
        let order =
            Order { user: user.into(), rights, life: Duration::from_secs(60), issuer: None, audience: None };
        Self { order, issued: SystemTime::now(), id: format!("{:x}", rand::random::<u64>()) }
    }

    pub fn lasting(mut self, life: Duration) -> Self {
        self.order.life = life;
        self
    }

    pub fn issued(mut self, at: SystemTime) -> Self {
        self.issued = at;
        self
    }

    pub fn id(mut self, id: &str) -> Self {
        self.id = id.into();
        self
    }

    pub fn signed(&self) -> String {
        self.signed_with(SECRET)
    }

    pub fn signed_with(&self, secret: &str) -> String {
        let token = mint(&self.order, Algorithm::Hs256, secret, &self.id, seconds(self.issued));
        let token = token.expect("a secret signs");
        keep_token_secret(&token);
        token
    }
}

impl Server {
    /// A client with a token for this user.
    pub fn client_of(&self, user: &str, rights: &[(&str, Access)]) -> Client {
        self.client.with_token(&Token::of(user, rights).signed())
    }
}
