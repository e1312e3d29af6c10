//! Documents as resources: created, copied, frozen, named in their history, exported and imported.

use serde_json::{Value, json};

use crate::support::process::{run_to_its_end, store_url};
use crate::support::{Client, Peer, Process, Server, base64, bytes_of};

async fn servers() -> [Server; 2] {
    [Server::start().await, Server::start_on_disk_with(|_| {}).await]
}

/// Types `text` a character at a time and returns who typed.
async fn typed(client: &Client, document: &str, text: &str) -> Peer {
    let mut peer = Peer::new();
    for character in text.chars() {
        client.write(document, "tab-1", &peer.push(&character.to_string())).await;
    }
    peer
}

async fn text_at(client: &Client, document: &str, seq: u64) -> String {
    client.get(&format!("/docs/{document}/text?at={seq}")).await.text()
}

#[tokio::test]
async fn a_document_is_created_once() {
    for server in servers().await {
        let client = &server.client;
        let created = client.put("/docs/a", &json!({ "text": "Dear all", "client_id": "job-1" })).await;
        let created = created.expect_json(201);
        assert_eq!((&created["seq"], &created["changed"]), (&json!(1), &json!(true)));
        assert_eq!(client.text("a").await, "Dear all");
        assert_eq!(client.log("a").await[0]["origin"], "job-1");

        let again = client.put("/docs/a", &json!({ "text": "Dear all" })).await;
        let again = again.expect_problem(409, "already_exists");
        assert_eq!((&again["epoch"], &again["seq"]), (&created["epoch"], &json!(1)));
        assert_eq!(client.text("a").await, "Dear all");

        let update = Peer::new().insert(0, "from Yjs");
        client.put("/docs/b", &json!({ "update": base64(&update) })).await.expect_json(201);
        assert_eq!(client.text("b").await, "from Yjs");
        let notes = json!({ "text": "x", "root": "notes" });
        client.put("/docs/c", &notes).await.expect_json(201);
        assert_eq!(client.get("/docs/c/text?root=notes").await.text(), "x");
    }
}

#[tokio::test]
async fn what_makes_no_document_creates_none() {
    let server = Server::start().await;
    let client = &server.client;
    for (body, status, code) in [
        (json!({}), 400, "invalid_json"),
        (json!({ "text": "a", "update": "AAA=" }), 400, "invalid_json"),
        (json!({ "text": 7 }), 400, "invalid_json"),
        (json!({ "text": "" }), 422, "invalid_update"),
        (json!({ "update": "AAA=" }), 422, "invalid_update"),
        (json!({ "update": "%%%" }), 400, "invalid_base64"),
        (json!({ "update": base64(b"nonsense") }), 422, "invalid_update"),
        (json!({ "text": "a", "client_id": "-" }), 400, "invalid_client_id"),
    ] {
        client.put("/docs/a", &body).await.expect_problem(status, code);
        client.get("/docs/a").await.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn of_many_who_create_one_document_one_does() {
    for server in servers().await {
        let create = async |number: usize| {
            server.client.put("/docs/a", &json!({ "text": format!("by {number}") })).await.status
        };
        let mut statuses = futures_util::future::join_all((0..8).map(create)).await;
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409, 409, 409, 409, 409, 409, 409]);
        assert_eq!(server.client.log("a").await.len(), 1);
    }
}

