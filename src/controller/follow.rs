//! What the watches tell goes into the store, and wakes who is concerned.

use std::sync::Arc;

use futures::{
    StreamExt as _,
    stream::{BoxStream, SelectAll, select_all},
};
use kube::{
    core::Status,
    runtime::watcher::{self, Event},
};

use super::Controller;
use crate::{
    decide::{Credential, Name, observed::Kind},
    kubernetes::{
        Relist,
        watch::{self, SeenObject},
    },
};

/// What `/readyz` is told about.
const TOPIC: &str = "lists";

/// The watches of one kind, one for each namespace of the scope.
struct Watches<T> {
    events: SelectAll<BoxStream<'static, (usize, watcher::Result<Event<T>>)>>,
    lists: Vec<Relist>,
    listed: Vec<bool>,
    /// One of them may not be, or could not at some time since they began.
    refused: bool,
}

impl<T: 'static> Watches<T> {
    fn new(
        scopes: &[Option<&str>],
        watch: impl Fn(Option<&str>) -> BoxStream<'static, watcher::Result<Event<T>>>,
    ) -> Self {
        let streams = scopes.iter().enumerate().map(|(index, namespace)| {
            let events = watch(*namespace);
            events.map(move |event| (index, event)).boxed()
        });
        Self {
            events: select_all(streams),
            lists: scopes.iter().map(|_| Relist::default()).collect(),
            listed: vec![false; scopes.len()],
            refused: false,
        }
    }

    /// The next event, and of which namespace; `None` when a watch has ended, which none should.
    async fn next(&mut self) -> Option<(usize, watcher::Result<Event<T>>)> {
        let (index, event) = self.events.next().await?;
        self.listed[index] |= matches!(event, Ok(Event::InitDone));
        self.refused |= event.as_ref().is_err_and(is_refused);
        Some((index, event))
    }

    /// The first list of each namespace is complete.
    fn is_listed(&self) -> bool {
        self.listed.iter().all(|listed| *listed)
    }
}

impl Controller {
    /// Follows the resources, and once they are all known, the objects that they name. Returns
    /// only when a watch has ended, which none should.
    pub(super) async fn follow(self: Arc<Self>) {
        let scopes: Vec<Option<&str>> = match &self.scope.namespaces {
            all if all.is_empty() => vec![None],
            some => some
                .iter()
                .map(|namespace| Some(namespace.as_str()))
                .collect(),
        };
        let selector = self.scope.selector.as_deref();
        let mut credentials = Watches::new(&scopes, |namespace| {
            let this = self.clone();
            let known = move |name: &Name| this.with_core(|core| core.store.get(name).cloned());
            watch::credentials(self.client.clone(), namespace, selector, known)
        });
        let objects = |kind| {
            let client = self.client.clone();
            Watches::new(&scopes, move |namespace| {
                watch::objects(client.clone(), kind, namespace)
            })
        };
        let mut secrets = objects(Kind::Secret);
        // Most fleets name no ConfigMap, and then none is watched.
        let mut config_maps: Option<Watches<SeenObject>> = None;
        loop {
            // Only when all resources are known it is known which objects they name.
            let known = credentials.is_listed();
            tokio::select! {
                event = credentials.next() => {
                    let Some((index, event)) = event else { return };
                    self.on_credential(scopes[index], &mut credentials.lists[index], event);
                    if !known && credentials.is_listed() {
                        self.say_waiting("the list of Secrets is not complete yet");
                    }
                }
                event = secrets.next(), if known => {
                    let Some((index, event)) = event else { return };
                    self.on_object(Kind::Secret, scopes[index], &mut secrets.lists[index], event);
                }
                event = next_of(&mut config_maps), if known => {
                    let (Some((index, event)), Some(watches)) = (event, &mut config_maps) else {
                        return;
                    };
                    self.on_object(Kind::ConfigMap, scopes[index], &mut watches.lists[index], event);
                }
            }
            let named = self.with_core(|core| !core.store.config_maps.is_empty());
            if named != config_maps.is_some() {
                config_maps = named.then(|| objects(Kind::ConfigMap));
                self.with_core(|core| core.store.config_maps.unlisted());
            }
            // A right that is missing for the ConfigMaps of some keeps nobody else waiting.
            let listed = |watches: &Watches<SeenObject>| watches.is_listed() || watches.refused;
            if known && secrets.is_listed() && config_maps.as_ref().is_none_or(listed) {
                self.all_listed();
            }
        }
    }

