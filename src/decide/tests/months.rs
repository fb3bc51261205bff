//! Months of bad days: whatever happens, everything is well again once it is over, and nothing
//! runs hot meanwhile.

use jiff::SignedDuration;
use proptest::{collection::vec, prelude::*, test_runner::RngSeed};

use super::{
    scene::*,
    world::{World, good, new_tokens},
};
use crate::{
    api::Reason,
    decide::{Failure, Name},
};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Something that goes wrong or changes, and how long after the one before.
#[derive(Clone, Debug)]
enum Event {
    Instance(u8),
    DeleteSecret(usize),
    EditSecret(usize),
    Rotate(u8),
    Template(usize, u8),
    Rename(usize, u8),
    Suspend(usize, bool),
    Renew(usize, u8),
    Margin(usize, u8),
    Recreate(usize),
    Restart,
    Statuses(bool),
}

fn events() -> impl Strategy<Value = Vec<(u16, Event)>> {
    let who = || 0usize..4;
    let event = prop_oneof![
        6 => (0u8..8).prop_map(Event::Instance),
        2 => who().prop_map(Event::DeleteSecret),
        2 => who().prop_map(Event::EditSecret),
        2 => (0u8..3).prop_map(Event::Rotate),
        2 => (who(), 0u8..3).prop_map(|(who, what)| Event::Template(who, what)),
        2 => (who(), 0u8..3).prop_map(|(who, what)| Event::Rename(who, what)),
        2 => (who(), any::<bool>()).prop_map(|(who, yes)| Event::Suspend(who, yes)),
        2 => (who(), 0u8..9).prop_map(|(who, what)| Event::Renew(who, what)),
        1 => (who(), 0u8..3).prop_map(|(who, what)| Event::Margin(who, what)),
        1 => who().prop_map(Event::Recreate),
        2 => Just(Event::Restart),
        1 => any::<bool>().prop_map(Event::Statuses),
    ];
    let pause = prop_oneof![Just(0u16), 0u16..10, 0u16..3000];
    vec((pause, event), 0..40)
}

/// What the instance does from now on.
fn instance(world: &mut World, mood: u8) {
    let slow = SignedDuration::from_secs(14);
    let quick = SignedDuration::from_millis(100);
    let limited =
        || Failure::new(Reason::RateLimited, "later").with_retry_after(Some(seconds(100)));
    world.answer = match mood {
        0 => Box::new(move |_, _| (quick, Err(Failure::new(Reason::AccessDenied, "refused")))),
        1 => Box::new(move |_, _| (slow, Err(Failure::new(Reason::InstanceUnavailable, "down")))),
        2 => Box::new(move |_, _| (quick, Err(limited()))),
        3 => Box::new(move |_, _| (quick, Err(Failure::new(Reason::InvalidResponse, "html")))),
        4 => Box::new(move |_, now| {
            // One token for each half hour of the day, whoever asks and whenever.
            let left = 1800 - now.as_second() % 1800;
            (
                quick,
                good(&format!("kept-{}", now.as_second() / 1800), left),
            )
        }),
        5 => Box::new(move |_, now| (slow, good(&format!("slow-{}", now.as_second()), 60))),
        _ => new_tokens(),
    };
}

fn happen(world: &mut World, event: Event) {
    let target = |spec: &mut crate::api::ServiceNowCredentialSpec, name: &str| {
        spec.target.get_or_insert_default().name = Some(name.to_owned());
    };
    match event {
        Event::Instance(mood) => instance(world, mood),
        Event::DeleteSecret(who) => world.meddle(NAMES[who], |_| false),
        Event::EditSecret(who) => world.meddle(NAMES[who], |target| {
            target.data.insert("token".to_owned(), b"edited".to_vec());
            true
        }),
        Event::Rotate(secret) => world.rotate_client(&format!("secret{secret}")),
        Event::Template(who, what) => world.change(NAMES[who], |spec| {
            let template = ["{{ token }}", "Bearer {{ token }}", "{{ broken"][usize::from(what)];
            let data = [("token".to_owned(), template.to_owned())].into();
            spec.target.get_or_insert_default().data = Some(data);
        }),
        Event::Rename(who, what) => {
            world.change(NAMES[who], |spec| {
                target(spec, ["a", "b", "new"][usize::from(what)])
            });
        }
        Event::Suspend(who, yes) => {
            world.change(NAMES[who], |spec| spec.suspend = yes.then_some(true));
        }
        Event::Renew(who, what) => world.request_renewal(NAMES[who], &what.to_string()),
        Event::Margin(who, what) => world.change(NAMES[who], |spec| {
            spec.renewal = Some(crate::api::Renewal {
                renew_before: Some(["1s", "10m", "25m"][usize::from(what)].to_owned()),
                renew_before_percentage: None,
            });
        }),
        Event::Recreate(who) => {
            world.delete(NAMES[who]);
            world.create(NAMES[who]);
        }
        Event::Restart => world.restart(),
        Event::Statuses(fail) => world.statuses_fail = fail,
    }
}

/// The bad days are over, and every resource wants something possible.
fn all_is_well(world: &mut World) {
    world.statuses_fail = false;
    world.answer = new_tokens();
    for name in NAMES {
        world.change(name, |spec| {
            spec.suspend = None;
            let target = spec.target.get_or_insert_default();
            target.data = None;
            target.name = Some(format!("{name}-final"));
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(1), cases: 20, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn after_any_bad_days_everything_is_well_again(events in events()) {
        let mut world = World::with(&NAMES);
        let mut second = 0;
        for (pause, event) in events {
            second += i64::from(pause);
            world.run_until(second);
            happen(&mut world, event);
        }
        let (rounds, requests) = (world.rounds, world.requests.len());
        world.run_until(second + 3600);
        let (rounds, requests) = (world.rounds - rounds, world.requests.len() - requests);
        prop_assert!(rounds < 6000, "{rounds} rounds in an hour");
        prop_assert!(requests < 1500, "{requests} requests in an hour");

        all_is_well(&mut world);
        // A refusal is waited out for an hour at most.
        world.run_until(second + 7300);
        for name in NAMES {
            prop_assert_eq!(world.ready(name), is("True", Reason::TokenValid));
            prop_assert_eq!(world.synced(name), is("True", Reason::TokenSynced));
            let secret = format!("{name}-final");
            let token = world.token(&secret);
            let status = &world.credentials[&Name::new("team-a", name)].status;
            let sha256 = token.map(|t| crate::servicenow::AccessToken::parse(&t).unwrap().sha256());
            prop_assert_eq!(sha256, status.token.as_ref().unwrap().sha256.clone());
        }
        // At rest an hour is four renewals at most for each client that is in use, and a restart
        // is nothing.
        if !world.under_way.is_empty() {
            // An answer that the restart would lose is asked for again.
            world.run_until(second + 7301);
        }
        let before = (world.requests.len(), world.secret_writes, world.status_writes);
        world.restart();
        world.settle_down();
        prop_assert_eq!(before, (world.requests.len(), world.secret_writes, world.status_writes));
        world.run_until(second + 10_900);
        let requests = world.requests.len() - before.0;
        prop_assert!(requests <= 20, "{requests} requests in an hour at rest");
    }
}
