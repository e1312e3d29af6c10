//! HTTP over TLS: both versions, a certificate that is renewed, and handshakes that come to nothing.

use reqwest::{Method, Version};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::certificate::{certificate_file, key_file};
use crate::support::{Certificate, Client, Peer, Process, Raw, Server, until, within_deadline};

fn directory() -> TempDir {
    TempDir::with_prefix("promptgrimoire-").expect("a temporary directory can be made")
}

/// Writes, reads, and follows a document.
async fn use_a_document(client: &Client) {
    let mut peer = Peer::new();
    let mut stream = client.events("a", "reader").await;
    stream.sync().await;
    let ack = client.write("a", "tab-1", &peer.insert(0, "safe")).await;
    assert_eq!(stream.event("update").await.id, Some(ack.id()));
    assert_eq!(client.text("a").await, "safe");
}

#[tokio::test]
async fn client_and_server_agree_on_http2_or_on_http1() {
    let certificate = Certificate::new();
    for (client, version) in [
        (Client::with_tls as fn(_, &_) -> _, Version::HTTP_2),
        (Client::with_tls_and_http1 as fn(_, &_) -> _, Version::HTTP_11),
    ] {
        let server = Server::start_with_tls(&certificate, |_| {}).await;
        let client: Client = client(server.address, &certificate);
        use_a_document(&client).await;
        let response = client.request(Method::GET, "/healthz").send().await.expect("an answer");
        assert_eq!(response.version(), version);
        let missing = client.get("/docs/none/state").await;
        missing.expect_problem(404, "not_found");
        assert_eq!(missing.header("strict-transport-security"), Some("max-age=31536000"));
    }
}

#[tokio::test]
async fn in_clear_text_nobody_is_told_to_come_over_tls() {
    let server = Server::start().await;
    assert_eq!(server.client.get("/healthz").await.header("strict-transport-security"), None);
}

#[tokio::test]
async fn a_client_that_does_not_say_what_it_speaks_is_listened_to() {
    let certificate = Certificate::new();
    let server = Server::start_with_tls(&certificate, |_| {}).await;
    let mut socket = certificate.connect(server.address, &[]).await;
    socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.expect("taken");
    let mut answer = String::new();
    // An end without TLS's own last word would be an error.
    within_deadline("answer", socket.read_to_string(&mut answer)).await.expect("a good end");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");

    let mut socket = certificate.connect(server.address, &[]).await;
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("taken");
    let mut head = [0; 9];
    within_deadline("settings", socket.read_exact(&mut head)).await.expect("a frame");
    assert_eq!(head[3], 4, "HTTP/2 begins with SETTINGS: {head:?}");
}

