//! Whose the target is, and how it is written.

use std::collections::BTreeSet;

use super::scene::*;
use crate::{
    api::Reason,
    decide::{
        Failure, Outcome, Seen, Step,
        observed::{Rival, WriteOutcome},
        ownership::{CREDENTIAL, Fields, TargetObject, TargetWrite},
    },
};

fn with_token() -> Scene {
    Scene::new().holding(held("first", 0, 1800)).reads_client()
}

#[test]
fn a_foreign_secret_is_never_touched() {
    let mut scene = Scene::new();
    scene.target_seen = Seen::Present(version("theirs", 7));
    assert!(scene.wants_to_read_target());
    let scene = scene.reads_target(foreign_secret(version("theirs", 7)));
    let end = scene.end();
    assert_eq!(end.outcome, Outcome::Failed(Reason::TargetConflict));
    assert_eq!(end.wake, None);
    let message = end.transition.unwrap().message;
    assert!(
        message.contains("it was last written by \"kubectl\""),
        "{message}"
    );
    let mut scene = scene.ended();
    let quiet = scene.end();
    assert_eq!(
        (quiet.outcome, quiet.status),
        (end.outcome, None),
        "not even read again"
    );
    scene.target_seen = Seen::Present(version("theirs", 8));
    assert!(
        scene.wants_to_read_target(),
        "it has changed, and may be ours now"
    );
    scene.target_seen = Seen::Absent;
    assert!(scene.wants_to_read_client(), "the name is free");
}

#[test]
fn each_foreign_owner_is_named() {
    let owned_by = |kind: &str, name: &str| {
        let mut target = foreign_secret(version("theirs", 7));
        target.controller = Some(owner(kind, name, "some-uid"));
        target
    };
    let mut unsigned = foreign_secret(version("theirs", 7));
    unsigned.others.clear();
    let mut orphan = first_secret(7);
    orphan.controller = None;
    orphan
        .annotations
        .insert(CREDENTIAL.to_owned(), "other".to_owned());
    for (target, whose) in [
        (
            owned_by("Deployment", "web"),
            "controlled by Deployment \"web\"",
        ),
        (
            owned_by("ServiceNowCredential", "other"),
            "ServiceNowCredential \"other\"",
        ),
        (unsigned, "nothing says who wrote it"),
        (orphan, "the ServiceNowCredential \"other\" wrote it"),
    ] {
        let failure = Scene::new()
            .reads_target(target)
            .ended()
            .status()
            .failure
            .clone();
        let message = failure.unwrap().message;
        assert!(message.contains(whose), "{message}");
    }
}

#[test]
fn a_secret_that_appears_meanwhile_is_looked_at_before_it_is_joined() {
    let scene = with_token();
    scene.writes();
    let scene = scene.write_ended(WriteOutcome::Changed);
    assert!(scene.wants_to_read_target());
    let scene = scene.reads_target(foreign_secret(version("theirs", 7)));
    assert_eq!(scene.end().outcome, Outcome::Failed(Reason::TargetConflict));
}

#[test]
fn a_secret_that_was_replaced_while_it_was_written_is_written_under_its_new_uid() {
    let scene = Scene::synced().at(1200).reads_client().asked(1200);
    let scene = scene.answered(Ok(held("second", 1200, 1800)));
    let (write, _) = scene.writes();
    assert!(matches!(&write, TargetWrite::Apply { uid, .. } if uid == "itsm-secret-uid"));
    let scene = scene.write_ended(WriteOutcome::Changed);
    let mut replaced = first_secret(120);
    replaced.version.uid = "another-uid".to_owned();
    let (write, _) = scene.reads_target(replaced).writes();
    assert!(matches!(&write, TargetWrite::Apply { uid, .. } if uid == "another-uid"));
}

