//! What a step does, in the cluster and in the world that the next fresh resource is made for.

use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    alike::owner,
    history::History,
    rival::{self, RIVAL},
    step::{EDITED, MISSING, Step},
    support::{end::end_of, eventually},
    world::{NAME, SHARED, TAKEN, put_foreign, put_shared},
};

impl History {
    /// Does what the step says, in the cluster and in the world.
    pub(crate) async fn take(&mut self, step: &Step) -> Result<(), String> {
        let scene = &self.scene;
        match step {
            Step::Spec(spec) => {
                let changed = spec["tls"] != self.world.spec["tls"];
                let is_missing = spec["tls"]["caBundleRef"]["name"] == MISSING;
                self.world.spec.clone_from(spec);
                self.put_spec().await.map_err(|error| error.to_string())?;
                // Another CA serves from the next request on. One that does not exist is told of at once.
                if changed && !is_missing {
                    self.renew().await;
                }
            }
            Step::Refused(spec) => {
                let before = std::mem::replace(&mut self.world.spec, spec.clone());
                let refused = self.put_spec().await.is_err();
                self.world.spec = before;
                if !refused {
                    return Err("it was not refused".to_owned());
                }
            }
            Step::Client(client) => {
                self.world.client = *client;
                self.world.put_client(scene).await;
                if self.world.fault.is_none() {
                    // A refusal before this is not waited out.
                    self.renew().await;
                }
            }
            Step::Ca(ca) => {
                self.world.ca = *ca;
                self.world.put_ca(scene).await;
                // A new one serves from the next request on.
                self.renew().await;
            }
            Step::Taken(taken) => {
                // One that was synced under this name before a rename that failed is ours still.
                if !taken {
                    scene.delete_secret(TAKEN).await;
                } else if scene.secret(TAKEN).await.is_none() {
                    put_foreign(scene).await;
                } else {
                    return Ok(());
                }
                self.world.is_taken = *taken;
            }
            Step::Shared(true) => {
                put_shared(scene).await;
                self.world.is_shared = true;
            }
            Step::Shared(false) => self.delete_shared().await,
            Step::Rival(rival) => self.change_rival(rival.clone()).await,
            Step::Fault(fault) => {
                self.world.fault.clone_from(fault);
                scene.instance.set_fault(fault.clone());
                self.renew().await;
            }
            Step::Renew => self.renew().await,
            Step::DeleteTarget if self.world.merges() => self.delete_shared().await,
            Step::DeleteTarget => {
                let name = self.world.target().to_owned();
                let ours = !(self.world.is_taken && name == TAKEN);
                if ours && scene.secret(&name).await.is_some() {
                    scene.delete_secret(&name).await;
                    self.kept.forget(&name);
                    self.kept.disown(&name);
                    self.world.disturbances += 1;
                }
            }
            Step::EditTarget => self.edit_target().await,
            Step::Recreate => self.recreate().await,
        }
        Ok(())
    }

    async fn delete_shared(&mut self) {
        if self.world.is_shared {
            self.scene.delete_secret(SHARED).await;
            self.kept.forget(SHARED);
            self.world.is_shared = false;
        }
    }

    pub(crate) async fn change_rival(&mut self, rival: Option<String>) {
        if let Some(target) = &rival {
            let spec = rival::spec(&self.scene, target).await;
            self.create_resource(&self.scene, RIVAL, spec).await;
        } else if let Some(target) = &self.world.rival {
            let end = end_of(&self.scene).await;
            if owner(&end, target) == Some(RIVAL) {
                self.kept.disown(target);
            }
            self.scene.delete(RIVAL).await;
            self.until_gone(RIVAL).await;
        }
        self.world.rival = rival;
    }

    /// Waits until a resource that was deleted is gone, with every Secret that it owned.
    async fn until_gone(&self, name: &str) {
        eventually("the resource and its Secrets are gone", async || {
            let end = end_of(&self.scene).await;
            let is_left = |object: &Value| object["owners"][0][0] == "<nobody>";
            let left = end.as_object()?.values().any(is_left);
            (!left && end.get(format!("resource {name}")).is_none()).then_some(())
        })
        .await;
    }

    async fn recreate(&mut self) {
        self.scene.delete(NAME).await;
        self.until_gone(NAME).await;
        self.kept.begin_anew();
        self.create(&self.scene).await;
    }

    async fn edit_target(&mut self) {
        let name = self.world.target().to_owned();
        // What somebody else edits in a Secret of somebody else's is theirs.
        if self.world.merges() || self.world.is_taken && name == TAKEN {
            return;
        }
        let Some(secret) = self.scene.secret(&name).await else {
            return;
        };
        let Some(key) = secret.data.unwrap_or_default().into_keys().next() else {
            return;
        };
        let edit = json!({"stringData": {key: EDITED}});
        let patched = self
            .scene
            .secrets()
            .patch(&name, &PatchParams::default(), &Patch::Merge(edit))
            .await;
        patched.unwrap();
        self.kept.forget(&name);
        self.world.disturbances += 1;
    }

    pub(crate) async fn put_spec(&self) -> Result<(), kube::Error> {
        let spec = self.world.spec_in(&self.scene);
        let patch = json!([{"op": "replace", "path": "/spec", "value": spec}]);
        let patch = serde_json::from_value(patch).unwrap();
        self.scene
            .credentials()
            .patch(NAME, &PatchParams::default(), &Patch::Json::<()>(patch))
            .await?;
        Ok(())
    }

    async fn renew(&self) {
        let value = Timestamp::now().to_string();
        let request =
            json!({"metadata": {"annotations": {"snowcred.dev/renew-requested-at": value}}});
        self.scene.change(NAME, request).await;
    }
}
