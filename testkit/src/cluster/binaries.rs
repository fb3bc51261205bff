//! Where the programs are that tests and demo run: a control plane's, a node's, and Helm's. Each
//! group is looked for on its own, so that nobody waits for what he does not run.
//!
//! `KUBEBUILDER_ASSETS` names a folder that has them, by the convention of controller-runtime's
//! envtest. That folder usually lacks kube-controller-manager; what is missing there, or
//! everything if the variable is not set, is built once from a Go module into a cache folder.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::build::{Build, Module, Program};
use super::error::Error;

/// The folder with the programs, where somebody else provides them.
pub const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";
/// The folder under which built programs are kept, instead of the user's cache folder.
pub const CACHE_VARIABLE: &str = "SNOWCRED_TOOLS_CACHE";

/// The subfolder of the user's cache folder, named after the project.
const CACHE_NAME: &str = "servicenow-credential-operator";

/// The programs of the control plane, each an executable file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// The store.
    pub etcd: PathBuf,
    /// The API.
    pub kube_apiserver: PathBuf,
    /// Garbage collection, ServiceAccounts, Deployments.
    pub kube_controller_manager: PathBuf,
    /// The command line client.
    pub kubectl: PathBuf,
}

impl Binaries {
    /// The folders that hold them, without repetition.
    pub fn folders(&self) -> BTreeSet<&Path> {
        folders([
            &self.etcd,
            &self.kube_apiserver,
            &self.kube_controller_manager,
            &self.kubectl,
        ])
    }
}

/// What makes a machine a node, beside a container runtime, each an executable file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeBinaries {
    /// Runs the pods of a node.
    pub kubelet: PathBuf,
    /// Gives pods to nodes.
    pub kube_scheduler: PathBuf,
    /// Leads the addresses of Services to pods.
    pub kube_proxy: PathBuf,
}

impl NodeBinaries {
    /// The folders that hold them, without repetition.
    pub fn folders(&self) -> BTreeSet<&Path> {
        folders([&self.kubelet, &self.kube_scheduler, &self.kube_proxy])
    }
}

/// What installs and tests a chart, each an executable file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelmBinaries {
    /// The package manager.
    pub helm: PathBuf,
    /// Runs the unit tests of a chart, without a cluster.
    pub helm_unittest: PathBuf,
}

impl HelmBinaries {
    /// The folders that hold them, without repetition.
    pub fn folders(&self) -> BTreeSet<&Path> {
        folders([&self.helm, &self.helm_unittest])
    }
}

fn folders<'a>(programs: impl IntoIterator<Item = &'a PathBuf>) -> BTreeSet<&'a Path> {
    programs
        .into_iter()
        .filter_map(|program| program.parent())
        .collect()
}

/// Finds the programs of a control plane; builds those that nobody provides, which blocks the
/// thread for minutes the first time.
///
/// # Errors
///
/// [`Error::GoMissing`] where something must be built and cannot be, [`Error::Build`] where the
/// build fails.
pub fn locate() -> Result<Binaries, Error> {
    let [etcd, kube_apiserver, kube_controller_manager, kubectl] =
        find(Module::Kubernetes, Program::CONTROL_PLANE)?;
    Ok(Binaries {
        etcd,
        kube_apiserver,
        kube_controller_manager,
        kubectl,
    })
}

/// As [`locate`], kubectl alone, for a cluster that somebody else provides.
///
/// # Errors
///
/// As [`locate`].
pub fn locate_kubectl() -> Result<PathBuf, Error> {
    let [kubectl] = find(Module::Kubernetes, [Program::Kubectl])?;
    Ok(kubectl)
}

/// As [`locate`], the programs of a node.
///
/// # Errors
///
/// As [`locate`].
pub fn locate_node() -> Result<NodeBinaries, Error> {
    let [kubelet, kube_scheduler, kube_proxy] = find(Module::Kubernetes, Program::NODE)?;
    Ok(NodeBinaries {
        kubelet,
        kube_scheduler,
        kube_proxy,
    })
}

/// As [`locate`], Helm and the runner of its charts' unit tests.
///
/// # Errors
///
/// As [`locate`].
pub fn locate_helm() -> Result<HelmBinaries, Error> {
    let [helm, helm_unittest] = find(Module::Helm, Program::HELM)?;
    Ok(HelmBinaries {
        helm,
        helm_unittest,
    })
}

fn find<const N: usize>(module: Module, wanted: [Program; N]) -> Result<[PathBuf; N], Error> {
    let assets = env::var_os(ASSETS_VARIABLE)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from);
    let is_provided =
        |program: &Program| provided(assets.as_deref(), program.file_name()).is_some();
    let missing: Vec<Program> = wanted
        .into_iter()
        .filter(|program| !is_provided(program))
        .collect();
    let built = if missing.is_empty() {
        None
    } else {
        Some(build(module, &missing)?)
    };
    Ok(wanted.map(|program| {
        let name = program.file_name();
        provided(assets.as_deref(), name)
            .or_else(|| built.as_ref().map(|folder| folder.join(name)))
            .unwrap_or_else(|| unreachable!("{name} is neither provided nor built"))
    }))
}

fn provided(assets: Option<&Path>, name: &str) -> Option<PathBuf> {
    let path = assets?.join(name);
    // The servers run in a folder of their own, where a relative path would lead nowhere.
    path.is_file().then(|| path.canonicalize().ok()).flatten()
}

fn build(module: Module, missing: &[Program]) -> Result<PathBuf, Error> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(module.folder());
    let folder = folder
        .canonicalize()
        .map_err(Error::io(format!("find {}", folder.display())))?;
    let build = Build::new(module, folder)?;
    let name = format!("{}-{}", module.cache_name(), fingerprint(&build)?);
    let cache = cache_root()?.join(name);
    build.run(missing, &cache)?;
    Ok(cache)
}

/// The folder under which everything is kept that is built once.
pub(super) fn cache_root() -> Result<PathBuf, Error> {
    let folder = |name: &str| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    folder(CACHE_VARIABLE)
        .or_else(|| Some(folder("XDG_CACHE_HOME")?.join(CACHE_NAME)))
        .or_else(|| Some(folder("HOME")?.join(".cache").join(CACHE_NAME)))
        .ok_or(Error::NoCacheFolder)
}

/// Names a build by everything that decides its result, so that an old one is never taken for it.
fn fingerprint(build: &Build) -> Result<String, Error> {
    let mut hash = Sha256::new();
    for name in ["go.mod", "go.sum"] {
        let path = build.folder().join(name);
        let text = fs::read(&path).map_err(Error::io(format!("read {}", path.display())))?;
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    hash.update(build.linker_flags());
    let digest = hash.finalize();
    Ok(digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
