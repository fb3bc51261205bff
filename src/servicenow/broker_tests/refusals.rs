//! Refusals: shared by key, backed off, and over before their time.

use super::*;
use crate::{
    decide::{Class, renewal::Validity},
    servicenow::Known,
};

#[test]
fn refusals_are_shared_by_key_and_back_off_from_half_a_minute_to_an_hour() {
    let mut desk = Desk::new();
    let (mut now, mut waits) = (at(0), Vec::new());
    for _ in 0..9 {
        desk.ask_and(now, failure(Reason::AccessDenied));
        let seen_by_another = desk.broker.exchange(&desk.key, &name("b")).failure;
        assert_eq!(seen_by_another, desk.exchange().failure);
        waits.push(desk.wait(now));
        now = desk.exchange().failure.unwrap().retry_at;
    }
    assert_eq!(waits, [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
}

#[test]
fn a_count_that_a_status_remembers_goes_on_for_the_same_cause_only() {
    let waits = |class, answer| {
        let mut desk = Desk::new();
        let ask = Ask {
            failures: Some((class, 6)),
            ..wish("a")
        };
        desk.broker.ask(&desk.key.clone(), ask, at(0));
        desk.send_and(at(0), answer);
        desk.wait(at(0))
    };
    assert_eq!(waits(Class::Refused, failure(Reason::AccessDenied)), 1920);
    assert_eq!(waits(Class::Outage, failure(Reason::AccessDenied)), 30);
    assert_eq!(
        waits(Class::Outage, failure(Reason::InstanceUnavailable)),
        60
    );
    assert_eq!(
        waits(Class::Refused, failure(Reason::InstanceUnavailable)),
        1
    );
    assert_eq!(waits(Class::Outage, limited(None)), 30);
}

#[test]
fn a_first_refusal_among_good_answers_is_tried_once_more_after_a_second_and_nobody_is_told() {
    let mut desk = Desk::with("t");
    assert_eq!(desk.ask_and(at(1200), failure(Reason::AccessDenied)), []);
    assert_eq!(desk.exchange().failure, None);
    assert_eq!(desk.broker.dispatch(ms(1_200_999)), []);
    assert_eq!(desk.broker.next_dispatch(at(1200)), Some(at(1201)));
    let woken = desk.send_and(at(1201), failure(Reason::AccessDenied));
    assert_eq!(woken, [name("a")], "the second one counts");
    assert_eq!(desk.wait(at(1201)), 30);
    // The next good answer makes the next refusal a first one again.
    desk.ask_and(at(1300), answer("u", Some(1800)));
    assert_eq!(desk.ask_and(at(2500), failure(Reason::AccessDenied)), []);
}

#[test]
fn a_refusal_that_names_a_lasting_cause_is_not_tried_once_more() {
    let mut desk = Desk::with("t");
    let lasting = Failure::new(Reason::AccessDenied, "HTTP 400: unauthorized_client");
    assert_eq!(desk.ask_and(at(1200), Err(lasting)), [name("a")]);
    assert_eq!(desk.wait(at(1200)), 30);
}

#[test]
fn a_refusal_of_a_client_that_was_never_good_counts_at_once() {
    let mut desk = Desk::new();
    assert_eq!(
        desk.ask_and(at(0), failure(Reason::AccessDenied)),
        [name("a")]
    );
}

#[test]
fn a_refusal_after_a_rotation_counts_at_once_and_one_after_a_restart_is_tried_once_more() {
    let known = Known {
        sha256: AccessToken::parse("t").unwrap().sha256(),
        validity: Validity {
            issued_at: at(-600),
            expires_at: at(1200),
        },
    };
    for (good_before, woken) in [(false, vec![name("a")]), (true, vec![])] {
        let mut desk = Desk::new();
        let ask = Ask {
            known: Some(known.clone()),
            good_before,
            ..wish("a")
        };
        desk.broker.ask(&desk.key.clone(), ask, at(0));
        assert_eq!(desk.send_and(at(0), failure(Reason::AccessDenied)), woken);
    }
}

#[test]
fn those_who_sleep_over_a_refusal_wake_when_it_is_over_before_its_time() {
    let mut desk = Desk::new();
    desk.ask_and(at(0), failure(Reason::AccessDenied));
    let key = desk.key.clone();
    desk.broker.tell_of_failure(&key, &name("asleep"));
    let forced = Ask {
        forced: true,
        ..wish("b")
    };
    desk.broker.ask(&key, forced, at(5));
    let woken = desk.send_and(at(5), answer("t", Some(1800)));
    assert_eq!(woken, ["a", "asleep", "b"].map(name));
    assert_eq!(
        desk.ask_and(at(9), answer("u", Some(1800))),
        [name("a")],
        "once"
    );
}

#[test]
fn a_refusal_is_not_the_first_again_after_an_answer_that_is_not_acceptable() {
    let mut desk = Desk::new();
    let mut now = at(0);
    let mut waits = Vec::new();
    for reason in [
        Reason::AccessDenied,
        Reason::InvalidResponse,
        Reason::AccessDenied,
        Reason::InvalidResponse,
        Reason::AccessDenied,
    ] {
        desk.ask_and(now, failure(reason));
        waits.push(desk.wait(now));
        now = desk.exchange().failure.unwrap().retry_at;
    }
    assert_eq!(waits, [30, 1, 60, 1, 120]);
    desk.ask_and(now, answer("t", Some(1800)));
    desk.ask_and(at(1800), failure(Reason::AccessDenied));
    desk.ask_and(at(1801), failure(Reason::AccessDenied));
    assert_eq!(desk.wait(at(1801)), 30, "the client was good between");
}
