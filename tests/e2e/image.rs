//! The operator's image, and what it promises.

use std::{path::Path, process::Command};

use jiff::Timestamp;
use testkit::cluster::{Archive, Images, Labels};
use tokio::sync::OnceCell;

use crate::place::variable;

const NAME: &str = "localhost/servicenow-credential-operator:e2e";
const PROGRAM: &str = "/usr/bin/servicenow-credential-operator";
/// In bytes, before compression.
const LIMIT: u64 = 40 * 1000 * 1000;

/// The image and the labels that it was to have, built once for all tests.
pub(crate) async fn operator() -> &'static (Archive, Labels) {
    static IMAGE: OnceCell<(Archive, Labels)> = OnceCell::const_new();
    IMAGE
        .get_or_init(async || tokio::task::spawn_blocking(build).await.unwrap())
        .await
}

fn build() -> (Archive, Labels) {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let profile = variable("E2E_PROFILE").unwrap_or_else(|| "release".to_owned());
    let images = Images::open().unwrap();
    let labels = labels();
    let archive = images
        .operator(NAME, repository, &profile, &labels)
        .unwrap_or_else(|error| panic!("{error:?}"));
    (archive, labels)
}

/// As `make image` sets them.
fn labels() -> Labels {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output();
        let output = output.ok().filter(|output| output.status.success());
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let epoch = variable("SOURCE_DATE_EPOCH").or_else(|| git(&["log", "-1", "--format=%ct"]));
    let epoch = epoch.and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    Labels {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: git(&["rev-parse", "HEAD"]).unwrap_or_else(|| "unknown".to_owned()),
        created: Timestamp::from_second(epoch).unwrap().to_string(),
    }
}

/// Size, user, program, labels, and every file.
pub(crate) async fn hold() {
    if variable("E2E_KUBECONFIG").is_some() {
        println!("E2E_IMAGE was built elsewhere: what is in it is not looked at");
        return;
    }
    let (_, labels) = operator().await;
    let contents = tokio::task::spawn_blocking(|| Images::open()?.contents(NAME))
        .await
        .unwrap()
        .unwrap();

    assert_eq!(contents.user, "65532:65532");
    assert_eq!(contents.entrypoint, [PROGRAM]);
    let label = |name: &str| {
        let name = format!("org.opencontainers.image.{name}");
        contents.labels.get(&name).map(String::as_str)
    };
    assert_eq!(label("title"), Some("servicenow-credential-operator"));
    assert_eq!(label("licenses"), Some("Apache-2.0"));
    assert_eq!(label("version"), Some(labels.version.as_str()));
    assert_eq!(label("revision"), Some(labels.revision.as_str()));
    assert_eq!(label("created"), Some(labels.created.as_str()));

    let authorities = "/etc/ssl/certs/ca-certificates.crt";
    assert!(
        contents
            .files
            .get(authorities)
            .is_some_and(|size| *size > 100_000)
    );
    let to_run: Vec<&String> = contents
        .files
        .keys()
        .filter(|path| !path.starts_with("/etc/") && !is_library(path))
        .collect();
    assert_eq!(to_run, [PROGRAM], "no shell, and nothing else to run");
    let size: u64 = contents.files.values().sum();
    assert!(size < LIMIT, "{size} bytes: {:?}", contents.files);
    println!(
        "the image holds {:.1} MB in {} files",
        size as f64 / 1e6,
        contents.files.len()
    );
}

fn is_library(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    path.contains("/lib") && name.contains(".so")
}
