//! Asking over HTTP: with a client that writes good requests, and with a bare socket for all others.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::secrets::{keep_query_secret, keep_secret, keep_token_secret};
use super::{Certificate, Stream, base64, bytes_of, within_deadline};

/// Asks one server.
#[derive(Clone)]
pub struct Client {
    base: String,
    http: reqwest::Client,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self::built("http", address, reqwest::Client::builder())
    }

    /// Speaks HTTP/2 from the first byte, in clear text.
    pub fn with_http2(address: SocketAddr) -> Self {
        Self::built("http", address, reqwest::Client::builder().http2_prior_knowledge())
    }

    /// The same, with a token in every request.
    pub fn with_token(&self, token: &str) -> Self {
        keep_token_secret(token);
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().expect("a token fits a header"));
        let builder = reqwest::Client::builder().default_headers(headers).no_proxy();
        Self { base: self.base.clone(), http: builder.build().expect("a client can be built") }
    }

    /// The same, from another address of the loopback network.
    pub fn with_token_from(&self, source: [u8; 4], token: &str) -> Self {
        keep_token_secret(token);
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().expect("a token fits a header"));
        let builder = reqwest::Client::builder().default_headers(headers).local_address(IpAddr::from(source));
        Self { base: self.base.clone(), http: builder.no_proxy().build().expect("a client can be built") }
    }

    /// Over TLS, with what the server prefers; believes this certificate and no other.
    pub fn with_tls(address: SocketAddr, certificate: &Certificate) -> Self {
        Self::built("https", address, Self::believing(certificate))
    }

    /// Over TLS, and HTTP/1.1 only.
    pub fn with_tls_and_http1(address: SocketAddr, certificate: &Certificate) -> Self {
        Self::built("https", address, Self::believing(certificate).http1_only())
    }

    fn believing(certificate: &Certificate) -> reqwest::ClientBuilder {
        let root = reqwest::Certificate::from_der(&certificate.der).expect("a certificate");
        reqwest::Client::builder().tls_certs_only([root]).tls_info(true)
    }

    fn built(scheme: &str, address: SocketAddr, builder: reqwest::ClientBuilder) -> Self {
        let http = builder.no_proxy().build().expect("a client can be built");
        Self { base: format!("{scheme}://{address}"), http }
    }

    /// The server's address, as programs are given it.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A request that is still to be filled in and sent.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        keep_query_secret(path);
        self.http.request(method, format!("{}{path}", self.base))
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        within_deadline("answer", async {
            let response = request.send().await.expect("the server answers");
            let of_ticket = response.url().path() == "/tickets";
            let answer = Answer {
                status: response.status().as_u16(),
                headers: response.headers().clone(),
                body: response.bytes().await.expect("the answer is whole"),
            };
            if of_ticket && answer.status == 200 {
                keep_secret(answer.expect_json(200)["ticket"].as_str().expect("a ticket"));
            }
            answer
        })
        .await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn get_with(&self, path: &str, header: &str, value: &str) -> Answer {
        self.send(self.request(Method::GET, path).header(header, value)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    /// A body of raw bytes, which says so.
    pub async fn post_bytes(&self, path: &str, body: impl Into<Vec<u8>>) -> Answer {
        let request = self.request(Method::POST, path).header("content-type", "application/octet-stream");
        self.send(request.body(body.into())).await
    }

    /// A body that says what it is, whatever that is.
    pub async fn post_as(&self, path: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Answer {
        let request = self.request(Method::POST, path).header("content-type", content_type);
        self.send(request.body(body.into())).await
    }

    /// Posts an update under a client id.
    pub async fn update(&self, document: &str, client_id: &str, update: &[u8]) -> Answer {
        let update = base64(update);
        keep_secret(&update);
        let body = json!({ "update": update, "client_id": client_id });
        self.post(&format!("/docs/{document}/updates"), &body).await
    }

    /// Posts an update without an origin.
    pub async fn anonymous_update(&self, document: &str, update: &[u8]) -> Answer {
        self.post(&format!("/docs/{document}/updates"), &json!({ "update": base64(update) })).await
    }

    /// Posts an update that must be accepted and must change something.
    pub async fn write(&self, document: &str, client_id: &str, update: &[u8]) -> Ack {
        Ack::changed(&self.update(document, client_id, update).await)
    }

    /// The whole document as one update.
    pub async fn state(&self, document: &str) -> Vec<u8> {
        let answer = self.get(&format!("/docs/{document}/state")).await;
        bytes_of(&answer.expect_json(200)["update"])
    }

    /// The text of the default root.
    pub async fn text(&self, document: &str) -> String {
        let answer = self.get(&format!("/docs/{document}/text")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    }

    /// A page of the log, its entries as they are.
    pub async fn log(&self, document: &str) -> Vec<Value> {
        let page = self.get(&format!("/docs/{document}/updates")).await.expect_json(200);
        page["updates"].as_array().expect("a list of updates").clone()
    }

    /// Opens an event stream that must be accepted. `path` has the query too.
    pub async fn stream(&self, path: &str) -> Stream {
        self.stream_of(self.request(Method::GET, path)).await
    }

    /// Opens the event stream of a document for a client id.
    pub async fn events(&self, document: &str, client_id: &str) -> Stream {
        self.stream(&format!("/docs/{document}/events?client_id={client_id}")).await
    }

    pub async fn stream_of(&self, request: RequestBuilder) -> Stream {
        let response = within_deadline("stream", request.send()).await.expect("the server answers");
        assert_eq!(response.status(), 200, "the stream is accepted");
        let content_type = response.headers().get("content-type").expect("a content type");
        assert_eq!(content_type, "text/event-stream");
        Stream::new(response)
    }
}

/// What an accepted write is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    pub epoch: String,
    pub seq: u64,
}

impl Ack {
    /// # Panics
    /// If the write was refused, or changed nothing.
    pub fn changed(answer: &Answer) -> Self {
        let body = answer.expect_json(200);
        assert_eq!(body["changed"], true, "{body}");
        Self {
            epoch: body["epoch"].as_str().expect("an epoch").to_owned(),
            seq: body["seq"].as_u64().expect("a sequence"),
        }
    }

    /// The id of the event that tells it.
    pub fn id(&self) -> String {
        format!("{}.{}", self.epoch, self.seq)
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).expect("the body is UTF-8")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("the header is visible ASCII"))
    }

    /// The JSON of an answer that must have this status.
    pub fn expect_json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/json"));
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    /// The problem document of an answer that must have this status and this code.
    pub fn expect_problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem: Value = serde_json::from_slice(&self.body).expect("the body is JSON");
        assert_eq!(problem["type"], "about:blank", "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["code"], code, "{problem}");
        for field in ["title", "detail"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "no {field} in {problem}");
        }
        problem
    }
}

