//! A folder for what nobody needs after this process.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::Error;
use super::process::Reaper;
use super::state::{Kind, StateFolder};

/// A folder that goes with this process, whatever ends it.
#[derive(Debug)]
pub struct Scratch {
    reaper: Mutex<Reaper>,
    folder: StateFolder,
}

impl Scratch {
    /// An empty one.
    ///
    /// # Errors
    ///
    /// If it cannot be made, or what is to remove it cannot be started.
    pub fn create() -> Result<Self, Error> {
        let folder = StateFolder::create(Kind::Scratch)?;
        let reaper = Mutex::new(Reaper::start(folder.path())?);
        Ok(Self { reaper, folder })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// What ends processes that work on it.
    pub(super) fn reaper(&self) -> MutexGuard<'_, Reaper> {
        self.reaper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::fs;
    use std::path::PathBuf;
    use std::process::{Child, Command};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    /// Where the process that is to be killed says which folder is its own.
    const SAID: &str = "SNOWCRED_TEST_SCRATCH";

    fn until(what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// This test's own program, as the process to be killed.
    fn start(said: &Path) -> Child {
        Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "cluster::scratch::tests::it_goes_with_a_process_that_is_killed",
            ])
            .env(SAID, said)
            .spawn()
            .unwrap()
    }

    #[test]
    fn it_goes_with_a_process_that_is_killed() {
        if let Some(said) = env::var_os(SAID).map(PathBuf::from) {
            let scratch = Scratch::create().unwrap();
            fs::write(scratch.path().join("file"), "something").unwrap();
            let whole = said.with_extension("new");
            fs::write(&whole, scratch.path().to_str().unwrap()).unwrap();
            fs::rename(whole, said).unwrap();
            loop {
                thread::park();
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let said = folder.path().join("said");
        let mut child = start(&said);
        until("it says its folder", || said.exists());
        let scratch = PathBuf::from(fs::read_to_string(&said).unwrap());
        assert!(scratch.join("file").exists());
        child.kill().unwrap();
        child.wait().unwrap();
        until("its folder is gone", || !scratch.exists());
    }
}
