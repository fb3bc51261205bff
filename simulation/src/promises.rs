//! What is promised, each in one function with the sentence that it states, and what excuses the
//! operator for a while: an excuse ends as soon as the operator could have done what it promised.

use std::collections::BTreeMap;

use servicenow_credential_operator::decide::Name;

use crate::{
    cluster::ByName,
    time::{HOUR, MINUTE, Micros, SECOND},
};

/// A promise that was not kept.
#[derive(Clone, Debug)]
pub struct Broken {
    /// When, in true time.
    pub at: Micros,
    /// The promise.
    pub promise: &'static str,
    /// What was seen.
    pub seen: String,
}

/// A time until which something excuses the operator; the end of time while it lasts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Excuse {
    lasting: u32,
    until: Micros,
    /// When an outage was over, and how long its last request may still take.
    outage: Option<(Micros, Micros)>,
}

/// No token of a run lives longer.
const LONGEST_LIFETIME: Micros = HOUR;
/// Those who wait for the end of an outage are served within this time of its being noticed.
const SERVED: Micros = 20 * SECOND;

impl Excuse {
    /// It begins.
    pub fn begin(&mut self) {
        self.lasting += 1;
    }

    /// It is over, and forgotten at `until`.
    pub fn end(&mut self, until: Micros) {
        self.lasting = self.lasting.saturating_sub(1);
        self.until = self.until.max(until);
    }

    /// An outage is over now, whose last request may still take so long.
    pub fn end_outage(&mut self, now: Micros, last: Micros) {
        self.lasting = self.lasting.saturating_sub(1);
        self.outage = Some((now, last));
    }

    /// Until when it counts for a token with this expiry, as far as that is known. An outage is probed the more often the nearer
    /// the expiry is: within a tenth of the time to it, at most every two seconds and at least every
    /// minute. The last probe before the end of the outage may have been a minute ago.
    pub fn until_for(&self, expiry: Option<Micros>) -> Micros {
        let noticed = self.outage.map(|(end, last)| {
            let left = expiry.map(|expiry| (expiry - end).abs() + MINUTE + last);
            let noticed = left.map_or(MINUTE, |left| (left / 10).clamp(2 * SECOND, MINUTE));
            end + last + noticed + SERVED
        });
        self.until().max(noticed.unwrap_or(0))
    }

    /// It counts until then.
    pub fn extend(&mut self, until: Micros) {
        self.until = self.until.max(until);
    }

    /// Until when it counts.
    pub fn until(&self) -> Micros {
        if self.lasting > 0 {
            Micros::MAX
        } else {
            self.until
        }
    }
}

/// One client at one instance, with one secret.
pub type Client = (usize, usize, u32);

/// An answer that brought a token.
#[derive(Clone, Copy, Debug)]
pub struct Good {
    /// When it was asked for.
    pub sent: Micros,
    /// When the instance answered.
    pub now: Micros,
    /// When the token is over.
    pub expiry: Micros,
    /// It is a new one, or its expiry has moved.
    pub news: bool,
    /// The largest share of a lifetime that somebody wants to be left.
    pub share: f64,
}

/// What is known of a client's requests.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// When a token is due at the earliest.
    earliest: Option<Micros>,
    /// Requests that something has given it: a kill, a change, a person.
    credit: u32,
    refusals: Vec<Micros>,
    /// Its last answer was one.
    refused: bool,
    /// Whoever was refused last was killed: the status of its resource alone tells of it.
    forgotten: bool,
}

/// More than this is never given.
const MOST_CREDIT: u32 = 4;

/// All that is watched.
#[derive(Default)]
pub struct Promises {
    /// No operator works, or the API server does not.
    pub everything: Excuse,
    /// By instance.
    pub instances: BTreeMap<usize, Excuse>,
    /// By client.
    pub clients: BTreeMap<(usize, usize), Excuse>,
    /// By resource.
    pub resources: ByName<Excuse>,
    ledgers: BTreeMap<Client, Ledger>,
    /// Until when an instance is to be left alone, since when, and whether it said so itself.
    alone: BTreeMap<usize, (Micros, Micros)>,
    /// Instances that a person may ask about in spite of that.
    forced: BTreeMap<usize, u32>,
    rounds: ByName<(Micros, u32)>,
    /// A watch is silent until then: what people do is not seen.
    pub blind_until: Micros,
    /// When a clock was last set: how far an expiry recorded before is away is not known since.
    pub clock_set_at: Option<Micros>,
}

