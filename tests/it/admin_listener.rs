//! A listener of its own for those who look after the server.

use crate::support::{Client, Frame, Process, Raw, Server};

#[tokio::test]
async fn without_it_everything_is_at_one_address() {
    let server = Server::start().await;
    assert_eq!(server.admin, None);
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(server.client.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn metrics_are_there_and_no_longer_in_public() {
    let server = Server::start_with(|settings| settings.admin.port = Some(0)).await;
    let admin = Client::new(server.admin.expect("there is one"));
    for path in ["/healthz", "/readyz"] {
        assert_eq!(server.client.get(path).await.status, 200, "{path}");
        assert_eq!(admin.get(path).await.status, 200, "{path}");
    }
    server.client.get("/metrics").await.expect_problem(404, "not_found");
    for path in ["/", "/docs", "/docs/a/state", "/events", "/openapi.json", "/admin/none"] {
        admin.get(path).await.expect_problem(404, "not_found");
    }
    let metrics = admin.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    // Both listeners are counted, and what neither knows under the last line of the table.
    let unknown = "promptgrimoire_http_requests_total{route=\"/{file}\",method=\"GET\",status=\"4xx\"} 7";
    assert!(metrics.text().contains(unknown), "{}", metrics.text());
    assert_eq!(server.client.get("/docs").await.status, 200);
}

#[tokio::test]
async fn it_answers_when_the_public_one_is_full() {
    let server = Server::start_with(|settings| {
        settings.admin.port = Some(0);
        settings.limits.max_connections = 1;
    })
    .await;
    let mut stream = server.client.events("a", "reader").await;
    stream.sync().await;
    Raw::connect(server.address).await.answer().await.expect_problem(503, "unavailable");
    let admin = Client::new(server.admin.expect("there is one"));
    let metrics = admin.get("/metrics").await.text();
    assert!(metrics.contains("promptgrimoire_connections_refused_total{limit=\"server\"} 1\n"), "{metrics}");
}

#[tokio::test]
async fn the_binary_says_where_it_is_and_closes_it_when_it_stops() {
    let mut process = Process::start_with(&[("PROMPTGRIMOIRE__ADMIN__PORT", "0")]).await;
    let admin = Client::new(process.admin_address().await);
    assert_eq!(admin.get("/metrics").await.status, 200);
    let mut stream = process.client.events("a", "reader").await;
    stream.sync().await;
    process.terminate();
    let Some(Frame::Event(last)) = stream.rest().await.pop() else { panic!("no event at the end") };
    assert_eq!(last.json()["code"], "shutting_down");
    assert_eq!(process.ended().await.code(), Some(0));
}
