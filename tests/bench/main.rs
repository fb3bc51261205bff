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

mod allocations;
mod api;
mod counts;
mod fleet;
mod floor;
mod full;
mod handover;
mod plot;
mod report;
mod storm;
mod told;

use std::{path::Path, process::Command};

use testkit::operator::Options;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lead_that_passes_on_amid_work_costs_each_resource_one_request_at_most() {
    let (resources, times) = (20, 2);
    let handover = handover::run(resources, times).await;
    // The memory of a new leader is empty, and what is changed is written with its token.
    assert!(handover.token_requests <= resources * (1 + times));
}

#[test]
fn what_a_program_allocates_is_counted() {
    let counter = allocations::Counter::new();
    let run = |arguments: &[&str]| {
        let options = counter.of(Options {
            binary: env!("CARGO_BIN_EXE_servicenow-credential-operator").into(),
            kubeconfig: "none".into(),
            arguments: Vec::new(),
            environment: Vec::new(),
        });
        let before = counter.read();
        let mut program = Command::new(&options.binary);
        program.args(arguments).envs(options.environment);
        assert!(program.output().unwrap().status.success());
        let after = counter.read();
        (after.allocated - before.allocated, after.held - before.held)
    };
    let (short, long) = (run(&["--version"]), run(&["completion", "bash"]));
    // The script is one text at its end.
    let script = 10_000;
    assert!(short.0 + script < long.0, "{short:?} {long:?}");
    assert!(short.1 <= short.0 && long.1 < long.0, "{short:?} {long:?}");
}

#[test]
fn the_documentation_shows_what_was_measured_last() {
    report::is_shown(docs());
}
