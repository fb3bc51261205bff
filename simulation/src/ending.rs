//! How a run ends: nothing befalls the fleet any more, and everything becomes well and stays so.

use std::collections::BTreeSet;

use rand::Rng as _;
use servicenow_credential_operator::{api::condition, decide::observed::Version};

use crate::{
    bad_days::NOTICED,
    cluster::{Cluster, name, writer},
    event::Event,
    instance::Mode,
    operator::Watch,
    promises::Broken,
    run::{Done, Run},
    secrets::{allowance, issued},
    time::{HOUR, MINUTE, Micros, SECOND, span},
    whole::is_true,
};

impl Run {
    /// Everything that befell the fleet is over, and every resource wants something possible.
    pub(crate) fn all_is_well(&mut self) -> Done {
        self.note(|| "-- all is well from now on".to_owned());
        for instance in 0..self.instances.len() {
            self.instances[instance].trouble = None;
            for client in 0..self.instances[instance].clients.len() {
                self.instances[instance].clients[client].one_off = false;
            }
        }
        (self.api_away, self.api_flaky) = (0, 0);
        self.dies_at_next_step = None;
        for resource in 0..self.plan.clients.len() {
            let (instance, client) = self.plan.clients[resource];
            let secret = name(&format!("client-{instance}-{client}"));
            let accepted = self.instances[instance].clients[client].accepted;
            let right = self.cluster.clients.get(&secret);
            if right.is_none_or(|right| right.secret != accepted) {
                self.cluster.put_client(&secret, accepted);
            }
            self.create(resource)?;
        }
        // Nobody is nudged in half of the runs: what was lost is found without.
        let nudged = self.rng.random();
        for resource in 0..self.plan.clients.len() {
            self.want_something_possible(resource, nudged);
        }
        self.drop_the_plan();
        // A refusal or a rate limit is waited out for an hour.
        self.promises.well(self.now, self.now + HOUR + 2 * NOTICED);
        if self.leaderless {
            self.promises.everything.begin();
        }
        for index in 0..2 {
            if self.operators[index].is_none() && (index == 0 || self.standby) {
                self.start(index)?;
            }
            if !nudged {
                continue;
            }
            let epoch = self.epochs[index];
            for (wait, watch) in [(SECOND, Watch::Resources), (2 * SECOND, Watch::Secrets)] {
                let Some(operator) = self.operators[index].as_mut() else {
                    continue;
                };
                operator.stream(watch).break_off();
                operator.stream(watch).held_until = 0;
                self.after(wait, Event::Relist(index, epoch, watch));
            }
        }
        Ok(())
    }

    /// A resource is not suspended, and its target is its own.
    fn want_something_possible(&mut self, resource: usize, nudged: bool) {
        let who = name(&format!("r{resource}"));
        self.cluster
            .remove_secret(&name(&format!("foreign-{resource}")));
        let Some(credential) = self.cluster.resources.get(&who) else {
            return;
        };
        let shares = credential.target_secret() == Some(name("shared"));
        let suspended = credential.spec.as_ref().is_ok_and(|s| s.suspend.is_some());
        if !nudged && !shares && !suspended {
            return;
        }
        self.cluster.change(&who, |spec| {
            spec.suspend = None;
            let target = spec.target.get_or_insert_default();
            if nudged || shares {
                target.name = Some(format!("r{resource}-final"));
            }
            if nudged {
                target.data = None;
            }
        });
    }

