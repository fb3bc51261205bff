//! A storm of renewals: a fleet all of whose tokens are due within one minute, and people who create
//! resources meanwhile.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use serde::{Deserialize, Serialize};
use servicenow_credential_operator::api::ServiceNowCredential;
use testkit::operator::Operator;

use crate::{
    api::{between, requests, total},
    fleet::{Fleet, NAMESPACE, Shape, resource_name},
    told::Told,
};

/// What a storm comes to within a minute.
const LASTS: Duration = Duration::from_secs(60);
/// A token that lives so long and is renewed with so much of it left is due within a minute.
const LIFETIME: Duration = Duration::from_secs(170);
const RENEW_BEFORE: u32 = 60;
/// What is renewed in the storm is not due again in it.
const AFTERWARDS: Duration = Duration::from_secs(3600);
/// Resources that people create in a storm, one after another.
const CREATED: usize = 100;
const PEOPLE: &str = "people";

/// What a storm came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Storm {
    pub(crate) resources: usize,
    /// Renewals, and first syncs of what people created, within a minute.
    pub(crate) renewals: usize,
    /// By the time that every token has been renewed.
    pub(crate) requests_each: f64,
    pub(crate) processor_ms_each: f64,
    /// Tokens in Secrets that were over after that minute.
    pub(crate) expired: usize,
    /// What was left then to the token in the Secret that was nearest to its end, in seconds.
    pub(crate) least_left: f64,
    /// From the request that creates a resource to its Secret, in milliseconds.
    pub(crate) apply_p50_ms: f64,
    pub(crate) apply_p99_ms: f64,
}

/// Renewals of so many, all due within a minute.
pub(crate) async fn run(resources: usize) -> Storm {
    let mut fleet = Fleet::new(Shape {
        lifetime: LIFETIME,
        renew_before: Some(RENEW_BEFORE),
        ..Shape::distinct(resources)
    })
    .await;
    fleet.namespace(PEOPLE).await;
    let mut told = Told::of::<ServiceNowCredential>(fleet.client.clone(), NAMESPACE).await;
    let operator = Operator::start(&fleet.options()).await;
    told.until(resources).await;

    fleet.set_lifetime(AFTERWARDS);
    // They have clients of their own: a token that the fleet has asked for would be theirs, too.
    for number in resources..resources + CREATED {
        fleet.put_client(PEOPLE, number).await;
    }
    // A fast machine has synced them all before the first is due.
    fleet.instance.wait_for_token_requests(resources + 1).await;
    let (before, used) = (requests(&fleet.client).await, operator.usage());
    let (begun, asked) = (Instant::now(), fleet.instance.token_requests());
    let latencies = people(&fleet).await;
    tokio::time::sleep_until((begun + LASTS).into()).await;
    let renewals = fleet.instance.token_requests() - asked;
    let least = left(&fleet).await;

    while left(&fleet).await[0] < LIFETIME.as_secs_f64() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut requests = between(&before, &requests(&fleet.client).await);
    // Ours. What a resource that people created costs is no more than a renewal.
    requests.remove("POST servicenowcredentials");
    let processor = operator.usage().processor - used.processor;
    let renewed = (fleet.instance.token_requests() - asked) as f64;
    Storm {
        resources,
        renewals,
        requests_each: total(&requests) as f64 / renewed,
        processor_ms_each: processor.as_secs_f64() * 1000.0 / renewed,
        expired: least.iter().filter(|left| **left <= 0.0).count(),
        least_left: least.first().copied().unwrap_or_default(),
        apply_p50_ms: latencies[CREATED / 2],
        apply_p99_ms: latencies[CREATED * 99 / 100 - 1],
    }
}

/// Creates resources one after another, and sees how long each takes until its Secret is there, in
/// milliseconds and in order.
async fn people(fleet: &Fleet) -> Vec<f64> {
    let told = Told::of::<Secret>(fleet.client.clone(), PEOPLE).await;
    let begun = Instant::now();
    let mut created = Vec::new();
    for number in 0..CREATED {
        let next = begun + (LASTS / CREATED as u32) * number as u32 * 9 / 10;
        tokio::time::sleep_until(next.into()).await;
        created.push(Instant::now());
        let number = fleet.shape.resources + number;
        fleet.put_resource(PEOPLE, number, number).await;
    }
    let mut told = told;
    told.until(CREATED).await;
    let writes = told.writes();
    let took = created.into_iter().enumerate().map(|(number, created)| {
        let (seen, _) = writes[&resource_name(fleet.shape.resources + number)];
        seen.duration_since(created).as_secs_f64() * 1000.0
    });
    let mut took: Vec<_> = took.collect();
    took.sort_by(f64::total_cmp);
    took
}

/// What is left to each token, in seconds, the least first.
async fn left(fleet: &Fleet) -> Vec<f64> {
    let now = Timestamp::now();
    let resources = fleet.resources().list(&ListParams::default()).await;
    let tokens = resources
        .unwrap()
        .items
        .into_iter()
        .filter_map(|r| r.status?.token);
    let left = tokens.map(|token| token.expires_at.0.duration_since(now).as_secs_f64());
    let mut left: Vec<_> = left.collect();
    left.sort_by(f64::total_cmp);
    left
}
