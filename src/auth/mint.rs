//! Makes tokens, for trying out: `promptgrimoire token`.

use std::time::Duration;

use jsonwebtoken::EncodingKey;
use serde_json::{Map, Value, json};

use super::access::Access;
use super::keys::Algorithm;

/// What a new token says.
#[derive(Debug, Clone)]
pub struct Order {
    pub user: String,
    pub rights: Vec<(String, Access)>,
    pub life: Duration,
    pub issuer: Option<String>,
    pub audience: Option<String>,
}

/// A `pattern=access` of the command line.
///
/// # Errors
/// What is wrong with it.
pub fn parse_right(raw: &str) -> Result<(String, Access), String> {
    let (pattern, access) = raw.rsplit_once('=').ok_or("it has the form pattern=access, as in ws-*=write")?;
    Ok((pattern.to_owned(), access.parse()?))
}

/// A signed token. `key`: the secret for HS256, else a private key as PEM text. `now`: in seconds since 1970.
/// `id`: becomes its `jti`.
///
/// # Errors
/// The key does not fit the algorithm.
pub fn mint(order: &Order, algorithm: Algorithm, key: &str, id: &str, now: i64) -> Result<String, String> {
    let pem = key.as_bytes();
    let signing = match algorithm {
        Algorithm::Hs256 => Ok(EncodingKey::from_secret(pem)),
        Algorithm::Es256 => EncodingKey::from_ec_pem(pem),
        Algorithm::EdDsa => EncodingKey::from_ed_pem(pem),
        Algorithm::Rs256 => EncodingKey::from_rsa_pem(pem),
    };
    let unfit = |error| format!("it is no private key for {} as PEM text: {error}", algorithm.name());
    let signing = signing.map_err(unfit)?;
    let docs: Map<String, Value> =
        order.rights.iter().map(|(pattern, access)| (pattern.clone(), json!(access.to_string()))).collect();
    let life = i64::try_from(order.life.as_secs()).unwrap_or(i64::MAX);
    let mut claims = json!({
        "sub": order.user, "jti": id, "iat": now, "exp": now.saturating_add(life), "docs": docs,
    });
    for (name, value) in [("iss", &order.issuer), ("aud", &order.audience)] {
        if let Some(value) = value {
            claims[name] = json!(value);
        }
    }
    let header = jsonwebtoken::Header::new(algorithm.of_library());
    jsonwebtoken::encode(&header, &claims, &signing).map_err(|error| error.to_string())
}
