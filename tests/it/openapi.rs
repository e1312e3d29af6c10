//! The description of the server, and whether the server keeps to it.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::Value;

use crate::support::{Peer, Server};

async fn described(server: &Server) -> Value {
    server.client.get("/openapi.json").await.expect_json(200)
}

/// A path of the document with something that exists in each place.
fn filled_in(path: &str) -> String {
    path.replace("{doc}", "a")
        .replace("{client_id}", "tab-1")
        .replace("{name}", "draft")
        .replace("{file}", "demo/style.css")
}

#[tokio::test]
async fn the_description_is_openapi_of_this_version_and_is_not_sent_twice() {
    let server = Server::start().await;
    let document = described(&server).await;
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let answer = server.client.get("/openapi.json").await;
    let tag = answer.header("etag").expect("a tag").to_owned();
    let again = server.client.get_with("/openapi.json", "if-none-match", &tag).await;
    assert_eq!((again.status, again.body.len()), (304, 0));
    let head = server.client.send(server.client.request(Method::HEAD, "/openapi.json")).await;
    assert_eq!((head.status, head.header("etag"), head.body.len()), (200, Some(tag.as_str()), 0));
}

/// With the test beside the URL table, which compares that with the document: table, document and handlers agree.
#[tokio::test]
async fn every_address_takes_the_methods_that_are_described_and_no_other() {
    let server = Server::start().await;
    let document = described(&server).await;
    for (path, item) in document["paths"].as_object().expect("paths") {
        let has = |method: &str| item.get(method.to_lowercase()).is_some();
        let methods = ["DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"];
        let expected: BTreeSet<&str> = methods.into_iter().filter(|method| has(method)).collect();
        let streams = path.ends_with("/events");
        for method in methods.into_iter().chain(["OPTIONS", "PURGE"]) {
            // An open stream has no end to wait for; `HEAD` asks the same.
            if streams && method == "GET" {
                continue;
            }
            // Anew each time: one may be frozen by what was asked before, or gone.
            server.client.delete("/docs/a").await;
            server.client.write("a", "tab-1", &Peer::new().insert(0, "a")).await;
            let asked = Method::from_bytes(method.as_bytes()).expect("a method");
            let query = if path == "/events" { "?doc=a" } else { "" };
            let request = server.client.request(asked, &format!("{}{query}", filled_in(path)));
            let answer = server.client.send(request).await;
            if expected.contains(method) {
                assert_ne!(answer.status, 405, "{method} {path}");
                let documented = &item[method.to_lowercase()]["responses"];
                assert!(documented.get(answer.status.to_string()).is_some(), "{method} {path}: {answer:?}");
            } else {
                assert_eq!(answer.status, 405, "{method} {path}");
                if method != "HEAD" {
                    answer.expect_problem(405, "method_not_allowed");
                }
                let allow: BTreeSet<&str> = answer.header("allow").expect("`Allow`").split(", ").collect();
                assert_eq!(allow, expected, "{method} {path}");
            }
        }
    }
}
