//! A check that obtains a token, and tries it out.

use serde_json::json;
use testkit::servicenow::{AuthMethod, TableFault};

use crate::question::{CLIENT_ID, CLIENT_SECRET, Question, causes, command, instance, run, steps};

#[tokio::test]
async fn a_token_is_obtained_by_one_request_and_not_shown() {
    let instance = instance().await;
    let report = Question::new(&instance).report().await;
    let expected = json!({
        "ok": true,
        "reason": null,
        "message": "Token obtained: valid for 29m59s, scope useraccount.",
        "causes": [],
        "seeAlso": null,
        "expiresIn": 1799,
        "scope": "useraccount",
        "requests": 1,
    });
    let mut rest = report.clone();
    rest.as_object_mut().unwrap().remove("steps");
    assert_eq!(rest, expected);
    let client = [
        ("client", true),
        ("DNS", true),
        ("TLS", true),
        ("HTTP", true),
    ];
    assert_eq!(steps(&report), [&client[..], &[("answer", true)]].concat());
    assert_eq!(instance.requests().len(), 1);
}

#[tokio::test]
async fn a_token_is_shown_to_whoever_asks_for_it() {
    let instance = instance().await;
    let report = Question::new(&instance)
        .with(&["--show-token"])
        .report()
        .await;
    assert!(instance.is_valid(report["token"].as_str().unwrap()));
    let came = Question::new(&instance).with(&["--show-token"]).ask().await;
    assert!(instance.is_valid(came.stdout.lines().last().unwrap()));
}

#[tokio::test]
async fn what_is_asked_is_what_the_options_say() {
    let instance = instance().await;
    let question = Question::new(&instance);
    let report = question
        .with(&[
            "--authentication",
            "body",
            "--scope",
            "incidents",
            "--scope",
            "useraccount",
        ])
        .report()
        .await;
    assert_eq!(report["scope"], "incidents useraccount");
    let requests = instance.requests();
    assert_eq!(requests[0].auth, Some(AuthMethod::Body));
    assert_eq!(requests[0].grant.as_deref(), Some("client_credentials"));
    assert_eq!(requests[0].scope.as_deref(), Some("incidents useraccount"));
}

#[tokio::test]
async fn the_secret_may_be_in_the_environment_and_have_white_space_around_it() {
    let instance = instance().await;
    let mut command = command();
    command.env("SNOWCRED_CLIENT_SECRET", format!(" {CLIENT_SECRET}\n"));
    command.args(["check", "--instance", &instance.origin()]);
    command.args(["--client-id", CLIENT_ID, "-o", "json"]);
    let report = run(command).await.json();
    assert_eq!(
        report["steps"][0],
        json!({
            "step": "client",
            "ok": true,
            "detail": "secret from SNOWCRED_CLIENT_SECRET; the white space around it was taken off, \
                       as the operator does",
        })
    );
    assert_eq!(report["ok"], true);
}

#[tokio::test]
async fn a_token_is_tried_out_where_a_path_is_given() {
    let instance = instance().await;
    let probe = ["--verify-path", "/api/now/table/sys_user?sysparm_limit=1"];
    let report = Question::new(&instance).with(&probe).report().await;
    let (last, said) = (steps(&report).pop(), &report["steps"][5]["detail"]);
    assert_eq!(last, Some(("probe", true)));
    assert!(
        said.as_str()
            .unwrap()
            .ends_with("HTTP 200, the token works.")
    );
    assert_eq!(report["requests"], 2);

    for (fault, reason, says) in [
        (
            TableFault::NoAuthProfile,
            "ProbeUnauthorized",
            "access policy",
        ),
        (
            TableFault::MissingScope("incidents".to_owned()),
            "ProbeForbidden",
            "if --scope is used",
        ),
        (TableFault::ApiAcl, "ProbeForbidden", "may not use this API"),
        (
            TableFault::RateLimited { retry_after: None },
            "ProbeFailed",
            "rate limit",
        ),
    ] {
        instance.set_table_fault(Some(fault));
        let report = Question::new(&instance).with(&probe).report().await;
        assert_eq!(
            (&report["ok"], &report["reason"]),
            (&json!(false), &json!(reason))
        );
        assert_eq!(causes(&report), [reason]);
        let explanation = report["causes"][0]["explanation"].as_str().unwrap();
        assert!(explanation.contains(says), "{explanation}");
    }
}
