//! Secrets stay where they are: not in the log, at whatever level, not in a metric, not on standard output.
//!
//! That no test of the suite has a server log one is checked when its server ends (`support::secrets`); here they all
//! come at once.

use promptgrimoire::auth::access::Access;
use reqwest::Method;
use serde_json::json;

use crate::support::process::run_to_its_end;
use crate::support::tokens::{SECRET, Token};
use crate::support::{Client, Peer, Process, base64};

/// Stands in everything that is nobody else's business.
const MARKER: &str = "NobodyElsesBusiness";
const ALL: &[(&str, Access)] = &[("*", Access::Admin)];

fn variables<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let usual = [
        ("PROMPTGRIMOIRE__AUTH__MODE", "jwt"),
        ("PROMPTGRIMOIRE__AUTH__ALGORITHM", "HS256"),
        ("PROMPTGRIMOIRE__AUTH__KEY", SECRET),
        ("PROMPTGRIMOIRE__LOG__LEVEL", "trace"),
    ];
    usual.into_iter().chain(more.iter().copied()).collect()
}

/// What secrets look like on their way: as they are, and in base64 wherever they begin in it.
fn forms_of(secret: &str) -> Vec<String> {
    let shifted = (0..3).map(|bytes| {
        let encoded = base64(&[&vec![b' '; bytes], secret.as_bytes()].concat());
        // The characters at both ends are made of neighbours too.
        encoded[4..encoded.len() - 4].to_owned()
    });
    std::iter::once(secret.to_owned()).chain(shifted).collect()
}

#[tokio::test]
async fn secrets_of_every_kind_are_neither_logged_nor_counted() {
    for format in ["text", "json"] {
        let mut process = Process::start_with(&variables(&[("PROMPTGRIMOIRE__LOG__FORMAT", format)])).await;
        let token = Token::of("ada", ALL).signed();
        let forged = Token::of("ada", ALL).signed_with("another secret, which has over thirty-two bytes");
        let ada = process.client.with_token(&token);
        use_all_of_it(&ada, &process.client, &token).await;
        // Whoever is refused has secrets too.
        for token in [&forged, &format!("{MARKER}.{MARKER}.{MARKER}"), MARKER] {
            let client = process.client.with_token(token);
            client.get("/docs/a/state").await.expect_problem(401, "unauthorized");
        }
        let http2 = Client::with_http2(process.address);
        let request = http2.request(Method::POST, &format!("/docs/a/updates?unknown={MARKER}"));
        let request = request.json(&json!({ "update": base64(&Peer::new().push(MARKER)) }));
        http2.send(request.bearer_auth(&token).header("cookie", MARKER)).await.expect_json(200);
        let metrics = ada.get("/metrics").await.text();
        process.terminate();
        process.ended().await;
        let output = process.rest_of_output().await;
        let log = process.logged();
        assert!(log.contains("stopped"), "something is logged: {log}");
        let mut secrets = forms_of(MARKER);
        secrets.extend([&token, &forged].iter().flat_map(|token| token.split('.').map(str::to_owned)));
        secrets.extend(forms_of(SECRET));
        for (place, text) in [("log", log), ("metrics", metrics), ("output", output)] {
            for line in text.lines() {
                let secret = secrets.iter().find(|secret| line.contains(*secret));
                assert_eq!(secret, None, "in the {place}: {line}");
            }
        }
    }
}

/// Puts the marker wherever a request has room for one.
async fn use_all_of_it(ada: &Client, anybody: &Client, token: &str) {
    let query = format!("client_id=tab-1&label={MARKER}&unknown={MARKER}");
    let mut stream = ada.stream(&format!("/docs/a/events?{query}")).await;
    stream.sync().await;
    let update = Peer::new().insert(0, MARKER);
    ada.write("a", "tab-2", &update).await;
    ada.update("a", "tab-2", MARKER.as_bytes()).await.expect_problem(422, "invalid_update");
    ada.post_bytes("/docs/a/updates", MARKER).await.expect_problem(422, "invalid_update");
    ada.post_as("/docs/a/updates", "application/json", MARKER).await.expect_problem(400, "invalid_json");
    ada.post("/docs/a/updates", &json!({ "update": MARKER })).await;
    ada.get(&format!("/docs/a/state?sv={MARKER}&token={MARKER}")).await;
    ada.stream(&format!("/docs/a/events?ticket={MARKER}")).await.sync().await;
    anybody.get(&format!("/docs/a/events?ticket={MARKER}")).await.expect_problem(401, "unauthorized");
    assert_eq!(ada.put("/docs/a/awareness/tab-1", &json!({ "name": MARKER })).await.status, 204);
    let put = ada.request(Method::PUT, "/docs/a/text").header("idempotency-key", MARKER).body(MARKER);
    ada.send(put).await;
    ada.put("/docs/b", &json!({ "text": MARKER })).await.expect_json(201);
    for cookie in [format!("token={token}"), format!("token={MARKER}; other={MARKER}")] {
        anybody.get_with("/docs/a/state", "cookie", &cookie).await;
    }
    let twice = anybody.request(Method::GET, "/docs/a/state").basic_auth(MARKER, Some(MARKER));
    anybody.send(twice).await.expect_problem(401, "unauthorized");
    let ticket = ada.post("/tickets", &json!({})).await.expect_json(200);
    let ticket = ticket["ticket"].as_str().expect("a ticket");
    anybody.stream(&format!("/docs/a/events?ticket={ticket}")).await.sync().await;
    assert_eq!(stream.event("update").await.update(), update);
}

#[tokio::test]
async fn a_key_is_not_shown_by_a_server_that_does_not_start() {
    let directory = tempfile::TempDir::new().expect("a directory can be made");
    let no_key = format!("{MARKER}, too short");
    let short = [("PROMPTGRIMOIRE__AUTH__KEY", no_key.as_str())];
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{MARKER}{MARKER}\n-----END PRIVATE KEY-----");
    let pem = [("PROMPTGRIMOIRE__AUTH__KEY", pem.as_str()), ("PROMPTGRIMOIRE__AUTH__ALGORITHM", "EdDSA")];
    let marked = format!("{MARKER}{SECRET}");
    let elsewhere =
        [("PROMPTGRIMOIRE__AUTH__KEY", marked.as_str()), ("PROMPTGRIMOIRE__LIMITS__MAX_STREAMS", "none")];
    for wrong in [&short[..], &pem, &elsewhere] {
        let output = run_to_its_end(directory.path(), [] as [&str; 0], &variables(wrong)).await;
        assert!(!output.status.success());
        for text in [output.stdout, output.stderr] {
            let text = String::from_utf8_lossy(&text);
            assert!(!text.contains(MARKER), "{text}");
        }
    }
}
