//! A Prometheus as it watches an operator in a cluster, but every second.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::time::sleep;

use crate::cluster::process::{Reaper, Supervised, gated};

/// A running Prometheus. Dropping it kills it, and so does the end of this process.
pub struct Prometheus {
    process: Option<Supervised>,
    reaper: Reaper,
    log: PathBuf,
    // Last: it goes when nothing writes to it any more.
    _folder: TempDir,
}

/// The job of the operator, as its Service's name would be.
pub const JOB: &str = "servicenow-credential-operator";
/// The operator's own namespace, which its target bears as in a cluster.
pub const NAMESPACE: &str = "snowcred-system";

const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

impl Prometheus {
    /// Starts a Prometheus with these rules that scrapes these replicas of one operator, and returns
    /// when it listens.
    ///
    /// # Panics
    ///
    /// If there is none, or it ends, or does not listen in time; its log is in the message.
    pub async fn start(replicas: &[SocketAddr], rules: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("snowcred-prometheus-")
            .tempdir()
            .unwrap_or_else(|error| panic!("no folder for Prometheus: {error}"));
        let path = |name: &str| folder.path().join(name);
        // A list of texts in JSON is one in YAML.
        let replicas: Vec<_> = replicas.iter().map(ToString::to_string).collect();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: [rules.yaml]\n\
             scrape_configs:\n\
             - job_name: {JOB}\n  \
               honor_labels: true\n  \
               static_configs:\n  \
               - {{targets: {replicas:?}, labels: {{namespace: {NAMESPACE}}}}}\n"
        );
        for (name, content) in [("prometheus.yaml", config.as_str()), ("rules.yaml", rules)] {
            fs::write(path(name), content)
                .unwrap_or_else(|error| panic!("{name} is not written: {error}"));
        }
        let log = path("prometheus.log");
        let mut reaper = Reaper::start(folder.path())
            .unwrap_or_else(|error| panic!("Prometheus cannot be started: {error}"));
        let mut command = gated("prometheus");
        command
            .arg(format!(
                "--config.file={}",
                path("prometheus.yaml").display()
            ))
            .arg(format!("--storage.tsdb.path={}", path("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .current_dir(folder.path());
        let process = Supervised::spawn(command, &log, &mut reaper)
            .unwrap_or_else(|error| panic!("Prometheus cannot be started: {error}"));
        let mut prometheus = Self {
            process: Some(process),
            reaper,
            log,
            _folder: folder,
        };
        let deadline = Instant::now() + PATIENCE;
        while prometheus.address().is_none() {
            let process = prometheus.process.as_mut();
            let ended = process.and_then(Supervised::ended);
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "Prometheus does not listen ({ended:?}). Is it installed? On Debian and Ubuntu it is \
                 the package prometheus.\n{}",
                prometheus.log()
            );
            sleep(POLL).await;
        }
        prometheus
    }

    /// The address of its API, once it has logged it.
    pub fn address(&self) -> Option<SocketAddr> {
        let log = self.log();
        let line = log
            .lines()
            .find(|line| line.contains("msg=\"Listening on\""))?;
        let address = line.split_once("address=")?.1;
        address.split(' ').next()?.parse().ok()
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill(&mut self.reaper);
        }
    }
}
