//! Answers that bring the token that is known already, and lifetimes that are none.

use super::*;
use crate::{decide::renewal::Validity, servicenow::Known};

/// What a same-token answer at second 1200 comes to, which took a second: the validity, and
/// whether asking before the expiry gains nothing.
fn same_token(expires_in: Option<i64>) -> ((i64, i64), bool) {
    let mut desk = Desk::with("t");
    desk.broker.ask(&desk.key.clone(), wish("a"), at(1200));
    assert_eq!(desk.broker.dispatch(at(1200)).len(), 1);
    let key = desk.key.clone();
    let woken = desk
        .broker
        .complete(&key, at(1201), answer("t", expires_in), 0.0)
        .woken;
    assert_eq!(woken, [name("a")]);
    let held = desk.exchange().held.unwrap();
    assert_eq!(held.sent_at, at(1200));
    (desk.validity(), held.kept)
}

#[test]
fn the_same_token_is_judged_against_the_recorded_expiry() {
    let recorded = (0, 1800);
    for (expires_in, expected, why) in [
        (Some(600), (recorded, true), "not moved"),
        (
            Some(603),
            (recorded, true),
            "later by 2 s and the round trip at most",
        ),
        (Some(604), ((1200, 1804), false), "moved"),
        (Some(1800), ((1200, 3000), false), "moved"),
        (Some(598), (recorded, true), "earlier by 2 s at most"),
        (Some(597), ((0, 1797), true), "earlier"),
        (Some(0), ((0, 1200), true), "whole seconds counted down"),
        (Some(-5), ((0, 1200), true), "no less than nothing"),
        (None, (recorded, true), "nothing said"),
    ] {
        assert_eq!(same_token(expires_in), expected, "{why}: {expires_in:?}");
    }
}

#[test]
fn that_a_token_is_kept_is_learned_from_whoever_has_it_on_record() {
    for (issued_at, expires_at, kept) in [(0, 1800, true), (599, 1800, false), (0, 1200, false)] {
        // A process that has just begun is given a token that it has not seen before.
        let mut desk = Desk::new();
        let asked = desk.ask_and(at(600), answer("t", Some(1200)));
        assert_eq!(asked, [name("a")]);
        let held = desk.exchange().held.unwrap();
        let validity = Validity {
            issued_at: at(issued_at),
            expires_at: at(expires_at),
        };
        let known = Some(Known {
            sha256: held.sha256.clone(),
            validity,
        });
        let ask = Ask { known, ..wish("b") };
        desk.broker.ask(&desk.key.clone(), ask, at(700));
        assert_eq!(desk.exchange().held.unwrap().kept, kept, "{issued_at}");
        assert_eq!(desk.broker.dispatch(at(700)).is_empty(), kept);
    }
}

#[test]
fn an_answer_that_comes_too_soon_to_tell_does_not_say_that_the_token_is_kept() {
    for asked in [1, 3, 4] {
        let mut desk = Desk::with("t");
        let key = desk.key.clone();
        desk.broker.ask(&key, wish("a"), at(asked));
        assert_eq!(desk.broker.dispatch(at(asked)).len(), 1);
        desk.broker
            .complete(&key, at(asked + 1), answer("t", Some(1800)), 0.0);
        let moved = asked > 3;
        let expected = if moved {
            (asked, asked + 1800)
        } else {
            (0, 1800)
        };
        assert_eq!(desk.validity(), expected);
        assert!(!desk.exchange().held.unwrap().kept);
    }
    // Counted down in whole seconds, it is seen to be kept from then on.
    let mut desk = Desk::with("t");
    let key = desk.key.clone();
    desk.broker.ask(&key, wish("a"), at(4));
    assert_eq!(desk.broker.dispatch(at(4)).len(), 1);
    desk.broker
        .complete(&key, at(5), answer("t", Some(1796)), 0.0);
    assert_eq!(desk.validity(), (0, 1800));
    assert!(desk.exchange().held.unwrap().kept);
}

#[test]
fn what_a_status_knows_of_a_token_is_judged_against_after_a_restart() {
    let mut desk = Desk::new();
    let known = Known {
        sha256: AccessToken::parse("t").unwrap().sha256(),
        validity: Validity {
            issued_at: at(-600),
            expires_at: at(1200),
        },
    };
    let ask = Ask {
        known: Some(known),
        ..wish("a")
    };
    desk.broker.ask(&desk.key.clone(), ask, at(0));
    desk.send_and(at(0), answer("t", Some(1199)));
    assert_eq!(desk.validity(), (-600, 1200));
}

#[test]
fn a_new_token_without_a_lifetime_is_no_valid_answer() {
    for expires_in in [None, Some(0), Some(-1)] {
        let mut desk = Desk::new();
        desk.ask_and(at(0), answer("t", expires_in));
        let failure = desk.exchange().failure.unwrap();
        assert_eq!(failure.failure.reason(), Reason::InvalidResponse);
        assert_eq!(failure.retry_at, at(1));
        assert_eq!(desk.exchange().held, None);
    }
}

