//! A control plane with a node: pods start, mount Secrets, and reach Services.
//!
//! The node is this machine in namespaces of its own, as a container is: kubelet, kube-proxy and
//! containerd see its processors and its files, but have their own process numbers, mounts and
//! network. So nothing of it can stay behind. When the first process in there ends, the kernel ends
//! all others, and with them go their mounts, bridges and packet filter rules.
//!
//! | module | what it answers |
//! |---|---|
//! | `namespaces` | how a program gets in there, and a packet out |
//! | `configuration` | what kubelet, kube-proxy, containerd and the pod network are told |
//! | `images` | where images come from without a registry |

mod configuration;
mod images;
mod namespaces;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Api;
use rustix::process::geteuid;
use tokio::time::sleep;

pub use images::{Archive, Contents, Images, lay_out};

use self::configuration::Files;
use self::images::SANDBOX_IMAGE;
use self::namespaces::Namespaces;
use super::binaries::{self, NodeBinaries};
use super::control_plane::{POLL, READY_WITHIN};
use super::error::{Error, last_lines};
use super::process::{Reaper, Supervised, gated};
use super::state::{Kind, StateFolder, control_group, sweep};
use super::{ControlPlane, Options};

/// Programs of a node that show outside of its namespaces, for whoever sweeps up after a crash.
pub(super) const OUTSIDE: [&str; 2] = ["unshare", "kube-scheduler"];

/// What the node is called.
const NAME: &str = "node";

/// How a node differs from the usual one.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// How often the kubelet brings the files of each pod up to date; a minute, usually.
    pub sync: Duration,
}

/// A control plane with one node. Dropping it ends both, and so does the end of the process.
pub struct Node {
    // Fields are dropped in this order, after `drop` has ended the node's programs.
    running: Mutex<Running>,
    control_plane: ControlPlane,
    namespaces: Namespaces,
    files: Files,
    state: StateFolder,
}

/// What runs. `reaper` is `None` only while the node is being dropped.
struct Running {
    programs: Vec<(&'static str, Supervised)>,
    reaper: Option<Reaper>,
}

impl Node {
    /// Starts a control plane and a node, and waits until it takes pods. Builds their programs first
    /// if nobody has.
    ///
    /// # Errors
    ///
    /// If this machine cannot be a node, or a program cannot be had, ends, or is not ready within
    /// two minutes.
    pub async fn start(options: NodeOptions) -> Result<Self, Error> {
        if !geteuid().is_root() {
            return Err(Error::NoNode(
                "only root may make namespaces, mounts and network devices; run this as root"
                    .to_owned(),
            ));
        }
        let (binaries, sandbox) = tokio::task::spawn_blocking(|| {
            Ok::<_, Error>((binaries::locate_node()?, Images::open()?.sandbox()?))
        })
        .await
        .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        sweep();
        let state = StateFolder::create(Kind::Node)?;
        let mut reaper = Reaper::start_with(state.path(), control_group(state.path()))?;
        let files = Files::new(state.path())?;
        let (namespaces, init) = Namespaces::open(&files, &mut reaper).await?;
        let control_plane = ControlPlane::start_with(Options {
            address: Some(namespaces.outside()),
            ..Options::default()
        })
        .await?;
        files.write(&options, namespaces.inside(), &control_plane)?;
        let node = Self {
            running: Mutex::new(Running {
                programs: vec![("unshare", init)],
                reaper: Some(reaper),
            }),
            control_plane,
            namespaces,
            files,
            state,
        };
        node.bring_up(&binaries, &sandbox).await?;
        Ok(node)
    }

