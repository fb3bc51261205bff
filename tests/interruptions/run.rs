//! One run of a scenario: undisturbed and recorded, or interrupted at one point.

use std::{fmt, time::Duration};

use kube::api::ListParams;
use serde_json::Value;
use testkit::{
    cluster::{ApiProxy, Moment, Write},
    operator::{Operator, Options},
};

use crate::{
    scenario::{Scenario, Step},
    support::{
        Scene,
        end::{difference, end_of},
        eventually,
    },
};

/// How long the past is shown, and how long the operator is kept from seeing what it waits for.
const A_WHILE: Duration = Duration::from_millis(700);
/// What nothing was written or asked for in is quiet.
const QUIET: Duration = Duration::from_millis(400);
/// Far from any renewal.
const LIFETIME: Duration = Duration::from_secs(1800);
/// How long an interrupted run may take to come to its end once all is done.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a run that nothing disturbs does, and what it comes to.
pub(crate) struct Record {
    /// The writes, each with the number of its step.
    pub(crate) writes: Vec<(usize, Write)>,
    /// The step of each token request.
    pub(crate) requests: Vec<usize>,
    end: Value,
}

/// A point of a run at which it is interrupted.
#[derive(Clone, Debug)]
pub(crate) enum Point {
    Write(Write),
    /// The instance has received the how-manieth token request.
    Request(usize),
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(write) => write.fmt(f),
            Self::Request(number) => write!(f, "token request {number}"),
        }
    }
}

/// What happens, each with the number of its step.
#[derive(Clone, Debug)]
pub(crate) enum Interruption {
    KilledAtWrite(usize, Write, Moment),
    KilledAtRequest(usize, usize),
    ShownThePast(usize, Point),
    KeptFromSeeing(usize, Point),
}

impl fmt::Display for Interruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KilledAtWrite(step, write, moment) => {
                write!(f, "killed in step {step} at {write} ({moment:?})")
            }
            Self::KilledAtRequest(step, number) => {
                write!(f, "killed in step {step} at token request {number}")
            }
            Self::ShownThePast(step, point) => {
                write!(
                    f,
                    "killed after {point} and shown the time before step {step}"
                )
            }
            Self::KeptFromSeeing(step, point) => {
                write!(f, "kept from seeing anything since {point} of step {step}")
            }
        }
    }
}

/// A scene whose operator reaches the API server through the proxy.
struct Stage {
    scene: Scene,
    proxy: ApiProxy,
    options: Options,
    operator: Operator,
}

impl Stage {
    async fn new() -> Self {
        let scene = Scene::new(LIFETIME).await;
        let mut options = scene.options(&["--min-renew-interval=1ms"]);
        let proxy = ApiProxy::start(&options.kubeconfig).await;
        proxy.kubeconfig().clone_into(&mut options.kubeconfig);
        let operator = Operator::start(&options).await;
        Self {
            scene,
            proxy,
            options,
            operator,
        }
    }

    async fn done(&self, step: Step) {
        eventually(&format!("{step:?} is done"), async || {
            step.is_done(&self.scene).await.then_some(())
        })
        .await;
    }

    fn activity(&self) -> (usize, usize) {
        let requests = self.scene.instance.token_requests();
        (self.proxy.writes().len(), requests)
    }

    /// Waits until nothing is written and nothing asked for any more.
    async fn quiet(&self) {
        let mut last = self.activity();
        loop {
            tokio::time::sleep(QUIET).await;
            let now = self.activity();
            if now == last {
                return;
            }
            last = now;
        }
    }

    /// The present moment, as the API server counts.
    async fn version(&self) -> String {
        let list = self.scene.credentials().list(&ListParams::default()).await;
        list.unwrap().metadata.resource_version.unwrap()
    }

    async fn restart(&mut self) {
        self.operator.kill();
        self.proxy.go_on();
        self.operator = Operator::start(&self.options).await;
    }
}

/// Runs a scenario with nothing that disturbs it, and writes down what happens.
pub(crate) async fn undisturbed(scenario: &Scenario) -> Record {
    let stage = Stage::new().await;
    let (mut writes, mut requests) = (Vec::new(), Vec::new());
    for (number, step) in scenario.steps.iter().enumerate() {
        step.act(&stage.scene).await;
        stage.done(*step).await;
        stage.quiet().await;
        let all = stage.proxy.writes();
        let new = all[writes.len()..].iter().cloned();
        writes.extend(new.map(|write| (number, write)));
        requests.resize(stage.scene.instance.token_requests(), number);
    }
    Record {
        writes,
        requests,
        end: end_of(&stage.scene).await,
    }
}

/// Runs a scenario with one interruption. Returns how many token requests more than the recorded run
/// it cost, or what is wrong with its end.
pub(crate) async fn interrupted(
    scenario: &Scenario,
    record: &Record,
    interruption: &Interruption,
) -> Result<usize, String> {
    let mut stage = Stage::new().await;
    prepare(&stage.proxy, interruption);
    let mut came = false;
    let mut is_blind = false;
    for step in scenario.steps {
        let before = stage.version().await;
        step.act(&stage.scene).await;
        if is_blind {
            see_again(&stage.proxy);
            is_blind = false;
        }
        let now = tokio::select! {
            biased;
            () = comes(&stage, interruption), if !came => true,
            () = stage.done(*step) => false,
        };
        if now {
            came = true;
            is_blind = carry_out(&mut stage, interruption, before, *step).await;
        }
        if !is_blind {
            stage.done(*step).await;
        }
    }
    if !came {
        // An event is written after everything else.
        let before = stage.version().await;
        if tokio::time::timeout(PATIENCE, comes(&stage, interruption))
            .await
            .is_err()
        {
            let writes = stage.proxy.writes();
            return Err(format!("the point never came; written was {writes:#?}"));
        }
        let last = *scenario.steps.last().unwrap();
        is_blind = carry_out(&mut stage, interruption, before, last).await;
    }
    if is_blind {
        see_again(&stage.proxy);
    }
    judge(&stage, scenario, record, interruption).await
}

