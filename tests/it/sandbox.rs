//! Work on documents that hangs, dies or takes too much memory, and what becomes of the server, of others, and of them.
//!
//! The helpers are real processes with real limits, and they are really killed.

use std::fs;

use serde_json::{Value, json};

use crate::support::process::run_to_its_end;
use crate::support::{Client, Peer, Process, Server, base64, bytes_of, until, within_deadline};

/// Keystrokes at the same place: each is a block of its own, so that rebuilding them takes a while.
const BLOCKS: usize = 40_000;
const PLENTY: (&str, &str) = ("PROMPTGRIMOIRE__DOCUMENTS__HELPER_SECONDS", "120");

/// A document on which work takes some tenths of a second, and megabytes.
fn heavy() -> (Vec<u8>, String) {
    let mut peer = Peer::new();
    for _ in 0..BLOCKS {
        peer.insert(0, "x");
    }
    (peer.whole(), peer.text())
}

async fn write_heavy(client: &Client, document: &str) -> String {
    let (update, text) = heavy();
    client.write(document, "tab-1", &update).await;
    client.write(document, "tab-1", &Peer::from_update(&update).push("!")).await;
    format!("{text}!")
}

/// The fields of `/proc/<pid>/stat` after the name: the state is the first, the parent the second.
fn stat(id: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

/// The children of a process.
fn children(parent: u32) -> Vec<u32> {
    let ids = fs::read_dir("/proc").expect("/proc is there").flatten();
    let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| stat(*id).is_some_and(|fields| fields[1] == parent.to_string())).collect()
}

/// Processor time that a process has used, in hundredths of a second.
fn ticks(id: u32) -> u64 {
    let fields = stat(id).unwrap_or_default();
    fields.iter().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

fn is_running(id: u32) -> bool {
    stat(id).is_some_and(|fields| fields[0] != "Z")
}

fn send(id: u32, signal: i32) {
    let id = i32::try_from(id).expect("process ids are small");
    // SAFETY: signals a child of the server that this test started, and that the server waits for.
    unsafe { libc::kill(id, signal) };
}

async fn quarantine(client: &Client) -> Vec<Value> {
    let list = client.get("/admin/quarantine").await.expect_json(200);
    list["documents"].as_array().expect("a list").clone()
}

async fn metric(client: &Client, line: &str) -> u64 {
    let text = client.get("/metrics").await.text();
    let value = text.lines().find_map(|there| there.strip_prefix(line));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("no {line} in:\n{text}"))
}

/// Asks for the past until that has struck the document out of service.
async fn strike_out(client: &Client, document: &str) {
    let past = format!("/docs/{document}/text?at=1");
    until("quarantine", async || {
        let answer = client.get(&past).await;
        (answer.status == 503 && answer.text().contains("quarantined")).then_some(())
    })
    .await;
}

async fn expect_quarantined(client: &Client, document: &str) {
    let update = Peer::new().insert(0, "more");
    let at = |rest: &str| format!("/docs/{document}{rest}");
    for answer in [
        client.get(&at("")).await,
        client.get(&at("/text")).await,
        client.get(&at("/json")).await,
        client.get(&at("/state")).await,
        client.get(&at("/updates")).await,
        client.get(&at("/history")).await,
        client.get(&at("/versions")).await,
        client.get(&at("/clients")).await,
        client.get(&at("/events")).await,
        client.update(document, "tab-9", &update).await,
        client.post(&at("/restore"), &json!({ "seq": 1 })).await,
        client.post(&at("/freeze"), &json!({})).await,
        client.post(&at("/clone"), &json!({ "to": "copy" })).await,
        client.put(&at("/awareness/tab-9"), &json!({})).await,
    ] {
        let problem = answer.expect_problem(503, "quarantined");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("/admin/quarantine")));
        assert_eq!(answer.header("retry-after"), None, "trying again does not help");
    }
}

/// Its export is whole: elsewhere it is the same document.
async fn expect_exported(client: &Client, document: &str, text: &str) {
    let archive = client.get(&format!("/docs/{document}/export")).await;
    assert_eq!(archive.status, 200);
    let elsewhere = Server::start().await;
    let imported = elsewhere.client.post_as("/import", "application/x-ndjson", archive.body.to_vec()).await;
    assert_eq!(imported.expect_json(200), json!({ "imported": 1, "skipped": [] }));
    assert_eq!(elsewhere.client.text(document).await, text);
}

