//! The three servers, and the arguments each runs with.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Options;
use super::binaries::Binaries;
use super::certificates::{Authority, write, write_service_account_keys};
use super::error::Error;
use super::kubeconfig::{Credential, Endpoint, save};
use super::process::gated;

/// A server of the control plane, as a test names it to pause or kill it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Server {
    /// The store.
    Etcd,
    /// The API.
    ApiServer,
    /// Garbage collection, ServiceAccounts, Deployments.
    ControllerManager,
}

impl Server {
    pub(super) const ALL: [Self; 3] = [Self::Etcd, Self::ApiServer, Self::ControllerManager];

    /// The name of its program and of its log.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.program())
    }
}

/// The socket of etcd, by a path that the servers see from the state folder they run in. A socket
/// needs no port that somebody else could take, and a relative path cannot be too long for one.
pub(super) const ETCD_SOCKET: &str = "etcd.sock";

/// The addresses of Services; the first of them is that of the API itself.
const SERVICES: &str = "10.96.0.0/24";
pub(super) const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// As whom the API server asks a kubelet, for the log of a pod or a way into it.
const KUBELET_CLIENT: (&str, &str) = ("kube-apiserver-kubelet-client", "system:masters");
const KUBELET_CLIENT_FILES: &str = "kubelet-client";

/// Every request, with who made it and what came of it, without its body.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
";

/// Everything that is decided before the first server starts, and stays when one is restarted.
pub(super) struct Plan {
    pub(super) binaries: Binaries,
    pub(super) state: PathBuf,
    pub(super) endpoint: Endpoint,
    pub(super) options: Options,
    address: Ipv4Addr,
    port: u16,
    authority: Authority,
}

impl Plan {
    /// Writes every file that the servers read into the folder `state`.
    pub(super) fn prepare(
        binaries: Binaries,
        state: &Path,
        port: u16,
        options: Options,
    ) -> Result<Self, Error> {
        let authority = Authority::new()?;
        let address = options.address.unwrap_or(Ipv4Addr::LOCALHOST);
        let plan = Self {
            binaries,
            state: state.to_owned(),
            endpoint: Endpoint {
                url: format!("https://{address}:{port}"),
                authority: authority.certificate().to_owned(),
            },
            options,
            address,
            port,
            authority,
        };
        for folder in ["logs", "service-accounts"] {
            std::fs::create_dir(state.join(folder))
                .map_err(Error::io("create a folder for the control plane"))?;
        }
        write(&plan.authority_file(), plan.authority.certificate())?;
        plan.authority.serving(address)?.write(state, "apiserver")?;
        if plan.has_nodes() {
            let (user, group) = KUBELET_CLIENT;
            let client = plan.authority.client(user, Some(group))?;
            client.write(state, KUBELET_CLIENT_FILES)?;
        }
        write_service_account_keys(state, "service-account")?;
        write(&state.join("audit-policy.yaml"), AUDIT_POLICY)?;
        let users = [
            (
                plan.kubeconfig(),
                "kubernetes-admin",
                Some("system:masters"),
            ),
            // The user that the API server's default policy binds the role of the same name to.
            (
                plan.controller_manager_kubeconfig(),
                "system:kube-controller-manager",
                None,
            ),
        ];
        for (path, user, group) in users {
            plan.kubeconfig_of(&path, user, group)?;
        }
        Ok(plan)
    }

    /// Whether nodes may join: they could not reach a loopback address.
    fn has_nodes(&self) -> bool {
        !self.address.is_loopback()
    }

    /// A kubeconfig for a program or a person of this name, who proves it by a certificate.
    pub(super) fn kubeconfig_of(
        &self,
        path: &Path,
        user: &str,
        group: Option<&str>,
    ) -> Result<(), Error> {
        let identity = self.authority.client(user, group)?;
        let credential = Credential::Certificate(&identity);
        save(path, &self.endpoint, user, &credential)
    }

    /// The certificate of the authority that all sides trust.
    pub(super) fn authority_file(&self) -> PathBuf {
        self.state.join("ca.crt")
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.state.join("admin.kubeconfig")
    }

