//! Specs that are accepted.

use serde_json::{Value, json};

use crate::spec;

/// Specs that are accepted.
pub(crate) fn specs() -> Vec<Value> {
    let mut changes = vec![json!({}), everything()];
    changes.extend(
        [
            "DEV12345",
            "my-company-2",
            "https://itsm.example.gov",
            "https://ITSM.Example.GOV:8443",
            "https://itsm.example.gov:65535",
            "https://10.0.0.7",
            "https://[2001:db8::1]:8443",
            "https://[::]",
            "https://[1:2:3:4:5:6:7:8]",
            "https://itsm",
            "https://xn--bcher-kva.example",
            "https://itsm.0xyz",
            "http://localhost",
            "http://localhost:8080",
            "http://127.0.0.1:41234",
        ]
        .map(|instance| json!({"instance": instance})),
    );
    changes.extend(
        [
            "1ns",
            "90s",
            "10m",
            "1h30m",
            "1.5h",
            ".5h",
            "1.h",
            "+10m",
            "0h5m",
            "300\u{b5}s",
            "100000s",
        ]
        .map(|text| json!({"renewal": {"renewBefore": text}})),
    );
    changes.extend([10, 33, 80].map(|n| json!({"renewal": {"renewBeforePercentage": n}})));
    changes.extend(
        [
            "/api/now/table/sys_user?sysparm_limit=1",
            "/api/",
            "/api/x_acme_app/v1/ping",
            "/api/now/table/incident?sysparm_query=active=true^nameLIKE../..^ORDERBYnumber",
            "/api/now/.../a..b/.c/%2Fd",
            "/api/now/table/cmdb_ci/caf\u{e9}?x=%20%23",
        ]
        .map(|path| json!({"verify": {"path": path}})),
    );
    changes.extend([
        json!({"grant": {}}),
        json!({"grant": {"clientCredentials": {}}}),
        json!({"grant": {"password": {"secretRef": {"name": "user"}}}}),
        json!({"target": {}}),
        json!({"renewal": {}}),
        json!({"tls": {}}),
        json!({"target": {"creationPolicy": "Merge"}}),
        json!({"target": {"creationPolicy": "Merge", "labels": {}, "annotations": {}}}),
        json!({"target": {"creationPolicy": "Merge", "data": {"a.b_c-D": "x", ".d": ""}}}),
        json!({"target": {"type": "kubernetes.io/basic-auth"}}),
        json!({"target": {"type": "example.com/kubernetes.io"}}),
        json!({"target": {"labels": {
            "team": "", "app.kubernetes.io/name": "itsm", "mykubernetes.io/x": "A_b.c-1", "x.dev/k8s.io": "a",
        }}}),
        json!({"target": {"annotations": {"example.com/Note": "any text, \u{fc}nicode: yes\n"}}}),
    ]);
    changes.iter().map(spec).collect()
}

/// A spec with every field.
fn everything() -> Value {
    json!({
        "instance": "https://itsm.example.gov:8443",
        "client": {
            "secretRef": {"clientIdKey": "id", "clientSecretKey": "secret"},
            "authentication": "Body",
        },
        "grant": {"password": {"secretRef": {"name": "user", "usernameKey": "u", "passwordKey": "p"}}},
        "scopes": ["useraccount", "https://example.com/scope!"],
        "target": {
            "name": "itsm-token",
            "creationPolicy": "Orphan",
            "type": "example.com/token",
            "labels": {"team": "a"},
            "annotations": {"example.com/contact": "a@example.com"},
            "data": {"token": "{{ token }}", "authorization": "Bearer {{ token }}"},
        },
        "renewal": {"renewBefore": "10m"},
        "verify": {"path": "/api/now/table/sys_user?sysparm_limit=1"},
        "tls": {
            "caBundleRef": {"kind": "ConfigMap", "name": "corp-ca", "key": "ca.crt"},
            "clientCertificateRef": {"name": "itsm-mtls"},
        },
        "restart": [
            {"kind": "Deployment", "name": "itsm-sync"},
            {"kind": "StatefulSet", "name": "itsm-sync"},
        ],
        "suspend": true,
    })
}
