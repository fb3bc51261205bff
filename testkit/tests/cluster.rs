//! What the launcher of the control plane promises: it is a real one, and nothing of it stays.
#![allow(
    clippy::unwrap_used,
    reason = "a step of a test that fails is a test that fails, in the functions around it too"
)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::{Api, Resource as _};
use rustix::process::{Pid, Signal, kill_process};
use testkit::cluster::{ControlPlane, Options, Server, client, shared};
use tokio::time::{sleep, timeout};

const THING_DEFINITION: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.com}
spec:
  group: example.com
  names: {kind: Thing, plural: things, singular: thing}
  scope: Namespaced
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}
";

/// Generous, because several control planes start at once on few cores.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn two_control_planes_run_side_by_side() {
    let (one, other) = tokio::join!(ControlPlane::start(), ControlPlane::start());
    let (one, other) = (one.unwrap(), other.unwrap());

    create(&one, "default", config_map("only-here")).await;

    let maps = |admin| Api::<ConfigMap>::namespaced(admin, "default");
    let here = maps(one.admin().await).get_opt("only-here").await.unwrap();
    let there = maps(other.admin().await).get_opt("only-here").await;
    assert!(here.is_some());
    assert_eq!(there.unwrap(), None);
}

#[tokio::test]
async fn a_control_plane_ends_with_its_process_even_if_that_is_killed() {
    let mut program = Program::start();
    assert_ne!(servers_on(&program.state), Vec::<String>::new());

    program.end(Signal::KILL);

    nothing_is_left_of(&program.state).await;
}

#[tokio::test]
async fn the_program_stops_everything_when_it_is_interrupted() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut program = Program::start();

        let succeeded = program.end(signal);

        assert!(succeeded);
        assert_eq!(servers_on(&program.state), Vec::<String>::new());
        assert!(!program.state.exists());
    }
}

#[tokio::test]
async fn a_test_that_panics_leaves_nothing_behind() {
    let (send, state) = tokio::sync::oneshot::channel();
    let test = tokio::spawn(async move {
        let control_plane = ControlPlane::start().await.unwrap();
        send.send(state_of(control_plane.kubeconfig())).unwrap();
        panic!("as a test does");
    });
    let state = state.await.unwrap();

    assert!(test.await.unwrap_err().is_panic());

    nothing_is_left_of(&state).await;
}

#[tokio::test]
async fn a_server_that_cannot_start_is_named_with_the_end_of_its_log() {
    let options = Options {
        apiserver_arguments: vec!["--no-such-flag".to_owned()],
        ..Options::default()
    };

    let error = ControlPlane::start_with(options).await.err().unwrap();

    let text = error.to_string();
    assert!(
        text.starts_with("kube-apiserver ended (exit status: 1)"),
        "{text}"
    );
    assert!(text.contains("unknown flag: --no-such-flag"), "{text}");
}

#[tokio::test]
async fn what_is_owned_goes_with_its_owner() {
    let control_plane = shared().await;
    let namespace = control_plane.fresh_namespace("owner").await;
    let owner = create(control_plane, &namespace, config_map("owner")).await;
    let mut owned = config_map("owned").metadata;
    owned.owner_references = owner.owner_ref(&()).map(|reference| vec![reference]);
    let secret = Secret {
        metadata: owned,
        ..Secret::default()
    };
    let secrets = Api::<Secret>::namespaced(control_plane.admin().await, &namespace);
    secrets
        .create(&PostParams::default(), &secret)
        .await
        .unwrap();

    Api::<ConfigMap>::namespaced(control_plane.admin().await, &namespace)
        .delete("owner", &DeleteParams::default())
        .await
        .unwrap();

    until("the Secret is gone", async || {
        secrets.get_opt("owned").await.unwrap().is_none()
    })
    .await;
}

