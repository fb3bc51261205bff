//! The whole bench.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, Resource, api::ListParams, core::PartialObjectMeta};
use serde::de::DeserializeOwned;
use servicenow_credential_operator::api::ServiceNowCredential;
use testkit::operator::Operator;

use crate::{
    allocations::{Allocations, Counter},
    api::{between, requests, total},
    counts::looked_at_all,
    docs,
    fleet::{Fleet, NAMESPACE, Shape},
    floor, handover,
    report::{Heap, Machine, Others, Report, Rest, Restart, Shared, Sync},
    storm,
    told::Told,
};

/// The numbers of resources by which growth is seen.
const SIZES: [usize; 4] = [100, 1_000, 3_000, 10_000];
/// The most.
const FLEET: usize = 10_000;
/// Enough that a new leader has something to look at before it writes.
const HANDED_OVER: usize = 1_000;
/// How often the lead is handed over.
const HANDOVERS: usize = 20;
/// Secrets that no resource names.
const OTHERS: usize = 50_000;
/// After so long without work, memory is what it is at rest.
const SETTLES: Duration = Duration::from_secs(10);
/// How long a rest is watched.
const RESTS: Duration = Duration::from_secs(60);

/// Measures everything, prints it and writes it into the documentation.
pub(crate) async fn run() {
    let mut syncs = Vec::new();
    let mut rested = None;
    for resources in SIZES {
        let fleet = Fleet::new(Shape::distinct(resources)).await;
        let floor = floor::run(&fleet).await;
        drop(fleet);
        let fleet = Fleet::new(Shape::distinct(resources)).await;
        let (mut operator, sync) = sync(&fleet, floor).await;
        say(&format!("{sync:?}"));
        syncs.push(sync);
        if resources == FLEET {
            let rest = rest(&fleet, &operator).await;
            operator.stop().await;
            let restart = restart(&fleet).await;
            rested = Some((rest, restart.0, restart.1));
        }
    }
    let (rest, restart, others) = rested.unwrap();
    let report = Report {
        machine: Machine::this(),
        syncs,
        heap: heap().await,
        rest,
        restart,
        others,
        shared: shared().await,
        handover: handover::run(HANDED_OVER, HANDOVERS).await,
        storm: storm::run(FLEET).await,
    };
    report.write(docs());
    say(&report.table());
}

#[allow(clippy::print_stdout, reason = "the report is what a bench is run for")]
fn say(what: &str) {
    println!("{what}");
}

/// The first sync of a whole fleet, from the start of the process.
async fn sync(fleet: &Fleet, floor: Duration) -> (Operator, Sync) {
    let resources = fleet.shape.resources;
    let mut told = Told::of::<ServiceNowCredential>(fleet.client.clone(), NAMESPACE).await;
    let before = requests(&fleet.client).await;
    let begun = Instant::now();
    let operator = Operator::spawn(&fleet.options());
    told.until(resources).await;
    let took = begun.elapsed();
    let used = operator.usage();
    let after = between(&before, &requests(&fleet.client).await);
    tokio::time::sleep(SETTLES).await;
    let secrets: Api<Secret> = Api::namespaced(fleet.client.clone(), NAMESPACE);
    let ours = ListParams::default().labels("app.kubernetes.io/managed-by");
    let ours = secrets.list_metadata(&ours).await.unwrap().items.len();
    assert_eq!(ours, resources, "every Secret is there");
    let sync = Sync {
        resources,
        floor_seconds: floor.as_secs_f64(),
        seconds: took.as_secs_f64(),
        api_requests: after,
        token_requests: fleet.instance.token_requests(),
        processor_seconds: used.processor.as_secs_f64(),
        peak_bytes: operator.usage().peak,
        rest_bytes: operator.usage().resident,
    };
    (operator, sync)
}

