//! The metrics, all with the prefix `snowcred_`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;
use jiff::Timestamp;
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeLabel as _, EncodeLabelSet, LabelSetEncoder, text::encode,
    },
    metrics::{
        MetricType, counter::Counter, family::Family, gauge::Gauge, histogram::Histogram,
        info::Info,
    },
    registry::Registry,
};

use crate::{
    api::{ServiceNowCredentialStatus, condition},
    decide::{Name, Outcome},
};

/// Every series, and the registry that prints them.
pub struct Metrics {
    registry: Registry,
    resources: Arc<Resources>,
    token_requests: Family<RequestLabels, Counter>,
    token_request_duration: Family<HostLabel, Histogram, fn() -> Histogram>,
    reconciles: Family<OutcomeLabel, Counter>,
    reconcile_duration: Histogram,
    secret_writes: Counter,
    workload_restarts: Counter,
    leader: Gauge,
}

/// The gauges of all resources, in one table: each more would have as many rows. The names are the
/// store's, and cost no copy.
#[derive(Debug, Default)]
struct Resources(Mutex<HashMap<Name, Gauges>>);

/// The gauges of one resource.
#[derive(Clone, Copy, Debug)]
struct Gauges {
    ready: bool,
    synced: bool,
    /// When its token expires and when it is to be renewed; of a resource that has one.
    token: Option<(Timestamp, Timestamp)>,
}

impl Resources {
    fn known(&self) -> MutexGuard<'_, HashMap<Name, Gauges>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Resources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        type Value = fn(&Gauges) -> Option<f64>;
        let gauges: [(&str, &str, Value); 4] = [
            (
                "token_expiry_timestamp_seconds",
                "When the token in the target Secret expires",
                |gauges| gauges.token.map(|(expires, _)| seconds(expires)),
            ),
            (
                "token_renewal_timestamp_seconds",
                "When the token is to be renewed",
                |gauges| gauges.token.map(|(_, renewal)| seconds(renewal)),
            ),
            (
                "ready",
                "Whether the target Secret holds a token that has not expired (1) or not (0)",
                |gauges| Some(f64::from(gauges.ready)),
            ),
            (
                "synced",
                "Whether the last attempt worked (1) or not (0)",
                |gauges| Some(f64::from(gauges.synced)),
            ),
        ];
        let known = self.known();
        for (name, help, value) in gauges {
            let values = known.iter().map(|(name, gauges)| (name, value(gauges)));
            let mut values = values.filter_map(|(name, value)| Some((name, value?)));
            let Some(first) = values.next() else { continue };
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (resource, value) in std::iter::once(first).chain(values) {
                family.encode_family(resource)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }
}

fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

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
            resources: Arc::default(),
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
        registry.register_collector(Box::new(metrics.resources.clone()));
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
            conditions.any(|c| c.type_ == kind && c.status == "True")
        };
        let token = status.token.as_ref();
        let gauges = Gauges {
            ready: is_true(condition::READY),
            synced: is_true(condition::SYNCED),
            token: token.map(|token| (token.expires_at.0, token.renewal_time.0)),
        };
        self.resources.known().insert(name.clone(), gauges);
    }

    /// A resource is gone, and its gauges with it.
    pub fn remove(&self, name: &Name) {
        self.resources.known().remove(name);
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

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;
    use crate::{api::TokenStatus, micro_time};

    fn status(token: Option<i64>) -> ServiceNowCredentialStatus {
        let at = |second| micro_time(Timestamp::from_second(second).unwrap());
        ServiceNowCredentialStatus {
            conditions: vec![Condition {
                type_: condition::READY.to_owned(),
                status: "True".to_owned(),
                reason: String::new(),
                message: String::new(),
                last_transition_time: Time(Timestamp::UNIX_EPOCH),
                observed_generation: None,
            }],
            token: token.map(|expiry| TokenStatus {
                issued_at: at(0),
                expires_at: at(expiry),
                renewal_time: at(expiry / 2),
                scope: None,
                sha256: None,
            }),
            ..ServiceNowCredentialStatus::default()
        }
    }

    /// The lines of the text that are about resources.
    fn of_resources(metrics: &Metrics) -> Vec<String> {
        let text = metrics.print();
        let lines = text.lines().filter(|line| line.contains("namespace="));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn a_resource_has_the_gauges_of_its_last_status_and_none_when_it_is_gone() {
        let metrics = Metrics::new();
        assert!(!metrics.print().contains("snowcred_ready"));
        let name = Name::new("ns", "itsm");
        metrics.set_status(&name, &status(Some(1800)));
        assert_eq!(
            of_resources(&metrics),
            [
                r#"snowcred_token_expiry_timestamp_seconds{namespace="ns",name="itsm"} 1800.0"#,
                r#"snowcred_token_renewal_timestamp_seconds{namespace="ns",name="itsm"} 900.0"#,
                r#"snowcred_ready{namespace="ns",name="itsm"} 1.0"#,
                r#"snowcred_synced{namespace="ns",name="itsm"} 0.0"#,
            ]
        );
        metrics.set_status(&name, &status(None));
        assert_eq!(
            of_resources(&metrics),
            [
                r#"snowcred_ready{namespace="ns",name="itsm"} 1.0"#,
                r#"snowcred_synced{namespace="ns",name="itsm"} 0.0"#,
            ]
        );
        metrics.remove(&name);
        assert_eq!(of_resources(&metrics), Vec::<String>::new());
    }
}
