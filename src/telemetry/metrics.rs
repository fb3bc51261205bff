//! The metrics, all with the prefix `snowcred_`.

use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabel as _, EncodeLabelSet, LabelSetEncoder, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};

use crate::{
    api::{ServiceNowCredentialStatus, condition},
    decide::{Name, Outcome},
};

/// Every series, and the registry that prints them.
pub struct Metrics {
    registry: Registry,
    expiry: PerResource,
    renewal: PerResource,
    ready: PerResource,
    synced: PerResource,
    token_requests: Family<RequestLabels, Counter>,
    token_request_duration: Family<HostLabel, Histogram, fn() -> Histogram>,
    reconciles: Family<OutcomeLabel, Counter>,
    reconcile_duration: Histogram,
    secret_writes: Counter,
    workload_restarts: Counter,
    leader: Gauge,
}

/// By a name that the store holds, too, so that a series costs little more than its value.
type PerResource = Family<Name, Gauge<f64, AtomicU64>>;

impl EncodeLabelSet for Name {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        ("namespace", &*self.namespace).encode(encoder.encode_label())?;
        ("name", &*self.name).encode(encoder.encode_label())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    host: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HostLabel {
    host: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// From a quick answer on the same network to the longest time-out that is sensible.
fn request_buckets() -> Histogram {
    Histogram::new([0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0])
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All series at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("snowcred");
        let metrics = Self {
            expiry: Family::default(),
            renewal: Family::default(),
            ready: Family::default(),
            synced: Family::default(),
            token_requests: Family::default(),
            token_request_duration: Family::new_with_constructor(request_buckets),
            reconciles: Family::default(),
            reconcile_duration: Histogram::new([
                0.0001, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
            ]),
            secret_writes: Counter::default(),
            workload_restarts: Counter::default(),
            leader: Gauge::default(),
            registry: Registry::default(),
        };
        let gauges = [
            (
                "token_expiry_timestamp_seconds",
                "When the token in the target Secret expires",
                &metrics.expiry,
            ),
            (
                "token_renewal_timestamp_seconds",
                "When the token is to be renewed",
                &metrics.renewal,
            ),
            (
                "ready",
                "Whether the target Secret holds a token that has not expired (1) or not (0)",
                &metrics.ready,
            ),
            (
                "synced",
                "Whether the last attempt worked (1) or not (0)",
                &metrics.synced,
            ),
        ];
        for (name, help, family) in gauges {
            registry.register(name, help, family.clone());
        }
        registry.register(
            "token_requests",
            "Token requests by instance host and result",
            metrics.token_requests.clone(),
        );
        registry.register(
            "token_request_duration_seconds",
            "How long token requests took",
            metrics.token_request_duration.clone(),
        );
        registry.register(
            "reconciles",
            "Reconciles by outcome",
            metrics.reconciles.clone(),
        );
        registry.register(
            "reconcile_duration_seconds",
            "How long reconciles took",
            metrics.reconcile_duration.clone(),
        );
        registry.register(
            "secret_writes",
            "Writes of target Secrets",
            metrics.secret_writes.clone(),
        );
        registry.register(
            "workload_restarts",
            "Restarts of workloads for a new token",
            metrics.workload_restarts.clone(),
        );
        registry.register(
            "leader",
            "Whether this replica leads (1) or stands by (0)",
            metrics.leader.clone(),
        );
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "The operator's version", Info::new(version));
        Self {
            registry,
            ..metrics
        }
    }

    /// A resource's gauges follow its status.
    pub fn set_status(&self, name: &Name, status: &ServiceNowCredentialStatus) {
        let is_true = |kind: &str| {
            let mut conditions = status.conditions.iter();
            f64::from(conditions.any(|c| c.type_ == kind && c.status == "True"))
        };
        self.ready
            .get_or_create(name)
            .set(is_true(condition::READY));
        self.synced
            .get_or_create(name)
            .set(is_true(condition::SYNCED));
        let Some(token) = &status.token else {
            self.expiry.remove(name);
            self.renewal.remove(name);
            return;
        };
        let seconds = |at: Timestamp| at.as_duration().as_secs_f64();
        self.expiry
            .get_or_create(name)
            .set(seconds(token.expires_at.0));
        self.renewal
            .get_or_create(name)
            .set(seconds(token.renewal_time.0));
    }

    /// A resource is gone, and its gauges with it.
    pub fn remove(&self, name: &Name) {
        for family in [&self.expiry, &self.renewal, &self.ready, &self.synced] {
            family.remove(name);
        }
    }

    /// A token request has ended; `result` is `Success` or the reason of its failure.
    pub fn token_request(&self, host: &str, result: &'static str, seconds: f64) {
        let host = host.to_owned();
        self.token_request_duration
            .get_or_create(&HostLabel { host: host.clone() })
            .observe(seconds);
        self.token_requests
            .get_or_create(&RequestLabels { host, result })
            .inc();
    }

    /// A reconcile has ended.
    pub fn reconciled(&self, outcome: Outcome, seconds: f64) {
        let outcome = outcome.as_str();
        self.reconciles
            .get_or_create(&OutcomeLabel { outcome })
            .inc();
        self.reconcile_duration.observe(seconds);
    }

    /// A target was written.
    pub fn secret_written(&self) {
        self.secret_writes.inc();
    }

    /// A workload was restarted.
    pub fn workload_restarted(&self) {
        self.workload_restarts.inc();
    }

    /// This replica leads, or does not.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// All series in the OpenMetrics text format.
    pub fn print(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
