//! Who may do what: every verb, with every kind of token, on documents that it is for and on others.

use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use promptgrimoire::auth::access::Access;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::awareness::awareness;
use crate::support::tokens::{SECRET, Token, demand_tokens};
use crate::support::{Answer, Client, Peer, Server, base64};

/// What a deed needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Needs {
    On(Access),
    /// Admin's access to everything.
    All,
}

struct Deed {
    method: Method,
    /// `{doc}` stands for the document.
    path: &'static str,
    body: Option<Value>,
    needs: Needs,
}

/// Every deed that there is, with a body that is good, so that permission alone decides.
fn deeds() -> Vec<Deed> {
    let deed = |method: &str, path, body, needs| Deed {
        method: method.parse().expect("a method"),
        path,
        body,
        needs,
    };
    let (read, write, admin) = (Needs::On(Access::Read), Needs::On(Access::Write), Needs::On(Access::Admin));
    let update = base64(&Peer::new().push("x"));
    let awareness = base64(&awareness(7, 1, &json!({})));
    vec![
        deed("GET", "/docs/{doc}", None, read),
        deed("GET", "/docs/{doc}/updates", None, read),
        deed("GET", "/docs/{doc}/state", None, read),
        deed("POST", "/docs/{doc}/state", Some(json!({})), read),
        deed("GET", "/docs/{doc}/text", None, read),
        deed("GET", "/docs/{doc}/json", None, read),
        deed("HEAD", "/docs/{doc}/events", None, read),
        deed("HEAD", "/events?doc={doc}", None, read),
        deed("GET", "/docs/{doc}/clients", None, read),
        deed("GET", "/docs/{doc}/versions", None, read),
        deed("GET", "/docs/{doc}/history", None, read),
        deed("GET", "/docs/{doc}/export", None, read),
        deed("POST", "/docs/{doc}/awareness", Some(json!({ "client_id": "c", "update": awareness })), read),
        deed("PUT", "/docs/{doc}/awareness/c", Some(json!({ "name": "c" })), read),
        deed("POST", "/docs/{doc}/updates", Some(json!({ "update": update })), write),
        deed("PATCH", "/docs/{doc}/text", Some(json!({ "ops": [{ "insert": "a", "at": 0 }] })), write),
        deed("PATCH", "/docs/{doc}/json?root=meta&type=map", Some(json!([])), write),
        deed("PUT", "/docs/{doc}", Some(json!({ "text": "a" })), write),
        deed("POST", "/docs/{doc}/versions", Some(json!({ "name": "v" })), write),
        deed("POST", "/docs/{doc}/restore", Some(json!({ "seq": 1 })), write),
        deed("DELETE", "/docs/{doc}/versions/v", None, admin),
        deed("POST", "/docs/{doc}/freeze", Some(json!({})), admin),
        deed("POST", "/docs/{doc}/thaw", Some(json!({})), admin),
        deed("GET", "/docs", None, Needs::All),
        deed("GET", "/metrics", None, Needs::All),
        deed("GET", "/export", None, Needs::All),
        deed("POST", "/import", None, Needs::All),
        deed("GET", "/admin/quarantine", None, Needs::All),
        deed("DELETE", "/admin/quarantine/{doc}", None, Needs::All),
        deed("POST", "/admin/revoke", Some(json!({ "jti": "nobody" })), Needs::All),
        // Last: nothing is left to do a deed to.
        deed("DELETE", "/docs/{doc}", None, admin),
    ]
}

async fn try_to(client: &Client, deed: &Deed, document: &str) -> Answer {
    let path = deed.path.replace("{doc}", document);
    let mut request = client.request(deed.method.clone(), &path);
    if let Some(body) = &deed.body {
        request = request.json(body);
    }
    client.send(request).await
}

async fn guarded() -> Server {
    Server::start_with(demand_tokens).await
}

