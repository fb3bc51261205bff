//! What kubectl shows of the resource: the explanations and the columns.

use serde_json::{Value, json};
use servicenow_credential_operator::api::{
    CreationPolicy, FailureStatus, ObservedObject, RestartedStatus, ServiceNowCredentialStatus,
    TargetStatus, TokenStatus,
};
use testkit::cluster::ControlPlane;

use crate::{
    cluster::{NAMESPACE, apply, cluster, ok, resource},
    spec,
};

#[tokio::test]
async fn kubectl_explains_the_defaults() {
    let cluster = cluster().await;
    for (field, words) in [
        ("snc", "keeps a valid OAuth bearer token"),
        ("snc.spec.target.name", "Default: the name of this resource"),
        ("snc.spec.target.creationPolicy", "Default: Owner"),
        ("snc.spec.target.type", "Default: Opaque"),
        ("snc.spec.target.data", "Default: the key token"),
        ("snc.spec.client.authentication", "Default: Basic"),
        (
            "snc.spec.client.secretRef.clientIdKey",
            "Default: client-id",
        ),
        (
            "snc.spec.client.secretRef.clientSecretKey",
            "Default: client-secret",
        ),
        (
            "snc.spec.grant.password.secretRef.usernameKey",
            "Default: username",
        ),
        (
            "snc.spec.grant.password.secretRef.passwordKey",
            "Default: password",
        ),
        ("snc.spec.grant", "Default: clientCredentials"),
        ("snc.spec.renewal", "Default: when a third"),
        ("snc.spec.suspend", "Default: false"),
        ("snc.status.token.expiresAt", "When the token expires"),
    ] {
        let text = explain(cluster, field).await;
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(words), "{field}: {text}");
    }
}

/// The API server publishes a new schema a few seconds after it has accepted it.
async fn explain(cluster: &ControlPlane, field: &str) -> String {
    for _ in 0..100 {
        let output = cluster.kubectl(&["explain", field]).await;
        if output.status.success() {
            return output.stdout;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    ok(cluster, &["explain", field]).await
}

fn status() -> ServiceNowCredentialStatus {
    let time = |text: &str| serde_json::from_value(json!(text)).expect("a time");
    let condition = |type_: &str, status: &str, reason: &str| {
        serde_json::from_value(json!({
            "type": type_, "status": status, "reason": reason, "message": "",
            "lastTransitionTime": "2026-01-02T03:04:05Z", "observedGeneration": 1,
        }))
        .expect("a condition")
    };
    ServiceNowCredentialStatus {
        observed_generation: Some(1),
        conditions: vec![
            condition("Ready", "True", "TokenValid"),
            condition("Synced", "False", "RateLimited"),
        ],
        token: Some(TokenStatus {
            issued_at: time("2026-01-02T03:04:05.000001Z"),
            expires_at: time("2126-01-02T03:34:05.000001Z"),
            renewal_time: time("2126-01-02T03:24:05.123456Z"),
            scope: Some("useraccount".to_owned()),
            sha256: Some("ab".repeat(32)),
        }),
        target: Some(TargetStatus {
            name: "itsm-token".to_owned(),
            uid: "0b5c".to_owned(),
            resource_version: "17".to_owned(),
            creation_policy: CreationPolicy::Owner,
            sha256: "cd".repeat(32),
        }),
        observed: vec![ObservedObject {
            kind: "Secret".to_owned(),
            name: "itsm-oauth-client".to_owned(),
            uid: "0b5d".to_owned(),
            resource_version: "16".to_owned(),
        }],
        failure: Some(FailureStatus {
            reason: "RateLimited".to_owned(),
            message: "m".to_owned(),
            count: 3,
            last_time: time("2026-01-02T03:14:05.000001Z"),
            retry_time: None,
        }),
        restarted: Some(RestartedStatus {
            sha256: "ef".repeat(32),
            time: time("2026-01-02T03:04:06.000000Z"),
        }),
        handled_renew_request: Some("x".repeat(100_000)),
    }
}

#[tokio::test]
async fn kubectl_shows_the_columns() {
    let cluster = cluster().await;
    let spec = spec(&json!({"instance": "https://itsm.example.gov"}));
    apply(cluster, &resource("columns", &spec).to_string()).await;
    let status = status();
    let patch = json!({"status": status}).to_string();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &patch).unwrap();
    let file = file.path().to_str().unwrap();
    let stored = ok(
        cluster,
        &[
            "-n",
            NAMESPACE,
            "patch",
            "snc",
            "columns",
            "--subresource=status",
            "--type=merge",
            "--patch-file",
            file,
            "-o",
            "json",
        ],
    )
    .await;
    let stored: Value = serde_json::from_str(&stored).unwrap();
    assert_eq!(stored["status"], serde_json::to_value(&status).unwrap());

    let table = async |arguments: &[&str]| -> Vec<Vec<String>> {
        let mut all = vec!["-n", NAMESPACE, "get"];
        all.extend(arguments);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        ok(cluster, &all).await.lines().map(words).collect()
    };
    let narrow = table(&["snowcred", "columns"]).await;
    assert_eq!(
        narrow[0],
        [
            "NAME", "INSTANCE", "READY", "SYNCED", "SECRET", "EXPIRES", "AGE"
        ]
    );
    assert_eq!(
        narrow[1][..6],
        [
            "columns",
            "https://itsm.example.gov",
            "True",
            "False",
            "itsm-token",
            "2126-01-02T03:34:05.000001Z"
        ]
    );
    let wide = table(&["servicenowcredentials", "columns", "-o", "wide"]).await;
    assert_eq!(
        wide[0],
        [
            "NAME", "INSTANCE", "READY", "SYNCED", "SECRET", "EXPIRES", "RENEWS", "REASON", "AGE"
        ]
    );
    assert_eq!(
        wide[1][6..8],
        ["2126-01-02T03:24:05.123456Z", "RateLimited"]
    );
    assert!(
        ok(cluster, &["-n", NAMESPACE, "get", "snowcred", "-o", "name"])
            .await
            .contains("/columns")
    );
    ok(cluster, &["-n", NAMESPACE, "delete", "snc", "columns"]).await;
}
