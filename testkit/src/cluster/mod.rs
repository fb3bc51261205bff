//! A real Kubernetes control plane on the loopback interface, started by a test and gone with it.
//!
//! etcd, kube-apiserver and kube-controller-manager run as processes of this machine, without
//! nodes: objects are stored, validated, authorized, watched and garbage-collected as in any
//! cluster, but no pod ever starts. A [`Node`] is a control plane with a node beside it.
//!
//! | module | what it answers |
//! |---|---|
//! | [`binaries`] | where the servers' programs are, building them when nobody has |
//! | `certificates`, `kubeconfig` | who is who, and how a client proves it |
//! | `servers` | with which arguments each server runs |
//! | `process`, `state`, `scratch` | how nothing stays behind, whatever ends the test |
//! | `control_plane` | [`ControlPlane`]: start, ready, stop |
//! | `kubectl`, `access`, `faults` | what a test does with it |
//! | `node` | what runs pods, for the few tests that need them |
//! | `proxy` | what a test does to the connection between a program and the API server |

mod access;
pub mod binaries;
mod build;
mod certificates;
mod control_plane;
mod error;
mod faults;
mod kubeconfig;
mod kubectl;
mod node;
pub(crate) mod process;
mod proxy;
mod scratch;
mod servers;
mod state;

pub use control_plane::{ControlPlane, Options, shared};
pub use error::Error;
pub use kubeconfig::client;
pub use kubectl::KubectlOutput;
pub use node::{Archive, Contents, Images, Node, NodeOptions, lay_out};
pub use proxy::{ApiProxy, Moment, Refusal, Write};
pub use scratch::Scratch;
pub use servers::Server;
