//! The state and the text: all of it, what somebody lacks, and as it was.

use reqwest::Method;
use serde_json::json;

use crate::support::{Peer, Server, base64, bytes_of};

#[tokio::test]
async fn the_state_is_the_whole_document() {
    let server = Server::start().await;
    let mut peer = Peer::new();
    server.client.write("a", "tab-1", &peer.insert(0, "Hello 🌍")).await;
    let ack = server.client.write("a", "tab-1", &peer.delete(0, 1)).await;
    let state = server.client.get("/docs/a/state").await.expect_json(200);
    assert_eq!((&state["epoch"], &state["seq"]), (&json!(ack.epoch), &json!(2)));
    assert_eq!(bytes_of(&state["state_vector"]), peer.state_vector());
    assert_eq!(Peer::from_update(&bytes_of(&state["update"])).text(), "ello 🌍");
}

#[tokio::test]
async fn a_state_vector_gets_what_its_holder_lacks_deletions_included() {
    let server = Server::start().await;
    let client = &server.client;
    let mut author = Peer::new();
    client.write("a", "tab-1", &author.insert(0, "first ")).await;
    let mut holder = Peer::from_update(&author.whole());
    client.write("a", "tab-1", &author.push("second")).await;
    client.write("a", "tab-1", &author.delete(0, 2)).await;
    let sv = base64(&holder.state_vector());
    let lacking = client.get(&format!("/docs/a/state?sv={sv}")).await.expect_json(200);
    let posted = client.post("/docs/a/state", &json!({ "sv": sv })).await.expect_json(200);
    assert_eq!(posted, lacking);
    let raw = client.post_bytes("/docs/a/state", holder.state_vector()).await.expect_json(200);
    assert_eq!(raw, lacking);
    let lacking = bytes_of(&lacking["update"]);
    assert!(lacking.len() < author.whole().len());
    holder.apply(&lacking);
    assert_eq!(holder.text(), author.text());

    // The holder of everything still gets the deletions: Yjs sends them always.
    let sv = base64(&author.state_vector());
    let nothing = client.get(&format!("/docs/a/state?sv={sv}")).await.expect_json(200);
    assert_ne!(nothing["update"], "AAA=");
    holder.apply(&bytes_of(&nothing["update"]));
    assert_eq!(holder.text(), author.text());
}

#[tokio::test]
async fn who_lacks_nothing_of_a_document_without_deletions_gets_nothing() {
    let server = Server::start().await;
    let mut peer = Peer::new();
    server.client.write("a", "tab-1", &peer.insert(0, "a")).await;
    let body = json!({ "sv": base64(&peer.state_vector()) });
    let state = server.client.post("/docs/a/state", &body).await.expect_json(200);
    assert_eq!(state["update"], "AAA=");
    // Whoever knows more than the server lacks nothing either.
    peer.push("b");
    let body = json!({ "sv": base64(&peer.state_vector()) });
    assert_eq!(server.client.post("/docs/a/state", &body).await.expect_json(200)["update"], "AAA=");
    // Left out and null are the same.
    let whole = server.client.post("/docs/a/state", &json!({ "sv": null })).await.expect_json(200);
    assert_eq!(whole, server.client.get("/docs/a/state").await.expect_json(200));
    let empty = server.client.post("/docs/a/state", &json!({})).await.expect_json(200);
    assert_eq!(empty, whole);
}

#[tokio::test]
async fn the_state_comes_raw_with_its_numbers_as_headers() {
    let server = Server::start().await;
    let mut peer = Peer::new();
    let ack = server.client.write("a", "tab-1", &peer.insert(0, "abc")).await;
    let raw = server.client.get_with("/docs/a/state", "accept", "application/octet-stream").await;
    assert_eq!(raw.status, 200);
    assert_eq!(raw.header("content-type"), Some("application/octet-stream"));
    assert_eq!(raw.header("document-epoch"), Some(ack.epoch.as_str()));
    assert_eq!(raw.header("document-seq"), Some("1"));
    assert_eq!(raw.header("state-vector"), Some(base64(&peer.state_vector()).as_str()));
    assert_eq!(raw.header("etag"), Some(format!("\"{}\"", ack.id()).as_str()));
    assert_eq!(Peer::from_update(&raw.body).text(), "abc");

    let request = server.client.request(Method::POST, "/docs/a/state");
    let request = request.header("accept", "application/octet-stream").json(&json!({}));
    assert_eq!(server.client.send(request).await.body, raw.body);
}

