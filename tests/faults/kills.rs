//! The operator is killed at random moments.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use testkit::operator::Operator;

use crate::{fleet::Fleet, support::cluster};

const KILLS: usize = 50;
const MEMBERS: usize = 10;
/// These are renewed in turn, one for each kill; of the others nothing is wanted.
const RENEWED: usize = 5;
/// What becomes ready takes about as long, and a renewal as long again.
const MOMENT: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_kills_at_random_moments_lose_nothing_and_cost_at_most_one_request_each() {
    let fleet = Fleet::new(cluster().await, MEMBERS).await;
    let options = fleet.scene.options(&["--min-renew-interval=1ms"]);
    let mut random = StdRng::seed_from_u64(1);
    let first = Operator::start(&options).await;
    fleet.is_done("").await;
    drop(first);
    let (renewed, others) = fleet.members.split_at(RENEWED);
    for round in 0..KILLS {
        let mut operator = Operator::spawn(&options);
        let member = &renewed[round % RENEWED];
        fleet.renew(member, &round.to_string()).await;
        tokio::time::sleep(random.random_range(Duration::ZERO..MOMENT)).await;
        operator.kill();
    }
    let _operator = Operator::start(&options).await;
    fleet.is_done("").await;
    let asked = fleet.requests();
    assert!(others.iter().all(|member| asked[member] == 1), "{asked:?}");
    // Whoever is killed may have worked for nobody, and several renewals may have become one.
    let of_renewed: usize = renewed.iter().map(|member| asked[member]).sum();
    let most = RENEWED + KILLS + KILLS;
    assert!(
        (2 * RENEWED..=most).contains(&of_renewed),
        "{of_renewed} requests, of {most} that are allowed"
    );
}