#[tokio::test]
async fn what_a_custom_resource_owns_goes_with_it_too() {
    let control_plane = ControlPlane::start().await.unwrap();
    let apply = async |manifest: &str| {
        let arguments = ["apply", "-f", "-"];
        let applied = control_plane.kubectl_stdin(&arguments, manifest).await;
        applied.expect_success();
    };
    apply(THING_DEFINITION).await;
    let established = [
        "wait",
        "--for=condition=Established",
        "crd/things.example.com",
    ];
    control_plane.kubectl(&established).await.expect_success();
    control_plane.restart(Server::ControllerManager).await;
    apply("{apiVersion: example.com/v1, kind: Thing, metadata: {name: owner}}").await;
    let uid = ["get", "thing/owner", "-o", "jsonpath={.metadata.uid}"];
    let uid = control_plane.kubectl(&uid).await.expect_success();
    apply(&format!(
        "{{apiVersion: v1, kind: Secret, metadata: {{name: owned, ownerReferences: [
          {{apiVersion: example.com/v1, kind: Thing, name: owner, uid: {uid}}}]}}}}"
    ))
    .await;

    let delete = ["delete", "thing/owner"];
    control_plane.kubectl(&delete).await.expect_success();

    let secrets = Api::<Secret>::namespaced(control_plane.admin().await, "default");
    until("the Secret is gone", async || {
        secrets.get_opt("owned").await.unwrap().is_none()
    })
    .await;
}

#[tokio::test]
async fn a_service_account_may_do_what_its_rules_say_and_nothing_else() {
    let control_plane = shared().await;
    let namespace = control_plane.fresh_namespace("rules").await;
    let rules = vec![rule("configmaps", &["get", "list"])];

    let kubeconfig = control_plane
        .service_account(&namespace, "reader", rules)
        .await;

    let reader = client(&kubeconfig).await.unwrap();
    let config_maps = Api::<ConfigMap>::namespaced(reader.clone(), &namespace);
    let secrets = Api::<Secret>::namespaced(reader, &namespace);
    let everything = ListParams::default();
    config_maps.list(&everything).await.unwrap();
    let user = format!("system:serviceaccount:{namespace}:reader");
    let created = config_maps
        .create(&PostParams::default(), &config_map("refused"))
        .await;
    assert_forbidden(created, &user);
    assert_forbidden(secrets.list(&everything).await, &user);
}

#[tokio::test]
async fn rules_given_again_replace_those_before() {
    let control_plane = shared().await;
    let namespace = control_plane.fresh_namespace("again").await;
    let account = |resource: &str| {
        let rules = vec![rule(resource, &["list"])];
        control_plane.service_account(&namespace, "reader", rules)
    };
    account("configmaps").await;

    let reader = client(&account("secrets").await).await.unwrap();

    let everything = ListParams::default();
    let config_maps = Api::<ConfigMap>::namespaced(reader.clone(), &namespace);
    let secrets = Api::<Secret>::namespaced(reader, &namespace);
    secrets.list(&everything).await.unwrap();
    assert_forbidden(config_maps.list(&everything).await, "reader");
}

#[tokio::test]
async fn kubectl_applies_what_it_reads_from_standard_input() {
    let control_plane = shared().await;
    let namespace = control_plane.fresh_namespace("kubectl").await;
    let manifest = "{apiVersion: v1, kind: ConfigMap, metadata: {name: read}, data: {a: b}}";

    let applied = control_plane
        .kubectl_stdin(&["apply", "-n", &namespace, "-f", "-"], manifest)
        .await;

    assert_eq!(applied.expect_success(), "configmap/read created\n");
    let get = [
        "get",
        "-n",
        &namespace,
        "configmap/read",
        "-o",
        "jsonpath={.data.a}",
    ];
    assert_eq!(control_plane.kubectl(&get).await.expect_success(), "b");
    let absent = control_plane.kubectl(&["get", "namespace", "absent"]).await;
    assert!(!absent.status.success());
    assert!(absent.stderr.contains("NotFound"), "{}", absent.stderr);
}

#[tokio::test]
async fn the_servers_say_which_kubernetes_they_are() {
    let version = shared().await.kubectl(&["version"]).await.expect_success();
    let module = include_str!("../../tools/go.mod");
    let required = module
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))
        .and_then(|version| version.split(' ').next())
        .unwrap();
    // Somebody else's programs may be of another version.
    if std::env::var_os("KUBEBUILDER_ASSETS").is_none() {
        for side in ["Client", "Server"] {
            let line = format!("{side} Version: {required}");
            assert!(version.contains(&line), "{version}");
        }
    }
}

