//! One turn of the operator's loop, and the steps of its reconciles, with their I/O as events.

use rand::Rng as _;
use servicenow_credential_operator::decide::{Settle, Step, ownership::TargetWrite};

use crate::{
    event::{Call, Event, Fate, Landing, Read},
    operator::Active,
    promises::Broken,
    run::{Done, Run},
    tamper::Tamper,
    time::{Micros, true_time},
};

impl Run {
    /// One turn of the controller's loop.
    pub(crate) fn turn(&mut self, index: usize, epoch: u32) -> Done {
        for _ in 0..10_000 {
            let (now, at) = (self.wall(), self.now);
            let rng = &mut self.rng;
            let Some(operator) = self.operators[index]
                .as_mut()
                .filter(|_| self.epochs[index] == epoch)
            else {
                return Ok(());
            };
            if !operator.leads {
                return Ok(());
            }
            operator.sweep(at, now);
            operator.core.call_probers(now);
            let keys = operator.core.broker.dispatch(now);
            // The connection that would be opened for each.
            operator.core.broker.prepare(now);
            let slots = operator.begin(now, || rng.random());
            if keys.is_empty() && slots.is_empty() {
                self.sleep(index, epoch);
                return Ok(());
            }
            for key in keys {
                self.send(index, epoch, key)?;
            }
            for slot in slots {
                self.advance(index, epoch, slot)?;
            }
        }
        Err(Broken {
            at: self.now,
            promise: "there is no hot loop",
            seen: "the operator does not come to rest within one moment".to_owned(),
        })
    }

    /// The replica looks again when its next timer goes off.
    fn sleep(&mut self, index: usize, epoch: u32) {
        let (wall, now, offset) = (self.wall(), self.now, self.offset);
        let Some(operator) = self.operators[index].as_mut() else {
            return;
        };
        let timers = [
            operator.core.queue.next_timer(),
            operator.core.broker.next_dispatch(wall),
        ];
        // What is due by now waits for room, and is begun when something ends.
        let next = timers.into_iter().flatten().filter(|at| *at > wall).min();
        let Some(next) = next.map(|at| true_time(at, offset).max(now + 1)) else {
            return;
        };
        if operator.tick.is_none_or(|tick| tick > next) {
            operator.tick = Some(next);
            self.after(next - now, Event::Tick(index, epoch));
        }
    }

    /// Goes through the steps of a reconcile, until one has to be waited for.
    pub(crate) fn advance(&mut self, index: usize, epoch: u32, slot: usize) -> Done {
        loop {
            if let Some(delay) = self.dies_at_next_step.take() {
                self.kill(index, delay);
                return Ok(());
            }
            let (now, at) = (self.wall(), self.now);
            let Some(operator) = self.operator(index, epoch) else {
                return Ok(());
            };
            let Some(mut active) = operator.rounds[slot].take() else {
                return Ok(());
            };
            active.steps += 1;
            if active.steps == 1 {
                let name = active.name.clone();
                self.statistics.rounds += 1;
                self.promises.looked_at(&name, at)?;
            }
            if active.steps > 24 {
                return Err(Broken {
                    at,
                    promise: "a reconcile settles",
                    seen: format!("{} does not", active.name),
                });
            }
            let Some(operator) = self.operator(index, epoch) else {
                return Ok(());
            };
            let Some(step) = operator.core.decide(&active.name, &mut active.round, now) else {
                operator.core.forget(&active.name);
                operator.core.finish(&active.name);
                return Ok(());
            };
            active.credential = operator.core.subject(&active.name, &active.round);
            if self.is_traced() {
                let line = format!("{} {}", active.name, brief(&step));
                self.note(|| line);
            }
            let (wait, fate) = self.fate();
            let credential = active.credential.clone();
            let write = |call| {
                let credential = credential?;
                let landing = Landing {
                    call,
                    fate,
                    credential,
                    status: None,
                };
                Some(Event::Land(index, epoch, slot, Box::new(landing)))
            };
            let event = match step {
                Step::Settle(settle) => return self.settle(index, epoch, (slot, active), settle),
                Step::ReadClient => Some(Event::Read(index, epoch, slot, Read::Client)),
                Step::ReadTarget => Some(Event::Read(index, epoch, slot, Read::Target)),
                Step::Write {
                    write: what,
                    put_back,
                } => write(Call::Write(what, put_back)),
                Step::RemovePrevious { name, uid, .. } => write(Call::RemovePrevious(name, uid)),
                // The core has asked; no resource here merges or restarts.
                Step::Ask(_) | Step::SetFinalizer(_) | Step::Restart { .. } => None,
            };
            if let Some(operator) = self.operator(index, epoch) {
                operator.rounds[slot] = Some(active);
            }
            if let Some(event) = event {
                self.after(wait, event);
                return Ok(());
            }
        }
    }

