//! The CustomResourceDefinition: what the derive macro makes of the types, put into the form that
//! the API server and people want, with the admission rules in their places.

use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use super::{
    admission::{self, Rule},
    spec::ServiceNowCredential,
};

/// The CustomResourceDefinition as YAML: the bytes of `crds/servicenowcredentials.yaml`.
#[must_use]
pub fn crd_yaml() -> String {
    let mut yaml = serde_saphyr::to_string(&crd()).expect("a JSON value always has a form in YAML");
    if !yaml.ends_with('\n') {
        yaml.push('\n');
    }
    yaml
}

/// The CustomResourceDefinition.
#[must_use]
pub fn crd() -> Value {
    let mut crd = serde_json::to_value(ServiceNowCredential::crd())
        .expect("a CustomResourceDefinition always has a form in JSON");
    let schema = crd
        .pointer_mut("/spec/versions/0/schema/openAPIV3Schema")
        .expect("the derive macro writes one version with a schema");
    if let Some(root) = schema.as_object_mut() {
        // A name for generators of code; kubectl explain has no use for it.
        root.remove("title");
    }
    tidy(schema);
    for rule in admission::rules() {
        add_rule(schema, &rule);
    }
    crd
}

/// Puts every part of the schema into the form that the API server and people want.
fn tidy(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    // An absent field is the one way to say nothing: the API server drops nulls.
    object.remove("nullable");
    unwrap_description(object);
    plain_integers(object);
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.values_mut().for_each(tidy);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(key) {
            tidy(inner);
        }
    }
}

/// Doc comments are wrapped for the source; `kubectl explain` wraps for the terminal.
fn unwrap_description(schema: &mut Map<String, Value>) {
    if let Some(Value::String(description)) = schema.get_mut("description") {
        *description = description.split_whitespace().collect::<Vec<_>>().join(" ");
    }
}

/// Kubernetes knows no unsigned formats, and warns of them.
fn plain_integers(schema: &mut Map<String, Value>) {
    if schema
        .get("format")
        .is_some_and(|format| format == "uint32")
    {
        schema.insert("format".to_owned(), json!("int64"));
        schema.insert("minimum".to_owned(), json!(0));
        schema.insert("maximum".to_owned(), json!(u32::MAX));
    }
}

fn add_rule(schema: &mut Value, rule: &Rule) {
    let place = find(schema, rule.path)
        .and_then(Value::as_object_mut)
        .expect("every rule stands at a field of the schema");
    let mut entry = json!({"rule": rule.rule, "message": rule.message});
    if let Some(field) = rule.field {
        entry["fieldPath"] = json!(field);
    }
    let rules = place
        .entry("x-kubernetes-validations")
        .or_insert_with(|| json!([]));
    if let Some(rules) = rules.as_array_mut() {
        rules.push(entry);
    }
}

/// The schema of a field, by its path as in [`Rule::path`].
fn find<'a>(schema: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    let mut place = schema;
    for step in path.split('.').filter(|step| !step.is_empty()) {
        let name = step.trim_end_matches("[]");
        place = place.get_mut("properties")?.get_mut(name)?;
        if step.ends_with("[]") {
            place = place.get_mut("items")?;
        }
    }
    Some(place)
}
