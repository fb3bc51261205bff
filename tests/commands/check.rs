//! `check --from`: what a resource says is checked, and what keeps it from being checked is said.

use std::path::Path;

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Value, json};
use testkit::servicenow::{self, AuthMethod, ClientCertificates, Simulator, Tls};

use crate::{
    Came, HALF_AN_HOUR, PROGRAM, command, run,
    support::{self, Scene},
};

/// Checks a resource of the scene.
async fn check(scene: &Scene, name: &str, more: &[&str]) -> Came {
    let resource = format!("{}/{name}", scene.namespace);
    let arguments = [&["check", "--from", &resource][..], more].concat();
    run(command(scene, Path::new(PROGRAM), &arguments)).await
}

#[tokio::test]
async fn check_asks_what_a_resource_and_its_secret_say() {
    let scene = Scene::new(HALF_AN_HOUR).await;
    let mut spec = scene.spec();
    spec["client"]["authentication"] = "Body".into();
    spec["verify"] = json!({"path": "/api/now/table/sys_user"});
    scene.create("itsm", spec).await;
    scene
        .put_client_secret(support::CLIENT_ID, &format!("{}\n", support::CLIENT_SECRET))
        .await;
    let came = check(&scene, "itsm", &["-o", "json"]).await;
    assert!(came.status.success(), "{}{}", came.stdout, came.stderr);
    let report: Value = serde_json::from_str(&came.stdout).unwrap();
    assert_eq!(
        (&report["ok"], &report["requests"]),
        (&true.into(), &2.into())
    );
    assert_eq!(
        report["steps"][0]["detail"],
        "secret from the Secret \"itsm-oauth-client\"; the white space around it was taken off, as \
         the operator does"
    );
    let asked = scene.instance.requests();
    assert_eq!(asked[0].auth, Some(AuthMethod::Body));
    assert_eq!(asked[1].path, "/api/now/table/sys_user");

    scene.instance.set_property_enabled(false);
    scene.instance.add_user("somebody", "password");
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "password").unwrap();
    let file = password.path().to_str().unwrap();
    let user = ["--username", "somebody", "--password-file", file];
    let came = check(&scene, "itsm", &user).await;
    assert_eq!(came.status.code(), Some(1));
    let place = |part| came.stdout.find(part).unwrap_or(usize::MAX);
    assert!(
        place("grant with the user given: a token") < place("  1. The system property glide.oauth"),
        "{}",
        came.stdout
    );
    let said = came.stdout + &came.stderr;
    assert!(
        !said.contains(support::CLIENT_ID) && !said.contains(support::CLIENT_SECRET),
        "{said}"
    );
}

#[tokio::test]
async fn check_goes_by_the_user_and_the_certificates_that_a_resource_names() {
    let options = servicenow::Options {
        tls: Tls::Generated,
        client_certificates: ClientCertificates::Generated,
        ..servicenow::Options::default()
    };
    let instance = Simulator::start_with(options).await.unwrap();
    let scene = Scene::with_instance(instance, HALF_AN_HOUR).await;
    scene.instance.add_user("somebody", " pass word");
    let (ca, shown) = (
        scene.instance.ca_pem().unwrap(),
        scene.instance.issue_client_certificate("operator").unwrap(),
    );
    let shown = shown.unwrap();
    for (name, data) in [
        ("ca", json!({"ca.crt": ca})),
        (
            "mtls",
            json!({"tls.crt": shown.certificate_pem, "tls.key": shown.key_pem}),
        ),
        (
            "user",
            json!({"username": "somebody\n", "password": " pass word\n"}),
        ),
    ] {
        let body = json!({"stringData": data});
        scene.put_secret(name, body).await;
    }
    let mut spec = scene.spec();
    spec["tls"] = json!({
        "caBundleRef": {"kind": "Secret", "name": "ca", "key": "ca.crt"},
        "clientCertificateRef": {"name": "mtls"},
    });
    spec["grant"] = json!({"password": {"secretRef": {"name": "user"}}});
    scene.create("itsm", spec).await;
    let came = check(&scene, "itsm", &["-o", "json"]).await;
    assert!(came.status.success(), "{}{}", came.stdout, came.stderr);
    assert_eq!(
        scene.instance.requests()[0].grant.as_deref(),
        Some("password")
    );

    scene.instance.add_user("somebody", "another");
    let came = check(&scene, "itsm", &["-o", "json"]).await;
    let report: Value = serde_json::from_str(&came.stdout).unwrap();
    let causes = report["causes"].as_array().unwrap();
    let named: Vec<_> = causes.iter().map(|cause| &cause["cause"]).collect();
    assert_eq!(named, ["User"], "{report:#}");

    let user = ["--username", "somebody", "--password-file", "/dev/null"];
    let came = check(&scene, "itsm", &user).await;
    assert_eq!(came.status.code(), Some(2), "{}", came.stderr);
    assert!(
        came.stderr.contains("leave --username out"),
        "{}",
        came.stderr
    );
}

