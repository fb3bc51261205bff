//! Starts the servers in order, awaits each, and stops them all.

use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{Request, Uri};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

use super::binaries;
use super::error::Error;
use super::kubeconfig::client;
use super::process::{Reaper, Supervised};
use super::servers::{ETCD_SOCKET, Plan, Server};
use super::state::{Kind, StateFolder, sweep};

/// How long a server may take to become ready. It takes seconds; a machine that runs many tests
/// at once on few cores is given more.
pub(super) const READY_WITHIN: Duration = Duration::from_secs(120);
/// How often a condition is asked for while it is awaited.
pub(super) const POLL: Duration = Duration::from_millis(50);
/// How long one question may take: a server that does not answer is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Below the ports that Linux (32768) and others (49152) give to outgoing connections, so that
/// none of them holds the port while the API server is being restarted.
const PORTS: std::ops::Range<u16> = 20_000..30_000;
/// How often a start is tried again because another process took the port in between.
const ATTEMPTS: usize = 5;

/// How a control plane differs from the usual one.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Whether the API server writes every request to [`ControlPlane::audit_log`].
    pub audit_log: bool,
    /// Arguments of the API server after its own, of the form `--flag=value`.
    pub apiserver_arguments: Vec<String>,
    /// The address of this machine at which a node reaches the API server. Without one it is on the
    /// loopback interface, where no node does.
    pub address: Option<Ipv4Addr>,
}

/// A Kubernetes control plane of its own: etcd, kube-apiserver and kube-controller-manager.
///
/// Dropping it stops the servers and removes their files; so does the end of the process. It
/// belongs to no runtime: a test may start it and another, with a runtime of its own, use it.
pub struct ControlPlane {
    // Fields are dropped in this order, after `drop` has stopped the servers.
    pub(super) servers: Mutex<Servers>,
    pub(super) plan: Plan,
    kubeconfig: PathBuf,
    logs: PathBuf,
    audit_log: Option<PathBuf>,
    _state: StateFolder,
}

/// The servers that run. `reaper` is `None` only while the control plane is being dropped.
pub(super) struct Servers {
    pub(super) running: HashMap<Server, Supervised>,
    pub(super) reaper: Option<Reaper>,
}

/// The control plane that all tests of this process share, started by the first that asks.
///
/// It goes with the process. Tests keep apart by namespaces of their own; one that stops servers
/// or installs what others would see starts a control plane of its own instead.
///
/// # Panics
///
/// If it cannot be started, with the reason.
pub async fn shared() -> &'static ControlPlane {
    static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
    match SHARED.get_or_try_init(ControlPlane::start).await {
        Ok(control_plane) => control_plane,
        Err(error) => panic!("no control plane: {error:?}"),
    }
}

impl ControlPlane {
    /// Starts one and waits until it is ready, building its programs first if nobody has.
    ///
    /// # Errors
    ///
    /// If a program cannot be found or built, or a server ends or is not ready within two
    /// minutes: then with the end of its log.
    pub async fn start() -> Result<Self, Error> {
        Self::start_with(Options::default()).await
    }

