//! Logs on standard error. No secret reaches them: ours cannot be printed, and libraries are held
//! at `info` at most, kube's client at `error`, because it logs bodies that it cannot decode.

use std::io::IsTerminal as _;

use tracing_subscriber::{
    Layer as _, Registry,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Begins to log.
pub fn init(format: LogFormat, level: LevelFilter) {
    let layer = match format {
        LogFormat::Json => fmt::layer().json().with_writer(std::io::stderr).boxed(),
        LogFormat::Text => fmt::layer()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            .boxed(),
    };
    Registry::default()
        .with(layer.with_filter(filter(level)))
        .init();
}

/// What is let through at a level.
fn filter(level: LevelFilter) -> Targets {
    let others = level.min(LevelFilter::INFO);
    Targets::new()
        .with_default(others)
        .with_target(env!("CARGO_CRATE_NAME"), level)
        .with_target("kube_client", level.min(LevelFilter::ERROR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_stay_at_info_and_the_kubernetes_client_at_error_at_any_level() {
        let filter = filter(LevelFilter::TRACE);
        let enabled = |target, level| filter.would_enable(target, &level);
        assert!(enabled(
            "servicenow_credential_operator::decide",
            tracing::Level::TRACE
        ));
        assert!(!enabled("hyper::client", tracing::Level::DEBUG));
        assert!(enabled("hyper::client", tracing::Level::INFO));
        assert!(!enabled("kube_client::client", tracing::Level::WARN));
        assert!(enabled("kube_client::client", tracing::Level::ERROR));
    }
}
