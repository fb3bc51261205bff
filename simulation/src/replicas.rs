//! Replicas of the operator: they begin, lead and die.

use std::collections::BTreeSet;

use rand::Rng as _;
use servicenow_credential_operator::api::{Reason, condition};

use crate::{
    bad_days::CAUGHT_UP,
    cluster::name,
    event::Event,
    instance::Mode,
    operator::{Operator, Watch},
    run::{Done, Run},
    secrets::issued,
    time::{Micros, SECOND, true_time},
    whole::is_true,
};

impl Run {
    pub(crate) fn leader(&self) -> Option<usize> {
        (0..2).find(|index| self.operators[*index].as_ref().is_some_and(|o| o.leads))
    }

    /// A replica begins, and leads if nobody else does.
    pub(crate) fn start(&mut self, index: usize) -> Done {
        if self.operators[index].is_some() {
            return Ok(());
        }
        let alone = self.leader().is_none() && !self.handing_over;
        let mut operator = Operator::new(self.now);
        operator.leads = alone;
        if alone {
            operator.core.lead();
            self.statistics.leaders += 1;
        }
        self.operators[index] = Some(operator);
        let epoch = self.epochs[index];
        for (wait, watch) in [(300_000, Watch::Resources), (800_000, Watch::Secrets)] {
            self.after(wait, Event::Relist(index, epoch, watch));
        }
        Ok(())
    }

    /// A standby leads from now on.
    pub(crate) fn lead(&mut self, index: usize, epoch: u32) -> Done {
        self.handing_over = false;
        let Some(operator) = self.operator(index, epoch) else {
            return Ok(());
        };
        operator.leads = true;
        operator.core.lead();
        self.statistics.leaders += 1;
        self.works_again(index)?;
        self.turn(index, epoch)
    }

    /// A leader has its lists: from now on it can do its work.
    pub(crate) fn works_again(&mut self, index: usize) -> Done {
        let listed = self.operators[index]
            .as_ref()
            .is_some_and(|o| o.core.is_listed());
        if !listed || !std::mem::take(&mut self.leaderless) {
            return Ok(());
        }
        self.promises.everything.end(self.now + CAUGHT_UP);
        // A rate limit is known again from the statuses, as far as they tell of it and are seen.
        let told = self.limited();
        let seen = self.promises.blind_until <= self.now;
        self.promises.forget_limits(|instance, until| {
            let told = told.iter().any(|(of, at)| *of == instance && *at >= until);
            seen && told
        });
        self.tampered_at_start(index)
    }

    /// The instances of whose rate limits a status tells, and until when it says that they last.
    fn limited(&self) -> Vec<(usize, Micros)> {
        let resources = self.cluster.resources.iter();
        let limited = resources.filter_map(|(who, credential)| {
            let failure = credential.status.failure.as_ref();
            let limited = failure.filter(|f| f.reason == Reason::RateLimited.as_str())?;
            // Where the spec has changed since, the status does not say of which instance it tells.
            if credential.status.observed_generation != Some(credential.generation) {
                return None;
            }
            let until = true_time(limited.retry_time.as_ref()?.0, self.offset);
            Some((self.client_of_resource(who)?.0, until + SECOND))
        });
        limited.collect()
    }

    /// The clients of whose failure for this reason a status tells.
    fn told_of(&self, reason: Reason) -> BTreeSet<(usize, usize)> {
        let resources = self.cluster.resources.iter();
        let failed = resources.filter(|(_, credential)| {
            let failure = credential.status.failure.as_ref();
            failure.is_some_and(|failure| failure.reason == reason.as_str())
        });
        failed
            .filter_map(|(who, _)| self.client_of_resource(who))
            .collect()
    }

    /// What a client was given last is in all Secrets and statuses that it is for, each as people want
    /// it, and nothing is on its way.
    fn is_written(&self, client: (usize, usize)) -> bool {
        let (instance, number) = client;
        let current = self.instances[instance].current(number);
        let users = self.plan.clients.iter().enumerate();
        let mut users = users.filter(|(_, of)| **of == client);
        let flying = self.in_flight.iter();
        let mut flying = flying.filter(|of| (of.0, of.1) == client);
        flying.next().is_none()
            && users.all(|(resource, _)| {
                let Some(credential) = self.cluster.resources.get(&name(&format!("r{resource}")))
                else {
                    return true;
                };
                let held = credential.target_secret();
                let held = held.and_then(|target| self.cluster.secrets.get(&target));
                let held = held.and_then(issued);
                let told = credential.status.token.as_ref();
                let due = told.is_none_or(|token| self.since(token.renewal_time.0) >= 0);
                let told = told.map(|token| true_time(token.expires_at.0, self.offset));
                match (held, current, told) {
                    (Some(held), Some(current), Some(told)) => {
                        let expiry = self.instances[instance].expiry(held);
                        let status = &credential.status;
                        let known = status.observed_generation == Some(credential.generation)
                            && status.handled_renew_request == credential.renew_request;
                        let synced = known && is_true(credential, condition::SYNCED);
                        held == current && synced && !due && (told - expiry).abs() < 3 * SECOND
                    }
                    _ => false,
                }
            })
    }

    /// One request is due to each client whose token was not written, and one to whoever was asked to
    /// renew and may not have been heard.
    fn give_what_was_lost(&mut self) {
        let clients: BTreeSet<_> = self.plan.clients.iter().copied().collect();
        for client in clients {
            // That its token is kept until it expires is on record for whoever asked alone.
            let mode = self.instances[client.0].mode;
            let kept = self.plan.sharing && mode == Mode::ReuseRemaining;
            if kept || !self.is_written(client) {
                self.promises.give(client, self.now);
            }
        }
        for (who, credential) in &self.cluster.resources {
            let handled = credential.status.handled_renew_request.as_ref();
            if credential.renew_request.as_ref() != handled
                && let Some((instance, _)) = self.client_of_resource(who)
            {
                self.promises.force(instance);
            }
        }
    }

    /// A replica dies; what it has sent arrives.
    pub(crate) fn kill(&mut self, index: usize, wait: Micros) {
        self.note(|| format!("-- replica {index} dies"));
        let led = self.operators[index].as_ref().is_some_and(|o| o.leads);
        self.operators[index] = None;
        self.epochs[index] += 1;
        self.statistics.kills += 1;
        // What could not be written before it died is not remembered, nor is what the status told
        // before something else failed.
        let told = self.told_of(Reason::AccessDenied);
        let written = self.promises.everything.until() <= self.now;
        self.promises
            .died(|client| written && told.contains(&client));
        if led {
            self.give_what_was_lost();
            self.in_flight.clear();
        }
        if led {
            if !std::mem::replace(&mut self.leaderless, true) {
                self.promises.everything.begin();
            }
            let other = 1 - index;
            if self.operators[other].is_some() {
                self.handing_over = true;
                let epoch = self.epochs[other];
                // The Lease is free then, or was given back.
                let takes = self.rng.random_range(SECOND / 5..15 * SECOND);
                self.after(takes, Event::Lead(other, epoch));
            }
        }
        self.after(wait, Event::Start(index));
    }
}