    fn controller_manager_kubeconfig(&self) -> PathBuf {
        self.state.join("controller-manager.kubeconfig")
    }

    pub(super) fn audit_log(&self) -> PathBuf {
        self.state.join("audit.log")
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }

    pub(super) fn log(&self, server: Server) -> PathBuf {
        self.logs().join(format!("{}.log", server.program()))
    }

    /// How to run a server, in the state folder and in an environment with nothing of the
    /// developer's that would change how it behaves: no proxy, no GOMAXPROCS, no ETCD_* variable.
    pub(super) fn command(&self, server: Server) -> Command {
        let (program, arguments) = match server {
            Server::Etcd => (&self.binaries.etcd, self.etcd()),
            Server::ApiServer => (&self.binaries.kube_apiserver, self.apiserver()),
            Server::ControllerManager => (
                &self.binaries.kube_controller_manager,
                self.controller_manager(),
            ),
        };
        let mut command = gated(program);
        command
            .args(arguments)
            .current_dir(&self.state)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("HOME", &self.state)
            .env("TMPDIR", &self.state);
        command
    }

    fn in_state(&self, flag: &str, name: &str) -> String {
        format!("--{flag}={}", self.state.join(name).display())
    }

    fn etcd(&self) -> Vec<String> {
        vec![
            self.in_state("data-dir", "etcd"),
            format!("--listen-client-urls=unix://{ETCD_SOCKET}"),
            // Never asked for: no member of a cluster of one looks for another.
            "--advertise-client-urls=http://127.0.0.1:1".to_owned(),
            "--listen-peer-urls=http://127.0.0.1:0".to_owned(),
            // A test's data need not survive the machine.
            "--unsafe-no-fsync".to_owned(),
        ]
    }

    fn apiserver(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--etcd-servers=unix://{ETCD_SOCKET}"),
            format!("--bind-address={}", self.address),
            format!("--secure-port={}", self.port),
            format!("--advertise-address={}", self.address),
            self.in_state("client-ca-file", "ca.crt"),
            self.in_state("tls-cert-file", "apiserver.crt"),
            self.in_state("tls-private-key-file", "apiserver.key"),
            self.in_state("cert-dir", "generated"),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            self.in_state("service-account-key-file", "service-account.pub"),
            self.in_state("service-account-signing-key-file", "service-account.key"),
            format!("--service-cluster-ip-range={SERVICES}"),
        ];
        if self.has_nodes() {
            let file = |end| format!("{KUBELET_CLIENT_FILES}.{end}");
            arguments.push(self.in_state("kubelet-client-certificate", &file("crt")));
            arguments.push(self.in_state("kubelet-client-key", &file("key")));
            // Nobody resolves the name of a node.
            arguments.push("--kubelet-preferred-address-types=InternalIP".to_owned());
        } else {
            // A loopback address is refused as an endpoint of the Service `kubernetes`.
            arguments.push("--endpoint-reconciler-type=none".to_owned());
        }
        if self.options.audit_log {
            arguments.push(self.in_state("audit-policy-file", "audit-policy.yaml"));
            arguments.push(format!("--audit-log-path={}", self.audit_log().display()));
            // The line is in the file before the client has its answer.
            arguments.push("--audit-log-mode=blocking".to_owned());
        }
        arguments.extend(self.options.apiserver_arguments.iter().cloned());
        arguments
    }

    fn controller_manager(&self) -> Vec<String> {
        let kubeconfig = self.controller_manager_kubeconfig();
        let kubeconfig = kubeconfig.display();
        vec![
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            // Nobody asks its own API, and so it needs no port.
            "--secure-port=0".to_owned(),
            // There is one: waiting for a lease would only make a restart slow.
            "--leader-elect=false".to_owned(),
            "--use-service-account-credentials=true".to_owned(),
            // The usual 20 requests a second would add seconds to every start.
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=1000".to_owned(),
            self.in_state("root-ca-file", "ca.crt"),
            self.in_state("service-account-private-key-file", "service-account.key"),
        ]
    }
}
