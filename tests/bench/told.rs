//! What a watch of one kind tells: how often which object was written.

use std::{collections::HashMap, pin::pin, time::Instant};

use futures::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource, ResourceExt as _,
    core::PartialObjectMeta,
    runtime::watcher::{Config, Event, watcher},
};
use tokio::{sync::watch, task::JoinHandle};

/// Each object that was written since the watch began: when first, and how often.
pub(crate) type Writes = HashMap<String, (Instant, usize)>;

/// A watch of the metadata of one kind in one namespace. It ends with this value.
pub(crate) struct Told {
    writes: watch::Receiver<Writes>,
    task: JoinHandle<()>,
}

impl Told {
    /// Begins to watch; what is there by now is no news.
    pub(crate) async fn of<K>(client: Client, namespace: &str) -> Self
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        let api: Api<PartialObjectMeta<K>> = Api::namespaced(client, namespace);
        let (sender, writes) = watch::channel(Writes::new());
        let (listed, is_listed) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let mut listed = Some(listed);
            let mut events = pin!(watcher(api, Config::default()));
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Apply(object)) => sender.send_modify(|writes| {
                        let now = Instant::now();
                        writes.entry(object.name_any()).or_insert((now, 0)).1 += 1;
                    }),
                    Ok(Event::InitDone) => {
                        if let Some(listed) = listed.take() {
                            let _ = listed.send(());
                        }
                    }
                    Ok(_) => {}
                    Err(error) => panic!("the watch failed: {error}"),
                }
            }
        });
        is_listed.await.unwrap();
        Self { writes, task }
    }

    /// Waits until so many objects were written.
    pub(crate) async fn until(&mut self, objects: usize) {
        let enough = self.writes.wait_for(|writes| writes.len() >= objects);
        enough.await.unwrap();
    }

    /// What was written so far.
    pub(crate) fn writes(&self) -> Writes {
        self.writes.borrow().clone()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.task.abort();
    }
}