#[tokio::test]
async fn a_client_that_speaks_something_else_is_turned_away() {
    let certificate = Certificate::new();
    let server = Server::start_with_tls(&certificate, |_| {}).await;
    let socket = tokio::net::TcpStream::connect(server.address).await.expect("accepted");
    let handshake = certificate.connector(&["spdy/3"]).connect(Certificate::name(), socket);
    within_deadline("refusal", handshake).await.expect_err("there is nothing to agree upon");
    let mut raw = Raw::connect(server.address).await;
    raw.send("GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let said = raw.closed().await;
    assert!(!said.starts_with(b"HTTP"), "nothing is answered in clear text");
    use_a_document(&Client::with_tls(server.address, &certificate)).await;
}

/// The failure: a socket closed with bytes unread is reset, and the reset overtakes the answer.
#[tokio::test]
async fn an_answer_before_the_end_of_a_body_arrives_whole() {
    let certificate = Certificate::new();
    let server = Server::start_with_tls(&certificate, |_| {}).await;
    for _ in 0..10 {
        let mut socket = certificate.connect(server.address, &["http/1.1"]).await;
        let head = "POST /docs/a/updates HTTP/1.1\r\nhost: a\r\ncontent-length: 6000000\r\n\r\n";
        socket.write_all(head.as_bytes()).await.expect("taken");
        // Far more than the kernel holds for a reader that does not read.
        within_deadline("taking of bytes", socket.write_all(&vec![b'x'; 6_000_000])).await.expect("taken");
        let mut answer = String::new();
        within_deadline("answer", socket.read_to_string(&mut answer)).await.expect("a good end");
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert!(answer.ends_with('}'), "{answer}");
    }
}

#[tokio::test]
async fn eight_streams_and_a_ninth_request_share_one_connection() {
    let certificate = Certificate::new();
    let server = Server::start_with_tls(&certificate, |settings| settings.admin.port = Some(0)).await;
    let client = Client::with_tls(server.address, &certificate);
    // So that there is one connection that all others wait for.
    assert_eq!(client.get("/healthz").await.status, 200);
    let mut streams = Vec::new();
    for number in 0..8 {
        let mut stream = client.events("a", &format!("reader-{number}")).await;
        stream.sync().await;
        streams.push(stream);
    }
    let ack = client.write("a", "tab-1", &Peer::new().insert(0, "nine")).await;
    for stream in &mut streams {
        assert_eq!(stream.event("update").await.id, Some(ack.id()));
    }
    let admin = Client::new(server.admin.expect("there is a second listener"));
    let metrics = admin.get("/metrics").await.text();
    // The other one is this question's.
    assert!(metrics.contains("\npromptgrimoire_connections_open 2\n"), "{metrics}");
}

#[tokio::test]
async fn a_handshake_that_is_not_done_in_time_is_given_up() {
    let certificate = Certificate::new();
    let server = Server::start_with_tls(&certificate, |settings| {
        settings.limits.header_seconds = 1;
        settings.limits.max_connections = 4;
    })
    .await;
    let mut slow = Vec::new();
    for beginning in
        [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"]
    {
        let mut raw = Raw::connect(server.address).await;
        raw.send(beginning).await;
        slow.push(raw);
    }
    for mut raw in slow {
        raw.closed().await;
    }
    // Their places are free again.
    until("place for a connection", async || {
        let client = Client::with_tls(server.address, &certificate);
        client.request(Method::GET, "/healthz").send().await.is_ok().then_some(())
    })
    .await;
    // A handshake that is done is not yet a request.
    let mut socket = certificate.connect(server.address, &["h2"]).await;
    let _ = within_deadline("end of the connection", socket.read_to_end(&mut Vec::new())).await;
}

#[tokio::test]
async fn one_connection_over_the_limit_is_closed_without_a_handshake() {
    let certificate = Certificate::new();
    let server = Server::start_with_tls(&certificate, |settings| settings.limits.max_connections = 1).await;
    let client = Client::with_tls(server.address, &certificate);
    let mut stream = client.events("a", "reader").await;
    stream.sync().await;
    let mut over = Raw::connect(server.address).await;
    assert_eq!(over.closed().await, b"");
    client.write("a", "tab-1", &Peer::new().insert(0, "x")).await;
    stream.event("update").await;
}

/// The certificate that a new connection is shown.
async fn shown(process: &Process, believed: &Certificate) -> Option<Vec<u8>> {
    let client = Client::with_tls(process.address, believed);
    let response = client.request(Method::GET, "/healthz").send().await.ok()?;
    let info = response.extensions().get::<reqwest::tls::TlsInfo>().expect("it was asked for");
    Some(info.peer_certificate().expect("the server shows one").to_vec())
}

async fn until_shown(process: &Process, certificate: &Certificate) {
    let shown = until("new certificate", async || shown(process, certificate).await).await;
    assert_eq!(shown, certificate.der.to_vec());
}

#[tokio::test]
async fn a_stream_lives_on_while_new_connections_get_the_new_certificate() {
    let files = directory();
    let (old, new) = (Certificate::new(), Certificate::new());
    old.write_to(files.path());
    let process = Process::start_with_tls(files.path(), &[]).await;
    assert_eq!(shown(&process, &old).await.as_deref(), Some(&*old.der));
    let client = Client::with_tls(process.address, &old);
    let mut stream = client.events("a", "reader").await;
    stream.sync().await;
    let mut peer = Peer::new();

    new.write_to(files.path());
    process.hang_up();
    until_shown(&process, &new).await;
    assert_eq!(shown(&process, &old).await, None, "the old certificate is shown no more");
    // The old connection goes on: as a stream, and for new requests too.
    let ack = client.write("a", "tab-1", &peer.push("after")).await;
    assert_eq!(stream.event("update").await.id, Some(ack.id()));
}

#[tokio::test]
async fn a_certificate_that_was_replaced_is_noticed_without_a_word() {
    let files = directory();
    let (old, new) = (Certificate::new(), Certificate::new());
    old.write_to(files.path());
    let process = Process::start_with_tls(files.path(), &[]).await;
    assert!(shown(&process, &old).await.is_some());
    new.write_to(files.path());
    until_shown(&process, &new).await;
}

#[tokio::test]
async fn a_pair_that_cannot_be_used_leaves_the_old_one_in_place_and_is_logged() {
    let files = directory();
    let (old, other) = (Certificate::new(), Certificate::new());
    old.write_to(files.path());
    let mut process = Process::start_with_tls(files.path(), &[]).await;
    // The key is another certificate's, then there is none at all.
    std::fs::write(key_file(files.path()), &other.key_pem).expect("a file can be written");
    process.hang_up();
    assert!(shown(&process, &old).await.is_some());
    std::fs::write(certificate_file(files.path()), "garbage").expect("a file can be written");
    process.hang_up();
    std::fs::remove_file(key_file(files.path())).expect("a file can be removed");
    process.hang_up();
    assert!(shown(&process, &old).await.is_some());
    // What is good again is taken, so all that came before it was looked at.
    other.write_to(files.path());
    process.hang_up();
    until_shown(&process, &other).await;
    process.terminate();
    assert_eq!(process.ended().await.code(), Some(0));
    let logged = process.logged();
    assert!(logged.contains("WARN") && logged.contains("`tls."), "{logged}");
    assert!(!logged.contains("PRIVATE KEY"), "{logged}");
}

#[tokio::test]
async fn a_stream_over_tls_is_told_when_the_server_stops() {
    let files = directory();
    let certificate = Certificate::new();
    certificate.write_to(files.path());
    let mut process = Process::start_with_tls(files.path(), &[]).await;
    let client = Client::with_tls(process.address, &certificate);
    let mut stream = client.events("a", "reader").await;
    stream.sync().await;
    process.terminate();
    assert_eq!(stream.event("closed").await.json()["code"], "shutting_down");
    assert_eq!(stream.rest().await, []);
    assert_eq!(process.ended().await.code(), Some(0));
}