#[test]
fn a_secret_that_vanished_while_it_was_written_is_created() {
    let scene = Scene::synced().at(1200).reads_client().asked(1200);
    let scene = scene.answered(Ok(held("second", 1200, 1800)));
    let mut scene = scene.write_ended(WriteOutcome::Changed);
    assert!(scene.wants_to_read_target());
    scene.target = Some(None);
    assert!(matches!(scene.writes().0, TargetWrite::Create(_)));
}

#[test]
fn a_secret_that_changed_while_it_was_written_and_cannot_be_read_is_looked_at_later() {
    let scene = Scene::synced().at(1200).reads_client().asked(1200);
    let scene = scene.answered(Ok(held("second", 1200, 1800)));
    let mut scene = scene.write_ended(WriteOutcome::Changed);
    assert!(scene.wants_to_read_target());
    scene.unreadable = Some(Failure::new(Reason::InternalError, "not now"));
    let end = scene.end();
    assert_eq!(end.outcome, Outcome::Failed(Reason::InternalError));
    assert_eq!(end.wake, Some(at(1201)));
}

#[test]
fn a_predecessors_secret_is_taken_over() {
    let mut by_owner = first_secret(100);
    by_owner.controller = Some(owner("ServiceNowCredential", "itsm", "an-earlier-uid"));
    let mut by_name = first_secret(100);
    by_name.controller = None;
    for target in [by_owner, by_name] {
        let version = target.version.clone();
        let scene = Scene::new().at(2).reads_target(target);
        assert!(
            scene.wants_to_read_client(),
            "its token is not taken for ours"
        );
        let scene = scene.reads_client().holding(held("second", 2, 1800));
        let (write, put_back) = scene.writes();
        assert!(!put_back);
        let TargetWrite::Replace {
            version: seen,
            dropped,
            ..
        } = &write
        else {
            panic!("{write:?}")
        };
        assert_eq!((seen, dropped), (&version, &Fields::default()));
    }
}

#[test]
fn a_secret_that_only_says_our_name_is_foreign() {
    let mut target = foreign_secret(version("theirs", 7));
    target
        .annotations
        .insert(CREDENTIAL.to_owned(), "itsm".to_owned());
    let end = Scene::new().reads_target(target).end();
    assert_eq!(end.outcome, Outcome::Failed(Reason::TargetConflict));
}

#[test]
fn a_dropped_key_leaves_by_replacement() {
    let scene = Scene::synced().with_target(|target| {
        target.data = Some([("bearer".to_owned(), "Bearer {{ token }}".to_owned())].into());
    });
    let scene = scene.reads_client();
    assert!(
        scene.wants_to_read_target(),
        "only the Secret tells what it holds"
    );
    let scene = scene.reads_target(first_secret(100));
    let (write, put_back) = scene.writes();
    assert!(!put_back);
    let TargetWrite::Replace {
        version: seen,
        desired,
        dropped,
    } = &write
    else {
        panic!("{write:?}")
    };
    assert_eq!(*seen, version("itsm-secret-uid", 100));
    assert_eq!(desired.data.keys().collect::<Vec<_>>(), ["bearer"]);
    let expected = Fields {
        data: BTreeSet::from(["token".to_owned()]),
        ..Fields::default()
    };
    assert_eq!(*dropped, expected);
    let scene = scene.wrote(&write, 101).ended();
    assert_eq!(
        scene.end().wake,
        Some(at(1200)),
        "and no token was asked for"
    );
}

