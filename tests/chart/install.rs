//! The ways in, and what stays: the CRD outlives its release, and with it all resources.

use std::{fs, path::Path, process::Command, time::Duration};

use kube::api::ListParams;
use serde_json::{Value, json};
use servicenow_credential_operator::api::crd_yaml;
use testkit::{
    chart::{self, Helm, NAMESPACE},
    cluster::ControlPlane,
    servicenow::Simulator,
};

use crate::{
    fails, succeeds,
    support::{Scene, eventually},
};

const CRD: &str = "servicenowcredentials.snowcred.dev";

struct Cluster {
    helm: Helm,
    cluster: &'static ControlPlane,
}

impl Cluster {
    async fn new() -> Self {
        let cluster = ControlPlane::start().await.unwrap();
        Self {
            helm: Helm::new().unwrap(),
            // It goes with the process.
            cluster: Box::leak(Box::new(cluster)),
        }
    }

    /// Installs the chart or upgrades to it, as a release of this name.
    fn release(&self, verb: &str, namespace: &str, chart: &Path, more: &[&str]) -> Command {
        let mut command = self.helm.command([verb, "snowcred"]);
        command.arg(chart).args(["--namespace", namespace]);
        command.arg("--kubeconfig").arg(self.cluster.kubeconfig());
        command.args(more);
        command
    }

    fn install(&self, namespace: &str, more: &[&str]) -> Command {
        let more = [&["--create-namespace"], more].concat();
        self.release("install", namespace, &chart::folder(), &more)
    }

    fn uninstall(&self, namespace: &str) {
        let mut command = self.helm.command(["uninstall", "snowcred"]);
        command.args(["--namespace", namespace]);
        command.arg("--kubeconfig").arg(self.cluster.kubeconfig());
        succeeds(&mut command);
    }

    /// What a release in this namespace has, beside its CRD.
    async fn installed(&self, namespace: &str) -> Vec<String> {
        let label = "-lapp.kubernetes.io/name=servicenow-credential-operator";
        let kinds = "deployments,services,serviceaccounts,roles,rolebindings,poddisruptionbudgets";
        let own = ["get", kinds, label, "-n", namespace, "-o", "name"];
        let own = self.cluster.kubectl(&own).await.expect_success();
        let kinds = "clusterroles,clusterrolebindings";
        let all = self
            .cluster
            .kubectl(&["get", kinds, label, "-o", "name"])
            .await;
        let of_release = format!("/{namespace}:");
        let all = all.expect_success();
        let all = all.lines().filter(|name| name.contains(&of_release));
        own.lines().chain(all).map(str::to_owned).collect()
    }

