//! What pages of other origins may do, and by which names the server is called.

use promptgrimoire::auth::access::Access;
use reqwest::Method;
use serde_json::json;

use crate::support::tokens::{Token, demand_tokens};
use crate::support::{Answer, Peer, Server, base64};

const APP: &str = "https://app.example.org";
const EVIL: &str = "https://evil.example";

async fn write(server: &Server, headers: &[(&str, &str)]) -> Answer {
    let mut request = server.client.request(Method::POST, "/docs/a/updates");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    server.client.send(request.json(&json!({ "update": base64(&Peer::new().push("x")) }))).await
}

async fn preflight(server: &Server, origin: &str) -> Answer {
    let request = server
        .client
        .request(Method::OPTIONS, "/docs/a/updates")
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type");
    server.client.send(request).await
}

async fn open_to_app() -> Server {
    Server::start_with(|settings| {
        demand_tokens(settings);
        settings.cors.origins = vec![APP.into()];
        settings.cors.credentials = true;
    })
    .await
}

#[tokio::test]
async fn pages_of_other_origins_get_nothing_unless_they_are_listed() {
    let server = Server::start().await;
    preflight(&server, EVIL).await.expect_problem(403, "forbidden");
    let answer = server.client.get_with("/healthz", "origin", EVIL).await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    // A request that a browser sends without asking first.
    write(&server, &[("origin", EVIL)]).await.expect_problem(403, "forbidden");
    write(&server, &[("sec-fetch-site", "cross-site")]).await.expect_problem(403, "forbidden");
    server.client.get("/docs/a").await.expect_problem(404, "not_found");
    write(&server, &[("origin", server.client.base())]).await.expect_json(200);
}

#[tokio::test]
async fn a_listed_origin_is_told_what_it_may() {
    let server = open_to_app().await;
    let allowed = preflight(&server, APP).await;
    assert_eq!(allowed.status, 204);
    assert_eq!(allowed.header("access-control-allow-origin"), Some(APP));
    assert_eq!(allowed.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(allowed.header("access-control-max-age"), Some("600"));
    assert!(
        allowed.header("access-control-allow-headers").is_some_and(|names| names.contains("authorization"))
    );
    assert!(allowed.header("access-control-allow-methods").is_some_and(|names| names.contains("PATCH")));
    assert!(allowed.header("vary").is_some_and(|names| names.contains("origin")));
    let refused = server.client.get_with("/docs/a", "origin", APP).await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.header("access-control-allow-origin"), Some(APP), "its page can read why");
    assert!(refused.header("access-control-expose-headers").is_some_and(|names| names.contains("etag")));
    let other = server.client.get_with("/docs/a", "origin", EVIL).await;
    assert_eq!(other.header("access-control-allow-origin"), None);
    assert!(other.header("vary").is_some_and(|names| names.contains("origin")));
    preflight(&server, "https://app.example.org.evil.example").await.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn a_cookie_does_not_write_for_a_page_of_another_origin() {
    let server = open_to_app().await;
    let cookie = format!("token={}", Token::of("ada", &[("*", Access::Write)]).signed());
    for (name, value) in [("origin", EVIL), ("origin", "null"), ("sec-fetch-site", "same-site")] {
        write(&server, &[("cookie", &cookie), (name, value)]).await.expect_problem(403, "forbidden");
    }
    write(&server, &[("cookie", &cookie), ("origin", APP)]).await.expect_json(200);
    write(&server, &[("cookie", &cookie)]).await.expect_json(200);
}

#[tokio::test]
async fn a_cookie_opens_no_stream_for_a_page_of_another_origin() {
    let server = open_to_app().await;
    let cookie = format!("token={}", Token::of("ada", &[("*", Access::Write)]).signed());
    let ask = async |path: &str, name: &str, value: &str| {
        let request = server.client.request(Method::GET, path).header("cookie", &cookie).header(name, value);
        server.client.send(request).await
    };
    for (name, value) in [("origin", EVIL), ("origin", "null"), ("sec-fetch-site", "same-site")] {
        ask("/docs/a/events?client_id=evil", name, value).await.expect_problem(403, "forbidden");
        ask("/docs/a/state", name, value).await.expect_problem(403, "forbidden");
    }
    ask("/docs/a/state", "origin", APP).await.expect_problem(404, "not_found");
    ask("/docs/a/state", "sec-fetch-site", "same-origin").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn where_every_origin_may_a_cookie_still_says_nothing() {
    let server = Server::start_with(|settings| {
        demand_tokens(settings);
        settings.cors.origins = vec!["*".into()];
    })
    .await;
    let ada = Token::of("ada", &[("*", Access::Admin)]).signed();
    server.client.with_token(&ada).write("a", "tab", &Peer::new().push("x")).await;
    // A browser sends this without asking first, and does not care that the answer is kept from the page.
    let request = server.client.request(Method::POST, "/docs/a/freeze");
    let request = request.header("cookie", format!("token={ada}")).header("origin", EVIL);
    server.client.send(request).await.expect_problem(403, "forbidden");
    let request = server.client.request(Method::POST, "/docs/a/freeze").header("origin", EVIL);
    server.client.send(request.bearer_auth(&ada)).await.expect_json(200);
}

#[tokio::test]
async fn every_origin_may_where_the_list_says_so_but_not_with_cookies() {
    let server = Server::start_with(|settings| settings.cors.origins = vec!["*".into()]).await;
    let allowed = preflight(&server, EVIL).await;
    assert_eq!((allowed.status, allowed.header("access-control-allow-origin")), (204, Some("*")));
    assert_eq!(allowed.header("access-control-allow-credentials"), None);
    write(&server, &[("origin", EVIL)]).await.expect_json(200);
}

#[tokio::test]
async fn a_server_answers_to_its_own_names_only() {
    let server = Server::start_with(|settings| {
        settings.server.hosts = vec!["grimoire.example".into(), "127.0.0.1".into()];
    })
    .await;
    assert_eq!(server.client.get("/docs/a").await.status, 404);
    for name in ["grimoire.example", "GRIMOIRE.example:8080"] {
        assert_eq!(server.client.get_with("/docs/a", "host", name).await.status, 404, "{name}");
    }
    for name in ["evil.example", "grimoire.example.evil.example", "127.0.0.1.evil.example:80", ""] {
        let answer = server.client.get_with("/docs/a", "host", name).await;
        answer.expect_problem(421, "misdirected_request");
    }
    let by_number = server.client.get_with("/healthz", "host", "10.0.0.7").await;
    assert_eq!(by_number.status, 200, "those who look after it may call it by its number");
}

#[tokio::test]
async fn answers_say_what_browsers_may_do_with_them() {
    let server = Server::start().await;
    for path in ["/", "/docs/a", "/healthz", "/nowhere/at/all"] {
        let answer = server.client.get(path).await;
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(answer.header("cross-origin-resource-policy"), Some("same-origin"), "{path}");
    }
    assert_eq!(server.client.get("/docs/a").await.header("cache-control"), Some("no-store"));
}
