//! The promise of admission: the API server refuses what the operator could only fail at, with a
//! sentence that says what to write instead, and it keeps what was written as it was written.

mod accepted;
mod apply;
mod cluster;
mod kubectl;
mod refused;

use serde_json::{Value, json};
use servicenow_credential_operator::api::{ServiceNowCredentialSpec, admission};

use crate::cluster::{CREATE, cluster, documents, resource};

/// The smallest spec, with a change (a JSON merge patch).
fn spec(change: &Value) -> Value {
    let mut spec = json!({
        "instance": "dev12345",
        "client": {"secretRef": {"name": "itsm-oauth-client"}},
    });
    json_patch::merge(&mut spec, change);
    spec
}

#[tokio::test]
async fn what_could_only_fail_is_refused_with_a_sentence() {
    let cases = refused::cases();
    let stream = documents(cases.iter().map(|case| spec(&case.change)));
    let output = cluster().await.kubectl_stdin(&CREATE, &stream).await;
    assert_eq!(output.stdout, "", "these were accepted");
    for (index, case) in cases.iter().enumerate() {
        let start = format!("\"case-{index}\" is invalid");
        let answer = output
            .stderr
            .lines()
            .find(|line| line.contains(&start))
            .unwrap_or_else(|| panic!("no answer for {}: {}", case.change, output.stderr));
        assert!(
            answer.contains(case.sentence) && answer.contains(&format!("{}: ", case.field)),
            "{} was answered by: {answer}",
            case.change
        );
    }
}

#[test]
fn the_operator_refuses_the_same_with_the_same_sentences() {
    for case in refused::cases() {
        let spec: ServiceNowCredentialSpec = serde_json::from_value(spec(&case.change)).unwrap();
        assert_eq!(
            spec.validate(),
            Err(format!("{}: {}", case.field, case.sentence)),
            "{}",
            case.change
        );
    }
    for spec in accepted::specs() {
        let parsed: ServiceNowCredentialSpec = serde_json::from_value(spec.clone()).unwrap();
        assert_eq!(parsed.validate(), Ok(()), "{spec}");
    }
}

#[test]
fn every_rule_has_a_case() {
    let cases = refused::cases();
    for rule in admission::rules() {
        let at = |field: &str| {
            let digits = |c: char| c.is_ascii_digit();
            field.replace(digits, "") == rule.path
        };
        // The rules at the root are about a change, and have a test of their own.
        assert!(
            rule.path.is_empty()
                || cases
                    .iter()
                    .any(|case| at(case.field) && case.sentence == rule.message),
            "no case for {rule:?}"
        );
    }
}

#[tokio::test]
async fn what_works_is_accepted() {
    let specs = accepted::specs();
    let stream = documents(specs.iter().cloned());
    let output = cluster().await.kubectl_stdin(&CREATE, &stream).await;
    assert!(output.status.success(), "{}", output.stderr);
    assert_eq!(output.stdout.lines().count(), specs.len());
    // Unsigned formats and the like would be warned of.
    assert_eq!(output.stderr, "");
}

#[tokio::test]
async fn what_the_schema_refuses_by_itself() {
    let cluster = cluster().await;
    let cases = [
        (
            json!({"client": {"authentication": "Digest"}}),
            "supported values: \"Basic\", \"Body\"",
        ),
        (
            json!({"target": {"creationPolicy": "Own"}}),
            "supported values: \"Owner\", \"Orphan\", \"Merge\"",
        ),
        (
            json!({"restart": [{"kind": "Job", "name": "x"}]}),
            "supported values: \"Deployment\", \"StatefulSet\", \"DaemonSet\"",
        ),
        (
            json!({"restart": [{"kind": "DaemonSet", "name": "x"}, {"kind": "DaemonSet", "name": "x"}]}),
            "Duplicate value",
        ),
        (json!({"scopes": ["a", "a"]}), "Duplicate value"),
        (json!({"instance": null}), "spec.instance: Required value"),
        (
            json!({"target": {"name": "a".repeat(254)}}),
            "may not be more than 253",
        ),
    ];
    for (change, answer) in cases {
        let document = resource("schema", &spec(&change)).to_string();
        let output = cluster.kubectl_stdin(&CREATE, &document).await;
        assert!(
            output.stderr.contains(answer),
            "{change}: {}",
            output.stderr
        );
    }
}
