//! How a failure is waited out: who waits, how long, what is written meanwhile.

use jiff::SignedDuration;

use super::scene::*;
use crate::{
    api::{Reason, condition},
    decide::{Class, Failure, Outcome, Seen, Transition, observed::WriteOutcome},
    servicenow::{Exchange, SharedFailure, Urgency},
};

/// A renewal that was due at second 1200 was refused for the `count`th time at `when`.
pub(super) fn refused(count: u32, when: i64, retry: i64) -> Scene {
    let scene = Scene::synced().at(when).reads_client().asked(when);
    scene.answered(Err(shared(Reason::AccessDenied, count, when, retry)))
}

/// The broker's next answer to the same resource.
fn again(scene: Scene, failure: SharedFailure) -> Scene {
    let when = failure.at.as_second() - at(0).as_second();
    scene
        .at(when)
        .reads_client()
        .asked(when)
        .answered(Err(failure))
}

#[test]
fn a_failed_renewal_leaves_ready_true_until_the_expiry() {
    let scene = refused(1, 1200, 1230);
    let message = "It failed: AccessDenied.";
    let valid = &Scene::synced().status().conditions[0].message.clone();
    let mut status = scene.status_with([
        condition(condition::READY, "True", Reason::TokenValid, 0, valid),
        condition(
            condition::SYNCED,
            "False",
            Reason::AccessDenied,
            1200,
            message,
        ),
    ]);
    status.failure = Some(crate::api::FailureStatus {
        reason: "AccessDenied".to_owned(),
        message: message.to_owned(),
        count: 1,
        last_time: crate::micro_time(at(1200)),
        retry_time: Some(crate::micro_time(at(1230))),
    });
    let expected = End {
        outcome: Outcome::Failed(Reason::AccessDenied),
        status: Some(status),
        transition: Some(Transition {
            reason: Reason::AccessDenied,
            message: message.to_owned(),
            is_failure: true,
        }),
        wake: Some(at(1230)),
    };
    assert_eq!(scene.end(), expected);
    let scene = again(scene.ended(), shared(Reason::AccessDenied, 7, 1700, 2660));
    assert_eq!(scene.end().wake, Some(at(1800)), "the expiry comes first");
    let scene = scene.ended().at(1800).reads_client().ended();
    assert_eq!(scene.ready(), is("False", Reason::TokenExpired));
    assert_eq!(scene.synced_state(), is("False", Reason::AccessDenied));
    assert_eq!(scene.reads_client().end().wake, Some(at(2660)));
}

#[test]
fn recovery_is_told_once() {
    let scene = refused(1, 1200, 1230).ended().at(1230);
    let scene = scene
        .reads_client()
        .asked(1230)
        .answered(Ok(held("second", 1230, 1800)));
    let (write, _) = scene.writes();
    let scene = scene.wrote(&write, 101);
    let told = scene.end().transition.expect("it is news");
    assert_eq!((told.reason, told.is_failure), (Reason::TokenSynced, false));
    let scene = scene.ended();
    assert_eq!(scene.status().failure, None);
    assert_eq!(scene.end().transition, None);
}

#[test]
fn waiting_is_quiet() {
    let outage = |count, when, retry| shared(Reason::InstanceUnavailable, count, when, retry);
    let scene = Scene::synced().at(1200).reads_client().asked(1200);
    let mut scene = scene.answered(Err(outage(1, 1200, 1201))).ended();
    // Each step: the failure, and whether it is worth a write.
    let steps = [
        (outage(2, 1201, 1203), true, "the count doubles"),
        (outage(3, 1203, 1207), false, "nothing of note"),
        (outage(4, 1207, 1215), true, "the count doubles"),
        (outage(5, 1215, 1231), false, "nothing of note"),
        (outage(6, 1231, 1320), true, "the wait exceeds a minute"),
        (
            shared(Reason::InstanceHibernating, 1, 1320, 1321),
            true,
            "the reason changes",
        ),
        (
            shared(Reason::InstanceHibernating, 1, 1320, 1321),
            false,
            "it is the same",
        ),
    ];
    for (failure, written, why) in steps {
        scene = again(scene, failure);
        assert_eq!(scene.settles().status.is_some(), written, "{why}");
        scene = scene.ended();
    }
}

