//! Secrets that are left behind, and Secrets of others that some keys are merged into.

use std::collections::{BTreeMap, BTreeSet};

use super::scene::*;
use crate::{
    api::{CreationPolicy, Reason},
    decide::{
        Failure, Outcome, Seen, Step,
        observed::WriteOutcome,
        ownership::{
            ALLOW_MERGE, Fields, Ownership, TargetObject, TargetWrite, field_manager, judge,
        },
    },
};

fn with_policy(scene: Scene, policy: CreationPolicy) -> Scene {
    let mut scene = scene.with_target(|target| {
        target.name = Some("app".to_owned());
        target.creation_policy = Some(policy);
    });
    scene.credential.generation = 1;
    scene
}

/// Somebody's Secret, opened to these resources.
fn open(allowed: &str) -> TargetObject {
    let mut secret = foreign_secret(version("app-uid", 7));
    secret.data = BTreeMap::from([("url".to_owned(), b"https://example.com".to_vec())]);
    secret.theirs = BTreeMap::from([("url".to_owned(), "kubectl".to_owned())]);
    let allow = (ALLOW_MERGE.to_owned(), allowed.to_owned());
    secret.annotations = BTreeMap::from([allow]);
    secret
}

fn merging() -> Scene {
    with_policy(Scene::new(), CreationPolicy::Merge)
}

/// The Secret after the resource has merged its key.
fn merged(data: &str) -> TargetObject {
    let mut secret = open("itsm");
    secret.version = version("app-uid", 8);
    secret.data.insert("token".to_owned(), data.into());
    secret.ours = Fields {
        data: BTreeSet::from(["token".to_owned()]),
        ..Fields::default()
    };
    secret
}

/// A resource whose key stands in somebody's Secret.
fn synced() -> Scene {
    let mut scene = merging().reads_target(open("crm, itsm")).reads_client();
    scene.credential.finalizer = true;
    let scene = scene.holding(held("first", 0, 1800));
    let (write, _) = scene.writes();
    scene.wrote(&write, 8).ended().at(1)
}

#[test]
fn nothing_is_asked_for_before_the_secret_to_merge_into_is_there_and_open() {
    let absent = merging();
    assert_eq!(absent.end().outcome, Outcome::Failed(Reason::TargetMissing));
    let mut unknown = merging();
    unknown.target_seen = Seen::Unknown;
    assert!(unknown.wants_to_read_target());
    for allowed in ["", "crm", "itsm2,xitsm"] {
        let closed = merging().reads_target(open(allowed)).end();
        assert_eq!(
            closed.outcome,
            Outcome::Failed(Reason::TargetConflict),
            "{allowed}"
        );
    }
    assert!(
        merging()
            .reads_target(open("crm, itsm"))
            .wants_to_read_client()
    );
}

#[test]
fn the_finalizer_is_there_before_the_first_key() {
    let scene = merging().reads_target(open("itsm")).reads_client();
    let mut scene = scene.holding(held("first", 0, 1800));
    assert!(matches!(scene.decide(), Step::SetFinalizer(true)));
    scene.finalized = Some(Ok(()));
    let (write, put_back) = scene.writes();
    let TargetWrite::Merge { uid, desired } = &write else {
        panic!("{write:?}")
    };
    assert_eq!((uid.as_str(), put_back), ("app-uid", false));
    assert!(desired.labels.is_empty() && desired.annotations.is_empty() && !desired.owned);
    let forbidden = Failure::new(Reason::PermissionDenied, "patch is forbidden");
    scene.finalized = Some(Err(forbidden));
    assert_eq!(
        scene.end().outcome,
        Outcome::Failed(Reason::PermissionDenied)
    );
}

#[test]
fn a_merged_key_that_was_removed_is_put_back_and_one_that_was_edited_is_left() {
    let mut removed = merged("first");
    removed.version = version("app-uid", 9);
    removed.data.remove("token");
    removed.ours = Fields::default();
    let scene = synced().reads_target(removed).reads_client();
    let (write, put_back) = scene.holding(held("first", 0, 1800)).writes();
    assert!(
        matches!(write, TargetWrite::Merge { .. }) && put_back,
        "{write:?}"
    );
    let mut edited = merged("mine");
    edited.version = version("app-uid", 9);
    edited.ours = Fields::default();
    edited
        .theirs
        .insert("token".to_owned(), "kubectl-edit".to_owned());
    let scene = synced().reads_target(edited).ended();
    assert_eq!(scene.synced_state(), is("False", Reason::TargetConflict));
    assert_eq!(scene.ready(), is("False", Reason::TargetConflict));
    let message = &scene.status().failure.as_ref().unwrap().message;
    assert!(message.contains("\"kubectl-edit\""), "{message}");
    // Another key is nobody's.
    let other = scene.clone().with_target(|target| {
        target.data = Some([("other".to_owned(), "{{ token }}".to_owned())].into());
    });
    assert!(other.wants_to_read_target());
    assert_eq!(
        scene.end().wake,
        Some(at(1800)),
        "and it is not looked at again and again"
    );
}

