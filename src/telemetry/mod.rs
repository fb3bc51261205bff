//! Logs, metrics and the HTTP endpoints.

mod http;
mod logging;
mod metrics;

pub use http::{Health, listen, serve};
pub use logging::{LogFormat, init};
pub use metrics::Metrics;
