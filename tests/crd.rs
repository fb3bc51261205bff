//! The promise of the CustomResourceDefinition: the file in the repository is what the types say,
//! it fills nothing in, and everything that it admits is bounded.

use serde_json::Value;
use servicenow_credential_operator::api::{
    admission::{self, message},
    crd::{crd, crd_yaml},
};

#[test]
fn the_file_is_what_the_types_say() {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/crds/servicenowcredentials.yaml"
    );
    let written = std::fs::read_to_string(file).unwrap_or_default();
    let generated = crd_yaml();
    let difference = written
        .lines()
        .zip(generated.lines())
        .position(|(written, generated)| written != generated);
    assert!(
        written == generated,
        "crds/servicenowcredentials.yaml differs from the types, first at line {}: run `make generate`",
        difference.unwrap_or(written.lines().count().min(generated.lines().count())) + 1
    );
}

#[test]
fn the_document_can_be_applied_by_every_client() {
    let yaml = crd_yaml();
    assert!(yaml.starts_with("apiVersion: apiextensions.k8s.io/v1\n"));
    assert!(yaml.ends_with('\n') && !yaml.ends_with("\n\n"));
    // Client-side apply keeps a copy in an annotation, and annotations hold 256 KiB.
    assert!(yaml.len() < 60 * 1024, "{} bytes", yaml.len());
    let parsed: Value = serde_saphyr::from_str(&yaml).expect("valid YAML");
    assert_eq!(parsed, crd());
}

#[test]
fn the_schema_fills_nothing_in_and_knows_no_null() {
    walk("", &schema(), &mut |path, schema| {
        assert_eq!(schema.get("default"), None, "{path} has a default");
        assert_eq!(schema.get("nullable"), None, "{path} may be null");
    });
}

#[test]
fn everything_has_a_maximum() {
    walk("", &schema(), &mut |path, schema| {
        let bound = match (schema["type"].as_str(), schema.get("additionalProperties")) {
            (Some("string"), _) if schema.get("enum").is_none() => "maxLength",
            (Some("array"), _) => "maxItems",
            (Some("object"), Some(_)) => "maxProperties",
            _ => return,
        };
        assert!(schema[bound].is_u64(), "{path} has no {bound}");
    });
}

#[test]
fn everything_is_explained() {
    walk("", &schema(), &mut |path, schema| {
        let is_value = path.ends_with("{}") || (path.ends_with("[]") && schema["type"] == "string");
        if !is_value {
            let description = schema["description"].as_str().unwrap_or_default();
            assert!(description.ends_with('.'), "{path}: {description:?}");
            assert!(!description.contains('\n'), "{path}");
        }
    });
}

#[test]
fn lists_say_how_they_are_merged() {
    let schema = schema();
    let list = |path: &str| {
        let list = schema.pointer(path).expect("a list");
        (
            list["x-kubernetes-list-type"].clone(),
            list["x-kubernetes-list-map-keys"].clone(),
        )
    };
    assert_eq!(
        list("/properties/status/properties/conditions"),
        ("map".into(), serde_json::json!(["type"]))
    );
    assert_eq!(
        list("/properties/spec/properties/restart"),
        ("map".into(), serde_json::json!(["kind", "name"]))
    );
    assert_eq!(
        list("/properties/spec/properties/scopes"),
        ("set".into(), Value::Null)
    );
}

#[test]
fn every_rule_has_a_sentence_that_says_what_to_write() {
    for rule in admission::rules() {
        assert!(rule.message.starts_with("must "), "{}", rule.message);
        let says_what = [": ", "such as "]
            .iter()
            .any(|words| rule.message.contains(words));
        assert!(says_what, "{}", rule.message);
        assert!(
            !rule.message.contains('\n') && rule.message.len() < 400,
            "{}",
            rule.message
        );
    }
    // The sentence of Rust's parser is the API server's.
    let error = servicenow_credential_operator::api::Instance::parse("").unwrap_err();
    assert_eq!(error.to_string(), message::INSTANCE);
}

fn schema() -> Value {
    crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Visits every part of a schema with its path.
fn walk(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), property, visit);
    }
    for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if let Some(inner) = schema.get(key) {
            walk(&format!("{path}{mark}"), inner, visit);
        }
    }
}
