//! Posting updates: what is accepted, what is a repeat, what is refused and leaves no trace.

use serde_json::{Value, json};

use crate::support::client::Ack;
use crate::support::{Frame, Peer, Server, Stream, base64, bytes_of};

/// What tells one state of a document from another, wherever it shows.
async fn traces(server: &Server, document: &str) -> Vec<Value> {
    let mut traces = Vec::new();
    for path in ["state", "updates", "text"] {
        let answer = server.client.get(&format!("/docs/{document}/{path}")).await;
        traces.push(json!([answer.status, answer.text()]));
    }
    let listed = server.client.get("/docs").await.expect_json(200);
    traces.push(listed["documents"].clone());
    traces
}

/// Checks that nothing was told on the stream, by what is told next.
async fn expect_only(stream: &mut Stream, ack: &Ack) {
    let next = stream.event("update").await;
    assert_eq!(next.id, Some(ack.id()), "something was told in between: {next:?}");
}

#[tokio::test]
async fn the_first_write_creates_the_document_and_each_change_counts_one() {
    let server = Server::start().await;
    let mut peer = Peer::new();
    let first = server.client.write("a", "tab-1", &peer.insert(0, "Hello")).await;
    assert_eq!(first.seq, 1);
    let second = server.client.write("a", "tab-1", &peer.push(" world")).await;
    assert_eq!((second.seq, &second.epoch), (2, &first.epoch));
    let third = server.client.write("a", "tab-1", &peer.delete(0, 6)).await;
    assert_eq!(third.seq, 3);
    assert_eq!(server.client.text("a").await, "world");
}

#[tokio::test]
async fn a_repeat_is_answered_with_the_current_seq_and_is_not_logged_or_told() {
    let server = Server::start().await;
    let mut peer = Peer::new();
    let insert = peer.insert(0, "Hello");
    let delete = peer.delete(0, 1);
    let mut stream = server.client.events("a", "reader").await;
    stream.sync().await;
    let first = server.client.write("a", "tab-1", &insert).await;
    let head = server.client.write("a", "tab-1", &delete).await;
    expect_only(&mut stream, &first).await;
    expect_only(&mut stream, &head).await;

    for repeat in [&insert, &delete, &peer.whole(), &vec![0, 0]] {
        let answer = server.client.update("a", "tab-2", repeat).await.expect_json(200);
        assert_eq!(answer, json!({ "epoch": head.epoch, "seq": 2, "changed": false }));
    }
    assert_eq!(server.client.log("a").await.len(), 2);
    let next = server.client.write("a", "tab-1", &peer.push("!")).await;
    assert_eq!(next.seq, 3);
    expect_only(&mut stream, &next).await;
}

#[tokio::test]
async fn an_empty_update_creates_nothing() {
    let server = Server::start().await;
    let answer = server.client.update("a", "tab-1", &[0, 0]).await.expect_json(200);
    assert_eq!(answer, json!({ "epoch": null, "seq": 0, "changed": false }));
    server.client.get("/docs/a").await.expect_problem(404, "not_found");
    server.client.get("/docs/a/state").await.expect_problem(404, "not_found");
    server.client.get("/docs/a/updates").await.expect_problem(404, "not_found");
    assert_eq!(server.client.get("/docs").await.expect_json(200)["documents"], json!([]));
}

#[tokio::test]
async fn an_update_that_overlaps_what_is_known_is_taken() {
    let server = Server::start().await;
    let mut peer = Peer::new();
    server.client.write("a", "tab-1", &peer.insert(0, "abc")).await;
    peer.push("def");
    peer.delete(0, 1);
    // A retry merged with newer edits: the old ones come again.
    let ack = server.client.write("a", "tab-1", &peer.whole()).await;
    assert_eq!(ack.seq, 2);
    assert_eq!(server.client.text("a").await, "bcdef");
}

#[tokio::test]
async fn a_tab_may_save_its_crashed_neighbours_work() {
    let server = Server::start().await;
    let mut crashed = Peer::new();
    let work = crashed.insert(0, "from the neighbour");
    let mut saver = Peer::from_update(&work);
    saver.push(" and from me");
    server.client.write("a", "saver", &saver.whole()).await;
    assert_eq!(server.client.text("a").await, "from the neighbour and from me");
}

