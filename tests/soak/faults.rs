//! Random faults of everything around a fleet, one after the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, ListParams};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use testkit::{
    cluster::Server,
    operator::Operator,
    servicenow::{ExpiresIn, Fault, RetryAfter, Simulator, TokenMode},
};

use crate::{
    Size,
    fleet::{Fleet, Member},
    ledger::Rotation,
    outage::{AskedAgain, Whom, Window},
    readers::{Book, Reads, member_of, read_journals, watch_secrets, work},
    support::{condition, eventually},
    verdict::judge,
};

/// How many use the Secrets.
const WORKLOADS: usize = 3;
/// How many members a fault of single members befalls.
const FEW: usize = 5;
/// The request that hangs when a fault ends is given up only then.
const REQUEST_TIMEOUT: SignedDuration = SignedDuration::from_secs(2);

/// What may happen.
#[derive(Clone, Debug)]
enum Trouble {
    OperatorKilled,
    OperatorStopped,
    OperatorPaused,
    ServerKilled(Server),
    ServerPaused(Server),
    Instance(usize, Fault),
    InstanceDown(usize),
    RefusedOnce(usize),
    ClientsRotated,
    SecretsDeleted,
}

impl Trouble {
    fn drawn(random: &mut StdRng, modes: &[TokenMode]) -> Self {
        let instance = random.random_range(0..modes.len());
        match random.random_range(0..14) {
            0 | 1 => Self::OperatorKilled,
            2 => Self::OperatorStopped,
            3 => Self::OperatorPaused,
            4 => Self::ServerKilled(Server::ApiServer),
            5 => Self::ServerPaused(Server::ApiServer),
            6 => Self::ServerPaused(Server::Etcd),
            7..=9 => Self::Instance(instance, bad_day(random, modes[instance])),
            10 => Self::InstanceDown(instance),
            11 => Self::RefusedOnce(instance),
            12 => Self::ClientsRotated,
            _ => Self::SecretsDeleted,
        }
    }

    /// Whether each client waits it out alone: one answer was bad, and says nothing of the next.
    fn is_by_client(&self) -> bool {
        let Self::Instance(_, fault) = self else {
            return false;
        };
        !fault.is_everywhere() && !matches!(fault, Fault::RateLimited { .. })
    }

    /// What becomes of an answer that is on its way into a Secret.
    fn asked_again(&self) -> AskedAgain {
        match self {
            Self::OperatorKilled
            | Self::OperatorStopped
            | Self::OperatorPaused
            | Self::InstanceDown(_) => AskedAgain::AtOnce,
            Self::ServerKilled(_) | Self::ServerPaused(_) => AskedAgain::WhenDue,
            // What hangs or is refused brought no good answer that could be lost.
            Self::Instance(..)
            | Self::RefusedOnce(_)
            | Self::ClientsRotated
            | Self::SecretsDeleted => AskedAgain::Never,
        }
    }

    fn window(&self, whom: Whom, from: Timestamp, to: Timestamp) -> Window {
        Window {
            what: self.name(),
            whom,
            by_client: self.is_by_client(),
            asked_again: self.asked_again(),
            from,
            to,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::OperatorKilled => "operator killed".to_owned(),
            Self::OperatorStopped => "operator stopped".to_owned(),
            Self::OperatorPaused => "operator paused".to_owned(),
            Self::ServerKilled(server) => format!("{server} killed"),
            Self::ServerPaused(server) => format!("{server} paused"),
            Self::Instance(_, fault) => {
                let text = format!("{fault:?}");
                let end = text.find([' ', '(', '{']).unwrap_or(text.len());
                format!("instance: {}", &text[..end])
            }
            Self::InstanceDown(_) => "instance: down".to_owned(),
            Self::RefusedOnce(_) => "a client refused once".to_owned(),
            Self::ClientsRotated => "clients rotated".to_owned(),
            Self::SecretsDeleted => "target Secrets deleted".to_owned(),
        }
    }
}

