//! What the watches tell goes into the store, and wakes who is concerned.

use std::sync::Arc;

use futures::{StreamExt as _, stream::select_all};
use kube::runtime::watcher::{self, Event};

use super::Controller;
use crate::{
    decide::Credential,
    kubernetes::{
        Relist,
        watch::{self, SeenSecret},
    },
};

/// What `/readyz` is told about.
const TOPIC: &str = "lists";

impl Controller {
    /// Follows the resources, and once they are all known, the Secrets that they name. Returns
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
        let mut credentials = select_all(scopes.iter().enumerate().map(|(index, namespace)| {
            watch::credentials(self.client.clone(), *namespace, selector).map(move |e| (index, e))
        }));
        let mut secrets = select_all(scopes.iter().enumerate().map(|(index, namespace)| {
            watch::secrets(self.client.clone(), *namespace).map(move |e| (index, e))
        }));
        let lists = || scopes.iter().map(|_| Relist::default()).collect::<Vec<_>>();
        let (mut credential_lists, mut secret_lists) = (lists(), lists());
        let mut unlisted = (scopes.len(), scopes.len());
        let mut listed = (vec![false; scopes.len()], vec![false; scopes.len()]);
        loop {
            // The Secrets are listed after the resources: only then it is known which are named.
            let resources_known = unlisted.0 == 0;
            tokio::select! {
                Some((index, event)) = credentials.next() => {
                    let done = matches!(event, Ok(Event::InitDone));
                    self.on_credential(scopes[index], &mut credential_lists[index], event);
                    if done && !std::mem::replace(&mut listed.0[index], true) {
                        unlisted.0 -= 1;
                        self.say_waiting("the list of Secrets is not complete yet");
                    }
                }
                Some((index, event)) = secrets.next(), if resources_known => {
                    let done = matches!(event, Ok(Event::InitDone));
                    self.on_secret(scopes[index], &mut secret_lists[index], event);
                    if done && !std::mem::replace(&mut listed.1[index], true) {
                        unlisted.1 -= 1;
                    }
                    if unlisted.1 == 0 {
                        self.all_listed();
                    }
                }
                else => return,
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
                Event::InitDone => core.store.end_relist(relist),
            };
            let mut gone = woken.clone();
            gone.retain(|name| core.store.get(name).is_none());
            (woken, gone)
        });
        // A standby shows series too, and reconciles nothing that would end them.
        gone.iter().for_each(|name| self.metrics.remove(name));
        self.wake(woken);
    }

    fn on_secret(
        &self,
        namespace: Option<&str>,
        relist: &mut Relist,
        event: watcher::Result<Event<SeenSecret>>,
    ) {
        let event = match event {
            Ok(event) => event,
            Err(error) => return self.watch_failed("Secrets", &error),
        };
        let woken = self.with_core(|core| match event {
            Event::Apply((name, version)) => core.store.secret_applied(&name, version),
            Event::Delete((name, version)) => {
                core.store.secret_deleted(&name, &version.resource_version)
            }
            Event::Init => {
                *relist = core.store.begin_relist(namespace);
                Vec::new()
            }
            Event::InitApply((name, version)) => core.store.secret_listed(relist, &name, version),
            Event::InitDone => core.store.end_secret_relist(relist),
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

/// What stands in the way of a watch, and what to do. The API server's words about a list or a
/// watch hold no object.
fn explain(error: &watcher::Error) -> String {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status)
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => status,
        watcher::Error::NoResourceVersion => return "the answer has no resourceVersion".to_owned(),
        _ => return "the Kubernetes API cannot be reached".to_owned(),
    };
    match status.code {
        404 => "the CustomResourceDefinition servicenowcredentials.snowcred.dev is not installed; \
                apply crds/servicenowcredentials.yaml with kubectl"
            .to_owned(),
        401 | 403 => format!("{}; check the operator's RBAC", status.message),
        _ => status.message.clone(),
    }
}
