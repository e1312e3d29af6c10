//! Who is here: clients with a stream, and the awareness states that they share.

use serde_json::{Value, json};

use crate::support::awareness::{awareness, awareness_of, states_of};
use crate::support::{Answer, Frame, Peer, Server, Stream, base64, until};

async fn post(server: &Server, client_id: &str, update: &[u8]) -> Answer {
    let body = json!({ "client_id": client_id, "update": base64(update) });
    server.client.post("/docs/a/awareness", &body).await
}

/// Posts an awareness update that must be taken, whether or not it is news.
async fn share(server: &Server, client_id: &str, update: &[u8]) {
    let answer = post(server, client_id, update).await;
    assert_eq!((answer.status, answer.body.len()), (204, 0), "{}", answer.text());
}

/// The states of the next awareness event.
async fn told(stream: &mut Stream) -> Vec<(u64, u32, Value)> {
    let event = stream.event("awareness").await;
    assert_eq!(event.id, None);
    states_of(&event.update())
}

async fn opened(server: &Server, query: &str) -> Stream {
    let mut stream = server.client.stream(&format!("/docs/a/events?{query}")).await;
    stream.sync().await;
    stream
}

async fn clients(server: &Server) -> Vec<Value> {
    let list = server.client.get("/docs/a/clients").await.expect_json(200);
    list["clients"].as_array().expect("a list").clone()
}

#[tokio::test]
async fn clients_with_a_stream_are_listed() {
    let server = Server::start().await;
    let _streams = [
        opened(&server, "client_id=tab-1&label=Ada+L%C3%B6velace").await,
        opened(&server, "client_id=tab-1").await,
        opened(&server, "client_id=tab-2").await,
        opened(&server, "label=nameless").await,
    ];
    let list = clients(&server).await;
    assert_eq!(list.len(), 2, "{list:?}");
    assert_eq!(list[0]["client_id"], "tab-1");
    assert_eq!(list[0]["label"], "Ada Lövelace");
    assert_eq!(list[0]["streams"], 2);
    assert_eq!(list[0].get("user"), Some(&Value::Null));
    let since = list[0]["connected_at"].as_str().expect("a time");
    assert!(since.ends_with('Z') && since.parse::<jiff::Timestamp>().is_ok(), "{since}");
    assert_eq!(list[1]["client_id"], "tab-2");
    assert_eq!(list[1].get("label"), Some(&Value::Null));
    assert_eq!(list[1]["streams"], 1);
}

#[tokio::test]
async fn who_asks_is_told_when_a_client_comes_and_when_it_leaves() {
    let server = Server::start().await;
    let mut watcher = opened(&server, "client_id=watcher&clients=1").await;
    let mut unasked = opened(&server, "client_id=unasked").await;
    let join = watcher.event("join").await;
    assert_eq!((join.json()["client_id"].clone(), join.id.clone()), (json!("unasked"), None));
    let first = opened(&server, "client_id=tab-1&label=One").await;
    let join = watcher.event("join").await.json();
    let mut listed = clients(&server).await;
    listed.retain(|entry| entry["client_id"] == "tab-1");
    assert_eq!(json!([join]), json!(listed));

    // A second stream is no coming, and the end of one of two no leaving.
    let second = opened(&server, "client_id=tab-1").await;
    drop(first);
    until("end of a stream", async || {
        clients(&server)
            .await
            .iter()
            .any(|entry| entry["client_id"] == "tab-1" && entry["streams"] == 1)
            .then_some(())
    })
    .await;
    drop(second);
    let leave = watcher.event("leave").await.json();
    assert_eq!(leave["client_id"], "tab-1");
    assert_eq!(leave["label"], "One");
    let mut fields: Vec<_> = leave.as_object().expect("an object").keys().collect();
    let mut as_listed: Vec<_> = listed[0].as_object().expect("an object").keys().collect();
    fields.sort();
    as_listed.sort();
    assert_eq!(fields, as_listed);

    // Nobody else was told.
    let ack = server.client.write("a", "tab-9", &Peer::new().insert(0, "a")).await;
    assert_eq!(unasked.event("update").await.id, Some(ack.id()));
    assert_eq!(watcher.event("update").await.id, Some(ack.id()));
}

