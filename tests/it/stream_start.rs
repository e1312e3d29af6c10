//! How a stream begins: the `sync`, and where it resumes.

use reqwest::Method;
use serde_json::json;

use crate::support::client::Ack;
use crate::support::{Event, Frame, Peer, Server, base64, bytes_of, until};

/// The `sync` of a stream opened with this query.
async fn sync(server: &Server, query: &str) -> Event {
    server.client.stream(&format!("/docs/a/events?{query}")).await.sync().await
}

#[tokio::test]
async fn a_stream_begins_with_the_time_to_wait_and_one_sync() {
    let server = Server::start().await;
    let mut peer = Peer::new();
    let ack = server.client.write("a", "tab-1", &peer.insert(0, "abc")).await;
    let mut waits = Vec::new();
    for _ in 0..10 {
        let mut stream = server.client.stream("/docs/a/events").await;
        assert_eq!(stream.header("cache-control").map(|value| value.contains("no-store")), Some(true));
        assert_eq!(stream.header("x-accel-buffering"), Some("no"));
        assert_eq!(stream.header("content-encoding"), None);
        let Some(Frame::Retry(wait)) = stream.frame().await else { panic!("`retry` comes first") };
        assert!((1000..=3000).contains(&wait), "{wait}");
        waits.push(wait);
        let sync = stream.sync().await;
        assert_eq!(sync.id, Some(ack.id()));
        let data = sync.json();
        assert_eq!(data["epoch"], ack.epoch);
        assert_eq!(data["seq"], 1);
        assert_eq!(data["resumed"], false);
        assert_eq!(bytes_of(&data["state_vector"]), peer.state_vector());
        assert_eq!(Peer::from_update(&sync.update()).text(), "abc");
    }
    waits.dedup();
    assert!(waits.len() > 1, "drawn for each stream, not {waits:?}");
}

#[tokio::test]
async fn the_first_bytes_come_at_once() {
    let server = Server::start_with(|settings| settings.server.heartbeat_seconds = 3600).await;
    let mut stream = server.client.stream("/docs/a/events").await;
    assert!(matches!(stream.frame().await, Some(Frame::Retry(_))));
    stream.sync().await;
}

#[tokio::test]
async fn a_document_never_written_is_an_empty_one() {
    let server = Server::start().await;
    let mut peer = Peer::new();
    for query in ["", "since=k3f9x2ab.17", "since=k3f9x2ab.0", "sv=AA"] {
        let sync = sync(&server, query).await;
        assert_eq!(sync.id, None);
        let data = sync.json();
        assert_eq!(data.get("epoch"), Some(&json!(null)));
        assert_eq!(data["seq"], 0);
        assert_eq!(data["update"], "AAA=");
        assert_eq!(data["state_vector"], "AA==");
        assert_eq!(data["resumed"], false);
    }
    server.client.get("/docs/a").await.expect_problem(404, "not_found");

    let mut stream = server.client.events("a", "reader").await;
    stream.sync().await;
    let ack = server.client.write("a", "tab-1", &peer.insert(0, "first")).await;
    let update = stream.event("update").await;
    assert_eq!((update.id.clone(), update.seq()), (Some(ack.id()), 1));
}

#[tokio::test]
async fn the_first_write_by_the_stream_itself_tells_its_epoch() {
    let server = Server::start().await;
    let mut stream = server.client.events("a", "tab-1").await;
    stream.sync().await;
    let ack = server.client.write("a", "tab-1", &Peer::new().insert(0, "own")).await;
    assert_eq!(stream.bare_id().await, ack.id());
}

#[tokio::test]
async fn with_a_state_vector_the_sync_is_what_its_holder_lacks() {
    let server = Server::start().await;
    let mut author = Peer::new();
    server.client.write("a", "tab-1", &author.insert(0, "long and well known text")).await;
    let mut holder = Peer::from_update(&author.whole());
    server.client.write("a", "tab-1", &author.push("!")).await;
    let sync = sync(&server, &format!("sv={}", base64(&holder.state_vector()))).await;
    assert_eq!(sync.json()["resumed"], false);
    assert!(sync.update().len() < author.whole().len());
    holder.apply(&sync.update());
    assert_eq!(holder.text(), author.text());
}

/// Writes seven updates by two clients. Returns the acks and the peer that has them all.
async fn written(server: &Server) -> (Vec<Ack>, Peer) {
    let mut peer = Peer::new();
    let mut acks = Vec::new();
    for number in 0..7 {
        let update = match number {
            5 => peer.delete(0, 2),
            _ => peer.push(&format!("{number}some text that makes the whole larger than a part")),
        };
        let client = if number % 2 == 0 { "tab-1" } else { "tab-2" };
        acks.push(server.client.write("a", client, &update).await);
    }
    (acks, peer)
}