    /// As [`ControlPlane::start`], with options.
    ///
    /// # Errors
    ///
    /// As [`ControlPlane::start`].
    pub async fn start_with(options: Options) -> Result<Self, Error> {
        let binaries = tokio::task::spawn_blocking(binaries::locate)
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        sweep();
        let mut attempt = 1;
        loop {
            let control_plane = Self::prepare(binaries.clone(), options.clone())?;
            match control_plane.bring_up().await {
                Ok(()) => return Ok(control_plane),
                Err(Error::Server { tail, .. })
                    if attempt < ATTEMPTS && tail.contains("address already in use") =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn prepare(binaries: binaries::Binaries, options: Options) -> Result<Self, Error> {
        let state = StateFolder::create(Kind::ControlPlane)?;
        let reaper = Reaper::start(state.path())?;
        let address = options.address.unwrap_or(Ipv4Addr::LOCALHOST);
        let plan = Plan::prepare(binaries, state.path(), free_port(address)?, options)?;
        Ok(Self {
            servers: Mutex::new(Servers {
                running: HashMap::new(),
                reaper: Some(reaper),
            }),
            kubeconfig: plan.kubeconfig(),
            logs: plan.logs(),
            audit_log: plan.options.audit_log.then(|| plan.audit_log()),
            plan,
            _state: state,
        })
    }

    async fn bring_up(&self) -> Result<(), Error> {
        self.spawn(Server::Etcd)?;
        self.await_etcd().await?;
        self.spawn(Server::ApiServer)?;
        self.await_apiserver().await?;
        self.spawn(Server::ControllerManager)?;
        self.await_controller_manager().await
    }

    /// The kubeconfig of the cluster's administrator, who proves it by a client certificate.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The folder with one log for each server.
    pub fn logs_dir(&self) -> &Path {
        &self.logs
    }

    /// The requests that the API server answered, one JSON object of kind `Event` in
    /// `audit.k8s.io/v1` a line, if [`Options::audit_log`] asked for it.
    pub fn audit_log(&self) -> Option<&Path> {
        self.audit_log.as_deref()
    }

    /// The certificate of the authority that all sides trust.
    pub(super) fn authority_file(&self) -> PathBuf {
        self.plan.authority_file()
    }

    pub(super) fn servers(&self) -> MutexGuard<'_, Servers> {
        // No change of the map can be seen half done, so a panic elsewhere spoils nothing.
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn spawn(&self, server: Server) -> Result<(), Error> {
        let mut servers = self.servers();
        let Servers { running, reaper } = &mut *servers;
        let Some(reaper) = reaper else {
            return Ok(());
        };
        let process = Supervised::spawn(self.plan.command(server), &self.plan.log(server), reaper)?;
        running.insert(server, process);
        Ok(())
    }

    /// Until the socket is there; whoever connects then is answered once etcd is ready.
    pub(super) async fn await_etcd(&self) -> Result<(), Error> {
        let socket = self.plan.state.join(ETCD_SOCKET);
        self.await_ready(Server::Etcd, || async { socket.exists() })
            .await
    }

    pub(super) async fn await_apiserver(&self) -> Result<(), Error> {
        let client = client(&self.kubeconfig).await?;
        self.await_ready(Server::ApiServer, || is_ready(&client))
            .await
    }

    /// Until it has done what it does for every namespace.
    async fn await_controller_manager(&self) -> Result<(), Error> {
        let accounts: Api<ServiceAccount> =
            Api::namespaced(client(&self.kubeconfig).await?, "default");
        self.await_ready(Server::ControllerManager, || async {
            matches!(accounts.get_opt("default").await, Ok(Some(_)))
        })
        .await
    }

    /// Asks until the answer is yes, the server has ended, or the time is up.
    // Not an `AsyncFn`, whose future the compiler does not prove to be `Send`: tests spawn this.
    pub(super) async fn await_ready<F: Future<Output = bool>>(
        &self,
        server: Server,
        is_ready: impl Fn() -> F,
    ) -> Result<(), Error> {
        let log = self.plan.log(server);
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let answer = timeout(ANSWER_WITHIN, is_ready()).await.unwrap_or(false);
            // Asked after the question: another server may have answered for one that ended.
            if let Some(status) = self.ended(server) {
                return Err(Error::server(
                    server.program(),
                    format!("ended ({status})"),
                    &log,
                ));
            }
            if answer {
                return Ok(());
            }
            if Instant::now() > deadline {
                let problem = format!("was not ready within {} s", READY_WITHIN.as_secs());
                return Err(Error::server(server.program(), problem, &log));
            }
            sleep(POLL).await;
        }
    }

    fn ended(&self, server: Server) -> Option<std::process::ExitStatus> {
        self.servers().running.get_mut(&server)?.ended()
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let mut servers = self.servers();
        // The reaper's own drop closes its pipe and waits until it has killed and removed all.
        drop(servers.reaper.take());
        for (_, process) in servers.running.drain() {
            process.collect();
        }
    }
}

async fn is_ready(client: &kube::Client) -> bool {
    let mut request = Request::new(Vec::new());
    *request.uri_mut() = Uri::from_static("/readyz");
    matches!(client.request_text(request).await, Ok(text) if text == "ok")
}

/// A port that was free a moment ago. Whether it still is shows when the API server starts.
fn free_port(address: Ipv4Addr) -> Result<u16, Error> {
    let mut failure = None;
    for _ in 0..100 {
        let port = rand::random_range(PORTS);
        match TcpListener::bind((address, port)) {
            Ok(_) => return Ok(port),
            Err(error) => failure = Some(error),
        }
    }
    let source = failure.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into());
    Err(Error::io("find a free port")(source))
}
