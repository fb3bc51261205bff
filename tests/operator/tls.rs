//! An instance behind a certificate of one's own CA, which may ask for a client certificate.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use testkit::{
    operator::Operator,
    servicenow::{ClientCertificates, Options, Simulator, Tls},
};

use crate::support::{Scene, until_it_has_looked};

const LONG: Duration = Duration::from_secs(1800);

async fn scene(client_certificates: ClientCertificates) -> (Scene, Operator) {
    let options = Options {
        tls: Tls::Generated,
        client_certificates,
        ..Options::default()
    };
    let instance = Simulator::start_with(options).await.unwrap();
    let scene = Scene::with_instance(instance, LONG).await;
    let host = scene.instance.origin().replace("https://", "");
    let allowed = format!("--allowed-hosts={host}");
    let operator = Operator::start(&scene.options(&[&allowed])).await;
    (scene, operator)
}

async fn put_config_map(scene: &Scene, name: &str, pem: &str) {
    let api: Api<ConfigMap> = Api::namespaced(scene.client.clone(), &scene.namespace);
    let body = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name}, "data": {"ca.crt": pem},
    });
    let somebody = PatchParams::apply("somebody").force();
    api.patch(name, &somebody, &Patch::Apply(body))
        .await
        .unwrap();
}

fn trusting(scene: &Scene, kind: &str) -> Value {
    let mut spec = scene.spec();
    spec["tls"] = json!({"caBundleRef": {"kind": kind, "name": "corp-ca", "key": "ca.crt"}});
    spec
}

#[tokio::test]
async fn a_ca_of_a_config_map_is_trusted_as_soon_as_it_is_there_and_right() {
    let (scene, _operator) = scene(ClientCertificates::NotAsked).await;
    scene.create("itsm", trusting(&scene, "ConfigMap")).await;
    let message = scene.await_failure("itsm", "ReferenceMissing").await;
    assert!(message.contains("ConfigMap \"corp-ca\""), "{message}");
    put_config_map(&scene, "corp-ca", "not a certificate").await;
    let message = scene.await_failure("itsm", "ReferenceInvalid").await;
    assert!(message.contains("holds no certificate in PEM"), "{message}");
    let another = Simulator::start_tls().await;
    put_config_map(&scene, "corp-ca", another.ca_pem().unwrap()).await;
    scene.await_failure("itsm", "TlsFailed").await;
    put_config_map(&scene, "corp-ca", scene.instance.ca_pem().unwrap()).await;
    scene.await_synced("itsm").await;
    assert_eq!(scene.instance.token_requests(), 1);
    let observed = scene.get("itsm").await.status.unwrap().observed;
    let kinds: Vec<_> = observed.iter().map(|o| (&*o.kind, &*o.name)).collect();
    assert_eq!(
        kinds,
        [("Secret", "itsm-oauth-client"), ("ConfigMap", "corp-ca")]
    );
    // A new bundle serves from the next request on, and asks for none.
    let both = [scene.instance.ca_pem().unwrap(), another.ca_pem().unwrap()].concat();
    put_config_map(&scene, "corp-ca", &both).await;
    scene.renew("itsm", "now").await;
    scene.await_synced("itsm").await;
    assert_eq!(scene.instance.token_requests(), 2);
}

#[tokio::test]
async fn a_restart_with_a_named_ca_asks_for_nothing() {
    let (scene, operator) = scene(ClientCertificates::NotAsked).await;
    put_config_map(&scene, "corp-ca", scene.instance.ca_pem().unwrap()).await;
    scene.create("itsm", trusting(&scene, "ConfigMap")).await;
    scene.await_synced("itsm").await;
    let before = scene.get("itsm").await;
    drop(operator);
    let host = scene.instance.origin().replace("https://", "");
    let allowed = format!("--allowed-hosts={host}");
    let operator = Operator::start(&scene.options(&[&allowed])).await;
    until_it_has_looked(&operator).await;
    assert_eq!(scene.instance.token_requests(), 1);
    let after = scene.get("itsm").await;
    assert_eq!(after.resource_version(), before.resource_version());
}

