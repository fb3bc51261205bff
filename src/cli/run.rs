//! `run`: the flags, and the parts that they put together.

use std::{
    net::{Ipv6Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use clap::{ArgAction, Args};
use jiff::SignedDuration;
use sha2::{Digest as _, Sha256};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
};
use tracing_subscriber::filter::LevelFilter;

use super::{CommandError, runtime};
use crate::{
    Clock, SystemClock,
    api::{AllowedHosts, duration, validate::is_dns_subdomain},
    controller::{Bounds, Candidate, Controller, Parts, Scope, identity},
    decide::observed::Policy,
    kubernetes::{Cluster, Fence, LeaseObject, connect_twice},
    servicenow::Endpoint,
    telemetry::{self, Health, LogFormat, Metrics},
};

/// Flags of `run`. Each is also an environment variable.
#[derive(Args, Debug)]
pub(super) struct RunArgs {
    /// Namespaces to watch, separated by commas. Default: all.
    #[arg(
        long,
        env = "SNOWCRED_WATCH_NAMESPACES",
        value_name = "A,B",
        value_delimiter = ',',
        value_parser = namespace
    )]
    watch_namespaces: Vec<String>,

    /// Label selector for the resources to act upon; shards a fleet among several operators.
    #[arg(long, env = "SNOWCRED_SELECTOR")]
    selector: Option<String>,

    /// Hosts that credentials may be sent to, separated by commas. "*" allows all; "*.x" matches
    /// one or more whole labels before x, and never x itself. Ports other than 443, and IP
    /// addresses, must be listed.
    #[arg(
        long,
        env = "SNOWCRED_ALLOWED_HOSTS",
        value_name = "HOSTS",
        default_value = "*.service-now.com,*.servicenowservices.com"
    )]
    allowed_hosts: String,

    /// Resources reconciled at once; renewals in good time take half of the places at most.
    #[arg(long, env = "SNOWCRED_CONCURRENCY", default_value = "32", value_name = "N", value_parser = at_least_one)]
    concurrency: usize,

    /// Token requests under way at once at one origin.
    #[arg(long, env = "SNOWCRED_INSTANCE_CONCURRENCY", default_value = "4", value_name = "N", value_parser = at_least_one)]
    instance_concurrency: usize,

    /// The least time between two renewals with one client, such as 5s or 1m30s.
    #[arg(long, env = "SNOWCRED_MIN_RENEW_INTERVAL", default_value = "5s", value_name = "DURATION", value_parser = parse_duration)]
    min_renew_interval: SignedDuration,

    /// The time that an instance is given to answer.
    #[arg(long, env = "SNOWCRED_REQUEST_TIMEOUT", default_value = "15s", value_name = "DURATION", value_parser = parse_duration)]
    request_timeout: SignedDuration,

    /// Elect a leader among several replicas: one works, the others stand by.
    #[arg(long, env = "SNOWCRED_LEADER_ELECT", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = ArgAction::Set)]
    leader_elect: bool,

    /// Name of the Lease for the election. Default: derived from selector and namespaces, so that
    /// shards differ.
    #[arg(long, env = "SNOWCRED_LEASE_NAME", value_parser = lease_name)]
    lease_name: Option<String>,

    /// Namespace of the Lease. Default: the pod's own; required outside a cluster.
    #[arg(long, env = "SNOWCRED_LEASE_NAMESPACE", value_parser = namespace)]
    lease_namespace: Option<String>,

    /// Where /metrics, /livez and /readyz are served. Default: [::]:8080, or 0.0.0.0:8080 where
    /// there is no IPv6.
    #[arg(long, env = "SNOWCRED_LISTEN", value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8080)))]
    listen: SocketAddr,

    /// How log lines look.
    #[arg(long, env = "SNOWCRED_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    log_format: LogFormat,

    /// The least severe log line to print: off, error, warn, info, debug or trace.
    #[arg(long, env = "SNOWCRED_LOG_LEVEL", value_name = "LEVEL", default_value_t = LevelFilter::INFO)]
    log_level: LevelFilter,

    /// Accept instances at http://localhost and http://127.0.0.1, for tests.
    #[arg(long, env = "SNOWCRED_ALLOW_INSECURE_HTTP", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
    allow_insecure_http: bool,
}

fn parse_duration(text: &str) -> Result<SignedDuration, String> {
    duration::parse(text).map_err(|error| error.to_string())
}

/// A namespace, or nothing, as an empty environment variable gives it.
fn namespace(text: &str) -> Result<String, String> {
    let name = text.trim();
    let is_label = is_dns_subdomain(name) && !name.contains('.') && name.len() <= 63;
    if name.is_empty() || is_label {
        return Ok(name.to_owned());
    }
    Err(
        "write a namespace's name, such as team-a: lower-case letters, digits and hyphens"
            .to_owned(),
    )
}

