//! How much and how often: over a limit, the answer says when to come again, and others notice nothing.

use promptgrimoire::auth::access::Access;
use promptgrimoire::settings::Settings;
use serde_json::json;

use crate::support::tokens::demand_tokens;
use crate::support::{Answer, Client, Peer, Server, base64};

const ALL: &[(&str, Access)] = &[("*", Access::Admin)];

/// Tokens are asked for, and no rate is limited but what the test is about.
async fn server_with(change: impl FnOnce(&mut Settings)) -> Server {
    Server::start_with(|settings| {
        demand_tokens(settings);
        let rates = &mut settings.rates;
        rates.updates_per_client = 0;
        rates.updates_per_user = 0;
        rates.updates_per_address = 0;
        rates.bytes_per_client = 0;
        rates.bytes_per_user = 0;
        rates.bytes_per_address = 0;
        rates.requests_per_address = 0;
        rates.documents_per_user_hour = 0;
        rates.burst_seconds = 1;
        change(settings);
    })
    .await
}

/// Writes until it is refused.
///
/// # Panics
/// If it never is.
async fn write_until_refused(client: &Client, client_id: &str, text: &str) -> Answer {
    let mut peer = Peer::new();
    for _ in 0..10_000 {
        let answer = client.update("a", client_id, &peer.push(text)).await;
        if answer.status != 200 {
            return answer;
        }
    }
    panic!("it was never refused");
}

fn expect_too_many(answer: &Answer) {
    answer.expect_problem(429, "too_many_requests");
    let seconds = answer.header("retry-after").expect("it says when to come again");
    assert!(seconds.parse::<u64>().is_ok_and(|seconds| (1..=60).contains(&seconds)), "{seconds}");
}

#[tokio::test]
async fn a_user_who_writes_too_often_is_refused_and_others_write_on() {
    let server = server_with(|settings| settings.rates.updates_per_user = 20).await;
    let (ada, bob) = (server.client_of("ada", ALL), server.client_of("bob", ALL));
    let mut stream = ada.events("a", "reader").await;
    stream.sync().await;
    expect_too_many(&write_until_refused(&ada, "tab-1", "x").await);
    assert_eq!(stream.event("update").await.seq(), 1, "the stream goes on");
    bob.update("b", "tab-2", &Peer::new().push("y")).await.expect_json(200);
    assert_eq!(ada.get("/docs/a").await.status, 200, "reading is no writing");
    let edit = json!({ "ops": [{ "insert": "x", "at": 0 }] });
    let text = ada.request(reqwest::Method::PATCH, "/docs/a/text").json(&edit);
    expect_too_many(&ada.send(text).await);
}

#[tokio::test]
async fn what_was_refused_leaves_no_trace_and_passes_later() {
    let server = server_with(|settings| settings.rates.updates_per_user = 20).await;
    let ada = server.client_of("ada", ALL);
    expect_too_many(&write_until_refused(&ada, "tab-1", "x").await);
    let before = ada.get("/docs/a").await.expect_json(200)["seq"].as_u64().expect("a number");
    crate::support::until("room in the bucket", async || {
        let answer = ada.update("a", "tab-1", &Peer::new().push("y")).await;
        (answer.status == 200).then(|| assert_eq!(answer.expect_json(200)["seq"], before + 1))
    })
    .await;
}

#[tokio::test]
async fn one_client_of_a_user_is_limited_and_the_other_is_not() {
    let server = server_with(|settings| settings.rates.updates_per_client = 20).await;
    let ada = server.client_of("ada", ALL);
    expect_too_many(&write_until_refused(&ada, "tab-1", "x").await);
    ada.update("a", "tab-2", &Peer::new().push("y")).await.expect_json(200);
}

#[tokio::test]
async fn bytes_are_limited_too() {
    let server = server_with(|settings| settings.rates.bytes_per_user = 20_000).await;
    let (ada, bob) = (server.client_of("ada", ALL), server.client_of("bob", ALL));
    expect_too_many(&write_until_refused(&ada, "tab-1", &"x".repeat(5_000)).await);
    bob.update("b", "tab-2", &Peer::new().push("y")).await.expect_json(200);
}

