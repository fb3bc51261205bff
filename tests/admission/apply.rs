//! What a second apply does: it gives what was written and nothing more, or is refused.

use serde_json::{Value, json};
use servicenow_credential_operator::api::admission::message;

use crate::{
    cluster::{CREATE, NAMESPACE, cluster, ok, resource},
    spec,
};

/// Applies one spec, then another, and answers what the second attempt said.
async fn apply_twice(
    name: &str,
    first: &Value,
    second: &Value,
    flags: &[&str],
) -> Result<Value, String> {
    let cluster = cluster().await;
    let mut arguments = vec!["apply", "-f", "-"];
    arguments.extend(flags);
    let create = resource(name, first).to_string();
    let output = cluster.kubectl_stdin(&arguments, &create).await;
    assert!(output.status.success(), "{}", output.stderr);
    let change = resource(name, second).to_string();
    let output = cluster.kubectl_stdin(&arguments, &change).await;
    let stored = ok(
        cluster,
        &["-n", NAMESPACE, "get", "snc", name, "-o", "json"],
    )
    .await;
    ok(cluster, &["-n", NAMESPACE, "delete", "snc", name]).await;
    if !output.status.success() {
        return Err(output.stderr);
    }
    let stored: Value = serde_json::from_str(&stored).expect("kubectl answers in JSON");
    Ok(stored["spec"].clone())
}

#[tokio::test]
async fn a_second_apply_gives_what_was_written_and_nothing_more() {
    let client_credentials = json!({"grant": {"clientCredentials": {}}});
    let password = json!({"grant": {"password": {"secretRef": {"name": "user"}}}});
    let one_key = json!({"target": {"data": {"token": "{{ token }}"}}});
    let two_keys = json!({"target": {"data": {"token": "{{ token }}", "authorization": "Bearer {{ token }}"}}});
    let restart = |name: &str| json!({"restart": [{"kind": "Deployment", "name": name}]});
    for (first, second) in [
        (&client_credentials, &password),
        (&password, &client_credentials),
        (&json!({}), &password),
        (&one_key, &two_keys),
        (&two_keys, &one_key),
        (&json!({}), &two_keys),
        (&two_keys, &json!({})),
        (&restart("a"), &restart("b")),
        (
            &json!({"scopes": ["a", "b"]}),
            &json!({"scopes": ["b", "c"]}),
        ),
        (
            &json!({"renewal": {"renewBefore": "10m"}}),
            &json!({"renewal": {"renewBeforePercentage": 20}}),
        ),
    ] {
        for flags in [&[][..], &["--server-side"][..]] {
            let second = spec(second);
            let stored = apply_twice("twice", &spec(first), &second, flags).await;
            assert_eq!(stored.as_ref(), Ok(&second), "{flags:?}");
        }
    }
}

#[tokio::test]
async fn type_and_policy_change_only_with_the_name() {
    let target = |target: Value| spec(&json!({"target": target}));
    let untold = spec(&json!({}));
    let refused = [
        (
            untold.clone(),
            target(json!({"type": "example.com/a"})),
            "spec.target.type",
            message::TYPE_CHANGE,
        ),
        (
            target(json!({"type": "example.com/a"})),
            untold.clone(),
            "spec.target.type",
            message::TYPE_CHANGE,
        ),
        (
            target(json!({"type": "example.com/a"})),
            target(json!({"type": "example.com/b", "name": "change"})),
            "spec.target.type",
            message::TYPE_CHANGE,
        ),
        (
            untold.clone(),
            target(json!({"creationPolicy": "Orphan"})),
            "spec.target.creationPolicy",
            message::POLICY_CHANGE,
        ),
        (
            target(json!({"creationPolicy": "Merge", "name": "a"})),
            target(json!({"name": "a"})),
            "spec.target.creationPolicy",
            message::POLICY_CHANGE,
        ),
        (
            target(json!({"creationPolicy": "Orphan", "name": "change"})),
            untold.clone(),
            "spec.target.creationPolicy",
            message::POLICY_CHANGE,
        ),
    ];
    for (first, second, field, sentence) in refused {
        let answer = apply_twice("change", &first, &second, &[])
            .await
            .unwrap_err();
        assert!(
            answer.contains(sentence) && answer.contains(field),
            "{second}: {answer}"
        );
    }
    let accepted = [
        (
            untold.clone(),
            target(json!({"type": "example.com/a", "name": "b"})),
        ),
        (
            target(json!({"creationPolicy": "Merge", "name": "a"})),
            target(json!({"name": "b"})),
        ),
        (
            target(json!({"creationPolicy": "Orphan", "name": "b"})),
            untold.clone(),
        ),
        // What was left out, said in words, is no change.
        (
            untold.clone(),
            target(json!({"type": "Opaque", "creationPolicy": "Owner", "name": "change"})),
        ),
        (
            target(json!({"type": "Opaque", "creationPolicy": "Owner", "name": "change"})),
            untold,
        ),
    ];
    for (first, second) in accepted {
        assert_eq!(
            apply_twice("change", &first, &second, &[]).await,
            Ok(second)
        );
    }
}

#[tokio::test]
async fn a_null_means_the_field_was_left_out() {
    let cluster = cluster().await;
    let mut nulls = spec(&json!({}));
    nulls["target"] = Value::Null;
    nulls["suspend"] = Value::Null;
    let mut arguments = CREATE.to_vec();
    arguments.extend(["-o", "json"]);
    let output = cluster
        .kubectl_stdin(&arguments, &resource("null", &nulls).to_string())
        .await;
    assert!(output.status.success(), "{}", output.stderr);
    let stored: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(stored["spec"], spec(&json!({})));
}
