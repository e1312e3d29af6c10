//! Ids, base64, JSON, media types, methods and addresses.

use reqwest::Method;
use serde_json::json;

use crate::support::{Client, Peer, Raw, Server, base64};

#[tokio::test]
async fn a_percent_encoded_id_names_the_same_document() {
    let server = Server::start().await;
    server.client.write("Ab.c~d", "tab-1", &Peer::new().insert(0, "one")).await;

    assert_eq!(server.client.text("%41b%2Ec%7ed").await, "one");
    let listed = server.client.get("/docs").await.expect_json(200);
    assert_eq!(listed["documents"][0]["id"], "Ab.c~d");
    server.client.get("/docs/ab.c~d").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn every_character_that_a_document_id_may_have_is_taken() {
    let server = Server::start().await;
    let longest = format!("Z{}", "a".repeat(127));
    for id in ["Room-7.a_b~c:d@e", "0", longest.as_str()] {
        let text = format!("of {id}");
        server.client.write(id, "tab-1", &Peer::new().insert(0, &text)).await;
        assert_eq!(server.client.text(id).await, text);
    }
}

#[tokio::test]
async fn an_id_that_could_leave_its_place_is_refused_on_every_route() {
    let server = Server::start().await;
    let too_long = "a".repeat(129);
    let ids = [
        "..", ".", "%2e%2e", "%2E", "-a", "_a", "~a", "a%2Fb", "a%252Fb", "a%5Cb", "a%00", "a%0Ab", "a%0D",
        "a%20b", "a+b", "%C3%A9", "a%ff", "a%", "a%4", "a%zz", "a$b", "a%3Fb", "a%23", &too_long,
    ];
    let routes = [
        ("GET", "/updates"),
        ("POST", "/updates"),
        ("GET", "/state"),
        ("POST", "/state"),
        ("GET", "/events"),
        ("GET", "/text"),
        ("GET", "/clients"),
        ("POST", "/awareness"),
        ("PUT", "/awareness/tab-1"),
        ("GET", ""),
        ("DELETE", ""),
    ];
    // A bare socket, since clients tidy addresses up.
    let mut raw = Raw::connect(server.address).await;
    for id in ids {
        for (method, rest) in routes {
            raw.send(format!(
                "{method} /docs/{id}{rest} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}"
            ))
            .await;
            let answer = raw.answer().await;
            assert_eq!(answer.status, 400, "{method} {id}{rest}: {}", answer.text());
            answer.expect_problem(400, "invalid_document_id");
        }
    }
    let listed = server.client.get("/docs").await.expect_json(200);
    assert_eq!(listed["documents"], json!([]));
}

#[tokio::test]
async fn a_bad_client_id_is_refused_wherever_it_stands() {
    let server = Server::start().await;
    let client = &server.client;
    let update = base64(&Peer::new().insert(0, "a"));
    let too_long = "a".repeat(65);
    for id in ["", "-a", "a b", "a\nb", "a\revent: x", "a/b", "é", "a\0", &too_long] {
        let body = json!({ "update": update, "client_id": id });
        client.post("/docs/a/updates", &body).await.expect_problem(400, "invalid_client_id");
        client.post("/docs/a/awareness", &body).await.expect_problem(400, "invalid_client_id");
        let query: String = id.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let stream = client.get(&format!("/docs/a/events?client_id={query}")).await;
        stream.expect_problem(400, "invalid_client_id");
        let raw = client.post_bytes(&format!("/docs/a/updates?client_id={query}"), [0, 0]).await;
        raw.expect_problem(400, "invalid_client_id");
        if !id.is_empty() {
            let put = client.put(&format!("/docs/a/awareness/{query}"), &json!({})).await;
            put.expect_problem(400, "invalid_client_id");
        }
    }
    client.get("/docs/a").await.expect_problem(404, "not_found");
    let longest = "a".repeat(64);
    assert_eq!(client.update("a", &longest, &Peer::new().insert(0, "a")).await.status, 200);
}

#[tokio::test]
async fn base64_is_read_strictly() {
    let server = Server::start().await;
    let post = async |text: &str| server.client.post("/docs/a/updates", &json!({ "update": text })).await;
    for good in ["AAA=", "AAA"] {
        assert_eq!(post(good).await.expect_json(200)["changed"], false, "{good}");
    }
    let bad = [
        "AAA= ", " AAA=", "AA A=", "AAA=\n", "AAA==", "AA=", "AAB=", "AAA=AAA=", "AA-_", "A", "====", "é",
        "AA\0A",
    ];
    for text in bad {
        post(text).await.expect_problem(400, "invalid_base64");
    }
    // Standard only, since what looks like it must mean one thing.
    let stream = server.client.get("/docs/a/events?sv=AAA").await;
    stream.expect_problem(400, "invalid_state_vector");
}

#[tokio::test]
async fn a_query_takes_both_alphabets_and_a_plus_in_sv_is_a_plus() {
    let server = Server::start().await;
    let client = &server.client;
    // A number whose encoding needs a plus and a slash: 0xfb is "+" at a boundary.
    let mut peer = Peer::numbered(0x0b_ef_be_fb);
    client.write("a", "tab-1", &peer.insert(0, "abc")).await;
    let vector = loop {
        let vector = base64(&peer.state_vector());
        if vector.contains('+') || vector.contains('/') {
            break vector;
        }
        client.write("a", "tab-1", &peer.push("x")).await;
    };
    let url_safe = vector.replace('+', "-").replace('/', "_");
    let unpadded = url_safe.trim_end_matches('=');
    let escaped = vector.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    for sv in [vector.as_str(), &url_safe, unpadded, &escaped] {
        let state = client.get(&format!("/docs/a/state?sv={sv}")).await.expect_json(200);
        assert_eq!(state["update"], "AAA=", "{sv}");
        let mut stream = client.stream(&format!("/docs/a/events?sv={sv}")).await;
        assert_eq!(stream.sync().await.json()["update"], "AAA=", "{sv}");
    }
    for bad in ["AA%20A=", "%0AAA=", "A", "AAA==", "-/AA"] {
        for path in ["state", "events"] {
            let answer = client.get(&format!("/docs/a/{path}?sv={bad}")).await;
            answer.expect_problem(400, "invalid_base64");
        }
    }
    client
        .post("/docs/a/state", &json!({ "sv": url_safe.replace(['-', '_'], "-") + "-_-_" }))
        .await
        .expect_problem(400, "invalid_base64");
}

#[tokio::test]
async fn what_decodes_and_is_no_state_vector_is_refused() {
    let server = Server::start().await;
    let client = &server.client;
    client.write("a", "tab-1", &Peer::new().insert(0, "a")).await;
    // Nothing, too few entries, trailing bytes, and a count that would allocate half a gigabyte.
    let bad: [&[u8]; 4] = [&[], &[1], &[0, 0], &[0x80, 0xc6, 0x86, 0x8f, 0x01]];
    for vector in bad {
        let sv = base64(vector);
        for path in ["state", "events"] {
            let answer = client.get(&format!("/docs/a/{path}?sv={sv}")).await;
            answer.expect_problem(400, "invalid_state_vector");
        }
        client.post("/docs/a/state", &json!({ "sv": sv })).await.expect_problem(400, "invalid_state_vector");
        client.post_bytes("/docs/a/state", vector).await.expect_problem(400, "invalid_state_vector");
    }
}

#[tokio::test]
async fn json_of_another_shape_is_refused_and_unknown_fields_are_not() {
    let server = Server::start().await;
    let post = async |body: &str| server.client.post_as("/docs/a/updates", "application/json", body).await;
    let bad = [
        "",
        "null",
        "[]",
        r#"["AAA="]"#,
        "\"AAA=\"",
        "{",
        r#"{"update":"AAA="} x"#,
        "{}",
        r#"{"update":null}"#,
        r#"{"update":1}"#,
        r#"{"update":["AAA="]}"#,
        r#"{"update":"AAA=","client_id":7}"#,
        r#"{"update":"AAA=","epoch":7}"#,
        r#"{"update":"AAA=","epoch":{}}"#,
    ];
    for body in bad {
        post(body).await.expect_problem(400, "invalid_json");
    }
    let not_utf8 = b"{\"update\":\"\xff\"}".to_vec();
    let answer = server.client.post_as("/docs/a/updates", "application/json", not_utf8).await;
    answer.expect_problem(400, "invalid_json");

    let good = [
        r#"{"update":"AAA=","client_id":null,"epoch":null}"#,
        r#"{"other":{"deep":[1,2]},"update":"AAA="}"#,
        " {\"update\" : \"AAA=\"}\n",
    ];
    for body in good {
        assert_eq!(post(body).await.expect_json(200)["seq"], 0);
    }
    let utf8 = server.client.post_as("/docs/a/updates", "application/json; charset=utf-8", good[0]).await;
    utf8.expect_json(200);
}

#[tokio::test]
async fn a_body_of_another_type_is_refused() {
    let server = Server::start().await;
    for path in ["/docs/a/updates", "/docs/a/state", "/docs/a/awareness"] {
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "nonsense", ""] {
            let answer = server.client.post_as(path, kind, "{\"update\":\"AAA=\"}").await;
            answer.expect_problem(415, "unsupported_media_type");
        }
    }
    let request = server.client.request(Method::PUT, "/docs/a/awareness/tab-1");
    let put = server.client.send(request.header("content-type", "text/plain").body("{}")).await;
    put.expect_problem(415, "unsupported_media_type");
}

