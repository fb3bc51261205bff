//! What a run through faults came to, and whether it kept what is promised.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{PoisonError, atomic::Ordering},
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    Size,
    fleet::Fleet,
    ledger::{Ledger, Stale},
    readers::{Book, Reads},
    report::{Report, seconds, share},
};

/// The smaller of the least interval between renewals and half the lifetime, less what a machine
/// under load may take between the instance's clock and the operator's.
const LEAST_INTERVAL: SignedDuration = SignedDuration::from_millis(4900);
/// Token requests that may be under way at one origin.
const UNDER_WAY: usize = 4;

/// Prints the report, and holds the run to what is promised.
pub(crate) fn judge(
    fleet: &Fleet,
    book: &Book,
    reads: &Reads,
    troubles: &BTreeMap<String, usize>,
    ended: Timestamp,
    size: Size,
) {
    let ledger = book.ledger();
    let instances: BTreeMap<_, _> = fleet
        .members
        .iter()
        .map(|member| (member.name.as_str(), member.instance))
        .collect();
    let stale = ledger.stale(|member| instances[member], ended);
    let unexcused: Vec<_> = stale
        .iter()
        .filter(|stale| stale.unexcused > SignedDuration::ZERO)
        .collect();
    let (explained, unexplained) = extra_requests(&ledger, fleet);
    let requests: usize = ledger.asked.values().map(Vec::len).sum();
    let renewals = ledger.renewals();
    let expired_reads = reads.expired.lock().unwrap_or_else(PoisonError::into_inner);
    let within = |member: &str, at: Timestamp| {
        stale.iter().any(|stale| {
            stale.member == member
                && stale.unexcused.is_zero()
                && stale.from <= at
                && at <= stale.to
        })
    };
    let unexcused_reads: Vec<_> = expired_reads
        .iter()
        .filter(|(member, at)| !within(member, *at))
        .collect();

    let mut report = Report::new(format!(
        "Always-new and reuse-slide under faults (seed {})",
        size.seed
    ));
    report.line("resources", fleet.members.len());
    report.line(
        "minutes",
        format!("{:.1}", size.faults.as_secs_f64() / 60.0),
    );
    report.line("renewals", renewals);
    report.line("token requests", requests);
    report.line(
        "requests for each renewal",
        format!("{:.3}", share(requests, renewals) / 100.0),
    );
    report.line("  one too many, after a kill or another fault", explained);
    report.line("  one too many, without a cause", unexplained.len());
    report.line(
        "reads through the API, accepted by the instance",
        reads.accepted.load(Ordering::Relaxed),
    );
    report.line(
        "  of an expired token, while something was down too long",
        expired_reads.len() - unexcused_reads.len(),
    );
    report.line("  of an expired token, otherwise", unexcused_reads.len());
    report.line("times that a Secret held an expired token", stale.len());
    report.line("  without a cause", unexcused.len());
    report.line("worst gap", seconds(longest(&stale, Stale::length)));
    report.line(
        "longest from the end of a fault to the new token",
        seconds(longest(&stale, |stale| stale.after_the_end)),
    );
    for (name, times) in troubles {
        report.line(format!("fault: {name}"), times);
    }
    report.print();

    assert!(unexcused.is_empty(), "{unexcused:#?}");
    assert!(unexcused_reads.is_empty(), "{unexcused_reads:#?}");
    assert!(unexplained.is_empty(), "{unexplained:#?}");
    let too_many = asked_in_trouble(&ledger, fleet);
    assert!(too_many.is_empty(), "{too_many:#?}");
    assert!(reads.accepted.load(Ordering::Relaxed) > 0);
}

fn longest(stale: &[Stale], of: impl Fn(&Stale) -> SignedDuration) -> SignedDuration {
    stale.iter().map(of).max().unwrap_or(SignedDuration::ZERO)
}

/// Requests beyond one for each renewal: how many had a cause, and those that had none. One cause is
/// good for one of them for each client.
fn extra_requests(ledger: &Ledger, fleet: &Fleet) -> (usize, Vec<String>) {
    let mut explained = 0;
    let mut unexplained = Vec::new();
    for member in &fleet.members {
        let mut used = BTreeSet::new();
        for [one, next] in ledger.extra_requests(&member.name, member.instance, LEAST_INTERVAL) {
            // What is asked again right after an answer brings nothing that could be written.
            let since = one - SignedDuration::from_secs(3);
            let causes = ledger.disturbances(&member.name, member.instance, since, next);
            match causes.iter().find(|cause| !used.contains(*cause)) {
                Some(cause) => {
                    used.insert(*cause);
                    explained += 1;
                }
                None => unexplained.push(format!(
                    "{} at {one} and {next}, amid {causes:?}",
                    member.name
                )),
            }
        }
    }
    (explained, unexplained)
}

/// Instances in trouble that were asked more than a failing instance may be.
fn asked_in_trouble(ledger: &Ledger, fleet: &Fleet) -> Vec<String> {
    // What is under way when the trouble begins, then one at a time, never closer than 0.8 s; a
    // fault of single answers is waited out by each client alone.
    let mut too_many = Vec::new();
    for window in &ledger.windows {
        let Some(instance) = window.instance else {
            continue;
        };
        let asked = fleet
            .members
            .iter()
            .filter(|member| member.instance == instance)
            .map(|member| {
                let asked = ledger.asked.get(&member.name).into_iter().flatten();
                // Whoever is answered well asks an instance whose trouble is over: what hung before
                // the end of it is given up only later.
                let in_trouble = asked.filter(|asked| asked.status != Some(200));
                in_trouble
                    .filter(|asked| window.from <= asked.at && asked.at <= window.to)
                    .count()
            });
        let (asked, askers) = asked.fold((0, 0), |(all, askers), n| {
            (all + n, askers + usize::from(n > 0))
        });
        let probes = (window.to.duration_since(window.from).as_secs_f64() / 0.8).ceil();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a handful"
        )]
        let probes = probes as usize;
        let allowed = if window.by_client {
            askers * (1 + probes)
        } else {
            2 * UNDER_WAY + probes
        };
        if asked > allowed {
            too_many.push(format!(
                "{} from {} to {}: asked {asked} times, allowed {allowed}",
                window.what, window.from, window.to
            ));
        }
    }
    too_many
}
