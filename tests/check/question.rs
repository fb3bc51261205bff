//! Asking `check`, and reading what it says.

use std::{
    io::Write as _,
    process::{Output, Stdio},
};

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use testkit::servicenow::{Client, Simulator};
use tokio::process::Command;

const PROGRAM: &str = env!("CARGO_BIN_EXE_servicenow-credential-operator");

/// Marked, so that a leak is found by a search.
pub(crate) const CLIENT_ID: &str = "marked-client-id-77ab";
pub(crate) const CLIENT_SECRET: &str = "marked/client+secret&2c9d";
pub(crate) const USER: &str = "marked.user.name";
pub(crate) const PASSWORD: &str = "marked=pass word%1f";

/// An instance that is set up right.
pub(crate) async fn instance() -> Simulator {
    set_up(Simulator::start().await)
}

pub(crate) fn set_up(instance: Simulator) -> Simulator {
    instance.add_client(Client::new(CLIENT_ID, CLIENT_SECRET).with_scopes(["incidents"]));
    instance.add_user(USER, PASSWORD);
    instance
}

/// A file with this text.
pub(crate) fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// What `check` is asked.
pub(crate) struct Question {
    pub(crate) instance: String,
    secret: NamedTempFile,
    more: Vec<String>,
    kept: Vec<NamedTempFile>,
}

impl Question {
    pub(crate) fn new(instance: &Simulator) -> Self {
        Self {
            instance: instance.origin(),
            secret: file(CLIENT_SECRET),
            more: Vec::new(),
            kept: Vec::new(),
        }
    }

    pub(crate) fn with(mut self, more: &[&str]) -> Self {
        self.more.extend(more.iter().map(ToString::to_string));
        self
    }

    pub(crate) fn with_file(mut self, option: &str, text: &str) -> Self {
        let file = file(text);
        self.more.push(option.to_owned());
        self.more.push(path(&file));
        self.kept.push(file);
        self
    }

    /// With a user to compare with.
    pub(crate) fn with_user(self) -> Self {
        self.with(&["--username", USER])
            .with_file("--password-file", &format!("{PASSWORD}\n"))
    }

    /// With a scope that the client does not have.
    pub(crate) fn with_unknown_scope(self) -> Self {
        self.with(&["--scope", "unknown"])
    }

    pub(crate) async fn ask(&self) -> Came {
        let mut command = command();
        command.args(["check", "--instance", &self.instance]);
        command.args(["--client-id", CLIENT_ID]);
        command.arg("--client-secret-file").arg(self.secret.path());
        command.args(&self.more);
        run(command).await
    }

    pub(crate) async fn report(self) -> Value {
        self.with(&["-o", "json"]).ask().await.json()
    }
}

pub(crate) fn path(file: &NamedTempFile) -> String {
    file.path().to_str().unwrap().to_owned()
}

pub(crate) fn command() -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .stdin(Stdio::null())
        .env_remove("SNOWCRED_CLIENT_SECRET")
        .env("KUBECONFIG", "/nowhere/kubeconfig")
        .kill_on_drop(true);
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(proxy).env_remove(proxy.to_lowercase());
    }
    command
}

/// What a command came to.
pub(crate) struct Came {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) async fn run(mut command: Command) -> Came {
    let output: Output = command.output().await.unwrap();
    let came = Came {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    came.hides_every_secret();
    came
}

impl Came {
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.stderr, "");
        let report: Value = serde_json::from_str(&self.stdout).unwrap();
        let expected = if report["ok"] == json!(true) { 0 } else { 1 };
        assert_eq!(self.code, Some(expected), "{report}");
        report
    }

    fn hides_every_secret(&self) {
        for secret in [CLIENT_ID, CLIENT_SECRET, USER, PASSWORD, "client%2Bsecret"] {
            let all = format!("{}{}", self.stdout, self.stderr);
            assert!(!all.contains(secret), "{all}");
        }
    }
}

/// The names of the causes.
pub(crate) fn causes(report: &Value) -> Vec<&str> {
    let causes = report["causes"].as_array().unwrap();
    causes
        .iter()
        .map(|cause| cause["cause"].as_str().unwrap())
        .collect()
}

pub(crate) fn steps(report: &Value) -> Vec<(&str, bool)> {
    let steps = report["steps"].as_array().unwrap();
    let step = |step: &Value| step["ok"].as_bool().unwrap();
    steps
        .iter()
        .map(|one| (one["step"].as_str().unwrap(), step(one)))
        .collect()
}
