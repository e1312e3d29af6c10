//! What an operator's monitoring is told.

use std::collections::HashMap;

use reqwest::Method;
use serde_json::json;

use crate::support::{Client, Frame, Peer, Raw, Server, base64, until};

/// The samples of the text, by name and labels as they stand.
///
/// # Panics
/// If it is not in the format: <https://prometheus.io/docs/instrumenting/exposition_formats/>
fn parse(text: &str) -> HashMap<String, f64> {
    let mut samples = HashMap::new();
    let mut typed: HashMap<&str, &str> = HashMap::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').expect("a name and a type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(typed.insert(name, kind), None, "declared twice: {line}");
        } else if let Some(help) = line.strip_prefix("# HELP ") {
            assert!(help.contains(' '), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line:?}"));
            let name = series.split('{').next().expect("a first piece");
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let base = base.filter(|base| typed.get(base) == Some(&"histogram")).unwrap_or(name);
            assert!(typed.contains_key(base), "no type before {line:?}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
            let value: f64 = value.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(samples.insert(series.to_owned(), value), None, "twice: {line}");
        }
    }
    samples
}

async fn metrics(client: &Client) -> HashMap<String, f64> {
    let answer = client.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    parse(&answer.text())
}

/// A sample, by its name without the prefix; what has not happened may have none.
fn sample(samples: &HashMap<String, f64>, series: &str) -> f64 {
    samples.get(&format!("promptgrimoire_{series}")).copied().unwrap_or_default()
}

