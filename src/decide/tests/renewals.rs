//! When a token is asked for, and when not.

use std::sync::Arc;

use jiff::SignedDuration;

use super::scene::*;
use crate::{
    api::{Reason, Renewal, ServiceNowCredentialStatus, condition},
    decide::{
        Outcome, Seen, Wish, backoff,
        observed::Version,
        ownership::{EXPIRES_AT, ISSUED_AT},
    },
    micro_time,
    servicenow::{Known, Urgency},
};

fn known_first() -> Option<Known> {
    let held = held("first", 0, 1800);
    Some(Known {
        sha256: held.sha256,
        validity: held.validity,
    })
}

#[test]
fn a_new_resource_reads_its_client_asks_and_waits() {
    let scene = Scene::new();
    assert!(scene.wants_to_read_client());
    let wish = Wish {
        urgency: Urgency::New,
        known: None,
        not_before: None,
        good_before: false,
        failures: None,
        refusals: 0,
        forced: false,
    };
    assert_eq!(scene.clone().reads_client().asks(), wish);
    let end = End {
        outcome: Outcome::Waiting,
        status: None,
        transition: None,
        wake: Some(at(5)),
    };
    assert_eq!(scene.reads_client().asked(0).end(), end);
}

#[test]
fn the_first_token_is_written_and_told() {
    let scene = Scene::new().reads_client().asked(0).at(1);
    let scene = scene.answered(Ok(held("first", 0, 1800)));
    let (write, put_back) = scene.writes();
    assert!(!put_back);
    let end = scene.clone().wrote(&write, 100).end();
    let ready =
        "The Secret \"itsm\" holds a token that is valid until 2027-01-15T08:30:00.000000Z.";
    let synced =
        "The Secret is as the spec says; the token is renewed at 2027-01-15T08:20:00.000000Z.";
    let conditions = [
        condition(condition::READY, "True", Reason::TokenValid, 1, ready),
        condition(condition::SYNCED, "True", Reason::TokenSynced, 1, synced),
    ];
    let status = ServiceNowCredentialStatus {
        token: Some(crate::api::TokenStatus {
            issued_at: micro_time(at(0)),
            expires_at: micro_time(at(1800)),
            renewal_time: micro_time(at(1200)),
            scope: Some("useraccount".to_owned()),
            sha256: Some(held("first", 0, 1800).sha256),
        }),
        target: Some(crate::api::TargetStatus {
            name: "itsm".to_owned(),
            uid: "itsm-secret-uid".to_owned(),
            resource_version: "100".to_owned(),
            creation_policy: crate::api::CreationPolicy::Owner,
            sha256: write.desired().data.sha256().to_owned(),
        }),
        observed: vec![crate::api::ObservedObject {
            kind: "Secret".to_owned(),
            name: "client".to_owned(),
            uid: "client-uid".to_owned(),
            resource_version: "10".to_owned(),
        }],
        ..scene.status_with(conditions)
    };
    let expected = End {
        outcome: Outcome::Synced,
        status: Some(status),
        transition: None,
        wake: Some(at(1200)),
    };
    assert_eq!(end, expected);
}

fn at_rest_until(second: i64) -> End {
    End {
        outcome: Outcome::Synced,
        status: None,
        transition: None,
        wake: Some(at(second)),
    }
}

#[test]
fn an_operator_restart_with_valid_tokens_does_nothing() {
    assert_eq!(Scene::synced().end(), at_rest_until(1200));
    assert_eq!(Scene::synced().restarted().end(), at_rest_until(1200));
    let late = Scene::synced().restarted().at(1199);
    assert_eq!(late.end(), at_rest_until(1200));
}

#[test]
fn what_is_overdue_after_a_restart_is_asked_for_at_once() {
    let scene = Scene::synced().restarted().at(1200);
    assert!(scene.wants_to_read_client());
    let mut wish = Wish {
        urgency: Urgency::Renewal(at(1800)),
        known: known_first(),
        not_before: None,
        good_before: true,
        failures: None,
        refusals: 0,
        forced: false,
    };
    assert_eq!(scene.clone().reads_client().asks(), wish);
    wish.urgency = Urgency::Expiring(at(1800));
    assert_eq!(scene.at(1621).reads_client().asks(), wish);
}

