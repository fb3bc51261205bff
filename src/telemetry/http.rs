//! `/metrics`, `/livez` and `/readyz`.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{Router, extract::State, http::StatusCode, http::header::CONTENT_TYPE, routing::get};
use tokio::net::TcpListener;

use super::metrics::Metrics;

/// Our own loops are taken for stalled after this long without a sign of life.
const STALLED: Duration = Duration::from_secs(60);

/// What the probes ask.
pub struct Health {
    state: Mutex<HealthState>,
}

struct HealthState {
    beat: Instant,
    waiting_for: BTreeMap<&'static str, String>,
}

impl Default for Health {
    fn default() -> Self {
        let state = HealthState {
            beat: Instant::now(),
            waiting_for: [("lists", "the operator is starting".to_owned())].into(),
        };
        Self {
            state: Mutex::new(state),
        }
    }
}

impl Health {
    fn with<T>(&self, f: impl FnOnce(&mut HealthState) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The main loop has gone round.
    pub fn beat(&self) {
        self.with(|state| state.beat = Instant::now());
    }

    /// What is waited for in this matter, if anything: ready is who waits for nothing.
    pub fn set_waiting(&self, matter: &'static str, waiting_for: Option<String>) {
        self.with(|state| match waiting_for {
            Some(what) => state.waiting_for.insert(matter, what),
            None => state.waiting_for.remove(matter),
        });
    }

    fn livez(&self) -> (StatusCode, String) {
        let silent = self.with(|state| state.beat.elapsed());
        if silent > STALLED {
            let text = format!(
                "the main loop has not gone round for {} s\n",
                silent.as_secs()
            );
            return (StatusCode::INTERNAL_SERVER_ERROR, text);
        }
        (StatusCode::OK, "ok\n".to_owned())
    }

    fn readyz(&self) -> (StatusCode, String) {
        let waiting_for = self.with(|state| {
            let all: Vec<_> = state.waiting_for.values().cloned().collect();
            all.join("; ")
        });
        if waiting_for.is_empty() {
            return (StatusCode::OK, "ok\n".to_owned());
        }
        let text = format!("not ready: {waiting_for}\n");
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

/// Listens; where the machine has no IPv6 and the address is any, on any IPv4 address.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(_) if address.is_ipv6() && address.ip().is_unspecified() => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        listener => listener,
    }
}

/// Serves until the process ends.
pub async fn serve(
    listener: TcpListener,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
) -> io::Result<()> {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let router = Router::new()
        .route(
            "/livez",
            get(|State(health): State<Arc<Health>>| async move { health.livez() }),
        )
        .route(
            "/readyz",
            get(|State(health): State<Arc<Health>>| async move { health.readyz() }),
        )
        .with_state(health)
        .route(
            "/metrics",
            get(|State(metrics): State<Arc<Metrics>>| async move {
                ([(CONTENT_TYPE, OPENMETRICS)], metrics.print())
            })
            .with_state(metrics),
        );
    axum::serve(listener, router).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_main_loop_that_stalls_fails_the_liveness_probe_and_an_api_server_that_is_away_does_not() {
        let health = Health::default();
        let away = "the list of Secrets failed: the Kubernetes API cannot be reached";
        health.set_waiting("lists", Some(away.to_owned()));
        assert_eq!(health.readyz().0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(health.livez(), (StatusCode::OK, "ok\n".to_owned()));
        let last = Instant::now().checked_sub(STALLED + Duration::from_secs(1));
        health.with(|state| state.beat = last.unwrap());
        assert_eq!(health.livez().0, StatusCode::INTERNAL_SERVER_ERROR);
        health.beat();
        assert_eq!(health.livez().0, StatusCode::OK);
    }
}
