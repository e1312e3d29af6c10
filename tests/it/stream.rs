//! What a stream carries: every seq in order, nobody's own bytes, and everybody else's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Client, Event, Frame, Peer, Raw, Server, Stream, base64, bytes_of, until};

#[tokio::test]
async fn an_update_is_told_with_its_bytes_its_origin_and_its_id() {
    let server = Server::start().await;
    let mut stream = server.client.events("a", "reader").await;
    stream.sync().await;
    let mut peer = Peer::new();
    for (update, client) in
        [(peer.insert(0, "abc"), "tab-1"), (peer.delete(1, 1), "tab-2"), (peer.embolden(0, 1), "tab-1")]
    {
        let ack = server.client.write("a", client, &update).await;
        let told = stream.event("update").await;
        assert_eq!(told.id, Some(ack.id()));
        assert_eq!(told.json(), json!({ "seq": ack.seq, "update": base64(&update), "origin": client }));
    }
}

/// The failure: the author gets its own update back.
#[tokio::test]
async fn the_bytes_of_an_update_never_go_to_its_author() {
    let server = Server::start().await;
    let mut author = server.client.events("a", "tab-1").await;
    let mut duplicate = server.client.events("a", "tab-1").await;
    let mut other = server.client.events("a", "tab-2").await;
    let mut nameless = server.client.stream("/docs/a/events").await;
    for stream in [&mut author, &mut duplicate, &mut other, &mut nameless] {
        stream.sync().await;
    }
    let mut peer = Peer::new();
    let own = peer.insert(0, "own");
    let ack = server.client.write("a", "tab-1", &own).await;
    assert_eq!(author.bare_id().await, ack.id());
    assert_eq!(author.last_event_id, ack.id());
    assert_eq!(duplicate.bare_id().await, ack.id());
    assert_eq!(other.event("update").await.update(), own);
    assert_eq!(nameless.event("update").await.update(), own);
    // The next to come is the next seq: nothing hides behind the bare id.
    let next = server.client.write("a", "tab-2", &peer.push("!")).await;
    assert_eq!(author.event("update").await.id, Some(next.id()));
    assert_eq!(other.bare_id().await, next.id());
}

#[tokio::test]
async fn an_update_without_an_origin_goes_to_everybody() {
    let server = Server::start().await;
    let mut named = server.client.events("a", "tab-1").await;
    let mut nameless = server.client.stream("/docs/a/events").await;
    named.sync().await;
    nameless.sync().await;
    let update = Peer::new().insert(0, "a");
    assert_eq!(server.client.anonymous_update("a", &update).await.status, 200);
    for stream in [&mut named, &mut nameless] {
        let told = stream.event("update").await;
        assert_eq!(told.json().get("origin"), Some(&Value::Null));
        assert_eq!(told.update(), update);
    }
}

#[tokio::test]
async fn an_update_is_durable_before_anybody_is_told() {
    let mut process = crate::support::Process::start().await;
    let mut stream = process.client.events("a", "reader").await;
    stream.sync().await;
    let mut peer = Peer::new();
    let mut seen = 0;
    for number in 0..20 {
        // Told, and then killed before anything else is asked.
        let update = peer.push(&number.to_string());
        let client = process.client.clone();
        let post = tokio::spawn(async move {
            let body = json!({ "update": base64(&update), "client_id": "tab-1" });
            let _ = client.request(Method::POST, "/docs/a/updates").json(&body).send().await;
        });
        let told = stream.event("update").await;
        seen = told.seq();
        if number == 19 {
            process.kill().await;
        }
        post.await.expect("the post ends");
    }
    let process = process.restart().await;
    assert_eq!(process.client.log("a").await.len() as u64, seen);
    assert_eq!(process.client.text("a").await, peer.text());
}

/// A reader that checks that every seq comes, once and in order.
struct Reader {
    peer: Peer,
    epoch: String,
    seq: u64,
    own: usize,
}

