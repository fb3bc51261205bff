//! What an operator allocates, counted by a library that is loaded before the C library's own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use testkit::operator::Options;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/allocations.c");

/// Bytes, by what the allocator gives for a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allocations {
    /// Since the start of the process.
    pub(crate) allocated: u64,
    /// Of these not given back yet.
    pub(crate) held: u64,
}

/// Counts for one operator.
pub(crate) struct Counter {
    folder: TempDir,
}

impl Counter {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let counter = Self { folder };
        fs::write(counter.counts(), [0; 16]).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-fPIC", "-shared", "-o"]);
        let compiled = compiler.arg(counter.library()).arg(SOURCE).output();
        let compiled = compiled.unwrap();
        let said = String::from_utf8_lossy(&compiled.stderr);
        assert!(compiled.status.success(), "{said}");
        counter
    }

    /// The options of an operator that is counted.
    pub(crate) fn of(&self, mut options: Options) -> Options {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        options.environment.extend([
            ("LD_PRELOAD".to_owned(), path(&self.library())),
            ("COUNT_ALLOCATIONS_IN".to_owned(), path(&self.counts())),
        ]);
        options
    }

    /// What has come together by now.
    pub(crate) fn read(&self) -> Allocations {
        let bytes = fs::read(self.counts()).unwrap();
        let number = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        Allocations {
            allocated: number(0),
            held: number(8),
        }
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("allocations.so")
    }

    fn counts(&self) -> PathBuf {
        self.folder.path().join("counts")
    }
}