#[test]
fn a_key_that_the_api_server_refuses_to_merge_is_a_conflict() {
    let scene = synced().at(1300).reads_client().asked(1299);
    let scene = scene.answered(Ok(held("second", 1300, 1800)));
    let (write, _) = scene.writes();
    assert!(matches!(write, TargetWrite::Merge { .. }), "{write:?}");
    let refused = WriteOutcome::Conflict("conflict with \"other\": .data.token".to_owned());
    let end = scene.write_ended(refused).end();
    assert_eq!(end.outcome, Outcome::Failed(Reason::TargetConflict));
}

#[test]
fn that_a_token_ends_sooner_is_found_out_where_the_status_that_told_so_was_not_written() {
    let mut sooner = held("first", 0, 1500);
    sooner.sent_at = at(1200);
    sooner.kept = true;
    let scene = synced().at(1200).reads_client().asked(1200);
    let mut scene = scene.answered(Ok(sooner));
    let mut settle = scene.settles();
    assert_eq!(settle.outcome, Outcome::Synced);
    settle.status_unwritten(scene.now);
    scene.memory = settle.memory;
    scene.asked_at = None;
    scene.client = None;
    let scene = scene.at(1202);
    assert!(
        scene.wants_to_read_client(),
        "its record says that it is due"
    );
    let status = scene.reads_client().ended().status().clone();
    assert_eq!(status.token.unwrap().expires_at.0, at(1500));
}

#[test]
fn a_moved_expiry_alone_is_no_reason_to_merge_again() {
    let mut slid = held("first", 1200, 1800);
    slid.sent_at = at(1200);
    let scene = synced()
        .at(1200)
        .reads_client()
        .asked(1199)
        .answered(Ok(slid));
    let end = scene.end();
    assert_eq!(end.outcome, Outcome::Synced);
    let token = end.status.unwrap().token.unwrap();
    assert_eq!(token.expires_at.0, at(3000));
}

#[test]
fn a_resource_that_goes_takes_its_keys_out_and_lets_go_whatever_comes_of_it() {
    for taken_out in [
        Ok(()),
        Err(Failure::new(Reason::PermissionDenied, "forbidden")),
    ] {
        let mut scene = synced();
        scene.credential.deleting = true;
        let Step::RemovePrevious { name, policy, .. } = scene.decide() else {
            panic!("{:?}", scene.decide())
        };
        assert_eq!((name.as_str(), policy), ("app", CreationPolicy::Merge));
        let told = taken_out.is_err();
        scene.removed.insert(name, taken_out);
        assert!(matches!(scene.decide(), Step::SetFinalizer(false)));
        scene.finalized = Some(Ok(()));
        let end = scene.end();
        assert_eq!((end.outcome, end.wake), (Outcome::Idle, None));
        assert_eq!(end.transition.is_some(), told);
    }
}

#[test]
fn a_finalizer_that_stays_is_tried_again() {
    let mut scene = synced();
    scene.credential.deleting = true;
    scene.removed.insert("app".to_owned(), Ok(()));
    scene.finalized = Some(Err(Failure::new(Reason::PermissionDenied, "forbidden")));
    let end = scene.end();
    assert_eq!(end.outcome, Outcome::Failed(Reason::PermissionDenied));
    assert_eq!(end.wake, Some(at(3)));
}

#[test]
fn keys_that_cannot_be_taken_out_right_now_are_taken_out_later() {
    let mut scene = synced();
    scene.credential.deleting = true;
    let mut waited = 0;
    for round in 0..6 {
        let down = Failure::new(Reason::InternalError, "the API server is away");
        scene.removed.insert("app".to_owned(), Err(down));
        let end = scene.end();
        assert_eq!((end.transition.is_some(), end.status), (round == 0, None));
        waited += end.wake.unwrap().duration_since(scene.now).as_secs();
        scene = scene.ended();
    }
    assert_eq!(waited, 126);
    let down = Failure::new(Reason::InternalError, "the API server is away");
    scene.removed.insert("app".to_owned(), Err(down));
    assert!(matches!(scene.decide(), Step::SetFinalizer(false)));
}

#[test]
fn a_finalizer_that_somebody_drops_is_put_back() {
    let mut scene = synced();
    scene.credential.finalizer = false;
    assert!(matches!(scene.decide(), Step::SetFinalizer(true)));
}

#[test]
fn an_orphan_of_another_resource_gives_its_token_to_nobody() {
    let mut orphan = first_secret(100);
    orphan.controller = None;
    let mut scene = Scene::new().with_target(|target| {
        target.creation_policy = Some(CreationPolicy::Orphan);
    });
    scene.credential.generation = 1;
    scene.credential.created_at = at(60);
    let scene = scene.at(61).reads_target(orphan);
    assert!(
        scene.wants_to_read_client(),
        "a token of its own is asked for"
    );
}

