//! The soak: a fleet of short tokens through random faults of everything around it, read all the
//! while as workloads read it; then a fleet whose instance keeps tokens until they expire, left in
//! peace. Without settings a short form of both runs, as a test; `make soak MINUTES=n` runs them
//! long and prints the report.
//!
//! `SOAK_MINUTES`, `SOAK_RESOURCES` and `SOAK_SEED` set how long, how many, and which faults.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test ends where it cannot go on, and lives in real time"
)]

#[path = "../support/mod.rs"]
mod support;

mod faults;
mod fleet;
mod kept;
mod ledger;
mod outage;
mod readers;
mod report;
mod rules;
mod verdict;

use std::{env, time::Duration};

/// How long and with how many a soak runs.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// Whether the numbers that are to be reached are held to, and not only the promises.
    full: bool,
    /// How long faults go on.
    faults: Duration,
    /// How long kept tokens are watched.
    kept: Duration,
    resources: usize,
    seed: u64,
}

impl Size {
    fn from_environment() -> Self {
        let number = |name: &str| -> Option<u64> {
            let text = env::var(name).ok()?;
            let number = text.parse();
            Some(number.unwrap_or_else(|_| panic!("{name}={text} is not a whole number")))
        };
        let minutes = number("SOAK_MINUTES").map(|minutes| Duration::from_secs(60 * minutes));
        Self {
            full: minutes.is_some(),
            faults: minutes.unwrap_or(Duration::from_secs(25)),
            // Long enough for some thousand gaps where the soak is long.
            kept: minutes.map_or(Duration::from_secs(25), |minutes| minutes / 6),
            resources: number("SOAK_RESOURCES")
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(if minutes.is_some() { 300 } else { 40 }),
            seed: number("SOAK_SEED").unwrap_or(1),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_faults_no_expired_token_is_read_but_while_something_was_down() {
    faults::run(Size::from_environment()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_tokens_are_kept_the_next_is_written_at_each_expiry() {
    kept::run(Size::from_environment()).await;
}
