//! Specs that are refused, each with its sentence.

use serde_json::{Value, json};
use servicenow_credential_operator::api::admission::message;

/// A spec that is refused.
pub(crate) struct Refused {
    /// What differs from the smallest spec.
    pub(crate) change: Value,
    /// The field that the answer names.
    pub(crate) field: &'static str,
    /// The sentence of the answer.
    pub(crate) sentence: &'static str,
}

/// Every case.
pub(crate) fn cases() -> Vec<Refused> {
    let mut cases = Vec::new();
    let mut refuse = |field, sentence, changes: Vec<Value>| {
        cases.extend(changes.into_iter().map(|change| Refused {
            change,
            field,
            sentence,
        }));
    };
    instance(&mut refuse);
    references(&mut refuse);
    target(&mut refuse);
    metadata(&mut refuse);
    renewal_and_verify(&mut refuse);
    cases
}

type Refuse<'a> = &'a mut dyn FnMut(&'static str, &'static str, Vec<Value>);

fn instance(refuse: Refuse<'_>) {
    let instances = |list: &[&str]| list.iter().map(|text| json!({"instance": text})).collect();
    refuse(
        "spec.instance",
        message::INSTANCE,
        instances(&[
            "",
            "dev_12345",
            "-dev12345",
            "dev 12345",
            "dev12345.service-now.com",
            "//dev12345",
            "ftp://itsm.example.com",
            "HTTPS://itsm.example.com",
            "https://",
            "https://itsm.example.com/",
            "https://itsm.example.com/nav_to.do",
            "https://itsm.example.com?x=1",
            "https://itsm.example.com#top",
            "https://itsm.example.com\\x",
            "https://admin@itsm.example.com",
            "https://admin:pw@itsm.example.com",
            "https://itsm.example.com:",
            "https://itsm.example.com:0",
            "https://itsm.example.com:65536",
            "https://itsm.example.com.",
            "https://itsm..example.com",
            "https://*.example.com",
            "https://itsm%2eexample.com",
            "https://b\u{fc}cher.example",
            "https://itsm.example.com\n",
            "https://2130706433",
            "https://0x7f000001",
            "https://0177.0.0.1",
            "https://127.1",
            "https://127.0.0.256",
            "https://[::1",
            "https://[:::1]",
            "https://[1:2:3:4:5:6:7:8:9]",
            "https://[::ffff:10.0.0.1]",
            "https://[::1%25eth0]",
            "http://127.0.0.1:8080/",
        ]),
    );
    let long_label = "a".repeat(64);
    let long_host = format!("https://{}", vec!["a".repeat(50); 5].join("."));
    refuse(
        "spec.instance",
        message::INSTANCE,
        instances(&[&long_label, &long_host]),
    );
    refuse(
        "spec.instance",
        message::PLAIN_HTTP,
        instances(&[
            "http://itsm.example.com",
            "http://itsm.example.com:8080",
            "http://127.0.0.2",
            "http://[::1]",
            "http://localhost.example",
        ]),
    );
}

fn references(refuse: Refuse<'_>) {
    for name in ["", "Itsm", "itsm_oauth", "itsm/oauth", "-itsm", "a..b"] {
        let mut name_in = |field, change| refuse(field, message::NAME, vec![change]);
        name_in(
            "spec.client.secretRef.name",
            json!({"client": {"secretRef": {"name": name}}}),
        );
        name_in(
            "spec.grant.password.secretRef.name",
            json!({"grant": {"password": {"secretRef": {"name": name}}}}),
        );
        name_in("spec.target.name", json!({"target": {"name": name}}));
        name_in(
            "spec.tls.caBundleRef.name",
            json!({"tls": {"caBundleRef": {"kind": "Secret", "name": name, "key": "ca.crt"}}}),
        );
        name_in(
            "spec.tls.clientCertificateRef.name",
            json!({"tls": {"clientCertificateRef": {"name": name}}}),
        );
        name_in(
            "spec.restart[0].name",
            json!({"restart": [{"kind": "DaemonSet", "name": name}]}),
        );
    }
    for key in ["", "client id", "client/id", ".", "..id"] {
        let mut key_in = |field, change| refuse(field, message::KEY, vec![change]);
        key_in(
            "spec.client.secretRef.clientIdKey",
            json!({"client": {"secretRef": {"clientIdKey": key}}}),
        );
        key_in(
            "spec.client.secretRef.clientSecretKey",
            json!({"client": {"secretRef": {"clientSecretKey": key}}}),
        );
        key_in(
            "spec.grant.password.secretRef.usernameKey",
            json!({"grant": {"password": {"secretRef": {"name": "u", "usernameKey": key}}}}),
        );
        key_in(
            "spec.grant.password.secretRef.passwordKey",
            json!({"grant": {"password": {"secretRef": {"name": "u", "passwordKey": key}}}}),
        );
        key_in(
            "spec.tls.caBundleRef.key",
            json!({"tls": {"caBundleRef": {"kind": "ConfigMap", "name": "ca", "key": key}}}),
        );
    }
    refuse(
        "spec.grant",
        message::GRANT,
        vec![json!({"grant": {"clientCredentials": {}, "password": {"secretRef": {"name": "u"}}}})],
    );
    refuse(
        "spec.scopes[1]",
        message::SCOPE,
        [" ", "a b", "a\"b", "a\\b", "\u{e9}"]
            .map(|scope| json!({"scopes": ["useraccount", scope]}))
            .into(),
    );
}

