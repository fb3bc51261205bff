//! The bench: what a fleet costs, beside the floor that no design can beat: the same clients making
//! one read, one token request and two writes for each resource, and nothing else.
//!
//! Without settings a short form, as a test of the counts; `make bench` measures times, processor
//! time and memory as well, and writes docs/performance.{md,json,svg}. `BENCH_DELAY_MS` is how long
//! the instance takes to answer.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test ends where it cannot go on, and lives in real time"
)]

#[path = "../support/mod.rs"]
mod support;

mod api;
mod counts;
mod fleet;
mod floor;
mod full;
mod plot;
mod report;
mod storm;
mod told;

use std::path::Path;

/// Where the documentation stands.
fn docs() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/docs"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_costs_the_requests_that_its_tokens_cost_and_no_more() {
    if std::env::var_os("SNOWCRED_BENCH").is_some() {
        full::run().await;
    } else {
        counts::run(300).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_shards_share_a_fleet_and_each_resource_is_written_by_one() {
    counts::shards(60).await;
}

#[test]
fn the_documentation_shows_what_was_measured_last() {
    report::is_shown(docs());
}