#[test]
fn a_changed_spec_does_not_end_a_shared_refusal_but_a_changed_client_does() {
    let scene = refused(7, 1200, 3120).ended().at(1300);
    let changed = scene.clone().with_target(|target| {
        target.labels.insert("team".to_owned(), "a".to_owned());
    });
    assert!(changed.wants_to_read_client());
    let end = changed.reads_client().end();
    assert_eq!(end.outcome, Outcome::Failed(Reason::AccessDenied));
    assert_eq!(end.transition, None);
    let mut rotated = scene.client_changed(11).reads_client();
    rotated.exchange = Default::default();
    rotated.asks();
}

#[test]
fn the_renew_annotation_ends_a_wait_and_a_hold() {
    let scene = refused(7, 1200, 3120).ended().at(1300).renew_requested("a");
    assert!(scene.clone().reads_client().asks().forced);
    let held = scene.held_by(shared(Reason::RateLimited, 1, 1290, 4000));
    let asked = held.reads_client();
    assert!(asked.asks().forced);
    let refused = asked.asked(1300);
    let refused = refused.answered(Err(shared(Reason::RateLimited, 2, 1300, 4010)));
    let scene = refused.ended();
    assert_eq!(scene.status().handled_renew_request.as_deref(), Some("a"));
    assert_eq!(
        scene.reads_client().end().outcome,
        Outcome::Failed(Reason::RateLimited)
    );
}

#[test]
fn a_resource_held_by_anothers_outage_says_so() {
    let outage = shared(Reason::InstanceUnavailable, 3, 1198, 1206);
    let held = Scene::synced().at(1200).held_by(outage.clone());
    let end = held.reads_client().end();
    assert_eq!(end.outcome, Outcome::Failed(Reason::InstanceUnavailable));
    // It is woken to probe, or when the outage is over; the timer is for the day it is not.
    assert_eq!(end.wake, Some(at(1266)));
    let failure = end.status.unwrap().failure.unwrap();
    assert_eq!(failure.retry_time.unwrap().0, at(1206));
    assert_eq!(failure.message, outage.failure.message());
    // A resource that wants nothing is not concerned.
    let at_rest = Scene::synced().at(1199).held_by(outage).end();
    assert_eq!(at_rest.outcome, Outcome::Synced);
}

#[test]
fn a_token_at_hand_serves_while_the_whole_origin_is_held() {
    let limited = shared(Reason::RateLimited, 1, 1190, 4790);
    let due = Scene::synced().at(1200).held_by(limited.clone());
    assert!(due.wants_to_read_client(), "another may have brought one");
    due.clone()
        .holding(held("second", 600, 1800))
        .reads_client()
        .writes();
    // Nothing was at hand: that is not looked for again while the hold lasts.
    let nothing = due.reads_client().ended().at(1300);
    assert_eq!(nothing.end().outcome, Outcome::Failed(Reason::RateLimited));
    // The write of an answer has failed, and the origin is held since.
    let mut failed = Scene::synced().at(1200).reads_client().asked(1200);
    failed = failed.answered(Ok(held("second", 1200, 1800)));
    let refused = Failure::new(Reason::InternalError, "not now");
    let failed = failed.write_ended(WriteOutcome::Failed(refused)).ended();
    let failed = failed.held_by(shared(Reason::RateLimited, 1, 1200, 4800));
    failed.at(1202).reads_client().writes();
    // Somebody has touched the client Secret; its bytes are the same.
    let touched = Scene::synced().at(700).client_changed(11).held_by(limited);
    assert!(touched.wants_to_read_client());
    let same = touched.holding(held("first", 0, 1800)).reads_client();
    assert_eq!(same.end().outcome, Outcome::Synced);
}