#[tokio::test]
async fn the_bytes_are_logged_as_they_were_posted() {
    let server = Server::start().await;
    let mut peer = Peer::new();
    let first = peer.insert(0, "abc");
    peer.push("def");
    let overlapping = peer.whole();
    server.client.write("a", "tab-1", &first).await;
    server.client.write("a", "tab-1", &overlapping).await;
    let log = server.client.log("a").await;
    assert_eq!(bytes_of(&log[0]["update"]), first);
    assert_eq!(bytes_of(&log[1]["update"]), overlapping);
    assert_eq!(log[1]["bytes"], overlapping.len());
}

/// Updates that build on what the server has not got, and what would have to come first.
fn gaps() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let mut typist = Peer::new();
    let first = typist.insert(0, "Hello");
    let second = typist.push(" world");
    let mut neighbour = Peer::from_update(&first);
    let pointing = neighbour.insert(2, "--");
    let mut eraser = Peer::from_update(&first);
    let deleting = eraser.delete(1, 3);
    let mut partly = Peer::from_update(&first);
    partly.apply(&second);
    let deleting_the_end = partly.delete(3, 6);
    let bold = Peer::from_update(&first).embolden(1, 2);
    vec![
        ("a skipped clock", second, first.clone()),
        ("structs that point at others", pointing, first.clone()),
        ("deletions of others", deleting, first.clone()),
        ("deletions of others, in part", deleting_the_end, typist.whole()),
        ("formats around others", bold, first),
    ]
}

#[tokio::test]
async fn an_update_with_a_gap_is_refused_with_the_state_vector_and_leaves_no_trace() {
    for (gap, update, before) in gaps() {
        let server = Server::start().await;
        let mut other = Peer::new();
        server.client.write("a", "tab-0", &other.insert(0, "other ")).await;
        let mut stream = server.client.events("a", "reader").await;
        stream.sync().await;
        let as_it_was = traces(&server, "a").await;

        let refused = server.client.update("a", "tab-1", &update).await;
        let problem = refused.expect_problem(409, "missing_updates");
        assert_eq!(bytes_of(&problem["state_vector"]), other.state_vector(), "{gap}");
        assert_eq!(traces(&server, "a").await, as_it_was, "{gap}");

        // What the client then does: it posts its difference against that state vector.
        let mut client = Peer::from_update(&before);
        client.apply(&update);
        let difference = client.difference(&bytes_of(&problem["state_vector"]));
        let ack = server.client.write("a", "tab-1", &difference).await;
        assert_eq!(ack.seq, 2, "{gap}");
        expect_only(&mut stream, &ack).await;
        other.apply(&difference);
        assert_eq!(server.client.text("a").await, other.text(), "{gap}");
    }
}

#[tokio::test]
async fn a_gap_in_a_document_never_written_creates_nothing() {
    for (gap, update, _) in gaps() {
        let server = Server::start().await;
        let refused = server.client.update("a", "tab-1", &update).await;
        let problem = refused.expect_problem(409, "missing_updates");
        assert_eq!(bytes_of(&problem["state_vector"]), [0], "{gap}");
        server.client.get("/docs/a").await.expect_problem(404, "not_found");
    }
}

/// The failure: a parked update is released by its predecessor, in one event under the second
/// sender's origin, who then never gets the part that was not its own.
#[tokio::test]
async fn an_update_that_came_before_its_predecessor_is_told_under_its_own_origin() {
    let server = Server::start().await;
    let mut typist = Peer::new();
    let first = typist.insert(0, "a");
    let second = typist.push("b");
    let mut one = server.client.events("a", "tab-1").await;
    let mut two = server.client.events("a", "tab-2").await;
    one.sync().await;
    two.sync().await;
    server.client.update("a", "tab-2", &second).await.expect_problem(409, "missing_updates");
    let ack_first = server.client.write("a", "tab-1", &first).await;
    let ack_second = server.client.write("a", "tab-2", &second).await;

    assert_eq!(one.bare_id().await, ack_first.id());
    let told = one.event("update").await;
    assert_eq!((told.id.clone(), told.update()), (Some(ack_second.id()), second));
    let told = two.event("update").await;
    assert_eq!((told.json()["origin"].clone(), told.update()), (json!("tab-1"), first));
    assert_eq!(two.bare_id().await, ack_second.id());
}

