//! Health, shutdown, and what the log says.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Client, Frame, Peer, Process, Raw, Server, base64, until};

#[tokio::test]
async fn a_running_server_is_healthy_and_ready() {
    for server in [Server::start().await, Server::start_on_disk_with(|_| {}).await] {
        assert_eq!(server.client.get("/healthz").await.status, 200);
        assert_eq!(server.client.get("/readyz").await.status, 200);
    }
}

/// The failure: open streams hold a graceful shutdown for ever.
#[tokio::test]
async fn shutdown_ends_open_event_streams_and_returns() {
    for http2 in [false, true] {
        let server = Server::start_on_disk_with(|settings| settings.server.drain_seconds = 30).await;
        let client = if http2 { Client::with_http2(server.address) } else { server.client.clone() };
        let mut streams = Vec::new();
        for number in 0..20 {
            let mut stream = client.events("a", &format!("tab-{number}")).await;
            stream.sync().await;
            streams.push(stream);
        }
        let ack = client.write("a", "tab-0", &Peer::new().insert(0, "last")).await;
        let started = Instant::now();
        server.shut_down();
        for (number, stream) in streams.iter_mut().enumerate() {
            match stream.next().await {
                Frame::Id(id) => assert_eq!((number, id), (0, ack.id())),
                Frame::Event(event) => assert_eq!(event.id, Some(ack.id())),
                other => panic!("{other:?}"),
            }
            let closed = stream.event("closed").await;
            assert_eq!((closed.json()["code"].clone(), closed.id.clone()), (json!("shutting_down"), None));
            assert!(closed.json()["detail"].is_string());
            assert_eq!(stream.rest().await, []);
        }
        server.returned().await;
        assert!(started.elapsed() < Duration::from_secs(10), "it waited: {:?}", started.elapsed());
    }
}

/// The failure: each stream's end tells all others who has left, and the word of the shutdown is lost among so many.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_class_on_one_document_is_told_of_the_shutdown() {
    let server = Server::start_with(|settings| settings.server.drain_seconds = 30).await;
    let mut streams = Vec::new();
    for number in 0..200 {
        let mut stream = server.client.events("a", &format!("tab-{number}")).await;
        stream.sync().await;
        streams.push(stream);
    }
    server.shut_down();
    for mut stream in streams {
        let Some(Frame::Event(last)) = stream.rest().await.pop() else { panic!("no event at the end") };
        assert_eq!((last.name.as_str(), &last.json()["code"]), ("closed", &json!("shutting_down")));
    }
    server.returned().await;
}

