//! The operator as its controller drives it: the very store, queue, broker and decisions, with time
//! and I/O taken from the run.

use std::{collections::VecDeque, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use servicenow_credential_operator::{
    api::AllowedHosts,
    controller::{Bounds, Core, Round},
    decide::{
        Credential, Name, Settle,
        observed::{Kind, Policy},
    },
};

use crate::{
    cluster::{ByName, Cluster, News},
    time::{MINUTE, Micros},
};

/// What `run` does at once unless it is told otherwise.
const BOUNDS: Bounds = Bounds {
    concurrency: 32,
    instance_concurrency: 4,
};
/// The least time between two answers of one client, in seconds.
pub const LEAST_INTERVAL: i64 = 5;

/// Which of the two watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Of the resources.
    Resources,
    /// Of the Secrets.
    Secrets,
}

/// A reconcile under way.
pub struct Active {
    /// Whose.
    pub name: Name,
    /// What it has read and done.
    pub round: Round,
    /// How it ends, while the status is being written.
    pub settle: Option<Box<Settle>>,
    /// The resource that it is about.
    pub credential: Option<Arc<Credential>>,
    /// Steps so far.
    pub steps: usize,
}

/// News on the way to the operator.
#[derive(Default)]
pub struct Stream {
    queue: VecDeque<(Micros, News)>,
    last: Micros,
    /// Nothing comes through before then.
    pub held_until: Micros,
    /// The connection is gone: what happens now is only learned from the next list.
    pub broken: bool,
}

impl Stream {
    /// Takes news in, to be told at the earliest then; returns when to look, if nobody will.
    pub fn push(&mut self, news: News, at: Micros) -> Option<Micros> {
        if self.broken {
            return None;
        }
        let at = at.max(self.last).max(self.held_until);
        self.last = at;
        self.queue.push_back((at, news));
        (self.queue.len() == 1).then_some(at)
    }

    /// The news whose time has come, and when to look again.
    pub fn take(&mut self, now: Micros) -> (Option<News>, Option<Micros>) {
        let due = self.queue.front().is_some_and(|(at, _)| *at <= now);
        let news = due.then(|| self.queue.pop_front()).flatten();
        let next = self.queue.front().map(|(at, _)| (*at).max(now));
        (news.map(|(_, news)| news), next)
    }

    /// Everything that is on the way is lost.
    pub fn break_off(&mut self) {
        self.broken = true;
        self.queue.clear();
    }
}

/// One replica.
pub struct Operator {
    /// The operator's own state.
    pub core: Core,
    /// Reconciles under way, by slot.
    pub rounds: Vec<Option<Box<Active>>>,
    /// The watches.
    pub resources: Stream,
    /// The watches.
    pub secrets: Stream,
    /// When it looks at its timers.
    pub tick: Option<Micros>,
    /// It leads, or is alone.
    pub leads: bool,
    listed: [bool; 2],
    swept: Micros,
}

impl Operator {
    /// A process that has just begun: nothing is known until its lists are complete.
    pub fn new(now: Micros) -> Self {
        let policy = Policy {
            allowed_hosts: AllowedHosts::default(),
            min_renew_interval: SignedDuration::from_secs(LEAST_INTERVAL),
        };
        let mut operator = Self {
            core: Core::new(policy, BOUNDS),
            rounds: Vec::new(),
            resources: Stream::default(),
            secrets: Stream::default(),
            tick: None,
            leads: false,
            listed: [false; 2],
            swept: now,
        };
        operator.resources.broken = true;
        operator.secrets.broken = true;
        operator
    }

    /// The stream of a watch.
    pub fn stream(&mut self, watch: Watch) -> &mut Stream {
        match watch {
            Watch::Resources => &mut self.resources,
            Watch::Secrets => &mut self.secrets,
        }
    }

    /// A list comes in, as it is now.
    pub fn relist(&mut self, watch: Watch, cluster: &Cluster) {
        let store = &mut self.core.store;
        let mut relist = store.begin_relist(None);
        let mut woken = Vec::new();
        match watch {
            Watch::Resources => {
                for (_, credential) in sorted(&cluster.resources) {
                    woken.extend(store.listed(&mut relist, credential.clone()));
                }
                woken.extend(store.end_relist(&relist));
            }
            Watch::Secrets => {
                let clients = sorted(&cluster.clients).map(|(n, c)| (n, &c.version));
                let targets = sorted(&cluster.secrets).map(|(n, t)| (n, &t.version));
                for (name, version) in clients.chain(targets) {
                    woken.extend(store.secrets.listed(&mut relist, name, version.clone()));
                }
                woken.extend(store.secrets.end_relist(&relist));
            }
        }
        self.core.wake(woken);
        let stream = self.stream(watch);
        stream.broken = false;
        stream.last = 0;
        self.listed[watch as usize] = true;
        if self.listed == [true; 2] {
            self.core.all_listed();
        }
    }

    /// The watch tells something.
    pub fn told(&mut self, news: News) {
        let store = &mut self.core.store;
        let woken = match news {
            News::Resource(credential) => store.apply(credential),
            News::ResourceGone(name) => store.remove(&name),
            News::Secret(name, version) => store.object_applied(Kind::Secret, &name, version),
            News::SecretGone(name, version) => store.secrets.deleted(&name, &version),
        };
        self.core.wake(woken);
    }

    /// Begins as many reconciles as there is room for; returns their slots.
    pub fn begin(&mut self, now: Timestamp, mut random: impl FnMut() -> f64) -> Vec<usize> {
        let mut begun = Vec::new();
        while let Some(name) = self.core.take(now) {
            let round = self.core.begin(&name, now, random());
            let active = Box::new(Active {
                name,
                round,
                settle: None,
                credential: None,
                steps: 0,
            });
            let free = self.rounds.iter().position(Option::is_none);
            let slot = free.unwrap_or(self.rounds.len());
            match free {
                Some(free) => self.rounds[free] = Some(active),
                None => self.rounds.push(Some(active)),
            }
            begun.push(slot);
        }
        begun
    }

    /// Forgets now and then what is over, as the controller does.
    pub fn sweep(&mut self, now: Micros, wall: Timestamp) {
        if now - self.swept > MINUTE {
            self.swept = now;
            self.core.broker.sweep(wall);
        }
    }
}

/// Names in their order, as a list has them.
fn sorted<T>(all: &ByName<T>) -> impl Iterator<Item = (&Name, &T)> {
    let mut all: Vec<_> = all.iter().collect();
    all.sort_unstable_by_key(|(name, _)| *name);
    all.into_iter()
}
