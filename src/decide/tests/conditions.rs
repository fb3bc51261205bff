//! What the conditions say, and when they change.

use super::scene::*;
use crate::{
    api::{Reason, condition},
    decide::{Failure, Outcome, Seen},
};

fn suspended(scene: Scene) -> Scene {
    scene.with_spec(|spec| spec.suspend = Some(true))
}

#[test]
fn suspended_neither_asks_nor_writes_and_ready_turns_false_at_expiry() {
    let scene = suspended(Scene::synced())
        .target_deleted()
        .renew_requested("a");
    let end = scene.clone().at(2).end();
    assert_eq!(end.outcome, Outcome::Idle);
    assert_eq!(end.wake, Some(at(1800)));
    let kept = suspended(Scene::synced()).ended();
    assert_eq!(kept.ready(), is("True", Reason::TokenValid));
    assert_eq!(kept.synced_state(), is("Unknown", Reason::Suspended));
    for second in [2, 1199, 1200, 1799] {
        let end = kept.clone().at(second).end();
        assert_eq!(
            (end.status, end.wake),
            (None, Some(at(1800))),
            "second {second}"
        );
    }
    let expired = kept.at(1800).ended();
    assert_eq!(expired.ready(), is("False", Reason::TokenExpired));
    assert_eq!(expired.end().wake, None);
    assert_eq!(
        scene.ended().status().handled_renew_request,
        None,
        "the annotation waits"
    );
}

#[test]
fn a_suspended_resource_without_a_token_waits_without_a_word_of_failure() {
    let scene = suspended(Scene::new()).ended();
    assert_eq!(scene.ready(), is("Unknown", Reason::Pending));
    assert_eq!(scene.synced_state(), is("Unknown", Reason::Suspended));
    assert_eq!(scene.status().failure, None);
}

#[test]
fn what_was_suspended_goes_on_where_it_was() {
    let scene = suspended(Scene::synced()).ended();
    let scene = scene.with_spec(|spec| spec.suspend = None);
    let end = scene.end();
    assert_eq!((end.outcome, end.wake), (Outcome::Synced, Some(at(1200))));
    assert_eq!(end.transition, None);
}

#[test]
fn ready_does_not_flap_while_a_request_at_the_expiry_is_young() {
    let scene = Scene::synced().at(1800).reads_client().asked(1800);
    let waiting = End {
        outcome: Outcome::Waiting,
        status: None,
        transition: None,
        wake: Some(at(1805)),
    };
    assert_eq!(scene.end(), waiting);
    assert_eq!(scene.clone().at(1804).end(), waiting);
    let late = scene.clone().at(1805).ended();
    assert_eq!(late.ready(), is("False", Reason::TokenExpired));
    assert_eq!(late.synced_state(), is("True", Reason::TokenSynced));
    // An attempt that failed after the expiry turns it too, and the next attempt does not turn it
    // back.
    let failure = shared(Reason::InstanceUnavailable, 1, 1801, 1802);
    let failed = scene.answered(Err(failure)).at(1801).ended();
    assert_eq!(failed.ready(), is("False", Reason::TokenExpired));
    let mut next = failed.at(1802).reads_client();
    next.asks();
    next = next.asked(1802);
    assert_eq!(next.settles().status, None);
}

#[test]
fn what_a_clock_ahead_has_told_makes_no_attempt_younger_and_no_wait_longer() {
    let mut scene = Scene::synced();
    let status = scene.credential.status.clone();
    // The token is over at 1200 by the clock as it is now.
    scene.memory.clock_set_back(seconds(600), &status);
    let asked = scene.at(1190).reads_client().asked(1190);
    assert_eq!(asked.end().wake, Some(at(1200)), "it presses more then");
    let young = asked.clone().at(1200).end();
    assert_eq!(young.wake, Some(at(1205)));
    let late = asked.clone().at(1205).ended();
    assert_eq!(late.ready(), is("False", Reason::TokenExpired));
    let mut unread = asked;
    for _ in 0..9 {
        let away = Failure::new(Reason::InternalError, "The API server is away.");
        unread.client = Some(Err(away));
        unread.asked_at = None;
        let wake = unread.end().wake;
        unread = unread.ended();
        assert!(wake <= Some(at(1192)), "{wake:?}");
    }
}

#[test]
fn a_token_that_expired_while_the_operator_was_away_is_young_news_too() {
    let scene = Scene::synced()
        .restarted()
        .at(9000)
        .reads_client()
        .asked(9000);
    let end = scene.end();
    assert_eq!((end.status, end.wake), (None, Some(at(9005))));
    assert_eq!(
        scene.at(9005).ended().ready(),
        is("False", Reason::TokenExpired)
    );
}

