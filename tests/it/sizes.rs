//! What is over a limit is refused as soon as that is known, and the refusal can be read.

use serde_json::json;

use crate::support::{Client, Peer, Raw, Server, base64};

const LIMIT: usize = 4096;

async fn small() -> Server {
    Server::start_with(|settings| settings.limits.max_update_bytes = LIMIT).await
}

/// An update of more bytes than the limit.
fn over() -> Vec<u8> {
    Peer::new().insert(0, &"x".repeat(LIMIT))
}

/// Not one body is sent: what was declared is enough.
#[tokio::test]
async fn a_declared_length_over_the_limit_is_refused_before_the_body_comes() {
    let server = small().await;
    for kind in ["application/json", "application/octet-stream"] {
        let mut raw = Raw::connect(server.address).await;
        raw.send(format!(
            "POST /docs/a/updates HTTP/1.1\r\nhost: a\r\ncontent-type: {kind}\r\ncontent-length: 100000000\r\n\
             expect: 100-continue\r\n\r\n"
        ))
        .await;
        let answer = raw.answer().await;
        assert_eq!(answer.expect_problem(413, "too_large")["limit"], LIMIT);
        assert_eq!(answer.header("connection"), Some("close"));
        raw.closed().await;
    }
    server.client.get("/docs/a").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn a_chunked_body_is_refused_when_it_passes_the_limit() {
    let server = small().await;
    let mut raw = Raw::connect(server.address).await;
    raw.send(
        "POST /docs/a/updates HTTP/1.1\r\nhost: a\r\ncontent-type: application/octet-stream\r\n\
         transfer-encoding: chunked\r\n\r\n",
    )
    .await;
    // Without an end: only what has come can decide.
    for _ in 0..5 {
        raw.send(format!("400\r\n{}\r\n", "x".repeat(0x400))).await;
    }
    let answer = raw.answer().await;
    assert_eq!(answer.expect_problem(413, "too_large")["limit"], LIMIT);
    assert_eq!(answer.header("connection"), Some("close"));
    raw.closed().await;
}

#[tokio::test]
async fn what_decodes_to_more_than_the_limit_is_refused() {
    let server = small().await;
    let over = Peer::new().insert(0, &"x".repeat(LIMIT - 10));
    assert!(over.len() > LIMIT && base64(&over).len() < LIMIT * 4 / 3 + 4096);
    let answer = server.client.update("a", "tab-1", &over).await;
    assert_eq!(answer.expect_problem(413, "too_large")["limit"], LIMIT);
    let fits = Peer::new().insert(0, &"x".repeat(LIMIT - 100));
    server.client.write("a", "tab-1", &fits).await;
    assert_eq!(server.client.post_bytes("/docs/a/updates", over).await.status, 413);
}

/// The failure: a socket closed with bytes unread is reset, and the reset overtakes the answer.
#[tokio::test]
async fn a_refusal_can_be_read_while_the_body_is_still_being_sent() {
    let server = small().await;
    for round in 0..10 {
        let mut raw = Raw::connect(server.address).await;
        let length = 3 << 20;
        raw.send(format!(
            "POST /docs/a/updates HTTP/1.1\r\nhost: a\r\ncontent-type: application/octet-stream\r\ncontent-length: {length}\r\n\r\n"
        ))
        .await;
        // Sent to the end, as simple clients do, before a byte of the answer is read.
        raw.try_send(vec![0; length]).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        raw.answer().await.expect_problem(413, "too_large");
    }
}

#[tokio::test]
async fn a_client_that_posts_too_much_gets_the_refusal_over_either_protocol() {
    let server = small().await;
    for client in [Client::new(server.address), Client::with_http2(server.address)] {
        for length in [LIMIT + 1, 1 << 20] {
            let answer = client.post_bytes("/docs/a/updates", vec![0; length]).await;
            assert_eq!(answer.expect_problem(413, "too_large")["limit"], LIMIT);
        }
        let answer = client.post("/docs/a/updates", &json!({ "update": base64(&over()) })).await;
        assert_eq!(answer.expect_problem(413, "too_large")["limit"], LIMIT);
    }
}

#[tokio::test]
async fn a_document_is_not_let_grow_over_its_limit() {
    let limit = 2000;
    let server = Server::start_with(|settings| settings.limits.max_document_bytes = limit).await;
    let mut peer = Peer::new();
    server.client.write("a", "tab-1", &peer.insert(0, &"x".repeat(1500))).await;
    let refused = server.client.update("a", "tab-1", &peer.push(&"y".repeat(600))).await;
    assert_eq!(refused.expect_problem(413, "too_large")["limit"], limit);
    assert_eq!(server.client.text("a").await, "x".repeat(1500));
    assert_eq!(server.client.log("a").await.len(), 1);

    // A repeat makes nothing grow, and what still fits is taken.
    let mut other = Peer::from_update(&server.client.state("a").await);
    let repeat = server.client.update("a", "tab-2", &other.whole()).await.expect_json(200);
    assert_eq!(repeat["changed"], false);
    server.client.write("a", "tab-2", &other.push("fits")).await;
    let first = server.client.update("b", "tab-1", &Peer::new().insert(0, &"x".repeat(2500))).await;
    first.expect_problem(413, "too_large");
    server.client.get("/docs/b").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn an_awareness_state_over_its_limit_is_refused() {
    let server = Server::start_with(|settings| settings.limits.max_awareness_bytes = 256).await;
    let state = json!({ "name": "x".repeat(300) });
    let put = server.client.put("/docs/a/awareness/tab-1", &state).await;
    assert_eq!(put.expect_problem(413, "too_large")["limit"], 256);
    let body = json!({ "client_id": "tab-1", "update": base64(&[0; 300]) });
    let posted = server.client.post("/docs/a/awareness", &body).await;
    assert_eq!(posted.expect_problem(413, "too_large")["limit"], 256);
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_given_up() {
    let server = Server::start_with(|settings| settings.limits.body_seconds = 1).await;
    let mut raw = Raw::connect(server.address).await;
    raw.send("POST /docs/a/updates HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{\"upd").await;
    let answer = raw.answer().await;
    answer.expect_problem(408, "request_timeout");
    assert_eq!(answer.header("connection"), Some("close"));
    raw.closed().await;
}

#[tokio::test]
async fn a_length_that_lies_harms_nobody() {
    let server = small().await;
    let update = Peer::new().insert(0, "a");
    let mut raw = Raw::connect(server.address).await;
    // Fewer bytes than declared, then the end: the update is not whole, so it is no update.
    raw.send(format!(
        "POST /docs/a/updates HTTP/1.1\r\nhost: a\r\ncontent-type: application/octet-stream\r\ncontent-length: {}\r\n\r\n",
        update.len() + 1
    ))
    .await;
    raw.send(&update).await;
    tokio::io::AsyncWriteExt::shutdown(&mut raw.socket).await.expect("our side can be closed");
    raw.closed().await;
    server.client.get("/docs/a").await.expect_problem(404, "not_found");
    server.client.write("a", "tab-1", &update).await;
}
