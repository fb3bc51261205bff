//! The Kubernetes side: what is read (observe), what is written (act), and the events.

mod act;
mod connect;
mod error;
#[cfg(test)]
mod fence_tests;
mod lean;
mod lease;
mod objects;
mod references;
mod store;
#[cfg(test)]
mod store_tests;
pub mod watch;

pub use act::Cluster;
pub use connect::{connect, connect_twice};
pub use lease::{Fence, LeaseObject, LeaseWrite};
pub use objects::{Objects, Relist};
pub use references::{ReferencesRead, SharedClient, read_references};
pub use store::{Store, Write};
