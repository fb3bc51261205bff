//! Calls and requests on their way: what the API server and the instances make of them, and what
//! the operator is told, if it still lives.

use std::sync::Arc;

use jiff::Timestamp;
use rand::Rng as _;
use servicenow_credential_operator::{
    api::{ClientAuthentication, Instance as Origin, Reason},
    decide::{
        Credential, Failure, Name,
        failure::Class,
        observed::{ByRole, ClientRead, WriteOutcome},
    },
    kubernetes::ReferencesRead,
    servicenow::{SharingKey, TokenAnswer},
};
use zeroize::Zeroizing;

use crate::{
    cluster::name,
    event::{Call, Event, Fate, Landing, Outcome, Read, Sent},
    instance::Issued,
    promises::{Broken, Client, Good},
    run::{Done, Run, TIME_OUT},
    tamper::Tamper,
    time::{HOUR, MINUTE, Micros, SECOND, true_time},
};

/// A call of the API that failed.
fn failed() -> Failure {
    Failure::new(
        Reason::InternalError,
        "the simulated API server did not do it",
    )
}

/// The client that a key stands for.
pub(crate) fn client_of(key: &SharingKey) -> Client {
    let mut numbers = key.client_id().split('.').map(str::parse::<usize>);
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or_default();
    let (instance, client, secret) = (next(), next(), next());
    (instance, client, u32::try_from(secret).unwrap_or_default())
}

impl Run {
    /// The operator sends a token request.
    pub(crate) fn send(&mut self, index: usize, epoch: u32, key: Arc<SharingKey>) -> Done {
        let client = client_of(&key);
        self.note(|| format!("asks for a token of client {client:?}"));
        let nearest = if self.promises.is_left_alone(client) {
            self.nearest_expiry(client.0)
        } else {
            Micros::MAX
        };
        self.promises.sent(client, self.now, nearest)?;
        self.under_way += 1;
        self.in_flight.push(client);
        let sent = Sent { key, at: self.now };
        let wait = self.rng.random_range(2_000..150_000);
        self.after(wait, Event::Arrive(index, epoch, sent));
        Ok(())
    }

    /// It reaches the instance, whatever has become of the operator.
    pub(crate) fn arrive(&mut self, index: usize, epoch: u32, sent: Sent) -> Done {
        self.statistics.requests += 1;
        let client @ (instance, number, secret) = client_of(&sent.key);
        let answer = self.instances[instance].answer(number, secret, self.now);
        match &answer.result {
            Ok(token) => {
                self.statistics.renewals += u64::from(answer.news);
                let issued = Issued::read(token.token.expose().as_bytes());
                let expiry = issued.map_or(self.now, |i| self.instances[instance].expiry(i));
                let good = Good {
                    sent: sent.at,
                    now: self.now,
                    expiry,
                    news: answer.news,
                    share: self.largest_share((instance, number), expiry - self.now),
                };
                self.promises.succeeded(client, good)?;
            }
            Err(failure) if failure.class() == Class::Refused => {
                self.promises.refused(client, self.now)?;
            }
            Err(_) => {}
        }
        let wait = if answer.hangs {
            sent.at + TIME_OUT - self.now
        } else {
            self.rng.random_range(2_000..150_000)
        };
        self.after(
            wait,
            Event::Reply(index, epoch, Box::new((sent, answer.result))),
        );
        Ok(())
    }

    /// Of those who use this client, the largest share of the lifetime that shall be left, as it
    /// is told to somebody who has not heard of the token before.
    fn largest_share(&self, client: (usize, usize), lifetime: Micros) -> f64 {
        let users = self.plan.clients.iter().zip(&self.plan.margins);
        let users = users.filter(|(of, _)| **of == client);
        let shares = users.map(|(_, margin)| {
            let Some(margin) = margin else {
                return 1.0 / 3.0;
            };
            let before = margin.renew_before.as_deref().map(|text| match text {
                "10m" => 10 * MINUTE,
                _ => SECOND,
            });
            #[allow(clippy::cast_precision_loss)]
            match (before, margin.renew_before_percentage) {
                (Some(before), _) => (before as f64 / lifetime as f64).clamp(0.1, 0.8),
                (None, percent) => f64::from(percent.unwrap_or(33)) / 100.0,
            }
        });
        shares.fold(0.1, f64::max)
    }

    /// How far the nearest expiry is away of a token of this instance, by any of those who tell of
    /// one: the last answers, and the statuses.
    fn nearest_expiry(&self, instance: usize) -> Micros {
        let set = self.promises.clock_set_at;
        let clients = self.instances[instance].clients.iter();
        let longest = clients.map(|client| client.lifetime).max();
        let tokens = self.cluster.resources.iter().filter_map(|(who, resource)| {
            let client = self.client_of_resource(who)?;
            let token = resource.status.token.as_ref()?;
            (client.0 == instance).then_some((client, token.expires_at.0))
        });
        let tokens: Vec<_> = tokens.collect();
        // What was told by the clock before it was set is anything, and stays on record for as long
        // as nothing better can be had.
        let told_before = |at| {
            let soon = self.now < at + longest.unwrap_or_default() + HOUR;
            let old = |client| !self.promises.is_served_since(client, at);
            soon || tokens.iter().any(|(client, _)| old(*client))
        };
        if set.is_some_and(told_before) {
            return 0;
        }
        let told = tokens.iter().map(|(_, at)| true_time(*at, self.offset));
        let all = told.chain(self.promises.expiries(instance));
        let distances = all.map(|expiry| (expiry - self.now).abs());
        distances.min().unwrap_or(Micros::MAX)
    }