    fn say_waiting(&self, what: &str) {
        self.health.set_waiting(TOPIC, Some(what.to_owned()));
    }

    /// Everything is known: from now on a leader reconciles resources.
    fn all_listed(&self) {
        if self.with_core(|core| core.all_listed()) {
            self.health.set_waiting(TOPIC, None);
            tracing::info!("ready");
            self.changed.notify_one();
        }
    }

    fn on_credential(
        &self,
        namespace: Option<&str>,
        relist: &mut Relist,
        event: watcher::Result<Event<Credential>>,
    ) {
        let event = match event {
            Ok(event) => event,
            Err(error) => return self.watch_failed("ServiceNowCredentials", &error),
        };
        if let Event::Apply(credential) | Event::InitApply(credential) = &event {
            self.metrics
                .set_status(&credential.name, &credential.status);
        }
        let (woken, gone) = self.with_core(|core| {
            let woken = match event {
                Event::Apply(credential) => core.store.apply(credential),
                Event::Delete(credential) => core.store.remove(&credential.name),
                Event::Init => {
                    *relist = core.store.begin_relist(namespace);
                    Vec::new()
                }
                Event::InitApply(credential) => core.store.listed(relist, credential),
                Event::InitDone => core.store.end_relist(&std::mem::take(relist)),
            };
            let mut gone = woken.clone();
            gone.retain(|name| core.store.get(name).is_none());
            (woken, gone)
        });
        // A standby shows series too, and reconciles nothing that would end them.
        gone.iter().for_each(|name| self.metrics.remove(name));
        self.wake(woken);
    }

    fn on_object(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        relist: &mut Relist,
        event: watcher::Result<Event<SeenObject>>,
    ) {
        let event = match event {
            Ok(event) => event,
            Err(error) => return self.watch_failed(&format!("{}s", kind.as_str()), &error),
        };
        let woken = self.with_core(|core| {
            if let Event::Init = event {
                *relist = core.store.begin_relist(namespace);
            }
            let objects = core.store.objects_mut(kind);
            match event {
                Event::Apply((name, version)) => core.store.object_applied(kind, &name, version),
                Event::Delete((name, version)) => objects.deleted(&name, &version.resource_version),
                Event::Init => Vec::new(),
                Event::InitApply((name, version)) => objects.listed(relist, &name, version),
                Event::InitDone => objects.end_relist(&std::mem::take(relist)),
            }
        });
        self.wake(woken);
    }

    fn watch_failed(&self, what: &str, error: &watcher::Error) {
        let why = explain(error);
        tracing::warn!(what, why, "watch failed, trying again");
        if !self.with_core(|core| core.is_listed()) {
            self.say_waiting(&format!("the list of {what} failed: {why}"));
        }
    }
}

/// The next event of watches that there may be; of none, there is never one.
async fn next_of<T: 'static>(
    watches: &mut Option<Watches<T>>,
) -> Option<(usize, watcher::Result<Event<T>>)> {
    match watches {
        Some(watches) => watches.next().await,
        None => std::future::pending().await,
    }
}

/// The API server's own answer, where there was one.
fn status(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status)
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => Some(status),
        _ => None,
    }
}

fn is_refused(error: &watcher::Error) -> bool {
    status(error).is_some_and(|status| matches!(status.code, 401 | 403))
}

/// What stands in the way of a watch, and what to do. The API server's words about a list or a
/// watch hold no object.
fn explain(error: &watcher::Error) -> String {
    let Some(status) = status(error) else {
        return match error {
            watcher::Error::NoResourceVersion => "the answer has no resourceVersion".to_owned(),
            _ => "the Kubernetes API cannot be reached".to_owned(),
        };
    };
    match status.code {
        404 => "the CustomResourceDefinition servicenowcredentials.snowcred.dev is not installed; \
                apply crds/servicenowcredentials.yaml with kubectl"
            .to_owned(),
        401 | 403 => format!("{}; check the operator's RBAC", status.message),
        _ => status.message.clone(),
    }
}
