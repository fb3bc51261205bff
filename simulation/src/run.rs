//! One run: a heap of events in true time, and what each of them does.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
};

use jiff::Timestamp;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use servicenow_credential_operator::{decide::Name, servicenow::SharingKey};

use crate::{
    cluster::{ByName, Cluster, name},
    event::Event,
    instance::Instance,
    operator::{Operator, Watch},
    plan::{Plan, Size},
    promises::{Broken, Client, Promises},
    tamper::Tamper,
    time::{HOUR, MINUTE, Micros, SECOND, wall},
};

/// What a run counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Statistics {
    /// Token requests that reached an instance.
    pub requests: u64,
    /// Answers that brought a new token or moved an expiry.
    pub renewals: u64,
    /// Writes of targets.
    pub secret_writes: u64,
    /// Writes of statuses.
    pub status_writes: u64,
    /// Reconciles.
    pub rounds: u64,
    /// Operators killed.
    pub kills: u64,
    /// Times that another replica began to lead.
    pub leaders: u64,
    /// The longest that a Secret held a token that was over, excused or not.
    pub stalest: Micros,
    /// A digest of everything that happened, in its order.
    pub digest: u64,
}

/// Whether all promises were kept.
pub(crate) type Done = Result<(), Broken>;

/// A call is given up after so long.
pub(crate) const TIME_OUT: Micros = 15 * SECOND;

struct Entry {
    at: Micros,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The state of a run.
pub struct Run {
    pub(crate) rng: SmallRng,
    heap: BinaryHeap<Reverse<Entry>>,
    number: u64,
    pub(crate) now: Micros,
    /// How far the machines' clocks are ahead of true time.
    pub(crate) offset: Micros,
    pub(crate) cluster: Cluster,
    pub(crate) instances: Vec<Instance>,
    pub(crate) operators: [Option<Operator>; 2],
    pub(crate) epochs: [u32; 2],
    pub(crate) standby: bool,
    pub(crate) plan: Plan,
    pub(crate) promises: Promises,
    /// The API server is away.
    pub(crate) api_away: u32,
    /// The API server fails calls now and then.
    pub(crate) api_flaky: u32,
    /// The operator is to die at its next step.
    pub(crate) dies_at_next_step: Option<Micros>,
    /// No kill until then: what a clock told that was set back is looked at again by its process.
    pub(crate) no_kill_before: Micros,
    pub(crate) keys: BTreeMap<(usize, usize, u32), Arc<SharingKey>>,
    pub(crate) statistics: Statistics,
    pub(crate) tamper: Option<Tamper>,
    /// When it last made its mistake, if it makes it now and then.
    pub(crate) tampered_at: Micros,
    /// Nobody leads who has seen the whole cluster.
    pub(crate) leaderless: bool,
    /// The Lease is on its way from one replica to the other.
    pub(crate) handing_over: bool,
    /// Token requests whose answer is not in.
    pub(crate) under_way: usize,
    /// Of those, the clients whose asker lives.
    pub(crate) in_flight: Vec<Client>,
    /// When each Secret is looked at next.
    pub(crate) checks: ByName<Micros>,
    trace: Option<Vec<String>>,
}

impl Run {
    /// A run from its seed.
    pub fn new(seed: u64, size: Size, tamper: Option<Tamper>, traced: bool) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let plan = Plan::draw(&mut rng, size);
        let mut run = Self {
            rng,
            heap: BinaryHeap::new(),
            number: 0,
            now: 0,
            offset: 0,
            cluster: Cluster::default(),
            instances: plan.instances.clone(),
            operators: [None, None],
            epochs: [0, 0],
            standby: plan.standby,
            plan,
            promises: Promises::default(),
            api_away: 0,
            api_flaky: 0,
            dies_at_next_step: None,
            no_kill_before: 0,
            keys: BTreeMap::new(),
            statistics: Statistics::default(),
            tamper,
            tampered_at: 0,
            leaderless: true,
            handing_over: false,
            under_way: 0,
            in_flight: Vec::new(),
            checks: ByName::default(),
            trace: traced.then(Vec::new),
        };
        run.furnish();
        run
    }