#[test]
fn a_rotated_client_secret_is_used_at_once() {
    let scene = Scene::synced().client_changed(11);
    assert!(scene.wants_to_read_client());
    // The new bytes are another key, of which nothing is in memory.
    let mut scene = scene.reads_client();
    scene.exchange = Default::default();
    assert_eq!(scene.asks().urgency, Urgency::Renewal(at(1800)));
    let scene = scene.asked(1).answered(Ok(held("second", 1, 1800)));
    let (write, put_back) = scene.writes();
    assert!(!put_back);
    let scene = scene.wrote(&write, 101).ended();
    assert_eq!(scene.status().observed[0].resource_version, "11");
    let token = scene.status().token.clone().unwrap();
    assert_eq!(token.sha256, Some(held("second", 1, 1800).sha256));
    assert_eq!(scene.end(), at_rest_until(1201));
}

#[test]
fn the_same_bytes_under_a_new_resource_version_cost_no_request() {
    let scene = Scene::synced().client_changed(11).reads_client();
    let mut status = scene.status().clone();
    status.observed[0].resource_version = "11".to_owned();
    let expected = End {
        status: Some(status),
        ..at_rest_until(1200)
    };
    assert_eq!(scene.end(), expected);
    assert_eq!(scene.ended().end(), at_rest_until(1200));
}

#[test]
fn a_crash_between_secret_and_status_adopts_what_the_secret_says() {
    let mut scene = Scene::new().at(2);
    scene.target_seen = Seen::Present(version("itsm-secret-uid", 100));
    assert!(scene.wants_to_read_target());
    let scene = scene.reads_target(first_secret(100));
    let mut status = Scene::synced().status().clone();
    if let Some(token) = &mut status.token {
        token.scope = None;
    }
    for condition in &mut status.conditions {
        condition.last_transition_time.0 = at(2);
    }
    let expected = End {
        status: Some(status),
        ..at_rest_until(1200)
    };
    assert_eq!(scene.end(), expected);
}

#[test]
fn what_a_process_that_died_wrote_last_is_adopted_by_one_that_saw_it_late() {
    // It began with what was there before, and found all well.
    let mut scene = Scene::synced().restarted().at(1000).ended();
    let mut renewed = first_secret(102);
    let time = crate::decide::ownership::timestamp;
    for (annotation, second) in [(ISSUED_AT, 1201), (EXPIRES_AT, 3001)] {
        let annotation = annotation.to_owned();
        renewed.annotations.insert(annotation, time(at(second)));
    }
    scene.target_seen = Seen::Present(version("itsm-secret-uid", 102));
    let scene = scene.at(1202).reads_target(renewed);
    let end = scene.end();
    assert_eq!(end.outcome, Outcome::Synced);
    let token = end.status.unwrap().token.unwrap();
    assert_eq!(
        (token.issued_at.0, token.expires_at.0),
        (at(1201), at(3001))
    );
}

#[test]
fn a_secret_that_tells_of_a_success_after_the_failure_on_record_ends_it() {
    let limited = shared(Reason::RateLimited, 1, 1200, 4800);
    let scene = Scene::synced().at(1200).reads_client().asked(1200);
    let scene = scene.answered(Err(limited.clone())).ended();
    let expired = scene.at(1800).held_by(limited.clone()).ended();
    assert_eq!(expired.ready(), is("False", Reason::TokenExpired));
    // The Secret was created anew with a token, and then the process died.
    let mut renewed = first_secret(102);
    renewed.version.uid = "another-uid".to_owned();
    for (annotation, second) in [(ISSUED_AT, 1900), (EXPIRES_AT, 3700)] {
        let told = crate::decide::ownership::timestamp(at(second));
        renewed.annotations.insert(annotation.to_owned(), told);
    }
    let scene = expired.restarted().at(1901).held_by(limited);
    let scene = scene.reads_target(renewed).ended();
    assert_eq!(scene.ready(), is("True", Reason::TokenValid));
    assert_eq!(scene.synced_state(), is("True", Reason::TokenSynced));
    assert_eq!(scene.status().failure, None);
}

#[test]
fn a_secret_that_was_written_for_another_spec_is_not_adopted() {
    // It was written for the first generation, and its status was lost; the second one has failed
    // so far, and its status says so.
    let mut scene = Scene::new().with_spec(|spec| spec.instance = "dev2".to_owned());
    scene.client_seen = Seen::Absent;
    let mut scene = scene.ended().at(2);
    scene.client_seen = Seen::Present(version("client-uid", 10));
    let scene = scene.reads_target(first_secret(100));
    assert!(scene.wants_to_read_client());
    assert_eq!(scene.reads_client().asks().known, None);
}

