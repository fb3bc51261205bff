//! The promise of the README's transcripts: they are what the commands print today.
//!
//! `make transcripts` writes them anew. Only what differs from run to run is replaced, by the same
//! rules in both.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test ends where it cannot go on, and lives in real time"
)]

mod support;

use std::{fs, path::Path, process::Command, time::Duration};

use serde_json::json;
use support::{CLIENT_ID, CLIENT_SECRET, Scene};
use testkit::{
    operator::Operator,
    servicenow::{Options, Simulator, Tls, TokenMode},
    terminal,
};
use tokio::task::spawn_blocking;

const PROGRAM: &str = env!("CARGO_BIN_EXE_servicenow-credential-operator");
/// Set, the README is written instead of compared.
const WRITE: &str = "SNOWCRED_WRITE_TRANSCRIPTS";

const CHECK: &str = "kubectl snowcred check --instance dev12345 --client-id 3e57bb02";
const PATH: &str = "/api/now/table/sys_user?sysparm_limit=1";

/// What a person types, as the README shows it, and what the program prints.
struct Transcript {
    name: &'static str,
    typed: String,
    printed: String,
}

/// Runs the program as a person does, on a terminal of 80 columns. Colours are taken off.
async fn printed(scene: &Scene, arguments: &[&str]) -> String {
    let mut command = Command::new(PROGRAM);
    command
        .args(arguments)
        .env("KUBECONFIG", scene.cluster.kubeconfig())
        .env("SNOWCRED_CLIENT_SECRET", CLIENT_SECRET)
        .env("NO_COLOR", "1");
    // The instance runs in this very process, and has to answer meanwhile.
    let shown = spawn_blocking(|| terminal::run(command, 80)).await.unwrap();
    shown.unwrap().text
}

async fn transcripts() -> Vec<Transcript> {
    let options = Options {
        tls: Tls::Generated,
        ..Options::default()
    };
    let instance = Simulator::start_with(options).await.unwrap();
    let scene = Scene::with_instance(instance, Duration::from_secs(1800)).await;
    scene.instance.set_mode(TokenMode::AlwaysNew);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let ca = file("ca.crt", scene.instance.ca_pem().unwrap());
    let password = file("password", "a password");
    scene.instance.add_user("somebody", "a password");
    let origin = scene.instance.origin();
    let check = [
        "check",
        "--instance",
        &origin,
        "--client-id",
        CLIENT_ID,
        "--ca-file",
        &ca,
    ];

    let path = ["--verify-path", PATH];
    let good = printed(&scene, &[&check[..], &path].concat()).await;
    scene.instance.set_property_enabled(false);
    let user = ["--username", "somebody", "--password-file", &password];
    let refused = printed(&scene, &[&check[..], &user].concat()).await;
    scene.instance.set_property_enabled(true);

    let bundle = json!({"stringData": {"ca.crt": scene.instance.ca_pem()}});
    scene.put_secret("corp-ca", bundle).await;
    let host = origin.replace("https://", "");
    let allowed = format!("--allowed-hosts={host}");
    let more = [&*allowed, "--min-renew-interval=1ms"];
    let _operator = Operator::start(&scene.options(&more)).await;
    let mut spec = scene.spec();
    spec["tls"] = json!({"caBundleRef": {"kind": "Secret", "name": "corp-ca", "key": "ca.crt"}});
    scene.create("itsm", spec.clone()).await;
    scene.await_synced("itsm").await;
    spec["client"]["secretRef"]["name"] = json!("crm-oauth-client");
    scene.create("crm", spec).await;
    scene.await_failure("crm", "ClientSecretMissing").await;
    let namespace = ["-n", &scene.namespace];
    let status = printed(&scene, &[&["status"][..], &namespace].concat()).await;
    let renew = ["renew", "itsm", "--wait"];
    let renewed = printed(&scene, &[&renew[..], &namespace].concat()).await;

    let shown = |text: String| {
        let text = text.replace(&origin, "https://dev12345.service-now.com");
        let text = text.replace(&host, "dev12345.service-now.com");
        // Which addresses a machine has for its own name differs.
        let lines = text.lines().map(|line| match line.split_once(" is ") {
            Some((before, _)) if before.contains("DNS ") => format!("{before} is 192.0.2.10"),
            _ => line.to_owned(),
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        let text = text.replace("localhost", "dev12345.service-now.com");
        text.replace(&scene.namespace, "team-a")
    };
    [
        ("check", format!("{CHECK} --verify-path '{PATH}'"), good),
        ("refused", format!("{CHECK} --username somebody"), refused),
        ("status", "kubectl snowcred status".to_owned(), status),
        (
            "renew",
            "kubectl snowcred renew itsm --wait".to_owned(),
            renewed,
        ),
    ]
    .map(|(name, typed, text)| Transcript {
        name,
        typed,
        printed: shown(text),
    })
    .into()
}

/// What differs from run to run, by one rule for the README and for what was just printed: times,
/// durations, and the breaks of lines that depend on them.
fn without_chance(text: &str) -> String {
    let mut same: Vec<&str> = Vec::new();
    for word in text.split_whitespace() {
        let bare = word.trim_end_matches(['.', ',', ';']);
        let is_duration = bare.starts_with(|c: char| c.is_ascii_digit())
            && bare.ends_with(['s', 'm', 'h'])
            && bare
                .chars()
                .all(|c| c.is_ascii_digit() || "dhms".contains(c));
        if bare.parse::<jiff::Timestamp>().is_ok() || is_duration {
            same.push("<time>");
        } else if bare == "ms" {
            same.pop();
            same.push("<time>");
        } else {
            same.push(word);
        }
    }
    same.join(" ")
}

/// The README with these transcripts in the place of the old ones.
fn with(readme: &str, transcripts: &[Transcript]) -> String {
    let mut text = readme.to_owned();
    for Transcript {
        name,
        typed,
        printed,
    } in transcripts
    {
        let begin = format!("<!-- transcript {name} -->\n");
        let start = text.find(&begin).unwrap_or_else(|| panic!("no {begin}")) + begin.len();
        let end = start + text[start..].find("<!-- end -->").expect("an end");
        let block = format!("```text\n$ {typed}\n{}\n```\n", printed.trim_end());
        text.replace_range(start..end, &block);
    }
    text
}

// Several threads, because the instance runs in this process and answers while a command waits.
#[tokio::test(flavor = "multi_thread")]
async fn the_transcripts_of_the_readme_are_what_the_commands_print() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&file).unwrap();
    let today = with(&readme, &transcripts().await);
    if std::env::var_os(WRITE).is_some() {
        fs::write(file, today).unwrap();
        return;
    }
    let (is, shall) = (without_chance(&readme), without_chance(&today));
    assert_eq!(is, shall, "run: make transcripts");
}
