//! What a run through faults came to, and whether it kept what is promised.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{PoisonError, atomic::Ordering},
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    Size,
    fleet::{Fleet, Member},
    ledger::{Ledger, Stale},
    outage::{Whom, Window},
    readers::{Book, ExpiredRead, Reads},
    report::{Report, seconds, share},
};

/// The smaller of the least interval between renewals and half the lifetime, less what a machine
/// under load may take between the instance's clock and the operator's.
const LEAST_INTERVAL: SignedDuration = SignedDuration::from_millis(4900);
/// Token requests that may be under way at one origin.
const UNDER_WAY: usize = 4;
/// The least between two requests to an instance in trouble, in seconds: the first wait, less its jitter.
const BETWEEN_PROBES: f64 = 0.8;
/// How much of what was before it is told with a failure.
const BEFORE: SignedDuration = SignedDuration::from_secs(20);

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
    let instances = instances(fleet);
    let stale = ledger.stale(|member| instances[member], ended);
    let without_cause = stale.iter().filter(|stale| stale.outage.is_none()).count();
    let extra = ExtraRequests::of(&ledger, fleet);
    let expired_reads = reads.expired.lock().unwrap_or_else(PoisonError::into_inner);
    let sorted = Sorted::new(&expired_reads, &stale, &ledger, &instances);
    let requests: usize = ledger.asked.values().map(Vec::len).sum();
    let renewals = ledger.renewals();
    let accepted = reads.accepted.load(Ordering::Relaxed);

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
    for (cause, times) in &extra.explained {
        report.line(format!("  one too many, after: {cause}"), times);
    }
    report.line("  one too many, without a cause", extra.unexplained.len());
    report.line("reads through the API, accepted by the instance", accepted);
    report.line(
        "reads of an expired token, while something was down",
        sorted.down,
    );
    report.line("  in the recovery from it", sorted.recovering);
    report.line("  otherwise", sorted.otherwise.len());
    report.line(
        "longest stale read",
        seconds(longest(&expired_reads, ExpiredRead::too_late_by)),
    );
    report.line("times that a Secret held an expired token", stale.len());
    report.line("  without a cause", without_cause);
    report.line("worst gap", seconds(longest(&stale, Stale::length)));
    report.line(
        "longest from the end of a fault to the new token",
        seconds(longest(&stale, Stale::after_the_end)),
    );
    for (name, times) in troubles {
        report.line(format!("fault: {name}"), times);
    }
    report.print();

    let account = |stale: &Stale| {
        let instance = instances[stale.member.as_str()];
        let around = ledger.account(&stale.member, instance, stale.expired - BEFORE, stale.to);
        format!("{stale:#?}\n{around}")
    };
    // Those of one moment have one reason.
    let mut moments: Vec<&Stale> = stale.iter().filter(|s| s.outage.is_none()).collect();
    moments.sort_by_key(|stale| stale.from);
    moments.dedup_by(|next, last| next.from.duration_since(last.from) < BEFORE);
    let told: Vec<_> = moments.into_iter().map(account).collect();
    assert_eq!(
        without_cause,
        0,
        "one of each moment:\n{}",
        told.join("\n\n")
    );
    assert!(sorted.otherwise.is_empty(), "{:#?}", sorted.otherwise);
    let unexplained = &extra.unexplained;
    assert!(unexplained.is_empty(), "{}", unexplained.join("\n\n"));
    let too_many = asked_in_trouble(&ledger, fleet);
    assert!(too_many.is_empty(), "{too_many:#?}");
    assert!(accepted > 0);
}

/// Which instance each member asks.
fn instances(fleet: &Fleet) -> BTreeMap<&str, usize> {
    let members = fleet.members.iter();
    members
        .map(|member| (member.name.as_str(), member.instance))
        .collect()
}

fn longest<T>(all: &[T], of: impl Fn(&T) -> SignedDuration) -> SignedDuration {
    all.iter().map(of).max().unwrap_or(SignedDuration::ZERO)
}

/// Reads of expired tokens, by what was going on.
#[derive(Default)]
struct Sorted<'a> {
    down: usize,
    recovering: usize,
    otherwise: Vec<&'a ExpiredRead>,
}

impl<'a> Sorted<'a> {
    fn new(
        reads: &'a [ExpiredRead],
        stale: &[Stale],
        ledger: &Ledger,
        instances: &BTreeMap<&str, usize>,
    ) -> Self {
        let mut sorted = Self::default();
        for read in reads {
            let excused = stale.iter().any(|stale| {
                stale.member == read.member
                    && stale.outage.is_some()
                    && stale.from <= read.at
                    && read.at <= stale.to
            });
            if !excused {
                sorted.otherwise.push(read);
            } else if ledger.is_down(&read.member, instances[read.member.as_str()], read.at) {
                sorted.down += 1;
            } else {
                sorted.recovering += 1;
            }
        }
        sorted
    }
}

/// Requests beyond one for each renewal: how many each cause explains, and those that have none.
#[derive(Default)]
struct ExtraRequests {
    explained: BTreeMap<String, usize>,
    unexplained: Vec<String>,
}

impl ExtraRequests {
    fn of(ledger: &Ledger, fleet: &Fleet) -> Self {
        let mut all = Self::default();
        for member in &fleet.members {
            all.add(ledger, member);
        }
        all
    }

    /// One cause is good for one request too many of each client.
    fn add(&mut self, ledger: &Ledger, member: &Member) {
        let mut used = BTreeSet::new();
        for extra in ledger.extra_requests(&member.name, LEAST_INTERVAL) {
            let causes = ledger.causes(&member.name, member.instance, &extra);
            if let Some((began, cause)) = causes.into_iter().find(|cause| !used.contains(cause)) {
                used.insert((began, cause));
                *self.explained.entry(cause.to_owned()).or_default() += 1;
            } else {
                let (from, to) = (extra.after - BEFORE, extra.before);
                let around = ledger.account(&member.name, member.instance, from, to);
                self.unexplained
                    .push(format!("{}: {extra:?}\n{around}", member.name));
            }
        }
    }
}

/// Instances in trouble that were asked more than a failing instance may be.
fn asked_in_trouble(ledger: &Ledger, fleet: &Fleet) -> Vec<String> {
    let mut too_many = Vec::new();
    for window in &ledger.windows {
        let Whom::Instance(instance) = window.whom else {
            continue;
        };
        let mut asked = BTreeMap::new();
        for member in fleet.members.iter().filter(|one| one.instance == instance) {
            asked.insert(&member.name, answered_badly(ledger, &member.name, window));
        }
        // What is under way when the trouble begins, then one at a time; a fault of single answers is
        // waited out by each client alone.
        let probes = probes(window);
        let (asked, allowed) = if window.by_client {
            (
                asked.values().copied().max().unwrap_or_default(),
                1 + probes,
            )
        } else {
            (asked.values().sum(), 2 * UNDER_WAY + probes)
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

/// Requests of a member in a window that brought no token. Whoever is answered well asks an instance
/// whose trouble is over: what hung before the end of it is given up only later.
fn answered_badly(ledger: &Ledger, member: &str, window: &Window) -> usize {
    let asked = ledger.asked.get(member).into_iter().flatten();
    let bad = asked.filter(|asked| !asked.is_good());
    bad.filter(|asked| window.touches(asked.at, asked.at))
        .count()
}

fn probes(window: &Window) -> usize {
    let lasted = window.to.duration_since(window.from).as_secs_f64();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a handful"
    )]
    let probes = (lasted / BETWEEN_PROBES).ceil() as usize;
    probes
}
