//! What is done with a new token once it stands in its Secret.

use std::sync::Arc;

use super::scene::*;
use crate::{
    api::{Reason, Verify, Workload, WorkloadKind, condition},
    decide::{
        Failure, Name, Outcome, Seen, Step,
        probes::{Probe, Probes, Wait},
        restarts::{NewValue, Restart},
    },
    servicenow::Probed,
};

fn workload(kind: WorkloadKind) -> Workload {
    Workload {
        kind,
        name: "sync".to_owned(),
    }
}

/// A renewal has just written another token.
fn renewed(spec: impl FnOnce(&mut crate::api::ServiceNowCredentialSpec)) -> Scene {
    let mut scene = Scene::synced().with_spec(spec);
    scene.credential.generation = 1;
    let scene = scene.at(1200).reads_client().asked(1199);
    let scene = scene.answered(Ok(held("second", 1200, 1800)));
    let (write, _) = scene.writes();
    scene.wrote(&write, 101)
}

fn restarting() -> Scene {
    renewed(|spec| {
        spec.restart = vec![
            workload(WorkloadKind::Deployment),
            workload(WorkloadKind::DaemonSet),
        ];
    })
}

/// What workloads are told of the second token.
fn second() -> NewValue {
    NewValue {
        sha256: held("second", 0, 1).sha256,
        at: at(1200),
    }
}

fn told(scene: &Scene) -> Option<(Workload, NewValue)> {
    match scene.decide() {
        Step::Restart { workload, value } => Some((workload, value)),
        _ => None,
    }
}

#[test]
fn each_workload_is_told_once_when_the_token_was_asked_for() {
    let mut scene = restarting();
    for kind in [WorkloadKind::Deployment, WorkloadKind::DaemonSet] {
        let (next, value) = told(&scene).unwrap();
        assert_eq!((next.clone(), value.clone()), (workload(kind), second()));
        scene.restarted.push((next, value, Restart::Done));
    }
    let scene = scene.ended();
    let restarted = scene.status().restarted.clone().unwrap();
    assert_eq!(restarted.sha256, second().sha256);
    assert_eq!(restarted.time.0, at(1200));
    assert_eq!(scene.end().outcome, Outcome::Synced, "and that is all");
}

#[test]
fn a_process_that_finds_a_newer_token_than_the_status_tells_the_same_moment() {
    let before = Scene::synced().at(1200).reads_client().asked(1199);
    let (write, _) = before.answered(Ok(held("second", 1200, 1800))).writes();
    let scene = restarting();
    let written = version("itsm-secret-uid", 101);
    let secret = secret_of(&scene.credential, write.desired(), written);
    let scene = scene.restarted().at(1201).reads_target(secret);
    assert_eq!(
        told(&scene),
        Some((workload(WorkloadKind::Deployment), second()))
    );
}

/// One is missing, and one could not be changed.
fn in_trouble() -> Scene {
    let mut scene = restarting();
    let [first, other] = [WorkloadKind::Deployment, WorkloadKind::DaemonSet].map(workload);
    let forbidden = Failure::new(Reason::PermissionDenied, "patch daemonsets is forbidden");
    scene.restarted = vec![
        (first, second(), Restart::Missing),
        (other, second(), Restart::Failed(forbidden)),
    ];
    scene
}

#[test]
fn a_missing_workload_is_told_and_one_that_failed_is_tried_again() {
    let scene = in_trouble();
    let end = scene.end();
    assert_eq!((end.outcome, end.wake), (Outcome::Synced, Some(at(1260))));
    let news = end.transition.unwrap();
    assert_eq!(
        (news.reason, news.is_failure),
        (Reason::PermissionDenied, true)
    );
    let scene = scene.ended().at(1259);
    assert_eq!(scene.status().restarted, None);
    let end = scene.end();
    assert_eq!(
        (end.status, end.wake),
        (None, Some(at(1260))),
        "not before its time"
    );
    let failed = workload(WorkloadKind::DaemonSet);
    let mut later = scene.clone().at(1260);
    assert_eq!(
        told(&later),
        Some((failed.clone(), second())),
        "and only that one"
    );
    later.restarted = vec![(failed, second(), Restart::Done)];
    let later = later.ended();
    assert!(later.status().restarted.is_some());
    assert_eq!((later.end().transition, told(&later)), (None, None));
    // Another process knows what the status tells.
    let (first, value) = told(&scene.restarted().at(1261)).unwrap();
    assert_eq!(
        (first, value),
        (workload(WorkloadKind::Deployment), second())
    );
}

#[test]
fn another_process_restarts_none_of_those_that_were() {
    let mut scene = in_trouble();
    scene.restarted[0].2 = Restart::Done;
    let scene = scene.ended().restarted().at(1261);
    assert_eq!(
        told(&scene),
        Some((workload(WorkloadKind::DaemonSet), second()))
    );
}

#[test]
fn a_workload_that_is_taken_out_of_the_spec_is_forgotten() {
    let scene = in_trouble().ended().at(1300).with_spec(|spec| {
        spec.restart = vec![workload(WorkloadKind::Deployment)];
    });
    let end = scene.end();
    let due = scene.status().token.as_ref().unwrap().renewal_time.0;
    assert_eq!(end.wake, Some(due), "it is not looked at again and again");
    let scene = scene.ended();
    let message = &scene.status().conditions[1].message;
    assert!(!message.contains("DaemonSet"), "{message}");
    assert!(
        message.contains("Deployment \"sync\": it does not exist"),
        "{message}"
    );
}