impl Reader {
    async fn start(stream: &mut Stream) -> Self {
        let sync = stream.sync().await;
        let data = sync.json();
        let seq = data["seq"].as_u64().expect("a seq");
        let epoch = data["epoch"].as_str().unwrap_or_default().to_owned();
        Self { peer: Peer::from_update(&sync.update()), epoch, seq, own: 0 }
    }

    /// `own`: where the bytes of the reader's own updates come from.
    fn take(&mut self, frame: &Frame, own: &impl Fn(u64) -> Vec<u8>) {
        let id = match frame {
            Frame::Id(id) => {
                self.own += 1;
                self.seq += 1;
                self.peer.apply(&own(self.seq));
                id
            }
            Frame::Event(event) if event.name == "update" => {
                let data = event.json();
                let first = data["from"].as_u64().unwrap_or_else(|| event.seq());
                assert_eq!(first, self.seq + 1, "a hole or a repeat: {}", event.data);
                self.seq = event.seq();
                self.peer.apply(&event.update());
                event.id.as_ref().expect("an update has an id")
            }
            Frame::Event(Event { name, .. }) if name == "awareness" => return,
            other => panic!("not expected here: {other:?}"),
        };
        if self.epoch.is_empty() {
            self.epoch = id.split('.').next().expect("an epoch").to_owned();
        }
        assert_eq!(*id, format!("{}.{}", self.epoch, self.seq));
    }

    async fn read_to(&mut self, seq: u64, stream: &mut Stream, own: &impl Fn(u64) -> Vec<u8>) {
        while self.seq < seq {
            let frame = stream.next().await;
            self.take(&frame, own);
        }
    }
}

fn no_own(seq: u64) -> Vec<u8> {
    panic!("{seq} came as the stream's own")
}

/// The failure: a snapshot taken before subscribing loses what falls between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_falls_between_the_sync_and_the_updates_while_others_write() {
    let server = Server::start_on_disk_with(|_| {}).await;
    let done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|number| {
            let (client, done) = (server.client.clone(), done.clone());
            tokio::spawn(async move {
                let mut peer = Peer::new();
                while !done.load(Ordering::Relaxed) {
                    client.write("a", &format!("writer-{number}"), &peer.push("x")).await;
                }
            })
        })
        .collect();
    let readers: Vec<_> = (0..30)
        .map(|number| {
            let client = server.client.clone();
            tokio::spawn(async move {
                let mut stream = client.events("a", &format!("reader-{number}")).await;
                let mut reader = Reader::start(&mut stream).await;
                reader.read_to(reader.seq + 20, &mut stream, &no_own).await;
                (stream, reader)
            })
        })
        .collect();
    let mut reading = Vec::new();
    for reader in readers {
        reading.push(reader.await.expect("the reader reads on"));
    }
    done.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("the writer writes");
    }
    let state = server.client.get("/docs/a/state").await.expect_json(200);
    let (head, text) =
        (state["seq"].as_u64().expect("a seq"), Peer::from_update(&bytes_of(&state["update"])).text());
    for (mut stream, mut reader) in reading {
        reader.read_to(head, &mut stream, &no_own).await;
        assert_eq!(reader.peer.text(), text);
    }
}

/// The failures: a message dropped when a reader's queue is full, and a loop that ends at the first lag,
/// both with the socket kept open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_falls_behind_is_caught_up_in_place() {
    for big in [false, true] {
        let server = Server::start().await;
        let mut raw = Raw::connect_narrow(server.address).await;
        raw.send("GET /docs/a/events?client_id=tab-own HTTP/1.0\r\n\r\n").await;
        let mut stream = raw.into_stream().await;
        let mut reader = Reader::start(&mut stream).await;

        // Far more than the broadcast holds, and more than the sockets between take.
        let (count, length) = if big { (300, 60_000) } else { (1500, 3000) };
        let mut others = Peer::new();
        let mut own = Peer::new();
        let mut own_updates = std::collections::HashMap::new();
        let mut head = 0;
        for number in 0..count {
            let text = format!("{number:length$}");
            head = if number % 7 == 3 {
                let update = own.push("o");
                let seq = server.client.write("a", "tab-own", &update).await.seq;
                own_updates.insert(seq, update);
                seq
            } else {
                let update = match number % 5 {
                    4 => others.delete(0, others.length().min(10)),
                    _ => others.insert(0, &text),
                };
                server.client.write("a", "tab-other", &update).await.seq
            };
        }
        assert_eq!(head, count);
        reader.read_to(head, &mut stream, &|seq| own_updates[&seq].clone()).await;
        assert_eq!(reader.own, own_updates.len());
        assert_eq!(reader.peer.text(), server.client.text("a").await);
        // And it is in step again.
        let ack = server.client.write("a", "tab-other", &others.push("last")).await;
        assert_eq!(stream.event("update").await.id, Some(ack.id()));
    }
}

