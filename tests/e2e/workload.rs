//! The workload, and what it says of its calls.

use std::{collections::BTreeSet, fmt, time::Duration};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use crate::{
    instance::{confined, labels},
    place::{NAMESPACE, PATIENCE, Place, until},
};

const NAME: &str = "itsm-sync";

/// One call of the Table API.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Call {
    /// When it began.
    pub(crate) at: Timestamp,
    /// The beginning of the token's digest.
    pub(crate) token: Option<String>,
    /// Seconds until the token was to expire, then.
    pub(crate) remaining: Option<f64>,
    /// What was answered.
    pub(crate) status: Option<u16>,
    /// Why nothing was.
    pub(crate) error: Option<String>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.status, &self.error) {
            (Some(status), _) => write!(f, "{}: HTTP {status}", self.at),
            (None, error) => write!(f, "{}: {}", self.at, error.as_deref().unwrap_or("nothing")),
        }
    }
}

/// Starts it, and waits for its first call.
pub(crate) async fn start(place: &Place, host: &str) {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": labels(NAME)},
            "template": {"metadata": {"labels": labels(NAME)}, "spec": {
                "automountServiceAccountToken": false,
                "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "fsGroup": 65532},
                "containers": [{
                    "name": "sync",
                    "image": place.testkit_image(),
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["/usr/bin/token-user"],
                    "args": ["--secret=/var/run/servicenow", "--ca-file=/etc/corp/ca.crt", "--host", host],
                    "securityContext": confined(),
                    "volumeMounts": [
                        {"name": "servicenow", "mountPath": "/var/run/servicenow", "readOnly": true},
                        {"name": "corp-ca", "mountPath": "/etc/corp", "readOnly": true},
                    ],
                }],
                "volumes": [
                    {"name": "servicenow", "secret": {"secretName": "itsm", "defaultMode": 0o440}},
                    {"name": "corp-ca", "configMap": {"name": "corp-ca"}},
                ],
            }},
        },
    });
    place.apply(&deployment.to_string()).await;
    let target = format!("deployment/{NAME}");
    let rollout = [
        "rollout",
        "status",
        &target,
        "--namespace",
        NAMESPACE,
        "--timeout=120s",
    ];
    place.kubectl(&rollout).await.expect_success();
    until("the workload's first call", PATIENCE, async || {
        !calls(place).await.is_empty()
    })
    .await;
}

/// All its calls. A pod that was replaced or restarted would have taken its own with it.
pub(crate) async fn calls(place: &Place) -> Vec<Call> {
    let target = format!("deployment/{NAME}");
    let logs = ["logs", &target, "--namespace", NAMESPACE];
    let log = place.kubectl(&logs).await.expect_success();
    let call = |line: &str| {
        serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("the workload says {line}: {error}"))
    };
    log.lines().map(call).collect()
}

/// Waits until it has called for this long.
pub(crate) async fn lived(place: &Place, time: Duration) {
    let what = format!("the workload has called for {} s", time.as_secs());
    until(&what, time + PATIENCE, async || {
        let calls = calls(place).await;
        let (Some(first), Some(last)) = (calls.first(), calls.last()) else {
            return false;
        };
        last.at.duration_since(first.at).unsigned_abs() >= time
    })
    .await;
}

/// Waits until it has used a second token: a renewal has come to its file.
pub(crate) async fn renewed(place: &Place, token: Duration) {
    until(
        "the workload has a second token",
        token + PATIENCE,
        async || {
            let calls = calls(place).await;
            let tokens: BTreeSet<&str> = calls.iter().filter_map(|c| c.token.as_deref()).collect();
            tokens.len() > 1
        },
    )
    .await;
}
