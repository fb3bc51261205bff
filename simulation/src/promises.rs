//! What is promised, each in one function with the sentence that it states, and what excuses the
//! operator for a while: an excuse ends as soon as the operator could have done what it promised.

use std::collections::BTreeMap;

use servicenow_credential_operator::{
    api::Reason,
    decide::{Class, Failure, Name},
};

use crate::{
    alone::Alone,
    bad_days::{CAUGHT_UP, NOTICED},
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
const LONGEST_LIFETIME: Micros = 12 * HOUR;
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
    /// Requests that something has given it, and when: a kill, a change, a person.
    credit: Vec<Micros>,
    /// When the last token that it brought is over.
    expiry: Option<Micros>,
    /// When the instance gave it.
    served: Option<Micros>,
    /// After answers that were not acceptable.
    alone: Option<Alone>,
    refusals: Vec<Micros>,
    /// Its last answer was one.
    refused: bool,
    /// Whoever was refused last was killed: the status of its resource alone tells of it.
    forgotten: bool,
    /// Its Secret was created anew since: that it holds the same is known to whoever has read both.
    replaced: bool,
    /// Whoever was given a token last was killed: another does not see that it is given again.
    unknown: bool,
}

/// More than this is never given.
const MOST_CREDIT: usize = 4;

impl Ledger {
    fn give(&mut self, now: Micros) {
        self.credit.push(now);
        // What lasts longest stays.
        self.credit.sort_unstable();
        let over = self.credit.len().saturating_sub(MOST_CREDIT);
        self.credit.drain(..over);
    }
}

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
    /// Instances that are to be left alone.
    alone: BTreeMap<usize, Alone>,
    /// Renewals that people have asked for, by instance: they go out in spite of that.
    forced: BTreeMap<usize, u32>,
    /// Requests of the living that have no answer yet, by instance.
    under_way: BTreeMap<usize, u32>,
    rounds: ByName<(Micros, u32)>,
    /// A watch is silent until then: what people do is not seen.
    pub blind_until: Micros,
    /// When a clock was last set: how far an expiry recorded before is away is not known since.
    pub clock_set_at: Option<Micros>,
}

impl Promises {
    /// Until when a resource is excused for holding a token that was over at `expiry`, or for holding
    /// none.
    pub fn excused_until(
        &self,
        resource: &Name,
        client: (usize, usize),
        expiry: Option<Micros>,
    ) -> Micros {
        let all = [
            Some(&self.everything),
            self.instances.get(&client.0),
            self.clients.get(&client),
            self.resources.get(resource),
        ];
        let all = all.into_iter().flatten();
        let distance = expiry.filter(|expiry| self.is_recorded_by_this_clock(*expiry));
        let until = all.map(|excuse| excuse.until_for(distance));
        until.max().unwrap_or(0)
    }