#[tokio::test]
async fn an_update_for_another_life_of_the_document_is_refused() {
    let server = Server::start().await;
    let mut peer = Peer::new();
    let ack = server.client.write("a", "tab-1", &peer.insert(0, "a")).await;
    let next = peer.push("b");
    let as_it_was = traces(&server, "a").await;
    for epoch in ["zzzzzzzz", "", "ZZZ", "not an epoch\n"] {
        let body = json!({ "update": base64(&next), "epoch": epoch });
        let problem = server.client.post("/docs/a/updates", &body).await.expect_problem(409, "epoch_changed");
        assert_eq!(problem["epoch"], ack.epoch);
    }
    let raw = server.client.post_bytes("/docs/a/updates?epoch=zzzzzzzz", next.clone()).await;
    assert_eq!(raw.expect_problem(409, "epoch_changed")["epoch"], ack.epoch);
    assert_eq!(traces(&server, "a").await, as_it_was);

    let body = json!({ "update": base64(&next), "epoch": ack.epoch });
    Ack::changed(&server.client.post("/docs/a/updates", &body).await);
    // A repeat is of its life as much as a change is.
    let body = json!({ "update": "AAA=", "epoch": "zzzzzzzz" });
    server.client.post("/docs/a/updates", &body).await.expect_problem(409, "epoch_changed");
}

#[tokio::test]
async fn an_epoch_for_a_document_that_there_is_not_is_answered_with_null() {
    let server = Server::start().await;
    let body = json!({ "update": base64(&Peer::new().insert(0, "a")), "epoch": "k3f9x2ab" });
    let problem = server.client.post("/docs/a/updates", &body).await.expect_problem(409, "epoch_changed");
    assert_eq!(problem.get("epoch"), Some(&Value::Null));
    server.client.get("/docs/a").await.expect_problem(404, "not_found");
}

/// The failure: a document deleted and created again under its old name gets the old content back
/// from a stale tab.
#[tokio::test]
async fn a_stale_tab_cannot_merge_into_the_documents_next_life() {
    let server = Server::start().await;
    let mut stale = Peer::new();
    let old = server.client.write("a", "stale", &stale.insert(0, "old")).await;
    assert_eq!(server.client.delete("/docs/a").await.status, 204);
    let late = json!({ "update": base64(&stale.push(" tab")), "epoch": old.epoch });
    let problem = server.client.post("/docs/a/updates", &late).await.expect_problem(409, "epoch_changed");
    assert_eq!(problem.get("epoch"), Some(&Value::Null));

    let new = server.client.write("a", "fresh", &Peer::new().insert(0, "new")).await;
    assert_eq!(new.seq, 1);
    assert_ne!(new.epoch, old.epoch);
    let whole = json!({ "update": base64(&stale.whole()), "epoch": old.epoch });
    let problem = server.client.post("/docs/a/updates", &whole).await.expect_problem(409, "epoch_changed");
    assert_eq!(problem["epoch"], new.epoch);
    assert_eq!(server.client.text("a").await, "new");
}

#[tokio::test]
async fn bytes_that_no_yjs_client_writes_are_refused_and_leave_no_trace() {
    let invalid = [
        "",
        "00",
        "000000",
        "0102",
        "0101000200ffffffff0f00",
        "010101ffffffff0f000100",
        "010302feffffff0f0001a3020103010203000100",
        "010203ffffffff0f0601016d0169046e756c6c000200",
        "010201ffffffff0f00800100010101010000",
        "02010305030100000103000601010000047472756500",
        "80c2d72f",
    ];
    let unsupported = [
        "010101000201016100013100",
        "02020309220100000001000001010309000100",
        "03020304000102010002000000020307640305030000008103070100000000",
    ];
    let server = Server::start().await;
    server.client.write("a", "tab-1", &Peer::new().insert(0, "as it was")).await;
    let as_it_was = traces(&server, "a").await;
    for document in ["a", "never-written"] {
        for hex in invalid {
            let refused = server.client.update(document, "tab-1", &bytes_of_hex(hex)).await;
            assert_eq!(refused.status, 422, "{hex}: {}", refused.text());
            refused.expect_problem(422, "invalid_update");
        }
        for hex in unsupported {
            let refused = server.client.update(document, "tab-1", &bytes_of_hex(hex)).await;
            assert_eq!(refused.status, 422, "{hex}: {}", refused.text());
            refused.expect_problem(422, "unsupported_content");
        }
    }
    assert_eq!(traces(&server, "a").await, as_it_was);
}