#[tokio::test]
async fn a_label_is_cut_at_80_characters() {
    let server = Server::start().await;
    let letters = "%C3%A9".repeat(100);
    let _stream = opened(&server, &format!("client_id=tab-1&label={letters}")).await;
    assert_eq!(clients(&server).await[0]["label"], "é".repeat(80));
}

/// The failure: ids with newlines start new fields.
#[tokio::test]
async fn a_label_cannot_start_a_field_or_an_event() {
    let server = Server::start().await;
    let mut watcher = opened(&server, "clients=1").await;
    let label = "a\nevent: admin\ndata: x\r\n\r\nid: 1\rdata: y\0\u{2028}\u{85}";
    let escaped: String = label.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let stream = opened(&server, &format!("client_id=tab-1&label={escaped}")).await;
    let join = watcher.event("join").await;
    assert_eq!(join.json()["label"], label);
    assert!(!join.data.contains('\n'), "one line: {}", join.data);
    assert_eq!(watcher.last_event_id, "");
    drop(stream);
    assert_eq!(watcher.event("leave").await.json()["label"], label);
}

#[tokio::test]
async fn a_state_cannot_start_a_field_or_an_event() {
    let server = Server::start().await;
    let mut watcher = opened(&server, "client_id=watcher").await;
    let state = "{\"name\":\"a\"\n,\r\n\"b\"\r:1}";
    let request = server.client.request(reqwest::Method::PUT, "/docs/a/awareness/tab-1");
    let put = server.client.send(request.header("content-type", "application/json").body(state)).await;
    assert_eq!(put.status, 204);
    assert_eq!(told(&mut watcher).await[0].2, json!({ "name": "a", "b": 1 }));
}

