//! The promise of `examples/`: what people copy works as it stands.

#[path = "support/mod.rs"]
mod support;

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use testkit::{
    operator::Operator,
    servicenow::{Client, ClientCertificates, Identity, Options, Simulator, Tls},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
};

use crate::support::{Scene, data};

/// The documents of all examples.
fn examples() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("the examples")
        .map(|entry| entry.expect("an example").path())
        .collect();
    files.sort();
    files.iter().flat_map(|file| documents(file)).collect()
}

fn documents(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).expect("a readable file");
    serde_saphyr::from_multiple(&text).expect("a file of valid YAML")
}

fn of_kind(kind: &str) -> Vec<Value> {
    let mut examples = examples();
    examples.retain(|document| document["kind"] == kind);
    assert!(!examples.is_empty(), "there is no example of a {kind}");
    examples
}

/// The name of the Secret that a ServiceNowCredential writes.
fn target(credential: &Value) -> &str {
    let target = credential["spec"]["target"]["name"].as_str();
    let name = credential["metadata"]["name"].as_str();
    target.or(name).expect("a name")
}

/// Applies a document as people do.
async fn apply(scene: &Scene, document: &Value) {
    let apply = [
        "-n",
        &scene.namespace,
        "apply",
        "--validate=strict",
        "-f",
        "-",
    ];
    let document = document.to_string();
    let output = scene.cluster.kubectl_stdin(&apply, &document).await;
    output.expect_success();
}

/// A client certificate of an instance.
fn issued(instance: &Simulator) -> Identity {
    let identity = instance.issue_client_certificate("operator");
    identity.expect("a certificate").expect("of the authority")
}

/// What the examples' comments tell people to create: a CA and a certificate, by their names.
fn certificates(instance: &Simulator, identity: &Identity) -> [Value; 2] {
    let ca = instance.ca_pem().expect("an authority");
    [
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "corp-ca"}, "data": {"ca.crt": ca},
        }),
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": "itsm-mtls"},
            "stringData": {"tls.crt": identity.certificate_pem, "tls.key": identity.key_pem},
        }),
    ]
}

#[tokio::test]
async fn every_example_is_accepted_and_every_credential_becomes_ready() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let credentials = of_kind("ServiceNowCredential");
    let secrets = of_kind("Secret");
    let part = |key: &str| {
        let mut values = secrets.iter().filter_map(|s| s["stringData"][key].as_str());
        values.next().expect("a value").to_owned()
    };
    let scopes = credentials
        .iter()
        .flat_map(|c| c["spec"]["scopes"].as_array().into_iter().flatten())
        .map(|scope| scope.as_str().expect("a scope").to_owned());
    let client = Client::new(part("client-id"), part("client-secret"));
    scene.instance.add_client(client.with_scopes(scopes));
    scene.instance.add_user(part("username"), part("password"));

    let another = Simulator::start_tls().await;
    for document in certificates(&another, &issued(&another)) {
        apply(&scene, &document).await;
    }
    for mut document in examples() {
        if document["kind"] == "ServiceNowCredential" {
            document["spec"]["instance"] = json!(scene.instance.origin());
        }
        apply(&scene, &document).await;
    }

    let _operator = scene.operator().await;
    for credential in credentials {
        let name = credential["metadata"]["name"].as_str().expect("a name");
        for (kind, reason) in [("Ready", "TokenValid"), ("Synced", "TokenSynced")] {
            scene.await_condition(name, kind, "True", reason).await;
        }
        if credential["spec"]["verify"].is_object() {
            scene
                .await_condition(name, "Verified", "True", "ProbeSucceeded")
                .await;
        }
        let held = data(&scene.secret(target(&credential)).await.expect("a target"));
        let wanted = credential["spec"]["target"]["data"].as_object();
        let keys = wanted.map_or_else(|| vec!["token"], |d| d.keys().map(String::as_str).collect());
        for key in keys {
            assert!(!held[key].is_empty(), "{name}: {key}");
        }
        let token = held.get("token").or_else(|| held.get("servicenow-token"));
        assert!(scene.instance.is_valid(token.expect("a token")), "{name}");
    }
}

#[test]
fn the_deployment_mounts_a_whole_secret_that_an_example_writes() {
    let written: BTreeSet<_> = of_kind("ServiceNowCredential")
        .iter()
        .map(|credential| target(credential).to_owned())
        .collect();
    for deployment in of_kind("Deployment") {
        let pod = &deployment["spec"]["template"]["spec"];
        let volumes = pod["volumes"].as_array().expect("volumes");
        assert!(volumes.iter().all(|volume| {
            let name = volume["secret"]["secretName"].as_str();
            name.is_some_and(|name| written.contains(name))
        }));
        for container in pod["containers"].as_array().expect("containers") {
            for mount in container["volumeMounts"].as_array().expect("mounts") {
                assert_eq!(mount["subPath"], Value::Null);
            }
        }
    }
}

