//! What the soak takes for an excuse, and what it does not: each check can fail.

use jiff::{SignedDuration, Timestamp};

use crate::{
    ledger::{Asked, Held, Ledger, Rotation, Why},
    outage::{AskedAgain, Whom, Window},
};

const MEMBER: &str = "member-000";
const INSTANCE: usize = 0;
const LEAST: SignedDuration = SignedDuration::from_millis(4900);

/// So many seconds after the run began.
fn at(seconds: f64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs_f64(seconds)
}

fn down(whom: Whom, asked_again: AskedAgain, from: f64, to: f64) -> Window {
    Window {
        what: "down".to_owned(),
        whom,
        by_client: false,
        asked_again,
        from: at(from),
        to: at(to),
    }
}

/// The operator was down from one second to the other, once for each pair.
fn operator_down(times: &[(f64, f64)]) -> Vec<Window> {
    let one = |&(from, to): &(f64, f64)| down(Whom::Everybody, AskedAgain::AtOnce, from, to);
    times.iter().map(one).collect()
}

/// Whether it is excused that a token which expired at 100 s was replaced only then.
fn is_excused(windows: Vec<Window>, replaced: f64) -> bool {
    let mut ledger = Ledger {
        windows,
        ..Ledger::default()
    };
    write(&mut ledger, 91.0, "old", 100.0);
    write(&mut ledger, replaced, "new", 200.0);
    let stale = ledger.stale(|_| INSTANCE, at(replaced));
    let [stale] = stale.as_slice() else {
        panic!("once: {stale:?}")
    };
    stale.outage.is_some()
}

fn write(ledger: &mut Ledger, seen: f64, token: &str, expires_at: f64) {
    let held = Held {
        token: token.to_owned(),
        expires_at: at(expires_at),
    };
    ledger.see(MEMBER, at(seen), Some(held));
}

#[test]
fn what_was_down_past_the_expiry_excuses_an_expired_token_until_it_is_recovered_from() {
    assert!(is_excused(operator_down(&[(96.0, 101.0)]), 105.9));
    assert!(!is_excused(operator_down(&[(96.0, 101.0)]), 106.1));
    assert!(!is_excused(Vec::new(), 100.1));
}

#[test]
fn what_was_back_well_before_the_expiry_is_no_excuse() {
    assert!(is_excused(operator_down(&[(96.0, 99.0)]), 103.9));
    assert!(!is_excused(operator_down(&[(96.5, 97.0)]), 100.1));
}

#[test]
fn what_failed_when_the_renewal_was_long_due_is_no_excuse() {
    assert!(is_excused(operator_down(&[(98.9, 102.0)]), 103.0));
    assert!(!is_excused(operator_down(&[(99.1, 102.0)]), 103.0));
    assert!(!is_excused(operator_down(&[(100.5, 102.0)]), 103.0));
}

#[test]
fn what_fails_amid_a_recovery_adds_to_it_and_what_fails_after_it_does_not() {
    // Back at 96.5 s, recovered by 99.0: behind by 1 s when it fails again.
    let amid = [(96.0, 96.5), (98.0, 99.0)];
    assert!(is_excused(operator_down(&amid), 102.9));
    assert!(!is_excused(operator_down(&amid), 103.1));
    let after = [(90.0, 90.5), (99.5, 101.0)];
    assert!(!is_excused(operator_down(&after), 102.0));
}

#[test]
fn another_instance_and_a_client_refused_excuse_nobody_else() {
    let of = |whom| vec![down(whom, AskedAgain::Never, 97.0, 101.0)];
    assert!(is_excused(of(Whom::Instance(INSTANCE)), 102.0));
    assert!(!is_excused(of(Whom::Instance(1)), 102.0));
    assert!(is_excused(of(Whom::Member(MEMBER.to_owned())), 102.0));
    assert!(!is_excused(
        of(Whom::Member("member-002".to_owned())),
        102.0
    ));
}

/// A member that asked at these moments, and whose Secret was written a tenth after some of them.
fn asked(moments: &[f64], written: &[f64]) -> Ledger {
    let mut ledger = Ledger::default();
    for moment in moments {
        ask(&mut ledger, *moment, false);
    }
    for (moment, number) in written.iter().zip(0..) {
        write(
            &mut ledger,
            moment + 0.1,
            &format!("token {number}"),
            moment + 9.0,
        );
    }
    ledger
}

fn ask(ledger: &mut Ledger, moment: f64, spoiled: bool) {
    let asked = ledger.asked.entry(MEMBER.to_owned()).or_default();
    asked.push(Asked {
        at: at(moment),
        status: Some(200),
        spoiled,
    });
}

/// Why each request too many was, and how many causes it has.
fn extra(ledger: &Ledger) -> Vec<(Why, usize)> {
    let extra = ledger.extra_requests(MEMBER, LEAST);
    extra
        .iter()
        .map(|one| (one.why, ledger.causes(MEMBER, INSTANCE, one).len()))
        .collect()
}

#[test]
fn one_request_for_each_renewal_is_none_too_many_and_a_spoiled_answer_is_no_renewal() {
    let mut ledger = asked(&[0.0, 6.0, 12.0], &[0.0, 6.0, 12.0]);
    ask(&mut ledger, 12.2, true);
    ask(&mut ledger, 18.0, false);
    assert_eq!(extra(&ledger), []);
}

#[test]
fn what_was_lost_in_a_kill_is_asked_for_once_more_and_else_it_is_one_too_many() {
    let mut ledger = asked(&[0.0, 6.0, 6.8, 12.5], &[0.0, 6.8, 12.5]);
    assert_eq!(extra(&ledger), [(Why::Unwritten, 0)]);
    ledger.windows = operator_down(&[(6.1, 6.6)]);
    assert_eq!(extra(&ledger), [(Why::Unwritten, 1)]);
}

#[test]
fn an_answer_in_hand_that_cannot_be_written_is_asked_for_again_only_when_it_is_due() {
    let api_server = |to| vec![down(Whom::Everybody, AskedAgain::WhenDue, 5.9, to)];
    let mut ledger = asked(&[0.0, 6.0, 8.0, 13.5], &[0.0, 8.0, 13.5]);
    ledger.windows = api_server(8.0);
    assert_eq!(extra(&ledger), [(Why::Unwritten, 0)]);
    let mut ledger = asked(&[0.0, 6.0, 11.5, 17.5], &[0.0, 11.5, 17.5]);
    assert_eq!(extra(&ledger), [(Why::UnwrittenUntilDue, 0)]);
    ledger.windows = api_server(11.4);
    assert_eq!(extra(&ledger), [(Why::UnwrittenUntilDue, 1)]);
}

#[test]
fn tokens_that_come_too_soon_have_only_a_new_client_secret_for_a_cause() {
    let mut ledger = asked(&[0.0, 2.0, 8.0], &[0.0, 2.0, 8.0]);
    ledger.windows = operator_down(&[(1.0, 1.5)]);
    assert_eq!(extra(&ledger), [(Why::TooSoon, 0)]);
    let rotation = Rotation {
        from: at(1.9),
        to: at(1.95),
    };
    ledger.rotated.insert(MEMBER.to_owned(), vec![rotation]);
    assert_eq!(extra(&ledger), [(Why::TooSoon, 1)]);
}