/// Every token that grants something, against every deed, on three documents of which one was never written.
#[tokio::test]
async fn a_token_is_good_for_its_documents_and_its_deeds_and_for_nothing_else() {
    for held in [Access::Read, Access::Write, Access::Admin] {
        let server = guarded().await;
        let owner = server.client_of("owner", &[("*", Access::Admin)]);
        for document in ["mine-1", "theirs-1"] {
            owner.anonymous_update(document, &Peer::new().push("content")).await.expect_json(200);
        }
        let client = server.client_of("ada", &[("mine-*", held)]);
        for deed in deeds() {
            for (document, is_mine) in [("mine-1", true), ("mine-never-written", true), ("theirs-1", false)] {
                let answer = try_to(&client, &deed, document).await;
                let may = is_mine && deed.needs <= Needs::On(held);
                let what = format!("{held} does {} {} to {document}", deed.method, deed.path);
                if may {
                    assert!(
                        ![401, 403].contains(&answer.status),
                        "{what}: {} {}",
                        answer.status,
                        answer.text()
                    );
                } else {
                    assert_eq!(answer.status, 403, "{what}: {}", answer.text());
                }
            }
        }
        let text = owner.get("/docs/theirs-1/text").await;
        assert_eq!((text.status, text.text().as_str()), (200, "content"), "what was refused left no trace");
    }
}

#[tokio::test]
async fn whoever_administers_everything_may_do_every_deed() {
    let server = guarded().await;
    let client = server.client_of("root", &[("*", Access::Admin)]);
    client.anonymous_update("a", &Peer::new().push("content")).await.expect_json(200);
    for deed in deeds() {
        let answer = try_to(&client, &deed, "a").await;
        let what = format!("{} {}", deed.method, deed.path);
        assert!(![401, 403].contains(&answer.status), "{what}: {} {}", answer.status, answer.text());
    }
}

#[tokio::test]
async fn without_a_good_token_every_deed_is_unauthorized() {
    let server = guarded().await;
    let token = Token::of("ada", &[("*", Access::Admin)]);
    let good = token.signed();
    let (rest, _) = good.rsplit_once('.').expect("a signature");
    let expired = Token::of("ada", &[("*", Access::Admin)])
        .issued(std::time::SystemTime::now() - std::time::Duration::from_secs(3600));
    let bad = [
        ("none", String::new()),
        ("another secret", token.signed_with("another secret that has over thirty-two bytes")),
        ("no signature", format!("{rest}.")),
        ("expired", expired.signed()),
        ("a word", "letmein".into()),
    ];
    for (what, token) in &bad {
        let client = if token.is_empty() { server.client.clone() } else { server.client.with_token(token) };
        for deed in deeds() {
            let answer = try_to(&client, &deed, "a").await;
            assert_eq!(answer.status, 401, "{what}: {} {}", deed.method, deed.path);
            let challenge = answer.header("www-authenticate").expect("a 401 says what is wanted");
            assert!(challenge.starts_with("Bearer realm="), "{challenge}");
            assert_eq!(challenge.contains("invalid_token"), !token.is_empty(), "{challenge}");
            if deed.method != Method::HEAD {
                answer.expect_problem(401, "unauthorized");
            }
        }
    }
}

#[tokio::test]
async fn pages_and_health_are_open_to_all() {
    let server = guarded().await;
    let nonsense = server.client.with_token("nonsense");
    for path in ["/", "/demo/crdt-sync", "/conversation/a", "/healthz", "/readyz", "/openapi.json"] {
        assert_eq!(server.client.get(path).await.status, 200, "{path}");
        assert_eq!(nonsense.get(path).await.status, 200, "{path} with a bad token");
    }
}