fn bad_day(random: &mut StdRng, mode: TokenMode) -> Fault {
    let days = [
        Fault::HibernationPage,
        Fault::LoginPage,
        Fault::BadGateway,
        Fault::Maintenance,
        Fault::RateLimited {
            retry_after: Some(RetryAfter::Seconds(2)),
        },
        Fault::RateLimited {
            retry_after: Some(RetryAfter::HttpDate(Duration::from_secs(2))),
        },
        Fault::Hang,
        Fault::Reset,
        Fault::TruncatedJson,
        Fault::TruncatedBody,
        Fault::HugeBody(1 << 20),
        Fault::NoAccessToken,
        Fault::ExpiresIn(ExpiresIn::Missing),
        Fault::TokenType("mac".to_owned()),
        Fault::Redirect {
            location: "https://evil.example/".to_owned(),
        },
        // With so many under way at once as an instance is asked, it answers a fifth of those who are due.
        Fault::Delay(Duration::from_millis(800)),
    ];
    match days.choose(random).unwrap() {
        // Of a token that is known it says that its expiry has not moved: a good answer, after which
        // the next request goes out at the expiry.
        Fault::ExpiresIn(_) if mode != TokenMode::AlwaysNew => Fault::NoAccessToken,
        day => day.clone(),
    }
}

pub(crate) async fn run(size: Size) {
    let modes = [TokenMode::AlwaysNew, TokenMode::ReuseSlide];
    let fleet = Arc::new(Fleet::new(size.resources, &modes).await);
    let book = Book::default();
    let reads = Arc::new(Reads::default());
    let mut operator = Operator::start(&fleet.options()).await;
    fleet.create(Duration::from_secs(5)).await;
    let mut onlookers = vec![tokio::spawn(watch_secrets(fleet.secrets(), book.clone()))];
    eventually("every Secret holds a token", async || {
        (book.ledger().versions.len() == size.resources).then_some(())
    })
    .await;
    for seed in 0..WORKLOADS as u64 {
        let (fleet, book, reads) = (Arc::clone(&fleet), book.clone(), Arc::clone(&reads));
        onlookers.push(tokio::spawn(async move {
            work(&fleet, &book, &reads, seed).await;
        }));
    }
    onlookers.push(tokio::spawn(journals(Arc::clone(&fleet), book.clone())));

    let mut random = StdRng::seed_from_u64(size.seed);
    let mut troubles: BTreeMap<String, usize> = BTreeMap::new();
    let end = tokio::time::Instant::now() + size.faults;
    while tokio::time::Instant::now() < end {
        let trouble = Trouble::drawn(&mut random, &modes);
        *troubles.entry(trouble.name()).or_default() += 1;
        befall(&fleet, &book, &mut operator, &trouble, &mut random).await;
        let quiet = random.random_range(3.0..7.0);
        tokio::time::sleep(Duration::from_secs_f64(quiet)).await;
    }
    await_health(&fleet).await;
    let ended = Timestamp::now();
    book.close();
    for onlooker in onlookers {
        onlooker.await.unwrap();
    }
    let (status, _) = operator.stop().await;
    assert!(status.unwrap().success(), "{}", operator.log());
    judge(&fleet, &book, &reads, &troubles, ended, size);
}

async fn journals(fleet: Arc<Fleet>, book: Book) {
    let mut read = vec![0; fleet.instances.len()];
    while !book.is_closed() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        read_journals(&fleet, &book, &mut read);
    }
}

/// Everything is well: synced, and no token expired.
async fn await_health(fleet: &Fleet) {
    let all = fleet.credentials();
    eventually("the fleet is well", async || {
        let resources = all.list(&ListParams::default()).await.ok()?;
        let well = |kind| {
            resources
                .iter()
                .all(|r| condition(r, kind).is_some_and(|(status, ..)| status == "True"))
        };
        (resources.items.len() == fleet.members.len() && well("Synced") && well("Ready"))
            .then_some(())
    })
    .await;
}