#[tokio::test]
async fn an_address_is_limited_whoever_sits_there() {
    let server = server_with(|settings| settings.rates.requests_per_address = 20).await;
    let ada = server.client_of("ada", ALL);
    let refused = async {
        loop {
            let answer = ada.get("/docs/a").await;
            if answer.status != 404 {
                return answer;
            }
        }
    };
    expect_too_many(&refused.await);
    let health = server.client.get("/healthz").await;
    assert_eq!(health.status, 200, "whoever looks after the server still hears how it is");
}

#[tokio::test]
async fn a_user_creates_so_many_documents_in_an_hour_and_writes_to_those_there_are() {
    let server = server_with(|settings| settings.rates.documents_per_user_hour = 3).await;
    let (ada, bob) = (server.client_of("ada", ALL), server.client_of("bob", ALL));
    ada.update("first", "tab-1", &Peer::new().push("x")).await.expect_json(200);
    ada.put("/docs/second", &json!({ "text": "x" })).await.expect_json(201);
    ada.post("/docs/second/clone", &json!({ "to": "third" })).await.expect_json(201);
    let refused = [
        ada.update("fourth", "tab-1", &Peer::new().push("x")).await,
        ada.put("/docs/fourth", &json!({ "text": "x" })).await,
        ada.post("/docs/second/clone", &json!({ "to": "fourth" })).await,
        ada.send(ada.request(reqwest::Method::PUT, "/docs/fourth/text").body("x")).await,
    ];
    for answer in refused {
        answer.expect_problem(429, "too_many_requests");
    }
    ada.get("/docs/fourth").await.expect_problem(404, "not_found");
    ada.update("first", "tab-1", &Peer::new().push("y")).await.expect_json(200);
    bob.update("fourth", "tab-2", &Peer::new().push("x")).await.expect_json(200);
}

#[tokio::test]
async fn rates_are_off_where_nobody_is_asked_who_they_are() {
    let server = Server::start_with(|settings| {
        settings.rates.updates_per_user = 1;
        settings.rates.updates_per_client = 1;
        settings.rates.requests_per_address = 1;
        settings.rates.documents_per_user_hour = 1;
        settings.rates.burst_seconds = 1;
    })
    .await;
    let mut peer = Peer::new();
    for _ in 0..20 {
        server.client.update("a", "tab-1", &peer.push("x")).await.expect_json(200);
    }
    server.client.update("b", "tab-1", &Peer::new().push("x")).await.expect_json(200);
}

#[tokio::test]
async fn a_document_has_room_for_so_many_awareness_states() {
    let server = Server::start_with(|settings| settings.limits.max_presence_entries = 2).await;
    for client in ["c1", "c2"] {
        assert_eq!(server.client.put(&format!("/docs/a/awareness/{client}"), &json!({})).await.status, 204);
    }
    server.client.put("/docs/a/awareness/c3", &json!({})).await.expect_problem(422, "invalid_update");
    assert_eq!(server.client.put("/docs/a/awareness/c1", &json!({ "x": 1 })).await.status, 204);
}

#[tokio::test]
async fn a_body_that_drips_takes_room_for_what_has_come_of_it_only() {
    let server = server_with(|settings| {
        settings.limits.max_waiting_writes = 4;
    })
    .await;
    let (ada, bob) = (server.client_of("ada", ALL), server.client_of("bob", ALL));
    let token = crate::support::tokens::Token::of("ada", ALL).signed();
    let mut dripping = Vec::new();
    for _ in 0..4 {
        let mut raw = crate::support::Raw::connect(server.address).await;
        let head = format!(
            "POST /docs/a/updates HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: 1000\r\n\r\n{{"
        );
        raw.send(head).await;
        dripping.push(raw);
    }
    // As soon as all four are inside, there is no room for a fifth of anybody's.
    crate::support::until("a crowd", async || {
        let answer = ada.update("b", "tab-1", &Peer::new().push("x")).await;
        (answer.status == 503).then(|| answer.expect_problem(503, "unavailable"))
    })
    .await;
    drop(dripping);
    crate::support::until("room", async || {
        let body = json!({ "update": base64(&Peer::new().push("y")) });
        (bob.post("/docs/c/updates", &body).await.status == 200).then_some(())
    })
    .await;
}
