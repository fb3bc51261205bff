//! Tokens that their instance keeps until they expire: the gap between an expiry and the next token
//! is a request and a write.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use testkit::{
    operator::Operator,
    servicenow::{Simulator, TokenMode},
};

use crate::{
    Size,
    fleet::{Fleet, LIFETIME, Member},
    ledger::Ledger,
    readers::{Book, read_journals, watch_ready, watch_secrets},
    report::{Report, seconds, share, share_below},
    support::eventually,
};

/// The gap that 99 of 100 stay under.
const WANTED: SignedDuration = SignedDuration::from_millis(250);
/// The least share of gaps that stay under it, in percent.
const WANTED_SHARE: f64 = 99.0;
/// No gap is longer: each member in peace has renewed as often as a lifetime and such a gap fit in.
const LONGEST: Duration = Duration::from_secs(1);
/// By its annotation, which is up to a second early, no token is so long over when its watch ends.
const OVERDUE: SignedDuration = SignedDuration::from_secs(5);

/// Once before a token's expiry, which finds out that it is kept. Then, as the instance counts whole
/// seconds down and keeps the token for up to one more, every 200 ms until it is over with it.
const ASKED_AT_MOST: usize = 1 + 6;

pub(crate) async fn run(size: Size) {
    let fleet = Fleet::new(size.resources, &[TokenMode::ReuseRemaining]).await;
    let book = Book::default();
    let onlookers = [
        tokio::spawn(watch_secrets(fleet.secrets(), book.clone())),
        tokio::spawn(watch_ready(fleet.credentials(), book.clone())),
    ];
    let operator = Operator::start(&fleet.options()).await;
    // As in a fleet that grew: its expiries do not fall on one moment.
    fleet.create(LIFETIME).await;
    eventually("every Secret holds a token", async || {
        (book.ledger().versions.len() == size.resources).then_some(())
    })
    .await;

    let mut read = [0];
    let end = tokio::time::Instant::now() + size.kept;
    while tokio::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_secs(1)).await;
        read_journals(&fleet, &book, &mut read);
    }
    book.close();
    for onlooker in onlookers {
        onlooker.await.unwrap();
    }
    read_journals(&fleet, &book, &mut read);
    judge(&fleet, &book, &operator, size);
}

fn judge(fleet: &Fleet, book: &Book, operator: &Operator, size: Size) {
    let ledger = book.ledger();
    let of_each = gaps(&ledger, &fleet.instances[0]);
    let mut gaps: Vec<_> = of_each.values().flatten().copied().collect();
    gaps.sort();
    let requests: usize = ledger.asked.values().map(Vec::len).sum();
    let renewals = ledger.renewals();
    let under = gaps.iter().filter(|gap| **gap < WANTED).count();
    let share_under = share(under, gaps.len());
    let unready = unready(&ledger, fleet);
    let mut report = Report::new("Tokens that are kept until they expire, no faults");
    report.line("resources", fleet.members.len());
    report.line("expiries", gaps.len());
    report.line(
        "gap between expiry and the next token, median",
        seconds(share_below(&gaps, 0.5)),
    );
    report.line("  99 of 100 under", seconds(share_below(&gaps, 0.99)));
    report.line("  999 of 1000 under", seconds(share_below(&gaps, 0.999)));
    report.line("  the longest", seconds(share_below(&gaps, 1.0)));
    report.line("  share under 250 ms", format!("{share_under:.2} %"));
    report.line("token requests", requests);
    report.line("tokens", renewals);
    report.line(
        "requests for each token",
        format!("{:.3}", share(requests, renewals) / 100.0),
    );
    report.line("times that Ready was lost", unready.len());
    report.print();

    assert!(unready.is_empty(), "{unready:#?}\n{}", operator.log());
    let allowed = ASKED_AT_MOST * renewals;
    assert!(
        requests <= allowed,
        "{requests} requests for {renewals} tokens"
    );
    assert_renewed(fleet, &ledger, &of_each, operator, size);
    assert!(
        !size.full || share_under >= WANTED_SHARE,
        "{share_under:.2} % of the gaps are under {WANTED:?}"
    );
}

/// From when the instance no longer took a token to when the Secret was seen to hold the next, of
/// each member.
fn gaps(ledger: &Ledger, instance: &Simulator) -> BTreeMap<String, Vec<SignedDuration>> {
    let mut gaps: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (member, versions) in &ledger.versions {
        for pair in versions.windows(2) {
            let [Some(old), Some(new)] = [&pair[0].held, &pair[1].held] else {
                continue;
            };
            let expired = instance.expires_at(&old.token);
            if let Some(expired) = expired.filter(|_| old.token != new.token) {
                let of_it = gaps.entry(member.clone()).or_default();
                of_it.push(pair[1].seen.duration_since(expired));
            }
        }
    }
    gaps
}

/// Members whose `Ready` was anything but True after it had been True once, and those that never
/// were ready.
fn unready(ledger: &Ledger, fleet: &Fleet) -> Vec<String> {
    let mut unready = Vec::new();
    for Member { name, .. } in &fleet.members {
        let changes = ledger.ready.get(name).into_iter().flatten();
        let mut since = changes.skip_while(|(_, status)| status != "True");
        if since.next().is_none() {
            unready.push(format!("{name} was never ready"));
        }
        let lost = since.filter(|(_, status)| status != "True");
        unready.extend(lost.map(|(at, status)| format!("{name} at {at}: {status}")));
    }
    unready
}

/// Every member has renewed as often as it must have, and has not stopped doing so.
fn assert_renewed(
    fleet: &Fleet,
    ledger: &Ledger,
    gaps: &BTreeMap<String, Vec<SignedDuration>>,
    operator: &Operator,
    size: Size,
) {
    let expiries = size.kept.div_duration_f64(LIFETIME + LONGEST).floor();
    let now = Timestamp::now();
    for Member { name, .. } in &fleet.members {
        #[allow(clippy::cast_precision_loss, reason = "a handful")]
        let seen = gaps.get(name).map_or(0, Vec::len) as f64;
        let versions = ledger.versions.get(name).and_then(|all| all.last());
        let overdue = versions
            .and_then(|last| last.held.as_ref())
            .map(|held| now.duration_since(held.expires_at));
        assert!(
            seen >= expiries && overdue.is_some_and(|overdue| overdue < OVERDUE),
            "{name}: {seen} expiries of {expiries}, not renewed for {overdue:?}\n{}",
            operator.log()
        );
    }
}