#[test]
fn whoever_merges_into_the_clients_own_secret_has_used_it_as_it_is_then() {
    let mut scene = with_policy(Scene::new(), CreationPolicy::Merge);
    scene.credential.finalizer = true;
    let client = version("app-uid", 7);
    scene.client_seen = Seen::Present(client);
    let scene = scene.reads_target(open("itsm")).reads_client();
    let scene = scene.holding(held("first", 0, 1800));
    let (write, _) = scene.writes();
    let scene = scene.wrote(&write, 8).ended();
    assert_eq!(scene.status().observed[0].resource_version, "8");
}

#[test]
fn a_resource_that_merges_no_more_holds_no_finalizer() {
    let mut scene = synced().with_target(|target| {
        target.name = Some("own".to_owned());
        target.creation_policy = None;
    });
    scene.previous_seen = scene.target_seen.clone();
    scene.target_seen = Seen::Absent;
    let scene = scene.reads_client().holding(held("first", 0, 1800));
    let (write, _) = scene.writes();
    let mut scene = scene.wrote(&write, 20);
    let Step::RemovePrevious { name, policy, .. } = scene.decide() else {
        panic!("{:?}", scene.decide())
    };
    assert_eq!((name.as_str(), policy), ("app", CreationPolicy::Merge));
    scene.removed.insert(name, Ok(()));
    assert!(matches!(scene.decide(), Step::SetFinalizer(false)));
    scene.finalized = Some(Ok(()));
    assert_eq!(scene.end().outcome, Outcome::Synced);
}

#[test]
fn an_orphan_is_ours_by_its_annotation_and_by_what_we_hold_of_it() {
    let mut orphan = first_secret(100);
    orphan.controller = None;
    let scene = Scene::new();
    let whose = |policy| judge(&orphan, &scene.credential, policy);
    assert_eq!(whose(CreationPolicy::Orphan), Ownership::Ours);
    assert_eq!(whose(CreationPolicy::Owner), Ownership::Predecessors);
    let owned = first_secret(100);
    let whose = judge(&owned, &scene.credential, CreationPolicy::Orphan);
    assert_eq!(whose, Ownership::Predecessors, "it would go with its owner");
}

#[test]
fn an_orphan_is_created_without_an_owner_and_left_when_it_is_renamed() {
    let scene = with_policy(Scene::new(), CreationPolicy::Orphan).reads_client();
    let scene = scene.holding(held("first", 0, 1800));
    let (write, _) = scene.writes();
    assert!(matches!(&write, TargetWrite::Create(desired) if !desired.owned));
    let mut scene = scene.wrote(&write, 8).ended().at(1);
    scene = scene.with_target(|target| target.name = Some("new".to_owned()));
    scene.previous_seen = scene.target_seen.clone();
    scene.target_seen = Seen::Absent;
    let scene = scene.reads_client().holding(held("first", 0, 1800));
    let (write, _) = scene.writes();
    assert_eq!(scene.wrote(&write, 20).end().outcome, Outcome::Synced);
}

#[test]
fn a_field_manager_fits_whatever_the_resource_is_called() {
    let long = field_manager(&"a".repeat(253), CreationPolicy::Merge);
    let other = field_manager(&format!("{}b", "a".repeat(252)), CreationPolicy::Merge);
    assert!(long.len() <= 128 && other.len() <= 128);
    assert_ne!(long, other);
    let short = field_manager("itsm", CreationPolicy::Merge);
    assert_eq!(short, "servicenow-credential-operator/itsm");
}

#[test]
fn a_secret_that_keys_were_merged_into_is_not_taken_over_by_another_policy() {
    for policy in [CreationPolicy::Owner, CreationPolicy::Orphan] {
        // Another name, where it came to nothing, lies between the two specs.
        let scene = synced().with_target(|target| target.creation_policy = Some(policy));
        assert!(scene.wants_to_read_target(), "{policy:?}");
        let scene = scene.reads_target(merged("first")).ended();
        assert_eq!(scene.synced_state(), is("False", Reason::TargetConflict));
    }
}

#[test]
fn whose_secret_it_is_that_is_not_open_is_said() {
    let mut owned = first_secret(7);
    owned.controller = Some(owner("ServiceNowCredential", "other", "other-uid"));
    let end = merging().reads_target(owned.clone()).end();
    assert_eq!(end.outcome, Outcome::Failed(Reason::TargetConflict));
    let message = end.transition.unwrap().message;
    let whose = "its owner, ServiceNowCredential \"other\", has not opened it";
    assert!(message.contains(whose), "{message}");
    // Its owner's word counts, whoever that is.
    owned
        .annotations
        .insert(ALLOW_MERGE.to_owned(), "itsm".to_owned());
    assert!(merging().reads_target(owned).wants_to_read_client());
}
