//! The operator's image, and what it promises.

use std::{path::Path, process::Command};

use jiff::Timestamp;
use testkit::cluster::{Archive, Contents, Error, Images};
use tokio::sync::OnceCell;

use crate::place::variable;

const NAME: &str = "localhost/servicenow-credential-operator:e2e";
const PROGRAM: &str = "/usr/bin/servicenow-credential-operator";
/// In bytes, before compression.
const LIMIT: u64 = 40 * 1000 * 1000;

/// The image, built once for all that run it.
pub(crate) async fn operator() -> &'static Archive {
    static IMAGE: OnceCell<Archive> = OnceCell::const_new();
    IMAGE
        .get_or_init(async || tokio::task::spawn_blocking(build).await.unwrap())
        .await
}

fn build() -> Archive {
    make(NAME, &[]).unwrap_or_else(|error| panic!("{error:?}"))
}

fn make(name: &str, arguments: &[(&str, &str)]) -> Result<Archive, Error> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let profile = variable("E2E_PROFILE").unwrap_or_else(|| "release".to_owned());
    let profile = [("PROFILE", profile.as_str())];
    Images::open()?.operator(name, repository, &[&profile, arguments].concat())
}

/// Of one that is made now: the commit may be another one than when the suite began.
async fn contents() -> Contents {
    let made = tokio::task::spawn_blocking(|| {
        build();
        Images::open()?.contents(NAME)
    });
    made.await.unwrap().unwrap()
}

/// What the checkout says of itself.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let output = output.ok().filter(|output| output.status.success());
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Whether it is ours to look at.
fn is_built_here() -> bool {
    let is_built_here = variable("E2E_KUBECONFIG").is_none();
    if !is_built_here {
        println!("E2E_IMAGE was built elsewhere: it is not looked at");
    }
    is_built_here
}

/// Size, user, program, labels, and every file.
pub(crate) async fn hold() {
    if !is_built_here() {
        return;
    }
    let contents = contents().await;

    assert_eq!(contents.user, "65532:65532");
    assert_eq!(contents.entrypoint, [PROGRAM]);
    let label = |name: &str| {
        let name = format!("org.opencontainers.image.{name}");
        contents.labels.get(&name).map(String::as_str)
    };
    assert_eq!(label("title"), Some("servicenow-credential-operator"));
    assert_eq!(label("licenses"), Some("Apache-2.0"));
    assert_eq!(label("version"), Some(env!("CARGO_PKG_VERSION")));
    let revision = git(&["rev-parse", "HEAD"]);
    assert_eq!(label("revision"), revision.as_deref().or(Some("unknown")));
    let epoch = variable("SOURCE_DATE_EPOCH").or_else(|| git(&["log", "-1", "--format=%ct"]));
    let epoch = epoch.map_or(0, |epoch| epoch.parse().unwrap());
    let created = Timestamp::from_second(epoch).unwrap().to_string();
    assert_eq!(label("created"), Some(created.as_str()));
    assert_eq!(contents.created, created);

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

/// What was compiled is in the cache: what could differ is labels and times.
pub(crate) async fn hold_again() {
    if !is_built_here() {
        return;
    }
    let first = contents().await.id;
    assert_eq!(contents().await.id, first);
}

/// Made on a machine of another kind it would be one that nobody has tried.
pub(crate) async fn hold_other_machine() {
    if !is_built_here() {
        return;
    }
    let other = "localhost/servicenow-credential-operator:other";
    let made = tokio::task::spawn_blocking(|| make(other, &[("TARGETARCH", "mips")]));
    let said = format!("{:?}", made.await.unwrap().unwrap_err());
    assert!(
        said.contains("and the image is to be mips: build it on such a machine"),
        "{said}"
    );
}

fn is_library(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    path.contains("/lib") && name.contains(".so")
}
