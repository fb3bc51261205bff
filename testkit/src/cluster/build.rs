//! Builds Go programs from the modules under `tools/`, once for all processes.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use super::error::{Error, tail};
use super::process::{Reaper, Supervised, gated};

/// How often a running build says that it is still running.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often a running build is looked at.
const POLL: Duration = Duration::from_millis(100);

/// A Go module of this project, whose `go.mod` pins the programs that are built from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Module {
    /// The control plane, kubectl, and what makes a machine a node.
    Kubernetes,
    /// Helm, which needs other versions of the modules that both use.
    Helm,
}

impl Module {
    /// Its folder, seen from the top of the checkout.
    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::Kubernetes => "tools",
            Self::Helm => "tools/helm",
        }
    }

    /// What the folders of the cache that hold its programs are named after.
    pub(super) fn cache_name(self) -> &'static str {
        match self {
            Self::Kubernetes => "tools",
            Self::Helm => "helm",
        }
    }

    /// How the line of `go.mod` begins whose version the programs are stamped with.
    fn pinned(self) -> &'static str {
        match self {
            Self::Kubernetes => "k8s.io/kubernetes ",
            Self::Helm => "helm.sh/helm/v4 ",
        }
    }
}

impl fmt::Display for Module {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Kubernetes => "Kubernetes",
            Self::Helm => "Helm",
        })
    }
}

/// A program that tests and demo run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    Etcd,
    KubeApiserver,
    KubeControllerManager,
    Kubectl,
    Kubelet,
    KubeScheduler,
    KubeProxy,
    Helm,
    HelmUnittest,
}

impl Program {
    /// Of a control plane; kube-apiserver before those that then find most packages compiled.
    pub(super) const CONTROL_PLANE: [Self; 4] = [
        Self::Etcd,
        Self::KubeApiserver,
        Self::KubeControllerManager,
        Self::Kubectl,
    ];
    /// What a node needs beside a control plane; kubelet first for the same reason.
    pub(super) const NODE: [Self; 3] = [Self::Kubelet, Self::KubeScheduler, Self::KubeProxy];
    /// For the chart.
    pub(super) const HELM: [Self; 2] = [Self::Helm, Self::HelmUnittest];

    pub(super) fn file_name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::Kubectl => "kubectl",
            Self::Kubelet => "kubelet",
            Self::KubeScheduler => "kube-scheduler",
            Self::KubeProxy => "kube-proxy",
            Self::Helm => "helm",
            Self::HelmUnittest => "helm-unittest",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Etcd => "go.etcd.io/etcd/server/v3",
            Self::KubeApiserver => "k8s.io/kubernetes/cmd/kube-apiserver",
            Self::KubeControllerManager => "k8s.io/kubernetes/cmd/kube-controller-manager",
            Self::Kubectl => "k8s.io/kubernetes/cmd/kubectl",
            Self::Kubelet => "k8s.io/kubernetes/cmd/kubelet",
            Self::KubeScheduler => "k8s.io/kubernetes/cmd/kube-scheduler",
            Self::KubeProxy => "k8s.io/kubernetes/cmd/kube-proxy",
            Self::Helm => "helm.sh/helm/v4/cmd/helm",
            Self::HelmUnittest => "github.com/helm-unittest/helm-unittest/cmd/helm-unittest",
        }
    }

    /// Roughly, on two cores with an empty Go build cache, in this order.
    fn cold_minutes(self) -> u32 {
        match self {
            Self::KubeApiserver | Self::Helm => 4,
            Self::KubeControllerManager | Self::Kubectl | Self::Kubelet => 2,
            Self::Etcd | Self::KubeScheduler | Self::KubeProxy | Self::HelmUnittest => 1,
        }
    }
}

/// What is built: a Go module, and the versions its `go.mod` names.
pub(super) struct Build {
    module: Module,
    folder: PathBuf,
    /// Of Kubernetes or Helm, as in `v1.2.3`.
    version: String,
    go_version: String,
}

