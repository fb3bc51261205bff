//! What befalls the fleet, and how long that excuses the operator.

use rand::Rng as _;
use servicenow_credential_operator::decide::Name;

use crate::{
    cluster::{name, writer},
    event::Event,
    instance::Trouble,
    operator::Watch,
    plan::{Deed, Event as Befalls, margin, spec},
    run::{Done, Run, TIME_OUT},
    time::{HOUR, MINUTE, Micros, SECOND, span},
};

/// A recovery is noticed within this time at the latest: the longest wait between two probes of an
/// outage, and the time-out of the last one before it.
pub(crate) const NOTICED: Micros = 80 * SECOND;
/// What falls due together is done within this time.
pub(crate) const CAUGHT_UP: Micros = 60 * SECOND;

impl Run {
    pub(crate) fn befalls(&mut self, event: Befalls) -> Done {
        self.note(|| format!("-- {event:?}"));
        match event {
            Befalls::Trouble(instance, trouble, lasts) => self.trouble(instance, trouble, lasts),
            Befalls::OneOff(instance, client) => {
                // It is one among good answers.
                if self.instances[instance].trouble.is_some()
                    || self.promises.is_refused((instance, client))
                {
                    return Ok(());
                }
                self.instances[instance].clients[client].one_off = true;
                // It is met whenever it is met, and asked again after a second.
                let excuse = self.promises.clients.entry((instance, client)).or_default();
                excuse.extend(self.now + CAUGHT_UP);
                self.promises.give((instance, client), self.now);
            }
            Befalls::ApiAway(lasts) => {
                self.api_away += 1;
                self.disturbed(lasts, |run| {
                    run.api_away -= 1;
                    if run.api_away == 0 && run.no_kill_before == Micros::MAX {
                        run.no_kill_before = run.now + 2 * MINUTE;
                    }
                });
            }
            Befalls::ApiFlaky(lasts) => {
                self.api_flaky += 1;
                self.disturbed(lasts, |run| run.api_flaky -= 1);
            }
            Befalls::Kill(between_steps, wait) => {
                if self.now < self.no_kill_before {
                    return Ok(());
                }
                if between_steps {
                    self.dies_at_next_step = Some(wait);
                } else if let Some(leader) = self.leader() {
                    self.kill(leader, wait);
                }
            }
            Befalls::HandOver => {
                if let Some(leader) = self.leader().filter(|_| self.now >= self.no_kill_before) {
                    self.kill(leader, SECOND);
                }
            }
            Befalls::SetClock(by) => self.set_clock(by),
            Befalls::HoldWatch(resources, lasts) => {
                let until = self.now + lasts;
                for operator in self.operators.iter_mut().flatten() {
                    let stream = operator.stream(which(resources));
                    stream.held_until = stream.held_until.max(until);
                }
                self.blind(lasts);
            }
            Befalls::BreakWatch(resources, lasts) => {
                let watch = which(resources);
                for index in 0..2 {
                    let epoch = self.epochs[index];
                    if let Some(operator) = self.operators[index].as_mut() {
                        operator.stream(watch).break_off();
                        self.after(lasts, Event::Relist(index, epoch, watch));
                    }
                }
                self.blind(lasts);
            }
            Befalls::Person(resource, deed) => self.deed(resource, deed),
            Befalls::Rotate(resource, wait) => self.rotate(resource, wait),
            Befalls::LoseClient(resource, wait) => self.lose_client(resource, wait),
        }
        Ok(())
    }

    /// The operator cannot do its work for so long.
    fn disturbed(&mut self, lasts: Micros, over: impl FnOnce(&mut Self) + 'static) {
        self.promises.everything.begin();
        let over = move |run: &mut Self| {
            over(run);
            run.promises.everything.end(run.now + NOTICED + CAUGHT_UP);
            Ok(())
        };
        self.after(lasts, Event::Over(Box::new(over)));
    }

    /// What people do is not seen for so long; what is known goes on.
    fn blind(&mut self, lasts: Micros) {
        self.promises.blind_until = self.promises.blind_until.max(self.now + lasts + CAUGHT_UP);
        let until = self.promises.blind_until;
        for excuse in self.promises.resources.values_mut() {
            if excuse.until() > self.now {
                excuse.extend(until);
            }
        }
    }