    /// The operator gets the answer.
    pub(crate) fn reply(
        &mut self,
        index: usize,
        epoch: u32,
        (sent, result): (Sent, Result<TokenAnswer, Failure>),
    ) -> Done {
        self.under_way -= 1;
        let (now, random) = (self.wall(), self.rng.random());
        if self.operator(index, epoch).is_none() {
            // Whoever asked is dead.
            return Ok(());
        }
        let client = client_of(&sent.key);
        if let Some(at) = self.in_flight.iter().position(|of| *of == client) {
            self.in_flight.swap_remove(at);
        }
        self.note(|| match &result {
            Ok(answer) => format!(
                "client {client:?} gets {} for {:?} s",
                answer.token.expose(),
                answer.expires_in
            ),
            Err(failure) => format!("client {client:?} gets {}", failure.reason()),
        });
        let nearest = self.nearest_expiry(client.0);
        let failure = result.as_ref().err();
        let failed = failure.map(Failure::class);
        self.promises
            .told(client, failure, (sent.at, self.now), nearest);
        if let Some(operator) = self.operator(index, epoch) {
            let broker = &mut operator.core.broker;
            let answered = broker.complete(&sent.key, now, result, random);
            operator.core.wake(answered.woken);
        }
        self.tampered(index, epoch, sent.key, failed)?;
        self.turn(index, epoch)
    }

    /// A read is answered, by what is there now.
    pub(crate) fn read(&mut self, index: usize, epoch: u32, slot: usize, what: Read) -> Done {
        if self.operator(index, epoch).is_none() {
            return Ok(());
        }
        let away = self.api_away > 0;
        let fails = away || (self.api_flaky > 0 && self.rng.random_range(0..10) == 0);
        let Some(mut active) = self
            .operator(index, epoch)
            .and_then(|operator| operator.rounds[slot].take())
        else {
            return Ok(());
        };
        let credential = active.credential.clone();
        match (what, credential) {
            (Read::Client, Some(credential)) => {
                let read = if fails {
                    ReferencesRead {
                        found: ByRole::default(),
                        client: Err(failed()),
                    }
                } else {
                    self.read_client(&credential)
                };
                if let Some(operator) = self.operator(index, epoch) {
                    let core = &mut operator.core;
                    core.references_read(&active.name, &mut active.round, read);
                }
            }
            (_, Some(credential)) => {
                let target = credential.target_secret();
                let secret = target.and_then(|target| self.cluster.secrets.get(&target).cloned());
                if let Some(operator) = self.operator(index, epoch) {
                    let core = &mut operator.core;
                    if fails {
                        core.target_unreadable(&mut active.round, failed());
                    } else {
                        core.target_read(&active.name, &mut active.round, secret);
                    }
                }
            }
            (_, None) => {}
        }
        if let Some(operator) = self.operator(index, epoch) {
            operator.rounds[slot] = Some(active);
        }
        self.advance(index, epoch, slot)?;
        self.turn(index, epoch)
    }

    fn read_client(&mut self, credential: &Credential) -> ReferencesRead {
        let secret = credential.references().next().map(|(_, _, secret)| secret);
        let found = secret
            .as_ref()
            .and_then(|secret| self.cluster.clients.get(secret));
        let (Some(secret), Some(found)) = (secret, found) else {
            let missing = Failure::new(Reason::ClientSecretMissing, "there is no client Secret");
            return ReferencesRead {
                found: [Some(None), None, None, None],
                client: Err(missing),
            };
        };
        let read = ClientRead {
            versions: [Some(found.version.clone()), None, None, None],
            client_id: "id".to_owned(),
            trimmed: false,
        };
        let found = found.clone();
        ReferencesRead {
            found: [Some(Some(found.version)), None, None, None],
            client: self.key_of(&secret, found.secret).map(|key| (key, read)),
        }
    }

    fn key_of(&mut self, secret: &Name, version: u32) -> Result<Arc<SharingKey>, Failure> {
        let mut numbers = secret.name.split('-').skip(1).map(str::parse::<usize>);
        let mut next = || numbers.next().and_then(Result::ok).unwrap_or_default();
        let client = (next(), next(), version);
        if let Some(key) = self.keys.get(&client) {
            return Ok(key.clone());
        }
        let origin = Origin::parse(&format!("sim{}", client.0))
            .map_err(|error| Failure::new(Reason::InvalidSpec, error.to_string()))?;
        let key = Arc::new(SharingKey::client_credentials(
            &origin,
            ClientAuthentication::Basic,
            Zeroizing::new(format!("{}.{}.{}", client.0, client.1, client.2)),
            Zeroizing::new("secret".to_owned()),
            &[],
        ));
        self.keys.insert(client, key.clone());
        Ok(key)
    }

