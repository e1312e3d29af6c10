//! Documents as a list, one of them, and its end.

use serde_json::{Value, json};

use crate::support::{Peer, Server, until};

async fn servers() -> [Server; 2] {
    [Server::start().await, Server::start_on_disk_with(|_| {}).await]
}

/// The ids of a page, and its `next`.
async fn page(server: &Server, query: &str) -> (Vec<String>, Value) {
    let page = server.client.get(&format!("/docs?{query}")).await.expect_json(200);
    let ids = page["documents"].as_array().expect("a list");
    (ids.iter().map(|entry| entry["id"].as_str().expect("an id").to_owned()).collect(), page["next"].clone())
}

#[tokio::test]
async fn documents_are_listed_by_prefix_and_in_pages() {
    for server in servers().await {
        for id in ["b:2", "a:1", "b:10", "B:1", "b:1", "b.x"] {
            server.client.write(id, "tab-1", &Peer::new().insert(0, id)).await;
        }
        assert_eq!(
            page(&server, "").await,
            (["B:1", "a:1", "b.x", "b:1", "b:10", "b:2"].map(Into::into).into(), Value::Null)
        );
        assert_eq!(page(&server, "prefix=b:").await.0, ["b:1", "b:10", "b:2"]);
        assert_eq!(page(&server, "prefix=b%3A1").await.0, ["b:1", "b:10"]);
        assert_eq!(page(&server, "prefix=none").await, (vec![], Value::Null));
        assert_eq!(page(&server, "prefix=%25").await.0, [] as [&str; 0]);
        assert_eq!(page(&server, "after=b:1").await.0, ["b:10", "b:2"]);

        let mut seen = Vec::new();
        let mut after = String::new();
        loop {
            let (ids, next) = page(&server, &format!("limit=4&after={after}")).await;
            assert!(ids.len() <= 4);
            seen.extend(ids);
            match next {
                Value::Null => break,
                next => after = next.as_str().expect("an id").to_owned(),
            }
        }
        assert_eq!(seen, ["B:1", "a:1", "b.x", "b:1", "b:10", "b:2"]);
        assert_eq!(page(&server, "prefix=b&limit=4").await.1, Value::Null);
    }
}