/// The failure: a server that waits for each browser in turn.
#[tokio::test]
async fn readers_that_take_nothing_do_not_hold_up_a_shutdown() {
    let server = Server::start_with(|settings| settings.server.drain_seconds = 1).await;
    let mut stuck = Vec::new();
    for number in 0..50 {
        let mut raw = Raw::connect_narrow(server.address).await;
        raw.send(format!("GET /docs/a/events?client_id=stuck-{number} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        stuck.push(raw);
    }
    let mut peer = Peer::new();
    for _ in 0..100 {
        server.client.write("a", "tab-1", &peer.insert(0, &"x".repeat(50_000))).await;
    }
    let mut good = server.client.events("a", "good").await;
    good.sync().await;
    let started = Instant::now();
    server.shut_down();
    good.event("closed").await;
    server.returned().await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_running_post_finishes_while_the_server_stops() {
    let mut process = Process::start().await;
    let mut stream = process.client.events("a", "reader").await;
    stream.sync().await;
    let update = Peer::new().insert(0, "in time");
    let body = json!({ "update": base64(&update), "client_id": "tab-1" }).to_string();
    let mut raw = Raw::connect(process.address).await;
    raw.send(format!(
        "POST /docs/a/updates HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    ))
    .await;
    // The server asks for the body, so the request runs.
    assert_eq!(raw.answer().await.status, 100);
    raw.send(&body[..10]).await;
    process.terminate();
    stream.event("closed").await;
    assert_eq!(stream.rest().await, []);
    raw.send(&body[10..]).await;
    assert_eq!(raw.answer().await.expect_json(200)["seq"], 1);
    raw.closed().await;
    assert_eq!(process.ended().await.code(), Some(0));
    assert_eq!(process.rest_of_output().await, "", "one line on standard output");

    let process = process.restart().await;
    assert_eq!(process.client.text("a").await, "in time");
}

#[tokio::test]
async fn while_it_stops_no_connection_is_accepted() {
    let server = Server::start_with(|settings| settings.server.drain_seconds = 30).await;
    let mut stream = server.client.events("a", "reader").await;
    stream.sync().await;
    let mut raw = Raw::connect(server.address).await;
    raw.send("POST /docs/a/updates HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
        .await;
    assert_eq!(raw.answer().await.status, 100);
    server.shut_down();
    stream.event("closed").await;
    until("end of accepting", async || {
        tokio::net::TcpStream::connect(server.address).await.is_err().then_some(())
    })
    .await;
    assert!(!server.has_returned());
    raw.send("12345").await;
    raw.answer().await.expect_problem(400, "invalid_json");
    server.returned().await;
}

#[tokio::test]
async fn a_post_that_never_ends_is_cut_off_when_the_drain_is_over() {
    let mut process = Process::start_with(&[("PROMPTGRIMOIRE__SERVER__DRAIN_SECONDS", "1")]).await;
    process.client.write("a", "tab-1", &Peer::new().insert(0, "kept")).await;
    let mut raw = Raw::connect(process.address).await;
    raw.send(
        "POST /docs/a/updates HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\nexpect: 100-continue\r\n\r\n",
    )
    .await;
    assert_eq!(raw.answer().await.status, 100);
    process.terminate();
    raw.closed().await;
    assert_eq!(process.ended().await.code(), Some(0));
    let process = process.restart().await;
    assert_eq!(process.client.text("a").await, "kept");
}

#[tokio::test]
async fn told_twice_to_stop_it_ends_at_once() {
    let mut process = Process::start_with(&[("PROMPTGRIMOIRE__SERVER__DRAIN_SECONDS", "3600")]).await;
    process.client.write("a", "tab-1", &Peer::new().insert(0, "kept")).await;
    let mut stream = process.client.events("a", "reader").await;
    stream.sync().await;
    let mut raw = Raw::connect(process.address).await;
    raw.send(
        "POST /docs/a/updates HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\nexpect: 100-continue\r\n\r\n",
    )
    .await;
    assert_eq!(raw.answer().await.status, 100);
    process.terminate();
    // Only then has the first one arrived: two at once may be one.
    stream.event("closed").await;
    process.terminate();
    assert!(process.ended().await.code().is_some_and(|code| code != 0));
    let process = process.restart().await;
    assert_eq!(process.client.text("a").await, "kept");
}

/// The failure: names and text of students in the log file; tokens in URLs.
#[tokio::test]
async fn nothing_that_people_wrote_is_in_the_log() {
    let mut process = Process::start_with(&[("PROMPTGRIMOIRE__LOG__LEVEL", "trace")]).await;
    let mut stream = process
        .client
        .stream("/docs/room-7/events?client_id=tab-1&label=SecretName&ticket=SecretTicket")
        .await;
    stream.sync().await;
    let update = Peer::new().insert(0, "SecretText");
    process.client.write("room-7", "tab-2", &update).await;
    process.client.update("room-7", "tab-2", &[1, 2, 3]).await.expect_problem(422, "invalid_update");
    let put = process.client.put("/docs/room-7/awareness/tab-1", &json!({ "name": "SecretState" })).await;
    assert_eq!(put.status, 204);
    let request = process.client.request(reqwest::Method::GET, "/docs/room-7/state?token=SecretToken");
    process.client.send(request.header("authorization", "Bearer SecretBearer")).await;
    process.terminate();
    process.ended().await;
    let logged = process.logged();
    assert!(logged.contains("stopped"), "something is logged: {logged}");
    assert!(
        !logged.contains("Secret"),
        "{}",
        logged.lines().filter(|line| line.contains("Secret")).collect::<String>()
    );
    assert!(!logged.contains(&base64(&update)));
}