#[test]
fn a_secret_that_claims_the_impossible_is_not_believed() {
    for (issued, expires) in [(3, 99_999), (1, 1)] {
        let mut target = first_secret(101);
        let time = crate::decide::ownership::timestamp;
        target
            .annotations
            .insert(ISSUED_AT.to_owned(), time(at(issued)));
        target
            .annotations
            .insert(EXPIRES_AT.to_owned(), time(at(expires)));
        let scene = Scene::synced().at(2).reads_target(target).reads_client();
        let (_, put_back) = scene.writes();
        assert!(put_back);
    }
}

#[test]
fn the_renew_annotation_is_answered_once() {
    let scene = Scene::synced().at(100).renew_requested("now, please");
    assert!(scene.wants_to_read_client());
    let scene = scene.reads_client();
    assert!(scene.asks().forced);
    let scene = scene.asked(100).answered(Ok(held("second", 100, 1800)));
    let (write, _) = scene.writes();
    let scene = scene.wrote(&write, 101).ended();
    let handled = scene.status().handled_renew_request.as_deref();
    assert_eq!(handled, Some("now, please"));
    assert_eq!(scene.end(), at_rest_until(1300));
    assert_eq!(scene.restarted().end(), at_rest_until(1300));
}

#[test]
fn a_forced_renewal_takes_only_a_later_answer() {
    let scene = Scene::synced().at(100).renew_requested("a").reads_client();
    let early = scene.clone().holding(held("second", 80, 1800));
    assert!(early.asks().forced);
    let late = scene.clone().holding(held("second", 100, 1800));
    late.writes();
    // Another's request, under way since before, is joined, and its answer is not enough.
    let joined = scene.asked(100).answered(Ok(held("second", 94, 1800)));
    assert!(joined.asks().forced);
}

#[test]
fn a_forced_renewal_waits_out_the_least_interval() {
    let scene = Scene::synced().at(100).renew_requested("a").reads_client();
    let mut scene = scene.holding(held("second", 99, 1800));
    scene.exchange.not_before = Some(at(104));
    let expected = End {
        outcome: Outcome::Waiting,
        status: None,
        transition: None,
        wake: Some(at(104)),
    };
    assert_eq!(scene.end(), expected);
    assert!(scene.at(104).asks().forced);
}

#[test]
fn a_request_for_renewal_that_came_in_the_middle_of_a_round_is_not_taken_for_answered() {
    let mut scene = Scene::synced().at(1200).reads_client().asked(1200);
    scene.credential.renew_request = Some("later".to_owned());
    let scene = scene.answered(Ok(held("second", 1200, 1800)));
    let (write, _) = scene.writes();
    let scene = scene.wrote(&write, 101).ended();
    assert_eq!(scene.status().handled_renew_request, None);
    assert!(
        scene
            .at(1201)
            .renew_requested("later")
            .wants_to_read_client()
    );
}

#[test]
fn a_token_kept_until_expiry_is_asked_for_at_expiry_only_and_prepared_for_just_before() {
    let mut same = held("first", 0, 1800);
    same.sent_at = at(1200);
    same.kept = true;
    let scene = Scene::synced().at(1200).reads_client().asked(1200);
    let scene = scene.answered(Ok(same)).ended();
    let token = scene.status().token.clone().unwrap();
    assert_eq!(token.renewal_time.0, at(1800));
    assert_eq!(scene.end(), at_rest_until(1798));
    assert_eq!(scene.clone().at(1797).end(), at_rest_until(1798));
    let prepared = scene.clone().at(1798);
    assert!(prepared.wants_to_read_client());
    assert_eq!(
        prepared.reads_client().asks().not_before,
        Some(at(1800)),
        "everything is ready, and nothing is sent before the expiry"
    );
    let waiting = scene.clone().at(1799).reads_client().asked(1798);
    assert_eq!(waiting.end().status, None, "Ready does not flap");
    assert_eq!(waiting.at(1804).end().status, None, "not yet");
    assert!(scene.at(1800).reads_client().asks().urgency < Urgency::New);
}

#[test]
fn that_a_token_is_kept_is_told_again_where_the_status_that_told_so_was_not_written() {
    let mut same = held("first", 0, 1800);
    same.sent_at = at(500);
    same.kept = true;
    let scene = Scene::synced().at(500).renew_requested("now");
    let mut told = scene.reads_client().asked(500).answered(Ok(same));
    let mut settle = told.settles();
    let status = settle.status.take();
    settle.status_unwritten(told.now);
    told.memory = settle.memory;
    told.credential.renew_request = None;
    told.client = None;
    let end = told.at(502).end();
    let token = |status: &ServiceNowCredentialStatus| status.token.clone();
    assert_eq!(
        end.status.as_ref().map(token),
        status.as_deref().map(token),
        "it is told again"
    );
    assert_eq!(end.wake, Some(at(1798)));
}