#[tokio::test]
async fn an_answer_of_a_type_that_nobody_accepts_is_refused() {
    let server = Server::start().await;
    server.client.write("a", "tab-1", &Peer::new().insert(0, "a")).await;
    let paths = ["/docs", "/docs/a", "/docs/a/updates", "/docs/a/state", "/docs/a/events", "/docs/a/text"];
    for path in paths.into_iter().chain(["/docs/a/clients"]) {
        let answer = server.client.get_with(path, "accept", "image/png").await;
        answer.expect_problem(406, "not_acceptable");
    }
    for accept in ["*/*", "application/*", "text/html, */*;q=0.1", "application/json;q=0.5"] {
        server.client.get_with("/docs/a/state", "accept", accept).await.expect_json(200);
    }
}

#[tokio::test]
async fn an_unknown_address_is_not_found() {
    let server = Server::start().await;
    for path in ["/docs/a/nothing", "/docs/a/updates/1", "/docs/a/awareness/b/c", "/doc", "/nothing/at/all"] {
        server.client.get(path).await.expect_problem(404, "not_found");
        server.client.post(path, &json!({})).await.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn another_method_on_a_known_address_is_told_which_ones_there_are() {
    let server = Server::start().await;
    let table = [
        ("/docs", "GET, HEAD"),
        ("/docs/a", "DELETE, GET, HEAD, PUT"),
        ("/docs/a/updates", "GET, HEAD, POST"),
        ("/docs/a/state", "GET, HEAD, POST"),
        ("/docs/a/text", "GET, HEAD, PATCH, PUT"),
        ("/docs/a/events", "GET, HEAD"),
        ("/docs/a/clients", "GET, HEAD"),
        ("/docs/a/awareness", "POST"),
        ("/docs/a/awareness/tab-1", "PUT"),
        ("/healthz", "GET, HEAD"),
        ("/readyz", "GET, HEAD"),
    ];
    for (path, allow) in table {
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            if allow.split(", ").any(|allowed| allowed == method.as_str()) {
                continue;
            }
            let answer = server.client.send(server.client.request(method.clone(), path)).await;
            answer.expect_problem(405, "method_not_allowed");
            let mut told: Vec<&str> = answer.header("allow").expect("Allow").split(", ").collect();
            told.sort_unstable();
            assert_eq!(told.join(", "), allow, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn an_address_may_have_32_kib_and_no_more() {
    let server = Server::start().await;
    server.client.write("a", "tab-1", &Peer::new().insert(0, "a")).await;
    for client in [Client::new(server.address), Client::with_http2(server.address)] {
        let fits = format!("/docs/a/state?x={}", "x".repeat(32_000));
        assert_eq!(client.get(&fits).await.status, 200);
        for length in [33_000, 50_000] {
            let over = format!("/docs/a/state?x={}", "x".repeat(length));
            client.get(&over).await.expect_problem(414, "uri_too_long");
            let over = format!("/nothing?x={}", "x".repeat(length));
            assert!([404, 414].contains(&client.get(&over).await.status));
        }
    }
}

#[tokio::test]
async fn head_answers_as_get_does_but_for_the_body() {
    let server = Server::start().await;
    let client = &server.client;
    client.write("a", "tab-1", &Peer::new().insert(0, "abc")).await;
    let paths = ["/docs", "/docs/a", "/docs/a/updates", "/docs/a/state", "/docs/a/text", "/docs/a/clients"];
    for path in paths.into_iter().chain(["/healthz", "/readyz", "/docs/none", "/docs/a/nothing"]) {
        let get = client.get(path).await;
        let head = client.send(client.request(Method::HEAD, path)).await;
        assert_eq!(head.status, get.status, "{path}");
        assert!(head.body.is_empty(), "{path}");
        for header in ["content-type", "etag", "content-length"] {
            assert_eq!(head.header(header), get.header(header), "{header} of {path}");
        }
    }
    let stream = client.send(client.request(Method::HEAD, "/docs/a/events?client_id=tab-1")).await;
    assert_eq!(stream.status, 200);
    assert_eq!(stream.header("content-type"), Some("text/event-stream"));
    assert_eq!(client.get("/docs/a").await.expect_json(200)["streams"], 0);
}
