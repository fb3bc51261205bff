//! Put-backs in spite of waits, and fights.

use jiff::SignedDuration;

use super::scene::*;
use crate::{
    api::Reason,
    decide::{Failure, Outcome, Seen, observed::WriteOutcome, ownership::TargetWrite},
};

#[test]
fn a_deleted_target_comes_back_without_a_new_token() {
    let scene = Scene::synced().at(10).target_deleted();
    assert!(scene.wants_to_read_client());
    let scene = scene.reads_client();
    let (write, put_back) = scene.writes();
    assert!(put_back);
    assert!(matches!(write, TargetWrite::Create(_)), "{write:?}");
    let scene = scene.wrote(&write, 102).ended();
    assert_eq!(scene.ready(), is("True", Reason::TokenValid));
    assert_eq!(scene.end().wake, Some(at(1200)));
}

#[test]
fn a_deleted_target_comes_back_while_its_origin_is_down() {
    let outage = shared(Reason::InstanceUnavailable, 5, 5, 30);
    let scene = Scene::synced().at(10).held_by(outage).target_deleted();
    let scene = scene.reads_client();
    let (write, put_back) = scene.writes();
    assert!(put_back);
    let scene = scene.wrote(&write, 102);
    assert_eq!(scene.end().outcome, Outcome::Synced);
}

#[test]
fn a_deleted_target_comes_back_with_the_old_token_while_the_new_one_is_refused() {
    let scene = Scene::synced().at(1200).reads_client().asked(1200);
    let refused = shared(Reason::AccessDenied, 1, 1200, 1230);
    let scene = scene
        .answered(Err(refused))
        .ended()
        .at(1210)
        .target_deleted();
    let scene = scene.reads_client();
    let (write, put_back) = scene.writes();
    assert!(put_back);
    let scene = scene.wrote(&write, 102).ended();
    assert_eq!(scene.synced_state(), is("False", Reason::AccessDenied));
    assert_eq!(scene.ready(), is("True", Reason::TokenValid));
    assert_eq!(
        scene.status().target.as_ref().unwrap().resource_version,
        "102"
    );
    let end = scene.reads_client().end();
    assert_eq!((end.status, end.wake), (None, Some(at(1230))));
}

#[test]
fn a_deleted_target_is_put_back_before_the_answer_that_is_waited_for() {
    let scene = Scene::synced()
        .at(1201)
        .reads_client()
        .asked(1200)
        .target_deleted();
    let (write, _) = scene.writes();
    let end = scene.wrote(&write, 102).end();
    assert_eq!(end.outcome, Outcome::Waiting);
}

#[test]
fn what_was_put_back_is_on_record_before_its_successor_is_asked_for() {
    let scene = Scene::synced().at(1200).target_deleted().reads_client();
    let (write, _) = scene.writes();
    let scene = scene.wrote(&write, 102);
    let end = scene.end();
    let soon = at(1200) + SignedDuration::from_millis(1);
    assert_eq!((end.outcome, end.wake), (Outcome::Waiting, Some(soon)));
    let recorded = end.status.expect("it is on record");
    assert_eq!(recorded.token, Scene::synced().status().token);
    assert_eq!(recorded.target.unwrap().resource_version, "102");
    scene.ended().reads_client().asks();
}

#[test]
fn an_expired_token_is_not_put_back() {
    let refused = shared(Reason::AccessDenied, 9, 1790, 5000);
    let scene = Scene::synced().at(1800).target_deleted().reads_client();
    let mut scene = scene.asked(1790).answered(Err(refused)).ended();
    assert_eq!(scene.ready(), is("False", Reason::AccessDenied));
    scene = scene.reads_client();
    assert_eq!(scene.end().outcome, Outcome::Failed(Reason::AccessDenied));
}

