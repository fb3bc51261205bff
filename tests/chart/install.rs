//! The ways in, and what stays: the CRD outlives its release, and with it all resources.

use std::{fs, path::Path, process::Command, time::Duration};

use kube::api::ListParams;
use serde_json::{Value, json};
use servicenow_credential_operator::api::crd_yaml;
use testkit::{
    chart::{self, Helm},
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

    /// The names of objects of these kinds that the chart's label is on.
    async fn installed(&self, kinds: &str) -> Vec<String> {
        let label = "-lapp.kubernetes.io/name=servicenow-credential-operator";
        let all = ["get", kinds, label, "--all-namespaces", "-o", "name"];
        let names = self.cluster.kubectl(&all).await.expect_success();
        names.lines().map(str::to_owned).collect()
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
    let budgets = world.installed("poddisruptionbudgets").await;
    assert_eq!(budgets.len(), 1, "{budgets:?}");

    world.uninstall("snowcred");
    let kinds = "deployments,services,serviceaccounts,roles,rolebindings,clusterroles,\
                 clusterrolebindings,poddisruptionbudgets";
    // What is a scene's own is not of the release.
    let left = world.installed(kinds).await;
    let of_release =
        |name: &&String| !name.contains(&scene.namespace) && !name.contains("operator");
    assert_eq!(left.iter().filter(of_release).count(), 0, "{left:?}");
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
    let apply = ["apply", "--server-side", "--validate=strict", "-f", file];
    world.cluster.kubectl(&apply).await.expect_success();
    let deployments = world.installed("deployments").await;
    assert_eq!(
        deployments,
        ["deployment.apps/servicenow-credential-operator"]
    );
    world.cluster.kubectl(&apply).await.expect_success();
    let delete = ["delete", "--wait=false", "-f", file];
    world.cluster.kubectl(&delete).await.expect_success();
}