    /// A write reaches the API server, whatever has become of the operator.
    pub(crate) fn land(&mut self, index: usize, epoch: u32, slot: usize, landing: Landing) -> Done {
        let Landing {
            call,
            fate,
            credential,
            status,
        } = landing;
        if self.operator(index, epoch).is_none() && self.rng.random() {
            // The operator was killed before the call had left.
            return Ok(());
        }
        let away = self.api_away > 0;
        let takes_effect = !away && matches!(fate, Fate::Good | Fate::Unheard);
        let heard = !away && fate != Fate::Unheard && fate != Fate::Lost;
        let outcome = match call {
            Call::Write(write, put_back) => {
                let sha256 = write.desired().data.sha256().to_owned();
                let outcome = if takes_effect {
                    let secret = name(&write.desired().name);
                    let written = self.cluster.write(&credential, &secret, *write);
                    if let Some(before) = written.before {
                        self.statistics.secret_writes += 1;
                        self.written(&secret, before, fate)?;
                        if self.tamper == Some(Tamper::WritesTwice) {
                            let before = self.cluster.secrets.get(&secret).cloned();
                            self.written(&secret, before, fate)?;
                        }
                    }
                    written.outcome
                } else if fate == Fate::Conflict && !away {
                    WriteOutcome::Changed
                } else {
                    WriteOutcome::Failed(failed())
                };
                let outcome = if heard {
                    outcome
                } else {
                    WriteOutcome::Failed(failed())
                };
                Outcome::Target(outcome, sha256, put_back)
            }
            Call::RemovePrevious(old, uid) => {
                if takes_effect && self.cluster.remove_previous(&name(&old), &uid) {
                    self.succeeded(&credential, &old)?;
                }
                let good = takes_effect && heard;
                Outcome::Removed(old, good.then_some(()).ok_or_else(failed))
            }
            Call::Status => {
                let Some(status) = status else { return Ok(()) };
                let written = if takes_effect {
                    let stored = self.cluster.resources.get(&credential.name);
                    let same = stored.is_some_and(|stored| {
                        stored.uid == credential.uid && stored.status == status
                    });
                    if same && self.promises.is_quiet(&credential.name, self.now) {
                        return Err(Broken {
                            at: self.now,
                            promise: "there is no write without change",
                            seen: format!(
                                "the status of {} was as it was written",
                                credential.name
                            ),
                        });
                    }
                    self.statistics.status_writes += 1;
                    self.cluster.write_status(&credential, &status)
                } else {
                    None
                };
                let good = takes_effect && heard;
                Outcome::Status(good.then_some(written).ok_or_else(failed))
            }
        };
        let wait = if heard {
            self.rng.random_range(1_000..40_000)
        } else {
            TIME_OUT
        };
        if !takes_effect || !heard {
            // It is tried again after a minute at most, and then seen to be there already.
            self.promises
                .disturb(&credential.name, self.now + TIME_OUT + 2 * MINUTE);
        }
        self.after(wait, Event::Wrote(index, epoch, slot, Box::new(outcome)));
        Ok(())
    }

    /// The operator hears what came of a write.
    pub(crate) fn wrote(
        &mut self,
        index: usize,
        epoch: u32,
        slot: usize,
        outcome: Outcome,
    ) -> Done {
        let now: Timestamp = self.wall();
        let Some(operator) = self.operator(index, epoch) else {
            return Ok(());
        };
        let Some(mut active) = operator.rounds[slot].take() else {
            return Ok(());
        };
        let core = &mut operator.core;
        match outcome {
            Outcome::Target(outcome, sha256, put_back) => {
                let put_back_at = put_back.then_some(now);
                core.target_written(
                    &active.name,
                    &mut active.round,
                    sha256,
                    outcome,
                    put_back_at,
                );
            }
            Outcome::Removed(old, removed) => active.round.previous_removed(old, removed),
            Outcome::Status(written) => {
                if let Some(settle) = &mut active.settle {
                    match written {
                        Ok(Some(version)) => {
                            settle.memory.unwritten = 0;
                            if let (Some(credential), Some(status)) =
                                (&active.credential, settle.status.clone())
                            {
                                let (name, uid) = (&active.name, &credential.uid);
                                let woken = core.store.status_written(name, uid, version, status);
                                core.wake(woken);
                            }
                        }
                        Ok(None) => {}
                        Err(_) => settle.status_unwritten(now),
                    }
                }
                operator.rounds[slot] = Some(active);
                self.settled(index, epoch, slot)?;
                return self.turn(index, epoch);
            }
        }
        operator.rounds[slot] = Some(active);
        self.advance(index, epoch, slot)?;
        self.turn(index, epoch)
    }

    /// How long ago, in true time, a clock told this.
    pub(crate) fn since(&self, told: Timestamp) -> Micros {
        self.now - true_time(told, self.offset)
    }
}