    /// How long a call takes to arrive, and what becomes of it.
    pub(crate) fn fate(&mut self) -> (Micros, Fate) {
        let wait = self.rng.random_range(1_000..40_000);
        if self.api_flaky == 0 {
            return (wait, Fate::Good);
        }
        let fate = match self.rng.random_range(0..10) {
            0 => Fate::Refused,
            1 => Fate::Unheard,
            2 => Fate::Lost,
            3 => Fate::Conflict,
            _ => Fate::Good,
        };
        (wait, fate)
    }

    fn settle(
        &mut self,
        index: usize,
        epoch: u32,
        (slot, mut active): (usize, Box<Active>),
        settle: Box<Settle>,
    ) -> Done {
        let status = settle.status.clone();
        let credential = active.credential.clone();
        active.settle = Some(settle);
        let Some(operator) = self.operator(index, epoch) else {
            return Ok(());
        };
        operator.rounds[slot] = Some(active);
        let (Some(credential), true) = (credential, status.is_some()) else {
            return self.settled(index, epoch, slot);
        };
        let (wait, fate) = self.fate();
        let landing = Landing {
            call: Call::Status,
            fate,
            credential,
            status,
        };
        self.after(wait, Event::Land(index, epoch, slot, Box::new(landing)));
        Ok(())
    }

    /// A reconcile is over.
    pub(crate) fn settled(&mut self, index: usize, epoch: u32, slot: usize) -> Done {
        let now = self.wall();
        let tamper = self.tamper;
        let Some(operator) = self.operator(index, epoch) else {
            return Ok(());
        };
        let Some(active) = operator.rounds[slot].take() else {
            return Ok(());
        };
        if let Some(mut settle) = active.settle {
            match tamper {
                Some(Tamper::NeverRenews) => settle.wake = None,
                Some(Tamper::NeverSleeps) => settle.wake = Some(now),
                _ => {}
            }
            operator.core.settled(&active.name, active.round, settle);
        }
        operator.core.finish(&active.name);
        Ok(())
    }
}

/// A step in a few words.
fn brief(step: &Step) -> String {
    match step {
        Step::Settle(settle) => format!(
            "settles as {}, wakes at {:?}, {}",
            settle.outcome.as_str(),
            settle.wake,
            match &settle.status {
                Some(status) => format!("tells {:?}", status.token),
                None => "tells nothing".to_owned(),
            }
        ),
        Step::Write { write, put_back } => {
            let how = match **write {
                TargetWrite::Create(_) => "creates",
                TargetWrite::Apply { .. } => "applies",
                TargetWrite::Merge { .. } => "merges",
                TargetWrite::Replace { .. } => "replaces",
            };
            let expiry = write.desired().annotations.get("snowcred.dev/expires-at");
            format!(
                "{how} {:?} until {expiry:?}, put back: {put_back}",
                write.desired().name
            )
        }
        other => format!("{other:?}"),
    }
}