/// The ServiceNowCredential of one example, at the scene's instance.
fn credential(scene: &Scene, file: &str) -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(file);
    let mut documents = documents(&file);
    documents.retain(|document| document["kind"] == "ServiceNowCredential");
    let mut credential = documents.pop().expect("a credential");
    credential["spec"]["instance"] = json!(scene.instance.origin());
    credential
}

#[tokio::test]
async fn the_example_with_certificates_connects_by_these() {
    let options = Options {
        tls: Tls::Generated,
        client_certificates: ClientCertificates::Generated,
        ..Options::default()
    };
    let instance = Simulator::start_with(options).await.expect("an instance");
    let scene = Scene::with_instance(instance, Duration::from_secs(1800)).await;
    let identity = issued(&scene.instance);
    for document in certificates(&scene.instance, &identity) {
        apply(&scene, &document).await;
    }
    apply(&scene, &credential(&scene, "credential-tls.yaml")).await;
    let host = scene.instance.origin().replace("https://", "");
    let allowed = format!("--allowed-hosts={host}");
    let _operator = Operator::start(&scene.options(&[&allowed])).await;
    let token = scene.await_synced("itsm-tls").await;
    assert!(scene.instance.is_valid(&token));
    let requests = scene.instance.requests();
    let shown: Vec<_> = requests.into_iter().map(|r| r.client_certificate).collect();
    assert_eq!(shown, [identity.certificate_der().ok()]);
}

/// What the instance answers to a request with these headers.
async fn answered(scene: &Scene, headers: &[&str]) -> String {
    let mut stream = TcpStream::connect(scene.instance.address())
        .await
        .expect("the instance");
    let headers = headers.join("\r\n");
    let request = format!(
        "GET /api/now/table/incident HTTP/1.1\r\nHost: instance\r\nConnection: close\r\n{headers}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer.lines().next().unwrap_or_default().to_owned()
}

/// A quoted parameter, by the grammar of curl's manual on `--config`.
fn curl_parameter(line: &str) -> (&str, &str) {
    let (name, value) = line.split_once(" = ").expect("a parameter");
    let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    let inner = inner.filter(|inner| !inner.contains(['"', '\\']));
    (name, inner.expect("a quoted value"))
}

/// A key and its value, by the grammar of `java.util.Properties`.
fn property(line: &str) -> (&str, &str) {
    assert!(!line.contains('\\'), "nothing is escaped");
    let end = line.find(['=', ':', ' ', '\t', '\x0c']);
    let (key, value) = line.split_at(end.expect("the end of a key"));
    (key, value.strip_prefix('=').expect("a value"))
}

#[tokio::test]
async fn the_files_of_an_example_are_what_their_readers_take() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    apply(&scene, &credential(&scene, "credential-files.yaml")).await;
    let _operator = scene.operator().await;
    let token = scene.await_synced("itsm-files").await;
    let status = scene.get("itsm-files").await.status.expect("a status");
    let expires_at = status.token.expect("a token").expires_at.0;
    let files = data(&scene.secret("itsm-files").await.expect("a Secret"));
    let (url, bearer) = (scene.instance.origin(), format!("Bearer {token}"));

    assert_eq!(files["authorization"], bearer);
    let curl: Vec<_> = files["curl.conf"].lines().map(curl_parameter).collect();
    let sent = format!("Authorization: {bearer}");
    assert_eq!(
        curl,
        [("header", &*sent), ("header", "Accept: application/json")]
    );
    assert_eq!(
        answered(&scene, &[curl[0].1, curl[1].1]).await,
        "HTTP/1.1 200 OK"
    );

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join(".env");
    fs::write(&file, &files[".env"]).expect("written");
    let print = r#". "$1"; printf '%s\n' "$SERVICENOW_URL" "$SERVICENOW_TOKEN" "$SERVICENOW_TOKEN_EXPIRES_AT""#;
    let mut shell = Command::new("sh");
    let output = shell.args(["-euc", print, "sh"]).arg(&file).output().await;
    let output = output.expect("a shell");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("{url}\n{token}\n{expires_at:.6}\n")
    );

    let seconds = expires_at.as_second().to_string();
    let properties: Vec<_> = files["application.properties"]
        .lines()
        .map(property)
        .collect();
    assert_eq!(
        properties,
        [
            ("servicenow.url", &*url),
            ("servicenow.token", &*token),
            ("servicenow.token.expires-at-epoch-second", &*seconds),
        ]
    );

    let words: Vec<_> = files[".netrc"].split_whitespace().collect();
    let host = "dev12345.service-now.com";
    let netrc = ["machine", host, "login", "bearer", "password", &*token];
    assert_eq!(words, netrc);
    // What "curl --netrc" would make of it, as the example says.
    let basic = STANDARD.encode(format!("{}:{}", words[3], words[5]));
    let basic = format!("Authorization: Basic {basic}");
    assert_eq!(
        answered(&scene, &[&basic]).await,
        "HTTP/1.1 401 Unauthorized"
    );
}
