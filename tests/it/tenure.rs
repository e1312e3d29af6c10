//! Streams end with the token that opened them, or when it is revoked.

use std::time::{Duration, SystemTime};

use promptgrimoire::auth::access::Access;
use serde_json::{Value, json};

use crate::support::tokens::{Token, demand_tokens};
use crate::support::{Client, Frame, Peer, Process, Server, Stream};

const ALL: &[(&str, Access)] = &[("*", Access::Admin)];

async fn guarded() -> Server {
    Server::start_with(demand_tokens).await
}

/// How a stream ends: the code of its `closed` event, which is its last.
async fn ending(mut stream: Stream) -> Value {
    let frames = stream.rest().await;
    let Some(Frame::Event(last)) = frames.last() else { panic!("no event at the end: {frames:?}") };
    assert_eq!(last.name, "closed");
    last.json()["code"].clone()
}

async fn opened(client: &Client, path: &str) -> Stream {
    let mut stream = client.stream(path).await;
    stream.sync().await;
    stream
}

async fn revoke(server: &Server, what: Value) {
    let answer = server.client_of("root", ALL).post("/admin/revoke", &what).await;
    assert_eq!((answer.status, answer.body.len()), (204, 0), "{}", answer.text());
}

fn a_moment_ago() -> SystemTime {
    SystemTime::now() - Duration::from_secs(10)
}

#[tokio::test]
async fn a_stream_ends_when_its_token_does() {
    let server = guarded().await;
    // It is good for one second from now.
    let token = Token::of("ada", ALL).issued(a_moment_ago()).lasting(Duration::from_secs(11)).signed();
    let client = server.client.with_token(&token);
    let alone = opened(&client, "/docs/a/events?client_id=tab-1").await;
    let among = opened(&client, "/events?doc=a&client_id=tab-2").await;
    assert_eq!(ending(alone).await, "token_expired");
    assert_eq!(ending(among).await, "token_expired");
}

#[tokio::test]
async fn a_revoked_user_s_streams_end_at_once_and_its_tokens_are_no_good() {
    let server = guarded().await;
    let ada = server.client.with_token(&Token::of("ada", ALL).issued(a_moment_ago()).signed());
    let bob = server.client.with_token(&Token::of("bob", ALL).issued(a_moment_ago()).signed());
    let (of_ada, mut of_bob) = (opened(&ada, "/docs/a/events").await, opened(&bob, "/docs/a/events").await);
    revoke(&server, json!({ "sub": "ada" })).await;
    assert_eq!(ending(of_ada).await, "revoked");
    ada.get("/docs/a").await.expect_problem(401, "unauthorized");
    bob.anonymous_update("a", &Peer::new().push("x")).await.expect_json(200);
    assert_eq!(of_bob.event("update").await.seq(), 1, "others' streams go on");
    let later = SystemTime::now() + Duration::from_secs(2);
    let renewed = server.client.with_token(&Token::of("ada", ALL).issued(later).signed());
    assert_eq!(renewed.get("/docs/a").await.status, 200, "a new token is welcome");
}

#[tokio::test]
async fn a_revoked_token_is_that_one_only() {
    let server = guarded().await;
    let token = |id: &str| server.client.with_token(&Token::of("ada", ALL).id(id).signed());
    let (first, second) = (token("t-1"), token("t-2"));
    let (of_first, _of_second) =
        (opened(&first, "/docs/a/events").await, opened(&second, "/docs/a/events").await);
    revoke(&server, json!({ "jti": "t-1" })).await;
    assert_eq!(ending(of_first).await, "revoked");
    first.get("/docs/a").await.expect_problem(401, "unauthorized");
    assert_eq!(second.get("/docs/a").await.status, 404);
}

#[tokio::test]
async fn access_to_a_document_is_revoked_for_all_and_nothing_else_is() {
    let server = guarded().await;
    let client = server.client.with_token(&Token::of("ada", ALL).issued(a_moment_ago()).signed());
    let alone = opened(&client, "/docs/a/events").await;
    let mut among = client.stream("/events?doc=a&doc=b").await;
    let syncs =
        [among.event("sync").await.json()["doc"].clone(), among.event("sync").await.json()["doc"].clone()];
    assert!(syncs.contains(&json!("a")) && syncs.contains(&json!("b")));
    revoke(&server, json!({ "doc": "a" })).await;
    assert_eq!(ending(alone).await, "revoked");
    let closed = among.event("closed").await.json();
    assert_eq!((&closed["doc"], &closed["code"]), (&json!("a"), &json!("revoked")));
    client.get("/docs/a").await.expect_problem(403, "forbidden");
    client.anonymous_update("b", &Peer::new().push("x")).await.expect_json(200);
    assert_eq!(among.event("update").await.json()["doc"], "b", "its part of the stream goes on");
}

