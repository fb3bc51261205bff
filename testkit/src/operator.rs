//! The operator as the process that it is in production: started, asked over HTTP, stopped by
//! SIGTERM or killed.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::ExitStatus,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    cluster::process::{Reaper, Supervised, gated},
    usage::Usage,
};

/// How to start an operator.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program.
    pub binary: PathBuf,
    /// The kubeconfig of the ServiceAccount that it runs as.
    pub kubeconfig: PathBuf,
    /// Arguments after `run`, beside those for the log and the address.
    pub arguments: Vec<String>,
    /// Environment variables beside `KUBECONFIG`.
    pub environment: Vec<(String, String)>,
}

/// A running operator. Dropping it kills it, and so does the end of this process, whatever ends it.
pub struct Operator {
    process: Option<Supervised>,
    reaper: Reaper,
    log: PathBuf,
    // Last: it goes when nothing writes to it any more.
    _folder: TempDir,
}

/// What an operator is given to become ready, or to end.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

impl Operator {
    /// Starts an operator without waiting for it.
    ///
    /// # Panics
    ///
    /// If the program cannot be started.
    pub fn spawn(options: &Options) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("snowcred-operator-")
            .tempdir()
            .unwrap_or_else(|error| panic!("no folder for the operator's log: {error}"));
        let log = folder.path().join("operator.log");
        let mut reaper = Reaper::start(folder.path())
            .unwrap_or_else(|error| panic!("the operator cannot be started: {error}"));
        let mut command = gated(&options.binary);
        command
            .arg("run")
            .args(["--listen", "127.0.0.1:0"])
            .args(&options.arguments)
            .env("KUBECONFIG", &options.kubeconfig)
            // One is alone unless its options say otherwise: it need not wait until the Lease of one
            // that was killed is free.
            .env("SNOWCRED_LEADER_ELECT", "false")
            .envs(options.environment.iter().map(|(k, v)| (k, v)));
        let process = Supervised::spawn(command, &log, &mut reaper)
            .unwrap_or_else(|error| panic!("the operator cannot be started: {error}"));
        Self {
            process: Some(process),
            reaper,
            log,
            _folder: folder,
        }
    }

    /// Starts an operator, and returns when it is ready.
    ///
    /// # Panics
    ///
    /// If it ends, or is not ready in time; its log is in the message.
    pub async fn start(options: &Options) -> Self {
        let mut operator = Self::spawn(options);
        let deadline = Instant::now() + PATIENCE;
        while !operator
            .get("/readyz")
            .is_ok_and(|(status, _)| status == 200)
        {
            let ended = operator.process.as_mut().and_then(Supervised::ended);
            let late = Instant::now() > deadline;
            assert!(
                ended.is_none() && !late,
                "the operator is not ready ({ended:?}):\n{}",
                operator.log()
            );
            sleep(POLL).await;
        }
        operator
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Where its log is written.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The address of its HTTP endpoints, once it has logged it.
    pub fn address(&self) -> Option<SocketAddr> {
        let log = self.log();
        let after = log
            .split_once("\"address\":\"")
            .or_else(|| log.split_once("address="))?
            .1;
        let end = after.find(['"', ' ', '\n'])?;
        after[..end].parse().ok()
    }

    /// Status and body of a GET, such as of `/metrics`.
    ///
    /// # Errors
    ///
    /// If nothing answers there.
    pub fn get(&self, path: &str) -> io::Result<(u16, String)> {
        let address = self.address().ok_or(io::ErrorKind::NotConnected)?;
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: operator\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.get(9..12).and_then(|code| code.parse().ok());
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok((status.ok_or(io::ErrorKind::InvalidData)?, body.to_owned()))
    }

    /// Its metrics.
    ///
    /// # Panics
    ///
    /// If it does not give them.
    pub fn metrics(&self) -> String {
        self.get("/metrics")
            .map(|(_, body)| body)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// What its process has used.
    ///
    /// # Panics
    ///
    /// If it has ended.
    pub fn usage(&self) -> Usage {
        let process = self.process.as_ref().map(Supervised::id);
        process
            .and_then(Usage::of)
            .unwrap_or_else(|| panic!("the operator has ended:\n{}", self.log()))
    }

    /// Sends SIGTERM, and returns how it ended and after how long.
    ///
    /// # Panics
    ///
    /// If it does not end in time.
    pub async fn stop(&mut self) -> (Option<ExitStatus>, Duration) {
        let begun = Instant::now();
        let Some(mut process) = self.process.take() else {
            return (None, Duration::ZERO);
        };
        process.signal(Signal::TERM);
        loop {
            let ended = process.ended();
            if ended.is_some() {
                process.kill(&mut self.reaper);
                return (ended, begun.elapsed());
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "the operator does not stop:\n{}",
                self.log()
            );
            sleep(POLL).await;
        }
    }

    /// Waits until it ends by itself, and returns how.
    ///
    /// # Panics
    ///
    /// If it does not end in time.
    pub async fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(ended) = self.process.as_mut().and_then(Supervised::ended) {
                self.kill();
                return ended;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "the operator does not end:\n{}",
                self.log()
            );
            sleep(POLL).await;
        }
    }

    /// Holds it where it is (SIGSTOP), until [`Operator::resume`].
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    /// Kills it at once (SIGKILL).
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill(&mut self.reaper);
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.kill();
    }
}
