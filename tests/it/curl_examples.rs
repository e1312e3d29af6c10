//! Every command of `examples/curl.md` is run, and answers what is printed below it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::Server;
use crate::support::tokens::{SECRET, demand_tokens};

/// The fields whose values differ each time: that they are there is all that is compared.
const VOLATILE: &[&str] = &[
    "epoch",
    "update",
    "state_vector",
    "bytes",
    "time",
    "created_at",
    "updated_at",
    "connected_at",
    "frozen_at",
    "first_at",
    "last_at",
];
/// Stands for anything in a line of text.
const ANYTHING: &str = "…";
/// What every epoch is called on the page.
const EPOCH: &str = "k3f9x2ab";
/// Printed after each block of commands.
const SEPARATOR: char = '\u{1e}';

/// Commands, and what they are said to print.
struct Example<'a> {
    commands: &'a str,
    printed: Option<Printed<'a>>,
}

enum Printed<'a> {
    Json(&'a str),
    Text(&'a str),
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_answers_what_is_printed_below_it() {
    if let Some(version) = too_old_curl() {
        eprintln!("skipped: the page needs curl 7.84, and this is {version}");
        return;
    }
    let server = Server::start().await;
    let asking = Server::start_with(demand_tokens).await;
    let examples = examples(include_str!("../../examples/curl.md"));
    assert!(examples.len() > 20, "only {} blocks of commands were found", examples.len());
    // One shell for all, as for a reader who copies one block after the other.
    let mut script = String::new();
    for example in &examples {
        let commands = example
            .commands
            .replace("http://127.0.0.1:8080", &format!("http://{}", server.address))
            .replace("http://127.0.0.1:8081", &format!("http://{}", asking.address));
        script.push_str(&format!("{commands}\nprintf '{SEPARATOR}'\n"));
    }
    // A shell with `promptgrimoire` at hand and the settings of the second server, in a folder of its own.
    let folder = TempDir::with_prefix("promptgrimoire-").expect("a temporary directory can be made");
    let program = Path::new(env!("CARGO_BIN_EXE_promptgrimoire")).parent().expect("it is in a folder");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(program.to_owned()).chain(std::env::split_paths(&path));
    let mut command = Command::new("bash");
    command.arg("-ec").arg(script).current_dir(folder.path());
    command.env("PATH", std::env::join_paths(path).expect("folders without colons"));
    for (key, value) in [("MODE", "jwt"), ("ALGORITHM", "HS256"), ("KEY", SECRET)] {
        command.env(format!("PROMPTGRIMOIRE__AUTH__{key}"), value);
    }
    let ran = tokio::task::spawn_blocking(move || command.output());
    let output = ran.await.expect("no panic").expect("bash and curl are there");
    let answers = String::from_utf8(output.stdout).expect("answers are UTF-8");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{answers}\n{errors}", output.status);

    for (example, answer) in examples.iter().zip(answers.split(SEPARATOR)) {
        let fits = match &example.printed {
            None => answer.is_empty(),
            Some(Printed::Json(printed)) => {
                let printed = serde_json::from_str(printed).expect("the page prints JSON");
                serde_json::from_str(answer).is_ok_and(|answer| is_same(&printed, &answer))
            }
            Some(Printed::Text(printed)) => is_same_text(printed, answer),
        };
        assert!(fits, "these commands\n{}\nprinted\n{answer}\n{errors}", example.commands);
    }
}

/// The version of curl, where it is older than the page asks for.
fn too_old_curl() -> Option<String> {
    let output = Command::new("curl").arg("--version").output().expect("curl is there");
    let version = String::from_utf8(output.stdout).expect("a version is ASCII");
    let version = version.split(' ').nth(1).expect("`curl 7.88.1 …`").to_owned();
    let numbers: Vec<u32> = version.split('.').map_while(|number| number.parse().ok()).collect();
    (numbers < vec![7, 84]).then_some(version)
}

/// The blocks of a page: each of commands with the one right below it, if that shows what they print.
fn examples(page: &str) -> Vec<Example<'_>> {
    let mut examples = Vec::new();
    let mut rest = page;
    while let Some((_, block)) = rest.split_once("```sh\n") {
        let (commands, after) = block.split_once("\n```\n").expect("a block has an end");
        let shown = |kind: &str| {
            let block = after.strip_prefix(kind)?;
            Some(block.split_once("\n```").expect("a block has an end").0)
        };
        let printed = shown("```json\n").map(Printed::Json).or_else(|| shown("```text\n").map(Printed::Text));
        examples.push(Example { commands, printed });
        rest = after;
    }
    examples
}

/// Whether JSON is as printed: the same fields, with the same values where these are the same each time.
fn is_same(printed: &Value, answer: &Value) -> bool {
    match (printed, answer) {
        (Value::Object(printed), Value::Object(answer)) => {
            printed.keys().eq(answer.keys())
                && printed.iter().all(|(name, value)| {
                    let is_volatile = VOLATILE.contains(&name.as_str()) && !value.is_null();
                    is_volatile && !answer[name].is_null() || is_same(value, &answer[name])
                })
        }
        (Value::Array(printed), Value::Array(answer)) => {
            printed.len() == answer.len()
                && printed.iter().zip(answer).all(|(printed, answer)| is_same(printed, answer))
        }
        _ => printed == answer,
    }
}

/// Whether lines are as printed. JSON in them, after `data: ` too, is compared as such; comments that keep a stream
/// alive are passed over.
fn is_same_text(printed: &str, answer: &str) -> bool {
    let lines = |text: &str| -> Vec<String> {
        text.trim_end().lines().filter(|line| !line.starts_with(':')).map(str::to_owned).collect()
    };
    let (printed, answer) = (lines(printed), lines(answer));
    let json = |line: &str| serde_json::from_str(line.strip_prefix("data: ").unwrap_or(line)).ok();
    printed.len() == answer.len()
        && printed.iter().zip(&answer).all(|(printed, answer)| match (json(printed), json(answer)) {
            (Some(printed), Some(answer)) => is_same(&printed, &answer),
            _ => is_same_line(&printed.replace(EPOCH, ANYTHING), answer),
        })
}

fn is_same_line(printed: &str, answer: &str) -> bool {
    let Some((before, after)) = printed.split_once(ANYTHING) else { return printed == answer };
    answer.starts_with(before) && answer.len() >= before.len() + after.len() && answer.ends_with(after)
}

#[test]
fn what_differs_for_another_reason_is_noticed() {
    let same = |printed: &str, answer: &str| {
        is_same(&serde_json::from_str(printed).unwrap(), &serde_json::from_str(answer).unwrap())
    };
    assert!(same(r#"{"epoch":"a","seq":1}"#, r#"{"epoch":"b","seq":1}"#));
    assert!(!same(r#"{"epoch":"a","seq":1}"#, r#"{"epoch":null,"seq":1}"#));
    assert!(!same(r#"{"epoch":null,"seq":1}"#, r#"{"epoch":"b","seq":1}"#));
    assert!(!same(r#"{"epoch":"a","seq":1}"#, r#"{"epoch":"a","seq":2}"#));
    assert!(!same(r#"{"epoch":"a"}"#, r#"{"epoch":"a","seq":1}"#));
    assert!(is_same_text("id: k3f9x2ab.3\nretry: …", "id: aaaaaaaa.3\n: comment\nretry: 1000\n"));
    assert!(!is_same_text("id: k3f9x2ab.3", "id: aaaaaaaa.4"));
    assert!(!is_same_text("one", "one\ntwo"));
}
