//! What the README prints works as printed.

use std::process::Command;

use tempfile::TempDir;

use crate::support::certificate::{certificate_file, key_file};
use crate::support::{Process, Server, within_deadline};

/// The commands of the README's block that is marked with `<!-- test: NAME -->`.
fn block(name: &str) -> String {
    let readme = include_str!("../../README.md");
    let (_, marked) =
        readme.split_once(&format!("<!-- test: {name} -->\n```sh\n")).expect("the README has the block");
    marked.split_once("\n```").expect("the block has an end").0.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_with_curl_works_as_printed() {
    let server = Server::start().await;
    let script = block("curl").replace("http://127.0.0.1:8080", &format!("http://{}", server.address));
    let ran = tokio::task::spawn_blocking(move || Command::new("bash").arg("-ec").arg(script).output());
    let output = ran.await.expect("no panic").expect("bash and curl are there");

    let printed = String::from_utf8(output.stdout).expect("answers are UTF-8");
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(printed.matches("\"changed\":true").count(), 2, "{printed}");
    assert!(printed.contains("\nHello, world\n"), "{printed}");
    assert!(printed.contains("\"origin\":\"curl\""), "{printed}");
    assert!(printed.contains("event: sync\nid: "), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_certificate_that_signs_itself_works_as_printed() {
    let directory = TempDir::with_prefix("promptgrimoire-").expect("a temporary directory can be made");
    let run = async |script: String| {
        let mut command = Command::new("bash");
        command.arg("-ec").arg(script).current_dir(directory.path());
        let ran = tokio::task::spawn_blocking(move || command.output()).await;
        let output = ran.expect("no panic").expect("bash is there");
        let printed = String::from_utf8(output.stdout).expect("answers are UTF-8");
        assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
        printed
    };
    run(block("certificate")).await;
    let serve = block("serve over TLS");
    for (variable, file) in [("CERTIFICATE", certificate_file("".as_ref())), ("KEY", key_file("".as_ref()))] {
        let set = format!("PROMPTGRIMOIRE__TLS__{variable}={} ", file.display());
        assert!(serve.contains(&set), "{set:?} in {serve}");
    }
    let process = Process::start_with_tls(directory.path(), &[]).await;
    let address = format!("https://localhost:{}", process.address.port());
    let printed = run(block("ask over TLS").replace("https://localhost:8080", &address)).await;
    assert_eq!(printed, r#"{"status":"ok"}{"status":"ready"}"#);
}

#[tokio::test]
async fn a_server_that_asks_for_tokens_works_as_printed() {
    let directory = TempDir::with_prefix("promptgrimoire-").expect("a temporary directory can be made");
    let program = env!("CARGO_BIN_EXE_promptgrimoire");
    let here = |name| block(name).replace("target/release/promptgrimoire", program);
    // One shell for both terminals: what is exported is the same in them, and the server goes with it.
    let script = format!(
        "{settings}
        export PROMPTGRIMOIRE_PORT=0
        {serve} >listening 2>log & SERVER=$!
        trap 'kill $SERVER' EXIT
        until grep -q listening listening; do kill -0 $SERVER; sleep 0.05; done
        A=$(sed 's/listening on //' listening)
        {ask}",
        settings = here("token settings"),
        serve = here("serve with tokens"),
        ask = here("use a token").replace("http://127.0.0.1:8080", "$A"),
    );
    let mut command = tokio::process::Command::new("bash");
    command.arg("-ec").arg(script).current_dir(directory.path()).kill_on_drop(true);
    let output = within_deadline("what the README prints", command.output()).await.expect("bash is there");
    let printed = String::from_utf8(output.stdout).expect("answers are UTF-8");
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains(r#""seq":1,"changed":true,"length":6}"#), "{printed}");
    assert!(printed.contains("\nby ada\n{\"ticket\":\""), "{printed}");
    let log = std::fs::read_to_string(directory.path().join("log")).expect("the server has a log");
    assert!(!log.contains("eyJ"), "a token is logged: {log}");
}

#[test]
fn every_setting_is_listed_with_its_default() {
    let listed = promptgrimoire::settings::Settings::load(
        Some(concat!(env!("CARGO_MANIFEST_DIR"), "/settings.toml").as_ref()),
        std::iter::empty(),
    );
    let listed = listed.expect("settings.toml can be used");
    let empty = tempfile::NamedTempFile::with_suffix(".toml").expect("a temporary file");
    let defaults = promptgrimoire::settings::Settings::load(Some(empty.path()), std::iter::empty());
    let defaults = format!("{:#?}", defaults.expect("an empty file can be used"));
    assert_eq!(format!("{listed:#?}"), defaults);

    let text = include_str!("../../settings.toml");
    let keys: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once(" = ")?.0)).collect();
    // A setting stands in a section, so it is printed two levels deep.
    let fields = defaults.lines().filter_map(|line| line.strip_prefix("        ")?.split_once(": "));
    let missing: Vec<&str> =
        fields.map(|(name, _)| name).filter(|name| !name.starts_with(' ') && !keys.contains(name)).collect();
    assert_eq!(missing, Vec::<&str>::new(), "these settings are not in settings.toml");
}
