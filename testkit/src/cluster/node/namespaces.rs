//! The namespaces of a node, and the one wire that leads out of them.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use tokio::time::sleep;

use super::configuration::Files;
use super::search_path;
use crate::cluster::control_plane::{POLL, READY_WITHIN};
use crate::cluster::error::{Error, last_lines};
use crate::cluster::process::{Reaper, Supervised, gated};
use crate::cluster::state::control_group;

/// The first process in there. What the node's programs would write outside of the state folder goes
/// to a layer above it that ends with the namespace, and so do the kernel's settings, which the
/// kubelet makes for a whole machine: it writes files that stand before them. Control groups are no
/// files of a namespace: the node takes groups of its own for the roots, in the one hierarchy of today
/// or the several of before, by which they are found and removed. It stays to collect whatever loses its parent.
const INIT: &str = r#"
set -eu
state=$1
over() {
  mkdir -p "$state/over/$2/upper" "$state/over/$2/work"
  mount -t overlay -o "lowerdir=$1,upperdir=$state/over/$2/upper,workdir=$state/over/$2/work" overlay "$1"
}
over /var/lib lib
over /var/log log
mount -t tmpfs tmpfs /run
mkdir /run/lock
groups=/sys/fs/cgroup
own=$state/groups
mkdir "$own"
if [ -e $groups/cgroup.procs ]; then
  mkdir "$groups/$2"
  mount --bind "$groups/$2" "$own"
else
  mount -t tmpfs tmpfs "$own"
  for root in $groups/*; do
    name=${root##*/}
    if [ -L "$root" ]; then
      cp -P "$root" "$own/"
    elif [ -e "$root/cgroup.procs" ]; then
      mkdir "$root/$2" "$own/$name"
      for set in cpuset.cpus cpuset.mems; do
        [ ! -e "$root/$set" ] || cat "$root/$set" >"$root/$2/$set"
      done
      mount --bind "$root/$2" "$own/$name"
    fi
  done
fi
umount --recursive $groups
mount --move "$own" $groups
for name in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
    kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
  [ -e "/proc/sys/$name" ] || continue
  own=$state/over/$(echo "$name" | tr / -)
  cat "/proc/sys/$name" >"$own"
  mount --bind "$own" "/proc/sys/$name"
done
ip link set lo up
touch "$state/opened"
while :; do
  sleep 1000 &
  wait $!
done
"#;

/// The node's namespaces, open as long as the process `unshare` runs.
pub(super) struct Namespaces {
    unshare: u32,
    wire: Wire,
}

/// A pair of devices: one end is the node's network, the other is on this machine.
struct Wire {
    name: String,
    outside: Ipv4Addr,
    inside: Ipv4Addr,
}

impl Wire {
    /// With one of the many networks of four addresses in the range that RFC 2544 sets apart for
    /// measuring, which nobody routes: several nodes have several, and a machine's own are others.
    fn random() -> Self {
        let number = rand::random_range(0..1_u32 << 14);
        let network = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + 4 * number;
        Self {
            name: format!("snowcred{number:x}"),
            outside: Ipv4Addr::from(network + 1),
            inside: Ipv4Addr::from(network + 2),
        }
    }
}

impl Namespaces {
    /// Makes them, and returns the process that holds them open.
    pub(super) async fn open(
        files: &Files,
        reaper: &mut Reaper,
    ) -> Result<(Self, Supervised), Error> {
        let log = files.log("unshare");
        let mut command = gated("unshare");
        command
            .args(["--pid", "--net", "--mount", "--mount-proc"])
            // The first process gets SIGKILL with its parent, and then everyone in there.
            .args(["--fork", "--kill-child", "--"])
            .args(["sh", "-c", INIT, "init"])
            .arg(files.state())
            .arg(control_group(files.state()))
            .env("PATH", search_path());
        let mut init = Supervised::spawn(command, &log, reaper)?;
        await_opened(&mut init, &files.opened(), &log).await?;
        let namespaces = Self {
            unshare: init.id(),
            wire: Wire::random(),
        };
        namespaces.connect()?;
        Ok((namespaces, init))
    }

    /// Lays the wire. Its ends go with the namespace.
    fn connect(&self) -> Result<(), Error> {
        let Wire {
            name,
            outside,
            inside,
        } = &self.wire;
        let id = self.unshare.to_string();
        let add = ["link", "add", name, "type", "veth", "peer", "name", "wire"];
        run(Command::new("ip").args(add).args(["netns", &id]))?;
        let address = format!("{outside}/30");
        run(Command::new("ip").args(["address", "add", &address, "dev", name]))?;
        run(Command::new("ip").args(["link", "set", name, "up"]))?;
        let address = format!("{inside}/30");
        let entered = || {
            let mut command = Command::new("nsenter");
            command.args(self.entrance()).arg("ip");
            command
        };
        run(entered().args(["address", "add", &address, "dev", "wire"]))?;
        run(entered().args(["link", "set", "wire", "up"]))
    }

    /// The address of this machine, seen from the node.
    pub(super) fn outside(&self) -> Ipv4Addr {
        self.wire.outside
    }

    /// The node's own address.
    pub(super) fn inside(&self) -> Ipv4Addr {
        self.wire.inside
    }

    /// A command for a process in there, to be supervised.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = gated("nsenter");
        command.args(self.entrance()).arg(program);
        command
    }

    /// `unshare` itself stays outside of the process numbers that it makes for its child.
    fn entrance(&self) -> Vec<String> {
        let id = self.unshare;
        vec![
            format!("--target={id}"),
            "--net".to_owned(),
            "--mount".to_owned(),
            format!("--pid=/proc/{id}/ns/pid_for_children"),
            "--".to_owned(),
        ]
    }
}

async fn await_opened(init: &mut Supervised, opened: &Path, log: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + READY_WITHIN;
    while !opened.exists() {
        if let Some(status) = init.ended() {
            return Err(Error::server("unshare", format!("ended ({status})"), log));
        }
        if Instant::now() > deadline {
            let problem = format!("was not ready within {} s", READY_WITHIN.as_secs());
            return Err(Error::server("unshare", problem, log));
        }
        sleep(POLL).await;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<(), Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let action = format!("lay the node's wire with {command:?}");
    let output = command
        .env("PATH", search_path())
        .output()
        .map_err(Error::io(format!("run {program}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Program {
        action,
        program,
        said: last_lines(&String::from_utf8_lossy(&output.stderr)),
    })
}