#[tokio::test]
async fn what_happens_to_documents_is_counted() {
    for server in [Server::start().await, Server::start_on_disk_with(|_| {}).await] {
        let client = &server.client;
        let before = metrics(client).await;
        let mut peer = Peer::new();
        let (first, second) = (peer.insert(0, "one"), peer.insert(3, " two"));
        client.update("a", "tab-1", &second).await.expect_problem(409, "missing_updates");
        client.write("a", "tab-1", &first).await;
        client.write("a", "tab-1", &second).await;
        assert_eq!(client.update("a", "tab-1", &second).await.expect_json(200)["changed"], false);
        client.post("/docs/a/updates", &json!({ "update": "?" })).await.expect_problem(400, "invalid_base64");

        let after = metrics(client).await;
        let moved = |series: &str| sample(&after, series) - sample(&before, series);
        assert_eq!(moved("document_changes_total{outcome=\"logged\"}"), 2.0);
        assert_eq!(moved("document_changes_total{outcome=\"unchanged\"}"), 1.0);
        assert_eq!(moved("document_changes_total{outcome=\"refused\"}"), 1.0);
        assert_eq!(moved("document_update_bytes_total"), (first.len() + second.len()) as f64);
        assert_eq!(moved("document_append_seconds_count"), 2.0);
        assert_eq!(moved("documents_open"), 1.0);
        assert!(moved("documents_resident_bytes") > 0.0);
        let posts = |class: &str| {
            format!(
                "http_requests_total{{route=\"/docs/{{doc}}/updates\",method=\"POST\",status=\"{class}\"}}"
            )
        };
        assert_eq!((moved(&posts("2xx")), moved(&posts("4xx"))), (3.0, 2.0));
        let refused =
            |code: &str| format!("http_problems_total{{route=\"/docs/{{doc}}/updates\",code=\"{code}\"}}");
        assert_eq!((moved(&refused("missing_updates")), moved(&refused("invalid_base64"))), (1.0, 1.0));
        assert_eq!(
            moved("http_request_duration_seconds_count{route=\"/docs/{doc}/updates\"}"),
            5.0,
            "every answer has taken some time"
        );
        assert_eq!(sample(&after, "store_writable"), 1.0);
        assert!(after["process_resident_memory_bytes"] > 1e6);
        assert_eq!(
            after[&format!("promptgrimoire_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))],
            1.0
        );
    }
}

#[tokio::test]
async fn a_store_on_disk_counts_its_commits_and_a_document_its_loads_and_snapshots() {
    let server = Server::start_on_disk_with(|settings| {
        settings.history.keep_updates = 32;
        settings.documents.idle_seconds = 0;
    })
    .await;
    let client = &server.client;
    let mut peer = Peer::new();
    for _ in 0..20 {
        client.write("a", "tab-1", &peer.insert(0, "x")).await;
    }
    until("snapshot", async || {
        let samples = metrics(client).await;
        (sample(&samples, "document_compactions_total{outcome=\"written\"}") > 0.0).then_some(())
    })
    .await;
    until("eviction", async || (sample(&metrics(client).await, "documents_open") == 0.0).then_some(())).await;
    let before = metrics(client).await;
    assert_eq!(client.text("a").await, "x".repeat(20));
    let after = metrics(client).await;
    assert_eq!(
        sample(&after, "document_load_seconds_count") - sample(&before, "document_load_seconds_count"),
        1.0
    );
    let commits = sample(&after, "store_commit_seconds_count");
    assert!(commits >= 20.0, "{commits}");
    assert!(sample(&after, "store_commit_changes_sum") >= commits);
}

#[tokio::test]
async fn streams_and_connections_are_counted_while_they_are_open() {
    let server = Server::start().await;
    let client = &server.client;
    assert_eq!(sample(&metrics(client).await, "streams_open"), 0.0);
    let mut stream = client.events("a", "reader").await;
    stream.sync().await;
    client.write("a", "writer", &Peer::new().insert(0, "one")).await;
    assert!(matches!(stream.next().await, Frame::Event(_)));
    let _raw = Raw::connect(server.address).await;

    let samples = until("connection", async || {
        let samples = metrics(client).await;
        (sample(&samples, "connections_open") >= 3.0).then_some(samples)
    })
    .await;
    assert_eq!(sample(&samples, "streams_open"), 1.0);
    assert_eq!(sample(&samples, "stream_frames_total"), 2.0, "a sync and an update");
    assert_eq!(sample(&samples, "stream_lags_total"), 0.0);
    drop(stream);
    until("end of the stream", async || {
        (sample(&metrics(client).await, "streams_open") == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn open_metrics_are_answered_to_those_who_ask_for_them() {
    let server = Server::start().await;
    let accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
    let answer = server.client.get_with("/metrics", "accept", accept).await;
    let content_type = answer.header("content-type").expect("a type");
    assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(answer.text().ends_with("# EOF\n"));
    let none = server.client.get_with("/metrics", "accept", "text/html").await;
    none.expect_problem(406, "not_acceptable");
}

/// The failure: an operator's time series with students' names in them, and one series for each document.
#[tokio::test]
async fn nothing_that_a_caller_sent_is_in_the_metrics() {
    let server = Server::start().await;
    let client = &server.client;
    let mut stream = client.stream("/docs/secret-doc/events?client_id=secret-tab&label=secret-label").await;
    stream.sync().await;
    client.write("secret-doc", "secret-tab", &Peer::new().insert(0, "secret-text")).await;
    client.put("/docs/secret-doc/awareness/secret-tab", &json!({ "name": "secret-name" })).await;
    client.get("/docs/secret-doc/state?token=secret-token").await;
    client.get("/secret-page").await.expect_problem(404, "not_found");
    client.get("/docs/secret doc/state").await.expect_problem(400, "invalid_document_id");
    client.post("/docs/secret-doc/versions", &json!({ "name": "secret-version" })).await;
    let request = client.request(Method::from_bytes(b"SECRET").expect("a method"), "/docs/secret-doc");
    client.send(request).await.expect_problem(405, "method_not_allowed");

    let text = client.get("/metrics").await.text();
    assert!(!text.to_lowercase().contains("secret"), "{text}");
    assert!(!text.contains(&base64(b"secret")[..6]), "{text}");
    assert!(text.contains("method=\"other\""), "{text}");
}