#[test]
fn a_round_that_ends_early_forgets_no_restart() {
    let mut scene = restarting();
    let (first, value) = told(&scene).unwrap();
    scene.restarted.push((first, value, Restart::Done));
    // The client Secret is replaced at this very moment.
    scene.client_seen = Seen::Absent;
    let mut scene = scene.ended();
    let status = scene.status();
    assert_eq!(
        scene.synced_state(),
        is("False", Reason::ClientSecretMissing)
    );
    assert_eq!(status.token.as_ref().unwrap().sha256, Some(second().sha256));
    assert_eq!(status.restarted, None);
    scene.client_seen = Seen::Present(version("client-uid", 10));
    let scene = scene.at(1300).reads_client();
    assert_eq!(
        told(&scene),
        Some((workload(WorkloadKind::DaemonSet), second()))
    );
}

#[test]
fn a_token_that_only_lives_longer_restarts_nobody_again() {
    let scene = in_trouble().ended().at(2400).reads_client().asked(2399);
    let mut slid = held("second", 2400, 1800);
    slid.sent_at = at(2400);
    let scene = scene.answered(Ok(slid));
    let (write, _) = scene.writes();
    let scene = scene.wrote(&write, 102);
    assert_eq!(
        told(&scene),
        Some((workload(WorkloadKind::DaemonSet), second()))
    );
}

#[test]
fn an_old_target_that_cannot_be_removed_holds_no_restart_up() {
    let mut scene = Scene::synced().with_spec(|spec| {
        spec.restart = vec![workload(WorkloadKind::Deployment)];
        spec.target.get_or_insert_default().name = Some("new".to_owned());
    });
    scene.previous_seen = scene.target_seen.clone();
    scene.target_seen = Seen::Absent;
    let scene = scene.at(1200).reads_client().asked(1199);
    let scene = scene.answered(Ok(held("second", 1200, 1800)));
    let (write, _) = scene.writes();
    let mut scene = scene.wrote(&write, 101);
    let (first, value) = told(&scene).unwrap();
    scene.restarted.push((first, value, Restart::Done));
    let forbidden = Failure::new(Reason::PermissionDenied, "delete secrets is forbidden");
    scene.removed.insert("itsm".to_owned(), Err(forbidden));
    let scene = scene.ended();
    assert_eq!(scene.synced_state(), is("False", Reason::PermissionDenied));
    let status = scene.status();
    assert_eq!(status.token.as_ref().unwrap().sha256, Some(second().sha256));
    assert_eq!(status.restarted.as_ref().unwrap().sha256, second().sha256);
}

const PATH: &str = "/api/now/table/sys_user";

fn verifying() -> Scene {
    renewed(|spec| {
        spec.verify = Some(Verify {
            path: PATH.to_owned(),
        });
    })
}

fn answered(scene: &mut Scene, probe: &Probe, reason: Reason) {
    let mut probes = Probes::default();
    let probed = Probed {
        reason,
        message: format!("GET {PATH}: it was so."),
    };
    let mut wait = |name| probes.wait(probe, &Name::new("team-a", name), at(1200));
    assert_eq!(
        ["itsm", "crm"].map(&mut wait),
        [Wait::First, Wait::WithOthers]
    );
    let woken = probes.done(probe, probed, at(1201));
    assert_eq!(woken.len(), 2);
    let late = probes.wait(probe, &Name::new("team-a", "late"), at(1201));
    assert_eq!(late, Wait::Over, "nobody would wake it");
    scene.probes = Arc::new(probes);
}

#[test]
fn a_new_token_is_tried_out_once_and_what_came_of_it_is_told() {
    let scene = verifying();
    let settle = scene.settles();
    let probe = settle.probe.expect("it is tried out");
    assert_eq!(
        (probe.path.as_str(), probe.token.expose()),
        (PATH, "second")
    );
    let mut scene = scene.ended().at(1201);
    answered(&mut scene, &probe, Reason::ProbeForbidden);
    assert!(scene.settles().probe.is_none());
    let scene = scene.ended();
    let verified = state(scene.status(), condition::VERIFIED);
    assert_eq!(verified, is("False", Reason::ProbeForbidden));
    assert_eq!(scene.synced_state(), is("True", Reason::TokenSynced));
    // Another process knows nothing of the probe but what the status says.
    let mut scene = scene.restarted().at(1202);
    scene.probes = Arc::default();
    let end = scene.settles();
    assert_eq!((end.probe.is_none(), end.status), (true, None));
}

#[test]
fn a_token_of_another_process_is_tried_out_from_the_secret() {
    let scene = verifying().ended().restarted().at(1202);
    assert!(scene.wants_to_read_client());
    let scene = scene.reads_client();
    assert!(scene.wants_to_read_target());
    let mut secret = first_secret(101);
    secret.data.insert("token".to_owned(), b"second".to_vec());
    let probe = scene.clone().reads_target(secret).settles().probe;
    assert_eq!(probe.unwrap().token.expose(), "second");
    // Whoever cannot be read is left alone.
    let mut scene = scene;
    scene.unreadable = Some(Failure::new(Reason::PermissionDenied, "forbidden"));
    assert!(scene.settles().probe.is_none());
}

#[test]
fn nothing_is_tried_out_where_the_origin_is_held() {
    let mut scene = verifying();
    scene.hold = Some(shared(Reason::RateLimited, 1, 1200, 1260));
    let settle = scene.settles();
    assert_eq!(
        (settle.probe.is_none(), settle.wake),
        (true, Some(at(1260)))
    );
}

#[test]
fn without_a_path_the_condition_goes() {
    let scene = verifying();
    let probe = scene.settles().probe.unwrap();
    let mut scene = scene.ended().at(1201);
    answered(&mut scene, &probe, Reason::ProbeSucceeded);
    let scene = scene.ended().with_spec(|spec| spec.verify = None).ended();
    assert_eq!(
        state(scene.status(), condition::VERIFIED),
        Default::default()
    );
}
