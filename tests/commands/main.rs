//! `status`, `renew` and `check --from`, as people use them beside a running operator, also through kubectl.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test ends where it cannot go on, and lives in real time"
)]

#[path = "../support/mod.rs"]
mod support;

mod check;
mod completion;
mod kubeconfig;
mod refused;
mod terminal;

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use serde_json::Value;
use support::{Scene, eventually};
use testkit::{
    operator::Operator,
    servicenow::{Fault, TokenMode},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_servicenow-credential-operator");

/// What a command came to.
struct Came {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

fn command(scene: &Scene, program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("KUBECONFIG", scene.cluster.kubeconfig())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn run(mut command: Command) -> Came {
    let output = command.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Came {
        status: output.status,
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Runs the program in the scene's namespace.
async fn ask(scene: &Scene, arguments: &[&str]) -> Came {
    let mut all = arguments.to_vec();
    all.extend(["-n", &scene.namespace]);
    run(command(scene, Path::new(PROGRAM), &all)).await
}

/// An operator that renews whenever it is asked, and one resource that is synced.
async fn synced(lifetime: Duration, mode: TokenMode) -> (Scene, Operator) {
    let scene = Scene::new(lifetime).await;
    scene.instance.set_mode(mode);
    let operator = Operator::start(&scene.options(&["--min-renew-interval=1ms"])).await;
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    (scene, operator)
}

const HALF_AN_HOUR: Duration = Duration::from_secs(1800);

#[tokio::test]
async fn renew_waits_for_what_came_of_it_in_each_token_mode() {
    for (mode, says) in [
        (TokenMode::AlwaysNew, "itsm: new token, valid until "),
        (TokenMode::ReuseSlide, "itsm: same token, valid until "),
        (TokenMode::ReuseRemaining, "itsm: same token, valid until "),
    ] {
        let (scene, _operator) = synced(HALF_AN_HOUR, mode).await;
        let came = ask(&scene, &["renew", "itsm", "--wait"]).await;
        assert!(came.status.success(), "{}", came.stderr);
        assert!(came.stdout.starts_with(says), "{}", came.stdout);
        assert_eq!(scene.instance.token_requests(), 2);
    }
}

#[tokio::test]
async fn renew_tells_the_reason_of_a_failure_and_which_names_are_wrong() {
    let (scene, _operator) = synced(HALF_AN_HOUR, TokenMode::AlwaysNew).await;
    scene.instance.set_fault(Some(Fault::HibernationPage));
    let came = ask(&scene, &["renew", "itsm", "nobody", "--wait"]).await;
    assert_eq!(came.status.code(), Some(1));
    assert_eq!(came.stdout, "");
    let missing = format!(
        "error: there is no ServiceNowCredential \"nobody\" in namespace {:?}; see which there are \
         with: kubectl get servicenowcredentials --all-namespaces\n",
        scene.namespace
    );
    let failed = came.stderr.strip_prefix(&missing).unwrap();
    assert!(
        failed.starts_with("error: itsm: InstanceHibernating: "),
        "{failed}"
    );
}

#[tokio::test]
async fn renew_without_waiting_only_asks() {
    let scene = Scene::new(HALF_AN_HOUR).await;
    scene.create("itsm", scene.spec()).await;
    let came = ask(&scene, &["renew", "itsm"]).await;
    assert!(came.status.success(), "{}", came.stderr);
    assert_eq!(came.stdout, "itsm: renewal requested\n");
    let annotations = scene.get("itsm").await.metadata.annotations.unwrap();
    assert!(annotations.contains_key("snowcred.dev/renew-requested-at"));
}

#[tokio::test]
async fn status_shows_the_fleet_as_a_table_and_as_json() {
    let (scene, _operator) = synced(HALF_AN_HOUR, TokenMode::AlwaysNew).await;
    let mut wrong = scene.spec();
    wrong["instance"] = "https://evil.example".into();
    scene.create("crm", wrong).await;
    scene.await_failure("crm", "HostNotAllowed").await;
    let came = ask(&scene, &["status"]).await;
    assert!(came.status.success(), "{}", came.stderr);
    let lines: Vec<_> = came.stdout.lines().collect();
    assert_eq!(lines[0], "2 resources: 1 not ready, 1 well");
    assert!(lines[2].starts_with("crm "), "{}", came.stdout);
    assert!(lines[3].contains("--allowed-hosts"), "{}", came.stdout);
    assert!(lines[4].starts_with("itsm "), "{}", came.stdout);
    assert!(!came.stdout.contains('\x1b'), "colours are for terminals");

    let came = ask(&scene, &["status", "itsm", "-o", "json"]).await;
    let rows: Value = serde_json::from_str(&came.stdout).unwrap();
    let status = scene.get("itsm").await.status.unwrap();
    let expires: jiff::Timestamp = rows[0]["expiresAt"].as_str().unwrap().parse().unwrap();
    assert_eq!(expires, status.token.unwrap().expires_at.0);
    assert_eq!(
        (&rows[0]["name"], &rows[0]["synced"]["reason"]),
        (&"itsm".into(), &"TokenSynced".into())
    );
    assert_eq!(rows.as_array().unwrap().len(), 1);

    let came = ask(&scene, &["status", "nobody"]).await;
    assert_eq!(came.status.code(), Some(1));
    assert!(came.stderr.contains("\"nobody\""), "{}", came.stderr);
}

#[tokio::test]
async fn status_follows_with_a_line_for_each_change_where_there_is_no_terminal() {
    let (scene, _operator) = synced(HALF_AN_HOUR, TokenMode::AlwaysNew).await;
    let arguments = ["status", "-w", "-n", &scene.namespace];
    let mut command = command(&scene, Path::new(PROGRAM), &arguments);
    let mut following = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().unwrap();
    let which = format!(
        " {}/itsm Ready=TokenValid Synced=TokenSynced expires=",
        scene.namespace
    );
    assert!(first.contains(&which), "{first}");
    scene.instance.set_fault(Some(Fault::Maintenance));
    scene.renew("itsm", "now").await;
    let second = lines.next_line().await.unwrap().unwrap();
    assert!(second.contains("Synced=InstanceUnavailable"), "{second}");
    following.start_kill().unwrap();
}

#[tokio::test]
async fn what_does_not_exist_is_told_with_how_to_see_what_does() {
    let scene = Scene::new(HALF_AN_HOUR).await;
    let nowhere = ["-n", "nowhere-at-all"];
    for arguments in [["status"].as_slice(), &["status", "-w"]] {
        let all = [arguments, &nowhere].concat();
        let came = run(command(&scene, Path::new(PROGRAM), &all)).await;
        assert_eq!(came.status.code(), Some(1), "{all:?}");
        assert_eq!(
            came.stderr,
            "error: there is no namespace \"nowhere-at-all\"; see which there are with: kubectl get \
             namespaces\n"
        );
    }
    for arguments in [["status", "-w", "nobody"].as_slice(), &["renew", "nobody"]] {
        let came = ask(&scene, arguments).await;
        assert_eq!(came.status.code(), Some(1), "{arguments:?}");
        let said = "there is no ServiceNowCredential \"nobody\" in namespace";
        assert!(came.stderr.contains(said), "{}", came.stderr);
        assert!(came.stderr.contains("kubectl get servicenowcredentials"));
    }
    let came = ask(&scene, &["status"]).await;
    assert!(came.status.success());
    let said = format!(
        "there is no ServiceNowCredential in namespace {:?}\n",
        scene.namespace
    );
    assert_eq!(came.stderr, said);
}

#[tokio::test]
async fn what_is_no_name_never_becomes_part_of_a_url() {
    let (scene, _operator) = synced(HALF_AN_HOUR, TokenMode::AlwaysNew).await;
    let wrong = [
        ["renew", "itsm/status"].as_slice(),
        &["renew", "itsm?dryRun=All"],
        &["status", "team-a/itsm"],
        &["check", "--from", "team-a/its m"],
    ];
    for arguments in wrong {
        let came = run(command(&scene, Path::new(PROGRAM), arguments)).await;
        assert_eq!(came.status.code(), Some(2), "{arguments:?}");
    }
    let came = run(command(&scene, Path::new(PROGRAM), &["status", "-n", ""])).await;
    assert_eq!(came.status.code(), Some(2));
}

#[tokio::test]
async fn renew_asks_for_all_even_where_nobody_reads_what_it_says() {
    let (scene, _operator) = synced(HALF_AN_HOUR, TokenMode::AlwaysNew).await;
    scene.create("crm", scene.spec()).await;
    scene.await_synced("crm").await;
    let arguments = ["renew", "nobody", "itsm", "crm", "-n", &scene.namespace];
    let mut command = command(&scene, Path::new(PROGRAM), &arguments);
    let mut renewing = command.stdout(Stdio::piped()).spawn().unwrap();
    drop(renewing.stdout.take());
    assert_eq!(renewing.wait().await.unwrap().code(), Some(1));
    for name in ["itsm", "crm"] {
        let asked = scene.get(name).await.metadata.annotations.unwrap();
        assert!(
            asked.contains_key("snowcred.dev/renew-requested-at"),
            "{name}"
        );
    }
}

#[tokio::test]
async fn kubectl_finds_the_plugin_by_its_link() {
    let (scene, _operator) = synced(HALF_AN_HOUR, TokenMode::AlwaysNew).await;
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(PROGRAM, folder.path().join("kubectl-snowcred")).unwrap();
    let kubectl = scene.cluster.kubectl_path();
    let path = format!(
        "{}:{}",
        folder.path().display(),
        std::env::var("PATH").unwrap()
    );
    let arguments = [
        "snowcred",
        "renew",
        "itsm",
        "--wait",
        "-n",
        &scene.namespace,
    ];
    let mut plugin = command(&scene, kubectl, &arguments);
    plugin.env("PATH", &path);
    let came = run(plugin).await;
    assert!(came.status.success(), "{}", came.stderr);
    assert!(
        came.stdout.starts_with("itsm: new token"),
        "{}",
        came.stdout
    );
    let mut help = command(&scene, kubectl, &["snowcred", "status", "--help"]);
    help.env("PATH", &path);
    let help = run(help).await.stdout;
    assert!(help.contains("Usage: kubectl snowcred status"), "{help}");
}

#[tokio::test]
async fn commands_go_by_the_context_and_its_namespace_as_kubectl_does() {
    let (scene, _operator) = synced(HALF_AN_HOUR, TokenMode::AlwaysNew).await;
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("config");
    std::fs::copy(scene.cluster.kubeconfig(), &kubeconfig).unwrap();
    let kubectl = |arguments: Vec<String>| {
        let mut command = Command::new(scene.cluster.kubectl_path());
        command.args(arguments).env("KUBECONFIG", &kubeconfig);
        command
    };
    let of = |template: &str| vec!["config".into(), "view".into(), "-o".into(), template.into()];
    let current = run(kubectl(of(
        "jsonpath={.contexts[0].context.cluster},{.contexts[0].context.user}",
    )))
    .await;
    let (cluster, user) = current.stdout.split_once(',').unwrap();
    let words = format!(
        "config set-context other --cluster={cluster} --user={user} --namespace={}",
        scene.namespace
    );
    let set = run(kubectl(words.split(' ').map(str::to_owned).collect())).await;
    assert!(set.status.success(), "{}", set.stderr);
    let mut status = command(
        &scene,
        Path::new(PROGRAM),
        &["status", "--context", "other"],
    );
    status.env("KUBECONFIG", &kubeconfig);
    let came = run(status).await;
    assert!(
        came.stdout.contains("itsm "),
        "{}{}",
        came.stdout,
        came.stderr
    );
    let mut wrong = command(
        &scene,
        Path::new(PROGRAM),
        &["status", "--context", "nowhere"],
    );
    wrong.env("KUBECONFIG", &kubeconfig);
    let came = run(wrong).await;
    assert_eq!(came.status.code(), Some(1));
    assert!(came.stderr.contains("nowhere"), "{}", came.stderr);
}

#[tokio::test]
async fn no_command_fails_or_complains_where_nobody_reads_what_it_says() {
    let scene = Scene::new(HALF_AN_HOUR).await;
    scene.create("itsm", scene.spec()).await;
    let (origin, resource) = (scene.instance.origin(), format!("{}/itsm", scene.namespace));
    let check = ["check", "--instance", &origin];
    for arguments in [
        ["status", "-n", &scene.namespace].as_slice(),
        &["status", "itsm", "-o", "json", "-n", &scene.namespace],
        &["status", "-w", "-n", &scene.namespace],
        &[&check[..], &["--client-id", support::CLIENT_ID]].concat(),
        &["check", "--from", &resource, "-o", "json"],
        &["completion", "bash"],
        &["crd"],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = command(&scene, Path::new(PROGRAM), arguments);
        command
            .env("SNOWCRED_CLIENT_SECRET", support::CLIENT_SECRET)
            .stdout(writer)
            .stderr(Stdio::piped());
        let ended = command.spawn().unwrap().wait_with_output().await.unwrap();
        let stderr = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(
            (ended.status.code(), stderr.as_str()),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
}