impl Promises {
    /// Until when a resource is excused for holding a token that was over at `expiry`.
    pub fn excused_until(&self, resource: &Name, client: (usize, usize), expiry: Micros) -> Micros {
        let all = [
            Some(&self.everything),
            self.instances.get(&client.0),
            self.clients.get(&client),
            self.resources.get(resource),
        ];
        let all = all.into_iter().flatten();
        let recorded_since = |at: Micros| expiry > at + LONGEST_LIFETIME;
        let distance = match self.clock_set_at {
            Some(at) if !recorded_since(at) => None,
            _ => Some(expiry),
        };
        let until = all.map(|excuse| excuse.until_for(distance));
        until.max().unwrap_or(0)
    }

    /// Nothing befell a resource of late, so that whatever is written for it is for a change.
    pub fn is_quiet(&self, resource: &Name, now: Micros) -> bool {
        let own = self.resources.get(resource);
        [Some(&self.everything), own]
            .into_iter()
            .flatten()
            .all(|excuse| excuse.until() <= now)
    }

    /// A resource is excused until then.
    pub fn disturb(&mut self, resource: &Name, until: Micros) {
        match self.resources.get_mut(resource) {
            Some(excuse) => excuse.extend(until),
            None => {
                let mut excuse = Excuse::default();
                excuse.extend(until);
                self.resources.insert(resource.clone(), excuse);
            }
        }
    }

    /// Nothing befalls the fleet any more: what it has come to is caught up with until then.
    pub fn well(&mut self, until: Micros) {
        self.instances.clear();
        self.clients.clear();
        self.resources.clear();
        self.alone.clear();
        self.everything = Excuse::default();
        self.everything.extend(until);
        self.blind_until = 0;
        for ledger in self.ledgers.values_mut() {
            ledger.credit = MOST_CREDIT;
        }
    }

    /// One more request is due to this client.
    pub fn give(&mut self, client: (usize, usize)) {
        for (of, ledger) in &mut self.ledgers {
            if (of.0, of.1) == client {
                ledger.credit = (ledger.credit + 1).min(MOST_CREDIT);
            }
        }
        let forced = self.forced.entry(client.0).or_default();
        *forced = (*forced + 1).min(MOST_CREDIT);
    }

    /// A resource of this client is created. With the one that was there before it, the last of the
    /// client, all that told of its refusals may have gone.
    pub fn created(&mut self, client: (usize, usize)) {
        self.give(client);
        for (of, ledger) in &mut self.ledgers {
            if (of.0, of.1) == client && ledger.forgotten {
                ledger.refusals.clear();
            }
        }
    }

    /// An operator was killed: what it had in memory is gone, and what it could not write, too.
    pub fn died(&mut self, unwritten: bool) {
        self.give_all();
        for ledger in self.ledgers.values_mut() {
            ledger.forgotten = true;
            if unwritten {
                ledger.refusals.clear();
            }
        }
    }

    /// One more request is due to each client of an instance.
    pub fn give_instance(&mut self, instance: usize) {
        for (of, ledger) in &mut self.ledgers {
            if of.0 == instance {
                ledger.credit = (ledger.credit + 1).min(MOST_CREDIT);
            }
        }
    }

    /// A client waits out a refusal.
    pub fn is_refused(&self, client: (usize, usize)) -> bool {
        let mut ledgers = self.ledgers.iter();
        ledgers.any(|(of, ledger)| (of.0, of.1) == client && ledger.refused)
    }

    /// One more request is due to each client: an operator was killed, or its clock was set.
    pub fn give_all(&mut self) {
        for ledger in self.ledgers.values_mut() {
            ledger.credit = (ledger.credit + 1).min(MOST_CREDIT);
        }
        self.alone.clear();
    }

