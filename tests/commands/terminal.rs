//! What a person sees at a terminal, and what nobody sees who looks over their shoulder.

use anstream::adapter::strip_str;
use futures::{StreamExt as _, stream};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use testkit::{
    servicenow::{Client, Simulator},
    terminal::{LINES, Shown, Terminal},
};
use tokio::task::spawn_blocking;

use crate::{
    HALF_AN_HOUR, PROGRAM, eventually,
    support::{self, Scene},
};

/// Runs the program on a terminal of its own.
fn open(arguments: &[&str], environment: &[(&str, &str)], columns: u16) -> Terminal {
    let mut command = std::process::Command::new(PROGRAM);
    command.args(arguments);
    command.envs(environment.iter().copied());
    Terminal::open(&command, columns).unwrap()
}

async fn until_it_shows(terminal: &Terminal, what: &str) {
    let shows = async || terminal.text().contains(what).then_some(());
    eventually(&format!("{what:?} is shown"), shows).await;
}

async fn until_it_hides(terminal: &Terminal) {
    let hides = async || (!terminal.echoes().unwrap()).then_some(());
    eventually("what is typed is not shown", hides).await;
}

/// The keys that hold up what a program shows, and let it go on: Control-S and Control-Q.
const STOP: &str = "\x13";
const GO_ON: &str = "\x11";

/// How it ended. Whoever runs in this process has to go on meanwhile.
async fn ended(terminal: Terminal) -> Shown {
    spawn_blocking(|| terminal.ended()).await.unwrap().unwrap()
}

#[tokio::test]
async fn check_asks_for_secrets_at_the_terminal_and_shows_nothing_of_what_is_typed() {
    let instance = Simulator::start().await;
    instance.add_client(Client::new(support::CLIENT_ID, support::CLIENT_SECRET));
    instance.add_user("somebody", "pass word of somebody");
    let (origin, client) = (instance.origin(), support::CLIENT_ID);
    let arguments = ["check", "--instance", &origin, "--client-id", client];
    let user = ["--username", "somebody"];
    let mut terminal = open(&[&arguments[..], &user].concat(), &[], 80);
    // Nothing can be written to the terminal: whoever asks does not get further than to the question.
    terminal.types(STOP).unwrap();
    until_it_hides(&terminal).await;
    terminal.types(GO_ON).unwrap();
    until_it_shows(
        &terminal,
        "The client secret (what you type is not shown): ",
    )
    .await;
    terminal
        .types(&format!("{}\r", support::CLIENT_SECRET))
        .unwrap();
    until_it_shows(&terminal, "password of the user (what you type is not ").await;
    terminal.types("pass word of somebody\r").unwrap();
    let shown = ended(terminal).await;
    assert!(shown.status.success(), "{}", shown.text);
    assert!(shown.text.contains("from the prompt"), "{}", shown.text);
    for secret in [support::CLIENT_SECRET, "pass word of somebody"] {
        assert!(!shown.text.contains(secret), "{}", shown.text);
    }
}

#[tokio::test]
async fn an_interrupted_prompt_leaves_a_terminal_that_shows_what_is_typed() {
    let instance = Simulator::start().await;
    let (origin, client) = (instance.origin(), support::CLIENT_ID);
    let arguments = ["check", "--instance", &origin, "--client-id", client];
    let mut terminal = open(&arguments, &[], 80);
    until_it_shows(&terminal, "(what you type is not shown): ").await;
    assert!(!terminal.echoes().unwrap());
    terminal.types("half\x03").unwrap();
    let shows = async || terminal.echoes().unwrap().then_some(());
    eventually("what is typed is shown again", shows).await;
    assert_eq!(ended(terminal).await.status.code(), Some(130));
    assert_eq!(instance.requests().len(), 0);

    let terminal = open(&arguments, &[], 80);
    until_it_shows(&terminal, "(what you type is not shown): ").await;
    terminal.terminate().unwrap();
    let shows = async || terminal.echoes().unwrap().then_some(());
    eventually("what is typed is shown again", shows).await;
    assert_eq!(ended(terminal).await.status.code(), Some(143));
}