    fn trouble(&mut self, instance: usize, trouble: Trouble, lasts: Micros) {
        if self.instances[instance].trouble.is_some() {
            return;
        }
        self.instances[instance].trouble = Some(trouble);
        self.promises.instances.entry(instance).or_default().begin();
        let over = move |run: &mut Self| {
            run.instances[instance].trouble = None;
            let now = run.now;
            let excuse = run.promises.instances.entry(instance).or_default();
            let waits = |longest| now + longest + NOTICED + CAUGHT_UP;
            match trouble {
                Trouble::Refuses | Trouble::Limits(None) => excuse.end(waits(HOUR)),
                Trouble::Limits(Some(seconds)) => excuse.end(waits(seconds * SECOND)),
                Trouble::Hangs => excuse.end_outage(now, TIME_OUT),
                Trouble::Unavailable
                | Trouble::Hibernates
                | Trouble::Garbles
                | Trouble::NotTrusted => excuse.end_outage(now, 0),
            }
            // Whoever was to be asked meanwhile is asked, kept or not.
            run.promises.give_instance(instance, now);
            Ok(())
        };
        self.after(lasts, Event::Over(Box::new(over)));
    }

    /// What a clock recorded that is set back while nobody looks cannot be told from the truth.
    fn set_clock(&mut self, by: Micros) {
        if self.leaderless || self.dies_at_next_step.is_some() {
            return;
        }
        self.offset += by;
        self.promises.clock_set_at = Some(self.now);
        if by >= HOUR {
            self.promises.forget_refusals();
        }
        // What seems due is asked for, and what was kept until its expiry is learned anew.
        self.promises.clock_set(self.now);
        self.promises.clock_set(self.now);
        self.promises
            .everything
            .extend(self.now + NOTICED + CAUGHT_UP);
        self.no_kill_before = if self.api_away > 0 {
            // Until it is there again nothing can be recorded by the new clock.
            Micros::MAX
        } else {
            self.now + 2 * MINUTE
        };
        // The loop goes round every five seconds at least.
        let wait = self.rng.random_range(0..5 * SECOND);
        self.after(wait, Event::ClockSet(by));
    }

    /// The operator's loop goes round, and sees that the clock was set.
    pub(crate) fn clock_set(&mut self, by: Micros) -> Done {
        // What was told between the two is set back too.
        self.promises.clock_set(self.now);
        for index in 0..2 {
            let epoch = self.epochs[index];
            if let Some(operator) = self.operators[index].as_mut() {
                operator.tick = None;
                if by < -2 * SECOND {
                    operator.core.clock_set_back(span(-by));
                }
                self.turn(index, epoch)?;
            }
        }
        Ok(())
    }

    fn rotate(&mut self, resource: usize, wait: Micros) {
        let (instance, client) = self.plan.clients[resource];
        let registration = &mut self.instances[instance].clients[client];
        registration.accepted += 1;
        let accepted = registration.accepted;
        self.promises
            .clients
            .entry((instance, client))
            .or_default()
            .begin();
        let over = move |run: &mut Self| {
            let secret = name(&format!("client-{instance}-{client}"));
            if run.instances[instance].clients[client].accepted == accepted
                && run.cluster.clients.contains_key(&secret)
            {
                run.cluster.put_client(&secret, accepted);
            }
            run.excuse_client((instance, client));
            Ok(())
        };
        self.after(wait, Event::Over(Box::new(over)));
    }

    fn lose_client(&mut self, resource: usize, wait: Micros) {
        let (instance, client) = self.plan.clients[resource];
        let secret = name(&format!("client-{instance}-{client}"));
        self.cluster.remove_client(&secret);
        self.promises
            .clients
            .entry((instance, client))
            .or_default()
            .begin();
        let over = move |run: &mut Self| {
            let accepted = run.instances[instance].clients[client].accepted;
            run.cluster.put_client(&secret, accepted);
            run.promises.replaced((instance, client));
            run.excuse_client((instance, client));
            Ok(())
        };
        self.after(wait, Event::Over(Box::new(over)));
    }

    /// The client's Secret is as it shall be: it is used as soon as it is seen.
    fn excuse_client(&mut self, client: (usize, usize)) {
        let until = (self.now + NOTICED).max(self.promises.blind_until) + CAUGHT_UP;
        self.promises.clients.entry(client).or_default().end(until);
        self.promises.give(client, self.now);
    }