#[tokio::test]
async fn a_legal_update_with_an_emoji_hangs_nothing() {
    let server = Server::start().await;
    server.client.write("a", "tab-1", &bytes_of_hex("010102000401017404f09f988000")).await;
    assert_eq!(server.client.get("/docs/a/text?root=t").await.text(), "😀");
    assert_eq!(server.client.text("a").await, "");
    server.client.state("a").await;
}

fn bytes_of_hex(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits");
    (0..hex.len()).step_by(2).map(digit).collect()
}

#[tokio::test]
async fn raw_bytes_are_taken_with_the_other_fields_in_the_query() {
    let server = Server::start().await;
    let mut peer = Peer::new();
    let first = Ack::changed(&server.client.post_bytes("/docs/a/updates", peer.insert(0, "a")).await);
    let path = format!("/docs/a/updates?client_id=tab-1&epoch={}", first.epoch);
    Ack::changed(&server.client.post_bytes(&path, peer.push("b")).await);
    let log = server.client.log("a").await;
    assert_eq!(log[0]["origin"], Value::Null);
    assert_eq!(log[1]["origin"], "tab-1");
    assert_eq!(server.client.text("a").await, "ab");
    server.client.post_bytes("/docs/a/updates", "AAA=").await.expect_problem(422, "invalid_update");
}

/// The failure: two first joins at once load two different documents for one name.
#[tokio::test]
async fn first_writes_at_the_same_moment_meet_in_one_document() {
    let server = Server::start_on_disk_with(|_| {}).await;
    for round in 0..5 {
        let document = format!("room-{round}");
        let posts = (0..20).map(|number| {
            let (client, document) = (server.client.clone(), document.clone());
            tokio::spawn(async move {
                client.write(&document, &format!("tab-{number}"), &Peer::new().insert(0, "x")).await
            })
        });
        let mut acks = Vec::new();
        for post in posts.collect::<Vec<_>>() {
            acks.push(post.await.expect("the post is answered"));
        }
        acks.sort_by_key(|ack| ack.seq);
        let seqs: Vec<u64> = acks.iter().map(|ack| ack.seq).collect();
        assert_eq!(seqs, (1..=20).collect::<Vec<_>>());
        assert!(acks.iter().all(|ack| ack.epoch == acks[0].epoch), "{acks:?}");
        assert_eq!(server.client.text(&document).await, "x".repeat(20));
    }
}

/// The failure: a variable for "who is changing the document" is overwritten by the next request
/// while the first still runs.
#[tokio::test]
async fn each_update_carries_the_origin_of_whoever_posted_it() {
    let server = Server::start().await;
    let mut stream = server.client.stream("/docs/a/events").await;
    stream.sync().await;
    let posts = (0..50).map(|number| {
        let client = server.client.clone();
        tokio::spawn(async move {
            let name = format!("tab-{number}");
            let update = Peer::new().insert(0, &name);
            (client.write("a", &name, &update).await.seq, name, update)
        })
    });
    let mut posted = Vec::new();
    for post in posts.collect::<Vec<_>>() {
        posted.push(post.await.expect("the post is answered"));
    }
    posted.sort_by_key(|(seq, ..)| *seq);
    let log = server.client.log("a").await;
    for ((seq, name, update), entry) in posted.iter().zip(&log) {
        assert_eq!((&entry["seq"], &entry["origin"]), (&json!(seq), &json!(name)));
        assert_eq!(&bytes_of(&entry["update"]), update);
        let Frame::Event(event) = stream.next().await else { panic!("a stream without a name has no own") };
        assert_eq!((event.seq(), event.json()["origin"].as_str()), (*seq, Some(name.as_str())));
        assert_eq!(&event.update(), update);
    }
}

/// The failure: a join during an eviction keeps an orphan.
#[tokio::test]
async fn a_document_that_is_evicted_all_the_time_loses_nothing() {
    let server = Server::start_on_disk_with(|settings| settings.documents.idle_seconds = 0).await;
    let mut peer = Peer::new();
    let started = std::time::Instant::now();
    let mut seq = 0;
    // Several sweeps of the registry fall into this time.
    while started.elapsed() < std::time::Duration::from_millis(2500) {
        seq += 1;
        let ack = server.client.write("a", "tab-1", &peer.push("x")).await;
        assert_eq!(ack.seq, seq);
    }
    assert_eq!(server.client.text("a").await, peer.text());
    assert_eq!(Peer::from_update(&server.client.state("a").await).text(), peer.text());
}