/// The peer as it was at a seq.
async fn as_it_was(server: &Server, at: u64) -> Peer {
    let state = server.client.get(&format!("/docs/a/state?at={at}")).await.expect_json(200);
    Peer::from_update(&bytes_of(&state["update"]))
}

#[tokio::test]
async fn resume_brings_what_was_missed_the_clients_own_included() {
    for server in [Server::start().await, Server::start_on_disk_with(|_| {}).await] {
        let (acks, peer) = written(&server).await;
        let (epoch, head) = (&acks[0].epoch, acks[6].id());
        let whole = server.client.state("a").await.len();
        for since in 0..=7 {
            let mut reader = as_it_was(&server, since).await;
            let sync = sync(&server, &format!("client_id=tab-1&since={epoch}.{since}")).await;
            let data = sync.json();
            assert_eq!(sync.id.as_ref(), Some(&head), "since {since}");
            assert_eq!((&data["resumed"], &data["seq"]), (&json!(true), &json!(7)), "since {since}");
            assert_eq!(bytes_of(&data["state_vector"]), peer.state_vector());
            reader.apply(&sync.update());
            assert_eq!(reader.text(), peer.text(), "since {since}");
            assert!(sync.update().len() <= whole, "since {since}");
        }
        let nothing = sync(&server, &format!("since={head}")).await;
        assert_eq!(nothing.json()["update"], "AAA=");
    }
}

#[tokio::test]
async fn an_unusable_since_is_as_if_it_were_not_there() {
    let server = Server::start().await;
    let (acks, peer) = written(&server).await;
    let epoch = &acks[0].epoch;
    let mut holder = as_it_was(&server, 6).await;
    let sv = base64(&holder.state_vector());
    let unusable = [
        "zzzzzzzz.3".to_owned(),
        format!("{epoch}.8"),
        format!("{epoch}.99999999999999999999999999"),
        format!("{epoch}.-1"),
        format!("{epoch}."),
        epoch.clone(),
        format!("{epoch}.3.4"),
        format!("{epoch}.x"),
        "nonsense".to_owned(),
        String::new(),
        ".".to_owned(),
        "%00%0A%ff".to_owned(),
        format!("{}.3", epoch.to_uppercase().replace(|letter: char| letter.is_ascii_digit(), "A")),
    ];
    for since in unusable {
        let whole = sync(&server, &format!("since={since}")).await;
        assert_eq!(whole.json()["resumed"], false, "{since}");
        assert_eq!(Peer::from_update(&whole.update()).text(), peer.text(), "{since}");
        let against_sv = sync(&server, &format!("since={since}&sv={sv}")).await;
        assert_eq!(against_sv.json()["resumed"], false, "{since}");
        assert!(against_sv.update().len() < whole.update().len(), "{since}");
    }
    let lacking = sync(&server, &format!("since=nonsense&sv={sv}")).await;
    holder.apply(&lacking.update());
    assert_eq!(holder.text(), peer.text());
}

/// A 400 would stop an `EventSource` for good.
#[tokio::test]
async fn the_last_event_id_counts_as_since_and_wins_over_it() {
    let server = Server::start().await;
    let (acks, peer) = written(&server).await;
    let epoch = &acks[0].epoch;
    let with_header = async |query: &str, id: &str| {
        let request = server.client.request(Method::GET, &format!("/docs/a/events?{query}"));
        server.client.stream_of(request.header("last-event-id", id)).await.sync().await
    };
    let resumed = with_header("", &acks[5].id()).await;
    assert_eq!(resumed.json()["resumed"], true);
    let mut reader = as_it_was(&server, 6).await;
    reader.apply(&resumed.update());
    assert_eq!(reader.text(), peer.text());

    let from_header = with_header(&format!("since={epoch}.0"), &acks[6].id()).await;
    assert_eq!(from_header.json()["update"], "AAA=");
    let from_header = with_header(&format!("since={}", acks[6].id()), &format!("{epoch}.0")).await;
    assert_eq!(Peer::from_update(&from_header.update()).text(), peer.text());
    for nonsense in ["nonsense", "1", "-1", "zzzzzzzz.1"] {
        let sync = with_header("", nonsense).await;
        assert_eq!(sync.json()["resumed"], false, "{nonsense}");
        assert_eq!(Peer::from_update(&sync.update()).text(), peer.text());
    }
}

