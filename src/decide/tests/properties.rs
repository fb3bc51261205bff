//! What holds for whatever is observed.

use std::sync::Arc;

use jiff::SignedDuration;
use proptest::{collection::vec, prelude::*, test_runner::RngSeed};

use super::scene::*;
use crate::{
    api::{CreationPolicy, FailureStatus, Reason, ServiceNowCredentialSpec, condition},
    decide::{
        Class, Failure, Outcome, Seen, Step,
        memory::Remembered,
        observed::{CheckedSpec, Rival, Version, WriteOutcome},
        ownership::{Ownership, TargetObject, judge},
    },
    micro_time,
    servicenow::Held,
};

/// Throws that shape a scene; a throw that is missing is a zero.
struct Dice(std::vec::IntoIter<u8>);

impl Dice {
    fn throw(&mut self, sides: u8) -> u8 {
        self.0.next().unwrap_or_default() % sides
    }

    fn one_in(&mut self, sides: u8) -> bool {
        self.throw(sides) == 1
    }

    /// A second around the life of the token of [`Scene::synced`].
    fn second(&mut self) -> i64 {
        let around = [
            0, 1, 4, 5, 6, 600, 1199, 1200, 1201, 1799, 1800, 1801, 1805, 1806, 3000,
        ];
        around[usize::from(self.throw(15))]
    }

    /// What an instance may come to.
    fn shared_reason(&mut self) -> Reason {
        [
            Reason::AccessDenied,
            Reason::InstanceUnavailable,
            Reason::RateLimited,
            Reason::InvalidResponse,
        ][usize::from(self.throw(4))]
    }

    /// What the cluster may come to.
    fn own_reason(&mut self) -> Reason {
        [
            Reason::PermissionDenied,
            Reason::InternalError,
            Reason::TargetConflict,
        ][usize::from(self.throw(3))]
    }

    fn reason(&mut self) -> Reason {
        if self.one_in(2) {
            self.shared_reason()
        } else {
            self.own_reason()
        }
    }

    fn held(&mut self) -> Option<Held> {
        let token = ["first", "second"][usize::from(self.throw(2))];
        let mut held = held(
            token,
            self.second() - 10,
            [1800, 20, 5][usize::from(self.throw(3))],
        );
        held.kept = self.one_in(3);
        (!self.one_in(4)).then_some(held)
    }

    fn version(&mut self) -> Version {
        let uid = ["itsm-secret-uid", "another-uid"][usize::from(self.throw(2))];
        version(uid, 100 + u32::from(self.throw(2)))
    }

    fn seen(&mut self) -> Seen {
        match self.throw(4) {
            0 | 1 => Seen::Present(self.version()),
            2 => Seen::Unknown,
            _ => Seen::Absent,
        }
    }

    fn target(&mut self) -> TargetObject {
        let mut target = first_secret(100);
        target.version = self.version();
        match self.throw(6) {
            0 => return foreign_secret(version("foreign-uid", 100)),
            1 => drop(target.data.insert("token".to_owned(), b"edited".to_vec())),
            2 => target.controller = Some(owner("ServiceNowCredential", "itsm", "earlier-uid")),
            3 => drop(target.ours.data.insert("dropped".to_owned())),
            _ => {}
        }
        target
    }

    fn spec(&mut self, spec: &mut ServiceNowCredentialSpec) {
        if self.one_in(6) {
            spec.suspend = Some(true);
        }
        match self.throw(8) {
            1 => spec.instance = "https://not-allowed.example".to_owned(),
            2 => spec.instance = "dev2".to_owned(),
            3 => spec.target.get_or_insert_default().name = Some("new".to_owned()),
            4 => {
                let template = ["{{ broken", "a {{ token }}"][usize::from(self.throw(2))];
                let data = [("token".to_owned(), template.to_owned())].into();
                spec.target.get_or_insert_default().data = Some(data);
            }
            5 => {
                spec.renewal = Some(crate::api::Renewal {
                    renew_before: Some(["10m", "29m", "1s"][usize::from(self.throw(3))].to_owned()),
                    renew_before_percentage: None,
                });
            }
            _ => {}
        }
    }

    fn failure(&mut self) -> FailureStatus {
        let when = self.second();
        let retry = at(when + [0, 1, 30, 5000][usize::from(self.throw(4))]);
        FailureStatus {
            reason: self.reason().as_str().to_owned(),
            message: "It failed.".to_owned(),
            count: u32::from(self.throw(9)),
            last_time: micro_time(at(when)),
            retry_time: (!self.one_in(3)).then_some(micro_time(retry)),
        }
    }
}