    /// "Answers that brought a new token or a moved expiry are never closer, for one key, than the
    /// smaller of --min-renew-interval and half the lifetime", and a token is asked for again only
    /// when it is due: `share` of its lifetime may be left at most, and a tenth by jitter. One that
    /// was given a second time is kept until it expires.
    pub fn succeeded(&mut self, client: Client, answer: Good) -> Result<(), Broken> {
        let excused = self.clients.get(&(client.0, client.1));
        let excused = excused.is_some_and(|excuse| excuse.until() > answer.sent);
        let ledger = self.ledgers.entry(client).or_default();
        ledger.refusals.clear();
        ledger.refused = false;
        let due = ledger.earliest.unwrap_or_default();
        let early = answer.sent < due && !excused;
        let left = answer.expiry - answer.now;
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
        let renewed =
            answer.sent + ((1.0 - answer.share - 0.1) * left as f64) as Micros - 2 * SECOND;
        // What comes too early is new to the operator: whoever knew of it was killed.
        let kept = !answer.news && !early && ledger.earliest.is_some();
        ledger.earliest = Some(if kept {
            answer.expiry - 2 * SECOND
        } else {
            renewed
        });
        if !early {
            return Ok(());
        }
        if ledger.credit > 0 {
            ledger.credit -= 1;
            return Ok(());
        }
        Err(Broken {
            at: answer.now,
            promise: "the instance is never asked more than it must be",
            seen: format!(
                "client {client:?} was asked for a token at {} s, {} s before its time",
                answer.sent / SECOND,
                (due - answer.sent) / SECOND
            ),
        })
    }

    /// "Refused credentials: at most 10 requests in the first hour for each client".
    pub fn refused(&mut self, client: Client, now: Micros) -> Result<(), Broken> {
        let ledger = self.ledgers.entry(client).or_default();
        ledger.refusals.push(now);
        ledger.refused = true;
        ledger.forgotten = false;
        ledger.refusals.retain(|at| now - at < HOUR);
        if ledger.credit > 0 && ledger.refusals.len() > 10 {
            ledger.credit -= 1;
            ledger.refusals.remove(0);
        }
        if ledger.refusals.len() <= 10 {
            return Ok(());
        }
        Err(Broken {
            at: now,
            promise: "refused credentials are asked about at most ten times in an hour",
            seen: format!(
                "client {client:?} was refused {} times",
                ledger.refusals.len()
            ),
        })
    }

    /// By the operator's clock more time has passed than a refusal is remembered for.
    pub fn forget_refusals(&mut self) {
        for ledger in self.ledgers.values_mut() {
            ledger.refusals.clear();
        }
    }

    /// The operator has learned that an instance is to be left alone for so long.
    pub fn leave_alone(&mut self, instance: usize, now: Micros, wait: Micros) {
        let until = (now + wait).max(self.alone.get(&instance).map_or(0, |(until, _)| *until));
        self.alone.insert(instance, (until, now));
    }

    /// An answer has ended that.
    pub fn answers_again(&mut self, instance: usize) {
        self.alone.remove(&instance);
    }

    /// "A 429 holds its whole origin as Retry-After says", and an outage is backed off.
    pub fn sent(&mut self, instance: usize, now: Micros) -> Result<(), Broken> {
        let Some((until, since)) = self.alone.get(&instance).copied() else {
            return Ok(());
        };
        if now >= until || now <= since {
            return Ok(());
        }
        let forced = self.forced.entry(instance).or_default();
        if *forced > 0 {
            *forced -= 1;
            return Ok(());
        }
        Err(Broken {
            at: now,
            promise: "an instance that is down or limits is left alone",
            seen: format!(
                "instance {instance} was asked {} ms before its time",
                (until - now) / 1000
            ),
        })
    }

    /// No hot loop: a resource is looked at a bounded number of times in a minute.
    pub fn looked_at(&mut self, resource: &Name, now: Micros) -> Result<(), Broken> {
        let (since, count) = match self.rounds.get_mut(resource) {
            Some(known) => known,
            None => self.rounds.entry(resource.clone()).or_default(),
        };
        if now - *since > MINUTE {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        if *count <= MOST_LOOKS {
            return Ok(());
        }
        Err(Broken {
            at: now,
            promise: "there is no hot loop",
            seen: format!("{resource} was looked at {count} times within a minute"),
        })
    }
}

/// A token of ten seconds at an instance that is probed every two seconds, with a write and two
/// events of a watch for each, stays far below.
const MOST_LOOKS: u32 = 150;
