//! The operator, installed by Helm from the chart.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use testkit::chart;

use crate::{
    place::{NAMESPACE, PATIENCE, Place, SELECTOR, SYSTEM, until},
    stays,
};

const NAME: &str = "snowcred";

/// What the chart gives a pod to end by itself.
const GRACE: Duration = Duration::from_secs(20);

/// An installed release.
pub(crate) struct Release<'a> {
    place: &'a Place,
    host: String,
}

impl<'a> Release<'a> {
    /// Installs it, and waits until it is ready.
    pub(crate) async fn install(place: &'a Place, host: &str) -> Self {
        let release = Self {
            place,
            host: host.to_owned(),
        };
        let values = release.values("info");
        release
            .helm(&["install", "--create-namespace"], &values)
            .await;
        release
    }

    /// The values of a careful user.
    fn values(&self, log_level: &str) -> Value {
        let (repository, tag) = self
            .place
            .operator_image()
            .rsplit_once(':')
            .expect("an image has a tag");
        json!({
            "image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"},
            "allowedHosts": [self.host],
            "watchNamespaces": [NAMESPACE],
            "log": {"level": log_level},
            "resources": {
                "requests": {"cpu": "10m", "memory": "32Mi"},
                "limits": {"memory": "128Mi"},
            },
        })
    }

    async fn helm(&self, verb: &[&str], values: &Value) {
        let chart = chart::folder().display().to_string();
        let rest = [NAME, &chart, "--namespace", SYSTEM, "--values", "-"];
        let waits = ["--wait", "--timeout=2m"];
        let arguments = [verb, &rest, &waits].concat();
        let values = values.to_string();
        let installed = self.place.helm_stdin(&arguments, &values).await;
        installed.expect_success();
    }

    /// Another configuration, and so another pod.
    pub(crate) async fn upgrade(&self) {
        let before = self.pods().await;
        self.helm(&["upgrade"], &self.values("debug")).await;
        self.await_other_than(&before).await;
    }

    /// Deletes the pod, as whoever is out of ideas would.
    ///
    /// Returns how long it took to end: as the first process of its container it gets SIGTERM only
    /// because it asks for it.
    pub(crate) async fn delete_pod(&self) -> Duration {
        let before = self.pods().await;
        let begun = Instant::now();
        let delete = [
            "delete",
            "pods",
            "--selector",
            SELECTOR,
            "--namespace",
            SYSTEM,
        ];
        self.place.kubectl(&delete).await.expect_success();
        let ended = begun.elapsed();
        assert!(ended < GRACE, "it had to be killed after {ended:?}");
        self.await_other_than(&before).await;
        ended
    }

    /// Empties the nodes of the operator's pods, and takes them in again.
    pub(crate) async fn reschedule(&self) {
        let before = self.pods().await;
        let nodes = self
            .ask("--output=jsonpath={.items[*].spec.nodeName}")
            .await;
        let nodes: Vec<&str> = nodes.split_whitespace().collect();
        let options = [
            "--pod-selector",
            SELECTOR,
            "--timeout=60s",
            "--ignore-daemonsets",
        ];
        let drain = [&["drain"], &nodes[..], &options].concat();
        let drained = self.place.kubectl(&drain).await;
        let uncordon = [&["uncordon"], &nodes[..]].concat();
        self.place.kubectl(&uncordon).await.expect_success();
        drained.expect_success();
        self.await_other_than(&before).await;
    }

    async fn ask(&self, output: &str) -> String {
        let get = ["get", "pods", "--selector", SELECTOR, "--namespace", SYSTEM];
        let arguments = [&get[..], &[output]].concat();
        self.place.kubectl(&arguments).await.expect_success()
    }

    async fn pods(&self) -> Vec<String> {
        let names = self
            .ask("--output=jsonpath={.items[*].metadata.name}")
            .await;
        let names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
        assert!(!names.is_empty(), "the operator has no pod");
        names
    }

    /// Until no pod is one of these, and all are ready.
    async fn await_other_than(&self, before: &[String]) {
        let path = r#"--output=jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}"#;
        until(
            "other pods of the operator are ready",
            PATIENCE,
            async || {
                let pods = self.ask(path).await;
                let is_new = |line: &str| {
                    let (name, ready) = line.split_once(' ').unwrap_or_default();
                    ready == "True" && before.iter().all(|old| old != name)
                };
                !pods.is_empty() && pods.lines().all(is_new)
            },
        )
        .await;
    }

    /// Uninstalls it, and looks at what stays.
    pub(crate) async fn uninstall_and_look(&self) {
        let manifest = ["get", "manifest", NAME, "--namespace", SYSTEM];
        let manifest = self.place.helm(&manifest).await.expect_success();
        let secret = stays::target(self.place).await;
        let uninstall = ["uninstall", NAME, "--namespace", SYSTEM];
        let waits = ["--wait", "--timeout=2m"];
        let uninstall = [&uninstall[..], &waits].concat();
        self.place.helm(&uninstall).await.expect_success();
        stays::hold(self.place, &manifest, SELECTOR, &secret).await;
    }
}
