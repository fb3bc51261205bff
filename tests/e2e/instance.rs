//! The simulated instance in a pod, and the resource that asks it for tokens.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _},
    process::{Child, ChildStdout, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testkit::servicenow::Authority;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::place::{NAMESPACE, PATIENCE, Place, until};

const NAME: &str = "simulator";
/// The pods of instance and workload.
pub(crate) const PART: &str = "app.kubernetes.io/part-of=snowcred-e2e";
const CLIENT: (&str, &str) = ("e2e-client", "e2e/client+secret");
/// Of the control API, on the pod's loopback interface only.
const CONTROL_PORT: u16 = 8081;
/// The share of its lifetime that is left when a token is renewed. The rest of the way, to the file of
/// the workload, is the kubelet's.
const RENEW_BEFORE_PERCENTAGE: u8 = 60;

/// The address by which pods reach the instance, before there is one: its certificate names it, so
/// that nothing depends on the cluster's DNS.
pub(crate) async fn address(place: &Place) -> String {
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {
            "selector": labels(NAME),
            "ports": [{"name": "https", "port": 443, "targetPort": 8443}],
        },
    });
    place.apply(&service.to_string()).await;
    let get = ["get", "service", NAME, "--namespace", NAMESPACE];
    let address = [&get[..], &["--output=jsonpath={.spec.clusterIP}"]].concat();
    place.kubectl(&address).await.expect_success()
}

/// The labels of what runs here.
pub(crate) fn labels(name: &str) -> Value {
    json!({"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": NAMESPACE})
}

/// What keeps a container from everything that it does not need, as the examples show it.
pub(crate) fn confined() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
    })
}

/// Starts the instance, and stores client and authority for the resource.
pub(crate) async fn start(place: &Place, host: &str, token: Duration) {
    let authority = Authority::generate().unwrap();
    let identity = authority.issue_for_server(vec![host.to_owned()]).unwrap();
    let (id, secret) = CLIENT;
    let clients = json!([{"id": id, "secret": secret}]).to_string();
    let metadata = |name: &str| json!({"name": name, "namespace": NAMESPACE});
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata(NAME), "stringData": {
            "tls.crt": identity.certificate_pem, "tls.key": identity.key_pem,
            "clients.json": clients,
        }},
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata("itsm-oauth-client"),
            "stringData": {"client-id": id, "client-secret": secret}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("corp-ca"),
            "data": {"ca.crt": authority.pem()}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata(NAME), "spec": {
            "selector": {"matchLabels": labels(NAME)},
            "template": {"metadata": {"labels": labels(NAME)}, "spec": pod(place, token)},
        }},
    ]});
    place.apply(&list.to_string()).await;
    let rollout = [
        "rollout",
        "status",
        "deployment",
        NAME,
        "--namespace",
        NAMESPACE,
    ];
    let rollout = [&rollout[..], &["--timeout=120s"]].concat();
    place.kubectl(&rollout).await.expect_success();
}

fn pod(place: &Place, token: Duration) -> Value {
    let lifetime = format!("--lifetime={}s", token.as_secs());
    let control = format!("--control=127.0.0.1:{CONTROL_PORT}");
    json!({
        "automountServiceAccountToken": false,
        "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "fsGroup": 65532},
        "containers": [{
            "name": NAME,
            "image": place.testkit_image(),
            "imagePullPolicy": "IfNotPresent",
            "command": ["/usr/bin/servicenow-simulator"],
            "args": [
                "--listen=0.0.0.0:8443", "--tls-cert=/instance/tls.crt", "--tls-key=/instance/tls.key",
                "--client-file=/instance/clients.json", "--mode=always-new", lifetime, control,
            ],
            "readinessProbe": {"tcpSocket": {"port": 8443}, "periodSeconds": 1},
            "securityContext": confined(),
            "volumeMounts": [{"name": "instance", "mountPath": "/instance", "readOnly": true}],
        }],
        "volumes": [{"name": "instance", "secret": {"secretName": NAME}}],
    })
}

/// Creates the resource, and returns how long it took to become ready.
pub(crate) async fn first_token(place: &Place, host: &str) -> Duration {
    let resource = json!({
        "apiVersion": "snowcred.dev/v1alpha1", "kind": "ServiceNowCredential",
        "metadata": {"name": "itsm", "namespace": NAMESPACE},
        "spec": {
            "instance": format!("https://{host}"),
            "client": {"secretRef": {"name": "itsm-oauth-client"}},
            "target": {"data": {"token": "{{ token }}", "expires_at": "{{ expires_at }}"}},
            "renewal": {"renewBeforePercentage": RENEW_BEFORE_PERCENTAGE},
            "tls": {"caBundleRef": {"kind": "ConfigMap", "name": "corp-ca", "key": "ca.crt"}},
        },
    });
    let begun = Instant::now();
    place.apply(&resource.to_string()).await;
    let wait = ["wait", "--for=condition=Ready", "--timeout=60s", "snc/itsm"];
    let wait = [&wait[..], &["--namespace", NAMESPACE]].concat();
    place.kubectl(&wait).await.expect_success();
    begun.elapsed()
}

/// How many calls of the Table API the instance answered, by status.
pub(crate) async fn journal(place: &Place) -> BTreeMap<u64, usize> {
    let forward = Forward::start(place);
    let requests: Value = serde_json::from_str(&forward.get("/requests").await).unwrap();
    let mut answered = BTreeMap::new();
    for request in requests.as_array().unwrap() {
        let path = request["path"].as_str().unwrap_or_default();
        if path.starts_with("/api/now/table/") {
            let status = request["status"].as_u64().unwrap_or_default();
            *answered.entry(status).or_default() += 1;
        }
    }
    answered
}

/// A way into the pod, as long as it is not dropped.
struct Forward {
    child: Child,
    address: String,
    /// Kept open: kubectl writes a line for each connection.
    _output: io::BufReader<ChildStdout>,
}

impl Forward {
    fn start(place: &Place) -> Self {
        let mut child = place
            .kubectl_command()
            .args(["port-forward", "--namespace", NAMESPACE])
            .args([&format!("deployment/{NAME}"), &format!(":{CONTROL_PORT}")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = io::BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        // Forwarding from 127.0.0.1:40123 -> 8081
        let address = line
            .split_whitespace()
            .nth(2)
            .unwrap_or_default()
            .to_owned();
        Self {
            child,
            address,
            _output: output,
        }
    }

    /// The body of an answer. Its length is in its head: a forwarded connection may end with a reset.
    async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: simulator\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        String::from_utf8(body).unwrap()
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the resource says, until it says it.
pub(crate) async fn is_ready_still(place: &Place) {
    until("the resource is ready", PATIENCE, async || {
        let get = ["get", "snc", "itsm", "--namespace", NAMESPACE];
        let path = r#"--output=jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        let output = place.kubectl(&[&get[..], &[path]].concat()).await;
        output.expect_success() == "True"
    })
    .await;
}
