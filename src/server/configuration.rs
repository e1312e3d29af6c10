//! What the settings mean to the parts that they are for.

use std::sync::Arc;
use std::time::Duration;

use crate::auth::keys::{Algorithm, Source};
use crate::auth::revocations::Revocations;
use crate::auth::token::Demands;
use crate::auth::{self, Authenticator};
use crate::http::cross_origin::CrossOrigin;
use crate::http::sender::Bounds;
use crate::http::{front, places, waiting};
use crate::settings::{Auth, AuthMode, Settings};
use crate::store::Store;

use super::StartError;

/// Finds out who asks, as the settings have it; with what was revoked before.
pub async fn authenticator(settings: &Settings, store: &dyn Store) -> Result<Authenticator, StartError> {
    let revocations = Arc::new(Revocations::default());
    let kept = store.revocations().await.map_err(|error| StartError::Store(error.to_string()))?;
    kept.into_iter().for_each(|revocation| revocations.add(revocation));
    let auth = &settings.auth;
    let (AuthMode::Jwt, Some(algorithm)) = (auth.mode, auth.algorithm) else {
        return Ok(Authenticator::open(revocations));
    };
    let (key, source) = key_source(auth);
    let demands = Demands {
        issuer: auth.issuer.clone(),
        audience: auth.audience.clone(),
        lifetime_max: token_life_max(settings).map(|life| i64::try_from(life.as_secs()).unwrap_or(i64::MAX)),
    };
    let settings = auth::Settings { algorithm, source, demands };
    let opened = Authenticator::demanding_tokens(settings, revocations).await;
    opened.map_err(|source| StartError::Keys { key, source })
}

/// Where keys come from, with the name of the setting that says so.
fn key_source(auth: &Auth) -> (&'static str, Source) {
    if let Some(path) = &auth.key_file {
        return ("auth.key_file", Source::File(path.clone()));
    }
    if let Some(jwks) = &auth.jwks {
        let refresh = Duration::from_secs(auth.jwks_refresh_seconds);
        let is_address = jwks.starts_with("https://") || jwks.starts_with("http://");
        let source = if is_address {
            Source::KeySetAddress { address: jwks.clone(), refresh }
        } else {
            Source::KeySetFile(jwks.into())
        };
        return ("auth.jwks", source);
    }
    let key = auth.key.clone().unwrap_or_default();
    // A secret is itself; of a public key, which is no secret, the setting may also name the file.
    let is_text = auth.algorithm == Some(Algorithm::Hs256) || key.expose().contains("-----BEGIN ");
    let source = if is_text { Source::Text(key) } else { Source::File(key.expose().into()) };
    ("auth.key", source)
}

pub fn token_life_max(settings: &Settings) -> Option<Duration> {
    let seconds = settings.auth.max_token_seconds;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Users and addresses are counted where it is known who they are; alone on one's own machine nobody is.
pub fn places(settings: &Settings) -> places::Limits {
    let limits = &settings.limits;
    let counted = |limit| if settings.auth.mode == AuthMode::None { usize::MAX } else { limit };
    places::Limits {
        in_all: limits.max_streams,
        of_user: counted(limits.max_streams_per_user),
        of_address: counted(limits.max_streams_per_address),
        of_document: limits.max_streams_per_document,
    }
}

/// Rates count where it is known who writes; how much may wait is limited everywhere.
pub fn bounds(settings: &Settings) -> Bounds {
    let limits = &settings.limits;
    let waiting = waiting::Limits { writes: limits.max_waiting_writes, bytes: limits.max_waiting_mib << 20 };
    Bounds::new((settings.auth.mode != AuthMode::None).then_some(settings.rates), waiting)
}

pub fn front(settings: &Settings) -> front::Settings {
    let origins = settings.cors.origins.clone();
    let cross_origin = CrossOrigin {
        any: origins.iter().any(|origin| origin == "*"),
        origins,
        with_credentials: settings.cors.credentials,
    };
    front::Settings { cross_origin, hosts: settings.server.hosts.clone() }
}