#[tokio::test]
async fn an_export_and_an_import_say_which_document_they_leave_out_since_it_was_revoked() {
    let server = guarded().await;
    let client = server.client.with_token(&Token::of("root", ALL).issued(a_moment_ago()).signed());
    for document in ["a", "b"] {
        client.anonymous_update(document, &Peer::new().push("x")).await.expect_json(200);
    }
    let whole = client.get("/export").await;
    revoke(&server, json!({ "doc": "a" })).await;
    let exported = client.get("/export").await;
    let lines: Vec<Value> =
        exported.text().lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect();
    assert_eq!(lines[0]["left_out"], "a", "{lines:?}");
    assert!(lines.iter().any(|line| line["end"] == "b"), "{lines:?}");
    let imported =
        client.post_as("/import", "application/x-ndjson", whole.body.to_vec()).await.expect_json(200);
    assert_eq!(imported["skipped"][0]["document"], "a", "{imported}");
    assert!(imported["skipped"][0]["reason"].as_str().is_some_and(|reason| reason.contains("revoked")));
}

#[tokio::test]
async fn a_ticket_is_revoked_with_its_token() {
    let server = guarded().await;
    let client = server.client.with_token(&Token::of("ada", ALL).issued(a_moment_ago()).signed());
    let ticket = client.post("/tickets", &json!({})).await.expect_json(200);
    let ticket = ticket["ticket"].as_str().expect("a ticket").to_owned();
    revoke(&server, json!({ "sub": "ada" })).await;
    let opened = server.client.get(&format!("/docs/a/events?ticket={ticket}")).await;
    opened.expect_problem(401, "unauthorized");
}

#[tokio::test]
async fn a_revocation_says_whom_it_concerns() {
    let server = guarded().await;
    let client = server.client_of("root", ALL);
    for wrong in [json!({}), json!({ "sub": "a", "jti": "b" }), json!({ "user": "a" }), json!({ "sub": 7 })] {
        client.post("/admin/revoke", &wrong).await.expect_problem(400, "invalid_json");
    }
    client.post("/admin/revoke", &json!({ "doc": "a b" })).await.expect_problem(400, "invalid_document_id");
    let of_one = server.client_of("ada", &[("a*", Access::Admin)]);
    of_one.post("/admin/revoke", &json!({ "doc": "a" })).await.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn what_was_revoked_stays_so_over_a_kill() {
    let variables = [
        ("PROMPTGRIMOIRE__AUTH__MODE", "jwt"),
        ("PROMPTGRIMOIRE__AUTH__ALGORITHM", "HS256"),
        ("PROMPTGRIMOIRE__AUTH__KEY", crate::support::tokens::SECRET),
    ];
    let mut server = Process::start_with(&variables).await;
    let issued = a_moment_ago();
    let ada = Token::of("ada", ALL).issued(issued).signed();
    let root = Token::of("root", ALL).signed();
    let revoked = server.client.with_token(&root).post("/admin/revoke", &json!({ "sub": "ada" })).await;
    assert_eq!(revoked.status, 204);
    server.kill().await;
    let mut server = server.restart().await;
    server.client.with_token(&ada).get("/docs/a").await.expect_problem(401, "unauthorized");
    assert_eq!(server.client.with_token(&root).get("/docs/a").await.status, 404);
    server.terminate();
    server.ended().await;
    let log = server.logged();
    assert!(!log.contains(&ada) && !log.contains(&root), "no token is logged");
}

#[tokio::test]
async fn a_hangup_ends_nothing_and_has_the_keys_read_again() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let path = directory.path().join("secret");
    std::fs::write(&path, crate::support::tokens::SECRET).expect("there is room");
    let variables = [
        ("PROMPTGRIMOIRE__AUTH__MODE", "jwt"),
        ("PROMPTGRIMOIRE__AUTH__ALGORITHM", "HS256"),
        ("PROMPTGRIMOIRE__AUTH__KEY_FILE", path.to_str().expect("UTF-8")),
    ];
    let server = Process::start_with(&variables).await;
    let client = server.client.with_token(&Token::of("ada", ALL).signed());
    let mut stream = opened(&client, "/docs/a/events").await;
    for _ in 0..3 {
        server.hang_up();
        client.anonymous_update("a", &Peer::new().push("x")).await.expect_json(200);
    }
    assert_eq!(stream.event("update").await.seq(), 1);
}

#[tokio::test]
async fn one_user_s_streams_are_limited_and_others_are_not() {
    let server = Server::start_with(|settings| {
        demand_tokens(settings);
        settings.limits.max_streams_per_user = 2;
        settings.limits.max_streams_per_document = 4;
    })
    .await;
    let (ada, bob) = (server.client_of("ada", ALL), server.client_of("bob", ALL));
    let mut kept = vec![opened(&ada, "/docs/a/events").await, opened(&ada, "/events?doc=b&doc=c").await];
    let refused = ada.get("/docs/d/events").await;
    refused.expect_problem(429, "too_many_requests");
    assert!(refused.header("retry-after").is_some());
    kept.push(opened(&bob, "/docs/a/events").await);
    kept.push(opened(&bob, "/docs/a/events").await);
    let eve = server.client_of("eve", ALL);
    kept.push(opened(&eve, "/docs/a/events").await);
    eve.get("/docs/a/events").await.expect_problem(429, "too_many_requests");
    bob.anonymous_update("a", &Peer::new().push("x")).await.expect_json(200);
    assert_eq!(kept[0].event("update").await.seq(), 1, "streams that are open are untouched");
    drop(kept);
    crate::support::until("a place given back", async || {
        (ada.request(reqwest::Method::GET, "/docs/d/events").send().await.ok()?.status() == 200).then_some(())
    })
    .await;
}
