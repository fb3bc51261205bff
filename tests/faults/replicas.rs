//! Two replicas fight over the Lease while one fault after the other befalls them.

use std::time::Duration;

use testkit::{
    cluster::Server,
    operator::{Operator, Options},
};

use crate::{
    fleet::Fleet,
    support::{eventually, own_cluster, rights::LEASE},
};

const MEMBERS: usize = 6;

fn leads(operator: &Operator) -> bool {
    let metrics = operator.get("/metrics");
    metrics.is_ok_and(|(_, text)| text.contains("snowcred_leader 1"))
}

/// The replica that leads, taken out; the other stays.
async fn leader(replicas: &mut Vec<Operator>) -> Operator {
    let leading = eventually("one leads", async || replicas.iter().position(leads)).await;
    replicas.remove(leading)
}

/// One that has ended by itself is started again, as its Deployment does.
fn two(replicas: &mut Vec<Operator>, options: &Options) {
    while replicas.len() < 2 {
        replicas.push(Operator::spawn(options));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_fight_over_the_lease_under_faults_lose_nothing_and_one_leads_in_the_end() {
    let fleet = Fleet::new(own_cluster().await, MEMBERS).await;
    let namespace = format!("--lease-namespace={}", fleet.scene.namespace);
    let lease = format!("--lease-name={LEASE}");
    let options = fleet.scene.options(&[
        "--min-renew-interval=1ms",
        "--leader-elect",
        &namespace,
        &lease,
    ]);
    let mut replicas = Vec::new();
    two(&mut replicas, &options);
    fleet.is_done("").await;

    fleet.give_all_work("killed").await;
    leader(&mut replicas).await.kill();
    two(&mut replicas, &options);
    fleet.is_done("killed").await;

    fleet.give_all_work("paused").await;
    let mut paused = leader(&mut replicas).await;
    paused.pause();
    two(&mut replicas, &options);
    fleet.is_done("paused").await;
    paused.resume();
    assert_eq!(paused.ended().await.code(), Some(1));

    fleet.give_all_work("stopped").await;
    let mut stopped = leader(&mut replicas).await;
    assert!(stopped.stop().await.0.unwrap().success());
    two(&mut replicas, &options);
    fleet.is_done("stopped").await;

    fleet.give_all_work("without-an-api-server").await;
    fleet.scene.cluster.kill(Server::ApiServer);
    tokio::time::sleep(Duration::from_secs(3)).await;
    fleet.scene.cluster.restart(Server::ApiServer).await;
    fleet.is_done("without-an-api-server").await;

    let end = leader(&mut replicas).await;
    assert!(!replicas.iter().any(leads), "two lead");
    drop(end);
    // The first, four renewals, and one for whoever was killed, paused or stopped at his work.
    let most = 5 + 3;
    let asked = fleet.requests();
    assert!(
        asked.values().all(|asked| (5..=most).contains(asked)),
        "{asked:?}"
    );
}