#[test]
fn ready_is_false_while_an_edited_target_cannot_be_put_back() {
    let mut edited = first_secret(101);
    edited.data.insert("token".to_owned(), b"mine".to_vec());
    edited.last_written_by_us = false;
    let outage = shared(Reason::InstanceUnavailable, 1, 5, 30);
    // A process that has just begun has no token at hand.
    let scene = Scene::synced().restarted().at(10).held_by(outage);
    let scene = scene.reads_client();
    let away = scene.clone().reads_target(edited).ended();
    assert_eq!(away.ready(), is("False", Reason::InstanceUnavailable));
    // It stays so as long as the Secret stays as it is, read again or not.
    let suspended = away.with_spec(|spec| spec.suspend = Some(true)).ended();
    assert_eq!(suspended.ready(), is("Unknown", Reason::Pending));
    // The token is there, whatever else was changed.
    let mut labelled = first_secret(101);
    labelled.labels.clear();
    let stands = scene.reads_target(labelled).ended();
    assert_eq!(stands.ready(), is("True", Reason::TokenValid));
}

#[test]
fn ready_is_not_true_where_a_token_was_edited_away_whatever_keeps_it_from_being_put_back() {
    let mut edited = first_secret(101);
    edited.data.insert("token".to_owned(), b"mine".to_vec());
    edited.last_written_by_us = false;
    // Whoever takes a key out leaves no trace.
    let mut emptied = first_secret(101);
    emptied.data.clear();
    let mut gone = Scene::synced();
    gone.client_seen = Seen::Absent;
    let suspended = Scene::synced().with_spec(|spec| spec.suspend = Some(true));
    for (scene, ready) in [
        (gone, is("False", Reason::ClientSecretMissing)),
        (suspended, is("Unknown", Reason::Pending)),
    ] {
        let kept = scene.clone().ended();
        assert_eq!(kept.ready(), is("True", Reason::TokenValid));
        for target in [&edited, &emptied] {
            let mut touched = kept.clone();
            touched.target_seen = Seen::Present(target.version.clone());
            assert!(touched.wants_to_read_target(), "{ready:?}");
            let touched = touched.reads_target(target.clone()).ended();
            assert_eq!(touched.ready(), ready);
            assert!(!touched.wants_to_read_target(), "once");
            let restarted = touched.restarted();
            assert!(restarted.wants_to_read_target(), "{ready:?}");
            let restarted = restarted.reads_target(target.clone()).ended();
            assert_eq!(restarted.ready(), ready);
        }
        let put_back = kept.reads_target(first_secret(102)).ended();
        assert_eq!(put_back.ready(), is("True", Reason::TokenValid));
    }
}

#[test]
fn a_key_beside_the_token_or_another_spec_makes_no_token_lost() {
    let two = Scene::new().with_spec(|spec| {
        let keys = [("token", "{{ token }}"), ("url", "{{ instance_url }}")];
        let keys = keys.map(|(key, template)| (key.to_owned(), template.to_owned()));
        spec.target.get_or_insert_default().data = Some(keys.into());
    });
    let two = two.holding(held("first", 0, 1800)).reads_client();
    let (write, _) = two.writes();
    let mut gone = two.wrote(&write, 100).ended().at(1);
    gone.client_seen = Seen::Absent;
    let gone = gone.reads_target(first_secret(101)).ended();
    assert_eq!(gone.ready(), is("True", Reason::TokenValid));
    // Written for a spec whose key has another name by now, as a new process finds it.
    let mut renamed = Scene::synced().restarted().with_spec(|spec| {
        let data = [("bearer".to_owned(), "{{ token }}".to_owned())].into();
        spec.target.get_or_insert_default().data = Some(data);
    });
    renamed.client_seen = Seen::Absent;
    let renamed = renamed.reads_target(first_secret(101)).ended();
    assert_eq!(renamed.ready(), is("True", Reason::TokenValid));
}

#[test]
fn a_target_whose_put_back_nobody_heard_of_is_known_again_while_the_instance_is_down() {
    let outage = || shared(Reason::InstanceUnavailable, 1, 1200, 1201);
    let scene = Scene::synced().at(1200).held_by(outage()).target_deleted();
    let scene = scene.reads_client();
    let (write, put_back) = scene.writes();
    assert!(matches!(write, TargetWrite::Create(_)) && put_back);
    let unheard = Failure::new(Reason::InternalError, "no answer in time");
    let scene = scene.write_ended(WriteOutcome::Failed(unheard)).ended();
    assert_eq!(scene.ready(), is("False", Reason::InternalError));
    let mut there = first_secret(102);
    there.version.uid = "another-uid".to_owned();
    let scene = scene.at(1300).held_by(outage()).reads_client();
    let scene = scene.reads_target(there).ended();
    assert_eq!(scene.ready(), is("True", Reason::TokenValid));
    assert_eq!(scene.status().target.as_ref().unwrap().uid, "another-uid");
}

