//! What a node promises: pods start on it, and nothing of it stays.
#![allow(
    clippy::unwrap_used,
    reason = "a step of a test that fails is a test that fails, in the functions around it too"
)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use testkit::cluster::binaries;
use tokio::time::{sleep, timeout};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: pod}
spec:
  containers:
  - {name: one, image: 'localhost/snowcred-sandbox:node', imagePullPolicy: Never}
";

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_node_that_is_killed_takes_its_pods_mounts_and_devices_with_it() {
    let before = Traces::look();
    let mut program = Program::start(TempDir::new().unwrap());
    program.run_pod();
    assert_ne!(Traces::look().devices, before.devices);
    assert_ne!(Traces::look().groups, before.groups);

    program.kill();

    nothing_is_left(program.folder.path(), &before).await;
}

#[tokio::test]
async fn what_is_left_when_its_keeper_was_killed_too_goes_before_the_next_start() {
    let before = Traces::look();
    let mut first = Program::start(TempDir::new().unwrap());
    first.run_pod();
    for keeper in processes_on(first.folder.path(), |line| line.contains("trap '' HUP")) {
        kill_process(keeper, Signal::KILL).unwrap();
    }
    first.kill();
    assert_ne!(Traces::look().groups, before.groups);
    let folder = std::mem::replace(&mut first.folder, TempDir::new().unwrap());

    let mut second = Program::start(folder);
    second.run_pod();
    second.kill();

    nothing_is_left(second.folder.path(), &before).await;
}

/// What a node leaves on a machine that is not its own.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    mounts: String,
    devices: BTreeSet<String>,
    groups: BTreeSet<PathBuf>,
    rules: String,
    settings: Vec<Option<String>>,
}

impl Traces {
    fn look() -> Self {
        let names = |folder: &str| {
            let entries = fs::read_dir(folder).unwrap().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
        };
        let rules = Command::new("/usr/sbin/nft")
            .args(["list", "tables"])
            .output();
        let mut groups = BTreeSet::new();
        collect_groups(Path::new("/sys/fs/cgroup"), 2, &mut groups);
        let settings = [
            "net/ipv4/ip_forward",
            "kernel/panic",
            "kernel/panic_on_oops",
            "vm/overcommit_memory",
        ];
        let setting = |name| fs::read_to_string(Path::new("/proc/sys").join(name)).ok();
        Self {
            mounts: fs::read_to_string("/proc/self/mounts").unwrap(),
            devices: names("/sys/class/net").collect(),
            groups,
            rules: String::from_utf8_lossy(&rules.unwrap().stdout).into_owned(),
            settings: settings.map(setting).to_vec(),
        }
    }
}

fn collect_groups(folder: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with("snowcred-node-")
            {
                found.insert(entry.path());
            }
            if depth > 1 {
                collect_groups(&entry.path(), depth - 1, found);
            }
        }
    }
}

async fn nothing_is_left(folder: &Path, before: &Traces) {
    let gone = async {
        while !processes_on(folder, |_| true).is_empty()
            || fs::read_dir(folder).unwrap().next().is_some()
            || Traces::look() != *before
        {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let gone = timeout(PATIENCE, gone).await;
    assert!(gone.is_ok(), "left: {:?} of {before:?}", Traces::look());
}

/// The program `control-plane` with a node, once it is ready, and the folder of its temporary files.
struct Program {
    child: Child,
    kubeconfig: PathBuf,
    folder: TempDir,
}

impl Program {
    fn start(folder: TempDir) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_control-plane"))
            .arg("--node")
            .env("TMPDIR", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let kubeconfig = lines.next().expect("the node should start").unwrap();
        let socket = lines.next().expect("it should name a socket").unwrap();
        assert!(Path::new(&socket).exists());
        Self {
            child,
            kubeconfig: kubeconfig.into(),
            folder,
        }
    }

    fn run_pod(&self) {
        self.kubectl(&["apply", "-f", "-"], POD);
        let ready = ["wait", "--for=condition=Ready", "--timeout=60s", "pod/pod"];
        self.kubectl(&ready, "");
    }

    fn kubectl(&self, arguments: &[&str], stdin: &str) {
        let mut child = Command::new(binaries::locate_kubectl().unwrap())
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", self.folder.path().join("kubectl"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(stdin.as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success());
        // What kubectl learned is not the node's to remove.
        let _ = fs::remove_dir_all(self.folder.path().join("kubectl"));
    }

    fn kill(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::KILL).unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processes with the folder in their command line, of which this is true.
fn processes_on(folder: &Path, is_meant: impl Fn(&str) -> bool) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let number = |name: &str| name.parse().ok().and_then(Pid::from_raw);
    processes
        .filter_map(|entry| {
            let pid = number(entry.file_name().to_str()?)?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).into_owned();
            (line.contains(folder.to_str()?) && is_meant(&line)).then_some(pid)
        })
        .collect()
}
