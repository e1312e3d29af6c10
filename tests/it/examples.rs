//! The programs in `examples/` do what they say, against real servers and beside other peers.
//!
//! The agent beside a person in a browser: `tests/browser/agent.test.mjs`.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use promptgrimoire::auth::access::Access;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::support::tokens::{Token, demand_tokens};
use crate::support::{Client, Frame, Peer, Process, Server, until, within_deadline};

/// `count to` this: an answer long enough for something to happen within.
const LAST: usize = 60;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// Whether a program cannot be had here: then its test says so, and is passed over.
async fn is_missing(program: &Path, arguments: &[&str]) -> bool {
    let ran = Command::new(program).args(arguments).output().await;
    if ran.as_ref().is_ok_and(|output| output.status.success()) {
        return false;
    }
    eprintln!("skipped: `{} {}` does not work", program.display(), arguments.join(" "));
    true
}

/// The agent, on document `a`.
fn agent(client: &Client, more: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.arg(example("agent.py")).args(["--server", client.base(), "--document", "a"]).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs the agent to its end, which must be a good one without a word.
async fn run_agent(client: &Client, more: &[&str]) {
    let output = within_deadline("end of the agent", agent(client, more).output()).await;
    let output = output.expect("the agent starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""));
}

fn exchange(last: usize) -> String {
    let numbers: Vec<String> = (1..=last).map(|number| number.to_string()).collect();
    format!("@agent count to {last}\n↳ Agent: {}\n", numbers.join(" "))
}

async fn append(client: &Client, text: &str) {
    let ops = json!({ "ops": [{ "insert": text, "at": "end" }] });
    let request = client.request(reqwest::Method::PATCH, "/docs/a/text").json(&ops);
    client.send(request).await.expect_json(200);
}

/// Waits until the answer under way has got so far.
async fn answer_has(client: &Client, word: usize) {
    let part = format!(" {word} ");
    until("part of an answer", async || client.text("a").await.contains(&part).then_some(())).await;
}

#[tokio::test]
async fn the_agent_answers_each_question_once() {
    if is_missing("python3".as_ref(), &["--version"]).await {
        return;
    }
    let server = Server::start().await;
    let client = &server.client;
    run_agent(client, &["--once"]).await;
    client.get("/docs/a").await.expect_problem(404, "not_found");

    append(client, "Notes 𝄞\n@agent count to 3\n\n@agent count to 3\n@agent still being typed").await;
    run_agent(client, &["--once", "--rate", "1000"]).await;
    let expected = format!("Notes 𝄞\n{0}\n{0}@agent still being typed", exchange(3));
    assert_eq!(client.text("a").await, expected);
    let log = client.log("a").await;
    run_agent(client, &["--once", "--rate", "1000"]).await;
    assert_eq!(client.log("a").await.len(), log.len(), "there was nothing left to do");

    // The same question again, after all was deleted, within the lifetime of the keys that were used.
    let length = expected.encode_utf16().count();
    let request = client.request(reqwest::Method::PATCH, "/docs/a/text");
    client.send(request.json(&json!({ "ops": [{ "delete": length, "at": 0 }] }))).await.expect_json(200);
    append(client, "@agent count to 3\n").await;
    run_agent(client, &["--once", "--rate", "1000"]).await;
    assert_eq!(client.text("a").await, exchange(3));
}

#[tokio::test]
async fn two_agents_of_one_name_say_nothing_twice() {
    if is_missing("python3".as_ref(), &["--version"]).await {
        return;
    }
    let server = Server::start().await;
    let client = &server.client;
    append(client, "\n@agent count to 120\n").await;
    // They take turns in no order at all, each now and then on a text that the other has just left.
    let more = ["--once", "--rate", "1000"];
    let mut agents =
        std::pin::pin!(async { tokio::join!(run_agent(client, &more), run_agent(client, &more)) });
    let mut typed = String::new();
    let type_on = json!({ "ops": [{ "insert": "x", "at": 0 }] });
    loop {
        tokio::select! {
            _ = &mut agents => break,
            answer = client.send(client.request(reqwest::Method::PATCH, "/docs/a/text").json(&type_on)) => {
                answer.expect_json(200);
                typed.push('x');
            }
        }
    }
    // What was being typed when they ended may have arrived.
    let text = client.text("a").await;
    let whole = format!("{typed}\n{}", exchange(120));
    assert!(text == whole || text == format!("x{whole}"), "{text}");
}

#[tokio::test]
async fn the_agent_survives_its_own_death_and_the_servers() {
    if is_missing("python3".as_ref(), &["--version"]).await {
        return;
    }
    let mut server = Process::start().await;
    append(&server.client, &format!("@agent count to {LAST}\n")).await;
    for word in [5, 15, 25] {
        let mut child = agent(&server.client, &["--rate", "100"]).spawn().expect("the agent starts");
        answer_has(&server.client, word).await;
        child.kill().await.expect("the agent runs");
    }
    // The server comes back on another port, so another agent goes on with the answer.
    let mut child = agent(&server.client, &["--rate", "100"]).spawn().expect("the agent starts");
    answer_has(&server.client, 40).await;
    server.kill().await;
    child.kill().await.expect("the agent runs");
    let server = server.restart().await;
    run_agent(&server.client, &["--once", "--rate", "1000"]).await;
    assert_eq!(server.client.text("a").await, exchange(LAST));
}

#[tokio::test]
async fn whoever_deletes_the_block_stops_the_agent() {
    if is_missing("python3".as_ref(), &["--version"]).await {
        return;
    }
    let server = Server::start().await;
    let client = &server.client;
    append(client, "@agent count to 10000\n").await;
    let mut child = agent(client, &["--rate", "100"]).spawn().expect("the agent starts");
    answer_has(client, 5).await;
    // The block is found anew until no word comes in between.
    until("a stopped answer", async || {
        let answer = client.get("/docs/a/text").await;
        let at = answer.text().chars().position(|letter| letter == '▌')?;
        let ops =
            json!({ "unit": "char", "base": answer.header("etag"), "ops": [{ "delete": 1, "at": at }] });
        client.send(client.request(reqwest::Method::PATCH, "/docs/a/text").json(&ops)).await.expect_json(200);
        (!client.text("a").await.contains('▌')).then_some(())
    })
    .await;
    // It goes on with the next question, and so is not busy with this one.
    append(client, "@agent count to 3\n").await;
    until("the next answer", async || client.text("a").await.ends_with(&exchange(3)).then_some(())).await;
    child.kill().await.expect("the agent runs");
}

/// How a program is told a token.
const TOKEN: &str = "PROMPTGRIMOIRE_TOKEN";

#[tokio::test]
async fn the_agent_answers_with_its_token_and_ends_without_one() {
    if is_missing("python3".as_ref(), &["--version"]).await {
        return;
    }
    let server = Server::start_with(demand_tokens).await;
    let client = server.client_of("ada", &[("a", Access::Write)]);
    append(&client, "@agent count to 3\n").await;
    let refused = agent(&client, &["--once"]).env_remove(TOKEN).output().await.expect("the agent starts");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!((refused.status.code(), said.contains("401")), (Some(1), true), "{said}");

    let token = Token::of("the agent", &[("a", Access::Write)]).signed();
    let mut child = agent(&client, &["--rate", "1000"]).env(TOKEN, token).spawn().expect("the agent starts");
    until("the answer", async || (client.text("a").await == exchange(3)).then_some(())).await;
    until("its stream", async || {
        let clients = client.get("/docs/a/clients").await.expect_json(200);
        (clients["clients"][0]["user"] == "the agent").then_some(())
    })
    .await;
    child.kill().await.expect("the agent runs");
}

/// A Yjs client with a terminal: what is written on its input goes into the text, its output shows the text.
struct Typist {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Typist {
    fn start(mut command: Command, client: &Client) -> Self {
        command.args(["--server", client.base(), "--document", "a", "--follow"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the example starts");
        let output = BufReader::new(child.stdout.take().expect("standard output is a pipe")).lines();
        Self { input: child.stdin.take(), output, child }
    }

    async fn write(&mut self, line: &str) {
        let input = self.input.as_mut().expect("the input is open");
        input.write_all(format!("{line}\n").as_bytes()).await.expect("the example reads");
    }

    async fn until_shows(&mut self, text: &str) {
        let shown = json!(text).to_string();
        within_deadline("the text", async {
            loop {
                let line = self.output.next_line().await.expect("UTF-8").expect("the example goes on");
                if line == shown {
                    return;
                }
            }
        })
        .await;
    }
}

/// A typist writes with a token, however it is told it, and ends without one, or with one that only reads.
async fn writes_with_a_token(command: impl Fn() -> Command) {
    let server = Server::start_with(demand_tokens).await;
    let writer = Token::of("ada", &[("a", Access::Write)]).signed();
    let reader = Token::of("vic", &[("a", Access::Read)]).signed();
    let run = async |arguments: &[&str], variable: Option<&str>| {
        let mut command = command();
        command.args(["--server", server.client.base(), "--document", "a"]).args(arguments).env_remove(TOKEN);
        if let Some(token) = variable {
            command.env(TOKEN, token);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().expect("the example starts");
        let mut input = child.stdin.take().expect("standard input is a pipe");
        // One that was turned away reads no more.
        let _ = input.write_all(b"a line\n").await;
        drop(input);
        let output = within_deadline("end of the example", child.wait_with_output()).await;
        let output = output.expect("it can be waited for");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let client = server.client.with_token(&writer);
    let (succeeded, said) = run(&[], None).await;
    assert!(!succeeded && said.contains("401"), "{said}");
    assert_eq!(run(&[], Some(&writer)).await, (true, String::new()));
    assert_eq!(run(&["--token", &writer], None).await, (true, String::new()));
    let (succeeded, said) = run(&[], Some(&reader)).await;
    assert!(!succeeded && said.contains("forbidden"), "{said}");
    assert_eq!(client.text("a").await, "a line\na line\n");
    let log = client.log("a").await;
    assert!(log.iter().all(|entry| entry["user"] == "ada"), "{log:?}");
}

/// A typist and a Yjs peer write into one document, and both have all of it.
async fn writes_in_step_with_a_peer(command: impl Fn() -> Command) {
    let server = Process::start().await;
    let client = &server.client;
    let mut typist = Typist::start(command(), client);
    typist.until_shows("").await;

    let mut peer = Peer::new();
    client.write("a", "peer", &peer.push("Zürich 𝄞\n")).await;
    typist.until_shows("Zürich 𝄞\n").await;
    let mut stream = client.events("a", "peer").await;
    stream.sync().await;
    typist.write("from a typist").await;
    match stream.next().await {
        Frame::Event(event) => peer.apply(&event.update()),
        frame => panic!("an update should be next, not {frame:?}"),
    }
    assert_eq!(peer.text(), "Zürich 𝄞\nfrom a typist\n");

    // Both at once, in the middle and at the end.
    let typed = peer.insert(0, "Dear all: ");
    tokio::join!(client.write("a", "peer", &typed), typist.write("and more"));
    let whole = "Dear all: Zürich 𝄞\nfrom a typist\nand more\n";
    until("the whole text", async || (client.text("a").await == whole).then_some(())).await;
    peer.apply(&client.state("a").await);
    assert_eq!(peer.text(), whole);
    client.write("a", "peer", &peer.delete(0, 10)).await;
    typist.until_shows(&whole[10..]).await;
    typist.child.kill().await.expect("the example runs");

    // Without `--follow` it ends with its input, and what it was given is on the disk.
    let mut command = command();
    command.args(["--server", client.base(), "--document", "a"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().expect("the example starts");
    let mut input = child.stdin.take().expect("standard input is a pipe");
    input.write_all("the end\n".as_bytes()).await.expect("the example reads");
    drop(input);
    let output =
        within_deadline("end of the example", child.wait_with_output()).await.expect("it can be waited for");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(client.text("a").await, format!("{}the end\n", &whole[10..]));
}

/// The Rust client, which Cargo builds beside the folder of the tests, and names no path to.
fn rust_client() -> Command {
    let tests = std::env::current_exe().expect("a test has a path");
    let built = tests.ancestors().nth(2).expect("a test is two folders deep").join("examples/yrs_client");
    assert!(built.exists(), "{} is missing: cargo build --examples", built.display());
    Command::new(built)
}

#[tokio::test]
async fn the_rust_client_writes_in_step_with_a_peer() {
    writes_in_step_with_a_peer(rust_client).await;
}

#[tokio::test]
async fn the_rust_client_writes_with_a_token() {
    writes_with_a_token(rust_client).await;
}

/// The Python client, if `make tools` has put pycrdt where it can be found.
async fn python_client() -> Option<impl Fn() -> Command> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/python");
    if is_missing(&python, &["-c", "import pycrdt"]).await {
        return None;
    }
    Some(move || {
        let mut command = Command::new(&python);
        command.arg(example("pycrdt_client.py"));
        command
    })
}

#[tokio::test]
async fn the_python_client_writes_in_step_with_a_peer() {
    let Some(command) = python_client().await else { return };
    writes_in_step_with_a_peer(command).await;
}

#[tokio::test]
async fn the_python_client_writes_with_a_token() {
    let Some(command) = python_client().await else { return };
    writes_with_a_token(command).await;
}
