//! Completions that the shells themselves accept.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Output,
};

use tempfile::TempDir;
use tokio::process::Command;

use crate::PROGRAM;

/// The script for a shell, in a file.
async fn script(program: &Path, shell: &str) -> (TempDir, PathBuf) {
    let output = Command::new(program).args(["completion", shell]).output();
    let output = output.await.unwrap();
    assert!(output.status.success(), "{shell}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("script");
    fs::write(&file, &output.stdout).unwrap();
    (folder, file)
}

#[tokio::test]
async fn completions_are_printed_for_each_shell_and_accepted_by_those_that_are_here() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (_folder, file) = script(Path::new(PROGRAM), shell).await;
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("all-namespaces"), "{shell}");
    }
    // These read a script without running it. Only the first is on every machine.
    for shell in ["bash", "zsh", "fish"] {
        let (_folder, file) = script(Path::new(PROGRAM), shell).await;
        let read = Command::new(shell).arg("-n").arg(&file).output().await;
        match read {
            Err(error) if error.kind() == ErrorKind::NotFound && shell != "bash" => {}
            read => {
                let Output { status, stderr, .. } = read.unwrap();
                let said = String::from_utf8_lossy(&stderr);
                assert!(status.success() && said.is_empty(), "{shell}: {said}");
            }
        }
    }
}

#[tokio::test]
async fn bash_completes_commands_and_their_flags_under_both_names() {
    // What readline does for the last of some words.
    let complete = r#"
        source "$1"
        shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        read -r -a registered <<<"$(complete -p "$1")"
        "${registered[${#registered[@]} - 2]}" "$1" "${@: -1}" "${@: -2:1}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let links = tempfile::tempdir().unwrap();
    for name in ["servicenow-credential-operator", "kubectl-snowcred"] {
        let program = links.path().join(name);
        symlink(PROGRAM, &program).unwrap();
        let (_folder, script) = script(&program, "bash").await;
        for (typed, completed) in [
            (["sta"].as_slice(), "status\n"),
            (&["c"], "crd\ncheck\ncompletion\n"),
            (&["status", "--all"], "--all-namespaces\n"),
            (&["check", "--authentication", ""], "Basic\nBody\n"),
        ] {
            let mut bash = Command::new("bash");
            bash.args(["--norc", "-c", complete, "bash"]);
            bash.arg(&script).arg(name).args(typed);
            let output = bash.output().await.unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            assert_eq!(
                (text(output.stdout), text(output.stderr)),
                (completed.to_owned(), String::new()),
                "{name} {typed:?}"
            );
        }
    }
}