fn target(refuse: Refuse<'_>) {
    refuse(
        "spec.target.data",
        message::DATA_EMPTY,
        vec![json!({"target": {"data": {}}})],
    );
    refuse(
        "spec.target.data",
        message::DATA_KEY,
        ["", "a b", "a/b", ".", "..a"]
            .map(|key| json!({"target": {"data": {key: "{{ token }}"}}}))
            .into(),
    );
    refuse(
        "spec.target.type",
        message::TARGET_TYPE,
        [
            "kubernetes.io/service-account-token",
            "bootstrap.kubernetes.io/token",
            "helm.sh/release.v1",
        ]
        .map(|type_| json!({"target": {"type": type_}}))
        .into(),
    );
    refuse(
        "spec.target",
        message::MERGE,
        [
            json!({"type": "Opaque"}),
            json!({"labels": {"a": "b"}}),
            json!({"annotations": {"a": "b"}}),
        ]
        .map(|mut target| {
            target["creationPolicy"] = json!("Merge");
            json!({"target": target})
        })
        .into(),
    );
}

fn metadata(refuse: Refuse<'_>) {
    for (field, map) in [
        ("spec.target.labels", "labels"),
        ("spec.target.annotations", "annotations"),
    ] {
        let with = |key: &str| json!({"target": {map: {"example.com/team": "a", key: "b"}}});
        refuse(
            field,
            message::RESERVED_PREFIX,
            [
                "kubernetes.io/metadata.name",
                "k8s.io/x",
                "node.kubernetes.io/x",
                "a.b.k8s.io/x",
                "x.app.kubernetes.io/name",
                "app.kubernetes.io/managed-by",
                "snowcred.dev/expires-at",
                "x.snowcred.dev/y",
            ]
            .map(with)
            .into(),
        );
        let long = "a".repeat(64);
        refuse(
            field,
            message::METADATA_KEY,
            [
                "",
                "a b",
                "-a",
                "a/",
                "/a",
                "a/b/c",
                "Example.com/a",
                "a..b/c",
                &long,
            ]
            .map(with)
            .into(),
        );
    }
    refuse(
        "spec.target.labels",
        message::LABEL_VALUE,
        ["a b", "-a", "a.", "https://x"]
            .map(|value| json!({"target": {"labels": {"a": value}}}))
            .into(),
    );
}

fn renewal_and_verify(refuse: Refuse<'_>) {
    refuse(
        "spec.renewal",
        message::RENEWAL,
        vec![json!({"renewal": {"renewBefore": "10m", "renewBeforePercentage": 30}})],
    );
    refuse(
        "spec.renewal.renewBeforePercentage",
        message::PERCENTAGE,
        [-1, 0, 9, 81, 100]
            .map(|n| json!({"renewal": {"renewBeforePercentage": n}}))
            .into(),
    );
    refuse(
        "spec.renewal.renewBefore",
        message::DURATION,
        [
            "",
            "0",
            "0s",
            "-10m",
            "10",
            "10 m",
            "10d",
            "ten",
            "1e3s",
            "m",
            ".m",
            "1h-30m",
            "99999999h",
            "0.1ns",
        ]
        .map(|text| json!({"renewal": {"renewBefore": text}}))
        .into(),
    );
    let paths = |list: &[&str]| {
        list.iter()
            .map(|path| json!({"verify": {"path": path}}))
            .collect()
    };
    refuse(
        "spec.verify.path",
        message::VERIFY_API,
        paths(&[
            "",
            "api/now",
            "/",
            "/api",
            "/login.do",
            "//api/now",
            "https://evil.example/api/",
        ]),
    );
    refuse(
        "spec.verify.path",
        message::VERIFY_PATH,
        paths(&[
            "/api/now/a b",
            "/api/now\n",
            "/api/\tnow",
            "/api/now\u{a0}",
            "/api/now\\..\\x",
            "/api/now#top",
            "/api/../login.do",
            "/api/now/..",
            "/api/./now",
            "/api/%2e%2E/login.do",
            "/api/.%2e/login.do?x=1",
        ]),
    );
}
