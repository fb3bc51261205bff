//! The short form: what is asked and written, counted, and no time.

use servicenow_credential_operator::api::ServiceNowCredential;
use testkit::operator::Operator;

use crate::{
    api::{Requests, between, requests, total},
    fleet::{Fleet, NAMESPACE, SHARDS, Shape},
    support::eventually,
    told::Told,
};

/// A first sync, a renewal, a rest and a restart of a fleet of so many.
pub(crate) async fn run(resources: usize) {
    let fleet = Fleet::new(Shape::distinct(resources)).await;
    let mut told = Told::of::<ServiceNowCredential>(fleet.client.clone(), NAMESPACE).await;
    let before = requests(&fleet.client).await;
    let mut options = fleet.options();
    // Whoever asks for a renewal at once has not to wait for its time, and to read the client again.
    options
        .arguments
        .push("--min-renew-interval=1ms".to_owned());
    let mut operator = Operator::start(&options).await;
    told.until(resources).await;
    let expected = |write: &str| expected(resources, write);
    let synced = asked(&fleet, &before, expected("POST secrets")).await;
    assert_eq!(fleet.instance.token_requests(), resources);

    fleet.ask_for_renewal().await;
    eventually("every token has been renewed", async || {
        (fleet.handled().await == resources).then_some(())
    })
    .await;
    let mut renewals = expected("APPLY secrets");
    // Ours, who asked for it.
    let by_us = "PATCH servicenowcredentials".to_owned();
    renewals.insert(by_us, u64::try_from(resources).unwrap());
    let renewed = asked(&fleet, &synced, renewals).await;
    assert_eq!(fleet.instance.token_requests(), 2 * resources);

    operator.stop().await;
    let operator = Operator::start(&options).await;
    looked_at_all(&operator, resources).await;
    let restarted = requests(&fleet.client).await;
    assert_eq!(between(&renewed, &restarted), Requests::new());
    assert_eq!(fleet.instance.token_requests(), 2 * resources);
}

/// Two operators side by side, with a shard each of a fleet of so many.
pub(crate) async fn shards(resources: usize) {
    let fleet = Fleet::new(Shape::distinct(resources)).await;
    let mut told = Told::of::<ServiceNowCredential>(fleet.client.clone(), NAMESPACE).await;
    let before = requests(&fleet.client).await;
    let mut operators = Vec::new();
    for shard in SHARDS {
        let mut options = fleet.options();
        options.arguments.push(format!("--selector=shard={shard}"));
        operators.push(Operator::start(&options).await);
    }
    told.until(resources).await;
    for operator in &operators {
        looked_at_all(operator, resources / SHARDS.len()).await;
    }
    asked(&fleet, &before, expected(resources, "POST secrets")).await;
    assert_eq!(fleet.instance.token_requests(), resources);
}

/// One read and two writes for each of so many resources.
fn expected(resources: usize, write: &str) -> Requests {
    let each = u64::try_from(resources).unwrap();
    let asked = ["GET secrets", write, "PATCH servicenowcredentials/status"];
    Requests::from(asked.map(|what| (what.to_owned(), each)))
}

/// Exactly this was asked since; returns the count by then. The API server counts a request after it
/// has answered it.
async fn asked(fleet: &Fleet, since: &Requests, expected: Requests) -> Requests {
    let counted = eventually("as many requests have been counted", async || {
        let counted = requests(&fleet.client).await;
        (total(&between(since, &counted)) >= total(&expected)).then_some(counted)
    })
    .await;
    assert_eq!(between(since, &counted), expected);
    counted
}

/// Waits until an operator has looked at every resource and found it well.
pub(crate) async fn looked_at_all(operator: &Operator, resources: usize) {
    let enough = format!("snowcred_reconciles_total{{outcome=\"Synced\"}} {resources}");
    eventually("all have been looked at", async || {
        let metrics = operator.metrics();
        metrics.lines().any(|line| line == enough).then_some(())
    })
    .await;
}