    /// Every resource is ready and synced, and its Secret holds the token that its status tells.
    pub(crate) fn has_converged(&mut self) -> Done {
        let cluster: &Cluster = &self.cluster;
        for (who, credential) in &cluster.resources {
            let broken = |seen: String| Broken {
                at: self.now,
                promise: "when nothing befalls it any more, everything is well again",
                seen: format!("{who}: {seen}; its status is {:#?}", credential.status),
            };
            if !is_true(credential, condition::READY) || !is_true(credential, condition::SYNCED) {
                return Err(broken("it is not ready and synced".to_owned()));
            }
            let secret = credential
                .target_secret()
                .and_then(|s| cluster.secrets.get(&s));
            let Some(secret) = secret else {
                return Err(broken("it has no Secret".to_owned()));
            };
            let valid = issued(secret).is_some_and(|issued| {
                let slack = allowance(self.instances[issued.instance].mode);
                self.instances[issued.instance].expiry(issued) + slack > self.now
            });
            if !valid {
                return Err(broken("its Secret holds no valid token".to_owned()));
            }
            let told = credential.status.target.as_ref();
            let version = |target: &servicenow_credential_operator::api::TargetStatus| Version {
                uid: target.uid.clone(),
                resource_version: target.resource_version.clone(),
            };
            if told.map(version) != Some(secret.version.clone()) {
                return Err(broken("its status tells of another Secret".to_owned()));
            }
        }
        let targets: BTreeSet<_> = cluster
            .resources
            .values()
            .filter_map(|credential| credential.target_secret())
            .collect();
        let left: Vec<_> = cluster
            .secrets
            .iter()
            .filter(|(name, secret)| writer(secret).is_some() && !targets.contains(name))
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        Err(Broken {
            at: self.now,
            promise: "nothing is left behind",
            seen: format!("{left:?}"),
        })
    }

    /// A restart at rest costs nothing, and an hour at rest only what falls due.
    pub(crate) fn is_at_rest(&mut self) -> Done {
        // What is on its way ends first, so that the restart loses nothing.
        self.until_idle()?;
        let before = self.statistics;
        if let Some(leader) = self.leader() {
            self.kill(leader, SECOND);
        }
        let due = self.due_within(20 * SECOND);
        self.until(self.now + 18 * SECOND)?;
        let writes = self.statistics.secret_writes - before.secret_writes;
        let requests = self.statistics.requests - before.requests;
        if requests > due.requests || writes > due.writes {
            return Err(Broken {
                at: self.now,
                promise: "a restart of the operator costs nothing",
                seen: format!("{requests} requests and {writes} writes, and {due:?} were due"),
            });
        }
        self.until(self.now + HOUR)?;
        self.until_idle()?;
        self.has_converged()
    }

    /// Nothing is on its way.
    pub(crate) fn until_idle(&mut self) -> Done {
        for _ in 0..600 {
            if self.is_idle() {
                break;
            }
            self.until(self.now + SECOND / 10)?;
        }
        Ok(())
    }

    fn is_idle(&self) -> bool {
        if self.under_way > 0 {
            return false;
        }
        let operators = self.operators.iter().flatten();
        let mut cores = operators.map(|operator| &operator.core);
        cores.all(|core| !core.queue.is_busy())
    }

    /// What resources whose token falls due within so long may cost, by their statuses.
    fn due_within(&self, wait: Micros) -> Due {
        let resources = self.cluster.resources.iter();
        let due = resources.filter(|(_, credential)| {
            let token = credential.status.token.as_ref();
            token.is_none_or(|token| self.since(token.renewal_time.0) > -wait - 3 * SECOND)
        });
        let mut all = Due::default();
        for (who, credential) in due {
            let Some((instance, _)) = self.client_of_resource(who) else {
                continue;
            };
            let token = credential.status.token.as_ref();
            let lifetime = token.map(|token| token.expires_at.0.duration_since(token.issued_at.0));
            // One that lives for seconds may fall due again.
            let is_short = lifetime.is_some_and(|lifetime| lifetime <= span(2 * MINUTE));
            let times = if is_short { 4 } else { 1 };
            all.writes += times;
            all.requests += times
                * match self.instances[instance].mode {
                    // It counts whole seconds down, and is asked every 200 ms until it is over with them.
                    Mode::ReuseRemaining => 12,
                    Mode::ReuseSlide | Mode::AlwaysNew => 1,
                };
        }
        all
    }
}

/// What a while may cost.
#[derive(Debug, Default)]
struct Due {
    requests: u64,
    writes: u64,
}
