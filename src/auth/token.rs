//! What makes a token good: RFC 7519, with the advice of RFC 8725.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Validation;
use jsonwebtoken::errors::ErrorKind;
use serde::Deserialize;
use serde_json::Value;

use super::access::Rights;
use super::grant::Bearer;
use super::keys::Keys;

/// Longest token, in bytes: it has to fit into a header.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;
/// By how much clocks may differ, in seconds.
const LEEWAY_SECONDS: i64 = 30;
/// Longest `sub` and `jti`, in bytes: the one stands in every event of the log.
const NAME_BYTES_MAX: usize = 255;
/// What `typ` may say: RFC 8725, 3.11 and RFC 9068, 2.1. Other kinds of tokens of the same issuer are not for us.
const TYPES: [&str; 4] = ["jwt", "at+jwt", "application/jwt", "application/at+jwt"];

/// Why a token is not good. Shown to whoever sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    #[error("the token has over {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    #[error("it is no JSON Web Token: {0}")]
    Malformed(String),
    #[error("the token's header says `{field}`, which is not taken here")]
    Header { field: &'static str },
    #[error("the token is not signed with {algorithm}")]
    Algorithm { algorithm: &'static str },
    #[error("the token names a key that is not known")]
    UnknownKey,
    #[error("the token's signature is not good")]
    Signature,
    #[error("the token's claims are not as they must be: {0}")]
    Claims(String),
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYet,
    #[error("the token comes from another issuer")]
    Issuer,
    #[error("the token is for another audience")]
    Audience,
    #[error("the token lasts longer than {seconds} s, which is the longest here")]
    Lifetime { seconds: i64 },
    #[error("the token was revoked")]
    Revoked,
}

/// What is asked of a token beside its signature and its times.
#[derive(Debug, Clone, Default)]
pub struct Demands {
    /// `iss` must be this.
    pub issuer: Option<String>,
    /// `aud` must be this, or have it among others.
    pub audience: Option<String>,
    /// `exp` may lie so far ahead, in seconds.
    pub lifetime_max: Option<i64>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
    /// Present, whatever it says: RFC 7515, 4.1.11 has it refused by whoever knows none of what it names.
    #[serde(default, deserialize_with = "present")]
    crit: bool,
    #[serde(default, deserialize_with = "present")]
    zip: bool,
    #[serde(default, deserialize_with = "present")]
    enc: bool,
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(deserializer).map(|_| true)
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    nbf: Option<f64>,
    iat: Option<f64>,
    iss: Option<String>,
    aud: Option<Audience>,
    jti: Option<String>,
    #[serde(default)]
    docs: Rights,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn includes(&self, wanted: &str) -> bool {
        match self {
            Self::One(audience) => audience == wanted,
            Self::Many(audiences) => audiences.iter().any(|audience| audience == wanted),
        }
    }
}

/// Checks a token at `now`, in seconds since 1970.
///
/// # Errors
/// Any of `BadToken`, but for `Revoked`.
pub fn check(token: &str, keys: &Keys, demands: &Demands, now: i64) -> Result<Bearer, BadToken> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(BadToken::TooLong);
    }
    let header = parse_header(token)?;
    if header.alg != keys.algorithm.name() {
        return Err(BadToken::Algorithm { algorithm: keys.algorithm.name() });
    }
    let claims = verify(token, keys, header.kid.as_deref())?;
    check_claims(claims, demands, now)
}

/// Whether a token that was good before has ended since.
///
/// # Errors
/// `Expired`.
pub fn check_expiry(bearer: &Bearer, now: i64) -> Result<(), BadToken> {
    if now >= bearer.expires_at.saturating_add(LEEWAY_SECONDS) { Err(BadToken::Expired) } else { Ok(()) }
}

fn parse_header(token: &str) -> Result<Header, BadToken> {
    let malformed = |reason: &str| BadToken::Malformed(reason.to_owned());
    let mut parts = token.split('.');
    let (Some(header), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed("three parts are expected, with two dots between them"));
    };
    let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| malformed("its header is no base64url"))?;
    if !matches!(serde_json::from_slice(&header), Ok(Value::Object(_))) {
        return Err(malformed("its header is no JSON object"));
    }
    let header: Header = serde_json::from_slice(&header)
        .map_err(|error| BadToken::Malformed(format!("its header: {error}")))?;
    for (there, field) in [(header.crit, "crit"), (header.zip, "zip"), (header.enc, "enc")] {
        if there {
            return Err(BadToken::Header { field });
        }
    }
    if header.typ.as_ref().is_some_and(|given| !TYPES.contains(&given.to_ascii_lowercase().as_str())) {
        return Err(BadToken::Header { field: "typ" });
    }
    Ok(header)
}

/// The claims of a token that one of the keys has signed.
fn verify(token: &str, keys: &Keys, key_id: Option<&str>) -> Result<Claims, BadToken> {
    let mut validation = Validation::new(keys.algorithm.of_library());
    // The library sees to the signature; what the claims say is checked here, against a clock that is an argument.
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    let mut tried = false;
    for key in keys.candidates(key_id) {
        tried = true;
        match jsonwebtoken::decode::<Claims>(token, key, &validation) {
            Ok(verified) => return Ok(verified.claims),
            // The claims are looked at after the signature only.
            Err(error) => match error.into_kind() {
                ErrorKind::Json(error) => return Err(BadToken::Claims(error.to_string())),
                ErrorKind::Utf8(error) => return Err(BadToken::Claims(error.to_string())),
                _ => {}
            },
        }
    }
    Err(if tried { BadToken::Signature } else { BadToken::UnknownKey })
}

fn check_claims(claims: Claims, demands: &Demands, now: i64) -> Result<Bearer, BadToken> {
    let Claims { sub, exp, nbf, iat, iss, aud, jti, docs } = claims;
    let bad = |reason: String| Err(BadToken::Claims(reason));
    if !(1..=NAME_BYTES_MAX).contains(&sub.len()) || sub.chars().any(char::is_control) {
        return bad(format!("`sub` must have 1 to {NAME_BYTES_MAX} bytes, and no control characters"));
    }
    if jti.as_ref().is_some_and(|jti| !(1..=NAME_BYTES_MAX).contains(&jti.len())) {
        return bad(format!("`jti` must have 1 to {NAME_BYTES_MAX} bytes"));
    }
    let expires_at = seconds(exp);
    let bearer = Bearer { user: sub, token: jti, issued_at: iat.map(seconds), expires_at, rights: docs };
    check_expiry(&bearer, now)?;
    if nbf.is_some_and(|nbf| seconds(nbf) > now + LEEWAY_SECONDS) {
        return Err(BadToken::NotYet);
    }
    if bearer.issued_at.is_some_and(|issued_at| issued_at > now + LEEWAY_SECONDS) {
        // No revocation up to now would concern it.
        return Err(BadToken::NotYet);
    }
    if demands.issuer.is_some() && iss != demands.issuer {
        return Err(BadToken::Issuer);
    }
    if let Some(wanted) = &demands.audience
        && !aud.is_some_and(|given| given.includes(wanted))
    {
        return Err(BadToken::Audience);
    }
    match demands.lifetime_max {
        Some(seconds) if expires_at.saturating_sub(now) > seconds => Err(BadToken::Lifetime { seconds }),
        _ => Ok(bearer),
    }
}

/// A `NumericDate` (RFC 7519, 2) may have a fraction. What is beyond all years is at their end.
fn seconds(date: f64) -> i64 {
    date.floor() as i64
}

#[cfg(test)]
mod tests;
