//! What statuses tell a new process of failures and successes before it, and what of it is believed.

use super::{failures::refused, scene::*};
use crate::{
    api::Reason,
    decide::{Class, Failure, Outcome, Seen},
};

#[test]
fn a_refusal_outlives_a_restart() {
    let scene = refused(7, 1200, 3120).ended().restarted().at(1300);
    let waiting = End {
        outcome: Outcome::Failed(Reason::AccessDenied),
        status: None,
        transition: None,
        wake: Some(at(1800)),
    };
    assert_eq!(scene.end(), waiting);
    assert_eq!(
        scene.clone().ended().end(),
        waiting,
        "and so does the look after it"
    );
    let expired = scene.ended().at(1800).ended();
    assert_eq!(expired.ready(), is("False", Reason::TokenExpired));
    assert_eq!(expired.end().wake, Some(at(3120)));
    let over = expired.at(3120);
    assert!(over.wants_to_read_client());
    let wish = over.reads_client().asks();
    assert_eq!(
        wish.failures,
        Some((Class::Refused, 7)),
        "its count goes on"
    );
}

#[test]
fn a_rate_limit_that_was_lifted_does_not_live_on_in_a_status() {
    let scene = Scene::synced().at(1200).reads_client().asked(1200);
    let limited = shared(Reason::RateLimited, 1, 1200, 4800);
    let scene = scene.answered(Err(limited.clone())).ended().restarted();
    let held = scene.clone().at(1210).held_by(limited).reads_client();
    assert_eq!(held.end().outcome, Outcome::Failed(Reason::RateLimited));
    assert!(scene.at(1210).wants_to_read_client());
}

#[test]
fn after_a_restart_a_moment_without_the_kubernetes_api_costs_no_request() {
    let mut scene = Scene::synced().restarted().at(700);
    // What was created while another led was named after the list of Secrets, and is not known.
    let known = std::mem::replace(&mut scene.client_seen, Seen::Unknown);
    assert!(scene.wants_to_read_client());
    scene.client = Some(Err(Failure::new(Reason::InternalError, "not now")));
    let scene = scene.ended().at(702);
    assert_eq!(scene.synced_state(), is("False", Reason::InternalError));
    assert!(scene.wants_to_read_client());
    let mut scene = scene;
    scene.client_seen = known;
    let scene = scene.reads_client().ended();
    assert_eq!(scene.synced_state(), is("True", Reason::TokenSynced));
    // Nor does a target that was touched meanwhile, and cannot be read.
    let mut scene = Scene::synced().restarted().at(700);
    scene.target_seen = Seen::Present(first_secret(101).version.clone());
    assert!(scene.wants_to_read_target());
    scene.unreadable = Some(Failure::new(Reason::InternalError, "not now"));
    let scene = scene
        .ended()
        .at(702)
        .reads_target(first_secret(101))
        .ended();
    assert_eq!(scene.synced_state(), is("True", Reason::TokenSynced));
}

#[test]
fn a_wait_that_was_recorded_by_a_clock_set_back_since_is_not_waited_out() {
    let scene = Scene::synced().at(1200).reads_client().asked(1200);
    let outage = shared(Reason::InstanceUnavailable, 5, 1200, 1260);
    let scene = scene.answered(Err(outage)).ended().restarted();
    assert_eq!(scene.clone().at(1201).end().wake, Some(at(1260)));
    assert!(scene.at(300).wants_to_read_client());
}

#[test]
fn a_wait_on_record_that_a_clock_was_set_back_amid_is_not_prolonged_by_it() {
    let scene = refused(5, 1200, 1680).ended().restarted().at(1600);
    assert_eq!(scene.clone().end().wake, Some(at(1680)));
    let mut set_back = scene.at(1300);
    let status = set_back.credential.status.clone();
    set_back.memory.clock_set_back(seconds(300), &status);
    assert!(set_back.wants_to_read_client());
}

#[test]
fn a_wait_that_a_clock_ahead_has_put_on_record_is_corrected_at_the_next_failure() {
    let limited = |when, retry| shared(Reason::RateLimited, 9, when, retry);
    let scene = Scene::synced().at(1200).reads_client().asked(1200);
    let mut scene = scene.answered(Err(limited(1200, 1250))).ended();
    let status = scene.credential.status.clone();
    scene.memory.clock_set_back(seconds(600), &status);
    let scene = scene.at(650).reads_client().asked(650);
    let scene = scene.answered(Err(limited(650, 700))).ended();
    let failure = scene.status().failure.clone().unwrap();
    let retry = failure.retry_time.unwrap();
    assert_eq!((failure.last_time.0, retry.0), (at(650), at(700)));
}

#[test]
fn after_a_restart_only_what_is_asked_with_ends_the_wait_for_a_refused_client() {
    let waits = refused(7, 1200, 3120).ended().restarted().at(1300).ended();
    let margin = |scene: &Scene| {
        let scene = scene.clone().at(1310);
        scene.with_spec(|spec| {
            spec.renewal.get_or_insert_default().renew_before_percentage = Some(50)
        })
    };
    let end = margin(&waits).end();
    assert_eq!(end.outcome, Outcome::Failed(Reason::AccessDenied));
    // Each process finds it anew.
    let edited = margin(&waits).ended();
    assert_eq!(edited.status().observed_generation, Some(2));
    let end = margin(&edited.clone()).end();
    assert_eq!(end.outcome, Outcome::Failed(Reason::AccessDenied));
    let end = edited.restarted().at(1320).end();
    assert_eq!(end.outcome, Outcome::Failed(Reason::AccessDenied));
    let elsewhere = waits
        .clone()
        .with_spec(|spec| spec.instance = "dev2".to_owned());
    assert!(elsewhere.wants_to_read_client());
    assert!(waits.client_changed(11).wants_to_read_client());
}

#[test]
fn the_least_interval_outlives_a_restart() {
    let mut scene = Scene::synced().restarted().at(60).renew_requested("now");
    scene.policy.min_renew_interval = seconds(600);
    let scene = scene.reads_client();
    let end = scene.end();
    assert_eq!((end.outcome, end.wake), (Outcome::Waiting, Some(at(600))));
    assert_eq!(
        scene.clone().at(600).asks().known.unwrap().sha256,
        held("first", 0, 1800).sha256
    );
    // Whoever deletes the Secret meanwhile is told that it is not there.
    let deleted = scene.target_deleted().ended();
    assert_eq!(deleted.ready(), is("Unknown", Reason::Pending));
}

#[test]
fn a_wait_for_an_outage_that_a_status_remembers_gives_way_to_the_brokers() {
    let outage = shared(Reason::InstanceUnavailable, 5, 1200, 1260);
    let scene = Scene::synced().at(1200).reads_client().asked(1200);
    let scene = scene.answered(Err(outage)).ended().restarted().at(1210);
    assert_eq!(scene.end().wake, Some(at(1260)));
    // Another has met the outage since, and it is this one's turn to probe.
    let mut called = scene;
    called.origin_is_held = true;
    assert!(called.wants_to_read_client());
}
