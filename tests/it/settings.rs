//! Settings: where they come from, and which ones stop the start.

use std::path::Path;
use std::process::Output;

use tempfile::TempDir;

use crate::support::process::{run_to_its_end, store_url};
use crate::support::{Certificate, Peer, Process};

fn directory() -> TempDir {
    TempDir::with_prefix("promptgrimoire-").expect("a temporary directory can be made")
}

/// Checks that the start failed with one line on standard error that says `names`, and nothing announced.
fn expect_refusal(output: &Output, names: &[&str]) {
    let (told, announced) =
        (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert!(output.status.code().is_some_and(|code| code != 0), "{:?} {told}", output.status);
    assert_eq!(told.lines().count(), 1, "one line: {told}");
    for name in names {
        assert!(told.contains(name), "{name} in: {told}");
    }
    assert_eq!(announced, "");
}

async fn start_in(directory: &Path, variables: &[(&str, &str)]) -> Output {
    let mut all = vec![("PROMPTGRIMOIRE_PORT", "0"), ("PROMPTGRIMOIRE__STORE__URL", "memory")];
    all.extend(variables);
    run_to_its_end(directory, [""; 0], &all).await
}

#[tokio::test]
async fn an_unknown_key_or_an_impossible_value_stops_the_start_and_is_named() {
    let directory = directory();
    let table = [
        ("SERVER__PROT", "1", "prot"),
        ("SERVRE__PORT", "1", "servre"),
        ("LIMITS__MAX_UPDATE_BYTE", "1", "max_update_byte"),
        ("SERVER__HEARTBEAT_SECONDS__X", "1", "heartbeat_seconds"),
        ("SERVER__PORT", "65536", "port"),
        ("SERVER__PORT", "-1", "port"),
        ("SERVER__PORT", "http", "port"),
        ("SERVER__HEARTBEAT_SECONDS", "0", "heartbeat_seconds"),
        ("SERVER__HEARTBEAT_SECONDS", "soon", "heartbeat_seconds"),
        ("LIMITS__MAX_UPDATE_BYTES", "-1", "max_update_bytes"),
        ("LIMITS__MAX_STREAMS", "0", "max_streams"),
        ("LIMITS__STALLED_SECONDS", "0", "stalled_seconds"),
        ("HISTORY__KEEP_UPDATES", "0", "keep_updates"),
        ("HISTORY__KEEP_DAYS", "0", "keep_days"),
        ("DOCUMENTS__MEMORY_MIB", "0", "memory_mib"),
        ("SERVER__TRUSTED_PROXIES", "10.0.0.0/33", "trusted_proxies"),
        ("SERVER__TRUSTED_PROXIES", "10.0.0.1, proxy", "trusted_proxies"),
        ("TLS__CERTIFICATE", "cert.pem", "tls.key"),
        ("TLS__KEY", "key.pem", "tls.certificate"),
        ("ADMIN__PORT", "65536", "port"),
        ("LIMITS__MAX_CONNECTIONS_PER_ADDRESS", "0", "max_connections_per_address"),
        ("LIMITS__HTTP2_STREAMS", "0", "http2_streams"),
        ("HISTORY__COLLECT_DELETED", "perhaps", "collect_deleted"),
        ("DOCUMENTS__HELPER_SECONDS", "0", "documents.helper_seconds"),
        ("DOCUMENTS__HELPER_SECONDS", "-1", "documents.helper_seconds"),
        ("DOCUMENTS__HELPER_SECONDS", "NaN", "documents.helper_seconds"),
        ("DOCUMENTS__HELPER_SECONDS", "soon", "helper_seconds"),
        ("DOCUMENTS__HELPER_SECONDS", "1e9", "documents.helper_seconds"),
        ("DOCUMENTS__HELPER_MEMORY_MIB", "0", "documents.helper_memory_mib"),
        ("DOCUMENTS__HELPER_MEMORY_MIB", "99999999999999", "documents.helper_memory_mib"),
        ("HELPER_PROGRAM", "/bin/sh", "helper_program"),
        ("STORE__URL", "oracle:here", "url"),
        ("STORE__URL", "sqlite:", "url"),
        ("AUTH__MODE", "maybe", "mode"),
        ("AUTH__MODE", "jwt", "auth.algorithm"),
        ("AUTH__KEY", "a secret of over thirty-two bytes, and more", "auth.key"),
        ("AUTH__ALGORITHM", "none", "algorithm"),
        ("AUTH__ALGORITHM", "HS512", "algorithm"),
        ("AUTH__JWKS_REFRESH_SECONDS", "1", "jwks_refresh_seconds"),
        ("CORS__ORIGINS", "app.example.org", "cors.origins"),
        ("CORS__ORIGINS", "https://app.example.org/page", "cors.origins"),
        ("CORS__ORIGINS", "*,https://app.example.org", "cors.origins"),
        ("RATES__BURST_SECONDS", "0", "burst_seconds"),
        ("RATES__UPDATES_PER_USER", "-1", "updates_per_user"),
        ("LIMITS__MAX_WAITING_MIB", "10", "max_waiting_mib"),
        ("LIMITS__MAX_STREAMS_PER_USER", "0", "max_streams_per_user"),
        ("AUTH__ALLOW_ANONYMOUS", "perhaps", "allow_anonymous"),
        ("LOG__FORMAT", "xml", "format"),
        ("LOG__LEVEL", "loud=very=loud", "level"),
        ("LOG__LEVEL", "loud", "log.level"),
    ];
    for (key, value, named) in table {
        let variable = format!("PROMPTGRIMOIRE__{key}");
        let output = start_in(directory.path(), &[(&variable, value)]).await;
        let told = String::from_utf8_lossy(&output.stderr).to_lowercase();
        assert!(told.contains(named), "{key}={value} is not named in: {told}");
        expect_refusal(&output, &[]);
    }
    let output = run_to_its_end(directory.path(), [""; 0], &[("PROMPTGRIMOIRE_PORT", "x")]).await;
    expect_refusal(&output, &["port"]);
}

#[tokio::test]
async fn settings_that_contradict_each_other_stop_the_start() {
    let directory = directory();
    let long = "Zyx9-hush-hush-hush-hush-hush-hush-hush";
    let table: [(&[(&str, &str)], &str); 13] = [
        (&[("AUTH__MODE", "jwt"), ("AUTH__ALGORITHM", "HS256")], "auth.key"),
        (&[("AUTH__MODE", "jwt"), ("AUTH__ALGORITHM", "HS256"), ("AUTH__KEY", "short")], "auth.key"),
        (&[("AUTH__MODE", "jwt"), ("AUTH__ALGORITHM", "ES256"), ("AUTH__KEY", "none.pem")], "auth.key"),
        (&[("AUTH__MODE", "jwt"), ("AUTH__ALGORITHM", "HS256"), ("AUTH__KEY_FILE", "none")], "auth.key_file"),
        (
            &[
                ("AUTH__MODE", "jwt"),
                ("AUTH__ALGORITHM", "HS256"),
                ("AUTH__KEY", long),
                ("AUTH__KEY_FILE", "x"),
            ],
            "auth.key_file",
        ),
        (&[("AUTH__MODE", "jwt"), ("AUTH__ALGORITHM", "HS256"), ("AUTH__JWKS", "keys.json")], "auth.jwks"),
        (&[("AUTH__MODE", "jwt"), ("AUTH__ALGORITHM", "ES256"), ("AUTH__JWKS", "none.json")], "auth.jwks"),
        (
            &[("AUTH__MODE", "jwt"), ("AUTH__ALGORITHM", "ES256"), ("AUTH__JWKS", "http://keys.example/")],
            "auth.jwks",
        ),
        (
            &[
                ("AUTH__MODE", "jwt"),
                ("AUTH__ALGORITHM", "HS256"),
                ("AUTH__KEY", long),
                ("AUTH__ALLOW_ANONYMOUS", "true"),
            ],
            "auth.allow_anonymous",
        ),
        (
            &[
                ("AUTH__MODE", "jwt"),
                ("AUTH__ALGORITHM", "ES256"),
                ("AUTH__JWKS", "https://ada:hush@keys.example/jwks.json"),
            ],
            "auth.jwks",
        ),
        (&[("CORS__ORIGINS", "*"), ("CORS__CREDENTIALS", "true")], "cors.credentials"),
        (&[("SERVER__HOST", "0.0.0.0")], "server.host"),
        (&[("LIMITS__MAX_DOCUMENT_BYTES", "1073741824")], "limits.max_waiting_mib"),
    ];
    for (variables, named) in table {
        let variables: Vec<(String, &str)> =
            variables.iter().map(|(key, value)| (format!("PROMPTGRIMOIRE__{key}"), *value)).collect();
        let variables: Vec<(&str, &str)> =
            variables.iter().map(|(key, value)| (key.as_str(), *value)).collect();
        let output = start_in(directory.path(), &variables).await;
        expect_refusal(&output, &[named]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!told.contains("hush"), "a secret is told: {told}");
    }
}

#[tokio::test]
async fn a_token_is_made_with_a_command_and_taken_by_the_server() {
    let directory = directory();
    let variables = [
        ("PROMPTGRIMOIRE__AUTH__MODE", "jwt"),
        ("PROMPTGRIMOIRE__AUTH__ALGORITHM", "HS256"),
        ("PROMPTGRIMOIRE__AUTH__KEY", "a secret of over thirty-two bytes, and more"),
    ];
    let arguments =
        ["token", "--sub", "ada", "--docs", "ws-*=write", "--docs", "lecture=read", "--ttl", "1h"];
    let output = run_to_its_end(directory.path(), arguments, &variables).await;
    let token = String::from_utf8(output.stdout).expect("a token is ASCII");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let server = Process::start_with(&variables).await;
    let client = server.client.with_token(token.trim());
    client.anonymous_update("ws-1", &Peer::new().push("x")).await.expect_json(200);
    client.anonymous_update("lecture", &Peer::new().push("x")).await.expect_problem(403, "forbidden");
    for wrong in [["--docs", "ws-*"], ["--docs", "ws-*=own"], ["--ttl", "soon"]] {
        let arguments = ["token", "--sub", "ada", "--docs", "a=read"].into_iter().chain(wrong);
        let output = run_to_its_end(directory.path(), arguments, &variables).await;
        assert!(!output.status.success(), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_file_with_an_unknown_key_stops_the_start() {
    let directory = directory();
    for (text, named) in [
        ("[server]\nport = 0\nprot = 1\n", "server.prot"),
        ("[nothing]\n", "nothing"),
        ("port = 1\n", "port"),
        ("[limits]\nmax_streams = \"many\"\n", "max_streams"),
        ("[server\n", "settings"),
    ] {
        std::fs::write(directory.path().join("settings.toml"), text).expect("a file can be written");
        let output = run_to_its_end(directory.path(), [""; 0], &[]).await;
        expect_refusal(&output, &[named]);
    }
}

#[tokio::test]
async fn a_named_file_that_is_not_there_stops_the_start() {
    let directory = directory();
    let output = run_to_its_end(directory.path(), ["--config", "none.toml"], &[]).await;
    expect_refusal(&output, &["none.toml"]);
}

#[tokio::test]
async fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
    let directory = directory();
    let file = directory.path().join("other.toml");
    let text = "[server]\nport = 1\nheartbeat_seconds = 1\n[store]\nurl = \"oracle:\"\n[limits]\nmax_update_bytes = 100\n";
    std::fs::write(&file, text).expect("a file can be written");
    let config = file.to_str().expect("UTF-8");
    let process = Process::start_with_arguments(&["--config", config], &[]).await;
    let over = Peer::new().insert(0, &"x".repeat(200));
    let refused = process.client.update("a", "tab-1", &over).await;
    assert_eq!(refused.expect_problem(413, "too_large")["limit"], 100);

    let variables = [("PROMPTGRIMOIRE__LIMITS__MAX_UPDATE_BYTES", "300")];
    let process = Process::start_with_arguments(&["--config", config], &variables).await;
    process.client.write("a", "tab-1", &over).await;
}

/// The failure: announcing "listening on …" before the bind, and hanging silently when the port is taken.
#[tokio::test]
async fn a_port_that_is_taken_stops_the_start_and_is_named() {
    let taken = Process::start().await;
    let port = taken.address.port().to_string();
    let output = start_in(directory().path(), &[("PROMPTGRIMOIRE_PORT", &port)]).await;
    expect_refusal(&output, &[&port]);
    assert_eq!(taken.client.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_certificate_or_key_that_cannot_be_used_stops_the_start_and_is_named() {
    let directory = directory();
    let (good, other) = (Certificate::new(), Certificate::new());
    let path = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("a file can be written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let (certificate, key) = (path("good.pem", &good.pem), path("key.pem", &good.key_pem));
    let garbage = path("garbage.pem", "no PEM");
    let broken =
        path("broken.pem", "-----BEGIN CERTIFICATE-----\nbm8gY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n");
    let half = path("half.pem", &good.key_pem[..60]);
    let missing = directory.path().join("missing.pem").to_str().expect("UTF-8").to_owned();
    let others = path("other.pem", &other.key_pem);
    for (certificate, key, named, file) in [
        (&missing, &key, "`tls.certificate`", &missing),
        (&garbage, &key, "`tls.certificate`", &garbage),
        (&broken, &key, "`tls.certificate`", &broken),
        (&key, &key, "`tls.certificate`", &key),
        (&certificate, &missing, "`tls.key`", &missing),
        (&certificate, &garbage, "`tls.key`", &garbage),
        (&certificate, &half, "`tls.key`", &half),
        (&certificate, &certificate, "`tls.key`", &certificate),
        (&certificate, &others, "`tls.key`", &others),
    ] {
        let variables = [
            ("PROMPTGRIMOIRE__TLS__CERTIFICATE", certificate.as_str()),
            ("PROMPTGRIMOIRE__TLS__KEY", key.as_str()),
        ];
        let output = start_in(directory.path(), &variables).await;
        expect_refusal(&output, &[named, file]);
    }
}

#[tokio::test]
async fn an_admin_port_that_is_taken_stops_the_start_and_is_named() {
    let taken = Process::start().await;
    let port = taken.address.port().to_string();
    let output = start_in(directory().path(), &[("PROMPTGRIMOIRE__ADMIN__PORT", &port)]).await;
    expect_refusal(&output, &[&port]);
}

#[tokio::test]
async fn a_data_directory_in_use_stops_the_start_and_is_named() {
    let first = Process::start().await;
    first.client.write("a", "tab-1", &Peer::new().insert(0, "mine")).await;
    let url = format!("sqlite:{}", first.data_directory().display());
    let output = start_in(directory().path(), &[("PROMPTGRIMOIRE__STORE__URL", &url)]).await;
    expect_refusal(&output, &[first.data_directory().to_str().expect("UTF-8")]);
    // The first one is unharmed.
    first.client.write("a", "tab-2", &Peer::new().insert(0, "more ")).await;
    assert_eq!(first.client.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_stops_the_start_and_is_named() {
    let directory = directory();
    std::fs::write(directory.path().join("data"), "a file").expect("a file can be written");
    let url = store_url(directory.path());
    let output = start_in(directory.path(), &[("PROMPTGRIMOIRE__STORE__URL", &url)]).await;
    expect_refusal(&output, &[directory.path().join("data").to_str().expect("UTF-8")]);
}

#[tokio::test]
async fn an_address_that_others_reach_needs_leave_while_there_is_no_auth() {
    let directory = directory();
    for host in ["0.0.0.0", "::", "192.0.2.1", "example.org"] {
        let output = start_in(directory.path(), &[("PROMPTGRIMOIRE__SERVER__HOST", host)]).await;
        expect_refusal(&output, &["server.host", "auth.allow_anonymous"]);
        let variables = [("PROMPTGRIMOIRE__ADMIN__HOST", host), ("PROMPTGRIMOIRE__ADMIN__PORT", "0")];
        let output = start_in(directory.path(), &variables).await;
        expect_refusal(&output, &["admin.host", "auth.allow_anonymous"]);
    }
}

#[tokio::test]
async fn an_unknown_argument_stops_the_start() {
    let output = run_to_its_end(directory().path(), ["--prot", "1"], &[]).await;
    assert!(output.status.code().is_some_and(|code| code != 0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--prot"));
}
