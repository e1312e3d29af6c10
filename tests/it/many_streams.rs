//! Many documents on one stream.

use serde_json::Value;

use crate::support::{Event, Peer, Server, Stream, base64};

/// The next event of this name for this document.
async fn next(stream: &mut Stream, name: &str, document: &str) -> Event {
    loop {
        let event = stream.event(name).await;
        if event.json()["doc"] == document {
            return event;
        }
    }
}

async fn syncs(stream: &mut Stream, count: usize) -> Vec<Event> {
    let mut syncs = Vec::new();
    while syncs.len() < count {
        syncs.push(stream.event("sync").await);
    }
    syncs
}

#[tokio::test]
async fn each_documents_events_name_it_and_its_epoch() {
    let server = Server::start().await;
    let client = &server.client;
    let mut peer = Peer::new();
    let first = client.write("a", "tab-1", &peer.push("a")).await;
    let mut stream = client.stream("/events?doc=a&doc=b&doc=a&client_id=watcher&clients=1").await;
    let syncs = syncs(&mut stream, 2).await;
    let of = |document: &str| {
        syncs.iter().find(|sync| sync.json()["doc"] == document).expect("each document has its sync").json()
    };
    assert_eq!((&of("a")["epoch"], &of("a")["seq"]), (&Value::from(first.epoch.clone()), &Value::from(1)));
    assert_eq!((&of("b")["epoch"], &of("b")["seq"]), (&Value::Null, &Value::from(0)));

    let update = peer.push("b");
    client.write("a", "tab-1", &update).await;
    let event = next(&mut stream, "update", "a").await;
    assert_eq!(event.update(), update);
    assert_eq!((event.seq(), &event.json()["epoch"]), (2, &Value::from(first.epoch.clone())));
    assert_eq!(event.json()["origin"], "tab-1");
    client.write("b", "tab-1", &Peer::new().push("b")).await;
    assert_eq!(next(&mut stream, "update", "b").await.seq(), 1);

    let _joined = client.events("b", "tab-2").await;
    assert_eq!(next(&mut stream, "join", "b").await.json()["client_id"], "tab-2");
    let clients = client.get("/docs/a/clients").await.expect_json(200);
    assert_eq!(clients["clients"][0]["client_id"], "watcher");
}

#[tokio::test]
async fn a_stream_of_many_resumes_as_a_whole() {
    let server = Server::start_on_disk_with(|_| {}).await;
    let client = &server.client;
    let (mut a, mut b) = (Peer::new(), Peer::new());
    client.write("a", "tab-1", &a.push("a")).await;
    client.write("b", "tab-1", &b.push("b")).await;
    let mut stream = client.stream("/events?doc=a&doc=b&client_id=me").await;
    syncs(&mut stream, 2).await;
    client.write("a", "me", &a.push("mine")).await;
    let id = stream.bare_id().await;
    drop(stream);

    let missed = [a.push("x"), a.push("y")];
    for update in &missed {
        client.write("a", "tab-1", update).await;
    }
    let request = client.request(reqwest::Method::GET, "/events?doc=b&doc=c&doc=a&client_id=me");
    let mut stream = client.stream_of(request.header("last-event-id", &id)).await;
    let syncs = syncs(&mut stream, 3).await;
    for sync in syncs {
        let data = sync.json();
        let document = data["doc"].as_str().expect("a name").to_owned();
        assert_eq!(data["resumed"], document != "c", "{data}");
        match document.as_str() {
            "a" => {
                assert_eq!(data["seq"], 4);
                a.apply(&sync.update());
                assert!(sync.update().len() < a.whole().len(), "only what was missed is sent");
            }
            "b" => assert_eq!(data["update"], base64(&[0, 0])),
            _ => assert_eq!(data["epoch"], Value::Null),
        }
    }
}

#[tokio::test]
async fn a_deleted_document_ends_its_part_and_the_stream_ends_with_the_last() {
    let server = Server::start().await;
    let client = &server.client;
    let mut b = Peer::new();
    client.write("a", "tab-1", &Peer::new().push("a")).await;
    client.write("b", "tab-1", &b.push("b")).await;
    let mut stream = client.stream("/events?doc=a&doc=b").await;
    syncs(&mut stream, 2).await;
    assert_eq!(client.delete("/docs/a").await.status, 204);
    assert_eq!(next(&mut stream, "closed", "a").await.json()["code"], "deleted");
    client.write("b", "tab-1", &b.push("c")).await;
    assert_eq!(next(&mut stream, "update", "b").await.seq(), 2);
    assert_eq!(client.delete("/docs/b").await.status, 204);
    assert_eq!(next(&mut stream, "closed", "b").await.json()["code"], "deleted");
    assert!(stream.rest().await.is_empty());
}

#[tokio::test]
async fn a_stream_of_many_ends_with_the_server() {
    let server = Server::start().await;
    let mut stream = server.client.stream("/events?doc=a&doc=b").await;
    syncs(&mut stream, 2).await;
    server.shut_down();
    for _ in 0..2 {
        assert_eq!(stream.event("closed").await.json()["code"], "shutting_down");
    }
    assert!(stream.rest().await.is_empty());
    server.returned().await;
}

#[tokio::test]
async fn a_stream_is_for_one_to_64_documents() {
    let server = Server::start().await;
    let client = &server.client;
    assert_eq!(client.get("/events").await.expect_problem(400, "invalid_parameter")["parameter"], "doc");
    let many = |count: usize| (0..count).map(|number| format!("doc=d{number}&")).collect::<String>();
    client.get(&format!("/events?{}", many(65))).await.expect_problem(400, "invalid_parameter");
    client.get("/events?doc=..").await.expect_problem(400, "invalid_document_id");
    client.get("/events?doc=a&client_id=-").await.expect_problem(400, "invalid_client_id");
    let mut stream = client.stream(&format!("/events?{}", many(64))).await;
    syncs(&mut stream, 64).await;
    client.get("/docs/d1").await.expect_problem(404, "not_found");
}
