//! The log: pages, and what is left of it after a compaction.

use serde_json::{Value, json};

use crate::support::{Peer, Server, bytes_of, until};

/// Writes `count` updates of one character each. Returns them.
async fn write(server: &Server, document: &str, count: usize) -> Vec<Vec<u8>> {
    let mut peer = Peer::new();
    let mut updates = Vec::new();
    for _ in 0..count {
        let update = peer.push("x");
        server.client.write(document, "tab-1", &update).await;
        updates.push(update);
    }
    updates
}

#[tokio::test]
async fn an_entry_says_who_when_and_what() {
    let server = Server::start().await;
    let mut peer = Peer::new();
    let (first, second) = (peer.push("a"), peer.push("b"));
    let ack = server.client.write("a", "tab-1", &first).await;
    assert_eq!(server.client.anonymous_update("a", &second).await.status, 200);

    let page = server.client.get("/docs/a/updates").await.expect_json(200);
    assert_eq!(page["epoch"], ack.epoch);
    assert_eq!(page["next"], Value::Null);
    let updates = page["updates"].as_array().expect("a list");
    assert_eq!(updates.len(), 2);
    for (entry, seq, origin, update) in
        [(&updates[0], 1, json!("tab-1"), &first), (&updates[1], 2, Value::Null, &second)]
    {
        assert_eq!(entry["seq"], seq);
        assert_eq!(entry["origin"], origin);
        assert_eq!(entry.get("user"), Some(&Value::Null));
        assert_eq!(entry["bytes"], update.len());
        assert_eq!(&bytes_of(&entry["update"]), update);
        expect_time(&entry["time"]);
    }
}

/// RFC 3339 in UTC.
fn expect_time(time: &Value) {
    let text = time.as_str().expect("a time is text");
    assert!(text.ends_with('Z') && text.contains('T'), "{text}");
    text.parse::<jiff::Timestamp>().unwrap_or_else(|error| panic!("{text}: {error}"));
}

#[tokio::test]
async fn pages_follow_one_another_without_hole_or_repeat() {
    for server in [Server::start().await, Server::start_on_disk_with(|_| {}).await] {
        let updates = write(&server, "a", 25).await;
        let mut since = json!(0);
        let mut seen = Vec::new();
        let mut pages = 0;
        while since != Value::Null {
            let page = server.client.get(&format!("/docs/a/updates?since={since}&limit=10")).await;
            let page = page.expect_json(200);
            let entries = page["updates"].as_array().expect("a list");
            assert!(entries.len() <= 10);
            seen.extend(entries.iter().map(|entry| (entry["seq"].as_u64(), bytes_of(&entry["update"]))));
            since = page["next"].clone();
            pages += 1;
        }
        assert_eq!(pages, 3);
        assert_eq!(seen, (1..).map(Some).zip(updates).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn since_is_not_in_the_page_and_the_last_page_has_no_next() {
    let server = Server::start().await;
    write(&server, "a", 5).await;
    let seqs = async |query: &str| {
        let page = server.client.get(&format!("/docs/a/updates?{query}")).await.expect_json(200);
        let entries = page["updates"].as_array().expect("a list").clone();
        (
            entries.iter().map(|entry| entry["seq"].as_u64().expect("a seq")).collect::<Vec<_>>(),
            page["next"].clone(),
        )
    };
    assert_eq!(seqs("since=3").await, (vec![4, 5], Value::Null));
    assert_eq!(seqs("limit=2").await, (vec![1, 2], json!(2)));
    assert_eq!(seqs("since=3&limit=2").await, (vec![4, 5], Value::Null));
    assert_eq!(seqs("since=5").await, (vec![], Value::Null));
    assert_eq!(seqs("since=500").await, (vec![], Value::Null));
}

#[tokio::test]
async fn parameters_out_of_range_are_named() {
    let server = Server::start().await;
    write(&server, "a", 1).await;
    let table = [
        ("updates?since=-1", "since"),
        ("updates?since=x", "since"),
        ("updates?since=", "since"),
        ("updates?since=1.5", "since"),
        ("updates?since=99999999999999999999999", "since"),
        ("updates?limit=0", "limit"),
        ("updates?limit=100000", "limit"),
        ("updates?limit=ten", "limit"),
        ("state?at=-1", "at"),
        ("state?at=head", "at"),
        ("text?at=x", "at"),
        ("events?clients=2", "clients"),
        ("events?clients=yes", "clients"),
    ];
    for (path, parameter) in table {
        let answer = server.client.get(&format!("/docs/a/{path}")).await;
        assert_eq!(answer.expect_problem(400, "invalid_parameter")["parameter"], parameter, "{path}");
    }
    for query in ["limit=0", "limit=-5", "limit=x"] {
        let answer = server.client.get(&format!("/docs?{query}")).await;
        assert_eq!(answer.expect_problem(400, "invalid_parameter")["parameter"], "limit");
    }
}

/// The failures: a log that is never truncated, and positions off by one where it is.
#[tokio::test]
async fn what_was_compacted_away_is_gone_and_the_rest_is_whole() {
    for on_disk in [false, true] {
        let keep = |settings: &mut promptgrimoire::settings::Settings| settings.history.keep_updates = 10;
        let server = match on_disk {
            true => Server::start_on_disk_with(keep).await,
            false => Server::start_with(keep).await,
        };
        let mut peer = Peer::new();
        let oldest = until("compaction", async || {
            server.client.write("a", "tab-1", &peer.push("x")).await;
            let page = server.client.get("/docs/a/updates").await;
            (page.status == 410).then(|| page.expect_problem(410, "gone")["oldest"].as_u64().expect("a seq"))
        })
        .await;
        assert!(oldest > 1);
        let head = u64::from(peer.length());
        assert!(head + 1 - oldest >= 10, "fewer than kept: {oldest} to {head}");

        // Asked from the oldest one on, there is no hole up to the head.
        let path = format!("/docs/a/updates?since={}", oldest - 1);
        let page = server.client.get(&path).await.expect_json(200);
        let seqs: Vec<_> =
            page["updates"].as_array().expect("a list").iter().map(|entry| entry["seq"].as_u64()).collect();
        assert_eq!(seqs, (oldest..=head).map(Some).collect::<Vec<_>>());
        let path = format!("/docs/a/updates?since={}", oldest - 2);
        assert_eq!(server.client.get(&path).await.expect_problem(410, "gone")["oldest"], oldest);

        // The document as it was, while the log reaches there.
        for at in oldest..=head {
            let state = server.client.get(&format!("/docs/a/state?at={at}")).await.expect_json(200);
            assert_eq!(state["seq"], at);
            let then = Peer::from_update(&bytes_of(&state["update"]));
            assert_eq!(u64::from(then.length()), at);
        }
        let gone = server.client.get("/docs/a/state?at=1").await.expect_problem(410, "gone");
        assert!(gone["oldest"].as_u64().is_some());
        server.client.get("/docs/a/text?at=1").await.expect_problem(410, "gone");
        assert_eq!(server.client.text("a").await, peer.text());
    }
}

#[tokio::test]
async fn the_log_of_a_document_never_written_is_not_found() {
    let server = Server::start().await;
    server.client.get("/docs/a/updates?since=5").await.expect_problem(404, "not_found");
}
