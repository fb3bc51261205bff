//! Outages and rate limits, which hold a whole origin.

use super::*;

#[test]
fn a_rate_limit_holds_its_whole_origin_and_no_other() {
    let mut desk = Desk::new();
    let (sister, stranger) = (key_of("dev1", "sister"), key_of("dev2", "secret"));
    desk.ask_and(at(0), limited(Some(90)));
    desk.broker.ask(&sister, wish("b"), at(1));
    desk.broker.ask(&stranger, wish("c"), at(1));
    assert_eq!(desk.broker.dispatch(at(1)), [stranger]);
    assert_eq!(desk.broker.next_dispatch(at(1)), Some(at(90)));
    assert_eq!(desk.broker.dispatch(ms(89_999)), []);
    let seen = desk.broker.exchange(&sister, &name("b")).failure.unwrap();
    assert_eq!(
        (seen.failure.reason(), seen.retry_at),
        (Reason::RateLimited, at(90))
    );
    assert_eq!(desk.broker.dispatch(at(90)), [sister]);
}

#[test]
fn a_rate_limit_without_a_time_doubles_and_a_burst_of_it_is_one() {
    let mut desk = Desk::new();
    let keys: Vec<_> = (0..4).map(|n| key_of("dev1", &format!("s{n}"))).collect();
    for key in &keys {
        desk.broker.ask(key, wish("a"), at(0));
    }
    assert_eq!(desk.broker.dispatch(at(0)).len(), 4);
    for key in &keys {
        desk.broker.complete(key, at(1), limited(None), 0.0);
    }
    let hold = desk.broker.hold(keys[0].origin()).unwrap();
    assert_eq!((hold.count, hold.retry_at), (1, at(31)));
    desk.ask_and(at(31), limited(None));
    assert_eq!(desk.wait(at(31)), 60);
}

#[test]
fn a_rate_limit_stands_whatever_else_was_under_way() {
    for other in [
        failure(Reason::InstanceUnavailable),
        failure(Reason::AccessDenied),
        answer("t", Some(1800)),
    ] {
        let mut desk = Desk::new();
        let slow = key_of("dev1", "slow");
        desk.broker.ask(&slow, wish("b"), at(0));
        desk.broker.ask(&desk.key.clone(), wish("a"), at(0));
        assert_eq!(desk.broker.dispatch(at(0)).len(), 2);
        let key = desk.key.clone();
        desk.broker.complete(&key, at(1), limited(Some(600)), 0.0);
        desk.broker.complete(&slow, at(2), other, 0.0);
        let hold = desk.broker.hold(key.origin()).unwrap();
        assert_eq!(
            (hold.failure.reason(), hold.retry_at),
            (Reason::RateLimited, at(601))
        );
    }
}

#[test]
fn a_person_gets_through_a_rate_limit_and_success_lifts_it_for_all() {
    let mut desk = Desk::new();
    desk.ask_and(at(0), limited(Some(600)));
    let origin = desk.key.origin().to_owned();
    desk.broker
        .tell_of_hold(&origin, &name("asleep"), None, at(1));
    let ask = Ask {
        forced: true,
        ..wish("b")
    };
    desk.broker.ask(&desk.key.clone(), ask.clone(), at(10));
    let refused = desk.send_and(at(10), failure(Reason::AccessDenied));
    assert_eq!(refused, [name("b")], "which is no success");
    assert!(desk.broker.hold(&origin).is_some());
    desk.broker.ask(&desk.key.clone(), ask, at(20));
    let woken = desk.send_and(at(20), answer("t", Some(1800)));
    assert_eq!(woken, ["a", "asleep", "b"].map(name));
    assert_eq!(desk.broker.hold(&origin), None);
}

#[test]
fn a_person_who_meets_an_outage_is_told_of_it_and_not_of_the_refusal_before() {
    let mut desk = Desk::new();
    desk.ask_and(at(0), failure(Reason::AccessDenied));
    let forced = Ask {
        forced: true,
        ..wish("a")
    };
    desk.broker.ask(&desk.key.clone(), forced, at(5));
    desk.send_and(at(5), failure(Reason::InstanceUnavailable));
    let told = desk.exchange().failure.unwrap();
    assert_eq!(told.failure.reason(), Reason::InstanceUnavailable);
    // The next refusal is not the first again.
    desk.ask_and(told.retry_at, failure(Reason::AccessDenied));
    assert_eq!(desk.exchange().failure.unwrap().count, 2);
}