    /// What is on record of a token that is over then was told by the clock as it is now.
    pub fn is_recorded_by_this_clock(&self, expiry: Micros) -> bool {
        let set = self.clock_set_at;
        set.is_none_or(|at| expiry > at + LONGEST_LIFETIME)
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
    pub fn well(&mut self, now: Micros, until: Micros) {
        self.instances.clear();
        self.clients.clear();
        self.resources.clear();
        self.leave_nobody_alone();
        self.everything = Excuse::default();
        self.everything.extend(until);
        self.blind_until = 0;
        for ledger in self.ledgers.values_mut() {
            (0..MOST_CREDIT).for_each(|_| ledger.give(now));
        }
    }

    fn ledgers_of(&mut self, client: (usize, usize)) -> impl Iterator<Item = &mut Ledger> {
        let ledgers = self.ledgers.iter_mut();
        let ledgers = ledgers.filter(move |(of, _)| (of.0, of.1) == client);
        ledgers.map(|(_, ledger)| ledger)
    }

    /// One more request is due to this client: somebody has changed something.
    pub fn give(&mut self, client: (usize, usize), now: Micros) {
        for ledger in self.ledgers_of(client) {
            ledger.give(now);
        }
        // Whoever knew how often an instance failed may look elsewhere now.
        if let Some(alone) = self.alone.get_mut(&client.0) {
            alone.forget_count();
        }
    }

    /// A person asks for a renewal: one request goes out, whatever the instance said.
    pub fn force(&mut self, instance: usize) {
        let forced = self.forced.entry(instance).or_default();
        *forced = (*forced + 1).min(4);
    }

    /// A resource of this client is created. With the one that was there before it, the last of the
    /// client, all that told of its refusals may have gone.
    pub fn created(&mut self, client: (usize, usize), now: Micros) {
        self.give(client, now);
        for ledger in self.ledgers_of(client).filter(|ledger| ledger.forgotten) {
            ledger.refusals.clear();
        }
    }

    /// The Secret of this client is created anew.
    pub fn replaced(&mut self, client: (usize, usize)) {
        for ledger in self.ledgers_of(client) {
            ledger.replaced = true;
            if ledger.forgotten {
                ledger.refusals.clear();
            }
        }
    }

    /// An operator was killed: what it had in memory is gone, with the refusals of clients of which no
    /// status tells.
    pub fn died(&mut self, tells_of_refusal: impl Fn((usize, usize)) -> bool) {
        self.under_way.clear();
        self.alone.retain(|_, alone| alone.limited().is_some());
        for (client, ledger) in &mut self.ledgers {
            ledger.forgotten = true;
            ledger.unknown = true;
            ledger.alone = None;
            if ledger.replaced || !tells_of_refusal((client.0, client.1)) {
                ledger.refusals.clear();
            }
        }
    }

    /// One begins whom nothing tells of the rate limit of an instance.
    pub fn forget_limits(&mut self, is_told: impl Fn(usize, Micros) -> bool) {
        self.alone.retain(|instance, alone| {
            let until = alone.limited();
            until.is_some_and(|until| is_told(*instance, until))
        });
        // How often it failed is told by those alone who have met it.
        self.alone.values_mut().for_each(Alone::forget_count);
    }

    /// One more request is due to each client of an instance.
    pub fn give_instance(&mut self, instance: usize, now: Micros) {
        let ledgers = self.ledgers.iter_mut();
        for (_, ledger) in ledgers.filter(|(of, _)| of.0 == instance) {
            ledger.give(now);
        }
    }

    /// A client waits out a refusal.
    pub fn is_refused(&self, client: (usize, usize)) -> bool {
        let mut ledgers = self.ledgers.iter();
        ledgers.any(|(of, ledger)| (of.0, of.1) == client && ledger.refused)
    }

    /// The clock was set: what seems due is asked for, and what was waited for seems over.
    pub fn clock_set(&mut self, now: Micros) {
        for ledger in self.ledgers.values_mut() {
            // An expiry that is told by another clock looks moved, as long as the token lives.
            ledger.give(now + LONGEST_LIFETIME);
        }
        self.leave_nobody_alone();
    }

    fn leave_nobody_alone(&mut self) {
        self.alone.clear();
        for ledger in self.ledgers.values_mut() {
            ledger.alone = None;
        }
    }

    /// When the tokens are over that an instance gave last.
    pub fn expiries(&self, instance: usize) -> impl Iterator<Item = Micros> {
        let ledgers = self.ledgers.iter();
        let ledgers = ledgers.filter(move |(of, _)| of.0 == instance);
        ledgers.filter_map(|(_, ledger)| ledger.expiry)
    }

    /// A client has been given a token since then.
    pub fn is_served_since(&self, client: (usize, usize), at: Micros) -> bool {
        let (instance, number) = client;
        let secrets = (instance, number, 0)..=(instance, number, u32::MAX);
        let mut ledgers = self.ledgers.range(secrets).map(|(_, ledger)| ledger);
        ledgers.any(|ledger| ledger.served.is_some_and(|served| served > at))
    }

    /// "Answers that brought a new token or a moved expiry are never closer, for one key, than the
    /// smaller of --min-renew-interval and half the lifetime", and a token is asked for again only
    /// when it is due: `share` of its lifetime may be left at most, and a tenth by jitter. One that
    /// was given a second time is kept until it expires.
    pub fn succeeded(&mut self, client: Client, answer: Good) -> Result<(), Broken> {
        let excused = self.clients.get(&(client.0, client.1));
        let excused = excused.is_some_and(|excuse| excuse.until() > answer.sent);
        // Another margin is wanted, and that is not seen.
        let excused = excused || self.blind_until > answer.sent;
        // A request at an expiry that is told by a clock that was a little behind comes as much too
        // soon, and is followed by others.
        let behind = if self.is_recorded_by_this_clock(answer.expiry) {
            0
        } else {
            2 * SECOND
        };
        let ledger = self.ledgers.entry(client).or_default();
        ledger.refusals.clear();
        ledger.refused = false;
        ledger.expiry = Some(answer.expiry);
        ledger.served = Some(answer.now);
        let due = ledger.earliest.unwrap_or_default() - behind;
        let early = answer.sent < due && !excused;
        let left = answer.expiry - answer.now;
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
        let renewed =
            answer.sent + ((1.0 - answer.share - 0.1) * left as f64) as Micros - 2 * SECOND;
        // What comes too early is new to the operator: whoever knew of it was killed.
        let known = ledger.earliest.is_some() && !std::mem::take(&mut ledger.unknown);
        let kept = !answer.news && !early && known;
        ledger.earliest = Some(if kept {
            answer.expiry - 2 * SECOND
        } else {
            renewed
        });
        if !early {
            // What was given long before is not used any more: its cause has had its answer.
            let seen = self.blind_until.max(self.everything.until()) <= answer.sent;
            let over = answer.sent - NOTICED - CAUGHT_UP;
            ledger.credit.retain(|given| !seen || *given > over);
            return Ok(());
        }
        if !ledger.credit.is_empty() {
            ledger.credit.remove(0);
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
        ledger.replaced = false;
        ledger.refusals.retain(|at| now - at < HOUR);
        if !ledger.credit.is_empty() && ledger.refusals.len() > 10 {
            ledger.credit.remove(0);
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

    /// The operator has learned what came of a request. `nearest` is how far the nearest expiry is
    /// away.
    pub fn told(
        &mut self,
        client: Client,
        failure: Option<&Failure>,
        (sent, now): (Micros, Micros),
        nearest: Micros,
    ) {
        let instance = client.0;
        if let Some(under_way) = self.under_way.get_mut(&instance) {
            *under_way = under_way.saturating_sub(1);
        }
        let ledger = self.ledgers.entry(client).or_default();
        match failure {
            Some(failure) if failure.class().is_of_origin() => {
                let before = self.alone.get(&instance).copied();
                let alone = Alone::after(before, failure, sent, now, nearest);
                self.alone.insert(instance, alone);
                return;
            }
            Some(failure) if failure.class() == Class::Unacceptable => {
                let alone = Alone::after(ledger.alone, failure, sent, now, nearest);
                ledger.alone = Some(alone);
            }
            _ => ledger.alone = None,
        }
        // Who is not let in by TLS has not met the instance.
        let met = failure.is_none_or(|failure| failure.reason() != Reason::TlsFailed);
        let ended = |alone: &Alone| met && alone.is_ended_by(failure.is_none(), sent);
        if self.alone.get(&instance).is_some_and(ended) {
            self.alone.remove(&instance);
        }
    }

    /// Whether an instance, or what this client gets from it, is to be left alone.
    pub fn is_left_alone(&self, client: Client) -> bool {
        let ledger = self.ledgers.get(&client);
        self.alone.contains_key(&client.0) || ledger.is_some_and(|l| l.alone.is_some())
    }

    /// "A 429 holds its whole origin as Retry-After says", an outage and what is not acceptable are
    /// backed off, and there is "one probe at a time for each origin that is down".
    pub fn sent(&mut self, client: Client, now: Micros, nearest: Micros) -> Result<(), Broken> {
        let instance = client.0;
        // What befell it before its first answer counts, too, and what befell it with another secret.
        let before = self.ledgers.range(..client).next_back();
        let before = before.filter(|(of, _)| (of.0, of.1) == (client.0, client.1));
        let credit = before.map(|(_, ledger)| ledger.credit.clone());
        self.ledgers.entry(client).or_insert_with(|| Ledger {
            credit: credit.unwrap_or_default(),
            ..Ledger::default()
        });
        let under_way = self.under_way.entry(instance).or_default();
        *under_way += 1;
        let several = *under_way > 1;
        let of_instance = self.alone.get(&instance);
        let of_client = self.ledgers.get(&client).and_then(|l| l.alone.as_ref());
        let known = |alone: &&Alone| alone.since() < now && !alone.is_forgotten(now);
        let of_instance = of_instance.filter(known);
        let until = of_instance.into_iter().chain(of_client.filter(known));
        let until = until.map(|alone| alone.until(nearest) - SLACK).max();
        let too_many = several && of_instance.is_some();
        let too_early = until.is_some_and(|until| now < until);
        if !too_early && !too_many {
            return Ok(());
        }
        let forced = self.forced.entry(instance).or_default();
        if *forced > 0 {
            *forced -= 1;
            return Ok(());
        }
        let (promise, seen) = if too_early {
            let early = (until.unwrap_or(now) - now) / 1000;
            let seen = format!("client {client:?} asked {early} ms before its time");
            ("an instance that is down or limits is left alone", seen)
        } else {
            let seen = format!("client {client:?} asked while another did");
            ("an instance that is down is probed by one", seen)
        };
        Err(Broken {
            at: now,
            promise,
            seen,
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

/// Moments are kept in microseconds, and clocks tell them differently by that.
const SLACK: Micros = 1000;

/// A token of ten seconds at an instance that is probed every two seconds, with a write and two
/// events of a watch for each, stays far below.
const MOST_LOOKS: u32 = 150;
