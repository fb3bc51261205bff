//! Specs that are not acted upon.

use super::scene::*;
use crate::{
    api::{CaBundleKind, CaBundleRef, Reason, Renewal, ServiceNowCredentialSpec, Target},
    decide::{Outcome, Seen, Step, Transition, decide, observed::Role},
};

/// The failure that a changed spec of a working resource comes to: nothing is read, asked for or
/// written, and the token stays where it is.
fn refusal(change: impl FnOnce(&mut ServiceNowCredentialSpec)) -> (Reason, String) {
    let scene = Scene::synced().with_spec(change);
    let end = scene.end();
    let Outcome::Failed(reason) = end.outcome else {
        panic!("{end:?}")
    };
    assert_eq!(end.wake, Some(at(1800)), "only a change helps");
    let before = Scene::synced();
    let status = end.status.unwrap();
    assert_eq!(status.token, before.status().token);
    assert_eq!(status.target, before.status().target);
    assert_eq!(status.observed_generation, Some(2));
    assert_eq!(state(&status, "Ready"), is("True", Reason::TokenValid));
    assert_eq!(state(&status, "Synced"), is("False", reason));
    let message = status.failure.unwrap().message;
    let told = Transition {
        reason,
        message: message.clone(),
        is_failure: true,
    };
    assert_eq!(end.transition, Some(told));
    (reason, message)
}

fn target(change: impl FnOnce(&mut Target)) -> impl FnOnce(&mut ServiceNowCredentialSpec) {
    |spec| change(spec.target.get_or_insert_default())
}

#[test]
fn a_host_that_is_not_allowed_gets_nothing() {
    let (reason, message) = refusal(|spec| spec.instance = "https://evil.example".to_owned());
    assert_eq!(reason, Reason::HostNotAllowed);
    assert!(message.contains("https://evil.example"), "{message}");
    let (reason, message) = refusal(|spec| spec.instance = "http://127.0.0.1:8080".to_owned());
    assert_eq!(reason, Reason::HostNotAllowed);
    assert!(message.contains("--allow-insecure-http"), "{message}");
    let mut scene = Scene::new();
    change_spec(&mut scene.credential, |spec| {
        spec.instance = "https://evil.example".to_owned();
    });
    assert_eq!(scene.end().outcome, Outcome::Failed(Reason::HostNotAllowed));
}

#[test]
fn whether_a_newly_named_ca_exists_is_found_out_at_once() {
    let named = Scene::synced().with_spec(|spec| {
        let bundle = CaBundleRef {
            kind: CaBundleKind::ConfigMap,
            name: "ca".to_owned(),
            key: "ca.crt".to_owned(),
        };
        spec.tls.get_or_insert_default().ca_bundle_ref = Some(bundle);
    });
    let decided = |seen: Seen, named: &Scene| {
        let mut observed = named.observed();
        observed.references[Role::CaBundle as usize] = Some(&seen);
        decide(&observed)
    };
    let step = decided(Seen::Unknown, &named);
    assert!(matches!(step, Step::ReadClient), "{step:?}");
    // A new one serves from the next request on.
    let there = Seen::Present(version("ca-uid", 20));
    let Step::Settle(settle) = decided(there, &named) else {
        panic!("nothing is wanted")
    };
    assert_eq!(settle.outcome, Outcome::Synced);
    let Step::Settle(settle) = decided(Seen::Absent, &named) else {
        panic!("only a change helps")
    };
    assert_eq!(settle.outcome, Outcome::Failed(Reason::ReferenceMissing));
}

#[test]
fn a_broken_template_asks_for_nothing() {
    let (reason, message) = refusal(target(|target| {
        target.data = Some([("key".to_owned(), "{{ tokn }}".to_owned())].into());
    }));
    assert_eq!(reason, Reason::TemplateInvalid);
    assert!(message.contains("\"tokn\""), "{message}");
}

#[test]
fn what_admission_refuses_is_refused_here_too() {
    let (reason, message) = refusal(|spec| spec.instance = "http://itsm.example".to_owned());
    assert_eq!(reason, Reason::InvalidSpec);
    assert!(message.starts_with("spec.instance: "), "{message}");
    // Also of a part that does not decide what is written.
    let (reason, message) = refusal(|spec| {
        spec.renewal = Some(Renewal {
            renew_before: Some("soon".to_owned()),
            renew_before_percentage: None,
        });
    });
    assert_eq!(reason, Reason::InvalidSpec);
    assert!(
        message.starts_with("spec.renewal.renewBefore: "),
        "{message}"
    );
}

#[test]
fn a_spec_that_is_put_right_again_costs_nothing() {
    let instance = spec().instance;
    let broken = Scene::synced().with_spec(|spec| spec.instance = "http://no".to_owned());
    let mended = broken.ended().with_spec(|spec| spec.instance = instance);
    let end = mended.end();
    assert_eq!((end.outcome, end.wake), (Outcome::Synced, Some(at(1200))));
    assert_eq!(end.transition.unwrap().reason, Reason::TokenSynced);
}

#[test]
fn an_unreadable_spec_is_said_so() {
    let mut scene = Scene::synced();
    scene.credential.spec = Err("unknown variant `Both`".to_owned());
    let end = scene.end();
    assert_eq!(end.outcome, Outcome::Failed(Reason::InvalidSpec));
    let status = end.status.unwrap();
    assert_eq!(status.token, scene.status().token);
    assert_eq!(state(&status, "Ready"), is("True", Reason::TokenValid));
    let message = status.failure.unwrap().message;
    assert!(message.contains("unknown variant `Both`"), "{message}");
    assert_eq!(scene.ended().settles().status, None);
}

#[test]
fn a_resource_that_is_going_away_is_left_alone() {
    let mut scene = Scene::synced().at(1300).target_deleted();
    scene.credential.deleting = true;
    scene.credential.renew_request = Some("a".to_owned());
    let expected = End {
        outcome: Outcome::Idle,
        status: None,
        transition: None,
        wake: None,
    };
    assert_eq!(scene.end(), expected);
}