#[tokio::test]
async fn a_state_goes_to_the_others_and_to_those_who_come_later() {
    let server = Server::start().await;
    let mut author = opened(&server, "client_id=tab-1").await;
    let mut other = opened(&server, "client_id=tab-2").await;
    let state = json!({ "user": { "name": "Ada", "color": "#f00" }, "cursor": null });
    share(&server, "tab-1", &awareness(11, 1, &state)).await;
    let event = other.event("awareness").await;
    assert_eq!((event.json()["origin"].clone(), event.id.clone()), (json!("tab-1"), None));
    assert_eq!(states_of(&event.update()), [(11, 1, state.clone())]);
    let mut late = opened(&server, "client_id=tab-3").await;
    assert_eq!(told(&mut late).await, [(11, 1, state)]);
    // Its author is told nothing of it, and the document still does not exist.
    share(&server, "tab-2", &awareness(22, 1, &json!({}))).await;
    assert_eq!(told(&mut author).await, [(22, 1, json!({}))]);
    server.client.get("/docs/a").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn a_state_belongs_to_whoever_sent_it_first() {
    let server = Server::start().await;
    let mut watcher = opened(&server, "client_id=watcher").await;
    share(&server, "tab-1", &awareness(11, 5, &json!({ "mine": true }))).await;
    assert_eq!(told(&mut watcher).await, [(11, 5, json!({ "mine": true }))]);
    // Neither a change nor a removal by another is taken; what else is in the same update is.
    share(&server, "tab-2", &awareness(11, 6, &json!({ "mine": false }))).await;
    share(&server, "tab-2", &awareness(11, 99, &Value::Null)).await;
    let both = awareness_of(&[(11, 7, json!({ "stolen": true })), (22, 1, json!({ "own": true }))]);
    share(&server, "tab-2", &both).await;
    assert_eq!(told(&mut watcher).await, [(22, 1, json!({ "own": true }))]);
    share(&server, "tab-1", &awareness(11, 6, &json!({ "mine": "still" }))).await;
    assert_eq!(told(&mut watcher).await, [(11, 6, json!({ "mine": "still" }))]);
}

#[tokio::test]
async fn an_old_clock_is_no_news_and_null_at_the_same_clock_is() {
    let server = Server::start().await;
    let mut watcher = opened(&server, "client_id=watcher").await;
    let _author = opened(&server, "client_id=tab-1").await;
    share(&server, "tab-1", &awareness(11, 3, &json!({ "at": 3 }))).await;
    share(&server, "tab-1", &awareness(11, 3, &json!({ "at": "3 again" }))).await;
    share(&server, "tab-1", &awareness(11, 2, &Value::Null)).await;
    share(&server, "tab-1", &awareness(11, 3, &Value::Null)).await;
    assert_eq!(told(&mut watcher).await, [(11, 3, json!({ "at": 3 }))]);
    assert_eq!(told(&mut watcher).await, [(11, 3, Value::Null)]);
    // A repeat of the old message brings nothing back.
    share(&server, "tab-1", &awareness(11, 3, &json!({ "at": 3 }))).await;
    share(&server, "tab-1", &awareness(11, 4, &json!({ "at": 4 }))).await;
    assert_eq!(told(&mut watcher).await, [(11, 4, json!({ "at": 4 }))]);
    let mut late = opened(&server, "client_id=late").await;
    assert_eq!(told(&mut late).await, [(11, 4, json!({ "at": 4 }))]);
}

#[tokio::test]
async fn the_states_of_a_client_that_stays_away_are_removed_at_the_same_clock() {
    let server = Server::start().await;
    let mut watcher = opened(&server, "client_id=watcher&clients=1").await;
    let author = opened(&server, "client_id=tab-1").await;
    watcher.event("join").await;
    share(&server, "tab-1", &awareness_of(&[(11, 7, json!({})), (12, 1, json!({}))])).await;
    assert_eq!(told(&mut watcher).await, [(11, 7, json!({})), (12, 1, json!({}))]);
    drop(author);
    watcher.event("leave").await;
    let left = std::time::Instant::now();
    // It is back within 3 s: nothing happens to its states.
    let back = opened(&server, "client_id=tab-1").await;
    watcher.event("join").await;
    drop(back);
    watcher.event("leave").await;
    assert_eq!(told(&mut watcher).await, [(11, 7, Value::Null), (12, 1, Value::Null)]);
    assert!(left.elapsed() >= std::time::Duration::from_secs(3), "{:?}", left.elapsed());

    // A returning client's next state wins.
    let _back = opened(&server, "client_id=tab-1").await;
    share(&server, "tab-1", &awareness(11, 8, &json!({ "back": true }))).await;
    watcher.event("join").await;
    assert_eq!(told(&mut watcher).await, [(11, 8, json!({ "back": true }))]);
}

#[tokio::test]
async fn a_client_without_a_library_puts_its_state_as_json() {
    let server = Server::start().await;
    let mut watcher = opened(&server, "client_id=watcher").await;
    let path = "/docs/a/awareness/script%2D1";
    assert_eq!(server.client.put(path, &json!({ "name": "script" })).await.status, 204);
    let first = told(&mut watcher).await;
    assert_eq!((first.len(), &first[0].2), (1, &json!({ "name": "script" })));
    assert_eq!(server.client.put(path, &json!({ "name": "changed" })).await.status, 204);
    let event = watcher.event("awareness").await;
    assert_eq!(event.json()["origin"], "script-1");
    let second = states_of(&event.update());
    assert_eq!((second[0].0, &second[0].2), (first[0].0, &json!({ "name": "changed" })));
    assert!(second[0].1 > first[0].1, "a Yjs client takes a higher clock only");

    assert_eq!(server.client.put(path, &Value::Null).await.status, 204);
    let gone = told(&mut watcher).await;
    assert_eq!((gone[0].0, &gone[0].2), (first[0].0, &Value::Null));
    assert!(gone[0].1 >= second[0].1);
    // Removing what is not there is no news; coming back is.
    assert_eq!(server.client.put(path, &Value::Null).await.status, 204);
    assert_eq!(server.client.put(path, &json!({})).await.status, 204);
    assert_eq!(told(&mut watcher).await[0].2, json!({}));
}

#[tokio::test]
async fn a_state_that_is_no_object_is_refused() {
    let server = Server::start().await;
    for state in ["[]", "1", "\"text\"", "true", "", "{", "{} {}", "nul"] {
        let request = server.client.request(reqwest::Method::PUT, "/docs/a/awareness/tab-1");
        let put = server.client.send(request.header("content-type", "application/json").body(state)).await;
        put.expect_problem(400, "invalid_json");
    }
}

#[tokio::test]
async fn bytes_that_are_no_awareness_update_are_refused_and_change_nothing() {
    let server = Server::start().await;
    let mut watcher = opened(&server, "client_id=watcher").await;
    let good = awareness(11, 1, &json!({ "a": 1 }));
    let mut trailing = good.clone();
    trailing.push(0);
    let mut not_json = good.clone();
    let last = not_json.len() - 1;
    not_json[last] = b'!';
    let mut second_is_broken = awareness_of(&[(11, 1, json!({})), (12, 1, json!({ "b": 1 }))]);
    second_is_broken.pop();
    let bad: [&[u8]; 8] =
        [&[], &[1], &[0xff; 12], &[5, 0, 0], &good[..last], &trailing, &not_json, &second_is_broken];
    for bytes in bad {
        let refused = post(&server, "tab-1", bytes).await;
        refused.expect_problem(422, "invalid_update");
        let path = "/docs/a/awareness?client_id=tab-1";
        server.client.post_bytes(path, bytes).await.expect_problem(422, "invalid_update");
    }
    share(&server, "tab-1", &good).await;
    assert_eq!(told(&mut watcher).await, [(11, 1, json!({ "a": 1 }))]);
    share(&server, "tab-1", &[0]).await;
}

#[tokio::test]
async fn an_awareness_update_needs_a_client_id() {
    let server = Server::start().await;
    let update = awareness(11, 1, &json!({}));
    for body in
        [json!({ "update": base64(&update) }), json!({ "update": base64(&update), "client_id": null })]
    {
        let refused = server.client.post("/docs/a/awareness", &body).await;
        assert_eq!(refused.status, 400, "{}", refused.text());
    }
    assert_eq!(server.client.post_bytes("/docs/a/awareness", update.clone()).await.status, 400);
    let body = json!({ "client_id": "tab-1" });
    server.client.post("/docs/a/awareness", &body).await.expect_problem(400, "invalid_json");
    let body = json!({ "client_id": "tab-1", "update": "AA A=" });
    server.client.post("/docs/a/awareness", &body).await.expect_problem(400, "invalid_base64");
    let raw = server.client.post_bytes("/docs/a/awareness?client_id=tab-1", update).await;
    assert_eq!(raw.status, 204);
}

#[tokio::test]
async fn the_first_awareness_follows_the_sync_and_the_updates_go_on() {
    let server = Server::start().await;
    share(&server, "tab-1", &awareness(11, 1, &json!({}))).await;
    let ack = server.client.write("a", "tab-1", &Peer::new().insert(0, "a")).await;
    let mut stream = server.client.events("a", "tab-2").await;
    stream.sync().await;
    assert_eq!(told(&mut stream).await, [(11, 1, json!({}))]);
    // An event without an id leaves the last one as it is.
    assert_eq!(stream.last_event_id, ack.id());
    let Frame::Event(_) = ({
        server.client.write("a", "tab-1", &Peer::new().insert(0, "b")).await;
        stream.next().await
    }) else {
        panic!("an update is next")
    };
}