#[tokio::test]
async fn resume_wins_over_the_state_vector() {
    let server = Server::start().await;
    let (acks, peer) = written(&server).await;
    let empty = base64(&Peer::new().state_vector());
    let sync = sync(&server, &format!("since={}&sv={empty}", acks[6].id())).await;
    assert_eq!(sync.json()["resumed"], true);
    assert_eq!(sync.json()["update"], "AAA=");
    assert_eq!(bytes_of(&sync.json()["state_vector"]), peer.state_vector());
}

#[tokio::test]
async fn what_the_log_no_longer_reaches_is_not_resumed() {
    let server = Server::start_with(|settings| settings.history.keep_updates = 10).await;
    let mut peer = Peer::new();
    let ack = server.client.write("a", "tab-1", &peer.push("x")).await;
    let oldest = until("compaction", async || {
        server.client.write("a", "tab-1", &peer.push("x")).await;
        let page = server.client.get("/docs/a/updates").await;
        (page.status == 410).then(|| page.expect_problem(410, "gone")["oldest"].as_u64().expect("a seq"))
    })
    .await;
    for (since, resumed) in [(0, false), (oldest - 2, false), (oldest - 1, true), (oldest, true)] {
        let sync = sync(&server, &format!("since={}.{since}", ack.epoch)).await;
        assert_eq!(sync.json()["resumed"], resumed, "since {since}, log from {oldest}");
        if !resumed {
            assert_eq!(Peer::from_update(&sync.update()).text(), peer.text());
        }
    }
}

#[tokio::test]
async fn what_a_resumed_reader_gets_is_merged_and_never_more_than_the_whole() {
    let server = Server::start().await;
    let mut peer = Peer::new();
    let first = server.client.write("a", "tab-1", &peer.push("text")).await;
    // Typing and deleting the same place over and over.
    for _ in 0..50 {
        server.client.write("a", "tab-1", &peer.insert(4, "passing")).await;
        server.client.write("a", "tab-1", &peer.delete(4, 7)).await;
    }
    let whole = server.client.state("a").await.len();
    let logged: usize =
        server.client.log("a").await.iter().map(|entry| bytes_of(&entry["update"]).len()).sum();
    for since in [1, 2, 50, 100] {
        let mut reader = as_it_was(&server, since).await;
        let sync = sync(&server, &format!("since={}.{since}", first.epoch)).await;
        assert_eq!(sync.json()["resumed"], true);
        assert!(sync.update().len() < logged && sync.update().len() <= whole);
        reader.apply(&sync.update());
        assert_eq!(reader.text(), "text", "since {since}");
    }
}

#[tokio::test]
async fn a_stream_resumes_over_a_restart_of_the_server() {
    let mut process = crate::support::Process::start().await;
    let mut peer = Peer::new();
    let first = process.client.write("a", "tab-1", &peer.push("one")).await;
    let second = process.client.write("a", "tab-2", &peer.push(" two")).await;
    process.kill().await;
    let process = process.restart().await;
    let path = format!("/docs/a/events?client_id=tab-1&since={}", first.id());
    let mut stream = process.client.stream(&path).await;
    let sync = stream.sync().await;
    assert_eq!((sync.id.clone(), &sync.json()["resumed"]), (Some(second.id()), &json!(true)));
    let third = process.client.write("a", "tab-2", &peer.push(" three")).await;
    assert_eq!((third.seq, &third.epoch), (3, &first.epoch));
    assert_eq!(stream.event("update").await.id, Some(third.id()));
}

#[tokio::test]
async fn a_refused_stream_gets_the_answer_that_any_request_would() {
    let server = Server::start_with(|settings| settings.limits.max_streams = 2).await;
    server.client.get("/docs/-/events").await.expect_problem(400, "invalid_document_id");
    server.client.get("/docs/a/events?client_id=-").await.expect_problem(400, "invalid_client_id");
    server.client.get("/docs/a/events?sv=-").await.expect_problem(400, "invalid_base64");
    let mut streams = Vec::new();
    for document in ["a", "b"] {
        let mut stream = server.client.events(document, "tab-1").await;
        stream.sync().await;
        streams.push(stream);
    }
    let refused = server.client.get("/docs/c/events").await;
    refused.expect_problem(503, "unavailable");
    assert!(refused.header("retry-after").is_some_and(|wait| wait.parse::<u64>().is_ok()));
    streams.pop();
    until("place for a stream", async || {
        let response = server.client.request(Method::GET, "/docs/c/events").send().await.expect("an answer");
        (response.status() == 200).then_some(())
    })
    .await;
}