#[tokio::test]
async fn unknown_and_forbidden_documents_look_the_same() {
    let server = guarded().await;
    let owner = server.client_of("owner", &[("*", Access::Admin)]);
    owner.anonymous_update("secret", &Peer::new().push("x")).await.expect_json(200);
    let client = server.client_of("ada", &[("mine-*", Access::Admin)]);
    for deed in deeds().iter().filter(|deed| deed.path.contains("{doc}")) {
        let forbidden = try_to(&client, deed, "secret").await;
        let unknown = try_to(&client, deed, "nothin").await;
        assert_eq!(forbidden.status, unknown.status, "{} {}", deed.method, deed.path);
        assert_eq!(forbidden.text(), unknown.text(), "{} {}", deed.method, deed.path);
    }
}

#[tokio::test]
async fn permission_comes_before_everything_that_is_wrong_with_a_request() {
    let server = guarded().await;
    let reader = server.client_of("ada", &[("*", Access::Read)]);
    let nonsense = reader.request(Method::POST, "/docs/a/updates").body("{");
    reader.send(nonsense).await.expect_problem(403, "forbidden");
    let nonsense = server.client.request(Method::POST, "/docs/a%20b/updates").body("{");
    server.client.send(nonsense).await.expect_problem(401, "unauthorized");
    reader.get("/docs/a%20b/state").await.expect_problem(400, "invalid_document_id");
}

#[tokio::test]
async fn the_administrator_of_a_prefix_lists_and_exports_what_is_under_it() {
    let server = guarded().await;
    let owner = server.client_of("owner", &[("*", Access::Admin)]);
    for document in ["ws-1", "ws-2", "other"] {
        owner.anonymous_update(document, &Peer::new().push("x")).await.expect_json(200);
    }
    let client = server.client_of("ada", &[("ws-*", Access::Admin)]);
    let listed = client.get("/docs?prefix=ws-").await.expect_json(200);
    let ids: Vec<&str> =
        listed["documents"].as_array().expect("a list").iter().filter_map(|one| one["id"].as_str()).collect();
    assert_eq!(ids, ["ws-1", "ws-2"]);
    assert_eq!(client.get("/export?prefix=ws-").await.status, 200);
    for path in ["/docs", "/docs?prefix=ws", "/docs?prefix=other", "/export"] {
        client.get(path).await.expect_problem(403, "forbidden");
    }
}

#[tokio::test]
async fn a_clone_needs_its_source_to_be_read_and_its_target_to_be_written() {
    let server = guarded().await;
    let owner = server.client_of("owner", &[("*", Access::Admin)]);
    owner.anonymous_update("source", &Peer::new().push("x")).await.expect_json(200);
    let client =
        server.client_of("ada", &[("source", Access::Read), ("mine", Access::Write), ("seen", Access::Read)]);
    let clone = async |source: &str, target: &str| {
        client.post(&format!("/docs/{source}/clone"), &json!({ "to": target })).await.status
    };
    assert_eq!(clone("source", "mine").await, 201);
    assert_eq!(clone("source", "seen").await, 403);
    assert_eq!(clone("source", "theirs").await, 403);
    assert_eq!(clone("theirs", "mine").await, 403);
}

#[tokio::test]
async fn who_wrote_what_comes_from_the_token() {
    let server = guarded().await;
    let client = server.client_of("ada", &[("*", Access::Write)]);
    let body = json!({ "update": base64(&Peer::new().push("x")), "client_id": "tab-1", "user": "eve" });
    client.post("/docs/a/updates", &body).await.expect_json(200);
    client.send(client.request(Method::PUT, "/docs/a/text").body("xy")).await.expect_json(200);
    client.put("/docs/b", &json!({ "text": "begun" })).await.expect_json(201);
    for document in ["a", "b"] {
        let log = client.log(document).await;
        assert!(!log.is_empty() && log.iter().all(|event| event["user"] == "ada"), "{log:?}");
    }
    let history = client.get("/docs/a/history").await.expect_json(200);
    let contributions = history["contributions"].as_array().expect("a list");
    assert!(contributions.iter().all(|contribution| contribution["user"] == "ada"), "{history}");
    let _stream = client.events("a", "tab-1").await;
    let clients = client.get("/docs/a/clients").await.expect_json(200);
    assert_eq!(clients["clients"][0]["user"], "ada");
}