    fn deed(&mut self, resource: usize, deed: Deed) {
        let who = name(&format!("r{resource}"));
        let Some(credential) = self.cluster.resources.get(&who) else {
            return;
        };
        let target = credential.target_secret();
        self.promises.give(self.plan.clients[resource], self.now);
        let until = (self.now + NOTICED).max(self.promises.blind_until) + CAUGHT_UP;
        self.promises
            .resources
            .entry(who.clone())
            .or_default()
            .extend(until);
        match deed {
            Deed::Renew => {
                self.promises.force(self.plan.clients[resource].0);
                let value = self.now.to_string();
                self.cluster.annotate(&who, value);
            }
            Deed::DeleteTarget => {
                if let Some(target) = target {
                    self.give_the_writer(&target);
                    self.cluster.remove_secret(&target);
                }
            }
            Deed::EditTarget => {
                if let Some(target) = target {
                    self.give_the_writer(&target);
                    self.cluster.edit_secret(&target);
                }
            }
            Deed::Template(which) => self.cluster.change(&who, |spec| {
                let template = ["{{ token }}", "Bearer {{ token }}"][usize::from(which) % 2];
                let data = [("token".to_owned(), template.to_owned())].into();
                spec.target.get_or_insert_default().data = Some(data);
            }),
            Deed::Rename(which) => {
                let own = [who.name.to_string(), format!("{}-b", who.name)];
                let target = match which % 4 {
                    3 => "shared".to_owned(),
                    other => own[usize::from(other) % 2].clone(),
                };
                self.rename(&who, target);
            }
            Deed::Margin(which) => {
                self.plan.margins[resource] = margin(which);
                self.cluster
                    .change(&who, |spec| spec.renewal = margin(which));
            }
            Deed::Suspend(lasts) => {
                self.cluster.change(&who, |spec| spec.suspend = Some(true));
                self.later(who, lasts, |run, who| {
                    run.cluster.change(who, |spec| spec.suspend = None);
                });
            }
            Deed::Recreate(wait) => {
                for (secret, owner) in self.cluster.delete(&who) {
                    let soon = self.rng.random_range(0..20 * SECOND);
                    self.after(soon, Event::Collect(secret, owner));
                }
                self.later(who, wait, move |run, _| {
                    let _ = run.create(resource);
                });
            }
            Deed::Foreign(lasts) => {
                let foreign = name(&format!("foreign-{resource}"));
                self.cluster.put_foreign(&foreign);
                self.rename(&who, foreign.name.to_string());
                self.later(who, lasts, move |run, _| {
                    run.cluster.remove_secret(&foreign)
                });
            }
        }
    }

    /// Whoever wrote a Secret needs its token again, and it may be another than who wants it too.
    fn give_the_writer(&mut self, target: &Name) {
        let writer = self.cluster.secrets.get(target).and_then(writer);
        if let Some(client) = writer.and_then(|writer| self.client_of_resource(&writer)) {
            self.promises.give(client, self.now);
        }
    }

    fn rename(&mut self, who: &Name, target: String) {
        self.cluster.change(who, |spec| {
            spec.target.get_or_insert_default().name = Some(target);
        });
    }

    /// A deed is undone.
    fn later(&mut self, who: Name, wait: Micros, undo: impl FnOnce(&mut Self, &Name) + 'static) {
        self.promises
            .resources
            .entry(who.clone())
            .or_default()
            .begin();
        let over = move |run: &mut Self| {
            undo(run, &who);
            let until = (run.now + NOTICED).max(run.promises.blind_until) + CAUGHT_UP;
            run.promises
                .resources
                .entry(who.clone())
                .or_default()
                .end(until);
            if let Some(client) = run.client_of_resource(&who) {
                run.promises.give(client, run.now);
            }
            Ok(())
        };
        self.after(wait, Event::Over(Box::new(over)));
    }

    pub(crate) fn client_of_resource(&self, who: &Name) -> Option<(usize, usize)> {
        let index = who.name.strip_prefix('r')?.parse::<usize>().ok()?;
        self.plan.clients.get(index).copied()
    }

    /// Somebody creates a resource.
    pub(crate) fn create(&mut self, resource: usize) -> Done {
        let who = format!("r{resource}");
        if self.cluster.resources.contains_key(&name(&who)) {
            return Ok(());
        }
        let client @ (instance, number) = self.plan.clients[resource];
        let spec = spec(instance, number, self.plan.margins[resource].clone());
        self.cluster.create(&who, spec, self.now);
        self.promises.created(client, self.now);
        let until = (self.now + NOTICED).max(self.promises.blind_until) + CAUGHT_UP;
        self.promises
            .resources
            .entry(name(&who))
            .or_default()
            .extend(until);
        Ok(())
    }
}

fn which(resources: bool) -> Watch {
    if resources {
        Watch::Resources
    } else {
        Watch::Secrets
    }
}