/// A bare connection: for requests that no client would write.
pub struct Raw {
    pub socket: TcpStream,
    received: Vec<u8>,
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::connected(TcpSocket::new_v4().expect("a socket"), address).await
    }

    /// With a small receive buffer, so that a reader that does not read is noticed soon.
    pub async fn connect_narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(16 << 10).expect("the size can be set");
        Self::connected(socket, address).await
    }

    /// From another address of the loopback network.
    pub async fn connect_from(source: [u8; 4], address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((source, 0).into()).expect("all of 127.0.0.0/8 is this machine's");
        Self::connected(socket, address).await
    }

    async fn connected(socket: TcpSocket, address: SocketAddr) -> Self {
        let socket =
            within_deadline("connection", socket.connect(address)).await.expect("the server accepts");
        Self { socket, received: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within_deadline("taking of bytes", self.socket.write_all(bytes.as_ref()))
            .await
            .expect("the server takes bytes");
    }

    /// Sends, and says whether the server took it.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        within_deadline("taking of bytes", self.socket.write_all(bytes.as_ref())).await
    }

    /// One answer, read off the connection. Its body must have a declared length, or be chunked.
    pub async fn answer(&mut self) -> Answer {
        within_deadline("answer on the socket", self.read_answer()).await
    }

    async fn read_answer(&mut self) -> Answer {
        let head = self.take_through(b"\r\n\r\n").await;
        let head = String::from_utf8(head).expect("the head is ASCII");
        let mut lines = head.trim_end().split("\r\n");
        let status_line = lines.next().expect("a status line");
        let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status in {status_line:?}"));
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no header: {line:?}"));
            let name: reqwest::header::HeaderName = name.parse().expect("a header name");
            headers.append(name, value.trim().parse().expect("a header value"));
        }
        let length = headers.get("content-length").map(|length| length.to_str().expect("ASCII").parse());
        let body = match length {
            Some(length) => self.take(length.expect("a length")).await,
            None if headers.contains_key("transfer-encoding") => self.take_chunks().await,
            None => Vec::new(),
        };
        Answer { status, headers, body: body.into() }
    }

    async fn take_chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = String::from_utf8(self.take_through(b"\r\n").await).expect("a chunk's length");
            let length = usize::from_str_radix(line.trim_end(), 16).expect("a chunk's length");
            let chunk = self.take(length + 2).await;
            body.extend_from_slice(&chunk[..length]);
            if length == 0 {
                return body;
            }
        }
    }

    async fn take_through(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.received.windows(end.len()).position(|window| window == end) {
                return self.received.drain(..at + end.len()).collect();
            }
            assert!(self.receive().await > 0, "the connection ended within an answer");
        }
    }

    async fn take(&mut self, bytes: usize) -> Vec<u8> {
        while self.received.len() < bytes {
            assert!(self.receive().await > 0, "the connection ended within an answer");
        }
        self.received.drain(..bytes).collect()
    }

    async fn receive(&mut self) -> usize {
        self.socket.read_buf(&mut self.received).await.expect("the connection is whole")
    }

    /// Waits until the server closes the connection, by an end or a reset. Returns what came before.
    pub async fn closed(&mut self) -> Vec<u8> {
        within_deadline("end of the connection", async {
            while self.socket.read_buf(&mut self.received).await.is_ok_and(|bytes| bytes > 0) {}
        })
        .await;
        std::mem::take(&mut self.received)
    }

    /// What comes after the head of an answer, as an event stream: for a request in HTTP/1.0, whose answer
    /// has no chunks.
    pub async fn into_stream(mut self) -> Stream {
        let head = within_deadline("head of a stream", self.take_through(b"\r\n\r\n")).await;
        let head = String::from_utf8(head).expect("the head is ASCII").to_lowercase();
        assert!(head.starts_with("http/1.0 200") || head.starts_with("http/1.1 200"), "{head}");
        assert!(!head.contains("chunked"), "{head}");
        Stream::from_socket(self.socket, self.received)
    }
}
