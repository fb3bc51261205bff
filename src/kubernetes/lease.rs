//! The Lease by which one of several replicas leads: read, written by resourceVersion, and watched,
//! so that a Lease that is given back is taken at once. And the fence that keeps one who leads no
//! more from writing.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt as _};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client, Error,
    api::{ApiResource, DynamicObject, PostParams},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde::Deserialize as _;

use super::{
    error::{Call, code, failure, timed_out},
    watch::Patience,
};
use crate::decide::Failure;

/// A call about the Lease may take this long: two fit into the time that a leader has to renew.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);

/// Until when this process may begin to write, on a clock that cannot be set.
#[derive(Clone, Debug)]
pub struct Fence(Arc<Mutex<Until>>);

#[derive(Clone, Copy, Debug)]
enum Until {
    Always,
    Moment(Instant),
}

impl Fence {
    /// The fence of a process that is alone: always open.
    pub fn open() -> Self {
        Self(Arc::new(Mutex::new(Until::Always)))
    }

    /// The fence of a process that does not lead yet.
    pub fn closed() -> Self {
        Self(Arc::new(Mutex::new(Until::Moment(Instant::now()))))
    }

    /// It is open until then.
    pub fn open_until(&self, moment: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Until::Moment(moment);
    }

    /// Whether something may begin now.
    pub fn is_open(&self) -> bool {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Until::Always => true,
            Until::Moment(moment) => Instant::now() < moment,
        }
    }
}

/// The Lease of this group of replicas.
#[derive(Clone)]
pub struct LeaseObject {
    api: Api<Lease>,
    /// As it stands there, whatever somebody wrote into it.
    raw: Api<DynamicObject>,
    namespace: String,
    name: String,
}

/// How a write of the Lease ended.
#[derive(Debug)]
pub enum LeaseWrite {
    /// It is as it was written.
    Done(Box<Lease>),
    /// Another replica was faster.
    Lost,
}

impl LeaseObject {
    /// The Lease of this name.
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        let resource = ApiResource::erase::<Lease>(&());
        Self {
            raw: Api::namespaced_with(client.clone(), namespace, &resource),
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    fn call(&self, verb: &'static str) -> Call<'_> {
        Call {
            verb,
            resource: "leases",
            namespace: &self.namespace,
            name: &self.name,
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// The API server did not answer, or refused.
    pub async fn read(&self) -> Result<Option<Lease>, Failure> {
        let call = self.call("get");
        match bounded(self.raw.get_opt(&self.name)).await {
            None => Err(timed_out(call)),
            Some(Err(error)) => Err(failure(&error, call)),
            Some(Ok(object)) => {
                let lease = object.map(lease_of).transpose();
                lease.map_err(|error| failure(&Error::SerdeError(error), call))
            }
        }
    }

    /// Writes it over the state that was read; creates it where there was none.
    ///
    /// # Errors
    /// The API server did not answer, or refused.
    pub async fn write(&self, read: Option<Lease>, spec: LeaseSpec) -> Result<LeaseWrite, Failure> {
        let params = PostParams::default();
        let (call, answer) = match read {
            Some(lease) => {
                let lease = Lease {
                    spec: Some(spec),
                    ..lease
                };
                let answer = bounded(self.api.replace(&self.name, &params, &lease)).await;
                (self.call("update"), answer)
            }
            None => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(self.name.clone()),
                        namespace: Some(self.namespace.clone()),
                        ..ObjectMeta::default()
                    },
                    spec: Some(spec),
                };
                (
                    self.call("create"),
                    bounded(self.api.create(&params, &lease)).await,
                )
            }
        };
        match answer {
            None => Err(timed_out(call)),
            Some(Ok(lease)) => Ok(LeaseWrite::Done(Box::new(lease))),
            // It was written, created or deleted meanwhile.
            Some(Err(error)) if is_conflict(&error) => Ok(LeaseWrite::Lost),
            Some(Err(error)) => Err(failure(&error, call)),
        }
    }

    /// The Lease each time that it changes, as long as the watch works; who waits looks for himself
    /// as well.
    pub fn changes(&self) -> impl Stream<Item = Lease> + Send + use<> {
        let config = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        watcher(self.raw.clone(), config)
            .backoff(Patience::default())
            .filter_map(|event| async move {
                match event {
                    Ok(Event::Apply(lease) | Event::InitApply(lease) | Event::Delete(lease)) => {
                        lease_of(lease).ok()
                    }
                    _ => None,
                }
            })
            .boxed()
    }
}

/// The Lease as far as it can be told: the API server takes times that our type has no room for, and
/// who leads is found out without them.
fn lease_of(mut object: DynamicObject) -> Result<Lease, serde_json::Error> {
    let mut spec = object.data["spec"].take();
    for time in ["acquireTime", "renewTime"] {
        if MicroTime::deserialize(&spec[time]).is_err()
            && let Some(fields) = spec.as_object_mut()
        {
            fields.remove(time);
        }
    }
    Ok(Lease {
        metadata: object.metadata,
        spec: serde_json::from_value(spec)?,
    })
}

fn is_conflict(error: &Error) -> bool {
    matches!(code(error), Some(404 | 409)) && !super::error::said(error).contains("namespaces")
}

async fn bounded<T>(call: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(CALL_TIMEOUT, call).await.ok()
}