#[tokio::test]
async fn an_awareness_state_cannot_claim_to_be_of_another_user() {
    let server = guarded().await;
    let client = server.client_of("ada", &[("*", Access::Read)]);
    let put = async |state: Value| client.put("/docs/a/awareness/tab-1", &state).await;
    assert_eq!(put(json!({ "user": { "id": "ada", "name": "Ada" } })).await.status, 204);
    put(json!({ "user": { "id": "bob" } })).await.expect_problem(403, "forbidden");
    let update = base64(&awareness(7, 1, &json!({ "user": { "id": "bob" } })));
    let posted = client.post("/docs/a/awareness", &json!({ "client_id": "tab-2", "update": update })).await;
    posted.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn a_client_id_in_use_cannot_be_taken_by_another_user() {
    let server = guarded().await;
    let ada = server.client_of("ada", &[("*", Access::Write)]);
    let bob = server.client_of("bob", &[("*", Access::Write)]);
    let mut stream = ada.events("a", "tab-1").await;
    stream.sync().await;
    let mut peer = Peer::new();
    let taken = bob.update("a", "tab-1", &peer.push("x")).await;
    taken.expect_problem(403, "forbidden");
    bob.put("/docs/a/awareness/tab-1", &json!({})).await.expect_problem(403, "forbidden");
    bob.get("/docs/a/events?client_id=tab-1").await.expect_problem(403, "forbidden");
    // The same person in another window of the same session may.
    ada.update("a", "tab-1", &Peer::new().push("y")).await.expect_json(200);
}

#[tokio::test]
async fn a_repeat_of_another_user_s_key_is_no_repeat() {
    let server = guarded().await;
    for user in ["ada", "bob"] {
        let client = server.client_of(user, &[("*", Access::Write)]);
        let edit = json!({ "ops": [{ "insert": "x", "at": "end" }] });
        let request =
            client.request(Method::PATCH, "/docs/a/text").header("idempotency-key", "k1").json(&edit);
        assert_eq!(client.send(request).await.expect_json(200)["changed"], true, "{user}");
    }
}

#[tokio::test]
async fn a_token_comes_in_a_cookie_too_and_not_in_an_address() {
    let server = guarded().await;
    let token = Token::of("ada", &[("*", Access::Write)]).signed();
    let cookie = format!("theme=dark; token={token}");
    assert_eq!(server.client.get_with("/docs/a", "cookie", &cookie).await.status, 404);
    server.client.get(&format!("/docs/a?token={token}")).await.expect_problem(401, "unauthorized");
    server.client.get(&format!("/docs/a?access_token={token}")).await.expect_problem(401, "unauthorized");
    let basic = format!("Basic {token}");
    server.client.get_with("/docs/a", "authorization", &basic).await.expect_problem(401, "unauthorized");
}

#[tokio::test]
async fn a_ticket_opens_one_stream_for_whoever_it_was_issued_to() {
    let server = guarded().await;
    let client = server.client_of("ada", &[("a", Access::Read)]);
    server.client.post("/tickets", &json!({})).await.expect_problem(401, "unauthorized");
    let ticket = async || {
        let issued = client.post("/tickets", &json!({})).await.expect_json(200);
        assert_eq!(issued["expires_in"], 30);
        issued["ticket"].as_str().expect("a ticket").to_owned()
    };
    let first = ticket().await;
    let mut stream = server.client.stream(&format!("/docs/a/events?client_id=tab-1&ticket={first}")).await;
    stream.sync().await;
    let clients = client.get("/docs/a/clients").await.expect_json(200);
    assert_eq!(clients["clients"][0]["user"], "ada");
    let again = server.client.get(&format!("/docs/a/events?ticket={first}")).await;
    again.expect_problem(401, "unauthorized");
    let second = ticket().await;
    server.client.get(&format!("/docs/b/events?ticket={second}")).await.expect_problem(403, "forbidden");
    let third = ticket().await;
    server.client.get(&format!("/docs/a/state?ticket={third}")).await.expect_problem(401, "unauthorized");
}

#[tokio::test]
async fn tokens_mean_nothing_where_nobody_asks_for_them() {
    let server = Server::start().await;
    let client = server.client.with_token("nonsense");
    client.anonymous_update("a", &Peer::new().push("x")).await.expect_json(200);
    assert_eq!(client.log("a").await[0]["user"], Value::Null);
    assert_eq!(client.post("/tickets", &json!({})).await.status, 200);
}

#[tokio::test]
async fn keys_in_a_file_are_replaced_while_the_server_runs() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let path = directory.path().join("secret");
    std::fs::write(&path, format!("{SECRET}\n")).expect("there is room");
    let server = Server::start_with(|settings| {
        demand_tokens(settings);
        settings.auth.key = None;
        settings.auth.key_file = Some(path.clone());
    })
    .await;
    let token = Token::of("ada", &[("*", Access::Read)]);
    let old = server.client.with_token(&token.signed());
    assert_eq!(old.get("/docs/a").await.status, 404, "it is taken, and seen before the keys change");
    let next = "the next secret, which also has over thirty-two bytes";
    std::fs::write(&path, next).expect("there is room");
    let new = server.client.with_token(&token.signed_with(next));
    crate::support::until("the new key", async || (new.get("/docs/a").await.status == 404).then_some(()))
        .await;
    assert_eq!(old.get("/docs/a").await.status, 401, "what the old key signed is good no more");
}

