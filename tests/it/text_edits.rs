//! Editing and reading a text with nothing but HTTP.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::Ack;
use crate::support::{Answer, Client, Peer, Process, Server, bytes_of, within_deadline};

async fn patch(client: &Client, document: &str, body: &Value) -> Answer {
    client.send(client.request(Method::PATCH, &format!("/docs/{document}/text")).json(body)).await
}

/// `path`: from the document on, with the query.
async fn put(client: &Client, path: &str, text: &str) -> Answer {
    let request = client.request(Method::PUT, &format!("/docs/{path}"));
    client.send(request.header("content-type", "text/plain").body(text.to_owned())).await
}

async fn written(client: &Client, document: &str, text: &str) -> Ack {
    Ack::changed(&put(client, &format!("{document}/text"), text).await)
}

async fn under_key(client: &Client, key: &str, method: Method, path: &str, body: &str) -> Answer {
    let content_type = if method == Method::PUT { "text/plain" } else { "application/json" };
    let request = client.request(method, path).header("idempotency-key", key);
    client.send(request.header("content-type", content_type).body(body.to_owned())).await
}

#[tokio::test]
async fn a_text_is_put_and_read() {
    let server = Server::start().await;
    let client = &server.client;
    let first = put(client, "a/text?client_id=tab-1", "Héllo 😀").await.expect_json(200);
    assert_eq!((first["seq"].clone(), first["changed"].clone()), (json!(1), json!(true)));
    assert_eq!(first["length"], 8);
    assert_eq!(client.text("a").await, "Héllo 😀");
    let log = client.log("a").await;
    assert_eq!(log[0]["origin"], "tab-1");

    let same = put(client, "a/text?unit=char", "Héllo 😀").await.expect_json(200);
    assert_eq!(same, json!({ "epoch": first["epoch"], "seq": 1, "changed": false, "length": 7 }));
    let bytes = put(client, "a/text?unit=byte", "Héllo").await.expect_json(200);
    assert_eq!(bytes["length"], 6);
    assert_eq!(client.log("a").await.len(), 2);
}

#[tokio::test]
async fn a_put_is_the_smallest_edit_and_told_as_one_update() {
    let server = Server::start().await;
    written(&server.client, "a", &"The quick brown fox jumps over the lazy dog. ".repeat(50)).await;
    let mut stream = server.client.events("a", "reader").await;
    let mut peer = Peer::from_update(&stream.sync().await.update());
    let edited = peer.text().replacen("quick", "quack", 1).replacen("dog. ", "dog! ", 3);
    put(&server.client, "a/text", &edited).await.expect_json(200);
    let told = stream.event("update").await;
    assert!(told.update().len() < 120, "{} bytes", told.update().len());
    peer.apply(&told.update());
    assert_eq!(peer.text(), edited);
}

