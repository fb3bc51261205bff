//! End to end, on a node: the operator from its image, installed by Helm; a simulated instance in a
//! pod behind TLS with its own authority; and a workload that calls the instance's Table API once a
//! second with whatever its file holds, while the operator is upgraded, deleted and rescheduled. Then
//! once more and shorter, installed by kubectl.
//!
//! `make e2e` runs it, on a node that this machine becomes for it, or on the cluster of
//! `E2E_KUBECONFIG` with the image of `E2E_IMAGE`; `docs/e2e.md` says how.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test ends where it cannot go on, and lives in real time"
)]
#![allow(
    clippy::print_stdout,
    reason = "the numbers are what the suite is run for"
)]

mod image;
mod instance;
mod manifest;
mod place;
mod release;
mod report;
mod stays;
mod workload;

use std::{
    env,
    time::{Duration, Instant},
};

use place::Place;
use release::Release;
use report::{Report, Times};

/// How long things last.
#[derive(Clone, Copy, Debug)]
struct Durations {
    /// A token's lifetime.
    token: Duration,
    /// The kubelet's period of bringing files up to date, where the node is ours.
    sync: Duration,
}

impl Durations {
    fn from_environment() -> Self {
        let seconds = |name: &str, default: u64| {
            let number = match env::var(name) {
                Ok(text) => text
                    .parse()
                    .unwrap_or_else(|_| panic!("{name}={text} is not a whole number of seconds")),
                Err(_) => default,
            };
            Duration::from_secs(number)
        };
        Self {
            token: seconds("E2E_TOKEN_SECONDS", 20),
            sync: seconds("E2E_SYNC_SECONDS", 1),
        }
    }
}

/// The lifetimes of tokens that the workload runs for.
const LIFETIMES: u32 = 10;

/// By its name the last one, for its report to be at the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_workload_sees_no_401_through_upgrade_deletions_and_rescheduling() {
    let begun = Instant::now();
    let durations = Durations::from_environment();
    let place = Place::find(durations.sync).await;
    let _on_failure = place.tell_on_failure();
    let node_ready = begun.elapsed();

    let host = instance::address(&place).await;
    let release = Release::install(&place, &host).await;
    instance::start(&place, &host, durations.token).await;
    let to_ready = instance::first_token(&place, &host).await;
    workload::start(&place, &host).await;

    let lived = async |lifetimes: u32| workload::lived(&place, durations.token * lifetimes).await;
    lived(1).await;
    release.upgrade().await;
    lived(3).await;
    let first_end = release.delete_pod().await;
    lived(5).await;
    let second_end = release.delete_pod().await;
    lived(7).await;
    release.reschedule().await;
    lived(LIFETIMES).await;

    let calls = workload::calls(&place).await;
    let answered = instance::journal(&place).await;
    let times = Times {
        token: durations.token,
        node_ready,
        to_ready,
        to_end: first_end.max(second_end),
    };
    let report = Report::new(&calls, &answered, times);
    report.print();
    report.hold(LIFETIMES);

    release.uninstall_and_look().await;
    place.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_file_installs_it_with_kubectl_and_a_workload_gets_good_tokens() {
    let durations = Durations::from_environment();
    let place = Place::find(durations.sync).await;
    let _on_failure = place.tell_on_failure();

    let host = instance::address(&place).await;
    manifest::install(&place, &host).await;
    instance::start(&place, &host, durations.token).await;
    instance::first_token(&place, &host).await;
    workload::start(&place, &host).await;
    workload::renewed(&place, durations.token).await;
    let calls = workload::calls(&place).await.into_iter();
    let refused = calls.filter(|call| call.status != Some(200));
    let refused: Vec<String> = refused.map(|call| call.to_string()).collect();
    assert_eq!(refused, [""; 0]);

    manifest::uninstall_and_look(&place).await;
    place.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_image_is_small_and_holds_the_program_and_nothing_else_to_run() {
    image::hold().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_is_made_again_is_the_same_image() {
    image::hold_again().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_for_another_kind_of_machine_is_refused_with_the_way_to_make_it() {
    image::hold_other_machine().await;
}
