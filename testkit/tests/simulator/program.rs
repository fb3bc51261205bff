//! The program and its control API.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::wire::{Answer, GRANT, exchange_at, request, token_request};

struct Program {
    child: Child,
    origin: String,
    control: String,
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_servicenow-simulator"));
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

impl Program {
    async fn start(arguments: &[&str]) -> Self {
        let mut child = command(&[arguments, &["--control", "127.0.0.1:0"]].concat())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let origin = announced(&mut lines, "simulator ").await;
        let control = announced(&mut lines, "control ").await;
        Self {
            child,
            origin,
            control,
        }
    }

    async fn control(&self, method: &str, path: &str, body: Value) -> Answer {
        let json = ["Content-Type: application/json"];
        exchange_at(
            &self.control,
            &request(method, path, &json, &body.to_string()),
        )
        .await
        .unwrap()
    }

    /// Tells it something, which must be taken.
    async fn tell(&self, method: &str, path: &str, body: Value) {
        let answer = self.control(method, path, body).await;
        assert_eq!(answer.status, 204, "{answer:?}");
    }

    async fn ask(&self) -> Answer {
        exchange_at(&self.origin, &token_request("demo", "s:1", GRANT))
            .await
            .unwrap()
    }

    async fn stats(&self) -> Value {
        self.control("GET", "/stats", Value::Null).await.json()
    }
}

async fn announced(lines: &mut Lines<BufReader<ChildStdout>>, what: &str) -> String {
    let line = lines
        .next_line()
        .await
        .unwrap()
        .expect("a line for each origin");
    line.strip_prefix(what)
        .unwrap_or_else(|| panic!("{what:?} should begin {line:?}"))
        .to_owned()
}

#[tokio::test]
async fn the_control_api_drives_tokens_clients_and_the_clock() {
    let program = Program::start(&["--client", "demo:s:1", "--lifetime", "30s"]).await;
    let token = program.ask().await.token();
    assert_eq!(program.ask().await.token(), token);
    let valid = program
        .control("POST", "/tokens/valid", json!({"token": token}))
        .await
        .json();
    assert_eq!(valid["valid"], true);
    assert!(valid["expiresAt"].as_str().unwrap().ends_with('Z'));
    program
        .tell("PUT", "/mode", json!({"mode": "always-new"}))
        .await;
    assert_ne!(program.ask().await.token(), token);
    program
        .tell("POST", "/revoke", json!({"token": token}))
        .await;
    assert_eq!(program.stats().await["validTokens"], 1);
    program
        .tell("POST", "/clock/advance", json!({"by": "1m"}))
        .await;
    assert_eq!(program.stats().await["validTokens"], 0);
    program
        .tell("PUT", "/clients/demo", json!({"applicationUser": null}))
        .await;
    assert!(program.ask().await.is_access_denied());
    program
        .tell(
            "PUT",
            "/clients/demo",
            json!({"applicationUser": "x", "lifetime": "2h"}),
        )
        .await;
    assert_eq!(program.ask().await.expires_in(), json!(7199));
    program.tell("POST", "/revoke", json!({"all": true})).await;
    assert_eq!(program.stats().await["validTokens"], 0);
    assert_eq!(program.stats().await["tokenRequests"], 5);
    let requests = program.control("GET", "/requests", Value::Null).await;
    assert_eq!(requests.json().as_array().unwrap().len(), 5);
    assert!(!requests.body.contains("s:1"));
}

#[tokio::test]
async fn the_control_api_brings_and_ends_trouble() {
    let program = Program::start(&["--client", "demo:s:1"]).await;
    program
        .tell("PUT", "/fault", json!({"fault": "maintenance"}))
        .await;
    let limited = json!({"rate-limited": {"retryAfter": {"http-date": "30s"}}});
    program
        .tell("PUT", "/fault", json!({"fault": limited, "times": 1}))
        .await;
    assert_eq!(program.ask().await.status, 429);
    assert_eq!(program.ask().await.status, 503);
    program.tell("DELETE", "/fault", Value::Null).await;
    program
        .tell("PUT", "/property", json!({"enabled": false}))
        .await;
    assert!(program.ask().await.is_access_denied());
    program
        .tell(
            "PUT",
            "/table-fault",
            json!({"fault": {"missing-scope": "s"}}),
        )
        .await;
    program.tell("POST", "/down", Value::Null).await;
    assert!(exchange_at(&program.origin, "").await.is_err());
    program.tell("POST", "/up", Value::Null).await;
    assert_eq!(program.ask().await.status, 401);
    let unknown = program
        .control("PUT", "/fault", json!({"fault": "rain"}))
        .await;
    assert_eq!(unknown.status, 422);
    assert!(
        unknown.body.contains("unknown variant `rain`"),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn every_fault_that_the_help_names_is_understood() {
    let output = command(&["--help"]).output().await.unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let (_, faults) = help.split_once("FAULTS").unwrap();
    let (faults, _) = faults.split_once("Of the Table API").unwrap();
    let program = Program::start(&[]).await;
    let mut understood = 0;
    for line in faults.lines() {
        let values = serde_json::Deserializer::from_str(line).into_iter::<Value>();
        for fault in values.map_while(Result::ok) {
            program
                .tell("PUT", "/fault", json!({ "fault": fault }))
                .await;
            understood += 1;
        }
    }
    assert_eq!(understood, 21, "one for each fault");
}

#[tokio::test]
async fn clients_come_from_a_file_and_tls_writes_its_authority() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (clients, ca) = (file("clients.json"), file("ca.pem"));
    std::fs::write(
        &clients,
        r#"[{"id": "a", "secret": "s", "lifetime": "40s"}]"#,
    )
    .unwrap();
    let program = Program::start(&["--client-file", &clients, "--tls", "--ca-file", &ca]).await;
    assert!(program.origin.starts_with("https://localhost:"));
    assert!(
        std::fs::read_to_string(&ca)
            .unwrap()
            .starts_with("-----BEGIN CERTIFICATE-----")
    );
}

#[tokio::test]
async fn a_signal_ends_the_program_well() {
    for signal in ["-INT", "-TERM"] {
        let mut program = Program::start(&[]).await;
        let id = program.child.id().unwrap().to_string();
        Command::new("kill")
            .args([signal, &id])
            .status()
            .await
            .unwrap();
        assert!(program.child.wait().await.unwrap().success());
    }
}

#[tokio::test]
async fn a_bad_argument_ends_the_program_with_a_sentence_and_no_secret() {
    let cases: [(&[&str], &str); 4] = [
        (
            &["--client", "s3cret"],
            "error: --client takes ID:SECRET, neither of them empty\n",
        ),
        (
            &["--client-ca", "x"],
            "error: --client-ca needs --tls or --tls-cert\n",
        ),
        (
            &["--client-file", "/nowhere"],
            "error: failed to read /nowhere: ",
        ),
        (
            &["--lifetime", "soon"],
            "error: invalid value 'soon' for '--lifetime <DURATION>': \"soon\" is not a duration",
        ),
    ];
    for (arguments, expected) in cases {
        let output = command(arguments).output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success());
        assert!(said.starts_with(expected), "{said}");
        assert!(!said.contains("s3cret"));
    }
}
