//! What the tests and the demo run on: a ServiceNow simulator, a real Kubernetes API, and the
//! operator as a process.

pub mod chart;
pub mod cluster;
pub mod demo;
pub mod operator;
pub mod servicenow;
pub mod terminal;
