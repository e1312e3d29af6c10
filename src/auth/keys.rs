//! The keys that tokens are checked with: where they come from, and how they are replaced while the server runs.
//!
//! The algorithm is the operator's choice; a token's own word for it is only compared with that (RFC 8725, 3.1).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use serde::Deserialize;

/// RFC 7518, 3.2: as long as the hash, 256 bits.
pub const SECRET_BYTES_MIN: usize = 32;
/// A key set has a few keys; all of them may be tried for a token that names none.
const KEYS_MAX: usize = 32;
const KEY_SET_BYTES_MAX: usize = 256 << 10;
/// How long an address has to answer with its key set.
const FETCH_TIME_MAX: Duration = Duration::from_secs(5);

/// A signature's algorithm, by its name in RFC 7518 and RFC 8037.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Algorithm {
    #[serde(rename = "HS256")]
    Hs256,
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "EdDSA")]
    EdDsa,
    #[serde(rename = "RS256")]
    Rs256,
}

impl Algorithm {
    pub fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Rs256 => "RS256",
        }
    }

    pub(super) fn of_library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Hs256 => jsonwebtoken::Algorithm::HS256,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
        }
    }
}

/// Something that must never be shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self(secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(secret)")
    }
}

/// Where keys come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A secret for HS256, else a public key as PEM text.
    Text(Secret),
    /// A file that holds the same.
    File(PathBuf),
    /// A file with a JSON Web Key Set (RFC 7517).
    KeySetFile(PathBuf),
    /// An address with one.
    KeySetAddress { address: String, refresh: Duration },
}

/// Why there are no keys to be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{address}: {reason}")]
    Address { address: String, reason: String },
    #[error("{0}")]
    Unfit(String),
}

fn unfit(reason: impl Into<String>) -> KeyError {
    KeyError::Unfit(reason.into())
}

/// The keys of one moment, all for one algorithm.
pub struct Keys {
    pub algorithm: Algorithm,
    keys: Vec<Key>,
}

struct Key {
    id: Option<String>,
    key: DecodingKey,
}

impl Keys {
    /// # Errors
    /// `Unfit`: a secret that is too short or no secret, a PEM text without a public key of the algorithm.
    pub fn from_text(algorithm: Algorithm, text: &str) -> Result<Self, KeyError> {
        let name = algorithm.name();
        if algorithm == Algorithm::Hs256 {
            if text.contains("-----BEGIN ") {
                return Err(unfit("is a PEM text, which is no secret: HS256 takes random bytes"));
            }
            if text.len() < SECRET_BYTES_MIN {
                let bytes = text.len();
                return Err(unfit(format!(
                    "is a secret of {bytes} bytes; HS256 takes {SECRET_BYTES_MIN} random bytes at the least"
                )));
            }
            return Ok(Self {
                algorithm,
                keys: vec![Key { id: None, key: DecodingKey::from_secret(text.as_bytes()) }],
            });
        }
        if text.contains("PRIVATE KEY-----") {
            return Err(unfit(format!(
                "is a private key; to check tokens of {name} the server needs the public one only"
            )));
        }
        let pem = text.as_bytes();
        let key = match algorithm {
            Algorithm::Hs256 | Algorithm::Rs256 => DecodingKey::from_rsa_pem(pem),
            Algorithm::Es256 => DecodingKey::from_ec_pem(pem),
            Algorithm::EdDsa => DecodingKey::from_ed_pem(pem),
        };
        let key = key.map_err(|error| unfit(format!("is no public key for {name} as PEM text: {error}")))?;
        Ok(Self { algorithm, keys: vec![Key { id: None, key }] })
    }

    /// The keys of a set that are for the algorithm and for signatures; others are passed over.
    ///
    /// # Errors
    /// `Unfit`: no key set, or none of its keys fits.
    pub fn from_key_set(algorithm: Algorithm, text: &[u8]) -> Result<Self, KeyError> {
        let set: JwkSet = serde_json::from_slice(text)
            .map_err(|error| unfit(format!("is no JSON Web Key Set: {error}")))?;
        let mut keys = Vec::new();
        for jwk in set.keys.iter().filter(|jwk| is_for(algorithm, jwk)).take(KEYS_MAX) {
            let key = DecodingKey::from_jwk(jwk)
                .map_err(|error| unfit(format!("has a key that cannot be used: {error}")))?;
            keys.push(Key { id: jwk.common.key_id.clone(), key });
        }
        if keys.is_empty() {
            return Err(unfit(format!("has no key for {} in its set", algorithm.name())));
        }
        Ok(Self { algorithm, keys })
    }

