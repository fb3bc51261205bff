//! Tokens that their instance keeps until they expire: the gap between an expiry and the next token
//! is a request and a write.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use testkit::{operator::Operator, servicenow::TokenMode};

use crate::{
    Size,
    fleet::{Fleet, LIFETIME},
    readers::{Book, read_journals, watch_secrets},
    report::{Report, seconds, share, share_below},
    support::eventually,
};

/// The gap that 99 of 100 should stay under.
const WANTED: SignedDuration = SignedDuration::from_millis(250);

/// Once before a token's expiry, which finds out that it is kept. Then, as the instance counts whole
/// seconds down and keeps the token for up to one more, every 200 ms until it is over with it.
const ASKED_AT_MOST: usize = 1 + 6;

pub(crate) async fn run(size: Size) {
    let fleet = Fleet::new(size.resources, &[TokenMode::ReuseRemaining]).await;
    let book = Book::default();
    let watch = tokio::spawn(watch_secrets(fleet.secrets(), book.clone()));
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
    watch.await.unwrap();
    read_journals(&fleet, &book, &mut read);
    judge(&fleet, &book, &operator);
}

fn judge(fleet: &Fleet, book: &Book, operator: &Operator) {
    let ledger = book.ledger();
    let instance = &fleet.instances[0];
    let mut gaps = Vec::new();
    for versions in ledger.versions.values() {
        for pair in versions.windows(2) {
            let [Some(old), Some(new)] = [&pair[0].held, &pair[1].held] else {
                continue;
            };
            let expired = instance.expires_at(&old.token);
            if let Some(expired) = expired.filter(|_| old.token != new.token) {
                gaps.push(pair[1].seen.duration_since(expired));
            }
        }
    }
    gaps.sort();
    let requests: usize = ledger.asked.values().map(Vec::len).sum();
    let renewals = ledger.renewals();
    let under = gaps.iter().filter(|gap| **gap < WANTED).count();
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
    report.line(
        "  share under 250 ms",
        format!("{:.2} %", share(under, gaps.len())),
    );
    report.line("token requests", requests);
    report.line("tokens", renewals);
    report.line(
        "requests for each token",
        format!("{:.3}", share(requests, renewals) / 100.0),
    );
    report.print();

    let allowed = ASKED_AT_MOST * renewals;
    assert!(
        requests <= allowed,
        "{requests} requests for {renewals} tokens"
    );
    let now = Timestamp::now();
    for (member, versions) in &ledger.versions {
        let last = versions.last().and_then(|last| last.held.as_ref());
        let last = last.unwrap_or_else(|| panic!("{member} has no Secret\n{}", operator.log()));
        let overdue = now.duration_since(last.expires_at);
        assert!(
            overdue < SignedDuration::from_secs(5),
            "{member} was not renewed for {overdue:?}\n{}",
            operator.log()
        );
    }
}
