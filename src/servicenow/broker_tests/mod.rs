//! The broker by tables, and under any interleaving of its calls.

mod holds;
mod interleavings;
mod refusals;
mod same_token;
mod sharing;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use zeroize::Zeroizing;

use super::{AccessToken, Ask, Broker, Exchange, Limits, SharingKey, TokenAnswer, Urgency};
use crate::{
    api::{ClientAuthentication, Instance, Reason},
    decide::{Failure, Name},
};

/// A moment, in milliseconds after the beginning.
fn ms(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_800_000_000_000 + millis).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    ms(seconds * 1000)
}

fn key_of(instance: &str, secret: &str) -> Arc<SharingKey> {
    Arc::new(SharingKey::client_credentials(
        &Instance::parse(instance).unwrap(),
        ClientAuthentication::Basic,
        Zeroizing::new("id".to_owned()),
        Zeroizing::new(secret.to_owned()),
        &[],
    ))
}

fn name(name: &str) -> Name {
    Name::new("ns", name)
}

fn broker(per_origin: usize) -> Broker {
    Broker::new(Limits {
        per_origin,
        min_interval: SignedDuration::from_secs(5),
    })
}

fn wish(who: &str) -> Ask {
    Ask {
        name: name(who),
        urgency: Urgency::New,
        known: None,
        not_before: None,
        good_before: false,
        failures: None,
        refusals: 0,
        forced: false,
    }
}

fn answer(token: &str, expires_in: Option<i64>) -> Result<TokenAnswer, Failure> {
    Ok(TokenAnswer {
        token: AccessToken::parse(token).unwrap(),
        expires_in,
        scope: String::new(),
    })
}

fn failure(reason: Reason) -> Result<TokenAnswer, Failure> {
    let refused = reason == Reason::AccessDenied;
    Err(Failure::new(reason, "It failed.").as_one_off(refused))
}

fn limited(retry_after: Option<i64>) -> Result<TokenAnswer, Failure> {
    let wait = retry_after.map(SignedDuration::from_secs);
    Err(Failure::new(Reason::RateLimited, "Too many.").with_retry_after(wait))
}

/// A broker, and one client of it in short words.
struct Desk {
    broker: Broker,
    key: Arc<SharingKey>,
}

impl Desk {
    fn new() -> Self {
        Self {
            broker: broker(4),
            key: key_of("dev1", "secret"),
        }
    }

    /// A desk whose client got this token at second 0, for half an hour.
    fn with(token: &str) -> Self {
        let mut desk = Self::new();
        assert_eq!(desk.ask_and(at(0), answer(token, Some(1800))), [name("a")]);
        desk
    }

    /// Asks, sends at once, and has the answer in at once.
    fn ask_and(&mut self, now: Timestamp, answer: Result<TokenAnswer, Failure>) -> Vec<Name> {
        self.broker.ask(&self.key, wish("a"), now);
        assert_eq!(self.broker.dispatch(now), std::slice::from_ref(&self.key));
        self.broker.complete(&self.key, now, answer, 0.0).woken
    }

    /// Sends what is queued, and has the answer in.
    fn send_and(&mut self, now: Timestamp, answer: Result<TokenAnswer, Failure>) -> Vec<Name> {
        assert_eq!(self.broker.dispatch(now), std::slice::from_ref(&self.key));
        self.broker.complete(&self.key, now, answer, 0.0).woken
    }

    fn exchange(&self) -> Exchange {
        self.broker.exchange(&self.key, &name("a"))
    }

    fn validity(&self) -> (i64, i64) {
        let validity = self.exchange().held.unwrap().validity;
        let second = |t: Timestamp| t.as_second() - at(0).as_second();
        (second(validity.issued_at), second(validity.expires_at))
    }

    fn wait(&self, now: Timestamp) -> i64 {
        let retry_at = self.exchange().failure.unwrap().retry_at;
        retry_at.duration_since(now).as_secs()
    }
}