#[test]
fn an_origin_that_is_down_gets_one_probe_at_a_time_and_all_are_released_on_recovery() {
    let mut desk = Desk::new();
    let keys: Vec<_> = (0..6).map(|n| key_of("dev1", &format!("s{n}"))).collect();
    let ask_all = |desk: &mut Desk, now| {
        for (n, key) in keys.iter().enumerate() {
            desk.broker.ask(key, wish(&format!("r{n}")), now);
        }
    };
    desk.ask_and(at(0), failure(Reason::InstanceUnavailable));
    assert_eq!(desk.wait(at(0)), 1);
    ask_all(&mut desk, at(1));
    let probe = desk.broker.dispatch(at(1));
    assert_eq!(probe.len(), 1);
    assert_eq!(desk.broker.dispatch(at(1)), []);
    let down = failure(Reason::InstanceHibernating);
    let told = desk.broker.complete(&probe[0], at(2), down, 0.0).woken;
    assert_eq!(told.len(), 6, "everyone who waits is told");
    assert_eq!(
        desk.broker.dispatch(at(3)),
        [],
        "and nothing is left in the queue"
    );
    ask_all(&mut desk, at(4));
    let probe = desk.broker.dispatch(at(4));
    assert_eq!(probe.len(), 1);
    desk.broker
        .complete(&probe[0], at(5), answer("t", Some(60)), 0.0);
    assert_eq!(
        desk.broker.dispatch(at(5)).len(),
        4,
        "as many as may be under way at once"
    );
}

#[test]
fn an_outage_is_probed_as_often_as_the_nearest_expiry_wants_it() {
    let mut desk = Desk::with("t");
    for count in 0..9 {
        let newcomer = key_of("dev1", &format!("new{count}"));
        let now = at(1740 + count * 4);
        let ask = Ask {
            forced: true,
            ..wish("b")
        };
        desk.broker.ask(&newcomer, ask, now);
        assert_eq!(desk.broker.dispatch(now), std::slice::from_ref(&newcomer));
        desk.broker
            .complete(&newcomer, now, failure(Reason::InstanceUnavailable), 0.0);
    }
    assert_eq!(
        desk.wait(at(1772)),
        2,
        "a tenth of the half minute that is left"
    );
}

#[test]
fn one_of_those_who_sleep_is_called_to_probe_and_the_others_leave_it_to_it() {
    let mut desk = Desk::new();
    desk.ask_and(at(0), failure(Reason::InstanceUnavailable));
    let origin = desk.key.origin().to_owned();
    let [far, near, new] = ["far", "near", "new"].map(name);
    desk.broker.leave(&name("a"));
    desk.broker
        .tell_of_hold(&origin, &far, Some(at(900)), at(0));
    desk.broker
        .tell_of_hold(&origin, &near, Some(at(90)), at(0));
    desk.broker.tell_of_hold(&origin, &new, None, at(0));
    let waits = |desk: &Desk, who: &Name, now| desk.broker.hold_for(who, &origin, now).is_some();
    assert!(waits(&desk, &near, ms(999)));
    assert_eq!(desk.broker.next_dispatch(at(0)), Some(at(1)));
    assert_eq!(desk.broker.call(ms(999)), []);
    assert_eq!(
        desk.broker.call(at(1)),
        std::slice::from_ref(&near),
        "whose token ends first"
    );
    assert_eq!(desk.broker.call(at(2)), [], "and nobody else");
    assert!(waits(&desk, &far, at(2)) && !waits(&desk, &near, at(2)));
    assert_eq!(desk.broker.next_dispatch(at(2)), Some(at(3)));
    assert_eq!(
        desk.broker.call(at(3)),
        std::slice::from_ref(&far),
        "but if it does not ask"
    );
    desk.broker.has_looked(Some(&origin), &far, at(3));
    assert_eq!(desk.broker.call(at(3)), [], "no two calls in one moment");
    assert_eq!(
        desk.broker.call(ms(3050)),
        std::slice::from_ref(&new),
        "or needs nothing"
    );
    desk.broker.ask(&desk.key.clone(), wish("new"), at(3));
    desk.broker.has_looked(None, &new, at(4));
    assert!(waits(&desk, &far, at(3)), "it is about to be sent");
    assert_eq!(desk.broker.dispatch(at(3)).len(), 1);
    assert!(waits(&desk, &far, at(60)), "it is under way");
}

