//! One history: the steps, and after each the comparison with a fresh resource.

use std::time::Duration;

use kube::api::{DeleteParams, ListParams, PostParams};
use rand::{SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use servicenow_credential_operator::api::DEFAULT_ALLOWED_HOSTS;
use testkit::{operator::Operator, servicenow::Simulator};
use tokio::time::Instant;

use crate::{
    alike::{differs, owner, reason, without_probe},
    kept::Kept,
    rival::{self, RIVAL},
    settled::settled,
    step::Step,
    support::{Scene, end::end_of},
    workload,
    world::{NAME, TAKEN, World},
};

/// Far from any renewal.
const LIFETIME: Duration = Duration::from_secs(1800);
/// What a resource is given to become what a fresh one is.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked at meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// How a history went.
#[derive(Default)]
pub(crate) struct Told {
    /// What each step came to, and then the recovery.
    pub(crate) reasons: Vec<String>,
    pub(crate) refused: usize,
    /// How often the workload was restarted.
    pub(crate) restarts: usize,
    /// Steps after which there were orphans, and after which the rival had the target.
    pub(crate) with_orphans: usize,
    pub(crate) behind_rival: usize,
    pub(crate) violation: Option<String>,
}

pub(crate) struct History {
    pub(crate) scene: Scene,
    pub(crate) world: World,
    pub(crate) kept: Kept,
    /// Those of the fresh resources to come.
    instances: Vec<Simulator>,
    seed: u64,
    _operator: Operator,
}

/// Runs the history of a seed.
pub(crate) async fn told(seed: u64, steps: usize) -> Told {
    let mut random = StdRng::seed_from_u64(seed);
    let mut history = History::begin(seed, steps).await;
    let mut told = Told::default();
    let mut so_far = vec!["created".to_owned()];
    for _ in 0..steps {
        let step = Step::drawn(&history.world, &mut random);
        so_far.push(format!("{step:?}"));
        told.refused += usize::from(matches!(step, Step::Refused(_)));
        let outcome = match history.take(&step).await {
            Ok(()) => history.compare(&step).await,
            Err(violation) => Err(violation),
        };
        match outcome {
            Ok(reason) => {
                told.reasons.push(reason);
                history.kept.count_in(&mut told);
            }
            Err(violation) => {
                told.violation = Some(format!("{violation}\nafter {}", so_far.join("\n  then ")));
                return told;
            }
        }
    }
    match history.recover().await {
        Ok(reason) => told.reasons.push(reason),
        Err(violation) => {
            told.violation = Some(format!(
                "it does not recover: {violation}\nafter {}",
                so_far.join("\n  then ")
            ));
        }
    }
    told
}

impl History {
    /// A resource that is well.
    async fn begin(seed: u64, steps: usize) -> Self {
        let scene = Scene::with_instance(Simulator::start_tls().await, LIFETIME).await;
        let mut instances = Vec::new();
        // Up to two for each step, and for the recovery.
        for _ in 0..=steps {
            instances.push(Simulator::start_tls().await);
            instances.push(Simulator::start_tls().await);
        }
        let operator = operator(&scene, &instances, seed).await;
        let mut history = Self {
            scene,
            world: World::new(),
            kept: Kept::new(),
            instances,
            seed,
            _operator: operator,
        };
        history.world.set_up(&history.scene).await;
        workload::put(&history.scene).await;
        history.create(&history.scene).await;
        let (end, record) = settled(&history.scene).await;
        history.kept.remember(&history.world, &end, record);
        history
    }

    /// Creates the resource.
    pub(crate) async fn create(&self, scene: &Scene) {
        self.create_resource(scene, NAME, self.world.spec_in(scene))
            .await;
    }

    pub(crate) async fn create_resource(&self, scene: &Scene, name: &str, spec: Value) {
        let resource = json!({
            "apiVersion": "snowcred.dev/v1alpha1",
            "kind": "ServiceNowCredential",
            "metadata": {"name": name, "labels": {"history": label(self.seed)}},
            "spec": spec,
        });
        let resource = serde_json::from_value(resource).unwrap();
        let credentials = scene.credentials();
        let created = credentials.create(&PostParams::default(), &resource).await;
        created.unwrap_or_else(|error| panic!("{error}: {:?}", self.world));
    }

    /// What a fresh resource comes to in this world, where the rival may have been first.
    async fn fresh(&mut self, world: &World, after_rival: bool) -> Value {
        let instance = self.instances.pop().expect("there are two for each step");
        let scene = self.scene.beside(instance, LIFETIME).await;
        world.set_up(&scene).await;
        if after_rival {
            let spec = rival::spec(&scene, world.target()).await;
            self.create_resource(&scene, RIVAL, spec).await;
            scene.await_synced(RIVAL).await;
        }
        self.create(&scene).await;
        let (end, _) = settled(&scene).await;
        let everything = scene
            .credentials()
            .delete_collection(&DeleteParams::default(), &ListParams::default())
            .await;
        everything.unwrap();
        end
    }

    /// What fresh resources come to in the present world.
    async fn fresh_ones(&mut self, step: &Step) -> Vec<Value> {
        let world = self.world.clone();
        let owned_by_rival = owner(&end_of(&self.scene).await, world.target()) == Some(RIVAL);
        let mut fresh = vec![self.fresh(&world, owned_by_rival).await];
        if world.fault.is_none() {
            return fresh;
        }
        // Who holds a token may need nothing of an instance that fails.
        if !step.forces_a_request() {
            let well = world.without_fault();
            fresh.push(self.fresh(&well, owned_by_rival).await);
        }
        fresh.into_iter().map(without_probe).collect()
    }

    /// Waits until the resource is as a fresh one is. Returns the reason that both have.
    async fn compare(&mut self, step: &Step) -> Result<String, String> {
        self.until_rival_is_right().await?;
        let fresh = self.fresh_ones(step).await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (mut end, record) = settled(&self.scene).await;
            if self.world.fault.is_some() {
                // A probe fails where a token that is held does not.
                end = without_probe(end);
            }
            let differences: Vec<_> = fresh
                .iter()
                .filter_map(|fresh| self.differs(step, fresh, &end, &record))
                .collect();
            if differences.len() < fresh.len() {
                self.kept.remember(&self.world, &end, record);
                return Ok(reason(&end).to_owned());
            }
            if Instant::now() > deadline {
                return Err(differences.join("\n or \n"));
            }
        }
    }

    /// How the resource is not as it has to be.
    fn differs(&self, step: &Step, fresh: &Value, end: &Value, record: &Value) -> Option<String> {
        let (world, kept) = (&self.world, &self.kept);
        let lost = || match reason(fresh) {
            "TokenSynced" => None,
            _ => kept.is_lost(end, record),
        };
        differs(world, kept, fresh, end)
            .or_else(lost)
            .or_else(|| kept.orphan_is_touched(world, end))
            .or_else(|| kept.owner_has_changed(world, end))
            .or_else(|| kept.restart_is_wrong(step, record))
    }

    async fn until_rival_is_right(&self) -> Result<(), String> {
        let Some(target) = &self.world.rival else {
            return Ok(());
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let end = end_of(&self.scene).await;
            match rival::is_wronged(&self.scene, target, &end).await {
                None => return Ok(()),
                Some(wrong) if Instant::now() > deadline => return Err(wrong),
                Some(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Takes every trouble away.
    async fn recover(&mut self) -> Result<String, String> {
        if self.world.is_taken {
            self.scene.delete_secret(TAKEN).await;
        }
        if self.world.rival.is_some() {
            self.change_rival(None).await;
        }
        // The spec comes first, or what it was would be carried out meanwhile.
        self.world = self.world.recovered();
        self.put_spec().await.map_err(|error| error.to_string())?;
        self.world.set_up(&self.scene).await;
        let step = Step::Renew;
        self.take(&step).await?;
        let reason = self.compare(&step).await?;
        match reason.as_str() {
            "TokenSynced" => Ok(reason),
            _ => Err(format!("it is {reason}")),
        }
    }
}

/// The operator of one history, for its resource and the fresh ones.
async fn operator(scene: &Scene, instances: &[Simulator], seed: u64) -> Operator {
    let all = instances.iter().chain([&scene.instance]);
    let hosts = all.map(|instance| instance.origin().replace("https://", ""));
    let hosts = [DEFAULT_ALLOWED_HOSTS.to_owned()].into_iter().chain(hosts);
    let hosts = hosts.collect::<Vec<_>>().join(",");
    let mut options = scene.options(&[
        "--min-renew-interval=1ms",
        &format!("--allowed-hosts={hosts}"),
        &format!("--selector=history={}", label(seed)),
    ]);
    let of_one_namespace = |argument: &String| argument.starts_with("--watch-namespaces");
    options
        .arguments
        .retain(|argument| !of_one_namespace(argument));
    Operator::start(&options).await
}

fn label(seed: u64) -> String {
    format!("h{seed}")
}
