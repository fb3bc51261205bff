//! Why there is no control plane, told to the person who runs the tests.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// How many lines of a log an error shows: enough for the cause, short enough to read.
const TAIL_LINES: usize = 20;

/// Why a control plane could not be built, started or asked.
///
/// Its `Debug` form is the readable one too, because that is what `unwrap` and a `main` that
/// returns it print.
#[derive(thiserror::Error)]
pub enum Error {
    /// The system refused something outside Kubernetes.
    #[error("failed to {action}")]
    Io {
        /// What was being done, to follow "failed to".
        action: String,
        /// What the system said.
        source: io::Error,
    },
    /// Programs have to be built, and nothing here can build them.
    #[error(
        "the Go toolchain is missing: no `go` in PATH, and the programs that the tests run \
         ({missing}) are built with it. Either install Go {version} or newer \
         (https://go.dev/doc/install), or set KUBEBUILDER_ASSETS to a folder that holds them"
    )]
    GoMissing {
        /// The programs that were to be built.
        missing: String,
        /// The Go version that the module's `go.mod` asks for.
        version: String,
    },
    /// Neither of the variables that name a cache folder is set.
    #[error(
        "there is no folder to keep the built programs in: set SNOWCRED_TOOLS_CACHE, \
         XDG_CACHE_HOME or HOME"
    )]
    NoCacheFolder,
    /// A `go.mod` does not say what it is read for.
    #[error("{} has no line `{line}`", path.display())]
    Toolchain {
        /// The file that was read.
        path: PathBuf,
        /// The beginning of the line that was looked for.
        line: &'static str,
    },
    /// `go build` failed.
    #[error("failed to build {binary}; the last lines of `go build`:\n{tail}")]
    Build {
        /// The program that was to be built.
        binary: &'static str,
        /// The end of what `go build` said.
        tail: String,
    },
    /// A key or certificate could not be made.
    #[error("failed to make the {what}")]
    Certificate {
        /// Which one.
        what: &'static str,
        /// What the library said.
        source: rcgen::Error,
    },
    /// A server ended, or did not become ready.
    #[error("{server} {problem}; the last lines of its log:\n{tail}")]
    Server {
        /// The name of its program.
        server: &'static str,
        /// What went wrong, to follow the server's name.
        problem: String,
        /// The end of its log.
        tail: String,
    },
    /// A program that does one thing and ends could not do it.
    #[error("failed to {action}; {program} said:\n{said}")]
    Program {
        /// What was being done, to follow "failed to".
        action: String,
        /// The program.
        program: String,
        /// The end of what it said.
        said: String,
    },
    /// A node is more than this user or this machine can be.
    #[error("this machine cannot be a node: {0}")]
    NoNode(String),
    /// A kubeconfig could not be turned into a client.
    #[error("failed to read the kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What the client library said.
        source: Box<kube::config::KubeconfigError>,
    },
    /// The API server refused a request, or did not answer.
    #[error("failed to {action}")]
    Api {
        /// What was being done, to follow "failed to".
        action: String,
        /// What the client library said.
        source: Box<kube::Error>,
    },
    /// Something that Kubernetes does by itself did not happen.
    #[error("{what} did not happen within {seconds} s")]
    Timeout {
        /// What was awaited.
        what: String,
        /// How long it was awaited.
        seconds: u64,
    },
}

impl Error {
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    pub(super) fn api(action: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let action = action.into();
        move |source| Self::Api {
            action,
            source: Box::new(source),
        }
    }

    pub(super) fn server(server: &'static str, problem: impl Into<String>, log: &Path) -> Self {
        Self::Server {
            server,
            problem: problem.into(),
            tail: tail(log),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(formatter, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// The last lines of a log, or why there are none.
pub(super) fn tail(log: &Path) -> String {
    let text = match std::fs::read(log) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("({} cannot be read: {error})", log.display()),
    };
    last_lines(&text)
}

/// The last lines of what somebody said.
pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let kept = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    if kept.is_empty() {
        "(nothing)".to_owned()
    } else {
        kept.join("\n")
    }
}