#[tokio::test]
async fn a_body_that_is_no_text_is_refused() {
    let server = Server::start().await;
    let client = &server.client;
    let as_type = async |content_type: &str, body: &[u8]| {
        let request = client.request(Method::PUT, "/docs/a/text").header("content-type", content_type);
        client.send(request.body(body.to_vec())).await
    };
    as_type("application/json", b"{}").await.expect_problem(415, "unsupported_media_type");
    as_type("text/plain; charset=latin1", b"a").await.expect_problem(415, "unsupported_media_type");
    as_type("text/plain", b"a\xff").await.expect_problem(400, "invalid_body");
    for accepted in [
        "text/plain; charset=UTF-8",
        "text/markdown",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
    ] {
        as_type(accepted, accepted.as_bytes()).await.expect_json(200);
        assert_eq!(client.text("a").await, accepted);
    }
    let untyped = client.send(client.request(Method::PUT, "/docs/a/text").body("curl -T")).await;
    untyped.expect_json(200);
    let request = client.request(Method::PATCH, "/docs/a/text").header("content-type", "text/plain");
    client.send(request.body("{}")).await.expect_problem(415, "unsupported_media_type");
    client.send(client.request(Method::POST, "/docs/a/text")).await.expect_problem(405, "method_not_allowed");
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_leaves_no_trace() {
    let server = Server::start_with(|settings| {
        settings.limits.max_update_bytes = 1000;
        settings.limits.max_document_bytes = 1500;
    })
    .await;
    let client = &server.client;
    let long = put(client, "a/text", &"x".repeat(1001)).await;
    assert_eq!(long.expect_problem(413, "too_large")["limit"], 1000);
    let body = json!({ "ops": [{ "insert": "x".repeat(1001), "at": 0 }] });
    assert_eq!(patch(client, "a", &body).await.expect_problem(413, "too_large")["limit"], 1000);
    client.get("/docs/a").await.expect_problem(404, "not_found");
    written(client, "a", &"x".repeat(1000)).await;
    let body = json!({ "ops": [{ "insert": "x".repeat(600), "at": "end" }] });
    assert_eq!(patch(client, "a", &body).await.expect_problem(413, "too_large")["limit"], 1500);
    assert_eq!(client.text("a").await, "x".repeat(1000));
}

#[tokio::test]
async fn ops_are_applied_in_turn_in_one_update() {
    let server = Server::start().await;
    let client = &server.client;
    let ops =
        json!([{ "insert": "Hello", "at": 0 }, { "insert": "!", "at": "end" }, { "delete": 1, "at": 4 }]);
    let answer = patch(client, "a", &json!({ "client_id": "tab-1", "ops": ops })).await.expect_json(200);
    assert_eq!((answer["seq"].clone(), answer["length"].clone()), (json!(1), json!(5)));
    assert_eq!(client.text("a").await, "Hell!");
    assert_eq!(client.log("a").await[0]["origin"], "tab-1");
    let nothing = patch(client, "a", &json!({ "ops": [] })).await.expect_json(200);
    assert_eq!((nothing["seq"].clone(), nothing["changed"].clone()), (json!(1), json!(false)));
    let other = patch(client, "a", &json!({ "root": "notes", "ops": [{ "insert": "n", "at": 0 }] })).await;
    assert_eq!(other.expect_json(200)["length"], 1);
    assert_eq!(client.get("/docs/a/text?root=notes").await.text(), "n");
}

#[tokio::test]
async fn a_position_that_does_not_fit_refuses_all_of_it() {
    let server = Server::start().await;
    let client = &server.client;
    written(client, "a", "a😀e\u{301}").await;
    for (unit, at, length) in [
        ("utf16", json!(2), 5),
        ("utf16", json!(6), 5),
        ("utf16", json!(-1), 5),
        ("char", json!(5), 4),
        ("byte", json!(2), 8),
        ("byte", json!(1e300), 8),
    ] {
        let ops = json!([{ "insert": "x", "at": 0 }, { "insert": "y", "at": at }]);
        // The first one has had its turn.
        let at = if at.as_i64().is_some_and(|at| at > 0) { json!(at.as_i64().unwrap() + 1) } else { at };
        let ops = if at.is_i64() { json!([ops[0], { "insert": "y", "at": at }]) } else { ops };
        let refused = patch(client, "a", &json!({ "unit": unit, "ops": ops })).await;
        let problem = refused.expect_problem(422, "invalid_position");
        assert_eq!(problem["length"], length + 1, "{unit} {at}");
    }
    let refused = patch(client, "a", &json!({ "ops": [{ "delete": 9, "at": 1 }] })).await;
    assert_eq!(refused.expect_problem(422, "invalid_position")["length"], 5);
    let refused = patch(client, "a", &json!({ "delta": [{ "retain": 6 }, { "insert": "x" }] })).await;
    assert_eq!(refused.expect_problem(422, "invalid_position")["length"], 5);
    assert_eq!(client.text("a").await, "a😀e\u{301}");
    assert_eq!(client.log("a").await.len(), 1);
    patch(client, "b", &json!({ "ops": [{ "insert": "x", "at": 1 }] }))
        .await
        .expect_problem(422, "invalid_position");
    client.get("/docs/b").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn a_body_that_is_no_edit_is_invalid_json() {
    let server = Server::start().await;
    for body in [
        json!({}),
        json!([]),
        json!({ "ops": {} }),
        json!({ "ops": [{}] }),
        json!({ "ops": [{ "insert": "x" }] }),
        json!({ "ops": [{ "insert": 1, "at": 0 }] }),
        json!({ "ops": [{ "insert": "x", "at": 0.5 }] }),
        json!({ "ops": [{ "insert": "x", "at": "start" }] }),
        json!({ "ops": [{ "insert": "x", "delete": 1, "at": 0 }] }),
        json!({ "ops": [], "delta": [] }),
        json!({ "delta": [{ "insert": "x", "retain": 1 }] }),
        json!({ "delta": [{ "insert": 1 }] }),
        json!({ "ops": [], "unit": "word" }),
        json!({ "ops": [], "root": "" }),
        json!({ "ops": [], "root": 7 }),
        json!({ "ops": [], "base": -1 }),
        json!({ "ops": [], "base": "soon" }),
    ] {
        patch(&server.client, "a", &body).await.expect_problem(400, "invalid_json");
    }
    let refused = patch(&server.client, "a", &json!({ "ops": [], "client_id": "a b" })).await;
    refused.expect_problem(400, "invalid_client_id");
    for query in ["unit=word", "root=", "base=soon"] {
        let refused = put(&server.client, &format!("a/text?{query}"), "x").await;
        let problem = refused.expect_problem(400, "invalid_parameter");
        assert_eq!(problem["parameter"], query.split('=').next().unwrap());
    }
    server.client.get("/docs/a").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn a_delta_carries_formats_and_embeds() {
    use yrs::types::text::YChange;
    use yrs::updates::decoder::Decode;
    use yrs::{Text, Transact};

    let server = Server::start().await;
    let delta = json!([
        { "insert": "plain " },
        { "insert": "bold", "attributes": { "bold": true } },
        { "insert": { "image": "a.png" } },
        { "insert": "!" },
    ]);
    let answer = patch(&server.client, "a", &json!({ "delta": delta })).await.expect_json(200);
    assert_eq!(answer["length"], 12, "an embed is one");
    let unbold = json!([{ "retain": 6 }, { "retain": 2, "attributes": { "bold": null } }, { "delete": 1 }]);
    patch(&server.client, "a", &json!({ "delta": unbold })).await.expect_json(200);
    assert_eq!(server.client.text("a").await, "plain bod!");

    let doc = yrs::Doc::new();
    let text = doc.get_or_insert_text("text");
    let state = yrs::Update::decode_v1(&server.client.state("a").await).expect("an update");
    doc.transact_mut().apply_update(state).expect("it builds on nothing");
    let parts: Vec<(String, bool)> = text
        .diff(&doc.transact(), YChange::identity)
        .into_iter()
        .map(|part| (format!("{}", part.insert), part.attributes.is_some()))
        .collect();
    assert_eq!(parts.len(), 4, "{parts:?}");
    assert_eq!((parts[0].0.as_str(), parts[0].1), ("plain bo", false));
    assert_eq!((parts[1].0.as_str(), parts[1].1), ("d", true));
    assert_eq!((parts[3].0.as_str(), parts[3].1), ("!", false));
}

#[tokio::test]
async fn what_is_no_text_is_not_edited_as_one() {
    use yrs::{Array, Map, Transact};

    let server = Server::start().await;
    let doc = yrs::Doc::new();
    let (array, map) = (doc.get_or_insert_array("array"), doc.get_or_insert_map("map"));
    let update = {
        let mut transaction = doc.transact_mut();
        array.push_back(&mut transaction, "😀");
        map.insert(&mut transaction, "key", 1);
        transaction.encode_update_v1()
    };
    server.client.write("a", "tab-1", &update).await;
    for root in ["array", "map"] {
        let ops = json!([{ "insert": "x", "at": 0 }]);
        let refused = patch(&server.client, "a", &json!({ "root": root, "ops": ops })).await;
        refused.expect_problem(422, "wrong_type");
        put(&server.client, &format!("a/text?root={root}"), "x").await.expect_problem(422, "wrong_type");
        let refused = patch(&server.client, "a", &json!({ "root": root, "base": 0, "ops": ops })).await;
        refused.expect_problem(422, "wrong_type");
    }
    assert_eq!(server.client.log("a").await.len(), 1);
}

#[tokio::test]
async fn an_edit_of_an_earlier_text_is_merged_with_what_came_since() {
    let server = Server::start().await;
    let client = &server.client;
    let ack = written(client, "a", "one two three").await;
    let mut peer = Peer::from_update(&client.state("a").await);
    client.write("a", "tab-1", &peer.delete(4, 4)).await;
    client.write("a", "tab-1", &peer.insert(0, "zero ")).await;
    assert_eq!(client.text("a").await, "zero one three");

    let merged = put(client, "a/text?base=1&client_id=agent", "one two THREE four").await.expect_json(200);
    assert_eq!((merged["seq"].clone(), merged["length"].clone()), (json!(4), json!(19)));
    assert_eq!(client.text("a").await, "zero one THREE four");
    assert_eq!(client.log("a").await[3]["origin"], "agent");

    // Positions are those of the text at the base, whatever has become of it.
    let refused = patch(client, "a", &json!({ "base": 1, "ops": [{ "delete": 1, "at": 13 }] })).await;
    assert_eq!(refused.expect_problem(422, "invalid_position")["length"], 13);
    let body = json!({ "base": ack.id(), "ops": [{ "insert": "½ ", "at": 4 }, { "delete": 3, "at": 0 }] });
    patch(client, "a", &body).await.expect_json(200);
    assert_eq!(client.text("a").await, "zero  ½ THREE four");

    let same = put(client, "a/text?base=1", "one two three").await.expect_json(200);
    assert_eq!((same["seq"].clone(), same["changed"].clone()), (json!(5), json!(false)));
}

#[tokio::test]
async fn a_base_is_of_this_life_and_not_of_the_future() {
    let server = Server::start().await;
    let client = &server.client;
    put(client, "a/text?base=1", "x").await.expect_problem(422, "invalid_base");
    client.get("/docs/a").await.expect_problem(404, "not_found");
    let born = put(client, "a/text?base=0", "x").await.expect_json(200);
    assert_eq!(born["seq"], 1);
    put(client, "a/text?base=2", "x").await.expect_problem(422, "invalid_base");
    let other = put(client, "a/text?base=zzzzzzzz.1", "x").await;
    assert_eq!(other.expect_problem(409, "epoch_changed")["epoch"], born["epoch"]);
    let other = put(client, "a/text?epoch=zzzzzzzz", "y").await;
    assert_eq!(other.expect_problem(409, "epoch_changed")["epoch"], born["epoch"]);
    let etag = client.get("/docs/a/text").await.header("etag").expect("a tag").replace('"', "%22");
    put(client, &format!("a/text?base={etag}"), "xy").await.expect_json(200);
    assert_eq!(put(client, "a/text?base=0", "z").await.expect_json(200)["seq"], 3);
    assert_eq!(client.text("a").await.len(), 3, "both were written at the start");
}

#[tokio::test]
async fn a_base_that_history_has_let_go_is_gone() {
    let server = Server::start_with(|settings| settings.history.keep_updates = 8).await;
    let client = &server.client;
    for _ in 0..200 {
        let body = json!({ "ops": [{ "insert": "x", "at": "end" }] });
        patch(client, "a", &body).await.expect_json(200);
    }
    let gone = crate::support::until("compaction", async || {
        let answer = put(client, "a/text?base=1", "y").await;
        (answer.status == 410).then_some(answer)
    })
    .await;
    assert!(gone.expect_problem(410, "gone")["oldest"].as_u64().expect("a number") > 1);
}

#[tokio::test]
async fn many_edits_leave_one_entry_in_the_state_vector() {
    let server = Server::start_on_disk_with(|settings| settings.documents.idle_seconds = 0).await;
    for _ in 0..20 {
        let body = json!({ "ops": [{ "insert": "x", "at": "end" }] });
        patch(&server.client, "a", &body).await.expect_json(200);
    }
    let state = server.client.get("/docs/a/state").await.expect_json(200);
    assert_eq!(bytes_of(&state["state_vector"])[0], 1, "one client");
}

/// What an agent does that streams words into a long text while others type.
#[tokio::test]
async fn ten_thousand_tokens_in_characters_are_all_there() {
    let server = Server::start().await;
    let client = &server.client;
    let mut expected = "Ünïcödé 😀 ".repeat(1500);
    written(client, "a", &expected).await;
    let mut length = expected.chars().count();
    for number in 0..10_000 {
        let token = if number % 3 == 0 { "é" } else { "x" };
        let at = if number % 2 == 0 { json!("end") } else { json!(length) };
        let body = json!({ "client_id": "agent", "unit": "char", "ops": [{ "insert": token, "at": at }] });
        let answer = patch(client, "a", &body).await.expect_json(200);
        length += 1;
        expected.push_str(token);
        assert_eq!(answer["length"], length);
    }
    assert_eq!(client.text("a").await, expected);
}

#[tokio::test]
async fn a_repeat_under_its_key_is_answered_and_not_made() {
    for server in [Server::start().await, Server::start_on_disk_with(|_| {}).await] {
        let client = &server.client;
        let body = json!({ "ops": [{ "insert": "x", "at": "end" }] }).to_string();
        let ask =
            async |key: &str, body: &str| under_key(client, key, Method::PATCH, "/docs/a/text", body).await;
        let first = ask("one", &body).await.expect_json(200);
        assert_eq!(ask("one", &body).await.expect_json(200), first);
        let second = ask("two", &body).await.expect_json(200);
        assert_eq!(second["seq"], 2);
        assert_eq!(ask("one", &body).await.expect_json(200), first, "still the first answer");
        let other = json!({ "ops": [{ "insert": "y", "at": "end" }] }).to_string();
        ask("one", &other).await.expect_problem(422, "idempotency_key_reused");
        let elsewhere = under_key(client, "one", Method::PATCH, "/docs/a/text?unit=char", &body).await;
        elsewhere.expect_problem(422, "idempotency_key_reused");
        let as_put = under_key(client, "one", Method::PUT, "/docs/a/text", &body).await;
        as_put.expect_problem(422, "idempotency_key_reused");
        let in_another = under_key(client, "one", Method::PATCH, "/docs/b/text", &body).await;
        assert_eq!(in_another.expect_json(200)["seq"], 1);
        assert_eq!(client.text("a").await, "xx");
        ask(&"k".repeat(256), &body).await.expect_problem(400, "invalid_parameter");
        ask(&"k".repeat(255), &body).await.expect_json(200);
    }
}

#[tokio::test]
async fn an_answer_that_nothing_changed_is_given_again_too() {
    let server = Server::start_on_disk_with(|_| {}).await;
    let client = &server.client;
    let unborn = under_key(client, "zero", Method::PUT, "/docs/a/text", "").await.expect_json(200);
    assert_eq!(unborn, json!({ "epoch": null, "seq": 0, "changed": false, "length": 0 }));
    written(client, "a", "same").await;
    let first = under_key(client, "one", Method::PUT, "/docs/a/text", "same").await.expect_json(200);
    assert_eq!(first["changed"], false);
    written(client, "a", "other").await;
    assert_eq!(under_key(client, "one", Method::PUT, "/docs/a/text", "same").await.expect_json(200), first);
    assert_eq!(under_key(client, "zero", Method::PUT, "/docs/a/text", "").await.expect_json(200), unborn);
    assert_eq!(client.text("a").await, "other");
}

#[tokio::test]
async fn a_refused_edit_may_come_again_under_its_key() {
    let server = Server::start().await;
    let client = &server.client;
    let body = json!({ "ops": [{ "insert": "!", "at": 1 }] }).to_string();
    let ask = async || under_key(client, "one", Method::PATCH, "/docs/a/text", &body).await;
    ask().await.expect_problem(422, "invalid_position");
    written(client, "a", "a").await;
    assert_eq!(ask().await.expect_json(200)["seq"], 2);
}

#[tokio::test]
async fn a_key_outlives_a_kill_and_repeats_on_a_base_are_not_made_twice() {
    let mut process = Process::start().await;
    let body = json!({ "ops": [{ "insert": "once", "at": "end" }] }).to_string();
    written(&process.client, "a", "only ").await;
    let first = under_key(&process.client, "one", Method::PATCH, "/docs/a/text", &body).await;
    let based = under_key(&process.client, "two", Method::PUT, "/docs/a/text?base=1", "Only ").await;
    let (first, based) = (first.expect_json(200), based.expect_json(200));
    process.kill().await;

    let process = process.restart().await;
    let again = under_key(&process.client, "one", Method::PATCH, "/docs/a/text", &body).await;
    assert_eq!(again.expect_json(200), first);
    let again = under_key(&process.client, "two", Method::PUT, "/docs/a/text?base=1", "Only ").await;
    assert_eq!(again.expect_json(200), based);
    assert_eq!(process.client.text("a").await, "Only once");
    assert_eq!(process.client.log("a").await.len(), 3);
}

#[tokio::test]
async fn a_reader_waits_for_what_is_still_to_be_written() {
    let server = Server::start().await;
    let client = server.client.clone();
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { client.get("/docs/a/text?at_least=2&wait=30").await })
    };
    crate::support::until("the waiting reader", async || {
        let answer = client.get("/docs/a").await;
        // Not written yet: nothing tells that somebody waits.
        (answer.status == 404).then_some(())
    })
    .await;
    let ack = written(&client, "a", "one").await;
    assert!(!waiting.is_finished());
    written(&client, "a", "two").await;
    let answer = within_deadline("the answer", waiting).await.expect("no panic");
    assert_eq!((answer.status, answer.text()), (200, "two".into()));
    assert_eq!(client.get(&format!("/docs/a/text?at_least={}", ack.id())).await.text(), "two");
    let other = client.get("/docs/a/text?at_least=zzzzzzzz.1").await;
    assert_eq!(other.expect_problem(409, "epoch_changed")["epoch"], ack.epoch);
}

#[tokio::test]
async fn a_wait_ends_when_its_time_is_over() {
    let server = Server::start().await;
    let client = &server.client;
    let ack = written(client, "a", "one").await;
    let problem = client.get("/docs/a/text?at_least=2&wait=0").await.expect_problem(412, "not_reached");
    assert_eq!((problem["seq"].clone(), problem["epoch"].clone()), (json!(1), json!(ack.epoch)));
    let problem = client.get("/docs/b/text?at_least=1&wait=1").await.expect_problem(412, "not_reached");
    assert_eq!((problem["seq"].clone(), problem["epoch"].clone()), (json!(0), Value::Null));
    client.get("/docs/b/text?at_least=0").await.expect_problem(404, "not_found");
    for (query, parameter) in [("wait=31", "wait"), ("at_least=x", "at_least"), ("at_least=", "at_least")] {
        let refused = client.get(&format!("/docs/a/text?{query}")).await;
        assert_eq!(refused.expect_problem(400, "invalid_parameter")["parameter"], parameter);
    }
}

#[tokio::test]
async fn a_reader_that_waits_does_not_keep_the_server_from_stopping() {
    let server = Server::start_with(|settings| settings.server.drain_seconds = 60).await;
    let client = server.client.clone();
    written(&client, "a", "one").await;
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { client.get("/docs/a/text?at_least=2&wait=30").await })
    };
    crate::support::until("the waiting reader", async || {
        (client.get("/docs/a").await.expect_json(200)["streams"] == 1).then_some(())
    })
    .await;
    let started = std::time::Instant::now();
    server.shut_down();
    let answer = within_deadline("the answer", waiting).await.expect("no panic");
    answer.expect_problem(503, "unavailable");
    server.returned().await;
    assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_reader_that_hangs_up_is_let_go() {
    let server = Server::start().await;
    written(&server.client, "a", "one").await;
    let streams = async || server.client.get("/docs/a").await.expect_json(200)["streams"].clone();
    let mut raw = crate::support::Raw::connect(server.address).await;
    raw.send("GET /docs/a/text?at_least=2&wait=30 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    crate::support::until("the waiting reader", async || (streams().await == 1).then_some(())).await;
    let started = std::time::Instant::now();
    drop(raw);
    crate::support::until("end of the wait", async || (streams().await == 0).then_some(())).await;
    assert!(started.elapsed() < std::time::Duration::from_secs(15), "{:?}", started.elapsed());
}
