//! Each promise is noticed when it is broken: an operator with a fault fails.

use simulation::{Run, Size, Tamper, time::DAY};

/// What an operator with this fault breaks first, in any of a few runs.
fn broken_by(tamper: Tamper) -> Vec<&'static str> {
    let size = Size {
        resources: 4,
        lasts: DAY,
    };
    let runs = (0..6).map(|seed| Run::new(seed, size, Some(tamper), false).to_the_end(size.lasts));
    runs.filter_map(|end| end.err().map(|broken| broken.promise))
        .collect()
}

fn is_noticed(tamper: Tamper, promise: &str) {
    let broken = broken_by(tamper);
    assert!(broken.contains(&promise), "{tamper:?} breaks {broken:?}");
}

#[test]
fn an_operator_that_does_not_renew_is_noticed() {
    is_noticed(
        Tamper::NeverRenews,
        "while the instance can answer, no workload reads an expired token",
    );
}

#[test]
fn an_operator_that_asks_twice_is_noticed() {
    is_noticed(
        Tamper::AsksTwice,
        "the instance is never asked more than it must be",
    );
}

#[test]
fn an_operator_that_never_sleeps_is_noticed() {
    is_noticed(Tamper::NeverSleeps, "there is no hot loop");
}

#[test]
fn an_operator_that_writes_without_change_is_noticed() {
    is_noticed(Tamper::WritesTwice, "there is no write without change");
}

#[test]
fn an_operator_that_does_not_leave_a_failing_instance_alone_is_noticed() {
    is_noticed(
        Tamper::IgnoresHolds,
        "an instance that is down or limits is left alone",
    );
}

#[test]
fn an_operator_that_asks_twice_now_and_then_is_noticed() {
    is_noticed(
        Tamper::AsksTwiceNowAndThen,
        "the instance is never asked more than it must be",
    );
}

#[test]
fn an_operator_that_asks_for_all_tokens_anew_after_a_restart_is_noticed() {
    is_noticed(
        Tamper::AsksAnewAfterARestart,
        "the instance is never asked more than it must be",
    );
}

#[test]
fn an_operator_that_probes_an_outage_every_second_is_noticed() {
    is_noticed(
        Tamper::ProbesEverySecond,
        "an instance that is down or limits is left alone",
    );
}

#[test]
fn an_operator_that_does_not_hear_of_deleted_secrets_is_noticed() {
    is_noticed(Tamper::MissesDeletions, "a Secret that is wanted is there");
}