#[test]
fn the_expiry_of_one_who_sleeps_makes_the_probes_denser() {
    let mut desk = Desk::new();
    let mut now = 0;
    for _ in 0..10 {
        desk.ask_and(at(now), failure(Reason::InstanceUnavailable));
        now += 60;
    }
    assert_eq!(desk.wait(at(now - 60)), 60);
    let origin = desk.key.origin().to_owned();
    let asleep = name("asleep");
    desk.broker
        .tell_of_hold(&origin, &asleep, Some(at(now + 40)), at(now));
    desk.ask_and(at(now), failure(Reason::InstanceUnavailable));
    assert_eq!(desk.wait(at(now)), 4);
}

#[test]
fn an_outage_is_probed_sooner_when_somebody_joins_it_whose_token_ends_sooner() {
    let mut desk = Desk::new();
    for minute in 0..10 {
        desk.ask_and(at(minute * 60), failure(Reason::InstanceUnavailable));
    }
    let origin = desk.key.origin().to_owned();
    let retry = |desk: &Desk| desk.broker.hold(&origin).unwrap().retry_at;
    assert_eq!(retry(&desk), at(600));
    let tell = |desk: &mut Desk, who, expiry| {
        let told = (&origin, &name(who), Some(expiry), at(545));
        desk.broker.tell_of_hold(told.0, told.1, told.2, told.3);
    };
    tell(&mut desk, "near", at(575));
    assert_eq!(retry(&desk), at(548), "a tenth of what is left");
    tell(&mut desk, "far", at(2000));
    assert_eq!(retry(&desk), at(548));
    let mut desk = Desk::new();
    desk.ask_and(at(500), limited(Some(100)));
    tell(&mut desk, "near", at(575));
    assert_eq!(retry(&desk), at(600), "a rate limit stands");
}

#[test]
fn a_hold_outlives_sweeping_and_a_restored_one_holds() {
    let mut desk = Desk::new();
    desk.ask_and(at(0), limited(Some(600)));
    let hold = desk.broker.hold(desk.key.origin()).unwrap().clone();
    desk.broker.sweep(at(599));
    assert_eq!(desk.broker.hold(desk.key.origin()), Some(&hold));
    let mut desk = Desk::new();
    let origin = desk.key.origin().to_owned();
    desk.broker.restore_hold(&origin, hold);
    desk.broker.ask(&desk.key.clone(), wish("a"), at(1));
    assert_eq!(desk.broker.dispatch(at(599)), []);
    assert_eq!(desk.broker.dispatch(at(600)).len(), 1);
}

#[test]
fn an_origin_that_an_earlier_process_found_down_is_asked_by_one_until_it_answers() {
    for answered in [answer("t", Some(1800)), failure(Reason::AccessDenied)] {
        let mut desk = Desk::new();
        desk.broker.suspect(desk.key.origin());
        desk.broker.sweep(at(0));
        let keys = ["a", "b", "c", "d"].map(|secret| key_of("dev1", secret));
        for key in &keys {
            desk.broker.ask(key, wish(key.client_id()), at(1));
        }
        let unmet = desk.broker.dispatch(at(1));
        assert_eq!(unmet.len(), 1);
        let tls = failure(Reason::TlsFailed);
        desk.broker.complete(&unmet[0], at(1), tls, 0.0);
        let first = desk.broker.dispatch(at(1));
        assert_eq!(first.len(), 1);
        assert_eq!(desk.broker.dispatch(at(1)), []);
        desk.broker.complete(&first[0], at(2), answered, 0.0);
        assert_eq!(desk.broker.dispatch(at(2)).len(), 2);
    }
}

#[test]
fn whoever_is_not_let_in_by_tls_ends_no_outage() {
    let mut desk = Desk::new();
    desk.ask_and(at(0), failure(Reason::InstanceUnavailable));
    let origin = desk.key.origin().to_owned();
    let until = desk.broker.hold(&origin).unwrap().retry_at;
    for (reason, held) in [(Reason::TlsFailed, true), (Reason::AccessDenied, false)] {
        let other = key_of("dev1", reason.as_str());
        desk.broker.ask(&other, wish("b"), until);
        assert_eq!(desk.broker.dispatch(until), std::slice::from_ref(&other));
        desk.broker.complete(&other, until, failure(reason), 0.0);
        assert_eq!(desk.broker.hold(&origin).is_some(), held, "{reason}");
    }
}
