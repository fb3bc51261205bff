//! The API server, its store and its watches fail while a fleet is at work.

use std::time::Duration;

use testkit::{
    cluster::{ApiProxy, Server},
    operator::Operator,
};

use crate::{
    fleet::Fleet,
    support::{cluster, own_cluster},
};

const MEMBERS: usize = 12;
/// Longer than the pauses between tries of whoever has lost the API server.
const A_WHILE: Duration = Duration::from_secs(4);

/// A fleet on a control plane of its own that is well, and its operator.
async fn fleet() -> (Fleet, Operator) {
    let fleet = Fleet::new(own_cluster().await, MEMBERS).await;
    let options = fleet.scene.options(&["--min-renew-interval=1ms"]);
    let operator = Operator::start(&options).await;
    fleet.is_done("").await;
    (fleet, operator)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_is_killed_and_comes_back_loses_nothing_and_costs_no_request() {
    let (fleet, _operator) = fleet().await;
    for round in 1..=3 {
        fleet.give_all_work(&round.to_string()).await;
        fleet.scene.cluster.kill(Server::ApiServer);
        tokio::time::sleep(A_WHILE).await;
        fleet.scene.cluster.restart(Server::ApiServer).await;
        fleet.is_done(&round.to_string()).await;
        assert_eq!(fleet.requests(), fleet.each(1 + round));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_stands_still_and_goes_on_loses_nothing_and_costs_no_request() {
    let (fleet, _operator) = fleet().await;
    for round in 1..=3 {
        fleet.give_all_work(&round.to_string()).await;
        fleet.scene.cluster.pause(Server::Etcd);
        tokio::time::sleep(A_WHILE).await;
        fleet.scene.cluster.resume(Server::Etcd);
        fleet.is_done(&round.to_string()).await;
        assert_eq!(fleet.requests(), fleet.each(1 + round));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_that_break_again_and_again_lose_nothing_and_cost_no_request() {
    let fleet = Fleet::new(cluster().await, MEMBERS).await;
    let mut options = fleet.scene.options(&["--min-renew-interval=1ms"]);
    let proxy = ApiProxy::start(&options.kubeconfig).await;
    proxy.kubeconfig().clone_into(&mut options.kubeconfig);
    let _operator = Operator::start(&options).await;
    fleet.is_done("").await;
    for round in 1..=6 {
        proxy.break_watches(false);
        fleet.give_all_work(&round.to_string()).await;
        // What lies between is never seen where the history is lost.
        proxy.break_watches(round % 2 == 0);
        fleet.is_done(&round.to_string()).await;
        assert_eq!(fleet.requests(), fleet.each(1 + round));
    }
}
