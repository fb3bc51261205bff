//! The operator's Helm chart, as Helm renders and installs it.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::cluster::{Error, Scratch, binaries};

/// The folder of the chart.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/servicenow-credential-operator")
}

/// Helm, with nothing of the developer's own settings, plugins and caches.
#[derive(Debug)]
pub struct Helm {
    program: PathBuf,
    home: Scratch,
}

impl Helm {
    /// Finds Helm, or builds it, which blocks the thread for minutes the first time.
    ///
    /// # Errors
    ///
    /// Those of [`binaries::locate_helm`].
    pub fn new() -> Result<Self, Error> {
        let home = Scratch::create()?;
        let program = binaries::locate_helm()?.helm;
        Ok(Self { program, home })
    }

    /// A run of Helm with these arguments, yet to be started.
    pub fn command(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    }

    /// What the chart becomes with these values, as a release of this name and namespace.
    ///
    /// # Errors
    ///
    /// Helm could not be run, or refused the values, with what it said.
    pub fn template(&self, name: &str, namespace: &str, values: &Value) -> io::Result<String> {
        let file = tempfile::NamedTempFile::new_in(self.home.path())?;
        std::fs::write(&file, values.to_string())?;
        let mut command = self.command(["template", name]);
        command.arg(folder());
        command
            .args(["--namespace", namespace, "--values"])
            .arg(file.path());
        let Output {
            status,
            stdout,
            stderr,
        } = command.output()?;
        if !status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&stderr)));
        }
        String::from_utf8(stdout).map_err(io::Error::other)
    }
}

/// Namespace and release of [`manifest`].
pub const NAMESPACE: &str = "snowcred-system";
/// See [`NAMESPACE`].
pub const RELEASE: &str = "servicenow-credential-operator";

/// The one file for those who install with kubectl: the chart with its own values, and a namespace.
///
/// # Errors
///
/// As of [`Helm::template`].
pub fn manifest(helm: &Helm) -> io::Result<String> {
    let rendered = helm.template(RELEASE, NAMESPACE, &Value::Null)?;
    // Nobody shall take it for a release of Helm.
    let ours = |line: &&str| {
        let line = line.trim_start();
        !line.starts_with("app.kubernetes.io/managed-by:") && !line.starts_with("helm.sh/chart:")
    };
    let mut lines: Vec<_> = rendered.lines().filter(ours).collect();
    lines.dedup_by(|line, before| *line == "---" && *before == "---");
    Ok(format!("{MANIFEST_HEAD}{}\n", lines.join("\n")))
}

const MANIFEST_HEAD: &str = "\
# Everything that the operator needs, for kubectl apply: what the Helm chart becomes with its own values,
# in a namespace of its own. Made by `make manifests`. README.md says how to put your image and hosts in.
apiVersion: v1
kind: Namespace
metadata:
  name: snowcred-system
  labels:
    app.kubernetes.io/component: access
    pod-security.kubernetes.io/enforce: restricted
";
