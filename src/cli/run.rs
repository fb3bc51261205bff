//! `run`: the flags, and the parts that they put together.

use std::{
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use clap::{ArgAction, Args};
use jiff::SignedDuration;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;

use super::CommandError;
use crate::{
    SystemClock,
    api::{AllowedHosts, duration},
    controller::{Bounds, Controller, Parts, Scope},
    decide::observed::Policy,
    kubernetes::{Cluster, connect},
    servicenow::TokenEndpoint,
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
        value_delimiter = ','
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

    /// Resources reconciled at once.
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

    /// Elect a leader among several replicas. Not built yet: only "false" is accepted.
    #[arg(long, env = "SNOWCRED_LEADER_ELECT", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
    leader_elect: bool,

    /// Name of the Lease for the election. Default: derived from selector and namespaces.
    #[arg(long, env = "SNOWCRED_LEASE_NAME")]
    lease_name: Option<String>,

    /// Namespace of the Lease. Default: the pod's own; required outside a cluster.
    #[arg(long, env = "SNOWCRED_LEASE_NAMESPACE")]
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

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("write a whole number of at least 1".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// Runs the controller until it is told to stop.
pub(super) fn run(args: RunArgs) -> Result<(), CommandError> {
    if args.leader_elect {
        return Err(CommandError::usage(
            "leader election is not built yet: set --leader-elect=false, and run one replica",
        ));
    }
    let allowed_hosts = AllowedHosts::parse(&args.allowed_hosts)
        .map_err(|error| CommandError::usage(format!("--allowed-hosts: {error}")))?
        .allow_insecure_http(args.allow_insecure_http);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::failed(format!("cannot start threads: {error}")))?;
    telemetry::init(args.log_format, args.log_level);
    let done = runtime.block_on(serve(args, allowed_hosts));
    // Nothing is left that matters; a request that hangs shall not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(500));
    done
}

async fn serve(args: RunArgs, allowed_hosts: AllowedHosts) -> Result<(), CommandError> {
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
    let (lease_name, lease_namespace) = (&args.lease_name, &args.lease_namespace);
    tracing::info!(?lease_name, ?lease_namespace, "leader election is off");
    let client = connect().await.map_err(CommandError::failed)?;
    let timeout = Duration::try_from(args.request_timeout).unwrap_or(Duration::from_secs(15));
    let endpoint = TokenEndpoint::new(timeout)
        .map_err(|error| CommandError::failed(format!("cannot set up the HTTP client: {error}")))?;
    let reporter = std::env::var("HOSTNAME").unwrap_or_else(|_| crate::FIELD_MANAGER.to_owned());
    let (health, metrics) = (Arc::new(Health::default()), Arc::new(Metrics::new()));
    let parts = Parts {
        cluster: Cluster::new(client.clone(), reporter),
        client,
        endpoint,
        clock: Arc::new(SystemClock),
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
    let ended = tokio::select! {
        ended = controller.run(stop) => ended,
        ended = telemetry::serve(listener, health, metrics) => {
            Err(format!("the HTTP endpoints ended: {ended:?}"))
        }
    };
    tracing::info!("stopped");
    ended.map_err(|why| CommandError::failed(format!("{why}; this should not happen, start again")))
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