#[test]
fn an_answer_that_takes_its_time_is_pending_after_five_seconds() {
    let scene = Scene::new().reads_client().asked(0).at(5);
    let end = scene.end();
    assert_eq!((end.outcome, end.wake), (Outcome::Waiting, None));
    assert_eq!(end.transition, None);
    let scene = scene.ended();
    assert_eq!(scene.ready(), is("Unknown", Reason::Pending));
    assert_eq!(scene.synced_state(), is("Unknown", Reason::Pending));
    assert_eq!(scene.reads_client().asked(0).settles().status, None);
}

#[test]
fn last_transition_time_moves_only_with_the_status() {
    let since = |scene: &Scene| {
        let conditions = &scene.status().conditions;
        conditions
            .iter()
            .map(|c| c.last_transition_time.0)
            .collect::<Vec<_>>()
    };
    let renewed = |scene: Scene, when: i64, token: &str| {
        let scene = scene.at(when).reads_client().asked(when);
        let scene = scene.answered(Ok(held(token, when, 1800)));
        let (write, _) = scene.writes();
        scene.wrote(&write, u32::try_from(when).unwrap()).ended()
    };
    let scene = renewed(Scene::synced(), 1200, "second");
    assert_eq!(
        since(&scene),
        [at(0), at(0)],
        "the message is new, the status is not"
    );
    let refused = shared(Reason::AccessDenied, 1, 2400, 2430);
    let scene = scene
        .at(2400)
        .reads_client()
        .asked(2400)
        .answered(Err(refused))
        .ended();
    assert_eq!(since(&scene), [at(0), at(2400)]);
    let down = shared(Reason::InstanceUnavailable, 1, 2430, 2431);
    let scene = scene
        .at(2430)
        .reads_client()
        .asked(2430)
        .answered(Err(down))
        .ended();
    assert_eq!(
        since(&scene),
        [at(0), at(2400)],
        "the reason is new, the status is not"
    );
    let mut scene = renewed(scene, 2431, "third");
    assert_eq!(since(&scene), [at(0), at(2431)]);
    let ready = scene.status().conditions[0].clone();
    assert_eq!(ready.type_, condition::READY);
    // Half a second is a second in the API.
    scene.now = at(4231) + jiff::SignedDuration::from_millis(500);
    let scene = scene.with_spec(|spec| spec.suspend = Some(true)).ended();
    assert_eq!(since(&scene)[0], at(4231));
}

#[test]
fn ready_is_false_where_the_secret_is_gone_and_true_where_nobody_can_tell() {
    let failure = shared(Reason::InstanceUnavailable, 1, 1200, 1201);
    let scene = Scene::synced().at(1200).held_by(failure);
    let mut gone = scene.clone().target_deleted().reads_client();
    gone.exchange.held = None;
    assert_eq!(
        gone.ended().ready(),
        is("False", Reason::InstanceUnavailable)
    );
    let mut unknown = scene;
    unknown.target_seen = Seen::Unknown;
    unknown.client_seen = Seen::Absent;
    assert_eq!(unknown.ended().ready(), is("True", Reason::TokenValid));
}

#[test]
fn margins_that_do_not_fit_and_whitespace_are_mentioned() {
    let mut scene = Scene::new().holding(held("first", 0, 300)).reads_client();
    if let Some(Ok(client)) = &mut scene.client {
        client.trimmed = true;
    }
    let scene = scene.with_spec(|spec| {
        spec.renewal = Some(crate::api::Renewal {
            renew_before: Some("10s".to_owned()),
            renew_before_percentage: None,
        });
    });
    let (write, _) = scene.writes();
    let scene = scene.wrote(&write, 100).ended();
    let message = &scene.status().conditions[1].message;
    let expected = "The Secret is as the spec says; the token is renewed at \
         2027-01-15T08:04:30.000000Z. The wanted renewal margin does not fit the token's lifetime \
         of 300 s; it is kept within 10 to 80 % of it. The margin is 30 s, and kubelets take about \
         a minute to bring a Secret's change to files: give the client a longer token lifetime, or \
         renew earlier with spec.renewal. The client id or secret in the Secret \"client\" had \
         whitespace around it, which was taken off.";
    assert_eq!(message, expected);
    assert_eq!(scene.at(2).end().status, None, "and the note stays");
}

#[test]
fn how_much_a_clock_was_set_back_in_all_is_not_forgotten_for_the_last_time() {
    let mut scene = Scene::synced();
    for _ in 0..2 {
        let status = scene.credential.status.clone();
        scene.memory.clock_set_back(seconds(60), &status);
    }
    // A round that began between the two has recorded the same token.
    scene.memory.distrust(at(0), seconds(60));
    assert_eq!(scene.memory.distrusted, Some((at(0), seconds(120))));
    scene.memory.distrust(at(1), seconds(60));
    assert_eq!(scene.memory.distrusted, Some((at(1), seconds(60))));
}
