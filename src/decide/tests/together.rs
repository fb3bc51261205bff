//! `decide`, the broker, the store and the queue together, where wake-ups and races live.

use jiff::SignedDuration;

use super::{
    scene::*,
    world::{World, good},
};
use crate::{
    api::Reason,
    decide::{Failure, Name, Step},
    servicenow::SharingKey,
};

pub(super) fn refused() -> Failure {
    Failure::new(Reason::AccessDenied, "refused")
}

fn limited(wait: i64) -> Failure {
    Failure::new(Reason::RateLimited, "later").with_retry_after(Some(seconds(wait)))
}

/// Answers alike to all, at once.
pub(super) fn always(
    world: &mut World,
    answer: impl Fn(&SharingKey) -> Result<crate::servicenow::TokenAnswer, Failure> + 'static,
) {
    world.answer = Box::new(move |key, _| (SignedDuration::from_millis(100), answer(key)));
}

#[test]
fn resources_with_one_client_cost_one_request_and_one_write_each() {
    let mut world = World::with(&["a", "b", "c"]);
    world.run_until(1000);
    assert_eq!(world.requests.len(), 1);
    assert_eq!((world.secret_writes, world.status_writes), (3, 3));
    for name in ["a", "b", "c"] {
        assert_eq!(world.ready(name), is("True", Reason::TokenValid));
        assert_eq!(
            world.token(name).as_deref(),
            Some("dev12345.service-now.com-1")
        );
    }
}

#[test]
fn whoever_comes_while_a_request_is_under_way_is_woken_by_its_answer() {
    let mut world = World::with(&["a"]);
    world.answer = Box::new(|_, _| (seconds(14), good("slow", 1800)));
    world.run_until(7);
    world.create("b");
    world.run_until(15);
    assert_eq!(world.requests.len(), 1);
    assert_eq!(world.ready("a"), is("True", Reason::TokenValid));
    assert_eq!(world.ready("b"), is("True", Reason::TokenValid));
}

#[test]
fn whoever_comes_under_a_rate_limit_is_served_by_a_request_that_is_under_way() {
    let mut world = World::with(&["a", "other"]);
    world.change("other", |spec| spec.scopes = vec!["x".to_owned()]);
    let mut answers = [
        (seconds(14), good("slow", 1800)),
        (seconds(1), Err(limited(3600))),
    ]
    .into_iter();
    world.answer = Box::new(move |_, _| answers.next().expect("no third request"));
    world.run_until(7);
    assert_eq!(world.synced("other"), is("False", Reason::RateLimited));
    world.create("b");
    world.run_until(15);
    assert_eq!(world.token("b").as_deref(), Some("slow"));
    assert_eq!(world.ready("b"), is("True", Reason::TokenValid));
}

#[test]
fn an_instance_that_is_changed_while_its_token_is_on_the_way_gets_its_own() {
    let mut world = World::with(&["a"]);
    world.answer = Box::new(|key, _| {
        let host = key.origin().trim_start_matches("https://");
        (seconds(3), good(host, 1800))
    });
    world.run_until(1);
    world.change("a", |spec| spec.instance = "dev2".to_owned());
    world.run_until(20);
    assert_eq!(world.token("a").as_deref(), Some("dev2.service-now.com"));
    assert_eq!(world.synced("a"), is("True", Reason::TokenSynced));
}

#[test]
fn a_spec_that_is_changed_between_two_steps_is_not_taken_for_written() {
    let steps: [fn(&Step) -> bool; 3] = [
        |step| matches!(step, Step::ReadClient),
        |step| matches!(step, Step::Write { .. }),
        |step| matches!(step, Step::Settle(_)),
    ];
    for step in steps {
        let mut world = World::with(&["a"]);
        world.mischief = Some((step, |world| {
            world.change("a", |spec| {
                spec.instance = "dev2".to_owned();
                spec.target.get_or_insert_default().name = Some("renamed".to_owned());
            });
        }));
        world.run_until(60);
        let token = world.token("renamed").expect("it is there");
        assert!(token.starts_with("dev2."), "{token}");
        assert_eq!(world.token("a"), None, "nothing is left behind");
        assert_eq!(world.synced("a"), is("True", Reason::TokenSynced));
    }
}

#[test]
fn a_renewal_that_is_requested_between_two_steps_is_not_taken_for_answered() {
    let mut world = World::with(&["a"]);
    world.mischief = Some((
        |step| matches!(step, Step::Write { .. }),
        |world| world.request_renewal("a", "now"),
    ));
    world.run_until(60);
    assert_eq!(world.requests.len(), 2);
}

