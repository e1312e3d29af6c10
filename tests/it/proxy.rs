//! Behind nginx, set up as `docs/nginx.conf` recommends.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;

use serde_json::json;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::support::{Client, Frame, Peer, Server, base64, until};

const NGINX: &str = "/usr/sbin/nginx";
/// The part of a server's configuration that is recommended.
const RECOMMENDED: &str = include_str!("../../docs/nginx.conf");
/// Where it expects the server.
const UPSTREAM: &str = "127.0.0.1:8080";

#[tokio::test]
async fn events_pass_through_nginx_at_once() {
    let server = Server::start().await;
    let Some(nginx) = Nginx::start_before(server.address).await else { return };
    // Until there is more of it than a proxy's buffer holds nothing would come, if it was buffered.
    let mut stream = nginx.client.events("a", "reader").await;
    assert_eq!(stream.sync().await.seq(), 0);
    let mut peer = Peer::new();
    for word in ["one ", "two ", "three "] {
        let update = peer.push(word);
        let ack = nginx.client.write("a", "writer", &update).await;
        let event = stream.event("update").await;
        assert_eq!(event.id, Some(ack.id()));
        assert_eq!(event.update(), update);
    }
    assert_eq!(nginx.client.text("a").await, peer.text());

    // Who has gone is gone at the server, too.
    until("reader among the clients", async || (clients(&server.client).await == 1).then_some(())).await;
    drop(stream);
    until("end of the reader's stream", async || (clients(&server.client).await == 0).then_some(())).await;
}

#[tokio::test]
async fn a_stream_is_resumed_through_nginx_and_told_when_the_server_stops() {
    let server = Server::start_with(|settings| settings.server.drain_seconds = 10).await;
    let Some(nginx) = Nginx::start_before(server.address).await else { return };
    let mut peer = Peer::new();
    let first = nginx.client.write("a", "writer", &peer.push("one ")).await;
    nginx.client.write("a", "writer", &peer.push("two ")).await;
    let request = nginx.client.request(reqwest::Method::GET, "/docs/a/events?client_id=reader");
    let mut stream = nginx.client.stream_of(request.header("last-event-id", first.id())).await;
    assert_eq!(stream.sync().await.json()["resumed"], true);
    server.shut_down();
    let rest = stream.rest().await;
    let Some(Frame::Event(last)) = rest.last() else { panic!("{rest:?} does not end with an event") };
    assert_eq!((last.name.as_str(), &last.json()["code"]), ("closed", &json!("shutting_down")));
    server.returned().await;
}

#[tokio::test]
async fn the_largest_update_passes_through_nginx() {
    let server = Server::start().await;
    let Some(nginx) = Nginx::start_before(server.address).await else { return };
    let update = Peer::new().push(&"x".repeat((1 << 20) - 64));
    let body = json!({ "update": base64(&update), "client_id": "writer" });
    assert_eq!(nginx.client.post("/docs/a/updates", &body).await.status, 200);
    let update = Peer::new().push(&"x".repeat(1 << 20));
    let body = json!({ "update": base64(&update), "client_id": "writer" });
    // It is the server that refuses it, in its own words.
    nginx.client.post("/docs/a/updates", &body).await.expect_problem(413, "too_large");
}

#[test]
fn the_readme_recommends_the_same() {
    let readme = include_str!("../../README.md");
    for line in RECOMMENDED.lines().filter(|line| !line.trim().is_empty() && !line.trim().starts_with('#')) {
        assert!(readme.contains(line), "{line}");
    }
}

async fn clients(client: &Client) -> usize {
    let answer = client.get("/docs/a/clients").await.expect_json(200);
    answer["clients"].as_array().expect("a list").len()
}

/// A running nginx that dies with the test.
struct Nginx {
    /// Asks the server through it.
    client: Client,
    _process: Child,
    _directory: TempDir,
}

impl Nginx {
    /// `None`, and a word about it, where there is none; in CI there must be one.
    async fn start_before(server: SocketAddr) -> Option<Self> {
        if !Path::new(NGINX).exists() {
            assert!(std::env::var_os("CI").is_none(), "{NGINX} is missing");
            eprintln!("{NGINX} is missing: a test behind it is SKIPPED");
            return None;
        }
        let directory =
            TempDir::with_prefix("promptgrimoire-nginx-").expect("a temporary directory can be made");
        let address = free_address().await;
        let location = RECOMMENDED.replace(UPSTREAM, &server.to_string());
        assert_ne!(location, RECOMMENDED, "the recommendation names the upstream {UPSTREAM}");
        let configuration = format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr error;\n\
             events {{}}\n\
             http {{\n\
             access_log off; client_body_temp_path body; proxy_temp_path proxy;\n\
             server {{ listen {address};\n{location}\n}}\n\
             }}\n"
        );
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, configuration).expect("it can be written");
        let process = Command::new(NGINX)
            .arg("-p")
            .arg(directory.path())
            .arg("-c")
            .arg(&file)
            .args(["-e", "stderr"])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("nginx starts");
        until("nginx that listens", async || TcpStream::connect(address).await.ok()).await;
        Some(Self { client: Client::new(address), _process: process, _directory: directory })
    }
}

/// An address that nobody listened on a moment ago.
async fn free_address() -> SocketAddr {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there is a free port");
    socket.local_addr().expect("a bound socket has an address")
}
