//! The operator is killed at random moments.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use testkit::{
    operator::{Operator, Options},
    servicenow::Fault,
};

use crate::{fleet::Fleet, support::cluster};

const KILLS: usize = 50;
const MEMBERS: usize = 10;
/// These are renewed in turn, one for each kill; of the others nothing is wanted.
const RENEWED: usize = 5;
/// What becomes ready takes about as long.
const STARTS: Duration = Duration::from_millis(500);
/// The instance takes so long to answer, and the two writes about as long again.
const ANSWERS: Duration = Duration::from_millis(20);
/// So many kills at least are to fall between a token request and the end of what it was for.
const AMID_WORK: usize = KILLS / 5;

/// From when on the moment of a kill is drawn.
#[derive(Clone, Copy, Debug)]
enum Since {
    Spawned,
    Ready,
    Asked,
}

impl Since {
    const IN_TURNS: [Self; 4] = [Self::Spawned, Self::Asked, Self::Ready, Self::Asked];

    /// Up to how much later it is.
    fn within(self) -> Duration {
        match self {
            Self::Spawned | Self::Ready => STARTS,
            Self::Asked => 2 * ANSWERS,
        }
    }
}

/// A fleet, and what it may cost.
struct Killed {
    fleet: Fleet,
    options: Options,
    random: StdRng,
    /// The most requests for each member.
    most: BTreeMap<String, usize>,
    /// Kills after a token request that left undone what it was for.
    amid_work: usize,
}

impl Killed {
    /// One life of the operator: it is told to renew one member, and killed.
    async fn live(&mut self, since: Since, member: &str, value: &str) {
        let before = self.fleet.requests();
        let mut operator = match since {
            Since::Ready => Operator::start(&self.options).await,
            Since::Spawned | Since::Asked => Operator::spawn(&self.options),
        };
        self.fleet.renew(member, value).await;
        *self.most.get_mut(member).unwrap() += 1;
        if let Since::Asked = since {
            let asked: usize = before.values().sum();
            self.fleet
                .scene
                .instance
                .wait_for_token_requests(asked + 1)
                .await;
        }
        let moment = self.random.random_range(Duration::ZERO..since.within());
        tokio::time::sleep(moment).await;
        operator.kill();
        self.count(&before).await;
    }

    /// What a kill has cost: one request more for each member that it left undone.
    async fn count(&mut self, before: &BTreeMap<String, usize>) {
        let asked = self.fleet.requests();
        let mut amid_work = false;
        for member in &self.fleet.members {
            if !self.fleet.is_renewed(member).await {
                *self.most.get_mut(member).unwrap() += 1;
                amid_work |= asked[member] > before[member];
            }
        }
        self.amid_work += usize::from(amid_work);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_kills_at_random_moments_lose_nothing_and_cost_at_most_one_request_each() {
    let fleet = Fleet::new(cluster().await, MEMBERS).await;
    let options = fleet.scene.options(&["--min-renew-interval=1ms"]);
    let first = Operator::start(&options).await;
    fleet.is_done("").await;
    drop(first);
    let slow = Fault::Delay(ANSWERS);
    fleet.scene.instance.set_fault(Some(slow));
    let mut killed = Killed {
        most: fleet.each(1),
        random: StdRng::seed_from_u64(1),
        amid_work: 0,
        fleet,
        options,
    };
    for (round, since) in Since::IN_TURNS.into_iter().cycle().take(KILLS).enumerate() {
        let member = killed.fleet.members[round % RENEWED].clone();
        killed.live(since, &member, &round.to_string()).await;
    }
    let _operator = Operator::start(&killed.options).await;
    killed.fleet.is_done("").await;
    let (asked, most) = (killed.fleet.requests(), &killed.most);
    let is_allowed = |(member, asked): (&String, &usize)| *asked <= most[member];
    assert!(asked.iter().all(is_allowed), "{asked:?}, of {most:?}");
    let (renewed, others) = killed.fleet.members.split_at(RENEWED);
    assert!(renewed.iter().all(|member| asked[member] > 1), "{asked:?}");
    assert!(others.iter().all(|member| asked[member] == 1), "{asked:?}");
    let amid_work = killed.amid_work;
    assert!(
        amid_work >= AMID_WORK,
        "{amid_work} of {KILLS} kills fell amid work"
    );
}