#[tokio::test]
async fn a_prompt_is_not_left_but_by_an_answer_or_an_interrupt() {
    let nowhere = ["--instance", "http://127.0.0.1:1", "--client-id", "x"];
    let mut terminal = open(&[&["check"], &nowhere[..]].concat(), &[], 80);
    until_it_shows(&terminal, "(what you type is not shown): ").await;
    let (suspend, quit) = ("\x1a", "\x1c");
    terminal.types(&format!("a{suspend}b{quit}c\r")).unwrap();
    let shown = ended(terminal).await;
    assert_eq!(shown.status.code(), Some(1), "{}", shown.text);
    assert!(shown.text.contains("from the prompt"), "{}", shown.text);
}

#[tokio::test]
async fn who_does_not_answer_a_prompt_is_told_what_else_can_be_done() {
    let nowhere = ["--instance", "http://127.0.0.1:1", "--client-id", "x"];
    let mut terminal = open(&[&["check"], &nowhere[..]].concat(), &[], 200);
    until_it_shows(&terminal, "(what you type is not shown): ").await;
    let end_of_file = "\x04";
    terminal.types(end_of_file).unwrap();
    let shown = ended(terminal).await;
    assert_eq!(shown.status.code(), Some(1));
    assert_eq!(
        shown.text,
        "The client secret (what you type is not shown): error: cannot ask for the client secret: \
         unexpected end of file; name a file as --client-secret-file, or set \
         SNOWCRED_CLIENT_SECRET\n"
    );
}

#[tokio::test]
async fn nobody_is_asked_for_a_secret_before_the_files_are_read() {
    let nowhere = "/nowhere/password";
    let arguments = [
        "check",
        "--instance",
        "http://127.0.0.1:1",
        "--client-id",
        "x",
    ];
    let user = ["--username", "somebody", "--password-file", nowhere];
    let terminal = open(&[&arguments[..], &user].concat(), &[], 200);
    until_it_shows(&terminal, "permissions").await;
    let shown = ended(terminal).await;
    assert_eq!(shown.status.code(), Some(1));
    assert_eq!(
        shown.text,
        "error: cannot read the file \"/nowhere/password\": No such file or directory (os error 2); \
         check its path and its permissions\n"
    );
}

#[tokio::test]
async fn colours_are_for_terminals_that_know_them_and_for_whoever_wants_them() {
    let scene = Scene::new(HALF_AN_HOUR).await;
    scene.create("itsm", scene.spec()).await;
    let kubeconfig = scene.cluster.kubeconfig().to_str().unwrap().to_owned();
    let status = ["status", "-n", &scene.namespace];
    for (environment, coloured) in [
        ([("TERM", "xterm"), ("NO_COLOR", "")], true),
        ([("TERM", "xterm"), ("NO_COLOR", "1")], false),
        ([("TERM", "dumb"), ("NO_COLOR", "")], false),
    ] {
        // Some let nothing but a word of the user's own stand against it.
        let environment = [
            &environment[..],
            &[("CI", "true"), ("KUBECONFIG", &kubeconfig)],
        ];
        let shown = ended(open(&status, &environment.concat(), 80)).await;
        assert_eq!(
            shown.text.contains('\x1b'),
            coloured,
            "{environment:?} {}",
            shown.text
        );
        let plain = strip_str(&shown.text).to_string();
        assert!(plain.starts_with("1 resource: 1 pending\n"), "{plain}");
    }
}

