//! The Kubernetes side: what is read (observe), what is written (act), and the events.

mod act;
mod client_secret;
mod connect;
mod error;
#[cfg(test)]
mod fence_tests;
mod lease;
mod store;
#[cfg(test)]
mod store_tests;
pub mod watch;

pub use act::Cluster;
pub use client_secret::{SharedClient, read_client};
pub use connect::connect;
pub use lease::{Fence, LeaseObject, LeaseWrite};
pub use store::{Relist, Store};
