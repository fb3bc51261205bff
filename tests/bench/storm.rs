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

/// How long a storm is watched.
const LASTS: Duration = Duration::from_secs(60);
/// A token that lives so long and is renewed with so much of it left is due within a minute.
const LIFETIME: Duration = Duration::from_secs(170);
const RENEW_BEFORE: u32 = 60;
/// Resources that people create in a storm, one after another.
const CREATED: usize = 100;
const PEOPLE: &str = "people";

/// What a storm came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Storm {
    pub(crate) resources: usize,
    pub(crate) seconds: f64,
    pub(crate) renewals: usize,
    pub(crate) requests_each: f64,
    pub(crate) processor_ms_each: f64,
    /// Tokens in Secrets that were over at its end.
    pub(crate) expired: usize,
    /// What was left to the token in the Secret that was nearest to its end, in seconds.
    pub(crate) least_left: f64,
    /// From the request that creates a resource to its Secret, in milliseconds.
    pub(crate) apply_p50_ms: f64,
    pub(crate) apply_p99_ms: f64,
}

/// Renewals of so many, all due within a minute.
pub(crate) async fn run(resources: usize) -> Storm {
    let fleet = Fleet::new(Shape {
        lifetime: LIFETIME,
        renew_before: Some(RENEW_BEFORE),
        ..Shape::distinct(resources)
    })
    .await;
    fleet.namespace(PEOPLE).await;
    for number in 0..CREATED {
        fleet.put_client(PEOPLE, number).await;
    }
    let mut told = Told::of::<ServiceNowCredential>(fleet.client.clone(), NAMESPACE).await;
    let operator = Operator::start(&fleet.options()).await;
    told.until(resources).await;

    let (before, used) = (requests(&fleet.client).await, operator.usage());
    let (begun, asked) = (Instant::now(), fleet.instance.token_requests());
    let latencies = people(&fleet).await;
    tokio::time::sleep_until((begun + LASTS).into()).await;
    let renewals = fleet.instance.token_requests() - asked;
    let mut requests = between(&before, &requests(&fleet.client).await);
    // Ours. What a resource that people created costs is no more than a renewal.
    requests.remove("POST servicenowcredentials");
    let processor = operator.usage().processor - used.processor;
    let seconds = begun.elapsed().as_secs_f64();
    let left = left(&fleet).await;
    Storm {
        resources,
        seconds,
        renewals,
        requests_each: total(&requests) as f64 / renewals as f64,
        processor_ms_each: processor.as_secs_f64() * 1000.0 / renewals as f64,
        expired: left.iter().filter(|left| **left <= 0.0).count(),
        least_left: left.first().copied().unwrap_or_default(),
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
        fleet.put_resource(PEOPLE, number).await;
    }
    let mut told = told;
    told.until(CREATED).await;
    let writes = told.writes();
    let took = created.into_iter().enumerate().map(|(number, created)| {
        let (seen, _) = writes[&resource_name(number)];
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
