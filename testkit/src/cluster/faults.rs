//! Faults of a control plane, made on purpose: servers that hang, die and come back.
//!
//! A paused server keeps its connections and answers nothing, as behind a network that drops
//! packets; a stopped or killed one refuses connections. The API server comes back on the port it
//! had, and etcd with the data it had.

use std::fs;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::DeleteParams;
use rustix::process::Signal;
use tokio::time::sleep;

use super::control_plane::{POLL, Servers};
use super::kubeconfig::client;
use super::process::Supervised;
use super::servers::ETCD_SOCKET;
use super::{ControlPlane, Error, Server};

/// How long a server may take to end by itself before it is killed.
const STOPPED_WITHIN: Duration = Duration::from_secs(20);
/// What the controller manager puts into every namespace and puts back if it is deleted.
const PUBLISHED_AUTHORITY: &str = "kube-root-ca.crt";

impl ControlPlane {
    /// Holds a server (SIGSTOP): it answers nothing until [`ControlPlane::resume`].
    ///
    /// # Panics
    ///
    /// If it does not run.
    pub fn pause(&self, server: Server) {
        self.signal(server, Signal::STOP);
    }

    /// Lets a paused server go on (SIGCONT).
    ///
    /// # Panics
    ///
    /// If it does not run.
    pub fn resume(&self, server: Server) {
        self.signal(server, Signal::CONT);
    }

    /// Ends a server at once (SIGKILL), as a node that fails does.
    ///
    /// # Panics
    ///
    /// If it does not run.
    pub fn kill(&self, server: Server) {
        let process = self.take(server);
        self.end(process);
    }

    /// Ends a server in good order (SIGTERM), as an upgrade does, and waits until it has ended.
    ///
    /// # Panics
    ///
    /// If it does not run.
    pub async fn stop(&self, server: Server) {
        let mut process = self.take(server);
        process.signal(Signal::TERM);
        let deadline = Instant::now() + STOPPED_WITHIN;
        while process.ended().is_none() && Instant::now() < deadline {
            sleep(POLL).await;
        }
        self.end(process);
    }

    /// Starts a server again, killing it first if it runs, and waits until it is ready.
    ///
    /// The controller manager learns of new CustomResourceDefinitions every 30 s, and of all at
    /// its start: a restart is the short way to garbage collection for a kind just defined.
    ///
    /// # Panics
    ///
    /// If it does not become ready, with the end of its log.
    pub async fn restart(&self, server: Server) {
        if self.runs(server) {
            self.kill(server);
        }
        self.bring_back(server)
            .await
            .unwrap_or_else(|error| panic!("{server} does not come back: {error:?}"));
    }

    async fn bring_back(&self, server: Server) -> Result<(), Error> {
        match server {
            Server::Etcd => {
                // The old socket would be taken for the sign that the new etcd is there.
                let _ = fs::remove_file(self.plan.state.join(ETCD_SOCKET));
                self.spawn(server)?;
                self.await_etcd().await?;
                if self.runs(Server::ApiServer) {
                    self.await_apiserver().await?;
                }
                Ok(())
            }
            Server::ApiServer => {
                self.spawn(server)?;
                self.await_apiserver().await
            }
            Server::ControllerManager => self.bring_back_controller_manager().await,
        }
    }

    /// Its own traces are no sign that it is back, so one of them is removed first.
    async fn bring_back_controller_manager(&self) -> Result<(), Error> {
        let published: Api<ConfigMap> =
            Api::namespaced(client(self.kubeconfig()).await?, "default");
        match published
            .delete(PUBLISHED_AUTHORITY, &DeleteParams::default())
            .await
        {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(Error::api("delete the published authority")(error)),
        }
        self.spawn(Server::ControllerManager)?;
        self.await_ready(Server::ControllerManager, || async {
            matches!(published.get_opt(PUBLISHED_AUTHORITY).await, Ok(Some(_)))
        })
        .await
    }

    fn runs(&self, server: Server) -> bool {
        self.servers().running.contains_key(&server)
    }

    fn signal(&self, server: Server, signal: Signal) {
        match self.servers().running.get(&server) {
            Some(process) => process.signal(signal),
            None => panic!("{server} does not run"),
        }
    }

    fn take(&self, server: Server) -> Supervised {
        let taken = self.servers().running.remove(&server);
        taken.unwrap_or_else(|| panic!("{server} does not run"))
    }

    fn end(&self, process: Supervised) {
        let Servers { reaper, .. } = &mut *self.servers();
        if let Some(reaper) = reaper {
            process.kill(reaper);
        }
    }
}
