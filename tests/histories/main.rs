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

mod act;
mod alike;
mod history;
mod kept;
mod rival;
mod settled;
mod step;
mod workload;
mod world;

use std::{collections::BTreeMap, env};

use futures::{StreamExt as _, stream};

use crate::history::{Told, told};

/// How many histories go on at a time, each with an operator of its own.
const AT_ONCE: usize = 4;
/// Steps of each history.
const STEPS: usize = 12;
/// What the steps can bring a resource to. The other reasons are a bug of the operator's, a lack of
/// rights, or what admission does not let in.
const REACHABLE: &[&str] = &[
    "AccessDenied",
    "ClientSecretInvalid",
    "ClientSecretMissing",
    "HostNotAllowed",
    "InstanceHibernating",
    "InstanceUnavailable",
    "InvalidResponse",
    "RateLimited",
    "ReferenceInvalid",
    "ReferenceMissing",
    "Suspended",
    "TargetConflict",
    "TargetMissing",
    "TemplateInvalid",
    "TlsFailed",
    "TokenSynced",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_resource_went_through_it_is_as_a_fresh_one() {
    let one = env::var("SNOWCRED_HISTORY");
    let full = one.is_err() && env::var("SNOWCRED_CAMPAIGN").is_ok_and(|value| value == "full");
    let seeds: Vec<u64> = match one {
        Ok(seed) => vec![seed.parse().expect("SNOWCRED_HISTORY is a seed")],
        Err(_) if full => (1..=60).collect(),
        Err(_) => (1..=8).collect(),
    };
    let all: Vec<(u64, Told)> = stream::iter(seeds)
        .map(|seed| async move { (seed, told(seed, STEPS).await) })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let reasons = reasons(&all);
    report(&all, &reasons);
    let mut violations: Vec<_> = all
        .iter()
        .filter_map(|(seed, told)| Some(format!("history {seed}: {}", told.violation.as_ref()?)))
        .collect();
    let unknown = reasons.keys().filter(|reason| !REACHABLE.contains(reason));
    violations.extend(unknown.map(|reason| format!("no step may come to {reason}")));
    if full {
        let missed = REACHABLE.iter().filter(|reason| {
            let times = reasons.get(*reason).copied().unwrap_or_default();
            times.reached == 0 || times.left == 0
        });
        violations.extend(missed.map(|reason| format!("{reason} was not reached and left again")));
        let came = |of: fn(&Told) -> usize| all.iter().any(|(_, told)| of(told) > 0);
        let all_came = came(|told| told.restarts)
            && came(|told| told.with_orphans)
            && came(|told| told.behind_rival);
        violations.extend((!all_came).then(|| "no restart, orphan or rival".to_owned()));
    }
    assert!(violations.is_empty(), "{}", violations.join("\n\n"));
}

/// How often steps came to a reason, and how often the next came to another.
#[derive(Clone, Copy, Default)]
struct Times {
    reached: usize,
    left: usize,
}

fn reasons(all: &[(u64, Told)]) -> BTreeMap<&str, Times> {
    let mut times: BTreeMap<&str, Times> = BTreeMap::new();
    for (_, told) in all {
        for (index, reason) in told.reasons.iter().enumerate() {
            let next = told.reasons.get(index + 1);
            let of = times.entry(reason).or_default();
            of.reached += 1;
            of.left += usize::from(next.is_some_and(|next| next != reason));
        }
    }
    times
}

#[allow(
    clippy::print_stdout,
    reason = "the report is what a campaign is run for"
)]
fn report(all: &[(u64, Told)], reasons: &BTreeMap<&str, Times>) {
    let sum = |of: fn(&Told) -> usize| all.iter().map(|(_, told)| of(told)).sum::<usize>();
    let violations = all.iter().filter(|(_, told)| told.violation.is_some());
    println!(
        "\nhistories                                  {:>6}",
        all.len()
    );
    let lines = [
        ("steps", sum(|told| told.reasons.len())),
        ("refused at admission", sum(|told| told.refused)),
        ("restarts of the workload", sum(|told| told.restarts)),
        ("steps with orphans", sum(|told| told.with_orphans)),
        ("steps behind a rival", sum(|told| told.behind_rival)),
        ("that differ from a fresh resource", violations.count()),
    ];
    for (what, number) in lines {
        println!("  {what:<40} {number:>6}");
    }
    for (reason, Times { reached, left }) in reasons {
        println!("  steps that came to {reason:<21} {reached:>6}, and left it {left:>6}");
    }
}