    /// The keys that may have signed a token: the one that it names, or all if it names none.
    pub(super) fn candidates(&self, id: Option<&str>) -> impl Iterator<Item = &DecodingKey> {
        // A key without a name of its own is the only one there is, whatever a token calls it.
        let fits = move |key: &&Key| match (id, &key.id) {
            (Some(wanted), Some(named)) => wanted == named,
            (None, _) | (Some(_), None) => true,
        };
        self.keys.iter().filter(fits).map(|key| &key.key)
    }
}

/// Secrets are never taken from a set: it is public.
fn is_for(algorithm: Algorithm, jwk: &Jwk) -> bool {
    let says_otherwise = jwk.common.key_algorithm.is_some_and(|given| {
        given.to_string().parse::<jsonwebtoken::Algorithm>() != Ok(algorithm.of_library())
    });
    let for_signatures =
        jwk.common.public_key_use.as_ref().is_none_or(|given| *given == PublicKeyUse::Signature);
    let fits = match (algorithm, &jwk.algorithm) {
        (Algorithm::Rs256, AlgorithmParameters::RSA(_)) => true,
        (Algorithm::Es256, AlgorithmParameters::EllipticCurve(curve)) => curve.curve == EllipticCurve::P256,
        (Algorithm::EdDsa, AlgorithmParameters::OctetKeyPair(pair)) => pair.curve == EllipticCurve::Ed25519,
        _ => false,
    };
    fits && for_signatures && !says_otherwise
}

/// The keys as they are now, and where newer ones come from.
pub struct KeyRing {
    algorithm: Algorithm,
    source: Source,
    client: reqwest::Client,
    keys: RwLock<Arc<Keys>>,
}

impl KeyRing {
    /// # Errors
    /// Any of `KeyError`: a server without keys could let nobody in.
    pub async fn open(algorithm: Algorithm, source: Source) -> Result<Self, KeyError> {
        let client = reqwest::Client::builder()
            .timeout(FETCH_TIME_MAX)
            // What an address says stands there, and not wherever it points.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| unfit(format!("cannot be fetched: {error}")))?;
        let keys = read(algorithm, &source, &client).await?;
        Ok(Self { algorithm, source, client, keys: RwLock::new(Arc::new(keys)) })
    }

    pub fn now(&self) -> Arc<Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the source again. What cannot be read leaves the keys as they are.
    ///
    /// # Errors
    /// Any of `KeyError`.
    pub async fn reload(&self) -> Result<(), KeyError> {
        let keys = read(self.algorithm, &self.source, &self.client).await?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        Ok(())
    }

    /// How often the source should be read again; `None`: when its file changes, if it is one.
    pub fn refresh(&self) -> Option<Duration> {
        match &self.source {
            Source::KeySetAddress { refresh, .. } => Some(*refresh),
            Source::Text(_) | Source::File(_) | Source::KeySetFile(_) => None,
        }
    }

    /// When the source's file was last written.
    pub fn modified(&self) -> Option<SystemTime> {
        match &self.source {
            Source::File(path) | Source::KeySetFile(path) => std::fs::metadata(path).ok()?.modified().ok(),
            Source::Text(_) | Source::KeySetAddress { .. } => None,
        }
    }
}

async fn read(algorithm: Algorithm, source: &Source, client: &reqwest::Client) -> Result<Keys, KeyError> {
    match source {
        Source::Text(secret) => Keys::from_text(algorithm, secret.expose()),
        Source::File(path) => {
            let text = read_file(path)?;
            let text = String::from_utf8(text).map_err(|_| unfit("is no text in UTF-8"))?;
            // Editors end a file with a new line that nobody means as part of a secret.
            Keys::from_text(algorithm, text.trim_end_matches(['\n', '\r']))
        }
        Source::KeySetFile(path) => Keys::from_key_set(algorithm, &read_file(path)?),
        Source::KeySetAddress { address, .. } => Keys::from_key_set(
            algorithm,
            &fetch(client, address)
                .await
                .map_err(|reason| KeyError::Address { address: address.clone(), reason })?,
        ),
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, KeyError> {
    std::fs::read(path).map_err(|source| KeyError::File { path: path.to_owned(), source })
}

async fn fetch(client: &reqwest::Client, address: &str) -> Result<Vec<u8>, String> {
    let said = |error: reqwest::Error| error.without_url().to_string();
    let mut answer = client.get(address).send().await.map_err(said)?.error_for_status().map_err(said)?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(said)? {
        body.extend_from_slice(&chunk);
        if body.len() > KEY_SET_BYTES_MAX {
            return Err(format!("a key set has {KEY_SET_BYTES_MAX} bytes at the most"));
        }
    }
    Ok(body)
}