#[tokio::test]
async fn a_dumb_terminal_follows_the_fleet_line_by_line() {
    let scene = Scene::new(HALF_AN_HOUR).await;
    scene.create("itsm", scene.spec()).await;
    let kubeconfig = scene.cluster.kubeconfig().to_str().unwrap().to_owned();
    let environment = [("TERM", "dumb"), ("KUBECONFIG", &*kubeconfig)];
    let status = ["status", "-w", "-n", &scene.namespace];
    let mut terminal = open(&status, &environment, 80);
    until_it_shows(&terminal, "/itsm Ready=Pending Synced=Pending ").await;
    fails(&scene, "itsm", "AccessDenied", "the instance refused").await;
    until_it_shows(&terminal, "/itsm Ready=AccessDenied Synced=AccessDenied ").await;
    terminal.types("\x03").unwrap();
    let shown = ended(terminal).await;
    assert!(shown.status.success(), "{:?}", shown.status);
    assert!(!shown.text.contains('\x1b'), "{}", shown.text);
}

/// The table as it was drawn last, without its colours.
fn last_table(shown: &str) -> Vec<String> {
    // Each is drawn from the top left corner on; what is under it is wiped away.
    let tables = shown.split("\x1b[H").skip(1);
    let whole = tables.filter_map(|table| table.split_once("\x1b[J"));
    let last = whole.last().map_or("", |(table, _)| table);
    strip_str(last)
        .to_string()
        .lines()
        .map(str::to_owned)
        .collect()
}

async fn fails(scene: &Scene, name: &str, reason: &str, advice: &str) {
    let condition = |kind| {
        json!({
            "type": kind, "status": "False", "reason": reason, "message": advice,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    let status = json!({"status": {"conditions": [condition("Ready"), condition("Synced")]}});
    let (params, patch) = (PatchParams::default(), Patch::Merge(status));
    let resources = scene.credentials();
    resources.patch_status(name, &params, &patch).await.unwrap();
}

async fn create_fleet(scene: &Scene, count: usize, spec: &Value) {
    let create = |number| async move {
        scene.create(&format!("r{number:03}"), spec.clone()).await;
    };
    stream::iter(0..count).for_each_concurrent(8, create).await;
}

#[tokio::test]
async fn the_live_table_of_five_hundred_fits_the_screen_and_begins_with_what_needs_attention() {
    let scene = Scene::new(HALF_AN_HOUR).await;
    create_fleet(&scene, 500, &scene.spec()).await;
    let advice = "the instance refused the client; ".repeat(20);
    fails(&scene, "r400", "AccessDenied", &advice).await;
    let kubeconfig = scene.cluster.kubeconfig().to_str().unwrap().to_owned();
    let environment = [("KUBECONFIG", &*kubeconfig)];
    let arguments = ["status", "-w", "-n", &scene.namespace];
    let mut terminals = [80, 120].map(|columns| (open(&arguments, &environment, columns), columns));
    for (terminal, columns) in &terminals {
        until_it_shows(terminal, "1 not ready, 499 pending").await;
        until_it_shows(terminal, "\x1b[J").await;
        let table = last_table(&terminal.text());
        assert!(table[2].starts_with("r400 "), "{table:#?}");
        assert!(table[3].contains("the instance refused"), "{table:#?}");
        assert_eq!(table.len(), usize::from(LINES), "{table:#?}");
        assert!(table.last().unwrap().starts_with("… and 4"), "{table:#?}");
        let fits = |line: &String| line.chars().count() <= usize::from(*columns);
        assert!(table.iter().all(fits), "{table:#?}");
    }

    fails(&scene, "r300", "ClientSecretMissing", "create the Secret").await;
    for (terminal, _) in &terminals {
        eventually("both that need attention are there", async || {
            let table = last_table(&terminal.text());
            let is_there = |name| table.iter().any(|line| line.starts_with(name));
            ["r300 ", "r400 "].into_iter().all(is_there).then_some(())
        })
        .await;
    }
    for (terminal, _) in &mut terminals {
        terminal.types("\x03").unwrap();
    }
    for (terminal, _) in terminals {
        let shown = ended(terminal).await;
        assert!(shown.status.success(), "{:?}", shown.status);
        let behind = "\x1b[?25h\x1b[?1049l";
        assert!(
            shown.text.ends_with(behind),
            "the cursor and the text behind the table come back"
        );
    }
}