#[test]
fn a_local_cause_waits_for_a_change_and_sends_nothing() {
    let mut scene = Scene::new();
    scene.client_seen = Seen::Absent;
    let missing = scene.end();
    assert_eq!(
        missing.outcome,
        Outcome::Failed(Reason::ClientSecretMissing)
    );
    assert_eq!(missing.wake, None);
    assert_eq!(missing.status.unwrap().failure.unwrap().retry_time, None);
    let mut scene = scene.ended();
    assert_eq!(scene.settles().status, None);
    scene.client_seen = Seen::Present(version("client-uid", 10));
    assert!(scene.wants_to_read_client());
    scene.client = Some(Err(Failure::new(Reason::ClientSecretInvalid, "no key")));
    let scene = scene.ended();
    assert_eq!(
        scene.synced_state(),
        is("False", Reason::ClientSecretInvalid)
    );
    assert_eq!(scene.ready(), is("False", Reason::ClientSecretInvalid));
}

#[test]
fn a_client_secret_that_is_gone_leaves_the_token_in_place() {
    let mut scene = Scene::synced();
    scene.client_seen = Seen::Absent;
    let scene = scene.ended();
    assert_eq!(scene.ready(), is("True", Reason::TokenValid));
    assert_eq!(
        scene.synced_state(),
        is("False", Reason::ClientSecretMissing)
    );
    assert_eq!(scene.end().wake, Some(at(1800)));
}

#[test]
fn a_write_that_fails_is_tried_again_with_the_token_in_hand() {
    let scene = Scene::new()
        .holding(held("first", 0, 1800))
        .reads_client()
        .at(1);
    let forbidden = Failure::new(Reason::PermissionDenied, "create secrets is forbidden");
    let scene = scene.write_ended(WriteOutcome::Failed(forbidden)).ended();
    assert_eq!(scene.synced_state(), is("False", Reason::PermissionDenied));
    let waiting = End {
        outcome: Outcome::Failed(Reason::PermissionDenied),
        status: None,
        transition: None,
        wake: Some(at(2)),
    };
    assert_eq!(scene.end(), waiting);
    scene.at(2).reads_client().writes();
}

#[test]
fn a_failure_whose_status_was_not_written_is_told_at_the_next_look() {
    let scene = Scene::synced().at(10).target_deleted().reads_client();
    let forbidden = Failure::new(Reason::PermissionDenied, "create secrets is forbidden");
    let scene = scene.write_ended(WriteOutcome::Failed(forbidden));
    let (lost, mut unwritten) = (scene.end(), scene.clone().ended());
    unwritten.credential.status = scene.credential.status;
    let end = unwritten.end();
    assert_eq!(end.status, lost.status);
    assert_eq!(end.transition, lost.transition);
}

#[test]
fn a_template_that_fails_after_a_rotation_is_not_taken_for_success() {
    let template = "{% if client_id == 'an-id' %}{{ 1 // 0 }}{% endif %}{{ token }}";
    let mut scene = Scene::synced().client_changed(11).with_target(|target| {
        target.data = Some([("token".to_owned(), template.to_owned())].into());
    });
    scene.memory.basis = scene
        .credential
        .spec
        .as_ref()
        .ok()
        .map(crate::decide::observed::CheckedSpec::basis);
    let scene = scene.reads_client().holding(held("second", 1, 1800));
    let scene = scene.ended();
    assert_eq!(scene.synced_state(), is("False", Reason::TemplateInvalid));
    assert!(
        scene.wants_to_read_client(),
        "the rotation is still to be served"
    );
}

#[test]
fn counts_go_on_by_cause_only() {
    let scene = Scene::new().reads_client();
    let forbidden = Failure::new(Reason::PermissionDenied, "forbidden");
    let scene = scene.holding(held("first", 0, 1800));
    let mut scene = scene
        .write_ended(WriteOutcome::Failed(forbidden))
        .ended()
        .at(2);
    scene.exchange = Default::default();
    assert_eq!(scene.reads_client().asks().failures, None);
}

