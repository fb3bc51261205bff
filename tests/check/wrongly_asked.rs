//! What cannot be checked is said in one sentence.

use testkit::servicenow::Simulator;

use crate::question::{CLIENT_ID, Came, Question, USER, command, file, path, run, set_up};

/// Asks with these options alone.
async fn asked(arguments: &[&str], secret: Option<&str>) -> Came {
    let mut command = command();
    command.arg("check").args(arguments);
    if let Some(secret) = secret {
        command.env("SNOWCRED_CLIENT_SECRET", secret);
    }
    run(command).await
}

#[tokio::test]
async fn what_cannot_be_checked_is_said_in_one_sentence_with_the_next_step() {
    let (binary, no_pem) = (file("x"), file("no certificate"));
    std::fs::write(binary.path(), [0xff, 0xfe]).unwrap();
    let (binary, no_pem) = (path(&binary), path(&no_pem));
    let missing = "/nowhere/secret";
    let whole = ["--instance", "http://127.0.0.1:9", "--client-id", CLIENT_ID];
    let with = |more: &[&'static str]| [&whole[..], more].concat();
    let cases: Vec<(Vec<&str>, Option<&str>, i32, &str)> = vec![
        (
            with(&[]),
            None,
            2,
            "--client-secret-file, or set SNOWCRED_CLIENT_SECRET",
        ),
        (
            with(&[]),
            Some(" \n"),
            1,
            "from SNOWCRED_CLIENT_SECRET is empty",
        ),
        (with(&[]), Some("a\nb"), 1, "has a line break"),
        (
            with(&["--scope", "a b"]),
            Some("s"),
            2,
            "--scope[0]: must be one scope",
        ),
        (
            with(&["--verify-path", "/x"]),
            Some("s"),
            2,
            "--verify-path: must begin with /api/",
        ),
        (with(&["--username", USER]), Some("s"), 2, "--password-file"),
        (
            vec![
                "--instance",
                "http://dev1.service-now.com",
                "--client-id",
                "x",
            ],
            Some("s"),
            2,
            "--instance: must not be plain http",
        ),
        (
            vec![
                "--instance",
                "https://user:hidden-pass@dev1",
                "--client-id",
                "x",
            ],
            Some("s"),
            2,
            "--instance: must be the instance's name",
        ),
        (
            vec!["--instance", "dev1", "--client-id", " "],
            Some("s"),
            2,
            "--client-id is empty",
        ),
        (vec!["--from", "itsm"], None, 2, "team-a/itsm"),
        (vec!["--from", "team-a/itsm"], None, 1, "KUBECONFIG"),
        (
            vec!["--from", "team-a/itsm", "--instance", "dev1"],
            None,
            2,
            "cannot be used with",
        ),
        (vec!["--client-id", "x"], None, 2, "--instance"),
        (with(&["--password-file", "x"]), Some("s"), 2, "--username"),
    ];
    for (arguments, secret, code, says) in cases {
        let came = asked(&arguments, secret).await;
        assert_eq!(came.code, Some(code), "{arguments:?} {}", came.stderr);
        assert!(came.stderr.starts_with("error: "), "{}", came.stderr);
        assert!(came.stderr.contains(says), "{says}: {}", came.stderr);
        assert!(!came.stderr.contains("hidden-pass"), "{}", came.stderr);
        assert_eq!(came.stdout, "");
    }
    for (option, file, says) in [
        (
            "--client-secret-file",
            missing,
            "cannot read the file \"/nowhere/secret\"",
        ),
        ("--client-secret-file", &binary, "does not hold UTF-8 text"),
        ("--ca-file", missing, "cannot read the file"),
        ("--ca-file", &no_pem, "CA certificates in PEM"),
    ] {
        let arguments = [&whole[..], &[option, file]].concat();
        let came = asked(&arguments, Some("s")).await;
        assert_eq!(came.code, Some(1), "{option} {file}");
        assert!(came.stderr.contains(says), "{}", came.stderr);
        assert_eq!(came.stderr.lines().count(), 1, "{}", came.stderr);
    }
}

#[tokio::test]
async fn a_file_of_more_than_a_mebibyte_is_not_taken_for_a_secret_or_a_bundle() {
    const LIMIT: usize = 1024 * 1024;
    let large = file(&"x".repeat(LIMIT + 1));
    let large = path(&large);
    let whole = ["--instance", "http://127.0.0.1:9", "--client-id", CLIENT_ID];
    let user = ["--username", USER];
    for arguments in [
        ["--client-secret-file", &large].as_slice(),
        &["--ca-file", &large],
        &[&user[..], &["--password-file", &large]].concat(),
    ] {
        let came = asked(&[&whole[..], arguments].concat(), Some("s")).await;
        assert_eq!((came.code, came.stdout.as_str()), (Some(1), ""));
        assert_eq!(
            came.stderr,
            format!(
                "error: the file {large:?} is larger than 1 MiB, as no secret and no bundle of \
                 certificates is; check its path\n"
            )
        );
    }
    // One that is as large as may be is read to its end.
    let instance = set_up(Simulator::start_tls().await);
    let ca = instance.ca_pem().unwrap();
    let bundle = "#".repeat(LIMIT - ca.len() - 1) + "\n" + ca;
    let question = Question::new(&instance).with_file("--ca-file", &bundle);
    assert_eq!(question.report().await["ok"], true);
}
