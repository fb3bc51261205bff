//! What the tests and the demo run on: a ServiceNow simulator and a real Kubernetes API.

pub mod cluster;
pub mod servicenow;
