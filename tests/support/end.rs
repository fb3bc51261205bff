//! What a run has come to: the resources and Secrets of its namespace, without what differs from one
//! run to the next. Where one object refers to another, it is said whether it does so rightly.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::{Map, Value, json};
use servicenow_credential_operator::api::ServiceNowCredential;
use sha2::{Digest as _, Sha256};

use super::{Scene, data};

/// The present state of a scene's namespace.
pub async fn end_of(scene: &Scene) -> Value {
    let resources = scene.credentials().list(&ListParams::default()).await;
    let secrets = scene.secrets().list(&ListParams::default()).await.unwrap();
    let secrets: BTreeMap<_, _> = secrets
        .into_iter()
        .map(|secret| (secret.name_any(), secret))
        .collect();
    let resources: Vec<_> = resources.unwrap().items;
    let config_maps = config_maps(scene).await;
    let mut objects = Map::new();
    for resource in &resources {
        let name = format!("resource {}", resource.name_any());
        objects.insert(name, resource_of(resource, &secrets, &config_maps));
    }
    for (name, secret) in &secrets {
        objects.insert(
            format!("Secret {name}"),
            secret_of(scene, secret, &resources),
        );
    }
    // The names that each run makes up for itself.
    let text = Value::Object(objects).to_string();
    let text = text.replace(&scene.instance.origin(), "<instance>");
    let text = text.replace(&scene.namespace, "<namespace>");
    serde_json::from_str(&text).unwrap()
}

async fn config_maps(scene: &Scene) -> BTreeMap<String, ObjectMeta> {
    let all: Api<ConfigMap> = Api::namespaced(scene.client.clone(), &scene.namespace);
    let all = all.list(&ListParams::default()).await.unwrap();
    all.into_iter()
        .map(|one| (one.name_any(), one.metadata))
        .collect()
}

fn resource_of(
    resource: &ServiceNowCredential,
    secrets: &BTreeMap<String, Secret>,
    config_maps: &BTreeMap<String, ObjectMeta>,
) -> Value {
    let mut status = serde_json::to_value(&resource.status).unwrap();
    let target = status["target"]["name"]
        .as_str()
        .and_then(|name| secrets.get(name));
    if let Some(record) = status.get_mut("target").and_then(Value::as_object_mut) {
        refer(record, target.map(|secret| &secret.metadata));
        record.insert("sha256".to_owned(), json!("<digest>"));
    }
    if let Some(digest) = status["token"]["sha256"].as_str().map(ToOwned::to_owned) {
        let told = format!("Token with SHA-256 {}…", &digest[..8]);
        for condition in status["conditions"].as_array_mut().into_iter().flatten() {
            if let Some(message) = condition["message"].as_str() {
                condition["message"] = json!(message.replace(&told, "<the token>"));
            }
        }
    }
    if let Some(record) = status.get_mut("token").and_then(Value::as_object_mut) {
        let values = target.map(data).unwrap_or_default().into_values();
        let words = values.flat_map(|value| {
            let words = value.split([' ', '=', '\n']).map(ToOwned::to_owned);
            words.collect::<Vec<_>>()
        });
        let is = record
            .get("sha256")
            .and_then(Value::as_str)
            .is_some_and(|digest| {
                words
                    .map(|word| hex(&Sha256::digest(word)))
                    .any(|d| d == digest)
            });
        record.insert("sha256".to_owned(), says(is, "of a token in the Secret"));
    }
    for observed in status["observed"].as_array_mut().into_iter().flatten() {
        let record = observed.as_object_mut().unwrap();
        let name = record["name"].as_str().unwrap_or_default();
        let object = match record["kind"] == "ConfigMap" {
            true => config_maps.get(name),
            false => secrets.get(name).map(|secret| &secret.metadata),
        };
        refer(record, object);
    }
    without_times(&mut status);
    if let Some(failure) = status.get_mut("failure").and_then(Value::as_object_mut) {
        failure.insert("count".to_owned(), json!("<count>"));
    }
    json!({
        "annotations": resource.annotations(),
        "labels": resource.labels(),
        "finalizers": resource.finalizers(),
        "generation": resource.metadata.generation,
        "spec": resource.spec,
        "status": status,
    })
}

/// Says of uid and resourceVersion whether they are those of the object.
fn refer(record: &mut Map<String, Value>, metadata: Option<&ObjectMeta>) {
    let uid = metadata.and_then(|metadata| metadata.uid.as_deref());
    let version = metadata.and_then(|metadata| metadata.resource_version.as_deref());
    for (field, value) in [("uid", uid), ("resourceVersion", version)] {
        let is = value.is_some() && record.get(field).and_then(Value::as_str) == value;
        record.insert(field.to_owned(), says(is, "of the present object"));
    }
}

fn secret_of(scene: &Scene, secret: &Secret, resources: &[ServiceNowCredential]) -> Value {
    let owner = |uid: &str| {
        let owner = resources.iter().find(|r| r.uid().as_deref() == Some(uid));
        owner.map_or_else(|| "<nobody>".to_owned(), |owner| owner.name_any())
    };
    let owners: Vec<_> = secret
        .owner_references()
        .iter()
        .map(|reference| json!([owner(&reference.uid), reference.controller]))
        .collect();
    let contents: BTreeMap<_, _> = data(secret)
        .into_iter()
        .map(|(key, value)| (key, without_token(scene, &value)))
        .collect();
    let mut annotations = json!(secret.annotations());
    without_times(&mut annotations);
    json!({
        "type": secret.type_,
        "labels": secret.labels(),
        "annotations": annotations,
        "owners": owners,
        "data": contents,
    })
}

/// A value with a token in it says whether the token is valid; others stay as they are.
fn without_token(scene: &Scene, value: &str) -> String {
    let words = value.split(' ').map(|word| {
        if scene.instance.is_valid(word) {
            "<valid token>"
        } else if word.len() > 80 {
            "<another token>"
        } else {
            word
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Times say only that they are there, in texts too.
fn without_times(value: &mut Value) {
    match value {
        Value::String(text) => {
            let words = text.split(' ').map(|word| {
                let bare = word.trim_end_matches(['.', ',', ';', ':', ')']);
                match bare.parse::<Timestamp>() {
                    Ok(_) => format!("<time>{}", &word[bare.len()..]),
                    Err(_) => word.to_owned(),
                }
            });
            *text = words.collect::<Vec<_>>().join(" ");
        }
        Value::Array(values) => values.iter_mut().for_each(without_times),
        Value::Object(fields) => fields.values_mut().for_each(without_times),
        _ => {}
    }
}

fn says(is: bool, what: &str) -> Value {
    let not = if is { "" } else { "not " };
    json!(format!("<{not}{what}>"))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where two ends differ, one line for each place.
pub fn difference(expected: &Value, actual: &Value) -> String {
    let mut lines = Vec::new();
    differ("", expected, actual, &mut lines);
    lines.join("\n")
}

fn differ(path: &str, expected: &Value, actual: &Value, lines: &mut Vec<String>) {
    match (expected, actual) {
        (Value::Object(one), Value::Object(other)) => {
            let keys: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
            for key in keys {
                let (one, other) = (&expected[key], &actual[key]);
                differ(&format!("{path}/{key}"), one, other, lines);
            }
        }
        _ if expected == actual => {}
        _ => lines.push(format!("{path}: {actual}, and undisturbed {expected}")),
    }
}