/// The name of a Lease, or nothing, likewise.
fn lease_name(text: &str) -> Result<String, String> {
    if text.is_empty() || is_dns_subdomain(text) {
        return Ok(text.to_owned());
    }
    Err("write a name such as snowcred-a: lower-case letters, digits, hyphens and dots".to_owned())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("write a whole number of at least 1".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// Runs the controller until it is told to stop.
pub(super) fn run(args: RunArgs) -> Result<(), CommandError> {
    let allowed_hosts = AllowedHosts::parse(&args.allowed_hosts)
        .map_err(|error| CommandError::usage(format!("--allowed-hosts: {error}")))?
        .allow_insecure_http(args.allow_insecure_http);
    let runtime = runtime()?;
    let lease = args.lease()?;
    telemetry::init(args.log_format, args.log_level);
    let done = runtime.block_on(serve(args, allowed_hosts, lease));
    // Nothing is left that matters; a request that hangs shall not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(500));
    done
}

async fn serve(
    args: RunArgs,
    allowed_hosts: AllowedHosts,
    lease: Option<LeaseName>,
) -> Result<(), CommandError> {
    let listener = telemetry::listen(args.listen).await.map_err(|error| {
        CommandError::failed(format!(
            "cannot listen on {}: {error}; choose another address with --listen",
            args.listen
        ))
    })?;
    let address = listener
        .local_addr()
        .map_err(|error| CommandError::failed(error.to_string()))?;
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "starting");
    let (client, untimed) = connect_twice().await.map_err(CommandError::failed)?;
    let timeout = Duration::try_from(args.request_timeout).unwrap_or(Duration::from_secs(15));
    let endpoint = Endpoint::new(timeout)
        .map_err(|error| CommandError::failed(format!("cannot set up the HTTP client: {error}")))?;
    let reporter = std::env::var("HOSTNAME").unwrap_or_else(|_| crate::FIELD_MANAGER.to_owned());
    let (health, metrics) = (Arc::new(Health::default()), Arc::new(Metrics::new()));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let candidate = lease.map(|LeaseName { namespace, name }| {
        tracing::info!(namespace, name, "the Lease by which a replica leads");
        Candidate {
            lease: LeaseObject::new(client.clone(), &namespace, &name),
            identity: identity(&reporter),
            fence: Fence::closed(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            health: health.clone(),
        }
    });
    let fence = candidate
        .as_ref()
        .map_or_else(Fence::open, |candidate| candidate.fence.clone());
    let parts = Parts {
        cluster: Cluster::new(untimed, reporter, fence),
        client,
        endpoint,
        clock,
        metrics: metrics.clone(),
        health: health.clone(),
    };
    let policy = Policy {
        allowed_hosts,
        min_renew_interval: args.min_renew_interval,
    };
    let scope = Scope {
        namespaces: non_empty(args.watch_namespaces),
        selector: args.selector.filter(|selector| !selector.is_empty()),
    };
    let bounds = Bounds {
        concurrency: args.concurrency,
        instance_concurrency: args.instance_concurrency,
    };
    let controller = Controller::new(parts, policy, scope, bounds);
    let stop = stop_signal()?;
    let (leads, followed) = watch::channel(false);
    let (is_over, over) = oneshot::channel::<()>();
    let election = async {
        match candidate {
            Some(candidate) => candidate.run(leads, async { drop(over.await) }).await,
            None => {
                metrics.set_leader(true);
                let _ = leads.send(true);
                let _ = over.await;
                Ok(())
            }
        }
    };
    let mut election = pin!(election);
    let ended = tokio::select! {
        ended = controller.run(followed, stop) => ended.map_err(unexpected),
        ended = telemetry::serve(listener, health, metrics.clone()) => {
            Err(unexpected(format!("the HTTP endpoints ended: {ended:?}")))
        }
        lost = &mut election => Err(lost.err().map_or_else(
            || unexpected("the leader election ended".to_owned()),
            |why| CommandError::failed(format!(
                "the Lease was lost: {why}; this replica ends so that only one writes, start it again"
            )),
        )),
    };
    if ended.is_ok() {
        // What was under way is done: the next one may begin.
        let _ = is_over.send(());
        let _ = election.await;
    }
    tracing::info!("stopped");
    ended
}

fn unexpected(why: String) -> CommandError {
    CommandError::failed(format!("{why}; this should not happen, start again"))
}

/// The Lease by which one of several replicas leads.
struct LeaseName {
    namespace: String,
    name: String,
}

/// Where a pod finds the namespace that it runs in (Kubernetes documentation, "Accessing the
/// Kubernetes API from a Pod").
const POD_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

impl RunArgs {
    /// The Lease for the election; `None` where none is wanted.
    fn lease(&self) -> Result<Option<LeaseName>, CommandError> {
        if !self.leader_elect {
            return Ok(None);
        }
        let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        let pods = || {
            let namespace = std::fs::read_to_string(POD_NAMESPACE).ok()?;
            Some(namespace.trim().to_owned())
        };
        let namespace = given(&self.lease_namespace).or_else(pods).ok_or_else(|| {
            CommandError::usage(
                "leader election needs a namespace for its Lease, and outside a pod there is none \
                 to go by: set --lease-namespace, or --leader-elect=false where only one replica \
                 runs",
            )
        })?;
        let name = given(&self.lease_name).unwrap_or_else(|| self.default_lease_name());
        Ok(Some(LeaseName { namespace, name }))
    }

    /// Shards of a fleet differ in what they watch, and so in the name of their Lease.
    fn default_lease_name(&self) -> String {
        let mut namespaces = non_empty(self.watch_namespaces.clone());
        namespaces.sort();
        let selector = self.selector.as_deref().unwrap_or_default();
        let scope = format!("{selector}\n{}", namespaces.join(","));
        let hash = crate::hex(&Sha256::digest(scope)[..4]);
        format!("{}-{hash}", crate::FIELD_MANAGER)
    }
}

/// An environment variable that is set to nothing gives one empty name.
fn non_empty(namespaces: Vec<String>) -> Vec<String> {
    let trimmed = namespaces
        .into_iter()
        .map(|namespace| namespace.trim().to_owned());
    trimmed.filter(|namespace| !namespace.is_empty()).collect()
}

fn stop_signal() -> Result<impl Future<Output = ()>, CommandError> {
    let listen = |kind| {
        signal(kind)
            .map_err(|error| CommandError::failed(format!("cannot listen for signals: {error}")))
    };
    let (mut terminate, mut interrupt) = (
        listen(SignalKind::terminate())?,
        listen(SignalKind::interrupt())?,
    );
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
    })
}