#[tokio::test]
async fn a_document_that_runs_out_its_time_twice_is_quarantined_over_restarts_and_comes_back_whole() {
    let mut process = Process::start_with(&[("PROMPTGRIMOIRE__DOCUMENTS__HELPER_SECONDS", "0.001")]).await;
    let client = process.client.clone();
    let text = write_heavy(&client, "heavy").await;
    client.write("other", "tab-1", &Peer::new().insert(0, "well")).await;
    let mut stream = client.events("heavy", "tab-2").await;
    stream.sync().await;

    client.get("/docs/heavy/text?at=1").await.expect_problem(503, "unavailable");
    assert_eq!(client.text("heavy").await, text, "one failure is forgiven");
    client.get("/docs/heavy/state?at=1").await.expect_problem(503, "quarantined");
    assert_eq!(stream.event("closed").await.json()["code"], "unavailable");
    expect_quarantined(&client, "heavy").await;
    let listed = quarantine(&client).await;
    assert_eq!((listed.len(), &listed[0]["id"], &listed[0]["strikes"]), (1, &json!("heavy"), &json!(2)));
    assert!(listed[0]["reason"].as_str().is_some_and(|reason| reason.contains("0.001 s")), "{listed:?}");
    assert!(listed[0]["since"].is_string(), "{listed:?}");
    assert_eq!(metric(&client, "promptgrimoire_sandbox_jobs_total{outcome=\"timed_out\"}").await, 2);
    assert_eq!(metric(&client, "promptgrimoire_document_strikes_total").await, 2);
    assert_eq!(metric(&client, "promptgrimoire_documents_quarantined").await, 1);
    expect_exported(&client, "heavy", &text).await;
    assert_eq!(client.text("other").await, "well");
    client.write("other", "tab-1", &Peer::new().insert(0, "very ")).await;

    process.kill().await;
    let process = process.restart().await;
    let client = process.client.clone();
    expect_quarantined(&client, "heavy").await;
    assert_eq!(quarantine(&client).await, listed);
    assert_eq!(metric(&client, "promptgrimoire_documents_quarantined").await, 1);

    assert_eq!(client.delete("/admin/quarantine/heavy").await.status, 204);
    client.delete("/admin/quarantine/heavy").await.expect_problem(404, "not_found");
    assert_eq!(quarantine(&client).await, Vec::<Value>::new());
    assert_eq!(client.text("heavy").await, text);
    let state = client.state("heavy").await;
    client.write("heavy", "tab-1", &Peer::from_update(&state).insert(0, "again ")).await;

    strike_out(&client, "heavy").await;
    assert_eq!(client.delete("/docs/heavy").await.status, 204);
    client.write("heavy", "tab-1", &Peer::new().insert(0, "anew")).await;
    assert_eq!(client.text("heavy").await, "anew");
}

#[tokio::test]
async fn a_document_that_takes_more_memory_than_a_helper_has_harms_nobody_else() {
    let process =
        Process::start_with(&[PLENTY, ("PROMPTGRIMOIRE__DOCUMENTS__HELPER_MEMORY_MIB", "64")]).await;
    let client = &process.client;
    client.write("small", "tab-1", &Peer::new().insert(0, "small")).await;
    let past = client.get("/docs/small/text?at=1").await;
    assert_eq!((past.status, past.text()), (200, "small".into()));
    // As it grows, a snapshot of it is due now and then; nobody needs to ask for anything.
    let (mut peer, mut text) = (Peer::new(), String::new());
    let refused = loop {
        let answer = client.update("huge", "tab-1", &peer.push(&"x".repeat(1_000_000))).await;
        if answer.status != 200 {
            break answer;
        }
        text = peer.text();
        assert!(text.len() < 60_000_000, "it still fits");
    };
    refused.expect_problem(503, "quarantined");
    let listed = quarantine(client).await;
    assert!(listed[0]["reason"].as_str().is_some_and(|reason| reason.contains("memory")), "{listed:?}");
    assert_eq!(metric(client, "promptgrimoire_sandbox_jobs_total{outcome=\"died\"}").await, 2);
    expect_exported(client, "huge", &text).await;
    let past = client.get("/docs/small/text?at=1").await;
    assert_eq!((past.status, past.text()), (200, "small".into()));
}

