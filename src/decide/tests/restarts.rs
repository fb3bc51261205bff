//! What outlives a restart of the operator, for those too whose own status does not tell of it.

use super::{
    scene::*,
    together::{always, at_an_instance_that_hangs, refused},
    world::World,
};
use crate::{api::Reason, decide::Failure};

#[test]
fn a_restart_of_the_operator_costs_nothing() {
    let mut world = World::with(&["a", "b", "c"]);
    world.run_until(100);
    let before = (
        world.requests.len(),
        world.secret_writes,
        world.status_writes,
    );
    world.restart();
    world.run_until(900);
    let after = (
        world.requests.len(),
        world.secret_writes,
        world.status_writes,
    );
    assert_eq!(before, after);
}

#[test]
fn after_a_restart_an_origin_that_is_down_is_probed_by_one() {
    let (mut world, _) = at_an_instance_that_hangs();
    world.run_until(900);
    let before = world.requests.len();
    world.restart();
    world.run_until(912);
    assert_eq!(world.requests.len(), before + 1);
}

#[test]
fn how_often_an_origin_was_down_outlives_a_restart_whoever_asks_next() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let mut world = World::with(&names);
    for name in names {
        world.change(name, |spec| spec.scopes = vec![name.to_owned()]);
    }
    always(&mut world, |_| {
        Err(Failure::new(Reason::InstanceUnavailable, "down"))
    });
    world.run_until(10);
    let told = names.map(|name| world.status(name).failure.clone().unwrap());
    let counts = told.each_ref().map(|told| told.count);
    assert_eq!(counts, [4, 1, 1, 1, 1, 1], "one of them knows better");
    let retry = told[0].retry_time.as_ref().unwrap().0;
    assert!(retry > at(12), "{retry}");
    let before = world.requests.len();
    world.restart();
    world.run_until(12);
    assert_eq!(world.requests.len(), before);
    let origin = "https://dev12345.service-now.com";
    let down = world.core.broker.hold(origin).map(|hold| hold.count);
    assert_eq!(down, Some(4));
}

#[test]
fn a_rate_limit_outlives_a_restart_for_those_who_did_not_know_of_it() {
    let mut world = World::with(&["a"]);
    let limited =
        || Failure::new(Reason::RateLimited, "later").with_retry_after(Some(seconds(600)));
    always(&mut world, move |_| Err(limited()));
    world.run_until(10);
    world.restart();
    world.create("b");
    world.change("b", |spec| spec.scopes = vec!["another-key".to_owned()]);
    world.run_until(590);
    assert_eq!(world.requests.len(), 1);
    assert_eq!(world.synced("b"), is("False", Reason::RateLimited));
}

#[test]
fn a_refusal_outlives_a_restart_for_those_with_the_same_client_who_did_not_know_of_it() {
    let mut world = World::with(&["a", "b"]);
    world.change("b", |spec| {
        let renewal = spec.renewal.get_or_insert_default();
        renewal.renew_before_percentage = Some(10);
    });
    world.run_until(10);
    always(&mut world, |_| Err(refused()));
    world.run_until(1520);
    assert_eq!(world.synced("a"), is("False", Reason::AccessDenied));
    assert_eq!(world.synced("b"), is("True", Reason::TokenSynced));
    let wait = world.status("a").failure.clone().unwrap();
    let retry = wait.retry_time.unwrap().0;
    let due = world.status("b").token.clone().unwrap().renewal_time.0;
    assert!(due < retry, "{due} {retry}");
    let before = world.requests.len();
    world.restart();
    let wait_is_over = retry.duration_since(at(0)).as_secs();
    world.run_until(wait_is_over - 1);
    assert_eq!(world.requests.len(), before);
    assert_eq!(world.synced("b"), is("False", Reason::AccessDenied));
    world.run_until(wait_is_over + 3);
    assert_eq!(world.requests.len(), before + 1, "one for both");
    let count = |world: &World, name| world.status(name).failure.clone().unwrap().count;
    assert_eq!(
        [count(&world, "a"), count(&world, "b")],
        [wait.count + 1; 2]
    );
}

#[test]
fn what_an_operator_with_a_clock_ahead_has_written_is_asked_for_anew() {
    let mut world = World::with(&["a"]);
    world.run_until(100);
    world.now = at(100 - 3600);
    world.under_way.clear();
    world.restart();
    world.run_until(200 - 3600);
    assert_eq!(world.requests.len(), 2);
    let token = world.status("a").token.clone().unwrap();
    assert!(token.expires_at.0 < at(1800 - 3000), "{token:?}");
    world.run_until(1000 - 3600);
    assert_eq!(world.requests.len(), 2, "once");
}