#[tokio::test]
async fn a_long_state_vector_is_left_out_of_the_headers_and_taken_in_a_body() {
    let server = Server::start().await;
    let mut room = Peer::new();
    // Numbers as large as browsers draw them: six bytes each in a state vector.
    for number in 0..600 {
        let mut peer = Peer::numbered(0xf000_0000 + number);
        room.apply(&peer.insert(0, "x"));
    }
    server.client.write("a", "tab-1", &room.whole()).await;
    let raw = server.client.get_with("/docs/a/state", "accept", "application/octet-stream").await;
    assert_eq!(raw.status, 200);
    assert!(base64(&room.state_vector()).len() > 4096);
    assert_eq!(raw.header("state-vector"), None);
    let state = server.client.get("/docs/a/state").await.expect_json(200);
    assert_eq!(bytes_of(&state["state_vector"]).len(), room.state_vector().len());
    let body = json!({ "sv": state["state_vector"] });
    let nothing = server.client.post("/docs/a/state", &body).await.expect_json(200);
    assert_eq!(nothing["update"], "AAA=");
}

#[tokio::test]
async fn a_copy_that_is_still_right_is_not_sent_again() {
    let server = Server::start().await;
    let client = &server.client;
    let mut peer = Peer::new();
    let ack = client.write("a", "tab-1", &peer.insert(0, "abc")).await;
    let tag = format!("\"{}\"", ack.id());
    for path in ["/docs/a/state", "/docs/a/text"] {
        assert_eq!(client.get(path).await.header("etag"), Some(tag.as_str()), "{path}");
        for given in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
            let answer = client.get_with(path, "if-none-match", &given).await;
            assert_eq!(answer.status, 304, "{path} {given}");
            assert!(answer.body.is_empty());
            assert_eq!(answer.header("etag"), Some(tag.as_str()));
        }
        assert_eq!(client.get_with(path, "if-none-match", "\"other\"").await.status, 200);
    }
    client.write("a", "tab-1", &peer.push("d")).await;
    for path in ["/docs/a/state", "/docs/a/text"] {
        assert_eq!(client.get_with(path, "if-none-match", &tag).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_read_creates_nothing() {
    let server = Server::start().await;
    let client = &server.client;
    for path in ["/docs/a/state", "/docs/a/text", "/docs/a/updates", "/docs/a", "/docs/a/state?sv=AA"] {
        client.get(path).await.expect_problem(404, "not_found");
    }
    client.post("/docs/a/state", &json!({})).await.expect_problem(404, "not_found");
    let clients = client.get("/docs/a/clients").await.expect_json(200);
    assert_eq!(clients, json!({ "clients": [] }));
    client.events("a", "tab-1").await.sync().await;
    assert_eq!(client.get("/docs").await.expect_json(200)["documents"], json!([]));
    client.get("/docs/a/state").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn the_document_can_be_seen_as_it_was() {
    for server in [Server::start().await, Server::start_on_disk_with(|_| {}).await] {
        let client = &server.client;
        let mut peer = Peer::new();
        let ack = client.write("a", "tab-1", &peer.insert(0, "one")).await;
        client.write("a", "tab-1", &peer.push(" two")).await;
        client.write("a", "tab-1", &peer.delete(0, 4)).await;
        for (at, text) in [(0, ""), (1, "one"), (2, "one two"), (3, "two")] {
            let then = client.get(&format!("/docs/a/text?at={at}")).await;
            assert_eq!(then.text(), text, "at {at}");
            assert_eq!(then.header("etag"), Some(format!("\"{}.{at}\"", ack.epoch).as_str()));
            let state = client.get(&format!("/docs/a/state?at={at}")).await.expect_json(200);
            assert_eq!((&state["epoch"], &state["seq"]), (&json!(ack.epoch), &json!(at)));
            let then = Peer::from_update(&bytes_of(&state["update"]));
            assert_eq!(then.text(), text, "at {at}");
            assert_eq!(bytes_of(&state["state_vector"]), then.state_vector());
        }
        for path in ["state", "text"] {
            client.get(&format!("/docs/a/{path}?at=4")).await.expect_problem(404, "not_found");
        }
        assert_eq!(client.text("a").await, "two");
    }
}

#[tokio::test]
async fn the_text_is_plain_and_names_its_root() {
    let server = Server::start().await;
    server.client.write("a", "tab-1", &Peer::new().insert(0, "世界🌍é\n<b>")).await;
    let text = server.client.get("/docs/a/text").await;
    assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(text.text(), "世界🌍é\n<b>");
    assert_eq!(server.client.get("/docs/a/text?root=text").await.text(), "世界🌍é\n<b>");
    let other = server.client.get("/docs/a/text?root=other").await;
    assert_eq!((other.status, other.text()), (200, String::new()));
}

/// The failure: presence kept inside the document, where a thousand joins left 41 KB of garbage.
#[tokio::test]
async fn who_comes_and_goes_leaves_nothing_in_the_document() {
    let server = Server::start().await;
    server.client.write("a", "tab-1", &Peer::new().insert(0, "text")).await;
    let before = server.client.get("/docs/a/state").await.expect_json(200);
    for number in 0..20 {
        let name = format!("tab-{number}");
        server.client.events("a", &name).await.sync().await;
        let put = server.client.put(&format!("/docs/a/awareness/{name}"), &json!({ "n": number })).await;
        assert_eq!(put.status, 204);
    }
    assert_eq!(server.client.get("/docs/a/state").await.expect_json(200), before);
}