/// A key that signs with ES256, and its public half as it stands in a key set.
fn key_of_a_set(id: &str) -> (EncodingKey, Value) {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("keys can be made");
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    // 4, then the two coordinates: SEC 1, 2.3.3.
    let point = pair.public_key_raw();
    let (x, y) = (encode(&point[1..33]), encode(&point[33..65]));
    let signing = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).expect("a private key");
    (signing, json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": id, "x": x, "y": y }))
}

fn signed_by(key: &EncodingKey, id: &str) -> String {
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(id.to_owned());
    let now = promptgrimoire::auth::seconds(std::time::SystemTime::now());
    let claims = json!({ "sub": "ada", "iat": now, "exp": now + 60, "docs": { "*": "read" } });
    jsonwebtoken::encode(&header, &claims, key).expect("it is signed")
}

/// Answers every request with what `body` holds then.
async fn serve_text(body: Arc<Mutex<String>>) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("there is a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let body = body.lock().expect("not poisoned").clone();
            let length = body.len();
            let answer =
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
            let mut request = [0; 4096];
            let _ = socket.read(&mut request).await;
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    address
}

#[tokio::test]
async fn a_key_set_at_an_address_is_asked_again_for_a_key_that_it_had_not() {
    let ((first, first_public), (second, second_public)) = (key_of_a_set("k1"), key_of_a_set("k2"));
    let set = |keys: &[&Value]| json!({ "keys": keys }).to_string();
    let body = Arc::new(Mutex::new(set(&[&first_public])));
    let address = serve_text(body.clone()).await;
    let server = Server::start_with(|settings| {
        settings.auth.mode = promptgrimoire::settings::AuthMode::Jwt;
        settings.auth.algorithm = Some(promptgrimoire::auth::keys::Algorithm::Es256);
        settings.auth.jwks = Some(format!("http://{address}/keys"));
    })
    .await;
    let status = async |token: String| server.client.with_token(&token).get("/docs/a").await.status;
    assert_eq!(status(signed_by(&first, "k1")).await, 404);
    assert_eq!(status(signed_by(&second, "k1")).await, 401, "another key under the name of this one");
    *body.lock().expect("not poisoned") = set(&[&second_public]);
    assert_eq!(status(signed_by(&second, "k2")).await, 404, "the set was fetched for it");
    assert_eq!(status(signed_by(&first, "k1")).await, 401, "the first key is in it no more");
}
