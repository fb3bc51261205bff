//! A Kubernetes control plane of its own, for a demo or to try something by hand.
#![allow(
    clippy::print_stdout,
    reason = "the paths on standard output are what the program is for"
)]

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use testkit::cluster::{ControlPlane, Error, Node, NodeOptions, Options, binaries};
use tokio::signal::unix::{SignalKind, signal};

/// Starts etcd, kube-apiserver and kube-controller-manager, prints the path of an administrator's
/// kubeconfig, and stops everything on Ctrl-C or SIGTERM. With --node there is a node, too.
///
/// The programs are taken from KUBEBUILDER_ASSETS, or built once with Go into a cache folder
/// (SNOWCRED_TOOLS_CACHE changes which).
#[derive(Parser)]
struct Arguments {
    /// Only make sure that the programs are there, and print the folders that hold them.
    #[arg(long)]
    build_only: bool,
    /// With --build-only: other programs as well, separated by commas.
    #[arg(
        long,
        value_enum,
        value_name = "GROUPS",
        value_delimiter = ',',
        requires = "build_only"
    )]
    with: Vec<Group>,
    /// Keep a log of every request to the API, and print its path after the kubeconfig's.
    #[arg(long, conflicts_with = "build_only")]
    audit_log: bool,
    /// Make this machine a node of it, which needs root, and what `make need-node` names. Prints the
    /// socket of its containerd after the kubeconfig, for `ctr --address SOCKET -n k8s.io images import`.
    #[arg(long, conflicts_with_all = ["build_only", "audit_log"])]
    node: bool,
    /// With --node: how often the kubelet brings the files of pods up to date, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "60", requires = "node")]
    sync: u64,
}

/// Programs that a control plane does without.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// kubelet, kube-scheduler and kube-proxy.
    Node,
    /// helm and helm-unittest.
    Helm,
}

fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    if arguments.build_only {
        return print_folders(&arguments.with);
    }
    let runtime = tokio::runtime::Runtime::new().map_err(|source| Error::Io {
        action: "start the runtime".to_owned(),
        source,
    })?;
    let result = runtime.block_on(async {
        if arguments.node {
            run_node(Duration::from_secs(arguments.sync)).await
        } else {
            run(arguments.audit_log).await
        }
    });
    // Waits for no build that was under way when the program was interrupted.
    runtime.shutdown_background();
    result
}

fn print_folders(with: &[Group]) -> Result<(), Error> {
    let control_plane = binaries::locate()?;
    let mut folders: BTreeSet<PathBuf> = owned(control_plane.folders());
    if with.contains(&Group::Node) {
        folders.extend(owned(binaries::locate_node()?.folders()));
    }
    if with.contains(&Group::Helm) {
        folders.extend(owned(binaries::locate_helm()?.folders()));
    }
    for folder in folders {
        println!("{}", folder.display());
    }
    Ok(())
}

fn owned(folders: BTreeSet<&Path>) -> BTreeSet<PathBuf> {
    folders.into_iter().map(Path::to_owned).collect()
}

async fn run(audit_log: bool) -> Result<(), Error> {
    // Listened for before the start, so that a Ctrl-C during it stops in good order too.
    let interrupted = stop_requested()?;
    tokio::pin!(interrupted);
    let options = Options {
        audit_log,
        ..Options::default()
    };
    let control_plane = tokio::select! {
        started = ControlPlane::start_with(options) => started?,
        () = &mut interrupted => return Ok(()),
    };
    print_path(control_plane.kubeconfig());
    if let Some(path) = control_plane.audit_log() {
        print_path(path);
    }
    interrupted.await;
    Ok(())
}

async fn run_node(sync: Duration) -> Result<(), Error> {
    let interrupted = stop_requested()?;
    tokio::pin!(interrupted);
    let node = tokio::select! {
        started = Node::start(NodeOptions { sync }) => started?,
        () = &mut interrupted => return Ok(()),
    };
    print_path(node.control_plane().kubeconfig());
    print_path(&node.containerd_socket());
    interrupted.await;
    Ok(())
}

fn stop_requested() -> Result<impl Future<Output = ()>, Error> {
    let listen = |kind| {
        signal(kind).map_err(|source| Error::Io {
            action: "listen for signals".to_owned(),
            source,
        })
    };
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Flushed at once: whoever reads the path through a pipe waits for it.
fn print_path(path: &Path) {
    println!("{}", path.display());
    let _ = io::stdout().flush();
}