#[test]
fn whoever_is_suspended_while_queued_sends_nothing() {
    let mut world = World::with(&["a", "b", "c", "d", "e"]);
    world.answer = Box::new(|key, _| (seconds(3), good(key.origin().split_at(8).1, 1800)));
    for (number, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        world.change(name, |spec| spec.scopes = vec![format!("scope{number}")]);
    }
    world.run_until(1);
    assert_eq!(world.requests.len(), 4, "the fifth waits for its turn");
    let waiting: Vec<_> = ["a", "b", "c", "d", "e"]
        .into_iter()
        .filter(|name| {
            world.credentials[&crate::decide::Name::new("team-a", name)]
                .status
                .token
                .is_none()
        })
        .collect();
    for name in waiting {
        world.change(name, |spec| spec.suspend = Some(true));
    }
    world.run_until(60);
    assert_eq!(world.requests.len(), 4);
    assert_eq!(world.secret_writes, 0);
}

#[test]
fn a_resource_that_is_created_anew_says_why_it_waits() {
    let mut world = World::with(&["a"]);
    always(&mut world, |_| Err(refused()));
    world.run_until(1);
    assert_eq!(world.synced("a"), is("False", Reason::AccessDenied));
    world.delete("a");
    world.create("a");
    world.run_until(10);
    assert_eq!(world.synced("a"), is("False", Reason::AccessDenied));
    assert_eq!(world.requests.len(), 1, "the refusal is the client's");
}

#[test]
fn a_success_wakes_those_who_were_refused_with_it() {
    let mut world = World::with(&["a", "b"]);
    always(&mut world, |_| Err(refused()));
    world.run_until(400);
    always(&mut world, |_| good("at-last", 1800));
    world.request_renewal("a", "now");
    world.run_until(402);
    assert_eq!(world.ready("a"), is("True", Reason::TokenValid));
    assert_eq!(world.ready("b"), is("True", Reason::TokenValid));
}

#[test]
fn a_forced_renewal_that_is_refused_is_not_forgiven_without_an_attempt() {
    let mut world = World::with(&["a"]);
    world.run_until(100);
    always(&mut world, |_| Err(refused()));
    world.request_renewal("a", "now");
    world.run_until(110);
    assert_eq!(world.synced("a"), is("False", Reason::AccessDenied));
    world.meddle("a", |target| {
        target
            .labels
            .insert("x".to_owned(), "y".to_owned())
            .is_none()
    });
    world.run_until(125);
    assert_eq!(world.synced("a"), is("False", Reason::AccessDenied));
    let before = world.requests.len();
    world.run_until(200);
    assert_eq!(world.synced("a"), is("False", Reason::AccessDenied));
    assert!(world.requests.len() > before, "it is tried again");
    assert_eq!(world.ready("a"), is("True", Reason::TokenValid));
}

#[test]
fn a_forced_renewal_under_a_hold_is_one_request_whatever_it_meets() {
    let met = [
        limited(550),
        limited(10),
        refused(),
        Failure::new(Reason::InstanceUnavailable, "down"),
        Failure::new(Reason::InvalidResponse, "no token"),
        Failure::new(Reason::TlsFailed, "not trusted"),
    ];
    for met in met {
        let mut world = World::with(&["a"]);
        always(&mut world, move |_| Err(limited(600)));
        world.run_until(20);
        assert_eq!(world.requests.len(), 1);
        let said = format!("{met}");
        always(&mut world, move |_| Err(met.clone()));
        world.request_renewal("a", "now");
        world.run_until(500);
        assert_eq!(world.requests.len(), 2, "{said}");
        let handled = &world.credentials[&Name::new("team-a", "a")].status;
        assert_eq!(
            handled.handled_renew_request.as_deref(),
            Some("now"),
            "{said}"
        );
    }
}

