//! Each alert has a page that says what to do, with commands that exist.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use crate::files::{alerts, names, read};

/// The folder's pages, by the names of their alerts.
fn pages() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbooks");
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "README.md")
        .map(|name| name.strip_suffix(".md").unwrap().to_owned())
        .collect()
}

#[test]
fn every_alert_has_a_page_under_its_name_and_every_page_an_alert() {
    assert_eq!(pages(), names());
    let index = read("docs/runbooks/README.md");
    for name in names() {
        let page = read(&format!("docs/runbooks/{name}.md"));
        assert_eq!(page.lines().next(), Some(format!("# {name}").as_str()));
        for part in [
            "## What it means",
            "## Look",
            "## Causes, the likeliest first",
            "## When it is over",
        ] {
            assert!(page.contains(part), "{name} has no part {part:?}");
        }
        assert!(index.contains(&format!("[{name}]({name}.md)")), "{name}");
    }
}

#[test]
fn an_alert_says_how_bad_it_is_and_what_to_do_and_leaves_the_link_to_the_chart() {
    for alert in alerts() {
        let severity = alert["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning"].contains(&severity), "{alert}");
        let annotations = alert["annotations"].as_object().unwrap();
        let keys: Vec<_> = annotations.keys().collect();
        assert_eq!(keys, ["description", "summary"], "{alert}");
        let description = annotations["description"].as_str().unwrap();
        assert!(description.contains("kubectl "), "{alert}");
    }
}

#[test]
fn every_command_of_the_operator_in_a_page_exists_with_its_options() {
    let mut seen = BTreeSet::new();
    for name in pages() {
        let page = read(&format!("docs/runbooks/{name}.md"));
        for line in page.lines() {
            let Some((_, command)) = line.split_once("kubectl snowcred ") else {
                continue;
            };
            let command = command.split('`').next().unwrap();
            let mut words = command.split_whitespace();
            let subcommand = words.next().unwrap();
            let help = Command::new(env!("CARGO_BIN_EXE_servicenow-credential-operator"))
                .args([subcommand, "--help"])
                .output()
                .unwrap();
            assert!(help.status.success(), "{name}: {line}");
            let help = String::from_utf8(help.stdout).unwrap();
            for option in words.filter(|word| word.starts_with('-')) {
                let option = option.split('=').next().unwrap();
                let is_there = help.split([' ', ',', '\n', '=']).any(|word| word == option);
                assert!(is_there, "{name}: {line}: there is no {option}");
            }
            seen.insert(subcommand.to_owned());
        }
    }
    let known = ["check", "renew", "status"].map(str::to_owned);
    assert_eq!(seen, BTreeSet::from(known));
}

/// The name that a text begins with, as a shell takes it.
fn variable(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !c.is_ascii_uppercase() && c != '_');
    let name = &text[..end.unwrap_or(text.len())];
    (!name.is_empty()).then_some(name)
}

#[test]
fn every_variable_in_a_page_has_a_value_before_it_is_used() {
    let set_by = |line: &str| -> Vec<String> {
        let words = line.split_whitespace();
        let names = words.filter_map(|word| Some(word.split_once('=')?.0));
        let set = names.filter(|name| variable(name) == Some(name));
        set.map(str::to_owned).collect()
    };
    let index = read("docs/runbooks/README.md");
    let by_index: BTreeSet<String> = index.lines().flat_map(set_by).collect();
    for name in pages() {
        let mut set = by_index.clone();
        let page = read(&format!("docs/runbooks/{name}.md"));
        for line in page.lines() {
            for used in line.split('$').skip(1).filter_map(variable) {
                assert!(set.contains(used), "{name}: {used} has no value: {line}");
            }
            set.extend(set_by(line));
        }
    }
}
