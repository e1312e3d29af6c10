//! Bad tokens, after RFC 8725's list of what went wrong elsewhere.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::EncodingKey;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use serde_json::{Value, json};

use super::super::keys::Algorithm;
use super::*;

const SECRET: &str = "a secret of thirty-two bytes and more";
const NOW: i64 = 1_800_000_000;

fn keys() -> Keys {
    Keys::from_text(Algorithm::Hs256, SECRET).expect("it is long enough")
}

fn good_claims() -> Value {
    json!({ "sub": "ada", "iat": NOW - 10, "exp": NOW + 100, "docs": { "*": "write" } })
}

fn encode(part: &Value) -> String {
    URL_SAFE_NO_PAD.encode(part.to_string())
}

/// A token with any header and claims, signed as HS256 asks for it.
fn signed(header: &Value, claims: &Value) -> String {
    sign(&format!("{}.{}", encode(header), encode(claims)), SECRET.as_bytes())
}

fn sign(message: &str, secret: &[u8]) -> String {
    let key = EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256);
    format!("{message}.{}", signature.expect("a secret signs"))
}

fn with(field: &str, value: Value) -> String {
    let mut claims = good_claims();
    claims[field] = value;
    signed(&json!({ "alg": "HS256" }), &claims)
}

fn without(field: &str) -> String {
    let mut claims = good_claims();
    claims.as_object_mut().expect("an object").shift_remove(field);
    signed(&json!({ "alg": "HS256" }), &claims)
}

fn with_header(header: Value) -> String {
    signed(&header, &good_claims())
}

/// Claims as text, for what `Value` cannot hold.
fn with_claims(claims: &str) -> String {
    let header = encode(&json!({ "alg": "HS256" }));
    sign(&format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims)), SECRET.as_bytes())
}

fn check_now(token: &str) -> Result<Bearer, BadToken> {
    check(token, &keys(), &Demands::default(), NOW)
}

#[test]
fn a_good_token_says_who_and_what() {
    let bearer = check_now(&with("jti", json!("t-1"))).expect("it is good");
    assert_eq!((bearer.user.as_str(), bearer.token.as_deref()), ("ada", Some("t-1")));
    assert_eq!((bearer.issued_at, bearer.expires_at), (Some(NOW - 10), NOW + 100));
    for header in
        [json!({ "alg": "HS256", "typ": "JWT" }), json!({ "alg": "HS256", "typ": "at+jwt", "kid": "any" })]
    {
        check_now(&with_header(header)).expect("it is good");
    }
    for (field, value) in
        [("exp", json!(NOW as f64 + 0.5)), ("exp", json!(NOW - 29)), ("nbf", json!(NOW + 30))]
    {
        check_now(&with(field, value)).expect("clocks may differ by half a minute");
    }
    check_now(&without("docs")).expect("it gives nothing, and is good");
}