#[tokio::test]
async fn a_helper_that_is_killed_in_the_middle_of_a_job_strikes_its_document_only() {
    let process = Process::start_with(&[PLENTY]).await;
    let client = process.client.clone();
    let text = write_heavy(&client, "heavy").await;
    client.write("other", "tab-1", &Peer::new().insert(0, "well")).await;
    until("second strike", async || {
        let asking = client.clone();
        let asked = tokio::spawn(async move { asking.get("/docs/heavy/text?at=1").await });
        let before: Vec<(u32, u64)> = children(process.id()).into_iter().map(|id| (id, ticks(id))).collect();
        let busy = |id: u32| {
            let used = before.iter().find(|(known, _)| *known == id).map_or(0, |(_, used)| *used);
            ticks(id) > used + 2
        };
        // A job that was quicker than this looks is asked for again.
        while !asked.is_finished() {
            children(process.id()).into_iter().filter(|id| busy(*id)).for_each(|id| send(id, libc::SIGKILL));
            tokio::task::yield_now().await;
        }
        let answer = asked.await.expect("it is answered");
        answer.text().contains("quarantined").then_some(())
    })
    .await;
    assert_eq!(client.text("other").await, "well");
    let past = client.get("/docs/other/text?at=1").await;
    assert_eq!((past.status, past.text()), (200, "well".into()));
    let listed = quarantine(&client).await;
    assert_eq!(listed.len(), 1);
    assert!(listed[0]["reason"].as_str().is_some_and(|reason| reason.contains("SIGKILL")), "{listed:?}");
    assert_eq!(client.delete("/admin/quarantine/heavy").await.status, 204);
    assert_eq!(client.text("heavy").await, text);
}

#[tokio::test]
async fn a_helper_that_died_while_it_waited_is_replaced_and_nobody_is_struck() {
    let process = Process::start_with(&[PLENTY]).await;
    let client = &process.client;
    client.write("a", "tab-1", &Peer::new().insert(0, "well")).await;
    for _ in 0..5 {
        assert_eq!(client.get("/docs/a/text?at=1").await.text(), "well");
        let helpers = children(process.id());
        assert_eq!(helpers.len(), 1, "one waits, and those before were waited for");
        // Killed while it is stopped it dies with a job in its pipe.
        send(helpers[0], libc::SIGSTOP);
        let asking = client.clone();
        let asked = tokio::spawn(async move { asking.get("/docs/a/text?at=1").await });
        tokio::task::yield_now().await;
        send(helpers[0], libc::SIGKILL);
        assert_eq!(asked.await.expect("it is answered").text(), "well");
    }
    assert_eq!(metric(client, "promptgrimoire_document_strikes_total").await, 0);
}

#[tokio::test]
async fn a_helper_that_stands_still_is_killed_at_the_deadline() {
    let process = Process::start_with(&[("PROMPTGRIMOIRE__DOCUMENTS__HELPER_SECONDS", "2")]).await;
    let client = &process.client;
    client.write("a", "tab-1", &Peer::new().insert(0, "well")).await;
    assert_eq!(client.get("/docs/a/text?at=1").await.text(), "well");
    let helper = children(process.id())[0];
    send(helper, libc::SIGSTOP);
    client.get("/docs/a/text?at=1").await.expect_problem(503, "unavailable");
    assert_eq!(metric(client, "promptgrimoire_sandbox_jobs_total{outcome=\"timed_out\"}").await, 1);
    assert!(!is_running(helper));
    assert_eq!(client.get("/docs/a/text?at=1").await.text(), "well");
    assert!(!children(process.id()).contains(&helper), "nor is it a zombie");
}

#[tokio::test]
async fn helpers_end_with_the_server_however_that_ends() {
    for is_killed in [true, false] {
        let mut process = Process::start_with(&[PLENTY]).await;
        write_heavy(&process.client, "heavy").await;
        assert_eq!(process.client.get("/docs/heavy/text?at=2").await.status, 200);
        let asking = process.client.clone();
        // In the middle of a job too.
        let asked = tokio::spawn(async move {
            let request = asking.request(reqwest::Method::GET, "/docs/heavy/text?at=1");
            // The server may be gone before it answers.
            let _ = request.send().await;
        });
        let helpers = until("helper", async || {
            let helpers = children(process.id());
            (!helpers.is_empty()).then_some(helpers)
        })
        .await;
        if is_killed {
            process.kill().await;
        } else {
            process.terminate();
            process.ended().await;
        }
        until("end of all helpers", async || (!helpers.iter().any(|id| is_running(*id))).then_some(())).await;
        within_deadline("end of the request", asked).await.expect("it does not panic");
    }
}