    /// The fleet, some of it there before the operator and some created within the first minutes.
    fn furnish(&mut self) {
        let clients: std::collections::BTreeSet<_> = self.plan.clients.iter().copied().collect();
        for (instance, client) in clients {
            let secret = name(&format!("client-{instance}-{client}"));
            self.cluster.put_client(&secret, 0);
        }
        for resource in 0..self.plan.clients.len() {
            let at = if self.rng.random() {
                0
            } else {
                self.rng.random_range(0..10 * MINUTE)
            };
            self.after(at, Event::Over(Box::new(move |run| run.create(resource))));
        }
        self.promises.everything.begin();
        self.after(0, Event::LookAtAll);
        self.after(SECOND, Event::Start(0));
        if self.standby {
            self.after(2 * SECOND, Event::Start(1));
        }
        for (at, event) in self.plan.events.clone() {
            self.after(at, Event::Befalls(event));
        }
    }

    /// Everything that happens until then.
    pub fn until(&mut self, end: Micros) -> Done {
        while let Some(Reverse(entry)) = self.heap.peek() {
            if entry.at > end {
                break;
            }
            let Some(Reverse(Entry { at, event, .. })) = self.heap.pop() else {
                break;
            };
            self.now = at;
            self.happen(event)?;
            self.spread_the_news();
        }
        self.now = end;
        Ok(())
    }

    /// What a run counted.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// The last lines of the trace.
    pub fn trace(&self) -> &[String] {
        self.trace.as_deref().unwrap_or_default()
    }

