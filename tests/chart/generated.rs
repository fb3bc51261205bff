//! Files that are made from others are up to date. `make generate` and `make manifests` write them.

use std::{fs, path::Path};

use serde_json::Value;
use servicenow_credential_operator::api::crd_yaml;
use testkit::chart::{self, Helm};

/// Set, files are written instead of compared.
const WRITE: &str = "SNOWCRED_WRITE_MANIFESTS";

fn is_current(file: &Path, expected: &str, by: &str) {
    if std::env::var_os(WRITE).is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, expected).unwrap();
    }
    let found = fs::read_to_string(file).unwrap_or_default();
    assert!(found == expected, "{} is old: run `{by}`", file.display());
}

#[test]
fn the_chart_has_the_operators_own_crd() {
    let copy = fs::read_to_string(chart::folder().join("files/crd.yaml")).unwrap();
    assert!(
        copy == crd_yaml(),
        "files/crd.yaml is old: run `make generate`"
    );
}

#[test]
fn the_manifest_is_what_the_chart_becomes() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/install.yaml");
    let manifest = chart::manifest(&Helm::new().unwrap()).unwrap();
    is_current(&file, &manifest, "make manifests");
}

#[test]
fn the_charts_readme_lists_each_value_with_its_comment_and_default() {
    let folder = chart::folder();
    let values = fs::read_to_string(folder.join("values.yaml")).unwrap();
    let file = folder.join("README.md");
    let readme = fs::read_to_string(&file).unwrap();
    let (head, rest) = readme.split_once("<!-- values -->\n").unwrap();
    let (_, tail) = rest.split_once("<!-- end -->\n").unwrap();
    let table = table(&values);
    let expected = format!("{head}<!-- values -->\n{table}<!-- end -->\n{tail}");
    is_current(&file, &expected, "make manifests");
}

/// A value that a user sets: where its comment begins with `# --`.
fn table(text: &str) -> String {
    let values: Value = serde_saphyr::from_str(text).unwrap();
    let mut rows = vec![
        "| value | default | what it is |".to_owned(),
        "|---|---|---|".to_owned(),
    ];
    let (mut path, mut comment): (Vec<(usize, String)>, Option<String>) = (Vec::new(), None);
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if let Some(said) = line.strip_prefix("# -- ") {
            comment = Some(said.to_owned());
        } else if let Some(said) = line.strip_prefix("# ") {
            let comment = comment.as_mut().unwrap();
            *comment = format!("{comment} {said}");
        } else if let Some((key, _)) = line.split_once(':').filter(|_| !line.starts_with('-')) {
            path.retain(|(above, _)| *above < indent);
            path.push((indent, key.to_owned()));
            let Some(comment) = comment.take() else {
                continue;
            };
            let keys: Vec<_> = path.iter().map(|(_, key)| key.as_str()).collect();
            let default = keys.iter().fold(&values, |value, key| &value[key]);
            rows.push(format!(
                "| `{}` | `{default}` | {} |",
                keys.join("."),
                comment.replace('|', "\\|")
            ));
        }
    }
    rows.join("\n") + "\n"
}

#[test]
fn each_value_is_explained() {
    let text = fs::read_to_string(chart::folder().join("values.yaml")).unwrap();
    let values: Value = serde_saphyr::from_str(&text).unwrap();
    let table = table(&text);
    let mut open = vec![(String::new(), &values)];
    while let Some((path, value)) = open.pop() {
        // A value that is explained is explained with all that is in it.
        if table.contains(&format!("| `{path}` |")) {
            continue;
        }
        let inner = value
            .as_object()
            .unwrap_or_else(|| panic!("{path} has no comment"));
        open.extend(inner.iter().map(|(key, value)| match path.as_str() {
            "" => (key.clone(), value),
            path => (format!("{path}.{key}"), value),
        }));
    }
}