/// Any scene: a resource at any point of its life, in any company, with anything read or not.
fn scene(throws: Vec<u8>) -> Scene {
    let dice = &mut Dice(throws.into_iter());
    let mut scene = if dice.one_in(4) {
        Scene::new()
    } else {
        Scene::synced()
    };
    scene.now = at(dice.second()) + SignedDuration::from_millis(i64::from(dice.throw(3)));
    scene.random = f64::from(dice.throw(4)) / 4.0;
    if dice.one_in(2) {
        change_spec(&mut scene.credential, |spec| dice.spec(spec));
        scene.credential.generation += i64::from(dice.throw(2));
    }
    if dice.one_in(12) {
        scene.credential.spec = Err("it does not parse".to_owned());
    }
    scene.credential.deleting = dice.one_in(12);
    if dice.one_in(3) {
        let status = Arc::make_mut(&mut scene.credential.status);
        status.failure = Some(dice.failure());
        let synced = condition(condition::SYNCED, "False", dice.reason(), 0, "It failed.");
        status.conditions.truncate(1);
        status.conditions.push(synced);
    }
    let status = Arc::make_mut(&mut scene.credential.status);
    if let Some(token) = status.token.as_mut().filter(|_| dice.one_in(6)) {
        token.renewal_time = token.expires_at.clone();
    }
    if dice.one_in(3) {
        scene = scene.restarted();
    }
    if dice.one_in(4) {
        scene.memory.failure = Some(Arc::new(Remembered {
            failure: dice.failure(),
            attempt: CheckedSpec::from(spec()).attempt(),
            references: [Some(scene.client_seen.clone()), None, None, None],
            unwritten: dice.one_in(3),
        }));
    }
    if dice.one_in(4) {
        scene.memory.put_backs = vec![scene.now; usize::from(dice.throw(5))];
    }
    if dice.one_in(3) {
        scene = scene.renew_requested("a");
        let since = at(dice.second());
        scene.memory.renew_request = Some(("a".to_owned(), since.min(scene.now)));
    }
    shape_the_objects(scene, dice)
}

fn shape_the_objects(mut scene: Scene, dice: &mut Dice) -> Scene {
    scene.client_seen = match dice.throw(8) {
        0 => Seen::Absent,
        1 => Seen::Unknown,
        2 => Seen::Present(version("client-uid", 11)),
        _ => Seen::Present(version("client-uid", 10)),
    };
    if dice.one_in(2) {
        scene.target_seen = dice.seen();
        scene.previous_seen = dice.seen();
    }
    scene.rival = dice.one_in(10).then(|| Rival {
        name: "other".to_owned(),
        owns: dice.one_in(2),
    });
    // Nothing was sent or met after now.
    let past = scene.now.as_second() - at(0).as_second();
    let held = dice.held();
    scene.exchange.held = held.filter(|held| held.sent_at <= scene.now).map(Arc::new);
    if dice.one_in(3) {
        let when = dice.second().min(past);
        let failure = shared(
            dice.shared_reason(),
            1 + u32::from(dice.throw(5)),
            when,
            when + 40,
        );
        scene.exchange.failure = Some(failure.clone());
        let holds = matches!(failure.failure.class(), Class::Outage | Class::Held);
        scene.hold = holds.then_some(failure);
    }
    scene.exchange.not_before = dice.one_in(4).then(|| at(dice.second() + 5));
    if matches!(scene.client_seen, Seen::Present(_)) && !dice.one_in(3) {
        scene = scene.reads_client();
        if dice.one_in(3) {
            scene = scene.asked(dice.second());
            if dice.one_in(2) {
                scene.exchange.asked_at = None;
            }
        }
    } else if scene.client_seen != Seen::Present(version("client-uid", 10)) && dice.one_in(3) {
        // What was used with success once is not found wanting in the same state.
        scene.client = Some(Err(Failure::new(dice.own_reason(), "no client")));
    }
    match dice.throw(4) {
        0 => scene = scene.reads_target(dice.target()),
        1 => scene.target = Some(None),
        _ => {}
    }
    scene.unreadable = dice
        .one_in(8)
        .then(|| Failure::new(dice.own_reason(), "unreadable"));
    match dice.throw(8) {
        0 => {
            let version = dice.version();
            scene.target_seen = Seen::Present(version.clone());
            scene.written = Some(("a-digest".to_owned(), WriteOutcome::Done(version)));
        }
        1 => scene.written = Some((String::new(), WriteOutcome::Changed)),
        2 => {
            let failure = Failure::new(dice.own_reason(), "not written");
            scene.written = Some((String::new(), WriteOutcome::Failed(failure)));
        }
        _ => {}
    }
    if dice.one_in(3) {
        scene.removed.insert("old".to_owned(), Ok(()));
    }
    scene
}

