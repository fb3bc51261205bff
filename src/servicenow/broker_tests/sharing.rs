//! Who shares a request, who goes first, and what is forgotten.

use std::collections::BTreeMap;

use super::*;

#[test]
fn one_request_serves_all_with_the_same_key() {
    let mut desk = Desk::new();
    for who in ["a", "b", "c"] {
        desk.broker.ask(&key_of("dev1", "secret"), wish(who), at(0));
    }
    assert_eq!(desk.broker.dispatch(at(0)).len(), 1);
    desk.broker.ask(&desk.key.clone(), wish("late"), at(1));
    assert_eq!(
        desk.broker.dispatch(at(1)),
        [],
        "it joins the one under way"
    );
    let key = desk.key.clone();
    let woken = desk
        .broker
        .complete(&key, at(2), answer("t", Some(60)), 0.0)
        .woken;
    assert_eq!(woken, ["a", "b", "c", "late"].map(name));
    assert_eq!(
        desk.validity(),
        (0, 60),
        "from the moment the request was sent"
    );
}

#[test]
fn only_those_who_asked_are_told_that_a_request_is_under_way() {
    let mut desk = Desk::new();
    desk.broker.ask(&desk.key.clone(), wish("a"), at(0));
    assert_eq!(desk.exchange().asked_at, Some(at(0)));
    let other = desk.broker.exchange(&desk.key, &name("b"));
    assert_eq!(other.asked_at, None, "it has to ask, or nobody wakes it");
}

#[test]
fn the_tokens_in_hand_are_those_of_the_instance_that_a_text_has_room_for() {
    let (own, other) = ("b".repeat(30), "a".repeat(22));
    let mut desk = Desk::with(&own);
    for (instance, secret, token) in [
        ("dev1", "another", &*other),
        ("dev2", "secret", "elsewhere"),
    ] {
        let key = key_of(instance, secret);
        desk.broker.ask(&key, wish(secret), at(0));
        desk.broker.dispatch(at(0));
        desk.broker
            .complete(&key, at(0), answer(token, Some(60)), 0.0);
    }
    let tokens = |length| {
        let tokens = desk.broker.tokens(&desk.key, length);
        let mut tokens: Vec<_> = tokens.iter().map(|t| t.expose().to_owned()).collect();
        tokens.sort_unstable();
        tokens
    };
    assert_eq!(tokens(30), [&*other, &own]);
    assert_eq!(tokens(29), [&*other]);
    assert_eq!(tokens(21), [&*own], "no more is looked for in so little");
}

#[test]
fn a_different_secret_with_the_same_id_shares_nothing() {
    let mut desk = Desk::with("t");
    let other = key_of("dev1", "another");
    assert_eq!(
        desk.broker.exchange(&other, &name("b")),
        Exchange::default()
    );
    desk.broker.ask(&other, wish("b"), at(1));
    assert_eq!(desk.broker.dispatch(at(1)), std::slice::from_ref(&other));
    let refused = failure(Reason::AccessDenied);
    assert_eq!(
        desk.broker.complete(&other, at(1), refused, 0.0).woken,
        [name("b")]
    );
    assert_eq!(desk.exchange().failure, None);
}

#[test]
fn urgency_decides_who_goes_first_and_the_limit_how_many() {
    let mut broker = broker(2);
    let urgencies = [
        ("late", Urgency::Renewal(at(900))),
        ("soon", Urgency::Renewal(at(500))),
        ("new", Urgency::New),
        ("expiring", Urgency::Expiring(at(600))),
        ("at-the-last", Urgency::Expiring(at(60))),
    ];
    let keys: BTreeMap<_, _> = urgencies.map(|(who, _)| (who, key_of("dev1", who))).into();
    for (who, urgency) in urgencies {
        let ask = Ask {
            urgency,
            ..wish(who)
        };
        broker.ask(&keys[who], ask, at(0));
    }
    let mut sent = Vec::new();
    let mut under_way = broker.dispatch(at(0));
    assert_eq!(under_way.len(), 2);
    while let Some(key) = under_way.first().cloned() {
        under_way.remove(0);
        sent.push(
            keys.iter()
                .find(|(_, k)| **k == key)
                .map(|(who, _)| *who)
                .unwrap(),
        );
        broker.complete(&key, at(1), answer("t", Some(60)), 0.0);
        let next = broker.dispatch(at(1));
        assert!(next.len() <= 1, "one place was free");
        under_way.extend(next);
    }
    assert_eq!(sent, ["at-the-last", "expiring", "new", "soon", "late"]);
}

#[test]
fn the_last_to_leave_takes_the_request_along() {
    let mut desk = Desk::new();
    let key = desk.key.clone();
    for who in ["a", "b"] {
        desk.broker.ask(&key, wish(who), at(0));
    }
    desk.broker.leave(&name("a"));
    desk.broker.unask(&key, &name("b"));
    assert_eq!(desk.broker.dispatch(at(0)), []);
    // What is on its way comes in, and nothing is sent for those who left.
    let mut desk = Desk::with("t");
    desk.broker.ask(&key, wish("a"), at(1800));
    assert_eq!(desk.broker.dispatch(at(1800)).len(), 1);
    desk.broker.leave(&name("a"));
    let woken = desk
        .broker
        .complete(&key, at(1800), answer("t", Some(0)), 0.0)
        .woken;
    assert_eq!(woken, []);
    assert_eq!(desk.broker.dispatch(at(1900)), []);
}

#[test]
fn sweeping_forgets_only_what_is_over() {
    let mut desk = Desk::with("t");
    let refused = key_of("dev1", "refused");
    desk.broker.ask(&refused, wish("b"), at(0));
    desk.broker.dispatch(at(0));
    desk.broker
        .complete(&refused, at(0), failure(Reason::AccessDenied), 0.0);
    let asked = key_of("dev1", "asked");
    desk.broker.ask(&asked, wish("c"), at(1));
    let exchange = |broker: &Broker, key| broker.exchange(key, &name("c"));
    desk.broker.sweep(at(1799));
    assert!(desk.exchange().held.is_some());
    desk.broker.sweep(at(1800));
    assert_eq!(desk.exchange(), Exchange::default());
    // How often a client was refused is remembered past the wait itself.
    desk.broker.sweep(at(30 + 3599));
    assert!(exchange(&desk.broker, &refused).failure.is_some());
    desk.broker.sweep(at(30 + 3600));
    assert!(exchange(&desk.broker, &refused).failure.is_none());
    assert_eq!(exchange(&desk.broker, &asked).asked_at, Some(at(1)));
    assert_eq!(desk.broker.dispatch(at(3630)), [asked]);
}

#[test]
fn two_keys_do_not_mix() {
    let mut desk = Desk::new();
    let other = key_of("dev1", "other");
    desk.broker.ask(&desk.key.clone(), wish("a"), at(0));
    desk.broker.ask(&other, wish("b"), at(0));
    assert_eq!(desk.broker.dispatch(at(0)).len(), 2);
    let woken = desk
        .broker
        .complete(&other, at(1), answer("o", Some(60)), 0.0)
        .woken;
    assert_eq!(woken, [name("b")]);
    assert_eq!(desk.exchange().asked_at, Some(at(0)));
    assert_eq!(desk.exchange().held, None);
    let key = desk.key.clone();
    let woken = desk
        .broker
        .complete(&key, at(2), failure(Reason::AccessDenied), 0.0)
        .woken;
    assert_eq!(woken, [name("a")]);
    let held = desk.broker.exchange(&other, &name("b")).held.unwrap();
    assert_eq!(held.token.expose(), "o");
}
