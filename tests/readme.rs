//! The promise of the README: what it lists is what the program has, no more and no less.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use servicenow_credential_operator::{
    api::{Reason, ServiceNowCredentialStatus, TokenStatus},
    decide::{Name, Outcome},
    telemetry::Metrics,
};

const BINARY: &str = env!("CARGO_BIN_EXE_servicenow-credential-operator");

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    fs::read_to_string(repository().join("README.md")).expect("the README")
}

/// The rows of all tables, as their cells without the marks of code.
fn rows() -> Vec<Vec<String>> {
    let cells = |row: &str| {
        let cells = row.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().replace('`', "")).collect()
    };
    readme()
        .lines()
        .filter(|line| line.starts_with('|') && !line.starts_with("|---"))
        .map(cells)
        .collect()
}

/// Variable and default of each flag, as `run --help` has them.
fn flags() -> BTreeMap<String, (String, Option<String>)> {
    let output = Command::new(BINARY)
        .args(["run", "--help"])
        .output()
        .expect("the operator's program");
    let help = String::from_utf8(output.stdout).expect("text");
    let part = |text: &str, name: &str| {
        let after = text.split_once(&format!("[{name}: "))?.1;
        // A default may hold brackets: what ends it is the one at the end of the line.
        let line = after.lines().next()?;
        Some(line.strip_suffix(']')?.to_owned())
    };
    help.split("\n      --")
        .skip(1)
        .map(|text| {
            let end = text.find(['[', ' ', '\n']).expect("the end of a flag");
            let variable = part(text, "env").expect("a variable");
            let variable = variable.trim_end_matches('=').to_owned();
            (
                format!("--{}", &text[..end]),
                (variable, part(text, "default")),
            )
        })
        .collect()
}

#[test]
fn every_flag_of_run_is_there_with_its_variable_and_default() {
    let documented: BTreeMap<_, _> = rows()
        .into_iter()
        .filter(|row| row[0].starts_with("--"))
        .map(|row| (row[0].clone(), (row[1].clone(), row[2].clone())))
        .collect();
    let flags = flags();
    assert!(flags.len() > 10, "{flags:?}");
    assert_eq!(
        documented.keys().collect::<Vec<_>>(),
        flags.keys().collect::<Vec<_>>()
    );
    for (flag, (variable, default)) in flags {
        let (documented_variable, documented_default) = &documented[&flag];
        assert_eq!(documented_variable, &variable, "{flag}");
        if let Some(default) = default {
            assert_eq!(documented_default, &default, "{flag}");
        }
    }
}

#[test]
fn every_reason_is_there() {
    let readme = readme();
    for reason in Reason::ALL {
        assert!(readme.contains(&format!("`{reason}`")), "{reason}");
    }
    let start = readme.find("| reason | meaning |").expect("the reasons");
    let table = readme[start..].lines().skip(2);
    for row in table.take_while(|line| line.starts_with('|')) {
        let word = row.split('`').nth(1).expect("a reason");
        assert!(word.parse::<Reason>().is_ok(), "{word}");
    }
}

#[test]
fn every_metric_is_there() {
    let metrics = Metrics::new();
    let now = MicroTime("2026-01-01T00:00:00Z".parse().expect("a time"));
    let token = TokenStatus {
        issued_at: now.clone(),
        expires_at: now.clone(),
        renewal_time: now,
        scope: None,
        sha256: None,
    };
    let status = ServiceNowCredentialStatus {
        token: Some(token),
        ..ServiceNowCredentialStatus::default()
    };
    metrics.set_status(&Name::new("a", "b"), &status);
    metrics.token_request("host", "Success", 0.1);
    metrics.reconciled(Outcome::Synced, 0.1);
    metrics.secret_written();
    let printed = metrics.print();
    let exposed: BTreeSet<_> = printed
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| match line.split_once(' ').expect("name and type") {
            (name, "counter") => format!("{name}_total"),
            (name, "info") => format!("{name}_info"),
            (name, _) => name.to_owned(),
        })
        .collect();
    let documented: BTreeSet<_> = rows()
        .into_iter()
        .map(|row| row[0].clone())
        .filter(|name| name.starts_with("snowcred_"))
        .collect();
    assert_eq!(documented, exposed);
}

#[test]
fn every_manifest_is_part_of_an_example() {
    let examples: Vec<_> = fs::read_dir(repository().join("examples"))
        .expect("the examples")
        .map(|entry| fs::read_to_string(entry.expect("an example").path()).expect("text"))
        .collect();
    let readme = readme();
    let mut manifests = readme.split("```yaml\n").skip(1).peekable();
    assert!(manifests.peek().is_some());
    for manifest in manifests {
        let manifest = manifest.split("```").next().expect("an end");
        assert!(
            examples.iter().any(|example| example.contains(manifest)),
            "{manifest}"
        );
    }
}

#[test]
fn every_link_within_the_repository_leads_somewhere() {
    for document in documents() {
        let text = fs::read_to_string(&document).expect("text");
        let folder = document.parent().expect("a folder");
        for link in text.split("](").skip(1) {
            let link = link.split([')', '#']).next().expect("an end");
            let is_elsewhere = link.is_empty() || link.contains("://");
            assert!(
                is_elsewhere || folder.join(link).exists(),
                "{}: {link}",
                document.display()
            );
        }
    }
}

/// Every document of ours.
fn documents() -> Vec<PathBuf> {
    let mut documents = vec![];
    for folder in ["", "docs", "docs/decisions", "docs/runbooks"] {
        for entry in fs::read_dir(repository().join(folder)).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "md") {
                documents.push(path);
            }
        }
    }
    assert!(documents.len() > 3, "{documents:?}");
    documents
}

/// The text of every source file under a folder.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &fs::read_to_string(&path).expect("a source file");
        }
    }
    text
}

#[test]
fn every_test_that_the_page_on_reliability_names_exists() {
    let page = fs::read_to_string(repository().join("docs/reliability.md")).expect("the page");
    let folders = ["src", "tests", "simulation", "testkit"];
    let sources: String = folders
        .map(|folder| sources(&repository().join(folder)))
        .concat();
    let table = page.lines().filter(|line| line.starts_with('|'));
    let named: BTreeSet<_> = table
        .flat_map(|row| row.split('`').skip(1).step_by(2))
        .collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        let exists = if name.contains('/') {
            repository().join(name).exists()
        } else {
            sources.contains(&format!("fn {name}("))
        };
        assert!(exists, "{name} does not exist");
    }
}