/// The failure: whoever replaces the program puts all documents out of service.
#[tokio::test]
async fn without_helpers_to_be_had_documents_live_on_and_are_not_struck() {
    // No program fits into so little.
    let few = ("PROMPTGRIMOIRE__DOCUMENTS__HELPER_MEMORY_MIB", "1");
    let process = Process::start_with(&[few, ("PROMPTGRIMOIRE__HISTORY__KEEP_UPDATES", "1")]).await;
    let client = &process.client;
    let mut peer = Peer::new();
    for _ in 0..40 {
        client.write("a", "tab-1", &peer.push("x")).await;
        client.get("/docs/a/text?at=1").await.expect_problem(503, "unavailable");
    }
    assert!(metric(client, "promptgrimoire_document_compactions_total{outcome=\"failed\"}").await >= 2);
    assert_eq!(metric(client, "promptgrimoire_document_strikes_total").await, 0);
    assert_eq!(quarantine(client).await, Vec::<Value>::new());
    assert_eq!(client.log("a").await.len(), 40, "without a snapshot nothing of the log goes");
    assert_eq!(client.text("a").await, peer.text());
}

/// A helper has nothing of the server's: no files, no environment.
#[tokio::test]
async fn a_helper_has_limits_and_nothing_of_the_servers() {
    let process = Process::start_with(&[("PROMPTGRIMOIRE__DOCUMENTS__HELPER_MEMORY_MIB", "300")]).await;
    process.client.write("a", "tab-1", &Peer::new().insert(0, "well")).await;
    assert_eq!(process.client.get("/docs/a/text?at=1").await.text(), "well");
    let helper = children(process.id())[0];
    let read = |name: &str| fs::read(format!("/proc/{helper}/{name}")).expect("it runs");
    let environment = String::from_utf8(read("environ")).expect("ASCII");
    assert_eq!(environment.split_terminator('\0').count(), 1, "what its allocator is told: {environment}");
    let limits = String::from_utf8(read("limits")).expect("ASCII");
    let hard = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("such a limit");
        line.split_whitespace().nth(1).expect("a hard limit").to_owned()
    };
    assert_eq!(hard("Max address space"), (300 << 20).to_string());
    assert_eq!((hard("Max core file size"), hard("Max open files")), ("0".into(), "8".into()));
    for file in fs::read_dir(format!("/proc/{helper}/fd")).expect("it runs").flatten() {
        let target = fs::read_link(file.path()).expect("a link");
        let is_the_servers =
            target.starts_with(process.data_directory()) || target.to_string_lossy().starts_with("socket:");
        assert!(!is_the_servers, "{target:?}");
    }
}

#[tokio::test]
async fn what_an_archive_does_to_a_helper_strikes_nobody() {
    let source = Server::start().await;
    write_heavy(&source.client, "heavy").await;
    let archive = source.client.get("/docs/heavy/export").await.body.to_vec();
    let process = Process::start_with(&[("PROMPTGRIMOIRE__DOCUMENTS__HELPER_SECONDS", "0.001")]).await;
    let client = &process.client;
    let answer = client.post_as("/import", "application/x-ndjson", archive).await.expect_json(200);
    assert_eq!((&answer["imported"], &answer["skipped"][0]["document"]), (&json!(0), &json!("heavy")));
    client.get("/docs/heavy").await.expect_problem(404, "not_found");
    assert_eq!(metric(client, "promptgrimoire_document_strikes_total").await, 0);
}

#[tokio::test]
async fn the_command_import_has_archives_checked_by_a_helper_too() {
    let source = Server::start().await;
    source.client.write("a", "tab-1", &Peer::new().insert(0, "well")).await;
    let archive = source.client.get("/docs/a/export").await.body;
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    fs::write(directory.path().join("archive"), archive).expect("there is room");
    for (mib, succeeds) in [("1", false), ("300", true)] {
        let memory = ("PROMPTGRIMOIRE__DOCUMENTS__HELPER_MEMORY_MIB", mib);
        let output = run_to_its_end(directory.path(), ["import", "archive"], &[memory]).await;
        assert_eq!(output.status.success(), succeeds, "{output:?}");
    }
}

