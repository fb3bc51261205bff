//! A resource that is applied brings a valid token into a Secret.

use std::time::Duration;

use serde_json::json;

use crate::support::{Scene, condition, data};

#[tokio::test]
async fn an_applied_resource_brings_a_valid_token_into_an_owned_secret() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let _operator = scene.operator().await;
    let resource = scene.create("itsm", scene.spec()).await;
    let token = scene.await_synced("itsm").await;
    assert!(scene.instance.is_valid(&token));
    let secret = scene.secret("itsm").await.unwrap();
    assert_eq!(secret.type_.as_deref(), Some("Opaque"));
    let owner = &secret.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!(owner.uid, resource.metadata.uid.unwrap());
    assert_eq!(owner.controller, Some(true));
    let resource = scene.get("itsm").await;
    let status = resource.status.as_ref().unwrap();
    assert_eq!(condition(&resource, "Ready").unwrap().1, "TokenValid");
    let annotations = secret.metadata.annotations.unwrap();
    let expires_at = status.token.as_ref().unwrap().expires_at.0;
    assert_eq!(
        annotations["snowcred.dev/expires-at"],
        format!("{expires_at:.6}")
    );
    assert_eq!(annotations["snowcred.dev/credential"], "itsm");
    assert_eq!(
        secret.metadata.labels.unwrap()["app.kubernetes.io/managed-by"],
        "servicenow-credential-operator"
    );
    assert_eq!(scene.instance.token_requests(), 1);
    assert_eq!(scene.events("itsm").await, []);
}

#[tokio::test]
async fn templates_body_authentication_scopes_and_metadata_are_as_the_spec_says() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    scene
        .instance
        .update_client("marked-client-id-5f0e", |client| {
            client.scopes = vec!["useraccount".to_owned(), "other".to_owned()];
        });
    let _operator = scene.operator().await;
    let mut spec = scene.spec();
    spec["client"]["authentication"] = json!("Body");
    spec["scopes"] = json!(["useraccount", "other"]);
    spec["target"] = json!({
        "name": "elsewhere",
        "type": "example.com/token",
        "labels": {"team": "a", "app.kubernetes.io/part-of": "itsm"},
        "annotations": {"example.com/note": "x"},
        "data": {
            "authorization": "{{ token_type }} {{ token }}",
            ".env": "TOKEN={{ token }}\nURL={{ instance_url }}\nUNTIL={{ expires_at_unix }}\n",
        },
    });
    scene.create("itsm", spec).await;
    scene
        .await_condition("itsm", "Synced", "True", "TokenSynced")
        .await;
    let secret = scene.secret("elsewhere").await.unwrap();
    let held = data(&secret);
    let token = held["authorization"].strip_prefix("Bearer ").unwrap();
    assert!(scene.instance.is_valid(token));
    let token_status = scene.get("itsm").await.status.unwrap().token.unwrap();
    let expiry = token_status.expires_at.0;
    let env = format!(
        "TOKEN={token}\nURL={}\nUNTIL={}\n",
        scene.instance.origin(),
        expiry.as_second()
    );
    assert_eq!(held[".env"], env);
    assert_eq!(held.len(), 2);
    assert_eq!(secret.type_.as_deref(), Some("example.com/token"));
    assert_eq!(
        json!(secret.metadata.labels),
        json!({
            "team": "a",
            "app.kubernetes.io/part-of": "itsm",
            "app.kubernetes.io/managed-by": "servicenow-credential-operator",
        })
    );
    let issued_at = token_status.issued_at.0;
    assert_eq!(
        json!(secret.metadata.annotations),
        json!({
            "example.com/note": "x",
            "snowcred.dev/credential": "itsm",
            "snowcred.dev/issued-at": format!("{issued_at:.6}"),
            "snowcred.dev/expires-at": format!("{expiry:.6}"),
        })
    );
    let request = &scene.instance.requests()[0];
    assert_eq!(format!("{:?}", request.auth), "Some(Body)");
    assert_eq!(request.scope.as_deref(), Some("other useraccount"));
}