fn scenes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..64)
}

/// The scene after a settle, with what the round had read forgotten, or still there.
fn after(scene: &Scene, forget: bool) -> Scene {
    let settle = scene.settles();
    // Whoever waits for an answer keeps what it has read.
    let mut after = if forget && settle.outcome != Outcome::Waiting {
        scene.clone().ended()
    } else {
        scene.clone()
    };
    if let Some(status) = settle.status {
        after.credential.status = status;
    }
    after.memory = settle.memory;
    after
}

fn is_settled(step: &Step) -> bool {
    matches!(step, Step::Settle(_))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(1), cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn deciding_twice_gives_the_same_step(throws in scenes()) {
        let scene = scene(throws);
        prop_assert_eq!(format!("{:?}", scene.decide()), format!("{:?}", scene.decide()));
    }

    #[test]
    fn a_wake_is_never_in_the_past(throws in scenes()) {
        let scene = scene(throws);
        if let Step::Settle(settle) = scene.decide() {
            prop_assert!(settle.wake.is_none_or(|wake| wake > scene.now), "{settle:?}");
        }
    }

    #[test]
    fn a_failure_never_forgets_the_token_or_the_target(throws in scenes()) {
        let scene = scene(throws);
        if let Step::Settle(settle) = scene.decide()
            && let Some(status) = &settle.status
        {
            let before = scene.status();
            prop_assert!(status.token.is_some() || before.token.is_none(), "{settle:?}");
            prop_assert!(status.target.is_some() || before.target.is_none(), "{settle:?}");
        }
    }

    #[test]
    fn nothing_is_written_where_nothing_changed(throws in scenes()) {
        let scene = scene(throws);
        let first = scene.decide();
        // What becomes of a write is a change.
        if is_settled(&first) && scene.written.is_none() {
            // What failed to be read is another attempt at the next look.
            let failed = matches!(scene.client, Some(Err(_))) || scene.unreadable.is_some();
            // And of a target that was found to be gone, and is a rival's now, the watch is yet to tell.
            let gone = scene.rival.is_some()
                && scene.target == Some(None)
                && matches!(scene.target_seen, Seen::Present(_));
            if !failed && !gone && let Step::Settle(second) = after(&scene, true).decide() {
                prop_assert!(second.status.is_none(), "{first:?}\nand then {second:?}");
            }
            // Looked at again with the same things in hand, only an attempt that failed counts on.
            let Step::Settle(second) = after(&scene, false).decide() else {
                return Ok(());
            };
            let counts = matches!(second.outcome, Outcome::Failed(_));
            prop_assert!(counts || second.status.is_none(), "{first:?}\nand then {second:?}");
        }
    }

    #[test]
    fn nothing_is_asked_for_where_nothing_may_be(throws in scenes()) {
        let scene = scene(throws);
        let forbidden = match &scene.credential.spec {
            Err(_) => true,
            Ok(spec) => {
                spec.suspended()
                    || spec.instance.contains("not-allowed")
                    || spec.target_data().values().any(|t| t.contains("broken"))
            }
        };
        if forbidden || scene.client_seen == Seen::Absent || scene.credential.deleting {
            let step = scene.decide();
            let looks = matches!(step, Step::ReadTarget);
            prop_assert!(is_settled(&step) || looks, "{step:?}");
        }
    }

    #[test]
    fn a_secret_that_is_known_to_be_foreign_is_not_written(throws in scenes()) {
        let scene = scene(throws);
        if let (Some(Some(target)), Step::Write { write, .. }) = (&scene.target, scene.decide()) {
            let whose = judge(target, &scene.credential, CreationPolicy::Owner);
            let ours = matches!(whose, Ownership::Ours | Ownership::Predecessors);
            prop_assert!(ours, "{write:?}");
        }
    }

    #[test]
    fn no_expired_token_is_written_or_called_valid(throws in scenes()) {
        let scene = scene(throws);
        match scene.decide() {
            Step::Write { write, .. } => {
                let expires_at = &write.desired().annotations["snowcred.dev/expires-at"];
                prop_assert!(expires_at.parse::<jiff::Timestamp>().unwrap() > scene.now);
            }
            Step::Settle(settle) if settle.outcome != Outcome::Waiting => {
                let status = settle.status.as_deref().unwrap_or(scene.status());
                let ready = state(status, condition::READY).0 == "True";
                let valid = status.token.as_ref().is_some_and(|t| t.expires_at.0 > scene.now);
                prop_assert!(!ready || valid || scene.credential.deleting, "{settle:?}");
            }
            _ => {}
        }
    }
}
