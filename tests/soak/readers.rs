//! Who looks on: a watch of the Secrets, workloads that read and use them, and the instances'
//! journals.

use std::{
    fmt::Debug,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Resource, ResourceExt as _,
    runtime::watcher::{self, Event, watcher},
};
use rand::{SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde::de::DeserializeOwned;
use servicenow_credential_operator::api::ServiceNowCredential;
use testkit::servicenow::RecordedRequest;

use crate::{
    fleet::{CLIENT_OF, Fleet},
    ledger::{Asked, Held, Ledger},
    support::{condition, data},
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
    let ours = watcher::Config::default().labels(ours);
    watch(secrets, ours, book, |ledger, name, secret| {
        ledger.see(name, Timestamp::now(), secret.and_then(held));
    })
    .await;
}

/// Writes down every change of what the fleet's resources say of `Ready`.
pub(crate) async fn watch_ready(credentials: Api<ServiceNowCredential>, book: Book) {
    let all = watcher::Config::default();
    watch(credentials, all, book, |ledger, name, resource| {
        let ready = resource.and_then(|resource| condition(resource, "Ready"));
        if let Some((status, ..)) = ready {
            ledger.see_ready(name, Timestamp::now(), status);
        }
    })
    .await;
}

/// Tells of each object that is there or changed, and of each that is gone.
async fn watch<K>(
    objects: Api<K>,
    which: watcher::Config,
    book: Book,
    tell: impl Fn(&mut Ledger, &str, Option<&K>),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut events = watcher(objects, which).boxed();
    while !book.is_closed() {
        let Ok(event) = tokio::time::timeout(Duration::from_millis(200), events.next()).await
        else {
            continue;
        };
        match event.expect("a watch never ends by itself") {
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                tell(&mut book.ledger(), &object.name_any(), Some(&object));
            }
            Ok(Event::Delete(object)) => tell(&mut book.ledger(), &object.name_any(), None),
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
    pub(crate) expired: Mutex<Vec<ExpiredRead>>,
}

/// A token that had expired, by its instance's word, before the read of it began.
#[derive(Clone, Debug)]
pub(crate) struct ExpiredRead {
    pub(crate) member: String,
    pub(crate) at: Timestamp,
    pub(crate) expired: Timestamp,
}

impl ExpiredRead {
    pub(crate) fn too_late_by(&self) -> SignedDuration {
        self.at.duration_since(self.expired)
    }
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
        let expired = instance.expires_at(&held.token);
        if let Some(expired) = expired.filter(|expired| *expired < read_at) {
            let mut all = reads.expired.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(ExpiredRead {
                member: member.name.clone(),
                at: read_at,
                expired,
            });
        }
        let url = format!("{}/api/now/table/sys_user", instance.origin());
        // An instance that does not answer says nothing about the token.
        let Ok(answer) = http.get(url).bearer_auth(&held.token).send().await else {
            continue;
        };
        if answer.status().is_success() {
            reads.accepted.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Whose token request it is.
pub(crate) fn member_of(request: &RecordedRequest) -> Option<&str> {
    request.client_id.as_deref()?.strip_prefix(CLIENT_OF)
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
            if let Some(member) = member_of(request) {
                let asked = Asked {
                    at: request.received_at,
                    status: request.status,
                    spoiled: request.spoiled,
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
