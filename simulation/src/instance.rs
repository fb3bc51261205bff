//! Instances: what they answer, by their own true time, in each token mode and on bad days.

use servicenow_credential_operator::{
    api::Reason,
    decide::Failure,
    servicenow::{AccessToken, TokenAnswer},
};

use crate::time::{Micros, SECOND, span};

/// What an instance answers to a client that has a valid token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The same token, whose expiry slides to a full lifetime.
    ReuseSlide,
    /// The same token, whose `expires_in` counts down in whole seconds.
    ReuseRemaining,
    /// A new token each time; the others stay valid until their own expiry.
    AlwaysNew,
}

/// What an instance has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// An error page, at once.
    Unavailable,
    /// No answer until the time-out.
    Hangs,
    /// The page of a developer instance that sleeps.
    Hibernates,
    /// 429, with or without a Retry-After in seconds.
    Limits(Option<i64>),
    /// Every client is refused.
    Refuses,
    /// What it answers cannot be understood.
    Garbles,
    /// Its certificate is not trusted.
    NotTrusted,
}

/// A client as an instance knows it.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The number of the secret that is accepted.
    pub accepted: u32,
    /// Lifetime of its tokens.
    pub lifetime: Micros,
    /// Refused once, whatever it sends.
    pub one_off: bool,
    current: Option<Token>,
    issued: u64,
}

#[derive(Clone, Copy, Debug)]
struct Token {
    number: u64,
    first_expiry: Micros,
    expires: Micros,
}

/// An instance and its clients.
#[derive(Clone, Debug)]
pub struct Instance {
    /// How it treats a client that has a token.
    pub mode: Mode,
    /// What it has come to.
    pub trouble: Option<Trouble>,
    /// Its clients, by number.
    pub clients: Vec<Registration>,
    index: usize,
}

/// A token as it stands in a Secret: by whom and to whom it was issued, and its first expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The instance.
    pub instance: usize,
    /// The client.
    pub client: usize,
    number: u64,
    expires: Micros,
}

impl Issued {
    /// Reads a token.
    pub fn read(token: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(token).ok()?;
        let mut numbers = text.split('.').map(str::parse::<i64>);
        let mut next = || numbers.next()?.ok();
        Some(Self {
            instance: usize::try_from(next()?).ok()?,
            client: usize::try_from(next()?).ok()?,
            number: u64::try_from(next()?).ok()?,
            expires: next()?,
        })
    }
}

/// What a request came to.
pub struct Answer {
    /// As the operator gets it.
    pub result: Result<TokenAnswer, Failure>,
    /// It brought a new token, or moved an expiry.
    pub news: bool,
    /// The operator waits for it until it gives up.
    pub hangs: bool,
}

impl Instance {
    /// An instance with these clients' lifetimes.
    pub fn new(index: usize, mode: Mode, lifetimes: impl Iterator<Item = Micros>) -> Self {
        let clients = lifetimes.map(|lifetime| Registration {
            accepted: 0,
            lifetime,
            one_off: false,
            current: None,
            issued: 0,
        });
        Self {
            mode,
            trouble: None,
            clients: clients.collect(),
            index,
        }
    }

    /// What a client was given last.
    pub fn current(&self, client: usize) -> Option<Issued> {
        let token = self.clients[client].current?;
        Some(Issued {
            instance: self.index,
            client,
            number: token.number,
            expires: token.first_expiry,
        })
    }

    /// When a token of this instance is over.
    pub fn expiry(&self, token: Issued) -> Micros {
        let current = self.clients[token.client].current;
        match current.filter(|current| current.number == token.number) {
            Some(current) => current.expires,
            None => token.expires,
        }
    }

    /// Answers one request.
    pub fn answer(&mut self, client: usize, secret: u32, now: Micros) -> Answer {
        let registration = &mut self.clients[client];
        let one_off = std::mem::take(&mut registration.one_off);
        if let Some(trouble) = self.trouble {
            return troubled(trouble);
        }
        if registration.accepted != secret || one_off {
            return troubled(Trouble::Refuses);
        }
        let valid = registration.current.filter(|token| token.expires > now);
        let expires = now + registration.lifetime;
        let (token, news) = match (valid, self.mode) {
            (Some(token), Mode::ReuseRemaining) => (token, false),
            (Some(token), Mode::ReuseSlide) => (Token { expires, ..token }, true),
            (Some(_), Mode::AlwaysNew) | (None, _) => {
                registration.issued += 1;
                let token = Token {
                    number: registration.issued,
                    first_expiry: expires,
                    expires,
                };
                (token, true)
            }
        };
        registration.current = Some(token);
        let text = format!(
            "{}.{client}.{}.{}",
            self.index, token.number, token.first_expiry
        );
        // Whole seconds, rounded down.
        let seconds = (token.expires - now) / SECOND;
        let answer = AccessToken::parse(&text).map(|token| TokenAnswer {
            token,
            expires_in: Some(seconds),
            scope: "useraccount".to_owned(),
        });
        Answer {
            result: answer.map_err(|_| failure(Reason::InternalError)),
            news,
            hangs: false,
        }
    }
}

fn failure(reason: Reason) -> Failure {
    Failure::new(reason, format!("the simulated instance came to {reason}"))
}

fn troubled(trouble: Trouble) -> Answer {
    let failure = match trouble {
        Trouble::Unavailable | Trouble::Hangs => failure(Reason::InstanceUnavailable),
        Trouble::Hibernates => failure(Reason::InstanceHibernating),
        Trouble::Limits(seconds) => failure(Reason::RateLimited)
            .with_retry_after(seconds.map(|seconds| span(seconds * SECOND))),
        Trouble::Refuses => failure(Reason::AccessDenied).as_one_off(true),
        Trouble::Garbles => failure(Reason::InvalidResponse),
        Trouble::NotTrusted => failure(Reason::TlsFailed),
    };
    Answer {
        result: Err(failure),
        news: false,
        hangs: trouble == Trouble::Hangs,
    }
}