    pub(crate) fn is_traced(&self) -> bool {
        self.trace.is_some()
    }

    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        let at = self.now;
        if let Some(trace) = &mut self.trace {
            #[allow(clippy::cast_precision_loss)]
            let seconds = at as f64 / SECOND as f64;
            trace.push(format!("{seconds:>14.3}  {}", what()));
        }
    }

    /// Everything that decides what happens next goes into the digest.
    fn digest(&mut self, word: u64) {
        const PRIME: u64 = 0x0100_0000_01b3;
        self.statistics.digest = (self.statistics.digest ^ word).wrapping_mul(PRIME);
    }

    pub(crate) fn after(&mut self, wait: Micros, event: Event) {
        self.number += 1;
        let entry = Entry {
            at: self.now + wait.max(0),
            number: self.number,
            event,
        };
        self.heap.push(Reverse(entry));
    }

    /// Looks whether the token in a Secret is over by then, once.
    pub(crate) fn check_after(&mut self, wait: Micros, secret: &Name) {
        let at = self.now + wait.max(1);
        if self.checks.get(secret).is_none_or(|known| *known > at) {
            self.checks.insert(secret.clone(), at);
            self.after(at - self.now, Event::Check(secret.clone()));
        }
    }

    /// What is still to befall the fleet, or to be over, does not come any more.
    pub(crate) fn drop_the_plan(&mut self) {
        let heap = std::mem::take(&mut self.heap);
        let stays = |Reverse(entry): &Reverse<Entry>| {
            !matches!(entry.event, Event::Befalls(_) | Event::Over(_))
        };
        self.heap = heap.into_iter().filter(stays).collect();
    }

    pub(crate) fn wall(&self) -> Timestamp {
        wall(self.now, self.offset)
    }

    /// The replica, if it is still the one of that epoch.
    pub(crate) fn operator(&mut self, index: usize, epoch: u32) -> Option<&mut Operator> {
        (self.epochs[index] == epoch)
            .then_some(self.operators[index].as_mut())
            .flatten()
    }

    fn happen(&mut self, event: Event) -> Done {
        self.digest(self.now.unsigned_abs());
        match event {
            Event::Befalls(event) => self.befalls(event),
            Event::Over(over) => over(self),
            Event::Start(index) => self.start(index),
            Event::Lead(index, epoch) => self.lead(index, epoch),
            Event::Relist(index, epoch, watch) => self.relist(index, epoch, watch),
            Event::Tell(index, epoch, watch) => self.tell(index, epoch, watch),
            Event::Tick(index, epoch) => {
                let now = self.now;
                match self.operator(index, epoch) {
                    // A later one, that an earlier one took the place of, is none.
                    Some(operator) if operator.tick == Some(now) => operator.tick = None,
                    _ => return Ok(()),
                }
                self.turn(index, epoch)
            }
            Event::Arrive(index, epoch, sent) => self.arrive(index, epoch, sent),
            Event::Reply(index, epoch, reply) => self.reply(index, epoch, *reply),
            Event::Read(index, epoch, slot, what) => self.read(index, epoch, slot, what),
            Event::Land(index, epoch, slot, landing) => self.land(index, epoch, slot, *landing),
            Event::ClockSet(by) => self.clock_set(by),
            Event::Wrote(index, epoch, slot, outcome) => self.wrote(index, epoch, slot, *outcome),
            Event::Check(secret) => {
                if self.checks.get(&secret) != Some(&self.now) {
                    return Ok(());
                }
                self.checks.remove(&secret);
                self.check(&secret)
            }
            Event::LookAtAll => self.look_at_all(),
            Event::Collect(secret, owner) => {
                self.cluster.collect(&secret, &owner);
                Ok(())
            }
        }
    }

    /// What has changed in the cluster goes on its way to each replica.
    fn spread_the_news(&mut self) {
        if self.cluster.news.is_empty() {
            return;
        }
        for news in std::mem::take(&mut self.cluster.news) {
            if self.is_missed(&news) {
                continue;
            }
            let watch = match &news {
                crate::cluster::News::Resource(_) | crate::cluster::News::ResourceGone(_) => {
                    Watch::Resources
                }
                _ => Watch::Secrets,
            };
            // Each replica has a connection of its own; now and then something comes twice.
            for index in 0..2 {
                let delay = self.rng.random_range(1_000..80_000);
                let twice = self.rng.random_range(0..50) == 0;
                let (now, epoch) = (self.now, self.epochs[index]);
                let Some(operator) = self.operators[index].as_mut() else {
                    continue;
                };
                let stream = operator.stream(watch);
                let look = stream.push(news.clone(), now + delay);
                if twice {
                    stream.push(news.clone(), now + delay);
                }
                if let Some(at) = look {
                    self.after(at - now, Event::Tell(index, epoch, watch));
                }
            }
        }
    }

    fn relist(&mut self, index: usize, epoch: u32, watch: Watch) -> Done {
        if self.api_away > 0 {
            self.after(5 * SECOND, Event::Relist(index, epoch, watch));
            return Ok(());
        }
        let Some(operator) = self
            .operators
            .get_mut(index)
            .and_then(Option::as_mut)
            .filter(|_| self.epochs[index] == epoch)
        else {
            return Ok(());
        };
        operator.relist(watch, &self.cluster);
        if operator.leads {
            self.works_again(index)?;
        }
        self.turn(index, epoch)
    }

    fn tell(&mut self, index: usize, epoch: u32, watch: Watch) -> Done {
        let now = self.now;
        let Some(operator) = self.operator(index, epoch) else {
            return Ok(());
        };
        let (news, next) = operator.stream(watch).take(now);
        if let Some(news) = news {
            operator.told(news);
        }
        if let Some(next) = next {
            self.after(next - now, Event::Tell(index, epoch, watch));
        }
        self.turn(index, epoch)
    }

    /// It has ended well: all promises are kept when everything that befell the fleet is over.
    pub fn to_the_end(&mut self, lasts: Micros) -> Done {
        self.until(lasts)?;
        self.all_is_well()?;
        // A refusal or a rate limit is waited out for an hour, and what the API server was told in
        // vain for about a minute.
        self.until(lasts + 2 * HOUR)?;
        self.until_idle()?;
        self.has_converged()?;
        self.is_at_rest()
    }
}
