//! Where the programs of the control plane are.
//!
//! `KUBEBUILDER_ASSETS` names a folder that has them, by the convention of controller-runtime's
//! envtest. That folder usually lacks kube-controller-manager; what is missing there, or
//! everything if the variable is not set, is built once from `tools/go.mod` into a cache folder.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::build::{Build, Program};
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
        [
            &self.etcd,
            &self.kube_apiserver,
            &self.kube_controller_manager,
            &self.kubectl,
        ]
        .into_iter()
        .filter_map(|binary| binary.parent())
        .collect()
    }
}

/// Finds the programs; builds those that nobody provides, which blocks the thread for minutes
/// the first time.
///
/// # Errors
///
/// [`Error::GoMissing`] where something must be built and cannot be, [`Error::Build`] where the
/// build fails.
pub fn locate() -> Result<Binaries, Error> {
    let assets = env::var_os(ASSETS_VARIABLE)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from);
    let is_provided =
        |program: &Program| provided(assets.as_deref(), program.file_name()).is_some();
    let missing: Vec<Program> = Program::ALL
        .into_iter()
        .filter(|program| !is_provided(program))
        .collect();
    let built = if missing.is_empty() {
        None
    } else {
        Some(build(&missing)?)
    };
    let path = |program: Program| {
        let name = program.file_name();
        provided(assets.as_deref(), name)
            .or_else(|| built.as_ref().map(|folder| folder.join(name)))
            .unwrap_or_else(|| unreachable!("{name} is neither provided nor built"))
    };
    Ok(Binaries {
        etcd: path(Program::Etcd),
        kube_apiserver: path(Program::KubeApiserver),
        kube_controller_manager: path(Program::KubeControllerManager),
        kubectl: path(Program::Kubectl),
    })
}

fn provided(assets: Option<&Path>, name: &str) -> Option<PathBuf> {
    let path = assets?.join(name);
    // The servers run in a folder of their own, where a relative path would lead nowhere.
    path.is_file().then(|| path.canonicalize().ok()).flatten()
}

fn build(missing: &[Program]) -> Result<PathBuf, Error> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools");
    let module = module
        .canonicalize()
        .map_err(Error::io(format!("find {}", module.display())))?;
    let build = Build::new(module)?;
    let folder = cache_root()?.join(format!("tools-{}", fingerprint(&build)?));
    build.run(missing, &folder)?;
    Ok(folder)
}

fn cache_root() -> Result<PathBuf, Error> {
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
        let path = build.module().join(name);
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