    /// The chart with another CRD, as its next version may have.
    fn next_chart(folder: &Path) {
        let from = chart::folder();
        succeeds(Command::new("cp").arg("-R").arg(from.join(".")).arg(folder));
        let crd = folder.join("files/crd.yaml");
        let mut next: Value = serde_saphyr::from_str(&fs::read_to_string(&crd).unwrap()).unwrap();
        next["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = json!("Next.");
        fs::write(crd, next.to_string()).unwrap();
    }

    async fn description(&self) -> String {
        let path = "jsonpath={.spec.versions[0].schema.openAPIV3Schema.description}";
        let get = ["get", "crd", CRD, "-o", path];
        self.cluster.kubectl(&get).await.expect_success()
    }
}

#[tokio::test]
async fn a_release_is_upgraded_with_its_crd_and_leaves_the_crd_and_all_resources_behind() {
    let world = Cluster::new().await;
    let said = succeeds(&mut world.install("snowcred", &[]));
    assert!(said.contains("rollout status deployment/"), "{said}");
    assert!(
        said.contains("can have the operator send any Secret of that"),
        "{said}"
    );
    // It is served a moment after it is there.
    let served = ["wait", "--for=condition=Established", "crd", CRD];
    world.cluster.kubectl(&served).await.expect_success();
    let scene = Scene::on(
        world.cluster,
        Simulator::start().await,
        Duration::from_secs(1800),
    )
    .await;
    eventually("the resource is served", async || {
        let credentials = scene.credentials();
        credentials.list(&ListParams::default()).await.ok()
    })
    .await;
    scene.create("itsm", scene.spec()).await;
    let operator = scene.operator().await;
    let before = scene.await_synced("itsm").await;
    drop(operator);

    let folder = tempfile::tempdir().unwrap();
    Cluster::next_chart(folder.path());
    let more = ["--set", "highAvailability.enabled=true"];
    succeeds(&mut world.release("upgrade", "snowcred", folder.path(), &more));
    assert_eq!(world.description().await, "Next.");
    let installed = world.installed("snowcred").await;
    assert_eq!(installed.len(), 10, "{installed:?}");
    world.uninstall("snowcred");
    assert_eq!(world.installed("snowcred").await, [""; 0]);
    assert_eq!(scene.await_synced("itsm").await, before);
    assert!(scene.token("itsm").await.is_some());
}

#[tokio::test]
async fn a_kept_crd_is_taken_over_by_a_release_in_another_namespace() {
    let world = Cluster::new().await;
    succeeds(&mut world.install("first", &[]));
    world.uninstall("first");
    let said = fails(&mut world.install("second", &[]));
    assert!(said.contains(CRD), "{said}");
    succeeds(&mut world.install("second", &["--take-ownership"]));
    let folder = tempfile::tempdir().unwrap();
    Cluster::next_chart(folder.path());
    succeeds(&mut world.release("upgrade", "second", folder.path(), &[]));
    assert_eq!(world.description().await, "Next.");
}

#[tokio::test]
async fn a_crd_that_kubectl_applied_stays_kubectls_or_is_taken_over() {
    let world = Cluster::new().await;
    let apply = ["apply", "-f", "-"];
    world
        .cluster
        .kubectl_stdin(&apply, &crd_yaml())
        .await
        .expect_success();
    let said = fails(&mut world.install("snowcred", &[]));
    assert!(said.contains(CRD), "{said}");
    succeeds(&mut world.install("snowcred", &["--set", "crds.enabled=false"]));
    world.uninstall("snowcred");
    world
        .cluster
        .kubectl(&["get", "crd", CRD])
        .await
        .expect_success();

    succeeds(&mut world.install("snowcred", &["--take-ownership"]));
    let folder = tempfile::tempdir().unwrap();
    Cluster::next_chart(folder.path());
    let said = fails(&mut world.release("upgrade", "snowcred", folder.path(), &[]));
    assert!(said.contains("conflict"), "{said}");
    let force = ["--force-conflicts"];
    succeeds(&mut world.release("upgrade", "snowcred", folder.path(), &force));
    assert_eq!(world.description().await, "Next.");
}

#[tokio::test]
async fn kubectl_installs_it_with_one_file() {
    let world = Cluster::new().await;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/install.yaml");
    let file = file.to_str().unwrap();
    let apply = ["apply", "--validate=strict", "-f", file];
    world.cluster.kubectl(&apply).await.expect_success();
    let server_side = [&apply[..], &["--server-side", "--force-conflicts"]].concat();
    world.cluster.kubectl(&server_side).await.expect_success();
    let installed = world.installed(NAMESPACE).await;
    assert_eq!(installed.len(), 9, "{installed:?}");
    let release = [
        "delete",
        "--wait=false",
        "-f",
        file,
        "-l",
        "app.kubernetes.io/component!=crd",
    ];
    world.cluster.kubectl(&release).await.expect_success();
    let crd = ["get", "crd", CRD];
    world.cluster.kubectl(&crd).await.expect_success();
    let gone = world.cluster.kubectl(&[
        "get",
        "clusterrole",
        "snowcred-system:servicenow-credential-operator",
    ]);
    assert!(!gone.await.status.success());
}

#[tokio::test]
async fn the_one_file_goes_over_the_crd_that_a_release_left_only_by_force() {
    let world = Cluster::new().await;
    succeeds(&mut world.install("snowcred", &[]));
    world.uninstall("snowcred");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/install.yaml");
    let apply = ["apply", "--server-side", "-f", file.to_str().unwrap()];
    let refused = world.cluster.kubectl(&apply).await;
    assert!(!refused.status.success(), "{}", refused.stdout);
    assert!(refused.stderr.contains("conflict"), "{}", refused.stderr);
    let by_force = [&apply[..], &["--force-conflicts"]].concat();
    world.cluster.kubectl(&by_force).await.expect_success();
    let path = "jsonpath={.metadata.labels.app\\.kubernetes\\.io/instance}";
    let get = ["get", "crd", CRD, "-o", path];
    let instance = world.cluster.kubectl(&get).await.expect_success();
    assert_eq!(instance, chart::RELEASE);
}