#[tokio::test]
async fn check_goes_by_the_scopes_and_the_config_map_that_a_resource_names() {
    let scene = Scene::with_instance(Simulator::start_tls().await, HALF_AN_HOUR).await;
    let scopes = |scopes: &[&str]| {
        let scopes = scopes.iter().map(ToString::to_string).collect();
        let link = |client: &mut servicenow::Client| client.scopes = scopes;
        scene.instance.update_client(support::CLIENT_ID, link);
    };
    let put_ca = async |pem: &str| {
        let document = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "corp-ca"}, "data": {"ca.crt": pem},
        });
        let apply = ["-n", &scene.namespace, "apply", "-f", "-"];
        let document = document.to_string();
        let applied = scene.cluster.kubectl_stdin(&apply, &document).await;
        applied.expect_success();
    };
    let report = async || {
        let came = check(&scene, "itsm", &["-o", "json"]).await;
        assert_eq!(came.stderr, "");
        serde_json::from_str::<Value>(&came.stdout).unwrap()
    };
    let mut spec = scene.spec();
    spec["scopes"] = json!(["incidents", "changes"]);
    spec["tls"] = json!({"caBundleRef": {"kind": "ConfigMap", "name": "corp-ca", "key": "ca.crt"}});
    scene.create("itsm", spec).await;
    scopes(&["incidents", "changes"]);
    put_ca(scene.instance.ca_pem().unwrap()).await;
    let token = report().await;
    assert_eq!(
        (&token["ok"], &token["scope"]),
        (&true.into(), &"changes incidents".into()),
        "{token:#}"
    );
    scopes(&["incidents"]);
    let refused = report().await;
    assert_eq!(
        refused["message"],
        "No token: the instance refused the request. Without scopes it gives a token, so the client is \
         right and one of the scopes is not."
    );
    let another = Simulator::start_tls().await;
    put_ca(another.ca_pem().unwrap()).await;
    assert_eq!(report().await["reason"], "TlsFailed");
    let asked = scene.instance.requests();
    let asked: Vec<_> = asked.iter().map(|r| r.scope.as_deref()).collect();
    let scopes = Some("changes incidents");
    assert_eq!(asked, [scopes, scopes, scopes, None]);
}

#[tokio::test]
async fn check_says_what_keeps_it_from_checking_a_resource() {
    let scene = Scene::new(HALF_AN_HOUR).await;
    let with_secret = |name: &str| {
        let mut spec = scene.spec();
        spec["client"]["secretRef"] = json!({"name": name});
        spec
    };
    scene.create("no-secret", with_secret("nowhere")).await;
    scene.create("no-key", with_secret("empty")).await;
    scene.put_secret("empty", json!({})).await;
    for (name, says) in [
        (
            "nobody",
            "there is no ServiceNowCredential \"nobody\" in namespace",
        ),
        (
            "no-secret",
            "The Secret \"nowhere\", which spec.client.secretRef names, does not exist",
        ),
        ("no-key", "has no key \"client-id\""),
    ] {
        let came = check(&scene, name, &[]).await;
        assert_eq!(
            (came.status.code(), came.stdout.as_str()),
            (Some(1), ""),
            "{name}"
        );
        assert!(came.stderr.contains(says), "{}", came.stderr);
        assert_eq!(came.stderr.lines().count(), 1, "{}", came.stderr);
    }
    assert_eq!(scene.instance.requests().len(), 0);
}

#[tokio::test]
async fn check_names_the_right_that_is_missing() {
    let scene = Scene::new(HALF_AN_HOUR).await;
    scene.create("itsm", scene.spec()).await;
    let read = PolicyRule {
        api_groups: Some(vec!["snowcred.dev".to_owned()]),
        resources: Some(vec!["servicenowcredentials".to_owned()]),
        verbs: vec!["get".to_owned()],
        ..PolicyRule::default()
    };
    for (account, rules, says) in [
        (
            "nobody",
            vec![],
            "cannot get resource \"servicenowcredentials\"",
        ),
        (
            "reader",
            vec![read],
            "You may not get secrets \"itsm-oauth-client\"",
        ),
    ] {
        let kubeconfig = scene
            .cluster
            .service_account(&scene.namespace, account, rules)
            .await;
        let resource = format!("{}/itsm", scene.namespace);
        let mut check = command(&scene, Path::new(PROGRAM), &["check", "--from", &resource]);
        check.env("KUBECONFIG", kubeconfig);
        let came = run(check).await;
        assert_eq!(came.status.code(), Some(1));
        assert!(came.stderr.contains(says), "{}", came.stderr);
        assert!(
            came.stderr.contains("sk whoever runs the cluster for"),
            "{}",
            came.stderr
        );
    }
}
