//! Processes that end with the one that started them, whatever ends that one.
//!
//! A destructor does not run after SIGKILL, after `exit`, or for a static. So a shell, the
//! [`Reaper`], holds the reading end of a pipe whose only writing end is in this process, and is
//! told the process group of each process it has to end. When this process is gone, the system
//! closes the pipe, and the reaper kills the groups and removes their folder. An orderly end goes
//! the same way: it closes the pipe and waits.
//!
//! `PR_SET_PDEATHSIG` would not do: it is tied to the *thread* that forked, and a test's threads
//! come and go.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::error::Error;

/// Signals that end a terminal's foreground programs must not end what cleans up after them.
/// `kill -s KILL -- -N` is the one form that names a group in every shell (POSIX, "kill").
/// Removing is tried again, for a server that was writing when it was killed. Where containers ran,
/// the kernel has ended them, and the groups that counted their memory are left to remove.
const REAPER: &str = r#"
trap '' HUP INT TERM
pids=
while read -r verb pid; do
  kept=
  for known in $pids; do
    [ "$known" = "$pid" ] || kept="$kept $known"
  done
  pids=$kept
  if [ "$verb" = watch ]; then pids="$pids $pid"; fi
done
for pid in $pids; do
  kill -s KILL -- "-$pid" 2>/dev/null
done
left() {
  rm -rf -- "$1" 2>/dev/null || return 0
  [ -n "$2" ] || return 1
  find /sys/fs/cgroup -depth -type d -path "*/$2*" ! -exec rmdir {} \; -print 2>/dev/null | grep -q .
}
for attempt in 1 2 3 4 5 6 7 8 9 10; do
  left "$1" "$2" || break
  sleep 0.2
done
"#;

/// A process becomes what it is to be only after a line on its standard input, sent once the
/// reaper knows it. If this process dies before, there is no line, and it never runs.
const GATE: &str = r#"read -r go && exec "$@" </dev/null"#;

/// Kills what it watches and removes their folder when this process is gone, or when dropped.
#[derive(Debug)]
pub(crate) struct Reaper {
    shell: Child,
}

impl Reaper {
    pub(crate) fn start(folder: &Path) -> Result<Self, Error> {
        Self::start_with(folder, "")
    }

    /// As [`Reaper::start`], and the control groups of this name go as well.
    pub(crate) fn start_with(folder: &Path, control_group: &str) -> Result<Self, Error> {
        Command::new("sh")
            .args(["-c", REAPER, "reaper"])
            .arg(folder)
            .arg(control_group)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A group of its own, which Ctrl-C and the end of a terminal do not reach.
            .process_group(0)
            .spawn()
            .map(|shell| Self { shell })
            .map_err(Error::io("start the shell that cleans up"))
    }

    fn tell(&mut self, verb: &str, pid: u32) -> io::Result<()> {
        match &mut self.shell.stdin {
            // One write, so that the shell never sees half a number.
            Some(pipe) => pipe.write_all(format!("{verb} {pid}\n").as_bytes()),
            None => Ok(()),
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// A command for [`Supervised::spawn`]: the caller adds arguments, folder and environment.
pub(crate) fn gated(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", GATE, "gate"]).arg(program);
    command
}

/// A running process that the reaper knows.
pub(crate) struct Supervised {
    child: Child,
}

impl Supervised {
    /// Runs a [`gated`] command; what it says is added to `log`.
    pub(crate) fn spawn(
        mut command: Command,
        log: &Path,
        reaper: &mut Reaper,
    ) -> Result<Self, Error> {
        let open = || {
            let output = OpenOptions::new().create(true).append(true).open(log)?;
            Ok((output.try_clone()?, output))
        };
        let (output, errors) = open().map_err(Error::io(format!("open {}", log.display())))?;
        let started = || {
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(output)
                .stderr(errors)
                // Signalled as a group, and out of the reach of Ctrl-C.
                .process_group(0)
                .spawn()?;
            let gate = child.stdin.take();
            reaper.tell("watch", child.id())?;
            if let Some(mut gate) = gate {
                gate.write_all(b"go\n")?;
            }
            Ok(Self { child })
        };
        started().map_err(Error::io("start a supervised process"))
    }

    /// Its number, which it has until it is collected.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // A process that has ended in the meantime gets no signal, and needs none.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Ends it at once, and has the reaper forget its number before the system may reuse it.
    pub(crate) fn kill(mut self, reaper: &mut Reaper) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = reaper.tell("forget", self.child.id());
        let _ = self.child.wait();
    }

    /// Collects a process that the reaper killed, within reason.
    pub(crate) fn collect(mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.ended().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