/// What each resource adds to the heap, from the difference between two fleets.
async fn heap() -> Heap {
    let (few, many) = (allocations(SIZES[0]).await, allocations(SIZES[2]).await);
    let each = |many: u64, few: u64| (many - few) / (SIZES[2] - SIZES[0]) as u64;
    Heap {
        allocated_bytes_each: each(many.allocated, few.allocated),
        held_bytes_each: each(many.held, few.held),
    }
}

/// What a first sync allocates. It is not the one whose time is measured.
async fn allocations(resources: usize) -> Allocations {
    let fleet = Fleet::new(Shape::distinct(resources)).await;
    let counter = Counter::new();
    let mut told = Told::of::<ServiceNowCredential>(fleet.client.clone(), NAMESPACE).await;
    let _operator = Operator::spawn(&counter.of(fleet.options()));
    told.until(resources).await;
    tokio::time::sleep(SETTLES).await;
    counter.read()
}

/// A fleet none of whose tokens is due.
async fn rest(fleet: &Fleet, operator: &Operator) -> Rest {
    let (before, used) = (requests(&fleet.client).await, operator.usage());
    let begun = Instant::now();
    tokio::time::sleep(RESTS).await;
    let after = operator.usage();
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    let asked = between(&before, &requests(&fleet.client).await);
    Rest {
        api_requests: total(&asked),
        processor_percent: 100.0 * (after.processor - used.processor).as_secs_f64()
            / (60.0 * minutes),
        wakeups_per_minute: (after.switches - used.switches) as f64 / minutes,
    }
}

/// A restart with valid tokens, and another among Secrets that no resource names.
async fn restart(fleet: &Fleet) -> (Restart, Others) {
    let resources = fleet.shape.resources;
    let listed = Instant::now();
    list(&fleet.client).await;
    let list_seconds = listed.elapsed().as_secs_f64();
    let (before, asked) = (
        requests(&fleet.client).await,
        fleet.instance.token_requests(),
    );
    let begun = Instant::now();
    let mut operator = Operator::start(&fleet.options()).await;
    let ready_seconds = begun.elapsed().as_secs_f64();
    looked_at_all(&operator, resources).await;
    let writes = between(&before, &requests(&fleet.client).await);
    let restart = Restart {
        list_seconds,
        ready_seconds,
        token_requests: fleet.instance.token_requests() - asked,
        api_requests: total(&writes),
    };
    tokio::time::sleep(SETTLES).await;
    let alone = operator.usage();
    operator.stop().await;

    fleet.namespace("others").await;
    fleet.put_others("others", OTHERS).await;
    let operator = Operator::start(&fleet.options()).await;
    looked_at_all(&operator, resources).await;
    tokio::time::sleep(SETTLES).await;
    let among = operator.usage();
    let others = Others {
        secrets: OTHERS,
        rest_bytes_before: alone.resident,
        rest_bytes: among.resident,
        peak_bytes: among.peak,
    };
    (restart, others)
}

/// The lists that an operator begins with.
async fn list(client: &Client) {
    pages::<ServiceNowCredential>(client).await;
    pages::<PartialObjectMeta<Secret>>(client).await;
}

/// All objects of a kind, in pages as a watch begins with them.
async fn pages<K>(client: &Client)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::all(client.clone());
    let mut page = ListParams::default().limit(500);
    while let Some(next) = api.list(&page).await.unwrap().metadata.continue_
        && !next.is_empty()
    {
        page = page.continue_token(&next);
    }
}

/// A fleet that shares ten clients.
async fn shared() -> Shared {
    let shape = Shape {
        clients: 10,
        ..Shape::distinct(FLEET)
    };
    let fleet = Fleet::new(shape).await;
    let mut told = Told::of::<ServiceNowCredential>(fleet.client.clone(), NAMESPACE).await;
    let begun = Instant::now();
    let operator = Operator::spawn(&fleet.options());
    told.until(FLEET).await;
    Shared {
        resources: FLEET,
        clients: shape.clients,
        seconds: begun.elapsed().as_secs_f64(),
        token_requests: fleet.instance.token_requests(),
        processor_seconds: operator.usage().processor.as_secs_f64(),
    }
}
