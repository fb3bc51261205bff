//! Histories: a resource goes through a generated sequence of valid and invalid specs, of changes to
//! the objects around it and of troubles at its instance. After each step its status, its Secret and
//! everything else in its namespace have to be what a fresh resource with the same spec comes to in
//! the same surroundings; only what history may decide is left out. At the end every trouble is
//! taken away, and the resource has to be well.
//!
//! The method is that of Acto (Gu et al., "Acto: Automatic End-to-End Testing for Operation
//! Correctness of Cloud System Management", SOSP 2023). Without settings some fixed histories;
//! `make campaign` takes many (`SNOWCRED_CAMPAIGN=full`) and prints what was run.
//! `SNOWCRED_HISTORY=n` runs the history of that seed alone.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test ends where it cannot go on, and lives in real time"
)]

#[path = "../support/mod.rs"]
mod support;

mod history;
mod step;
mod world;

use std::{collections::BTreeMap, env};

use futures::{StreamExt as _, stream};

use crate::history::{Told, told};

/// How many histories go on at a time, each with an operator of its own.
const AT_ONCE: usize = 4;
/// Steps of each history.
const STEPS: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_resource_went_through_it_is_as_a_fresh_one() {
    let full = env::var("SNOWCRED_CAMPAIGN").is_ok_and(|value| value == "full");
    let seeds: Vec<u64> = match env::var("SNOWCRED_HISTORY") {
        Ok(seed) => vec![seed.parse().expect("SNOWCRED_HISTORY is a seed")],
        Err(_) if full => (1..=60).collect(),
        // 13 once had its conditions in another order.
        Err(_) => (1..=8).chain([13]).collect(),
    };
    let all: Vec<(u64, Told)> = stream::iter(seeds)
        .map(|seed| async move { (seed, told(seed, STEPS).await) })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    report(&all);
    let violations: Vec<_> = all
        .iter()
        .filter_map(|(seed, told)| Some(format!("history {seed}: {}", told.violation.as_ref()?)))
        .collect();
    assert!(violations.is_empty(), "{}", violations.join("\n\n"));
}

#[allow(
    clippy::print_stdout,
    reason = "the report is what a campaign is run for"
)]
fn report(all: &[(u64, Told)]) {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in all.iter().flat_map(|(_, told)| &told.reasons) {
        *reasons.entry(reason).or_default() += 1;
    }
    let steps: usize = all.iter().map(|(_, told)| told.reasons.len()).sum();
    let refused: usize = all.iter().map(|(_, told)| told.refused).sum();
    let violations = all.iter().filter(|(_, told)| told.violation.is_some());
    println!(
        "\nhistories                                  {:>6}",
        all.len()
    );
    println!("  steps                                    {steps:>6}");
    println!("  refused at admission                     {refused:>6}");
    println!(
        "  that differ from a fresh resource        {:>6}",
        violations.count()
    );
    for (reason, steps) in reasons {
        println!("  steps that came to {reason:<21} {steps:>6}");
    }
}