#[tokio::test]
async fn servers_hang_die_and_come_back_with_what_was_stored() {
    let options = Options {
        audit_log: true,
        ..Options::default()
    };
    let control_plane = ControlPlane::start_with(options).await.unwrap();
    create(&control_plane, "default", config_map("kept")).await;

    control_plane.pause(Server::ApiServer);
    assert!(!answers(&control_plane).await);
    control_plane.resume(Server::ApiServer);
    assert!(answers(&control_plane).await);

    control_plane.pause(Server::Etcd);
    assert!(!answers(&control_plane).await);
    control_plane.resume(Server::Etcd);
    until("etcd answers again", async || answers(&control_plane).await).await;

    control_plane.kill(Server::ApiServer);
    assert!(!answers(&control_plane).await);
    control_plane.restart(Server::ApiServer).await;
    assert!(answers(&control_plane).await);

    control_plane.stop(Server::Etcd).await;
    assert!(!answers(&control_plane).await);
    control_plane.restart(Server::Etcd).await;
    until("etcd is back", async || answers(&control_plane).await).await;

    control_plane.restart(Server::ControllerManager).await;

    let log = fs::read_to_string(control_plane.audit_log().unwrap()).unwrap();
    assert!(log.lines().any(|line| is_audited_creation(line, "kept")));
}

/// Whether the API finds what was stored. A server that hangs is given two seconds.
async fn answers(control_plane: &ControlPlane) -> bool {
    let maps = Api::<ConfigMap>::namespaced(control_plane.admin().await, "default");
    matches!(
        timeout(Duration::from_secs(2), maps.get("kept")).await,
        Ok(Ok(_))
    )
}

fn is_audited_creation(line: &str, name: &str) -> bool {
    let event: serde_json::Value = serde_json::from_str(line).unwrap();
    let object = &event["objectRef"];
    event["verb"] == "create" && object["resource"] == "configmaps" && object["name"] == name
}

fn config_map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    }
}

fn rule(resource: &str, verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![String::new()]),
        resources: Some(vec![resource.to_owned()]),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    }
}

async fn create(control_plane: &ControlPlane, namespace: &str, map: ConfigMap) -> ConfigMap {
    Api::<ConfigMap>::namespaced(control_plane.admin().await, namespace)
        .create(&PostParams::default(), &map)
        .await
        .unwrap()
}

fn assert_forbidden<T>(result: kube::Result<T>, user: &str) {
    match result {
        Err(kube::Error::Api(status)) => {
            assert_eq!(status.code, 403, "{}", status.message);
            assert!(status.message.contains(user), "{}", status.message);
        }
        Err(error) => panic!("failed otherwise: {error}"),
        Ok(_) => panic!("allowed"),
    }
}

/// The program `control-plane`, once it is ready.
struct Program {
    child: Child,
    state: PathBuf,
}

impl Program {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_control-plane"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut kubeconfig = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut kubeconfig)
            .unwrap();
        let state = state_of(Path::new(kubeconfig.trim()));
        Self { child, state }
    }

    fn end(&mut self, signal: Signal) -> bool {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        self.child.wait().unwrap().success()
    }
}

fn state_of(kubeconfig: &Path) -> PathBuf {
    let state = kubeconfig.parent().unwrap();
    assert!(state.is_dir(), "{} is no folder", state.display());
    state.to_owned()
}

async fn nothing_is_left_of(state: &Path) {
    until("no server runs and no file is left", async || {
        servers_on(state).is_empty() && !state.exists()
    })
    .await;
}

/// The command lines of the servers that run on a state folder. A process that has ended and is
/// not yet collected has none.
fn servers_on(state: &Path) -> Vec<String> {
    let state = state.to_str().unwrap();
    let output = Command::new("ps")
        .args(["-A", "-ww", "-o", "args="])
        .output();
    String::from_utf8_lossy(&output.unwrap().stdout)
        .lines()
        .filter(|line| line.contains(state))
        .map(str::to_owned)
        .collect()
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let met = async {
        while !condition().await {
            sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(
        timeout(PATIENCE, met).await.is_ok(),
        "not within {} s: {what}",
        PATIENCE.as_secs()
    );
}