#[tokio::test]
async fn a_heartbeat_comes_while_nothing_happens() {
    let server = Server::start_with(|settings| settings.server.heartbeat_seconds = 1).await;
    let mut stream = server.client.events("a", "tab-1").await;
    stream.sync().await;
    for _ in 0..2 {
        assert!(matches!(stream.frame().await, Some(Frame::Comment(_))));
    }
    let ack = server.client.write("a", "tab-2", &Peer::new().insert(0, "a")).await;
    assert_eq!(stream.event("update").await.id, Some(ack.id()));
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_let_go_and_nobody_else_is_harmed() {
    let server = Server::start_with(|settings| {
        settings.limits.stalled_seconds = 3;
        settings.server.heartbeat_seconds = 1;
    })
    .await;
    let mut raw = Raw::connect_narrow(server.address).await;
    raw.send("GET /docs/a/events?client_id=stuck HTTP/1.0\r\n\r\n").await;
    let mut stuck = raw.into_stream().await;
    stuck.sync().await;
    let mut good = server.client.events("a", "good").await;
    let mut reader = Reader::start(&mut good).await;

    // More than the sockets between take, then a little now and then until the other is let go;
    // sequence by sequence the good one gets it all.
    let mut peer = Peer::new();
    for _ in 0..2 {
        let head = server.client.write("a", "tab-1", &peer.insert(0, &"x".repeat(900_000))).await.seq;
        reader.read_to(head, &mut good, &no_own).await;
    }
    until("end of the stuck stream", async || {
        let head = server.client.write("a", "tab-1", &peer.insert(0, "x")).await.seq;
        reader.read_to(head, &mut good, &no_own).await;
        let clients = server.client.get("/docs/a/clients").await.expect_json(200);
        let mut clients = clients["clients"].as_array().expect("a list").iter();
        clients.all(|entry| entry["client_id"] != "stuck").then_some(())
    })
    .await;
    assert_eq!(server.client.get("/docs/a").await.expect_json(200)["streams"], 1);
    // Where it reads again before the connection is given up, it learns why.
    let rest = stuck.rest().await;
    let Some(Frame::Event(last)) = rest.last() else { panic!("{} frames, no event last", rest.len()) };
    assert_eq!((last.name.as_str(), &last.json()["code"], &last.id), ("closed", &json!("too_slow"), &None));
    let ack = server.client.write("a", "tab-1", &peer.push("!")).await;
    assert_eq!(good.event("update").await.id, Some(ack.id()));
}

/// A connection that is alive hides a stream on it that is not.
#[tokio::test]
async fn a_stuck_stream_beside_others_on_one_http2_connection_is_let_go() {
    let server = Server::start_with(|settings| settings.limits.stalled_seconds = 3).await;
    let client = Client::with_http2(server.address);
    let mut stuck = client.events("a", "stuck").await;
    stuck.sync().await;
    let mut good = client.events("a", "good").await;
    let mut reader = Reader::start(&mut good).await;
    let mut peer = Peer::new();
    // More than the window of one stream.
    for _ in 0..4 {
        let head = server.client.write("a", "tab-1", &peer.insert(0, &"x".repeat(900_000))).await.seq;
        reader.read_to(head, &mut good, &no_own).await;
    }
    until("end of the stuck stream", async || {
        let head = server.client.write("a", "tab-1", &peer.insert(0, "x")).await.seq;
        reader.read_to(head, &mut good, &no_own).await;
        let clients = client.get("/docs/a/clients").await.expect_json(200);
        let mut clients = clients["clients"].as_array().expect("a list").iter();
        clients.all(|entry| entry["client_id"] != "stuck").then_some(())
    })
    .await;
    let rest = stuck.rest().await;
    let Some(Frame::Event(last)) = rest.last() else { panic!("{} frames, no event last", rest.len()) };
    assert_eq!((last.name.as_str(), &last.json()["code"]), ("closed", &json!("too_slow")));
}

/// A reader that takes a byte now and then is slow, not stuck.
#[tokio::test]
async fn a_reader_that_reads_slowly_is_not_let_go() {
    let server = Server::start_with(|settings| {
        settings.limits.stalled_seconds = 3;
        settings.server.heartbeat_seconds = 1;
        settings.limits.max_update_bytes = 32 << 20;
    })
    .await;
    let mut peer = Peer::new();
    let posted = server.client.post_bytes("/docs/a/updates", peer.insert(0, &"x".repeat(20 << 20))).await;
    assert_eq!(posted.status, 200);
    let mut clock = server.client.events("other", "clock").await;
    clock.sync().await;
    let mut raw = Raw::connect_narrow(server.address).await;
    raw.send("GET /docs/a/events?client_id=slow HTTP/1.0\r\n\r\n").await;
    let mut taken = 0;
    for _ in 0..7 {
        // Each heartbeat of another stream is a second.
        while !matches!(clock.frame().await, Some(Frame::Comment(_))) {}
        let mut some = vec![0; 128 << 10];
        taken += tokio::io::AsyncReadExt::read_exact(&mut raw.socket, &mut some).await.expect("bytes come");
    }
    let clients = server.client.get("/docs/a/clients").await.expect_json(200);
    assert_eq!(clients["clients"][0]["client_id"], "slow", "let go after it took {taken} bytes");
}

/// The failure: what waits behind a request in the same packet keeps its answer from being sent.
#[tokio::test]
async fn a_stream_flows_whatever_was_sent_after_its_request() {
    let server = Server::start().await;
    let mut raw = Raw::connect(server.address).await;
    raw.send("GET /docs/a/events HTTP/1.0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut stream = raw.into_stream().await;
    stream.sync().await;
    let ack = server.client.write("a", "tab-1", &Peer::new().insert(0, "a")).await;
    assert_eq!(stream.event("update").await.id, Some(ack.id()));
}

#[tokio::test]
async fn streams_and_posts_share_one_http2_connection() {
    let server = Server::start().await;
    let client = Client::with_http2(server.address);
    let mut streams = Vec::new();
    for number in 0..20 {
        let mut stream = client.events("a", &format!("tab-{number}")).await;
        stream.sync().await;
        streams.push(stream);
    }
    let answer = client.get("/healthz").await;
    assert_eq!(answer.status, 200);
    let ack = client.write("a", "tab-0", &Peer::new().insert(0, "a")).await;
    assert_eq!(streams[0].bare_id().await, ack.id());
    for stream in &mut streams[1..] {
        assert_eq!(stream.event("update").await.id, Some(ack.id()));
    }
    drop(streams);
    until("end of the streams", async || {
        (client.get("/docs/a").await.expect_json(200)["streams"] == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_stream() {
    let server = Server::start_with(|settings| settings.server.heartbeat_seconds = 1).await;
    for how in ["closed", "aborted"] {
        let mut raw = Raw::connect(server.address).await;
        raw.send("GET /docs/a/events?client_id=tab-1 HTTP/1.1\r\nhost: a\r\n\r\n").await;
        until("stream", async || {
            let clients = server.client.get("/docs/a/clients").await.expect_json(200);
            (!clients["clients"].as_array().expect("a list").is_empty()).then_some(())
        })
        .await;
        if how == "aborted" {
            raw.socket.set_zero_linger().expect("the socket can be told to reset");
        }
        drop(raw);
        until("end of the stream", async || {
            let clients = server.client.get("/docs/a/clients").await.expect_json(200);
            clients["clients"].as_array().expect("a list").is_empty().then_some(())
        })
        .await;
    }
}
