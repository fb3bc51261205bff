//! What the programs of a node are told, as files and arguments.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::{NAME, NodeOptions, SANDBOX_IMAGE};
use crate::cluster::ControlPlane;
use crate::cluster::certificates::write;
use crate::cluster::error::Error;

/// The addresses of pods. They are seen in the node's network only.
const PODS: &str = "10.97.0.0/24";
/// Where distributions put the programs of pod networks: Debian, then those that follow the project.
const NETWORK_PROGRAMS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// The files of a node, all in its state folder.
pub(super) struct Files {
    state: PathBuf,
}

impl Files {
    pub(super) fn new(state: &Path) -> Result<Self, Error> {
        let files = Self {
            state: state.to_owned(),
        };
        for folder in [files.logs(), files.network()] {
            fs::create_dir(folder).map_err(Error::io("create a folder for the node"))?;
        }
        Ok(files)
    }

    pub(super) fn state(&self) -> &Path {
        &self.state
    }

    /// There once the namespaces are open.
    pub(super) fn opened(&self) -> PathBuf {
        self.state.join("opened")
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }

    pub(super) fn log(&self, program: &str) -> PathBuf {
        self.logs().join(format!("{program}.log"))
    }

    pub(super) fn containerd_config(&self) -> PathBuf {
        self.state.join("containerd.toml")
    }

    /// Seen outside of the namespaces as well, for it is in the state folder.
    pub(super) fn containerd_socket(&self) -> PathBuf {
        self.state.join("containerd.sock")
    }

    fn network(&self) -> PathBuf {
        self.state.join("network")
    }

    fn kubelet_config(&self) -> PathBuf {
        self.state.join("kubelet.yaml")
    }

    fn proxy_config(&self) -> PathBuf {
        self.state.join("kube-proxy.yaml")
    }

    fn kubeconfig(&self, program: &str) -> PathBuf {
        self.state.join(format!("{program}.kubeconfig"))
    }

    /// Writes everything that the programs read.
    pub(super) fn write(
        &self,
        options: &NodeOptions,
        address: Ipv4Addr,
        control_plane: &ControlPlane,
    ) -> Result<(), Error> {
        let programs = network_programs()?;
        write(&self.containerd_config(), &self.containerd(programs))?;
        write(&self.network().join("10-pods.conflist"), &network())?;
        let authority = control_plane.authority_file();
        let kubelet = self.kubelet(options, address, &authority);
        write(&self.kubelet_config(), &kubelet)?;
        write(&self.proxy_config(), &self.proxy())?;
        let users = [
            // The user and group that the Node authorizer takes for a node.
            (
                "kubelet",
                format!("system:node:{NAME}"),
                Some("system:nodes"),
            ),
            // Users that the API server's default policy binds the roles of these names to.
            ("kube-proxy", "system:kube-proxy".to_owned(), None),
            ("kube-scheduler", "system:kube-scheduler".to_owned(), None),
        ];
        for (program, user, group) in users {
            control_plane
                .plan
                .kubeconfig_of(&self.kubeconfig(program), &user, group)?;
        }
        Ok(())
    }

    fn containerd(&self, network_programs: &Path) -> String {
        format!(
            r#"version = 2
root = "{state}/containerd"
state = "/run/containerd"
# Each makes folders on the machine, or asks for devices that a node does not need.
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs"]

[grpc]
address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{SANDBOX_IMAGE}"
# Root in a container or a small virtual machine may lack CAP_SYS_RESOURCE.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{programs}"
conf_dir = "{network}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#,
            state = self.state.display(),
            socket = self.containerd_socket().display(),
            programs = network_programs.display(),
            network = self.network().display(),
        )
    }

    fn kubelet(&self, options: &NodeOptions, address: Ipv4Addr, authority: &Path) -> String {
        format!(
            r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {address}
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: "{authority}"}}
authorization: {{mode: Webhook}}
containerRuntimeEndpoint: "unix://{socket}"
syncFrequency: {sync}s
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
makeIPTablesUtilChains: false
# There is no DNS for pods: what they talk to has an address.
resolvConf: ""
volumePluginDir: "{state}/volume-plugins"
# The machine's disk is not the node's to keep free.
imageGCHighThresholdPercent: 100
evictionHard: {{nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}}
"#,
            authority = authority.display(),
            socket = self.containerd_socket().display(),
            sync = options.sync.as_secs().max(1),
            state = self.state.display(),
        )
    }

    fn proxy(&self) -> String {
        format!(
            r#"apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: {NAME}
clusterCIDR: {PODS}
clientConnection: {{kubeconfig: "{kubeconfig}"}}
# An answer from a pod on the same bridge would not pass the rules that its question passed, and the
# API server knows no way to a pod.
nftables: {{masqueradeAll: true}}
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
"#,
            kubeconfig = self.kubeconfig("kube-proxy").display(),
        )
    }

    pub(super) fn kubelet_arguments(&self, address: Ipv4Addr) -> Vec<String> {
        vec![
            format!("--config={}", self.kubelet_config().display()),
            format!("--kubeconfig={}", self.kubeconfig("kubelet").display()),
            format!("--hostname-override={NAME}"),
            format!("--node-ip={address}"),
        ]
    }

    pub(super) fn proxy_arguments(&self) -> Vec<String> {
        vec![format!("--config={}", self.proxy_config().display())]
    }

    pub(super) fn scheduler_arguments(&self) -> Vec<String> {
        let kubeconfig = self.kubeconfig("kube-scheduler");
        let kubeconfig = kubeconfig.display();
        vec![
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--leader-elect=false".to_owned(),
            // Nobody asks its own API, and so it needs no port.
            "--secure-port=0".to_owned(),
        ]
    }
}

fn network_programs() -> Result<&'static Path, Error> {
    let mut folders = NETWORK_PROGRAMS.iter().map(Path::new);
    folders
        .find(|folder| folder.join("bridge").is_file())
        .ok_or_else(|| {
            Error::NoNode(format!(
                "the programs of a pod network are in none of {}; on Debian install \
                 containernetworking-plugins",
                NETWORK_PROGRAMS.join(", ")
            ))
        })
}

/// One bridge with an address for each pod, and no way out to the world.
fn network() -> String {
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {{"type": "bridge", "bridge": "pods", "isDefaultGateway": true, "hairpinMode": true,
   "ipam": {{"type": "host-local", "ranges": [[{{"subnet": "{PODS}"}}]]}}}}]}}
"#
    )
}
