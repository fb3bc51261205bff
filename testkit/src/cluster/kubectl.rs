//! kubectl, as the administrator of a control plane.

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::ControlPlane;

/// What a run of kubectl came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubectlOutput {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl KubectlOutput {
    /// What it printed, if it succeeded.
    ///
    /// # Panics
    ///
    /// If it failed, with what it complained of.
    pub fn expect_success(self) -> String {
        assert!(
            self.status.success(),
            "kubectl failed ({}): {}{}",
            self.status,
            self.stderr,
            self.stdout
        );
        self.stdout
    }
}

impl ControlPlane {
    /// The program kubectl, of the version of the control plane.
    pub fn kubectl_path(&self) -> &Path {
        &self.plan.binaries.kubectl
    }

    /// Runs kubectl with these arguments as the administrator.
    ///
    /// # Panics
    ///
    /// If kubectl cannot be run at all.
    pub async fn kubectl(&self, arguments: &[&str]) -> KubectlOutput {
        self.kubectl_stdin(arguments, "").await
    }

    /// As [`ControlPlane::kubectl`], with something to read, such as a manifest for `apply -f -`.
    ///
    /// # Panics
    ///
    /// If kubectl cannot be run at all.
    pub async fn kubectl_stdin(&self, arguments: &[&str], stdin: &str) -> KubectlOutput {
        self.run_kubectl(arguments, stdin)
            .await
            .unwrap_or_else(|error| {
                panic!("failed to run {}: {error}", self.kubectl_path().display())
            })
    }

    async fn run_kubectl(&self, arguments: &[&str], stdin: &str) -> std::io::Result<KubectlOutput> {
        let mut child = Command::new(self.kubectl_path())
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig())
            // What it learns of this API belongs to this control plane, not to the developer.
            .env("KUBECACHEDIR", self.plan.state.join("kubectl-cache"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take();
        let feed = async {
            if let Some(mut pipe) = input {
                // kubectl may end without reading everything; its own message says why.
                let _ = pipe.write_all(stdin.as_bytes()).await;
            }
        };
        let ((), output) = tokio::join!(feed, child.wait_with_output());
        let output = output?;
        Ok(KubectlOutput {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}