#[test]
fn a_bug_is_said_backed_off_and_left_behind() {
    let scene = Scene::synced();
    let bug = Failure::new(Reason::InternalError, "a bug");
    let settle = crate::decide::fail(&scene.observed(), &bug);
    assert_eq!(settle.outcome, Outcome::Failed(Reason::InternalError));
    assert_eq!(settle.wake, Some(at(2)));
    let mut scene = scene;
    scene.credential.status = settle.status.unwrap();
    scene.memory = settle.memory;
    assert_eq!(scene.ready(), is("True", Reason::TokenValid));
    assert_eq!(scene.end().wake, Some(at(2)));
    let scene = scene.at(2).reads_client().ended();
    assert_eq!(scene.synced_state(), is("True", Reason::TokenSynced));
}

#[test]
fn a_refusal_is_not_the_first_again_for_what_the_cluster_comes_to_meanwhile() {
    let scene = refused(5, 1200, 1680).ended().restarted().at(1700);
    // The API server does not give the client Secret.
    let mut scene = scene;
    scene.client = Some(Err(Failure::new(Reason::InternalError, "not now")));
    let scene = scene.ended().at(1750);
    assert_eq!(scene.synced_state(), is("False", Reason::InternalError));
    let wish = scene.reads_client().asks();
    assert_eq!(wish.failures, Some((Class::Refused, 5)));
}

#[test]
fn a_resource_that_lost_its_secret_queues_with_the_new_ones() {
    let scene = Scene::synced().restarted().at(700).target_deleted();
    assert_eq!(scene.reads_client().asks().urgency, Urgency::New);
}

#[test]
fn a_token_at_hand_serves_after_a_failure_and_the_one_on_record_is_no_success() {
    let outage = shared(Reason::InstanceUnavailable, 1, 1201, 1202);
    let failed = Scene::synced().at(1201).held_by(outage);
    let failed = failed.reads_client().ended();
    let mut failed = failed.at(1203).reads_client();
    (failed.hold, failed.exchange) = (None, Exchange::default());
    failed.clone().holding(held("second", 1200, 1800)).writes();
    failed.holding(held("first", 0, 1800)).asks();
}

#[test]
fn a_token_that_could_not_be_written_is_written_later_whoever_asked_for_it() {
    let refused = || WriteOutcome::Failed(Failure::new(Reason::PermissionDenied, "forbidden"));
    let mut scene = Scene::synced()
        .at(700)
        .renew_requested("now")
        .reads_client();
    scene = scene.holding(held("second", 700, 1800));
    for second in [700, 702, 705] {
        scene = scene.at(second).reads_client();
        scene.writes();
        scene = scene.write_ended(refused()).ended();
    }
    // The person has been told of it, and nothing is due.
    let handled = scene.status().handled_renew_request.clone();
    assert_eq!(handled.as_deref(), Some("now"));
    scene.at(720).reads_client().writes();
}

#[test]
fn a_wait_that_is_shared_by_key_is_as_long_as_the_expiry_of_whoever_waits_allows() {
    // Others with the same client have tokens that end later.
    let garbled = |reason| shared(reason, 9, 1780, 1838);
    let answered = |reason| {
        let scene = Scene::synced().at(1780).reads_client().asked(1779);
        scene.answered(Err(garbled(reason))).ended()
    };
    let scene = answered(Reason::InvalidResponse);
    let told = scene.credential.status.failure.as_ref().unwrap();
    assert_eq!(told.retry_time.as_ref().unwrap().0, at(1782));
    assert_eq!(
        scene.clone().at(1781).reads_client().end().wake,
        Some(at(1782))
    );
    scene.at(1782).reads_client().asks();
    let refused = answered(Reason::AccessDenied).at(1782).reads_client();
    assert_eq!(refused.end().outcome, Outcome::Failed(Reason::AccessDenied));
}

#[test]
fn another_client_begins_anew() {
    let scene = refused(5, 1200, 1680).ended().client_changed(11);
    let mut scene = scene.at(1300).reads_client();
    scene.exchange = Exchange::default();
    assert_eq!(scene.asks().failures, None);
}

