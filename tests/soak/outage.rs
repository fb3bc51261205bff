//! What was down, for whom and how long, and what that is an excuse for. No I/O.

use jiff::{SignedDuration, Timestamp};

/// How long after the end of what was down a Secret may still wait to be renewed, at most: an outage
/// that nears an expiry is probed every two seconds, then the whole fleet is due at once.
const RECOVERY: SignedDuration = SignedDuration::from_secs(5);
/// And no longer than it was down, and this.
const NOTICED: SignedDuration = SignedDuration::from_secs(2);
/// A renewal is due with three seconds left or more. What begins with less left than this came too
/// late to be what prevented it.
const STILL_LEFT: SignedDuration = SignedDuration::from_secs(1);

/// Who could not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    Everybody,
    /// Whoever asks this instance.
    Instance(usize),
    /// One member alone.
    Member(String),
}

impl Whom {
    pub(crate) fn concerns(&self, member: &str, instance: usize) -> bool {
        match self {
            Self::Everybody => true,
            Self::Instance(one) => *one == instance,
            Self::Member(one) => one == member,
        }
    }
}

/// When an operator may ask again after a good answer because of what was down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AskedAgain {
    /// At once: the answer may have been lost.
    AtOnce,
    /// When the answer, which is in hand and cannot be written, is due itself.
    WhenDue,
    /// Never.
    Never,
}

/// A time in which somebody could not work.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) what: String,
    pub(crate) whom: Whom,
    /// Each client waits it out alone, and not the whole origin.
    pub(crate) by_client: bool,
    pub(crate) asked_again: AskedAgain,
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
}

impl Window {
    fn lasted(&self) -> SignedDuration {
        self.to.duration_since(self.from)
    }

    pub(crate) fn touches(&self, from: Timestamp, to: Timestamp) -> bool {
        self.from <= to && from <= self.to
    }
}

/// Windows of which each began before the one before was recovered from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outage {
    from: Timestamp,
    /// When the last thing was back.
    pub(crate) to: Timestamp,
    /// Until when it may still be the cause of an expired token.
    recovered: Timestamp,
}

impl Outage {
    /// The outages that these windows make.
    pub(crate) fn of<'a>(windows: impl IntoIterator<Item = &'a Window>) -> Vec<Self> {
        let mut windows: Vec<_> = windows.into_iter().collect();
        windows.sort_by_key(|window| window.from);
        let mut outages: Vec<Self> = Vec::new();
        for window in windows {
            let last = outages.last_mut();
            match last.filter(|last| window.from <= last.recovered) {
                Some(last) => last.go_on(window),
                None => outages.push(Self::begun(window)),
            }
        }
        outages
    }

    fn begun(window: &Window) -> Self {
        let mut outage = Self {
            from: window.from,
            to: window.from,
            recovered: window.from,
        };
        outage.go_on(window);
        outage
    }

    /// What was left to do when the next thing failed is to be done after it.
    fn go_on(&mut self, window: &Window) {
        let behind = self.recovered.duration_since(window.from);
        let recovery = RECOVERY.min(behind + window.lasted() + NOTICED);
        self.to = self.to.max(window.to);
        self.recovered = self.recovered.max(window.to + recovery);
    }

    /// Whether a token that expired then, and was not replaced until `to`, was out of reach from when
    /// it should have been renewed until it was: all of the time then left, and longer.
    pub(crate) fn excuses(&self, expired: Timestamp, to: Timestamp) -> bool {
        self.from <= expired - STILL_LEFT && to <= self.recovered
    }
}
