//! The operator at work in the small world: what the controller does with I/O, without.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{
    scene::*,
    world::{UnderWay, World},
};
use crate::{
    controller::Round,
    decide::{
        Credential, Name, Settle, Step,
        observed::{CheckedSpec, ClientRead, Version, WriteOutcome},
        ownership::TargetWrite,
        reference_missing,
        restarts::Restart,
    },
    kubernetes::ReferencesRead,
    servicenow::SharingKey,
};

impl World {
    /// Everything that happens until then.
    pub(crate) fn run_until(&mut self, second: i64) {
        let end = at(second);
        loop {
            self.settle_down();
            let answers = self.under_way.iter().map(|request| request.due).min();
            let timers = [
                self.core.queue.next_timer(),
                self.core.broker.next_dispatch(self.now),
            ];
            let next = timers.into_iter().flatten().filter(|at| *at > self.now);
            match next.chain(answers).min() {
                Some(next) if next <= end => self.now = next.max(self.now),
                _ => break,
            }
            self.answers_arrive();
        }
        self.now = end;
        self.settle_down();
    }

    pub(crate) fn settle_down(&mut self) {
        for _ in 0..1000 + 4 * self.credentials.len() {
            self.core.call_probers(self.now);
            for key in self.core.broker.dispatch(self.now) {
                self.requests.push((self.now, key.origin().to_owned()));
                let (takes, answer) = (self.answer)(&key, self.now);
                self.under_way.push(UnderWay {
                    due: self.now + takes,
                    key,
                    answer,
                });
            }
            let Some(name) = self.core.take(self.now) else {
                return;
            };
            self.round(&name);
        }
        panic!("it does not come to rest at {}", self.now);
    }

    fn answers_arrive(&mut self) {
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.under_way)
            .into_iter()
            .partition(|request| request.due <= self.now);
        self.under_way = later;
        for UnderWay { key, answer, .. } in due {
            let random = self.random;
            let answered = self.core.broker.complete(&key, self.now, answer, random);
            let woken = answered.woken;
            self.core.broker.sweep(self.now);
            self.core.wake(woken);
        }
    }

    fn round(&mut self, name: &Name) {
        self.rounds += 1;
        let mut round = self.core.begin(name, self.now, self.random);
        for _ in 0..24 {
            let Some(step) = self.core.decide(name, &mut round, self.now) else {
                self.core.forget(name);
                return self.core.finish(name);
            };
            if self.mischief.is_some_and(|(when, _)| when(&step)) {
                let (_, happens) = self.mischief.take().unwrap();
                happens(self);
            }
            match step {
                Step::Settle(settle) => {
                    self.settle(name, round, &settle);
                    return self.core.finish(name);
                }
                step => self.carry_out(name, &mut round, step),
            }
        }
        panic!("{name} does not settle at {}", self.now);
    }

    fn carry_out(&mut self, name: &Name, round: &mut Round, step: Step) {
        let Some(credential) = self.core.subject(name, round) else {
            return;
        };
        let spec = credential.spec.as_ref().unwrap();
        let target = Name::new("team-a", spec.target_name(&name.name));
        match step {
            Step::ReadClient => {
                self.client_reads += 1;
                let read = self.read_client(spec);
                self.core.references_read(name, round, read);
            }
            Step::ReadTarget => {
                let secret = self.secrets.get(&target).cloned();
                self.core.target_read(name, round, secret);
            }
            Step::Write { write, put_back } => {
                let outcome = self.write(&credential, &write);
                let sha256 = write.desired().data.sha256().to_owned();
                let put_back_at = put_back.then_some(self.now);
                self.core
                    .target_written(name, round, sha256, outcome, put_back_at);
            }
            Step::RemovePrevious { name: old, uid, .. } => {
                self.meddle(&old, |target| target.version.uid != uid);
                round.previous_removed(old, Ok(()));
            }
            Step::SetFinalizer(_) => round.finalizer_set(Ok(())),
            Step::Restart { workload, value } => {
                round.workload_restarted((workload, value, Restart::Done));
            }
            Step::Ask(_) | Step::Settle(_) => {}
        }
    }

    fn read_client(&self, spec: &CheckedSpec) -> ReferencesRead {
        let name = Name::new("team-a", &spec.client.secret_ref.name);
        let Some((version, secret)) = self.clients.get(&name) else {
            return ReferencesRead {
                found: [Some(None), None, None, None],
                client: Err(reference_missing(spec, &spec.references()[0], "team-a")),
            };
        };
        let key = SharingKey::client_credentials(
            &spec.parsed_instance().unwrap(),
            spec.authentication(),
            Zeroizing::new("id".to_owned()),
            Zeroizing::new(secret.clone()),
            &spec.scopes,
        );
        let read = ClientRead {
            versions: [Some(version.clone()), None, None, None],
            client_id: "id".to_owned(),
            trimmed: false,
        };
        ReferencesRead {
            found: [Some(Some(version.clone())), None, None, None],
            client: Ok((Arc::new(key), read)),
        }
    }

    fn write(&mut self, credential: &Credential, write: &TargetWrite) -> WriteOutcome {
        let name = Name::new("team-a", &write.desired().name);
        let found = self.secrets.get(&name).map(|target| target.version.clone());
        let uid = match (write, found) {
            (TargetWrite::Create(_), None) => format!("{}-uid-{}", name.name, self.version),
            (TargetWrite::Apply { uid, .. } | TargetWrite::Merge { uid, .. }, Some(found))
                if *uid == found.uid =>
            {
                found.uid
            }
            (TargetWrite::Replace { version, .. }, Some(found)) if *version == found => found.uid,
            _ => return WriteOutcome::Changed,
        };
        let resource_version = self.next_version();
        let version = Version {
            uid,
            resource_version,
        };
        self.secret_writes += 1;
        let secret = secret_of(credential, write.desired(), version.clone());
        self.secrets.insert(name, secret);
        WriteOutcome::Done(version)
    }

    fn settle(&mut self, name: &Name, round: Round, settle: &Settle) {
        let mut settle = settle.clone();
        let subject = self.core.subject(name, &round);
        let stored = self.credentials.get(name).map(|c| c.uid.clone());
        let exists = subject.is_some_and(|subject| stored == Some(subject.uid.clone()));
        if let (Some(status), true) = (&settle.status, exists) {
            if self.statuses_fail {
                settle.status_unwritten(self.now);
            } else {
                settle.memory.unwritten = 0;
                self.status_writes += 1;
                let version = self.next_version();
                let stored = self.credentials.get_mut(name).unwrap();
                stored.status = status.clone();
                stored.resource_version.clone_from(&version);
                let uid = stored.uid.clone();
                let woken = self
                    .core
                    .store
                    .status_written(name, &uid, version, status.clone());
                self.core.wake(woken);
                self.tell_of(name);
            }
        }
        self.core.settled(name, round, settle.into());
    }
}