#[test]
fn a_token_that_is_over_when_it_comes_is_no_valid_answer() {
    let mut desk = Desk::new();
    desk.broker.ask(&desk.key.clone(), wish("a"), at(0));
    desk.broker.dispatch(at(0));
    let key = desk.key.clone();
    let answered = desk.broker.complete(&key, at(2), answer("t", Some(1)), 0.0);
    assert_eq!(answered.failed, Some(Reason::InvalidResponse));
    let failure = desk.exchange().failure.unwrap().failure;
    assert_eq!(failure.reason(), Reason::InvalidResponse);
}

#[test]
fn at_expiry_the_same_token_is_asked_again_densely_then_each_second_and_then_given_up() {
    let mut desk = Desk::with("t");
    desk.broker.ask(&desk.key.clone(), wish("a"), at(1800));
    let (mut now, mut sent) = (at(1800), Vec::new());
    loop {
        sent.push(now.duration_since(at(1800)).as_millis());
        if desk.send_and(now, answer("t", Some(0))) == [name("a")] {
            break;
        }
        now = desk.broker.next_dispatch(now).expect("it is asked again");
    }
    let expected = [
        0, 200, 400, 600, 800, 1000, 1200, 1400, 1600, 2600, 3600, 4600, 5600,
    ];
    assert_eq!(sent, expected);
    let failure = desk.exchange().failure.unwrap();
    assert_eq!(failure.failure.reason(), Reason::InvalidResponse);
    // From then on an attempt is one request.
    let next = failure.retry_at;
    assert_eq!(desk.ask_and(next, answer("t", Some(0))), [name("a")]);
    assert_eq!(desk.exchange().failure.unwrap().count, 2);
    // Another token ends it, and its own expiry begins anew.
    desk.ask_and(at(1900), answer("u", Some(100)));
    assert_eq!(desk.exchange().failure, None);
    assert_eq!(desk.ask_and(at(2000), answer("u", Some(0))), []);
}

#[test]
fn a_moved_expiry_at_expiry_is_taken_at_once() {
    let mut desk = Desk::with("t");
    assert_eq!(desk.ask_and(at(1800), answer("t", Some(0))), []);
    assert_eq!(
        desk.send_and(ms(1_800_200), answer("t", Some(1800))),
        [name("a")]
    );
    assert_eq!(
        desk.exchange().held.unwrap().validity.issued_at,
        ms(1_800_200)
    );
}

#[test]
fn a_request_at_the_expiry_is_prepared_before_and_goes_when_the_instance_is_over_with_the_token() {
    let mut desk = Desk::new();
    desk.broker.ask(&desk.key.clone(), wish("a"), at(0));
    desk.broker.dispatch(at(0));
    let key = desk.key.clone();
    desk.broker
        .complete(&key, ms(30), answer("t", Some(1800)), 0.0);
    let ask = Ask {
        not_before: Some(at(1800)),
        ..wish("a")
    };
    desk.broker.ask(&key, ask.clone(), at(1790));
    assert_eq!(desk.broker.dispatch(at(1790)), []);
    assert_eq!(desk.broker.next_dispatch(at(1790)), Some(ms(1_798_030)));
    assert_eq!(desk.broker.prepare(ms(1_798_029)), []);
    assert_eq!(
        desk.broker.prepare(ms(1_798_030)),
        std::slice::from_ref(&key)
    );
    assert_eq!(desk.broker.prepare(ms(1_798_031)), [], "once");
    assert_eq!(
        desk.broker.next_dispatch(ms(1_798_030)),
        Some(ms(1_800_030))
    );
    assert_eq!(desk.broker.dispatch(ms(1_800_029)), []);
    assert_eq!(desk.broker.dispatch(ms(1_800_030)), [key]);
}

#[test]
fn no_more_is_prepared_than_may_be_under_way_and_nobody_who_waits_for_room_alone() {
    let mut broker = broker(2);
    let keys = ["a", "b", "c", "d"].map(|secret| key_of("dev1", secret));
    let ask = |at| Ask {
        not_before: Some(at),
        ..wish("a")
    };
    for key in &keys {
        broker.ask(key, ask(at(10)), at(0));
    }
    assert_eq!(broker.prepare(at(9)), keys[..2]);
    assert_eq!(broker.dispatch(at(10)), keys[..2]);
    assert_eq!(broker.prepare(at(10)), [], "they wait for room");
    let soon = key_of("dev1", "soon");
    broker.ask(&soon, ask(at(12)), at(10));
    assert_eq!(broker.prepare(at(10)), [], "there is no room for it");
    for (key, token) in keys[..2].iter().zip(["s", "t"]) {
        broker.complete(key, at(10), answer(token, Some(1800)), 0.0);
    }
    assert_eq!(broker.prepare(at(10)), [soon]);
    assert_eq!(broker.dispatch(at(10)), keys[2..]);
}

#[test]
fn whoever_cannot_wait_for_the_expiry_hastens_the_request() {
    let mut desk = Desk::with("t");
    let key = desk.key.clone();
    let ask = Ask {
        not_before: Some(at(1800)),
        ..wish("a")
    };
    desk.broker.ask(&key, ask, at(1799));
    assert_eq!(desk.broker.dispatch(at(1799)), []);
    desk.broker.ask(&key, wish("b"), at(1799));
    assert_eq!(desk.broker.dispatch(at(1799)), [key]);
}
