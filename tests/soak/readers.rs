//! Who looks on: a watch of the Secrets, workloads that read and use them, and the instances'
//! journals.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt as _,
    runtime::watcher::{self, Event, watcher},
};
use rand::{SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use crate::{
    fleet::Fleet,
    ledger::{Asked, Held, Ledger},
    support::data,
};

/// The ledger, and a sign that the run is over.
#[derive(Clone, Default)]
pub(crate) struct Book {
    ledger: Arc<Mutex<Ledger>>,
    over: Arc<AtomicBool>,
}

impl Book {
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn close(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// Writes down every change of the fleet's target Secrets.
pub(crate) async fn watch_secrets(secrets: Api<Secret>, book: Book) {
    let ours = "app.kubernetes.io/managed-by=servicenow-credential-operator";
    let mut events = watcher(secrets, watcher::Config::default().labels(ours)).boxed();
    while !book.is_closed() {
        let Ok(event) = tokio::time::timeout(Duration::from_millis(200), events.next()).await
        else {
            continue;
        };
        match event.expect("a watch never ends by itself") {
            Ok(Event::Apply(secret) | Event::InitApply(secret)) => {
                book.ledger()
                    .see(&secret.name_any(), Timestamp::now(), held(&secret));
            }
            Ok(Event::Delete(secret)) => {
                book.ledger()
                    .see(&secret.name_any(), Timestamp::now(), None);
            }
            Ok(Event::Init | Event::InitDone) => {}
            // The API server is away, on purpose.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn held(secret: &Secret) -> Option<Held> {
    Some(Held {
        token: data(secret).remove("token")?,
        expires_at: secret
            .annotations()
            .get("snowcred.dev/expires-at")?
            .parse()
            .ok()?,
    })
}

/// What the workloads met.
#[derive(Default)]
pub(crate) struct Reads {
    pub(crate) accepted: AtomicUsize,
    /// Members and moments where what was read had expired before it was read, and was refused.
    pub(crate) expired: Mutex<Vec<(String, Timestamp)>>,
}

/// A workload: reads a Secret at random and calls the Table API with what it holds, over and over.
pub(crate) async fn work(fleet: &Fleet, book: &Book, reads: &Reads, seed: u64) {
    let http = reqwest::Client::builder()
        .timeout(Duration::from_secs(1))
        .build()
        .unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    let secrets = fleet.secrets();
    while !book.is_closed() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let member = fleet.members.choose(&mut random).unwrap();
        let read_at = Timestamp::now();
        let Ok(Ok(Some(secret))) =
            tokio::time::timeout(Duration::from_secs(2), secrets.get_opt(&member.name)).await
        else {
            continue;
        };
        let Some(held) = held(&secret) else { continue };
        let instance = &fleet.instances[member.instance];
        let url = format!("{}/api/now/table/sys_user", instance.origin());
        // An instance that does not answer says nothing about the token.
        let Ok(answer) = http.get(url).bearer_auth(&held.token).send().await else {
            continue;
        };
        if answer.status().is_success() {
            reads.accepted.fetch_add(1, Ordering::Relaxed);
        }
        let expired = || {
            instance
                .expires_at(&held.token)
                .is_none_or(|at| at < read_at)
        };
        if answer.status().as_u16() == 401 && expired() {
            let mut all = reads.expired.lock().unwrap_or_else(PoisonError::into_inner);
            all.push((member.name.clone(), read_at));
        }
    }
}

/// Reads what the instances were asked since the last time.
pub(crate) fn read_journals(fleet: &Fleet, book: &Book, read: &mut [u64]) {
    for (instance, read) in fleet.instances.iter().zip(read) {
        let requests = instance.requests();
        // A request without an answer yet is read next time, and so are those after it.
        let answered_by = Timestamp::now() - jiff::SignedDuration::from_secs(5);
        let since = *read;
        for request in requests.iter().filter(|request| request.number > since) {
            if request.status.is_none() && request.received_at > answered_by {
                break;
            }
            *read = request.number;
            let Some(client) = request.client_id.as_deref() else {
                continue;
            };
            if let (true, Some(member)) = (
                request.is_token_request(),
                client.strip_prefix("client-of-"),
            ) {
                let asked = Asked {
                    at: request.received_at,
                    status: request.status,
                };
                let mut ledger = book.ledger();
                ledger
                    .asked
                    .entry(member.to_owned())
                    .or_default()
                    .push(asked);
            }
        }
    }
}
