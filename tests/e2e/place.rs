//! Where it runs: a node that this machine becomes, or somebody's own cluster.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use testkit::{
    chart::Helm,
    cluster::{Images, KubectlOutput, Node, NodeOptions, Scratch, binaries},
};
use tokio::{io::AsyncWriteExt as _, time::sleep};

use crate::{image, instance};

/// The namespace of instance and workload.
pub(crate) const NAMESPACE: &str = "snowcred-e2e";
/// The operator's own namespace.
pub(crate) const SYSTEM: &str = "snowcred-system";
/// The operator's pods, whoever installed it.
pub(crate) const SELECTOR: &str = "app.kubernetes.io/name=servicenow-credential-operator";
/// The resource type.
pub(crate) const CRD: &str =
    "customresourcedefinition.apiextensions.k8s.io/servicenowcredentials.snowcred.dev";
/// Programs of testkit, the instance and the workload, in one image.
pub(crate) const TESTKIT_IMAGE: &str = "localhost/snowcred-testkit:e2e";
/// What anything may take that takes seconds on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(200);

/// A cluster to run in.
pub(crate) struct Place {
    kubeconfig: PathBuf,
    kubectl: PathBuf,
    helm: Helm,
    operator_image: String,
    testkit_image: String,
    /// What kubectl learns of this cluster, which is not the developer's.
    learned: Scratch,
    /// Last: what is above is about it.
    node: Option<Node>,
}

impl Place {
    /// The cluster of `E2E_KUBECONFIG`, or a node of its own with the images built for it.
    pub(crate) async fn find(sync: Duration) -> Self {
        let (kubectl, helm) =
            tokio::task::spawn_blocking(|| (binaries::locate_kubectl(), Helm::new()))
                .await
                .unwrap();
        let (kubectl, helm) = (kubectl.unwrap(), helm.unwrap());
        let learned = Scratch::create().unwrap();
        if let Some(kubeconfig) = variable("E2E_KUBECONFIG") {
            let operator_image = variable("E2E_IMAGE").unwrap_or_else(|| {
                panic!(
                    "E2E_KUBECONFIG needs E2E_IMAGE beside it: the operator's image, as the \
                     cluster's nodes know it"
                )
            });
            let place = Self {
                kubeconfig: kubeconfig.into(),
                kubectl,
                helm,
                operator_image,
                testkit_image: variable("E2E_TESTKIT_IMAGE")
                    .unwrap_or_else(|| "snowcred-testkit:e2e".to_owned()),
                learned,
                node: None,
            };
            place.is_nobody_elses().await;
            place.create_namespace().await;
            return place;
        }
        let operator = image::operator().await;
        let testkit = tokio::task::spawn_blocking(testkit_image).await.unwrap();
        let node = Node::start(NodeOptions { sync }).await;
        let node = node.unwrap_or_else(|error| panic!("no node: {error:?}"));
        for archive in [operator, &testkit] {
            node.import(archive).await.unwrap();
        }
        let place = Self {
            kubeconfig: node.control_plane().kubeconfig().to_owned(),
            kubectl,
            helm,
            operator_image: operator.name().to_owned(),
            testkit_image: testkit.name().to_owned(),
            learned,
            node: Some(node),
        };
        place.create_namespace().await;
        place
    }

    /// At the end the resource type goes, and all resources of the cluster with it.
    async fn is_nobody_elses(&self) {
        let get = ["get", CRD, "--ignore-not-found", "--output=name"];
        let found = self.kubectl(&get).await.expect_success();
        assert!(
            found.is_empty(),
            "the cluster has the resource type already: take one where no operator runs, or see \
             docs/e2e.md for what a run that failed has left"
        );
    }

    async fn create_namespace(&self) {
        let namespace = ["create", "namespace", NAMESPACE];
        self.kubectl(&namespace).await.expect_success();
    }

    /// The operator's image.
    pub(crate) fn operator_image(&self) -> &str {
        &self.operator_image
    }

    /// The image of the instance and of the workload.
    pub(crate) fn testkit_image(&self) -> &str {
        &self.testkit_image
    }

