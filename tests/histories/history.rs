//! One history: the steps, and after each the comparison with a fresh resource.

use std::time::Duration;

use jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use rand::{SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use servicenow_credential_operator::api::ServiceNowCredential;
use testkit::operator::Operator;

use crate::{
    step::Step,
    support::{
        Scene, condition,
        end::{difference, end_of},
        eventually,
    },
    world::{TAKEN, World, put_foreign},
};

const NAME: &str = "itsm";
/// What somebody writes over a value.
const EDITED: &str = "edited";
/// Far from any renewal.
const LIFETIME: Duration = Duration::from_secs(1800);
/// What a resource is given to become what a fresh one is.
const PATIENCE: Duration = Duration::from_secs(20);
/// What nothing changes in is settled.
const QUIET: Duration = Duration::from_millis(300);

/// How a history went.
pub(crate) struct Told {
    /// What each step came to.
    pub(crate) reasons: Vec<String>,
    pub(crate) refused: usize,
    pub(crate) violation: Option<String>,
}

struct History {
    scene: Scene,
    world: World,
    /// The name of the target Secret, and how it was when the resource was last synced.
    last_good: Option<(String, Value)>,
    seed: u64,
    _operator: Operator,
}

/// Runs the history of a seed.
pub(crate) async fn told(seed: u64, steps: usize) -> Told {
    let mut random = StdRng::seed_from_u64(seed);
    let mut history = History::begin(seed).await;
    let mut told = Told {
        reasons: Vec::new(),
        refused: 0,
        violation: None,
    };
    let mut so_far = vec!["created".to_owned()];
    for _ in 0..steps {
        let step = Step::drawn(&history.world, &mut random);
        so_far.push(format!("{step:?}"));
        told.refused += usize::from(matches!(step, Step::Refused(_)));
        let outcome = match history.take(&step).await {
            Ok(()) => history.compare().await,
            Err(violation) => Err(violation),
        };
        match outcome {
            Ok(reason) => told.reasons.push(reason),
            Err(violation) => {
                told.violation = Some(format!("{violation}\nafter {}", so_far.join("\n  then ")));
                return told;
            }
        }
    }
    if let Err(violation) = history.recover().await {
        told.violation = Some(format!(
            "it does not recover: {violation}\nafter {}",
            so_far.join("\n  then ")
        ));
    }
    told
}

impl History {
    async fn begin(seed: u64) -> Self {
        let scene = Scene::new(LIFETIME).await;
        let mut options = scene.options(&["--min-renew-interval=1ms"]);
        let all = |argument: &String| !argument.starts_with("--watch-namespaces");
        options.arguments.retain(all);
        options
            .arguments
            .push(format!("--selector=history=h{seed}"));
        let operator = Operator::start(&options).await;
        let history = Self {
            scene,
            world: World::new(),
            last_good: None,
            seed,
            _operator: operator,
        };
        history.create(&history.scene, &history.world).await;
        history
    }

    async fn create(&self, scene: &Scene, world: &World) {
        let resource = json!({
            "apiVersion": "snowcred.dev/v1alpha1",
            "kind": "ServiceNowCredential",
            "metadata": {"name": NAME, "labels": {"history": format!("h{}", self.seed)}},
            "spec": world.spec_in(scene),
        });
        let resource = serde_json::from_value(resource).unwrap();
        let created = scene
            .credentials()
            .create(&PostParams::default(), &resource)
            .await;
        created.unwrap_or_else(|error| panic!("{error}: {}", world.spec));
    }

    /// Does what the step says, in the cluster and in the world.
    async fn take(&mut self, step: &Step) -> Result<(), String> {
        let scene = &self.scene;
        match step {
            Step::Spec(spec) => {
                self.world.spec.clone_from(spec);
                self.put_spec().await.map_err(|error| error.to_string())?;
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
                // A refusal before this is not waited out.
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
            Step::Fault(fault) => {
                self.world.fault.clone_from(fault);
                scene.instance.set_fault(fault.clone());
                self.renew().await;
            }
            Step::Renew => self.renew().await,
            Step::DeleteTarget => {
                let name = self.world.target().to_owned();
                let ours = !(self.world.is_taken && name == TAKEN);
                if ours && scene.secret(&name).await.is_some() {
                    scene.delete_secret(&name).await;
                    self.forget(&name);
                }
            }
            Step::EditTarget => self.edit_target().await,
            Step::Recreate => {
                scene.delete(NAME).await;
                eventually("the resource and its Secrets are gone", async || {
                    let end = end_of(scene).await;
                    let left = end.as_object()?.iter().filter(|(name, object)| {
                        name.starts_with("resource") || object["owners"] != json!([])
                    });
                    (left.count() == 0).then_some(())
                })
                .await;
                self.last_good = None;
                self.create(&self.scene, &self.world).await;
            }
        }
        Ok(())
    }

    async fn edit_target(&mut self) {
        let name = self.world.target().to_owned();
        if self.world.is_taken && name == TAKEN {
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
        self.forget(&name);
    }

    /// Somebody else has changed the Secret of this name.
    fn forget(&mut self, name: &str) {
        self.last_good.take_if(|(good, _)| good == name);
    }

    async fn put_spec(&self) -> Result<(), kube::Error> {
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

    /// What a fresh resource comes to in this world.
    async fn fresh(&self, world: &World) -> Value {
        let scene = self.scene.beside(LIFETIME).await;
        world.set_up(&scene).await;
        self.create(&scene, world).await;
        let end = settled(&scene).await;
        scene
            .credentials()
            .delete(NAME, &DeleteParams::default())
            .await
            .unwrap();
        end
    }

    /// Waits until the resource is as a fresh one is. Returns the reason that both have.
    async fn compare(&mut self) -> Result<String, String> {
        let mut fresh = vec![self.fresh(&self.world).await];
        if self.world.fault.is_some() {
            // Who holds a token may need nothing of an instance that fails.
            fresh.push(self.fresh(&self.world.without_fault()).await);
            fresh = fresh.into_iter().map(without_probe).collect();
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let mut end = settled(&self.scene).await;
            if self.world.fault.is_some() {
                // A probe fails where a token that is held does not.
                end = without_probe(end);
            }
            let alike = fresh.iter().map(|fresh| self.differs(fresh, &end));
            let differences: Vec<_> = alike.collect();
            if differences.iter().any(Option::is_none) {
                if synced(&end)["reason"] == "TokenSynced" {
                    let name = self.world.target();
                    self.last_good = Some((name.to_owned(), target(&end, name)));
                }
                return Ok(synced(&end)["reason"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned());
            }
            if tokio::time::Instant::now() > deadline {
                let differences = differences.into_iter().flatten().collect::<Vec<_>>();
                return Err(differences.join("\n or \n"));
            }
        }
    }

    /// How this end differs from a fresh resource's, but for what history may decide.
    fn differs(&self, fresh: &Value, end: &Value) -> Option<String> {
        if synced(fresh)["reason"] == "TokenSynced" {
            let end = without_what_is_theirs(end, fresh);
            return (*fresh != end).then(|| difference(fresh, &end));
        }
        // In a failure what was synced before stays, and with it what the status says of it. Who is
        // suspended keeps the failure that was before.
        let (one, other) = match synced(end)["reason"].as_str() {
            Some("Suspended") => (synced(fresh).clone(), synced(end).clone()),
            _ => (failure(fresh), failure(end)),
        };
        // A fresh resource learns that its target is somebody else's when it writes; what fails before
        // comes first there.
        let taken = self.world.is_taken && self.world.target() == TAKEN;
        let in_the_way = taken && synced(end)["reason"] == "TargetConflict";
        if one != other && !in_the_way {
            return Some(difference(&one, &other));
        }
        // Under its old name too, as long as the new one has not come to be.
        let (name, before) = self.last_good.as_ref()?;
        let now = target(end, name);
        (now != *before).then(|| format!("the last good Secret: {}", difference(before, &now)))
    }

    /// Takes every trouble away.
    async fn recover(&mut self) -> Result<(), String> {
        if self.world.is_taken {
            self.scene.delete_secret(TAKEN).await;
        }
        self.world = World::new();
        self.scene.instance.set_fault(None);
        self.world.put_client(&self.scene).await;
        self.put_spec().await.map_err(|error| error.to_string())?;
        self.renew().await;
        match self.compare().await?.as_str() {
            "TokenSynced" => Ok(()),
            reason => Err(format!("it is {reason}")),
        }
    }
}

/// The end of a scene in which the operator has seen the spec and nothing changes any more, without
/// what any history leaves behind.
async fn settled(scene: &Scene) -> Value {
    eventually("the resource is settled", async || {
        let resource = scene.get(NAME).await;
        let seen = resource.status.as_ref()?.observed_generation == resource.metadata.generation;
        let (synced, reason, _) = condition(&resource, "Synced")?;
        let well = scene.instance.fault().is_none() && synced == "True";
        if !seen || reason == "Pending" || well && !is_tried_out(&resource) {
            return None;
        }
        let end = end_of(scene).await;
        tokio::time::sleep(QUIET).await;
        let still = end_of(scene).await;
        (end == still).then_some(without_history(end))
    })
    .await
}

/// Whether the token in the Secret has been tried out, where it is to be.
fn is_tried_out(resource: &ServiceNowCredential) -> bool {
    let status = resource.status.as_ref();
    let Some(token) = status.and_then(|status| status.token.as_ref()?.sha256.as_ref()) else {
        return true;
    };
    resource.spec.verify.is_none()
        || condition(resource, "Verified").is_some_and(|(.., told)| told.contains(&token[..8]))
}

fn without_probe(mut end: Value) -> Value {
    let conditions = &mut end["resource itsm"]["status"]["conditions"];
    let conditions = conditions.as_array_mut().unwrap();
    conditions.retain(|condition| condition["type"] != "Verified");
    end
}

fn without_history(mut end: Value) -> Value {
    let resource = &mut end["resource itsm"];
    for field in ["annotations", "generation"] {
        resource[field] = Value::Null;
    }
    let status = resource["status"].as_object_mut().unwrap();
    status.remove("handledRenewRequest");
    status.remove("observedGeneration");
    for condition in status["conditions"].as_array_mut().unwrap() {
        condition["observedGeneration"] = Value::Null;
    }
    end
}

/// A key that somebody edited and that the spec no longer has, before it was put back, is theirs.
fn without_what_is_theirs(end: &Value, fresh: &Value) -> Value {
    let mut end = end.clone();
    for (name, object) in end.as_object_mut().unwrap() {
        if let Some(data) = object.get_mut("data").and_then(Value::as_object_mut) {
            let ours = &fresh[name]["data"];
            data.retain(|key, value| value != EDITED || !ours[key].is_null());
        }
    }
    end
}

fn synced(end: &Value) -> &Value {
    let conditions = end["resource itsm"]["status"]["conditions"].as_array();
    let synced = conditions.and_then(|all| all.iter().find(|c| c["type"] == "Synced"));
    synced.unwrap_or(&Value::Null)
}

/// What of an end tells of a failure.
fn failure(end: &Value) -> Value {
    let failure = &end["resource itsm"]["status"]["failure"];
    json!({"synced": synced(end), "failure": [failure["reason"], failure["message"]]})
}

fn target(end: &Value, name: &str) -> Value {
    end[format!("Secret {name}")].clone()
}