/// Old snapshots go with the log before them; from then on what was deleted is nowhere.
#[tokio::test]
async fn deleted_text_is_gone_from_the_store_once_history_lets_it_go() {
    let process = Process::start_with(&[
        PLENTY,
        ("PROMPTGRIMOIRE__HISTORY__COLLECT_DELETED", "true"),
        ("PROMPTGRIMOIRE__HISTORY__KEEP_UPDATES", "1"),
    ])
    .await;
    let client = &process.client;
    let mut peer = Peer::new();
    client.write("a", "tab-1", &peer.insert(0, "kept, SECRET, ")).await;
    let late = Peer::from_update(&client.state("a").await);
    client.write("a", "tab-1", &peer.delete(4, 8)).await;
    let mut secret_stays = true;
    for round in 0..200 {
        client.write("a", "tab-1", &peer.push(&format!("{round} "))).await;
        let archive = client.get("/docs/a/export").await.text();
        secret_stays =
            updates_of(&archive).iter().any(|update| update.windows(6).any(|part| part == b"SECRET"));
        if !secret_stays {
            break;
        }
    }
    assert!(!secret_stays, "it is neither in a snapshot nor in the log");
    assert_eq!(client.text("a").await, peer.text());

    // A client that has been away still has it, and points there.
    let mut late = late;
    let update = late.insert(9, "late");
    client.write("a", "tab-2", &update).await;
    peer.apply(&update);
    late.apply(&client.state("a").await);
    assert_eq!(client.text("a").await, peer.text());
    assert_eq!(late.text(), peer.text());

    let mut process = process;
    process.kill().await;
    let process = process.restart().await;
    assert_eq!(process.client.text("a").await, peer.text());
    assert!(!process.client.state("a").await.windows(6).any(|part| part == b"SECRET"));
}

/// The bytes of every update in an archive.
fn updates_of(archive: &str) -> Vec<Vec<u8>> {
    let lines = archive.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.filter(|line| line["update"].is_string()).map(|line| bytes_of(&line["update"])).collect()
}

#[tokio::test]
async fn a_past_that_a_helper_rebuilds_is_the_past() {
    let process = Process::start_with(&[PLENTY, ("PROMPTGRIMOIRE__HISTORY__COLLECT_DELETED", "true")]).await;
    let server = Server::start().await;
    let mut peer = Peer::new();
    let updates = [peer.insert(0, "one two 😀"), peer.embolden(0, 3), peer.delete(4, 4), peer.push("three")];
    for client in [&process.client, &server.client] {
        for update in &updates {
            client.write("a", "tab-1", update).await;
        }
    }
    // In this process and in a helper: the same.
    for at in 1..=4 {
        for path in ["text", "json", "state"] {
            let path = format!("/docs/a/{path}?at={at}");
            let (mine, theirs) = (server.client.get(&path).await, process.client.get(&path).await);
            let without_epoch = |answer: &crate::support::Answer| match serde_json::from_slice(&answer.body) {
                Ok(Value::Object(mut fields)) => {
                    fields.remove("epoch");
                    json!(fields)
                }
                _ => json!(answer.text()),
            };
            assert_eq!((mine.status, without_epoch(&mine)), (200, without_epoch(&theirs)), "{path}");
        }
    }
    let base = json!({ "base": "1", "ops": [{ "insert": "zero ", "at": 0 }], "client_id": "agent" });
    let edit = process.client.request(reqwest::Method::PATCH, "/docs/a/text").json(&base);
    assert_eq!(process.client.send(edit).await.expect_json(200)["seq"], 5);
    assert!(process.client.text("a").await.starts_with("zero one "));
    process.client.post("/docs/a/restore", &json!({ "seq": 1 })).await.expect_json(200);
    assert_eq!(process.client.text("a").await, "one two 😀");
    let state = process.client.get("/docs/a/state?at=2").await.expect_json(200);
    assert_eq!(state["update"], base64(&bytes_of(&state["update"])));
}