#[test]
fn no_bad_token_is_taken() {
    let good = signed(&json!({ "alg": "HS256" }), &good_claims());
    let parts: Vec<&str> = good.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("three parts") };
    let none = encode(&json!({ "alg": "none" }));
    let admin = encode(&json!({ "sub": "ada", "exp": NOW + 100, "docs": { "*": "admin" } }));
    let long = "a".repeat(TOKEN_BYTES_MAX);
    let mut flipped = signature.to_owned();
    flipped.replace_range(..1, if signature.starts_with('A') { "B" } else { "A" });
    let bad = [
        // No signature, or none that was made with the key (RFC 8725, 2.1, 3.2).
        ("alg none", format!("{none}.{claims}.")),
        ("alg none without the last dot", format!("{none}.{claims}")),
        ("alg none with another's signature", format!("{none}.{claims}.{signature}")),
        ("alg None", format!("{}.{claims}.", encode(&json!({ "alg": "None" })))),
        ("alg nOnE", format!("{}.{claims}.{signature}", encode(&json!({ "alg": "nOnE" })))),
        ("an empty signature", format!("{header}.{claims}.")),
        ("a signature cut short", format!("{header}.{claims}.{}", &signature[..signature.len() - 4])),
        ("a signature too long", format!("{good}AAAA")),
        ("a signature with one letter changed", format!("{header}.{claims}.{flipped}")),
        ("other claims under the signature", format!("{header}.{admin}.{signature}")),
        (
            "another header over the signature",
            format!("{}.{claims}.{signature}", encode(&json!({"alg":"HS256","a":1}))),
        ),
        (
            "another secret",
            sign(&format!("{header}.{claims}"), b"another secret of thirty-two bytes and more"),
        ),
        ("an empty secret", sign(&format!("{header}.{claims}"), b"")),
        // Another algorithm than the configured one (2.1, 3.1).
        ("alg HS384", with_header(json!({ "alg": "HS384" }))),
        ("alg HS512", with_header(json!({ "alg": "HS512" }))),
        ("alg RS256 signed with the secret", with_header(json!({ "alg": "RS256" }))),
        ("alg ES256 signed with the secret", with_header(json!({ "alg": "ES256" }))),
        ("alg in lower case", with_header(json!({ "alg": "hs256" }))),
        ("alg as a number", with_header(json!({ "alg": 256 }))),
        ("alg as a list", with_header(json!({ "alg": ["HS256"] }))),
        ("no alg", with_header(json!({ "typ": "JWT" }))),
        // What the header must not bring along (2.9, 2.10, 3.10; RFC 7515, 4.1.11).
        ("crit", with_header(json!({ "alg": "HS256", "crit": ["exp"] }))),
        ("crit with b64", with_header(json!({ "alg": "HS256", "crit": ["b64"], "b64": false }))),
        ("an empty crit", with_header(json!({ "alg": "HS256", "crit": [] }))),
        ("zip", with_header(json!({ "alg": "HS256", "zip": "DEF" }))),
        ("enc", with_header(json!({ "alg": "HS256", "enc": "A128GCM" }))),
        // Another kind of token of the same issuer (2.8, 3.11).
        ("typ of a proof of possession", with_header(json!({ "alg": "HS256", "typ": "dpop+jwt" }))),
        ("typ of a logout token", with_header(json!({ "alg": "HS256", "typ": "logout+jwt" }))),
        ("typ as a number", with_header(json!({ "alg": "HS256", "typ": 1 }))),
        // Not the form of a token at all (2.7).
        ("nothing", String::new()),
        ("two dots", "..".to_owned()),
        ("a word", "token".to_owned()),
        ("two parts", format!("{header}.{claims}")),
        ("four parts", format!("{good}.{signature}")),
        ("the five parts of an encrypted token", format!("{header}.{claims}.{claims}.{claims}.{signature}")),
        ("a header that is a list", with_header(json!(["HS256"]))),
        ("a header that is no JSON", format!("{}.{claims}.{signature}", URL_SAFE_NO_PAD.encode("{"))),
        ("a header with alg twice", {
            let twice = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","alg":"HS256"}"#);
            sign(&format!("{twice}.{claims}"), SECRET.as_bytes())
        }),
        ("white space before it", format!(" {good}")),
        ("white space within", format!("{header}. {claims}.{signature}")),
        ("padding", sign(&format!("{header}=.{claims}"), SECRET.as_bytes())),
        ("the other base64", format!("{header}.{}.{signature}", STANDARD.encode(good_claims().to_string()))),
        ("over 8 KB", with("note", json!(long))),
        // Claims that are missing or of the wrong kind (3.8, 3.9).
        ("no sub", without("sub")),
        ("an empty sub", with("sub", json!(""))),
        ("sub as a number", with("sub", json!(7))),
        ("sub as null", with("sub", Value::Null)),
        ("a sub with a line break", with("sub", json!("a\nb"))),
        ("a sub without end", with("sub", json!("a".repeat(256)))),
        ("no exp", without("exp")),
        ("exp as text", with("exp", json!((NOW + 100).to_string()))),
        ("exp as null", with("exp", Value::Null)),
        ("exp as true", with("exp", json!(true))),
        ("exp beyond all numbers", with_claims(r#"{"sub":"ada","exp":1e999,"docs":{}}"#)),
        ("exp twice", with_claims(&format!(r#"{{"sub":"ada","exp":1,"exp":{},"docs":{{}}}}"#, NOW + 100))),
        (
            "sub twice",
            with_claims(&format!(r#"{{"sub":"eve","sub":"ada","exp":{},"docs":{{}}}}"#, NOW + 100)),
        ),
        ("expired", with("exp", json!(NOW - 30))),
        ("expired before 1970", with("exp", json!(-1))),
        ("not valid yet", with("nbf", json!(NOW + 31))),
        ("nbf as text", with("nbf", json!("soon"))),
        ("issued in the future", with("iat", json!(NOW + 31))),
        ("iat as text", with("iat", json!("now"))),
        ("an empty jti", with("jti", json!(""))),
        ("jti as a number", with("jti", json!(1))),
        ("docs as a list", with("docs", json!(["*"]))),
        ("docs as text", with("docs", json!("*"))),
        ("docs as null", with("docs", Value::Null)),
        ("docs with an access that is none", with("docs", json!({ "*": "owner" }))),
        ("docs with an access in capitals", with("docs", json!({ "*": "Admin" }))),
        (
            "docs with an access twice",
            with_claims(&format!(r#"{{"sub":"ada","exp":{},"docs":{{"a":"read","a":"admin"}}}}"#, NOW + 100)),
        ),
        ("claims that are a list", with_claims("[]")),
        ("claims that are no JSON", with_claims("sub=ada")),
        ("claims that are no UTF-8", {
            let claims = URL_SAFE_NO_PAD.encode(b"{\"sub\":\"\xff\"}");
            sign(&format!("{header}.{claims}"), SECRET.as_bytes())
        }),
    ];
    assert!(check_now(&good).is_ok());
    for (what, token) in &bad {
        let checked = check_now(token);
        assert!(checked.is_err(), "{what} was taken: {checked:?}");
    }
    assert!(bad.len() >= 40);
}

#[test]
fn issuer_and_audience_are_checked_where_they_are_demanded() {
    let demands = Demands {
        issuer: Some("https://login.example".into()),
        audience: Some("grimoire".into()),
        lifetime_max: Some(3600),
    };
    let token = |iss: Value, aud: Value, exp: i64| {
        let mut claims = good_claims();
        (claims["iss"], claims["aud"], claims["exp"]) = (iss, aud, json!(exp));
        check(&signed(&json!({ "alg": "HS256" }), &claims), &keys(), &demands, NOW).map(|bearer| bearer.user)
    };
    let (issuer, audience) = (json!("https://login.example"), json!("grimoire"));
    token(issuer.clone(), audience.clone(), NOW + 100).expect("it is good");
    token(issuer.clone(), json!(["other", "grimoire"]), NOW + 100).expect("it is among others");
    let near = [json!("https://login.example/"), json!("HTTPS://login.example"), Value::Null];
    for other in near {
        assert_eq!(token(other, audience.clone(), NOW + 100), Err(BadToken::Issuer));
    }
    for other in [json!("grimoire2"), json!([]), json!(["other"]), Value::Null] {
        assert_eq!(token(issuer.clone(), other, NOW + 100), Err(BadToken::Audience));
    }
    assert_eq!(token(issuer, audience, NOW + 3601), Err(BadToken::Lifetime { seconds: 3600 }));
}

/// A key pair as PEM texts: private, public.
fn pair(algorithm: Algorithm) -> (String, String) {
    let pair = match algorithm {
        Algorithm::Es256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
        Algorithm::EdDsa => KeyPair::generate_for(&PKCS_ED25519),
        Algorithm::Rs256 | Algorithm::Hs256 => {
            return (include_str!("rsa_private.pem").into(), include_str!("rsa_public.pem").into());
        }
    };
    let pair = pair.expect("keys can be made");
    (pair.serialize_pem(), pair.public_key_pem())
}

fn minted(algorithm: Algorithm, private: &str) -> String {
    let order = super::super::mint::Order {
        user: "ada".into(),
        rights: vec![("*".into(), super::super::access::Access::Read)],
        life: std::time::Duration::from_secs(60),
        issuer: None,
        audience: None,
    };
    super::super::mint::mint(&order, algorithm, private, "t-1", NOW).expect("the key fits")
}

#[test]
fn every_algorithm_takes_its_own_tokens_and_no_others() {
    let algorithms = [Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256];
    let pairs = algorithms.map(|algorithm| (algorithm, pair(algorithm)));
    for (algorithm, (private, public)) in &pairs {
        let keys = Keys::from_text(*algorithm, public).expect("a public key");
        check(&minted(*algorithm, private), &keys, &Demands::default(), NOW).expect("it is good");
        for (other, (private, _)) in pairs.iter().filter(|(other, _)| other != algorithm) {
            assert!(check(&minted(*other, private), &keys, &Demands::default(), NOW).is_err());
        }
        let (stranger, _) = if *algorithm == Algorithm::Rs256 { continue } else { pair(*algorithm) };
        let forged = check(&minted(*algorithm, &stranger), &keys, &Demands::default(), NOW);
        assert_eq!(forged, Err(BadToken::Signature));
        // The confusion of 2.1: a public key is known to all, and so is what was signed with it as a secret.
        let header = encode(&json!({ "alg": "HS256" }));
        let confused = sign(&format!("{header}.{}", encode(&good_claims())), public.as_bytes());
        assert!(check(&confused, &keys, &Demands::default(), NOW).is_err());
    }
}

#[test]
fn a_key_set_is_asked_for_the_key_that_a_token_names() {
    let (private, public) = pair(Algorithm::Rs256);
    let key = jsonwebtoken::EncodingKey::from_rsa_pem(private.as_bytes()).expect("a private key");
    let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key, jsonwebtoken::Algorithm::RS256).expect("a key");
    let mut jwk = serde_json::to_value(jwk).expect("it is JSON");
    jwk["kid"] = json!("k1");
    let set = |keys: Value| serde_json::to_vec(&json!({ "keys": keys })).expect("it is JSON");
    let keys = Keys::from_key_set(Algorithm::Rs256, &set(json!([jwk]))).expect("it has a key");
    let token = |kid: Option<&str>| {
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::RS256);
        header.kid = kid.map(str::to_owned);
        let token = jsonwebtoken::encode(&header, &good_claims(), &key).expect("it is signed");
        check(&token, &keys, &Demands::default(), NOW).map(drop)
    };
    assert_eq!(token(Some("k1")), Ok(()));
    assert_eq!(token(None), Ok(()));
    assert_eq!(token(Some("k2")), Err(BadToken::UnknownKey));
    assert_eq!(token(Some("../../etc/passwd")), Err(BadToken::UnknownKey));

    let secret = json!([{ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET), "alg": "HS256" }]);
    assert!(Keys::from_key_set(Algorithm::Hs256, &set(secret)).is_err(), "a set is public");
    let mut for_encryption = jwk.clone();
    for_encryption["use"] = json!("enc");
    assert!(Keys::from_key_set(Algorithm::Rs256, &set(json!([for_encryption]))).is_err());
    let mut for_another = jwk;
    for_another["alg"] = json!("RS512");
    assert!(Keys::from_key_set(Algorithm::Rs256, &set(json!([for_another]))).is_err());
    assert!(Keys::from_text(Algorithm::Es256, &public).is_err(), "it is a key of RSA");
}

#[test]
fn a_key_that_would_be_unsafe_is_refused() {
    let (private, public) = pair(Algorithm::Es256);
    for (algorithm, text) in [
        (Algorithm::Hs256, "short"),
        (Algorithm::Hs256, "thirty-one bytes are not enough"),
        (Algorithm::Hs256, public.as_str()),
        (Algorithm::Es256, private.as_str()),
        (Algorithm::Es256, SECRET),
        (Algorithm::EdDsa, public.as_str()),
        (Algorithm::Rs256, ""),
    ] {
        assert!(Keys::from_text(algorithm, text).is_err(), "{algorithm:?} {text}");
    }
}
