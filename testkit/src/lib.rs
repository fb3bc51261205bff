//! What the tests and the demo run on: a ServiceNow simulator, a real Kubernetes API, the
//! operator as a process, and a Prometheus that watches it.

pub mod chart;
pub mod cluster;
pub mod demo;
pub mod operator;
pub mod prometheus;
pub mod servicenow;
pub mod terminal;
pub mod usage;
