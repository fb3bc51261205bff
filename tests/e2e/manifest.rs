//! The operator, installed by kubectl from one file with the commands of the README.

use std::{fs, path::Path};

use crate::{
    place::{Place, SELECTOR},
    stays,
};

/// What the README calls image and instance.
const IMAGE: &str = "registry.example/servicenow-credential-operator:0.1.0";
const HOST: &str = "dev12345.service-now.com";

/// Installs it, and waits until it is ready.
pub(crate) async fn install(place: &Place, host: &str) {
    let script = of_readme("dist/install.yaml |");
    assert!(script.contains(IMAGE) && script.contains(HOST), "{script}");
    let script = script.replace(IMAGE, place.operator_image());
    let script = script.replace(HOST, host);
    place.shell(&script).await.expect_success();
}

/// Removes it, and looks at what stays.
pub(crate) async fn uninstall_and_look(place: &Place) {
    let secret = stays::target(place).await;
    let script = of_readme("kubectl delete -f dist/install.yaml");
    place.shell(&script).await.expect_success();
    let installed = fs::read_to_string(repository().join("dist/install.yaml")).unwrap();
    stays::hold(place, &installed, SELECTOR, &secret).await;
}

/// The lines for a shell in the README that have these words in them.
fn of_readme(words: &str) -> String {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let blocks = readme.split("```sh\n").skip(1);
    let mut blocks = blocks.map(|rest| rest.split("```").next().unwrap());
    let found = blocks.find(|block| block.contains(words));
    found
        .unwrap_or_else(|| panic!("the README does not say how to use {words}"))
        .to_owned()
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