    /// Runs kubectl as the administrator.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> KubectlOutput {
        self.kubectl_stdin(arguments, "").await
    }

    /// Applies a manifest.
    pub(crate) async fn apply(&self, manifest: &str) {
        let apply = ["apply", "--server-side", "--filename", "-"];
        self.kubectl_stdin(&apply, manifest).await.expect_success();
    }

    /// As [`Place::kubectl`], with a manifest to read.
    pub(crate) async fn kubectl_stdin(&self, arguments: &[&str], stdin: &str) -> KubectlOutput {
        let mut command = self.kubectl_command();
        command.args(arguments);
        run(command, stdin).await
    }

    /// Runs helm as the administrator.
    pub(crate) async fn helm(&self, arguments: &[&str]) -> KubectlOutput {
        self.helm_stdin(arguments, "").await
    }

    /// As [`Place::helm`], with values to read.
    pub(crate) async fn helm_stdin(&self, arguments: &[&str], stdin: &str) -> KubectlOutput {
        let mut command = self.helm.command(arguments);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        run(command, stdin).await
    }

    /// Runs lines for a shell in the repository, whose kubectl is the administrator's.
    pub(crate) async fn shell(&self, script: &str) -> KubectlOutput {
        let folder = self.kubectl.parent().unwrap().display();
        let path = env::var("PATH").unwrap_or_default();
        let mut command = Command::new("sh");
        command
            .args(["-ec", script])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("PATH", format!("{folder}:{path}"));
        self.to_this_cluster(&mut command);
        run(command, "").await
    }

    /// A command that works on this cluster and keeps what it learns to itself.
    pub(crate) fn kubectl_command(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        self.to_this_cluster(&mut command);
        command
    }

    fn to_this_cluster(&self, command: &mut Command) {
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", self.learned.path());
    }

    /// On drop after a panic: what a person would look at, while it is still there.
    pub(crate) fn tell_on_failure(&self) -> impl Drop {
        Tell(self)
    }

    /// Takes everything away from a cluster that goes on.
    pub(crate) async fn clear(&self) {
        if self.node.is_none() {
            let namespaces = ["delete", "namespace", NAMESPACE, SYSTEM];
            let namespaces = [&namespaces[..], &["--ignore-not-found"]].concat();
            self.kubectl(&namespaces).await.expect_success();
            self.kubectl(&["delete", CRD]).await.expect_success();
        }
    }
}

async fn run(mut command: Command, stdin: &str) -> KubectlOutput {
    command.stdin(Stdio::piped());
    let mut child = tokio::process::Command::from(command)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // It may end without reading everything; its own message says why.
    let _ = pipe.write_all(stdin.as_bytes()).await;
    drop(pipe);
    let output = child.wait_with_output().await.unwrap();
    KubectlOutput {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

struct Tell<'a>(&'a Place);

impl Drop for Tell<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let looks: [&[&str]; 5] = [
            &["get", "pods,nodes", "--all-namespaces", "--output=wide"],
            &["describe", "snc", "--namespace", NAMESPACE],
            &["events", "--all-namespaces", "--types=Warning"],
            &[
                "logs",
                "--tail=40",
                "--prefix",
                "-n",
                SYSTEM,
                "-l",
                SELECTOR,
            ],
            &[
                "logs",
                "--tail=20",
                "--prefix",
                "-n",
                NAMESPACE,
                "-l",
                instance::PART,
            ],
        ];
        for look in looks {
            let _ = self.0.kubectl_command().args(look).status();
        }
        if let Some(node) = &self.0.node {
            let _ = Command::new("tail")
                .args(["-n", "20", "kubelet.log", "containerd.log"])
                .current_dir(node.logs_dir())
                .status();
        }
    }
}

/// Asks until the answer is yes.
pub(crate) async fn until<F: Future<Output = bool>>(
    what: &str,
    patience: Duration,
    is_so: impl Fn() -> F,
) {
    let deadline = Instant::now() + patience;
    while !is_so().await {
        assert!(
            Instant::now() < deadline,
            "{what}: not within {} s",
            patience.as_secs()
        );
        sleep(POLL).await;
    }
}

/// The programs of testkit are beside the operator's.
pub(crate) fn testkit_programs() -> [PathBuf; 2] {
    let folder = Path::new(env!("CARGO_BIN_EXE_servicenow-credential-operator"))
        .parent()
        .unwrap();
    ["servicenow-simulator", "token-user"].map(|name| {
        let path = folder.join(name);
        assert!(
            path.is_file(),
            "{} is not there: build it with `make build`",
            path.display()
        );
        path
    })
}

fn testkit_image() -> testkit::cluster::Archive {
    let programs = testkit_programs();
    let programs: Vec<&Path> = programs.iter().map(PathBuf::as_path).collect();
    let images = Images::open().unwrap();
    images.programs(TESTKIT_IMAGE, &programs).unwrap()
}

pub(crate) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}
