//! The broker under any interleaving of its calls.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*, test_runner::RngSeed};

use super::*;
use crate::decide::renewal::Validity;

/// One call of the broker.
#[derive(Clone, Debug)]
enum Call {
    Ask(u8, u8, bool),
    Dispatch,
    Complete(u8, u8),
    Leave(u8),
    Pass(u16),
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let call = prop_oneof![
        4 => (0u8..6, 0u8..8, any::<bool>()).prop_map(|(k, n, f)| Call::Ask(k, n, f)),
        4 => Just(Call::Dispatch),
        4 => (any::<u8>(), 0u8..8).prop_map(|(which, answer)| Call::Complete(which, answer)),
        1 => (0u8..8).prop_map(Call::Leave),
        2 => (0u16..2000).prop_map(Call::Pass),
    ];
    vec(call, 0..120)
}

/// The broker under any interleaving, and what is checked of it.
struct Trial {
    broker: Broker,
    keys: Vec<Arc<SharingKey>>,
    now: Timestamp,
    under_way: Vec<(Arc<SharingKey>, Timestamp)>,
    waiting: BTreeSet<(usize, Name)>,
    news: BTreeMap<usize, (String, Validity)>,
    tokens: u32,
}

impl Trial {
    fn new() -> Self {
        let keys = ["a", "b", "c", "d"].map(|secret| key_of("dev1", secret));
        let others = ["a", "b"].map(|secret| key_of("dev2", secret));
        Self {
            broker: broker(2),
            keys: keys.into_iter().chain(others).collect(),
            now: at(0),
            under_way: Vec::new(),
            waiting: BTreeSet::new(),
            news: BTreeMap::new(),
            tokens: 0,
        }
    }

    /// Asks as `decide` does: not before the least interval is over.
    fn ask(&mut self, key: usize, who: Name, forced: bool) {
        let exchange = self.broker.exchange(&self.keys[key], &who);
        if exchange.not_before.is_some_and(|at| at > self.now) {
            return;
        }
        let ask = Ask {
            name: who.clone(),
            forced,
            ..wish("")
        };
        self.broker.ask(&self.keys[key], ask, self.now);
        self.waiting.insert((key, who));
    }

    fn dispatch(&mut self) {
        for key in self.broker.dispatch(self.now) {
            self.under_way.push((key, self.now));
        }
        for origin in [
            "https://dev1.service-now.com",
            "https://dev2.service-now.com",
        ] {
            let count = self
                .under_way
                .iter()
                .filter(|(k, _)| k.origin() == origin)
                .count();
            assert!(count <= 2, "{count} requests under way at {origin}");
        }
        let distinct: BTreeSet<_> = self.under_way.iter().map(|(k, _)| Arc::as_ptr(k)).collect();
        assert_eq!(
            distinct.len(),
            self.under_way.len(),
            "one request for each key"
        );
    }

    fn complete(&mut self, which: usize, kind: u8) {
        let (key, _) = self.under_way.remove(which);
        let index = self.keys.iter().position(|k| *k == key).unwrap();
        let old = self.news.get(&index).map(|(token, _)| token.clone());
        let answer = match (kind, old) {
            (0, _) => failure(Reason::InstanceUnavailable),
            (1, _) => limited(Some(3)),
            (2, _) => failure(Reason::AccessDenied),
            (3, _) => failure(Reason::InvalidResponse),
            (4, Some(old)) => answer(&old, Some(1)),
            _ => {
                self.tokens += 1;
                answer(&format!("t{}", self.tokens), Some(30))
            }
        };
        let answered = self.broker.complete(&key, self.now, answer, 0.5);
        for name in answered.woken {
            self.waiting.retain(|(k, who)| {
                *who != name || self.broker.exchange(&self.keys[*k], who).asked_at.is_some()
            });
        }
        self.check_the_interval(index);
    }

    /// Answers that brought something new are never closer than the least interval.
    fn check_the_interval(&mut self, index: usize) {
        let held = self.broker.exchange(&self.keys[index], &name("")).held;
        let Some(held) = held else { return };
        let news = (held.token.expose().to_owned(), held.validity);
        let before = self.news.insert(index, news.clone());
        if let Some((token, validity)) = before
            && (token != news.0 || validity.expires_at < news.1.expires_at)
        {
            let apart = news.1.issued_at.duration_since(validity.issued_at);
            let least = SignedDuration::from_secs(5).min(validity.lifetime() / 2);
            assert!(apart >= least, "{apart:?} apart");
        }
    }

    fn run(&mut self, call: Call) {
        match call {
            Call::Ask(key, who, forced) => {
                self.ask(key.into(), name(&format!("r{who}")), forced);
            }
            Call::Dispatch => self.dispatch(),
            Call::Complete(which, answer) if !self.under_way.is_empty() => {
                self.complete(usize::from(which) % self.under_way.len(), answer);
            }
            Call::Leave(who) => {
                let who = name(&format!("r{who}"));
                self.broker.leave(&who);
                self.waiting.retain(|(_, other)| *other != who);
            }
            Call::Pass(millis) => self.now += SignedDuration::from_millis(millis.into()),
            Call::Complete(..) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn under_any_interleaving_limits_hold_and_nobody_who_waits_is_lost(calls in calls()) {
        let mut trial = Trial::new();
        for call in calls {
            trial.run(call);
        }
        // Everything that is or can be sent is answered in the end.
        for _ in 0..200 {
            trial.dispatch();
            while !trial.under_way.is_empty() {
                trial.complete(0, 7);
            }
            match trial.broker.next_dispatch(trial.now) {
                Some(next) => trial.now = next,
                None if trial.waiting.is_empty() => break,
                None => {}
            }
        }
        prop_assert_eq!(trial.waiting, BTreeSet::new());
    }
}