impl Build {
    /// From the folder that holds the module.
    pub(super) fn new(module: Module, folder: PathBuf) -> Result<Self, Error> {
        let path = folder.join("go.mod");
        let text =
            fs::read_to_string(&path).map_err(Error::io(format!("read {}", path.display())))?;
        let second_word = |line: &'static str| {
            text.lines()
                .map(|candidate| candidate.trim().trim_start_matches("require "))
                .find_map(|candidate| candidate.strip_prefix(line)?.split_whitespace().next())
                .map(str::to_owned)
                .ok_or_else(|| Error::Toolchain {
                    path: path.clone(),
                    line,
                })
        };
        Ok(Self {
            version: second_word(module.pinned())?,
            go_version: second_word("go ")?,
            module,
            folder,
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Stamps the version: without it, clients are told v0.0.0, and Helm forgets its patch level.
    pub(super) fn linker_flags(&self) -> String {
        let version = &self.version;
        match self.module {
            Module::Helm => {
                format!("-s -w -X helm.sh/helm/v4/internal/version.version={version}")
            }
            Module::Kubernetes => {
                let mut numbers = version.trim_start_matches('v').split('.');
                let major = numbers.next().unwrap_or_default();
                let minor = numbers.next().unwrap_or_default();
                let stamp = "-X k8s.io/component-base/version";
                format!(
                    "-s -w {stamp}.gitVersion={version} {stamp}.gitMajor={major} \
                     {stamp}.gitMinor={minor} \
                     -X k8s.io/client-go/pkg/version.gitVersion={version}"
                )
            }
        }
    }

    /// Makes sure that `folder` holds `wanted`. Processes that want the same wait for the first.
    pub(super) fn run(&self, wanted: &[Program], folder: &Path) -> Result<(), Error> {
        if missing(wanted, folder).is_empty() {
            return Ok(());
        }
        fs::create_dir_all(folder)
            .map_err(Error::io(format!("create the folder {}", folder.display())))?;
        let _lock = lock(folder)?;
        // Asked again, because whoever held the lock may have built it all.
        let missing = missing(wanted, folder);
        if missing.is_empty() {
            return Ok(());
        }
        self.require_go(&missing)?;
        progress(&format!(
            "programs of {} are built once, into {}",
            self.module,
            folder.display()
        ));
        for program in missing {
            self.build_one(program, folder)?;
        }
        Ok(())
    }

    fn require_go(&self, missing: &[Program]) -> Result<(), Error> {
        match Command::new("go").arg("version").output() {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::GoMissing {
                missing: missing
                    .iter()
                    .map(|p| p.file_name())
                    .collect::<Vec<_>>()
                    .join(", "),
                version: self.go_version.clone(),
            }),
            Err(error) => Err(Error::io("run `go version`")(error)),
        }
    }

    fn build_one(&self, program: Program, folder: &Path) -> Result<(), Error> {
        let name = program.file_name();
        let scratch = tempfile::Builder::new()
            .prefix(".building-")
            .tempdir_in(folder)
            .map_err(Error::io(format!(
                "create a folder in {}",
                folder.display()
            )))?;
        let unfinished = scratch.path().join(name);
        let log = scratch.path().join("log");
        progress(&format!(
            "building {name} of {} {} (about {} min when nothing is cached)",
            self.module,
            self.version,
            program.cold_minutes()
        ));
        let begin = Instant::now();
        // Supervised as a server is: minutes of work must not go on after a Ctrl-C.
        let mut reaper = Reaper::start(scratch.path())?;
        let mut go = gated("go");
        go.arg("build")
            .arg("-C")
            .arg(&self.folder)
            .arg("-ldflags")
            .arg(self.linker_flags())
            .arg("-o")
            .arg(&unfinished)
            .arg(program.package())
            .env("GOTMPDIR", scratch.path());
        let status = attended(go, &log, &mut reaper, &format!("build {name}"))?;
        if !status.success() {
            return Err(Error::Build {
                binary: name,
                tail: tail(&log),
            });
        }
        progress(&format!("built {name} in {} s", begin.elapsed().as_secs()));
        // Before the reaper is dropped, which removes the scratch folder.
        fs::rename(&unfinished, folder.join(name))
            .map_err(Error::io(format!("move {name} into {}", folder.display())))
    }
}

/// Runs a [`gated`] command to its end, and says now and then that it is still at work.
pub(super) fn attended(
    command: Command,
    log: &Path,
    reaper: &mut Reaper,
    task: &str,
) -> Result<ExitStatus, Error> {
    let begin = Instant::now();
    let mut process = Supervised::spawn(command, log, reaper)?;
    let mut next_heartbeat = HEARTBEAT;
    let status = loop {
        if let Some(status) = process.ended() {
            break status;
        }
        if begin.elapsed() >= next_heartbeat {
            let seconds = begin.elapsed().as_secs();
            progress(&format!("still at work: {task} ({seconds} s)"));
            next_heartbeat += HEARTBEAT;
        }
        thread::sleep(POLL);
    };
    process.kill(reaper);
    Ok(status)
}

fn missing(wanted: &[Program], folder: &Path) -> Vec<Program> {
    wanted
        .iter()
        .copied()
        .filter(|program| !folder.join(program.file_name()).is_file())
        .collect()
}

/// Held until the file is closed, which the system does for a process that dies.
fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join(".lock");
    let file = File::create(&path).map_err(Error::io(format!("create {}", path.display())))?;
    if file.try_lock().is_err() {
        progress("another process is building the same programs: waiting for it");
        file.lock()
            .map_err(Error::io(format!("lock {}", path.display())))?;
    }
    Ok(file)
}

/// Written to the stream itself and not with `eprintln!`, which the test harness holds back
/// until the test has ended: minutes of silence.
pub(super) fn progress(message: &str) {
    // Nobody listens on a closed stderr; that is no reason to stop building.
    let _ = writeln!(io::stderr(), "tools: {message}");
}
