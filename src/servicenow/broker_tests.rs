//! The broker by tables, and under any interleaving of its calls.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use proptest::{collection::vec, prelude::*};
use zeroize::Zeroizing;

use super::{AccessToken, Ask, Broker, Exchange, Known, Limits, SharingKey, TokenAnswer, Urgency};
use crate::{
    api::{ClientAuthentication, Instance, Reason},
    decide::{Class, Failure, Name, renewal::Validity},
};

/// A moment, in milliseconds after the beginning.
fn ms(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_800_000_000_000 + millis).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    ms(seconds * 1000)
}

fn key_of(instance: &str, secret: &str) -> Arc<SharingKey> {
    Arc::new(SharingKey::client_credentials(
        &Instance::parse(instance).unwrap(),
        ClientAuthentication::Basic,
        Zeroizing::new("id".to_owned()),
        Zeroizing::new(secret.to_owned()),
        &[],
    ))
}

fn name(name: &str) -> Name {
    Name::new("ns", name)
}

fn broker(per_origin: usize) -> Broker {
    Broker::new(Limits {
        per_origin,
        min_interval: SignedDuration::from_secs(5),
    })
}

fn wish(who: &str) -> Ask {
    Ask {
        name: name(who),
        urgency: Urgency::New,
        known: None,
        failures: None,
        forced: false,
    }
}

fn answer(token: &str, expires_in: Option<i64>) -> Result<TokenAnswer, Failure> {
    Ok(TokenAnswer {
        token: AccessToken::parse(token).unwrap(),
        expires_in,
        scope: String::new(),
    })
}

fn failure(reason: Reason) -> Result<TokenAnswer, Failure> {
    Err(Failure::new(reason, "It failed."))
}

fn limited(retry_after: Option<i64>) -> Result<TokenAnswer, Failure> {
    let wait = retry_after.map(SignedDuration::from_secs);
    Err(Failure::new(Reason::RateLimited, "Too many.").with_retry_after(wait))
}

/// A broker, and one client of it in short words.
struct Desk {
    broker: Broker,
    key: Arc<SharingKey>,
}

impl Desk {
    fn new() -> Self {
        Self {
            broker: broker(4),
            key: key_of("dev1", "secret"),
        }
    }

    /// A desk whose client got this token at second 0, for half an hour.
    fn with(token: &str) -> Self {
        let mut desk = Self::new();
        assert_eq!(desk.ask_and(at(0), answer(token, Some(1800))), [name("a")]);
        desk
    }

    /// Asks, sends at once, and has the answer in at once.
    fn ask_and(&mut self, now: Timestamp, answer: Result<TokenAnswer, Failure>) -> Vec<Name> {
        self.broker.ask(&self.key, wish("a"), now);
        assert_eq!(self.broker.dispatch(now), std::slice::from_ref(&self.key));
        self.broker.complete(&self.key, now, now, answer, 0.0)
    }

    /// Sends what is queued, and has the answer in.
    fn send_and(&mut self, now: Timestamp, answer: Result<TokenAnswer, Failure>) -> Vec<Name> {
        assert_eq!(self.broker.dispatch(now), std::slice::from_ref(&self.key));
        self.broker.complete(&self.key, now, now, answer, 0.0)
    }

    fn exchange(&self) -> Exchange {
        self.broker.exchange(&self.key, &name("a"))
    }

    fn validity(&self) -> (i64, i64) {
        let validity = self.exchange().held.unwrap().validity;
        let second = |t: Timestamp| t.as_second() - at(0).as_second();
        (second(validity.issued_at), second(validity.expires_at))
    }

    fn wait(&self, now: Timestamp) -> i64 {
        let retry_at = self.exchange().failure.unwrap().retry_at;
        retry_at.duration_since(now).as_secs()
    }
}

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
        .complete(&key, at(0), at(2), answer("t", Some(60)), 0.0);
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
        desk.broker.complete(&other, at(1), at(1), refused, 0.0),
        [name("b")]
    );
    assert_eq!(desk.exchange().failure, None);
}

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
fn a_refusal_of_a_client_that_was_never_good_counts_at_once() {
    let mut desk = Desk::new();
    assert_eq!(
        desk.ask_and(at(0), failure(Reason::AccessDenied)),
        [name("a")]
    );
}

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
        desk.broker.complete(key, at(0), at(1), limited(None), 0.0);
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
        desk.broker
            .complete(&key, at(0), at(1), limited(Some(600)), 0.0);
        desk.broker.complete(&slow, at(0), at(2), other, 0.0);
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
    desk.broker.tell(&origin, None, &name("asleep"));
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
    let told = desk.broker.complete(&probe[0], at(1), at(2), down, 0.0);
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
        .complete(&probe[0], at(4), at(5), answer("t", Some(60)), 0.0);
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
        desk.broker.complete(
            &newcomer,
            now,
            now,
            failure(Reason::InstanceUnavailable),
            0.0,
        );
    }
    assert_eq!(
        desk.wait(at(1772)),
        2,
        "a tenth of the half minute that is left"
    );
}