#[test]
fn an_added_key_arrives_by_apply() {
    let scene = Scene::synced().with_target(|target| {
        let entries = [("token", "{{ token }}"), ("bearer", "Bearer {{ token }}")];
        target.data = Some(entries.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    });
    let scene = scene.reads_client().reads_target(first_secret(100));
    let (write, put_back) = scene.writes();
    assert!(matches!(write, TargetWrite::Apply { .. }), "{write:?}");
    assert!(!put_back);
}

fn rival(name: &str, owns: bool) -> Option<Rival> {
    let name = name.to_owned();
    Some(Rival { name, owns })
}

#[test]
fn the_older_of_two_resources_gets_the_target() {
    let mut younger = Scene::new();
    younger.rival = rival("older", false);
    let end = younger.end();
    assert_eq!(end.outcome, Outcome::Failed(Reason::TargetConflict));
    assert_eq!(end.wake, None);
    let message = &end.transition.as_ref().unwrap().message;
    assert!(
        message.contains("ServiceNowCredential \"older\""),
        "{message}"
    );
    // Behind a known owner nothing is read, as often as that renews.
    let mut behind = younger.clone();
    behind.rival = rival("older", true);
    behind.target_seen = Seen::Present(version("theirs", 7));
    assert_eq!(behind.end(), end);
    let mut older = Scene::new();
    older.rival = None;
    assert!(older.wants_to_read_client());
    let mut freed = younger.ended();
    freed.rival = None;
    assert!(freed.wants_to_read_client());
}

#[test]
fn the_present_owner_keeps_a_target_that_no_status_tells_of_yet() {
    let (mut scene, new) = old_target_left(Reason::InternalError);
    scene.rival = rival("older", false);
    assert!(scene.wants_to_read_target());
    let scene = scene.reads_target(new).reads_client();
    assert!(matches!(scene.decide(), Step::RemovePrevious { .. }));
    // The older one leaves it alone.
    let mut older = Scene::new();
    let mut theirs = foreign_secret(version("new-secret-uid", 110));
    theirs.controller = Some(owner("ServiceNowCredential", "younger", "younger-uid"));
    older.target_seen = Seen::Present(theirs.version.clone());
    let older = older.reads_target(theirs).ended();
    assert_eq!(older.synced_state(), is("False", Reason::TargetConflict));
    // It says the same, however it knows of the other.
    let mut told = older.clone();
    told.rival = rival("younger", true);
    assert_eq!(told.end().status, None);
    assert_eq!(told.ended().status(), older.status());
}

#[test]
fn a_target_that_was_created_anew_in_this_round_is_not_yielded_to_an_older_resource() {
    let scene = Scene::synced().at(1200).reads_client().asked(1200);
    let scene = scene.answered(Ok(held("second", 1200, 1800)));
    let mut scene = scene.write_ended(WriteOutcome::Changed);
    scene.target = Some(None);
    let (write, _) = scene.writes();
    let mut scene = scene.wrote(&write, 120);
    scene.rival = rival("older", false);
    let scene = scene.ended();
    assert_eq!(scene.synced_state(), is("True", Reason::TokenSynced));
    assert_eq!(scene.end().wake, Some(at(2400)));
}

#[test]
fn what_is_read_tells_better_than_the_watch_whether_there_is_a_secret_to_yield() {
    let mut scene = Scene::new();
    scene.rival = rival("older", false);
    // Nobody has seen it yet.
    scene.target_seen = Seen::Unknown;
    assert!(scene.wants_to_read_target());
    let theirs = foreign_secret(version("theirs", 7));
    let said = scene.clone().reads_target(theirs).ended();
    let message = &said.status().failure.as_ref().unwrap().message;
    assert!(message.contains("last written by \"kubectl\""), "{message}");
    let yields = |scene: &Scene| {
        let message = scene.end().transition.unwrap().message;
        message.contains("ServiceNowCredential \"older\", which came first")
    };
    scene.target = Some(None);
    assert!(yields(&scene));
    // It was deleted, and the watch is behind.
    scene.target_seen = Seen::Present(version("itsm-secret-uid", 100));
    assert!(yields(&scene));
}

/// The resource wants its Secret under another name, and nothing stands there yet.
fn renamed() -> Scene {
    let mut scene = Scene::synced().with_target(|target| target.name = Some("new".to_owned()));
    scene.previous_seen = scene.target_seen.clone();
    scene.target_seen = Seen::Absent;
    scene
}

/// The target of the new name was written, and that of the old one, which the status still names, could
/// not be removed; with the new one.
fn old_target_left(reason: Reason) -> (Scene, TargetObject) {
    let scene = renamed().reads_client();
    let (write, _) = scene.writes();
    let mut scene = scene.wrote(&write, 110);
    let left = Failure::new(reason, "it is left");
    scene.removed.insert("itsm".to_owned(), Err(left));
    let version = version("new-secret-uid", 110);
    let new = secret_of(&scene.credential, write.desired(), version);
    (scene.ended().at(3), new)
}

#[test]
fn a_renamed_target_is_moved_new_first() {
    let scene = renamed().reads_client();
    let (write, _) = scene.writes();
    let TargetWrite::Create(desired) = &write else {
        panic!("{write:?}")
    };
    assert_eq!(desired.name, "new");
    let mut scene = scene.wrote(&write, 110);
    let Step::RemovePrevious { name, uid, .. } = scene.decide() else {
        panic!("{:?}", scene.decide())
    };
    assert_eq!((name.as_str(), uid.as_str()), ("itsm", "itsm-secret-uid"));
    scene.removed.insert("itsm".to_owned(), Ok(()));
    let scene = scene.ended();
    let target = scene.status().target.clone().unwrap();
    assert_eq!(
        (target.name.as_str(), target.uid.as_str()),
        ("new", "new-secret-uid")
    );
    assert_eq!(
        scene.end().wake,
        Some(at(1200)),
        "and no token was asked for"
    );
}

#[test]
fn an_old_target_that_cannot_be_removed_is_not_forgotten() {
    let (scene, new) = old_target_left(Reason::PermissionDenied);
    assert_eq!(scene.synced_state(), is("False", Reason::PermissionDenied));
    assert_eq!(scene.ready(), is("True", Reason::TokenValid));
    assert_eq!(scene.status().target.as_ref().unwrap().name, "itsm");
    assert!(scene.wants_to_read_target());
    let scene = scene.reads_target(new).reads_client();
    assert!(
        matches!(scene.decide(), Step::RemovePrevious { .. }),
        "{:?}",
        scene.decide()
    );
}

#[test]
fn the_old_target_stays_when_the_new_name_is_taken() {
    let scene = renamed().reads_target(foreign_secret(version("theirs", 7)));
    let scene = scene.ended();
    assert_eq!(scene.synced_state(), is("False", Reason::TargetConflict));
    assert_eq!(scene.ready(), is("True", Reason::TokenValid));
    let expected = Scene::synced().status().target.clone();
    assert_eq!(scene.status().target, expected);
}

#[test]
fn an_old_target_of_which_nothing_is_known_is_removed_to_be_sure() {
    let mut scene = renamed();
    scene.previous_seen = Seen::Unknown;
    let scene = scene.reads_client();
    let (write, _) = scene.writes();
    let scene = scene.wrote(&write, 110);
    assert!(matches!(scene.decide(), Step::RemovePrevious { .. }));
}

#[test]
fn an_old_target_that_is_another_by_now_is_left() {
    let mut scene = renamed();
    scene.previous_seen = Seen::Present(version("theirs", 300));
    let scene = scene.reads_client();
    let (write, _) = scene.writes();
    let scene = scene.wrote(&write, 110);
    assert_eq!(scene.end().outcome, Outcome::Synced);
}

#[test]
fn a_target_that_cannot_be_read_is_backed_off() {
    let mut scene = Scene::new();
    scene.target_seen = Seen::Present(version("some", 7));
    scene.unreadable = Some(Failure::new(
        Reason::PermissionDenied,
        "get secrets is forbidden",
    ));
    let end = scene.end();
    assert_eq!(end.outcome, Outcome::Failed(Reason::PermissionDenied));
    assert_eq!(end.wake, Some(at(1)));
}