/// Makes the proxy watch for the point of the interruption, where it is a write.
fn prepare(proxy: &ApiProxy, interruption: &Interruption) {
    match interruption {
        Interruption::KilledAtWrite(_, write, moment) => proxy.stop_at(write.clone(), *moment),
        Interruption::ShownThePast(_, Point::Write(write)) => {
            proxy.stop_at(write.clone(), Moment::Answered);
        }
        Interruption::KeptFromSeeing(_, Point::Write(write)) => {
            proxy.hold_watches_at(write.clone());
        }
        Interruption::KilledAtRequest(..)
        | Interruption::ShownThePast(_, Point::Request(_))
        | Interruption::KeptFromSeeing(_, Point::Request(_)) => {}
    }
}

/// Waits for the point of the interruption.
async fn comes(stage: &Stage, interruption: &Interruption) {
    match interruption {
        Interruption::KilledAtRequest(_, number)
        | Interruption::ShownThePast(_, Point::Request(number))
        | Interruption::KeptFromSeeing(_, Point::Request(number)) => {
            stage.scene.instance.wait_for_token_requests(*number).await;
        }
        Interruption::KilledAtWrite(..) | Interruption::ShownThePast(_, Point::Write(_)) => {
            stage.proxy.stopped().await;
        }
        Interruption::KeptFromSeeing(_, Point::Write(_)) => stage.proxy.watches_held().await,
    }
}

/// Returns whether the operator is kept from seeing what people do next.
async fn carry_out(
    stage: &mut Stage,
    interruption: &Interruption,
    before: String,
    step: Step,
) -> bool {
    match interruption {
        Interruption::KilledAtWrite(..) | Interruption::KilledAtRequest(..) => {
            stage.restart().await;
            false
        }
        Interruption::ShownThePast(..) => {
            stage.operator.kill();
            stage.proxy.show_past(Some(before));
            stage.proxy.hold_watches(true);
            stage.restart().await;
            // It is a length of time that the past is shown for.
            tokio::time::sleep(A_WHILE).await;
            stage.proxy.show_past(None);
            stage.proxy.hold_watches(false);
            false
        }
        Interruption::KeptFromSeeing(..) => {
            stage.proxy.hold_watches(true);
            // Done or not, people go on.
            let _ = tokio::time::timeout(A_WHILE, stage.done(step)).await;
            true
        }
    }
}

fn see_again(proxy: &ApiProxy) {
    proxy.break_watches(true);
    proxy.hold_watches(false);
}

async fn judge(
    stage: &Stage,
    scenario: &Scenario,
    record: &Record,
    interruption: &Interruption,
) -> Result<usize, String> {
    let expected = interruption.leaves(&record.end);
    let now = async || interruption.leaves(&end_of(&stage.scene).await);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut end = now().await;
    while end != expected && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(100)).await;
        end = now().await;
    }
    if end != expected {
        return Err(difference(&expected, &end));
    }
    stage.quiet().await;
    let end = now().await;
    if end != expected {
        return Err(format!("it did not stay: {}", difference(&expected, &end)));
    }
    let extra = stage
        .scene
        .instance
        .token_requests()
        .saturating_sub(record.requests.len());
    let allowed = interruption.may_cost(scenario);
    if extra > allowed {
        return Err(format!(
            "{extra} token requests more than without it, and {allowed} are allowed"
        ));
    }
    Ok(extra)
}

impl Interruption {
    /// What of an end stays the same with it. What is taken over from a Secret's annotations after a
    /// kill has no scope on record.
    fn leaves(&self, end: &Value) -> Value {
        let mut end = end.clone();
        if !matches!(self, Self::KeptFromSeeing(..)) {
            for object in end.as_object_mut().into_iter().flatten() {
                let token = object.1.pointer_mut("/status/token");
                if let Some(token) = token.and_then(Value::as_object_mut) {
                    token.remove("scope");
                }
            }
        }
        end
    }

    /// Token requests that it may cost. A kill: one, for an answer that was lost on its way to the
    /// Secret, or for what was in memory and is needed later. A refusal among good answers is asked
    /// about twice, by the one that was killed and by the next. Somebody's Secret has no record of our
    /// token: where a renewal that was asked for is seen after what came of it, the Secret looks
    /// edited, and a token is asked for to put it back.
    fn may_cost(&self, scenario: &Scenario) -> usize {
        let refused = |step: &usize| matches!(scenario.steps[*step], Step::Refuse(_));
        let merges = matches!(scenario.steps[0], Step::Merge);
        match self {
            Self::ShownThePast(step, _) => 1 + usize::from(refused(step) || merges),
            Self::KilledAtWrite(step, ..) | Self::KilledAtRequest(step, _) => {
                1 + usize::from(refused(step))
            }
            Self::KeptFromSeeing(..) => 0,
        }
    }
}
