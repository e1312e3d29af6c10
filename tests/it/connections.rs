//! Connections: slow ones, too many of them, odd ones, and HTTP/2.

use std::sync::Arc;
use std::time::Instant;

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::{Certificate, Client, DEADLINE, Peer, Raw, Server, base64, until, within_deadline};

/// What a slow client has sent when it stops, or begins to trickle.
const BEGINNINGS: [&str; 4] = [
    "",
    "GET /healthz HT",
    "POST /docs/a/updates HTTP/1.1\r\nhost: a\r\nx-slow: ",
    // The first words of HTTP/2, in part.
    "PRI * HTTP/2.0\r\n\r\nSM",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_slow_connections_harm_nobody_and_are_closed() {
    const COUNT: usize = 2000;
    // Both ends of each connection are this process's.
    rlimit::increase_nofile_limit(3 * COUNT as u64).expect("the limit can be asked for");
    let server = Server::start_with(|settings| {
        settings.limits.header_seconds = 2;
        settings.limits.max_connections_per_address = COUNT * 2;
    })
    .await;
    let mut good = server.client.events("a", "reader").await;
    good.sync().await;
    let mut slow = Vec::new();
    for number in 0..COUNT {
        let mut socket =
            within_deadline("connection", TcpStream::connect(server.address)).await.expect("accepted");
        socket.write_all(BEGINNINGS[number % 4].as_bytes()).await.expect("bytes are taken");
        slow.push((socket, number % 4 == 2));
    }
    // Others are served meanwhile, while some of the slow ones trickle.
    let mut peer = Peer::new();
    let started = Instant::now();
    while !slow.is_empty() {
        assert!(started.elapsed() < DEADLINE, "{} slow connections are still open", slow.len());
        let ack = server.client.write("a", "tab-1", &peer.push("x")).await;
        assert_eq!(good.event("update").await.id, Some(ack.id()));
        slow.retain_mut(|(socket, trickles)| {
            let open = is_open(socket);
            if open && *trickles {
                // What the server no longer takes shows as closed the next time.
                let _ = socket.try_write(b"x");
            }
            open
        });
    }
    assert_eq!(server.client.text("a").await, peer.text());
}

fn is_open(socket: &TcpStream) -> bool {
    let mut scratch = [0; 1024];
    loop {
        match socket.try_read(&mut scratch) {
            // An answer to a request that never came to its end, 408 say.
            Ok(1..) => {}
            Ok(0) => return false,
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
}

#[tokio::test]
async fn the_second_request_of_a_connection_must_come_in_time_too() {
    let server = Server::start_with(|settings| settings.limits.header_seconds = 1).await;
    let mut raw = Raw::connect(server.address).await;
    raw.send("GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 200);
    raw.send("GET /healthz HTTP/1.1\r\nhos").await;
    raw.closed().await;
}

#[tokio::test]
async fn one_connection_over_the_limit_is_told_so_and_closed() {
    let server = Server::start_with(|settings| settings.limits.max_connections = 3).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut raw = Raw::connect(server.address).await;
        raw.send("GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(raw.answer().await.status, 200);
        open.push(raw);
    }
    let mut over = Raw::connect(server.address).await;
    let answer = over.answer().await;
    answer.expect_problem(503, "unavailable");
    assert!(answer.header("retry-after").is_some());
    assert_eq!(answer.header("connection"), Some("close"));
    over.closed().await;
    // The others live on, and a place that is given up is taken again.
    open[0].send("GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(open[0].answer().await.status, 200);
    open.pop();
    until("place for a connection", async || {
        let mut raw = Raw::connect(server.address).await;
        raw.send("GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await;
        (raw.answer().await.status == 200).then_some(())
    })
    .await;
}

async fn is_served(mut raw: Raw) -> Option<Raw> {
    let sent = raw.try_send("GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await;
    (sent.is_ok() && raw.answer().await.status == 200).then_some(raw)
}

#[tokio::test]
async fn an_address_over_its_limit_is_told_so_while_others_are_served() {
    let server = Server::start_with(|settings| {
        settings.limits.max_connections_per_address = 2;
        settings.server.trusted_proxies = "127.0.0.3, 127.0.1.0/24".to_owned().try_into().expect("networks");
    })
    .await;
    let from = async |source| Raw::connect_from(source, server.address).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(is_served(from([127, 0, 0, 2]).await).await.expect("a place"));
    }
    let mut over = from([127, 0, 0, 2]).await;
    let answer = over.answer().await;
    assert!(answer.expect_problem(503, "unavailable")["detail"].as_str().expect("text").contains("address"));
    assert!(answer.header("retry-after").is_some());
    over.closed().await;
    // Another address has places of its own, and of a trusted proxy the clients are many.
    for source in [[127, 0, 0, 1], [127, 0, 0, 3], [127, 0, 0, 3], [127, 0, 0, 3], [127, 0, 1, 9]] {
        open.push(is_served(from(source).await).await.expect("a place"));
    }
    let metrics = server.client.get("/metrics").await.text();
    assert!(metrics.contains("promptgrimoire_connections_refused_total{limit=\"address\"} 1\n"), "{metrics}");
    open.remove(0);
    until("place for the address", async || is_served(from([127, 0, 0, 2]).await).await).await;
}

#[derive(Debug, Clone, Copy)]
enum Slow {
    Handshake,
    Headers,
    Body,
}

/// Drips a byte whenever somebody else was answered, until it is hung up on.
async fn drip(
    slow: Slow,
    address: std::net::SocketAddr,
    certificate: Arc<Certificate>,
    mut answered: watch::Receiver<u64>,
) {
    let (mut socket, beginning): (Box<dyn Duplex>, &[u8]) = match slow {
        Slow::Handshake => {
            let socket = TcpStream::connect(address).await.expect("accepted");
            (Box::new(socket), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        }
        Slow::Headers => {
            let socket = certificate.connect(address, &["http/1.1"]).await;
            (Box::new(socket), b"GET /docs/a/state HTTP/1.1\r\nhost: a\r\nx-slow: ")
        }
        Slow::Body => {
            let socket = certificate.connect(address, &["http/1.1"]).await;
            (Box::new(socket), b"POST /docs/b/updates HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n")
        }
    };
    socket.write_all(beginning).await.expect("the beginning is taken");
    socket.flush().await.expect("the beginning is sent");
    let mut scratch = [0; 1024];
    loop {
        tokio::select! {
            read = socket.read(&mut scratch) => match read {
                // An answer to a body that was not awaited any longer.
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            },
            _ = answered.changed() => {
                if socket.write_all(b"x").await.is_err() || socket.flush().await.is_err() {
                    return;
                }
            }
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_that_drip_handshakes_headers_and_bodies_harm_nobody_and_are_closed() {
    let certificate = Arc::new(Certificate::new());
    let server = Server::start_with_tls(&certificate, |settings| {
        settings.limits.header_seconds = 5;
        settings.limits.body_seconds = 5;
    })
    .await;
    let good = Client::with_tls(server.address, &certificate);
    let mut stream = good.events("a", "reader").await;
    stream.sync().await;
    let (answer, answered) = watch::channel(0);
    let mut slow = JoinSet::new();
    for number in 0..500 {
        let kind = [Slow::Handshake, Slow::Headers, Slow::Body][number % 3];
        slow.spawn(drip(kind, server.address, certificate.clone(), answered.clone()));
    }
    let mut peer = Peer::new();
    let started = Instant::now();
    while !slow.is_empty() {
        assert!(started.elapsed() < DEADLINE, "{} slow connections are still open", slow.len());
        let ack = good.write("a", "tab-1", &peer.push("x")).await;
        assert_eq!(stream.event("update").await.id, Some(ack.id()));
        answer.send_replace(ack.seq);
        while let Some(ended) = slow.try_join_next() {
            ended.expect("no panic");
        }
    }
    assert_eq!(good.text("a").await, peer.text());
}

#[tokio::test]
async fn what_is_no_http_is_told_so_and_hung_up_on() {
    let server = Server::start().await;
    let garbage: [&[u8]; 6] = [
        b"\r\n\r\n\r\nnonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /docs/a b/state HTTP/1.1\r\nhost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /docs/a/updates HTTP/1.1\r\nhost: a\r\ncontent-length: -5\r\n\r\n",
        b"POST /docs/a/updates HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    ];
    for bytes in garbage {
        let mut raw = Raw::connect(server.address).await;
        raw.send(bytes).await;
        let said = raw.closed().await;
        let said = String::from_utf8_lossy(&said);
        assert!(said.starts_with("HTTP/1.1 400"), "{said:?} to {:?}", String::from_utf8_lossy(bytes));
    }
    let many: String = (0..500).map(|number| format!("x-{number}: y\r\n")).collect();
    let mut raw = Raw::connect(server.address).await;
    raw.send(format!("GET /healthz HTTP/1.1\r\nhost: a\r\n{many}\r\n")).await;
    assert!([400, 431].contains(&raw.answer().await.status));
    assert_eq!(server.client.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn requests_in_a_row_are_answered_in_a_row() {
    let server = Server::start().await;
    let mut peer = Peer::new();
    let mut raw = Raw::connect(server.address).await;
    let mut requests = Vec::new();
    for number in 0..20 {
        let body = json!({ "update": base64(&peer.push(&number.to_string())) }).to_string();
        requests.extend_from_slice(
            format!(
                "POST /docs/a/updates HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        );
    }
    raw.send(requests).await;
    for seq in 1..=20 {
        assert_eq!(raw.answer().await.expect_json(200)["seq"], seq);
    }
    assert_eq!(server.client.text("a").await, peer.text());
}

#[tokio::test]
async fn http2_in_clear_text_does_all_that_http1_does() {
    let server = Server::start().await;
    let client = Client::with_http2(server.address);
    let mut peer = Peer::new();
    let mut stream = client.events("a", "reader").await;
    stream.sync().await;
    let ack = client.write("a", "tab-1", &peer.insert(0, "two")).await;
    assert_eq!(stream.event("update").await.id, Some(ack.id()));
    assert_eq!(client.text("a").await, "two");
    client.get("/docs/-").await.expect_problem(400, "invalid_document_id");
    let head = client.send(client.request(Method::HEAD, "/docs/a/state")).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    let response = client.request(Method::GET, "/healthz").send().await.expect("an answer");
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    assert_eq!(client.delete("/docs/a").await.status, 204);
    assert_eq!(stream.event("closed").await.json()["code"], "deleted");
    assert_eq!(stream.rest().await, []);
}

#[tokio::test]
async fn a_body_sent_byte_by_byte_is_taken_if_it_comes_in_time() {
    let server = Server::start().await;
    let body = json!({ "update": base64(&Peer::new().insert(0, "slow")), "client_id": "tab-1" }).to_string();
    let mut raw = Raw::connect(server.address).await;
    raw.socket.set_nodelay(true).expect("the option can be set");
    raw.send("POST /docs/a/updates HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
    for byte in body.bytes() {
        raw.send([b'1', b'\r', b'\n', byte, b'\r', b'\n']).await;
    }
    raw.send("0\r\n\r\n").await;
    assert_eq!(raw.answer().await.expect_json(200)["seq"], 1);
}

#[tokio::test]
async fn a_client_that_leaves_in_mid_request_harms_nobody() {
    let server = Server::start().await;
    for _ in 0..50 {
        let mut raw = Raw::connect(server.address).await;
        raw.send("POST /docs/a/updates HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{\"update\":").await;
        raw.socket.set_zero_linger().expect("the socket can be told to reset");
    }
    server.client.get("/docs/a").await.expect_problem(404, "not_found");
    let mut byte = [0];
    let mut raw = Raw::connect(server.address).await;
    raw.send("GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 200);
    let end = within_deadline("end of the connection", raw.socket.read(&mut byte)).await;
    assert_eq!(end.expect("a good end"), 0);
}