#[tokio::test]
async fn a_clone_goes_its_own_way_and_is_made_once() {
    for server in servers().await {
        let client = &server.client;
        typed(client, "lecture", "abc").await;
        let clone = json!({ "to": "lecture-group-1" });
        let made = client.post("/docs/lecture/clone", &clone).await.expect_json(201);
        assert_eq!((&made["id"], &made["created"]), (&json!("lecture-group-1"), &json!(true)));
        assert_eq!(client.text("lecture-group-1").await, "abc");
        assert_ne!(made["epoch"], client.get("/docs/lecture").await.expect_json(200)["epoch"]);

        let mut peer = Peer::from_update(&client.state("lecture-group-1").await);
        client.write("lecture-group-1", "tab-2", &peer.push("d")).await;
        let again = client.post("/docs/lecture/clone", &clone).await.expect_json(200);
        assert_eq!((&again["created"], &again["epoch"]), (&json!(false), &made["epoch"]));
        assert_eq!(client.text("lecture-group-1").await, "abcd");
        assert_eq!(client.text("lecture").await, "abc");

        client.post("/docs/lecture/clone", &json!({ "to": "early", "seq": 2 })).await.expect_json(201);
        assert_eq!(client.text("early").await, "ab");
        // Made of something else, and not of this.
        client.post("/docs/early/clone", &clone).await.expect_problem(409, "already_exists");
        client
            .post("/docs/lecture/clone", &json!({ "to": "lecture" }))
            .await
            .expect_problem(409, "already_exists");
        client
            .post("/docs/lecture/clone", &json!({ "to": "../x" }))
            .await
            .expect_problem(400, "invalid_json");
        client.post("/docs/none/clone", &json!({ "to": "x" })).await.expect_problem(404, "not_found");
        // Before its first update the document was nothing, and nothing is no beginning.
        let nothing = client.post("/docs/lecture/clone", &json!({ "to": "empty", "seq": 0 })).await;
        nothing.expect_problem(422, "invalid_update");
        client.get("/docs/empty").await.expect_problem(404, "not_found");
        client.get("/docs/x").await.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn a_frozen_document_takes_no_changes_until_it_is_thawed() {
    for server in servers().await {
        let client = &server.client;
        let mut peer = typed(client, "round", "abc").await;
        let frozen = client.post("/docs/round/freeze", &json!({})).await.expect_json(200);
        assert_eq!((&frozen["text"], &frozen["seq"]), (&json!("abc"), &json!(3)));
        assert_eq!(bytes_of(&frozen["update"]), client.state("round").await);
        let since = frozen["frozen_at"].clone();
        assert!(since.is_string(), "{frozen}");

        let late = peer.push("d");
        let refused = client.update("round", "tab-1", &late).await;
        assert_eq!(refused.expect_problem(423, "frozen")["frozen_at"], since);
        client.put("/docs/round", &json!({ "text": "x" })).await.expect_problem(409, "already_exists");
        assert_eq!(client.text("round").await, "abc");
        assert_eq!(client.get("/docs/round").await.expect_json(200)["frozen_at"], since);
        let again = client.post("/docs/round/freeze", &json!({ "root": "notes" })).await.expect_json(200);
        assert_eq!((&again["frozen_at"], &again["text"]), (&since, &json!("")));

        let thawed = client.post("/docs/round/thaw", &json!({})).await.expect_json(200);
        assert_eq!(thawed["frozen_at"], Value::Null);
        client.write("round", "tab-1", &late).await;
        assert_eq!(client.text("round").await, "abcd");
        client.post("/docs/none/freeze", &json!({})).await.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn no_update_passes_beside_a_freeze() {
    let server = Server::start_on_disk_with(|_| {}).await;
    let client = &server.client;
    typed(client, "round", "a").await;
    let write = async |number: u64| {
        let mut peer = Peer::numbered(1000 + number);
        client.update("round", &format!("tab-{number}"), &peer.insert(0, "x")).await.status
    };
    let (frozen, statuses) = tokio::join!(
        async { client.post("/docs/round/freeze", &json!({})).await.expect_json(200) },
        futures_util::future::join_all((0..50).map(write)),
    );
    let accepted = statuses.iter().filter(|status| **status == 200).count() as u64;
    assert!(statuses.iter().all(|status| [200, 423].contains(status)), "{statuses:?}");
    assert_eq!(frozen["seq"], 1 + accepted);
    assert_eq!(client.get("/docs/round").await.expect_json(200)["seq"], 1 + accepted);
}

#[tokio::test]
async fn a_version_names_a_point_of_the_history_that_compaction_leaves_reachable() {
    for server in [
        Server::start_with(|settings| settings.history.keep_updates = 8).await,
        Server::start_on_disk_with(|settings| settings.history.keep_updates = 8).await,
    ] {
        let client = &server.client;
        let mut peer = typed(client, "a", "first draft").await;
        let named = client.post("/docs/a/versions", &json!({ "name": "first draft" })).await.expect_json(201);
        assert_eq!((&named["name"], &named["seq"]), (&json!("first draft"), &json!(11)));
        let early = client.post("/docs/a/versions", &json!({ "name": "early", "seq": 5 })).await;
        assert_eq!(early.expect_json(201)["seq"], 5);
        // Until the log no longer reaches the beginning.
        while client.get("/docs/a/updates?since=11&limit=1").await.status == 200 {
            client.write("a", "tab-1", &peer.push("x")).await;
        }
        assert_eq!(text_at(client, "a", 11).await, "first draft");
        assert_eq!(text_at(client, "a", 5).await, "first");
        client.get("/docs/a/text?at=6").await.expect_problem(410, "gone");

        let list = client.get("/docs/a/versions").await.expect_json(200);
        let names: Vec<_> =
            list["versions"].as_array().expect("a list").iter().map(|one| &one["name"]).collect();
        assert_eq!(names, ["early", "first draft"]);
        let one = client.get("/docs/a/versions/first%20draft").await.expect_json(200);
        assert_eq!(one["seq"], 11);
        assert_eq!(client.delete("/docs/a/versions/first%20draft").await.status, 204);
        client.delete("/docs/a/versions/first%20draft").await.expect_problem(404, "not_found");
        client.get("/docs/a/versions/first%20draft").await.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn a_versions_name_is_given_once() {
    let server = Server::start().await;
    let client = &server.client;
    typed(client, "a", "abc").await;
    let name = async |body: Value| client.post("/docs/a/versions", &body).await;
    name(json!({ "name": "v1", "seq": 2 })).await.expect_json(201);
    name(json!({ "name": "v1", "seq": 2 })).await.expect_json(200);
    assert_eq!(name(json!({ "name": "v1" })).await.expect_problem(409, "already_exists")["seq"], 2);
    name(json!({ "name": "v2", "seq": 4 })).await.expect_problem(404, "not_found");
    name(json!({ "seq": 1 })).await.expect_problem(400, "invalid_json");
    for bad in ["", " a", "a\nb", &"x".repeat(101)] {
        name(json!({ "name": bad })).await.expect_problem(400, "invalid_version_name");
    }
    client.get("/docs/none/versions").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn the_history_tells_who_wrote_how_much() {
    for server in servers().await {
        let client = &server.client;
        let mut ada = typed(client, "a", "hello").await;
        client.write("a", "tab-1", &ada.delete(0, 2)).await;
        let mut eve = Peer::from_update(&client.state("a").await);
        client.write("a", "tab-2", &eve.push("!")).await;
        client.anonymous_update("a", &eve.push("?")).await;

        let history = client.get("/docs/a/history").await.expect_json(200);
        assert_eq!((&history["since"], &history["seq"]), (&json!(0), &json!(8)));
        let of = |origin: Value| {
            let all = history["contributions"].as_array().expect("a list");
            all.iter().find(|one| one["origin"] == origin).expect("it wrote").clone()
        };
        let tab_1 = of(json!("tab-1"));
        assert_eq!(
            (&tab_1["updates"], &tab_1["inserted"], &tab_1["deleted"]),
            (&json!(6), &json!(5), &json!(2))
        );
        assert!(tab_1["first_at"].as_str() <= tab_1["last_at"].as_str());
        assert_eq!(of(json!("tab-2"))["inserted"], 1);
        assert_eq!(of(Value::Null)["updates"], 1);
        let since = client.get("/docs/a/history?since=7").await.expect_json(200);
        assert_eq!(since["contributions"].as_array().map(Vec::len), Some(1));
    }
}

#[tokio::test]
async fn what_is_exported_here_and_imported_there_is_the_same_document() {
    let [from, to] = servers().await;
    for (from, to) in [(&from, &to), (&to, &Server::start_on_disk_with(|_| {}).await)] {
        let (source, target) = (&from.client, &to.client);
        if source.get("/docs/a").await.status == 404 {
            typed(source, "a", "abc").await;
            typed(source, "b", "other").await;
            source.post("/docs/a/versions", &json!({ "name": "v", "seq": 2 })).await.expect_json(201);
            source.post("/docs/b/freeze", &json!({})).await.expect_json(200);
        }
        let export = source.get("/export").await;
        assert_eq!(export.header("content-type"), Some("application/x-ndjson"));
        // A reader that has asked for a document before it is there learns of it all the same.
        let mut stream = target.events("a", "tab-9").await;
        assert_eq!(stream.sync().await.json()["epoch"], Value::Null);
        let imported =
            target.post_as("/import", "application/x-ndjson", export.text()).await.expect_json(200);
        assert_eq!(imported, json!({ "imported": 2, "skipped": [] }));

        for document in ["a", "b"] {
            let path = format!("/docs/{document}");
            let (mut here, mut there) =
                (source.get(&path).await.expect_json(200), target.get(&path).await.expect_json(200));
            here["streams"] = Value::Null;
            there["streams"] = Value::Null;
            assert_eq!(here, there);
            assert_eq!(source.log(document).await, target.log(document).await);
        }
        assert_eq!(target.text("a").await, "abc");
        assert_eq!(text_at(target, "a", 2).await, "ab");
        assert_eq!(target.get("/docs/a/versions/v").await.expect_json(200)["seq"], 2);
        let mut peer = Peer::from_update(&target.state("a").await);
        let added = target.write("a", "tab-1", &peer.push("d")).await;
        assert_eq!(added.seq, 4);
        loop {
            let event = stream.event("update").await;
            if event.seq() == 4 {
                break;
            }
        }

        let again = target.post_as("/import", "application/x-ndjson", export.text()).await.expect_json(200);
        assert_eq!(again["imported"], 0);
        assert_eq!(again["skipped"].as_array().map(Vec::len), Some(2));
        assert_eq!(target.text("a").await, "abcd");
        target.delete("/docs/a").await;
        target.delete("/docs/b").await;
    }
    let one = from.client.get("/docs/a/export").await.text();
    assert_eq!(from.client.get("/export?prefix=a").await.text(), one);
    from.client.get("/docs/none/export").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn an_archive_that_was_altered_is_not_imported() {
    let [source, target] = servers().await;
    typed(&source.client, "a", "abc").await;
    typed(&source.client, "b", "abc").await;
    let export = source.client.get("/export").await.text();
    let import = async |text: String| target.client.post_as("/import", "application/x-ndjson", text).await;

    let cut = export.lines().take(7).map(|line| format!("{line}\n")).collect::<String>();
    let refused = import(cut).await.expect_problem(422, "invalid_archive");
    assert_eq!(refused["imported"], 1, "{refused}");
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("`b`")), "{refused}");
    assert_eq!(target.client.text("a").await, "abc");
    target.client.get("/docs/b").await.expect_problem(404, "not_found");

    let lines: Vec<_> = export.lines().collect();
    let swapped =
        lines.iter().map(|line| line.replace("\"seq\":2,", "\"seq\":9,") + "\n").collect::<String>();
    import(swapped).await.expect_problem(422, "invalid_archive");
    import("[1]\n".into()).await.expect_problem(422, "invalid_archive");
    // Well formed, and yet no document: its second update is missing, and the third is in its place.
    let second = |line: &&&str| line.contains("\"seq\":2,");
    let update = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("a line is JSON");
        line["update"].as_str().expect("an update").to_owned()
    };
    let (of_2, of_3) = (update(lines.iter().find(second).expect("it is there")), update(lines[3]));
    let forged = export.replace(&of_2, &of_3);
    target.client.delete("/docs/a").await;
    let skipped = import(forged).await.expect_json(200);
    assert_eq!(
        skipped["imported"].as_u64().unwrap_or(9) + skipped["skipped"].as_array().map_or(0, Vec::len) as u64,
        2
    );
    target.client.get("/docs/a").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn documents_go_from_store_to_store_by_command() {
    let mut from = Process::start().await;
    typed(&from.client, "lecture-1", "abc").await;
    typed(&from.client, "notes", "def").await;
    let here = format!("sqlite:{}", from.data_directory().display());
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let run = async |arguments: &[&str], store: &str| {
        run_to_its_end(directory.path(), arguments, &[("PROMPTGRIMOIRE__STORE__URL", store)]).await
    };
    let used = run(&["export"], &here).await;
    let said = String::from_utf8_lossy(&used.stderr).into_owned();
    assert!(!used.status.success() && said.contains(&format!("process {}", from.id())), "{said}");

    from.terminate();
    assert!(from.ended().await.success());
    let archive = "all.jsonl";
    let there = store_url(directory.path());
    let exported = run(&["export", "--output", archive], &here).await;
    assert!(exported.status.success(), "{exported:?}");
    assert!(String::from_utf8_lossy(&exported.stderr).contains("exported 2 documents"), "{exported:?}");
    let imported = run(&["import", archive], &there).await;
    assert!(imported.status.success(), "{imported:?}");

    let all = run(&["export"], &here).await.stdout;
    assert_eq!(
        String::from_utf8_lossy(&all),
        String::from_utf8_lossy(&run(&["export"], &there).await.stdout)
    );
    let one = run(&["export", "--document", "notes"], &there).await.stdout;
    assert_eq!(one, run(&["export", "--prefix", "no"], &there).await.stdout);

    let again = run(&["import", archive], &there).await;
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(!again.status.success() && said.contains("left out `notes`: it exists already"), "{said}");
    let none = run(&["export", "--document", "none"], &there).await;
    assert!(!none.status.success() && String::from_utf8_lossy(&none.stderr).contains("`none`"), "{none:?}");
}