#[test]
fn those_who_sleep_over_a_refusal_wake_when_it_is_over_before_its_time() {
    let mut desk = Desk::new();
    desk.ask_and(at(0), failure(Reason::AccessDenied));
    let (origin, key) = (desk.key.origin().to_owned(), desk.key.clone());
    desk.broker.tell(&origin, Some(&key), &name("asleep"));
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
        broker.complete(&key, at(0), at(1), answer("t", Some(60)), 0.0);
        let next = broker.dispatch(at(1));
        assert!(next.len() <= 1, "one place was free");
        under_way.extend(next);
    }
    assert_eq!(sent, ["at-the-last", "expiring", "new", "soon", "late"]);
}

/// What a same-token answer at second 1200 comes to, which took a second: the validity, and
/// whether asking before the expiry gains nothing.
fn same_token(expires_in: Option<i64>) -> ((i64, i64), bool) {
    let mut desk = Desk::with("t");
    desk.broker.ask(&desk.key.clone(), wish("a"), at(1200));
    assert_eq!(desk.broker.dispatch(at(1200)).len(), 1);
    let key = desk.key.clone();
    let woken = desk
        .broker
        .complete(&key, at(1200), at(1201), answer("t", expires_in), 0.0);
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
    desk.broker
        .complete(&key, at(0), at(2), answer("t", Some(1)), 0.0);
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
        .complete(&key, at(1800), at(1800), answer("t", Some(0)), 0.0);
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
        .complete(&refused, at(0), at(0), failure(Reason::AccessDenied), 0.0);
    let asked = key_of("dev1", "asked");
    desk.broker.ask(&asked, wish("c"), at(1));
    desk.broker.sweep(at(29));
    let exchange = |broker: &Broker, key| broker.exchange(key, &name("c"));
    assert!(exchange(&desk.broker, &refused).failure.is_some());
    desk.broker.sweep(at(30));
    assert!(exchange(&desk.broker, &refused).failure.is_none());
    desk.broker.sweep(at(1799));
    assert!(desk.exchange().held.is_some());
    desk.broker.sweep(at(1800));
    assert_eq!(desk.exchange(), Exchange::default());
    assert_eq!(exchange(&desk.broker, &asked).asked_at, Some(at(1)));
    assert_eq!(desk.broker.dispatch(at(1800)), [asked]);
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
fn two_keys_do_not_mix() {
    let mut desk = Desk::new();
    let other = key_of("dev1", "other");
    desk.broker.ask(&desk.key.clone(), wish("a"), at(0));
    desk.broker.ask(&other, wish("b"), at(0));
    assert_eq!(desk.broker.dispatch(at(0)).len(), 2);
    let woken = desk
        .broker
        .complete(&other, at(0), at(1), answer("o", Some(60)), 0.0);
    assert_eq!(woken, [name("b")]);
    assert_eq!(desk.exchange().asked_at, Some(at(0)));
    assert_eq!(desk.exchange().held, None);
    let key = desk.key.clone();
    let woken = desk
        .broker
        .complete(&key, at(0), at(2), failure(Reason::AccessDenied), 0.0);
    assert_eq!(woken, [name("a")]);
    let held = desk.broker.exchange(&other, &name("b")).held.unwrap();
    assert_eq!(held.token.expose(), "o");
}

/// One call of the broker.
#[derive(Clone, Debug)]
enum Call {
    Ask(u8, u8, bool),
    Dispatch,
    Complete(u8, u8),
    Leave(u8),
    Pass(u16),
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let call = prop_oneof![
        4 => (0u8..6, 0u8..8, any::<bool>()).prop_map(|(k, n, f)| Call::Ask(k, n, f)),
        4 => Just(Call::Dispatch),
        4 => (any::<u8>(), 0u8..8).prop_map(|(which, answer)| Call::Complete(which, answer)),
        1 => (0u8..8).prop_map(Call::Leave),
        2 => (0u16..2000).prop_map(Call::Pass),
    ];
    vec(call, 0..120)
}

/// The broker under any interleaving, and what is checked of it.
struct Trial {
    broker: Broker,
    keys: Vec<Arc<SharingKey>>,
    now: Timestamp,
    under_way: Vec<(Arc<SharingKey>, Timestamp)>,
    waiting: BTreeSet<(usize, Name)>,
    news: BTreeMap<usize, (String, Validity)>,
    tokens: u32,
}

impl Trial {
    fn new() -> Self {
        let keys = ["a", "b", "c", "d"].map(|secret| key_of("dev1", secret));
        let others = ["a", "b"].map(|secret| key_of("dev2", secret));
        Self {
            broker: broker(2),
            keys: keys.into_iter().chain(others).collect(),
            now: at(0),
            under_way: Vec::new(),
            waiting: BTreeSet::new(),
            news: BTreeMap::new(),
            tokens: 0,
        }
    }

    /// Asks as `decide` does: not before the least interval is over.
    fn ask(&mut self, key: usize, who: Name, forced: bool) {
        let exchange = self.broker.exchange(&self.keys[key], &who);
        if exchange.not_before.is_some_and(|at| at > self.now) {
            return;
        }
        let ask = Ask {
            name: who.clone(),
            forced,
            ..wish("")
        };
        self.broker.ask(&self.keys[key], ask, self.now);
        self.waiting.insert((key, who));
    }

    fn dispatch(&mut self) {
        for key in self.broker.dispatch(self.now) {
            self.under_way.push((key, self.now));
        }
        for origin in [
            "https://dev1.service-now.com",
            "https://dev2.service-now.com",
        ] {
            let count = self
                .under_way
                .iter()
                .filter(|(k, _)| k.origin() == origin)
                .count();
            assert!(count <= 2, "{count} requests under way at {origin}");
        }
        let distinct: BTreeSet<_> = self.under_way.iter().map(|(k, _)| Arc::as_ptr(k)).collect();
        assert_eq!(
            distinct.len(),
            self.under_way.len(),
            "one request for each key"
        );
    }

    fn complete(&mut self, which: usize, kind: u8) {
        let (key, sent_at) = self.under_way.remove(which);
        let index = self.keys.iter().position(|k| *k == key).unwrap();
        let old = self.news.get(&index).map(|(token, _)| token.clone());
        let answer = match (kind, old) {
            (0, _) => failure(Reason::InstanceUnavailable),
            (1, _) => limited(Some(3)),
            (2, _) => failure(Reason::AccessDenied),
            (3, _) => failure(Reason::InvalidResponse),
            (4, Some(old)) => answer(&old, Some(1)),
            _ => {
                self.tokens += 1;
                answer(&format!("t{}", self.tokens), Some(30))
            }
        };
        let woken = self.broker.complete(&key, sent_at, self.now, answer, 0.5);
        for name in woken {
            self.waiting.retain(|(k, who)| {
                *who != name || self.broker.exchange(&self.keys[*k], who).asked_at.is_some()
            });
        }
        self.check_the_interval(index);
    }

    /// Answers that brought something new are never closer than the least interval.
    fn check_the_interval(&mut self, index: usize) {
        let held = self.broker.exchange(&self.keys[index], &name("")).held;
        let Some(held) = held else { return };
        let news = (held.token.expose().to_owned(), held.validity);
        let before = self.news.insert(index, news.clone());
        if let Some((token, validity)) = before
            && (token != news.0 || validity.expires_at < news.1.expires_at)
        {
            let apart = news.1.issued_at.duration_since(validity.issued_at);
            let least = SignedDuration::from_secs(5).min(validity.lifetime() / 2);
            assert!(apart >= least, "{apart:?} apart");
        }
    }

    fn run(&mut self, call: Call) {
        match call {
            Call::Ask(key, who, forced) => {
                self.ask(key.into(), name(&format!("r{who}")), forced);
            }
            Call::Dispatch => self.dispatch(),
            Call::Complete(which, answer) if !self.under_way.is_empty() => {
                self.complete(usize::from(which) % self.under_way.len(), answer);
            }
            Call::Leave(who) => {
                let who = name(&format!("r{who}"));
                self.broker.leave(&who);
                self.waiting.retain(|(_, other)| *other != who);
            }
            Call::Pass(millis) => self.now += SignedDuration::from_millis(millis.into()),
            Call::Complete(..) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn under_any_interleaving_limits_hold_and_nobody_who_waits_is_lost(calls in calls()) {
        let mut trial = Trial::new();
        for call in calls {
            trial.run(call);
        }
        // Everything that is or can be sent is answered in the end.
        for _ in 0..200 {
            trial.dispatch();
            while !trial.under_way.is_empty() {
                trial.complete(0, 7);
            }
            match trial.broker.next_dispatch(trial.now) {
                Some(next) => trial.now = next,
                None if trial.waiting.is_empty() => break,
                None => {}
            }
        }
        prop_assert_eq!(trial.waiting, BTreeSet::new());
    }
}