/// Resources with a client each, at one instance that is down and does not say so at once.
pub(super) fn at_an_instance_that_hangs() -> (World, Vec<String>) {
    let names: Vec<String> = (0..20).map(|n| format!("r{n}")).collect();
    let mut world = World::with(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for (n, name) in names.iter().enumerate() {
        world.change(name, |spec| spec.scopes = vec![format!("key-{n}")]);
    }
    let down = || Failure::new(Reason::InstanceUnavailable, "down");
    world.answer = Box::new(move |_, _| (seconds(14), Err(down())));
    (world, names)
}

#[test]
fn while_one_probes_an_origin_that_is_down_the_others_read_nothing() {
    let (mut world, names) = at_an_instance_that_hangs();
    world.run_until(120);
    let (reads, requests) = (world.client_reads, world.requests.len());
    world.run_until(720);
    let (reads, requests) = (world.client_reads - reads, world.requests.len() - requests);
    assert!(requests >= 8, "{requests} probes in ten minutes");
    assert!(
        reads.abs_diff(requests) <= 1,
        "{reads} reads for {requests} probes"
    );
    world.answer = super::world::new_tokens();
    world.run_until(900);
    for name in names {
        assert_eq!(world.ready(&name), is("True", Reason::TokenValid));
    }
}

#[test]
fn a_status_that_could_not_be_written_is_written_later() {
    let mut world = World::with(&["a"]);
    world.statuses_fail = true;
    world.run_until(5);
    world.statuses_fail = false;
    world.run_until(20);
    assert_eq!(
        (
            world.requests.len(),
            world.secret_writes,
            world.status_writes
        ),
        (1, 1, 1)
    );
    let mut world = World::with(&["a"]);
    always(&mut world, |_| Err(refused()));
    world.statuses_fail = true;
    world.run_until(5);
    world.statuses_fail = false;
    world.run_until(10);
    assert_eq!(world.synced("a"), is("False", Reason::AccessDenied));
    assert_eq!(world.requests.len(), 1);
}

#[test]
fn a_status_that_cannot_be_written_for_long_makes_nothing_run_hot() {
    let mut world = World::with(&["a"]);
    // The same token each time, with an expiry that moves.
    always(&mut world, |_| good("moved", 1800));
    world.run_until(10);
    world.statuses_fail = true;
    let before = (world.rounds, world.requests.len());
    world.run_until(7200);
    let (rounds, requests) = (world.rounds - before.0, world.requests.len() - before.1);
    assert!(rounds < 300, "{rounds} rounds in two hours");
    assert!(requests < 10, "{requests} requests in two hours");
    world.statuses_fail = false;
    world.run_until(7300);
    assert_eq!(world.ready("a"), is("True", Reason::TokenValid));
}

#[test]
fn a_deleted_secret_is_back_at_once_in_the_middle_of_an_outage() {
    let mut world = World::with(&["a"]);
    world.run_until(10);
    let token = world.token("a");
    always(&mut world, |_| {
        Err(Failure::new(Reason::InstanceUnavailable, "down"))
    });
    for second in [100, 1500] {
        world.run_until(second);
        world.meddle("a", |_| false);
        world.run_until(second + 1);
        assert_eq!(world.token("a"), token, "second {second}");
    }
    world.run_until(1900);
    assert_eq!(world.ready("a"), is("False", Reason::TokenExpired));
}

#[test]
fn a_token_that_the_instance_never_renews_is_not_asked_for_without_end() {
    let mut world = World::with(&["a"]);
    always(&mut world, |_| good("the-same", 0));
    world.answer = Box::new(|_, now| {
        let left = at(1800).duration_since(now).as_secs().max(0);
        (SignedDuration::from_millis(50), good("the-same", left))
    });
    world.run_until(1790);
    assert_eq!(world.requests.len(), 2);
    world.run_until(1810);
    assert_eq!(world.synced("a"), is("False", Reason::InvalidResponse));
    assert_eq!(world.ready("a"), is("False", Reason::TokenExpired));
    let at_expiry = world.requests.len();
    assert!(at_expiry < 20, "{at_expiry} requests");
    world.run_until(3600);
    let later = world.requests.len() - at_expiry;
    assert!(later < 100, "{later} requests in half an hour");
}

#[test]
fn two_resources_with_one_target_do_not_fight() {
    let mut world = World::with(&["a", "b"]);
    world.run_until(10);
    world.change("b", |spec| {
        spec.target.get_or_insert_default().name = Some("a".to_owned())
    });
    world.run_until(20);
    assert_eq!(world.synced("b"), is("False", Reason::TargetConflict));
    assert!(world.token("b").is_some(), "its old Secret stays");
    world.change("a", |spec| {
        spec.target.get_or_insert_default().name = Some("c".to_owned())
    });
    world.run_until(30);
    assert_eq!(world.synced("a"), is("True", Reason::TokenSynced));
    assert_eq!(world.synced("b"), is("True", Reason::TokenSynced));
    assert_eq!(world.token("b"), None);
    assert_eq!(world.requests.len(), 1);
}

#[test]
fn what_is_taken_away_when_its_token_is_due_is_put_back_and_renewed_in_one_go() {
    let mut world = World::with(&["a"]);
    world.run_until(1109);
    // Both in one round: the timer is over and the Secret is gone.
    world.now = at(1200);
    world.meddle("a", |_| false);
    world.settle_down();
    assert_eq!(
        world.token("a").as_deref(),
        Some("dev12345.service-now.com-1")
    );
    world.run_until(1210);
    assert_eq!(
        world.token("a").as_deref(),
        Some("dev12345.service-now.com-2")
    );
    assert_eq!(world.requests.len(), 2);
}

#[test]
fn a_success_wakes_those_too_who_learned_of_the_refusal_from_others() {
    let mut world = World::with(&["a"]);
    always(&mut world, |_| Err(refused()));
    world.run_until(400);
    world.create("b");
    world.run_until(401);
    assert_eq!(world.synced("b"), is("False", Reason::AccessDenied));
    always(&mut world, |_| good("at-last", 1800));
    world.request_renewal("a", "now");
    world.run_until(403);
    assert_eq!(world.ready("b"), is("True", Reason::TokenValid));
}

#[test]
fn a_resource_that_is_created_anew_remembers_nothing_of_the_one_before() {
    let mut world = World::with(&["a"]);
    world.request_renewal("a", "from the manifest");
    world.run_until(100);
    let before = world.requests.len();
    world.delete("a");
    world.create("a");
    world.request_renewal("a", "from the manifest");
    world.run_until(110);
    assert_eq!(world.requests.len(), before + 1, "its request is a new one");
}

#[test]
fn a_clock_that_is_set_back_costs_a_write_and_no_request_and_no_token_grows_old_unseen() {
    let mut world = World::with(&["a", "b"]);
    world.run_until(100);
    // It was an hour ahead.
    world.now = at(100 - 3600);
    world.core.clock_set_back(seconds(3600));
    world.settle_down();
    assert_eq!(
        world.requests.len(),
        1,
        "what is in memory is known to be good"
    );
    for name in ["a", "b"] {
        let token = world.status(name).token.clone().unwrap();
        assert_eq!(token.expires_at.0, at(1800 - 3600));
        assert_eq!(world.synced(name), is("True", Reason::TokenSynced));
    }
    assert_eq!(world.secret_writes, 4);
    world.run_until(1799 - 3600);
    assert_eq!(world.requests.len(), 2, "it is renewed in its own time");
}

#[test]
fn ready_turns_false_when_a_token_is_over_whose_times_a_clock_ahead_has_told() {
    let mut world = World::with(&["a"]);
    world.run_until(100);
    always(&mut world, |_| Err(limited(3600)));
    world.run_until(1300);
    assert_eq!(world.synced("a"), is("False", Reason::RateLimited));
    // It was an hour ahead.
    world.now = at(1300 - 3600);
    world.core.clock_set_back(seconds(3600));
    world.run_until(1799 - 3600);
    assert_eq!(world.ready("a"), is("True", Reason::TokenValid));
    world.run_until(1802 - 3600);
    assert_eq!(world.ready("a"), is("False", Reason::TokenExpired));
}

#[test]
fn a_kept_token_is_not_asked_for_again_when_the_status_that_says_so_cannot_be_written() {
    let mut world = World::with(&["a"]);
    world.answer = Box::new(|_, now| {
        let left = 1800 - now.duration_since(at(0)).as_secs();
        (SignedDuration::from_millis(100), good("kept", left))
    });
    world.run_until(100);
    world.statuses_fail = true;
    // It is due, and turns out to be kept; the status is tried again and again.
    world.run_until(1700);
    assert_eq!(world.requests.len(), 2);
    world.run_until(1799);
    assert_eq!(world.requests.len(), 2, "nothing before its expiry");
    world.run_until(1801);
    assert!(world.requests.len() > 2);
}

#[test]
fn a_target_that_is_renamed_twice_while_the_instance_limits_leaves_nothing_behind() {
    let mut world = World::with(&["a"]);
    world.run_until(100);
    let limited =
        || Failure::new(Reason::RateLimited, "later").with_retry_after(Some(seconds(900)));
    world.answer = Box::new(move |_, _| (SignedDuration::from_millis(100), Err(limited())));
    // Its token is due and cannot be renewed.
    world.run_until(1250);
    assert_eq!(world.synced("a"), is("False", Reason::RateLimited));
    // Somebody else's Secret is in the way for a while.
    let newest = world.next_version().parse().unwrap();
    let foreign = foreign_secret(version("foreign-uid", newest));
    world.secrets.insert(Name::new("team-a", "second"), foreign);
    let rename = |world: &mut World, target: &str| {
        world.change("a", |spec| {
            spec.target.get_or_insert_default().name = Some(target.to_owned());
        });
    };
    rename(&mut world, "second");
    world.run_until(1260);
    assert_eq!(world.synced("a"), is("False", Reason::TargetConflict));
    world.meddle("second", |_| false);
    world.run_until(1270);
    let secrets = |world: &World| -> Vec<_> {
        world
            .secrets
            .keys()
            .map(|name| name.name.to_string())
            .collect()
    };
    assert_eq!(secrets(&world), ["second"], "the token at hand moves along");
    rename(&mut world, "third");
    world.run_until(1280);
    assert_eq!(secrets(&world), ["third"]);
}

#[test]
fn a_thousand_resources_with_one_client_cost_one_request() {
    let names: Vec<_> = (0..1000).map(|number| format!("r{number}")).collect();
    let mut world = World::with(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for second in 1..60 {
        world.run_until(second);
    }
    assert_eq!(world.requests.len(), 1);
    assert_eq!((world.secret_writes, world.status_writes), (1000, 1000));
}