    async fn bring_up(&self, binaries: &NodeBinaries, sandbox: &Archive) -> Result<(), Error> {
        let mut containerd = self.namespaces.command("containerd");
        containerd
            .arg("--config")
            .arg(self.files.containerd_config());
        self.spawn("containerd", containerd)?;
        let socket = self.files.containerd_socket();
        self.until("containerd", async || Ok(socket.exists()))
            .await?;
        self.import(sandbox).await?;
        let mut kubelet = self.namespaces.command(&binaries.kubelet);
        kubelet.args(self.files.kubelet_arguments(self.namespaces.inside()));
        self.spawn("kubelet", kubelet)?;
        let mut proxy = self.namespaces.command(&binaries.kube_proxy);
        proxy.args(self.files.proxy_arguments());
        self.spawn("kube-proxy", proxy)?;
        let mut scheduler = gated(&binaries.kube_scheduler);
        scheduler.args(self.files.scheduler_arguments());
        self.spawn("kube-scheduler", scheduler)?;
        let nodes = Api::<NodeObject>::all(self.control_plane.admin().await);
        self.until("kubelet", async || {
            let node = nodes
                .get_opt(NAME)
                .await
                .map_err(Error::api("look at the node"))?;
            Ok(node.is_some_and(|node| is_ready(&node)))
        })
        .await
    }

    /// The control plane that the node belongs to.
    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// The folder with one log for each program of the node.
    pub fn logs_dir(&self) -> PathBuf {
        self.files.logs()
    }

    /// Where its containerd is asked, from anywhere on this machine.
    pub fn containerd_socket(&self) -> PathBuf {
        self.files.containerd_socket()
    }

    /// Brings an image to the node, as a registry would.
    ///
    /// # Errors
    ///
    /// If containerd refuses it.
    pub async fn import(&self, archive: &Archive) -> Result<(), Error> {
        let log = self.files.logs().join("ctr.log");
        let mut command = self.namespaces.command("ctr");
        command
            .arg("--address")
            .arg(self.files.containerd_socket())
            .args(["--namespace", "k8s.io", "images", "import", "--no-unpack"])
            .arg(archive.path());
        let mut process = self.supervise(command, &log)?;
        let status = loop {
            if let Some(status) = process.ended() {
                break status;
            }
            sleep(POLL).await;
        };
        self.forget(process);
        if status.success() {
            return Ok(());
        }
        Err(Error::Program {
            action: format!("import the image {}", archive.path().display()),
            program: "ctr".to_owned(),
            said: last_lines(&std::fs::read_to_string(&log).unwrap_or_default()),
        })
    }

    fn supervise(&self, mut command: Command, log: &Path) -> Result<Supervised, Error> {
        command
            .current_dir(self.state.path())
            .env_clear()
            .env("PATH", search_path())
            .env("HOME", self.state.path())
            .env("TMPDIR", self.state.path());
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut running.reaper {
            Some(reaper) => Supervised::spawn(command, log, reaper),
            None => Err(Error::NoNode("the node is being taken down".to_owned())),
        }
    }

    fn spawn(&self, name: &'static str, command: Command) -> Result<(), Error> {
        let process = self.supervise(command, &self.files.log(name))?;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.programs.push((name, process));
        Ok(())
    }

    fn forget(&self, process: Supervised) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reaper) = &mut running.reaper {
            process.kill(reaper);
        }
    }

    /// Asks until the answer is yes, a program of the node has ended, or the time is up; then it is
    /// this program that was not ready.
    async fn until<F: Future<Output = Result<bool, Error>>>(
        &self,
        program: &'static str,
        is_so: impl Fn() -> F,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if let Some((name, status)) = self.ended() {
                let problem = format!("ended ({status})");
                return Err(Error::server(name, problem, &self.files.log(name)));
            }
            if is_so().await? {
                return Ok(());
            }
            if Instant::now() > deadline {
                let problem = format!("was not ready within {} s", READY_WITHIN.as_secs());
                return Err(Error::server(program, problem, &self.files.log(program)));
            }
            sleep(POLL).await;
        }
    }

    fn ended(&self) -> Option<(&'static str, ExitStatus)> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let programs = running.programs.iter_mut();
        programs
            .filter_map(|(name, process)| Some((*name, process.ended()?)))
            .next()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // The reaper's own drop closes its pipe and waits until it has killed and removed all.
        drop(running.reaper.take());
        for (_, process) in running.programs.drain(..) {
            process.collect();
        }
    }
}

/// Where Debian has what a node's programs call: runc, nft, mount.
fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
}

fn is_ready(node: &NodeObject) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
