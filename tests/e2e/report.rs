//! What came of it, in numbers.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::workload::Call;

/// The numbers, and what they must be.
pub(crate) struct Report {
    calls: usize,
    lived: f64,
    tokens: usize,
    worst_age: f64,
    lifetime: f64,
    least_left: f64,
    unauthorized: usize,
    others: Vec<String>,
    answered: BTreeMap<u64, usize>,
    times: Times,
}

/// What was measured on the way.
pub(crate) struct Times {
    /// A token's lifetime.
    pub(crate) token: Duration,
    /// From nothing to a cluster that takes pods: no time, where it is there.
    pub(crate) node_ready: Duration,
    /// From the resource to a token.
    pub(crate) to_ready: Duration,
    /// From the deletion of the operator's pod to its end.
    pub(crate) to_end: Duration,
}

impl Report {
    /// From the workload's own log and from the instance's.
    pub(crate) fn new(calls: &[Call], answered: &BTreeMap<u64, usize>, times: Times) -> Self {
        let lifetime = times.token.as_secs_f64();
        let least_left = calls.iter().filter_map(|call| call.remaining);
        let least_left = least_left.fold(f64::INFINITY, f64::min);
        let tokens: BTreeSet<&str> = calls.iter().filter_map(|c| c.token.as_deref()).collect();
        let lived = match (calls.first(), calls.last()) {
            (Some(first), Some(last)) => last.at.duration_since(first.at).as_secs_f64(),
            _ => 0.0,
        };
        let is_other = |call: &&Call| !matches!(call.status, Some(200 | 401));
        Self {
            calls: calls.len(),
            lived,
            tokens: tokens.len(),
            worst_age: lifetime - least_left,
            lifetime,
            least_left,
            unauthorized: calls.iter().filter(|call| call.status == Some(401)).count(),
            others: calls.iter().filter(is_other).map(Call::to_string).collect(),
            answered: answered.clone(),
            times,
        }
    }

    pub(crate) fn print(&self) {
        let line = |name: &str, value: String| println!("  {name:<52}{value:>12}");
        let seconds = |seconds: f64| format!("{seconds:.1} s");
        println!("\nend to end: a workload through upgrade, two deletions and a rescheduling");
        line(
            "calls of the Table API by the workload",
            self.calls.to_string(),
        );
        line("  over", seconds(self.lived));
        line("  with different tokens", self.tokens.to_string());
        line("answers 401", self.unauthorized.to_string());
        line(
            "answers neither 200 nor 401, or none",
            self.others.len().to_string(),
        );
        line(
            "answers 401, as the instance counts them",
            self.refused().to_string(),
        );
        line("a token's lifetime", seconds(self.lifetime));
        line("worst age of a token in use", seconds(self.worst_age));
        line("  so that was left", seconds(self.least_left));
        line(
            "from the resource to Ready",
            seconds(self.times.to_ready.as_secs_f64()),
        );
        line(
            "from the deletion of the operator's pod to its end",
            seconds(self.times.to_end.as_secs_f64()),
        );
        line(
            "from nothing to a cluster that takes pods",
            seconds(self.times.node_ready.as_secs_f64()),
        );
    }

    fn refused(&self) -> usize {
        self.answered.get(&401).copied().unwrap_or_default()
    }

    /// What this suite is for.
    pub(crate) fn hold(&self, lifetimes: u32) {
        assert_eq!(self.unauthorized, 0, "the workload saw 401");
        assert_eq!(self.refused(), 0, "the instance counted 401");
        assert!(self.others.is_empty(), "other answers: {:?}", self.others);
        let long = self.lifetime * f64::from(lifetimes);
        assert!(self.lived >= long, "{} s are not {long} s", self.lived);
        // A call a second, but for the time that the calls themselves took on a busy machine.
        let enough = self.lived * 0.8;
        assert!(
            self.calls as f64 >= enough,
            "{} calls are too few",
            self.calls
        );
        assert!(
            self.tokens as u32 >= lifetimes,
            "only {} tokens",
            self.tokens
        );
    }
}