#[tokio::test]
async fn a_document_can_be_looked_at() {
    for server in servers().await {
        let mut peer = Peer::new();
        server.client.write("a", "tab-1", &peer.insert(0, "abc")).await;
        let ack = server.client.write("a", "tab-1", &peer.push("def")).await;
        let one = server.client.get("/docs/a").await.expect_json(200);
        assert_eq!(one["id"], "a");
        assert_eq!(one["epoch"], ack.epoch);
        assert_eq!(one["seq"], 2);
        assert_eq!(one["streams"], 0);
        let logged: u64 =
            server.client.log("a").await.iter().map(|entry| entry["bytes"].as_u64().expect("bytes")).sum();
        assert_eq!(one["bytes"], logged);
        let time = |field: &str| -> jiff::Timestamp {
            one[field].as_str().expect("a time").parse().expect("a time as in RFC 3339")
        };
        assert!(time("created_at") <= time("updated_at"));

        let mut listed = server.client.get("/docs").await.expect_json(200)["documents"][0].clone();
        listed["streams"] = json!(0);
        assert_eq!(listed, one);

        let mut streams =
            [server.client.events("a", "tab-1").await, server.client.stream("/docs/a/events").await];
        for stream in &mut streams {
            stream.sync().await;
        }
        assert_eq!(server.client.get("/docs/a").await.expect_json(200)["streams"], 2);
        drop(streams);
        until("end of the streams", async || {
            (server.client.get("/docs/a").await.expect_json(200)["streams"] == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_deleted_document_is_gone_and_its_streams_are_closed() {
    for server in servers().await {
        let client = &server.client;
        let ack = client.write("a", "tab-1", &Peer::new().insert(0, "abc")).await;
        client.write("b", "tab-1", &Peer::new().insert(0, "other")).await;
        let mut streams = [client.events("a", "tab-1").await, client.stream("/docs/a/events").await];
        for stream in &mut streams {
            stream.sync().await;
        }
        let mut other = client.events("b", "tab-1").await;
        other.sync().await;

        let deleted = client.delete("/docs/a").await;
        assert_eq!((deleted.status, deleted.body.len()), (204, 0));
        for stream in &mut streams {
            let closed = stream.event("closed").await;
            assert_eq!(closed.json()["code"], "deleted");
            assert!(closed.json()["detail"].is_string());
            assert_eq!(closed.id, None);
            assert_eq!(stream.rest().await, []);
        }
        for path in ["/docs/a", "/docs/a/state", "/docs/a/text", "/docs/a/updates"] {
            client.get(path).await.expect_problem(404, "not_found");
        }
        assert_eq!(page(&server, "").await.0, ["b"]);
        client.delete("/docs/a").await.expect_problem(404, "not_found");

        // Its next life is another one, also to a stream that resumes.
        let again = client.write("a", "tab-2", &Peer::new().insert(0, "new")).await;
        assert_eq!(again.seq, 1);
        assert_ne!(again.epoch, ack.epoch);
        let mut resumed = client.stream(&format!("/docs/a/events?since={}", ack.id())).await;
        let sync = resumed.sync().await;
        assert_eq!((sync.id.clone(), &sync.json()["resumed"]), (Some(again.id()), &json!(false)));
        assert_eq!(Peer::from_update(&sync.update()).text(), "new");
        let written = client.write("b", "tab-2", &Peer::new().insert(0, "x")).await;
        assert_eq!(other.event("update").await.id, Some(written.id()));
    }
}

/// A deed that is refused leaves no trace, on streams either.
#[tokio::test]
async fn deleting_a_document_never_written_ends_no_stream() {
    let server = Server::start().await;
    let mut stream = server.client.events("a", "reader").await;
    stream.sync().await;
    assert_eq!(server.client.put("/docs/a/awareness/tab-1", &json!({ "here": true })).await.status, 204);
    stream.event("awareness").await;
    server.client.delete("/docs/a").await.expect_problem(404, "not_found");
    let ack = server.client.write("a", "tab-1", &Peer::new().insert(0, "a")).await;
    assert_eq!(stream.event("update").await.id, Some(ack.id()));
    // Who was here still is.
    let mut late = server.client.events("a", "late").await;
    late.sync().await;
    late.event("awareness").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_race_with_a_deletion_belong_to_one_life_or_the_other() {
    for server in servers().await {
        let writers: Vec<_> = (0..4)
            .map(|number| {
                let client = server.client.clone();
                tokio::spawn(async move {
                    let mut acks = Vec::new();
                    for _ in 0..30 {
                        let name = format!("tab-{number}");
                        acks.push(client.write("a", &name, &Peer::new().insert(0, "x")).await);
                    }
                    acks
                })
            })
            .collect();
        for _ in 0..5 {
            until("document to delete", async || {
                (server.client.delete("/docs/a").await.status == 204).then_some(())
            })
            .await;
        }
        let mut acks = vec![server.client.write("a", "last", &Peer::new().insert(0, "x")).await];
        for writer in writers {
            acks.extend(writer.await.expect("every write is answered"));
        }
        let page = server.client.get("/docs/a/updates").await.expect_json(200);
        let logged = page["updates"].as_array().expect("a list").len();
        let mut seqs: Vec<u64> =
            acks.iter().filter(|ack| page["epoch"] == ack.epoch.as_str()).map(|ack| ack.seq).collect();
        seqs.sort_unstable();
        assert_eq!(seqs, (1..=logged as u64).collect::<Vec<_>>(), "of the last life");
        assert_eq!(server.client.text("a").await, "x".repeat(logged));
    }
}