#[test]
fn a_token_that_did_not_move_is_asked_for_when_it_is_due_and_after_that_at_its_expiry_only() {
    // The answer came too soon after the last one to tell whether the token is kept.
    let unmoved = |asked| {
        let mut same = held("first", 0, 1800);
        same.sent_at = at(asked);
        let scene = Scene::synced().at(asked).renew_requested("now");
        let scene = scene.reads_client().asked(asked).answered(Ok(same));
        let token = scene.ended().status().token.clone();
        token.unwrap().renewal_time.0
    };
    assert_eq!(unmoved(2), at(1200));
    assert_eq!(unmoved(1200), at(1800));
}

#[test]
fn a_moved_expiry_is_written_and_an_unmoved_one_is_not() {
    let scene = Scene::synced().at(1200).reads_client().asked(1200);
    let mut moved = held("first", 1200, 1800);
    moved.sent_at = at(1200);
    let (write, put_back) = scene.clone().answered(Ok(moved)).writes();
    assert!(!put_back);
    let scene = scene
        .wrote(&write, 101)
        .answered(Ok(held("first", 1200, 1800)));
    let scene = scene.ended();
    assert_eq!(
        scene.status().token.as_ref().unwrap().expires_at.0,
        at(3000)
    );
    assert_eq!(scene.end(), at_rest_until(2400));
}

#[test]
fn a_token_in_memory_serves_whom_it_is_not_due_for() {
    let scene = Scene::new().at(1100).reads_client();
    scene.clone().holding(held("shared", 0, 1800)).writes();
    let due = scene.at(1200).holding(held("shared", 0, 1800));
    assert_eq!(due.asks().urgency, Urgency::New);
}

#[test]
fn jitter_does_not_make_a_token_due_that_is_taken_over_late_in_its_life() {
    let mut scene = Scene::new().at(1190).holding(held("shared", 0, 1800));
    scene.random = 0.9;
    let scene = scene.reads_client();
    let (write, _) = scene.writes();
    assert_eq!(scene.wrote(&write, 100).end().wake, Some(at(1200)));
}

#[test]
fn another_margin_moves_the_renewal_without_a_request() {
    let renewal = |before: &str| {
        Some(Renewal {
            renew_before: Some(before.to_owned()),
            renew_before_percentage: None,
        })
    };
    let scene = Scene::synced().with_spec(|spec| spec.renewal = renewal("20m"));
    let scene = scene.at(10).ended();
    assert_eq!(scene.end(), at_rest_until(600));
    // A margin that is over already is due now, and not after a look at the clock.
    let scene = scene
        .at(500)
        .with_spec(|spec| spec.renewal = renewal("24m"));
    assert!(scene.wants_to_read_client());
}

#[test]
fn a_token_that_is_due_when_it_comes_is_not_asked_for_in_the_same_breath() {
    let scene = Scene::new().at(2).reads_client().asked(0);
    let scene = scene.answered(Ok(held("short", 0, 3)));
    let (write, _) = scene.writes();
    let end = scene.wrote(&write, 100).end();
    assert_eq!(end.wake, Some(at(2) + SignedDuration::from_millis(200)));
}

#[test]
fn a_request_that_others_have_under_way_is_joined() {
    // The exchange names a request only to those whom its answer wakes.
    let scene = Scene::synced().at(1200).reads_client();
    assert_eq!(scene.exchange.asked_at, None);
    scene.asks();
}

#[test]
fn times_at_the_end_of_the_calendar_do_no_harm() {
    let mut scene = Scene::synced();
    let status = Arc::make_mut(&mut scene.credential.status);
    status.token.as_mut().unwrap().expires_at = micro_time(jiff::Timestamp::MAX);
    scene.client_seen = Seen::Present(Version {
        uid: "another".to_owned(),
        resource_version: "1".to_owned(),
    });
    assert!(scene.clone().wants_to_read_client());
    scene.exchange.held = None;
    assert_eq!(
        scene.reads_client().asked(0).end().outcome,
        Outcome::Waiting
    );
    let attempt = backoff::Attempt {
        class: crate::decide::Class::Outage,
        count: u32::MAX,
        retry_after: None,
        expires_at: Some(jiff::Timestamp::MAX),
        random: 1.0,
    };
    let last = jiff::Timestamp::MAX;
    assert!(backoff::retry_at(&attempt, last).unwrap() <= last);
}
