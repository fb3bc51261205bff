//! The folder that holds everything one control plane writes.
//!
//! Its owner holds a lock on a file in it, which the system releases when the owner dies, however
//! that happens. So a folder that can be locked is left over, and the next start removes it.

use std::fs::{self, DirEntry, File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, getuid, kill_process};
use tempfile::TempDir;

use super::Server;
use super::error::Error;
use super::node::OUTSIDE as NODE_PROGRAMS;
use super::process::Reaper;

/// What a folder is for, by the beginning of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    ControlPlane,
    Node,
    Scratch,
}

impl Kind {
    const ALL: [Self; 3] = [Self::ControlPlane, Self::Node, Self::Scratch];

    fn prefix(self) -> &'static str {
        match self {
            Self::ControlPlane => "snowcred-control-plane-",
            Self::Node => "snowcred-node-",
            Self::Scratch => "snowcred-scratch-",
        }
    }
}

const OWNER: &str = "owner";

/// The folder, which goes when this is dropped; see `process` for the ends that drop nothing.
#[derive(Debug)]
pub(super) struct StateFolder {
    folder: TempDir,
    _owner: File,
}

impl StateFolder {
    pub(super) fn create(kind: Kind) -> Result<Self, Error> {
        let folder = tempfile::Builder::new()
            .prefix(kind.prefix())
            .tempdir()
            .map_err(Error::io("create a temporary folder"))?;
        // The file gets its name only once it is locked: another process never sees it free.
        let unnamed = folder.path().join("owner.new");
        let lock = || {
            let file = File::create(&unnamed)?;
            file.lock()?;
            fs::rename(&unnamed, folder.path().join(OWNER))?;
            Ok(file)
        };
        let owner = lock().map_err(Error::io("lock the temporary folder"))?;
        Ok(Self {
            folder,
            _owner: owner,
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes what is left of control planes whose process and supervisor were both killed.
///
/// Best effort: a folder that cannot be removed is no reason not to start.
pub(super) fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        if let Some(folder) = left_over(&entry) {
            kill_servers_of(&folder);
            // The reaper's own work, with nothing to kill: it removes what is left of the folder.
            drop(Reaper::start_with(&folder, control_group(&folder)));
        }
    }
}

/// The name of the control groups of a node's containers, which is the name of its folder.
pub(super) fn control_group(folder: &Path) -> &str {
    folder
        .file_name()
        .and_then(|name| name.to_str())
        .filter(|name| name.starts_with(Kind::Node.prefix()))
        .unwrap_or_default()
}

fn left_over(entry: &DirEntry) -> Option<PathBuf> {
    let name = entry.file_name();
    let name = name.to_str()?;
    if !Kind::ALL.iter().any(|kind| name.starts_with(kind.prefix())) {
        return None;
    }
    // `DirEntry::metadata` does not follow links: a link is not a folder of ours.
    let metadata = entry.metadata().ok()?;
    if !metadata.is_dir() || metadata.uid() != getuid().as_raw() {
        return None;
    }
    let owner = File::open(entry.path().join(OWNER)).ok()?;
    match owner.try_lock() {
        Ok(()) => Some(entry.path()),
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => None,
    }
}

/// Kills the servers that run on a folder. Where the system has no `/proc`, there is nothing to
/// find them by, and they stay until somebody ends them.
fn kill_servers_of(folder: &Path) {
    let Ok(entries) = fs::read_dir("/proc") else {
        return;
    };
    for entry in entries.flatten() {
        let id = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(pid) = id.and_then(Pid::from_raw) else {
            continue;
        };
        let Ok(command) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        if is_server_on(folder, &String::from_utf8_lossy(&command)) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Both are asked: an editor that shows a log of the folder is no server.
fn is_server_on(folder: &Path, command: &str) -> bool {
    let Some(folder) = folder.to_str() else {
        return false;
    };
    let mut words = command.split('\0');
    let program = words.next().and_then(|path| Path::new(path).file_name());
    Server::ALL
        .iter()
        .map(|server| server.program())
        .chain(NODE_PROGRAMS)
        .any(|server| program.is_some_and(|name| name == server))
        && words.any(|word| word.contains(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_living_owner_is_swept_and_one_in_use_stays() {
        let in_use = StateFolder::create(Kind::ControlPlane).unwrap();
        let orphan = StateFolder::create(Kind::Node).unwrap();
        let orphan_path = orphan.path().to_owned();
        let StateFolder { folder, _owner } = orphan;
        drop(_owner);
        let _ = folder.keep();

        // A process that another test is just starting shares the lock until it runs its own program.
        let is_swept = |_| {
            sweep();
            !orphan_path.exists()
        };
        assert!((0..1000).any(is_swept));
        assert!(in_use.path().exists());
    }

    #[test]
    fn only_a_server_on_the_folder_itself_is_taken_for_one() {
        let folder = Path::new("/tmp/x");
        assert!(is_server_on(folder, "/bin/etcd\0--data-dir=/tmp/x/etcd\0"));
        assert!(!is_server_on(folder, "/bin/etcd\0--data-dir=/tmp/y/etcd\0"));
        assert!(!is_server_on(folder, "/bin/vi\0/tmp/x/logs/etcd.log\0"));
        assert!(!is_server_on(folder, ""));
    }
}
