//! The operator is interrupted at every write to the API server and at every token request of a
//! scenario: killed there, killed there and shown the past when it is back, and kept from seeing what
//! lies between. The points are found by recording a run that nothing disturbs, whose end every other
//! run has to reach, at the price of the token requests that a kill may cost and no more.
//!
//! The method is that of Sieve (Sun et al., "Automatic Reliability Testing for Cluster Management
//! Controllers", OSDI 2022). Without settings a part of the points; `make campaign` takes them all
//! (`SNOWCRED_CAMPAIGN=full`) and prints what was run.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test ends where it cannot go on, and lives in real time"
)]

#[path = "../support/mod.rs"]
mod support;

mod run;
mod scenario;

use std::{collections::BTreeMap, env};

use futures::{StreamExt as _, stream};
use testkit::cluster::Moment;

use crate::{
    run::{Interruption, Point, Record, interrupted, undisturbed},
    scenario::{SCENARIOS, Scenario},
};

/// How many runs go on at a time, each with an operator of its own.
const AT_ONCE: usize = 4;

/// Whether all points are taken, or only the fixed part.
fn is_full() -> bool {
    env::var("SNOWCRED_CAMPAIGN").is_ok_and(|value| value == "full")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_write_or_request_it_comes_to_the_same_end() {
    campaign("killed", |record, all| {
        let moments: &[Moment] = if all {
            &[Moment::Before, Moment::Unanswered, Moment::Answered]
        } else {
            &[Moment::Unanswered]
        };
        let writes = record.writes.iter().flat_map(|(step, write)| {
            moments
                .iter()
                .map(|moment| Interruption::KilledAtWrite(*step, write.clone(), *moment))
        });
        let requests = record.requests.iter().zip(1..);
        let requests = requests.map(|(step, number)| Interruption::KilledAtRequest(*step, number));
        writes.chain(requests).collect()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_shown_the_past_it_comes_to_the_same_end() {
    campaign("shown the past", |record, all| {
        at_points(record, all, Interruption::ShownThePast)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_from_what_lies_between_it_comes_to_the_same_end() {
    campaign("kept from seeing", |record, all| {
        at_points(record, all, Interruption::KeptFromSeeing)
    })
    .await;
}

/// The interruption at every write and every token request, or at every third.
fn at_points(
    record: &Record,
    all: bool,
    interruption: impl Fn(usize, Point) -> Interruption,
) -> Vec<Interruption> {
    let writes = record.writes.iter();
    let writes = writes.map(|(step, write)| (*step, Point::Write(write.clone())));
    let requests = record.requests.iter().zip(1..);
    let requests = requests.map(|(step, number)| (*step, Point::Request(number)));
    writes
        .chain(requests)
        .step_by(if all { 1 } else { 3 })
        .map(|(step, point)| interruption(step, point))
        .collect()
}

/// Records each scenario, runs it once for each of its interruptions, and holds every end to the
/// recorded one.
async fn campaign(name: &str, interruptions: impl Fn(&Record, bool) -> Vec<Interruption>) {
    let all = is_full();
    let scenarios: &[Scenario] = if all { SCENARIOS } else { &SCENARIOS[..1] };
    let mut violations = Vec::new();
    let mut extra: BTreeMap<usize, usize> = BTreeMap::new();
    let (mut points, mut runs) = (0, 0);
    for scenario in scenarios {
        let record = &undisturbed(scenario).await;
        points += record.writes.len() + record.requests.len();
        let outcomes: Vec<_> = stream::iter(interruptions(record, all))
            .map(|interruption| async move {
                let outcome = interrupted(scenario, record, &interruption).await;
                (interruption, outcome)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for (interruption, outcome) in outcomes {
            runs += 1;
            match outcome {
                Ok(requests) => *extra.entry(requests).or_default() += 1,
                Err(violation) => {
                    violations.push(format!("{}, {interruption}: {violation}", scenario.name));
                }
            }
        }
    }
    report(
        name,
        scenarios.len(),
        points,
        runs,
        &extra,
        violations.len(),
    );
    assert!(violations.is_empty(), "{}", violations.join("\n\n"));
}

#[allow(
    clippy::print_stdout,
    reason = "the report is what a campaign is run for"
)]
fn report(
    name: &str,
    scenarios: usize,
    points: usize,
    runs: usize,
    extra: &BTreeMap<usize, usize>,
    violations: usize,
) {
    println!("\ninterruptions: {name}");
    println!("  scenarios                                {scenarios:>6}");
    println!("  writes and requests recorded             {points:>6}");
    println!("  runs                                     {runs:>6}");
    for (requests, runs) in extra {
        println!("    that cost {requests} token requests more        {runs:>6}");
    }
    println!("  runs with another end or too many asked  {violations:>6}");
}