#[test]
fn a_round_whose_write_has_failed_asks_for_nothing_more() {
    // The token is at hand when the write begins, and due when it has failed.
    let scene = Scene::new()
        .reads_client()
        .holding(held("first", 0, 10))
        .at(1);
    scene.writes();
    let failure = Failure::new(Reason::InternalError, "not now");
    let end = scene.at(9).write_ended(WriteOutcome::Failed(failure)).end();
    assert_eq!(end.outcome, Outcome::Failed(Reason::InternalError));
}

#[test]
fn what_was_suspended_amid_a_failure_recovers_from_it_afterwards() {
    let scene = refused(1, 1200, 1230).ended().at(1210);
    let scene = scene.with_spec(|spec| spec.suspend = Some(true));
    assert_eq!(scene.end().transition, None);
    let scene = scene.ended().with_spec(|spec| spec.suspend = None);
    let scene = scene.at(1240).holding(held("second", 1239, 1800));
    let scene = scene.reads_client();
    let (write, _) = scene.writes();
    let recovered = scene.wrote(&write, 101).end().transition.unwrap();
    assert_eq!(
        (recovered.reason, recovered.is_failure),
        (Reason::TokenSynced, false)
    );
}

#[test]
fn a_renewal_that_still_queues_goes_before_new_resources_when_its_token_is_about_to_end() {
    let renewal = Urgency::Renewal(at(1800));
    let scene = Scene::synced().at(1619).reads_client().asked(1200);
    let mut scene = scene;
    scene.exchange.queued = Some(renewal);
    assert_eq!(
        scene.end().wake,
        Some(at(1620) + SignedDuration::from_micros(1))
    );
    let urgent = Urgency::Expiring(at(1800));
    let scene = scene.at(1621);
    assert_eq!(scene.asks().urgency, urgent);
    let mut asked = scene;
    asked.exchange.queued = Some(urgent);
    assert_eq!(asked.end().outcome, Outcome::Waiting);
    asked.exchange.queued = None;
    assert_eq!(asked.end().outcome, Outcome::Waiting, "it is on its way");
}

#[test]
fn an_event_whose_status_was_written_unheard_is_told_afterwards_and_once() {
    let scene = refused(1, 1200, 1230);
    let mut unheard = scene.settles();
    let told = unheard.transition.clone();
    let status = unheard.status.clone().unwrap();
    unheard.status_unwritten(at(1200));
    // The write took effect all the same, and the watch brings it.
    let mut scene = scene.ended().at(1201).reads_client();
    scene.credential.status = status;
    scene.memory = unheard.memory;
    assert!(told.is_some());
    let end = scene.end();
    assert_eq!((end.status, end.transition), (None, told));
    assert_eq!(scene.ended().reads_client().end().transition, None);
}

#[test]
fn a_renewal_that_was_asked_for_outlives_a_moment_without_the_kubernetes_api() {
    let mut scene = Scene::synced().renew_requested("now");
    for count in 1..=3 {
        let away = Failure::new(Reason::InternalError, "the API server is away");
        scene.client = Some(Err(away));
        scene = scene.ended();
        let handled = scene.status().handled_renew_request.is_some();
        assert_eq!(
            handled,
            count == 3,
            "failure {count}: whoever waits is told in the end"
        );
    }
}

#[test]
fn a_refusal_is_not_the_first_again_after_a_rate_limit_that_another_process_met() {
    let scene = refused(7, 1200, 3120).ended().restarted();
    let limited = shared(Reason::RateLimited, 1, 3125, 4000);
    let mut scene = scene.at(3130).held_by(limited).reads_client().ended();
    assert_eq!(scene.synced_state(), is("False", Reason::RateLimited));
    scene.hold = None;
    scene.exchange = Default::default();
    let wish = scene.at(4001).reads_client().asks();
    assert_eq!((wish.failures, wish.refusals), (Some((Class::Held, 1)), 7));
}