/// Lets it happen, for a drawn while, and writes down from when to when who could not work.
async fn befall(
    fleet: &Fleet,
    book: &Book,
    operator: &mut Operator,
    trouble: &Trouble,
    random: &mut StdRng,
) {
    // Three of four are shorter than what a token has left when its renewal is due.
    let long = random.random_range(0..4) == 0;
    let seconds = random.random_range(if long { 4.0..9.0 } else { 0.3..3.0 });
    let a_while = tokio::time::sleep(Duration::from_secs_f64(seconds));
    let few: Vec<&Member> = fleet.members.choose_multiple(random, FEW).collect();
    let from = Timestamp::now();
    let mut whom = Whom::Everybody;
    let mut lasts = SignedDuration::ZERO;
    match trouble {
        Trouble::OperatorKilled => {
            operator.kill();
            *operator = Operator::start(&fleet.options()).await;
        }
        Trouble::OperatorStopped => {
            let (status, _) = operator.stop().await;
            assert!(status.unwrap().success(), "{}", operator.log());
            *operator = Operator::start(&fleet.options()).await;
        }
        Trouble::OperatorPaused => {
            operator.pause();
            a_while.await;
            operator.resume();
        }
        Trouble::ServerKilled(server) => {
            fleet.cluster.kill(*server);
            fleet.cluster.restart(*server).await;
        }
        Trouble::ServerPaused(server) => {
            fleet.cluster.pause(*server);
            a_while.await;
            fleet.cluster.resume(*server);
        }
        Trouble::Instance(which, fault) => {
            whom = Whom::Instance(*which);
            fleet.instances[*which].set_fault(Some(fault.clone()));
            a_while.await;
            fleet.instances[*which].set_fault(None);
            if let Fault::Hang = fault {
                lasts = REQUEST_TIMEOUT;
            }
        }
        Trouble::InstanceDown(which) => {
            whom = Whom::Instance(*which);
            fleet.instances[*which].go_down().await;
            a_while.await;
            fleet.instances[*which].come_up().await;
        }
        Trouble::RefusedOnce(which) => {
            let (member, at) = refused_once(&fleet.instances[*which]).await;
            let window = trouble.window(Whom::Member(member), at, at);
            book.ledger().windows.push(window);
            return;
        }
        Trouble::ClientsRotated => {
            rotate(fleet, book, &few).await;
            return;
        }
        Trouble::SecretsDeleted => {
            delete_secrets(fleet, &few).await;
            return;
        }
    }
    let window = trouble.window(whom, from, Timestamp::now() + lasts);
    book.ledger().windows.push(window);
}

/// Lets the instance refuse one request, and returns whose it was and when it came.
async fn refused_once(instance: &Simulator) -> (String, Timestamp) {
    // It may befall one that has come already and is still being read.
    let spoiled = instance.requests().into_iter().filter(|one| one.spoiled);
    let before: BTreeSet<_> = spoiled.map(|one| one.number).collect();
    instance.fault_times(Fault::AccessDenied, 1);
    eventually("a client is refused", async || {
        let requests = instance.requests();
        let mut spoiled = requests.iter().filter(|one| one.spoiled);
        let refused = spoiled.find(|one| !before.contains(&one.number))?;
        Some((member_of(refused)?.to_owned(), refused.received_at))
    })
    .await
}

/// Changes the secrets of these members' clients.
async fn rotate(fleet: &Fleet, book: &Book, members: &[&Member]) {
    for member in members {
        let from = Timestamp::now();
        fleet.put_client(member, &from.to_string()).await;
        let rotation = Rotation {
            from,
            to: Timestamp::now(),
        };
        let mut ledger = book.ledger();
        let rotated = ledger.rotated.entry(member.name.clone()).or_default();
        rotated.push(rotation);
    }
}

async fn delete_secrets(fleet: &Fleet, members: &[&Member]) {
    for member in members {
        let deleted = fleet
            .secrets()
            .delete(&member.name, &DeleteParams::default())
            .await;
        assert!(deleted.is_ok(), "{deleted:?}");
    }
}