#[test]
fn ready_stays_true_when_a_status_that_told_of_a_new_token_could_not_be_written() {
    let scene = Scene::synced().at(1200).reads_client().asked(1200);
    let scene = scene.answered(Ok(held("second", 1200, 1800)));
    let (write, _) = scene.writes();
    let mut scene = scene.wrote(&write, 101);
    let told = scene.credential.status.clone();
    scene = scene.ended();
    scene.credential.status = told;
    let mut secret = first_secret(101);
    let desired = write.desired();
    secret.annotations.clone_from(&desired.annotations);
    secret.data.insert("token".to_owned(), b"second".to_vec());
    // Whole seconds do not tell who wrote last.
    secret.last_written_by_us = false;
    let scene = scene.at(1202).reads_target(secret).reads_client().ended();
    assert_eq!(scene.ready(), is("True", Reason::TokenValid));
    assert_eq!(
        scene.status().token.as_ref().unwrap().expires_at.0,
        at(3000)
    );
}

#[test]
fn an_edited_target_is_put_back_and_an_annotated_one_is_left() {
    let mut edited = first_secret(101);
    edited.data.insert("token".to_owned(), b"mine".to_vec());
    let scene = Scene::synced().at(10).reads_target(edited).reads_client();
    let (write, put_back) = scene.writes();
    assert!(put_back);
    assert!(matches!(write, TargetWrite::Apply { .. }), "{write:?}");

    let mut annotated = first_secret(101);
    annotated
        .annotations
        .insert("example.com/note".to_owned(), "hello".to_owned());
    let scene = Scene::synced().at(10).reads_target(annotated);
    let end = scene.end();
    assert_eq!(end.outcome, Outcome::Synced);
    let target = end.status.unwrap().target.unwrap();
    assert_eq!(target.resource_version, "101");
}

#[test]
fn a_fight_over_the_secret_is_backed_off_and_named() {
    let mut edited = first_secret(104);
    edited.data.insert("token".to_owned(), b"mine".to_vec());
    edited.others = vec!["a-backup-tool".to_owned()];
    let mut scene = Scene::synced().at(10).reads_client();
    scene.memory.put_backs = vec![at(1), at(4), at(7)];
    let scene = scene.reads_target(edited.clone());
    let settle = scene.settles();
    let failure = settle.status.unwrap().failure.clone().unwrap();
    assert_eq!(failure.reason, "TargetConflict");
    assert!(
        failure.message.contains("\"a-backup-tool\" edits it"),
        "{failure:?}"
    );
    assert_eq!(settle.wake, Some(at(70)));
    // Until then it is left alone, whatever happens to it; then it is put back again.
    let scene = scene.ended().at(40).reads_target(edited.clone());
    assert_eq!(scene.end().wake, Some(at(70)));
    let scene = scene.ended().at(70).reads_target(edited).reads_client();
    let (_, put_back) = scene.writes();
    assert!(put_back);
}

#[test]
fn whoever_fought_over_the_old_target_does_not_fight_over_one_of_another_name() {
    let mut scene = Scene::synced().at(10);
    scene.memory.put_backs = vec![at(1), at(4), at(7)];
    let mut scene = scene.with_target(|target| target.name = Some("another".to_owned()));
    scene.target_seen = Seen::Absent;
    let scene = scene.holding(held("first", 0, 1800)).reads_client();
    let (write, _) = scene.writes();
    let scene = scene.wrote(&write, 102).ended();
    assert_eq!(scene.status().target.as_ref().unwrap().name, "another");
    assert_eq!(scene.memory.put_backs, []);
}

#[test]
fn whoever_deletes_the_secret_again_and_again_is_pointed_at() {
    let mut scene = Scene::synced().at(10).target_deleted().reads_client();
    scene.memory.put_backs = vec![at(1), at(4), at(7)];
    let scene = scene.ended();
    let failure = scene.status().failure.clone().unwrap();
    assert!(
        failure.message.contains("somebody deletes it"),
        "{failure:?}"
    );
    assert_eq!(scene.ready(), is("False", Reason::TargetConflict));
}
