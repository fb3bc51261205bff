//! The files that are tested, as they are.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

pub(crate) fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The alert rules as text.
pub(crate) fn rules() -> String {
    read("charts/servicenow-credential-operator/files/alerts.yaml")
}

/// Every alert.
pub(crate) fn alerts() -> Vec<Value> {
    let rules: Value = serde_saphyr::from_str(&rules()).unwrap();
    let groups = rules["groups"].as_array().unwrap();
    let alerts: Vec<_> = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect();
    assert!(alerts.len() > 4, "{alerts:?}");
    alerts
}

/// The names of all alerts.
pub(crate) fn names() -> BTreeSet<String> {
    let names = alerts().into_iter().map(|alert| text(&alert["alert"]));
    names.collect()
}

pub(crate) fn dashboard() -> Value {
    serde_json::from_str(&read(
        "charts/servicenow-credential-operator/files/dashboard.json",
    ))
    .unwrap()
}

pub(crate) fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text: {value}"))
        .to_owned()
}

/// The metrics of the operator that a query names.
pub(crate) fn metrics(query: &str) -> BTreeSet<String> {
    query
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("snowcred_"))
        .map(str::to_owned)
        .collect()
}