/// A Secret's body with a certificate and a key.
fn pair(certificate: &str, key: &str) -> Value {
    json!({
        "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": certificate, "tls.key": key},
    })
}

#[tokio::test]
async fn a_rotated_client_certificate_and_a_changed_ca_in_a_secret_serve_from_the_next_request_on()
{
    let (scene, _operator) = scene(ClientCertificates::Generated).await;
    let put_ca = async |pem: &str| {
        let body = json!({"stringData": {"ca.crt": pem}});
        scene.put_secret("corp-ca", body).await;
    };
    let mut issued = Vec::new();
    for name in ["first", "second"] {
        let identity = scene.instance.issue_client_certificate(name);
        issued.push(identity.unwrap().unwrap());
    }
    let put_certificate = async |index: usize| {
        let body = pair(&issued[index].certificate_pem, &issued[index].key_pem);
        scene.put_secret("itsm-mtls", body).await;
    };
    put_ca(scene.instance.ca_pem().unwrap()).await;
    put_certificate(0).await;
    let mut spec = trusting(&scene, "Secret");
    spec["tls"]["clientCertificateRef"] = json!({"name": "itsm-mtls"});
    scene.create("itsm", spec).await;
    scene.await_synced("itsm").await;
    put_certificate(1).await;
    scene.renew("itsm", "certificate").await;
    scene.await_synced("itsm").await;
    let requests = scene.instance.requests();
    let shown: Vec<_> = requests.into_iter().map(|r| r.client_certificate).collect();
    let expected = issued.iter().map(|i| Some(i.certificate_der().unwrap()));
    assert_eq!(shown, expected.collect::<Vec<_>>());

    let another = Simulator::start_tls().await;
    put_ca(another.ca_pem().unwrap()).await;
    scene.renew("itsm", "another CA").await;
    scene.await_failure("itsm", "TlsFailed").await;
    put_ca(scene.instance.ca_pem().unwrap()).await;
    scene.renew("itsm", "the CA again").await;
    scene.await_synced("itsm").await;
    assert_eq!(scene.instance.token_requests(), 3);
}

#[tokio::test]
async fn a_client_certificate_is_shown_and_followed_when_it_changes() {
    let (scene, operator) = scene(ClientCertificates::Generated).await;
    let ca = scene.instance.ca_pem().unwrap();
    scene
        .put_secret("corp-ca", json!({"stringData": {"ca.crt": ca}}))
        .await;
    let mut spec = trusting(&scene, "Secret");
    scene.create("itsm", spec.clone()).await;
    let message = scene.await_failure("itsm", "TlsFailed").await;
    assert!(
        message.contains("spec.tls.clientCertificateRef"),
        "{message}"
    );
    spec["tls"]["clientCertificateRef"] = json!({"name": "itsm-mtls"});
    scene
        .change("itsm", json!({"spec": {"tls": spec["tls"]}}))
        .await;
    scene.await_failure("itsm", "ReferenceMissing").await;
    let identity = scene
        .instance
        .issue_client_certificate("operator")
        .unwrap()
        .unwrap();
    let other = scene
        .instance
        .issue_client_certificate("other")
        .unwrap()
        .unwrap();
    let wrong = pair(&identity.certificate_pem, &other.key_pem);
    scene.put_secret("itsm-mtls", wrong).await;
    let message = scene.await_failure("itsm", "ReferenceInvalid").await;
    assert!(message.contains("do not go together"), "{message}");
    let right = pair(&identity.certificate_pem, &identity.key_pem);
    scene.put_secret("itsm-mtls", right).await;
    scene.await_synced("itsm").await;
    let key = identity.key_pem.lines().nth(1).unwrap();
    assert!(!operator.log().contains(key));
}
